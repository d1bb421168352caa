//! `attend_weights` against its reference.

use shaders::attend;
use shaders::attend_weights::{Call, KERNEL, dispatch};
use shaders::latent_cache::FORMATS;

use super::attend::{SMALL, case};
use super::gpu::{self, Near};

/// Scores of magnitude 10 carry 1e-6 of rounding into weights that are at most 1.
const CLOSE: f64 = 1e-5;

/// Compares the weights of all slots, those behind the last one included: of all rows and heads, and of
/// the last row alone the mean over heads.
fn check(call: attend::Call, all_nothing: bool) {
    let mut case = case(call);
    if all_nothing {
        case.selection.fill(-1);
    }
    let last = match call.dense {
        true => call.position + call.tokens,
        false => call.k,
    };
    gpu::each(&KERNEL, |gpu, tuning| {
        let splits = attend::splits(&case.call, tuning);
        let weights = Call {
            attend: case.call,
            stats_row: 0,
            splits,
            slots: last + 3,
            mean: false,
        };
        let of_last = Call {
            attend: attend::Call {
                tokens: 1,
                first_row: case.call.first_row + call.tokens - 1,
                position: case.call.position + call.tokens - 1,
                ..case.call
            },
            stats_row: call.tokens - 1,
            mean: true,
            ..weights
        };
        let mut left = case.buffers(tuning);
        attend::dispatch(&case.call, tuning).run_reference(&mut left);
        let [q, latents, selection, _, stats] = left;
        let row = weights.slots;
        let buffers = [
            q,
            latents,
            selection,
            stats,
            gpu::garbage(call.tokens * call.heads * row),
        ];
        let near = [("weights", Near::Rows(row, CLOSE))];
        let mut of_mean = buffers.clone();
        of_mean[4] = gpu::garbage(row);
        gpu.check(&dispatch(&of_last, tuning), &of_mean, &near);
        let [found, expected] = gpu.check(&dispatch(&weights, tuning), &buffers, &near);
        for (at, (found, expected)) in found[4].iter().zip(&expected[4]).enumerate() {
            assert!(
                *expected != 0 || *found == 0,
                "{at}: {found:#x} where nothing is"
            );
        }
        let nothing = expected[4].iter().all(|weight| *weight == 0);
        assert_eq!(nothing, all_nothing);
    });
}

#[test]
fn weights_of_every_format_dense_and_sparse() {
    for &latent in FORMATS {
        for dense in [false, true] {
            let call = attend::Call {
                latent,
                dense,
                ..SMALL
            };
            check(call, false);
        }
    }
}

#[test]
fn weights_over_several_splits_and_workgroups() {
    for (dense, k) in [(false, 150), (true, 0)] {
        let call = attend::Call {
            dense,
            k,
            position: 200,
            tokens: 1,
            ..SMALL
        };
        check(call, false);
    }
}

#[test]
fn rows_without_a_slot_have_no_weights() {
    check(SMALL, true);
}
