//! The most memory that a run ever held, against what the checkpoint and its caches weigh.
//!
//! `cargo bench --bench memory` writes a random model of some 200 M parameters in each storage and
//! runs it in a process of its own: load with the check of all values, a prompt of 512 tokens, 16
//! tokens more. Linux only: it reads `VmHWM`, which counts mapped pages of the checkpoint too.

mod random_model;

use std::process::Command;
use std::sync::Arc;

use engine::{Device, Model, Session, SessionOptions};

use random_model::{Store, write};

const CONFIG: &str = r#"{
    "model_type": "deepseek_v32", "vocab_size": 16384, "hidden_size": 1024, "intermediate_size": 4096,
    "num_hidden_layers": 4, "num_attention_heads": 16, "q_lora_rank": 512, "kv_lora_rank": 512,
    "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
    "index_n_heads": 16, "index_head_dim": 128, "index_topk": 256,
    "n_routed_experts": 32, "n_shared_experts": 1, "num_experts_per_tok": 4,
    "moe_intermediate_size": 512, "first_k_dense_replace": 1, "n_group": 4, "topk_group": 2,
    "topk_method": "noaux_tc", "scoring_func": "sigmoid", "norm_topk_prob": true,
    "routed_scaling_factor": 2.5, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
    "max_position_embeddings": 163840, "num_nextn_predict_layers": 0,
    "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}
}"#;

/// Says that this process is the one that is measured, in this folder.
const MEASURED: &str = "SPARSIGHT_MEASURED_FOLDER";

const MIB: f64 = (1 << 20) as f64;

fn main() {
    if let Some(folder) = std::env::var_os(MEASURED) {
        return measure(folder.as_ref());
    }
    println!("| weights | checkpoint MiB | caches MiB | peak MiB | bound MiB |");
    println!("|---|---|---|---|---|");
    for (name, store) in Store::ALL {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        write(folder.path(), CONFIG, *store);
        let file = folder.path().join("model.safetensors");
        let checkpoint = std::fs::metadata(file).expect("it was just written").len() as f64 / MIB;
        let program = std::env::current_exe().expect("the system knows this program");
        let output = Command::new(program).env(MEASURED, folder.path()).output();
        let output = output.expect("this program can be started again");
        let said = String::from_utf8_lossy(&output.stdout);
        let mut numbers = said
            .split_whitespace()
            .map(|number| number.parse::<f64>().ok());
        let (Some(Some(cache)), Some(Some(peak))) = (numbers.next(), numbers.next()) else {
            panic!(
                "the measured process failed: {said} {}",
                String::from_utf8_lossy(&output.stderr)
            );
        };
        // 1.1 times the checkpoint, the caches, and 300 MB.
        let bound = 1.1 * checkpoint + cache + 3e8 / MIB;
        println!("| {name} | {checkpoint:.0} | {cache:.1} | {peak:.0} | {bound:.0} |");
        assert!(peak <= bound, "more than the bound");
    }
}

/// Runs the model and prints the caches and the peak in MiB.
fn measure(folder: &std::path::Path) {
    let model = Model::open(folder, &Device::cpu()).expect("the model was just written");
    let mut session =
        Session::new(Arc::new(model), SessionOptions::default()).expect("default options");
    let prompt: Vec<u32> = (0..512).collect();
    session.advance(&prompt).expect("the context holds it");
    for id in 0..16 {
        session.advance(&[id]).expect("the context holds it");
    }
    let status =
        std::fs::read_to_string("/proc/self/status").expect("Linux tells of its processes");
    let peak = status
        .lines()
        .find_map(|line| {
            line.strip_prefix("VmHWM:")?
                .trim()
                .strip_suffix(" kB")?
                .parse::<f64>()
                .ok()
        })
        .expect("Linux tells the peak of each process");
    println!(
        "{} {}",
        session.cache_bytes().total() as f64 / MIB,
        peak / 1024.0
    );
}
