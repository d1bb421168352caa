//! Second half of a feed-forward, or of a token's experts, for few tokens.

use crate::kernel::{Cost, Dispatch, Kernel, Knob, Tuning, params};
use crate::mlp_up::{MOST_TOKENS, is_ragged, visits};
use crate::pieces::{REDUCE, plain};
use crate::reference::{bound, dot, float, floats, set_all};
use crate::weights::{DTYPES, Matrices, WEIGHTS, bytes, row_units};

/// `y = sum of weight * down h` over a token's slots whose expert is in the stack.
pub const KERNEL: Kernel = Kernel {
    name: "mlp_down",
    pieces: &[REDUCE, WEIGHTS, plain(include_str!("mlp_down.wgsl"))],
    bindings: &["h", "experts", "weights", "down", "down_scales", "y"],
    knobs: &[
        Knob::new("DTYPE", 0, DTYPES),
        Knob::new("TOKENS", 1, &[1, 2, 4, 8]),
        Knob::new("ROWS", 4, &[1, 2, 4]),
        Knob::new("SPLIT", 1, &[0, 1]),
        Knob::new("WG", 64, &[16, 64]),
        Knob::new("RAGGED", 0, &[0, 1]),
    ],
    params: Params::LAYOUT,
    reference,
};

/// Most slots of all tokens together, an array in workgroup memory.
pub const MOST_SLOTS: usize = 256;

params! {
    tokens: u32,
    slots: u32,
    width: u32,
    hidden: u32,
    first_expert: u32,
    n_experts: u32,
    row_units: u32,
    accumulate: u32,
}

/// Sizes. A dense feed-forward is a stack of one expert, `slots` 1, `experts` all zero and `weights`
/// all one.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Type of the weights.
    pub dtype: u32,
    /// Rows of `y`, at most [`MOST_TOKENS`].
    pub tokens: usize,
    /// Experts of a token, shared ones included.
    pub slots: usize,
    /// Columns of an expert's `down`.
    pub width: usize,
    /// Rows of it.
    pub hidden: usize,
    /// Id of the first expert that is bound.
    pub first_expert: usize,
    /// Experts that are bound.
    pub n_experts: usize,
    /// Whether `y` holds a part of the sum already: false for the first slice of a stack.
    pub accumulate: bool,
}

/// A workgroup a block of rows of `y`, for all tokens.
///
/// # Panics
/// More tokens than [`MOST_TOKENS`] or more slots than [`MOST_SLOTS`].
pub fn dispatch(call: &Call, tuning: &Tuning) -> Dispatch {
    let entries = call.tokens * call.slots;
    assert!(
        call.tokens <= MOST_TOKENS && entries <= MOST_SLOTS,
        "{} tokens with {} slots are for mlp_down_tiled",
        call.tokens,
        call.slots
    );
    let tokens = (call.tokens as u32).next_power_of_two();
    let (wg, split, rows) = match (tuning.fat_threads, tokens) {
        (true, _) => (16, 0, 4),
        (false, 1) => (64, 1, 4),
        (false, _) => (64, 1, 2),
    };
    let group_rows = if split == 1 { rows } else { rows * wg };
    let params = Params {
        tokens: call.tokens as u32,
        slots: call.slots as u32,
        width: call.width as u32,
        hidden: call.hidden as u32,
        first_expert: call.first_expert as u32,
        n_experts: call.n_experts as u32,
        row_units: row_units(call.dtype, call.width) as u32,
        accumulate: call.accumulate.into(),
    };
    Dispatch {
        kernel: &KERNEL,
        knobs: vec![
            ("DTYPE", call.dtype),
            ("TOKENS", tokens),
            ("ROWS", rows),
            ("SPLIT", split),
            ("WG", wg),
            ("RAGGED", u32::from(is_ragged(call.dtype, call.width))),
        ],
        subgroups: tuning.subgroups,
        params: bytemuck::bytes_of(&params).to_vec(),
        groups: [(call.hidden as u32).div_ceil(group_rows), 1, 1],
        cost: cost(call),
    }
}

/// As if all slots were the stack's, and tokens shared an expert only where there are too few.
fn cost(call: &Call) -> Cost {
    let entries = call.tokens * call.slots;
    let active = entries.min(call.n_experts) as u64;
    let y = 4 * (call.tokens * call.hidden) as u64;
    let h = 4 * (entries * call.width) as u64;
    Cost {
        read_bytes: active * bytes(call.dtype, call.hidden, call.width)
            + h
            + 8 * entries as u64
            + if call.accumulate { y } else { 0 },
        write_bytes: y,
        flops: 2 * (entries * call.width * call.hidden) as u64,
    }
}

fn reference(dispatch: &Dispatch, buffers: &mut [Vec<u32>]) {
    let [h, experts, weights, down, scales, y] = bound(buffers);
    let [tokens, slots, width, hidden] = dispatch.sizes(["tokens", "slots", "width", "hidden"]);
    let down = Matrices::new(dispatch, down, scales, [hidden, width]);
    let mut sums = match dispatch.word("accumulate") {
        0 => vec![0.0; tokens * hidden],
        _ => floats(y, 0, tokens * hidden),
    };
    for [expert, slot] in visits(dispatch, experts) {
        let h = floats(h, slot * width, width);
        for (row, sum) in sums[slot / slots * hidden..][..hidden]
            .iter_mut()
            .enumerate()
        {
            *sum += float(weights, slot) * dot(&down.row_of(expert, row), &h);
        }
    }
    set_all(y, 0, &sums);
}
