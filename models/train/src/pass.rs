//! A training pass: the engine's definition over several sequences at once.
//!
//! What differs from inference is a [`Context`]: no caches, all positions in one pass, and losses that
//! the definition does not know of. Scores are taken in blocks of query rows, so that their size is bounded.
//!
//! The gradients of the three losses with respect to what they are taken of are closed formulas, so
//! each enters the graph as `Σ x · dx` with `dx` a constant, whose gradient is `dx`:
//! cross entropy `softmax(logits) − onehot`, index divergence `softmax(I) − p`. Source: spec 7.2.

mod attention;
mod losses;

use burn::Tensor;
use burn::tensor::{DType, Device, Int, TensorData};
use engine::Config;
use engine::config::{Heads, MoeConfig};
use engine::definition::{Angles, Context, Definition, Projected, Weights, ops};
use engine::rope::Rope;
use engine::route::{Routes, route};

pub use attention::SelectionStats;

use crate::{Error, Result};

/// Query rows whose scores are held at once.
const BLOCK_ROWS: usize = 256;

/// How attention is computed and what the indexer learns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionMode {
    /// Everything is read, the indexer rests.
    Dense,
    /// Everything is read; the indexer learns what attention reads.
    DenseWarmup,
    /// The `k` best are read; the indexer learns the order among them.
    Sparse {
        /// Positions a token reads.
        k: usize,
    },
}

/// What a pass over a batch is to compute.
#[derive(Clone, Copy, Debug)]
pub struct PassOptions {
    /// How attention is computed.
    pub attention: AttentionMode,
    /// Weight of the MTP loss; 0 leaves the layer out.
    pub mtp_weight: f64,
    /// Weight of the loss of unbalanced sequences.
    pub balance_weight: f64,
    /// The loss of the language model is taken at all.
    pub main_loss: bool,
    /// Measure recall and overlap of the selection.
    pub watch_selection: bool,
    /// Positions that a watched selection holds.
    pub watch_k: usize,
}

/// Some sequences of equal length.
#[derive(Clone, Debug)]
pub struct Batch {
    /// How many.
    pub n_sequences: usize,
    /// Tokens read in each.
    pub length: usize,
    /// `[sequences, length + 2]`: each token's successor is its target, the one after that of MTP.
    pub ids: Vec<u32>,
    /// `[sequences, length + 2]`: whether a token counts as target.
    pub loss: Vec<bool>,
}

impl Batch {
    /// How many tokens of each sequence count as target.
    pub fn n_targets(&self) -> Vec<usize> {
        let targets = self.loss.chunks_exact(self.length + 2);
        let count = |loss: &[bool]| loss.iter().filter(|&&counts| counts).count();
        targets.map(|loss| count(&loss[1..=self.length])).collect()
    }
}

/// Sums over a batch, for the log.
#[derive(Clone, Debug, Default)]
pub struct PassStats {
    /// Sum of the negative log-probabilities of targets, in nats.
    pub nll: f64,
    /// How many targets.
    pub n_targets: usize,
    /// The same of the MTP layer.
    pub mtp_nll: f64,
    /// Targets of the MTP layer.
    pub n_mtp_targets: usize,
    /// By layer that has experts, the MTP layer last: tokens an expert got.
    pub loads: Vec<(usize, Vec<u32>)>,
    /// By layer that has an indexer.
    pub selection: Vec<(usize, SelectionStats)>,
}

/// What a pass gives: a number whose gradient is that of all losses, and what was seen.
pub struct PassResult {
    /// Backward from here. `None` where nothing is trained.
    pub surrogate: Option<Tensor<1>>,
    /// Sums for the log.
    pub stats: PassStats,
}

/// The pass over one batch: what the definition leaves open.
struct Training<'a> {
    config: &'a Config,
    device: Device,
    dtype: DType,
    options: PassOptions,
    heads: Heads,
    n_sequences: usize,
    length: usize,
    causal: Vec<Tensor<4>>,
    surrogates: Vec<Tensor<1>>,
    stats: PassStats,
    /// What a target weighs in the loss, by sequence.
    per_target: &'a [f64],
    /// What part of its step this micro-batch is.
    micro_share: f64,
    biases: &'a (dyn Fn(usize) -> Vec<f32> + Sync),
}

/// Runs a batch forward. `per_target` is what a target of each sequence weighs in the loss of the
/// step, so that the gradients of its micro-batches add up to that of a mean over all of them;
/// `micro_share` is 1 over the number of micro-batches. `biases` gives the routing bias of a layer.
///
/// # Errors
/// A loss, a score or a gate is NaN, with the layer it came up in.
pub fn forward(
    config: &Config,
    weights: &Weights,
    batch: &Batch,
    options: PassOptions,
    per_target: &[f64],
    micro_share: f64,
    biases: &(dyn Fn(usize) -> Vec<f32> + Sync),
) -> Result<PassResult> {
    let like = weights
        .matrix("model.embed_tokens.weight")
        .without_autodiff();
    let (device, dtype) = (like.device(), like.dtype());
    let (n_sequences, length) = (batch.n_sequences, batch.length);
    let positions = (0..n_sequences).flat_map(|_| 0..length);
    let angles = Rope::new(config).angles(positions);
    let angles = Angles::new(angles, n_sequences * length, (&device, dtype));
    let definition = Definition {
        config,
        weights,
        angles: &angles,
    };
    let mut training = Training {
        config,
        heads: config.heads(),
        causal: Vec::new(),
        surrogates: Vec::new(),
        stats: PassStats::default(),
        per_target,
        micro_share,
        device,
        dtype,
        options,
        n_sequences,
        length,
        biases,
    };
    training.causal = (training.blocks())
        .map(|rows| training.causal_mask(rows))
        .collect();
    let hidden = definition.forward(&training.shifted(&batch.ids, 0), &mut training)?;
    let head = definition.lm_head();
    if options.main_loss {
        let (nll, n) = training.cross_entropy(hidden.clone(), head.clone(), batch, 1, 1.0)?;
        (training.stats.nll, training.stats.n_targets) = (nll, n);
    }
    if options.mtp_weight > 0.0 {
        let next = training.shifted(&batch.ids, 1);
        let normed = definition.mtp(hidden, &next, &mut training)?;
        let (nll, n) = training.cross_entropy(normed, head, batch, 2, options.mtp_weight)?;
        (training.stats.mtp_nll, training.stats.n_mtp_targets) = (nll, n);
    }
    let parts = training.surrogates.into_iter();
    Ok(PassResult {
        surrogate: parts.reduce(|sum, part| sum + part),
        stats: training.stats,
    })
}

impl Context for Training<'_> {
    type Error = Error;

    fn indexes(&self, _layer: usize) -> bool {
        self.options.attention != AttentionMode::Dense
    }

    fn attend(&mut self, layer: usize, projected: Projected) -> Result<Tensor<2>> {
        let kv = ops::linear(projected.latent, projected.w_kvb);
        self.attend_sequences(layer, projected.q, kv, projected.k_pe, projected.index)
    }

    fn route(
        &mut self,
        layer: usize,
        logits: Tensor<2>,
        moe: &MoeConfig,
    ) -> Result<(Vec<u16>, Tensor<2>)> {
        let seen = read(logits.clone().without_autodiff())?;
        if let Some(&value) = seen.iter().find(|value| !value.is_finite()) {
            return Err(Error::NotFinite {
                what: "gate scores".into(),
                value: f64::from(value),
                layer,
                place: String::new(),
            });
        }
        let bias = (self.biases)(layer);
        // V2 has none.
        let bias = (!bias.is_empty()).then_some(bias.as_slice());
        let Routes { experts, .. } = route(seen, bias, moe, &[], |_| None);
        let mut load = vec![0; moe.n_routed_experts];
        for &expert in &experts {
            load[expert as usize] += 1;
        }
        self.stats.loads.push((layer, load));
        let (weights, scores) = ops::gate_weights(logits, &experts, moe);
        if self.options.balance_weight > 0.0 && scores.is_autodiff() {
            self.balance(scores, &experts, moe);
        }
        Ok((experts, weights))
    }
}

impl Training<'_> {
    fn blocks(&self) -> impl Iterator<Item = std::ops::Range<usize>> + use<> {
        let length = self.length;
        (0..length)
            .step_by(BLOCK_ROWS)
            .map(move |first| first..(first + BLOCK_ROWS).min(length))
    }

    fn causal_mask(&self, rows: std::ops::Range<usize>) -> Tensor<4> {
        let mut mask = vec![f32::NEG_INFINITY; rows.len() * rows.end];
        for (row, mask) in mask.chunks_exact_mut(rows.end).enumerate() {
            mask[..=rows.start + row].fill(0.0);
        }
        let data = TensorData::new(mask, [1, 1, rows.len(), rows.end]);
        Tensor::from_data(data, (&self.device, self.dtype))
    }

    /// Columns `ahead..ahead + length` of `[sequences, length + 2]`.
    fn shifted<T: Copy>(&self, all: &[T], ahead: usize) -> Vec<T> {
        all.chunks_exact(self.length + 2)
            .flat_map(|sequence| sequence[ahead..ahead + self.length].iter().copied())
            .collect()
    }

    fn ints(&self, ids: &[u32]) -> Tensor<1, Int> {
        let ids: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
        Tensor::from_ints(ids.as_slice(), &self.device)
    }
}

/// Reads a tensor back as `f32`, row-major.
pub(crate) fn read<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>> {
    let data = tensor
        .try_into_data()
        .map_err(|error| Error::Device(format!("lost or failed: {error:?}")))?;
    data.try_into_vec_as::<f32>()
        .map_err(|error| Error::Device(format!("gave back unexpected data: {error:?}")))
}

/// Reads a tensor of one number.
pub(crate) fn read_one(tensor: Tensor<1>) -> Result<f64> {
    let data = tensor
        .try_into_data()
        .map_err(|error| Error::Device(format!("lost or failed: {error:?}")))?;
    let values = data
        .try_into_vec_as::<f64>()
        .map_err(|error| Error::Device(format!("gave back unexpected data: {error:?}")))?;
    Ok(values[0])
}
