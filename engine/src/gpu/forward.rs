//! The order of kernels: embedding, blocks, final norm, head.
//!
//! One residual stream `x`; what a block adds to it is kept apart as `delta` until the next norm adds
//! it in the same launch.

use shaders::embed;

use super::caches::LayerCache;
use super::launch::{Buffer, Gpu};
use super::layer::{FeedForward, Layer};
use super::rows::GpuRows;
use super::sizes::check_sizes;
use super::step::{Columns, GpuPass, Step};
use super::watch::Rows;
use super::weights::{Packed, WeightSource, upload_floats};
use crate::Result;
use crate::config::Config;
use crate::model::{Output, OutputRows};
use crate::pass::{LogitRows, WORKSPACE_BYTES};
use crate::rope::Rope;
use crate::trace::Stage;

/// A model on a wgpu device.
#[derive(Debug)]
pub(crate) struct GpuModel {
    pub(super) gpu: Gpu,
    embed_tokens: Packed,
    layers: Vec<Layer>,
    norm: Buffer,
    lm_head: Packed,
    mtp: Option<GpuMtp>,
    pub(super) rope: Rope,
}

#[derive(Debug)]
struct GpuMtp {
    enorm: Buffer,
    hnorm: Buffer,
    eh_proj: Packed,
    layer: Layer,
    shared_head_norm: Buffer,
}

impl GpuModel {
    /// Places a model. `progress(layer)` is called before each layer and may break off with `false`.
    pub(crate) fn load(
        gpu: Gpu,
        source: &WeightSource,
        config: &Config,
        with_mtp: bool,
        progress: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Option<Self>> {
        check_sizes(config)?;
        let n = config.num_hidden_layers;
        let vector =
            |name: &str| -> Result<Buffer> { Ok(upload_floats(&gpu, &source.vector(name)?)) };
        let mut layers = Vec::with_capacity(n);
        for layer in 0..n {
            if !progress(layer) {
                return Ok(None);
            }
            layers.push(Layer::load(&gpu, source, config, layer)?);
        }
        let mtp = if with_mtp {
            if !progress(n) {
                return Ok(None);
            }
            let prefix = format!("model.layers.{n}");
            Some(GpuMtp {
                enorm: vector(&format!("{prefix}.enorm.weight"))?,
                hnorm: vector(&format!("{prefix}.hnorm.weight"))?,
                eh_proj: Packed::new(&gpu, &source.matrix(&format!("{prefix}.eh_proj.weight"))?)?,
                layer: Layer::load(&gpu, source, config, n)?,
                shared_head_norm: vector(&format!("{prefix}.shared_head.norm.weight"))?,
            })
        } else {
            None
        };
        let head = if config.tie_word_embeddings {
            "model.embed_tokens.weight"
        } else {
            "lm_head.weight"
        };
        Ok(Some(Self {
            embed_tokens: Packed::new(&gpu, &source.matrix("model.embed_tokens.weight")?)?,
            layers,
            norm: vector("model.norm.weight")?,
            lm_head: Packed::new(&gpu, &source.matrix(head)?)?,
            mtp,
            rope: Rope::new(config),
            gpu,
        }))
    }

    pub(crate) fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    pub(crate) fn has_mtp(&self) -> bool {
        self.mtp.is_some()
    }

    pub(crate) fn resident_bytes(&self) -> usize {
        self.embed_tokens.resident_bytes()
            + self.layers.iter().map(Layer::resident_bytes).sum::<usize>()
            + self.lm_head.resident_bytes()
            + self.mtp.as_ref().map_or(0, |mtp| {
                mtp.eh_proj.resident_bytes() + mtp.layer.resident_bytes()
            })
    }

    /// Runs `ids` through the main layers.
    pub(super) fn forward(
        &self,
        ids: &[u32],
        caches: &mut [LayerCache],
        logit_rows: LogitRows,
        pass: &mut GpuPass,
    ) -> Result<Output> {
        let config = pass.config;
        let (n, width) = (ids.len(), config.hidden_size);
        let profiler = self.gpu.profiler();
        profiler.enter_layer(None);
        let mut step = Step::new(&self.gpu, n, pass);
        let x = self.embed(ids, width)?;
        let mut delta = None;
        for (layer, cache) in self.layers.iter().zip(caches) {
            profiler.enter_layer(Some(layer.index));
            delta = step.layer(layer, &x, delta, cache, pass)?;
        }
        profiler.enter_layer(None);
        let hidden = self.normed(&x, delta.as_ref(), &self.norm, &step, config)?;
        let rows = Rows {
            buffer: hidden.buffer(),
            rows: 0..n,
            stride: width,
        };
        let stage = Stage::FinalHidden;
        step.kept.keep(pass.trace, None, stage, rows, &[width])?;
        let logits = self.logits(&hidden, logit_rows, step, pass)?;
        Ok(Output {
            hidden: OutputRows::new(hidden),
            logits,
        })
    }

    /// Runs the MTP layer: `hidden` `[tokens, hidden_size]`, `next_ids` the token after each.
    pub(super) fn forward_mtp(
        &self,
        hidden: &GpuRows,
        next_ids: &[u32],
        cache: &mut LayerCache,
        logit_rows: LogitRows,
        pass: &mut GpuPass,
    ) -> Result<Option<OutputRows>> {
        let mtp = self.mtp.as_ref().expect("the caller found an MTP layer");
        let config = pass.config;
        let (n, width) = (next_ids.len(), config.hidden_size);
        let profiler = self.gpu.profiler();
        profiler.enter_layer(Some(mtp.layer.index));
        let mut step = Step::new(&self.gpu, n, pass);
        let embedded = self.embed(next_ids, width)?;
        let joined = self.gpu.empty(n * 2 * width);
        let half = |offset| Columns {
            buffer: &joined,
            stride: 2 * width,
            offset,
        };
        step.add_norm(&embedded, None, &mtp.enorm, config, half(0))?;
        step.add_norm(hidden.buffer(), None, &mtp.hnorm, config, half(width))?;
        let x = self.gpu.empty(n * width);
        let to = Columns {
            buffer: &x,
            stride: width,
            offset: 0,
        };
        step.linear(half(0), n, &mtp.eh_proj, mtp.eh_proj.rows, to)?;
        let delta = step.layer(&mtp.layer, &x, None, cache, pass)?;
        profiler.enter_layer(Some(mtp.layer.index));
        let normed = self.normed(&x, delta.as_ref(), &mtp.shared_head_norm, &step, config)?;
        profiler.enter_layer(None);
        self.logits(&normed, logit_rows, step, pass)
    }

    /// `x + delta`, normed.
    fn normed(
        &self,
        x: &Buffer,
        delta: Option<&Buffer>,
        weight: &Buffer,
        step: &Step,
        config: &Config,
    ) -> Result<GpuRows> {
        let width = config.hidden_size;
        let normed = self.gpu.empty(step.n * width);
        let to = Columns {
            buffer: &normed,
            stride: width,
            offset: 0,
        };
        step.add_norm(x, delta, weight, config, to)?;
        Ok(step.rows(normed, step.n, width))
    }

    /// Logits of the rows asked for, the end of the pass: what is watched of it is told.
    fn logits(
        &self,
        hidden: &GpuRows,
        logit_rows: LogitRows,
        mut step: Step,
        pass: &mut GpuPass,
    ) -> Result<Option<OutputRows>> {
        let (n, vocab) = (hidden.n_rows(), pass.config.vocab_size);
        // In whole 16-byte units.
        let stride = vocab.next_multiple_of(4);
        let first = match logit_rows {
            LogitRows::All => 0,
            _ if pass.trace.wants(None, Stage::Logits) => step.kept.watched().start,
            LogitRows::Last => n - 1,
            LogitRows::None => n,
        };
        let at_once = match logit_rows {
            LogitRows::All => n,
            LogitRows::Last | LogitRows::None => (WORKSPACE_BYTES / 4 / stride).clamp(1, n),
        };
        let mut logits = None;
        for first in (first..n).step_by(at_once) {
            let rows = first..n.min(first + at_once);
            let buffer = self.gpu.empty(rows.len() * stride);
            let x = Columns {
                buffer: hidden.buffer(),
                stride: hidden.width(),
                offset: first * hidden.width(),
            };
            let to = Columns {
                buffer: &buffer,
                stride,
                offset: 0,
            };
            step.linear(x, rows.len(), &self.lm_head, vocab, to)?;
            let kept = Rows {
                buffer: &buffer,
                rows: rows.clone(),
                stride,
            };
            step.kept
                .keep(pass.trace, None, Stage::Logits, kept, &[vocab])?;
            logits = Some(step.rows(buffer, rows.len(), vocab).with_stride(stride));
        }
        // If nobody will read this pass, what went wrong must be known now.
        let must = logit_rows == LogitRows::None;
        step.kept.finish(pass.trace, &mut pass.records, must)?;
        let logits = logits.filter(|_| !must).map(OutputRows::new);
        Ok(logits.map(|logits| match logit_rows {
            LogitRows::Last => logits.slice(logits.n_rows() - 1, 1),
            LogitRows::All | LogitRows::None => logits,
        }))
    }

    fn embed(&self, ids: &[u32], width: usize) -> Result<Buffer> {
        let x = self.gpu.empty(ids.len() * width);
        let on_gpu = self.gpu.upload(bytemuck::cast_slice(ids));
        for slice in &self.embed_tokens.slices {
            let call = embed::Call {
                dtype: self.embed_tokens.dtype,
                tokens: ids.len(),
                width,
                first_row: slice.first_row,
                n_rows: slice.rows,
            };
            let dispatch = embed::dispatch(&call, self.gpu.tuning());
            self.gpu
                .launch(dispatch, &[&on_gpu, &slice.w, &slice.scales, &x])?;
        }
        Ok(x)
    }
}

impl Step {
    /// One layer; returns what it leaves to add to `x`, unless it has added it because somebody looks.
    fn layer(
        &mut self,
        layer: &Layer,
        x: &Buffer,
        delta: Option<Buffer>,
        cache: &mut LayerCache,
        pass: &mut GpuPass,
    ) -> Result<Option<Buffer>> {
        let (n, config) = (self.n, pass.config);
        let width = config.hidden_size;
        let normed = self.gpu.empty(n * width);
        let to = Columns {
            buffer: &normed,
            stride: width,
            offset: 0,
        };
        self.add_norm(x, delta.as_ref(), &layer.input_layernorm, config, to)?;
        let attended = self.attention(layer, &normed, cache, pass)?;
        let weight = &layer.post_attention_layernorm;
        self.add_norm(x, Some(&attended), weight, config, to)?;
        let fed = match &layer.feed_forward {
            FeedForward::Dense(mlps) => {
                self.mlps(mlps, &normed, width, &self.zeros, &self.ones, 1)?
            }
            FeedForward::Moe { .. } => self.moe(layer, &normed, pass)?,
        };
        let wants = |stage| pass.trace.wants(layer.index, stage);
        if !wants(Stage::Hidden) && !wants(Stage::ResidualNorm) {
            return Ok(Some(fed));
        }
        // As the next norm would; the norm of it here goes nowhere.
        self.add_norm(x, Some(&fed), weight, config, to)?;
        let rows = Rows {
            buffer: x,
            rows: 0..n,
            stride: width,
        };
        let first = self.kept.watched().start;
        self.kept
            .take(Some(layer.index), Stage::Hidden, first, rows, &[width])?;
        Ok(None)
    }
}
