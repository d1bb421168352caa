//! Attention of one layer: caches written, positions selected, latents read.

use shaders::{
    absorb, attend, attend_merge, attend_weights, index_query, index_scores, latents, top_k,
};

use super::caches::{KeyBuffer, LatentBuffer, LayerCache};
use super::launch::{Buffer, Gpu};
use super::layer::{Attention, Layer};
use super::step::{Columns, GpuPass, Step};
use super::watch::Rows;
use crate::Result;
use crate::config::LATENT_EPS;
use crate::pass::WORKSPACE_BYTES;
use crate::trace::{Stage, Value};

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

impl Step {
    /// `normed` `[tokens, hidden_size]` to what attention adds to the residual stream.
    pub(super) fn attention(
        &mut self,
        layer: &Layer,
        normed: &Buffer,
        cache: &mut LayerCache,
        pass: &mut GpuPass,
    ) -> Result<Buffer> {
        let (config, weights) = (pass.config, &layer.attention);
        let (n, width) = (self.n, config.hidden_size);
        let context = pass.position + n;
        let k = self.k.filter(|&k| !pass.options.dense && context > k);
        let wants = |stage| pass.trace.wants(layer.index, stage);
        let wants_scores = wants(Stage::IndexScores) || wants(Stage::SelectedScores);
        let asks = weights.has_indexer && (k.is_some() || wants_scores);

        let input = Columns {
            buffer: normed,
            stride: width,
            offset: 0,
        };
        let projected = self.project(weights, input, asks)?;
        let LayerCache { latent, keys } = cache;
        let most = config.max_position_embeddings;
        latent.grow(n, most)?;
        if let Some(keys) = keys {
            keys.grow(n, most)?;
        }
        self.latents(weights, &projected, latent, keys.as_ref(), pass)?;
        let from = match config.q_lora_rank {
            Some(_) => Columns {
                buffer: &projected,
                stride: weights.columns.stride,
                offset: weights.columns.q,
            },
            None => input,
        };
        let q = self.queries(weights, from, asks)?;
        if let (true, Some(keys)) = (asks, keys.as_ref()) {
            let asked = self.index_query(weights, &q, &projected, keys, pass)?;
            match k {
                Some(k) => {
                    self.selection = Some(self.select(layer.index, &asked, keys, k, pass)?)
                }
                // Nobody asks the indexer, and yet somebody wants to see what it would say.
                None => self.scan(layer.index, &asked, keys, pass)?,
            }
        }
        // The layer's own, or that of an earlier one.
        let selection = self.selection.clone().filter(|_| k.is_some());
        let read = self.attend(weights, &q, latent, selection.as_ref(), pass)?;
        self.keep_positions(layer.index, selection.as_ref(), k, pass)?;
        self.keep_weights(layer.index, &read, latent, selection.as_ref(), pass)?;
        let out = self.gpu.empty(n * width);
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
        Ok(out)
    }

    /// Everything that is made of the layer's input; the indexer's head weights only if it `asks`.
    fn project(&self, weights: &Attention, input: Columns, asks: bool) -> Result<Buffer> {
        let (n, columns) = (self.n, weights.columns);
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
    fn queries(&self, weights: &Attention, from: Columns, asks: bool) -> Result<Buffer> {
        let (n, columns) = (self.n, weights.query_columns);
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
        pass: &GpuPass,
    ) -> Result<Read> {
        let (gpu, config, n) = (&self.gpu, pass.config, self.n);
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
            &[q, &kv_b.w, &kv_b.scales, &self.angles, &q_lat],
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
            k: self.k.unwrap_or(0),
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
        pass: &GpuPass,
    ) -> Result<()> {
        let config = pass.config;
        let (columns, offsets) = (weights.columns, weights.norm_offsets);
        let indexer = config.indexer.as_ref().filter(|_| keys.is_some());
        let call = latents::Call {
            latent: latent.format(),
            keys: keys.map_or(0, KeyBuffer::format),
            interleaved: indexer.is_some_and(|sizes| sizes.indexer_rope_interleave),
            tokens: self.n,
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
                &self.angles,
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
        pass: &GpuPass,
    ) -> Result<IndexQuery> {
        let sizes = pass
            .config
            .indexer
            .as_ref()
            .expect("a layer with an indexer has a config with one");
        let (heads, di) = (sizes.index_n_heads, sizes.index_head_dim);
        let asked = IndexQuery {
            q: self.gpu.empty(self.n * heads * di),
            w: self.gpu.empty(self.n * heads),
            heads,
            di,
        };
        let call = index_query::Call {
            keys: keys.format(),
            interleaved: sizes.indexer_rope_interleave,
            tokens: self.n,
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
            &[q, projected, &self.angles, &asked.q, &asked.w],
        )?;
        Ok(asked)
    }

    /// Words of a row of scores, and rows of a chunk that keeps within the workspace.
    fn score_rows(&self, pass: &GpuPass) -> (usize, usize) {
        let stride = (pass.position + self.n).next_multiple_of(4);
        (stride, (WORKSPACE_BYTES / 4 / stride).clamp(1, self.n))
    }

    /// Scores chunk by chunk, and the `k` best of each row.
    fn select(
        &mut self,
        layer: usize,
        asked: &IndexQuery,
        keys: &KeyBuffer,
        k: usize,
        pass: &GpuPass,
    ) -> Result<Buffer> {
        let n = self.n;
        let selection = self.gpu.empty(n * k);
        let wants_chosen = pass.trace.wants(layer, Stage::SelectedScores);
        let chosen = wants_chosen.then(|| self.gpu.empty(n * k));
        let (stride, rows) = self.score_rows(pass);
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
                keep: wants_chosen,
            };
            let unused = self.gpu.unused(0);
            self.gpu.launch(
                top_k::dispatch(&call, self.gpu.tuning()),
                &[
                    &scores,
                    &selection,
                    chosen.as_ref().unwrap_or(unused),
                    &self.status,
                ],
            )?;
            let rows = Rows {
                buffer: &scores,
                rows: first_row..first_row + tokens,
                stride,
            };
            let (stage, context) = (Stage::IndexScores, pass.position + n);
            self.kept.keep(pass.trace, layer, stage, rows, &[context])?;
        }
        if let Some(chosen) = &chosen {
            let rows = Rows {
                buffer: chosen,
                rows: 0..n,
                stride: k,
            };
            let stage = Stage::SelectedScores;
            self.kept.keep(pass.trace, layer, stage, rows, &[k])?;
        }
        Ok(selection)
    }

    /// Scores of the watched rows, where every position is read: those of all are those of the selected.
    fn scan(
        &mut self,
        layer: usize,
        asked: &IndexQuery,
        keys: &KeyBuffer,
        pass: &GpuPass,
    ) -> Result<()> {
        let (stride, rows) = self.score_rows(pass);
        let watched = self.kept.watched();
        let scores = self.gpu.empty(rows.min(watched.len()) * stride);
        for first_row in watched.clone().step_by(rows) {
            let tokens = rows.min(watched.end - first_row);
            let position = pass.position + first_row;
            asked.scores(
                &self.gpu, keys, &scores, tokens, first_row, position, stride,
            )?;
            let rows = Rows {
                buffer: &scores,
                rows: first_row..first_row + tokens,
                stride,
            };
            let shape = [pass.position + self.n];
            for stage in [Stage::IndexScores, Stage::SelectedScores] {
                self.kept
                    .keep(pass.trace, layer, stage, rows.clone(), &shape)?;
            }
        }
        Ok(())
    }

    /// Keeps what was read: the selection, or every position up to a row's own.
    fn keep_positions(
        &mut self,
        layer: usize,
        selection: Option<&Buffer>,
        k: Option<usize>,
        pass: &mut GpuPass,
    ) -> Result<()> {
        let stage = Stage::SelectedPositions;
        if let (Some(buffer), Some(k)) = (selection, k) {
            let rows = Rows {
                buffer,
                rows: 0..self.n,
                stride: k,
            };
            return self.kept.keep(pass.trace, layer, stage, rows, &[k]);
        }
        if pass.trace.wants(layer, stage) {
            let (rows, context) = (self.kept.watched(), pass.position + self.n);
            let shape = [rows.len(), context];
            let last = rows.map(|row| pass.position + row);
            let slots = last.flat_map(|last| {
                (0..context).map(move |slot| if slot <= last { slot as i32 } else { -1 })
            });
            let value = Value::i32(shape, slots.collect());
            pass.trace.record(layer, stage, value);
        }
        Ok(())
    }

    /// Keeps the attention weights of watched rows, of each head and their mean, in chunks of rows.
    fn keep_weights(
        &mut self,
        layer: usize,
        read: &Read,
        latent: &LatentBuffer,
        selection: Option<&Buffer>,
        pass: &GpuPass,
    ) -> Result<()> {
        let slots = selection.map_or(pass.position + self.n, |_| read.call.k);
        let heads = read.call.heads;
        for (stage, mean, shape) in [
            (Stage::AttentionMean, true, &[slots][..]),
            (Stage::AttentionHeads, false, &[heads, slots]),
        ] {
            if !pass.trace.wants(layer, stage) {
                continue;
            }
            let stride: usize = shape.iter().product();
            let rows = (WORKSPACE_BYTES / 4 / stride).max(1);
            let watched = self.kept.watched();
            for first in watched.clone().step_by(rows) {
                let tokens = rows.min(watched.end - first);
                let weights = self.gpu.empty(tokens * stride);
                let call = attend_weights::Call {
                    attend: attend::Call {
                        tokens,
                        first_row: first,
                        position: pass.position + first,
                        ..read.call
                    },
                    stats_row: first,
                    splits: read.splits,
                    slots,
                    mean,
                };
                let selection = selection.unwrap_or(self.gpu.unused(0));
                self.gpu.launch(
                    attend_weights::dispatch(&call, self.gpu.tuning()),
                    &[
                        &read.q_lat,
                        latent.buffer(),
                        selection,
                        &read.stats,
                        &weights,
                    ],
                )?;
                let rows = Rows {
                    buffer: &weights,
                    rows: first..first + tokens,
                    stride,
                };
                self.kept.keep(pass.trace, layer, stage, rows, shape)?;
            }
        }
        Ok(())
    }
}

/// What a run of tokens asks the indexer.
struct IndexQuery {
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
    fn scores(
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
