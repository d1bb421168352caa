//! `index_scores` against the formula in `f64` over the numbers that the cache really holds.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use shaders::Tuning;
use shaders::index_scores::{Call, dispatch};

use super::gpu::{self, Gpu};

/// Dot products of at most 260 and sums of at most 64 rounded numbers, each 6e-8 of a partial sum. Partial
/// sums of mixed signs exceed the largest score a few times.
const TOLERANCE: f64 = 2e-5;

/// Tokens of a page of FP8 keys.
const PAGE: usize = 64;

/// What a launch reads, and the same numbers for the test.
struct Input {
    q: Vec<f32>,
    w: Vec<f32>,
    keys: Vec<u32>,
    values: Vec<f32>, // of the keys, [keys, di]
}

fn random_f32(random: &mut ChaCha8Rng) -> f32 {
    (random.next_u32() >> 8) as f32 / (1 << 23) as f32 - 1.0
}

/// Rows of queries for all of a pass, random keys for `n_keys`; what a cache holds beyond them is NaN in
/// every format.
fn input(call: &Call, n_rows: usize, n_keys: usize) -> Input {
    let mut random = ChaCha8Rng::seed_from_u64((call.di * 1000 + call.heads) as u64);
    let q = (0..n_rows * call.heads * call.di)
        .map(|_| random_f32(&mut random))
        .collect();
    let w = (0..n_rows * call.heads)
        .map(|_| random_f32(&mut random))
        .collect();
    let (keys, values) = cache(call.keys, call.di, n_keys, &mut random);
    Input { q, w, keys, values }
}

fn cache(format: u32, di: usize, n: usize, random: &mut ChaCha8Rng) -> (Vec<u32>, Vec<f32>) {
    let mut values = Vec::new();
    let mut words = Vec::new();
    match format {
        0 => {
            values.extend((0..n * di).map(|_| random_f32(random)));
            words = gpu::words(&values);
        }
        1 => {
            for _ in 0..n * di / 2 {
                let pair = [(); 2].map(|()| half::bf16::from_f32(random_f32(random)));
                values.extend(pair.map(half::bf16::to_f32));
                let [low, high] = pair.map(|half| u32::from(half.to_bits()));
                words.push(low | (high << 16));
            }
        }
        _ => {
            let blocks = di.div_ceil(128);
            let page_words = PAGE * (di / 4 + blocks);
            words = vec![u32::MAX; n.div_ceil(PAGE) * page_words];
            for key in 0..n {
                let (page, slot) = (key / PAGE * page_words, key % PAGE);
                let scales: Vec<f32> = (0..blocks)
                    .map(|_| (random.next_u32() % 5) as f32)
                    .map(|exponent| (exponent - 10.0).exp2())
                    .collect();
                for (block, scale) in scales.iter().enumerate() {
                    words[page + PAGE * di / 4 + slot * blocks + block] = scale.to_bits();
                }
                for word in 0..di / 4 {
                    // Each code but NaN, subnormal ones and -0 too.
                    let codes = [(); 4].map(|()| match random.next_u32() as u8 {
                        0x7f | 0xff => 0x80,
                        code => code,
                    });
                    words[page + slot * di / 4 + word] = u32::from_le_bytes(codes);
                    values.extend(codes.map(|code| e4m3(code) * scales[word * 4 / 128]));
                }
            }
        }
    }
    words.resize(words.len().next_multiple_of(4), u32::MAX);
    (words, values)
}

/// The definition of the format.
fn e4m3(code: u8) -> f32 {
    let sign = if code & 0x80 == 0 { 1.0 } else { -1.0 };
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7));
    match exponent {
        0 => sign * mantissa * 2_f32.powi(-9),
        _ => sign * (1.0 + mantissa / 8.0) * 2_f32.powi(exponent - 7),
    }
}

fn expected(call: &Call, input: &Input, token: usize, key: usize) -> f64 {
    let row = call.first_row + token;
    let k = &input.values[key * call.di..][..call.di];
    (0..call.heads)
        .map(|head| {
            let at = row * call.heads + head;
            let q = &input.q[at * call.di..][..call.di];
            let dot: f64 = q
                .iter()
                .zip(k)
                .map(|(q, k)| f64::from(*q) * f64::from(*k))
                .sum();
            // Not `max`, which drops NaN.
            f64::from(input.w[at]) * if dot < 0.0 { 0.0 } else { dot }
        })
        .sum()
}

/// The scores of a launch, `[tokens, scores_stride]`, garbage where nothing was written.
fn run(gpu: &Gpu, call: &Call, tuning: &Tuning, input: &Input) -> Vec<u32> {
    let scores = gpu::garbage(call.tokens * call.scores_stride);
    let mut buffers = [
        gpu::words(&input.q),
        gpu::words(&input.w),
        input.keys.clone(),
        scores,
    ];
    gpu.run(&dispatch(call, tuning), &mut buffers);
    let [.., scores] = buffers;
    scores
}

fn check(call: &Call, input: &Input, gpu: &Gpu, tuning: &Tuning) {
    let found = run(gpu, call, tuning, input);
    let what = format!("{} {tuning:?} {call:?}", gpu.name);
    for (token, row) in found.chunks(call.scores_stride).enumerate() {
        let (visible, beyond) = row.split_at(call.position + token + 1);
        let expected: Vec<f64> = (0..visible.len())
            .map(|key| expected(call, input, token, key))
            .collect();
        gpu::assert_close(&gpu::floats(visible), &expected, TOLERANCE, &what);
        assert_eq!(beyond, gpu::garbage(beyond.len()), "{what}: beyond");
    }
}

/// There is one text, with and without subgroups.
fn for_each_variant(check: impl Fn(&Gpu, &Tuning)) {
    for gpu in gpu::all() {
        for fat_threads in [false, true] {
            let tuning = Tuning {
                subgroups: false,
                fat_threads,
            };
            check(gpu, &tuning);
        }
    }
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
            let input = input(&call, first_row + tokens, position + tokens);
            for_each_variant(|gpu, tuning| check(&call, &input, gpu, tuning));
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
    let call = call(2, 2, 16, 163_839);
    let input = input(&call, 1, 163_840);
    for_each_variant(|gpu, tuning| check(&call, &input, gpu, tuning));
}

#[test]
fn heads_that_disagree_give_exact_zeros_and_negative_weights_negative_scores() {
    for keys in [0, 2] {
        let call = call(keys, 8, 32, 99);
        let mut input = input(&call, 1, 100);
        // Queries that no key agrees with: every product is negative or 0.
        for q in &mut input.q {
            *q = 0.0;
        }
        for (key, value) in input.values.iter_mut().enumerate() {
            *value = if key / 32 % 2 == 0 { 1.0 } else { 0.5 };
        }
        match keys {
            0 => input.keys = gpu::words(&input.values),
            _ => {
                for key in 0..100 {
                    let code = if key % 2 == 0 { 0x38 } else { 0x30 };
                    let page = key / PAGE * PAGE * 9;
                    let at = page + key % PAGE * 8;
                    input.keys[at..at + 8].fill(u32::from_le_bytes([code; 4]));
                    input.keys[page + PAGE * 8 + key % PAGE] = 1_f32.to_bits();
                }
            }
        }
        input.q[..32].fill(-1.0);
        input.w.fill(-0.75);
        for_each_variant(|gpu, tuning| {
            let scores = gpu::floats(&run(gpu, &call, tuning, &input));
            assert!(scores.iter().all(|&score| score == 0.0), "{scores:?}");
        });
        input.q[32..64].fill(1.0);
        for_each_variant(|gpu, tuning| {
            for (key, score) in gpu::floats(&run(gpu, &call, tuning, &input))
                .iter()
                .enumerate()
            {
                assert_eq!(
                    *score,
                    if key % 2 == 0 { -24.0 } else { -12.0 },
                    "key {key}"
                );
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
    let mut in_keys = input(&call, 3, 101);
    for (key, nan) in BAD {
        in_keys.keys[key * 20 + 7] = nan;
    }
    for_each_variant(|gpu, tuning| {
        for row in run(gpu, &call, tuning, &in_keys).chunks(104) {
            for (key, score) in gpu::floats(&row[..99]).iter().enumerate() {
                let expected = BAD.iter().any(|(bad, _)| *bad == key);
                assert_eq!(score.is_nan(), expected, "key {key} is {score}");
            }
        }
    });
    let call = Call { keys: 2, ..call };
    let mut in_weights = input(&call, 3, 101);
    in_weights.w[4] = f32::NAN;
    for_each_variant(|gpu, tuning| {
        let scores = run(gpu, &call, tuning, &in_weights);
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
    let mut input = input(&call, 1, 6);
    input.q.fill(1.0);
    input.w = vec![1.0, 1.0, 0.5];
    input.keys[2 * 16 + 3] = f32::INFINITY.to_bits();
    input.keys[4 * 16 + 3] = f32::NEG_INFINITY.to_bits();
    for_each_variant(|gpu, tuning| {
        let scores = gpu::floats(&run(gpu, &call, tuning, &input));
        assert_eq!(scores[2], f32::INFINITY);
        assert_eq!(scores[4], 0.0);
        assert!(scores[..6].iter().all(|score| !score.is_nan()));
    });
}

#[test]
fn scores_do_not_depend_on_company_or_repetition() {
    for (keys, heads, di) in [(0, 3, 36), (2, 64, 128)] {
        let call = Call {
            tokens: 5,
            scores_stride: 80,
            ..call(keys, heads, di, 70)
        };
        let input = input(&call, 5, 75);
        for_each_variant(|gpu, tuning| {
            let together = run(gpu, &call, tuning, &input);
            assert_eq!(together, run(gpu, &call, tuning, &input));
            for token in [0, 3] {
                let alone = Call {
                    tokens: 1,
                    first_row: token,
                    position: 70 + token,
                    ..call
                };
                let row = run(gpu, &alone, tuning, &input);
                assert_eq!(row, together[token * 80..][..80], "token {token}");
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
