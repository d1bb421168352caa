//! `index_scores` against its reference.

use shaders::index_scores::{Call, KERNEL, dispatch};
use shaders::{Tuning, key_cache};

use super::gpu::{self, Gpu, Near};
use super::inputs::{keys, seeded, uniforms};

/// Dot products of at most 260 and sums of at most 64 rounded numbers, each 6e-8 of a partial sum. Partial
/// sums of mixed signs exceed the largest score a few times.
const TOLERANCE: f64 = 2e-5;

/// `index_q` and `index_w` of `n_rows`, keys for all tokens of the call, and scores.
fn input(call: &Call, n_rows: usize) -> [Vec<u32>; 4] {
    let random = &mut seeded((call.di * 1000 + call.heads) as u64);
    [
        uniforms(random, n_rows * call.heads * call.di),
        uniforms(random, n_rows * call.heads),
        keys(random, call.keys, call.di, call.position + call.tokens),
        gpu::garbage(call.tokens * call.scores_stride),
    ]
}

/// Gives the scores, `[tokens, scores_stride]`, garbage where nothing was written.
fn run(gpu: &Gpu, call: &Call, tuning: &Tuning, input: &[Vec<u32>; 4], near: f64) -> Vec<u32> {
    let near = [("scores", Near::Rows(call.scores_stride, near))];
    let [mut found, _] = gpu.check(&dispatch(call, tuning), input, &near);
    found.swap_remove(3)
}

fn check(call: &Call, n_rows: usize) {
    let input = input(call, n_rows);
    gpu::each(&KERNEL, |gpu, tuning| {
        run(gpu, call, tuning, &input, TOLERANCE);
    });
}

#[test]
fn scores_are_right_for_every_format_and_size() {
    // Tokens, first row, heads, channels, position.
    let sizes = [
        (1, 0, 1, 4, 0),      // one key, one unit that is not full
        (1, 0, 3, 32, 62),    // one short of a page
        (1, 2, 64, 128, 64),  // a page and a key; a later row
        (1, 0, 16, 128, 130), // three pages
        (1, 0, 70, 36, 63),   // a second tile of heads, a ragged key
        (3, 1, 64, 128, 61),  // tokens on both sides of a page's end
        (1, 0, 5, 260, 66),   // three blocks of scales, the last of 4 channels
        (5, 2, 3, 260, 0),    // 16 tokens a tile, none full; keys 1 to 5
        (19, 4, 16, 32, 120), // tiles that see different pages
        (2, 0, 130, 20, 70),  // a third tile of heads
        (130, 0, 1, 12, 0),   // the first page hides from nobody, the last from most
    ];
    for (at, (tokens, first_row, heads, di, position)) in sizes.into_iter().enumerate() {
        // FP8 each time, and one of the others.
        for keys in [2, at as u32 % 2] {
            let call = Call {
                keys,
                tokens,
                first_row,
                heads,
                di,
                position,
                scores_stride: (position + tokens).next_multiple_of(4) + 4,
            };
            check(&call, first_row + tokens);
        }
    }
}

/// A call of one token.
fn call(keys: u32, heads: usize, di: usize, position: usize) -> Call {
    Call {
        keys,
        tokens: 1,
        first_row: 0,
        heads,
        di,
        position,
        scores_stride: (position + 1).next_multiple_of(4),
    }
}

#[test]
fn the_last_position_of_the_longest_context_is_scored() {
    check(&call(2, 2, 16, 163_839), 1);
}

#[test]
fn heads_that_disagree_give_exact_zeros_and_negative_weights_negative_scores() {
    for keys in [0, 2] {
        let call = call(keys, 8, 32, 99);
        let mut input = input(&call, 1);
        // Keys of ones and of halves in turn.
        for key in 0..100 {
            let code = if key % 2 == 0 { 0x38 } else { 0x30 };
            if keys == key_cache::F32 {
                let value = if key % 2 == 0 { 1_f32 } else { 0.5 };
                input[2][key * 32..][..32].fill(value.to_bits());
                continue;
            }
            let page = key / 64 * key_cache::page_words(32);
            input[2][page + key % 64 * 8..][..8].fill(u32::from_le_bytes([code; 4]));
            input[2][page + 64 * 8 + key % 64] = 1_f32.to_bits();
        }
        // Queries that no key agrees with: every product is negative or 0.
        input[0].fill(0);
        input[0][..32].fill((-1_f32).to_bits());
        input[1].fill((-0.75_f32).to_bits());
        gpu::each(&KERNEL, |gpu, tuning| {
            let scores = gpu::floats(&run(gpu, &call, tuning, &input, 0.0));
            assert!(scores.iter().all(|&score| score == 0.0), "{scores:?}");
        });
        input[0][32..64].fill(1_f32.to_bits());
        gpu::each(&KERNEL, |gpu, tuning| {
            let scores = gpu::floats(&run(gpu, &call, tuning, &input, 0.0));
            for (key, score) in scores.iter().enumerate() {
                assert_eq!(*score, [-24.0, -12.0][key % 2], "key {key}");
            }
        });
    }
}

#[test]
fn a_nan_stays_one_and_does_not_spread() {
    // Of either sign, as a processor's own is negative; quiet, signalling, and all ones.
    const BAD: [(usize, u32); 4] = [
        (0, 0x7fc0_0000),
        (70, 0xffc0_0000),
        (63, 0x7f80_0001),
        (97, 0xffff_ffff),
    ];
    let call = Call {
        tokens: 3,
        scores_stride: 104,
        ..call(0, 3, 20, 98)
    };
    let mut in_keys = input(&call, 3);
    for (key, nan) in BAD {
        in_keys[2][key * 20 + 7] = nan;
    }
    gpu::each(&KERNEL, |gpu, tuning| {
        for row in run(gpu, &call, tuning, &in_keys, TOLERANCE).chunks(104) {
            for (key, score) in gpu::floats(&row[..99]).iter().enumerate() {
                let expected = BAD.iter().any(|(bad, _)| *bad == key);
                assert_eq!(score.is_nan(), expected, "key {key} is {score}");
            }
        }
    });
    let call = Call { keys: 2, ..call };
    let mut in_weights = input(&call, 3);
    in_weights[1][4] = f32::NAN.to_bits();
    gpu::each(&KERNEL, |gpu, tuning| {
        let scores = run(gpu, &call, tuning, &in_weights, TOLERANCE);
        for (token, row) in scores.chunks(104).enumerate() {
            let visible = &gpu::floats(row)[..99 + token];
            assert!(visible.iter().all(|score| score.is_nan() == (token == 1)));
        }
    });
}

#[test]
fn an_infinite_product_is_an_infinite_score() {
    // Three heads: those that fill up the tile must not make NaN of it.
    let call = call(0, 3, 16, 5);
    let mut input = input(&call, 1);
    input[0].fill(1_f32.to_bits());
    input[1] = gpu::words(&[1.0, 1.0, 0.5]);
    input[2][2 * 16 + 3] = f32::INFINITY.to_bits();
    input[2][4 * 16 + 3] = f32::NEG_INFINITY.to_bits();
    gpu::each(&KERNEL, |gpu, tuning| {
        let scores = gpu::floats(&run(gpu, &call, tuning, &input, TOLERANCE));
        assert_eq!([scores[2], scores[4]], [f32::INFINITY, 0.0]);
        assert!(scores[..6].iter().all(|score| !score.is_nan()));
    });
}

#[test]
fn scores_do_not_depend_on_company() {
    for (keys, heads, di) in [(0, 3, 36), (2, 64, 128)] {
        let call = Call {
            tokens: 5,
            scores_stride: 80,
            ..call(keys, heads, di, 70)
        };
        let input = input(&call, 5);
        gpu::each(&KERNEL, |gpu, tuning| {
            let together = run(gpu, &call, tuning, &input, TOLERANCE);
            for token in [0, 3] {
                let alone = Call {
                    tokens: 1,
                    first_row: token,
                    position: 70 + token,
                    ..call
                };
                let row = run(gpu, &alone, tuning, &input, TOLERANCE);
                assert_eq!(row[..80], together[token * 80..][..80], "token {token}");
            }
        });
    }
}

#[test]
fn the_cost_is_each_key_once() {
    let tuning = Tuning {
        subgroups: true,
        fat_threads: false,
    };
    let cost = dispatch(&call(2, 64, 128, 131_071), &tuning).cost;
    assert_eq!(cost.read_bytes, 132 * 131_072 + 4 * 64 * 129);
    assert_eq!(cost.write_bytes, 4 * 131_072);
    assert_eq!(cost.flops, 131_072 * 64 * 258);
}
