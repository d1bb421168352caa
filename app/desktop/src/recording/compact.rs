//! Small numbers in few bytes: ascending positions as Rice coded gaps, floats as scaled halves.
//!
//! Each position is coded as the number of positions skipped before it: a quotient in unary (zeros,
//! then a one) and `parameter` low bits. With parameter 0 the code is the bitset itself, so the best
//! parameter also chooses between bitset and gaps. An unbroken run, which dense attention reads, is its
//! first position alone. Whatever `n` positions below `u` are, the code takes less than
//! `n · (2 + log2(u / n)) + 8` bits (Elias's bound).
//!
//! Reading never panics: bytes may come from a file.

use half::f16;

/// In the place of a parameter: all positions from the first on.
const RUN: u8 = 0xff;
/// Largest parameter: gaps below 2^24 are the largest that the positions of a context give.
const MAX_PARAMETER: u32 = 24;

/// Appends `number`, seven bits a byte, low ones first.
pub(super) fn put_varint(out: &mut Vec<u8>, mut number: u32) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Appends the code of `positions`, strictly ascending. How many there are is not in it.
pub(super) fn put_positions(out: &mut Vec<u8>, positions: &[u32]) {
    let (Some(&first), Some(&last)) = (positions.first(), positions.last()) else {
        return;
    };
    if (last - first) as usize == positions.len() - 1 {
        out.push(RUN);
        put_varint(out, first);
        return;
    }
    let parameter = best_parameter(positions, last);
    out.push(parameter as u8);
    let mut bits = BitWriter {
        out,
        word: 0,
        n_bits: 0,
    };
    for gap in gaps(positions) {
        bits.put_unary(gap >> parameter);
        bits.put(gap & ((1 << parameter) - 1), parameter);
    }
    bits.finish();
}

/// Positions skipped before each.
fn gaps(positions: &[u32]) -> impl Iterator<Item = u32> {
    let mut next = 0;
    positions.iter().map(move |&position| {
        let gap = position - next;
        next = position + 1;
        gap
    })
}

/// The parameter of the shortest code. Its length is convex in the parameter but for rounding, and its
/// minimum near the log of the mean gap, so the neighbours of that are enough.
fn best_parameter(positions: &[u32], last: u32) -> u32 {
    let n = positions.len() as u64;
    let n_skipped = u64::from(last) + 1 - n;
    let middle = (n_skipped / n).checked_ilog2().unwrap_or(0);
    let length = |parameter: u32| -> u64 {
        let quotients: u64 = gaps(positions).map(|gap| u64::from(gap >> parameter)).sum();
        quotients + n * u64::from(parameter + 1)
    };
    // Clustered positions have a mean gap that few of them have: smaller parameters are tried as long
    // as they pay.
    let mut best = (length(middle), middle);
    for parameter in (0..middle).rev() {
        let found = (length(parameter), parameter);
        if found.0 >= best.0 {
            break;
        }
        best = found;
    }
    let above = middle + 1;
    if best.1 == middle && above <= MAX_PARAMETER {
        best = best.min((length(above), above));
    }
    best.1
}

/// Bits, low ones first.
struct BitWriter<'a> {
    out: &'a mut Vec<u8>,
    word: u64,
    n_bits: u32,
}

impl BitWriter<'_> {
    /// At most 32 bits.
    fn put(&mut self, value: u32, n_bits: u32) {
        self.word |= u64::from(value) << self.n_bits;
        self.n_bits += n_bits;
        while self.n_bits >= 8 {
            self.out.push(self.word as u8);
            self.word >>= 8;
            self.n_bits -= 8;
        }
    }

    fn put_unary(&mut self, mut number: u32) {
        while number >= 24 {
            self.put(0, 24);
            number -= 24;
        }
        self.put(1 << number, number + 1);
    }

    fn finish(self) {
        if self.n_bits > 0 {
            self.out.push(self.word as u8);
        }
    }
}

struct BitReader<'a> {
    bytes: &'a [u8],
    word: u64,
    n_bits: u32,
}

impl BitReader<'_> {
    fn refill(&mut self) {
        let n_bytes = (((64 - self.n_bits) / 8) as usize).min(self.bytes.len());
        if let Some(&eight) = self.bytes.first_chunk::<8>() {
            let word = u64::from_le_bytes(eight);
            let mask = u64::MAX >> (64 - 8 * n_bytes.max(1));
            if n_bytes > 0 {
                self.word |= (word & mask) << self.n_bits;
            }
        } else {
            for (at, &byte) in self.bytes[..n_bytes].iter().enumerate() {
                self.word |= u64::from(byte) << (self.n_bits + 8 * at as u32);
            }
        }
        self.bytes = &self.bytes[n_bytes..];
        self.n_bits += 8 * n_bytes as u32;
    }

    fn unary(&mut self) -> Option<u32> {
        let mut number = 0u32;
        while self.word == 0 {
            number = number.checked_add(self.n_bits)?;
            self.n_bits = 0;
            self.refill();
            if self.n_bits == 0 {
                return None;
            }
        }
        let zeros = self.word.trailing_zeros();
        // In two steps: all 64 at once would overflow.
        self.word = self.word >> zeros >> 1;
        self.n_bits -= zeros + 1;
        number.checked_add(zeros)
    }

    fn bits(&mut self, n_bits: u32) -> Option<u32> {
        if self.n_bits < n_bits {
            self.refill();
            if self.n_bits < n_bits {
                return None;
            }
        }
        let value = self.word & ((1 << n_bits) - 1);
        self.word >>= n_bits;
        self.n_bits -= n_bits;
        Some(value as u32)
    }
}

/// The `n` positions that `code` stands for; `None` unless it is the code of so many below `limit`.
pub(super) fn positions(code: &[u8], n: usize, limit: u32) -> Option<Vec<u32>> {
    if n == 0 {
        return code.is_empty().then(Vec::new);
    }
    // Also bounds what is allocated.
    if n > limit as usize {
        return None;
    }
    let (&parameter, code) = code.split_first()?;
    if parameter == RUN {
        let mut reader = Reader(code);
        let first = reader.varint()?;
        let end = first
            .checked_add(n as u32)
            .filter(|&end| end <= limit && reader.0.is_empty())?;
        return Some((first..end).collect());
    }
    let parameter = u32::from(parameter);
    if parameter > MAX_PARAMETER || n > code.len().saturating_mul(8) {
        return None;
    }
    let mut bits = BitReader {
        bytes: code,
        word: 0,
        n_bits: 0,
    };
    let mut positions = Vec::with_capacity(n);
    let mut next = 0u32;
    for _ in 0..n {
        let quotient = bits.unary()?;
        // Both below 2^32, so nothing is shifted out.
        let gap = u64::from(quotient) << parameter | u64::from(bits.bits(parameter)?);
        let position = gap + u64::from(next);
        if position >= u64::from(limit) {
            return None;
        }
        positions.push(position as u32);
        next = position as u32 + 1;
    }
    (bits.bytes.is_empty() && bits.word == 0).then_some(positions)
}

/// Bytes that are left to read.
pub(super) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, n_bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n_bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (&taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn varint(&mut self) -> Option<u32> {
        let mut number = 0u64;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return u32::try_from(number).ok();
            }
        }
        None
    }

    pub(super) fn f32(&mut self) -> Option<f32> {
        self.array().map(f32::from_le_bytes)
    }

    pub(super) fn f64(&mut self) -> Option<f64> {
        self.array().map(f64::from_le_bytes)
    }

    /// `n` floats of four bytes.
    pub(super) fn floats(&mut self, n: usize) -> Option<Vec<f32>> {
        let (floats, _) = self.take(n.checked_mul(4)?)?.as_chunks();
        Some(floats.iter().copied().map(f32::from_le_bytes).collect())
    }

    /// `n` floats as [`put_halves`] wrote them.
    pub(super) fn halves(&mut self, n: usize) -> Option<Vec<f32>> {
        let exponent = i16::from_le_bytes(self.array()?);
        let (halves, _) = self.take(n.checked_mul(2)?)?.as_chunks();
        let scale = (-f64::from(exponent)).exp2();
        let value = |&half: &[u8; 2]| {
            let half = f16::from_le_bytes(half);
            let value = (f64::from(half) * scale) as f32;
            // Rounding may have taken the largest finite numbers just out of their range.
            if half.is_finite() {
                value.clamp(f32::MIN, f32::MAX)
            } else {
                value
            }
        };
        Some(halves.iter().map(value).collect())
    }
}

/// Appends floats of four bytes.
pub(super) fn put_floats(out: &mut Vec<u8>, values: impl Iterator<Item = f32>) {
    out.extend(values.flat_map(f32::to_le_bytes));
}

/// Appends halves that share a power of two, chosen so that the largest lies just within their range:
/// eleven bits of each number down to 2^-29 of it. Infinities and NaN stay what they are.
pub(super) fn put_halves(out: &mut Vec<u8>, values: impl Iterator<Item = f32> + Clone) {
    let largest = values
        .clone()
        .filter(|value| value.is_finite())
        .fold(0.0, |largest: f32, value| largest.max(value.abs()));
    // 2^14 ≤ largest · 2^exponent < 2^15, half of what a half holds.
    let exponent = if largest > 0.0 {
        14 - f64::from(largest).log2().floor() as i16
    } else {
        0
    };
    let scale = f64::from(exponent).exp2();
    out.extend(exponent.to_le_bytes());
    out.extend(values.flat_map(|value| f16::from_f64(f64::from(value) * scale).to_le_bytes()));
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panic")]
mod tests {
    use super::super::testing::Random;
    use super::*;

    fn code(positions: &[u32]) -> Vec<u8> {
        let mut out = Vec::new();
        put_positions(&mut out, positions);
        out
    }

    #[track_caller]
    fn round_trip(chosen: &[u32]) -> usize {
        let code = code(chosen);
        let limit = chosen.last().map_or(0, |last| last + 1);
        assert_eq!(positions(&code, chosen.len(), limit).unwrap(), chosen);
        code.len()
    }

    #[test]
    fn positions_of_every_kind_come_back() {
        let far = (1 << 22) - 1;
        for chosen in [
            vec![],
            vec![0],
            vec![far],
            vec![0, far],
            vec![far - 1, far],
            (0..131_072).collect(),
            (5..70).collect(),
            (0..1000).filter(|p| p % 2 == 0).collect(),
            (0..64).chain(4_000_000..4_000_064).collect(),
        ] {
            round_trip(&chosen);
        }
        let mut random = Random::new(3);
        for n in [1, 2, 63, 64, 65, 255, 2048] {
            for context in [n, n + 1, 2 * n, 131_072] {
                let chosen = random.positions(n, context);
                round_trip(&chosen);
            }
        }
    }

    #[test]
    fn no_code_is_longer_than_the_bound_or_the_bitset() {
        let mut random = Random::new(4);
        let context = 131_072;
        for n in [1, 7, 256, 2048, 40_000, 131_000] {
            let uniform = random.positions(n, context);
            // Half in a cluster at the start, half spread: the worst for one parameter.
            let half = n as u32 / 2;
            let spread = random.positions(n - half as usize, context - half as usize);
            let clustered: Vec<u32> = (0..half).chain(spread.iter().map(|p| p + half)).collect();
            for chosen in [uniform, clustered] {
                let n_bits = (8 * round_trip(&chosen)) as f64;
                let (n, u) = (n as f64, context as f64);
                let bound = n * (2.0 + (u / n).log2()) + 16.0;
                assert!(n_bits <= bound.min(u + 16.0), "{n}: {n_bits} of {bound}");
            }
        }
        assert_eq!(round_trip(&(0..131_072).collect::<Vec<_>>()), 2);
    }

    #[test]
    fn damaged_codes_are_refused_and_never_panic() {
        let mut random = Random::new(5);
        let chosen = random.positions(300, 5000);
        let whole = code(&chosen);
        assert_eq!(positions(&whole, 299, 5000), None);
        assert_eq!(positions(&whole, 301, 5000), None);
        assert_eq!(positions(&whole, 300, chosen[299]), None);
        assert_eq!(positions(&whole, usize::MAX, u32::MAX), None);
        assert_eq!(
            positions(&[RUN, 0xff, 0xff, 0xff, 0xff, 0x0f], 2, u32::MAX),
            None
        );
        assert_eq!(positions(&[RUN, 0, 0], 2, 5), None);
        assert_eq!(positions(&[25, 1], 1, 5), None);
        assert_eq!(positions(&[], 1, 5), None);
        assert_eq!(positions(&[0], 0, 5), None);
        for length in 0..whole.len() {
            assert_eq!(positions(&whole[..length], 300, 5000), None, "{length}");
        }
        for _ in 0..20_000 {
            let mut bytes = whole.clone();
            let at = random.below(bytes.len());
            bytes[at] = random.below(256) as u8;
            if let Some(found) = positions(&bytes, 300, 5000) {
                assert!(found.is_sorted_by(|a, b| a < b) && found[299] < 5000);
            }
        }
    }

    #[test]
    fn varints_come_back_and_stop_at_32_bits() {
        for number in [0, 1, 127, 128, 16_383, 16_384, u32::MAX] {
            let mut out = Vec::new();
            put_varint(&mut out, number);
            let mut reader = Reader(&out);
            assert_eq!(reader.varint(), Some(number));
            assert!(reader.0.is_empty());
        }
        assert_eq!(Reader(&[0xff, 0xff, 0xff, 0xff, 0x1f]).varint(), None);
        assert_eq!(Reader(&[0x80; 6]).varint(), None);
        assert_eq!(Reader(&[0x80]).varint(), None);
    }

    #[test]
    fn halves_keep_eleven_bits_at_any_size() {
        for scale in [1e-30f32, 1e-6, 1.0, 70_000.0, 1e37] {
            let values: Vec<f32> = [1.0, -0.333_333, 1e-3, 1e-8, 0.0, -1.9]
                .map(|value| value * scale)
                .to_vec();
            let mut out = Vec::new();
            put_halves(&mut out, values.iter().copied());
            let back = Reader(&out).halves(values.len()).unwrap();
            for (back, value) in back.iter().zip(&values) {
                // A rounding of eleven bits is off by at most 2^-12.
                let close = (back - value).abs() <= value.abs() * 2f32.powi(-11);
                assert!(close, "{back} for {value}");
            }
        }
        let odd = [
            f32::NAN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            -0.0,
            f32::MAX,
            1e-45,
        ];
        let mut out = Vec::new();
        put_halves(&mut out, odd.into_iter());
        let back = Reader(&out).halves(6).unwrap();
        assert!(back[0].is_nan());
        assert_eq!(back[1..3], odd[1..3]);
        assert_eq!(back[3].to_bits(), (-0.0f32).to_bits());
        assert!((back[4] / f32::MAX - 1.0).abs() < 1e-3, "{}", back[4]);
        let mut none = Vec::new();
        put_halves(&mut none, std::iter::empty());
        assert_eq!(Reader(&none).halves(0).unwrap(), [0.0f32; 0]);
        assert_eq!(Reader(&none).halves(1), None);
        assert_eq!(Reader(&none).halves(usize::MAX), None);
    }
}
