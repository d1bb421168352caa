//! Two recordings side by side, and KL.

use std::collections::BTreeSet;

use engine::trace::{Frame, Stage};

use super::super::compare::{
    continuations, dense_recall, divergences, kl, recall, selection_difference,
};
use super::super::testing::{Random, Sketch, floats, ints, plain_selection, put, token};
use super::super::{Limits, Recording};

#[test]
fn kl_is_that_of_the_definition() {
    let mut random = Random::new(5);
    for n in [1, 2, 3, 1000] {
        for scale in [0.0, 1.0, 30.0] {
            let mut row = || -> Vec<f32> { (0..n).map(|_| scale * random.float()).collect() };
            let (base, variant) = (row(), row());
            let softmax = |row: &[f32]| -> Vec<f64> {
                let sum: f64 = row.iter().map(|&l| f64::from(l).exp()).sum();
                row.iter().map(|&l| f64::from(l).exp() / sum).collect()
            };
            let (p, q) = (softmax(&base), softmax(&variant));
            let plain: f64 = p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum();
            let found = f64::from(kl(&base, &variant));
            // One rounding to f32, and the cancellation of terms near 0.
            assert!(
                (found - plain).abs() <= 1e-6 * plain.abs() + 1e-12,
                "{found} {plain}"
            );
            assert_eq!(kl(&base, &base), 0.0);
            // Only differences of logits count, however large the logits.
            let moved: Vec<f32> = variant.iter().map(|l| l + 1024.0).collect();
            assert!((f64::from(kl(&base, &moved)) - plain).abs() < 1e-3 * plain.max(1.0));
        }
    }
}

#[test]
fn kl_of_masked_and_broken_rows() {
    const OUT: f32 = f32::NEG_INFINITY;
    // Half against a quarter, twice: ln 2.
    let (half, quarter) = ([0.0, 0.0, OUT, OUT], [0.0; 4]);
    assert!((kl(&half, &quarter) - 2f32.ln()).abs() < 1e-6);
    assert_eq!(kl(&quarter, &half), f32::INFINITY);
    assert_eq!(kl(&half, &half), 0.0);
    // So unlikely that it rounds to 0, and excluded by the other.
    assert!(kl(&[0.0, -1e30], &[0.0, OUT]) == 0.0);
    for broken in [
        [f32::NAN, 0.0],
        [0.0, f32::NAN],
        [f32::INFINITY, 0.0],
        [OUT, OUT],
    ] {
        assert!(kl(&broken, &[0.0, 0.0]).is_nan(), "{broken:?}");
        assert!(kl(&[0.0, 0.0], &broken).is_nan(), "{broken:?}");
    }
    assert!(kl(&[], &[]).is_nan());
    assert!(kl(&[0.0], &[0.0, 1.0]).is_nan());
}

/// A sparse and a dense run over the same tokens.
fn pair(n_layers: usize, k: usize, n: usize, seed: u64) -> (Vec<Recording>, Vec<Frame>) {
    let sparse = Sketch::new(n_layers, k, 4);
    let mut dense = sparse.clone();
    dense.header.index_topk = None;
    let ids: Vec<u32> = (0..n as u32).map(|at| at % 50).collect();
    let mut random = Random::new(seed);
    let sketches = [sparse, dense];
    let frames = sketches
        .each_ref()
        .map(|sketch| sketch.frame(&mut random, 0, &ids));
    let recordings = sketches.iter().zip(&frames).map(|(sketch, frame)| {
        let mut recording = sketch.recording();
        recording.set_limits(Limits {
            logits_bytes: 1 << 20,
            ..Limits::default()
        });
        assert!(recording.push_frame(frame).is_empty());
        recording
    });
    (recordings.collect(), frames.to_vec())
}

#[test]
fn recall_is_the_share_of_dense_weight() {
    for (k, n) in [(1, 1), (1, 30), (8, 30), (200, 30)] {
        let (recordings, frames) = pair(2, k, n, 3);
        for position in 0..n {
            for layer in 0..2 {
                let sparse = plain_selection(&frames[0], position, layer).unwrap();
                let dense = plain_selection(&frames[1], position, layer).unwrap();
                let sum = |only: &dyn Fn(&u32) -> bool| -> f64 {
                    let pairs = dense.positions.iter().zip(&dense.weights);
                    pairs
                        .filter(|(p, _)| only(p))
                        .map(|(_, &w)| f64::from(w))
                        .sum()
                };
                let plain = sum(&|p| sparse.positions.contains(p)) / sum(&|_| true);
                let found = dense_recall(&recordings[0], &recordings[1], position, layer).unwrap();
                assert!((f64::from(found) - plain).abs() < 1e-6, "{found} {plain}");
                let bounds = recall(&recordings[0], &recordings[1], position, layer).unwrap();
                assert_eq!(bounds.at_least, bounds.at_most);
            }
        }
    }
}

#[test]
fn recall_has_bounds_where_weights_were_not_kept() {
    // 61 layers keep 256 weights of 600.
    let (recordings, frames) = pair(61, 300, 1, 3);
    assert_eq!(recordings[0].n_kept(), 256);
    let sparse = Sketch::new(61, 300, 4);
    let mut dense = sparse.clone();
    dense.header.index_topk = None;
    let mut random = Random::new(9);
    let frames: Vec<Frame> = [&sparse, &dense]
        .map(|sketch| sketch.frame(&mut random, 599, &frames[0].ids))
        .to_vec();
    let mut recordings = [sparse.recording(), dense.recording()];
    for (recording, frame) in recordings.iter_mut().zip(&frames) {
        recording.push_frame(frame);
    }
    for layer in 0..61 {
        let selected = plain_selection(&frames[0], 0, layer).unwrap().positions;
        let dense = plain_selection(&frames[1], 0, layer).unwrap();
        let total: f64 = dense.weights.iter().map(|&w| f64::from(w)).sum();
        let on = dense.positions.iter().zip(&dense.weights);
        let on = on.filter(|(p, _)| selected.contains(p));
        let plain = on.map(|(_, &w)| f64::from(w)).sum::<f64>() / total;
        let bounds = recall(&recordings[0], &recordings[1], 599, layer).unwrap();
        // Kept weights are halves.
        assert!(f64::from(bounds.at_least) < plain && plain < f64::from(bounds.at_most));
        let totals = recordings[1].totals(599, layer).unwrap();
        let missing = 1.0 - totals.weight_kept.unwrap() / totals.weight_total.unwrap();
        let between = f64::from(bounds.at_most - bounds.at_least);
        assert!(
            missing > 0.01 && (between - missing).abs() < 1e-6,
            "{between} {missing}"
        );
    }
}

#[test]
fn recall_of_nothing_and_of_nan() {
    let sketch = Sketch::new(1, 4, 4);
    let run = |weights: Option<Vec<f32>>| {
        let mut frame = Frame {
            position: 2,
            ids: vec![1],
            ..Frame::default()
        };
        put(
            &mut frame,
            0,
            Stage::SelectedPositions,
            ints(&[1, 3], vec![0, 1, 2]),
        );
        if let Some(weights) = weights {
            put(
                &mut frame,
                0,
                Stage::AttentionMean,
                floats(&[1, 3], weights),
            );
        }
        let mut recording = sketch.recording();
        recording.push_frame(&frame);
        recording
    };
    let sparse = run(None);
    assert_eq!(dense_recall(&sparse, &run(None), 2, 0), None);
    assert_eq!(dense_recall(&sparse, &run(Some(vec![0.0; 3])), 2, 0), None);
    assert_eq!(dense_recall(&sparse, &run(Some(vec![1.0; 3])), 1, 0), None);
    assert_eq!(
        dense_recall(&sparse, &run(Some(vec![0.5; 3])), 2, 0),
        Some(1.0)
    );
    let nan = run(Some(vec![0.5, f32::NAN, 0.5]));
    assert!(dense_recall(&sparse, &nan, 2, 0).unwrap().is_nan());
}

#[test]
fn differences_and_divergences_are_those_of_the_frames() {
    let (recordings, frames) = pair(3, 6, 40, 8);
    let (base, variant) = (&recordings[0], &recordings[1]);
    let rows = divergences(base, variant);
    assert_eq!(rows.len(), 40);
    for (position, row) in rows.iter().enumerate() {
        assert_eq!(row.position, position);
        let logits = |frame: &Frame| {
            let all = frame.get(None, Stage::Logits).unwrap().floats().unwrap();
            all[position * 50..(position + 1) * 50].to_vec()
        };
        let (p, q) = (logits(&frames[0]), logits(&frames[1]));
        assert_eq!(row.kl, kl(&p, &q));
        let best = |row: &[f32]| (0..50).min_by(|&a, &b| row[b].total_cmp(&row[a])).unwrap();
        assert_eq!(row.top1_differs, best(&p) != best(&q));
        for layer in 0..3 {
            let set = |frame| -> BTreeSet<u32> {
                let selection = plain_selection(frame, position, layer).unwrap();
                selection.positions.into_iter().collect()
            };
            let (a, b) = (set(&frames[0]), set(&frames[1]));
            let (only_a, only_b) = selection_difference(base, variant, position, layer).unwrap();
            assert!(only_a.iter().eq(a.difference(&b)) && only_b.iter().eq(b.difference(&a)));
            assert_eq!(row.n_selected_only_base[layer], only_a.len());
            assert_eq!(row.n_selected_only_variant[layer], only_b.len());
        }
    }
    assert!(rows.iter().any(|row| row.top1_differs));
    assert_eq!(selection_difference(base, variant, 40, 0), None);
    assert_eq!(selection_difference(base, variant, 0, 3), None);
}

#[test]
fn only_rows_with_the_same_past_are_compared() {
    let sketch = Sketch::new(1, 4, 4);
    let mut random = Random::new(2);
    let mut base = sketch.recording();
    base.push_frame(&sketch.frame(&mut random, 0, &[1, 2, 3, 4]));
    let mut variant = base.clone();
    assert_eq!(continuations(&base, &variant), None);
    variant.truncate(2);
    assert_eq!(continuations(&base, &variant), Some(2));
    variant.push_frame(&sketch.frame(&mut random, 2, &[3, 9, 4]));
    assert_eq!(continuations(&base, &variant), Some(3));
    assert_eq!(continuations(&variant, &base), Some(3));
    let rows = divergences(&base, &variant);
    let positions: Vec<usize> = rows.iter().map(|row| row.position).collect();
    assert_eq!(positions, [0, 1, 2]);
    // Logits were not kept, and that is no 0.
    assert!(rows.iter().all(|row| row.kl.is_nan()));
    // A token that one of them does not know is no difference.
    let mut late = sketch.recording();
    late.set_tokens(2, vec![token(3), token(4)]);
    assert_eq!(continuations(&base, &late), None);
    assert!(divergences(&base, &late).is_empty());
    assert_eq!(
        continuations(&Recording::default(), &Recording::default()),
        None
    );
    assert_eq!(continuations(&base, &Recording::default()), Some(0));
}
