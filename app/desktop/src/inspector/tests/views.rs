//! What each view shows of a recording whose numbers are known, and what its buttons ask for.

use super::*;
use crate::recording::{N_RECENT, N_SINK};

fn opened(world: World, title: &str) -> Harness<'static, World> {
    world.view(title).harness()
}

#[test]
fn what_is_missing_is_said_with_a_button_that_gets_it() {
    // Without a model there is nothing to run, but a trace can be opened.
    for title in [
        "Transcript",
        "Selection",
        "Attention",
        "Experts",
        "Logits",
        "What if",
    ] {
        let mut harness = opened(World::default(), title);
        assert!(says(&harness, "Nothing has been recorded yet."));
        let actions = click(&mut harness, "Open a trace…");
        assert_eq!(actions, [InspectorAction::OpenTrace], "{title}");
        let world = World {
            can_run: true,
            ..World::default()
        };
        let mut harness = opened(world, title);
        let actions = click(&mut harness, "Record the whole conversation");
        assert_eq!(actions, [InspectorAction::RecordWhole], "{title}");
    }
}

#[test]
fn a_pass_that_was_not_recorded_offers_to_record_all() {
    let texts = ["a", "b", "c"];
    for title in ["Selection", "Attention", "Experts", "Timings"] {
        let mut harness = opened(World::of(testing::with_texts(&texts)), title);
        assert!(says(&harness, "not recorded"), "{title}");
        let actions = click(&mut harness, "Record the whole conversation");
        assert_eq!(actions, [InspectorAction::RecordWhole], "{title}");
        let mut world = World::of(testing::with_texts(&texts));
        world.can_run = false;
        let harness = opened(world, title);
        let button = harness.get_by_label("Record the whole conversation");
        assert!(button.accesskit_node().is_disabled());
    }
}

#[test]
fn recording_starts_and_stops_and_says_what_it_costs() {
    let mut world = World::full();
    world.cost = Some(RecordingCost {
        bytes_per_token: 2048.0,
        ms_per_token: 0.25,
    });
    let mut harness = world.harness();
    assert!(says(
        &harness,
        "recording takes 2.0 KiB and 0.25 ms per token"
    ));
    assert_eq!(
        click(&mut harness, "Record"),
        [InspectorAction::StartRecording]
    );
    harness.state_mut().is_recording = true;
    harness.run();
    let actions = click(&mut harness, "Stop recording");
    assert_eq!(actions, [InspectorAction::StopRecording]);
}

#[test]
fn traces_are_saved_opened_compared_and_views_exported() {
    let mut harness = opened(World::full(), "Experts");
    for (item, action) in [
        ("Save trace…", InspectorAction::SaveTrace),
        ("Open trace…", InspectorAction::OpenTrace),
        ("Compare with trace…", InspectorAction::CompareTrace),
        (
            "Record the whole conversation",
            InspectorAction::RecordWhole,
        ),
    ] {
        click(&mut harness, "Trace");
        assert_eq!(click(&mut harness, item), [action]);
    }
    for kind in ExportKind::ALL {
        click(&mut harness, "Export");
        let view = view_of("Experts");
        let actions = click(&mut harness, kind.title());
        assert_eq!(actions, [InspectorAction::Export { view, kind }]);
    }
}

#[test]
fn the_transcript_hides_the_template_until_it_is_asked_for() {
    let mut harness = opened(World::full(), "Transcript");
    assert!(harness.query_by_label("0: <|User|>").is_none());
    click(&mut harness, "Template and special tokens");
    assert!(harness.query_by_label("0: <|User|>").is_some());
    // Line breaks are visible.
    assert!(harness.query_by_label("5: ¶").is_some());
}

#[test]
fn the_transcript_is_tinted_by_each_quantity_with_a_legend() {
    let mut harness = opened(World::full(), "Transcript");
    for (tint, legend) in [
        (Tint::Layers, "by all 6"),
        (Tint::Mass, "of the attention"),
        (Tint::LogProbability, "surprising (below 0.005 %)"),
        (Tint::Entropy, "0 nats: certain"),
    ] {
        harness.state_mut().state.tint = tint;
        harness.run();
        assert!(says(&harness, legend), "{tint:?}");
    }
    harness.get_by_label("Tint by").click();
    harness.run();
    click(&mut harness, "entropy");
    assert_eq!(harness.state().state.tint, Tint::Entropy);
}

#[test]
fn a_token_under_the_pointer_says_what_is_known_of_it() {
    let mut harness = opened(World::full(), "Transcript");
    harness.get_by_label("26:  red").hover();
    for _ in 0..60 {
        harness.step();
    }
    assert!(says(&harness, "Position 26"));
    assert!(says(&harness, "id 2, \" red\""));
    let logprob = 0.6f32.ln() - 26.0 / 8.0;
    assert!(says(&harness, &format!("log-probability {logprob:.3}")));
}

#[test]
fn the_selection_is_told_in_words_and_numbers() {
    let harness = opened(World::full(), "Selection");
    // 8 positions; weights 1/36 to 8/36, growing with the position: the last one is the heaviest, and those before
    // it with a quarter of its weight at least are its neighbours 28 and 27.
    assert!(says(&harness, "Layer 2 read 8 of the 30 tokens so far"));
    assert!(says(&harness, "of its attention lies on"));
    let share = (8.0 + 7.0 + 6.0) / 36.0;
    let expected = format!("{} of its attention lies on", parts::percent(share));
    let selected = testing::selected(29, 2);
    assert_eq!(selected[5..], [27, 28, 29], "{selected:?}");
    if selected[4] != 26 {
        assert!(says(&harness, &expected), "{expected}");
    }
    assert!(says(&harness, "Read most by layer 2"));
    assert!(says(&harness, "weight 22.2 %, score 0.500, position 29"));
}

#[test]
fn the_layer_that_retrieves_most_is_shown_until_another_is_chosen() {
    let mut world = World::of(testing::long());
    world.state.pass = Pass::Read;
    let mut harness = opened(world, "Selection");
    // Weights are 1/36 to 8/36, growing with the position.
    let retrieved = |&layer: &usize| -> usize {
        let selected = testing::selected(99, layer);
        let slots = selected.iter().zip(1..);
        slots
            .filter(|(position, _)| (N_SINK..=99 - N_RECENT).contains(*position))
            .map(|(_, weight)| weight)
            .sum()
    };
    let layers = 1..testing::header().n_layers;
    let most = layers.clone().map(|layer| retrieved(&layer)).max().unwrap();
    let expected = layers
        .clone()
        .find(|layer| retrieved(layer) == most)
        .unwrap();
    assert!(most > 0 && layers.clone().any(|layer| retrieved(&layer) < most));
    assert_eq!(harness.state().state.layer, expected);
    harness.get_by_label_contains("layer 0, read all").click();
    harness.run();
    assert_eq!(harness.state().state.layer, 0);
}

#[test]
fn layers_without_an_indexer_say_that_they_read_everything() {
    let mut harness = opened(World::full(), "Selection");
    assert!(says(&harness, "layer 0, read all"));
    harness.get_by_label_contains("layer 0, read all").click();
    harness.run();
    assert_eq!(harness.state().state.layer, 0);
    assert!(says(
        &harness,
        "Layer 0 has no indexer: it read all 30 tokens so far"
    ));
}

#[test]
fn a_context_shorter_than_the_selection_is_told_as_such() {
    let mut world = World::full();
    world.state.selected = Some(5);
    let harness = opened(world, "Selection");
    assert!(says(
        &harness,
        "read all 5 tokens so far: there are not more than it may read (index_topk is 8)"
    ));
}

#[test]
fn recall_of_dense_attention_is_shown_or_offered() {
    let harness = opened(World::full(), "Selection");
    // 8 of 30 positions with equal weights.
    let recall = parts::percent(8.0 / 30.0);
    assert!(says(&harness, &format!("recall of dense {recall}")));
    assert!(!says(&harness, "Recall of dense attention: not recorded"));
    let mut world = World::full();
    world.dense = None;
    let mut harness = opened(world, "Selection");
    assert!(says(&harness, "recall of dense not recorded"));
    let actions = click(&mut harness, "Record dense attention");
    assert_eq!(actions, [InspectorAction::RecordDense]);
}

#[test]
fn the_selection_map_zooms_to_single_tokens_and_back() {
    let mut harness = opened(World::full(), "Selection");
    let n_seen = |harness: &Harness<'_, World>| {
        let seen = harness.state().state.selection_map.visible(30);
        seen.end - seen.start
    };
    assert_eq!(n_seen(&harness), 30.0);
    click(&mut harness, "Zoom in");
    assert_eq!(n_seen(&harness), 15.0);
    click(&mut harness, "Zoom out");
    assert_eq!(n_seen(&harness), 30.0);
    click(&mut harness, "Newest tokens");
    assert_eq!(harness.state().state.selection_map.visible(30), 14.0..30.0);
    click(&mut harness, "Fit");
    assert_eq!(n_seen(&harness), 30.0);
}

#[test]
fn a_cell_of_the_selection_map_says_position_text_score_rank_and_weight() {
    let mut harness = opened(World::full(), "Selection");
    harness.get_by_label_contains("Selection map").focus();
    harness.run();
    // From the first column of the selected layer, which is the sink.
    for key in [Key::ArrowDown, Key::ArrowUp] {
        harness.key_press(key);
        harness.run();
    }
    assert!(says(&harness, "Layer 2, position 0: ‘<|User|>’"));
    assert!(says(&harness, "read: sink"));
    assert!(says(&harness, "score 0.0000, rank 7 of 8"));
    assert!(says(&harness, "attention weight 2.8 %"));
    assert_eq!(harness.state().state.hovered, Some(0));
    harness.key_press(Key::ArrowDown);
    harness.run();
    harness.key_press(Key::Enter);
    harness.run();
    assert_eq!(harness.state().state.layer, 3);
}

#[test]
fn heads_are_shown_or_offered() {
    let mut harness = opened(World::full(), "Attention");
    assert!(says(&harness, "4 heads of layer 2 over the 8 positions"));
    assert!(says(&harness, "head 1, spread over"));
    harness.get_by_label_contains("head 3, spread over").click();
    harness.run();
    assert_eq!(harness.state().state.head, 3);
    let mut world = World::full();
    world.recording = Some(testing::without_heads());
    let mut harness = opened(world, "Attention");
    assert!(says(
        &harness,
        "The heads of layer 2 were not recorded for the pass of token 29"
    ));
    let action = InspectorAction::RecordHeads {
        position: 29,
        layer: 2,
    };
    let actions = click(&mut harness, "Record the heads of this layer");
    assert_eq!(actions, [action]);
}

#[test]
fn experts_are_counted_over_a_token_a_message_and_everything() {
    let mut harness = opened(World::full(), "Experts");
    assert!(says(
        &harness,
        "Experts map: 5 layers, 8 experts, tokens 29 to 29"
    ));
    click(&mut harness, "This message");
    assert!(says(&harness, "tokens 24 to 39"));
    // 16 tokens in turn over 8 experts: even.
    assert!(says(&harness, "busiest expert 1.00 times the mean"));
    click(&mut harness, "Everything");
    assert!(says(&harness, "tokens 0 to 39"));
    harness.state_mut().messages = vec![0..10, 10..35, 35..40];
    click(&mut harness, "This message");
    assert!(says(&harness, "tokens 10 to 34"));
}

#[test]
fn an_expert_tells_whom_it_served_and_can_be_switched_off() {
    let mut world = World::full();
    // Expert of rank 0 of token 29 in layer 2: (29 + 2) mod 8.
    world.state.expert = Some((2, 7));
    let mut harness = opened(world, "Experts");
    assert!(says(
        &harness,
        "Served most strongly by expert 7 of layer 2"
    ));
    assert!(says(&harness, "gate weight 0.700, position 5"));
    assert!(says(
        &harness,
        "Lane of token 29: expert 7 0.700, expert 2 0.300"
    ));
    click(&mut harness, "Switch this expert off in What if");
    assert_eq!(harness.state().state.form.request(30).experts_off, [(2, 7)]);
    let label = "gate weight 0.700, position 5";
    harness.get_by_label_contains(label).click();
    harness.run();
    assert_eq!(harness.state().state.selected, Some(5));
}

#[test]
fn logits_show_what_was_taken_and_what_was_cut_off() {
    let harness = opened(World::full(), "Logits");
    assert!(says(
        &harness,
        "hold 85.0 % of the probability; truncation cut off 1 of them"
    ));
    assert!(says(&harness, "›  high: 60.0 %, taken"));
    assert!(says(&harness, "<&\"cut: 5.0 %, cut off"));
    assert!(says(&harness, "after truncation: 75.0 %"));
    let mut world = World::full();
    world.state.selected = Some(3);
    let harness = opened(world, "Logits");
    assert!(says(&harness, "this token was given, not drawn"));
    let mut world = World::full();
    world.state.selected = Some(0);
    let harness = opened(world, "Logits");
    assert!(says(&harness, "Nothing comes before the first token"));
}

#[test]
fn timings_show_ops_speed_and_memory() {
    let harness = opened(World::full(), "Timings");
    assert!(says(
        &harness,
        "This step fed 1 token and took 2.50 ms. 9 launches."
    ));
    assert!(says(&harness, "attention: 1.500 ms, 4.0 KiB, 3 launches"));
    assert!(says(&harness, "norm: not timed"));
    assert!(says(&harness, "29.0 now, 29.0 at most"));
    assert!(says(&harness, "weights: 50.0 MiB, 94.3 %"));
}

#[test]
fn what_if_asks_for_what_was_filled_in() {
    let mut world = World::full();
    world.sides = None;
    let mut harness = opened(world, "What if");
    assert!(says(&harness, "Run again from token 30"));
    assert!(says(&harness, "Nothing has been run again yet"));
    for label in [
        "Another index_topk",
        "Replay the routes",
        "For the whole text",
        "Switch off",
    ] {
        click(&mut harness, label);
    }
    let state = &mut harness.state_mut().state;
    state.form.index_topk = 4;
    state.form.toggle_banned(3);
    state.form.toggle_pinned(7);
    harness.run();
    let request = WhatIf {
        from: 30,
        whole: true,
        n_tokens: 32,
        index_topk: Some(4),
        dense: false,
        experts_off: vec![(1, 0)],
        banned: vec![3],
        pinned: vec![7],
        replay_routes: true,
    };
    assert!(says(&harness, &request.words()));
    let actions = click(&mut harness, "Run");
    assert_eq!(actions, [InspectorAction::RunWhatIf(request)]);
    click(&mut harness, "0 of layer 1 ×");
    assert!(harness.state().state.form.experts_off.is_empty());
}

#[test]
fn dense_against_sparse_is_one_click() {
    let mut world = World::full();
    world.state.form.replay_routes = true;
    let mut harness = opened(world, "What if");
    let request = WhatIf {
        from: 30,
        n_tokens: 32,
        dense: true,
        ..WhatIf::default()
    };
    let actions = click(&mut harness, "Dense against sparse");
    assert_eq!(actions, [InspectorAction::RunWhatIf(request)]);
    harness.state_mut().can_run = false;
    harness.run();
    assert!(click(&mut harness, "Run").is_empty());
}

#[test]
fn tokens_are_banned_and_pinned_by_a_click_in_the_transcript() {
    let mut harness = opened(World::full(), "What if");
    click(&mut harness, "Ban tokens");
    click(&mut harness, "Transcript");
    assert!(says(
        &harness,
        "Click tokens to ban them from the selection"
    ));
    assert!(
        click(&mut harness, "26:  red").is_empty(),
        "it selects nothing"
    );
    click(&mut harness, "Done");
    assert_eq!(
        click(&mut harness, "27:  kite").len(),
        1,
        "it selects again"
    );
    let form = &harness.state().state.form;
    assert_eq!(form.banned.iter().copied().collect::<Vec<_>>(), [26]);
    click(&mut harness, "What if");
    click(&mut harness, "26  red ×");
    assert!(harness.state().state.form.banned.is_empty());
}

#[test]
fn two_runs_stand_side_by_side() {
    let mut harness = opened(World::full(), "What if");
    assert!(says(&harness, "dense attention; from token 24 on"));
    assert!(says(
        &harness,
        "They part at token 26; KL over 3 passes 0.5867 nats in the mean, 1.2500 at most."
    ));
    assert!(says(&harness, "As written 25:  the"));
    assert!(says(&harness, "With the change 26:  other, differs"));
    // Four passes: 3 positions each in layer 1.
    assert!(says(
        &harness,
        "layer 1: 4 only as written, 12 only with the change"
    ));
    assert!(says(
        &harness,
        "position 26, as written  red, with the change  other, differs ≠"
    ));
    let label = "position 26, as written  red";
    harness.get_by_label_contains(label).click();
    harness.run();
    assert_eq!(harness.state().state.selected, Some(26));
}

#[test]
fn a_trace_is_compared_where_there_is_no_run() {
    let mut world = World::full();
    world.sides = None;
    let mut other = testing::tiny();
    let mut token = other.token(20).unwrap().clone();
    token.id += 1;
    other.set_tokens(20, vec![token]);
    world.sides = Sides::of_traces(world.recording.clone().unwrap(), other, || true);
    let harness = opened(world, "What if");
    assert!(says(&harness, "another trace, the same up to token 20"));
    assert!(says(&harness, "They part at token 20"));
}
