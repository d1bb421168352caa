//! Rows of tables, products with matrices, and copies.

use super::numbers::{dot, floats, set, set_all};
use super::packed::Weights;
use super::{Asked, bound};

/// `y[t] = table[ids[t] - first_row]`, other ids left alone.
pub(super) fn embed(asked: &Asked, buffers: &mut [Vec<u32>]) {
    let [ids, table, scales, y] = bound(buffers);
    let (width, n_rows) = (asked.size("width"), asked.size("n_rows"));
    let table = Weights::new(asked, table, scales, [n_rows, width]);
    for (token, id) in ids.iter().enumerate().take(asked.size("tokens")) {
        let row = id.wrapping_sub(asked.u32("first_row")) as usize;
        if row < n_rows {
            set_all(y, token * width, &table.row(row));
        }
    }
}

/// `y[t, r] = sum over c of x[t, c] * W[r, c]`: both `matvec` and `matmul`.
pub(super) fn linear(asked: &Asked, buffers: &mut [Vec<u32>]) {
    let [x, w, scales, y] = bound(buffers);
    let (rows, cols) = (asked.size("rows"), asked.size("cols"));
    let w = Weights::new(asked, w, scales, [rows, cols]);
    let inputs: Vec<_> = (0..asked.size("tokens"))
        .map(|token| token * asked.size("x_stride") + asked.size("x_offset"))
        .map(|from| floats(x, from, cols))
        .collect();
    for row in 0..rows {
        let weights = w.row(row);
        for (token, x) in inputs.iter().enumerate() {
            let to = token * asked.size("y_stride") + asked.size("y_offset") + row;
            set(y, to, dot(x, &weights));
        }
    }
}

/// `to[to_offset + i] = from[from_offset + i]`.
pub(super) fn copy_words(asked: &Asked, buffers: &mut [Vec<u32>]) {
    let [from, to] = bound(buffers);
    let n = asked.size("n");
    let from = &from[asked.size("from_offset")..][..n];
    to[asked.size("to_offset")..][..n].copy_from_slice(from);
}
