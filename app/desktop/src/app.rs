//! The app: all of its state, and the one place that talks to the engine and the database.
//!
//! Each frame, `logic` drains what has come from the runner and from helper threads, and `ui` draws from
//! what is held here. Drawing says what the user wants as actions; `actions` carries them out once all is
//! drawn. Nothing here waits for the engine, a file or a search: that is what `helpers` are for.

mod actions;
mod answer;
mod asking;
mod events;
mod files;
mod helpers;
mod inspecting;
mod link;
mod model;
mod panels;
mod start;
#[cfg(test)]
mod tests;
mod what_if;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Instant;

use eframe::egui;
use engine::device::DeviceInfo;
use engine::generate::{GenerateOptions, Stop};
use engine::{Source, runner};
use serde::{Deserialize, Serialize};

pub use start::{Start, WindowMemory};

use crate::chat::{ChatState, ChatView};
use crate::models::{ModelCard, ModelsState};
use crate::settings::{AppSettings, ConversationSettings, OwnPreset, SettingsState};
use crate::sidebar::{ConversationRow, FolderRow, SearchHit, SidebarState};
use crate::store::{AnswerFacts, ConversationId, NodeId, NodeState, PathEntry, Store};
use crate::theme;
use answer::Answer;
use files::Question;
use helpers::{Done, Helpers, Task};
use inspecting::Inspecting;
use link::Link;
use model::Model;
use start::keys;

/// What is remembered of panels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Panels {
    sidebar: bool,
    inspector: bool,
    is_recording: bool,
    closed_folders: Vec<i64>,
}

impl Default for Panels {
    /// The inspector is what this app is for: a newcomer sees it at once.
    fn default() -> Self {
        Self {
            sidebar: true,
            inspector: true,
            is_recording: true,
            closed_folders: Vec::new(),
        }
    }
}

/// How long a deleted conversation can be brought back from the database: thirty days.
const DELETED_FOR_MS: i64 = 30 * 24 * 3_600_000;

/// Windows that may be open.
#[derive(Default)]
struct Windows {
    settings: bool,
    models: bool,
    help: bool,
}

/// A sentence at the top of the window, until it is put away.
struct Notice {
    text: String,
    is_error: bool,
}

/// What the database did not take, to be tried again.
struct Unsaved {
    node: NodeId,
    message: engine::chat::Message,
    state: NodeState,
    facts: AnswerFacts,
}

/// Where the answers of the branch begin in the recorded timeline.
#[derive(Default)]
struct Starts {
    /// The timeline that they were looked for in; `None` if the branch has changed since.
    of: Option<u64>,
    /// One an entry of the branch; `None` for what is no part of the timeline.
    starts: Vec<Option<usize>>,
    /// Ids that were compared so far, for tests.
    n_compared: usize,
}

/// The tokens of an answer, as text.
#[derive(Default)]
struct Spans {
    node: Option<NodeId>,
    texts: Vec<String>,
}

/// The app.
pub struct App {
    store: Store,
    link: Link,
    helpers: Helpers,
    model: Model,
    devices: Vec<DeviceInfo>,
    notices: Vec<Notice>,
    windows: Windows,
    question: Option<Question>,
    panels: Panels,
    app_settings: AppSettings,

    conversations: Vec<ConversationRow>,
    folders: Vec<FolderRow>,
    hits: Option<Vec<SearchHit>>,
    deleted: Option<(ConversationId, String)>,
    open: Option<ConversationId>,
    path: Vec<PathEntry>,
    spans: Vec<Spans>,
    starts: Starts,
    settings: ConversationSettings,
    /// What [`Self::settings`] of a new conversation were proposed as.
    proposed: ConversationSettings,
    own_presets: Vec<OwnPreset>,
    answer: Option<Answer>,
    unsaved: Vec<Unsaved>,
    /// When the database is asked again to take them.
    save_again: Option<Instant>,
    /// Files to be imported, one after the other.
    imports: VecDeque<PathBuf>,

    card: Option<ModelCard>,
    card_problem: Option<String>,
    recent_models: Vec<String>,
    device: Option<String>,

    inspecting: Inspecting,
    /// Routes of the base of a what-if, to be replayed.
    routes: Option<engine::replay::RouteTrace>,
    chat_state: ChatState,
    sidebar_state: SidebarState,
    models_state: ModelsState,
    settings_state: SettingsState,
    ctx: egui::Context,
}

impl App {
    /// The app with what was there; begins to load a model.
    ///
    /// # Errors
    /// No thread for the engine, or a database that cannot be read.
    pub fn new(start: Start, ctx: &egui::Context) -> anyhow::Result<Self> {
        theme::install(ctx);
        let Start {
            store,
            options,
            notices,
            trace,
            ..
        } = start;
        let panels: Panels = store.get(keys::PANELS)?;
        let app_settings: AppSettings = store.get(keys::APP)?;
        app_settings.apply(ctx);
        let mut sidebar_state = SidebarState::default();
        sidebar_state.close_folders(panels.closed_folders.iter().copied());
        let mut helpers = Helpers::new(ctx);
        helpers.start(Task::Devices, |_| Ok(Done::Devices(engine::device::list())));
        helpers.start(Task::Grammars, |_| {
            crate::chat::code::preload();
            Ok(Done::Grammars)
        });
        let mut app = Self {
            link: Link::start(ctx)?,
            helpers,
            model: Model::None,
            devices: Vec::new(),
            notices: Vec::new(),
            windows: Windows::default(),
            question: None,
            app_settings,
            conversations: Vec::new(),
            folders: Vec::new(),
            hits: None,
            deleted: None,
            open: None,
            path: Vec::new(),
            spans: Vec::new(),
            starts: Starts::default(),
            settings: store.get(keys::SETTINGS)?,
            proposed: store.get(keys::SETTINGS)?,
            own_presets: store.get(keys::PRESETS)?,
            answer: None,
            unsaved: Vec::new(),
            save_again: None,
            imports: VecDeque::new(),
            card: None,
            card_problem: None,
            recent_models: store.get(keys::RECENT_MODELS)?,
            device: match options.device {
                Some(device) => Some(device),
                None => store.get(keys::DEVICE)?,
            },
            inspecting: Inspecting::new(panels.inspector, panels.inspector && panels.is_recording),
            routes: None,
            chat_state: ChatState::default(),
            sidebar_state,
            models_state: ModelsState::default(),
            settings_state: SettingsState::default(),
            panels,
            store,
            ctx: ctx.clone(),
        };
        app.models_state.device = app.device.clone();
        for notice in notices {
            app.tell(notice);
        }
        let until_ms = crate::store::now_ms() - DELETED_FOR_MS;
        let purged = app.store.purge_deleted(until_ms);
        app.or_complain(purged);
        app.refresh_lists();
        let last: Option<ConversationId> = app.store.get(keys::CONVERSATION)?;
        let is_there = |id: &ConversationId| app.conversations.iter().any(|row| row.id == id.0);
        if let Some(last) = last.filter(is_there) {
            app.open_conversation(last);
        }
        if let (Some(recording), Some(file)) = (trace, options.trace.clone()) {
            app.inspecting.open(recording, file);
        }
        match options.model.or_else(|| app.last_model()) {
            // A trace is looked at without a model.
            Some(_) if options.trace.is_some() => {}
            Some(source) => app.load_model(source),
            None => app.windows.models = true,
        }
        app.chat_state.composer.focus();
        Ok(app)
    }

    /// The model that was loaded last if it is still there, else the embedded one.
    fn last_model(&self) -> Option<Source> {
        let last: Option<String> = self.store.get(keys::MODEL).unwrap_or_default();
        let folder = last.map(std::path::PathBuf::from);
        match folder.filter(|folder| folder.join("config.json").is_file()) {
            Some(folder) => Some(Source::Folder(folder)),
            None => embedded(),
        }
    }

    /// Says something at the top of the window.
    fn tell(&mut self, text: impl Into<String>) {
        self.notices.push(Notice {
            text: text.into(),
            is_error: false,
        });
    }

    /// Says what went wrong.
    fn complain(&mut self, text: impl Into<String>) {
        let text = text.into();
        log::error!("{text}");
        if self.notices.iter().all(|notice| notice.text != text) {
            self.notices.push(Notice {
                text,
                is_error: true,
            });
        }
    }

    /// The value, or a complaint.
    fn or_complain<T, E: std::fmt::Display>(&mut self, result: Result<T, E>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.complain(error.to_string());
                None
            }
        }
    }

    /// Sets a value of the database's memory of the app.
    fn remember<T: Serialize>(&mut self, key: &str, value: &T) {
        let result = self.store.set(key, value);
        self.or_complain(result);
    }

    fn remember_panels(&mut self) {
        self.panels.inspector = self.inspecting.is_open;
        self.panels.is_recording = self.inspecting.is_recording;
        self.panels.closed_folders = self.sidebar_state.closed_folders().collect();
        self.panels.closed_folders.sort_unstable();
        let panels = self.panels.clone();
        self.remember(keys::PANELS, &panels);
    }
}

/// The model inside the program, if there is one.
#[cfg(feature = "embedded-model")]
fn embedded() -> Option<Source> {
    Some(Source::Embedded(&tiny::TINY))
}

/// The model inside the program, if there is one.
#[cfg(not(feature = "embedded-model"))]
fn embedded() -> Option<Source> {
    None
}

impl eframe::App for App {
    fn logic(&mut self, ctx: &egui::Context, _frame: &mut eframe::Frame) {
        self.update(ctx);
    }

    fn ui(&mut self, ui: &mut egui::Ui, _frame: &mut eframe::Frame) {
        self.draw(ui);
    }

    fn on_exit(&mut self, _gl: Option<&eframe::glow::Context>) {
        self.close();
    }
}
