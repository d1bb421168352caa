//! A thread that owns a session: commands go in, events come out, and nothing else crosses.
//!
//! Between two steps (a prefill chunk or a token) the thread looks for commands, so a stop takes at
//! most one step, and other stages can be watched while a text is being written. An event says which
//! command it is about. Those that nobody reads are bounded ([`UNREAD_BYTES`]): then the thread waits,
//! and looks for a stop meanwhile. Whatever goes wrong on the thread (a failed load, a lost device, a
//! panic in a driver) ends in [`Event::Error`]; the thread lives on.

mod wire;

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::cache::CacheBytes;
use crate::config::Config;
use crate::device::Device;
use crate::generate::{Finish, GenerateOptions, Generation, Progress, Stats, Token};
use crate::model::{ForwardOptions, LoadOptions, LoadProgress, Model};
use crate::replay::{RouteTrace, SelectionTrace};
use crate::sampler::{Sampler, SamplerOptions};
use crate::session::{Session, SessionOptions};
use crate::source::Source;
use crate::task::{self, caught};
use crate::tokenizer::Tokenizer;
use crate::trace::{Frame, Watch};
use crate::{Error, Result};

use wire::Wire;
pub use wire::{Events, UNREAD_BYTES};

/// A command that was sent; the events that it causes name it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Job(u64);

/// What to feed.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// Exactly these ids after the timeline, whatever that was computed under. After a
    /// [`Command::Rewind`] to a position, other knobs so hold from there on only; with
    /// [`GenerateOptions::max_tokens`] 0 the ids are fed, watched and nothing is generated.
    Append(Vec<u32>),
    /// These ids are the whole timeline, computed under the knobs of this command: what it shares with
    /// them stays as far as it was computed under the same ([`Session::common_past`]), the rest is redone.
    Whole(Vec<u32>),
}

/// What to record of the decisions of a run, to replay it later through
/// [`crate::model::Intervention`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The experts of each token.
    pub routes: bool,
    /// The positions that each token reads.
    pub selections: bool,
}

/// What the runner is told.
#[derive(Clone, Debug)]
pub enum Command {
    /// Load a checkpoint and start an empty timeline.
    Load {
        /// Where its files are.
        source: Source,
        /// A device for [`Device::open`].
        device: Option<String>,
        /// Whether to check values.
        options: LoadOptions,
        /// Cache formats and chunk size.
        session: SessionOptions,
    },
    /// Feed a prompt and generate.
    Send {
        /// What to feed.
        prompt: Prompt,
        /// How to choose.
        sampler: SamplerOptions,
        /// When to stop.
        options: GenerateOptions,
        /// `index_topk`, dense mode, interventions.
        forward: ForwardOptions,
        /// What to tell as [`Event::Recorded`] when it ends.
        record: Record,
    },
    /// Break off what runs: a load or a generation.
    Stop,
    /// Go back to a position of the timeline.
    Rewind(usize),
    /// Record these stages from the next step on.
    Watch(Watch),
    /// Forget the model.
    Unload,
}

/// What was loaded.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// Where the checkpoint's files are.
    pub source: Source,
    /// The device's id and name.
    pub device: String,
    /// Bytes of weights.
    pub resident_bytes: usize,
    /// Whether there is a tokenizer.
    pub has_tokenizer: bool,
    /// Whether the checkpoint brought its MTP layer.
    pub has_mtp: bool,
    /// Token ids that end a text.
    pub eos_token_ids: Vec<u32>,
    /// What the checkpoint holds and the model does not use, a sentence each.
    pub notes: Vec<String>,
    /// Sizes of the model: layers, context, indexer, experts.
    pub config: Config,
    /// Parameters, the MTP layer's left out.
    pub n_parameters: u64,
    /// Parameters that are read for one decoded token.
    pub n_active_parameters: u64,
    /// Bytes that a token takes in the caches, in the formats of this load.
    pub cache_bytes_per_token: usize,
}

/// What the runner says.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Loading goes on.
    Loading(LoadProgress),
    /// A model is there.
    Loaded(Loaded),
    /// A load was broken off, or the model was forgotten.
    Unloaded,
    /// A chunk of the prompt was fed.
    Prefill {
        /// Prompt tokens fed.
        done: usize,
        /// Prompt tokens in all.
        total: usize,
    },
    /// A token was generated.
    Token(Token),
    /// What a step recorded.
    Frame(Frame),
    /// Times so far, with each chunk of the prompt and each token.
    Stats {
        /// Times and counts.
        stats: Stats,
        /// Bytes that the caches take.
        cache_bytes: CacheBytes,
    },
    /// What a run recorded of the tokens that it fed, before it is told that it ended or failed.
    Recorded {
        /// If [`Record::routes`] asked.
        routes: Option<RouteTrace>,
        /// If [`Record::selections`] asked.
        selections: Option<SelectionTrace>,
    },
    /// A generation ended.
    Finished(Finish),
    /// The timeline was cut back to this position.
    Rewound(usize),
    /// A command failed; the runner waits for the next.
    Error {
        /// What was being done.
        during: &'static str,
        /// What went wrong, causes included.
        message: String,
    },
}

impl Event {
    /// What it takes while it lies unread. What comes once a job is not counted by its contents.
    fn bytes(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::Frame(frame) => frame.bytes(),
                Self::Token(token) => token.bytes(),
                _ => 0,
            }
    }
}

/// The handle of the thread. Dropping it stops what runs and ends the thread, read or unread.
#[derive(Debug)]
pub struct Runner(Arc<Wire>);

impl Runner {
    /// Starts the thread. `wake` is called after each event, for front ends that sleep.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(wake: impl Fn() + Send + Sync + 'static) -> Result<(Self, Events)> {
        let (wire, wake) = (Arc::new(Wire::default()), Arc::new(wake));
        let mut worker = Worker {
            wire: wire.clone(),
            wake: wake.clone(),
            state: None,
        };
        let (body, at_end) = (move || worker.run(), wire.clone());
        let done = move |result: std::result::Result<(), String>| {
            at_end.end(result.err().map(|message| Event::Error {
                during: "run",
                message,
            }));
            wake();
        };
        task::start("runner", body, done).map_err(|error| Error::io("runner thread", error))?;
        Ok((Self(wire.clone()), Events(wire)))
    }

    /// Sends a command; the answer names it. It is lost if the thread has ended, which only dropping
    /// the handle does.
    pub fn send(&self, command: Command) -> Job {
        self.0.send(command)
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.0.close();
    }
}

struct State {
    session: Session,
    tokenizer: Option<Arc<Tokenizer>>,
}

struct Worker {
    wire: Arc<Wire>,
    wake: Arc<dyn Fn() + Send + Sync>,
    state: Option<State>,
}

/// Whether to go on after looking at the inbox.
#[derive(PartialEq)]
enum Flow {
    GoOn,
    Stop,
}

impl Worker {
    fn run(&mut self) {
        while let Some(command) = self.wire.next() {
            let during = match &command {
                Command::Load { .. } => "load",
                Command::Send { .. } => "generate",
                Command::Stop => "stop",
                Command::Rewind(_) => "rewind",
                Command::Watch(_) => "watch",
                Command::Unload => "unload",
            };
            // A driver that panics must not take the timeline's owner down with it. What it left
            // half done is mended by cutting the caches back.
            let position = self.state.as_ref().map(|state| state.session.position());
            let message = match caught(|| self.obey(command)) {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => error.to_string(),
                Err(panic) => {
                    if let (Some(state), Some(position)) = (&mut self.state, position) {
                        let position = position.min(state.session.position());
                        if !matches!(caught(|| state.session.rewind(position)), Ok(Ok(()))) {
                            self.state = None;
                        }
                    }
                    format!("the device or engine failed: {panic}")
                }
            };
            self.tell(Event::Error { during, message });
        }
    }

    fn tell(&self, event: Event) {
        self.wire.tell(event);
        (self.wake)();
    }

    fn state(&mut self) -> Result<&mut State> {
        self.state.as_mut().ok_or_else(|| Error::Setting {
            name: "model".into(),
            found: "none loaded".into(),
            expected: "a loaded one".into(),
        })
    }

    fn obey(&mut self, command: Command) -> Result<()> {
        match command {
            Command::Load {
                source,
                device,
                options,
                session,
            } => self.load(source, device, options, session),
            Command::Send {
                prompt,
                sampler,
                options,
                forward,
                record,
            } => self.send(prompt, sampler, options, forward, record),
            Command::Stop => Ok(()),
            Command::Rewind(position) => {
                self.state()?.session.rewind(position)?;
                self.tell(Event::Rewound(position));
                Ok(())
            }
            Command::Watch(watch) => {
                self.state()?.session.watch(watch);
                Ok(())
            }
            Command::Unload => {
                self.state = None;
                self.tell(Event::Unloaded);
                Ok(())
            }
        }
    }

    fn load(
        &mut self,
        source: Source,
        device: Option<String>,
        options: LoadOptions,
        session: SessionOptions,
    ) -> Result<()> {
        // The old model goes first: two at once may not fit.
        self.state = None;
        let device = Device::open(device.as_deref())?;
        let model = Model::load_from(&source, &device, options, &mut |progress| {
            self.tell(Event::Loading(progress));
            match self.look() {
                Flow::GoOn => ControlFlow::Continue(()),
                Flow::Stop => ControlFlow::Break(()),
            }
        })?;
        let Some(model) = model else {
            self.tell(Event::Unloaded);
            return Ok(());
        };
        let tokenizer = source.tokenizer()?.map(Arc::new);
        let config = model.config().clone();
        let parameters = config.parameters();
        let format = session.cache_format;
        let loaded = Loaded {
            source,
            device: format!("{} ({})", device.info.id, device.info.name),
            resident_bytes: model.resident_bytes(),
            has_tokenizer: tokenizer.is_some(),
            has_mtp: model.has_mtp(),
            eos_token_ids: model.eos_token_ids().to_vec(),
            notes: model.notes().to_vec(),
            n_parameters: parameters.total,
            n_active_parameters: parameters.active,
            cache_bytes_per_token: config.cache_bytes_per_token(format.latent, format.keys),
            config,
        };
        self.state = Some(State {
            session: Session::new(Arc::new(model), session)?,
            tokenizer,
        });
        self.tell(Event::Loaded(loaded));
        Ok(())
    }

    /// Looks for commands: a stop is told at once, a watch is done at once, the rest waits.
    fn look(&mut self) -> Flow {
        while let Some(command) = self.wire.urgent(self.state.is_some()) {
            match (command, &mut self.state) {
                (Command::Watch(watch), Some(state)) => state.session.watch(watch),
                _ => return Flow::Stop,
            }
        }
        Flow::GoOn
    }

    fn send(
        &mut self,
        prompt: Prompt,
        sampler: SamplerOptions,
        options: GenerateOptions,
        forward: ForwardOptions,
        record: Record,
    ) -> Result<()> {
        let sampler = Sampler::new(sampler)?;
        let state = self.state()?;
        // Everything that may be refused comes before the timeline is cut.
        let start = match &prompt {
            Prompt::Append(_) => state.session.position(),
            Prompt::Whole(_) => 0,
        };
        let (Prompt::Append(ids) | Prompt::Whole(ids)) = &prompt;
        state.session.check(ids, start)?;
        state.session.set_forward(forward.clone())?;
        // A run that a panic ended may have left its records and frames.
        state.session.take_frames();
        state.session.take_routes();
        state.session.take_selections();
        if record.routes {
            state.session.record_routes()?;
        }
        if record.selections {
            state.session.record_selections()?;
        }
        let ids = match prompt {
            Prompt::Append(ids) => ids,
            Prompt::Whole(ids) => {
                let kept = state.session.common_past(&ids, &forward);
                // The last token is fed again: its logits are not kept.
                let kept = kept.min(ids.len().saturating_sub(1));
                state.session.rewind(kept)?;
                ids[kept..].to_vec()
            }
        };
        let tokenizer = state.tokenizer.clone();
        let generation = Generation::new(&state.session, &ids, sampler, tokenizer, options)?;
        let result = self.generate(generation);
        if record != Record::default() {
            let session = &mut self.state()?.session;
            let (routes, selections) = (session.take_routes(), session.take_selections());
            self.tell(Event::Recorded { routes, selections });
        }
        self.tell(Event::Finished(result?));
        Ok(())
    }

    /// Steps to the end, or to a stop, and tells what happens on the way.
    fn generate(&mut self, mut generation: Generation) -> Result<Finish> {
        loop {
            if self.look() == Flow::Stop {
                return Ok(generation.cancel());
            }
            let state = self.state()?;
            let progress = generation.step(&mut state.session);
            let cache_bytes = state.session.cache_bytes();
            for frame in state.session.take_frames() {
                self.tell(Event::Frame(frame));
            }
            match progress? {
                Progress::Prefill { done, total } => self.tell(Event::Prefill { done, total }),
                Progress::Token(token) => self.tell(Event::Token(token)),
                Progress::Done(finish) => return Ok(finish),
            }
            self.tell(Event::Stats {
                stats: generation.stats(),
                cache_bytes,
            });
        }
    }
}
