//! Asking for a file or folder: a path can be typed, and the desktop's own dialog is one button away.
//!
//! The dialog needs a portal service, which a bare window manager has not; typing works everywhere. What
//! is written takes the place of no input and of no file of another kind; one of its own kind is replaced
//! if the user says so.

use std::path::{Path, PathBuf};

use eframe::egui::{self, TextEdit};
use engine::file::{Kind, Output, check_outputs};

use super::helpers::{Done, Helpers, Task};
use crate::inspector::ExportKind;
use crate::recording::Recording;
use crate::store::{ConversationId, ExportFormat, is_conversation};
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

    /// What is written, and whether a file that is there is one, too; nothing for what is read.
    fn kind(self) -> Option<Kind> {
        let kind = |name, is| Some(Kind { name, is });
        match self {
            Self::ExportConversation(_, ExportFormat::Markdown) => {
                kind("a Markdown file", |path| {
                    ends_with(path, &["md", "markdown"])
                })
            }
            Self::ExportConversation(_, ExportFormat::Json) => {
                kind("a conversation", is_conversation)
            }
            Self::ExportConversation(_, ExportFormat::Html) => kind("a page", |path| {
                begins_with(path, b"<!doctype html>") || begins_with(path, b"<!DOCTYPE html>")
            }),
            Self::SaveTrace => kind("a trace", Recording::is_there),
            Self::ExportView { kind: as_, .. } => match as_ {
                ExportKind::Png => kind("a PNG picture", |path| begins_with(path, b"\x89PNG")),
                ExportKind::Svg => kind("an SVG picture", |path| begins_with(path, b"<svg")),
                ExportKind::Csv => kind("a CSV file", |path| ends_with(path, &["csv"])),
                ExportKind::Json => kind("the data of a view", |path| {
                    let text = std::fs::read(path).unwrap_or_default();
                    let value = serde_json::from_slice::<serde_json::Value>(&text);
                    value.is_ok_and(|value| {
                        let has = |key| value.get(key).is_some();
                        ["title", "about", "columns", "rows"].into_iter().all(has)
                    })
                }),
            },
            Self::ImportConversation | Self::ModelFolder | Self::OpenTrace | Self::CompareTrace => {
                None
            }
        }
    }
}

fn ends_with(path: &Path, endings: &[&str]) -> bool {
    let ending = path.extension().unwrap_or_default().to_ascii_lowercase();
    endings.iter().any(|wanted| ending == *wanted)
}

fn begins_with(path: &Path, bytes: &[u8]) -> bool {
    use std::io::Read as _;
    let mut begin = vec![0; bytes.len()];
    std::fs::File::open(path).is_ok_and(|mut file| file.read_exact(&mut begin).is_ok())
        && begin == bytes
}

/// How writing a file came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Saved {
    /// It is there.
    Written,
    /// A file of its kind is here already, and was not to be replaced.
    IsThere(PathBuf),
}

/// Whether `wanted` may be written to `path`: a file of its kind that is there is replaced only if
/// `replaces`. `inputs` are files and folders that are read from.
///
/// # Errors
/// In one sentence, why nothing may be written there.
pub(super) fn may_write(
    wanted: Wanted,
    path: &Path,
    inputs: &[PathBuf],
    replaces: bool,
) -> anyhow::Result<bool> {
    let kind = wanted.kind().expect("only what is written asks");
    let inputs: Vec<&Path> = inputs.iter().map(PathBuf::as_path).collect();
    check_outputs(&[Output { path, kind }], &inputs, true)?;
    Ok(replaces || std::fs::metadata(path).map_or(true, |there| there.len() == 0))
}

/// `name`, with a number where a file of that name is in the folder.
fn free(folder: &Path, name: &str) -> PathBuf {
    let (stem, ending) = name.rsplit_once('.').unwrap_or((name, ""));
    let numbered = (2..).map(|number| format!("{stem}-{number}.{ending}"));
    let mut names = std::iter::once(name.to_owned()).chain(numbered);
    let is_free = |path: &PathBuf| path.symlink_metadata().is_err();
    let found = names.find_map(|name| Some(folder.join(name)).filter(is_free));
    found.expect("a folder does not hold every number")
}

/// What the user said to the question.
#[derive(Debug, PartialEq)]
pub(super) enum Reply {
    /// This path; a file of the kind that is there may be replaced, or not.
    Path(PathBuf, bool),
    /// Open the desktop's dialog.
    Browse,
    /// Nothing is wanted any more.
    Cancel,
}

/// The open question.
pub(super) struct Question {
    pub(super) wanted: Wanted,
    path: String,
    is_new: bool,
    /// A file of the kind that is there already: whether to replace it is asked.
    pub(super) is_there: Option<PathBuf>,
    /// Why nothing came of the dialog or of the path.
    pub(super) problem: Option<String>,
}

impl Question {
    /// Asks for a file; `name` is proposed, of what is written one that is free.
    pub(super) fn new(wanted: Wanted, name: &str) -> Self {
        let folder = dirs::document_dir()
            .or_else(dirs::home_dir)
            .unwrap_or_else(|| PathBuf::from("."));
        Self::within(&folder, wanted, name)
    }

    fn within(folder: &Path, wanted: Wanted, name: &str) -> Self {
        let path = if wanted.is_written() {
            free(folder, name)
        } else {
            folder.join(name)
        };
        Self {
            wanted,
            path: path.to_string_lossy().into_owned(),
            is_new: true,
            is_there: None,
            problem: None,
        }
    }

    /// Draws it; `works` while what was answered is done or the dialog is open.
    pub(super) fn ui(&mut self, ctx: &egui::Context, works: bool) -> Option<Reply> {
        let mut reply = None;
        let mut is_open = true;
        egui::Window::new(self.wanted.title())
            .open(&mut is_open)
            .collapsible(false)
            .resizable(false)
            .default_width(theme::DIALOG_WIDTH)
            .anchor(egui::Align2::CENTER_CENTER, egui::Vec2::ZERO)
            .show(ctx, |ui| {
                let edit = TextEdit::singleline(&mut self.path).desired_width(f32::INFINITY);
                let response = ui.add_enabled(!works, edit).accessible_name("Path");
                if std::mem::take(&mut self.is_new) {
                    response.request_focus();
                }
                if response.changed() {
                    self.problem = None;
                    self.is_there = None;
                }
                if let Some(problem) = &self.problem {
                    ui.colored_label(theme::error_color(ui), problem);
                }
                if let Some(path) = &self.is_there {
                    ui.label(format!("{} is there already", path.display()));
                }
                let entered =
                    response.lost_focus() && ui.input(|input| input.key_pressed(egui::Key::Enter));
                ui.horizontal(|ui| {
                    let (name, replaces) = match &self.is_there {
                        Some(_) => ("Replace it", true),
                        None => (self.wanted.button(), false),
                    };
                    // Enter says where, a button alone that something is to be replaced.
                    let button = ui.add_enabled(!works, egui::Button::new(name));
                    if button.clicked() || (entered && !replaces) {
                        reply = Some(Reply::Path(PathBuf::from(self.path.trim()), replaces));
                    }
                    if ui
                        .add_enabled(!works, egui::Button::new("Browse…"))
                        .clicked()
                    {
                        reply = Some(Reply::Browse);
                    }
                    if ui.button("Cancel").clicked() {
                        reply = Some(Reply::Cancel);
                    }
                    if works {
                        ui.spinner();
                    }
                });
            });
        if !is_open || ctx.input(|input| input.key_pressed(egui::Key::Escape)) {
            reply = reply.or(Some(Reply::Cancel));
        }
        reply
    }

    /// Takes over the path that the dialog gave.
    pub(super) fn set_path(&mut self, path: &Path) {
        self.path = path.to_string_lossy().into_owned();
    }

    /// Opens the desktop's dialog.
    pub(super) fn open_dialog(&mut self, helpers: &mut Helpers) {
        let path = PathBuf::from(self.path.trim());
        let mut dialog = rfd::AsyncFileDialog::new().set_title(self.wanted.title());
        if let Some(folder) = path.parent() {
            dialog = dialog.set_directory(folder);
        }
        if let Some(name) = path.file_name() {
            dialog = dialog.set_file_name(name.to_string_lossy());
        }
        self.problem = None;
        // Made here, since some systems ask for the thread of the window; waited for elsewhere.
        let choice: std::pin::Pin<Box<dyn Future<Output = Option<rfd::FileHandle>> + Send>> =
            match self.wanted {
                Wanted::ModelFolder => Box::pin(dialog.pick_folder()),
                wanted if wanted.is_written() => Box::pin(dialog.save_file()),
                _ => Box::pin(dialog.pick_file()),
            };
        helpers.start(Task::Dialog, move |_| {
            let chosen = engine::wait::block_on(choice);
            Ok(Done::Chosen(chosen.map(|handle| handle.path().to_owned())))
        });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panic")]
mod tests {
    use super::*;

    fn all_written() -> Vec<(Wanted, &'static str, &'static [u8])> {
        let conversation = |format| Wanted::ExportConversation(ConversationId(1), format);
        let view = |kind| Wanted::ExportView { view: 0, kind };
        vec![
            (conversation(ExportFormat::Markdown), "a.md", b"# A"),
            (
                conversation(ExportFormat::Json),
                "a.json",
                br#"{"format": "sparsight-conversation", "version": 1}"#,
            ),
            (
                conversation(ExportFormat::Html),
                "a.html",
                b"<!doctype html>\n<p>",
            ),
            (view(ExportKind::Png), "a.png", b"\x89PNG\r\n\x1a\n"),
            (view(ExportKind::Svg), "a.svg", b"<svg xmlns=\"\">"),
            (view(ExportKind::Csv), "a.csv", b"a,b"),
            (
                view(ExportKind::Json),
                "a.json",
                br#"{"title": "", "about": {}, "columns": [], "rows": []}"#,
            ),
        ]
    }

    #[test]
    fn one_of_its_kind_is_asked_for_and_nothing_else_is_ever_replaced() {
        for (wanted, name, own) in all_written() {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(name);
            let may = |path: &Path, inputs: &[PathBuf], replaces| {
                may_write(wanted, path, inputs, replaces).map_err(|error| error.to_string())
            };
            assert_eq!(may(&path, &[], false), Ok(true), "a new file");
            std::fs::write(&path, b"").unwrap();
            assert_eq!(may(&path, &[], false), Ok(true), "an empty file");
            std::fs::write(&path, own).unwrap();
            assert_eq!(may(&path, &[], false), Ok(false), "{wanted:?} is asked");
            assert_eq!(may(&path, &[], true), Ok(true), "{wanted:?} was asked");
            for inputs in [vec![path.clone()], vec![folder.path().to_owned()]] {
                let error = may(&path, &inputs, true).unwrap_err();
                assert!(error.contains("read by this run"), "{error}");
            }
            for (other, content) in [
                ("notes.txt", &b"mine"[..]),
                ("model.safetensors", b"\x02\0\0\0\0\0\0\0{}"),
                ("tokenizer.json", b"{}"),
                ("a.db", b"SQLite format 3\0"),
            ] {
                let other = folder.path().join(other);
                std::fs::write(&other, content).unwrap();
                let error = may(&other, &[], true).unwrap_err();
                assert!(
                    error.contains("that is not a") || error.contains("that is not the"),
                    "{error}"
                );
            }
            assert!(may(folder.path(), &[], true).is_err(), "a folder");
            // Beside what is there now and a config, the folder is a model's: also for a new file.
            std::fs::write(folder.path().join("config.json"), b"{}").unwrap();
            std::fs::create_dir(folder.path().join("under")).unwrap();
            for path in [
                path.clone(),
                folder.path().join("new"),
                folder.path().join("under/new"),
            ] {
                let error = may(&path, &[], true).unwrap_err();
                assert!(error.contains("model folder"), "{error}");
            }
        }
    }

    #[test]
    fn what_is_proposed_is_free() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "trace.safetensors",
            "trace-2.safetensors",
            "trace-3.safetensors",
        ] {
            let question = Question::within(folder.path(), Wanted::SaveTrace, "trace.safetensors");
            assert_eq!(Path::new(&question.path), folder.path().join(name));
            std::fs::write(&question.path, b"mine").unwrap();
        }
        // What is read is there.
        let question = Question::within(folder.path(), Wanted::OpenTrace, "trace.safetensors");
        assert_eq!(
            Path::new(&question.path),
            folder.path().join("trace.safetensors")
        );
    }
}
