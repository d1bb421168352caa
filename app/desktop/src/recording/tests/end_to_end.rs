//! A real model on real prompts: the recording against the engine's own frames.

use std::path::Path;
use std::sync::Arc;

use engine::model::ForwardOptions;
use engine::trace::{Frame, Stage, Watch, WatchedRows};
use engine::{Device, Model, Session, SessionOptions};

use super::super::compare::{dense_recall, divergences, kl};
use super::super::testing::{plain_experts, plain_selection, row_of, same};
use super::super::{Header, Limits, Recording};

fn model(name: &str) -> Arc<Model> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
    Arc::new(Model::open(&fixtures.join(name), &Device::cpu()).unwrap())
}

fn header(model: &Model) -> Header {
    let config = model.config();
    let moe = config.moe.as_ref();
    Header {
        model: "fixture".into(),
        device: model.device().info.name.clone(),
        n_layers: config.num_hidden_layers,
        sparse_layers: (0..config.num_hidden_layers).collect(),
        moe_layers: (0..config.num_hidden_layers)
            .filter(|&layer| config.is_moe(layer))
            .collect(),
        n_routed_experts: moe.map_or(0, |moe| moe.n_routed_experts),
        num_experts_per_tok: moe.map_or(0, |moe| moe.num_experts_per_tok),
        n_heads: config.num_attention_heads,
        index_topk: config.indexer.as_ref().map(|indexer| indexer.index_topk),
        context: config.max_position_embeddings,
    }
}

fn ids() -> Vec<u32> {
    (0..64).map(|at| (at * 37 + 11) % 128).collect()
}

/// Feeds all ids in chunks of 7 and records all of it.
fn run(model: &Arc<Model>, dense: bool) -> (Recording, Vec<Frame>) {
    let mut session = Session::new(model.clone(), SessionOptions::default()).unwrap();
    session
        .set_forward(ForwardOptions {
            dense,
            ..ForwardOptions::default()
        })
        .unwrap();
    session.watch(Watch::everything(WatchedRows::All));
    let mut recording = Recording::new(header(model));
    recording.set_limits(Limits {
        logits_bytes: 1 << 20,
        ..Limits::default()
    });
    let mut frames = Vec::new();
    for chunk in ids().chunks(7) {
        session.advance(chunk).unwrap();
        for frame in session.take_frames() {
            assert_eq!(recording.push_frame(&frame), [""; 0]);
            frames.push(frame);
        }
    }
    assert_eq!(recording.n_tokens(), ids().len());
    (recording, frames)
}

/// Frames of whole chunks, so that a position's row is easy to find.
fn row(frames: &[Frame], position: usize) -> (&Frame, usize) {
    (&frames[position / 7], position % 7)
}

#[test]
fn a_recording_holds_what_the_engine_recorded() {
    for name in ["v32-f32", "glm-dsa", "v2-lite"] {
        let model = model(name);
        let config = model.config();
        let (recording, frames) = run(&model, false);
        let ids = ids();
        for (position, &id) in ids.iter().enumerate() {
            let (frame, at) = row(&frames, position);
            assert_eq!(frame.ids[at], id);
            for layer in 0..config.num_hidden_layers {
                let plain = plain_selection(frame, at, layer).unwrap();
                let found = recording.selection(position, layer).unwrap();
                assert_eq!(
                    found.positions, plain.positions,
                    "{name} {position} {layer}"
                );
                assert!(
                    same(&found.scores, &plain.scores),
                    "{name} {position} {layer}"
                );
                assert!(
                    same(&found.weights, &plain.weights),
                    "{name} {position} {layer}"
                );
                assert_eq!(
                    recording.experts(position, layer),
                    plain_experts(frame, at, layer)
                );
                assert_eq!(
                    recording.experts(position, layer).is_some(),
                    config.is_moe(layer)
                );
                let (_, weights) = recording.heads(position, layer).unwrap();
                let n_heads = config.num_attention_heads;
                for head in weights.chunks(weights.len() / n_heads) {
                    let sum: f32 = head.iter().sum();
                    // A softmax in f32 over at most 64 positions.
                    assert!((sum - 1.0).abs() < 1e-5, "{name} {position} {layer}: {sum}");
                }
            }
            if let Some(next) = recording.token(position + 1) {
                let logits = row_of(
                    frame.get(None, Stage::Logits).unwrap().floats().unwrap(),
                    frame,
                    at,
                );
                let sum: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
                let plain = f64::from(logits[next.id as usize]) - sum.ln();
                assert!((f64::from(next.logprob.unwrap()) - plain).abs() < 1e-5);
                assert!(
                    next.candidates
                        .iter()
                        .any(|candidate| candidate.id == next.id)
                );
                let best = &next.candidates[0];
                assert!(
                    logits
                        .iter()
                        .all(|&logit| logit <= logits[best.id as usize])
                );
            }
        }
        // Every layer selects what the last token reads.
        let counts = recording.n_layers_selecting(63);
        let n: usize = counts.iter().map(|&n| usize::from(n)).sum();
        let selected =
            (0..config.num_hidden_layers).map(|layer| recording.n_selected(63, layer).unwrap());
        assert_eq!(n, selected.sum::<usize>());
        let mass: f32 = recording.attention_mass(63).iter().sum();
        assert!((mass - 1.0).abs() < 1e-5, "{name}: {mass}");
    }
}

#[test]
fn dense_recall_is_the_same_two_ways() {
    let model = model("v32-f32");
    let (sparse, sparse_frames) = run(&model, false);
    let (dense, dense_frames) = run(&model, true);
    let mut least = 1.0f32;
    for position in 0..64 {
        let (sparse_frame, at) = row(&sparse_frames, position);
        let (dense_frame, _) = row(&dense_frames, position);
        for layer in 0..model.config().num_hidden_layers {
            let found = dense_recall(&sparse, &dense, position, layer).unwrap();
            // From the frame: dense weights are one for each position, so the sum over the selection.
            let weights = dense_frame
                .get(layer, Stage::AttentionMean)
                .unwrap()
                .floats()
                .unwrap();
            let weights = row_of(weights, dense_frame, at);
            let selected = plain_selection(sparse_frame, at, layer).unwrap().positions;
            let on: f64 = selected
                .iter()
                .map(|&p| f64::from(weights[p as usize]))
                .sum();
            let plain = on / weights.iter().map(|&w| f64::from(w)).sum::<f64>();
            assert!(
                (f64::from(found) - plain).abs() < 1e-6,
                "{position} {layer}: {found} {plain}"
            );
            least = least.min(found);
        }
    }
    // The fixture reads 16 of up to 64 positions, so something must be missed somewhere.
    assert!(least < 0.95, "{least}");
    let rows = divergences(&sparse, &dense);
    assert_eq!(rows.len(), 64);
    // As long as everything is read, the two are the same to the bit.
    assert!(
        rows[..16]
            .iter()
            .all(|row| row.kl == 0.0 && !row.top1_differs)
    );
    assert!(rows[16..].iter().any(|row| row.kl > 0.0));
    for row in &rows[16..] {
        assert_eq!(row.n_selected_only_variant, [row.position - 15; 3]);
        assert_eq!(row.n_selected_only_base, [0; 3]);
        let logits = |recording: &Recording| recording.logits(row.position).unwrap().to_vec();
        assert_eq!(row.kl, kl(&logits(&sparse), &logits(&dense)));
    }
}
