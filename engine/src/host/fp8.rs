//! e4m3: one sign, four exponent (bias 7) and three mantissa bits, no infinities.
//!
//! Source: spec section 2 (storage) and 3.2 (rounding of activations, power-of-two scales).

use crate::config::FP8_BLOCK as BLOCK;

/// The largest number.
const MAX: f32 = 448.0;

/// The number that `code` stands for.
#[inline(always)]
pub fn decode(code: u8) -> f32 {
    let sign = u32::from(code & 0x80) << 24;
    let magnitude = u32::from(code & 0x7f);
    let normal = (magnitude << 20) + (120 << 23);
    let subnormal = (magnitude as f32 * (1.0 / 512.0)).to_bits();
    let bits = if magnitude < 8 { subnormal } else { normal };
    let bits = if magnitude == 0x7f {
        f32::NAN.to_bits()
    } else {
        bits
    };
    f32::from_bits(sign | bits)
}

/// The code nearest to `value`, ties to even, at most [`MAX`] away from zero; NaN stays.
pub fn encode(value: f32) -> u8 {
    let sign = ((value.to_bits() >> 31) as u8) << 7;
    let magnitude = value.abs();
    if magnitude.is_nan() {
        return sign | 0x7f;
    }
    let magnitude = magnitude.min(MAX);
    // Numbers from 2^e on lie 2^(e-3) apart, below 2^-6 they lie 2^-9 apart.
    let exponent = ((magnitude.to_bits() >> 23) as i32 - 127).max(-6);
    let step = f32::from_bits(((exponent - 3 + 127) as u32) << 23);
    let steps = (magnitude / step).round_ties_even() as i32; // 8 to 16, or 0 to 8
    sign | (((exponent + 6) * 8 + steps) as u8)
}

/// `2^ceil(log2(max(amax, 1e-4) / 448))` for the largest magnitude `amax` of a block.
pub fn scale(block: &[f32]) -> f32 {
    let mut amax = 1e-4_f32;
    for value in block {
        amax = if value.abs() > amax {
            value.abs()
        } else {
            amax
        };
    }
    let bits = (amax * (1.0 / MAX)).to_bits();
    let exponent = (bits >> 23) + u32::from(bits & 0x007f_ffff != 0);
    f32::from_bits(exponent << 23)
}

/// Rounds each head of `x` `[.., dim]` to what e4m3 storage with a power-of-two scale per 128
/// channels (or per head, where it is narrower) gives back.
pub fn round_fp8(x: &mut [f32], dim: usize) {
    for head in x.chunks_exact_mut(dim) {
        for block in head.chunks_mut(BLOCK.min(dim)) {
            let scale = scale(block);
            for value in block {
                *value = decode(encode(*value / scale)) * scale;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_that_of_the_format() {
        let cases = [
            (0x00, 0.0),
            (0x01, 1.0 / 512.0),
            (0x07, 7.0 / 512.0),
            (0x08, 1.0 / 64.0),
        ];
        let more = [
            (0x38, 1.0),
            (0x3f, 1.875),
            (0x7e, 448.0),
            (0xfe, -448.0),
            (0xb8, -1.0),
        ];
        for (code, want) in cases.into_iter().chain(more) {
            assert_eq!(decode(code), want, "{code:#04x}");
        }
        assert!(decode(0x7f).is_nan() && decode(0xff).is_nan());
    }

    /// The kernels' references have an FP8 of their own, written for plainness: a mistake that a kernel
    /// and its reference share would show here.
    #[test]
    fn the_kernels_references_round_alike() {
        for code in (0..=255u8).filter(|code| code & 0x7f != 0x7f) {
            let want = shaders::reference::from_e4m3(code.into());
            assert_eq!(f64::from(decode(code)), want, "{code:#04x}");
        }
        // 300 channels are two whole blocks and what is left; ties and both ends of the range are among
        // them.
        let mut values: Vec<f32> = (0..300).map(|i| (i as f32 - 140.0) * 0.37).collect();
        values[..4].copy_from_slice(&[448.0, -448.0, 1e-7, 1.0625]);
        let wide: Vec<f64> = values.iter().map(|&value| value.into()).collect();
        let (whole, rest) = values.split_at_mut(256);
        round_fp8(whole, 256);
        round_fp8(rest, 44);
        let rounded: Vec<f64> = values.iter().map(|&value| value.into()).collect();
        assert_eq!(rounded, shaders::reference::fp8_rounded(&wide));
    }

    #[test]
    fn every_code_comes_back_and_the_nearest_is_taken() {
        for code in 0..=0x7e_u8 {
            assert_eq!(encode(decode(code)), code);
            assert_eq!(encode(-decode(code)), code | 0x80);
            if code < 0x7e {
                let (low, high) = (decode(code), decode(code + 1));
                let middle = (low + high) / 2.0;
                assert_eq!(
                    encode(middle),
                    code + (code & 1),
                    "ties go to the even code"
                );
                assert_eq!(encode(f32::from_bits(middle.to_bits() - 1)), code);
                assert_eq!(encode(f32::from_bits(middle.to_bits() + 1)), code + 1);
            }
        }
        assert_eq!(encode(1e9), 0x7e);
        assert_eq!(encode(f32::NAN), 0x7f);
    }

    #[test]
    fn scales_are_the_next_power_of_two() {
        assert_eq!(scale(&[448.0]), 1.0);
        assert_eq!(scale(&[448.0001]), 2.0);
        assert_eq!(scale(&[-447.0, 3.0]), 1.0);
        assert_eq!(scale(&[0.0]), 2.0_f32.powi(-22));
    }
}
