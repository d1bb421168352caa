//! `matvec` against sums in `f64` over the decoded weights.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use shaders::matvec::{Call, dispatch};
use shaders::weights::{DTYPES, row_units, scales};
use shaders::{Dispatch, Tuning};

use super::gpu;

/// Of the largest result. Up to 1028 products are added one after the other, each sum rounded by 2^-24 of itself:
/// 7e-7 at most is seen with `matmul`, which adds 260 in a row, 2e-7 with `matvec`.
pub const CLOSE: f64 = 2e-6;

/// A random matrix as the kernels get it, and what it means.
pub struct Weights {
    /// The binding `w`.
    pub packed: Vec<u32>,
    /// The binding `scales`, four words of garbage where there are none.
    pub scales: Vec<u32>,
    /// [rows, cols]
    pub values: Vec<f64>,
}

/// A number in -1..1 with 16 bits.
pub fn uniform(random: &mut ChaCha8Rng) -> f32 {
    (random.next_u32() >> 15) as f32 / 65536.0 - 1.0
}

/// `n` values of `uniform`.
pub fn uniforms(random: &mut ChaCha8Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| uniform(random)).collect()
}

/// Random weights; e4m3 are of any finite code, subnormals and both zeros included.
pub fn weights(random: &mut ChaCha8Rng, dtype: u32, rows: usize, cols: usize) -> Weights {
    let row_words = row_units(dtype, cols) * 4;
    let stored: Vec<f32> = match scales(dtype, rows, cols) {
        0 => Vec::new(),
        n => (0..n).map(|_| 1e-3 * (1.5 + uniform(random))).collect(),
    };
    let mut packed = vec![0; rows * row_words];
    let mut values = Vec::new();
    for row in 0..rows {
        for col in 0..cols {
            let value = uniform(random);
            let (bits, n_bits, value) = match dtype {
                0 => (value.to_bits(), 32, f64::from(value)),
                1 => {
                    let value = half::bf16::from_f32(value);
                    (u32::from(value.to_bits()), 16, value.to_f64())
                }
                2 => {
                    let value = half::f16::from_f32(value);
                    (u32::from(value.to_bits()), 16, value.to_f64())
                }
                3 => {
                    let byte = match random.next_u32() & 0xff {
                        0x7f | 0xff => 0,
                        byte => byte,
                    };
                    let scale = stored[row / 128 * cols.div_ceil(128) + col / 128];
                    (byte, 8, from_e4m3(byte) * f64::from(scale))
                }
                _ => {
                    let nibble = random.next_u32() & 15;
                    let scale = stored[row * cols.div_ceil(32) + col / 32];
                    (nibble, 4, (f64::from(nibble) - 8.0) * f64::from(scale))
                }
            };
            let bit = col * n_bits;
            packed[row * row_words + bit / 32] |= bits << (bit % 32);
            values.push(value);
        }
    }
    let scales = match stored.is_empty() {
        true => gpu::garbage(4),
        false => gpu::words(&stored),
    };
    Weights {
        packed,
        scales,
        values,
    }
}

fn from_e4m3(byte: u32) -> f64 {
    let sign = if byte & 0x80 == 0 { 1.0 } else { -1.0 };
    let mantissa = f64::from(byte & 7);
    match byte >> 3 & 15 {
        0 => sign * mantissa * 2f64.powi(-9),
        exponent => sign * (8.0 + mantissa) * 2f64.powi(exponent as i32 - 10),
    }
}

/// What `y` must hold: sums where the call writes, garbage where it does not.
pub fn check(call: &Call, x: &[f32], w: &Weights, y: &[u32], what: &str) {
    assert_eq!(y.len(), call.tokens * call.y_stride, "{what}");
    let mut found = Vec::new();
    let mut expected = Vec::new();
    for (token, y) in y.chunks(call.y_stride).enumerate() {
        let inside = call.y_offset..call.y_offset + call.rows;
        for (at, word) in y.iter().enumerate() {
            if !inside.contains(&at) {
                assert_eq!(
                    *word,
                    gpu::garbage(1)[0],
                    "{what}: token {token} wrote at {at}"
                );
            }
        }
        found.extend(gpu::floats(&y[inside]));
        let x = &x[token * call.x_stride + call.x_offset..][..call.cols];
        for row in w.values.chunks(call.cols) {
            expected.push(x.iter().zip(row).map(|(x, w)| f64::from(*x) * w).sum());
        }
    }
    gpu::assert_close(&found, &expected, CLOSE, what);
}

/// A call with gaps before and behind everything, and its `x` with NaN in the gaps.
pub fn case(
    random: &mut ChaCha8Rng,
    dtype: u32,
    tokens: usize,
    rows: usize,
    cols: usize,
) -> (Call, Vec<f32>) {
    let call = Call {
        dtype,
        tokens,
        rows,
        cols,
        x_stride: cols + 12,
        x_offset: 8,
        y_stride: rows + 5,
        y_offset: 3,
    };
    let mut x = vec![f32::NAN; tokens * call.x_stride];
    for row in x.chunks_mut(call.x_stride) {
        row[8..8 + cols].copy_from_slice(&uniforms(random, cols));
    }
    (call, x)
}

const SHAPES: &[(usize, usize)] = &[
    (1, 4),     // less than a unit of anything but f32
    (3, 36),    // a tail in every type but f32
    (5, 260),   // f32: a lane works twice
    (131, 260), // crosses blocks of 128 both ways
    (6, 1028),  // a lane works twice and there is a tail
];

fn run(gpu: &gpu::Gpu, dispatch: &Dispatch, call: &Call, x: &[f32], w: &Weights) -> Vec<u32> {
    let y = gpu::garbage(call.tokens * call.y_stride);
    let mut buffers = [gpu::words(x), w.packed.clone(), w.scales.clone(), y];
    gpu.run(dispatch, &mut buffers);
    let [_, _, _, y] = buffers;
    y
}

/// The launch for large matrices, of which lavapipe computes a small one faster.
fn four_rows_a_workgroup(call: &Call, tuning: &Tuning) -> Dispatch {
    let mut dispatch = dispatch(call, tuning);
    let large = Call {
        rows: 4096,
        ..*call
    };
    dispatch.knobs = shaders::matvec::dispatch(&large, tuning).knobs;
    assert!(dispatch.knobs.contains(&("ROWS", 4)));
    dispatch.groups = [call.rows.div_ceil(4) as u32, 1, 1];
    dispatch
}

#[test]
fn every_type_and_number_of_tokens_matches_f64() {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    for (at, &dtype) in DTYPES.iter().enumerate() {
        for (i, tokens) in [1, 2, 3, 5, 8].into_iter().enumerate() {
            // Every pair of type and tokens, and of type and shape.
            let (rows, cols) = SHAPES[(at + i) % SHAPES.len()];
            let w = weights(&mut random, dtype, rows, cols);
            let (call, x) = case(&mut random, dtype, tokens, rows, cols);
            for gpu in gpu::all() {
                for tuning in gpu.tunings() {
                    // Compilation is what takes time here. Subgroups make a difference to the sum at the
                    // end only; every type gets the large plans with some numbers of tokens.
                    let plans = match (tuning.subgroups, tuning.fat_threads) {
                        (true, false) if at == i => vec![four_rows_a_workgroup(&call, &tuning)],
                        (false, true) if (at + i) % 3 == 0 => vec![dispatch(&call, &tuning)],
                        (false, false) if (at + i) % 3 == 1 => vec![
                            four_rows_a_workgroup(&call, &tuning),
                            dispatch(&call, &tuning),
                        ],
                        (false, false) => vec![dispatch(&call, &tuning)],
                        _ => Vec::new(),
                    };
                    for plan in plans {
                        let what = format!("{}: {tuning:?} {:?} {call:?}", gpu.name, plan.knobs);
                        check(&call, &x, &w, &run(gpu, &plan, &call, &x, &w), &what);
                    }
                }
            }
        }
    }
}

#[test]
fn the_same_call_gives_the_same_bits() {
    let mut random = ChaCha8Rng::seed_from_u64(2);
    let w = weights(&mut random, 3, 31, 2052);
    let (call, x) = case(&mut random, 3, 1, 31, 2052);
    for gpu in gpu::all() {
        for tuning in gpu.tunings() {
            let [first, second] =
                [(), ()].map(|()| run(gpu, &dispatch(&call, &tuning), &call, &x, &w));
            assert_eq!(first, second, "{}: {tuning:?}", gpu.name);
        }
    }
}
