//! What is to be changed.

use std::collections::BTreeSet;

use eframe::egui::{self, DragValue, Ui};

use super::WhatIf;
use crate::inspector::{InspectorAction, Shown, State, parts};
use crate::recording::Recording;

/// What the next click on a token does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pick {
    Ban,
    Pin,
}

/// What is filled in.
#[derive(Clone, Debug)]
pub struct Form {
    /// Whether `index_topk` is changed.
    pub changes_topk: bool,
    /// To what.
    pub index_topk: usize,
    /// Dense attention.
    pub dense: bool,
    /// Replay the routes.
    pub replay_routes: bool,
    /// In force while the tokens before are read, too.
    pub whole: bool,
    /// Tokens to generate.
    pub n_tokens: usize,
    /// Positions banned from selections.
    pub banned: BTreeSet<usize>,
    /// Positions pinned into selections.
    pub pinned: BTreeSet<usize>,
    /// Experts switched off: layer and expert.
    pub experts_off: BTreeSet<(usize, usize)>,
    expert: (usize, usize),
    pick: Option<Pick>,
}

impl Default for Form {
    fn default() -> Self {
        Self {
            changes_topk: false,
            index_topk: 16,
            dense: false,
            replay_routes: false,
            whole: false,
            n_tokens: 32,
            banned: BTreeSet::new(),
            pinned: BTreeSet::new(),
            experts_off: BTreeSet::new(),
            expert: (0, 0),
            pick: None,
        }
    }
}

impl Form {
    /// Bans a position, or no longer. What is banned is not pinned.
    pub fn toggle_banned(&mut self, position: usize) {
        self.pinned.remove(&position);
        if !self.banned.remove(&position) {
            self.banned.insert(position);
        }
    }

    /// Pins a position, or no longer. What is pinned is not banned.
    pub fn toggle_pinned(&mut self, position: usize) {
        self.banned.remove(&position);
        if !self.pinned.remove(&position) {
            self.pinned.insert(position);
        }
    }

    /// Switches an expert off.
    pub fn switch_off(&mut self, layer: usize, expert: usize) {
        self.experts_off.insert((layer, expert));
    }

    /// Takes a click on `position`, if the form waits for one.
    pub fn take(&mut self, position: usize) -> bool {
        match self.pick {
            Some(Pick::Ban) => self.toggle_banned(position),
            Some(Pick::Pin) => self.toggle_pinned(position),
            None => return false,
        }
        true
    }

    /// What a click on a token does now, if the form waits for one.
    pub fn waits_for(&self) -> Option<&'static str> {
        self.pick.map(|pick| match pick {
            Pick::Ban => "Click tokens to ban them from the selection",
            Pick::Pin => "Click tokens to pin them into the selection",
        })
    }

    /// Clicks select again.
    pub fn stop_picking(&mut self) {
        self.pick = None;
    }

    /// What is asked for, from position `from` on.
    pub fn request(&self, from: usize) -> WhatIf {
        // Later tokens are not there yet where the new text begins.
        let before = |positions: &BTreeSet<usize>| positions.range(..from).copied().collect();
        WhatIf {
            from,
            whole: self.whole,
            n_tokens: self.n_tokens,
            index_topk: self.changes_topk.then_some(self.index_topk),
            dense: self.dense,
            experts_off: self.experts_off.iter().copied().collect(),
            banned: before(&self.banned),
            pinned: before(&self.pinned),
            replay_routes: self.replay_routes,
        }
    }
}

/// Draws the form.
pub fn form_ui(
    ui: &mut Ui,
    shown: &Shown<'_>,
    state: &mut State,
    recording: &Recording,
    selected: usize,
    actions: &mut Vec<InspectorAction>,
) {
    let from = selected.max(1);
    let header = recording.header();
    ui.label(format!(
        "Run again from token {from} ({}) with something changed",
        parts::quoted(recording, from.min(recording.n_tokens() - 1))
    ));
    let form = &mut state.form;
    ui.horizontal_wrapped(|ui| {
        ui.checkbox(&mut form.dense, "Dense attention");
        ui.add_enabled_ui(!form.dense, |ui| {
            ui.checkbox(&mut form.changes_topk, "Another index_topk");
            let most = header.context.max(recording.n_tokens()).max(1);
            let value = DragValue::new(&mut form.index_topk).range(1..=most);
            ui.add_enabled(form.changes_topk, value)
                .accessible_name("index_topk");
        });
        ui.checkbox(&mut form.replay_routes, "Replay the routes")
            .on_hover_text("Tokens go to the experts of the recording, whatever the gate says");
        ui.checkbox(&mut form.whole, "For the whole text")
            .on_hover_text(
                "The change is in force while the tokens before are read, too, not only from this token on",
            );
        ui.add(DragValue::new(&mut form.n_tokens).range(1..=4096))
            .accessible_name("Tokens to generate");
        ui.label("tokens");
    });
    if !header.moe_layers.is_empty() && header.n_routed_experts > 0 {
        expert_ui(ui, form, recording);
    }
    positions_ui(ui, form, recording, from);
    run_ui(ui, shown, state, from, actions);
}

fn expert_ui(ui: &mut Ui, form: &mut Form, recording: &Recording) {
    let header = recording.header();
    ui.horizontal_wrapped(|ui| {
        ui.label("Expert off: layer");
        let (first, last) = (
            header.moe_layers.first().copied().unwrap_or(0),
            header.moe_layers.last().copied().unwrap_or(0),
        );
        ui.add(DragValue::new(&mut form.expert.0).range(first..=last))
            .accessible_name("Layer of the expert");
        ui.label("expert");
        ui.add(DragValue::new(&mut form.expert.1).range(0..=header.n_routed_experts - 1))
            .accessible_name("Expert");
        if ui.button("Switch off").clicked() {
            let (layer, expert) = form.expert;
            form.switch_off(layer.clamp(first, last), expert);
        }
        for (layer, expert) in form.experts_off.clone() {
            let chip = ui.button(format!("{expert} of layer {layer} ×"));
            if chip.on_hover_text("Switch it on again").clicked() {
                form.experts_off.remove(&(layer, expert));
            }
        }
    });
}

fn positions_ui(ui: &mut Ui, form: &mut Form, recording: &Recording, from: usize) {
    for (pick, name, tip) in [
        (
            Pick::Ban,
            "Ban tokens",
            "No layer with an indexer may select them",
        ),
        (
            Pick::Pin,
            "Pin tokens",
            "Every layer with an indexer must select them",
        ),
    ] {
        ui.horizontal_wrapped(|ui| {
            let is_on = form.pick == Some(pick);
            if ui
                .selectable_label(is_on, name)
                .on_hover_text(tip)
                .clicked()
            {
                form.pick = (!is_on).then_some(pick);
            }
            let positions = match pick {
                Pick::Ban => &mut form.banned,
                Pick::Pin => &mut form.pinned,
            };
            for position in positions.clone() {
                let chip = format!("{position} {} ×", parts::column_text(recording, position));
                let chip = ui.button(chip).on_hover_text("Remove");
                if chip.clicked() {
                    positions.remove(&position);
                }
                if position >= from {
                    ui.weak("(not before the start, has no effect)");
                }
            }
            if is_on {
                ui.weak("Click them in the transcript or in the selection map");
            }
        });
    }
}

fn run_ui(
    ui: &mut Ui,
    shown: &Shown<'_>,
    state: &State,
    from: usize,
    actions: &mut Vec<InspectorAction>,
) {
    let request = state.form.request(from);
    let why_not = "Needs a model that is loaded and idle";
    ui.horizontal_wrapped(|ui| {
        let run = ui.add_enabled(shown.can_run, egui::Button::new("Run"));
        if run.on_disabled_hover_text(why_not).clicked() {
            actions.push(InspectorAction::RunWhatIf(request.clone()));
        }
        let dense = egui::Button::new("Dense against sparse");
        let dense = ui.add_enabled(shown.can_run, dense);
        let tip = "The same context with dense attention and nothing else changed";
        if dense
            .on_hover_text(tip)
            .on_disabled_hover_text(why_not)
            .clicked()
        {
            actions.push(InspectorAction::RunWhatIf(WhatIf {
                from,
                whole: state.form.whole,
                n_tokens: state.form.n_tokens,
                dense: true,
                ..WhatIf::default()
            }));
        }
        ui.weak(request.words());
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_banned_is_not_pinned_and_a_second_time_takes_it_back() {
        let mut form = Form::default();
        form.toggle_banned(3);
        form.toggle_pinned(3);
        assert!(form.banned.is_empty() && form.pinned.contains(&3));
        form.toggle_pinned(3);
        assert!(form.pinned.is_empty());
    }

    #[test]
    fn only_positions_before_the_start_are_asked_for() {
        let mut form = Form::default();
        for position in [9, 2, 5] {
            form.toggle_banned(position);
        }
        form.index_topk = 7;
        let request = form.request(5);
        assert_eq!(request.banned, [2]);
        assert_eq!(request.index_topk, None, "it is not ticked");
        form.changes_topk = true;
        assert_eq!(form.request(10).banned, [2, 5, 9]);
        assert_eq!(form.request(10).index_topk, Some(7));
    }

    #[test]
    fn clicks_are_taken_only_while_the_form_waits_for_them() {
        let mut form = Form::default();
        assert!(!form.take(1));
        form.pick = Some(Pick::Pin);
        assert!(form.take(1) && form.pinned.contains(&1));
        form.stop_picking();
        assert!(!form.take(2) && !form.pinned.contains(&2));
    }
}
