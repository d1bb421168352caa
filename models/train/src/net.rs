//! The parameters of a model in training: one tensor each, under their checkpoint names.
//!
//! The table of names and shapes is the engine's ([`engine::config`]), so that what is trained is
//! what a checkpoint holds. Vectors are `[1, width]`, as in [`Weights`].

use std::collections::BTreeMap;

use burn::Tensor;
use burn::tensor::{DType, Device, TensorData};
use engine::Config;
use engine::config::{Part, TensorKind};
use engine::definition::Weights;

use crate::random::Random;

/// What a parameter is used for, which decides in which stages it is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Trained by the loss of the language model.
    Main,
    /// Trained by the divergence from attention.
    Indexer,
    /// Trained by the loss of the MTP layer.
    Mtp,
    /// The indexer of the MTP layer.
    MtpIndexer,
    /// Moved by the balance of experts, never by a gradient.
    Balance,
}

/// One parameter.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// `[out, in]`, or `[1, width]` for a vector.
    pub tensor: Tensor<2>,
    /// What it is used for.
    pub role: Role,
    /// Matrices decay, norms and biases do not.
    pub kind: TensorKind,
}

/// All parameters of a model, on one device and in one precision.
#[derive(Clone, Debug)]
pub struct Net {
    /// Sizes.
    pub config: Config,
    /// By checkpoint name.
    pub parameters: BTreeMap<String, Parameter>,
    /// Where they live; without autodiff.
    pub device: Device,
    /// In which precision.
    pub dtype: DType,
}

impl Net {
    /// Random parameters: norms 1, biases 0, matrices normal with standard deviation `init_std`,
    /// those that write into the residual stream smaller by the root of twice the layers. Each is
    /// drawn from a generator seeded by its name, on the host, so that every device starts alike.
    pub fn random(
        config: &Config,
        init_std: f64,
        seed: u64,
        device: &Device,
        dtype: DType,
    ) -> Self {
        let depth = (2.0 * config.num_hidden_layers as f64).sqrt();
        let draw = |name: &str, kind: TensorKind, n: usize| -> Vec<f32> {
            if kind == TensorKind::Vector {
                let value = if name.ends_with("norm.weight") {
                    1.0
                } else {
                    0.0
                };
                return vec![value; n];
            }
            let writes = name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight");
            let std = if writes { init_std / depth } else { init_std };
            let mut random = Random::new(&[seed], name);
            (0..n).map(|_| (random.normal() * std) as f32).collect()
        };
        Self::from_values(config, device, dtype, |name, kind, n| {
            Ok::<_, std::convert::Infallible>(draw(name, kind, n))
        })
        .unwrap_or_else(|never| match never {})
    }

    /// Parameters whose values `values` gives, by name, kind and number of elements.
    pub fn from_values<E>(
        config: &Config,
        device: &Device,
        dtype: DType,
        mut values: impl FnMut(&str, TensorKind, usize) -> Result<Vec<f32>, E>,
    ) -> Result<Self, E> {
        let mut parameters = BTreeMap::new();
        for spec in config.tensors(true) {
            if spec.optional {
                continue;
            }
            let shape = match spec.shape[..] {
                [rows, cols] => [rows, cols],
                _ => [1, spec.n_elements() as usize],
            };
            let data = values(&spec.name, spec.kind, shape[0] * shape[1])?;
            let tensor = Tensor::from_data(TensorData::new(data, shape), (device, dtype));
            let role = role(&spec.name, spec.part);
            let kind = spec.kind;
            parameters.insert(spec.name, Parameter { tensor, role, kind });
        }
        Ok(Self {
            config: config.clone(),
            parameters,
            device: device.clone(),
            dtype,
        })
    }

    /// The same parameters for one pass: those that `trains` says are leaves of a graph.
    pub fn leaves(&self, trains: impl Fn(Role) -> bool) -> Weights {
        let leaf = |parameter: &Parameter| {
            if trains(parameter.role) {
                parameter.tensor.clone().autodiff().require_grad()
            } else {
                parameter.tensor.clone()
            }
        };
        let tensors = self.parameters.iter();
        Weights::new(
            tensors
                .map(|(name, parameter)| (name.clone(), leaf(parameter)))
                .collect(),
        )
    }

    /// How many numbers are trained where `trains` says so.
    pub fn n_trained(&self, trains: impl Fn(Role) -> bool) -> usize {
        let trained = self
            .parameters
            .values()
            .filter(|parameter| trains(parameter.role));
        trained
            .map(|parameter| parameter.tensor.dims().iter().product::<usize>())
            .sum()
    }
}

fn role(name: &str, part: Part) -> Role {
    match (part, name.contains(".indexer.")) {
        _ if name.ends_with("e_score_correction_bias") => Role::Balance,
        (Part::Mtp, true) => Role::MtpIndexer,
        (Part::Mtp, false) => Role::Mtp,
        (_, true) => Role::Indexer,
        (_, false) => Role::Main,
    }
}
