//! `sparsight verify`: the conformance suite on folders that hold a checkpoint and its oracle.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use engine::Device;
use engine::model::ForwardOptions;
use engine::verify::{Report, StageReport, verify};
use serde_json::{Value, json};

use crate::options::default_chunk;
use crate::{Outcome, terminal};

#[derive(Args, Debug)]
pub struct Arguments {
    /// Folders with a checkpoint, oracle.safetensors and oracle.json
    #[arg(required = true, value_name = "FOLDER")]
    folders: Vec<PathBuf>,

    /// What to compute on: an id or a part of a name from `sparsight devices` [default: the best]
    #[arg(short, long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    device: Option<String>,

    /// Prompt tokens fed at a time
    #[arg(long, value_name = "TOKENS", default_value_t = default_chunk())]
    chunk: NonZeroUsize,

    /// Use the expanded (MHA) form of attention for prompts
    #[arg(long)]
    mha_prefill: bool,

    /// Print every stage of every layer and step, not the largest of each kind
    #[arg(long)]
    all: bool,

    /// Print a JSON document
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    let device = Device::open(arguments.device.as_deref())?;
    let forward = ForwardOptions {
        mha_prefill: arguments.mha_prefill,
        ..ForwardOptions::default()
    };
    let (mut documents, mut n_off, mut failed) = (Vec::new(), 0, Vec::new());
    let bar = terminal::bar(
        arguments.folders.len() as u64,
        "verify   [{wide_bar}] {msg}",
    );
    for folder in &arguments.folders {
        bar.set_message(terminal::clean(&folder.display().to_string()).into_owned());
        let result = verify(folder, &device, arguments.chunk.get(), &forward);
        bar.inc(1);
        match result {
            Ok(report) => {
                n_off += usize::from(report.first_off().is_some());
                if arguments.json {
                    documents.push(document(&report));
                } else {
                    let text = text(&report, arguments.all);
                    bar.suspend(|| terminal::unless_gone(terminal::print(&text)))?;
                }
            }
            // The others may still be checked.
            Err(error) => {
                let folder = folder.display().to_string();
                documents.push(json!({"folder": folder, "error": error.to_string()}));
                let error = error.to_string();
                failed.push(if error.contains(&folder) {
                    error
                } else {
                    format!("{folder}: {error}")
                });
            }
        }
    }
    bar.finish_and_clear();
    let n = arguments.folders.len();
    if arguments.json {
        let documents = json!(documents);
        terminal::unless_gone(terminal::print_line(format_args!("{documents:#}")))?;
    } else if failed.len() < n {
        let n_ok = n - n_off - failed.len();
        let line = format!("{n_ok} of {n} folders as the reference says");
        terminal::unless_gone(terminal::print_line(line))?;
    }
    if let Some((last, others)) = failed.split_last() {
        for error in others {
            terminal::note(format_args!("error: {error}"));
        }
        bail!("{last}");
    }
    Ok(if n_off == 0 {
        Outcome::Success
    } else {
        Outcome::CheckFailed
    })
}

fn document(report: &Report) -> Value {
    let mut document = json!(report);
    document["ok"] = json!(report.first_off().is_none());
    document["first_off"] = json!(report.first_off().map(|stage| &stage.name));
    document
}

/// What a stage is called in the summary: `prefill.layer2.topk` and `decode7.layer0.topk` are both
/// `topk`, in the columns prefill and decode.
fn kind(name: &str) -> (&str, &str) {
    let phase = name.split('.').next().unwrap_or(name);
    let phase = phase.trim_end_matches(|c: char| c.is_ascii_digit());
    let stage = name.rsplit('.').next().unwrap_or(name);
    (phase, stage)
}

/// The report for people.
fn text(report: &Report, all: bool) -> String {
    let tolerance = report.tolerance;
    let mut text = format!(
        "{} on {}, within {} + {} · |reference|\n",
        report.folder, report.device, tolerance.abs, tolerance.rel
    );
    text.push_str(&if all {
        every_stage(&report.stages)
    } else {
        kinds(&report.stages)
    });
    for stage in &report.stages {
        for difference in &stage.differing {
            let verdict = if difference.counts {
                "wrong"
            } else {
                "decided by rounding"
            };
            text.push_str(&format!(
                "  {} row {}: lacks {:?}, has {:?} instead, gap {:.1e}: {verdict}\n",
                stage.name, difference.row, difference.missing, difference.surplus, difference.gap
            ));
        }
    }
    match report.first_off() {
        None => text.push_str("  ok\n"),
        Some(stage) => text.push_str(&format!("  OFF, first at {}\n", stage.name)),
    }
    text
}

fn every_stage(stages: &[StageReport]) -> String {
    let rows = stages.iter().map(|stage| {
        let off = if stage.ok { "" } else { "OFF" };
        vec![
            format!("  {}", stage.name),
            stage.n.to_string(),
            cell(&[stage]),
            off.into(),
        ]
    });
    terminal::table(&rows.collect::<Vec<_>>())
}

/// One line a kind of stage, one column a phase, both in the order of computation.
fn kinds(stages: &[StageReport]) -> String {
    let mut columns: Vec<&str> = Vec::new();
    let mut lines: Vec<&str> = Vec::new();
    let mut cells: BTreeMap<(&str, &str), Vec<&StageReport>> = BTreeMap::new();
    for stage in stages {
        let (phase, name) = kind(&stage.name);
        if !columns.contains(&phase) {
            columns.push(phase);
        }
        if !lines.contains(&name) {
            lines.push(name);
        }
        cells.entry((phase, name)).or_default().push(stage);
    }
    let head = columns.iter().map(|phase| (*phase).to_owned());
    let mut rows: Vec<Vec<String>> = vec![
        [String::from("  largest difference")]
            .into_iter()
            .chain(head)
            .collect(),
    ];
    for name in lines {
        let cells = columns.iter().map(|phase| {
            cells
                .get(&(*phase, name))
                .map_or_else(|| "-".into(), |stages| cell(stages))
        });
        rows.push([format!("  {name}")].into_iter().chain(cells).collect());
    }
    terminal::table(&rows)
}

/// The largest difference of numbers, or how many sets differ.
fn cell(stages: &[&StageReport]) -> String {
    let numbers = stages.iter().filter_map(|stage| stage.max_difference);
    let largest = numbers.reduce(|a, b| if b > a || b.is_nan() { b } else { a });
    match largest {
        Some(difference) => format!("{difference:.1e}"),
        None => {
            let n: usize = stages.iter().map(|stage| stage.n).sum();
            let n_differing: usize = stages.iter().map(|stage| stage.differing.len()).sum();
            let is_short = |stage: &&StageReport| {
                !stage.ok && !stage.differing.iter().any(|difference| difference.counts)
            };
            if stages.iter().any(is_short) {
                format!("not all of {n} are there")
            } else {
                format!("{n_differing} of {n} differ")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_have_a_phase_and_a_kind() {
        assert_eq!(kind("prefill.layer0.topk"), ("prefill", "topk"));
        assert_eq!(kind("decode12.layer3.hidden"), ("decode", "hidden"));
        assert_eq!(kind("decode3.logits"), ("decode", "logits"));
        assert_eq!(kind("mtp.layer3.expert_w"), ("mtp", "expert_w"));
    }

    #[test]
    fn sets_that_are_not_there_are_not_called_equal() {
        let mut sets = StageReport {
            name: "mtp.layer3.topk".into(),
            n: 40,
            max_difference: None,
            differing: Vec::new(),
            ok: true,
        };
        assert_eq!(cell(&[&sets]), "0 of 40 differ");
        sets.ok = false;
        assert_eq!(cell(&[&sets]), "not all of 40 are there");
    }

    fn numbers(name: &str, difference: f32) -> StageReport {
        StageReport {
            name: name.into(),
            n: 8,
            max_difference: Some(difference),
            differing: Vec::new(),
            ok: difference <= 1.0,
        }
    }

    #[test]
    fn the_largest_difference_is_shown_and_nan_is_larger_than_any() {
        let stages = [
            numbers("prefill.layer0.hidden", 0.25),
            numbers("prefill.layer1.hidden", 0.5),
            numbers("decode0.layer0.hidden", f32::NAN),
            numbers("decode1.layer0.hidden", 0.125),
        ];
        let text = kinds(&stages);
        assert!(text.contains("5.0e-1"), "{text}");
        assert!(text.contains("NaN"), "{text}");
        assert!(!text.contains("1.3e-1"), "{text}");
    }

    #[test]
    fn a_folder_that_is_off_says_where_first() {
        let report = Report {
            folder: "case".into(),
            device: "cpu".into(),
            tolerance: engine::verify::Tolerance::F32,
            stages: vec![
                numbers("prefill.layer0.hidden", 0.5),
                numbers("prefill.logits", 2.0),
            ],
        };
        for all in [false, true] {
            let text = text(&report, all);
            assert!(text.contains("OFF, first at prefill.logits"), "{text}");
        }
        let document = document(&report);
        assert_eq!(document["first_off"], "prefill.logits");
        assert_eq!(document["ok"], false);
    }
}
