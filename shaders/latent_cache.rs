//! How the latent cache lies in memory: a row of words a token, tokens one after the other.
//!
//! Kernels write and read the words by the same formulas as [`row`] and `set_row`, which are for references.

use crate::reference::{bits, float, from_bf16, from_e4m3, set_all, set_bf16, set_fp8};

/// `rank + dr` f32.
pub const F32: u32 = 0;
/// `rank + dr` bf16, two a word.
pub const BF16: u32 = 1;
/// `rank` e4m3, an f32 scale per [`BLOCK`] of them, `dr` f32.
pub const FP8: u32 = 2;
/// `rank` e4m3, an f32 scale per [`BLOCK`] of them, `dr` bf16: FlashMLA's form, 656 bytes at rank
/// 512 and 64 rope channels.
pub const FLASH_MLA: u32 = 3;

/// Every format.
pub const FORMATS: &[u32] = &[F32, BF16, FP8, FLASH_MLA];

pub use crate::weights::FP8_BLOCK as BLOCK;

/// Scales of one token.
pub fn n_scales(rank: usize) -> usize {
    rank.div_ceil(BLOCK)
}

/// Words of one token.
///
/// # Panics
/// A format that is none, or sizes that are no multiples of 4: our own mistake, for both are
/// checked when a model is loaded.
pub fn token_words(format: u32, rank: usize, dr: usize) -> usize {
    assert!(
        rank.is_multiple_of(4) && dr.is_multiple_of(4),
        "a latent of {rank} and {dr} channels does not fill words"
    );
    match format {
        F32 => rank + dr,
        BF16 => (rank + dr) / 2,
        FP8 => rank / 4 + n_scales(rank) + dr,
        FLASH_MLA => rank / 4 + n_scales(rank) + dr / 2,
        _ => panic!("there is no latent format {format}"),
    }
}

/// Words of a cache of `tokens`.
pub fn words(format: u32, rank: usize, dr: usize, tokens: usize) -> usize {
    tokens * token_words(format, rank, dr)
}

/// Where in the cache a token's words begin, and in an FP8 format its scales and its rope.
fn places(format: u32, rank: usize, dr: usize, token: usize) -> [usize; 3] {
    let first = token * token_words(format, rank, dr);
    let scales = first + rank / 4;
    [first, scales, scales + n_scales(rank)]
}

/// The latent of a token, then its rope.
pub fn row(format: u32, rank: usize, dr: usize, words: &[u32], token: usize) -> Vec<f64> {
    let [first, scales, rope] = places(format, rank, dr, token);
    let value = |c| match format {
        F32 => float(words, first + c),
        BF16 => from_bf16(bits(words, first, 16, c)),
        _ if c < rank => from_e4m3(bits(words, first, 8, c)) * float(words, scales + c / BLOCK),
        FP8 => float(words, rope + c - rank),
        _ => from_bf16(bits(words, rope, 16, c - rank)),
    };
    (0..rank + dr).map(value).collect()
}

/// Leaves the latent and the rope of a token.
pub(crate) fn set_row(format: u32, words: &mut [u32], token: usize, latent: &[f64], rope: &[f64]) {
    let [first, scales, at_rope] = places(format, latent.len(), rope.len(), token);
    match format {
        F32 => set_all(words, first, &[latent, rope].concat()),
        BF16 => set_bf16(words, first, &[latent, rope].concat()),
        _ => {
            set_fp8(words, first, scales, latent);
            match format {
                FP8 => set_all(words, at_rope, rope),
                _ => set_bf16(words, at_rope, rope),
            }
        }
    }
}
