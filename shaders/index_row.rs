//! What the indexer's queries and keys share: rope, Hadamard, FP8 blocks.

use crate::key_cache;
use crate::pieces::plain;

/// `hadamard`, `block_scale` and what belongs to them. Needs `WG`, a multiple of 32, `CHANNELS`,
/// the most that a row has, and `NUMBERS`.
pub const INDEX_ROW: crate::kernel::Piece = plain(include_str!("index_row.wgsl"));

/// Most channels of a key: an array in workgroup memory.
pub const MOST_CHANNELS: usize = 1024;

/// `di^-0.5`, what makes a Hadamard transform orthonormal.
///
/// # Panics
/// A row that the kernels cannot hold, or one that FP8 keys would have transformed but that has no
/// Hadamard matrix. Both are checked when a model is loaded.
pub(crate) fn hadamard_factor(keys: u32, di: usize) -> f32 {
    assert!(
        di <= MOST_CHANNELS,
        "a key has {di} channels, at most {MOST_CHANNELS} fit"
    );
    assert!(
        keys != key_cache::FP8 || di.is_power_of_two() || di == 0,
        "a Hadamard transform of {di} channels, which is no power of two"
    );
    match di {
        0 => 1.0,
        _ => (di as f64).sqrt().recip() as f32,
    }
}

/// Operations of the transform of one row, its factor included.
pub(crate) fn hadamard_flops(keys: u32, di: usize) -> u64 {
    match keys {
        key_cache::FP8 => (di * (di.ilog2() as usize + 1)) as u64,
        _ => 0,
    }
}

/// Turns the first channels by `angles`, cosines, then sines.
pub(crate) fn rope(x: &mut [f64], angles: &[f64], interleaved: bool) {
    let half = angles.len() / 2;
    let (cosines, sines) = angles.split_at(half);
    for i in 0..half {
        let [first, second] = match interleaved {
            true => [2 * i, 2 * i + 1],
            false => [i, i + half],
        };
        let (a, b) = (x[first], x[second]);
        x[first] = a * cosines[i] - b * sines[i];
        x[second] = a * sines[i] + b * cosines[i];
    }
}

/// The product with Sylvester's matrix, `(-1)^popcount(i & j)`, times `factor`.
pub fn hadamard(x: &[f64], factor: f64) -> Vec<f64> {
    let signed = |i: usize, j: usize| match (i & j).count_ones() % 2 {
        0 => x[j],
        _ => -x[j],
    };
    let element = |i| (0..x.len()).map(|j| signed(i, j)).sum::<f64>() * factor;
    (0..x.len()).map(element).collect()
}
