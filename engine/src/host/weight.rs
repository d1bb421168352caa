//! Weights as stored: the mapped bytes of a checkpoint, expanded a few rows at a time while they are
//! used. Reading files and checking shapes is the business of [`crate::checkpoint`].

use super::matrix::{Dtype, Matrix};
use crate::Result;
use crate::checkpoint::{Checkpoint, StoredTensor, StoredType};
use crate::config::SCALES;

/// A matrix `[rows, cols]`, used as `y = W x`.
#[derive(Clone, Debug)]
pub struct Weight {
    /// Output width.
    pub rows: usize,
    /// Input width.
    pub cols: usize,
    tensor: StoredTensor,
    /// The FP8 block scales.
    scales: Option<Vec<f32>>,
}

impl Weight {
    /// Takes the matrix `name` from a checkpoint that was found to fit its config. Nothing is read or
    /// copied: the bytes stay mapped as stored.
    ///
    /// # Errors
    /// The checkpoint has no such matrix.
    pub fn load(checkpoint: &Checkpoint, name: &str) -> Result<Self> {
        let tensor = checkpoint.need(name)?.clone();
        let scales = scales(checkpoint, name, &tensor)?;
        Ok(Self {
            rows: tensor.shape[0],
            cols: tensor.shape[1],
            tensor,
            scales,
        })
    }

    /// Bytes of it, as stored.
    pub fn bytes(&self) -> usize {
        self.tensor.bytes().len() + self.scales.as_ref().map_or(0, |scales| scales.len() * 4)
    }

    /// The view that products take.
    pub(crate) fn matrix(&self) -> Matrix<'_> {
        let dtype = match self.tensor.dtype {
            StoredType::F32 => Dtype::F32,
            StoredType::F16 => Dtype::F16,
            StoredType::BF16 => Dtype::BF16,
            StoredType::F8E4M3 => Dtype::F8E4M3,
            other => unreachable!("the fit check refuses matrices of type {other:?}"),
        };
        let (bytes, scales) = (self.tensor.bytes(), self.scales.as_deref());
        Matrix::new(bytes, dtype, self.rows, self.cols, scales)
    }

    /// Every element, row-major.
    pub fn to_f32(&self) -> Vec<f32> {
        self.rows_to_f32(0..self.rows)
    }

    /// These rows, one below the other.
    pub(crate) fn rows_to_f32(&self, rows: impl ExactSizeIterator<Item = usize>) -> Vec<f32> {
        let mut all = vec![0.0; rows.len() * self.cols];
        for (row, into) in rows.zip(all.chunks_exact_mut(self.cols)) {
            self.matrix().row_to_f32(row, into);
        }
        all
    }
}

/// The vector `name` of a checkpoint as `f32`.
///
/// # Errors
/// The checkpoint has no such vector.
pub fn vector(checkpoint: &Checkpoint, name: &str) -> Result<Vec<f32>> {
    Ok(floats(checkpoint.need(name)?))
}

/// The factors of a matrix that is stored as FP8, one for each block.
pub(crate) fn scales(
    checkpoint: &Checkpoint,
    name: &str,
    matrix: &StoredTensor,
) -> Result<Option<Vec<f32>>> {
    let is_fp8 = matrix.dtype == StoredType::F8E4M3;
    let scales = is_fp8.then(|| checkpoint.need(&format!("{name}{SCALES}")));
    Ok(scales.transpose()?.map(floats))
}

/// Every element of a small stored tensor as `f32`.
pub(crate) fn floats(tensor: &StoredTensor) -> Vec<f32> {
    let bytes = tensor.bytes();
    match tensor.dtype {
        StoredType::F32 => bytes
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect(),
        StoredType::F16 => bytes
            .chunks_exact(2)
            .map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32())
            .collect(),
        StoredType::BF16 => bytes
            .chunks_exact(2)
            .map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32())
            .collect(),
        // 2^(code - 127), of which the exponent field of `f32` holds all but the lowest.
        StoredType::F8E8M0 => bytes
            .iter()
            .map(|&code| f32::from_bits((u32::from(code) << 23).max(1 << 22)))
            .collect(),
        other => unreachable!("the fit check refuses vectors of type {other:?}"),
    }
}
