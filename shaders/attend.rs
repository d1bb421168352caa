//! Attention of absorbed queries to cached latents, in splits.

use crate::kernel::{Cost, Dispatch, Kernel, Knob, Piece, Tuning, layout};
use crate::latent_cache::{FORMATS, token_words};
use crate::pieces::{NUMBERS, plain};

/// Reading of a cached latent. Needs `LATENT`, `latents` and two fields of `params`; gives
/// `latent_quad` and `latent_rank_quad`.
pub const LATENT_WORDS: Piece = plain(include_str!("latent_words.wgsl"));

/// Unnormalised sums over the latents of each split, with their softmax maximum and sum.
pub const KERNEL: Kernel = Kernel {
    name: "attend",
    pieces: &[NUMBERS, LATENT_WORDS, plain(include_str!("attend.wgsl"))],
    bindings: &["q_lat", "latents", "selection", "out", "stats"],
    knobs: &[
        Knob {
            name: "LATENT",
            default: 0,
            values: FORMATS,
        },
        Knob {
            name: "DENSE",
            default: 0,
            values: &[0, 1],
        },
        Knob {
            name: "FAT",
            default: 0,
            values: &[0, 1],
        },
        Knob {
            name: "QUADS",
            default: 9,
            values: QUADS,
        },
        Knob {
            name: "OUT_QUADS",
            default: 2,
            values: OUT_QUADS,
        },
    ],
    params: layout!(Params {
        tokens,
        first_row,
        heads,
        rank,
        dr,
        position,
        k,
        splits,
        token_words,
        scale,
    }),
};

/// Heads of a workgroup, and of one with fat threads.
const HEADS: usize = 16;
const FAT_HEADS: usize = 8;
/// Lanes that share a head's scores.
const PARTS: usize = 16;
/// Quads of a query that a lane can hold.
const QUADS: &[u32] = &[1, 2, 4, 9];
/// Lanes that share a head's sums.
const COLUMNS: usize = 64;
/// Quads of a sum that a lane can hold.
const OUT_QUADS: &[u32] = &[1, 2];
/// Most splits.
const MAX_SPLITS: usize = 32;

/// The uniform.
#[repr(C)]
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    tokens: u32,
    first_row: u32,
    heads: u32,
    rank: u32,
    dr: u32,
    position: u32,
    k: u32,
    splits: u32,
    token_words: u32,
    scale: f32,
}

/// The sizes of one call.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Format of the cache, see [`crate::latent_cache`].
    pub latent: u32,
    /// Every position up to a token's own instead of a selection, which is any buffer then.
    pub dense: bool,
    /// Rows of `out` and `stats`.
    pub tokens: usize,
    /// Row of `q_lat` and `selection` where the tokens begin.
    pub first_row: usize,
    /// Heads.
    pub heads: usize,
    /// Channels of a latent, a multiple of 4.
    pub rank: usize,
    /// Channels of its rope, a multiple of 4.
    pub dr: usize,
    /// Position of the first token.
    pub position: usize,
    /// Entries of a row of the selection: distinct positions no later than the row's own, then -1.
    pub k: usize,
    /// Factor of the scores.
    pub scale: f32,
}

impl Call {
    /// Slots of the last token.
    fn slots(&self) -> usize {
        let visible = self.position + self.tokens.max(1);
        if self.dense {
            visible
        } else {
            self.k.min(visible)
        }
    }
}

/// Splits of each token's slots: `out` is `[tokens, splits, heads, rank]`, `stats`
/// `[tokens, splits, heads, 2]`.
pub fn splits(call: &Call, tuning: &Tuning) -> usize {
    // Workgroups that keep a device busy, and slots that are worth one: at least a tile.
    let (enough, worth): (usize, usize) = if tuning.fat_threads {
        (8, 256)
    } else {
        (256, 64)
    };
    let groups = call.tokens.max(1) * tiles(call, tuning);
    let worthwhile = call.slots().div_ceil(worth).clamp(1, MAX_SPLITS);
    enough.div_ceil(groups).clamp(1, worthwhile)
}

/// Plans the launch.
pub fn dispatch(call: &Call, tuning: &Tuning) -> Dispatch {
    let splits = splits(call, tuning);
    let words = token_words(call.latent, call.rank, call.dr);
    let params = Params {
        tokens: call.tokens as u32,
        first_row: call.first_row as u32,
        heads: call.heads as u32,
        rank: call.rank as u32,
        dr: call.dr as u32,
        position: call.position as u32,
        k: call.k as u32,
        splits: splits as u32,
        token_words: words as u32,
        scale: call.scale,
    };
    let knobs = match thin(call, tuning) {
        Some([quads, out_quads]) => vec![("QUADS", quads), ("OUT_QUADS", out_quads)],
        None => vec![("FAT", 1)],
    };
    let format = [("LATENT", call.latent), ("DENSE", u32::from(call.dense))];
    Dispatch {
        kernel: &KERNEL,
        knobs: [&format[..], &knobs].concat(),
        subgroups: tuning.subgroups,
        params: bytemuck::bytes_of(&params).to_vec(),
        groups: [
            tiles(call, tuning) as u32,
            splits as u32,
            call.tokens.max(1) as u32,
        ],
        cost: cost(call, splits, words),
    }
}

/// Quads that a lane holds of a query and of a sum, unless threads are to be fat or it cannot.
fn thin(call: &Call, tuning: &Tuning) -> Option<[u32; 2]> {
    let quads = fitting(QUADS, ((call.rank + call.dr) / 4).div_ceil(PARTS))?;
    let out_quads = fitting(OUT_QUADS, (call.rank / 4).div_ceil(COLUMNS))?;
    (!tuning.fat_threads).then_some([quads, out_quads])
}

/// Tiles of heads.
fn tiles(call: &Call, tuning: &Tuning) -> usize {
    let heads = if thin(call, tuning).is_some() {
        HEADS
    } else {
        FAT_HEADS
    };
    call.heads.div_ceil(heads)
}

/// The smallest value that is enough.
fn fitting(values: &[u32], needed: usize) -> Option<u32> {
    values
        .iter()
        .copied()
        .find(|&value| value as usize >= needed)
}

fn cost(call: &Call, splits: usize, words: usize) -> Cost {
    // Slots of all tokens: token t sees position + t + 1 positions.
    let slots: u64 = (1..=call.tokens)
        .map(|t| {
            let visible = (call.position + t) as u64;
            if call.dense {
                visible
            } else {
                visible.min(call.k as u64)
            }
        })
        .sum();
    let rows = (call.tokens * splits * call.heads) as u64;
    let indices = if call.dense { 0 } else { 4 * slots };
    Cost {
        read_bytes: 4 * slots * words as u64 + indices + 4 * rows * (call.rank + call.dr) as u64,
        write_bytes: 4 * rows * (call.rank + 2) as u64,
        flops: 2 * slots * (call.heads * (2 * call.rank + call.dr)) as u64,
    }
}
