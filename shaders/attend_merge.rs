//! Merges the splits of attention and leaves the latent space.

use crate::attend::NOTHING;
use crate::kernel::{Cost, Dispatch, Kernel, Knob, Tuning, params};
use crate::pieces::plain;
use crate::reference::{bound, dot, float, floats, set};
use crate::weights::{DTYPES, Matrices, WEIGHTS, bytes, row_units};

/// `y = W_UV o_lat`, where `o_lat` are the normalised sums of all splits.
pub const KERNEL: Kernel = Kernel {
    name: "attend_merge",
    pieces: &[WEIGHTS, plain(include_str!("attend_merge.wgsl"))],
    bindings: &["partials", "stats", "w_kvb", "scales", "y"],
    knobs: &[
        Knob::new("DTYPE", 0, DTYPES),
        Knob::new("TOKENS", 1, TOKENS),
        Knob::new("FAT", 0, &[0, 1]),
    ],
    params: Params::LAYOUT,
    reference,
};

/// Tokens of a workgroup.
const TOKENS: &[u32] = &[1, 2, 4];
/// Quads of latents that workgroup memory has room for, beside what fills up last units.
const MERGED_QUADS: usize = 512;
/// Rows that a workgroup has at once for one token.
const ROWS_AT_ONCE: usize = 64;
/// Workgroups that keep a device busy.
const ENOUGH: usize = 256;

params! {
    tokens: u32,
    first_row: u32,
    heads: u32,
    dn: u32,
    dv: u32,
    rank: u32,
    splits: u32,
    y_stride: u32,
    row_units: u32,
    part_rows: u32,
}

/// The sizes of one call.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Type of `w_kvb`, see [`crate::weights`].
    pub dtype: u32,
    /// Rows of `partials` and `stats`.
    pub tokens: usize,
    /// Row of `y` where the tokens begin.
    pub first_row: usize,
    /// Heads.
    pub heads: usize,
    /// Rows of a head in `w_kvb` that come before those of its values.
    pub dn: usize,
    /// Channels of a head's value.
    pub dv: usize,
    /// Channels of a latent, a multiple of 4 and at most 2048.
    pub rank: usize,
    /// Splits, as [`crate::attend::splits`] gave them.
    pub splits: usize,
    /// Floats of a row of `y`.
    pub y_stride: usize,
}

/// Plans the launch.
///
/// # Panics
/// More splits or channels than there is room for: our own mistake.
pub fn dispatch(call: &Call, tuning: &Tuning) -> Dispatch {
    assert!(
        call.splits <= 32 && call.rank <= 4 * MERGED_QUADS,
        "{} splits of rank {} are too many to merge",
        call.splits,
        call.rank
    );
    // The most tokens that fit, but no more than there are.
    let at_most = call
        .tokens
        .next_power_of_two()
        .min(MERGED_QUADS / (call.rank / 4).max(1));
    let tile = TOKENS
        .iter()
        .copied()
        .rfind(|&tile| tile as usize <= at_most)
        .unwrap_or(1);
    let tiles = call.tokens.div_ceil(tile as usize).max(1);
    let parts = if tuning.fat_threads {
        1
    } else {
        let most = call.dv.div_ceil(ROWS_AT_ONCE).max(1);
        ENOUGH.div_ceil(tiles * call.heads).clamp(1, most)
    };
    let part_rows = call.dv.div_ceil(parts).next_multiple_of(ROWS_AT_ONCE);
    let parts = call.dv.div_ceil(part_rows).max(1);
    let units = row_units(call.dtype, call.rank);
    let params = Params {
        tokens: call.tokens as u32,
        first_row: call.first_row as u32,
        heads: call.heads as u32,
        dn: call.dn as u32,
        dv: call.dv as u32,
        rank: call.rank as u32,
        splits: call.splits as u32,
        y_stride: call.y_stride as u32,
        row_units: units as u32,
        part_rows: part_rows as u32,
    };
    let merged = (call.tokens * call.heads) as u64;
    let weights = call.heads as u64 * bytes(call.dtype, call.dv, call.rank);
    Dispatch {
        kernel: &KERNEL,
        knobs: vec![
            ("DTYPE", call.dtype),
            ("TOKENS", tile),
            ("FAT", u32::from(tuning.fat_threads)),
        ],
        subgroups: tuning.subgroups,
        params: bytemuck::bytes_of(&params).to_vec(),
        groups: [call.heads as u32, tiles as u32, parts as u32],
        cost: Cost {
            read_bytes: tiles as u64 * weights
                + parts as u64 * merged * (call.splits * 4 * (call.rank + 2)) as u64,
            write_bytes: 4 * merged * call.dv as u64,
            flops: 2 * merged * (call.rank * (call.dv + call.splits)) as u64,
        },
    }
}

/// The stats of all splits of a token and head as if they were one.
pub(crate) struct Merged {
    pub most: f64,
    pub total: f64,
    /// `exp(most of the split - most)` of each split.
    factors: Vec<f64>,
}

impl Merged {
    pub fn new(dispatch: &Dispatch, stats: &[u32], token: usize, head: usize) -> Self {
        let [heads, splits] = dispatch.sizes(["heads", "splits"]);
        let of_splits: Vec<_> = (0..splits)
            .map(|split| floats(stats, 2 * ((token * splits + split) * heads + head), 2))
            .collect();
        let most = of_splits.iter().fold(NOTHING, |most, its| most.max(its[0]));
        let factors: Vec<_> = of_splits.iter().map(|its| (its[0] - most).exp()).collect();
        let totals = of_splits.iter().zip(&factors);
        Self {
            most,
            total: totals.map(|(its, factor)| its[1] * factor).sum(),
            factors,
        }
    }
}

fn reference(dispatch: &Dispatch, buffers: &mut [Vec<u32>]) {
    let [partials, stats, w_kvb, scales, y] = bound(buffers);
    let [heads, dn, dv, rank] = dispatch.sizes(["heads", "dn", "dv", "rank"]);
    let [tokens, first_row, splits, y_stride] =
        dispatch.sizes(["tokens", "first_row", "splits", "y_stride"]);
    let w_kvb = Matrices::new(dispatch, w_kvb, scales, [heads * (dn + dv), rank]);
    for head in 0..heads {
        let first = head * (dn + dv) + dn;
        let value_rows: Vec<_> = (first..first + dv).map(|row| w_kvb.row(row)).collect();
        for token in 0..tokens {
            let merged = Merged::new(dispatch, stats, token, head);
            let mut latent = vec![0.0; rank];
            // Where no split has seen anything, nothing is attended to.
            if merged.total > 0.0 {
                for (split, factor) in merged.factors.iter().enumerate() {
                    let row = (token * splits + split) * heads + head;
                    for (c, sum) in latent.iter_mut().enumerate() {
                        *sum += factor / merged.total * float(partials, row * rank + c);
                    }
                }
            }
            let to = (first_row + token) * y_stride + head * dv;
            for (r, row) in value_rows.iter().enumerate() {
                set(y, to + r, dot(row, &latent));
            }
        }
    }
}
