//! Every native body against its portable one in `f64`, through whole random models of nasty shapes:
//! every member of the family, every stored type, every stage of every layer.
//!
//! One schedule runs on both: chunks of odd lengths, dense, sparse, expanded, with other `index_topk`.

use std::path::Path;
use std::sync::Arc;

use engine::cache::{KeyFormat, LatentFormat};
use engine::generate::{GenerateOptions, Generation};
use engine::model::{ForwardOptions, LoadOptions, LogitRows};
use engine::sampler::{Sampler, SamplerOptions};
use engine::trace::{Frame, Site, Stage, Trace, Value, Watch, WatchedRows};
use engine::verify::Tolerance;
use engine::{CacheFormat, Device, Error, Model, Session, SessionOptions, trace_file};
use half::f16;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Value as Json, json};

use crate::random_model::{self, Store};

const VOCAB: u32 = 61;

/// Odd sizes everywhere: a rank that is no multiple of 128, `dv` other than `dn`, widths that are no
/// multiple of 16.
fn odd() -> Json {
    json!({
        "model_type": "deepseek_v32", "vocab_size": VOCAB, "hidden_size": 37,
        "intermediate_size": 19, "num_hidden_layers": 3, "num_nextn_predict_layers": 1,
        "num_attention_heads": 3, "q_lora_rank": 21, "kv_lora_rank": 160, "qk_nope_head_dim": 5,
        "qk_rope_head_dim": 6, "v_head_dim": 9, "max_position_embeddings": 4096,
        "index_n_heads": 5, "index_head_dim": 16, "index_topk": 7,
        "n_routed_experts": 6, "num_experts_per_tok": 2, "n_shared_experts": 2,
        "moe_intermediate_size": 11, "n_group": 3, "topk_group": 2, "first_k_dense_replace": 1,
        "rope_scaling": {"type": "yarn", "factor": 4, "original_max_position_embeddings": 16,
                         "beta_fast": 32, "beta_slow": 1, "mscale": 1, "mscale_all_dim": 1},
    })
}

fn with(changes: Json) -> Json {
    let mut config = odd();
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

/// Configs under a name.
fn configs() -> Vec<(&'static str, Json)> {
    vec![
        ("odd", odd()),
        (
            "least",
            with(json!({
                "hidden_size": 3, "intermediate_size": 1, "num_attention_heads": 1,
                "q_lora_rank": 1, "kv_lora_rank": 2, "qk_nope_head_dim": 1, "qk_rope_head_dim": 2,
                "v_head_dim": 1, "index_n_heads": 1, "index_head_dim": 2, "index_topk": 1,
                "n_routed_experts": 1, "num_experts_per_tok": 1, "n_shared_experts": 0,
                "moe_intermediate_size": 1, "n_group": 1, "topk_group": 1, "rope_scaling": null,
            })),
        ),
        (
            "many index heads",
            with(json!({
                "index_n_heads": 13, "index_head_dim": 130, "kv_lora_rank": 130,
                "num_attention_heads": 6, "tie_word_embeddings": true, "index_topk": 2048,
            })),
        ),
        (
            "shared indexers",
            with(json!({
                "model_type": "glm_moe_dsa", "num_hidden_layers": 5, "num_attention_heads": 7,
                "index_topk_freq": 3, "index_skip_topk_offset": 1, "n_group": 1, "topk_group": 1,
                "index_n_heads": 10, "rope_scaling": null,
            })),
        ),
        (
            "v3",
            with(
                json!({"model_type": "deepseek_v3", "num_attention_heads": 5, "kv_lora_rank": 17, "index_topk": null}),
            ),
        ),
        (
            "v2 lite",
            with(json!({
                "model_type": "deepseek_v2", "q_lora_rank": null, "scoring_func": "softmax",
                "topk_method": "greedy", "norm_topk_prob": false, "num_nextn_predict_layers": 0,
                "moe_layer_freq": 2, "num_hidden_layers": 4, "index_topk": null,
            })),
        ),
        (
            "v2 in groups",
            with(json!({
                "model_type": "deepseek_v2", "scoring_func": "softmax", "norm_topk_prob": false,
                "topk_method": "group_limited_greedy", "num_nextn_predict_layers": 0,
                "routed_scaling_factor": 16.0, "kv_lora_rank": 129, "index_topk": null,
            })),
        ),
    ]
}

/// Turns the matrices of an `f32` checkpoint into `f16`, which the benches do not write.
fn to_f16(folder: &Path) {
    let path = folder.join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let halves: Vec<(String, Vec<usize>, Vec<u8>)> = file
        .iter()
        .map(|(name, view)| {
            let floats = view
                .data()
                .as_chunks()
                .0
                .iter()
                .map(|b| f32::from_le_bytes(*b));
            let halves = floats.flat_map(|value| f16::from_f32(value).to_le_bytes());
            (name.to_owned(), view.shape().to_vec(), halves.collect())
        })
        .collect();
    let views = halves.iter().map(|(name, shape, bytes)| {
        (
            name,
            TensorView::new(Dtype::F16, shape.clone(), bytes).unwrap(),
        )
    });
    safetensors::serialize_to_file(views, None, &path).unwrap();
}

/// The same checkpoint on the CPU and as portable bodies in `f64`.
fn on_both(folder: &Path) -> [Arc<Model>; 2] {
    [Device::cpu(), Device::open(Some("portable-f64")).unwrap()]
        .map(|device| Arc::new(Model::open(folder, &device).unwrap()))
}

fn ids(n: usize) -> Vec<u32> {
    (0..n as u32)
        .map(|i| (i * i * 7 + i * 3 + 5) % VOCAB)
        .collect()
}

/// Tokens and the knobs they are fed under.
fn schedule(has_indexer: bool) -> Vec<(usize, ForwardOptions)> {
    let plain = ForwardOptions::default;
    let dense = ForwardOptions {
        dense: true,
        ..plain()
    };
    let mha = ForwardOptions {
        mha_prefill: true,
        ..plain()
    };
    let topk = |k| ForwardOptions {
        index_topk: has_indexer.then_some(k),
        ..plain()
    };
    let wide = ForwardOptions {
        mha_prefill: true,
        ..topk(1 << 40)
    };
    vec![
        (5, plain()),
        (9, dense),
        (1, plain()),
        (11, mha),
        (7, topk(1)),
        (6, wide),
        (1, topk(3)),
    ]
}

fn run(model: &Arc<Model>, cache_format: CacheFormat) -> Vec<Frame> {
    let options = SessionOptions {
        cache_format,
        ..SessionOptions::default()
    };
    let mut session = Session::new(model.clone(), options).unwrap();
    session.watch(Watch::everything(WatchedRows::All));
    let ids = ids(100);
    for (n, forward) in schedule(model.config().indexer.is_some()) {
        session.set_forward(forward).unwrap();
        let start = session.position();
        session.advance(&ids[start..start + n]).unwrap();
    }
    session.take_frames()
}

/// Integers equal, floats close.
pub fn compare(what: &str, got: &Frame, want: &Frame, tolerance: Tolerance) {
    let sites = |frame: &Frame| -> Vec<Site> { frame.values.keys().copied().collect() };
    assert_eq!(sites(got), sites(want), "{what}");
    // Layer by layer, what comes after all layers last: the first difference is where to look.
    let mut sites = sites(want);
    sites.sort_by_key(|site| (site.layer.unwrap_or(usize::MAX), *site));
    for site in sites {
        let (want, got) = (&want.values[&site], &got.values[&site]);
        let place = format!("{what}, {site:?}");
        assert_eq!(got.shape(), want.shape(), "{place}");
        match (got, want) {
            (Value::F32 { data: got, .. }, Value::F32 { data: want, .. }) => {
                for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
                    assert!(
                        tolerance.close(got, want),
                        "{place}: number {i} is {got}, expected {want}"
                    );
                }
            }
            _ => assert_eq!(got, want, "{place}"),
        }
    }
}

/// Some hundred roundings of 6e-8 through up to five layers, and expert weights of up to 16: the
/// native bodies are off by up to 1.2e-5 of `1 + |want|`, the portable ones in `f32` by 3.3e-5.
const CLOSE: Tolerance = Tolerance {
    abs: 3e-5,
    rel: 3e-5,
};

/// For norms over two or three channels, which divide by what cancellation left: the native bodies
/// are off by up to 5.1e-5, the portable ones in `f32` by 6.4e-5.
const CLOSE_OF_FEW_CHANNELS: Tolerance = Tolerance {
    abs: 1e-4,
    rel: 1e-4,
};

fn close(name: &str) -> Tolerance {
    if name == "least" {
        CLOSE_OF_FEW_CHANNELS
    } else {
        CLOSE
    }
}

#[test]
fn native_and_portable_bodies_agree_on_every_stage() {
    for (name, config) in configs() {
        for stored in ["f32", "bf16", "fp8", "f16"] {
            let folder = tempfile::tempdir().unwrap();
            let store = Store::ALL.iter().find(|(name, _)| *name == stored);
            let (_, store) = *store.unwrap_or(&Store::ALL[0]);
            random_model::write(folder.path(), &config.to_string(), store);
            if stored == "f16" {
                to_f16(folder.path());
            }
            let [native, portable] = on_both(folder.path());
            let (got, want) = (
                run(&native, CacheFormat::default()),
                run(&portable, CacheFormat::default()),
            );
            assert_eq!(got.len(), want.len());
            for (chunk, (got, want)) in got.iter().zip(&want).enumerate() {
                compare(
                    &format!("{name}, {stored}, chunk {chunk}"),
                    got,
                    want,
                    close(name),
                );
            }
            // Chunks of different widths: each step of the file has its own.
            let path = folder.path().join("trace.safetensors");
            trace_file::save(&path, &got).unwrap();
            assert_eq!(trace_file::load(&path).unwrap(), got);
        }
    }
}

#[test]
fn they_agree_over_the_ends_of_pages() {
    // Latents lie in pages of 256, index keys and tensors in pages of 1,024.
    let folder = tempfile::tempdir().unwrap();
    let config = with(json!({"num_hidden_layers": 2, "index_topk": 40, "kv_lora_rank": 12}));
    random_model::write(folder.path(), &config.to_string(), Store::Bf16);
    let [native, portable] = on_both(folder.path());
    let ids = ids(1040);
    let run = |model: &Arc<Model>, chunk_tokens, is_dense| {
        let options = SessionOptions {
            chunk_tokens,
            ..SessionOptions::default()
        };
        let mut session = Session::new(model.clone(), options).unwrap();
        session
            .set_forward(ForwardOptions {
                dense: is_dense,
                ..ForwardOptions::default()
            })
            .unwrap();
        let stages = [Stage::SelectedPositions, Stage::Hidden, Stage::Logits];
        session.watch(Watch {
            stages: stages.into(),
            ..Watch::default()
        });
        let mut frames = Vec::new();
        // A row before, at and after each end.
        for end in [255, 256, 257, 1023, 1024, 1025, 1040] {
            let start = session.position();
            session.advance(&ids[start..end]).unwrap();
            frames.extend(session.take_frames());
        }
        frames
    };
    for is_dense in [false, true] {
        let want = run(&portable, 2000, is_dense);
        for chunk_tokens in [2000, 97] {
            let got = run(&native, chunk_tokens, is_dense);
            for (got, want) in got.iter().zip(&want) {
                compare(
                    &format!("dense {is_dense}, chunks of {chunk_tokens}"),
                    got,
                    want,
                    CLOSE,
                );
            }
        }
    }
}

#[test]
fn they_agree_with_caches_in_fp8_of_ragged_blocks() {
    for (name, config) in configs() {
        let folder = tempfile::tempdir().unwrap();
        // Everything selected: a key or latent at an edge of rounding may not change a selection.
        let mut config = config;
        if !config["index_topk"].is_null() {
            config["index_topk"] = json!(2048);
        }
        random_model::write(folder.path(), &config.to_string(), Store::F32);
        let [native, portable] = on_both(folder.path());
        let dim = native
            .config()
            .indexer
            .as_ref()
            .map(|indexer| indexer.index_head_dim);
        let keys = match dim {
            Some(dim) if dim.is_power_of_two() => KeyFormat::Fp8,
            _ => KeyFormat::F32,
        };
        let format = CacheFormat {
            latent: LatentFormat::Fp8,
            keys,
        };
        let [got, want] = [native, portable].map(|model| {
            let options = SessionOptions {
                cache_format: format,
                chunk_tokens: 13,
            };
            let mut session = Session::new(model, options).unwrap();
            session.watch(Watch {
                stages: [Stage::IndexScores, Stage::Logits].into(),
                layers: Some([0].into()),
                rows: WatchedRows::All,
                ..Watch::default()
            });
            session.advance(&ids(40)).unwrap();
            session.take_frames()
        });
        for (got, want) in got.iter().zip(&want) {
            compare(&format!("{name} in fp8"), got, want, Tolerance::FP8_STEP);
        }
    }
}

#[test]
fn they_agree_on_what_the_mtp_layer_says_in_any_chunks() {
    for (name, config) in configs() {
        let folder = tempfile::tempdir().unwrap();
        random_model::write(folder.path(), &config.to_string(), Store::Bf16);
        let models = on_both(folder.path());
        if !models[0].has_mtp() {
            let format = CacheFormat::default();
            assert!(matches!(
                models[0].new_mtp_cache(format),
                Err(Error::Setting { .. })
            ));
            continue;
        }
        let ids = ids(31);
        let go = |model: &Arc<Model>, chunk: usize| {
            let mut session = Session::new(model.clone(), SessionOptions::default()).unwrap();
            let hidden = session.advance_all(&ids[..30]).unwrap().hidden;
            let mut cache = model.new_mtp_cache(CacheFormat::default()).unwrap();
            let mut logits = Vec::new();
            for first in (0..30).step_by(chunk) {
                let n = chunk.min(30 - first);
                let rows = hidden.slice(first, n);
                let next = &ids[first + 1..][..n];
                let options = ForwardOptions::default();
                let trace = &mut Trace::off();
                let all = LogitRows::All;
                let out = model
                    .forward_mtp(&rows, next, &mut cache, &options, all, trace)
                    .unwrap();
                logits.extend(out.unwrap().read().unwrap());
            }
            // The same token again: the last row only, or none.
            cache.truncate(29);
            let (last, next, options) = (hidden.slice(29, 1), &ids[30..31], Default::default());
            for (asked, n_rows) in [(LogitRows::None, 0), (LogitRows::Last, 1)] {
                cache.truncate(29);
                let out = model
                    .forward_mtp(&last, next, &mut cache, &options, asked, &mut Trace::off())
                    .unwrap();
                let rows = out.map_or(Vec::new(), |out| out.read().unwrap());
                assert_eq!(rows, logits[logits.len() - n_rows * VOCAB as usize..]);
            }
            assert_eq!(cache.n_tokens(), 30);
            let logits_in = session.advance_all(&ids[30..]).unwrap().logits.unwrap();
            let (next, options) = (&ids[..1], ForwardOptions::default());
            let (all, trace) = (LogitRows::All, &mut Trace::off());
            let wide = model.forward_mtp(&logits_in, next, &mut cache, &options, all, trace);
            let wide = wide.unwrap_err().to_string();
            assert!(wide.contains("rows of 61 numbers"), "{wide}");
            // What is refused leaves the cache as it was.
            let last = hidden.slice(29, 1);
            let zero = ForwardOptions {
                index_topk: Some(0),
                ..ForwardOptions::default()
            };
            for (next, options) in [
                (&ids[..1], &zero),
                (&ids[..2], &ForwardOptions::default()),
                (&[VOCAB][..], &ForwardOptions::default()),
            ] {
                let (all, trace) = (LogitRows::All, &mut Trace::off());
                let result = model.forward_mtp(&last, next, &mut cache, options, all, trace);
                assert!(result.is_err());
                assert_eq!(cache.n_tokens(), 30);
            }
            logits
        };
        let [native, portable] = &models;
        let whole = go(native, 30);
        assert_eq!(go(native, 7), whole, "{name}");
        for (got, want) in whole.iter().zip(go(portable, 11)) {
            assert!(
                close(name).close(*got, want),
                "{name}: {got}, expected {want}"
            );
        }
    }
}

#[test]
fn weights_that_are_not_numbers_are_an_error_and_no_panic() {
    // NaN in a norm of the first layer, and a head that overflows.
    for (broken, value) in [
        ("model.layers.0.input_layernorm.weight", f32::NAN),
        ("model.layers.1.post_attention_layernorm.weight", f32::NAN),
        ("model.norm.weight", f32::MAX),
    ] {
        let folder = tempfile::tempdir().unwrap();
        random_model::write(folder.path(), &odd().to_string(), Store::F32);
        let path = folder.path().join("model.safetensors");
        let mut bytes = std::fs::read(&path).unwrap();
        let start = {
            let file = SafeTensors::deserialize(&bytes).unwrap();
            let data = file.tensor(broken).unwrap().data();
            data.as_ptr() as usize - bytes.as_ptr() as usize
        };
        for element in bytes[start..].chunks_exact_mut(4).take(37) {
            element.copy_from_slice(&value.to_le_bytes());
        }
        std::fs::write(&path, bytes).unwrap();
        for device in ["cpu", "portable"] {
            let device = Device::open(Some(device)).unwrap();
            let unchecked = LoadOptions {
                check_values: false,
            };
            let model = Model::load(folder.path(), &device, unchecked, &mut |_| {
                std::ops::ControlFlow::Continue(())
            });
            let model = Arc::new(model.unwrap().unwrap());
            let mut session = Session::new(model, SessionOptions::default()).unwrap();
            let sampler = Sampler::new(SamplerOptions::default()).unwrap();
            let options = GenerateOptions::default();
            let mut generation =
                Generation::new(&session, &ids(20), sampler, None, options).unwrap();
            let error = (0..2).find_map(|_| generation.step(&mut session).err());
            let error = error.expect("neither logits nor index scores are numbers");
            assert!(
                matches!(error, Error::BadLogits { .. } | Error::NanScores { .. }),
                "{broken}: {error}"
            );
            // The timeline ends at a whole chunk, and can go on.
            assert!([0, 20].contains(&session.position()));
        }
    }
}
