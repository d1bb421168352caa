//! Whether a fact told long ago is found again, by distance and way of attention.

use std::collections::BTreeMap;

use rayon::prelude::*;
use serde::Serialize;

use super::score::{Greedy, Share};
use super::{Eval, Mode};
use crate::Result;
use crate::data::{Corpus, Probe};

/// Tokens kept free for the answer, so that question and answer fit together.
const ANSWER_TOKENS: usize = 16;

/// Tokens that a question needs beyond its distance: the fact itself and a sentence before it.
const QUESTION_TOKENS: usize = 64;

/// One line of the result: questions of one distance in one length of context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// Tokens from the fact's value to the end of the question.
    pub distance: usize,
    /// Tokens of question and answer at most.
    pub length: usize,
}

/// The longest distance that texts of `length` tokens hold.
pub fn farthest(length: usize) -> usize {
    length.saturating_sub(ANSWER_TOKENS + QUESTION_TOKENS)
}

/// A distance in the shortest length that holds it; `None` if none does.
pub fn cell(distance: usize, lengths: &[usize]) -> Option<Cell> {
    let fitting = lengths
        .iter()
        .filter(|&&length| distance <= farthest(length));
    let length = *fitting.min()?;
    Some(Cell { distance, length })
}

/// A cell with its questions.
pub struct Questions {
    cell: Cell,
    probes: Vec<Probe>,
}

/// `n` questions for each cell, made before any is asked: what cannot be is found at once.
///
/// # Errors
/// A distance that is too short for a question.
pub fn questions(corpus: &Corpus, cells: &[Cell], n: u64, seed: u64) -> Result<Vec<Questions>> {
    let of = |&cell: &Cell| {
        let context = cell.length.saturating_sub(ANSWER_TOKENS);
        let probes = (0..n).into_par_iter();
        let probes = probes.map(|n| corpus.recall_probe(seed, n, cell.distance, context));
        Ok(Questions {
            cell,
            probes: probes.collect::<Result<_>>()?,
        })
    };
    cells.iter().map(of).collect()
}

/// How many questions of a cell were answered in a mode.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RecallScore {
    /// Asked for.
    pub distance: usize,
    /// Tokens of question and answer at most.
    pub length: usize,
    /// Way of attention.
    pub attention: Mode,
    /// Answers that greedy decoding gives token by token.
    #[serde(flatten)]
    pub share: Share,
    /// The same by what is asked for.
    pub by_kind: BTreeMap<&'static str, Share>,
}

impl Eval<'_> {
    /// Asks each question in each mode.
    ///
    /// # Errors
    /// A mode that device or model do not have, broken logits.
    pub fn recall(
        &mut self,
        questions: &[Questions],
        modes: &[Mode],
    ) -> Result<Option<Vec<RecallScore>>> {
        let mut greedy = Greedy::new()?;
        let mut scores = Vec::new();
        for Questions { cell, probes } in questions {
            let of = |&attention: &Mode| RecallScore {
                distance: cell.distance,
                length: cell.length,
                attention,
                share: Share::default(),
                by_kind: BTreeMap::new(),
            };
            let mut cell_scores: Vec<_> = modes.iter().map(of).collect();
            for probe in probes {
                for score in &mut cell_scores {
                    let mode = score.attention;
                    let right = self.answers(mode, &probe.prompt, &probe.answer, &mut greedy)?;
                    let Some(right) = right else {
                        return Ok(None);
                    };
                    score.share.push(right);
                    score.by_kind.entry(probe.asks_for).or_default().push(right);
                }
            }
            scores.extend(cell_scores);
        }
        Ok(Some(scores))
    }

    /// Whether greedy decoding after `prompt` gives `answer`. With the answer fed along, its tokens
    /// are the best ones of their rows exactly if decoding would give them: up to the first that is
    /// not, both have seen the same.
    pub(super) fn answers(
        &mut self,
        mode: Mode,
        prompt: &[u32],
        answer: &[u32],
        greedy: &mut Greedy,
    ) -> Result<Option<bool>> {
        let mut ids = prompt.to_vec();
        ids.extend(&answer[..answer.len() - 1]);
        let (before, rows) = ids.split_at(ids.len() - answer.len());
        self.begin(mode)?;
        if self.feed(before)?.is_break() {
            return Ok(None);
        }
        let logits = self.logits(rows)?;
        let width = logits.len() / rows.len();
        let mut is_right = true;
        for (row, (logits, &id)) in logits.chunks_exact(width).zip(answer).enumerate() {
            is_right &= greedy.pick(logits, prompt.len() + row)? == id;
        }
        let flow = (self.progress)(rows.len() as u64);
        Ok(flow.is_continue().then_some(is_right))
    }
}
