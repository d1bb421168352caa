//! Attention of the training pass, and what the indexer learns from it. Source: spec 7.2.

use std::ops::Range;

use burn::Tensor;
use burn::tensor::TensorData;
use engine::cpu::{Heads, top_k};
use engine::ops::attention::mha_portable;
use engine::ops::norm::{layer_norm_portable, rms_norm_portable};
use engine::ops::rope::{Layout, portable as rope};
use engine::ops::{index, linear};

use super::{AttentionMode, Forward, read, read_one};
use crate::{Error, Result};

/// eps of the norms of latents and index keys: fixed in the reference.
const LATENT_EPS: f32 = 1e-6;

/// What the selection of a layer is worth.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SelectionStats {
    /// Mean divergence of softmax of the index scores from attention, in nats.
    pub kl: f64,
    /// Share of attention that falls on the selection.
    pub recall: f64,
    /// Share of the `k` positions with most attention that are selected.
    pub overlap: f64,
    /// Query rows these are means of.
    pub n_rows: usize,
}

impl Forward<'_> {
    pub(super) fn attention(&mut self, layer: usize, x: Tensor<2>) -> Result<Tensor<2>> {
        let prefix = format!("model.layers.{layer}.self_attn");
        let weight = |part: &str| self.leaves.weight(&format!("{prefix}.{part}.weight"));
        let vector = |part: &str| self.leaves.vector(&format!("{prefix}.{part}.weight"));
        let Heads {
            n_heads,
            dn,
            dr,
            rank,
            ..
        } = self.heads;
        let (q, qr) = match self.config.q_lora_rank {
            None => (linear::portable(x.clone(), &weight("q_proj")), None),
            Some(_) => {
                let qr = linear::portable(x.clone(), &weight("q_a_proj"));
                let qr = rms_norm_portable(qr, vector("q_a_layernorm"), LATENT_EPS);
                (linear::portable(qr.clone(), &weight("q_b_proj")), Some(qr))
            }
        };
        let q = rope(q, &self.angles, layout(n_heads, dn, true));
        let kv = linear::portable(x.clone(), &weight("kv_a_proj_with_mqa"));
        let n = kv.dims()[0];
        let latent = kv.clone().slice([0..n, 0..rank]);
        let latent = rms_norm_portable(latent, vector("kv_a_layernorm"), LATENT_EPS);
        let k_pe = rope(
            kv.slice([0..n, rank..rank + dr]),
            &self.angles,
            layout(1, 0, true),
        );
        let kv = linear::portable(latent, &weight("kv_b_proj"));

        let indexes =
            self.config.owns_indexer(layer) && self.options.attention != AttentionMode::Dense;
        let query = match (indexes, qr) {
            (true, Some(qr)) => Some(self.index_query(&prefix, x, qr)),
            _ => None,
        };
        let out = self.attend(layer, q, kv, k_pe, query)?;
        Ok(linear::portable(out, &weight("o_proj")))
    }

    /// Queries, head weights and keys of the indexer, cut off from what they are computed from: the
    /// main model learns from the language alone.
    fn index_query(&self, prefix: &str, x: Tensor<2>, qr: Tensor<2>) -> IndexParts {
        let sizes = self
            .config
            .indexer
            .as_ref()
            .expect("a layer that owns an indexer has its sizes");
        let name = |part: &str| format!("{prefix}.indexer.{part}");
        let weight = |part: &str| self.leaves.weight(&name(&format!("{part}.weight")));
        let (x, qr) = (x.detach(), qr.detach());
        let (n_heads, dim) = (sizes.index_n_heads, sizes.index_head_dim);
        let interleaved = sizes.indexer_rope_interleave;
        let q = linear::portable(qr, &weight("wq_b"));
        let q = rope(q, &self.angles, layout(n_heads, 0, interleaved));
        let k = layer_norm_portable(
            linear::portable(x.clone(), &weight("wk")),
            self.leaves.vector(&name("k_norm.weight")),
            self.leaves.vector(&name("k_norm.bias")),
            LATENT_EPS,
        );
        let k = rope(k, &self.angles, layout(1, 0, interleaved));
        let w = linear::portable(x, &weight("weights_proj"));
        let w = w * ((n_heads * dim) as f64).sqrt().recip();
        IndexParts { q, k, w }
    }

    fn attend(
        &mut self,
        layer: usize,
        q: Tensor<2>,
        kv: Tensor<2>,
        k_pe: Tensor<2>,
        query: Option<IndexParts>,
    ) -> Result<Tensor<2>> {
        let (b, t) = (self.n_sequences, self.length);
        let blocks: Vec<_> = self.blocks().collect();
        if let (&[_], None) = (&blocks[..], &query) {
            return Ok(mha_portable(self.heads, b, q, kv, k_pe, self.causal[0].clone()).0);
        }
        let of_sequences = |x: &Tensor<2>, rows: Range<usize>| {
            let width = x.dims()[1];
            let n = rows.len();
            x.clone()
                .reshape([b, t, width])
                .slice([0..b, rows, 0..width])
                .reshape([b * n, width])
        };
        let mut stats = SelectionStats::default();
        let mut out = Vec::new();
        for (at, rows) in blocks.into_iter().enumerate() {
            let keys = 0..rows.end;
            let mask = self.causal[at].clone();
            let n = rows.len();
            let indexed = match &query {
                None => None,
                Some(parts) => Some(self.index_scores(layer, parts, &rows, &of_sequences)?),
            };
            let (mask, selected) = match (&indexed, self.options.attention) {
                (Some(indexed), AttentionMode::Sparse { k }) if rows.end > k => {
                    let selected = self.select(&indexed.host, &rows, k);
                    (self.selection_mask(&selected, &rows), Some(selected))
                }
                _ => (mask, None),
            };
            let (q, kv, k_pe) = (
                of_sequences(&q, rows.clone()),
                of_sequences(&kv, keys.clone()),
                of_sequences(&k_pe, keys.clone()),
            );
            // What the selection is worth is told by attention that could read everything.
            let dense = (self.options.watch_selection && selected.is_some()).then(|| {
                let inner = |x: &Tensor<2>| x.clone().without_autodiff();
                let causal = self.causal[at].clone();
                let (q, kv, k_pe) = (inner(&q), inner(&kv), inner(&k_pe));
                let (_, p) = mha_portable(self.heads, b, q, kv, k_pe, causal);
                p.mean_dim(1).reshape([b * n, rows.end])
            });
            let (part, p) = mha_portable(self.heads, b, q, kv, k_pe, mask.clone());
            let width = part.dims()[1];
            out.push(part.reshape([b, n, width]));
            if let Some(indexed) = indexed {
                let target = p.without_autodiff().mean_dim(1).reshape([b * n, rows.end]);
                let mask = mask.expand([b, 1, n, rows.end]).reshape([b * n, rows.end]);
                let learning = Learning {
                    layer,
                    rows: &rows,
                    target,
                    mask,
                    selected,
                    dense,
                };
                self.learn(indexed, learning, &mut stats)?;
            }
        }
        if query.is_some() {
            let n = stats.n_rows.max(1) as f64;
            stats.kl /= n;
            stats.recall /= n;
            stats.overlap /= n;
            self.stats.selection.push((layer, stats));
        }
        let out = Tensor::cat(out, 1);
        let width = out.dims()[2];
        Ok(out.reshape([b * t, width]))
    }

    /// Index scores of a block of rows of every sequence.
    fn index_scores(
        &self,
        layer: usize,
        parts: &IndexParts,
        rows: &Range<usize>,
        of_sequences: &dyn Fn(&Tensor<2>, Range<usize>) -> Tensor<2>,
    ) -> Result<Indexed> {
        let (b, n) = (self.n_sequences, rows.len());
        let q = of_sequences(&parts.q, rows.clone());
        let w = of_sequences(&parts.w, rows.clone());
        let k = of_sequences(&parts.k, 0..rows.end);
        let per_sequence = (0..b).map(|sequence| {
            let some = |x: &Tensor<2>, n: usize| {
                let width = x.dims()[1];
                x.clone()
                    .slice([sequence * n..(sequence + 1) * n, 0..width])
            };
            index::portable(some(&q, n), some(&w, n), some(&k, rows.end))
        });
        let scores = Tensor::cat(per_sequence.collect(), 0);
        let host = read(scores.clone().without_autodiff())?;
        if host.iter().any(|score| score.is_nan()) {
            return Err(Error::NotFinite {
                what: "index scores".into(),
                value: f64::NAN,
                layer,
                place: String::new(),
            });
        }
        Ok(Indexed { scores, host })
    }

    /// Positions selected for each row, `[sequences × rows, k]`, −1 padded.
    fn select(&self, host: &[f32], rows: &Range<usize>, k: usize) -> Vec<Vec<i32>> {
        use rayon::prelude::*;
        let n = rows.len();
        host.par_chunks_exact(rows.end)
            .enumerate()
            .map(|(row, scores)| top_k(&scores[..=rows.start + row % n], k))
            .collect()
    }

    fn selection_mask(&self, selected: &[Vec<i32>], rows: &Range<usize>) -> Tensor<4> {
        let mut mask = vec![f32::NEG_INFINITY; selected.len() * rows.end];
        for (row, positions) in mask.chunks_exact_mut(rows.end).zip(selected) {
            for &position in positions.iter().filter(|&&position| position >= 0) {
                row[position as usize] = 0.0;
            }
        }
        let data = TensorData::new(mask, [self.n_sequences, 1, rows.len(), rows.end]);
        Tensor::from_data(data, (&self.device, self.dtype))
    }

    /// The divergence of the index scores from attention, and what the selection is worth.
    fn learn(
        &mut self,
        indexed: Indexed,
        learning: Learning,
        stats: &mut SelectionStats,
    ) -> Result<()> {
        let Learning {
            rows, target, mask, ..
        } = &learning;
        let n_rows = target.dims()[0];
        let inner = indexed.scores.clone().without_autodiff() + mask.clone();
        let log_i = burn::tensor::activation::log_softmax(inner, 1);
        // Where p is 0 the term is 0, and log_i may be −∞ there.
        let seen = target.clone().greater_elem(0.0);
        let terms = target.clone() * (target.clone().clamp_min(1e-30).log() - log_i.clone());
        let kl = terms.mask_fill(seen.bool_not(), 0.0).sum();
        let kl = read_one(kl)?;
        if !kl.is_finite() {
            return Err(Error::NotFinite {
                what: "index divergence".into(),
                value: kl,
                layer: learning.layer,
                place: String::new(),
            });
        }
        stats.kl += kl;
        stats.n_rows += n_rows;
        if indexed.scores.is_autodiff() {
            let per_row = self.micro_share / (self.n_sequences * self.length) as f64;
            let dx = (log_i.exp() - target.clone()) * per_row;
            self.surrogates.push((indexed.scores * dx).sum());
        }
        if self.options.watch_selection {
            let p = read(learning.dense.as_ref().unwrap_or(target).clone())?;
            let k = self.options.watch_k;
            let selected = match &learning.selected {
                Some(selected) => selected.clone(),
                None => self.select(&indexed.host, rows, k),
            };
            let (recall, overlap) = worth(&p, &selected, rows, k);
            stats.recall += recall;
            stats.overlap += overlap;
        }
        Ok(())
    }
}

/// What the indexer computes from a layer's input.
struct IndexParts {
    /// `[sequences × tokens, heads × dim]`.
    q: Tensor<2>,
    /// `[sequences × tokens, dim]`.
    k: Tensor<2>,
    /// `[sequences × tokens, heads]`.
    w: Tensor<2>,
}

/// Index scores of a block of rows.
struct Indexed {
    /// `[sequences × rows, keys]`, in the graph.
    scores: Tensor<2>,
    /// The same on the host.
    host: Vec<f32>,
}

/// What the indexer is to learn from a block of rows.
struct Learning<'a> {
    layer: usize,
    rows: &'a Range<usize>,
    /// Attention summed over heads and normalised, `[sequences × rows, keys]`.
    target: Tensor<2>,
    /// 0 where a row reads, −∞ elsewhere.
    mask: Tensor<2>,
    selected: Option<Vec<Vec<i32>>>,
    /// Attention without a selection, if there was one and it is watched.
    dense: Option<Tensor<2>>,
}

/// Sums over rows: attention on the selection, and selected ones among the `k` most attended.
fn worth(p: &[f32], selected: &[Vec<i32>], rows: &Range<usize>, k: usize) -> (f64, f64) {
    let (mut recall, mut overlap) = (0.0, 0.0);
    for (row, (p, selected)) in p.chunks_exact(rows.end).zip(selected).enumerate() {
        let chosen = || selected.iter().filter(|&&position| position >= 0);
        recall += chosen()
            .map(|&position| f64::from(p[position as usize]))
            .sum::<f64>();
        let visible = rows.start + row % rows.len() + 1;
        let best = top_k(&p[..visible], k);
        let best: Vec<i32> = best.into_iter().filter(|&position| position >= 0).collect();
        let both = chosen()
            .filter(|position| best.binary_search(position).is_ok())
            .count();
        overlap += both as f64 / best.len() as f64;
    }
    (recall, overlap)
}

fn layout(n_heads: usize, offset: usize, interleaved: bool) -> Layout {
    Layout {
        n_heads,
        offset,
        interleaved,
    }
}
