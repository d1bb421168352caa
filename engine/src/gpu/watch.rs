//! What inspectors see of a pass: stages are read back, and computed only if somebody watches.

use shaders::{attend, attend_weights};

use super::attention::IndexQuery;
use super::caches::KeyBuffer;
use super::feed_forward::Routes;
use super::forward::GpuPass;
use super::launch::{Buffer, Gpu};
use super::rows::GpuRows;
use crate::Result;
use crate::pass::WORKSPACE_BYTES;
use crate::trace::{Stage, Trace, Value};

/// Records rows `first..` as a stage of the whole model.
pub(super) fn record_rows(
    trace: &mut Trace,
    stage: Stage,
    rows: &GpuRows,
    first: usize,
) -> Result<()> {
    let width = rows.width();
    let values = rows.read(first, rows.n_rows() - first)?;
    trace.record(
        None,
        stage,
        Value::f32([rows.n_rows() - first, width], values),
    );
    Ok(())
}

/// Records the residual stream after a layer, `x + fed`.
pub(super) fn record_residual(
    gpu: &Gpu,
    layer: usize,
    x: &Buffer,
    fed: &Buffer,
    n: usize,
    width: usize,
    trace: &mut Trace,
) -> Result<()> {
    let wants_hidden = trace.wants(layer, Stage::Hidden);
    let wants_norm = trace.wants(layer, Stage::ResidualNorm);
    if !wants_hidden && !wants_norm {
        return Ok(());
    }
    let both = gpu.read_all([x, fed])?;
    let first = trace.first_row(n);
    // The next norm kernel adds the two in the same way.
    let rows: Vec<f32> = both[0][first * width..n * width]
        .iter()
        .zip(&both[1][first * width..n * width])
        .map(|(x, fed)| f32::from_bits(*x) + f32::from_bits(*fed))
        .collect();
    let n = n - first;
    if wants_norm {
        let norm = |row: &[f32]| {
            let sum: f64 = row.iter().map(|v| f64::from(*v).powi(2)).sum();
            sum.sqrt() as f32
        };
        let norms = rows.chunks_exact(width).map(norm).collect();
        trace.record(layer, Stage::ResidualNorm, Value::f32([n, 1], norms));
    }
    if wants_hidden {
        trace.record(layer, Stage::Hidden, Value::f32([n, width], rows));
    }
    Ok(())
}

/// Records the routes of a layer, for traces and for replay.
pub(super) fn record_routes(
    gpu: &Gpu,
    layer: usize,
    routes: &Routes,
    pass: &mut GpuPass,
) -> Result<()> {
    let wants = |trace: &Trace, stage| trace.wants(layer, stage);
    let stages = [Stage::GateScores, Stage::Experts, Stage::ExpertWeights];
    let watched = stages.map(|stage| wants(pass.trace, stage));
    if watched == [false; 3] && pass.records.routes.is_none() {
        return Ok(());
    }
    let read = gpu.read_all([&routes.scores, &routes.experts, &routes.weights])?;
    let (k, n_experts) = (routes.k, routes.n_experts);
    // Slots beyond k are the shared experts: no choice, so not recorded.
    let chosen = |words: &[u32]| -> Vec<u32> {
        words[..routes.n * routes.slots]
            .chunks_exact(routes.slots)
            .flat_map(|row| row[..k].iter().copied())
            .collect()
    };
    let experts = chosen(&read[1]);
    let weights: Vec<f32> = chosen(&read[2]).into_iter().map(f32::from_bits).collect();
    if let Some(record) = pass.records.routes.as_deref_mut() {
        let experts: Vec<u16> = experts.iter().map(|&expert| expert as u16).collect();
        record.record(layer, pass.position, &experts, &weights)?;
    }
    let first = pass.trace.first_row(routes.n);
    let n = routes.n - first;
    if watched[0] {
        let scores = read[0][first * n_experts..routes.n * n_experts]
            .iter()
            .map(|&word| f32::from_bits(word))
            .collect();
        pass.trace
            .record(layer, Stage::GateScores, Value::f32([n, n_experts], scores));
    }
    if watched[1] {
        let experts = experts[first * k..]
            .iter()
            .map(|&expert| expert as i32)
            .collect();
        pass.trace
            .record(layer, Stage::Experts, Value::i32([n, k], experts));
    }
    if watched[2] {
        let weights = weights[first * k..].to_vec();
        pass.trace
            .record(layer, Stage::ExpertWeights, Value::f32([n, k], weights));
    }
    Ok(())
}

/// The watched rows of a layer's attention.
pub(super) struct Watched<'a> {
    pub gpu: &'a Gpu,
    pub layer: usize,
    /// Position of the first token of the pass.
    pub position: usize,
    /// Tokens of the pass.
    pub n: usize,
    /// First watched row.
    pub first: usize,
    /// Slots of a row of the selection.
    pub k: usize,
}

impl Watched<'_> {
    fn context(&self) -> usize {
        self.position + self.n
    }

    /// Records index scores, selected positions and their scores.
    pub(super) fn record_selection(
        &self,
        selection: Option<&Buffer>,
        query: Option<&IndexQuery>,
        keys: Option<&KeyBuffer>,
        trace: &mut Trace,
    ) -> Result<()> {
        let stages = [
            Stage::IndexScores,
            Stage::SelectedPositions,
            Stage::SelectedScores,
        ];
        let [wants_all, wants_positions, wants_chosen] =
            stages.map(|stage| trace.wants(self.layer, stage));
        if !wants_all && !wants_positions && !wants_chosen {
            return Ok(());
        }
        let (context, n) = (self.context(), self.n - self.first);
        let slots = selection.map_or(context, |_| self.k);
        let positions: Vec<i32> = match selection {
            Some(selection) => self.gpu.read(selection)?[self.first * slots..self.n * slots]
                .iter()
                .map(|&word| word as i32)
                .collect(),
            None => (self.first..self.n)
                .flat_map(|row| {
                    let last = self.position + row;
                    (0..slots).map(move |slot| if slot <= last { slot as i32 } else { -1 })
                })
                .collect(),
        };
        if let (true, Some(query), Some(keys)) = (wants_all || wants_chosen, query, keys) {
            let scores = self.scores(query, keys)?;
            if wants_chosen {
                let chosen = positions
                    .iter()
                    .enumerate()
                    .map(|(at, &s)| match usize::try_from(s) {
                        Ok(s) => scores[at / slots * context + s],
                        Err(_) => 0.0,
                    })
                    .collect();
                trace.record(
                    self.layer,
                    Stage::SelectedScores,
                    Value::f32([n, slots], chosen),
                );
            }
            if wants_all {
                trace.record(
                    self.layer,
                    Stage::IndexScores,
                    Value::f32([n, context], scores),
                );
            }
        }
        if wants_positions {
            trace.record(
                self.layer,
                Stage::SelectedPositions,
                Value::i32([n, slots], positions),
            );
        }
        Ok(())
    }

    /// Scores of the watched rows, `[rows, context]`, −∞ where not visible.
    fn scores(&self, query: &IndexQuery, keys: &KeyBuffer) -> Result<Vec<f32>> {
        let context = self.context();
        let stride = context.next_multiple_of(4);
        let rows = (WORKSPACE_BYTES / 4 / stride).clamp(1, self.n);
        let buffer = self.gpu.empty(rows * stride);
        let mut all = Vec::with_capacity((self.n - self.first) * context);
        for first_row in (self.first..self.n).step_by(rows) {
            let tokens = rows.min(self.n - first_row);
            let position = self.position + first_row;
            query.scores(self.gpu, keys, &buffer, tokens, first_row, position, stride)?;
            let words = self.gpu.read(&buffer)?;
            for (row, words) in words.chunks_exact(stride).take(tokens).enumerate() {
                let visible = position + row + 1;
                all.extend(words[..visible].iter().map(|&word| f32::from_bits(word)));
                all.resize(all.len() + context - visible, f32::NEG_INFINITY);
            }
        }
        Ok(all)
    }

    /// Records attention weights per head and their mean.
    #[allow(
        clippy::too_many_arguments,
        reason = "the buffers of one kernel, one call site"
    )]
    pub(super) fn record_weights(
        &self,
        call: &attend::Call,
        splits: usize,
        q_lat: &Buffer,
        latents: &Buffer,
        selection: Option<&Buffer>,
        stats: &Buffer,
        trace: &mut Trace,
    ) -> Result<()> {
        let wants_mean = trace.wants(self.layer, Stage::AttentionMean);
        let wants_heads = trace.wants(self.layer, Stage::AttentionHeads);
        if !wants_mean && !wants_heads {
            return Ok(());
        }
        let slots = selection.map_or(self.context(), |_| self.k);
        let (n, heads) = (self.n - self.first, call.heads);
        let weights = self.gpu.empty(self.n * heads * slots);
        let call = attend_weights::Call {
            attend: *call,
            slots,
            splits,
        };
        let dispatch = attend_weights::dispatch(&call, self.gpu.tuning());
        let selection = selection.unwrap_or(self.gpu.unused(0));
        self.gpu
            .launch(dispatch, &[q_lat, latents, selection, stats, &weights])?;
        let row = heads * slots;
        let weights: Vec<f32> = self.gpu.read(&weights)?[self.first * row..self.n * row]
            .iter()
            .map(|&word| f32::from_bits(word))
            .collect();
        if wants_mean {
            let mut mean = vec![0.0; n * slots];
            for (mean, heads_of) in mean.chunks_exact_mut(slots).zip(weights.chunks_exact(row)) {
                for head in heads_of.chunks_exact(slots) {
                    for (mean, weight) in mean.iter_mut().zip(head) {
                        *mean += weight / heads as f32;
                    }
                }
            }
            trace.record(
                self.layer,
                Stage::AttentionMean,
                Value::f32([n, slots], mean),
            );
        }
        if wants_heads {
            trace.record(
                self.layer,
                Stage::AttentionHeads,
                Value::f32([n, heads, slots], weights),
            );
        }
        Ok(())
    }
}
