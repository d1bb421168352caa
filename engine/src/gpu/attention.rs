//! Attention of one layer: caches written, positions selected, latents read.

use shaders::{absorb, attend, attend_merge, index_query, index_scores, latents, top_k};

use super::body::LayerCache;
use super::caches::{KeyBuffer, LatentBuffer};
use super::forward::{Columns, GpuModel, GpuPass, Step};
use super::launch::{Buffer, Gpu};
use super::layer::{Attention, Layer};
use super::watch;
use crate::Result;
use crate::config::LATENT_EPS;
use crate::pass::WORKSPACE_BYTES;
use crate::trace::Stage;

/// What reading the latents leaves: the result, and what inspectors need to look at weights.
struct Read {
    /// `[tokens, heads, kv_lora_rank + qk_rope_head_dim]`.
    q_lat: Buffer,
    call: attend::Call,
    splits: usize,
    /// `[tokens, splits, heads, 2]`.
    stats: Buffer,
    /// `[tokens, heads × v_head_dim]`.
    attended: Buffer,
}

impl GpuModel {
    /// `normed` `[tokens, hidden_size]` to what attention adds to the residual stream.
    pub(super) fn attention(
        &self,
        layer: &Layer,
        normed: &Buffer,
        cache: &mut LayerCache,
        step: &mut Step,
        pass: &mut GpuPass,
    ) -> Result<Buffer> {
        let (gpu, config, weights) = (&self.gpu, pass.config, &layer.attention);
        let (n, width) = (step.n, config.hidden_size);
        let sparse = !pass.options.dense && step.k.is_some_and(|k| pass.position + n > k);
        let wants_scores = pass.trace.wants(layer.index, Stage::IndexScores)
            || pass.trace.wants(layer.index, Stage::SelectedScores);
        let asks = weights.has_indexer && (sparse || wants_scores);

        let input = Columns {
            buffer: normed,
            stride: width,
            offset: 0,
        };
        let projected = self.project(weights, input, n, asks)?;
        let LayerCache { latent, keys } = cache;
        let most = config.max_position_embeddings;
        latent.grow(n, most)?;
        if let Some(keys) = keys {
            keys.grow(n, most)?;
        }
        self.latents(weights, &projected, latent, keys.as_ref(), step, pass)?;
        let from = match config.q_lora_rank {
            Some(_) => Columns {
                buffer: &projected,
                stride: weights.columns.stride,
                offset: weights.columns.q,
            },
            None => input,
        };
        let q = self.queries(weights, from, n, asks)?;

        let mut index = None;
        if let (true, Some(keys)) = (asks, keys.as_ref()) {
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
        let read = self.attend(weights, &q, latent, selection, step, pass)?;
        let out = gpu.empty(n * width);
        let from = Columns {
            buffer: &read.attended,
            stride: config.num_attention_heads * config.v_head_dim,
            offset: 0,
        };
        let to = Columns {
            buffer: &out,
            ..input
        };
        self.linear(from, n, &weights.o_proj, width, to)?;

        let watched = watch::Watched {
            gpu,
            layer: layer.index,
            position: pass.position,
            n,
            first: pass.trace.first_row(n),
            k: read.call.k,
        };
        watched.record_selection(selection, index.as_ref(), keys.as_ref(), pass.trace)?;
        watched.record_weights(
            &read.call,
            read.splits,
            &read.q_lat,
            latent.buffer(),
            selection,
            &read.stats,
            pass.trace,
        )?;
        Ok(out)
    }

    /// Everything that is made of the layer's input; the indexer's head weights only if it `asks`.
    fn project(&self, weights: &Attention, input: Columns, n: usize, asks: bool) -> Result<Buffer> {
        let columns = weights.columns;
        let projected = self.gpu.empty(n * columns.stride);
        for (packed, offset) in &weights.projections {
            let is_index_weights = *offset == columns.w && packed.starts.len() == 1;
            if weights.has_indexer && is_index_weights && !asks {
                continue;
            }
            let to = Columns {
                buffer: &projected,
                stride: columns.stride,
                offset: *offset,
            };
            self.linear(input, n, packed, packed.rows, to)?;
        }
        Ok(projected)
    }

    /// The queries of attention, and those of the indexer if it `asks`.
    fn queries(&self, weights: &Attention, from: Columns, n: usize, asks: bool) -> Result<Buffer> {
        let columns = weights.query_columns;
        let q = self.gpu.empty(n * columns.stride);
        for (at, (packed, offset)) in weights.queries.iter().enumerate() {
            let rows = match (asks, at) {
                (true, _) => packed.rows,
                (false, 0) => columns.n_attention,
                (false, _) => 0,
            };
            let to = Columns {
                buffer: &q,
                stride: columns.stride,
                offset: *offset,
            };
            self.linear(from, n, packed, rows, to)?;
        }
        Ok(q)
    }

    /// Absorbs the queries, reads the selected latents, or all of them, and expands the result.
    fn attend(
        &self,
        weights: &Attention,
        q: &Buffer,
        latent: &LatentBuffer,
        selection: Option<&Buffer>,
        step: &Step,
        pass: &GpuPass,
    ) -> Result<Read> {
        let (gpu, config, n) = (&self.gpu, pass.config, step.n);
        let heads = config.num_attention_heads;
        let (dn, dr, dv) = (
            config.qk_nope_head_dim,
            config.qk_rope_head_dim,
            config.v_head_dim,
        );
        let rank = config.kv_lora_rank;
        let (dtype, kv_b) = (weights.kv_b_proj.dtype, weights.kv_b());

        let q_lat = gpu.empty(n * heads * (rank + dr));
        let absorbed = absorb::Call {
            dtype,
            tokens: n,
            heads,
            dn,
            dr,
            dv,
            rank,
            q_stride: weights.query_columns.stride,
        };
        gpu.launch(
            absorb::dispatch(&absorbed, gpu.tuning()),
            &[q, &kv_b.w, &kv_b.scales, &step.angles, &q_lat],
        )?;

        let call = attend::Call {
            latent: latent.format(),
            dense: selection.is_none(),
            tokens: n,
            first_row: 0,
            heads,
            rank,
            dr,
            position: pass.position,
            k: step.k.unwrap_or(0),
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
            dtype,
            tokens: n,
            first_row: 0,
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
        Ok(Read {
            q_lat,
            call,
            splits,
            stats,
            attended,
        })
    }

    fn latents(
        &self,
        weights: &Attention,
        projected: &Buffer,
        latent: &LatentBuffer,
        keys: Option<&KeyBuffer>,
        step: &Step,
        pass: &GpuPass,
    ) -> Result<()> {
        let config = pass.config;
        let (columns, offsets) = (weights.columns, weights.norm_offsets);
        let indexer = config.indexer.as_ref().filter(|_| keys.is_some());
        let call = latents::Call {
            latent: latent.format(),
            keys: keys.map_or(0, KeyBuffer::format),
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
                keys.map_or(self.gpu.unused(0), KeyBuffer::buffer),
            ],
        )
    }

    fn index_query(
        &self,
        weights: &Attention,
        q: &Buffer,
        projected: &Buffer,
        keys: &KeyBuffer,
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
        keys: &KeyBuffer,
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
        keys: &KeyBuffer,
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

impl Attention {
    /// `kv_b_proj`, which the kernels need in one binding.
    fn kv_b(&self) -> &super::weights::Slice {
        &self.kv_b_proj.slices[0]
    }
}
