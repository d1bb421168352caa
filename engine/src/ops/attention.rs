//! MLA attention over cached latents: dense and causal, or over exactly the selected positions.
//!
//! ```text
//! absorbed:  q_lat[t,j] = W_UK[j]ᵀ q_nope[t,j]
//!            score[t,j,s] = scale · (q_lat[t,j] · c[s] + q_pe[t,j] · k_pe[s])
//!            out[t,j] = W_UV[j] Σ_s softmax(score)[t,j,s] c[s]
//! MHA:       [k_nope | v][s] = W_kvb c[s],   score = scale · (q_nope · k_nope + q_pe · k_pe)
//! ```
//! `W_kvb` holds per head the rows `[W_UK (dn) ; W_UV (dv)]`. Source: spec 3.4.

use burn::Tensor;

use super::softmax::softmax;
use super::{WORKSPACE_BYTES, linear};
use crate::Result;
use crate::cache::LatentStore;
pub use crate::cpu::Heads;
use crate::cpu::{self, Selection};
use crate::rows::{Rows, read_tensor};
use crate::weight::Weight;

/// One attention call.
pub(crate) struct Attention<'a> {
    pub heads: Heads,
    /// Queries `[tokens, heads × (dn + dr)]`, rotated.
    pub q: &'a Rows,
    /// `kv_b_proj` `[heads × (dn + dv), rank]`.
    pub w_kvb: &'a Weight,
    pub cache: &'a LatentStore,
    /// Position of the first query.
    pub position: usize,
    /// What each token may read; `None` for everything up to itself.
    pub selection: Option<&'a Selection>,
    /// Expand latents to heads instead of absorbing: cheaper for short prefill, equal in exact
    /// arithmetic, not in bits.
    pub mha: bool,
    /// Return the weights of rows from this one on.
    pub weights_from: Option<usize>,
}

/// Attention weights of some rows: `[rows, heads, slots]`, slots as in the selection (all visible
/// positions where it is dense), 0 in padding.
pub(crate) struct Weights {
    pub n_slots: usize,
    pub data: Vec<f32>,
}

/// Runs attention; `[tokens, heads × dv]`, and weights if asked for.
///
/// # Errors
/// The device failed while weights were read back.
pub(crate) fn attend(call: &Attention) -> Result<(Rows, Option<Weights>)> {
    match call.cache {
        LatentStore::Host(cache) => Ok(host(call, cache)),
        LatentStore::Pages { latent, k_pe, .. } => portable(call, latent, k_pe),
        LatentStore::Gpu(_) => unreachable!("kernels read their own caches"),
    }
}

fn host(call: &Attention, cache: &cpu::LatentCache) -> (Rows, Option<Weights>) {
    let n = call.q.n_rows();
    let width = call.heads.n_heads * call.heads.dv;
    let mut out = vec![0.0; n * width];
    let mut weights = call.weights_from.map(cpu::AttentionWeights::new);
    let attend = if call.mha {
        cpu::attend_mha
    } else {
        cpu::attend
    };
    let native = cpu::Call {
        heads: call.heads,
        q: call.q.host(),
        w_kvb: call.w_kvb.matrix(),
        cache,
        position: call.position,
        selection: call.selection,
    };
    attend(native, &mut out, weights.as_mut());
    let weights = weights.map(|weights| Weights {
        n_slots: weights.n_slots,
        data: weights.data,
    });
    (Rows::Host { data: out, width }, weights)
}

/// The definition.
fn portable(
    call: &Attention,
    latent: &crate::cache::Pages,
    k_pe: &crate::cache::Pages,
) -> Result<(Rows, Option<Weights>)> {
    let n = call.q.n_rows();
    let Heads { n_heads, dv, .. } = call.heads;
    let context = call.position + n;

    // The union of what all rows may read, ascending; each row masks what is not its own.
    let union: Vec<i32> = match call.selection {
        None => (0..context as i32).collect(),
        Some(selection) => {
            let mut all: Vec<i32> = selection
                .indices
                .iter()
                .copied()
                .filter(|&s| s >= 0)
                .collect();
            all.sort_unstable();
            all.dedup();
            all
        }
    };
    let latents = latent.gather(&union);
    let k_pe = k_pe.gather(&union);
    let kv = if call.mha {
        Some(linear::portable(latents.clone(), call.w_kvb))
    } else {
        None
    };

    let rows = (WORKSPACE_BYTES / 4 / (n_heads * union.len())).clamp(1, n);
    let mut out = Vec::new();
    let mut weights = call.weights_from.map(|_| Weights {
        n_slots: slots(call),
        data: Vec::new(),
    });
    for first in (0..n).step_by(rows) {
        let n = rows.min(n - first);
        let q = call.q.slice(first, n).tensor();
        let mask = mask(call, &union, first, n, &q);
        let (part, probabilities) = match &kv {
            None => absorbed(call, q, latents.clone(), k_pe.clone(), mask),
            Some(kv) => expanded(call, q, kv.clone(), k_pe.clone(), mask),
        };
        out.push(part);
        if let (Some(weights), Some(from)) = (&mut weights, call.weights_from) {
            let all = read_tensor(probabilities)?;
            for row in from.max(first)..first + n {
                to_slots(call, &union, row, &all, n, row - first, weights);
            }
        }
    }
    let out = if out.len() == 1 {
        out.remove(0)
    } else {
        Tensor::cat(out, 0)
    };
    Ok((Rows::Tensor(out.reshape([n, n_heads * dv])), weights))
}

fn slots(call: &Attention) -> usize {
    call.selection
        .map_or(call.position + call.q.n_rows(), |selection| selection.k)
}

/// 0 where row `t` may read union entry `u`, −∞ elsewhere: `[1, rows, union]`.
fn mask(call: &Attention, union: &[i32], first: usize, n: usize, like: &Tensor<2>) -> Tensor<3> {
    let mut mask = vec![f32::NEG_INFINITY; n * union.len()];
    for (row, mask) in mask.chunks_exact_mut(union.len()).enumerate() {
        match call.selection {
            None => mask[..=call.position + first + row].fill(0.0),
            Some(selection) => {
                for &position in selection.row(first + row) {
                    let at = union
                        .binary_search(&position)
                        .expect("the union holds every selected position");
                    mask[at] = 0.0;
                }
            }
        }
    }
    let data = burn::tensor::TensorData::new(mask, [1, n, union.len()]);
    Tensor::from_data(data, (&like.device(), like.dtype()))
}

/// Per head `[heads, tokens, width]` from `[tokens, heads × stride]`.
fn per_head(q: &Tensor<2>, n_heads: usize, channels: std::ops::Range<usize>) -> Tensor<3> {
    let [n, width] = q.dims();
    q.clone()
        .reshape([n, n_heads, width / n_heads])
        .slice([0..n, 0..n_heads, channels])
        .swap_dims(0, 1)
}

fn absorbed(
    call: &Attention,
    q: Tensor<2>,
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
    } = call.heads;
    let [n, _] = q.dims();
    let n_keys = latents.dims()[0];
    let w = call.w_kvb.tensor().reshape([n_heads, dn + dv, rank]);
    let w_uk = w.clone().slice([0..n_heads, 0..dn, 0..rank]);
    let w_uv = w.slice([0..n_heads, dn..dn + dv, 0..rank]);

    let q_lat = per_head(&q, n_heads, 0..dn).matmul(w_uk); // [heads, tokens, rank]
    let q_pe = per_head(&q, n_heads, dn..dn + dr);
    let on_latents = q_lat
        .reshape([n_heads * n, rank])
        .matmul(latents.clone().transpose());
    let on_rope = q_pe.reshape([n_heads * n, dr]).matmul(k_pe.transpose());
    let scores = ((on_latents + on_rope) * scale).reshape([n_heads, n, n_keys]) + mask;
    let probabilities = softmax(scores);
    let o_lat = probabilities
        .clone()
        .reshape([n_heads * n, n_keys])
        .matmul(latents);
    let out = o_lat
        .reshape([n_heads, n, rank])
        .matmul(w_uv.swap_dims(1, 2));
    (
        out.swap_dims(0, 1).reshape([n, n_heads * dv]),
        probabilities,
    )
}

fn expanded(
    call: &Attention,
    q: Tensor<2>,
    kv: Tensor<2>,
    k_pe: Tensor<2>,
    mask: Tensor<3>,
) -> (Tensor<2>, Tensor<3>) {
    let [_, n, n_keys] = mask.dims();
    let mask = mask.reshape([1, 1, n, n_keys]);
    let (out, probabilities) = mha_portable(call.heads, 1, q, kv, k_pe, mask);
    let n_heads = call.heads.n_heads;
    (out, probabilities.reshape([n_heads, n, n_keys]))
}

/// The definition of the expanded form, for `n_sequences` of equal length one below the other:
/// queries `[sequences × tokens, heads × (dn + dr)]`, rotated; `kv` `[sequences × keys, heads × (dn +
/// dv)]`; rotated keys `[sequences × keys, dr]`; a mask that is added to the scores, `[sequences or 1,
/// 1, tokens, keys]`. Gives `[sequences × tokens, heads × dv]` and the weights `[sequences, heads,
/// tokens, keys]`. Gradients reach `q`, `kv` and `k_pe`.
pub fn mha_portable(
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
    let k_nope = kv
        .clone()
        .slice([0..n_sequences, 0..n_heads, 0..n_keys, 0..dn]);
    let v = kv.slice([0..n_sequences, 0..n_heads, 0..n_keys, dn..dn + dv]);
    let k_pe =
        k_pe.reshape([n_sequences, 1, n_keys, dr])
            .expand([n_sequences, n_heads, n_keys, dr]);
    let k = Tensor::cat(vec![k_nope, k_pe], 3);
    let probabilities = softmax(q.matmul(k.swap_dims(2, 3)) + mask);
    let out = probabilities.clone().matmul(v);
    (
        out.swap_dims(1, 2).reshape([n_sequences * n, n_heads * dv]),
        probabilities,
    )
}

/// Moves the weights of one row from union order `[heads, rows, union]` to its slots.
fn to_slots(
    call: &Attention,
    union: &[i32],
    row: usize,
    all: &[f32],
    n: usize,
    at: usize,
    into: &mut Weights,
) {
    for head in 0..call.heads.n_heads {
        let of_row = &all[(head * n + at) * union.len()..][..union.len()];
        let start = into.data.len();
        into.data.resize(start + into.n_slots, 0.0);
        let slots = &mut into.data[start..];
        match call.selection {
            None => slots[..of_row.len()].copy_from_slice(of_row),
            Some(selection) => {
                for (slot, &position) in selection.row(row).iter().enumerate() {
                    let at = union
                        .binary_search(&position)
                        .expect("the union holds every selected position");
                    slots[slot] = of_row[at];
                }
            }
        }
    }
}
