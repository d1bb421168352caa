//! `top_k` against its reference, which sorts.

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use shaders::Tuning;
use shaders::top_k::{Call, KERNEL, dispatch};

use super::gpu::{self, Gpu};
use super::inputs::{seeded, uniform};

/// Scores, selection and status, exactly as the reference leaves them. `first_row` rows of the selection
/// and one behind the last hold garbage, which must stay.
fn run(gpu: &Gpu, call: &Call, tuning: &Tuning, scores: &[u32], status: u32) -> [Vec<u32>; 3] {
    let n_rows = call.first_row + call.tokens + 1;
    let buffers = [
        scores.to_vec(),
        gpu::garbage(n_rows * call.k),
        gpu::garbage(n_rows * call.k),
        vec![status, 7, 8, 9],
    ];
    let runs = [false, true].map(|keep| {
        let call = Call { keep, ..*call };
        gpu.check(&dispatch(&call, tuning), &buffers, &[])
    });
    let [[mut found, _], [keeping, _]] = runs;
    // The scores of the selected beside them change nothing.
    assert_eq!((&found[1], &found[3]), (&keeping[1], &keeping[3]));
    found.remove(2);
    found.try_into().expect("three of four bindings")
}

/// Runs rows of the visible scores, garbage behind them.
fn check(rows: &[Vec<f32>], k: usize, first_row: usize) {
    let position = rows[0].len() - 1;
    let call = Call {
        tokens: rows.len(),
        first_row,
        position,
        k,
        scores_stride: (position + rows.len()).next_multiple_of(4) + 4,
        keep: false,
    };
    let mut scores = gpu::garbage(rows.len() * call.scores_stride);
    for (row, into) in rows.iter().zip(scores.chunks_mut(call.scores_stride)) {
        into[..row.len()].copy_from_slice(&gpu::words(row));
    }
    gpu::each(&KERNEL, |gpu, tuning| {
        let [_, _, status] = run(gpu, &call, tuning, &scores, 0);
        assert_eq!(status, [0, 7, 8, 9]);
    });
}

/// Each row one longer than the one before it.
fn rows(first: usize, n: usize, mut score: impl FnMut(usize, usize) -> f32) -> Vec<Vec<f32>> {
    (0..n)
        .map(|row| (0..first + row).map(|at| score(row, at)).collect())
        .collect()
}

#[test]
fn random_scores_of_many_rows() {
    let random = &mut seeded(1);
    for (first, n, k, first_row) in [
        (1, 1, 1, 0),
        (1, 9, 4, 0), // fewer than k, as many, more
        (1, 3, 7, 5), // never as many
        (70, 5, 1, 3),
        (255, 3, 16, 0),
        (2049, 2, 2048, 0), // all but one, all but two
        (4095, 3, 100, 2),  // around a step of the walk
        (8190, 3, 2048, 0), // around a step of the histogram
    ] {
        let rows = rows(first, n, |_, _| uniform(random));
        check(&rows, k, first_row);
    }
}

#[test]
fn ties_go_to_the_lower_position() {
    for k in [1, 5, 128] {
        let score = |row, at| match row {
            0 => 0.25,
            1 => [1.0, -2.0, -2.0][at % 3],
            // A plateau of zeros of both signs with something above and below it.
            _ => match at % 50 {
                7 => 3.0,
                8 => -1.0,
                odd if odd % 2 == 1 => -0.0,
                _ => 0.0,
            },
        };
        check(&rows(600, 3, score), k, 1);
    }
    check(&rows(2049, 1, |_, _| -0.0), 2048, 0);
}

#[test]
fn sorted_scores_both_ways_and_neighbouring_numbers() {
    let score = |row, at| match row {
        0 => at as f32,
        1 => -(at as f32),
        // All in one bin of the first two digits: only the last tells them apart.
        2 => f32::from_bits(0x3f80_0000 + (at as u32 * 7919) % 1000),
        _ => f32::from_bits(0xbf80_0000 + (at as u32 * 7919) % 1000),
    };
    check(&rows(3000, 4, score), 700, 0);
}

#[test]
fn infinities_and_the_largest_and_smallest_numbers_are_ordered() {
    const NUMBERS: [f32; 11] = [
        f32::NEG_INFINITY,
        f32::MIN,
        -1.0,
        -f32::MIN_POSITIVE,
        -1e-45,
        -0.0,
        0.0,
        1e-45,
        f32::MIN_POSITIVE,
        f32::MAX,
        f32::INFINITY,
    ];
    for k in [1, 5, 9] {
        // Each begins with another number and ends with another.
        check(&rows(11, 11, |row, at| NUMBERS[(at * 5 + row) % 11]), k, 0);
    }
    check(&rows(40, 1, |_, _| f32::NEG_INFINITY), 8, 0);
}

#[test]
fn the_longest_context() {
    let random = &mut seeded(2);
    // Zeros where ReLU left nothing, as real scores have them.
    let rows = rows(163_840, 1, |_, _| uniform(random).max(0.0));
    check(&rows, 2048, 0);
}

#[test]
fn the_lowest_position_with_a_nan_is_told_and_its_row_is_valid() {
    const STRIDE: usize = 64;
    let call = Call {
        tokens: 6,
        first_row: 1,
        position: 45,
        k: 10,
        scores_stride: STRIDE,
        keep: false,
    };
    let random = &mut seeded(3);
    let scores: Vec<f32> = (0..6 * STRIDE).map(|_| uniform(random)).collect();
    let mut scores = gpu::words(&scores);
    // Behind what row 0 sees; the last that row 2 sees; two of row 4's. A processor's own NaN is negative.
    scores[46] = 0x7fc0_0000;
    scores[2 * STRIDE + 47] = 0xffc0_0000;
    scores[4 * STRIDE] = 0x7f80_0001;
    scores[4 * STRIDE + 3] = 0xffff_ffff;
    gpu::each(&KERNEL, |gpu, tuning| {
        let [_, selection, status] = run(gpu, &call, tuning, &scores, 0);
        assert_eq!(status, [0x8000_0000 - 47, 7, 8, 9]);
        for token in [2, 4] {
            assert!(
                selection[(1 + token) * 10..]
                    .iter()
                    .copied()
                    .take(10)
                    .eq(0..10)
            );
        }
    });
}

#[test]
fn an_earlier_status_of_a_lower_position_stays() {
    let call = Call {
        tokens: 1,
        first_row: 0,
        position: 4,
        k: 2,
        scores_stride: 8,
        keep: false,
    };
    for (before, after) in [
        (0x8000_0000 - 3, 0x8000_0000 - 3),
        (0x8000_0000 - 5, 0x8000_0000 - 4),
    ] {
        gpu::each(&KERNEL, |gpu, tuning| {
            let scores = gpu::words(&[f32::NAN; 8]);
            let [_, selection, status] = run(gpu, &call, tuning, &scores, before);
            assert_eq!(selection[..2], [0, 1]);
            assert_eq!(status, [after, 7, 8, 9]);
        });
    }
}

#[test]
fn rows_with_few_scores_are_taken_whole_without_a_look() {
    let call = Call {
        tokens: 4,
        first_row: 2,
        position: 0,
        k: 5,
        scores_stride: 4,
        keep: false,
    };
    gpu::each(&KERNEL, |gpu, tuning| {
        let [_, selection, status] = run(gpu, &call, tuning, &gpu::garbage(16), 0);
        for (token, row) in selection[2 * 5..].chunks(5).take(4).enumerate() {
            let expected = |slot| if slot <= token as u32 { slot } else { u32::MAX };
            assert_eq!(*row, [0, 1, 2, 3, 4].map(expected));
        }
        assert_eq!(status, [0, 7, 8, 9]);
    });
}

#[test]
fn any_scores_with_many_ties_are_selected_as_sorting_does() {
    // A launch has many rows, and each is a case of its own.
    const ROWS: usize = 24;
    let config = Config {
        cases: 6,
        failure_persistence: None,
        // Each step would compile the text again.
        max_shrink_iters: 32,
        ..Config::default()
    };
    let seed = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let score = prop_oneof![
        4 => Just(0.0_f32),
        1 => Just(-0.0),
        4 => (-3..4_i32).prop_map(|n| n as f32),
        2 => any::<u32>().prop_map(f32::from_bits).prop_filter("a number", |x| !x.is_nan()),
    ];
    let cases = (
        proptest::collection::vec(score, ROWS * 300),
        1..277_usize,
        1..200_usize,
        0..3_usize,
    );
    TestRunner::new_with_rng(config, seed)
        .run(&cases, |(scores, first, k, first_row)| {
            check(
                &rows(first, ROWS, |row, at| scores[row * 300 + at]),
                k,
                first_row,
            );
            Ok(())
        })
        .unwrap();
}

#[test]
fn the_cost_counts_only_rows_that_are_read() {
    let tuning = Tuning {
        subgroups: false,
        fat_threads: false,
    };
    let call = Call {
        tokens: 4,
        first_row: 0,
        position: 8,
        k: 10,
        scores_stride: 12,
        keep: false,
    };
    let cost = dispatch(&call, &tuning).cost;
    // Rows see 9, 10, 11 and 12.
    assert_eq!(cost.read_bytes, 16 * (11 + 12));
    assert_eq!(cost.write_bytes, 160);
}
