//! Attention in the expanded form: keys and values of each head are made from the latents.
//!
//! Cheaper than the absorbed form for short prefill, equal in exact arithmetic, not in bits. A
//! worker takes a head. Keys are expanded a block at a time, so that scratch does not grow with the
//! context beyond the scores of the tokens at hand.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::attention::{AttentionWeights, Call, Readable, project};
use super::latents::{Gathered, KEYS};
use super::simd::{combine_all, dispatch, dots, softmax};
use super::workspace_per_worker;
use crate::config::Heads;

/// What one worker does: all tokens of one head.
struct Task<'a> {
    call: Call<'a>,
    head: usize,
    /// `[tokens, dv]`.
    out: &'a mut [f32],
    /// First token whose weights are kept.
    first_weighed: usize,
    /// `[tokens from first_weighed, slots]`.
    weights: Vec<f32>,
    n_slots: usize,
}

/// As [`super::attend`], in the expanded form.
pub fn attend_mha(call: Call, out: &mut [f32], weights: Option<&mut AttentionWeights>) {
    let Heads { n_heads, dv, .. } = call.heads;
    let (n, n_slots) = (call.n_tokens(), call.n_slots());
    let first_weighed = weights.as_ref().map_or(n, |weights| weights.first);
    let mut outs = vec![0.0; out.len()]; // [heads, tokens, dv]
    let kept: Vec<Vec<f32>> = outs
        .par_chunks_mut(n * dv)
        .enumerate()
        .map(|(head, out)| {
            let weights = vec![0.0; (n - first_weighed) * n_slots];
            let mut task = Task {
                call,
                head,
                out,
                first_weighed,
                weights,
                n_slots,
            };
            dispatch(&mut task);
            task.weights
        })
        .collect();
    for (head, from) in outs.chunks_exact(n * dv).enumerate() {
        for (token, from) in from.chunks_exact(dv).enumerate() {
            out[(token * n_heads + head) * dv..][..dv].copy_from_slice(from);
        }
    }
    if let Some(weights) = weights {
        weights.prepare(n, n_heads, n_slots);
        for (head, kept) in kept.iter().enumerate() {
            for (row, kept) in kept.chunks_exact(n_slots).enumerate() {
                weights.data[(row * n_heads + head) * n_slots..][..n_slots].copy_from_slice(kept);
            }
        }
    }
}

impl WithSimd for &mut Task<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match S::F32_LANES {
            16 => self.work::<S, 1>(simd),
            8 => self.work::<S, 2>(simd),
            4 => self.work::<S, 4>(simd),
            _ => self.work::<S, 16>(simd),
        }
    }
}

impl Task<'_> {
    #[inline(always)]
    fn work<S: Simd, const P: usize>(&mut self, simd: S) {
        let Heads {
            n_heads,
            dn,
            dr,
            dv,
            rank,
            scale,
        } = self.call.heads;
        let n = self.out.len() / dv;
        let context = self.call.position + n;
        let (mut uk_scratch, mut uv_scratch) = (Vec::new(), Vec::new());
        let w_uk = self
            .call
            .w_kvb
            .several(self.head * (dn + dv), dn, &mut uk_scratch);
        let w_uv = self
            .call
            .w_kvb
            .several(self.head * (dn + dv) + dn, dv, &mut uv_scratch);
        let tokens_at_once = (workspace_per_worker() / 2 / context).clamp(1, n);
        let mut latents = Vec::new();
        let mut expanded = vec![0.0; KEYS * (dn + dr).max(dv)];
        let mut scores = Vec::new();
        for first in (0..n).step_by(tokens_at_once) {
            let here = tokens_at_once.min(n - first);
            // The last of these tokens sees the most.
            let n_keys = self.call.position + first + here;
            scores.clear();
            scores.resize(here * n_keys, f32::NEG_INFINITY);
            for key in (0..n_keys).step_by(KEYS) {
                let keys =
                    Gathered::new(self.call.cache, key..n_keys.min(key + KEYS), &mut latents);
                for (into, row) in expanded.chunks_exact_mut(dn + dr).zip(keys.rows()) {
                    project::<S, P>(simd, w_uk, &row[..rank], &mut into[..dn]);
                    into[dn..].copy_from_slice(&row[rank..]);
                }
                for row in 0..here {
                    let token = first + row;
                    let q = &self.call.q[(token * n_heads + self.head) * (dn + dr)..][..dn + dr];
                    let visible = (self.call.position + token + 1)
                        .saturating_sub(key)
                        .min(keys.rows().len());
                    let into = &mut scores[row * n_keys + key..][..visible];
                    for (score, k) in into.iter_mut().zip(expanded.chunks_exact(dn + dr)) {
                        let [[sum]] = dots::<S, P, 1, 1>(simd, [q], [k]);
                        *score = sum * scale;
                    }
                }
            }
            for (row, scores) in scores.chunks_exact_mut(n_keys).enumerate() {
                self.weigh(first + row, scores);
            }
            for key in (0..n_keys).step_by(KEYS) {
                let keys =
                    Gathered::new(self.call.cache, key..n_keys.min(key + KEYS), &mut latents);
                for (into, row) in expanded.chunks_exact_mut(dv).zip(keys.rows()) {
                    project::<S, P>(simd, w_uv, &row[..rank], into);
                }
                let n_here = keys.rows().len();
                let values: Vec<&[f32]> = expanded.chunks_exact(dv).take(n_here).collect();
                for row in 0..here {
                    let weights = &scores[row * n_keys + key..][..n_here];
                    let out = &mut self.out[(first + row) * dv..][..dv];
                    combine_all::<S, P, 1>(simd, [weights], &values, [out]);
                }
            }
        }
    }

    /// From the scores of all visible positions to weights, 0 where the token may not read.
    #[inline(always)]
    fn weigh(&mut self, token: usize, scores: &mut [f32]) {
        let readable = Readable::of(self.call.selection, token, self.call.position);
        let slots = match readable {
            Readable::Chosen(positions) => {
                let mut chosen: Vec<f32> = positions.iter().map(|&s| scores[s as usize]).collect();
                softmax(&mut chosen);
                scores.fill(0.0);
                for (&position, weight) in positions.iter().zip(&chosen) {
                    scores[position as usize] = *weight;
                }
                chosen
            }
            Readable::Below(n) => {
                softmax(&mut scores[..n]);
                scores[n..].fill(0.0);
                Vec::new()
            }
        };
        if let Some(row) = token.checked_sub(self.first_weighed) {
            let into = &mut self.weights[row * self.n_slots..][..self.n_slots];
            let from = if slots.is_empty() {
                &scores[..readable.len()]
            } else {
                &slots
            };
            into[..from.len()].copy_from_slice(from);
        }
    }
}
