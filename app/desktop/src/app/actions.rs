//! What the user wants, carried out once a frame is drawn: in chat, models, settings, files and by keys.
//! The rest is in [`conversations`] and [`inspector`].

mod conversations;
mod inspector;

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use engine::file::write_whole;

use super::files::{Question, Reply, Saved, Wanted, may_write};
use super::helpers::Interest;
use super::*;
use crate::chat::ChatAction;
use crate::inspector::{InspectorAction, Shown, Snapshot, export_name};
use crate::models::ModelAction;
use crate::recording::Recording;
use crate::settings::SettingsAction;
use crate::shortcuts::ShortcutAction;
use crate::sidebar::{self, SidebarAction};
use crate::store::{ExportFormat, FolderId, now_ms, title_from};

/// How many checkpoints are remembered.
const N_RECENT: usize = 12;

/// Everything that the user can want of a frame.
pub(super) enum Action {
    Chat(ChatAction),
    Sidebar(SidebarAction),
    Inspector(InspectorAction),
    Model(ModelAction),
    Settings(SettingsAction),
    Shortcut(ShortcutAction),
    /// What was said to the open question.
    Reply(Reply),
    /// Show the panel of conversations, or hide it.
    ShowSidebar(bool),
    /// Show the inspector, or hide it.
    ShowInspector(bool),
    /// Break off what the engine does, and what waits.
    Stop,
    /// Let go of what a helper does.
    CallOff(Task),
    /// Put this notice away.
    PutAway(usize),
}

impl App {
    /// Carries out what the user wants: the one place that does.
    pub(super) fn obey(&mut self, action: Action) {
        match action {
            Action::Chat(action) => self.chat_action(action),
            Action::Sidebar(action) => self.sidebar_action(action),
            Action::Inspector(action) => self.inspector_action(action),
            Action::Model(action) => self.model_action(action),
            Action::Settings(action) => self.settings_action(action),
            Action::Shortcut(action) => self.shortcut(action),
            Action::Reply(reply) => self.take_reply(reply),
            Action::ShowSidebar(is_shown) => {
                self.panels.sidebar = is_shown;
                self.remember_panels();
            }
            Action::ShowInspector(is_shown) => self.set_inspector(is_shown),
            Action::Stop => self.stop(),
            Action::CallOff(Task::WhatIf) => self.call_off_what_if(),
            Action::CallOff(task) => {
                self.helpers.call_off(task);
                if task == Task::Compare {
                    self.inspecting.compared = None;
                }
            }
            Action::PutAway(index) => {
                self.notices.remove(index);
            }
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
        self.helpers.start(Task::ModelCard, move |_| {
            let card = ModelCard::read(&source).map_err(|error| error.to_string())?;
            Ok(Done::ModelCard(Box::new(card)))
        });
    }

    pub(super) fn load_model(&mut self, source: Source) {
        if !self.link.is_idle() {
            self.stop();
        }
        let device = self.device.clone();
        self.model = Model::loading(source.clone());
        let wanted = source.clone();
        self.helpers.start(Task::ModelFiles, move |_| {
            let files = model::Files::read(&wanted).map_err(|error| error.to_string())?;
            Ok(Done::ModelFiles(files))
        });
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

    // --- files ---------------------------------------------------------------------------------

    fn take_reply(&mut self, reply: Reply) {
        let Some(question) = &mut self.question else {
            return;
        };
        let wanted = question.wanted;
        match reply {
            Reply::Path(path, replaces) => self.take_file(wanted, path, replaces),
            Reply::Browse => question.open_dialog(&mut self.helpers),
            Reply::Cancel => {
                self.question = None;
                for task in [Task::Dialog, Task::Save, Task::Trace] {
                    self.helpers.call_off(task);
                }
            }
        }
    }

    /// A question was answered; `replaces` if a file of the same kind may be. A helper reads or writes;
    /// what fails is said in the question, which then stays.
    pub(super) fn take_file(&mut self, wanted: Wanted, path: PathBuf, replaces: bool) {
        if let Some(question) = &mut self.question {
            question.problem = None;
            question.is_there = None;
        }
        match wanted {
            Wanted::ImportConversation => self.import(path),
            Wanted::OpenTrace | Wanted::CompareTrace => self.read_trace(wanted, path),
            Wanted::ModelFolder => {
                self.question = None;
                self.look_at(Source::Folder(path));
            }
            Wanted::ExportConversation(id, format) => {
                let store = self.store.beside();
                self.write(wanted, path, replaces, move |path, interest| {
                    let text = store.open()?.export(id, format)?;
                    whole(path, text.as_bytes(), interest)
                });
            }
            Wanted::SaveTrace => match self.inspecting.recording.clone() {
                Some(recording) => {
                    self.write(wanted, path, replaces, move |path, _| recording.save(path));
                }
                None => self.complain("nothing is recorded"),
            },
            Wanted::ExportView { view, kind } => {
                let ranges = self.message_ranges();
                let shown = Snapshot::of(&self.shown(&ranges), &self.inspecting.state);
                self.write(wanted, path, replaces, move |path, interest| {
                    whole(path, &shown.export(view, kind, &today())?, interest)
                });
            }
        }
    }

    /// Has a helper write a file, if that destroys nothing.
    pub(super) fn write(
        &mut self,
        wanted: Wanted,
        path: PathBuf,
        replaces: bool,
        write: impl FnOnce(&Path, &Interest) -> anyhow::Result<()> + Send + 'static,
    ) {
        let inputs = self.inputs();
        self.helpers.start(Task::Save, move |interest| {
            let saved = may_write(wanted, &path, &inputs, replaces).and_then(|may| {
                if !may {
                    return Ok(Saved::IsThere(path));
                }
                write(&path, interest).map(|()| Saved::Written)
            });
            saved.map(Done::Saved).map_err(|error| format!("{error:#}"))
        });
    }

    /// Files and folders that are read from: nothing is written over them.
    fn inputs(&self) -> Vec<PathBuf> {
        let model = match &self.model {
            Model::Loading {
                source: Source::Folder(folder),
                ..
            } => Some(folder.clone()),
            Model::Ready(ready) => ready.folder.clone(),
            _ => None,
        };
        let mut inputs: Vec<PathBuf> = model.into_iter().collect();
        inputs.extend(self.inspecting.files.iter().cloned());
        inputs.extend(self.imports.iter().cloned());
        inputs.extend(self.store.file().map(Path::to_owned));
        inputs
    }

    /// Has a helper read a trace, to be shown or compared with.
    pub(super) fn read_trace(&mut self, wanted: Wanted, path: PathBuf) {
        self.helpers.start(Task::Trace, move |_| {
            let recording = Recording::open(&path).map_err(|error| format!("{error:#}"))?;
            Ok(Done::Trace(wanted, path, recording))
        });
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

/// Writes a file, unless it is not wanted any more.
pub(super) fn whole(path: &Path, bytes: &[u8], interest: &Interest) -> anyhow::Result<()> {
    if interest.lasts() {
        write_whole(path, bytes)?;
    }
    Ok(())
}

fn has_ids(entry: &PathEntry) -> bool {
    let facts = entry.node.facts.as_ref();
    facts.is_some_and(|facts| !facts.ids.is_empty())
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
}
