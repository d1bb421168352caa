//! What a model is worth, in numbers: likelihood of text, recall from afar, use of experts, sums, and
//! how well its indexer selects, each beside the controls that choose positions without looking.
//!
//! Everything here is a pure function of model, tokenizer, seed and sizes. Nothing is printed:
//! progress goes to a callback, which may break off; then a measurement is `None`.

mod balance;
mod likelihood;
mod mode;
mod recall;
pub mod score;
mod selection;
mod sums;
#[cfg(test)]
mod tests;

use std::ops::ControlFlow;

use engine::Session;

use crate::Result;
use crate::data::Corpus;

pub use balance::LayerBalance;
pub use likelihood::{ALL_TEXTS, Likelihood, TEXTS, Text, TextPlan, TextScores};
pub use mode::Mode;
pub use recall::{Cell, Questions, RecallScore, cell, farthest, questions};
pub use selection::LayerSelection;
pub use sums::SumScore;

/// A sum takes about as long as so many tokens of a prompt, since its tokens come one by one.
pub const SUM_TOKENS: u64 = 256;

/// Hears how many tokens were fed since the last call; breaks off if it wants to.
pub type Progress<'a> = &'a mut dyn FnMut(u64) -> ControlFlow<()>;

/// What the measurements share.
pub struct Eval<'a> {
    /// Makes questions and text.
    pub corpus: &'a Corpus,
    /// The model's timeline; each measurement begins it anew.
    pub session: &'a mut Session,
    /// Positions that a token may read; `None` if the model has no indexer and reads all.
    pub index_topk: Option<usize>,
    /// Chooses questions, text and the random control's positions.
    pub seed: u64,
    /// Hears how far it is.
    pub progress: Progress<'a>,
}

impl Eval<'_> {
    /// The mode that the model was made for.
    fn native(&self) -> Mode {
        match self.index_topk {
            Some(_) => Mode::Indexer,
            None => Mode::Dense,
        }
    }

    /// An empty timeline in this mode.
    fn begin(&mut self, mode: Mode) -> Result<()> {
        self.session.rewind(0)?;
        let options = mode.forward(self.index_topk, self.seed);
        Ok(self.session.set_forward(options)?)
    }

    /// Feeds `ids` for their traces in the caches alone.
    fn feed(&mut self, ids: &[u32]) -> Result<ControlFlow<()>> {
        for chunk in ids.chunks(self.session.chunk_tokens()) {
            self.session.advance_silent(chunk)?;
            if (self.progress)(chunk.len() as u64).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Feeds one chunk of `ids` and gives the logits of every row, row-major.
    fn logits(&mut self, ids: &[u32]) -> Result<Vec<f32>> {
        let output = self.session.advance_all(ids)?;
        let logits = output.logits.expect("logits of all rows were asked for");
        Ok(logits.read()?)
    }
}
