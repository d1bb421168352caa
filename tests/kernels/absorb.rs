//! `absorb` against sums and rotations in `f64`.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use shaders::Tuning;
use shaders::absorb::{Call, dispatch};
use shaders::weights::DTYPES;

use super::gpu;
use super::matvec::{Weights, uniforms, weights};

/// Of the largest result. Up to 132 products are added, each sum rounded by 2^-24 of itself: 5e-7 at most is seen.
const CLOSE: f64 = 1e-6;

fn expected(call: &Call, q: &[f32], w: &Weights, angles: &[f32]) -> Vec<f64> {
    let mut all = Vec::new();
    for token in 0..call.tokens {
        let (cosines, sines) = angles[token * call.dr..][..call.dr].split_at(call.dr / 2);
        for head in 0..call.heads {
            let at = token * call.q_stride + head * (call.dn + call.dr);
            let (nope, rope) = q[at..][..call.dn + call.dr].split_at(call.dn);
            for col in 0..call.rank {
                let row = |d: usize| (head * (call.dn + call.dv) + d) * call.rank + col;
                let products = nope.iter().enumerate();
                all.push(
                    products
                        .map(|(d, q)| f64::from(*q) * w.values[row(d)])
                        .sum(),
                );
            }
            for (pair, (cos, sin)) in rope.chunks(2).zip(cosines.iter().zip(sines)) {
                let [a, b, cos, sin] = [pair[0], pair[1], *cos, *sin].map(f64::from);
                all.push(a * cos - b * sin);
                all.push(a * sin + b * cos);
            }
        }
    }
    all
}

struct Case {
    call: Call,
    q: Vec<f32>,
    w: Weights,
    angles: Vec<f32>,
}

impl Case {
    fn new(random: &mut ChaCha8Rng, call: Call) -> Self {
        let n_rows = call.heads * (call.dn + call.dv);
        let mut q = uniforms(random, call.tokens * call.q_stride);
        // Nobody looks behind the heads of a row.
        for row in q.chunks_mut(call.q_stride) {
            row[call.heads * (call.dn + call.dr)..].fill(f32::NAN);
        }
        Self {
            call,
            q,
            w: weights(random, call.dtype, n_rows, call.rank),
            angles: uniforms(random, call.tokens * call.dr),
        }
    }

    fn run(&self, gpu: &gpu::Gpu, tuning: &Tuning) -> Vec<u32> {
        let call = &self.call;
        let mut buffers = [
            gpu::words(&self.q),
            self.w.packed.clone(),
            self.w.scales.clone(),
            gpu::words(&self.angles),
            gpu::garbage(call.tokens * call.heads * (call.rank + call.dr)),
        ];
        gpu.run(&dispatch(call, tuning), &mut buffers);
        let [_, _, _, _, q_lat] = buffers;
        q_lat
    }
}

fn call(dtype: u32, tokens: usize, heads: usize, sizes: [usize; 4]) -> Call {
    let [dn, dr, dv, rank] = sizes;
    Call {
        dtype,
        tokens,
        heads,
        dn,
        dr,
        dv,
        rank,
        q_stride: heads * (dn + dr) + 8,
    }
}

#[test]
fn every_type_and_number_of_tokens_matches_f64() {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    for (at, &dtype) in DTYPES.iter().enumerate() {
        let cases = [
            (1, 1, [4, 4, 4, 4]),       // most lanes have nothing
            (2, 3, [36, 8, 20, 36]),    // a second round of some parts
            (3, 2, [132, 12, 60, 260]), // three tiles of columns, blocks of 128 crossed within a head
            (5, 1, [64, 64, 64, 32]),
            (9, 2, [8, 16, 8, 132]), // a second tile of tokens
        ];
        for (i, (tokens, heads, sizes)) in cases.into_iter().enumerate() {
            let case = Case::new(&mut random, call(dtype, tokens, heads, sizes));
            let expected = expected(&case.call, &case.q, &case.w, &case.angles);
            for gpu in gpu::all() {
                // There is no other text for subgroups. Of the two plans every type gets both, and every
                // case: compilation is what takes time here.
                let tuning = Tuning {
                    subgroups: false,
                    fat_threads: (at + i) % 2 == 0,
                };
                let what = format!("{}: {tuning:?} {:?}", gpu.name, case.call);
                let found = gpu::floats(&case.run(gpu, &tuning));
                gpu::assert_close(&found, &expected, CLOSE, &what);
            }
        }
    }
}

#[test]
fn the_same_call_gives_the_same_bits() {
    let mut random = ChaCha8Rng::seed_from_u64(2);
    let case = Case::new(&mut random, call(3, 4, 3, [128, 64, 128, 132]));
    for gpu in gpu::all() {
        for tuning in gpu.tunings().into_iter().filter(|tuning| !tuning.subgroups) {
            assert_eq!(
                case.run(gpu, &tuning),
                case.run(gpu, &tuning),
                "{}: {tuning:?}",
                gpu.name
            );
        }
    }
}
