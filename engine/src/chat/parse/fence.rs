//! Code that an answer shows, and marks that are left in what it says.

/// Beginnings of what marks a call or its result, a thought, or a turn: in the encoding of V3.2, in that of
/// V3 and V3.1 (`<｜tool▁calls▁begin｜>`), and in those that models of other families learned.
const MARKS: &[&str] = &[
    "｜DSML｜",
    "|DSML|",
    "<dsml:",
    "</dsml:",
    "<function_calls>",
    "</function_calls>",
    "<function_results>",
    "<invoke name=",
    "</invoke>",
    "<｜tool",
    "<|tool",
    "<tool_call",
    "</tool_call",
    "<tool_use",
    "<function_call>",
    "<function=",
    "<|python_tag|>",
    "<|channel|>",
    "<|call|>",
    "functools[",
    "<DSML",
    "[TOOL_CALLS]",
    "<think>",
    "</think>",
    "<｜User｜>",
    "<｜Assistant｜>",
];

/// Whether a text that grows is within a fence of code, as Markdown has it: a line that begins with three
/// backticks or tildes, or more, up to a line of as many.
#[derive(Clone, Debug, Default)]
pub(super) struct Fence {
    /// Of the last whole line: the fence's character and how many.
    open: Option<(char, usize)>,
    /// What came of the line after it.
    line: String,
}

impl Fence {
    /// Takes more text.
    pub(super) fn feed(&mut self, text: &str) {
        let mut lines = text.split('\n');
        self.line += lines.next().unwrap_or_default();
        for line in lines {
            self.open = self.with_line();
            self.line.clear();
            self.line += line;
        }
    }

    /// Whether the text ends within a fence, or on the line that opens one.
    pub(super) fn is_open(&self) -> bool {
        self.with_line().is_some()
    }

    /// The fence behind the line, if nothing more comes on it.
    fn with_line(&self) -> Option<(char, usize)> {
        let line = self.line.trim();
        let Some(mark) = line.chars().next().filter(|mark| "`~".contains(*mark)) else {
            return self.open;
        };
        let info = line.trim_start_matches(mark);
        let n = line.len() - info.len();
        match self.open {
            _ if n < 3 => self.open,
            None if mark == '~' || !info.contains('`') => Some((mark, n)),
            Some((open, least)) if open == mark && n >= least && info.is_empty() => None,
            other => other,
        }
    }
}

/// Marks in a content, each once, that stand outside of fenced code. In a fence that is never closed they
/// do not count as shown: what follows it may be meant.
pub(super) fn left_over(content: &str) -> Vec<&'static str> {
    let mut fence = Fence::default();
    let (mut left, mut shown): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
    for line in content.split_inclusive('\n') {
        let was_open = fence.is_open();
        fence.feed(line);
        let marks = MARKS.iter().copied().filter(|mark| line.contains(mark));
        match (was_open, fence.is_open()) {
            (_, true) => shown.extend(marks),
            (true, false) => shown.clear(),
            (false, false) => left.extend(marks),
        }
    }
    if fence.is_open() {
        left.extend(shown);
    }
    let marks = MARKS.iter().filter(|mark| left.contains(mark));
    marks.copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `⏎` stands for a newline.
    fn lines(text: &str) -> String {
        text.replace('⏎', "\n")
    }

    #[test]
    fn fences_open_and_close_as_in_markdown() {
        for (text, is_open) in [
            ("", false),
            ("```", true),
            ("```⏎", true),
            ("```rust⏎a", true),
            ("```⏎a⏎```", false),
            ("```⏎a⏎```⏎b", false),
            ("```⏎a⏎``` b", true),
            ("```⏎a⏎~~~⏎", true),
            ("````⏎```⏎", true),
            ("````⏎`````⏎", false),
            ("  ```⏎a⏎   ```\r⏎", false),
            ("``⏎", false),
            ("a ```⏎", false),
            ("```code``` ⏎", false),
            ("~~~ `a` ⏎", true),
            ("~~~⏎b⏎~~~", false),
            ("```a⏎```b⏎", true),
            ("```⏎⏎```⏎```⏎", true),
        ] {
            let text = lines(text);
            let mut whole = Fence::default();
            whole.feed(&text);
            assert_eq!(whole.is_open(), is_open, "{text:?}");
            let mut cut = Fence::default();
            for character in text.chars() {
                cut.feed(&character.to_string());
            }
            assert_eq!(cut.is_open(), is_open, "{text:?}");
        }
    }

    #[test]
    fn marks_are_told_unless_they_are_shown_as_code() {
        for (text, marks) in [
            ("a < b | c [x] <thin k>", &[][..]),
            ("ok<｜tool▁calls▁begin｜><｜tool▁sep｜>", &["<｜tool"]),
            ("</think> <think> </think>", &["<think>", "</think>"]),
            ("```⏎<tool_call>⏎```⏎", &[]),
            ("```⏎<tool_call>⏎```⏎<dsml:a", &["<dsml:"]),
            ("```⏎<tool_call>⏎", &["<tool_call"]),
            ("```⏎<dsml:⏎```⏎```⏎<tool_call>⏎", &["<tool_call"]),
            ("```<tool_call>```", &["<tool_call"]),
            ("[TOOL_CALLS]", &["[TOOL_CALLS]"]),
            (
                "<|channel|>commentary to=functions.f<|call|>",
                &["<|channel|>", "<|call|>"],
            ),
            ("functools[{\"name\"", &["functools["]),
            ("<DSMLinvoke name=\"f\">", &["<DSML"]),
        ] {
            assert_eq!(left_over(&lines(text)), marks, "{text:?}");
        }
    }
}
