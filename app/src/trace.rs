//! `sparsight trace`: continues a prompt and writes the watched stages of each step to a file.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::ensure;
use clap::{Args, ValueEnum};
use engine::generate::{Emitted, Stop};
use engine::trace::{STAGES, Stage, Watch, WatchedRows};
use engine::trace_file;

use crate::printer::Printer;
use crate::run::{Run, RunArgs};
use crate::{Outcome, terminal};

/// What goes in without `--stages`: what the model looked at and who did the work. Small.
const DEFAULT_STAGES: &str =
    "selected_positions,selected_scores,attention_mean,experts,expert_weights";

#[derive(Args, Debug)]
#[command(after_help = stages_help())]
pub struct Arguments {
    /// Write the trace here
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,

    /// Stages to record, separated by commas, or all
    #[arg(long, value_name = "STAGES", default_value = DEFAULT_STAGES)]
    stages: String,

    /// Layers to record, such as 0,3-5 [default: all]
    #[arg(long, value_name = "LAYERS")]
    layers: Option<String>,

    /// The row that chooses the next token, or the prompt's other rows too
    #[arg(long, value_name = "ROWS", default_value = "last")]
    rows: Rows,

    /// Generate at most this many tokens
    #[arg(short = 'n', long, value_name = "N", default_value_t = 16)]
    max_tokens: usize,

    #[command(flatten)]
    run: RunArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Rows {
    Last,
    All,
}

fn stages_help() -> String {
    let rows = STAGES
        .iter()
        .map(|info| vec![format!("  {}", info.name), info.about.to_owned()]);
    let rows: Vec<Vec<String>> = rows.collect();
    format!("Stages:\n{}", terminal::table(&rows))
}

pub fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    let stages = parse_stages(&arguments.stages)?;
    let layers = arguments.layers.as_deref().map(parse_layers).transpose()?;
    if let Some(layers) = &layers {
        let n_layers = arguments.run.source()?.config()?.num_hidden_layers;
        let last = layers.last().copied().unwrap_or(0);
        ensure!(
            last < n_layers,
            "--layers: found layer {last}, expected 0 to {}",
            n_layers - 1
        );
    }
    let out = Some(arguments.out.as_path());
    let Some(mut run) = Run::start(&arguments.run, Some(arguments.max_tokens), 0, out)? else {
        return Ok(Outcome::Interrupted);
    };
    run.session.watch(Watch {
        stages: stages.clone(),
        layers,
        rows: match arguments.rows {
            Rows::Last => WatchedRows::Last,
            Rows::All => WatchedRows::All,
        },
        timings: false,
    });
    let mut printer = Printer::new(&run, false)?;
    let mut frames = Vec::new();
    let finish = run.go(|emitted| match emitted {
        Emitted::Token(token) => printer.token(token),
        Emitted::Frame(frame) => {
            frames.push(frame);
            Ok(())
        }
        Emitted::Prefill(..) => Ok(()),
    });
    // Also after an error: what was recorded until then may show its cause.
    trace_file::save(&arguments.out, &frames)?;
    let finish = finish?;
    printer.finish(&finish)?;
    let found: BTreeSet<Stage> = frames
        .iter()
        .flat_map(|frame| frame.values.keys().map(|site| site.stage))
        .collect();
    // Of a prompt that was broken off nothing can be said.
    for stage in stages.difference(&found).filter(|_| !frames.is_empty()) {
        terminal::note(format_args!(
            "nothing of stage {} in these layers of this model",
            stage.info().name
        ));
    }
    let size = std::fs::metadata(&arguments.out).map_or(0, |file| file.len());
    terminal::note(format_args!(
        "{} steps, {}: {}",
        frames.len(),
        terminal::bytes(size),
        arguments.out.display()
    ));
    Ok(match finish.stop {
        Stop::Cancelled => Outcome::Interrupted,
        _ => Outcome::Success,
    })
}

fn parse_stages(text: &str) -> anyhow::Result<BTreeSet<Stage>> {
    if text == "all" {
        return Ok(STAGES.iter().map(|info| info.stage).collect());
    }
    let names = text.split(',').map(str::trim);
    names
        .map(|name| {
            Stage::by_name(name).ok_or_else(|| {
                let known: Vec<_> = STAGES.iter().map(|info| info.name).collect();
                anyhow::anyhow!(
                    "--stages: found {name:?}, expected all or some of {}",
                    known.join(", ")
                )
            })
        })
        .collect()
}

/// Layers such as `0,3-5`.
fn parse_layers(text: &str) -> anyhow::Result<BTreeSet<usize>> {
    let mut layers = BTreeSet::new();
    for part in text.split(',').map(str::trim) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        // No model has more; without a bound a typing error would fill the memory.
        let number = |text: &str| text.parse::<usize>().ok().filter(|&layer| layer < 10_000);
        match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => layers.extend(first..=last),
            _ => anyhow::bail!("--layers: found {part:?}, expected layers such as 0,3-5"),
        }
    }
    Ok(layers)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panic")]
mod tests {
    use super::*;

    #[test]
    fn layers_come_as_numbers_and_ranges() {
        assert_eq!(parse_layers("1").unwrap(), [1].into());
        assert_eq!(parse_layers("0, 3-5,4").unwrap(), [0, 3, 4, 5].into());
        for text in ["", "a", "5-3", "-1", "1-", "0,,2", "99999999999", "0-99999"] {
            let error = parse_layers(text).unwrap_err().to_string();
            assert!(error.contains("--layers"), "{text:?}: {error}");
        }
    }

    #[test]
    fn stages_come_by_name() {
        assert_eq!(
            parse_stages("experts,hidden").unwrap(),
            [Stage::Hidden, Stage::Experts].into()
        );
        assert_eq!(parse_stages("all").unwrap().len(), STAGES.len());
        assert_eq!(parse_stages(DEFAULT_STAGES).unwrap().len(), 5);
        for text in ["", "expert", "experts,"] {
            parse_stages(text).unwrap_err();
        }
    }
}
