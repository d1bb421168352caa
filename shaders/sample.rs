//! One token from the logits of one position.

use crate::kernel::{Cost, Dispatch, Kernel, Knob, Tuning, params};
use crate::pieces::{REDUCE, plain};
use crate::reference::{bound, floats, set};

/// The best token, or one drawn from the nucleus.
pub const KERNEL: Kernel = Kernel {
    name: "sample",
    pieces: &[REDUCE, plain(include_str!("sample.wgsl"))],
    bindings: &["logits", "picked"],
    knobs: &[
        Knob::new("WG", 256, &[256]),
        Knob::new("METHOD", GREEDY, &[GREEDY, TOP_P]),
    ],
    params: Params::LAYOUT,
    reference,
};

/// The largest logit.
pub const GREEDY: u32 = 0;
/// A draw from the fewest best tokens that reach `top_p`.
pub const TOP_P: u32 = 1;

/// Words of the output.
pub const PICKED_WORDS: usize = 8;
/// Set in word 1 if a logit is NaN; word 0 is then the first id that is NaN or +inf, word 2 its
/// bits.
pub const NAN: u32 = 1;
/// The same for +inf.
pub const INFINITE: u32 = 2;
/// Set in word 1 if all logits are -inf.
pub const IMPOSSIBLE: u32 = 4;

/// Most tokens: ids must be exact as f32.
pub const MOST_TOKENS: usize = 1 << 24;

params! {
    vocab: u32,
    logits_offset: u32,
    inverse: f32,
    cutoff: f32,
    top_p: f32,
    uniform_number: f32,
}

/// What is to be sampled, and how.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// How many logits, 1 to [`MOST_TOKENS`].
    pub vocab: usize,
    /// Where in the buffer they start.
    pub logits_offset: usize,
    /// Divides the logits; 0 is greedy.
    pub temperature: f64,
    /// Share of the probability that the nucleus must reach; from 1 on it is everything.
    pub top_p: f64,
    /// The drawn number, from 0 to below 1.
    pub uniform: f64,
}

/// Plans the launch.
///
/// # Panics
/// No logits or more than [`MOST_TOKENS`]: our own mistake, for the vocabulary is checked when a
/// model is loaded.
pub fn dispatch(call: &Call, tuning: &Tuning) -> Dispatch {
    assert!(
        (1..=MOST_TOKENS).contains(&call.vocab),
        "a vocabulary of {} tokens",
        call.vocab
    );
    let method = match call.temperature {
        0.0 => GREEDY,
        _ => TOP_P,
    };
    let params = Params {
        vocab: call.vocab as u32,
        logits_offset: call.logits_offset as u32,
        // Finite also where the temperature is hardly above 0, and then only the best token weighs.
        inverse: (4.0 / call.temperature).min(f32::MAX.into()) as f32,
        // exp(-87) is the smallest weight that is a normal f32.
        cutoff: (87.0 / 4.0 * call.temperature).min(f32::MAX.into()) as f32,
        top_p: call.top_p as f32,
        uniform_number: call.uniform as f32,
    };
    // Passes that compute with every logit.
    let passes = match method {
        GREEDY => 2,
        _ if call.top_p < 1.0 => 11,
        _ => 3,
    };
    Dispatch {
        kernel: &KERNEL,
        knobs: vec![("METHOD", method)],
        subgroups: tuning.subgroups,
        params: bytemuck::bytes_of(&params).to_vec(),
        groups: [1, 1, 1],
        cost: Cost {
            read_bytes: 4 * call.vocab as u64,
            write_bytes: 4 * PICKED_WORDS as u64,
            flops: 10 * passes * call.vocab as u64,
        },
    }
}

fn reference(dispatch: &Dispatch, buffers: &mut [Vec<u32>]) {
    let [logits, picked] = bound(buffers);
    let [vocab, logits_offset] = dispatch.sizes(["vocab", "logits_offset"]);
    let row = floats(logits, logits_offset, vocab);
    picked[..PICKED_WORDS].fill(0);
    let is_broken = |logit: &f64| logit.is_nan() || *logit == f64::INFINITY;
    for (flag, is_set) in [
        (NAN, row.iter().any(|logit| logit.is_nan())),
        (INFINITE, row.contains(&f64::INFINITY)),
        (
            IMPOSSIBLE,
            row.iter().all(|logit| *logit == f64::NEG_INFINITY),
        ),
    ] {
        picked[1] |= if is_set { flag } else { 0 };
    }
    let chosen = match picked[1] {
        0 => {
            let draw = draw(dispatch, &row);
            let most = row[best(&row)[0]];
            let sum: f64 = weights(&row, PLAIN).iter().sum();
            set(picked, 3, most + sum.ln());
            set(picked, 4, draw.share.ln());
            picked[5] = draw.n_kept as u32;
            draw.id
        }
        _ => row.iter().position(is_broken).unwrap_or(0),
    };
    picked[0] = chosen as u32;
    picked[2] = logits[logits_offset + chosen];
}

/// A quarter of the distance to the largest logit beyond which `exp` of it counts for nothing, and
/// what that quarter is multiplied with, at temperature 1.
const PLAIN: [f64; 2] = [21.75, 4.0];

/// `exp((logit - most) / temperature)`, by a quarter of the distance as the kernel has it.
fn weights(logits: &[f64], [cutoff, inverse]: [f64; 2]) -> Vec<f64> {
    let most = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weight = |logit: &f64| match 0.25 * (most - logit) {
        gap if gap > cutoff => 0.0,
        gap => (-gap * inverse).exp(),
    };
    logits.iter().map(weight).collect()
}

/// Ids, best first, of equal ones the lower: the sort is stable.
fn best(logits: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| (logits[b] + 0.0).total_cmp(&(logits[a] + 0.0)));
    order
}

struct Draw {
    id: usize,
    /// Of the probability within the nucleus.
    share: f64,
    n_kept: usize,
}

fn draw(dispatch: &Dispatch, logits: &[f64]) -> Draw {
    let order = best(logits);
    if dispatch.knob("METHOD") == GREEDY {
        return Draw {
            id: order[0],
            share: 1.0,
            n_kept: 1,
        };
    }
    let weights = weights(
        logits,
        [dispatch.float("cutoff"), dispatch.float("inverse")],
    );
    // The fewest best tokens that reach top_p of all, and one at least.
    let top_p = dispatch.float("top_p");
    let wanted = match top_p < 1.0 {
        true => top_p * weights.iter().sum::<f64>(),
        false => f64::INFINITY,
    };
    let mut kept = Vec::new();
    let mut reached = 0.0;
    for &id in order.iter().filter(|&&id| weights[id] > 0.0) {
        kept.push(id);
        reached += weights[id];
        if reached >= wanted {
            break;
        }
    }
    kept.sort_unstable();
    let sum: f64 = kept.iter().map(|&id| weights[id]).sum();
    let mut reached = 0.0;
    let passes = |&&id: &&usize| {
        reached += weights[id];
        reached > dispatch.float("uniform_number") * sum
    };
    let id = kept.iter().find(passes).or(kept.last());
    let id = *id.expect("the best token weighs 1 and is kept");
    Draw {
        id,
        share: weights[id] / sum,
        n_kept: kept.len(),
    }
}
