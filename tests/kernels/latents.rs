//! `latents` against its formulas in `f64`, and every packed number that `numbers.wgsl` can make.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use shaders::kernel::Tuning;
use shaders::latents::{Call, dispatch};
use shaders::{key_cache, latent_cache};

use super::gpu;

/// Relative to the largest of a part: sums of up to 1540 squares, two roots, a rope and ten rounds
/// of Hadamard sums in f32; typically below 1e-6.
const PART: f64 = 4e-6;

const EPS: f32 = 1e-6;

/// Numbers in -1..1 times `scale`.
pub fn noise(n: usize, scale: f32, random: &mut ChaCha8Rng) -> Vec<f32> {
    (0..n)
        .map(|_| (random.next_u32() as i32 as f32 / 2f32.powi(31)) * scale)
        .collect()
}

/// Cosines, then sines, of some angle for every token and pair.
pub fn some_angles(tokens: usize, dr: usize, random: &mut ChaCha8Rng) -> Vec<f32> {
    let mut angles = Vec::new();
    for _ in 0..tokens {
        let turns: Vec<f64> = (0..dr / 2).map(|_| f64::from(random.next_u32())).collect();
        angles.extend(turns.iter().map(|turn| turn.cos() as f32));
        angles.extend(turns.iter().map(|turn| turn.sin() as f32));
    }
    angles
}

/// The first `dr` channels turned by `angles` (cosines, then sines).
pub fn roped(x: &[f64], angles: &[f32], interleaved: bool) -> Vec<f64> {
    let half = angles.len() / 2;
    let mut y = x.to_vec();
    for i in 0..half {
        let (a, b) = if interleaved {
            (2 * i, 2 * i + 1)
        } else {
            (i, i + half)
        };
        let (cos, sin) = (f64::from(angles[i]), f64::from(angles[half + i]));
        y[a] = x[a] * cos - x[b] * sin;
        y[b] = x[a] * sin + x[b] * cos;
    }
    y
}

/// Orthonormal, by the sign matrix.
pub fn hadamard(x: &[f64]) -> Vec<f64> {
    let factor = (x.len() as f64).sqrt().recip();
    (0..x.len())
        .map(|i| {
            let signed = x
                .iter()
                .enumerate()
                .map(|(j, &x)| if (i & j).count_ones() % 2 == 0 { x } else { -x });
            signed.sum::<f64>() * factor
        })
        .collect()
}

/// What each e4m3 code stands for, by definition.
pub fn e4m3_value(code: u8) -> f64 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f64::from(code & 7));
    let magnitude = match (exponent, code & 7) {
        (15, 7) => f64::NAN,
        (0, _) => mantissa / 8.0 * 2f64.powi(-6),
        _ => (1.0 + mantissa / 8.0) * 2f64.powi(exponent - 7),
    };
    if code & 0x80 != 0 {
        -magnitude
    } else {
        magnitude
    }
}

/// The code nearest to a finite value, of two the even one, by trying all of that sign.
pub fn nearest_e4m3(value: f64) -> u8 {
    let sign = if value.is_sign_negative() { 0x80 } else { 0 };
    // Far beyond, all codes are equally far off in f64.
    let value = value.clamp(-448.0, 448.0);
    let off = |code: u8| (e4m3_value(sign | code) - value).abs();
    let best = (0..0x7f).min_by(|&a, &b| off(a).total_cmp(&off(b)).then((a & 1).cmp(&(b & 1))));
    sign | best.unwrap()
}

/// The smallest power of two `s` with `max(amax, 1e-4) <= 448 s`, by trying.
pub fn scale_of(amax: f64) -> f64 {
    let amax = amax.max(f64::from(1e-4_f32));
    let exponent = (-30..=126).find(|&e| amax <= 448.0 * 2f64.powi(e));
    2f64.powi(exponent.unwrap())
}

/// Checks that each of `codes` is, but for `slack` in the value, the best for `expected` at
/// `scale`.
#[track_caller]
pub fn assert_e4m3(codes: &[u8], scale: f32, expected: &[f64], slack: f64, what: &str) {
    let scale = f64::from(scale);
    let amax = expected.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
    let allowed = [scale_of(amax - slack), scale_of(amax + slack)];
    assert!(
        allowed.contains(&scale),
        "{what}: scale {scale:e}, expected {allowed:?}"
    );
    for (at, (&code, &x)) in codes.iter().zip(expected).enumerate() {
        let off = |code| (e4m3_value(code) * scale - x).abs();
        let best = off(nearest_e4m3(x / scale));
        assert!(
            off(code) <= best + 2.0 * slack,
            "{what}: element {at} is {code:#x}, expected {x} / {scale}"
        );
    }
}

/// The same for bf16.
#[track_caller]
fn assert_bf16(words: &[u32], expected: &[f64], slack: f64, what: &str) {
    let halves: &[u16] = bytemuck::cast_slice(words);
    assert_eq!(halves.len(), expected.len(), "{what}");
    for (at, (&bits, &x)) in halves.iter().zip(expected).enumerate() {
        let off = |value: half::bf16| (value.to_f64() - x).abs();
        let found = half::bf16::from_bits(bits);
        assert!(
            off(found) <= off(half::bf16::from_f64(x)) + 2.0 * slack,
            "{what}: element {at} is {found}, expected {x}"
        );
    }
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

fn rms_norm(x: &[f32], weight: &[f32]) -> Vec<f64> {
    let squares: f64 = x.iter().map(|&x| f64::from(x).powi(2)).sum();
    let root = (squares / x.len() as f64 + f64::from(EPS)).sqrt();
    (x.iter().zip(weight))
        .map(|(&x, &weight)| f64::from(x) / root * f64::from(weight))
        .collect()
}

fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f64> {
    let x = wide(x);
    let mean = x.iter().sum::<f64>() / x.len() as f64;
    let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / x.len() as f64;
    let root = (variance + f64::from(EPS)).sqrt();
    (x.iter().zip(weight).zip(bias))
        .map(|((x, &weight), &bias)| (x - mean) / root * f64::from(weight) + f64::from(bias))
        .collect()
}

/// Sizes of a test; offsets follow from them, with gaps that nobody may touch.
#[derive(Clone, Copy)]
struct Sizes {
    tokens: usize,
    position: usize,
    q_lora: usize,
    rank: usize,
    dr: usize,
    di: usize,
}

fn call(sizes: Sizes, latent: u32, keys: u32, interleaved: bool) -> Call {
    let Sizes {
        tokens,
        position,
        q_lora,
        rank,
        dr,
        di,
    } = sizes;
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

/// `projected`, `norms`, `angles`.
fn inputs(call: &Call, seed: u64) -> [Vec<f32>; 3] {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    [
        noise(call.tokens * call.stride, 3.0, &mut random),
        noise(call.k_bias + call.di, 2.0, &mut random),
        some_angles(call.tokens, call.dr, &mut random),
    ]
}

/// Runs on garbage caches; gives `projected` and both caches.
fn run(gpu: &gpu::Gpu, tuning: &Tuning, call: &Call, inputs: &[Vec<f32>; 3]) -> [Vec<u32>; 3] {
    let n = call.position + call.tokens + 1;
    let latents = latent_cache::words(call.latent, call.rank, call.dr, n);
    let keys = key_cache::words(call.keys, call.di, n).max(4);
    let [projected, norms, angles] = inputs.each_ref().map(|values| gpu::words(values));
    let mut buffers = [
        projected,
        norms,
        angles,
        gpu::garbage(latents),
        gpu::garbage(keys),
    ];
    gpu.run(&dispatch(call, tuning), &mut buffers);
    let [projected, _, _, latents, keys] = buffers;
    [projected, latents, keys]
}

/// Takes `n` words at `at` out of `cache` and leaves garbage, so that what is left must be garbage.
fn take(cache: &mut [u32], at: usize, n: usize) -> Vec<u32> {
    let words = cache[at..at + n].to_vec();
    cache[at..at + n].copy_from_slice(&gpu::garbage(n));
    words
}

fn check(gpu: &gpu::Gpu, tuning: &Tuning, call: &Call, seed: u64) {
    let inputs = inputs(call, seed);
    let [projected, norms, angles] = &inputs;
    let [after, mut latents, mut keys] = run(gpu, tuning, call, &inputs);
    let mut untouched = gpu::words(projected);
    for token in 0..call.tokens {
        let what = format!("{} {tuning:?} {call:?}, token {token}", gpu.name);
        let row = &projected[token * call.stride..][..call.stride];
        let angles = &angles[token * call.dr..][..call.dr];
        let entry = call.position + token;

        if call.q_lora > 0 {
            let part = call.q_offset..call.q_offset + call.q_lora;
            let expected = rms_norm(&row[part], &norms[call.q_norm..][..call.q_lora]);
            let at = token * call.stride + call.q_offset;
            let found = &after[at..at + call.q_lora];
            gpu::assert_close(&gpu::floats(found), &expected, PART, &what);
            untouched[at..at + call.q_lora].copy_from_slice(found);
        }
        let kv = &row[call.kv_offset..][..call.rank + call.dr];
        let latent = rms_norm(&kv[..call.rank], &norms[call.kv_norm..][..call.rank]);
        let pe = roped(&wide(&kv[call.rank..]), angles, true);
        let words = latent_cache::token_words(call.latent, call.rank, call.dr);
        let found = take(&mut latents, entry * words, words);
        assert_latent(call, &found, &latent, &pe, &what);

        if call.di > 0 {
            let key = layer_norm(
                &row[call.key_offset..][..call.di],
                &norms[call.k_weight..][..call.di],
                &norms[call.k_bias..][..call.di],
            );
            let key = roped(&key, angles, call.interleaved);
            assert_key(call, &mut keys, entry, &key, &what);
        }
    }
    let what = format!("{} {tuning:?} {call:?}", gpu.name);
    assert!(after == untouched, "{what}: wrote outside the q part");
    assert!(
        latents == gpu::garbage(latents.len()),
        "{what}: wrote other latents"
    );
    assert!(keys == gpu::garbage(keys.len()), "{what}: wrote other keys");
}

fn slack(expected: &[f64]) -> f64 {
    PART * expected.iter().fold(1e-6, |most: f64, x| most.max(x.abs()))
}

fn assert_latent(call: &Call, found: &[u32], latent: &[f64], pe: &[f64], what: &str) {
    let n_scales = call.rank.div_ceil(128);
    let is_fp8 = call.latent >= 2;
    let rank_words = match call.latent {
        0 => call.rank,
        1 => call.rank / 2,
        _ => call.rank / 4,
    };
    let (values, rest) = found.split_at(rank_words);
    let (scales, rope) = rest.split_at(if is_fp8 { n_scales } else { 0 });
    match call.latent {
        0 => gpu::assert_close(&gpu::floats(values), latent, PART, what),
        1 => assert_bf16(values, latent, slack(latent), what),
        _ => {
            let codes: &[u8] = bytemuck::cast_slice(values);
            let blocks = codes.chunks(128).zip(latent.chunks(128));
            for ((codes, expected), scale) in blocks.zip(gpu::floats(scales)) {
                assert_e4m3(codes, scale, expected, slack(latent), what);
            }
        }
    }
    match call.latent {
        0 | 2 => gpu::assert_close(&gpu::floats(rope), pe, PART, what),
        _ => assert_bf16(rope, pe, slack(pe), what),
    }
}

/// Checks the key of token `entry` and leaves garbage in its place.
fn assert_key(call: &Call, keys: &mut [u32], entry: usize, key: &[f64], what: &str) {
    let di = call.di;
    match call.keys {
        0 => {
            let found = take(keys, entry * di, di);
            gpu::assert_close(&gpu::floats(&found), key, PART, what);
        }
        1 => {
            let found = take(keys, entry * di / 2, di / 2);
            assert_bf16(&found, key, slack(key), what);
        }
        _ => {
            let n_scales = di.div_ceil(128);
            // Bytes of a page of 64: all codes, then all scales.
            let page = entry / 64 * 64 * (di / 4 + n_scales);
            let codes = take(keys, page + entry % 64 * di / 4, di / 4);
            let scales = take(keys, page + 16 * di + entry % 64 * n_scales, n_scales);
            let key = hadamard(key);
            let codes: &[u8] = bytemuck::cast_slice(&codes);
            let blocks = codes.chunks(128).zip(key.chunks(128));
            for ((codes, expected), scale) in blocks.zip(gpu::floats(&scales)) {
                assert_e4m3(codes, scale, expected, slack(&key), what);
            }
        }
    }
}

#[test]
fn every_format_holds_what_the_formula_says() {
    let sizes = [
        (3, 62, 36, 32, 16, 32), // crosses a page of keys
        (1, 0, 0, 128, 32, 128), // no query latent
        (2, 5, 64, 512, 64, 128),
        (2, 1, 1540, 516, 64, 256), // ragged last block, two blocks of a key
        (1, 130, 4, 132, 32, 32),   // all of a key is roped
    ]
    .map(|(tokens, position, q_lora, rank, dr, di)| Sizes {
        tokens,
        position,
        q_lora,
        rank,
        dr,
        di,
    });
    for gpu in gpu::all() {
        // Each tuning takes every pair of formats, and over the tunings a pair meets four
        // shapes and both pairings.
        for (i, tuning) in gpu.tunings().into_iter().enumerate() {
            for &latent in latent_cache::FORMATS {
                for &keys in key_cache::FORMATS {
                    let at = i + latent as usize + 2 * keys as usize;
                    let call = call(sizes[at % sizes.len()], latent, keys, at.is_multiple_of(3));
                    check(gpu, &tuning, &call, u64::from(latent) + 1);
                }
            }
        }
    }
}

#[test]
fn a_key_of_any_width_fits_where_nothing_transforms_it_and_no_key_is_fine_too() {
    for gpu in gpu::all() {
        for tuning in gpu.tunings() {
            for (di, keys, q_lora) in [(36, 0, 8), (68, 1, 0), (1020, 0, 8), (0, 0, 0), (0, 2, 8)] {
                let sizes = Sizes {
                    tokens: 2,
                    position: 3,
                    q_lora,
                    rank: 4,
                    dr: 4 + di.min(16),
                    di,
                };
                check(gpu, &tuning, &call(sizes, 0, keys, di == 68), 9);
            }
        }
    }
}

#[test]
fn the_last_position_of_the_longest_context() {
    for gpu in gpu::all() {
        for tuning in gpu.tunings() {
            let sizes = Sizes {
                tokens: 1,
                position: 163_839,
                q_lora: 0,
                rank: 4,
                dr: 4,
                di: 4,
            };
            check(
                gpu,
                &tuning,
                &call(sizes, latent_cache::FLASH_MLA, key_cache::FP8, false),
                3,
            );
        }
    }
}

#[test]
fn the_same_bits_twice_and_whoever_else_is_in_the_pass() {
    for gpu in gpu::all() {
        for tuning in gpu.tunings() {
            let sizes = Sizes {
                tokens: 3,
                position: 7,
                q_lora: 64,
                rank: 256,
                dr: 16,
                di: 128,
            };
            let all = call(sizes, latent_cache::FP8, key_cache::F32, false);
            let values = inputs(&all, 5);
            let found = run(gpu, &tuning, &all, &values);
            assert!(found == run(gpu, &tuning, &all, &values), "{}", gpu.name);
            let last = Call {
                tokens: 1,
                position: 9,
                ..all
            };
            let [projected, norms, angles] = values;
            let alone = [
                projected[2 * all.stride..].to_vec(),
                norms,
                angles[2 * all.dr..].to_vec(),
            ];
            let alone = run(gpu, &tuning, &last, &alone);
            assert_eq!(found[0][2 * all.stride..], alone[0], "{}", gpu.name);
            let words = latent_cache::token_words(all.latent, all.rank, all.dr);
            assert_eq!(found[1][9 * words..], alone[1][9 * words..], "{}", gpu.name);
            assert_eq!(found[2][9 * 128..], alone[2][9 * 128..], "{}", gpu.name);
        }
    }
}

#[test]
fn zeros_equal_channels_and_large_values_are_stored() {
    for gpu in gpu::all() {
        for tuning in gpu.tunings() {
            let sizes = Sizes {
                tokens: 3,
                position: 0,
                q_lora: 4,
                rank: 132,
                dr: 16,
                di: 32,
            };
            let call = call(sizes, latent_cache::FP8, key_cache::FP8, false);
            let [mut projected, mut norms, angles] = inputs(&call, 11);
            let rows: Vec<_> = projected.chunks_mut(call.stride).collect();
            for (row, value) in rows.into_iter().zip([0.0, -2.5, 1e15]) {
                row.fill(value);
            }
            // A first bias of 0 and weights that reach over many e4m3 steps.
            norms[call.k_bias..].fill(0.0);
            for (i, weight) in norms[call.kv_norm..][..call.rank].iter_mut().enumerate() {
                *weight = 1.5_f32.powi(i as i32 % 40 - 20);
            }
            let [after, latents, keys] =
                run(gpu, &tuning, &call, &[projected, norms.clone(), angles]);
            let words = latent_cache::token_words(call.latent, call.rank, call.dr);
            // Zeros: no code but 0, and the smallest scale, 2^-22.
            let zero = &latents[..words];
            assert!(zero[..33].iter().all(|&word| word == 0), "{}", gpu.name);
            assert_eq!(
                gpu::floats(&zero[33..35]),
                [2f32.powi(-22); 2],
                "{}",
                gpu.name
            );
            assert_eq!(
                gpu::floats(&after[call.q_offset..][..4]),
                [0.0; 4],
                "{}",
                gpu.name
            );
            for (token, sign) in [(1, -1.0), (2, 1.0)] {
                // Equal channels are normed to 1, so the weights are what is stored.
                let latent = &latents[token * words..];
                let expected: Vec<f64> = wide(&norms[call.kv_norm..][..call.rank])
                    .iter()
                    .map(|x| sign * x)
                    .collect();
                let codes: &[u8] = bytemuck::cast_slice(&latent[..33]);
                let scales = gpu::floats(&latent[33..35]);
                let parts = codes.chunks(128).zip(expected.chunks(128)).zip(scales);
                for ((codes, expected), scale) in parts {
                    assert_e4m3(codes, scale, expected, slack(expected), &gpu.name);
                }
            }
            // Keys of equal channels have no variance: with no bias, nothing is left. 1e15 may
            // leave what its mean was rounded by, and is not looked at.
            for token in 0..2 {
                let codes = &keys[token * 8..][..8];
                assert!(
                    codes.iter().all(|&word| word & 0x7f7f_7f7f == 0),
                    "{}",
                    gpu.name
                );
                assert_eq!(
                    f32::from_bits(keys[64 * 8 + token]),
                    2f32.powi(-22),
                    "{}",
                    gpu.name
                );
            }
        }
    }
}

#[test]
fn nan_does_not_turn_into_numbers() {
    for gpu in gpu::all() {
        for tuning in gpu.tunings() {
            for (latent, keys) in [(0, 0), (1, 1), (2, 2)] {
                let sizes = Sizes {
                    tokens: 2,
                    position: 0,
                    q_lora: 4,
                    rank: 132,
                    dr: 16,
                    di: 128,
                };
                let call = call(sizes, latent, keys, false);
                let mut inputs = inputs(&call, 12);
                inputs[0][call.kv_offset + 1] = f32::NAN;
                inputs[0][call.key_offset + 100] = f32::NAN;
                let [_, latents, key_words] = run(gpu, &tuning, &call, &inputs);
                let words = latent_cache::token_words(latent, call.rank, call.dr);
                let what = format!("{} {tuning:?} {latent} {keys}", gpu.name);
                let is_nan = |word: u32| f32::from_bits(word).is_nan();
                let both_nan = |word: u32| is_nan(word) && is_nan(word << 16);
                for token in 0..2 {
                    let latent_words = &latents[token * words..];
                    let bad = match latent {
                        0 => latent_words[..132].iter().all(|&word| is_nan(word)),
                        1 => latent_words[..66].iter().all(|&word| both_nan(word)),
                        _ => latent_words[33..35].iter().all(|&word| is_nan(word)),
                    };
                    assert_eq!(bad, token == 0, "{what}: latent {token}");
                    let bad = match keys {
                        0 => key_words[token * 128..][..128]
                            .iter()
                            .all(|&word| is_nan(word)),
                        1 => key_words[token * 64..][..64]
                            .iter()
                            .all(|&word| both_nan(word)),
                        _ => is_nan(key_words[64 * 32 + token]),
                    };
                    assert_eq!(bad, token == 0, "{what}: key {token}");
                }
            }
        }
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

/// `numbers.wgsl` by itself: a lane converts a word in every way.
mod numbers {
    use shaders::kernel::{Cost, Dispatch, Kernel, Layout};
    use shaders::pieces::{NUMBERS, plain};

    use super::{e4m3_value, gpu, nearest_e4m3, scale_of};

    const KERNEL: Kernel = Kernel {
        name: "convert",
        pieces: &[NUMBERS, plain(TEXT)],
        bindings: &["words", "packed", "unpacked"],
        knobs: &[],
        params: Layout {
            fields: &[("n", 0), ("unused", 4)],
            size_bytes: 8,
        },
        reference: |_, _| (),
    };

    const TEXT: &str = "
struct Params { n: u32, unused: u32 }
@group(0) @binding(0) var<storage, read_write> words: array<u32>;
@group(0) @binding(1) var<storage, read_write> packed: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> unpacked: array<vec4<u32>>;
@group(0) @binding(3) var<uniform> params: Params;
@compute @workgroup_size(64)
fn convert(@builtin(global_invocation_id) at: vec3<u32>) {
    if at.x >= params.n {
        return;
    }
    let word = words[at.x];
    let value = bitcast<f32>(word);
    let e4m3 = to_e4m3(value);
    let scale = bitcast<u32>(power_of_two_scale(abs(value)));
    packed[at.x] = vec4<u32>(e4m3, to_bf16(value), scale, pack4(vec4<u32>(e4m3, 1u, 2u, 3u)));
    unpacked[2u * at.x] = bitcast<vec4<u32>>(from_e4m3(word));
    unpacked[2u * at.x + 1u] = vec4<u32>(bitcast<vec2<u32>>(from_bf16(word)), 0u, 0u);
}
";

    /// For each word: its e4m3, bf16, scale and packed e4m3 as `f32`; its four e4m3 and two bf16.
    fn convert(gpu: &gpu::Gpu, words: &[u32]) -> (Vec<[u32; 4]>, Vec<[u32; 8]>) {
        let n = words.len();
        let dispatch = Dispatch {
            kernel: &KERNEL,
            knobs: Vec::new(),
            subgroups: false,
            params: bytemuck::cast_slice(&[n as u32, 0]).to_vec(),
            groups: [(n as u32).div_ceil(64), 1, 1],
            cost: Cost::default(),
        };
        let mut buffers = [words.to_vec(), gpu::garbage(4 * n), gpu::garbage(8 * n)];
        gpu.run(&dispatch, &mut buffers);
        let packed = bytemuck::cast_slice(&buffers[1]).to_vec();
        (packed, bytemuck::cast_slice(&buffers[2]).to_vec())
    }

    /// A number, its neighbours, and all of them negative.
    fn around(value: f32) -> [f32; 6] {
        let [below, above] = [value.next_down(), value.next_up()];
        [value, below, above, -value, -below, -above]
    }

    #[test]
    fn every_e4m3_code_reads_as_it_is_defined() {
        for gpu in gpu::all() {
            let words: Vec<u32> = (0..256).map(|code| code * 0x0101_0101).collect();
            let (_, unpacked) = convert(gpu, &words);
            for (code, found) in (0..=255_u8).zip(unpacked) {
                // NaN is documented not to be read.
                if code & 0x7f != 0x7f {
                    let expected = e4m3_value(code) as f32;
                    assert_eq!(
                        found[..4],
                        [expected.to_bits(); 4],
                        "{}: {code:#x}",
                        gpu.name
                    );
                }
            }
            // Each place by itself.
            let (_, unpacked) = convert(gpu, &[0x7e08_b801]);
            let expected = [0x01, 0xb8, 0x08, 0x7e].map(|code| e4m3_value(code) as f32);
            assert_eq!(gpu::floats(&unpacked[0][..4]), expected, "{}", gpu.name);
        }
    }

    #[test]
    fn every_halfway_case_rounds_to_even_and_what_is_beyond_saturates() {
        let mut values = Vec::new();
        for code in 0..0x7e_u8 {
            let (low, high) = (e4m3_value(code), e4m3_value(code + 1));
            values.extend(around(low as f32));
            values.extend(around(((low + high) / 2.0) as f32));
            values.extend(around((low + (high - low) * 0.3) as f32));
        }
        for beyond in [
            448.0,
            449.0,
            463.9,
            464.0,
            480.0,
            1e9,
            f32::MAX,
            1e-30,
            1e-45,
        ] {
            values.extend(around(beyond));
        }
        values.retain(|value| value.is_finite());
        let random = (0..20_000_u32).map(|i| f32::from_bits(i.wrapping_mul(0x9e37_79b9)));
        values.extend(random.filter(|value| value.is_finite()));
        for gpu in gpu::all() {
            let (packed, _) = convert(gpu, &gpu::words(&values));
            for (value, found) in values.iter().zip(packed) {
                let expected = u32::from(nearest_e4m3(f64::from(*value)));
                assert_eq!(found[0], expected, "{}: {value:e}", gpu.name);
                assert_eq!(found[3], expected | 0x0302_0100, "{}: {value:e}", gpu.name);
            }
            let special = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -f32::NAN];
            let (packed, _) = convert(gpu, &gpu::words(&special));
            let found: Vec<u32> = packed.iter().map(|found| found[0]).collect();
            assert_eq!(found, [0x7e, 0xfe, 0x7f, 0xff], "{}", gpu.name);
        }
    }

    #[test]
    fn bf16_rounds_to_nearest_even_and_reads_back() {
        // Every upper half, with what decides how it rounds.
        let words: Vec<u32> = (0..=0xffff_u32)
            .flat_map(|high| [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff].map(|low| high << 16 | low))
            .collect();
        for gpu in gpu::all() {
            let (packed, unpacked) = convert(gpu, &words);
            for ((&word, found), read) in words.iter().zip(packed).zip(unpacked) {
                let expected = half::bf16::from_f32(f32::from_bits(word)).to_bits();
                assert_eq!(found[1], u32::from(expected), "{}: {word:#x}", gpu.name);
                assert_eq!(read[4..6], [word << 16, word & 0xffff_0000], "{}", gpu.name);
            }
        }
    }

    #[test]
    fn scales_are_the_smallest_power_of_two_that_fits() {
        let mut values = vec![0.0, f32::MIN_POSITIVE, 1.0, f32::MAX];
        values.extend(around(1e-4));
        for exponent in -20..=127 {
            values.extend(around(1.75 * 2f32.powi(exponent)));
            values.extend(around(2f32.powi(exponent)));
        }
        for gpu in gpu::all() {
            let (packed, _) = convert(gpu, &gpu::words(&values));
            for (value, found) in values.iter().zip(packed) {
                let expected = scale_of(f64::from(value.abs())) as f32;
                assert_eq!(
                    f32::from_bits(found[2]),
                    expected,
                    "{}: {value:e}",
                    gpu.name
                );
            }
        }
    }
}
