//! `add_norm` against its reference.

use shaders::Tuning;
use shaders::add_norm::{Call, dispatch};

use super::gpu::{self, Near};
use super::inputs::{noise, seeded};

/// Relative to the largest of a row: at most 60 sums a lane and 8 folds, halved by the root, and
/// two units for the root itself: typically below 1e-6. The sum in `x` is one f32 sum an element: exact.
const NORM: f64 = 2e-6;

const EPS: f32 = 1e-6;

fn buffers(call: &Call, [x, delta, weight]: [&[f32]; 3]) -> [Vec<u32>; 4] {
    [
        gpu::words(x),
        gpu::words(delta),
        gpu::words(weight),
        gpu::garbage(call.tokens * call.y_stride),
    ]
}

fn check(call: &Call, inputs: [&[f32]; 3]) {
    let near = [("y", Near::Rows(call.y_stride, NORM))];
    gpu::check(
        |tuning| dispatch(call, tuning),
        &buffers(call, inputs),
        &near,
    );
}

fn call(add: bool, tokens: usize, width: usize) -> Call {
    Call {
        add,
        tokens,
        width,
        y_stride: width,
        y_offset: 0,
        eps: EPS,
    }
}

#[test]
fn rows_of_any_width_land_where_they_should() {
    let random = &mut seeded(1);
    for add in [false, true] {
        for (tokens, width, y_offset, behind) in [
            (1, 4, 0, 0),
            (1, 7168, 0, 0),
            (3, 1028, 8, 4),
            (37, 36, 0, 12),
            (2, 252, 4, 0),
        ] {
            let call = Call {
                y_stride: y_offset + width + behind,
                y_offset,
                ..call(add, tokens, width)
            };
            let x = noise(random, tokens * width, 3.0);
            let delta = noise(random, tokens * width, 1.0);
            check(&call, [&x, &delta, &noise(random, width, 2.0)]);
        }
    }
}

#[test]
fn zeros_equal_elements_and_extreme_magnitudes_are_normed() {
    let (random, width) = (&mut seeded(4), 260);
    let mut x = vec![0.0; 5 * width];
    let mut delta = vec![0.0; 5 * width];
    x[width..2 * width].fill(-7.5); // all equal
    x[2 * width..3 * width].copy_from_slice(&noise(random, width, 1e15));
    x[3 * width..4 * width].copy_from_slice(&noise(random, width, 1e-12)); // eps rules
    x[4 * width] = 1e6; // one outlier
    delta[4 * width + 259] = 1e-3;
    check(
        &call(true, 5, width),
        [&x, &delta, &noise(random, width, 1.0)],
    );
}

#[test]
fn a_nan_spoils_its_own_row_and_no_other() {
    let (width, call) = (132, call(false, 3, 132));
    let mut x = noise(&mut seeded(7), 3 * width, 1.0);
    x[width + 131] = f32::NAN;
    let buffers = buffers(&call, [&x, &[0.0; 4], &vec![1.0; width]]);
    let near = [("y", Near::Rows(width, NORM))];
    gpu::each(&shaders::add_norm::KERNEL, |gpu, tuning| {
        let [found, _] = gpu.check(&dispatch(&call, tuning), &buffers, &near);
        for (token, row) in gpu::floats(&found[3]).chunks(width).enumerate() {
            let all = row.iter().all(|y| y.is_nan() == (token == 1));
            assert!(all, "{} {tuning:?}: token {token}", gpu.name);
        }
    });
}

#[test]
fn more_rows_than_fit_one_dimension_of_workgroups() {
    const TOKENS: usize = 65_535 + 3;
    let tuning = Tuning {
        subgroups: false,
        fat_threads: true,
    };
    let call = Call {
        eps: 0.0,
        ..call(false, TOKENS, 4)
    };
    let x: Vec<f32> = (0..TOKENS)
        .flat_map(|token| [1.0 + token as f32; 4])
        .collect();
    // Nothing reads `delta`.
    let buffers = buffers(&call, [&x, &[0.0; 4], &[1.0, 2.0, 3.0, 4.0]]);
    for gpu in gpu::all() {
        gpu.check(
            &dispatch(&call, &tuning),
            &buffers,
            &[("y", Near::Rows(4, NORM))],
        );
    }
}
