//! Sums of sixteen lanes on whatever registers the machine has: AVX-512, AVX2, NEON or none.
//!
//! A lane `l` sums the products at `l, l + 16, l + 32, …` by fused multiply-add, and [`fold`] adds
//! the lanes by one tree. A register that is narrower than sixteen lanes is used several times, so
//! the bits are the same on all.

use std::sync::LazyLock;

use pulp::{Arch, Simd, WithSimd};

/// Interleaved lanes of a sum.
pub(super) const LANES: usize = 16;

static ARCH: LazyLock<Arch> = LazyLock::new(Arch::new);

/// Runs `op` compiled for this machine's registers.
pub(super) fn dispatch<Op: WithSimd>(op: Op) -> Op::Output {
    ARCH.dispatch(op)
}

/// Sixteen numbers in `P` registers.
pub(super) type Wide<S, const P: usize> = [<S as Simd>::f32s; P];

/// Sixteen times `value`.
#[inline(always)]
pub(super) fn splat<S: Simd, const P: usize>(simd: S, value: f32) -> Wide<S, P> {
    [simd.splat_f32s(value); P]
}

/// `a · b + c`, rounded once.
#[inline(always)]
pub(super) fn mul_add<S: Simd, const P: usize>(
    simd: S,
    a: Wide<S, P>,
    b: Wide<S, P>,
    c: Wide<S, P>,
) -> Wide<S, P> {
    let mut sum = c;
    for p in 0..P {
        sum[p] = simd.mul_add_f32s(a[p], b[p], c[p]);
    }
    sum
}

/// Whole groups of sixteen, and the rest.
#[inline(always)]
pub(super) fn split<S: Simd, const P: usize>(slice: &[f32]) -> (&[Wide<S, P>], &[f32]) {
    let (whole, rest) = slice.split_at(slice.len() / LANES * LANES);
    (pulp::as_arrays(S::as_simd_f32s(whole).0).0, rest)
}

/// Whole groups of sixteen, and the rest.
#[inline(always)]
pub(super) fn split_mut<S: Simd, const P: usize>(
    slice: &mut [f32],
) -> (&mut [Wide<S, P>], &mut [f32]) {
    let (whole, rest) = slice.split_at_mut(slice.len() / LANES * LANES);
    (pulp::as_arrays_mut(S::as_mut_simd_f32s(whole).0).0, rest)
}

/// Up to sixteen numbers, zeros behind them.
#[inline(always)]
pub(super) fn load_rest<S: Simd, const P: usize>(simd: S, rest: &[f32]) -> Wide<S, P> {
    let mut padded = [0.0; LANES];
    padded[..rest.len()].copy_from_slice(rest);
    let mut wide = splat(simd, 0.0);
    wide.copy_from_slice(S::as_simd_f32s(&padded).0);
    wide
}

/// The numbers one by one.
#[inline(always)]
pub(super) fn lanes<S: Simd, const P: usize>(wide: Wide<S, P>) -> [f32; LANES] {
    let mut lanes = [0.0; LANES];
    S::as_mut_simd_f32s(&mut lanes).0.copy_from_slice(&wide);
    lanes
}

/// The sum of the lanes: halves onto halves.
#[inline(always)]
pub(super) fn fold(lanes: [f32; LANES]) -> f32 {
    let mut a = [0.0; 8];
    for i in 0..8 {
        a[i] = lanes[i] + lanes[i + 8];
    }
    let mut b = [0.0; 4];
    for i in 0..4 {
        b[i] = a[i] + a[i + 4];
    }
    (b[0] + b[2]) + (b[1] + b[3])
}

/// Dot products of `R` rows with `T` others of the same length: `dots[r][t] = a[r] · b[t]`.
#[inline(always)]
pub(super) fn dots<S: Simd, const P: usize, const R: usize, const T: usize>(
    simd: S,
    a: [&[f32]; R],
    b: [&[f32]; T],
) -> [[f32; T]; R] {
    let a = a.map(split::<S, P>);
    let b = b.map(split::<S, P>);
    let n = a[0].0.len();
    // Equal lengths, said so that the loop has no bounds checks.
    let a_whole = a.map(|(whole, _)| &whole[..n]);
    let b_whole = b.map(|(whole, _)| &whole[..n]);
    let mut sums = [[splat::<S, P>(simd, 0.0); T]; R];
    for i in 0..n {
        let b: [Wide<S, P>; T] = std::array::from_fn(|t| b_whole[t][i]);
        for r in 0..R {
            let a = a_whole[r][i];
            for t in 0..T {
                sums[r][t] = mul_add(simd, a, b[t], sums[r][t]);
            }
        }
    }
    if !a[0].1.is_empty() {
        let b: [Wide<S, P>; T] = std::array::from_fn(|t| load_rest(simd, b[t].1));
        for r in 0..R {
            let a = load_rest(simd, a[r].1);
            for t in 0..T {
                sums[r][t] = mul_add(simd, a, b[t], sums[r][t]);
            }
        }
    }
    sums.map(|row| row.map(|sum| fold(lanes::<S, P>(sum))))
}

/// `into[t][c] = Σ_i weights[t][i] · rows[i][first + c]` for `Q · 16` columns from `first` on, or
/// added to what is there; the sum runs by ascending `i`.
#[inline(always)]
pub(super) fn combine<S: Simd, const P: usize, const T: usize, const Q: usize>(
    simd: S,
    weights: [&[f32]; T],
    rows: &[&[f32]],
    first: usize,
    into: [&mut [f32]; T],
) {
    let into = into.map(|into| split_mut::<S, P>(&mut into[first..first + Q * LANES]).0);
    let mut sums: [[Wide<S, P>; Q]; T] =
        std::array::from_fn(|t| std::array::from_fn(|q| into[t][q]));
    let weights = weights.map(|weights| &weights[..rows.len()]);
    for (i, row) in rows.iter().enumerate() {
        let row = split::<S, P>(&row[first..first + Q * LANES]).0;
        for q in 0..Q {
            for t in 0..T {
                let weight = splat(simd, weights[t][i]);
                sums[t][q] = mul_add(simd, weight, row[q], sums[t][q]);
            }
        }
    }
    for t in 0..T {
        into[t].copy_from_slice(&sums[t]);
    }
}

/// As [`combine`], for all columns of `T` outputs, however many there are.
#[inline(always)]
pub(super) fn combine_all<S: Simd, const P: usize, const T: usize>(
    simd: S,
    weights: [&[f32]; T],
    rows: &[&[f32]],
    mut into: [&mut [f32]; T],
) {
    let n = into[0].len();
    let mut first = 0;
    while first + 4 * LANES <= n {
        combine::<S, P, T, 4>(
            simd,
            weights,
            rows,
            first,
            into.each_mut().map(|into| &mut **into),
        );
        first += 4 * LANES;
    }
    while first + LANES <= n {
        combine::<S, P, T, 1>(
            simd,
            weights,
            rows,
            first,
            into.each_mut().map(|into| &mut **into),
        );
        first += LANES;
    }
    for t in 0..T {
        for c in first..n {
            let mut sum = into[t][c];
            for (row, weight) in rows.iter().zip(weights[t]) {
                sum = weight.mul_add(row[c], sum);
            }
            into[t][c] = sum;
        }
    }
}

/// `e^x` to 1 ulp or so, without a branch, so that loops over it run on whole registers. NaN stays.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Beyond these, f32 holds nothing but 0 and infinity.
    let x = if x > 88.8 { 88.8 } else { x };
    let x = if x < -104.0 { -104.0 } else { x };
    // x = n ln 2 + r with |r| <= ln 2 / 2; adding and taking away 1.5 * 2^23 rounds to an integer.
    let shifted = x.mul_add(std::f32::consts::LOG2_E, 12_582_912.0);
    let n = shifted - 12_582_912.0;
    let r = n.mul_add(-0.693_145_75, x);
    let r = n.mul_add(-1.428_606_8e-6, r);
    // Taylor to r^7: the next term is below 2^-27.
    let mut e = 1.984_127e-4_f32;
    e = e.mul_add(r, 1.388_889e-3);
    e = e.mul_add(r, 8.333_334e-3);
    e = e.mul_add(r, 4.166_666_7e-2);
    e = e.mul_add(r, 1.666_666_7e-1);
    e = e.mul_add(r, 0.5);
    e = e.mul_add(r, 1.0);
    e = e.mul_add(r, 1.0);
    // 2^n in two factors, since n reaches from -150 to 128.
    let n = (shifted.to_bits() as i32).wrapping_sub(0x4b40_0000);
    let half = n >> 1;
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) << 23) as u32);
    e * power(half) * power(n.wrapping_sub(half))
}

/// Exponentials of `scores` less their maximum, and their sum by sixteen lanes; then divided, so
/// that they add up to 1.
#[inline(always)]
pub(super) fn softmax(scores: &mut [f32]) {
    let mut most = [f32::NEG_INFINITY; LANES];
    for chunk in scores.chunks(LANES) {
        for (most, &score) in most.iter_mut().zip(chunk) {
            *most = if score > *most { score } else { *most };
        }
    }
    let most = most.into_iter().fold(f32::NEG_INFINITY, f32::max);
    let mut sums = [0.0; LANES];
    let (whole, rest) = scores.as_chunks_mut::<LANES>();
    for chunk in whole {
        for (sum, score) in sums.iter_mut().zip(chunk) {
            *score = exp(*score - most);
            *sum += *score;
        }
    }
    for (sum, score) in sums.iter_mut().zip(rest) {
        *score = exp(*score - most);
        *sum += *score;
    }
    let sum = fold(sums);
    for score in scores {
        *score /= sum;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Softmax<'a>(&'a mut [f32]);

    impl WithSimd for Softmax<'_> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) {
            softmax(self.0);
        }
    }

    #[test]
    fn exp_is_within_two_ulp_and_keeps_nan() {
        // All floats from -104 to 88 by steps of a few thousand.
        for bits in (0..0x42b0_0000_u32).step_by(997) {
            for x in [f32::from_bits(bits), -f32::from_bits(bits)] {
                let want = f64::from(x).exp();
                let got = f64::from(exp(x));
                let ulp = (want * 1.2e-7).max(1.5e-45);
                assert!(
                    (got - want).abs() <= 2.0 * ulp,
                    "exp({x}) is {got}, want {want}"
                );
            }
        }
        assert!(exp(f32::NAN).is_nan());
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(1000.0), f32::INFINITY);
    }

    #[test]
    fn softmax_of_odd_lengths_adds_up_to_one() {
        for n in [1, 15, 16, 17, 100] {
            let mut scores: Vec<f32> = (0..n).map(|i| (i as f32 * 0.7).sin() * 30.0).collect();
            let want: Vec<f64> = scores.iter().map(|&x| f64::from(x).exp()).collect();
            let total: f64 = want.iter().sum();
            dispatch(Softmax(&mut scores));
            for (got, want) in scores.iter().zip(want) {
                // exp 2 ulp, the argument's rounding 30 * 6e-8, the sum's 1e-6.
                assert!((f64::from(*got) - want / total).abs() <= 4e-6 * (want / total));
            }
        }
    }

    struct Dots<'a>(&'a [f32], &'a [f32]);

    impl WithSimd for Dots<'_> {
        type Output = Vec<f32>;

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
            fn all<S: Simd, const P: usize>(simd: S, a: &[f32], b: &[f32]) -> Vec<f32> {
                let [[one]] = dots::<S, P, 1, 1>(simd, [a], [b]);
                let [[two, _], _] = dots::<S, P, 2, 2>(simd, [a, b], [b, a]);
                vec![one, two]
            }
            match S::F32_LANES {
                16 => all::<S, 1>(simd, self.0, self.1),
                8 => all::<S, 2>(simd, self.0, self.1),
                4 => all::<S, 4>(simd, self.0, self.1),
                _ => all::<S, 16>(simd, self.0, self.1),
            }
        }
    }

    #[test]
    fn every_register_width_gives_the_same_bits() {
        for n in [0, 1, 15, 16, 17, 250] {
            let a: Vec<f32> = (0..n).map(|i| (i as f32 * 1.3).sin()).collect();
            let b: Vec<f32> = (0..n).map(|i| (i as f32 * 0.7).cos()).collect();
            let here = dispatch(Dots(&a, &b));
            let plain = Dots(&a, &b).with_simd(pulp::Scalar);
            assert_eq!(here, plain);
            assert_eq!(here[0], here[1]);
            let want: f64 = a.iter().zip(&b).map(|(a, b)| f64::from(a * b)).sum();
            assert!((f64::from(here[0]) - want).abs() <= 1e-4);
        }
    }
}
