//! First half of a feed-forward, or of a token's experts, for few tokens.

use crate::kernel::{Cost, Dispatch, Kernel, Knob, Tuning, params};
use crate::pieces::{REDUCE, plain};
use crate::reference::{bound, dot, floats, set};
use crate::weights::{DTYPES, Matrices, WEIGHTS, bits, bytes, row_units};

/// `h = silu(gate x) * (up x)` of every slot whose expert is in the stack.
pub const KERNEL: Kernel = Kernel {
    name: "mlp_up",
    pieces: &[REDUCE, WEIGHTS, plain(include_str!("mlp_up.wgsl"))],
    bindings: &[
        "x",
        "experts",
        "gate",
        "gate_scales",
        "up",
        "up_scales",
        "h",
    ],
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

/// Most tokens of a launch.
pub const MOST_TOKENS: usize = 8;

params! {
    tokens: u32,
    slots: u32,
    width: u32,
    hidden: u32,
    first_expert: u32,
    n_experts: u32,
    row_units: u32,
    x_stride: u32,
}

/// Sizes. A dense feed-forward is a stack of one expert, `slots` 1 and `experts` all zero.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Type of the weights.
    pub dtype: u32,
    /// Rows of `x`, at most [`MOST_TOKENS`].
    pub tokens: usize,
    /// Experts of a token, shared ones included.
    pub slots: usize,
    /// Rows of an expert's `gate` and `up`.
    pub width: usize,
    /// Columns of them.
    pub hidden: usize,
    /// Id of the first expert that is bound.
    pub first_expert: usize,
    /// Experts that are bound.
    pub n_experts: usize,
    /// From a row of `x` to the next.
    pub x_stride: usize,
}

/// A workgroup a slot and block of rows.
///
/// # Panics
/// More tokens than [`MOST_TOKENS`].
pub fn dispatch(call: &Call, tuning: &Tuning) -> Dispatch {
    assert!(
        call.tokens <= MOST_TOKENS,
        "{} tokens are for mlp_up_tiled",
        call.tokens
    );
    let tokens = (call.tokens as u32).next_power_of_two();
    // As many rows as keep half of the GPU's registers free: units, decoded quads and sums are in them.
    let (wg, split, rows) = match (tuning.fat_threads, tokens, call.dtype) {
        (true, ..) => (16, 0, 4),
        (false, 1, 0..=3) => (64, 1, 4),
        (false, 1, _) => (64, 1, 2),
        (false, ..) => (64, 1, 1),
    };
    let group_rows = if split == 1 { rows } else { rows * wg };
    let units = row_units(call.dtype, call.hidden);
    let params = Params {
        tokens: call.tokens as u32,
        slots: call.slots as u32,
        width: call.width as u32,
        hidden: call.hidden as u32,
        first_expert: call.first_expert as u32,
        n_experts: call.n_experts as u32,
        row_units: units as u32,
        x_stride: call.x_stride as u32,
    };
    let entries = call.tokens * call.slots;
    Dispatch {
        kernel: &KERNEL,
        knobs: vec![
            ("DTYPE", call.dtype),
            ("TOKENS", tokens),
            ("ROWS", rows),
            ("SPLIT", split),
            ("WG", wg),
            ("RAGGED", u32::from(is_ragged(call.dtype, call.hidden))),
        ],
        subgroups: tuning.subgroups,
        params: bytemuck::bytes_of(&params).to_vec(),
        groups: [
            (call.width as u32).div_ceil(group_rows),
            entries.max(1) as u32,
            1,
        ],
        cost: cost(call),
    }
}

/// Whether the last unit of a row is not full.
pub(crate) fn is_ragged(dtype: u32, cols: usize) -> bool {
    !(cols * bits(dtype)).is_multiple_of(128)
}

/// As if all slots were the stack's, and tokens shared an expert only where there are too few.
fn cost(call: &Call) -> Cost {
    let entries = call.tokens * call.slots;
    let active = entries.min(call.n_experts) as u64;
    let x = 4 * (entries * call.hidden) as u64;
    Cost {
        read_bytes: active * 2 * bytes(call.dtype, call.width, call.hidden)
            + x
            + 4 * entries as u64,
        write_bytes: 4 * (entries * call.width) as u64,
        flops: 4 * (entries * call.width * call.hidden) as u64,
    }
}

fn reference(dispatch: &Dispatch, buffers: &mut [Vec<u32>]) {
    let [x, experts, gate, gate_scales, up, up_scales, h] = bound(buffers);
    let visits = visits(dispatch, experts);
    up_rows(dispatch, &visits, x, [gate, gate_scales, up, up_scales], h);
}

/// Expert of the stack that is bound, and slot; `None` if the stack has not this expert.
pub(crate) fn visit(dispatch: &Dispatch, expert: u32, slot: usize) -> Option<[usize; 2]> {
    let expert = expert.wrapping_sub(dispatch.word("first_expert"));
    (expert < dispatch.word("n_experts")).then_some([expert as usize, slot])
}

/// All of them, in the order of the slots.
pub(crate) fn visits(dispatch: &Dispatch, experts: &[u32]) -> Vec<[usize; 2]> {
    (0..dispatch.size("tokens") * dispatch.size("slots"))
        .filter_map(|slot| visit(dispatch, experts[slot], slot))
        .collect()
}

/// Leaves `h` of some slots.
pub(crate) fn up_rows(
    dispatch: &Dispatch,
    visits: &[[usize; 2]],
    x: &[u32],
    [gate, gate_scales, up, up_scales]: [&[u32]; 4],
    h: &mut [u32],
) {
    let [slots, width, hidden, x_stride] = dispatch.sizes(["slots", "width", "hidden", "x_stride"]);
    let gate = Matrices::new(dispatch, gate, gate_scales, [width, hidden]);
    let up = Matrices::new(dispatch, up, up_scales, [width, hidden]);
    for &[expert, slot] in visits {
        let x = floats(x, slot / slots * x_stride, hidden);
        for row in 0..width {
            let gate = dot(&gate.row_of(expert, row), &x);
            let up = dot(&up.row_of(expert, row), &x);
            let silu = gate / (1.0 + (-gate).exp());
            set(h, slot * width + row, silu * up);
        }
    }
}
