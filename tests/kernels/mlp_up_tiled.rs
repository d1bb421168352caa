//! `mlp_up_tiled` against plain `f64`.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use shaders::expert_plan;
use shaders::mlp_up_tiled::{Call, dispatch};
use shaders::weights::DTYPES;

use super::expert_plan::plan;
use super::gpu;
use super::mlp_up::{Stack, hidden, uniforms, wide};

/// Some 300 products are summed in f32, and go through exp.
const TOLERANCE: f64 = 3e-6;

/// Runs every adapter and tuning; rows of slots outside the stack must be left alone.
fn check(call: &Call, experts: &[u32], seed: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let gate = Stack::random(
        &mut rng,
        call.dtype,
        call.n_experts,
        call.width,
        call.hidden,
    );
    let up = Stack::random(
        &mut rng,
        call.dtype,
        call.n_experts,
        call.width,
        call.hidden,
    );
    let mut x = uniforms(&mut rng, call.plan.tokens * call.x_stride);
    // Between the rows there may be anything.
    for row in x.chunks_mut(call.x_stride) {
        row[call.hidden..].fill(f32::NAN);
    }
    let garbage = gpu::garbage(experts.len() * call.width);
    for gpu in gpu::all() {
        for tuning in gpu.tunings() {
            // There is no subgroup text.
            if tuning.subgroups {
                continue;
            }
            let mut buffers = [
                gpu::words(&x),
                plan(gpu, &tuning, &call.plan, experts),
                gate.words.clone(),
                gate.scales.clone(),
                up.words.clone(),
                up.scales.clone(),
                garbage.clone(),
            ];
            let dispatch = dispatch(call, &tuning);
            gpu.run(&dispatch, &mut buffers);
            let found = buffers[6].clone();
            for (slot, &expert) in experts.iter().enumerate() {
                let row = slot * call.width..(slot + 1) * call.width;
                let what = format!("{call:?}, {}, {tuning:?}, slot {slot}", gpu.name);
                match (expert as usize).checked_sub(call.first_expert) {
                    Some(local) if local < call.n_experts => {
                        let x = wide(&x[slot / call.plan.slots * call.x_stride..][..call.hidden]);
                        let expected = hidden(&gate, &up, local, &x);
                        gpu::assert_close(&gpu::floats(&found[row]), &expected, TOLERANCE, &what);
                    }
                    _ => assert_eq!(found[row.clone()], garbage[row], "{what}"),
                }
            }
            if call.dtype == 3 {
                buffers[6] = garbage.clone();
                gpu.run(&dispatch, &mut buffers);
                assert_eq!(found, buffers[6], "twice");
            }
        }
    }
}

fn call(dtype: u32, tokens: usize, slots: usize, n_experts: usize) -> Call {
    Call {
        dtype,
        plan: expert_plan::Call {
            tokens,
            slots,
            n_experts,
        },
        width: 36,
        hidden: 68,
        first_expert: 0,
        n_experts,
        x_stride: 68,
    }
}

#[test]
fn tokens_go_through_their_experts() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for &dtype in DTYPES {
        // Expert 4 has none.
        let experts: Vec<u32> = (0..36).map(|_| rng.next_u32() % 4).collect();
        check(&call(dtype, 12, 3, 5), &experts, 2);
    }
}

#[test]
fn a_dense_mlp_is_one_expert_of_many_tiles() {
    let dense = Call {
        x_stride: 100,
        width: 131,
        ..call(3, 67, 1, 1)
    };
    check(&dense, &[0; 67], 3);
}

#[test]
fn other_slices_of_the_stack_are_left_alone() {
    let slice = Call {
        first_expert: 2,
        n_experts: 2,
        ..call(3, 6, 2, 6)
    };
    check(&slice, &[2, 5, 1, 0, 3, 2, 2, 3, 4, 5, 0, 1], 4);
}

#[test]
fn fp8_blocks_are_crossed_both_ways() {
    for hidden in [260, 256] {
        let blocks = Call {
            width: 133,
            hidden,
            x_stride: 264,
            ..call(3, 10, 1, 2)
        };
        check(&blocks, &[1, 0, 1, 1, 1, 1, 1, 0, 1, 1], 5);
    }
}
