//! A Markdown text cut into blocks that are laid out one by one.
//!
//! Only blocks on the screen are laid out, and while an answer streams only its last block changes.
//! Code in fences is a block of its own even inside a list, since it is highlighted and kept apart
//! ([`super::code`]). What Markdown means is the business of `egui_commonmark`.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use super::math::{code_len, replace_math};
use super::words::{floor_boundary, visible};

/// One piece of a text, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    /// Where it is in the text.
    pub source: Range<usize>,
    /// What it is.
    pub kind: BlockKind,
    /// Whether cutting the text again from here gives the same: not so within a list or a table.
    pub starts_fresh: bool,
}

/// What a piece of a text is.
#[derive(Clone, Debug, PartialEq)]
pub enum BlockKind {
    /// Markdown, ready to be shown.
    Prose(Arc<str>),
    /// Code from a fence.
    Code {
        /// What stands behind the fence.
        language: String,
        /// The code, without the indent of the fence.
        text: String,
        /// Whether the closing fence is there.
        is_closed: bool,
    },
}

/// Longer prose is cut, in a list between items, else between words.
const MAX_PROSE_BYTES: usize = 4 << 10;

/// Longer tables are cut into several under the same head.
const MAX_TABLE_ROWS: usize = 40;

/// Cuts `text` from `start` on, which is 0 or the start of a block that was cut before.
pub fn cut(text: &str, start: usize, is_streaming: bool) -> Vec<Block> {
    let mut cutter = Cutter {
        text,
        blocks: Vec::new(),
        start,
        starts_fresh: true,
        list_indent: None,
        dedent: 0,
    };
    cutter.run();
    let mut blocks = cutter.blocks;
    let definitions = definitions(text);
    let last = blocks.len().saturating_sub(1);
    for (i, block) in blocks.iter_mut().enumerate() {
        if let BlockKind::Prose(prose) = &mut block.kind {
            let at_work = is_streaming && i == last;
            *prose = prepared(prose, &definitions, at_work).into();
        }
    }
    blocks
}

struct Cutter<'a> {
    text: &'a str,
    blocks: Vec<Block>,
    /// Start of the block at work.
    start: usize,
    starts_fresh: bool,
    /// Column of an item's text, within a list.
    list_indent: Option<usize>,
    /// Spaces to take off lines that go on after code in a list.
    dedent: usize,
}

impl Cutter<'_> {
    fn run(&mut self) {
        let mut at = self.start;
        let mut was_blank = true;
        while at < self.text.len() {
            let line = line_at(self.text, at);
            let end = at + line.len();
            let trimmed = line.trim();
            let indent = line.len() - line.trim_start_matches(' ').len();
            if let Some((mark, n)) = fence(trimmed)
                && (indent <= 3 || self.list_indent.is_some())
            {
                self.flush(at);
                at = self.code(at, indent, mark, n);
                if self.list_indent.is_some() {
                    self.dedent = indent;
                }
                was_blank = true;
                continue;
            }
            if trimmed.is_empty() {
                if !self.list_goes_on(end) {
                    self.flush(end);
                    self.list_indent = None;
                    self.dedent = 0;
                    self.starts_fresh = true;
                }
                was_blank = true;
            } else {
                let item = item_indent(line);
                let is_heading = trimmed.starts_with('#') && indent <= 3;
                let is_table =
                    trimmed.contains('|') && is_delimiter(line_at(self.text, end).trim());
                if is_table
                    && self.list_indent.is_none()
                    && indent <= 3
                    && !trimmed.starts_with('>')
                {
                    self.flush(at);
                    at = self.table(at, end);
                    was_blank = true;
                    continue;
                }
                if is_heading && self.list_indent.is_none() {
                    self.flush(at);
                    self.flush(end);
                }
                // A long list is cut between items, so that only items on the screen are laid out.
                let is_long = end - self.start > MAX_PROSE_BYTES / 2;
                if item.is_some() && indent == 0 && (was_blank || is_long) {
                    self.flush(at);
                }
                if let Some(item) = item
                    && (was_blank || self.list_indent.is_some() || self.start == at)
                {
                    self.list_indent = Some(item);
                }
                was_blank = false;
                if end - self.start > MAX_PROSE_BYTES {
                    self.cut_words(end);
                }
            }
            at = end;
        }
        self.flush(self.text.len());
    }

    /// Whether the line after a blank one is a part of the same list.
    fn list_goes_on(&self, next: usize) -> bool {
        if self.list_indent.is_none() {
            return false;
        }
        let rest = &self.text[next..];
        let Some(line) = rest.lines().find(|line| !line.trim().is_empty()) else {
            return false;
        };
        line.starts_with("  ") || item_indent(line).is_some()
    }

    fn flush(&mut self, end: usize) {
        let source = self.start..end;
        let starts_fresh = self.starts_fresh;
        let text = &self.text[source.clone()];
        if text.trim().is_empty() {
            return;
        }
        self.start = end;
        self.starts_fresh = self.list_indent.is_none();
        let indent = text.len() - text.trim_start().len();
        let text = &text[text[..indent].rfind('\n').map_or(0, |i| i + 1)..];
        let prose = if self.dedent == 0 {
            text.to_owned()
        } else {
            let lines = text.split_inclusive('\n');
            lines.map(|line| dedented(line, self.dedent)).collect()
        };
        self.blocks.push(Block {
            source,
            kind: BlockKind::Prose(prose.into()),
            starts_fresh,
        });
    }

    /// Cuts a paragraph without end, as pasted data may be.
    fn cut_words(&mut self, end: usize) {
        while end - self.start > MAX_PROSE_BYTES {
            let at = floor_boundary(self.text, self.start + MAX_PROSE_BYTES);
            let space = self.text[self.start..at].rfind(char::is_whitespace);
            let space = space.filter(|&space| space > MAX_PROSE_BYTES / 2);
            self.flush(space.map_or(at, |space| self.start + space));
            self.starts_fresh = false;
        }
    }

    /// Takes a code block that begins at `at`; where it ends.
    fn code(&mut self, at: usize, indent: usize, mark: char, n: usize) -> usize {
        let head = line_at(self.text, at);
        let info = head.trim().trim_start_matches(mark).trim();
        // "rust,ignore" and "rust title=x" are rust.
        let language = info.split([',', ' ', '{', '\t']).next().unwrap_or_default();
        let mut code = String::new();
        let mut end = at + head.len();
        let mut is_closed = false;
        while end < self.text.len() {
            let line = line_at(self.text, end);
            end += line.len();
            let trimmed = line.trim();
            if let Some((closing, m)) = fence(trimmed)
                && closing == mark
                && m >= n
                && trimmed.len() == m
            {
                is_closed = true;
                break;
            }
            code.push_str(&dedented(line, indent));
        }
        self.blocks.push(Block {
            source: self.start..end,
            kind: BlockKind::Code {
                language: language.to_owned(),
                text: code,
                is_closed,
            },
            starts_fresh: self.starts_fresh,
        });
        self.start = end;
        self.starts_fresh = self.list_indent.is_none();
        end
    }

    /// Takes a table whose delimiter begins at `delimiter`; where it ends.
    fn table(&mut self, at: usize, delimiter: usize) -> usize {
        let delimiter_line = line_at(self.text, delimiter);
        let mut end = delimiter + delimiter_line.len();
        let head = format!(
            "{}\n{}\n",
            line_at(self.text, at).trim(),
            delimiter_line.trim()
        );
        let mut rows = String::new();
        let mut n_rows = 0;
        loop {
            let line = line_at(self.text, end);
            let is_row = !line.trim().is_empty() && line.contains('|');
            let is_full = n_rows == MAX_TABLE_ROWS || rows.len() > MAX_PROSE_BYTES;
            if !is_row || is_full {
                let prose = format!("{head}{rows}")
                    .replace("<br>", " · ")
                    .replace("<br/>", " · ");
                self.blocks.push(Block {
                    source: self.start..end,
                    kind: BlockKind::Prose(prose.into()),
                    starts_fresh: self.starts_fresh,
                });
                self.start = end;
                self.starts_fresh = !is_row;
                rows.clear();
                n_rows = 0;
            }
            if !is_row {
                return end;
            }
            rows.push_str(line);
            n_rows += 1;
            end += line.len();
        }
    }
}

/// The line that begins at `at`, with its end; empty at the end of the text.
fn line_at(text: &str, at: usize) -> &str {
    let rest = &text[at..];
    &rest[..rest.find('\n').map_or(rest.len(), |i| i + 1)]
}

fn fence(trimmed: &str) -> Option<(char, usize)> {
    let mark = trimmed.chars().next().filter(|c| matches!(c, '`' | '~'))?;
    let n = trimmed.len() - trimmed.trim_start_matches(mark).len();
    let is_inline = mark == '`' && trimmed[n..].contains('`');
    (n >= 3 && !is_inline).then_some((mark, n))
}

/// The column of an item's text, if the line begins one.
fn item_indent(line: &str) -> Option<usize> {
    let text = line.trim_start_matches(' ');
    let indent = line.len() - text.len();
    let n_digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let mark = match n_digits {
        0 => text.strip_prefix(['-', '*', '+']).map(|rest| (1, rest)),
        n if n <= 9 => text[n..].strip_prefix(['.', ')']).map(|rest| (n + 1, rest)),
        _ => None,
    };
    let (len, rest) = mark?;
    rest.starts_with([' ', '\t', '\n'])
        .then_some(indent + len + 1)
}

/// Whether the line is `|---|:--:|`, which makes a table of the line before it.
fn is_delimiter(trimmed: &str) -> bool {
    trimmed.contains('-')
        && trimmed.contains('|')
        && trimmed
            .chars()
            .all(|c| matches!(c, '|' | '-' | ':' | ' ' | '\t'))
}

fn dedented(line: &str, n: usize) -> Cow<'_, str> {
    let indent = line.len() - line.trim_start_matches(' ').len();
    Cow::Borrowed(&line[indent.min(n)..])
}

/// The lines `[name]: address`, which any block may point to.
fn definitions(text: &str) -> String {
    let mut found = String::new();
    if !text.contains("]:") {
        return found;
    }
    for line in text.lines().filter(|line| line.len() < 1000) {
        let trimmed = line.trim();
        if trimmed.starts_with('[')
            && !trimmed.starts_with("[^")
            && trimmed
                .find("]:")
                .is_some_and(|i| i > 1 && trimmed.len() > i + 3)
            && found.len() < MAX_PROSE_BYTES
        {
            found.push_str(trimmed);
            found.push('\n');
        }
    }
    found
}

/// Prose as the Markdown viewer gets it.
fn prepared(prose: &str, definitions: &str, is_streaming: bool) -> String {
    let prose = visible(prose);
    let prose = if is_streaming { closed(&prose) } else { prose };
    let prose = replace_math(&prose);
    let mut prose = without_images(&prose);
    if prose.contains("<br") {
        prose = prose
            .replace("<br>", "  \n")
            .replace("<br/>", "  \n")
            .replace("<br />", "  \n");
    }
    if !definitions.is_empty()
        && prose.contains('[')
        && definitions.lines().all(|line| line != prose.trim())
    {
        prose.truncate(prose.trim_end().len());
        prose.push_str("\n\n");
        prose.push_str(definitions);
    }
    prose
}

/// Images as links: an answer must not make the app read a file or call a server.
fn without_images(prose: &str) -> String {
    let mut out = String::with_capacity(prose.len());
    let mut at = 0;
    while let Some(found) = prose[at..].find(['!', '`', '\\']) {
        let mark = at + found;
        let rest = &prose[mark..];
        let len = if rest.starts_with('`') {
            code_len(prose, mark)
        } else if let Some(escaped) = rest.strip_prefix('\\') {
            1 + escaped.chars().next().map_or(0, char::len_utf8)
        } else {
            1
        };
        out.push_str(&prose[at..mark]);
        if rest.starts_with("![") {
            out.push_str("[image: ");
            at = mark + 2;
        } else {
            out.push_str(&rest[..len]);
            at = mark + len;
        }
    }
    out.push_str(&prose[at..]);
    out
}

/// The last block of an answer that is being written, with what is open closed, so that half of a
/// mark does not show for a moment as something else.
fn closed(prose: &str) -> Cow<'_, str> {
    let mut text = prose.trim_end_matches([' ', '\\']);
    let last_start = text.rfind('\n').map_or(0, |i| i + 1);
    let last = text[last_start..].trim();
    // "1", "-", "##", "---", "`": what it will be shows with the next character.
    let is_mark = !last.is_empty() && last.chars().all(|c| "-=*_+#>`~".contains(c));
    let is_number = last
        .trim_end_matches(['.', ')'])
        .chars()
        .all(|c| c.is_ascii_digit())
        && last.ends_with(['.', ')']);
    if is_mark || is_number {
        text = &text[..last_start];
    }
    // The head of a table is one only when the line below it is there.
    let mut lines = text.trim_end().lines();
    let n_columns = |line: &str| line.matches('|').count();
    if let Some(head) = lines.next().filter(|head| head.starts_with('|')) {
        let below = lines.next().unwrap_or_default();
        if lines.next().is_none() && n_columns(below) < n_columns(head) {
            return Cow::Borrowed("");
        }
    }
    let mut open: Vec<&str> = Vec::new();
    let mut at = 0;
    // A mark binds only within its paragraph.
    let paragraph = text.rfind("\n\n").map_or(0, |i| i + 2);
    let body = &text[paragraph..];
    while at < body.len() {
        let rest = &body[at..];
        let c = rest.chars().next().unwrap_or(' ');
        let mark = match c {
            '\\' => {
                at += 1 + rest[1..].chars().next().map_or(0, char::len_utf8);
                continue;
            }
            '`' => {
                let len = code_len(body, at);
                let n = rest.len() - rest.trim_start_matches('`').len();
                if len == n && at + n < body.len() {
                    // No end yet: the rest is code.
                    return Cow::Owned(format!("{text}{}", "`".repeat(n)));
                }
                at += len;
                continue;
            }
            '*' if rest.starts_with("**") => "**",
            '*' => "*",
            '~' if rest.starts_with("~~") => "~~",
            '_' => "_",
            _ => {
                at += c.len_utf8();
                continue;
            }
        };
        let before = body[..at].chars().next_back().unwrap_or(' ');
        let after = body[at + mark.len()..].chars().next();
        at += mark.len();
        let in_word =
            mark == "_" && before.is_alphanumeric() && after.is_some_and(char::is_alphanumeric);
        if in_word {
            continue;
        }
        if open.last() == Some(&mark) && !before.is_whitespace() {
            open.pop();
        } else if after.is_none_or(|after| !after.is_whitespace()) && !before.is_alphanumeric() {
            open.push(mark);
        }
    }
    if open.is_empty() {
        return if text.len() == prose.len() {
            Cow::Borrowed(prose)
        } else {
            Cow::Owned(text.to_owned())
        };
    }
    let mut text = text.trim_end().to_owned();
    while let Some(mark) = open.pop() {
        // A mark with nothing behind it would show as stars.
        match text.strip_suffix(mark) {
            Some(shorter) => text.truncate(shorter.len()),
            None => text.push_str(mark),
        }
    }
    Cow::Owned(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `P:` prose, `C(language):` code, `C!` without its closing fence.
    fn shape(text: &str, is_streaming: bool) -> Vec<String> {
        let blocks = cut(text, 0, is_streaming);
        let blocks = blocks.iter().map(|block| match &block.kind {
            BlockKind::Prose(prose) => format!("P:{}", prose.trim_end()),
            BlockKind::Code {
                language,
                text,
                is_closed,
            } => {
                format!("C{}({language}):{text}", if *is_closed { "" } else { "!" })
            }
        });
        blocks.collect()
    }

    #[test]
    fn texts_are_cut_where_blocks_end() {
        for (text, expected) in [
            ("", vec![]),
            ("\n \n", vec![]),
            ("one\ntwo\n\nthree", vec!["P:one\ntwo", "P:three"]),
            ("# head\ntext", vec!["P:# head", "P:text"]),
            (
                "a\n```rust\nlet x;\n```\nb",
                vec!["P:a", "C(rust):let x;\n", "P:b"],
            ),
            ("```\nopen", vec!["C!():open"]),
            ("```", vec!["C!():"]),
            ("```rust,ignore\n```", vec!["C(rust):"]),
            ("~~~\n```\n~~~", vec!["C():```\n"]),
            ("````\n```\n````\n", vec!["C():```\n"]),
            ("```a`b```\n", vec!["P:```a`b```"]),
            ("    ```\n    x", vec!["P:    ```\n    x"]),
            ("- a\n- b\n\n  c\n\nd", vec!["P:- a\n- b\n\n  c", "P:d"]),
            (
                "1. one\n   ```sh\n   ls\n     -l\n   ```\n   then\n2. two",
                vec!["P:1. one", "C(sh):ls\n  -l\n", "P:then\n2. two"],
            ),
            ("> ```\n> x\n> ```", vec!["P:> ```\n> x\n> ```"]),
            ("a\n\n\n\nb", vec!["P:a", "P:b"]),
            (
                "![cat](file:///etc/passwd)",
                vec!["P:[image: cat](file:///etc/passwd)"],
            ),
            ("`![cat](x)` \\![a](b)", vec!["P:`![cat](x)` \\![a](b)"]),
            (
                "[a]\n\n[a]: http://x",
                vec!["P:[a]\n\n[a]: http://x", "P:[a]: http://x"],
            ),
            ("a<br>b", vec!["P:a  \nb"]),
            ("x\0y", vec!["P:x¤y"]),
        ] {
            assert_eq!(shape(text, false), expected, "of {text:?}");
        }
    }

    #[test]
    fn what_streams_is_closed() {
        for (text, expected) in [
            ("**bold", "P:**bold**"),
            ("a **", "P:a"),
            ("a **b** c", "P:a **b** c"),
            ("*it", "P:*it*"),
            ("**a *b", "P:**a *b***"),
            ("`code", "P:`code`"),
            ("``a ` b", "P:``a ` b``"),
            ("~~gone", "P:~~gone~~"),
            ("2 * 3", "P:2 * 3"),
            ("snake_case", "P:snake_case"),
            ("text\n-", "P:text"),
            ("text\n==", "P:text"),
            ("a\\", "P:a"),
            ("a \\* b", "P:a \\* b"),
            ("text\n1.", "P:text"),
            ("in 1984", "P:in 1984"),
            ("| a | b |\n|--", "P:"),
            ("|a|b|\n|-|-|\n|1", "P:|a|b|\n|-|-|\n|1"),
            ("$x^2$ is **", "P:x² is"),
        ] {
            assert_eq!(shape(text, true), [expected], "of {text:?}");
        }
        // The same text is shown in full when the answer has ended.
        assert_eq!(shape("| a | b |\n|--", false), ["P:| a | b |\n|--"]);
    }

    #[test]
    fn a_huge_table_or_list_or_line_comes_in_pieces_and_whole() {
        let rows: String = (0..1000).map(|row| format!("| {row} | é |\n")).collect();
        let blocks = cut(&format!("|a|b|\n|--|--|\n{rows}\nend"), 0, false);
        assert_eq!(blocks.len(), 26);
        for block in &blocks[..25] {
            let BlockKind::Prose(prose) = &block.kind else {
                panic!()
            };
            assert!(prose.starts_with("|a|b|\n|--|--|\n| "));
            assert_eq!(prose.lines().count(), 42);
        }
        for text in [
            "- an item of a list\n".repeat(10_000),
            "x".repeat(1 << 20),
            "é ".repeat(1 << 18),
            "word\n".repeat(1 << 17),
            "[a](".repeat(1 << 17),
            "> quote\n".repeat(10_000),
            "| x ".repeat(1 << 17),
        ] {
            let blocks = cut(&text, 0, false);
            assert!(blocks.len() > 10);
            let mut end = 0;
            for block in &blocks {
                assert_eq!(block.source.start, end, "a gap");
                end = block.source.end;
                assert!(block.source.len() <= 2 * MAX_PROSE_BYTES);
            }
            assert_eq!(end, text.len());
        }
    }

    #[test]
    fn a_text_that_grows_is_cut_as_a_text_that_is_whole() {
        let text = "# T\n\nSome **bold** text\n\n- a\n- b\n\n  ```py\n  x = 1\n  ```\n\n| a | b |\n|--|--|\n| 1 | 2 |\n\nend $x^2$ \\(y\\)";
        let whole = cut(text, 0, false);
        for end in (0..=text.len()).filter(|&end| text.is_char_boundary(end)) {
            let mut blocks = cut(&text[..end], 0, true);
            // What a frame does.
            blocks.pop();
            while blocks.pop().is_some_and(|block| !block.starts_fresh) {}
            let start = blocks.last().map_or(0, |block| block.source.end);
            blocks.extend(cut(text, start, false));
            assert_eq!(blocks, whole, "cut at {end}");
        }
    }
}
