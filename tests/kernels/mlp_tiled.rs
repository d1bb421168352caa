//! `mlp_up_tiled` and `mlp_down_tiled` against their references, each with matrices of `rows` and `cols`:
//! `width` and `hidden` of the first, `hidden` and `width` of the second.

use rand_chacha::rand_core::Rng;
use shaders::weights::DTYPES;
use shaders::{expert_plan, mlp_down_tiled, mlp_up_tiled};

use super::expert_plan::plan;
use super::gpu::{self, Near};
use super::inputs::{rows, seeded, uniforms, weights};

/// Some 300 products are summed in f32, and go through exp.
const UP: f64 = 3e-6;

/// Without exp.
const DOWN: f64 = 2e-6;

/// Both kernels with `n_experts` from `first_expert` on, of those that the plan has, at every tuning; rows
/// of slots outside the stack must be left alone.
fn check(
    dtype: u32,
    plan_of: expert_plan::Call,
    [first_expert, n_experts]: [usize; 2],
    [n_rows, cols]: [usize; 2],
    experts: &[u32],
) {
    let random = &mut seeded(n_rows as u64);
    let [w, scales] = weights(random, dtype, [n_experts, n_rows, cols]);
    let [up, up_scales] = weights(random, dtype, [n_experts, n_rows, cols]);
    let slots = experts.len();

    let call = mlp_up_tiled::Call {
        dtype,
        plan: plan_of,
        width: n_rows,
        hidden: cols,
        first_expert,
        n_experts,
        // Between the rows there may be something.
        x_stride: cols + 32 * (n_rows % 2),
    };
    let x = rows(random, plan_of.tokens, [0, cols, call.x_stride]);
    gpu::each(&mlp_up_tiled::KERNEL, |gpu, tuning| {
        let plan = plan(tuning, &plan_of, experts);
        let [gate, gate_scales, up, up_scales] = [&w, &scales, &up, &up_scales].map(Vec::clone);
        let h = gpu::garbage(slots * n_rows);
        let buffers = [x.clone(), plan, gate, gate_scales, up, up_scales, h];
        let near = [("h", Near::Rows(n_rows, UP))];
        gpu.check(&mlp_up_tiled::dispatch(&call, tuning), &buffers, &near);
    });

    let call = mlp_down_tiled::Call {
        dtype,
        plan: plan_of,
        width: cols,
        hidden: n_rows,
        first_expert,
        n_experts,
    };
    let h = uniforms(random, slots * cols);
    gpu::each(&mlp_down_tiled::KERNEL, |gpu, tuning| {
        let plan = plan(tuning, &plan_of, experts);
        let slots_out = gpu::garbage(slots * n_rows);
        let buffers = [h.clone(), plan, w.clone(), scales.clone(), slots_out];
        let near = [("slots_out", Near::Rows(n_rows, DOWN))];
        gpu.check(&mlp_down_tiled::dispatch(&call, tuning), &buffers, &near);
    });
}

fn plan_of(tokens: usize, slots: usize, n_experts: usize) -> expert_plan::Call {
    expert_plan::Call {
        tokens,
        slots,
        n_experts,
    }
}

const SHAPES: [[usize; 2]; 2] = [[36, 68], [68, 36]];

#[test]
fn slots_go_through_their_experts() {
    let random = &mut seeded(1);
    for &dtype in DTYPES {
        // Expert 4 has none.
        let experts: Vec<u32> = (0..36).map(|_| random.next_u32() % 4).collect();
        for shape in SHAPES {
            check(dtype, plan_of(12, 3, 5), [0, 5], shape, &experts);
        }
    }
}

#[test]
fn a_dense_mlp_is_one_expert_of_many_tiles() {
    for cols in [36, 68] {
        check(3, plan_of(67, 1, 1), [0, 1], [131, cols], &[0; 67]);
    }
}

#[test]
fn other_slices_of_the_stack_are_left_alone() {
    let experts = [2, 5, 1, 0, 3, 2, 2, 3, 4, 5, 0, 1];
    for shape in SHAPES {
        check(3, plan_of(6, 2, 6), [2, 2], shape, &experts);
    }
}

#[test]
fn fp8_blocks_are_crossed_both_ways() {
    let experts = [1, 0, 1, 1, 1, 1, 1, 0, 1, 1];
    for cols in [260, 256] {
        check(3, plan_of(10, 1, 2), [0, 2], [133, cols], &experts);
    }
}
