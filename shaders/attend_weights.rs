//! The softmax weights of attention, for the inspector.

use crate::attend::{self, LATENT_WORDS, Reader};
use crate::attend_merge::Merged;
use crate::kernel::{Cost, Dispatch, Kernel, Knob, Tuning, params};
use crate::latent_cache::{FORMATS, token_words};
use crate::pieces::{NUMBERS, plain};
use crate::reference::{bound, set};

/// Weight of each slot, from the stats that `attend` left.
pub const KERNEL: Kernel = Kernel {
    name: "attend_weights",
    pieces: &[
        NUMBERS,
        LATENT_WORDS,
        plain(include_str!("attend_weights.wgsl")),
    ],
    bindings: &["q_lat", "latents", "selection", "stats", "weights"],
    knobs: &[
        Knob::new("LATENT", 0, FORMATS),
        Knob::new("DENSE", 0, &[0, 1]),
        Knob::new("MEAN", 0, &[0, 1]),
        Knob::new("WG", WG, &[WG]),
    ],
    params: Params::LAYOUT,
    reference,
};

const WG: u32 = 64;

params! {
    tokens: u32,
    first_row: u32,
    heads: u32,
    rank: u32,
    dr: u32,
    position: u32,
    k: u32,
    splits: u32,
    token_words: u32,
    slots: u32,
    scale: f32,
    stats_row: u32,
}

/// The sizes of one call.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// The call of `attend` that left the stats, or some rows of it: `first_row` and `position` are
    /// those of the first, `tokens` how many.
    pub attend: attend::Call,
    /// Their first row in the stats.
    pub stats_row: usize,
    /// Its splits.
    pub splits: usize,
    /// Slots of a row of `weights`; those that hold nothing get 0.
    pub slots: usize,
    /// Whether a row is the mean over heads, `[tokens, slots]`, instead of all of them.
    pub mean: bool,
}

/// Plans the launch.
pub fn dispatch(call: &Call, tuning: &Tuning) -> Dispatch {
    let sizes = &call.attend;
    let words = token_words(sizes.latent, sizes.rank, sizes.dr);
    let params = Params {
        tokens: sizes.tokens as u32,
        first_row: sizes.first_row as u32,
        heads: sizes.heads as u32,
        rank: sizes.rank as u32,
        dr: sizes.dr as u32,
        position: sizes.position as u32,
        k: sizes.k as u32,
        splits: call.splits as u32,
        token_words: words as u32,
        slots: call.slots as u32,
        scale: sizes.scale,
        stats_row: call.stats_row as u32,
    };
    let blocks = call.slots.div_ceil(WG as usize).max(1);
    let rows = (sizes.tokens * sizes.heads) as u64;
    let channels = (sizes.rank + sizes.dr) as u64;
    let slots = call.slots as u64;
    let indices = if sizes.dense { 0 } else { 4 * slots };
    Dispatch {
        kernel: &KERNEL,
        knobs: vec![
            ("LATENT", sizes.latent),
            ("DENSE", u32::from(sizes.dense)),
            ("MEAN", u32::from(call.mean)),
        ],
        subgroups: tuning.subgroups,
        params: bytemuck::bytes_of(&params).to_vec(),
        groups: [
            blocks as u32,
            if call.mean {
                1
            } else {
                sizes.heads.max(1) as u32
            },
            sizes.tokens.max(1) as u32,
        ],
        cost: Cost {
            read_bytes: rows
                * (slots * 4 * words as u64
                    + indices
                    + blocks as u64 * (4 * channels + 8 * call.splits as u64)),
            write_bytes: 4 * slots * if call.mean { sizes.tokens as u64 } else { rows },
            flops: 2 * rows * slots * channels,
        },
    }
}

fn reference(dispatch: &Dispatch, buffers: &mut [Vec<u32>]) {
    let [q_lat, latents, selection, stats, weights] = bound(buffers);
    let reader = Reader {
        dispatch,
        q_lat,
        latents,
        selection,
    };
    let [tokens, heads, slots] = dispatch.sizes(["tokens", "heads", "slots"]);
    let (stats_row, mean) = (dispatch.size("stats_row"), dispatch.knob("MEAN") == 1);
    for token in 0..tokens {
        let n_slots = reader.n_slots(token);
        for slot in 0..slots {
            let held = (slot < n_slots)
                .then(|| reader.latent(token, slot))
                .flatten();
            let mut sum = 0.0;
            for head in 0..heads {
                let row = stats_row + token;
                let Merged { most, total, .. } = Merged::new(dispatch, stats, row, head);
                let weight = match &held {
                    Some(latent) if total > 0.0 => {
                        let score = reader.score(token, head, latent);
                        // attend rounded its sum to f32, which may be a little below this one.
                        ((score - most).min(0.0).exp() / total).min(1.0)
                    }
                    _ => 0.0,
                };
                sum += weight / heads as f64;
                if !mean {
                    set(weights, (token * heads + head) * slots + slot, weight);
                }
            }
            if mean {
                set(weights, token * slots + slot, sum);
            }
        }
    }
}
