//! `mlp_down` against plain `f64`.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use shaders::mlp_down::{Call, dispatch};
use shaders::weights::DTYPES;

use super::gpu;
use super::mlp_up::{Stack, uniforms, wide};

/// Some 300 products are summed in f32.
const TOLERANCE: f64 = 2e-6;

/// Runs every adapter and tuning.
fn check(call: &Call, experts: &[u32], seed: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let down = Stack::random(
        &mut rng,
        call.dtype,
        call.n_experts,
        call.hidden,
        call.width,
    );
    let mut h = uniforms(&mut rng, experts.len() * call.width);
    let weights = uniforms(&mut rng, experts.len());
    let before = uniforms(&mut rng, call.tokens * call.hidden);
    let mut expected = match call.accumulate {
        true => wide(&before),
        false => vec![0.0; before.len()],
    };
    for (slot, &expert) in experts.iter().enumerate() {
        let row = &mut h[slot * call.width..][..call.width];
        match (expert as usize).checked_sub(call.first_expert) {
            Some(local) if local < call.n_experts => {
                let to = &mut expected[slot / call.slots * call.hidden..];
                for (to, from) in to.iter_mut().zip(down.times(local, &wide(row))) {
                    *to += f64::from(weights[slot]) * from;
                }
            }
            // mlp_up has not written it.
            _ => row.fill(f32::NAN),
        }
    }
    for gpu in gpu::all() {
        for tuning in gpu.tunings() {
            // Subgroups only sum over lanes: not where a lane has its own rows, and the same of every type.
            if tuning.subgroups && (tuning.fat_threads || call.dtype != 3) {
                continue;
            }
            let y = match call.accumulate {
                true => gpu::words(&before),
                false => gpu::garbage(before.len()),
            };
            let mut buffers = [
                gpu::words(&h),
                experts.to_vec(),
                gpu::words(&weights),
                down.words.clone(),
                down.scales.clone(),
                y.clone(),
            ];
            let dispatch = dispatch(call, &tuning);
            gpu.run(&dispatch, &mut buffers);
            let what = format!("{call:?}, {}, {tuning:?}", gpu.name);
            let found = buffers[5].clone();
            gpu::assert_close(&gpu::floats(&found), &expected, TOLERANCE, &what);
            if call.dtype == 3 {
                buffers[5] = y;
                gpu.run(&dispatch, &mut buffers);
                assert_eq!(found, buffers[5], "{what}: twice");
            }
        }
    }
}

fn call(dtype: u32, tokens: usize, slots: usize) -> Call {
    Call {
        dtype,
        tokens,
        slots,
        width: 36,
        hidden: 68,
        first_expert: 0,
        n_experts: 4,
        accumulate: false,
    }
}

#[test]
fn one_token_sums_its_experts() {
    for &dtype in DTYPES {
        check(&call(dtype, 1, 3), &[3, 0, 2], 1);
    }
}

#[test]
fn tokens_share_experts_in_any_company() {
    for &dtype in DTYPES {
        check(&call(dtype, 2, 3), &[1, 2, 3, 2, 0, 3], 2);
    }
    // Shared at different slots, by all tokens, by none.
    check(&call(3, 3, 3), &[1, 2, 3, 2, 1, 3, 2, 0, 3], 2);
    // One expert with everything, twice a token.
    check(&call(3, 8, 2), &[2; 16], 3);
}

#[test]
fn a_dense_mlp_is_one_expert() {
    let dense = Call {
        n_experts: 1,
        hidden: 131,
        ..call(3, 5, 1)
    };
    check(&dense, &[0; 5], 4);
}

#[test]
fn slices_of_the_stack_add_up_and_the_first_writes_all_rows() {
    for tokens in [1, 2] {
        for accumulate in [false, true] {
            let slice = Call {
                first_expert: 5,
                n_experts: 2,
                accumulate,
                ..call(3, tokens, 4)
            };
            check(&slice, &[4, 5, 7, 6, 6, 9, 4, 5][..tokens * 4], 5);
            // Nothing for this slice.
            check(&slice, &[4, 3, 7, 8, 7, 9, 4, 0][..tokens * 4], 6);
        }
    }
}

#[test]
fn fp8_blocks_are_crossed_both_ways() {
    for tokens in [1, 2] {
        let blocks = Call {
            width: 260,
            hidden: 133,
            n_experts: 2,
            ..call(3, tokens, 1)
        };
        check(&blocks, &[1, 0][..tokens], 7);
    }
}

#[test]
fn company_does_not_change_a_token() {
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    let down = Stack::random(&mut rng, 3, 4, 68, 36);
    let h = uniforms(&mut rng, 4 * 36);
    let weights = uniforms(&mut rng, 4);
    for gpu in gpu::all() {
        for tuning in gpu.tunings() {
            let run = |tokens: usize, h: &[f32], experts: [u32; 4], weights: &[f32]| {
                let mut buffers = [
                    gpu::words(h),
                    experts[..tokens * 2].to_vec(),
                    gpu::words(weights),
                    down.words.clone(),
                    down.scales.clone(),
                    gpu::garbage(tokens * 68),
                ];
                gpu.run(&dispatch(&call(3, tokens, 2), &tuning), &mut buffers);
                buffers[5].clone()
            };
            let one = run(2, &h, [1, 3, 3, 0], &weights);
            let other = [&h[72..], &h[..72]].concat();
            let swapped = run(
                2,
                &other,
                [3, 0, 1, 3],
                &[&weights[2..], &weights[..2]].concat(),
            );
            assert_eq!(one[..68], swapped[68..]);
            assert_eq!(one[68..], swapped[..68]);
        }
    }
}
