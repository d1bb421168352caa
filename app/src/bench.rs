//! `sparsight bench`: prefill and decode speed at several context depths, sparse and dense.
//!
//! A depth is filled once with token ids from a fixed seed; each measurement goes back to it. Prefill
//! feeds a prompt there, decode feeds given ids one at a time and reads the logits back. Nothing is
//! sampled, so the figures are the engine's alone.

mod profile;
mod result;

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::time::Instant;

use anyhow::{bail, ensure};
use clap::{Args, ValueEnum};
use engine::model::ForwardOptions;
use engine::{Config, Error, Session};
use indicatif::ProgressBar;

use crate::interrupt::{self, Second};
use crate::options::{ModelArgs, index_topk};
use crate::{Outcome, load, terminal};
use result::Row;

#[derive(Args, Debug)]
pub struct Arguments {
    /// Prompt tokens of a prefill measurement; 0 for none
    #[arg(short, long, value_name = "N", default_value_t = 512)]
    prompt: usize,

    /// Tokens of a decode measurement; 0 for none
    #[arg(short = 'n', long, value_name = "N", default_value_t = 64)]
    generate: usize,

    /// Tokens in the context before a measurement
    #[arg(
        long,
        value_name = "N,…",
        value_delimiter = ',',
        default_value = "0",
        num_args = 1
    )]
    depths: Vec<usize>,

    /// Ways of attention to measure [default: sparse,dense if the model has an indexer, else dense]
    #[arg(long, value_name = "MODE,…", value_delimiter = ',', num_args = 1)]
    modes: Vec<Mode>,

    /// Measurements of each kind
    #[arg(short, long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,

    /// Positions that a token may read, instead of the checkpoint's own number
    #[arg(long, value_name = "N")]
    index_topk: Option<NonZeroUsize>,

    /// Use the expanded (MHA) form of attention for prompts
    #[arg(long)]
    mha_prefill: bool,

    /// Chooses the token ids
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    /// Show what one decoded token launches, moves and computes at each depth, kernel by kernel,
    /// instead of measuring speed. Needs a wgpu device, or a folder without weights to count for
    #[arg(long, conflicts_with = "json")]
    profile: bool,

    /// Print a JSON document instead of a Markdown table
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    model: ModelArgs,
}

/// A way of attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Mode {
    Sparse,
    Dense,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Test {
    Prefill,
    Decode,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Sparse => "sparse",
            Self::Dense => "dense",
        }
    }
}

impl Test {
    fn name(self) -> &'static str {
        match self {
            Self::Prefill => "prefill",
            Self::Decode => "decode",
        }
    }
}

pub fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    let source = arguments.model.source()?;
    let config = source.config()?;
    let modes = arguments.modes(&config)?;
    index_topk(arguments.index_topk, &config)?;
    let mut depths = arguments.depths.clone();
    depths.sort_unstable();
    depths.dedup();
    if arguments.profile {
        let context = config.max_position_embeddings;
        if let Some(&depth) = depths.iter().find(|&&depth| depth >= context) {
            bail!(Error::ContextFull {
                tokens: 1,
                position: depth,
                context
            });
        }
        return profile::run(arguments, &source, &depths, &modes);
    }
    let tests = [
        (Test::Prefill, arguments.prompt),
        (Test::Decode, arguments.generate),
    ];
    let tests: Vec<_> = tests
        .into_iter()
        .filter(|(_, n_tokens)| *n_tokens > 0)
        .collect();
    ensure!(
        !tests.is_empty(),
        "--prompt and --generate are both 0: nothing to measure"
    );
    let longest = arguments.prompt.max(arguments.generate).max(WARM_UP_TOKENS);
    let deepest = depths.last().copied().unwrap_or(0);
    let context = config.max_position_embeddings;
    if deepest.saturating_add(longest) > context {
        bail!(Error::ContextFull {
            tokens: longest,
            position: deepest,
            context
        });
    }

    interrupt::install(Second::Exits)?;
    let Some(model) = load::model(&arguments.model)? else {
        return Ok(Outcome::Interrupted);
    };
    let ids = ids(arguments.seed, deepest + longest, config.vocab_size);
    let mut session = Session::new(model.clone(), arguments.model.session_options())?;
    if !arguments.json {
        terminal::print(&arguments.header(&source, &model))?;
    }
    let n_repeats = arguments.repeat as usize;
    let n_steps = depths.len() * (1 + modes.len() * tests.len() * n_repeats);
    let mut bench = Bench {
        arguments,
        ids: &ids,
        bar: terminal::bar(n_steps as u64, "bench    [{wide_bar}] {msg}, {elapsed}"),
        rows: Vec::new(),
    };
    let whole = bench.measure(&mut session, &depths, &modes, &tests)?;
    bench.bar.finish_and_clear();
    if whole.is_break() {
        return Ok(Outcome::Interrupted);
    }
    if arguments.json {
        let document = arguments.document(&source, &model, &bench.rows);
        terminal::print_line(format_args!("{document:#}"))?;
    }
    Ok(Outcome::Success)
}

/// Tokens of the warm-up before the first measurement of a mode: one prompt and one step.
const WARM_UP_TOKENS: usize = 17;

impl Arguments {
    fn modes(&self, config: &Config) -> anyhow::Result<Vec<Mode>> {
        let mut modes = self.modes.clone();
        if config.indexer.is_none() {
            ensure!(
                !modes.contains(&Mode::Sparse),
                "--modes: found sparse, expected dense: the model has no indexer"
            );
            return Ok(vec![Mode::Dense]);
        }
        if modes.is_empty() {
            modes = vec![Mode::Sparse, Mode::Dense];
        }
        modes.sort_unstable();
        modes.dedup();
        Ok(modes)
    }

    fn forward(&self, mode: Mode) -> ForwardOptions {
        let index_topk = self.index_topk.map(NonZeroUsize::get);
        ForwardOptions {
            index_topk: index_topk.filter(|_| mode == Mode::Sparse),
            dense: mode == Mode::Dense,
            mha_prefill: self.mha_prefill,
            ..ForwardOptions::default()
        }
    }
}

struct Bench<'a> {
    arguments: &'a Arguments,
    ids: &'a [u32],
    bar: ProgressBar,
    rows: Vec<Row>,
}

impl Bench<'_> {
    /// Every measurement, the shallow ones first; broken off by Ctrl-C.
    fn measure(
        &mut self,
        session: &mut Session,
        depths: &[usize],
        modes: &[Mode],
        tests: &[(Test, usize)],
    ) -> anyhow::Result<ControlFlow<()>> {
        for &mode in modes {
            session.set_forward(self.arguments.forward(mode))?;
            session.advance(&self.ids[..WARM_UP_TOKENS - 1])?;
            session.advance(&self.ids[WARM_UP_TOKENS - 1..WARM_UP_TOKENS])?;
            session.rewind(0)?;
        }
        for &depth in depths {
            self.bar.set_message(format!("filling {depth} tokens"));
            // Both modes measure on the same context, and one of them is fast to fill it with.
            session.set_forward(self.arguments.forward(modes[0]))?;
            if self.fill(session, depth)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            self.bar.inc(1);
            for &(test, n_tokens) in tests {
                for &mode in modes {
                    session.set_forward(self.arguments.forward(mode))?;
                    let mut rates = Vec::new();
                    for repeat in 1..=self.arguments.repeat {
                        self.bar.set_message(format!(
                            "{} {n_tokens} at {depth}, {}, {repeat} of {}",
                            test.name(),
                            mode.name(),
                            self.arguments.repeat
                        ));
                        let ids = &self.ids[depth..depth + n_tokens];
                        let Some(seconds) = time(session, test, ids)? else {
                            return Ok(ControlFlow::Break(()));
                        };
                        session.rewind(depth)?;
                        rates.push(n_tokens as f64 / seconds);
                        self.bar.inc(1);
                    }
                    self.row(Row {
                        test,
                        n_tokens,
                        depth,
                        mode,
                        rates,
                    })?;
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn fill(&self, session: &mut Session, depth: usize) -> engine::Result<ControlFlow<()>> {
        let from = session.position();
        if from == depth {
            return Ok(ControlFlow::Continue(()));
        }
        session.advance_with(&self.ids[from..depth], |done, total| {
            self.bar.set_message(format!(
                "filling {} of {} tokens",
                from + done,
                from + total
            ));
            flow()
        })?;
        Ok(flow())
    }

    fn row(&mut self, row: Row) -> std::io::Result<()> {
        if !self.arguments.json {
            let line = row.line();
            self.bar.suspend(|| terminal::print(&line))?;
        }
        self.rows.push(row);
        Ok(())
    }
}

fn flow() -> ControlFlow<()> {
    if interrupt::requested() {
        ControlFlow::Break(())
    } else {
        ControlFlow::Continue(())
    }
}

/// Seconds that the test takes; `None` if Ctrl-C broke it off.
fn time(session: &mut Session, test: Test, ids: &[u32]) -> engine::Result<Option<f64>> {
    let started = Instant::now();
    match test {
        Test::Prefill => {
            session.advance_with(ids, |_, _| flow())?;
        }
        Test::Decode => {
            for id in ids {
                session.advance(&[*id])?;
                if flow().is_break() {
                    break;
                }
            }
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    Ok(flow().is_continue().then_some(seconds))
}

/// Token ids without a pattern that routing could profit from: SplitMix64, as good as any here.
fn ids(seed: u64, n: usize, vocab_size: usize) -> Vec<u32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    };
    (0..n)
        .map(|_| (next() % vocab_size as u64) as u32)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_splitmix64_and_in_the_vocabulary() {
        // The first outputs of the published generator for seed 0.
        let first: Vec<u64> = vec![0xE220_A839_7B1D_CDAF, 0x6E78_9E6A_A1B9_65F4];
        let expected: Vec<u32> = first.iter().map(|z| (z % 1000) as u32).collect();
        assert_eq!(ids(0, 2, 1000), expected);
        assert!(ids(7, 1000, 128).iter().all(|&id| id < 128));
    }
}
