//! Positions of the highest scores, row by row.

use crate::kernel::{Cost, Dispatch, Kernel, Knob, Tuning, params, spread};
use crate::pieces::plain;
use crate::reference::{bound, floats};

/// The `k` highest of each row's visible scores, ties to the lower position, as ascending positions.
pub const KERNEL: Kernel = Kernel {
    name: "top_k",
    pieces: &[plain(include_str!("top_k.wgsl"))],
    bindings: &["scores", "selection", "chosen", "status"],
    knobs: &[
        Knob::new("WG", 256, &[FAT_WG, 256]),
        Knob::new("KEEP", 0, &[0, 1]),
    ],
    params: Params::LAYOUT,
    reference,
};

/// Lanes where a barrier takes turns of them all.
const FAT_WG: u32 = 32;

params! {
    tokens: u32,
    first_row: u32,
    position: u32,
    k: u32,
    scores_stride: u32,
    unused: u32,
}

/// The sizes of one call: some rows of a pass.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Rows of `scores`.
    pub tokens: usize,
    /// Row of `selection` that row 0 of `scores` belongs to.
    pub first_row: usize,
    /// Position of the first token: it sees `position + 1` scores, each token one more than the one before it.
    pub position: usize,
    /// Positions in a row of `selection`.
    pub k: usize,
    /// Scores in a row of `scores`, a multiple of 4.
    pub scores_stride: usize,
    /// Whether the scores of the selected are wanted, too, in `chosen`; else that is any buffer.
    pub keep: bool,
}

/// Plans the launch: a workgroup a row.
///
/// # Panics
/// Rows of scores that are no whole quads.
pub fn dispatch(call: &Call, tuning: &Tuning) -> Dispatch {
    assert!(
        call.scores_stride.is_multiple_of(4),
        "scores are read four at a time, rows of {} are not",
        call.scores_stride
    );
    let params = Params {
        tokens: call.tokens as u32,
        first_row: call.first_row as u32,
        position: call.position as u32,
        k: call.k as u32,
        scores_stride: call.scores_stride as u32,
        unused: 0,
    };
    let [x, y] = spread(call.tokens as u32);
    Dispatch {
        kernel: &KERNEL,
        knobs: vec![
            ("WG", if tuning.fat_threads { FAT_WG } else { 256 }),
            ("KEEP", u32::from(call.keep)),
        ],
        subgroups: tuning.subgroups,
        params: bytemuck::bytes_of(&params).to_vec(),
        groups: [x, y, 1],
        cost: cost(call),
    }
}

/// As if every row took all three digits.
fn cost(call: &Call) -> Cost {
    let last = call.position + call.tokens;
    // Rows that see no more than k are not read.
    let first = (call.position + 1).max(call.k + 1);
    let rows = (last + 1).saturating_sub(first) as u64;
    let scores = rows * (first + last) as u64 / 2;
    Cost {
        read_bytes: 4 * 4 * scores,
        write_bytes: 4 * (call.tokens * call.k * (1 + usize::from(call.keep))) as u64,
        flops: 0,
    }
}

fn reference(dispatch: &Dispatch, buffers: &mut [Vec<u32>]) {
    let [scores, selection, kept, status] = bound(buffers);
    let [first_row, k, scores_stride] = dispatch.sizes(["first_row", "k", "scores_stride"]);
    for token in 0..dispatch.size("tokens") {
        let position = dispatch.word("position") + token as u32;
        let mut chosen: Vec<u32> = (0..=position).collect();
        if chosen.len() > k {
            let row = floats(scores, token * scores_stride, chosen.len());
            if row.iter().any(|score| score.is_nan()) {
                // The lowest position with a NaN stays.
                status[0] = status[0].max(0x8000_0000 - position);
            } else {
                // A stable sort leaves the lower position before its equals; 0 and -0 are equal.
                let score = |at: &u32| row[*at as usize] + 0.0;
                chosen.sort_by(|a, b| score(b).total_cmp(&score(a)));
            }
        }
        chosen.truncate(k);
        chosen.sort_unstable();
        // All ones is -1.
        chosen.resize(k, u32::MAX);
        let to = (first_row + token) * k;
        selection[to..][..k].copy_from_slice(&chosen);
        if dispatch.knob("KEEP") == 1 {
            for (kept, &at) in kept[to..].iter_mut().zip(&chosen) {
                *kept = match at {
                    u32::MAX => 0,
                    at => scores[token * scores_stride + at as usize],
                };
            }
        }
    }
}
