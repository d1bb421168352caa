//! Numbers and odd characters as people read them.

use std::borrow::Cow;

/// A count with commas: `1,200`.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count with its noun, in the plural unless there is one: `1,200 tokens`.
pub fn counted(n: usize, noun: &str) -> String {
    format!(
        "{} {noun}{}",
        grouped(n as u64),
        if n == 1 { "" } else { "s" }
    )
}

/// Bytes: `1.50 MiB`.
pub fn bytes(n: u64) -> String {
    scaled(n, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB"])
}

/// A large count: `671 B`, for billions.
pub fn count(n: u64) -> String {
    scaled(n, 1000.0, &["", "K", "M", "B", "T"])
}

fn scaled(n: u64, step: f64, units: &[&str]) -> String {
    let mut value = n as f64;
    let mut unit = 0;
    // 999.99 would round to a 1000 of the smaller unit.
    while value >= step - 0.005 && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    if unit == 0 {
        return format!("{n} {}", units[0]).trim_end().to_owned();
    }
    let decimals = match value {
        value if value < 9.995 => 2,
        value if value < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$} {}", units[unit])
}

/// A time; `None` if it is no time.
pub fn seconds(seconds: f64) -> Option<String> {
    if !seconds.is_finite() || seconds < 0.0 {
        return None;
    }
    Some(if seconds < 0.9995 {
        format!("{:.0} ms", seconds * 1000.0)
    } else if seconds < 99.95 {
        format!("{seconds:.1} s")
    } else {
        let whole = seconds.round().min(u64::MAX as f64) as u64;
        format!("{} min {} s", grouped(whole / 60), whole % 60)
    })
}

/// The text without what no screen shows or what would turn it around: control characters and the
/// marks that change the direction of writing become a visible mark. Line ends become `\n`.
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_odd) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\r' if chars.peek() == Some(&'\n') => {}
            '\r' | '\u{2028}' | '\u{2029}' => out.push('\n'),
            c if is_odd(c) => out.push('¤'),
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

fn is_odd(c: char) -> bool {
    (c.is_control() && c != '\n' && c != '\t')
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// The first `n` characters, with an ellipsis if there are more.
pub fn shortened(text: &str, n: usize) -> Cow<'_, str> {
    match text.char_indices().nth(n) {
        None => Cow::Borrowed(text),
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
    }
}

/// The largest place at or before `at` where `text` may be cut.
pub fn floor_boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        for (n, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (12_345, "12,345"),
            (u64::MAX, "18,446,744,073,709,551,615"),
        ] {
            assert_eq!(grouped(n), text);
        }
        assert_eq!(counted(1, "token"), "1 token");
        assert_eq!(counted(0, "token"), "0 tokens");
        for (n, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (1536, "1.50 KiB"),
            (10 << 20, "10.0 MiB"),
            (u64::MAX, "16384 PiB"),
        ] {
            assert_eq!(bytes(n), text, "{n}");
        }
        for (n, text) in [
            (7, "7"),
            (1_500_000, "1.50 M"),
            (671_026_419_200, "671 B"),
            (37_000_000_000, "37.0 B"),
            (999_999, "1.00 M"),
        ] {
            assert_eq!(count(n), text);
        }
    }

    #[test]
    fn times_that_are_none_are_not_shown() {
        assert_eq!(seconds(0.0).as_deref(), Some("0 ms"));
        assert_eq!(seconds(0.9999).as_deref(), Some("1.0 s"));
        assert_eq!(seconds(3.24).as_deref(), Some("3.2 s"));
        assert_eq!(seconds(99.96).as_deref(), Some("1 min 40 s"));
        assert!(seconds(1e30).is_some());
        for nothing in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0] {
            assert_eq!(seconds(nothing), None);
        }
    }

    #[test]
    fn odd_characters_are_shown_as_such() {
        assert_eq!(
            visible("plain\n\ttext é 漢 שלום"),
            "plain\n\ttext é 漢 שלום"
        );
        assert_eq!(visible("a\r\nb\rc\u{2028}d"), "a\nb\nc\nd");
        assert_eq!(visible("a\0\u{1b}[2J\u{202e}b\u{85}"), "a¤¤[2J¤b¤");
        assert_eq!(shortened("añb", 2), "añ…");
        assert_eq!(shortened("añ", 2), "añ");
        assert_eq!(floor_boundary("añb", 2), 1);
        assert_eq!(floor_boundary("añb", 99), 4);
    }
}
