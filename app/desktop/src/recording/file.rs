//! Recordings on disk: a safetensors file of columns, readable from Python.
//!
//! ```python
//! from safetensors import safe_open
//! recording = safe_open("chat.safetensors", "np")
//! print(recording.metadata()["sparsight"], recording.get_tensor("tokens.id"))
//! ```
//!
//! The metadata entry `sparsight` is a JSON object with `kind` "recording", `version` 1 and `header`. The
//! columns are those of [`COLUMNS`]; layers keep their compact coding in `rows.bytes`, where the sections of
//! a row end is in `rows.ends`. A file that does not hold together is refused as a whole.

mod columns;
mod read;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panic")]
mod tests;
mod trace;
mod write;

use std::path::Path;

use anyhow::Context as _;
use safetensors::Dtype;
use serde::{Deserialize, Serialize};

use self::columns::Columns;
use super::{Header, Recording};

/// The one version there is.
const VERSION: u32 = 1;

/// What the metadata entry `sparsight` says of any file of ours.
#[derive(Serialize, Deserialize)]
struct Label {
    kind: String,
    version: u32,
}

/// The same, of a recording.
#[derive(Serialize, Deserialize)]
struct Description {
    kind: String,
    version: u32,
    header: Header,
}

/// Every column, wide numbers first, so that each is aligned.
const COLUMNS: &[(&str, Dtype)] = &[
    // For each row whose flags say that it has what the logits said.
    ("expected.log_sum", Dtype::F64),
    ("expected.entropy", Dtype::F32),
    ("expected.n_best", Dtype::U32),
    // For each of these candidates.
    ("expected.id", Dtype::U32),
    ("expected.probability", Dtype::F32),
    // For each token up to the last.
    ("tokens.id", Dtype::U32),
    ("tokens.logprob", Dtype::F32),
    ("tokens.entropy", Dtype::F32),
    ("tokens.text_bytes", Dtype::U32),
    ("tokens.n_candidates", Dtype::U32),
    // For each candidate of each token.
    ("candidates.id", Dtype::U32),
    ("candidates.probability", Dtype::F32),
    ("candidates.draw", Dtype::F32),
    ("candidates.text_bytes", Dtype::U32),
    // For each row.
    ("rows.position", Dtype::U32),
    // For each section of each row.
    ("rows.ends", Dtype::U32),
    // For each row and layer with heads; then all positions and all weights.
    ("heads.position", Dtype::U32),
    ("heads.layer", Dtype::U32),
    ("heads.n_positions", Dtype::U32),
    ("heads.n_weights", Dtype::U32),
    ("heads.positions", Dtype::U32),
    ("heads.weights", Dtype::F32),
    // For each row and layer whose heads were dropped.
    ("dropped_heads.position", Dtype::U32),
    ("dropped_heads.layer", Dtype::U32),
    // For each row with logits; then all logits.
    ("logits.position", Dtype::U32),
    ("logits.n", Dtype::U32),
    ("logits.values", Dtype::F32),
    ("tokens.flags", Dtype::U8),
    ("candidates.has_draw", Dtype::U8),
    ("rows.flags", Dtype::U8),
    ("rows.bytes", Dtype::U8),
    // Texts of tokens and their candidates in turn, UTF-8.
    ("texts", Dtype::U8),
    // JSON: position, total_ms, n_tokens, ops.
    ("timings", Dtype::U8),
];

/// Bits of `tokens.flags`.
mod token_flags {
    pub const KNOWN: u8 = 1;
    pub const GENERATED: u8 = 2;
    pub const LOGPROB: u8 = 4;
    pub const ENTROPY: u8 = 8;
}

/// Bits of `rows.flags`.
mod row_flags {
    pub const RECORDED: u8 = 1;
    pub const EXPECTED: u8 = 2;
    pub const LAYERS_DROPPED: u8 = 4;
    pub const LOGITS_DROPPED: u8 = 8;
    pub const OPS_DROPPED: u8 = 16;
}

/// A [`StepTiming`](super::StepTiming) in `timings`. JSON has no NaN: it becomes null.
#[derive(Serialize, Deserialize)]
struct Timing {
    position: usize,
    total_ms: Option<f32>,
    n_tokens: usize,
    ops: Vec<super::OpTiming>,
}

impl Recording {
    /// Writes the recording to `path`, whole or not at all.
    ///
    /// # Errors
    /// The file cannot be written, or `path` is something other than a file.
    pub fn save(&self, path: &Path) -> anyhow::Result<()> {
        write::save(self, path).with_context(|| path.display().to_string())
    }

    /// Whether the file at `path` is one that [`Recording::open`] reads, by its header.
    pub fn is_there(path: &Path) -> bool {
        let label = |columns: Columns| serde_json::from_str::<Label>(columns.description());
        let label = Columns::open(path)
            .ok()
            .and_then(|columns| label(columns).ok());
        label.is_some_and(|label| ["recording", "trace"].contains(&label.kind.as_str()))
    }

    /// Reads what [`Recording::save`] wrote, or what `sparsight trace` did. A trace does not say what its
    /// model is called or how long its context is, and knows no texts: tokens are `#id` then.
    ///
    /// # Errors
    /// The file cannot be read, is neither of the two, of another version, or damaged.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        open(path).with_context(|| path.display().to_string())
    }
}

fn open(path: &Path) -> anyhow::Result<Recording> {
    let mut columns = Columns::open(path)?;
    let label: Label =
        serde_json::from_str(columns.description()).context("has a damaged \"sparsight\" entry")?;
    match (label.kind.as_str(), label.version) {
        ("recording", VERSION) => read::recording(&mut columns),
        // Checks its version itself.
        ("trace", _) => {
            let frames = engine::trace_file::load(path)?;
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            trace::recording(&frames, name.into_owned())
        }
        (kind, version) => anyhow::bail!(
            "holds a {kind} of version {version}, expected a recording of version {VERSION} or a trace"
        ),
    }
}
