//! The arrays of a frame, shapes checked.
//!
//! What does not hold together is left out and told.

use std::collections::BTreeSet;

use engine::trace::{Frame, Site, Stage, Value};

use super::Header;

/// Sentences about what was left out, one for each array.
#[derive(Default)]
pub(super) struct Problems {
    sites: BTreeSet<Site>,
    pub sentences: Vec<String>,
}

impl Problems {
    pub(super) fn tell(&mut self, site: Site, problem: impl FnOnce() -> String) {
        if self.sites.insert(site) {
            let stage = site.stage.info().name;
            self.sentences.push(match site.layer {
                Some(layer) => format!("{stage} of layer {layer}: {}", problem()),
                None => format!("{stage}: {}", problem()),
            });
        }
    }
}

/// One array of a frame, `[rows, width]` or, for heads, `[rows, n_heads, width]`.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a, T> {
    data: &'a [T],
    pub n_heads: usize,
    pub width: usize,
}

impl<'a, T> Rows<'a, T> {
    pub(super) fn row(&self, row: usize) -> &'a [T] {
        let n = self.n_heads * self.width;
        &self.data[row * n..(row + 1) * n]
    }
}

/// What a frame holds of one layer, shapes checked.
#[derive(Default)]
pub(super) struct Layer<'a> {
    pub positions: Option<Rows<'a, i32>>,
    pub scores: Option<Rows<'a, f32>>,
    pub mean: Option<Rows<'a, f32>>,
    pub heads: Option<Rows<'a, f32>>,
    pub experts: Option<Rows<'a, i32>>,
    pub expert_weights: Option<Rows<'a, f32>>,
    pub gate_scores: Option<Rows<'a, f32>>,
    pub norm: Option<Rows<'a, f32>>,
}

/// The layers of a frame; arrays of the wrong shape are left out.
pub(super) fn layers<'a>(
    frame: &'a Frame,
    header: &Header,
    problems: &mut Problems,
) -> Vec<Layer<'a>> {
    let n = frame.ids.len();
    let mut layers: Vec<Layer> = Vec::new();
    layers.resize_with(header.n_layers, Layer::default);
    for (&site, value) in &frame.values {
        let Some(layer) = site.layer else { continue };
        let Some(parts) = layers.get_mut(layer) else {
            if layer > header.n_layers {
                let n_layers = header.n_layers;
                problems.tell(site, || format!("expected a layer below {n_layers}"));
            }
            continue;
        };
        // 0 in a header: not known.
        let known = |n: usize| (n > 0).then_some(n);
        match site.stage {
            Stage::SelectedPositions => parts.positions = integers(site, value, n, problems),
            Stage::SelectedScores => parts.scores = floats(site, value, n, None, problems),
            Stage::AttentionMean => parts.mean = floats(site, value, n, None, problems),
            Stage::AttentionHeads => {
                parts.heads = heads(site, value, n, known(header.n_heads), problems);
            }
            Stage::Experts => parts.experts = integers(site, value, n, problems),
            Stage::ExpertWeights => parts.expert_weights = floats(site, value, n, None, problems),
            Stage::GateScores => {
                let width = known(header.n_routed_experts);
                parts.gate_scores = floats(site, value, n, width, problems);
            }
            Stage::ResidualNorm => parts.norm = floats(site, value, n, Some(1), problems),
            Stage::Hidden | Stage::IndexScores | Stage::FinalHidden | Stage::Logits => {}
        }
    }
    for (layer, parts) in layers.iter_mut().enumerate() {
        let site = |stage| Site {
            layer: Some(layer),
            stage,
        };
        let mut fit = |stage, part: &mut Option<Rows<f32>>, to: Option<usize>, what: &str| {
            let Some(found) = part.map(|part| part.width) else {
                return;
            };
            if to != Some(found) {
                problems.tell(site(stage), || match to {
                    Some(to) => format!("{found} a row, expected {to}, one for each of {what}"),
                    None => format!("found without {what}, expected both"),
                });
                *part = None;
            }
        };
        let slots = parts.positions.map(|positions| positions.width);
        let positions = Stage::SelectedPositions.info().name;
        fit(Stage::SelectedScores, &mut parts.scores, slots, positions);
        fit(Stage::AttentionMean, &mut parts.mean, slots, positions);
        fit(Stage::AttentionHeads, &mut parts.heads, slots, positions);
        let slots = parts.experts.map(|experts| experts.width);
        let experts = Stage::Experts.info().name;
        fit(
            Stage::ExpertWeights,
            &mut parts.expert_weights,
            slots,
            experts,
        );
    }
    layers
}

fn integers<'a>(
    site: Site,
    value: &'a Value,
    n: usize,
    problems: &mut Problems,
) -> Option<Rows<'a, i32>> {
    let Some(data) = value.integers() else {
        problems.tell(site, || "found floats, expected integers".into());
        return None;
    };
    rows(site, value.shape(), data, n, problems)
}

pub(super) fn floats<'a>(
    site: Site,
    value: &'a Value,
    n: usize,
    width: Option<usize>,
    problems: &mut Problems,
) -> Option<Rows<'a, f32>> {
    let Some(data) = value.floats() else {
        problems.tell(site, || "found integers, expected floats".into());
        return None;
    };
    let rows = rows(site, value.shape(), data, n, problems)?;
    if let Some(width) = width.filter(|&width| width != rows.width) {
        problems.tell(site, || {
            format!("found {} a row, expected {width}", rows.width)
        });
        return None;
    }
    Some(rows)
}

fn rows<'a, T>(
    site: Site,
    shape: &[usize],
    data: &'a [T],
    n: usize,
    problems: &mut Problems,
) -> Option<Rows<'a, T>> {
    match *shape {
        [rows, width] if rows == n && rows.checked_mul(width) == Some(data.len()) => Some(Rows {
            data,
            n_heads: 1,
            width,
        }),
        _ => {
            problems.tell(site, || misfit(shape, data.len(), n));
            None
        }
    }
}

fn heads<'a>(
    site: Site,
    value: &'a Value,
    n: usize,
    expected_heads: Option<usize>,
    problems: &mut Problems,
) -> Option<Rows<'a, f32>> {
    let data = value.floats().unwrap_or_default();
    match *value.shape() {
        [rows, n_heads, width]
            if rows == n
                && expected_heads.is_none_or(|expected| expected == n_heads)
                && n_heads
                    .checked_mul(width)
                    .and_then(|row| row.checked_mul(n))
                    == Some(data.len()) =>
        {
            Some(Rows {
                data,
                n_heads,
                width,
            })
        }
        _ => {
            problems.tell(site, || misfit(value.shape(), data.len(), n));
            None
        }
    }
}

fn misfit(shape: &[usize], n_numbers: usize, n: usize) -> String {
    format!("found shape {shape:?} with {n_numbers} numbers, expected those of {n} rows")
}
