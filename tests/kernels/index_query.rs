//! `index_query` against its reference.

use shaders::index_query::{Call, KERNEL, dispatch};
use shaders::reference::{floats, fp8_rounded};
use shaders::{Tuning, index_row, key_cache};

use super::gpu::{self, Gpu, Near};
use super::inputs::{angles, noise, seeded};
use super::latents::assert_rounded;

/// Relative to the largest of a head: a rope and up to ten rounds of sums in f32.
const HEAD: f64 = 1e-6;

fn call(keys: u32, tokens: usize, heads: usize, di: usize, dr: usize) -> Call {
    Call {
        keys,
        interleaved: heads % 2 == 1,
        tokens,
        heads,
        di,
        dr,
        q_stride: 8 + heads * di + 4,
        q_offset: 8,
        // Neither is a multiple of 4.
        stride: 5 + heads + 2,
        w_offset: 5,
    }
}

fn inputs(call: &Call, seed: u64) -> [Vec<u32>; 5] {
    let random = &mut seeded(seed);
    let n_heads = call.tokens * call.heads;
    [
        gpu::words(&noise(random, call.tokens * call.q_stride, 5.0)),
        gpu::words(&noise(random, call.tokens * call.stride, 1.0)),
        angles(random, call.tokens, call.dr),
        gpu::garbage(n_heads * call.di),
        gpu::garbage(n_heads),
    ]
}

/// Gives `index_q` as the kernel has left it.
fn check(gpu: &Gpu, tuning: &Tuning, call: &Call, inputs: &[Vec<u32>; 5]) -> Vec<u32> {
    let index_q = match call.keys {
        key_cache::FP8 => Near::Packed,
        _ => Near::Rows(call.di, HEAD),
    };
    let near = [
        ("index_q", index_q),
        ("index_w", Near::Rows(call.heads, HEAD)),
    ];
    let [mut found, best] = gpu.check(&dispatch(call, tuning), inputs, &near);
    if call.keys == key_cache::FP8 {
        let what = format!("{} {tuning:?} {call:?}", gpu.name);
        let mut exact = inputs.clone();
        let keys = key_cache::F32;
        dispatch(&Call { keys, ..*call }, tuning).run_reference(&mut exact);
        for at in (0..best[3].len()).step_by(call.di) {
            let [found, best, exact] =
                [&found[3], &best[3], &exact[3]].map(|words| floats(words, at, call.di));
            let exact = index_row::hadamard(&exact, (call.di as f64).sqrt().recip());
            assert_rounded(&found, &best, &exact, HEAD, &what);
            // Each is a code times the scale of its block.
            let is_nan = found.iter().any(|x| x.is_nan());
            assert!(is_nan || fp8_rounded(&found) == found, "{what}: {found:?}");
        }
    }
    found.swap_remove(3)
}

fn check_all(call: &Call, inputs: &[Vec<u32>; 5]) {
    gpu::each(&KERNEL, |gpu, tuning| {
        check(gpu, tuning, call, inputs);
    });
}

#[test]
fn heads_are_roped_transformed_and_rounded_as_the_keys_are() {
    for keys in 0..3 {
        for (tokens, heads, di, dr) in [
            (1, 1, 32, 16),
            (1, 64, 128, 64),
            (2, 5, 128, 64),
            (3, 5, 32, 32),
            (2, 3, 256, 64),
            (7, 2, 4, 4),
            (1, 2, 1024, 16),
        ] {
            let call = call(keys, tokens, heads, di, dr);
            check_all(&call, &inputs(&call, 1));
        }
    }
}

#[test]
fn a_head_of_any_width_is_roped_where_nothing_transforms_it() {
    for (keys, di) in [(0, 36), (1, 132), (0, 1020)] {
        let call = call(keys, 2, 3, di, 20);
        check_all(&call, &inputs(&call, 2));
    }
}

#[test]
fn zeros_stay_zero_and_a_large_or_tiny_head_keeps_its_scale() {
    let call = call(2, 1, 4, 128, 64);
    let mut inputs = inputs(&call, 3);
    let heads = &mut inputs[0][call.q_offset..];
    // Below the least amax, 1e-4: most of it rounds to nothing.
    for (head, factor) in [(0, 0.0), (1, 1e20), (2, 1e-8)] {
        for word in &mut heads[128 * head..128 * (head + 1)] {
            *word = (f32::from_bits(*word) * factor).to_bits();
        }
    }
    gpu::each(&KERNEL, |gpu, tuning| {
        let index_q = check(gpu, tuning, &call, &inputs);
        assert_eq!(gpu::floats(&index_q[..128]), [0.0; 128], "{}", gpu.name);
    });
}

#[test]
fn nan_spoils_its_own_head_and_no_other() {
    for keys in [0, 2] {
        let call = call(keys, 1, 3, 32, 16);
        let mut inputs = inputs(&call, 4);
        inputs[0][call.q_offset + 32 + 31] = f32::NAN.to_bits();
        gpu::each(&KERNEL, |gpu, tuning| {
            let index_q = check(gpu, tuning, &call, &inputs);
            for (head, values) in gpu::floats(&index_q).chunks(32).enumerate() {
                let n = values.iter().filter(|value| value.is_nan()).count();
                // The transform spreads it over its head.
                let expected = [0, if keys == 2 { 32 } else { 1 }, 0][head];
                assert_eq!(n, expected, "{} {tuning:?} {keys} {head}", gpu.name);
            }
        });
    }
}

#[test]
fn more_heads_than_fit_one_dimension_of_workgroups() {
    let tuning = Tuning {
        subgroups: false,
        fat_threads: true,
    };
    for gpu in gpu::all() {
        let call = call(0, 1025, 64, 4, 4);
        check(gpu, &tuning, &call, &inputs(&call, 6));
    }
}
