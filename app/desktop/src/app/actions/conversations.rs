//! Lists of conversations and folders, the open one, search, export and import.

use super::*;
use crate::settings::Sampling;

/// How many hits a search shows.
const N_HITS: usize = 100;

impl App {
    /// Reads folders and conversations again.
    pub(in crate::app) fn refresh_lists(&mut self) {
        let found = self.store.conversations();
        let now = now_ms();
        if let Some(found) = self.or_complain(found) {
            let row = |conversation: crate::store::Conversation| ConversationRow {
                id: conversation.id.0,
                title: conversation.title,
                folder: conversation.folder.map(|folder| folder.0),
                when: when_words(now - conversation.updated_ms),
            };
            self.conversations = found.into_iter().map(row).collect();
        }
        let found = self.store.folders();
        if let Some(found) = self.or_complain(found) {
            let row = |folder: crate::store::Folder| FolderRow {
                id: folder.id.0,
                name: folder.name,
            };
            self.folders = found.into_iter().map(row).collect();
        }
    }

    /// Reads the shown branch again.
    pub(in crate::app) fn reload_path(&mut self) {
        self.path = match self.open {
            Some(open) => {
                let found = self.store.path(open);
                self.or_complain(found).unwrap_or_default()
            }
            None => Vec::new(),
        };
        self.spans.clear();
        self.starts.of = None;
    }

    pub(in crate::app) fn open_conversation(&mut self, id: ConversationId) {
        let settings = self.store.conversation_settings(id);
        if let Some(settings) = self.or_complain(settings) {
            self.settings = settings;
        }
        self.open = Some(id);
        self.reload_path();
        self.chat_state.scroll_to_end();
        self.remember(keys::CONVERSATION, &Some(id));
        self.show_last_timeline();
    }

    /// Puts the newest answer of the branch before the inspector, unless a trace from a file is there.
    pub(in crate::app) fn show_last_timeline(&mut self) {
        if self.inspecting.is_from_file {
            return;
        }
        let last = self.path.iter().rev().find(|entry| has_ids(entry));
        if let Some(last) = last.map(|entry| entry.node.id) {
            self.show_timeline_of(last);
        }
    }

    /// What a new conversation begins with: what the user chose for that, else the model's own sampling.
    fn new_settings(&self) -> ConversationSettings {
        let chosen: Option<ConversationSettings> =
            self.store.get(keys::SETTINGS).unwrap_or_default();
        chosen.unwrap_or_else(|| ConversationSettings {
            sampling: self
                .model
                .ready()
                .map_or_else(Sampling::default, |ready| ready.sampling),
            ..ConversationSettings::default()
        })
    }

    /// Looks at what a model that has just come brings: its sampling, for a conversation that has not
    /// begun and is as it was proposed, and its newest timeline.
    pub(in crate::app) fn model_came(&mut self) {
        let new = self.new_settings();
        if self.open.is_none() && self.settings == self.proposed {
            self.settings = new.clone();
        }
        self.proposed = new;
        self.show_last_timeline();
    }

    pub(super) fn new_conversation(&mut self) {
        self.open = None;
        self.settings = self.new_settings();
        self.proposed = self.settings.clone();
        self.reload_path();
        self.remember(keys::CONVERSATION, &None::<ConversationId>);
        self.chat_state.composer.focus();
    }

    /// Opens the conversation above (−1) or below (1) in the list.
    pub(super) fn step_conversation(&mut self, step: isize) {
        let open = self.open.map(|open| open.0);
        let at = self
            .conversations
            .iter()
            .position(|row| Some(row.id) == open);
        let next = match at {
            Some(at) => at.checked_add_signed(step),
            None => Some(0),
        };
        if let Some(row) = next.and_then(|next| self.conversations.get(next)) {
            self.open_conversation(ConversationId(row.id));
        }
    }

    pub(in crate::app) fn sidebar_action(&mut self, action: SidebarAction) {
        let done = match action {
            SidebarAction::New => {
                self.new_conversation();
                Ok(())
            }
            SidebarAction::Open(id) => {
                self.open_conversation(ConversationId(id));
                Ok(())
            }
            SidebarAction::OpenHit {
                conversation,
                message,
            } => self.open_hit(ConversationId(conversation), message.map(NodeId)),
            SidebarAction::Search(query) => {
                self.search(query);
                return;
            }
            SidebarAction::Rename { id, title } => {
                self.store.rename_conversation(ConversationId(id), &title)
            }
            SidebarAction::Delete(id) => self.delete(ConversationId(id)),
            SidebarAction::Undo => match self.deleted.take() {
                Some((id, _)) => self.store.restore_conversation(id),
                None => Ok(()),
            },
            SidebarAction::DismissUndo => {
                self.deleted = None;
                Ok(())
            }
            SidebarAction::Move { id, folder } => self
                .store
                .move_conversation(ConversationId(id), folder.map(FolderId)),
            SidebarAction::NewFolder(name) => self.store.create_folder(&name).map(|_| ()),
            SidebarAction::RenameFolder { id, name } => {
                self.store.rename_folder(FolderId(id), &name)
            }
            SidebarAction::DeleteFolder(id) => self.store.delete_folder(FolderId(id)),
            SidebarAction::Export { id, format } => {
                self.ask_export(ConversationId(id), format);
                Ok(())
            }
            SidebarAction::Import => {
                self.question = Some(Question::new(
                    Wanted::ImportConversation,
                    "conversation.json",
                ));
                Ok(())
            }
        };
        self.or_complain(done);
        self.refresh_lists();
    }

    fn open_hit(
        &mut self,
        conversation: ConversationId,
        node: Option<NodeId>,
    ) -> crate::store::Result<()> {
        if let Some(node) = node {
            self.store.select(node)?;
        }
        self.open_conversation(conversation);
        if let Some(node) = node {
            self.chat_state.scroll_to_message(id_of(node));
        }
        Ok(())
    }

    /// Has a helper search; one that still does is let go.
    fn search(&mut self, query: String) {
        self.hits = None;
        self.helpers.call_off(Task::Search);
        if query.trim().is_empty() {
            return;
        }
        let store = self.store.beside();
        self.helpers.start(Task::Search, move |interest| {
            // Somebody types: the next letter comes before many a search is over.
            if !interest.lasts() {
                return Err("it was called off".into());
            }
            let found = store
                .open()
                .and_then(|mut store| store.search(&query, N_HITS));
            let row = |hit: crate::store::Hit| SearchHit {
                conversation: hit.conversation.0,
                message: hit.node.map(|node| node.0),
                title: hit.title,
                snippet: hit.snippet,
                marks: hit.matches,
            };
            let hits = found.map_err(|error| error.to_string())?;
            Ok(Done::Hits(hits.into_iter().map(row).collect()))
        });
    }

    fn delete(&mut self, id: ConversationId) -> crate::store::Result<()> {
        if self
            .answer
            .as_ref()
            .is_some_and(|answer| answer.conversation == id)
        {
            self.stop();
        }
        self.store.delete_conversation(id)?;
        let row = self.conversations.iter().find(|row| row.id == id.0);
        let title = row.map_or_else(String::new, |row| row.title.clone());
        self.deleted = Some((id, title));
        if self.open == Some(id) {
            self.new_conversation();
        }
        Ok(())
    }

    fn ask_export(&mut self, id: ConversationId, format: sidebar::ExportFormat) {
        let format = match format {
            sidebar::ExportFormat::Markdown => ExportFormat::Markdown,
            sidebar::ExportFormat::Json => ExportFormat::Json,
            sidebar::ExportFormat::Html => ExportFormat::Html,
        };
        let row = self.conversations.iter().find(|row| row.id == id.0);
        let title = row.map_or("conversation", |row| row.title.as_str());
        let name = format!("{}.{}", file_name(title), format.extension());
        self.question = Some(Question::new(Wanted::ExportConversation(id, format), &name));
    }

    /// Imports a file, after those that wait for it already.
    pub(in crate::app) fn import(&mut self, path: PathBuf) {
        self.imports.push_back(path);
        self.import_next();
    }

    /// Has a helper import the next file, if none is being imported.
    pub(in crate::app) fn import_next(&mut self) {
        if self.helpers.is_running(Task::Import) {
            return;
        }
        let Some(path) = self.imports.pop_front() else {
            return;
        };
        let store = self.store.beside();
        self.helpers.start(Task::Import, move |_| {
            let imported = store.open().and_then(|mut store| store.import_file(&path));
            imported
                .map(Done::Imported)
                .map_err(|error| error.to_string())
        });
    }
}

/// How long ago, in a word.
fn when_words(ago_ms: i64) -> String {
    let minutes = ago_ms / 60_000;
    match minutes {
        i64::MIN..1 => "now".into(),
        1..60 => format!("{minutes} min"),
        60..1440 => format!("{} h", minutes / 60),
        _ => format!("{} d", minutes / 1440),
    }
}

/// A title as the name of a file: letters, digits and dashes.
fn file_name(title: &str) -> String {
    let words = title.split(|c: char| !c.is_alphanumeric());
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).take(8).collect();
    if words.is_empty() {
        "conversation".into()
    } else {
        title_from(&words.join("-")).replace('…', "")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_become_names_of_files() {
        assert_eq!(
            file_name("What colour is it? ../../etc"),
            "What-colour-is-it-etc"
        );
        assert_eq!(file_name("…/\\"), "conversation");
    }
}
