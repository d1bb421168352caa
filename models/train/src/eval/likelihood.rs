//! Perplexity on held-out text, in every mode on the same tokens, and the routes taken meanwhile.

use rayon::prelude::*;
use serde::Serialize;

use super::balance::{self, LayerBalance, Loads};
use super::score::{Tally, surprise};
use super::{Eval, Mode};
use crate::Result;
use crate::data::{Mixture, Split};

/// A sort of held-out text.
#[derive(Debug)]
pub struct Text {
    /// Its name in tables.
    pub name: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    /// Kinds of text and their weights.
    kinds: &'static [(&'static str, f64)],
    /// Whether a folder with real texts is needed.
    pub is_real: bool,
}

impl Text {
    fn mixture(&self) -> Mixture {
        let kinds = self.kinds.iter();
        kinds.map(|&(kind, weight)| (kind.into(), weight)).collect()
    }
}

/// Every sort of text, each measured alone: what is needed from afar differs between them.
pub const TEXTS: &[Text] = &[
    Text {
        name: "stories",
        about: "short stories from templates",
        kinds: &[("story", 1.0)],
        is_real: false,
    },
    Text {
        name: "facts",
        about: "facts, and questions about them near and far",
        kinds: &[("recall", 1.0)],
        is_real: false,
    },
    Text {
        name: "talk",
        about: "conversations and sums, where the model's part counts",
        kinds: &[("chat", 0.75), ("sums", 0.25)],
        is_real: false,
    },
    Text {
        name: "real",
        about: "real stories for children and tales",
        kinds: &[("children", 0.7), ("tales", 0.3)],
        is_real: true,
    },
];

/// What the lines for all texts together are named.
pub const ALL_TEXTS: &str = "all";

/// What is measured on texts.
#[derive(Clone, Debug)]
pub struct TextPlan<'a> {
    /// Sorts of text.
    pub texts: Vec<&'static Text>,
    /// Tokens of a sequence; each length is measured alone.
    pub lengths: &'a [usize],
    /// Sequences of each sort and length.
    pub n_sequences: u64,
    /// Modes whose perplexity is measured.
    pub modes: &'a [Mode],
    /// Whether routes are counted, in the mode that the model is made for.
    pub counts_routes: bool,
}

impl TextPlan<'_> {
    /// Tokens that will be fed to a model whose own mode is `native`.
    fn n_tokens(&self, native: Mode) -> u64 {
        let n_passes = self.passes(native).len() as u64;
        let per_text: u64 = self.lengths.iter().map(|&length| length as u64 - 1).sum();
        per_text * n_passes * self.n_sequences * self.texts.len() as u64
    }

    fn passes(&self, native: Mode) -> Vec<Mode> {
        let mut passes = self.modes.to_vec();
        if self.counts_routes && !passes.contains(&native) {
            passes.push(native);
        }
        passes
    }
}

/// Perplexity of a text in a mode.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Likelihood {
    /// Name of the text, or [`ALL_TEXTS`].
    pub text: &'static str,
    /// Tokens of a sequence.
    pub length: usize,
    /// Way of attention.
    pub attention: Mode,
    /// Every target.
    pub all: Tally,
    /// Those whose token before sees more than `index_topk` positions: only there do modes differ in
    /// what that token reads.
    pub beyond_topk: Tally,
}

/// What was measured on texts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TextScores {
    /// By length, then text, then mode; all texts together come last of a length.
    pub likelihoods: Vec<Likelihood>,
    /// By layer; empty if routes were not counted.
    pub balance: Vec<LayerBalance>,
}

impl Eval<'_> {
    /// Tokens that [`Eval::texts`] will feed.
    pub fn text_tokens(&self, plan: &TextPlan) -> u64 {
        plan.n_tokens(self.native())
    }

    /// Measures perplexity and counts routes.
    ///
    /// # Errors
    /// A text that cannot be made, a mode that device or model do not have, broken logits.
    pub fn texts(&mut self, plan: &TextPlan) -> Result<Option<TextScores>> {
        let native = self.native();
        let passes = plan.passes(native);
        let mut scores = TextScores::default();
        let mut loads = Loads::default();
        for &length in plan.lengths {
            let mut sums = vec![(Tally::default(), Tally::default()); plan.modes.len()];
            for text in &plan.texts {
                let mut tallies = vec![(Tally::default(), Tally::default()); passes.len()];
                for n in 0..plan.n_sequences {
                    let mixture = text.mixture();
                    let sequence =
                        self.corpus
                            .sequence(&mixture, Split::Validation, self.seed, n, length)?;
                    for (&mode, tally) in passes.iter().zip(&mut tallies) {
                        let is_counted = plan.counts_routes && mode == native;
                        self.begin(mode)?;
                        if is_counted {
                            self.session.record_routes()?;
                        }
                        let is_scored = plan.modes.contains(&mode);
                        let Some((all, beyond)) =
                            self.pass(&sequence.ids, &sequence.loss, is_scored)?
                        else {
                            self.session.take_routes();
                            return Ok(None);
                        };
                        tally.0.add(all);
                        tally.1.add(beyond);
                        if let Some(routes) = self.session.take_routes() {
                            loads.count(&routes);
                        }
                    }
                }
                let scored = plan.modes.iter().zip(&tallies).zip(&mut sums);
                for ((&mode, &(all, beyond)), sum) in scored {
                    sum.0.add(all);
                    sum.1.add(beyond);
                    scores.likelihoods.push(Likelihood {
                        text: text.name,
                        length,
                        attention: mode,
                        all,
                        beyond_topk: beyond,
                    });
                }
            }
            for (&mode, (all, beyond)) in plan.modes.iter().zip(sums) {
                scores.likelihoods.push(Likelihood {
                    text: ALL_TEXTS,
                    length,
                    attention: mode,
                    all,
                    beyond_topk: beyond,
                });
            }
        }
        scores.balance = balance::of(&loads);
        Ok(Some(scores))
    }

    /// Feeds a sequence and tells how surprising its targets are: all, and those beyond `index_topk`.
    fn pass(
        &mut self,
        ids: &[u32],
        is_target: &[bool],
        is_scored: bool,
    ) -> Result<Option<(Tally, Tally)>> {
        let (mut all, mut beyond) = (Tally::default(), Tally::default());
        // Nothing follows the last token.
        let fed = &ids[..ids.len() - 1];
        if !is_scored {
            let flow = self.feed(fed)?;
            return Ok(flow.is_continue().then_some((all, beyond)));
        }
        for chunk in fed.chunks(self.session.chunk_tokens()) {
            let first = self.session.position();
            let logits = self.logits(chunk)?;
            let width = logits.len() / chunk.len();
            let surprises = logits
                .par_chunks_exact(width)
                .enumerate()
                .map(|(row, logits)| {
                    let position = first + row;
                    let target = position + 1;
                    is_target[target]
                        .then(|| surprise(logits, position, ids[target]))
                        .transpose()
                })
                .collect::<Result<Vec<_>>>()?;
            // One after the other, so that a sum does not depend on threads.
            for (row, nats) in surprises.into_iter().enumerate() {
                let Some(nats) = nats else { continue };
                all.push(nats);
                if self.index_topk.is_some_and(|k| first + row >= k) {
                    beyond.push(nats);
                }
            }
            if (self.progress)(chunk.len() as u64).is_break() {
                return Ok(None);
            }
        }
        Ok(Some((all, beyond)))
    }
}
