//! Text and JSON files as other systems write them: with a byte order mark, with CRLF, as UTF-16.
//!
//! Every text that comes from a file or a pipe goes through [`decode`]. Writing is the business of
//! [`crate::file`], what a text says that of its reader.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::{Error, Result};

/// The text of a file's bytes, without the byte order mark that some editors begin UTF-8 with.
///
/// # Errors
/// UTF-16, or no text at all, in words that follow the name of the file.
pub fn decode(bytes: &[u8]) -> std::result::Result<&str, String> {
    let is_utf16 = match bytes {
        [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] => true,
        // Without a mark: every other byte of plain letters is zero.
        [a, 0, b, 0, ..] | [0, a, 0, b, ..] => *a != 0 && *b != 0,
        _ => false,
    };
    if is_utf16 {
        return Err("is UTF-16 text, expected UTF-8: save it as UTF-8".into());
    }
    let text = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    std::str::from_utf8(text).map_err(|error| {
        let at = bytes.len() - text.len() + error.valid_up_to();
        format!("is not UTF-8 at byte {at}")
    })
}

/// No text that anything here takes is longer: the largest context of all models has some megabytes.
const MAX_TEXT_BYTES: u64 = 64 << 20;

/// All of a reader's text, decoded; `name` is what an error calls it.
///
/// # Errors
/// It cannot be read, goes on without an end, or [`decode`] refuses it.
pub fn read_from(reader: impl Read, name: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    let read = reader.take(MAX_TEXT_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|error| Error::io(name, error))?;
    if bytes.len() as u64 > MAX_TEXT_BYTES {
        let problem =
            format!("goes on beyond {MAX_TEXT_BYTES} bytes, expected a text of at most that");
        return Err(bad(name, problem));
    }
    decode(&bytes)
        .map(str::to_owned)
        .map_err(|problem| bad(name, problem))
}

/// The text of a file; a pipe will do.
///
/// # Errors
/// As [`read_from`].
pub fn read(path: &Path) -> Result<String> {
    let file = File::open(path).map_err(|error| Error::io(path, error))?;
    read_from(file, path)
}

/// The text of a plain file of at most so many bytes.
///
/// # Errors
/// As [`read`]; something other than a plain file, or a longer one.
pub(crate) fn read_short(path: &Path, max_bytes: u64) -> Result<String> {
    // Before opening: opening a pipe would wait for somebody to write.
    let metadata = std::fs::metadata(path).map_err(|error| Error::io(path, error))?;
    if !metadata.is_file() {
        return Err(bad(path, "is not a regular file".into()));
    }
    check_length(metadata.len(), max_bytes).map_err(|problem| bad(path, problem))?;
    let file = File::open(path).map_err(|error| Error::io(path, error))?;
    read_from(file.take(max_bytes), path)
}

/// Refuses more bytes than a file of its kind has, in words that follow its name.
pub(crate) fn check_length(n_bytes: u64, max_bytes: u64) -> std::result::Result<(), String> {
    if n_bytes > max_bytes {
        return Err(format!(
            "holds {n_bytes} bytes, expected at most {max_bytes}"
        ));
    }
    Ok(())
}

/// Takes off the end of the last line, LF or CRLF, that an editor or `echo` adds.
pub fn trim_final_newline(text: &mut String) {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
}

fn bad(path: &Path, problem: String) -> Error {
    Error::BadFile {
        path: path.into(),
        problem,
    }
}
