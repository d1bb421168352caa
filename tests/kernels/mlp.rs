//! `mlp_up` and `mlp_down` against their references, each with matrices of `rows` and `cols`: `width` and
//! `hidden` of the first, `hidden` and `width` of the second.

use shaders::weights::DTYPES;
use shaders::{mlp_down, mlp_up};

use super::gpu::{self, Near};
use super::inputs::{rows, seeded, uniforms, weights};

/// 260 products are summed in f32, and go through exp.
const UP: f64 = 3e-6;

/// Some 300 products are summed in f32.
const DOWN: f64 = 2e-6;

fn up(dtype: u32, [tokens, slots]: [usize; 2], [width, hidden]: [usize; 2]) -> mlp_up::Call {
    mlp_up::Call {
        dtype,
        tokens,
        slots,
        width,
        hidden,
        first_expert: 0,
        n_experts: 4,
        // Between the rows there may be something.
        x_stride: hidden + 32 * (width % 2),
    }
}

fn down(dtype: u32, [tokens, slots]: [usize; 2], [hidden, width]: [usize; 2]) -> mlp_down::Call {
    mlp_down::Call {
        dtype,
        tokens,
        slots,
        width,
        hidden,
        first_expert: 0,
        n_experts: 4,
        accumulate: false,
    }
}

/// Runs every adapter and tuning; rows of slots outside the stack must be left alone.
fn check_up(call: &mlp_up::Call, experts: &[u32], seed: u64) {
    let random = &mut seeded(seed);
    let shape = [call.n_experts, call.width, call.hidden];
    let [gate, gate_scales] = weights(random, call.dtype, shape);
    let [up, up_scales] = weights(random, call.dtype, shape);
    let buffers = [
        rows(random, call.tokens, [0, call.hidden, call.x_stride]),
        experts.to_vec(),
        gate,
        gate_scales,
        up,
        up_scales,
        gpu::garbage(experts.len() * call.width),
    ];
    gpu::each(&mlp_up::KERNEL, |gpu, tuning| {
        // Subgroups only sum over lanes: not where a lane has its own rows, and the same of every type.
        if !tuning.subgroups || (!tuning.fat_threads && call.dtype == 3) {
            let near = [("h", Near::Rows(call.width, UP))];
            gpu.check(&mlp_up::dispatch(call, tuning), &buffers, &near);
        }
    });
}

/// The same, with and without something in `y` to add to.
fn check_down(call: &mlp_down::Call, experts: &[u32], seed: u64) {
    let random = &mut seeded(seed);
    let [down, scales] = weights(
        random,
        call.dtype,
        [call.n_experts, call.hidden, call.width],
    );
    let mut h = uniforms(random, experts.len() * call.width);
    for (row, expert) in h.chunks_mut(call.width).zip(experts) {
        // mlp_up has not written what is not the stack's.
        if !(call.first_expert..call.first_expert + call.n_experts).contains(&(*expert as usize)) {
            row.fill(f32::NAN.to_bits());
        }
    }
    let n = call.tokens * call.hidden;
    for (accumulate, y) in [(false, gpu::garbage(n)), (true, uniforms(random, n))] {
        let shares = uniforms(random, experts.len());
        let (h, down, scales) = (h.clone(), down.clone(), scales.clone());
        let buffers = [h, experts.to_vec(), shares, down, scales, y];
        let call = mlp_down::Call {
            accumulate,
            ..*call
        };
        gpu::each(&mlp_down::KERNEL, |gpu, tuning| {
            if !tuning.subgroups || (!tuning.fat_threads && call.dtype == 3) {
                let near = [("y", Near::Rows(call.hidden, DOWN))];
                gpu.check(&mlp_down::dispatch(&call, tuning), &buffers, &near);
            }
        });
    }
}

/// Both kernels with `n_experts` from `first` on.
fn check(
    [dtype, first, n_experts]: [u32; 3],
    tokens: [usize; 2],
    shape: [usize; 2],
    experts: &[u32],
) {
    let (first_expert, n_experts) = (first as usize, n_experts as usize);
    let up = mlp_up::Call {
        first_expert,
        n_experts,
        ..up(dtype, tokens, shape)
    };
    check_up(&up, experts, 1);
    let down = mlp_down::Call {
        first_expert,
        n_experts,
        ..down(dtype, tokens, shape)
    };
    check_down(&down, experts, 2);
}

const SHAPES: [[usize; 2]; 2] = [[36, 68], [68, 36]];

#[test]
fn one_token_goes_through_its_experts() {
    for &dtype in DTYPES {
        for shape in SHAPES {
            check([dtype, 0, 4], [1, 3], shape, &[3, 0, 2]);
        }
    }
}

#[test]
fn tokens_share_experts_in_any_company() {
    for shape in SHAPES {
        for &dtype in DTYPES {
            check([dtype, 0, 4], [2, 3], shape, &[1, 2, 3, 2, 0, 3]);
        }
        // Shared at different slots, by all tokens, by none.
        check([3, 0, 4], [3, 3], shape, &[1, 2, 3, 2, 1, 3, 2, 0, 3]);
        // One expert with everything, twice a token.
        check([3, 0, 4], [8, 2], shape, &[2; 16]);
    }
}

#[test]
fn a_dense_mlp_is_one_expert() {
    for cols in [36, 68] {
        check([3, 0, 1], [5, 1], [131, cols], &[0; 5]);
    }
}

#[test]
fn slices_of_the_stack_add_up_and_others_are_left_alone() {
    for shape in SHAPES {
        for tokens in [1, 2] {
            let experts = [4, 5, 7, 6, 6, 9, 4, 5];
            check([3, 5, 2], [tokens, 4], shape, &experts[..tokens * 4]);
            // Nothing for this slice.
            let experts = [4, 3, 7, 8, 7, 9, 4, 0];
            check([3, 5, 2], [tokens, 4], shape, &experts[..tokens * 4]);
        }
    }
}

#[test]
fn fp8_blocks_are_crossed_both_ways() {
    for tokens in [1, 2] {
        check([3, 0, 2], [tokens, 1], [133, 260], &[1, 0][..tokens]);
    }
    check([3, 0, 2], [1, 1], [129, 256], &[1]);
}

#[test]
fn company_does_not_change_a_token() {
    let random = &mut seeded(8);
    let [w, scales] = weights(random, 3, [4, 68, 36]);
    let h = [(); 2].map(|()| uniforms(random, 2 * 36));
    let shares = [(); 2].map(|()| uniforms(random, 2));
    let call = down(3, [2, 2], [68, 36]);
    gpu::each(&mlp_down::KERNEL, |gpu, tuning| {
        let run = |order: [usize; 2], experts: [u32; 4]| {
            let buffers = [
                order.map(|token| h[token].clone()).concat(),
                experts.to_vec(),
                order.map(|token| shares[token].clone()).concat(),
                w.clone(),
                scales.clone(),
                gpu::garbage(2 * 68),
            ];
            let near = [("y", Near::Rows(68, DOWN))];
            let [found, _] = gpu.check(&mlp_down::dispatch(&call, tuning), &buffers, &near);
            found[5].clone()
        };
        let one = run([0, 1], [1, 3, 3, 0]);
        let swapped = run([1, 0], [3, 0, 1, 3]);
        assert_eq!([&one[..68], &one[68..]], [&swapped[68..], &swapped[..68]]);
    });
}

#[test]
fn large_gates_neither_overflow_nor_vanish() {
    let small = mlp_up::Call {
        n_experts: 1,
        ..up(0, [1, 1], [4, 4])
    };
    let column = |by: [f32; 4]| -> Vec<u32> {
        let rows = by.iter().flat_map(|&by| [by, 0.0, 0.0, 0.0]);
        gpu::words(&rows.collect::<Vec<_>>())
    };
    let buffers = [
        gpu::words(&[1.0, 0.0, 0.0, 0.0]),
        vec![0],
        column([1e30, -1e30, -200.0, 0.0]),
        gpu::garbage(4),
        column([2.0; 4]),
        gpu::garbage(4),
        gpu::garbage(4),
    ];
    gpu::each(&mlp_up::KERNEL, |gpu, tuning| {
        let near = [("h", Near::Rows(4, UP))];
        let [found, _] = gpu.check(&mlp_up::dispatch(&small, tuning), &buffers, &near);
        let found = gpu::floats(&found[6]);
        // exp(88) stands for what is beyond: nothing, of the size of the gate.
        assert!(found[1].abs() < 1e30 * 1e-37, "{found:?}");
        assert!(found[2].abs() < 1e-30 && found[3] == 0.0, "{found:?}");
    });
}
