//! A safetensors file as named columns, read from disk one at a time.
//!
//! The library wants all of a file in memory. Here only the header is, since a recording may take as much
//! as the memory allows.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use safetensors::Dtype;
use safetensors::tensor::Metadata;

/// As in the safetensors library: a header that claims more is an attack or a broken file.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// The columns of an open file.
pub(super) struct Columns {
    file: BufReader<File>,
    /// Where the data begins.
    start: u64,
    /// Type, first byte and length in bytes, from `start` on.
    entries: HashMap<String, (Dtype, u64, u64)>,
    description: String,
}

impl Columns {
    /// Opens a file and checks that its header accounts for every byte of it.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        ensure!(
            metadata.is_file(),
            "is a device, pipe or folder, expected a file"
        );
        let n_bytes = metadata.len();
        let mut file = BufReader::with_capacity(1 << 16, file);
        let mut length = [0; 8];
        file.read_exact(&mut length)
            .with_context(|| format!("holds {n_bytes} bytes, expected a safetensors file"))?;
        let length = u64::from_le_bytes(length);
        let max = MAX_HEADER_BYTES.min(n_bytes - 8);
        ensure!(
            length <= max,
            "is no safetensors file: its header claims {length} bytes of at most {max}"
        );
        let mut header = vec![0; length as usize];
        file.read_exact(&mut header)?;
        let header: Metadata =
            serde_json::from_slice(&header).context("is no safetensors file: damaged header")?;
        let start = 8 + length;
        let description = header.metadata().as_ref();
        let description = description
            .and_then(|entries| entries.get("sparsight"))
            .context("has no metadata entry \"sparsight\", expected a recording or a trace")?
            .clone();
        // The library has checked that each lies where its type and shape say, without gap or overlap.
        let entries: HashMap<_, _> = header
            .tensors()
            .into_iter()
            .map(|(name, info)| {
                let (first, end) = info.data_offsets;
                (name, (info.dtype, first as u64, (end - first) as u64))
            })
            .collect();
        let data_bytes: u64 = entries.values().map(|(_, _, n_bytes)| n_bytes).sum();
        let expected = start.saturating_add(data_bytes);
        ensure!(
            n_bytes == expected,
            "holds {n_bytes} bytes, expected {expected}"
        );
        Ok(Self {
            file,
            start,
            entries,
            description,
        })
    }

    /// The metadata entry `sparsight`.
    pub(super) fn description(&self) -> &str {
        &self.description
    }

    /// Goes to a column's first byte; its length in bytes.
    pub(super) fn find(&mut self, name: &str, dtype: Dtype) -> anyhow::Result<usize> {
        let Some(&(found, first, n_bytes)) = self.entries.get(name) else {
            bail!("has no column {name:?}");
        };
        ensure!(
            found == dtype,
            "column {name:?} is of type {found:?}, expected {dtype:?}"
        );
        self.file.seek(SeekFrom::Start(self.start + first))?;
        Ok(usize::try_from(n_bytes)?)
    }

    /// The next bytes of the column that was found last.
    pub(super) fn next(&mut self, n_bytes: usize) -> anyhow::Result<Vec<u8>> {
        let mut bytes = vec![0; n_bytes];
        self.file.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// A whole column of bytes.
    pub(super) fn bytes(&mut self, name: &str) -> anyhow::Result<Vec<u8>> {
        let n_bytes = self.find(name, Dtype::U8)?;
        self.next(n_bytes)
    }

    /// A whole column of integers.
    pub(super) fn words(&mut self, name: &str) -> anyhow::Result<Vec<u32>> {
        let n_bytes = self.find(name, Dtype::U32)?;
        self.next_words(n_bytes / 4)
    }

    /// A whole column of floats.
    pub(super) fn floats(&mut self, name: &str) -> anyhow::Result<Vec<f32>> {
        let n_bytes = self.find(name, Dtype::F32)?;
        self.next_floats(n_bytes / 4)
    }

    /// A whole column of doubles.
    pub(super) fn doubles(&mut self, name: &str) -> anyhow::Result<Vec<f64>> {
        let n_bytes = self.find(name, Dtype::F64)?;
        let bytes = self.next(n_bytes)?;
        Ok(bytes
            .as_chunks()
            .0
            .iter()
            .copied()
            .map(f64::from_le_bytes)
            .collect())
    }

    /// The next integers of the column that was found last.
    pub(super) fn next_words(&mut self, n: usize) -> anyhow::Result<Vec<u32>> {
        let bytes = self.next(4 * n)?;
        Ok(bytes
            .as_chunks()
            .0
            .iter()
            .copied()
            .map(u32::from_le_bytes)
            .collect())
    }

    /// The next floats of the column that was found last.
    pub(super) fn next_floats(&mut self, n: usize) -> anyhow::Result<Vec<f32>> {
        let bytes = self.next(4 * n)?;
        Ok(bytes
            .as_chunks()
            .0
            .iter()
            .copied()
            .map(f32::from_le_bytes)
            .collect())
    }
}
