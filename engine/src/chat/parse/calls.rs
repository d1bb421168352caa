//! Reading within tool calls: from one to the next, and their parameters.

use serde_json::{Map, Value};

use super::arguments::{ObjectEnd, argument, end_of_unclosed};
use super::{Call, CompletionParser, Delta, State, beginning_at_end};
use crate::chat::DSML;
use crate::chat::message::ToolCall;
use crate::chat::tags::{self, Match, Opening};

impl CompletionParser {
    pub(super) fn read_between_calls(&mut self) -> (State, bool) {
        let text = self.unread();
        let blank = text.len() - text.trim_start().len();
        let rest = &text[blank..];
        if rest.is_empty() && !self.is_final {
            return (State::Calls, false);
        }
        match self.decided(tags::opening(rest, "invoke")) {
            Match::Yes(opening, length) => {
                let start = self.position + blank;
                self.skip(blank + length);
                return (self.begin_call(opening, start), true);
            }
            Match::More => return (State::Calls, false),
            Match::No => {}
        }
        match self.decided(tags::closing(rest, "function_calls")) {
            Match::Yes(form, length) => {
                self.skip(blank + length);
                self.note_form(form);
            }
            Match::More => return (State::Calls, false),
            Match::No => {
                let is_cut_off = tags::closing(rest, "function_calls") == Match::More;
                if self.is_final && is_cut_off {
                    self.skip(self.unread().len());
                }
                if self.has_block {
                    self.note(format!(
                        "the tool calls end without </{DSML}function_calls>"
                    ));
                }
            }
        }
        (
            State::Content {
                is_start: false,
                begins_line: false,
                is_after_calls: true,
            },
            true,
        )
    }

    pub(super) fn begin_call(&mut self, opening: Opening, start: usize) -> State {
        self.note_form(opening.form);
        let arguments = Map::new();
        State::Call(Call {
            name: opening.name,
            arguments,
            start,
            has_stray_text: false,
        })
    }

    /// Reads what stands in a call where a parameter may begin.
    pub(super) fn read_call(&mut self, mut call: Call) -> (State, bool) {
        let text = self.unread();
        let blank = text.len() - text.trim_start().len();
        let rest = &text[blank..];
        if rest.is_empty() {
            return if self.is_final {
                self.end_unclosed(call)
            } else {
                (State::Call(call), false)
            };
        }
        if rest.starts_with('{') && call.arguments.is_empty() && !call.has_stray_text {
            self.skip(blank);
            return (State::RawArguments(call, ObjectEnd::default()), true);
        }
        match self.decided(tags::opening(rest, "parameter")) {
            Match::Yes(opening, length) => {
                self.skip(blank + length);
                self.note_form(opening.form);
                return (State::Parameter(call, opening), true);
            }
            Match::More => return (State::Call(call), false),
            Match::No => {}
        }
        match self.decided(tags::closing(rest, "invoke")) {
            Match::Yes(form, length) => {
                self.skip(blank + length);
                self.note_form(form);
                return self.end_call(call);
            }
            Match::More => return (State::Call(call), false),
            Match::No => {}
        }
        let next_call = self.decided(tags::opening(rest, "invoke"));
        let end_of_calls = self.decided(tags::closing(rest, "function_calls"));
        match (next_call, end_of_calls) {
            (Match::Yes(..), _) | (_, Match::Yes(..)) => return self.end_unclosed(call),
            (Match::No, Match::No) => {}
            _ => return (State::Call(call), false),
        }
        // Not a parameter: up to the next tag it is passed over.
        let tag = rest
            .char_indices()
            .skip(1)
            .find(|&(_, character)| character == '<');
        let stray = tag.map_or(rest.len(), |(start, _)| start);
        self.skip(blank + stray);
        self.note(format!(
            "the call of {:?} has text that is no parameter",
            call.name
        ));
        call.has_stray_text = true;
        (State::Call(call), true)
    }

    pub(super) fn read_parameter(&mut self, mut call: Call, opening: Opening) -> (State, bool) {
        let tag = opening.form.closing_tag("parameter");
        let text = self.unread();
        let (end, length) = match text[self.searched..].find(&tag) {
            Some(found) => (self.searched + found, tag.len()),
            None if self.is_final => {
                let name = &opening.name;
                let found = end_of_unclosed(text);
                self.note(format!(
                    "parameter {name:?} of {:?} ends without {tag}",
                    call.name
                ));
                found
            }
            None => {
                self.searched = text.len() - beginning_at_end(text, &tag);
                return (State::Parameter(call, opening), false);
            }
        };
        let text = self.unread()[..end].to_owned();
        self.skip(end + length);
        let (value, problem) = argument(&text, opening.is_string);
        let what = format!("parameter {:?} of {:?}", opening.name, call.name);
        if let Some(problem) = problem {
            self.note(format!("{what} {problem}"));
        }
        if call.arguments.insert(opening.name, value).is_some() {
            self.note(format!("{what} is there twice: the last was taken"));
        }
        (State::Call(call), true)
    }

    pub(super) fn read_raw_arguments(
        &mut self,
        mut call: Call,
        mut end: ObjectEnd,
    ) -> (State, bool) {
        let text = self.unread();
        match end.find(text) {
            Some(length) => match serde_json::from_str(&text[..length]) {
                Ok(arguments) => {
                    call.arguments = arguments;
                    self.note(format!(
                        "the call of {:?} has raw JSON arguments",
                        call.name
                    ));
                    self.skip(length);
                    (State::Call(call), true)
                }
                Err(_) => self.leave_as_text(call),
            },
            None if self.is_final => self.leave_as_text(call),
            None => (State::RawArguments(call, end), false),
        }
    }

    fn end_unclosed(&mut self, call: Call) -> (State, bool) {
        self.note(format!(
            "the call of {:?} ends without </{DSML}invoke>",
            call.name
        ));
        self.end_call(call)
    }

    fn end_call(&mut self, call: Call) -> (State, bool) {
        if call.arguments.is_empty() && call.has_stray_text {
            return self.leave_as_text(call);
        }
        let call = ToolCall {
            id: None,
            name: call.name,
            arguments: Value::Object(call.arguments),
        };
        self.completion.tool_calls.push(call.clone());
        self.deltas.push(Delta::ToolCall(call));
        (State::Calls, true)
    }

    /// Takes a call for content after all, its tag included.
    fn leave_as_text(&mut self, call: Call) -> (State, bool) {
        self.note(format!(
            "the call of {:?} has no readable arguments: it was left in",
            call.name
        ));
        self.position = call.start;
        // Past the `<`, or it would be read as a call again.
        self.searched = 1;
        (
            State::Content {
                is_start: false,
                begins_line: false,
                is_after_calls: false,
            },
            true,
        )
    }
}
