//! `sample` against sorting in `f64`.

use std::collections::BTreeSet;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use shaders::kernel::Tuning;
use shaders::sample::{Call, IMPOSSIBLE, INFINITE, NAN, dispatch};

use super::gpu;

/// Of the log of a sum of exponentials and of a log-probability, absolute: exponentials and sums
/// are f32.
const LOG: f64 = 2e-5;

/// How far sums in f32 may move the cut and the draw, as a share of all.
const SHARE: f64 = 3e-6;

/// Numbers of about a normal distribution, times `scale`.
fn bell(n: usize, scale: f32, seed: u64) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut one = || random.next_u32() as i32 as f32 / 2f32.powi(31);
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
fn tunings(gpu: &gpu::Gpu) -> Vec<Tuning> {
    let mut tunings = gpu.tunings();
    tunings.retain(|tuning| !tuning.fat_threads);
    tunings
}

fn run(gpu: &gpu::Gpu, tuning: &Tuning, call: &Call, logits: &[f32]) -> [u32; 8] {
    // What lies around the row must not matter.
    let mut row = vec![f32::NAN; call.logits_offset];
    row.extend(logits);
    row.extend([f32::NAN; 3]);
    let mut buffers = [gpu::words(&row), gpu::garbage(8)];
    gpu.run(&dispatch(call, tuning), &mut buffers);
    buffers[1].clone().try_into().unwrap()
}

fn weights(logits: &[f32], temperature: f64) -> Vec<f64> {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits
        .iter()
        .map(|&x| ((f64::from(x) - f64::from(most)) / temperature).exp())
        .collect()
}

fn log_sum(logits: &[f32]) -> f64 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    weights(logits, 1.0).iter().sum::<f64>().ln() + f64::from(most)
}

/// Ids of the nucleus, ascending.
fn nucleus(logits: &[f32], weights: &[f64], top_p: f64) -> Vec<usize> {
    let mut ids: Vec<usize> = (0..logits.len()).collect();
    ids.sort_by(|&a, &b| logits[b].partial_cmp(&logits[a]).unwrap().then(a.cmp(&b)));
    let wanted = top_p * weights.iter().sum::<f64>();
    let mut reached = 0.0;
    let mut n = 0;
    while n < ids.len() && (n == 0 || reached < wanted) {
        reached += weights[ids[n]];
        n += 1;
    }
    ids.truncate(n);
    ids.sort_unstable();
    ids
}

fn draw(ids: &[usize], weights: &[f64], uniform: f64) -> usize {
    let total: f64 = ids.iter().map(|&id| weights[id]).sum();
    let mut reached = 0.0;
    let passed = ids.iter().find(|&&id| {
        reached += weights[id];
        reached > uniform * total
    });
    *passed.or(ids.last()).unwrap()
}

/// Checks a draw; whether only one token could be right.
fn check(gpu: &gpu::Gpu, tuning: &Tuning, call: &Call, logits: &[f32]) -> bool {
    let found = run(gpu, tuning, call, logits);
    let what = format!("{} {tuning:?} {call:?}", gpu.name);
    let weights = weights(logits, call.temperature);
    let mut allowed = BTreeSet::new();
    let mut sizes = BTreeSet::new();
    let mut closest = f64::INFINITY;
    let around = |x: f64| [x - SHARE, x, x + SHARE];
    let cuts = match call.top_p {
        1.0.. => vec![2.0],
        top_p => around(top_p).to_vec(),
    };
    for top_p in cuts {
        let ids = nucleus(logits, &weights, top_p);
        sizes.insert(ids.len() as u32);
        allowed.extend(around(call.uniform).map(|uniform| draw(&ids, &weights, uniform)));
        let total: f64 = ids.iter().map(|&id| weights[id]).sum();
        if ids.contains(&(found[0] as usize)) {
            let share = (weights[found[0] as usize] / total).ln();
            closest = closest.min((f64::from(f32::from_bits(found[4])) - share).abs());
        }
    }
    assert!(
        allowed.contains(&(found[0] as usize)),
        "{what}: {} is not in {allowed:?}",
        found[0]
    );
    if call.top_p < 1.0 {
        let (least, most) = (sizes.first().unwrap(), sizes.last().unwrap());
        assert!(
            (least..=most).contains(&&found[5]),
            "{what}: {} kept, not {sizes:?}",
            found[5]
        );
    }
    assert!(closest <= LOG, "{what}: log-probability off by {closest:e}");
    assert_eq!(found[1], 0, "{what}");
    assert_eq!(found[2], logits[found[0] as usize].to_bits(), "{what}");
    let off = (f64::from(f32::from_bits(found[3])) - log_sum(logits)).abs();
    assert!(
        off <= LOG * log_sum(logits).abs().max(1.0),
        "{what}: sum off by {off:e}"
    );
    assert_eq!(found[6..], [0, 0], "{what}");
    allowed.len() == 1
}

#[test]
fn the_best_token_wins_and_ties_go_to_the_lower_id() {
    for gpu in gpu::all() {
        for tuning in tunings(gpu) {
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
                let found = run(gpu, &tuning, &call, &logits);
                let what = format!("{} {tuning:?} {} logits", gpu.name, logits.len());
                assert_eq!(found[..2], [best, 0], "{what}");
                assert_eq!(found[2], logits[best as usize].to_bits(), "{what}");
                let expected = log_sum(&logits);
                let off = (f64::from(f32::from_bits(found[3])) - expected).abs();
                assert!(
                    off <= LOG * expected.abs().max(1.0),
                    "{what}: sum off by {off:e}"
                );
                assert_eq!(found[4..], [0, 1, 0, 0], "{what}");
            }
        }
    }
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
    for gpu in gpu::all() {
        for tuning in tunings(gpu) {
            // Greedy and drawn in turn; every kind of trouble meets both.
            for (temperature, (logits, flags, id)) in [0.0, 1.0].into_iter().cycle().zip(&cases) {
                let call = Call {
                    temperature,
                    top_p: 0.9,
                    ..greedy(logits.len())
                };
                let found = run(gpu, &tuning, &call, logits);
                let bits = logits[*id as usize].to_bits();
                let expected = [*id, *flags, bits, 0, 0, 0, 0, 0];
                assert_eq!(found, expected, "{} {tuning:?} {call:?}", gpu.name);
            }
        }
    }
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
    let mut random = ChaCha8Rng::seed_from_u64(7);
    for gpu in gpu::all() {
        let mut certain = 0;
        let mut n = 0;
        // Adapters without subgroups have one tuning and take half of the draws.
        for (i, tuning) in tunings(gpu).iter().enumerate() {
            for at in (i..cases.len() * settings.len()).step_by(2) {
                let logits = &cases[at % cases.len()];
                let (temperature, top_p) = settings[at % settings.len()];
                let call = Call {
                    vocab: logits.len(),
                    logits_offset: 5,
                    temperature,
                    top_p,
                    uniform: f64::from(random.next_u32() >> 8) / f64::from(1 << 24),
                };
                certain += usize::from(check(gpu, tuning, &call, logits));
                n += 1;
            }
        }
        assert!(
            certain * 20 >= n * 19,
            "{certain} of {n} draws prove anything"
        );
    }
}

#[test]
fn the_ends_of_the_draw_are_the_ends_of_the_nucleus() {
    let logits = [1.0, f32::NEG_INFINITY, 5.0, 4.0, 1.0, -200.0];
    let just_below_1 = 1.0 - f64::from(f32::EPSILON) / 2.0;
    for gpu in gpu::all() {
        for tuning in tunings(gpu) {
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
                    vocab: logits.len(),
                    logits_offset: 0,
                    temperature: 1.0,
                    top_p,
                    uniform,
                };
                let found = run(gpu, &tuning, &call, &logits);
                assert_eq!(found[0], id, "{} {tuning:?} {call:?}", gpu.name);
            }
        }
    }
}

#[test]
fn of_equal_logits_exactly_as_many_are_kept_as_are_needed() {
    for gpu in gpu::all() {
        for tuning in tunings(gpu) {
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
                let found = run(gpu, &tuning, &call, &vec![-2.5; vocab]);
                assert_eq!(
                    (found[0], found[5]),
                    (id, kept),
                    "{} {tuning:?} {call:?}",
                    gpu.name
                );
            }
        }
    }
}

#[test]
fn logits_that_weigh_the_same_but_differ_are_kept_best_first() {
    // At this temperature every weight is 1: the cut falls exactly between two logits.
    let logits: Vec<f32> = (0..1000)
        .map(|id| (id * 377 % 1000) as f32 - 500.0)
        .collect();
    for gpu in gpu::all() {
        for tuning in tunings(gpu) {
            for (top_p, kept) in [(0.5, 500), (0.125, 125)] {
                let mut best: Vec<usize> = (0..1000).collect();
                best.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
                best.truncate(kept);
                best.sort_unstable();
                for (uniform, id) in [(0.0, best[0]), (1.0, best[kept - 1])] {
                    let call = Call {
                        vocab: 1000,
                        logits_offset: 0,
                        temperature: 1e30,
                        top_p,
                        uniform,
                    };
                    let found = run(gpu, &tuning, &call, &logits);
                    let found = (found[0] as usize, found[5] as usize);
                    assert_eq!(found, (id, kept), "{} {tuning:?} {call:?}", gpu.name);
                }
            }
        }
    }
}

#[test]
fn a_real_vocabulary_twice_the_same_bits() {
    let logits = bell(129_280, 8.0, 8);
    for gpu in gpu::all() {
        for tuning in &tunings(gpu) {
            let call = Call {
                vocab: logits.len(),
                logits_offset: 2,
                temperature: 1.0,
                top_p: 0.95,
                uniform: 0.6180,
            };
            check(gpu, tuning, &call, &logits);
            let first = run(gpu, tuning, &call, &logits);
            assert_eq!(first, run(gpu, tuning, &call, &logits), "{}", gpu.name);
            let best = run(gpu, tuning, &greedy(logits.len()), &logits);
            let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let expected = logits.iter().position(|&logit| logit == most).unwrap();
            assert_eq!(best[0] as usize, expected, "{}", gpu.name);
        }
    }
}
