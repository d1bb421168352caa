//! `sparsight chat`: a conversation in the terminal, over the engine's runner.
//!
//! A front end like any other: commands go to the runner, events come back, and while an answer runs
//! Ctrl-C stops it. The /commands are in [`commands`], the input line in [`line`], the answer in
//! [`screen`].

mod commands;
mod line;
mod screen;

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use engine::chat::{CompletionParser, Message, Role};
use engine::generate::{Finish, GenerateOptions, Stats, Stop};
use engine::model::ForwardOptions;
use engine::runner::{Command, Event, Events, Job, Prompt, Record, Runner};
use engine::sampler::SamplerOptions;
use engine::tokenizer::Tokenizer;
use indicatif::ProgressBar;

use crate::interrupt::{self, Second};
use crate::load::LoadBar;
use crate::options::{AttentionArgs, ModelArgs, SamplingArgs, StopArgs};
use crate::prompt::{check_format, encode, read_messages};
use crate::run::{stop_words, summary};
use crate::{Outcome, terminal};
use commands::Next;
use screen::Screen;

#[derive(Args, Debug)]
pub struct Arguments {
    /// A system message before the conversation
    #[arg(long, value_name = "TEXT", conflicts_with = "messages")]
    system: Option<String>,

    /// Go on with this conversation: a JSON list of OpenAI-style messages, as /save writes it
    #[arg(long, value_name = "FILE")]
    messages: Option<PathBuf>,

    /// Let the model think before it answers
    #[arg(long)]
    think: bool,

    /// Tokens of an answer at most [default: until it ends or the context is full]
    #[arg(short = 'n', long, value_name = "N")]
    max_tokens: Option<usize>,

    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    stop: StopArgs,
    #[command(flatten)]
    attention: AttentionArgs,
}

/// How often Ctrl-C is looked for while the runner is silent.
const LOOK: Duration = Duration::from_millis(50);

/// Said of a message that got no answer.
const TAKEN_BACK: &str = "your message was taken back";

/// A conversation and what its next answer is made with.
struct Chat {
    runner: Runner,
    events: Events,
    tokenizer: Arc<Tokenizer>,
    messages: Vec<Message>,
    thinking: bool,
    sampler: SamplerOptions,
    max_tokens: Option<usize>,
    stop_ids: Vec<u32>,
    stop_strings: Vec<String>,
    forward: ForwardOptions,
    /// Times that the last message was answered before: the draw depends on nothing but the seed and
    /// the position, so another answer takes another seed.
    n_attempts: u64,
    context: usize,
    has_indexer: bool,
    last: Option<Last>,
    /// The model's, if it is in one.
    folder: Option<PathBuf>,
    /// Files that this conversation was read from or written to.
    files: Vec<PathBuf>,
}

/// What is known of the last answer.
struct Last {
    stats: Stats,
    stop: Stop,
    /// Tokens of its prompt.
    n_prompt: usize,
    cache_bytes: usize,
}

pub fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    let source = arguments.model.source()?;
    let (sampler, advice) = arguments.sampling.options(&source)?;
    let config = source.config()?;
    let tokenizer = source.tokenizer()?.with_context(|| {
        let none = source.no_tokenizer();
        format!("chat needs a tokenizer: {none}; `sparsight generate --ids` works without")
    })?;
    check_format(&tokenizer)?;
    let messages = match (&arguments.messages, &arguments.system) {
        (Some(path), _) => read_messages(path)?,
        (None, Some(text)) => vec![Message::new(Role::System, text)],
        (None, None) => Vec::new(),
    };
    let forward = arguments.attention.options(&config)?;
    let eos = source.eos_token_ids(&config)?;
    let folder = source.folder().map(Path::to_owned);

    interrupt::install(Second::Waits)?;
    let (runner, events) = Runner::start(|| {})?;
    let load = runner.send(Command::Load {
        source,
        device: arguments.model.device.clone(),
        options: arguments.model.load_options(),
        session: arguments.model.session_options(),
    });
    if !wait_for_load(&runner, &events, load)? {
        return Ok(Outcome::Interrupted);
    }
    if let Some(advice) = advice {
        terminal::note(advice);
    }
    let mut chat = Chat {
        runner,
        events,
        tokenizer: Arc::new(tokenizer),
        messages,
        thinking: arguments.think,
        sampler,
        max_tokens: arguments.max_tokens,
        stop_ids: arguments.stop.ids(&eos),
        stop_strings: arguments.stop.stop.clone(),
        forward,
        n_attempts: 0,
        context: config.max_position_embeddings,
        has_indexer: config.indexer.is_some(),
        last: None,
        folder,
        files: arguments.messages.clone().into_iter().collect(),
    };
    chat.talk()
}

/// Whether the model was loaded, and not the load broken off.
fn wait_for_load(runner: &Runner, events: &Events, load: Job) -> anyhow::Result<bool> {
    let mut bar = LoadBar::new();
    let started = Instant::now();
    let mut told = false;
    loop {
        if interrupt::requested() && !told {
            told = true;
            runner.send(Command::Stop);
        }
        match next(events, load)? {
            Some(Event::Loading(progress)) => bar.show(progress),
            Some(Event::Unloaded) => return Ok(false),
            Some(Event::Loaded(loaded)) => {
                drop(bar);
                terminal::note(format_args!(
                    "{} on {}, {} of weights, loaded in {}",
                    loaded.source,
                    loaded.device,
                    terminal::bytes(loaded.resident_bytes as u64),
                    terminal::seconds(started.elapsed())
                ));
                crate::load::tell(&loaded.notes);
                // A stop that came too late for the load.
                return Ok(!told);
            }
            Some(Event::Error { message, .. }) => bail!(message),
            Some(_) | None => {}
        }
    }
}

/// The next event of a job; `None` if none comes for a while.
fn next(events: &Events, job: Job) -> anyhow::Result<Option<Event>> {
    match events.recv_timeout(LOOK) {
        Ok((of, event)) => Ok((of == job).then_some(event)),
        Err(RecvTimeoutError::Timeout) => Ok(None),
        Err(RecvTimeoutError::Disconnected) => bail!("the engine's thread has ended"),
    }
}

impl Chat {
    fn talk(&mut self) -> anyhow::Result<Outcome> {
        let is_person = std::io::stdin().is_terminal();
        if is_person {
            terminal::note("/help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves");
        }
        let mut input = line::Input::default();
        let mut is_first = true;
        loop {
            if interrupt::is_end() {
                return Ok(Outcome::Interrupted);
            }
            // A Ctrl-C that came when nothing ran stops nothing.
            interrupt::reset();
            let line = match input.read()? {
                line::Read::Line(line) => line,
                line::Read::Interrupted if is_person && !interrupt::is_end() => {
                    terminal::note("/quit or Ctrl-D leaves");
                    continue;
                }
                line::Read::Interrupted => return Ok(Outcome::Interrupted),
                line::Read::NotText if is_person => {
                    terminal::note("error: what was typed is not UTF-8");
                    continue;
                }
                line::Read::NotText => {
                    bail!("stdin is not UTF-8: save the script as UTF-8, not as UTF-16")
                }
                // A terminal that hangs up ends too.
                line::Read::End if interrupt::is_end() => return Ok(Outcome::Interrupted),
                line::Read::End => return Ok(Outcome::Success),
            };
            // Some editors begin a script with a byte order mark.
            let begins_script = std::mem::take(&mut is_first) && !is_person;
            let line = line
                .strip_prefix('\u{FEFF}')
                .filter(|_| begins_script)
                .unwrap_or(&line);
            match self.obey(line) {
                Ok(Next::Prompt) => {}
                Ok(Next::Quit) => return Ok(Outcome::Success),
                // A script cannot take back what it said.
                Ok(Next::Interrupted) if !is_person => return Ok(Outcome::Interrupted),
                Ok(Next::Interrupted) => {}
                Err(error) if is_person && !terminal::is_broken_pipe(&error) => {
                    terminal::note(format_args!("error: {}", terminal::message(&error)));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Does what a line says: a command, or a message to answer.
    fn obey(&mut self, line: &str) -> anyhow::Result<Next> {
        if line.trim().is_empty() {
            return Ok(Next::Prompt);
        }
        if line.starts_with('/') {
            return commands::run(self, line);
        }
        self.n_attempts = 0;
        self.messages.push(Message::new(Role::User, line));
        self.answer()
    }

    /// Has the conversation's last message answered. If that fails or is stopped before a word, the
    /// message is taken back, so that the conversation stays one that can go on.
    fn answer(&mut self) -> anyhow::Result<Next> {
        let answered = self.try_answer();
        if !matches!(answered, Ok(Answered::Kept(_))) {
            self.messages.pop();
        }
        match answered {
            Ok(Answered::Kept(Stop::Cancelled)) => Ok(Next::Interrupted),
            Ok(Answered::Kept(_)) => Ok(Next::Prompt),
            Ok(Answered::Nothing) => {
                terminal::note(TAKEN_BACK);
                Ok(Next::Interrupted)
            }
            Err(error) if terminal::is_broken_pipe(&error) => Err(error),
            Err(error) => Err(anyhow!("{}; {TAKEN_BACK}", terminal::message(&error))),
        }
    }

    fn try_answer(&mut self) -> anyhow::Result<Answered> {
        let ids = encode(&self.messages, self.thinking, &self.tokenizer)?;
        let n_prompt = ids.len();
        let job = self.runner.send(Command::Send {
            prompt: Prompt::Whole(ids),
            sampler: SamplerOptions {
                seed: self.sampler.seed.wrapping_add(self.n_attempts),
                ..self.sampler.clone()
            },
            options: GenerateOptions {
                max_tokens: self.max_tokens,
                stop_ids: self.stop_ids.clone(),
                stop_strings: self.stop_strings.clone(),
                masks: None,
            },
            forward: self.forward.clone(),
            record: Record::default(),
        });
        let mut parser = CompletionParser::new(self.thinking);
        let mut screen = Screen::default();
        let mut cache_bytes = 0;
        let bar = terminal::bar(
            n_prompt as u64,
            "prompt   [{wide_bar}] {pos}/{len} tokens, {per_sec}, {eta} left",
        );
        let finish = self.follow(job, &bar, &mut parser, &mut screen, &mut cache_bytes);
        bar.finish_and_clear();
        let finish = finish?;
        screen.show(parser.push(&finish.text))?;
        let (rest, completion) = parser.finish();
        screen.show(rest)?;
        screen.end()?;
        for problem in &completion.problems {
            // An answer that was cut off is unfinished, and that is no fault of the model.
            if finish.stop != Stop::Cancelled && finish.stop != Stop::Length {
                terminal::note(format_args!("in the answer: {problem}"));
            }
        }
        let n_generated = finish.stats.n_generated;
        let text = format!(
            "[{}; context {} of {}{}]",
            summary(&finish.stats),
            n_prompt + n_generated,
            self.context,
            match &finish.stop {
                Stop::EndOfText(_) => String::new(),
                stop => format!("; stopped: {}", stop_words(stop)),
            }
        );
        terminal::note_faint(&text);
        self.last = Some(Last {
            stats: finish.stats,
            stop: finish.stop.clone(),
            n_prompt,
            cache_bytes,
        });
        if finish.stop == Stop::Cancelled && n_generated == 0 {
            return Ok(Answered::Nothing);
        }
        let mut message = Message::new(Role::Assistant, completion.content);
        message.reasoning_content = completion.reasoning;
        message.tool_calls = completion.tool_calls;
        self.messages.push(message);
        Ok(Answered::Kept(finish.stop))
    }

    /// Shows the answer as it comes, to its end.
    fn follow(
        &mut self,
        job: Job,
        bar: &ProgressBar,
        parser: &mut CompletionParser,
        screen: &mut Screen,
        cache_bytes: &mut usize,
    ) -> anyhow::Result<Finish> {
        let mut told = false;
        let mut failed = None;
        loop {
            if (interrupt::requested() || failed.is_some()) && !told {
                told = true;
                self.runner.send(Command::Stop);
            }
            match next(&self.events, job)? {
                Some(Event::Prefill { done, total }) => {
                    bar.set_length(total as u64);
                    bar.set_position(done as u64);
                }
                Some(Event::Token(token)) => {
                    bar.finish_and_clear();
                    if failed.is_none() {
                        failed = screen.show(parser.push(&token.text)).err();
                    }
                }
                Some(Event::Stats { cache_bytes: n, .. }) => *cache_bytes = n.total(),
                Some(Event::Finished(finish)) => {
                    return match failed {
                        Some(error) => Err(error.into()),
                        None => Ok(finish),
                    };
                }
                Some(Event::Error { message, .. }) => bail!(message),
                Some(_) | None => {}
            }
        }
    }
}

/// What became of a message.
enum Answered {
    /// An answer, whole or cut off, which is part of the conversation now.
    Kept(Stop),
    /// It was stopped before the first token.
    Nothing,
}
