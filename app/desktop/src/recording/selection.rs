//! The record of one selection: totals, positions, and the values that are kept.
//!
//! Positions are exact. Scores and weights are kept exactly for up to [`N_EXACT`] positions; above, as
//! halves, and only for the heaviest so many. Totals are computed before anything is left out.
//!
//! Layout, integers as varints: flags, n; with scores n_zero, min, max (f32); with weights total and kept
//! sum (f64); if part of the values was left out n_kept; length of the code of positions, the code; if
//! part, length of the code of kept ranks, the code; scores; weights.

use super::compact::{Reader, positions, put_floats, put_halves, put_positions, put_varint};

/// Selections of up to this many positions keep scores and weights as they came.
pub const N_EXACT: usize = 256;

const HAS_SCORES: u8 = 1;
const HAS_WEIGHTS: u8 = 2;
const IS_PART: u8 = 4;

/// What is exact of a selection, also where single scores and weights were not kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Totals {
    /// Positions selected.
    pub n_selected: usize,
    /// Positions whose score and weight were kept.
    pub n_kept: usize,
    /// Scores of exactly 0; `None` if scores were not recorded.
    pub n_zero_scores: Option<usize>,
    /// Least score, NaN skipped; `None` if scores were not recorded or none is a number.
    pub min_score: Option<f32>,
    /// Greatest score, likewise.
    pub max_score: Option<f32>,
    /// Sum of all weights, NaN if one is; `None` if weights were not recorded.
    pub weight_total: Option<f64>,
    /// Sum of the kept weights.
    pub weight_kept: Option<f64>,
}

/// A selection as it was recorded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Recorded<'a> {
    /// Strictly ascending.
    pub positions: &'a [u32],
    pub scores: Option<&'a [f32]>,
    pub weights: Option<&'a [f32]>,
}

/// A decoded record: all positions, and values for some of them.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Decoded {
    pub positions: Vec<u32>,
    /// Which of `positions` have values, ascending; `None`: all.
    pub ranks: Option<Vec<u32>>,
    /// One for each of these, if recorded.
    pub scores: Option<Vec<f32>>,
    /// Likewise.
    pub weights: Option<Vec<f32>>,
}

impl Decoded {
    /// The kept weights with their positions; empty if weights were not recorded.
    pub(super) fn kept_weights(&self) -> impl Iterator<Item = (u32, f32)> {
        let weights = self.weights.iter().flatten();
        weights.enumerate().map(|(at, &weight)| {
            let rank = self.ranks.as_ref().map_or(at, |ranks| ranks[at] as usize);
            (self.positions[rank], weight)
        })
    }

    /// One value for every position, NaN where none was kept.
    pub(super) fn spread(&self, values: Option<&[f32]>) -> Vec<f32> {
        let mut all = vec![f32::NAN; self.positions.len()];
        match (values, &self.ranks) {
            (None, _) => {}
            (Some(values), None) => all.copy_from_slice(values),
            (Some(values), Some(ranks)) => {
                for (&rank, &value) in ranks.iter().zip(values) {
                    all[rank as usize] = value;
                }
            }
        }
        all
    }
}

/// Appends the record of a selection, with at most `n_kept` values (or [`N_EXACT`], if that is more).
pub(super) fn put(out: &mut Vec<u8>, selection: Recorded, n_kept: usize) {
    let n = selection.positions.len();
    let has_values = selection.scores.is_some() || selection.weights.is_some();
    let kept = (has_values && n > n_kept.max(N_EXACT)).then(|| {
        heaviest(
            selection.weights.or(selection.scores).unwrap_or(&[]),
            n_kept.max(N_EXACT),
        )
    });
    out.push(
        if selection.scores.is_some() {
            HAS_SCORES
        } else {
            0
        } | if selection.weights.is_some() {
            HAS_WEIGHTS
        } else {
            0
        } | if kept.is_some() { IS_PART } else { 0 },
    );
    put_varint(out, n as u32);
    if let Some(scores) = selection.scores {
        let numbers = scores.iter().copied().filter(|score| !score.is_nan());
        let n_zero = numbers.clone().filter(|&score| score == 0.0).count();
        let min = numbers.clone().reduce(f32::min).unwrap_or(f32::NAN);
        let max = numbers.reduce(f32::max).unwrap_or(f32::NAN);
        put_varint(out, n_zero as u32);
        put_floats(out, [min, max].into_iter());
    }
    if let Some(weights) = selection.weights {
        let sum = |weights: &mut dyn Iterator<Item = f32>| weights.map(f64::from).sum::<f64>();
        let total = sum(&mut weights.iter().copied());
        let of_kept = kept.as_ref().map_or(total, |kept| {
            sum(&mut kept.iter().map(|&rank| weights[rank as usize]))
        });
        out.extend(total.to_le_bytes());
        out.extend(of_kept.to_le_bytes());
    }
    if let Some(kept) = &kept {
        put_varint(out, kept.len() as u32);
    }
    put_code(out, selection.positions);
    if let Some(kept) = &kept {
        put_code(out, kept);
    }
    for values in [selection.scores, selection.weights].into_iter().flatten() {
        match &kept {
            Some(kept) => put_halves(out, kept.iter().map(|&rank| values[rank as usize])),
            None if n > N_EXACT => put_halves(out, values.iter().copied()),
            None => put_floats(out, values.iter().copied()),
        }
    }
}

fn put_code(out: &mut Vec<u8>, positions: &[u32]) {
    let mut code = Vec::with_capacity(positions.len() + 8);
    put_positions(&mut code, positions);
    put_varint(out, code.len() as u32);
    out.extend(code);
}

/// Ranks of the `n` largest values, ascending; of equal values the first, NaN last.
fn heaviest(values: &[f32], n: usize) -> Vec<u32> {
    let mut ranks: Vec<u32> = (0..values.len() as u32).collect();
    if n < ranks.len() {
        let key = |rank: &u32| {
            let value = values[*rank as usize];
            let number = if value.is_nan() {
                f32::NEG_INFINITY
            } else {
                value
            };
            // Adding 0 makes -0 and 0 one.
            (value.is_nan(), number + 0.0, *rank)
        };
        ranks.select_nth_unstable_by(n, |a, b| {
            let (a, b) = (key(a), key(b));
            a.0.cmp(&b.0).then(b.1.total_cmp(&a.1)).then(a.2.cmp(&b.2))
        });
        ranks.truncate(n);
    }
    ranks.sort_unstable();
    ranks
}

/// The start of a record.
struct Head {
    totals: Totals,
    has_scores: bool,
    has_weights: bool,
    is_part: bool,
}

fn head(reader: &mut Reader) -> Option<Head> {
    let flags = reader.byte()?;
    let has = |flag: u8| flags & flag != 0;
    let n_selected = reader.varint()? as usize;
    let mut totals = Totals {
        n_selected,
        n_kept: n_selected,
        n_zero_scores: None,
        min_score: None,
        max_score: None,
        weight_total: None,
        weight_kept: None,
    };
    if has(HAS_SCORES) {
        totals.n_zero_scores = Some(reader.varint()? as usize);
        let number = |value: f32| (!value.is_nan()).then_some(value);
        totals.min_score = number(reader.f32()?);
        totals.max_score = number(reader.f32()?);
    }
    if has(HAS_WEIGHTS) {
        totals.weight_total = Some(reader.f64()?);
        totals.weight_kept = Some(reader.f64()?);
    }
    if has(IS_PART) {
        totals.n_kept = reader.varint()? as usize;
    } else if !has(HAS_SCORES) && !has(HAS_WEIGHTS) {
        totals.n_kept = 0;
    }
    Some(Head {
        totals,
        has_scores: has(HAS_SCORES),
        has_weights: has(HAS_WEIGHTS),
        is_part: has(IS_PART),
    })
}

/// The totals of a record, without decoding it.
pub(super) fn totals(record: &[u8]) -> Option<Totals> {
    head(&mut Reader(record)).map(|head| head.totals)
}

/// The positions of a record alone, all below `limit`.
pub(super) fn selected(record: &[u8], limit: u32) -> Option<Vec<u32>> {
    let mut reader = Reader(record);
    let head = head(&mut reader)?;
    let n_bytes = reader.varint()? as usize;
    positions(reader.take(n_bytes)?, head.totals.n_selected, limit)
}

/// All of a record; `None` unless it is a whole and valid one with positions below `limit`.
pub(super) fn decode(record: &[u8], limit: u32) -> Option<Decoded> {
    let mut reader = Reader(record);
    let head = head(&mut reader)?;
    let Totals {
        n_selected,
        n_kept,
        n_zero_scores,
        ..
    } = head.totals;
    let n_bytes = reader.varint()? as usize;
    let positions_read = positions(reader.take(n_bytes)?, n_selected, limit)?;
    let ranks = if head.is_part {
        let n_bytes = reader.varint()? as usize;
        Some(positions(reader.take(n_bytes)?, n_kept, n_selected as u32)?)
    } else {
        None
    };
    let mut values = |is_there: bool| {
        if !is_there {
            Some(None)
        } else if n_selected > N_EXACT {
            reader.halves(n_kept).map(Some)
        } else {
            reader.floats(n_kept).map(Some)
        }
    };
    let scores = values(head.has_scores)?;
    let weights = values(head.has_weights)?;
    let is_whole = reader.0.is_empty() && n_zero_scores.is_none_or(|n| n <= n_selected);
    is_whole.then_some(Decoded {
        positions: positions_read,
        ranks,
        scores,
        weights,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panic")]
mod tests {
    use super::super::testing::{Random, same};
    use super::*;

    fn record(selection: Recorded, n_kept: usize) -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out, selection, n_kept);
        out
    }

    #[test]
    fn up_to_256_everything_comes_back_bit_for_bit() {
        let mut random = Random::new(1);
        for n in [0, 1, 2, 255, 256] {
            let chosen = random.positions(n, 5000);
            let mut scores: Vec<f32> = (0..n).map(|_| random.float() * 1e6).collect();
            let mut weights: Vec<f32> = (0..n).map(|_| random.float() * 1e-7).collect();
            if n > 200 {
                scores[7] = f32::NAN;
                scores[8] = f32::INFINITY;
                scores[9] = -0.0;
                weights[3] = f32::NAN;
            }
            let record = record(
                Recorded {
                    positions: &chosen,
                    scores: Some(&scores),
                    weights: Some(&weights),
                },
                0,
            );
            let back = decode(&record, 5000).unwrap();
            assert_eq!(back.positions, chosen);
            assert!(same(&back.spread(back.scores.as_deref()), &scores));
            assert!(same(&back.spread(back.weights.as_deref()), &weights));
            assert_eq!(selected(&record, 5000).unwrap(), chosen);
        }
    }

    #[test]
    fn above_the_heaviest_are_kept_and_totals_are_of_all() {
        let mut random = Random::new(2);
        let n = 2048;
        let chosen = random.positions(n, 131_072);
        // Many ties, so that the choice among equals shows.
        let weights: Vec<f32> = (0..n).map(|_| random.below(40) as f32 / 1000.0).collect();
        let scores: Vec<f32> = (0..n).map(|_| random.below(5) as f32 - 1.0).collect();
        let record = record(
            Recorded {
                positions: &chosen,
                scores: Some(&scores),
                weights: Some(&weights),
            },
            256,
        );
        let totals = totals(&record).unwrap();
        let mut naive: Vec<usize> = (0..n).collect();
        naive.sort_by(|&a, &b| weights[b].total_cmp(&weights[a]).then(a.cmp(&b)));
        naive.truncate(256);
        naive.sort_unstable();
        let sum = |ranks: &mut dyn Iterator<Item = usize>| -> f64 {
            ranks.map(|rank| f64::from(weights[rank])).sum()
        };
        assert_eq!(
            totals,
            Totals {
                n_selected: n,
                n_kept: 256,
                n_zero_scores: Some(scores.iter().filter(|&&s| s == 0.0).count()),
                min_score: Some(-1.0),
                max_score: Some(3.0),
                weight_total: Some(sum(&mut (0..n))),
                weight_kept: Some(sum(&mut naive.iter().copied())),
            }
        );
        let back = decode(&record, 131_072).unwrap();
        assert_eq!(back.positions, chosen);
        let kept = back.spread(back.weights.as_deref());
        for rank in 0..n {
            let is_kept = naive.binary_search(&rank).is_ok();
            assert_eq!(!kept[rank].is_nan(), is_kept, "{rank}");
            // Halves have eleven bits.
            assert!(!is_kept || (kept[rank] / weights[rank] - 1.0).abs() < 1e-3);
        }
        let listed: Vec<u32> = back.kept_weights().map(|(position, _)| position).collect();
        assert!(listed.iter().eq(naive.iter().map(|&rank| &chosen[rank])));
    }

    #[test]
    fn a_larger_allowance_keeps_all_as_halves() {
        let chosen: Vec<u32> = (0..300).collect();
        let weights: Vec<f32> = chosen.iter().map(|&p| p as f32).collect();
        let selection = Recorded {
            positions: &chosen,
            scores: None,
            weights: Some(&weights),
        };
        let record = record(selection, 1000);
        let back = decode(&record, 300).unwrap();
        assert_eq!((back.ranks.as_ref(), back.scores.as_ref()), (None, None));
        // Whole numbers below 2^11 are halves.
        assert_eq!(back.weights.unwrap(), weights);
        assert_eq!(totals(&record).unwrap().n_kept, 300);
    }

    #[test]
    fn without_weights_the_best_scores_are_kept_and_nan_is_never_heavy() {
        let chosen: Vec<u32> = (0..400).collect();
        let mut scores: Vec<f32> = chosen.iter().map(|&p| -(p as f32)).collect();
        scores[0] = f32::NAN;
        let selection = Recorded {
            positions: &chosen,
            scores: Some(&scores),
            weights: None,
        };
        let back = decode(&record(selection, 256), 400).unwrap();
        assert_eq!(back.ranks.unwrap(), (1..257).collect::<Vec<u32>>());
        let selection = Recorded {
            scores: None,
            ..selection
        };
        let bare = record(selection, 256);
        assert_eq!(decode(&bare, 400).unwrap().positions, chosen);
        assert_eq!(totals(&bare).unwrap().n_kept, 0);
        let nan = vec![f32::NAN; 400];
        let selection = Recorded {
            weights: Some(&nan),
            scores: Some(&nan),
            ..selection
        };
        let totals = totals(&record(selection, 256)).unwrap();
        assert_eq!((totals.min_score, totals.n_zero_scores), (None, Some(0)));
        assert!(totals.weight_total.unwrap().is_nan());
    }

    #[test]
    fn damaged_records_are_refused_and_never_panic() {
        let mut random = Random::new(9);
        for n in [3, 300] {
            let chosen = random.positions(n, 4000);
            let values: Vec<f32> = (0..n).map(|_| random.float()).collect();
            let selection = Recorded {
                positions: &chosen,
                scores: Some(&values),
                weights: Some(&values),
            };
            let whole = record(selection, 256);
            assert_eq!(decode(&whole, chosen[n - 1]), None);
            for length in 0..whole.len() {
                assert_eq!(decode(&whole[..length], 4000), None);
            }
            for _ in 0..20_000 {
                let mut bytes = whole.clone();
                let at = random.below(bytes.len());
                bytes[at] = random.below(256) as u8;
                if let Some(found) = decode(&bytes, 4000) {
                    let _ = found.spread(found.scores.as_deref());
                    assert!(found.kept_weights().all(|(position, _)| position < 4000));
                }
                let _ = (totals(&bytes), selected(&bytes, 4000));
            }
        }
    }
}
