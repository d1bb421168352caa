//! A whole conversation as one value: what a JSON file holds, and what is read from a damaged database.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use engine::chat::Message;
use rusqlite::{Connection, Transaction};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::conversations::{self, NewConversation};
use super::error::Result;
use super::facts::{AnswerFacts, PromptIds};
use super::nodes::{self, NewNode, NodeState};
use super::{ConversationId, FolderId, NodeId};

/// Tells a conversation from other JSON.
pub(super) const FORMAT: &str = "sparsight-conversation";
/// Version of the form.
pub(super) const FORMAT_VERSION: u32 = 1;

/// A conversation: the whole tree, facts and settings. Its ids are its own: 1, 2, … in what is written
/// here, any different numbers in what is read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Document<N = DocumentNode> {
    pub format: String,
    pub version: u32,
    pub title: String,
    pub created_ms: i64,
    pub updated_ms: i64,
    #[serde(default)]
    pub settings: Value,
    /// Last message of the chosen branch.
    #[serde(default)]
    pub leaf: Option<i64>,
    pub nodes: Vec<N>,
}

/// A message in its tree.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct DocumentNode {
    pub id: i64,
    #[serde(default)]
    pub parent: Option<i64>,
    pub state: NodeState,
    pub created_ms: i64,
    /// Place in the order in which messages were last chosen, the latest highest.
    #[serde(default)]
    pub used: i64,
    pub message: Message,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<AnswerFacts>,
}

/// Whether the file at `path` is a conversation that was written here.
pub fn is_conversation(path: &Path) -> bool {
    let mut begin = Vec::new();
    let read = File::open(path).and_then(|file| file.take(256).read_to_end(&mut begin));
    read.is_ok() && String::from_utf8_lossy(&begin).contains(&format!("\"format\": \"{FORMAT}\""))
}

/// The conversation `id`.
///
/// # Errors
/// [`StoreError::NotFound`](super::StoreError::NotFound), [`StoreError::BadValue`](super::StoreError::BadValue)
pub(super) fn load(connection: &Connection, id: ConversationId) -> Result<Document> {
    let conversation = conversations::conversation(connection, id)?;
    let settings = conversations::settings_text(connection, id)?;
    let ids: Vec<NodeId> = connection
        .prepare_cached("SELECT id FROM node WHERE conversation = ?1 ORDER BY id")?
        .query_map([id], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let numbers: HashMap<NodeId, i64> = ids.iter().copied().zip(1..).collect();
    let number = |id: NodeId| numbers.get(&id).copied();
    let mut nodes = Vec::with_capacity(ids.len());
    let mut prompt = PromptIds::default();
    for (&id, number_of_node) in ids.iter().zip(1..) {
        let (node, used) = nodes::load(connection, id, &prompt)?;
        if let Some(facts) = &node.facts {
            prompt = facts.prompt_ids.clone();
        }
        nodes.push(DocumentNode {
            id: number_of_node,
            parent: node.parent.and_then(number),
            state: node.state,
            created_ms: node.created_ms,
            used,
            message: node.message,
            facts: node.facts,
        });
    }
    let used = ranks_of_use(&nodes);
    for (node, used) in nodes.iter_mut().zip(used) {
        node.used = used;
    }
    Ok(Document {
        format: FORMAT.into(),
        version: FORMAT_VERSION,
        title: conversation.title,
        created_ms: conversation.created_ms,
        updated_ms: conversation.updated_ms,
        settings: super::settings::read(&settings, || format!("settings of conversation {}", id.0)),
        leaf: conversation.leaf.and_then(number),
        nodes,
    })
}

/// Counters of use as ranks from 1, ties in the order of the nodes.
fn ranks_of_use(nodes: &[DocumentNode]) -> Vec<i64> {
    let mut order: Vec<usize> = (0..nodes.len()).collect();
    order.sort_by_key(|&node| nodes[node].used);
    let mut ranks = vec![0; nodes.len()];
    for (node, rank) in order.into_iter().zip(1..) {
        ranks[node] = rank;
    }
    ranks
}

/// Adds the conversation under new ids. Parents stand before their children in it, and ids differ.
/// A message that was being written when it was read is a stopped one.
pub(super) fn insert(
    transaction: &Transaction,
    document: &Document,
    folder: Option<FolderId>,
    deleted_ms: Option<i64>,
) -> Result<ConversationId> {
    // Counters of any size would leave no room to count on.
    let used = ranks_of_use(&document.nodes);
    let new = NewConversation {
        title: &document.title,
        folder,
        created_ms: document.created_ms,
        updated_ms: document.updated_ms,
        settings: &document.settings.to_string(),
        deleted_ms,
    };
    let conversation = conversations::insert(transaction, &new)?;
    let mut id_from_number: HashMap<i64, NodeId> = HashMap::new();
    for (node, &used) in document.nodes.iter().zip(&used) {
        let new = NewNode {
            conversation,
            parent: node
                .parent
                .and_then(|parent| id_from_number.get(&parent).copied()),
            message: &node.message,
            state: match node.state {
                NodeState::Streaming => NodeState::Stopped,
                state => state,
            },
            facts: node.facts.as_ref(),
            created_ms: node.created_ms,
            used,
            writer: None,
        };
        id_from_number.insert(node.id, nodes::insert(transaction, &new)?);
    }
    let last_used = document.nodes.iter().max_by_key(|node| node.used);
    let leaf = document.leaf.or(last_used.map(|node| node.id));
    if let Some(leaf) = leaf.and_then(|leaf| id_from_number.get(&leaf)) {
        nodes::select(transaction, *leaf)?;
    }
    Ok(conversation)
}
