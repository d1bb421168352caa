//! Reading of packed weights and caches, row by row.

use shaders::{key_cache, latent_cache};

use super::Asked;
use super::numbers::{BLOCK, bf16, bits, e4m3, f16, float};

/// Rows of weights and their scales, of one matrix or of a stack of them.
pub(super) struct Weights<'a> {
    /// f32, bf16, f16, e4m3 with a scale per 128 x 128, int4 with one per row and 32 columns.
    dtype: u32,
    words: &'a [u32],
    scales: &'a [u32],
    /// Rows of each matrix.
    rows: usize,
    cols: usize,
    /// Words from a row to the next.
    stride: usize,
}

impl<'a> Weights<'a> {
    /// As a launch with `DTYPE` and `row_units` finds them.
    pub(super) fn new(
        asked: &Asked,
        words: &'a [u32],
        scales: &'a [u32],
        [rows, cols]: [usize; 2],
    ) -> Self {
        Self {
            dtype: asked.knob("DTYPE"),
            words,
            scales,
            rows,
            cols,
            stride: 4 * asked.size("row_units"),
        }
    }

    /// A row of the only matrix.
    pub(super) fn row(&self, row: usize) -> Vec<f64> {
        self.row_of(0, row)
    }

    /// A row of a matrix of the stack.
    pub(super) fn row_of(&self, matrix: usize, row: usize) -> Vec<f64> {
        let first = (matrix * self.rows + row) * self.stride;
        let scale = |col| self.scale(matrix, row, col);
        let value = |col| match self.dtype {
            0 => float(self.words, first + col),
            1 => bf16(self.words, first, col),
            2 => f16(self.words, first, col),
            3 => e4m3(self.words, first, col) * scale(col),
            _ => (f64::from(bits(self.words, first, 4, col)) - 8.0) * scale(col),
        };
        (0..self.cols).map(value).collect()
    }

    fn scale(&self, matrix: usize, row: usize, col: usize) -> f64 {
        let [rows_of_one, cols_of_one] = match self.dtype {
            3 => [128, 128],
            _ => [1, 32],
        };
        let a_row = self.cols.div_ceil(cols_of_one);
        let before = matrix * self.rows.div_ceil(rows_of_one) * a_row;
        float(
            self.scales,
            before + row / rows_of_one * a_row + col / cols_of_one,
        )
    }
}

/// Cached latents and their rope.
pub(super) struct Latents<'a> {
    format: u32,
    words: &'a [u32],
    rank: usize,
    dr: usize,
    token_words: usize,
}

impl<'a> Latents<'a> {
    /// As `attend` and `attend_weights` find them.
    pub(super) fn new(asked: &Asked, words: &'a [u32]) -> Self {
        Self {
            format: asked.knob("LATENT"),
            words,
            rank: asked.size("rank"),
            dr: asked.size("dr"),
            token_words: asked.size("token_words"),
        }
    }

    /// The latent of a position, then its rope.
    pub(super) fn row(&self, position: usize) -> Vec<f64> {
        let (words, rank) = (self.words, self.rank);
        let first = position * self.token_words;
        let scales = first + rank / 4;
        let rope = scales + latent_cache::n_scales(rank);
        let value = |c| match self.format {
            latent_cache::F32 => float(words, first + c),
            latent_cache::BF16 => bf16(words, first, c),
            _ if c < rank => e4m3(words, first, c) * float(words, scales + c / BLOCK),
            latent_cache::FP8 => float(words, rope + c - rank),
            _ => bf16(words, rope, c - rank),
        };
        (0..rank + self.dr).map(value).collect()
    }
}

/// Where an FP8 key is in the cache: its codes, then its scales.
pub(super) fn fp8_key(position: usize, di: usize) -> [usize; 2] {
    let page = position / key_cache::PAGE_TOKENS * key_cache::page_words(di);
    let in_page = position % key_cache::PAGE_TOKENS;
    let codes = page + in_page * di / 4;
    let scales = page + key_cache::PAGE_TOKENS * di / 4 + in_page * key_cache::n_scales(di);
    [codes, scales]
}

/// A cached key of the indexer.
pub(super) fn key(format: u32, words: &[u32], position: usize, di: usize) -> Vec<f64> {
    let [codes, scales] = fp8_key(position, di);
    let value = |c| match format {
        key_cache::F32 => float(words, position * di + c),
        key_cache::BF16 => bf16(words, position * di / 2, c),
        _ => e4m3(words, codes, c) * float(words, scales + c / BLOCK),
    };
    (0..di).map(value).collect()
}

#[cfg(test)]
mod tests {
    use shaders::{Tuning, matvec};

    use super::*;

    const TUNING: Tuning = Tuning {
        subgroups: false,
        fat_threads: false,
    };

    /// Rows of 36 columns, so that rows end within a unit; all words are `word`.
    fn row(dtype: u32, word: u32, scales: &[f32]) -> Vec<f64> {
        let call = matvec::Call {
            dtype,
            tokens: 1,
            rows: 130,
            cols: 36,
            x_stride: 36,
            x_offset: 0,
            y_stride: 130,
            y_offset: 0,
        };
        let dispatch = matvec::dispatch(&call, &TUNING);
        let words = vec![word; 2 * 130 * 4 * shaders::weights::row_units(dtype, 36)];
        let scales: Vec<u32> = scales.iter().map(|scale| scale.to_bits()).collect();
        // The last row of the second matrix of a stack.
        Weights::new(&Asked(&dispatch), &words, &scales, [130, 36]).row_of(1, 129)
    }

    #[test]
    fn every_type_of_weights_is_read_low_bits_first_and_scaled() {
        let repeated =
            |values: &[f64]| -> Vec<f64> { values.iter().copied().cycle().take(36).collect() };
        assert_eq!(row(0, 1.5_f32.to_bits(), &[]), repeated(&[1.5]));
        assert_eq!(row(1, 0xc000_3f80, &[]), repeated(&[1.0, -2.0]));
        assert_eq!(row(2, 0xc000_3c00, &[]), repeated(&[1.0, -2.0]));
        // Two blocks of rows a matrix.
        let scales = [9.0, 9.0, 9.0, 0.5];
        let codes = u32::from_le_bytes([0x38, 0xc0, 0x01, 0x7e]);
        let values = [0.5, -1.0, 0.5 / 512.0, 224.0];
        assert_eq!(row(3, codes, &scales), repeated(&values));
        // Two scales a row, of which the last has four columns.
        let mut scales = vec![9.0; 4 * 130];
        scales[2 * 259..].copy_from_slice(&[1.0, 2.0]);
        let mut values = repeated(&[-8.0, -7.0, -6.0, -5.0, -4.0, 0.0, 6.0, 7.0]);
        values[32..].iter_mut().for_each(|value| *value *= 2.0);
        assert_eq!(row(4, 0xfe84_3210, &scales), values);
    }
}
