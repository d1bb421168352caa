//! Everything that can go wrong with what is kept.

use std::path::PathBuf;

use rusqlite::ErrorCode;

/// Everything that can go wrong with what is kept. Where nothing else is said, nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A file or folder could not be read, written or renamed.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },

    /// The folder of the database takes no files, or the database may only be read.
    #[error("{path} cannot be written, so that conversations cannot be kept there: {problem}")]
    NotWritable {
        /// The folder, or the database.
        path: PathBuf,
        /// What the system said.
        problem: String,
    },

    /// A later version of the program wrote the database. It was not touched.
    #[error(
        "{path} has version {found} of the schema, expected at most {supported}: \
         it was written by a later version of the program and was left as it is"
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its version.
        found: i32,
        /// The latest version that is known here.
        supported: i32,
    },

    /// A database of another program. It was not touched.
    #[error(
        "{path} is a database of another program (application id {found:#010x}, expected \
         {expected:#010x}) and was left as it is"
    )]
    Foreign {
        /// The database.
        path: PathBuf,
        /// Its application id.
        found: i32,
        /// The application id of ours.
        expected: i32,
    },

    /// The database is damaged, and is written by another instance of the program, so that it cannot be
    /// set aside.
    #[error(
        "{path} is damaged ({problem}) and another instance of the program has it open: close that first"
    )]
    DamagedInUse {
        /// The database.
        path: PathBuf,
        /// What was found.
        problem: String,
    },

    /// Damage that was met while working, beyond the search index, which is repaired. The next opening sets
    /// the file aside if it looks for damage: up to 64 MiB always, beyond that only after a crash.
    #[error("the database of conversations is damaged: {0}")]
    Damaged(String),

    /// Another instance of the program is writing. Try again.
    #[error(
        "the database of conversations is being written by another instance, for longer than {timeout_ms} ms"
    )]
    Busy {
        /// How long it was waited for.
        timeout_ms: u128,
    },

    /// No space is left. What was written before is kept.
    #[error(
        "no space is left for the database of conversations: this change was not written, all before it is kept"
    )]
    Full,

    /// What was asked for is not there.
    #[error("there is no {what} {id}")]
    NotFound {
        /// Conversation, message or folder.
        what: &'static str,
        /// Which.
        id: i64,
    },

    /// A stored value cannot be read.
    #[error("{what} {id} cannot be read: {problem}")]
    BadValue {
        /// Conversation or message.
        what: &'static str,
        /// Which.
        id: i64,
        /// Found and expected, in words.
        problem: String,
    },

    /// A file that is no conversation. Nothing was imported.
    #[error("nothing was imported: {0}")]
    Import(String),

    /// A value that JSON cannot say.
    #[error("{what} cannot be written as JSON: {problem}")]
    Json {
        /// The value.
        what: String,
        /// What is wrong with it.
        problem: String,
    },

    /// Anything else that SQLite said.
    #[error("database of conversations: {0}")]
    Sqlite(rusqlite::Error),
}

/// Short for results of the store.
pub type Result<T> = std::result::Result<T, StoreError>;

impl StoreError {
    /// An I/O error with the path it happened at.
    pub(super) fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io {
            path: path.into(),
            source,
        }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy {
                timeout_ms: super::BUSY_TIMEOUT.as_millis(),
            },
            Some(ErrorCode::DiskFull) => Self::Full,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Damaged(error.to_string())
            }
            _ => Self::Sqlite(error),
        }
    }
}
