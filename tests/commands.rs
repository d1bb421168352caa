//! The command line as a user meets it: results on stdout, the rest on stderr, exit codes.

#![allow(clippy::unwrap_used, reason = "a test may fail by panic")]

use std::path::PathBuf;
use std::process::{Command, Output};

fn fixture(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name);
    path.to_str().unwrap().to_owned()
}

fn sparsight(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sparsight")).args(arguments).env("NO_COLOR", "1").output().unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Numbers in a text, in order.
fn numbers(text: &str) -> Vec<u32> {
    text.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect()
}

#[test]
fn greedy_ids_are_equal_on_the_cpu_on_software_vulkan_and_on_the_reference() {
    let run = |device: &str| {
        let model = fixture("v32-bf16");
        let arguments = ["generate", "--model", &model, "--ids", "5,9,3", "--max-tokens", "16", "--greedy"];
        numbers(&stdout(&sparsight(&[arguments.as_slice(), &["--device", device]].concat())))
    };
    let cpu = run("cpu");
    assert_eq!(cpu.len(), 16);
    assert_eq!(run("portable-f64"), cpu);
    assert_eq!(run("llvmpipe"), cpu, "software Vulkan, which `make test` installs");
}

#[test]
fn verify_exits_0_on_every_fixture_and_1_on_a_damaged_oracle() {
    let folder = fixture("v3-mtp");
    assert!(sparsight(&["verify", "--device", "cpu", &folder]).status.success());

    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(copy.path().join(path.file_name().unwrap()), bytes).unwrap();
    }
    // The last tensor bytes of the file: some float is no longer the oracle's.
    let oracle = copy.path().join("oracle.safetensors");
    let mut bytes = std::fs::read(&oracle).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize + 8;
    let end = bytes.len();
    for byte in &mut bytes[header + (end - header) / 2..] {
        *byte ^= 0x55;
    }
    std::fs::write(&oracle, bytes).unwrap();
    let output = sparsight(&["verify", "--device", "cpu", copy.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

#[test]
fn bad_input_is_one_error_on_stderr_and_code_2() {
    let model = fixture("v32-bf16");
    let cases: &[(&[&str], &str)] = &[
        (&["generate", "--model", "/nonexistent", "--ids", "1"], "/nonexistent"),
        (&["generate", "--model", &model, "--ids", "1,999"], "999"),
        (&["generate", "--model", &model, "--ids", ""], "ids"),
        (&["generate", "--model", &model, "a text"], "tokenizer"),
        (&["generate", "--model", &model, "--ids", "1", "--device", "nosuch"], "nosuch"),
        (&["generate", "--model", &model, "--ids", "1", "--top-p", "7"], "top_p"),
        (&["verify", "/nonexistent"], "/nonexistent"),
        (&["inspect", "/nonexistent"], "/nonexistent"),
        (&["nosuchcommand"], "nosuchcommand"),
    ];
    for (arguments, word) in cases {
        let output = sparsight(arguments);
        let said = String::from_utf8_lossy(&output.stderr).replace('-', "_");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(output.stdout.is_empty(), "{arguments:?} printed a result");
        assert!(said.contains("error"), "{arguments:?}: {said}");
        assert!(said.contains(&word.replace('-', "_")), "{arguments:?} does not name {word:?}: {said}");
        assert!(!said.contains("panicked"), "{arguments:?}: {said}");
    }
}

#[test]
fn every_command_that_offers_json_gives_json() {
    let model = fixture("v32-fp8");
    let cases: &[&[&str]] = &[
        &["devices", "--json"],
        &["inspect", &model, "--json"],
        &["verify", &model, "--device", "cpu", "--json"],
        &["generate", "--model", &model, "--ids", "5,9,3", "--max-tokens", "4", "--greedy", "--json"],
        &[
            "bench", "--model", &model, "--device", "cpu", "--prompt", "8", "--generate", "4", "--depths",
            "0,16", "--repeat", "1", "--json",
        ],
    ];
    for arguments in cases {
        let text = stdout(&sparsight(arguments));
        for line in text.lines().filter(|_| arguments[0] == "generate") {
            serde_json::from_str::<serde_json::Value>(line).unwrap();
        }
        if arguments[0] != "generate" {
            serde_json::from_str::<serde_json::Value>(&text).unwrap();
        }
    }
}

#[test]
fn a_written_trace_holds_what_was_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trace.safetensors");
    let model = fixture("v32-f32");
    let ids: Vec<String> = (2..42).map(|id| id.to_string()).collect();
    stdout(&sparsight(&[
        "trace", "--model", &model, "--ids", &ids.join(","), "--max-tokens", "3", "--greedy", "--device", "cpu",
        "--stages", "selected_positions,experts", "--layers", "1", "--out", file.to_str().unwrap(),
    ]));
    let frames = engine::trace_file::load(&file).unwrap();
    assert!(frames.len() >= 3);
    for frame in &frames {
        assert_eq!(frame.values.len(), 2);
        assert_eq!(frame.get(1, engine::trace::Stage::SelectedPositions).unwrap().shape(), [1, 16]);
    }
    stdout(&sparsight(&["inspect", file.to_str().unwrap()]));
}

#[test]
fn recorded_routes_replay_to_the_same_ids() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("routes.safetensors");
    let model = fixture("v3-mtp");
    let common = ["generate", "--model", &model, "--ids", "5,9,3", "--max-tokens", "8", "--device", "cpu", "--seed", "4"];
    let run = |extra: [&str; 2]| numbers(&stdout(&sparsight(&[common.as_slice(), &extra].concat())));
    let first = run(["--record-routes", file.to_str().unwrap()]);
    assert_eq!(run(["--replay-routes", file.to_str().unwrap()]), first);
}

#[test]
fn completions_and_help_are_there() {
    assert!(stdout(&sparsight(&["completions", "bash"])).contains("sparsight"));
    let help = stdout(&sparsight(&["--help"]));
    for command in ["generate", "chat", "inspect", "devices", "bench", "trace", "verify"] {
        assert!(help.contains(command), "{help}");
    }
}
