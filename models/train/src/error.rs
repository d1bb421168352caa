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

    /// A file that does not hold what it should.
    #[error("{path}: {problem}")]
    BadFile {
        /// The file.
        path: PathBuf,
        /// Found and expected, in words.
        problem: String,
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

    /// A mixture names a kind of text that there is not.
    #[error("kind {found:?} is unknown, expected one of {known}")]
    UnknownKind {
        /// The name.
        found: String,
        /// All names there are.
        known: String,
    },

    /// A mixture asks for real text that was not given.
    #[error("kind {kind:?} has no text: found no {missing}, expected it {place}")]
    NoSource {
        /// The kind of text.
        kind: &'static str,
        /// The files that are not there.
        missing: String,
        /// Where they should be.
        place: String,
    },

    /// A real text is another one than the recipe was made with.
    #[error(
        "{path}: has {found_bytes} bytes of SHA-256 {found}, expected {expected_bytes} of {expected}"
    )]
    Checksum {
        /// The file.
        path: PathBuf,
        /// Its length.
        found_bytes: u64,
        /// Its checksum.
        found: String,
        /// The length it should have.
        expected_bytes: u64,
        /// The checksum it should have.
        expected: &'static str,
    },

    /// The tokenizer could not be made, or lacks a token.
    #[error("tokenizer: {0}")]
    Tokenizer(String),

    /// Training came upon NaN or infinity.
    #[error(
        "{what} is {value} in layer {layer}{place}, expected a finite number; the last saved state is kept"
    )]
    NotFinite {
        /// Which number.
        what: String,
        /// What it is.
        value: f64,
        /// Where it came up; the number of layers stands for the head.
        layer: usize,
        /// At which step, once that is known.
        place: String,
    },

    /// The device failed.
    #[error("device: {0}")]
    Device(String),

    /// The engine refused something.
    #[error(transparent)]
    Engine(#[from] engine::Error),
}

/// Short for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An I/O error with the path it happened at.
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io {
            path: path.into(),
            source,
        }
    }

    /// The same, with the step at which training came upon it.
    pub(crate) fn at(self, step: &str) -> Self {
        match self {
            Self::NotFinite {
                what, value, layer, ..
            } => Self::NotFinite {
                what,
                value,
                layer,
                place: format!(" at {step}"),
            },
            other => other,
        }
    }
}
