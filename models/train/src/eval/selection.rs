//! How much of the dense attention falls on the positions that the indexer would choose.
//!
//! Attention is dense, so that the weights are those of a model that saw everything; the indexer's
//! scores of the same token say what it would have read. This is what its training aims at.

use engine::selection::top_k;
use engine::trace::{Frame, Stage, Watch};
use serde::Serialize;

use super::{Eval, Mode};
use crate::Result;
use crate::data::{Mixture, Split};

/// Tokens that are looked at in a sequence, evenly spread over those that see more than they read.
const LOOKS: usize = 16;

/// Shares of the dense attention in a layer, mean over heads and tokens.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerSelection {
    /// Layer, from 0.
    pub layer: usize,
    /// On the positions that the indexer scores best.
    pub indexer: f64,
    /// On the best positions there are: no selection of as many has more.
    pub best: f64,
    /// On as many drawn by lot, by expectation.
    pub random: f64,
    /// On the last ones.
    pub recent: f64,
}

#[derive(Clone, Default)]
struct Sum {
    n: usize,
    indexer: f64,
    best: f64,
    random: f64,
    recent: f64,
}

impl Eval<'_> {
    /// Tokens that [`Eval::selection`] will feed.
    pub fn selection_tokens(&self, length: usize, n_sequences: u64) -> u64 {
        length as u64 * n_sequences
    }

    /// Looks at `n_sequences` texts of facts, each of `length` tokens; by layer, without those that
    /// have no indexer's scores. Empty if the model has no indexer or no token sees more than it reads.
    ///
    /// # Errors
    /// A text that cannot be made, or a device that failed.
    pub fn selection(
        &mut self,
        length: usize,
        n_sequences: u64,
    ) -> Result<Option<Vec<LayerSelection>>> {
        let Some(k) = self.index_topk.filter(|&k| k < length) else {
            return Ok(Some(Vec::new()));
        };
        let looks: Vec<usize> = {
            let n = LOOKS.min(length - k);
            (1..=n).map(|i| k + (length - k) * i / n - 1).collect()
        };
        let n_layers = self.session.model().config().num_hidden_layers;
        let mut sums = vec![Sum::default(); n_layers];
        let mixture = Mixture::from([("recall".into(), 1.0)]);
        for n in 0..n_sequences {
            let split = Split::Validation;
            let sequence = self
                .corpus
                .sequence(&mixture, split, self.seed, n, length)?;
            self.begin(Mode::Dense)?;
            for &position in &looks {
                let from = self.session.position();
                if self.feed(&sequence.ids[from..position])?.is_break() {
                    return Ok(None);
                }
                let frame = self.look(sequence.ids[position])?;
                if (self.progress)(1).is_break() {
                    return Ok(None);
                }
                count(&frame, k, &mut sums)?;
            }
        }
        let layers = sums.iter().enumerate().filter(|(_, sum)| sum.n > 0);
        let layers = layers.map(|(layer, sum)| {
            let n = sum.n as f64;
            LayerSelection {
                layer,
                indexer: sum.indexer / n,
                best: sum.best / n,
                random: sum.random / n,
                recent: sum.recent / n,
            }
        });
        Ok(Some(layers.collect()))
    }

    /// Feeds one token and tells what it looked at.
    fn look(&mut self, id: u32) -> Result<Frame> {
        self.session.watch(Watch {
            stages: [Stage::IndexScores, Stage::AttentionMean].into(),
            ..Watch::default()
        });
        let output = self.session.advance_all(&[id]);
        self.session.watch(Watch::default());
        let frame = self.session.take_frames().pop();
        output?;
        Ok(frame.expect("a watched step leaves a frame"))
    }
}

/// Adds the layers of a token. Layers without an indexer of their own go by the scores of the last one
/// that has one, as they do when they select.
fn count(frame: &Frame, k: usize, sums: &mut [Sum]) -> Result<()> {
    let mut scores = None;
    for (layer, sum) in sums.iter_mut().enumerate() {
        let floats = |stage| frame.get(layer, stage)?.floats();
        scores = floats(Stage::IndexScores).or(scores);
        let (Some(scores), Some(weights)) = (scores, floats(Stage::AttentionMean)) else {
            continue;
        };
        if scores.iter().any(|score| score.is_nan()) {
            let position = frame.position;
            return Err(engine::Error::NanScores { position }.into());
        }
        let mass = |positions: &[i32]| -> f64 {
            let chosen = positions.iter().filter(|&&position| position >= 0);
            chosen.map(|&at| f64::from(weights[at as usize])).sum()
        };
        sum.n += 1;
        sum.indexer += mass(&top_k(scores, k));
        sum.best += mass(&top_k(weights, k));
        sum.random += k.min(weights.len()) as f64 / weights.len() as f64;
        let recent = &weights[weights.len().saturating_sub(k)..];
        sum.recent += recent.iter().map(|&weight| f64::from(weight)).sum::<f64>();
    }
    Ok(())
}
