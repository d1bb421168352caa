//! The keyboard: one table of shortcuts, which keys and help both come from.

use egui::{Context, Event, Grid, Id, Key, KeyboardShortcut, Modifiers, Ui};

/// What a shortcut does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ShortcutAction {
    /// Send what is in the box.
    Send,
    /// Break off the answer.
    Stop,
    /// Begin a conversation.
    NewConversation,
    /// Go to the search box.
    FocusSearch,
    /// Go to the message box.
    FocusComposer,
    /// Answer the last message again.
    Regenerate,
    /// Show or hide the inspector.
    ToggleInspector,
    /// Inspect the token before.
    PreviousToken,
    /// Inspect the token after.
    NextToken,
    /// Open the conversation above.
    PreviousConversation,
    /// Open the conversation below.
    NextConversation,
    /// Show or hide the settings.
    Settings,
    /// Show or hide the page of models.
    Models,
    /// Larger.
    ZoomIn,
    /// Smaller.
    ZoomOut,
    /// The normal size.
    ZoomReset,
    /// From light to dark or back.
    ToggleTheme,
    /// Show or hide the help.
    Help,
}

/// Keys that do something.
#[derive(Clone, Copy, Debug)]
pub struct Shortcut {
    /// The keys.
    pub keys: KeyboardShortcut,
    /// What they do, in the help; empty for a second way to something that is listed.
    pub name: &'static str,
    /// What they do.
    pub action: ShortcutAction,
    /// Whether a widget takes them where they mean something: then they are listed here and not
    /// looked for.
    is_of_widget: bool,
}

const fn keys(
    modifiers: Modifiers,
    key: Key,
    name: &'static str,
    action: ShortcutAction,
) -> Shortcut {
    Shortcut {
        keys: KeyboardShortcut::new(modifiers, key),
        name,
        action,
        is_of_widget: false,
    }
}

const COMMAND: Modifiers = Modifiers::COMMAND;
const COMMAND_SHIFT: Modifiers = Modifiers::COMMAND.plus(Modifiers::SHIFT);

/// Every shortcut, in the order of the help.
pub const SHORTCUTS: &[Shortcut] = &[
    Shortcut {
        keys: KeyboardShortcut::new(Modifiers::NONE, Key::Enter),
        name: "Send the message; with Shift a new line",
        action: ShortcutAction::Send,
        is_of_widget: true,
    },
    keys(
        COMMAND,
        Key::Enter,
        "Send from anywhere",
        ShortcutAction::Send,
    ),
    keys(
        Modifiers::NONE,
        Key::Escape,
        "Stop the answer",
        ShortcutAction::Stop,
    ),
    keys(
        COMMAND,
        Key::N,
        "New conversation",
        ShortcutAction::NewConversation,
    ),
    keys(
        COMMAND,
        Key::K,
        "Search conversations",
        ShortcutAction::FocusSearch,
    ),
    keys(COMMAND, Key::F, "", ShortcutAction::FocusSearch),
    keys(
        COMMAND,
        Key::L,
        "Go to the message box",
        ShortcutAction::FocusComposer,
    ),
    keys(COMMAND, Key::R, "Answer again", ShortcutAction::Regenerate),
    keys(
        COMMAND,
        Key::I,
        "Show or hide the inspector",
        ShortcutAction::ToggleInspector,
    ),
    keys(
        Modifiers::NONE,
        Key::ArrowLeft,
        "Inspect the token before",
        ShortcutAction::PreviousToken,
    ),
    keys(
        Modifiers::NONE,
        Key::ArrowRight,
        "Inspect the token after",
        ShortcutAction::NextToken,
    ),
    keys(
        COMMAND,
        Key::PageUp,
        "Conversation above",
        ShortcutAction::PreviousConversation,
    ),
    keys(
        COMMAND,
        Key::PageDown,
        "Conversation below",
        ShortcutAction::NextConversation,
    ),
    keys(COMMAND, Key::Comma, "Settings", ShortcutAction::Settings),
    keys(COMMAND, Key::M, "Models", ShortcutAction::Models),
    keys(COMMAND, Key::Plus, "Larger", ShortcutAction::ZoomIn),
    keys(COMMAND, Key::Equals, "", ShortcutAction::ZoomIn),
    keys(COMMAND, Key::Minus, "Smaller", ShortcutAction::ZoomOut),
    keys(COMMAND, Key::Num0, "Normal size", ShortcutAction::ZoomReset),
    keys(
        COMMAND_SHIFT,
        Key::L,
        "Light or dark",
        ShortcutAction::ToggleTheme,
    ),
    keys(Modifiers::NONE, Key::F1, "This help", ShortcutAction::Help),
    keys(
        Modifiers::NONE,
        Key::Questionmark,
        "This help",
        ShortcutAction::Help,
    ),
];

/// Function keys write nothing.
fn writes(keys: &KeyboardShortcut) -> bool {
    keys.conflicts_with_text_editing() && !matches!(keys.logical_key, Key::F1)
}

/// What was asked for by keys since the last frame. The keys are taken, so that nothing else sees
/// them; call it before the widgets are drawn. Keys that a focused text field, slider or menu
/// understands are left to it.
pub fn pressed(ctx: &Context) -> Vec<ShortcutAction> {
    let is_typing = ctx.text_edit_focused();
    // Escape takes the focus away before anything is asked, so whose it was is remembered. It belongs
    // to a text field, but for the message box, where it stops the answer.
    let memory = Id::unique("focus at the last look for shortcuts");
    let now = ctx.memory(|memory| memory.focused());
    let before: Option<Id> = ctx.data_mut(|data| {
        let before = data.get_temp(memory).flatten();
        data.insert_temp(memory, now);
        before
    });
    let is_of_field = before.is_some_and(|id| {
        id != crate::chat::box_id() && egui::text_edit::TextEditState::load(ctx, id).is_some()
    });
    let has_focus = ctx.memory(|memory| memory.focused().is_some());
    let has_popup = egui::Popup::is_any_open(ctx);
    let mut actions = Vec::new();
    ctx.input_mut(|input| {
        input.events.retain(|event| {
            let Event::Key {
                key,
                pressed: true,
                modifiers,
                ..
            } = event
            else {
                return true;
            };
            let found = SHORTCUTS.iter().find(|shortcut| {
                // A question mark is typed with Shift on some keyboards and without on others.
                let is_mark = shortcut.keys.logical_key == Key::Questionmark;
                let fits = modifiers.matches_exact(shortcut.keys.modifiers)
                    || is_mark && modifiers.matches_exact(Modifiers::SHIFT);
                !shortcut.is_of_widget && shortcut.keys.logical_key == *key && fits
            });
            let Some(shortcut) = found else {
                return true;
            };
            let is_escape = shortcut.action == ShortcutAction::Stop;
            let is_arrow = matches!(key, Key::ArrowLeft | Key::ArrowRight);
            let is_taken = if is_escape {
                is_of_field || has_popup
            } else {
                is_typing || has_focus && is_arrow
            };
            if writes(&shortcut.keys) && is_taken {
                return true;
            }
            if !actions.contains(&shortcut.action) {
                actions.push(shortcut.action);
            }
            false
        });
    });
    actions
}

/// Keys as they are called: `Ctrl+K`.
pub fn keys_text(ctx: &Context, keys: &KeyboardShortcut) -> String {
    let key = match keys.logical_key {
        Key::Questionmark => "?",
        Key::Plus => "+",
        Key::Equals => "=",
        Key::Minus => "-",
        Key::Comma => ",",
        key => key.name(),
    };
    let names = egui::ModifierNames::NAMES;
    let modifiers = names.format(&keys.modifiers, ctx.os().is_mac());
    let between = if modifiers.is_empty() {
        ""
    } else {
        names.concat
    };
    format!("{modifiers}{between}{key}")
}

/// Every shortcut with its keys.
pub fn help_ui(ui: &mut Ui) {
    ui.heading("Keyboard");
    Grid::new("shortcuts")
        .num_columns(2)
        .striped(true)
        .spacing([24.0, 4.0])
        .show(ui, |ui| {
            let mut named: Vec<&str> = Vec::new();
            for shortcut in SHORTCUTS {
                if shortcut.name.is_empty() || named.contains(&shortcut.name) {
                    continue;
                }
                named.push(shortcut.name);
                ui.label(shortcut.name);
                let all = SHORTCUTS.iter().filter(|other| {
                    let is_second = other.name.is_empty() && !shortcut.is_of_widget;
                    other.action == shortcut.action && (other.name == shortcut.name || is_second)
                });
                let all: Vec<_> = all.map(|other| keys_text(ui.ctx(), &other.keys)).collect();
                ui.monospace(all.join(" or "));
                ui.end_row();
            }
        });
    ui.weak("Tab goes from one button to the next, Enter or Space presses it. PageUp and PageDown scroll the conversation.");
}

#[cfg(test)]
mod tests;
