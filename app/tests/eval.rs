//! `sparsight eval` as a user meets it, on texts that take a moment.

#![allow(clippy::unwrap_used, reason = "a test may fail by panic")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(path)
}

/// On the small model from its folder: inside the program it need not be.
fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sparsight"));
    command.arg("eval").args(arguments).env("NO_COLOR", "1");
    if !arguments.contains(&"--model") {
        command.arg("--model").arg(repository("models/tiny"));
    }
    command
}

fn eval(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[track_caller]
fn refuses(arguments: &[&str], words: &[&str]) {
    let output = eval(arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
    for word in words {
        assert!(said.contains(word), "{arguments:?}: {said}");
    }
}

const SMALL: [&str; 10] = [
    "--probes",
    "2",
    "--sequences",
    "1",
    "--lengths",
    "96,128",
    "--distances",
    "40",
    "--k",
    "8",
];

fn small(extra: &[&str]) -> Output {
    eval(&[&SMALL[..], extra].concat())
}

#[test]
fn the_same_command_prints_the_same_figures_with_any_threads() {
    let first = stdout(&small(&["--json"]));
    assert_eq!(stdout(&small(&["--json", "--threads", "1"])), first);
    assert_eq!(
        stdout(&small(&["--json", "--threads", "3", "--chunk", "17"])),
        first
    );
    assert_ne!(stdout(&small(&["--json", "--seed", "1"])), first);

    let document: Value = serde_json::from_str(&first).unwrap();
    assert_eq!(document["index_topk"], 8);
    // Three texts and all of them, two lengths, four modes.
    assert_eq!(document["perplexity"].as_array().unwrap().len(), 4 * 2 * 4);
    let line = &document["perplexity"][0];
    assert_eq!(line["text"], "stories");
    assert_eq!(line["attention"], "dense");
    assert!(line["all"]["perplexity"].as_f64().unwrap() > 1.0);
    let beyond = line["beyond_topk"]["targets"].as_u64().unwrap();
    assert!((1..line["all"]["targets"].as_u64().unwrap()).contains(&beyond));
    let recall = document["recall"].as_array().unwrap();
    assert_eq!(recall.len(), 4);
    for score in recall {
        assert_eq!(
            (&score["distance"], &score["length"]),
            (&json!(40), &json!(128))
        );
        assert_eq!(score["of"], 2);
        assert_eq!(score["interval_95"].as_array().unwrap().len(), 2);
    }
    assert_eq!(document["balance"].as_array().unwrap().len(), 5);
    assert_eq!(document["selection"].as_array().unwrap().len(), 6);
    let thinking = document["sums"].as_array().unwrap().iter();
    assert_eq!(
        thinking.map(|score| &score["thinking"]).collect::<Vec<_>>(),
        [&json!(false), &json!(true)]
    );
}

#[test]
fn tables_are_for_people_or_for_documents() {
    let plain = stdout(&small(&["--only", "perplexity,recall"]));
    assert!(plain.contains("\nFacts found again"), "{plain}");
    assert!(
        !plain.contains("experts") && !plain.contains("Sums"),
        "{plain}"
    );
    let markdown = stdout(&small(&["--only", "perplexity,recall", "--markdown"]));
    let head = "| text | length | targets | dense | indexer | random | recent | indexer / dense |\n\
                |:--|--:|--:|--:|--:|--:|--:|--:|\n";
    assert_eq!(markdown.matches(head).count(), 2, "{markdown}");
    assert!(markdown.contains("| distance | length |"), "{markdown}");
    let modes = ["--only", "perplexity", "--modes", "recent"];
    let alone = stdout(&small(&modes));
    assert!(
        alone.contains("recent") && !alone.contains("dense"),
        "{alone}"
    );
}

#[test]
fn what_cannot_be_measured_is_refused_before_measuring() {
    refuses(&["--lengths", "4096"], &["--lengths: found 4096", "2048"]);
    refuses(&["--lengths", "8"], &["--lengths: found 8", "16"]);
    refuses(
        &["--distances", "3000"],
        &["--distances: found 3000", "1968"],
    );
    refuses(&["--distances", "3"], &["--distances", "distance is 3"]);
    refuses(
        &["--lengths", "64", "--only", "recall"],
        &["--only: found recall"],
    );
    refuses(&["--probes", "0"], &["--probes"]);
    refuses(&["--k", "0"], &["index-topk"]);
    refuses(&["--only", "speed"], &["speed", "perplexity"]);
    refuses(&["--json", "--markdown"], &["--markdown"]);
    refuses(&["--texts", "/nonexistent"], &["/nonexistent"]);
    let empty = tempfile::tempdir().unwrap();
    let folder = empty.path().to_str().unwrap();
    refuses(
        &["--texts", folder, "--lengths", "16", "--sequences", "1"],
        &["children.txt", folder],
    );
}

#[test]
fn a_gpu_has_no_controls_and_says_who_has() {
    refuses(
        &["--device", "llvmpipe"],
        &["random", "--device cpu", "--modes dense,indexer"],
    );
}

/// A fixture with a tokenizer of one token a character and these marks; without a mark, its
/// characters are tokens like any others.
fn with_tokenizer(fixture: &str, marks: &[&str], folder: &Path) {
    let from = repository("tests/fixtures").join(fixture);
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(from.join(file), folder.join(file)).unwrap();
    }
    let characters = ['Ċ', 'Ġ'].into_iter().chain('!'..='~');
    let vocab: serde_json::Map<_, _> = characters
        .enumerate()
        .map(|(id, character)| (character.to_string(), json!(id)))
        .collect();
    let added: Vec<Value> = marks
        .iter()
        .enumerate()
        .map(|(n, mark)| {
            json!({
                "id": vocab.len() + n, "content": mark, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true,
            })
        })
        .collect();
    let byte_level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false,
    });
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": null, "pre_tokenizer": byte_level, "post_processor": null,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "vocab": vocab, "merges": [],
        },
    });
    std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
}

const MARKS: [&str; 6] = [
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
    "<｜User｜>",
    "<｜Assistant｜>",
    "<think>",
    "</think>",
];

#[test]
fn a_model_without_an_indexer_is_measured_dense() {
    let folder = tempfile::tempdir().unwrap();
    with_tokenizer("v2-lite", &MARKS, folder.path());
    let model = ["--model", folder.path().to_str().unwrap()];
    let run = |extra: &[&str]| {
        let common = [
            "--lengths",
            "400",
            "--distances",
            "200",
            "--probes",
            "1",
            "--sequences",
            "1",
        ];
        eval(&[&model[..], &common, extra].concat())
    };
    let output = run(&[]);
    let found = stdout(&output);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("the controls do not apply"), "{said}");
    assert!(found.contains("reads every position"), "{found}");
    assert!(
        found.contains("dense") && !found.contains("recent"),
        "{found}"
    );
    assert!(found.contains("Load of the experts"), "{found}");
    assert!(!found.contains("selected positions"), "{found}");
    for (extra, word) in [
        (["--modes", "dense,recent"], "--modes: found recent"),
        (["--k", "8"], "the model has no indexer"),
        (["--only", "selection"], "--only: found selection"),
    ] {
        refuses(&[&model[..], &extra].concat(), &[word]);
    }
}

#[test]
fn another_familys_tokenizer_is_refused() {
    for (n_marks, missing) in [(0, MARKS[0]), (1, MARKS[1]), (2, MARKS[2]), (5, MARKS[5])] {
        let folder = tempfile::tempdir().unwrap();
        with_tokenizer("v32-bf16", &MARKS[..n_marks], folder.path());
        let model = folder.path().to_str().unwrap();
        refuses(&["--model", model], &["tokenizer", missing]);
    }
    let bare = repository("tests/fixtures/v32-bf16");
    refuses(&["--model", bare.to_str().unwrap()], &["no tokenizer.json"]);
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_it_with_130() {
    use std::io::{BufRead as _, BufReader};

    let mut child = command(&["--probes", "100", "--only", "recall", "--distances", "1900"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The header comes when measuring begins.
    let mut line = String::new();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    reader.read_line(&mut line).unwrap();
    assert!(line.starts_with("- sparsight"), "{line}");
    let kill = format!("kill -INT {}", child.id());
    let killed = Command::new("sh").args(["-c", &kill]).status().unwrap();
    assert!(killed.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
}
