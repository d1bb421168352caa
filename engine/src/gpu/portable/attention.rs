//! Attention to cached latents: absorbed queries, splits, their merging, and the weights.

use super::numbers::{dot, float, floats, set, set_all};
use super::packed::{Latents, Weights};
use super::{Asked, bound, index};

/// The largest score of a split without slots: not -inf, as in the kernel.
const NOTHING: f32 = -1e30;

/// `q_lat[t, j] = W_key(j)ᵀ q_nope[t, j]`, then the turned `q_pe[t, j]`.
pub(super) fn absorb(asked: &Asked, buffers: &mut [Vec<u32>]) {
    let [q, w_kvb, scales, angles, q_lat] = bound(buffers);
    let (heads, dn, dr) = (asked.size("heads"), asked.size("dn"), asked.size("dr"));
    let (dv, rank) = (asked.size("dv"), asked.size("rank"));
    let w_kvb = Weights::new(asked, w_kvb, scales, [heads * (dn + dv), rank]);
    for head in 0..heads {
        let key_rows: Vec<_> = (0..dn).map(|d| w_kvb.row(head * (dn + dv) + d)).collect();
        for token in 0..asked.size("tokens") {
            let from = token * asked.size("q_stride") + head * (dn + dr);
            let mut query = vec![0.0; rank];
            for (x, row) in floats(q, from, dn).into_iter().zip(&key_rows) {
                for (sum, weight) in query.iter_mut().zip(row) {
                    *sum += x * weight;
                }
            }
            let mut roped = floats(q, from + dn, dr);
            index::rope(&mut roped, &floats(angles, token * dr, dr), true);
            query.extend(roped);
            set_all(q_lat, (token * heads + head) * (rank + dr), &query);
        }
    }
}

/// What a launch of `attend` or `attend_weights` reads for a token.
struct Reader<'a> {
    asked: &'a Asked<'a>,
    q_lat: &'a [u32],
    latents: Latents<'a>,
    selection: &'a [u32],
}

impl<'a> Reader<'a> {
    fn new(asked: &'a Asked, q_lat: &'a [u32], latents: &'a [u32], selection: &'a [u32]) -> Self {
        Self {
            asked,
            q_lat,
            latents: Latents::new(asked, latents),
            selection,
        }
    }

    /// Slots of a token: everything up to its own position, or that many entries of its selection.
    fn n_slots(&self, token: usize) -> usize {
        let visible = self.asked.size("position") + token + 1;
        match self.asked.knob("DENSE") {
            1 => visible,
            _ => visible.min(self.asked.size("k")),
        }
    }

    /// The latent in a slot, its rope included, if the slot holds one.
    fn latent(&self, token: usize, slot: usize) -> Option<Vec<f64>> {
        if self.asked.knob("DENSE") == 1 {
            return Some(self.latents.row(slot));
        }
        let row = (self.asked.size("first_row") + token) * self.asked.size("k");
        let position = self.selection[row + slot] as i32;
        // -1 fills up a row.
        usize::try_from(position)
            .ok()
            .map(|at| self.latents.row(at))
    }

    fn score(&self, token: usize, head: usize, latent: &[f64]) -> f64 {
        let row = (self.asked.size("first_row") + token) * self.asked.size("heads") + head;
        let query = floats(self.q_lat, row * latent.len(), latent.len());
        dot(&query, latent) * self.asked.float("scale")
    }
}

/// Of each split `sum of exp(score - most) * latent`, `most` and `sum of exp(score - most)`.
pub(super) fn attend(asked: &Asked, buffers: &mut [Vec<u32>]) {
    let [q_lat, latents, selection, out, stats] = bound(buffers);
    let reader = Reader::new(asked, q_lat, latents, selection);
    let (heads, rank, splits) = (
        asked.size("heads"),
        asked.size("rank"),
        asked.size("splits"),
    );
    // Splits begin where the kernel has them, at whole tiles of slots.
    let tile = if asked.knob("FAT") == 1 { 128 } else { 4 };
    for token in 0..asked.size("tokens") {
        let n_slots = reader.n_slots(token);
        let per_split = n_slots.div_ceil(splits).next_multiple_of(tile);
        for split in 0..splits {
            let begin = (split * per_split).min(n_slots);
            let end = (begin + per_split).min(n_slots);
            let read: Vec<_> = (begin..end)
                .filter_map(|slot| reader.latent(token, slot))
                .collect();
            for head in 0..heads {
                let scores: Vec<f64> = read
                    .iter()
                    .map(|latent| reader.score(token, head, latent))
                    .collect();
                let row = (token * splits + split) * heads + head;
                let [most, total] = softmax_sum(&scores, &read, rank, &mut out[row * rank..]);
                set_all(stats, 2 * row, &[most, total]);
            }
        }
    }
}

/// Leaves the weighted sum of latents; gives the largest score and the sum of the weights.
fn softmax_sum(scores: &[f64], latents: &[Vec<f64>], rank: usize, out: &mut [u32]) -> [f64; 2] {
    let most = scores.iter().copied().fold(NOTHING.into(), f64::max);
    let mut total = 0.0;
    let mut sums = vec![0.0; rank];
    for (score, latent) in scores.iter().zip(latents) {
        let weight = (score - most).exp();
        total += weight;
        // The rope channels lie behind the latent's and have no sum.
        for (sum, x) in sums.iter_mut().zip(latent) {
            *sum += weight * x;
        }
    }
    set_all(out, 0, &sums);
    [most, total]
}

/// The stats of all splits of a row as if they were one.
struct Merged {
    most: f64,
    total: f64,
    /// `exp(most of the split - most)` of each split.
    factors: Vec<f64>,
}

impl Merged {
    fn new(asked: &Asked, stats: &[u32], token: usize, head: usize) -> Self {
        let splits = asked.size("splits");
        let at = |split| 2 * ((token * splits + split) * asked.size("heads") + head);
        let of_splits: Vec<_> = (0..splits)
            .map(|split| (float(stats, at(split)), float(stats, at(split) + 1)))
            .collect();
        let most = of_splits
            .iter()
            .fold(NOTHING.into(), |most: f64, (its, _)| most.max(*its));
        let factors: Vec<_> = of_splits
            .iter()
            .map(|(its, _)| (its - most).exp())
            .collect();
        let totals = of_splits.iter().zip(&factors);
        Self {
            most,
            total: totals.map(|((_, total), factor)| total * factor).sum(),
            factors,
        }
    }
}

/// `y[t, j] = W_value(j) o_lat`, with `o_lat` the normalised sums of all splits.
pub(super) fn attend_merge(asked: &Asked, buffers: &mut [Vec<u32>]) {
    let [partials, stats, w_kvb, scales, y] = bound(buffers);
    let (heads, dn, dv) = (asked.size("heads"), asked.size("dn"), asked.size("dv"));
    let (rank, splits) = (asked.size("rank"), asked.size("splits"));
    let w_kvb = Weights::new(asked, w_kvb, scales, [heads * (dn + dv), rank]);
    for head in 0..heads {
        let value_rows: Vec<_> = (0..dv)
            .map(|r| w_kvb.row(head * (dn + dv) + dn + r))
            .collect();
        for token in 0..asked.size("tokens") {
            let merged = Merged::new(asked, stats, token, head);
            let mut latent = vec![0.0; rank];
            for (split, factor) in merged.factors.iter().enumerate() {
                let row = (token * splits + split) * heads + head;
                for (sum, x) in latent.iter_mut().zip(floats(partials, row * rank, rank)) {
                    // Where no split has seen anything, nothing is attended to.
                    *sum += if merged.total > 0.0 {
                        factor / merged.total * x
                    } else {
                        0.0
                    };
                }
            }
            let to = (asked.size("first_row") + token) * asked.size("y_stride") + head * dv;
            for (r, row) in value_rows.iter().enumerate() {
                set(y, to + r, dot(row, &latent));
            }
        }
    }
}

/// `weights[t, j, s] = exp(score - most) / total`, 0 where a slot holds nothing.
pub(super) fn attend_weights(asked: &Asked, buffers: &mut [Vec<u32>]) {
    let [q_lat, latents, selection, stats, weights] = bound(buffers);
    let reader = Reader::new(asked, q_lat, latents, selection);
    let (heads, slots) = (asked.size("heads"), asked.size("slots"));
    for token in 0..asked.size("tokens") {
        let n_slots = reader.n_slots(token);
        for slot in 0..slots {
            let held = (slot < n_slots).then(|| reader.latent(token, slot));
            for head in 0..heads {
                let Merged { most, total, .. } = Merged::new(asked, stats, token, head);
                let weight = match held.as_ref().and_then(Option::as_ref) {
                    Some(latent) if total > 0.0 => {
                        let score = reader.score(token, head, latent);
                        // attend rounded its sum to f32, which may be a little below this one.
                        ((score - most).min(0.0).exp() / total).min(1.0)
                    }
                    _ => 0.0,
                };
                set(weights, (token * heads + head) * slots + slot, weight);
            }
        }
    }
}
