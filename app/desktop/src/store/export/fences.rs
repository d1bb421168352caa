//! Code blocks of Markdown between fences; everything else is text.

/// A part of a text.
#[derive(Debug, PartialEq)]
pub(super) enum Block<'a> {
    /// Lines outside fences.
    Text(&'a str),
    /// Lines between fences, without them.
    Code {
        /// The fence that it began with.
        fence: &'a str,
        /// What stood behind it.
        language: &'a str,
        /// The lines.
        code: &'a str,
        /// Whether the end is there.
        is_closed: bool,
    },
}

/// The fence that a line begins with, and what stands behind it.
fn fence(line: &str) -> Option<(&str, &str)> {
    let text = line.trim_start_matches(' ');
    if line.len() - text.len() > 3 {
        return None;
    }
    let mark = text.chars().next().filter(|c| "`~".contains(*c))?;
    let rest = text.trim_start_matches(mark);
    let fence = &text[..text.len() - rest.len()];
    let info = rest.trim();
    // An inline code span on a line of its own is none.
    let is_fence = fence.len() >= 3 && !(mark == '`' && info.contains('`'));
    is_fence.then_some((fence, info))
}

/// Cuts a text into its blocks, by the rules of CommonMark for fences that are not within lists.
pub(super) fn blocks(text: &str) -> Vec<Block<'_>> {
    let mut blocks = Vec::new();
    let mut open: Option<(&str, &str)> = None;
    let mut start = 0;
    let mut position = 0;
    for line in text.split_inclusive('\n') {
        let end = position + line.len();
        match (open, fence(line)) {
            (None, Some(opening)) => {
                if start < position {
                    blocks.push(Block::Text(&text[start..position]));
                }
                open = Some(opening);
                start = end;
            }
            (Some((opening, language)), Some((closing, ""))) if closing.starts_with(opening) => {
                blocks.push(Block::Code {
                    fence: opening,
                    language,
                    code: &text[start..position],
                    is_closed: true,
                });
                open = None;
                start = end;
            }
            _ => {}
        }
        position = end;
    }
    match open {
        Some((fence, language)) => blocks.push(Block::Code {
            fence,
            language,
            code: &text[start..],
            is_closed: false,
        }),
        None if start < text.len() => blocks.push(Block::Text(&text[start..])),
        None => {}
    }
    blocks
}

/// A fence of backticks that `code` does not close.
pub(super) fn fence_around(code: &str) -> String {
    let mut longest = 0;
    let mut n = 0;
    for c in code.chars() {
        n = if c == '`' { n + 1 } else { 0 };
        longest = longest.max(n);
    }
    "`".repeat((longest + 1).max(3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code<'a>(fence: &'a str, language: &'a str, code: &'a str, is_closed: bool) -> Block<'a> {
        Block::Code {
            fence,
            language,
            code,
            is_closed,
        }
    }

    #[test]
    fn fences_are_found() {
        use Block::Text;
        for (text, expected) in [
            ("", vec![]),
            ("a\nb", vec![Text("a\nb")]),
            (
                "a\n```rust x\nb\n\nc\n```\nd",
                vec![
                    Text("a\n"),
                    code("```", "rust x", "b\n\nc\n", true),
                    Text("d"),
                ],
            ),
            ("```\n```", vec![code("```", "", "", true)]),
            ("~~~\n```\n~~~~ \n", vec![code("~~~", "", "```\n", true)]),
            ("````\n```\n````\n", vec![code("````", "", "```\n", true)]),
            ("```\na\n```b\n", vec![code("```", "", "a\n```b\n", false)]),
            ("x\n   ```", vec![Text("x\n"), code("```", "", "", false)]),
            ("    ```\na", vec![Text("    ```\na")]),
            ("```a``` b\n``\n", vec![Text("```a``` b\n``\n")]),
            (
                "```\r\na\r\n```\r\nb",
                vec![code("```", "", "a\r\n", true), Text("b")],
            ),
        ] {
            assert_eq!(blocks(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_fence_is_longer_than_what_is_in_it() {
        assert_eq!(fence_around("a `` b"), "```");
        assert_eq!(fence_around("```\n````"), "`````");
    }
}
