//! Activations: one row of numbers a token, on the host or in a Burn tensor.
//!
//! The two forms never mix in one forward pass: the device decides the form of the weights, the
//! weights decide the form of everything computed from them.

use burn::Tensor;
use burn::tensor::TensorData;

use crate::{Error, Result};

/// `[tokens, width]`, row-major.
#[derive(Clone, Debug)]
pub enum Rows {
    /// On the host.
    Host {
        /// `tokens × width` numbers.
        data: Vec<f32>,
        /// Numbers in one row.
        width: usize,
    },
    /// On a Burn device.
    Tensor(Tensor<2>),
}

impl Rows {
    /// How many rows.
    pub fn n_rows(&self) -> usize {
        match self {
            Self::Host { data, width } => data.len() / width,
            Self::Tensor(tensor) => tensor.dims()[0],
        }
    }

    /// Numbers in one row.
    pub fn width(&self) -> usize {
        match self {
            Self::Host { width, .. } => *width,
            Self::Tensor(tensor) => tensor.dims()[1],
        }
    }

    /// The numbers on the host, row-major. On a Burn device this waits for all work before it.
    ///
    /// # Errors
    /// The device failed, now or in work that was launched before.
    pub fn read(&self) -> Result<Vec<f32>> {
        match self {
            Self::Host { data, .. } => Ok(data.clone()),
            Self::Tensor(tensor) => read_tensor(tensor.clone()),
        }
    }

    /// Rows `first..first + n`.
    pub fn slice(&self, first: usize, n: usize) -> Self {
        match self {
            Self::Host { data, width } => Self::Host {
                data: data[first * width..(first + n) * width].to_vec(),
                width: *width,
            },
            Self::Tensor(tensor) => {
                let width = tensor.dims()[1];
                Self::Tensor(tensor.clone().slice([first..first + n, 0..width]))
            }
        }
    }

    /// `self + other`, element by element.
    pub fn plus(self, other: Self) -> Self {
        match (self, other) {
            (Self::Host { mut data, width }, Self::Host { data: more, .. }) => {
                assert_eq!(data.len(), more.len(), "rows to be added have one shape");
                for (a, b) in data.iter_mut().zip(&more) {
                    *a += b;
                }
                Self::Host { data, width }
            }
            (Self::Tensor(a), Self::Tensor(b)) => Self::Tensor(a + b),
            _ => unreachable!("one forward pass stays in one place"),
        }
    }

    pub(crate) fn host(&self) -> &[f32] {
        match self {
            Self::Host { data, .. } => data,
            Self::Tensor(_) => unreachable!("host bodies are given host rows"),
        }
    }

    pub(crate) fn tensor(&self) -> Tensor<2> {
        match self {
            Self::Tensor(tensor) => tensor.clone(),
            Self::Host { .. } => unreachable!("portable bodies are given tensors"),
        }
    }
}

/// Reads a tensor back as `f32`, row-major.
pub(crate) fn read_tensor<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>> {
    let failed = |problem: String| Error::Device {
        name: "in use".into(),
        problem,
    };
    let data: TensorData = tensor
        .try_into_data()
        .map_err(|error| failed(format!("lost or failed: {error:?}")))?;
    data.try_into_vec_as::<f32>()
        .map_err(|error| failed(format!("gave back unexpected data: {error:?}")))
}
