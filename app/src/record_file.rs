//! What the files hold that Sparsight writes: traces, routes and sampling masks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use engine::replay::{MaskTrace, RouteTrace};
use engine::trace::{Frame, Stage};
use engine::trace_file;
use serde_json::{Value, json};

use crate::terminal;

/// A safetensors header is JSON of at most this many bytes, says its format.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// A file that was read and found to be in order.
pub struct RecordFile {
    path: PathBuf,
    record: Record,
}

enum Record {
    Trace(Vec<Frame>),
    Routes(RouteTrace),
    Masks(MaskTrace),
}

/// Reads the file, whichever kind it is.
///
/// # Errors
/// The file cannot be read, or is none of the three.
pub fn read(path: &Path) -> anyhow::Result<RecordFile> {
    let record = match kind(path)?.as_str() {
        "trace" => Record::Trace(trace_file::load(path)?),
        "routes" => Record::Routes(RouteTrace::load(path)?),
        "masks" => Record::Masks(MaskTrace::load(path)?),
        other => bail!(
            "{}: found a {other:?}, expected a trace, routes or masks",
            path.display()
        ),
    };
    Ok(RecordFile {
        path: path.into(),
        record,
    })
}

/// The kind that the header's metadata names.
fn kind(path: &Path) -> anyhow::Result<String> {
    let name = path.display();
    let mut file = File::open(path).with_context(|| name.to_string())?;
    let mut length = [0; 8];
    file.read_exact(&mut length)
        .with_context(|| format!("{name} is no safetensors file"))?;
    let length = u64::from_le_bytes(length);
    ensure!(
        length <= MAX_HEADER_BYTES,
        "{name} is no safetensors file: found a header of {length} bytes"
    );
    let mut header = Vec::new();
    file.take(length)
        .read_to_end(&mut header)
        .with_context(|| name.to_string())?;
    let header: Value = serde_json::from_slice(&header)
        .with_context(|| format!("{name} is no safetensors file"))?;
    let entry = header["__metadata__"]["sparsight"].as_str();
    let entry = entry.with_context(|| {
        format!(
            "{name} has no metadata entry \"sparsight\", expected a trace, routes or masks; \
             for a checkpoint give its folder"
        )
    })?;
    let entry: Value = serde_json::from_str(entry)
        .with_context(|| format!("{name} has a damaged \"sparsight\" entry"))?;
    let kind = entry["kind"].as_str();
    Ok(kind
        .with_context(|| format!("{name} has a \"sparsight\" entry without a kind"))?
        .to_owned())
}

impl RecordFile {
    /// What it holds, for scripts; `every`: each array too.
    pub fn document(&self, every: bool) -> Value {
        let path = self.path.display().to_string();
        match &self.record {
            Record::Trace(frames) => {
                let mut document = json!({
                    "kind": "trace",
                    "file": path,
                    "steps": frames.iter().map(|frame| json!({
                        "position": frame.position, "ids": frame.ids,
                    })).collect::<Vec<_>>(),
                    "stages": stages(frames).iter().map(|(stage, of_stage)| json!({
                        "stage": stage.info().name,
                        "layers": of_stage.layers,
                        "arrays": of_stage.n_arrays,
                        "numbers": of_stage.n_numbers,
                    })).collect::<Vec<_>>(),
                });
                if every {
                    document["arrays"] = arrays(frames)
                        .map(|(name, shape)| json!({"name": name, "shape": shape}))
                        .collect();
                }
                document
            }
            Record::Routes(routes) => json!({
                "kind": "routes",
                "file": path,
                "first_position": routes.first_position(),
                "tokens": routes.len(),
                "n_routed_experts": routes.n_routed_experts(),
                "num_experts_per_tok": routes.num_experts_per_tok(),
                "layers": routes.layers(),
                "experts_used": experts_used(routes),
            }),
            Record::Masks(masks) => {
                let lengths = mask_lengths(masks);
                json!({
                    "kind": "masks",
                    "file": path,
                    "masks": masks.len(),
                    "vocab_size": masks.vocab_size(),
                    "first_position": masks.positions().first(),
                    "last_position": masks.positions().last(),
                    "smallest": lengths.iter().min(),
                    "largest": lengths.iter().max(),
                    "kept": lengths.iter().sum::<usize>(),
                })
            }
        }
    }

    /// What it holds, for people; `every`: each array too.
    pub fn text(&self, every: bool) -> String {
        let path = self.path.display();
        match &self.record {
            Record::Trace(frames) => {
                let n_rows: usize = frames.iter().map(|frame| frame.ids.len()).sum();
                let mut text = format!(
                    "{path}: a trace of {} steps, {n_rows} rows, {}\n\n",
                    frames.len(),
                    positions(frames.iter().map(|frame| frame.position)),
                );
                let head = ["stage", "layers", "arrays", "numbers"];
                let mut rows = vec![head.map(str::to_owned).to_vec()];
                for (stage, of_stage) in stages(frames) {
                    rows.push(vec![
                        stage.info().name.into(),
                        ranges(&of_stage.layers),
                        of_stage.n_arrays.to_string(),
                        of_stage.n_numbers.to_string(),
                    ]);
                }
                text.push_str(&terminal::table(&rows));
                if every {
                    let rows = arrays(frames).map(|(name, shape)| vec![name, format!("{shape:?}")]);
                    text.push('\n');
                    text.push_str(&terminal::table(&rows.collect::<Vec<_>>()));
                }
                text
            }
            Record::Routes(routes) => {
                let mut text = format!(
                    "{path}: routes of {} tokens from position {} on, {} of {} experts each\n\n",
                    routes.len(),
                    routes.first_position(),
                    routes.num_experts_per_tok(),
                    routes.n_routed_experts(),
                );
                let head = ["layer", "experts used"];
                let mut rows = vec![head.map(str::to_owned).to_vec()];
                for (layer, n_used) in routes.layers().into_iter().zip(experts_used(routes)) {
                    rows.push(vec![layer.to_string(), n_used.to_string()]);
                }
                text.push_str(&terminal::table(&rows));
                text
            }
            Record::Masks(masks) => {
                let lengths = mask_lengths(masks);
                let mean = lengths.iter().sum::<usize>() as f64 / lengths.len().max(1) as f64;
                format!(
                    "{path}: {} sampling masks over a vocabulary of {}, {}\n\
                     kept tokens: {} to {}, {mean:.1} on average\n",
                    masks.len(),
                    masks.vocab_size(),
                    positions(masks.positions().iter().copied()),
                    lengths.iter().min().unwrap_or(&0),
                    lengths.iter().max().unwrap_or(&0),
                )
            }
        }
    }
}

/// What a trace holds of one stage.
#[derive(Default)]
struct OfStage {
    layers: BTreeSet<usize>,
    n_arrays: usize,
    n_numbers: usize,
}

fn stages(frames: &[Frame]) -> BTreeMap<Stage, OfStage> {
    let mut stages: BTreeMap<Stage, OfStage> = BTreeMap::new();
    for (site, value) in frames.iter().flat_map(|frame| &frame.values) {
        let of_stage = stages.entry(site.stage).or_default();
        of_stage.layers.extend(site.layer);
        of_stage.n_arrays += 1;
        of_stage.n_numbers += value.shape().iter().product::<usize>();
    }
    stages
}

/// Name and shape of every array, under the names of the file.
fn arrays(frames: &[Frame]) -> impl Iterator<Item = (String, &[usize])> {
    frames.iter().enumerate().flat_map(|(step, frame)| {
        frame.values.iter().map(move |(site, value)| {
            let stage = site.stage.info().name;
            let name = match site.layer {
                Some(layer) => format!("step{step}.layer{layer}.{stage}"),
                None => format!("step{step}.{stage}"),
            };
            (name, value.shape())
        })
    })
}

/// In each layer, how many experts took a token at all.
fn experts_used(routes: &RouteTrace) -> Vec<usize> {
    let first = routes.first_position();
    let used = routes.layers().into_iter().map(|layer| {
        let rows = (first..first + routes.len()).filter_map(|position| routes.get(layer, position));
        let experts: BTreeSet<u16> = rows.flat_map(|(experts, _)| experts).copied().collect();
        experts.len()
    });
    used.collect()
}

fn mask_lengths(masks: &MaskTrace) -> Vec<usize> {
    let lengths = masks
        .positions()
        .iter()
        .filter_map(|&position| masks.get(position));
    lengths.map(<[u32]>::len).collect()
}

fn positions(all: impl Iterator<Item = usize> + Clone) -> String {
    match (all.clone().min(), all.max()) {
        (Some(first), Some(last)) => format!("positions {first} to {last}"),
        _ => "no positions".into(),
    }
}

/// Layers as `0-2, 5`.
fn ranges(layers: &BTreeSet<usize>) -> String {
    let layers: Vec<usize> = layers.iter().copied().collect();
    let runs = layers.chunk_by(|a, b| a + 1 == *b);
    let words = runs.map(|run| match run {
        [only] => only.to_string(),
        [first, .., last] => format!("{first}-{last}"),
        [] => unreachable!("runs hold at least one layer"),
    });
    let words: Vec<String> = words.collect();
    if words.is_empty() {
        "-".into()
    } else {
        words.join(", ")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panic")]
mod tests {
    use super::*;

    #[test]
    fn layers_read_as_ranges() {
        assert_eq!(ranges(&[0, 1, 2, 5, 7, 8].into()), "0-2, 5, 7-8");
        assert_eq!(ranges(&[3].into()), "3");
        assert_eq!(ranges(&BTreeSet::new()), "-");
    }

    #[test]
    fn routes_and_masks_are_told_apart_and_counted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("routes.safetensors");
        let mut routes = RouteTrace::new(8, 2, &[1, 2], 3).unwrap();
        for layer in [1, 2] {
            routes
                .record(layer, 3, &[0, 5, 5, 7], &[0.5, 0.5, 0.75, 0.25])
                .unwrap();
        }
        routes.save(&path).unwrap();
        let document = read(&path).unwrap().document(false);
        assert_eq!(document["kind"], "routes");
        assert_eq!(document["tokens"], 2);
        assert_eq!(document["experts_used"], json!([3, 3]));

        let mut masks = MaskTrace::new(9).unwrap();
        masks.record(4, &[1, 8]).unwrap();
        masks.record(6, &[0]).unwrap();
        masks.save(&path).unwrap();
        let text = read(&path).unwrap().text(false);
        assert!(text.contains("positions 4 to 6"), "{text}");
        assert!(text.contains("1 to 2, 1.5 on average"), "{text}");
    }

    #[test]
    fn other_files_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("other.safetensors");
        let with_metadata = |metadata: &str| {
            let header = format!(r#"{{"__metadata__":{metadata}}}"#);
            [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat()
        };
        let cases: [Vec<u8>; 7] = [
            Vec::new(),
            b"short".to_vec(),
            u64::MAX.to_le_bytes().to_vec(),
            [&4_u64.to_le_bytes()[..], b"{}"].concat(),
            with_metadata("{}"),
            with_metadata(r#"{"sparsight":"{}"}"#),
            with_metadata(r#"{"sparsight":"{\"kind\":\"poem\"}"}"#),
        ];
        for bytes in cases {
            std::fs::write(&path, &bytes).unwrap();
            let error = read(&path).map(|_| ()).unwrap_err();
            let said = terminal::message(&error);
            assert!(said.contains("other.safetensors"), "{bytes:?}: {said}");
        }
    }
}
