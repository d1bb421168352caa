//! Attention of the training pass, and what the indexer learns from it. Source: spec 7.2.

use std::ops::Range;

use burn::Tensor;
use burn::tensor::TensorData;
use engine::definition::IndexParts;
use engine::definition::ops::{attend_expanded, index_scores};
use engine::selection::top_k;

use super::{AttentionMode, Training, read, read_one};
use crate::{Error, Result};

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

impl Training<'_> {
    /// Attention of every sequence among its own rows: `[sequences × tokens, heads × dv]`.
    pub(super) fn attend_sequences(
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
            return Ok(attend_expanded(self.heads, b, q, kv, k_pe, self.causal[0].clone()).0);
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
                let (_, p) = attend_expanded(self.heads, b, q, kv, k_pe, causal);
                p.mean_dim(1).reshape([b * n, rows.end])
            });
            let (part, p) = attend_expanded(self.heads, b, q, kv, k_pe, mask.clone());
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
            index_scores(some(&q, n), some(&w, n), some(&k, rows.end))
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
