//! The conformance suite: does this engine compute what a reference computed?
//!
//! A case is a folder with a checkpoint and what a correct engine must give for it
//! (`oracle.safetensors`, `oracle.json`; the README lists the keys). Every stage of prefill, decode
//! and MTP is compared in the order of computation, so the first stage that is off is where to look.

mod compare;
mod oracle;

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use crate::Result;
use crate::cache::{CacheFormat, KeyFormat, LatentFormat};
use crate::device::Device;
use crate::model::{ForwardOptions, LogitRows, Model};
use crate::session::{Session, SessionOptions};
use crate::trace::{Trace, Watch, WatchedRows};

use compare::Compare;
use oracle::Oracle;

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
    /// to 1.1e-5 in logits; the largest difference of ours to the fixtures is 3.4e-5, in hidden
    /// states of `v2-grouped`.
    pub const F32: Self = Self {
        abs: 1e-4,
        rel: 0.0,
    };
    /// For GPUs: WGSL allows `exp` 3 + 2·|x| ulp and division 2.5 ulp, so a driver may be well off
    /// lavapipe, whose largest difference is 5.2e-5.
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
    let mut tolerance = Tolerance::of(device, fp8_cache);
    tolerance.abs = tolerance.abs.max(oracle.facts.tolerance.unwrap_or(0.0));
    let mut compare = Compare {
        oracle: &oracle,
        tolerance,
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
        let rows = LogitRows::All;
        model.forward_mtp(&hidden, &next_ids, &mut cache, forward, rows, &mut trace)?;
        compare.pass("mtp.", n_layers..n_layers + 1, &[trace.take()]);
    }
    Ok(Report {
        folder: folder.display().to_string(),
        device: format!("{} ({})", device.info.id, device.info.name),
        tolerance: compare.tolerance,
        stages: compare.stages,
    })
}
