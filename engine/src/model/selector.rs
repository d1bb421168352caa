//! Who chooses the positions that a token reads: the indexer, or a control to measure it against.
//!
//! A control takes as many positions as the indexer would, in the layers that have one; layers that
//! share a selection share the control's. The indexer's keys are cached all the same, so the next
//! call may be the indexer's again.

use std::collections::BTreeSet;

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

use crate::selection::Selection;

/// Who chooses the positions that a token reads. A token sees itself and those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Selector {
    /// The model's own indexer: the best scores.
    #[default]
    Indexer,
    /// The last visible positions, the token itself among them: a sliding window.
    Recent,
    /// Distinct visible positions, every set of them equally likely. They follow from `seed`, the
    /// layer and the token's position alone, so any split of a prompt gives the same.
    Random {
        /// Chooses the sets.
        seed: u64,
    },
}

impl Selector {
    /// Its name, in messages and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Indexer => "indexer",
            Self::Recent => "recent",
            Self::Random { .. } => "random",
        }
    }
}

/// The `k` last positions that each of `n` tokens from `position` on sees.
pub(crate) fn recent(position: usize, n: usize, k: usize) -> Selection {
    rows(position, n, k, |token| {
        let first = (token + 1).saturating_sub(k);
        (first..=token).collect()
    })
}

/// `k` positions for each of `n` tokens from `position` on, drawn without replacement.
pub(crate) fn random(seed: u64, layer: usize, position: usize, n: usize, k: usize) -> Selection {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&(layer as u64).to_le_bytes());
    let mut random = ChaCha20Rng::from_seed(key);
    rows(position, n, k, |token| {
        // A stream for each position, so that no token's draw moves another's.
        random.set_stream(token as u64);
        random.set_word_pos(0);
        draw(&mut random, token + 1, k.min(token + 1))
    })
}

/// `k` of `0..n`, every set equally likely: Floyd's algorithm, one draw a member.
fn draw(random: &mut ChaCha20Rng, n: usize, k: usize) -> BTreeSet<usize> {
    let mut chosen = BTreeSet::new();
    for last in n - k..n {
        // The upper half of the product: off from equal by `last` in 2^64.
        let product = u128::from(random.next_u64()) * (last as u128 + 1);
        if !chosen.insert((product >> 64) as usize) {
            chosen.insert(last);
        }
    }
    chosen
}

/// A selection of what `chosen` gives for each token, ascending, at most `k`.
fn rows(
    position: usize,
    n: usize,
    k: usize,
    mut chosen: impl FnMut(usize) -> BTreeSet<usize>,
) -> Selection {
    let mut indices = Vec::with_capacity(n * k);
    for row in 0..n {
        indices.extend(
            chosen(position + row)
                .into_iter()
                .map(|position| position as i32),
        );
        indices.resize((row + 1) * k, -1);
    }
    Selection { k, indices }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panic")]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn recent_is_a_window_that_ends_with_the_token() {
        assert_eq!(
            recent(0, 4, 3).indices,
            [0, -1, -1, 0, 1, -1, 0, 1, 2, 1, 2, 3]
        );
        assert_eq!(recent(9, 2, 1).indices, [9, 10]);
        assert_eq!(recent(5, 1, 6).indices, [0, 1, 2, 3, 4, 5]);
        assert_eq!(recent(5, 1, 8).indices, [0, 1, 2, 3, 4, 5, -1, -1]);
    }

    #[test]
    fn random_positions_are_distinct_visible_and_ascending() {
        for (position, n, k) in [(0, 40, 7), (63, 1, 64), (64, 3, 64), (999, 2, 1), (3, 2, 9)] {
            let selection = random(5, 2, position, n, k);
            assert_eq!(selection.indices.len(), n * k);
            for row in 0..n {
                let (chosen, token) = (selection.row(row), (position + row) as i32);
                assert_eq!(chosen.len(), k.min(position + row + 1));
                assert!(
                    chosen.windows(2).all(|pair| pair[0] < pair[1]),
                    "{chosen:?}"
                );
                assert!(chosen.iter().all(|s| (0..=token).contains(s)), "{chosen:?}");
                let padding = &selection.indices[row * k..][chosen.len()..k];
                assert!(padding.iter().all(|&slot| slot == -1));
            }
        }
    }

    #[test]
    fn random_follows_from_seed_layer_and_position_alone() {
        let whole = random(5, 2, 100, 10, 8);
        assert_eq!(random(5, 2, 100, 10, 8), whole);
        let split: Vec<i32> = (0..10)
            .flat_map(|row| random(5, 2, 100 + row, 1, 8).indices)
            .collect();
        assert_eq!(split, whole.indices);
        assert_ne!(random(6, 2, 100, 10, 8), whole);
        assert_ne!(random(5, 3, 100, 10, 8), whole);
        // The same set for two tokens in a row would mean that the position does not count.
        let distinct: BTreeSet<&[i32]> = (0..10).map(|row| whole.row(row)).collect();
        assert_eq!(distinct.len(), 10);
    }

    #[test]
    fn every_set_is_as_likely() {
        // 10 sets of 3 of 5, 600 times each.
        let mut counts: BTreeMap<Vec<i32>, i32> = BTreeMap::new();
        for seed in 0..6000 {
            *counts.entry(random(seed, 0, 4, 1, 3).indices).or_default() += 1;
        }
        assert_eq!(counts.len(), 10);
        // Five standard deviations of a count: sqrt(6000 · 0.1 · 0.9) is 23.2.
        assert!(
            counts.values().all(|count| (count - 600).abs() < 117),
            "{counts:?}"
        );
    }
}
