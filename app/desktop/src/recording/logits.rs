//! What is kept of a row of logits: the best candidates, the entropy, the log of the sum.

/// Candidates kept of each row.
pub const N_CANDIDATES: usize = 20;

/// What a row of logits says of the token that follows it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Expected {
    /// Log of the sum of exponentials of those logits that are numbers.
    pub log_sum: f64,
    /// In nats; NaN if a logit is NaN or +∞, or all are −∞.
    pub entropy: f32,
    /// Up to [`N_CANDIDATES`] ids with their probabilities, best first, of equal ones the lower id.
    /// Logits that are NaN or −∞ are no candidates; NaN has no part in the probabilities.
    pub best: Box<[(u32, f32)]>,
}

impl Expected {
    /// `None` for an empty row.
    pub(super) fn of(logits: &[f32]) -> Option<Self> {
        if logits.is_empty() {
            return None;
        }
        let best = best(logits);
        let max = best
            .first()
            .map_or(f64::NEG_INFINITY, |&id| f64::from(logits[id as usize]));
        let mut sum = 0.0;
        // Σ exp(l - max) · (l - max), for the entropy.
        let mut weighted = 0.0;
        let mut has_nan = false;
        for &logit in logits {
            let below = f64::from(logit) - max;
            if below.is_nan() {
                has_nan = true;
            } else if below > f64::NEG_INFINITY {
                let weight = below.exp();
                sum += weight;
                weighted += weight * below;
            }
        }
        let log_sum = max + sum.ln();
        let entropy = if has_nan || best.is_empty() {
            f32::NAN
        } else {
            // A certain token has entropy 0, which rounding could make a little less.
            (sum.ln() - weighted / sum).max(0.0) as f32
        };
        let best = best.into_iter().map(|id| {
            let probability = (f64::from(logits[id as usize]) - log_sum).exp();
            (id, probability as f32)
        });
        Some(Self {
            log_sum,
            entropy,
            best: best.collect(),
        })
    }

    /// Log-probability of `id`, from the row itself where it is still there, or else from the candidates.
    pub(super) fn logprob(&self, id: u32, logits: Option<&[f32]>) -> Option<f32> {
        if let Some(logits) = logits {
            let logit = *logits.get(id as usize)?;
            return Some(if self.entropy.is_nan() {
                f32::NAN
            } else {
                (f64::from(logit) - self.log_sum) as f32
            });
        }
        let (_, probability) = self.best.iter().find(|(best, _)| *best == id)?;
        // 0 is a probability that got lost in rounding; its log is not known.
        (*probability != 0.0).then(|| probability.ln())
    }
}

/// Ids of the largest logits, best first; ties to the lower id.
fn best(logits: &[f32]) -> Vec<u32> {
    let mut best: Vec<u32> = Vec::with_capacity(N_CANDIDATES + 1);
    let mut least = f32::NEG_INFINITY;
    for (id, &logit) in logits.iter().enumerate() {
        // False for NaN, and for −∞ as long as there is room.
        if logit > least {
            let at = best.partition_point(|&other| logits[other as usize] >= logit);
            best.insert(at, id as u32);
            best.truncate(N_CANDIDATES);
            if let (N_CANDIDATES, Some(&last)) = (best.len(), best.last()) {
                least = logits[last as usize];
            }
        }
    }
    best
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panic")]
mod tests {
    use super::super::testing::Random;
    use super::*;

    /// Straight from the definitions.
    fn naive(logits: &[f32]) -> (Vec<u32>, f64, Vec<f64>) {
        let sum: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
        let p: Vec<f64> = logits.iter().map(|&l| f64::from(l).exp() / sum).collect();
        let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
        ids.sort_by(|&a, &b| {
            logits[b as usize]
                .total_cmp(&logits[a as usize])
                .then(a.cmp(&b))
        });
        ids.truncate(N_CANDIDATES);
        let entropy = -p
            .iter()
            .filter(|&&p| p > 0.0)
            .map(|p| p * p.ln())
            .sum::<f64>();
        (ids, entropy, p)
    }

    #[test]
    fn random_rows_with_ties_agree_with_the_definitions() {
        let mut random = Random::new(8);
        for n in [1, 2, 19, 20, 21, 128, 5000] {
            for levels in [1, 3, 50, 1 << 20] {
                let logits: Vec<f32> = (0..n)
                    .map(|_| random.below(levels) as f32 / levels as f32 * 12.0 - 3.0)
                    .collect();
                let expected = Expected::of(&logits).unwrap();
                let (ids, entropy, p) = naive(&logits);
                assert!(expected.best.iter().map(|(id, _)| *id).eq(ids));
                // Sums of 5000 terms in f64, rounded once to f32.
                assert!((f64::from(expected.entropy) - entropy).abs() < 1e-6 * entropy.max(1.0));
                for &(id, probability) in &expected.best {
                    assert!((f64::from(probability) / p[id as usize] - 1.0).abs() < 1e-6);
                }
                for id in [0, n as u32 - 1] {
                    let logprob = expected.logprob(id, Some(&logits)).unwrap();
                    assert!((f64::from(logprob) - p[id as usize].ln()).abs() < 1e-5);
                }
            }
        }
    }

    #[test]
    fn far_and_masked_logits_are_exact() {
        let mut logits = vec![f32::NEG_INFINITY; 40];
        logits[7] = 3e38;
        let expected = Expected::of(&logits).unwrap();
        assert_eq!((&*expected.best, expected.entropy), (&[(7, 1.0)][..], 0.0));
        assert_eq!(expected.logprob(8, Some(&logits)), Some(f32::NEG_INFINITY));
        assert_eq!(expected.logprob(8, None), None);
        assert_eq!(expected.logprob(40, Some(&logits)), None);
        // A candidate whose probability is lost in rounding: its log is known from the row alone.
        logits[9] = 2e38;
        let expected = Expected::of(&logits).unwrap();
        assert_eq!(expected.best[1], (9, 0.0));
        assert_eq!(expected.logprob(9, None), None);
        assert!(expected.logprob(9, Some(&logits)).unwrap() < -9e37);
    }

    #[test]
    fn nan_is_no_candidate_and_shows() {
        let logits = [1.0, f32::NAN, 1.0, f32::NEG_INFINITY];
        let expected = Expected::of(&logits).unwrap();
        assert!(expected.entropy.is_nan());
        assert_eq!(&*expected.best, &[(0, 0.5), (2, 0.5)]);
        assert!(expected.logprob(0, Some(&logits)).unwrap().is_nan());
        for logits in [[f32::NAN; 3], [f32::NEG_INFINITY; 3]] {
            let expected = Expected::of(&logits).unwrap();
            assert!(expected.entropy.is_nan() && expected.best.is_empty());
            assert!(expected.logprob(1, Some(&logits)).unwrap().is_nan());
        }
        let expected = Expected::of(&[0.0, f32::INFINITY]).unwrap();
        assert!(expected.entropy.is_nan());
        assert_eq!(expected.best[0].0, 1);
        assert_eq!(Expected::of(&[]), None);
    }
}
