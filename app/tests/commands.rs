//! The command line as a user meets it: results on stdout, the rest on stderr, exit codes.

#![allow(clippy::unwrap_used, reason = "a test may fail by panic")]

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

fn fixture(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/fixtures")
        .join(name);
    path.to_str().unwrap().to_owned()
}

fn sparsight(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sparsight"))
        .args(arguments)
        .env("NO_COLOR", "1")
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// As [`sparsight`], with something on stdin.
fn sparsight_with_stdin(arguments: &[&str], stdin: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_sparsight"))
        .args(arguments)
        .env("NO_COLOR", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that refuses its arguments does not read.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    child.wait_with_output().unwrap()
}

/// A fixture with a tokenizer: one token a character, and the marks of messages as the last ids.
fn with_tokenizer(folder: &Path) {
    const MARKS: [&str; 6] = [
        "<｜begin▁of▁sentence｜>",
        "<｜end▁of▁sentence｜>",
        "<｜User｜>",
        "<｜Assistant｜>",
        "<think>",
        "</think>",
    ];
    let from = PathBuf::from(fixture("v32-bf16"));
    std::fs::copy(
        from.join("model.safetensors"),
        folder.join("model.safetensors"),
    )
    .unwrap();
    let config = std::fs::read_to_string(from.join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    let vocab_size = config["vocab_size"].as_u64().unwrap() as usize;
    let n_characters = vocab_size - MARKS.len();
    config["bos_token_id"] = json!(n_characters);
    config["eos_token_id"] = json!(n_characters + 1);
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();

    // The byte-level alphabet writes a newline, a space and the printable bytes so.
    let characters = ['Ċ', 'Ġ']
        .into_iter()
        .chain('!'..='~')
        .chain('¡'..='¬')
        .chain('®'..);
    let vocab: serde_json::Map<_, _> = characters
        .take(n_characters)
        .enumerate()
        .map(|(id, character)| (character.to_string(), json!(id)))
        .collect();
    let added: Vec<Value> = MARKS
        .iter()
        .enumerate()
        .map(|(i, mark)| {
            json!({
                "id": n_characters + i, "content": mark, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": i < 2,
            })
        })
        .collect();
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": null,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "vocab": vocab, "merges": [],
        },
    });
    std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
}

/// Numbers in a text, in order.
fn numbers(text: &str) -> Vec<u32> {
    text.split(|c: char| !c.is_ascii_digit())
        .filter_map(|word| word.parse().ok())
        .collect()
}

#[test]
fn greedy_ids_are_equal_on_the_cpu_on_software_vulkan_and_on_the_reference() {
    let run = |device: &str| {
        let model = fixture("v32-bf16");
        let arguments = [
            "generate",
            "--model",
            &model,
            "--ids",
            "5,9,3",
            "--max-tokens",
            "16",
            "--greedy",
        ];
        numbers(&stdout(&sparsight(
            &[arguments.as_slice(), &["--device", device]].concat(),
        )))
    };
    let cpu = run("cpu");
    assert_eq!(cpu.len(), 16);
    assert_eq!(run("portable-f64"), cpu);
    assert_eq!(
        run("llvmpipe"),
        cpu,
        "software Vulkan, which `make test` installs"
    );
}

#[test]
fn verify_exits_0_on_every_fixture_and_1_on_a_damaged_oracle() {
    let folder = fixture("v3-mtp");
    assert!(
        sparsight(&["verify", "--device", "cpu", &folder])
            .status
            .success()
    );

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
        (
            &["generate", "--model", "/nonexistent", "--ids", "1"],
            "/nonexistent",
        ),
        (&["generate", "--model", &model, "--ids", "1,999"], "999"),
        (&["generate", "--model", &model, "--ids", ""], "ids"),
        (&["generate", "--model", &model, "a text"], "tokenizer"),
        (
            &[
                "generate", "--model", &model, "--ids", "1", "--device", "nosuch",
            ],
            "nosuch",
        ),
        (
            &["generate", "--model", &model, "--ids", "1", "--device", ""],
            "device",
        ),
        (
            &[
                "generate",
                "--model",
                &model,
                "--ids",
                "1",
                "--threads",
                "100000",
            ],
            "100000",
        ),
        (
            &["generate", "--model", &model, "--ids", "1", "--top-p", "7"],
            "top_p",
        ),
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
        assert!(
            said.contains(&word.replace('-', "_")),
            "{arguments:?} does not name {word:?}: {said}"
        );
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
        &[
            "generate",
            "--model",
            &model,
            "--ids",
            "5,9,3",
            "--max-tokens",
            "4",
            "--greedy",
            "--json",
        ],
        &[
            "bench",
            "--model",
            &model,
            "--device",
            "cpu",
            "--prompt",
            "8",
            "--generate",
            "4",
            "--depths",
            "0,16",
            "--repeat",
            "1",
            "--json",
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
        "trace",
        "--model",
        &model,
        "--ids",
        &ids.join(","),
        "--max-tokens",
        "3",
        "--greedy",
        "--device",
        "cpu",
        "--stages",
        "selected_positions,experts",
        "--layers",
        "1",
        "--out",
        file.to_str().unwrap(),
    ]));
    let frames = engine::trace_file::load(&file).unwrap();
    assert!(frames.len() >= 3);
    for frame in &frames {
        assert_eq!(frame.values.len(), 2);
        assert_eq!(
            frame
                .get(1, engine::trace::Stage::SelectedPositions)
                .unwrap()
                .shape(),
            [1, 16]
        );
    }
    stdout(&sparsight(&["inspect", file.to_str().unwrap()]));
}

#[test]
fn recorded_routes_replay_to_the_same_ids() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("routes.safetensors");
    let model = fixture("v3-mtp");
    let common = [
        "generate",
        "--model",
        &model,
        "--ids",
        "5,9,3",
        "--max-tokens",
        "8",
        "--device",
        "cpu",
        "--seed",
        "4",
    ];
    let run =
        |extra: [&str; 2]| numbers(&stdout(&sparsight(&[common.as_slice(), &extra].concat())));
    let first = run(["--record-routes", file.to_str().unwrap()]);
    assert_eq!(run(["--replay-routes", file.to_str().unwrap()]), first);
}

#[test]
fn completions_and_help_are_there() {
    assert!(stdout(&sparsight(&["completions", "bash"])).contains("sparsight"));
    let help = stdout(&sparsight(&["--help"]));
    for command in [
        "generate", "chat", "inspect", "devices", "bench", "trace", "verify",
    ] {
        assert!(help.contains(command), "{help}");
    }
}

#[test]
fn ids_from_stdin_are_ids() {
    let model = fixture("v32-f32");
    let common = [
        "generate", "--model", &model, "-n", "4", "--greedy", "--device", "cpu", "--ids",
    ];
    let given = sparsight(&[common.as_slice(), &["5,9,3"]].concat());
    let piped = sparsight_with_stdin(&[common.as_slice(), &["-"]].concat(), b"5 9\n3\n");
    assert_eq!(numbers(&stdout(&given)).len(), 4);
    assert_eq!(stdout(&piped), stdout(&given));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let model = fixture("v32-f32");
    let mut child = Command::new(env!("CARGO_BIN_EXE_sparsight"))
        .args([
            "generate",
            "--model",
            &model,
            "--ids",
            "5",
            "--device",
            "cpu",
            "--ignore-eos",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 8];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(
        !String::from_utf8_lossy(&output.stderr).contains("error"),
        "{output:?}"
    );
}

// Records are renamed into place: in place of a device that would be the end of the device.
#[cfg(unix)]
#[test]
fn a_record_goes_into_a_file_of_its_own_and_replaces_no_link_or_device() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    let link = folder.path().join("link");
    std::fs::write(&file, "kept").unwrap();
    std::os::unix::fs::symlink("file", &link).unwrap();
    let pipe = folder.path().join("pipe");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let (link, pipe) = (link.to_str().unwrap(), pipe.to_str().unwrap());
    let model = fixture("v32-f32");
    let common = [
        "--model", &model, "--ids", "5", "-n", "1", "--device", "cpu",
    ];
    let new = folder.path().join("new");
    let new = new.to_str().unwrap();
    let cases: [(&[&str], &str); 5] = [
        (&["trace", "--out", link], "no device or link"),
        (&["trace", "--out", pipe], "no device or link"),
        (&["generate", "--record-routes", link], "no device or link"),
        (&["generate", "--record-masks", pipe], "no device or link"),
        (&["trace", "--out", new, "--record-routes", new], "twice"),
    ];
    for (arguments, word) in cases {
        let output = sparsight(&[arguments, &common].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(word), "{arguments:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{arguments:?}: {said}");
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "kept");
    assert!(std::fs::symlink_metadata(link).unwrap().is_symlink());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
}

#[test]
fn records_of_another_model_are_refused_before_it_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let routes = folder.path().join("routes");
    let routes = routes.to_str().unwrap();
    let common = ["generate", "--ids", "5", "-n", "1", "--device", "cpu"];
    let (model, other) = (fixture("v32-f32"), fixture("v32-fp8"));
    stdout(&sparsight(
        &[&common[..], &["--model", &model, "--record-routes", routes]].concat(),
    ));
    let output =
        sparsight(&[&common[..], &["--model", &other, "--replay-routes", routes]].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("found [1, 2], expected [1]"), "{said}");
}

#[test]
fn text_goes_in_and_out_with_a_tokenizer() {
    let folder = tempfile::tempdir().unwrap();
    with_tokenizer(folder.path());
    let model = folder.path().to_str().unwrap();
    let common = [
        "generate",
        "--model",
        model,
        "--device",
        "cpu",
        "-n",
        "12",
        "--ignore-eos",
    ];
    let run = |extra: &[&str]| stdout(&sparsight(&[common.as_slice(), extra].concat()));
    let text = run(&["Hello"]);
    assert!(text.chars().count() > 1, "{text:?}");
    let piped = sparsight_with_stdin(&[common.as_slice(), &["-"]].concat(), b"Hello\n");
    assert_eq!(stdout(&piped), text);
    // BOS is there unless it is left out, and is not put there twice.
    assert_eq!(run(&["<｜begin▁of▁sentence｜>Hello"]), text);
    assert_ne!(run(&["Hello", "--no-bos"]), text);
    // A stop string is not shown, nor what comes after.
    let stop = text.chars().nth(1).unwrap().to_string();
    let stopped = run(&["Hello", "--stop", &stop]);
    assert_eq!(
        stopped.trim_end_matches('\n'),
        text.split(&stop).next().unwrap().trim_end_matches('\n')
    );

    // Messages: the same conversation in two ways.
    let asked = run(&["--system", "S", "--think", "Hi"]);
    let messages = json!([{"role": "system", "content": "S"}, {"role": "user", "content": "Hi"}]);
    let file = folder.path().join("messages.json");
    std::fs::write(&file, messages.to_string()).unwrap();
    assert_eq!(
        run(&["--think", "--messages", file.to_str().unwrap()]),
        asked
    );
    let json = run(&[
        "--system",
        "S",
        "--think",
        "Hi",
        "--json",
        "--logprobs",
        "3",
    ]);
    let lines: Vec<Value> = json
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 14);
    assert_eq!(lines[1]["top"].as_array().unwrap().len(), 3);
    assert_eq!(
        lines[13]["text"].as_str().unwrap().trim_end(),
        asked.trim_end()
    );
    assert!(lines[13]["reasoning"].is_string());
    let output = sparsight(&[common.as_slice(), &["--reasoning", "1+1"]].concat());
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("boxed answer"),
        "{output:?}"
    );
}

#[test]
fn bad_text_is_an_error_before_anything_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    with_tokenizer(folder.path());
    // Without weights: whoever gets as far as loading them fails with another message.
    std::fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    let model = folder.path().to_str().unwrap();
    let huge = vec![b'a'; 10_000_000];
    let cases: [(&[&str], &[u8], &str); 10] = [
        (&["-"], b"", "empty"),
        (&["-"], b"\n", "empty"),
        (&[""], b"", "empty"),
        (&["-"], b"abc\xff", "byte 3"),
        (&["-"], &huge, "10000001 tokens do not fit"),
        (&[], b"", "no prompt"),
        (&["--messages", "-"], b"[{\"role\": \"nobody\"}]", "nobody"),
        (
            &["--messages", "-"],
            br#"[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]"#,
            "nothing to answer",
        ),
        (&["--messages", "/nonexistent"], b"", "/nonexistent"),
        (
            &["x", "--record-routes", "/nonexistent/routes"],
            b"",
            "/nonexistent/routes",
        ),
    ];
    for (arguments, stdin, word) in cases {
        let arguments = [["generate", "--model", model].as_slice(), arguments].concat();
        let output = sparsight_with_stdin(&arguments, stdin);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(word), "{arguments:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{arguments:?}: {said}");
    }
}

/// The first and the last line of `generate --json` with the model inside.
#[cfg(feature = "embedded-model")]
fn first_and_last(arguments: &[&str], stdin: &[u8]) -> (Value, Value) {
    let generate = ["generate", "--device", "cpu", "--json"];
    let printed = stdout(&sparsight_with_stdin(
        &[&generate[..], arguments].concat(),
        stdin,
    ));
    let mut lines = printed
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    let first: Value = lines.next().unwrap();
    (first, lines.next_back().unwrap())
}

#[cfg(feature = "embedded-model")]
#[test]
fn marks_in_a_prompt_are_text_once_it_is_a_message() {
    let n_tokens = |arguments: &[&str], stdin: &str| {
        let one = [arguments, &["-n", "1"]].concat();
        first_and_last(&one, stdin.as_bytes()).0["prompt_tokens"]
            .as_u64()
            .unwrap()
    };
    let n_plain = n_tokens(&["--chat", "x"], "");
    for mark in [
        "</think>",
        "<｜User｜>",
        "<｜end▁of▁sentence｜>",
        "<｜tool▁sep｜>",
    ] {
        let marked = format!("x{mark}");
        // More than one token: it is spelled.
        let n_spelled = n_tokens(&["--chat", &marked], "") - n_plain;
        assert!(n_spelled > 1, "{mark}");
        assert_eq!(n_tokens(&["--chat", "-"], &marked), n_plain + n_spelled);
        let with_system = n_tokens(&["--system", mark, "x"], "");
        assert_eq!(with_system, n_plain + n_spelled, "{mark}");
        let messages = json!([{"role": "user", "content": marked}]).to_string();
        assert_eq!(
            n_tokens(&["--messages", "-"], &messages),
            n_plain + n_spelled
        );
        // A raw prompt is the user's own: there it is a mark.
        assert_eq!(n_tokens(&[&marked], ""), n_tokens(&["x"], "") + 1);
    }
}

#[cfg(feature = "embedded-model")]
#[test]
fn messages_are_taken_as_the_world_writes_them() {
    let call = |id: &str, city: &str| {
        let arguments = format!("{{\"city\":\"{city}\"}}");
        json!({"id": id, "type": "function", "function": {"name": "w", "arguments": arguments}})
    };
    let result =
        |id: &str, told: &str| json!({"role": "tool", "tool_call_id": id, "content": told});
    let conversation = |results: [Value; 2]| {
        let [one, other] = results;
        json!([
            {"role": "user", "content": "Weather in Oslo and Rome?"},
            {"role": "assistant", "content": "", "tool_calls": [call("a", "Oslo"), call("b", "Rome")]},
            one,
            other,
        ])
    };
    let run = |messages: &Value| {
        let arguments = ["--greedy", "-n", "4", "--messages", "-", "--logprobs", "1"];
        let (first, last) = first_and_last(&arguments, messages.to_string().as_bytes());
        (first["prompt_tokens"].clone(), last["ids"].clone())
    };
    let in_order = run(&conversation([
        result("a", "cold, 2"),
        result("b", "hot, 31"),
    ]));
    let swapped = run(&conversation([
        result("b", "hot, 31"),
        result("a", "cold, 2"),
    ]));
    assert_eq!(in_order, swapped);
    let unknown = conversation([result("zzz", "cold, 2"), result("b", "hot, 31")]).to_string();
    let refused = sparsight_with_stdin(
        &["generate", "-n", "1", "--messages", "-"],
        unknown.as_bytes(),
    );
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(
        said.contains("\"zzz\"") && said.lines().count() == 1,
        "{said}"
    );

    let function = |function: Value| {
        json!([
            {"role": "user", "content": "time?"},
            {"role": "assistant", "content": null, "tool_calls": [{"id": "a", "type": "function", "function": function}]},
            {"role": "tool", "tool_call_id": "a", "content": "12:00"},
        ])
    };
    let whole = run(&function(json!({"name": "now", "arguments": "{}"})));
    for loose in [
        json!({"name": "now", "arguments": ""}),
        json!({"name": "now", "arguments": " "}),
        json!({"name": "now", "arguments": null}),
        json!({"name": "now"}),
    ] {
        assert_eq!(run(&function(loose)), whole);
    }
    let older = json!([
        {"role": "user", "content": "time?"},
        {"role": "assistant", "content": null, "function_call": {"name": "now", "arguments": "{}"}},
        {"role": "function", "name": "now", "content": "12:00"},
    ]);
    assert_eq!(run(&older), whole);
    let hi = json!({"messages": [{"role": "user", "content": "hi"}], "tools": null});
    assert_eq!(run(&hi), run(&json!([{"role": "user", "content": "hi"}])));
}

#[cfg(feature = "embedded-model")]
#[test]
fn files_of_other_systems_say_the_same() {
    let run = |arguments: &[&str], stdin: &[u8]| {
        let (first, last) = first_and_last(&[arguments, &["--greedy", "-n", "6"]].concat(), stdin);
        (first["prompt_tokens"].clone(), last["ids"].clone())
    };
    let plain = run(&["-"], b"Once upon a time\n");
    for other in [
        "\u{FEFF}Once upon a time\n",
        "Once upon a time\r\n",
        "\u{FEFF}Once upon a time",
    ] {
        assert_eq!(run(&["-"], other.as_bytes()), plain, "{other:?}");
    }
    assert_eq!(
        run(&["--ids", "-"], "\u{FEFF}0, 5\r\n9\r\n".as_bytes()),
        run(&["--ids", "0,5,9"], b"")
    );
    let list = json!([{"role": "user", "content": "Hello there"}]).to_string();
    let plain = run(&["--messages", "-"], list.as_bytes());
    let marked = format!("\u{FEFF}{}\r\n", list.replace(':', ":\r\n"));
    assert_eq!(run(&["--messages", "-"], marked.as_bytes()), plain);
    let utf16: Vec<u8> = marked.encode_utf16().flat_map(u16::to_le_bytes).collect();
    for arguments in [["--messages", "-"].as_slice(), &["-"], &["--ids", "-"]] {
        let output = sparsight_with_stdin(&[&["generate"][..], arguments].concat(), &utf16);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(
            said.contains("UTF-16") && said.lines().count() == 1,
            "{said}"
        );
    }

    let folder = tempfile::tempdir().unwrap();
    let saved = folder.path().join("saved.json");
    let script = format!("\u{FEFF}Hi\r\n/save {}\r\n/quit\r\n", saved.display());
    let chat = ["chat", "--device", "cpu", "-n", "2"];
    stdout(&sparsight_with_stdin(&chat, script.as_bytes()));
    let saved: Value = serde_json::from_str(&std::fs::read_to_string(&saved).unwrap()).unwrap();
    assert_eq!(saved[0]["content"], "Hi");
}

#[cfg(feature = "embedded-model")]
#[test]
fn tokens_are_chosen_as_the_model_says_unless_the_user_says_otherwise() {
    let note = "sampling by the model's generation_config.json: ";
    let run = |arguments: &[&str]| {
        let common = ["generate", "--device", "cpu", "--json", "-n", "1", "Once"];
        let output = sparsight(&[&common[..], arguments].concat());
        let first = stdout(&output).lines().next().unwrap().to_owned();
        let first: Value = serde_json::from_str(&first).unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        let told = told
            .lines()
            .find_map(|line| line.strip_prefix(note))
            .unwrap_or("")
            .to_owned();
        (
            first["temperature"].as_f64().unwrap(),
            first["top_p"].as_f64().unwrap(),
            told,
        )
    };
    let told = "temperature 0.7, top-p 0.9";
    assert_eq!(run(&[]), (0.7, 0.9, told.into()));
    assert_eq!(run(&["--temperature", "1"]), (1.0, 0.9, "top-p 0.9".into()));
    assert_eq!(
        run(&["--temperature", "1", "--top-p", "0.5"]),
        (1.0, 0.5, String::new())
    );
    assert_eq!(run(&["--greedy"]), (0.0, 0.9, String::new()));

    let chat = sparsight_with_stdin(&["chat", "--device", "cpu"], b"/set\n");
    let said = String::from_utf8_lossy(&chat.stderr).into_owned();
    assert!(said.contains(&format!("{note}{told}")), "{said}");
    let said: Vec<&str> = said.split_whitespace().collect();
    assert!(
        said.windows(2).any(|pair| pair == ["temperature", "0.7"]),
        "{said:?}"
    );

    // A folder's own; what cannot be is told before anything is loaded.
    let folder = tempfile::tempdir().unwrap();
    with_tokenizer(folder.path());
    let model = folder.path().to_str().unwrap();
    let file = folder.path().join("generation_config.json");
    std::fs::write(
        &file,
        "\u{FEFF}{\"do_sample\": false, \"repetition_penalty\": 1.5}\r\n",
    )
    .unwrap();
    assert_eq!(
        run(&["--model", model]),
        (0.0, 0.95, "temperature 0, repetition-penalty 1.5".into())
    );
    std::fs::write(&file, r#"{"temperature": "warm"}"#).unwrap();
    let output = sparsight(&["generate", "--model", model, "x"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("generation_config.json: key \"temperature\" is \"warm\""),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn a_chat_obeys_its_commands() {
    let folder = tempfile::tempdir().unwrap();
    with_tokenizer(folder.path());
    let model = folder.path().to_str().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let saved = elsewhere.path().join("saved.json");
    let common = ["chat", "--model", model, "--device", "cpu", "-n", "6"];
    let chat = |script: &str| {
        let script = script.replace("FILE", saved.to_str().unwrap());
        sparsight_with_stdin(&common, script.as_bytes())
    };
    let read =
        || -> Value { serde_json::from_str(&std::fs::read_to_string(&saved).unwrap()).unwrap() };

    let output = chat(
        "/system Be short.\nHi\n/think on\nAgain\n/regen\n/undo\n/set temperature 0.5\n/topk 4\n/dense on\n\
         /dense off\n/stats\n/help\n/save FILE\n/quit\nnever read\n",
    );
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("took back: Again"), "{said}");
    assert!(
        said.contains("tokens of the prompt were known from before"),
        "{said}"
    );
    assert!(said.contains("/regen"), "{said}");
    let roles: Vec<_> = read()
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["role"].clone())
        .collect();
    assert_eq!(roles, ["system", "user", "assistant"]);
    let first = read();

    // Nobody's file is overwritten; what was saved goes on.
    let output = chat("/clear\n/save FILE\n");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert_eq!(read(), first);
    let output = chat("/load FILE\n/undo\n/save FILE\n");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(read().as_array().unwrap().len(), 1);

    for (script, word) in [
        ("/nosuch\n", "/nosuch"),
        ("/set top-p 7\n", "top_p"),
        ("/set nosuch 7\n", "nosuch"),
        ("/topk 0\n", "at least 1"),
        ("/think maybe\n", "maybe"),
        ("/regen\n", "no message"),
        ("/quit now\n", "now"),
    ] {
        let output = chat(script);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{script}: {said}");
        assert!(said.contains(word), "{script}: {said}");
    }
}

#[test]
fn a_profile_is_counted_without_weights_and_timed_on_an_adapter() {
    let counted = stdout(&sparsight(&[
        "bench",
        "--profile",
        "--model",
        concat!(env!("CARGO_MANIFEST_DIR"), "/../models/deepseek-v3.2"),
        "--depths",
        "131071",
        "--modes",
        "sparse",
        "--latent-cache",
        "flashmla",
        "--key-cache",
        "fp8",
    ]));
    for part in ["counted, not run", "| index_scores | 61 |", "ratio 1.0"] {
        assert!(counted.contains(part), "{counted}");
    }
    let model = fixture("v32-f32");
    let profile = ["bench", "--profile", "--model", &model, "--depths", "20"];
    let timed = stdout(&sparsight(
        &[&profile[..], &["--device", "vulkan:0"]].concat(),
    ));
    let line = timed
        .lines()
        .find(|line| line.starts_with("| attend |"))
        .unwrap();
    assert!(line.contains(" ms |"), "{timed}");

    let refused = sparsight(&[&profile[..], &["--device", "cpu"]].concat());
    assert_eq!(refused.status.code(), Some(2));
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(
        told.contains("found device cpu, expected a wgpu device"),
        "{told}"
    );
}

#[cfg(feature = "embedded-model")]
#[test]
fn without_a_model_it_is_the_one_inside() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/tiny");
    let generate = ["generate", "--device", "cpu", "-n", "12", "--ignore-eos"];
    let common = [&generate[..], &["Once upon a time"]].concat();
    let inside = sparsight(&common);
    let told = String::from_utf8_lossy(&inside.stderr).into_owned();
    assert!(told.contains("embedded model on cpu"), "{told}");
    let of_folder = sparsight(&[&common[..], &["--model", folder]].concat());
    assert_eq!(stdout(&inside), stdout(&of_folder));

    let chat = ["chat", "--device", "cpu", "-n", "6"];
    let script = "Hi\n/quit\n".as_bytes();
    let inside = sparsight_with_stdin(&chat, script);
    let of_folder = sparsight_with_stdin(&[&chat[..], &["--model", folder]].concat(), script);
    assert!(!stdout(&inside).trim().is_empty());
    assert_eq!(stdout(&inside), stdout(&of_folder));
    let told = String::from_utf8_lossy(&inside.stderr).into_owned();
    assert!(told.contains("embedded model on cpu"), "{told}");

    let inspected = stdout(&sparsight(&["inspect"]));
    let (head, rest) = inspected.split_once('\n').unwrap();
    assert_eq!(head, "embedded model");
    let of_folder = stdout(&sparsight(&["inspect", folder]));
    assert_eq!(rest, of_folder.split_once('\n').unwrap().1);

    let bench = [
        "bench", "--device", "cpu", "--prompt", "4", "-n", "2", "--repeat", "1",
    ];
    assert!(stdout(&sparsight(&bench)).contains("- model embedded model: "));

    let traces = tempfile::tempdir().unwrap();
    let out = traces.path().join("trace.safetensors");
    let trace = ["trace", "--device", "cpu", "-n", "2", "--layers", "0", "x"];
    stdout(&sparsight(
        &[&trace[..], &["--out", out.to_str().unwrap()]].concat(),
    ));
    assert!(!engine::trace_file::load(&out).unwrap().is_empty());
}

#[cfg(not(feature = "embedded-model"))]
#[test]
fn without_a_model_inside_one_has_to_be_named() {
    let out = "--out=/nonexistent/trace";
    let cases: [&[&str]; 5] = [
        &["generate", "x"],
        &["chat"],
        &["bench"],
        &["trace", "x", out],
        &["inspect"],
    ];
    for arguments in cases {
        let output = sparsight(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains("feature embedded-model"), "{said}");
        assert_eq!(said.lines().count(), 1, "{arguments:?}: {said}");
    }
}

#[test]
fn a_selector_takes_the_indexers_place_or_says_why_not() {
    let model = fixture("v32-f32");
    let ids: Vec<String> = (0..40).map(|i| ((i * 37 + 11) % 128).to_string()).collect();
    let ids = ids.join(",");
    let common = [
        "generate", "--model", &model, "--ids", &ids, "-n", "8", "--greedy",
    ];
    let on = |device: &str, extra: &[&str]| {
        sparsight(&[&common[..], &["--device", device], extra].concat())
    };
    let run = |extra: &[&str]| stdout(&on("cpu", extra));
    assert_eq!(run(&["--selector", "indexer"]), run(&[]));
    assert_eq!(
        run(&["--selector", "random:7"]),
        run(&["--selector", "random:7"])
    );
    let all = ["--index-topk", "1000"];
    for selector in ["recent", "random"] {
        let selector = ["--selector", selector];
        assert_eq!(run(&[selector, all].concat()), run(&["--dense"]));
    }

    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("trace.safetensors");
    let trace = [
        "trace", "--model", &model, "--ids", &ids, "-n", "1", "--device", "cpu",
    ];
    let extra = ["--selector", "recent", "--index-topk", "3", "--out"];
    stdout(&sparsight(
        &[&trace[..], &extra, &[out.to_str().unwrap()]].concat(),
    ));
    let frames = engine::trace_file::load(&out).unwrap();
    let positions = frames[0].get(2, engine::trace::Stage::SelectedPositions);
    assert_eq!(positions.unwrap().integers().unwrap(), [37, 38, 39]);

    let dense_model = fixture("v2-lite");
    let other = [
        "generate",
        "--model",
        &dense_model,
        "--ids",
        "1",
        "--selector",
        "recent",
    ];
    for (output, word) in [
        (on("cpu", &["--selector", "first"]), "random[:SEED]"),
        (on("cpu", &["--selector", "random:x"]), "random:x"),
        (on("cpu", &["--selector", "recent", "--dense"]), "--dense"),
        (
            on("llvmpipe", &["--selector", "recent"]),
            "GPUs have no other",
        ),
        (sparsight(&other), "the model has no indexer"),
    ] {
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(word), "{said}");
    }
}

#[test]
fn what_if_flags_change_what_is_read_and_who_works() {
    let model = fixture("v32-f32");
    let ids: Vec<String> = (0..40).map(|i| ((i * 37 + 11) % 128).to_string()).collect();
    let ids = ids.join(",");
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("trace.safetensors");
    let trace = [
        "trace", "--model", &model, "--ids", &ids, "-n", "1", "--device", "cpu",
    ];
    let extra = [
        "--ban-position",
        "0",
        "--ban-position",
        "39",
        "--pin-position",
        "1",
        "--expert-off",
        "2:5",
        "--index-topk",
        "3",
        "--out",
    ];
    stdout(&sparsight(
        &[&trace[..], &extra, &[out.to_str().unwrap()]].concat(),
    ));
    let frames = engine::trace_file::load(&out).unwrap();
    // The last frame is of the generated token, behind both banned positions.
    let frame = frames.last().unwrap();
    assert_eq!(frame.position, 40);
    for layer in 0..3 {
        let positions = frame.get(layer, engine::trace::Stage::SelectedPositions);
        let positions = positions.unwrap().integers().unwrap();
        assert_eq!(positions.len(), 3);
        assert!(positions.contains(&1), "{positions:?}");
        assert!(!positions.contains(&0) && !positions.contains(&39));
    }
    let experts = frame.get(2, engine::trace::Stage::Experts).unwrap();
    assert!(!experts.integers().unwrap().contains(&5));

    for (flags, word) in [
        (&["--expert-off", "2"][..], "LAYER:EXPERT"),
        (&["--expert-off", "0:1"], "a layer with experts"),
        (
            &["--ban-position", "4", "--pin-position", "4"],
            "pinned and banned",
        ),
        (
            &[
                "--pin-position",
                "1",
                "--pin-position",
                "2",
                "--index-topk",
                "1",
            ],
            "at most 1",
        ),
        (&["--ban-position", "-1"], "--ban-position"),
    ] {
        let arguments = [
            "generate", "--model", &model, "--ids", "1", "--device", "cpu",
        ];
        let output = sparsight(&[&arguments[..], flags].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(word), "{said}");
    }
}
