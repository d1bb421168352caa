//! Draws one piece of a message.

use std::time::Instant;

use egui::{Button, Key, Label, Modifiers, RichText, TextEdit, Ui};
use egui_commonmark::{CommonMarkCache, CommonMarkViewer};
use engine::chat::{Role, ToolCall};

use super::code::{Code, code_ui};
use super::layout::Piece;
use super::tokens::tokens_ui;
use super::words::{bytes, counted, grouped, seconds, shortened, visible};
use super::{BranchView, ChatAction, FactsView, MessageState, MessageView};

/// A longer text is not edited in place: the editor lays all of it out for each letter.
pub const EDIT_LIMIT_BYTES: usize = 128 << 10;

/// A longer call is shown in part; its copy is whole.
const ARGUMENTS_BYTES: usize = 8 << 10;

/// A message that is being edited.
pub struct Editor {
    pub id: u64,
    text: String,
    wants_focus: bool,
}

impl Editor {
    pub fn new(id: u64, text: &str) -> Self {
        Self {
            id,
            text: text.to_owned(),
            wants_focus: true,
        }
    }
}

/// What a piece is drawn from.
pub struct Parts<'a, 'v> {
    pub message: &'a MessageView<'v>,
    /// Of the branch, from 1: it tells the buttons of messages apart.
    pub number: usize,
    pub is_last: bool,
    /// Whether an answer is being made somewhere: then nothing else can be asked for.
    pub is_running: bool,
    pub editor: &'a mut Option<Editor>,
    pub is_raw: &'a mut bool,
    pub is_thinking_open: &'a mut bool,
    pub codes: &'a mut [Code],
    pub hovered: &'a mut Option<usize>,
    pub markdown: &'a mut CommonMarkCache,
    pub deadline: Instant,
}

pub fn piece_ui(ui: &mut Ui, parts: Parts<'_, '_>, piece: &Piece, actions: &mut Vec<ChatAction>) {
    let message = parts.message;
    match piece {
        Piece::Header => header_ui(ui, &parts, actions),
        Piece::ThinkingHead => thinking_head_ui(ui, parts),
        Piece::Prose { text, is_thinking } => indented(ui, *is_thinking, |ui| {
            CommonMarkViewer::new().show(ui, parts.markdown, text);
        }),
        Piece::Code {
            index,
            lines,
            is_closed,
            is_thinking,
            ..
        } => {
            if let Some(code) = parts.codes.get_mut(*index) {
                indented(ui, *is_thinking, |ui| {
                    let lines = lines.start.min(code.n_lines())..lines.end.min(code.n_lines());
                    code_ui(ui, code, lines, *is_closed, parts.deadline);
                });
            }
        }
        Piece::Plain(range) => {
            let text = visible(message.content.get(range.clone()).unwrap_or_default());
            let mut text = RichText::new(text);
            if *parts.is_raw || message.role == Role::Tool {
                text = text.monospace();
            }
            ui.add(Label::new(text).wrap());
        }
        Piece::Tokens(range) => {
            let tokens = message.tokens.unwrap_or_default();
            let tokens = tokens.get(range.clone()).unwrap_or_default();
            tokens_ui(ui, tokens, parts.hovered, actions);
        }
        Piece::Tool(index) => {
            if let Some(call) = message.tool_calls.get(*index) {
                tool_ui(ui, call);
            }
        }
        Piece::Notice => notice_ui(ui, message),
        Piece::Editor => editor_ui(ui, parts, actions),
        Piece::Footer => footer_ui(ui, parts, actions),
    }
}

/// Thinking stands back from the answer.
fn indented(ui: &mut Ui, is_thinking: bool, content: impl FnOnce(&mut Ui)) {
    if !is_thinking {
        content(ui);
        return;
    }
    ui.visuals_mut().override_text_color = Some(ui.visuals().weak_text_color());
    let line = ui.visuals().widgets.noninteractive.bg_stroke;
    let margin = egui::Margin {
        left: 14,
        ..Default::default()
    };
    let response = egui::Frame::NONE
        .inner_margin(margin)
        .show(ui, content)
        .response;
    ui.painter()
        .vline(response.rect.left() + 5.0, response.rect.y_range(), line);
}

/// The speaker's name for people.
pub fn speaker(role: Role) -> &'static str {
    match role {
        Role::System => "System prompt",
        Role::Developer => "Developer",
        Role::User => "You",
        Role::Assistant => "Model",
        Role::Tool => "Tool result",
    }
}

fn header_ui(ui: &mut Ui, parts: &Parts<'_, '_>, actions: &mut Vec<ChatAction>) {
    let message = parts.message;
    ui.horizontal(|ui| {
        ui.strong(speaker(message.role));
        if let Some(branch) = message.branch.filter(|branch| branch.count > 1) {
            branch_ui(ui, branch, parts, actions);
        }
    });
}

fn branch_ui(
    ui: &mut Ui,
    branch: BranchView<'_>,
    parts: &Parts<'_, '_>,
    actions: &mut Vec<ChatAction>,
) {
    let id = parts.message.id;
    let last = branch.count - 1;
    let index = branch.index.min(last);
    let mut arrow = |ui: &mut Ui, text: &str, name: &str, to: Option<usize>| {
        let is_enabled = to.is_some() && !parts.is_running;
        let response = ui.add_enabled(is_enabled, Button::new(text).small().frame(false));
        let label = format!("{name} version of message {}", parts.number);
        if response
            .on_hover_text(name)
            .accessible_name(label)
            .clicked()
            && let Some(index) = to
        {
            actions.push(ChatAction::SelectBranch { id, index });
        }
    };
    arrow(ui, "‹", "Previous", index.checked_sub(1));
    let place = format!("{}/{}", index + 1, branch.count);
    ui.weak(place);
    arrow(ui, "›", "Next", (index < last).then_some(index + 1));
    if let Some(label) = branch.label {
        ui.weak(shortened(label, 60));
    }
}

fn thinking_head_ui(ui: &mut Ui, parts: Parts<'_, '_>) {
    let Some(thinking) = &parts.message.thinking else {
        return;
    };
    let words = if thinking.is_running {
        "Thinking…".to_owned()
    } else {
        match thinking.seconds.and_then(seconds) {
            Some(time) => format!("Thought for {time}"),
            None => "Thought".to_owned(),
        }
    };
    let mark = if *parts.is_thinking_open {
        "▾"
    } else {
        "▸"
    };
    let mark = RichText::new(mark).monospace().weak();
    let response = ui.add(Button::new((mark, RichText::new(words.as_str()).weak())).frame(false));
    let verb = if *parts.is_thinking_open {
        "Hide"
    } else {
        "Show"
    };
    let name = format!("{words}. {verb} the thinking of message {}", parts.number);
    if response.accessible_name(name).clicked() {
        *parts.is_thinking_open = !*parts.is_thinking_open;
    }
}

fn tool_ui(ui: &mut Ui, call: &ToolCall) {
    egui::Frame::group(ui.style()).show(ui, |ui| {
        ui.set_width(ui.available_width());
        let arguments = serde_json::to_string_pretty(&call.arguments)
            .unwrap_or_else(|error| format!("not shown: {error}"));
        ui.horizontal(|ui| {
            ui.strong("Tool call");
            ui.monospace(visible(&shortened(&call.name, 80)));
            ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
                let name = format!("Copy the call of {}", shortened(&call.name, 80));
                if ui.small_button("Copy").accessible_name(name).clicked() {
                    ui.copy_text(format!("{} {arguments}", call.name));
                }
            });
        });
        let end = super::words::floor_boundary(&arguments, ARGUMENTS_BYTES);
        ui.add(Label::new(RichText::new(visible(&arguments[..end])).monospace()).wrap());
        if end < arguments.len() {
            ui.weak(format!(
                "and {} more",
                bytes((arguments.len() - end) as u64)
            ));
        }
    });
}

fn notice_ui(ui: &mut Ui, message: &MessageView<'_>) {
    match message.state {
        MessageState::Done => {}
        MessageState::Waiting => {
            ui.weak("Waiting for the first token…");
        }
        MessageState::Streaming => {
            // A label and not a spinner: a spinner would repaint without end.
            ui.weak("…").accessible_name("Still writing");
        }
        MessageState::Stopped => {
            ui.weak("Stopped");
        }
        MessageState::Failed(reason) => {
            let text = format!("Failed: {}", visible(&shortened(reason, 2000)));
            ui.add(Label::new(RichText::new(text).color(ui.visuals().error_fg_color)).wrap());
        }
    }
}

fn editor_ui(ui: &mut Ui, parts: Parts<'_, '_>, actions: &mut Vec<ChatAction>) {
    let Some(editor) = parts.editor else {
        return;
    };
    let number = parts.number;
    let widget = ui.scope_id().with("editor");
    let mut keep = false;
    let mut ask = false;
    if ui.memory(|memory| memory.has_focus(widget)) {
        ask = ui.input_mut(|input| input.consume_key(Modifiers::COMMAND, Key::Enter));
    }
    let response = ui.add(
        TextEdit::multiline(&mut editor.text)
            .id(widget)
            .desired_width(f32::INFINITY)
            .desired_rows(3),
    );
    let response = response.accessible_name(format!("Text of message {number}"));
    if std::mem::take(&mut editor.wants_focus) {
        response.request_focus();
    }
    // Escape has taken the focus away already.
    let mut cancel = response.lost_focus() && ui.input(|input| input.key_pressed(Key::Escape));
    let can_save = !editor.text.trim().is_empty() && !parts.is_running;
    ui.horizontal(|ui| {
        if parts.message.role == Role::User {
            let button = ui.add_enabled(can_save, Button::new("Ask again"));
            ask |= button
                .accessible_name(format!("Ask message {number} again"))
                .clicked();
        }
        let button = ui.add_enabled(can_save, Button::new("Keep as a branch"));
        keep = button
            .accessible_name(format!("Keep message {number} as a branch"))
            .clicked();
        cancel |= ui
            .button("Cancel")
            .accessible_name(format!("Cancel the edit of message {number}"))
            .clicked();
    });
    let id = editor.id;
    if can_save && (ask || keep) {
        let text = std::mem::take(&mut editor.text);
        actions.push(if ask && parts.message.role == Role::User {
            ChatAction::EditAndAsk { id, text }
        } else {
            ChatAction::EditAndKeep { id, text }
        });
        *parts.editor = None;
    } else if cancel {
        *parts.editor = None;
    }
}

fn footer_ui(ui: &mut Ui, parts: Parts<'_, '_>, actions: &mut Vec<ChatAction>) {
    let message = parts.message;
    let (id, number) = (message.id, parts.number);
    let is_answer = message.role == Role::Assistant;
    let is_written = !matches!(
        message.state,
        MessageState::Waiting | MessageState::Streaming
    );
    ui.horizontal_wrapped(|ui| {
        ui.spacing_mut().item_spacing.x = 4.0;
        let button = |ui: &mut Ui, text: &str, hint: &str, is_enabled: bool| {
            let text = RichText::new(text).weak();
            let response = ui.add_enabled(is_enabled, Button::new(text).small().frame(false));
            if hint.is_empty() {
                response
            } else {
                response.on_hover_text(hint).on_disabled_hover_text(hint)
            }
        };
        let can_ask = is_written && !parts.is_running;
        let copy = button(ui, "Copy", "Copy the text as it was written", true);
        if copy
            .accessible_name(format!("Copy message {number}"))
            .clicked()
        {
            ui.copy_text(message.content.to_owned());
        }
        if is_written && parts.editor.as_ref().is_none_or(|editor| editor.id != id) {
            let fits = message.content.len() <= EDIT_LIMIT_BYTES;
            let hint = if fits {
                String::new()
            } else {
                format!(
                    "Too long to edit here: {}",
                    bytes(message.content.len() as u64)
                )
            };
            let edit = button(ui, "Edit", &hint, can_ask && fits);
            if edit
                .accessible_name(format!("Edit message {number}"))
                .clicked()
            {
                *parts.editor = Some(Editor::new(id, message.content));
            }
        }
        if is_answer && is_written {
            let regenerate = button(
                ui,
                "Regenerate",
                "Answer again; this answer is kept as a branch",
                can_ask,
            );
            if regenerate
                .accessible_name(format!("Regenerate message {number}"))
                .clicked()
            {
                actions.push(ChatAction::Regenerate { id });
            }
            if parts.is_last {
                let goes_on = button(ui, "Continue", "Go on where this answer ended", can_ask);
                if goes_on
                    .accessible_name(format!("Continue message {number}"))
                    .clicked()
                {
                    actions.push(ChatAction::Continue { id });
                }
            }
        }
        if message.can_inspect {
            let inspect = button(
                ui,
                "Inspect",
                "What the model looked at while it wrote this",
                true,
            );
            if inspect
                .accessible_name(format!("Inspect message {number}"))
                .clicked()
            {
                actions.push(ChatAction::InspectMessage { id });
            }
        }
        if is_answer {
            let (text, hint) = if *parts.is_raw {
                ("Formatted", "Show the text as Markdown")
            } else {
                ("Raw text", "Show the text as it was written")
            };
            let raw = button(ui, text, hint, true);
            if raw
                .accessible_name(format!("{text} of message {number}"))
                .clicked()
            {
                *parts.is_raw = !*parts.is_raw;
            }
        }
        if let Some(facts) = &message.facts {
            let text = facts_line(facts);
            if !text.is_empty() {
                ui.label(RichText::new(text).small().weak());
            }
        }
    });
}

/// What was measured, in a line: `12.3 tokens/s · first token after 0.4 s · …`.
pub fn facts_line(facts: &FactsView<'_>) -> String {
    let mut parts = Vec::new();
    if let Some(rate) = facts
        .tokens_per_second
        .filter(|rate| rate.is_finite() && *rate >= 0.0)
    {
        parts.push(format!("{rate:.1} tokens/s"));
    }
    if let Some(time) = facts.first_token_seconds.and_then(seconds) {
        parts.push(format!("first token after {time}"));
    }
    match (facts.n_prompt, facts.n_generated) {
        (Some(prompt), Some(generated)) => parts.push(format!(
            "{} read, {} written",
            counted(prompt, "token"),
            grouped(generated as u64)
        )),
        (Some(prompt), None) => parts.push(format!("{} read", counted(prompt, "token"))),
        (None, Some(generated)) => parts.push(format!("{} written", counted(generated, "token"))),
        (None, None) => {}
    }
    parts.extend(
        facts
            .stop
            .map(|stop| visible(&shortened(stop, 80)).into_owned()),
    );
    parts.extend(
        facts
            .model
            .map(|model| visible(&shortened(model, 60)).into_owned()),
    );
    parts.join(" · ")
}
