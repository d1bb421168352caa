//! `matvec` against its reference.

use rand_chacha::ChaCha8Rng;
use shaders::matvec::{Call, dispatch};
use shaders::weights::DTYPES;
use shaders::{Dispatch, Tuning};

use super::gpu::{self, Near};
use super::inputs::{rows, seeded, weights};

/// Of the largest of a row. Up to 1028 products are added one after the other, each sum rounded by 2^-24 of itself:
/// 7e-7 at most is seen with `matmul`, which adds 260 in a row, 2e-7 with `matvec`.
const CLOSE: f64 = 2e-6;

/// A call with gaps before and behind everything, and its buffers with NaN in the gaps.
pub fn case(
    random: &mut ChaCha8Rng,
    dtype: u32,
    tokens: usize,
    [n_rows, cols]: [usize; 2],
) -> (Call, [Vec<u32>; 4]) {
    let call = Call {
        dtype,
        tokens,
        rows: n_rows,
        cols,
        x_stride: cols + 12,
        x_offset: 8,
        y_stride: n_rows + 5,
        y_offset: 3,
    };
    let [w, scales] = weights(random, dtype, [1, n_rows, cols]);
    let x = rows(random, tokens, [8, cols, call.x_stride]);
    let y = gpu::garbage(tokens * call.y_stride);
    (call, [x, w, scales, y])
}

/// What `y` must be near. One number by itself may be what is left of four that cancel: 4.4e-6 is seen.
pub fn near(call: &Call) -> [(&'static str, Near); 1] {
    let close = if call.rows == 1 { 5.0 * CLOSE } else { CLOSE };
    [("y", Near::Rows(call.y_stride, close))]
}

const SHAPES: &[[usize; 2]] = &[
    [1, 4],     // less than a unit of anything but f32
    [3, 36],    // a tail in every type but f32
    [5, 260],   // f32: a lane works twice
    [131, 260], // crosses blocks of 128 both ways
    [6, 1028],  // a lane works twice and there is a tail
];

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
fn every_type_and_number_of_tokens() {
    let random = &mut seeded(1);
    for (at, &dtype) in DTYPES.iter().enumerate() {
        for (i, tokens) in [1, 2, 3, 5, 8].into_iter().enumerate() {
            // Every pair of type and tokens, and of type and shape.
            let (call, buffers) = case(random, dtype, tokens, SHAPES[(at + i) % SHAPES.len()]);
            gpu::each(&shaders::matvec::KERNEL, |gpu, tuning| {
                // Compilation is what takes time here. Subgroups make a difference to the sum at the
                // end only; every type gets the large plans with some numbers of tokens.
                let plans = match (tuning.subgroups, tuning.fat_threads) {
                    (true, false) if at == i => vec![four_rows_a_workgroup(&call, tuning)],
                    (false, true) if (at + i) % 3 == 0 => vec![dispatch(&call, tuning)],
                    (false, false) if (at + i) % 3 == 1 => vec![
                        four_rows_a_workgroup(&call, tuning),
                        dispatch(&call, tuning),
                    ],
                    (false, false) => vec![dispatch(&call, tuning)],
                    _ => Vec::new(),
                };
                for plan in plans {
                    gpu.check(&plan, &buffers, &near(&call));
                }
            });
        }
    }
    let (call, buffers) = case(random, 3, 1, [31, 2052]);
    gpu::check(|tuning| dispatch(&call, tuning), &buffers, &near(&call));
}
