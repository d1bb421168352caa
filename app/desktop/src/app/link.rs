//! The engine's runner as the app uses it: a queue of jobs, and the events of the one in front.
//!
//! The runner obeys commands in order, so a job is a few commands and a known last event. Text is
//! encoded on a thread of its own: ten megabytes take seconds. What is done with the events is the
//! business of [`super`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use eframe::egui;
use engine::generate::GenerateOptions;
use engine::model::{ForwardOptions, LoadOptions};
use engine::runner::{Command, Event, Prompt, Record, Runner};
use engine::sampler::SamplerOptions;
use engine::tokenizer::{Piece, Tokenizer};
use engine::trace::Watch;
use engine::{SessionOptions, Source};

/// What a job is for; what comes back carries it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Purpose {
    /// Load a model.
    Load,
    /// Write the answer that is being written.
    Answer,
    /// Feed the whole timeline once more, to record it.
    Record,
    /// Feed it with dense attention, to compare.
    RecordDense,
    /// One token's heads in one layer.
    RecordHeads { position: usize, layer: usize },
    /// The base of a what-if: the tokens as they are, logits recorded.
    WhatIfBase,
    /// The same tokens under other knobs.
    WhatIfForced,
    /// What the model writes under other knobs.
    WhatIfWrites,
}

/// One feeding of tokens.
#[derive(Clone, Debug)]
pub(super) struct Feed {
    /// Cut the timeline back to here before.
    pub rewind: Option<usize>,
    /// What to record meanwhile.
    pub watch: Watch,
    /// What to feed.
    pub prompt: Prompt,
    /// How to choose.
    pub sampler: SamplerOptions,
    /// When to stop.
    pub options: GenerateOptions,
    /// Knobs.
    pub forward: ForwardOptions,
    /// Decisions to keep for a replay.
    pub record: Record,
}

/// What was asked for and is not done.
struct Job {
    purpose: Purpose,
    /// Not told to the runner yet: it takes a change of what is recorded at once, so that of the next
    /// job would end the recording of the one that runs.
    waits: Option<Feed>,
}

/// Ids of a text that was encoded elsewhere.
pub(super) struct Encoded {
    /// Which request this answers.
    pub ticket: u64,
    /// The ids, or what is wrong with the text.
    pub ids: Result<Vec<u32>, String>,
}

/// The runner and what it was asked for.
pub(super) struct Link {
    runner: Runner,
    events: Receiver<Event>,
    jobs: VecDeque<Job>,
    encoded: (Sender<Encoded>, Receiver<Encoded>),
    next_ticket: u64,
    ctx: egui::Context,
}

impl Link {
    /// Starts the runner. Each of its events wakes the window.
    pub(super) fn start(ctx: &egui::Context) -> engine::Result<Self> {
        let wake = ctx.clone();
        let (runner, events) = Runner::start(move || wake.request_repaint())?;
        Ok(Self {
            runner,
            events,
            jobs: VecDeque::new(),
            encoded: channel(),
            next_ticket: 0,
            ctx: ctx.clone(),
        })
    }

    /// What runs or waits, first the one that runs.
    pub(super) fn jobs(&self) -> impl Iterator<Item = &Purpose> {
        self.jobs.iter().map(|job| &job.purpose)
    }

    /// Whether nothing runs or waits.
    pub(super) fn is_idle(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Loads a model in place of the one there is.
    pub(super) fn load(&mut self, source: Source, device: Option<String>) {
        self.drop_waiting();
        self.jobs.push_back(Job {
            purpose: Purpose::Load,
            waits: None,
        });
        self.runner.send(Command::Load {
            source,
            device,
            options: LoadOptions::default(),
            session: SessionOptions::default(),
        });
    }

    /// Forgets the model.
    pub(super) fn unload(&self) {
        self.runner.send(Command::Unload);
    }

    /// Feeds tokens, now or when what runs is done.
    pub(super) fn feed(&mut self, purpose: Purpose, feed: Feed) {
        let waits = if self.jobs.is_empty() {
            self.tell(feed);
            None
        } else {
            Some(feed)
        };
        self.jobs.push_back(Job { purpose, waits });
    }

    fn tell(&self, feed: Feed) {
        if let Some(position) = feed.rewind {
            self.runner.send(Command::Rewind(position));
        }
        self.runner.send(Command::Watch(feed.watch));
        self.runner.send(Command::Send {
            prompt: feed.prompt,
            sampler: feed.sampler,
            options: feed.options,
            forward: feed.forward,
            record: feed.record,
        });
    }

    /// Forgets what has not begun.
    fn drop_waiting(&mut self) {
        self.jobs.retain(|job| job.waits.is_none());
    }

    /// Records other stages from the next step on, also while something runs.
    pub(super) fn watch(&self, watch: Watch) {
        self.runner.send(Command::Watch(watch));
    }

    /// Breaks off what runs, and what waits behind it.
    pub(super) fn stop(&mut self) {
        self.drop_waiting();
        self.runner.send(Command::Stop);
    }

    /// The next event, with what it belongs to. Never waits.
    pub(super) fn next(&mut self) -> Option<(Option<Purpose>, Event)> {
        let event = self.events.try_recv().ok()?;
        let purpose = self.jobs.front().map(|job| job.purpose.clone());
        let ends = match &event {
            Event::Loaded(_) | Event::Finished(_) => true,
            // A failed rewind or watch is followed by the feeding it was for, which fails or not by
            // itself; an unload belongs to no job.
            Event::Error { during, .. } => matches!(*during, "load" | "generate"),
            Event::Unloaded => purpose == Some(Purpose::Load),
            _ => false,
        };
        if ends {
            self.jobs.pop_front();
            let next = self.jobs.front_mut().and_then(|job| job.waits.take());
            if let Some(next) = next {
                self.tell(next);
            }
        }
        Some((purpose, event))
    }

    /// Encodes a text on another thread; the ids come by [`Link::next_encoded`] under this ticket.
    pub(super) fn encode(&mut self, tokenizer: &Arc<Tokenizer>, pieces: Vec<Piece>) -> u64 {
        self.next_ticket += 1;
        let ticket = self.next_ticket;
        let (tokenizer, outbox, wake) =
            (tokenizer.clone(), self.encoded.0.clone(), self.ctx.clone());
        let body = move || {
            let ids = tokenizer
                .encode_pieces(&pieces)
                .map_err(|error| error.to_string());
            // A window that is gone wants no ids.
            let _ = outbox.send(Encoded { ticket, ids });
            wake.request_repaint();
        };
        if let Err(error) = std::thread::Builder::new()
            .name("encode".into())
            .spawn(body)
        {
            let ids = Err(format!("no thread to encode the text on: {error}"));
            let _ = self.encoded.0.send(Encoded { ticket, ids });
        }
        ticket
    }

    /// Ids that have come. Never waits.
    pub(super) fn next_encoded(&self) -> Option<Encoded> {
        self.encoded.1.try_recv().ok()
    }
}
