//! `absorb` against its reference.

use rand_chacha::ChaCha8Rng;
use shaders::Tuning;
use shaders::absorb::{Call, dispatch};
use shaders::weights::DTYPES;

use super::gpu::{self, Near};
use super::inputs::{angles, rows, seeded, weights};

/// Of the largest of a head. Up to 132 products are added, each sum rounded by 2^-24 of itself: 5e-7 at
/// most is seen.
const CLOSE: f64 = 1e-6;

fn call(dtype: u32, tokens: usize, heads: usize, sizes: [usize; 4]) -> Call {
    let [dn, dr, dv, rank] = sizes;
    Call {
        dtype,
        tokens,
        heads,
        dn,
        dr,
        dv,
        rank,
        q_stride: heads * (dn + dr) + 8,
    }
}

fn check(random: &mut ChaCha8Rng, call: &Call, fat_threads: &[bool]) {
    let head = call.dn + call.dr;
    let [w, scales] = weights(
        random,
        call.dtype,
        [1, call.heads * (call.dn + call.dv), call.rank],
    );
    let buffers = [
        // Nobody looks behind the heads of a row.
        rows(random, call.tokens, [0, call.heads * head, call.q_stride]),
        w,
        scales,
        angles(random, call.tokens, call.dr),
        gpu::garbage(call.tokens * call.heads * (call.rank + call.dr)),
    ];
    let near = [("q_lat", Near::Rows(call.rank + call.dr, CLOSE))];
    for gpu in gpu::all() {
        for &fat_threads in fat_threads {
            let tuning = Tuning {
                subgroups: false,
                fat_threads,
            };
            gpu.check(&dispatch(call, &tuning), &buffers, &near);
        }
    }
}

#[test]
fn every_type_and_number_of_tokens() {
    let random = &mut seeded(1);
    for (at, &dtype) in DTYPES.iter().enumerate() {
        let cases = [
            (1, 1, [4, 4, 4, 4]),       // most lanes have nothing
            (2, 3, [36, 8, 20, 36]),    // a second round of some parts
            (3, 2, [132, 12, 60, 260]), // three tiles of columns, blocks of 128 crossed within a head
            (5, 1, [64, 64, 64, 32]),
            (9, 2, [8, 16, 8, 132]), // a second tile of tokens
        ];
        for (i, (tokens, heads, sizes)) in cases.into_iter().enumerate() {
            // Of the two plans every type gets both, and every case: compilation is what takes time here.
            let call = call(dtype, tokens, heads, sizes);
            check(random, &call, &[(at + i) % 2 == 0]);
        }
    }
    check(random, &call(3, 4, 3, [128, 64, 128, 132]), &[false, true]);
}
