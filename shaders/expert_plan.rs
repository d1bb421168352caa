//! Which slots go through which expert, for many tokens: a stable counting sort, cut into tiles.
//!
//! A plan is `[tiles, 4]` words (expert, first, count, 0), then the slots `[n]` ordered by expert:
//! a tile is `count` of them from `first` on. Tiles may be empty; `first` counts from the list's start.

use crate::kernel::{Cost, Dispatch, Kernel, Knob, Tuning, params};
use crate::mlp_up::visit;
use crate::pieces::plain;
use crate::reference::bound;

/// The plan of a run of slots.
pub const KERNEL: Kernel = Kernel {
    name: "expert_plan",
    pieces: &[plain(include_str!("expert_plan.wgsl"))],
    bindings: &["experts", "plan"],
    knobs: &[Knob::new("WG", 256, &[32, 256])],
    params: Params::LAYOUT,
    reference,
};

params! {
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

fn reference(dispatch: &Dispatch, buffers: &mut [Vec<u32>]) {
    let [experts, plan] = bound(buffers);
    let [n, n_experts, tile, tiles] = dispatch.sizes(["n", "n_experts", "tile", "tiles"]);
    let before = |expert| experts[..n].iter().filter(|&&its| its < expert).count();
    let first_tile = |expert| before(expert) / tile + expert as usize;
    for expert in 0..n_experts as u32 {
        let slots = (0..n as u32).filter(|&slot| experts[slot as usize] == expert);
        let own: Vec<u32> = slots.collect();
        plan[4 * tiles + before(expert)..][..own.len()].copy_from_slice(&own);

        // Up to the next expert's, or the end of the list, there may be tiles that are empty.
        let end = match expert as usize + 1 == n_experts {
            true => tiles,
            false => first_tile(expert + 1),
        };
        for (i, at) in (first_tile(expert)..end).enumerate() {
            let done = (i * tile).min(own.len());
            let count = (own.len() - done).min(tile);
            let words = [expert as usize, before(expert) + done, count, 0];
            plan[4 * at..][..4].copy_from_slice(&words.map(|word| word as u32));
        }
    }
}

/// Slots whose expert is one of the bound stack, in the order of a plan: `[expert, slot]` each.
pub(crate) fn planned(dispatch: &Dispatch, plan: &[u32]) -> Vec<[usize; 2]> {
    let (tiles, order) = plan.split_at(4 * dispatch.size("tiles"));
    let of_tile = |tile: &[u32]| {
        let (expert, first, count) = (tile[0], tile[1] as usize, tile[2] as usize);
        let slots = order[first..first + count].iter();
        let visits = slots.filter_map(|&slot| visit(dispatch, expert, slot as usize));
        visits.collect::<Vec<_>>()
    };
    tiles.chunks_exact(4).flat_map(of_tile).collect()
}
