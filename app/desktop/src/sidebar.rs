//! The list of conversations: folders, search, and what is done to one of them.
//!
//! Rows are laid out only where they are seen, so thousands of conversations cost nothing. Keeping
//! them, searching them and bringing back what was deleted are the business of the caller.

mod hits;
mod rows;

use std::collections::HashSet;
use std::ops::Range;

use egui::{Id, Key, ScrollArea, TextEdit, Ui};

use crate::chat::words::{shortened, visible};
use hits::hits_ui;
use rows::{conversation_ui, folder_ui, rename_ui};

/// One conversation of the list.
#[derive(Clone, Debug, PartialEq)]
pub struct ConversationRow {
    /// Of the store.
    pub id: i64,
    /// May be empty.
    pub title: String,
    /// The folder that it is in.
    pub folder: Option<i64>,
    /// When it was used last, in words: "2 h".
    pub when: String,
}

/// One folder.
#[derive(Clone, Debug, PartialEq)]
pub struct FolderRow {
    /// Of the store.
    pub id: i64,
    /// May be empty.
    pub name: String,
}

/// A message that a search found.
#[derive(Clone, Debug, PartialEq)]
pub struct SearchHit {
    /// The conversation.
    pub conversation: i64,
    /// The message, or `None` if the title was found.
    pub message: Option<i64>,
    /// The conversation's title.
    pub title: String,
    /// Text around what was found.
    pub snippet: String,
    /// Byte ranges of the snippet to mark.
    pub marks: Vec<Range<usize>>,
}

/// What the sidebar shows.
#[derive(Clone, Copy)]
pub struct SidebarView<'a> {
    /// All folders, in order.
    pub folders: &'a [FolderRow],
    /// All conversations, in order.
    pub conversations: &'a [ConversationRow],
    /// The conversation that is open.
    pub open: Option<i64>,
    /// What was found for the text in the search box; `None` while it is searched for.
    pub hits: Option<&'a [SearchHit]>,
    /// What was deleted last, while it can be brought back.
    pub deleted: Option<&'a str>,
}

/// What an exported file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportFormat {
    /// For people.
    Markdown,
    /// Everything, to be imported again.
    Json,
    /// For a browser.
    Html,
}

impl ExportFormat {
    /// Every format, and its name.
    pub const ALL: &[(Self, &str)] = &[
        (Self::Markdown, "Markdown"),
        (Self::Json, "JSON"),
        (Self::Html, "HTML"),
    ];
}

/// What the user wants.
#[derive(Clone, Debug, PartialEq)]
pub enum SidebarAction {
    /// Begin a conversation.
    New,
    /// Open this conversation.
    Open(i64),
    /// Open a conversation at a message that was found.
    OpenHit {
        /// The conversation.
        conversation: i64,
        /// The message, if one was found.
        message: Option<i64>,
    },
    /// The text in the search box has changed; empty ends the search.
    Search(String),
    /// Give a conversation this title.
    Rename {
        /// The conversation.
        id: i64,
        /// Not empty.
        title: String,
    },
    /// Delete this conversation, so that it can be brought back.
    Delete(i64),
    /// Bring back what was deleted last.
    Undo,
    /// Do not offer that any longer.
    DismissUndo,
    /// Put a conversation into a folder, or out of all.
    Move {
        /// The conversation.
        id: i64,
        /// The folder.
        folder: Option<i64>,
    },
    /// Make a folder of this name.
    NewFolder(String),
    /// Give a folder this name.
    RenameFolder {
        /// The folder.
        id: i64,
        /// Not empty.
        name: String,
    },
    /// Delete a folder; its conversations stay, outside of it.
    DeleteFolder(i64),
    /// Write a conversation into a file.
    Export {
        /// The conversation.
        id: i64,
        /// What the file is.
        format: ExportFormat,
    },
    /// Read conversations from a file.
    Import,
}

/// What is being renamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Conversation(i64),
    Folder(i64),
    NewFolder,
}

struct Renaming {
    target: Target,
    text: String,
    wants_focus: bool,
}

/// What the sidebar's widgets remember.
#[derive(Default)]
pub struct SidebarState {
    query: String,
    wants_search: bool,
    renaming: Option<Renaming>,
    closed: HashSet<i64>,
    scroll_to_open: bool,
    last_open: Option<i64>,
    /// Rows that the last frame drew, for tests.
    n_drawn: usize,
}

impl SidebarState {
    /// Gives the search box the keyboard.
    pub fn focus_search(&mut self) {
        self.wants_search = true;
    }

    /// The text in the search box.
    pub fn query(&self) -> &str {
        &self.query
    }

    /// Begins to rename a conversation in place.
    pub fn rename(&mut self, id: i64, title: &str) {
        self.renaming = Some(Renaming {
            target: Target::Conversation(id),
            text: title.to_owned(),
            wants_focus: true,
        });
    }

    /// Folders that are closed, to be remembered.
    pub fn closed_folders(&self) -> impl Iterator<Item = i64> {
        self.closed.iter().copied()
    }

    /// Closes these folders, as they were remembered.
    pub fn close_folders(&mut self, ids: impl IntoIterator<Item = i64>) {
        self.closed.extend(ids);
    }
}

/// A line of the list.
#[derive(Clone, Copy)]
enum Row<'a> {
    Folder(&'a FolderRow, usize),
    Conversation(&'a ConversationRow, bool),
    NewFolder,
}

/// The sidebar, filling what room there is.
pub fn sidebar_ui(
    ui: &mut Ui,
    state: &mut SidebarState,
    view: &SidebarView<'_>,
    actions: &mut Vec<SidebarAction>,
) {
    ui.horizontal_wrapped(|ui| {
        if ui
            .button("New chat")
            .accessible_name("New conversation")
            .clicked()
        {
            actions.push(SidebarAction::New);
        }
        if ui.button("New folder").clicked() {
            state.renaming = Some(Renaming {
                target: Target::NewFolder,
                text: String::new(),
                wants_focus: true,
            });
        }
        if ui
            .button("Import…")
            .on_hover_text("Read conversations from a JSON file")
            .clicked()
        {
            actions.push(SidebarAction::Import);
        }
    });
    search_ui(ui, state, actions);
    undo_ui(ui, view, actions);
    ui.separator();
    if state.query.trim().is_empty() {
        list_ui(ui, state, view, actions);
    } else {
        hits_ui(ui, state, view, actions);
    }
}

fn search_ui(ui: &mut Ui, state: &mut SidebarState, actions: &mut Vec<SidebarAction>) {
    let id = Id::unique("search of conversations");
    let edit = TextEdit::singleline(&mut state.query)
        .id(id)
        .hint_text("Search")
        .char_limit(200)
        .desired_width(f32::INFINITY);
    let response = ui.add(edit).accessible_name("Search conversations");
    if std::mem::take(&mut state.wants_search) {
        response.request_focus();
    }
    // Escape has taken the focus away already.
    let escape = response.lost_focus()
        && !state.query.is_empty()
        && ui.input(|input| input.key_pressed(Key::Escape));
    if escape {
        state.query.clear();
    }
    if response.changed() || escape {
        actions.push(SidebarAction::Search(state.query.clone()));
    }
}

fn undo_ui(ui: &mut Ui, view: &SidebarView<'_>, actions: &mut Vec<SidebarAction>) {
    let Some(title) = view.deleted else {
        return;
    };
    egui::Frame::group(ui.style()).show(ui, |ui| {
        ui.horizontal_wrapped(|ui| {
            ui.label(format!("Deleted “{}”", named(title, 30)));
            if ui
                .button("Undo")
                .accessible_name("Undo the deletion")
                .clicked()
            {
                actions.push(SidebarAction::Undo);
            }
            let dismiss = ui.small_button("×").on_hover_text("Dismiss");
            if dismiss.accessible_name("Dismiss the undo").clicked() {
                actions.push(SidebarAction::DismissUndo);
            }
        });
    });
}

/// A title as it is shown: one line, never nothing.
fn named(title: &str, n: usize) -> String {
    let line = title
        .lines()
        .find(|line| !line.trim().is_empty())
        .unwrap_or_default();
    if line.is_empty() {
        return "Untitled".into();
    }
    visible(&shortened(line.trim(), n)).into_owned()
}

fn list_ui(
    ui: &mut Ui,
    state: &mut SidebarState,
    view: &SidebarView<'_>,
    actions: &mut Vec<SidebarAction>,
) {
    let mut rows = Vec::with_capacity(view.folders.len() + view.conversations.len() + 1);
    if state
        .renaming
        .as_ref()
        .is_some_and(|renaming| renaming.target == Target::NewFolder)
    {
        rows.push(Row::NewFolder);
    }
    // One pass over the conversations, whatever number of folders there is.
    let known: std::collections::HashMap<i64, usize> = view
        .folders
        .iter()
        .enumerate()
        .map(|(i, folder)| (folder.id, i))
        .collect();
    let mut inside: Vec<Vec<&ConversationRow>> = vec![Vec::new(); view.folders.len()];
    let mut outside = Vec::new();
    for conversation in view.conversations {
        match conversation.folder.and_then(|folder| known.get(&folder)) {
            Some(&folder) => inside[folder].push(conversation),
            None => outside.push(conversation),
        }
    }
    for (folder, inside) in view.folders.iter().zip(&inside) {
        rows.push(Row::Folder(folder, inside.len()));
        if !state.closed.contains(&folder.id) {
            rows.extend(inside.iter().map(|row| Row::Conversation(row, true)));
        }
    }
    rows.extend(outside.iter().map(|row| Row::Conversation(row, false)));
    if rows.is_empty() {
        ui.weak("No conversations yet");
        return;
    }
    if state.last_open != view.open {
        state.last_open = view.open;
        state.scroll_to_open = true;
    }
    let height = ui.spacing().interact_size.y;
    let mut area = ScrollArea::vertical()
        .id_salt("conversations")
        .auto_shrink(false);
    if std::mem::take(&mut state.scroll_to_open)
        && let Some(index) = rows
            .iter()
            .position(|row| matches!(row, Row::Conversation(row, _) if Some(row.id) == view.open))
    {
        // Only if it is far: the list must not jump at each click.
        let visible = (ui.available_height() / height) as usize;
        if index > visible {
            area = area.vertical_scroll_offset(
                (index - visible / 2) as f32 * (height + ui.spacing().item_spacing.y),
            );
        }
    }
    state.n_drawn = 0;
    area.show_rows(ui, height, rows.len(), |ui, range| {
        for row in &rows[range] {
            state.n_drawn += 1;
            match *row {
                Row::NewFolder => rename_ui(ui, state, Target::NewFolder, "", actions),
                Row::Folder(folder, n) => folder_ui(ui, state, folder, n, actions),
                Row::Conversation(row, is_inside) => {
                    conversation_ui(ui, state, view, row, is_inside, actions);
                }
            }
        }
    });
}

#[cfg(test)]
mod tests;
