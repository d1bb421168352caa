//! `attend_weights` against the weights of a softmax in `f64`.

use shaders::attend;
use shaders::attend_weights::{Call, dispatch};
use shaders::latent_cache::{F32, FORMATS};

use super::attend::{Sizes, case, tunings};
use super::gpu;

/// Scores of magnitude 10 carry 1e-6 of rounding into weights that are at most 1.
const CLOSE: f64 = 1e-5;

const SMALL: Sizes = Sizes {
    latent: F32,
    dense: false,
    tokens: 3,
    heads: 5,
    rank: 32,
    dr: 16,
    position: 20,
    k: 11,
};

/// Compares the weights of all slots, those behind the last one included.
#[track_caller]
fn check(sizes: Sizes, all_nothing: bool) {
    let mut case = case(sizes);
    if all_nothing {
        case.selection.fill(-1);
    }
    let last = if sizes.dense {
        sizes.position + sizes.tokens
    } else {
        sizes.k
    };
    let slots = last + 3;
    for gpu in gpu::all() {
        for tuning in tunings(gpu) {
            let [_, stats] = case.run(gpu, &tuning);
            let call = Call {
                attend: case.call,
                splits: attend::splits(&case.call, &tuning),
                slots,
            };
            let mut buffers = [
                gpu::words(&case.q),
                case.latents.clone(),
                case.selection(),
                stats,
                gpu::garbage(sizes.tokens * sizes.heads * slots),
            ];
            gpu.run(&dispatch(&call, &tuning), &mut buffers);
            for (row, found) in gpu::floats(&buffers[4]).chunks(slots).enumerate() {
                let what = format!("{} {tuning:?} {sizes:?}: row {row}", gpu.name);
                let (mut expected, _) = case.weights(row / sizes.heads, row % sizes.heads);
                expected.resize(slots, 0.0);
                gpu::assert_close(found, &expected, CLOSE, &what);
                for (found, expected) in found.iter().zip(&expected) {
                    assert!(
                        *expected > 0.0 || *found == 0.0,
                        "{what}: {found} where nothing is"
                    );
                }
            }
        }
    }
}

#[test]
fn weights_of_every_format_dense_and_sparse() {
    for &latent in FORMATS {
        for dense in [false, true] {
            check(
                Sizes {
                    latent,
                    dense,
                    ..SMALL
                },
                false,
            );
        }
    }
}

#[test]
fn weights_over_several_splits_and_workgroups() {
    for (dense, k) in [(false, 150), (true, 0)] {
        check(
            Sizes {
                dense,
                k,
                position: 200,
                tokens: 1,
                ..SMALL
            },
            false,
        );
    }
}

#[test]
fn rows_without_a_slot_have_no_weights() {
    check(SMALL, true);
}
