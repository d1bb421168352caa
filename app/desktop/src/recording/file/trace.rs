//! From a trace, which is a list of frames, to a recording.

use std::collections::BTreeSet;

use anyhow::ensure;
use engine::trace::{Frame, Stage, Value};

use super::super::{Header, Limits, Origin, Recording};
use super::read::check_header;

/// A recording of what `frames` hold. Tokens of the first frame, and of frames of more than one token, count
/// as given; the others as generated.
pub(super) fn recording(frames: &[Frame], model: String) -> anyhow::Result<Recording> {
    let header = header(frames, model);
    check_header(&header)?;
    let mut recording = Recording::new(header);
    recording.set_limits(Limits::with_logits());
    for (step, frame) in frames.iter().enumerate() {
        let problems = recording.push_frame(frame);
        ensure!(problems.is_empty(), "step {step}: {}", problems.join("; "));
        if step > 0 && frame.ids.len() == 1 {
            recording.change_token(frame.position, |token| {
                if let Some(token) = token {
                    token.origin = Origin::Generated;
                }
            });
        }
    }
    Ok(recording)
}

/// What frames tell of the model.
fn header(frames: &[Frame], model: String) -> Header {
    let mut header = Header {
        model,
        device: "unknown".into(),
        ..Header::default()
    };
    let mut sparse_layers = BTreeSet::new();
    let mut moe_layers = BTreeSet::new();
    for frame in frames {
        let end = frame.position.saturating_add(frame.ids.len());
        header.context = header.context.max(end);
        for (site, value) in &frame.values {
            let Some(layer) = site.layer else { continue };
            header.n_layers = header.n_layers.max(layer.saturating_add(1));
            let width = value.shape().last().copied().unwrap_or(0);
            match site.stage {
                // Only an indexer has scores.
                Stage::SelectedScores | Stage::IndexScores => {
                    sparse_layers.insert(layer);
                }
                Stage::SelectedPositions => {
                    if let Some(n) = most_selected(frame, value) {
                        sparse_layers.insert(layer);
                        header.index_topk = header.index_topk.max(Some(n));
                    }
                }
                Stage::AttentionHeads => {
                    let n_heads = value.shape().get(1).copied().unwrap_or(0);
                    header.n_heads = header.n_heads.max(n_heads);
                }
                Stage::GateScores => {
                    moe_layers.insert(layer);
                    header.n_routed_experts = header.n_routed_experts.max(width);
                }
                Stage::Experts => {
                    moe_layers.insert(layer);
                    let last = value.integers().unwrap_or_default().iter().copied().max();
                    let n = last
                        .and_then(|last| usize::try_from(last).ok())
                        .map_or(0, |last| last + 1);
                    header.n_routed_experts = header.n_routed_experts.max(n);
                    header.num_experts_per_tok = header.num_experts_per_tok.max(width);
                }
                _ => {}
            }
        }
    }
    header.sparse_layers = sparse_layers.into_iter().collect();
    header.moe_layers = moe_layers.into_iter().collect();
    header
}

/// Most positions that a row selected which did not select all it could see; `None` if each did.
fn most_selected(frame: &Frame, positions: &Value) -> Option<usize> {
    let width = positions.shape().last().copied().unwrap_or(0).max(1);
    let rows = positions.integers().unwrap_or_default().chunks(width);
    let counts = rows.enumerate().filter_map(|(row, slots)| {
        let n = slots.iter().filter(|&&slot| slot >= 0).count();
        (n <= frame.position.saturating_add(row)).then_some(n)
    });
    counts.max()
}
