//! `sparsight eval`: what a model is worth, its indexer beside controls that choose without looking.
//!
//! What is measured and how is in [`train::eval`]; here are the options, the progress bar and, in
//! [`report`], the tables; what is asked of it is checked in [`plan`]. The same command prints the same figures; the time goes to stderr.

mod plan;
mod report;

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use clap::Args;
use engine::Session;
use engine::chat::{BOS, EOS};
use engine::tokenizer::Tokenizer;
use train::data::Corpus;
use train::eval::{Eval, TEXTS, TextPlan, questions};

use crate::interrupt::{self, Second};
use crate::options::ModelArgs;
use crate::{Outcome, load, terminal};
use plan::{ModeName, Part};
use report::{Report, Section};

/// More would take days, and be one typing error away from it.
const MAX_CASES: u64 = 100_000;

/// What texts and conversations are marked with.
const FAMILY_TOKENS: [&str; 6] = [
    BOS,
    EOS,
    "<｜User｜>",
    "<｜Assistant｜>",
    "<think>",
    "</think>",
];

#[derive(Args, Debug)]
#[command(
    after_help = "Controls read as many positions as the indexer, chosen without looking: \
                        random by lot, recent the last ones. They need the CPU, which is the default \
                        here. Text and questions are made by a program, held out from training."
)]
pub struct Arguments {
    /// Measure only these [default: all]
    #[arg(long, value_name = "PART,…", value_delimiter = ',', num_args = 1)]
    only: Vec<Part>,

    /// Ways of attention to compare [default: all if the model has an indexer, else dense]
    #[arg(long, value_name = "MODE,…", value_delimiter = ',', num_args = 1)]
    modes: Vec<ModeName>,

    /// Questions of each distance, and sums of each sort [default: 50, with --quick 8]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MAX_CASES))]
    probes: Option<u64>,

    /// Sequences of each sort of text and length [default: 4, with --quick 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MAX_CASES))]
    sequences: Option<u64>,

    /// Tokens of a text; a question is asked in the shortest that holds its distance [default:
    /// 1024,2048]
    #[arg(long, value_name = "N,…", value_delimiter = ',', num_args = 1)]
    lengths: Vec<usize>,

    /// Tokens between a fact and the question about it [default: 128,256,512,1024,1900]
    #[arg(long, value_name = "N,…", value_delimiter = ',', num_args = 1)]
    distances: Vec<usize>,

    /// Folder with the real texts that the small model's recipe names, to measure on them too
    #[arg(long, value_name = "DIR")]
    texts: Option<PathBuf>,

    /// Positions that a token may read, instead of the checkpoint's own number
    #[arg(long, visible_alias = "k", value_name = "N")]
    index_topk: Option<NonZeroUsize>,

    /// Chooses text, questions and the random positions
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    /// Fewer questions and texts: a first look
    #[arg(long)]
    quick: bool,

    /// Print Markdown tables
    #[arg(long, conflicts_with = "json")]
    markdown: bool,

    /// Print a JSON document
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    model: ModelArgs,
}

pub fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    let started = Instant::now();
    let source = arguments.model.source()?;
    let config = source.config()?;
    let plan = arguments.plan(&config)?;
    let tokenizer = source.tokenizer()?.with_context(|| {
        format!(
            "{}, expected one: text is made for it",
            source.no_tokenizer()
        )
    })?;
    let tokenizer = Arc::new(tokenizer);
    check_family_tokens(&tokenizer)?;
    let corpus = Corpus::open(tokenizer.clone(), arguments.texts.as_deref())?;

    let questions = if plan.has(Part::Recall) {
        questions(&corpus, &plan.cells, plan.n_probes, arguments.seed).context("--distances")?
    } else {
        Vec::new()
    };

    interrupt::install(Second::Exits)?;
    let mut model_arguments = arguments.model.clone();
    // Not the best device: only the CPU has every control.
    model_arguments.device.get_or_insert_with(|| "cpu".into());
    let Some(model) = load::model(&model_arguments)? else {
        return Ok(Outcome::Interrupted);
    };
    let mut session = Session::new(model.clone(), model_arguments.session_options())?;
    for mode in &plan.modes {
        let forward = mode.forward(plan.index_topk, arguments.seed);
        session.set_forward(forward).with_context(|| {
            format!(
                "attention {:?} on device {}: --device cpu has every one, --modes dense,indexer \
                 leaves out the controls",
                mode.name(),
                model.device().info.id
            )
        })?;
    }
    if config.indexer.is_none() {
        terminal::note(
            "the model has no indexer: it reads every position, so the controls do not apply",
        );
    }

    let mut report = Report::new(arguments, &plan, &source, &model);
    report.begin()?;
    let bar = terminal::bar(0, "eval     [{wide_bar}] {percent} %, {msg}, {eta} left");
    let mut progress = |tokens: u64| {
        bar.inc(tokens);
        if interrupt::requested() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    let mut eval = Eval {
        corpus: &corpus,
        session: &mut session,
        index_topk: plan.index_topk,
        seed: arguments.seed,
        progress: &mut progress,
    };
    let texts = TEXTS
        .iter()
        .filter(|text| !text.is_real || arguments.texts.is_some());
    let text_plan = TextPlan {
        texts: texts.collect(),
        lengths: &plan.lengths,
        n_sequences: plan.n_sequences,
        modes: if plan.has(Part::Perplexity) {
            &plan.modes
        } else {
            &[]
        },
        counts_routes: plan.has(Part::Balance),
    };
    bar.set_length(plan.n_tokens(&eval, &text_plan));

    if plan.has(Part::Perplexity) || plan.has(Part::Balance) {
        bar.set_message("texts");
        let Some(scores) = eval.texts(&text_plan)? else {
            return Ok(Outcome::Interrupted);
        };
        if plan.has(Part::Perplexity) {
            bar.suspend(|| report.add(Section::Perplexity(scores.likelihoods)))?;
        }
        if plan.has(Part::Balance) {
            bar.suspend(|| report.add(Section::Balance(scores.balance)))?;
        }
    }
    if plan.has(Part::Selection) {
        bar.set_message("selection");
        let Some(layers) = eval.selection(plan.longest(), plan.n_sequences)? else {
            return Ok(Outcome::Interrupted);
        };
        bar.suspend(|| report.add(Section::Selection(layers)))?;
    }
    if plan.has(Part::Recall) {
        bar.set_message("recall");
        let Some(scores) = eval.recall(&questions, &plan.modes)? else {
            return Ok(Outcome::Interrupted);
        };
        bar.suspend(|| report.add(Section::Recall(scores)))?;
    }
    if plan.has(Part::Sums) {
        bar.set_message("sums");
        let Some(scores) = eval.sums(&tokenizer, plan.n_probes)? else {
            return Ok(Outcome::Interrupted);
        };
        bar.suspend(|| report.add(Section::Sums(scores)))?;
    }
    bar.finish_and_clear();
    report.finish()?;
    terminal::note(format_args!(
        "evaluated in {}",
        terminal::seconds(started.elapsed())
    ));
    Ok(Outcome::Success)
}

/// Text in another model's marks would measure nothing.
fn check_family_tokens(tokenizer: &Tokenizer) -> anyhow::Result<()> {
    for token in FAMILY_TOKENS {
        ensure!(
            tokenizer.token_id(token).is_some(),
            "tokenizer: has no token {token:?}, expected it: questions are put in the family's \
             message format"
        );
    }
    Ok(())
}
