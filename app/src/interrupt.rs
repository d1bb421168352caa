//! Ctrl-C: noted here, looked at between two steps of the work.
//!
//! Commands that have nothing to keep do not install this; the system ends them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;

use crate::terminal;

// A signal handler has no other way to tell.
static REQUESTED: AtomicBool = AtomicBool::new(false);

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

/// Notes Ctrl-C from now on instead of ending the program.
pub fn install(second: Second) -> anyhow::Result<()> {
    ctrlc::set_handler(move || {
        let again = REQUESTED.swap(true, Ordering::Relaxed);
        if second == Second::Waits {
            return;
        }
        if again {
            std::process::exit(130);
        }
        // On a thread of its own: this one has to take the second Ctrl-C. It ends with the program.
        std::thread::spawn(|| {
            std::thread::sleep(PATIENCE);
            terminal::note("stopping after this step; a second Ctrl-C ends at once");
        });
    })
    .context("Ctrl-C could not be taken over")
}

/// Whether Ctrl-C was pressed since the last [`reset`].
pub fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// Forgets a Ctrl-C that was acted on.
pub fn reset() {
    REQUESTED.store(false, Ordering::Relaxed);
}
