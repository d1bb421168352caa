//! The order of kernels: embedding, blocks, final norm, head.
//!
//! One residual stream `x`; what a block adds to it is kept apart as `delta` until the next norm adds
//! it in the same launch.

use shaders::{add_norm, embed, matmul, matvec};

use super::body::{LayerCache, wanted};
use super::launch::{Buffer, Gpu};
use super::layer::{FeedForward, Layer};
use super::rows::GpuRows;
use super::sizes::check_sizes;
use super::watch;
use super::weights::{Packed, WeightSource, upload_floats};
use crate::Result;
use crate::config::Config;
use crate::model::{ForwardOptions, LogitRows, Output, OutputRows};
use crate::pass::Records;
use crate::rope::{Angles, Rope};
use crate::trace::{Stage, Trace};

/// Most tokens that go through the matrix-vector kernels; more take the tiled ones.
pub(super) const FEW_TOKENS: usize = 8;

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

/// What one forward pass is asked for.
pub(crate) struct GpuPass<'a> {
    pub config: &'a Config,
    pub options: &'a ForwardOptions,
    /// Position of the first token.
    pub position: usize,
    pub angles: &'a Angles,
    pub records: Records<'a>,
    pub trace: &'a mut Trace,
}

/// What the layers of a pass share on the device.
pub(super) struct Step {
    pub n: usize,
    pub angles: Buffer,
    /// Where kernels say what went wrong: see [`GpuRows`].
    pub status: Buffer,
    /// The last selection that an indexer made, `[tokens, k]`.
    pub selection: Option<Buffer>,
    pub k: Option<usize>,
    /// The route of a dense layer: everything to expert 0 with weight 1.
    zeros: Buffer,
    ones: Buffer,
}

/// Columns of rows in a buffer.
#[derive(Clone, Copy)]
pub(super) struct Columns<'a> {
    pub buffer: &'a Buffer,
    pub stride: usize,
    pub offset: usize,
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
    pub(crate) fn forward(
        &self,
        ids: &[u32],
        caches: &mut [LayerCache],
        logit_rows: LogitRows,
        pass: &mut GpuPass,
    ) -> Result<Output> {
        let config = pass.config;
        let (n, width) = (ids.len(), config.hidden_size);
        self.gpu.enter_layer(None);
        let mut step = self.step(n, pass);
        let x = self.embed(ids, width)?;
        let mut delta = None;
        for (layer, cache) in self.layers.iter().zip(caches) {
            self.gpu.enter_layer(Some(layer.index));
            delta = Some(self.layer(layer, &x, delta, cache, &mut step, pass)?);
        }
        self.gpu.enter_layer(None);
        let hidden = self.gpu.empty(n * width);
        let to = Columns {
            buffer: &hidden,
            stride: width,
            offset: 0,
        };
        self.add_norm(
            &x,
            delta.as_ref(),
            &self.norm,
            config.rms_norm_eps,
            n,
            width,
            to,
        )?;
        let hidden = self.rows(hidden, n, width, &step);
        let first = pass.trace.first_row(n);
        if pass.trace.wants(None, Stage::FinalHidden) {
            watch::record_rows(pass.trace, Stage::FinalHidden, &hidden, first)?;
        }
        let logits = self.logits(&hidden, logit_rows, &step, pass)?;
        Ok(Output {
            hidden: OutputRows::new(hidden),
            logits,
        })
    }

    /// Runs the MTP layer: `hidden` `[tokens, hidden_size]`, `next_ids` the token after each.
    pub(crate) fn forward_mtp(
        &self,
        hidden: &GpuRows,
        next_ids: &[u32],
        cache: &mut LayerCache,
        logit_rows: LogitRows,
        pass: &mut GpuPass,
    ) -> Result<Option<OutputRows>> {
        let mtp = self.mtp.as_ref().expect("the caller found an MTP layer");
        let config = pass.config;
        let (n, width, eps) = (next_ids.len(), config.hidden_size, config.rms_norm_eps);
        self.gpu.enter_layer(Some(mtp.layer.index));
        let mut step = self.step(n, pass);
        let embedded = self.embed(next_ids, width)?;
        let joined = self.gpu.empty(n * 2 * width);
        let half = |offset| Columns {
            buffer: &joined,
            stride: 2 * width,
            offset,
        };
        self.add_norm(&embedded, None, &mtp.enorm, eps, n, width, half(0))?;
        self.add_norm(
            hidden.buffer(),
            None,
            &mtp.hnorm,
            eps,
            n,
            width,
            half(width),
        )?;
        let x = self.gpu.empty(n * width);
        let to = Columns {
            buffer: &x,
            stride: width,
            offset: 0,
        };
        self.linear(half(0), n, &mtp.eh_proj, mtp.eh_proj.rows, to)?;
        let delta = self.layer(&mtp.layer, &x, None, cache, &mut step, pass)?;
        let normed = self.gpu.empty(n * width);
        let to = Columns {
            buffer: &normed,
            stride: width,
            offset: 0,
        };
        self.add_norm(&x, Some(&delta), &mtp.shared_head_norm, eps, n, width, to)?;
        self.gpu.enter_layer(None);
        self.logits(&self.rows(normed, n, width, &step), logit_rows, &step, pass)
    }

    /// Logits of the rows asked for; those that are watched are recorded.
    fn logits(
        &self,
        hidden: &GpuRows,
        logit_rows: LogitRows,
        step: &Step,
        pass: &mut GpuPass,
    ) -> Result<Option<OutputRows>> {
        let n = hidden.n_rows();
        let first = pass.trace.first_row(n);
        let wants_logits = pass.trace.wants(None, Stage::Logits);
        let from = match logit_rows {
            LogitRows::All => Some(0),
            _ if wants_logits => Some(first),
            LogitRows::Last => Some(n - 1),
            LogitRows::None => None,
        };
        let head = |from| self.head(hidden, from, step, pass.config);
        let logits = from.map(head).transpose()?;
        if let (true, Some(logits)) = (wants_logits, &logits) {
            let skip = logits.n_rows() - (n - first);
            watch::record_rows(pass.trace, Stage::Logits, logits, skip)?;
        }
        if logit_rows == LogitRows::None {
            // Nobody will read this pass: what went wrong must be known now.
            hidden.check()?;
            return Ok(None);
        }
        Ok(logits.map(|logits| wanted(OutputRows::new(logits), logit_rows)))
    }

    fn step(&self, n: usize, pass: &GpuPass) -> Step {
        let config = pass.config;
        let indexer = config.indexer.as_ref();
        Step {
            n,
            angles: upload_floats(&self.gpu, &pass.angles.cos_then_sin(n)),
            status: self.gpu.upload(&[0; 16]),
            selection: None,
            k: pass
                .options
                .index_topk
                .or(indexer.map(|sizes| sizes.index_topk)),
            zeros: self.gpu.upload(&vec![0; n * 4]),
            ones: upload_floats(&self.gpu, &vec![1.0; n]),
        }
    }

    fn rows(&self, buffer: Buffer, n: usize, width: usize, step: &Step) -> GpuRows {
        GpuRows::new(self.gpu.clone(), buffer, n, width, step.status.clone())
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

    /// Logits `[rows, vocab_size]` of rows `from..`.
    fn head(&self, hidden: &GpuRows, from: usize, step: &Step, config: &Config) -> Result<GpuRows> {
        let n = hidden.n_rows() - from;
        let vocab = config.vocab_size;
        // A stride in whole 16-byte units.
        let stride = vocab.next_multiple_of(4);
        let logits = self.gpu.empty(n * stride);
        let x = Columns {
            buffer: hidden.buffer(),
            stride: hidden.width(),
            offset: from * hidden.width(),
        };
        let to = Columns {
            buffer: &logits,
            stride,
            offset: 0,
        };
        self.linear(x, n, &self.lm_head, vocab, to)?;
        Ok(self.rows(logits, n, vocab, step).with_stride(stride))
    }

    /// `x += delta`, then its RMS norm into `to`.
    #[allow(
        clippy::too_many_arguments,
        reason = "two call sites read best with all sizes named"
    )]
    fn add_norm(
        &self,
        x: &Buffer,
        delta: Option<&Buffer>,
        weight: &Buffer,
        eps: f32,
        n: usize,
        width: usize,
        to: Columns,
    ) -> Result<()> {
        let call = add_norm::Call {
            add: delta.is_some(),
            tokens: n,
            width,
            y_stride: to.stride,
            y_offset: to.offset,
            eps,
        };
        let dispatch = add_norm::dispatch(&call, self.gpu.tuning());
        let delta = delta.unwrap_or(self.gpu.unused(0));
        self.gpu.launch(dispatch, &[x, delta, weight, to.buffer])
    }

    /// `y = x · Wᵀ` for the first `rows` rows of `w`.
    pub(super) fn linear(
        &self,
        x: Columns,
        n: usize,
        w: &Packed,
        rows: usize,
        y: Columns,
    ) -> Result<()> {
        for slice in &w.slices {
            let rows = rows.saturating_sub(slice.first_row).min(slice.rows);
            if rows == 0 {
                continue;
            }
            let call = matvec::Call {
                dtype: w.dtype,
                tokens: n,
                rows,
                cols: w.cols,
                x_stride: x.stride,
                x_offset: x.offset,
                y_stride: y.stride,
                y_offset: y.offset + slice.first_row,
            };
            let dispatch = if n <= FEW_TOKENS {
                matvec::dispatch(&call, self.gpu.tuning())
            } else {
                matmul::dispatch(&call, self.gpu.tuning())
            };
            self.gpu
                .launch(dispatch, &[x.buffer, &slice.w, &slice.scales, y.buffer])?;
        }
        Ok(())
    }

    /// One layer; returns what it leaves to add to `x`.
    fn layer(
        &self,
        layer: &Layer,
        x: &Buffer,
        delta: Option<Buffer>,
        cache: &mut LayerCache,
        step: &mut Step,
        pass: &mut GpuPass,
    ) -> Result<Buffer> {
        let (n, width, eps) = (step.n, pass.config.hidden_size, pass.config.rms_norm_eps);
        let normed = self.gpu.empty(n * width);
        let to = Columns {
            buffer: &normed,
            stride: width,
            offset: 0,
        };
        self.add_norm(x, delta.as_ref(), &layer.input_layernorm, eps, n, width, to)?;
        let attended = self.attention(layer, &normed, cache, step, pass)?;
        let weight = &layer.post_attention_layernorm;
        self.add_norm(x, Some(&attended), weight, eps, n, width, to)?;
        let fed = match &layer.feed_forward {
            FeedForward::Dense(mlps) => {
                let Step { zeros, ones, .. } = &*step;
                self.mlps(mlps, &normed, width, n, zeros, ones, 1)?
            }
            FeedForward::Moe { .. } => self.moe(layer, &normed, step, pass)?,
        };
        watch::record_residual(&self.gpu, layer.index, x, &fed, n, width, pass.trace)?;
        Ok(fed)
    }
}
