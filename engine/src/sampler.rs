//! From the logits of one position to one token: penalties, temperature, truncation, the draw.
//!
//! The order of operations is fixed: penalties, temperature, top-k, top-p, min-p, draw. Equal
//! scores rank by lower id. A draw depends on nothing but the logits, the options and the position
//! of the drawn token, so going back and drawing again gives the same token, and there is no random
//! state to save. All arithmetic is plain IEEE `f64` in a fixed order with an exponential of our
//! own, so the ids are the same on every machine. When to stop is the business of [`crate::stop`],
//! keeping masks that of [`crate::replay`].

use std::collections::BTreeMap;

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::error::{Error, Result};

/// How tokens are chosen. Fields at their neutral value cost nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplerOptions {
    /// Divides the scores. 0 is greedy: the best token after penalties, without any draw, whatever
    /// the truncation says. There is no other switch for greedy.
    pub temperature: f64,
    /// Keeps the fewest best tokens that together have at least this probability, above 0 to 1.
    /// 1 keeps all. Probabilities are those after top-k.
    pub top_p: f64,
    /// Keeps this many best tokens, exactly. 0 keeps all.
    pub top_k: usize,
    /// Keeps tokens with at least this share of the best token's probability, 0 to 1. 0 keeps all.
    pub min_p: f64,
    /// Positive scores of tokens seen in prompt or output are divided by it, the others multiplied,
    /// as in transformers. 1 is neutral.
    pub repetition_penalty: f64,
    /// Taken off the score of each generated token (prompt excluded), as in OpenAI's API and vLLM.
    /// 0 is neutral.
    pub presence_penalty: f64,
    /// Taken off the score of a generated token (prompt excluded) once for each time it was
    /// generated, as in OpenAI's API and vLLM. 0 is neutral.
    pub frequency_penalty: f64,
    /// Chooses the random stream.
    pub seed: u64,
    /// How many best tokens [`Picked::top`] lists, and [`Picked::draws`] with it.
    pub n_logprobs: usize,
    /// Whether [`Picked::kept`] is filled, for Keep Sampling Mask.
    pub keep_mask: bool,
}

impl Default for SamplerOptions {
    /// Temperature 1 and top-p 0.95, as the model's makers advise; everything else neutral.
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 0.95,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed: 0,
            n_logprobs: 0,
            keep_mask: false,
        }
    }
}

impl SamplerOptions {
    /// Refuses the first option outside its range with [`Error::Setting`].
    pub fn check(&self) -> Result<()> {
        within("temperature", self.temperature, 0.0, UNBOUNDED)?;
        within("top_p", self.top_p, ABOVE_0, 1.0)?;
        within("min_p", self.min_p, 0.0, 1.0)?;
        within(
            "repetition_penalty",
            self.repetition_penalty,
            ABOVE_0,
            UNBOUNDED,
        )?;
        within("presence_penalty", self.presence_penalty, -2.0, 2.0)?;
        within("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
    }

    /// Whether the best token is taken without a draw: temperature 0.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }

    fn penalises(&self) -> bool {
        self.repetition_penalty != 1.0
            || self.presence_penalty != 0.0
            || self.frequency_penalty != 0.0
    }
}

const ABOVE_0: f64 = f64::MIN_POSITIVE;
const UNBOUNDED: f64 = f64::MAX;

fn within(name: &str, found: f64, min: f64, max: f64) -> Result<()> {
    // A NaN lies in no range.
    if (min..=max).contains(&found) {
        return Ok(());
    }
    let from = if min == ABOVE_0 {
        "above 0".into()
    } else {
        format!("from {min}")
    };
    let to = if max == UNBOUNDED {
        String::new()
    } else {
        format!(" to {max}")
    };
    Err(Error::Setting {
        name: name.into(),
        found: found.to_string(),
        expected: format!("a number {from}{to}"),
    })
}

/// The tokens of one timeline, counted for the penalties: prompt and output apart.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    tokens: Vec<(u32, Source)>,
    counts: BTreeMap<u32, Count>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Source {
    Prompt,
    Output,
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    prompt: u32,
    output: u32,
}

impl Count {
    fn of(&mut self, source: Source) -> &mut u32 {
        match source {
            Source::Prompt => &mut self.prompt,
            Source::Output => &mut self.output,
        }
    }
}

impl Seen {
    /// Nothing seen.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds tokens that the model was given.
    pub fn push_prompt(&mut self, ids: &[u32]) {
        for &id in ids {
            self.push(id, Source::Prompt);
        }
    }

    /// Adds a token that the model chose.
    pub fn push_output(&mut self, id: u32) {
        self.push(id, Source::Output);
    }

    fn push(&mut self, id: u32, source: Source) {
        self.tokens.push((id, source));
        *self.counts.entry(id).or_default().of(source) += 1;
    }

    /// Forgets the tokens from `position` on, for going back.
    pub fn truncate(&mut self, position: usize) {
        for (id, source) in self.tokens.drain(position.min(self.tokens.len())..) {
            let count = self
                .counts
                .get_mut(&id)
                .expect("every token in the list is counted");
            *count.of(source) -= 1;
            if count.prompt + count.output == 0 {
                self.counts.remove(&id);
            }
        }
    }

    /// How many tokens were added: the position of the next one.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether no token was added.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }
}

/// A chosen token and how likely it was.
#[derive(Clone, Debug, PartialEq)]
pub struct Picked {
    /// The token.
    pub id: u32,
    /// Natural log of the model's own probability: log-softmax of the raw logits, before penalties,
    /// temperature and truncation.
    pub logprob: f32,
    /// Natural log of the probability that this draw gave the token, after penalties, temperature
    /// and truncation: π_old of a training step that replays the mask. 0 when greedy.
    pub draw_logprob: f32,
    /// The [`SamplerOptions::n_logprobs`] best tokens by raw logit, best first, each with its
    /// log-probability as in [`Picked::logprob`]. Tokens with logit −inf are left out.
    pub top: Vec<(u32, f32)>,
    /// For each of [`Picked::top`] the probability that this draw gave it, after penalties,
    /// temperature and truncation: 0 if it was truncated away; when greedy, 1 for the token taken.
    pub draws: Vec<f32>,
    /// How many tokens could be drawn; `None` where a device drew by itself, which does not count them.
    pub n_kept: Option<usize>,
    /// Ascending ids of the tokens that could be drawn, if [`SamplerOptions::keep_mask`] asks.
    pub kept: Option<Vec<u32>>,
}

/// A draw that a GPU can make by itself, so that one id comes back instead of all logits. It computes
/// in `f32`: where a draw falls within some 1e-6 of a boundary, it may take the neighbour of the token
/// that [`Sampler::pick`] takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DeviceDraw {
    /// As in [`SamplerOptions::temperature`]; 0 is greedy.
    pub temperature: f64,
    /// As in [`SamplerOptions::top_p`].
    pub top_p: f64,
    /// The drawn number, from 0 to below 1.
    pub uniform: f64,
}

/// Chooses tokens. Same options, logits and position: same token.
#[derive(Clone, Debug)]
pub struct Sampler {
    options: SamplerOptions,
    random: ChaCha20Rng,
    // What follows is scratch, kept so that a pick allocates nothing of the vocabulary's size.
    scores: Vec<f32>,       // [vocab_size], logits after penalties
    weights: Vec<f64>,      // [vocab_size], probabilities up to a common factor
    ranks: Vec<u64>,        // [at most vocab_size]
    kept: Vec<u32>,         // [at most vocab_size], ascending ids that can be drawn
    kept_weights: Vec<f64>, // [kept]
}

impl Sampler {
    /// A sampler for `options`, or the error of [`SamplerOptions::check`].
    pub fn new(options: SamplerOptions) -> Result<Self> {
        options.check()?;
        // Spelled out, for `seed_from_u64` may hash differently in a later version.
        let mut key = [0; 32];
        key[..8].copy_from_slice(&options.seed.to_le_bytes());
        Ok(Self {
            options,
            random: ChaCha20Rng::from_seed(key),
            scores: Vec::new(),
            weights: Vec::new(),
            ranks: Vec::new(),
            kept: Vec::new(),
            kept_weights: Vec::new(),
        })
    }

    /// What this sampler was made with.
    pub fn options(&self) -> &SamplerOptions {
        &self.options
    }

    /// The draw for `position` as a GPU can make it; `None` where the options ask for more than
    /// temperature and top-p.
    pub fn device_draw(&mut self, position: usize) -> Option<DeviceDraw> {
        let options = &self.options;
        let is_plain = !options.penalises()
            && options.top_k == 0
            && options.min_p == 0.0
            && options.n_logprobs == 0
            && !options.keep_mask;
        let (temperature, top_p) = (options.temperature, options.top_p);
        is_plain.then(|| DeviceDraw {
            temperature,
            top_p,
            uniform: self.uniform(position),
        })
    }

    /// Chooses the token at `position` (the number of tokens before it) from `logits` of
    /// `[vocab_size]`. A logit of −inf is a token that cannot come.
    ///
    /// # Errors
    /// [`Error::BadLogits`] at a NaN or +inf, or if all are −inf. [`Error::UnknownToken`] if a
    /// penalty meets a seen token outside the vocabulary.
    pub fn pick(&mut self, logits: &[f32], position: usize, seen: &Seen) -> Result<Picked> {
        let total = self.read(logits, position, seen)?;
        if self.options.is_greedy() {
            self.keep_best(0..logits.len() as u32);
        } else {
            self.truncate();
        }
        Ok(self.finish(logits, position, &total))
    }

    /// As [`Sampler::pick`], but chooses among the ids of `mask` (ascending) and does not truncate:
    /// Keep Sampling Mask. With the mask that [`Sampler::pick`] kept, the token is the same.
    ///
    /// # Errors
    /// Those of [`Sampler::pick`]; [`Error::Replay`] for a mask that is empty or not ascending;
    /// [`Error::UnknownToken`] for one that leaves the vocabulary; [`Error::BadLogits`] if all its
    /// tokens have logit −inf.
    pub fn pick_masked(
        &mut self,
        logits: &[f32],
        position: usize,
        seen: &Seen,
        mask: &[u32],
    ) -> Result<Picked> {
        check_mask(mask, logits.len(), position)?;
        let total = self.read(logits, position, seen)?;
        if mask
            .iter()
            .all(|&id| logits[id as usize] == f32::NEG_INFINITY)
        {
            return Err(bad_logits(logits, position, mask[0] as usize));
        }
        if self.options.is_greedy() {
            self.keep_best(mask.iter().copied());
        } else {
            let max = largest(mask.iter().map(|&id| self.scores[id as usize]));
            self.kept.clear();
            self.kept_weights.clear();
            for &id in mask {
                let weight = weight(self.scores[id as usize], max, self.options.temperature);
                if weight > 0.0 {
                    self.kept.push(id);
                    self.kept_weights.push(weight);
                }
            }
        }
        Ok(self.finish(logits, position, &total))
    }

    /// Checks the logits, leaves them with penalties in `scores`, and measures the raw ones.
    fn read(&mut self, logits: &[f32], position: usize, seen: &Seen) -> Result<LogTotal> {
        assert!(
            !logits.is_empty(),
            "the head of a model gives one logit a token, not none"
        );
        // A NaN is not below infinity either. First without looking where: that vectorises.
        if !logits
            .iter()
            .fold(true, |good, &logit| good & (logit < f32::INFINITY))
        {
            let id = logits
                .iter()
                .position(|&logit| logit.is_nan() || logit == f32::INFINITY);
            return Err(bad_logits(logits, position, id.expect("one was just seen")));
        }
        let max = largest(logits.iter().copied());
        if max == f32::NEG_INFINITY {
            return Err(bad_logits(logits, position, 0));
        }
        weigh(logits, max, 1.0, &mut self.weights);
        let total = LogTotal {
            max: max.into(),
            log_sum: sum(&self.weights).ln(),
        };

        self.scores.clear();
        self.scores.extend_from_slice(logits);
        if self.options.penalises() {
            self.penalise(seen)?;
        }
        Ok(total)
    }

    fn penalise(&mut self, seen: &Seen) -> Result<()> {
        let SamplerOptions {
            repetition_penalty,
            presence_penalty,
            frequency_penalty,
            ..
        } = self.options;
        let vocab_size = self.scores.len();
        for (&id, count) in &seen.counts {
            let Some(place) = self.scores.get_mut(id as usize) else {
                return Err(Error::UnknownToken { id, vocab_size });
            };
            if *place == f32::NEG_INFINITY {
                continue;
            }
            let mut score = f64::from(*place);
            score = if score > 0.0 {
                score / repetition_penalty
            } else {
                score * repetition_penalty
            };
            if count.output > 0 {
                score -= presence_penalty + frequency_penalty * f64::from(count.output);
            }
            // An extreme penalty must make neither +inf nor an impossible token.
            *place = score.clamp(f32::MIN.into(), f32::MAX.into()) as f32;
        }
        Ok(())
    }

    /// Leaves the best of `ids`, at a tie the first, as the only choice.
    fn keep_best(&mut self, ids: impl Iterator<Item = u32>) {
        let best = ids.map(|id| rank(self.scores[id as usize], id)).max();
        self.kept = vec![id_of(best.expect("neither logits nor masks are empty"))];
        self.kept_weights = vec![1.0];
    }

    /// Temperature, top-k, top-p, min-p: from `scores` to `kept` and `kept_weights`.
    fn truncate(&mut self) {
        let SamplerOptions {
            temperature,
            top_p,
            top_k,
            min_p,
            ..
        } = self.options;
        let vocab_size = self.scores.len();
        if temperature != 1.0 || self.options.penalises() {
            let max = largest(self.scores.iter().copied());
            weigh(&self.scores, max, temperature, &mut self.weights);
        }
        if (1..vocab_size).contains(&top_k) {
            rank_all(&self.scores, &mut self.ranks);
            let worst = *self.ranks.select_nth_unstable(vocab_size - top_k).1;
            for ((id, &score), weight) in (0..).zip(&self.scores).zip(&mut self.weights) {
                if rank(score, id) < worst {
                    *weight = 0.0;
                }
            }
        }

        // The best token weighs 1, so a weight is its share of the best probability. What is
        // lighter than `tail` weighs, all together, at most half of what top-p leaves out: throwing
        // it away first changes nothing and leaves little to sort.
        let total = sum(&self.weights);
        let tail = (1.0 - top_p) * total / (2 * vocab_size) as f64;
        let least = f64::MIN_POSITIVE.max(min_p).max(tail);
        self.kept.clear();
        for (id, &weight) in (0..).zip(&self.weights) {
            if weight >= least {
                self.kept.push(id);
            }
        }
        if top_p < 1.0 {
            self.ranks.clear();
            self.ranks.extend(
                self.kept
                    .iter()
                    .map(|&id| rank(self.scores[id as usize], id)),
            );
            self.ranks.sort_unstable_by(|a, b| b.cmp(a));
            let mut reached = 0.0;
            let last = self.ranks.iter().find(|&&rank| {
                reached += self.weights[id_of(rank) as usize];
                reached >= top_p * total
            });
            // Not reached if min-p has thrown away more than top-p would, or by a rounding.
            if let Some(&last) = last {
                self.kept
                    .retain(|&id| rank(self.scores[id as usize], id) >= last);
            }
        }
        self.kept_weights.clear();
        self.kept_weights
            .extend(self.kept.iter().map(|&id| self.weights[id as usize]));
    }

    /// Draws from `kept` and gathers what was asked for.
    fn finish(&mut self, logits: &[f32], position: usize, total: &LogTotal) -> Picked {
        let kept_total: f64 = self.kept_weights.iter().sum();
        let chosen = self.draw(kept_total, position);
        let id = self.kept[chosen];
        let top = self.best(logits, total);
        let draw = |id: u32| match self.kept.binary_search(&id) {
            Ok(at) => (self.kept_weights[at] / kept_total) as f32,
            Err(_) => 0.0,
        };
        Picked {
            id,
            logprob: total.logprob(logits[id as usize]),
            draw_logprob: (self.kept_weights[chosen].ln() - kept_total.ln()) as f32,
            draws: top.iter().map(|&(id, _)| draw(id)).collect(),
            top,
            n_kept: Some(self.kept.len()),
            kept: self.options.keep_mask.then(|| self.kept.clone()),
        }
    }

    /// Index into `kept`: walks the ascending ids until the sum of weights passes the drawn share.
    fn draw(&mut self, kept_total: f64, position: usize) -> usize {
        let wanted = self.uniform(position) * kept_total;
        let mut reached = 0.0;
        for (index, weight) in self.kept_weights.iter().enumerate() {
            reached += weight;
            if reached > wanted {
                return index;
            }
        }
        // A share of 1 - 2^-53 can round up to the total.
        self.kept.len() - 1
    }

    /// The number in [0, 1) that belongs to `position`: first 53 bits of ChaCha20 with the seed as
    /// key and the position as nonce. So every position has a stream of its own, and no draw moves
    /// another.
    fn uniform(&mut self, position: usize) -> f64 {
        self.random.set_stream(position as u64);
        self.random.set_word_pos(0);
        (self.random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn best(&mut self, logits: &[f32], total: &LogTotal) -> Vec<(u32, f32)> {
        let n = self.options.n_logprobs.min(logits.len());
        if n == 0 {
            return Vec::new();
        }
        rank_all(logits, &mut self.ranks);
        self.ranks.select_nth_unstable(logits.len() - n);
        let best = &mut self.ranks[logits.len() - n..];
        best.sort_unstable_by(|a, b| b.cmp(a));
        best.iter()
            .map(|&rank| (id_of(rank), logits[id_of(rank) as usize]))
            .filter(|&(_, logit)| logit > f32::NEG_INFINITY)
            .map(|(id, logit)| (id, total.logprob(logit)))
            .collect()
    }
}

/// Log of the sum of all exponentials, in two parts so that nothing overflows or cancels.
struct LogTotal {
    max: f64,
    log_sum: f64,
}

impl LogTotal {
    fn logprob(&self, logit: f32) -> f32 {
        (f64::from(logit) - self.max - self.log_sum) as f32
    }
}

fn bad_logits(logits: &[f32], position: usize, id: usize) -> Error {
    // The error names the token that the logits follow.
    Error::BadLogits {
        position: position.saturating_sub(1),
        id,
        value: logits[id],
    }
}

fn check_mask(mask: &[u32], vocab_size: usize, position: usize) -> Result<()> {
    let misfit = |found: String, expected: &str| Error::Replay {
        what: format!("sampling mask of position {position}"),
        found,
        expected: expected.into(),
    };
    let Some(&last) = mask.last() else {
        return Err(misfit("0 ids".into(), "at least 1"));
    };
    if let Some(pair) = mask.windows(2).find(|pair| pair[0] >= pair[1]) {
        return Err(misfit(
            format!("id {} after {}", pair[1], pair[0]),
            "ascending ids",
        ));
    }
    if last as usize >= vocab_size {
        return Err(Error::UnknownToken {
            id: last,
            vocab_size,
        });
    }
    Ok(())
}

/// Orders tokens by score, then by lower id: the greater rank is the better token.
fn rank(score: f32, id: u32) -> u64 {
    // Adding zero turns -0 into 0; the two must tie.
    let bits = (score + 0.0).to_bits();
    // Floats sort like their bits once negative ones are flipped over.
    let flip = (bits as i32 >> 31) as u32 | 1 << 31;
    u64::from(bits ^ flip) << 32 | u64::from(!id)
}

fn id_of(rank: u64) -> u32 {
    !(rank as u32)
}

fn rank_all(scores: &[f32], ranks: &mut Vec<u64>) {
    ranks.clear();
    ranks.extend((0..).zip(scores).map(|(id, &score)| rank(score, id)));
}

/// The largest value; −inf for none. The caller has made sure that there is no NaN.
fn largest(values: impl Iterator<Item = f32>) -> f32 {
    values.fold(f32::NEG_INFINITY, |largest, value| {
        if value > largest { value } else { largest }
    })
}

/// Probability of a score relative to that of the best: `exp((score - max) / temperature)`.
#[inline(always)]
fn weight(score: f32, max: f32, temperature: f64) -> f64 {
    exp_minus((f64::from(max) - f64::from(score)) / temperature)
}

/// The weight of every score. Wider vectors where the machine has them; the same bits on all, for
/// Rust never fuses a product and a sum by itself.
fn weigh(scores: &[f32], max: f32, temperature: f64, weights: &mut Vec<f64>) {
    weights.resize(scores.len(), 0.0);
    pulp::Arch::new().dispatch(
        #[inline(always)]
        || {
            for (place, &score) in weights.iter_mut().zip(scores) {
                *place = weight(score, max, temperature);
            }
        },
    );
}

/// Sum in a fixed order: eight running sums side by side, then those one after the other.
fn sum(values: &[f64]) -> f64 {
    let (eights, rest) = values.as_chunks::<8>();
    let mut sums = [0.0; 8];
    for eight in eights {
        for (sum, value) in sums.iter_mut().zip(eight) {
            *sum += value;
        }
    }
    sums.iter().chain(rest).sum()
}

/// `exp(-x)` for `x >= 0`, within two units in the last place; 0 where that is below 1e-307.
///
/// The exponential of the standard library is the system's, which differs in the last bit between
/// systems: enough to make another token of the same draw. It also does not vectorise; this does.
#[inline(always)]
fn exp_minus(x: f64) -> f64 {
    const ZERO_FROM: f64 = 707.0;
    // ln 2 in two parts. The first has 11 trailing zero bits, so its multiples are exact.
    const LN_2_HIGH: f64 = 0.693_147_180_369_123_8;
    const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    // Added and taken off again, it rounds to an integer, which then stands in the low bits.
    const ROUND: f64 = 6_755_399_441_055_744.0; // 1.5 * 2^52
    // 1/n!, from n = 13 down. The first term left out is below 5e-18.
    const TAYLOR: [f64; 12] = [
        1.0 / 6_227_020_800.0,
        1.0 / 479_001_600.0,
        1.0 / 39_916_800.0,
        1.0 / 3_628_800.0,
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5_040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        1.0 / 2.0,
    ];
    let clamped = if x < ZERO_FROM { x } else { ZERO_FROM };
    let rounded = ROUND - clamped * std::f64::consts::LOG2_E;
    let n = rounded - ROUND;
    let r = -clamped - n * LN_2_HIGH - n * LN_2_LOW;
    let [first, rest @ ..] = TAYLOR;
    let series = rest
        .iter()
        .fold(first, |series, factor| series * r + factor);
    let mantissa = 1.0 + (r + r * r * series);
    let power = f64::from_bits(rounded.to_bits().wrapping_add(1023) << 52);
    if x < ZERO_FROM { mantissa * power } else { 0.0 }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]
mod tests;
