//! The tensors of a checkpoint: one safetensors file, or shards with an index, memory-mapped, or bytes
//! of the program itself.
//!
//! Nothing is copied. Headers are checked as a whole, so that every [`StoredTensor`] lies within
//! its file and is as long as its shape says. Which tensors a model needs is the business of
//! [`crate::config`], expanding them that of the bodies.

mod cause;
mod finite;
mod fit;
mod header;
mod mapped;
mod names;
mod shards;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::{ControlFlow, Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::Dtype;

use crate::config::Config;
use crate::folder;
use crate::source::Embedded;
use crate::{Error, Result};

/// The name of a checkpoint in one file.
pub(crate) const SINGLE: &str = "model.safetensors";

/// The name of the list of tensors and the shards that hold them.
const INDEX: &str = "model.safetensors.index.json";

/// The tensors of a checkpoint.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    tensors: BTreeMap<String, StoredTensor>,
    /// The file that was read: the one with the tensors, or the index.
    path: PathBuf,
}

/// A tensor as stored: bytes of a file, which stay mapped as long as it lives, or of the program.
#[derive(Clone, Debug)]
pub struct StoredTensor {
    /// Type of the elements.
    pub dtype: StoredType,
    /// Shape, row-major.
    pub shape: Vec<usize>,
    file: Backing,
    range: Range<usize>,
}

/// The bytes of a safetensors file.
#[derive(Clone)]
enum Backing {
    Mapped(Arc<mapped::Mapped>),
    Static(&'static [u8]),
}

impl Deref for Backing {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Static(bytes) => bytes,
        }
    }
}

impl std::fmt::Debug for Backing {
    /// Without the bytes, which are megabytes.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = match self {
            Self::Mapped(_) => "mapped",
            Self::Static(_) => "static",
        };
        write!(f, "{} {what} bytes", self.len())
    }
}

/// Type of the elements of a stored tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an `f32`.
    BF16,
    /// FP8 with 4 exponent and 3 mantissa bits, no infinities.
    F8E4M3,
    /// A power of two in 8 bits, for the factors of FP8 blocks.
    F8E8M0,
    /// Any other type of safetensors. No weight may be stored so.
    Other(Dtype),
}

/// How far [`Checkpoint::check_finite`] has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes read.
    pub bytes_done: u64,
    /// Bytes in all.
    pub bytes_total: u64,
    /// Tensors read to their end.
    pub tensors_done: usize,
    /// Tensors in all.
    pub tensors_total: usize,
}

impl Checkpoint {
    /// Maps `model.safetensors`, or else every shard that `model.safetensors.index.json` names.
    ///
    /// # Errors
    /// Neither file is there; shards are missing, all of them named; a file that does not hold
    /// together; or a tensor that the index names and the shard lacks, or that two shards hold.
    pub fn open(folder: &Path) -> Result<Self> {
        let (single, index) = (folder.join(SINGLE), folder.join(INDEX));
        let opened = if single.exists() {
            read_file(&single).and_then(|tensors| Self::of(tensors, single))
        } else if index.exists() {
            shards::open(folder, &index)
        } else {
            let form = folder::other_form(folder).map_or(String::new(), |form| format!("; {form}"));
            Err(Error::BadFile {
                path: folder.into(),
                problem: format!("holds neither {SINGLE} nor {INDEX}, expected one of them{form}"),
            })
        };
        opened.map_err(|error| folder::explain(folder, error))
    }

    /// The tensors of a model in the program, without a copy.
    ///
    /// # Errors
    /// The bytes do not hold together as a safetensors file.
    pub fn from_static(files: &Embedded) -> Result<Self> {
        let path = Embedded::name(SINGLE);
        Self::of(read_tensors(&path, Backing::Static(files.weights))?, path)
    }

    /// These tensors, read from `path`, under the names of the table.
    fn of(mut tensors: BTreeMap<String, StoredTensor>, path: PathBuf) -> Result<Self> {
        match names::canonical(&mut tensors) {
            Ok(()) => Ok(Self { tensors, path }),
            Err(problem) => Err(Error::BadFile { path, problem }),
        }
    }

    /// Whether the folder holds weights, good or bad.
    pub(crate) fn is_in(folder: &Path) -> bool {
        [SINGLE, INDEX]
            .iter()
            .any(|file| folder.join(file).exists())
    }

    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<&StoredTensor> {
        self.tensors.get(name)
    }

    /// All tensors, sorted by name.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &StoredTensor)> {
        self.tensors
            .iter()
            .map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Bytes of all tensors.
    pub fn n_bytes(&self) -> u64 {
        self.tensors
            .values()
            .map(|tensor| tensor.range.len() as u64)
            .sum()
    }

    /// The tensor of that name, of a checkpoint that was found to fit its config.
    ///
    /// # Errors
    /// [`Error::Misfit`]: there is none.
    pub(crate) fn need(&self, name: &str) -> Result<&StoredTensor> {
        self.get(name).ok_or_else(|| Error::missing(name))
    }

    /// Checks names, shapes and types of all tensors against `config`. What is stored and not used, as
    /// MTP layers that the config does not count, is taken out; the answer is a sentence on each.
    ///
    /// # Errors
    /// One sentence where the cause is known, a packer that is not done, say; else [`Error::Misfit`]
    /// with what is missing, surplus, misshapen or of a type that cannot be used, a line a kind.
    pub fn fit(&mut self, config: &Config) -> Result<Vec<String>> {
        let notes = fit::pass_over(self, config)?;
        let problems = fit::problems(self, config);
        let foreign = config.foreign_quantization.as_ref();
        let other_blocks = foreign.is_some_and(|foreign| foreign.has_other_blocks);
        if problems.len() == 0 && !(other_blocks && self.has_fp8()) {
            return Ok(notes);
        }
        let mut lines = problems.lines();
        if let Some(index) = self.other_index() {
            lines.push(format!(
                "{}, which lies beside it, is not read",
                index.display()
            ));
        }
        let path = self.path.clone();
        Err(match cause::of(self, config, problems.len()) {
            Some(problem) => Error::BadFile { path, problem },
            None => Error::Misfit {
                path,
                n_tensors: problems.len(),
                problems: lines,
            },
        })
    }

    fn has_fp8(&self) -> bool {
        let mut tensors = self.tensors.values();
        tensors.any(|tensor| tensor.dtype == StoredType::F8E4M3)
    }

    /// The index that lies unread beside the single file.
    fn other_index(&self) -> Option<PathBuf> {
        let index = self.path.with_file_name(INDEX);
        (self.path.ends_with(SINGLE) && index.exists()).then_some(index)
    }

    /// Whether the checkpoint brought the MTP layer that `config` speaks of. A checkpoint that fits
    /// holds it whole or not at all.
    pub fn has_mtp(&self, config: &Config) -> bool {
        if config.num_nextn_predict_layers == 0 {
            return false;
        }
        let prefix = format!("model.layers.{}.", config.num_hidden_layers);
        let from_there = self.tensors.range(prefix.clone()..);
        let mut names = from_there
            .map(|(name, _)| name)
            .take_while(|name| name.starts_with(&prefix));
        names.any(|name| !fit::is_tolerated(name))
    }

    /// Reads every weight once and looks for NaN and infinity, on all threads. `progress` is called
    /// often and may break off; then the result is `false`.
    ///
    /// # Errors
    /// [`Error::NotFinite`] with the first bad element of a tensor.
    pub fn check_finite(
        &self,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<bool> {
        finite::check(&self.tensors, progress)
    }
}

impl StoredTensor {
    /// The bytes, little-endian and row-major. They may start at any address.
    pub fn bytes(&self) -> &[u8] {
        &self.file[self.range.clone()]
    }

    /// A part of its bytes as a tensor of this shape.
    pub(crate) fn part(&self, bytes: Range<usize>, shape: [usize; 2]) -> Self {
        assert!(
            bytes.end <= self.range.len(),
            "a part lies within the whole"
        );
        Self {
            dtype: self.dtype,
            shape: shape.to_vec(),
            file: self.file.clone(),
            range: self.range.start + bytes.start..self.range.start + bytes.end,
        }
    }
}

impl StoredType {
    /// Bits of an element.
    pub fn bits(self) -> usize {
        match self {
            Self::F32 => 32,
            Self::F16 | Self::BF16 => 16,
            Self::F8E4M3 | Self::F8E8M0 => 8,
            Self::Other(dtype) => dtype.bitsize(),
        }
    }
}

impl From<Dtype> for StoredType {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::F16 => Self::F16,
            Dtype::BF16 => Self::BF16,
            Dtype::F8_E4M3 => Self::F8E4M3,
            Dtype::F8_E8M0 => Self::F8E8M0,
            other => Self::Other(other),
        }
    }
}

impl std::fmt::Display for StoredType {
    /// The name in safetensors headers.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::F32 => f.write_str("F32"),
            Self::F16 => f.write_str("F16"),
            Self::BF16 => f.write_str("BF16"),
            Self::F8E4M3 => f.write_str("F8_E4M3"),
            Self::F8E8M0 => f.write_str("F8_E8M0"),
            Self::Other(dtype) => dtype.fmt(f),
        }
    }
}

/// Maps one safetensors file.
fn read_file(path: &Path) -> Result<BTreeMap<String, StoredTensor>> {
    // Before opening: opening a pipe would wait for somebody to write.
    let metadata = std::fs::metadata(path).map_err(|error| Error::io(path, error))?;
    if !metadata.is_file() {
        return Err(Error::BadFile {
            path: path.into(),
            problem: "is not a regular file".into(),
        });
    }
    let file = File::open(path).map_err(|error| Error::io(path, error))?;
    let map = mapped::Mapped::new(&file, path).map_err(|error| Error::io(path, error))?;
    read_tensors(path, Backing::Mapped(Arc::new(map)))
}

/// The tensors of a safetensors file of that name.
fn read_tensors(path: &Path, file: Backing) -> Result<BTreeMap<String, StoredTensor>> {
    let entries = header::read(&file).map_err(|problem| Error::BadFile {
        path: path.into(),
        problem,
    })?;
    let stored = entries.into_iter().map(|entry| {
        let header::Entry {
            name,
            dtype,
            shape,
            range,
        } = entry;
        (
            name,
            StoredTensor {
                dtype,
                shape,
                file: file.clone(),
                range,
            },
        )
    });
    Ok(stored.collect())
}
