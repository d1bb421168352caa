//! Rotary positions with YaRN: pair `(a, b)` becomes `(a cos − b sin, a sin + b cos)`.
//!
//! Two pairings over the same angles: *interleaved* (2i, 2i+1) in MLA, *half-split* (i, i + dr/2)
//! in the indexer of DeepSeek. Here are the angles; turning is each body's own. Source: spec 3.3.

use crate::config::Config;

/// Frequencies of a model, computed once.
#[derive(Clone, Debug)]
pub struct Rope {
    frequencies: Vec<f32>,
    /// Multiplies cos and sin: 1 for every released model.
    factor: f32,
}

/// Cosines and sines of some positions, each `[tokens, qk_rope_head_dim / 2]`.
#[derive(Clone, Debug, Default)]
pub struct Angles {
    /// Cosines.
    pub cos: Vec<f32>,
    /// Sines.
    pub sin: Vec<f32>,
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

    /// Angles of these positions, one row each.
    pub fn angles(&self, positions: impl IntoIterator<Item = usize>) -> Angles {
        let mut angles = Angles::default();
        for position in positions {
            for frequency in &self.frequencies {
                // The product is rounded to f32 as in the official code, the functions are exact.
                let (s, c) = f64::from(position as f32 * frequency).sin_cos();
                angles.cos.push(c as f32 * self.factor);
                angles.sin.push(s as f32 * self.factor);
            }
        }
        angles
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
