//! Packed weights: their text, the sizes that go with it, and the same decoding for references.

use crate::kernel::{Dispatch, Piece};
use crate::pieces::plain;
use crate::reference::{bits as field, float, from_bf16, from_e4m3, from_f16};

/// Decoding of 16-byte units. Needs `DTYPE`; gives `UNIT_QUADS`, `UNIT_COLS`, `unit_quad`,
/// `unit_scale`, `scale_index`, `matrix_scales`.
pub const WEIGHTS: Piece = plain(include_str!("weights.wgsl"));

/// Every value of the knob `DTYPE`: f32, bf16, f16, e4m3, int4.
pub const DTYPES: &[u32] = &[0, 1, 2, 3, 4];

/// Rows and columns of a matrix, and channels of a vector, that share a factor in FP8.
pub const FP8_BLOCK: usize = 128;

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
        3 => rows.div_ceil(FP8_BLOCK) * cols.div_ceil(FP8_BLOCK),
        _ => rows * cols.div_ceil(32),
    }
}

/// Bytes of a matrix and its scales.
pub fn bytes(dtype: u32, rows: usize, cols: usize) -> u64 {
    (rows * row_units(dtype, cols) * 16 + scales(dtype, rows, cols) * 4) as u64
}

/// A packed matrix and its scales, or a stack of them.
pub(crate) struct Matrices<'a> {
    pub dtype: u32,
    pub words: &'a [u32],
    pub scales: &'a [u32],
    /// Rows of each matrix, and columns.
    pub shape: [usize; 2],
}

impl<'a> Matrices<'a> {
    /// As a launch with the knob `DTYPE` finds them.
    pub fn new(
        dispatch: &Dispatch,
        words: &'a [u32],
        scales: &'a [u32],
        shape: [usize; 2],
    ) -> Self {
        let dtype = dispatch.knob("DTYPE");
        Self {
            dtype,
            words,
            scales,
            shape,
        }
    }

    /// A row of the only matrix.
    pub fn row(&self, row: usize) -> Vec<f64> {
        self.row_of(0, row)
    }

    /// A row of a matrix of the stack.
    pub fn row_of(&self, matrix: usize, row: usize) -> Vec<f64> {
        let [rows, cols] = self.shape;
        let first = (matrix * rows + row) * 4 * row_units(self.dtype, cols);
        // Scales of a matrix come after those of the matrix before it.
        let scales = matrix * scales(self.dtype, rows, cols);
        let scale = |rows_of_one, cols_of_one, col| {
            let at = row / rows_of_one * cols.div_ceil(cols_of_one) + col / cols_of_one;
            float(self.scales, scales + at)
        };
        let code = |col| field(self.words, first, bits(self.dtype), col);
        let value = |col| match self.dtype {
            0 => float(self.words, first + col),
            1 => from_bf16(code(col)),
            2 => from_f16(code(col)),
            3 => from_e4m3(code(col)) * scale(128, 128, col),
            _ => (f64::from(code(col)) - 8.0) * scale(1, 32, col),
        };
        (0..cols).map(value).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The last row of the second matrix of a stack; rows of 36 columns end within a unit, and all words
    /// are `word`.
    fn row(dtype: u32, word: u32, scales: &[f32]) -> Vec<f64> {
        let words = vec![word; 2 * 130 * 4 * row_units(dtype, 36)];
        let scales: Vec<u32> = scales.iter().map(|scale| scale.to_bits()).collect();
        let stack = Matrices {
            dtype,
            words: &words,
            scales: &scales,
            shape: [130, 36],
        };
        stack.row_of(1, 129)
    }

    #[test]
    fn every_type_of_weights_is_read_low_bits_first_and_scaled() {
        let repeated =
            |values: &[f64]| -> Vec<f64> { values.iter().copied().cycle().take(36).collect() };
        assert_eq!(row(0, 1.5_f32.to_bits(), &[]), repeated(&[1.5]));
        assert_eq!(row(1, 0xc000_3f80, &[]), repeated(&[1.0, -2.0]));
        assert_eq!(row(2, 0xc000_3c00, &[]), repeated(&[1.0, -2.0]));
        // Two blocks of rows a matrix.
        let codes = u32::from_le_bytes([0x38, 0xc0, 0x01, 0x7e]);
        let values = [0.5, -1.0, 0.5 / 512.0, 224.0];
        assert_eq!(row(3, codes, &[9.0, 9.0, 9.0, 0.5]), repeated(&values));
        // Two scales a row, of which the last has four columns.
        let mut scales = vec![9.0; 4 * 130];
        scales[2 * 259..].copy_from_slice(&[1.0, 2.0]);
        let mut values = repeated(&[-8.0, -7.0, -6.0, -5.0, -4.0, 0.0, 6.0, 7.0]);
        values[32..].iter_mut().for_each(|value| *value *= 2.0);
        assert_eq!(row(4, 0xfe84_3210, &scales), values);
    }
}
