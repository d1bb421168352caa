//! The `k` best positions of a row of scores: higher score first, then lower position.

/// What each token of a run may read.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    /// Slots a token.
    pub k: usize,
    /// `[tokens, k]`: positions, ascending, −1 padded.
    pub indices: Vec<i32>,
}

impl Selection {
    /// Positions of a token, without the padding.
    pub fn row(&self, token: usize) -> &[i32] {
        let row = &self.indices[token * self.k..][..self.k];
        &row[..row.partition_point(|&position| position >= 0)]
    }
}

/// The positions of the `k` best scores, ascending, −1 padded to `k`. Equal scores (0 and −0 are)
/// rank by lower position. NaN has no place: the caller refuses it.
pub fn top_k(scores: &[f32], k: usize) -> Vec<i32> {
    let mut positions = vec![-1; k];
    top_k_into(scores, &mut positions, &mut Vec::new());
    positions
}

/// Buckets of the first look: sign, exponent and two bits of the mantissa.
const BUCKET_BITS: u32 = 11;

/// [`top_k`] into a slice of `k`, with scratch that may be used again.
pub(super) fn top_k_into(scores: &[f32], positions: &mut [i32], keys: &mut Vec<u32>) {
    let k = positions.len();
    positions.fill(-1);
    if scores.len() <= k {
        for (position, slot) in positions.iter_mut().enumerate().take(scores.len()) {
            *slot = position as i32;
        }
        return;
    }
    if k == 0 {
        return;
    }
    keys.clear();
    keys.extend(scores.iter().map(|&score| ordered(score)));

    // Which bucket holds the k-th best, and how many are better than that bucket.
    let mut counts = [0_u32; 1 << BUCKET_BITS];
    for key in keys.iter() {
        counts[(key >> (32 - BUCKET_BITS)) as usize] += 1;
    }
    let mut better = 0;
    let mut bucket = counts.len() - 1;
    while better + (counts[bucket] as usize) < k {
        better += counts[bucket] as usize;
        bucket -= 1;
    }
    let mut inside: Vec<u32> = keys
        .iter()
        .copied()
        .filter(|key| key >> (32 - BUCKET_BITS) == bucket as u32)
        .collect();
    let at = k - better - 1;
    let threshold = *inside.select_nth_unstable_by(at, |a, b| b.cmp(a)).1;

    let above = keys.iter().filter(|&&key| key > threshold).count();
    let mut ties = k - above;
    let mut slots = positions.iter_mut();
    for (position, &key) in keys.iter().enumerate() {
        if key >= threshold {
            if key == threshold {
                if ties == 0 {
                    continue;
                }
                ties -= 1;
            }
            *slots
                .next()
                .expect("there are as many slots as chosen keys") = position as i32;
        }
    }
}

/// An integer in the order of the scores; −0 becomes 0.
#[inline(always)]
fn ordered(score: f32) -> u32 {
    let bits = (score + 0.0).to_bits();
    if bits >> 31 == 1 {
        !bits
    } else {
        bits | 0x8000_0000
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::{Config, RngSeed};

    use super::*;

    fn by_sorting(scores: &[f32], k: usize) -> Vec<i32> {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| {
            scores[b]
                .partial_cmp(&scores[a])
                .expect("no NaN")
                .then(a.cmp(&b))
        });
        order.truncate(k);
        order.sort_unstable();
        let mut positions: Vec<i32> = order.iter().map(|&position| position as i32).collect();
        positions.resize(k, -1);
        positions
    }

    #[test]
    fn ties_zeros_and_infinities() {
        for (scores, k, want) in [
            (&[0.0, -0.0, 0.0, -0.0][..], 2, &[0, 1][..]),
            (&[-0.0, 0.0, 1.0], 2, &[0, 2]),
            (&[1.0, 3.0, 3.0, 3.0], 2, &[1, 2]),
            (&[f32::NEG_INFINITY, f32::INFINITY, f32::MAX], 1, &[1]),
            (&[f32::NEG_INFINITY; 3], 2, &[0, 1]),
            (&[5.0], 3, &[0, -1, -1]),
            (&[], 2, &[-1, -1]),
            (&[1.0, 2.0], 0, &[]),
        ] {
            assert_eq!(top_k(scores, k), want, "{scores:?}");
        }
    }

    proptest! {
        #![proptest_config(Config {
            rng_seed: RngSeed::Fixed(7),
            failure_persistence: None,
            ..Config::with_cases(500)
        })]

        #[test]
        fn the_best_are_those_that_sorting_gives(
            scores in prop::collection::vec(prop_oneof![
                4 => (-20_i32..20).prop_map(|quarters| quarters as f32 * 0.25),
                4 => -1e3_f32..1e3,
                1 => Just(-0.0),
                1 => prop_oneof![Just(1e-40), Just(f32::MAX), Just(f32::MIN)],
            ], 0..600),
            k in 0_usize..300,
        ) {
            prop_assert_eq!(top_k(&scores, k), by_sorting(&scores, k));
        }
    }
}
