//! Messages of a conversation, as a tree: editing and generating again make siblings.
//!
//! A parent is always older than its children (its id is lower), so that no walk can go in circles.
//! Each node remembers by a counter when it was last the chosen leaf; that is how choosing a branch
//! leads back to where one was in it.

use std::collections::{HashMap, HashSet};

use engine::chat::Message;
use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};
use serde::{Deserialize, Serialize};

use super::error::{Result, StoreError};
use super::facts::{AnswerFacts, PromptIds, bytes_from_ids, ids_from_bytes};
use super::{ConversationId, NodeId, Store, conversations, now_ms, search};

/// How far a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// All is there.
    Complete,
    /// It is being written.
    Streaming,
    /// Somebody or a crash cut it off.
    Stopped,
    /// An error cut it off.
    Failed,
}

impl NodeState {
    const ALL: [Self; 4] = [Self::Complete, Self::Streaming, Self::Stopped, Self::Failed];

    /// The name in the database and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Streaming => "streaming",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }
}

/// A message in its tree.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Names it.
    pub id: NodeId,
    /// The conversation it belongs to.
    pub conversation: ConversationId,
    /// The message before it; `None` for a first one.
    pub parent: Option<NodeId>,
    /// What is said.
    pub message: Message,
    /// How far it is.
    pub state: NodeState,
    /// How it came about, for an answer.
    pub facts: Option<AnswerFacts>,
    /// When it was added.
    pub created_ms: i64,
}

/// A message on the chosen path, and what stands in its place on other branches.
#[derive(Clone, Debug, PartialEq)]
pub struct PathEntry {
    /// The message.
    pub node: Node,
    /// All messages with the same parent, itself included, oldest first.
    pub siblings: Vec<NodeId>,
    /// Place of [`Self::node`] among [`Self::siblings`], from 0.
    pub index_among_siblings: usize,
}

impl PathEntry {
    /// How many messages stand in this place, itself included.
    pub fn n_siblings(&self) -> usize {
        self.siblings.len()
    }
}

fn no_node(id: NodeId) -> StoreError {
    StoreError::NotFound {
        what: "message",
        id: id.0,
    }
}

/// The message of node `id`, from its JSON.
pub(super) fn parse_message(id: i64, text: &str) -> Result<Message> {
    serde_json::from_str(text).map_err(|error| StoreError::BadValue {
        what: "message",
        id,
        problem: error.to_string(),
    })
}

pub(super) fn message_text(message: &Message) -> Result<String> {
    serde_json::to_string(message).map_err(|error| StoreError::Json {
        what: format!("message of the {}", message.role.name()),
        problem: error.to_string(),
    })
}

/// A node and its counter of use. Its prompt is shared with `prompt` as far as they are the same.
pub(super) fn load(connection: &Connection, id: NodeId, prompt: &PromptIds) -> Result<(Node, i64)> {
    let found = connection
        .prepare_cached(
            "SELECT conversation, parent, state, created_ms, used, message, facts
             FROM node WHERE id = ?1",
        )?
        .query_row([id], |row| {
            Ok((
                row.get(0)?,
                row.get(1)?,
                row.get::<_, String>(2)?,
                row.get(3)?,
                row.get(4)?,
                row.get::<_, String>(5)?,
                row.get::<_, Option<String>>(6)?,
            ))
        })
        .optional()?;
    let Some((conversation, parent, state, created_ms, used, message, facts)) = found else {
        return Err(no_node(id));
    };
    let bad = |problem: String| StoreError::BadValue {
        what: "message",
        id: id.0,
        problem,
    };
    let facts = match facts {
        None => None,
        Some(text) => {
            let mut facts: AnswerFacts =
                serde_json::from_str(&text).map_err(|error| bad(format!("its facts: {error}")))?;
            let mut ids = connection
                .prepare_cached("SELECT ids FROM token_ids WHERE node = ?1 AND part = ?2")?;
            let mut ids = |part| {
                let bytes: Option<Vec<u8>> = ids
                    .query_row(params![id, part], |row| row.get(0))
                    .optional()?;
                ids_from_bytes(&bytes.unwrap_or_default())
                    .ok_or_else(|| bad(format!("its {part} ids are no multiple of 4 bytes")))
            };
            facts.prompt_ids = PromptIds::share(ids(PROMPT)?, prompt);
            facts.ids = ids(ANSWER)?;
            Some(facts)
        }
    };
    let node = Node {
        id,
        conversation,
        parent,
        message: parse_message(id.0, &message)?,
        state: NodeState::from_name(&state).ok_or_else(|| {
            bad(format!(
                "its state is {state:?}, expected one of {:?}",
                NodeState::ALL
            ))
        })?,
        facts,
        created_ms,
    };
    Ok((node, used))
}

pub(super) const PROMPT: &str = "prompt";
pub(super) const ANSWER: &str = "answer";

/// Facts as JSON without the token ids, which are kept as bytes, by [`write_ids`].
fn facts_text(facts: &AnswerFacts) -> Result<String> {
    let without_ids = AnswerFacts {
        model: facts.model.clone(),
        device: facts.device.clone(),
        stop: facts.stop.clone(),
        settings: facts.settings.clone(),
        prompt_ids: PromptIds::default(),
        ids: Vec::new(),
        ..*facts
    };
    serde_json::to_string(&without_ids).map_err(|error| StoreError::Json {
        what: "facts of an answer".into(),
        problem: error.to_string(),
    })
}

/// Those that are there already cost no write: a prompt does not change while its answer is written.
fn write_ids(transaction: &Transaction, id: NodeId, facts: &AnswerFacts) -> Result<()> {
    let prompt = bytes_from_ids(facts.prompt_ids.iter());
    let answer = bytes_from_ids(facts.ids.iter().copied());
    for (part, bytes) in [(PROMPT, prompt), (ANSWER, answer)] {
        transaction
            .prepare_cached(
                "INSERT INTO token_ids (node, part, ids) VALUES (?1, ?2, ?3)
                 ON CONFLICT (node, part) DO UPDATE SET ids = excluded.ids
                 WHERE ids IS NOT excluded.ids",
            )?
            .execute(params![id, part, bytes])?;
    }
    Ok(())
}

/// What a new node is made of. `conversation` is there, and so is `parent`, within it.
pub(super) struct NewNode<'a> {
    pub conversation: ConversationId,
    pub parent: Option<NodeId>,
    pub message: &'a Message,
    pub state: NodeState,
    pub facts: Option<&'a AnswerFacts>,
    pub created_ms: i64,
    pub used: i64,
    /// Token of the instance that writes it, while it streams.
    pub writer: Option<&'a str>,
}

pub(super) fn insert(transaction: &Transaction, new: &NewNode) -> Result<NodeId> {
    transaction
        .prepare_cached(
            "INSERT INTO node (conversation, parent, state, writer, created_ms, used, message, facts)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            new.conversation,
            new.parent,
            new.state.name(),
            new.writer,
            new.created_ms,
            new.used,
            message_text(new.message)?,
            new.facts.map(facts_text).transpose()?,
        ])?;
    let id = NodeId(transaction.last_insert_rowid());
    if let Some(facts) = new.facts {
        write_ids(transaction, id, facts)?;
    }
    if new.state != NodeState::Streaming {
        search::index_message(transaction, id.0, new.message)?;
    }
    Ok(id)
}

/// Makes `leaf`, which belongs to `conversation`, the chosen leaf.
fn choose(transaction: &Transaction, conversation: ConversationId, leaf: NodeId) -> Result<()> {
    transaction
        .prepare_cached(
            "UPDATE node SET used = 1 + (SELECT max(used) FROM node WHERE conversation = ?1)
             WHERE id = ?2",
        )?
        .execute(params![conversation, leaf])?;
    transaction
        .prepare_cached("UPDATE conversation SET leaf = ?2 WHERE id = ?1")?
        .execute(params![conversation, leaf])?;
    Ok(())
}

/// The leaf below `node` that was chosen last; `node` itself where nothing is below it.
fn latest_leaf(connection: &Connection, node: NodeId) -> Result<NodeId> {
    let leaf = connection
        .prepare_cached(
            "WITH RECURSIVE below(id, used) AS (
                 SELECT id, used FROM node WHERE id = ?1
                 UNION ALL
                 SELECT node.id, node.used FROM node JOIN below ON node.parent = below.id
             )
             SELECT id FROM below
             WHERE NOT EXISTS (SELECT 1 FROM node AS child WHERE child.parent = below.id)
             ORDER BY used DESC, id DESC LIMIT 1",
        )?
        .query_row([node], |row| row.get(0))
        .optional()?;
    leaf.ok_or_else(|| no_node(node))
}

pub(super) fn select(transaction: &Transaction, node: NodeId) -> Result<NodeId> {
    let conversation = conversation_of(transaction, node)?;
    let leaf = latest_leaf(transaction, node)?;
    choose(transaction, conversation, leaf)?;
    Ok(leaf)
}

fn conversation_of(connection: &Connection, node: NodeId) -> Result<ConversationId> {
    let found = connection
        .prepare_cached("SELECT conversation FROM node WHERE id = ?1")?
        .query_row([node], |row| row.get(0))
        .optional()?;
    found.ok_or_else(|| no_node(node))
}

/// Marks messages as stopped that an instance was writing which is not `alive`; returns how many.
pub(super) fn stop_orphans(connection: &mut Connection, alive: &HashSet<String>) -> Result<usize> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let orphans: Vec<(i64, String)> = {
        let mut statement = transaction
            .prepare("SELECT id, message, writer FROM node WHERE state = 'streaming'")?;
        let rows = statement.query_map([], |row| {
            let writer: Option<String> = row.get(2)?;
            Ok((row.get(0)?, row.get(1)?, writer))
        })?;
        let is_orphan =
            |writer: &Option<String>| writer.as_ref().is_none_or(|w| !alive.contains(w));
        rows.filter(|row| {
            row.as_ref()
                .map_or(true, |(_, _, writer)| is_orphan(writer))
        })
        .map(|row| row.map(|(id, message, _)| (id, message)))
        .collect::<rusqlite::Result<_>>()?
    };
    for (id, message) in &orphans {
        transaction.execute(
            "UPDATE node SET state = 'stopped', writer = NULL WHERE id = ?1",
            [id],
        )?;
        // One that cannot be read is an error when it is shown, and no reason not to open.
        if let Ok(message) = parse_message(*id, message) {
            search::index_message(&transaction, *id, &message)?;
        }
    }
    transaction.commit()?;
    Ok(orphans.len())
}

impl Store {
    /// Adds a message behind `parent`, or a first one, and makes it the chosen leaf.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]: no such conversation, or no such parent in it.
    pub fn append(
        &mut self,
        conversation: ConversationId,
        parent: Option<NodeId>,
        message: &Message,
        state: NodeState,
    ) -> Result<NodeId> {
        let now_ms = now_ms();
        let writer = self.instance.token.clone();
        self.write(|transaction| {
            conversations::conversation(transaction, conversation)?;
            if let Some(parent) = parent
                && conversation_of(transaction, parent)? != conversation
            {
                return Err(no_node(parent));
            }
            let new = NewNode {
                conversation,
                parent,
                message,
                state,
                facts: None,
                created_ms: now_ms,
                used: 0,
                writer: (state == NodeState::Streaming).then_some(&writer),
            };
            let id = insert(transaction, &new)?;
            choose(transaction, conversation, id)?;
            touch(transaction, conversation, now_ms)?;
            Ok(id)
        })
    }

    /// Replaces a message, as it is written or when it is done. Facts that are not given stay as they are.
    ///
    /// While `state` is [`NodeState::Streaming`] this is one small write; a search finds the message once
    /// it is anything else.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]
    pub fn update(
        &mut self,
        node: NodeId,
        message: &Message,
        state: NodeState,
        facts: Option<&AnswerFacts>,
    ) -> Result<()> {
        let is_streaming = state == NodeState::Streaming;
        let writer = is_streaming.then(|| self.instance.token.clone());
        let message_text = message_text(message)?;
        let text_of_facts = facts.map(facts_text).transpose()?;
        self.write(|transaction| {
            let n_changed = transaction
                .prepare_cached(
                    "UPDATE node SET message = ?2, state = ?3, writer = ?4, facts = coalesce(?5, facts)
                     WHERE id = ?1",
                )?
                .execute(params![node, message_text, state.name(), writer, text_of_facts])?;
            if n_changed == 0 {
                return Err(no_node(node));
            }
            if let Some(facts) = facts {
                write_ids(transaction, node, facts)?;
            }
            if !is_streaming {
                search::index_message(transaction, node.0, message)?;
                touch(transaction, conversation_of(transaction, node)?, now_ms())?;
            }
            Ok(())
        })
    }

    /// Switches to the branch of `node`, down to the leaf below it that was chosen last, which is returned.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]
    pub fn select(&mut self, node: NodeId) -> Result<NodeId> {
        self.write(|transaction| select(transaction, node))
    }

    /// One message.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::BadValue`]
    pub fn node(&self, id: NodeId) -> Result<Node> {
        load(&self.connection, id, &PromptIds::default()).map(|(node, _)| node)
    }

    /// The chosen branch, first message first.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::BadValue`]
    pub fn path(&self, conversation: ConversationId) -> Result<Vec<PathEntry>> {
        // All reads see one state, whatever another instance writes meanwhile.
        let snapshot = self.connection.unchecked_transaction()?;
        let leaf = conversations::conversation(&snapshot, conversation)?.leaf;
        let mut children: HashMap<Option<NodeId>, Vec<NodeId>> = HashMap::new();
        let mut parents: HashMap<NodeId, Option<NodeId>> = HashMap::new();
        let mut tree = snapshot
            .prepare_cached("SELECT id, parent FROM node WHERE conversation = ?1 ORDER BY id")?;
        let mut rows = tree.query([conversation])?;
        while let Some(row) = rows.next()? {
            let (id, parent) = (row.get(0)?, row.get(1)?);
            children.entry(parent).or_default().push(id);
            parents.insert(id, parent);
        }
        let mut path = Vec::new();
        // The longest comes first: those before share what they begin with.
        let mut prompt = PromptIds::default();
        let mut next = leaf;
        while let Some(id) = next {
            let (node, _) = load(&snapshot, id, &prompt)?;
            if let Some(facts) = node
                .facts
                .as_ref()
                .filter(|facts| !facts.prompt_ids.is_empty())
            {
                prompt = facts.prompt_ids.clone();
            }
            let parent = parents.get(&id).copied().flatten();
            let siblings = children.get(&parent).cloned().unwrap_or_default();
            path.push(PathEntry {
                node,
                index_among_siblings: siblings
                    .iter()
                    .position(|&sibling| sibling == id)
                    .unwrap_or(0),
                siblings,
            });
            next = parent.filter(|&parent| parent < id);
        }
        path.reverse();
        Ok(path)
    }
}

fn touch(transaction: &Transaction, conversation: ConversationId, now_ms: i64) -> Result<()> {
    transaction
        .prepare_cached("UPDATE conversation SET updated_ms = ?2 WHERE id = ?1")?
        .execute(params![conversation, now_ms])?;
    Ok(())
}
