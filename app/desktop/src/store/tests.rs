//! The store from outside: what opening does, what survives, what is found.
#![allow(clippy::unwrap_used, reason = "a test may fail by panic")]

mod crash;
mod damage;
mod export;
mod opening;
mod search;
mod speed;
mod tree;
mod two;

use engine::chat::{Message, Role, ToolCall};
use serde_json::json;

use super::*;

fn user(text: &str) -> Message {
    Message::new(Role::User, text)
}

fn assistant(text: &str) -> Message {
    Message::new(Role::Assistant, text)
}

/// Facts with everything set.
fn facts() -> AnswerFacts {
    AnswerFacts {
        model: "tiny".into(),
        device: "cpu".into(),
        thinking: true,
        n_prompt: 12,
        n_generated: 101,
        first_token_ms: Some(0.1 + 0.2),
        prefill_ms: Some(900.0),
        decode_ms: Some(2000.0),
        thinking_ms: Some(1234.0),
        stop: "end of text".into(),
        settings: json!({"temperature": 0.1, "z": null, "a": [u64::MAX]}),
        prompt_ids: vec![0, 129_279, u32::MAX].into(),
        ids: vec![7; 1000],
    }
}

/// A conversation that has everything: two branches, the older one chosen, reasoning, calls, facts, settings.
fn rich(store: &mut Store) -> ConversationId {
    let id = store
        .create_conversation("Größe & <b>\nzwei", None)
        .unwrap();
    store
        .set_conversation_settings(id, &json!({"system": "be \"brief\"", "seed": u64::MAX}))
        .unwrap();
    let question = store
        .append(id, None, &user("question"), NodeState::Complete)
        .unwrap();
    let mut answer = assistant("text\n```rust\nlet a = \"<&>\";");
    answer.reasoning_content = Some("first\n\nsecond".into());
    answer.tool_calls = vec![ToolCall {
        id: None,
        name: "weather".into(),
        arguments: json!({"z": 1.0, "a": ["é", u64::MAX]}),
    }];
    let first = store
        .append(id, Some(question), &answer, NodeState::Streaming)
        .unwrap();
    store
        .update(first, &answer, NodeState::Stopped, Some(&facts()))
        .unwrap();
    let result = Message::new(Role::Tool, "```\n20 °C");
    store
        .append(id, Some(first), &result, NodeState::Complete)
        .unwrap();
    let second = store
        .append(
            id,
            Some(question),
            &assistant("other branch"),
            NodeState::Failed,
        )
        .unwrap();
    store
        .append(id, Some(second), &user("thanks"), NodeState::Complete)
        .unwrap();
    store
        .append(id, None, &user("edited question"), NodeState::Complete)
        .unwrap();
    store.select(first).unwrap();
    id
}

/// What is on the chosen path.
fn contents(store: &Store, id: ConversationId) -> Vec<String> {
    let path = store.path(id).unwrap();
    path.into_iter()
        .map(|entry| entry.node.message.content)
        .collect()
}
