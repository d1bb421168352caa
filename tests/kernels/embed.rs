//! `embed` against its reference: every value is exact, one rounding at most.

use shaders::embed::{Call, dispatch};

use super::gpu;
use super::inputs::{seeded, weights};

#[test]
fn rows_are_copied_exactly_and_ids_outside_the_slice_are_left_alone() {
    let random = &mut seeded(1);
    // The slice holds ids 100..107; both neighbours, 0 and the largest number are outside.
    let ids = vec![103, 100, 106, 99, 107, 0, u32::MAX, 103];
    for dtype in 0..4 {
        for width in [4, 36, 260, 1028] {
            let call = Call {
                dtype,
                tokens: ids.len(),
                width,
                first_row: 100,
                n_rows: 7,
            };
            let [table, scales] = weights(random, dtype, [1, 7, width]);
            let buffers = [ids.clone(), table, scales, gpu::garbage(ids.len() * width)];
            gpu::check(|tuning| dispatch(&call, tuning), &buffers, &[]);
        }
    }
}

#[test]
fn a_single_id_of_a_table_of_one_row() {
    let call = Call {
        dtype: 0,
        tokens: 1,
        width: 4,
        first_row: 0,
        n_rows: 1,
    };
    let row = gpu::words(&[1.5, -0.0, f32::MAX, 1e-38]);
    let buffers = [vec![0], row, vec![0; 4], gpu::garbage(4)];
    gpu::check(|tuning| dispatch(&call, tuning), &buffers, &[]);
}
