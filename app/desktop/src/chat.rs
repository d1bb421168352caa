//! The chat: a transcript that shows one branch of a conversation, and the box to write in.
//!
//! Plain functions of what is shown ([`ChatView`]) and of the little that the widgets remember
//! ([`ChatState`]); what the user wants comes out as [`ChatAction`]s. Engine, database and files are
//! the business of the caller. Below: [`mod@math`] makes formulas readable, [`blocks`] cuts an answer
//! into pieces, [`code`] highlights, `layout` keeps their heights, `transcript` scrolls over them,
//! `message` and `tokens` draw them, `composer` is the box, `empty` what a new conversation shows.

pub mod blocks;
pub mod code;
mod composer;
mod empty;
mod layout;
pub mod math;
mod message;
#[cfg(test)]
mod tests;
mod tokens;
mod transcript;
pub mod words;

use egui::{Color32, Ui};
use engine::chat::{Role, ToolCall};
use engine::generate::Stop;

pub(crate) use composer::box_id;
pub use composer::{Composer, PASTE_LIMIT_BYTES};
pub use empty::{EXAMPLES, Example};

/// Width of the column of messages at most: longer lines are hard to read.
const COLUMN_WIDTH: f32 = 820.0;

/// What a chat shows.
#[derive(Clone, Copy)]
pub struct ChatView<'a> {
    /// Tells conversations apart: when it changes, the end of the new one is shown.
    pub conversation: u64,
    /// The messages of the branch, oldest first.
    pub messages: &'a [MessageView<'a>],
    /// What the box below can do now.
    pub composer: ComposerView<'a>,
    /// The model's name, for the empty conversation; `None` without a model.
    pub model: Option<&'a str>,
}

/// One message.
#[derive(Clone, Copy)]
pub struct MessageView<'a> {
    /// Stays with the message and belongs to no other of the conversation.
    pub id: u64,
    /// Who speaks.
    pub role: Role,
    /// What is said: Markdown if the model speaks.
    pub content: &'a str,
    /// What the model thought before.
    pub thinking: Option<ThinkingView<'a>>,
    /// The calls after the content.
    pub tool_calls: &'a [ToolCall],
    /// The tokens of the answer, to be clicked; shown in place of the text.
    pub tokens: Option<&'a [TokenSpan<'a>]>,
    /// Which of several versions this is.
    pub branch: Option<BranchView<'a>>,
    /// What was measured.
    pub facts: Option<FactsView<'a>>,
    /// Whether it is being written.
    pub state: MessageState<'a>,
    /// Whether there is something to inspect.
    pub can_inspect: bool,
}

impl<'a> MessageView<'a> {
    /// A whole message with nothing but content.
    pub fn new(id: u64, role: Role, content: &'a str) -> Self {
        Self {
            id,
            role,
            content,
            thinking: None,
            tool_calls: &[],
            tokens: None,
            branch: None,
            facts: None,
            state: MessageState::Done,
            can_inspect: false,
        }
    }
}

/// What the model thought.
#[derive(Clone, Copy)]
pub struct ThinkingView<'a> {
    /// Markdown.
    pub text: &'a str,
    /// How long it took; `None` if that is not known.
    pub seconds: Option<f64>,
    /// Whether it goes on: then it is shown open.
    pub is_running: bool,
}

/// One token of an answer.
#[derive(Clone, Copy)]
pub struct TokenSpan<'a> {
    /// Its position in the timeline.
    pub position: usize,
    /// Its text, which may be empty, a part of a word or a line end.
    pub text: &'a str,
    /// What is shown behind it.
    pub tint: Option<Color32>,
    /// Whether it is the one that is inspected.
    pub is_selected: bool,
    /// Whether some view hovers it.
    pub is_hovered: bool,
}

/// Which of several versions of a message is shown.
#[derive(Clone, Copy)]
pub struct BranchView<'a> {
    /// From 0.
    pub index: usize,
    /// How many there are.
    pub count: usize,
    /// Why there is another: "edited", "regenerated", "without expert 5".
    pub label: Option<&'a str>,
}

/// What was measured while a message was made.
#[derive(Clone, Copy, Default)]
pub struct FactsView<'a> {
    /// Generated tokens a second.
    pub tokens_per_second: Option<f64>,
    /// Time from the start to the first token.
    pub first_token_seconds: Option<f64>,
    /// Tokens of the prompt.
    pub n_prompt: Option<usize>,
    /// Tokens of the answer.
    pub n_generated: Option<usize>,
    /// Why it ended, see [`stop_words`].
    pub stop: Option<&'a str>,
    /// The model that wrote it.
    pub model: Option<&'a str>,
}

/// How far a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageState<'a> {
    /// Whole.
    Done,
    /// Asked for; nothing has come yet.
    Waiting,
    /// Being written.
    Streaming,
    /// Somebody stopped it; what had come is kept.
    Stopped,
    /// It failed, for this reason; what had come is kept.
    Failed(&'a str),
}

/// What the box below the messages shows.
#[derive(Clone, Copy, Default)]
pub struct ComposerView<'a> {
    /// Whether an answer is being made: then there is a Stop button.
    pub is_running: bool,
    /// Prompt tokens read and in all, while a prompt is read.
    pub prefill: Option<(usize, usize)>,
    /// How full the context is.
    pub context: Option<ContextView>,
    /// Why nothing can be sent now, in words.
    pub blocked: Option<&'a str>,
}

/// How full the context is.
#[derive(Clone, Copy)]
pub struct ContextView {
    /// Tokens of the conversation so far.
    pub n_used: usize,
    /// Tokens that the model's context holds.
    pub n_limit: usize,
    /// Tokens of what is in the box; `None` if they were not counted.
    pub n_draft: Option<usize>,
}

/// What the user wants.
#[derive(Clone, Debug, PartialEq)]
pub enum ChatAction {
    /// Ask this.
    Send(String),
    /// Begin with this example, thinking as it says.
    TryExample(&'static Example),
    /// Break off the answer, also while the prompt is read.
    Stop,
    /// Answer again, keeping this answer as a branch.
    Regenerate {
        /// The answer.
        id: u64,
    },
    /// Let the model go on where this answer ended.
    Continue {
        /// The answer.
        id: u64,
    },
    /// Ask this instead of a message of the user, as a new branch.
    EditAndAsk {
        /// The message.
        id: u64,
        /// What it says now.
        text: String,
    },
    /// Keep this text in place of a message, as a new branch, and ask nothing.
    EditAndKeep {
        /// The message.
        id: u64,
        /// What it says now.
        text: String,
    },
    /// Show another version of a message.
    SelectBranch {
        /// The message shown now.
        id: u64,
        /// The version to show, from 0.
        index: usize,
    },
    /// Open the inspector on a message.
    InspectMessage {
        /// The message.
        id: u64,
    },
    /// Open the inspector on the token at this position.
    InspectToken(usize),
    /// The pointer is over the token at this position, or has left the tokens.
    HoverToken(Option<usize>),
    /// A link that is not opened, since it leads to no web page.
    RefusedLink(String),
}

/// What the chat's widgets remember.
#[derive(Default)]
pub struct ChatState {
    /// The box: the draft is in it, and what was pasted.
    pub composer: Composer,
    transcript: transcript::Transcript,
}

impl ChatState {
    /// Opens the editor of a message, as its Edit button does.
    pub fn edit(&mut self, id: u64, text: &str) {
        self.transcript.edit(id, text);
    }

    /// Shows the end of the conversation and stays there.
    pub fn scroll_to_end(&mut self) {
        self.transcript.scroll_to_end();
    }

    /// Brings a message into sight.
    pub fn scroll_to_message(&mut self, id: u64) {
        self.transcript.scroll_to_message(id);
    }

    /// Whether a message is shown as it was written; a toggle of each message.
    pub fn is_raw(&self, id: u64) -> bool {
        self.transcript.is_raw(id)
    }
}

/// The transcript with the box below it, filling what room there is.
pub fn chat_ui(
    ui: &mut Ui,
    state: &mut ChatState,
    view: &ChatView<'_>,
    actions: &mut Vec<ChatAction>,
) {
    let n_before = actions.len();
    egui::Panel::bottom("composer")
        .resizable(false)
        .show_separator_line(false)
        .show(ui, |ui| {
            column(ui, |ui| {
                composer::composer_ui(ui, &mut state.composer, &view.composer, actions);
            });
        });
    if view.messages.is_empty() {
        egui::ScrollArea::vertical()
            .auto_shrink(false)
            .id_salt("empty conversation")
            .show(ui, |ui| {
                column(ui, |ui| empty::empty_ui(ui, view, actions));
            });
    } else {
        state.transcript.ui(ui, view, actions);
    }
    if actions[n_before..]
        .iter()
        .any(|action| matches!(action, ChatAction::Send(_) | ChatAction::EditAndAsk { .. }))
    {
        state.scroll_to_end();
    }
}

/// A column of readable width in the middle.
fn column<R>(ui: &mut Ui, content: impl FnOnce(&mut Ui) -> R) -> R {
    let width = ui.available_width();
    let margin = ((width - COLUMN_WIDTH) / 2.0).max(0.0);
    let mut rect = ui.available_rect_before_wrap();
    rect.min.x += margin;
    rect.max.x -= margin;
    let builder = egui::UiBuilder::new().id_salt("column").max_rect(rect);
    ui.scope_builder(builder, content).inner
}

/// Why an answer ended, in words; `None` if it ended by itself.
pub fn stop_words(stop: &Stop) -> Option<&'static str> {
    match stop {
        Stop::EndOfText(_) => None,
        Stop::StopString(_) => Some("came to a stop string"),
        Stop::Length => Some("reached the most tokens an answer may have"),
        Stop::ContextFull => Some("the context is full"),
        Stop::Cancelled => Some("stopped"),
    }
}
