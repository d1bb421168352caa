//! Traces on disk: safetensors with JSON metadata, readable from Python in three lines.
//!
//! ```python
//! from safetensors import safe_open
//! trace = safe_open("trace.safetensors", "np")
//! print(trace.metadata()["sparsight"], trace.get_tensor("step3.layer2.selected_positions"))
//! ```
//!
//! Tensor names are `step{S}.layer{L}.{stage}` and `step{S}.{stage}`, stages as in
//! [`crate::trace::STAGES`]. The metadata entry `sparsight` is a JSON object with `kind` "trace",
//! `version` 1, and `steps`: one `{position, ids}` a step. Timings are not part of it: they say
//! something of one run on one machine, not of the model.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use crate::trace::{Frame, Site, Stage, Value};
use crate::{Error, Result, file};

#[derive(Serialize, Deserialize)]
struct Header {
    kind: String,
    version: u32,
    steps: Vec<Step>,
}

#[derive(Serialize, Deserialize)]
struct Step {
    position: usize,
    ids: Vec<u32>,
}

/// The one version there is.
const VERSION: u32 = 1;

/// Writes `frames` to `path`, whole or not at all.
///
/// # Errors
/// The file could not be written.
pub fn save(path: &Path, frames: &[Frame]) -> Result<()> {
    let header = Header {
        kind: "trace".into(),
        version: VERSION,
        steps: frames
            .iter()
            .map(|frame| Step {
                position: frame.position,
                ids: frame.ids.clone(),
            })
            .collect(),
    };
    let header = serde_json::to_string(&header).expect("a header of numbers and words is JSON");
    let mut tensors = BTreeMap::new();
    for (step, frame) in frames.iter().enumerate() {
        for (site, value) in &frame.values {
            let (dtype, bytes): (_, &[u8]) = match value {
                Value::F32 { data, .. } => (Dtype::F32, bytemuck::cast_slice(data)),
                Value::I32 { data, .. } => (Dtype::I32, bytemuck::cast_slice(data)),
            };
            let view = TensorView::new(dtype, value.shape().to_vec(), bytes)
                .expect("a value holds as many numbers as its shape says");
            tensors.insert(name(step, site), view);
        }
    }
    let metadata = Some([("sparsight".to_owned(), header)].into());
    let bytes = safetensors::serialize(&tensors, metadata).map_err(|error| Error::BadFile {
        path: path.into(),
        problem: format!("could not be written as safetensors: {error}"),
    })?;
    file::write_whole(path, &bytes)
}

fn name(step: usize, site: &Site) -> String {
    let stage = site.stage.info().name;
    match site.layer {
        Some(layer) => format!("step{step}.layer{layer}.{stage}"),
        None => format!("step{step}.{stage}"),
    }
}

/// The step and site that a tensor name stands for.
fn parse_name(name: &str) -> Option<(usize, Site)> {
    let (step, rest) = name.strip_prefix("step")?.split_once('.')?;
    let (layer, stage) = match rest
        .strip_prefix("layer")
        .and_then(|rest| rest.split_once('.'))
    {
        Some((layer, stage)) => (Some(layer.parse().ok()?), stage),
        None => (None, rest),
    };
    Some((
        step.parse().ok()?,
        Site {
            layer,
            stage: Stage::by_name(stage)?,
        },
    ))
}

/// Reads a trace back.
///
/// # Errors
/// The file cannot be read, is not a safetensors file, or not a trace of this version.
pub fn load(path: &Path) -> Result<Vec<Frame>> {
    let bytes = std::fs::read(path).map_err(|error| Error::io(path, error))?;
    let bad = |problem: String| Error::BadFile {
        path: path.into(),
        problem,
    };
    let (_, metadata) = SafeTensors::read_metadata(&bytes)
        .map_err(|error| bad(format!("is no safetensors file: {error}")))?;
    let header = metadata
        .metadata()
        .as_ref()
        .and_then(|entries| entries.get("sparsight"))
        .ok_or_else(|| bad("has no metadata entry \"sparsight\", expected a trace".into()))?;
    let header: Header = serde_json::from_str(header)
        .map_err(|error| bad(format!("has a damaged \"sparsight\" entry: {error}")))?;
    if header.kind != "trace" || header.version != VERSION {
        return Err(bad(format!(
            "holds a {} of version {}, expected a trace of version {VERSION}",
            header.kind, header.version
        )));
    }
    let mut frames: Vec<Frame> = header
        .steps
        .into_iter()
        .map(|step| Frame {
            position: step.position,
            ids: step.ids,
            ..Frame::default()
        })
        .collect();
    let tensors = SafeTensors::deserialize(&bytes)
        .map_err(|error| bad(format!("is no safetensors file: {error}")))?;
    for (name, view) in tensors.iter() {
        let n_steps = frames.len();
        let (step, site) = parse_name(name)
            .filter(|(step, _)| *step < n_steps)
            .ok_or_else(|| {
                bad(format!(
                    "holds a tensor {name:?}, expected step0 to step{n_steps} and a known stage"
                ))
            })?;
        let words = view
            .data()
            .chunks_exact(4)
            .map(|b| [b[0], b[1], b[2], b[3]]);
        let shape = view.shape().to_vec();
        let value = match view.dtype() {
            Dtype::F32 => Value::F32 {
                shape,
                data: words.map(f32::from_le_bytes).collect(),
            },
            Dtype::I32 => Value::I32 {
                shape,
                data: words.map(i32::from_le_bytes).collect(),
            },
            other => {
                return Err(bad(format!(
                    "tensor {name:?} is of type {other:?}, expected F32 or I32"
                )));
            }
        };
        frames[step].values.insert(site, value);
    }
    Ok(frames)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panic")]
mod tests {
    use super::*;

    fn frames() -> Vec<Frame> {
        let site = |layer, stage| Site { layer, stage };
        let values = [
            (
                site(Some(2), Stage::SelectedPositions),
                Value::i32([1, 3], vec![0, 7, -1]),
            ),
            (
                site(Some(2), Stage::AttentionMean),
                Value::f32([1, 3], vec![0.25, 0.75, 0.0]),
            ),
            (
                site(None, Stage::Logits),
                Value::f32([1, 2], vec![f32::MIN, -0.0]),
            ),
        ];
        vec![
            Frame {
                position: 7,
                ids: vec![3],
                values: values.into(),
                ..Frame::default()
            },
            Frame {
                position: 8,
                ids: vec![4],
                ..Frame::default()
            },
        ]
    }

    #[test]
    fn a_trace_comes_back_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trace.safetensors");
        save(&path, &frames()).unwrap();
        assert_eq!(load(&path).unwrap(), frames());
    }

    #[test]
    fn a_cut_or_foreign_file_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trace.safetensors");
        save(&path, &frames()).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for length in [0, 7, 20, whole.len() - 1] {
            std::fs::write(&path, &whole[..length]).unwrap();
            let message = load(&path).unwrap_err().to_string();
            assert!(message.contains("trace.safetensors"), "{message}");
        }
        let foreign = safetensors::serialize(BTreeMap::<String, TensorView>::new(), None).unwrap();
        std::fs::write(&path, foreign).unwrap();
        assert!(
            load(&path)
                .unwrap_err()
                .to_string()
                .contains("expected a trace")
        );
    }
}
