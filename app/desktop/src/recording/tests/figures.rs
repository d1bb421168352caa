//! Statistics against the definitions, counted one by one.

use std::collections::BTreeSet;

use engine::trace::{Frame, Stage};

use super::super::testing::{Random, Sketch, floats, ints, plain_experts, plain_selection, put};
use super::super::{N_RECENT, N_SINK, Recording, Split, balance};

/// Sums of at most a few thousand f64 terms, rounded once to f32.
const TOLERANCE: f32 = 1e-6;

#[track_caller]
fn assert_close(found: f32, plain: f32) {
    // False for NaN.
    let close = found == plain || (found - plain).abs() <= TOLERANCE * plain.abs().max(1.0);
    assert!(close, "{found}, want {plain}");
}

fn run(sketch: &Sketch, seed: u64, ids: &[u32]) -> (Recording, Vec<Frame>) {
    let mut random = Random::new(seed);
    let mut recording = sketch.recording();
    let mut frames = Vec::new();
    for (chunk, ids) in ids.chunks(7).enumerate() {
        let frame = sketch.frame(&mut random, 7 * chunk, ids);
        assert!(recording.push_frame(&frame).is_empty());
        frames.push(frame);
    }
    (recording, frames)
}

#[test]
fn selections_count_as_by_hand() {
    // k above the context, k of 1, contexts around the edges of sink and recent.
    for (k, n) in [(200, 1), (1, 90), (12, 5), (12, 130), (40, 69)] {
        let sketch = Sketch::new(3, k, 4);
        let ids: Vec<u32> = (0..n).collect();
        let (recording, frames) = run(&sketch, u64::from(n), &ids);
        let plain = |position: usize, layer: usize| {
            plain_selection(&frames[position / 7], position % 7, layer).unwrap()
        };
        let set = |position: usize, layer: usize| -> BTreeSet<u32> {
            plain(position, layer).positions.into_iter().collect()
        };
        for query in 0..n as usize {
            let mut counts = vec![0; query + 1];
            let mut mass = vec![0.0; query + 1];
            for layer in 0..3 {
                let selection = plain(query, layer);
                let mut split = Split::default();
                for (&position, &weight) in selection.positions.iter().zip(&selection.weights) {
                    let position = position as usize;
                    counts[position] += 1;
                    mass[position] += weight / 3.0;
                    if position < N_SINK {
                        split.n_sink += 1;
                    } else if query - position < N_RECENT {
                        split.n_recent += 1;
                    } else {
                        split.n_retrieved += 1;
                    }
                }
                assert_eq!(recording.split(query, layer), Some(split), "{query} {k}");
                let n_zero = selection
                    .scores
                    .iter()
                    .filter(|&&score| score == 0.0)
                    .count();
                assert_eq!(recording.n_zero_scores(query, layer), Some(n_zero));

                let here = set(query, layer);
                let share = |other: BTreeSet<u32>| {
                    here.intersection(&other).count() as f32 / here.len() as f32
                };
                let before = query.checked_sub(1).map(|before| share(set(before, layer)));
                assert_eq!(recording.overlap_with_previous(query, layer), before);
                let above = layer.checked_sub(1).map(|above| share(set(query, above)));
                assert_eq!(recording.overlap_with_layer_before(query, layer), above);

                for n_bins in [0, 1, 3, 64, 1000] {
                    let density = recording.density(query, layer, n_bins);
                    assert_eq!(density.len(), n_bins);
                    for (bin, &found) in density.iter().enumerate() {
                        let first = bin * (query + 1) / n_bins;
                        let end = ((bin + 1) * (query + 1) / n_bins).max(first + 1);
                        let inside = (first..end).filter(|&p| here.contains(&(p as u32)));
                        assert_eq!(found, inside.count() as f32 / (end - first) as f32);
                    }
                }
            }
            assert_eq!(recording.n_layers_selecting(query), counts);
            let found = recording.attention_mass(query);
            assert_eq!(found.len(), query + 1);
            found
                .iter()
                .zip(&mass)
                .for_each(|(found, plain)| assert_close(*found, *plain));
            assert_eq!(recording.mass_not_kept(query), Some(0.0));
        }
    }
}

#[test]
fn density_of_a_zoomed_range() {
    let sketch = Sketch::new(1, 4, 4);
    let mut frame = Frame {
        position: 99,
        ids: vec![1],
        ..Frame::default()
    };
    put(
        &mut frame,
        0,
        Stage::SelectedPositions,
        ints(&[1, 4], vec![10, 11, 12, 99]),
    );
    let mut recording = sketch.recording();
    recording.push_frame(&frame);
    assert_eq!(
        recording.density_over(99, 0, 8..16, 4),
        [0.0, 1.0, 0.5, 0.0]
    );
    assert_eq!(recording.density_over(99, 0, 98..102, 2), [0.5, 0.0]);
    assert_eq!(recording.density_over(99, 0, 99..99, 2), [0.0f32; 0]);
    // Two bins a position.
    assert_eq!(
        recording.density_over(99, 0, 12..14, 4),
        [1.0, 1.0, 0.0, 0.0]
    );
    let all = recording.density_over(99, 0, 0..usize::MAX, 2);
    assert!(all[0] > 0.0 && all[1] == 0.0);
}

#[test]
fn weights_that_were_not_kept_are_owned_up_to() {
    let mut sketch = Sketch::new(61, 400, 4);
    // So large a model keeps 256 of a selection.
    sketch.header.context = 131_072;
    assert_eq!(sketch.recording().n_kept(), 256);
    let mut random = Random::new(6);
    let frame = sketch.frame(&mut random, 1000, &[1]);
    let mut recording = sketch.recording();
    recording.push_frame(&frame);
    let mut missing = 0.0;
    let mut mass = vec![0.0f64; 1001];
    for layer in 0..61 {
        let plain = plain_selection(&frame, 0, layer).unwrap();
        let mut ranks: Vec<usize> = (0..400).collect();
        ranks.sort_by(|&a, &b| plain.weights[b].total_cmp(&plain.weights[a]));
        for &rank in &ranks[..256] {
            mass[plain.positions[rank] as usize] += f64::from(plain.weights[rank]) / 61.0;
        }
        let rest: f64 = ranks[256..]
            .iter()
            .map(|&rank| f64::from(plain.weights[rank]))
            .sum();
        missing += rest / 61.0;
    }
    assert_close(recording.mass_not_kept(1000).unwrap(), missing as f32);
    assert!(missing > 0.01);
    for (found, plain) in recording.attention_mass(1000).into_iter().zip(mass) {
        // Halves have eleven bits.
        assert!(
            (f64::from(found) - plain).abs() <= plain / 2048.0,
            "{found} {plain}"
        );
    }
    // A small model keeps everything.
    let small = Sketch::new(2, 400, 4);
    let frame = small.frame(&mut random, 1000, &[1]);
    let mut recording = small.recording();
    recording.push_frame(&frame);
    assert_eq!(recording.totals(1000, 0).unwrap().n_kept, 400);
    assert_eq!(recording.mass_not_kept(1000), Some(0.0));
}

#[test]
fn a_nan_weight_shows_where_it_is_and_nowhere_else() {
    let sketch = Sketch::new(2, 4, 4);
    let mut frame = sketch.frame(&mut Random::new(1), 0, &[1, 2, 3, 4]);
    let mut weights = vec![0.25; 16];
    weights[13] = f32::NAN;
    put(
        &mut frame,
        0,
        Stage::AttentionMean,
        floats(&[4, 4], weights),
    );
    let mut recording = sketch.recording();
    recording.push_frame(&frame);
    let mass = recording.attention_mass(3);
    assert!(mass[1].is_nan());
    assert!(mass[0].is_finite() && mass[2].is_finite() && mass[3].is_finite());
    assert!(
        recording
            .totals(3, 0)
            .unwrap()
            .weight_total
            .unwrap()
            .is_nan()
    );
    assert!(
        recording
            .totals(3, 1)
            .unwrap()
            .weight_total
            .unwrap()
            .is_finite()
    );
}

#[test]
fn experts_count_as_by_hand() {
    for n_experts in [1, 3, 7] {
        let sketch = Sketch::new(3, 4, n_experts);
        let ids: Vec<u32> = (0..45).collect();
        let (recording, frames) = run(&sketch, 77, &ids);
        let plain = |position: usize, layer: usize| {
            plain_experts(&frames[position / 7], position % 7, layer)
        };
        for layer in 0..3 {
            for range in [0..45, 0..0, 5..6, 40..1000, 1000..2000] {
                let mut load = vec![0; n_experts];
                for position in range.clone().filter(|&position| position < 45) {
                    for (expert, _) in plain(position, layer).unwrap_or_default() {
                        load[usize::from(expert)] += 1;
                    }
                }
                assert_eq!(recording.expert_load(range.clone(), layer), load);
                // Layer 0 is dense.
                let n_routed = if layer == 0 {
                    0
                } else {
                    range.end.min(45).saturating_sub(range.start)
                };
                assert_eq!(recording.n_routed(range, layer), n_routed);
            }
            for expert in 0..n_experts + 1 {
                let mut served: Vec<(usize, f32)> = (0..45)
                    .flat_map(|position| {
                        let chosen = plain(position, layer).unwrap_or_default().into_iter();
                        chosen
                            .filter(|(id, _)| usize::from(*id) == expert)
                            .map(move |(_, weight)| (position, weight))
                    })
                    .collect();
                served.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
                for n in [0, 1, 5, 1000] {
                    let expected = &served[..n.min(served.len())];
                    assert_eq!(recording.tokens_of_expert(layer, expert, n), expected);
                }
            }
        }
    }
}

#[test]
fn unknown_weights_come_last_and_padding_is_no_expert() {
    let sketch = Sketch::new(1, 4, 4);
    let mut recording = sketch.recording();
    let mut frame = Frame {
        position: 0,
        ids: vec![1, 2, 3],
        ..Frame::default()
    };
    put(
        &mut frame,
        0,
        Stage::Experts,
        ints(&[3, 2], vec![2, -1, 1, 2, 2, 0]),
    );
    let weights = vec![f32::NAN, 5.0, 0.1, -1.0, 0.5, 0.0];
    put(
        &mut frame,
        0,
        Stage::ExpertWeights,
        floats(&[3, 2], weights),
    );
    assert!(recording.push_frame(&frame).is_empty());
    let found = recording.tokens_of_expert(0, 2, 9);
    assert_eq!(found[..2], [(2, 0.5), (1, -1.0)]);
    assert!(found[2].0 == 0 && found[2].1.is_nan());
    assert_eq!(recording.experts(0, 0).unwrap().len(), 1);
    assert_eq!(recording.expert_load(0..3, 0), [1, 1, 3, 0]);
    // Without weights the experts are there all the same.
    frame.values.retain(|site, _| site.stage == Stage::Experts);
    assert!(recording.push_frame(&frame).is_empty());
    let experts = recording.experts(1, 0).unwrap();
    assert!(experts.iter().map(|(id, _)| *id).eq([1, 2]));
    assert!(experts.iter().all(|(_, weight)| weight.is_nan()));
}

#[test]
fn balance_of_even_and_uneven_loads() {
    assert_eq!(balance(&[]), None);
    assert_eq!(balance(&[0, 0]), None);
    let even = balance(&[5, 5, 5, 5]).unwrap();
    assert_eq!((even.max_over_mean, even.n_idle), (1.0, 0));
    assert_close(even.evenness, 1.0);
    let one = balance(&[0, 7, 0, 0]).unwrap();
    assert_eq!((one.max_over_mean, one.evenness, one.n_idle), (4.0, 0.0, 3));
    let some = balance(&[1, 3]).unwrap();
    assert_eq!(some.max_over_mean, 1.5);
    assert_close(
        some.evenness,
        -(0.25f32 * 0.25f32.log2() + 0.75 * 0.75f32.log2()),
    );
    assert_eq!(balance(&[9]).unwrap().evenness, 1.0);
    assert_eq!(balance(&[u32::MAX, u32::MAX]).unwrap().max_over_mean, 1.0);
}
