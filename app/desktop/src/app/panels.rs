//! The window: list of conversations, chat, inspector, and what lies over them.

use eframe::egui::{self, Ui};
use engine::chat::Role;
use engine::tokenizer::Utf8Stream;

use super::link::Purpose;
use super::*;
use crate::chat::{
    BranchView, ComposerView, ContextView, FactsView, MessageState, MessageView, ThinkingView,
    TokenSpan, chat_ui,
};
use crate::inspector::inspector_ui;
use crate::models::{ModelsView, loading_ui, models_ui};
use crate::palette::Palette;
use crate::recording::Recording;
use crate::settings::{SettingsView, app_settings_ui, conversation_settings_ui};
use crate::shortcuts;
use crate::sidebar::{SidebarView, sidebar_ui};
use actions::{Action, id_of};

impl App {
    /// Draws a frame, then carries out what the user did in it.
    pub(super) fn draw(&mut self, ui: &mut Ui) {
        self.find_starts();
        self.make_spans();
        let mut actions = Vec::new();
        actions.extend(
            shortcuts::pressed(ui.ctx())
                .into_iter()
                .map(Action::Shortcut),
        );
        self.bar_ui(ui, &mut actions);
        self.notices_ui(ui, &mut actions);
        if self.panels.sidebar {
            self.sidebar_panel_ui(ui, &mut actions);
        }
        if self.inspecting.is_open {
            self.inspector_panel_ui(ui, &mut actions);
        }
        self.chat_panel_ui(ui, &mut actions);
        self.windows_ui(ui, &mut actions);
        if !actions.is_empty() {
            // What they change is drawn in the next frame.
            ui.ctx().request_repaint();
        }
        for action in actions {
            self.obey(action);
        }
    }

    /// Switches of the panels, and what the model is doing.
    fn bar_ui(&mut self, ui: &mut Ui, actions: &mut Vec<Action>) {
        let mut is_open = self.inspecting.is_open;
        let mut sidebar = self.panels.sidebar;
        let mut model_actions = Vec::new();
        egui::Panel::top("bar").show(ui, |ui| {
            ui.horizontal_wrapped(|ui| {
                if ui
                    .toggle_value(&mut sidebar, "Chats")
                    .on_hover_text("Show or hide the list of conversations")
                    .changed()
                {
                    actions.push(Action::ShowSidebar(sidebar));
                }
                if ui
                    .toggle_value(&mut is_open, "Inspector")
                    .on_hover_text("Show or hide what the model looks at")
                    .changed()
                {
                    actions.push(Action::ShowInspector(is_open));
                }
                ui.toggle_value(&mut self.windows.models, "Models");
                ui.toggle_value(&mut self.windows.settings, "Settings");
                ui.toggle_value(&mut self.windows.help, "Help");
                ui.separator();
                match &self.model {
                    Model::None => {
                        ui.weak("No model");
                    }
                    Model::Failed(_) => {
                        ui.colored_label(theme::error_color(ui), "The model could not be loaded");
                    }
                    Model::Loading {
                        progress, source, ..
                    } => {
                        ui.label(format!("Loading {}", crate::models::card::name(source)));
                        if let Some(progress) = progress {
                            loading_ui(ui, *progress, &mut model_actions);
                        }
                    }
                    Model::Ready(ready) => {
                        ui.label(format!("{} on {}", ready.name, ready.device));
                    }
                }
                let by_engine = self.busy_words().map(|words| (Action::Stop, words));
                let by_helper = self.helpers.waiting();
                let by_helper = by_helper.map(|(task, words)| (Action::CallOff(task), words));
                if let Some((end, words)) = by_engine.or(by_helper) {
                    ui.spinner();
                    ui.label(words);
                    if ui.button("Stop it").clicked() {
                        actions.push(end);
                    }
                }
            });
        });
        actions.extend(model_actions.into_iter().map(Action::Model));
    }

    /// What runs besides answers.
    fn busy_words(&self) -> Option<&'static str> {
        match self.link.jobs().next()? {
            Purpose::Load | Purpose::Answer => None,
            Purpose::Record => Some("Recording the conversation"),
            Purpose::RecordDense => Some("Recording dense attention"),
            Purpose::RecordHeads { .. } => Some("Recording heads"),
            Purpose::WhatIfBase | Purpose::WhatIfForced | Purpose::WhatIfWrites => {
                Some("Running the what-if")
            }
        }
    }

    fn notices_ui(&self, ui: &mut Ui, actions: &mut Vec<Action>) {
        if self.notices.is_empty() {
            return;
        }
        egui::Panel::top("notices").show(ui, |ui| {
            for (index, notice) in self.notices.iter().enumerate() {
                ui.horizontal_wrapped(|ui| {
                    let close = ui.small_button("×").on_hover_text("Put away");
                    if close
                        .accessible_name(format!("Put notice {} away", index + 1))
                        .clicked()
                    {
                        actions.push(Action::PutAway(index));
                    }
                    let text = egui::RichText::new(&notice.text);
                    let text = if notice.is_error {
                        text.color(theme::error_color(ui))
                    } else {
                        text
                    };
                    ui.add(egui::Label::new(text).wrap());
                });
            }
        });
    }

    fn sidebar_panel_ui(&mut self, ui: &mut Ui, actions: &mut Vec<Action>) {
        let mut wanted = Vec::new();
        egui::Panel::left("conversations")
            .default_size(theme::SIDEBAR_WIDTH)
            .show(ui, |ui| {
                let view = SidebarView {
                    folders: &self.folders,
                    conversations: &self.conversations,
                    open: self.open.map(|open| open.0),
                    hits: self.hits.as_deref(),
                    deleted: self.deleted.as_ref().map(|(_, title)| title.as_str()),
                };
                sidebar_ui(ui, &mut self.sidebar_state, &view, &mut wanted);
            });
        actions.extend(wanted.into_iter().map(Action::Sidebar));
    }

    fn inspector_panel_ui(&mut self, ui: &mut Ui, actions: &mut Vec<Action>) {
        let mut wanted = Vec::new();
        let ranges = self.message_ranges();
        // Drawn with a state of its own: the rest of the app is only looked at.
        let mut state = std::mem::take(&mut self.inspecting.state);
        egui::Panel::right("inspector")
            .default_size(theme::INSPECTOR_WIDTH)
            .show(ui, |ui| {
                let shown = self.shown(&ranges);
                inspector_ui(ui, &shown, &mut state, &mut wanted);
            });
        self.inspecting.state = state;
        actions.extend(wanted.into_iter().map(Action::Inspector));
    }

    fn chat_panel_ui(&mut self, ui: &mut Ui, actions: &mut Vec<Action>) {
        let mut state = std::mem::take(&mut self.chat_state);
        let mut wanted = Vec::new();
        let blocked = self.blocked();
        let tints = self.tints(ui);
        let spans = self.token_spans(&tints);
        let shown: Vec<Shown<'_>> = self
            .path
            .iter()
            .map(|entry| self.shown_entry(entry))
            .collect();
        let messages: Vec<MessageView<'_>> = shown
            .iter()
            .zip(&spans)
            .map(|(shown, spans)| shown.view(spans))
            .collect();
        let view = ChatView {
            conversation: self.open.map_or(0, |open| open.0.unsigned_abs()),
            messages: &messages,
            composer: self.composer_view(blocked.as_deref()),
            model: self.model.ready().map(|ready| ready.name.as_str()),
        };
        egui::CentralPanel::default().show(ui, |ui| {
            chat_ui(ui, &mut state, &view, &mut wanted);
        });
        self.chat_state = state;
        actions.extend(wanted.into_iter().map(Action::Chat));
    }

    fn composer_view<'a>(&'a self, blocked: Option<&'a str>) -> ComposerView<'a> {
        let context = self.model.ready().map(|ready| {
            let n_used = match &self.answer {
                Some(answer) => answer
                    .prompt_ids
                    .len()
                    .max(answer.ids.len() + answer.prompt_ids.len()),
                None => {
                    let facts = self
                        .path
                        .iter()
                        .rev()
                        .find_map(|entry| entry.node.facts.as_ref());
                    facts.map_or(0, |facts| facts.prompt_ids.len() + facts.ids.len())
                }
            };
            ContextView {
                n_used,
                n_limit: ready.config.max_position_embeddings,
                n_draft: None,
            }
        });
        ComposerView {
            is_running: self.answer.is_some(),
            prefill: self.answer.as_ref().and_then(|answer| answer.prefill),
            context,
            blocked,
        }
    }

    /// An entry of the branch; the answer that is being written as it is now.
    fn shown_entry<'a>(&'a self, entry: &'a PathEntry) -> Shown<'a> {
        let growing = self
            .answer
            .as_ref()
            .filter(|answer| answer.node == entry.node.id);
        let facts = entry.node.facts.as_ref().filter(|_| growing.is_none());
        let message = growing.map_or(&entry.node.message, |answer| &answer.message);
        let thinking = message
            .reasoning_content
            .as_deref()
            .map(|text| ThinkingView {
                text,
                seconds: facts
                    .and_then(|facts| facts.thinking_ms)
                    .map(|ms| ms / 1000.0),
                is_running: growing.is_some_and(|answer| answer.is_thinking),
            });
        let state = match (growing, entry.node.state) {
            (Some(answer), _) if answer.ids.is_empty() => MessageState::Waiting,
            (Some(_), _) => MessageState::Streaming,
            (None, NodeState::Complete) => MessageState::Done,
            (None, NodeState::Streaming | NodeState::Stopped) => MessageState::Stopped,
            (None, NodeState::Failed) => {
                let reason = facts.map_or("", |facts| facts.stop.as_str());
                MessageState::Failed(reason.strip_prefix("failed: ").unwrap_or(reason))
            }
        };
        Shown {
            entry,
            message,
            thinking,
            facts,
            state,
        }
    }

    /// Makes the texts of tokens for answers that have none yet.
    fn make_spans(&mut self) {
        if !self.inspecting.is_open {
            self.spans.clear();
            return;
        }
        let Some(tokenizer) = self.model.ready().and_then(|ready| ready.tokenizer.clone()) else {
            self.spans.clear();
            return;
        };
        self.spans.resize_with(self.path.len(), Spans::default);
        for (entry, spans) in self.path.iter().zip(&mut self.spans) {
            let growing = self
                .answer
                .as_ref()
                .filter(|answer| answer.node == entry.node.id);
            let ids = match (growing, &entry.node.facts) {
                (Some(answer), _) => &answer.ids[..],
                (None, Some(facts)) => &facts.ids[..],
                (None, None) => &[],
            };
            if spans.node != Some(entry.node.id) || spans.texts.len() > ids.len() {
                *spans = Spans {
                    node: Some(entry.node.id),
                    texts: Vec::new(),
                };
            }
            if spans.texts.len() < ids.len() {
                // Half characters come out with the token that completes them.
                let mut stream = Utf8Stream::new(tokenizer.clone());
                let again = spans.texts.len().saturating_sub(8);
                spans.texts.truncate(again);
                for &id in &ids[again..] {
                    spans.texts.push(stream.push(id).unwrap_or_default());
                }
            }
        }
    }

    /// How strongly each position is tinted: by the layers that read it for the pass that is shown.
    fn tints(&self, ui: &Ui) -> Vec<Option<egui::Color32>> {
        let (Some(recording), true) = (&self.inspecting.recording, self.inspecting.is_open) else {
            return Vec::new();
        };
        let shown = self.shown(&[]);
        let Some(query) = self.inspecting.state.query_in(&shown) else {
            return Vec::new();
        };
        if !recording.is_recorded(query) {
            return Vec::new();
        }
        let palette = Palette::of(ui.visuals());
        let counts = recording.n_layers_selecting(query);
        let n_layers = recording.header().n_layers.max(1) as f32;
        counts
            .iter()
            .map(|&n| {
                (n > 0).then(|| {
                    palette
                        .sequential(f32::from(n) / n_layers)
                        .gamma_multiply(0.45)
                })
            })
            .collect()
    }

    /// The tokens of each answer of the branch, as the chat draws them.
    fn token_spans<'a>(&'a self, tints: &[Option<egui::Color32>]) -> Vec<Vec<TokenSpan<'a>>> {
        let n_tokens = self
            .inspecting
            .recording
            .as_ref()
            .map_or(0, Recording::n_tokens);
        let state = &self.inspecting.state;
        let selected = state.selected.or(n_tokens.checked_sub(1));
        let starts = self.starts.starts.iter();
        let spans = self
            .path
            .iter()
            .zip(&self.spans)
            .zip(starts)
            .map(|((entry, spans), start)| {
                let growing = self
                    .answer
                    .as_ref()
                    .filter(|answer| answer.node == entry.node.id);
                let start = match growing {
                    Some(answer) => Some(answer.prompt_ids.len()),
                    None => *start,
                };
                let Some(start) = start else {
                    return Vec::new();
                };
                spans
                    .texts
                    .iter()
                    .enumerate()
                    .map(|(index, text)| {
                        let position = start + index;
                        TokenSpan {
                            position,
                            text,
                            tint: tints.get(position).copied().flatten(),
                            is_selected: selected == Some(position),
                            is_hovered: state.hovered == Some(position),
                        }
                    })
                    .collect()
            });
        let mut spans: Vec<Vec<TokenSpan<'a>>> = spans.collect();
        spans.resize_with(self.path.len(), Vec::new);
        spans
    }

    /// Windows over the panels.
    fn windows_ui(&mut self, ui: &mut Ui, actions: &mut Vec<Action>) {
        let ctx = ui.ctx().clone();
        self.settings_window_ui(&ctx, actions);
        self.models_window_ui(&ctx, actions);
        dialog("Help")
            .open(&mut self.windows.help)
            .show(&ctx, |ui| {
                egui::ScrollArea::vertical().show(ui, |ui| {
                    shortcuts::help_ui(ui);
                    ui.separator();
                    for view in crate::inspector::VIEWS {
                        ui.strong(view.title);
                        ui.label(view.about);
                    }
                });
            });
        if let Some(question) = &mut self.question {
            let works = [Task::Dialog, Task::Save, Task::Import, Task::Trace]
                .into_iter()
                .any(|task| self.helpers.is_running(task));
            actions.extend(question.ui(&ctx, works).map(Action::Reply));
        }
    }

    fn settings_window_ui(&mut self, ctx: &egui::Context, actions: &mut Vec<Action>) {
        let mut wanted = Vec::new();
        let mut is_open = self.windows.settings;
        let indexer = self
            .model
            .ready()
            .map(|ready| ready.config.indexer.as_ref());
        let view = SettingsView {
            has_indexer: indexer.is_none_or(|indexer| indexer.is_some()),
            model_index_topk: indexer.flatten().map(|indexer| indexer.index_topk),
            model_sampling: self.model.ready().map(|ready| ready.sampling),
            own_presets: &self.own_presets,
        };
        dialog("Settings")
            .open(&mut is_open)
            .vscroll(true)
            .show(ctx, |ui| {
                ui.heading("This conversation");
                let (state, settings) = (&mut self.settings_state, &mut self.settings);
                conversation_settings_ui(ui, state, settings, &view, &mut wanted);
                ui.separator();
                ui.heading("The app");
                app_settings_ui(ui, &mut self.app_settings, &mut wanted);
            });
        self.windows.settings = is_open;
        actions.extend(wanted.into_iter().map(Action::Settings));
    }

    fn models_window_ui(&mut self, ctx: &egui::Context, actions: &mut Vec<Action>) {
        let mut wanted = Vec::new();
        let mut is_open = self.windows.models;
        let loaded = self
            .model
            .ready()
            .map(|ready| format!("{} on {}", ready.name, ready.device));
        let failed = match &self.model {
            Model::Failed(problem) => Some(problem.as_str()),
            _ => None,
        };
        let loading = match &self.model {
            Model::Loading { progress, .. } => *progress,
            _ => None,
        };
        let view = ModelsView {
            card: self.card.as_ref(),
            problem: self.card_problem.as_deref().or(failed),
            devices: &self.devices,
            recent: &self.recent_models,
            has_embedded: embedded().is_some(),
            loaded: loaded.as_deref(),
            loading,
            is_dropping: ctx.input(|input| !input.raw.hovered_files.is_empty()),
        };
        dialog("Models")
            .open(&mut is_open)
            .vscroll(true)
            .show(ctx, |ui| {
                models_ui(ui, &mut self.models_state, &view, &mut wanted)
            });
        self.windows.models = is_open;
        actions.extend(wanted.into_iter().map(Action::Model));
    }
}

/// A window over the panels, below the bar with its switch.
fn dialog(title: &str) -> egui::Window<'_> {
    egui::Window::new(title)
        .default_pos(theme::DIALOG_POSITION)
        .default_size(theme::DIALOG_SIZE)
}

/// An entry of the branch as it is shown.
struct Shown<'a> {
    entry: &'a PathEntry,
    message: &'a engine::chat::Message,
    thinking: Option<ThinkingView<'a>>,
    facts: Option<&'a AnswerFacts>,
    state: MessageState<'a>,
}

impl<'a> Shown<'a> {
    fn view(&'a self, spans: &'a [TokenSpan<'a>]) -> MessageView<'a> {
        let entry = self.entry;
        let is_answer = self.message.role == Role::Assistant;
        let facts = self
            .facts
            .filter(|facts| !facts.ids.is_empty())
            .map(|facts| FactsView {
                tokens_per_second: facts.tokens_per_second(),
                first_token_seconds: facts.first_token_ms.map(|ms| ms / 1000.0),
                n_prompt: Some(facts.prompt_ids.len()),
                n_generated: Some(facts.ids.len()),
                stop: match facts.stop.as_str() {
                    "" | "end of text" => None,
                    stop => Some(stop),
                },
                model: Some(&facts.model),
            });
        MessageView {
            thinking: self.thinking,
            tool_calls: &self.message.tool_calls,
            tokens: (is_answer && !spans.is_empty()).then_some(spans),
            branch: (entry.n_siblings() > 1).then(|| BranchView {
                index: entry.index_among_siblings,
                count: entry.n_siblings(),
                label: None,
            }),
            can_inspect: facts.is_some(),
            facts,
            state: self.state,
            ..MessageView::new(
                id_of(entry.node.id),
                self.message.role,
                &self.message.content,
            )
        }
    }
}
