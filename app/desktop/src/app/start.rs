//! What is there before the window is: the database, and what it remembers of the window.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use eframe::egui;
use serde::{Deserialize, Serialize};

use crate::recording::Recording;
use crate::store::Store;
use crate::window::Options;

/// The name of the database in the folder of data.
const DATABASE: &str = "sparsight.db";

/// Keys of what the database remembers of the app.
pub(super) mod keys {
    pub(crate) const WINDOW: &str = "window";
    pub(crate) const APP: &str = "app";
    pub(crate) const PANELS: &str = "panels";
    pub(crate) const CONVERSATION: &str = "last_conversation";
    pub(crate) const MODEL: &str = "last_model";
    pub(crate) const RECENT_MODELS: &str = "recent_models";
    pub(crate) const DEVICE: &str = "device";
    pub(crate) const SETTINGS: &str = "default_settings";
    pub(crate) const PRESETS: &str = "presets";
}

/// How large the window was.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WindowMemory {
    /// Points.
    pub size: [f32; 2],
    /// Whether it filled the screen.
    pub is_maximized: bool,
}

impl Default for WindowMemory {
    fn default() -> Self {
        Self {
            size: [1360.0, 860.0],
            is_maximized: false,
        }
    }
}

/// What the app starts with.
pub struct Start {
    pub(super) store: Store,
    pub(super) options: Options,
    pub(super) notices: Vec<String>,
    pub(super) trace: Option<Recording>,
    window: WindowMemory,
}

impl Start {
    /// Opens the database and the trace, if one is asked for.
    ///
    /// # Errors
    /// A folder that cannot be written, a database of a later version or of another program, a trace
    /// that is none.
    pub fn open(options: Options, notice: Option<String>) -> anyhow::Result<Self> {
        let folder = match &options.data {
            Some(folder) => folder.clone(),
            None => user_folder()?,
        };
        let path = folder.display();
        anyhow::ensure!(
            folder.is_dir() || !folder.exists(),
            "{path}: is a file, expected a folder for the conversations"
        );
        std::fs::create_dir_all(&folder).with_context(|| {
            format!("{path}: the folder for the conversations could not be made")
        })?;
        let (store, told) = Store::open(&folder.join(DATABASE))?;
        let trace = match &options.trace {
            Some(path) => Some(Recording::open(path)?),
            None => None,
        };
        let mut notices: Vec<String> = notice.into_iter().collect();
        notices.extend(told.iter().map(ToString::to_string));
        let window: WindowMemory = store.get(keys::WINDOW)?;
        Ok(Self {
            store,
            options,
            notices,
            trace,
            window,
        })
    }

    /// A database that is there.
    #[cfg(test)]
    pub(super) fn with(store: Store) -> Self {
        Self {
            store,
            options: Options::default(),
            notices: Vec::new(),
            trace: None,
            window: WindowMemory::default(),
        }
    }

    /// How large the window was; a size that makes no sense counts as none.
    pub fn window(&self) -> WindowMemory {
        let is_sane = self
            .window
            .size
            .iter()
            .all(|side| (200.0..=20_000.0).contains(side));
        if is_sane {
            self.window
        } else {
            WindowMemory::default()
        }
    }
}

impl WindowMemory {
    /// As the window is now; `None` where the system does not say.
    pub(super) fn now(ctx: &egui::Context) -> Option<Self> {
        ctx.input(|input| {
            let viewport = input.viewport();
            let size = viewport.inner_rect?.size();
            Some(Self {
                size: [size.x, size.y],
                is_maximized: viewport.maximized.unwrap_or(false),
            })
        })
    }
}

fn user_folder() -> anyhow::Result<PathBuf> {
    let Some(folder) = dirs::data_dir() else {
        bail!(
            "the system names no folder for a user's data, expected one: `--data FOLDER` gives it"
        );
    };
    Ok(folder.join("sparsight"))
}
