//! Conversations as files: Markdown and HTML of the chosen branch to read, JSON of everything to keep.

mod fences;
mod html;
mod markdown;

use rusqlite::Connection;

use super::document;
use super::error::{Result, StoreError};
use super::facts::AnswerFacts;
use super::nodes::NodeState;
use super::{ConversationId, Store};
use engine::chat::Role;

/// What a conversation is exported as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExportFormat {
    /// The chosen branch, to read and edit.
    Markdown,
    /// Everything: all branches, facts and settings. [`Store::import`] reads it.
    Json,
    /// The chosen branch as a page that needs nothing else.
    Html,
}

impl ExportFormat {
    /// All of them, in the order of a menu.
    pub const ALL: [Self; 3] = [Self::Markdown, Self::Json, Self::Html];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Markdown => "Markdown",
            Self::Json => "JSON",
            Self::Html => "HTML",
        }
    }

    /// End of a file's name, without the dot.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Markdown => "md",
            Self::Json => "json",
            Self::Html => "html",
        }
    }
}

impl Store {
    /// The text of a file that holds the conversation.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::BadValue`]
    pub fn export(&self, id: ConversationId, format: ExportFormat) -> Result<String> {
        match format {
            ExportFormat::Json => {
                let snapshot = self.connection.unchecked_transaction()?;
                let document = document::load(&snapshot, id)?;
                let text = serde_json::to_string_pretty(&document);
                text.map_err(|error| StoreError::Json {
                    what: format!("conversation {}", id.0),
                    problem: error.to_string(),
                })
            }
            ExportFormat::Markdown => {
                let conversation = self.conversation(id)?;
                let began = day_and_time(&self.connection, conversation.created_ms)?;
                Ok(markdown::page(&conversation.title, &began, &self.path(id)?))
            }
            ExportFormat::Html => {
                let conversation = self.conversation(id)?;
                let began = day_and_time(&self.connection, conversation.created_ms)?;
                Ok(html::page(&conversation.title, &began, &self.path(id)?))
            }
        }
    }
}

/// A time as people write it, in UTC.
fn day_and_time(connection: &Connection, ms: i64) -> Result<String> {
    let sql = "SELECT coalesce(strftime('%Y-%m-%d %H:%M UTC', ?1 / 1000, 'unixepoch'), '')";
    Ok(connection.query_row(sql, [ms], |row| row.get(0))?)
}

/// The title on one line.
fn one_line(title: &str) -> String {
    title.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn speaker(role: Role) -> &'static str {
    match role {
        Role::System => "System",
        Role::Developer => "Developer",
        Role::User => "User",
        Role::Assistant => "Assistant",
        Role::Tool => "Tool result",
    }
}

/// What is said behind a message that is not whole.
fn state_note(state: NodeState) -> Option<&'static str> {
    match state {
        NodeState::Complete => None,
        NodeState::Streaming => Some("still being written"),
        NodeState::Stopped => Some("stopped"),
        NodeState::Failed => Some("ended by an error"),
    }
}

/// A time as people read it.
fn duration(ms: f64) -> String {
    if ms < 1000.0 {
        format!("{ms:.0} ms")
    } else {
        format!("{:.1} s", ms / 1000.0)
    }
}

/// Title of what the model thought.
fn thinking_title(facts: Option<&AnswerFacts>) -> String {
    match facts.and_then(|facts| facts.thinking_ms) {
        Some(ms) => format!("Thought for {}", duration(ms)),
        None => "Thinking".into(),
    }
}

/// What is known of an answer, on one line; empty where nothing is.
fn facts_line(facts: Option<&AnswerFacts>, state: NodeState) -> String {
    let mut parts: Vec<String> = Vec::new();
    if let Some(facts) = facts {
        parts.extend([&facts.model, &facts.device].map(|name| one_line(name)));
        if facts.n_prompt > 0 {
            parts.push(format!("{} prompt tokens", facts.n_prompt));
        }
        if facts.n_generated > 0 {
            parts.push(format!("{} generated", facts.n_generated));
        }
        if let Some(rate) = facts.tokens_per_second() {
            parts.push(format!("{rate:.1} tokens/s"));
        }
        if let Some(ms) = facts.first_token_ms {
            parts.push(format!("first token after {}", duration(ms)));
        }
        parts.push(one_line(&facts.stop));
    }
    parts.extend(state_note(state).map(str::to_owned));
    parts.retain(|part| !part.is_empty());
    parts.join(" · ")
}
