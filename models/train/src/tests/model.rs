//! The gradient of all losses of the whole model in `f64`, against differences of the losses.

use std::collections::BTreeMap;

use burn::Tensor;
use burn::tensor::{DType, Device, TensorData};

use super::{batch, config, config_json, net, pass, tensor, values};
use crate::net::{Net, Role};
use crate::pass::{AttentionMode, Batch, PassOptions, PassStats, forward};
use crate::random::Random;
use crate::recipe::Weighted;
use crate::run::target_weights;

const STEP: f64 = 1e-5;

/// Bound for `|difference − gradient|` relative to the size of the gradient of that parameter. The
/// error of a difference is near 1e-9; a corner of ReLU between its two points can add `STEP` times
/// that product's share of the whole.
const TOLERANCE: f64 = 1e-6;

/// Below this a gradient is compared as if it were this.
const LEAST: f64 = 1e-3;

const OPTIONS: PassOptions = PassOptions {
    attention: AttentionMode::Dense,
    mtp_weight: 0.0,
    balance_weight: 0.0,
    main_loss: true,
    watch_selection: false,
    watch_k: 0,
};

type Gradients = BTreeMap<String, Tensor<2>>;

/// The routing bias moves the choice off the best scores.
fn biases(layer: usize) -> Vec<f32> {
    (0..6).map(|e| 0.05 * ((e + layer) % 3) as f32).collect()
}

fn gradients(
    net: &Net,
    batch: &Batch,
    options: PassOptions,
    trains: impl Fn(Role) -> bool,
) -> Gradients {
    let leaves = net.leaves(trains);
    let result = pass(net, &leaves, batch, options, &biases).unwrap();
    let all = result.surrogate.expect("something is trained").backward();
    leaves
        .iter()
        .filter(|(_, leaf)| leaf.is_autodiff())
        .filter_map(|(name, leaf)| Some((name.to_owned(), leaf.grad(&all)?)))
        .collect()
}

fn stats(net: &Net, batch: &Batch, options: PassOptions) -> PassStats {
    let leaves = net.leaves(|_| false);
    let result = pass(net, &leaves, batch, options, &biases).unwrap();
    assert!(result.surrogate.is_none(), "nothing is trained");
    result.stats
}

/// What the gradient of language parameters is that of.
fn language_loss(stats: &PassStats, batch: &Batch, options: PassOptions) -> f64 {
    (stats.nll + options.mtp_weight * stats.mtp_nll)
        / batch.n_targets().iter().sum::<usize>() as f64
}

/// What the gradient of indexer parameters is that of.
fn divergence(stats: &PassStats) -> f64 {
    stats.selection.iter().map(|(_, layer)| layer.kl).sum()
}

/// Checks three elements of each named parameter, the largest gradient among them.
fn check(
    net: &Net,
    batch: &Batch,
    options: PassOptions,
    gradients: &Gradients,
    names: &[&str],
    loss: impl Fn(&PassStats) -> f64,
) {
    let still = stats(net, batch, options);
    for &name in names {
        let gradient = gradients.get(name);
        let gradient = values(
            gradient
                .unwrap_or_else(|| panic!("no gradient of {name}"))
                .clone(),
        );
        let largest = (0..gradient.len())
            .max_by(|&a, &b| gradient[a].abs().total_cmp(&gradient[b].abs()))
            .unwrap();
        let size = gradient[largest].abs();
        assert!(size > 0.0, "{name} has no influence");
        for element in [largest, 0, gradient.len() / 2] {
            let base = net.parameters[name].tensor.clone();
            let loss_at = |step: f64| {
                let mut data = values(base.clone());
                data[element] += step;
                let mut net = net.clone();
                let data = TensorData::new(data, base.dims());
                net.parameters.get_mut(name).unwrap().tensor =
                    Tensor::from_data(data, (&Device::flex(), DType::F64));
                let stats = stats(&net, batch, options);
                assert_eq!(
                    stats.loads, still.loads,
                    "{name}: a route changed, take another seed"
                );
                loss(&stats)
            };
            let want = (loss_at(STEP) - loss_at(-STEP)) / (2.0 * STEP);
            let got = gradient[element];
            assert!(
                (got - want).abs() <= TOLERANCE * size.max(LEAST),
                "{name} element {element}: gradient {got}, difference {want}, largest {size}"
            );
        }
    }
}

/// A parameter of every role in every kind of layer.
const LANGUAGE: &[&str] = &[
    "model.embed_tokens.weight",
    "model.layers.0.self_attn.q_a_proj.weight",
    "model.layers.0.self_attn.q_a_layernorm.weight",
    "model.layers.0.self_attn.q_b_proj.weight",
    "model.layers.1.self_attn.kv_a_proj_with_mqa.weight",
    "model.layers.1.self_attn.kv_a_layernorm.weight",
    "model.layers.1.self_attn.kv_b_proj.weight",
    "model.layers.0.self_attn.o_proj.weight",
    "model.layers.0.mlp.down_proj.weight",
    "model.layers.1.mlp.experts.2.gate_proj.weight",
    "model.layers.1.mlp.experts.3.down_proj.weight",
    "model.layers.1.mlp.shared_experts.up_proj.weight",
    "model.layers.1.mlp.gate.weight",
    "model.layers.1.input_layernorm.weight",
    "model.layers.0.post_attention_layernorm.weight",
    "model.norm.weight",
    "lm_head.weight",
];

const MTP: &[&str] = &[
    "model.layers.2.eh_proj.weight",
    "model.layers.2.enorm.weight",
    "model.layers.2.hnorm.weight",
    "model.layers.2.shared_head.norm.weight",
    "model.layers.2.self_attn.kv_b_proj.weight",
    "model.layers.2.mlp.experts.0.up_proj.weight",
    "model.layers.2.mlp.gate.weight",
];

const INDEXER: &[&str] = &[
    "model.layers.0.self_attn.indexer.wq_b.weight",
    "model.layers.0.self_attn.indexer.wk.weight",
    "model.layers.0.self_attn.indexer.k_norm.weight",
    "model.layers.1.self_attn.indexer.k_norm.bias",
    "model.layers.1.self_attn.indexer.weights_proj.weight",
    "model.layers.2.self_attn.indexer.wk.weight",
];

#[test]
fn the_language_loss_of_dense_attention() {
    let net = net(&config(&config_json()), 3, DType::F64);
    let batch = batch(2, 11, 37, 5);
    let options = PassOptions {
        mtp_weight: 0.3,
        ..OPTIONS
    };
    let gradients = gradients(&net, &batch, options, |_| true);
    let names = [LANGUAGE, MTP].concat();
    check(&net, &batch, options, &gradients, &names, |stats| {
        language_loss(stats, &batch, options)
    });
    assert!(
        gradients
            .keys()
            .all(|name| !name.contains("indexer") && !name.ends_with("bias"))
    );
}

#[test]
fn the_language_loss_of_sparse_attention() {
    let net = net(&config(&config_json()), 4, DType::F64);
    let batch = batch(2, 13, 37, 6);
    let options = PassOptions {
        attention: AttentionMode::Sparse { k: 5 },
        mtp_weight: 0.1,
        ..OPTIONS
    };
    let gradients = gradients(&net, &batch, options, |_| true);
    let names = [LANGUAGE, MTP].concat();
    check(&net, &batch, options, &gradients, &names, |stats| {
        language_loss(stats, &batch, options)
    });
    let names = INDEXER;
    check(&net, &batch, options, &gradients, names, divergence);
}

#[test]
fn the_divergence_of_the_indexer_over_more_than_one_block() {
    let net = net(&config(&config_json()), 5, DType::F64);
    let batch = batch(1, 261, 37, 7);
    let options = PassOptions {
        attention: AttentionMode::DenseWarmup,
        mtp_weight: 0.1,
        main_loss: false,
        ..OPTIONS
    };
    let gradients = gradients(&net, &batch, options, |role| {
        matches!(role, Role::Indexer | Role::MtpIndexer)
    });
    check(&net, &batch, options, &gradients, INDEXER, divergence);
}

#[test]
fn the_language_loss_over_more_than_one_block() {
    let net = net(&config(&config_json()), 6, DType::F64);
    let batch = batch(1, 259, 37, 8);
    let gradients = gradients(&net, &batch, OPTIONS, |role| role == Role::Main);
    check(&net, &batch, OPTIONS, &gradients, &LANGUAGE[..8], |stats| {
        language_loss(stats, &batch, OPTIONS)
    });
}

/// Neither loss reaches the parameters of the other.
#[test]
fn language_and_indexer_learn_apart() {
    let net = net(&config(&config_json()), 7, DType::F64);
    let batch = batch(2, 12, 37, 9);
    let sparse = PassOptions {
        attention: AttentionMode::Sparse { k: 5 },
        ..OPTIONS
    };
    for attention in [AttentionMode::DenseWarmup, sparse.attention] {
        let silent = PassOptions {
            attention,
            main_loss: false,
            ..OPTIONS
        };
        let of_divergence = gradients(&net, &batch, silent, |_| true);
        assert!(!of_divergence.is_empty());
        for name in of_divergence.keys() {
            assert!(name.contains(".indexer."), "the divergence reaches {name}");
        }
    }
    let both = gradients(&net, &batch, sparse, |_| true);
    let language = gradients(&net, &batch, sparse, |role| role == Role::Main);
    let silent = PassOptions {
        main_loss: false,
        ..sparse
    };
    let divergence = gradients(&net, &batch, silent, |role| role == Role::Indexer);
    for (name, gradient) in &both {
        let alone = language.get(name).or(divergence.get(name)).unwrap();
        assert_eq!(values(gradient.clone()), values(alone.clone()), "{name}");
    }
    assert_eq!(both.len(), language.len() + divergence.len());
}

/// With everything else off, the number whose gradient is taken is that loss itself.
#[test]
fn the_loss_of_unbalanced_sequences() {
    let mut net = net(&config(&config_json()), 8, DType::F64);
    let batch = batch(2, 9, 37, 10);
    let alpha = 0.7;
    let options = PassOptions {
        balance_weight: alpha,
        main_loss: false,
        ..OPTIONS
    };
    let loss = |net: &Net| {
        let leaves = net.leaves(|_| true);
        let result = pass(net, &leaves, &batch, options, &biases).unwrap();
        (values(result.surrogate.unwrap())[0], result.stats.loads)
    };
    let (_, loads) = loss(&net);
    let gradients = gradients(&net, &batch, options, |_| true);
    for name in [
        "model.layers.1.mlp.gate.weight",
        "model.layers.0.mlp.up_proj.weight",
    ] {
        let gradient = values(gradients[name].clone());
        let base = net.parameters[name].tensor.clone();
        for element in 0..20 {
            let loss_at = |step: f64| {
                let mut data = values(base.clone());
                data[element] += step;
                let mut net = net.clone();
                let data = TensorData::new(data, base.dims());
                net.parameters.get_mut(name).unwrap().tensor =
                    Tensor::from_data(data, (&Device::flex(), DType::F64));
                let (loss, moved) = loss(&net);
                assert_eq!(moved, loads, "a route changed, take another seed");
                loss
            };
            let want = (loss_at(STEP) - loss_at(-STEP)) / (2.0 * STEP);
            assert!(
                (gradient[element] - want).abs() <= 1e-9,
                "{} and {want}",
                gradient[element]
            );
        }
    }
    // Equal scores: P is 1 / E, and Σ f is E whoever was chosen.
    let gate = net
        .parameters
        .get_mut("model.layers.1.mlp.gate.weight")
        .unwrap();
    gate.tensor = gate.tensor.zeros_like();
    assert!((loss(&net).0 - alpha).abs() < 1e-6, "f is counted in f32");
}

/// Each sequence of a batch as a batch.
fn sequences(whole: &Batch) -> Vec<Batch> {
    let of_sequence = whole.length + 2;
    let all = whole.ids.chunks(of_sequence);
    all.zip(whole.loss.chunks(of_sequence))
        .map(|(ids, loss)| Batch {
            n_sequences: 1,
            length: whole.length,
            ids: ids.to_vec(),
            loss: loss.to_vec(),
        })
        .collect()
}

/// The gradient of the mean over sequences of the mean over the targets of each, those without
/// targets apart.
#[test]
fn sequences_of_few_targets_weigh_as_much_as_others() {
    let net = net(&config(&config_json()), 9, DType::F64);
    let mut whole = batch(4, 10, 37, 11);
    // One target in the second, none in the third; the first token of a sequence is no target.
    whole.loss[12..36].fill(false);
    whole.loss[12] = true;
    whole.loss[12 + 4] = true;
    whole.loss[24] = true;
    let weights = target_weights(Weighted::BySequence, std::slice::from_ref(&whole)).remove(0);
    let counts = whole.n_targets();
    assert_eq!(counts[1..3], [1, 0]);
    for (weight, n) in weights.iter().zip(counts).filter(|(_, n)| *n > 0) {
        assert!(
            (weight * n as f64 - 1.0 / 3.0).abs() < 1e-15,
            "{weight}, {n}"
        );
    }
    let leaves = net.leaves(|_| true);
    let result = forward(
        &net.config,
        &leaves,
        &whole,
        OPTIONS,
        &weights,
        1.0,
        &biases,
    )
    .unwrap();
    let together = result.surrogate.unwrap().backward();
    let parts = sequences(&whole);
    let alone: Vec<Gradients> = [0, 1, 3]
        .map(|part: usize| gradients(&net, &parts[part], OPTIONS, |_| true))
        .into();
    let name = "model.layers.0.self_attn.o_proj.weight";
    let leaf = leaves.iter().find(|(found, _)| *found == name).unwrap().1;
    let found = values(leaf.grad(&together).unwrap());
    for (element, found) in found.iter().enumerate() {
        let parts = alone.iter().map(|part| values(part[name].clone())[element]);
        let want = parts.sum::<f64>() / 3.0;
        // Sums of a few hundred terms in another order.
        assert!((found - want).abs() <= 1e-12, "{found} and {want}");
    }
}

#[test]
fn gradients_of_micro_batches_add_up_to_that_of_the_batch() {
    let net = net(&config(&config_json()), 9, DType::F64);
    let whole = batch(3, 10, 37, 11);
    let options = PassOptions {
        attention: AttentionMode::Sparse { k: 5 },
        mtp_weight: 0.3,
        balance_weight: 0.1,
        ..OPTIONS
    };
    let together = gradients(&net, &whole, options, |_| true);
    let parts = sequences(&whole);
    let weights = target_weights(Weighted::ByTarget, &parts);
    let mut sums: BTreeMap<String, Tensor<2>> = BTreeMap::new();
    for (part, weights) in parts.iter().zip(&weights) {
        let leaves = net.leaves(|_| true);
        let result = forward(
            &net.config,
            &leaves,
            part,
            options,
            weights,
            1.0 / 3.0,
            &biases,
        );
        let result = result.unwrap();
        let all = result.surrogate.unwrap().backward();
        for (name, leaf) in leaves.iter() {
            let Some(gradient) = leaf.grad(&all) else {
                continue;
            };
            let sum = match sums.remove(name) {
                None => gradient,
                Some(sum) => sum + gradient,
            };
            sums.insert(name.into(), sum);
        }
    }
    for (name, gradient) in together {
        let (a, b) = (values(gradient), values(sums[&name].clone()));
        let size = a.iter().fold(0.0_f64, |size, x| size.max(x.abs()));
        for (a, b) in a.iter().zip(&b) {
            // Sums of a few hundred terms in another order.
            assert!(
                (a - b).abs() <= 1e-12 * size.max(1.0),
                "{name}: {a} and {b}"
            );
        }
    }
}

/// All parameters of the indexers together.
#[test]
fn the_divergence_changes_along_any_direction_as_its_gradients_say() {
    let net = net(&config(&config_json()), 10, DType::F64);
    let batch = batch(1, 9, 37, 12);
    let options = PassOptions {
        attention: AttentionMode::DenseWarmup,
        main_loss: false,
        ..OPTIONS
    };
    let gradients = gradients(&net, &batch, options, |role| role == Role::Indexer);
    let mut random = Random::new(&[13], "directions");
    for _ in 0..3 {
        let mut slope = 0.0;
        let mut ends = [net.clone(), net.clone()];
        for (name, gradient) in &gradients {
            let direction = tensor(&mut random, gradient.dims(), DType::F64);
            slope += values((gradient.clone() * direction.clone()).sum())[0];
            for (end, sign) in ends.iter_mut().zip([STEP, -STEP]) {
                let parameter = end.parameters.get_mut(name).unwrap();
                parameter.tensor = parameter.tensor.clone() + direction.clone() * sign;
            }
        }
        let [up, down] = ends.map(|net| divergence(&stats(&net, &batch, options)));
        let want = (up - down) / (2.0 * STEP);
        assert!(
            (slope - want).abs() <= TOLERANCE * want.abs().max(1.0),
            "{slope} and {want}"
        );
    }
}
