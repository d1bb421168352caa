//! `add_norm` against its formula in `f64`.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use shaders::add_norm::{Call, dispatch};
use shaders::kernel::Tuning;

use super::gpu;

/// Relative to the largest of a row: at most 60 sums a lane and 8 folds, halved by the root, and
/// two units for the root itself: typically below 1e-6.
const NORM: f64 = 2e-6;

const EPS: f32 = 1e-6;

/// Numbers in -1..1 times `scale`.
fn noise(n: usize, scale: f32, seed: u64) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    (0..n)
        .map(|_| (random.next_u32() as i32 as f32 / 2f32.powi(31)) * scale)
        .collect()
}

/// Runs and checks one call; gives `x` and `y` as they are afterwards.
fn check(
    gpu: &gpu::Gpu,
    tuning: &Tuning,
    call: &Call,
    x: &[f32],
    delta: &[f32],
    weight: &[f32],
) -> [Vec<u32>; 2] {
    let mut buffers = [
        gpu::words(x),
        gpu::words(delta),
        gpu::words(weight),
        gpu::garbage(call.tokens * call.y_stride),
    ];
    gpu.run(&dispatch(call, tuning), &mut buffers);
    let [x_after, delta_after, _, y] = buffers;
    let what = format!("{} {tuning:?} {call:?}", gpu.name);
    assert_eq!(delta_after, gpu::words(delta), "{what}");
    for token in 0..call.tokens {
        let row = token * call.width..(token + 1) * call.width;
        let sum: Vec<f32> = match call.add {
            // One f32 sum an element: exact.
            true => (x[row.clone()].iter().zip(&delta[row.clone()]))
                .map(|(x, delta)| x + delta)
                .collect(),
            false => x[row.clone()].to_vec(),
        };
        assert_eq!(gpu::floats(&x_after[row]), sum, "{what}: token {token}");
        let squares: f64 = sum.iter().map(|&x| f64::from(x).powi(2)).sum();
        let root = (squares / call.width as f64 + f64::from(call.eps)).sqrt();
        let expected: Vec<f64> = (sum.iter().zip(weight))
            .map(|(&x, &weight)| f64::from(x) / root * f64::from(weight))
            .collect();
        let (before, rest) = y[token * call.y_stride..][..call.y_stride].split_at(call.y_offset);
        let (found, behind) = rest.split_at(call.width);
        gpu::assert_close(&gpu::floats(found), &expected, NORM, &what);
        let untouched = gpu::garbage(1)[0];
        assert!(
            before.iter().chain(behind).all(|&word| word == untouched),
            "{what}"
        );
    }
    [x_after, y]
}

#[test]
fn rows_of_any_width_land_where_they_should() {
    for gpu in gpu::all() {
        for tuning in gpu.tunings() {
            for add in [false, true] {
                for (tokens, width, y_offset, behind) in [
                    (1, 4, 0, 0),
                    (1, 7168, 0, 0),
                    (3, 1028, 8, 4),
                    (37, 36, 0, 12),
                    (2, 252, 4, 0),
                ] {
                    let call = Call {
                        add,
                        tokens,
                        width,
                        y_stride: y_offset + width + behind,
                        y_offset,
                        eps: EPS,
                    };
                    let x = noise(tokens * width, 3.0, 1);
                    let delta = noise(tokens * width, 1.0, 2);
                    let weight = noise(width, 2.0, 3);
                    let first = check(gpu, &tuning, &call, &x, &delta, &weight);
                    if tokens == 3 {
                        let second = check(gpu, &tuning, &call, &x, &delta, &weight);
                        assert_eq!(first, second, "{}: not the same bits twice", gpu.name);
                    }
                }
            }
        }
    }
}

#[test]
fn zeros_equal_elements_and_extreme_magnitudes_are_normed() {
    for gpu in gpu::all() {
        for tuning in gpu.tunings() {
            let width = 260;
            let call = Call {
                add: true,
                tokens: 5,
                width,
                y_stride: width,
                y_offset: 0,
                eps: EPS,
            };
            let mut x = vec![0.0; 5 * width];
            let mut delta = vec![0.0; 5 * width];
            x[width..2 * width].fill(-7.5); // all equal
            x[2 * width..3 * width].copy_from_slice(&noise(width, 1e15, 4));
            x[3 * width..4 * width].copy_from_slice(&noise(width, 1e-12, 5)); // eps rules
            x[4 * width] = 1e6; // one outlier
            delta[4 * width + 259] = 1e-3;
            let weight = noise(width, 1.0, 6);
            check(gpu, &tuning, &call, &x, &delta, &weight);
        }
    }
}

#[test]
fn a_nan_spoils_its_own_row_and_no_other() {
    for gpu in gpu::all() {
        for tuning in gpu.tunings() {
            let width = 132;
            let call = Call {
                add: false,
                tokens: 3,
                width,
                y_stride: width,
                y_offset: 0,
                eps: EPS,
            };
            let mut x = noise(3 * width, 1.0, 7);
            x[width + 131] = f32::NAN;
            let mut buffers = [
                gpu::words(&x),
                gpu::garbage(3 * width),
                gpu::words(&vec![1.0; width]),
                gpu::words(&vec![5.0; 3 * width]),
            ];
            gpu.run(&dispatch(&call, &tuning), &mut buffers);
            for (token, row) in gpu::floats(&buffers[3]).chunks(width).enumerate() {
                let all = row.iter().all(|y| y.is_nan() == (token == 1));
                assert!(all, "{} {tuning:?}: token {token}", gpu.name);
            }
        }
    }
}

#[test]
fn more_rows_than_fit_one_dimension_of_workgroups() {
    const TOKENS: usize = 65_535 + 3;
    let tuning = Tuning {
        subgroups: false,
        fat_threads: true,
    };
    for gpu in gpu::all() {
        let call = Call {
            add: false,
            tokens: TOKENS,
            width: 4,
            y_stride: 4,
            y_offset: 0,
            eps: 0.0,
        };
        let x: Vec<f32> = (0..TOKENS)
            .flat_map(|token| [1.0 + token as f32; 4])
            .collect();
        let mut buffers = [
            gpu::words(&x),
            vec![0; 4], // nothing reads it
            gpu::words(&[1.0, 2.0, 3.0, 4.0]),
            gpu::garbage(4 * TOKENS),
        ];
        gpu.run(&dispatch(&call, &tuning), &mut buffers);
        let expected: Vec<f64> = [1.0, 2.0, 3.0, 4.0].repeat(TOKENS);
        gpu::assert_close(&gpu::floats(&buffers[3]), &expected, NORM, &gpu.name);
    }
}
