//! Shows what went on inside the model when it wrote one token: what every layer read, how it weighed it, which
//! experts worked, what else could have come, and what would have come otherwise.
//!
//! One token is selected, in the transcript or on the time line, and every view is about it; a position under the
//! pointer in one view is marked in all. The views only look at recordings. What the user wants done comes back as
//! [`InspectorAction`]s; running the model and writing files is the app's business.

mod attention;
mod experts;
mod export;
mod facts;
mod lines;
mod logits;
mod parts;
mod selection;
mod state;
#[cfg(test)]
mod testing;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panic")]
mod tests;
mod timings;
mod transcript;
mod what_if;

use eframe::egui::{self, Key, Slider, Ui};

pub use export::{ExportKind, Snapshot, export, export_name};
pub use state::{Pass, Scope, State, Tint};
pub use what_if::{Form, Sides, WhatIf};

use crate::picture::{Caption, Picture, Table};
use crate::recording::Recording;

/// One view of the inspector.
pub struct View {
    /// Title of its tab.
    pub title: &'static str,
    /// What it answers, in one sentence.
    pub about: &'static str,
    /// Draws it.
    pub ui: fn(&mut Ui, &Shown<'_>, &mut State, &mut Vec<InspectorAction>),
    /// Its data.
    pub table: fn(&Shown<'_>, &State) -> Table,
    /// Its picture, for export.
    pub picture: fn(&Shown<'_>, &State, &Caption) -> Picture,
}

/// Every view, in the order of the tabs.
pub const VIEWS: &[View] = &[
    View {
        title: "Transcript",
        about: "The text as the model got it, token by token, tinted by what was measured",
        ui: transcript::transcript_ui,
        table: transcript::table,
        picture: transcript::picture,
    },
    View {
        title: "Selection",
        about: "Which earlier tokens each layer read, and how much weight each of them got",
        ui: selection::selection_ui,
        table: selection::table,
        picture: selection::picture,
    },
    View {
        title: "Attention",
        about: "How each head of a layer weighed the tokens that the layer read",
        ui: attention::attention_ui,
        table: attention::table,
        picture: attention::picture,
    },
    View {
        title: "Experts",
        about: "Which experts did the work, and how evenly it was spread",
        ui: experts::experts_ui,
        table: experts::table,
        picture: experts::picture,
    },
    View {
        title: "Logits",
        about: "Which tokens could have stood here, and which of them sampling cut off",
        ui: logits::logits_ui,
        table: logits::table,
        picture: logits::picture,
    },
    View {
        title: "Timings",
        about: "Where the time of this step went, how fast tokens came, what takes memory",
        ui: timings::timings_ui,
        table: timings::table,
        picture: timings::picture,
    },
    View {
        title: "What if",
        about: "The same tokens again with something changed, beside what was written",
        ui: what_if::what_if_ui,
        table: what_if::table,
        picture: what_if::picture,
    },
];

/// What the inspector shows.
#[derive(Default)]
pub struct Shown<'a> {
    /// What was recorded.
    pub recording: Option<&'a Recording>,
    /// A recording of the same tokens with dense attention.
    pub dense: Option<&'a Recording>,
    /// The two sides of the last what-if, or of the last comparison with a trace.
    pub sides: Option<&'a Sides>,
    /// Positions of each message, in order; empty if they are not known.
    pub messages: &'a [std::ops::Range<usize>],
    /// Numbers of the running engine.
    pub live: LiveStats,
    /// Whether what is written from now on is recorded.
    pub is_recording: bool,
    /// Whether a model is loaded and idle.
    pub can_run: bool,
    /// What recording costs, if it was measured.
    pub recording_cost: Option<RecordingCost>,
    /// Changes whenever one of the recordings does; what was computed from them is kept as long as it does not.
    pub revision: u64,
}

/// Numbers of the running engine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LiveStats {
    /// Speed over time: seconds since the start of the answer, tokens per second.
    pub tokens_per_second: Vec<(f32, f32)>,
    /// Memory by part: name, bytes.
    pub memory: Vec<(String, u64)>,
}

/// What recording costs per token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RecordingCost {
    /// Memory.
    pub bytes_per_token: f32,
    /// Time.
    pub ms_per_token: f32,
}

/// What the user wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum InspectorAction {
    /// This token was selected; `None` for whichever is the newest. The state holds it already.
    SelectToken(Option<usize>),
    /// The pointer came to this position, or left. The state holds it already.
    Hover(Option<usize>),
    /// Record what is written from now on.
    StartRecording,
    /// Stop that.
    StopRecording,
    /// Run the conversation again and record all of it.
    RecordWhole,
    /// Run the same tokens again with dense attention and record that.
    RecordDense,
    /// Run the tokens up to this position again and record the heads of this layer.
    RecordHeads {
        /// Position whose pass is wanted.
        position: usize,
        /// Layer.
        layer: usize,
    },
    /// Run again with something changed.
    RunWhatIf(WhatIf),
    /// Write the recording to a file.
    SaveTrace,
    /// Show a recording from a file.
    OpenTrace,
    /// Compare with a recording from a file.
    CompareTrace,
    /// Write a view to a file; see [`export`].
    Export {
        /// Index into [`VIEWS`].
        view: usize,
        /// As what.
        kind: ExportKind,
    },
    /// Put this text on the clipboard.
    CopyText(String),
}

/// The whole inspector: time line, tabs, and the view of the chosen tab.
pub fn inspector_ui(
    ui: &mut Ui,
    shown: &Shown<'_>,
    state: &mut State,
    actions: &mut Vec<InspectorAction>,
) {
    state.begin(shown);
    time_line_ui(ui, shown, state, actions);
    ui.horizontal_wrapped(|ui| {
        for (index, view) in VIEWS.iter().enumerate() {
            let tab = ui.selectable_label(state.view == index, view.title);
            if tab.on_hover_text(view.about).clicked() {
                state.view = index;
            }
        }
    });
    ui.separator();
    let view = &VIEWS[state.view.min(VIEWS.len() - 1)];
    ui.push_id(view.title, |ui| (view.ui)(ui, shown, state, actions));
    if state.end() {
        actions.push(InspectorAction::Hover(state.hovered));
        ui.ctx().request_repaint();
    }
}

/// Which token it is about, and what can be done with the recording.
fn time_line_ui(
    ui: &mut Ui,
    shown: &Shown<'_>,
    state: &mut State,
    actions: &mut Vec<InspectorAction>,
) {
    let n_tokens = shown.recording.map_or(0, Recording::n_tokens);
    ui.horizontal_wrapped(|ui| {
        if let Some(selected) = state.selected_in(shown) {
            let mut wanted = selected;
            let last = n_tokens - 1;
            let step = |ui: &mut Ui, sign: &str, name: &str, enabled: bool| {
                let button = ui.add_enabled(enabled, egui::Button::new(sign));
                button.on_hover_text(name).accessible_name(name).clicked()
            };
            if step(ui, "‹", "Previous token", selected > 0) {
                wanted = selected - 1;
            }
            ui.spacing_mut().slider_width = (ui.available_width() - 320.0).clamp(80.0, 600.0);
            let slider = Slider::new(&mut wanted, 0..=last).text("Token");
            ui.add(slider)
                .on_hover_text("Every view is about this token; the arrow keys move along");
            if step(ui, "›", "Next token", selected < last) {
                wanted = selected + 1;
            }
            let is_free = ui.memory(|memory| memory.focused().is_none());
            if is_free && (ui.ui_contains_pointer() || state.pointer_inside) {
                let pressed = |key| ui.input(|input| input.num_presses(key));
                wanted = (wanted + pressed(Key::ArrowRight))
                    .min(last)
                    .saturating_sub(pressed(Key::ArrowLeft));
            }
            if wanted != selected {
                state.select(Some(wanted), actions);
            }
            let newest = ui.selectable_label(state.selected.is_none(), "Newest");
            if newest.on_hover_text("Stay with the newest token").clicked() {
                state.select(None, actions);
            }
            pass_ui(ui, state);
        }
        recording_ui(ui, shown, state, actions);
    });
    state.pointer_inside = ui.ui_contains_pointer();
    if let (Some(recording), Some(selected)) = (shown.recording, state.selected_in(shown)) {
        let words = parts::token_words(recording, selected);
        let query = state.query_in(shown);
        ui.horizontal_wrapped(|ui| {
            ui.strong(words);
            ui.weak(match (state.pass, query) {
                (Pass::Wrote, Some(query)) if query < selected => format!(
                    "written by the pass that read token {query} ({})",
                    parts::quoted(recording, query)
                ),
                _ => format!("the pass that read token {selected}"),
            });
        });
    }
}

fn pass_ui(ui: &mut Ui, state: &mut State) {
    ui.separator();
    ui.selectable_value(&mut state.pass, Pass::Wrote, "Wrote it")
        .on_hover_text(
            "Show the pass that chose this token; the newest token it read is the one before",
        );
    ui.selectable_value(&mut state.pass, Pass::Read, "Read it")
        .on_hover_text("Show the pass that read this token itself, to choose the next");
}

fn recording_ui(ui: &mut Ui, shown: &Shown<'_>, state: &State, actions: &mut Vec<InspectorAction>) {
    ui.separator();
    if shown.is_recording {
        if ui.button("Stop recording").clicked() {
            actions.push(InspectorAction::StopRecording);
        }
    } else if ui
        .button("Record")
        .on_hover_text("Record what is written from now on")
        .clicked()
    {
        actions.push(InspectorAction::StartRecording);
    }
    let has_recording = shown.recording.is_some();
    ui.menu_button("Trace", |ui| {
        let whole = egui::Button::new("Record the whole conversation");
        if ui.add_enabled(shown.can_run, whole).clicked() {
            actions.push(InspectorAction::RecordWhole);
        }
        for (name, enabled, action) in [
            ("Save trace…", has_recording, InspectorAction::SaveTrace),
            ("Open trace…", true, InspectorAction::OpenTrace),
            (
                "Compare with trace…",
                has_recording,
                InspectorAction::CompareTrace,
            ),
        ] {
            if ui.add_enabled(enabled, egui::Button::new(name)).clicked() {
                actions.push(action);
            }
        }
    });
    ui.add_enabled_ui(has_recording, |ui| {
        ui.menu_button("Export", |ui| {
            for kind in ExportKind::ALL {
                if ui.button(kind.title()).clicked() {
                    let view = state.view;
                    actions.push(InspectorAction::Export { view, kind });
                }
            }
        });
    });
    if let Some(cost) = shown.recording_cost {
        ui.weak(format!(
            "recording takes {} and {:.2} ms per token",
            parts::bytes(f64::from(cost.bytes_per_token)),
            cost.ms_per_token
        ));
    }
}
