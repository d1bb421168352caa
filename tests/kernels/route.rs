//! `route` against a plain sort in `f64`.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use shaders::kernel::Tuning;
use shaders::route::{Call, GREEDY, GROUPS_BY_BEST, GROUPS_BY_TWO, SIGMOID, SOFTMAX, dispatch};

use super::gpu::{self, Gpu};

/// exp is good for a few units in the last place on every device; a sum of 160 scores for 2 more.
const TOLERANCE: f64 = 3e-6;

struct Inputs {
    logits: Vec<f32>,
    bias: Vec<f32>,
    forced: Vec<i32>,
}

#[derive(Debug, PartialEq)]
struct Routes {
    scores: Vec<f32>,
    experts: Vec<i32>,
    weights: Vec<f32>,
    status: Vec<u32>,
}

fn call() -> Call {
    Call {
        scoring: SIGMOID,
        method: GREEDY,
        tokens: 1,
        n_experts: 8,
        k: 2,
        n_shared: 0,
        n_groups: 1,
        n_kept: 1,
        has_bias: false,
        has_forced: false,
        normalise: true,
        scaling: 2.5,
        position: 100,
    }
}

fn run(gpu: &Gpu, tuning: &Tuning, call: &Call, inputs: &Inputs) -> Routes {
    let slots = call.tokens * (call.k + call.n_shared);
    let or_dummy = |words: Vec<u32>| {
        if words.is_empty() {
            gpu::garbage(1)
        } else {
            words
        }
    };
    let mut buffers = [
        gpu::words(&inputs.logits),
        or_dummy(gpu::words(&inputs.bias)),
        or_dummy(inputs.forced.iter().map(|&id| id as u32).collect()),
        gpu::garbage(call.tokens * call.n_experts),
        gpu::garbage(slots),
        gpu::garbage(slots),
        vec![0; 4],
    ];
    gpu.run(&dispatch(call, tuning), &mut buffers);
    let [_, _, _, scores, experts, weights, status] = buffers;
    Routes {
        scores: gpu::floats(&scores),
        experts: experts.iter().map(|&id| id as i32).collect(),
        weights: gpu::floats(&weights),
        status,
    }
}

/// Ids of the best, best first, ties to the lower id.
fn best(numbers: &[f64], n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..numbers.len()).collect();
    order.sort_by(|&a, &b| numbers[b].partial_cmp(&numbers[a]).unwrap().then(a.cmp(&b)));
    order.truncate(n);
    order
}

/// Experts and weights of one row by its exact scores.
fn expected(
    call: &Call,
    scores: &[f64],
    bias: &[f32],
    forced: Option<&[i32]>,
) -> (Vec<i32>, Vec<f64>) {
    let mut biased = scores.to_vec();
    if call.has_bias {
        biased
            .iter_mut()
            .zip(bias)
            .for_each(|(b, &bias)| *b += f64::from(bias));
    }
    if call.method != GREEDY && call.n_groups > 1 {
        let n = if call.method == GROUPS_BY_TWO { 2 } else { 1 };
        let size = call.n_experts / call.n_groups;
        let groups: Vec<f64> = biased
            .chunks(size)
            .map(|group| best(group, n).iter().map(|&at| group[at]).sum())
            .collect();
        let kept = best(&groups, call.n_kept);
        for (at, group) in biased.chunks_mut(size).enumerate() {
            if !kept.contains(&at) {
                group.fill(if n == 2 { f64::NEG_INFINITY } else { 0.0 });
            }
        }
    }
    let mut experts: Vec<i32> = match forced {
        Some(forced) => forced.to_vec(),
        None => best(&biased, call.k).iter().map(|&id| id as i32).collect(),
    };
    let picked: Vec<f64> = experts.iter().map(|&id| scores[id as usize]).collect();
    let sum = if call.normalise {
        picked.iter().sum::<f64>() + 1e-20
    } else {
        1.0
    };
    let mut weights: Vec<f64> = picked
        .iter()
        .map(|score| score / sum * f64::from(call.scaling))
        .collect();
    experts.extend((0..call.n_shared).map(|i| (call.n_experts + i) as i32));
    weights.extend((0..call.n_shared).map(|_| 1.0));
    (experts, weights)
}

fn exact_scores(call: &Call, logits: &[f32]) -> Vec<f64> {
    let logits = logits.iter().map(|&logit| f64::from(logit));
    if call.scoring == SIGMOID {
        return logits.map(|logit| 1.0 / (1.0 + (-logit).exp())).collect();
    }
    let most = logits.clone().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.clone().map(|logit| (logit - most).exp()).sum();
    logits.map(|logit| (logit - most).exp() / sum).collect()
}

fn check(call: &Call, inputs: &Inputs, what: &str) {
    for gpu in gpu::all() {
        for tuning in gpu.tunings() {
            let routes = run(gpu, &tuning, call, inputs);
            let what = format!("{what}, {}, {tuning:?}", gpu.name);
            let slots = call.k + call.n_shared;
            for token in 0..call.tokens {
                let row = token * call.n_experts..(token + 1) * call.n_experts;
                let scores = exact_scores(call, &inputs.logits[row.clone()]);
                let forced = inputs
                    .forced
                    .get(token * call.k..(token + 1) * call.k)
                    .filter(|forced| forced[0] >= 0);
                let (experts, weights) = expected(call, &scores, &inputs.bias, forced);
                let own = token * slots..(token + 1) * slots;
                gpu::assert_close(&routes.scores[row], &scores, TOLERANCE, &what);
                assert_eq!(
                    routes.experts[own.clone()],
                    experts,
                    "{what}: token {token}"
                );
                gpu::assert_close(&routes.weights[own], &weights, TOLERANCE, &what);
            }
            assert_eq!(routes.status, [0; 4], "{what}");
            assert_eq!(routes, run(gpu, &tuning, call, inputs), "{what}: twice");
        }
    }
}

/// Logits that differ by more than `f32` could blur.
fn shuffled(rng: &mut ChaCha8Rng, tokens: usize, n: usize) -> Vec<f32> {
    let mut logits = Vec::new();
    for _ in 0..tokens {
        let mut row: Vec<f32> = (0..n)
            .map(|i| (i as f32 - n as f32 / 2.0) * 6.0 / n as f32)
            .collect();
        for i in (1..n).rev() {
            row.swap(i, rng.next_u32() as usize % (i + 1));
        }
        logits.extend(row);
    }
    logits
}

#[test]
fn routes_of_every_model_family_are_those_of_a_sort() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let v3 = Call {
        method: GROUPS_BY_TWO,
        tokens: 5,
        n_experts: 256,
        k: 8,
        n_shared: 1,
        n_groups: 8,
        n_kept: 4,
        has_bias: true,
        ..call()
    };
    let inputs = Inputs {
        logits: shuffled(&mut rng, 5, 256),
        // Negative enough for negative sums of two.
        bias: (0..256)
            .map(|_| (rng.next_u32() % 64) as f32 / 32.0 - 1.5)
            .collect(),
        forced: vec![],
    };
    check(&v3, &inputs, "V3");
    let v2 = Call {
        scoring: SOFTMAX,
        method: GROUPS_BY_BEST,
        tokens: 3,
        n_experts: 160,
        k: 6,
        n_shared: 2,
        n_groups: 8,
        n_kept: 3,
        normalise: false,
        scaling: 16.0,
        ..call()
    };
    let inputs = Inputs {
        logits: shuffled(&mut rng, 3, 160),
        bias: vec![],
        forced: vec![],
    };
    check(&v2, &inputs, "V2");
    let odd = Call {
        scoring: SOFTMAX,
        n_experts: 37,
        k: 37,
        n_shared: 1,
        ..call()
    };
    let inputs = Inputs {
        logits: shuffled(&mut rng, 1, 37),
        bias: vec![],
        forced: vec![],
    };
    check(&odd, &inputs, "37 of 37");
}

#[test]
fn ties_go_to_the_lower_expert_and_group() {
    let ties = Call {
        method: GROUPS_BY_TWO,
        tokens: 2,
        n_experts: 12,
        k: 3,
        n_groups: 4,
        n_kept: 2,
        has_bias: true,
        ..call()
    };
    let mut logits = vec![0.0; 24];
    logits[12 + 7] = 1.0;
    let inputs = Inputs {
        logits,
        bias: vec![-3.0; 12],
        forced: vec![],
    };
    check(&ties, &inputs, "all equal");
}

#[test]
fn more_slots_than_kept_experts_take_the_struck_ones_in_order() {
    for method in [GROUPS_BY_BEST, GROUPS_BY_TWO] {
        let few = Call {
            method,
            n_experts: 6,
            k: 4,
            n_groups: 6,
            n_kept: 1,
            has_bias: true,
            ..call()
        };
        let inputs = Inputs {
            logits: vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0],
            bias: vec![-9.0; 6],
            forced: vec![],
        };
        check(&few, &inputs, "groups of one");
    }
}

#[test]
fn large_logits_saturate() {
    for scoring in [SIGMOID, SOFTMAX] {
        let large = Call { scoring, ..call() };
        let inputs = Inputs {
            logits: vec![1e30, -1e30, 200.0, -200.0, 3e38, -3e38, 0.0, -0.0],
            bias: vec![],
            forced: vec![],
        };
        check(&large, &inputs, "large");
    }
    let none = Call {
        scaling: 1.0,
        ..call()
    };
    let inputs = Inputs {
        logits: vec![-80.0; 8],
        bias: vec![],
        forced: vec![],
    };
    check(&none, &inputs, "all as good as zero");
}

#[test]
fn a_replayed_row_takes_the_recorded_experts() {
    let replayed = Call {
        tokens: 3,
        k: 2,
        n_shared: 1,
        has_forced: true,
        ..call()
    };
    let inputs = Inputs {
        logits: shuffled(&mut ChaCha8Rng::seed_from_u64(2), 3, 8),
        bias: vec![],
        forced: vec![5, 1, -1, -1, 4, 4],
    };
    check(&replayed, &inputs, "replayed");
}

#[test]
fn a_nan_reports_the_lowest_position_and_spoils_no_other_row() {
    let three = Call {
        tokens: 4,
        ..call()
    };
    let mut logits = vec![0.0; 32];
    logits[8 + 3] = f32::NAN;
    logits[24] = -f32::NAN;
    let inputs = Inputs {
        logits,
        bias: vec![],
        forced: vec![],
    };
    for gpu in gpu::all() {
        for tuning in gpu.tunings() {
            let routes = run(gpu, &tuning, &three, &inputs);
            assert_eq!(routes.experts, [0, 1, 0, 1, 0, 1, 0, 1]);
            assert_eq!(routes.status, [0, 0x8000_0000 - 101, 0, 0]);
            assert_eq!(routes.weights, [1.25, 1.25, 0.0, 0.0, 1.25, 1.25, 0.0, 0.0]);
        }
    }
}
