//! Messages, and their JSON as OpenAI-style requests have it.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::json::to_json;

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
    /// The result of a tool call.
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
/// of text parts; lists may be null; keys that have no field here are ignored. So is the id of a
/// tool result: results belong to the calls before them in order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said; the result if a tool speaks.
    #[serde(default, deserialize_with = "text_or_parts")]
    pub content: String,
    /// What the model thought before it spoke.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// The calls that the model made after it spoke.
    #[serde(
        default,
        deserialize_with = "null_or_list",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub tool_calls: Vec<ToolCall>,
    /// Tools that a system or developer message offers, each `{"type": "function", "function": …}`.
    #[serde(
        default,
        deserialize_with = "null_or_list",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub tools: Vec<Value>,
    /// JSON schema that a system or developer message asks replies to follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_format: Option<Value>,
}

impl Message {
    /// A message with nothing but content.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self {
            role,
            content: content.into(),
            reasoning_content: None,
            tool_calls: Vec::new(),
            tools: Vec::new(),
            response_format: None,
        }
    }
}

/// A call of a tool.
///
/// In JSON it is `{"type": "function", "function": {"name": …, "arguments": "…"}}`, the arguments
/// being JSON within a string; arguments that are JSON by themselves are understood, too.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolCall {
    /// The function.
    pub name: String,
    /// Its arguments: a JSON object, keys in the order in which they were written. Text that is no
    /// JSON is kept as a string, and refused by [`encode()`](crate::chat::encode()).
    pub arguments: Value,
}

#[derive(Serialize, Deserialize)]
struct OpenAiCall {
    #[serde(rename = "type", default = "function")]
    kind: String,
    function: OpenAiFunction,
}

#[derive(Serialize, Deserialize)]
struct OpenAiFunction {
    name: String,
    arguments: Value,
}

fn function() -> String {
    "function".into()
}

impl Serialize for ToolCall {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let arguments = match &self.arguments {
            Value::String(text) => text.clone(),
            arguments => to_json(arguments),
        };
        OpenAiCall {
            kind: function(),
            function: OpenAiFunction {
                name: self.name.clone(),
                arguments: arguments.into(),
            },
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
        let arguments = match call.function.arguments {
            Value::String(text) => serde_json::from_str(&text).unwrap_or(Value::String(text)),
            arguments => arguments,
        };
        Ok(Self {
            name: call.function.name,
            arguments,
        })
    }
}

fn null_or_list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn text_or_parts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(String::new()),
        Value::String(text) => Ok(text),
        Value::Array(parts) => {
            let text = |part: &Value| match (part["type"].as_str(), part["text"].as_str()) {
                (Some("text"), Some(text)) => Ok(text.to_owned()),
                _ => Err(serde::de::Error::custom(
                    "content has a part that is no text, expected {\"type\": \"text\", \"text\": …}",
                )),
            };
            parts.iter().map(text).collect()
        }
        _ => Err(serde::de::Error::custom(
            "content is neither a string nor a list of text parts",
        )),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panic")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn requests_are_read_and_written() {
        let request = json!({
            "role": "assistant",
            "content": null,
            "reasoning_content": "r",
            "tool_calls": [{
                "id": "call_0",
                "type": "function",
                "function": {"name": "f", "arguments": "{\"z\":1.0,\"a\":[\"é\",18446744073709551615]}"},
            }],
        });
        let message: Message = serde_json::from_value(request).unwrap();
        let expected = Message {
            reasoning_content: Some("r".into()),
            tool_calls: vec![ToolCall {
                name: "f".into(),
                arguments: json!({"z": 1.0, "a": ["é", u64::MAX]}),
            }],
            ..Message::new(Role::Assistant, "")
        };
        assert_eq!(message, expected);
        assert_eq!(
            serde_json::to_string(&message).unwrap(),
            r#"{"role":"assistant","content":"","reasoning_content":"r","tool_calls":[{"type":"function","function":{"name":"f","arguments":"{\"z\": 1.0, \"a\": [\"é\", 18446744073709551615]}"}}]}"#
        );
        let again = serde_json::from_value(serde_json::to_value(&message).unwrap()).unwrap();
        assert_eq!(message, again);
    }

    #[test]
    fn loose_forms_are_understood() {
        for (request, expected) in [
            (json!({"role": "user"}), Message::new(Role::User, "")),
            (
                json!({
                    "role": "user",
                    "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
                    "name": "somebody",
                    "reasoning_content": null,
                    "tool_calls": null,
                    "tools": null,
                    "response_format": null,
                }),
                Message::new(Role::User, "ab"),
            ),
            (
                json!({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]}),
                Message {
                    tool_calls: vec![ToolCall {
                        name: "f".into(),
                        arguments: json!({"a": 1}),
                    }],
                    ..Message::new(Role::Assistant, "")
                },
            ),
            (
                json!({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{no"}}]}),
                Message {
                    tool_calls: vec![ToolCall {
                        name: "f".into(),
                        arguments: json!("{no"),
                    }],
                    ..Message::new(Role::Assistant, "")
                },
            ),
        ] {
            let message: Message = serde_json::from_value(request).unwrap();
            assert_eq!(message, expected);
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for (request, refusal) in [
            (
                json!({"role": "robot"}),
                "unknown variant `robot`, expected one of",
            ),
            (json!({"content": "a"}), "missing field `role`"),
            (
                json!({"role": "user", "content": 5}),
                "content is neither a string nor a list",
            ),
            (
                json!({"role": "user", "content": [{"type": "image_url"}]}),
                "content has a part that is no text",
            ),
            (
                json!({"role": "assistant", "tool_calls": [{"type": "custom", "function": {"name": "f", "arguments": ""}}]}),
                "tool call has type \"custom\", expected \"function\"",
            ),
            (
                json!({"role": "assistant", "tool_calls": [{}]}),
                "missing field `function`",
            ),
        ] {
            let error = serde_json::from_value::<Message>(request)
                .unwrap_err()
                .to_string();
            assert!(error.starts_with(refusal), "{error}");
        }
    }

    #[test]
    fn a_role_is_called_the_same_in_json() {
        for role in [
            Role::System,
            Role::Developer,
            Role::User,
            Role::Assistant,
            Role::Tool,
        ] {
            assert_eq!(serde_json::to_value(role).unwrap(), role.name());
        }
    }
}
