//! Interventions: what is banned is not read, what is pinned is, experts that are off do no work, and
//! a run that replays itself is the same run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use engine::device::{DeviceKind, list};
use engine::model::{ForwardOptions, Intervention, LogitRows, Selector};
use engine::replay::{RouteTrace, SelectionTrace};
use engine::trace::{Frame, Stage, Watch, WatchedRows};
use engine::{Device, Error, Model, Session, SessionOptions};

use crate::fixture;

/// With an indexer in each layer, with a shared one, and two without.
const FIXTURES: [&str; 4] = ["v32-f32", "glm-dsa", "v2-lite", "moonlight"];

/// Tokens of a run: more than twice `index_topk` of the fixtures, which is 16.
const N: usize = 40;

fn device(name: &str) -> Device {
    Device::open(Some(name)).unwrap()
}

fn session(name: &str, device: &Device, chunk_tokens: usize) -> Session {
    let model = Arc::new(Model::open(&fixture(name), device).unwrap());
    let options = SessionOptions {
        chunk_tokens,
        ..SessionOptions::default()
    };
    Session::new(model, options).unwrap()
}

fn ids(n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| (i * 37 + 11) % 128).collect()
}

fn forward(intervention: Intervention) -> ForwardOptions {
    ForwardOptions {
        intervention,
        ..ForwardOptions::default()
    }
}

/// Everything that a run of [`N`] tokens shows.
fn run(session: &mut Session, options: &ForwardOptions) -> Vec<Frame> {
    session.set_forward(options.clone()).unwrap();
    session.watch(Watch::everything(WatchedRows::All));
    session.advance(&ids(N)).unwrap();
    session.take_frames()
}

fn run_on(name: &str, device: &Device, chunk: usize, options: &ForwardOptions) -> Vec<Frame> {
    run(&mut session(name, device, chunk), options)
}

/// What each token read in each layer, with the mean weight of each position.
fn read(frames: &[Frame], n_layers: usize) -> BTreeMap<(usize, usize), Vec<(usize, f32)>> {
    let mut all = BTreeMap::new();
    for frame in frames {
        for layer in 0..n_layers {
            let positions = frame.get(layer, Stage::SelectedPositions).unwrap();
            let weights = frame.get(layer, Stage::AttentionMean).unwrap();
            assert_eq!(positions.shape(), weights.shape());
            let slots = positions.shape()[1];
            let rows = positions.integers().unwrap().chunks_exact(slots);
            let weights = weights.floats().unwrap().chunks_exact(slots);
            for (row, (positions, weights)) in rows.zip(weights).enumerate() {
                let mut read = Vec::new();
                for (&position, &weight) in positions.iter().zip(weights) {
                    if position >= 0 {
                        read.push((position as usize, weight));
                    } else {
                        assert_eq!(weight, 0.0, "padding weighs nothing");
                    }
                }
                all.insert((layer, frame.position + row), read);
            }
        }
    }
    all
}

fn positions(read: &[(usize, f32)]) -> Vec<usize> {
    read.iter().map(|&(position, _)| position).collect()
}

/// Rows of a stage of floats by token.
fn floats(frames: &[Frame], layer: impl Into<Option<usize>> + Copy, stage: Stage) -> Vec<Vec<f32>> {
    let rows = |frame: &Frame| {
        let value = frame.get(layer, stage).unwrap();
        let width: usize = value.shape()[1..].iter().product();
        let rows = value.floats().unwrap().chunks_exact(width);
        rows.map(<[f32]>::to_vec).collect::<Vec<_>>()
    };
    frames.iter().flat_map(rows).collect()
}

/// Chosen experts by token.
fn experts(frames: &[Frame], layer: usize) -> Vec<Vec<i32>> {
    let rows = |frame: &Frame| {
        let value = frame.get(layer, Stage::Experts).unwrap();
        let rows = value.integers().unwrap().chunks_exact(value.shape()[1]);
        rows.map(<[i32]>::to_vec).collect::<Vec<_>>()
    };
    frames.iter().flat_map(rows).collect()
}

fn bits(rows: &[Vec<f32>]) -> Vec<Vec<u32>> {
    rows.iter()
        .map(|row| row.iter().map(|value| value.to_bits()).collect())
        .collect()
}

fn logits(frames: &[Frame]) -> Vec<Vec<u32>> {
    bits(&floats(frames, None, Stage::Logits))
}

fn banned(positions: &[usize]) -> Intervention {
    Intervention {
        banned: positions.iter().copied().collect(),
        ..Intervention::default()
    }
}

fn pinned(positions: &[usize]) -> Intervention {
    Intervention {
        pinned: positions.iter().copied().collect(),
        ..Intervention::default()
    }
}

#[test]
fn an_empty_intervention_changes_no_bit() {
    for name in FIXTURES {
        let plain = run_on(name, &Device::cpu(), 7, &ForwardOptions::default());
        let empty = Intervention {
            layers: Some([0].into()),
            // A trace that knows nothing of these tokens.
            selections: Some(Arc::new({
                let mut trace = SelectionTrace::new();
                trace.record(0, N + 5, &[3]).unwrap();
                trace
            })),
            ..Intervention::default()
        };
        assert!(
            run_on(name, &Device::cpu(), 7, &forward(empty)) == plain,
            "{name}"
        );
        // Nor does what only concerns later tokens, or what everybody reads anyway.
        let later = banned(&[N - 1, N, 500]);
        assert!(
            run_on(name, &Device::cpu(), 7, &forward(later)) == plain,
            "{name}"
        );
        let dense = ForwardOptions {
            dense: true,
            ..ForwardOptions::default()
        };
        if name == "v32-f32" {
            let dense_pinned = ForwardOptions {
                dense: true,
                ..forward(pinned(&[1, 2]))
            };
            let plain = run_on(name, &Device::cpu(), 7, &dense);
            assert!(run_on(name, &Device::cpu(), 7, &dense_pinned) == plain);
        }
    }
}

#[test]
fn banned_positions_are_read_by_nobody_behind_them() {
    let hidden = [0, 5, 17, 30];
    for name in FIXTURES {
        for device in [device("cpu"), device("portable"), device("portable-f64")] {
            for (dense, mha_prefill) in [(false, false), (true, false), (false, true), (true, true)]
            {
                let options = |intervention| ForwardOptions {
                    dense,
                    mha_prefill,
                    ..forward(intervention)
                };
                let mut session = session(name, &device, 9);
                let config = session.model().config().clone();
                let n_layers = config.num_hidden_layers;
                let found = read(&run(&mut session, &options(banned(&hidden))), n_layers);
                assert_eq!(found.len(), n_layers * N);
                let sparse = !dense && config.indexer.is_some();
                for ((layer, token), row) in found {
                    let what = format!("{name}, {}, layer {layer}, token {token}", device.info.id);
                    let positions = positions(&row);
                    assert!(positions.windows(2).all(|pair| pair[0] < pair[1]), "{what}");
                    assert!(
                        positions.iter().all(|&position| position <= token),
                        "{what}"
                    );
                    let seen_banned =
                        |&position: &usize| hidden.contains(&position) && position < token;
                    assert!(!positions.iter().any(seen_banned), "{what}: {positions:?}");
                    let allowed = token + 1 - hidden.iter().filter(|&&b| b < token).count();
                    let want = if sparse { allowed.min(16) } else { allowed };
                    assert_eq!(positions.len(), want, "{what}");
                    let sum: f32 = row.iter().map(|(_, weight)| weight).sum();
                    // 40 roundings of half a unit in the last place.
                    assert!((sum - 1.0).abs() < 1e-5, "{what}: {sum}");
                }
            }
        }
    }
}

#[test]
fn a_token_that_may_read_nothing_else_reads_itself() {
    // Everything is banned: each token is alone, in every layer.
    let everything: Vec<usize> = (0..N).collect();
    for name in FIXTURES {
        for device in [device("cpu"), device("portable")] {
            let mut session = session(name, &device, 9);
            let n_layers = session.model().config().num_hidden_layers;
            let frames = run(&mut session, &forward(banned(&everything)));
            for ((_, token), row) in read(&frames, n_layers) {
                assert_eq!(row, [(token, 1.0)]);
            }
            for row in floats(&frames, None, Stage::Logits) {
                assert!(row.iter().all(|logit| logit.is_finite()));
            }
        }
    }
}

/// What a selection ought to be, from the scores of the same pass.
fn by_sorting(scores: &[f32], token: usize, k: usize, intervention: &Intervention) -> Vec<usize> {
    let is_pinned = |position: &usize| intervention.pinned.contains(position);
    let mut order: Vec<usize> = (0..=token)
        .filter(|position| *position == token || !intervention.banned.contains(position))
        .collect();
    order.sort_by(|a, b| {
        is_pinned(b)
            .cmp(&is_pinned(a))
            .then(scores[*b].partial_cmp(&scores[*a]).unwrap())
            .then(a.cmp(b))
    });
    order.truncate(k);
    order.sort_unstable();
    order
}

#[test]
fn selections_are_what_sorting_gives() {
    let mixed = Intervention {
        pinned: [0, 3, 21].into(),
        banned: [2, 20, 33].into(),
        ..Intervention::default()
    };
    let many = pinned(&[0, 1, 2, 3, 4]);
    for name in ["v32-f32", "glm-dsa"] {
        for device in [device("cpu"), device("portable")] {
            for (intervention, k) in [(&mixed, 16), (&mixed, 3), (&many, 5), (&mixed, 39)] {
                let options = ForwardOptions {
                    index_topk: Some(k),
                    ..forward(intervention.clone())
                };
                let mut session = session(name, &device, 9);
                let config = session.model().config().clone();
                let frames = run(&mut session, &options);
                let found = read(&frames, config.num_hidden_layers);
                for layer in 0..config.num_hidden_layers {
                    let owner = config.selection_layer(layer);
                    let mut token = 0;
                    for frame in &frames {
                        let scores = frame.get(owner, Stage::IndexScores).unwrap();
                        let context = scores.shape()[1];
                        for scores in scores.floats().unwrap().chunks_exact(context) {
                            let want = by_sorting(scores, token, k, intervention);
                            let got = positions(&found[&(layer, token)]);
                            assert_eq!(got, want, "{name}, layer {layer}, token {token}, {k}");
                            token += 1;
                        }
                    }
                    assert_eq!(token, N);
                }
            }
        }
    }
}

#[test]
fn a_pin_takes_the_slot_of_the_lowest_score() {
    // In the first layer scores depend on the tokens alone, so the two runs have the same.
    let plain = run_on("v32-f32", &Device::cpu(), 64, &ForwardOptions::default());
    let scores = floats(&plain, 0, Stage::IndexScores);
    let before = read(&plain, 1);
    for position in 0..20 {
        let after = run_on("v32-f32", &Device::cpu(), 64, &forward(pinned(&[position])));
        let after = read(&after, 1);
        for token in 20..N {
            let was: BTreeSet<_> = positions(&before[&(0, token)]).into_iter().collect();
            let is: BTreeSet<_> = positions(&after[&(0, token)]).into_iter().collect();
            assert!(is.contains(&position));
            assert_eq!(is.len(), 16);
            if was.contains(&position) {
                assert_eq!(is, was);
                continue;
            }
            let score = |at: &&usize| scores[token][**at];
            // At a tie the higher position ranks lower.
            let lowest = was
                .iter()
                .min_by(|a, b| score(a).partial_cmp(&score(b)).unwrap().then(b.cmp(a)))
                .unwrap();
            let lost: Vec<_> = was.difference(&is).collect();
            assert_eq!(lost, [lowest], "token {token}, position {position}");
        }
    }
}

#[test]
fn rules_hold_in_the_layers_that_are_named_and_in_those_that_share() {
    for (name, layers, hidden_in) in [
        ("v32-f32", vec![1], vec![1]),
        // The last layer shares the selection of the second.
        ("glm-dsa", vec![1], vec![1, 2]),
        ("glm-dsa", vec![0], vec![0]),
        ("moonlight", vec![0, 2], vec![0, 2]),
    ] {
        for dense in [false, true] {
            let options = ForwardOptions {
                dense,
                ..forward(Intervention {
                    layers: Some(layers.iter().copied().collect()),
                    ..banned(&[0, 1, 2, 3, 4, 5, 6, 7])
                })
            };
            let mut session = session(name, &Device::cpu(), 9);
            let n_layers = session.model().config().num_hidden_layers;
            let found = read(&run(&mut session, &options), n_layers);
            for layer in 0..n_layers {
                let reads = (8..N).any(|token| {
                    let row = positions(&found[&(layer, token)]);
                    row.iter().any(|&position| position < 8)
                });
                assert_eq!(reads, !hidden_in.contains(&layer), "{name}, layer {layer}");
            }
        }
    }
}

#[test]
fn the_mtp_layer_obeys_too() {
    let mut session = session("v32-f32", &Device::cpu(), 4096);
    let model = session.model().clone();
    let hidden = session.advance_all(&ids(N)).unwrap().hidden;
    let layer = model.config().num_hidden_layers;
    let rows = |intervention| {
        let mut cache = model.new_mtp_cache(Default::default()).unwrap();
        let mut trace = engine::trace::Trace::new(Watch::everything(WatchedRows::All));
        let options = forward(intervention);
        model
            .forward_mtp(
                &hidden,
                &ids(N),
                &mut cache,
                &options,
                LogitRows::None,
                &mut trace,
            )
            .unwrap();
        let frame = trace.take();
        let value = frame.get(layer, Stage::SelectedPositions).unwrap().clone();
        let experts = frame.get(layer, Stage::Experts).unwrap().clone();
        (value, experts)
    };
    let (positions, experts) = rows(Intervention {
        experts_off: [(layer, 2)].into(),
        ..banned(&[1, 4])
    });
    let slots = positions.shape()[1];
    for (token, row) in positions.integers().unwrap().chunks(slots).enumerate() {
        assert!(
            !row.iter()
                .any(|&at| [1, 4].contains(&at) && (at as usize) < token)
        );
    }
    assert!(!experts.integers().unwrap().contains(&2));
    assert!(
        rows(Intervention::default())
            .1
            .integers()
            .unwrap()
            .contains(&2)
    );
}

#[test]
fn an_expert_that_is_off_is_replaced_by_the_next_and_only_there() {
    // Without groups and without a bias the gate takes the best scores.
    let name = "v2-lite";
    for device in [device("cpu"), device("portable")] {
        let plain = run_on(name, &device, 9, &ForwardOptions::default());
        let k = 3;
        for expert in 0..8 {
            let off = Intervention {
                experts_off: [(1, expert as usize)].into(),
                ..Intervention::default()
            };
            let frames = run_on(name, &device, 9, &forward(off));
            let (before, after) = (experts(&plain, 1), experts(&frames, 1));
            let scores = floats(&frames, 1, Stage::GateScores);
            let mut first_hit = N;
            for token in 0..N {
                let mut order: Vec<i32> = (0..8).filter(|&e| e != expert).collect();
                let score = |e: i32| scores[token][e as usize];
                order.sort_by(|&a, &b| score(b).total_cmp(&score(a)).then(a.cmp(&b)));
                assert_eq!(after[token], order[..k], "token {token}");
                if before[token].contains(&expert) {
                    first_hit = first_hit.min(token);
                } else {
                    assert_eq!(after[token], before[token], "token {token}");
                }
            }
            // What comes before the first token that wanted it is untouched.
            let (a, b) = (logits(&plain), logits(&frames));
            if device.info.id == "cpu" {
                assert_eq!(a[..first_hit], b[..first_hit]);
            }
            if first_hit < N {
                assert_ne!(a[first_hit], b[first_hit]);
            }
        }
    }
}

#[test]
fn experts_that_are_off_stay_out_of_every_kind_of_gate() {
    for name in ["v32-f32", "v2-grouped", "glm-dsa", "moonlight", "v3-mtp"] {
        // As many as may go: 3 of 8 are needed.
        let off: BTreeSet<(usize, usize)> = [0, 2, 3, 5, 7].map(|expert| (1, expert)).into();
        let options = forward(Intervention {
            experts_off: off,
            ..Intervention::default()
        });
        let frames = run_on(name, &Device::cpu(), 9, &options);
        let mut elsewhere = BTreeSet::new();
        for token in 0..N {
            let mut chosen = experts(&frames, 1)[token].clone();
            chosen.sort_unstable();
            assert_eq!(chosen, [1, 4, 6], "{name}, token {token}");
            elsewhere.extend(experts(&frames, 2)[token].iter().copied());
        }
        assert!(
            elsewhere
                .iter()
                .any(|expert| [0, 2, 3, 5, 7].contains(expert))
        );
        for row in floats(&frames, 1, Stage::ExpertWeights) {
            assert!(
                row.iter().all(|weight| weight.is_finite()),
                "{name}: {row:?}"
            );
        }
    }
}

/// A run, its routes and its selections.
fn recorded(
    name: &str,
    device: &Device,
    chunk: usize,
    options: &ForwardOptions,
) -> (Vec<Frame>, Arc<RouteTrace>, Arc<SelectionTrace>) {
    let mut session = session(name, device, chunk);
    session.record_routes().unwrap();
    session.record_selections().unwrap();
    let frames = run(&mut session, options);
    let routes = session.take_routes().unwrap();
    let selections = session.take_selections().unwrap();
    assert!(session.take_selections().is_none());
    (frames, Arc::new(routes), Arc::new(selections))
}

fn replaying(routes: &Arc<RouteTrace>, selections: &Arc<SelectionTrace>) -> Intervention {
    Intervention {
        routes: Some(routes.clone()),
        selections: Some(selections.clone()),
        ..Intervention::default()
    }
}

#[test]
fn a_run_that_replays_itself_is_the_same_run() {
    for name in FIXTURES.into_iter().chain(["v32-fp8"]) {
        for device in [device("cpu"), device("portable")] {
            let plain = ForwardOptions::default();
            let (frames, routes, selections) = recorded(name, &device, 9, &plain);
            let (again, routes_again, selections_again) =
                recorded(name, &device, 9, &forward(replaying(&routes, &selections)));
            assert!(again == frames, "{name} on {}", device.info.id);
            assert!(routes_again == routes && selections_again == selections);
        }
    }
}

#[test]
fn a_replayed_selection_holds_whatever_the_knobs_say() {
    for name in ["v32-f32", "glm-dsa"] {
        let sparse = ForwardOptions::default();
        let dense = ForwardOptions {
            dense: true,
            ..ForwardOptions::default()
        };
        let narrow = ForwardOptions {
            index_topk: Some(4),
            ..ForwardOptions::default()
        };
        let kinds = [sparse, dense, narrow];
        let cpu = Device::cpu();
        for of in &kinds {
            let (frames, _, selections) = recorded(name, &cpu, 9, of);
            for under in &kinds {
                let options = ForwardOptions {
                    intervention: Intervention {
                        selections: Some(selections.clone()),
                        ..Intervention::default()
                    },
                    ..under.clone()
                };
                // Other chunks too: a row depends on its own token only.
                for chunk in [9, 64] {
                    let again = run_on(name, &cpu, chunk, &options);
                    assert_eq!(logits(&again), logits(&frames), "{name}, {chunk}");
                }
            }
        }
    }
}

#[test]
fn a_replay_that_knows_some_tokens_leaves_the_others_to_themselves() {
    let cpu = Device::cpu();
    let mut trace = SelectionTrace::new();
    trace.record(0, 30, &[2, 7]).unwrap();
    trace.record(1, 3, &[1]).unwrap();
    let options = forward(Intervention {
        selections: Some(Arc::new(trace)),
        pinned: [4].into(),
        banned: [7].into(),
        layers: Some([0].into()),
        ..Intervention::default()
    });
    for chunk in [1, 9, 64] {
        let frames = run_on("v32-f32", &cpu, chunk, &options);
        let found = read(&frames, 3);
        assert_eq!(
            positions(&found[&(0, 30)]),
            [2, 4],
            "pinned added, banned gone"
        );
        assert_eq!(positions(&found[&(1, 3)]), [1]);
        assert_eq!(positions(&found[&(0, 3)]), [0, 1, 2, 3]);
        for token in 20..N {
            for layer in 0..3 {
                let row = positions(&found[&(layer, token)]);
                if (layer, token) != (0, 30) {
                    assert_eq!(row.len(), 16, "layer {layer}, token {token}, {chunk}");
                }
                if layer == 0 {
                    assert!(row.contains(&4) && !row.contains(&7));
                }
            }
        }
    }
    // The same bits in any chunks.
    let of = |chunk| logits(&run_on("v32-f32", &cpu, chunk, &options));
    assert_eq!(of(1), of(64));
    assert_eq!(of(9), of(64));
}

#[test]
fn the_native_bodies_agree_with_f64() {
    // As far as the plain forward pass is from it, see the tests of bodies.
    const ABSOLUTE: f32 = 1e-4;
    let both = Intervention {
        pinned: [0, 9].into(),
        banned: [3, 12, 25].into(),
        experts_off: [(1, 0), (1, 6), (2, 3)].into(),
        ..Intervention::default()
    };
    for name in FIXTURES {
        for dense in [false, true] {
            let has_indexer = session(name, &Device::cpu(), 9)
                .model()
                .config()
                .indexer
                .is_some();
            let options = ForwardOptions {
                dense,
                ..forward(Intervention {
                    pinned: if has_indexer {
                        both.pinned.clone()
                    } else {
                        BTreeSet::new()
                    },
                    ..both.clone()
                })
            };
            let native = run_on(name, &device("cpu"), 9, &options);
            let exact = run_on(name, &device("portable-f64"), 9, &options);
            assert_eq!(
                native
                    .iter()
                    .map(|frame| frame.get(1, Stage::Experts))
                    .collect::<Vec<_>>(),
                exact
                    .iter()
                    .map(|frame| frame.get(1, Stage::Experts))
                    .collect::<Vec<_>>(),
            );
            let rows = floats(&native, None, Stage::Logits);
            let want = floats(&exact, None, Stage::Logits);
            for (row, want) in rows.iter().flatten().zip(want.iter().flatten()) {
                assert!((row - want).abs() <= ABSOLUTE, "{name}: {row}, want {want}");
            }
        }
    }
}

/// The name, what was found and what was expected, of a refusal.
fn refusal(session: &mut Session, options: ForwardOptions) -> String {
    let before = session.forward_options().clone();
    let error = session.set_forward(options).unwrap_err();
    assert!(
        matches!(error, Error::Setting { .. } | Error::Replay { .. }),
        "{error:?}"
    );
    assert_eq!(
        *session.forward_options(),
        before,
        "a refusal changes nothing"
    );
    error.to_string()
}

#[test]
fn nonsense_is_refused_by_name() {
    let off = |experts: &[(usize, usize)]| Intervention {
        experts_off: experts.iter().copied().collect(),
        ..Intervention::default()
    };
    let within = |layer| Intervention {
        layers: Some([layer].into()),
        ..banned(&[1])
    };
    let selections = |layer, position, positions: &[usize]| {
        let mut trace = SelectionTrace::new();
        trace.record(layer, position, positions).unwrap();
        Intervention {
            selections: Some(Arc::new(trace)),
            ..Intervention::default()
        }
    };
    let foreign = Intervention {
        routes: Some(Arc::new(RouteTrace::new(9, 2, &[1, 2], 0).unwrap())),
        ..Intervention::default()
    };
    let seventeen: Vec<usize> = (0..17).collect();
    let all_but_two: Vec<_> = (0..6).map(|expert| (2, expert)).collect();
    for (name, intervention, told) in [
        (
            "v32-f32",
            Intervention {
                banned: [3].into(),
                ..pinned(&[2, 3])
            },
            "position 3 is pinned and banned",
        ),
        (
            "v32-f32",
            pinned(&seventeen),
            "pinned positions is 17, expected at most 16: index_topk",
        ),
        (
            "v32-f32",
            pinned(&[163_840]),
            "pinned position is 163840, expected below 163840",
        ),
        (
            "moonlight",
            banned(&[163_840]),
            "banned position is 163840, expected below 163840",
        ),
        ("moonlight", pinned(&[1]), "a model with an indexer"),
        ("v32-f32", within(4), "is 4, expected below 4"),
        ("moonlight", within(3), "is 3, expected below 3"),
        (
            "glm-dsa",
            within(2),
            "is 2, expected 1: the layer whose selection it shares",
        ),
        (
            "v32-f32",
            off(&[(0, 1)]),
            "is 1 of layer 0, expected one of a layer with experts",
        ),
        (
            "v32-f32",
            off(&[(9, 1)]),
            "is 1 of layer 9, expected one of a layer with experts",
        ),
        (
            "v32-f32",
            off(&[(1, 8)]),
            "is 8 of layer 1, expected below 8",
        ),
        (
            "v32-f32",
            off(&all_but_two),
            "is 6 of 8 in layer 2, expected at most 5: a token takes 3",
        ),
        (
            "glm-dsa",
            selections(2, 5, &[1]),
            "selection trace, layer: found 2",
        ),
        (
            "v32-f32",
            selections(3, 5, &[1]),
            "selection trace, layer: found 3",
        ),
        (
            "v32-f32",
            selections(0, 163_840, &[1]),
            "selection trace, position: found 163840",
        ),
        (
            "v32-f32",
            foreign,
            "route trace, n_routed_experts: found 9, expected 8",
        ),
    ] {
        let mut session = session(name, &Device::cpu(), 9);
        let message = refusal(&mut session, forward(intervention));
        assert!(message.contains(told), "{message}, expected {told}");
    }
    let mut session = session("v32-f32", &Device::cpu(), 9);
    for selector in [Selector::Recent, Selector::Random { seed: 1 }] {
        for intervention in [pinned(&[1]), banned(&[1])] {
            let options = ForwardOptions {
                selector,
                ..forward(intervention)
            };
            let message = refusal(&mut session, options);
            assert!(
                message.contains("with pinned or banned positions"),
                "{message}"
            );
        }
    }
    // More pins than index_topk do not matter where everything is read.
    let dense = ForwardOptions {
        dense: true,
        ..forward(pinned(&seventeen))
    };
    session.set_forward(dense).unwrap();
    let wide = ForwardOptions {
        index_topk: Some(17),
        ..forward(pinned(&seventeen))
    };
    session.set_forward(wide).unwrap();
}

#[test]
fn gpus_replay_routes_and_refuse_the_rest() {
    let (_, routes, selections) =
        recorded("v32-f32", &Device::cpu(), 9, &ForwardOptions::default());
    let refused = [
        pinned(&[1]),
        banned(&[1]),
        Intervention {
            experts_off: [(1, 1)].into(),
            ..Intervention::default()
        },
        Intervention {
            selections: Some(selections),
            ..Intervention::default()
        },
    ];
    for info in list() {
        if matches!(info.kind, DeviceKind::Cpu | DeviceKind::Reference) {
            continue;
        }
        let mut session = session("v32-f32", &device(&info.id), 64);
        for intervention in &refused {
            let message = refusal(&mut session, forward(intervention.clone()));
            assert!(message.contains("GPUs have no other"), "{message}");
        }
        let error = session.record_selections().unwrap_err();
        assert!(
            error.to_string().contains("the CPU or a portable device"),
            "{error}"
        );
        let options = forward(Intervention {
            routes: Some(routes.clone()),
            ..Intervention::default()
        });
        session.record_routes().unwrap();
        session.set_forward(options).unwrap();
        session.advance(&ids(N)).unwrap();
        let followed = session.take_routes().unwrap();
        for layer in [1, 2] {
            for position in 0..N {
                let of = |trace: &RouteTrace| trace.get(layer, position).unwrap().0.to_vec();
                assert_eq!(of(&followed), of(&routes));
            }
        }
    }
}
