//! Files that are there whole or not at all, and in whose place nothing was that somebody needs.
//!
//! [`check_outputs`] is asked before any work that is to end in a file, [`write_whole`] writes it.
//! What the files hold is the business of those who write them.

use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::{Error, Result};

/// A kind of file that is written, and how one that is there is known again.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// With its article, as messages have it.
    pub name: &'static str,
    /// Whether this file is one.
    pub is: fn(&Path) -> bool,
}

/// What [`crate::trace_file`] writes.
pub const TRACE: Kind = kind("a trace", |path| is_record(path, "trace"));
/// What [`crate::replay::RouteTrace`] writes.
pub const ROUTES: Kind = kind("a record of routes", |path| is_record(path, "routes"));
/// What [`crate::replay::MaskTrace`] writes.
pub const MASKS: Kind = kind("a record of masks", |path| is_record(path, "masks"));
/// A conversation: a JSON list of messages, or an object with such a list.
pub const MESSAGES: Kind = kind("a conversation", is_messages);
/// A picture.
pub const SVG: Kind = kind("an SVG picture", |path| {
    let begin = begin_of(path, 512);
    let begin = String::from_utf8_lossy(&begin);
    begin.starts_with('<') && begin.contains("<svg")
});

const fn kind(name: &'static str, is: fn(&Path) -> bool) -> Kind {
    Kind { name, is }
}

/// No conversation or tokenizer is larger; what else may be there must not fill the memory.
pub const MAX_TEXT_BYTES: u64 = 256 << 20;

/// The first bytes of a file; none where it cannot be read.
pub fn begin_of(path: &Path, n_bytes: u64) -> Vec<u8> {
    let mut begin = Vec::new();
    let read = File::open(path).map(|file| file.take(n_bytes).read_to_end(&mut begin));
    if read.is_ok_and(|read| read.is_ok()) {
        begin
    } else {
        Vec::new()
    }
}

/// A part that is younger may have a writer who has not locked it yet.
const MIN_AGE: Duration = Duration::from_secs(60);

/// A file that a run is to write.
#[derive(Clone, Copy, Debug)]
pub struct Output<'a> {
    /// As the user named it.
    pub path: &'a Path,
    /// What it will hold.
    pub kind: Kind,
}

/// Refuses, before hours are spent on what would go into them, files whose writing would fail or
/// destroy something: those inside a model folder, those that are an `input` of the run (a folder
/// stands for the files in it) under any name, and those that are there. With `force` a file of the
/// same kind may be there, also behind a link; an empty one may always.
///
/// # Errors
/// The first output that is refused, in one sentence.
pub fn check_outputs(outputs: &[Output], inputs: &[&Path], force: bool) -> Result<()> {
    let mut places: Vec<PathBuf> = Vec::new();
    for output in outputs {
        let place = check_output(output, inputs, force)?;
        if places.contains(&place) {
            let problem = "it is to be written twice, expected a file for each record";
            return Err(refused(output.path, problem));
        }
        places.push(place);
    }
    Ok(())
}

/// The place that an output may take.
fn check_output(output: &Output, inputs: &[&Path], force: bool) -> Result<PathBuf> {
    let path = output.path;
    let is_plain = path.file_name().is_some() && !path.is_dir();
    let there = match std::fs::symlink_metadata(path) {
        Ok(there) if force && there.is_symlink() => std::fs::metadata(path).map(Some),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        there => there.map(Some),
    };
    let there = there.map_err(|error| Error::io(path, error))?;
    if !is_plain || there.as_ref().is_some_and(|there| !there.is_file()) {
        let problem = "expected a new file or a plain one, no device or link";
        return Err(refused(path, problem));
    }
    let place = match there {
        Some(_) => std::fs::canonicalize(path),
        None => std::fs::canonicalize(folder_of(path))
            .map(|folder| folder.join(path.file_name().unwrap_or_default())),
    };
    let place = place.map_err(|error| refused(path, format!("its folder: {error}")))?;
    if let Some(model) = model_folder(&place) {
        return Err(in_model(path, &model));
    }
    check_replaced(output, inputs, force)?;
    // The only way to know is to try.
    let (part, _) = part_beside(&place).map_err(|error| refused(path, error))?;
    std::fs::remove_file(&part).map_err(|error| Error::io(part, error))?;
    Ok(place)
}

/// Refuses a folder to write files into that is a model's, or lies in one.
///
/// # Errors
/// It is or does.
pub fn check_folder(folder: &Path) -> Result<()> {
    model_folder(folder).map_or(Ok(()), |model| Err(in_model(folder, &model)))
}

fn in_model(path: &Path, model: &Path) -> Error {
    let problem = format!("the model folder {} is left alone", model.display());
    refused(path, problem)
}

/// What [`check_outputs`] asks of a file that is there, if one is.
///
/// # Errors
/// It may not be replaced.
pub fn check_replaced(
    &Output { path, kind }: &Output,
    inputs: &[&Path],
    force: bool,
) -> Result<()> {
    let Ok(there) = std::fs::metadata(path) else {
        return Ok(());
    };
    let is_input = inputs.iter().any(|input| match std::fs::read_dir(input) {
        Ok(mut files) => files.any(|file| file.is_ok_and(|file| is_same_file(&file.path(), path))),
        Err(_) => is_same_file(input, path),
    });
    let problem = if is_input {
        "it is read by this run".into()
    } else if there.permissions().readonly() {
        "it is read-only".into()
    } else if there.len() == 0 {
        return Ok(());
    } else if !(kind.is)(path) {
        format!("there is a file that is not {}", kind.name)
    } else if !force {
        format!("there is {} already, which --force overwrites", kind.name)
    } else {
        return Ok(());
    };
    Err(refused(path, problem))
}

fn refused(path: &Path, problem: impl ToString) -> Error {
    Error::Output {
        path: path.into(),
        problem: problem.to_string(),
    }
}

fn folder_of(path: &Path) -> &Path {
    let folder = path.parent();
    folder
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// The model folder that `path`, which need not be there yet, is or lies in: one with a `config.json`
/// and weights.
pub fn model_folder(path: &Path) -> Option<PathBuf> {
    let known = path.ancestors().find_map(|path| {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        std::fs::canonicalize(path).ok()
    })?;
    let found = known.ancestors().find(|folder| holds_model(folder));
    found.map(Path::to_owned)
}

fn holds_model(folder: &Path) -> bool {
    let is_weights = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // Records of ours beside some other program's config.json make no model.
        name.ends_with(".safetensors.index.json")
            || name.ends_with(".safetensors") && record_kind(path).is_none()
    };
    folder.join("config.json").exists()
        && std::fs::read_dir(folder).is_ok_and(|mut files| {
            files.any(|file| file.is_ok_and(|file| is_weights(&file.path())))
        })
}

/// Whether two paths lead to one file, be it through links.
pub fn is_same_file(a: &Path, b: &Path) -> bool {
    #[cfg(unix)]
    let identity = |path: &Path| {
        use std::os::unix::fs::MetadataExt as _;
        let found = std::fs::metadata(path);
        found.map(|found| (found.dev(), found.ino())).ok()
    };
    // Hard links are told apart here.
    #[cfg(not(unix))]
    let identity = |path: &Path| std::fs::canonicalize(path).ok();
    identity(a).is_some_and(|a| identity(b) == Some(a))
}

/// The kind of record that a safetensors file of ours says it is.
fn record_kind(path: &Path) -> Option<String> {
    // A pipe would be waited for.
    let file = std::fs::metadata(path)
        .ok()?
        .is_file()
        .then(|| File::open(path));
    let mut file = file?.ok()?;
    let mut length = [0; 8];
    file.read_exact(&mut length).ok()?;
    // The format's own bound.
    let length = Some(u64::from_le_bytes(length)).filter(|&length| length <= 100_000_000)?;
    let mut header = Vec::new();
    file.take(length).read_to_end(&mut header).ok()?;
    let header: Value = serde_json::from_slice(&header).ok()?;
    let entry: Value = serde_json::from_str(header["__metadata__"]["sparsight"].as_str()?).ok()?;
    Some(entry["kind"].as_str()?.to_owned())
}

fn is_record(path: &Path, kind: &str) -> bool {
    record_kind(path).is_some_and(|found| found == kind)
}

fn is_messages(path: &Path) -> bool {
    let parsed: Value = serde_json::from_slice(&begin_of(path, MAX_TEXT_BYTES)).unwrap_or_default();
    let list = parsed.get("messages").unwrap_or(&parsed).as_array();
    list.is_some_and(|list| list.iter().all(|message| message.get("role").is_some()))
}

/// As [`write_whole_with`], of bytes that are there.
///
/// # Errors
/// See [`write_whole_with`].
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    write_whole_with(path, |out| out.write_all(bytes))
}

/// Has `write` fill a new file beside `path`, then renames it, so that a full disk or a kill leaves the
/// old file or none, never half of one. A link is followed, and permissions stay as they were.
///
/// # Errors
/// The folder or file cannot be written, `write` failed, or `path` is something other than a file,
/// which renaming would replace; the message names `path`.
pub fn write_whole_with(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<()> {
    let path = &std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let there = std::fs::metadata(path).ok();
    if there.as_ref().is_some_and(|there| !there.is_file()) {
        let problem = "is a device, pipe or folder, expected a file or nothing";
        return Err(Error::io(path, io::Error::other(problem)));
    }
    let (part, file) = part_beside(path).map_err(|error| Error::io(path, error))?;
    let fill = || {
        if let Some(there) = there {
            file.set_permissions(there.permissions())?;
        }
        let mut out = BufWriter::with_capacity(1 << 20, file);
        write(&mut out)?;
        let file = out.into_inner().map_err(|error| error.into_error())?;
        file.sync_all()?;
        drop(file);
        std::fs::rename(&part, path)
    };
    fill().map_err(|error| {
        // The first error is the one that matters.
        let _ = std::fs::remove_file(&part);
        Error::io(path, error)
    })
}

/// A new file in the folder of `path`, under a name that is short enough wherever `path` is.
fn part_beside(path: &Path) -> io::Result<(PathBuf, File)> {
    // Two threads must not share a part.
    static N_PARTS: AtomicU64 = AtomicU64::new(0);
    for file in std::fs::read_dir(folder_of(path))?.flatten() {
        let name = file.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(".sparsight.") && name.ends_with(".part") && is_left(&file.path()) {
            // Whoever else clears it away was quicker.
            let _ = std::fs::remove_file(file.path());
        }
    }
    loop {
        let n = N_PARTS.fetch_add(1, Ordering::Relaxed);
        let name = format!(".sparsight.{}.{n}.part", std::process::id());
        let part = folder_of(path).join(name);
        match File::create_new(&part) {
            // Of a killed process that had the same number.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            made => {
                let file = made?;
                // Where files cannot be locked, parts stay.
                let _ = file.try_lock();
                return Ok((part, file));
            }
        }
    }
}

/// Whether a part is that of a process which was killed: nobody holds it, nor is about to.
fn is_left(part: &Path) -> bool {
    let is_old = |file: &File| {
        let age = file.metadata().ok()?.modified().ok()?.elapsed().ok()?;
        Some(age > MIN_AGE)
    };
    let file = File::options().write(true).open(part);
    file.is_ok_and(|file| is_old(&file) == Some(true) && file.try_lock().is_ok())
}
