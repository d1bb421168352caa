//! Messages to prompt text, character for character as the official encoder writes it, with what was said
//! kept apart from the template: a mark in a message is no mark of the format.
//!
//! It refuses what the official one refuses, and what would lose something in silence: tools on a
//! message that cannot carry them, a group of tool results that is never closed, or a result of no call.

use serde_json::Value;

use super::json::{is_nothing, to_json};
use super::message::{Message, Role, ToolCall};
use super::{ASSISTANT, BOS, DSML, END_THINK, EOS, THINK, USER};
use crate::tokenizer::Piece;
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

/// The text of a conversation, up to where the model is to go on: what was said, in pieces apart from the
/// template around it.
///
/// # Errors
/// [`Error::Message`] for a conversation that the encoding does not allow.
pub fn encode(messages: &[Message], options: &EncodeOptions) -> Result<Vec<Piece>> {
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
) -> Result<Vec<Piece>> {
    let all = in_order(context, messages)?;
    let is_question = |message: &&Message| matches!(message.role, Role::User | Role::Developer);
    let conversation = Conversation {
        last_question: all.iter().rposition(is_question),
        all,
        options,
    };
    let mut text = Text::default();
    if options.add_bos && context.is_empty() {
        text.form(BOS);
    }
    for index in context.len()..conversation.all.len() {
        conversation.write(index, &mut text)?;
    }
    conversation.check_results(conversation.all.len(), "the conversation ends")?;
    Ok(text.0)
}

/// A text that is being written, in pieces.
#[derive(Default)]
struct Text(Vec<Piece>);

impl Text {
    /// Adds words of the template, no mark of which is cut.
    fn form(&mut self, text: impl Into<String>) {
        self.0.push(Piece::Template(text.into()));
    }

    /// Adds what somebody said.
    fn said(&mut self, text: impl Into<String>) {
        self.0.push(Piece::Content(text.into()));
    }
}

/// All messages, tool results in the order of the calls that they name.
fn in_order<'a>(context: &'a [Message], messages: &'a [Message]) -> Result<Vec<&'a Message>> {
    let mut all: Vec<&Message> = context.iter().chain(messages).collect();
    let mut end = 0;
    while end < all.len() {
        let start = end + 1;
        let is_result = |message: &&&Message| message.role == Role::Tool;
        end = start + all[start..].iter().take_while(is_result).count();
        if all[start - 1].role == Role::Tool {
            // The first of all: it is refused when it is written.
            continue;
        }
        let calls = &all[start - 1].tool_calls;
        check_ids(start - 1, calls)?;
        let places = places(calls, &all[start..end], start)?;
        let mut order: Vec<usize> = (start..end).collect();
        order.sort_by_key(|&at| places[at - start]);
        if (start + 1..end).contains(&context.len()) && !order.is_sorted() {
            let problem = "tool results of one reply stand in context and messages in another order \
                           than its calls, expected that of the calls";
            return Err(refused(start, problem));
        }
        let is_whole = order.len() == calls.len();
        for (&at, call) in order.iter().zip(calls).filter(|_| is_whole) {
            if let Some(name) = all[at].name.as_deref().filter(|name| *name != call.name) {
                let problem = format!("the result is of {name:?}, expected one of {:?}", call.name);
                return Err(refused(at, problem));
            }
        }
        let sorted: Vec<&Message> = order.into_iter().map(|at| all[at]).collect();
        all[start..end].copy_from_slice(&sorted);
    }
    Ok(all)
}

/// Refuses two calls of one id.
fn check_ids(index: usize, calls: &[ToolCall]) -> Result<()> {
    let is_double = |(n, call): &(usize, &ToolCall)| {
        call.id.is_some() && calls[..*n].iter().any(|other| other.id == call.id)
    };
    match calls
        .iter()
        .enumerate()
        .find(is_double)
        .and_then(|(_, call)| call.id.as_deref())
    {
        Some(id) => Err(refused(
            index,
            format!("two tool calls have the id {id:?}, expected one"),
        )),
        None => Ok(()),
    }
}

/// Which call each result is of; all the first, where they do not say. `start` is the first result's index.
fn places(calls: &[ToolCall], results: &[&Message], start: usize) -> Result<Vec<usize>> {
    let mut places = vec![0; results.len()];
    if results.iter().all(|result| result.tool_call_id.is_none()) {
        return Ok(places);
    }
    for (n, result) in results.iter().enumerate() {
        let Some(id) = result.tool_call_id.as_deref() else {
            let problem = "the result has no tool_call_id, expected one, as other results have";
            return Err(refused(start + n, problem));
        };
        let known = calls.iter().map(|call| call.id.as_deref());
        let Some(place) = known.clone().position(|known| known == Some(id)) else {
            let known: Vec<_> = known.flatten().map(|known| format!("{known:?}")).collect();
            let known = if known.is_empty() {
                "no ids".into()
            } else {
                known.join(", ")
            };
            return Err(refused(
                start + n,
                format!("tool_call_id is {id:?}, and the calls before have {known}"),
            ));
        };
        if results[..n]
            .iter()
            .any(|other| other.tool_call_id.as_deref() == Some(id))
        {
            let problem = format!("a second result of the tool call {id:?}, expected one");
            return Err(refused(start + n, problem));
        }
        places[n] = place;
    }
    Ok(places)
}

struct Conversation<'a> {
    all: Vec<&'a Message>,
    last_question: Option<usize>,
    options: &'a EncodeOptions,
}

impl Conversation<'_> {
    fn write(&self, index: usize, text: &mut Text) -> Result<()> {
        self.check(index)?;
        let message = self.all[index];
        let is_last_question = self.last_question == Some(index);
        match message.role {
            Role::System => {
                text.said(&message.content);
                offer(index, message, text)?;
            }
            Role::User => {
                text.form(USER);
                self.end_question(is_last_question, &message.content, text);
            }
            Role::Developer => {
                let is_dropped = self.options.thinking && self.options.drop_thinking;
                if is_last_question || !is_dropped {
                    text.form(USER);
                    offer(index, message, text)?;
                    text.form("\n\n# The user's message is: ");
                    self.end_question(is_last_question, &message.content, text);
                }
            }
            Role::Assistant => self.write_reply(index, text)?,
            Role::Tool => self.write_result(index, text)?,
        }
        Ok(())
    }

    fn end_question(&self, is_last: bool, content: &str, text: &mut Text) {
        let think = if is_last && self.options.thinking {
            THINK
        } else {
            END_THINK
        };
        text.said(content);
        text.form(format!("{ASSISTANT}{think}"));
    }

    fn write_reply(&self, index: usize, text: &mut Text) -> Result<()> {
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
            text.said(reasoning);
            text.form(END_THINK);
        }
        text.said(&message.content);
        if !message.tool_calls.is_empty() {
            text.form(format!("\n\n<{DSML}function_calls>\n"));
            for call in &message.tool_calls {
                write_call(index, call, text)?;
            }
            text.form(format!("</{DSML}function_calls>"));
        }
        text.form(EOS);
        Ok(())
    }

    fn write_result(&self, index: usize, text: &mut Text) -> Result<()> {
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
            text.form("\n\n<function_results>");
        }
        text.form("\n<result>");
        text.said(&self.all[index].content);
        text.form("</result>");
        if n_results == n_calls {
            let is_current = self.last_question.is_none_or(|last| index >= last);
            let think = if self.options.thinking && is_current {
                THINK
            } else {
                END_THINK
            };
            text.form(format!("\n</function_results>\n\n{think}"));
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

    /// Refuses `what` at `end` where some results of the reply before are there and some are not.
    fn check_results(&self, end: usize, what: &str) -> Result<()> {
        let (n_calls, n_results) = self.results_up_to(end);
        if (1..n_calls).contains(&n_results) {
            return Err(refused(
                end,
                format!(
                    "{what} after {n_results} of {n_calls} tool results, expected the other results first"
                ),
            ));
        }
        Ok(())
    }

    /// Refuses what would be lost in silence, wherever it stands.
    fn check(&self, index: usize) -> Result<()> {
        let message = self.all[index];
        let role = message.role;
        let what = match role {
            Role::Assistant => "an assistant message".into(),
            role => format!("a {} message", role.name()),
        };
        let refuse = |is_lost: bool, problem: &str| match is_lost {
            true => Err(refused(index, format!("{what} has {problem}"))),
            false => Ok(()),
        };
        let offers_something = !message.tools.is_empty() || asked_format(message).is_some();
        refuse(
            offers_something && !matches!(role, Role::System | Role::Developer),
            "tools or a response format, expected them on a system or developer message",
        )?;
        refuse(
            !message.tool_calls.is_empty() && role != Role::Assistant,
            "tool calls, expected them on assistant messages",
        )?;
        let reasoning = message.reasoning_content.as_deref();
        refuse(
            reasoning.is_some_and(|text| !text.is_empty()) && role != Role::Assistant,
            "reasoning, expected it on assistant messages",
        )?;
        refuse(
            message.tool_call_id.is_some() && role != Role::Tool,
            "a tool_call_id, expected it on tool results",
        )?;
        refuse(
            message.content.is_empty() && role == Role::Developer,
            "no content, expected some",
        )?;
        if role != Role::Tool {
            self.check_results(index, &what)?;
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

/// Writes tools and response format, if there are any.
fn offer(index: usize, message: &Message, text: &mut Text) -> Result<()> {
    if !message.tools.is_empty() {
        let function = |tool: &Value| {
            let kind = tool.get("type").map_or(Some("function"), Value::as_str);
            let function = tool.get("function").filter(|function| function.is_object());
            let name = function.and_then(|function| function.get("name")?.as_str());
            match (kind, function, name) {
                (Some("function"), Some(function), Some(name)) if !name.is_empty() => {
                    let others = tool.as_object().into_iter().flatten();
                    let lost = others
                        .filter(|(key, _)| !["type", "function"].contains(&key.as_str()))
                        .find(|(_, value)| !value.is_null());
                    match lost {
                        None => Ok(to_json(function)),
                        Some((key, _)) => Err(refused(
                            index,
                            format!(
                                "tool {name:?} has the key {key:?}, which has no place in the encoding"
                            ),
                        )),
                    }
                }
                _ => Err(refused(
                    index,
                    format!(
                        "a tool is {:.80}, expected {{\"type\": \"function\", \"function\": {{\"name\": …}}}}",
                        tool.to_string()
                    ),
                )),
            }
        };
        let functions = message
            .tools
            .iter()
            .map(function)
            .collect::<Result<Vec<_>>>()?;
        text.form(tools_head());
        text.said(functions.join("\n"));
        text.form("\n</functions>\n");
    }
    if let Some(format) = asked_format(message) {
        text.form(
            "\n\n## Response Format:\n\n\
             You MUST strictly adhere to the following schema to reply:\n",
        );
        text.said(to_json(format));
    }
    Ok(())
}

/// The response format, unless it is one that Python takes for none.
fn asked_format(message: &Message) -> Option<&Value> {
    let format = message.response_format.as_ref();
    format.filter(|format| !is_nothing(format))
}

fn write_call(index: usize, call: &ToolCall, text: &mut Text) -> Result<()> {
    let Some(arguments) = call.arguments.as_object() else {
        let name = &call.name;
        let found = to_json(&call.arguments);
        return Err(refused(
            index,
            format!("arguments of the call of {name:?} are {found}, expected a JSON object"),
        ));
    };
    text.form(format!("<{DSML}invoke name=\""));
    text.said(&call.name);
    text.form("\">\n");
    for (n, (key, value)) in arguments.iter().enumerate() {
        let between = if n == 0 { "" } else { "\n" };
        text.form(format!("{between}<{DSML}parameter name=\""));
        text.said(key);
        text.form(format!("\" string=\"{}\">", value.is_string()));
        text.said(value.as_str().map_or_else(|| to_json(value), str::to_owned));
        text.form(format!("</{DSML}parameter>"));
    }
    text.form(format!("\n</{DSML}invoke>\n"));
    Ok(())
}

fn tools_head() -> String {
    format!(
        r#"

## Tools

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
"#
    )
}
