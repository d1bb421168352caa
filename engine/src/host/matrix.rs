//! A weight matrix as stored, and its rows as `f32` while they are used.

use super::fp8;
use super::simd::dispatch;
use crate::config::FP8_BLOCK as BLOCK;

/// How elements are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// 32-bit floats.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an `f32`.
    BF16,
    /// FP8 with 4 exponent and 3 mantissa bits, scaled by blocks of 128 × 128.
    F8E4M3,
}

impl Dtype {
    fn n_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::F8E4M3 => 1,
        }
    }
}

/// A view of a stored matrix `[rows, cols]`.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    bytes: &'a [u8],
    /// The elements, where they are `f32` and lie so that they can be read as such.
    floats: Option<&'a [f32]>,
    dtype: Dtype,
    pub(super) rows: usize,
    pub(super) cols: usize,
    scales: Option<&'a [f32]>,
}

impl<'a> Matrix<'a> {
    /// A view of `bytes`, little endian and row-major. FP8 takes `scales`
    /// `[ceil(rows / 128), ceil(cols / 128)]`.
    ///
    /// # Panics
    /// The bytes or scales are not as many as that.
    pub fn new(
        bytes: &'a [u8],
        dtype: Dtype,
        rows: usize,
        cols: usize,
        scales: Option<&'a [f32]>,
    ) -> Self {
        assert_eq!(
            bytes.len(),
            rows * cols * dtype.n_bytes(),
            "bytes of a {rows} × {cols} matrix"
        );
        let n_scales = rows.div_ceil(BLOCK) * cols.div_ceil(BLOCK);
        if dtype == Dtype::F8E4M3 {
            assert_eq!(
                scales.map_or(0, <[f32]>::len),
                n_scales,
                "scales of a {rows} × {cols} matrix"
            );
        }
        let little = cfg!(target_endian = "little");
        let floats = (dtype == Dtype::F32 && little)
            .then(|| bytemuck::try_cast_slice(bytes).ok())
            .flatten();
        Self {
            bytes,
            floats,
            dtype,
            rows,
            cols,
            scales,
        }
    }

    /// Row `row` as `f32`, `[cols]`.
    pub fn row_to_f32(&self, row: usize, into: &mut [f32]) {
        dispatch(|| self.expand(row, into));
    }

    /// Whether rows can be read in place.
    pub(super) fn is_in_place(&self) -> bool {
        self.floats.is_some()
    }

    /// Row `row` in place.
    pub(super) fn in_place(&self, row: usize) -> &'a [f32] {
        let floats = self
            .floats
            .expect("asked for only where rows can be read in place");
        &floats[row * self.cols..][..self.cols]
    }

    /// Rows from `first` on, `[n, cols]`: in place, or expanded into `scratch`.
    pub(super) fn several<'s>(&self, first: usize, n: usize, scratch: &'s mut Vec<f32>) -> &'s [f32]
    where
        'a: 's,
    {
        if let Some(floats) = self.floats {
            return &floats[first * self.cols..][..n * self.cols];
        }
        scratch.resize(n * self.cols, 0.0);
        dispatch(|| {
            for (row, into) in scratch.chunks_exact_mut(self.cols).enumerate() {
                self.expand(first + row, into);
            }
        });
        scratch
    }

    /// Row `row` into `into`; inlined, so that it is compiled for the caller's registers.
    #[inline(always)]
    pub(super) fn expand(&self, row: usize, into: &mut [f32]) {
        let width = self.cols * self.dtype.n_bytes();
        let bytes = &self.bytes[row * width..][..width];
        match self.dtype {
            Dtype::F32 => {
                for (value, bytes) in into.iter_mut().zip(bytes.as_chunks().0) {
                    *value = f32::from_le_bytes(*bytes);
                }
            }
            Dtype::BF16 => {
                for (value, bytes) in into.iter_mut().zip(bytes.as_chunks().0) {
                    *value = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
                }
            }
            Dtype::F16 => {
                for (value, bytes) in into.iter_mut().zip(bytes.as_chunks().0) {
                    *value = from_f16(u16::from_le_bytes(*bytes));
                }
            }
            Dtype::F8E4M3 => {
                let scales = self.scales.expect("FP8 came with scales, see `new`");
                let scales = &scales[row / BLOCK * self.cols.div_ceil(BLOCK)..];
                let blocks = into.chunks_mut(BLOCK).zip(bytes.chunks(BLOCK));
                for ((into, codes), scale) in blocks.zip(scales) {
                    for (value, code) in into.iter_mut().zip(codes) {
                        *value = fp8::decode(*code) * scale;
                    }
                }
            }
        }
    }
}

/// Half to single precision without a branch. The `half` crate's is exact too, but does not run on
/// whole registers.
#[inline(always)]
fn from_f16(half: u16) -> f32 {
    let half = u32::from(half);
    let sign = (half & 0x8000) << 16;
    let magnitude = half & 0x7fff;
    // Exponent bias 127 instead of 15; infinities and NaN have all exponent bits.
    let normal = (magnitude << 13)
        + if magnitude >= 0x7c00 {
            224 << 23
        } else {
            112 << 23
        };
    let subnormal = (magnitude as f32 * (1.0 / 16_777_216.0)).to_bits();
    f32::from_bits(sign | if magnitude < 0x400 { subnormal } else { normal })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_becomes_what_the_half_crate_says() {
        for bits in 0..=u16::MAX {
            let want = half::f16::from_bits(bits).to_f32();
            let got = from_f16(bits);
            assert!(
                got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(),
                "{bits:#06x}"
            );
        }
    }

    #[test]
    fn ragged_fp8_blocks_take_their_own_scales() {
        let (rows, cols) = (130, 129);
        let bytes = vec![0x38; rows * cols]; // 1.0
        let scales = [1.0, 2.0, 4.0, 8.0];
        let matrix = Matrix::new(&bytes, Dtype::F8E4M3, rows, cols, Some(&scales));
        for (row, want) in [(0, [1.0, 2.0]), (127, [1.0, 2.0]), (128, [4.0, 8.0])] {
            let mut got = vec![0.0; cols];
            matrix.row_to_f32(row, &mut got);
            assert!(got[..128].iter().all(|&value| value == want[0]));
            assert_eq!(got[128], want[1]);
        }
    }

    #[test]
    fn misaligned_floats_are_read_all_the_same() {
        let mut bytes = [0; 1 + 8];
        bytes[1..5].copy_from_slice(&1.5_f32.to_le_bytes());
        bytes[5..].copy_from_slice(&(-2.0_f32).to_le_bytes());
        for start in [0, 1] {
            let copy = [&vec![0; start][..], &bytes[1..]].concat();
            let matrix = Matrix::new(&copy[start..], Dtype::F32, 1, 2, None);
            let mut got = [0.0; 2];
            matrix.row_to_f32(0, &mut got);
            assert_eq!(got, [1.5, -2.0]);
            assert_eq!(matrix.several(0, 1, &mut Vec::new()), got);
        }
    }
}
