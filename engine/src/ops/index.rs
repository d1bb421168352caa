//! The lightning indexer: `I[t,s] = Σ_j w[t,j] · relu(q[t,j] · k[s])` for `s ≤ t`, and the `k` best.
//!
//! Ties go to the lower position, on every device. Source: spec 3.5.
//!
//! The portable body scores on the device and chooses on the host, in chunks of rows that keep the
//! scores within [`WORKSPACE_BYTES`]; the choice is one piece of code for all devices, so equal
//! scores give equal selections.

use burn::Tensor;

use super::{WORKSPACE_BYTES, quantise};
use crate::cache::{KeyStore, Pages};
use crate::cpu::{self, Forced, KeyFormat, Selection};
use crate::rows::{Rows, read_tensor};
use crate::{Error, Result};

/// What a run of tokens asks the indexer.
#[derive(Clone, Debug)]
pub struct IndexQuery {
    /// Queries `[tokens, index_n_heads × index_head_dim]`, rotated, and rounded if keys are FP8.
    pub q: Rows,
    /// Head weights `[tokens, index_n_heads]`, scaled by `index_n_heads^-0.5 · index_head_dim^-0.5`.
    pub w: Rows,
    /// Position of the first token.
    pub position: usize,
}

/// Hadamard-transforms each head of `x` `[tokens, heads × dim]`, orthonormal, Sylvester order.
pub fn hadamard(x: Rows, dim: usize) -> Rows {
    match x {
        Rows::Host { mut data, width } => {
            cpu::hadamard(&mut data, dim);
            Rows::Host { data, width }
        }
        Rows::Tensor(x) => {
            let [n, width] = x.dims();
            let scale = (dim as f32).sqrt().recip();
            let sign = |i: usize, j: usize| {
                if (i & j).count_ones().is_multiple_of(2) {
                    scale
                } else {
                    -scale
                }
            };
            let matrix: Vec<f32> = (0..dim * dim).map(|at| sign(at / dim, at % dim)).collect();
            let data = burn::tensor::TensorData::new(matrix, [dim, dim]);
            let matrix = Tensor::<2>::from_data(data, (&x.device(), x.dtype()));
            Rows::Tensor(
                x.reshape([n * width / dim, dim])
                    .matmul(matrix)
                    .reshape([n, width]),
            )
        }
    }
}

/// Rounds each head of `x` `[tokens, heads × dim]` as FP8 storage with a power-of-two scale would.
pub fn round_fp8(x: Rows, dim: usize) -> Rows {
    match x {
        Rows::Host { mut data, width } => {
            cpu::round_fp8(&mut data, dim);
            Rows::Host { data, width }
        }
        Rows::Tensor(x) => {
            let [n, width] = x.dims();
            let heads = x.reshape([n * width / dim, dim]);
            Rows::Tensor(quantise::portable(heads, quantise::BLOCK).reshape([n, width]))
        }
    }
}

/// Prepares queries or keys for a key cache of this format.
pub(crate) fn prepare(x: Rows, dim: usize, format: KeyFormat) -> Rows {
    match format {
        KeyFormat::F32 => x,
        KeyFormat::Fp8 => hadamard(x, dim),
    }
}

/// The `k` positions with the highest scores for every token of `query`, among those not after it, with
/// `forced` positions in or out.
///
/// # Errors
/// A score is NaN, or the device failed.
pub(crate) fn select(
    query: &IndexQuery,
    keys: &KeyStore,
    k: usize,
    forced: &Forced,
) -> Result<Selection> {
    match keys {
        KeyStore::Host(cache) => {
            let n_heads = query.w.width();
            cpu::select(
                query.q.host(),
                query.w.host(),
                n_heads,
                cache,
                query.position,
                k,
                forced,
            )
            .map_err(nan)
        }
        KeyStore::Gpu(_) => unreachable!("kernels read their own caches"),
        KeyStore::Pages { keys, .. } => {
            let n = query.q.n_rows();
            let mut indices = Vec::with_capacity(n * k);
            for_row_chunks(query, keys, |first, scores, context| {
                for (row, scores) in scores.chunks_exact(context).enumerate() {
                    let position = query.position + first + row;
                    let visible = &scores[..=position];
                    if visible.iter().any(|score| score.is_nan()) {
                        return Err(nan(position));
                    }
                    indices.extend(cpu::top_k_with(visible, k, forced));
                }
                Ok(())
            })?;
            Ok(Selection { k, indices })
        }
    }
}

/// Scores of rows `first..` of `query` over all cached positions, `[rows, context]`, −∞ where a
/// position comes after the token.
pub(crate) fn scores(query: &IndexQuery, keys: &KeyStore, first: usize) -> Result<Vec<f32>> {
    let n = query.q.n_rows() - first;
    let query = IndexQuery {
        q: query.q.slice(first, n),
        w: query.w.slice(first, n),
        position: query.position + first,
    };
    match keys {
        KeyStore::Host(cache) => {
            let n_heads = query.w.width();
            Ok(cpu::index_scores(
                query.q.host(),
                query.w.host(),
                n_heads,
                cache,
                query.position,
            ))
        }
        KeyStore::Gpu(_) => unreachable!("kernels read their own caches"),
        KeyStore::Pages { keys, .. } => {
            let mut all = Vec::new();
            for_row_chunks(&query, keys, |first, mut scores, context| {
                for (row, scores) in scores.chunks_exact_mut(context).enumerate() {
                    scores[query.position + first + row + 1..].fill(f32::NEG_INFINITY);
                }
                all.extend(scores);
                Ok(())
            })?;
            Ok(all)
        }
    }
}

/// Scores chunks of rows against all keys and hands each chunk to `take`: its first row, its
/// scores `[rows, context]`, and the context.
fn for_row_chunks(
    query: &IndexQuery,
    keys: &Pages,
    mut take: impl FnMut(usize, Vec<f32>, usize) -> Result<()>,
) -> Result<()> {
    let (q, w) = (query.q.tensor(), query.w.tensor());
    let [n, n_heads] = w.dims();
    let width = q.dims()[1];
    let context = query.position + n;
    // The product before the sum over heads is the largest intermediate.
    let rows = (WORKSPACE_BYTES / 4 / (context * n_heads)).clamp(1, n);
    for first in (0..n).step_by(rows) {
        let n = rows.min(n - first);
        let q = q.clone().slice([first..first + n, 0..width]);
        let w = w.clone().slice([first..first + n, 0..n_heads]);
        let parts = keys
            .parts()
            .map(|part| portable(q.clone(), w.clone(), part))
            .collect();
        take(first, read_tensor(Tensor::cat(parts, 1))?, context)?;
    }
    Ok(())
}

/// The definition: scores `[tokens, keys]` of `q` `[tokens, heads × dim]`, `w` `[tokens, heads]`
/// against `keys` `[keys, dim]`.
pub fn portable(q: Tensor<2>, w: Tensor<2>, keys: Tensor<2>) -> Tensor<2> {
    let [n, n_heads] = w.dims();
    let [n_keys, dim] = keys.dims();
    let dots = q.reshape([n * n_heads, dim]).matmul(keys.transpose());
    let kept = burn::tensor::activation::relu(dots).reshape([n, n_heads, n_keys]);
    (kept * w.reshape([n, n_heads, 1]))
        .sum_dim(1)
        .reshape([n, n_keys])
}

fn nan(position: usize) -> Error {
    Error::NanScores { position }
}
