//! Text as other systems write it.

use engine::Error;
use engine::text_file::{decode, read, trim_final_newline};

fn utf16(text: &str, big: bool, mark: bool) -> Vec<u8> {
    let marked = mark
        .then_some(0xFEFF)
        .into_iter()
        .chain(text.encode_utf16());
    marked
        .flat_map(|unit| {
            if big {
                unit.to_be_bytes()
            } else {
                unit.to_le_bytes()
            }
        })
        .collect()
}

#[test]
fn one_mark_is_skipped_and_the_rest_is_as_it_was() {
    for (bytes, text) in [
        (&b""[..], Ok("")),
        (b"\xEF\xBB\xBF", Ok("")),
        (b"\xEF\xBB\xBFa\r\n", Ok("a\r\n")),
        // Anywhere else it is a character.
        (b"\xEF\xBB\xBF\xEF\xBB\xBFa", Ok("\u{FEFF}a")),
        (b"a\xEF\xBB\xBF", Ok("a\u{FEFF}")),
        (b"a\0", Ok("a\0")),
        (b"a\0\0\0", Ok("a\0\0\0")),
        (b"\0", Ok("\0")),
        (b"\xEF\xBB", Err("is not UTF-8 at byte 0")),
        (b"abc\xFF", Err("is not UTF-8 at byte 3")),
        (b"\xEF\xBB\xBFabc\xFF", Err("is not UTF-8 at byte 6")),
    ] {
        assert_eq!(decode(bytes), text.map_err(str::to_owned), "{bytes:?}");
    }
}

#[test]
fn utf_16_is_told_with_a_mark_and_without() {
    for (big, mark) in [(false, false), (false, true), (true, false), (true, true)] {
        for text in ["{\"a\": 1}", "[]", "hi", "日本"] {
            let bytes = utf16(text, big, mark);
            let is_told = mark || text.is_ascii();
            let problem = decode(&bytes).err().unwrap_or_default();
            assert_eq!(
                problem.contains("UTF-16"),
                is_told,
                "{text:?} {big} {mark}: {problem}"
            );
        }
    }
}

#[test]
fn files_are_read_whole_and_named_in_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, b"\xEF\xBB\xBFtext\r\n").unwrap();
    assert_eq!(read(&path).unwrap(), "text\r\n");
    std::fs::write(&path, utf16("text", false, true)).unwrap();
    assert_eq!(
        read(&path).unwrap_err().to_string(),
        format!(
            "{}: is UTF-16 text, expected UTF-8: save it as UTF-8",
            path.display()
        )
    );
    assert!(matches!(
        read(&folder.path().join("none")),
        Err(Error::Io { .. })
    ));
}

#[test]
fn one_final_newline_is_taken_off() {
    for (text, trimmed) in [
        ("a", "a"),
        ("a\n", "a"),
        ("a\r\n", "a"),
        ("a\n\n", "a\n"),
        ("a\r\n\r\n", "a\r\n"),
        ("a\r", "a\r"),
        ("\r\n", ""),
        ("\n\r", "\n\r"),
        ("", ""),
    ] {
        let mut found = text.to_owned();
        trim_final_newline(&mut found);
        assert_eq!(found, trimmed, "{text:?}");
    }
}

#[test]
fn a_text_without_an_end_is_refused() {
    let endless = std::io::repeat(b'a');
    let error = engine::text_file::read_from(endless, "endless".as_ref()).unwrap_err();
    assert!(error.to_string().contains("endless"), "{error}");
    assert!(
        error.to_string().contains("goes on beyond 67108864 bytes"),
        "{error}"
    );
}
