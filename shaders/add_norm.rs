//! The residual sum and the RMSNorm behind it.

use crate::kernel::{Cost, Dispatch, Kernel, Knob, Tuning, params, spread};
use crate::pieces::{REDUCE, plain};
use crate::reference::{bound, float, floats, rms_norm, set, set_all};

/// `x += delta`, if asked, and `y = x / sqrt(mean(x²) + eps) * weight`, row by row.
pub const KERNEL: Kernel = Kernel {
    name: "add_norm",
    pieces: &[REDUCE, plain(include_str!("add_norm.wgsl"))],
    bindings: &["x", "delta", "weight", "y"],
    knobs: &[
        Knob::new("WG", 256, &[32, 256]),
        Knob::new("ADD", 1, &[0, 1]),
    ],
    params: Params::LAYOUT,
    reference,
};

params! {
    tokens: u32,
    quads: u32,
    y_stride: u32,
    y_offset: u32,
    width: f32,
    eps: f32,
}

/// The sizes of one call. All but `tokens` are multiples of 4.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Whether `delta` is added to `x`, which then holds the sum; else both are left alone.
    pub add: bool,
    /// Rows of `x`, `delta` and `y`.
    pub tokens: usize,
    /// Elements of a row of `x` and `delta`, and of `weight`.
    pub width: usize,
    /// Elements between the starts of two rows of `y`.
    pub y_stride: usize,
    /// Where in its row of `y` the result starts.
    pub y_offset: usize,
    /// Added to the mean of squares.
    pub eps: f32,
}

/// Plans the launch.
pub fn dispatch(call: &Call, tuning: &Tuning) -> Dispatch {
    let params = Params {
        tokens: call.tokens as u32,
        quads: (call.width / 4) as u32,
        y_stride: (call.y_stride / 4) as u32,
        y_offset: (call.y_offset / 4) as u32,
        width: call.width as f32,
        eps: call.eps,
    };
    let [x, y] = spread(call.tokens as u32);
    let row_bytes = 4 * call.width as u64;
    let all_bytes = row_bytes * call.tokens as u64;
    let twice_if_add = if call.add { 2 } else { 1 };
    Dispatch {
        kernel: &KERNEL,
        knobs: vec![
            ("WG", if tuning.fat_threads { 32 } else { 256 }),
            ("ADD", u32::from(call.add)),
        ],
        subgroups: tuning.subgroups,
        params: bytemuck::bytes_of(&params).to_vec(),
        groups: [x, y, 1],
        cost: Cost {
            read_bytes: twice_if_add * all_bytes + row_bytes,
            write_bytes: twice_if_add * all_bytes,
            flops: (3 + twice_if_add) * all_bytes / 4,
        },
    }
}

fn reference(dispatch: &Dispatch, buffers: &mut [Vec<u32>]) {
    let [x, delta, weight, y] = bound(buffers);
    let [width, y_stride, y_offset] = dispatch.quads(["quads", "y_stride", "y_offset"]);
    let weight = floats(weight, 0, width);
    for token in 0..dispatch.size("tokens") {
        let row = token * width;
        if dispatch.knob("ADD") == 1 {
            for at in row..row + width {
                let sum = float(x, at) + float(delta, at);
                set(x, at, sum);
            }
        }
        let normed = rms_norm(&floats(x, row, width), &weight, dispatch.float("eps"));
        set_all(y, token * y_stride + y_offset, &normed);
    }
}
