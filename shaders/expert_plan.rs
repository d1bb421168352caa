//! Which slots go through which expert, for many tokens: a stable counting sort, cut into tiles.
//!
//! A plan is `[tiles, 4]` words (expert, first, count, 0), then the slots `[n]` ordered by expert:
//! a tile is `count` of them from `first` on. Tiles may be empty; `first` counts from the list's start.

use crate::kernel::{Cost, Dispatch, Kernel, Knob, Tuning, layout};
use crate::pieces::plain;

/// The plan of a run of slots.
pub const KERNEL: Kernel = Kernel {
    name: "expert_plan",
    pieces: &[plain(include_str!("expert_plan.wgsl"))],
    bindings: &["experts", "plan"],
    knobs: &[Knob {
        name: "WG",
        default: 256,
        values: &[32, 256],
    }],
    params: layout!(Params {
        n,
        n_experts,
        tile,
        tiles,
    }),
};

/// Sizes of a launch, as the kernel reads them.
#[repr(C)]
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    n: u32,
    n_experts: u32,
    tile: u32,
    tiles: u32,
}

/// Sizes. A dense feed-forward has one expert and one slot a token.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Rows.
    pub tokens: usize,
    /// Experts of a token, shared ones included.
    pub slots: usize,
    /// Experts in all, shared ones included; ids at and beyond it are left out.
    pub n_experts: usize,
}

impl Call {
    /// Slots of all tokens.
    pub fn n(&self) -> usize {
        self.tokens * self.slots
    }
}

/// Most slots in a tile: what `mlp_up_tiled` and `mlp_down_tiled` are compiled for.
pub fn tile(tuning: &Tuning) -> u32 {
    if tuning.fat_threads { 8 } else { 64 }
}

/// Tiles of a plan, empty ones included: workgroups of the kernels that walk through it.
pub fn max_tiles(call: &Call, tuning: &Tuning) -> usize {
    call.n() / tile(tuning) as usize + call.n_experts
}

/// Words of a plan.
pub fn plan_words(call: &Call, tuning: &Tuning) -> usize {
    4 * max_tiles(call, tuning) + call.n()
}

/// One workgroup an expert.
pub fn dispatch(call: &Call, tuning: &Tuning) -> Dispatch {
    let params = Params {
        n: call.n() as u32,
        n_experts: call.n_experts as u32,
        tile: tile(tuning),
        tiles: max_tiles(call, tuning) as u32,
    };
    Dispatch {
        kernel: &KERNEL,
        knobs: vec![("WG", if tuning.fat_threads { 32 } else { 256 })],
        subgroups: tuning.subgroups,
        params: bytemuck::bytes_of(&params).to_vec(),
        groups: [call.n_experts as u32, 1, 1],
        cost: Cost {
            read_bytes: 4 * call.n() as u64,
            write_bytes: 4 * plan_words(call, tuning) as u64,
            flops: 0,
        },
    }
}
