//! Finds the formulas of a Markdown text.

use std::borrow::Cow;

use super::{MAX_FORMULA_BYTES, to_unicode};

/// The Markdown text with its formulas as Unicode, escaped so that Markdown leaves them alone.
/// Code, in lines or in fences, stays as it is.
pub fn replace_math(text: &str) -> Cow<'_, str> {
    if !text.contains(['$', '\\']) {
        return Cow::Borrowed(text);
    }
    let mut out = String::new();
    let mut copied = 0;
    let mut at = 0;
    while let Some(found) = text[at..].find(['$', '\\', '`', '~']) {
        at += found;
        let rest = &text[at..];
        let bytes = rest.as_bytes();
        match bytes[0] {
            b'`' | b'~' => at += code_len(text, at),
            b'\\' => match formula_in_brackets(rest) {
                Some((formula, len, is_display)) => {
                    out.push_str(&text[copied..at]);
                    push_formula(&mut out, formula, is_display);
                    at += len;
                    copied = at;
                }
                // An escaped dollar begins nothing.
                None => at += 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
            },
            _ => match formula_in_dollars(rest) {
                Some((formula, len, is_display)) => {
                    out.push_str(&text[copied..at]);
                    push_formula(&mut out, formula, is_display);
                    at += len;
                    copied = at;
                }
                None => at += rest.len() - rest.trim_start_matches('$').len(),
            },
        }
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(&text[copied..]);
    Cow::Owned(out)
}

/// Bytes of the code that begins with the back ticks or tildes at `at`, or of those marks alone.
pub fn code_len(text: &str, at: usize) -> usize {
    let rest = &text[at..];
    let mark = &rest[..1];
    let n_marks = rest.len() - rest.trim_start_matches(mark).len();
    let is_fence = n_marks >= 3
        && text[..at]
            .rsplit('\n')
            .next()
            .is_some_and(|line| line.trim().is_empty());
    if is_fence {
        let mut end = rest.find('\n').map_or(rest.len(), |i| i + 1);
        for line in rest[end..].split_inclusive('\n') {
            end += line.len();
            let line = line.trim();
            if line.len() >= n_marks && line.trim_start_matches(mark).is_empty() {
                break;
            }
        }
        return end;
    }
    if mark == "~" {
        return n_marks;
    }
    let mut from = n_marks;
    while let Some(found) = rest[from..].find('`') {
        let start = from + found;
        let n = rest[start..].len() - rest[start..].trim_start_matches('`').len();
        if n == n_marks {
            return start + n;
        }
        from = start + n;
    }
    n_marks
}

/// The formula of `\(…\)` or `\[…\]`, its length with brackets, and whether it stands by itself.
fn formula_in_brackets(rest: &str) -> Option<(&str, usize, bool)> {
    let (end, is_display) = match rest.as_bytes().get(1)? {
        b'(' => ("\\)", false),
        b'[' => ("\\]", true),
        _ => return None,
    };
    let len = rest[2..].find(end)?;
    let formula = &rest[2..2 + len];
    // Markdown escapes brackets in the same way.
    (len <= MAX_FORMULA_BYTES && !formula.contains("\n\n")).then_some((
        formula,
        len + 4,
        is_display,
    ))
}

/// The formula of `$…$` or `$$…$$`, its length with dollars, and whether it stands by itself.
fn formula_in_dollars(rest: &str) -> Option<(&str, usize, bool)> {
    if let Some(inner) = rest.strip_prefix("$$") {
        let len = inner.find("$$")?;
        let formula = &inner[..len];
        let is_formula = !formula.trim().is_empty() && !formula.contains("\n\n");
        return (is_formula && len <= MAX_FORMULA_BYTES).then_some((formula, len + 4, true));
    }
    if rest[1..].starts_with(char::is_whitespace) {
        return None;
    }
    let mut from = 1;
    loop {
        let end = from + rest[from..].find(['$', '\n', '`'])?;
        let formula = &rest[1..end];
        if !rest[end..].starts_with('$') || formula.len() > MAX_FORMULA_BYTES {
            return None;
        }
        if formula.ends_with('\\') {
            from = end + 1;
            continue;
        }
        let before = formula.chars().next_back()?;
        let after = rest[end + 1..].chars().next();
        // "$5 and $6" is money: a formula does not end in a space, and no digit follows it.
        if before.is_whitespace()
            || after.is_some_and(|c| c.is_ascii_digit())
            || !is_formula(formula)
        {
            return None;
        }
        return Some((formula, end + 1, false));
    }
}

/// Whether the text between two dollars reads as a formula and not as prose about prices.
fn is_formula(text: &str) -> bool {
    if text.contains(['\\', '^', '_', '=', '{', '<', '>']) {
        return true;
    }
    let starts_with_digit = text.starts_with(|c: char| c.is_ascii_digit());
    let words = text.split(|c: char| !c.is_alphabetic());
    let has_word = words.into_iter().any(|word| word.chars().count() >= 3);
    !(has_word || starts_with_digit && text.contains(char::is_alphabetic) && text.contains(' '))
}

/// Characters that mean something to Markdown.
const SPECIAL: &str = "\\`*_[]<>|~#&";

fn push_formula(out: &mut String, formula: &str, is_display: bool) {
    let text = to_unicode(formula);
    if is_display {
        // In a list or a quote a paragraph of its own would end it.
        out.push_str("\n\n");
    }
    for (i, line) in text.split('\n').enumerate() {
        if i > 0 {
            out.push_str(if is_display { "  \n" } else { " " });
        }
        for (j, c) in line.chars().enumerate() {
            // At the start of a line these begin a list.
            let is_bullet = j == 0 && is_display && matches!(c, '-' | '+');
            if SPECIAL.contains(c) || is_bullet {
                out.push('\\');
            }
            out.push(c);
        }
    }
    if is_display {
        out.push_str("\n\n");
    }
}
