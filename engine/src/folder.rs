//! What is in a place that was to be a checkpoint's folder and is not: one sentence that names it and
//! says what to do.
//!
//! Looked at only after something failed, so that no good folder is read twice. What the tensors of a
//! checkpoint give away is the business of [`crate::checkpoint`].

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::checkpoint::SINGLE;

const CONFIG: &str = "config.json";

/// First bytes of files that stand in another's place.
const IMPOSTORS: &[(&str, &str)] = &[
    (
        "version https://git-lfs",
        "is a Git LFS pointer, not the file it stands for: run `git lfs pull` in its folder, or download the file itself",
    ),
    (
        "GGUF",
        "is a GGUF file, which this engine does not read: take the model's safetensors",
    ),
    (
        "PK\u{3}\u{4}",
        "is a file of PyTorch or a ZIP archive, expected what its name says",
    ),
    ("<!DOCTYPE", "is a web page: download the file itself"),
    ("<html", "is a web page: download the file itself"),
];

const UNFINISHED: &str = "the download is unfinished: run it again";
const TORCH: &str =
    "files of PyTorch are not read: load them with transformers and save_pretrained";

/// Part and end of the name of a file that holds weights in another form, the telling ones first, and
/// what to do.
const OTHER_FORMS: &[(&str, &str, &str)] = &[
    ("", ".crdownload", UNFINISHED),
    ("", ".aria2", UNFINISHED),
    ("", ".part", UNFINISHED),
    (
        "adapter_model.",
        "",
        "an adapter (LoRA) alone is no model: merge it into its base and save that",
    ),
    (
        "-of-",
        ".safetensors",
        "shards without their index: download model.safetensors.index.json as well",
    ),
    (
        "-mp",
        ".safetensors",
        "the output of DeepSeek's convert.py: take the folder as published on Hugging Face",
    ),
    (
        "consolidated.",
        "",
        "the form of Mistral's and Meta's own code: take that of Hugging Face",
    ),
    (
        "",
        ".safetensors",
        "expected it under the name model.safetensors",
    ),
    (
        "",
        ".gguf",
        "GGUF is not read: take the model's safetensors",
    ),
    ("", ".bin", TORCH),
    ("", ".pth", TORCH),
    ("", ".pt", TORCH),
];

/// In place of an error of opening something in `folder`: what is wrong there, where that can be told.
pub(crate) fn explain(folder: &Path, error: Error) -> Error {
    let (Error::Io { path, .. } | Error::BadFile { path, .. }) = &error else {
        return error;
    };
    let (path, problem) = if let Some(problem) = no_folder(folder) {
        (folder.to_owned(), problem)
    } else if let Some(problem) = impostor(path) {
        (path.clone(), problem)
    } else if *path == folder.join(CONFIG) && !path.exists() {
        (folder.to_owned(), no_config(folder))
    } else {
        return error;
    };
    Error::BadFile { path, problem }
}

/// What is at `path` in place of a file: a link that leads nowhere, or a file of another kind.
pub(crate) fn impostor(path: &Path) -> Option<String> {
    if let Some(target) = broken_link(path) {
        return Some(target);
    }
    let mut start = Vec::new();
    if !path.is_file() {
        return None;
    }
    File::open(path)
        .ok()?
        .take(32)
        .read_to_end(&mut start)
        .ok()?;
    let found = IMPOSTORS
        .iter()
        .find(|(magic, _)| start.starts_with(magic.as_bytes()));
    found.map(|(_, what)| (*what).into())
}

fn broken_link(path: &Path) -> Option<String> {
    let target = fs::read_link(path).ok().filter(|_| !path.exists())?;
    Some(format!(
        "is a link to {}, which is not there: download or copy what it stands for",
        target.display()
    ))
}

/// Why `path` is no folder.
fn no_folder(path: &Path) -> Option<String> {
    if path.is_dir() {
        return None;
    }
    if path.exists() {
        let what = impostor(path).unwrap_or_else(|| {
            let parent = path.parent().filter(|parent| parent.join(CONFIG).exists());
            let give = parent.map_or(String::new(), |parent| {
                format!(": give {}", parent.display())
            });
            format!("is a file, expected the folder with {CONFIG} and its weights{give}")
        });
        return Some(what);
    }
    if let Some(link) = broken_link(path) {
        return Some(link);
    }
    let name = path.to_str().unwrap_or_default();
    let word = |part: &str| {
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        part.starts_with(|c: char| c.is_ascii_alphanumeric()) && part.chars().all(fits)
    };
    let is_id = name.split('/').count() == 2 && name.split('/').all(word);
    Some(if is_id || name.contains("://") {
        let id = name
            .trim_end_matches('/')
            .split("huggingface.co/")
            .last()
            .unwrap_or(name);
        format!(
            "is no folder here, but looks like a model on Hugging Face: download it, say with `hf download {id} --local-dir FOLDER`, and give that folder"
        )
    } else {
        "is not there, expected the folder of a checkpoint".into()
    })
}

/// Why `folder` has no config.
fn no_config(folder: &Path) -> String {
    let with_config = |folder: &Path| -> Vec<PathBuf> {
        let inside = names(folder).into_iter().map(|name| folder.join(name));
        inside.filter(|path| path.join(CONFIG).exists()).collect()
    };
    let snapshots = folder.join("snapshots");
    let (what, found) = if snapshots.is_dir() {
        let newest = fs::read_to_string(folder.join("refs/main")).unwrap_or_default();
        let mut found = with_config(&snapshots);
        found.sort_by_key(|path| !path.ends_with(newest.trim()));
        ("is the root of a repository in Hugging Face's cache", found)
    } else {
        ("holds no config.json", with_config(folder))
    };
    match found.first() {
        Some(path) => format!("{what}, but {} does: give that", path.display()),
        None => {
            let form = other_form(folder).map_or(String::new(), |form| format!("; {form}"));
            format!("{what}, expected the folder of a checkpoint{form}")
        }
    }
}

/// What `folder` holds in place of weights as they are read.
pub(crate) fn other_form(folder: &Path) -> Option<String> {
    if let Some(what) = unfinished(folder) {
        return Some(what);
    }
    let names = names(folder);
    OTHER_FORMS.iter().find_map(|(part, end, what)| {
        let is_form = |name: &&String| {
            let known = name.as_str() == SINGLE || name.ends_with(".json");
            name.contains(part) && name.ends_with(end) && !known
        };
        let mut found = names.iter().filter(is_form);
        let first = found.next()?;
        let more = match found.count() {
            0 => String::new(),
            n => format!(" and {n} more"),
        };
        Some(format!("it holds {first}{more}: {what}"))
    })
}

/// What `folder` holds of files that are not there yet: links that lead nowhere, or parts of a
/// download: beside the others, where `hf download` keeps them, or in the cache that a snapshot
/// links to.
pub(crate) fn unfinished(folder: &Path) -> Option<String> {
    let broken = |name: String| Some(format!("{name} {}", broken_link(&folder.join(&name))?));
    names(folder).into_iter().find_map(broken).or_else(|| {
        let places = ["", ".cache/huggingface/download", "../../blobs", "blobs"];
        let mut parts = places.iter().flat_map(|place| names(&folder.join(place)));
        let part = parts.find(|name| name.ends_with(".incomplete"))?;
        Some(format!("it holds {part}: {UNFINISHED}"))
    })
}

/// Names in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}
