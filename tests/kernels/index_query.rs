//! `index_query` against its formulas in `f64`.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use shaders::index_query::{Call, dispatch};
use shaders::kernel::Tuning;

use super::gpu;
use super::latents::{e4m3_value, hadamard, nearest_e4m3, noise, roped, scale_of, some_angles};

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

/// `q`, `projected`, `angles`.
fn inputs(call: &Call, seed: u64) -> [Vec<f32>; 3] {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    [
        noise(call.tokens * call.q_stride, 5.0, &mut random),
        noise(call.tokens * call.stride, 1.0, &mut random),
        some_angles(call.tokens, call.dr, &mut random),
    ]
}

/// Gives `index_q` and `index_w`.
fn run(gpu: &gpu::Gpu, tuning: &Tuning, call: &Call, inputs: &[Vec<f32>; 3]) -> [Vec<f32>; 2] {
    let n_heads = call.tokens * call.heads;
    let [q, projected, angles] = inputs.each_ref().map(|values| gpu::words(values));
    let mut buffers = [
        q,
        projected,
        angles,
        gpu::garbage(n_heads * call.di),
        gpu::garbage(n_heads),
    ];
    let before = buffers[0].clone();
    gpu.run(&dispatch(call, tuning), &mut buffers);
    assert!(buffers[0] == before, "{}: q has changed", gpu.name);
    [gpu::floats(&buffers[3]), gpu::floats(&buffers[4])]
}

fn check(gpu: &gpu::Gpu, tuning: &Tuning, call: &Call, inputs: &[Vec<f32>; 3]) {
    let [q, projected, angles] = inputs;
    let [index_q, index_w] = run(gpu, tuning, call, inputs);
    let factor = ((call.heads * call.di) as f64).powf(-0.5);
    for token in 0..call.tokens {
        let what = format!("{} {tuning:?} {call:?}, token {token}", gpu.name);
        let w = &projected[token * call.stride + call.w_offset..][..call.heads];
        let expected: Vec<f64> = w.iter().map(|&w| f64::from(w) * factor).collect();
        let found = &index_w[token * call.heads..][..call.heads];
        gpu::assert_close(found, &expected, HEAD, &what);

        let angles = &angles[token * call.dr..][..call.dr];
        for head in 0..call.heads {
            let at = token * call.q_stride + call.q_offset + head * call.di;
            let x: Vec<f64> = q[at..at + call.di].iter().map(|&x| x.into()).collect();
            let mut expected = roped(&x, angles, call.interleaved);
            let found = &index_q[(token * call.heads + head) * call.di..][..call.di];
            if call.keys < 2 {
                gpu::assert_close(found, &expected, HEAD, &what);
                continue;
            }
            expected = hadamard(&expected);
            for (found, expected) in found.chunks(128).zip(expected.chunks(128)) {
                assert_rounded(found, expected, &what);
            }
        }
    }
}

/// Checks that a block is, but for a rounding in f32 before, what e4m3 gives back.
#[track_caller]
fn assert_rounded(found: &[f32], expected: &[f64], what: &str) {
    let amax = expected.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
    let slack = HEAD * amax;
    let scale = scale_of(amax);
    // Seeds are such that no block is at the edge of its scale.
    assert_eq!(scale, scale_of(amax - slack), "{what}: choose another seed");
    assert_eq!(scale, scale_of(amax + slack), "{what}: choose another seed");
    for (at, (&found, &x)) in found.iter().zip(expected).enumerate() {
        let steps = f64::from(found) / scale;
        let is_code = e4m3_value(nearest_e4m3(steps)) == steps;
        let best = (e4m3_value(nearest_e4m3(x / scale)) * scale - x).abs();
        assert!(
            is_code && (f64::from(found) - x).abs() <= best + 2.0 * slack,
            "{what}: element {at} is {found}, expected {x} rounded at {scale}"
        );
    }
}

#[test]
fn heads_are_roped_transformed_and_rounded_as_the_keys_are() {
    for gpu in gpu::all() {
        for tuning in gpu.tunings() {
            for keys in 0..3 {
                for (tokens, heads, di, dr) in [
                    (1, 1, 32, 16),
                    (1, 64, 128, 64),
                    (3, 5, 32, 32),
                    (2, 3, 256, 64),
                    (7, 2, 4, 4),
                    (1, 2, 1024, 16),
                ] {
                    let call = call(keys, tokens, heads, di, dr);
                    check(gpu, &tuning, &call, &inputs(&call, 1));
                }
            }
        }
    }
}

#[test]
fn a_head_of_any_width_is_roped_where_nothing_transforms_it() {
    for gpu in gpu::all() {
        for tuning in gpu.tunings() {
            for (keys, di) in [(0, 36), (1, 132), (0, 1020)] {
                let call = call(keys, 2, 3, di, 20);
                check(gpu, &tuning, &call, &inputs(&call, 2));
            }
        }
    }
}

#[test]
fn zeros_stay_zero_and_a_large_or_tiny_head_keeps_its_scale() {
    for gpu in gpu::all() {
        for tuning in gpu.tunings() {
            let call = call(2, 1, 4, 128, 64);
            let mut inputs = inputs(&call, 3);
            let heads = &mut inputs[0][call.q_offset..];
            heads[..128].fill(0.0);
            heads[128..256].iter_mut().for_each(|x| *x *= 1e20);
            // Below the least amax, 1e-4: most of it rounds to nothing.
            heads[256..384].iter_mut().for_each(|x| *x *= 1e-8);
            check(gpu, &tuning, &call, &inputs);
            let [index_q, _] = run(gpu, &tuning, &call, &inputs);
            assert_eq!(index_q[..128], [0.0; 128], "{}", gpu.name);
        }
    }
}

#[test]
fn nan_spoils_its_own_head_and_no_other() {
    for gpu in gpu::all() {
        for tuning in gpu.tunings() {
            for keys in [0, 2] {
                let call = call(keys, 1, 3, 32, 16);
                let mut inputs = inputs(&call, 4);
                inputs[0][call.q_offset + 32 + 31] = f32::NAN;
                let [index_q, _] = run(gpu, &tuning, &call, &inputs);
                for (head, values) in index_q.chunks(32).enumerate() {
                    let n = values.iter().filter(|value| value.is_nan()).count();
                    // The transform spreads it over its head.
                    let expected = [0, if keys == 2 { 32 } else { 1 }, 0][head];
                    assert_eq!(n, expected, "{} {tuning:?} {keys} {head}", gpu.name);
                }
            }
        }
    }
}

#[test]
fn the_same_bits_twice() {
    for gpu in gpu::all() {
        for tuning in gpu.tunings() {
            let call = call(2, 2, 5, 128, 64);
            let inputs = inputs(&call, 5);
            let first = run(gpu, &tuning, &call, &inputs);
            assert!(first == run(gpu, &tuning, &call, &inputs), "{}", gpu.name);
        }
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
