//! Second half of a feed-forward, or of the tokens' experts, for many tokens.

use crate::expert_plan::{self, max_tiles, planned};
use crate::kernel::{Cost, Dispatch, Kernel, Knob, Tuning, params};
use crate::mlp_up_tiled::{spread_evenly, steps_are_ragged};
use crate::pieces::plain;
use crate::reference::{bound, dot, floats, set};
use crate::weights::{DTYPES, Matrices, WEIGHTS, bytes, row_units};

/// `slots_out = down h` of every slot whose expert is in the stack.
pub const KERNEL: Kernel = Kernel {
    name: "mlp_down_tiled",
    pieces: &[WEIGHTS, plain(include_str!("mlp_down_tiled.wgsl"))],
    bindings: &["h", "plan", "down", "down_scales", "slots_out"],
    knobs: &[
        Knob::new("DTYPE", 0, DTYPES),
        Knob::new("TILE", 64, &[8, 64]),
        Knob::new("WG", 256, &[16, 256]),
        Knob::new("RAGGED", 0, &[0, 1]),
    ],
    params: Params::LAYOUT,
    reference,
};

params! {
    width: u32,
    hidden: u32,
    first_expert: u32,
    n_experts: u32,
    row_units: u32,
    tiles: u32,
}

/// Sizes.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Type of the weights.
    pub dtype: u32,
    /// What the plan was made of.
    pub plan: expert_plan::Call,
    /// Columns of an expert's `down`.
    pub width: usize,
    /// Rows of it.
    pub hidden: usize,
    /// Id of the first expert that is bound.
    pub first_expert: usize,
    /// Experts that are bound.
    pub n_experts: usize,
}

/// A workgroup a tile of the plan and block of rows.
pub fn dispatch(call: &Call, tuning: &Tuning) -> Dispatch {
    let (wg, rows) = if tuning.fat_threads {
        (16, 64)
    } else {
        (256, 128)
    };
    let tiles = max_tiles(&call.plan, tuning) as u32;
    let params = Params {
        width: call.width as u32,
        hidden: call.hidden as u32,
        first_expert: call.first_expert as u32,
        n_experts: call.n_experts as u32,
        row_units: row_units(call.dtype, call.width) as u32,
        tiles,
    };
    let (slots, used) = spread_evenly(&call.plan, call.n_experts, tuning);
    Dispatch {
        kernel: &KERNEL,
        knobs: vec![
            ("DTYPE", call.dtype),
            ("TILE", expert_plan::tile(tuning)),
            ("WG", wg),
            (
                "RAGGED",
                u32::from(steps_are_ragged(call.dtype, call.width)),
            ),
        ],
        subgroups: tuning.subgroups,
        params: bytemuck::bytes_of(&params).to_vec(),
        groups: [(call.hidden as u32).div_ceil(rows), tiles, 1],
        cost: Cost {
            read_bytes: used * bytes(call.dtype, call.hidden, call.width)
                + slots * (call.width as u64 + 1) * 4
                + 16 * u64::from(tiles),
            write_bytes: 4 * slots * call.hidden as u64,
            flops: 2 * slots * (call.width * call.hidden) as u64,
        },
    }
}

fn reference(dispatch: &Dispatch, buffers: &mut [Vec<u32>]) {
    let [h, plan, down, scales, slots_out] = bound(buffers);
    let [width, hidden] = dispatch.sizes(["width", "hidden"]);
    let down = Matrices::new(dispatch, down, scales, [hidden, width]);
    for [expert, slot] in planned(dispatch, plan) {
        let h = floats(h, slot * width, width);
        for row in 0..hidden {
            let sum = dot(&down.row_of(expert, row), &h);
            set(slots_out, slot * hidden + row, sum);
        }
    }
}
