//! The command line on a terminal of its own, and where its output cannot go or a signal ends it.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test may fail by panic")]

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use engine::replay::RouteTrace;
use nix::poll::{PollFd, PollFlags, poll};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// Long, since two cores may do much else beside.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the line editor sends when it waits for a line.
const WAITS: &str = "\x1b[?2004h";

/// A name and text that would clear the screen, color it, ring, and have itself read backwards.
const NASTY: &str = "a\x1b[2J\x1b]0;t\x07\u{9b}31m\u{202e}z\u{2066}";

fn repository(path: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(path);
    path.to_str().unwrap().to_owned()
}

fn fixture(name: &str) -> String {
    repository(&format!("tests/fixtures/{name}"))
}

fn copy(from: &str, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let path = file.unwrap().path();
        if path.is_file() {
            std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }
}

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sparsight"));
    command.env_remove("NO_COLOR").env("TERM", "xterm");
    command
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id() as i32), signal).unwrap();
}

/// A program on a terminal of 60 columns.
struct Terminal {
    child: Child,
    master: File,
    // Held open, so that what the program wrote is there after its end, and its mode can be seen.
    slave: OwnedFd,
    seen: Vec<u8>,
    n_waited_for: usize,
}

impl Terminal {
    fn start(command: &mut Command) -> Self {
        let size = Winsize {
            ws_row: 24,
            ws_col: 60,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pty = openpty(&size, None).unwrap();
        let end = || Stdio::from(pty.slave.try_clone().unwrap());
        let child = command.stdin(end()).stdout(end()).stderr(end()).spawn();
        Self {
            child: child.unwrap(),
            master: pty.master.into(),
            slave: pty.slave,
            seen: Vec::new(),
            n_waited_for: 0,
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.master.write_all(bytes).unwrap();
    }

    /// Takes what was written, for a moment.
    fn look(&mut self) {
        let mut fds = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, 50_u8).unwrap() > 0 {
            let mut bytes = [0; 4096];
            let n = self.master.read(&mut bytes).unwrap();
            self.seen.extend(&bytes[..n]);
        }
    }

    /// Waits for words behind those that were waited for before.
    fn until(&mut self, words: &str) {
        let end = Instant::now() + PATIENCE;
        loop {
            let new = &self.seen[self.n_waited_for..];
            if let Some(at) = new
                .windows(words.len())
                .position(|part| part == words.as_bytes())
            {
                self.n_waited_for += at + words.len();
                return;
            }
            let text = String::from_utf8_lossy(new);
            assert!(
                Instant::now() < end,
                "waited in vain for {words:?}, seen {text:?}"
            );
            self.look();
        }
    }

    /// All that was written, to the end of the program.
    fn finish(mut self) -> (ExitStatus, String) {
        let end = Instant::now() + PATIENCE;
        let status = loop {
            self.look();
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < end, "the program does not end");
        };
        self.look();
        let flags = tcgetattr(&self.slave).unwrap().local_flags;
        assert!(flags.contains(LocalFlags::ECHO | LocalFlags::ICANON | LocalFlags::ISIG));
        (status, String::from_utf8_lossy(&self.seen).into_owned())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // After a failure; else it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A chat with the small model, in answers of `n_tokens`.
fn chat_of(n_tokens: &str) -> Command {
    let mut command = program();
    let model = repository("models/tiny");
    command.args(["chat", "--model", &model, "--device", "cpu", "-n", n_tokens]);
    command
}

fn chat() -> Command {
    chat_of("1")
}

/// What a person said in a conversation that was saved.
fn said(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap();
    let messages: Value = serde_json::from_str(&text).unwrap();
    let messages = messages.as_array().unwrap().iter();
    let messages = messages.filter(|message| message["role"] == "user");
    messages
        .map(|message| message["content"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn pastes_are_kept_and_lines_that_come_at_once_are_messages() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("saved.json");
    let mut terminal = Terminal::start(&mut chat());
    let pastes = [
        "docker run \\\n  -p 80:80 \\\n  img\nthen tell me",
        "    indented\n\ttab, blanks at the end  ",
        "C:\\new\\",
        "\\",
        "ends with a line\n",
        "\u{65e5}\u{672c} e\u{301} \u{1f468}\u{200d}\u{1f469} \u{202e}backwards\u{202c} \x1b[2Jcleared",
        &"a long line that does not fit into the window by far ".repeat(40),
        &"many lines\n".repeat(50),
    ];
    for paste in pastes {
        terminal.until(WAITS);
        let sent = paste.replace('\n', "\r");
        terminal.send(format!("\x1b[200~{sent}\x1b[201~\r").as_bytes());
    }
    terminal.until(WAITS);
    // Typed: a backslash goes on, the cursor goes back, blanks before a slash make a message.
    let typed = "one \\\rtwi\x1b[D\x1b[3~o\r /help\rthree\rfour\n";
    let save = format!("/save {}\r/quit\r", file.display());
    terminal.send((typed.to_owned() + &save).as_bytes());
    let (status, seen) = terminal.finish();
    assert_eq!(status.code(), Some(0), "{seen}");
    let expected = [&pastes[..], &["one \ntwo", " /help", "three", "four"]].concat();
    assert_eq!(said(&file), expected);
    for harmful in ["\u{202e}", "\u{202c}", "\x1b[2J"] {
        assert!(!seen.contains(harmful), "{harmful:?} in {seen:?}");
    }
    // On a screen that obeys, reasoning and times are faint.
    assert!(seen.contains("\x1b[2m["), "{seen:?}");
}

#[test]
fn history_and_completion_are_there() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("saved.json");
    let mut terminal = Terminal::start(&mut chat());
    terminal.until(WAITS);
    terminal.send(format!("first\r\x1b[A again\r/sa\t{}\r/q\t\r", file.display()).as_bytes());
    let (status, seen) = terminal.finish();
    assert_eq!(status.code(), Some(0), "{seen}");
    assert_eq!(said(&file), ["first", "first again"]);
}

#[test]
fn a_terminal_that_obeys_nothing_gets_text_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("saved.json");
    for term in [Some("dumb"), None] {
        let mut command = chat();
        command
            .arg("--think")
            .env_remove("TERM")
            .envs(term.map(|term| ("TERM", term)));
        let mut terminal = Terminal::start(&mut command);
        terminal.until("> ");
        let save = format!(
            "one\r  two \\\rthree\r/save --force {}\r/quit\r",
            file.display()
        );
        terminal.send(save.as_bytes());
        let (status, seen) = terminal.finish();
        assert_eq!(status.code(), Some(0), "{seen}");
        assert!(!seen.contains('\x1b'), "{seen:?}");
        assert_eq!(said(&file), ["one", "  two \nthree"]);
    }
}

/// Checks that nothing of [`NASTY`] reached a terminal as it is, but in a form that does nothing.
#[track_caller]
fn assert_harmless(command: &mut Command) {
    let (_, seen) = Terminal::start(command).finish();
    for harmful in ["\x1b[2J", "\x1b]", "\x07", "\u{9b}", "\u{202e}", "\u{2066}"] {
        assert!(
            !seen.contains(harmful),
            "{command:?} has {harmful:?} in {seen:?}"
        );
    }
    // A JSON document and a quoted word have it spelt out.
    let shown = ["\u{FFFD}[2J", "\\u{1b}[2J", "\\u001b[2J"];
    let is_shown = shown.iter().any(|shown| seen.contains(shown));
    assert!(is_shown, "{command:?}: {seen:?}");
}

#[test]
fn no_name_and_no_text_reaches_a_terminal_as_a_command_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join(NASTY);
    copy(&fixture("v3-mtp"), &model);
    let model = model.to_str().unwrap();
    let missing = folder.path().join("missing").join(NASTY);
    let missing = missing.to_str().unwrap();
    let messages = folder.path().join("messages.json");
    std::fs::write(
        &messages,
        json!([{"role": NASTY, "content": ""}]).to_string(),
    )
    .unwrap();
    let messages = messages.to_str().unwrap();
    let routes = folder.path().join(format!("{NASTY}.routes"));
    let routes = routes.to_str().unwrap();
    let out = folder.path().join(format!("{NASTY}.trace"));
    let out = out.to_str().unwrap();
    let generate = [
        "generate", "--ids", "5", "-n", "1", "--device", "cpu", "--model",
    ];
    let trace = [
        "trace", "--ids", "5", "-n", "1", "--device", "cpu", "--model", model,
    ];
    let cases: &[&[&str]] = &[
        &[NASTY],
        &["help", NASTY],
        &["generate", "--threads", NASTY],
        &["generate", "--selector", NASTY],
        &[
            "generate", "--device", NASTY, "--ids", "5", "--model", model,
        ],
        &["generate", "--ids", NASTY],
        &["trace", "--stages", NASTY, "--out", "x"],
        &["verify", model, missing, "--device", "cpu"],
        &["verify", model, "--device", "cpu", "--json"],
        &["inspect", model],
        &["inspect", missing],
        &["inspect", model, "--json"],
        &["chat", "--messages", messages],
        &["generate", "--messages", messages],
        &[&generate[..], &[model]].concat(),
        &[&generate[..], &[missing]].concat(),
        &[&generate[..], &[model, "--record-routes", routes]].concat(),
        &[&generate[..], &[model, "--record-routes", missing]].concat(),
        &[&generate[..], &[model, "--replay-routes", missing]].concat(),
        &[&trace[..], &["--out", out]].concat(),
        &["inspect", out],
    ];
    for arguments in cases {
        assert_harmless(program().args(*arguments));
    }
    let mut terminal = Terminal::start(&mut chat());
    terminal.until(WAITS);
    for line in [
        format!("/load {missing}"),
        format!("/{NASTY}"),
        format!("/system {NASTY}"),
    ] {
        terminal.send(format!("\x1b[200~{line}\x1b[201~\r").as_bytes());
    }
    terminal.send(b"/system\r/quit\r");
    let (_, seen) = terminal.finish();
    for harmful in ["\x1b[2J", "\x1b]", "\x07", "\u{9b}", "\u{202e}", "\u{2066}"] {
        assert!(!seen.contains(harmful), "{harmful:?} in {seen:?}");
    }
}

/// A model of which every token but one is a command to a terminal.
fn nasty_model(folder: &Path) {
    copy(&fixture("v32-bf16"), folder);
    let config = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    let n = config["vocab_size"].as_u64().unwrap();
    // The byte-level alphabet writes the byte of an escape, and C2 9B, E2 80 AE, so.
    let nasty = "\u{11b}[2J\u{c2}\u{13d}31m\u{e2}\u{122}\u{ae}";
    let vocab = (0..n).map(|id| match id {
        0 => ("x".to_owned(), json!(id)),
        _ => (format!("{nasty}{id}"), json!(id)),
    });
    let vocab: serde_json::Map<_, _> = vocab.collect();
    let level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "pre_tokenizer": level, "post_processor": null, "decoder": level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "vocab": vocab, "merges": [],
        },
    });
    std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
}

#[test]
fn what_a_model_says_is_harmless_on_a_terminal_and_untouched_in_a_pipe() {
    let folder = tempfile::tempdir().unwrap();
    nasty_model(folder.path());
    let model = folder.path().to_str().unwrap();
    let arguments = [
        "generate",
        "x",
        "-n",
        "8",
        "--greedy",
        "--ignore-eos",
        "--device",
        "cpu",
        "--no-bos",
        "--model",
        model,
    ];
    let piped = program().args(arguments).output().unwrap();
    let said = String::from_utf8(piped.stdout).unwrap();
    assert!(said.contains("\x1b[2J\u{9b}31m\u{202e}"), "{said:?}");
    for extra in [&[][..], &["--json"], &["--stop", "nothing"]] {
        let (status, seen) = Terminal::start(program().args(arguments).args(extra)).finish();
        assert_eq!(status.code(), Some(0), "{seen}");
        for harmful in ["\x1b[2J", "\u{9b}", "\u{202e}"] {
            assert!(!seen.contains(harmful), "{extra:?}: {seen:?}");
        }
    }
}

/// A fixture whose weights are those of another rope: every check of it fails.
fn failing(folder: &Path) {
    copy(&fixture("v32-bf16"), folder);
    let config = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    let theta = &mut config["rope_theta"];
    *theta = json!(theta.as_f64().unwrap() * 2.0);
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
}

#[test]
fn a_check_that_fails_says_so_in_its_exit_code_through_a_closed_pipe_too() {
    let folder = tempfile::tempdir().unwrap();
    failing(folder.path());
    let (bad, good) = (folder.path().to_str().unwrap(), &fixture("v32-bf16"));
    let missing = "/nonexistent";
    for (folders, code) in [
        (&[bad, bad][..], 1),
        (&[good, bad], 1),
        (&[bad, good], 1),
        (&[good, missing], 2),
        (&[good], 0),
    ] {
        for extra in [&[][..], &["--json"]] {
            let mut command = program();
            command
                .args(["verify", "--device", "cpu"])
                .args(folders)
                .args(extra);
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = command.spawn().unwrap();
            // Before a word is written.
            drop(child.stdout.take());
            let output = child.wait_with_output().unwrap();
            assert_eq!(output.status.code(), Some(code), "{command:?}: {output:?}");
        }
    }
    // A checkpoint that does not fit its config is told about by `inspect` alike.
    let config = std::fs::read_to_string(folder.path().join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["vocab_size"] = json!(config["vocab_size"].as_u64().unwrap() + 1);
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let mut command = program();
    command
        .args(["inspect", bad])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("does not fit"),
        "{output:?}"
    );
}

/// Everything that prints a result, each in a moment.
fn printing() -> Vec<Vec<String>> {
    let (model, plan) = (fixture("v32-bf16"), repository("models/deepseek-v3.2"));
    let generate = [
        "generate", "--ids", "5", "-n", "2", "--device", "cpu", "--model", &model,
    ];
    let cases: [&[&str]; 13] = [
        &["--help"],
        &["--version"],
        &["help", "chat"],
        &["generate", "--help"],
        &["completions", "bash"],
        &["devices"],
        &["devices", "--json"],
        &["inspect", &model],
        &["inspect", &plan, "--json"],
        &["verify", "--device", "cpu", &model],
        &generate,
        &[&generate[..], &["--json"]].concat(),
        &["bench", "--profile", "--depths", "7", "--model", &plan],
    ];
    cases
        .map(|case| case.iter().map(|word| word.to_string()).collect())
        .into()
}

#[track_caller]
fn assert_error(output: &Output, words: &str, arguments: &[String]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
    assert!(
        said.contains("error: ") && said.contains(words),
        "{arguments:?}: {said}"
    );
    assert!(!said.contains("panicked"), "{arguments:?}: {said}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_result_that_cannot_be_written_is_an_error() {
    for arguments in printing() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let output = program().args(&arguments).stdout(full).output().unwrap();
        assert_error(&output, "No space left", &arguments);

        let closed = Command::new("sh")
            .args([
                "-c",
                "exec \"$0\" \"$@\" >&-",
                env!("CARGO_BIN_EXE_sparsight"),
            ])
            .args(&arguments)
            .output()
            .unwrap();
        assert_error(&closed, "stdout is closed", &arguments);

        // Where nobody wants the result, it is lost by wish.
        for nowhere in [
            File::create("/dev/null"),
            File::options().read(true).write(true).open("/dev/null"),
        ] {
            let output = program().args(&arguments).stdout(nowhere.unwrap()).output();
            assert_eq!(output.unwrap().status.code(), Some(0), "{arguments:?}");
        }
    }
}

#[test]
fn a_signal_that_ends_keeps_what_was_recorded() {
    let model = fixture("v32-f32");
    for (sent, code) in [
        (Signal::SIGINT, 130),
        (Signal::SIGTERM, 143),
        (Signal::SIGHUP, 129),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (routes, out) = (folder.path().join("routes"), folder.path().join("trace"));
        let (routes, out) = (routes.to_str().unwrap(), out.to_str().unwrap());
        for is_trace in [false, true] {
            let mut command = program();
            command.arg(if is_trace { "trace" } else { "generate" });
            command.args([
                "--model",
                &model,
                "--ids",
                "5",
                "--device",
                "cpu",
                "--ignore-eos",
            ]);
            command.args(["-n", "100000", "--record-routes", routes, "--force"]);
            if is_trace {
                command.args(["--out", out]);
            }
            let mut child = command
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let mut stdout = child.stdout.take().unwrap();
            stdout.read_exact(&mut [0; 8]).unwrap();
            signal(&child, sent);
            let mut rest = String::new();
            stdout.read_to_string(&mut rest).unwrap();
            let output = child.wait_with_output().unwrap();
            assert_eq!(output.status.code(), Some(code), "{sent}: {output:?}");
            assert!(rest.ends_with('\n'), "{sent}");
            assert!(!RouteTrace::load(Path::new(routes)).unwrap().is_empty());
            if is_trace {
                assert!(!engine::trace_file::load(Path::new(out)).unwrap().is_empty());
            }
        }
    }
}

#[test]
fn what_nohup_ignores_stays_ignored() {
    let mut command = Command::new("sh");
    command.args([
        "-c",
        "trap '' HUP; exec \"$0\" \"$@\"",
        env!("CARGO_BIN_EXE_sparsight"),
    ]);
    command.args([
        "generate",
        "--model",
        &fixture("v32-f32"),
        "--ids",
        "5",
        "--device",
        "cpu",
    ]);
    command.args(["--ignore-eos", "-n", "100000", "--json"]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 8]).unwrap();
    signal(&child, Signal::SIGHUP);
    // More than what a pipe holds: it goes on.
    stdout.read_exact(&mut vec![0; 1 << 17]).unwrap();
    signal(&child, Signal::SIGTERM);
    stdout.read_to_string(&mut String::new()).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

#[test]
fn a_signal_ends_a_chat_that_waits_and_one_that_answers() {
    for (sent, code) in [(Signal::SIGTERM, 143), (Signal::SIGHUP, 129)] {
        for message in ["", "Tell me a story\r"] {
            let mut terminal = Terminal::start(chat_of("1000").arg("--ignore-eos"));
            terminal.until(WAITS);
            terminal.send(message.as_bytes());
            if !message.is_empty() {
                // The editor is left, and words come.
                terminal.until("\x1b[?2004l");
                terminal.until(" the ");
            }
            signal(&terminal.child, sent);
            let (status, seen) = terminal.finish();
            assert_eq!(status.code(), Some(code), "{sent} {message:?}: {seen:?}");
        }
        // Where it waits for a pipe, too.
        let mut child = chat()
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Held open while it is waited for.
        let _stdin = child.stdin.take();
        let mut stderr = child.stderr.take().unwrap();
        // It is loaded, and waits.
        stderr.read_exact(&mut [0; 8]).unwrap();
        signal(&child, sent);
        assert_eq!(child.wait().unwrap().code(), Some(code), "{sent}");
    }
}

#[test]
fn ctrl_c_and_ctrl_d_at_the_prompt() {
    let mut terminal = Terminal::start(&mut chat());
    terminal.until(WAITS);
    terminal.send(b"half a line\x03");
    terminal.until("/quit or Ctrl-D leaves");
    terminal.until(WAITS);
    signal(&terminal.child, Signal::SIGINT);
    terminal.until("/quit or Ctrl-D leaves");
    terminal.until(WAITS);
    terminal.send(b"\xff");
    terminal.until("not UTF-8");
    terminal.until(WAITS);
    terminal.send(b"\x04");
    let (status, seen) = terminal.finish();
    assert_eq!(status.code(), Some(0), "{seen:?}");
}
