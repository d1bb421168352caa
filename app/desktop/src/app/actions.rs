//! What the user wants, carried out.

use std::path::Path;
use std::sync::mpsc::channel;
use std::time::{SystemTime, UNIX_EPOCH};

use engine::file::write_whole;

use super::files::{Question, Wanted};
use super::*;
use crate::chat::ChatAction;
use crate::inspector::{InspectorAction, Shown, export, export_name};
use crate::models::ModelAction;
use crate::recording::Recording;
use crate::settings::SettingsAction;
use crate::shortcuts::ShortcutAction;
use crate::sidebar::{self, SidebarAction};
use crate::store::{ExportFormat, FolderId, now_ms, title_from};

/// How many hits a search shows.
const N_HITS: usize = 100;
/// How many checkpoints are remembered.
const N_RECENT: usize = 12;
/// A timeline that was fed and written in less is recorded without asking, once somebody looks.
const RECORD_UNASKED_MS: f64 = 10_000.0;

impl App {
    // --- conversations -------------------------------------------------------------------------

    /// Reads folders and conversations again.
    pub(super) fn refresh_lists(&mut self) {
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
    pub(super) fn reload_path(&mut self) {
        self.path = match self.open {
            Some(open) => {
                let found = self.store.path(open);
                self.or_complain(found).unwrap_or_default()
            }
            None => Vec::new(),
        };
        self.spans.clear();
    }

    pub(super) fn open_conversation(&mut self, id: ConversationId) {
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
    pub(super) fn show_last_timeline(&mut self) {
        if self.inspecting.is_from_file {
            return;
        }
        let last = self.path.iter().rev().find(|entry| has_ids(entry));
        if let Some(last) = last.map(|entry| entry.node.id) {
            self.show_timeline_of(last);
        }
    }

    fn new_conversation(&mut self) {
        self.open = None;
        self.settings = self.store.get(keys::SETTINGS).unwrap_or_default();
        self.reload_path();
        self.remember(keys::CONVERSATION, &None::<ConversationId>);
        self.chat_state.composer.focus();
    }

    /// Opens the conversation above (−1) or below (1) in the list.
    fn step_conversation(&mut self, step: isize) {
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

    pub(super) fn sidebar_action(&mut self, action: SidebarAction) {
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
            SidebarAction::Search(query) => self.search(&query),
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

    fn search(&mut self, query: &str) -> crate::store::Result<()> {
        if query.trim().is_empty() {
            self.hits = None;
            return Ok(());
        }
        let hits = self.store.search(query, N_HITS)?;
        let row = |hit: crate::store::Hit| SearchHit {
            conversation: hit.conversation.0,
            message: hit.node.map(|node| node.0),
            title: hit.title,
            snippet: hit.snippet,
            marks: hit.matches,
        };
        self.hits = Some(hits.into_iter().map(row).collect());
        Ok(())
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

    pub(super) fn import(&mut self, path: &Path) {
        let imported = self.store.import_file(path);
        if let Some(id) = self.or_complain(imported) {
            self.refresh_lists();
            self.open_conversation(id);
        }
    }

    // --- chat ----------------------------------------------------------------------------------

    fn entry(&self, id: u64) -> Option<&PathEntry> {
        self.path.iter().find(|entry| id_of(entry.node.id) == id)
    }

    pub(super) fn chat_action(&mut self, action: ChatAction) {
        match action {
            ChatAction::Send(text) => self.send(&text),
            ChatAction::TryExample(example) => {
                self.settings.thinking = example.thinking;
                self.send(example.prompt);
            }
            ChatAction::Stop => self.stop(),
            ChatAction::Regenerate { id } => self.regenerate(id),
            ChatAction::Continue { id } => {
                if let Some(node) = self.entry(id).map(|entry| entry.node.id)
                    && self.can_ask()
                {
                    self.continue_answer(node);
                }
            }
            ChatAction::EditAndAsk { id, text } => {
                if let Some(parent) = self.entry(id).map(|entry| entry.node.parent)
                    && self.can_ask()
                {
                    self.ask_after(parent, &text);
                }
            }
            ChatAction::EditAndKeep { id, text } => self.edit_and_keep(id, text),
            ChatAction::SelectBranch { id, index } => {
                let sibling = self
                    .entry(id)
                    .and_then(|entry| entry.siblings.get(index).copied());
                if let Some(sibling) = sibling {
                    let selected = self.store.select(sibling);
                    self.or_complain(selected);
                    self.reload_path();
                }
            }
            ChatAction::InspectMessage { id } => {
                if let Some(node) = self.entry(id).map(|entry| entry.node.id) {
                    self.set_inspector(true);
                    self.show_timeline_of(node);
                    let n_prompt = self
                        .entry(id)
                        .and_then(|entry| entry.node.facts.as_ref())
                        .map_or(0, |facts| facts.prompt_ids.len());
                    self.inspecting.state.selected = Some(n_prompt);
                    self.record_if_cheap();
                }
            }
            ChatAction::InspectToken(position) => {
                self.set_inspector(true);
                self.inspecting.state.selected = Some(position);
                self.record_if_cheap();
            }
            ChatAction::HoverToken(position) => self.inspecting.state.hovered = position,
            ChatAction::RefusedLink(link) => {
                self.tell(format!("{link}: no web address, and was not opened"));
            }
        }
    }

    /// Whether an answer can be begun now; else says why not.
    fn can_ask(&mut self) -> bool {
        let blocked = self.blocked().or_else(|| {
            (self.answer.is_some()).then(|| "an answer is being written; Stop ends it".to_owned())
        });
        match blocked {
            Some(problem) => {
                self.complain(problem);
                false
            }
            None => true,
        }
    }

    fn regenerate(&mut self, id: u64) {
        let Some(index) = self
            .path
            .iter()
            .position(|entry| id_of(entry.node.id) == id)
        else {
            return;
        };
        if !self.can_ask() {
            return;
        }
        // The new answer hangs on what the old one answered.
        self.path.truncate(index);
        self.begin_answer();
    }

    fn edit_and_keep(&mut self, id: u64, text: String) {
        let Some(entry) = self.entry(id) else { return };
        let (parent, conversation) = (entry.node.parent, entry.node.conversation);
        let mut message = entry.node.message.clone();
        message.content = text;
        let added = self
            .store
            .append(conversation, parent, &message, NodeState::Complete);
        self.or_complain(added);
        self.reload_path();
    }

    // --- models --------------------------------------------------------------------------------

    /// Reads what a checkpoint needs, on a thread, and opens the page of models.
    pub(super) fn look_at(&mut self, source: Source) {
        self.windows.models = true;
        self.card = None;
        self.card_problem = None;
        let (outbox, come) = channel();
        let wake = self.ctx.clone();
        let body = move || {
            let card = ModelCard::read(&source).map_err(|error| error.to_string());
            // A window that is gone wants no card.
            let _ = outbox.send(card);
            wake.request_repaint();
        };
        let spawned = std::thread::Builder::new()
            .name("model card".into())
            .spawn(body);
        if self.or_complain(spawned).is_some() {
            self.card_comes = Some(come);
        }
    }

    pub(super) fn load_model(&mut self, source: Source) {
        if !self.link.is_idle() {
            self.stop();
        }
        let device = self.device.clone();
        self.model = Model::load(source.clone(), &self.ctx);
        self.link.load(source, device);
    }

    pub(super) fn model_action(&mut self, action: ModelAction) {
        match action {
            ModelAction::OpenFolder => {
                self.question = Some(Question::new(Wanted::ModelFolder, ""));
            }
            ModelAction::OpenRecent(folder) => self.look_at(Source::Folder(folder.into())),
            ModelAction::ForgetRecent(folder) => {
                self.recent_models.retain(|recent| *recent != folder);
                let recent = self.recent_models.clone();
                self.remember(keys::RECENT_MODELS, &recent);
            }
            ModelAction::OpenEmbedded => {
                if let Some(source) = embedded() {
                    self.look_at(source);
                }
            }
            ModelAction::Load { device } => self.load_card(device),
            ModelAction::Cancel => self.link.stop(),
            ModelAction::Unload => {
                self.stop();
                self.link.unload();
            }
            ModelAction::CloseCard => {
                self.card = None;
                self.card_problem = None;
            }
        }
    }

    fn load_card(&mut self, device: Option<String>) {
        let Some(card) = self.card.take() else { return };
        self.device = device;
        let device = self.device.clone();
        self.remember(keys::DEVICE, &device);
        let last = match &card.source {
            Source::Folder(folder) => {
                let folder = folder.to_string_lossy().into_owned();
                self.recent_models.retain(|recent| *recent != folder);
                self.recent_models.insert(0, folder.clone());
                self.recent_models.truncate(N_RECENT);
                let recent = self.recent_models.clone();
                self.remember(keys::RECENT_MODELS, &recent);
                Some(folder)
            }
            Source::Embedded(_) => None,
        };
        self.remember(keys::MODEL, &last);
        self.load_model(card.source);
    }

    // --- settings ------------------------------------------------------------------------------

    pub(super) fn settings_action(&mut self, action: SettingsAction) {
        match action {
            SettingsAction::Changed => {
                if let Some(open) = self.open {
                    let settings = self.settings.clone();
                    let set = self.store.set_conversation_settings(open, &settings);
                    self.or_complain(set);
                }
            }
            SettingsAction::MakeDefault => {
                let settings = self.settings.clone();
                self.remember(keys::SETTINGS, &settings);
            }
            SettingsAction::SavePreset(preset) => {
                self.own_presets.retain(|own| own.name != preset.name);
                self.own_presets.push(preset);
                let presets = self.own_presets.clone();
                self.remember(keys::PRESETS, &presets);
            }
            SettingsAction::DeletePreset(name) => {
                self.own_presets.retain(|own| own.name != name);
                let presets = self.own_presets.clone();
                self.remember(keys::PRESETS, &presets);
            }
            SettingsAction::AppChanged => self.apply_app_settings(),
        }
    }

    fn apply_app_settings(&mut self) {
        self.app_settings.apply(&self.ctx);
        let settings = self.app_settings;
        self.remember(keys::APP, &settings);
    }

    // --- inspector -----------------------------------------------------------------------------

    pub(super) fn set_inspector(&mut self, is_open: bool) {
        if self.inspecting.is_open != is_open {
            self.inspecting.is_open = is_open;
            // A view needs it from now on, or none does.
            self.set_recording(is_open);
            self.remember_panels();
        }
    }

    fn set_recording(&mut self, is_on: bool) {
        self.inspecting.is_recording = is_on;
        let runs_answer = self.link.jobs().next() == Some(&link::Purpose::Answer);
        if runs_answer {
            self.link.watch(self.inspecting.watch());
        }
        self.remember_panels();
    }

    /// Puts the timeline of an answer before the inspector.
    fn show_timeline_of(&mut self, node: NodeId) {
        let Some(ready) = self.model.ready() else {
            return;
        };
        let entry = self.path.iter().find(|entry| entry.node.id == node);
        let Some(facts) = entry.and_then(|entry| entry.node.facts.as_ref()) else {
            return;
        };
        if facts.ids.is_empty() || facts.model != ready.name || self.answer.is_some() {
            return;
        }
        let settings: ConversationSettings =
            serde_json::from_value(facts.settings.clone()).unwrap_or_default();
        let forward = settings.forward();
        self.inspecting
            .show_timeline(ready, &facts.prompt_ids, &facts.ids, &forward);
    }

    /// Records the timeline if nothing of it is recorded and it is quickly done.
    fn record_if_cheap(&mut self) {
        let Some(recording) = &self.inspecting.recording else {
            return;
        };
        let n_tokens = recording.n_tokens();
        let is_recorded = (0..n_tokens).any(|position| recording.is_recorded(position));
        let entry = self.path.iter().rev().find(|entry| has_ids(entry));
        let facts = entry.and_then(|entry| entry.node.facts.as_ref());
        let took_ms = facts.map_or(f64::INFINITY, |facts| {
            facts.prefill_ms.unwrap_or(f64::INFINITY) + facts.decode_ms.unwrap_or(f64::INFINITY)
        });
        let is_free = self.link.is_idle() && self.answer.is_none() && self.model.ready().is_some();
        if !is_recorded && is_free && !self.inspecting.ids.is_empty() && took_ms < RECORD_UNASKED_MS
        {
            self.record_whole();
        }
    }

    pub(super) fn inspector_action(&mut self, action: InspectorAction) {
        match action {
            InspectorAction::SelectToken(_) | InspectorAction::Hover(_) => {}
            InspectorAction::StartRecording => self.set_recording(true),
            InspectorAction::StopRecording => self.set_recording(false),
            InspectorAction::RecordWhole => self.record_whole(),
            InspectorAction::RecordDense => self.record_dense(),
            InspectorAction::RecordHeads { position, layer } => self.record_heads(position, layer),
            InspectorAction::RunWhatIf(request) => self.run_what_if(request),
            InspectorAction::SaveTrace => {
                self.question = Some(Question::new(Wanted::SaveTrace, "trace.safetensors"));
            }
            InspectorAction::OpenTrace => {
                self.question = Some(Question::new(Wanted::OpenTrace, "trace.safetensors"));
            }
            InspectorAction::CompareTrace => {
                self.question = Some(Question::new(Wanted::CompareTrace, "trace.safetensors"));
            }
            InspectorAction::Export { view, kind } => {
                let ranges = self.message_ranges();
                let name = export_name(view, kind, &self.shown(&ranges), &self.inspecting.state);
                self.question = Some(Question::new(Wanted::ExportView { view, kind }, &name));
            }
            InspectorAction::CopyText(text) => self.ctx.copy_text(text),
        }
    }

    pub(super) fn open_trace(&mut self, path: &Path) {
        let opened = Recording::open(path);
        if let Some(recording) = self.or_complain(opened.map_err(|error| format!("{error:#}"))) {
            self.inspecting.open(recording);
        }
    }

    /// What the inspector is to show; `messages` are the positions of each message.
    pub(super) fn shown<'a>(&'a self, messages: &'a [std::ops::Range<usize>]) -> Shown<'a> {
        let inspecting = &self.inspecting;
        Shown {
            recording: inspecting.recording.as_ref(),
            dense: inspecting.dense.as_ref(),
            variant: inspecting.variant.as_ref(),
            compared: inspecting.compared.as_ref(),
            messages,
            live: inspecting.live.clone(),
            is_recording: inspecting.is_recording,
            can_run: self.model.ready().is_some()
                && self.link.is_idle()
                && inspecting.is_up_to_date()
                && !inspecting.ids.is_empty(),
            recording_cost: inspecting.cost,
            revision: inspecting.revision,
        }
    }

    /// Positions of the answers of the branch in the recorded timeline.
    pub(super) fn message_ranges(&self) -> Vec<std::ops::Range<usize>> {
        let mut ranges = Vec::new();
        let mut from = 0;
        for entry in &self.path {
            if let Some(start) = self.start_of(entry) {
                let n = entry.node.facts.as_ref().map_or(0, |facts| facts.ids.len());
                ranges.push(from..start);
                ranges.push(start..start + n);
                from = start + n;
            }
        }
        let n_tokens = self.inspecting.ids.len();
        if from < n_tokens {
            ranges.push(from..n_tokens);
        }
        ranges
    }

    /// Where an answer begins in the recorded timeline, if it is part of it.
    pub(super) fn start_of(&self, entry: &PathEntry) -> Option<usize> {
        let facts = entry
            .node
            .facts
            .as_ref()
            .filter(|facts| !facts.ids.is_empty())?;
        let start = facts.prompt_ids.len();
        let ids = &self.inspecting.ids;
        let is_there = ids.get(..start)? == facts.prompt_ids
            && ids.get(start..start + facts.ids.len())? == facts.ids;
        is_there.then_some(start)
    }

    // --- files ---------------------------------------------------------------------------------

    /// A question was answered. What fails is said in the question, which then stays.
    pub(super) fn take_file(&mut self, wanted: Wanted, path: &Path) {
        let done: anyhow::Result<()> = match wanted {
            Wanted::ExportConversation(id, format) => self
                .store
                .export(id, format)
                .map_err(anyhow::Error::from)
                .and_then(|text| Ok(write_whole(path, text.as_bytes())?)),
            Wanted::ImportConversation => self
                .store
                .import_file(path)
                .map_err(anyhow::Error::from)
                .map(|id| {
                    self.refresh_lists();
                    self.open_conversation(id);
                }),
            Wanted::ModelFolder => {
                self.look_at(Source::Folder(path.to_owned()));
                Ok(())
            }
            Wanted::SaveTrace => match &self.inspecting.recording {
                Some(recording) => recording.save(path),
                None => Err(anyhow::anyhow!("nothing is recorded")),
            },
            Wanted::OpenTrace => {
                Recording::open(path).map(|recording| self.inspecting.open(recording))
            }
            Wanted::CompareTrace => Recording::open(path).map(|recording| {
                self.inspecting.compared = Some(recording);
                self.inspecting.revision += 1;
            }),
            Wanted::ExportView { view, kind } => {
                let ranges = self.message_ranges();
                let (shown, state) = (self.shown(&ranges), &self.inspecting.state);
                export(view, kind, &shown, state, &today())
                    .and_then(|bytes| Ok(write_whole(path, &bytes)?))
            }
        };
        match done {
            Ok(()) => self.question = None,
            Err(error) => {
                if let Some(question) = &mut self.question {
                    question.problem = Some(format!("{error:#}"));
                }
            }
        }
    }

    // --- keys ----------------------------------------------------------------------------------

    pub(super) fn shortcut(&mut self, action: ShortcutAction) {
        match action {
            ShortcutAction::Send => {
                let text = self.chat_state.composer.text();
                if !self.chat_state.composer.is_empty() {
                    self.send(&text);
                }
            }
            ShortcutAction::Stop => self.stop(),
            ShortcutAction::NewConversation => self.new_conversation(),
            ShortcutAction::FocusSearch => {
                self.panels.sidebar = true;
                self.sidebar_state.focus_search();
            }
            ShortcutAction::FocusComposer => self.chat_state.composer.focus(),
            ShortcutAction::Regenerate => {
                let is_answer =
                    |entry: &&PathEntry| entry.node.message.role == engine::chat::Role::Assistant;
                if let Some(id) = self
                    .path
                    .iter()
                    .rev()
                    .find(is_answer)
                    .map(|e| id_of(e.node.id))
                {
                    self.regenerate(id);
                }
            }
            ShortcutAction::ToggleInspector => self.set_inspector(!self.inspecting.is_open),
            ShortcutAction::PreviousToken => self.step_token(-1),
            ShortcutAction::NextToken => self.step_token(1),
            ShortcutAction::PreviousConversation => self.step_conversation(-1),
            ShortcutAction::NextConversation => self.step_conversation(1),
            ShortcutAction::Settings => self.windows.settings ^= true,
            ShortcutAction::Models => self.windows.models ^= true,
            ShortcutAction::ZoomIn => self.zoom(1),
            ShortcutAction::ZoomOut => self.zoom(-1),
            ShortcutAction::ZoomReset => self.zoom(0),
            ShortcutAction::ToggleTheme => {
                use crate::settings::ThemeChoice;
                let is_dark = self.ctx.global_style().visuals.dark_mode;
                self.app_settings.theme = if is_dark {
                    ThemeChoice::Light
                } else {
                    ThemeChoice::Dark
                };
                self.apply_app_settings();
            }
            ShortcutAction::Help => self.windows.help ^= true,
        }
    }

    fn zoom(&mut self, step: i32) {
        self.app_settings.zoom(step);
        self.apply_app_settings();
    }

    fn step_token(&mut self, step: isize) {
        let n_tokens = self
            .inspecting
            .recording
            .as_ref()
            .map_or(0, Recording::n_tokens);
        let Some(last) = n_tokens.checked_sub(1) else {
            return;
        };
        let at = self.inspecting.state.selected.unwrap_or(last);
        self.inspecting.state.selected = Some(at.saturating_add_signed(step).min(last));
    }
}

/// Names a message in the chat.
pub(super) fn id_of(node: NodeId) -> u64 {
    node.0.unsigned_abs()
}

fn has_ids(entry: &PathEntry) -> bool {
    let facts = entry.node.facts.as_ref();
    facts.is_some_and(|facts| !facts.ids.is_empty())
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

/// Today in UTC, as 2026-11-24.
fn today() -> String {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let (year, month, day) = civil_from_days((seconds / 86_400) as i64);
    format!("{year:04}-{month:02}-{day:02}")
}

/// The date of a day since 1970-01-01: Howard Hinnant's `civil_from_days`.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates() {
        for (days, date) in [
            (0, (1970, 1, 1)),
            (59, (1970, 3, 1)),
            (11_016, (2000, 2, 29)),
            (20_781, (2026, 11, 24)),
        ] {
            assert_eq!(civil_from_days(days), date);
        }
    }

    #[test]
    fn titles_become_names_of_files() {
        assert_eq!(
            file_name("What colour is it? ../../etc"),
            "What-colour-is-it-etc"
        );
        assert_eq!(file_name("…/\\"), "conversation");
    }
}
