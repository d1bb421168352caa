//! SwiGLU feed-forwards on the host: one for all tokens, or the chosen ones of each token.
//!
//! Tokens are gathered by expert, so that each expert that is chosen at all is read once. A token's
//! result is summed by ascending expert, the shared expert last, whoever its company is.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::jobs::{self, Job, transpose};
use super::matrix::Matrix;
use super::simd::{dispatch, exp};

/// `gate_proj`, `up_proj` and `down_proj` of one feed-forward.
type Swiglu<'a> = [Matrix<'a>; 3];

/// One feed-forward and the tokens that go through it.
struct Unit<'a> {
    matrices: Swiglu<'a>,
    /// `[tokens, hidden_size]`.
    x: Vec<f32>,
    n: usize,
    /// `[width, tokens]` each; then `hidden` holds their product `[tokens, width]`.
    gate: Vec<f32>,
    up: Vec<f32>,
    /// `[hidden_size, tokens]`, then `[tokens, hidden_size]`.
    out: Vec<f32>,
}

impl<'a> Unit<'a> {
    fn new(matrices: Swiglu<'a>, x: Vec<f32>) -> Self {
        let n = x.len() / matrices[0].cols;
        let width = matrices[0].rows;
        Self {
            n,
            gate: vec![0.0; n * width],
            up: vec![0.0; n * width],
            out: vec![0.0; n * matrices[2].rows],
            matrices,
            x,
        }
    }

    /// `silu(gate) · up`, `[tokens, width]`, into `gate`.
    fn activate(&mut self) {
        dispatch(Activate {
            gate: &mut self.gate,
            up: &self.up,
        });
        turn(&mut self.gate, &mut self.up, self.n);
    }
}

/// `[rows, n]` becomes `[n, rows]`, by way of `spare`.
fn turn(values: &mut Vec<f32>, spare: &mut Vec<f32>, n: usize) {
    if n > 1 {
        spare.resize(values.len(), 0.0);
        transpose(values, n, spare);
        std::mem::swap(values, spare);
    }
}

/// Puts all units through their feed-forwards.
fn run(units: &mut [Unit]) {
    let first = units.iter_mut().flat_map(|unit| {
        let Unit {
            matrices,
            x,
            gate,
            up,
            ..
        } = unit;
        let x = x.as_slice();
        [
            Job {
                matrix: matrices[0],
                x,
                out: gate,
            },
            Job {
                matrix: matrices[1],
                x,
                out: up,
            },
        ]
    });
    jobs::run(first.collect());
    if units.iter().map(|unit| unit.gate.len()).sum::<usize>() < 1 << 12 {
        units.iter_mut().for_each(Unit::activate);
    } else {
        units.par_iter_mut().for_each(Unit::activate);
    }
    let second = units.iter_mut().map(|unit| Job {
        matrix: unit.matrices[2],
        x: &unit.gate,
        out: &mut unit.out,
    });
    jobs::run(second.collect());
    for unit in units {
        turn(&mut unit.out, &mut unit.up, unit.n);
    }
}

struct Activate<'a> {
    gate: &'a mut [f32],
    up: &'a [f32],
}

impl WithSimd for Activate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for (gate, up) in self.gate.iter_mut().zip(self.up) {
            *gate = *gate / (1.0 + exp(-*gate)) * up;
        }
    }
}

/// A feed-forward for all of `x` `[tokens, hidden_size]`, into `out` of the same shape.
pub fn mlp(x: &[f32], matrices: [Matrix; 3], out: &mut [f32]) {
    let mut units = [Unit::new(matrices, x.to_vec())];
    run(&mut units);
    let [unit] = units;
    out.copy_from_slice(&unit.out);
}

/// The routed experts of each of `n` tokens and the shared one, for `x` `[tokens, hidden_size]`, into
/// `out` of the same shape. `chosen` and `weights` are `[tokens, num_experts_per_tok]`.
pub fn experts<'a>(
    x: &[f32],
    chosen: &[u16],
    weights: &[f32],
    n: usize,
    matrices: &dyn Fn(usize) -> [Matrix<'a>; 3],
    shared: Option<[Matrix<'a>; 3]>,
    out: &mut [f32],
) {
    let hidden_size = x.len() / n;
    let k = chosen.len() / n;
    let mut slots: Vec<usize> = (0..chosen.len()).collect();
    slots.sort_by_key(|&slot| chosen[slot]);

    // Of each token: unit, row of the unit and weight, by ascending expert.
    let mut parts = vec![(0, 0, 0.0); chosen.len()];
    let mut filled = vec![0; n];
    let mut units = Vec::new();
    for group in slots.chunk_by(|&a, &b| chosen[a] == chosen[b]) {
        let mut gathered = Vec::with_capacity(group.len() * hidden_size);
        for (row, &slot) in group.iter().enumerate() {
            let token = slot / k;
            gathered.extend_from_slice(&x[token * hidden_size..][..hidden_size]);
            parts[token * k + filled[token]] = (units.len(), row, weights[slot]);
            filled[token] += 1;
        }
        units.push(Unit::new(matrices(chosen[group[0]] as usize), gathered));
    }
    let routed = units.len();
    units.extend(shared.map(|matrices| Unit::new(matrices, x.to_vec())));
    run(&mut units);

    let (routed, shared) = units.split_at(routed);
    let combine = |token: usize, out: &mut [f32]| {
        out.fill(0.0);
        for (unit, row, weight) in &parts[token * k..][..k] {
            let from = &routed[*unit].out[row * hidden_size..][..hidden_size];
            for (out, from) in out.iter_mut().zip(from) {
                *out += weight * from;
            }
        }
        for unit in shared {
            let from = &unit.out[token * hidden_size..][..hidden_size];
            for (out, from) in out.iter_mut().zip(from) {
                *out += from;
            }
        }
    };
    if n == 1 {
        combine(0, out);
    } else {
        out.par_chunks_mut(hidden_size)
            .with_min_len(8)
            .enumerate()
            .for_each(|(token, out)| combine(token, out));
    }
}
