//! Norms, rotary positions and the Hadamard transform: what works on one row at a time.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::rope::Layout;

use super::simd::{LANES, dispatch, fold};

/// Numbers below which one worker does it all.
const ALONE: usize = 1 << 14;

/// Calls `each` on rows of `width`, by several workers if they are many.
fn for_rows(out: &mut [f32], width: usize, each: impl Fn(usize, &mut [f32]) + Sync) {
    if out.len() <= ALONE {
        out.chunks_exact_mut(width)
            .enumerate()
            .for_each(|(row, out)| each(row, out));
    } else {
        let rows = (ALONE / width).max(1);
        out.par_chunks_mut(rows * width)
            .enumerate()
            .for_each(|(block, out)| {
                for (row, out) in out.chunks_exact_mut(width).enumerate() {
                    each(block * rows + row, out);
                }
            });
    }
}

/// Sum of `of(value)` over a row, by sixteen lanes.
#[inline(always)]
fn sum(row: &[f32], of: impl Fn(f32, f32) -> f32) -> f32 {
    let mut sums = [0.0; LANES];
    let (whole, rest) = row.as_chunks::<LANES>();
    for chunk in whole {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum = of(*value, *sum);
        }
    }
    for (sum, value) in sums.iter_mut().zip(rest) {
        *sum = of(*value, *sum);
    }
    fold(sums)
}

/// Scales each row of `x` to unit root mean square, then by `weight` `[width]`.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let width = weight.len();
    for_rows(out, width, |row, out| {
        dispatch(RmsNorm {
            x: &x[row * width..][..width],
            weight,
            eps,
            out,
        });
    });
}

struct RmsNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl WithSimd for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let squares = sum(self.x, |value, sum| value.mul_add(value, sum));
        let scale = 1.0 / (squares / self.x.len() as f32 + self.eps).sqrt();
        for ((out, x), weight) in self.out.iter_mut().zip(self.x).zip(self.weight) {
            *out = x * scale * weight;
        }
    }
}

/// Shifts each row of `x` to mean 0, scales it to variance 1, then by `weight`, and adds `bias`.
pub fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
    let width = weight.len();
    for_rows(out, width, |row, out| {
        dispatch(LayerNorm {
            x: &x[row * width..][..width],
            weight,
            bias,
            eps,
            out,
        });
    });
}

struct LayerNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl WithSimd for LayerNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let width = self.x.len() as f32;
        let mean = sum(self.x, |value, sum| value + sum) / width;
        let variance = sum(self.x, |value, sum| {
            (value - mean).mul_add(value - mean, sum)
        }) / width;
        let scale = 1.0 / (variance + self.eps).sqrt();
        let weights = self.weight.iter().zip(self.bias);
        for ((out, x), (weight, bias)) in self.out.iter_mut().zip(self.x).zip(weights) {
            *out = (x - mean) * scale * weight + bias;
        }
    }
}

/// Rotates channels `offset..` of each head of `x` `[tokens, n_heads × stride]` by the angles of its
/// token, `cos` and `sin` `[tokens, half]`: pairs `(2i, 2i + 1)` if `interleaved`, else
/// `(i, i + half)`.
pub fn rope(x: &mut [f32], stride: usize, layout: Layout, cos: &[f32], sin: &[f32]) {
    let Layout {
        n_heads,
        offset,
        interleaved,
    } = layout;
    let width = n_heads * stride;
    let half = cos.len() * width / x.len().max(1);
    for_rows(x, width, |token, x| {
        let (cos, sin) = (&cos[token * half..][..half], &sin[token * half..][..half]);
        for head in x.chunks_exact_mut(stride) {
            let turned = &mut head[offset..offset + 2 * half];
            for i in 0..half {
                let (first, second) = if interleaved {
                    (2 * i, 2 * i + 1)
                } else {
                    (i, i + half)
                };
                let (a, b) = (turned[first], turned[second]);
                turned[first] = a * cos[i] - b * sin[i];
                turned[second] = a * sin[i] + b * cos[i];
            }
        }
    });
}

/// Hadamard-transforms each head of `x` `[.., dim]`, orthonormal, Sylvester order.
///
/// # Panics
/// `dim` is no power of two.
pub fn hadamard(x: &mut [f32], dim: usize) {
    assert!(dim.is_power_of_two(), "a Hadamard matrix of {dim}");
    let scale = 1.0 / (dim as f32).sqrt();
    for_rows(x, dim, |_, head| {
        let mut width = 1;
        while width < dim {
            for pair in head.chunks_exact_mut(2 * width) {
                let (low, high) = pair.split_at_mut(width);
                for (a, b) in low.iter_mut().zip(high) {
                    (*a, *b) = (*a + *b, *a - *b);
                }
            }
            width *= 2;
        }
        head.iter_mut().for_each(|value| *value *= scale);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn norms_of_one_many_and_odd_rows() {
        for (rows, width) in [(1, 1), (3, 255), (2, 257), (70, 512)] {
            let x: Vec<f32> = (0..rows * width).map(|i| (i as f32).sin() + 0.25).collect();
            let weight: Vec<f32> = (0..width).map(|i| 1.0 + i as f32 / 64.0).collect();
            let (mut rms, mut layer) = (vec![f32::NAN; x.len()], vec![f32::NAN; x.len()]);
            rms_norm(&x, &weight, 1e-6, &mut rms);
            layer_norm(&x, &weight, &weight, 1e-6, &mut layer);
            for row in 0..rows {
                let x: Vec<f64> = x[row * width..][..width]
                    .iter()
                    .map(|&x| x.into())
                    .collect();
                let n = width as f64;
                let mean = x.iter().sum::<f64>() / n;
                let squares = x.iter().map(|x| x * x).sum::<f64>() / n;
                let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
                for i in 0..width {
                    let weight = f64::from(weight[i]);
                    let want = x[i] / (squares + 1e-6).sqrt() * weight;
                    let got = f64::from(rms[row * width + i]);
                    // A rounding in each of 20 sums, the root and three products.
                    assert!((got - want).abs() <= 3e-6 * (want.abs() + weight));
                    let want = (x[i] - mean) / (variance + 1e-6).sqrt() * weight + weight;
                    let got = f64::from(layer[row * width + i]);
                    assert!(
                        (got - want).abs() <= 1e-5 * (want.abs() + weight),
                        "{got} {want}"
                    );
                }
            }
        }
    }

    #[test]
    fn hadamard_is_its_own_inverse_and_has_the_sylvester_signs() {
        let mut x: Vec<f32> = (0..16).map(|i| if i == 5 { 1.0 } else { 0.0 }).collect();
        hadamard(&mut x, 16);
        for (i, value) in x.iter().enumerate() {
            let sign = if (i & 5).count_ones() % 2 == 0 {
                0.25
            } else {
                -0.25
            };
            assert_eq!(*value, sign);
        }
        hadamard(&mut x, 16);
        assert_eq!(x[5], 1.0);
        let mut one = [3.0, 4.0];
        hadamard(&mut one, 1);
        assert_eq!(one, [3.0, 4.0]);
    }

    #[test]
    fn both_pairings_turn_by_the_angle_of_their_token() {
        // One token at 90 degrees in its first pair and none in its second.
        let (cos, sin) = ([0.0, 1.0], [1.0, 0.0]);
        let mut x = [9.0, 1.0, 2.0, 3.0, 4.0];
        let mut layout = Layout {
            n_heads: 1,
            offset: 1,
            interleaved: true,
        };
        rope(&mut x, 5, layout, &cos, &sin);
        assert_eq!(x, [9.0, -2.0, 1.0, 3.0, 4.0]);
        let mut x = [9.0, 1.0, 2.0, 3.0, 4.0];
        layout.interleaved = false;
        rope(&mut x, 5, layout, &cos, &sin);
        assert_eq!(x, [9.0, -3.0, 2.0, 1.0, 4.0]);
    }
}
