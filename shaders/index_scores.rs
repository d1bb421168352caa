//! Scores of the lightning indexer: every visible key against every head of its tokens' queries.

use crate::kernel::{Cost, Dispatch, Kernel, Knob, Tuning, params};
use crate::key_cache;
use crate::pieces::{NUMBERS, plain};
use crate::reference::{bound, dot, float, floats, set};

/// `scores[t, s] = sum_h w[t, h] * relu(q[t, h] . k[s])` for the keys that token `t` may see.
pub const KERNEL: Kernel = Kernel {
    name: "index_scores",
    pieces: &[NUMBERS, plain(include_str!("index_scores.wgsl"))],
    bindings: &["index_q", "index_w", "keys", "scores"],
    knobs: &[
        Knob::new("KEYS", 2, &[0, 1, 2]),
        Knob::new("RAGGED", 0, &[0, 1]),
        Knob::new("HEADS", 64, &[8, 16, 32, 64]),
        Knob::new("SHAPE", ONE_TOKEN, &[ONE_TOKEN, MANY_TOKENS, LANES_ALONE]),
    ],
    params: Params::LAYOUT,
    reference,
};

const ONE_TOKEN: u32 = 0;
const MANY_TOKENS: u32 = 1;
const LANES_ALONE: u32 = 2;

/// Keys of a workgroup.
const KEY_TILE: usize = 64;

/// Keys of a workgroup with [`LANES_ALONE`]: 16 for each of 8 lanes.
const ALONE_TILE: usize = 128;

/// Heads of a workgroup's tokens with [`MANY_TOKENS`].
const MANY_ROWS: usize = 128;

params! {
    tokens: u32,
    first_row: u32,
    heads: u32,
    di: u32,
    position: u32,
    scores_stride: u32,
}

/// The sizes of one call: some rows of a pass.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Format of the key cache: f32, bf16 or FP8 in pages of 64 tokens (0, 1, 2). The cache's buffer is whole
    /// 16-byte units.
    pub keys: u32,
    /// Rows of `scores`.
    pub tokens: usize,
    /// Row of `index_q` and `index_w` that row 0 of `scores` belongs to.
    pub first_row: usize,
    /// Heads of the indexer.
    pub heads: usize,
    /// Channels of a head and of a key, a multiple of 4.
    pub di: usize,
    /// Position of the first token: it sees `position + 1` keys, each token one more than the one before it.
    pub position: usize,
    /// Scores in a row of `scores`, at least `position + tokens`.
    pub scores_stride: usize,
}

/// Plans the launch: workgroups with the same keys follow one another.
pub fn dispatch(call: &Call, tuning: &Tuning) -> Dispatch {
    let heads = (call.heads as u32).next_power_of_two().clamp(8, 64);
    let (shape, tile_tokens, key_tile) = match (tuning.fat_threads, call.tokens) {
        (true, _) => (LANES_ALONE, 1, ALONE_TILE),
        (false, 0..=1) => (ONE_TOKEN, 1, KEY_TILE),
        (false, _) => (MANY_TOKENS, MANY_ROWS / heads as usize, KEY_TILE),
    };
    let params = Params {
        tokens: call.tokens as u32,
        first_row: call.first_row as u32,
        heads: call.heads as u32,
        di: call.di as u32,
        position: call.position as u32,
        scores_stride: call.scores_stride as u32,
    };
    let n_keys = call.position + call.tokens;
    Dispatch {
        kernel: &KERNEL,
        knobs: vec![
            ("KEYS", call.keys),
            ("RAGGED", u32::from(!call.di.is_multiple_of(16))),
            ("HEADS", heads),
            ("SHAPE", shape),
        ],
        subgroups: tuning.subgroups,
        params: bytemuck::bytes_of(&params).to_vec(),
        groups: [
            call.tokens.div_ceil(tile_tokens).max(1) as u32,
            n_keys.div_ceil(key_tile).max(1) as u32,
            1,
        ],
        cost: cost(call),
    }
}

fn cost(call: &Call) -> Cost {
    let (tokens, heads, di) = (call.tokens as u64, call.heads as u64, call.di as u64);
    let n_keys = call.position as u64 + tokens;
    let key_bytes = match call.keys {
        0 => 4 * di,
        1 => 2 * di,
        _ => di + 4 * di.div_ceil(128),
    };
    // Each token sees one more than the one before it.
    let pairs = tokens * call.position as u64 + tokens * (tokens + 1) / 2;
    Cost {
        read_bytes: n_keys * key_bytes + 4 * tokens * heads * (di + 1),
        write_bytes: 4 * pairs,
        flops: pairs * heads * (2 * di + 2),
    }
}

fn reference(dispatch: &Dispatch, buffers: &mut [Vec<u32>]) {
    let [index_q, index_w, keys, scores] = bound(buffers);
    let [tokens, first_row, heads, di] = dispatch.sizes(["tokens", "first_row", "heads", "di"]);
    let [first, scores_stride] = dispatch.sizes(["position", "scores_stride"]);
    for position in 0..first + tokens {
        let key = key_cache::row(dispatch.knob("KEYS"), di, keys, position);
        // The first token that sees this key, and those behind it.
        for token in position.saturating_sub(first)..tokens {
            let row = (first_row + token) * heads;
            let weighed = (row..row + heads).map(|at| {
                let product = dot(&floats(index_q, at * di, di), &key);
                // A NaN stays.
                let relu = if product <= 0.0 { 0.0 } else { product };
                float(index_w, at) * relu
            });
            set(scores, token * scores_stride + position, weighed.sum());
        }
    }
}
