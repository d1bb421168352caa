//! The loop: feed, pick, emit, until the text ends, a limit is met, or somebody breaks off.
//!
//! A [`Generation`] takes one step at a time and leaves the session to its owner in between, who can
//! watch other stages, or stop. [`generate`] is the loop for those who need nothing of that.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::replay::MaskTrace;
use crate::sampler::{Picked, Sampler, Seen};
use crate::session::{Next, Session};
use crate::stop::StopRules;
use crate::tokenizer::{Tokenizer, Utf8Stream};
use crate::trace::Frame;
use crate::{Error, Result};

/// When to stop, and what to keep.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerateOptions {
    /// At most this many tokens; `None` for as many as the context holds.
    pub max_tokens: Option<usize>,
    /// Token ids that end the text. They are not part of it.
    pub stop_ids: Vec<u32>,
    /// Texts that end the text. They are not part of it.
    pub stop_strings: Vec<String>,
    /// Masks to draw within, instead of truncating (Keep Sampling Mask).
    pub masks: Option<MaskTrace>,
}

/// Why a generation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The model wrote this stop id.
    EndOfText(u32),
    /// The text came to this stop string.
    StopString(String),
    /// `max_tokens` were written.
    Length,
    /// The context is full.
    ContextFull,
    /// Somebody broke off.
    Cancelled,
}

/// One generated token.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// Its position in the timeline.
    pub position: usize,
    /// Id, log-probabilities and kept mask.
    pub picked: Picked,
    /// Text that became certain with it: empty while a character or a stop string may be half there.
    pub text: String,
}

impl Token {
    /// Bytes that it takes on the heap.
    pub(crate) fn bytes(&self) -> usize {
        let Picked {
            top, draws, kept, ..
        } = &self.picked;
        let kept = kept.as_ref().map_or(0, |kept| size_of_val(kept.as_slice()));
        self.text.len() + size_of_val(top.as_slice()) + size_of_val(draws.as_slice()) + kept
    }
}

/// Times and counts of a generation.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stats {
    /// Tokens of the prompt that had to be fed.
    pub n_prompt: usize,
    /// Tokens generated, a final stop id included.
    pub n_generated: usize,
    /// Time to feed the prompt.
    pub prefill: Duration,
    /// Time from the start to the first token.
    pub first_token: Option<Duration>,
    /// Time spent on tokens after the first.
    pub decode: Duration,
}

impl Stats {
    /// Prompt tokens a second.
    pub fn prefill_rate(&self) -> f64 {
        self.n_prompt as f64 / self.prefill.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// Generated tokens a second, the first left out: it is the prefill's.
    pub fn decode_rate(&self) -> f64 {
        self.n_generated.saturating_sub(1) as f64 / self.decode.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

/// How a generation ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Finish {
    /// Why.
    pub stop: Stop,
    /// Text that was held back and is certain now.
    pub text: String,
    /// Times and counts.
    pub stats: Stats,
}

/// What one step did.
#[derive(Clone, Debug, PartialEq)]
pub enum Progress {
    /// A chunk of the prompt was fed.
    Prefill {
        /// Prompt tokens fed.
        done: usize,
        /// Prompt tokens in all.
        total: usize,
    },
    /// A token was generated.
    Token(Token),
    /// It is over; no further step.
    Done(Finish),
}

/// A generation under way.
pub struct Generation {
    options: GenerateOptions,
    sampler: Sampler,
    seen: Seen,
    text: Option<Utf8Stream>,
    stops: StopRules,
    prompt: Vec<u32>,
    fed: usize,
    left: Option<Next>,
    next: Option<u32>,
    masks: MaskTrace,
    pending_text: String,
    started: Instant,
    stats: Stats,
    done: bool,
}

impl Generation {
    /// Starts to continue `session` with `prompt`. Text needs a `tokenizer`; without one tokens come
    /// with empty text.
    ///
    /// # Errors
    /// An empty prompt, one that the context cannot hold, an unknown id, or stop strings without a
    /// tokenizer.
    pub fn new(
        session: &Session,
        prompt: &[u32],
        sampler: Sampler,
        tokenizer: Option<Arc<Tokenizer>>,
        options: GenerateOptions,
    ) -> Result<Self> {
        session.check(prompt, session.position())?;
        if tokenizer.is_none() && !options.stop_strings.is_empty() {
            return Err(Error::Setting {
                name: "stop strings".into(),
                found: "a checkpoint without tokenizer.json".into(),
                expected: "one with it: stop ids work without".into(),
            });
        }
        if let Some(masks) = &options.masks {
            masks.check(session.model().config().vocab_size)?;
        }
        let mut seen = Seen::new();
        seen.push_prompt(session.tokens());
        seen.push_prompt(prompt);
        Ok(Self {
            stops: StopRules::new(options.stop_ids.clone(), options.stop_strings.clone())?,
            masks: MaskTrace::new(session.model().config().vocab_size)?,
            options,
            sampler,
            seen,
            text: tokenizer.map(Utf8Stream::new),
            prompt: prompt.to_vec(),
            fed: 0,
            left: None,
            next: None,
            pending_text: String::new(),
            started: Instant::now(),
            stats: Stats {
                n_prompt: prompt.len(),
                ..Stats::default()
            },
            done: false,
        })
    }

    /// The masks that truncation kept so far, if the sampler was asked to keep them.
    pub fn masks(&self) -> &MaskTrace {
        &self.masks
    }

    /// Times and counts so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Feeds one chunk of the prompt, or generates one token.
    ///
    /// # Errors
    /// The device failed, or the logits are broken. Nothing is lost then: the step can be taken again,
    /// under other knobs, too.
    ///
    /// # Panics
    /// After it was done.
    pub fn step(&mut self, session: &mut Session) -> Result<Progress> {
        assert!(
            !self.done,
            "a generation that is done takes no further step"
        );
        if self.fed < self.prompt.len() {
            return self.prefill(session);
        }
        let from = Instant::now();
        let limit = self.options.max_tokens.unwrap_or(usize::MAX);
        let is_long_enough = self.stats.n_generated >= limit;
        if let Some(id) = self.next {
            if session.position() + 1 > session.context() {
                return Ok(self.finish(if is_long_enough {
                    Stop::Length
                } else {
                    Stop::ContextFull
                }));
            }
            self.feed(session, &[id])?;
            self.next = None;
        }
        if is_long_enough {
            return Ok(self.finish(Stop::Length));
        }
        let position = session.position();
        // Kept until the token is chosen: a step that fails can be taken again.
        let left = self.left.as_ref().expect("fed tokens leave logits");
        let mask = self
            .options
            .masks
            .as_ref()
            .and_then(|masks| masks.get(position));
        let picked = match (left, mask) {
            (Next::Picked(picked), _) => picked.clone(),
            (Next::Logits(logits), Some(mask)) => self
                .sampler
                .pick_masked(logits, position, &self.seen, mask)?,
            (Next::Logits(logits), None) => self.sampler.pick(logits, position, &self.seen)?,
        };
        if let Some(kept) = &picked.kept {
            self.masks.record(position, kept)?;
        }
        self.left = None;
        self.stats.n_generated += 1;
        match self.stats.first_token {
            None => self.stats.first_token = Some(self.started.elapsed()),
            Some(_) => self.stats.decode += from.elapsed(),
        }
        if self.stops.is_stop(picked.id) {
            return Ok(self.finish(Stop::EndOfText(picked.id)));
        }
        self.seen.push_output(picked.id);
        self.next = Some(picked.id);
        let mut text = String::new();
        if let Some(stream) = &mut self.text {
            let piece = match stream.push(picked.id) {
                // A vocabulary may be padded beyond the tokenizer's: such an id has no text.
                Err(Error::UnknownToken { .. }) => char::REPLACEMENT_CHARACTER.to_string(),
                piece => piece?,
            };
            let emit = self.stops.push(&piece);
            text = emit.text_ready;
            if let Some(stop) = emit.stopped {
                self.pending_text = text;
                return Ok(self.finish(Stop::StopString(stop)));
            }
        }
        Ok(Progress::Token(Token {
            position,
            picked,
            text,
        }))
    }

    /// Feeds `ids` and keeps what there is to choose the next token by: the choice itself where the
    /// device can make it.
    fn feed(&mut self, session: &mut Session, ids: &[u32]) -> Result<()> {
        let draw = match &self.options.masks {
            None => self.sampler.device_draw(session.position() + ids.len()),
            Some(_) => None,
        };
        self.left = Some(match draw {
            Some(draw) => session.advance_pick(ids, &draw)?,
            None => Next::Logits(session.advance(ids)?),
        });
        Ok(())
    }

    fn prefill(&mut self, session: &mut Session) -> Result<Progress> {
        let chunk = session.chunk_tokens().min(self.prompt.len() - self.fed);
        let ids = &self.prompt[self.fed..self.fed + chunk];
        let is_last = self.fed + chunk == self.prompt.len();
        if is_last {
            let ids = ids.to_vec();
            self.feed(session, &ids)?;
        } else {
            session.advance_silent(ids)?;
        }
        self.fed += chunk;
        self.stats.prefill = self.started.elapsed();
        Ok(Progress::Prefill {
            done: self.fed,
            total: self.prompt.len(),
        })
    }

    /// Ends it early. The tokens fed so far stay in the timeline.
    pub fn cancel(&mut self) -> Finish {
        match self.finish(Stop::Cancelled) {
            Progress::Done(finish) => finish,
            _ => unreachable!("finishing gives the finish"),
        }
    }

    fn finish(&mut self, stop: Stop) -> Progress {
        self.done = true;
        let mut text = std::mem::take(&mut self.pending_text);
        // After a stop string whatever follows it is not part of the text.
        if !matches!(stop, Stop::StopString(_)) {
            if let Some(stream) = &mut self.text {
                text.push_str(&self.stops.push(&stream.finish()).text_ready);
            }
            text.push_str(&self.stops.finish());
        }
        Progress::Done(Finish {
            stop,
            text,
            stats: self.stats,
        })
    }
}

/// What [`generate`] reports.
#[derive(Debug)]
pub enum Emitted<'a> {
    /// A chunk of the prompt was fed: done, total.
    Prefill(usize, usize),
    /// A token was generated.
    Token(&'a Token),
    /// A watched step was recorded.
    Frame(Frame),
}

/// Continues `session` with `prompt` until the text ends or `emit` breaks off.
///
/// # Errors
/// See [`Generation::new`] and [`Generation::step`].
pub fn generate(
    session: &mut Session,
    generation: &mut Generation,
    mut emit: impl FnMut(Emitted) -> ControlFlow<()>,
) -> Result<Finish> {
    loop {
        let progress = generation.step(session);
        let mut flow = ControlFlow::Continue(());
        for frame in session.take_frames() {
            if emit(Emitted::Frame(frame)).is_break() {
                flow = ControlFlow::Break(());
            }
        }
        let progress = progress?;
        let told = match &progress {
            Progress::Prefill { done, total } => emit(Emitted::Prefill(*done, *total)),
            Progress::Token(token) => emit(Emitted::Token(token)),
            Progress::Done(finish) => return Ok(finish.clone()),
        };
        if flow.is_break() || told.is_break() {
            return Ok(generation.cancel());
        }
    }
}
