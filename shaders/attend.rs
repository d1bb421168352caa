//! Attention of absorbed queries to cached latents, in splits.

use crate::kernel::{Cost, Dispatch, Kernel, Knob, Piece, Tuning, params};
use crate::latent_cache::{self, FORMATS, token_words};
use crate::pieces::{NUMBERS, plain};
use crate::reference::{bound, dot, floats, set_all};

/// Reading of a cached latent. Needs `LATENT`, `latents` and two fields of `params`; gives
/// `latent_quad` and `latent_rank_quad`.
pub const LATENT_WORDS: Piece = plain(include_str!("latent_words.wgsl"));

/// Unnormalised sums over the latents of each split, with their softmax maximum and sum.
pub const KERNEL: Kernel = Kernel {
    name: "attend",
    pieces: &[NUMBERS, LATENT_WORDS, plain(include_str!("attend.wgsl"))],
    bindings: &["q_lat", "latents", "selection", "out", "stats"],
    knobs: &[
        Knob::new("LATENT", 0, FORMATS),
        Knob::new("DENSE", 0, &[0, 1]),
        Knob::new("FAT", 0, &[0, 1]),
        Knob::new("QUADS", 9, QUADS),
        Knob::new("OUT_QUADS", 2, OUT_QUADS),
    ],
    params: Params::LAYOUT,
    reference,
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

/// The largest score of a split without slots: not -inf, as in the kernel.
pub(crate) const NOTHING: f64 = -1e30_f32 as f64;

/// What a launch of `attend` or `attend_weights` reads.
pub(crate) struct Reader<'a> {
    pub dispatch: &'a Dispatch,
    pub q_lat: &'a [u32],
    pub latents: &'a [u32],
    pub selection: &'a [u32],
}

impl Reader<'_> {
    /// Slots of a token: everything up to its own position, or that many entries of its selection.
    pub fn n_slots(&self, token: usize) -> usize {
        let visible = self.dispatch.size("position") + token + 1;
        match self.dispatch.knob("DENSE") {
            1 => visible,
            _ => visible.min(self.dispatch.size("k")),
        }
    }

    /// The latent in a slot, its rope included, if the slot holds one: -1 fills up a selection.
    pub fn latent(&self, token: usize, slot: usize) -> Option<Vec<f64>> {
        let [first_row, k, rank, dr] = self.dispatch.sizes(["first_row", "k", "rank", "dr"]);
        let position = match self.dispatch.knob("DENSE") {
            1 => slot,
            _ => usize::try_from(self.selection[(first_row + token) * k + slot] as i32).ok()?,
        };
        let format = self.dispatch.knob("LATENT");
        Some(latent_cache::row(format, rank, dr, self.latents, position))
    }

    pub fn score(&self, token: usize, head: usize, latent: &[f64]) -> f64 {
        let [first_row, heads] = self.dispatch.sizes(["first_row", "heads"]);
        let row = (first_row + token) * heads + head;
        let query = floats(self.q_lat, row * latent.len(), latent.len());
        dot(&query, latent) * self.dispatch.float("scale")
    }
}

fn reference(dispatch: &Dispatch, buffers: &mut [Vec<u32>]) {
    let [q_lat, latents, selection, out, stats] = bound(buffers);
    let reader = Reader {
        dispatch,
        q_lat,
        latents,
        selection,
    };
    let [tokens, heads, rank, splits] = dispatch.sizes(["tokens", "heads", "rank", "splits"]);
    // Splits begin where the kernel has them, at whole tiles of slots.
    let tile = if dispatch.knob("FAT") == 1 { 256 } else { 4 };
    for token in 0..tokens {
        let n_slots = reader.n_slots(token);
        let per_split = n_slots.div_ceil(splits).next_multiple_of(tile);
        for split in 0..splits {
            let begin = (split * per_split).min(n_slots);
            let read: Vec<_> = (begin..(begin + per_split).min(n_slots))
                .filter_map(|slot| reader.latent(token, slot))
                .collect();
            for head in 0..heads {
                let scores = read.iter().map(|latent| reader.score(token, head, latent));
                let scores: Vec<_> = scores.collect();
                let most = scores.iter().copied().fold(NOTHING, f64::max);
                let mut total = 0.0;
                let mut sums = vec![0.0; rank];
                for (score, latent) in scores.iter().zip(&read) {
                    let weight = (score - most).exp();
                    total += weight;
                    // The rope channels lie behind the latent's and have no sum.
                    for (sum, x) in sums.iter_mut().zip(latent) {
                        *sum += weight * x;
                    }
                }
                let row = (token * splits + split) * heads + head;
                set_all(out, row * rank, &sums);
                set_all(stats, 2 * row, &[most, total]);
            }
        }
    }
}
