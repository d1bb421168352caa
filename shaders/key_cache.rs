//! How the indexer's key cache lies in memory: keys one after the other, FP8 in pages.
//!
//! Kernels write and read the words by the same formulas as [`row`] and `set_row`, which are for references.

use crate::reference::{bits, float, from_bf16, from_e4m3, set_all, set_bf16, set_fp8};

/// `di` f32 a key.
pub const F32: u32 = 0;
/// `di` bf16 a key, two a word.
pub const BF16: u32 = 1;
/// Pages of [`PAGE_TOKENS`] keys: first the e4m3 of all of them, key after key, then their f32
/// scales, one per [`BLOCK`] channels, key after key. This is the form of DeepGEMM, 132 bytes a key
/// of 128 channels.
pub const FP8: u32 = 2;

/// Every format.
pub const FORMATS: &[u32] = &[F32, BF16, FP8];

/// Keys of an FP8 page.
pub const PAGE_TOKENS: usize = 64;

pub use crate::weights::FP8_BLOCK as BLOCK;

/// Scales of one FP8 key.
pub fn n_scales(di: usize) -> usize {
    di.div_ceil(BLOCK)
}

/// Words of an FP8 page.
pub fn page_words(di: usize) -> usize {
    PAGE_TOKENS * token_words(FP8, di)
}

/// Words that a token takes on average; except in FP8, they lie together.
///
/// # Panics
/// A format that is none, or a size that is no multiple of 4: our own mistake, for both are checked
/// when a model is loaded.
pub fn token_words(format: u32, di: usize) -> usize {
    assert!(
        di.is_multiple_of(4),
        "a key of {di} channels does not fill words"
    );
    match format {
        F32 => di,
        BF16 => di / 2,
        FP8 => di / 4 + n_scales(di),
        _ => panic!("there is no key format {format}"),
    }
}

/// Words of a cache of `tokens`: in FP8, whole pages.
pub fn words(format: u32, di: usize, tokens: usize) -> usize {
    match format {
        FP8 => tokens.div_ceil(PAGE_TOKENS) * page_words(di),
        _ => tokens * token_words(format, di),
    }
}

/// Where in an FP8 cache a key's codes begin, and its scales.
fn fp8_places(di: usize, token: usize) -> [usize; 2] {
    let page = token / PAGE_TOKENS * page_words(di);
    let in_page = token % PAGE_TOKENS;
    let scales = page + PAGE_TOKENS * di / 4;
    [page + in_page * di / 4, scales + in_page * n_scales(di)]
}

/// The key of a token.
pub fn row(format: u32, di: usize, words: &[u32], token: usize) -> Vec<f64> {
    let [codes, scales] = fp8_places(di, token);
    let value = |c| match format {
        F32 => float(words, token * di + c),
        BF16 => from_bf16(bits(words, token * di / 2, 16, c)),
        _ => from_e4m3(bits(words, codes, 8, c)) * float(words, scales + c / BLOCK),
    };
    (0..di).map(value).collect()
}

/// Leaves the key of a token.
pub(crate) fn set_row(format: u32, words: &mut [u32], token: usize, key: &[f64]) {
    let di = key.len();
    let [codes, scales] = fp8_places(di, token);
    match format {
        F32 => set_all(words, token * di, key),
        BF16 => set_bf16(words, token * di / 2, key),
        _ => set_fp8(words, codes, scales, key),
    }
}
