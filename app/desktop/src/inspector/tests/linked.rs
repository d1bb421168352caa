//! One token is selected for all views, and the pointer is in all of them.

use super::*;

#[test]
fn a_click_in_the_transcript_selects_for_every_view() {
    let mut harness = World::full().view("Transcript").harness();
    let actions = click(&mut harness, "26:  red");
    assert_eq!(actions, [InspectorAction::SelectToken(Some(26))]);
    assert!(says(&harness, "Token 26 of 40: ‘ red’"));
    click(&mut harness, "Logits");
    assert!(says(&harness, "for position 26"));
    click(&mut harness, "Selection");
    // The pass that wrote token 26 read token 25.
    assert!(says(&harness, "Layer 2 read 8 of the 26 tokens so far"));
}

#[test]
fn what_the_pointer_is_on_is_marked_everywhere() {
    let mut harness = World::full().view("Transcript").harness();
    harness.get_by_label("26:  red").hover();
    harness.run();
    assert_eq!(harness.state().state.hovered, Some(26));
    let hovers =
        |harness: &Harness<'_, World>| -> Vec<InspectorAction> { harness.state().actions.clone() };
    assert!(hovers(&harness).contains(&InspectorAction::Hover(Some(26))));
    harness.hover_at(egui::pos2(2.0, 2.0));
    harness.run();
    assert_eq!(harness.state().state.hovered, None);
    assert!(hovers(&harness).contains(&InspectorAction::Hover(None)));
}

#[test]
fn a_position_that_the_app_hovers_stays_while_the_pointer_is_elsewhere() {
    let mut harness = World::full().view("Selection").harness();
    harness.remove_cursor();
    harness.run();
    harness.state_mut().state.hovered = Some(12);
    harness.run();
    assert_eq!(harness.state().state.hovered, Some(12));
}

#[test]
fn the_time_line_moves_by_buttons_keys_and_slider() {
    let mut harness = World::full().view("Logits").harness();
    assert_eq!(
        click(&mut harness, "Previous token"),
        [InspectorAction::SelectToken(Some(29))]
    );
    assert_eq!(
        click(&mut harness, "Next token"),
        [InspectorAction::SelectToken(Some(30))]
    );
    harness
        .get_by_role_and_label(egui::accesskit::Role::Slider, "Token")
        .focus();
    harness.run();
    harness.key_press(Key::ArrowRight);
    harness.run();
    assert_eq!(harness.state().state.selected, Some(31));
    assert_eq!(
        click(&mut harness, "Newest"),
        [InspectorAction::SelectToken(None)]
    );
    assert!(says(&harness, "Token 39 of 40"));
}

#[test]
fn at_the_ends_the_time_line_stops() {
    for (position, button) in [(0, "Previous token"), (39, "Next token")] {
        let mut world = World::full();
        world.state.selected = Some(position);
        let mut harness = world.harness();
        assert!(harness.get_by_label(button).accesskit_node().is_disabled());
        assert!(click(&mut harness, button).is_empty());
    }
}

#[test]
fn a_token_can_be_seen_as_written_and_as_read() {
    let mut harness = World::full().view("Selection").harness();
    assert!(says(&harness, "written by the pass that read token 29"));
    click(&mut harness, "Read it");
    assert_eq!(harness.state().state.pass, Pass::Read);
    assert!(says(&harness, "read 8 of the 31 tokens so far"));
    click(&mut harness, "Wrote it");
    assert!(says(&harness, "read 8 of the 30 tokens so far"));
}

#[test]
fn the_newest_token_is_followed_until_another_is_selected() {
    let mut world = World::full();
    world.state.selected = None;
    let mut harness = world.harness();
    assert!(says(&harness, "Token 39 of 40"));
    let world = harness.state_mut();
    let token = world.recording.as_ref().unwrap().token(39).unwrap().clone();
    world
        .recording
        .as_mut()
        .unwrap()
        .set_tokens(40, vec![token]);
    world.revision += 1;
    harness.run();
    assert!(says(&harness, "Token 40 of 41"));
}
