//! Ops timed and counted, and memory by part.

use std::sync::Arc;
use std::time::Duration;

use engine::device::{DeviceKind, list};
use engine::trace::{CPU_OPS, Frame, Stage, Watch, WatchedRows};
use engine::{CacheBytes, CacheFormat, Device, Model, Session, SessionOptions, trace_file};

use crate::fixture;

fn session(name: &str, device: &Device) -> Session {
    let model = Arc::new(Model::open(&fixture(name), device).unwrap());
    Session::new(model, SessionOptions::default()).unwrap()
}

fn ids(n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| (i * 37 + 11) % 128).collect()
}

fn timed() -> Watch {
    Watch {
        timings: true,
        ..Watch::default()
    }
}

fn step(session: &mut Session, n: usize) -> Frame {
    session.advance(&ids(n)).unwrap();
    session
        .take_frames()
        .pop()
        .expect("a watched step leaves a frame")
}

/// The bytes of an op.
fn bytes(frame: &Frame, op: &str, layer: impl Into<Option<usize>>) -> u64 {
    let layer = layer.into();
    let is_it = |timing: &&engine::trace::OpTiming| timing.op == op && timing.layer == layer;
    frame.timings.iter().find(is_it).unwrap().bytes
}

#[test]
fn every_op_of_every_layer_is_timed_once_and_the_definition_times_the_whole_pass() {
    let mut checking = session("v32-f32", &Device::open(Some("portable")).unwrap());
    checking.watch(timed());
    let frame = step(&mut checking, 40);
    assert!(frame.timings.is_empty() && frame.elapsed.unwrap() > Duration::ZERO);

    for name in ["v32-f32", "glm-dsa", "v2-lite", "v32-fp8"] {
        let mut session = session(name, &Device::cpu());
        let config = session.model().config().clone();
        session.watch(timed());
        let frame = step(&mut session, 40);
        assert!(frame.values.is_empty());
        let mut want = vec![("embed", None)];
        for layer in 0..config.num_hidden_layers {
            let mut add = |op| want.push((op, Some(layer)));
            add("norm");
            add("project");
            if config.q_lora_rank.is_some() {
                add("queries");
            }
            add("latents");
            if config.owns_indexer(layer) {
                add("index_query");
            }
            if config.selection_layer(layer) == layer {
                add("select");
            }
            for op in ["attention", "o_proj"] {
                add(op);
            }
            if config.is_moe(layer) {
                add("gate");
                add("experts");
            } else {
                add("mlp");
            }
        }
        want.extend([("norm", None), ("head", None)]);
        let found: Vec<_> = frame.timings.iter().map(|t| (t.op, t.layer)).collect();
        assert_eq!(found, want, "{name}");
        let in_table = |op: &str| CPU_OPS.iter().any(|(name, _)| *name == op);
        assert!(found.iter().all(|(op, _)| in_table(op)));
        let sum: Duration = frame.timings.iter().map(|t| t.duration.unwrap()).sum();
        assert!(sum > Duration::ZERO && sum <= frame.elapsed.unwrap());
        assert!(frame.timings.iter().all(|timing| timing.launches == 0));
    }
}

#[test]
fn bytes_are_those_of_the_formulas() {
    let mut session = session("v32-f32", &Device::cpu());
    session.watch(timed());
    step(&mut session, 40);
    // The next token reads 16 of 41 positions in each layer, and scores all of them.
    let frame = step(&mut session, 1);
    let config = session.model().config().clone();
    let (hidden, heads) = (64, 4);
    let latent = 4 * (32 + 16);
    let key = 4 * 32;
    let kv_b = heads * (16 + 24) * 32 * 4;
    assert_eq!(bytes(&frame, "embed", None), hidden * 4);
    assert_eq!(bytes(&frame, "head", None), 128 * hidden * 4);
    assert_eq!(bytes(&frame, "norm", None), hidden * 4);
    assert_eq!(bytes(&frame, "norm", 1), 2 * hidden * 4);
    assert_eq!(bytes(&frame, "select", 1), 41 * key);
    assert_eq!(bytes(&frame, "attention", 1), kv_b + 16 * latent);
    assert_eq!(bytes(&frame, "o_proj", 1), hidden * heads * 24 * 4);
    assert_eq!(bytes(&frame, "mlp", 0), 3 * 80 * hidden * 4);
    // Three of eight, and the shared one.
    assert_eq!(bytes(&frame, "experts", 1), 4 * 3 * 32 * hidden * 4);
    assert_eq!(bytes(&frame, "gate", 1), 8 * hidden * 4);
    assert_eq!(config.num_hidden_layers, 3);
    // A dense pass of two tokens: 42 and 43 positions, no scores.
    session
        .set_forward(engine::model::ForwardOptions {
            dense: true,
            ..Default::default()
        })
        .unwrap();
    let frame = step(&mut session, 2);
    assert_eq!(bytes(&frame, "select", 1), 0);
    assert_eq!(bytes(&frame, "attention", 1), kv_b + (42 + 43) * latent);
}

#[test]
fn nothing_is_timed_unless_somebody_asks_and_timing_changes_no_bit() {
    let watch = Watch::everything(WatchedRows::All);
    let run = |watch: Watch| {
        let mut session = session("v32-f32", &Device::cpu());
        session.watch(watch);
        step(&mut session, 40)
    };
    let plain = run(watch.clone());
    assert!(plain.timings.is_empty() && plain.elapsed.is_none());
    let mut timed = run(Watch {
        timings: true,
        ..watch
    });
    assert!(!timed.timings.is_empty());
    // Files leave timings out.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace.safetensors");
    trace_file::save(&path, std::slice::from_ref(&timed)).unwrap();
    assert!(trace_file::load(&path).unwrap() == [plain.clone()]);
    timed.timings.clear();
    timed.elapsed = None;
    assert!(timed == plain);
}

#[test]
fn a_gpu_counts_its_launches() {
    for info in list() {
        if matches!(info.kind, DeviceKind::Cpu | DeviceKind::Reference) {
            continue;
        }
        let mut session = session("v32-f32", &Device::open(Some(&info.id)).unwrap());
        session.watch(timed());
        step(&mut session, 20);
        let frame = step(&mut session, 1);
        assert!(frame.elapsed.is_none());
        assert!(frame.timings.iter().all(|timing| timing.duration.is_none()));
        // The same pass once more, counted from outside while it is timed, too.
        session.rewind(20).unwrap();
        let model = session.model().clone();
        assert!(model.start_profile(true));
        let again = step(&mut session, 1);
        let profile = model.take_profile().expect("it goes on until it is taken");
        let in_pass = |timings: &[engine::trace::OpTiming]| {
            let sum = timings.iter().map(|timing| (timing.launches, timing.bytes));
            sum.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1))
        };
        let (launches, bytes) = in_pass(&frame.timings);
        assert_eq!(in_pass(&again.timings), (launches, bytes));
        let total = profile.total(|_| true);
        assert_eq!((launches as usize, bytes), (total.n, total.bytes()));
        assert!(again.timings.iter().any(|timing| timing.duration.is_some()));
        let layers = frame.timings.iter().filter_map(|timing| timing.layer);
        assert_eq!(layers.max(), Some(2));
        // Nobody counts any more.
        session.watch(Watch {
            stages: [Stage::Logits].into(),
            ..Watch::default()
        });
        assert!(step(&mut session, 1).timings.is_empty());
        assert!(model.take_profile().is_none());
    }
}

#[test]
fn caches_are_told_by_part() {
    for name in ["v32-f32", "glm-dsa", "v2-lite"] {
        let mut session = session(name, &Device::cpu());
        assert_eq!(session.cache_bytes(), CacheBytes::default());
        session.advance(&ids(40)).unwrap();
        let config = session.model().config().clone();
        let format = CacheFormat::default();
        let n_layers = config.num_hidden_layers;
        let n_owners = (0..n_layers)
            .filter(|&layer| config.owns_indexer(layer))
            .count();
        // A page of 256 latents, one of 1024 keys.
        let want = CacheBytes {
            latents: n_layers * 256 * config.latent_bytes(format.latent),
            keys: n_owners * 1024 * config.key_bytes(format.keys),
        };
        let found = session.cache_bytes();
        assert_eq!(found, want, "{name}");
        assert_eq!(found.total(), want.latents + want.keys);
        let a_token = config.cache_bytes_per_token(format.latent, format.keys);
        assert_eq!(
            a_token,
            n_layers * config.latent_bytes(format.latent)
                + n_owners * config.key_bytes(format.keys)
        );
    }
}
