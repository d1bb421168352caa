//! The log of a run: one JSON object a line, and its curves.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use engine::file::{Kind, begin_of, write_whole};
use serde::{Deserialize, Serialize};

use crate::checkpoint::Progress;
use crate::pass::{PassStats, SelectionStats};
use crate::{Error, Result};

/// The file's name in the folder of a run.
pub const LOG: &str = "log.jsonl";

/// How it is known again, also where the first line was cut off.
pub const KIND: Kind = Kind {
    name: "the log of a run",
    is: |path| begin_of(path, 9) == b"{\"stage\":",
};

/// One step.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// Number of the stage.
    pub stage: usize,
    /// Its name.
    pub stage_name: String,
    /// Steps done in it, this one included.
    pub step: usize,
    /// Tokens read in the whole run.
    pub n_tokens: u64,
    /// Seconds spent on steps in the whole run.
    pub seconds: f64,
    /// Tokens a second of this step.
    pub tokens_per_second: f64,
    /// The step's learning rate.
    pub learning_rate: f64,
    /// Norm of all gradients before clipping.
    pub gradient_norm: f64,
    /// Mean negative log-probability of targets, in nats; none where it is not computed.
    pub loss: Option<f64>,
    /// The same of the MTP layer.
    pub mtp_loss: Option<f64>,
    /// The same on held-out text.
    pub validation_loss: Option<f64>,
    /// Load of the busiest expert over the mean, the worst layer.
    pub load_ratio: Option<f64>,
    /// What the selection is worth, by layer.
    pub selection: Vec<SelectionRecord>,
    /// The same on held-out text.
    pub validation_selection: Vec<SelectionRecord>,
}

/// What the selection of a layer is worth, all in means over query rows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SelectionRecord {
    /// The layer.
    pub layer: usize,
    /// Divergence of softmax of the index scores from attention, in nats.
    pub kl: f64,
    /// Share of attention that falls on the selection; 0 where it was not measured.
    pub recall: f64,
    /// Share of the `k` most attended positions that are selected; 0 where it was not measured.
    pub overlap: f64,
}

impl From<&(usize, SelectionStats)> for SelectionRecord {
    fn from((layer, stats): &(usize, SelectionStats)) -> Self {
        Self {
            layer: *layer,
            kl: stats.kl,
            recall: stats.recall,
            overlap: stats.overlap,
        }
    }
}

impl PassStats {
    /// Adds what another batch of the same step gave.
    pub fn add(&mut self, other: Self) {
        self.nll += other.nll;
        self.n_targets += other.n_targets;
        self.mtp_nll += other.mtp_nll;
        self.n_mtp_targets += other.n_mtp_targets;
        if self.loads.is_empty() {
            self.loads = other.loads;
        } else {
            for ((_, sum), (_, load)) in self.loads.iter_mut().zip(other.loads) {
                for (sum, n) in sum.iter_mut().zip(load) {
                    *sum += n;
                }
            }
        }
        if self.selection.is_empty() {
            self.selection = other.selection;
            return;
        }
        for ((_, mean), (_, more)) in self.selection.iter_mut().zip(other.selection) {
            let (a, b) = (mean.n_rows as f64, more.n_rows as f64);
            let join = |x: f64, y: f64| (x * a + y * b) / (a + b).max(1.0);
            mean.kl = join(mean.kl, more.kl);
            mean.recall = join(mean.recall, more.recall);
            mean.overlap = join(mean.overlap, more.overlap);
            mean.n_rows += more.n_rows;
        }
    }

    /// Mean negative log-probability of a target, in nats.
    pub fn loss(&self) -> Option<f64> {
        (self.n_targets > 0).then(|| self.nll / self.n_targets as f64)
    }

    /// The same of the MTP layer.
    pub fn mtp_loss(&self) -> Option<f64> {
        (self.n_mtp_targets > 0).then(|| self.mtp_nll / self.n_mtp_targets as f64)
    }

    /// Load of the busiest expert over the mean, of the layer where that is highest.
    pub fn load_ratio(&self) -> Option<f64> {
        let ratio = |load: &Vec<u32>| {
            let mean = f64::from(load.iter().sum::<u32>()) / load.len() as f64;
            f64::from(load.iter().copied().max().unwrap_or(0)) / mean.max(1e-9)
        };
        self.loads
            .iter()
            .map(|(_, load)| ratio(load))
            .reduce(f64::max)
    }
}

/// The open log.
pub struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// Opens the log of a run that stands at `progress`. Lines of steps that were lost with a killed
    /// process are dropped, since they will be done again.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn open(folder: &Path, progress: &Progress) -> Result<Self> {
        let path = folder.join(LOG);
        let kept: Vec<Record> = read(&path)?
            .into_iter()
            .filter(|record| (record.stage, record.step) <= (progress.stage, progress.step))
            .collect();
        let lines: String = kept.iter().map(line).collect();
        write_whole(&path, lines.as_bytes())?;
        let file = OpenOptions::new()
            .append(true)
            .open(&path)
            .map_err(|error| Error::io(&path, error))?;
        Ok(Self { path, file })
    }

    /// Adds a step.
    ///
    /// # Errors
    /// The disk is full.
    pub fn push(&mut self, record: &Record) -> Result<()> {
        let written = self.file.write_all(line(record).as_bytes());
        written.map_err(|error| Error::io(&self.path, error))
    }
}

fn line(record: &Record) -> String {
    let mut line = serde_json::to_string(record).expect("numbers and strings are JSON");
    line.push('\n');
    line
}

/// Reads a log. A last line that was cut off is left out.
///
/// # Errors
/// The file is there and cannot be read.
pub fn read(path: &Path) -> Result<Vec<Record>> {
    match engine::text_file::read(path) {
        Ok(text) => Ok(text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()),
        Err(engine::Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Ok(Vec::new())
        }
        Err(error) => Err(error.into()),
    }
}
