//! Weights in the form their device wants: mapped bytes as stored on the CPU, tensors elsewhere.
//!
//! Reading files and checking shapes is the business of [`crate::checkpoint`].

use burn::Tensor;

use crate::checkpoint::{Checkpoint, StoredTensor, StoredType};
use crate::cpu::{Dtype, Matrix};
use crate::device::{Device, MAX_SLICE_BYTES, Place};
use crate::{Error, Result};

/// A matrix `[rows, cols]`, used as `y = W x`.
#[derive(Clone, Debug)]
pub struct Weight {
    /// Output width.
    pub rows: usize,
    /// Input width.
    pub cols: usize,
    storage: Storage,
}

#[derive(Clone, Debug)]
enum Storage {
    /// The mapped bytes of the checkpoint, and the FP8 block scales.
    Stored {
        tensor: StoredTensor,
        scales: Option<Vec<f32>>,
    },
    /// Row slices, none above [`MAX_SLICE_BYTES`], one below the other.
    Slices(Vec<Tensor<2>>),
}

/// A vector of norm weights or biases.
#[derive(Clone, Debug)]
pub struct Vector {
    pub(crate) host: Vec<f32>,
    pub(crate) tensor: Option<Tensor<1>>,
}

impl Weight {
    /// Takes the matrix `name` from a checkpoint that was found to fit its config.
    ///
    /// On the CPU nothing is read or copied: the bytes stay mapped as stored. Elsewhere the
    /// matrix is expanded to `f32` slice by slice.
    ///
    /// # Errors
    /// The checkpoint has no such matrix.
    pub fn load(checkpoint: &Checkpoint, name: &str, device: &Device) -> Result<Self> {
        let tensor = find(checkpoint, name)?;
        let (rows, cols) = (tensor.shape[0], tensor.shape[1]);
        let scales = match tensor.dtype {
            StoredType::F8E4M3 => Some(floats(&find(checkpoint, &format!("{name}_scale_inv"))?)),
            _ => None,
        };
        let stored = Self {
            rows,
            cols,
            storage: Storage::Stored { tensor, scales },
        };
        let Place::Burn { .. } = &device.place else {
            return Ok(stored);
        };
        let slice_rows = (MAX_SLICE_BYTES / (cols * 4)).clamp(1, rows);
        let slices = (0..rows)
            .step_by(slice_rows)
            .map(|first| {
                let n = slice_rows.min(rows - first);
                let mut data = vec![0.0; n * cols];
                for (row, into) in data.chunks_exact_mut(cols).enumerate() {
                    stored.row(first + row, into);
                }
                device.place.tensor(data, [n, cols])
            })
            .collect();
        Ok(Self {
            rows,
            cols,
            storage: Storage::Slices(slices),
        })
    }

    /// A matrix that is already a tensor `[rows, cols]`, for training and tests.
    pub fn from_tensor(tensor: Tensor<2>) -> Self {
        let [rows, cols] = tensor.dims();
        Self {
            rows,
            cols,
            storage: Storage::Slices(vec![tensor]),
        }
    }

    /// Bytes that this weight keeps resident: as stored on the CPU, as expanded elsewhere.
    pub fn resident_bytes(&self) -> usize {
        match &self.storage {
            Storage::Stored { tensor, scales } => {
                tensor.bytes().len() + scales.as_ref().map_or(0, |scales| scales.len() * 4)
            }
            Storage::Slices(_) => self.rows * self.cols * 4,
        }
    }

    /// The host form.
    pub(crate) fn matrix(&self) -> Matrix<'_> {
        let Storage::Stored { tensor, scales } = &self.storage else {
            unreachable!("host bodies are given stored weights");
        };
        let dtype = match tensor.dtype {
            StoredType::F32 => Dtype::F32,
            StoredType::F16 => Dtype::F16,
            StoredType::BF16 => Dtype::BF16,
            StoredType::F8E4M3 => Dtype::F8E4M3,
            other => unreachable!("the fit check refuses matrices of type {other:?}"),
        };
        Matrix::new(
            tensor.bytes(),
            dtype,
            self.rows,
            self.cols,
            scales.as_deref(),
        )
    }

    /// The portable form, one below the other.
    pub(crate) fn slices(&self) -> &[Tensor<2>] {
        match &self.storage {
            Storage::Slices(slices) => slices,
            Storage::Stored { .. } => unreachable!("portable bodies are given tensors"),
        }
    }

    /// The whole matrix as one tensor.
    pub(crate) fn tensor(&self) -> Tensor<2> {
        match self.slices() {
            [one] => one.clone(),
            several => Tensor::cat(several.to_vec(), 0),
        }
    }

    /// Every element, row-major, of a matrix that was loaded for the CPU.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut all = vec![0.0; self.rows * self.cols];
        for (row, into) in all.chunks_exact_mut(self.cols).enumerate() {
            self.row(row, into);
        }
        all
    }

    /// Row `row`, expanded to `f32`.
    fn row(&self, row: usize, into: &mut [f32]) {
        self.matrix().row_to_f32(row, into);
    }
}

/// The embedding table. Its rows are few a step, so they stay on the host and are sent along.
#[derive(Clone, Debug)]
pub struct Embedding {
    weight: Weight,
}

impl Embedding {
    /// Takes the table `name` from a checkpoint.
    ///
    /// # Errors
    /// The checkpoint has no such matrix.
    pub fn load(checkpoint: &Checkpoint, name: &str) -> Result<Self> {
        Ok(Self {
            weight: Weight::load(checkpoint, name, &Device::cpu())?,
        })
    }

    /// Rows of `ids`, `[tokens, hidden_size]`.
    pub fn rows(&self, ids: &[u32], device: &Device) -> crate::rows::Rows {
        let width = self.weight.cols;
        let mut data = vec![0.0; ids.len() * width];
        for (&id, into) in ids.iter().zip(data.chunks_exact_mut(width)) {
            self.weight.row(id as usize, into);
        }
        match &device.place {
            Place::Host => crate::rows::Rows::Host { data, width },
            place => crate::rows::Rows::Tensor(place.tensor(data, [ids.len(), width])),
        }
    }

    /// Bytes of `n` rows, as stored.
    pub(crate) fn row_bytes(&self, n: usize) -> usize {
        n * (self.weight.resident_bytes() / self.weight.rows)
    }

    /// Bytes of the table, as stored.
    pub fn resident_bytes(&self) -> usize {
        self.weight.resident_bytes()
    }
}

impl Vector {
    /// Takes the vector `name` from a checkpoint, expanded to `f32`.
    ///
    /// # Errors
    /// The checkpoint has no such vector.
    pub fn load(checkpoint: &Checkpoint, name: &str, device: &Device) -> Result<Self> {
        let host = floats(&find(checkpoint, name)?);
        let tensor = match &device.place {
            Place::Host => None,
            place => Some(place.tensor(host.clone(), [host.len()])),
        };
        Ok(Self { host, tensor })
    }

    /// Every element.
    pub fn values(&self) -> &[f32] {
        &self.host
    }

    /// Bytes of it.
    pub(crate) fn bytes(&self) -> usize {
        self.host.len() * 4
    }

    pub(crate) fn tensor(&self) -> Tensor<1> {
        self.tensor
            .clone()
            .expect("portable bodies are given tensors")
    }
}

fn find(checkpoint: &Checkpoint, name: &str) -> Result<StoredTensor> {
    checkpoint.get(name).cloned().ok_or_else(|| Error::Misfit {
        problems: vec![format!("missing tensor {name:?}")],
    })
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
        other => unreachable!("the fit check refuses vectors of type {other:?}"),
    }
}
