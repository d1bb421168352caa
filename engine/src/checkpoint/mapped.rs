//! A file's bytes in memory without a copy, and what happens when the file shrinks under them.
//!
//! On Linux, macOS and the other unixes a page that its file no longer has is answered with SIGBUS,
//! which would end the process without a word. So the first map installs a handler: an address in
//! one of our maps ends the process with exit code 2 and one line that names the file, all others go
//! to the handler that was there before. Nothing can go on from there, since the bytes are gone in
//! the middle of a sum; but the terminal is left as it was found.
//!
//! On Windows a file that is mapped cannot be made shorter (`SetEndOfFile` fails as long as a view is
//! open), so nothing is installed. There, losing the volume itself, a network share say, is an
//! exception that ends the process.

use std::fs::File;
use std::ops::Deref;
use std::path::Path;

use memmap2::Mmap;

/// A mapped file.
pub(super) struct Mapped {
    map: Mmap,
    #[cfg(unix)]
    entry: &'static guard::Entry,
}

impl Mapped {
    /// Maps `file`, which lies at `path`.
    pub(super) fn new(file: &File, path: &Path) -> std::io::Result<Self> {
        let map = map(file)?;
        #[cfg(not(unix))]
        let _ = path;
        Ok(Self {
            #[cfg(unix)]
            entry: guard::watch(map.as_ptr_range(), path),
            map,
        })
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

#[cfg(unix)]
impl Drop for Mapped {
    /// Before the map itself goes and its addresses become another's.
    fn drop(&mut self) {
        self.entry.forget();
    }
}

#[allow(
    unsafe_code,
    reason = "mapping is the one way to hold weights without a copy. Should another process change \
              the file meanwhile, weights would change while they are read; nothing that is derived \
              from the bytes could turn that into an access outside the map"
)]
fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: see the reason above; checkpoints are written once and then only read.
    unsafe { Mmap::map(file) }
}

#[cfg(unix)]
#[allow(
    unsafe_code,
    reason = "a signal handler is the one way to say which file shrank. It only reads atomics and \
              bytes that live for ever, and calls what POSIX allows in handlers"
)]
mod guard {
    use std::ffi::{c_int, c_void};
    use std::io::IsTerminal as _;
    use std::iter::successors;
    use std::ops::Range;
    use std::path::Path;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Mutex, OnceLock, PoisonError};

    /// Where a file is mapped, and what is said when it shrinks. Entries stay for ever, since the
    /// handler may be reading them; one whose file is unmapped serves the next map of that file.
    pub(super) struct Entry {
        start: AtomicUsize,
        /// 0 while nothing is mapped.
        end: AtomicUsize,
        line: String,
        next: OnceLock<Box<Entry>>,
    }

    /// The list that the handler walks. `OnceLock::get` neither locks nor allocates.
    static FIRST: OnceLock<Box<Entry>> = OnceLock::new();

    /// Whoever adds to the list; the handler never takes it.
    static ADDING: Mutex<()> = Mutex::new(());

    /// The handler before ours, and the settings of the terminal, if stdin is one.
    static BEFORE: OnceLock<(libc::sigaction, Option<libc::termios>)> = OnceLock::new();

    fn entries() -> impl Iterator<Item = &'static Entry> {
        successors(FIRST.get(), |entry| entry.next.get()).map(Box::as_ref)
    }

    impl Entry {
        fn set(&self, bytes: &Range<*const u8>) {
            self.start.store(bytes.start.addr(), Ordering::SeqCst);
            self.end.store(bytes.end.addr(), Ordering::SeqCst);
        }

        pub(super) fn forget(&self) {
            self.end.store(0, Ordering::SeqCst);
        }

        /// The last page reaches beyond the file's end, but is there as long as the file has it.
        fn holds(&self, address: usize) -> bool {
            let start = self.start.load(Ordering::SeqCst);
            (start..self.end.load(Ordering::SeqCst)).contains(&address)
        }
    }

    /// From now on a fault in `bytes` is told as one of the file at `path`.
    pub(super) fn watch(bytes: Range<*const u8>, path: &Path) -> &'static Entry {
        BEFORE.get_or_init(install);
        // A name must not drive the terminal; what was streaming to it stays on its own line.
        let name: String = path.display().to_string();
        let name = name.replace(char::is_control, "\u{FFFD}");
        let begin = if std::io::stderr().is_terminal() {
            "\n"
        } else {
            ""
        };
        let line = format!(
            "{begin}error: {name}: became shorter, or unreadable, while its weights were in use\n"
        );
        let _adding = ADDING.lock().unwrap_or_else(PoisonError::into_inner);
        let is_free = |entry: &&Entry| entry.end.load(Ordering::SeqCst) == 0 && entry.line == line;
        if let Some(entry) = entries().find(is_free) {
            entry.set(&bytes);
            return entry;
        }
        let end = entries().last().map_or(&FIRST, |last| &last.next);
        end.get_or_init(|| {
            let entry = Entry {
                start: AtomicUsize::new(0),
                end: AtomicUsize::new(0),
                line,
                next: OnceLock::new(),
            };
            entry.set(&bytes);
            Box::new(entry)
        })
    }

    fn install() -> (libc::sigaction, Option<libc::termios>) {
        // SAFETY: plain C structures, for which zeros are valid, filled in by the calls they go to.
        unsafe {
            let mut before: libc::sigaction = std::mem::zeroed();
            let mut ours = before;
            let mut terminal: libc::termios = std::mem::zeroed();
            let has_terminal = libc::tcgetattr(libc::STDIN_FILENO, &mut terminal) == 0;
            let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = on_bus_error;
            ours.sa_sigaction = handler as usize;
            ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigemptyset(&mut ours.sa_mask);
            libc::sigaction(libc::SIGBUS, &ours, &mut before);
            (before, has_terminal.then_some(terminal))
        }
    }

    extern "C" fn on_bus_error(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
        // SAFETY: the kernel passes a valid `info`, as SA_SIGINFO asks for.
        let address = unsafe { (*info).si_addr() }.addr();
        let before = BEFORE.get();
        if let Some(entry) = entries().find(|entry| entry.holds(address)) {
            // SAFETY: these are async-signal-safe, and what they read lives for ever. A process in
            // the background would be stopped for setting the terminal.
            unsafe {
                if let Some((_, Some(terminal))) = before
                    && libc::tcgetpgrp(libc::STDIN_FILENO) == libc::getpgrp()
                {
                    libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, terminal);
                }
                libc::write(
                    libc::STDERR_FILENO,
                    entry.line.as_ptr().cast(),
                    entry.line.len(),
                );
                libc::_exit(2);
            }
        }
        match before {
            Some((action, _)) if ![libc::SIG_DFL, libc::SIG_IGN].contains(&action.sa_sigaction) => {
                // SAFETY: the handler that was installed before, called as its flags say.
                unsafe {
                    if action.sa_flags & libc::SA_SIGINFO != 0 {
                        type Handler = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);
                        let handler: Handler = std::mem::transmute(action.sa_sigaction);
                        handler(signal, info, context);
                    } else {
                        let handler: extern "C" fn(c_int) =
                            std::mem::transmute(action.sa_sigaction);
                        handler(signal);
                    }
                }
            }
            // SAFETY: async-signal-safe. The signal ends the process once this handler returns.
            _ => unsafe {
                libc::signal(libc::SIGBUS, libc::SIG_DFL);
                libc::raise(libc::SIGBUS);
            },
        }
    }
}
