//! Weighted sum of what a token's experts have made of it.

use crate::kernel::{Cost, Dispatch, Kernel, Knob, MAX_GROUPS, Tuning, params};
use crate::pieces::plain;
use crate::reference::{bound, float, set};

/// `y = sum of weight * row` over a token's slots.
pub const KERNEL: Kernel = Kernel {
    name: "combine",
    pieces: &[plain(include_str!("combine.wgsl"))],
    bindings: &["slots_out", "weights", "y"],
    knobs: &[Knob::new("WG", WG, &[WG])],
    params: Params::LAYOUT,
    reference,
};

const WG: u32 = 64;

params! {
    tokens: u32,
    slots: u32,
    hidden: u32,
    padding: u32,
}

/// Sizes.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Rows of `y`.
    pub tokens: usize,
    /// Experts of a token, shared ones included.
    pub slots: usize,
    /// Columns.
    pub hidden: usize,
}

/// A lane a token and four columns.
///
/// # Panics
/// More tokens than a launch has workgroups.
pub fn dispatch(call: &Call, tuning: &Tuning) -> Dispatch {
    assert!(
        call.tokens <= MAX_GROUPS as usize,
        "{} tokens are too many for one launch",
        call.tokens
    );
    let params = Params {
        tokens: call.tokens as u32,
        slots: call.slots as u32,
        hidden: call.hidden as u32,
        padding: 0,
    };
    let n = (call.tokens * call.slots) as u64;
    Dispatch {
        kernel: &KERNEL,
        knobs: vec![],
        subgroups: tuning.subgroups,
        params: bytemuck::bytes_of(&params).to_vec(),
        groups: [
            (call.hidden as u32 / 4).div_ceil(WG),
            call.tokens.max(1) as u32,
            1,
        ],
        cost: Cost {
            read_bytes: 4 * n * (call.hidden as u64 + 1),
            write_bytes: 4 * (call.tokens * call.hidden) as u64,
            flops: 2 * n * call.hidden as u64,
        },
    }
}

fn reference(dispatch: &Dispatch, buffers: &mut [Vec<u32>]) {
    let [slots_out, weights, y] = bound(buffers);
    let [tokens, slots, hidden] = dispatch.sizes(["tokens", "slots", "hidden"]);
    for token in 0..tokens {
        for column in 0..hidden {
            let of_slot = |slot| float(weights, slot) * float(slots_out, slot * hidden + column);
            let sum = (token * slots..(token + 1) * slots).map(of_slot).sum();
            set(y, token * hidden + column, sum);
        }
    }
}
