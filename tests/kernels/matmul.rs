//! `matmul` against its reference.

use shaders::Tuning;
use shaders::matmul::dispatch;
use shaders::weights::DTYPES;

use super::gpu;
use super::inputs::seeded;
use super::matvec::{case, near};

/// That of a GPU. Software gets another kernel.
const THIN: Tuning = Tuning {
    subgroups: false,
    fat_threads: false,
};

#[test]
fn every_type_and_tile() {
    let random = &mut seeded(1);
    for &dtype in DTYPES {
        for (tokens, rows, cols, tile) in [
            (9, 1, 4, 32),      // one row, less than a unit of anything but f32
            (33, 67, 36, 32),   // a second tile both ways with little in it; a step with one quad
            (70, 131, 260, 64), // the same of large tiles; crosses blocks of 128 both ways
        ] {
            // The narrowest and the widest type stand for all.
            if rows == 1 && ![0, 4].contains(&dtype) {
                continue;
            }
            let (call, buffers) = case(random, dtype, tokens, [rows, cols]);
            let mut dispatch = dispatch(&call, &THIN);
            dispatch.knobs = vec![("DTYPE", dtype), ("TILE_TOKENS", tile)];
            dispatch.groups = [
                (tokens as u32).div_ceil(tile),
                (rows as u32).div_ceil(2 * tile),
                1,
            ];
            for gpu in gpu::all() {
                gpu.check(&dispatch, &buffers, &near(&call));
            }
        }
    }
}

#[test]
fn what_is_planned_covers_the_result() {
    let random = &mut seeded(2);
    // Small tiles and large ones.
    for (dtype, tokens, rows, cols) in [(3, 41, 70, 164), (3, 65, 12_170, 4), (4, 41, 70, 164)] {
        let (call, buffers) = case(random, dtype, tokens, [rows, cols]);
        gpu::check(|tuning| dispatch(&call, tuning), &buffers, &near(&call));
    }
}
