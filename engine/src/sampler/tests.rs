//! Draws against a plain sampler in `f64`, the order of operations, and what may not be drawn from.

use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed};

use super::*;

const NEVER: f32 = f32::NEG_INFINITY;

/// Everything neutral, nothing truncated.
fn plain() -> SamplerOptions {
    SamplerOptions {
        top_p: 1.0,
        keep_mask: true,
        ..SamplerOptions::default()
    }
}

fn sampler(options: SamplerOptions) -> Sampler {
    Sampler::new(options).unwrap()
}

fn kept(options: SamplerOptions, logits: &[f32]) -> Vec<u32> {
    sampler(options)
        .pick(logits, 1, &Seen::new())
        .unwrap()
        .kept
        .unwrap()
}

fn logs(probabilities: &[f32]) -> Vec<f32> {
    probabilities.iter().map(|p| p.ln()).collect()
}

#[test]
fn draws_are_chacha20() {
    // (seed, position, first 8 bytes as a number). The first three are test vectors 1, 4 and 3
    // of draft-agl-tls-chacha20poly1305; the others come from a second implementation.
    let cases = [
        (0, 0, 0x903d_f1a0_ade0_b876_u64),
        (0, 1, 0xfb78_15c6_d6df_3fef),
        (0, 1 << 56, 0xf59e_d6f3_7bba_9cde),
        (42, 1000, 0xabad_57c9_659a_0525),
        (u64::MAX, 163_839, 0xfd3d_2c4d_7042_a980),
    ];
    for (seed, position, bits) in cases {
        let mut sampler = sampler(SamplerOptions { seed, ..plain() });
        sampler.uniform(7);
        let got = sampler.uniform(position);
        assert_eq!(
            got,
            (bits >> 11) as f64 * 2_f64.powi(-53),
            "{seed} {position}"
        );
    }
}

#[test]
fn exponential_is_close_to_the_systems() {
    // Two units in the last place of either neighbour.
    const RELATIVE: f64 = 4.5e-16;
    for step in 0..200_000 {
        let x = f64::from(step) * 0.003_534_9;
        let (got, want) = (exp_minus(x), (-x).exp());
        assert!(
            (got - want).abs() <= RELATIVE * want,
            "exp(-{x}) is {got}, want {want}"
        );
    }
    assert_eq!(exp_minus(0.0), 1.0);
    assert!(exp_minus(706.999) > f64::MIN_POSITIVE);
    assert_eq!(exp_minus(707.0), 0.0);
    assert_eq!(exp_minus(f64::INFINITY), 0.0);
}

#[test]
fn wide_vectors_give_the_same_bits() {
    let scores: Vec<f32> = (0..1003).map(|i| (i as f32 * 0.37).sin() * 30.0).collect();
    let mut weights = vec![9.0; 5000];
    weigh(&scores, 30.0, 0.7, &mut weights);
    let one_by_one: Vec<f64> = scores.iter().map(|&s| weight(s, 30.0, 0.7)).collect();
    assert_eq!(weights, one_by_one);
}

#[test]
fn greedy_takes_the_lowest_of_the_best() {
    let greedy = SamplerOptions {
        temperature: 0.0,
        top_k: 3,
        min_p: 0.5,
        ..plain()
    };
    for (logits, best) in [
        (vec![1.0], 0),
        (vec![NEVER, -3.0, NEVER], 1),
        (vec![1.0, 2.0, 2.0, 2.0], 1),
        (vec![-1.0, -0.0, 0.0], 1),
        (vec![f32::MIN, f32::MAX, f32::MAX], 1),
    ] {
        let picked = sampler(greedy.clone())
            .pick(&logits, 5, &Seen::new())
            .unwrap();
        assert_eq!(picked.id, best, "{logits:?}");
        assert_eq!(picked.kept, Some(vec![best]));
        assert_eq!(picked.draw_logprob, 0.0);
    }
}

#[test]
fn bad_logits_are_named() {
    let nothing = Seen::new();
    for (logits, bad) in [
        (vec![0.0, f32::NAN], 1),
        (vec![NEVER, 0.0, f32::INFINITY, f32::NAN], 2),
        (vec![NEVER, NEVER], 0),
    ] {
        for temperature in [0.0, 1.0] {
            let mut sampler = sampler(SamplerOptions {
                temperature,
                ..plain()
            });
            let error = sampler.pick(&logits, 10, &nothing).unwrap_err();
            let Error::BadLogits { position, id, .. } = error else {
                panic!("{error}")
            };
            assert_eq!((position, id), (9, bad), "{logits:?}");
        }
    }
}

#[test]
fn truncation_breaks_ties_by_lower_id() {
    let equal = [3.0; 5];
    assert_eq!(kept(plain(), &equal), [0, 1, 2, 3, 4]);
    assert_eq!(
        kept(
            SamplerOptions {
                top_k: 2,
                ..plain()
            },
            &equal
        ),
        [0, 1]
    );
    assert_eq!(
        kept(
            SamplerOptions {
                top_k: 9,
                ..plain()
            },
            &equal
        ),
        [0, 1, 2, 3, 4]
    );
    // 2/5 is reached with exactly two, 0.41 is not.
    assert_eq!(
        kept(
            SamplerOptions {
                top_p: 0.4,
                ..plain()
            },
            &equal
        ),
        [0, 1]
    );
    assert_eq!(
        kept(
            SamplerOptions {
                top_p: 0.41,
                ..plain()
            },
            &equal
        ),
        [0, 1, 2]
    );
    assert_eq!(
        kept(
            SamplerOptions {
                top_p: 1e-300,
                ..plain()
            },
            &equal
        ),
        [0]
    );
    assert_eq!(
        kept(
            SamplerOptions {
                min_p: 1.0,
                ..plain()
            },
            &[1.0, 2.0, 2.0]
        ),
        [1, 2]
    );
}

#[test]
fn impossible_tokens_are_never_kept() {
    let logits = [NEVER, 1.0, NEVER, 1.0, -2000.0];
    for options in [
        plain(),
        SamplerOptions {
            top_k: 4,
            ..plain()
        },
        SamplerOptions {
            top_p: 1.0 - 1e-16,
            ..plain()
        },
    ] {
        assert_eq!(kept(options, &logits), [1, 3]);
    }
}

#[test]
fn steps_run_in_the_documented_order() {
    let logits = logs(&[0.2, 0.5, 0.3]);
    // After top-k the best has 0.5 / 0.8 = 0.625; without, 0.5 would not do.
    let options = SamplerOptions {
        top_k: 2,
        top_p: 0.6,
        ..plain()
    };
    assert_eq!(kept(options, &logits), [1]);
    // Temperature 0.5 squares: 4, 25, 9 of 38. The best has 0.66; without, 0.5 would not do.
    let options = SamplerOptions {
        temperature: 0.5,
        top_p: 0.6,
        ..plain()
    };
    assert_eq!(kept(options, &logits), [1]);
    // Top-p takes its share of all tokens; after min-p alone, the best would have 0.625.
    let options = SamplerOptions {
        top_p: 0.6,
        min_p: 0.5,
        ..plain()
    };
    assert_eq!(kept(options, &logits), [1, 2]);
    // Penalties come before the choice of the two best.
    let mut seen = Seen::new();
    seen.push_output(1);
    let options = SamplerOptions {
        top_k: 2,
        presence_penalty: 2.0,
        ..plain()
    };
    let picked = sampler(options).pick(&logits, 1, &seen).unwrap();
    assert_eq!(picked.kept, Some(vec![0, 2]));
}

#[test]
fn penalties_follow_their_formulas() {
    let mut seen = Seen::new();
    seen.push_prompt(&[0, 1, 4, 5]);
    for id in [1, 1, 2, 6] {
        seen.push_output(id);
    }
    let mut sampler = sampler(SamplerOptions {
        repetition_penalty: 2.0,
        presence_penalty: 0.5,
        frequency_penalty: 0.25,
        ..plain()
    });
    let logits = [2.0, -2.0, 3.0, 7.0, 0.0, NEVER, NEVER];
    sampler.pick(&logits, 8, &seen).unwrap();
    // Prompt tokens are only divided or multiplied; generated ones also pay by count.
    assert_eq!(sampler.scores, [1.0, -5.0, 0.75, 7.0, 0.0, NEVER, NEVER]);

    seen.push_output(7);
    let error = sampler.pick(&logits, 9, &seen).unwrap_err();
    assert!(
        matches!(
            error,
            Error::UnknownToken {
                id: 7,
                vocab_size: 7
            }
        ),
        "{error}"
    );
}

#[test]
fn extreme_settings_neither_overflow_nor_forbid() {
    let mut seen = Seen::new();
    seen.push_prompt(&[0, 1, 2]);
    for repetition_penalty in [f64::MIN_POSITIVE, f64::MAX] {
        for temperature in [0.0, 5e-324, 1e-3, f64::MAX] {
            let options = SamplerOptions {
                repetition_penalty,
                temperature,
                ..plain()
            };
            let mut sampler = sampler(options);
            let picked = sampler
                .pick(&[f32::MAX, f32::MIN, -1.0, NEVER], 3, &seen)
                .unwrap();
            assert!(picked.id < 3 && picked.logprob.is_finite(), "{picked:?}");
            assert!(sampler.scores[..3].iter().all(|score| score.is_finite()));
        }
    }
}

#[test]
fn logprobs_are_those_of_the_raw_logits() {
    // Roundings of ln, of the logit and of the result, each 6e-8 of at most 2.1.
    const ABSOLUTE: f32 = 4e-7;
    let logits = logs(&[0.125, 0.25, 0.625, 0.0]);
    let mut seen = Seen::new();
    seen.push_output(2);
    let options = SamplerOptions {
        temperature: 0.3,
        top_k: 1,
        presence_penalty: 2.0,
        n_logprobs: 9,
        ..plain()
    };
    let picked = sampler(options).pick(&logits, 1, &seen).unwrap();
    assert_eq!(picked.id, 1);
    assert!(
        (picked.logprob - 0.25_f32.ln()).abs() <= ABSOLUTE,
        "{picked:?}"
    );
    assert_eq!(picked.draw_logprob, 0.0);
    let ids: Vec<u32> = picked.top.iter().map(|&(id, _)| id).collect();
    assert_eq!(ids, [2, 1, 0]);
    for (&(_, got), want) in picked.top.iter().zip([0.625_f32, 0.25, 0.125]) {
        assert!((got - want.ln()).abs() <= ABSOLUTE, "{picked:?}");
    }

    // Without the 0.125, the other two share 0.875.
    let picked = sampler(SamplerOptions {
        top_k: 2,
        ..plain()
    })
    .pick(&logits, 1, &Seen::new())
    .unwrap();
    let want = (logits[picked.id as usize].exp() / 0.875).ln();
    assert!((picked.draw_logprob - want).abs() <= ABSOLUTE, "{picked:?}");
}

#[test]
fn draw_probabilities_stand_beside_the_best_tokens() {
    // Roundings of ln, exp, quotient and result, each 6e-8 of at most 2.
    const ABSOLUTE: f32 = 4e-7;
    let logits = logs(&[0.125, 0.25, 0.625, 0.0]);
    let options = SamplerOptions {
        n_logprobs: 3,
        ..plain()
    };
    let draws = |options: SamplerOptions, seen: &Seen| {
        let picked = sampler(options).pick(&logits, 1, seen).unwrap();
        let ids: Vec<u32> = picked.top.iter().map(|&(id, _)| id).collect();
        assert_eq!(ids, [2, 1, 0]);
        (picked.draws, picked.n_kept, picked.id)
    };
    let close = |got: &[f32], want: &[f32]| {
        let pairs = got.iter().zip(want);
        got.len() == want.len()
            && pairs
                .clone()
                .all(|(got, want)| (got - want).abs() <= ABSOLUTE)
    };
    let nothing = Seen::new();
    let (free, n, _) = draws(options.clone(), &nothing);
    assert!(
        close(&free, &[0.625, 0.25, 0.125]) && n == Some(3),
        "{free:?}"
    );
    let two = SamplerOptions {
        top_k: 2,
        ..options.clone()
    };
    let (cut, n, _) = draws(two, &nothing);
    assert!(
        close(&cut, &[0.625 / 0.875, 0.25 / 0.875, 0.0]) && n == Some(2),
        "{cut:?}"
    );
    // Squared by the temperature: 25 : 4 : 1.
    let cold = SamplerOptions {
        temperature: 0.5,
        ..options.clone()
    };
    let (cold, ..) = draws(cold, &nothing);
    assert!(
        close(&cold, &[25.0 / 30.0, 4.0 / 30.0, 1.0 / 30.0]),
        "{cold:?}"
    );
    // A penalty of ln 5 makes the best token as likely as the last: 1 : 2 : 1.
    let mut seen = Seen::new();
    seen.push_output(2);
    let sober = SamplerOptions {
        presence_penalty: 5_f64.ln(),
        ..options.clone()
    };
    let (penalised, ..) = draws(sober, &seen);
    assert!(close(&penalised, &[0.25, 0.5, 0.25]), "{penalised:?}");
    // Greedy after penalties: the taken one has it all, though it is not the best by logit.
    let greedy = SamplerOptions {
        temperature: 0.0,
        presence_penalty: 2.0,
        ..options
    };
    assert_eq!(draws(greedy, &seen), (vec![0.0, 1.0, 0.0], Some(1), 1));
    // Nobody asks, nothing is told but how many there were.
    let picked = sampler(plain()).pick(&logits, 1, &nothing).unwrap();
    assert_eq!((picked.draws, picked.n_kept), (vec![], Some(3)));
}

#[test]
fn best_tokens_rank_ties_by_lower_id() {
    let options = SamplerOptions {
        n_logprobs: 3,
        ..plain()
    };
    let picked = sampler(options)
        .pick(&[0.0, 1.0, 0.0, 1.0, 0.0], 1, &Seen::new())
        .unwrap();
    let ids: Vec<u32> = picked.top.iter().map(|&(id, _)| id).collect();
    assert_eq!(ids, [1, 3, 0]);
}

#[test]
fn draws_come_as_often_as_they_should() {
    const DRAWS: usize = 40_000;
    let probabilities = [0.5, 0.125, 0.0, 0.25, 0.125];
    let mut sampler = sampler(SamplerOptions { seed: 3, ..plain() });
    let mut counts = [0_u32; 5];
    for position in 0..DRAWS {
        let picked = sampler
            .pick(&logs(&probabilities), position, &Seen::new())
            .unwrap();
        counts[picked.id as usize] += 1;
    }
    for (count, p) in counts.into_iter().zip(probabilities.map(f64::from)) {
        let deviation = (DRAWS as f64 * p * (1.0 - p)).sqrt();
        // Four standard deviations: one fixed seed in four thousand would fail.
        let off = (f64::from(count) - DRAWS as f64 * p).abs();
        assert!(off <= 4.0 * deviation, "{counts:?}");
    }
}

#[test]
fn going_back_draws_the_same_again() {
    let mut one = sampler(plain());
    let draw = |sampler: &mut Sampler, position| {
        sampler
            .pick(&[0.0; 1000], position, &Seen::new())
            .unwrap()
            .id
    };
    let first: Vec<u32> = (1..50).map(|position| draw(&mut one, position)).collect();
    let again: Vec<u32> = (20..50).map(|position| draw(&mut one, position)).collect();
    assert_eq!(first[19..], again);
    let mut other = sampler(SamplerOptions { seed: 1, ..plain() });
    let differs = (1..50).map(|position| draw(&mut other, position)).ne(first);
    assert!(differs);
}

#[test]
fn masks_that_do_not_fit_are_refused() {
    let nothing = Seen::new();
    let mut sampler = sampler(plain());
    let logits = [0.0, NEVER, 0.0];
    for mask in [&[][..], &[1, 1], &[2, 0]] {
        let error = sampler.pick_masked(&logits, 4, &nothing, mask).unwrap_err();
        assert!(matches!(error, Error::Replay { .. }), "{error}");
    }
    let error = sampler
        .pick_masked(&logits, 4, &nothing, &[0, 3])
        .unwrap_err();
    assert!(
        matches!(
            error,
            Error::UnknownToken {
                id: 3,
                vocab_size: 3
            }
        ),
        "{error}"
    );
    let error = sampler.pick_masked(&logits, 4, &nothing, &[1]).unwrap_err();
    assert!(
        matches!(
            error,
            Error::BadLogits {
                position: 3,
                id: 1,
                ..
            }
        ),
        "{error}"
    );
    // Far below the best token, and yet the only choice.
    let picked = sampler
        .pick_masked(&[0.0, -3000.0], 4, &nothing, &[1])
        .unwrap();
    assert_eq!((picked.id, picked.draw_logprob), (1, 0.0));
}

#[test]
fn every_option_has_its_range() {
    SamplerOptions::default().check().unwrap();
    type Set = fn(&mut SamplerOptions, f64);
    let cases: [(&str, Set, &[f64]); 6] = [
        (
            "temperature",
            |o, x| o.temperature = x,
            &[-0.1, f64::INFINITY],
        ),
        ("top_p", |o, x| o.top_p = x, &[0.0, 1.001, -1.0]),
        ("min_p", |o, x| o.min_p = x, &[-0.001, 1.001]),
        (
            "repetition_penalty",
            |o, x| o.repetition_penalty = x,
            &[0.0, -1.0, f64::INFINITY],
        ),
        (
            "presence_penalty",
            |o, x| o.presence_penalty = x,
            &[-2.1, 2.1],
        ),
        (
            "frequency_penalty",
            |o, x| o.frequency_penalty = x,
            &[-2.1, 2.1],
        ),
    ];
    for (name, set, bad) in cases {
        for &bad in bad.iter().chain(&[f64::NAN]) {
            let mut options = SamplerOptions::default();
            set(&mut options, bad);
            let error = Sampler::new(options).unwrap_err();
            assert!(
                error.to_string().starts_with(&format!("{name} is {bad}, ")),
                "{error}"
            );
        }
    }
    let error = within("top_p", 0.0, ABOVE_0, 1.0).unwrap_err();
    assert_eq!(
        error.to_string(),
        "top_p is 0, expected a number above 0 to 1"
    );
}

#[test]
fn seen_forgets_what_it_learned() {
    let mut seen = Seen::new();
    seen.push_prompt(&[5, 6, 5]);
    let before = format!("{seen:?}");
    seen.push_output(5);
    seen.push_output(9);
    seen.push_prompt(&[6]);
    seen.truncate(99);
    assert_eq!(seen.len(), 6);
    seen.truncate(3);
    assert_eq!(format!("{seen:?}"), before);
    seen.truncate(0);
    assert!(seen.is_empty() && seen.counts.is_empty());
}

/// The definition of truncation: a full sort, sums from the best down, the system's `exp`.
fn kept_by_sorting(options: &SamplerOptions, scores: &[f32]) -> Vec<u32> {
    let mut order: Vec<usize> = (0..scores.len()).filter(|&id| scores[id] > NEVER).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    if options.top_k > 0 {
        order.truncate(options.top_k);
    }
    let best = f64::from(scores[order[0]]);
    let share = |&id: &usize| ((f64::from(scores[id]) - best) / options.temperature).exp();
    let total: f64 = order.iter().map(share).sum();
    let mut reached = 0.0;
    let mut kept = Vec::new();
    for id in &order {
        // Near the total, a sum no longer notices what it is given: 1 has to mean all.
        let wanted = options.top_p == 1.0 || reached < options.top_p * total;
        if wanted && share(id) >= options.min_p {
            kept.push(*id as u32);
        }
        reached += share(id);
    }
    kept.sort_unstable();
    kept
}

/// Many ties: quarters, as bf16 logits have them, and a few impossible tokens.
fn some_logits() -> impl Strategy<Value = Vec<f32>> {
    let logit = prop_oneof![
        9 => (-40_i32..40).prop_map(|quarters| quarters as f32 * 0.25),
        1 => Just(NEVER),
    ];
    prop::collection::vec(logit, 1..300)
        .prop_filter("all impossible", |logits| logits.iter().any(|&l| l > NEVER))
}

fn some_options() -> impl Strategy<Value = SamplerOptions> {
    let temperature = prop_oneof![Just(1.0), 0.1..10.0];
    let top_p = prop_oneof![Just(1.0), 0.01..1.0];
    let top_k = prop_oneof![Just(0), 1_usize..50];
    let min_p = prop_oneof![Just(0.0), 0.0..1.0];
    (temperature, top_p, top_k, min_p, any::<u64>()).prop_map(
        |(temperature, top_p, top_k, min_p, seed)| SamplerOptions {
            temperature,
            top_p,
            top_k,
            min_p,
            seed,
            ..plain()
        },
    )
}

proptest! {
    #![proptest_config(Config {
        rng_seed: RngSeed::Fixed(32),
        failure_persistence: None,
        ..Config::with_cases(512)
    })]

    #[test]
    fn kept_is_what_sorting_keeps(options in some_options(), logits in some_logits()) {
        let picked = sampler(options.clone()).pick(&logits, 1, &Seen::new()).unwrap();
        let kept = picked.kept.unwrap();
        prop_assert_eq!(&kept, &kept_by_sorting(&options, &logits));
        prop_assert!(kept.contains(&picked.id));
        prop_assert!(picked.logprob <= 0.0 && picked.draw_logprob <= 0.0);
    }

    #[test]
    fn draws_are_the_shares_of_what_sorting_keeps(
        options in some_options(),
        logits in some_logits(),
        greedy in prop::bool::weighted(0.1),
        n_logprobs in 1_usize..400,
    ) {
        // Of sums of at most 300 quotients in f64, rounded to f32.
        const ABSOLUTE: f64 = 1e-6;
        let options = SamplerOptions {
            temperature: if greedy { 0.0 } else { options.temperature },
            n_logprobs,
            ..options
        };
        let picked = sampler(options.clone()).pick(&logits, 1, &Seen::new()).unwrap();
        let kept = if greedy { vec![picked.id] } else { kept_by_sorting(&options, &logits) };
        prop_assert_eq!(picked.n_kept, Some(kept.len()));
        prop_assert_eq!(picked.draws.len(), picked.top.len());
        let best = kept.iter().map(|&id| logits[id as usize]).fold(NEVER, f32::max);
        let share = |id: u32| {
            if greedy {
                return 1.0;
            }
            ((f64::from(logits[id as usize]) - f64::from(best)) / options.temperature).exp()
        };
        let total: f64 = kept.iter().map(|&id| share(id)).sum();
        for (&(id, _), &draw) in picked.top.iter().zip(&picked.draws) {
            if kept.contains(&id) {
                prop_assert!((f64::from(draw) - share(id) / total).abs() <= ABSOLUTE);
            } else {
                prop_assert_eq!(draw, 0.0);
            }
        }
    }

    #[test]
    fn the_kept_mask_draws_the_same_token(
        mut options in some_options(),
        logits in some_logits(),
        position in 1_usize..200_000,
        greedy in prop::bool::weighted(0.1),
    ) {
        if greedy {
            options.temperature = 0.0;
        }
        options.repetition_penalty = 1.3;
        options.frequency_penalty = 0.2;
        let mut seen = Seen::new();
        seen.push_prompt(&[0]);
        seen.push_output(logits.len() as u32 / 2);
        let mut sampler = sampler(options);
        let picked = sampler.pick(&logits, position, &seen).unwrap();
        let mask = picked.kept.clone().unwrap();
        let replayed = sampler.pick_masked(&logits, position, &seen, &mask).unwrap();
        prop_assert_eq!(replayed, picked);
    }
}
