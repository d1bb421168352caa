//! `matmul` against sums in `f64` over the decoded weights.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use shaders::matmul::{Call, dispatch};
use shaders::weights::DTYPES;
use shaders::{Dispatch, Tuning};

use super::gpu;
use super::matvec::{Weights, case, check, weights};

/// That of a GPU. Software gets another kernel.
const THIN: Tuning = Tuning {
    subgroups: false,
    fat_threads: false,
};

fn run(gpu: &gpu::Gpu, dispatch: &Dispatch, call: &Call, x: &[f32], w: &Weights) -> Vec<u32> {
    let y = gpu::garbage(call.tokens * call.y_stride);
    let mut buffers = [gpu::words(x), w.packed.clone(), w.scales.clone(), y];
    gpu.run(dispatch, &mut buffers);
    let [_, _, _, y] = buffers;
    y
}

#[test]
fn every_type_and_tile_matches_f64() {
    let mut random = ChaCha8Rng::seed_from_u64(1);
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
            let w = weights(&mut random, dtype, rows, cols);
            let (call, x) = case(&mut random, dtype, tokens, rows, cols);
            for gpu in gpu::all() {
                let mut dispatch = dispatch(&call, &THIN);
                dispatch.knobs = vec![("DTYPE", dtype), ("TILE_TOKENS", tile)];
                dispatch.groups = [
                    (tokens as u32).div_ceil(tile),
                    (rows as u32).div_ceil(2 * tile),
                    1,
                ];
                let what = format!("{}: tile {tile} {call:?}", gpu.name);
                check(&call, &x, &w, &run(gpu, &dispatch, &call, &x, &w), &what);
            }
        }
    }
}

#[test]
fn what_is_planned_covers_the_result() {
    let mut random = ChaCha8Rng::seed_from_u64(2);
    // Small tiles and large ones.
    for (tokens, rows, cols) in [(41, 70, 164), (65, 12_170, 4)] {
        let w = weights(&mut random, 3, rows, cols);
        let (call, x) = case(&mut random, 3, tokens, rows, cols);
        for gpu in gpu::all() {
            // There is no other text for subgroups.
            for tuning in gpu.tunings().into_iter().filter(|tuning| !tuning.subgroups) {
                let what = format!("{}: {tuning:?} {call:?}", gpu.name);
                let dispatch = dispatch(&call, &tuning);
                check(&call, &x, &w, &run(gpu, &dispatch, &call, &x, &w), &what);
            }
        }
    }
}

#[test]
fn the_same_call_gives_the_same_bits() {
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let w = weights(&mut random, 4, 70, 164);
    let (call, x) = case(&mut random, 4, 41, 70, 164);
    for gpu in gpu::all() {
        for tuning in gpu.tunings().into_iter().filter(|tuning| !tuning.subgroups) {
            let dispatch = dispatch(&call, &tuning);
            let [first, second] = [(), ()].map(|()| run(gpu, &dispatch, &call, &x, &w));
            assert_eq!(first, second, "{}: {tuning:?}", gpu.name);
        }
    }
}
