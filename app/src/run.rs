//! What `generate` and `trace` share: from the arguments to a generation under way, and to its end.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::ensure;
use clap::Args;
use engine::file::{self, Output};
use engine::generate::{Emitted, Finish, GenerateOptions, Generation, Stats, Stop, generate};
use engine::replay::{MaskTrace, RouteTrace};
use engine::sampler::{Sampler, SamplerOptions};
use engine::tokenizer::Tokenizer;
use engine::{Config, Session, Source};

use crate::interrupt::{self, Second};
use crate::options::{AttentionArgs, ModelArgs, SamplingArgs, StopArgs};
use crate::prompt::{Prompt, PromptArgs, PromptKind};
use crate::{load, terminal};

/// Everything that decides what is generated.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    #[command(flatten)]
    prompt: PromptArgs,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    stop: StopArgs,
    #[command(flatten)]
    attention: AttentionArgs,
    #[command(flatten)]
    record: RecordArgs,
}

impl RunArgs {
    /// Where the model's files are.
    ///
    /// # Errors
    /// See [`ModelArgs::source`].
    pub fn source(&self) -> anyhow::Result<Source> {
        self.model.source()
    }
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Record and replay")]
struct RecordArgs {
    /// Write the experts that each token took
    #[arg(long, value_name = "FILE")]
    record_routes: Option<PathBuf>,

    /// Take the experts of this record where it knows the token
    #[arg(long, value_name = "FILE")]
    replay_routes: Option<PathBuf>,

    /// Write the tokens that truncation kept at each position
    #[arg(long, value_name = "FILE")]
    record_masks: Option<PathBuf>,

    /// Draw among the tokens of this record where it knows the position
    #[arg(long, value_name = "FILE")]
    replay_masks: Option<PathBuf>,

    /// Overwrite a trace or record that is there; a file of another kind never is
    #[arg(long)]
    force: bool,
}

/// A generation under way.
pub struct Run {
    /// What is fed.
    pub prompt: Prompt,
    /// The model's tokenizer, if it has one.
    pub tokenizer: Option<Arc<Tokenizer>>,
    /// How tokens are chosen.
    pub sampler: SamplerOptions,
    /// The timeline.
    pub session: Session,
    generation: Generation,
    record: RecordArgs,
}

impl Run {
    /// Checks everything that can be checked without the model, then loads it. `None` if Ctrl-C came
    /// while it was loading. From here on Ctrl-C ends the generation after its current step. `out` is
    /// where the caller will write a trace.
    ///
    /// # Errors
    /// Arguments, files or a model that are not as they should be.
    pub fn start(
        arguments: &RunArgs,
        max_tokens: Option<usize>,
        n_logprobs: usize,
        out: Option<&Path>,
    ) -> anyhow::Result<Option<Self>> {
        let record = arguments.record.clone();
        let source = arguments.source()?;
        let (options, advice) = arguments.sampling.options(&source)?;
        let sampler = SamplerOptions {
            n_logprobs,
            keep_mask: record.record_masks.is_some(),
            ..options
        };
        let config = source.config()?;
        let tokenizer = source.tokenizer()?.map(Arc::new);
        let prompt = arguments.prompt.read(&config, tokenizer.as_deref())?;
        let replay_routes = record.replay_routes.as_deref().map(RouteTrace::load);
        let replay_routes = replay_routes.transpose()?;
        let replay_masks = record.replay_masks.as_deref().map(MaskTrace::load);
        let replay_masks = replay_masks.transpose()?;
        let trace = out.map(|path| (path, file::TRACE));
        let routes = record.record_routes.as_deref();
        let masks = record.record_masks.as_deref();
        let outputs = [
            trace,
            routes.map(|path| (path, file::ROUTES)),
            masks.map(|path| (path, file::MASKS)),
        ];
        let outputs = outputs.into_iter().flatten();
        let outputs: Vec<Output> = outputs.map(|(path, kind)| Output { path, kind }).collect();
        let inputs = [
            source.folder(),
            arguments.prompt.file(),
            record.replay_routes.as_deref(),
            record.replay_masks.as_deref(),
        ];
        let inputs: Vec<&Path> = inputs.into_iter().flatten().collect();
        file::check_outputs(&outputs, &inputs, record.force)?;
        check_records(
            &record,
            replay_routes.as_ref(),
            replay_masks.as_ref(),
            &config,
        )?;
        let forward = arguments.attention.options(&config)?;
        ensure!(
            tokenizer.is_some() || arguments.stop.stop.is_empty(),
            "--stop needs a tokenizer, and the model's folder has no tokenizer.json: \
             --stop-id works without"
        );

        interrupt::install(Second::Exits)?;
        let Some(model) = load::model(&arguments.model)? else {
            return Ok(None);
        };
        if let Some(advice) = advice {
            terminal::note(advice);
        }
        let options = GenerateOptions {
            max_tokens,
            stop_ids: arguments.stop.ids(model.eos_token_ids()),
            stop_strings: arguments.stop.stop.clone(),
            masks: replay_masks,
        };
        let mut session = Session::new(model, arguments.model.session_options())?;
        session.set_forward(forward)?;
        if record.record_routes.is_some() {
            session.record_routes()?;
        }
        if let Some(routes) = replay_routes {
            terminal::note(format_args!(
                "replaying the routes of {} positions from {} on; the gate chooses at others",
                routes.len(),
                routes.first_position()
            ));
            session.replay_routes(Some(routes))?;
        }
        if let Some(masks) = &options.masks {
            terminal::note(format_args!(
                "replaying {} sampling masks; truncation goes on at other positions",
                masks.len()
            ));
        }
        // Ids out need no text, and a model may give ids that its tokenizer does not know.
        let wants_text = prompt.kind != PromptKind::Ids || !options.stop_strings.is_empty();
        let generation = Generation::new(
            &session,
            &prompt.ids,
            Sampler::new(sampler.clone())?,
            tokenizer.clone().filter(|_| wants_text),
            options,
        )?;
        Ok(Some(Self {
            prompt,
            tokenizer,
            sampler,
            session,
            generation,
            record,
        }))
    }

    /// Generates to the end, or to Ctrl-C, and writes what was to be recorded, also after an error.
    ///
    /// # Errors
    /// A device that failed, an error of `emit`, which ends it, or a record that cannot be written.
    pub fn go(
        &mut self,
        mut emit: impl FnMut(Emitted) -> anyhow::Result<()>,
    ) -> anyhow::Result<Finish> {
        let bar = terminal::bar(
            self.prompt.ids.len() as u64,
            "prompt   [{wide_bar}] {pos}/{len} tokens, {per_sec}, {eta} left",
        );
        let mut failed = None;
        let result = generate(
            &mut self.session,
            &mut self.generation,
            |emitted| match emitted {
                Emitted::Prefill(done, total) => {
                    bar.set_position(done as u64);
                    if done == total {
                        bar.finish_and_clear();
                    }
                    go_on(&failed)
                }
                emitted => {
                    if failed.is_none() {
                        failed = emit(emitted).err();
                    }
                    go_on(&failed)
                }
            },
        );
        bar.finish_and_clear();
        let saved = self.save_routes().and(self.save_masks());
        match failed {
            // A reader who has read enough is no error, a record that was lost is one.
            Some(error) if terminal::is_broken_pipe(&error) => {
                saved.map_err(Into::into).and(Err(error))
            }
            Some(error) => Err(error),
            None => {
                let finish = result?;
                saved?;
                Ok(finish)
            }
        }
    }

    fn save_routes(&mut self) -> engine::Result<()> {
        if let Some(path) = &self.record.record_routes
            && let Some(routes) = self.session.take_routes()
        {
            routes.save(path)?;
            let n = routes.len();
            terminal::note(format_args!("routes of {n} tokens: {}", path.display()));
        }
        Ok(())
    }

    fn save_masks(&self) -> engine::Result<()> {
        if let Some(path) = &self.record.record_masks {
            let masks = self.generation.masks();
            masks.save(path)?;
            let n = masks.len();
            terminal::note(format_args!("{n} sampling masks: {}", path.display()));
        }
        Ok(())
    }
}

fn go_on(failed: &Option<anyhow::Error>) -> ControlFlow<()> {
    if failed.is_some() || interrupt::requested() {
        ControlFlow::Break(())
    } else {
        ControlFlow::Continue(())
    }
}

/// Refuses records that are for another model, before hours are spent on loading this one.
///
/// # Errors
/// A model without experts to route to, or records of other sizes.
fn check_records(
    record: &RecordArgs,
    routes: Option<&RouteTrace>,
    masks: Option<&MaskTrace>,
    config: &Config,
) -> anyhow::Result<()> {
    ensure!(
        config.moe.is_some() || (record.record_routes.is_none() && routes.is_none()),
        "--record-routes and --replay-routes: the model has no experts to route to"
    );
    if let (Some(routes), Some(moe)) = (routes, &config.moe) {
        let layers = (0..config.num_hidden_layers).filter(|&layer| config.is_moe(layer));
        let layers: Vec<usize> = layers.collect();
        routes.check(moe.n_routed_experts, moe.num_experts_per_tok, &layers)?;
    }
    if let Some(masks) = masks {
        masks.check(config.vocab_size)?;
    }
    Ok(())
}

/// Counts and times in one line.
pub fn summary(stats: &Stats) -> String {
    let mut text = format!("prompt {} tokens", stats.n_prompt);
    if let Some(first_token) = stats.first_token {
        text.push_str(&format!(
            ", {:.1} tokens/s, first token after {}",
            stats.prefill_rate(),
            terminal::seconds(first_token)
        ));
    }
    text.push_str(&format!("; {} generated", stats.n_generated));
    // The first token is the prefill's: a rate takes two.
    if stats.n_generated > 1 {
        text.push_str(&format!(", {:.1} tokens/s", stats.decode_rate()));
    }
    text
}

/// Why it ended, in words.
pub fn stop_words(stop: &Stop) -> String {
    match stop {
        Stop::EndOfText(id) => format!("the text ended with token {id}"),
        Stop::StopString(text) => format!("the text came to {text:?}"),
        Stop::Length => "--max-tokens".into(),
        Stop::ContextFull => "the context is full".into(),
        Stop::Cancelled => "interrupted".into(),
    }
}
