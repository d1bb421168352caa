//! The `k` best positions of a row of scores: higher score first, then lower position; some positions
//! may be forced in or out.

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

/// Positions that a selection holds or does not hold, whatever their scores. Both ascend, and no
/// position is in both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forced {
    /// Held as soon as they are visible.
    pub pinned: Vec<usize>,
    /// Not held by any token but the one that stands there itself.
    pub banned: Vec<usize>,
}

impl Forced {
    /// Whether nothing is forced.
    pub fn is_empty(&self) -> bool {
        self.pinned.is_empty() && self.banned.is_empty()
    }

    /// Whether the token at `token` may not read `position`.
    pub fn bans(&self, token: usize, position: usize) -> bool {
        position != token && self.banned.binary_search(&position).is_ok()
    }

    /// Those of the pinned positions that the token at `token` sees.
    pub fn pinned_for(&self, token: usize) -> &[usize] {
        &self.pinned[..self.pinned.partition_point(|&position| position <= token)]
    }
}

/// [`top_k_into`] of the scores that the token at the last of them sees, with `forced` positions: the
/// pinned ones take slots, the best of the others fill the rest, banned ones are passed over. So a pinned
/// position pushes out the lowest score, and the next best replaces a banned one.
pub(crate) fn top_k_forced(
    scores: &[f32],
    positions: &mut [i32],
    forced: &Forced,
    keys: &mut Vec<u32>,
) {
    if forced.is_empty() || scores.is_empty() {
        return top_k_into(scores, positions, keys);
    }
    let token = scores.len() - 1;
    let pinned = forced.pinned_for(token);
    let pinned = &pinned[..pinned.len().min(positions.len())];
    let free: Vec<usize> = (0..scores.len())
        .filter(|position| {
            !forced.bans(token, *position) && pinned.binary_search(position).is_err()
        })
        .collect();
    // In the order of positions, so that ties go to the lower one here too.
    let free_scores: Vec<f32> = free.iter().map(|&position| scores[position]).collect();
    let mut best = vec![-1; positions.len() - pinned.len()];
    top_k_into(&free_scores, &mut best, keys);
    let mut chosen: Vec<i32> = best
        .iter()
        .filter_map(|&at| usize::try_from(at).ok())
        .map(|at| free[at] as i32)
        .chain(pinned.iter().map(|&position| position as i32))
        .collect();
    chosen.sort_unstable();
    positions.fill(-1);
    positions[..chosen.len()].copy_from_slice(&chosen);
}

/// [`top_k`] of the scores that a token sees, with positions forced in or out.
pub fn top_k_with(scores: &[f32], k: usize, forced: &Forced) -> Vec<i32> {
    let mut positions = vec![-1; k];
    top_k_forced(scores, &mut positions, forced, &mut Vec::new());
    positions
}

/// Buckets of the first look: sign, exponent and two bits of the mantissa.
const BUCKET_BITS: u32 = 11;

/// [`top_k`] into a slice of `k`, with scratch that may be used again.
pub(crate) fn top_k_into(scores: &[f32], positions: &mut [i32], keys: &mut Vec<u32>) {
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

        #[test]
        fn forced_positions_are_in_or_out_and_the_best_fill_the_rest(
            scores in prop::collection::vec((-6_i32..6).prop_map(|quarters| quarters as f32 * 0.25), 1..60),
            k in 1_usize..40,
            marks in prop::collection::vec(0_u8..4, 80),
        ) {
            let marked = |mark| (0..80).filter(|&at| marks[at] == mark).collect::<Vec<usize>>();
            let mut forced = Forced { pinned: marked(1), banned: marked(2) };
            forced.pinned.truncate(k);
            let token = scores.len() - 1;
            // Everything by one order: pinned, then by score, then by position.
            let mut order: Vec<usize> = (0..=token)
                .filter(|&at| at == token || !forced.banned.contains(&at))
                .collect();
            order.sort_by(|&a, &b| {
                let free = |at| !forced.pinned.contains(&at);
                free(a).cmp(&free(b))
                    .then(scores[b].partial_cmp(&scores[a]).expect("no NaN"))
                    .then(a.cmp(&b))
            });
            order.truncate(k);
            order.sort_unstable();
            let mut want: Vec<i32> = order.iter().map(|&at| at as i32).collect();
            want.resize(k, -1);
            prop_assert_eq!(top_k_with(&scores, k, &forced), want);
            prop_assert_eq!(top_k_with(&scores, k, &Forced::default()), top_k(&scores, k));
        }
    }
}
