//! Loading with a progress bar.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use engine::model::LoadProgress;
use engine::{Device, Model};
use indicatif::ProgressBar;

use crate::options::ModelArgs;
use crate::{interrupt, terminal};

const OPENING: &str = "opening the checkpoint, {elapsed}";
const CHECKING: &str = "reading  [{wide_bar}] {binary_bytes}/{binary_total_bytes}, {msg}, \
                        {binary_bytes_per_sec}, {eta} left";
const PLACING: &str = "placing  [{wide_bar}] layer {pos} of {len}";

/// The bar of a load under way.
pub struct LoadBar {
    bar: ProgressBar,
    template: &'static str,
}

impl LoadBar {
    /// A bar for a load that begins.
    pub fn new() -> Self {
        Self {
            bar: terminal::bar(0, OPENING),
            template: OPENING,
        }
    }

    /// Shows how far it has come.
    pub fn show(&mut self, progress: LoadProgress) {
        match progress {
            LoadProgress::Checking(at) => {
                self.stage(CHECKING, at.bytes_total);
                let tensors = format!("tensor {} of {}", at.tensors_done, at.tensors_total);
                self.bar.set_message(tensors);
                self.bar.set_position(at.bytes_done);
            }
            LoadProgress::Placing {
                layers_done,
                layers_total,
            } => {
                self.stage(PLACING, layers_total as u64);
                self.bar.set_position(layers_done as u64);
            }
        }
    }

    fn stage(&mut self, template: &'static str, length: u64) {
        if self.template != template {
            self.template = template;
            self.bar.set_style(terminal::style(template));
        }
        self.bar.set_length(length);
    }
}

impl Drop for LoadBar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Loads the model; `None` if Ctrl-C broke it off.
///
/// # Errors
/// No such device, or a checkpoint that is not as it should be.
pub fn model(arguments: &ModelArgs) -> anyhow::Result<Option<Arc<Model>>> {
    let source = arguments.source()?;
    let device = Device::open(arguments.device.as_deref())?;
    let started = Instant::now();
    let mut bar = LoadBar::new();
    let options = arguments.load_options();
    let model = Model::load_from(&source, &device, options, &mut |progress| {
        bar.show(progress);
        if interrupt::requested() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })?;
    drop(bar);
    if let Some(model) = &model {
        terminal::note(format_args!(
            "{} on {} ({}), {} of weights, loaded in {}",
            source,
            device.info.id,
            device.info.name,
            terminal::bytes(model.resident_bytes() as u64),
            terminal::seconds(started.elapsed()),
        ));
        tell(model.notes());
    }
    Ok(model.map(Arc::new))
}

/// What of a checkpoint is not used.
pub fn tell(notes: &[String]) {
    for note in notes {
        terminal::note(format_args!("note: {note}"));
    }
}
