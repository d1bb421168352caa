//! What inspectors see of a pass: kept on the device while it runs, and read once behind it.
//!
//! Only watched rows are kept, by a copy on the device, and nothing of a stage that nobody watches. What
//! waits there is no more than [`WORKSPACE_BYTES`]: a recording beyond that is fetched on the way.

use std::ops::Range;

use shaders::copy_words;

use super::launch::{Buffer, Gpu};
use super::rows::check_status;
use crate::Result;
use crate::pass::{Records, WORKSPACE_BYTES};
use crate::trace::{Stage, Trace, Value};

/// What is kept of a pass until it is over.
pub(super) struct Kept {
    gpu: Gpu,
    status: Buffer,
    /// Position of the first token.
    position: usize,
    /// First watched row of how many.
    first: usize,
    n: usize,
    arrays: Vec<Array>,
    /// Rows on the device that are the next of an array.
    waiting: Vec<(usize, Buffer, usize)>,
    waiting_bytes: usize,
}

/// Rows of one stage in one layer.
struct Array {
    layer: Option<usize>,
    stage: Stage,
    /// Its first row in the pass.
    first: usize,
    /// Words from one row to the next.
    stride: usize,
    /// Of a row, without what fills it up.
    shape: Vec<usize>,
    words: Vec<u32>,
}

/// Rows of the pass in a buffer.
#[derive(Clone)]
pub(super) struct Rows<'a> {
    pub buffer: &'a Buffer,
    /// Which; the first begins the buffer.
    pub rows: Range<usize>,
    pub stride: usize,
}

impl Kept {
    pub(super) fn new(gpu: Gpu, status: Buffer, position: usize, n: usize, trace: &Trace) -> Self {
        Self {
            gpu,
            status,
            position,
            first: trace.first_row(n),
            n,
            arrays: Vec::new(),
            waiting: Vec::new(),
            waiting_bytes: 0,
        }
    }

    /// The watched rows.
    pub(super) fn watched(&self) -> Range<usize> {
        self.first..self.n
    }

    /// Keeps the watched ones of `rows`, each of `shape`, if somebody watches `stage` in `layer`.
    pub(super) fn keep(
        &mut self,
        trace: &Trace,
        layer: impl Into<Option<usize>>,
        stage: Stage,
        rows: Rows,
        shape: &[usize],
    ) -> Result<()> {
        let layer = layer.into();
        if !trace.wants(layer, stage) {
            return Ok(());
        }
        self.take(layer, stage, self.first, rows, shape)
    }

    /// Keeps the rows from `first` on, whoever asks.
    pub(super) fn take(
        &mut self,
        layer: Option<usize>,
        stage: Stage,
        first: usize,
        rows: Rows,
        shape: &[usize],
    ) -> Result<()> {
        let Rows {
            buffer,
            rows,
            stride,
        } = rows;
        let from = rows.start.max(first);
        if from >= rows.end {
            return Ok(());
        }
        let call = copy_words::Call {
            from_offset: (from - rows.start) * stride,
            to_offset: 0,
            n: (rows.end - from) * stride,
        };
        let copy = self.gpu.empty(call.n);
        let dispatch = copy_words::dispatch(&call, self.gpu.tuning());
        self.gpu.launch(dispatch, &[buffer, &copy])?;
        // Rows of a stage come in order, so that those of one array follow each other.
        let is_it = |array: &Array| (array.layer, array.stage) == (layer, stage);
        let at = self.arrays.iter().rposition(is_it).unwrap_or_else(|| {
            self.arrays.push(Array {
                layer,
                stage,
                first,
                stride,
                shape: shape.to_vec(),
                words: Vec::new(),
            });
            self.arrays.len() - 1
        });
        self.waiting_bytes += 4 * call.n;
        self.waiting.push((at, copy, call.n));
        if self.waiting_bytes > WORKSPACE_BYTES {
            self.fetch()?;
        }
        Ok(())
    }

    /// Reads what waits on the device, and with it whether all went well so far.
    fn fetch(&mut self) -> Result<()> {
        let mut buffers = vec![&self.status];
        buffers.extend(self.waiting.iter().map(|(_, buffer, _)| buffer));
        let read = self.gpu.read_all(&buffers)?;
        check_status(&read[0])?;
        for ((at, _, n), words) in self.waiting.drain(..).zip(&read[1..]) {
            self.arrays[at].words.extend_from_slice(&words[..n]);
        }
        self.waiting_bytes = 0;
        Ok(())
    }

    /// Hands over what was kept. If nothing was, waits for the pass only if it `must` be known to have
    /// gone well.
    pub(super) fn finish(
        &mut self,
        trace: &mut Trace,
        records: &mut Records,
        must: bool,
    ) -> Result<()> {
        if must || !self.arrays.is_empty() {
            self.fetch()?;
        }
        let mut experts = Vec::new();
        for array in std::mem::take(&mut self.arrays) {
            let route = match array.stage {
                Stage::Experts | Stage::ExpertWeights => records.routes.as_deref_mut(),
                _ => None,
            };
            if let (Some(record), Some(layer)) = (route, array.layer) {
                match array.stage {
                    Stage::Experts => experts = array.rows(0).map(|id| id as u16).collect(),
                    _ => {
                        let weights: Vec<f32> = array.rows(0).map(f32::from_bits).collect();
                        record.record(layer, self.position, &experts, &weights)?;
                    }
                }
            }
            self.tell(array, trace);
        }
        Ok(())
    }

    /// Records what is watched of an array.
    fn tell(&self, array: Array, trace: &mut Trace) {
        let (layer, stage) = (array.layer, array.stage);
        let n = self.n - self.first;
        let skipped = self.first - array.first;
        let shape: Vec<usize> = std::iter::once(n)
            .chain(array.shape.iter().copied())
            .collect();
        let floats = || array.rows(skipped).map(f32::from_bits);
        let value = match stage {
            Stage::Experts | Stage::SelectedPositions => {
                Value::i32(shape, array.rows(skipped).map(|word| word as i32).collect())
            }
            Stage::IndexScores | Stage::SelectedScores => {
                let beyond = match stage {
                    Stage::IndexScores => f32::NEG_INFINITY,
                    _ => 0.0,
                };
                let width = array.width();
                let visible = |at: usize| self.position + self.first + at / width + 1;
                let score = |(at, score)| {
                    if at % width < visible(at) {
                        score
                    } else {
                        beyond
                    }
                };
                Value::f32(shape, floats().enumerate().map(score).collect())
            }
            _ => Value::f32(shape, floats().collect()),
        };
        if let (Stage::Hidden, Value::F32 { data, .. }, true) =
            (stage, &value, trace.wants(layer, Stage::ResidualNorm))
        {
            let norm = |row: &[f32]| {
                let sum: f64 = row.iter().map(|v| f64::from(*v).powi(2)).sum();
                sum.sqrt() as f32
            };
            let norms = data.chunks_exact(array.width()).map(norm).collect();
            trace.record(layer, Stage::ResidualNorm, Value::f32([n, 1], norms));
        }
        if trace.wants(layer, stage) {
            trace.record(layer, stage, value);
        }
    }
}

impl Array {
    fn width(&self) -> usize {
        self.shape.iter().product()
    }

    /// Its words from row `first` on, without what fills rows up.
    fn rows(&self, first: usize) -> impl Iterator<Item = u32> {
        let rows = self.words.chunks_exact(self.stride).skip(first);
        rows.flat_map(|row| row[..self.width()].iter().copied())
    }
}
