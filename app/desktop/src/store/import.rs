//! Conversations from files: our own JSON, and message lists as OpenAI-style requests have them.
//!
//! A file may come from anywhere. It is checked whole before the first row is written, and what is
//! written is one transaction.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io::Read as _;
use std::path::Path;

use engine::chat::{self, METADATA, Role};
use serde_json::Value;

use super::conversations::title_from;
use super::document::{self, Document, DocumentNode, FORMAT, FORMAT_VERSION};
use super::error::{Result, StoreError};
use super::nodes::NodeState;
use super::{ConversationId, Store, now_ms};

/// A larger file is not read.
pub const MAX_IMPORT_BYTES: usize = 256 << 20;
/// A conversation with more messages is not imported.
pub const MAX_IMPORT_NODES: usize = 100_000;

/// End of the year 9999; what is later is no time.
const MAX_MS: i64 = 253_402_300_799_999;

impl Store {
    /// Adds the conversation in a file; see [`Self::import`].
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Import`]
    pub fn import_file(&mut self, path: &Path) -> Result<ConversationId> {
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path).map_err(|error| StoreError::io(path, error))?;
        file.take(MAX_IMPORT_BYTES as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| StoreError::io(path, error))?;
        self.import(&bytes)
    }

    /// Adds the conversation in `json`: what [`ExportFormat::Json`](super::ExportFormat::Json) writes, or
    /// a list of messages `[{"role": …, "content": …}, …]`, or an object with such a list as `messages`.
    ///
    /// # Errors
    /// [`StoreError::Import`] says what is wrong with it; nothing was changed then.
    pub fn import(&mut self, json: &[u8]) -> Result<ConversationId> {
        let document = parse(json).map_err(StoreError::Import)?;
        self.write(|transaction| document::insert(transaction, &document, None, None))
    }
}

fn parse(json: &[u8]) -> std::result::Result<Document, String> {
    if json.len() > MAX_IMPORT_BYTES {
        let n_bytes = json.len();
        return Err(format!(
            "{n_bytes} bytes or more, expected at most {MAX_IMPORT_BYTES}"
        ));
    }
    let json = engine::text_file::decode(json).map_err(|problem| format!("the file {problem}"))?;
    // Nesting is bounded by serde_json, at 128 levels.
    let value: Value = serde_json::from_str(json).map_err(|error| format!("no JSON: {error}"))?;
    match value {
        Value::Array(messages) => document_from_messages(messages, Value::Null, None),
        Value::Object(mut object) if !object.contains_key("format") => {
            let title = object.remove("title");
            let title = title.as_ref().and_then(Value::as_str).map(str::to_owned);
            let tools = object.remove("tools").unwrap_or_default();
            match object.remove("messages") {
                Some(Value::Array(messages)) => {
                    // Numbers and switches are settings of a request; the rest says something.
                    let says_something = |(key, value): &(&String, &Value)| {
                        let is_setting = value.is_null() || value.is_number() || value.is_boolean();
                        !is_setting && !METADATA.contains(&key.as_str())
                    };
                    if let Some((key, _)) = object.iter().find(says_something) {
                        return Err(format!(
                            "found the key {key:?}, expected \"messages\", \"tools\" and \"title\""
                        ));
                    }
                    document_from_messages(messages, tools, title)
                }
                Some(_) => Err("key \"messages\" is no list".into()),
                None => Err(format!(
                    "an object without key \"format\" (expected {FORMAT:?}) or \"messages\""
                )),
            }
        }
        Value::Object(object) => {
            if object["format"] != FORMAT {
                return Err(format!(
                    "format is {}, expected {FORMAT:?}",
                    object["format"]
                ));
            }
            match object.get("version") {
                Some(version) if *version == FORMAT_VERSION => {}
                Some(version) => {
                    return Err(format!("version is {version}, expected {FORMAT_VERSION}"));
                }
                None => return Err(format!("version is missing, expected {FORMAT_VERSION}")),
            }
            checked(Value::Object(object))
        }
        _ => Err("neither an object nor a list of messages".into()),
    }
}

fn check_count(n_nodes: usize) -> std::result::Result<(), String> {
    if n_nodes > MAX_IMPORT_NODES {
        return Err(format!(
            "{n_nodes} messages, expected at most {MAX_IMPORT_NODES}"
        ));
    }
    Ok(())
}

fn document_from_messages(
    messages: Vec<Value>,
    tools: Value,
    title: Option<String>,
) -> std::result::Result<Document, String> {
    check_count(messages.len())?;
    if messages.is_empty() {
        return Err("a list without messages".into());
    }
    let now_ms = now_ms();
    let mut nodes = Vec::with_capacity(messages.len());
    for (id, message) in (1..).zip(chat::from_request(messages, tools)?) {
        nodes.push(DocumentNode {
            id,
            parent: (id > 1).then_some(id - 1),
            state: NodeState::Complete,
            created_ms: now_ms,
            used: id,
            message,
            facts: None,
        });
    }
    let title = title.unwrap_or_else(|| {
        let question = nodes.iter().find(|node| node.message.role == Role::User);
        title_from(question.map_or("", |node| &node.message.content))
    });
    Ok(Document {
        format: FORMAT.into(),
        version: FORMAT_VERSION,
        title,
        created_ms: now_ms,
        updated_ms: now_ms,
        settings: Value::Null,
        leaf: None,
        nodes,
    })
}

/// The document with parents before their children, if it holds together.
fn checked(value: Value) -> std::result::Result<Document, String> {
    let raw: Document<Value> = serde_json::from_value(value).map_err(|error| error.to_string())?;
    check_count(raw.nodes.len())?;
    let mut nodes = Vec::with_capacity(raw.nodes.len());
    let mut index_from_id = HashMap::with_capacity(raw.nodes.len());
    for (index, node) in raw.nodes.into_iter().enumerate() {
        let node: DocumentNode =
            serde_json::from_value(node).map_err(|error| format!("node {index}: {error}"))?;
        if index_from_id.insert(node.id, index).is_some() {
            return Err(format!("node {index}: id {} stands twice", node.id));
        }
        check_time(&format!("node {index}: created_ms"), node.created_ms)?;
        nodes.push(node);
    }
    check_time("created_ms", raw.created_ms)?;
    check_time("updated_ms", raw.updated_ms)?;
    if let Some(leaf) = raw.leaf
        && !index_from_id.contains_key(&leaf)
    {
        return Err(format!("leaf is {leaf}, and there is no such node"));
    }

    let mut children: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    let mut ready = BinaryHeap::new();
    for (index, node) in nodes.iter().enumerate() {
        match node
            .parent
            .map(|parent| (parent, index_from_id.get(&parent)))
        {
            None => ready.push(Reverse(index)),
            Some((_, Some(&parent))) => children[parent].push(index),
            Some((parent, None)) => {
                return Err(format!(
                    "node {index}: parent is {parent}, and there is no such node"
                ));
            }
        }
    }
    // As they stand in the file, but for children that stand before their parents.
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(Reverse(index)) = ready.pop() {
        order.push(index);
        ready.extend(children[index].drain(..).map(Reverse));
    }
    if order.len() < nodes.len() {
        let mut is_reached = vec![false; nodes.len()];
        for &index in &order {
            is_reached[index] = true;
        }
        let index = is_reached.iter().position(|reached| !reached).unwrap_or(0);
        return Err(format!("node {index}: its parents go in a circle"));
    }
    let mut slots: Vec<Option<DocumentNode>> = nodes.into_iter().map(Some).collect();
    Ok(Document {
        format: raw.format,
        version: raw.version,
        title: raw.title,
        created_ms: raw.created_ms,
        updated_ms: raw.updated_ms,
        settings: raw.settings,
        leaf: raw.leaf,
        nodes: order
            .into_iter()
            .filter_map(|index| slots[index].take())
            .collect(),
    })
}

fn check_time(what: &str, ms: i64) -> std::result::Result<(), String> {
    if (0..=MAX_MS).contains(&ms) {
        return Ok(());
    }
    Err(format!("{what} is {ms}, expected 0 to {MAX_MS}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panic")]
mod tests {
    use engine::chat::Message;
    use serde_json::json;

    use super::*;

    fn node(id: i64, parent: Option<i64>) -> Value {
        json!({
            "id": id, "parent": parent, "state": "complete", "created_ms": 5,
            "message": {"role": "user", "content": format!("text {id}")},
        })
    }

    fn document(nodes: Vec<Value>) -> Value {
        json!({
            "format": FORMAT, "version": 1, "title": "t", "created_ms": 1, "updated_ms": 2,
            "settings": {"seed": 3}, "leaf": null, "nodes": nodes,
        })
    }

    fn with(mut value: Value, key: &str, other: Value) -> Value {
        value[key] = other;
        value
    }

    fn without(mut value: Value, key: &str) -> Value {
        value.as_object_mut().unwrap().remove(key);
        value
    }

    #[test]
    fn hostile_files_give_one_error_and_change_nothing() {
        let good = || document(vec![node(1, None), node(2, Some(1))]);
        let mut store = Store::in_memory().unwrap();
        store.import(good().to_string().as_bytes()).unwrap();
        let n_changes = store.connection.total_changes();
        let deep = |n| "[".repeat(n) + &"]".repeat(n);
        let many = vec![json!(1); MAX_IMPORT_NODES + 1];
        for (json, problem) in [
            (String::new(), "no JSON: EOF"),
            ("{".into(), "no JSON: EOF"),
            ("7".into(), "neither an object nor a list"),
            ("[]".into(), "a list without messages"),
            ("[7]".into(), "message 0: invalid type: integer `7`"),
            (
                r#"[{"role": "user"}, {"role": "robot"}]"#.into(),
                "message 1: unknown variant `robot`",
            ),
            (r#"{"messages": {}}"#.into(), "key \"messages\" is no list"),
            (
                r#"{"text": "a"}"#.into(),
                "an object without key \"format\"",
            ),
            (deep(100_000), "no JSON: recursion limit exceeded"),
            (
                with(good(), "settings", json!(null))
                    .to_string()
                    .replace("null", &deep(100_000)),
                "no JSON: recursion limit exceeded",
            ),
            (
                with(good(), "format", json!("other")).to_string(),
                "format is \"other\", expected \"sparsight-conversation\"",
            ),
            (
                with(good(), "format", json!(null)).to_string(),
                "format is null",
            ),
            (
                with(good(), "version", json!(2)).to_string(),
                "version is 2, expected 1",
            ),
            (
                with(good(), "version", json!("1")).to_string(),
                "version is \"1\", expected 1",
            ),
            (
                with(good(), "version", json!(1.5)).to_string(),
                "version is 1.5, expected 1",
            ),
            (without(good(), "version").to_string(), "version is missing"),
            (
                without(good(), "title").to_string(),
                "missing field `title`",
            ),
            (
                with(good(), "title", json!(["a"])).to_string(),
                "invalid type",
            ),
            (
                without(good(), "nodes").to_string(),
                "missing field `nodes`",
            ),
            (
                with(good(), "nodes", json!(many)).to_string(),
                "100001 messages, expected at most 100000",
            ),
            (
                json!(many).to_string(),
                "100001 messages, expected at most 100000",
            ),
            (
                with(good(), "created_ms", json!(-1)).to_string(),
                "created_ms is -1",
            ),
            (
                with(good(), "updated_ms", json!(i64::MAX)).to_string(),
                "updated_ms is 9223372036854775807",
            ),
            (
                with(good(), "updated_ms", json!(u64::MAX)).to_string(),
                "invalid value: integer `18446744073709551615`",
            ),
            (
                with(good(), "updated_ms", json!(1e300)).to_string(),
                "invalid type: floating point",
            ),
            (
                with(good(), "leaf", json!(9)).to_string(),
                "leaf is 9, and there is no such node",
            ),
            (
                document(vec![node(1, Some(1))]).to_string(),
                "node 0: its parents go in a circle",
            ),
            (
                document(vec![
                    node(1, None),
                    node(2, Some(4)),
                    node(3, Some(2)),
                    node(4, Some(3)),
                ])
                .to_string(),
                "node 1: its parents go in a circle",
            ),
            (
                document(vec![node(1, None), node(2, Some(7))]).to_string(),
                "node 1: parent is 7, and there is no such node",
            ),
            (
                document(vec![node(1, None), node(1, None)]).to_string(),
                "node 1: id 1 stands twice",
            ),
            (
                document(vec![json!({"id": 1})]).to_string(),
                "node 0: missing field",
            ),
            (
                document(vec![with(node(1, None), "state", json!("asleep"))]).to_string(),
                "node 0: unknown variant `asleep`",
            ),
            (
                document(vec![with(node(1, None), "facts", json!({"ids": [-1]}))]).to_string(),
                "node 0: invalid value: integer `-1`",
            ),
            (
                document(vec![with(
                    node(1, None),
                    "message",
                    json!({"role": "user", "content": 1}),
                )])
                .to_string(),
                "node 0: content is neither",
            ),
            (
                document(vec![with(node(1, None), "created_ms", json!(i64::MIN))]).to_string(),
                "node 0: created_ms is -9223372036854775808",
            ),
            (
                good()
                    .to_string()
                    .replacen("\"title\"", "\"version\":1,\"title\"", 1)
                    + "x",
                "no JSON: trailing characters",
            ),
        ] {
            let error = store.import(json.as_bytes()).unwrap_err().to_string();
            let expected = format!("nothing was imported: {problem}");
            assert!(error.starts_with(&expected), "{error}\nexpected {expected}");
            assert!(error.len() < 300, "{error}");
        }
        let error = store.import(b"[\"\xff\"]").unwrap_err().to_string();
        assert!(error.contains("is not UTF-8 at byte 2"), "{error}");
        assert_eq!(store.connection.total_changes(), n_changes);
        assert_eq!(store.conversations().unwrap().len(), 1);
    }

    #[test]
    fn a_file_beyond_the_limit_is_not_read() {
        let error = parse(&vec![b' '; MAX_IMPORT_BYTES + 1]).unwrap_err();
        assert!(
            error.starts_with("268435457 bytes or more, expected at most 268435456"),
            "{error}"
        );
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file()
            .set_len(MAX_IMPORT_BYTES as u64 * 1000)
            .unwrap();
        let mut store = Store::in_memory().unwrap();
        let error = store.import_file(file.path()).unwrap_err().to_string();
        assert!(error.contains("expected at most"), "{error}");
        let error = store.import_file(Path::new("/no such file")).unwrap_err();
        assert!(error.to_string().starts_with("/no such file: "), "{error}");
    }

    #[test]
    fn message_lists_become_one_branch() {
        let mut store = Store::in_memory().unwrap();
        let list = json!([
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "# Why?"}]},
            {"role": "assistant", "content": null, "reasoning_content": "hm",
             "tool_calls": [{"id": "x", "function": {"name": "f", "arguments": "{\"a\":1}"}}]},
            {"role": "tool", "tool_call_id": "x", "content": "1"},
        ]);
        let named = json!({"model": "m", "title": "Named", "messages": list});
        let mut text = b"\xEF\xBB\xBF".to_vec();
        text.extend(list.to_string().bytes());
        for (json, title) in [(text, "Why?"), (named.to_string().into_bytes(), "Named")] {
            let id = store.import(&json).unwrap();
            assert_eq!(store.conversation(id).unwrap().title, title);
            let path = store.path(id).unwrap();
            let roles: Vec<_> = path.iter().map(|entry| entry.node.message.role).collect();
            assert_eq!(
                roles,
                [Role::System, Role::User, Role::Assistant, Role::Tool]
            );
            assert_eq!(
                path[2].node.message.tool_calls[0].arguments,
                json!({"a": 1})
            );
            assert_eq!(path[3].node.message.tool_call_id.as_deref(), Some("x"));
            assert!(path.iter().all(|entry| entry.n_siblings() == 1));
        }
        assert_eq!(store.search("brief", 10).unwrap().len(), 2);
    }

    #[test]
    fn nothing_of_a_request_is_lost_in_silence() {
        let mut store = Store::in_memory().unwrap();
        let request = |key: &str, value: Value| {
            json!({"messages": [{"role": "user", "content": "hi"}], "temperature": 0.5, "stream": true, key: value})
                .to_string()
        };
        let tools = json!([{"type": "function", "function": {"name": "f"}}]);
        let id = store
            .import(request("tools", tools.clone()).as_bytes())
            .unwrap();
        let path = store.path(id).unwrap();
        assert_eq!(json!(path[0].node.message.tools), tools);
        assert_eq!(path.len(), 2);
        let id = store
            .import(request("tools", json!(null)).as_bytes())
            .unwrap();
        assert_eq!(store.path(id).unwrap().len(), 1);
        for (key, value) in [
            ("system", json!("S.")),
            ("functions", json!([])),
            ("tools", json!("f")),
        ] {
            let error = store
                .import(request(key, value).as_bytes())
                .unwrap_err()
                .to_string();
            assert!(error.contains(&format!("\"{key}\"")), "{error}");
        }
        let utf16: Vec<u8> = "[]".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let error = store.import(&utf16).unwrap_err().to_string();
        assert!(error.contains("is UTF-16 text, expected UTF-8"), "{error}");
    }

    #[test]
    fn ids_and_order_of_nodes_may_be_any() {
        let mut store = Store::in_memory().unwrap();
        let nodes = vec![
            node(i64::MIN, Some(40)),
            node(40, Some(i64::MAX)),
            with(node(-3, Some(i64::MAX)), "used", json!(i64::MAX)),
            node(i64::MAX, None),
        ];
        let id = store
            .import(document(nodes.clone()).to_string().as_bytes())
            .unwrap();
        let texts = |store: &Store, id| -> Vec<String> {
            let path = store.path(id).unwrap();
            path.into_iter()
                .map(|entry| entry.node.message.content)
                .collect()
        };
        assert_eq!(
            texts(&store, id),
            [format!("text {}", i64::MAX), "text -3".into()]
        );

        // A leaf that is none leads on to one.
        let chosen = with(document(nodes), "leaf", json!(40));
        let id = store.import(chosen.to_string().as_bytes()).unwrap();
        assert_eq!(texts(&store, id)[2], format!("text {}", i64::MIN));
        let leaf = store.conversation(id).unwrap().leaf;
        store
            .append(
                id,
                leaf,
                &Message::new(Role::User, "on"),
                NodeState::Complete,
            )
            .unwrap();
        assert_eq!(texts(&store, id)[3], "on");
    }

    #[test]
    fn an_empty_conversation_is_one() {
        let mut store = Store::in_memory().unwrap();
        let id = store
            .import(document(vec![]).to_string().as_bytes())
            .unwrap();
        assert!(store.path(id).unwrap().is_empty());
        assert_eq!(store.conversation(id).unwrap().updated_ms, 2);
        let settings: Value = store.conversation_settings(id).unwrap();
        assert_eq!(settings, json!({"seed": 3}));
    }
}
