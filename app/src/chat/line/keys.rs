//! From the bytes of a terminal to keys.

use std::collections::VecDeque;

/// A key, or what counts as one.
#[derive(Clone, Debug, PartialEq)]
pub enum Key {
    /// A character.
    Text(char),
    /// What the terminal says was pasted, as it is, with every line end as a newline.
    Paste(String),
    /// The line is done, or goes on.
    Enter,
    Tab,
    Backspace,
    Delete,
    Left,
    Right,
    WordLeft,
    WordRight,
    Home,
    End,
    Up,
    Down,
    CutToStart,
    CutToEnd,
    CutWord,
    PutBack,
    Clear,
    /// Ctrl-C.
    Interrupt,
    /// Ctrl-D.
    Close,
    /// Ctrl-Z.
    Suspend,
    /// Bytes that are no UTF-8.
    NotText,
}

/// Keys by the control character they send.
const CONTROLS: &[(u8, Key)] = &[
    (0x01, Key::Home),
    (0x02, Key::Left),
    (0x03, Key::Interrupt),
    (0x04, Key::Close),
    (0x05, Key::End),
    (0x06, Key::Right),
    (0x08, Key::Backspace),
    (0x09, Key::Tab),
    (0x0a, Key::Enter),
    (0x0b, Key::CutToEnd),
    (0x0c, Key::Clear),
    (0x0e, Key::Down),
    (0x10, Key::Up),
    (0x15, Key::CutToStart),
    (0x17, Key::CutWord),
    (0x19, Key::PutBack),
    (0x1a, Key::Suspend),
    (0x7f, Key::Backspace),
];

/// Keys by what they send behind an escape.
const SEQUENCES: &[(&str, Key)] = &[
    ("[A", Key::Up),
    ("[B", Key::Down),
    ("[C", Key::Right),
    ("[D", Key::Left),
    ("[F", Key::End),
    ("[H", Key::Home),
    ("[1~", Key::Home),
    ("[3~", Key::Delete),
    ("[4~", Key::End),
    ("[7~", Key::Home),
    ("[8~", Key::End),
    ("[1;3C", Key::WordRight),
    ("[1;3D", Key::WordLeft),
    ("[1;5C", Key::WordRight),
    ("[1;5D", Key::WordLeft),
    ("OA", Key::Up),
    ("OB", Key::Down),
    ("OC", Key::Right),
    ("OD", Key::Left),
    ("OF", Key::End),
    ("OH", Key::Home),
    ("b", Key::WordLeft),
    ("f", Key::WordRight),
    ("\x7f", Key::CutWord),
];

/// What a terminal puts around what was pasted, behind an escape and with it.
const PASTE_BEGINS: &[u8] = b"[200~";
const PASTE_ENDS: &[u8] = b"\x1b[201~";

/// Takes the first key; `None` where there is none, or only a part of one. After a while without more
/// bytes a part is taken for what it is.
pub fn next(pending: &mut VecDeque<u8>, timed_out: bool) -> Option<Key> {
    loop {
        let bytes = &*pending.make_contiguous();
        let (n, key) = match *bytes.first()? {
            b'\r' => {
                let n = if bytes.get(1) == Some(&b'\n') { 2 } else { 1 };
                (n, Some(Key::Enter))
            }
            0x1b => escape(&bytes[1..], timed_out)?,
            byte if byte < 0x20 || byte == 0x7f => {
                let found = CONTROLS.iter().find(|row| row.0 == byte);
                (1, found.map(|row| row.1.clone()))
            }
            _ => character(bytes, timed_out)?,
        };
        pending.drain(..n);
        if key.is_some() {
            return key;
        }
    }
}

/// How many bytes the first character takes, and which it is.
fn character(bytes: &[u8], timed_out: bool) -> Option<(usize, Option<Key>)> {
    let begin = &bytes[..bytes.len().min(4)];
    let valid = match std::str::from_utf8(begin) {
        Ok(text) => text,
        Err(error) if error.valid_up_to() > 0 => {
            std::str::from_utf8(&begin[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(error) if error.error_len().is_none() && !timed_out => return None,
        Err(error) => return Some((error.error_len().unwrap_or(begin.len()), Some(Key::NotText))),
    };
    let character = valid.chars().next()?;
    Some((character.len_utf8(), Some(Key::Text(character))))
}

/// The same of what stands behind an escape, which is counted in.
fn escape(bytes: &[u8], timed_out: bool) -> Option<(usize, Option<Key>)> {
    if bytes.starts_with(PASTE_BEGINS) {
        let rest = &bytes[PASTE_BEGINS.len()..];
        let end = rest
            .windows(PASTE_ENDS.len())
            .position(|part| part == PASTE_ENDS);
        let Some(end) = end else {
            // A paste whose end never came: Ctrl-C or Ctrl-D alone, after a pause, gives it up.
            let given_up = timed_out && matches!(rest.last(), Some(0x03 | 0x04));
            return given_up.then_some((1 + bytes.len(), Some(Key::Interrupt)));
        };
        let n = 1 + PASTE_BEGINS.len() + end + PASTE_ENDS.len();
        let key = match std::str::from_utf8(&rest[..end]) {
            Ok(text) => Key::Paste(text.replace("\r\n", "\n").replace('\r', "\n")),
            Err(_) => Key::NotText,
        };
        return Some((n, Some(key)));
    }
    let length = match bytes.first() {
        Some(b'[') => {
            let end = bytes[1..]
                .iter()
                .position(|byte| (0x40..=0x7e).contains(byte));
            end.map(|end| end + 2)
        }
        Some(b'O') => (bytes.len() > 1).then_some(2),
        // An escape by itself does nothing; what follows is another key, if it is none of Alt's.
        Some(0x1b) => Some(0),
        Some(_) => Some(1),
        None => None,
    };
    let Some(length) = length else {
        return timed_out.then_some((1 + bytes.len(), None));
    };
    let sent = std::str::from_utf8(&bytes[..length]).unwrap_or_default();
    let key = SEQUENCES.iter().find(|row| row.0 == sent);
    // Half a character behind an escape is the beginning of one.
    let n = if bytes.first().is_some_and(|byte| !byte.is_ascii()) {
        1
    } else {
        1 + length
    };
    Some((n, key.map(|row| row.1.clone())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All keys of `bytes`, which come in pieces of `size`; between them time passes, or not.
    fn keys(bytes: &[u8], size: usize) -> Vec<Key> {
        let mut pending = VecDeque::new();
        let mut keys = Vec::new();
        for piece in bytes.chunks(size) {
            pending.extend(piece);
            while let Some(key) = next(&mut pending, false) {
                keys.push(key);
            }
        }
        while let Some(key) = next(&mut pending, true) {
            keys.push(key);
        }
        assert!(pending.is_empty(), "{pending:?} of {bytes:?}");
        keys
    }

    fn text(text: &str) -> Vec<Key> {
        text.chars().map(Key::Text).collect()
    }

    #[test]
    fn keys_are_the_same_in_whatever_pieces_they_come() {
        let pasted = "\x1b[200~  a \\\r\n\tb\\\rc\x1b[2J\x1b\nd\x1b[201~";
        let mut all: Vec<(Vec<u8>, Vec<Key>)> = vec![
            (
                "a\u{e9}\u{65e5}\u{1f600}".into(),
                text("a\u{e9}\u{65e5}\u{1f600}"),
            ),
            (
                b"a\rb\n\x1b".into(),
                vec![Key::Text('a'), Key::Enter, Key::Text('b'), Key::Enter],
            ),
            (
                pasted.into(),
                vec![Key::Paste("  a \\\n\tb\\\nc\x1b[2J\x1b\nd".into())],
            ),
            (b"\x1b[200~\xff\x1b[201~".into(), vec![Key::NotText]),
            (b"\xffa".into(), vec![Key::NotText, Key::Text('a')]),
            ("\u{65e5}".as_bytes()[..2].into(), vec![Key::NotText]),
            // Unknown sequences and a sequence that was cut off type nothing.
            (b"\x1b[?1;2ca\x1bOPb\x1b[99;99~c\x1b[1;".into(), text("abc")),
            (b"\x1bxa\x00\x1c".into(), text("a")),
            (b"\x1b\x1b[A".into(), vec![Key::Up]),
            // A paste whose end never comes, given up.
            (b"\x1b[200~abc\rd\x03".into(), vec![Key::Interrupt]),
        ];
        all.extend(
            CONTROLS
                .iter()
                .map(|(byte, key)| (vec![*byte], vec![key.clone()])),
        );
        let sequences = SEQUENCES
            .iter()
            .map(|(sent, key)| (format!("\x1b{sent}").into_bytes(), vec![key.clone()]));
        all.extend(sequences);
        for (bytes, expected) in &all {
            for size in [1, 2, 3, 7, 4096] {
                assert_eq!(
                    &keys(bytes, size),
                    expected,
                    "{bytes:?} in pieces of {size}"
                );
            }
        }
        let joined: Vec<u8> = all.iter().take(4).flat_map(|row| row.0.clone()).collect();
        let count: usize = all.iter().take(4).map(|row| row.1.len()).sum();
        assert_eq!(keys(&joined, 5).len(), count);
    }

    #[test]
    fn a_line_end_of_two_bytes_is_one_enter() {
        assert_eq!(keys(b"\r\n\r\n", 4), [Key::Enter, Key::Enter]);
    }
}
