//! Numbers in words: `f32`, bf16, f16 and e4m3, and the blocks of e4m3 that share a scale.

use crate::host::fp8;

/// Channels that share a scale in FP8 caches.
pub(super) const BLOCK: usize = 128;

/// The `f32` of a word.
pub(super) fn float(words: &[u32], at: usize) -> f64 {
    f32::from_bits(words[at]).into()
}

/// The `f32` of `n` words.
pub(super) fn floats(words: &[u32], first: usize, n: usize) -> Vec<f64> {
    (first..first + n).map(|at| float(words, at)).collect()
}

/// Leaves a number as `f32`.
pub(super) fn set(words: &mut [u32], at: usize, value: f64) {
    words[at] = (value as f32).to_bits();
}

/// Leaves numbers as `f32`.
pub(super) fn set_all(words: &mut [u32], first: usize, values: &[f64]) {
    for (i, &value) in values.iter().enumerate() {
        set(words, first + i, value);
    }
}

/// Bits `width * i ..` of what begins at a word, for widths of which whole numbers fill a word.
pub(super) fn bits(words: &[u32], first: usize, width: usize, i: usize) -> u32 {
    let a_word = 32 / width;
    let shifted = words[first + i / a_word] >> (width * (i % a_word));
    shifted & ((1 << width) - 1)
}

/// The `i`-th bf16 from a word on.
pub(super) fn bf16(words: &[u32], first: usize, i: usize) -> f64 {
    half::bf16::from_bits(bits(words, first, 16, i) as u16).into()
}

/// The `i`-th f16 from a word on.
pub(super) fn f16(words: &[u32], first: usize, i: usize) -> f64 {
    half::f16::from_bits(bits(words, first, 16, i) as u16).into()
}

/// The `i`-th e4m3 from a word on.
pub(super) fn e4m3(words: &[u32], first: usize, i: usize) -> f64 {
    fp8::decode(bits(words, first, 8, i) as u8).into()
}

/// Leaves numbers as bf16, two a word.
pub(super) fn set_bf16(words: &mut [u32], first: usize, values: &[f64]) {
    for (i, pair) in values.chunks_exact(2).enumerate() {
        // By way of f32, as the kernel does: a number may be rounded twice.
        let [low, high] =
            [pair[0], pair[1]].map(|x| u32::from(half::bf16::from_f32(x as f32).to_bits()));
        words[first + i] = low | high << 16;
    }
}

/// A block of e4m3 codes and its scale.
pub(super) struct Fp8Block {
    pub codes: Vec<u8>,
    pub scale: f32,
}

impl Fp8Block {
    /// The nearest codes to at most [`BLOCK`] numbers.
    pub(super) fn of(values: &[f64]) -> Self {
        // What is stored is what the kernel had, an f32.
        let values: Vec<f32> = values.iter().map(|&value| value as f32).collect();
        let scale = power_of_two_scale(&values);
        let codes = values.iter().map(|value| fp8::encode(value / scale));
        Self {
            codes: codes.collect(),
            scale,
        }
    }

    /// What they stand for.
    pub(super) fn values(&self) -> impl Iterator<Item = f64> {
        let scale = f64::from(self.scale);
        self.codes
            .iter()
            .map(move |&code| f64::from(fp8::decode(code)) * scale)
    }
}

/// The smallest power of two `s` with `max(|x|, 1e-4) <= 448 s`; NaN if there is one among them.
fn power_of_two_scale(values: &[f32]) -> f32 {
    if values.iter().any(|value| value.is_nan()) {
        return f32::NAN;
    }
    let most = values.iter().fold(1e-4_f32, |most, x| most.max(x.abs()));
    let fits = |exponent: &i32| f64::from(most) <= 448.0 * 2.0_f64.powi(*exponent);
    // 2^120 is enough for every finite number, and infinity has none.
    let exponent = (-22..120).find(fits).unwrap_or(120);
    2.0_f32.powi(exponent)
}

/// Leaves numbers as e4m3 at the word `first` and their scales, one a block, at `first_scale`.
pub(super) fn set_fp8(words: &mut [u32], first: usize, first_scale: usize, values: &[f64]) {
    for (i, block) in values.chunks(BLOCK).enumerate() {
        let block = Fp8Block::of(block);
        for (j, codes) in block.codes.chunks_exact(4).enumerate() {
            let word = u32::from_le_bytes([codes[0], codes[1], codes[2], codes[3]]);
            words[first + i * BLOCK / 4 + j] = word;
        }
        words[first_scale + i] = block.scale.to_bits();
    }
}

/// `sum of a[i] * b[i]`.
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len(), "a product of rows of one length");
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_are_exact_at_their_edges() {
        let next = |x: f32| f32::from_bits(x.to_bits() + 1);
        for (most, scale) in [
            (0.0, 2.0_f32.powi(-22)),
            (448.0, 1.0),
            (next(448.0), 2.0),
            (-447.0, 1.0),
            (f32::MAX, 2.0_f32.powi(120)),
            (f32::INFINITY, 2.0_f32.powi(120)),
        ] {
            assert_eq!(power_of_two_scale(&[0.0, most]), scale, "{most}");
        }
        assert!(power_of_two_scale(&[1.0, f32::NAN]).is_nan());
    }

    #[test]
    fn blocks_come_back_as_the_cpu_rounds_them() {
        let values: Vec<f32> = (0..300).map(|i| (i as f32 - 140.0) * 0.37).collect();
        let mut words = vec![0; 80];
        let wide: Vec<f64> = values.iter().map(|&x| x.into()).collect();
        set_fp8(&mut words, 1, 77, &wide);
        let mut rounded = values;
        // 300 channels are two whole blocks and what is left.
        let (whole, rest) = rounded.split_at_mut(256);
        fp8::round_fp8(whole, 256);
        fp8::round_fp8(rest, 44);
        for (i, &want) in rounded.iter().enumerate() {
            let got = e4m3(&words, 1, i) * float(&words, 77 + i / BLOCK);
            assert_eq!(got, f64::from(want), "channel {i}");
        }
    }
}
