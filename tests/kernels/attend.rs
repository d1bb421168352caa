//! `attend` against a softmax in `f64` over the decoded latents.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use shaders::attend::{Call, KERNEL, dispatch, splits};
use shaders::kernel::Tuning;
use shaders::latent_cache::{BF16, BLOCK, F32, FLASH_MLA, FORMATS, FP8, n_scales, token_words};

use super::gpu;

/// Scores of magnitude 10 carry 1e-6 of rounding into their exponentials; sums of products add less.
/// Seen is 1e-6.
const CLOSE: f64 = 1e-5;

/// Values that no score depends on: they must not be read, or not matter.
const NAN: u32 = 0xffff_fe5d;

/// A call and its inputs.
pub struct Case {
    pub call: Call,
    /// `[rows, heads, rank + dr]`
    pub q: Vec<f32>,
    /// The binding `latents`; NaN at every position that no token of the call may read.
    pub latents: Vec<u32>,
    /// `[positions, rank + dr]`
    pub values: Vec<f64>,
    /// `[rows, k]`, empty where all positions are read.
    pub selection: Vec<i32>,
}

/// Sizes of a case: the first query is at `position` and has every position before it to choose from.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub latent: u32,
    pub dense: bool,
    pub tokens: usize,
    pub heads: usize,
    pub rank: usize,
    pub dr: usize,
    pub position: usize,
    pub k: usize,
}

/// A number in -1..1.
fn uniform(random: &mut ChaCha8Rng) -> f32 {
    (random.next_u32() >> 8) as f32 / 8_388_608.0 - 1.0
}

/// A random case: two rows before the call's, each row selects up to `k` of what it sees, the last
/// one fewer.
pub fn case(sizes: Sizes) -> Case {
    let seed = (sizes.rank * 31 + sizes.heads * 7 + sizes.position) as u64;
    let mut random = ChaCha8Rng::seed_from_u64(seed + 1000 * u64::from(sizes.latent));
    let call = Call {
        latent: sizes.latent,
        dense: sizes.dense,
        tokens: sizes.tokens,
        first_row: 2,
        heads: sizes.heads,
        rank: sizes.rank,
        dr: sizes.dr,
        position: sizes.position,
        k: sizes.k,
        // Scores of magnitude 10, as they are of a trained model.
        scale: 20.0 / ((sizes.rank + sizes.dr) as f32).sqrt(),
    };
    let channels = sizes.rank + sizes.dr;
    let rows = call.first_row + call.tokens;
    let mut q = vec![f32::NAN; call.first_row * call.heads * channels];
    q.extend((0..call.tokens * call.heads * channels).map(|_| uniform(&mut random)));

    let mut selection = Vec::new();
    if !call.dense {
        selection.resize(call.first_row * call.k, i32::MAX);
        for token in 0..call.tokens {
            let visible = call.position + token + 1;
            let mut n = call.k.min(visible);
            if token + 1 == call.tokens && token > 0 {
                n -= n / 3;
            }
            let mut chosen = std::collections::BTreeSet::new();
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
    let mut latents = vec![NAN; positions * words];
    let mut values = vec![f64::NAN; positions * channels];
    for position in 0..positions {
        if call.dense || selection[call.first_row * call.k..].contains(&(position as i32)) {
            let (packed, decoded) = latent(&mut random, &call);
            latents[position * words..][..words].copy_from_slice(&packed);
            values[position * channels..][..channels].copy_from_slice(&decoded);
        }
    }
    Case {
        call,
        q,
        latents,
        values,
        selection,
    }
}

/// One cached latent, and what it means.
fn latent(random: &mut ChaCha8Rng, call: &Call) -> (Vec<u32>, Vec<f64>) {
    let (mut words, mut values) = (Vec::new(), Vec::new());
    let channels = call.rank + call.dr;
    let mut exact = call.rank;
    if call.latent == F32 || call.latent == BF16 {
        exact = 0;
    } else {
        let scales: Vec<f32> = (0..n_scales(call.rank))
            .map(|_| 2f32.powi((random.next_u32() % 3) as i32 - 9))
            .collect();
        words.resize(call.rank / 4, 0);
        for channel in 0..call.rank {
            let byte = match random.next_u32() & 0xff {
                0x7f | 0xff => 0,
                byte => byte,
            };
            words[channel / 4] |= byte << (channel % 4 * 8);
            values.push(from_e4m3(byte) * f64::from(scales[channel / BLOCK]));
        }
        words.extend(gpu::words(&scales));
    }
    for channel in exact..channels {
        let value = uniform(random);
        match call.latent {
            F32 | FP8 => {
                words.push(value.to_bits());
                values.push(f64::from(value));
            }
            _ => {
                let rounded = half::bf16::from_f32(value);
                let bits = u32::from(rounded.to_bits());
                match (channel - exact) % 2 {
                    0 => words.push(bits),
                    _ => *words.last_mut().unwrap() |= bits << 16,
                }
                values.push(rounded.to_f64());
            }
        }
    }
    (words, values)
}

fn from_e4m3(byte: u32) -> f64 {
    let sign = if byte & 0x80 == 0 { 1.0 } else { -1.0 };
    let mantissa = f64::from(byte & 7);
    match byte >> 3 & 15 {
        0 => sign * mantissa * 2f64.powi(-9),
        exponent => sign * (8.0 + mantissa) * 2f64.powi(exponent as i32 - 10),
    }
}

impl Case {
    /// Positions of the slots of a token, -1 where there is none.
    fn slots(&self, token: usize) -> Vec<i32> {
        match self.call.dense {
            true => (0..=(self.call.position + token) as i32).collect(),
            false => self.selection[(self.call.first_row + token) * self.call.k..][..self.call.k]
                .to_vec(),
        }
    }

    /// Softmax weights of the slots of a head, and log of the sum of exponentials; zeros and nothing
    /// where there is no slot.
    pub fn weights(&self, token: usize, head: usize) -> (Vec<f64>, Option<f64>) {
        let channels = self.call.rank + self.call.dr;
        let q = &self.q[((self.call.first_row + token) * self.call.heads + head) * channels..]
            [..channels];
        let scores: Vec<f64> = self
            .slots(token)
            .iter()
            .map(|&position| {
                if position < 0 {
                    return f64::NEG_INFINITY;
                }
                let latent = &self.values[position as usize * channels..][..channels];
                let sum: f64 = q.iter().zip(latent).map(|(q, c)| f64::from(*q) * c).sum();
                sum * f64::from(self.call.scale)
            })
            .collect();
        let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if most == f64::NEG_INFINITY {
            return (vec![0.0; scores.len()], None);
        }
        let total: f64 = scores.iter().map(|score| (score - most).exp()).sum();
        let weights = scores
            .iter()
            .map(|score| (score - most).exp() / total)
            .collect();
        (weights, Some(most + total.ln()))
    }

    /// `o_lat` of a head.
    fn expected(&self, token: usize, head: usize) -> Vec<f64> {
        let channels = self.call.rank + self.call.dr;
        let mut sums = vec![0.0; self.call.rank];
        let (weights, _) = self.weights(token, head);
        for (position, weight) in self.slots(token).iter().zip(weights) {
            if *position >= 0 {
                let latent = &self.values[*position as usize * channels..];
                for (sum, value) in sums.iter_mut().zip(latent) {
                    *sum += weight * value;
                }
            }
        }
        sums
    }

    /// The binding `selection`.
    pub fn selection(&self) -> Vec<u32> {
        match self.selection.is_empty() {
            true => gpu::garbage(4),
            false => self
                .selection
                .iter()
                .map(|&position| position as u32)
                .collect(),
        }
    }

    /// What the kernel makes of it: `out` and `stats`, as words.
    pub fn run(&self, gpu: &gpu::Gpu, tuning: &Tuning) -> [Vec<u32>; 2] {
        let rows = self.call.tokens * splits(&self.call, tuning) * self.call.heads;
        let mut buffers = [
            gpu::words(&self.q),
            self.latents.clone(),
            self.selection(),
            gpu::garbage(rows * self.call.rank),
            gpu::garbage(rows * 2),
        ];
        gpu.run(&dispatch(&self.call, tuning), &mut buffers);
        let [_, _, _, out, stats] = buffers;
        [out, stats]
    }

    /// Runs it and compares all heads of all tokens, the splits merged in `f64`.
    #[track_caller]
    fn check(&self, gpu: &gpu::Gpu, tuning: &Tuning) {
        let call = &self.call;
        let what = format!("{} {tuning:?} {call:?}", gpu.name);
        let [out, stats] = self.run(gpu, tuning);
        let (out, stats) = (gpu::floats(&out), gpu::floats(&stats));
        let splits = splits(call, tuning);
        for token in 0..call.tokens {
            for head in 0..call.heads {
                let rows: Vec<usize> = (0..splits)
                    .map(|split| (token * splits + split) * call.heads + head)
                    .collect();
                let most = rows
                    .iter()
                    .map(|&row| stats[2 * row])
                    .fold(f32::MIN, f32::max);
                let mut total = 0.0;
                let mut sums = vec![0.0; call.rank];
                for &row in &rows {
                    let factor = f64::from(stats[2 * row] - most).exp();
                    total += factor * f64::from(stats[2 * row + 1]);
                    for (sum, value) in sums.iter_mut().zip(&out[row * call.rank..]) {
                        *sum += factor * f64::from(*value);
                    }
                }
                let what = format!("{what}: token {token} head {head}");
                match self.weights(token, head).1 {
                    Some(log_sum) => {
                        let found: Vec<f32> = sums.iter().map(|sum| (sum / total) as f32).collect();
                        gpu::assert_close(&found, &self.expected(token, head), CLOSE, &what);
                        let found = (f64::from(most) + total.ln()) as f32;
                        gpu::assert_close(&[found], &[log_sum], CLOSE, &what);
                    }
                    None => {
                        assert_eq!((total, most), (0.0, -1e30), "{what}");
                        assert!(sums.iter().all(|sum| *sum == 0.0), "{what}: {sums:?}");
                    }
                }
            }
        }
    }
}

/// The tunings that differ: there is no other text for subgroups.
pub fn tunings(gpu: &gpu::Gpu) -> impl Iterator<Item = Tuning> {
    let all = gpu.tunings().into_iter();
    all.filter(|tuning| !tuning.subgroups || KERNEL.has_subgroup_text())
}

#[track_caller]
fn check(sizes: Sizes) {
    let case = case(sizes);
    for gpu in gpu::all() {
        for tuning in tunings(gpu) {
            case.check(gpu, &tuning);
        }
    }
}

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

#[test]
fn every_format_dense_and_sparse() {
    for &latent in FORMATS {
        for dense in [false, true] {
            // One block of scales, and one that only begins.
            let case = case(Sizes {
                latent,
                dense,
                rank: 132,
                dr: 4,
                ..SMALL
            });
            for gpu in gpu::all() {
                for tuning in tunings(gpu) {
                    // Fat threads take long to compile; how positions are found is no matter of formats.
                    if !(tuning.fat_threads && dense && latent != F32) {
                        case.check(gpu, &tuning);
                    }
                }
            }
        }
    }
}

#[test]
fn any_number_of_heads() {
    for heads in [1, 4, 16, 17, 128] {
        check(Sizes {
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
        check(Sizes {
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
    ] {
        check(Sizes {
            latent: F32,
            dense,
            position,
            k,
            tokens: 1,
            heads: 3,
            rank: 8,
            dr: 4,
        });
    }
    // Early rows see less than a split of the last one.
    check(Sizes {
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
        let case = case(Sizes {
            latent: F32,
            dense,
            position,
            k,
            tokens: 1,
            ..SMALL
        });
        let position = case.call.position;
        let latent: Vec<f32> = case.values[position * 48..][..32]
            .iter()
            .map(|x| *x as f32)
            .collect();
        for gpu in gpu::all() {
            for tuning in tunings(gpu) {
                let [out, stats] = case.run(gpu, &tuning);
                for (row, stats) in gpu::floats(&out)
                    .chunks(32)
                    .zip(gpu::floats(&stats).chunks(2))
                {
                    assert_eq!(row, latent, "{}: {tuning:?}", gpu.name);
                    assert_eq!(stats[1], 1.0, "{}: {tuning:?}", gpu.name);
                }
            }
        }
    }
}

#[test]
fn rows_without_a_slot_are_nothing() {
    let mut case = case(SMALL);
    let k = case.call.k;
    // The second token of three, and then all of them.
    for rows in [3..4, 2..5] {
        case.selection[rows.start * k..rows.end * k].fill(-1);
        for gpu in gpu::all() {
            for tuning in tunings(gpu) {
                case.check(gpu, &tuning);
            }
        }
    }
}

#[test]
fn a_gap_in_the_selection_is_skipped() {
    let mut case = case(SMALL);
    let first = case.call.first_row * case.call.k;
    for at in [0, 1, 2, 3, 5, 10] {
        case.selection[first + at] = -1;
    }
    for gpu in gpu::all() {
        for tuning in tunings(gpu) {
            case.check(gpu, &tuning);
        }
    }
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
    for (at, value) in case
        .values
        .iter_mut()
        .enumerate()
        .filter(|(_, value)| !value.is_nan())
    {
        *value = (at * 11 % 7) as f64 - 3.0;
        case.latents[at] = (*value as f32).to_bits();
    }
}

#[test]
fn scores_far_beyond_the_range_of_exp() {
    for dense in [false, true] {
        for q in [1000.0, -1000.0, 65536.0] {
            let mut case = case(Sizes {
                dense,
                position: 150,
                k: 100,
                tokens: 2,
                ..SMALL
            });
            integers(&mut case, q, 2);
            for gpu in gpu::all() {
                for tuning in tunings(gpu) {
                    case.check(gpu, &tuning);
                }
            }
        }
    }
}

#[test]
fn scores_that_are_all_equal_give_the_mean() {
    let mut case = case(Sizes {
        position: 150,
        k: 100,
        ..SMALL
    });
    integers(&mut case, 0.0, 2);
    for gpu in gpu::all() {
        for tuning in tunings(gpu) {
            case.check(gpu, &tuning);
        }
    }
}

#[test]
fn the_last_position_of_the_longest_context() {
    check(Sizes {
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

#[test]
fn a_second_run_gives_the_same_bits() {
    let case = case(Sizes {
        position: 150,
        k: 140,
        ..SMALL
    });
    for gpu in gpu::all() {
        for tuning in tunings(gpu) {
            assert_eq!(
                case.run(gpu, &tuning),
                case.run(gpu, &tuning),
                "{}",
                gpu.name
            );
        }
    }
}
