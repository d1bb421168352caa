//! Whole models through the WGSL kernels, on every adapter found: against the portable bodies in
//! `f64`, twice for equal bits, and for what happens when something is wrong.

use std::sync::Arc;

use engine::cache::{KeyFormat, LatentFormat};
use engine::device::{DeviceKind, list};
use engine::generate::{GenerateOptions, Generation, Progress, Stop};
use engine::gpu::{CountCall, count};
use engine::model::{ForwardOptions, LoadOptions, LogitRows};
use engine::sampler::{Sampler, SamplerOptions};
use engine::trace::{Frame, Site, Stage, Trace, Value, Watch, WatchedRows};
use engine::verify::Tolerance;
use engine::{CacheFormat, Device, Error, Model, Session, SessionOptions};
use safetensors::tensor::SafeTensors;
use serde_json::{Value as Json, json};

use crate::bodies::compare;
use crate::random_model::{self, Store};
use crate::{fixture, found};

const VOCAB: u32 = 61;

/// Every wgpu adapter.
fn adapters() -> Vec<Device> {
    let all = list()
        .into_iter()
        .filter(|info| !matches!(info.kind, DeviceKind::Cpu | DeviceKind::Reference))
        .map(|info| Device::open(Some(&info.id)).unwrap());
    found(all.collect())
}

/// Sizes that are multiples of 4, as GPUs need, and of nothing more: ranks across FP8 blocks, `dv`
/// other than `dn`, odd numbers of heads, experts and tokens.
fn odd() -> Json {
    json!({
        "model_type": "deepseek_v32", "vocab_size": VOCAB, "hidden_size": 36,
        "intermediate_size": 20, "num_hidden_layers": 3, "num_nextn_predict_layers": 1,
        "num_attention_heads": 3, "q_lora_rank": 20, "kv_lora_rank": 164, "qk_nope_head_dim": 12,
        "qk_rope_head_dim": 8, "v_head_dim": 20, "max_position_embeddings": 4096,
        "index_n_heads": 5, "index_head_dim": 16, "index_topk": 7,
        "n_routed_experts": 6, "num_experts_per_tok": 2, "n_shared_experts": 2,
        "moe_intermediate_size": 12, "n_group": 3, "topk_group": 2, "first_k_dense_replace": 1,
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

fn configs() -> Vec<(&'static str, Json, &'static str)> {
    vec![
        ("odd", odd(), "f32"),
        ("odd in bf16", odd(), "bf16"),
        (
            "blocks",
            with(json!({
                "hidden_size": 260, "q_lora_rank": 136, "moe_intermediate_size": 132,
                "n_shared_experts": 1, "intermediate_size": 140,
            })),
            "fp8",
        ),
        (
            "no latent queries",
            with(json!({
                "model_type": "deepseek_v3", "q_lora_rank": null, "topk_method": "greedy",
                "n_group": 1, "topk_group": 1, "scoring_func": "softmax", "norm_topk_prob": false,
                "index_n_heads": null, "index_head_dim": null, "index_topk": null,
            })),
            "f32",
        ),
    ]
}

/// Tokens and the knobs they are fed under: both the few-token and the tiled kernels, short, sparse
/// and dense, with other `index_topk`.
fn schedule(has_indexer: bool) -> Vec<(usize, ForwardOptions)> {
    let plain = ForwardOptions::default;
    let dense = ForwardOptions {
        dense: true,
        ..plain()
    };
    let topk = |k| ForwardOptions {
        index_topk: has_indexer.then_some(k),
        ..plain()
    };
    vec![
        (5, plain()),
        (11, dense),
        (1, plain()),
        (37, plain()),
        (7, topk(1)),
        (6, topk(2048)),
        (1, topk(3)),
    ]
}

fn ids(n: usize) -> Vec<u32> {
    (0..n as u32)
        .map(|i| (i * i * 7 + i * 3 + 5) % VOCAB)
        .collect()
}

fn run(model: &Arc<Model>, cache_format: CacheFormat) -> Vec<Frame> {
    run_as(
        model,
        cache_format,
        schedule(model.config().indexer.is_some()),
    )
}

fn run_as(
    model: &Arc<Model>,
    cache_format: CacheFormat,
    schedule: Vec<(usize, ForwardOptions)>,
) -> Vec<Frame> {
    let options = SessionOptions {
        cache_format,
        ..SessionOptions::default()
    };
    let mut session = Session::new(model.clone(), options).unwrap();
    session.watch(Watch::everything(WatchedRows::All));
    let vocab_size = model.config().vocab_size as u32;
    let ids: Vec<u32> = (0..100)
        .map(|i| (i * i * 7 + i * 3 + 5) % vocab_size)
        .collect();
    for (n, forward) in schedule {
        session.set_forward(forward).unwrap();
        let start = session.position();
        session.advance(&ids[start..start + n]).unwrap();
    }
    session.take_frames()
}

#[test]
fn kernels_and_portable_bodies_in_f64_agree_on_every_stage() {
    let reference = Device::open(Some("portable-f64")).unwrap();
    for (name, config, stored) in configs() {
        let folder = tempfile::tempdir().unwrap();
        let (_, store) = Store::ALL.iter().find(|(name, _)| *name == stored).unwrap();
        random_model::write(folder.path(), &config.to_string(), *store);
        let want = Arc::new(Model::open(folder.path(), &reference).unwrap());
        let want = run(&want, CacheFormat::default());
        for device in adapters() {
            let model = Arc::new(Model::open(folder.path(), &device).unwrap());
            let got = run(&model, CacheFormat::default());
            assert_eq!(got.len(), want.len());
            for (chunk, (got, want)) in got.iter().zip(&want).enumerate() {
                let what = format!("{name} on {}, chunk {chunk}", device.info.name);
                compare(&what, got, want, Tolerance::GPU);
            }
        }
    }
}

#[test]
fn the_same_ids_give_the_same_bits_twice_in_every_cache_format() {
    let folder = tempfile::tempdir().unwrap();
    random_model::write(folder.path(), &odd().to_string(), Store::Bf16);
    for device in adapters() {
        let model = Arc::new(Model::open(folder.path(), &device).unwrap());
        for latent in [
            LatentFormat::Bf16,
            LatentFormat::Fp8,
            LatentFormat::FlashMla,
        ] {
            for keys in [KeyFormat::F32, KeyFormat::Fp8] {
                let format = CacheFormat { latent, keys };
                // Frames hold scores, selections, routes and logits; no NaN hides in them.
                assert!(run(&model, format) == run(&model, format), "{format:?}");
            }
        }
    }
}

/// Sets every element of an `f32` tensor of a checkpoint.
fn fill(folder: &std::path::Path, name: &str, value: f32) {
    fill_row(folder, name, None, value);
}

/// Sets the elements of a row of an `f32` matrix of a checkpoint, or of all rows.
pub fn fill_row(folder: &std::path::Path, name: &str, row: Option<usize>, value: f32) {
    let path = folder.join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let range = {
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensor = file.tensor(name).unwrap();
        let start = tensor.data().as_ptr() as usize - bytes.as_ptr() as usize;
        let n_row = tensor.data().len() / tensor.shape()[0];
        match row {
            Some(row) => start + row * n_row..start + (row + 1) * n_row,
            None => start..start + tensor.data().len(),
        }
    };
    for element in bytes[range].chunks_exact_mut(4) {
        element.copy_from_slice(&value.to_le_bytes());
    }
    std::fs::write(&path, bytes).unwrap();
}

/// Loads what the check of values would refuse.
fn open_unchecked(folder: &std::path::Path, device: &Device) -> Arc<Model> {
    let unchecked = LoadOptions {
        check_values: false,
    };
    let model = Model::load(folder, device, unchecked, &mut |_| {
        std::ops::ControlFlow::Continue(())
    });
    Arc::new(model.unwrap().unwrap())
}

#[test]
fn where_all_scores_tie_every_device_takes_the_lowest_positions() {
    let folder = tempfile::tempdir().unwrap();
    random_model::write(folder.path(), &odd().to_string(), Store::F32);
    for layer in 0..3 {
        let name = format!("model.layers.{layer}.self_attn.indexer.weights_proj.weight");
        fill(folder.path(), &name, 0.0);
    }
    let mut devices = adapters();
    devices.push(Device::cpu());
    for device in devices {
        let model = Arc::new(Model::open(folder.path(), &device).unwrap());
        let mut session = Session::new(model, SessionOptions::default()).unwrap();
        session.watch(Watch::everything(WatchedRows::All));
        session.advance(&ids(50)).unwrap();
        let frames = session.take_frames();
        let site = Site {
            layer: Some(2),
            stage: Stage::SelectedPositions,
        };
        let Value::I32 { data, .. } = &frames[0].values[&site] else {
            panic!("positions are integers");
        };
        for (row, chosen) in data.chunks_exact(7).enumerate() {
            let expected: Vec<i32> = (0..7)
                .map(|slot| if slot <= row as i32 { slot } else { -1 })
                .collect();
            assert_eq!(chosen, expected, "row {row} on {}", device.info.name);
        }
    }
}

#[test]
fn going_back_and_on_again_gives_the_same_bits() {
    for device in adapters() {
        let model = Arc::new(Model::open(&fixture("v32-fp8"), &device).unwrap());
        let format = CacheFormat {
            latent: LatentFormat::Fp8,
            keys: KeyFormat::Fp8,
        };
        let options = SessionOptions {
            cache_format: format,
            ..SessionOptions::default()
        };
        let mut session = Session::new(model, options).unwrap();
        session.advance(&ids(40)).unwrap();
        let first = session.advance(&[9]).unwrap();
        session.advance(&[1, 2, 3]).unwrap();
        session.rewind(40).unwrap();
        assert_eq!(session.advance(&[9]).unwrap(), first);
    }
}

#[test]
fn a_model_runs_on_another_thread_than_it_was_loaded_on() {
    // As in the runner, which gets its model from the thread that loaded it.
    for device in adapters() {
        let model = Arc::new(Model::open(&fixture("v32-bf16"), &device).unwrap());
        let logits = |model: Arc<Model>| {
            let mut session = Session::new(model, SessionOptions::default()).unwrap();
            session.advance(&ids(30)).unwrap()
        };
        let here = logits(model.clone());
        let there = std::thread::spawn(move || logits(model)).join().unwrap();
        assert_eq!(there, here);
    }
}

#[test]
fn a_cache_that_grows_keeps_what_it_holds() {
    // Beyond 1,024 tokens the caches are copied; a session that starts there must not see it.
    let config = with(
        json!({"num_hidden_layers": 1, "num_nextn_predict_layers": 0,
        "first_k_dense_replace": 1, "kv_lora_rank": 32, "hidden_size": 16}),
    );
    let folder = tempfile::tempdir().unwrap();
    random_model::write(folder.path(), &config.to_string(), Store::F32);
    let cpu = Arc::new(Model::open(folder.path(), &Device::cpu()).unwrap());
    let logits = |model: &Arc<Model>| {
        let mut session = Session::new(model.clone(), SessionOptions::default()).unwrap();
        session.advance(&ids(1020)).unwrap();
        session.advance(&ids(9)).unwrap()
    };
    let want = logits(&cpu);
    for device in adapters() {
        let model = Arc::new(Model::open(folder.path(), &device).unwrap());
        for (got, want) in logits(&model).iter().zip(&want) {
            assert!(Tolerance::GPU.close(*got, *want), "{got}, expected {want}");
        }
    }
}

#[test]
fn a_cache_ends_at_the_largest_binding_and_a_longer_prompt_is_refused_before_it_begins() {
    let folder = tempfile::tempdir().unwrap();
    random_model::write(folder.path(), &odd().to_string(), Store::F32);
    // Latents of 688 bytes, keys of 64: 1,524 tokens, one and a half times a new cache's 1,024.
    let device = |device: Device| device.with_bindings_of(1 << 20);
    let options = SessionOptions {
        chunk_tokens: 64,
        ..SessionOptions::default()
    };
    for (device, plain) in adapters().into_iter().map(device).zip(adapters()) {
        let open = |device| Arc::new(Model::open(folder.path(), &device).unwrap());
        let mut session = Session::new(open(device), options).unwrap();
        assert_eq!(session.context(), 1_524);
        let error = session.advance(&ids(1_525)).unwrap_err().to_string();
        assert!(error.contains("at most 1524"), "{error}");
        assert_eq!(session.position(), 0);
        let got = session.advance(&ids(1_524)).unwrap();
        let mut free = Session::new(open(plain), options).unwrap();
        assert_eq!(got, free.advance(&ids(1_524)).unwrap());

        // A text that is being written ends there as at the end of any context.
        session.rewind(1_520).unwrap();
        let sampler = Sampler::new(SamplerOptions::default()).unwrap();
        let until = GenerateOptions::default();
        let mut writing = Generation::new(&session, &[7], sampler, None, until).unwrap();
        let stop = loop {
            if let Progress::Done(finish) = writing.step(&mut session).unwrap() {
                break finish.stop;
            }
        };
        assert_eq!((stop, session.position()), (Stop::ContextFull, 1_524));
    }
}

#[test]
fn sliced_weights_give_the_same_bits() {
    // Wide enough for blocks and slices of 128 rows, with experts of which some fit a binding.
    let config = with(json!({
        "hidden_size": 260, "q_lora_rank": 136, "moe_intermediate_size": 132, "vocab_size": 900,
        "n_shared_experts": 1, "intermediate_size": 140, "num_nextn_predict_layers": 0,
    }));
    for (name, store) in Store::ALL {
        let folder = tempfile::tempdir().unwrap();
        random_model::write(folder.path(), &config.to_string(), *store);
        let bytes = match store {
            Store::F32 => 4,
            Store::Bf16 => 2,
            Store::Fp8 => 1,
        };
        // Two experts at least, and 256 of 329 joined rows; what a pass leaves has to fit, too.
        let binding = (2 * 132 * 264 * bytes).max(140_000);
        for device in adapters() {
            let sliced = device.clone().with_bindings_of(binding);
            let [whole, sliced] =
                [&device, &sliced].map(|on| Arc::new(Model::open(folder.path(), on).unwrap()));
            let n = |model: &Arc<Model>| {
                let mut session = Session::new(model.clone(), SessionOptions::default()).unwrap();
                assert!(model.start_profile(false));
                session.advance(&ids(3)).unwrap();
                model.take_profile().unwrap().launches.len()
            };
            assert!(n(&sliced) > n(&whole), "{name}: nothing is sliced");
            let what = format!("{name} on {}", device.info.name);
            let many = || {
                let keeps_to_many = |(n, _): &(usize, ForwardOptions)| *n > 8;
                schedule(true).into_iter().filter(keeps_to_many).collect()
            };
            let format = CacheFormat::default();
            assert!(
                run_as(&sliced, format, many()) == run_as(&whole, format, many()),
                "{what}"
            );
            // `mlp_down` adds what each slice of experts gives: with few tokens in another order.
            for (got, want) in run(&sliced, format).iter().zip(&run(&whole, format)) {
                compare(&what, got, want, Tolerance::GPU);
            }
        }
    }
}

/// A number of bytes that the system knows of this process.
#[cfg(target_os = "linux")]
fn process_bytes(what: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(what));
    let kib = line
        .unwrap()
        .trim_start_matches(':')
        .trim()
        .trim_end_matches(" kB");
    kib.parse::<usize>().unwrap() * 1024
}

#[test]
#[cfg(target_os = "linux")]
fn a_stack_of_experts_is_loaded_without_a_second_copy_of_it_in_this_process() {
    // In a process of its own: others' memory would count, too.
    const ALONE: &str = "SPARSIGHT_TEST_ALONE";
    if std::env::var_os(ALONE).is_none() {
        let name = "gpu::a_stack_of_experts_is_loaded_without_a_second_copy_of_it_in_this_process";
        let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
        let status = alone.args(["--exact", name, "--nocapture"]).env(ALONE, "1");
        assert!(status.status().unwrap().success());
        return;
    }
    // Three stacks of 32 MiB. A software adapter's memory is this process's, too, and the file is mapped.
    let config = with(json!({
        "hidden_size": 256, "moe_intermediate_size": 256, "n_routed_experts": 126, "n_group": 1,
        "topk_group": 1, "num_hidden_layers": 1, "num_nextn_predict_layers": 0,
        "first_k_dense_replace": 0,
    }));
    let folder = tempfile::tempdir().unwrap();
    random_model::write(folder.path(), &config.to_string(), Store::F32);
    let stack = 32 << 20;
    for device in adapters() {
        // The first use of a device allocates what all of them do.
        drop(Model::open(&fixture("v32-f32"), &device).unwrap());
        std::fs::write("/proc/self/clear_refs", "5").unwrap();
        let before = process_bytes("VmRSS");
        let model = open_unchecked(folder.path(), &device);
        let most = process_bytes("VmHWM") - before;
        println!("{}: {} MiB at most", device.info.name, most >> 20);
        // With the file and the device's memory, less than one stack more; it was two.
        let allowed = 7 * stack;
        assert!(
            most < allowed,
            "{most} bytes at most, expected less than {allowed}"
        );
        drop(model);
    }
}

#[test]
fn a_device_launches_what_was_counted_and_nothing_else() {
    // So there is no portable op left in the pass: whatever it computes is in this list.
    for name in ["v32-f32", "glm-dsa", "v3-mtp", "v2-grouped", "moonlight"] {
        for device in adapters() {
            let model = Arc::new(Model::open(&fixture(name), &device).unwrap());
            let mut session = Session::new(model.clone(), SessionOptions::default()).unwrap();
            session.advance(&ids(40)).unwrap();
            assert!(model.start_profile(false));
            session.advance(&[7]).unwrap();
            let profile = model.take_profile().unwrap();
            let call = CountCall {
                position: 40,
                tokens: 1,
                format: CacheFormat::default(),
                options: ForwardOptions::default(),
                max_binding_bytes: 128 << 20,
            };
            let counted = count(model.config(), &call).unwrap();
            let mut names: Vec<_> = profile.launches.iter().map(|l| (l.layer, l.op)).collect();
            let mut expected: Vec<_> = counted.launches.iter().map(|l| (l.layer, l.op)).collect();
            // In one type the index weights join the other projections.
            names.dedup();
            expected.dedup();
            assert_eq!(names, expected, "{name} on {}", device.info.name);
        }
    }
}

#[test]
fn weights_that_are_not_numbers_are_an_error_and_leave_the_timeline_alone() {
    for (broken, is_expected) in [
        (
            "model.layers.0.self_attn.indexer.k_norm.weight",
            (|error| matches!(error, Error::NanScores { .. })) as fn(&Error) -> bool,
        ),
        ("model.layers.1.mlp.gate.weight", |error| {
            matches!(error, Error::NanGate { .. })
        }),
    ] {
        let folder = tempfile::tempdir().unwrap();
        random_model::write(folder.path(), &odd().to_string(), Store::F32);
        fill(folder.path(), broken, f32::NAN);
        for device in adapters() {
            let model = open_unchecked(folder.path(), &device);
            let mut session = Session::new(model, SessionOptions::default()).unwrap();
            let error = session.advance(&ids(20)).unwrap_err();
            assert!(is_expected(&error), "{broken}: {error}");
            assert_eq!(session.position(), 0);
            let error = session.advance_silent(&ids(20)).unwrap_err();
            assert!(is_expected(&error), "{broken}: {error}");
            // Whatever is watched of a pass that failed is no frame: the next job would be told it.
            for info in engine::trace::STAGES {
                session.watch(Watch {
                    stages: [info.stage].into(),
                    ..Watch::default()
                });
                session.advance(&ids(20)).unwrap_err();
                let left = session.take_frames();
                assert!(left.is_empty(), "{broken}: {} of {left:?}", info.name);
            }
        }
    }
}

#[test]
fn a_step_that_fails_loses_no_token_and_can_be_taken_again() {
    // NaN where the indexer weighs its heads: met when a context is longer than 7, and not if dense.
    let folder = tempfile::tempdir().unwrap();
    random_model::write(folder.path(), &odd().to_string(), Store::F32);
    let broken = "model.layers.0.self_attn.indexer.weights_proj.weight";
    fill(folder.path(), broken, f32::NAN);
    let dense = ForwardOptions {
        dense: true,
        ..ForwardOptions::default()
    };
    let mut devices = adapters();
    devices.push(Device::cpu());
    for device in devices {
        let model = open_unchecked(folder.path(), &device);
        // Logits on the host, and a choice on the device.
        for n_logprobs in [0, 1] {
            let start = || {
                let session = Session::new(model.clone(), SessionOptions::default()).unwrap();
                let sampler = Sampler::new(SamplerOptions {
                    temperature: 0.0,
                    n_logprobs,
                    ..SamplerOptions::default()
                });
                let (sampler, until) = (sampler.unwrap(), GenerateOptions::default());
                let writing = Generation::new(&session, &ids(5), sampler, None, until).unwrap();
                (session, writing)
            };
            let whole = |session: &mut Session, writing: &mut Generation, n: usize| {
                let mut tokens = Vec::new();
                while tokens.len() < n {
                    match writing.step(session)? {
                        Progress::Token(token) => tokens.push((token.position, token.picked.id)),
                        Progress::Prefill { .. } => {}
                        Progress::Done(finish) => panic!("{finish:?}"),
                    }
                }
                Ok::<_, Error>(tokens)
            };
            let (mut session, mut writing) = start();
            let mut tokens = whole(&mut session, &mut writing, 3).unwrap();
            assert_eq!(session.position(), 7);
            for _ in 0..2 {
                let error = writing.step(&mut session).unwrap_err();
                assert!(matches!(error, Error::NanScores { .. }), "{error}");
                assert_eq!(session.position(), 7);
            }
            session.set_forward(dense.clone()).unwrap();
            tokens.extend(whole(&mut session, &mut writing, 4).unwrap());

            let (mut session, mut writing) = start();
            let mut expected = whole(&mut session, &mut writing, 3).unwrap();
            session.set_forward(dense.clone()).unwrap();
            expected.extend(whole(&mut session, &mut writing, 4).unwrap());
            assert_eq!(tokens, expected, "on {}", device.info.name);
        }
    }

    // Logits that cannot be chosen from stay so.
    let folder = tempfile::tempdir().unwrap();
    random_model::write(folder.path(), &odd().to_string(), Store::F32);
    fill(folder.path(), "lm_head.weight", f32::NAN);
    let model = open_unchecked(folder.path(), &Device::cpu());
    let mut session = Session::new(model, SessionOptions::default()).unwrap();
    let sampler = Sampler::new(SamplerOptions::default()).unwrap();
    let until = GenerateOptions::default();
    let mut writing = Generation::new(&session, &ids(5), sampler, None, until).unwrap();
    writing.step(&mut session).unwrap();
    for _ in 0..2 {
        let error = writing.step(&mut session).unwrap_err();
        assert!(matches!(error, Error::BadLogits { .. }), "{error}");
    }
}

#[test]
fn the_mtp_layer_reads_the_rows_of_a_slice_and_rates_those_asked_for() {
    let mut devices = adapters();
    devices.extend(["cpu", "portable"].map(|name| Device::open(Some(name)).unwrap()));
    let next: Vec<u32> = ids(14).split_off(2);
    for device in devices {
        let model = Arc::new(Model::open(&fixture("v3-mtp"), &device).unwrap());
        let mut session = Session::new(model.clone(), SessionOptions::default()).unwrap();
        let hidden = session.advance_all(&ids(12)).unwrap().hidden;
        let options = ForwardOptions::default();
        let run = |cuts: &[(usize, usize)], rows| {
            let mut cache = model.new_mtp_cache(CacheFormat::default()).unwrap();
            let mut logits = Vec::new();
            for &(first, n) in cuts {
                let hidden = hidden.slice(first, n);
                let trace = &mut Trace::off();
                let ids = &next[first..first + n];
                let some = model.forward_mtp(&hidden, ids, &mut cache, &options, rows, trace);
                logits.extend(
                    some.unwrap()
                        .map_or(Vec::new(), |rows| rows.read().unwrap()),
                );
            }
            logits
        };
        let vocab_size = model.config().vocab_size;
        let close = |what, got: &[f32], want: &[f32]| {
            assert_eq!(got.len(), want.len(), "{what} on {}", device.info.name);
            for (got, want) in got.iter().zip(want) {
                let close = Tolerance::GPU.close(*got, *want);
                assert!(close, "{what} on {}: {got}, not {want}", device.info.name);
            }
        };
        let whole = run(&[(0, 12)], LogitRows::All);
        assert_eq!(whole.len(), 12 * vocab_size);
        close(
            "slices",
            &run(&[(0, 3), (3, 8), (11, 1)], LogitRows::All),
            &whole,
        );
        let last = run(&[(0, 5), (5, 7)], LogitRows::Last);
        close(
            "the last row",
            &last[..vocab_size],
            &whole[4 * vocab_size..5 * vocab_size],
        );
        close(
            "the last row",
            &last[vocab_size..],
            &whole[11 * vocab_size..],
        );
        assert!(run(&[(0, 12)], LogitRows::None).is_empty());
    }
}

#[test]
fn a_device_draws_what_the_host_draws() {
    for device in adapters() {
        let model = Arc::new(Model::open(&fixture("v32-bf16"), &device).unwrap());
        for (temperature, top_p) in [(0.0, 1.0), (1.0, 1.0), (0.8, 0.6), (3.0, 0.95)] {
            let run = |n_logprobs| {
                let options = SamplerOptions {
                    temperature,
                    top_p,
                    seed: 5,
                    // Asking for more than the draw makes the host draw.
                    n_logprobs,
                    ..SamplerOptions::default()
                };
                let mut session = Session::new(model.clone(), SessionOptions::default()).unwrap();
                let sampler = Sampler::new(options).unwrap();
                let mut generation = Generation::new(
                    &session,
                    &ids(20),
                    sampler,
                    None,
                    GenerateOptions::default(),
                )
                .unwrap();
                let mut picked = Vec::new();
                while picked.len() < 12 {
                    if let Progress::Token(token) = generation.step(&mut session).unwrap() {
                        picked.push(token.picked);
                    }
                }
                picked
            };
            for (device, host) in run(0).iter().zip(&run(1)) {
                assert_eq!(device.id, host.id);
                let close = |a: f32, b: f32| (a - b).abs() < 1e-4;
                assert!(close(device.logprob, host.logprob), "{device:?} {host:?}");
                assert!(
                    close(device.draw_logprob, host.draw_logprob),
                    "{device:?} {host:?}"
                );
            }
        }
    }
}

#[test]
fn what_a_gpu_cannot_do_is_refused_by_name() {
    for device in adapters() {
        let folder = tempfile::tempdir().unwrap();
        random_model::write(
            folder.path(),
            &with(json!({"hidden_size": 37})).to_string(),
            Store::F32,
        );
        let error = Model::open(folder.path(), &device).unwrap_err().to_string();
        assert!(
            error.contains("hidden_size") && error.contains("37"),
            "{error}"
        );

        let model = Arc::new(Model::open(&fixture("v32-f32"), &device).unwrap());
        let mut session = Session::new(model, SessionOptions::default()).unwrap();
        for forward in [
            ForwardOptions {
                index_topk: Some(2049),
                ..ForwardOptions::default()
            },
            ForwardOptions {
                mha_prefill: true,
                ..ForwardOptions::default()
            },
        ] {
            assert!(matches!(
                session.set_forward(forward),
                Err(Error::Setting { .. })
            ));
        }
    }
}
