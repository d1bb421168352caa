//! What can be read of a damaged database goes into a new one.
//!
//! Each table is read from its beginning to the damage, then from its end back to it. Messages whose
//! parents are lost become first ones of their conversation; conversations that are lost get a title
//! that says so. Values that make no sense are left out.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use rusqlite::types::Value as Cell;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::document::{self, Document, DocumentNode, FORMAT, FORMAT_VERSION};
use super::error::Result;
use super::facts::{AnswerFacts, ids_from_bytes};
use super::nodes::{self, NodeState};
use super::open::n_bytes;
use super::{FolderId, conversations, now_ms};

/// Title of a conversation whose own is lost.
const LOST_TITLE: &str = "Recovered";

/// How much was read.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Salvaged {
    pub n_conversations: usize,
    pub n_messages: usize,
}

/// Puts what can be read of the database `from` into the new one.
///
/// # Errors
/// Only where the new one cannot be written: then it is empty.
pub(super) fn salvage(from: &Path, to: &mut Connection) -> Result<Salvaged> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    // SQLite would delete the log of an empty database.
    if n_bytes(from) <= 1 {
        return Ok(Salvaged::default());
    }
    let Ok(from) = Connection::open_with_flags(from, flags) else {
        return Ok(Salvaged::default());
    };
    // With this SQLite reads a file that is shorter than it should be. Nothing is written by it here.
    if from.pragma_update(None, "writable_schema", true).is_err() {
        return Ok(Salvaged::default());
    }
    let documents = documents(&from);
    let folders = rows(&from, "folder", &["id", "position", "name"]);
    let settings = rows(&from, "setting", &["rowid", "key", "value"]);

    let transaction = to.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut folder_ids: HashMap<i64, FolderId> = HashMap::new();
    let mut folders: Vec<_> = folders
        .iter()
        .filter_map(|(&id, row)| Some((integer(&row[0])?, id, text(&row[1])?)))
        .collect();
    folders.sort_unstable();
    for (_, id, name) in folders {
        folder_ids.insert(id, conversations::insert_folder(&transaction, name)?);
    }
    let mut salvaged = Salvaged::default();
    for found in documents {
        salvaged.n_conversations += 1;
        salvaged.n_messages += found.document.nodes.len();
        let folder = found
            .folder
            .and_then(|folder| folder_ids.get(&folder).copied());
        document::insert(&transaction, &found.document, folder, found.deleted_ms)?;
    }
    for row in settings.values() {
        if let (Some(key), Some(value)) = (text(&row[0]), text(&row[1])) {
            transaction.execute(
                "INSERT OR IGNORE INTO setting (key, value) VALUES (?1, ?2)",
                [key, value],
            )?;
        }
    }
    transaction.commit()?;
    Ok(salvaged)
}

struct Found {
    document: Document,
    folder: Option<i64>,
    deleted_ms: Option<i64>,
}

fn documents(from: &Connection) -> Vec<Found> {
    let now_ms = now_ms();
    let columns = [
        "id",
        "title",
        "created_ms",
        "updated_ms",
        "settings",
        "leaf",
        "deleted_ms",
    ];
    let mut found: BTreeMap<i64, Found> = rows(from, "conversation", &columns)
        .into_iter()
        .map(|(id, row)| {
            let document = Document {
                format: FORMAT.into(),
                version: FORMAT_VERSION,
                title: text(&row[0]).unwrap_or(LOST_TITLE).to_owned(),
                created_ms: integer(&row[1]).unwrap_or(now_ms),
                updated_ms: integer(&row[2]).unwrap_or(now_ms),
                settings: text(&row[3])
                    .and_then(|text| serde_json::from_str(text).ok())
                    .unwrap_or_default(),
                leaf: integer(&row[4]),
                nodes: Vec::new(),
            };
            let deleted_ms = integer(&row[5]);
            let folder = None;
            (
                id,
                Found {
                    document,
                    folder,
                    deleted_ms,
                },
            )
        })
        .collect();
    // A column of its own version.
    for (id, row) in rows(from, "conversation", &["id", "folder"]) {
        if let Some(found) = found.get_mut(&id) {
            found.folder = integer(&row[0]);
        }
    }

    let token_ids = rows(from, "token_ids", &["rowid", "node", "part", "ids"]);
    let mut ids_of: HashMap<(i64, String), Vec<u32>> = HashMap::new();
    for row in token_ids.into_values() {
        if let (Some(node), Some(part), Cell::Blob(bytes)) =
            (integer(&row[0]), text(&row[1]), &row[2])
        {
            ids_of.insert(
                (node, part.to_owned()),
                ids_from_bytes(bytes).unwrap_or_default(),
            );
        }
    }

    let columns = [
        "id",
        "conversation",
        "parent",
        "state",
        "created_ms",
        "used",
        "message",
        "facts",
    ];
    let nodes = rows(from, "node", &columns);
    let mut conversation_of: HashMap<i64, i64> = HashMap::new();
    for (&id, row) in &nodes {
        let (Some(conversation), Some(message)) = (integer(&row[0]), text(&row[5])) else {
            continue;
        };
        let Ok(message) = nodes::parse_message(id, message) else {
            continue;
        };
        let mut ids = |part: &str| ids_of.remove(&(id, part.to_owned())).unwrap_or_default();
        let facts = text(&row[6]).and_then(|text| serde_json::from_str(text).ok());
        let facts = facts.map(|facts: AnswerFacts| AnswerFacts {
            prompt_ids: ids(nodes::PROMPT).into(),
            ids: ids(nodes::ANSWER),
            ..facts
        });
        let created_ms = integer(&row[3]).unwrap_or(now_ms);
        let found = found.entry(conversation).or_insert_with(|| Found {
            document: Document {
                format: FORMAT.into(),
                version: FORMAT_VERSION,
                title: LOST_TITLE.into(),
                created_ms,
                updated_ms: created_ms,
                settings: serde_json::Value::Null,
                leaf: None,
                nodes: Vec::new(),
            },
            folder: None,
            deleted_ms: None,
        });
        // Parents come first, as ids ascend.
        let parent = integer(&row[1]);
        let parent = parent.filter(|parent| conversation_of.get(parent) == Some(&conversation));
        conversation_of.insert(id, conversation);
        found.document.nodes.push(DocumentNode {
            id,
            parent,
            state: text(&row[2])
                .and_then(NodeState::from_name)
                .unwrap_or(NodeState::Stopped),
            created_ms,
            used: integer(&row[4]).unwrap_or(0),
            message,
            facts,
        });
    }
    for found in found.values_mut() {
        let Found { document, .. } = found;
        document.leaf = document
            .leaf
            .filter(|leaf| document.nodes.iter().any(|node| node.id == *leaf));
    }
    found.into_values().collect()
}

/// The rows of a table that can be read, by the first of `columns`, an integer; the other columns beside
/// it. None where there is no such table or column.
fn rows(from: &Connection, table: &str, columns: &[&str]) -> BTreeMap<i64, Vec<Cell>> {
    let mut found = BTreeMap::new();
    let key = columns[0];
    for order in ["ASC", "DESC"] {
        let columns_text = columns.join(", ");
        let sql = format!("SELECT {columns_text} FROM {table} NOT INDEXED ORDER BY {key} {order}");
        let Ok(mut statement) = from.prepare(&sql) else {
            break;
        };
        let Ok(mut rows) = statement.query([]) else {
            break;
        };
        // Ends at the damage, or where the way from the beginning ended.
        loop {
            let Ok(Some(row)) = rows.next() else { break };
            let cells: rusqlite::Result<Vec<Cell>> =
                (1..columns.len()).map(|column| row.get(column)).collect();
            let (Ok(id), Ok(cells)) = (row.get::<_, i64>(0), cells) else {
                continue;
            };
            if found.insert(id, cells).is_some() {
                break;
            }
        }
    }
    found
}

fn integer(cell: &Cell) -> Option<i64> {
    match cell {
        Cell::Integer(value) => Some(*value),
        _ => None,
    }
}

fn text(cell: &Cell) -> Option<&str> {
    match cell {
        Cell::Text(text) => Some(text),
        _ => None,
    }
}
