//! All that is kept of one token's way through the model, and what it costs.

use super::StepTiming;
use super::logits::Expected;
use super::packed::Packed;

/// What a layer can record of a token; each is a section of [`Row::layers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    Selection,
    Experts,
    GateScores,
    ResidualNorm,
}

/// All of them, in the order of the sections of a layer.
pub(super) const SECTIONS: [Section; 4] = [
    Section::Selection,
    Section::Experts,
    Section::GateScores,
    Section::ResidualNorm,
];

/// Attention weights of a layer, per head.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Heads {
    pub layer: u32,
    pub positions: Box<[u32]>,
    /// `[heads, positions]`.
    pub weights: Box<[f32]>,
}

/// Parts of a row that have a limit of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Layers,
    Heads,
    Logits,
    Ops,
}

/// All of them.
pub(super) const KINDS: [Kind; 4] = [Kind::Layers, Kind::Heads, Kind::Logits, Kind::Ops];

/// What was recorded and then dropped for space.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Dropped {
    pub layers: bool,
    /// Layers whose heads there were.
    pub heads: Vec<u32>,
    pub logits: bool,
    pub ops: bool,
}

/// One token's way through the model.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Row {
    /// Rows that were filled later have higher numbers.
    pub arrived: u64,
    /// Whether a frame came, and not just times.
    pub is_recorded: bool,
    /// Sections of all layers, those of a layer side by side.
    pub layers: Packed,
    /// What the logits say of the token after this one.
    pub expected: Option<Expected>,
    /// By layer, ascending.
    pub heads: Vec<Heads>,
    /// The logits themselves, where they are kept.
    pub logits: Option<Box<[f32]>>,
    pub timing: Option<Box<StepTiming>>,
    pub dropped: Dropped,
}

impl Row {
    /// Heap that a part takes.
    pub(super) fn bytes_of(&self, kind: Kind) -> usize {
        match kind {
            Kind::Layers => allocated_of(self.layers.ends()) + allocated_of(self.layers.bytes()),
            Kind::Heads => {
                let each = |heads: &Heads| {
                    size_of::<Heads>()
                        + allocated_of(&heads.positions)
                        + allocated_of(&heads.weights)
                };
                self.heads.iter().map(each).sum()
            }
            Kind::Logits => self.logits.as_deref().map_or(0, allocated_of),
            Kind::Ops => {
                let ops = self.timing.iter().flat_map(|timing| &timing.ops);
                ops.map(|op| size_of_val(op) + allocated(op.op.capacity()))
                    .sum()
            }
        }
    }

    /// Heap that everything else takes.
    pub(super) fn rest_bytes(&self) -> usize {
        // Behind an `Arc` with its two counts.
        allocated(size_of::<Self>() + 16)
            + self
                .expected
                .as_ref()
                .map_or(0, |expected| allocated_of(&expected.best))
            + self
                .timing
                .as_deref()
                .map_or(0, |timing| allocated(size_of_val(timing)))
            + allocated_of(&self.dropped.heads)
    }

    /// Drops a part for space, and remembers that it was there.
    pub(super) fn drop_part(&mut self, kind: Kind) {
        match kind {
            Kind::Layers => {
                self.dropped.layers = true;
                self.layers = Packed::default();
            }
            Kind::Heads => {
                let layers = self.heads.iter().map(|heads| heads.layer);
                self.dropped.heads.extend(layers);
                self.heads = Vec::new();
            }
            Kind::Logits => {
                self.dropped.logits = true;
                self.logits = None;
            }
            Kind::Ops => {
                self.dropped.ops = true;
                if let Some(timing) = &mut self.timing {
                    timing.ops = Vec::new();
                }
            }
        }
    }
}

/// Bytes that a block of `n_bytes` takes from the heap: a word of bookkeeping, in steps of 16, at least
/// 32. Allocators differ a little; for small blocks this is far nearer than the plain length.
pub(super) fn allocated(n_bytes: usize) -> usize {
    match n_bytes {
        0 => 0,
        n_bytes => (n_bytes + 8).next_multiple_of(16).max(32),
    }
}

/// The same for a block that holds these items.
pub(super) fn allocated_of<T>(items: &[T]) -> usize {
    allocated(size_of_val(items))
}
