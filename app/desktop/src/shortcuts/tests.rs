use egui_kittest::Harness;
use egui_kittest::kittest::Queryable as _;

use super::*;

struct Fixture {
    text: String,
    shows_help: bool,
    pressed: Vec<ShortcutAction>,
}

fn harness() -> Harness<'static, Fixture> {
    let fixture = Fixture {
        text: String::new(),
        shows_help: false,
        pressed: Vec::new(),
    };
    let mut harness = Harness::builder()
        .with_size(egui::vec2(600.0, 700.0))
        .build_ui_state(
            |ui, fixture: &mut Fixture| {
                let ctx = ui.ctx().clone();
                fixture.pressed.extend(pressed(&ctx));
                ui.text_edit_singleline(&mut fixture.text)
                    .accessible_name("Box");
                if fixture.shows_help {
                    help_ui(ui);
                }
            },
            fixture,
        );
    harness.run();
    harness
}

fn press(
    harness: &mut Harness<'_, Fixture>,
    modifiers: Modifiers,
    key: Key,
) -> Vec<ShortcutAction> {
    harness.key_press_modifiers(modifiers, key);
    harness.run();
    std::mem::take(&mut harness.state_mut().pressed)
}

#[test]
fn every_shortcut_does_what_the_table_says() {
    let mut harness = harness();
    for shortcut in SHORTCUTS.iter().filter(|shortcut| !shortcut.is_of_widget) {
        let keys = shortcut.keys;
        assert_eq!(
            press(&mut harness, keys.modifiers, keys.logical_key),
            [shortcut.action],
            "{keys:?}"
        );
    }
}

#[test]
fn no_two_shortcuts_share_their_keys() {
    for (i, shortcut) in SHORTCUTS.iter().enumerate() {
        for other in &SHORTCUTS[..i] {
            assert_ne!(shortcut.keys, other.keys, "{}", shortcut.name);
        }
        // What has no name of its own is listed under another's.
        let has_name = |other: &Shortcut| other.action == shortcut.action && !other.name.is_empty();
        assert!(SHORTCUTS.iter().any(has_name));
    }
}

#[test]
fn keys_that_write_are_left_to_a_text_field() {
    let mut harness = harness();
    harness.get_by_label("Box").focus();
    harness.run();
    for key in [Key::ArrowLeft, Key::ArrowRight, Key::Questionmark] {
        assert_eq!(press(&mut harness, Modifiers::NONE, key), [], "{key:?}");
    }
    assert_eq!(
        press(&mut harness, Modifiers::NONE, Key::F1),
        [ShortcutAction::Help]
    );
    assert_eq!(
        press(&mut harness, Modifiers::COMMAND, Key::N),
        [ShortcutAction::NewConversation]
    );
    // Escape leaves the field first.
    assert_eq!(press(&mut harness, Modifiers::NONE, Key::Escape), []);
    assert_eq!(
        press(&mut harness, Modifiers::NONE, Key::Escape),
        [ShortcutAction::Stop]
    );
    assert_eq!(
        press(&mut harness, Modifiers::NONE, Key::ArrowRight),
        [ShortcutAction::NextToken]
    );
    assert_eq!(
        press(&mut harness, Modifiers::SHIFT, Key::Questionmark),
        [ShortcutAction::Help]
    );
}

#[test]
fn other_modifiers_are_other_keys() {
    let mut harness = harness();
    assert_eq!(
        press(&mut harness, COMMAND, Key::L),
        [ShortcutAction::FocusComposer]
    );
    assert_eq!(
        press(&mut harness, COMMAND_SHIFT, Key::L),
        [ShortcutAction::ToggleTheme]
    );
    assert_eq!(press(&mut harness, COMMAND_SHIFT, Key::N), []);
    assert_eq!(press(&mut harness, Modifiers::ALT, Key::ArrowLeft), []);
}

#[test]
fn the_help_lists_the_table() {
    let mut harness = harness();
    harness.state_mut().shows_help = true;
    harness.run();
    for shortcut in SHORTCUTS
        .iter()
        .filter(|shortcut| !shortcut.name.is_empty())
    {
        harness.get_by_label(shortcut.name);
    }
    harness.get_by_label("Ctrl+K or Ctrl+F");
    harness.get_by_label("F1 or ?");
    harness.get_by_label("Ctrl++ or Ctrl+=");
}
