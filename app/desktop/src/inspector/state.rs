//! What the inspector remembers between two frames.

use super::facts::Facts;
use super::lines::Lines;
use super::{Form, InspectorAction, Shown, VIEWS, experts, parts};
use crate::heatmap;
use crate::recording::Recording;

/// Which pass of the model is shown for a token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Pass {
    /// The one that chose it: it read the token before.
    #[default]
    Wrote,
    /// The one that read it.
    Read,
}

/// What the transcript is tinted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Tint {
    /// Nothing.
    None,
    /// Log-probability of the token.
    LogProbability,
    /// Entropy of the distribution that it was chosen from.
    Entropy,
    /// How many layers selected it for the current query.
    #[default]
    Layers,
    /// Attention on it from the current query, mean over layers.
    Mass,
}

impl Tint {
    /// Every quantity and its name.
    pub const ALL: [(Self, &'static str); 5] = [
        (Self::Layers, "layers that selected it"),
        (Self::Mass, "attention mass"),
        (Self::LogProbability, "log-probability"),
        (Self::Entropy, "entropy"),
        (Self::None, "nothing"),
    ];
}

/// Which tokens the map of experts is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Scope {
    /// The pass shown.
    #[default]
    Token,
    /// The message of the selected token.
    Message,
    /// Everything recorded.
    Everything,
}

/// What the inspector remembers between two frames.
#[derive(Debug, Default)]
pub struct State {
    /// Index into [`super::VIEWS`].
    pub view: usize,
    /// Position of the selected token; `None` for the newest.
    pub selected: Option<usize>,
    /// Which pass is shown for it.
    pub pass: Pass,
    /// Selected layer.
    pub layer: usize,
    /// Selected head.
    pub head: usize,
    /// Selected expert: layer and expert.
    pub expert: Option<(usize, usize)>,
    /// Position under the pointer, in whichever view. The app may set it, too.
    pub hovered: Option<usize>,
    /// What the transcript is tinted by.
    pub tint: Tint,
    /// Whether template and special tokens are shown.
    pub show_special: bool,
    /// Which tokens the map of experts is over.
    pub scope: Scope,
    /// What-if form.
    pub form: Form,
    /// Whether the layer is settled: by the user, or by [`State::settle_layer`].
    pub(super) is_layer_settled: bool,
    pub(super) pointed: Option<usize>,
    /// Where the pointer was in the frame before.
    pub(super) pointed_before: Option<usize>,
    pub(super) pointer_inside: bool,
    pub(super) selection_map: heatmap::View,
    pub(super) heads_map: heatmap::View,
    pub(super) experts_map: heatmap::View,
    pub(super) facts: Memo<(u64, usize, bool), Facts>,
    pub(super) loads: Memo<(u64, usize, usize), experts::Loads>,
    pub(super) served: Memo<(u64, usize, usize), Vec<(usize, f32)>>,
    pub(super) lines: Lines,
    /// Token that the transcript was last scrolled to.
    pub(super) scrolled_to: Option<usize>,
}

impl State {
    /// What a file of a view depends on, without what was computed for drawing.
    pub(super) fn for_export(&self) -> Self {
        Self {
            view: self.view,
            selected: self.selected,
            pass: self.pass,
            layer: self.layer,
            head: self.head,
            expert: self.expert,
            tint: self.tint,
            show_special: self.show_special,
            scope: self.scope,
            selection_map: self.selection_map.place(),
            heads_map: self.heads_map.place(),
            experts_map: self.experts_map.place(),
            ..Self::default()
        }
    }

    /// Opens the view of two runs side by side.
    pub fn show_sides(&mut self) {
        self.view = VIEWS
            .iter()
            .position(|view| view.title == "What if")
            .unwrap_or(self.view);
    }

    /// Selects a token, or the newest.
    pub fn select(&mut self, position: Option<usize>, actions: &mut Vec<InspectorAction>) {
        if self.selected != position {
            self.selected = position;
            actions.push(InspectorAction::SelectToken(position));
        }
    }

    /// The selected position; `None` if there is no token.
    pub fn selected_in(&self, shown: &Shown<'_>) -> Option<usize> {
        let last = shown.recording?.n_tokens().checked_sub(1)?;
        Some(self.selected.unwrap_or(last).min(last))
    }

    /// The position whose pass is shown. Nobody chose the first token, so it stands for itself.
    pub fn query_in(&self, shown: &Shown<'_>) -> Option<usize> {
        let selected = self.selected_in(shown)?;
        Some(match self.pass {
            Pass::Wrote => selected.saturating_sub(1),
            Pass::Read => selected,
        })
    }

    /// The recording and the position whose pass is shown.
    pub(super) fn shown_pass<'a>(&self, shown: &Shown<'a>) -> Option<(&'a Recording, usize)> {
        Some((shown.recording?, self.query_in(shown)?))
    }

    /// The pointer is at `position` in this frame.
    pub(super) fn point_at(&mut self, position: usize) {
        self.pointed = Some(position);
    }

    /// A click on `position`: it is selected, or goes into the what-if form if that waits for one.
    pub(super) fn click(
        &mut self,
        shown: &Shown<'_>,
        position: usize,
        actions: &mut Vec<InspectorAction>,
    ) {
        if self.form.take(position) {
            return;
        }
        let last = shown.recording.map_or(0, Recording::n_tokens);
        if position < last {
            self.select(Some(position), actions);
        }
    }

    /// Facts about the pass shown, computed when they are first asked for.
    pub(super) fn facts(&mut self, shown: &Shown<'_>) -> Option<&Facts> {
        let (recording, query) = self.shown_pass(shown)?;
        let key = (parts::version(shown), query, shown.dense.is_some());
        Some(
            self.facts
                .get(key, || Facts::new(recording, shown.dense, query)),
        )
    }

    /// Where nobody chose a layer: the one that retrieves most, once one does. The first layer, where one
    /// would begin otherwise, tends to have the least to show.
    pub(super) fn settle_layer(&mut self, shown: &Shown<'_>) {
        self.is_layer_settled |= self.layer != 0;
        if !self.is_layer_settled
            && let Some(layer) = self.facts(shown).and_then(Facts::most_retrieving)
        {
            self.layer = layer;
            self.is_layer_settled = true;
        }
    }

    /// Brings what was selected in another recording within this one.
    pub(super) fn begin(&mut self, shown: &Shown<'_>) {
        self.pointed = None;
        if let Some(recording) = shown.recording {
            let header = recording.header();
            self.layer = self.layer.min(header.n_layers.saturating_sub(1));
            self.head = self.head.min(header.n_heads.saturating_sub(1));
            self.expert = self.expert.filter(|&(layer, expert)| {
                layer < header.n_layers && expert < header.n_routed_experts
            });
        }
    }

    /// Takes over where the pointer is; whether that changed. A position that the app set stays until the pointer
    /// comes to another here.
    pub(super) fn end(&mut self) -> bool {
        let has_left = self.pointed.is_none() && self.pointed_before.is_some();
        self.pointed_before = self.pointed;
        if self.pointed.is_none() && !has_left {
            return false;
        }
        let changed = self.hovered != self.pointed;
        self.hovered = self.pointed;
        changed
    }
}

/// A value kept as long as its key stays the same.
#[derive(Debug)]
pub struct Memo<K, T>(Option<(K, T)>);

impl<K, T> Default for Memo<K, T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<K: PartialEq, T> Memo<K, T> {
    /// The value for `key`, made if it is not there.
    pub fn get(&mut self, key: K, make: impl FnOnce() -> T) -> &T {
        if self.0.as_ref().is_none_or(|(kept, _)| *kept != key) {
            self.0 = None;
        }
        &self.0.get_or_insert_with(|| (key, make())).1
    }
}
