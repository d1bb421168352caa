//! Random contents of buffers.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use shaders::key_cache;
use shaders::latent_cache::{self, FLASH_MLA};
use shaders::reference::{set_bits, to_bf16};
use shaders::weights::{self, row_units};

use super::gpu;

pub fn seeded(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

/// A number in -1..1.
pub fn uniform(random: &mut ChaCha8Rng) -> f32 {
    (random.next_u32() >> 8) as f32 / 8_388_608.0 - 1.0
}

/// Numbers in -1..1 times `scale`.
pub fn noise(random: &mut ChaCha8Rng, n: usize, scale: f32) -> Vec<f32> {
    (0..n).map(|_| uniform(random) * scale).collect()
}

/// The same as words, within ±1.
pub fn uniforms(random: &mut ChaCha8Rng, n: usize) -> Vec<u32> {
    gpu::words(&noise(random, n, 1.0))
}

/// Rows of `width` numbers within ±1 in rows of `stride`, after `offset` of NaN and before more.
pub fn rows(random: &mut ChaCha8Rng, n: usize, [offset, width, stride]: [usize; 3]) -> Vec<u32> {
    let mut words = vec![f32::NAN.to_bits(); n * stride];
    for row in words.chunks_mut(stride) {
        row[offset..offset + width].copy_from_slice(&uniforms(random, width));
    }
    words
}

/// Any code but NaN, subnormal ones and both zeros too.
fn e4m3(random: &mut ChaCha8Rng) -> u32 {
    match random.next_u32() & 0xff {
        0x7f | 0xff => 0x80,
        code => code,
    }
}

/// A stack of packed matrices and their scales, four words of garbage where there are none.
pub fn weights(
    random: &mut ChaCha8Rng,
    dtype: u32,
    [matrices, rows, cols]: [usize; 3],
) -> [Vec<u32>; 2] {
    let row_words = 4 * row_units(dtype, cols);
    let mut words = vec![0; matrices * rows * row_words];
    for row in words.chunks_mut(row_words) {
        for col in 0..cols {
            let code = match dtype {
                0 => uniform(random).to_bits(),
                1 => to_bf16(uniform(random)),
                2 => half::f16::from_f32(uniform(random)).to_bits().into(),
                3 => e4m3(random),
                _ => random.next_u32() & 15,
            };
            set_bits(row, 0, weights::bits(dtype), col, code);
        }
    }
    // Weights of about ±0.5 and ±1.
    let scale = if dtype == 3 { 1e-3 } else { 0.1 };
    let scales = match matrices * weights::scales(dtype, rows, cols) {
        0 => gpu::garbage(4),
        n => {
            let scales = (0..n).map(|_| scale * (1.5 + uniform(random)));
            gpu::words(&scales.collect::<Vec<_>>())
        }
    };
    [words, scales]
}

/// Cosines, then sines, of some angle for every token and pair.
pub fn angles(random: &mut ChaCha8Rng, tokens: usize, dr: usize) -> Vec<u32> {
    let mut angles = Vec::new();
    for _ in 0..tokens {
        let turns: Vec<f64> = (0..dr / 2).map(|_| f64::from(random.next_u32())).collect();
        angles.extend(turns.iter().map(|turn| (turn.cos() as f32).to_bits()));
        angles.extend(turns.iter().map(|turn| (turn.sin() as f32).to_bits()));
    }
    angles
}

/// `n` numbers within ±1 as f32 or, two a word, as bf16.
fn plain(random: &mut ChaCha8Rng, n: usize, is_bf16: bool) -> Vec<u32> {
    let values = noise(random, n, 1.0);
    if !is_bf16 {
        return gpu::words(&values);
    }
    let mut words = vec![0; n / 2];
    for (i, &value) in values.iter().enumerate() {
        set_bits(&mut words, 0, 16, i, to_bf16(value));
    }
    words
}

/// `n` codes and the scales of their blocks.
fn fp8(random: &mut ChaCha8Rng, n: usize) -> [Vec<u32>; 2] {
    let codes = (0..n / 4).map(|_| u32::from_le_bytes([(); 4].map(|()| e4m3(random) as u8)));
    let codes = codes.collect();
    let scales = (0..latent_cache::n_scales(n))
        .map(|_| 2f32.powi((random.next_u32() % 3) as i32 - 9).to_bits());
    [codes, scales.collect()]
}

/// One cached latent.
pub fn latent(random: &mut ChaCha8Rng, format: u32, rank: usize, dr: usize) -> Vec<u32> {
    if format < latent_cache::FP8 {
        return plain(random, rank + dr, format == latent_cache::BF16);
    }
    let [codes, scales] = fp8(random, rank);
    [codes, scales, plain(random, dr, format == FLASH_MLA)].concat()
}

/// `n` cached keys; what the cache holds beyond them is NaN in every format.
pub fn keys(random: &mut ChaCha8Rng, format: u32, di: usize, n: usize) -> Vec<u32> {
    let mut words = vec![u32::MAX; key_cache::words(format, di, n).next_multiple_of(4)];
    for key in 0..n {
        if format < key_cache::FP8 {
            let key_words = key_cache::token_words(format, di);
            words[key * key_words..][..key_words].copy_from_slice(&plain(
                random,
                di,
                format == key_cache::BF16,
            ));
            continue;
        }
        let [codes, scales] = fp8(random, di);
        let tokens = key_cache::PAGE_TOKENS;
        let page = &mut words[key / tokens * key_cache::page_words(di)..];
        page[key % tokens * codes.len()..][..codes.len()].copy_from_slice(&codes);
        page[tokens * di / 4 + key % tokens * scales.len()..][..scales.len()]
            .copy_from_slice(&scales);
    }
    words
}
