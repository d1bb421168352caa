//! The forward pass of training: the engine's portable ops over several sequences at once.
//!
//! What differs from inference: no caches, all positions in one pass, and losses that the ops do not
//! know of. Scores are taken in blocks of query rows, so that their size is bounded.
//!
//! The gradients of the three losses with respect to what they are taken of are closed formulas, so
//! each enters the graph as `Σ x · dx` with `dx` a constant, whose gradient is `dx`:
//! cross entropy `softmax(logits) − onehot`, index divergence `softmax(I) − p`. Source: spec 7.2.

mod attention;
mod losses;

use burn::Tensor;
use burn::tensor::{DType, Device, Int, TensorData};
use engine::Config;
use engine::cpu::Heads;
use engine::ops::experts::{Mlp, experts_portable, mlp_portable};
use engine::ops::gate::{Routes, route, weights_portable};
use engine::ops::linear;
use engine::ops::norm::rms_norm_portable;
use engine::ops::rope::{Angles, Rope};

pub use attention::SelectionStats;

use crate::net::Leaves;
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

/// The pass over one batch.
struct Forward<'a> {
    config: &'a Config,
    leaves: &'a Leaves,
    device: Device,
    dtype: DType,
    options: PassOptions,
    heads: Heads,
    n_sequences: usize,
    length: usize,
    angles: Angles,
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
    leaves: &Leaves,
    batch: &Batch,
    options: PassOptions,
    per_target: &[f64],
    micro_share: f64,
    biases: &(dyn Fn(usize) -> Vec<f32> + Sync),
) -> Result<PassResult> {
    let like = leaves
        .matrix("model.embed_tokens.weight")
        .without_autodiff();
    let (device, dtype) = (like.device(), like.dtype());
    let (n_sequences, length) = (batch.n_sequences, batch.length);
    let mut pass = Forward {
        config,
        leaves,
        heads: Heads {
            n_heads: config.num_attention_heads,
            dn: config.qk_nope_head_dim,
            dr: config.qk_rope_head_dim,
            dv: config.v_head_dim,
            rank: config.kv_lora_rank,
            scale: config.softmax_scale(),
        },
        angles: Rope::new(config).angles_of_sequences(n_sequences, length, &like),
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
    pass.causal = pass.blocks().map(|rows| pass.causal_mask(rows)).collect();
    pass.run(batch)
}

impl Forward<'_> {
    fn run(mut self, batch: &Batch) -> Result<PassResult> {
        let embed = self.leaves.matrix("model.embed_tokens.weight");
        let ids = self.shifted(&batch.ids, 0);
        let mut x = embed.clone().select(0, self.ints(&ids));
        for layer in 0..self.config.num_hidden_layers {
            x = self.block(layer, x)?;
        }
        let eps = self.config.rms_norm_eps;
        let hidden = rms_norm_portable(x, self.leaves.vector("model.norm.weight"), eps);
        let head = if self.config.tie_word_embeddings {
            embed.clone()
        } else {
            self.leaves.matrix("lm_head.weight")
        };
        if self.options.main_loss {
            let (nll, n) = self.cross_entropy(hidden.clone(), head.clone(), batch, 1, 1.0)?;
            (self.stats.nll, self.stats.n_targets) = (nll, n);
        }
        if self.options.mtp_weight > 0.0 {
            let (nll, n) = self.mtp(hidden, embed, head, batch)?;
            (self.stats.mtp_nll, self.stats.n_mtp_targets) = (nll, n);
        }
        let surrogate = self.surrogates.into_iter().reduce(|sum, part| sum + part);
        Ok(PassResult {
            surrogate,
            stats: self.stats,
        })
    }

    /// The MTP layer: predicts the token after the next. Source: spec section 5.
    fn mtp(
        &mut self,
        hidden: Tensor<2>,
        embed: Tensor<2>,
        head: Tensor<2>,
        batch: &Batch,
    ) -> Result<(f64, usize)> {
        let layer = self.config.num_hidden_layers;
        let eps = self.config.rms_norm_eps;
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        let next = self.shifted(&batch.ids, 1);
        let embedded = embed.select(0, self.ints(&next));
        let joined = Tensor::cat(
            vec![
                rms_norm_portable(embedded, self.leaves.vector(&name("enorm")), eps),
                rms_norm_portable(hidden, self.leaves.vector(&name("hnorm")), eps),
            ],
            1,
        );
        let x = linear::portable(joined, &self.leaves.weight(&name("eh_proj")));
        let x = self.block(layer, x)?;
        let norm = self.leaves.vector(&name("shared_head.norm"));
        let normed = rms_norm_portable(x, norm, eps);
        self.cross_entropy(normed, head, batch, 2, self.options.mtp_weight)
    }

    fn block(&mut self, layer: usize, x: Tensor<2>) -> Result<Tensor<2>> {
        let eps = self.config.rms_norm_eps;
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        let norm = self.leaves.vector(&name("input_layernorm.weight"));
        let normed = rms_norm_portable(x.clone(), norm, eps);
        let x = x + self.attention(layer, normed)?;
        let norm = self.leaves.vector(&name("post_attention_layernorm.weight"));
        let normed = rms_norm_portable(x.clone(), norm, eps);
        let fed = match self
            .config
            .moe
            .as_ref()
            .filter(|_| self.config.is_moe(layer))
        {
            None => mlp_portable(normed, &self.mlp(&name("mlp"))),
            Some(moe) => self.experts(layer, normed, moe)?,
        };
        Ok(x + fed)
    }

    fn mlp(&self, prefix: &str) -> Mlp {
        let weight = |part: &str| self.leaves.weight(&format!("{prefix}.{part}.weight"));
        Mlp {
            gate_proj: weight("gate_proj"),
            up_proj: weight("up_proj"),
            down_proj: weight("down_proj"),
        }
    }

    fn experts(
        &mut self,
        layer: usize,
        x: Tensor<2>,
        moe: &engine::config::MoeConfig,
    ) -> Result<Tensor<2>> {
        let prefix = format!("model.layers.{layer}.mlp");
        let gate = self.leaves.weight(&format!("{prefix}.gate.weight"));
        let logits = linear::portable(x.clone(), &gate);
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
        let (weights, scores) = weights_portable(logits, &experts, moe);
        if self.options.balance_weight > 0.0 && scores.is_autodiff() {
            self.balance(scores, &experts, moe);
        }
        let routed: Vec<Mlp> = (0..moe.n_routed_experts)
            .map(|expert| self.mlp(&format!("{prefix}.experts.{expert}")))
            .collect();
        let shared =
            (moe.n_shared_experts > 0).then(|| self.mlp(&format!("{prefix}.shared_experts")));
        Ok(experts_portable(
            x,
            &experts,
            weights,
            &routed,
            shared.as_ref(),
        ))
    }

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
