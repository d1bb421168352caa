//! Absorbed attention over latents: each latent that is read serves all heads of its token.
//!
//! Formulas are in [`crate::definition`]. A worker takes some tokens with all heads, or one
//! token with some heads. Sums run over the channels in sixteen lanes and over the positions in
//! ascending order, so a token's bits depend on nothing but what it reads.

use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::latents::{Gathered, KEYS, LatentCache};
use super::matrix::Matrix;
use super::simd::{combine_all, dispatch, dots, softmax};
use super::workspace_per_worker;
use crate::config::Heads;
use crate::selection::Selection;

/// Attention weights of the rows from `first` on, `[rows, heads, slots]`, 0 in padding. Slots are
/// those of the selection, or all positions up to the last token where there is none.
#[derive(Clone, Debug, Default)]
pub struct AttentionWeights {
    /// First row.
    pub first: usize,
    /// Slots a head.
    pub n_slots: usize,
    /// The weights.
    pub data: Vec<f32>,
}

impl AttentionWeights {
    /// Asks for the rows from `first` on.
    pub fn new(first: usize) -> Self {
        Self {
            first,
            ..Self::default()
        }
    }

    /// Makes room for `n` rows.
    pub(super) fn prepare(&mut self, n: usize, n_heads: usize, n_slots: usize) {
        self.n_slots = n_slots;
        self.data = vec![0.0; (n - self.first.min(n)) * n_heads * n_slots];
    }
}

/// What a token may read: `positions[i]` for `i` in `0..n`.
#[derive(Clone, Copy)]
pub(super) enum Readable<'a> {
    /// These.
    Chosen(&'a [i32]),
    /// Everything below.
    Below(usize),
}

impl<'a> Readable<'a> {
    pub(super) fn of(selection: Option<&'a Selection>, row: usize, position: usize) -> Self {
        match selection {
            Some(selection) => Self::Chosen(selection.row(row)),
            None => Self::Below(position + row + 1),
        }
    }

    pub(super) fn len(self) -> usize {
        match self {
            Self::Chosen(positions) => positions.len(),
            Self::Below(n) => n,
        }
    }

    /// Positions `range`, of those that may be read.
    #[inline(always)]
    fn part(self, range: Range<usize>) -> impl ExactSizeIterator<Item = usize> + Clone + 'a {
        range.map(move |i| match self {
            Self::Chosen(positions) => positions[i] as usize,
            Self::Below(_) => i,
        })
    }
}

/// One attention call, in either form.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Sizes.
    pub heads: Heads,
    /// Queries `[tokens, heads × (dn + dr)]`, rotated.
    pub q: &'a [f32],
    /// `kv_b_proj` `[heads × (dn + dv), rank]`.
    pub w_kvb: Matrix<'a>,
    /// Latents up to the last of the tokens.
    pub cache: &'a LatentCache,
    /// Position of the first token.
    pub position: usize,
    /// What each token may read; `None` for everything up to itself.
    pub selection: Option<&'a Selection>,
}

impl Call<'_> {
    /// How many tokens ask.
    pub(super) fn n_tokens(&self) -> usize {
        let Heads {
            n_heads, dn, dr, ..
        } = self.heads;
        self.q.len() / (n_heads * (dn + dr))
    }

    /// Slots of the weights of a head.
    pub(super) fn n_slots(&self) -> usize {
        let context = self.position + self.n_tokens();
        self.selection.map_or(context, |selection| selection.k)
    }
}

/// What one worker does: some tokens with all heads, or one token with some heads.
struct Task<'a> {
    call: Call<'a>,
    tokens: Range<usize>,
    heads: Range<usize>,
    /// `[tokens, heads, dv]`.
    out: &'a mut [f32],
    /// `[tokens, heads, slots]`, empty if nobody asks.
    weights: &'a mut [f32],
    n_slots: usize,
}

/// Attends in the absorbed form: `out` `[tokens, heads × dv]`, and weights if they are asked for.
pub fn attend(call: Call, out: &mut [f32], weights: Option<&mut AttentionWeights>) {
    let Heads {
        n_heads,
        dr,
        dv,
        rank,
        ..
    } = call.heads;
    let (n, n_slots) = (call.n_tokens(), call.n_slots());
    let workers = rayon::current_num_threads();
    // Queries and outputs on the latents take at most half of the worker's scratch.
    let most_tokens = workspace_per_worker() / 2 / (n_heads * (2 * rank + dr));
    let (tokens_each, heads_each) = if n < workers {
        (1, n_heads.div_ceil(workers / n.max(1)))
    } else {
        (
            n.div_ceil(4 * workers).clamp(1, most_tokens.max(1)),
            n_heads,
        )
    };

    let mut none = AttentionWeights {
        first: n,
        ..AttentionWeights::default()
    };
    let weights = weights.unwrap_or(&mut none);
    weights.prepare(n, n_heads, n_slots);
    let first_weighed = weights.first;
    let mut left = weights.data.as_mut_slice();
    let mut tasks = Vec::new();
    for (block, out) in out.chunks_mut(tokens_each * n_heads * dv).enumerate() {
        let first = block * tokens_each;
        let tokens = first..first + out.len() / (n_heads * dv);
        // Rows before the first weighed share a task with it at most once; they get no room.
        let weighed = tokens.end.saturating_sub(first_weighed.max(tokens.start));
        let n_tokens = tokens.len();
        for (group, out) in out.chunks_mut(n_tokens * heads_each * dv).enumerate() {
            let heads = group * heads_each..group * heads_each + out.len() / (n_tokens * dv);
            let room = std::mem::take(&mut left);
            let (mine, rest) = room.split_at_mut(weighed * heads.len() * n_slots);
            left = rest;
            tasks.push(Task {
                call,
                tokens: tokens.clone(),
                heads,
                out,
                weights: mine,
                n_slots,
            });
        }
    }
    if let [task] = tasks.as_mut_slice() {
        task.run();
    } else {
        tasks
            .into_par_iter()
            .with_max_len(1)
            .for_each(|mut task| task.run());
    }
}

impl Task<'_> {
    fn run(&mut self) {
        dispatch(self);
    }
}

impl WithSimd for &mut Task<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match S::F32_LANES {
            16 => self.work::<S, 1, 4>(simd),
            8 => self.work::<S, 2, 2>(simd),
            4 => self.work::<S, 4, 2>(simd),
            _ => self.work::<S, 16, 1>(simd),
        }
    }
}

impl Task<'_> {
    #[inline(always)]
    fn work<S: Simd, const P: usize, const T: usize>(&mut self, simd: S) {
        let Heads {
            n_heads,
            dn,
            dr,
            dv,
            rank,
            scale,
        } = self.call.heads;
        let (n, h) = (self.tokens.len(), self.heads.len());
        let width = rank + dr;
        let stride = n_heads * (dn + dr);
        let mut scratch = Vec::new();

        // [q_nope W_UK ; q_pe], [tokens, heads, rank + dr]
        let mut queries = vec![0.0; n * h * width];
        for (at, head) in self.heads.clone().enumerate() {
            let w_uk = self.call.w_kvb.several(head * (dn + dv), dn, &mut scratch);
            let rows: Vec<&[f32]> = w_uk.chunks_exact(rank).collect();
            for (row, token) in self.tokens.clone().enumerate() {
                let q = &self.call.q[token * stride + head * (dn + dr)..][..dn + dr];
                let into = &mut queries[(row * h + at) * width..][..width];
                into[rank..].copy_from_slice(&q[dn..]);
                combine_all::<S, P, 1>(simd, [&q[..dn]], &rows, [&mut into[..rank]]);
            }
        }

        let mut outs = vec![0.0; n * h * rank]; // on the latents, [tokens, heads, rank]
        let mut latents = Vec::new();
        let mut scores = Vec::new();
        for (row, token) in self.tokens.clone().enumerate() {
            let readable = Readable::of(self.call.selection, token, self.call.position);
            let n_keys = readable.len();
            // Heads at a time, so that their scores stay within the workspace.
            let at_once = (workspace_per_worker() / 2 / n_keys.max(1)).clamp(1, h);
            for first in (0..h).step_by(at_once) {
                let group = first..h.min(first + at_once);
                let queries = &queries[(row * h + group.start) * width..][..group.len() * width];
                let outs = &mut outs[(row * h + group.start) * rank..][..group.len() * rank];
                scores.clear();
                scores.resize(group.len() * n_keys, 0.0);
                for first in (0..n_keys).step_by(KEYS) {
                    let part = readable.part(first..n_keys.min(first + KEYS));
                    let keys = Gathered::new(self.call.cache, part, &mut latents);
                    score::<S, P, T>(
                        simd,
                        queries,
                        keys.rows(),
                        scale,
                        n_keys,
                        first,
                        &mut scores,
                    );
                }
                for scores in scores.chunks_exact_mut(n_keys) {
                    softmax(scores);
                }
                for first in (0..n_keys).step_by(KEYS) {
                    let part = readable.part(first..n_keys.min(first + KEYS));
                    let keys = Gathered::new(self.call.cache, part, &mut latents);
                    weigh::<S, P, T>(simd, &scores, n_keys, first, keys.rows(), outs, rank);
                }
                self.keep(row, group, &scores, n_keys);
            }
        }

        // out = W_UV o_lat
        for (at, head) in self.heads.clone().enumerate() {
            let w_uv = self
                .call
                .w_kvb
                .several(head * (dn + dv) + dn, dv, &mut scratch);
            for row in 0..n {
                let latent = &outs[(row * h + at) * rank..][..rank];
                let out = &mut self.out[(row * h + at) * dv..][..dv];
                project::<S, P>(simd, w_uv, latent, out);
            }
        }
    }

    /// Keeps the weights of some heads of a token, if somebody asked for them.
    fn keep(&mut self, row: usize, heads: Range<usize>, scores: &[f32], n_keys: usize) {
        let h = self.heads.len();
        let weighed = self.weights.len() / (h * self.n_slots).max(1);
        let Some(row) = (row + weighed).checked_sub(self.tokens.len()) else {
            return;
        };
        let rows =
            self.weights[(row * h + heads.start) * self.n_slots..].chunks_exact_mut(self.n_slots);
        for (into, scores) in rows.zip(scores.chunks_exact(n_keys)) {
            into[..n_keys].copy_from_slice(scores);
        }
    }
}

/// Scores of some keys for all queries `[heads, width]`, times `scale`, to `first..` of `scores`
/// `[heads, n_keys]`.
#[inline(always)]
fn score<S: Simd, const P: usize, const T: usize>(
    simd: S,
    queries: &[f32],
    keys: &[&[f32]],
    scale: f32,
    n_keys: usize,
    first: usize,
    scores: &mut [f32],
) {
    let width = keys[0].len();
    let n_heads = queries.len() / width;
    for head in (0..n_heads).step_by(T) {
        let heads = T.min(n_heads - head);
        // Beyond the last they repeat it; what they give is thrown away.
        let q: [&[f32]; T] =
            std::array::from_fn(|t| &queries[(head + t.min(heads - 1)) * width..][..width]);
        for key in (0..keys.len()).step_by(T) {
            let here = T.min(keys.len() - key);
            let rows: [&[f32]; T] = std::array::from_fn(|r| keys[key + r.min(here - 1)]);
            let sums = dots::<S, P, T, T>(simd, q, rows);
            for (t, sums) in sums.iter().enumerate().take(heads) {
                let into = &mut scores[(head + t) * n_keys + first + key..][..here];
                for (score, sum) in into.iter_mut().zip(sums) {
                    *score = sum * scale;
                }
            }
        }
    }
}

/// Adds `Σ_s weights[head][s] · keys[s]` over some keys to `outs` `[heads, rank]`.
#[inline(always)]
fn weigh<S: Simd, const P: usize, const T: usize>(
    simd: S,
    weights: &[f32],
    n_keys: usize,
    first: usize,
    keys: &[&[f32]],
    outs: &mut [f32],
    rank: usize,
) {
    let of_head = |head: usize| &weights[head * n_keys + first..][..keys.len()];
    let (whole, rest) = outs.split_at_mut(outs.len() / (T * rank) * T * rank);
    let mut head = 0;
    for outs in whole.chunks_exact_mut(T * rank) {
        let mut outs = outs.chunks_exact_mut(rank);
        let into: [&mut [f32]; T] =
            std::array::from_fn(|_| outs.next().expect("a chunk holds that many heads"));
        combine_all::<S, P, T>(simd, std::array::from_fn(|t| of_head(head + t)), keys, into);
        head += T;
    }
    for out in rest.chunks_exact_mut(rank) {
        combine_all::<S, P, 1>(simd, [of_head(head)], keys, [out]);
        head += 1;
    }
}

/// `out = rows · x` for `rows` `[out, width]`.
#[inline(always)]
pub(super) fn project<S: Simd, const P: usize>(simd: S, rows: &[f32], x: &[f32], out: &mut [f32]) {
    let width = x.len();
    let n = out.len();
    for first in (0..n).step_by(4) {
        let here = 4.min(n - first);
        let rows: [&[f32]; 4] =
            std::array::from_fn(|r| &rows[(first + r.min(here - 1)) * width..][..width]);
        let sums = dots::<S, P, 4, 1>(simd, rows, [x]);
        for (out, [sum]) in out[first..first + here].iter_mut().zip(sums) {
            *out = sum;
        }
    }
}
