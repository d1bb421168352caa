//! Everything that can go wrong through no fault of this crate.
//!
//! A message names the thing, what was found and what was expected; lower case, no full stop.
//! Our own bugs are panics with a sentence, never an `Error`.

use std::path::PathBuf;

/// Everything that can go wrong through no fault of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },

    /// A file that is not written, since that would fail or destroy something.
    #[error("{path} cannot be written: {problem}")]
    Output {
        /// The file.
        path: PathBuf,
        /// What stands against it, in words.
        problem: String,
    },

    /// `config.json` is not JSON, lacks a key, or asks for something this engine does not do.
    #[error("config key {key:?}: {problem}")]
    Config {
        /// The key of `config.json`.
        key: String,
        /// Found and expected, in words.
        problem: String,
    },

    /// A safetensors (or index) file that does not hold together.
    #[error("{path}: {problem}")]
    BadFile {
        /// The file.
        path: PathBuf,
        /// Found and expected, in words.
        problem: String,
    },

    /// The tensors of a checkpoint do not fit its configuration.
    #[error("{path} does not fit its config, {n_tensors} problem(s):\n{}", .problems.join("\n"))]
    Misfit {
        /// The file with the tensors, or their index.
        path: PathBuf,
        /// Tensors that are missing, surplus, misshapen or of a wrong type.
        n_tensors: usize,
        /// One line for all that differ in nothing but numbers.
        problems: Vec<String>,
    },

    /// A weight holds NaN or infinity.
    #[error("tensor {name:?} holds {value} at element {index}, expected finite numbers")]
    NotFinite {
        /// The tensor.
        name: String,
        /// Flat index of the first bad element.
        index: usize,
        /// What stands there.
        value: f32,
    },

    /// A prompt without tokens.
    #[error("prompt has 0 tokens, expected at least 1")]
    EmptyPrompt,

    /// More tokens than the context holds.
    #[error(
        "{tokens} tokens do not fit: {position} of {context} positions of the context are taken"
    )]
    ContextFull {
        /// How many tokens were to be added.
        tokens: usize,
        /// How many positions are taken.
        position: usize,
        /// How many positions there are.
        context: usize,
    },

    /// A token id outside the vocabulary.
    #[error("token id {id} is outside the vocabulary of {vocab_size}")]
    UnknownToken {
        /// The id.
        id: u32,
        /// Ids below this exist.
        vocab_size: usize,
    },

    /// A setting outside its range.
    #[error("{name} is {found}, expected {expected}")]
    Setting {
        /// The setting, under the name the user knows.
        name: String,
        /// What was given.
        found: String,
        /// What would do.
        expected: String,
    },

    /// The tokenizer file could not be used, or a text could not be encoded.
    #[error("tokenizer: {0}")]
    Tokenizer(String),

    /// A conversation that the message encoding does not allow.
    #[error("message {index}: {problem}")]
    Message {
        /// Position in the conversation, from 0.
        index: usize,
        /// Found and expected, in words.
        problem: String,
    },

    /// No such device, or a device that lacks what the model needs.
    #[error("device {name:?}: {problem}")]
    Device {
        /// What the user asked for, or the adapter's name.
        name: String,
        /// Found and expected, in words.
        problem: String,
    },

    /// Logits that cannot be sampled from.
    #[error("logits of position {position} hold {value} for token {id}, expected finite numbers")]
    BadLogits {
        /// Position of the token that the logits follow.
        position: usize,
        /// First bad entry.
        id: usize,
        /// What stands there.
        value: f32,
    },

    /// The indexer scored a position with NaN, so that nothing can be selected.
    #[error("index scores of position {position} hold NaN, expected numbers: are weights damaged?")]
    NanScores {
        /// Position of the token whose scores they are.
        position: usize,
    },

    /// The gate scored an expert with NaN, so that nothing can be routed.
    #[error("gate scores of position {position} hold NaN, expected numbers: are weights damaged?")]
    NanGate {
        /// Position of the token whose scores they are.
        position: usize,
    },

    /// A route, mask or trace file that does not fit the model or the tokens.
    #[error("{what}: found {found}, expected {expected}")]
    Replay {
        /// What was replayed and where it did not fit.
        what: String,
        /// What the record holds.
        found: String,
        /// What the run needs.
        expected: String,
    },
}

/// Short for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A tensor that was looked for in a checkpoint that fits.
    pub(crate) fn missing(name: &str) -> Self {
        Self::Misfit {
            path: "checkpoint".into(),
            n_tensors: 1,
            problems: vec![format!("missing tensor {name:?}")],
        }
    }

    /// An I/O error with the path it happened at.
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io {
            path: path.into(),
            source,
        }
    }
}
