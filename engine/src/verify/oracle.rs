//! What a correct engine must give: the files of a case, read and checked.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors};
use serde::Deserialize;

use crate::{Error, Result, text_file};

/// What the reference says of itself.
#[derive(Debug, Deserialize)]
pub(super) struct Facts {
    #[serde(default)]
    pub(super) fp8_index: bool,
    #[serde(default)]
    pub(super) fp8_kv: bool,
    pub(super) min_expert_gap: Option<f32>,
    /// Numbers may be off by this much, where that is more than a device's own tolerance: the residual
    /// stream of a trained model is hundreds of times that of the random fixtures.
    pub(super) tolerance: Option<f32>,
}

pub(super) struct Oracle {
    pub(super) floats: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    pub(super) integers: BTreeMap<String, (Vec<usize>, Vec<i32>)>,
    pub(super) facts: Facts,
}

impl Oracle {
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("oracle.json");
        let text = text_file::read(&path)?;
        let facts = serde_json::from_str(&text).map_err(|error| Error::BadFile {
            path,
            problem: format!("is not as expected: {error}"),
        })?;
        let path = folder.join("oracle.safetensors");
        let bytes = std::fs::read(&path).map_err(|error| Error::io(&path, error))?;
        let bad = |problem: String| Error::BadFile {
            path: path.clone(),
            problem,
        };
        let file = SafeTensors::deserialize(&bytes)
            .map_err(|error| bad(format!("is no safetensors file: {error}")))?;
        let (mut floats, mut integers) = (BTreeMap::new(), BTreeMap::new());
        for (name, view) in file.iter() {
            let shape = view.shape().to_vec();
            let words = view
                .data()
                .chunks_exact(4)
                .map(|b| [b[0], b[1], b[2], b[3]]);
            match view.dtype() {
                Dtype::F32 => {
                    floats.insert(
                        name.to_owned(),
                        (shape, words.map(f32::from_le_bytes).collect()),
                    );
                }
                Dtype::I32 => {
                    integers.insert(
                        name.to_owned(),
                        (shape, words.map(i32::from_le_bytes).collect()),
                    );
                }
                Dtype::I64 => {
                    // Ids fit 32 bits: the low word of each.
                    let data = words.step_by(2).map(i32::from_le_bytes).collect();
                    integers.insert(name.to_owned(), (shape, data));
                }
                other => {
                    return Err(bad(format!(
                        "tensor {name:?} is of type {other:?}, expected F32, I32 or I64"
                    )));
                }
            }
        }
        let oracle = Self {
            floats,
            integers,
            facts,
        };
        match oracle.problem() {
            Some(problem) => Err(bad(problem)),
            None => Ok(oracle),
        }
    }

    /// What is wrong with the shapes: everything below relies on them.
    fn problem(&self) -> Option<String> {
        let floats = self.floats.iter().map(|(name, (shape, _))| (name, shape));
        let integers = self.integers.iter().map(|(name, (shape, _))| (name, shape));
        for (name, shape) in floats.chain(integers) {
            let expected = match (name.rsplit('.').next(), shape.as_slice()) {
                (Some("index_scores"), &[rows, width]) if (1..=width).contains(&rows) => continue,
                (Some("index_scores"), _) => "[rows, at least as many positions]",
                (Some("topk" | "expert_idx"), &[rows, width]) if rows.min(width) > 0 => continue,
                (Some("topk" | "expert_idx"), _) => "[rows, members], neither 0",
                _ if name != "decode.logits" || shape.len() == 2 => continue,
                _ => "[steps, vocab_size]",
            };
            return Some(format!(
                "tensor {name:?} has shape {shape:?}, expected {expected}"
            ));
        }
        let rows = |name: &str| {
            let floats = self.floats.get(name).map(|(shape, _)| shape);
            let shape = floats.or_else(|| self.integers.get(name).map(|(shape, _)| shape))?;
            shape.first().copied()
        };
        let selections = self
            .integers
            .keys()
            .filter(|name| name.ends_with(".topk"))
            .map(|name| (name.clone(), name.replace(".topk", ".index_scores")));
        let pairs = [
            ("decode.ids", "decode.logits"),
            ("mtp.next_ids", "input_ids"),
        ];
        let pairs = pairs.map(|(one, other)| (one.to_owned(), other.to_owned()));
        let mut pairs = selections.chain(pairs);
        let differs = |one: &str, other: &str| match (rows(one), rows(other)) {
            (Some(one), Some(other)) => one != other,
            _ => false,
        };
        pairs
            .find(|(one, other)| differs(one, other))
            .map(|(one, other)| {
                format!("tensors {one:?} and {other:?} are of different lengths, expected the same")
            })
    }

    pub(super) fn ids(&self, name: &str, folder: &Path) -> Result<Vec<u32>> {
        let (_, ids) = self.integers.get(name).ok_or_else(|| Error::BadFile {
            path: folder.join("oracle.safetensors"),
            problem: format!("has no tensor {name:?}"),
        })?;
        Ok(ids.iter().map(|&id| id as u32).collect())
    }
}
