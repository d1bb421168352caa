//! Our WGSL kernels against Burn's own tensor kernels on one wgpu adapter.
//!
//! `cargo bench --bench gpu` writes two random models and times decoded tokens of each both ways: one
//! layer whose index scores, top-k and attention at a context of 4,096 outweigh the rest, and a small
//! whole model. With the word `ours` Burn's side, which takes minutes, is left out. On software Vulkan this is no measure of a GPU, only of one text against another.

#[allow(dead_code, reason = "other benches store weights in other types")]
mod random_model;

use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::device::{DeviceKind, Kernels, list};
use engine::{Device, Model, Session, SessionOptions};

use random_model::{Store, write};

/// One layer, V3.2's own indexer and a quarter of its heads; everything else is small.
const SELECTION: Case = Case {
    name: "index scores + top-k + attention, 4,096 tokens of context",
    config: r#"{
        "model_type": "deepseek_v32", "vocab_size": 128, "hidden_size": 64, "intermediate_size": 64,
        "num_hidden_layers": 1, "num_attention_heads": 32, "q_lora_rank": 64, "kv_lora_rank": 512,
        "qk_nope_head_dim": 16, "qk_rope_head_dim": 64, "v_head_dim": 16,
        "index_n_heads": 64, "index_head_dim": 128, "index_topk": 2048,
        "first_k_dense_replace": 1, "n_routed_experts": 8, "num_experts_per_tok": 2,
        "n_shared_experts": 1, "moe_intermediate_size": 32, "n_group": 1, "topk_group": 1,
        "topk_method": "noaux_tc", "scoring_func": "sigmoid", "norm_topk_prob": true,
        "routed_scaling_factor": 2.5, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "max_position_embeddings": 163840, "num_nextn_predict_layers": 0
    }"#,
    context: 4096,
    bar: 3.0,
};

const WHOLE: Case = Case {
    name: "whole small model, 512 tokens of context",
    config: r#"{
        "model_type": "deepseek_v32", "vocab_size": 1024, "hidden_size": 256,
        "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 8,
        "q_lora_rank": 128, "kv_lora_rank": 128,
        "qk_nope_head_dim": 32, "qk_rope_head_dim": 32, "v_head_dim": 32,
        "index_n_heads": 4, "index_head_dim": 32, "index_topk": 256,
        "n_routed_experts": 16, "n_shared_experts": 1, "num_experts_per_tok": 4,
        "moe_intermediate_size": 128, "first_k_dense_replace": 1, "n_group": 4, "topk_group": 2,
        "topk_method": "noaux_tc", "scoring_func": "sigmoid", "norm_topk_prob": true,
        "routed_scaling_factor": 2.5, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "max_position_embeddings": 163840, "num_nextn_predict_layers": 0
    }"#,
    context: 512,
    bar: 1.5,
};

struct Case {
    name: &'static str,
    config: &'static str,
    context: usize,
    /// How many times as fast our kernels must be.
    bar: f64,
}

/// Tokens timed; the median counts.
const TOKENS: u32 = 31;

fn main() {
    let mut short = false;
    for info in list() {
        if matches!(info.kind, DeviceKind::Cpu | DeviceKind::Reference) {
            continue;
        }
        println!("{} ({}, {})\n", info.name, info.id, info.driver);
        println!("| case | Burn's kernels ms/token | ours ms/token | ratio | bar |");
        println!("|---|---|---|---|---|");
        for case in [&SELECTION, &WHOLE] {
            let folder = tempfile::tempdir().expect("a temporary folder can be made");
            write(folder.path(), case.config, Store::Bf16);
            let open = |device: engine::Result<Device>| {
                let device = device.expect("the adapter was just listed");
                let model = Model::open(folder.path(), &device).expect("it was just written");
                filled(case, Arc::new(model))
            };
            let kernels = Kernels::Ours {
                by_reference: Vec::new(),
            };
            let ours = open(Device::open_with(&info.id, kernels));
            if std::env::args().any(|argument| argument == "ours") {
                let [time] = decode([ours]);
                println!("| {} | - | {time:.1} | - | {} |", case.name, case.bar);
                continue;
            }
            let burn = open(Device::open_with(&info.id, Kernels::Burn));
            let [ours, burn] = decode([ours, burn]);
            let ratio = burn / ours;
            short |= ratio < case.bar;
            println!(
                "| {} | {burn:.1} | {ours:.1} | {ratio:.2} | {} |",
                case.name, case.bar
            );
        }
    }
    assert!(!short, "a case is below its bar");
}

/// A session after the case's context.
fn filled(case: &Case, model: Arc<Model>) -> Session {
    let mut session = Session::new(model, SessionOptions::default()).expect("default options");
    let prompt: Vec<u32> = (0..case.context).map(|at| (at * 31 % 128) as u32).collect();
    session.advance(&prompt).expect("the context holds it");
    session
}

/// Median milliseconds of a token, the sessions taking turns: what slows the machine slows all.
fn decode<const N: usize>(mut sessions: [Session; N]) -> [f64; N] {
    let mut times = [const { Vec::new() }; N];
    for id in 0..TOKENS {
        for (session, times) in sessions.iter_mut().zip(&mut times) {
            let start = Instant::now();
            session.advance(&[id]).expect("the context holds it");
            times.push(start.elapsed());
        }
    }
    for session in &mut sessions {
        let model = session.model().clone();
        if model.start_profile(true) {
            session.advance(&[0]).expect("the context holds it");
            let profile = model.take_profile().expect("started above");
            for (op, sum) in profile.by_op() {
                let time_ms = sum.duration.as_secs_f64() * 1e3;
                eprintln!("  {op}: {} launches, {time_ms:.2} ms", sum.n);
            }
        }
    }
    times.map(|mut times: Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2].as_secs_f64() * 1e3
    })
}
