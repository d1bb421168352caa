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

use crate::device::Device;
use crate::generate::{Finish, GenerateOptions, Generation, Progress, Stats, Token};
use crate::model::{ForwardOptions, LoadOptions, LoadProgress, Model};
use crate::sampler::{Sampler, SamplerOptions};
use crate::session::{Session, SessionOptions};
use crate::source::Source;
use crate::tokenizer::Tokenizer;
use crate::trace::{Frame, Watch};
use crate::{Error, Result};

/// What to feed.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// Exactly these ids after the timeline.
    Append(Vec<u32>),
    /// These ids are the whole timeline: what it shares with them stays, the rest is redone.
    Whole(Vec<u32>),
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
        /// `index_topk`, dense mode.
        forward: ForwardOptions,
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
    /// Times so far, with each token.
    Stats {
        /// Times and counts.
        stats: Stats,
        /// Bytes that the caches take.
        cache_bytes: usize,
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
    /// The knobs that all tokens of the timeline were computed under; `None` if not all under the
    /// same.
    forward: Option<ForwardOptions>,
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
            } => self.send(prompt, sampler, options, forward),
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
        let loaded = Loaded {
            source,
            device: format!("{} ({})", device.info.id, device.info.name),
            resident_bytes: model.resident_bytes(),
            has_tokenizer: tokenizer.is_some(),
        };
        self.state = Some(State {
            session: Session::new(Arc::new(model), session)?,
            tokenizer,
            forward: None,
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
        let is_same = state.forward.as_ref() == Some(&forward);
        let ids = match prompt {
            Prompt::Append(ids) => ids,
            Prompt::Whole(ids) => {
                // Tokens computed under other knobs are other tokens' past.
                let kept = if is_same {
                    state.session.common_prefix(&ids)
                } else {
                    0
                };
                // The last token is fed again: its logits are not kept.
                let kept = kept.min(ids.len().saturating_sub(1));
                state.session.rewind(kept)?;
                ids[kept..].to_vec()
            }
        };
        state.forward = (is_same || state.session.position() == 0).then_some(forward);
        let tokenizer = state.tokenizer.clone();
        let mut generation = Generation::new(&state.session, &ids, sampler, tokenizer, options)?;
        loop {
            if self.look() == Flow::Stop {
                self.tell(Event::Finished(generation.cancel()));
                return Ok(());
            }
            let state = self.state()?;
            let progress = generation.step(&mut state.session)?;
            let cache_bytes = state.session.cache_bytes();
            for frame in state.session.take_frames() {
                self.tell(Event::Frame(frame));
            }
            match progress {
                Progress::Prefill { done, total } => self.tell(Event::Prefill { done, total }),
                Progress::Token(token) => {
                    self.tell(Event::Token(token));
                    self.tell(Event::Stats {
                        stats: generation.stats(),
                        cache_bytes,
                    });
                }
                Progress::Done(finish) => {
                    self.tell(Event::Finished(finish));
                    return Ok(());
                }
            }
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
