//! Each op's gradient in `f64` against central differences of its own forward pass.

use burn::Tensor;
use burn::tensor::{DType, Device, TensorData};
use engine::config::{Heads, MoeConfig, Scoring};
use engine::definition::ops::{
    Angles, Mlp, attend_expanded, experts, gate_weights, index_scores as scores, layer_norm,
    linear, mlp as feed_forward, rms_norm, rope,
};
use engine::definition::softmax;
use engine::rope::{Layout, Rope};

use super::{config, config_json, tensor, values};
use crate::random::Random;

/// Half the distance of the two points of a difference. Its error is about `STEP²` of the third
/// derivative plus 1e-16 / `STEP` of the value: both near 1e-10.
const STEP: f64 = 1e-5;

/// Bound for `|difference − gradient|`, relative to the larger of the gradient and 1: a hundred times
/// the error of a difference, a millionth of what a wrong term would be off.
const TOLERANCE: f64 = 1e-8;

const SEEDS: [u64; 3] = [1, 2, 3];

/// Checks the gradient of `Σ f(inputs) · r` for random `r` with respect to every element of every
/// input.
fn check(name: &str, seed: u64, inputs: &[Tensor<2>], f: impl Fn(&[Tensor<2>]) -> Tensor<2>) {
    let mut random = Random::new(&[seed], "direction");
    let leaves: Vec<_> = inputs
        .iter()
        .map(|x| x.clone().autodiff().require_grad())
        .collect();
    let y = f(&leaves);
    let direction = tensor(&mut random, y.dims(), DType::F64);
    let gradients = (y * direction.clone()).sum().backward();
    for (at, input) in inputs.iter().enumerate() {
        let gradient = leaves[at].grad(&gradients);
        let gradient = gradient.unwrap_or_else(|| panic!("{name}: no gradient of input {at}"));
        let gradient = values(gradient);
        let base = values(input.clone());
        for element in 0..base.len() {
            let value = |step: f64| {
                let mut moved = base.clone();
                moved[element] += step;
                let data = TensorData::new(moved, input.dims());
                let mut inputs = inputs.to_vec();
                inputs[at] = Tensor::from_data(data, (&Device::flex(), DType::F64));
                values((f(&inputs) * direction.clone()).sum())[0]
            };
            let want = (value(STEP) - value(-STEP)) / (2.0 * STEP);
            let got = gradient[element];
            let off = (got - want).abs() / want.abs().max(1.0);
            assert!(
                off <= TOLERANCE,
                "{name}, seed {seed}: input {at} element {element} has gradient {got}, difference {want}"
            );
        }
    }
}

fn inputs<const N: usize>(seed: u64, shapes: [[usize; 2]; N]) -> [Tensor<2>; N] {
    let mut random = Random::new(&[seed], "inputs");
    shapes.map(|shape| tensor(&mut random, shape, DType::F64))
}

fn from(rows: &[&[f64]]) -> Tensor<2> {
    let shape = [rows.len(), rows[0].len()];
    let data = TensorData::new(rows.concat(), shape);
    Tensor::from_data(data, (&Device::flex(), DType::F64))
}

fn vector(x: &Tensor<2>) -> Tensor<1> {
    x.clone().reshape([x.dims()[1]])
}

#[test]
fn softmax_and_its_own_backward() {
    for seed in SEEDS {
        check("softmax", seed, &inputs(seed, [[5, 7]]), |x| {
            softmax(x[0].clone())
        });
    }
    // Equal scores, one score, scores far apart, and scores too large for exp alone.
    for x in [
        from(&[&[0.0, 0.0, 0.0], &[2.0, 2.0, -1.0]]),
        from(&[&[3.0], &[-4.0]]),
        from(&[&[0.0, -40.0, 3.0, -700.0]]),
        from(&[&[900.0, 901.0, 899.0], &[-900.0, -901.0, -899.0]]),
    ] {
        check("softmax", 4, &[x], |x| softmax(x[0].clone()));
    }
}

#[test]
fn softmax_of_masked_scores_has_no_gradient_where_masked() {
    let mask = from(&[
        &[0.0, f64::NEG_INFINITY, f64::NEG_INFINITY],
        &[0.0, 0.0, 0.0],
    ]);
    let [x] = inputs(5, [[2, 3]]);
    check("masked softmax", 5, std::slice::from_ref(&x), |x| {
        softmax(x[0].clone() + mask.clone())
    });
    let leaf = x.autodiff().require_grad();
    let y = softmax(leaf.clone() + mask).sum() * 2.0;
    let gradient = values(leaf.grad(&y.backward()).unwrap());
    assert!(gradient.iter().all(|g| g.abs() < 1e-15), "{gradient:?}");
}

#[test]
fn linear_and_norms() {
    for seed in SEEDS {
        check("linear", seed, &inputs(seed, [[3, 5], [7, 5]]), |x| {
            linear(x[0].clone(), x[1].clone())
        });
        check("rms_norm", seed, &inputs(seed, [[3, 5], [1, 5]]), |x| {
            rms_norm(x[0].clone(), vector(&x[1]), 1e-6)
        });
        check(
            "layer_norm",
            seed,
            &inputs(seed, [[3, 5], [1, 5], [1, 5]]),
            |x| layer_norm(x[0].clone(), vector(&x[1]), vector(&x[2]), 1e-6),
        );
    }
    // A row of zeros: only eps keeps the root finite. A wide eps keeps the difference exact there.
    let zeros = from(&[&[0.0, 0.0, 0.0], &[1.0, 0.0, -2.0]]);
    let [weight, bias] = inputs(6, [[1, 3], [1, 3]]);
    check(
        "rms_norm of zeros",
        6,
        &[zeros.clone(), weight.clone()],
        |x| rms_norm(x[0].clone(), vector(&x[1]), 0.1),
    );
    check("layer_norm of zeros", 6, &[zeros, weight, bias], |x| {
        layer_norm(x[0].clone(), vector(&x[1]), vector(&x[2]), 0.1)
    });
}

#[test]
fn rope_in_both_layouts() {
    let config = config(&config_json());
    let (sequences, n, half) = (2, 3, config.qk_rope_head_dim / 2);
    for seed in SEEDS {
        for (interleaved, offset, after) in
            [(true, 3, 0), (false, 0, 5), (true, 0, 0), (false, 1, 1)]
        {
            let n_heads = 2;
            let width = n_heads * (offset + 2 * half + after);
            let layout = Layout {
                n_heads,
                offset,
                interleaved,
            };
            let x = inputs(seed, [[sequences * n, width]]);
            let positions = (0..sequences).flat_map(|_| 0..n);
            let angles = Rope::new(&config).angles(positions);
            let kind = (&Device::flex(), DType::F64);
            let angles = Angles::new(angles, sequences * n, kind);
            check("rope", seed, &x, |x| rope(x[0].clone(), &angles, layout));
        }
    }
}

#[test]
fn attention_of_several_sequences() {
    let heads = Heads {
        n_heads: 2,
        dn: 3,
        dr: 2,
        dv: 5,
        rank: 4,
        scale: 0.7,
    };
    let (sequences, n, n_keys) = (2, 3, 4);
    // The last rows of 4 keys; the second sequence does not read what lies between.
    let mut mask = vec![0.0; sequences * n * n_keys];
    for row in 0..n {
        mask[row * n_keys..][row + 2..n_keys].fill(f64::NEG_INFINITY);
        mask[(n + row) * n_keys..][1..row + 1].fill(f64::NEG_INFINITY);
        mask[(n + row) * n_keys..][row + 2..n_keys].fill(f64::NEG_INFINITY);
    }
    let mask = TensorData::new(mask, [sequences, 1, n, n_keys]);
    let mask = Tensor::<4>::from_data(mask, (&Device::flex(), DType::F64));
    for seed in SEEDS {
        let x = inputs(
            seed,
            [
                [sequences * n, heads.n_heads * 5],
                [sequences * n_keys, heads.n_heads * 8],
                [sequences * n_keys, 2],
            ],
        );
        let attend = |x: &[Tensor<2>]| {
            let [q, kv, k_pe] = [0, 1, 2].map(|at| x[at].clone());
            attend_expanded(heads, sequences, q, kv, k_pe, mask.clone())
        };
        check("attention", seed, &x, |x| attend(x).0);
        // And through the weights, which the portable form gives as well.
        check(
            "attention weights",
            seed,
            &[x[0].clone(), x[2].clone()],
            |y| {
                let p = attend(&[y[0].clone(), x[1].clone(), y[1].clone()]).1;
                p.reshape([sequences * heads.n_heads, n * n_keys])
            },
        );
    }
}

fn mlp(x: &[Tensor<2>]) -> Mlp {
    let weight = |at: usize| x[at].clone();
    Mlp {
        gate_proj: weight(0),
        up_proj: weight(1),
        down_proj: weight(2),
    }
}

#[test]
fn feed_forwards() {
    for seed in SEEDS {
        let x = inputs(seed, [[3, 5], [4, 5], [4, 5], [5, 4]]);
        check("mlp", seed, &x, |x| {
            feed_forward(x[0].clone(), &mlp(&x[1..]))
        });
    }
}

#[test]
fn experts_with_their_weights() {
    // Expert 1 gets nothing, expert 2 everything, expert 3 two slots of one token.
    let chosen = [2, 0, 2, 3, 0, 2, 3, 3];
    for seed in SEEDS {
        let mut shapes = vec![[4, 5], [4, 2]];
        for _ in [0, 2, 3, 9] {
            shapes.extend([[3, 5], [3, 5], [5, 3]]);
        }
        let mut random = Random::new(&[seed], "experts");
        let x: Vec<_> = shapes
            .iter()
            .map(|&shape| tensor(&mut random, shape, DType::F64))
            .collect();
        let [idle] = inputs(seed, [[3, 5]]);
        check("experts", seed, &x, |x| {
            let unused = mlp(&[idle.clone(), idle.clone(), idle.clone().transpose()]);
            let routed = [mlp(&x[2..5]), unused, mlp(&x[5..8]), mlp(&x[8..11])];
            let shared = mlp(&x[11..14]);
            experts(x[0].clone(), &chosen, x[1].clone(), routed, Some(shared))
        });
    }
}

fn moe(scoring_func: Scoring, norm_topk_prob: bool) -> MoeConfig {
    let moe = config(&config_json()).moe.clone();
    MoeConfig {
        scoring_func,
        norm_topk_prob,
        n_routed_experts: 5,
        ..moe.expect("the config has experts")
    }
}

#[test]
fn weights_of_routes() {
    let chosen = [4, 1, 0, 2, 3, 4];
    for seed in SEEDS {
        for scoring in [Scoring::Sigmoid, Scoring::Softmax] {
            for normalised in [false, true] {
                let moe = moe(scoring, normalised);
                let logits = inputs(seed, [[3, 5]]);
                check("gate weights", seed, &logits, |x| {
                    gate_weights(x[0].clone(), &chosen, &moe).0
                });
                check("gate scores", seed, &logits, |x| {
                    gate_weights(x[0].clone(), &chosen, &moe).1
                });
                // Ties, and scores that are 0 or 1 to all digits.
                let nasty = from(&[&[0.0; 5], &[2.0; 5], &[-30.0, 30.0, 0.0, 1.0, -1.0]]);
                check("gate weights", seed, &[nasty], |x| {
                    gate_weights(x[0].clone(), &chosen, &moe).0
                });
            }
        }
    }
}

#[test]
fn index_scores() {
    for seed in SEEDS {
        // [tokens, heads × dim], [tokens, heads], [keys, dim]
        let x = inputs(seed, [[3, 2 * 5], [3, 2], [4, 5]]);
        check("index scores", seed, &x, |x| {
            scores(x[0].clone(), x[1].clone(), x[2].clone())
        });
    }
    // Head weights of zero and below, products far on the dead side of ReLU.
    let q = from(&[&[1.0, 2.0, -1.0, -2.0]]);
    let w = from(&[&[0.0, -1.5]]);
    let keys = from(&[&[1.0, 1.0], &[-1.0, -1.0], &[2.0, 0.5]]);
    check("index scores", 4, &[q, w, keys], |x| {
        scores(x[0].clone(), x[1].clone(), x[2].clone())
    });
}
