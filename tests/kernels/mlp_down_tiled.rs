//! `mlp_down_tiled` against plain `f64`.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use shaders::expert_plan;
use shaders::mlp_down_tiled::{Call, dispatch};
use shaders::weights::DTYPES;

use super::expert_plan::plan;
use super::gpu;
use super::mlp_up::{Stack, uniforms, wide};

/// Some 300 products are summed in f32.
const TOLERANCE: f64 = 2e-6;

/// Runs every adapter and tuning; rows of slots outside the stack must be left alone.
fn check(call: &Call, experts: &[u32], seed: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let down = Stack::random(
        &mut rng,
        call.dtype,
        call.n_experts,
        call.hidden,
        call.width,
    );
    let h = uniforms(&mut rng, experts.len() * call.width);
    let garbage = gpu::garbage(experts.len() * call.hidden);
    for gpu in gpu::all() {
        for tuning in gpu.tunings() {
            // There is no subgroup text.
            if tuning.subgroups {
                continue;
            }
            let mut buffers = [
                gpu::words(&h),
                plan(gpu, &tuning, &call.plan, experts),
                down.words.clone(),
                down.scales.clone(),
                garbage.clone(),
            ];
            let dispatch = dispatch(call, &tuning);
            gpu.run(&dispatch, &mut buffers);
            let found = buffers[4].clone();
            for (slot, &expert) in experts.iter().enumerate() {
                let row = slot * call.hidden..(slot + 1) * call.hidden;
                let what = format!("{call:?}, {}, {tuning:?}, slot {slot}", gpu.name);
                match (expert as usize).checked_sub(call.first_expert) {
                    Some(local) if local < call.n_experts => {
                        let expected =
                            down.times(local, &wide(&h[slot * call.width..][..call.width]));
                        gpu::assert_close(&gpu::floats(&found[row]), &expected, TOLERANCE, &what);
                    }
                    _ => assert_eq!(found[row.clone()], garbage[row], "{what}"),
                }
            }
            if call.dtype == 3 {
                buffers[4] = garbage.clone();
                gpu.run(&dispatch, &mut buffers);
                assert_eq!(found, buffers[4], "twice");
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
    }
}

#[test]
fn slots_go_through_their_experts() {
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
        hidden: 131,
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
    for width in [260, 256] {
        let blocks = Call {
            hidden: 133,
            width,
            ..call(3, 10, 1, 2)
        };
        check(&blocks, &[1, 0, 1, 1, 1, 1, 1, 0, 1, 1], 5);
    }
}
