//! Ctrl-C, and the signals that end a program: noted here, looked at between two steps of the work.
//!
//! Commands that have nothing to keep do not install this; the system ends them.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

use anyhow::Context as _;

use crate::terminal;

// A signal handler has no other way to tell.
static REQUESTED: AtomicBool = AtomicBool::new(false);
/// The number of the signal that ends the program; 0 for none.
static ENDED_BY: AtomicI32 = AtomicI32::new(0);

/// What a second Ctrl-C does while the first waits to be looked at.
#[derive(Clone, Copy, PartialEq)]
pub enum Second {
    /// Ends the program at once: for steps that take too long to wait for.
    Exits,
    /// Nothing: the program is to live on.
    Waits,
}

/// A step that takes longer than this after Ctrl-C is worth a word.
const PATIENCE: Duration = Duration::from_secs(1);

/// Notes Ctrl-C from now on instead of ending the program, SIGTERM and SIGHUP too.
pub fn install(second: Second) -> anyhow::Result<()> {
    #[cfg(unix)]
    note_ends().context("signals could not be taken over")?;
    ctrlc::set_handler(move || {
        let again = REQUESTED.swap(true, Ordering::Relaxed);
        if second == Second::Waits {
            return;
        }
        if again {
            std::process::exit(130);
        }
        // On a thread of its own: this one has to take the second Ctrl-C. It ends with the program.
        let body = || {
            std::thread::sleep(PATIENCE);
            terminal::note("stopping after this step; a second Ctrl-C ends at once");
        };
        // Without a thread it stops all the same.
        let _ = engine::task::start("patience", body, |_| {});
    })
    .context("Ctrl-C could not be taken over")
}

/// Has a write beyond the limit on file sizes fail, as on a full disk, and not end the program.
#[cfg(unix)]
#[allow(unsafe_code, reason = "a signal is ignored, which runs nothing")]
pub fn outlive_file_limits() {
    use nix::sys::signal::{SigHandler, Signal, signal};
    // Refused, it stays as it was.
    let _ = unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) };
}

#[cfg(unix)]
#[allow(
    unsafe_code,
    reason = "a handler is given to the system; it stores a number in an atomic and does nothing else"
)]
fn note_ends() -> nix::Result<()> {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
    extern "C" fn end(signal: i32) {
        ENDED_BY.store(signal, Ordering::Relaxed);
    }
    // A second one ends the program at once.
    let flags = SaFlags::SA_RESETHAND | SaFlags::SA_RESTART;
    let action = SigAction::new(SigHandler::Handler(end), flags, SigSet::empty());
    for signal in [Signal::SIGTERM, Signal::SIGHUP] {
        let before = unsafe { sigaction(signal, &action) }?;
        // As nohup has SIGHUP.
        if matches!(before.handler(), SigHandler::SigIgn) {
            unsafe { sigaction(signal, &before) }?;
        }
    }
    Ok(())
}

/// Whether the program is to end, or Ctrl-C was pressed since the last [`reset`].
pub fn requested() -> bool {
    is_end() || REQUESTED.load(Ordering::Relaxed)
}

/// Whether a signal came that ends the program, not only what it does.
pub fn is_end() -> bool {
    ENDED_BY.load(Ordering::Relaxed) != 0
}

/// What the program ends with: 130 after Ctrl-C, or 128 and the number of another signal.
pub fn exit_code() -> u8 {
    match ENDED_BY.load(Ordering::Relaxed) {
        0 => 130,
        signal => 128 + signal as u8,
    }
}

/// Forgets a Ctrl-C that was acted on.
pub fn reset() {
    REQUESTED.store(false, Ordering::Relaxed);
}
