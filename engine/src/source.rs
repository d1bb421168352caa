//! Where the files of a checkpoint are: in a folder, or in the program itself.
//!
//! Both go through the same checks. What the files hold is the business of [`crate::config`],
//! [`crate::generation_config`], [`crate::checkpoint`] and [`crate::tokenizer`].

use std::fmt;
use std::path::{Path, PathBuf};

use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::tokenizer::Tokenizer;
use crate::{Error, Result, folder};

const TOKENIZER: &str = "tokenizer.json";

/// The files of a checkpoint that is a part of the program, whole and as they would be in a folder.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Embedded {
    /// `config.json`.
    pub config: &'static [u8],
    /// `generation_config.json`; `{}` says as much as no such file.
    pub generation_config: &'static [u8],
    /// `tokenizer.json`.
    pub tokenizer: &'static [u8],
    /// `model.safetensors`.
    pub weights: &'static [u8],
}

impl fmt::Debug for Embedded {
    /// Without the bytes, which are megabytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Embedded of {} bytes of weights", self.weights.len())
    }
}

impl Embedded {
    /// What stands in messages in place of a file's path.
    pub(crate) fn name(file: &str) -> PathBuf {
        format!("embedded {file}").into()
    }
}

/// Where the files of a checkpoint are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// In this folder.
    Folder(PathBuf),
    /// In the program.
    Embedded(&'static Embedded),
}

impl Source {
    /// The folder, if they are in one.
    pub fn folder(&self) -> Option<&Path> {
        match self {
            Self::Folder(folder) => Some(folder),
            Self::Embedded(_) => None,
        }
    }

    /// The checked `config.json`.
    ///
    /// # Errors
    /// See [`Config::open`].
    pub fn config(&self) -> Result<Config> {
        match self {
            Self::Folder(folder) => Config::open(folder),
            Self::Embedded(files) => Config::embedded(files),
        }
    }

    /// The tensors.
    ///
    /// # Errors
    /// See [`Checkpoint::open`].
    pub fn checkpoint(&self) -> Result<Checkpoint> {
        match self {
            Self::Folder(folder) => Checkpoint::open(folder),
            Self::Embedded(files) => Checkpoint::from_static(files),
        }
    }

    /// The tokenizer; `None` if the folder holds none.
    ///
    /// # Errors
    /// See [`Tokenizer::open`].
    pub fn tokenizer(&self) -> Result<Option<Tokenizer>> {
        match self {
            Self::Folder(folder) => {
                let opened = Tokenizer::open_in(folder);
                let path = folder.join(TOKENIZER);
                match (opened, folder::impostor(&path)) {
                    (Err(_) | Ok(None), Some(problem)) => Err(Error::BadFile { path, problem }),
                    (opened, _) => opened,
                }
            }
            Self::Embedded(files) => {
                let tokenizer = Tokenizer::from_bytes(files.tokenizer);
                let name = Embedded::name(TOKENIZER);
                tokenizer
                    .map(Some)
                    .map_err(|problem| Error::Tokenizer(format!("{}: {problem}", name.display())))
            }
        }
    }

    /// Whether there is a tokenizer, good or bad.
    pub fn has_tokenizer(&self) -> bool {
        match self {
            Self::Folder(folder) => folder.join(TOKENIZER).exists(),
            Self::Embedded(_) => true,
        }
    }

    /// What to say where text is wanted and there is no tokenizer.
    pub fn no_tokenizer(&self) -> String {
        let Self::Folder(folder) = self else {
            unreachable!("the model inside has its tokenizer");
        };
        let others = ["tiktoken.model", "tokenizer.model", "vocab.json"];
        let other = others.into_iter().find(|name| folder.join(name).exists());
        let but = other.map_or(String::new(), |name| {
            format!(", but {name}, which is of another kind: take or make a tokenizer.json of it")
        });
        format!("{} holds no {TOKENIZER}{but}", folder.display())
    }

    /// Whether there are weights; a folder with a config alone is enough to plan with.
    pub fn has_weights(&self) -> bool {
        match self {
            Self::Folder(folder) => Checkpoint::is_in(folder),
            Self::Embedded(_) => true,
        }
    }
}

impl From<&Path> for Source {
    fn from(folder: &Path) -> Self {
        Self::Folder(folder.into())
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(folder) => folder.display().fmt(f),
            Self::Embedded(_) => f.write_str("embedded model"),
        }
    }
}
