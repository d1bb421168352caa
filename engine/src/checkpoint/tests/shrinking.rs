//! Mapped files that shrink, each in a process of its own, which ends.

#![allow(
    unsafe_code,
    reason = "signals and terminals are set up as a user's shell would"
)]

use std::io::Read as _;
use std::os::fd::FromRawFd as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, Output};

use super::*;

/// Says which of [`CHILDREN`] the process is to be.
const VARIABLE: &str = "SPARSIGHT_TEST_SHRINKS";

type Work = fn(&Path);

/// What a child does in a folder with two checkpoints, `a` and `b`.
const CHILDREN: &[(&str, Work)] = &[
    ("one of two", |folder| {
        let (a, b) = (open(folder, "a"), open(folder, "b"));
        shrink(folder, "b");
        touch(&a);
        touch(&b);
    }),
    ("again after it was closed", |folder| {
        drop(open(folder, "a"));
        let b = open(folder, "b");
        let a = open(folder, "a");
        drop(b);
        shrink(folder, "b");
        shrink(folder, "a");
        touch(&a);
    }),
    ("in another thread", |folder| {
        let a = open(folder, "a");
        shrink(folder, "a");
        // One of rayon's, as most that read weights.
        rayon::scope(|scope| scope.spawn(|_| touch(&a)));
    }),
    ("a signal of another", |folder| {
        let _a = open(folder, "a");
        raise();
    }),
    ("a signal after it was closed", |folder| {
        drop(open(folder, "a"));
        raise();
    }),
    ("a handler that was there before", |folder| {
        extern "C" fn before(_: libc::c_int) {
            // SAFETY: async-signal-safe.
            unsafe { libc::_exit(42) }
        }
        let handler: extern "C" fn(libc::c_int) = before;
        // SAFETY: the handler does one thing, which is allowed.
        unsafe { libc::signal(libc::SIGBUS, handler as libc::sighandler_t) };
        let _a = open(folder, "a");
        raise();
    }),
    ("with the terminal raw", |folder| {
        let a = open(folder, "a");
        // SAFETY: a structure filled in before it is used.
        unsafe {
            let mut terminal: libc::termios = std::mem::zeroed();
            assert_eq!(libc::tcgetattr(0, &mut terminal), 0);
            libc::cfmakeraw(&mut terminal);
            assert_eq!(libc::tcsetattr(0, libc::TCSANOW, &terminal), 0);
        }
        shrink(folder, "a");
        touch(&a);
    }),
];

fn open(folder: &Path, name: &str) -> Checkpoint {
    Checkpoint::open(&folder.join(name)).unwrap()
}

fn shrink(folder: &Path, name: &str) {
    let file = File::options()
        .write(true)
        .open(folder.join(name).join(SINGLE));
    file.unwrap().set_len(100).unwrap();
}

/// Reads the last byte, pages beyond what is left.
fn touch(checkpoint: &Checkpoint) {
    let tensor = checkpoint.get("t").unwrap();
    std::hint::black_box(tensor.bytes()[tensor.bytes().len() - 1]);
}

fn raise() {
    // SAFETY: a signal to ourselves.
    unsafe { libc::raise(libc::SIGBUS) };
    // The handler of Rust's runtime takes the first to set the second free.
    unsafe { libc::raise(libc::SIGBUS) };
}

/// Not a test by itself: what the others run in a process of its own.
#[test]
fn child() {
    let Ok(asked) = std::env::var(VARIABLE) else {
        return;
    };
    let (what, folder) = asked.split_once('=').unwrap();
    let (_, work) = CHILDREN.iter().find(|(name, _)| *name == what).unwrap();
    work(folder.as_ref());
    panic!("lived on");
}

fn command(what: &str, folder: &Path) -> Command {
    for name in ["a", "b"] {
        std::fs::create_dir_all(folder.join(name)).unwrap();
        let bytes = file_of(&[("t", "U8", vec![1 << 20], vec![1; 1 << 20])]);
        std::fs::write(folder.join(name).join(SINGLE), bytes).unwrap();
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    let this = "checkpoint::tests::shrinking::child";
    command.args(["--exact", this, "--nocapture", "--test-threads=1"]);
    command.env(VARIABLE, format!("{what}={}", folder.display()));
    command
}

fn told(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn a_file_that_shrinks_ends_the_process_with_a_line_that_names_it() {
    for (what, name) in [
        ("one of two", "b"),
        ("again after it was closed", "a"),
        ("in another thread", "a"),
    ] {
        // A name that would clear a terminal.
        let folder = tempfile::Builder::new()
            .prefix("\x1b[2J")
            .tempdir()
            .unwrap();
        let output = command(what, folder.path()).output().unwrap();
        let path = folder.path().join(name).join(SINGLE);
        let path = path.display().to_string().replace('\x1b', "\u{FFFD}");
        let line = format!(
            "error: {path}: became shorter, or unreadable, while its weights were in use\n"
        );
        assert_eq!(
            (output.status.code(), told(&output)),
            (Some(2), line),
            "{what}"
        );
    }
}

#[test]
fn other_signals_go_where_they_went_before() {
    for (what, code, signal) in [
        ("a signal of another", None, Some(libc::SIGBUS)),
        ("a signal after it was closed", None, Some(libc::SIGBUS)),
        ("a handler that was there before", Some(42), None),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let output = command(what, folder.path()).output().unwrap();
        let status = output.status;
        assert_eq!(
            (status.code(), status.signal()),
            (code, signal),
            "{what}: {}",
            told(&output)
        );
        assert_eq!(told(&output), "", "{what}");
    }
}

#[test]
fn the_terminal_is_left_as_it_was_found() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = command("with the terminal raw", folder.path());
    let (mut ours, mut theirs) = (0, 0);
    let null = std::ptr::null_mut();
    // SAFETY: two file descriptors come back, and each goes to one owner.
    let (mut ours, theirs) = unsafe {
        assert_eq!(
            libc::openpty(&mut ours, &mut theirs, null, null.cast(), null.cast()),
            0
        );
        (File::from_raw_fd(ours), File::from_raw_fd(theirs))
    };
    // SAFETY: both calls are allowed between fork and exec. The terminal becomes the child's own.
    unsafe {
        command.pre_exec(|| {
            libc::setsid();
            libc::ioctl(0, libc::TIOCSCTTY as _, 0);
            Ok(())
        });
    }
    command
        .stdin(theirs.try_clone().unwrap())
        .stderr(theirs.try_clone().unwrap());
    assert_eq!(command.output().unwrap().status.code(), Some(2));
    // SAFETY: a structure filled in before it is used.
    let flags = unsafe {
        let mut terminal: libc::termios = std::mem::zeroed();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&theirs);
        assert_eq!(libc::tcgetattr(fd, &mut terminal), 0);
        terminal.c_lflag
    };
    assert_eq!(flags & libc::ICANON, libc::ICANON);
    assert_eq!(flags & libc::ECHO, libc::ECHO);
    // On a line of its own.
    let mut told = [0; 4096];
    let n = ours.read(&mut told).unwrap();
    let told = String::from_utf8_lossy(&told[..n]);
    assert!(
        told.starts_with("\r\nerror: ") && told.ends_with("in use\r\n"),
        "{told:?}"
    );
}
