//! The same tokens again with something changed: what is asked for, and what came of it.

mod form;
mod result;

use eframe::egui::Ui;

pub use form::Form;
pub use result::{Sides, picture, table};

use super::{InspectorAction, Shown, State, parts};

/// A run with something changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WhatIf {
    /// Tokens before this position stay as they are; this one and those after it are generated anew.
    pub from: usize,
    /// Whether the change is in force while the tokens before are read, too; else only from the pass on
    /// that writes the first new token, over caches as they were.
    pub whole: bool,
    /// How many tokens are generated.
    pub n_tokens: usize,
    /// Positions that a token may read, if changed.
    pub index_topk: Option<usize>,
    /// Every layer reads everything.
    pub dense: bool,
    /// Experts that no token is sent to: layer and expert.
    pub experts_off: Vec<(usize, usize)>,
    /// Positions that no layer with an indexer may select, ascending.
    pub banned: Vec<usize>,
    /// Positions that every layer with an indexer must select, ascending.
    pub pinned: Vec<usize>,
    /// Tokens go to the experts of the recording, whatever the gate says.
    pub replay_routes: bool,
}

impl WhatIf {
    /// What is changed, in words.
    pub fn words(&self) -> String {
        let mut changes = Vec::new();
        if self.dense {
            changes.push("dense attention".to_owned());
        }
        if let Some(topk) = self.index_topk {
            changes.push(format!("index_topk {topk}"));
        }
        for (layer, expert) in &self.experts_off {
            changes.push(format!("expert {expert} of layer {layer} off"));
        }
        for (name, positions) in [("banned", &self.banned), ("pinned", &self.pinned)] {
            if !positions.is_empty() {
                let list: Vec<String> = positions.iter().map(usize::to_string).collect();
                changes.push(format!("{name}: {}", list.join(", ")));
            }
        }
        if self.replay_routes {
            changes.push("routes replayed".to_owned());
        }
        if changes.is_empty() {
            changes.push("nothing changed".to_owned());
        }
        let changes = changes.join("; ");
        if self.whole {
            format!(
                "{changes}; for the whole text, written anew from token {} on",
                self.from
            )
        } else {
            format!("{changes}; from token {} on", self.from)
        }
    }
}

/// Draws the view.
pub fn what_if_ui(
    ui: &mut Ui,
    shown: &Shown<'_>,
    state: &mut State,
    actions: &mut Vec<InspectorAction>,
) {
    let (Some(recording), Some(selected)) = (shown.recording, state.selected_in(shown)) else {
        parts::nothing_ui(ui, shown, actions);
        return;
    };
    eframe::egui::ScrollArea::vertical()
        .id_salt("what if")
        .auto_shrink([false, false])
        .show(ui, |ui| {
            form::form_ui(ui, shown, state, recording, selected, actions);
            ui.separator();
            result::result_ui(ui, shown, state, actions);
        });
}
