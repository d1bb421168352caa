//! Files that are there whole or not at all.

use std::io::Write as _;
use std::path::Path;

use crate::{Error, Result};

/// Writes `bytes` under a temporary name beside `path`, then renames, so that a full disk or a kill
/// leaves the old file or none, never half of one.
///
/// # Errors
/// The folder or file cannot be written; the message names `path`.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let part = path.with_file_name(name);
    let written = std::fs::File::create(&part)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&part, path));
    written.map_err(|error| {
        // The part may not exist; the first error is the one that matters.
        let _ = std::fs::remove_file(&part);
        Error::io(path, error)
    })
}
