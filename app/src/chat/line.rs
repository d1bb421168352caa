//! The input line: a line editor on a terminal that can do it, else plain lines of text.
//!
//! What comes from the keyboard at once is kept until it is asked for, so that several lines of one
//! paste are several messages. What bytes mean is in [`keys`], the line under way in [`edit`].

mod edit;
mod keys;

use std::collections::VecDeque;
use std::io::{self, IsTerminal as _};

use anyhow::Context as _;

use crate::{interrupt, terminal};
use edit::{Line, Pressed};

/// Before every line of a person.
const PROMPT: &str = "> ";

/// What came from the keyboard, or from a pipe in its place.
pub enum Read {
    /// A message or a command.
    Line(String),
    /// Ctrl-C, or a signal that ends the program.
    Interrupted,
    /// Ctrl-D, or the end of the pipe.
    End,
    /// What was typed is not UTF-8.
    NotText,
}

/// What a look at stdin gave.
#[derive(PartialEq)]
enum More {
    Bytes,
    Nothing,
    End,
    Interrupted,
}

/// Lines from stdin.
#[derive(Default)]
pub struct Input {
    /// What has come and was not yet asked for.
    pending: VecDeque<u8>,
    history: Vec<String>,
}

impl Input {
    /// Waits for a line. A backslash that is typed at its end has it go on in the next.
    ///
    /// # Errors
    /// The terminal or the pipe cannot be read.
    pub fn read(&mut self) -> anyhow::Result<Read> {
        let is_person = io::stdin().is_terminal() && io::stderr().is_terminal();
        if is_person && !terminal::is_dumb() && raw::IS_THERE {
            return self.edited().context("the terminal");
        }
        if is_person {
            terminal::note_part(PROMPT);
        }
        self.plain().context("stdin")
    }

    /// A line as the system gives it.
    fn plain(&mut self) -> io::Result<Read> {
        let mut text = String::new();
        loop {
            let end = loop {
                if let Some(at) = self.pending.iter().position(|&byte| byte == b'\n') {
                    break Some(at);
                }
                match raw::more(&mut self.pending, true)? {
                    More::Interrupted => return Ok(Read::Interrupted),
                    More::End => break None,
                    More::Bytes | More::Nothing => {}
                }
            };
            let n = end.map_or(self.pending.len(), |at| at + 1);
            let mut bytes: Vec<u8> = self.pending.drain(..n).collect();
            if bytes.is_empty() && text.is_empty() {
                return Ok(Read::End);
            }
            if bytes.pop_if(|&mut byte| byte == b'\n').is_some() {
                bytes.pop_if(|&mut byte| byte == b'\r');
            }
            let Ok(line) = String::from_utf8(bytes) else {
                return Ok(Read::NotText);
            };
            match line.strip_suffix('\\') {
                Some(begin) if end.is_some() => text += &format!("{begin}\n"),
                _ => return Ok(Read::Line(text + &line)),
            }
        }
    }

    /// A line that is edited on the screen.
    fn edited(&mut self) -> io::Result<Read> {
        let mut mode = raw::Mode::enter()?;
        let mut line = Line::new(PROMPT, &self.history);
        let mut timed_out = false;
        let read = loop {
            let Some(key) = keys::next(&mut self.pending, timed_out) else {
                line.draw();
                // Half a sequence of a key is soon whole, or was a key by itself.
                let is_between = self.pending.is_empty();
                match raw::more(&mut self.pending, is_between)? {
                    More::Interrupted => break Read::Interrupted,
                    More::End => break Read::End,
                    More::Bytes => timed_out = false,
                    More::Nothing => timed_out = true,
                }
                continue;
            };
            timed_out = false;
            match line.press(key) {
                Pressed::On => {}
                Pressed::Done => break Read::Line(line.text().to_owned()),
                Pressed::Interrupted => break Read::Interrupted,
                Pressed::End => break Read::End,
                Pressed::NotText => break Read::NotText,
                Pressed::Suspended => {
                    drop(mode);
                    raw::suspend()?;
                    mode = raw::Mode::enter()?;
                    line.forget_screen();
                }
            }
        };
        line.draw_whole();
        drop(mode);
        if let Read::Line(text) = &read
            && !text.trim().is_empty()
            && self.history.last() != Some(text)
        {
            self.history.push(text.clone());
        }
        Ok(read)
    }
}

/// The terminal without its own line editing, and waiting that a signal ends.
#[cfg(unix)]
mod raw {
    use super::*;

    use nix::errno::Errno;
    use nix::poll::{PollFd, PollFlags, poll};
    use nix::sys::signal::{Signal, raise};
    use nix::sys::termios::{
        InputFlags, LocalFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr, tcsetattr,
    };
    use std::os::fd::AsFd as _;

    pub const IS_THERE: bool = true;
    /// How long one key's bytes take to come at most, and how often a signal is looked for.
    const PATIENCE_MS: u8 = 100;

    /// The terminal gives every key, until this is dropped.
    pub struct Mode(Termios);

    impl Mode {
        pub fn enter() -> io::Result<Self> {
            let before = tcgetattr(io::stdin())?;
            let mut raw = before.clone();
            raw.input_flags -= InputFlags::BRKINT
                | InputFlags::ICRNL
                | InputFlags::INLCR
                | InputFlags::IGNCR
                | InputFlags::ISTRIP
                | InputFlags::IXON;
            raw.local_flags -=
                LocalFlags::ECHO | LocalFlags::ICANON | LocalFlags::IEXTEN | LocalFlags::ISIG;
            raw.control_chars[SpecialCharacterIndices::VMIN as usize] = 1;
            raw.control_chars[SpecialCharacterIndices::VTIME as usize] = 0;
            // What was typed ahead stays.
            tcsetattr(io::stdin(), SetArg::TCSADRAIN, &raw)?;
            terminal::control("\x1b[?2004h");
            Ok(Self(before))
        }
    }

    impl Drop for Mode {
        fn drop(&mut self) {
            terminal::control("\x1b[?2004l");
            // A terminal that has gone needs no mode.
            let _ = tcsetattr(io::stdin(), SetArg::TCSADRAIN, &self.0);
        }
    }

    pub fn suspend() -> io::Result<()> {
        Ok(raise(Signal::SIGTSTP)?)
    }

    /// Takes what there is on stdin, or waits for it; without `patiently` only for a moment.
    pub fn more(pending: &mut VecDeque<u8>, patiently: bool) -> io::Result<More> {
        let stdin = io::stdin();
        loop {
            if interrupt::requested() {
                return Ok(More::Interrupted);
            }
            let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PATIENCE_MS) {
                Ok(0) if !patiently => return Ok(More::Nothing),
                Ok(0) | Err(Errno::EINTR) => continue,
                Ok(_) => {}
                Err(error) => return Err(error.into()),
            }
            let mut bytes = [0; 4096];
            match nix::unistd::read(&stdin, &mut bytes) {
                // A terminal that was closed says EIO.
                Ok(0) | Err(Errno::EIO) => return Ok(More::End),
                Ok(n) => {
                    pending.extend(&bytes[..n]);
                    return Ok(More::Bytes);
                }
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Where the system edits lines itself.
#[cfg(not(unix))]
mod raw {
    use super::*;
    use std::io::Read as _;

    pub const IS_THERE: bool = false;

    pub struct Mode;

    impl Mode {
        pub fn enter() -> io::Result<Self> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    pub fn suspend() -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub fn more(pending: &mut VecDeque<u8>, _patiently: bool) -> io::Result<More> {
        let mut bytes = [0; 4096];
        let n = io::stdin().read(&mut bytes)?;
        pending.extend(&bytes[..n]);
        Ok(if n == 0 { More::End } else { More::Bytes })
    }
}
