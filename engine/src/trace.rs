//! Intermediates that somebody asked for.
//!
//! A stage of the forward pass is recorded by name in one line of model code. Nothing is computed,
//! kept or read back for a stage that is not watched. Files are the business of [`crate::trace_file`].

mod timing;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::gpu::Launched;

pub use timing::{CPU_OPS, OpTiming};

/// A named place in the forward pass. One stage is one array.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// The residual stream after a layer, `[rows, hidden_size]`.
    Hidden,
    /// Its Euclidean norm, `[rows, 1]`.
    ResidualNorm,
    /// The indexer's score of every visible position, `[rows, context]`, −∞ where not visible.
    IndexScores,
    /// Positions that attention read, ascending, −1 padded, `[rows, slots]`.
    SelectedPositions,
    /// The indexer's score of each selected position, `[rows, slots]`, 0 in padding.
    SelectedScores,
    /// Attention weight on each selected position, mean over heads, `[rows, slots]`.
    AttentionMean,
    /// Attention weight on each selected position per head, `[rows, heads, slots]`.
    AttentionHeads,
    /// The gate's score of every expert before bias, `[rows, n_routed_experts]`.
    GateScores,
    /// Chosen experts in the gate's order, best first, `[rows, num_experts_per_tok]`.
    Experts,
    /// Their weights, `[rows, num_experts_per_tok]`.
    ExpertWeights,
    /// The residual stream after the final norm, `[rows, hidden_size]`.
    FinalHidden,
    /// Logits over the vocabulary, `[rows, vocab_size]`.
    Logits,
}

/// One row of the table of stages.
pub struct StageInfo {
    /// The stage.
    pub stage: Stage,
    /// Its name on the command line and in trace files.
    pub name: &'static str,
    /// Recorded in every layer, or once at the end.
    pub per_layer: bool,
    /// What it is, for help texts.
    pub about: &'static str,
}

/// Every stage, in the order the forward pass meets them.
pub const STAGES: &[StageInfo] = &[
    row(
        Stage::IndexScores,
        "index_scores",
        true,
        "indexer score of every visible position",
    ),
    row(
        Stage::SelectedPositions,
        "selected_positions",
        true,
        "positions that attention read",
    ),
    row(
        Stage::SelectedScores,
        "selected_scores",
        true,
        "indexer score of each of them",
    ),
    row(
        Stage::AttentionMean,
        "attention_mean",
        true,
        "attention weight on each, mean over heads",
    ),
    row(
        Stage::AttentionHeads,
        "attention_heads",
        true,
        "attention weight on each, per head",
    ),
    row(
        Stage::GateScores,
        "gate_scores",
        true,
        "gate score of every expert",
    ),
    row(
        Stage::Experts,
        "experts",
        true,
        "chosen experts, best first",
    ),
    row(
        Stage::ExpertWeights,
        "expert_weights",
        true,
        "weights of the chosen experts",
    ),
    row(
        Stage::Hidden,
        "hidden",
        true,
        "residual stream after the layer",
    ),
    row(
        Stage::ResidualNorm,
        "residual_norm",
        true,
        "norm of the residual stream",
    ),
    row(
        Stage::FinalHidden,
        "final_hidden",
        false,
        "residual stream after the last norm",
    ),
    row(Stage::Logits, "logits", false, "logits over the vocabulary"),
];

const fn row(stage: Stage, name: &'static str, per_layer: bool, about: &'static str) -> StageInfo {
    StageInfo {
        stage,
        name,
        per_layer,
        about,
    }
}

impl Stage {
    /// Its row of the table.
    pub fn info(self) -> &'static StageInfo {
        STAGES
            .iter()
            .find(|info| info.stage == self)
            .expect("every stage has a row, see the test")
    }

    /// The stage of this name.
    pub fn by_name(name: &str) -> Option<Self> {
        STAGES
            .iter()
            .find(|info| info.name == name)
            .map(|info| info.stage)
    }
}

/// A stage in a layer; no layer for those at the end. The MTP layer is the one after the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Site {
    /// Layer, from 0.
    pub layer: Option<usize>,
    /// Stage.
    pub stage: Stage,
}

/// Which rows of a forward pass are recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WatchedRows {
    /// Only the last, whose logits choose the next token.
    #[default]
    Last,
    /// All of them.
    All,
}

/// What to record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    /// These stages,
    pub stages: BTreeSet<Stage>,
    /// in these layers, or in all.
    pub layers: Option<BTreeSet<usize>>,
    /// For these rows.
    pub rows: WatchedRows,
    /// Time the ops of each pass that leaves a frame, too. With [`WatchedRows::Last`] the chunks of a
    /// prompt before the last leave none.
    pub timings: bool,
}

impl Watch {
    /// Every stage, every layer.
    pub fn everything(rows: WatchedRows) -> Self {
        Self {
            stages: STAGES.iter().map(|info| info.stage).collect(),
            layers: None,
            rows,
            timings: false,
        }
    }

    /// Whether anything is asked for.
    pub fn is_on(&self) -> bool {
        !self.stages.is_empty() || self.timings
    }
}

/// Recorded numbers, row-major.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Floats.
    F32 {
        /// Shape, as the stage says.
        shape: Vec<usize>,
        /// Numbers.
        data: Vec<f32>,
    },
    /// Integers.
    I32 {
        /// Shape, as the stage says.
        shape: Vec<usize>,
        /// Numbers.
        data: Vec<i32>,
    },
}

impl Value {
    pub(crate) fn f32(shape: impl Into<Vec<usize>>, data: Vec<f32>) -> Self {
        Self::F32 {
            shape: shape.into(),
            data,
        }
    }

    pub(crate) fn i32(shape: impl Into<Vec<usize>>, data: Vec<i32>) -> Self {
        Self::I32 {
            shape: shape.into(),
            data,
        }
    }

    /// Its shape.
    pub fn shape(&self) -> &[usize] {
        match self {
            Self::F32 { shape, .. } | Self::I32 { shape, .. } => shape,
        }
    }

    /// The floats, if it holds floats.
    pub fn floats(&self) -> Option<&[f32]> {
        match self {
            Self::F32 { data, .. } => Some(data),
            Self::I32 { .. } => None,
        }
    }

    /// The integers, if it holds integers.
    pub fn integers(&self) -> Option<&[i32]> {
        match self {
            Self::I32 { data, .. } => Some(data),
            Self::F32 { .. } => None,
        }
    }
}

/// What was recorded in one forward pass.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Frame {
    /// Position of the first recorded row.
    pub position: usize,
    /// Tokens of the recorded rows.
    pub ids: Vec<u32>,
    /// The recorded arrays.
    pub values: BTreeMap<Site, Value>,
    /// The ops of the whole pass, all its rows together, in the order of the forward pass; empty
    /// unless [`Watch::timings`] asks.
    pub timings: Vec<OpTiming>,
    /// Time of the whole pass, recording included, where [`Watch::timings`] asks and the device
    /// computes while it is called, as the CPU does.
    pub elapsed: Option<Duration>,
}

impl Frame {
    /// The array of a stage in a layer.
    pub fn get(&self, layer: impl Into<Option<usize>>, stage: Stage) -> Option<&Value> {
        self.values.get(&Site {
            layer: layer.into(),
            stage,
        })
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        let numbers = |value: &Value| value.shape().iter().product::<usize>();
        let numbers: usize = self.values.values().map(numbers).sum();
        4 * (self.ids.len() + numbers) + size_of_val(self.timings.as_slice())
    }
}

/// Collects a [`Frame`] while a forward pass runs.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    watch: Watch,
    frame: Frame,
    began: Option<Instant>,
}

impl Trace {
    /// Records nothing.
    pub fn off() -> Self {
        Self::default()
    }

    /// Records what `watch` asks for.
    pub fn new(watch: Watch) -> Self {
        Self {
            watch,
            ..Self::default()
        }
    }

    /// Whether anything is asked for.
    pub(crate) fn is_on(&self) -> bool {
        self.watch.is_on()
    }

    /// Whether this stage is asked for in this layer.
    pub(crate) fn wants(&self, layer: impl Into<Option<usize>>, stage: Stage) -> bool {
        self.watch.stages.contains(&stage)
            && match (layer.into(), &self.watch.layers) {
                (Some(layer), Some(layers)) => layers.contains(&layer),
                _ => true,
            }
    }

    /// The watched ones among `n` rows: where they start.
    pub(crate) fn first_row(&self, n: usize) -> usize {
        match self.watch.rows {
            WatchedRows::Last => n.saturating_sub(1),
            WatchedRows::All => 0,
        }
    }

    /// Starts a frame for rows at `position..` with these tokens.
    pub(crate) fn begin(&mut self, position: usize, ids: &[u32]) {
        let first = self.first_row(ids.len());
        self.frame = Frame {
            position: position + first,
            ids: ids[first..].to_vec(),
            ..Frame::default()
        };
        self.began = self.clock();
    }

    /// Whether the ops of this pass are timed.
    pub(crate) fn times(&self) -> bool {
        self.watch.timings
    }

    /// Starts the clock of an op; `None`, and nothing is measured, where nobody asks.
    pub(crate) fn clock(&self) -> Option<Instant> {
        self.times().then(Instant::now)
    }

    /// Keeps the time since `clock` for an op of [`CPU_OPS`], and the bytes that it moved.
    pub(crate) fn timed(
        &mut self,
        clock: Option<Instant>,
        op: &'static str,
        layer: impl Into<Option<usize>>,
        bytes: impl FnOnce() -> usize,
    ) {
        let Some(clock) = clock.filter(|_| self.times()) else {
            return;
        };
        let duration = Some(clock.elapsed());
        debug_assert!(
            CPU_OPS.iter().any(|(name, _)| *name == op),
            "{op} has a row"
        );
        let timing = OpTiming {
            op,
            layer: layer.into(),
            duration,
            bytes: bytes() as u64,
            launches: 0,
        };
        timing::add(&mut self.frame.timings, timing);
    }

    /// Ends the clock of the whole pass.
    pub(crate) fn end(&mut self) {
        self.frame.elapsed = self.began.take().map(|began| began.elapsed());
    }

    /// Keeps what a pass launched on a GPU.
    pub(crate) fn launched(&mut self, launches: &[Launched]) {
        self.frame.timings = timing::of_launches(launches);
    }

    /// Keeps `value` for `stage` in `layer`.
    pub(crate) fn record(&mut self, layer: impl Into<Option<usize>>, stage: Stage, value: Value) {
        self.frame.values.insert(
            Site {
                layer: layer.into(),
                stage,
            },
            value,
        );
    }

    /// What the last forward pass recorded.
    pub fn take(&mut self) -> Frame {
        std::mem::take(&mut self.frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_every_stage_once_under_one_name() {
        let stages: BTreeSet<_> = STAGES.iter().map(|info| info.stage).collect();
        let names: BTreeSet<_> = STAGES.iter().map(|info| info.name).collect();
        assert_eq!(stages.len(), STAGES.len());
        assert_eq!(names.len(), STAGES.len());
        // The last variant of the enum: a new one after it must move this line, and get a row.
        assert_eq!(Stage::Logits as usize + 1, STAGES.len());
    }

    #[test]
    fn a_layer_list_restricts_layers_and_leaves_the_end_alone() {
        let watch = Watch {
            layers: Some([1].into()),
            ..Watch::everything(WatchedRows::All)
        };
        let trace = Trace::new(watch);
        assert!(trace.wants(1, Stage::Hidden));
        assert!(!trace.wants(0, Stage::Hidden));
        assert!(trace.wants(None, Stage::Logits));
        assert!(!Trace::off().wants(1, Stage::Hidden));
    }
}
