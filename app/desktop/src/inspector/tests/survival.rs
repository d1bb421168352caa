//! Recordings that views must survive, and what they must not do in each frame.

use super::*;

fn everywhere(name: &str, world: impl Fn() -> World) {
    for view in VIEWS {
        for pass in [Pass::Wrote, Pass::Read] {
            let mut world = world().view(view.title);
            world.state.pass = pass;
            let mut harness = world.harness();
            harness.run();
            assert!(
                harness.query_by_label(view.title).is_some(),
                "{name}: the tab of {} is gone",
                view.title
            );
        }
    }
}

#[test]
fn no_recording() {
    everywhere("none", World::default);
}

#[test]
fn an_empty_recording() {
    everywhere("empty", || World::of(testing::empty()));
}

#[test]
fn a_model_without_layers_of_which_nothing_was_recorded() {
    everywhere("bare", || World::of(testing::bare()));
}

#[test]
fn nothing_but_nan() {
    everywhere("nan", || World {
        recording: Some(testing::nan()),
        dense: Some(testing::nan()),
        sides: Sides::of_traces(testing::nan(), testing::nan(), || true),
        live: LiveStats {
            tokens_per_second: vec![(f32::NAN, f32::NAN); 3],
            memory: vec![("weights".to_owned(), 0), ("cache".to_owned(), u64::MAX)],
        },
        cost: Some(RecordingCost {
            bytes_per_token: f32::NAN,
            ms_per_token: f32::NAN,
        }),
        ..World::full()
    });
}

#[test]
fn everything_recorded() {
    everywhere("full", World::full);
}

#[test]
fn a_state_that_points_beyond_the_recording() {
    everywhere("beyond", || {
        let mut world = World::full();
        let state = &mut world.state;
        (state.selected, state.hovered) = (Some(9999), Some(9999));
        (state.layer, state.head) = (99, 99);
        state.expert = Some((99, 99));
        state.form.toggle_banned(9999);
        state.form.switch_off(99, 99);
        world
    });
}

#[test]
fn a_window_with_hardly_any_room() {
    for view in VIEWS {
        World::full().view(view.title).harness_of([60.0, 40.0]);
    }
}

#[test]
fn sixty_one_layers_of_131072_positions_and_no_frame_does_the_work_again() {
    let recording = testing::huge();
    for view in VIEWS {
        let world = World::of(recording.clone()).view(view.title);
        // The newest token was written by a pass that was recorded, and so was its own.
        let start = std::time::Instant::now();
        let mut harness = world.harness();
        let first_ms = start.elapsed().as_secs_f64() * 1e3;
        let rasters = |state: &State| {
            let maps = [&state.selection_map, &state.heads_map, &state.experts_map];
            maps.map(heatmap_rasters)
        };
        let before = rasters(&harness.state().state);
        let mut frames = Vec::new();
        for _ in 0..10 {
            harness.step();
            frames.push(harness.state().frame_ms);
        }
        assert_eq!(rasters(&harness.state().state), before, "{}", view.title);
        frames.sort_by(f64::total_cmp);
        println!(
            "{}: opened in {first_ms:.1} ms, then {:.2} ms per frame",
            view.title, frames[5]
        );
    }
}

fn heatmap_rasters(view: &crate::heatmap::View) -> usize {
    view.n_rasterised()
}

#[test]
fn a_transcript_of_131072_tokens_makes_only_the_visible_ones() {
    let harness = World::of(testing::huge()).view("Transcript").harness();
    let n = harness.query_all_by_label_contains(": ").count();
    assert!((20..4000).contains(&n), "{n} tokens");
    // It starts at the end. The very last token is one of the template, and hidden.
    assert!(says(&harness, &format!("{}:  high", testing::N_HUGE - 2)));
}
