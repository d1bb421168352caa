//! `route` against its reference.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;
use shaders::Tuning;
use shaders::route::{
    Call, GREEDY, GROUPS_BY_BEST, GROUPS_BY_TWO, KERNEL, SIGMOID, SOFTMAX, dispatch,
};

use super::gpu::{self, Gpu, Near};
use super::inputs::seeded;

/// exp is good for a few units in the last place on every device; a sum of 160 scores for 2 more.
const TOLERANCE: f64 = 3e-6;

struct Inputs {
    logits: Vec<f32>,
    bias: Vec<f32>,
    forced: Vec<i32>,
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

/// Gives all bindings; experts and status are exactly the reference's.
fn run(gpu: &Gpu, tuning: &Tuning, call: &Call, inputs: &Inputs) -> [Vec<u32>; 7] {
    let slots = call.k + call.n_shared;
    let or_dummy = |words: Vec<u32>| match words.is_empty() {
        true => gpu::garbage(1),
        false => words,
    };
    let buffers = [
        gpu::words(&inputs.logits),
        or_dummy(gpu::words(&inputs.bias)),
        or_dummy(inputs.forced.iter().map(|&id| id as u32).collect()),
        gpu::garbage(call.tokens * call.n_experts),
        gpu::garbage(call.tokens * slots),
        gpu::garbage(call.tokens * slots),
        vec![0; 4],
    ];
    // What a row with a NaN has for scores is nobody's business.
    let scores = match inputs.logits.iter().any(|logit| logit.is_nan()) {
        true => Near::Packed,
        false => Near::Rows(call.n_experts, TOLERANCE),
    };
    let near = [
        ("scores", scores),
        ("weights", Near::Rows(slots, TOLERANCE)),
    ];
    let [found, _] = gpu.check(&dispatch(call, tuning), &buffers, &near);
    found.try_into().expect("seven bindings")
}

fn check(call: &Call, inputs: &Inputs) {
    gpu::each(&KERNEL, |gpu, tuning| {
        let [.., status] = run(gpu, tuning, call, inputs);
        assert_eq!(status, [0; 4]);
    });
}

/// Logits that differ by more than `f32` could blur.
fn shuffled(random: &mut ChaCha8Rng, tokens: usize, n: usize) -> Vec<f32> {
    let mut logits = Vec::new();
    for _ in 0..tokens {
        let mut row: Vec<f32> = (0..n)
            .map(|i| (i as f32 - n as f32 / 2.0) * 6.0 / n as f32)
            .collect();
        for i in (1..n).rev() {
            row.swap(i, random.next_u32() as usize % (i + 1));
        }
        logits.extend(row);
    }
    logits
}

#[test]
fn routes_of_every_model_family_are_those_of_a_sort() {
    let random = &mut seeded(1);
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
        logits: shuffled(random, 5, 256),
        // Negative enough for negative sums of two.
        bias: (0..256)
            .map(|_| (random.next_u32() % 64) as f32 / 32.0 - 1.5)
            .collect(),
        forced: vec![],
    };
    check(&v3, &inputs);
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
        logits: shuffled(random, 3, 160),
        bias: vec![],
        forced: vec![],
    };
    check(&v2, &inputs);
    let odd = Call {
        scoring: SOFTMAX,
        n_experts: 37,
        k: 37,
        n_shared: 1,
        ..call()
    };
    let inputs = Inputs {
        logits: shuffled(random, 1, 37),
        bias: vec![],
        forced: vec![],
    };
    check(&odd, &inputs);
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
    check(&ties, &inputs);
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
        check(&few, &inputs);
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
        check(&large, &inputs);
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
    check(&none, &inputs);
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
        logits: shuffled(&mut seeded(2), 3, 8),
        bias: vec![],
        forced: vec![5, 1, -1, -1, 4, 4],
    };
    check(&replayed, &inputs);
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
    gpu::each(&KERNEL, |gpu, tuning| {
        let [.., experts, weights, status] = run(gpu, tuning, &three, &inputs);
        assert_eq!(experts, [0, 1, 0, 1, 0, 1, 0, 1]);
        assert_eq!(status, [0, 0x8000_0000 - 101, 0, 0]);
        let weights = gpu::floats(&weights);
        assert_eq!(weights, [1.25, 1.25, 0.0, 0.0, 1.25, 1.25, 0.0, 0.0]);
    });
}
