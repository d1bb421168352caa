//! AdamW on named tensors, with a state that can be saved to the bit.
//!
//! ```text
//! m = β₁ m + (1 − β₁) g,   v = β₂ v + (1 − β₂) g²
//! θ = θ − η λ θ − η (m / (1 − β₁ᵗ)) / (√(v / (1 − β₂ᵗ)) + ε)
//! ```
//! Source: Loshchilov and Hutter, arXiv 1711.05101. Burn's own keeps its moments in records of a
//! module tree; here parameters are a table, and a checkpoint is one safetensors file.

use std::collections::BTreeMap;

use burn::Tensor;
use engine::config::TensorKind;

use crate::Result;
use crate::net::Net;
use crate::pass::read_one;
use crate::recipe::OptimizerSettings;

/// Gradients by name of the parameter.
pub type Gradients = BTreeMap<String, Tensor<2>>;

/// What AdamW remembers.
#[derive(Clone, Debug, Default)]
pub struct AdamW {
    /// Steps taken.
    pub n_steps: u64,
    /// Mean of gradients and of their squares.
    pub moments: BTreeMap<String, (Tensor<2>, Tensor<2>)>,
}

impl AdamW {
    /// Moves the parameters. Returns the norm of all gradients before it is cut to `clip`.
    ///
    /// # Errors
    /// The device failed.
    pub fn step(
        &mut self,
        net: &mut Net,
        gradients: Gradients,
        learning_rate: f64,
        settings: &OptimizerSettings,
    ) -> Result<f64> {
        let squares = gradients.values().map(|g| g.clone().square().sum());
        let Some(sum) = squares.reduce(|sum, square| sum + square) else {
            return Ok(0.0);
        };
        let norm = read_one(sum)?.sqrt();
        let cut = if norm > settings.clip {
            settings.clip / norm
        } else {
            1.0
        };
        self.n_steps += 1;
        let correct_1 = 1.0 - settings.beta_1.powf(self.n_steps as f64);
        let correct_2 = 1.0 - settings.beta_2.powf(self.n_steps as f64);
        for (name, gradient) in gradients {
            let parameter = net
                .parameters
                .get_mut(&name)
                .expect("gradients are those of the net's parameters");
            let g = gradient * cut;
            let (m, v) = match self.moments.remove(&name) {
                Some((m, v)) => (m * settings.beta_1, v * settings.beta_2),
                None => (g.zeros_like(), g.zeros_like()),
            };
            let m = m + g.clone() * (1.0 - settings.beta_1);
            let v = v + g.square() * (1.0 - settings.beta_2);
            let root = (v.clone() * (1.0 / correct_2)).sqrt() + settings.epsilon;
            let moved = m.clone() / root * (learning_rate / correct_1);
            let decay = match parameter.kind {
                TensorKind::Matrix => 1.0 - learning_rate * settings.weight_decay,
                TensorKind::Vector => 1.0,
            };
            parameter.tensor = parameter.tensor.clone() * decay - moved;
            self.moments.insert(name, (m, v));
        }
        Ok(norm)
    }
}
