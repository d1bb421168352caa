//! `attend` against its reference.

use std::collections::BTreeSet;

use rand_chacha::rand_core::Rng;
use shaders::Tuning;
use shaders::attend::{Call, KERNEL, dispatch, splits};
use shaders::latent_cache::{F32, FLASH_MLA, FORMATS, FP8, token_words};

use super::gpu::{self, Gpu, Near};
use super::inputs::{latent, noise, seeded};

/// Scores of magnitude 10 carry 1e-6 of rounding into their exponentials; sums of products add less.
/// Seen is 1e-6.
const CLOSE: f64 = 1e-5;

/// A call and its inputs.
pub struct Case {
    pub call: Call,
    /// `[rows, heads, rank + dr]`
    pub q: Vec<f32>,
    /// The binding `latents`; NaN at every position that no token of the call may read.
    pub latents: Vec<u32>,
    /// `[rows, k]`, empty where all positions are read.
    pub selection: Vec<i32>,
}

/// A random case: the first query is at `position` and has every position before it to choose from.
/// There are two rows before the call's, and each row selects up to `k` of what it sees, the last
/// one fewer.
pub fn case(call: Call) -> Case {
    let seed = (call.rank * 31 + call.heads * 7 + call.position) as u64;
    let random = &mut seeded(seed + 1000 * u64::from(call.latent));
    let channels = call.rank + call.dr;
    let call = Call {
        first_row: 2,
        // Scores of magnitude 10, as they are of a trained model.
        scale: 20.0 / (channels as f32).sqrt(),
        ..call
    };
    let rows = call.first_row + call.tokens;
    let mut q = vec![f32::NAN; call.first_row * call.heads * channels];
    q.extend(noise(random, call.tokens * call.heads * channels, 1.0));

    let mut selection = Vec::new();
    if !call.dense {
        selection.resize(call.first_row * call.k, i32::MAX);
        for token in 0..call.tokens {
            let visible = call.position + token + 1;
            let mut n = call.k.min(visible);
            if token + 1 == call.tokens && token > 0 {
                n -= n / 3;
            }
            let mut chosen = BTreeSet::new();
            // Its own position always, so that the largest one is used.
            chosen.insert(visible as i32 - 1);
            while chosen.len() < n {
                chosen.insert((random.next_u32() % visible as u32) as i32);
            }
            selection.extend(&chosen);
            selection.resize((call.first_row + token + 1) * call.k, -1);
        }
        assert_eq!(selection.len(), rows * call.k);
    }

    let positions = call.position + call.tokens;
    let words = token_words(call.latent, call.rank, call.dr);
    let mut latents = gpu::garbage(positions * words);
    for (position, to) in latents.chunks_mut(words).enumerate() {
        if call.dense || selection[call.first_row * call.k..].contains(&(position as i32)) {
            to.copy_from_slice(&latent(random, call.latent, call.rank, call.dr));
        }
    }
    Case {
        call,
        q,
        latents,
        selection,
    }
}

impl Case {
    /// What `attend` gets.
    pub fn buffers(&self, tuning: &Tuning) -> [Vec<u32>; 5] {
        let rows = self.call.tokens * splits(&self.call, tuning) * self.call.heads;
        [
            gpu::words(&self.q),
            self.latents.clone(),
            match self.selection.is_empty() {
                true => gpu::garbage(4),
                false => self.selection.iter().map(|&at| at as u32).collect(),
            },
            gpu::garbage(rows * self.call.rank),
            gpu::garbage(rows * 2),
        ]
    }

    /// Compares all splits of all heads of all tokens; gives `out` and `stats`.
    fn check(&self, gpu: &Gpu, tuning: &Tuning) -> [Vec<u32>; 2] {
        let near = [
            ("out", Near::Rows(self.call.rank, CLOSE)),
            ("stats", Near::Packed),
        ];
        let dispatch = dispatch(&self.call, tuning);
        let [found, expected] = gpu.check(&dispatch, &self.buffers(tuning), &near);
        // Largest scores beside those of the other heads, sums of exponentials by themselves.
        for (at, row) in [(0, self.call.heads), (1, 1)] {
            let [found, expected] = [&found, &expected].map(|all| {
                all[4]
                    .iter()
                    .copied()
                    .skip(at)
                    .step_by(2)
                    .collect::<Vec<_>>()
            });
            let what = format!("{} {tuning:?} {:?}: stats {at}", gpu.name, self.call);
            gpu::assert_close(&found, &expected, row, CLOSE, &what);
        }
        let [_, _, _, out, stats] = found.try_into().expect("five bindings");
        [out, stats]
    }

    fn check_all(&self) {
        gpu::each(&KERNEL, |gpu, tuning| {
            self.check(gpu, tuning);
        });
    }
}

fn check(call: Call) {
    case(call).check_all();
}

/// The first row and the scale are chosen by [`case`].
pub const SMALL: Call = Call {
    latent: F32,
    dense: false,
    tokens: 3,
    first_row: 0,
    heads: 5,
    rank: 32,
    dr: 16,
    position: 20,
    k: 11,
    scale: 0.0,
};

#[test]
fn every_format_dense_and_sparse() {
    for &latent in FORMATS {
        for dense in [false, true] {
            // One block of scales, and one that only begins.
            let case = case(Call {
                latent,
                dense,
                rank: 132,
                dr: 4,
                ..SMALL
            });
            gpu::each(&KERNEL, |gpu, tuning| {
                // Fat threads take long to compile; how positions are found is no matter of formats.
                if !(tuning.fat_threads && dense && latent != F32) {
                    case.check(gpu, tuning);
                }
            });
        }
    }
}

#[test]
fn any_number_of_heads() {
    for heads in [1, 4, 16, 17, 128] {
        check(Call {
            heads,
            rank: 8,
            dr: 4,
            tokens: 2,
            ..SMALL
        });
    }
}

#[test]
fn real_widths_and_wider_ones() {
    for (latent, rank, dr) in [(FLASH_MLA, 512, 64), (F32, 512, 64), (FP8, 640, 4)] {
        check(Call {
            latent,
            tokens: 1,
            heads: 18,
            rank,
            dr,
            position: 90,
            k: 70,
            ..SMALL
        });
    }
}

#[test]
fn splits_and_tiles_that_are_not_full() {
    for (dense, position, k) in [
        (true, 298, 0),
        (false, 298, 131),
        (true, 64, 0),
        (false, 63, 64),
        (false, 150, 140),
    ] {
        check(Call {
            latent: F32,
            dense,
            position,
            k,
            tokens: 1,
            heads: 3,
            rank: 8,
            dr: 4,
            ..SMALL
        });
    }
    // Three tiles of heads that fat threads have: splits of more than a tile of slots.
    check(Call {
        dense: true,
        tokens: 1,
        heads: 17,
        rank: 8,
        dr: 4,
        position: 999,
        ..SMALL
    });
    // Early rows see less than a split of the last one.
    check(Call {
        dense: true,
        position: 0,
        tokens: 130,
        heads: 1,
        rank: 4,
        dr: 4,
        ..SMALL
    });
}

#[test]
fn one_slot_gives_its_latent() {
    for (dense, position, k) in [(true, 0, 0), (false, 9, 1), (false, 0, 2048)] {
        let case = case(Call {
            latent: F32,
            dense,
            position,
            k,
            tokens: 1,
            ..SMALL
        });
        let latent = &case.latents[case.call.position * 48..][..32];
        gpu::each(&KERNEL, |gpu, tuning| {
            let [out, stats] = case.check(gpu, tuning);
            for (row, stats) in out.chunks(32).zip(stats.chunks(2)) {
                assert_eq!(row, latent, "{}: {tuning:?}", gpu.name);
                assert_eq!(stats[1], 1_f32.to_bits(), "{}: {tuning:?}", gpu.name);
            }
        });
    }
}

#[test]
fn rows_without_a_slot_are_nothing() {
    let mut case = case(SMALL);
    let k = case.call.k;
    // The second token of three, and then all of them.
    for rows in [3..4, 2..5] {
        case.selection[rows.start * k..rows.end * k].fill(-1);
        case.check_all();
    }
}

#[test]
fn a_gap_in_the_selection_is_skipped() {
    let mut case = case(SMALL);
    let first = case.call.first_row * case.call.k;
    for at in [0, 1, 2, 3, 5, 10] {
        case.selection[first + at] = -1;
    }
    case.check_all();
}

/// Integers, so that scores up to 2^24 are exact and only the exponentials round.
fn integers(case: &mut Case, q: f32, first_row: usize) {
    let channels = case.call.rank + case.call.dr;
    case.call.scale = 1.0;
    for (at, q_lat) in case.q[first_row * case.call.heads * channels..]
        .iter_mut()
        .enumerate()
    {
        *q_lat = q * ((at * 7 % 5) as f32 - 2.0);
    }
    for (at, word) in case.latents.iter_mut().enumerate() {
        if !f32::from_bits(*word).is_nan() {
            *word = ((at * 11 % 7) as f32 - 3.0).to_bits();
        }
    }
}

#[test]
fn scores_far_beyond_the_range_of_exp() {
    for dense in [false, true] {
        for q in [1000.0, -1000.0, 65536.0] {
            let mut case = case(Call {
                dense,
                position: 150,
                k: 100,
                tokens: 2,
                ..SMALL
            });
            integers(&mut case, q, 2);
            case.check_all();
        }
    }
}

#[test]
fn scores_that_are_all_equal_give_the_mean() {
    let mut case = case(Call {
        position: 150,
        k: 100,
        ..SMALL
    });
    integers(&mut case, 0.0, 2);
    case.check_all();
}

#[test]
fn the_last_position_of_the_longest_context() {
    check(Call {
        latent: FLASH_MLA,
        position: 163_839,
        k: 5,
        tokens: 1,
        heads: 2,
        rank: 4,
        dr: 4,
        ..SMALL
    });
}
