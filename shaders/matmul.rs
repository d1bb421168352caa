//! Matrix times many vectors: every linear layer of a prefill step.

use crate::kernel::{Cost, Dispatch, Kernel, Knob, Tuning};
use crate::matvec;
pub use crate::matvec::{Call, Params};
use crate::pieces::plain;
use crate::weights::{DTYPES, WEIGHTS, bytes};

/// `y[t, r] = sum over c of x[t, c] * W[r, c]` for any number of tokens, in tiles.
pub const KERNEL: Kernel = Kernel {
    name: "matmul",
    pieces: &[WEIGHTS, plain(include_str!("matmul.wgsl"))],
    bindings: &["x", "w", "scales", "y"],
    knobs: &[
        Knob::new("DTYPE", 0, DTYPES),
        Knob::new("TILE_TOKENS", 64, &[32, 64]),
    ],
    params: matvec::KERNEL.params,
    reference: matvec::KERNEL.reference,
};

/// Large tiles from this many of them on: fewer would leave a large GPU idle.
const ENOUGH_TILES: usize = 192;

/// Plans the launch: of `matvec`, which has the same bindings, where lanes run on a CPU. There, for
/// 128 tokens and 1024 x 2048 weights, it took less than half of the processor time.
pub fn dispatch(call: &Call, tuning: &Tuning) -> Dispatch {
    if tuning.fat_threads {
        return matvec::tiled(call, tuning);
    }
    let tiles = |tokens: usize| (call.tokens.div_ceil(tokens), call.rows.div_ceil(2 * tokens));
    let (token_tiles, row_tiles) = tiles(64);
    let tile_tokens = match call.tokens > 32 && token_tiles * row_tiles >= ENOUGH_TILES {
        true => 64,
        false => 32,
    };
    let (token_tiles, row_tiles) = tiles(tile_tokens);
    let x_bytes = 4 * (call.tokens * call.cols) as u64;
    Dispatch {
        kernel: &KERNEL,
        knobs: vec![("DTYPE", call.dtype), ("TILE_TOKENS", tile_tokens as u32)],
        subgroups: tuning.subgroups,
        params: bytemuck::bytes_of(&call.params()).to_vec(),
        groups: [token_tiles.max(1) as u32, row_tiles.max(1) as u32, 1],
        cost: Cost {
            read_bytes: bytes(call.dtype, call.rows, call.cols) * token_tiles as u64
                + x_bytes * row_tiles as u64,
            write_bytes: 4 * (call.tokens * call.rows) as u64,
            flops: call.flops(),
        },
    }
}
