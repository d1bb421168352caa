//! Input that cannot work, and failures on the way: one error each, that says what and where.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, TensorData};
use serde_json::json;

use super::resume::{Case, RECIPE, go, open_in};
use super::{batch, config, config_json, net, pass};
use crate::checkpoint::STATE;
use crate::export::{self, Store};
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

/// Tells the child which case it takes a step of.
const CASE: &str = "SPARSIGHT_TEST_CASE";

/// Not a test but the child of the one below, which may not write a file as large as a state.
#[test]
#[ignore = "runs as the child process of the test below"]
fn takes_a_step_with_a_full_disk() {
    let folder = PathBuf::from(std::env::var_os(CASE).expect("the parent says where"));
    let result = go(&mut open_in(&folder, "run", 50).unwrap(), 1);
    println!("refused: {}", result.map(|_| ()).unwrap_err());
}

#[cfg(unix)]
#[test]
fn a_full_disk_stops_a_run_and_keeps_its_state() {
    let case = damaged(|bytes| bytes);
    let saved = std::fs::read(case.path("run").join(STATE)).unwrap();
    assert!(saved.len() > 64 << 10);
    let names = || {
        let files = std::fs::read_dir(case.path("run")).unwrap();
        files
            .map(|file| file.unwrap().file_name())
            .collect::<BTreeSet<_>>()
    };
    let before = names();
    // 64 blocks of 512 bytes, or of 1,024. Beyond them a write fails, as on a full disk, since the
    // signal that would end the process is ignored.
    let child = std::process::Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 64; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["tests::refusals::takes_a_step_with_a_full_disk", "--exact"])
        .args(["--ignored", "--nocapture", "--test-threads=1"])
        .env(CASE, case.folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(said.contains("refused: "), "{child:?}");
    assert!(said.contains(STATE) && said.contains("too large"), "{said}");
    assert!(std::fs::read(case.path("run").join(STATE)).unwrap() == saved);
    assert_eq!(names(), before);
    let left = go(&mut case.open("run").unwrap(), usize::MAX);
    assert_eq!(left.unwrap().len(), 5);
}

/// Every command that writes, over what it must not write over.
#[test]
fn nothing_comes_over_a_model_or_a_strangers_file() {
    let case = Case::new(RECIPE);
    let json = std::fs::read_to_string(case.path("config.json")).unwrap();
    let run = case.open("run").unwrap();
    let model = case.path("model");
    let export = |folder: &Path, force| {
        let inputs = [case.path("config.json")];
        let inputs = inputs.each_ref().map(PathBuf::as_path);
        export::check_folder(folder, &inputs, force)
    };
    export(&model, false).unwrap();
    assert!(!model.exists(), "nothing is made before it is needed");
    export::write(run.net(), &json, Store::F32, &model).unwrap();
    // A model is overwritten with force only, and nothing is put into its folder or below it.
    assert_refused(export(&model, false), &["model", "--force"]);
    export(&model, true).unwrap();
    for place in ["model", "model/new", "model/new/run"] {
        assert_refused(
            case.open(place).map(|_| ()),
            &["the model folder", "left alone"],
        );
    }
    assert_refused(
        export(&model.join("new"), true),
        &["the model folder", "left alone"],
    );
    assert!(!model.join("new").exists());

    for (name, parts) in [
        ("log.jsonl", "the log of a run"),
        ("curves.svg", "an SVG picture"),
    ] {
        let case = Case::new(RECIPE);
        std::fs::create_dir(case.path("run")).unwrap();
        case.write(&format!("run/{name}"), "notes of a stranger");
        assert_refused(case.open("run").map(|_| ()), &[name, "is not", parts]);
        let kept = std::fs::read_to_string(case.path("run").join(name)).unwrap();
        assert_eq!(kept, "notes of a stranger");
    }
    // Some other program's config, weights that are none, shards, and the config that is read.
    for (name, text, force, part) in [
        ("config.json", "{\"port\": 80}", true, "is not the config"),
        ("config.json", json.as_str(), false, "--force"),
        (
            "model.safetensors",
            "notes",
            true,
            "is not a file of weights",
        ),
        ("model.safetensors.index.json", "{}", true, "shards"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(name), text).unwrap();
        assert_refused(export(folder.path(), force), &[part]);
    }
    assert_refused(
        export(case.folder.path(), true),
        &["config.json", "read by this run"],
    );
}
