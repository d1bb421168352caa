//! The order of kernels: embedding, blocks, final norm, head.
//!
//! One residual stream `x`; what a block adds to it is kept apart as `delta` until the next norm adds
//! it in the same launch.

use shaders::{
    absorb, add_norm, attend, attend_merge, combine, embed, expert_plan, index_query, index_scores,
    latents, matmul, matvec, mlp_down, mlp_down_tiled, mlp_up, mlp_up_tiled, route, top_k,
};

use shaders::index_row::MOST_CHANNELS;

use super::launch::{Buffer, Gpu};
use super::layer::{Attention, FeedForward, Layer, upload_floats};
use super::rows::GpuRows;
use super::watch;
use super::weights::{Mlps, Packed, WeightSource};
use crate::cache::{KeyStore, LatentStore, LayerCache};
use crate::config::{Config, MoeConfig, Scoring, TopkMethod};
use crate::model::{ForwardOptions, LogitRows, Output, Routing};
use crate::ops::WORKSPACE_BYTES;
use crate::ops::rope::Angles;
use crate::trace::{Stage, Trace};
use crate::{Error, Result};

/// Most tokens that go through the matrix-vector kernels; more take the tiled ones.
const FEW_TOKENS: usize = 8;

/// eps of the norms within attention: fixed in the reference, whatever `rms_norm_eps` says.
const LATENT_EPS: f32 = 1e-6;

/// Largest latent that `attend_merge` holds in workgroup memory.
const MAX_RANK: usize = 2048;

/// Largest `index_topk` of the top-k kernel.
pub(crate) const MAX_TOP_K: usize = 2048;

/// A model on a wgpu device.
#[derive(Debug)]
pub(crate) struct GpuModel {
    gpu: Gpu,
    embed_tokens: Packed,
    layers: Vec<Layer>,
    norm: Buffer,
    lm_head: Packed,
    mtp: Option<GpuMtp>,
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
pub(crate) struct GpuPass<'a, 'r> {
    pub config: &'a Config,
    pub options: &'a ForwardOptions,
    /// Position of the first token.
    pub position: usize,
    pub angles: &'a Angles,
    pub routing: &'a mut Routing<'r>,
    pub trace: &'a mut Trace,
}

/// What the layers of a pass share on the device.
pub(super) struct Step {
    pub n: usize,
    angles: Buffer,
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
struct Columns<'a> {
    buffer: &'a Buffer,
    stride: usize,
    offset: usize,
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
                eh_proj: Packed::new(&gpu, &source.matrix(&format!("{prefix}.eh_proj.weight"))?),
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
            embed_tokens: Packed::new(&gpu, &source.matrix("model.embed_tokens.weight")?),
            layers,
            norm: vector("model.norm.weight")?,
            lm_head: Packed::new(&gpu, &source.matrix(head)?),
            mtp,
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
        let wants_logits = pass.trace.wants(None, Stage::Logits);
        let from = match logit_rows {
            LogitRows::All => Some(0),
            LogitRows::Last if wants_logits => Some(first),
            LogitRows::Last => Some(n - 1),
            LogitRows::None if wants_logits => Some(first),
            LogitRows::None => None,
        };
        let logits = from
            .map(|from| self.head(&hidden, from, &step, config))
            .transpose()?;
        if let (true, Some(logits)) = (wants_logits, &logits) {
            let skip = logits.n_rows() - (n - first);
            watch::record_rows(pass.trace, Stage::Logits, logits, skip)?;
        }
        let logits = match logit_rows {
            LogitRows::None => {
                // Nobody will read this pass: what went wrong must be known now.
                hidden.check()?;
                None
            }
            LogitRows::Last => logits.map(|logits| logits.last()),
            LogitRows::All => logits,
        };
        Ok(Output {
            hidden: hidden.into(),
            logits: logits.map(Into::into),
        })
    }

    /// Runs the MTP layer: `hidden` `[tokens, hidden_size]`, `next_ids` the token after each.
    pub(crate) fn forward_mtp(
        &self,
        hidden: &GpuRows,
        next_ids: &[u32],
        cache: &mut LayerCache,
        pass: &mut GpuPass,
    ) -> Result<GpuRows> {
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
        let normed = self.rows(normed, n, width, &step);
        let logits = self.head(&normed, 0, &step, config)?;
        if pass.trace.wants(None, Stage::Logits) {
            let first = pass.trace.first_row(n);
            watch::record_rows(pass.trace, Stage::Logits, &logits, first)?;
        }
        Ok(logits)
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
    fn linear(&self, x: Columns, n: usize, w: &Packed, rows: usize, y: Columns) -> Result<()> {
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

    fn attention(
        &self,
        layer: &Layer,
        normed: &Buffer,
        cache: &mut LayerCache,
        step: &mut Step,
        pass: &mut GpuPass,
    ) -> Result<Buffer> {
        let (gpu, config, weights) = (&self.gpu, pass.config, &layer.attention);
        let (n, width) = (step.n, config.hidden_size);
        let heads = config.num_attention_heads;
        let (dn, dr, dv) = (
            config.qk_nope_head_dim,
            config.qk_rope_head_dim,
            config.v_head_dim,
        );
        let rank = config.kv_lora_rank;
        let input = Columns {
            buffer: normed,
            stride: width,
            offset: 0,
        };
        let columns = weights.columns;
        let projected = gpu.empty(n * columns.stride);
        for (packed, offset) in &weights.projections {
            let to = Columns {
                buffer: &projected,
                stride: columns.stride,
                offset: *offset,
            };
            self.linear(input, n, packed, packed.rows, to)?;
        }

        let (latent, mut keys) = stores(cache);
        let context = pass.position + n;
        let most = config.max_position_embeddings;
        latent.grow(n, most)?;
        if let Some(keys) = &mut keys {
            keys.grow(n, most)?;
        }
        self.latents(weights, &projected, latent, keys.as_deref(), step, pass)?;

        let sparse = !pass.options.dense && step.k.is_some_and(|k| context > k);
        let wants_scores = pass.trace.wants(layer.index, Stage::IndexScores)
            || pass.trace.wants(layer.index, Stage::SelectedScores);
        let asks = weights.has_indexer && (sparse || wants_scores);

        let query = weights.query_columns;
        let q = gpu.empty(n * query.stride);
        let from = match config.q_lora_rank {
            Some(_) => Columns {
                buffer: &projected,
                stride: columns.stride,
                offset: columns.q,
            },
            None => input,
        };
        for (at, (packed, offset)) in weights.queries.iter().enumerate() {
            let rows = match (asks, at) {
                (true, _) => packed.rows,
                (false, 0) => query.n_attention,
                (false, _) => 0,
            };
            let to = Columns {
                buffer: &q,
                stride: query.stride,
                offset: *offset,
            };
            self.linear(from, n, packed, rows, to)?;
        }

        let mut index = None;
        if let (true, Some(keys)) = (asks, keys.as_deref()) {
            let asked = self.index_query(weights, &q, &projected, keys, step, pass)?;
            if let (true, Some(k)) = (sparse, step.k) {
                step.selection = Some(self.select(&asked, keys, k, step, pass)?);
            }
            index = Some(asked);
        }
        let selection = if sparse {
            step.selection.as_ref()
        } else {
            None
        };

        let q_lat = gpu.empty(n * heads * (rank + dr));
        let call = absorb::Call {
            dtype: weights.kv_b_proj.dtype,
            tokens: n,
            heads,
            dn,
            dr,
            dv,
            rank,
            q_stride: query.stride,
        };
        let kv_b = weights.kv_b();
        gpu.launch(
            absorb::dispatch(&call, gpu.tuning()),
            &[&q, &kv_b.w, &kv_b.scales, &step.angles, &q_lat],
        )?;
        let k = step.k.unwrap_or(0);
        let call = attend::Call {
            latent: latent.format(),
            dense: selection.is_none(),
            tokens: n,
            first_row: 0,
            heads,
            rank,
            dr,
            position: pass.position,
            k,
            scale: config.softmax_scale(),
        };
        let splits = attend::splits(&call, gpu.tuning());
        let partial = gpu.empty(n * splits * heads * rank);
        let stats = gpu.empty(n * splits * heads * 2);
        gpu.launch(
            attend::dispatch(&call, gpu.tuning()),
            &[
                &q_lat,
                latent.buffer(),
                selection.unwrap_or(gpu.unused(0)),
                &partial,
                &stats,
            ],
        )?;
        let attended = gpu.empty(n * heads * dv);
        let merge = attend_merge::Call {
            first_row: 0,
            dtype: weights.kv_b_proj.dtype,
            tokens: n,
            heads,
            dn,
            dv,
            rank,
            splits,
            y_stride: heads * dv,
        };
        gpu.launch(
            attend_merge::dispatch(&merge, gpu.tuning()),
            &[&partial, &stats, &kv_b.w, &kv_b.scales, &attended],
        )?;
        let out = gpu.empty(n * width);
        let from = Columns {
            buffer: &attended,
            stride: heads * dv,
            offset: 0,
        };
        let to = Columns {
            buffer: &out,
            stride: width,
            offset: 0,
        };
        self.linear(from, n, &weights.o_proj, width, to)?;

        let watched = watch::Watched {
            gpu,
            layer: layer.index,
            position: pass.position,
            n,
            first: pass.trace.first_row(n),
            k,
        };
        watched.record_selection(selection, index.as_ref(), keys.as_deref(), pass.trace)?;
        watched.record_weights(
            &call,
            splits,
            &q_lat,
            latent.buffer(),
            selection,
            &stats,
            pass.trace,
        )?;
        Ok(out)
    }

    fn latents(
        &self,
        weights: &Attention,
        projected: &Buffer,
        latent: &super::LatentBuffer,
        keys: Option<&super::KeyBuffer>,
        step: &Step,
        pass: &GpuPass,
    ) -> Result<()> {
        let config = pass.config;
        let (columns, offsets) = (weights.columns, weights.norm_offsets);
        let indexer = config.indexer.as_ref().filter(|_| keys.is_some());
        let call = latents::Call {
            latent: latent.format(),
            keys: keys.map_or(0, super::KeyBuffer::format),
            interleaved: indexer.is_some_and(|sizes| sizes.indexer_rope_interleave),
            tokens: step.n,
            position: pass.position,
            stride: columns.stride,
            q_offset: columns.q,
            q_lora: config.q_lora_rank.unwrap_or(0),
            kv_offset: columns.kv,
            rank: config.kv_lora_rank,
            dr: config.qk_rope_head_dim,
            key_offset: columns.key,
            di: indexer.map_or(0, |sizes| sizes.index_head_dim),
            q_norm: offsets.q,
            kv_norm: offsets.kv,
            k_weight: offsets.k_weight,
            k_bias: offsets.k_bias,
            eps: LATENT_EPS,
        };
        self.gpu.launch(
            latents::dispatch(&call, self.gpu.tuning()),
            &[
                projected,
                &weights.norms,
                &step.angles,
                latent.buffer(),
                keys.map_or(self.gpu.unused(0), super::KeyBuffer::buffer),
            ],
        )
    }

    fn index_query(
        &self,
        weights: &Attention,
        q: &Buffer,
        projected: &Buffer,
        keys: &super::KeyBuffer,
        step: &Step,
        pass: &GpuPass,
    ) -> Result<IndexQuery> {
        let sizes = pass
            .config
            .indexer
            .as_ref()
            .expect("a layer with an indexer has a config with one");
        let (heads, di) = (sizes.index_n_heads, sizes.index_head_dim);
        let asked = IndexQuery {
            q: self.gpu.empty(step.n * heads * di),
            w: self.gpu.empty(step.n * heads),
            heads,
            di,
        };
        let call = index_query::Call {
            keys: keys.format(),
            interleaved: sizes.indexer_rope_interleave,
            tokens: step.n,
            heads,
            di,
            dr: pass.config.qk_rope_head_dim,
            q_stride: weights.query_columns.stride,
            q_offset: weights.query_columns.index,
            stride: weights.columns.stride,
            w_offset: weights.columns.w,
        };
        self.gpu.launch(
            index_query::dispatch(&call, self.gpu.tuning()),
            &[q, projected, &step.angles, &asked.q, &asked.w],
        )?;
        Ok(asked)
    }

    /// Scores in chunks of rows that keep within the workspace, and the `k` best of each row.
    fn select(
        &self,
        asked: &IndexQuery,
        keys: &super::KeyBuffer,
        k: usize,
        step: &Step,
        pass: &GpuPass,
    ) -> Result<Buffer> {
        let n = step.n;
        let selection = self.gpu.empty(n * k);
        let stride = (pass.position + n).next_multiple_of(4);
        let rows = (WORKSPACE_BYTES / 4 / stride).clamp(1, n);
        let scores = self.gpu.empty(rows * stride);
        for first_row in (0..n).step_by(rows) {
            let tokens = rows.min(n - first_row);
            let position = pass.position + first_row;
            asked.scores(
                &self.gpu, keys, &scores, tokens, first_row, position, stride,
            )?;
            let call = top_k::Call {
                tokens,
                first_row,
                position,
                k,
                scores_stride: stride,
            };
            self.gpu.launch(
                top_k::dispatch(&call, self.gpu.tuning()),
                &[&scores, &selection, &step.status],
            )?;
        }
        Ok(selection)
    }

    fn moe(
        &self,
        layer: &Layer,
        normed: &Buffer,
        step: &Step,
        pass: &mut GpuPass,
    ) -> Result<Buffer> {
        let FeedForward::Moe {
            gate,
            bias,
            has_bias,
            experts,
        } = &layer.feed_forward
        else {
            unreachable!("the caller found experts");
        };
        let (gpu, n, width) = (&self.gpu, step.n, pass.config.hidden_size);
        let moe = pass
            .config
            .moe
            .as_ref()
            .expect("a config with MoE layers has MoE sizes");
        let n_experts = moe.n_routed_experts;
        let logits = gpu.empty(n * n_experts);
        let from = Columns {
            buffer: normed,
            stride: width,
            offset: 0,
        };
        let to = Columns {
            buffer: &logits,
            stride: n_experts,
            offset: 0,
        };
        self.linear(from, n, gate, n_experts, to)?;

        let k = moe.num_experts_per_tok;
        let slots = k + moe.n_shared_experts;
        let forced = forced(layer.index, n, k, pass);
        let routes = Routes {
            scores: gpu.empty(n * n_experts),
            experts: gpu.empty(n * slots),
            weights: gpu.empty(n * slots),
            n,
            k,
            slots,
            n_experts,
        };
        let call = route_call(moe, n, pass.position, *has_bias, forced.is_some());
        let forced = forced.map(|forced| gpu.upload(bytemuck::cast_slice(&forced)));
        gpu.launch(
            route::dispatch(&call, gpu.tuning()),
            &[
                &logits,
                bias,
                forced.as_ref().unwrap_or(gpu.unused(0)),
                &routes.scores,
                &routes.experts,
                &routes.weights,
                &step.status,
            ],
        )?;
        watch::record_routes(gpu, layer.index, &routes, pass)?;
        self.mlps(
            experts,
            normed,
            width,
            n,
            &routes.experts,
            &routes.weights,
            slots,
        )
    }

    /// `y[t] = Σ_slot weight · swiglu_expert(x[t])`, `[tokens, hidden_size]`.
    #[allow(
        clippy::too_many_arguments,
        reason = "two call sites read best with all sizes named"
    )]
    fn mlps(
        &self,
        mlps: &Mlps,
        x: &Buffer,
        hidden: usize,
        n: usize,
        experts: &Buffer,
        weights: &Buffer,
        slots: usize,
    ) -> Result<Buffer> {
        let (gpu, width, dtype) = (&self.gpu, mlps.gate.rows, mlps.gate.dtype);
        let h = gpu.empty(n * slots * width);
        let y = gpu.empty(n * hidden);
        let pairs = || mlps.gate.slices.iter().zip(&mlps.up.slices);
        if n <= FEW_TOKENS && n * slots <= mlp_down::MOST_SLOTS {
            for (gate, up) in pairs() {
                let call = mlp_up::Call {
                    dtype,
                    tokens: n,
                    slots,
                    width,
                    hidden,
                    first_expert: gate.first_expert,
                    n_experts: gate.n_experts,
                    x_stride: hidden,
                };
                gpu.launch(
                    mlp_up::dispatch(&call, gpu.tuning()),
                    &[x, experts, &gate.w, &gate.scales, &up.w, &up.scales, &h],
                )?;
            }
            for (at, down) in mlps.down.slices.iter().enumerate() {
                let call = mlp_down::Call {
                    dtype,
                    tokens: n,
                    slots,
                    width,
                    hidden,
                    first_expert: down.first_expert,
                    n_experts: down.n_experts,
                    accumulate: at > 0,
                };
                gpu.launch(
                    mlp_down::dispatch(&call, gpu.tuning()),
                    &[&h, experts, weights, &down.w, &down.scales, &y],
                )?;
            }
            return Ok(y);
        }
        let sizes = expert_plan::Call {
            tokens: n,
            slots,
            n_experts: mlps.n_experts,
        };
        let plan = gpu.empty(expert_plan::plan_words(&sizes, gpu.tuning()));
        gpu.launch(
            expert_plan::dispatch(&sizes, gpu.tuning()),
            &[experts, &plan],
        )?;
        for (gate, up) in pairs() {
            let call = mlp_up_tiled::Call {
                dtype,
                plan: sizes,
                width,
                hidden,
                first_expert: gate.first_expert,
                n_experts: gate.n_experts,
                x_stride: hidden,
            };
            gpu.launch(
                mlp_up_tiled::dispatch(&call, gpu.tuning()),
                &[x, &plan, &gate.w, &gate.scales, &up.w, &up.scales, &h],
            )?;
        }
        let slots_out = gpu.empty(n * slots * hidden);
        for down in &mlps.down.slices {
            let call = mlp_down_tiled::Call {
                dtype,
                plan: sizes,
                width,
                hidden,
                first_expert: down.first_expert,
                n_experts: down.n_experts,
            };
            gpu.launch(
                mlp_down_tiled::dispatch(&call, gpu.tuning()),
                &[&h, &plan, &down.w, &down.scales, &slots_out],
            )?;
        }
        let call = combine::Call {
            tokens: n,
            slots,
            hidden,
        };
        gpu.launch(
            combine::dispatch(&call, gpu.tuning()),
            &[&slots_out, weights, &y],
        )?;
        Ok(y)
    }
}

/// Refuses sizes that the kernels do not take: they read four numbers at a time.
fn check_sizes(config: &Config) -> Result<()> {
    let mut sizes = vec![
        ("hidden_size", config.hidden_size),
        ("intermediate_size", config.intermediate_size),
        ("kv_lora_rank", config.kv_lora_rank),
        ("qk_nope_head_dim", config.qk_nope_head_dim),
        ("qk_rope_head_dim", config.qk_rope_head_dim),
        ("v_head_dim", config.v_head_dim),
        ("q_lora_rank", config.q_lora_rank.unwrap_or(0)),
    ];
    if let Some(moe) = &config.moe {
        sizes.push(("moe_intermediate_size", moe.moe_intermediate_size));
    }
    if let Some(indexer) = &config.indexer {
        sizes.push(("index_head_dim", indexer.index_head_dim));
    }
    let refused = |name: &str, size: usize, expected: String| {
        Err(Error::Setting {
            name: name.into(),
            found: size.to_string(),
            expected,
        })
    };
    if let Some((name, size)) = sizes.into_iter().find(|(_, size)| size % 4 != 0) {
        return refused(name, size, "a multiple of 4 on a GPU".into());
    }
    let n_experts = config.moe.as_ref().map_or(0, |moe| moe.n_routed_experts);
    let dim = config
        .indexer
        .as_ref()
        .map_or(0, |sizes| sizes.index_head_dim);
    for (name, size, most) in [
        ("n_routed_experts", n_experts, route::MOST_EXPERTS),
        ("index_head_dim", dim, MOST_CHANNELS),
        ("kv_lora_rank", config.kv_lora_rank, MAX_RANK),
    ] {
        if size > most {
            return refused(name, size, format!("at most {most} on a GPU"));
        }
    }
    Ok(())
}

/// Most tokens of one pass, so that no workspace of it is above [`WORKSPACE_BYTES`].
pub fn max_pass_tokens(config: &Config) -> usize {
    let queries = config.num_attention_heads * (config.kv_lora_rank + config.qk_rope_head_dim);
    let slots = config
        .moe
        .as_ref()
        .map_or(1, |moe| moe.num_experts_per_tok + moe.n_shared_experts);
    let widest = queries
        .max(slots * config.hidden_size)
        .max(config.intermediate_size);
    (WORKSPACE_BYTES / 4 / widest).max(1)
}

/// What a run of tokens asks the indexer.
pub(super) struct IndexQuery {
    q: Buffer,
    w: Buffer,
    heads: usize,
    di: usize,
}

impl IndexQuery {
    /// Scores of rows `first_row..first_row + tokens` into `scores`, the first of them at `position`.
    #[allow(
        clippy::too_many_arguments,
        reason = "sizes of one kernel, two call sites"
    )]
    pub(super) fn scores(
        &self,
        gpu: &Gpu,
        keys: &super::KeyBuffer,
        scores: &Buffer,
        tokens: usize,
        first_row: usize,
        position: usize,
        stride: usize,
    ) -> Result<()> {
        let call = index_scores::Call {
            keys: keys.format(),
            tokens,
            first_row,
            heads: self.heads,
            di: self.di,
            position,
            scores_stride: stride,
        };
        gpu.launch(
            index_scores::dispatch(&call, gpu.tuning()),
            &[&self.q, &self.w, keys.buffer(), scores],
        )
    }
}

/// The choice of experts of a pass, on the device.
pub(super) struct Routes {
    pub scores: Buffer,
    pub experts: Buffer,
    pub weights: Buffer,
    pub n: usize,
    pub k: usize,
    pub slots: usize,
    pub n_experts: usize,
}

/// Replayed experts `[tokens, k]`, -1 where the gate chooses; `None` if it always does.
fn forced(layer: usize, n: usize, k: usize, pass: &GpuPass) -> Option<Vec<i32>> {
    let trace = pass.routing.replay?;
    let mut forced = vec![-1; n * k];
    for (token, row) in forced.chunks_exact_mut(k).enumerate() {
        if let Some((experts, _)) = trace.get(layer, pass.position + token) {
            for (into, &expert) in row.iter_mut().zip(experts) {
                *into = i32::from(expert);
            }
        }
    }
    Some(forced)
}

fn route_call(
    moe: &MoeConfig,
    tokens: usize,
    position: usize,
    has_bias: bool,
    has_forced: bool,
) -> route::Call {
    route::Call {
        scoring: match moe.scoring_func {
            Scoring::Sigmoid => route::SIGMOID,
            Scoring::Softmax => route::SOFTMAX,
        },
        method: match moe.topk_method {
            TopkMethod::Greedy => route::GREEDY,
            TopkMethod::GroupLimitedGreedy => route::GROUPS_BY_BEST,
            TopkMethod::NoauxTc => route::GROUPS_BY_TWO,
        },
        tokens,
        position,
        n_experts: moe.n_routed_experts,
        n_groups: moe.n_group,
        n_kept: moe.topk_group,
        k: moe.num_experts_per_tok,
        n_shared: moe.n_shared_experts,
        normalise: moe.norm_topk_prob,
        scaling: moe.routed_scaling_factor,
        has_bias,
        has_forced,
    }
}

/// The caches of a layer in this module's form.
fn stores(cache: &mut LayerCache) -> (&mut super::LatentBuffer, Option<&mut super::KeyBuffer>) {
    let LatentStore::Gpu(latent) = &mut cache.latent else {
        unreachable!("a GPU model makes GPU caches");
    };
    let keys = match &mut cache.keys {
        Some(KeyStore::Gpu(keys)) => Some(keys),
        Some(_) => unreachable!("a GPU model makes GPU caches"),
        None => None,
    };
    (latent, keys)
}

impl Attention {
    /// `kv_b_proj`, which the kernels need in one binding.
    fn kv_b(&self) -> &super::weights::Slice {
        &self.kv_b_proj.slices[0]
    }
}
