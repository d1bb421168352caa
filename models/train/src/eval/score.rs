//! How single results become figures: likelihoods, shares with their uncertainty, boxed answers.

use engine::sampler::{Sampler, SamplerOptions, Seen};
use serde::Serialize;

use crate::Result;

/// Takes the best token, exactly as greedy decoding does, ties and broken logits included.
pub struct Greedy {
    sampler: Sampler,
    unseen: Seen,
}

impl Greedy {
    /// Ready to choose.
    ///
    /// # Errors
    /// None that a caller could cause.
    pub fn new() -> Result<Self> {
        Ok(Self {
            sampler: Sampler::new(Self::options())?,
            unseen: Seen::new(),
        })
    }

    /// The options that make a sampler greedy.
    pub fn options() -> SamplerOptions {
        SamplerOptions {
            temperature: 0.0,
            ..SamplerOptions::default()
        }
    }

    /// The token that greedy decoding puts at `position`.
    ///
    /// # Errors
    /// [`engine::Error::BadLogits`] at a NaN or +inf, or if all are −inf.
    pub fn pick(&mut self, logits: &[f32], position: usize) -> Result<u32> {
        Ok(self.sampler.pick(logits, position, &self.unseen)?.id)
    }
}

/// −ln of the probability that `logits`, which follow the token at `position`, give token `id`.
///
/// # Errors
/// [`engine::Error::BadLogits`] at a NaN or +inf, or if all are −inf; [`engine::Error::UnknownToken`]
/// for an id outside the vocabulary.
pub fn surprise(logits: &[f32], position: usize, id: u32) -> Result<f64> {
    let vocab_size = logits.len();
    let Some(&logit) = logits.get(id as usize) else {
        return Err(engine::Error::UnknownToken { id, vocab_size }.into());
    };
    let bad = |id: usize| engine::Error::BadLogits {
        position,
        id,
        value: logits[id],
    };
    let is_bad = |logit: &f32| logit.is_nan() || *logit == f32::INFINITY;
    if let Some(id) = logits.iter().position(is_bad) {
        return Err(bad(id).into());
    }
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if max == f32::NEG_INFINITY {
        return Err(bad(0).into());
    }
    let sum: f64 = logits
        .iter()
        .map(|&logit| f64::from(logit - max).exp())
        .sum();
    Ok(sum.ln() - f64::from(logit - max))
}

/// The surprise of some targets together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(into = "TallyDocument")]
pub struct Tally {
    /// How many there are.
    pub n_targets: u64,
    /// −ln of their probability, all together.
    pub nats: f64,
}

#[derive(Serialize)]
struct TallyDocument {
    targets: u64,
    perplexity: Option<f64>,
}

impl From<Tally> for TallyDocument {
    fn from(tally: Tally) -> Self {
        Self {
            targets: tally.n_targets,
            perplexity: tally.perplexity(),
        }
    }
}

impl Tally {
    /// One target more.
    pub fn push(&mut self, nats: f64) {
        self.n_targets += 1;
        self.nats += nats;
    }

    /// Another tally's targets too.
    pub fn add(&mut self, other: Self) {
        self.n_targets += other.n_targets;
        self.nats += other.nats;
    }

    /// Perplexity per target; none without targets.
    pub fn perplexity(&self) -> Option<f64> {
        (self.n_targets > 0).then(|| (self.nats / self.n_targets as f64).exp())
    }
}

/// How many of how many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(into = "ShareDocument")]
pub struct Share {
    /// Those that are right.
    pub n_right: u64,
    /// All.
    pub n: u64,
}

#[derive(Serialize)]
struct ShareDocument {
    right: u64,
    of: u64,
    interval_95: [f64; 2],
}

impl From<Share> for ShareDocument {
    fn from(share: Share) -> Self {
        let (low, high) = share.wilson();
        Self {
            right: share.n_right,
            of: share.n,
            interval_95: [low, high],
        }
    }
}

/// The normal distribution's 97.5 % quantile: 95 % lie within so many standard deviations.
const Z_95: f64 = 1.959_963_984_540_054;

impl Share {
    /// One case more.
    pub fn push(&mut self, is_right: bool) {
        self.n += 1;
        self.n_right += u64::from(is_right);
    }

    /// Another share's cases too.
    pub fn add(&mut self, other: Self) {
        self.n += other.n;
        self.n_right += other.n_right;
    }

    /// Wilson's 95 % interval for the probability behind it, which holds at 0 and at all of them too.
    /// Without any case it is 0 to 1.
    pub fn wilson(&self) -> (f64, f64) {
        if self.n == 0 {
            return (0.0, 1.0);
        }
        let n = self.n as f64;
        let p = self.n_right as f64 / n;
        let z2 = Z_95 * Z_95;
        let middle = p + z2 / (2.0 * n);
        let half = Z_95 * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
        let scale = 1.0 + z2 / n;
        // Rounding must not leave 0..1.
        let low = ((middle - half) / scale).max(0.0);
        (low, ((middle + half) / scale).min(1.0))
    }
}

/// The whole number in the last `\boxed{…}`; `None` if there is no box or something else in it.
pub fn boxed_number(text: &str) -> Option<i64> {
    engine::chat::boxed_answer(text)?.trim().parse().ok()
}
