//! Work beside the window: what could make a frame late runs on threads of its own.
//!
//! Of each [`Task`] one runs at a time; another one takes its place. What it brings, a panic included,
//! arrives as one [`Done`] or one sentence, which [`App::take_done`](super::App) obeys; what was called
//! off brings nothing.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Weak};

use eframe::egui;
use engine::device::DeviceInfo;
use engine::task;

use super::files::{Saved, Wanted};
use super::model::Files;
use crate::inspector::Sides;
use crate::models::ModelCard;
use crate::recording::Recording;
use crate::sidebar::SearchHit;
use crate::store::ConversationId;

/// What a helper does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Task {
    /// Asks drivers for devices, which takes them a moment.
    Devices,
    /// Unpacks the grammars of code blocks.
    Grammars,
    /// Encodes a prompt: ten megabytes take seconds.
    Encode,
    /// Reads config and tokenizer of the model that is loaded.
    ModelFiles,
    /// Reads what a checkpoint needs.
    ModelCard,
    /// Waits for the desktop's file dialog.
    Dialog,
    /// Writes a file.
    Save,
    /// Reads a conversation from a file.
    Import,
    /// Reads a trace.
    Trace,
    /// Searches the conversations.
    Search,
    /// Takes the frames of a what-if and compares its two runs.
    WhatIf,
    /// Compares with a trace.
    Compare,
}

/// Each task, its thread's name, and what the window says meanwhile.
pub(super) const TASKS: &[(Task, &str, Option<&str>)] = &[
    (Task::Devices, "devices", None),
    (Task::Grammars, "grammars", None),
    (Task::Encode, "encode", None),
    (Task::ModelFiles, "model files", None),
    (
        Task::ModelCard,
        "model card",
        Some("Reading the checkpoint"),
    ),
    (Task::Dialog, "file dialog", None),
    (Task::Save, "save", Some("Writing the file")),
    (Task::Import, "import", Some("Importing the conversation")),
    (Task::Trace, "trace", Some("Reading the trace")),
    (Task::Search, "search", None),
    (Task::WhatIf, "what if", Some("Comparing the two runs")),
    (Task::Compare, "compare", Some("Comparing with the trace")),
];

/// What a helper brings.
pub(super) enum Done {
    Devices(Vec<DeviceInfo>),
    Grammars,
    Ids(Vec<u32>),
    ModelFiles(Files),
    ModelCard(Box<ModelCard>),
    /// `None`: the dialog was called off.
    Chosen(Option<PathBuf>),
    Saved(Saved),
    Imported(ConversationId),
    /// What it was wanted for, and where it lies.
    Trace(Wanted, PathBuf, Recording),
    Hits(Vec<SearchHit>),
    Sides(Box<Sides>),
}

/// Whether somebody still waits for what a helper does. Long work looks now and then.
pub(super) struct Interest(Weak<()>);

impl Interest {
    /// Somebody does.
    pub(super) fn lasts(&self) -> bool {
        self.0.strong_count() > 0
    }
}

struct Running {
    task: Task,
    ticket: u64,
    /// Held for the helper's [`Interest`].
    _interest: Arc<()>,
}

type Told = (u64, Result<Done, String>);

/// The helpers that run.
pub(super) struct Helpers {
    running: Vec<Running>,
    next_ticket: u64,
    outbox: Sender<Told>,
    inbox: Receiver<Told>,
    ctx: egui::Context,
}

impl Helpers {
    /// None runs yet.
    pub(super) fn new(ctx: &egui::Context) -> Self {
        let (outbox, inbox) = channel();
        Self {
            running: Vec::new(),
            next_ticket: 0,
            outbox,
            inbox,
            ctx: ctx.clone(),
        }
    }

    /// Runs `body` as `task`, in place of what runs as that.
    pub(super) fn start(
        &mut self,
        task: Task,
        body: impl FnOnce(&Interest) -> Result<Done, String> + Send + 'static,
    ) {
        self.call_off(task);
        self.next_ticket += 1;
        let ticket = self.next_ticket;
        let held = Arc::new(());
        let interest = Interest(Arc::downgrade(&held));
        self.running.push(Running {
            task,
            ticket,
            _interest: held,
        });
        let name = row(task).1;
        let (outbox, wake) = (self.outbox.clone(), self.ctx.clone());
        let done = move |result: Result<Result<Done, String>, String>| {
            let failed = |panic| Err(format!("the thread {name:?} failed: {panic}"));
            // A window that is gone wants nothing.
            let _ = outbox.send((ticket, result.unwrap_or_else(failed)));
            wake.request_repaint();
        };
        if let Err(error) = task::start(name, move || body(&interest), done) {
            let problem = format!("the system gave no thread {name:?}: {error}");
            let _ = self.outbox.send((ticket, Err(problem)));
            self.ctx.request_repaint();
        }
    }

    /// Lets go of what runs as `task`, if something does: it brings nothing any more.
    pub(super) fn call_off(&mut self, task: Task) {
        self.running.retain(|running| running.task != task);
    }

    /// Whether something runs as `task`.
    pub(super) fn is_running(&self, task: Task) -> bool {
        self.running.iter().any(|running| running.task == task)
    }

    /// What is waited for that the window has words for.
    pub(super) fn waiting(&self) -> Option<(Task, &'static str)> {
        let words = |running: &Running| Some((running.task, row(running.task).2?));
        self.running.iter().find_map(words)
    }

    /// What has come. Never waits.
    pub(super) fn next(&mut self) -> Option<(Task, Result<Done, String>)> {
        loop {
            let told = self.inbox.try_recv().ok()?;
            if let Some(done) = self.take(told) {
                return Some(done);
            }
        }
    }

    /// Waits for `task` to end, if it runs: the program must not end in the middle of a file.
    pub(super) fn wait_for(&mut self, task: Task) {
        while self.is_running(task)
            && let Ok(told) = self.inbox.recv()
        {
            self.take(told);
        }
    }

    fn take(&mut self, (ticket, result): Told) -> Option<(Task, Result<Done, String>)> {
        let at = self
            .running
            .iter()
            .position(|running| running.ticket == ticket)?;
        Some((self.running.remove(at).task, result))
    }
}

fn row(task: Task) -> &'static (Task, &'static str, Option<&'static str>) {
    let found = TASKS.iter().find(|(of, ..)| *of == task);
    found.expect("every task has a row, see the test")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_every_task_in_order() {
        for (index, (task, ..)) in TASKS.iter().enumerate() {
            assert_eq!(*task as usize, index);
        }
        // The last variant: a new one after it must move this line, and get a row.
        assert_eq!(Task::Compare as usize + 1, TASKS.len());
    }
}
