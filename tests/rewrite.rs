//! Checkpoints that are a fixture's, rewritten: what tests of odd ones are made of.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use engine::{Device, Model, Session, SessionOptions};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::fixture;

pub const WEIGHTS: &str = "model.safetensors";
pub const INDEX: &str = "model.safetensors.index.json";

/// Config and weights of a fixture in a folder of their own.
pub fn copy_of(name: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", WEIGHTS] {
        std::fs::copy(fixture(name).join(file), folder.path().join(file)).unwrap();
    }
    folder
}

pub fn write(folder: &Path, file: &str, bytes: impl AsRef<[u8]>) {
    std::fs::write(folder.join(file), bytes).unwrap();
}

/// Changes keys of `config.json`.
pub fn configure(folder: &Path, changes: Value) {
    let text = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let mut config: Map<String, Value> = serde_json::from_str(&text).unwrap();
    config.extend(changes.as_object().unwrap().clone());
    write(folder, "config.json", Value::Object(config).to_string());
}

/// A safetensors file taken apart, so that it can be put together wrongly.
#[derive(Clone)]
pub struct File {
    pub header: Map<String, Value>,
    pub data: Vec<u8>,
}

impl File {
    pub fn read(folder: &Path) -> Self {
        let bytes = std::fs::read(folder.join(WEIGHTS)).unwrap();
        let (length, rest) = bytes.split_first_chunk().unwrap();
        let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
        Self {
            header: serde_json::from_slice(header).unwrap(),
            data: data.to_vec(),
        }
    }

    pub fn write(&self, path: &Path) {
        let header = Value::Object(self.header.clone()).to_string();
        let length = (header.len() as u64).to_le_bytes();
        std::fs::write(path, [&length, header.as_bytes(), &self.data].concat()).unwrap();
    }

    pub fn range(&self, name: &str) -> Range<usize> {
        let offsets = &self.header[name]["data_offsets"];
        offsets[0].as_u64().unwrap() as usize..offsets[1].as_u64().unwrap() as usize
    }

    /// Takes a tensor out, its bytes too.
    pub fn remove(&mut self, name: &str) {
        let gone = self.range(name);
        self.data.drain(gone.clone());
        self.header.shift_remove(name).unwrap();
        for (_, tensor) in self
            .header
            .iter_mut()
            .filter(|(name, _)| *name != "__metadata__")
        {
            for offset in tensor["data_offsets"].as_array_mut().unwrap() {
                let at = offset.as_u64().unwrap() as usize;
                if at >= gone.end {
                    *offset = json!(at - gone.len());
                }
            }
        }
    }

    pub fn add(&mut self, name: &str, dtype: &str, shape: &[usize], bytes: &[u8]) {
        let start = self.data.len();
        self.data.extend_from_slice(bytes);
        let offsets = [start, self.data.len()];
        let tensor = json!({"dtype": dtype, "shape": shape, "data_offsets": offsets});
        self.header.insert(name.into(), tensor);
    }

    /// Takes a tensor out: its type, shape and bytes.
    pub fn take(&mut self, name: &str) -> (String, Vec<usize>, Vec<u8>) {
        let tensor = &self.header[name];
        let dtype = tensor["dtype"].as_str().unwrap().to_owned();
        let shape = serde_json::from_value(tensor["shape"].clone()).unwrap();
        let bytes = self.data[self.range(name)].to_vec();
        self.remove(name);
        (dtype, shape, bytes)
    }

    /// The names of all tensors.
    pub fn names(&self) -> Vec<String> {
        let names = self.header.keys().filter(|name| *name != "__metadata__");
        names.cloned().collect()
    }

    /// Overwrites one element of a tensor.
    pub fn poke(&mut self, name: &str, element: usize, bytes: &[u8]) {
        let at = self.range(name).start + element * bytes.len();
        self.data[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Tensors whose names pass, in a file of their own.
    pub fn part(&self, keep: impl Fn(&str) -> bool) -> Self {
        let mut part = Self {
            header: Map::new(),
            data: Vec::new(),
        };
        for (name, tensor) in self
            .header
            .iter()
            .filter(|(name, _)| *name != "__metadata__")
        {
            if keep(name) {
                let dtype = tensor["dtype"].as_str().unwrap();
                let shape: Vec<usize> = serde_json::from_value(tensor["shape"].clone()).unwrap();
                part.add(name, dtype, &shape, &self.data[self.range(name)]);
            }
        }
        part
    }
}

pub fn rewrite(folder: &Path, change: impl FnOnce(&mut File)) {
    let mut file = File::read(folder);
    change(&mut file);
    file.write(&folder.join(WEIGHTS));
}

/// Bits of the logits after a prompt, on the CPU.
pub fn logits(folder: &Path) -> Vec<u32> {
    let model = Arc::new(Model::open(folder, &Device::cpu()).unwrap());
    let mut session = Session::new(model, SessionOptions::default()).unwrap();
    let logits = session.advance(&[5, 99, 3, 127, 0, 41]).unwrap();
    logits.iter().map(|logit| logit.to_bits()).collect()
}
