//! Asking for a file or folder: a path can be typed, and the desktop's own dialog is one button away.
//!
//! The dialog needs a portal service, which a bare window manager has not; typing works everywhere.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, TryRecvError, channel};

use eframe::egui::{self, TextEdit};

use crate::inspector::ExportKind;
use crate::store::{ConversationId, ExportFormat};
use crate::theme;

/// What a file is wanted for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Wanted {
    ExportConversation(ConversationId, ExportFormat),
    ImportConversation,
    ModelFolder,
    SaveTrace,
    OpenTrace,
    CompareTrace,
    ExportView { view: usize, kind: ExportKind },
}

impl Wanted {
    fn title(self) -> &'static str {
        match self {
            Self::ExportConversation(..) => "Export the conversation",
            Self::ImportConversation => "Import a conversation",
            Self::ModelFolder => "Open a checkpoint folder",
            Self::SaveTrace => "Save the trace",
            Self::OpenTrace => "Open a trace",
            Self::CompareTrace => "Compare with a trace",
            Self::ExportView { .. } => "Export the view",
        }
    }

    fn is_written(self) -> bool {
        matches!(
            self,
            Self::ExportConversation(..) | Self::SaveTrace | Self::ExportView { .. }
        )
    }

    fn button(self) -> &'static str {
        match self {
            Self::CompareTrace => "Compare",
            _ if self.is_written() => "Save",
            _ => "Open",
        }
    }
}

/// The open question.
pub(super) struct Question {
    wanted: Wanted,
    path: String,
    is_new: bool,
    dialog: Option<Receiver<Option<PathBuf>>>,
    /// Why nothing came of the dialog or of the path.
    pub(super) problem: Option<String>,
}

impl Question {
    /// Asks for a file; `name` is proposed.
    pub(super) fn new(wanted: Wanted, name: &str) -> Self {
        let folder = dirs::document_dir()
            .or_else(dirs::home_dir)
            .unwrap_or_else(|| PathBuf::from("."));
        Self {
            wanted,
            path: folder.join(name).to_string_lossy().into_owned(),
            is_new: true,
            dialog: None,
            problem: None,
        }
    }

    /// Draws it. `Some` when it is answered: what was wanted, and the path unless it was called off.
    pub(super) fn ui(&mut self, ctx: &egui::Context) -> Option<(Wanted, Option<PathBuf>)> {
        if let Some(answer) = self.poll_dialog() {
            return Some((self.wanted, Some(answer)));
        }
        let mut answer = None;
        let mut is_open = true;
        egui::Window::new(self.wanted.title())
            .open(&mut is_open)
            .collapsible(false)
            .resizable(false)
            .default_width(theme::DIALOG_WIDTH)
            .anchor(egui::Align2::CENTER_CENTER, egui::Vec2::ZERO)
            .show(ctx, |ui| {
                let edit = TextEdit::singleline(&mut self.path).desired_width(f32::INFINITY);
                let response = ui.add(edit).accessible_name("Path");
                if std::mem::take(&mut self.is_new) {
                    response.request_focus();
                }
                if let Some(problem) = &self.problem {
                    ui.colored_label(theme::error_color(ui), problem);
                }
                let entered =
                    response.lost_focus() && ui.input(|input| input.key_pressed(egui::Key::Enter));
                ui.horizontal(|ui| {
                    if ui.button(self.wanted.button()).clicked() || entered {
                        answer = Some(Some(PathBuf::from(self.path.trim())));
                    }
                    let browse =
                        ui.add_enabled(self.dialog.is_none(), egui::Button::new("Browse…"));
                    if browse.clicked() {
                        self.open_dialog(ui.ctx());
                    }
                    if ui.button("Cancel").clicked() {
                        answer = Some(None);
                    }
                });
            });
        if !is_open || ctx.input(|input| input.key_pressed(egui::Key::Escape)) {
            answer = answer.or(Some(None));
        }
        answer.map(|path| (self.wanted, path))
    }

    fn poll_dialog(&mut self) -> Option<PathBuf> {
        match self.dialog.as_ref()?.try_recv() {
            Ok(Some(path)) => {
                self.dialog = None;
                return Some(path);
            }
            Ok(None) => {
                self.dialog = None;
                self.problem = Some(
                    "nothing was chosen; if no dialog came, this desktop has none: type the path"
                        .into(),
                );
            }
            Err(TryRecvError::Disconnected) => {
                self.dialog = None;
                self.problem = Some("the desktop's dialog failed: type the path".into());
            }
            Err(TryRecvError::Empty) => {}
        }
        None
    }

    fn open_dialog(&mut self, ctx: &egui::Context) {
        let path = PathBuf::from(self.path.trim());
        let mut dialog = rfd::AsyncFileDialog::new().set_title(self.wanted.title());
        if let Some(folder) = path.parent() {
            dialog = dialog.set_directory(folder);
        }
        if let Some(name) = path.file_name() {
            dialog = dialog.set_file_name(name.to_string_lossy());
        }
        let (outbox, inbox) = channel();
        self.dialog = Some(inbox);
        self.problem = None;
        let (wanted, wake) = (self.wanted, ctx.clone());
        // Made here, since some systems ask for the thread of the window; waited for elsewhere.
        let choice: std::pin::Pin<Box<dyn Future<Output = Option<rfd::FileHandle>> + Send>> =
            match wanted {
                Wanted::ModelFolder => Box::pin(dialog.pick_folder()),
                _ if wanted.is_written() => Box::pin(dialog.save_file()),
                _ => Box::pin(dialog.pick_file()),
            };
        let body = move || {
            let chosen = pollster::block_on(choice).map(|handle| handle.path().to_owned());
            // A question that was called off wants no answer.
            let _ = outbox.send(chosen);
            wake.request_repaint();
        };
        if let Err(error) = std::thread::Builder::new()
            .name("file dialog".into())
            .spawn(body)
        {
            self.dialog = None;
            self.problem = Some(format!("no thread for the dialog: {error}; type the path"));
        }
    }
}
