//! What training has to be true to: derivatives, the engine's own forward pass, its state on disk.
//!
//! Several modules are needed for each, so these tests stand here and not beside one of them.

#![allow(clippy::unwrap_used, reason = "a test may fail by panic")]

mod exports;
mod model;
mod ops;
mod parity;
mod refusals;
mod resume;
mod steps;

use burn::Tensor;
use burn::tensor::{DType, Device, TensorData};
use engine::Config;
use engine::definition::Weights;
use serde_json::{Value, json};

use crate::Result;
use crate::net::Net;
use crate::pass::{Batch, PassOptions, PassResult, forward};
use crate::random::Random;
use crate::recipe::Weighted;
use crate::run::target_weights;

/// A model of every part with odd sizes: two layers, the second with experts, an MTP layer.
fn config_json() -> Value {
    json!({
        "architectures": ["DeepseekV32ForCausalLM"],
        "model_type": "deepseek_v32",
        "vocab_size": 37,
        "hidden_size": 20,
        "intermediate_size": 22,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "q_lora_rank": 10,
        "kv_lora_rank": 9,
        "qk_nope_head_dim": 6,
        "qk_rope_head_dim": 4,
        "v_head_dim": 5,
        "index_n_heads": 4,
        "index_head_dim": 8,
        "index_topk": 5,
        "n_routed_experts": 6,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 7,
        "first_k_dense_replace": 1,
        "moe_layer_freq": 1,
        "n_group": 1,
        "topk_group": 1,
        "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",
        "norm_topk_prob": true,
        "routed_scaling_factor": 1.5,
        "num_nextn_predict_layers": 1,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "rope_scaling": {
            "type": "yarn",
            "factor": 4,
            "original_max_position_embeddings": 64,
            "beta_fast": 32,
            "beta_slow": 1,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
        },
        "max_position_embeddings": 600,
        "attention_bias": false,
        "tie_word_embeddings": false,
        "bos_token_id": 0,
        "eos_token_id": 1,
    })
}

fn config(json: &Value) -> Config {
    Config::from_json(&json.to_string()).unwrap()
}

/// A net no part of which is the identity or zero: norms about 1, biases about 0, and weights large
/// enough for attention and experts to have preferences.
fn net(config: &Config, seed: u64, dtype: DType) -> Net {
    let mut net = Net::random(config, 0.3, seed, &Device::flex(), dtype);
    for (name, parameter) in &mut net.parameters {
        if parameter.kind == engine::config::TensorKind::Vector {
            let shape = parameter.tensor.dims();
            let moved = tensor(&mut Random::new(&[seed, 1], name), shape, dtype) * 0.1;
            parameter.tensor = parameter.tensor.clone() + moved;
        }
    }
    net
}

/// Standard normal numbers.
fn tensor<const D: usize>(random: &mut Random, shape: [usize; D], dtype: DType) -> Tensor<D> {
    let n = shape.iter().product();
    let data: Vec<f64> = (0..n).map(|_| random.normal()).collect();
    Tensor::from_data(TensorData::new(data, shape), (&Device::flex(), dtype))
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().try_into_vec_as::<f64>().unwrap()
}

/// A pass over a batch that is all of a step.
fn pass(
    net: &Net,
    leaves: &Weights,
    batch: &Batch,
    options: PassOptions,
    biases: &(dyn Fn(usize) -> Vec<f32> + Sync),
) -> Result<PassResult> {
    let weights = target_weights(Weighted::ByTarget, std::slice::from_ref(batch)).remove(0);
    forward(&net.config, leaves, batch, options, &weights, 1.0, biases)
}

/// Random ids, about three quarters of them targets.
fn batch(n_sequences: usize, length: usize, vocab_size: usize, seed: u64) -> Batch {
    let mut random = Random::new(&[seed], "batch");
    let n = n_sequences * (length + 2);
    Batch {
        n_sequences,
        length,
        ids: (0..n)
            .map(|_| (random.uniform() * vocab_size as f64) as u32)
            .collect(),
        loss: (0..n).map(|_| random.uniform() < 0.75).collect(),
    }
}
