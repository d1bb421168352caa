//! One layer: norm, attention, norm, feed-forward, with residuals.

use std::collections::BTreeSet;

use super::mla::Mla;
use super::{ForwardOptions, Records};
use crate::Result;
use crate::cache::LayerCache;
use crate::config::{Config, MoeConfig};
use crate::cpu::Selection;
use crate::ops::experts::{Mlp, experts, mlp};
use crate::ops::gate::route;
use crate::ops::linear::linear;
use crate::ops::norm::rms_norm;
use crate::ops::rope::Angles;
use crate::rows::Rows;
use crate::trace::{Stage, Trace, Value};
use crate::weight::{Vector, Weight};

/// What all layers of one forward pass share.
pub(super) struct Pass<'a, 'r> {
    pub config: &'a Config,
    pub options: &'a ForwardOptions,
    /// Position of the first token.
    pub position: usize,
    pub angles: &'a Angles,
    /// What the last layer that selects for itself made its tokens read, for layers that share it;
    /// `None` for everything.
    pub selection: Option<Selection>,
    pub records: &'a mut Records<'r>,
    pub trace: &'a mut Trace,
}

#[derive(Debug)]
pub(super) struct Block {
    pub layer: usize,
    pub input_layernorm: Vector,
    pub self_attn: Mla,
    pub post_attention_layernorm: Vector,
    pub mlp: FeedForward,
}

#[derive(Debug)]
pub(super) enum FeedForward {
    Dense(Mlp),
    Moe(Moe),
}

#[derive(Debug)]
pub(super) struct Moe {
    pub gate: Weight,
    pub e_score_correction_bias: Option<Vector>,
    pub experts: Vec<Mlp>,
    pub shared_experts: Option<Mlp>,
}

impl Block {
    /// `[tokens, hidden_size]` to the same.
    pub fn forward(&self, x: Rows, cache: &mut LayerCache, pass: &mut Pass) -> Result<Rows> {
        let eps = pass.config.rms_norm_eps;
        let clock = pass.trace.clock();
        let normed = rms_norm(&x, &self.input_layernorm, eps);
        pass.trace
            .timed(clock, "norm", self.layer, || self.input_layernorm.bytes());
        let attended = self.self_attn.forward(self.layer, &normed, cache, pass)?;
        let clock = pass.trace.clock();
        let x = x.plus(attended);
        let normed = rms_norm(&x, &self.post_attention_layernorm, eps);
        pass.trace.timed(clock, "norm", self.layer, || {
            self.post_attention_layernorm.bytes()
        });
        let fed = match &self.mlp {
            FeedForward::Dense(weights) => {
                let clock = pass.trace.clock();
                let fed = mlp(&normed, weights);
                pass.trace
                    .timed(clock, "mlp", self.layer, || weights.resident_bytes());
                fed
            }
            FeedForward::Moe(moe) => {
                let config = pass
                    .config
                    .moe
                    .as_ref()
                    .expect("a config with MoE layers has MoE sizes");
                moe.forward(self.layer, &normed, config, pass)?
            }
        };
        let x = x.plus(fed);
        self.record(&x, pass.trace)?;
        Ok(x)
    }

    fn record(&self, x: &Rows, trace: &mut Trace) -> Result<()> {
        let wants_hidden = trace.wants(self.layer, Stage::Hidden);
        let wants_norm = trace.wants(self.layer, Stage::ResidualNorm);
        if !wants_hidden && !wants_norm {
            return Ok(());
        }
        let first = trace.first_row(x.n_rows());
        let n = x.n_rows() - first;
        let rows = x.slice(first, n).read()?;
        if wants_norm {
            let norm = |row: &[f32]| {
                row.iter()
                    .map(|v| f64::from(*v).powi(2))
                    .sum::<f64>()
                    .sqrt() as f32
            };
            let norms = rows.chunks_exact(x.width()).map(norm).collect();
            trace.record(self.layer, Stage::ResidualNorm, Value::f32([n, 1], norms));
        }
        if wants_hidden {
            trace.record(self.layer, Stage::Hidden, Value::f32([n, x.width()], rows));
        }
        Ok(())
    }

    pub fn resident_bytes(&self) -> usize {
        self.self_attn.resident_bytes()
            + match &self.mlp {
                FeedForward::Dense(mlp) => mlp.resident_bytes(),
                FeedForward::Moe(moe) => {
                    moe.gate.resident_bytes()
                        + moe
                            .experts
                            .iter()
                            .chain(&moe.shared_experts)
                            .map(Mlp::resident_bytes)
                            .sum::<usize>()
                }
            }
    }
}

impl Moe {
    fn forward(&self, layer: usize, x: &Rows, config: &MoeConfig, pass: &mut Pass) -> Result<Rows> {
        let clock = pass.trace.clock();
        let [logits] = linear(x, [&self.gate]);
        let bias = self
            .e_score_correction_bias
            .as_ref()
            .map(|bias| bias.host.as_slice());
        let intervention = &pass.options.intervention;
        let replay = intervention.routes.as_deref();
        let off = intervention.off(layer);
        let position = pass.position;
        let routes = route(logits.read()?, bias, config, &off, |token| {
            replay
                .and_then(|trace| trace.get(layer, position + token))
                .map(|(experts, _)| experts)
        });
        pass.trace
            .timed(clock, "gate", layer, || self.gate.resident_bytes());

        let k = config.num_experts_per_tok;
        if let Some(record) = pass.records.routes.as_deref_mut() {
            record.record(layer, position, &routes.experts, &routes.weights)?;
        }
        let first = pass.trace.first_row(x.n_rows());
        let n = x.n_rows() - first;
        if pass.trace.wants(layer, Stage::GateScores) {
            let e = config.n_routed_experts;
            pass.trace.record(
                layer,
                Stage::GateScores,
                Value::f32([n, e], routes.scores[first * e..].to_vec()),
            );
        }
        if pass.trace.wants(layer, Stage::Experts) {
            let experts = routes.experts[first * k..]
                .iter()
                .map(|&expert| i32::from(expert))
                .collect();
            pass.trace
                .record(layer, Stage::Experts, Value::i32([n, k], experts));
        }
        if pass.trace.wants(layer, Stage::ExpertWeights) {
            let weights = routes.weights[first * k..].to_vec();
            pass.trace
                .record(layer, Stage::ExpertWeights, Value::f32([n, k], weights));
        }
        let clock = pass.trace.clock();
        let shared = self.shared_experts.as_ref();
        let fed = experts(x, &routes, &self.experts, shared);
        pass.trace.timed(clock, "experts", layer, || {
            let taken: BTreeSet<u16> = routes.experts.iter().copied().collect();
            taken
                .iter()
                .map(|&expert| &self.experts[usize::from(expert)])
                .chain(shared)
                .map(Mlp::resident_bytes)
                .sum()
        });
        Ok(fed)
    }
}
