//! What will be measured: the options, checked against the model's config before it is loaded.

use anyhow::{bail, ensure};
use clap::ValueEnum;
use engine::Config;
use train::eval::{Cell, Eval, Mode, SUM_TOKENS, TextPlan, cell, farthest};

use super::Arguments;
use crate::options::index_topk;

/// Lengths of text unless asked for: the context that the small model was first trained with, and
/// its whole one.
const LENGTHS: [usize; 2] = [1024, 2048];

/// Distances of facts unless asked for.
const DISTANCES: [usize; 5] = [128, 256, 512, 1024, 1900];

/// The shortest text that is one.
const SHORTEST: usize = 16;

/// A part of the evaluation, in the order of measuring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Perplexity on held-out text
    Perplexity,
    /// How evenly experts are used
    Balance,
    /// How much of the dense attention falls on what the indexer chooses
    Selection,
    /// Facts found again, by distance
    Recall,
    /// Sums, with thinking and without
    Sums,
}

/// [`Mode`] under its name; clap's traits are not for the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ModeName {
    Dense,
    Indexer,
    Random,
    Recent,
}

impl From<ModeName> for Mode {
    fn from(name: ModeName) -> Self {
        match name {
            ModeName::Dense => Self::Dense,
            ModeName::Indexer => Self::Indexer,
            ModeName::Random => Self::Random,
            ModeName::Recent => Self::Recent,
        }
    }
}

/// What will be measured, all of it checked against the config.
pub struct Plan {
    parts: Vec<Part>,
    /// Ways of attention to compare.
    pub modes: Vec<Mode>,
    /// In force; `None` for a model that reads everything.
    pub index_topk: Option<usize>,
    /// Tokens of texts, ascending.
    pub lengths: Vec<usize>,
    /// Distances of facts, each with the length it is asked in.
    pub cells: Vec<Cell>,
    /// Questions of each distance, and sums of each sort.
    pub n_probes: u64,
    /// Sequences of each sort of text and length.
    pub n_sequences: u64,
}

impl Plan {
    /// Whether this part is asked for.
    pub fn has(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }

    /// Tokens of the longest texts.
    pub fn longest(&self) -> usize {
        self.lengths.iter().copied().max().unwrap_or(0)
    }

    /// Tokens that will be fed, for the bar.
    pub fn n_tokens(&self, eval: &Eval, texts: &TextPlan) -> u64 {
        let mut n = eval.text_tokens(texts);
        if self.has(Part::Selection) {
            n += eval.selection_tokens(self.longest(), self.n_sequences);
        }
        if self.has(Part::Recall) {
            let lengths: u64 = self.cells.iter().map(|cell| cell.length as u64).sum();
            n += lengths * self.n_probes * self.modes.len() as u64;
        }
        if self.has(Part::Sums) {
            n += 2 * self.n_probes * SUM_TOKENS;
        }
        n
    }
}

impl Arguments {
    /// What these options ask of a model of this config.
    ///
    /// # Errors
    /// What the model does not have or its context does not hold.
    pub fn plan(&self, config: &Config) -> anyhow::Result<Plan> {
        let index_topk = index_topk(self.index_topk, config)?
            .or(config.indexer.as_ref().map(|indexer| indexer.index_topk));
        let lengths = self.lengths(config)?;
        let cells = self.cells(&lengths)?;
        let mut parts = self.parts(config)?;
        if cells.is_empty() {
            ensure!(
                !self.only.contains(&Part::Recall),
                "--only: found recall, expected other parts: --lengths hold none of the distances"
            );
            parts.retain(|&part| part != Part::Recall);
        }
        let (default_probes, default_sequences) = if self.quick { (8, 1) } else { (50, 4) };
        Ok(Plan {
            parts,
            modes: self.modes(config)?,
            index_topk,
            cells,
            lengths,
            n_probes: self.probes.unwrap_or(default_probes),
            n_sequences: self.sequences.unwrap_or(default_sequences),
        })
    }

    /// The parts asked for, or all that the model has anything to show for.
    fn parts(&self, config: &Config) -> anyhow::Result<Vec<Part>> {
        let missing = |part: &Part| match part {
            Part::Balance if config.moe.is_none() => Some("experts"),
            Part::Selection if config.indexer.is_none() => Some("indexer"),
            _ => None,
        };
        let all = Part::value_variants();
        if self.only.is_empty() {
            let there = all.iter().filter(|part| missing(part).is_none());
            return Ok(there.copied().collect());
        }
        if let Some((part, what)) = self
            .only
            .iter()
            .find_map(|part| Some((part, missing(part)?)))
        {
            let name = format!("{part:?}").to_lowercase();
            bail!("--only: found {name}, expected other parts: the model has no {what}");
        }
        let asked = all.iter().filter(|part| self.only.contains(part));
        Ok(asked.copied().collect())
    }

    fn modes(&self, config: &Config) -> anyhow::Result<Vec<Mode>> {
        let asked: Vec<Mode> = self.modes.iter().map(|&name| name.into()).collect();
        if config.indexer.is_none() {
            if let Some(other) = asked.iter().find(|&&mode| mode != Mode::Dense) {
                bail!(
                    "--modes: found {}, expected dense: the model has no indexer",
                    other.name()
                );
            }
            return Ok(vec![Mode::Dense]);
        }
        let modes = Mode::ALL.into_iter();
        Ok(modes
            .filter(|mode| asked.is_empty() || asked.contains(mode))
            .collect())
    }

    /// The lengths asked for; else the default ones that the context holds, or all of a short one.
    fn lengths(&self, config: &Config) -> anyhow::Result<Vec<usize>> {
        let context = config.max_position_embeddings;
        let mut lengths = self.lengths.clone();
        if lengths.is_empty() {
            lengths = LENGTHS.into_iter().filter(|&n| n <= context).collect();
            if lengths.is_empty() {
                lengths.push(context);
            }
        }
        lengths.sort_unstable();
        lengths.dedup();
        for &length in &lengths {
            ensure!(
                (SHORTEST..=context).contains(&length),
                "--lengths: found {length}, expected {SHORTEST} to {context}, the model's context"
            );
        }
        Ok(lengths)
    }

    /// Each distance in the shortest length that holds it.
    fn cells(&self, lengths: &[usize]) -> anyhow::Result<Vec<Cell>> {
        let is_default = self.distances.is_empty();
        let mut distances = if is_default {
            DISTANCES.to_vec()
        } else {
            self.distances.clone()
        };
        distances.sort_unstable();
        distances.dedup();
        let mut found = Vec::new();
        for distance in distances {
            match cell(distance, lengths) {
                Some(cell) => found.push(cell),
                None if is_default => {}
                None => bail!(
                    "--distances: found {distance}, expected at most {}, what the longest of \
                     --lengths holds",
                    lengths.last().map_or(0, |&length| farthest(length))
                ),
            }
        }
        Ok(found)
    }
}
