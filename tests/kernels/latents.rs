//! `latents` against its reference.

use shaders::latents::{Call, KERNEL, dispatch};
use shaders::reference::floats;
use shaders::{Tuning, index_row, key_cache, latent_cache};

use super::gpu::{self, Gpu, Near};
use super::inputs::{angles, noise, seeded};

/// Relative to the largest of a part: sums of up to 1540 squares, two roots, a rope and ten rounds
/// of Hadamard sums in f32; typically below 1e-6.
const PART: f64 = 4e-6;

const EPS: f32 = 1e-6;

/// Checks that each of `found` is, but for `tolerance` of the largest, as far from what is `exact` as the
/// `best` that its format has.
#[track_caller]
pub fn assert_rounded(found: &[f64], best: &[f64], exact: &[f64], tolerance: f64, what: &str) {
    let slack = tolerance * exact.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
    for (at, ((found, best), exact)) in found.iter().zip(best).zip(exact).enumerate() {
        let [off, off_best] = [(found - exact).abs(), (best - exact).abs()];
        let allowed = if off_best > 0.0 { 2.0 * slack } else { slack };
        assert!(
            (found.is_nan() && best.is_nan()) || (off - off_best).abs() <= allowed,
            "{what}: element {at} is {found}, expected {best} for {exact}"
        );
    }
}

/// Offsets follow from tokens, position, `q_lora`, `rank`, `dr` and `di`, with gaps that nobody may touch.
fn call(sizes: [usize; 6], latent: u32, keys: u32, interleaved: bool) -> Call {
    let [tokens, position, q_lora, rank, dr, di] = sizes;
    Call {
        latent,
        keys,
        interleaved,
        tokens,
        position,
        stride: 4 + q_lora + rank + dr + 8 + di + 4,
        q_offset: 4,
        q_lora,
        kv_offset: 4 + q_lora,
        rank,
        dr,
        key_offset: 4 + q_lora + rank + dr + 8,
        di,
        q_norm: 4,
        kv_norm: 4 + q_lora,
        k_weight: 4 + q_lora + rank,
        k_bias: 4 + q_lora + rank + di,
        eps: EPS,
    }
}

/// Caches hold garbage.
fn inputs(call: &Call, seed: u64) -> [Vec<u32>; 5] {
    let random = &mut seeded(seed);
    let n = call.position + call.tokens + 1;
    [
        gpu::words(&noise(random, call.tokens * call.stride, 3.0)),
        gpu::words(&noise(random, call.k_bias + call.di, 2.0)),
        angles(random, call.tokens, call.dr),
        gpu::garbage(latent_cache::words(call.latent, call.rank, call.dr, n)),
        gpu::garbage(key_cache::words(call.keys, call.di, n).max(4)),
    ]
}

/// Gives all buffers as the kernel leaves them.
fn check(gpu: &Gpu, tuning: &Tuning, call: &Call, inputs: &[Vec<u32>; 5]) -> Vec<Vec<u32>> {
    let near = ["projected", "latent_cache", "key_cache"].map(|name| (name, Near::Packed));
    let [found, best] = gpu.check(&dispatch(call, tuning), inputs, &near);
    // What would be stored if nothing had to be packed.
    let plain = Call {
        latent: latent_cache::F32,
        keys: key_cache::F32,
        ..*call
    };
    let [projected, norms, angles, ..] = inputs.clone();
    let [_, _, _, latents, keys] = self::inputs(&plain, 0);
    let mut exact = [projected, norms, angles, latents, keys];
    dispatch(&plain, tuning).run_reference(&mut exact);

    let mut outside = found[0].clone();
    for token in 0..call.tokens {
        let what = format!("{} {tuning:?} {call:?}, token {token}", gpu.name);
        let query = token * call.stride + call.q_offset;
        let [found_q, best_q] = [&found, &best].map(|all| floats(&all[0], query, call.q_lora));
        assert_rounded(&found_q, &best_q, &best_q, PART, &what);
        let query = query..query + call.q_lora;
        outside[query.clone()].copy_from_slice(&inputs[0][query]);

        let entry = call.position + token;
        let [found_row, best_row, exact_row] = [
            (call.latent, &found[3]),
            (call.latent, &best[3]),
            (plain.latent, &exact[3]),
        ]
        .map(|(format, words)| latent_cache::row(format, call.rank, call.dr, words, entry));
        for part in [0..call.rank, call.rank..call.rank + call.dr] {
            let [found, best, exact] =
                [&found_row, &best_row, &exact_row].map(|row| &row[part.clone()]);
            assert_rounded(found, best, exact, PART, &what);
        }
        if call.di > 0 {
            let [found, best, mut exact] = [
                (call.keys, &found[4]),
                (call.keys, &best[4]),
                (plain.keys, &exact[4]),
            ]
            .map(|(format, words)| key_cache::row(format, call.di, words, entry));
            if call.keys == key_cache::FP8 {
                exact = index_row::hadamard(&exact, (call.di as f64).sqrt().recip());
            }
            assert_rounded(&found, &best, &exact, PART, &what);
        }
    }
    assert!(outside == inputs[0], "wrote outside the q part");
    found
}

fn check_all(call: &Call, seed: u64) {
    gpu::each(&KERNEL, |gpu, tuning| {
        check(gpu, tuning, call, &inputs(call, seed));
    });
}

#[test]
fn every_format_holds_what_the_formula_says() {
    let sizes = [
        [3, 62, 36, 32, 16, 32], // crosses a page of keys
        [1, 0, 0, 128, 32, 128], // no query latent
        [2, 5, 64, 512, 64, 128],
        [2, 1, 1540, 516, 64, 256], // ragged last block, two blocks of a key
        [1, 130, 4, 132, 32, 32],   // all of a key is roped
    ];
    // Each tuning takes every pair of formats, and over the tunings a pair meets four
    // shapes and both pairings.
    let mut i = 0;
    gpu::each(&KERNEL, |gpu, tuning| {
        for &latent in latent_cache::FORMATS {
            for &keys in key_cache::FORMATS {
                let at = i + latent as usize + 2 * keys as usize;
                let call = call(sizes[at % sizes.len()], latent, keys, at.is_multiple_of(3));
                check(gpu, tuning, &call, &inputs(&call, u64::from(latent) + 1));
            }
        }
        i += 1;
    });
}

#[test]
fn a_key_of_any_width_fits_where_nothing_transforms_it_and_no_key_is_fine_too() {
    for (di, keys, q_lora) in [(36, 0, 8), (68, 1, 0), (1020, 0, 8), (0, 0, 0), (0, 2, 8)] {
        let sizes = [2, 3, q_lora, 4, 4 + di.min(16), di];
        check_all(&call(sizes, 0, keys, di == 68), 9);
    }
}

#[test]
fn the_last_position_of_the_longest_context() {
    let sizes = [1, 163_839, 0, 4, 4, 4];
    check_all(
        &call(sizes, latent_cache::FLASH_MLA, key_cache::FP8, false),
        3,
    );
}

#[test]
fn the_same_bits_whoever_else_is_in_the_pass() {
    let sizes = [3, 7, 64, 256, 16, 128];
    let all = call(sizes, latent_cache::FP8, key_cache::F32, false);
    let values = inputs(&all, 5);
    let last = Call {
        tokens: 1,
        position: 9,
        ..all
    };
    let mut alone = values.clone();
    alone[0].drain(..2 * all.stride);
    alone[2].drain(..2 * all.dr);
    gpu::each(&KERNEL, |gpu, tuning| {
        let found = check(gpu, tuning, &all, &values);
        let alone = check(gpu, tuning, &last, &alone);
        let words = latent_cache::token_words(all.latent, all.rank, all.dr);
        assert_eq!(found[0][2 * all.stride..], alone[0], "{}", gpu.name);
        assert_eq!(found[3][9 * words..], alone[3][9 * words..], "{}", gpu.name);
        assert_eq!(found[4][9 * 128..], alone[4][9 * 128..], "{}", gpu.name);
    });
}

#[test]
fn zeros_equal_channels_and_large_values_are_stored() {
    let sizes = [3, 0, 4, 132, 16, 32];
    let call = call(sizes, latent_cache::FP8, key_cache::FP8, false);
    let mut inputs = inputs(&call, 11);
    for (row, value) in inputs[0].chunks_mut(call.stride).zip([0.0_f32, -2.5, 1e15]) {
        row.fill(value.to_bits());
        // A mean of so many 1e15 is rounded, and then they are not all the same.
        row[call.key_offset..].fill(value.min(0.25).to_bits());
    }
    // A first bias of 0 and weights that reach over many e4m3 steps.
    inputs[1][call.k_bias..].fill(0);
    for (i, weight) in inputs[1][call.kv_norm..][..call.rank]
        .iter_mut()
        .enumerate()
    {
        *weight = 1.5_f32.powi(i as i32 % 40 - 20).to_bits();
    }
    gpu::each(&KERNEL, |gpu, tuning| {
        let found = check(gpu, tuning, &call, &inputs);
        // Zeros: no code but 0, and the smallest scale, 2^-22.
        let least = 2f32.powi(-22).to_bits();
        assert!(found[3][..33].iter().all(|&word| word == 0), "{}", gpu.name);
        assert_eq!(found[3][33..35], [least; 2], "{}", gpu.name);
        assert_eq!(gpu::floats(&found[0][call.q_offset..][..4]), [0.0; 4]);
        // Keys of equal channels have no variance: with no bias, nothing is left.
        for token in 0..3 {
            let codes = &found[4][token * 8..][..8];
            assert!(
                codes.iter().all(|&word| word & 0x7f7f_7f7f == 0),
                "{}",
                gpu.name
            );
            assert_eq!(found[4][64 * 8 + token], least, "{}", gpu.name);
        }
    });
}

#[test]
fn nan_does_not_turn_into_numbers() {
    for (latent, keys) in [(0, 0), (1, 1), (2, 2)] {
        let sizes = [2, 0, 4, 132, 16, 128];
        let call = call(sizes, latent, keys, false);
        let mut inputs = inputs(&call, 12);
        inputs[0][call.kv_offset + 1] = f32::NAN.to_bits();
        inputs[0][call.key_offset + 100] = f32::NAN.to_bits();
        gpu::each(&KERNEL, |gpu, tuning| {
            let found = check(gpu, tuning, &call, &inputs);
            for token in 0..2 {
                let row = latent_cache::row(latent, call.rank, call.dr, &found[3], token);
                let key = key_cache::row(keys, call.di, &found[4], token);
                for all in [&row[..call.rank], &key] {
                    assert!(all.iter().all(|x| x.is_nan() == (token == 0)), "{all:?}");
                }
            }
        });
    }
}

#[test]
fn caches_have_the_sizes_of_their_models() {
    use latent_cache::token_words;
    // Bytes of the real sizes: FlashMLA's 656, DeepGEMM's 132.
    assert_eq!(4 * token_words(latent_cache::FLASH_MLA, 512, 64), 656);
    assert_eq!(4 * key_cache::token_words(key_cache::FP8, 128), 132);
    assert_eq!(token_words(latent_cache::F32, 512, 64), 576);
    assert_eq!(token_words(latent_cache::BF16, 512, 64), 288);
    assert_eq!(token_words(latent_cache::FP8, 516, 16), 129 + 5 + 16);
    assert_eq!(latent_cache::words(latent_cache::FP8, 32, 16, 3), 3 * 25);
    assert_eq!(key_cache::words(key_cache::FP8, 128, 0), 0);
    assert_eq!(key_cache::words(key_cache::FP8, 128, 1), 64 * 33);
    assert_eq!(key_cache::words(key_cache::FP8, 256, 65), 2 * 64 * 66);
    assert_eq!(key_cache::words(key_cache::BF16, 36, 5), 90);
    assert_eq!(key_cache::words(key_cache::F32, 36, 5), 180);
}
