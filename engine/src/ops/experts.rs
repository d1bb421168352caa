//! SwiGLU feed-forwards: `down(silu(gate x) · up x)`, one for all tokens or routed per token.
//!
//! ```text
//! y[t] = Σ_{e ∈ E_t} w[t,e] · swiglu_e(x[t]) + swiglu_shared(x[t])
//! ```
//! Summed by ascending expert, the shared expert last, whatever else is in the batch, so that a
//! token's result does not depend on its company. Source: spec 3.1 and section 4.

use burn::Tensor;
use burn::tensor::{IndexingUpdateOp, Int, TensorData};

use super::gate::Routes;
use super::linear;
use crate::cpu;
use crate::rows::Rows;
use crate::weight::Weight;

/// One SwiGLU feed-forward.
#[derive(Clone, Debug)]
pub struct Mlp {
    /// `[width, hidden_size]`.
    pub gate_proj: Weight,
    /// `[width, hidden_size]`.
    pub up_proj: Weight,
    /// `[hidden_size, width]`.
    pub down_proj: Weight,
}

impl Mlp {
    /// Bytes kept resident.
    pub fn resident_bytes(&self) -> usize {
        [&self.gate_proj, &self.up_proj, &self.down_proj]
            .map(Weight::resident_bytes)
            .iter()
            .sum()
    }

    fn matrices(&self) -> [cpu::Matrix<'_>; 3] {
        [
            self.gate_proj.matrix(),
            self.up_proj.matrix(),
            self.down_proj.matrix(),
        ]
    }
}

/// A dense feed-forward for all of `x` `[tokens, hidden_size]`.
pub fn mlp(x: &Rows, weights: &Mlp) -> Rows {
    match x {
        Rows::Host { data, width } => {
            let mut out = vec![0.0; data.len()];
            cpu::mlp(data, weights.matrices(), &mut out);
            Rows::Host {
                data: out,
                width: *width,
            }
        }
        Rows::Tensor(x) => Rows::Tensor(mlp_portable(x.clone(), weights)),
    }
}

/// The routed experts and the shared one for `x` `[tokens, hidden_size]`.
pub fn experts(x: &Rows, routes: &Routes, experts: &[Mlp], shared: Option<&Mlp>) -> Rows {
    match x {
        Rows::Host { data, width } => {
            let mut out = vec![0.0; data.len()];
            cpu::experts(
                data,
                &routes.experts,
                &routes.weights,
                data.len() / width,
                &|expert| experts[expert].matrices(),
                shared.map(Mlp::matrices),
                &mut out,
            );
            Rows::Host {
                data: out,
                width: *width,
            }
        }
        Rows::Tensor(x) => {
            let n = x.dims()[0];
            let k = routes.weights.len() / n;
            let data = TensorData::new(routes.weights.clone(), [n, k]);
            let weights = Tensor::<2>::from_data(data, (&x.device(), x.dtype()));
            Rows::Tensor(experts_portable(
                x.clone(),
                &routes.experts,
                weights,
                experts,
                shared,
            ))
        }
    }
}

/// The definition of [`mlp`].
pub fn mlp_portable(x: Tensor<2>, weights: &Mlp) -> Tensor<2> {
    let gate = linear::portable(x.clone(), &weights.gate_proj);
    let up = linear::portable(x, &weights.up_proj);
    linear::portable(
        burn::tensor::activation::silu(gate) * up,
        &weights.down_proj,
    )
}

/// The definition of [`experts`]: `chosen` and `weights` are `[tokens, num_experts_per_tok]`.
/// Gradients reach `x`, the expert weights and `weights`.
pub fn experts_portable(
    x: Tensor<2>,
    chosen: &[u16],
    weights: Tensor<2>,
    experts: &[Mlp],
    shared: Option<&Mlp>,
) -> Tensor<2> {
    let [n, k] = weights.dims();
    let device = x.device();
    let weights = weights.reshape([n * k, 1]);
    let mut y = x.zeros_like();
    for (expert, mlp) in experts.iter().enumerate() {
        let slots: Vec<i32> = (0..n * k)
            .filter(|&slot| chosen[slot] as usize == expert)
            .map(|slot| slot as i32)
            .collect();
        if slots.is_empty() {
            continue;
        }
        let tokens: Vec<i32> = slots.iter().map(|slot| slot / k as i32).collect();
        let tokens = Tensor::<1, Int>::from_ints(tokens.as_slice(), &device);
        let slots = Tensor::<1, Int>::from_ints(slots.as_slice(), &device);
        let out = mlp_portable(x.clone().select(0, tokens.clone()), mlp)
            * weights.clone().select(0, slots);
        y = y.select_assign(0, tokens, out, IndexingUpdateOp::Add);
    }
    match shared {
        Some(shared) => y + mlp_portable(x, shared),
        None => y,
    }
}
