//! The line under way: its text, what keys do to it, and how it looks.

use unicode_segmentation::UnicodeSegmentation as _;
use unicode_width::UnicodeWidthStr as _;

use super::super::commands::COMMANDS;
use super::keys::Key;
use crate::terminal;

/// What became of the line by a key.
#[derive(Debug, PartialEq)]
pub enum Pressed {
    /// It goes on.
    On,
    /// It is done.
    Done,
    /// Ctrl-C.
    Interrupted,
    /// Ctrl-D on an empty line.
    End,
    /// The program is to be suspended.
    Suspended,
    /// What was typed is not UTF-8.
    NotText,
}

/// A line that is edited.
pub struct Line<'a> {
    prompt: &'static str,
    history: &'a [String],
    /// The line of the history that is shown; its length for the new one.
    shown: usize,
    /// The new line while one of the history is shown.
    draft: String,
    text: String,
    /// Where the cursor is, in bytes.
    at: usize,
    /// Whether the last character was typed and is a backslash, by which Enter goes on.
    goes_on: bool,
    cut: String,
    /// Commands that fit, shown below the line.
    choices: String,
    /// The screen's row of the cursor, from the first that is drawn.
    row: usize,
}

impl<'a> Line<'a> {
    /// An empty line.
    pub fn new(prompt: &'static str, history: &'a [String]) -> Self {
        Self {
            prompt,
            history,
            shown: history.len(),
            draft: String::new(),
            text: String::new(),
            at: 0,
            goes_on: false,
            cut: String::new(),
            choices: String::new(),
            row: 0,
        }
    }

    /// What it is so far.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Does what a key does.
    pub fn press(&mut self, key: Key) -> Pressed {
        self.choices.clear();
        let (before, after) = self.text.split_at(self.at);
        let (n_before, n_after) = (before.len(), after.len());
        // Bytes to the character, the word, the line's end on either side.
        let left = before.graphemes(true).next_back().map_or(0, str::len);
        let right = after.graphemes(true).next().map_or(0, str::len);
        let word_left = n_before - word_start(before);
        let word_right = after.split_word_bound_indices();
        let word_right = word_right.filter(|(_, word)| !word.trim().is_empty());
        let word_right = word_right
            .map(|(at, word)| at + word.len())
            .next()
            .unwrap_or(n_after);
        let line_left = before.rsplit('\n').next().map_or(0, str::len);
        let line_right = after.split('\n').next().map_or(0, str::len);
        match key {
            Key::Enter if self.goes_on && self.at == self.text.len() => {
                self.text.pop();
                self.at -= 1;
                self.insert("\n");
            }
            Key::Enter => return Pressed::Done,
            Key::Interrupt => return Pressed::Interrupted,
            Key::Suspend => return Pressed::Suspended,
            Key::NotText => return Pressed::NotText,
            Key::Close if self.text.is_empty() => return Pressed::End,
            Key::Text(character) => {
                self.insert(character.encode_utf8(&mut [0; 4]));
                self.goes_on = character == '\\' && self.at == self.text.len();
            }
            Key::Paste(text) => self.insert(&text),
            Key::Backspace => self.remove(left, 0),
            Key::Delete | Key::Close => self.remove(0, right),
            Key::CutWord => self.cut(word_left, 0),
            Key::CutToStart => self.cut(line_left, 0),
            Key::CutToEnd => self.cut(0, line_right),
            Key::PutBack => {
                let cut = self.cut.clone();
                self.insert(&cut);
            }
            Key::Left => self.at -= left,
            Key::Right => self.at += right,
            Key::WordLeft => self.at -= word_left,
            Key::WordRight => self.at += word_right,
            Key::Home => self.at -= line_left,
            Key::End => self.at += line_right,
            Key::Up => self.up(line_left),
            Key::Down => self.down(line_left, line_right),
            Key::Tab => self.complete(),
            Key::Clear => {
                terminal::control("\x1b[H\x1b[2J");
                self.row = 0;
            }
        }
        Pressed::On
    }

    fn insert(&mut self, text: &str) {
        self.text.insert_str(self.at, text);
        self.at += text.len();
        self.goes_on = false;
    }

    fn remove(&mut self, n_before: usize, n_after: usize) {
        self.text
            .replace_range(self.at - n_before..self.at + n_after, "");
        self.at -= n_before;
        self.goes_on = false;
    }

    fn cut(&mut self, n_before: usize, n_after: usize) {
        if n_before + n_after > 0 {
            self.cut = self.text[self.at - n_before..self.at + n_after].to_owned();
        }
        self.remove(n_before, n_after);
    }

    /// To the line above, or to the line before in the history.
    fn up(&mut self, column: usize) {
        let above = self.at - column;
        if above > 0 {
            let line = self.text[..above - 1]
                .rsplit('\n')
                .next()
                .unwrap_or_default();
            self.at = above - 1 - line.len() + floor(line, column);
        } else if self.shown > 0 {
            self.show(self.shown - 1);
        }
    }

    fn down(&mut self, column: usize, rest: usize) {
        let end = self.at + rest;
        if end < self.text.len() {
            let line = self.text[end + 1..].split('\n').next().unwrap_or_default();
            self.at = end + 1 + floor(line, column);
        } else if self.shown < self.history.len() {
            self.show(self.shown + 1);
        }
    }

    fn show(&mut self, index: usize) {
        let new = self.history.len();
        if self.shown == new {
            self.draft = std::mem::take(&mut self.text);
        }
        self.shown = index;
        self.text = self.history.get(index).unwrap_or(&self.draft).clone();
        self.at = self.text.len();
        self.goes_on = false;
    }

    /// Completes a command, as far as there is one way to.
    fn complete(&mut self) {
        if !self.text.starts_with('/') || self.at != self.text.len() || self.text.contains(' ') {
            return;
        }
        let names = COMMANDS.iter().map(|command| command.name);
        let fitting: Vec<&str> = names.filter(|name| name.starts_with(&self.text)).collect();
        match fitting[..] {
            [] => {}
            [name] => {
                self.text = format!("{name} ");
                self.at = self.text.len();
            }
            [first, ..] => {
                let is_shared =
                    |n: &usize| fitting.iter().all(|name| name.starts_with(&first[..*n]));
                let n = (self.at..=first.len())
                    .rev()
                    .find(is_shared)
                    .unwrap_or(self.at);
                if n == self.at {
                    self.choices = fitting.join("  ");
                }
                self.insert(&first[self.at..n]);
            }
        }
    }

    /// The screen was used by others: drawing begins where the cursor is.
    pub fn forget_screen(&mut self) {
        self.row = 0;
    }

    /// Draws what there is room for around the cursor.
    pub fn draw(&mut self) {
        let (width, height) = terminal::size();
        let mut layout = Layout::new(self.prompt, &self.text, self.at, width);
        if !self.choices.is_empty() {
            layout.rows.push(self.choices.clone());
        }
        let first = (layout.row + 1).saturating_sub(height.max(2) - 1);
        let last = layout.rows.len().min(first + height.max(2) - 1);
        self.put(&layout, first, last);
        self.row = layout.row - first;
    }

    /// Draws all of it for the last time, and goes to the row below.
    pub fn draw_whole(&mut self) {
        let (width, _) = terminal::size();
        let layout = Layout::new(self.prompt, &self.text, self.text.len(), width);
        self.put(&layout, 0, layout.rows.len());
        terminal::control("\r\n");
    }

    fn put(&self, layout: &Layout, first: usize, last: usize) {
        let mut drawn = String::from("\r");
        if self.row > 0 {
            drawn += &format!("\x1b[{}A", self.row);
        }
        drawn += "\x1b[J";
        drawn += &layout.rows[first..last].join("\r\n");
        if last - 1 > layout.row {
            drawn += &format!("\x1b[{}A", last - 1 - layout.row);
        }
        drawn.push('\r');
        if layout.column > 0 {
            drawn += &format!("\x1b[{}C", layout.column);
        }
        terminal::control(&drawn);
    }
}

/// Where the last word of `text` begins.
fn word_start(text: &str) -> usize {
    let words = text.split_word_bound_indices();
    let mut words = words.filter(|(_, word)| !word.trim().is_empty());
    words.next_back().map_or(0, |(at, _)| at)
}

/// The place in `line` at `n` bytes, or where the character there begins.
fn floor(line: &str, n: usize) -> usize {
    let mut places = line
        .grapheme_indices(true)
        .map(|(at, _)| at)
        .chain([line.len()]);
    places.rfind(|&at| at <= n).unwrap_or(0)
}

/// A line as rows of the screen.
#[derive(Debug)]
struct Layout {
    rows: Vec<String>,
    row: usize,
    column: usize,
}

impl Layout {
    fn new(prompt: &str, text: &str, at: usize, width: usize) -> Self {
        let mut rows = vec![prompt.to_owned()];
        let (mut column, mut cursor) = (prompt.width(), None);
        for (place, piece) in text.grapheme_indices(true) {
            if piece.contains('\n') {
                cursor = cursor.or((place >= at).then(|| (rows.len() - 1, column)));
                rows.push(String::new());
                column = 0;
                continue;
            }
            // A tab is as wide as its place has it, which rows of another width would change.
            let piece = piece.replace('\t', "    ");
            let piece = terminal::clean(&piece);
            let n = piece.width();
            if column + n > width && column > 0 {
                rows.push(String::new());
                column = 0;
            }
            cursor = cursor.or((place >= at).then(|| (rows.len() - 1, column)));
            if let Some(row) = rows.last_mut() {
                row.push_str(&piece);
            }
            column += n;
        }
        if cursor.is_none() && column >= width {
            rows.push(String::new());
            column = 0;
        }
        let (row, column) = cursor.unwrap_or((rows.len() - 1, column));
        // A last column that is full holds the cursor of a newline behind it.
        let column = column.min(width.saturating_sub(1));
        Self { rows, row, column }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text and the cursor's place, as `|`, after these keys.
    fn after(history: &[String], keys: impl IntoIterator<Item = Key>) -> String {
        let mut line = Line::new("> ", history);
        for key in keys {
            assert_eq!(line.press(key), Pressed::On);
        }
        let (before, after) = line.text.split_at(line.at);
        format!("{before}|{after}")
    }

    fn typed(text: &str) -> impl Iterator<Item = Key> {
        text.chars()
            .map(|c| if c == '\n' { Key::Enter } else { Key::Text(c) })
    }

    #[test]
    fn keys_edit_the_line() {
        use Key::*;
        let cases: &[(&str, &[Key], &str)] = &[
            ("abc", &[Left, Left, Text('x')], "ax|bc"),
            (
                "a\u{e9}\u{65e5}",
                &[Backspace, Backspace, Backspace, Backspace],
                "|",
            ),
            ("e\u{301}x", &[Left, Left, Delete], "|x"),
            (
                "one two, three",
                &[WordLeft, WordLeft, CutWord],
                "one |, three",
            ),
            ("one two", &[WordLeft, CutToEnd, Home, PutBack], "two|one "),
            (
                "one two",
                &[CutToStart, PutBack, PutBack],
                "one twoone two|",
            ),
            ("one  two", &[Home, WordRight, WordRight], "one  two|"),
            ("  one", &[Home, WordRight, Close], "  one|"),
            ("ab\\\ncd", &[Up, Text('x')], "abx|\ncd"),
            ("ab\\\nc", &[Home, Up, Down, End], "ab\nc|"),
            ("abcd\\\n\u{65e5}", &[Up, End, Down], "abcd\n\u{65e5}|"),
            ("x", &[Up, Up, Up], "first|"),
            ("x", &[Up, Up, Text('y'), Down, Down], "x|"),
            ("x", &[Down, Right, End, Delete], "x|"),
            ("/sa", &[Tab], "/save |"),
            ("/s", &[Tab], "/s|"),
            ("/no", &[Tab], "/no|"),
            ("say /sa", &[Tab], "say /sa|"),
        ];
        let history = ["first".to_owned(), "second".to_owned()];
        for (text, keys, expected) in cases {
            let keys = typed(text).chain(keys.iter().cloned());
            assert_eq!(after(&history, keys), *expected, "{text:?}");
        }
    }

    #[test]
    fn a_backslash_goes_on_where_it_is_typed_and_is_text_where_it_is_pasted() {
        let paste = |text: &str| [Key::Paste(text.into())];
        assert_eq!(after(&[], typed("a\\\nb\\\n")), "a\nb\n|");
        let pasted = "docker run \\\n  -p 80:80 \\\n  img\nthen tell me";
        assert_eq!(after(&[], paste(pasted)), format!("{pasted}|"));
        assert_eq!(
            after(&[], paste("  x \\").into_iter().chain(typed(" y"))),
            "  x \\ y|"
        );
        for keys in [
            paste("path\\").to_vec(),
            typed("a\\b").collect(),
            typed("a\\").chain(paste("b\\")).collect(),
            typed("a\\ ").chain([Key::Backspace]).collect(),
        ] {
            let mut line = Line::new("> ", &[]);
            for key in keys.clone() {
                line.press(key);
            }
            let text = line.text.clone();
            assert_eq!(line.press(Key::Enter), Pressed::Done, "{keys:?}");
            assert_eq!(line.text, text);
        }
    }

    #[test]
    fn ends_are_told_apart() {
        let mut line = Line::new("> ", &[]);
        assert_eq!(line.press(Key::Close), Pressed::End);
        line.press(Key::Text('x'));
        assert_eq!(line.press(Key::Close), Pressed::On);
        assert_eq!(line.press(Key::Interrupt), Pressed::Interrupted);
        assert_eq!(line.press(Key::NotText), Pressed::NotText);
        assert_eq!(line.press(Key::Suspend), Pressed::Suspended);
    }

    /// Rows never exceed the width, hold nothing a terminal would obey, and have the cursor in them.
    #[test]
    fn rows_fit_and_are_harmless() {
        let text = "one \u{65e5}\u{672c}\u{8a9e} e\u{301} \u{1f468}\u{200d}\u{1f469}\n\ttwo \
                    \x1b[2J\u{9b}31m\u{202e}abc\u{2066}\u{7}\r\n\nlast word";
        let pieces: Vec<usize> = text.grapheme_indices(true).map(|(at, _)| at).collect();
        for width in 2..30 {
            for at in pieces.iter().copied().chain([text.len()]) {
                let layout = Layout::new("> ", text, at, width);
                assert!(
                    layout.row < layout.rows.len() && layout.column < width,
                    "{layout:?}"
                );
                for row in &layout.rows {
                    assert!(row.width() <= width.max(4), "{row:?} in {width}");
                    let harmful = |c: char| c.is_control() || "\u{202e}\u{2066}".contains(c);
                    assert!(!row.contains(harmful), "{row:?}");
                }
            }
        }
        let layout = Layout::new("> ", "abcd", 4, 6);
        assert_eq!((layout.rows.len(), layout.row, layout.column), (2, 1, 0));
        let layout = Layout::new("> ", "abc\nd", 3, 6);
        assert_eq!((layout.row, layout.column), (0, 5));
    }
}
