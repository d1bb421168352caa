//! The operations of the definition, each under its formula. Gradients reach every tensor that a
//! function is given.

use burn::Tensor;
use burn::tensor::activation::{relu, sigmoid, silu};
use burn::tensor::{DType, Device, IndexingUpdateOp, Int, TensorData};

use super::softmax::softmax;
use crate::config::{Heads, MoeConfig, Scoring};
use crate::rope::{self, Layout};

/// `y = W x` for every row of `x`: `[tokens, cols]` to `[tokens, rows]`.
pub fn linear(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    x.matmul(weight.transpose())
}

/// RMSNorm `x / sqrt(mean(x²) + eps) · w`, row by row. Source: spec 3.1.
pub fn rms_norm(x: Tensor<2>, weight: Tensor<1>, eps: f32) -> Tensor<2> {
    let scale = (x.clone().square().mean_dim(1) + eps).sqrt().recip();
    x * scale * weight.unsqueeze()
}

/// LayerNorm `(x − mean) / sqrt(var + eps) · w + b`, row by row. Source: spec 3.5.
pub fn layer_norm(x: Tensor<2>, weight: Tensor<1>, bias: Tensor<1>, eps: f32) -> Tensor<2> {
    let centred = x.clone() - x.mean_dim(1);
    let scale = (centred.clone().square().mean_dim(1) + eps).sqrt().recip();
    centred * scale * weight.unsqueeze() + bias.unsqueeze()
}

/// Cosines and sines of some positions as tensors, each `[tokens, 1, qk_rope_head_dim / 2]`.
#[derive(Clone, Debug)]
pub struct Angles {
    cos: Tensor<3>,
    sin: Tensor<3>,
}

impl Angles {
    /// The angles of `n` positions on a device.
    pub fn new(angles: rope::Angles, n: usize, (device, dtype): (&Device, DType)) -> Self {
        let half = angles.cos.len() / n;
        let tensor =
            |values| Tensor::from_data(TensorData::new(values, [n, 1, half]), (device, dtype));
        Self {
            cos: tensor(angles.cos),
            sin: tensor(angles.sin),
        }
    }
}

/// Rotates `x` `[tokens, heads × width]`, each row by the angles of its position: pair `(a, b)` becomes
/// `(a cos − b sin, a sin + b cos)`. Source: spec 3.3.
pub fn rope(x: Tensor<2>, angles: &Angles, layout: Layout) -> Tensor<2> {
    let (cos, sin) = (angles.cos.clone(), angles.sin.clone());
    let [n, width] = x.dims();
    let [_, _, half] = cos.dims();
    let Layout {
        n_heads,
        offset,
        interleaved,
    } = layout;
    let stride = width / n_heads;
    let x = x.reshape([n, n_heads, stride]);
    let channels = |range: std::ops::Range<usize>| x.clone().slice([0..n, 0..n_heads, range]);
    let turned = channels(offset..offset + 2 * half);
    // Both pairings are [pair, which of the two] in one order or the other.
    let shape = match interleaved {
        true => [n, n_heads, half, 2],
        false => [n, n_heads, 2, half],
    };
    let axis = if interleaved { 3 } else { 2 };
    let parts = turned.reshape(shape);
    let part = |i: usize| parts.clone().narrow(axis, i, 1).reshape([n, n_heads, half]);
    let (a, b) = (part(0), part(1));
    let first = a.clone() * cos.clone() - b.clone() * sin.clone();
    let second = a * sin + b * cos;
    let one = match interleaved {
        true => [n, n_heads, half, 1],
        false => [n, n_heads, 1, half],
    };
    let turned = Tensor::cat(vec![first.reshape(one), second.reshape(one)], axis);
    let mut all = vec![turned.reshape([n, n_heads, 2 * half])];
    if offset > 0 {
        all.insert(0, channels(0..offset));
    }
    if offset + 2 * half < stride {
        all.push(channels(offset + 2 * half..stride));
    }
    Tensor::cat(all, 2).reshape([n, width])
}

/// Hadamard-transforms each head of `x` `[tokens, heads × dim]`, orthonormal, Sylvester order.
pub fn hadamard(x: Tensor<2>, dim: usize) -> Tensor<2> {
    let [n, width] = x.dims();
    let scale = (dim as f32).sqrt().recip();
    let sign = |i: usize, j: usize| match (i & j).count_ones().is_multiple_of(2) {
        true => scale,
        false => -scale,
    };
    let matrix: Vec<f32> = (0..dim * dim).map(|at| sign(at / dim, at % dim)).collect();
    let data = TensorData::new(matrix, [dim, dim]);
    let matrix = Tensor::<2>::from_data(data, (&x.device(), x.dtype()));
    let heads = x.reshape([n * width / dim, dim]);
    heads.matmul(matrix).reshape([n, width])
}

/// The lightning indexer `I[t, s] = Σ_j w[t, j] · relu(q[t, j] · k[s])`: `q` `[tokens, heads × dim]`, `w`
/// `[tokens, heads]`, `keys` `[keys, dim]` to `[tokens, keys]`. Source: spec 3.5.
pub fn index_scores(q: Tensor<2>, w: Tensor<2>, keys: Tensor<2>) -> Tensor<2> {
    let [n, n_heads] = w.dims();
    let [n_keys, dim] = keys.dims();
    let dots = q.reshape([n * n_heads, dim]).matmul(keys.transpose());
    let kept = relu(dots).reshape([n, n_heads, n_keys]);
    (kept * w.reshape([n, n_heads, 1]))
        .sum_dim(1)
        .reshape([n, n_keys])
}

/// MLA in the absorbed form, against latents as cached. Source: spec 3.4.
///
/// ```text
/// q_lat[t,j] = W_UK[j]ᵀ q_nope[t,j]
/// score[t,j,s] = scale · (q_lat[t,j] · c[s] + q_pe[t,j] · k_pe[s]) + mask[t,s]
/// out[t,j] = W_UV[j] Σ_s softmax(score)[t,j,s] c[s]
/// ```
/// `w_kvb` `[heads × (dn + dv), rank]` holds per head the rows `[W_UK ; W_UV]`. Queries `[tokens, heads ×
/// (dn + dr)]`, rotated; latents `[keys, rank]`; rotated keys `[keys, dr]`; mask `[1, tokens, keys]`. Gives
/// `[tokens, heads × dv]` and the weights `[heads, tokens, keys]`.
pub fn attend_absorbed(
    heads: Heads,
    q: Tensor<2>,
    w_kvb: Tensor<2>,
    latents: Tensor<2>,
    k_pe: Tensor<2>,
    mask: Tensor<3>,
) -> (Tensor<2>, Tensor<3>) {
    let Heads {
        n_heads,
        dn,
        dr,
        dv,
        rank,
        scale,
    } = heads;
    let ([n, _], [n_keys, _]) = (q.dims(), latents.dims());
    let w = w_kvb.reshape([n_heads, dn + dv, rank]);
    let w_uk = w.clone().narrow(1, 0, dn);
    let w_uv = w.narrow(1, dn, dv);
    let q = q.reshape([n, n_heads, dn + dr]).swap_dims(0, 1);
    let q_lat = q.clone().narrow(2, 0, dn).matmul(w_uk); // [heads, tokens, rank]
    let q_pe = q.narrow(2, dn, dr);
    let on_latents = q_lat
        .reshape([n_heads * n, rank])
        .matmul(latents.clone().transpose());
    let on_rope = q_pe.reshape([n_heads * n, dr]).matmul(k_pe.transpose());
    let scores = ((on_latents + on_rope) * scale).reshape([n_heads, n, n_keys]) + mask;
    let weights = softmax(scores);
    let o_lat = weights
        .clone()
        .reshape([n_heads * n, n_keys])
        .matmul(latents);
    let out = o_lat
        .reshape([n_heads, n, rank])
        .matmul(w_uv.swap_dims(1, 2));
    (out.swap_dims(0, 1).reshape([n, n_heads * dv]), weights)
}

/// MLA in the expanded form, for `n_sequences` of equal length one below the other: `[k_nope | v] = W_kvb
/// c`, `score = scale · (q_nope · k_nope + q_pe · k_pe) + mask`. Source: spec 3.4.
///
/// Queries `[sequences × tokens, heads × (dn + dr)]`, rotated; `kv` `[sequences × keys, heads × (dn +
/// dv)]`; rotated keys `[sequences × keys, dr]`; mask `[sequences or 1, 1, tokens, keys]`. Gives
/// `[sequences × tokens, heads × dv]` and the weights `[sequences, heads, tokens, keys]`.
pub fn attend_expanded(
    heads: Heads,
    n_sequences: usize,
    q: Tensor<2>,
    kv: Tensor<2>,
    k_pe: Tensor<2>,
    mask: Tensor<4>,
) -> (Tensor<2>, Tensor<4>) {
    let Heads {
        n_heads,
        dn,
        dr,
        dv,
        scale,
        ..
    } = heads;
    let n = q.dims()[0] / n_sequences;
    let n_keys = kv.dims()[0] / n_sequences;
    let q = (q * scale)
        .reshape([n_sequences, n, n_heads, dn + dr])
        .swap_dims(1, 2);
    let kv = kv
        .reshape([n_sequences, n_keys, n_heads, dn + dv])
        .swap_dims(1, 2);
    let k_nope = kv.clone().narrow(3, 0, dn);
    let v = kv.narrow(3, dn, dv);
    let k_pe =
        k_pe.reshape([n_sequences, 1, n_keys, dr])
            .expand([n_sequences, n_heads, n_keys, dr]);
    let k = Tensor::cat(vec![k_nope, k_pe], 3);
    let weights = softmax(q.matmul(k.swap_dims(2, 3)) + mask);
    let out = weights.clone().matmul(v);
    let out = out.swap_dims(1, 2).reshape([n_sequences * n, n_heads * dv]);
    (out, weights)
}

/// The weights of the experts `chosen` `[tokens, num_experts_per_tok]` by the gate's `logits` `[tokens,
/// n_routed_experts]`, of the same shape, and the scores of all experts. Gradients reach `logits` through
/// the scores, not through the choice, whose formula is [`crate::route`]'s. Source: spec section 4.
pub fn gate_weights(
    logits: Tensor<2>,
    chosen: &[u16],
    config: &MoeConfig,
) -> (Tensor<2>, Tensor<2>) {
    let [n, _] = logits.dims();
    let scores = match config.scoring_func {
        Scoring::Sigmoid => sigmoid(logits),
        Scoring::Softmax => softmax(logits),
    };
    let ids: Vec<i32> = chosen.iter().map(|&expert| i32::from(expert)).collect();
    let data = TensorData::new(ids, [n, config.num_experts_per_tok]);
    let ids = Tensor::<2, Int>::from_data(data, &scores.device());
    let mut weights = scores.clone().gather(1, ids);
    if config.norm_topk_prob {
        weights = weights.clone() / (weights.sum_dim(1) + 1e-20);
    }
    (weights * config.routed_scaling_factor, scores)
}

/// The matrices of one SwiGLU feed-forward.
#[derive(Clone, Debug)]
pub struct Mlp {
    /// `[width, hidden_size]`.
    pub gate_proj: Tensor<2>,
    /// `[width, hidden_size]`.
    pub up_proj: Tensor<2>,
    /// `[hidden_size, width]`.
    pub down_proj: Tensor<2>,
}

/// `down(silu(gate x) · up x)`. Source: spec 3.1.
pub fn mlp(x: Tensor<2>, weights: &Mlp) -> Tensor<2> {
    let gate = linear(x.clone(), weights.gate_proj.clone());
    let up = linear(x, weights.up_proj.clone());
    linear(silu(gate) * up, weights.down_proj.clone())
}

/// `y[t] = Σ_{e ∈ E_t} w[t,e] · swiglu_e(x[t]) + swiglu_shared(x[t])`, by ascending expert, the shared one
/// last; `chosen` and `weights` are `[tokens, num_experts_per_tok]`. Source: spec section 4.
pub fn experts(
    x: Tensor<2>,
    chosen: &[u16],
    weights: Tensor<2>,
    experts: impl IntoIterator<Item = Mlp>,
    shared: Option<Mlp>,
) -> Tensor<2> {
    let [n, k] = weights.dims();
    let device = x.device();
    let weights = weights.reshape([n * k, 1]);
    let mut y = x.zeros_like();
    for (expert, weights_of) in experts.into_iter().enumerate() {
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
        let rows = x.clone().select(0, tokens.clone());
        let out = mlp(rows, &weights_of) * weights.clone().select(0, slots);
        y = y.select_assign(0, tokens, out, IndexingUpdateOp::Add);
    }
    match shared {
        Some(shared) => y + mlp(x, &shared),
        None => y,
    }
}
