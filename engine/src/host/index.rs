//! The lightning indexer on the host: scores and selection over the [`KeyCache`].
//!
//! A lane is a key, so a dot product needs no fold, and ReLU and the sum over heads work on sixteen
//! keys at once. A sum over channels runs in order, one lane a key.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::keys::KeyCache;
use super::simd::{LANES, Wide, dispatch, lanes, mul_add, splat, split};
use super::workspace_per_worker;
use crate::selection::{Forced, Selection, top_k_forced};

/// Queries of a run of tokens.
#[derive(Clone, Copy, Debug)]
pub struct Queries<'a> {
    /// `[tokens, heads × dim]`, rotated, and rounded if keys are FP8.
    pub q: &'a [f32],
    /// Head weights `[tokens, heads]`, scaled by `heads^-0.5 · dim^-0.5`.
    pub w: &'a [f32],
    /// `index_n_heads`.
    pub n_heads: usize,
    /// Position of the first token.
    pub position: usize,
}

impl<'a> Queries<'a> {
    /// How many tokens.
    pub fn n(&self) -> usize {
        self.w.len() / self.n_heads
    }

    /// Rows `first..first + n`.
    pub fn rows(&self, first: usize, n: usize) -> Self {
        let width = self.q.len() / self.n();
        Self {
            q: &self.q[first * width..][..n * width],
            w: &self.w[first * self.n_heads..][..n * self.n_heads],
            n_heads: self.n_heads,
            position: self.position + first,
        }
    }
}

/// Scores of every token over the cache up to the last of them, `[tokens, position + tokens]`; −∞ where
/// a position comes after the token.
pub fn index_scores(queries: Queries, cache: &KeyCache) -> Vec<f32> {
    let context = queries.position + queries.n();
    let mut scores = vec![0.0; queries.n() * context];
    fill(queries, cache, context, &mut scores);
    for (token, scores) in scores.chunks_exact_mut(context).enumerate() {
        scores[queries.position + token + 1..].fill(f32::NEG_INFINITY);
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

/// The `k` positions with the highest scores for every token, among those not after it; ties to the lower
/// position. `forced` positions are in or out whatever their scores. Also gives the scores of the rows
/// from `keep` on, as [`index_scores`] would.
///
/// # Errors
/// A score is NaN: the position of its token, the first of several.
pub fn select(
    queries: Queries,
    cache: &KeyCache,
    k: usize,
    forced: &Forced,
    keep: Option<usize>,
) -> Result<(Selection, Vec<f32>), usize> {
    let (n, position) = (queries.n(), queries.position);
    let context = position + n;
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
        let mut scores = vec![0.0; context];
        fill(queries, cache, context, &mut scores);
        choose(position, &scores, &mut indices, &mut Vec::new())?;
        let kept = if keep == Some(0) { scores } else { Vec::new() };
        return Ok((Selection { k, indices }, kept));
    }
    let rows = (workspace_per_worker() / context).clamp(1, ROWS);
    let kept: Vec<Result<Vec<f32>, usize>> = indices
        .par_chunks_mut(rows * k)
        .enumerate()
        .map(|(group, indices)| {
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
            let (mut keys, mut kept) = (Vec::new(), Vec::new());
            for (row, indices) in indices.chunks_exact_mut(k).enumerate() {
                let scores = &scores[row * width..][..width];
                choose(queries.position + row, scores, indices, &mut keys)?;
                if keep.is_some_and(|keep| group * rows + row >= keep) {
                    kept.extend_from_slice(&scores[..=queries.position + row]);
                    let hidden = context - (queries.position + row + 1);
                    kept.extend(std::iter::repeat_n(f32::NEG_INFINITY, hidden));
                }
            }
            Ok(kept)
        })
        .collect();
    let kept = kept.into_iter().collect::<Result<Vec<_>, usize>>()?;
    Ok((Selection { k, indices }, kept.concat()))
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
    use super::*;
    use crate::cache::KeyFormat;
    use crate::config::FP8_BLOCK as BLOCK;
    use crate::selection::top_k;

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
                let all = Queries {
                    q: &q,
                    w: &w,
                    n_heads,
                    position: 0,
                };
                let scores = index_scores(all, &cache);
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
                    let (one, none) = (all.rows(t, 1), Forced::default());
                    assert_eq!(index_scores(one, &cache), scores[t * n..][..=t]);
                    let (alone, kept) = select(one, &cache, 5, &none, Some(0)).unwrap();
                    assert_eq!(alone.indices, top_k(&scores[t * n..][..=t], 5));
                    assert_eq!(kept, scores[t * n..][..=t]);
                }
                for keep in [None, Some(0), Some(1), Some(n - 1)] {
                    let (together, kept) =
                        select(all, &cache, 5, &Forced::default(), keep).unwrap();
                    for t in 0..n {
                        assert_eq!(
                            together.indices[t * 5..][..5],
                            top_k(&scores[t * n..][..=t], 5)
                        );
                    }
                    assert_eq!(kept, scores[keep.unwrap_or(n) * n..]);
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
        let queries = Queries {
            q: &q,
            w: &[1.0, -0.5],
            n_heads: 2,
            position: n - 1,
        };
        let want = index_scores(queries, &cache);
        cache.truncate(17);
        cache.push(&numbers(5 * dim, 7.0));
        cache.truncate(17);
        cache.push(&keys[17 * dim..]);
        assert_eq!(index_scores(queries, &cache), want);
    }

    #[test]
    fn a_nan_score_is_told_by_its_token() {
        let mut cache = KeyCache::new(4, KeyFormat::F32);
        let mut keys = numbers(40 * 4, 0.1);
        keys[30 * 4] = f32::NAN;
        cache.push(&keys);
        let q = numbers(40 * 4, 0.2);
        let queries = Queries {
            q: &q,
            w: &[1.0; 40],
            n_heads: 1,
            position: 0,
        };
        let found = select(queries, &cache, 2, &Forced::default(), None);
        assert_eq!(found, Err(30));
    }
}
