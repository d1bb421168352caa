//! Which experts served a token, and how the work is spread.
//!
//! The record of a token in a layer: whether there are weights, the ids (16 bits), the weights (f32).

use std::ops::Range;

use super::Recording;
use super::compact::{Reader, put_floats};
use super::row::Section;

/// How evenly tokens are spread over experts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Balance {
    /// Load of the busiest expert over the mean load; 1 is even.
    pub max_over_mean: f32,
    /// Entropy of the load over that of an even load: 1 is even, 0 is one expert for everything.
    pub evenness: f32,
    /// Experts that served no token.
    pub n_idle: usize,
}

/// Appends the record of the chosen experts; −1 is padding.
///
/// # Errors
/// An expert that is not there, or there twice; then nothing is appended.
pub(super) fn put(
    out: &mut Vec<u8>,
    slots: &[i32],
    weights: Option<&[f32]>,
    n_routed_experts: usize,
) -> Result<(), String> {
    let used: Vec<usize> = (0..slots.len()).filter(|&slot| slots[slot] != -1).collect();
    let mut ids: Vec<u16> = Vec::with_capacity(used.len());
    for &slot in &used {
        let found = slots[slot];
        let id = u16::try_from(found)
            .ok()
            .filter(|&id| usize::from(id) < n_routed_experts);
        match id {
            Some(id) if !ids.contains(&id) => ids.push(id),
            Some(_) => return Err(format!("found expert {found} twice, expected once")),
            None => {
                return Err(format!(
                    "found expert {found}, expected one of {n_routed_experts}"
                ));
            }
        }
    }
    out.push(u8::from(weights.is_some()));
    out.extend(ids.into_iter().flat_map(u16::to_le_bytes));
    if let Some(weights) = weights {
        put_floats(out, used.iter().map(|&slot| weights[slot]));
    }
    Ok(())
}

/// The chosen experts of a record, and their weights, NaN where there are none.
pub(super) fn decode(record: &[u8], n_routed_experts: usize) -> Option<Vec<(u16, f32)>> {
    let mut reader = Reader(record);
    let bytes_each = match reader.byte()? {
        0 => 2,
        1 => 6,
        _ => return None,
    };
    let n = reader.0.len() / bytes_each;
    let (ids, _) = reader.take(2 * n)?.as_chunks();
    let weights = match bytes_each {
        2 => vec![f32::NAN; n],
        _ => reader.floats(n)?,
    };
    let chosen: Vec<(u16, f32)> = ids
        .iter()
        .copied()
        .map(u16::from_le_bytes)
        .zip(weights)
        .collect();
    let is_valid = reader.0.is_empty()
        && chosen
            .iter()
            .all(|(id, _)| usize::from(*id) < n_routed_experts);
    is_valid.then_some(chosen)
}

impl Recording {
    /// Experts that `position` was sent to in `layer`, best first, with gate weights (NaN where those
    /// were not recorded).
    pub fn experts(&self, position: usize, layer: usize) -> Option<Vec<(u16, f32)>> {
        let record = self.section(position, layer, Section::Experts)?;
        decode(record, self.header.n_routed_experts)
    }

    /// The gate's score of every expert before bias, to three digits.
    pub fn gate_scores(&self, position: usize, layer: usize) -> Option<Vec<f32>> {
        let record = self.section(position, layer, Section::GateScores)?;
        Reader(record).halves(record.len().saturating_sub(2) / 2)
    }

    /// How many of the tokens at `positions` each expert of `layer` served. Tokens without a record do
    /// not count; see [`Recording::n_routed`].
    pub fn expert_load(&self, positions: Range<usize>, layer: usize) -> Vec<u32> {
        let mut load = vec![0; self.header.n_routed_experts];
        for position in self.known(positions) {
            for (expert, _) in self.experts(position, layer).unwrap_or_default() {
                load[usize::from(expert)] += 1;
            }
        }
        load
    }

    /// How many of the tokens at `positions` have a record of their experts in `layer`.
    pub fn n_routed(&self, positions: Range<usize>, layer: usize) -> usize {
        let is_there = |&position: &usize| {
            let section = self.section(position, layer, Section::Experts);
            section.is_some()
        };
        self.known(positions).filter(is_there).count()
    }

    /// The `n` tokens that `expert` of `layer` served most strongly: position and gate weight, heaviest
    /// first, of equal weights the earlier position, unknown weights (NaN) last.
    pub fn tokens_of_expert(&self, layer: usize, expert: usize, n: usize) -> Vec<(usize, f32)> {
        let mut tokens: Vec<(usize, f32)> = Vec::new();
        for position in 0..self.n_tokens() {
            let chosen = self.experts(position, layer).unwrap_or_default();
            let found = chosen
                .into_iter()
                .find(|(id, _)| usize::from(*id) == expert);
            tokens.extend(found.map(|(_, weight)| (position, weight)));
        }
        tokens.sort_by(|(_, a), (_, b)| {
            // The sort is stable, which keeps equal weights in order of position.
            a.is_nan()
                .cmp(&b.is_nan())
                .then((b + 0.0).total_cmp(&(a + 0.0)))
        });
        tokens.truncate(n);
        tokens
    }

    /// Those of `positions` that the timeline has.
    fn known(&self, positions: Range<usize>) -> Range<usize> {
        positions.start..positions.end.min(self.n_tokens())
    }
}

/// How evenly `load` is spread; `None` if it is all 0.
pub fn balance(load: &[u32]) -> Option<Balance> {
    let total: f64 = load.iter().copied().map(f64::from).sum();
    if total == 0.0 {
        return None;
    }
    let max = load.iter().copied().max().unwrap_or(0);
    let busy = load.iter().copied().filter(|&n| n > 0);
    let shares = busy.clone().map(|n| f64::from(n) / total);
    let entropy: f64 = shares.map(|share| -share * share.ln()).sum();
    let n = load.len();
    Some(Balance {
        max_over_mean: (f64::from(max) * n as f64 / total) as f32,
        // A single expert cannot be uneven.
        evenness: if n > 1 {
            (entropy / (n as f64).ln()) as f32
        } else {
            1.0
        },
        n_idle: n - busy.count(),
    })
}
