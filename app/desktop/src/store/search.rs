//! Full-text search over titles, content, reasoning and tool calls of all branches.
//!
//! SQLite's tokenizer splits at what is no letter or digit, which finds nothing within a sentence of a
//! script without spaces. So in what is indexed, and in what is searched for, each character of such a
//! script stands for itself, between invisible separators: a search for several of them is then one for
//! a phrase. Snippets come without the separators again.

use std::ops::Range;

use engine::chat::Message;
use rusqlite::{Row, Transaction, params};

use super::error::Result;
use super::{ConversationId, NodeId, Store};

/// A place where a search found something.
#[derive(Clone, Debug, PartialEq)]
pub struct Hit {
    /// The conversation.
    pub conversation: ConversationId,
    /// Its title.
    pub title: String,
    /// The message; `None` where the title itself was found.
    pub node: Option<NodeId>,
    /// The text around what was found, cut off with `…`.
    pub snippet: String,
    /// What was found in it, in bytes; ascending, never half a character.
    pub matches: Vec<Range<usize>>,
}

/// Words of a query beyond this many are ignored.
const MAX_WORDS: usize = 32;
/// Tokens of a snippet; SQLite allows 64.
const N_SNIPPET_TOKENS: i64 = 24;

/// Splits tokens and shows nothing. Removed from texts before it is put into them.
const SEPARATOR: char = '\u{2063}';
/// Mark a match in a snippet. Replaced in texts.
const MATCH: char = '\u{1}';
const END_MATCH: char = '\u{2}';

/// Scripts that are written without spaces, or where words grow by suffixes that a search leaves out.
const UNSPACED: &[Range<u32>] = &[
    0x0E00..0x0F00,   // Thai, Lao
    0x1000..0x10A0,   // Myanmar
    0x1100..0x1200,   // Hangul Jamo
    0x1780..0x1800,   // Khmer
    0x2E80..0x2FE0,   // CJK and Kangxi radicals
    0x3005..0x3008,   // 々〆〇
    0x3040..0x3190,   // Hiragana, Katakana, Bopomofo, Hangul compatibility Jamo
    0x31A0..0x3200,   // Bopomofo extended, Katakana extensions
    0x3400..0x4DC0,   // CJK extension A
    0x4E00..0xA000,   // CJK
    0xAC00..0xD7B0,   // Hangul syllables
    0xF900..0xFB00,   // CJK compatibility
    0xFF66..0xFFA0,   // half-width Katakana
    0x20000..0x32000, // CJK extensions B and later
];

fn is_unspaced(c: char) -> bool {
    UNSPACED.iter().any(|range| range.contains(&(c as u32)))
}

/// The text as it is indexed.
fn indexable(text: &str) -> String {
    let mut indexable = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            SEPARATOR => {}
            '\0' | MATCH | END_MATCH => indexable.push(' '),
            c if is_unspaced(c) => indexable.extend([SEPARATOR, c, SEPARATOR]),
            c => indexable.push(c),
        }
    }
    indexable
}

/// What the user typed, in the syntax of FTS5: each word a phrase, the last one a prefix; `None` where
/// nothing in it can be found.
fn fts_query(query: &str) -> Option<String> {
    let query = query.trim_end();
    let words = query.split_whitespace();
    let words = words.filter(|word| word.contains(char::is_alphanumeric));
    let phrases: Vec<String> = words
        .take(MAX_WORDS)
        .map(|word| format!("\"{}\"", indexable(word).replace('"', "\"\"")))
        .collect();
    // A word that ends in a mark is over: "end." does not mean "ending".
    let ends_open = query.ends_with(char::is_alphanumeric);
    (!phrases.is_empty()).then(|| phrases.join(" ") + if ends_open { "*" } else { "" })
}

/// Replaces what is indexed of a title.
pub(super) fn index_title(transaction: &Transaction, id: i64, title: &str) -> Result<()> {
    transaction
        .prepare_cached("INSERT OR REPLACE INTO title_search (rowid, title) VALUES (?1, ?2)")?
        .execute(params![id, indexable(title)])?;
    Ok(())
}

/// Replaces what is indexed of a message.
pub(super) fn index_message(transaction: &Transaction, id: i64, message: &Message) -> Result<()> {
    let reasoning = message.reasoning_content.as_deref().unwrap_or_default();
    let calls = message.tool_calls.iter();
    let calls: Vec<_> = calls
        .map(|call| match call.arguments.as_str() {
            Some(text) => format!("{} {text}", call.name),
            None => format!("{} {}", call.name, call.arguments),
        })
        .collect();
    transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO node_search (rowid, content, reasoning, calls)
             VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![
            id,
            indexable(&message.content),
            indexable(reasoning),
            indexable(&calls.join("\n"))
        ])?;
    Ok(())
}

/// The snippet as it is shown, and where the matches in it are.
fn shown(marked: &str) -> (String, Vec<Range<usize>>) {
    let mut snippet = String::with_capacity(marked.len());
    let mut matches: Vec<Range<usize>> = Vec::new();
    let mut start = None;
    for c in marked.chars() {
        match c {
            SEPARATOR => {}
            MATCH => start = Some(snippet.len()),
            END_MATCH => {
                let start = start.take().unwrap_or(snippet.len());
                match matches.last_mut() {
                    Some(last) if last.end == start => last.end = snippet.len(),
                    _ => matches.push(start..snippet.len()),
                }
            }
            c if c.is_whitespace() => snippet.push(' '),
            c => snippet.push(c),
        }
    }
    (snippet, matches)
}

fn hit_from_row(row: &Row) -> rusqlite::Result<Hit> {
    let (snippet, matches) = shown(&row.get::<_, String>(3)?);
    Ok(Hit {
        conversation: row.get(0)?,
        title: row.get(1)?,
        node: row.get(2)?,
        snippet,
        matches,
    })
}

impl Store {
    /// What holds all words of `query`, the last of which may be the beginning of one; at most `limit`
    /// hits. Titles come first, newest first; then messages of all branches, best first. Upper and lower case and
    /// accents make no difference. A query without a letter or digit has no hits.
    pub fn search(&mut self, query: &str, limit: usize) -> Result<Vec<Hit>> {
        let Some(query) = fts_query(query) else {
            return Ok(Vec::new());
        };
        let titles = "
            SELECT conversation.id, conversation.title, NULL,
                   snippet(title_search, -1, ?3, ?4, '…', ?5)
            FROM title_search JOIN conversation ON conversation.id = title_search.rowid
            WHERE title_search MATCH ?1 AND conversation.deleted_ms IS NULL
            ORDER BY conversation.updated_ms DESC, conversation.id DESC LIMIT ?2";
        let messages = "
            SELECT conversation.id, conversation.title, node.id,
                   snippet(node_search, -1, ?3, ?4, '…', ?5)
            FROM node_search
                 JOIN node ON node.id = node_search.rowid
                 JOIN conversation ON conversation.id = node.conversation
            WHERE node_search MATCH ?1 AND conversation.deleted_ms IS NULL
            ORDER BY node_search.rank LIMIT ?2";
        let (start, end) = (MATCH.to_string(), END_MATCH.to_string());
        self.repairing_search(|connection| {
            let mut hits: Vec<Hit> = Vec::new();
            for sql in [titles, messages] {
                let left = i64::try_from(limit - hits.len()).unwrap_or(i64::MAX);
                let mut statement = connection.prepare_cached(sql)?;
                let rows = statement.query_map(
                    params![query, left, start, end, N_SNIPPET_TOKENS],
                    hit_from_row,
                )?;
                for hit in rows {
                    hits.push(hit?);
                }
            }
            Ok(hits)
        })
    }
}
