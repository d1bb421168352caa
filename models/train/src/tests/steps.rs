//! What moves parameters: the optimiser, the schedule of its rate, the balance of experts.

use std::path::Path;

use burn::Tensor;
use burn::tensor::DType;
use engine::config::TensorKind;

use super::{config, config_json, net, tensor, values};
use crate::adamw::{AdamW, Gradients};
use crate::random::Random;
use crate::recipe::{OptimizerSettings, Recipe, STAGES, Stage};

const SETTINGS: OptimizerSettings = OptimizerSettings {
    beta_1: 0.9,
    beta_2: 0.95,
    epsilon: 1e-8,
    weight_decay: 0.1,
    clip: 1.0,
};

/// The rule of arXiv 1711.05101, number by number.
struct Reference {
    theta: Vec<f64>,
    m: Vec<f64>,
    v: Vec<f64>,
    decay: f64,
}

impl Reference {
    fn step(&mut self, g: &[f64], t: i32, rate: f64) {
        for (i, &g) in g.iter().enumerate() {
            self.m[i] = 0.9 * self.m[i] + 0.1 * g;
            self.v[i] = 0.95 * self.v[i] + 0.05 * g * g;
            let m = self.m[i] / (1.0 - 0.9_f64.powi(t));
            let v = self.v[i] / (1.0 - 0.95_f64.powi(t));
            self.theta[i] -= rate * (m / (v.sqrt() + 1e-8) + self.decay * self.theta[i]);
        }
    }
}

/// In f64, where only the order of operations differs, and in f32, where each of ten steps rounds
/// some ten times.
#[test]
fn adamw_is_the_rule_of_the_paper() {
    for (dtype, tolerance) in [(DType::F64, 1e-13), (DType::F32, 3e-6)] {
        let mut net = net(&config(&config_json()), 1, dtype);
        let names = [
            ("model.layers.0.self_attn.kv_b_proj.weight", 0.1),
            ("model.layers.1.self_attn.indexer.k_norm.bias", 0.0),
        ];
        let mut references: Vec<Reference> = names
            .iter()
            .map(|&(name, decay)| {
                let theta = values(net.parameters[name].tensor.clone());
                let zeros = vec![0.0; theta.len()];
                Reference {
                    m: zeros.clone(),
                    v: zeros,
                    theta,
                    decay,
                }
            })
            .collect();
        let untouched = values(net.parameters["lm_head.weight"].tensor.clone());
        let mut random = Random::new(&[2], "gradients");
        let mut optimizer = AdamW::default();
        for t in 1..=10 {
            let rate = 1e-2 / f64::from(t);
            // Far below and far above the clip; the first steps with one gradient all zeros.
            let size = [0.001, 1.0, 30.0][t as usize % 3];
            let mut gradients = Gradients::new();
            for (at, (name, _)) in names.into_iter().enumerate() {
                let shape = net.parameters[name].tensor.dims();
                let zero = at == 1 && t < 3;
                let g: Tensor<2> =
                    tensor(&mut random, shape, dtype) * if zero { 0.0 } else { size };
                gradients.insert(name.into(), g);
            }
            let all: Vec<Vec<f64>> = names
                .iter()
                .map(|(name, _)| values(gradients[*name].clone()))
                .collect();
            let norm = all.iter().flatten().map(|g| g * g).sum::<f64>().sqrt();
            let got = optimizer
                .step(&mut net, gradients, rate, &SETTINGS)
                .unwrap();
            assert!((got - norm).abs() <= 1e-5 * norm, "norm {got} and {norm}");
            let cut = if norm > 1.0 { 1.0 / norm } else { 1.0 };
            for (reference, g) in references.iter_mut().zip(all) {
                let g: Vec<f64> = g.iter().map(|g| g * cut).collect();
                reference.step(&g, t, rate);
            }
        }
        for (reference, (name, _)) in references.iter().zip(names) {
            let got = values(net.parameters[name].tensor.clone());
            for (got, want) in got.iter().zip(&reference.theta) {
                assert!((got - want).abs() <= tolerance, "{name}: {got} and {want}");
            }
        }
        assert_eq!(
            values(net.parameters["lm_head.weight"].tensor.clone()),
            untouched
        );
        assert_eq!(optimizer.n_steps, 10);
    }
}

#[test]
fn a_step_without_gradients_changes_nothing() {
    let mut net = net(&config(&config_json()), 1, DType::F32);
    let mut optimizer = AdamW::default();
    let norm = optimizer.step(&mut net, Gradients::new(), 1.0, &SETTINGS);
    assert_eq!(norm.unwrap(), 0.0);
    assert_eq!(optimizer.n_steps, 0);
}

fn tiny() -> Recipe {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tiny.toml");
    Recipe::open(&path).unwrap()
}

fn stage(steps: usize, warmup_steps: usize) -> Stage {
    let mut stage = tiny().stages.remove(0);
    stage.steps = steps;
    stage.warmup_steps = warmup_steps;
    (stage.learning_rate, stage.final_learning_rate) = (1e-3, 1e-4);
    stage
}

#[test]
fn the_rate_rises_and_falls() {
    let close = |got: f64, want: f64| assert!((got - want).abs() < 1e-12, "{got} and {want}");
    let usual = stage(110, 10);
    close(usual.learning_rate_at(0), 1e-4);
    close(usual.learning_rate_at(9), 1e-3);
    close(usual.learning_rate_at(10), 1e-3);
    close(usual.learning_rate_at(60), 5.5e-4);
    close(usual.learning_rate_at(110), 1e-4);
    assert!(usual.learning_rate_at(109) > 1e-4 && usual.learning_rate_at(109) < 1.01e-4);
    for step in 10..109 {
        assert!(usual.learning_rate_at(step + 1) < usual.learning_rate_at(step));
    }
    // Without a rise, with nothing but a rise, and a single step.
    close(stage(10, 0).learning_rate_at(0), 1e-3);
    close(stage(10, 10).learning_rate_at(9), 1e-3);
    close(stage(10, 10).learning_rate_at(0), 1e-4);
    close(stage(1, 0).learning_rate_at(0), 1e-3);
    close(stage(1, 1).learning_rate_at(0), 1e-3);
}

#[test]
fn the_bias_of_a_busy_expert_falls() {
    let mut bias = vec![0.5, 0.5, 0.5, 0.5];
    crate::run::balance(&mut bias, &[10, 0, 4, 2], 0.125);
    // The mean is 4.
    assert_eq!(bias, [0.375, 0.625, 0.5, 0.625]);
    crate::run::balance(&mut bias, &[0, 0, 0, 0], 0.125);
    assert_eq!(bias, [0.375, 0.625, 0.5, 0.625]);
    crate::run::balance(&mut bias, &[9, 9, 9, 9], 0.125);
    assert_eq!(bias, [0.375, 0.625, 0.5, 0.625]);
}

#[test]
fn the_recipe_of_the_tiny_model_is_sound() {
    let recipe = tiny();
    let kinds: Vec<_> = recipe
        .stages
        .iter()
        .map(|stage| stage.kind.as_str())
        .collect();
    for kind in STAGES {
        assert!(kinds.contains(&kind.name), "no stage of kind {}", kind.name);
    }
    let text = std::fs::read_to_string(&recipe.config).unwrap();
    let config = engine::Config::from_json(&text).unwrap();
    for stage in &recipe.stages {
        assert!(
            stage.length <= config.max_position_embeddings,
            "{}",
            stage.name
        );
        for name in stage.mixture.keys() {
            let known = crate::data::KINDS.iter().any(|kind| kind.name == name);
            assert!(known, "{name} of {}", stage.name);
        }
    }
    assert_eq!(config.num_nextn_predict_layers, 1);
    let vectors = config.tensors(true);
    assert!(vectors.iter().any(|spec| spec.kind == TensorKind::Vector));
}

#[test]
fn a_recipe_can_do_without_real_texts() {
    let mut recipe = tiny();
    let n_stages = recipe.stages.len();
    let dropped = recipe.drop_real_texts();
    assert!(dropped.contains(&"children") && !dropped.contains(&"story"));
    assert_eq!(recipe.stages.len(), n_stages);
    recipe.check().unwrap();
    let mut kinds = recipe.stages.iter().flat_map(|stage| stage.mixture.keys());
    assert!(kinds.all(|kind| !dropped.contains(&kind.as_str())));
}
