//! The conformance suite: does this engine compute what a reference computed?
//!
//! A case is a folder with a checkpoint and what a correct engine must give for it
//! (`oracle.safetensors`, `oracle.json`; the README lists the keys). Every stage of prefill, decode
//! and MTP is compared in the order of computation, so the first stage that is off is where to look.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use safetensors::tensor::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use crate::cache::CacheFormat;
use crate::cpu::{KeyFormat, LatentFormat};
use crate::device::Device;
use crate::model::{ForwardOptions, Model};
use crate::session::{Session, SessionOptions};
use crate::trace::{Frame, Stage, Trace, Watch, WatchedRows};
use crate::{Error, Result};

/// How far a number may be off: `|got − want| ≤ abs + rel · |want|`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Tolerance {
    /// Absolute part.
    pub abs: f32,
    /// Relative part.
    pub rel: f32,
}

impl Tolerance {
    /// For f32 with exact functions (the CPU): the reference's own two implementations differ by up
    /// to 1.1e-5 in logits, and as much again is left to other summation orders, times four.
    pub const F32: Self = Self {
        abs: 1e-4,
        rel: 0.0,
    };
    /// For GPUs: WGSL allows `exp` 3 + 2·|x| ulp and division 2.5 ulp, a hundred times the CPU's error,
    /// through up to three layers of the fixtures.
    pub const GPU: Self = Self {
        abs: 1e-3,
        rel: 1e-3,
    };

    /// For FP8 caches, where a rounding of f32 can take a channel from the middle between two codes to
    /// either: 1/16 of its size away. One such latent moved the logits of a fixture by 1.6e-3 and one
    /// such query a row of index scores by 5.3e-3, on a device whose other numbers were within 1e-4.
    pub const FP8_STEP: Self = Self {
        abs: 2e-2,
        rel: 0.0,
    };

    /// The one that goes with a device, and with FP8 caches or without.
    pub fn of(device: &Device, fp8_cache: bool) -> Self {
        match (device.info.backend.as_str(), fp8_cache) {
            // The native bodies land on the reference's side of every edge of the fixtures, but for
            // index scores: see [`FP8_MOVED`].
            ("native", _) | ("flex", false) => Self::F32,
            (_, false) => Self::GPU,
            (_, true) => Self::FP8_STEP,
        }
    }

    /// Whether `got` is close enough. NaN never is.
    pub fn close(self, got: f32, want: f32) -> bool {
        got == want || (got - want).abs() <= self.abs + self.rel * want.abs()
    }
}

/// The share of index scores that the rounding edges of FP8 may move on any device: a query moves a
/// row of 40 or more, a key a column.
pub const FP8_MOVED: f64 = 0.05;

/// Boundaries closer than this are decided by rounding, so sets may differ there.
pub const DECIDED_BY_ROUNDING: f32 = 1e-5;

/// A selection or route that is not the reference's.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SetDifference {
    /// Row of the stage.
    pub row: usize,
    /// Members that the reference has and we lack.
    pub missing: Vec<i32>,
    /// Members that we have and the reference lacks.
    pub surplus: Vec<i32>,
    /// Distance between the last chosen and the first left out, as the reference recorded it.
    pub gap: f32,
    /// The gap is wide enough for this to be an error.
    pub counts: bool,
}

/// One compared stage.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StageReport {
    /// `prefill.layer0.topk`, `decode3.logits`, …
    pub name: String,
    /// Numbers or sets compared.
    pub n: usize,
    /// Largest difference, for numbers; NaN if one of ours is.
    pub max_difference: Option<f32>,
    /// Sets that differ.
    pub differing: Vec<SetDifference>,
    /// Within tolerance, and no differing set that counts.
    pub ok: bool,
}

/// What a case gave.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The case's folder.
    pub folder: String,
    /// The device.
    pub device: String,
    /// The bound for numbers.
    pub tolerance: Tolerance,
    /// Every stage, in the order of computation.
    pub stages: Vec<StageReport>,
}

impl Report {
    /// The first stage that is off.
    pub fn first_off(&self) -> Option<&StageReport> {
        self.stages.iter().find(|stage| !stage.ok)
    }
}

/// What the reference says of itself.
#[derive(Debug, Deserialize)]
struct Facts {
    #[serde(default)]
    fp8_index: bool,
    #[serde(default)]
    fp8_kv: bool,
    min_expert_gap: Option<f32>,
}

struct Oracle {
    floats: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    integers: BTreeMap<String, (Vec<usize>, Vec<i32>)>,
    facts: Facts,
}

impl Oracle {
    fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("oracle.json");
        let text = std::fs::read(&path).map_err(|error| Error::io(&path, error))?;
        let facts = serde_json::from_slice(&text).map_err(|error| Error::BadFile {
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

    fn ids(&self, name: &str, folder: &Path) -> Result<Vec<u32>> {
        let (_, ids) = self.integers.get(name).ok_or_else(|| Error::BadFile {
            path: folder.join("oracle.safetensors"),
            problem: format!("has no tensor {name:?}"),
        })?;
        Ok(ids.iter().map(|&id| id as u32).collect())
    }
}

/// Runs the case in `folder` on `device`, prompts in chunks of `chunk_tokens`.
///
/// # Errors
/// The case cannot be read or run; differences are no errors but in the report.
pub fn verify(
    folder: &Path,
    device: &Device,
    chunk_tokens: usize,
    forward: &ForwardOptions,
) -> Result<Report> {
    let oracle = Oracle::open(folder)?;
    let model = Arc::new(Model::open(folder, device)?);
    let cache_format = CacheFormat {
        latent: if oracle.facts.fp8_kv {
            LatentFormat::Fp8
        } else {
            LatentFormat::F32
        },
        keys: if oracle.facts.fp8_index {
            KeyFormat::Fp8
        } else {
            KeyFormat::F32
        },
    };
    let fp8_cache = oracle.facts.fp8_kv || oracle.facts.fp8_index;
    let mut compare = Compare {
        oracle: &oracle,
        tolerance: Tolerance::of(device, fp8_cache),
        stages: Vec::new(),
    };
    let n_layers = model.config().num_hidden_layers;

    let options = SessionOptions {
        cache_format,
        chunk_tokens,
    };
    let mut session = Session::new(model.clone(), options)?;
    session.set_forward(forward.clone())?;
    session.watch(Watch::everything(WatchedRows::All));
    let prompt = oracle.ids("input_ids", folder)?;
    session.advance(&prompt)?;
    let frames = session.take_frames();
    compare.pass("", 0..n_layers, &frames);
    if oracle.integers.contains_key("decode.ids") {
        for (step, id) in oracle.ids("decode.ids", folder)?.into_iter().enumerate() {
            session.advance(&[id])?;
            let frames = session.take_frames();
            compare.pass(&format!("decode{step}."), 0..n_layers, &frames);
            compare.row("decode.logits", step, &frames);
        }
    }
    if oracle.integers.contains_key("mtp.next_ids") && model.has_mtp() {
        let mut session = Session::new(model.clone(), options)?;
        session.set_forward(forward.clone())?;
        let hidden = session.advance_all(&prompt)?.hidden;
        let mut cache = model.new_mtp_cache(cache_format)?;
        let mut trace = Trace::new(Watch::everything(WatchedRows::All));
        let next_ids = oracle.ids("mtp.next_ids", folder)?;
        model.forward_mtp(&hidden, &next_ids, &mut cache, forward, &mut trace)?;
        compare.pass("mtp.", n_layers..n_layers + 1, &[trace.take()]);
    }
    Ok(Report {
        folder: folder.display().to_string(),
        device: format!("{} ({})", device.info.id, device.info.name),
        tolerance: compare.tolerance,
        stages: compare.stages,
    })
}

struct Compare<'a> {
    oracle: &'a Oracle,
    tolerance: Tolerance,
    stages: Vec<StageReport>,
}

impl Compare<'_> {
    /// One forward pass, which may have been run in several chunks.
    fn pass(&mut self, prefix: &str, layers: std::ops::Range<usize>, frames: &[Frame]) {
        for layer in layers {
            let name = |stage: &str| format!("{prefix}layer{layer}.{stage}");
            self.scores(&name("index_scores"), layer, frames);
            self.selections(&name("topk"), &name("index_scores"), layer, frames);
            self.routes(&name("expert_idx"), layer, frames);
            self.numbers(&name("expert_w"), &sorted_weights(layer, frames));
            self.numbers(&name("hidden"), &floats(Some(layer), Stage::Hidden, frames));
        }
        self.numbers(
            &format!("{prefix}final_hidden"),
            &floats(None, Stage::FinalHidden, frames),
        );
        self.numbers(
            &format!("{prefix}logits"),
            &floats(None, Stage::Logits, frames),
        );
    }

    fn push(
        &mut self,
        name: &str,
        n: usize,
        max_difference: Option<f32>,
        close: bool,
        differing: Vec<SetDifference>,
    ) {
        let shown = if name.starts_with("decode") || name.starts_with("mtp") {
            name.to_owned()
        } else {
            format!("prefill.{name}")
        };
        let ok = close && differing.iter().all(|difference| !difference.counts);
        self.stages.push(StageReport {
            name: shown,
            n,
            max_difference,
            differing,
            ok,
        });
    }

    /// Compares numbers of one shape, if the reference has this stage.
    fn numbers(&mut self, name: &str, got: &[f32]) {
        if let Some((_, want)) = self.oracle.floats.get(name) {
            let want = want.clone();
            self.compare(name, got, &want);
        }
    }

    fn compare(&mut self, name: &str, got: &[f32], want: &[f32]) {
        let same_length = got.len() == want.len();
        let close = same_length && self.all_close(name, got, want);
        let max = got.iter().zip(want).fold(0.0_f32, |max, (got, want)| {
            let difference = (got - want).abs();
            // Unlike `f32::max`, keeps NaN.
            if difference > max || difference.is_nan() {
                difference
            } else {
                max
            }
        });
        self.push(
            name,
            want.len(),
            Some(if same_length { max } else { f32::NAN }),
            close,
            Vec::new(),
        );
    }

    fn all_close(&self, name: &str, got: &[f32], want: &[f32]) -> bool {
        let pairs = || got.iter().copied().zip(want.iter().copied());
        let n_off = pairs()
            .filter(|&(got, want)| !self.tolerance.close(got, want))
            .count();
        let rounded = self.oracle.facts.fp8_index && name.ends_with("index_scores");
        n_off == 0
            || rounded
                && n_off as f64 <= FP8_MOVED * got.len() as f64
                && pairs().all(|(got, want)| Tolerance::FP8_STEP.close(got, want))
    }

    /// One row of a stage that the reference stacks over steps.
    fn row(&mut self, name: &str, row: usize, frames: &[Frame]) {
        let got = floats(None, Stage::Logits, frames);
        if let Some((shape, want)) = self.oracle.floats.get(name) {
            let width = shape[1];
            let want = want[row * width..(row + 1) * width].to_vec();
            self.compare(&format!("decode{row}.logits"), &got, &want);
        }
    }

    /// Index scores, where both sides see the position: the reference scores the future too.
    fn scores(&mut self, name: &str, layer: usize, frames: &[Frame]) {
        let Some((shape, want)) = self.oracle.floats.get(name) else {
            return;
        };
        let width = shape[1];
        let (mut got_seen, mut want_seen) = (Vec::new(), Vec::new());
        let first = shape[1] - shape[0];
        let rows = want.chunks_exact(width).enumerate();
        let mut rows = rows.map(|(row, scores)| &scores[..first + row + 1]);
        for frame in frames {
            let Some(value) = frame.get(layer, Stage::IndexScores) else {
                continue;
            };
            let context = value.shape()[1];
            for got in value.floats().unwrap_or_default().chunks_exact(context) {
                let Some(want) = rows.next() else {
                    break;
                };
                got_seen.extend_from_slice(&got[..want.len().min(context)]);
                want_seen.extend_from_slice(want);
            }
        }
        // Rows that we do not have make the lengths differ.
        want_seen.extend(rows.flatten());
        self.compare(name, &got_seen, &want_seen);
    }

    fn selections(&mut self, name: &str, scores: &str, layer: usize, frames: &[Frame]) {
        let Some((shape, want)) = self.oracle.integers.get(name) else {
            return;
        };
        let (n, k) = (shape[0], shape[1]);
        let gap = |row: usize| match self.oracle.floats.get(scores) {
            Some((shape, scores)) => {
                let position = shape[1] - shape[0] + row;
                boundary_gap(&scores[row * shape[1]..][..=position], k)
            }
            // A shared layer repeats a selection that was compared where it was made.
            None => f32::INFINITY,
        };
        let got = sets(layer, Stage::SelectedPositions, frames);
        let want: Vec<Vec<i32>> = want.chunks_exact(k).map(members).collect();
        let differing = differences(&got, &want, gap);
        self.push(name, n, None, got.len() == n, differing);
    }

    fn routes(&mut self, name: &str, layer: usize, frames: &[Frame]) {
        let Some((shape, want)) = self.oracle.integers.get(name) else {
            return;
        };
        let gap = self.oracle.facts.min_expert_gap.unwrap_or(f32::INFINITY);
        let got = sets(layer, Stage::Experts, frames);
        let want: Vec<Vec<i32>> = want.chunks_exact(shape[1]).map(members).collect();
        let differing = differences(&got, &want, |_| gap);
        self.push(name, shape[0], None, got.len() == shape[0], differing);
    }
}

fn members(row: &[i32]) -> Vec<i32> {
    let mut members: Vec<i32> = row.iter().copied().filter(|&member| member >= 0).collect();
    members.sort_unstable();
    members
}

fn differences(
    got: &[Vec<i32>],
    want: &[Vec<i32>],
    gap: impl Fn(usize) -> f32,
) -> Vec<SetDifference> {
    let rows = got.iter().zip(want).enumerate();
    rows.filter(|(_, (got, want))| got != want)
        .map(|(row, (got, want))| SetDifference {
            row,
            missing: want
                .iter()
                .copied()
                .filter(|member| !got.contains(member))
                .collect(),
            surplus: got
                .iter()
                .copied()
                .filter(|member| !want.contains(member))
                .collect(),
            gap: gap(row),
            counts: gap(row) > DECIDED_BY_ROUNDING,
        })
        .collect()
}

/// Distance between the `k`-th and the next score; infinite where all are chosen.
fn boundary_gap(scores: &[f32], k: usize) -> f32 {
    let mut sorted = scores.to_vec();
    sorted.sort_unstable_by(|a, b| b.total_cmp(a));
    if sorted.len() > k {
        sorted[k - 1] - sorted[k]
    } else {
        f32::INFINITY
    }
}

fn floats(layer: Option<usize>, stage: Stage, frames: &[Frame]) -> Vec<f32> {
    let values = frames
        .iter()
        .filter_map(|frame| frame.get(layer, stage)?.floats());
    values.flatten().copied().collect()
}

fn sets(layer: usize, stage: Stage, frames: &[Frame]) -> Vec<Vec<i32>> {
    let values = frames.iter().filter_map(|frame| frame.get(layer, stage));
    values
        .flat_map(|value| {
            let width = value.shape()[1];
            value
                .integers()
                .unwrap_or_default()
                .chunks_exact(width)
                .map(members)
        })
        .collect()
}

/// Expert weights of each row, largest first: the reference's order.
fn sorted_weights(layer: usize, frames: &[Frame]) -> Vec<f32> {
    let values = frames
        .iter()
        .filter_map(|frame| frame.get(layer, Stage::ExpertWeights));
    values
        .flat_map(|value| {
            let width = value.shape()[1];
            value
                .floats()
                .unwrap_or_default()
                .chunks_exact(width)
                .flat_map(|row| {
                    let mut row = row.to_vec();
                    row.sort_unstable_by(|a, b| b.total_cmp(a));
                    row
                })
        })
        .collect()
}
