//! Which experts a token goes to, and with what weight.

use crate::kernel::{Cost, Dispatch, Kernel, Knob, Tuning, params, spread};
use crate::pieces::{REDUCE, plain};
use crate::reference::{bound, float, floats, set, set_all};

/// `scores`, `experts` and `weights` of each row of `logits`.
pub const KERNEL: Kernel = Kernel {
    name: "route",
    pieces: &[REDUCE, plain(include_str!("route.wgsl"))],
    bindings: &[
        "logits", "bias", "forced", "scores", "experts", "weights", "status",
    ],
    knobs: &[
        Knob::new("SCORING", SIGMOID, &[SIGMOID, SOFTMAX]),
        Knob::new(
            "METHOD",
            GROUPS_BY_TWO,
            &[GREEDY, GROUPS_BY_BEST, GROUPS_BY_TWO],
        ),
        Knob::new("WG", 256, &[32, 256]),
    ],
    params: Params::LAYOUT,
    reference,
};

/// Scores are sigmoids of the logits.
pub const SIGMOID: u32 = 0;
/// Scores are the softmax of the logits.
pub const SOFTMAX: u32 = 1;

/// All experts compete.
pub const GREEDY: u32 = 0;
/// Groups are ranked by their best expert; losers count as 0 (`group_limited_greedy`).
pub const GROUPS_BY_BEST: u32 = 1;
/// Groups are ranked by the sum of their two best; losers are out (`noaux_tc`).
pub const GROUPS_BY_TWO: u32 = 2;

/// Most routed experts, an array in workgroup memory.
pub const MOST_EXPERTS: usize = 512;

/// Most groups of them, another.
pub const MOST_GROUPS: usize = 128;

params! {
    tokens: u32,
    n_experts: u32,
    k: u32,
    n_shared: u32,
    n_groups: u32,
    n_kept: u32,
    has_bias: u32,
    has_forced: u32,
    normalise: u32,
    scaling: f32,
    position: u32,
    padding: u32,
}

/// What is to be routed; names as in the checkpoint's configuration.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// [`SIGMOID`] or [`SOFTMAX`].
    pub scoring: u32,
    /// [`GREEDY`], [`GROUPS_BY_BEST`] or [`GROUPS_BY_TWO`].
    pub method: u32,
    /// Rows.
    pub tokens: usize,
    /// `n_routed_experts`, at most [`MOST_EXPERTS`].
    pub n_experts: usize,
    /// `num_experts_per_tok`.
    pub k: usize,
    /// `n_shared_experts`: as many more slots, experts `n_experts..`, weight 1.
    pub n_shared: usize,
    /// `n_group`, at most [`MOST_GROUPS`]; divides `n_experts`.
    pub n_groups: usize,
    /// `topk_group`.
    pub n_kept: usize,
    /// Whether `bias` is one; else any buffer of a word.
    pub has_bias: bool,
    /// Whether `forced` is one; else any buffer of a word.
    pub has_forced: bool,
    /// `norm_topk_prob`.
    pub normalise: bool,
    /// `routed_scaling_factor`.
    pub scaling: f32,
    /// Position of the first token, for `status`.
    pub position: usize,
}

/// One workgroup a token.
///
/// # Panics
/// Sizes that no configuration passes.
pub fn dispatch(call: &Call, tuning: &Tuning) -> Dispatch {
    assert!(
        call.k <= call.n_experts && call.n_experts <= MOST_EXPERTS && call.n_groups <= MOST_GROUPS,
        "{} of {} experts in {} groups do not fit the kernel",
        call.k,
        call.n_experts,
        call.n_groups
    );
    let params = Params {
        tokens: call.tokens as u32,
        n_experts: call.n_experts as u32,
        k: call.k as u32,
        n_shared: call.n_shared as u32,
        n_groups: call.n_groups as u32,
        n_kept: call.n_kept as u32,
        has_bias: call.has_bias.into(),
        has_forced: call.has_forced.into(),
        normalise: call.normalise.into(),
        scaling: call.scaling,
        position: call.position as u32,
        padding: 0,
    };
    let tokens = call.tokens as u64;
    let n_experts = call.n_experts as u64;
    let slots = (call.k + call.n_shared) as u64;
    let read =
        n_experts * (1 + u64::from(call.has_bias)) + call.k as u64 * u64::from(call.has_forced);
    let [x, y] = spread(call.tokens as u32);
    Dispatch {
        kernel: &KERNEL,
        knobs: vec![
            ("SCORING", call.scoring),
            ("METHOD", call.method),
            ("WG", if tuning.fat_threads { 32 } else { 256 }),
        ],
        subgroups: tuning.subgroups,
        params: bytemuck::bytes_of(&params).to_vec(),
        groups: [x, y, 1],
        cost: Cost {
            read_bytes: tokens * read * 4,
            write_bytes: tokens * (n_experts + 2 * slots) * 4,
            flops: tokens * n_experts * 8,
        },
    }
}

fn reference(dispatch: &Dispatch, buffers: &mut [Vec<u32>]) {
    let [logits, bias, forced, scores, experts, weights, status] = bound(buffers);
    let [n_experts, k, n_shared] = dispatch.sizes(["n_experts", "k", "n_shared"]);
    for token in 0..dispatch.size("tokens") {
        let row = token * n_experts;
        let logits = floats(logits, row, n_experts);
        let softmax = dispatch.knob("SCORING") == SOFTMAX;
        // What makes NaN of scores.
        let breaks = |logit: &f64| logit.is_nan() || (softmax && *logit == f64::INFINITY);
        let is_bad = logits.iter().any(breaks);
        set_all(scores, row, &gate_scores(softmax, &logits));
        // From here on as they were rounded: the choice depends on it.
        let scores = floats(scores, row, n_experts);
        let replayed = (dispatch.word("has_forced") != 0)
            .then(|| &forced[token * k..][..k])
            .filter(|row| row.first().is_some_and(|&expert| expert as i32 >= 0));
        let chosen: Vec<usize> = match replayed {
            _ if is_bad => (0..k).collect(),
            Some(row) => row.iter().map(|&id| (id as i32).max(0) as usize).collect(),
            None => {
                let bias = |expert| match dispatch.word("has_bias") {
                    0 => 0.0,
                    _ => float(bias, expert),
                };
                let biased = scores.iter().enumerate();
                // An f32 sum, as ties depend on it.
                choose(
                    dispatch,
                    biased.map(|(e, s)| (s + bias(e)) as f32).collect(),
                )
            }
        };
        let chosen: Vec<usize> = chosen.iter().map(|&id| id.min(n_experts - 1)).collect();
        let divisor = match dispatch.word("normalise") {
            0 => 1.0,
            _ => chosen.iter().map(|&id| scores[id]).sum::<f64>() + 1e-20,
        };
        let first = token * (k + n_shared);
        for (slot, &id) in chosen.iter().enumerate() {
            let weight = scores[id] / divisor * dispatch.float("scaling");
            experts[first + slot] = id as u32;
            set(weights, first + slot, if is_bad { 0.0 } else { weight });
        }
        for shared in 0..n_shared {
            experts[first + k + shared] = (n_experts + shared) as u32;
            set(weights, first + k + shared, 1.0);
        }
        if is_bad {
            // The lowest position with a NaN stays.
            let position = dispatch.word("position") + token as u32;
            status[1] = status[1].max(0x8000_0000 - position);
        }
    }
}

fn gate_scores(softmax: bool, logits: &[f64]) -> Vec<f64> {
    if !softmax {
        let sigmoid = |logit: &f64| 1.0 / (1.0 + (-logit).exp());
        return logits.iter().map(sigmoid).collect();
    }
    // -inf counts as the least number, so that a row of nothing else has a softmax.
    let logits: Vec<f64> = logits.iter().map(|logit| logit.max(-3.4e38)).collect();
    let most = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = logits.iter().map(|logit| (logit - most).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|power| power / sum).collect()
}

/// The `k` best of the groups that stay.
fn choose(dispatch: &Dispatch, mut biased: Vec<f32>) -> Vec<usize> {
    let (method, n_groups) = (dispatch.knob("METHOD"), dispatch.size("n_groups"));
    if method != GREEDY && n_groups > 1 {
        let size = biased.len() / n_groups;
        let (n_best, struck) = match method {
            GROUPS_BY_TWO => (2, f32::NEG_INFINITY),
            _ => (1, 0.0),
        };
        let of_group = |group: &[f32]| {
            let order = best(group);
            order.iter().take(n_best).map(|&at| group[at]).sum()
        };
        let groups: Vec<f32> = biased.chunks_exact(size).map(of_group).collect();
        for group in best(&groups).into_iter().skip(dispatch.size("n_kept")) {
            biased[group * size..][..size].fill(struck);
        }
    }
    let mut order = best(&biased);
    order.truncate(dispatch.size("k"));
    order
}

/// Indices, those of the largest numbers first, of equal ones the lower; 0 and -0 are equal.
fn best(numbers: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..numbers.len()).collect();
    order.sort_by(|&a, &b| (numbers[b] + 0.0).total_cmp(&(numbers[a] + 0.0)));
    order
}
