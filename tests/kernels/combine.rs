//! `combine` against its reference.

use shaders::combine::{Call, dispatch};

use super::gpu::{self, Near};
use super::inputs::{seeded, uniforms};

/// Nine products are summed in f32.
const TOLERANCE: f64 = 1e-6;

#[test]
fn rows_are_summed_by_weight() {
    let random = &mut seeded(1);
    for (tokens, slots, hidden) in [(1, 1, 4), (3, 9, 68), (2, 3, 260)] {
        let call = Call {
            tokens,
            slots,
            hidden,
        };
        let buffers = [
            uniforms(random, tokens * slots * hidden),
            uniforms(random, tokens * slots),
            gpu::garbage(tokens * hidden),
        ];
        let near = [("y", Near::Rows(hidden, TOLERANCE))];
        gpu::check(|tuning| dispatch(&call, tuning), &buffers, &near);
    }
}
