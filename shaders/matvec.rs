//! Matrix times few vectors: every linear layer of a decode step.

use crate::kernel::{Cost, Dispatch, Kernel, Knob, Tuning, params, spread};
use crate::pieces::{REDUCE, plain};
use crate::reference::{bound, dot, floats, set};
use crate::weights::{DTYPES, Matrices, WEIGHTS, bytes, row_units};

/// `y[t, r] = sum over c of x[t, c] * W[r, c]` for at most [`MAX_TOKENS`] tokens.
pub const KERNEL: Kernel = Kernel {
    name: "matvec",
    pieces: &[REDUCE, WEIGHTS, plain(include_str!("matvec.wgsl"))],
    bindings: &["x", "w", "scales", "y"],
    knobs: &[
        Knob::new("WG", 64, &[16, 64, 256]),
        Knob::new("DTYPE", 0, DTYPES),
        Knob::new("TOKENS", 1, &[1, 2, 4, 8]),
        Knob::new("ROWS", 4, &[1, 4, 8]),
        Knob::new("FAT", 0, &[0, 1]),
    ],
    params: Params::LAYOUT,
    reference,
};

/// Most tokens of a call.
pub const MAX_TOKENS: usize = 8;

params! {
    tokens: u32,
    rows: u32,
    cols: u32,
    row_units: u32,
    x_stride: u32,
    x_offset: u32,
    y_stride: u32,
    y_offset: u32,
}

/// The sizes of one call of `matvec` or `matmul`.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Type of W: f32, bf16, f16, e4m3, int4 (0 to 4).
    pub dtype: u32,
    /// Rows of `x` and `y`.
    pub tokens: usize,
    /// Rows of W, values of a row of `y`.
    pub rows: usize,
    /// Columns of W, values of a row of `x`; a multiple of 4.
    pub cols: usize,
    /// Values from one row of `x` to the next, a multiple of 4.
    pub x_stride: usize,
    /// Where the columns start in a row of `x`, a multiple of 4.
    pub x_offset: usize,
    /// Values from one row of `y` to the next.
    pub y_stride: usize,
    /// Where the results start in a row of `y`.
    pub y_offset: usize,
}

impl Call {
    pub(crate) fn params(&self) -> Params {
        Params {
            tokens: self.tokens as u32,
            rows: self.rows as u32,
            cols: self.cols as u32,
            row_units: row_units(self.dtype, self.cols) as u32,
            x_stride: self.x_stride as u32,
            x_offset: self.x_offset as u32,
            y_stride: self.y_stride as u32,
            y_offset: self.y_offset as u32,
        }
    }

    pub(crate) fn flops(&self) -> u64 {
        2 * self.tokens as u64 * self.rows as u64 * self.cols as u64
    }
}

/// Plans the launch.
///
/// # Panics
/// More than [`MAX_TOKENS`] tokens: those are for `matmul`.
pub fn dispatch(call: &Call, tuning: &Tuning) -> Dispatch {
    assert!(
        call.tokens <= MAX_TOKENS,
        "matvec takes {MAX_TOKENS} tokens, not {}",
        call.tokens
    );
    tiled(call, tuning)
}

/// For any number of tokens, in tiles of at most [`MAX_TOKENS`]: what a software adapter does best
/// with a `matmul`, too.
pub(crate) fn tiled(call: &Call, tuning: &Tuning) -> Dispatch {
    let tile = call.tokens.clamp(1, MAX_TOKENS).next_power_of_two();
    let tiles = call.tokens.div_ceil(tile).max(1);
    let (wg, rows) = match (tuning.fat_threads, call.rows < 1024) {
        // As many sums as a CPU has registers for.
        (true, _) => (16, if tile == 8 { 4 } else { 8 }),
        // Four rows a workgroup would not fill a GPU: one row, of more lanes.
        (false, true) => (256, 1),
        (false, false) => (64, 4),
    };
    let rows_of_group = if tuning.fat_threads { wg * rows } else { rows };
    let [x, y] = spread(call.rows.div_ceil(rows_of_group) as u32);
    let x_bytes = 4 * (call.tokens * call.cols) as u64;
    Dispatch {
        kernel: &KERNEL,
        knobs: vec![
            ("WG", wg as u32),
            ("DTYPE", call.dtype),
            ("TOKENS", tile as u32),
            ("ROWS", rows as u32),
            ("FAT", u32::from(tuning.fat_threads)),
        ],
        subgroups: tuning.subgroups,
        params: bytemuck::bytes_of(&call.params()).to_vec(),
        groups: [x, y, tiles as u32],
        cost: Cost {
            read_bytes: bytes(call.dtype, call.rows, call.cols) * tiles as u64 + x_bytes,
            write_bytes: 4 * (call.tokens * call.rows) as u64,
            flops: call.flops(),
        },
    }
}

/// Of `matmul`, too.
fn reference(dispatch: &Dispatch, buffers: &mut [Vec<u32>]) {
    let [x, w, scales, y] = bound(buffers);
    let [rows, cols, x_stride, x_offset] = dispatch.sizes(["rows", "cols", "x_stride", "x_offset"]);
    let [y_stride, y_offset] = dispatch.sizes(["y_stride", "y_offset"]);
    let w = Matrices::new(dispatch, w, scales, [rows, cols]);
    let inputs: Vec<_> = (0..dispatch.size("tokens"))
        .map(|token| floats(x, token * x_stride + x_offset, cols))
        .collect();
    for row in 0..rows {
        let weights = w.row(row);
        for (token, x) in inputs.iter().enumerate() {
            set(y, token * y_stride + y_offset + row, dot(x, &weights));
        }
    }
}
