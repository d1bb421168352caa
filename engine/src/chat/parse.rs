//! Completions to reasoning, content and tool calls, while they are generated.
//!
//! The official parser asserts that a completion is well formed. This one reads what is meant where
//! that is clear, says so in [`Completion::problems`], and leaves everything else in the content; marks
//! that it leaves there are told, too. What stands in a fence of code is shown, and no call.
//! A decision is made only once no later text could change it, so that the same completion comes
//! out however it is cut into pieces. The tags themselves are read in [`super::tags`].

mod arguments;
mod calls;
mod fence;

use serde_json::{Map, Value};

use self::arguments::ObjectEnd;
use self::fence::{Fence, left_over};
use super::message::ToolCall;
use super::tags::{self, Beginning, Form, Match, Opening};
use super::{DSML, END_THINK, EOS, THINK};

/// What a piece of a completion adds.
#[derive(Clone, Debug, PartialEq)]
pub enum Delta {
    /// More of the reasoning.
    Reasoning(String),
    /// More of the content.
    Content(String),
    /// A tool call, complete.
    ToolCall(ToolCall),
}

/// A completion, read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Completion {
    /// The reasoning, without its tags; `None` if the model was not asked to think, and did not.
    pub reasoning: Option<String>,
    /// What is said to the user.
    pub content: String,
    /// Tool calls in order.
    pub tool_calls: Vec<ToolCall>,
    /// What was malformed, and how it was read. Empty for a well-formed completion.
    pub problems: Vec<String>,
}

/// Reads a whole completion: what follows a prompt of [`encode()`](crate::chat::encode()), with or without
/// [`EOS`] at its end.
pub fn parse(text: &str, thinking: bool) -> Completion {
    let mut parser = CompletionParser::new(thinking);
    parser.push(text);
    parser.finish().1
}

/// Reads a completion that arrives in pieces.
///
/// Text is given out as soon as it is certain what it is; a tool call once it is complete.
#[derive(Clone, Debug)]
pub struct CompletionParser {
    /// Text that came; from `position` on it is not read yet.
    buffer: String,
    position: usize,
    /// Where to go on looking in the unread text: before that there is nothing to find.
    searched: usize,
    state: State,
    /// Text that may be the beginning of [`EOS`].
    tail: String,
    /// [`EOS`] came.
    is_ended: bool,
    /// Text came after it.
    has_text_after_end: bool,
    /// The calls that are being read have the tag of a block around them.
    has_block: bool,
    /// No more text comes: everything can be decided.
    is_final: bool,
    /// At the end of the content so far.
    fence: Fence,
    deltas: Vec<Delta>,
    completion: Completion,
}

#[derive(Clone, Debug)]
enum State {
    Reasoning {
        /// Nothing but white space came: the model may open its reasoning itself.
        is_start: bool,
    },
    /// Outside of tool calls.
    Content {
        /// Nothing but white space came: the model may open or close its reasoning itself.
        is_start: bool,
        /// Whether the unread text begins a line.
        begins_line: bool,
        /// Tool calls came before, and since then nothing but white space.
        is_after_calls: bool,
    },
    /// Between two calls.
    Calls,
    Call(Call),
    Parameter(Call, Opening),
    RawArguments(Call, ObjectEnd),
}

impl State {
    /// At the beginning of the content.
    const START: Self = Self::Content {
        is_start: true,
        begins_line: true,
        is_after_calls: false,
    };
}

/// A tool call that is being read.
#[derive(Clone, Debug)]
struct Call {
    name: String,
    arguments: Map<String, Value>,
    /// Where in the buffer its tag begins, for the case that it has to be left as text.
    start: usize,
    /// Something stands in it that is no parameter.
    has_stray_text: bool,
}

impl CompletionParser {
    /// A parser at the beginning of a completion. With `thinking`, the prompt has opened the
    /// reasoning: it ended in `<think>`.
    pub fn new(thinking: bool) -> Self {
        let state = match thinking {
            true => State::Reasoning { is_start: true },
            false => State::START,
        };
        Self {
            buffer: String::new(),
            position: 0,
            searched: 0,
            state,
            tail: String::new(),
            is_ended: false,
            has_text_after_end: false,
            has_block: false,
            is_final: false,
            fence: Fence::default(),
            deltas: Vec::new(),
            completion: Completion {
                reasoning: thinking.then(String::new),
                ..Completion::default()
            },
        }
    }

    /// Takes the next piece and gives what is certain with it.
    pub fn push(&mut self, text: &str) -> Vec<Delta> {
        self.take_in(text);
        self.read();
        self.forget();
        std::mem::take(&mut self.deltas)
    }

    /// Ends the completion: what was held back is decided. Gives the last pieces and the whole.
    pub fn finish(mut self) -> (Vec<Delta>, Completion) {
        self.buffer += &std::mem::take(&mut self.tail);
        self.is_final = true;
        self.read();
        if matches!(self.state, State::Reasoning { .. }) {
            self.note(format!(
                "{END_THINK} is missing: all text was read as reasoning"
            ));
        }
        if self.has_text_after_end {
            self.note(format!("text after {EOS} was dropped"));
        }
        let reasoning = self.completion.reasoning.as_deref().unwrap_or_default();
        // A model may well think about thinking; a call that it makes there is made nowhere.
        let calls = |mark: &&str| !mark.contains("think");
        for (place, left) in [
            ("content", left_over(&self.completion.content)),
            (
                "reasoning",
                left_over(reasoning).into_iter().filter(calls).collect(),
            ),
        ] {
            if !left.is_empty() {
                self.note(format!(
                    "marks were left in the {place}: {}",
                    left.join(", ")
                ));
            }
        }
        (self.deltas, self.completion)
    }

    /// Puts text into the buffer, up to [`EOS`] and without what may be its beginning.
    fn take_in(&mut self, text: &str) {
        if self.is_ended {
            self.has_text_after_end |= !text.trim().is_empty();
            return;
        }
        let mut text = std::mem::take(&mut self.tail) + text;
        if let Some(end) = text.find(EOS) {
            self.is_ended = true;
            self.has_text_after_end = !text[end + EOS.len()..].trim().is_empty();
            text.truncate(end);
        } else {
            self.tail = text.split_off(text.len() - beginning_at_end(&text, EOS));
        }
        self.buffer += &text;
    }

    /// Drops text that is read and not needed again.
    fn forget(&mut self) {
        let needed = match &mut self.state {
            State::Call(call) | State::Parameter(call, _) | State::RawArguments(call, _) => {
                std::mem::replace(&mut call.start, 0)
            }
            _ => self.position,
        };
        self.buffer.drain(..needed);
        self.position -= needed;
    }

    fn unread(&self) -> &str {
        &self.buffer[self.position..]
    }

    fn skip(&mut self, n_bytes: usize) {
        self.position += n_bytes;
        self.searched = 0;
    }

    /// Reads as far as it is certain.
    fn read(&mut self) {
        loop {
            let state = std::mem::replace(&mut self.state, State::Calls);
            let (state, goes_on) = match state {
                State::Reasoning { is_start } => self.read_reasoning(is_start),
                State::Content { is_start: true, .. } => self.read_start(),
                State::Content {
                    begins_line,
                    is_after_calls,
                    ..
                } => self.read_content(begins_line, is_after_calls),
                State::Calls => self.read_between_calls(),
                State::Call(call) => self.read_call(call),
                State::Parameter(call, opening) => self.read_parameter(call, opening),
                State::RawArguments(call, end) => self.read_raw_arguments(call, end),
            };
            self.state = state;
            if !goes_on {
                return;
            }
        }
    }

    /// Skips a tag that the model wrote itself where nothing but white space came before it; whether it
    /// was one, and which. `More`: that is not certain yet.
    fn skip_own_tag(&mut self, tags: &[&'static str]) -> Match<&'static str> {
        let text = self.unread();
        let blank = text.len() - text.trim_start().len();
        let found = tags.iter().fold(Match::No, |found, tag| {
            found.or(tags::literal(&text[blank..], tag).then(|(), n| Match::Yes(*tag, n)))
        });
        let found = self.decided(found);
        if let Match::Yes(_, length) = found {
            self.skip(blank + length);
        }
        found
    }

    fn read_start(&mut self) -> (State, bool) {
        match self.skip_own_tag(&[THINK, END_THINK]) {
            Match::Yes(THINK, _) => (State::Reasoning { is_start: true }, true),
            Match::Yes(..) => {
                self.note(format!("{END_THINK} came twice: the second was left out"));
                (State::START, true)
            }
            Match::More => (State::START, false),
            Match::No => {
                let state = State::Content {
                    is_start: false,
                    begins_line: true,
                    is_after_calls: false,
                };
                (state, true)
            }
        }
    }

    fn read_reasoning(&mut self, is_start: bool) -> (State, bool) {
        if is_start {
            let found = self.skip_own_tag(&[THINK]);
            let is_start = !matches!(found, Match::No);
            return (State::Reasoning { is_start }, !matches!(found, Match::More));
        }
        if let Some(end) = self.unread().find(END_THINK) {
            self.give(end, Delta::Reasoning);
            self.skip(END_THINK.len());
            return (State::START, true);
        }
        let held = if self.is_final {
            0
        } else {
            beginning_at_end(self.unread(), END_THINK)
        };
        self.give(self.unread().len() - held, Delta::Reasoning);
        (State::Reasoning { is_start: false }, false)
    }

    fn read_content(&mut self, begins_line: bool, is_after_calls: bool) -> (State, bool) {
        let (end, calls) = self.find_calls(begins_line);
        let text = &self.unread()[..end];
        let is_blank = is_after_calls && text.trim_start().is_empty();
        // The empty line before tool calls is part of their encoding.
        let newlines = text
            .bytes()
            .rev()
            .take(2)
            .take_while(|&byte| byte == b'\n')
            .count();
        let is_waiting = calls.is_none() && !self.is_final;
        if is_blank && is_waiting {
            self.searched = end;
            return (
                State::Content {
                    is_start: false,
                    begins_line,
                    is_after_calls,
                },
                false,
            );
        }
        let certain = if calls.is_some() || is_waiting {
            end - newlines
        } else {
            end
        };
        let begins_line = if certain > 0 {
            text[..certain].ends_with('\n')
        } else {
            begins_line
        };
        if is_blank {
            self.skip(end);
        } else {
            if is_after_calls {
                self.note("text after the tool calls was read as content".into());
            }
            if self.is_final && calls.is_none() && ends_within_tags(self.unread()) {
                self.note("the text ends within the tags of a tool call: they were left in".into());
            }
            self.give(certain, Delta::Content);
            self.searched = end - certain;
        }
        let Some((beginning, length)) = calls else {
            return (
                State::Content {
                    is_start: false,
                    begins_line,
                    is_after_calls: is_blank,
                },
                false,
            );
        };
        if !self.completion.tool_calls.is_empty() {
            self.note("tool calls come in more than one block".into());
        } else if newlines < 2 {
            self.note("no empty line stands before the tool calls".into());
        }
        if beginning.block.is_none() {
            self.note(format!(
                "the tool calls begin without <{DSML}function_calls>"
            ));
        }
        self.has_block = beginning.block.is_some();
        self.note_form(beginning.block.unwrap_or(Form::Marked));
        if !is_blank {
            self.skip(newlines);
        }
        let start = self.position + beginning.call_start;
        self.skip(length);
        (self.begin_call(beginning.call, start), true)
    }

    /// The first tool calls in the unread text, and where they begin; without any, how far the text
    /// is certain to have none.
    fn find_calls(&self, begins_line: bool) -> (usize, Option<(Beginning, usize)>) {
        let text = self.unread();
        let mut searched = self.searched;
        let (mut fence, mut fed) = (self.fence.clone(), 0);
        while let Some(found) = text[searched..].find('<') {
            let start = searched + found;
            fence.feed(&text[fed..=start]);
            fed = start + 1;
            if fence.is_open() {
                searched = fed;
                continue;
            }
            let at_line = if start == 0 {
                begins_line
            } else {
                text[..start].ends_with('\n')
            };
            match self.decided(tags::beginning(&text[start..], at_line)) {
                Match::Yes(beginning, length) => return (start, Some((beginning, length))),
                Match::More => return (start, None),
                Match::No => searched = start + 1,
            }
        }
        (text.len(), None)
    }

    fn decided<T>(&self, found: Match<T>) -> Match<T> {
        if self.is_final { found.at_end() } else { found }
    }

    /// Gives out the next bytes of the unread text.
    fn give(&mut self, n_bytes: usize, kind: fn(String) -> Delta) {
        let text = self.unread()[..n_bytes].to_owned();
        self.skip(n_bytes);
        if text.is_empty() {
            return;
        }
        let delta = kind(text);
        match &delta {
            Delta::Reasoning(text) => {
                *self.completion.reasoning.get_or_insert_default() += text;
            }
            Delta::Content(text) => {
                self.completion.content += text;
                self.fence.feed(text);
            }
            Delta::ToolCall(_) => unreachable!("text is given out, no call"),
        }
        match (self.deltas.last_mut(), delta) {
            (Some(Delta::Reasoning(last)), Delta::Reasoning(text)) => *last += &text,
            (Some(Delta::Content(last)), Delta::Content(text)) => *last += &text,
            (_, delta) => self.deltas.push(delta),
        }
    }

    fn note(&mut self, problem: String) {
        if !self.completion.problems.contains(&problem) {
            self.completion.problems.push(problem);
        }
    }

    fn note_form(&mut self, form: Form) {
        if form == Form::Plain {
            self.note(format!("tags of the tool calls lack {DSML}"));
        }
    }
}

/// Bytes at the end of a text with which `wanted` could begin: the most possible.
fn beginning_at_end(text: &str, wanted: &str) -> usize {
    let ends = wanted.char_indices().map(|(end, _)| end);
    ends.rev()
        .find(|&end| text.ends_with(&wanted[..end]))
        .unwrap_or(0)
}

/// Whether a text breaks off within the tags that begin tool calls, past the mark.
fn ends_within_tags(text: &str) -> bool {
    let tag = text.rfind(&format!("<{DSML}"));
    tag.is_some_and(|start| tags::beginning(&text[start..], true) == Match::More)
}
