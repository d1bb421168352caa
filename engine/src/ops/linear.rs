//! `y = W x` for every row of `x`.

use burn::Tensor;

use crate::cpu;
use crate::rows::Rows;
use crate::weight::Weight;

/// Applies several matrices that share their input: `[tokens, cols]` to `[tokens, rows]` each.
pub fn linear<const N: usize>(x: &Rows, weights: [&Weight; N]) -> [Rows; N] {
    match x {
        Rows::Host { data, width } => {
            let n = data.len() / width;
            let mut out = weights.map(|weight| vec![0.0; n * weight.rows]);
            let parts = weights.map(Weight::matrix);
            let mut into: Vec<&mut [f32]> = out.iter_mut().map(Vec::as_mut_slice).collect();
            cpu::linear(data, &parts, &mut into);
            let mut widths = weights.iter().map(|weight| weight.rows);
            out.map(|data| Rows::Host {
                data,
                width: widths.next().expect("one width a weight"),
            })
        }
        Rows::Tensor(x) => weights.map(|weight| Rows::Tensor(portable(x.clone(), weight))),
    }
}

/// The definition.
pub fn portable(x: Tensor<2>, weight: &Weight) -> Tensor<2> {
    let parts: Vec<_> = weight
        .slices()
        .iter()
        .map(|slice| x.clone().matmul(slice.clone().transpose()))
        .collect();
    match parts.len() {
        1 => parts.into_iter().next().expect("one part"),
        _ => Tensor::cat(parts, 1),
    }
}
