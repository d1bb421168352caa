//! `round_e4m3(x / s) * s` with `s = 2^ceil(log2(max(amax, 1e-4) / 448))` per block of channels.
//!
//! The rounding that FP8 storage does, on numbers that stay `f32`. Source: spec 3.2, the official
//! activation quantiser with `scale_fmt: ue8m0`.

use burn::Tensor;

/// Smallest and largest exponent of a power of two that can be a scale: 1e-4 / 448 needs -22, and
/// beyond 2^100 an activation is broken anyway.
const SCALE_EXPONENTS: std::ops::RangeInclusive<i32> = -22..=100;

/// Rounds each row `[rows, width]` to what e4m3 storage with a power-of-two scale per `block`
/// channels (or what is left of the row) gives back.
///
/// Exponents come from comparisons with powers of two, which are exact on every device, where
/// `log2` is not.
pub fn quantise(x: Tensor<2>, block: usize) -> Tensor<2> {
    let [rows, width] = x.dims();
    let block = block.min(width);
    let whole = width / block * block;
    if whole < width {
        let part = |from: usize, to: usize| quantise(x.clone().slice([0..rows, from..to]), block);
        return Tensor::cat(vec![part(0, whole), part(whole, width)], 1);
    }
    let x = x.reshape([rows * width / block, block]);
    let amax = x.clone().abs().max_dim(1).clamp_min(1e-4);

    // Rows below 2^e * 448 keep the smaller scale; the largest amax bounds how far to look.
    let mut scale = amax.clone().zeros_like() + 2f64.powi(*SCALE_EXPONENTS.start());
    for e in SCALE_EXPONENTS {
        let above = amax.clone().greater_elem(448.0 * 2f64.powi(e));
        scale = scale.mask_fill(above, 2f64.powi(e + 1));
    }
    let y = x / scale.clone();

    // e4m3 has 3 mantissa bits: the step at |y| in [2^e, 2^(e+1)) is 2^(e-3), and 2^-9 below 2^-6.
    let magnitude = y.clone().abs();
    let mut step = magnitude.clone().zeros_like() + 2f64.powi(-9);
    for e in -5..=8 {
        let above = magnitude.clone().greater_equal_elem(2f64.powi(e));
        step = step.mask_fill(above, 2f64.powi(e - 3));
    }
    let rounded = (y / step.clone()).round() * step;
    (rounded.clamp(-448.0, 448.0) * scale).reshape([rows, width])
}
