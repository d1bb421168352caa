//! Messages, and their JSON as OpenAI-style requests have it.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use super::json::{is_nothing, to_json};

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Sets the scene.
    System,
    /// Speaks for the user with tools and a format of its own, as the search agents do.
    Developer,
    /// Asks.
    User,
    /// The model.
    Assistant,
    /// The result of a tool call; `function` in older requests.
    #[serde(alias = "function")]
    Tool,
}

impl Role {
    /// The name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Developer => "developer",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

/// One message of a conversation.
///
/// In JSON it is as in an OpenAI-style request: `content` may be null, missing, a string, or a list
/// of text parts; lists may be null; `reasoning` says the same as `reasoning_content`; `function_call`
/// is one call, and the role `function` that of its result. Keys of [`METADATA`] are passed over, and so
/// is any key that holds nothing; another key is refused by name, since what it says would be lost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Loose")]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said; the result if a tool speaks.
    pub content: String,
    /// What the model thought before it spoke.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// The calls that the model made after it spoke.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// Of a tool's result: [`ToolCall::id`] of its call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// Of a tool's result: the function. Of a user: which of several, for which the encoding has no place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Tools that a system or developer message offers, each `{"type": "function", "function": …}`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Value>,
    /// JSON schema that a system or developer message asks replies to follow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_format: Option<Value>,
}

/// Keys that say something about a message, a part of one or a call, and nothing that the model reads.
pub const METADATA: &[&str] = &[
    "annotations",
    "cache_control",
    "created",
    "created_at",
    "finish_reason",
    "id",
    "index",
    "logprobs",
    "metadata",
    "model",
    "status",
    "timestamp",
    "type",
    "usage",
    "weight",
];

/// A message as the world writes it.
#[derive(Deserialize)]
#[serde(expecting = "a message, an object with a role")]
struct Loose {
    role: Role,
    #[serde(default, deserialize_with = "text_or_parts")]
    content: String,
    reasoning_content: Option<String>,
    reasoning: Option<String>,
    #[serde(default, deserialize_with = "null_or_list")]
    tool_calls: Vec<ToolCall>,
    function_call: Option<Function>,
    tool_call_id: Option<String>,
    name: Option<String>,
    #[serde(default, deserialize_with = "null_or_list")]
    tools: Vec<Value>,
    response_format: Option<Value>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

impl TryFrom<Loose> for Message {
    type Error = String;

    fn try_from(loose: Loose) -> Result<Self, String> {
        check_others(&loose.others, "a message")?;
        let said = |text: &String| !text.is_empty();
        let reasoning_content = match (loose.reasoning_content, loose.reasoning.filter(said)) {
            (Some(one), Some(other)) if said(&one) && one != other => {
                return Err("reasoning_content and reasoning differ, expected one of them".into());
            }
            (one, other) => other.or(one),
        };
        let mut tool_calls = loose.tool_calls;
        if let Some(call) = loose.function_call {
            if !tool_calls.is_empty() {
                return Err(
                    "a message has tool_calls and function_call, expected one of them".into(),
                );
            }
            tool_calls.push(ToolCall::of(None, call)?);
        }
        Ok(Self {
            role: loose.role,
            content: loose.content,
            reasoning_content,
            tool_calls,
            tool_call_id: loose.tool_call_id.filter(said),
            name: loose.name.filter(said),
            tools: loose.tools,
            response_format: loose.response_format,
        })
    }
}

/// Refuses a key that is not known and says something.
fn check_others(others: &Map<String, Value>, what: &str) -> Result<(), String> {
    let says_something =
        |(key, value): &(&String, &Value)| !METADATA.contains(&key.as_str()) && !is_nothing(value);
    match others.iter().find(says_something) {
        Some((key, _)) => Err(format!(
            "{what} has the key {key:?}, which has no place in the encoding: \
             take it out, or put what it says into the content"
        )),
        None => Ok(()),
    }
}

impl Message {
    /// A message with nothing but content.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self {
            role,
            content: content.into(),
            reasoning_content: None,
            tool_calls: Vec::new(),
            tool_call_id: None,
            name: None,
            tools: Vec::new(),
            response_format: None,
        }
    }
}

/// The messages of an OpenAI-style request, in which the tools stand beside the messages: they become
/// those of the system message, which is where the encoding has them.
///
/// # Errors
/// What is no message, under its place in the list; tools that are no list.
pub fn from_request(messages: Vec<Value>, tools: Value) -> Result<Vec<Message>, String> {
    let message = |(index, value)| {
        serde_json::from_value(value).map_err(|error| format!("message {index}: {error}"))
    };
    let messages = messages.into_iter().enumerate().map(message);
    let mut messages = messages.collect::<Result<Vec<Message>, String>>()?;
    let tools = match tools {
        Value::Null => return Ok(messages),
        Value::Array(tools) => tools,
        _ => return Err("\"tools\" is not a list".into()),
    };
    if !tools.is_empty() {
        if !matches!(messages.first(), Some(first) if first.role == Role::System) {
            messages.insert(0, Message::new(Role::System, ""));
        }
        messages[0].tools.extend(tools);
    }
    Ok(messages)
}

/// A call of a tool.
///
/// In JSON it is `{"id": …, "type": "function", "function": {"name": …, "arguments": "…"}}`, the arguments
/// being JSON within a string. Arguments that are JSON by themselves are understood, too, and none (a
/// blank string, `null`, a missing key) are `{}`.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolCall {
    /// What its result names it by; `None` where results come in the order of the calls.
    pub id: Option<String>,
    /// The function.
    pub name: String,
    /// Its arguments: a JSON object, keys in the order in which they were written. Text that is no
    /// JSON is kept as a string, and refused by [`encode()`](crate::chat::encode()).
    pub arguments: Value,
}

#[derive(Serialize, Deserialize)]
#[serde(expecting = "a tool call, an object with a function")]
struct OpenAiCall {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(rename = "type", default = "function")]
    kind: String,
    function: Function,
    #[serde(flatten)]
    others: Map<String, Value>,
}

#[derive(Serialize, Deserialize)]
#[serde(expecting = "a function, an object with name and arguments")]
struct Function {
    name: String,
    #[serde(default)]
    arguments: Value,
    #[serde(flatten)]
    others: Map<String, Value>,
}

fn function() -> String {
    "function".into()
}

impl ToolCall {
    fn of(id: Option<String>, function: Function) -> Result<Self, String> {
        check_others(&function.others, "a call's function")?;
        let arguments = match function.arguments {
            Value::String(text) if text.trim().is_empty() => Value::Null,
            Value::String(text) => serde_json::from_str(&text).unwrap_or(Value::String(text)),
            arguments => arguments,
        };
        Ok(Self {
            id: id.filter(|id| !id.is_empty()),
            name: function.name,
            arguments: match arguments {
                Value::Null => Value::Object(Map::new()),
                arguments => arguments,
            },
        })
    }
}

impl Serialize for ToolCall {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let arguments = match &self.arguments {
            Value::String(text) => text.clone(),
            arguments => to_json(arguments),
        };
        OpenAiCall {
            id: self.id.clone(),
            kind: function(),
            function: Function {
                name: self.name.clone(),
                arguments: arguments.into(),
                others: Map::new(),
            },
            others: Map::new(),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ToolCall {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let call = OpenAiCall::deserialize(deserializer)?;
        if call.kind != "function" {
            return Err(serde::de::Error::custom(format!(
                "tool call has type {:?}, expected \"function\"",
                call.kind
            )));
        }
        check_others(&call.others, "a tool call")
            .and_then(|()| Self::of(call.id, call.function))
            .map_err(serde::de::Error::custom)
    }
}

fn null_or_list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn text_or_parts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = match Value::deserialize(deserializer)? {
        Value::Null => Ok(String::new()),
        Value::String(text) => Ok(text),
        Value::Array(parts) => parts.iter().map(part_text).collect(),
        _ => Err("content is neither a string nor a list of text parts".into()),
    };
    text.map_err(serde::de::Error::custom)
}

fn part_text(part: &Value) -> Result<String, String> {
    let expected = "expected {\"type\": \"text\", \"text\": …}";
    match (part["type"].as_str(), part["text"].as_str(), part) {
        (Some("text"), Some(text), Value::Object(part)) => {
            let mut others = part.clone();
            others.remove("text");
            check_others(&others, "a part of the content")?;
            Ok(text.into())
        }
        (Some("text") | None, ..) => Err(format!("content has a part that is no text, {expected}")),
        (Some(kind), ..) => Err(format!("content has a part of type {kind:?}, {expected}")),
    }
}
