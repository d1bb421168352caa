//! `y = W x` for several matrices at once, cut into pieces for all workers.
//!
//! A piece is a run of rows of one matrix: each row is read once, as stored, and meets all tokens.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::matrix::Matrix;
use super::simd::{dispatch, dots};

/// One product `[rows, tokens]` to be computed: transposed, so that a run of rows is one slice.
pub(super) struct Job<'a> {
    pub matrix: Matrix<'a>,
    /// `[tokens, cols]`.
    pub x: &'a [f32],
    /// `[rows, tokens]`.
    pub out: &'a mut [f32],
}

/// Multiplications below which a second worker costs more than it gives.
const ALONE: usize = 1 << 15;

/// Pieces for each worker, so that one that is late has less to finish.
const PIECES: usize = 4;

/// Computes all jobs.
pub(super) fn run(jobs: Vec<Job>) {
    let products = |job: &Job| job.out.len() * job.matrix.cols;
    let total: usize = jobs.iter().map(products).sum();
    if total <= ALONE {
        for job in jobs {
            piece(&job.matrix, 0, job.x, job.out);
        }
        return;
    }
    let target = total
        .div_ceil(PIECES * rayon::current_num_threads())
        .max(ALONE / 2);
    let mut pieces = Vec::new();
    for Job { matrix, x, out } in jobs {
        let n = x.len() / matrix.cols;
        if n == 0 || matrix.rows == 0 {
            continue;
        }
        // Multiples of 8 keep the tiles of a single token full.
        let rows = target.div_ceil(n * matrix.cols).next_multiple_of(8);
        for (i, out) in out.chunks_mut(rows * n).enumerate() {
            pieces.push((matrix, i * rows, x, out));
        }
    }
    pieces
        .into_par_iter()
        .with_max_len(1)
        .for_each(|(matrix, first, x, out)| piece(&matrix, first, x, out));
}

/// Applies matrices that share their input `x` `[tokens, cols]`: `into[i]` is `[tokens, rows]`.
pub fn linear(x: &[f32], matrices: &[Matrix], into: &mut [&mut [f32]]) {
    let n = matrices.first().map_or(0, |matrix| x.len() / matrix.cols);
    if n == 1 {
        run(jobs_of(x, matrices, into.iter_mut().map(|out| &mut **out)));
        return;
    }
    let mut transposed: Vec<Vec<f32>> = matrices
        .iter()
        .map(|matrix| vec![0.0; matrix.rows * n])
        .collect();
    run(jobs_of(
        x,
        matrices,
        transposed.iter_mut().map(Vec::as_mut_slice),
    ));
    for (from, into) in transposed.iter().zip(into) {
        transpose(from, n, into);
    }
}

fn jobs_of<'a>(
    x: &'a [f32],
    matrices: &[Matrix<'a>],
    outs: impl Iterator<Item = &'a mut [f32]>,
) -> Vec<Job<'a>> {
    matrices
        .iter()
        .zip(outs)
        .map(|(&matrix, out)| Job { matrix, x, out })
        .collect()
}

/// `into` `[n, rows]` from `from` `[rows, n]`.
pub(super) fn transpose(from: &[f32], n: usize, into: &mut [f32]) {
    let rows = from.len() / n.max(1);
    if rows == 0 {
        return;
    }
    // Tiles of 8 columns and 16 rows: columns a power of two apart fall into one set of the
    // first-level cache, which holds 8 lines or more.
    const COLUMNS: usize = 8;
    const ROWS: usize = 16;
    into.par_chunks_mut(COLUMNS * rows)
        .with_min_len(8)
        .enumerate()
        .for_each(|(block, into)| {
            let first = block * COLUMNS;
            for row in (0..rows).step_by(ROWS) {
                for (column, into) in into.chunks_exact_mut(rows).enumerate() {
                    let from = from[row * n..].chunks_exact(n);
                    for (value, from) in into[row..].iter_mut().take(ROWS).zip(from) {
                        *value = from[first + column];
                    }
                }
            }
        });
}

/// Rows `first..` of `matrix` times all of `x`, as many as `out` `[rows, tokens]` holds.
fn piece(matrix: &Matrix, first: usize, x: &[f32], out: &mut [f32]) {
    dispatch(Piece {
        matrix,
        first,
        x,
        out,
    });
}

struct Piece<'a> {
    matrix: &'a Matrix<'a>,
    first: usize,
    x: &'a [f32],
    out: &'a mut [f32],
}

impl WithSimd for Piece<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // Tiles that fill the registers without spilling: rows × tokens, and rows of one token.
        match S::F32_LANES {
            16 => self.tiles::<S, 1, 4, 4, 8>(simd),
            8 => self.tiles::<S, 2, 2, 2, 4>(simd),
            4 => self.tiles::<S, 4, 2, 2, 4>(simd),
            _ => self.tiles::<S, 16, 1, 1, 1>(simd),
        }
    }
}

impl Piece<'_> {
    #[inline(always)]
    fn tiles<S: Simd, const P: usize, const R: usize, const T: usize, const ALONE: usize>(
        self,
        simd: S,
    ) {
        let Self {
            matrix,
            first,
            x,
            out,
        } = self;
        let cols = matrix.cols;
        let n = x.len() / cols;
        let rows = out.len() / n;
        let at_once = if n == 1 { ALONE } else { R };
        let mut scratch = vec![
            0.0;
            if matrix.is_in_place() {
                0
            } else {
                at_once * cols
            }
        ];
        let mut row = 0;
        while row < rows {
            let here = at_once.min(rows - row);
            for (r, into) in scratch.chunks_exact_mut(cols).take(here).enumerate() {
                matrix.expand(first + row + r, into);
            }
            let weights = |r: usize| {
                // Rows behind the last repeat it; what they give is thrown away.
                let r = r.min(here - 1);
                if matrix.is_in_place() {
                    matrix.in_place(first + row + r)
                } else {
                    &scratch[r * cols..][..cols]
                }
            };
            let out = &mut out[row * n..][..here * n];
            if n == 1 {
                let sums = dots::<S, P, ALONE, 1>(simd, std::array::from_fn(weights), [x]);
                for (out, [sum]) in out.iter_mut().zip(sums) {
                    *out = sum;
                }
            } else {
                let weights: [&[f32]; R] = std::array::from_fn(weights);
                let mut token = 0;
                while token < n {
                    let tokens = T.min(n - token);
                    let x: [&[f32]; T] =
                        std::array::from_fn(|t| &x[(token + t.min(tokens - 1)) * cols..][..cols]);
                    let sums = dots::<S, P, R, T>(simd, weights, x);
                    for (out, sums) in out.chunks_exact_mut(n).zip(sums) {
                        out[token..token + tokens].copy_from_slice(&sums[..tokens]);
                    }
                    token += T;
                }
            }
            row += here;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::matrix::Dtype;
    use super::*;

    fn numbers(n: usize, seed: f32) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * 0.37 + seed).sin()).collect()
    }

    /// Worst case 300 products, each rounded once in a lane of 19: 20 roundings of 6e-8 of a sum of
    /// magnitudes of at most 300.
    const ABSOLUTE: f64 = 4e-4;

    #[test]
    fn products_are_right_and_a_token_does_not_depend_on_its_company() {
        for (rows, cols, n) in [
            (1, 1, 1),
            (9, 17, 3),
            (33, 300, 5),
            (64, 128, 17),
            (4, 16, 2),
        ] {
            let weights = numbers(rows * cols, 0.1);
            let bytes: &[u8] = bytemuck::cast_slice(&weights);
            let matrix = Matrix::new(bytes, Dtype::F32, rows, cols, None);
            let x = numbers(n * cols, 0.7);
            let mut all = vec![f32::NAN; n * rows];
            linear(&x, &[matrix], &mut [&mut all]);
            for token in 0..n {
                let mut alone = vec![f32::NAN; rows];
                let x = &x[token * cols..][..cols];
                linear(x, &[matrix], &mut [&mut alone]);
                assert_eq!(alone, all[token * rows..][..rows]);
                for (row, got) in alone.iter().enumerate() {
                    let row = &weights[row * cols..][..cols];
                    let want: f64 = row
                        .iter()
                        .zip(x)
                        .map(|(w, x)| f64::from(*w) * f64::from(*x))
                        .sum();
                    assert!(
                        (f64::from(*got) - want).abs() <= ABSOLUTE,
                        "{got} is not {want}"
                    );
                }
            }
        }
    }

    #[test]
    fn stored_types_give_the_bits_of_their_expansion() {
        let (rows, cols, n) = (13, 260, 3);
        let codes: Vec<u8> = (0..rows * cols)
            .map(|i| (i * 37 % 0x7f) as u8 | ((i as u8 & 1) << 7))
            .collect();
        let scales: Vec<f32> = (0..3).map(|i| 2.0_f32.powi(i - 9)).collect();
        let halves: Vec<u8> = (0..rows * cols)
            .flat_map(|i| half::bf16::from_f32((i as f32).sin()).to_le_bytes())
            .collect();
        let x = numbers(n * cols, 0.2);
        for matrix in [
            Matrix::new(&codes, Dtype::F8E4M3, rows, cols, Some(&scales)),
            Matrix::new(&halves, Dtype::BF16, rows, cols, None),
            Matrix::new(&halves, Dtype::F16, rows, cols, None),
        ] {
            let mut floats = vec![0.0; rows * cols];
            for (row, into) in floats.chunks_exact_mut(cols).enumerate() {
                matrix.row_to_f32(row, into);
            }
            let expanded = Matrix::new(bytemuck::cast_slice(&floats), Dtype::F32, rows, cols, None);
            let (mut got, mut want) = (vec![0.0; n * rows], vec![1.0; n * rows]);
            linear(&x, &[matrix], &mut [&mut got]);
            linear(&x, &[expanded], &mut [&mut want]);
            assert_eq!(got, want);
        }
    }
}
