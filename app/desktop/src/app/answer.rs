//! An answer while it is written: tokens in, a message out that can be shown and saved at any moment.

use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::chat::{CompletionParser, Delta, Message, Role};
use engine::generate::{Finish, Stats, Stop, Token};
use engine::tokenizer::{Tokenizer, Utf8Stream};

use crate::store::{AnswerFacts, ConversationId, NodeId, NodeState, PromptIds};

/// How often an answer that grows is saved: what a kill at the worst moment loses.
const SAVE_EVERY: Duration = Duration::from_millis(700);

/// One answer.
pub(super) struct Answer {
    pub conversation: ConversationId,
    pub node: NodeId,
    /// What is there so far.
    pub message: Message,
    /// The prompt as the model got it.
    pub prompt_ids: PromptIds,
    /// What it wrote.
    pub ids: Vec<u32>,
    /// Prompt tokens fed, and how many there are to feed.
    pub prefill: Option<(usize, usize)>,
    /// Whether the model was asked to think first.
    pub thinking: bool,
    /// Whether the reasoning goes on.
    pub is_thinking: bool,
    thinking_since: Option<Instant>,
    thinking_time: Option<Duration>,
    parser: CompletionParser,
    stats: Stats,
    saved: Instant,
    is_dirty: bool,
    settings: serde_json::Value,
    model: String,
    device: String,
}

/// What an answer is made with, for its facts.
pub(super) struct Made {
    pub thinking: bool,
    pub settings: serde_json::Value,
    pub model: String,
    pub device: String,
}

impl Answer {
    /// An answer that has not begun.
    pub(super) fn new(conversation: ConversationId, node: NodeId, made: Made) -> Self {
        Self {
            conversation,
            node,
            message: Message::new(Role::Assistant, ""),
            prompt_ids: PromptIds::default(),
            ids: Vec::new(),
            prefill: None,
            is_thinking: made.thinking,
            thinking: made.thinking,
            thinking_since: None,
            thinking_time: None,
            parser: CompletionParser::new(made.thinking),
            stats: Stats::default(),
            saved: Instant::now(),
            is_dirty: false,
            settings: made.settings,
            model: made.model,
            device: made.device,
        }
    }

    /// Takes up an answer that was there: its ids are part of the prompt, its text stays.
    pub(super) fn resume(&mut self, ids: Vec<u32>, tokenizer: &Arc<Tokenizer>) {
        let mut stream = Utf8Stream::new(tokenizer.clone());
        for &id in &ids {
            // An id of another model's vocabulary has no text here; the feeding will refuse it.
            let text = stream.push(id).unwrap_or_default();
            self.read(&text);
        }
        self.ids = ids;
    }

    /// Takes a token.
    pub(super) fn push(&mut self, token: &Token) {
        self.prefill = None;
        if self.thinking && self.thinking_since.is_none() {
            self.thinking_since = Some(Instant::now());
        }
        self.ids.push(token.picked.id);
        self.read(&token.text);
    }

    fn read(&mut self, text: &str) {
        let deltas = self.parser.push(text);
        self.take(deltas);
        self.is_dirty = true;
    }

    fn take(&mut self, deltas: Vec<Delta>) {
        for delta in deltas {
            match delta {
                Delta::Reasoning(text) => {
                    // It may think without being asked to.
                    self.is_thinking = true;
                    self.thinking_since.get_or_insert_with(Instant::now);
                    let reasoning = self.message.reasoning_content.get_or_insert_default();
                    reasoning.push_str(&text);
                }
                Delta::Content(text) => {
                    self.end_thinking();
                    self.message.content.push_str(&text);
                }
                Delta::ToolCall(call) => {
                    self.end_thinking();
                    self.message.tool_calls.push(call);
                }
            }
        }
    }

    fn end_thinking(&mut self) {
        self.is_thinking = false;
        if self.thinking_time.is_none() {
            self.thinking_time = self.thinking_since.map(|since| since.elapsed());
        }
    }

    /// Takes the times so far.
    pub(super) fn set_stats(&mut self, stats: Stats) {
        self.stats = stats;
    }

    /// Whether it is time to save.
    pub(super) fn wants_saving(&self) -> bool {
        self.is_dirty && self.saved.elapsed() >= SAVE_EVERY
    }

    /// It was saved.
    pub(super) fn is_saved(&mut self) {
        self.is_dirty = false;
        self.saved = Instant::now();
    }

    /// Ends it.
    pub(super) fn finish(mut self, finish: &Finish) -> (Message, NodeState, AnswerFacts) {
        self.stats = finish.stats;
        self.read(&finish.text);
        let parser = std::mem::replace(&mut self.parser, CompletionParser::new(false));
        let (deltas, completion) = parser.finish();
        self.take(deltas);
        // The reasoning may have been all there is.
        self.end_thinking();
        let state = match finish.stop {
            Stop::Cancelled => NodeState::Stopped,
            _ => NodeState::Complete,
        };
        let mut facts = self.facts();
        facts.stop = stop_word(&finish.stop).into();
        for problem in completion.problems {
            log::info!("the answer is malformed: {problem}");
        }
        (self.message, state, facts)
    }

    /// What is known so far.
    pub(super) fn facts(&self) -> AnswerFacts {
        let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
        AnswerFacts {
            model: self.model.clone(),
            device: self.device.clone(),
            n_prompt: self.stats.n_prompt,
            n_generated: self.ids.len(),
            first_token_ms: self.stats.first_token.map(milliseconds),
            prefill_ms: Some(milliseconds(self.stats.prefill)),
            decode_ms: Some(milliseconds(self.stats.decode)),
            thinking_ms: self.thinking_time.map(milliseconds),
            stop: String::new(),
            thinking: self.thinking,
            prompt_ids: self.prompt_ids.clone(),
            ids: self.ids.clone(),
            settings: self.settings.clone(),
        }
    }
}

/// Why a text ended, as it is kept.
pub(super) fn stop_word(stop: &Stop) -> &'static str {
    match stop {
        Stop::EndOfText(_) => "end of text",
        Stop::StopString(_) => "stop string",
        Stop::Length => "token limit",
        Stop::ContextFull => "context full",
        Stop::Cancelled => "stopped",
    }
}
