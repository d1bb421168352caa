//! RMSNorm `x / sqrt(mean(x²) + eps) * w` and LayerNorm `(x − mean) / sqrt(var + eps) * w + b`,
//! row by row, all in `f32`. Source: spec 3.1 and 3.5.

use burn::Tensor;

use crate::cpu;
use crate::rows::Rows;
use crate::weight::Vector;

/// Scales each row of `x` `[tokens, width]` to unit root mean square, then by `weight`.
pub fn rms_norm(x: &Rows, weight: &Vector, eps: f32) -> Rows {
    match x {
        Rows::Host { data, width } => {
            let mut out = vec![0.0; data.len()];
            cpu::rms_norm(data, &weight.host, eps, &mut out);
            Rows::Host {
                data: out,
                width: *width,
            }
        }
        Rows::Tensor(x) => Rows::Tensor(rms_norm_portable(x.clone(), weight.tensor(), eps)),
    }
}

/// Shifts each row to mean 0, scales it to variance 1, then by `weight`, and adds `bias`.
pub fn layer_norm(x: &Rows, weight: &Vector, bias: &Vector, eps: f32) -> Rows {
    match x {
        Rows::Host { data, width } => {
            let mut out = vec![0.0; data.len()];
            cpu::layer_norm(data, &weight.host, &bias.host, eps, &mut out);
            Rows::Host {
                data: out,
                width: *width,
            }
        }
        Rows::Tensor(x) => Rows::Tensor(layer_norm_portable(
            x.clone(),
            weight.tensor(),
            bias.tensor(),
            eps,
        )),
    }
}

/// The definition of [`rms_norm`].
pub fn rms_norm_portable(x: Tensor<2>, weight: Tensor<1>, eps: f32) -> Tensor<2> {
    let scale = (x.clone().square().mean_dim(1) + eps).sqrt().recip();
    x * scale * weight.unsqueeze()
}

/// The definition of [`layer_norm`].
pub fn layer_norm_portable(
    x: Tensor<2>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    eps: f32,
) -> Tensor<2> {
    let centred = x.clone() - x.mean_dim(1);
    let scale = (centred.clone().square().mean_dim(1) + eps).sqrt().recip();
    centred * scale * weight.unsqueeze() + bias.unsqueeze()
}
