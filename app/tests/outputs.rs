//! What the command line writes never comes over what somebody needs, and is whole or not there.

#![allow(clippy::unwrap_used, reason = "a test may fail by panic")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(path)
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let path = file.unwrap().path();
        if path.is_file() {
            std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }
}

/// Runs a command with `stdin`, which a program that refuses its arguments does not read.
fn output(command: &mut Command, stdin: &str) -> Output {
    command.env("NO_COLOR", "1").stdin(Stdio::piped());
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}

fn sparsight(arguments: &[&str]) -> Output {
    output(
        Command::new(env!("CARGO_BIN_EXE_sparsight")).args(arguments),
        "",
    )
}

fn chat(model: &Path, arguments: &[&str], script: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sparsight"));
    command
        .args(["chat", "--device", "cpu", "-n", "1", "--model"])
        .arg(model)
        .args(arguments);
    output(&mut command, script)
}

/// Every file below a folder, with its bytes; links as what they point to.
fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        if path.is_symlink() {
            let to = std::fs::read_link(&path).unwrap();
            all.push((path, to.into_os_string().into_encoded_bytes()));
        } else if path.is_dir() {
            all.extend(contents(&path));
        } else {
            let bytes = std::fs::read(&path).unwrap();
            all.push((path, bytes));
        }
    }
    all.sort();
    all
}

#[cfg(unix)]
#[test]
fn every_output_refuses_what_is_not_its_own_before_any_work() {
    use std::os::unix::fs::symlink;
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name).to_str().unwrap().to_owned();
    copy(&repository("models/tiny"), Path::new(&at("model")));
    std::fs::create_dir(at("model/sub")).unwrap();
    let conversation = json!([{"role": "user", "content": "Hi"}]).to_string();
    std::fs::write(at("conv.json"), &conversation).unwrap();
    std::fs::write(at("notes.txt"), "notes").unwrap();
    std::fs::write(at("read-only.json"), &conversation).unwrap();
    let mut permissions = std::fs::metadata(at("read-only.json"))
        .unwrap()
        .permissions();
    permissions.set_readonly(true);
    std::fs::set_permissions(at("read-only.json"), permissions).unwrap();
    std::fs::hard_link(at("model/model.safetensors"), at("hard")).unwrap();
    symlink(at("model"), at("link-to-model")).unwrap();
    symlink(at("model/config.json"), at("link-to-config")).unwrap();
    symlink(at("nothing"), at("dangling")).unwrap();
    let model = at("model");
    let common = ["--model", &model, "--device", "cpu", "-n", "1"];
    let make = |arguments: &[&str]| {
        let made = sparsight(&[arguments, &common].concat());
        assert!(made.status.success(), "{made:?}");
    };
    let (trace, routes, masks) = (at("trace"), at("routes"), at("masks"));
    make(&["trace", "x", "--out", &trace, "--record-routes", &routes]);
    make(&["generate", "x", "--record-masks", &masks]);
    std::fs::hard_link(&routes, at("routes-too")).unwrap();
    let before = contents(root.path());

    // Each output with a file of its own kind.
    let outputs: [(&[&str], &str, &str); 4] = [
        (&["trace", "x"], "--out", "trace"),
        (&["generate", "x"], "--record-routes", "routes"),
        (&["generate", "x"], "--record-masks", "masks"),
        (&["chat"], "/save", "conv.json"),
    ];
    let never = [
        "model/model.safetensors",
        "model/config.json",
        "model/new",
        "model/sub/new",
        "model/sub/../new",
        "model",
        "link-to-model/new",
        "link-to-config",
        "dangling",
        "hard",
        "notes.txt",
        "read-only.json",
        "none/new",
        "trace",
        "routes",
        "masks",
        "conv.json",
    ];
    let refuses = |command: &[&str], option: &str, place: &str, force: bool| {
        let (place, said) = (at(place), format!("{command:?} {option} {place} {force}"));
        let output = if option == "/save" {
            let flag = if force { "--force " } else { "" };
            chat(Path::new(&model), &[], &format!("/save {flag}{place}\n"))
        } else {
            let flag: &[&str] = if force { &["--force"] } else { &[] };
            sparsight(&[command, &[option, &place], flag, &common].concat())
        };
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}: {told}");
        // A chat was loaded before, and told how it samples; all others say the one sentence only.
        let n_lines = told
            .lines()
            .filter(|line| !line.contains("loaded in") && !line.starts_with("sampling by"))
            .count();
        assert_eq!(n_lines, 1, "{said}: {told}");
        assert!(
            option == "/save" || !told.contains("loaded in"),
            "{said}: {told}"
        );
        assert!(told.contains(&place), "{said}: {told}");
        assert!(contents(root.path()) == before, "{said}");
    };
    for (command, option, own) in outputs {
        for place in never.iter().filter(|place| **place != own) {
            for force in [false, true] {
                refuses(command, option, place, force);
            }
        }
        refuses(command, option, own, false);
    }
    // What is read, under any name.
    let conversation = at("conv.json");
    for force in [false, true] {
        let messages = ["generate", "--messages", &conversation];
        refuses(&messages, "--record-masks", "conv.json", force);
        let replay = ["generate", "x", "--replay-routes", &routes];
        for place in ["routes", "routes-too"] {
            refuses(&replay, "--record-routes", place, force);
        }
        let replay = ["generate", "x", "--replay-masks", &masks];
        refuses(&replay, "--record-masks", "masks", force);
    }
    // Its own is overwritten by wish, and by nothing else.
    let made = [
        "trace",
        "y z",
        "--out",
        &trace,
        "--record-routes",
        &routes,
        "--force",
    ];
    make(&made);
    make(&["generate", "y z", "--record-masks", &masks, "--force"]);
    let saved = chat(
        Path::new(&model),
        &[],
        &format!("Yes\n/save --force {conversation}\n"),
    );
    assert!(saved.status.success(), "{saved:?}");
    let after = contents(root.path());
    let changed: Vec<_> = before.iter().zip(&after).filter(|(a, b)| a != b).collect();
    let names: Vec<_> = changed
        .iter()
        .map(|(a, _)| a.0.file_name().unwrap())
        .collect();
    assert_eq!(names, ["conv.json", "masks", "routes", "trace"]);
    assert_eq!(before.len(), after.len());
}

#[test]
fn a_conversation_goes_back_to_where_it_came_from() {
    let folder = tempfile::tempdir().unwrap();
    let model = repository("models/tiny");
    let file = folder.path().join("saved.json");
    let name = file.to_str().unwrap();
    let n_messages = || {
        let text = std::fs::read_to_string(&file).unwrap();
        serde_json::from_str::<Value>(&text)
            .unwrap()
            .as_array()
            .unwrap()
            .len()
    };
    let other = folder.path().join("other.json");
    std::fs::write(&other, "[]").unwrap();
    let scripts: [(&[&str], String, usize); 4] = [
        (&[], format!("Hi\n/save {name}\nAgain\n/save {name}\n"), 4),
        (&["--messages", name], format!("And\n/save {name}\n"), 6),
        (&[], format!("/load {name}\n/undo\n/save {name}\n"), 4),
        (&[], format!("/load {name}\n/clear\n/save {name}\n"), 0),
    ];
    for (arguments, script, n) in scripts {
        let output = chat(&model, arguments, &script);
        assert!(output.status.success(), "{script}: {output:?}");
        assert_eq!(n_messages(), n, "{script}");
    }
    // Another conversation is not its own.
    let output = chat(
        &model,
        &[],
        &format!("/load {name}\n/save {}\n", other.display()),
    );
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert_eq!(std::fs::read_to_string(&other).unwrap(), "[]");
}

#[cfg(unix)]
#[test]
fn a_full_disk_leaves_what_was_there() {
    let folder = tempfile::tempdir().unwrap();
    let (saved, routes) = (
        folder.path().join("saved.json"),
        folder.path().join("routes"),
    );
    let (saved_name, routes_name) = (saved.to_str().unwrap(), routes.to_str().unwrap());
    // Eight blocks of 512 bytes, or of 1,024. Beyond them a write fails, as on a full disk: the program
    // ignores the signal that would end it.
    let limited = |arguments: &[&str], stdin: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -f 8; exec \"$0\" \"$@\""]);
        command.arg(env!("CARGO_BIN_EXE_sparsight")).args(arguments);
        output(&mut command, stdin)
    };
    let model = repository("models/tiny");
    let common = ["--device", "cpu", "--model", model.to_str().unwrap()];
    let chat = [&["chat"], &common[..]].concat();
    let (small, large) = ("short ".repeat(300), "long ".repeat(3000));
    let script =
        format!("/system {small}\n/save {saved_name}\n/system {large}\n/save {saved_name}\n");
    let output = limited(&chat, &script);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains(saved_name) && said.contains("too large"),
        "{said}"
    );
    let kept: Value = serde_json::from_slice(&std::fs::read(&saved).unwrap()).unwrap();
    assert_eq!(kept[0]["content"], small.trim());

    let prompt = "Once upon a time there was a kite. ".repeat(20);
    let generate = [
        &[
            "generate",
            &prompt,
            "-n",
            "1",
            "--record-routes",
            routes_name,
        ],
        &common[..],
    ];
    let output = limited(&generate.concat(), "");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains(routes_name) && said.contains("too large"),
        "{said}"
    );
    let left = contents(folder.path());
    assert_eq!(left.len(), 1, "nothing but the conversation: {left:?}");
}
