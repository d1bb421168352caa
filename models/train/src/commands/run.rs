//! `run`: runs a recipe, or goes on with it.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use burn::tensor::{Device, DeviceKind};
use indicatif::{ProgressBar, ProgressStyle};
use train::recipe::Recipe;
use train::run::{Run, RunOptions};

/// A device's name and how it is opened.
type NamedDevice = (&'static str, fn() -> Device);

/// Where training can run, by name.
const DEVICES: &[NamedDevice] = &[
    ("flex", Device::flex),
    ("wgpu", || Device::wgpu(DeviceKind::DefaultDevice)),
    ("wgpu-cpu", || Device::wgpu(DeviceKind::Cpu)),
];

/// Run a recipe, or go on with the run in the folder. Ctrl-C saves and stops.
#[derive(clap::Args)]
pub struct Arguments {
    /// The recipe, a TOML file.
    recipe: PathBuf,
    /// Folder of the run: state, log, curves.
    #[arg(long, default_value = "target/train")]
    out: PathBuf,
    /// Folder of real texts; kinds that need one are an error without it.
    #[arg(long, env = "SPARSIGHT_DATA")]
    texts: Option<PathBuf>,
    /// Leave kinds of real text out of every mixture. That makes another model.
    #[arg(long, conflicts_with = "texts")]
    without_texts: bool,
    /// Where to compute: flex (Burn's CPU backend), wgpu (the best adapter), wgpu-cpu (software).
    #[arg(long, default_value = "flex", value_parser = device)]
    device: fn() -> Device,
    /// Threads; as many as there are cores if not given.
    #[arg(long)]
    threads: Option<usize>,
    /// Steps between two saved states.
    #[arg(long, default_value_t = 50)]
    save_every: usize,
    /// Steps between two measurements on held-out text.
    #[arg(long, default_value_t = 50)]
    validate_every: usize,
    /// Micro-batches of such a measurement.
    #[arg(long, default_value_t = 2)]
    validation_batches: usize,
    /// Stop after this many steps.
    #[arg(long)]
    steps: Option<usize>,
}

fn device(name: &str) -> Result<fn() -> Device, String> {
    let found = DEVICES.iter().find(|(known, _)| *known == name);
    let names: Vec<_> = DEVICES.iter().map(|(name, _)| *name).collect();
    found
        .map(|(_, open)| *open)
        .ok_or_else(|| format!("found no such device, expected {}", names.join(", ")))
}

pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    if let Some(n) = arguments.threads {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n);
        pool.build_global().context("threads cannot be started")?;
    }
    let mut recipe = Recipe::open(&arguments.recipe)?;
    if arguments.without_texts {
        let dropped = recipe.drop_real_texts();
        println!(
            "without real texts: {} left out, which makes another model than the shipped one",
            dropped.join(", ")
        );
    }
    let texts = arguments.texts.filter(|_| !arguments.without_texts);
    let options = RunOptions {
        folder: arguments.out,
        texts,
        device: (arguments.device)(),
        save_every: arguments.save_every,
        validate_every: arguments.validate_every,
        validation_batches: arguments.validation_batches,
    };
    go(Run::open(recipe, options)?, arguments.steps)
}

fn go(mut run: Run, steps: Option<usize>) -> anyhow::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let asked = stop.clone();
    ctrlc::set_handler(move || asked.store(true, Ordering::SeqCst))
        .context("Ctrl-C cannot be caught")?;
    let stages = &run.recipe().stages;
    let total: usize = stages.iter().map(|stage| stage.steps).sum();
    let before = stages.iter().take(run.progress().stage);
    let done: usize = before.map(|stage| stage.steps).sum();
    let bar = ProgressBar::new(total as u64).with_style(
        ProgressStyle::with_template("[{wide_bar}] {pos}/{len} {msg}, {eta} left")
            .expect("the template is fixed"),
    );
    bar.set_position((done + run.progress().step) as u64);
    bar.reset_eta();
    let mut taken = 0;
    let result = run.run(&mut |stage, record| {
        taken += 1;
        bar.inc(1);
        let loss = record
            .loss
            .map_or(String::new(), |loss| format!(" loss {loss:.3}"));
        bar.set_message(format!(
            "{}{loss}, {:.0} tokens/s",
            stage.name, record.tokens_per_second
        ));
        if let Some(loss) = record.validation_loss {
            bar.println(format!(
                "{} step {}: held-out loss {loss:.4}, {} tokens, {:.0} s",
                stage.name, record.step, record.n_tokens, record.seconds
            ));
        }
        if stop.load(Ordering::SeqCst) || steps.is_some_and(|steps| taken >= steps) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    bar.abandon();
    Ok(result?)
}
