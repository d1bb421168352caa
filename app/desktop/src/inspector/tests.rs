//! The whole inspector, driven by the labels of its widgets.

mod exports;
mod linked;
mod snapshots;
mod survival;
mod views;

use egui_kittest::Harness;
use egui_kittest::kittest::{NodeT as _, Queryable as _};

use super::*;

/// What the inspector is shown in a test, and what it asked for.
#[derive(Default)]
pub struct World {
    recording: Option<Recording>,
    dense: Option<Recording>,
    sides: Option<Sides>,
    messages: Vec<std::ops::Range<usize>>,
    live: LiveStats,
    is_recording: bool,
    can_run: bool,
    cost: Option<RecordingCost>,
    revision: u64,
    state: State,
    actions: Vec<InspectorAction>,
    /// Milliseconds that the last frame took to draw.
    frame_ms: f64,
}

impl World {
    fn of(recording: Recording) -> Self {
        Self {
            recording: Some(recording),
            can_run: true,
            ..Self::default()
        }
    }

    /// [`testing::tiny`] with all that goes with it, at a token that the model wrote.
    fn full() -> Self {
        let mut world = Self {
            dense: Some(testing::dense()),
            sides: Some(testing::variant()),
            live: testing::live(),
            ..Self::of(testing::tiny())
        };
        world.state.selected = Some(30);
        world.state.layer = 2;
        world
    }

    fn shown(&self) -> Shown<'_> {
        Shown {
            recording: self.recording.as_ref(),
            dense: self.dense.as_ref(),
            sides: self.sides.as_ref(),
            messages: &self.messages,
            live: self.live.clone(),
            is_recording: self.is_recording,
            can_run: self.can_run,
            recording_cost: self.cost,
            revision: self.revision,
        }
    }

    fn view(mut self, title: &str) -> Self {
        self.state.view = view_of(title);
        self
    }

    fn harness(self) -> Harness<'static, Self> {
        self.harness_of([1100.0, 900.0])
    }

    fn harness_of(self, size: [f32; 2]) -> Harness<'static, Self> {
        let mut harness = Harness::builder()
            .with_size(size)
            .allow_missing_glyphs()
            .build_ui_state(draw, self);
        harness.run();
        harness
    }
}

fn draw(ui: &mut Ui, world: &mut World) {
    let start = std::time::Instant::now();
    let mut state = std::mem::take(&mut world.state);
    let mut actions = std::mem::take(&mut world.actions);
    inspector_ui(ui, &world.shown(), &mut state, &mut actions);
    world.state = state;
    world.actions = actions;
    world.frame_ms = start.elapsed().as_secs_f64() * 1e3;
}

fn view_of(title: &str) -> usize {
    let index = VIEWS.iter().position(|view| view.title == title);
    index.unwrap_or_else(|| panic!("no view {title:?}"))
}

/// Clicks the widget with this label and gives the actions that came of it.
fn click(harness: &mut Harness<'_, World>, label: &str) -> Vec<InspectorAction> {
    harness.state_mut().actions.clear();
    harness.get_by_label(label).click();
    harness.run();
    wanted(harness)
}

/// Actions so far, without those of the pointer.
fn wanted(harness: &Harness<'_, World>) -> Vec<InspectorAction> {
    let actions = harness.state().actions.iter();
    actions
        .filter(|action| !matches!(action, InspectorAction::Hover(_)))
        .cloned()
        .collect()
}

/// Whether some widget says this.
fn says(harness: &Harness<'_, World>, words: &str) -> bool {
    harness.query_all_by_label_contains(words).next().is_some()
}

#[test]
fn every_tab_opens_its_view() {
    let mut harness = World::full().harness();
    for (index, view) in VIEWS.iter().enumerate() {
        click(&mut harness, view.title);
        assert_eq!(harness.state().state.view, index);
        assert!(!view.about.is_empty());
    }
}

#[test]
fn titles_are_different_and_in_sentence_case() {
    let titles: std::collections::BTreeSet<_> = VIEWS.iter().map(|view| view.title).collect();
    assert_eq!(titles.len(), VIEWS.len());
    for view in VIEWS {
        let rest = &view.title[1..];
        assert_eq!(rest, rest.to_lowercase());
        assert!(!view.title.ends_with('.') && !view.about.ends_with('.'));
    }
}
