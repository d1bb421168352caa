//! The input line: editing, history, completion of commands, and lines that go on.

use std::io::ErrorKind;

use anyhow::Context as _;
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::MemHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Config, Context, Editor, Helper};

use super::commands::COMMANDS;

/// What came from the keyboard, or from a pipe in its place.
pub enum Read {
    /// A message or a command.
    Line(String),
    /// Ctrl-C.
    Interrupted,
    /// Ctrl-D, or the end of the pipe.
    End,
    /// What was typed is not UTF-8.
    NotText,
}

/// The line editor.
pub struct Input(Editor<CommandHelper, MemHistory>);

impl Input {
    /// Takes the terminal.
    ///
    /// # Errors
    /// The terminal cannot be used.
    pub fn new() -> anyhow::Result<Self> {
        let config = Config::builder().auto_add_history(true).build();
        let mut editor = Editor::with_history(config, MemHistory::new()).context("the terminal")?;
        editor.set_helper(Some(CommandHelper));
        Ok(Self(editor))
    }

    /// Waits for a line. A backslash at its end has it go on in the next.
    ///
    /// # Errors
    /// The terminal or the pipe cannot be read.
    pub fn read(&mut self) -> anyhow::Result<Read> {
        match self.0.readline("> ") {
            Ok(line) => Ok(Read::Line(joined(&line))),
            Err(ReadlineError::Interrupted) => Ok(Read::Interrupted),
            Err(ReadlineError::Eof) => Ok(Read::End),
            Err(ReadlineError::Io(error)) if error.kind() == ErrorKind::InvalidData => {
                Ok(Read::NotText)
            }
            Err(error) => Err(error).context("stdin"),
        }
    }
}

/// Lines that went on, as the lines they stand for.
fn joined(line: &str) -> String {
    line.replace("\\\n", "\n")
}

/// What the editor asks while a line is typed.
struct CommandHelper;

impl Helper for CommandHelper {}

impl Highlighter for CommandHelper {}

impl Hinter for CommandHelper {
    type Hint = String;
}

impl Validator for CommandHelper {
    fn validate(&self, context: &mut ValidationContext) -> rustyline::Result<ValidationResult> {
        Ok(if context.input().ends_with('\\') {
            ValidationResult::Incomplete
        } else {
            ValidationResult::Valid(None)
        })
    }
}

impl Completer for CommandHelper {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _context: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        let typed = &line[..position];
        if !typed.starts_with('/') || typed.contains(' ') {
            return Ok((0, Vec::new()));
        }
        let names = COMMANDS.iter().map(|command| command.name);
        let fitting = names.filter(|name| name.starts_with(typed));
        Ok((0, fitting.map(|name| format!("{name} ")).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backslash_joins_lines() {
        assert_eq!(joined("a\\\nb"), "a\nb");
        assert_eq!(joined("a\\b\nc"), "a\\b\nc");
    }
}
