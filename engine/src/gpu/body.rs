//! The GPU's side of the seam: spans to passes, caches and rows in the forms that others hold.

use std::ops::Range;

use shaders::copy_words;

use super::caches::{KeyBuffer, LayerCache, new_caches};
use super::forward::GpuModel;
use super::launch::Gpu;
use super::rows::GpuRows;
use super::step::GpuPass;
use crate::Result;
use crate::cache::{CacheBytes, CacheFormat, Layers};
use crate::config::Config;
use crate::model::{Body, Output, OutputBody, OutputRows, Span};
use crate::pass::Pass;
use crate::rope::Angles;
use crate::sampler::{DeviceDraw, Picked};

impl Layers for Vec<LayerCache> {
    fn truncate(&mut self, n_tokens: usize) {
        for layer in self {
            layer.latent.truncate(n_tokens);
            if let Some(keys) = &mut layer.keys {
                keys.truncate(n_tokens);
            }
        }
    }

    fn bytes(&self) -> CacheBytes {
        let bytes = |layer: &LayerCache| CacheBytes {
            latents: layer.latent.bytes(),
            keys: layer.keys.as_ref().map_or(0, KeyBuffer::bytes),
        };
        self.iter().map(bytes).sum()
    }

    fn most_tokens(&self) -> usize {
        let keys = |layer: &LayerCache| layer.keys.as_ref().map(KeyBuffer::most_tokens);
        let latents = |layer: &LayerCache| Some(layer.latent.most_tokens());
        let most = self.iter().flat_map(|layer| [latents(layer), keys(layer)]);
        most.flatten().min().unwrap_or(usize::MAX)
    }

    fn check(&self, n_tokens: usize) -> Result<()> {
        for layer in self {
            layer.latent.check(n_tokens)?;
            if let Some(keys) = &layer.keys {
                keys.check(n_tokens)?;
            }
        }
        Ok(())
    }

    fn fork(&self) -> Result<Box<dyn Layers>> {
        let fork = |layer: &LayerCache| {
            Ok(LayerCache {
                latent: layer.latent.fork()?,
                keys: layer.keys.as_ref().map(KeyBuffer::fork).transpose()?,
            })
        };
        let all: Result<Vec<_>> = self.iter().map(fork).collect();
        Ok(Box::new(all?))
    }
}

impl Body for GpuModel {
    fn new_cache(
        &self,
        config: &Config,
        layers: Range<usize>,
        format: CacheFormat,
    ) -> Result<Box<dyn Layers>> {
        Ok(Box::new(new_caches(self.gpu(), config, layers, format)?))
    }

    fn forward(&self, config: &Config, spans: &mut [Span]) -> Result<Vec<Output>> {
        // One after the other: their order on the device is their order here.
        let one = |span: &mut Span| {
            let (ids, logit_rows) = (span.ids, span.logit_rows);
            let (pass, caches) = span.begin::<Vec<LayerCache>>(config)?;
            let angles = self.angles(&pass);
            let mut pass = gpu_pass(pass, &angles);
            counted(self.gpu(), &mut pass, |pass| {
                GpuModel::forward(self, ids, caches, logit_rows, pass)
            })
        };
        spans.iter_mut().map(one).collect()
    }

    fn forward_mtp(
        &self,
        config: &Config,
        hidden: &OutputRows,
        span: &mut Span,
    ) -> Result<Option<OutputRows>> {
        let (ids, logit_rows) = (span.ids, span.logit_rows);
        let (rows, first) = hidden.of::<GpuRows>()?;
        let rows = self.rows_from(rows, first, ids.len())?;
        let (pass, caches) = span.begin::<Vec<LayerCache>>(config)?;
        let angles = self.angles(&pass);
        let mut pass = gpu_pass(pass, &angles);
        counted(self.gpu(), &mut pass, |pass| {
            GpuModel::forward_mtp(self, &rows, ids, &mut caches[0], logit_rows, pass)
        })
    }

    fn has_mtp(&self) -> bool {
        GpuModel::has_mtp(self)
    }

    fn resident_bytes(&self) -> usize {
        GpuModel::resident_bytes(self)
    }

    fn gpu(&self) -> Option<&Gpu> {
        Some(GpuModel::gpu(self))
    }
}

impl GpuModel {
    fn angles(&self, pass: &Pass) -> Angles {
        self.rope.angles(pass.position..pass.context())
    }

    /// Rows `first..first + n` at the beginning of a buffer, where kernels begin to read.
    fn rows_from(&self, rows: &GpuRows, first: usize, n: usize) -> Result<GpuRows> {
        if first == 0 {
            return Ok(rows.clone());
        }
        let (gpu, width) = (GpuModel::gpu(self), rows.shape()[1]);
        let part = gpu.empty(n * width);
        let call = copy_words::Call {
            n: n * width,
            from_offset: first * width,
            to_offset: 0,
        };
        let dispatch = copy_words::dispatch(&call, gpu.tuning());
        gpu.launch(dispatch, &[rows.buffer(), &part])?;
        Ok(rows.with_buffer(part, n))
    }
}

/// Does `work`, and tells its trace what was launched if that asks for timings.
fn counted<R>(
    gpu: &Gpu,
    pass: &mut GpuPass,
    work: impl FnOnce(&mut GpuPass) -> Result<R>,
) -> Result<R> {
    if !pass.trace.times() {
        return work(pass);
    }
    let (result, launches) = gpu.profiler().during(|| work(pass));
    pass.trace.launched(&launches);
    result
}

fn gpu_pass<'a>(pass: Pass<'a>, angles: &'a Angles) -> GpuPass<'a> {
    GpuPass {
        config: pass.config,
        options: pass.options,
        position: pass.position,
        angles,
        records: pass.records,
        trace: pass.trace,
    }
}

impl OutputBody for GpuRows {
    fn shape(&self) -> [usize; 2] {
        [self.n_rows(), self.width()]
    }

    fn read(&self, first: usize, n: usize) -> Result<Vec<f32>> {
        GpuRows::read(self, first, n)
    }

    fn pick(&self, row: usize, draw: &DeviceDraw, position: usize) -> Option<Result<Picked>> {
        Some(GpuRows::pick(self, row, draw, position))
    }
}
