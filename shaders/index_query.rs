//! The indexer's queries and head weights.

use crate::index_row::{INDEX_ROW, MOST_CHANNELS, hadamard, hadamard_factor, hadamard_flops, rope};
use crate::kernel::{Cost, Dispatch, Kernel, Knob, Tuning, params, spread};
use crate::key_cache;
use crate::pieces::{NUMBERS, plain};
use crate::reference::{bound, float, floats, fp8_rounded, set, set_all};

/// `index_q` and `index_w`, ready to be scored against keys.
pub const KERNEL: Kernel = Kernel {
    name: "index_query",
    pieces: &[NUMBERS, INDEX_ROW, plain(include_str!("index_query.wgsl"))],
    bindings: &["q", "projected", "angles", "index_q", "index_w"],
    knobs: &[
        Knob::new("WG", 64, &[32, 64]),
        Knob::new("KEYS", key_cache::F32, key_cache::FORMATS),
        Knob::new("INTERLEAVED", 0, &[0, 1]),
        Knob::new(
            "CHANNELS",
            MOST_CHANNELS as u32,
            &[FEW_CHANNELS as u32, MOST_CHANNELS as u32],
        ),
    ],
    params: Params::LAYOUT,
    reference,
};

/// What all released models get by with.
const FEW_CHANNELS: usize = 128;

params! {
    tokens: u32,
    heads: u32,
    di: u32,
    q_stride: u32,
    q_offset: u32,
    dr: u32,
    stride: u32,
    w_offset: u32,
    hadamard: f32,
    factor: f32,
}

/// The sizes of one call.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Format of the key cache, see [`key_cache`]. With FP8, `di` must be a power of two.
    pub keys: u32,
    /// Whether channels are paired (2i, 2i + 1) rather than (i, i + dr/2).
    pub interleaved: bool,
    /// Rows of all buffers.
    pub tokens: usize,
    /// Heads of the indexer.
    pub heads: usize,
    /// Channels of a head, a multiple of 4, at least `dr` and at most
    /// [`MOST_CHANNELS`].
    pub di: usize,
    /// Rope channels, a multiple of 4.
    pub dr: usize,
    /// Elements between the starts of two rows of `q`, a multiple of 4.
    pub q_stride: usize,
    /// Where in a row of `q` the first head starts, a multiple of 4.
    pub q_offset: usize,
    /// Elements between the starts of two projected rows.
    pub stride: usize,
    /// Where in a projected row the head weights start.
    pub w_offset: usize,
}

/// Plans the launch.
///
/// # Panics
/// A head that the kernel cannot hold or transform, see [`Call::keys`] and [`Call::di`].
pub fn dispatch(call: &Call, tuning: &Tuning) -> Dispatch {
    let params = Params {
        tokens: call.tokens as u32,
        heads: call.heads as u32,
        di: (call.di / 4) as u32,
        q_stride: (call.q_stride / 4) as u32,
        q_offset: (call.q_offset / 4) as u32,
        dr: call.dr as u32,
        stride: call.stride as u32,
        w_offset: call.w_offset as u32,
        hadamard: hadamard_factor(call.keys, call.di),
        factor: ((call.heads * call.di) as f64).sqrt().recip() as f32,
    };
    let channels = if call.di <= FEW_CHANNELS {
        FEW_CHANNELS
    } else {
        MOST_CHANNELS
    };
    let n_heads = call.tokens * call.heads;
    let [x, y] = spread(n_heads as u32);
    let head_flops = 3 * call.dr as u64 + hadamard_flops(call.keys, call.di);
    let rounding_flops = match call.keys {
        key_cache::FP8 => 2 * call.di as u64,
        _ => 0,
    };
    Dispatch {
        kernel: &KERNEL,
        knobs: vec![
            ("WG", if tuning.fat_threads { 32 } else { 64 }),
            ("KEYS", call.keys),
            ("INTERLEAVED", u32::from(call.interleaved)),
            ("CHANNELS", channels as u32),
        ],
        subgroups: tuning.subgroups,
        params: bytemuck::bytes_of(&params).to_vec(),
        groups: [x, y, 1],
        cost: Cost {
            read_bytes: 4 * (n_heads * (call.di + 1) + call.tokens * call.dr) as u64,
            write_bytes: 4 * (n_heads * (call.di + 1)) as u64,
            flops: n_heads as u64 * (head_flops + rounding_flops + 1),
        },
    }
}

fn reference(dispatch: &Dispatch, buffers: &mut [Vec<u32>]) {
    let [q, projected, angles, index_q, index_w] = bound(buffers);
    let [heads, dr, stride, w_offset] = dispatch.sizes(["heads", "dr", "stride", "w_offset"]);
    let [di, q_stride, q_offset] = dispatch.quads(["di", "q_stride", "q_offset"]);
    for token in 0..dispatch.size("tokens") {
        let angles = floats(angles, token * dr, dr);
        for head in 0..heads {
            let mut query = floats(q, token * q_stride + q_offset + head * di, di);
            rope(&mut query, &angles, dispatch.knob("INTERLEAVED") == 1);
            if dispatch.knob("KEYS") == key_cache::FP8 {
                query = fp8_rounded(&hadamard(&query, dispatch.float("hadamard")));
            }
            let at = token * heads + head;
            set_all(index_q, at * di, &query);
            let weight = float(projected, token * stride + w_offset + head);
            set(index_w, at, weight * dispatch.float("factor"));
        }
    }
}
