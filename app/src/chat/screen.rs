//! An answer on the screen, as it comes.

use engine::chat::{Delta, ToolCall};

use crate::terminal;

/// The answer on the screen: content to stdout, thinking faint on stderr.
#[derive(Default)]
pub struct Screen {
    place: Option<Place>,
    ends_line: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    Reasoning,
    Content,
}

impl Screen {
    /// Shows what a piece of text brought.
    ///
    /// # Errors
    /// Stdout cannot be written.
    pub fn show(&mut self, deltas: Vec<Delta>) -> std::io::Result<()> {
        for delta in deltas {
            match delta {
                Delta::Reasoning(text) => {
                    self.enter(Place::Reasoning)?;
                    terminal::note_faint_part(&text);
                    self.ends_line = text.ends_with('\n');
                }
                Delta::Content(text) => {
                    self.enter(Place::Content)?;
                    terminal::print(&text)?;
                    self.ends_line = text.ends_with('\n');
                }
                Delta::ToolCall(ToolCall {
                    name, arguments, ..
                }) => {
                    self.end()?;
                    terminal::print_line(format_args!("tool call: {name} {arguments}"))?;
                }
            }
        }
        Ok(())
    }

    fn enter(&mut self, place: Place) -> std::io::Result<()> {
        if self.place != Some(place) {
            self.end()?;
            if place == Place::Reasoning {
                terminal::note_faint("thinking:");
            }
            self.place = Some(place);
            self.ends_line = true;
        }
        Ok(())
    }

    /// Ends the line that is under way.
    ///
    /// # Errors
    /// Stdout cannot be written.
    pub fn end(&mut self) -> std::io::Result<()> {
        if !self.ends_line {
            match self.place {
                Some(Place::Reasoning) => terminal::note(""),
                Some(Place::Content) => terminal::print("\n")?,
                None => {}
            }
        }
        self.ends_line = true;
        Ok(())
    }
}
