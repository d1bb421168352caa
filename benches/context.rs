//! What a decoded token costs as the context grows, sparse and dense side by side.
//!
//! `cargo bench --bench context` writes a small random model, fills its context once, and at each
//! depth times single tokens in both modes, going back in between. With the selection of fixed size
//! the cost of sparse tokens grows by the indexer's scan alone. Depths and the storage of weights can
//! be given: `cargo bench --bench context -- 1024,8192 fp8`.

mod random_model;

use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::model::ForwardOptions;
use engine::{Device, Model, Session, SessionOptions};

use random_model::{Store, write};

const CONFIG: &str = r#"{
    "model_type": "deepseek_v32", "vocab_size": 1024, "hidden_size": 256, "intermediate_size": 512,
    "num_hidden_layers": 3, "num_attention_heads": 8, "q_lora_rank": 128, "kv_lora_rank": 128,
    "qk_nope_head_dim": 32, "qk_rope_head_dim": 32, "v_head_dim": 32,
    "index_n_heads": 4, "index_head_dim": 32, "index_topk": 256,
    "n_routed_experts": 16, "n_shared_experts": 1, "num_experts_per_tok": 4,
    "moe_intermediate_size": 128, "first_k_dense_replace": 1, "n_group": 4, "topk_group": 2,
    "topk_method": "noaux_tc", "scoring_func": "sigmoid", "norm_topk_prob": true,
    "routed_scaling_factor": 2.5, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
    "max_position_embeddings": 163840, "num_nextn_predict_layers": 0
}"#;

const DEPTHS: &[usize] = &[1024, 8192, 32_768, 131_072];

/// Tokens timed in each mode at each depth; the median is shown.
const TOKENS: usize = 33;

fn main() {
    let asked = std::env::args().find_map(|argument| {
        argument
            .split(',')
            .map(|depth| depth.parse().ok())
            .collect::<Option<Vec<usize>>>()
    });
    let depths = asked.unwrap_or_else(|| DEPTHS.to_vec());
    let named = |name: &str| Store::ALL.iter().find(|(known, _)| *known == name);
    let (name, store) = std::env::args()
        .find_map(|argument| named(&argument))
        .unwrap_or(&("bf16", Store::Bf16));
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    write(folder.path(), CONFIG, *store);
    let model = Model::open(folder.path(), &Device::cpu()).expect("the model was just written");
    let mut session =
        Session::new(Arc::new(model), SessionOptions::default()).expect("default options");

    println!(
        "{name} weights, index_topk 256, 3 layers, {} threads; median of {TOKENS} tokens",
        threads()
    );
    println!(
        "| context | sparse ms/token | dense ms/token | prefill tokens/s to here | cache MiB |"
    );
    println!("|---|---|---|---|---|");
    for depth in depths {
        set_dense(&mut session, false);
        let start = Instant::now();
        let from = session.position();
        let prompt: Vec<u32> = (from..depth)
            .map(|position| (position * 31 % 1000) as u32)
            .collect();
        session.advance(&prompt).expect("the context holds it");
        let prefill = prompt.len() as f64 / start.elapsed().as_secs_f64();
        let sparse = decode(&mut session, depth, false);
        let dense = decode(&mut session, depth, true);
        let cache = session.cache_bytes().total() as f64 / f64::from(1 << 20);
        println!("| {depth} | {sparse:.3} | {dense:.3} | {prefill:.0} | {cache:.1} |");
    }
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Median milliseconds of a token at `depth`.
fn decode(session: &mut Session, depth: usize, dense: bool) -> f64 {
    set_dense(session, dense);
    let mut times: Vec<Duration> = (0..TOKENS)
        .map(|i| {
            let start = Instant::now();
            session.advance(&[i as u32]).expect("the context holds it");
            start.elapsed()
        })
        .collect();
    session.rewind(depth).expect("a position behind");
    times.sort_unstable();
    times[TOKENS / 2].as_secs_f64() * 1e3
}

fn set_dense(session: &mut Session, dense: bool) {
    let options = ForwardOptions {
        dense,
        ..ForwardOptions::default()
    };
    session.set_forward(options).expect("a valid setting");
}
