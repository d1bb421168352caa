//! Queries in the space of the latents: the key half of `kv_b_proj`, absorbed, and their rotation.

use crate::index_row::rope;
use crate::kernel::{Cost, Dispatch, Kernel, Knob, Tuning, params};
use crate::pieces::plain;
use crate::reference::{bound, floats, set_all};
use crate::weights::{DTYPES, Matrices, WEIGHTS, bytes, row_units};

/// `q_lat[t, j] = (transposed key rows of W of head j) q_nope[t, j]`, then the rotated `q_pe[t, j]`.
pub const KERNEL: Kernel = Kernel {
    name: "absorb",
    pieces: &[WEIGHTS, plain(include_str!("absorb.wgsl"))],
    bindings: &["q", "w_kvb", "scales", "angles", "q_lat"],
    knobs: &[
        Knob::new("DTYPE", 0, DTYPES),
        Knob::new("TOKENS", 1, &[1, 2, 4, 8]),
        Knob::new("PARTS", 8, &[1, 8]),
    ],
    params: Params::LAYOUT,
    reference,
};

/// Columns of a workgroup.
const TILE_COLS: usize = 128;

params! {
    tokens: u32,
    heads: u32,
    dn: u32,
    dr: u32,
    dv: u32,
    rank: u32,
    row_units: u32,
    q_stride: u32,
}

/// The sizes of one call. All but counts are multiples of 4.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Type of W: f32, bf16, f16, e4m3, int4 (0 to 4).
    pub dtype: u32,
    /// Rows of `q`.
    pub tokens: usize,
    /// Attention heads.
    pub heads: usize,
    /// Channels of a head without position.
    pub dn: usize,
    /// Channels of a head with position, which are rotated.
    pub dr: usize,
    /// Channels of a value: rows of W of a head that are skipped.
    pub dv: usize,
    /// Channels of a latent: columns of W.
    pub rank: usize,
    /// Values from one row of `q` to the next.
    pub q_stride: usize,
}

/// Plans the launch.
pub fn dispatch(call: &Call, tuning: &Tuning) -> Dispatch {
    let params = Params {
        tokens: call.tokens as u32,
        heads: call.heads as u32,
        dn: call.dn as u32,
        dr: call.dr as u32,
        dv: call.dv as u32,
        rank: call.rank as u32,
        row_units: row_units(call.dtype, call.rank) as u32,
        q_stride: call.q_stride as u32,
    };
    let tile = call.tokens.clamp(1, 8).next_power_of_two();
    let rows = call.tokens * call.heads;
    Dispatch {
        kernel: &KERNEL,
        knobs: vec![
            ("DTYPE", call.dtype),
            ("TOKENS", tile as u32),
            ("PARTS", if tuning.fat_threads { 1 } else { 8 }),
        ],
        subgroups: tuning.subgroups,
        params: bytemuck::bytes_of(&params).to_vec(),
        groups: [
            call.tokens.div_ceil(tile).max(1) as u32,
            call.heads as u32,
            call.rank.div_ceil(TILE_COLS) as u32,
        ],
        cost: Cost {
            read_bytes: bytes(call.dtype, call.heads * call.dn, call.rank)
                + 4 * (rows * (call.dn + call.dr) + call.tokens * call.dr) as u64,
            write_bytes: 4 * (rows * (call.rank + call.dr)) as u64,
            flops: (rows * (2 * call.dn * call.rank + 3 * call.dr)) as u64,
        },
    }
}

fn reference(dispatch: &Dispatch, buffers: &mut [Vec<u32>]) {
    let [q, w_kvb, scales, angles, q_lat] = bound(buffers);
    let [heads, dn, dr, dv] = dispatch.sizes(["heads", "dn", "dr", "dv"]);
    let [tokens, rank, q_stride] = dispatch.sizes(["tokens", "rank", "q_stride"]);
    let w_kvb = Matrices::new(dispatch, w_kvb, scales, [heads * (dn + dv), rank]);
    for head in 0..heads {
        let key_rows: Vec<_> = (0..dn).map(|d| w_kvb.row(head * (dn + dv) + d)).collect();
        for token in 0..tokens {
            let from = token * q_stride + head * (dn + dr);
            let mut query = vec![0.0; rank];
            for (x, row) in floats(q, from, dn).into_iter().zip(&key_rows) {
                for (sum, weight) in query.iter_mut().zip(row) {
                    *sum += x * weight;
                }
            }
            let mut pe = floats(q, from + dn, dr);
            rope(&mut pe, &floats(angles, token * dr, dr), true);
            query.extend(pe);
            set_all(q_lat, (token * heads + head) * (rank + dr), &query);
        }
    }
}
