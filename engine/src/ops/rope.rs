//! Rotary positions with YaRN: pair `(a, b)` becomes `(a cos − b sin, a sin + b cos)`.
//!
//! Two pairings over the same angles: *interleaved* (2i, 2i+1) in MLA, *half-split* (i, i + dr/2)
//! in the indexer of DeepSeek. Source: spec 3.3.

use burn::Tensor;

use crate::config::Config;
use crate::cpu;
use crate::device::Place;
use crate::rows::Rows;

/// Frequencies of a model, computed once.
#[derive(Clone, Debug)]
pub struct Rope {
    frequencies: Vec<f32>,
    /// Multiplies cos and sin: 1 for every released model.
    factor: f32,
}

/// Cosines and sines of a run of positions, `[tokens, qk_rope_head_dim / 2]`.
#[derive(Clone, Debug)]
pub struct Angles {
    cos: Vec<f32>,
    sin: Vec<f32>,
    tensors: Option<(Tensor<3>, Tensor<3>)>,
}

/// Which channels of each head are rotated, and how they pair.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Heads in a row.
    pub n_heads: usize,
    /// First rotated channel of a head.
    pub offset: usize,
    /// Pairs (2i, 2i+1) rather than (i, i + dr/2).
    pub interleaved: bool,
}

impl Rope {
    /// The frequencies that `config` asks for.
    pub fn new(config: &Config) -> Self {
        let dr = config.qk_rope_head_dim;
        let theta = config.rope_theta;
        let inverse = |i: usize| theta.powf(-2.0 * i as f64 / dr as f64);
        let frequencies = match &config.yarn {
            None => (0..dr / 2).map(|i| inverse(i) as f32).collect(),
            Some(yarn) => {
                let length = yarn.original_max_position_embeddings as f64;
                let turns = |r: f64| {
                    dr as f64 * (length / (r * std::f64::consts::TAU)).ln() / (2.0 * theta.ln())
                };
                let low = turns(yarn.beta_fast).floor().max(0.0);
                let mut high = turns(yarn.beta_slow).ceil().min(dr as f64 - 1.0);
                if low == high {
                    high += 0.001;
                }
                (0..dr / 2)
                    .map(|i| {
                        let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                        (inverse(i) * (1.0 - ramp) + inverse(i) / yarn.factor * ramp) as f32
                    })
                    .collect()
            }
        };
        Self {
            frequencies,
            factor: config.rope_factor(),
        }
    }

    /// Angles of positions `first..first + n`.
    pub(crate) fn angles(&self, first: usize, n: usize, place: &Place) -> Angles {
        let (cos, sin) = self.cos_sin(first..first + n);
        let half = self.frequencies.len();
        let tensors = match place {
            Place::Host | Place::Gpu { .. } => None,
            place => Some((
                place.tensor(cos.clone(), [n, 1, half]),
                place.tensor(sin.clone(), [n, 1, half]),
            )),
        };
        Angles { cos, sin, tensors }
    }

    /// Angles of positions `0..n`, once for each of `n_sequences`, as tensors like `like`.
    pub fn angles_of_sequences(&self, n_sequences: usize, n: usize, like: &Tensor<2>) -> Angles {
        let (cos, sin) = self.cos_sin((0..n_sequences).flat_map(|_| 0..n));
        let half = self.frequencies.len();
        let tensor = |values: &[f32]| {
            let data = burn::tensor::TensorData::new(values.to_vec(), [n_sequences * n, 1, half]);
            Tensor::from_data(data, (&like.device(), like.dtype()))
        };
        let tensors = Some((tensor(&cos), tensor(&sin)));
        Angles { cos, sin, tensors }
    }

    fn cos_sin(&self, positions: impl Iterator<Item = usize>) -> (Vec<f32>, Vec<f32>) {
        let mut cos = Vec::new();
        let mut sin = Vec::new();
        for position in positions {
            for frequency in &self.frequencies {
                // The product is rounded to f32 as in the official code, the functions are exact.
                let (s, c) = f64::from(position as f32 * frequency).sin_cos();
                cos.push(c as f32 * self.factor);
                sin.push(s as f32 * self.factor);
            }
        }
        (cos, sin)
    }
}

impl Angles {
    /// Per token all cosines, then all sines: `[tokens, qk_rope_head_dim]`.
    pub(crate) fn cos_then_sin(&self, n: usize) -> Vec<f32> {
        let half = self.cos.len() / n;
        self.cos
            .chunks_exact(half)
            .zip(self.sin.chunks_exact(half))
            .flat_map(|(cos, sin)| cos.iter().chain(sin).copied())
            .collect()
    }
}

/// Rotates `x` `[tokens, heads × width]`, each row by the angles of its position.
pub fn rope(x: Rows, angles: &Angles, layout: Layout) -> Rows {
    match x {
        Rows::Host { mut data, width } => {
            let stride = width / layout.n_heads;
            let Layout {
                n_heads,
                offset,
                interleaved,
            } = layout;
            cpu::rope(
                &mut data,
                n_heads,
                stride,
                offset,
                &angles.cos,
                &angles.sin,
                interleaved,
            );
            Rows::Host { data, width }
        }
        Rows::Tensor(x) => Rows::Tensor(portable(x, angles, layout)),
    }
}

/// The definition.
pub fn portable(x: Tensor<2>, angles: &Angles, layout: Layout) -> Tensor<2> {
    let (cos, sin) = angles
        .tensors
        .clone()
        .expect("portable bodies are given tensors");
    let [n, width] = x.dims();
    let [_, _, half] = cos.dims();
    let Layout {
        n_heads,
        offset,
        interleaved,
    } = layout;
    let stride = width / n_heads;
    let x = x.reshape([n, n_heads, stride]);
    let turned = x
        .clone()
        .slice([0..n, 0..n_heads, offset..offset + 2 * half]);
    let (a, b): (Tensor<3>, Tensor<3>) = if interleaved {
        let pairs = turned.reshape([n, n_heads, half, 2]);
        let channel = |i: usize| {
            pairs
                .clone()
                .slice([0..n, 0..n_heads, 0..half, i..i + 1])
                .reshape([n, n_heads, half])
        };
        (channel(0), channel(1))
    } else {
        let part = |i: usize| {
            turned
                .clone()
                .slice([0..n, 0..n_heads, i * half..(i + 1) * half])
        };
        (part(0), part(1))
    };
    let first = a.clone() * cos.clone() - b.clone() * sin.clone();
    let second = a * sin + b * cos;
    let turned = if interleaved {
        Tensor::cat(
            vec![
                first.reshape([n, n_heads, half, 1]),
                second.reshape([n, n_heads, half, 1]),
            ],
            3,
        )
        .reshape([n, n_heads, 2 * half])
    } else {
        Tensor::cat(vec![first, second], 2)
    };
    let mut parts = Vec::new();
    if offset > 0 {
        parts.push(x.clone().slice([0..n, 0..n_heads, 0..offset]));
    }
    parts.push(turned);
    if offset + 2 * half < stride {
        parts.push(x.slice([0..n, 0..n_heads, offset + 2 * half..stride]));
    }
    Tensor::cat(parts, 2).reshape([n, width])
}
