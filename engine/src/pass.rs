//! What one pass of one timeline is asked for, and the recorder of what it decides and leaves.
//!
//! Every body computes by itself. What follows from the numbers is here, once: whose choice a token
//! reads by, which experts a replay brings, and what of it a trace or a record keeps.

use crate::Result;
use crate::config::{Config, MoeConfig};
use crate::model::{Intervention, Selector, selector};
use crate::replay::{RouteTrace, SelectionTrace};
use crate::route::{Routes, route};
use crate::selection::{Forced, Selection};
use crate::trace::{Stage, Trace, Value};

/// Upper bound for the scratch space of one op, in bytes, whatever the context.
pub const WORKSPACE_BYTES: usize = 64 << 20;

/// Knobs of a forward pass that can change between two calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForwardOptions {
    /// Positions that a token may read, instead of the checkpoint's `index_topk`.
    pub index_topk: Option<usize>,
    /// Who chooses those positions, unless `dense`. Anything but the indexer is for evaluation, and
    /// GPUs do not have it.
    pub selector: Selector,
    /// Attend to everything, as if there were no selection. The indexer's keys are kept all the
    /// same, so that the next call may be sparse again.
    pub dense: bool,
    /// Use the expanded (MHA) form of attention for more than one token at a time. The absorbed
    /// form is the default, since it makes any split of a prompt give the same bits.
    pub mha_prefill: bool,
    /// What a "what if" changes.
    pub intervention: Intervention,
}

/// Which rows of a forward pass give logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogitRows {
    /// None: the tokens only fill the cache.
    None,
    /// The last.
    Last,
    /// All.
    All,
}

/// What a pass records of its decisions.
#[derive(Default)]
pub(crate) struct Records<'a> {
    pub(crate) routes: Option<&'a mut RouteTrace>,
    pub(crate) selections: Option<&'a mut SelectionTrace>,
}

/// Some tokens of one timeline, on their way through all layers.
pub(crate) struct Pass<'a> {
    pub config: &'a Config,
    pub options: &'a ForwardOptions,
    /// Position of the first token.
    pub position: usize,
    /// Tokens.
    pub n: usize,
    /// What the last layer that selects for itself made its tokens read, for layers that share it;
    /// `None` for everything.
    pub selection: Option<Selection>,
    pub records: Records<'a>,
    pub trace: &'a mut Trace,
}

/// What an indexer is asked of the tokens of a pass.
pub(crate) struct Scan<'a> {
    /// So many positions a token; `None` if only scores are wanted.
    pub k: Option<usize>,
    /// In or out, whatever their scores.
    pub forced: &'a Forced,
    /// Keep the scores of the rows from this one on.
    pub keep: Option<usize>,
}

/// What it answers.
#[derive(Default)]
pub(crate) struct Scanned {
    /// As asked by [`Scan::k`].
    pub selection: Option<Selection>,
    /// `[rows from Scan::keep on, context]`, −∞ where a position comes after the token.
    pub scores: Vec<f32>,
}

impl Pass<'_> {
    /// Positions that a token may read.
    pub fn index_topk(&self) -> Option<usize> {
        let own = self.config.indexer.as_ref().map(|sizes| sizes.index_topk);
        self.options.index_topk.or(own)
    }

    /// Positions up to the last token.
    pub fn context(&self) -> usize {
        self.position + self.n
    }

    /// First watched row, and how many there are.
    fn watched(&self) -> (usize, usize) {
        let first = self.trace.first_row(self.n);
        (first, self.n - first)
    }

    /// Chooses what `layer` reads, if it selects for itself, and records it. `scan` asks its indexer, if
    /// it has one.
    pub fn select(
        &mut self,
        layer: usize,
        mut scan: Option<impl FnMut(Scan) -> Result<Scanned>>,
    ) -> Result<()> {
        let (first, n_watched) = self.watched();
        let wants = |stage| self.trace.wants(layer, stage);
        let wants_scores = wants(Stage::IndexScores) || wants(Stage::SelectedScores);
        let options = self.options;
        let keep = (wants_scores && scan.is_some()).then_some(first);
        let mut scores = Vec::new();
        let (position, n, intervention) = (self.position, self.n, &options.intervention);
        let forced = intervention.forced(layer);
        let k = self
            .index_topk()
            .filter(|&k| !options.dense && self.context() > k);
        if self.config.selection_layer(layer) == layer {
            let own = || {
                let (Some(k), Some(scan)) = (k, &mut scan) else {
                    return Ok(None);
                };
                Ok(match options.selector {
                    Selector::Indexer => {
                        let forced = &forced;
                        let scanned = scan(Scan {
                            k: Some(k),
                            forced,
                            keep,
                        })?;
                        scores = scanned.scores;
                        scanned.selection
                    }
                    Selector::Recent => Some(selector::recent(position, n, k)),
                    Selector::Random { seed } => {
                        Some(selector::random(seed, layer, position, n, k))
                    }
                })
            };
            self.selection = intervention.selection(layer, position, n, &forced, own)?;
            if let Some(record) = self.records.selections.as_deref_mut() {
                record.record_pass(layer, position, n, self.selection.as_ref())?;
            }
        }
        // Nobody has asked the indexer, and yet somebody wants to see what it would say.
        if let (Some(_), Some(scan), true) = (keep, &mut scan, scores.is_empty()) {
            let forced = &forced;
            scores = scan(Scan {
                k: None,
                forced,
                keep,
            })?
            .scores;
        }
        self.record_selection(layer, first, n_watched, scores);
        Ok(())
    }

    /// Records index scores, selected positions and their scores.
    fn record_selection(&mut self, layer: usize, first: usize, n: usize, scores: Vec<f32>) {
        let wants = |stage| self.trace.wants(layer, stage);
        let wants_positions = wants(Stage::SelectedPositions);
        let wants_chosen = wants(Stage::SelectedScores) && !scores.is_empty();
        let wants_all = wants(Stage::IndexScores) && !scores.is_empty();
        let context = self.context();
        let n_slots = self.selection.as_ref().map_or(context, |chosen| chosen.k);
        if wants_positions || wants_chosen {
            let positions: Vec<i32> = match &self.selection {
                Some(selection) => selection.indices[first * n_slots..].to_vec(),
                None => (self.position + first..context)
                    .flat_map(|last| {
                        (0..context).map(move |slot| if slot <= last { slot as i32 } else { -1 })
                    })
                    .collect(),
            };
            if wants_chosen {
                let score = |(at, &s): (usize, &i32)| match usize::try_from(s) {
                    Ok(s) => scores[at / n_slots * context + s],
                    Err(_) => 0.0,
                };
                let chosen = positions.iter().enumerate().map(score).collect();
                let value = Value::f32([n, n_slots], chosen);
                self.trace.record(layer, Stage::SelectedScores, value);
            }
            if wants_positions {
                let value = Value::i32([n, n_slots], positions);
                self.trace.record(layer, Stage::SelectedPositions, value);
            }
        }
        if wants_all {
            let value = Value::f32([n, context], scores);
            self.trace.record(layer, Stage::IndexScores, value);
        }
    }

    /// First row whose attention weights somebody wants to see.
    pub fn weights_from(&self, layer: usize) -> Option<usize> {
        let wants = |stage| self.trace.wants(layer, stage);
        (wants(Stage::AttentionMean) || wants(Stage::AttentionHeads)).then(|| self.watched().0)
    }

    /// Records attention weights `[watched rows, heads, slots]` and their mean over heads. Slots are
    /// those of the selection, or all positions up to the last token, with 0 in padding.
    pub fn record_weights(&mut self, layer: usize, weights: Vec<f32>) {
        let n_heads = self.config.num_attention_heads;
        let (_, n) = self.watched();
        let slots = weights.len() / (n * n_heads);
        if self.trace.wants(layer, Stage::AttentionMean) {
            let mut mean = vec![0.0; n * slots];
            let rows = weights.chunks_exact(n_heads * slots);
            for (row, heads) in mean.chunks_exact_mut(slots).zip(rows) {
                for head in heads.chunks_exact(slots) {
                    for (mean, weight) in row.iter_mut().zip(head) {
                        *mean += weight / n_heads as f32;
                    }
                }
            }
            let value = Value::f32([n, slots], mean);
            self.trace.record(layer, Stage::AttentionMean, value);
        }
        if self.trace.wants(layer, Stage::AttentionHeads) {
            let value = Value::f32([n, n_heads, slots], weights);
            self.trace.record(layer, Stage::AttentionHeads, value);
        }
    }

    /// Chooses experts by the gate's `logits` `[tokens, n_routed_experts]`, and records them.
    pub fn route(
        &mut self,
        layer: usize,
        logits: Vec<f32>,
        bias: Option<&[f32]>,
        moe: &MoeConfig,
    ) -> Result<Routes> {
        let intervention = &self.options.intervention;
        let (replay, position) = (intervention.routes.as_deref(), self.position);
        let routes = route(logits, bias, moe, &intervention.off(layer), |token| {
            replay
                .and_then(|trace| trace.get(layer, position + token))
                .map(|(experts, _)| experts)
        });
        if let Some(record) = self.records.routes.as_deref_mut() {
            record.record(layer, position, &routes.experts, &routes.weights)?;
        }
        let (first, n) = self.watched();
        let (e, k) = (moe.n_routed_experts, moe.num_experts_per_tok);
        if self.trace.wants(layer, Stage::GateScores) {
            let value = Value::f32([n, e], routes.scores[first * e..].to_vec());
            self.trace.record(layer, Stage::GateScores, value);
        }
        if self.trace.wants(layer, Stage::Experts) {
            let experts = routes.experts[first * k..].iter();
            let value = Value::i32([n, k], experts.map(|&expert| i32::from(expert)).collect());
            self.trace.record(layer, Stage::Experts, value);
        }
        if self.trace.wants(layer, Stage::ExpertWeights) {
            let value = Value::f32([n, k], routes.weights[first * k..].to_vec());
            self.trace.record(layer, Stage::ExpertWeights, value);
        }
        Ok(routes)
    }

    /// Records the residual stream after `layer`, of which `read(first, n)` gives rows.
    pub fn record_residual(
        &mut self,
        layer: usize,
        read: impl FnOnce(usize, usize) -> Result<Vec<f32>>,
    ) -> Result<()> {
        let wants_norm = self.trace.wants(layer, Stage::ResidualNorm);
        let wants_hidden = self.trace.wants(layer, Stage::Hidden);
        if !wants_norm && !wants_hidden {
            return Ok(());
        }
        let (first, n) = self.watched();
        let (rows, width) = (read(first, n)?, self.config.hidden_size);
        if wants_norm {
            let square = |row: &[f32]| row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
            let norms = rows
                .chunks_exact(width)
                .map(|row| square(row).sqrt() as f32);
            let value = Value::f32([n, 1], norms.collect());
            self.trace.record(layer, Stage::ResidualNorm, value);
        }
        if wants_hidden {
            let value = Value::f32([n, width], rows);
            self.trace.record(layer, Stage::Hidden, value);
        }
        Ok(())
    }

    /// Records rows at the end of the model, of which `read(first, n)` gives some.
    pub fn record_end(
        &mut self,
        stage: Stage,
        read: impl FnOnce(usize, usize) -> Result<Vec<f32>>,
    ) -> Result<()> {
        if self.trace.wants(None, stage) {
            let (first, n) = self.watched();
            let rows = read(first, n)?;
            let value = Value::f32([n, rows.len() / n], rows);
            self.trace.record(None, stage, value);
        }
        Ok(())
    }

    /// First row that needs logits: those that are asked for, and those that somebody watches.
    pub fn logits_from(&self, logit_rows: LogitRows) -> Option<usize> {
        let watched = || {
            self.trace
                .wants(None, Stage::Logits)
                .then(|| self.watched().0)
        };
        match logit_rows {
            LogitRows::All => Some(0),
            LogitRows::Last => Some(watched().unwrap_or(self.n - 1)),
            LogitRows::None => watched(),
        }
    }
}
