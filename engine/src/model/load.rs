//! From the files of a checkpoint to a [`Model`].

use std::ops::ControlFlow;
use std::path::Path;

use super::{Body, Model};
use crate::Result;
use crate::checkpoint::{Checkpoint, Progress};
use crate::config::Config;
use crate::definition::PortableModel;
use crate::device::{Device, Place};
use crate::gpu::{GpuModel, WeightSource};
use crate::host::HostModel;
use crate::source::{Embedded, Source};

/// How to load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadOptions {
    /// Read every weight once and refuse NaN and infinity. Also warms the page cache.
    pub check_values: bool,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { check_values: true }
    }
}

/// How far loading has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadProgress {
    /// Weights are being read and checked.
    Checking(Progress),
    /// Layers are being placed on the device.
    Placing {
        /// Layers done.
        layers_done: usize,
        /// Layers in all.
        layers_total: usize,
    },
}

impl Model {
    /// Opens the checkpoint folder and loads it onto `device`. `progress` may break off; then the
    /// result is `None`.
    ///
    /// # Errors
    /// A config, file, tensor or weight that is not as it should be; all tensor misfits at once.
    pub fn load(
        folder: &Path,
        device: &Device,
        options: LoadOptions,
        progress: &mut dyn FnMut(LoadProgress) -> ControlFlow<()>,
    ) -> Result<Option<Self>> {
        Self::load_from(&folder.into(), device, options, progress)
    }

    /// As [`Model::load`], of a model in the program: no file is read.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn load_embedded(
        files: &'static Embedded,
        device: &Device,
        options: LoadOptions,
        progress: &mut dyn FnMut(LoadProgress) -> ControlFlow<()>,
    ) -> Result<Option<Self>> {
        Self::load_from(&Source::Embedded(files), device, options, progress)
    }

    /// As [`Model::load`], from wherever the files are.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn load_from(
        source: &Source,
        device: &Device,
        options: LoadOptions,
        progress: &mut dyn FnMut(LoadProgress) -> ControlFlow<()>,
    ) -> Result<Option<Self>> {
        let config = source.config()?;
        let checkpoint = source.checkpoint()?;
        let eos_token_ids = source.eos_token_ids(&config)?;
        Self::from_checkpoint(config, checkpoint, eos_token_ids, device, options, progress)
    }

    /// Loads without looking at progress.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn open(folder: &Path, device: &Device) -> Result<Self> {
        let loaded = Self::load(folder, device, LoadOptions::default(), &mut |_| {
            ControlFlow::Continue(())
        })?;
        Ok(loaded.expect("nobody broke off"))
    }

    fn from_checkpoint(
        config: Config,
        mut checkpoint: Checkpoint,
        eos_token_ids: Vec<u32>,
        device: &Device,
        options: LoadOptions,
        progress: &mut dyn FnMut(LoadProgress) -> ControlFlow<()>,
    ) -> Result<Option<Self>> {
        let notes = checkpoint.fit(&config)?;
        if options.check_values {
            let done = checkpoint.check_finite(&mut |at| progress(LoadProgress::Checking(at)))?;
            if !done {
                return Ok(None);
            }
        }
        let n = config.num_hidden_layers;
        let with_mtp = checkpoint.has_mtp(&config);
        let layers_total = n + usize::from(with_mtp);
        let mut place = |layers_done: usize| {
            let at = LoadProgress::Placing {
                layers_done,
                layers_total,
            };
            progress(at).is_continue()
        };
        let body: Option<Box<dyn Body>> = match &device.place {
            Place::Gpu { gpu } => {
                let source = WeightSource::Checkpoint(&checkpoint);
                boxed(GpuModel::load(
                    gpu.clone(),
                    &source,
                    &config,
                    with_mtp,
                    &mut place,
                )?)
            }
            Place::Host => boxed(HostModel::load(&checkpoint, &config, with_mtp, &mut place)?),
            Place::Burn { device: on, dtype } => {
                let most = device.info.max_binding_bytes.unwrap_or(u64::MAX) as usize;
                let kind = (on, *dtype);
                boxed(PortableModel::load(
                    &checkpoint,
                    &config,
                    with_mtp,
                    kind,
                    most,
                    &mut place,
                )?)
            }
        };
        let Some(body) = body else {
            return Ok(None);
        };
        let model = Self {
            body,
            device: device.clone(),
            eos_token_ids,
            notes,
            config,
        };
        if progress(LoadProgress::Placing {
            layers_done: layers_total,
            layers_total,
        })
        .is_break()
        {
            return Ok(None);
        }
        Ok(Some(model))
    }
}

fn boxed(body: Option<impl Body + 'static>) -> Option<Box<dyn Body>> {
    body.map(|body| Box::new(body) as Box<dyn Body>)
}
