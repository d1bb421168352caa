//! How the latent cache lies in memory: a row of words a token, tokens one after the other.
//!
//! Nothing here touches the words; kernels write and read them by the same formulas.

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

/// Latent channels that share a scale.
pub const BLOCK: usize = 128;

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
