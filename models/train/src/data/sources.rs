//! Real texts: which files there are, whether they are the right ones, and what is taken from them.
//!
//! Nothing is downloaded. The files are put into one folder by hand; each is checked by its SHA-256,
//! since other texts would make another model.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::parse;
use super::talk::Turn;
use crate::{Error, Result};

/// A file with real text.
#[derive(Debug)]
pub struct SourceFile {
    /// The kind of text it is for.
    pub kind: &'static str,
    /// Where it is expected, from the folder.
    pub path: &'static str,
    /// Under what terms it can be used.
    pub licence: &'static str,
    /// Where it is from.
    pub origin: &'static str,
    /// Its length.
    pub bytes: u64,
    /// Its checksum, in hexadecimal digits.
    pub sha256: &'static str,
}

/// Every file with real text.
pub const FILES: &[SourceFile] = &[
    SourceFile {
        kind: "children",
        path: "children.txt",
        licence: "CC BY 4.0",
        origin: "Pratham Books StoryWeaver and African Storybook, stories marked CC-BY",
        bytes: 1_361_411,
        sha256: "748f3bb3a442f83c8b6308c3b4fcfa2c4b4f3d4e58953593aa982a1091e5b529",
    },
    SourceFile {
        kind: "tales",
        path: "tales.txt",
        licence: "text in the public domain (US), edition CC0",
        origin: "Standard Ebooks, ten books for children and others",
        bytes: 3_699_564,
        sha256: "74c122cc182bede9b4759fb2b28ca6f5d17a3951bf166847b594d8fde458b92e",
    },
    SourceFile {
        kind: "gsm8k",
        path: "gsm8k_train.jsonl",
        licence: "MIT",
        origin: "openai/grade-school-math",
        bytes: 4_166_206,
        sha256: "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465",
    },
    SourceFile {
        kind: "chitchat",
        path: "chitchat/dataset.json",
        licence: "MIT",
        origin: "Python package chitchat-dataset 0.9.0",
        bytes: 40_303_934,
        sha256: "d2a5d0bf6acf354fef51f3af39cbece2220d3b8f6086b658c3d335105798312a",
    },
    SourceFile {
        kind: "pairs",
        path: "chatterbot/english/greetings.yml",
        licence: "BSD-3-Clause",
        origin: "Python package chatterbot-corpus 1.3.3",
        bytes: 1_035,
        sha256: "0dd7eb8dcee8e2a38cd1a137bcfbd7f3eb732cddfa1bd396fac5a24b063a4d55",
    },
    SourceFile {
        kind: "pairs",
        path: "chatterbot/english/conversations.yml",
        licence: "BSD-3-Clause",
        origin: "Python package chatterbot-corpus 1.3.3",
        bytes: 4_682,
        sha256: "1cf105b5802f377b2dc145f741f7df85629c9ca27e450538165286a75b5e3416",
    },
    SourceFile {
        kind: "pairs",
        path: "chatterbot/english/emotion.yml",
        licence: "BSD-3-Clause",
        origin: "Python package chatterbot-corpus 1.3.3",
        bytes: 10_337,
        sha256: "510a018938c1880dd0f67e1ae458e26878c91a570daef5a84fb83713c89f0989",
    },
    SourceFile {
        kind: "pairs",
        path: "chatterbot/english/food.yml",
        licence: "BSD-3-Clause",
        origin: "Python package chatterbot-corpus 1.3.3",
        bytes: 1_266,
        sha256: "68eab2497721d03044d520b70c27d8a0d8ba8e505b3265fb3a1ff3e1a64c7124",
    },
];

/// One document of a real text.
pub(super) enum Real {
    Text(String),
    Talk(Vec<Turn>),
}

/// The documents of a kind; `None` if none of its files is in the folder.
///
/// # Errors
/// [`Error::Checksum`] if a file is another one, [`Error::NoSource`] if some files of the kind are
/// there and others are not, [`Error::Io`] if one cannot be read.
pub(super) fn read(kind: &'static str, folder: &Path) -> Result<Option<Vec<Real>>> {
    let files: Vec<&SourceFile> = FILES.iter().filter(|file| file.kind == kind).collect();
    let missing = missing(&files, folder);
    if missing.len() == files.len() {
        return Ok(None);
    }
    if !missing.is_empty() {
        return Err(no_source(kind, Some(folder)));
    }
    let mut documents = Vec::new();
    for file in files {
        let (path, text) = checked(file, folder)?;
        let found = match kind {
            "gsm8k" => parse::gsm8k(&text),
            "chitchat" => parse::chitchat(&text),
            "pairs" => parse::pairs(&text),
            _ => Ok(parse::paragraphs(&text)),
        };
        documents.extend(found.map_err(|problem| Error::BadFile { path, problem })?);
    }
    Ok(Some(documents))
}

fn missing(files: &[&SourceFile], folder: &Path) -> Vec<&'static str> {
    let missing = files.iter().filter(|file| !folder.join(file.path).exists());
    missing.map(|file| file.path).collect()
}

/// That a kind's files are not there.
pub(super) fn no_source(kind: &'static str, folder: Option<&Path>) -> Error {
    let files: Vec<&SourceFile> = FILES.iter().filter(|file| file.kind == kind).collect();
    let missing = match folder {
        Some(folder) => missing(&files, folder),
        None => files.iter().map(|file| file.path).collect(),
    };
    let place = match folder {
        Some(folder) => format!("in {}", folder.display()),
        None => "in a folder of real texts, of which none was given".to_owned(),
    };
    Error::NoSource {
        kind,
        missing: missing.join(", "),
        place,
    }
}

fn checked(file: &SourceFile, folder: &Path) -> Result<(PathBuf, String)> {
    let path = folder.join(file.path);
    let bytes = std::fs::read(&path).map_err(|error| Error::io(&path, error))?;
    let digest = Sha256::digest(&bytes);
    let found: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    if found != file.sha256 {
        return Err(Error::Checksum {
            path,
            found_bytes: bytes.len() as u64,
            found,
            expected_bytes: file.bytes,
            expected: file.sha256,
        });
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok((path, text)),
        Err(error) => Err(Error::BadFile {
            path,
            problem: format!("is no UTF-8: {error}"),
        }),
    }
}
