//! The lightning indexer: queries, scores and the best of them.

use shaders::key_cache;

use super::numbers::{BLOCK, Fp8Block, dot, float, floats, set, set_all};
use super::packed::key;
use super::{Asked, bound};
use crate::selection;

/// Heads turned, for FP8 keys transformed and rounded as keys are; head weights scaled.
pub(super) fn index_query(asked: &Asked, buffers: &mut [Vec<u32>]) {
    let [q, projected, angles, index_q, index_w] = bound(buffers);
    let (heads, di, dr) = (asked.size("heads"), asked.quads("di"), asked.size("dr"));
    for token in 0..asked.size("tokens") {
        let angles = floats(angles, token * dr, dr);
        for head in 0..heads {
            let at = token * heads + head;
            let from = token * asked.quads("q_stride") + asked.quads("q_offset") + head * di;
            let mut query = floats(q, from, di);
            rope(&mut query, &angles, asked.knob("INTERLEAVED") == 1);
            if asked.knob("KEYS") == key_cache::FP8 {
                query = rounded(&hadamard(&query, asked.float("hadamard")));
            }
            set_all(index_q, at * di, &query);
            let w = token * asked.size("stride") + asked.size("w_offset") + head;
            set(index_w, at, float(projected, w) * asked.float("factor"));
        }
    }
}

fn rounded(x: &[f64]) -> Vec<f64> {
    x.chunks(BLOCK)
        .flat_map(|block| Fp8Block::of(block).values().collect::<Vec<_>>())
        .collect()
}

/// Turns the first channels by `angles`, cosines, then sines.
pub(super) fn rope(x: &mut [f64], angles: &[f64], interleaved: bool) {
    let half = angles.len() / 2;
    let (cosines, sines) = angles.split_at(half);
    for i in 0..half {
        let [first, second] = match interleaved {
            true => [2 * i, 2 * i + 1],
            false => [i, i + half],
        };
        let (a, b) = (x[first], x[second]);
        x[first] = a * cosines[i] - b * sines[i];
        x[second] = a * sines[i] + b * cosines[i];
    }
}

/// The product with Sylvester's matrix, `(-1)^popcount(i & j)`, times `factor`.
pub(super) fn hadamard(x: &[f64], factor: f64) -> Vec<f64> {
    let sign = |i: usize, j: usize| match (i & j).count_ones() % 2 {
        0 => 1.0,
        _ => -1.0,
    };
    let element = |i| -> f64 { x.iter().enumerate().map(|(j, x)| sign(i, j) * x).sum() };
    (0..x.len()).map(|i| element(i) * factor).collect()
}

/// `scores[t, s] = sum over h of w[t, h] * relu(q[t, h] . k[s])` for `s <= position + t`.
pub(super) fn index_scores(asked: &Asked, buffers: &mut [Vec<u32>]) {
    let [index_q, index_w, keys, scores] = bound(buffers);
    let (tokens, heads, di) = (asked.size("tokens"), asked.size("heads"), asked.size("di"));
    for position in 0..asked.size("position") + tokens {
        let key = key(asked.knob("KEYS"), keys, position, di);
        // The first token that sees this key, and those behind it.
        for token in position.saturating_sub(asked.size("position"))..tokens {
            let row = (asked.size("first_row") + token) * heads;
            let weighed = (row..row + heads).map(|at| {
                let product = dot(&floats(index_q, at * di, di), &key);
                // A NaN stays.
                let relu = if product <= 0.0 { 0.0 } else { product };
                float(index_w, at) * relu
            });
            let to = token * asked.size("scores_stride") + position;
            set(scores, to, weighed.sum());
        }
    }
}

/// Ascending positions of the `k` best of each row, all and -1 where there are no more.
pub(super) fn top_k(asked: &Asked, buffers: &mut [Vec<u32>]) {
    let [scores, selection, status] = bound(buffers);
    let k = asked.size("k");
    for token in 0..asked.size("tokens") {
        let position = asked.u32("position") + token as u32;
        let n = position as usize + 1;
        let from = token * asked.size("scores_stride");
        let row: Vec<f32> = scores[from..][..n]
            .iter()
            .map(|&word| f32::from_bits(word))
            .collect();
        let is_bad = n > k && row.iter().any(|score| score.is_nan());
        let chosen = if is_bad {
            // The lowest position with a NaN stays.
            status[0] = status[0].max(0x8000_0000 - position);
            (0..k as i32).collect()
        } else {
            selection::top_k(&row, k)
        };
        let to = (asked.size("first_row") + token) * k;
        for (slot, position) in chosen.into_iter().enumerate() {
            selection[to + slot] = position as u32;
        }
    }
}
