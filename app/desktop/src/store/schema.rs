//! The tables, as a list of steps from one version to the next.

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::error::Result;
use super::{nodes, search};

/// Marks a file as ours in its header: "Spar".
pub(super) const APPLICATION_ID: i32 = 0x5370_6172;

/// What leads from a version to the next one; the first step leads from nothing to version 1.
pub(super) struct Step {
    sql: &'static str,
    /// What SQL alone cannot do.
    then: fn(&Transaction) -> Result<()>,
}

/// All steps. The version of a database is how many of them it has behind it.
pub(super) const STEPS: &[Step] = &[
    // 1. Conversations as trees of messages, and settings of the app.
    // Ids are never used again, so that one that somebody still holds cannot come to mean something else.
    // A parent has no ON DELETE CASCADE: SQLite follows cascades 1,000 levels deep at most.
    Step {
        sql: "
            CREATE TABLE conversation (
                id INTEGER PRIMARY KEY AUTOINCREMENT,
                title TEXT NOT NULL,
                created_ms INTEGER NOT NULL,
                updated_ms INTEGER NOT NULL,
                settings TEXT NOT NULL,
                leaf INTEGER REFERENCES node(id) ON DELETE SET NULL,
                deleted_ms INTEGER
            ) STRICT;
            CREATE TABLE node (
                id INTEGER PRIMARY KEY AUTOINCREMENT,
                conversation INTEGER NOT NULL REFERENCES conversation(id),
                parent INTEGER REFERENCES node(id) CHECK (parent < id),
                state TEXT NOT NULL,
                writer TEXT,
                created_ms INTEGER NOT NULL,
                used INTEGER NOT NULL,
                message TEXT NOT NULL,
                facts TEXT
            ) STRICT;
            CREATE INDEX node_of_conversation ON node(conversation);
            CREATE INDEX node_of_parent ON node(parent);
            CREATE INDEX node_streaming ON node(state) WHERE state = 'streaming';
            CREATE INDEX conversation_of_leaf ON conversation(leaf);
            CREATE TABLE token_ids (
                node INTEGER NOT NULL REFERENCES node(id) ON DELETE CASCADE,
                part TEXT NOT NULL,
                ids BLOB NOT NULL,
                PRIMARY KEY (node, part)
            ) STRICT;
            CREATE TABLE setting (
                key TEXT PRIMARY KEY,
                value TEXT NOT NULL
            ) STRICT;
        ",
        then: |_| Ok(()),
    },
    // 2. Folders, and full-text search.
    Step {
        sql: "
            CREATE TABLE folder (
                id INTEGER PRIMARY KEY AUTOINCREMENT,
                name TEXT NOT NULL,
                position INTEGER NOT NULL
            ) STRICT;
            ALTER TABLE conversation ADD COLUMN folder INTEGER REFERENCES folder(id) ON DELETE SET NULL;
            CREATE INDEX conversation_of_folder ON conversation(folder);
        ",
        then: |transaction| {
            transaction.execute_batch(SEARCH_TABLES)?;
            index_everything(transaction)
        },
    },
];

/// What a search looks in. All of it can be made again from conversations and messages.
const SEARCH_TABLES: &str = "
    CREATE VIRTUAL TABLE title_search USING fts5(
        title, tokenize = 'unicode61 remove_diacritics 2'
    );
    CREATE VIRTUAL TABLE node_search USING fts5(
        content, reasoning, calls, tokenize = 'unicode61 remove_diacritics 2', prefix = '2 3'
    );
";

/// The version that this program writes.
pub const VERSION: i32 = STEPS.len() as i32;

fn index_everything(transaction: &Transaction) -> Result<()> {
    let mut titles = transaction.prepare("SELECT id, title FROM conversation")?;
    let mut rows = titles.query([])?;
    while let Some(row) = rows.next()? {
        search::index_title(transaction, row.get(0)?, &row.get::<_, String>(1)?)?;
    }
    let mut messages =
        transaction.prepare("SELECT id, message FROM node WHERE state <> 'streaming'")?;
    let mut rows = messages.query([])?;
    while let Some(row) = rows.next()? {
        let id = row.get(0)?;
        // A message that cannot be read is an error when it is shown, and no reason to refuse the rest.
        if let Ok(message) = nodes::parse_message(id, &row.get::<_, String>(1)?) {
            search::index_message(transaction, id, &message)?;
        }
    }
    Ok(())
}

/// Makes what a search looks in again, all of it or nothing.
///
/// # Errors
/// It is not only the search that is damaged; no space is left; another instance is writing.
pub(super) fn rebuild_search(connection: &mut Connection) -> Result<()> {
    log::warn!("the search index is damaged and is made again");
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch("DROP TABLE title_search; DROP TABLE node_search;")?;
    transaction.execute_batch(SEARCH_TABLES)?;
    index_everything(&transaction)?;
    Ok(transaction.commit()?)
}

/// Brings a database to [`VERSION`], all steps or none; returns the version it had.
///
/// # Errors
/// A step failed; the database is as it was.
pub(super) fn migrate(connection: &mut Connection) -> Result<i32> {
    migrate_to(connection, VERSION)
}

/// [`migrate`] to an earlier version, which only a test has a use for.
pub(super) fn migrate_to(connection: &mut Connection, version: i32) -> Result<i32> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let before: i32 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if before < version {
        let first = usize::try_from(before).unwrap_or(0);
        for step in &STEPS[first..version as usize] {
            transaction.execute_batch(step.sql)?;
            (step.then)(&transaction)?;
        }
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", version)?;
    }
    transaction.commit()?;
    Ok(before)
}
