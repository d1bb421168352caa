//! Messages to prompt text, character for character as the official encoder writes it.
//!
//! It refuses what the official one refuses, and what would lose something in silence: tools on a
//! message that cannot carry them, or a group of tool results that is never closed.

use serde_json::Value;

use super::json::to_json;
use super::message::{Message, Role, ToolCall};
use super::{ASSISTANT, BOS, DSML, END_THINK, EOS, THINK, USER};
use crate::{Error, Result};

/// How a conversation is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Whether the model is to think before it replies.
    pub thinking: bool,
    /// In thinking mode, whether *developer* messages before the last question are left out, as the
    /// official encoder means to do. Old reasoning is left out in either case: it is written only
    /// after the last question.
    pub drop_thinking: bool,
    /// Whether a conversation without context begins with [`BOS`].
    pub add_bos: bool,
}

impl Default for EncodeOptions {
    fn default() -> Self {
        Self {
            thinking: false,
            drop_thinking: true,
            add_bos: true,
        }
    }
}

/// The text of a conversation, up to where the model is to go on.
///
/// # Errors
/// [`Error::Message`] for a conversation that the encoding does not allow.
pub fn encode(messages: &[Message], options: &EncodeOptions) -> Result<String> {
    encode_after(&[], messages, options)
}

/// The text of `messages` that follow a `context` which is encoded already, together with which they
/// are a conversation. There is no BOS unless the context is empty. A new question does not take
/// back the reasoning that the context was encoded with.
///
/// # Errors
/// [`Error::Message`] for a conversation that the encoding does not allow; positions are counted
/// from the beginning of the context.
pub fn encode_after(
    context: &[Message],
    messages: &[Message],
    options: &EncodeOptions,
) -> Result<String> {
    let all: Vec<&Message> = context.iter().chain(messages).collect();
    let is_question = |message: &&Message| matches!(message.role, Role::User | Role::Developer);
    let conversation = Conversation {
        last_question: all.iter().rposition(is_question),
        all,
        options,
    };
    let mut text = String::new();
    if options.add_bos && context.is_empty() {
        text += BOS;
    }
    for index in context.len()..conversation.all.len() {
        conversation.write(index, &mut text)?;
    }
    Ok(text)
}

struct Conversation<'a> {
    all: Vec<&'a Message>,
    last_question: Option<usize>,
    options: &'a EncodeOptions,
}

impl Conversation<'_> {
    fn write(&self, index: usize, text: &mut String) -> Result<()> {
        self.check(index)?;
        let message = self.all[index];
        let is_last_question = self.last_question == Some(index);
        match message.role {
            Role::System => {
                *text += &message.content;
                *text += &offers(index, message)?;
            }
            Role::User => self.write_question(is_last_question, &message.content, text),
            Role::Developer => {
                let is_dropped = self.options.thinking && self.options.drop_thinking;
                if is_last_question || !is_dropped {
                    let offers = offers(index, message)?;
                    let content = &message.content;
                    let body = format!("{offers}\n\n# The user's message is: {content}");
                    self.write_question(is_last_question, &body, text);
                }
            }
            Role::Assistant => self.write_reply(index, text)?,
            Role::Tool => self.write_result(index, text)?,
        }
        Ok(())
    }

    fn write_question(&self, is_last: bool, content: &str, text: &mut String) {
        let think = if is_last && self.options.thinking {
            THINK
        } else {
            END_THINK
        };
        *text += &format!("{USER}{content}{ASSISTANT}{think}");
    }

    fn write_reply(&self, index: usize, text: &mut String) -> Result<()> {
        let message = self.all[index];
        if self.options.thinking && self.last_question.is_none_or(|last| index > last) {
            let reasoning = message.reasoning_content.as_deref().unwrap_or_default();
            if reasoning.is_empty() && message.tool_calls.is_empty() {
                return Err(refused(
                    index,
                    "the reply has neither reasoning nor tool calls, \
                     expected one of them after the last question in thinking mode",
                ));
            }
            *text += reasoning;
            *text += END_THINK;
        }
        *text += &message.content;
        if !message.tool_calls.is_empty() {
            let calls = message.tool_calls.iter().map(|call| tool_call(index, call));
            let calls = calls.collect::<Result<Vec<_>>>()?.join("\n");
            *text += &format!("\n\n<{DSML}function_calls>\n{calls}\n</{DSML}function_calls>");
        }
        *text += EOS;
        Ok(())
    }

    fn write_result(&self, index: usize, text: &mut String) -> Result<()> {
        let (n_calls, n_results) = self.results_up_to(index + 1);
        if n_results > n_calls {
            return Err(refused(
                index,
                format!(
                    "this is tool result {n_results}, expected at most {n_calls}: \
                         as many as the reply before has tool calls"
                ),
            ));
        }
        if n_results == 1 {
            *text += "\n\n<function_results>";
        }
        *text += &format!("\n<result>{}</result>", self.all[index].content);
        if n_results == n_calls {
            let is_current = self.last_question.is_none_or(|last| index >= last);
            let think = if self.options.thinking && is_current {
                THINK
            } else {
                END_THINK
            };
            *text += &format!("\n</function_results>\n\n{think}");
        }
        Ok(())
    }

    /// How many tool calls the reply has that the results right before `end` belong to, and how many
    /// results those are.
    fn results_up_to(&self, end: usize) -> (usize, usize) {
        let is_result = |message: &&&Message| message.role == Role::Tool;
        let n_results = self.all[..end].iter().rev().take_while(is_result).count();
        let before = self.all[..end - n_results].last();
        let reply = before.filter(|message| message.role == Role::Assistant);
        (reply.map_or(0, |reply| reply.tool_calls.len()), n_results)
    }

    /// Refuses what would be lost in silence, wherever it stands.
    fn check(&self, index: usize) -> Result<()> {
        let message = self.all[index];
        let role = message.role.name();
        let offers_something = !message.tools.is_empty() || asked_format(message).is_some();
        if offers_something && !matches!(message.role, Role::System | Role::Developer) {
            return Err(refused(
                index,
                format!(
                    "a {role} message has tools or a response format, \
                         expected them on a system or developer message"
                ),
            ));
        }
        if !message.tool_calls.is_empty() && message.role != Role::Assistant {
            return Err(refused(
                index,
                format!("a {role} message has tool calls, expected them on assistant messages"),
            ));
        }
        if message.role == Role::Developer && message.content.is_empty() {
            return Err(refused(
                index,
                "a developer message has no content, expected some",
            ));
        }
        if message.role != Role::Tool {
            let (n_calls, n_results) = self.results_up_to(index);
            if (1..n_calls).contains(&n_results) {
                return Err(refused(
                    index,
                    format!(
                        "a {role} message after {n_results} of {n_calls} tool results, \
                             expected the other results first"
                    ),
                ));
            }
        }
        Ok(())
    }
}

fn refused(index: usize, problem: impl Into<String>) -> Error {
    Error::Message {
        index,
        problem: problem.into(),
    }
}

/// Tools and response format as text, empty if there are none.
fn offers(index: usize, message: &Message) -> Result<String> {
    let mut text = String::new();
    if !message.tools.is_empty() {
        let function = |tool: &Value| match tool.get("function") {
            Some(function) => Ok(to_json(function)),
            None => Err(refused(
                index,
                "a tool has no key \"function\", \
                 expected {\"type\": \"function\", \"function\": …}",
            )),
        };
        let functions = message
            .tools
            .iter()
            .map(function)
            .collect::<Result<Vec<_>>>()?;
        text += &format!("\n\n{}", tools_text(&functions.join("\n")));
    }
    if let Some(format) = asked_format(message) {
        let format = to_json(format);
        text += &format!(
            "\n\n## Response Format:\n\n\
             You MUST strictly adhere to the following schema to reply:\n{format}"
        );
    }
    Ok(text)
}

/// The response format, unless it is one that Python takes for none.
fn asked_format(message: &Message) -> Option<&Value> {
    message
        .response_format
        .as_ref()
        .filter(|format| match format {
            Value::Null => false,
            Value::Bool(is_true) => *is_true,
            Value::Number(number) => number.as_f64() != Some(0.0),
            Value::String(text) => !text.is_empty(),
            Value::Array(list) => !list.is_empty(),
            Value::Object(map) => !map.is_empty(),
        })
}

fn tool_call(index: usize, call: &ToolCall) -> Result<String> {
    let Some(arguments) = call.arguments.as_object() else {
        let name = &call.name;
        let found = to_json(&call.arguments);
        return Err(refused(
            index,
            format!("arguments of the call of {name:?} are {found}, expected a JSON object"),
        ));
    };
    let parameter = |(key, value): (&String, &Value)| {
        let (is_string, value) = match value {
            Value::String(text) => (true, text.clone()),
            value => (false, to_json(value)),
        };
        format!("<{DSML}parameter name=\"{key}\" string=\"{is_string}\">{value}</{DSML}parameter>")
    };
    let parameters = arguments
        .iter()
        .map(parameter)
        .collect::<Vec<_>>()
        .join("\n");
    Ok(format!(
        "<{DSML}invoke name=\"{}\">\n{parameters}\n</{DSML}invoke>",
        call.name
    ))
}

fn tools_text(functions: &str) -> String {
    format!(
        r#"## Tools

You have access to a set of tools you can use to answer the user's question.
You can invoke functions by writing a "<{DSML}function_calls>" block like the following as part of your reply to the user:
<{DSML}function_calls>
<{DSML}invoke name="$FUNCTION_NAME">
<{DSML}parameter name="$PARAMETER_NAME" string="true|false">$PARAMETER_VALUE</{DSML}parameter>
...
</{DSML}invoke>
<{DSML}invoke name="$FUNCTION_NAME2">
...
</{DSML}invoke>
</{DSML}function_calls>

String and scalar parameters should be specified as is without any escaping or quotes, while lists and objects should use JSON format. The "string" attribute should be set to "true" for string type parameters and "false" for other types (numbers, booleans, arrays, objects).

If the thinking_mode is enabled, then after function results you should strongly consider outputting a thinking block. Here is an example:

<{DSML}function_calls>
...
</{DSML}function_calls>

<function_results>
...
</function_results>

{THINK}...thinking about results{END_THINK}

Here are the functions available in JSONSchema format:
<functions>
{functions}
</functions>
"#
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panic")]
mod tests {
    use serde_json::json;

    use super::*;

    const THINKING: EncodeOptions = EncodeOptions {
        thinking: true,
        drop_thinking: true,
        add_bos: true,
    };

    fn messages(json: Value) -> Vec<Message> {
        serde_json::from_value(json).unwrap()
    }

    fn encoded(json: Value, options: EncodeOptions) -> String {
        encode(&messages(json), &options).unwrap()
    }

    #[test]
    fn every_refusal_names_the_message_and_what_was_expected() {
        let call = json!({"function": {"name": "f", "arguments": "{}"}});
        for (conversation, refusal) in [
            (
                json!([{"role": "developer"}]),
                "message 0: a developer message has no content, expected some",
            ),
            (
                json!([{"role": "tool", "content": "x"}]),
                "message 0: this is tool result 1, expected at most 0: as many as the reply before has tool calls",
            ),
            (
                json!([{"role": "user", "content": "?"}, {"role": "tool", "content": "x"}]),
                "message 1: this is tool result 1, expected at most 0: as many as the reply before has tool calls",
            ),
            (
                json!([
                    {"role": "user", "content": "?"},
                    {"role": "assistant", "tool_calls": [call]},
                    {"role": "tool", "content": "x"},
                    {"role": "tool", "content": "y"},
                ]),
                "message 3: this is tool result 2, expected at most 1: as many as the reply before has tool calls",
            ),
            (
                json!([
                    {"role": "assistant", "tool_calls": [call, call], "reasoning_content": "r"},
                    {"role": "tool", "content": "x"},
                    {"role": "user", "content": "?"},
                ]),
                "message 2: a user message after 1 of 2 tool results, expected the other results first",
            ),
            (
                json!([{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]),
                "message 1: the reply has neither reasoning nor tool calls, expected one of them after the last question in thinking mode",
            ),
            (
                json!([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]}]),
                "message 0: arguments of the call of \"f\" are [1], expected a JSON object",
            ),
            (
                json!([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]),
                "message 0: arguments of the call of \"f\" are \"{\", expected a JSON object",
            ),
            (
                json!([{"role": "user", "tools": [{"type": "function", "function": {}}]}]),
                "message 0: a user message has tools or a response format, expected them on a system or developer message",
            ),
            (
                json!([{"role": "user", "content": "?", "tool_calls": [call]}]),
                "message 0: a user message has tool calls, expected them on assistant messages",
            ),
            (
                json!([{"role": "system", "tools": [{"name": "f"}]}]),
                "message 0: a tool has no key \"function\", expected {\"type\": \"function\", \"function\": …}",
            ),
        ] {
            let error = encode(&messages(conversation), &THINKING).unwrap_err();
            assert_eq!(error.to_string(), refusal);
        }
    }

    #[test]
    fn a_developer_speaks_as_a_user() {
        let conversation = json!([
            {"role": "developer", "content": "old", "response_format": {"type": "object"}},
            {"role": "assistant", "content": "a", "reasoning_content": "r"},
            {"role": "developer", "content": "new"},
        ]);
        let old = "<｜User｜>\n\n## Response Format:\n\nYou MUST strictly adhere to the following \
                   schema to reply:\n{\"type\": \"object\"}\n\n# The user's message is: old\
                   <｜Assistant｜></think>";
        let rest =
            "a<｜end▁of▁sentence｜><｜User｜>\n\n# The user's message is: new<｜Assistant｜>";
        let no_bos = EncodeOptions {
            add_bos: false,
            ..EncodeOptions::default()
        };
        assert_eq!(
            encoded(conversation.clone(), no_bos),
            format!("{old}{rest}</think>")
        );
        // Thinking leaves out an old developer message, and nothing else with it.
        assert_eq!(
            encoded(conversation.clone(), THINKING),
            format!("{BOS}{rest}<think>")
        );
        let kept = EncodeOptions {
            drop_thinking: false,
            ..THINKING
        };
        assert_eq!(
            encoded(conversation, kept),
            format!("{BOS}{old}{rest}<think>")
        );
    }

    #[test]
    fn what_python_takes_for_nothing_is_no_response_format() {
        for nothing in [
            json!(null),
            json!({}),
            json!(""),
            json!(0.0),
            json!(false),
            json!([]),
        ] {
            let system = json!([{"role": "system", "response_format": nothing}]);
            assert_eq!(encoded(system, THINKING), BOS);
        }
        assert_eq!(encode(&[], &THINKING).unwrap(), BOS);
    }

    #[test]
    fn a_call_without_results_may_be_left_behind() {
        let conversation = json!([
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{\"a\":1.0}"}}]},
            {"role": "user", "content": "?"},
        ]);
        let text = encoded(conversation, EncodeOptions::default());
        assert!(
            text.contains("string=\"false\">1.0</｜DSML｜parameter>"),
            "{text}"
        );
        assert!(
            text.ends_with("<｜end▁of▁sentence｜><｜User｜>?<｜Assistant｜></think>"),
            "{text}"
        );
    }
}
