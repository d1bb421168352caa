//! The safetensors files of both traces: metadata, names and types, checked before anything is read.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use safetensors::{Dtype, SafeTensorError, SafeTensors, View};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Error, Result, file};

/// Version of both file layouts.
pub(super) const VERSION: u32 = 1;

/// The only entry of the metadata.
pub(super) const METADATA_KEY: &str = "sparsight";

/// A tensor whose bytes are made when the file is put together, so that only that holds them twice.
pub(super) struct Column<'a> {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Box<dyn Fn() -> Vec<u8> + 'a>,
}

impl<'a> Column<'a> {
    pub(super) fn new(dtype: Dtype, shape: Vec<usize>, bytes: impl Fn() -> Vec<u8> + 'a) -> Self {
        Self {
            dtype,
            shape,
            bytes: Box::new(bytes),
        }
    }
}

impl View for Column<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        (self.bytes)().into()
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.bitsize() / 8
    }
}

pub(super) fn write(
    path: &Path,
    header: &impl Serialize,
    columns: Vec<(String, Column)>,
) -> Result<()> {
    let header = serde_json::to_string(header).expect("numbers and lists of them are always JSON");
    let metadata = HashMap::from([(METADATA_KEY.to_string(), header)]);
    let bytes =
        safetensors::serialize(columns, Some(metadata)).map_err(|error| Error::BadFile {
            path: path.into(),
            problem: error.to_string(),
        })?;
    file::write_whole(path, &bytes)
}

/// A safetensors file whose kind and version are right.
pub(super) struct TraceFile<'a> {
    path: &'a Path,
    header: serde_json::Value,
    tensors: SafeTensors<'a>,
}

impl<'a> TraceFile<'a> {
    pub(super) fn parse(path: &'a Path, bytes: &'a [u8], kind: &str) -> Result<Self> {
        let bad = |problem: String| Error::BadFile {
            path: path.into(),
            problem,
        };
        let broken = |error: SafeTensorError| {
            bad(format!(
                "{} bytes that are no whole safetensors file: {error}",
                bytes.len()
            ))
        };
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(broken)?;
        let entry = metadata
            .metadata()
            .as_ref()
            .and_then(|entries| entries.get(METADATA_KEY));
        let Some(entry) = entry else {
            return Err(bad(format!(
                "no metadata entry {METADATA_KEY:?}, expected one"
            )));
        };
        let header: serde_json::Value = serde_json::from_str(entry)
            .map_err(|error| bad(format!("metadata entry {METADATA_KEY:?}: {error}")))?;
        for (key, expected) in [("kind", kind.into()), ("version", VERSION.into())] {
            let expected: serde_json::Value = expected;
            if header[key] != expected {
                return Err(bad(format!(
                    "{key} is {}, expected {expected}",
                    header[key]
                )));
            }
        }
        let tensors = SafeTensors::deserialize(bytes).map_err(broken)?;
        Ok(Self {
            path,
            header,
            tensors,
        })
    }

    pub(super) fn bad(&self, problem: impl Into<String>) -> Error {
        Error::BadFile {
            path: self.path.into(),
            problem: problem.into(),
        }
    }

    pub(super) fn header<T: DeserializeOwned>(&self) -> Result<T> {
        T::deserialize(&self.header)
            .map_err(|error| self.bad(format!("metadata entry {METADATA_KEY:?}: {error}")))
    }

    pub(super) fn check_names(&self, expected: BTreeSet<String>) -> Result<()> {
        let found: BTreeSet<String> = self.tensors.names().into_iter().map(String::from).collect();
        if let Some(name) = found.symmetric_difference(&expected).next() {
            let problem = if expected.contains(name) {
                "is missing"
            } else {
                "is not expected"
            };
            return Err(self.bad(format!("tensor {name:?} {problem}")));
        }
        Ok(())
    }

    /// Bytes of a tensor that must have this type and shape.
    pub(super) fn column(&self, name: &str, dtype: Dtype, shape: &[usize]) -> Result<&'a [u8]> {
        let tensor = self
            .tensors
            .tensor(name)
            .map_err(|error| self.bad(error.to_string()))?;
        if (tensor.dtype(), tensor.shape()) != (dtype, shape) {
            let found = format!("{:?} {:?}", tensor.dtype(), tensor.shape());
            return Err(self.bad(format!(
                "tensor {name:?} is {found}, expected {dtype:?} {shape:?}"
            )));
        }
        Ok(tensor.data())
    }

    /// A tensor of `n` counts or positions.
    pub(super) fn indices(&self, name: &str, n: usize) -> Result<Vec<usize>> {
        let bytes = self.column(name, Dtype::I64, &[n])?.as_chunks().0;
        let index = |bytes: &[u8; 8]| {
            let value = i64::from_le_bytes(*bytes);
            usize::try_from(value)
                .map_err(|_| self.bad(format!("{name} hold {value}, expected 0 or more")))
        };
        bytes.iter().map(index).collect()
    }
}
