//! `mlp_up` against plain `f64`, and the packed stacks that the tests of its siblings use too.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use shaders::mlp_up::{Call, dispatch};
use shaders::weights::{DTYPES, row_units};

use super::gpu;

/// 260 products are summed in f32, and go through exp.
const TOLERANCE: f64 = 3e-6;

/// Packed matrices, and what they stand for.
pub struct Stack {
    pub words: Vec<u32>,
    /// A dummy of 4 words where the type has none.
    pub scales: Vec<u32>,
    /// `[experts, rows, cols]`.
    pub values: Vec<f64>,
    pub rows: usize,
    pub cols: usize,
}

impl Stack {
    pub fn random(
        rng: &mut ChaCha8Rng,
        dtype: u32,
        experts: usize,
        rows: usize,
        cols: usize,
    ) -> Self {
        let units = row_units(dtype, cols);
        let mut words = vec![0u32; experts * rows * units * 4];
        let scale_rows = if dtype == 3 { rows.div_ceil(128) } else { rows };
        let scale_cols = cols.div_ceil(if dtype == 3 { 128 } else { 32 });
        let n_scales = experts * scale_rows * scale_cols;
        let scales: Vec<f32> = (0..n_scales).map(|_| 0.5 + uniform(rng).abs()).collect();
        let mut values = Vec::with_capacity(experts * rows * cols);
        for row in 0..experts * rows {
            let to = &mut words[row * units * 4..][..units * 4];
            let (expert, inner) = (row / rows, row % rows);
            for col in 0..cols {
                let scale = |by_row: usize, by_col: usize| {
                    let at = (expert * scale_rows + inner / by_row) * scale_cols + col / by_col;
                    f64::from(scales[at])
                };
                let value = uniform(rng);
                let put = |word: &mut u32, bits: u32, at: usize| *word |= bits << at;
                values.push(match dtype {
                    0 => {
                        to[col] = value.to_bits();
                        f64::from(value)
                    }
                    1 => {
                        let half = half::bf16::from_f32(value);
                        put(&mut to[col / 2], half.to_bits().into(), col % 2 * 16);
                        half.to_f64()
                    }
                    2 => {
                        let half = half::f16::from_f32(value);
                        put(&mut to[col / 2], half.to_bits().into(), col % 2 * 16);
                        half.to_f64()
                    }
                    3 => {
                        // Up to 2, and subnormal at times.
                        let byte = (rng.next_u32() & 0x80) | (rng.next_u32() % 0x41);
                        put(&mut to[col / 4], byte, col % 4 * 8);
                        e4m3(byte) * scale(128, 128)
                    }
                    _ => {
                        let nibble = rng.next_u32() % 16;
                        put(&mut to[col / 8], nibble, col % 8 * 4);
                        (f64::from(nibble) - 8.0) * scale(1, 32)
                    }
                });
            }
        }
        Self {
            words,
            scales: if dtype < 3 {
                gpu::garbage(4)
            } else {
                gpu::words(&scales)
            },
            values,
            rows,
            cols,
        }
    }

    /// Product of one matrix with a vector.
    pub fn times(&self, expert: usize, x: &[f64]) -> Vec<f64> {
        self.values[expert * self.rows * self.cols..][..self.rows * self.cols]
            .chunks(self.cols)
            .map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum())
            .collect()
    }
}

fn e4m3(byte: u32) -> f64 {
    let sign = if byte & 0x80 == 0 { 1.0 } else { -1.0 };
    let exponent = (byte >> 3 & 15) as i32;
    let mantissa = f64::from(byte & 7) / 8.0;
    match exponent {
        0 => sign * mantissa * f64::from(2.0f32).powi(-6),
        _ => sign * (1.0 + mantissa) * 2f64.powi(exponent - 7),
    }
}

/// Within ±1.
pub fn uniform(rng: &mut ChaCha8Rng) -> f32 {
    (rng.next_u32() >> 8) as f32 / (1 << 23) as f32 - 1.0
}

pub fn uniforms(rng: &mut ChaCha8Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| uniform(rng)).collect()
}

pub fn wide(numbers: &[f32]) -> Vec<f64> {
    numbers.iter().map(|&number| number.into()).collect()
}

/// `silu(gate x) * (up x)`.
pub fn hidden(gate: &Stack, up: &Stack, expert: usize, x: &[f64]) -> Vec<f64> {
    gate.times(expert, x)
        .iter()
        .zip(up.times(expert, x))
        .map(|(g, u)| g / (1.0 + (-g).exp()) * u)
        .collect()
}

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
    let mut x = uniforms(&mut rng, call.tokens * call.x_stride);
    // Between the rows there may be anything.
    for row in x.chunks_mut(call.x_stride) {
        row[call.hidden..].fill(f32::NAN);
    }
    let garbage = gpu::garbage(experts.len() * call.width);
    for gpu in gpu::all() {
        for tuning in gpu.tunings() {
            // Subgroups only sum over lanes: not where a lane has its own rows, and the same of every type.
            if tuning.subgroups && (tuning.fat_threads || call.dtype != 3) {
                continue;
            }
            let mut buffers = [
                gpu::words(&x),
                experts.to_vec(),
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
                        let x = wide(&x[slot / call.slots * call.x_stride..][..call.hidden]);
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

fn call(dtype: u32, tokens: usize, slots: usize) -> Call {
    Call {
        dtype,
        tokens,
        slots,
        width: 36,
        hidden: 68,
        first_expert: 0,
        n_experts: 4,
        x_stride: 68,
    }
}

#[test]
fn one_token_goes_through_its_experts() {
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
        x_stride: 100,
        width: 131,
        ..call(3, 5, 1)
    };
    check(&dense, &[0; 5], 4);
}

#[test]
fn other_slices_of_the_stack_are_left_alone() {
    for tokens in [1, 2] {
        let slice = Call {
            first_expert: 5,
            n_experts: 2,
            ..call(3, tokens, 4)
        };
        check(&slice, &[4, 5, 7, 6, 6, 9, 4, 5][..tokens * 4], 5);
    }
}

#[test]
fn fp8_blocks_are_crossed_both_ways() {
    for tokens in [1, 2] {
        let blocks = Call {
            width: 133,
            hidden: 260,
            x_stride: 264,
            n_experts: 2,
            ..call(3, tokens, 1)
        };
        check(&blocks, &[1, 0][..tokens], 6);
    }
    let whole = Call {
        width: 129,
        hidden: 256,
        x_stride: 256,
        n_experts: 2,
        ..call(3, 1, 1)
    };
    check(&whole, &[1], 7);
}

#[test]
fn large_gates_neither_overflow_nor_vanish() {
    for gpu in gpu::all() {
        for tuning in gpu.tunings() {
            let small = Call {
                width: 4,
                hidden: 4,
                x_stride: 4,
                n_experts: 1,
                ..call(0, 1, 1)
            };
            let rows = |by: [f32; 4]| -> Vec<u32> {
                by.iter()
                    .flat_map(|&by| gpu::words(&[by, 0.0, 0.0, 0.0]))
                    .collect()
            };
            let mut buffers = [
                gpu::words(&[1.0, 0.0, 0.0, 0.0]),
                vec![0],
                rows([1e30, -1e30, -200.0, 0.0]),
                gpu::garbage(4),
                rows([2.0; 4]),
                gpu::garbage(4),
                gpu::garbage(4),
            ];
            gpu.run(&dispatch(&small, &tuning), &mut buffers);
            let found = gpu::floats(&buffers[6]);
            assert!((f64::from(found[0]) / 2e30 - 1.0).abs() < 1e-6, "{found:?}");
            // exp(88) stands for what is beyond: nothing, of the size of the gate.
            assert!(found[1].abs() < 1e30 * 1e-37, "{found:?}");
            assert!(found[2].abs() < 1e-30 && found[3] == 0.0, "{found:?}");
        }
    }
}
