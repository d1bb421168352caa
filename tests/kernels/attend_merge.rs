//! `attend_merge` against its reference.

use shaders::attend_merge::{Call, dispatch};
use shaders::weights::DTYPES;

use super::gpu::{self, Near};
use super::inputs::{seeded, uniform, uniforms, weights};

/// Sums of up to 512 products of 32 merged parts, as for `matvec`; the exponentials add 1e-6.
const CLOSE: f64 = 5e-6;

/// Partial sums of a call and what belongs to them.
struct Case {
    call: Call,
    partials: Vec<u32>,
    stats: Vec<f32>,
    w_kvb: [Vec<u32>; 2],
}

fn case(call: Call) -> Case {
    let seed = (call.tokens * 1000 + call.rank * 10 + call.splits) as u64;
    let random = &mut seeded(seed + 7 * u64::from(call.dtype));
    let rows = call.tokens * call.splits * call.heads;
    let partials = uniforms(random, rows * call.rank);
    let stats = (0..rows).flat_map(|_| [100.0 + 5.0 * uniform(random), 2.0 + uniform(random)]);
    let stats = stats.collect();
    let shape = [1, call.heads * (call.dn + call.dv), call.rank];
    Case {
        partials,
        stats,
        w_kvb: weights(random, call.dtype, shape),
        call,
    }
}

impl Case {
    /// Leaves a split of a token without a slot.
    fn empty(&mut self, token: usize, split: usize) {
        let (heads, rank) = (self.call.heads, self.call.rank);
        let first = (token * self.call.splits + split) * heads;
        for row in first..first + heads {
            self.stats[2 * row..][..2].copy_from_slice(&[-1e30, 0.0]);
            self.partials[row * rank..][..rank].fill(0);
        }
    }

    fn check(&self) {
        let call = &self.call;
        let [w, scales] = self.w_kvb.clone();
        let buffers = [
            self.partials.clone(),
            gpu::words(&self.stats),
            w,
            scales,
            gpu::garbage((call.first_row + call.tokens) * call.y_stride),
        ];
        let near = [("y", Near::Rows(call.y_stride, CLOSE))];
        gpu::check(|tuning| dispatch(call, tuning), &buffers, &near);
    }
}

const SMALL: Call = Call {
    dtype: 0,
    tokens: 1,
    first_row: 1,
    heads: 3,
    dn: 5,
    dv: 11,
    rank: 36,
    splits: 1,
    y_stride: 40,
};

#[test]
fn every_type_of_weights_and_number_of_tokens() {
    for &dtype in DTYPES {
        for (tokens, splits) in [(1, 3), (5, 2)] {
            case(Call {
                dtype,
                tokens,
                splits,
                ..SMALL
            })
            .check();
        }
    }
    case(Call { tokens: 2, ..SMALL }).check();
    case(Call {
        tokens: 5,
        splits: 7,
        dtype: 3,
        ..SMALL
    })
    .check();
}

#[test]
fn real_widths_and_the_most_splits() {
    for (dtype, tokens) in [(1, 1), (3, 4)] {
        case(Call {
            dtype,
            tokens,
            heads: 2,
            dn: 128,
            dv: 128,
            rank: 512,
            splits: 32,
            y_stride: 256,
            ..SMALL
        })
        .check();
    }
}

#[test]
fn more_rows_than_a_workgroup_has_at_once_and_many_heads() {
    for (heads, dv, rank) in [(1, 201, 4), (128, 3, 4), (1, 65, 2048)] {
        case(Call {
            tokens: 3,
            heads,
            dv,
            rank,
            dtype: 4,
            y_stride: 400,
            ..SMALL
        })
        .check();
    }
}

#[test]
fn splits_that_saw_nothing_do_not_count() {
    let mut case = case(Call {
        tokens: 3,
        splits: 3,
        ..SMALL
    });
    case.empty(0, 0);
    case.empty(1, 1);
    case.empty(1, 2);
    // The last token has no slot at all: zeros, which have to be exact.
    for split in 0..3 {
        case.empty(2, split);
    }
    case.check();
}

#[test]
fn a_split_with_the_largest_score_can_outweigh_all_others() {
    let mut case = case(Call { splits: 4, ..SMALL });
    for (row, stats) in case.stats.chunks_mut(2).enumerate() {
        stats[0] = [-1e6, 3e4, -90.0, 1e7][row / 3];
    }
    case.check();
}
