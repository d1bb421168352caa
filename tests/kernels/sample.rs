//! `sample` against its reference, which sorts.

use std::ops::RangeInclusive;

use rand_chacha::rand_core::Rng;
use shaders::Tuning;
use shaders::sample::{Call, IMPOSSIBLE, INFINITE, KERNEL, NAN, dispatch};

use super::gpu::{self, Gpu, Near};
use super::inputs::{seeded, uniform};

/// Of the log of a sum of exponentials and of a log-probability, absolute: exponentials and sums
/// are f32.
const LOG: f64 = 2e-5;

/// How far sums in f32 may move the cut and the draw, as a share of all.
const SHARE: f64 = 3e-6;

/// Numbers of about a normal distribution, times `scale`.
fn bell(n: usize, scale: f32, seed: u64) -> Vec<f32> {
    let random = &mut seeded(seed);
    let mut one = || uniform(random);
    (0..n)
        .map(|_| (one() + one() + one() + one()) * scale)
        .collect()
}

fn greedy(vocab: usize) -> Call {
    Call {
        vocab,
        logits_offset: 0,
        temperature: 0.0,
        top_p: 1.0,
        uniform: 0.0,
    }
}

/// Fat threads make no other launch of it.
fn each(mut work: impl FnMut(&Gpu, &Tuning)) {
    gpu::each(&KERNEL, |gpu, tuning| {
        if !tuning.fat_threads {
            work(gpu, tuning);
        }
    });
}

/// `logits` and `picked`; what lies around the row must not matter.
fn buffers(call: &Call, logits: &[f32]) -> [Vec<u32>; 2] {
    let mut row = vec![f32::NAN; call.logits_offset];
    row.extend(logits);
    row.extend([f32::NAN; 3]);
    [gpu::words(&row), gpu::garbage(8)]
}

fn run(gpu: &Gpu, tuning: &Tuning, call: &Call, logits: &[f32]) -> Vec<u32> {
    let near = [("picked", Near::Packed)];
    let [found, _] = gpu.check(&dispatch(call, tuning), &buffers(call, logits), &near);
    found[1].clone()
}

fn by_reference(tuning: &Tuning, call: &Call, logits: &[f32]) -> Vec<u32> {
    let mut buffers = buffers(call, logits);
    dispatch(call, tuning).run_reference(&mut buffers);
    let [_, picked] = buffers;
    picked
}

/// Whether all is as the reference has it, but for the two logarithms and so many kept tokens.
fn is_near(found: &[u32], expected: &[u32], kept: RangeInclusive<u32>) -> bool {
    let [off, off_share] = [3, 4].map(|at| {
        let [found, expected] = [found, expected].map(|words| f64::from(f32::from_bits(words[at])));
        (found - expected).abs()
            / if at == 3 {
                expected.abs().max(1.0)
            } else {
                1.0
            }
    });
    let same = [0, 1, 2, 6, 7].iter().all(|&at| found[at] == expected[at]);
    same && kept.contains(&found[5]) && off <= LOG && off_share <= LOG
}

/// Checks one that no rounding can move; gives what the kernel has picked.
fn check(gpu: &Gpu, tuning: &Tuning, call: &Call, logits: &[f32]) -> Vec<u32> {
    let found = run(gpu, tuning, call, logits);
    let expected = by_reference(tuning, call, logits);
    assert!(
        is_near(&found, &expected, expected[5]..=expected[5]),
        "{} {tuning:?} {call:?}: {found:x?}, expected {expected:x?}",
        gpu.name
    );
    found
}

/// Checks a draw; whether only one token could be right.
fn check_draw(gpu: &Gpu, tuning: &Tuning, call: &Call, logits: &[f32]) -> bool {
    let found = run(gpu, tuning, call, logits);
    let around = |x: f64| [x - SHARE, x, x + SHARE];
    let cuts = match call.top_p {
        1.0.. => vec![1.0],
        top_p => around(top_p).to_vec(),
    };
    let draws = cuts.into_iter().flat_map(|top_p| {
        around(call.uniform).map(|uniform| Call {
            top_p,
            uniform,
            ..*call
        })
    });
    let allowed: Vec<_> = draws
        .map(|call| by_reference(tuning, &call, logits))
        .collect();
    let kept = || allowed.iter().map(|expected| expected[5]);
    let kept = kept().min().unwrap()..=kept().max().unwrap();
    let is_allowed = |expected: &Vec<u32>| is_near(&found, expected, kept.clone());
    assert!(
        allowed.iter().any(is_allowed),
        "{} {tuning:?} {call:?}: {found:x?} is not near any of {allowed:x?}",
        gpu.name
    );
    allowed.iter().all(|expected| expected[0] == allowed[0][0])
}

#[test]
fn the_best_token_wins_and_ties_go_to_the_lower_id() {
    each(|gpu, tuning| {
        let mut tied = bell(1500, 3.0, 1);
        tied[1499] = 20.0;
        tied[700] = 20.0;
        tied[1027] = 20.0;
        let cases = [
            (vec![-3.25], 0),
            (vec![7.0; 777], 0),
            (vec![f32::NEG_INFINITY, -1e30, f32::NEG_INFINITY], 1),
            (vec![-1.0, -0.0, 0.0], 1), // both zeros are one number
            (vec![-1.0, 0.0, -0.0], 1),
            (vec![-f32::MAX, -f32::MAX, f32::NEG_INFINITY], 0),
            (vec![f32::NEG_INFINITY, -f32::MAX], 1),
            (vec![-f32::MAX, f32::MAX, 0.0], 1),
            (tied, 700),
        ];
        for (logits, best) in cases {
            let call = Call {
                logits_offset: logits.len() % 3,
                ..greedy(logits.len())
            };
            let found = check(gpu, tuning, &call, &logits);
            assert_eq!(found[..2], [best, 0], "{} {tuning:?} {logits:?}", gpu.name);
            assert_eq!(found[4..], [0, 1, 0, 0], "{} {tuning:?}", gpu.name);
        }
    });
}

#[test]
fn what_cannot_be_sampled_is_reported_with_its_first_id() {
    let (nan, infinity, nothing) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY);
    let mut late = bell(900, 1.0, 2);
    late[899] = -nan;
    let cases = [
        (vec![nan], NAN, 0),
        (vec![1.0, 2.0, nan, 3.0, infinity], NAN | INFINITE, 2),
        (vec![1.0, infinity, nan], NAN | INFINITE, 1),
        (vec![nothing, infinity], INFINITE, 1),
        (vec![nothing, 0.0, infinity], INFINITE, 2),
        (vec![nan; 300], NAN, 0),
        (vec![nothing; 300], IMPOSSIBLE, 0),
        (vec![nothing], IMPOSSIBLE, 0),
        (late, NAN, 899),
    ];
    each(|gpu, tuning| {
        // Greedy and drawn in turn; every kind of trouble meets both.
        for (temperature, (logits, flags, id)) in [0.0, 1.0].into_iter().cycle().zip(&cases) {
            let call = Call {
                temperature,
                top_p: 0.9,
                ..greedy(logits.len())
            };
            let found = check(gpu, tuning, &call, logits);
            let bits = logits[*id as usize].to_bits();
            let expected = [*id, *flags, bits, 0, 0, 0, 0, 0];
            assert_eq!(found, expected, "{} {tuning:?} {call:?}", gpu.name);
        }
    });
}

#[test]
fn draws_follow_the_nucleus_of_any_logits() {
    let mut with_holes = bell(600, 4.0, 3);
    with_holes[..50].fill(f32::NEG_INFINITY);
    with_holes[555..].fill(f32::NEG_INFINITY);
    // Few values, so that the cut goes through ties.
    let tied: Vec<f32> = bell(1000, 3.0, 4).iter().map(|x| x.round()).collect();
    let far: Vec<f32> = bell(40, 1.0, 5).iter().map(|x| x * 1e37).collect();
    let cases = [with_holes, tied, far, bell(257, 0.5, 6), vec![3.0]];
    let settings = [
        (1.0, 0.9),
        (0.7, 0.5),
        (1.0, 1.0),
        (1.0, 0.0),
        (3.0, 0.999),
        (1e30, 0.3),
        (1e-30, 0.95),
        (1e300, 1.0),
        (1e-300, 1.0),
    ];
    let random = &mut seeded(7);
    let [mut certain, mut n] = [0, 0];
    // Of the tunings without and with subgroups each takes half of the draws.
    each(|gpu, tuning| {
        let first = usize::from(tuning.subgroups);
        for at in (first..cases.len() * settings.len()).step_by(2) {
            let logits = &cases[at % cases.len()];
            let (temperature, top_p) = settings[at % settings.len()];
            let call = Call {
                vocab: logits.len(),
                logits_offset: 5,
                temperature,
                top_p,
                uniform: f64::from(random.next_u32() >> 8) / f64::from(1 << 24),
            };
            certain += usize::from(check_draw(gpu, tuning, &call, logits));
            n += 1;
        }
    });
    assert!(
        certain * 20 >= n * 19,
        "{certain} of {n} draws prove anything"
    );
}

#[test]
fn the_ends_of_the_draw_are_the_ends_of_the_nucleus() {
    let logits = [1.0, f32::NEG_INFINITY, 5.0, 4.0, 1.0, -200.0];
    let just_below_1 = 1.0 - f64::from(f32::EPSILON) / 2.0;
    for (top_p, uniform, id) in [
        (1.0, 0.0, 0),
        (1.0, just_below_1, 4),
        (1.0, 1.0, 4), // what an f64 just below 1 may round to
        (0.9, 0.0, 2),
        (0.9, just_below_1, 3),
        (0.5, just_below_1, 2),
        (0.0, 0.5, 2),
    ] {
        let call = Call {
            temperature: 1.0,
            top_p,
            uniform,
            ..greedy(logits.len())
        };
        each(|gpu, tuning| assert_eq!(check(gpu, tuning, &call, &logits)[0], id, "{call:?}"));
    }
}

#[test]
fn of_equal_logits_exactly_as_many_are_kept_as_are_needed() {
    // Weights are 1, so sums are exact: no rounding excuses anything.
    for (vocab, top_p, uniform, kept, id) in [
        (10, 0.5, 0.95, 5, 4),
        (10, 0.51, 0.95, 6, 5),
        (10, 0.0, 0.95, 1, 0),
        (1024, 0.25, 0.0, 256, 0),
        (1024, 0.25, 0.9999, 256, 255),
        (1024, 0.250_001, 0.9999, 257, 256),
        (1024, 0.250_001, 1.0, 257, 256),
        (1024, 1.0, 0.5, 1024, 512),
        (3, 0.999_999, 0.5, 3, 1),
    ] {
        let call = Call {
            vocab,
            logits_offset: 1,
            temperature: 0.5,
            top_p,
            uniform,
        };
        each(|gpu, tuning| {
            let found = check(gpu, tuning, &call, &vec![-2.5; vocab]);
            assert_eq!([found[0], found[5]], [id, kept], "{call:?}");
        });
    }
}

#[test]
fn logits_that_weigh_the_same_but_differ_are_kept_best_first() {
    // At this temperature every weight is 1: the cut falls exactly between two logits.
    let logits: Vec<f32> = (0..1000)
        .map(|id| (id * 377 % 1000) as f32 - 500.0)
        .collect();
    for (top_p, kept) in [(0.5, 500), (0.125, 125)] {
        for uniform in [0.0, 1.0] {
            let call = Call {
                temperature: 1e30,
                top_p,
                uniform,
                ..greedy(1000)
            };
            each(|gpu, tuning| assert_eq!(check(gpu, tuning, &call, &logits)[5], kept));
        }
    }
}

#[test]
fn a_real_vocabulary() {
    let logits = bell(129_280, 8.0, 8);
    let call = Call {
        logits_offset: 2,
        temperature: 1.0,
        top_p: 0.95,
        uniform: 0.6180,
        ..greedy(logits.len())
    };
    each(|gpu, tuning| {
        check_draw(gpu, tuning, &call, &logits);
        check(gpu, tuning, &greedy(logits.len()), &logits);
    });
}
