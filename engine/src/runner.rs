//! A thread that owns a session: commands go in, events come out, and nothing else crosses.
//!
//! Between two steps (a prefill chunk or a token) the thread looks for commands, so a stop takes at
//! most one step, and other stages can be watched while a text is being written. Whatever goes wrong
//! on the thread (a failed load, a lost device, a panic in a driver) ends in [`Event::Error`]; the
//! thread lives on.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;

use crate::cache::CacheBytes;
use crate::config::Config;
use crate::device::Device;
use crate::generate::{Finish, GenerateOptions, Generation, Progress, Stats, Token};
use crate::model::{ForwardOptions, LoadOptions, LoadProgress, Model};
use crate::replay::{RouteTrace, SelectionTrace};
use crate::sampler::{Sampler, SamplerOptions};
use crate::session::{Session, SessionOptions};
use crate::source::Source;
use crate::tokenizer::Tokenizer;
use crate::trace::{Frame, Watch};
use crate::{Error, Result};

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

/// The handle of the thread. Dropping it stops what runs and ends the thread.
#[derive(Debug)]
pub struct Runner {
    commands: Option<Sender<Command>>,
    thread: Option<JoinHandle<()>>,
}

impl Runner {
    /// Starts the thread. `wake` is called after each event, for front ends that sleep.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(wake: impl Fn() + Send + 'static) -> Result<(Self, Receiver<Event>)> {
        let (commands, inbox) = channel();
        let (outbox, events) = channel();
        let body = move || {
            let mut worker = Worker {
                inbox,
                waiting: VecDeque::new(),
                outbox,
                wake: Box::new(wake),
                state: None,
            };
            worker.run();
        };
        let thread = std::thread::Builder::new()
            .name("runner".into())
            .spawn(body)
            .map_err(|error| Error::io("runner thread", error))?;
        Ok((
            Self {
                commands: Some(commands),
                thread: Some(thread),
            },
            events,
        ))
    }

    /// Sends a command. It is lost if the thread has ended, which only dropping the handle does.
    pub fn send(&self, command: Command) {
        if let Some(commands) = &self.commands {
            // The thread outlives every handle's sender.
            let _ = commands.send(command);
        }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.send(Command::Stop);
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            // Its panics were caught and told as events.
            let _ = thread.join();
        }
    }
}

struct State {
    session: Session,
    tokenizer: Option<Arc<Tokenizer>>,
}

struct Worker {
    inbox: Receiver<Command>,
    /// Commands that came while something ran.
    waiting: VecDeque<Command>,
    outbox: Sender<Event>,
    wake: Box<dyn Fn() + Send>,
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
        loop {
            let command = match self.waiting.pop_front() {
                Some(command) => command,
                None => match self.inbox.recv() {
                    Ok(command) => command,
                    Err(_) => return,
                },
            };
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
            let message = match catch_unwind(AssertUnwindSafe(|| self.obey(command))) {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => error.to_string(),
                Err(panic) => {
                    if let (Some(state), Some(position)) = (&mut self.state, position) {
                        let position = position.min(state.session.position());
                        let mended =
                            catch_unwind(AssertUnwindSafe(|| state.session.rewind(position)));
                        if !matches!(mended, Ok(Ok(()))) {
                            self.state = None;
                        }
                    }
                    format!(
                        "the device or engine failed: {}",
                        panic_text(panic.as_ref())
                    )
                }
            };
            self.tell(Event::Error { during, message });
        }
    }

    fn tell(&self, event: Event) {
        // A receiver that is gone wants nothing any more; the handle's drop ends the thread.
        let _ = self.outbox.send(event);
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

    /// Takes what is in the inbox: a stop is told at once, a watch is done at once, the rest waits.
    fn look(&mut self) -> Flow {
        loop {
            match self.inbox.try_recv() {
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return Flow::Stop,
                Ok(Command::Watch(watch)) if self.state.is_some() => {
                    if let Some(state) = &mut self.state {
                        state.session.watch(watch);
                    }
                }
                Ok(other) => self.waiting.push_back(other),
                Err(TryRecvError::Empty) => return Flow::GoOn,
            }
        }
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
        state.session.model().check_ids(ids, start)?;
        state.session.set_forward(forward.clone())?;
        // A run that a panic ended may have left its records.
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
            let progress = generation.step(&mut state.session)?;
            let cache_bytes = state.session.cache_bytes();
            for frame in state.session.take_frames() {
                self.tell(Event::Frame(frame));
            }
            match progress {
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

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "no message".into())
}
