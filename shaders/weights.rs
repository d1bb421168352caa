//! Packed weights: their text, and the sizes that go with it.

use crate::kernel::Piece;
use crate::pieces::plain;

/// Decoding of 16-byte units. Needs `DTYPE`; gives `UNIT_QUADS`, `UNIT_COLS`, `unit_quad`,
/// `unit_scale`, `scale_index`, `matrix_scales`.
pub const WEIGHTS: Piece = plain(include_str!("weights.wgsl"));

/// Every value of the knob `DTYPE`: f32, bf16, f16, e4m3, int4.
pub const DTYPES: &[u32] = &[0, 1, 2, 3, 4];

/// Bits of one weight.
pub fn bits(dtype: u32) -> usize {
    match dtype {
        0 => 32,
        1 | 2 => 16,
        3 => 8,
        _ => 4,
    }
}

/// Units of 16 bytes in a row.
pub fn row_units(dtype: u32, cols: usize) -> usize {
    (cols * bits(dtype)).div_ceil(128)
}

/// Scales of a matrix; 0 where the type has none.
pub fn scales(dtype: u32, rows: usize, cols: usize) -> usize {
    match dtype {
        0..=2 => 0,
        3 => rows.div_ceil(128) * cols.div_ceil(128),
        _ => rows * cols.div_ceil(32),
    }
}

/// Bytes of a matrix and its scales.
pub fn bytes(dtype: u32, rows: usize, cols: usize) -> u64 {
    (rows * row_units(dtype, cols) * 16 + scales(dtype, rows, cols) * 4) as u64
}
