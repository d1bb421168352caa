//! One token from the logits of one position.

use shaders::sample::{GREEDY, IMPOSSIBLE, INFINITE, NAN, PICKED_WORDS};

use super::numbers::floats;
use super::{Asked, bound};

/// A quarter of the distance to the largest logit beyond which `exp` of it counts for nothing, and
/// what that quarter is multiplied with, at temperature 1.
const PLAIN: [f64; 2] = [21.75, 4.0];

/// The largest logit, or a draw from the fewest best tokens that reach `top_p`.
pub(super) fn sample(asked: &Asked, buffers: &mut [Vec<u32>]) {
    let [logits, picked] = bound(buffers);
    let logits = floats(logits, asked.size("logits_offset"), asked.size("vocab"));
    picked[..PICKED_WORDS].fill(0);
    let flags = flags(&logits);
    let chosen = if flags != 0 {
        let is_broken = |logit: &f64| logit.is_nan() || *logit == f64::INFINITY;
        logits.iter().position(is_broken).unwrap_or(0)
    } else {
        let draw = draw(asked, &logits);
        let most = largest(&logits);
        let sum: f64 = weights(&logits, PLAIN).iter().sum();
        picked[3] = ((most + sum.ln()) as f32).to_bits();
        picked[4] = (draw.share.ln() as f32).to_bits();
        picked[5] = draw.n_kept as u32;
        draw.id
    };
    picked[0] = chosen as u32;
    picked[1] = flags;
    picked[2] = (logits[chosen] as f32).to_bits();
}

fn flags(logits: &[f64]) -> u32 {
    let mut flags = 0;
    if logits.iter().any(|logit| logit.is_nan()) {
        flags |= NAN;
    }
    if logits.contains(&f64::INFINITY) {
        flags |= INFINITE;
    }
    if logits.iter().all(|logit| *logit == f64::NEG_INFINITY) {
        flags |= IMPOSSIBLE;
    }
    flags
}

fn largest(logits: &[f64]) -> f64 {
    logits.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

/// `exp((logit - most) / temperature)`, by a quarter of the distance as the kernel has it.
fn weights(logits: &[f64], [cutoff, inverse]: [f64; 2]) -> Vec<f64> {
    let most = largest(logits);
    let weight = |logit: f64| {
        let gap = 0.25 * (most - logit);
        if gap > cutoff {
            return 0.0;
        }
        (-gap * inverse).exp()
    };
    logits.iter().map(|&logit| weight(logit)).collect()
}

struct Draw {
    id: usize,
    /// Of the probability within the nucleus.
    share: f64,
    n_kept: usize,
}

fn draw(asked: &Asked, logits: &[f64]) -> Draw {
    // Best first, of equal ones the lower id: the sort is stable.
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].partial_cmp(&logits[a]).expect("NaN has a flag"));
    if asked.knob("METHOD") == GREEDY {
        return Draw {
            id: order[0],
            share: 1.0,
            n_kept: 1,
        };
    }
    let weights = weights(logits, [asked.float("cutoff"), asked.float("inverse")]);
    let mut kept = nucleus(asked.float("top_p"), &order, &weights);
    kept.sort_unstable();
    let sum: f64 = kept.iter().map(|&id| weights[id]).sum();
    let wanted = asked.float("uniform_number") * sum;
    let mut reached = 0.0;
    let passes = |&&id: &&usize| {
        reached += weights[id];
        reached > wanted
    };
    let id = kept.iter().find(passes).or(kept.last());
    let id = *id.expect("the best token weighs 1 and is kept");
    Draw {
        id,
        share: weights[id] / sum,
        n_kept: kept.len(),
    }
}

/// The fewest best tokens that reach `top_p` of all, and one at least.
fn nucleus(top_p: f64, order: &[usize], weights: &[f64]) -> Vec<usize> {
    let wanted = if top_p < 1.0 {
        top_p * weights.iter().sum::<f64>()
    } else {
        f64::INFINITY
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
    kept
}
