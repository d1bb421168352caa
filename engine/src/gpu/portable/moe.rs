//! Experts: who goes where, and what they make of it.

use shaders::route::{GREEDY, GROUPS_BY_TWO, SOFTMAX};

use super::numbers::{dot, float, floats, set};
use super::packed::Weights;
use super::{Asked, bound};

/// Scores of all experts, the `k` chosen ones, best first, then the shared ones, and their weights.
pub(super) fn route(asked: &Asked, buffers: &mut [Vec<u32>]) {
    let [logits, bias, forced, scores, experts, weights, status] = bound(buffers);
    let (n_experts, k) = (asked.size("n_experts"), asked.size("k"));
    let slots = k + asked.size("n_shared");
    for token in 0..asked.size("tokens") {
        let logits = &logits[token * n_experts..][..n_experts];
        let is_bad = logits
            .iter()
            .any(|&word| breaks(asked, f32::from_bits(word)));
        // From here on in f32: the choice depends on how scores are rounded.
        let of_row: Vec<f32> = gate_scores(asked, &floats(logits, 0, n_experts))
            .into_iter()
            .map(|score| score as f32)
            .collect();
        for (expert, score) in of_row.iter().enumerate() {
            scores[token * n_experts + expert] = score.to_bits();
        }
        let replayed = (asked.u32("has_forced") != 0)
            .then(|| &forced[token * k..][..k])
            .filter(|row| row.first().is_some_and(|&expert| expert as i32 >= 0));
        let chosen: Vec<usize> = match replayed {
            _ if is_bad => (0..k).collect(),
            Some(row) => row.iter().map(|&id| (id as i32).max(0) as usize).collect(),
            None => choose(asked, biased(asked, &of_row, bias)),
        };
        let chosen: Vec<usize> = chosen.into_iter().map(|e| e.min(n_experts - 1)).collect();

        let row = token * slots;
        let of_chosen = chosen_weights(asked, &of_row, &chosen);
        for (slot, (expert, weight)) in chosen.into_iter().zip(of_chosen).enumerate() {
            experts[row + slot] = expert as u32;
            set(weights, row + slot, if is_bad { 0.0 } else { weight });
        }
        for slot in k..slots {
            experts[row + slot] = (n_experts + slot - k) as u32;
            set(weights, row + slot, 1.0);
        }
        if is_bad {
            // The lowest position with a NaN stays.
            let position = asked.u32("position") + token as u32;
            status[1] = status[1].max(0x8000_0000 - position);
        }
    }
}

/// Whether a logit makes NaN of scores.
fn breaks(asked: &Asked, logit: f32) -> bool {
    logit.is_nan() || (asked.knob("SCORING") == SOFTMAX && logit == f32::INFINITY)
}

fn gate_scores(asked: &Asked, logits: &[f64]) -> Vec<f64> {
    if asked.knob("SCORING") != SOFTMAX {
        return logits
            .iter()
            .map(|logit| 1.0 / (1.0 + (-logit).exp()))
            .collect();
    }
    // -inf counts as the least number, so that a row of nothing else has a softmax.
    let logits: Vec<f64> = logits.iter().map(|logit| logit.max(-3.4e38)).collect();
    let most = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.iter().map(|logit| (logit - most).exp()).sum();
    logits
        .iter()
        .map(|logit| (logit - most).exp() / sum)
        .collect()
}

fn biased(asked: &Asked, scores: &[f32], bias: &[u32]) -> Vec<f32> {
    let bias = |expert: usize| match asked.u32("has_bias") {
        0 => 0.0,
        _ => f32::from_bits(bias[expert]),
    };
    let scores = scores.iter().enumerate();
    scores.map(|(expert, score)| score + bias(expert)).collect()
}

/// The `k` best of the groups that stay.
fn choose(asked: &Asked, mut biased: Vec<f32>) -> Vec<usize> {
    let (method, n_groups) = (asked.knob("METHOD"), asked.size("n_groups"));
    if method != GREEDY && n_groups > 1 {
        let size = biased.len() / n_groups;
        let groups: Vec<f32> = biased
            .chunks_exact(size)
            .map(|group| {
                let order = best(group);
                if method == GROUPS_BY_TWO && size > 1 {
                    group[order[0]] + group[order[1]]
                } else {
                    group[order[0]]
                }
            })
            .collect();
        let struck = if method == GROUPS_BY_TWO {
            f32::NEG_INFINITY
        } else {
            0.0
        };
        for group in best(&groups).into_iter().skip(asked.size("n_kept")) {
            biased[group * size..][..size].fill(struck);
        }
    }
    let mut order = best(&biased);
    order.truncate(asked.size("k"));
    order
}

/// Indices, those of the largest numbers first, of equal ones the lower.
fn best(numbers: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..numbers.len()).collect();
    order.sort_by(|&a, &b| numbers[b].total_cmp(&numbers[a]));
    order
}

fn chosen_weights(asked: &Asked, scores: &[f32], chosen: &[usize]) -> Vec<f64> {
    let scores: Vec<f64> = chosen.iter().map(|&expert| scores[expert].into()).collect();
    let divisor = match asked.u32("normalise") {
        0 => 1.0,
        _ => scores.iter().sum::<f64>() + 1e-20,
    };
    let scaling = asked.float("scaling");
    scores
        .iter()
        .map(|score| score / divisor * scaling)
        .collect()
}

/// The slots ordered by expert, in tiles of one expert each.
pub(super) fn expert_plan(asked: &Asked, buffers: &mut [Vec<u32>]) {
    let [experts, plan] = bound(buffers);
    let (n_experts, tile, tiles) = (
        asked.u32("n_experts"),
        asked.size("tile"),
        asked.size("tiles"),
    );
    let experts = &experts[..asked.size("n")];
    let before = |expert: u32| experts.iter().filter(|&&its| its < expert).count();
    let first_tile = |expert: u32| before(expert) / tile + expert as usize;
    for expert in 0..n_experts {
        let own: Vec<u32> = (0..experts.len() as u32)
            .filter(|&slot| experts[slot as usize] == expert)
            .collect();
        plan[4 * tiles + before(expert)..][..own.len()].copy_from_slice(&own);

        // Up to the next expert's, or the end of the list, there may be tiles that are empty.
        let end = match expert + 1 == n_experts {
            true => tiles,
            false => first_tile(expert + 1),
        };
        for (i, at) in (first_tile(expert)..end).enumerate() {
            let done = (i * tile).min(own.len());
            let count = (own.len() - done).min(tile);
            let words = [expert as usize, before(expert) + done, count, 0];
            plan[4 * at..][..4].copy_from_slice(&words.map(|word| word as u32));
        }
    }
}

/// An expert of the stack that is bound and a slot that goes to it.
struct Visit {
    expert: usize,
    slot: usize,
}

impl Visit {
    /// `None` if the stack has not this expert.
    fn new(asked: &Asked, expert: u32, slot: usize) -> Option<Self> {
        let expert = expert.wrapping_sub(asked.u32("first_expert"));
        let expert = (expert < asked.u32("n_experts")).then_some(expert as usize)?;
        Some(Self { expert, slot })
    }
}

/// In the order of the slots.
fn visits(asked: &Asked, experts: &[u32]) -> Vec<Visit> {
    (0..asked.size("tokens") * asked.size("slots"))
        .filter_map(|slot| Visit::new(asked, experts[slot], slot))
        .collect()
}

/// In the order of a plan.
fn planned_visits(asked: &Asked, plan: &[u32]) -> Vec<Visit> {
    let (tiles, order) = plan.split_at(4 * asked.size("tiles"));
    let of_tile = |tile: &[u32]| {
        let [expert, first, count] = [tile[0], tile[1], tile[2]];
        (first..first + count)
            .filter_map(move |at| Visit::new(asked, expert, order[at as usize] as usize))
            .collect::<Vec<_>>()
    };
    tiles.chunks_exact(4).flat_map(of_tile).collect()
}

/// `h[s] = silu(gate x) * (up x)` for every slot whose expert is in the stack.
pub(super) fn mlp_up(asked: &Asked, buffers: &mut [Vec<u32>]) {
    let [x, experts, gate, gate_scales, up, up_scales, h] = bound(buffers);
    let visits = visits(asked, experts);
    up_rows(asked, &visits, x, [gate, gate_scales, up, up_scales], h);
}

/// The same after a plan.
pub(super) fn mlp_up_tiled(asked: &Asked, buffers: &mut [Vec<u32>]) {
    let [x, plan, gate, gate_scales, up, up_scales, h] = bound(buffers);
    let visits = planned_visits(asked, plan);
    up_rows(asked, &visits, x, [gate, gate_scales, up, up_scales], h);
}

fn up_rows(
    asked: &Asked,
    visits: &[Visit],
    x: &[u32],
    [gate, gate_scales, up, up_scales]: [&[u32]; 4],
    h: &mut [u32],
) {
    let (width, hidden) = (asked.size("width"), asked.size("hidden"));
    let gate = Weights::new(asked, gate, gate_scales, [width, hidden]);
    let up = Weights::new(asked, up, up_scales, [width, hidden]);
    for Visit { expert, slot } in visits {
        let token = slot / asked.size("slots");
        let x = floats(x, token * asked.size("x_stride"), hidden);
        for row in 0..width {
            let gate = dot(&gate.row_of(*expert, row), &x);
            let up = dot(&up.row_of(*expert, row), &x);
            let silu = gate / (1.0 + (-gate).exp());
            set(h, slot * width + row, silu * up);
        }
    }
}

/// `y[t] = sum of weight * (down h)` over the slots of `t` whose expert is in the stack, added to
/// what `y` holds if `accumulate`.
pub(super) fn mlp_down(asked: &Asked, buffers: &mut [Vec<u32>]) {
    let [h, experts, weights, down, scales, y] = bound(buffers);
    let (width, hidden) = (asked.size("width"), asked.size("hidden"));
    let down = Weights::new(asked, down, scales, [hidden, width]);
    let n = asked.size("tokens") * hidden;
    let mut sums = match asked.u32("accumulate") {
        0 => vec![0.0; n],
        _ => floats(y, 0, n),
    };
    for Visit { expert, slot } in visits(asked, experts) {
        let h = floats(h, slot * width, width);
        let first = slot / asked.size("slots") * hidden;
        for row in 0..hidden {
            sums[first + row] += float(weights, slot) * dot(&down.row_of(expert, row), &h);
        }
    }
    for (at, sum) in sums.into_iter().enumerate() {
        set(y, at, sum);
    }
}

/// `slots_out[s] = down h` after a plan.
pub(super) fn mlp_down_tiled(asked: &Asked, buffers: &mut [Vec<u32>]) {
    let [h, plan, down, scales, slots_out] = bound(buffers);
    let (width, hidden) = (asked.size("width"), asked.size("hidden"));
    let down = Weights::new(asked, down, scales, [hidden, width]);
    for Visit { expert, slot } in planned_visits(asked, plan) {
        let h = floats(h, slot * width, width);
        for row in 0..hidden {
            set(
                slots_out,
                slot * hidden + row,
                dot(&down.row_of(expert, row), &h),
            );
        }
    }
}

/// `y[t] = sum of weights[s] * slots_out[s]` over the slots of `t`.
pub(super) fn combine(asked: &Asked, buffers: &mut [Vec<u32>]) {
    let [slots_out, weights, y] = bound(buffers);
    let (slots, hidden) = (asked.size("slots"), asked.size("hidden"));
    for token in 0..asked.size("tokens") {
        for column in 0..hidden {
            let of_slot = |slot| float(weights, slot) * float(slots_out, slot * hidden + column);
            let sum = (token * slots..(token + 1) * slots).map(of_slot).sum();
            set(y, token * hidden + column, sum);
        }
    }
}
