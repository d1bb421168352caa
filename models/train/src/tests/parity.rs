//! The forward pass of training is the engine's: the same parameters, the same probabilities. Where a
//! selection is much smaller than the context, those also show that the selected sets are the same.

use std::sync::Arc;

use burn::tensor::DType;
use engine::cache::{KeyFormat, LatentFormat};
use engine::model::{ForwardOptions, LogitRows};
use engine::trace::Trace;
use engine::{CacheFormat, Device, Model, Session, SessionOptions};

use super::{batch, config, config_json, net, pass};
use crate::export::{self, Store};
use crate::net::Net;
use crate::pass::{AttentionMode, Batch, PassOptions, PassStats};

/// Both compute in f32 and sum in different orders; logits here are within ±10.
const TOLERANCE: f64 = 2e-5;

const FORMAT: CacheFormat = CacheFormat {
    latent: LatentFormat::F32,
    keys: KeyFormat::F32,
};

fn stats(net: &Net, batch: &Batch, attention: AttentionMode) -> PassStats {
    let options = PassOptions {
        attention,
        mtp_weight: 1.0,
        balance_weight: 0.0,
        main_loss: true,
        watch_selection: false,
        watch_k: 0,
    };
    let bias = |layer: usize| {
        let name = format!("model.layers.{layer}.mlp.gate.e_score_correction_bias");
        let tensor = net.parameters[&name].tensor.clone();
        crate::pass::read(tensor).unwrap()
    };
    let leaves = net.leaves(|_| false);
    let result = pass(net, &leaves, batch, options, &bias);
    result.unwrap().stats
}

fn nll(logits: &[f32], target: u32) -> f64 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&x| f64::from(x - most).exp()).sum();
    sum.ln() - f64::from(logits[target as usize] - most)
}

/// What the engine gives for one sequence of `length + 2` ids: by position, of the token itself and
/// of the MTP layer.
fn engine_nll(model: &Arc<Model>, ids: &[u32], topk: Option<usize>) -> [Vec<f64>; 2] {
    let length = ids.len() - 2;
    let width = model.config().vocab_size;
    let options = SessionOptions {
        cache_format: FORMAT,
        chunk_tokens: length,
    };
    let mut session = Session::new(model.clone(), options).unwrap();
    let forward = ForwardOptions {
        index_topk: topk,
        ..ForwardOptions::default()
    };
    session.set_forward(forward.clone()).unwrap();
    let output = session.advance_all(&ids[..length]).unwrap();
    let of_rows = |logits: &[f32], ahead: usize| {
        let rows = logits.chunks_exact(width).enumerate();
        rows.map(|(row, logits)| nll(logits, ids[row + ahead]))
            .collect()
    };
    let main = of_rows(&output.logits.unwrap().read().unwrap(), 1);
    let mut cache = model.new_mtp_cache(FORMAT).unwrap();
    let next = &ids[1..=length];
    let mut trace = Trace::off();
    let all = LogitRows::All;
    let mtp = model.forward_mtp(&output.hidden, next, &mut cache, &forward, all, &mut trace);
    let mtp = of_rows(&mtp.unwrap().unwrap().read().unwrap(), 2);
    [main, mtp]
}

/// Runs both. `k` is what training selects, `None` for dense.
fn check(json: &serde_json::Value, batch: &Batch, k: Option<usize>) {
    let config = config(json);
    let net = net(&config, 21, DType::F32);
    let folder = tempfile::tempdir().unwrap();
    export::write(&net, &json.to_string(), Store::F32, folder.path()).unwrap();
    let model = Arc::new(Model::open(folder.path(), &Device::cpu()).unwrap());
    // Dense is a selection of everything.
    let topk = Some(k.unwrap_or(config.max_position_embeddings));
    let attention = k.map_or(AttentionMode::Dense, |k| AttentionMode::Sparse { k });
    let stride = batch.length + 2;
    let wanted: Vec<[Vec<f64>; 2]> = batch
        .ids
        .chunks_exact(stride)
        .map(|ids| engine_nll(&model, ids, topk))
        .collect();

    let mut all = batch.clone();
    all.loss.fill(true);
    let totals = stats(&net, &all, attention);
    let n = batch.n_sequences * batch.length;
    assert_eq!((totals.n_targets, totals.n_mtp_targets), (n, n));
    for (got, want) in [(totals.nll, 0), (totals.mtp_nll, 1)] {
        let want: f64 = wanted.iter().flat_map(|both| &both[want]).sum();
        let off = (got - want).abs() / n as f64;
        assert!(off <= TOLERANCE, "mean nll is off by {off}");
    }
    // Token by token: the ends of sequences and blocks, and some between.
    let length = batch.length;
    for (sequence, wanted) in wanted.iter().enumerate() {
        for at in [0, 1, 5, length / 2, 255, 256, 257, length - 1] {
            if at >= length {
                continue;
            }
            let mut one = batch.clone();
            one.loss.fill(false);
            one.loss[sequence * stride + at + 1] = true;
            let got = stats(&net, &one, attention);
            let want = wanted[0][at];
            let off = (got.nll - want).abs();
            assert!(
                off <= TOLERANCE,
                "sequence {sequence}, token {at}: {} and {want}",
                got.nll
            );
            assert_eq!(got.n_targets, 1);
            // The same target, one position earlier, is that of the MTP layer.
            if at > 0 {
                let want = wanted[1][at - 1];
                let off = (got.mtp_nll - want).abs();
                assert!(
                    off <= TOLERANCE,
                    "MTP {sequence}, {at}: {} and {want}",
                    got.mtp_nll
                );
            }
        }
    }
}

#[test]
fn dense_attention_is_that_of_the_engine() {
    check(&config_json(), &batch(3, 19, 37, 1), None);
    check(&config_json(), &batch(2, 259, 37, 2), None);
}

#[test]
fn sparse_attention_is_that_of_the_engine() {
    check(&config_json(), &batch(3, 19, 37, 3), Some(5));
    check(&config_json(), &batch(2, 259, 37, 4), Some(5));
    // As many as there are, one more, and one.
    check(&config_json(), &batch(1, 8, 37, 5), Some(8));
    check(&config_json(), &batch(1, 8, 37, 5), Some(9));
    check(&config_json(), &batch(2, 8, 37, 6), Some(1));
}

#[test]
fn one_token_and_more_than_two_blocks() {
    check(&config_json(), &batch(4, 1, 37, 7), None);
    check(&config_json(), &batch(1, 513, 37, 8), Some(17));
}

#[test]
fn a_watched_selection_is_weighed_by_dense_attention() {
    let net = net(&config(&config_json()), 9, DType::F32);
    let worth = |k: usize| {
        let options = PassOptions {
            attention: AttentionMode::Sparse { k },
            mtp_weight: 0.0,
            balance_weight: 0.0,
            main_loss: true,
            watch_selection: true,
            watch_k: k,
        };
        let bias = |_: usize| Vec::new();
        let leaves = net.leaves(|_| false);
        let batch = batch(2, 40, 37, 9);
        let result = pass(&net, &leaves, &batch, options, &bias);
        result.unwrap().stats.selection
    };
    // Among 5 of up to 40 positions lies a part of attention, in every layer; among 40 lies all.
    for (layer, stats) in worth(5) {
        assert!(
            stats.recall > 0.1 && stats.recall < 0.99,
            "layer {layer}: {stats:?}"
        );
        assert!(
            stats.overlap > 0.1 && stats.overlap <= 1.0,
            "layer {layer}: {stats:?}"
        );
    }
    for (layer, stats) in worth(40) {
        assert!(
            (stats.recall - 1.0).abs() < 1e-5,
            "layer {layer}: {stats:?}"
        );
        assert_eq!(stats.overlap, 1.0, "layer {layer}");
    }
}
