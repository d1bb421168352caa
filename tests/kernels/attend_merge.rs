//! `attend_merge` against sums in `f64` over the decoded weights.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use shaders::attend_merge::{Call, dispatch};
use shaders::weights::DTYPES;

use super::attend::tunings;
use super::gpu;
use super::matvec::{Weights, uniform, uniforms, weights};

/// Sums of up to 512 products of 32 merged parts, as for `matvec`; the exponentials add 1e-6.
const CLOSE: f64 = 5e-6;

/// Partial sums of a call and what belongs to them.
struct Case {
    call: Call,
    partials: Vec<f32>,
    stats: Vec<f32>,
    w_kvb: Weights,
}

fn case(call: Call) -> Case {
    let seed = (call.tokens * 1000 + call.rank * 10 + call.splits) as u64;
    let mut random = ChaCha8Rng::seed_from_u64(seed + 7 * u64::from(call.dtype));
    let rows = call.tokens * call.splits * call.heads;
    let partials = uniforms(&mut random, rows * call.rank);
    let mut stats = Vec::new();
    for _ in 0..rows {
        stats.push(100.0 + 5.0 * uniform(&mut random));
        stats.push(2.0 + uniform(&mut random));
    }
    let w_kvb = weights(
        &mut random,
        call.dtype,
        call.heads * (call.dn + call.dv),
        call.rank,
    );
    Case {
        call,
        partials,
        stats,
        w_kvb,
    }
}

impl Case {
    /// Leaves a split of a token without a slot.
    fn empty(&mut self, token: usize, split: usize) {
        let Call {
            splits,
            heads,
            rank,
            ..
        } = self.call;
        let first = (token * splits + split) * heads;
        for row in first..first + heads {
            self.stats[2 * row] = -1e30;
            self.stats[2 * row + 1] = 0.0;
            self.partials[row * rank..][..rank].fill(0.0);
        }
    }

    /// One row of `y`.
    fn expected(&self, token: usize) -> Vec<f64> {
        let call = &self.call;
        let mut y = Vec::new();
        for head in 0..call.heads {
            let rows =
                (0..call.splits).map(|split| (token * call.splits + split) * call.heads + head);
            let most = rows
                .clone()
                .map(|row| f64::from(self.stats[2 * row]))
                .fold(f64::MIN, f64::max);
            let mut total = 0.0;
            let mut sums = vec![0.0; call.rank];
            for row in rows {
                let factor = (f64::from(self.stats[2 * row]) - most).exp();
                total += factor * f64::from(self.stats[2 * row + 1]);
                for (sum, value) in sums.iter_mut().zip(&self.partials[row * call.rank..]) {
                    *sum += factor * f64::from(*value);
                }
            }
            for r in 0..call.dv {
                let row = (head * (call.dn + call.dv) + call.dn + r) * call.rank;
                let weights = &self.w_kvb.values[row..][..call.rank];
                let sum: f64 = sums.iter().zip(weights).map(|(o, w)| o * w).sum();
                y.push(if total > 0.0 { sum / total } else { 0.0 });
            }
        }
        y
    }

    /// The binding `y` after a run.
    fn run(&self, gpu: &gpu::Gpu, tuning: &shaders::Tuning) -> Vec<u32> {
        let mut buffers = [
            gpu::words(&self.partials),
            gpu::words(&self.stats),
            self.w_kvb.packed.clone(),
            self.w_kvb.scales.clone(),
            gpu::garbage((self.call.first_row + self.call.tokens) * self.call.y_stride),
        ];
        gpu.run(&dispatch(&self.call, tuning), &mut buffers);
        let [_, _, _, _, y] = buffers;
        y
    }

    #[track_caller]
    fn check(&self) {
        let call = &self.call;
        for gpu in gpu::all() {
            for tuning in tunings(gpu) {
                for (row, y) in self.run(gpu, &tuning).chunks(call.y_stride).enumerate() {
                    let what = format!("{} {tuning:?} {call:?}: row {row}", gpu.name);
                    let n = if row < call.first_row {
                        0
                    } else {
                        call.heads * call.dv
                    };
                    assert_eq!(y[n..], gpu::garbage(call.y_stride - n), "{what}: gaps");
                    if n > 0 {
                        let expected = self.expected(row - call.first_row);
                        gpu::assert_close(&gpu::floats(&y[..n]), &expected, CLOSE, &what);
                    }
                }
            }
        }
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
    // The last token has no slot at all: zeros.
    for split in 0..3 {
        case.empty(2, split);
    }
    assert!(case.expected(2).iter().all(|y| *y == 0.0));
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

#[test]
fn a_second_merge_gives_the_same_bits() {
    let case = case(Call {
        tokens: 5,
        splits: 7,
        dtype: 3,
        ..SMALL
    });
    for gpu in gpu::all() {
        for tuning in tunings(gpu) {
            assert_eq!(
                case.run(gpu, &tuning),
                case.run(gpu, &tuning),
                "{}",
                gpu.name
            );
        }
    }
}
