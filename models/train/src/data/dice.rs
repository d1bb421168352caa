//! Chance that is a pure function of what it is asked for: ChaCha8, keyed by a hash of the request.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

/// A stream of throws.
pub(super) struct Dice(ChaCha8Rng);

impl Dice {
    /// The stream that belongs to these parts. Each is hashed with its length, so that no two lists
    /// of parts share a stream.
    pub(super) fn new(parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Self(ChaCha8Rng::from_seed(hash.finalize().into()))
    }

    /// A number below `n`, which is at least 1.
    pub(super) fn below(&mut self, n: usize) -> usize {
        assert!(n > 0, "a throw needs at least one side");
        let product = u128::from(self.0.next_u64()) * n as u128;
        (product >> 64) as usize
    }

    /// A number from `low` to `high`, both included.
    pub(super) fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high + 1 - low)
    }

    /// True in so many percent of the cases.
    pub(super) fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// A number in [0, 1).
    pub(super) fn unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A number from `low` to `high`, each doubling being as likely as the next. Integers only: a
    /// logarithm may differ in its last bit from one machine to another.
    pub(super) fn log_between(&mut self, low: usize, high: usize) -> usize {
        let mut steps = vec![low.max(1)];
        while let Some(&last) = steps.last()
            && last * 2 <= high
        {
            steps.push(last * 2);
        }
        let from = steps[self.below(steps.len())];
        self.between(from, (from * 2 - 1).min(high.max(from)))
    }

    /// One of these.
    pub(super) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// So many different ones of these, in any order; all of them if there are no more.
    pub(super) fn sample<T: Copy>(&mut self, of: &[T], n: usize) -> Vec<T> {
        let mut pool = of.to_vec();
        let n = n.min(pool.len());
        for i in 0..n {
            let other = self.between(i, pool.len() - 1);
            pool.swap(i, other);
        }
        pool.truncate(n);
        pool
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_parts_give_the_same_stream_and_others_another() {
        let throws = |parts: &[&[u8]]| {
            let mut dice = Dice::new(parts);
            (0..8).map(|_| dice.below(1 << 40)).collect::<Vec<_>>()
        };
        assert_eq!(throws(&[b"a", b"b"]), throws(&[b"a", b"b"]));
        assert_ne!(throws(&[b"a", b"b"]), throws(&[b"ab"]));
        assert_ne!(throws(&[b"ab", b""]), throws(&[b"", b"ab"]));
    }

    #[test]
    fn throws_stay_within_their_bounds() {
        let mut dice = Dice::new(&[b"bounds"]);
        for n in 1..200 {
            assert!(dice.below(n) < n);
            assert!((3..=n + 3).contains(&dice.between(3, n + 3)));
            assert!((16..=n + 16).contains(&dice.log_between(16, n + 16)));
            assert!((0.0..1.0).contains(&dice.unit()));
        }
        assert_eq!(dice.log_between(16, 3), 16);
        assert!(!dice.percent(0));
        assert!(dice.percent(100));
    }

    #[test]
    fn a_sample_repeats_nothing() {
        let mut dice = Dice::new(&[b"sample"]);
        let all: Vec<usize> = (0..20).collect();
        let mut sample = dice.sample(&all, 50);
        assert_eq!(sample.len(), 20);
        sample.sort_unstable();
        assert_eq!(sample, all);
        assert!(dice.sample::<usize>(&[], 3).is_empty());
    }
}
