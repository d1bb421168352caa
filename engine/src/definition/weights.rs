//! The parameters of a model as tensors, under the names of the checkpoint.

use std::collections::BTreeMap;

use burn::Tensor;
use burn::tensor::{DType, Device, TensorData};

use crate::checkpoint::Checkpoint;
use crate::config::{Config, TensorKind};
use crate::host::{Weight, vector};
use crate::{Error, Result};

/// Every parameter of a model by its checkpoint name: matrices `[out, in]`, vectors `[1, width]`, which
/// spares a second type everywhere.
#[derive(Clone, Debug)]
pub struct Weights(BTreeMap<String, Tensor<2>>);

/// The parameters under one prefix.
pub(super) struct Scope<'a> {
    weights: &'a Weights,
    prefix: String,
}

impl Weights {
    /// These parameters.
    pub fn new(all: BTreeMap<String, Tensor<2>>) -> Self {
        Self(all)
    }

    /// Expands a checkpoint that fits `config`. `progress(layer)` is called before each layer and may
    /// break off with `false`.
    pub(crate) fn load(
        checkpoint: &Checkpoint,
        config: &Config,
        with_mtp: bool,
        (device, dtype): (&Device, DType),
        max_bytes: usize,
        progress: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Option<Self>> {
        let mut all = BTreeMap::new();
        let mut layers_begun = 0;
        for spec in config.tensors(with_mtp) {
            let rest = spec.name.strip_prefix("model.layers.");
            let layer = rest.and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
            if layer == Some(layers_begun) {
                if !progress(layers_begun) {
                    return Ok(None);
                }
                layers_begun += 1;
            }
            if spec.optional {
                continue;
            }
            let n_bytes = spec.n_elements() * 4;
            if n_bytes > max_bytes as u128 {
                return Err(Error::Device {
                    name: "in use".into(),
                    problem: format!(
                        "{} takes {n_bytes} bytes in f32, expected at most {max_bytes}: the largest binding",
                        spec.name
                    ),
                });
            }
            let (data, shape) = match (spec.kind, &spec.shape[..]) {
                (TensorKind::Matrix, &[rows, cols]) => {
                    let weight = Weight::load(checkpoint, &spec.name)?;
                    (weight.to_f32(), [rows, cols])
                }
                _ => {
                    let data = vector(checkpoint, &spec.name)?;
                    let shape = [1, data.len()];
                    (data, shape)
                }
            };
            let tensor = Tensor::from_data(TensorData::new(data, shape), (device, dtype));
            all.insert(spec.name, tensor);
        }
        Ok(Some(Self(all)))
    }

    /// The matrix of that name, or the vector as `[1, width]`.
    ///
    /// # Panics
    /// There is none: the pass and the table of tensors disagree, which is our own mistake.
    pub fn matrix(&self, name: &str) -> Tensor<2> {
        match self.0.get(name) {
            Some(tensor) => tensor.clone(),
            None => panic!("the table of tensors has no {name:?}: model and table disagree"),
        }
    }

    /// The vector of that name, `[width]`.
    pub fn vector(&self, name: &str) -> Tensor<1> {
        let tensor = self.matrix(name);
        let [_, width] = tensor.dims();
        tensor.reshape([width])
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor<2>)> {
        self.0.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    pub(super) fn scope(&self, prefix: String) -> Scope<'_> {
        Scope {
            weights: self,
            prefix,
        }
    }
}

impl Scope<'_> {
    /// The matrix `NAME.weight`.
    pub fn matrix(&self, name: &str) -> Tensor<2> {
        self.weights
            .matrix(&format!("{}.{name}.weight", self.prefix))
    }

    /// The vector `NAME.weight`.
    pub fn norm(&self, name: &str) -> Tensor<1> {
        self.vector(&format!("{name}.weight"))
    }

    /// The vector `NAME`.
    pub fn vector(&self, name: &str) -> Tensor<1> {
        self.weights.vector(&format!("{}.{name}", self.prefix))
    }
}
