//! Input that cannot work, and failures on the way: one error each, that says what and where.

use std::path::Path;

use burn::tensor::{DType, TensorData};
use serde_json::json;

use super::resume::{Case, RECIPE, go};
use super::{batch, config, config_json, net, pass};
use crate::checkpoint::{STATE, write_whole};
use crate::pass::{AttentionMode, PassOptions};
use crate::{Error, Result};

#[track_caller]
fn assert_refused<T>(result: Result<T>, parts: &[&str]) -> Error {
    let Err(error) = result else {
        panic!("expected an error with {parts:?}");
    };
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "expected {part:?} in {text:?}");
    }
    error
}

/// The recipe with one line replaced; the first that starts with the same key.
fn with(line: &str) -> String {
    let key = line.split('=').next().unwrap();
    let old = RECIPE.lines().find(|old| old.starts_with(key)).unwrap();
    RECIPE.replacen(old, line, 1)
}

#[test]
fn recipes_that_cannot_work() {
    for (recipe, parts) in [
        (
            with("length = 601"),
            &["length of stage \"first\" is 601", "600"][..],
        ),
        (with("length = 0"), &["length of stage \"first\" is 0"]),
        (with("steps = 0"), &["steps of stage \"first\" is 0"]),
        (
            with("sequences = 0"),
            &["sequences of stage \"first\" is 0"],
        ),
        (
            with("micro_batches = 0"),
            &["micro_batches of stage \"first\" is 0"],
        ),
        (
            with("kind = \"posttrain\""),
            &["kind of stage \"first\" is posttrain", "dense-warmup"],
        ),
        (
            with("warmup_steps = 4"),
            &["warmup_steps of stage \"first\" is 4", "steps"],
        ),
        (
            with("learning_rate = nan"),
            &["learning_rate of stage \"first\" is NaN"],
        ),
        (
            with("learning_rate = -1.0"),
            &["learning_rate of stage \"first\" is -1"],
        ),
        (
            with("final_learning_rate = inf"),
            &["final_learning_rate", "inf"],
        ),
        (with("clip = 0.0"), &["clip of optimizer is 0"]),
        (with("clip = nan"), &["clip of optimizer is NaN"]),
        (with("beta_1 = 1.0"), &["beta_1 of optimizer is 1"]),
        (with("beta_2 = -0.1"), &["beta_2 of optimizer is -0.1"]),
        (with("epsilon = 0.0"), &["epsilon of optimizer is 0"]),
        (
            with("weight_decay = -1.0"),
            &["weight_decay of optimizer is -1"],
        ),
        (with("init_std = inf"), &["init_std is inf"]),
        (
            with("sequences = 2\nspeed = 3"),
            &["recipe.toml", "unknown field `speed`"],
        ),
        (with("sequences = 1.5"), &["recipe.toml", "sequences = 1.5"]),
        (
            with("seed = 7\nseed = 8"),
            &["recipe.toml", "duplicate key"],
        ),
        (with("clip = "), &["recipe.toml"]),
        (
            with("config = \"nowhere.json\""),
            &["nowhere.json", "No such file"],
        ),
        (with("tokenizer = \"nowhere.json\""), &["nowhere.json"]),
        (
            RECIPE.split("[[stage]]").next().unwrap().into(),
            &["recipe.toml", "stage"],
        ),
        (String::new(), &["recipe.toml", "seed"]),
    ] {
        let case = Case::new(&recipe);
        assert_refused(case.open("run").map(|_| ()), parts);
        assert!(!case.path("run").join(STATE).exists());
    }
}

/// Mixtures are read when the first batch is drawn.
#[test]
fn mixtures_that_cannot_work() {
    for (mixture, parts) in [
        ("{ poem = 1.0 }", &["kind \"poem\" is unknown", "story"][..]),
        (
            "{ children = 1.0 }",
            &["kind \"children\" has no text", "children.txt"],
        ),
        ("{ story = nan }", &["weight of \"story\" is NaN"]),
        ("{ story = 0.0 }", &["mixture is without any weight"]),
        ("{}", &["mixture is without any weight"]),
    ] {
        let case = Case::new(&with(&format!("mixture = {mixture}")));
        let result = case.open("run").and_then(|mut run| go(&mut run, 1));
        assert_refused(result.map(|_| ()), parts);
    }
}

#[test]
fn models_that_do_not_fit() {
    let case = Case::new(RECIPE);
    let mut other = config_json();
    other["vocab_size"] = json!(319);
    case.write("config.json", &other.to_string());
    assert_refused(case.open("run").map(|_| ()), &["vocab_size", "319", "320"]);

    other["vocab_size"] = json!(324);
    other["num_nextn_predict_layers"] = json!(0);
    case.write("config.json", &other.to_string());
    assert_refused(
        case.open("run").map(|_| ()),
        &["mtp_weight of stage \"first\" is 0.3"],
    );

    let v3 = other.as_object_mut().unwrap();
    v3.retain(|key, _| !key.starts_with("index_"));
    v3["architectures"] = json!(["DeepseekV3ForCausalLM"]);
    v3["model_type"] = json!("deepseek_v3");
    v3["num_nextn_predict_layers"] = json!(1);
    case.write("config.json", &other.to_string());
    assert_refused(
        case.open("run").map(|_| ()),
        &["kind of stage \"second\" is sparse", "indexer"],
    );

    case.write("config.json", "{");
    assert_refused(case.open("run").map(|_| ()), &["config.json"]);
}

#[test]
fn real_texts_that_are_missing_or_others() {
    let case = Case::new(RECIPE);
    let tokenizer = engine::tokenizer::Tokenizer::open(&case.path("tokenizer.json"));
    let tokenizer = std::sync::Arc::new(tokenizer.unwrap());
    let open = |folder: &Path| crate::data::Corpus::open(tokenizer.clone(), Some(folder));
    assert_refused(
        open(&case.path("nowhere")).map(|_| ()),
        &["nowhere", "No such file"],
    );
    std::fs::create_dir(case.path("texts")).unwrap();
    open(&case.path("texts")).unwrap();
    case.write("texts/children.txt", "Once upon a time.");
    assert_refused(
        open(&case.path("texts")).map(|_| ()),
        &[
            "children.txt",
            "has 17 bytes",
            "expected 1361411 of 748f3bb3",
        ],
    );
    std::fs::remove_file(case.path("texts/children.txt")).unwrap();
    std::fs::create_dir_all(case.path("texts/chatterbot/english")).unwrap();
    case.write("texts/chatterbot/english/food.yml", "");
    assert_refused(
        open(&case.path("texts")).map(|_| ()),
        &["pairs", "greetings.yml"],
    );
}

/// A state of two steps, which `change` damages.
fn damaged(change: impl Fn(Vec<u8>) -> Vec<u8>) -> Case {
    let case = Case::new(RECIPE);
    go(&mut case.open("run").unwrap(), 2).unwrap();
    let path = case.path("run").join(STATE);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, change(bytes)).unwrap();
    case
}

#[test]
fn states_that_are_damaged() {
    for n in [0, 7, 100, 5_000] {
        let case = damaged(|bytes| bytes[..n].to_vec());
        assert_refused(case.open("run").map(|_| ()), &["state.safetensors"]);
    }
    let case = damaged(|bytes| bytes[..bytes.len() - 1].to_vec());
    assert_refused(case.open("run").map(|_| ()), &["state.safetensors"]);
    // The last four bytes of the last tensor.
    let case = damaged(|mut bytes| {
        let at = bytes.len() - 4;
        bytes[at..].copy_from_slice(&f32::NAN.to_le_bytes());
        bytes
    });
    assert_refused(
        case.open("run").map(|_| ()),
        &["state.safetensors", "holds NaN at element"],
    );
    let case = damaged(|_| {
        let none: [(&str, safetensors::tensor::TensorView<'_>); 0] = [];
        safetensors::serialize(none, None).unwrap()
    });
    assert_refused(case.open("run").map(|_| ()), &["sparsight_train"]);
}

#[test]
fn states_of_other_runs() {
    let case = damaged(|bytes| bytes);
    case.write("recipe.toml", &with("seed = 8"));
    assert_refused(
        case.open("run").map(|_| ()),
        &["was begun with seed 7, expected 8"],
    );
    case.write("recipe.toml", RECIPE);
    case.open("run").unwrap();
    // The same tokenizer in other bytes: it may well give other ids, so it counts as another.
    let path = case.path("tokenizer.json");
    let tokenizer = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{tokenizer}\n")).unwrap();
    assert_refused(
        case.open("run").map(|_| ()),
        &["state.safetensors", "tokenizer of SHA-256"],
    );
    std::fs::write(&path, tokenizer).unwrap();
    let mut other = config_json();
    other["vocab_size"] = json!(325);
    case.write("config.json", &other.to_string());
    assert_refused(
        case.open("run").map(|_| ()),
        &["state.safetensors", "another config.json"],
    );
}

#[test]
fn a_loss_that_is_not_finite_stops_the_run_and_keeps_the_state() {
    let case = damaged(|bytes| bytes);
    let saved = std::fs::read(case.path("run").join(STATE)).unwrap();
    let mut run = case.open("run").unwrap();
    run.poison("model.layers.1.mlp.gate.weight", f32::NAN);
    let result = go(&mut run, 1);
    let text = assert_refused(
        result.map(|_| ()),
        &["step 3 of stage \"first\"", "layer 1"],
    );
    assert!(matches!(text, Error::NotFinite { .. }));
    drop(run);
    assert!(std::fs::read(case.path("run").join(STATE)).unwrap() == saved);
    assert_eq!(
        go(&mut case.open("run").unwrap(), usize::MAX)
            .unwrap()
            .len(),
        5
    );
}

/// Wherever NaN or infinity is put, it is found, in the layer where it comes up.
#[test]
fn what_is_not_finite_is_named() {
    let sparse = AttentionMode::Sparse { k: 5 };
    for (name, value, what, layer) in [
        ("model.embed_tokens.weight", f32::NAN, "index scores", 0),
        (
            "model.layers.1.self_attn.indexer.wk.weight",
            f32::NAN,
            "index scores",
            1,
        ),
        (
            "model.layers.1.mlp.gate.weight",
            f32::INFINITY,
            "gate scores",
            1,
        ),
        ("model.layers.2.mlp.gate.weight", f32::NAN, "gate scores", 2),
        ("lm_head.weight", f32::NAN, "loss", 2),
        (
            "model.layers.1.mlp.shared_experts.down_proj.weight",
            f32::NAN,
            "loss",
            2,
        ),
        (
            "model.layers.2.shared_head.norm.weight",
            f32::NAN,
            "MTP loss",
            3,
        ),
    ] {
        let mut net = net(&config(&config_json()), 1, DType::F32);
        let parameter = net.parameters.get_mut(name).unwrap();
        let shape = parameter.tensor.dims();
        let mut data = crate::pass::read(parameter.tensor.clone()).unwrap();
        data[..shape[1]].fill(value);
        let data = TensorData::new(data, shape);
        parameter.tensor = burn::Tensor::from_data(data, &net.device);
        let options = PassOptions {
            attention: sparse,
            mtp_weight: 0.5,
            balance_weight: 0.0,
            main_loss: true,
            watch_selection: false,
            watch_k: 0,
        };
        let mut batch = batch(2, 9, 37, 3);
        batch.ids[3] = 0;
        let bias = |_: usize| vec![0.0; 6];
        let leaves = net.leaves(|_| true);
        let result = pass(&net, &leaves, &batch, options, &bias);
        let expected = [format!("{what} is "), format!("in layer {layer}")];
        assert_refused(
            result.map(|_| ()),
            &[&expected[0], &expected[1], name_of(value)],
        );
    }
}

fn name_of(value: f32) -> &'static str {
    if value.is_nan() { "NaN" } else { "" }
}

#[test]
fn files_that_cannot_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("whole.bin");
    write_whole(&path, b"old").unwrap();
    assert_refused(write_whole(&path.join("in a file"), b"new"), &["whole.bin"]);
    assert_refused(
        write_whole(&folder.path().join("no/folder"), b"new"),
        &["no/folder"],
    );
    // A full disk: Linux has a device that is one.
    #[cfg(target_os = "linux")]
    {
        let fresh = path.with_extension("partial");
        std::os::unix::fs::symlink("/dev/full", &fresh).unwrap();
        assert_refused(
            write_whole(&path, b"new"),
            &["whole.partial", "No space left"],
        );
        assert!(!fresh.exists(), "what was begun is cleared away");
    }
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    write_whole(&path, b"new").unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"new");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_stops_a_run_and_keeps_its_state() {
    let case = damaged(|bytes| bytes);
    let saved = std::fs::read(case.path("run").join(STATE)).unwrap();
    let mut run = case.open("run").unwrap();
    std::os::unix::fs::symlink("/dev/full", case.path("run/state.partial")).unwrap();
    let result = go(&mut run, 1);
    assert_refused(result.map(|_| ()), &["state.partial", "No space left"]);
    assert!(std::fs::read(case.path("run").join(STATE)).unwrap() == saved);
    drop(run);
    assert_eq!(
        go(&mut case.open("run").unwrap(), usize::MAX)
            .unwrap()
            .len(),
        5
    );
}
