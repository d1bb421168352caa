//! The lightning indexer on the host: scores and selection over the [`KeyCache`].
//!
//! A lane is a key, so a dot product needs no fold, and ReLU and the sum over heads work on sixteen
//! keys at once. A sum over channels runs in order, one lane a key.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::keys::KeyCache;
use super::simd::{LANES, Wide, dispatch, lanes, mul_add, splat, split};
use super::top_k::{Forced, Selection, top_k_forced};
use super::workspace_per_worker;

/// Queries of a run of tokens.
#[derive(Clone, Copy)]
struct Queries<'a> {
    q: &'a [f32], // [tokens, heads × dim]
    w: &'a [f32], // [tokens, heads]
    n_heads: usize,
    /// Position of the first.
    position: usize,
}

impl<'a> Queries<'a> {
    fn new(q: &'a [f32], w: &'a [f32], n_heads: usize, position: usize) -> Self {
        Self {
            q,
            w,
            n_heads,
            position,
        }
    }

    fn n(&self) -> usize {
        self.w.len() / self.n_heads
    }

    fn rows(&self, first: usize, n: usize) -> Self {
        let width = self.q.len() / self.n();
        Self {
            q: &self.q[first * width..][..n * width],
            w: &self.w[first * self.n_heads..][..n * self.n_heads],
            n_heads: self.n_heads,
            position: self.position + first,
        }
    }
}

/// Scores of every token of `q` `[tokens, heads × dim]`, `w` `[tokens, heads]` over the cache up to
/// the last of them, `[tokens, position + tokens]`; −∞ where a position comes after the token.
pub fn index_scores(
    q: &[f32],
    w: &[f32],
    n_heads: usize,
    cache: &KeyCache,
    position: usize,
) -> Vec<f32> {
    let queries = Queries::new(q, w, n_heads, position);
    let context = position + queries.n();
    let mut scores = vec![0.0; queries.n() * context];
    fill(queries, cache, context, &mut scores);
    for (token, scores) in scores.chunks_exact_mut(context).enumerate() {
        scores[position + token + 1..].fill(f32::NEG_INFINITY);
    }
    scores
}

/// Tokens that share a walk over the keys.
const ROWS: usize = 8;

/// Key blocks below which a single token is not worth a second worker.
const BLOCKS_ALONE: usize = 32;

/// Scores of all queries `[tokens, context]`, by all workers.
fn fill(queries: Queries, cache: &KeyCache, context: usize, scores: &mut [f32]) {
    if queries.n() == 1 {
        let blocks = context
            .div_ceil(LANES)
            .div_ceil(4 * rayon::current_num_threads())
            .max(BLOCKS_ALONE);
        scores
            .par_chunks_mut(blocks * LANES)
            .enumerate()
            .for_each(|(piece, scores)| {
                let width = scores.len();
                dispatch(Score {
                    queries,
                    cache,
                    first_block: piece * blocks,
                    width,
                    scores,
                });
            });
    } else {
        scores
            .par_chunks_mut(ROWS * context)
            .enumerate()
            .for_each(|(group, scores)| {
                let queries = queries.rows(group * ROWS, scores.len() / context);
                dispatch(Score {
                    queries,
                    cache,
                    first_block: 0,
                    width: context,
                    scores,
                });
            });
    }
}

/// The `k` positions with the highest scores for every token of `q` `[tokens, heads × dim]`, `w`
/// `[tokens, heads]`, among those not after it; ties to the lower position. `forced` positions are in or
/// out whatever their scores.
///
/// # Errors
/// A score is NaN: the position of its token.
pub fn select(
    q: &[f32],
    w: &[f32],
    n_heads: usize,
    cache: &KeyCache,
    position: usize,
    k: usize,
    forced: &Forced,
) -> Result<Selection, usize> {
    let queries = Queries::new(q, w, n_heads, position);
    let n = queries.n();
    let mut indices = vec![-1; n * k];
    let choose = |position: usize, scores: &[f32], indices: &mut [i32], keys: &mut Vec<u32>| {
        let visible = &scores[..=position];
        // Without looking where: that runs on whole registers.
        if visible
            .iter()
            .fold(false, |any, score| any | score.is_nan())
        {
            return Err(position);
        }
        top_k_forced(visible, indices, forced, keys);
        Ok(())
    };
    if n == 1 {
        let mut scores = vec![0.0; position + 1];
        fill(queries, cache, position + 1, &mut scores);
        choose(position, &scores, &mut indices, &mut Vec::new())?;
        return Ok(Selection { k, indices });
    }
    let rows = (workspace_per_worker() / (position + n)).clamp(1, ROWS);
    indices
        .par_chunks_mut(rows * k)
        .enumerate()
        .try_for_each(|(group, indices)| {
            let queries = queries.rows(group * rows, indices.len() / k);
            // The last of the group sees the most.
            let width = queries.position + queries.n();
            let mut scores = vec![0.0; queries.n() * width];
            dispatch(Score {
                queries,
                cache,
                first_block: 0,
                width,
                scores: &mut scores,
            });
            let mut keys = Vec::new();
            for (row, indices) in indices.chunks_exact_mut(k).enumerate() {
                choose(
                    queries.position + row,
                    &scores[row * width..][..width],
                    indices,
                    &mut keys,
                )?;
            }
            Ok::<(), usize>(())
        })?;
    Ok(Selection { k, indices })
}

/// Scores of some tokens over keys from `first_block · 16` on, `[tokens, width]`.
struct Score<'a> {
    queries: Queries<'a>,
    cache: &'a KeyCache,
    first_block: usize,
    width: usize,
    scores: &'a mut [f32],
}

impl WithSimd for Score<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match S::F32_LANES {
            16 => self.blocks::<S, 1, 8>(simd),
            8 => self.blocks::<S, 2, 4>(simd),
            4 => self.blocks::<S, 4, 4>(simd),
            _ => self.blocks::<S, 16, 1>(simd),
        }
    }
}

impl Score<'_> {
    #[inline(always)]
    fn blocks<S: Simd, const P: usize, const T: usize>(self, simd: S) {
        let Self {
            queries,
            cache,
            first_block,
            width,
            scores,
        } = self;
        let dim = cache.dim;
        let n_heads = queries.n_heads;
        let mut scratch = vec![0.0; dim * LANES];
        for block in 0..width.div_ceil(LANES) {
            let keys = split::<S, P>(cache.block(first_block + block, &mut scratch)).0;
            let here = (width - block * LANES).min(LANES);
            for (row, scores) in scores.chunks_exact_mut(width).enumerate() {
                let q = &queries.q[row * n_heads * dim..][..n_heads * dim];
                let w = &queries.w[row * n_heads..][..n_heads];
                let mut sum = splat::<S, P>(simd, 0.0);
                let mut head = 0;
                while head + T <= n_heads {
                    let q = &q[head * dim..][..T * dim];
                    sum = heads::<S, P, T>(simd, keys, q, &w[head..], sum);
                    head += T;
                }
                while head + T.div_ceil(2) <= n_heads && T >= 8 {
                    let q = &q[head * dim..][..4 * dim];
                    sum = heads::<S, P, 4>(simd, keys, q, &w[head..], sum);
                    head += 4;
                }
                while head < n_heads {
                    let q = &q[head * dim..][..dim];
                    sum = heads::<S, P, 1>(simd, keys, q, &w[head..], sum);
                    head += 1;
                }
                scores[block * LANES..][..here].copy_from_slice(&lanes::<S, P>(sum)[..here]);
            }
        }
    }
}

/// `sum + Σ_t w[t] · relu(q[t] · keys)` for `T` heads by ascending `t`, sixteen keys at once.
#[inline(always)]
fn heads<S: Simd, const P: usize, const T: usize>(
    simd: S,
    keys: &[Wide<S, P>],
    q: &[f32],
    w: &[f32],
    mut sum: Wide<S, P>,
) -> Wide<S, P> {
    let dim = keys.len();
    let q: [&[f32]; T] = std::array::from_fn(|t| &q[t * dim..][..dim]);
    let mut dots = [splat::<S, P>(simd, 0.0); T];
    for (channel, keys) in keys.iter().enumerate() {
        for t in 0..T {
            dots[t] = mul_add(simd, splat(simd, q[t][channel]), *keys, dots[t]);
        }
    }
    for t in 0..T {
        let mut kept = dots[t];
        for kept in &mut kept {
            // Not `max`: that would turn NaN into 0.
            let negative = simd.less_than_f32s(*kept, simd.splat_f32s(0.0));
            *kept = simd.select_f32s(negative, simd.splat_f32s(0.0), *kept);
        }
        sum = mul_add(simd, splat(simd, w[t]), kept, sum);
    }
    sum
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panic")]
mod tests {
    use super::super::fp8;
    use super::super::keys::KeyFormat;
    use super::super::top_k::top_k;
    use super::*;
    use crate::ops::quantise::BLOCK;

    fn numbers(n: usize, seed: f32) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * 0.613 + seed).sin()).collect()
    }

    #[test]
    fn scores_are_right_in_every_split_and_selections_follow_from_them() {
        for (n_heads, dim, n) in [(1, 4, 3), (5, 32, 40), (16, 64, 70), (13, 130, 33)] {
            for format in [KeyFormat::F32, KeyFormat::Fp8] {
                let keys = numbers(n * dim, 0.3);
                let (q, w) = (numbers(n * n_heads * dim, 0.9), numbers(n * n_heads, 0.5));
                let mut cache = KeyCache::new(dim, format);
                cache.push(&keys);
                let mut rounded = keys.clone();
                if format == KeyFormat::Fp8 {
                    for key in rounded.chunks_exact_mut(dim) {
                        for block in key.chunks_mut(BLOCK) {
                            let width = block.len();
                            fp8::round_fp8(block, width);
                        }
                    }
                }
                let scores = index_scores(&q, &w, n_heads, &cache, 0);
                for t in 0..n {
                    for s in 0..=t {
                        let want: f64 = (0..n_heads)
                            .map(|head| {
                                let q = &q[(t * n_heads + head) * dim..][..dim];
                                let k = &rounded[s * dim..][..dim];
                                let dot: f64 = q
                                    .iter()
                                    .zip(k)
                                    .map(|(q, k)| f64::from(*q) * f64::from(*k))
                                    .sum();
                                f64::from(w[t * n_heads + head]) * dot.max(0.0)
                            })
                            .sum();
                        let got = f64::from(scores[t * n + s]);
                        // 130 sums of at most 130 in 13 heads: 150 roundings of 6e-8 of 1700.
                        assert!(
                            (got - want).abs() <= 1e-4 * (1.0 + want.abs()),
                            "{format:?}, {n_heads} heads of {dim}, {t} on {s}: {got} is not {want}"
                        );
                    }
                    assert!(
                        scores[t * n + t + 1..(t + 1) * n]
                            .iter()
                            .all(|&s| s == f32::NEG_INFINITY)
                    );
                    // One token alone: the same bits, the same selection.
                    let (q, w) = (
                        &q[t * n_heads * dim..][..n_heads * dim],
                        &w[t * n_heads..][..n_heads],
                    );
                    assert_eq!(
                        index_scores(q, w, n_heads, &cache, t),
                        scores[t * n..][..=t]
                    );
                    let k = 5;
                    let none = Forced::default();
                    let alone = select(q, w, n_heads, &cache, t, k, &none).unwrap();
                    assert_eq!(alone.indices, top_k(&scores[t * n..][..=t], k));
                }
                let together = select(&q, &w, n_heads, &cache, 0, 5, &Forced::default()).unwrap();
                for t in 0..n {
                    assert_eq!(
                        together.indices[t * 5..][..5],
                        top_k(&scores[t * n..][..=t], 5)
                    );
                }
            }
        }
    }

    #[test]
    fn truncated_keys_are_forgotten_and_rewritten() {
        let (dim, n) = (8, 40);
        let (keys, q) = (numbers(n * dim, 0.1), numbers(2 * dim, 0.2));
        let mut cache = KeyCache::new(dim, KeyFormat::F32);
        cache.push(&keys);
        let want = index_scores(&q, &[1.0, -0.5], 2, &cache, n - 1);
        cache.truncate(17);
        cache.push(&numbers(5 * dim, 7.0));
        cache.truncate(17);
        cache.push(&keys[17 * dim..]);
        assert_eq!(index_scores(&q, &[1.0, -0.5], 2, &cache, n - 1), want);
    }

    #[test]
    fn a_nan_score_is_told_by_its_token() {
        let mut cache = KeyCache::new(4, KeyFormat::F32);
        let mut keys = numbers(40 * 4, 0.1);
        keys[30 * 4] = f32::NAN;
        cache.push(&keys);
        let q = numbers(40 * 4, 0.2);
        assert_eq!(
            select(&q, &[1.0; 40], 1, &cache, 0, 2, &Forced::default()),
            Err(30)
        );
    }
}
