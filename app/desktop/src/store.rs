//! Everything that is kept: conversations, folders, settings, in one SQLite database.
//!
//! A conversation is a tree of messages; what is shown is the path to its selected leaf. All calls but
//! search, export and import are short enough for the thread that draws, and wait for whoever else writes
//! for [`BUSY_TIMEOUT`] at most; those three run on a thread of their own, [`beside`](Store::beside) it. Every change is one transaction: it is there whole or not at all, and what
//! is there survives a kill. Times are milliseconds since 1970, UTC.
//!
//! Opening (migrations, damaged files) is in `open.rs`; which instances are alive, in `instance.rs`;
//! [`search`](Store::search) in `search.rs`; a whole conversation as one value in `document.rs`, which goes
//! out by `export.rs` and comes in by `import.rs`. What a conversation means to the model is left to the caller.

mod conversations;
mod document;
mod error;
mod export;
mod facts;
mod import;
mod instance;
mod nodes;
mod open;
mod salvage;
mod schema;
mod search;
mod settings;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rusqlite::types::{FromSql, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, Transaction, TransactionBehavior};
use serde::{Deserialize, Serialize};

pub use conversations::{Conversation, Folder, title_from};
pub use document::is_conversation;
pub use error::{Result, StoreError};
pub use export::ExportFormat;
pub use facts::{AnswerFacts, Beginnings, PromptIds};
pub use import::{MAX_IMPORT_BYTES, MAX_IMPORT_NODES};
pub use nodes::{Node, NodeState, PathEntry};
pub use open::{Beside, Notice};
pub use schema::VERSION;
pub use search::Hit;

/// How long a call waits for another instance that is writing, before it is [`StoreError::Busy`].
pub const BUSY_TIMEOUT: Duration = Duration::from_millis(250);

/// The open database.
pub struct Store {
    connection: Connection,
    instance: instance::Instance,
    path: Option<PathBuf>,
    /// Tried once: what is damaged again has another cause.
    is_search_repaired: bool,
}

impl Store {
    /// Where the database is; `None` in memory.
    pub fn file(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Runs `body` as one transaction, which holds the right to write from its start: one that came to
    /// it late could not wait for it.
    fn write<T>(&mut self, body: impl Fn(&Transaction) -> Result<T>) -> Result<T> {
        self.repairing_search(|connection| {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let result = body(&transaction)?;
            transaction.commit()?;
            Ok(result)
        })
    }

    /// Runs `body`; once more if it met damage that was that of the search index alone, which must not
    /// keep a message from being written.
    fn repairing_search<T>(&mut self, body: impl Fn(&mut Connection) -> Result<T>) -> Result<T> {
        match body(&mut self.connection) {
            Err(StoreError::Damaged(_)) if !self.is_search_repaired => {
                self.is_search_repaired = true;
                schema::rebuild_search(&mut self.connection)?;
                body(&mut self.connection)
            }
            result => result,
        }
    }
}

/// Names a conversation. Never used again for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ConversationId(pub i64);

/// Names a message in the tree of its conversation. Never used again for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NodeId(pub i64);

/// Names a folder. Never used again for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FolderId(pub i64);

impl ToSql for ConversationId {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        self.0.to_sql()
    }
}

impl FromSql for ConversationId {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        i64::column_result(value).map(Self)
    }
}

impl ToSql for NodeId {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        self.0.to_sql()
    }
}

impl FromSql for NodeId {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        i64::column_result(value).map(Self)
    }
}

impl ToSql for FolderId {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        self.0.to_sql()
    }
}

impl FromSql for FolderId {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        i64::column_result(value).map(Self)
    }
}

/// Milliseconds since 1970, UTC.
pub fn now_ms() -> i64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// `path` with `suffix` behind its file name.
fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
