//! Rows of the embedding table for token ids.

use crate::kernel::{Cost, Dispatch, Kernel, Knob, Tuning, params};
use crate::pieces::plain;
use crate::reference::{bound, set_all};
use crate::weights::{Matrices, WEIGHTS, bytes, row_units};

/// `y[t] = table[ids[t]]` for the ids of a slice of the table.
pub const KERNEL: Kernel = Kernel {
    name: "embed",
    pieces: &[WEIGHTS, plain(include_str!("embed.wgsl"))],
    bindings: &["ids", "table", "scales", "y"],
    knobs: &[
        Knob::new("WG", WG, &[WG]),
        Knob::new("DTYPE", 0, &[0, 1, 2, 3]),
    ],
    params: Params::LAYOUT,
    reference,
};

const WG: u32 = 64;

params! {
    width: u32,
    row_units: u32,
    first_row: u32,
    n_rows: u32,
    tokens: u32,
    unused: u32,
}

/// The sizes of one call.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Type of the table: f32, bf16, f16 or e4m3 (0, 1, 2, 3).
    pub dtype: u32,
    /// Rows of `ids` and `y`.
    pub tokens: usize,
    /// Columns, a multiple of 4.
    pub width: usize,
    /// Id of the first row in the slice of the table that is bound.
    pub first_row: usize,
    /// Rows of the slice.
    pub n_rows: usize,
}

/// Plans the launch.
pub fn dispatch(call: &Call, tuning: &Tuning) -> Dispatch {
    let units = row_units(call.dtype, call.width) as u32;
    let params = Params {
        width: call.width as u32,
        row_units: units,
        first_row: call.first_row as u32,
        n_rows: call.n_rows as u32,
        tokens: call.tokens as u32,
        unused: 0,
    };
    Dispatch {
        kernel: &KERNEL,
        knobs: vec![("DTYPE", call.dtype)],
        subgroups: tuning.subgroups,
        params: bytemuck::bytes_of(&params).to_vec(),
        groups: [units.div_ceil(WG).max(1), call.tokens.max(1) as u32, 1],
        cost: Cost {
            read_bytes: bytes(call.dtype, call.tokens, call.width) + 4 * call.tokens as u64,
            write_bytes: 4 * (call.tokens * call.width) as u64,
            flops: match call.dtype {
                3 => (call.tokens * call.width) as u64,
                _ => 0,
            },
        },
    }
}

/// Rows of ids outside the slice are left alone.
fn reference(dispatch: &Dispatch, buffers: &mut [Vec<u32>]) {
    let [ids, table, scales, y] = bound(buffers);
    let [tokens, width, n_rows] = dispatch.sizes(["tokens", "width", "n_rows"]);
    let table = Matrices::new(dispatch, table, scales, [n_rows, width]);
    for (token, id) in ids.iter().enumerate().take(tokens) {
        let row = id.wrapping_sub(dispatch.word("first_row")) as usize;
        if row < n_rows {
            set_all(y, token * width, &table.row(row));
        }
    }
}
