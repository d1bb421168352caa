//! What the references of the kernels share: the fields of a launch, and numbers in words.
//!
//! A reference is the definition of a kernel as plain loops in `f64`, beside its row. It is given what
//! the kernel is given and leaves what the kernel would, in the same places; how work is shared out
//! among lanes it ignores, but for what other kernels read: splits and tiles. Tests compare kernels
//! with it, and it stands in for a kernel under suspicion.

use crate::kernel::Dispatch;

/// The definition of a kernel, on the contents of its storage bindings.
pub type Reference = fn(&Dispatch, &mut [Vec<u32>]);

pub use crate::weights::FP8_BLOCK as BLOCK;

impl Dispatch {
    /// Does to `buffers`, the contents of the kernel's storage bindings, what the launch would.
    pub fn run_reference(&self, buffers: &mut [Vec<u32>]) {
        (self.kernel.reference)(self, buffers);
    }

    /// A field of `Params`.
    pub(crate) fn word(&self, name: &str) -> u32 {
        let fields = self.kernel.params.fields;
        let (_, offset) = fields
            .iter()
            .find(|(field, _)| *field == name)
            .expect("a reference asks for fields that its kernel has");
        bytemuck::pod_read_unaligned(&self.params[*offset..*offset + 4])
    }

    pub(crate) fn size(&self, name: &str) -> usize {
        self.word(name) as usize
    }

    pub(crate) fn sizes<const N: usize>(&self, names: [&str; N]) -> [usize; N] {
        names.map(|name| self.size(name))
    }

    /// Sizes that the kernel counts in quads of four elements, in elements.
    pub(crate) fn quads<const N: usize>(&self, names: [&str; N]) -> [usize; N] {
        names.map(|name| 4 * self.size(name))
    }

    pub(crate) fn float(&self, name: &str) -> f64 {
        f32::from_bits(self.word(name)).into()
    }

    pub(crate) fn knob(&self, name: &str) -> u32 {
        let set = self.knobs.iter().find(|(knob, _)| *knob == name);
        let default = || self.kernel.knobs.iter().find(|knob| knob.name == name);
        set.map(|(_, value)| *value)
            .or_else(|| default().map(|knob| knob.default))
            .expect("a reference asks for knobs that its kernel has")
    }
}

/// The buffers, one a binding.
pub(crate) fn bound<const N: usize>(buffers: &mut [Vec<u32>]) -> &mut [Vec<u32>; N] {
    buffers
        .try_into()
        .expect("a launch has one buffer a binding, and a reference knows them all")
}

/// The `f32` of a word.
pub fn float(words: &[u32], at: usize) -> f64 {
    f32::from_bits(words[at]).into()
}

/// The `f32` of `n` words.
pub fn floats(words: &[u32], first: usize, n: usize) -> Vec<f64> {
    (first..first + n).map(|at| float(words, at)).collect()
}

/// Leaves a number as `f32`; of NaN always the same.
pub(crate) fn set(words: &mut [u32], at: usize, value: f64) {
    let value = if value.is_nan() { f64::NAN } else { value };
    words[at] = (value as f32).to_bits();
}

/// Leaves numbers as `f32`.
pub(crate) fn set_all(words: &mut [u32], first: usize, values: &[f64]) {
    for (i, &value) in values.iter().enumerate() {
        set(words, first + i, value);
    }
}

/// Bits `width * i ..` of what begins at a word, for widths of which whole numbers fill a word.
pub(crate) fn bits(words: &[u32], first: usize, width: usize, i: usize) -> u32 {
    let a_word = 32 / width;
    let shifted = words[first + i / a_word] >> (width * (i % a_word));
    shifted & ((1 << width) - 1)
}

/// Puts `width` bits where [`bits`] finds them, whatever was there.
pub fn set_bits(words: &mut [u32], first: usize, width: usize, i: usize, value: u32) {
    let a_word = 32 / width;
    let shift = width * (i % a_word);
    let mask = u32::MAX >> (32 - width) << shift;
    let word = &mut words[first + i / a_word];
    *word = (*word & !mask) | value << shift;
}

/// The number of a finite code: a sign, then so many bits of exponent and of fraction.
fn small_float(code: u32, exponent_bits: u32, fraction_bits: u32) -> f64 {
    let whole = 1 << fraction_bits;
    let fraction = code & (whole - 1);
    let exponent = code >> fraction_bits & ((1 << exponent_bits) - 1);
    let bias = (1 << (exponent_bits - 1)) - 1 + fraction_bits;
    let steps = f64::from(if exponent == 0 {
        fraction
    } else {
        fraction + whole
    });
    let magnitude = steps * power_of_two(exponent.max(1) as i32 - bias as i32);
    match code >> (exponent_bits + fraction_bits) {
        0 => magnitude,
        _ => -magnitude,
    }
}

fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(((1023 + exponent) as u64) << 52)
}

/// The number of a bf16: the upper half of an f32.
pub fn from_bf16(code: u32) -> f64 {
    f32::from_bits(code << 16).into()
}

/// The bf16 nearest to a number, of two the even one; NaN stays. The kernels have f32, so an f64 is
/// rounded twice.
pub fn to_bf16(value: f32) -> u32 {
    let word = value.to_bits();
    match value.is_nan() {
        true => word >> 16 | 0x40,
        false => (word + 0x7fff + (word >> 16 & 1)) >> 16,
    }
}

/// The number of a finite f16.
pub fn from_f16(code: u32) -> f64 {
    small_float(code, 5, 10)
}

/// The number of an e4m3.
pub fn from_e4m3(code: u32) -> f64 {
    match code & 0x7f {
        0x7f => f64::NAN,
        _ => small_float(code, 4, 3),
    }
}

/// The e4m3 nearest to a number, of two the even one, by trying all of its sign; NaN stays.
pub fn to_e4m3(value: f64) -> u32 {
    let sign = u32::from(value.is_sign_negative()) << 7;
    if value.is_nan() {
        return sign | 0x7f;
    }
    // Far beyond, all codes are equally far off.
    let off = |code: u32| (from_e4m3(code) - value.abs().min(448.0)).abs();
    let nearer = |a: &u32, b: &u32| off(*a).total_cmp(&off(*b)).then((a & 1).cmp(&(b & 1)));
    sign | (0..0x7f).min_by(nearer).expect("there are codes")
}

/// The smallest power of two `s` with `max(|x|, 1e-4) <= 448 s`; NaN if there is one among them.
pub fn power_of_two_scale(values: &[f64]) -> f64 {
    if values.iter().any(|value| value.is_nan()) {
        return f64::NAN;
    }
    let least = f64::from(1e-4_f32);
    let most = values.iter().fold(least, |most, x| most.max(x.abs()));
    let fits = |exponent: &i32| most <= 448.0 * power_of_two(*exponent);
    // 2^120 is enough for every finite f32, and infinity has none.
    power_of_two((-22..120).find(fits).unwrap_or(120))
}

/// Codes of at most [`BLOCK`] numbers, and the scale that they share. What is stored is what the
/// kernels have, f32.
fn fp8_block(values: &[f64]) -> (Vec<u32>, f64) {
    let values: Vec<f64> = values.iter().map(|&x| f64::from(x as f32)).collect();
    let scale = power_of_two_scale(&values);
    (values.iter().map(|x| to_e4m3(x / scale)).collect(), scale)
}

/// Leaves numbers as e4m3 at the word `first` and their scales, one a block, at `first_scale`.
pub(crate) fn set_fp8(words: &mut [u32], first: usize, first_scale: usize, values: &[f64]) {
    for (i, block) in values.chunks(BLOCK).enumerate() {
        let (codes, scale) = fp8_block(block);
        for (j, code) in codes.into_iter().enumerate() {
            set_bits(words, first, 8, i * BLOCK + j, code);
        }
        set(words, first_scale + i, scale);
    }
}

/// What FP8 storage gives back of numbers.
pub fn fp8_rounded(values: &[f64]) -> Vec<f64> {
    let of_block = |block| {
        let (codes, scale) = fp8_block(block);
        codes.into_iter().map(move |code| from_e4m3(code) * scale)
    };
    values.chunks(BLOCK).flat_map(of_block).collect()
}

/// Leaves numbers as bf16, two a word.
pub(crate) fn set_bf16(words: &mut [u32], first: usize, values: &[f64]) {
    for (i, &value) in values.iter().enumerate() {
        set_bits(words, first, 16, i, to_bf16(value as f32));
    }
}

/// `sum of a[i] * b[i]`.
pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len(), "a product of rows of one length");
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `x / sqrt(mean(x²) + eps) * weight`.
pub(crate) fn rms_norm(x: &[f64], weight: &[f64], eps: f64) -> Vec<f64> {
    let root = (dot(x, x) / x.len() as f64 + eps).sqrt();
    x.iter().zip(weight).map(|(x, w)| x / root * w).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_mean_what_their_formats_say() {
        for (code, value) in [
            (0x01, 1.0 / 512.0),
            (0x07, 7.0 / 512.0),
            (0x08, 1.0 / 64.0),
            (0x38, 1.0),
            (0x3f, 1.875),
            (0x7e, 448.0),
            (0xb8, -1.0),
        ] {
            assert_eq!(from_e4m3(code), value, "{code:#x}");
        }
        assert!(from_e4m3(0x7f).is_nan() && from_e4m3(0xff).is_nan());
        for (code, value) in [(0x3c00, 1.0), (0xc000, -2.0), (0x7bff, 65504.0)] {
            assert_eq!(from_f16(code), value, "{code:#x}");
        }
        assert_eq!(from_f16(0x0001), 2.0_f64.powi(-24));
        assert_eq!(from_bf16(0xc000), -2.0);
    }

    #[test]
    fn every_code_comes_back_and_halfway_is_even() {
        for code in 0..=0xff {
            assert_eq!(to_e4m3(from_e4m3(code)) & 0x7f, code & 0x7f);
            if code & 0x7f < 0x7e {
                let middle = (from_e4m3(code) + from_e4m3(code + 1)) / 2.0;
                assert_eq!(to_e4m3(middle), code + (code & 1), "{code:#x}");
            }
        }
        assert_eq!([1e9, -f64::INFINITY].map(to_e4m3), [0x7e, 0xfe]);
    }

    #[test]
    fn scales_are_exact_at_their_edges() {
        for (most, scale) in [
            (0.0, 2.0_f64.powi(-22)),
            (448.0, 1.0),
            (448.0_f64.next_up(), 2.0),
            (-447.0, 1.0),
            (f32::MAX.into(), 2.0_f64.powi(120)),
            (f64::INFINITY, 2.0_f64.powi(120)),
        ] {
            assert_eq!(power_of_two_scale(&[0.0, most]), scale, "{most}");
        }
        assert!(power_of_two_scale(&[1.0, f64::NAN]).is_nan());
    }
}
