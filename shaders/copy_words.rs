//! Words from one buffer to another.

use crate::kernel::{Cost, Dispatch, Kernel, Knob, Tuning, params, spread};
use crate::pieces::plain;
use crate::reference::bound;

/// `to[to_offset + i] = from[from_offset + i]`.
pub const KERNEL: Kernel = Kernel {
    name: "copy_words",
    pieces: &[plain(include_str!("copy_words.wgsl"))],
    bindings: &["from_words", "to_words"],
    knobs: &[Knob::new("WG", WG, &[WG]), Knob::new("EACH", 4, &[4, 16])],
    params: Params::LAYOUT,
    reference,
};

const WG: u32 = 256;

params! {
    from_offset: u32,
    to_offset: u32,
    n: u32,
    unused: u32,
}

/// The sizes of one call, in words.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// First word that is read.
    pub from_offset: usize,
    /// First word that is written.
    pub to_offset: usize,
    /// How many.
    pub n: usize,
}

/// Plans the launch.
pub fn dispatch(call: &Call, tuning: &Tuning) -> Dispatch {
    let each = if tuning.fat_threads { 16 } else { 4 };
    let params = Params {
        from_offset: call.from_offset as u32,
        to_offset: call.to_offset as u32,
        n: call.n as u32,
        unused: 0,
    };
    let [x, y] = spread((call.n as u32).div_ceil(WG * each));
    Dispatch {
        kernel: &KERNEL,
        knobs: vec![("EACH", each)],
        subgroups: tuning.subgroups,
        params: bytemuck::bytes_of(&params).to_vec(),
        groups: [x, y, 1],
        cost: Cost {
            read_bytes: 4 * call.n as u64,
            write_bytes: 4 * call.n as u64,
            flops: 0,
        },
    }
}

fn reference(dispatch: &Dispatch, buffers: &mut [Vec<u32>]) {
    let [from, to] = bound(buffers);
    let [first, to_first, n] = dispatch.sizes(["from_offset", "to_offset", "n"]);
    to[to_first..][..n].copy_from_slice(&from[first..][..n]);
}
