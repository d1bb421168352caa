//! The real program in a real window, under an X server of its own.
//!
//! A prompt is typed, text waited for, a token clicked, every view opened; then the program is killed
//! in mid-sentence and opened again. What is asserted is the accessibility tree, which the program
//! writes to a file where it is asked to, and the database; the screenshot is for people.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test may fail by panic")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Long, since two cores may draw in software beside other tests.
const PATIENCE: Duration = Duration::from_secs(90);
/// How often is looked.
const LOOK: Duration = Duration::from_millis(50);
/// The screen.
const SIZE: (u32, u32) = (1500, 950);

/// What the test needs of the system, by program.
fn missing_program() -> Option<&'static str> {
    ["Xvfb", "xdotool", "import"].into_iter().find(|program| {
        let found = std::env::var_os("PATH").is_some_and(|path| {
            std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
        });
        !found
    })
}

/// An X server without a screen, ended with the test.
struct Display {
    server: Child,
    name: String,
    folder: tempfile::TempDir,
}

impl Display {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let number_file = folder.path().join("display");
        // The server chooses a free number and writes it down.
        let out = std::fs::File::create(&number_file).unwrap();
        let server = Command::new("Xvfb")
            .args(["-displayfd", "1", "-screen", "0"])
            .arg(format!("{}x{}x24", SIZE.0, SIZE.1))
            // It would begin anew when its last client is killed, and refuse the next one meanwhile.
            .args(["-nolisten", "tcp", "-noreset"])
            .stdout(out)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let name = wait("the X server", || {
            let text = std::fs::read_to_string(&number_file).ok()?;
            let number = text.strip_suffix('\n')?;
            Some(format!(":{number}"))
        });
        Self {
            server,
            name,
            folder,
        }
    }

    fn tool(&self, program: &str, arguments: &[&str]) {
        let status = Command::new(program)
            .args(arguments)
            .env("DISPLAY", &self.name)
            .status()
            .unwrap();
        assert!(status.success(), "{program} {arguments:?}");
    }

    fn click(&self, [x, y]: [f64; 2]) {
        let (x, y) = (format!("{x:.0}"), format!("{y:.0}"));
        self.tool("xdotool", &["mousemove", &x, &y, "click", "1"]);
    }

    fn keys(&self, keys: &str) {
        self.tool("xdotool", &["key", keys]);
    }

    fn text(&self, text: &str) {
        self.tool("xdotool", &["type", "--delay", "5", text]);
    }

    /// Gives the window the keyboard: there is no window manager to do it.
    fn focus(&self) {
        self.tool(
            "xdotool",
            &[
                "search",
                "--sync",
                "--onlyvisible",
                "--name",
                "^Sparsight$",
                "windowfocus",
            ],
        );
    }

    /// A picture of the screen, kept where `SPARSIGHT_SCREENSHOTS` says.
    fn screenshot(&self, name: &str) -> PathBuf {
        let folder = std::env::var_os("SPARSIGHT_SCREENSHOTS")
            .map_or_else(|| self.folder.path().into(), PathBuf::from);
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join(format!("{name}.png"));
        self.tool("import", &["-window", "root", path.to_str().unwrap()]);
        path
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// The running program.
struct Program {
    child: Child,
    tree: PathBuf,
    started: Instant,
}

impl Program {
    fn start(display: &Display, arguments: &[&str]) -> Self {
        let tree = display.folder.path().join("tree");
        let _ = std::fs::remove_file(&tree);
        let child = Command::new(env!("CARGO_BIN_EXE_sparsight"))
            .args(arguments)
            .env("DISPLAY", &display.name)
            .env_remove("WAYLAND_DISPLAY")
            .env("XDG_RUNTIME_DIR", display.folder.path())
            .env("SPARSIGHT_HOME", display.folder.path().join("data"))
            .env("SPARSIGHT_ACCESSIBILITY_TREE", &tree)
            .spawn()
            .unwrap();
        Self {
            child,
            tree,
            started: Instant::now(),
        }
    }

    fn nodes(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.tree).unwrap_or_default();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Waits for a node whose label or value `fits`, and gives its middle.
    fn find(&self, what: &str, fits: impl Fn(&str, &Value) -> bool) -> [f64; 2] {
        wait(what, || {
            self.nodes().iter().find_map(|node| {
                let said = |key: &str| node[key].as_str().unwrap_or_default();
                let is_it = fits(said("label"), node) || fits(said("value"), node);
                let bounds = node["bounds"].as_array().filter(|_| is_it)?;
                let side = |index: usize| bounds[index].as_f64();
                Some([(side(0)? + side(2)?) / 2.0, (side(1)? + side(3)?) / 2.0])
            })
        })
    }

    fn find_label(&self, label: &str) -> [f64; 2] {
        self.find(label, |found, _| found == label)
    }

    /// Types a message into the box and sends it. Clicks and keys that come while a frame takes long
    /// are one frame's input: text would go nowhere before the box has the focus.
    fn say(&self, display: &Display, text: &str) {
        self.find("the focus in the box", |_, node| {
            node["is_focused"] == true && node["label"] == "Message"
        });
        display.text(text);
        self.find("the message in the box", |found, _| found == text);
        display.keys("Return");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SIGKILL: the program gets no chance to put anything in order.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "waited in vain for {what}");
        std::thread::sleep(LOOK);
    }
}

/// Rows of the database that a query gives, as text.
fn query(display: &Display, sql: &str) -> Vec<String> {
    query_in(&display.folder.path().join("data"), sql)
}

fn query_in(folder: &Path, sql: &str) -> Vec<String> {
    let Ok(connection) = rusqlite::Connection::open(folder.join("sparsight.db")) else {
        return Vec::new();
    };
    let Ok(mut statement) = connection.prepare(sql) else {
        return Vec::new();
    };
    let rows = statement.query_map([], |row| row.get::<_, String>(0));
    rows.map(|rows| rows.filter_map(Result::ok).collect())
        .unwrap_or_default()
}

fn answers(display: &Display) -> Vec<String> {
    answers_in(&display.folder.path().join("data"))
}

fn answers_in(folder: &Path) -> Vec<String> {
    let messages = query_in(folder, "SELECT message FROM node ORDER BY id");
    messages
        .iter()
        .map(|message| serde_json::from_str::<Value>(message).unwrap())
        .filter(|message| message["role"] == "assistant")
        .map(|message| message["content"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn the_window_answers_shows_and_survives_a_kill() {
    if let Some(program) = missing_program() {
        panic!("{program} is not there, expected what `.ci/setup test` installs");
    }
    let display = Display::start();
    let program = Program::start(&display, &[]);
    program.find("the model", |label, _| {
        label.starts_with("Sparsight tiny on")
    });
    println!(
        "usable after {:.2} s",
        program.started.elapsed().as_secs_f64()
    );

    // From the start the box has the focus within the window.
    display.focus();
    program.say(&display, "Once upon a time there was a red kite");
    let answer = wait("a finished answer", || {
        let states = query(&display, "SELECT state FROM node ORDER BY id");
        (states == ["complete", "complete"]).then(|| answers(&display).remove(0))
    });
    assert!(answer.trim().len() > 10, "{answer:?}");

    // A token of the answer, as it is drawn in the chat, left of the inspector.
    let at = program.find("a token of the answer", |label, node| {
        let is_left = node["bounds"][0].as_f64().is_some_and(|x| x < 700.0);
        node["role"] == "Button" && label.starts_with("Token ") && is_left
    });
    display.click(at);
    program.find("the token in the inspector", |label, _| {
        label.starts_with("Token ") && label.contains("written by the model")
    });
    for view in [
        "Transcript",
        "Selection",
        "Attention",
        "Experts",
        "Logits",
        "Timings",
        "What if",
    ] {
        display.click(program.find_label(view));
        let tab = wait(view, || {
            program
                .nodes()
                .into_iter()
                .find(|node| node["label"] == view)
        });
        assert_eq!(tab["is_disabled"], false, "{view}");
        std::thread::sleep(Duration::from_millis(300));
        let picture = display.screenshot(&view.to_lowercase().replace(' ', "-"));
        // A blank screen packs into less.
        assert!(
            std::fs::metadata(&picture).unwrap().len() > 10_000,
            "{view}"
        );
    }
    // Dense against sparse is one click, and its result is in the tree.
    display.click(program.find_label("Dense against sparse"));
    program.find("the result of the what-if", |label, _| {
        label.contains("dense attention")
    });

    // Killed in mid-sentence: what was written a second before is there. On a device that is slow
    // enough to be met while it writes.
    drop(program);
    let mut program = Program::start(&display, &["app", "--device", "portable-f64"]);
    program.find("the model", |label, _| {
        label.starts_with("Sparsight tiny on portable-f64")
    });
    display.focus();
    display.click(program.find_label("Message"));
    program.say(&display, "Tell me a long story about a dog");
    wait("an answer that grows", || {
        let states = query(&display, "SELECT state FROM node ORDER BY id");
        assert!(
            states.len() < 4 || states[3] != "complete",
            "it was too quick"
        );
        answers(&display)
            .get(1)
            .filter(|answer| !answer.trim().is_empty())
            .cloned()
    });
    program.child.kill().unwrap();
    program.child.wait().unwrap();
    // It was killed while it wrote, says a copy: the program is to put its files in order by itself.
    let copy = display.folder.path().join("killed");
    std::fs::create_dir(&copy).unwrap();
    for name in ["sparsight.db", "sparsight.db-wal"] {
        let from = display.folder.path().join("data").join(name);
        if from.exists() {
            std::fs::copy(from, copy.join(name)).unwrap();
        }
    }
    let states = query_in(&copy, "SELECT state FROM node ORDER BY id");
    assert_eq!(states, ["complete", "complete", "complete", "streaming"]);
    let partial = answers_in(&copy).remove(1);
    assert!(!partial.trim().is_empty());
    drop(program);
    let program = Program::start(&display, &[]);
    program.find("the model", |label, _| {
        label.starts_with("Sparsight tiny on")
    });
    let again = answers(&display);
    assert_eq!(again[0], answer);
    assert_eq!(again[1], partial);
    let states = query(&display, "SELECT state FROM node ORDER BY id");
    assert_eq!(states, ["complete", "complete", "complete", "stopped"]);
    program.find("the first question", |label, _| {
        label.contains("there was a red kite")
    });
}

#[test]
fn without_a_display_it_says_what_works_without() {
    let output = Command::new(env!("CARGO_BIN_EXE_sparsight"))
        .env_remove("DISPLAY")
        .env_remove("WAYLAND_DISPLAY")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("DISPLAY") && said.contains("sparsight chat"),
        "{said}"
    );
}
