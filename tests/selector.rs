//! Controls in the indexer's place: the positions they give, and what they leave behind.

use std::collections::BTreeMap;
use std::sync::Arc;

use engine::device::{DeviceKind, list};
use engine::model::{ForwardOptions, LogitRows, Selector};
use engine::trace::{Stage, Watch, WatchedRows};
use engine::{Device, Error, Model, Session, SessionOptions};

use crate::fixture;

const CONTROLS: [Selector; 3] = [
    Selector::Recent,
    Selector::Random { seed: 0 },
    Selector::Random { seed: u64::MAX },
];

fn session(name: &str, device: &Device, chunk_tokens: usize) -> Session {
    let model = Arc::new(Model::open(&fixture(name), device).unwrap());
    let options = SessionOptions {
        chunk_tokens,
        ..SessionOptions::default()
    };
    Session::new(model, options).unwrap()
}

fn forward(selector: Selector, index_topk: Option<usize>) -> ForwardOptions {
    ForwardOptions {
        selector,
        index_topk,
        ..ForwardOptions::default()
    }
}

fn ids(n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| (i * 37 + 11) % 128).collect()
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|logit| logit.to_bits()).collect()
}

/// The positions that each token of a run reads in each layer.
fn positions(session: &mut Session, n: usize) -> BTreeMap<(usize, usize), Vec<i32>> {
    session.watch(Watch::everything(WatchedRows::All));
    session.advance(&ids(n)).unwrap();
    let n_layers = session.model().config().num_hidden_layers;
    let mut found = BTreeMap::new();
    for frame in session.take_frames() {
        for layer in 0..n_layers {
            let value = frame.get(layer, Stage::SelectedPositions).unwrap();
            let n_slots = value.shape()[1];
            let rows = value.integers().unwrap().chunks_exact(n_slots);
            for (row, slots) in rows.enumerate() {
                let chosen = slots.iter().copied().filter(|&s| s >= 0).collect();
                found.insert((layer, frame.position + row), chosen);
            }
        }
    }
    found
}

#[test]
fn recent_reads_a_window() {
    for device in ["cpu", "portable", "portable-f64"] {
        let device = Device::open(Some(device)).unwrap();
        let mut session = session("v32-f32", &device, 7);
        session
            .set_forward(forward(Selector::Recent, Some(5)))
            .unwrap();
        let found = positions(&mut session, 23);
        assert_eq!(found.len(), 3 * 23);
        for ((layer, token), chosen) in found {
            let first = (token + 1).saturating_sub(5);
            let window: Vec<i32> = (first as i32..=token as i32).collect();
            assert_eq!(chosen, window, "layer {layer}, token {token}");
        }
    }
}

#[test]
fn random_reads_as_many_and_the_same_on_every_device_and_in_any_chunks() {
    let run = |device: &str, chunk, seed| {
        let device = Device::open(Some(device)).unwrap();
        let mut session = session("v32-f32", &device, chunk);
        let options = forward(Selector::Random { seed }, None);
        session.set_forward(options).unwrap();
        positions(&mut session, 40)
    };
    let found = run("cpu", 40, 3);
    for ((layer, token), chosen) in &found {
        assert_eq!(chosen.len(), 16.min(token + 1), "layer {layer}, {token}");
        assert!(chosen.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(chosen.iter().all(|&s| s <= *token as i32));
    }
    assert_eq!(run("cpu", 1, 3), found);
    assert_eq!(run("cpu", 9, 3), found);
    assert_eq!(run("portable", 9, 3), found);
    assert_ne!(run("cpu", 40, 4), found);
    for token in 20..40 {
        assert_ne!(found[&(0, token)], found[&(1, token)], "layers differ");
        assert_ne!(found[&(0, token)], found[&(0, token - 1)], "tokens differ");
    }
}

#[test]
fn layers_without_an_indexer_share_the_selection() {
    let mut session = session("glm-dsa", &Device::cpu(), 64);
    let config = session.model().config().clone();
    let options = forward(Selector::Random { seed: 1 }, None);
    session.set_forward(options).unwrap();
    let found = positions(&mut session, 40);
    let mut shared = 0;
    for layer in 1..config.num_hidden_layers {
        for token in 20..40 {
            let is_same = found[&(layer, token)] == found[&(layer - 1, token)];
            assert_eq!(is_same, !config.owns_indexer(layer), "{layer}, {token}");
            shared += usize::from(is_same);
        }
    }
    assert!(shared > 0, "the fixture has layers that share");
}

#[test]
fn with_as_many_positions_as_there_are_it_is_dense_bit_for_bit() {
    for device in ["cpu", "portable"] {
        let device = Device::open(Some(device)).unwrap();
        let run = |options: ForwardOptions| {
            let mut session = session("v32-f32", &device, 4096);
            session.set_forward(options).unwrap();
            let all = session.advance_all(&ids(40)).unwrap().logits.unwrap();
            let width = all.width();
            (bits(&all.read().unwrap()), width)
        };
        let (dense, width) = run(ForwardOptions {
            dense: true,
            ..ForwardOptions::default()
        });
        for selector in CONTROLS {
            for k in [40, 41, 2048] {
                assert_eq!(
                    run(forward(selector, Some(k))).0,
                    dense,
                    "{selector:?}, {k}"
                );
            }
            // The last token leaves one out; all others go through the selection and see all.
            let (almost, _) = run(forward(selector, Some(39)));
            let last = 39 * width;
            assert_ne!(almost[last..], dense[last..], "{selector:?}");
            // Sums over a selection are those of the whole, one after the other, on the CPU alone.
            if device.info.id == "cpu" {
                assert_eq!(almost[..last], dense[..last], "{selector:?}");
            }
        }
    }
}

#[test]
fn the_indexer_finds_its_keys_after_a_control() {
    for device in ["cpu", "portable"] {
        let device = Device::open(Some(device)).unwrap();
        let scores = |selector: Selector| {
            let mut session = session("v32-f32", &device, 7);
            session.set_forward(forward(selector, None)).unwrap();
            session.advance(&ids(40)).unwrap();
            session.set_forward(ForwardOptions::default()).unwrap();
            session.watch(Watch::everything(WatchedRows::Last));
            session.advance(&[7]).unwrap();
            let frame = session.take_frames().pop().unwrap();
            let of = |stage| frame.get(0, stage).unwrap().clone();
            let found = (of(Stage::IndexScores), of(Stage::SelectedPositions));
            // From the beginning once more, as if nothing had been.
            session.watch(Watch::default());
            session.rewind(0).unwrap();
            (found, bits(&session.advance(&ids(41)).unwrap()))
        };
        // The first layer's keys depend on the tokens alone.
        let expected = scores(Selector::Indexer);
        for selector in CONTROLS {
            assert_eq!(scores(selector), expected, "{selector:?}");
        }
    }
}

#[test]
fn the_mtp_layer_takes_them_too() {
    let mut session = session("v32-f32", &Device::cpu(), 4096);
    let model = session.model().clone();
    assert!(model.has_mtp());
    let hidden = session.advance_all(&ids(40)).unwrap().hidden;
    let run = |selector| {
        let mut cache = model.new_mtp_cache(Default::default()).unwrap();
        let mut trace = engine::trace::Trace::off();
        let options = forward(selector, Some(4));
        let all = LogitRows::All;
        let logits = model.forward_mtp(&hidden, &ids(40), &mut cache, &options, all, &mut trace);
        bits(&logits.unwrap().unwrap().read().unwrap())
    };
    let recent = run(Selector::Recent);
    assert_eq!(run(Selector::Recent), recent);
    assert_ne!(run(Selector::Indexer), recent);
}

#[test]
fn a_control_is_refused_where_there_is_none() {
    for selector in CONTROLS {
        for device in ["cpu", "portable"] {
            let device = Device::open(Some(device)).unwrap();
            let mut without = session("v2-lite", &device, 8);
            let error = without.set_forward(forward(selector, None)).unwrap_err();
            assert!(matches!(&error, Error::Setting { name, .. } if name == "selector"));
            let told = error.to_string();
            assert!(told.contains(selector.name()), "{told}");
            assert!(told.contains("a model with an indexer"), "{told}");
        }
        for info in list() {
            if matches!(info.kind, DeviceKind::Cpu | DeviceKind::Reference) {
                continue;
            }
            let device = Device::open(Some(&info.id)).unwrap();
            let mut on_gpu = session("v32-f32", &device, 8);
            let error = on_gpu.set_forward(forward(selector, None)).unwrap_err();
            assert!(error.to_string().contains("GPUs have no other"), "{error}");
            on_gpu.set_forward(ForwardOptions::default()).unwrap();
        }
    }
}
