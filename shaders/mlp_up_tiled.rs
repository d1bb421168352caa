//! First half of a feed-forward, or of the tokens' experts, for many tokens.

use crate::expert_plan::{self, max_tiles, planned};
use crate::kernel::{Cost, Dispatch, Kernel, Knob, Tuning, params};
use crate::mlp_up::{is_ragged, up_rows};
use crate::pieces::plain;
use crate::reference::bound;
use crate::weights::{DTYPES, WEIGHTS, bytes, row_units};

/// `h = silu(gate x) * (up x)` of every slot whose expert is in the stack.
pub const KERNEL: Kernel = Kernel {
    name: "mlp_up_tiled",
    pieces: &[WEIGHTS, plain(include_str!("mlp_up_tiled.wgsl"))],
    bindings: &["x", "plan", "gate", "gate_scales", "up", "up_scales", "h"],
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
    slots: u32,
    width: u32,
    hidden: u32,
    first_expert: u32,
    n_experts: u32,
    row_units: u32,
    x_stride: u32,
    tiles: u32,
}

/// Sizes.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Type of the weights.
    pub dtype: u32,
    /// What the plan was made of.
    pub plan: expert_plan::Call,
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

/// A workgroup a tile of the plan and block of rows.
pub fn dispatch(call: &Call, tuning: &Tuning) -> Dispatch {
    let (wg, rows) = if tuning.fat_threads {
        (16, 64)
    } else {
        (256, 64)
    };
    let tiles = max_tiles(&call.plan, tuning) as u32;
    let params = Params {
        slots: call.plan.slots as u32,
        width: call.width as u32,
        hidden: call.hidden as u32,
        first_expert: call.first_expert as u32,
        n_experts: call.n_experts as u32,
        row_units: row_units(call.dtype, call.hidden) as u32,
        x_stride: call.x_stride as u32,
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
                u32::from(steps_are_ragged(call.dtype, call.hidden)),
            ),
        ],
        subgroups: tuning.subgroups,
        params: bytemuck::bytes_of(&params).to_vec(),
        groups: [(call.width as u32).div_ceil(rows), tiles, 1],
        cost: Cost {
            read_bytes: used * 2 * bytes(call.dtype, call.width, call.hidden)
                + slots * (call.hidden as u64 + 1) * 4
                + 16 * u64::from(tiles),
            write_bytes: 4 * slots * call.width as u64,
            flops: 4 * slots * (call.width * call.hidden) as u64,
        },
    }
}

/// Whether the last unit of a row is not full, or the last step of 16 columns.
pub(crate) fn steps_are_ragged(dtype: u32, cols: usize) -> bool {
    is_ragged(dtype, cols) || !cols.is_multiple_of(16)
}

/// Slots and tiles that are some of `n_experts`' experts, if all experts of the plan have as many.
pub(crate) fn spread_evenly(
    plan: &expert_plan::Call,
    n_experts: usize,
    tuning: &Tuning,
) -> (u64, u64) {
    let slots = (plan.n() * n_experts / plan.n_experts) as u64;
    let active = slots.min(n_experts as u64);
    let tiles = slots.div_ceil(expert_plan::tile(tuning).into());
    (slots, tiles.max(active))
}

fn reference(dispatch: &Dispatch, buffers: &mut [Vec<u32>]) {
    let [x, plan, gate, gate_scales, up, up_scales, h] = bound(buffers);
    let visits = planned(dispatch, plan);
    up_rows(dispatch, &visits, x, [gate, gate_scales, up, up_scales], h);
}
