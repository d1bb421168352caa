//! Rows of the list: a conversation or a folder, with its menu, or the field that renames it.

use egui::{Button, Id, Key, Modifiers, RichText, ScrollArea, TextEdit, Ui};

use super::{
    ConversationRow, ExportFormat, FolderRow, Renaming, SidebarAction, SidebarState, SidebarView,
    Target, named,
};
use crate::chat::words::counted;

pub(super) fn folder_ui(
    ui: &mut Ui,
    state: &mut SidebarState,
    folder: &FolderRow,
    n: usize,
    actions: &mut Vec<SidebarAction>,
) {
    let target = Target::Folder(folder.id);
    if state
        .renaming
        .as_ref()
        .is_some_and(|renaming| renaming.target == target)
    {
        rename_ui(ui, state, target, &folder.name, actions);
        return;
    }
    ui.push_id(("folder", folder.id), |ui| {
        with_menu(
            ui,
            |ui| {
                let is_closed = state.closed.contains(&folder.id);
                let mark = RichText::new(if is_closed { "▸" } else { "▾" }).monospace();
                let text = RichText::new(format!("{} ({n})", named(&folder.name, 60))).strong();
                let button = Button::new((mark, text)).frame(false).truncate();
                let verb = if is_closed { "Open" } else { "Close" };
                let name = format!(
                    "{verb} folder {}, {}",
                    named(&folder.name, 60),
                    counted(n, "conversation")
                );
                if ui.add(button).accessible_name(name).clicked()
                    && !state.closed.remove(&folder.id)
                {
                    state.closed.insert(folder.id);
                }
            },
            &format!("Menu of folder {}", named(&folder.name, 60)),
            |ui| {
                if ui.button("Rename folder").clicked() {
                    return Some(Chosen::Rename);
                }
                if ui
                    .button("Delete folder")
                    .on_hover_text("Its conversations stay")
                    .clicked()
                {
                    actions.push(SidebarAction::DeleteFolder(folder.id));
                }
                None
            },
        )
    })
    .inner
    .into_iter()
    .for_each(|Chosen::Rename| {
        state.renaming = Some(Renaming {
            target,
            text: folder.name.clone(),
            wants_focus: true,
        });
    });
}

/// What a menu asks of the sidebar itself.
enum Chosen {
    Rename,
}

/// A row with a menu at its right end, and the same under the secondary button.
fn with_menu(
    ui: &mut Ui,
    row: impl FnOnce(&mut Ui),
    name: &str,
    mut menu: impl FnMut(&mut Ui) -> Option<Chosen>,
) -> Option<Chosen> {
    let mut chosen = None;
    // Of the height of a row: a row that took all there is would push the others away.
    let size = egui::vec2(ui.available_width(), ui.spacing().interact_size.y);
    let layout = egui::Layout::right_to_left(egui::Align::Center);
    ui.allocate_ui_with_layout(size, layout, |ui| {
        let button = Button::new("…").small().frame(false);
        let (response, inner) =
            egui::containers::menu::MenuButton::from_button(button).ui(ui, |ui| menu(ui));
        response
            .on_hover_text("Rename, move, export, delete")
            .accessible_name(name);
        chosen = inner.and_then(|inner| inner.inner);
        ui.with_layout(egui::Layout::left_to_right(egui::Align::Center), row);
    });
    chosen
}

pub(super) fn conversation_ui(
    ui: &mut Ui,
    state: &mut SidebarState,
    view: &SidebarView<'_>,
    row: &ConversationRow,
    is_inside: bool,
    actions: &mut Vec<SidebarAction>,
) {
    let target = Target::Conversation(row.id);
    if state
        .renaming
        .as_ref()
        .is_some_and(|renaming| renaming.target == target)
    {
        rename_ui(ui, state, target, &row.title, actions);
        return;
    }
    let title = named(&row.title, 80);
    let mut rename = false;
    let mut from_menu = Vec::new();
    let chosen = ui
        .push_id(("conversation", row.id), |ui| {
            with_menu(
                ui,
                |ui| {
                    if is_inside {
                        ui.add_space(12.0);
                    }
                    let is_open = view.open == Some(row.id);
                    let button = Button::selectable(is_open, title.as_str())
                        .truncate()
                        .min_size(egui::vec2(ui.available_width(), 0.0))
                        .right_text(RichText::new(row.when.as_str()).small().weak());
                    let response = ui
                        .add(button)
                        .accessible_name(format!("Conversation {title}"));
                    if response.clicked() {
                        actions.push(SidebarAction::Open(row.id));
                    }
                    rename = response.double_clicked();
                    if response.has_focus() {
                        rename |= ui.input_mut(|input| input.consume_key(Modifiers::NONE, Key::F2));
                        if ui.input_mut(|input| input.consume_key(Modifiers::NONE, Key::Delete)) {
                            actions.push(SidebarAction::Delete(row.id));
                        }
                    }
                },
                &format!("Menu of {title}"),
                |ui| menu_ui(ui, view, row, &mut from_menu),
            )
        })
        .inner;
    actions.append(&mut from_menu);
    if rename || chosen.is_some() {
        state.rename(row.id, &row.title);
    }
}

fn menu_ui(
    ui: &mut Ui,
    view: &SidebarView<'_>,
    row: &ConversationRow,
    actions: &mut Vec<SidebarAction>,
) -> Option<Chosen> {
    let mut chosen = None;
    if ui.button("Rename").clicked() {
        chosen = Some(Chosen::Rename);
    }
    ui.menu_button("Move to", |ui| {
        ScrollArea::vertical().max_height(300.0).show(ui, |ui| {
            if row.folder.is_some() && ui.button("No folder").clicked() {
                actions.push(SidebarAction::Move {
                    id: row.id,
                    folder: None,
                });
                ui.close();
            }
            for folder in view
                .folders
                .iter()
                .filter(|folder| Some(folder.id) != row.folder)
            {
                let button = ui.button(named(&folder.name, 40));
                let name = format!("Move to {}", named(&folder.name, 40));
                if button.accessible_name(name).clicked() {
                    actions.push(SidebarAction::Move {
                        id: row.id,
                        folder: Some(folder.id),
                    });
                    ui.close();
                }
            }
            if view.folders.is_empty() {
                ui.weak("No folders yet");
            }
        });
    });
    ui.menu_button("Export", |ui| {
        for &(format, name) in ExportFormat::ALL {
            let button = ui.button(format!("{name}…"));
            if button
                .accessible_name(format!("Export as {name}"))
                .clicked()
            {
                actions.push(SidebarAction::Export { id: row.id, format });
                ui.close();
            }
        }
    });
    ui.separator();
    if ui.button("Delete").clicked() {
        actions.push(SidebarAction::Delete(row.id));
    }
    chosen
}

/// A text field in place of a row. Enter takes the name, Escape and an empty one leave it.
pub(super) fn rename_ui(
    ui: &mut Ui,
    state: &mut SidebarState,
    target: Target,
    old: &str,
    actions: &mut Vec<SidebarAction>,
) {
    let Some(renaming) = &mut state.renaming else {
        return;
    };
    let id = Id::unique("rename in place");
    let edit = TextEdit::singleline(&mut renaming.text)
        .id(id)
        .hint_text("Name")
        .char_limit(200)
        .desired_width(ui.available_width());
    let name = match target {
        Target::Conversation(_) => "Title of the conversation",
        Target::Folder(_) => "Name of the folder",
        Target::NewFolder => "Name of the new folder",
    };
    let response = ui.add(edit).accessible_name(name);
    if std::mem::take(&mut renaming.wants_focus) {
        response.request_focus();
        return;
    }
    if !response.lost_focus() {
        return;
    }
    let escape = ui.input(|input| input.key_pressed(Key::Escape));
    let text = renaming.text.trim().to_owned();
    state.renaming = None;
    if escape || text.is_empty() || text == old {
        return;
    }
    actions.push(match target {
        Target::Conversation(id) => SidebarAction::Rename { id, title: text },
        Target::Folder(id) => SidebarAction::RenameFolder { id, name: text },
        Target::NewFolder => SidebarAction::NewFolder(text),
    });
}
