//! One forward pass beside the oracle's, number by number and set by set.

use super::oracle::Oracle;
use super::{DECIDED_BY_ROUNDING, FP8_MOVED, SetDifference, StageReport, Tolerance};
use crate::trace::{Frame, Stage};

/// Compares passes with the oracle, stage by stage.
pub(super) struct Compare<'a> {
    pub(super) oracle: &'a Oracle,
    pub(super) tolerance: Tolerance,
    pub(super) stages: Vec<StageReport>,
}

impl Compare<'_> {
    /// One forward pass, which may have been run in several chunks.
    pub(super) fn pass(&mut self, prefix: &str, layers: std::ops::Range<usize>, frames: &[Frame]) {
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
    pub(super) fn row(&mut self, name: &str, row: usize, frames: &[Frame]) {
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
