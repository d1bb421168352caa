//! Sums of numbers below 100 that training never showed, with thinking and without.

use std::sync::Arc;

use engine::generate::{GenerateOptions, Generation, Progress, Stop};
use engine::sampler::Sampler;
use engine::tokenizer::Tokenizer;
use serde::Serialize;

use super::score::{Greedy, Share, boxed_number};
use super::{Eval, SUM_TOKENS};
use crate::Result;

/// The longest worked answer of the training text has about 60.
const MAX_TOKENS: usize = 96;

/// How many sums came out right.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SumScore {
    /// Whether the model was let think.
    pub thinking: bool,
    /// Answers whose last `\boxed{…}` holds the result.
    #[serde(flatten)]
    pub share: Share,
    /// Answers with a whole number in a box, right or wrong.
    pub boxed: u64,
    /// Answers that ended by themselves.
    pub ended: u64,
}

impl Eval<'_> {
    /// Asks `n` sums with thinking and without, decoded greedily as the model was made.
    ///
    /// # Errors
    /// A question that cannot be made, or a device that failed.
    pub fn sums(&mut self, tokenizer: &Arc<Tokenizer>, n: u64) -> Result<Option<[SumScore; 2]>> {
        let mut scores = [false, true].map(|thinking| SumScore {
            thinking,
            share: Share::default(),
            boxed: 0,
            ended: 0,
        });
        for score in &mut scores {
            for n in 0..n {
                let probe = self.corpus.sum_probe(self.seed, n, score.thinking)?;
                self.begin(self.native())?;
                let (text, has_ended) = self.completion(&probe.prompt, tokenizer)?;
                let found = boxed_number(&text);
                score.share.push(found == Some(probe.answer));
                score.boxed += u64::from(found.is_some());
                score.ended += u64::from(has_ended);
                if (self.progress)(SUM_TOKENS).is_break() {
                    return Ok(None);
                }
            }
        }
        Ok(Some(scores))
    }

    /// What the model says, and whether it came to an end.
    fn completion(&mut self, prompt: &[u32], tokenizer: &Arc<Tokenizer>) -> Result<(String, bool)> {
        let options = GenerateOptions {
            max_tokens: Some(MAX_TOKENS),
            stop_ids: self.session.model().eos_token_ids().to_vec(),
            ..GenerateOptions::default()
        };
        let sampler = Sampler::new(Greedy::options())?;
        let tokenizer = Some(tokenizer.clone());
        let mut generation = Generation::new(self.session, prompt, sampler, tokenizer, options)?;
        let mut text = String::new();
        loop {
            match generation.step(self.session)? {
                Progress::Prefill { .. } => {}
                Progress::Token(token) => text.push_str(&token.text),
                Progress::Done(finish) => {
                    text.push_str(&finish.text);
                    return Ok((text, matches!(finish.stop, Stop::EndOfText(_))));
                }
            }
        }
    }
}
