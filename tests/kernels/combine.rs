//! `combine` against plain `f64`.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use shaders::combine::{Call, dispatch};

use super::gpu;
use super::mlp_up::uniforms;

/// Nine products are summed in f32.
const TOLERANCE: f64 = 1e-6;

#[test]
fn rows_are_summed_by_weight() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for (tokens, slots, hidden) in [(1, 1, 4), (3, 9, 68), (2, 3, 260)] {
        let rows = uniforms(&mut rng, tokens * slots * hidden);
        let weights = uniforms(&mut rng, tokens * slots);
        let mut expected = vec![0.0; tokens * hidden];
        for (slot, row) in rows.chunks(hidden).enumerate() {
            let to = &mut expected[slot / slots * hidden..];
            for (to, from) in to.iter_mut().zip(row) {
                *to += f64::from(weights[slot]) * f64::from(*from);
            }
        }
        let call = Call {
            tokens,
            slots,
            hidden,
        };
        for gpu in gpu::all() {
            for tuning in gpu.tunings() {
                let mut found = vec![];
                for _ in 0..2 {
                    let mut buffers = [
                        gpu::words(&rows),
                        gpu::words(&weights),
                        gpu::garbage(tokens * hidden),
                    ];
                    gpu.run(&dispatch(&call, &tuning), &mut buffers);
                    found.push(buffers[2].clone());
                }
                let what = format!("{call:?}, {}, {tuning:?}", gpu.name);
                gpu::assert_close(&gpu::floats(&found[0]), &expected, TOLERANCE, &what);
                assert_eq!(found[0], found[1], "{what}: twice");
            }
        }
    }
}
