//! The figures as tables for people, as Markdown, or as one JSON document.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;

use engine::{Model, Source};
use serde_json::{Value, json};
use train::eval::score::{Share, Tally};
use train::eval::{LayerBalance, LayerSelection, Likelihood, Mode, RecallScore, SumScore};

use super::Arguments;
use super::plan::Plan;
use crate::terminal;

/// What one part of the evaluation found.
pub enum Section {
    /// By length, text, and mode.
    Perplexity(Vec<Likelihood>),
    /// By layer.
    Balance(Vec<LayerBalance>),
    /// By layer.
    Selection(Vec<LayerSelection>),
    /// By distance and mode.
    Recall(Vec<RecallScore>),
    /// Without thinking and with.
    Sums([SumScore; 2]),
}

#[derive(Clone, Copy, PartialEq)]
enum Form {
    Plain,
    Markdown,
    Json,
}

/// What was found so far; tables are printed as they come, a document at the end.
pub struct Report {
    form: Form,
    header: String,
    document: Value,
    index_topk: Option<usize>,
}

/// Rows of cells, the first the heads of the columns.
struct Table {
    title: String,
    rows: Vec<Vec<String>>,
}

impl Report {
    /// A report on this model.
    pub fn new(arguments: &Arguments, plan: &Plan, source: &Source, model: &Model) -> Self {
        let form = match (arguments.json, arguments.markdown) {
            (true, _) => Form::Json,
            (false, true) => Form::Markdown,
            (false, false) => Form::Plain,
        };
        let info = &model.device().info;
        let reads = plan.index_topk.map_or_else(
            || "every position".into(),
            |k| format!("{k} positions a token"),
        );
        let header = format!(
            "- sparsight {}\n\
             - model {source}: {}, {} parameters, on {} ({})\n\
             - reads {reads}; {} probes, {} sequences, seed {}\n",
            crate::VERSION,
            model.config().architecture.name(),
            terminal::count(model.config().parameters().total),
            info.id,
            info.name,
            plan.n_probes,
            plan.n_sequences,
            arguments.seed,
        );
        let document = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "commit": env!("SPARSIGHT_COMMIT"),
            "device": info.id,
            "model": source.to_string(),
            "architecture": model.config().architecture.model_type(),
            "parameters": model.config().parameters().total,
            "index_topk": plan.index_topk,
            "lengths": plan.lengths,
            "probes": plan.n_probes,
            "sequences": plan.n_sequences,
            "seed": arguments.seed,
        });
        Self {
            form,
            header,
            document,
            index_topk: plan.index_topk,
        }
    }

    /// Says on what it is.
    pub fn begin(&self) -> io::Result<()> {
        match self.form {
            Form::Json => Ok(()),
            Form::Plain | Form::Markdown => terminal::print(&self.header),
        }
    }

    /// A part is done.
    pub fn add(&mut self, section: Section) -> io::Result<()> {
        if self.form == Form::Json {
            let (name, value) = match section {
                Section::Perplexity(found) => ("perplexity", json!(found)),
                Section::Balance(found) => ("balance", json!(found)),
                Section::Selection(found) => ("selection", json!(found)),
                Section::Recall(found) => ("recall", json!(found)),
                Section::Sums(found) => ("sums", json!(found)),
            };
            self.document[name] = value;
            return Ok(());
        }
        let tables = match &section {
            Section::Perplexity(found) => perplexity(found, self.index_topk),
            Section::Balance(found) => vec![balance(found)],
            Section::Selection(found) => vec![selection(found)],
            Section::Recall(found) => vec![recall(found), kinds(found)],
            Section::Sums(found) => vec![sums(found)],
        };
        for table in tables.iter().filter(|table| table.rows.len() > 1) {
            terminal::print(&table.text(self.form == Form::Markdown))?;
        }
        Ok(())
    }

    /// All parts are done.
    pub fn finish(&self) -> io::Result<()> {
        match self.form {
            Form::Json => terminal::print_line(format_args!("{:#}", self.document)),
            Form::Plain | Form::Markdown => Ok(()),
        }
    }
}

impl Table {
    fn text(&self, is_markdown: bool) -> String {
        let title = &self.title;
        if !is_markdown {
            return format!("\n{title}\n{}", terminal::table(&self.rows));
        }
        let mut text = format!("\n{title}:\n\n");
        for (n, row) in self.rows.iter().enumerate() {
            let _ = writeln!(text, "| {} |", row.join(" | "));
            if n == 0 {
                // Names to the left, figures to the right.
                let lines = self.rows[0].iter().enumerate().map(|(column, _)| {
                    let cells = || self.rows[1..].iter().filter_map(|row| row.get(column));
                    let is_number = |cell: &String| {
                        cell == "-" || cell.starts_with(|c: char| c.is_ascii_digit())
                    };
                    if cells().all(is_number) { "--:" } else { ":--" }
                });
                let _ = writeln!(text, "|{}|", lines.collect::<Vec<_>>().join("|"));
            }
        }
        text
    }
}

/// The modes of some results, in order of coming.
fn modes(all: impl Iterator<Item = Mode>) -> Vec<Mode> {
    let mut modes = Vec::new();
    for mode in all {
        if !modes.contains(&mode) {
            modes.push(mode);
        }
    }
    modes
}

fn head(first: &[&str], modes: &[Mode], last: &[&str]) -> Vec<String> {
    let names = modes.iter().map(|mode| mode.name());
    let words = first
        .iter()
        .copied()
        .chain(names)
        .chain(last.iter().copied());
    words.map(str::to_owned).collect()
}

/// Two tables: every target, and those that see more than they read.
fn perplexity(found: &[Likelihood], index_topk: Option<usize>) -> Vec<Table> {
    let table = |title: String, tally: fn(&Likelihood) -> Tally| {
        let modes = modes(found.iter().map(|line| line.attention));
        let compares = modes.contains(&Mode::Dense) && modes.contains(&Mode::Indexer);
        let last: &[&str] = if compares { &["indexer / dense"] } else { &[] };
        let mut rows = vec![head(&["text", "length", "targets"], &modes, last)];
        // The modes of a text and length follow each other.
        for lines in found.chunks(modes.len().max(1)) {
            let of = |mode: Mode| {
                let line = lines.iter().find(|line| line.attention == mode)?;
                tally(line).perplexity()
            };
            let mut row = vec![
                lines[0].text.to_owned(),
                lines[0].length.to_string(),
                tally(&lines[0]).n_targets.to_string(),
            ];
            row.extend(modes.iter().map(|&mode| optional(of(mode))));
            if compares {
                let ratio = of(Mode::Indexer).zip(of(Mode::Dense));
                row.push(ratio.map_or("-".into(), |(sparse, dense)| {
                    format!("{:.2} %", 100.0 * sparse / dense)
                }));
            }
            rows.push(row);
        }
        Table { title, rows }
    };
    let mut tables = vec![table("Perplexity on held-out text".into(), |line| line.all)];
    if let Some(k) = index_topk {
        let title = format!("Perplexity where a token sees more than {k} positions");
        tables.push(table(title, |line| line.beyond_topk));
    }
    tables
}

fn optional(perplexity: Option<f64>) -> String {
    perplexity.map_or("-".into(), |perplexity| format!("{perplexity:.3}"))
}

fn balance(found: &[LayerBalance]) -> Table {
    let names = ["layer", "busiest / mean", "least / mean", "entropy / even"];
    let mut rows = vec![head(&names, &[], &[])];
    rows.extend(found.iter().map(|layer| {
        vec![
            layer.layer.to_string(),
            format!("{:.2}", layer.busiest),
            format!("{:.2}", layer.least),
            format!("{:.4}", layer.entropy),
        ]
    }));
    Table {
        title: "Load of the experts".into(),
        rows,
    }
}

fn selection(found: &[LayerSelection]) -> Table {
    let names = ["layer", "indexer", "random", "recent", "best possible"];
    let mut rows = vec![head(&names, &[], &[])];
    rows.extend(found.iter().map(|layer| {
        let shares = [layer.indexer, layer.random, layer.recent, layer.best];
        let shares = shares.map(|share| format!("{:.1} %", 100.0 * share));
        [layer.layer.to_string()]
            .into_iter()
            .chain(shares)
            .collect()
    }));
    Table {
        title:
            "Share of the dense attention on the selected positions, in the longest texts of facts"
                .into(),
        rows,
    }
}

fn recall(found: &[RecallScore]) -> Table {
    let modes = modes(found.iter().map(|score| score.attention));
    let mut rows = vec![head(&["distance", "length"], &modes, &[])];
    for scores in found.chunks(modes.len().max(1)) {
        let mut row = vec![scores[0].distance.to_string(), scores[0].length.to_string()];
        row.extend(scores.iter().map(|score| share(score.share)));
        rows.push(row);
    }
    Table {
        title: "Facts found again, with 95 % intervals".into(),
        rows,
    }
}

/// All distances of a length together, by what was asked for.
fn kinds(found: &[RecallScore]) -> Table {
    let mut kinds: BTreeMap<(&str, usize), BTreeMap<&str, Share>> = BTreeMap::new();
    for score in found {
        for (&kind, more) in &score.by_kind {
            let row = kinds.entry((kind, score.length)).or_default();
            row.entry(score.attention.name()).or_default().add(*more);
        }
    }
    let modes = modes(found.iter().map(|score| score.attention));
    let mut rows = vec![head(&["asked for", "length"], &modes, &[])];
    rows.extend(kinds.iter().map(|((kind, length), shares)| {
        let shares = modes.iter().map(|mode| share(shares[mode.name()]));
        let names = [(*kind).to_owned(), length.to_string()];
        names.into_iter().chain(shares).collect()
    }));
    Table {
        title: "The same facts by what was asked for".into(),
        rows,
    }
}

fn sums(found: &[SumScore]) -> Table {
    let mut rows = vec![head(&["sums", "right", "in a box", "ended"], &[], &[])];
    rows.extend(found.iter().map(|score| {
        let name = if score.thinking {
            "with thinking"
        } else {
            "without thinking"
        };
        vec![
            name.into(),
            share(score.share),
            score.boxed.to_string(),
            score.ended.to_string(),
        ]
    }));
    Table {
        title: "Sums of numbers below 100, with 95 % intervals".into(),
        rows,
    }
}

/// `43/50, 86 % (74–93)`.
fn share(share: Share) -> String {
    let (low, high) = share.wilson();
    let percent = 100.0 * share.n_right as f64 / share.n.max(1) as f64;
    format!(
        "{}/{}, {percent:.0} % ({:.0}–{:.0})",
        share.n_right,
        share.n,
        100.0 * low,
        100.0 * high
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_shows_its_interval() {
        let half = Share { n_right: 43, n: 50 };
        assert_eq!(share(half), "43/50, 86 % (74–93)");
        let none = Share { n_right: 0, n: 0 };
        assert_eq!(share(none), "0/0, 0 % (0–100)");
    }

    fn line(text: &'static str, attention: Mode, nats: f64) -> Likelihood {
        let all = Tally { n_targets: 2, nats };
        Likelihood {
            text,
            length: 64,
            attention,
            all,
            beyond_topk: Tally::default(),
        }
    }

    #[test]
    fn perplexity_is_compared_where_there_is_something_to_compare() {
        let found = [
            line("facts", Mode::Dense, 2.0 * 4.0_f64.ln()),
            line("facts", Mode::Indexer, 2.0 * 5.0_f64.ln()),
        ];
        let tables = perplexity(&found, Some(7));
        assert_eq!(
            tables[0].text(true),
            "\nPerplexity on held-out text:\n\n\
             | text | length | targets | dense | indexer | indexer / dense |\n\
             |:--|--:|--:|--:|--:|--:|\n\
             | facts | 64 | 2 | 4.000 | 5.000 | 125.00 % |\n"
        );
        let beyond = tables[1].text(false);
        assert!(beyond.contains("more than 7 positions"), "{beyond}");
        assert!(
            beyond.contains("facts      64        0      -        -"),
            "{beyond}"
        );
        let alone = perplexity(&found[..1], None);
        assert_eq!(alone.len(), 1);
        assert!(!alone[0].text(false).contains('/'));
    }

    #[test]
    fn nothing_found_is_an_empty_table() {
        assert_eq!(perplexity(&[], Some(1))[0].rows.len(), 1);
        assert_eq!(recall(&[]).rows.len(), 1);
        assert_eq!(kinds(&[]).rows.len(), 1);
    }
}
