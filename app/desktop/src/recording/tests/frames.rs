//! Frames of any chunking, repeated, incomplete or malformed.

use std::collections::BTreeMap;

use engine::trace::{Frame, Stage, Value};

use super::super::testing::{
    Random, Sketch, floats, ints, plain_experts, plain_selection, put, row_of, same,
};
use super::super::{Header, MAX_POSITIONS, Recording};

/// All rows of `frames` are in `recording`, exactly.
#[track_caller]
fn assert_holds(recording: &Recording, frames: &[Frame], n_layers: usize) {
    for frame in frames {
        for row in 0..frame.ids.len() {
            let position = frame.position + row;
            assert!(recording.is_recorded(position));
            for layer in 0..n_layers {
                let plain = plain_selection(frame, row, layer);
                let found = recording.selection(position, layer);
                assert_eq!(found.is_some(), plain.is_some(), "{position} {layer}");
                if let (Some(found), Some(plain)) = (found, plain) {
                    assert_eq!(found.positions, plain.positions, "{position} {layer}");
                    assert!(same(&found.scores, &plain.scores), "{position} {layer}");
                    assert!(same(&found.weights, &plain.weights), "{position} {layer}");
                    let n = recording.n_selected(position, layer).unwrap();
                    assert_eq!(n, plain.positions.len());
                    let positions = recording.selected_positions(position, layer).unwrap();
                    assert_eq!(positions, plain.positions);
                }
                assert_eq!(
                    recording.experts(position, layer),
                    plain_experts(frame, row, layer)
                );
                let norm = frame
                    .get(layer, Stage::ResidualNorm)
                    .and_then(Value::floats);
                assert_eq!(
                    recording.residual_norm(position, layer),
                    norm.map(|norm| norm[row])
                );
                let gate = frame.get(layer, Stage::GateScores).and_then(Value::floats);
                let found = recording.gate_scores(position, layer);
                assert_eq!(found.is_some(), gate.is_some());
                for (found, plain) in
                    found
                        .iter()
                        .flatten()
                        .zip(row_of(gate.unwrap_or(&[]), frame, row))
                {
                    // Halves that share a power of two: eleven bits of the largest's, at least.
                    assert!(
                        (found - plain).abs() <= plain / 2048.0 + 1e-8,
                        "{found} {plain}"
                    );
                }
            }
        }
    }
}

#[test]
fn any_chunking_gives_the_same() {
    for (n_layers, k, n_experts) in [(1, 1, 1), (3, 8, 5), (2, 300, 4)] {
        let mut sketch = Sketch::new(n_layers, k, n_experts);
        sketch.has_heads = true;
        let ids: Vec<u32> = (0..40).map(|at| at * 7 % 50).collect();
        let mut random = Random::new(12);
        let frames: Vec<Frame> = [0..1, 1..8, 8..15, 15..16, 16..40]
            .map(|range| sketch.frame(&mut random, range.start, &ids[range.clone()]))
            .to_vec();
        let mut recording = sketch.recording();
        for frame in &frames {
            assert_eq!(recording.push_frame(frame), [""; 0]);
        }
        assert_eq!(recording.n_tokens(), 40);
        assert_holds(&recording, &frames, n_layers);
        assert_eq!(recording.selection(0, n_layers), None);
        assert_eq!(recording.selection(40, 0), None);
        assert!(!recording.is_recorded(40));
        // Heads are those of the frame without the padding, their positions those of the selection.
        for frame in &frames {
            let heads = frame.get(0, Stage::AttentionHeads).unwrap();
            let slots = heads.shape()[2];
            for row in 0..frame.ids.len() {
                let (positions, weights) = recording.heads(frame.position + row, 0).unwrap();
                assert_eq!(positions, plain_selection(frame, row, 0).unwrap().positions);
                let all = row_of(heads.floats().unwrap(), frame, row);
                let plain: Vec<f32> = all
                    .chunks(slots)
                    .flat_map(|head| &head[..positions.len()])
                    .copied()
                    .collect();
                assert!(same(weights, &plain));
            }
        }
    }
}

#[test]
fn a_later_frame_replaces_what_it_holds_and_leaves_the_rest() {
    let mut sketch = Sketch::new(3, 4, 4);
    sketch.has_heads = true;
    let mut random = Random::new(2);
    let ids = [3, 4, 5, 6, 7, 8, 9, 10];
    let first = sketch.frame(&mut random, 0, &ids);
    let mut recording = sketch.recording();
    recording.push_frame(&first);
    // Layer 1 alone, without experts, of rows 2 to 4.
    let mut second = sketch.frame(&mut random, 2, &ids[2..5]);
    second.values.retain(|site, _| {
        site.layer == Some(1)
            && matches!(site.stage, Stage::SelectedPositions | Stage::AttentionMean)
    });
    assert_eq!(recording.push_frame(&second), [""; 0]);
    assert_eq!(recording.n_tokens(), 8);
    let mut mixed = first.clone();
    for row in 0..3 {
        for stage in [
            Stage::SelectedPositions,
            Stage::AttentionMean,
            Stage::SelectedScores,
        ] {
            let site = *first
                .values
                .keys()
                .find(|s| s.layer == Some(1) && s.stage == stage)
                .unwrap();
            let width = first.values[&site].shape()[1];
            let of_second = second.values.get(&site);
            match mixed.values.get_mut(&site).unwrap() {
                Value::I32 { data, .. } => {
                    let new = row_of(of_second.unwrap().integers().unwrap(), &second, row);
                    data[(2 + row) * width..(3 + row) * width].fill(-1);
                    data[(2 + row) * width..][..new.len()].copy_from_slice(&new);
                }
                Value::F32 { data, .. } => {
                    // Scores were not recorded again, so they are gone with the old selection.
                    let new = of_second.map_or(vec![f32::NAN; width], |value| {
                        row_of(value.floats().unwrap(), &second, row)
                    });
                    data[(2 + row) * width..][..new.len()].copy_from_slice(&new);
                }
            }
        }
    }
    assert_holds(&recording, &[mixed], 3);
    // Heads of another selection are gone, those of the others are there.
    for position in 0..8 {
        for layer in 0..3 {
            let old = plain_selection(&first, position, layer).unwrap().positions;
            let now = recording.selected_positions(position, layer).unwrap();
            let heads = recording
                .heads(position, layer)
                .map(|(positions, _)| positions);
            assert_eq!(heads, (old == now).then_some(&now[..]));
        }
    }
}

#[test]
fn another_token_ends_what_was_there() {
    let sketch = Sketch::new(2, 4, 4);
    let mut random = Random::new(2);
    let mut recording = sketch.recording();
    recording.push_frame(&sketch.frame(&mut random, 0, &[1, 2, 3, 4, 5]));
    let other = sketch.frame(&mut random, 1, &[2, 9]);
    recording.push_frame(&other);
    assert_eq!(recording.n_tokens(), 3);
    assert_eq!(recording.token(2).unwrap().id, 9);
    assert_holds(&recording, &[other], 2);
}

#[test]
fn frames_may_start_anywhere_and_leave_gaps() {
    let sketch = Sketch::new(2, 4, 4);
    let mut random = Random::new(2);
    let mut recording = sketch.recording();
    let late = sketch.frame(&mut random, 1000, &[1, 2]);
    recording.push_frame(&late);
    assert_eq!(recording.n_tokens(), 1002);
    assert!(recording.token(999).is_none() && !recording.is_recorded(999));
    assert_holds(&recording, &[late], 2);
    assert_eq!(recording.overlap_with_previous(1000, 0), None);
    let early = sketch.frame(&mut random, 998, &[5, 6]);
    recording.push_frame(&early);
    assert_eq!(recording.n_tokens(), 1002);
    assert!(recording.overlap_with_previous(1000, 0).is_some());
}

#[test]
fn padding_is_found_anywhere_and_order_is_mended() {
    let sketch = Sketch::new(1, 4, 4);
    let mut frame = Frame {
        position: 8,
        ids: vec![1],
        values: BTreeMap::new(),
        ..Frame::default()
    };
    put(
        &mut frame,
        0,
        Stage::SelectedPositions,
        ints(&[1, 5], vec![-1, 7, 2, -1, 8]),
    );
    put(
        &mut frame,
        0,
        Stage::SelectedScores,
        floats(&[1, 5], vec![9.0, 0.5, f32::NAN, 9.0, -0.0]),
    );
    let mut recording = sketch.recording();
    assert_eq!(recording.push_frame(&frame), [""; 0]);
    let selection = recording.selection(8, 0).unwrap();
    assert_eq!(selection.positions, [2, 7, 8]);
    assert!(same(&selection.scores, &[f32::NAN, 0.5, -0.0]));
    assert!(selection.weights.iter().all(|weight| weight.is_nan()));
    let totals = recording.totals(8, 0).unwrap();
    assert_eq!((totals.n_zero_scores, totals.weight_total), (Some(1), None));
    // All padding: recorded, and nothing in it.
    put(
        &mut frame,
        0,
        Stage::SelectedPositions,
        ints(&[1, 5], vec![-1; 5]),
    );
    recording.push_frame(&frame);
    assert_eq!(recording.n_selected(8, 0), Some(0));
    assert_eq!(recording.overlap_with_previous(8, 0), None);
    assert_eq!(recording.split(8, 0).unwrap().n_retrieved, 0);
}

#[test]
fn without_a_mean_it_is_computed_from_heads() {
    let mut sketch = Sketch::new(1, 4, 4);
    sketch.has_heads = true;
    let mut frame = sketch.frame(&mut Random::new(4), 0, &[1, 2, 3, 4, 5, 6]);
    let mut with_mean = sketch.recording();
    with_mean.push_frame(&frame);
    frame
        .values
        .retain(|site, _| site.stage != Stage::AttentionMean);
    let mut without = sketch.recording();
    without.push_frame(&frame);
    for position in 0..6 {
        assert_eq!(
            without.selection(position, 0),
            with_mean.selection(position, 0)
        );
    }
}

/// Replaces one array of a good frame, says what must be told of it, and what of layer 0 must stay.
#[test]
fn malformed_arrays_are_left_out_and_told() {
    use Stage::{
        AttentionHeads, AttentionMean, ExpertWeights, Experts, GateScores, Logits, ResidualNorm,
        SelectedPositions, SelectedScores,
    };
    let mut sketch = Sketch::new(2, 4, 4);
    sketch.header.moe_layers = vec![0, 1];
    sketch.has_heads = true;
    let good = sketch.frame(&mut Random::new(4), 6, &[1, 2]);
    let cases: Vec<(Option<usize>, Stage, Value, &str)> = vec![
        (
            Some(0),
            SelectedPositions,
            floats(&[2, 4], vec![0.0; 8]),
            "expected integers",
        ),
        (
            Some(0),
            SelectedPositions,
            ints(&[2, 4], vec![0; 7]),
            "with 7 numbers",
        ),
        (
            Some(0),
            SelectedPositions,
            ints(&[1, 8], vec![0; 8]),
            "of 2 rows",
        ),
        (
            Some(0),
            SelectedPositions,
            ints(&[8], vec![0; 8]),
            "shape [8]",
        ),
        (Some(0), SelectedPositions, ints(&[], vec![0]), "shape []"),
        (
            Some(0),
            SelectedPositions,
            ints(&[2, usize::MAX], vec![]),
            "of 2 rows",
        ),
        (
            Some(0),
            SelectedPositions,
            ints(&[2, 4], vec![0, 1, 2, 9, 0, 1, 2, 3]),
            "reads 9",
        ),
        (
            Some(0),
            SelectedPositions,
            ints(&[2, 4], vec![0, 1, 1, 2, 0, 1, 2, 3]),
            "twice",
        ),
        (
            Some(0),
            SelectedPositions,
            ints(&[2, 4], vec![-7, 1, 3, 2, 0, 1, 2, 3]),
            "reads -7",
        ),
        (
            Some(0),
            SelectedPositions,
            ints(&[2, 4], vec![i32::MAX; 8]),
            "expected 0 to 6",
        ),
        (
            Some(0),
            SelectedScores,
            floats(&[2, 5], vec![0.0; 10]),
            "expected 4",
        ),
        (
            Some(0),
            SelectedScores,
            ints(&[2, 4], vec![0; 8]),
            "expected floats",
        ),
        (
            Some(0),
            AttentionMean,
            floats(&[2, 0], vec![]),
            "expected 4",
        ),
        (
            Some(0),
            AttentionHeads,
            floats(&[2, 3, 4], vec![0.0; 24]),
            "shape [2, 3, 4]",
        ),
        (
            Some(0),
            AttentionHeads,
            floats(&[2, 2, 5], vec![0.0; 20]),
            "expected 4",
        ),
        (
            Some(0),
            AttentionHeads,
            ints(&[2, 2, 4], vec![0; 16]),
            "0 numbers",
        ),
        (
            Some(0),
            Experts,
            ints(&[2, 3], vec![0, 1, 4, 0, 1, 2]),
            "expert 4",
        ),
        (
            Some(0),
            Experts,
            ints(&[2, 3], vec![0, 1, 1, 0, 1, 2]),
            "expert 1 twice",
        ),
        (
            Some(0),
            Experts,
            ints(&[2, 3], vec![0, -2, 1, 0, 1, 2]),
            "expert -2",
        ),
        (
            Some(0),
            ExpertWeights,
            floats(&[2, 2], vec![0.0; 4]),
            "expected 3",
        ),
        (
            Some(0),
            GateScores,
            floats(&[2, 5], vec![0.0; 10]),
            "expected 4",
        ),
        (
            Some(0),
            ResidualNorm,
            floats(&[2, 2], vec![0.0; 4]),
            "expected 1",
        ),
        (
            Some(9),
            ResidualNorm,
            floats(&[2, 1], vec![0.0; 2]),
            "below 2",
        ),
        (None, Logits, floats(&[1, 50], vec![0.0; 50]), "of 2 rows"),
        (None, Logits, floats(&[2, 0], vec![]), ""),
    ];
    for (layer, stage, value, told) in cases {
        let mut frame = good.clone();
        put(&mut frame, layer, stage, value.clone());
        let mut recording = sketch.recording();
        let problems = recording.push_frame(&frame);
        let what = format!("{layer:?} {stage:?} {value:?}: {problems:?}");
        if told.is_empty() {
            assert!(problems.is_empty(), "{what}");
        } else {
            assert!(
                problems.iter().any(|problem| problem.contains(told)),
                "{what}"
            );
        }
        // The other layer is there in any case.
        let other = Frame {
            values: good
                .values
                .iter()
                .filter(|(site, _)| site.layer == Some(1))
                .map(|(site, value)| (*site, value.clone()))
                .collect(),
            ..good.clone()
        };
        let mut plain = sketch.recording();
        plain.push_frame(&other);
        for position in 6..8 {
            assert_eq!(
                recording.selection(position, 1),
                plain.selection(position, 1),
                "{what}"
            );
            assert_eq!(
                recording.experts(position, 1),
                plain.experts(position, 1),
                "{what}"
            );
            // And whatever is shown of layer 0 hangs together.
            let _ = (
                recording.selection(position, 0),
                recording.heads(position, 0),
            );
            let _ = (
                recording.experts(position, 0),
                recording.gate_scores(position, 0),
            );
        }
    }
}

#[test]
fn a_bad_row_does_not_take_the_good_one_along() {
    let sketch = Sketch::new(1, 4, 4);
    let mut frame = sketch.frame(&mut Random::new(4), 6, &[1, 2]);
    put(
        &mut frame,
        0,
        Stage::SelectedPositions,
        ints(&[2, 4], vec![0, 1, 2, 7, 0, 1, 2, 7]),
    );
    let mut recording = sketch.recording();
    assert_eq!(recording.push_frame(&frame).len(), 1);
    assert_eq!(recording.selection(6, 0), None);
    assert_eq!(recording.selected_positions(7, 0).unwrap(), [0, 1, 2, 7]);
}

#[test]
fn absurd_frames_are_refused_whole() {
    let mut recording = Recording::new(Header {
        n_layers: 1,
        context: 100,
        ..Header::default()
    });
    let frame = |position, n| Frame {
        position,
        ids: vec![0; n],
        values: BTreeMap::new(),
        ..Frame::default()
    };
    for frame in [
        frame(0, 0),
        frame(100, 1),
        frame(99, 2),
        frame(usize::MAX, 1),
        frame(usize::MAX, 2),
    ] {
        let problems = recording.push_frame(&frame);
        assert!(problems[0].contains("within 100 positions"), "{problems:?}");
        assert_eq!(recording.n_tokens(), 0);
    }
    assert_eq!(recording.push_frame(&frame(99, 1)), [""; 0]);
    let mut unbounded = Recording::new(Header::default());
    assert_eq!(unbounded.push_frame(&frame(MAX_POSITIONS, 1)).len(), 1);
    // The MTP layer is nobody's fault, and not kept.
    let mut mtp = frame(0, 1);
    put(&mut mtp, 1, Stage::ResidualNorm, floats(&[1, 1], vec![1.0]));
    assert_eq!(recording.push_frame(&mtp), [""; 0]);
    assert_eq!(recording.residual_norm(0, 1), None);
}

#[test]
fn every_question_has_an_answer_on_an_empty_recording() {
    for recording in [Recording::default(), Sketch::new(3, 4, 4).recording()] {
        for position in [0, 1, usize::MAX] {
            for layer in [0, 7, usize::MAX] {
                assert_eq!(recording.selection(position, layer), None);
                assert_eq!(recording.totals(position, layer), None);
                assert_eq!(recording.n_selected(position, layer), None);
                assert_eq!(recording.split(position, layer), None);
                assert_eq!(recording.n_zero_scores(position, layer), None);
                assert_eq!(recording.overlap_with_previous(position, layer), None);
                assert_eq!(recording.overlap_with_layer_before(position, layer), None);
                assert!(recording.density(position, layer, 4).is_empty());
                assert_eq!(recording.heads(position, layer), None);
                assert!(!recording.heads_dropped(position, layer));
                assert_eq!(recording.experts(position, layer), None);
                assert_eq!(recording.gate_scores(position, layer), None);
                assert_eq!(recording.residual_norm(position, layer), None);
                assert!(recording.tokens_of_expert(layer, position, 3).is_empty());
                let load = recording.expert_load(0..position, layer);
                assert!(load.iter().all(|&n| n == 0));
            }
            assert!(recording.token(position).is_none());
            assert!(recording.n_layers_selecting(position).is_empty());
            assert!(recording.attention_mass(position).is_empty());
            assert_eq!(recording.mass_not_kept(position), None);
            assert_eq!(recording.step_timing(position), None);
            assert!(recording.candidates_after(position).is_empty());
        }
    }
}
