//! The engine's runner as the app uses it: a queue of jobs, and the events of the one in front.
//!
//! A job is a few commands, of which the last names it: its events carry that name, and one of them is
//! the last. What is done with the events is the business of [`super`].

use std::collections::VecDeque;

use eframe::egui;
use engine::generate::GenerateOptions;
use engine::model::{ForwardOptions, LoadOptions};
use engine::runner::{self, Command, Event, Events, Prompt, Record, Runner};
use engine::sampler::SamplerOptions;
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
    told: Told,
}

/// How far the runner knows of a job.
enum Told {
    /// Under this name.
    As(runner::Job),
    /// Not yet: it takes a change of what is recorded at once, so that of the next job would end the
    /// recording of the one that runs.
    Not(Box<Feed>),
}

/// The runner and what it was asked for.
pub(super) struct Link {
    runner: Runner,
    events: Events,
    jobs: VecDeque<Job>,
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
        let job = self.runner.send(Command::Load {
            source,
            device,
            options: LoadOptions::default(),
            session: SessionOptions::default(),
        });
        self.jobs.push_back(Job {
            purpose: Purpose::Load,
            told: Told::As(job),
        });
    }

    /// Forgets the model.
    pub(super) fn unload(&self) {
        self.runner.send(Command::Unload);
    }

    /// Feeds tokens, now or when what runs is done.
    pub(super) fn feed(&mut self, purpose: Purpose, feed: Feed) {
        let told = if self.jobs.is_empty() {
            Told::As(self.tell(feed))
        } else {
            Told::Not(Box::new(feed))
        };
        self.jobs.push_back(Job { purpose, told });
    }

    fn tell(&self, feed: Feed) -> runner::Job {
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
        })
    }

    /// Forgets what has not begun.
    fn drop_waiting(&mut self) {
        self.jobs.retain(|job| matches!(job.told, Told::As(_)));
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

    /// The next event, with what it belongs to: nothing for one of a rewind or watch before a feeding,
    /// which fails or not by itself, or of an unload. Never waits.
    pub(super) fn next(&mut self) -> Option<(Option<Purpose>, Event)> {
        let (of, event) = self.events.try_recv().ok()?;
        let named = |job: &Job| matches!(job.told, Told::As(name) if name == of);
        let Some(at) = self.jobs.iter().position(named) else {
            return Some((None, event));
        };
        let purpose = self.jobs[at].purpose.clone();
        let ends = match &event {
            Event::Loaded(_) | Event::Finished(_) | Event::Error { .. } => true,
            Event::Unloaded => purpose == Purpose::Load,
            _ => false,
        };
        if ends {
            self.jobs.remove(at);
            let next = self.jobs.front_mut();
            if let Some(Job {
                told: Told::Not(_), ..
            }) = next
                && let Some(Job {
                    purpose,
                    told: Told::Not(feed),
                }) = self.jobs.pop_front()
            {
                let told = Told::As(self.tell(*feed));
                self.jobs.push_front(Job { purpose, told });
            }
        }
        Some((Some(purpose), event))
    }
}
