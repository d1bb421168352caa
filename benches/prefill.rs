//! A long prompt on a wgpu device: it runs through, and no launch of it leaves its workspace.
//!
//! `cargo bench --bench prefill -- 131072` feeds that many tokens to a small random model on every
//! adapter found, with every launch recorded.

#[allow(dead_code, reason = "other benches store weights in other types")]
mod random_model;

use std::sync::Arc;
use std::time::Instant;

use engine::cache::{KeyFormat, LatentFormat};
use engine::device::{DeviceKind, list};
use engine::pass::WORKSPACE_BYTES;
use engine::{CacheFormat, Device, Model, Session, SessionOptions};

use random_model::{Store, write};

/// One MoE layer with an indexer; every size small, the selection real.
const CONFIG: &str = r#"{
    "model_type": "deepseek_v32", "vocab_size": 128, "hidden_size": 64, "intermediate_size": 64,
    "num_hidden_layers": 1, "num_attention_heads": 2, "q_lora_rank": 32, "kv_lora_rank": 32,
    "qk_nope_head_dim": 16, "qk_rope_head_dim": 16, "v_head_dim": 16,
    "index_n_heads": 2, "index_head_dim": 32, "index_topk": 64,
    "first_k_dense_replace": 0, "n_routed_experts": 8, "num_experts_per_tok": 2,
    "n_shared_experts": 1, "moe_intermediate_size": 32, "n_group": 1, "topk_group": 1,
    "topk_method": "noaux_tc", "scoring_func": "sigmoid", "norm_topk_prob": true,
    "routed_scaling_factor": 2.5, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
    "max_position_embeddings": 163840, "num_nextn_predict_layers": 0
}"#;

fn main() {
    let n_tokens = std::env::args()
        .find_map(|argument| argument.parse().ok())
        .unwrap_or(8192);
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    write(folder.path(), CONFIG, Store::Bf16);
    println!("| adapter | tokens | seconds | tokens/s | caches MiB | largest scores MiB |");
    println!("|---|---|---|---|---|---|");
    for info in list() {
        if matches!(info.kind, DeviceKind::Cpu | DeviceKind::Reference) {
            continue;
        }
        let device = Device::open(Some(&info.id)).expect("the adapter was just listed");
        let model = Model::open(folder.path(), &device).expect("the model was just written");
        let model = Arc::new(model);
        let options = SessionOptions {
            cache_format: CacheFormat {
                latent: LatentFormat::FlashMla,
                keys: KeyFormat::Fp8,
            },
            ..SessionOptions::default()
        };
        let mut session = Session::new(model.clone(), options).expect("a valid format");
        let ids: Vec<u32> = (0..n_tokens)
            .map(|at: usize| (at * 31 % 128) as u32)
            .collect();
        assert!(model.start_profile(false), "a wgpu device launches kernels");
        let start = Instant::now();
        session.advance(&ids).expect("the context holds it");
        let seconds = start.elapsed().as_secs_f64();
        let profile = model.take_profile().expect("started above");
        let largest = profile
            .launches
            .iter()
            .filter(|launched| launched.op == "index_scores")
            .map(|launched| launched.cost.write_bytes)
            .max()
            .unwrap_or(0);
        assert!(
            largest <= WORKSPACE_BYTES as u64,
            "scores of {largest} bytes, expected at most {WORKSPACE_BYTES}"
        );
        println!(
            "| {} | {n_tokens} | {seconds:.0} | {:.0} | {:.1} | {:.1} |",
            info.name,
            n_tokens as f64 / seconds,
            session.cache_bytes().total() as f64 / f64::from(1 << 20),
            largest as f64 / f64::from(1 << 20)
        );
    }
}
