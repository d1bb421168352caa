//! References in the place of kernels, on every adapter: a model must not notice.
//!
//! Which of them ran is seen in the profile: a timed launch has a duration, a reference has none.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use engine::cache::{KeyFormat, LatentFormat};
use engine::device::{DeviceInfo, DeviceKind, Kernels, list};
use engine::sampler::{DeviceDraw, Picked};
use engine::session::Next;
use engine::trace::{Frame, Site, Value, Watch, WatchedRows};
use engine::verify::Tolerance;
use engine::{CacheFormat, Device, Error, Model, Session, SessionOptions};
use serde_json::Value as Json;

use crate::random_model::{self, Store};
use crate::{fixture, found};

/// A checkpoint, how its caches are stored, and how close two runs must be.
struct Case {
    fixture: &'static str,
    format: CacheFormat,
    tolerance: Tolerance,
}

/// Together they launch every kernel, with FP8 weights and caches, both ropes of the indexer, both
/// scorings and two ways of routing.
const CASES: &[Case] = &[
    Case {
        fixture: "v32-fp8",
        format: CacheFormat {
            latent: LatentFormat::Fp8,
            keys: KeyFormat::Fp8,
        },
        // A reference and its kernel round sums differently, and a code may flip.
        tolerance: Tolerance::FP8_STEP,
    },
    Case {
        fixture: "v2-grouped",
        format: CacheFormat {
            latent: LatentFormat::F32,
            keys: KeyFormat::F32,
        },
        tolerance: Tolerance::GPU,
    },
    Case {
        fixture: "glm-dsa",
        format: CacheFormat {
            latent: LatentFormat::Bf16,
            keys: KeyFormat::F32,
        },
        tolerance: Tolerance::GPU,
    },
];

/// What a short schedule does not launch for a cache that grows, or not with more than one split.
const LATE: &[&str] = &["copy_words", "attend", "attend_merge"];

/// Tokens after which a cache grows.
const LONG: usize = 1030;

/// What a run left.
struct Run {
    frames: Vec<Frame>,
    picked: Vec<Picked>,
    /// Kernels that were launched, and those of them that ran on the host.
    launched: BTreeSet<&'static str>,
    on_host: BTreeSet<&'static str>,
}

fn adapters() -> Vec<DeviceInfo> {
    let all = list()
        .into_iter()
        .filter(|info| !matches!(info.kind, DeviceKind::Cpu | DeviceKind::Reference));
    found(all.collect())
}

fn ids(n: usize) -> Vec<u32> {
    (0..n as u32)
        .map(|i| (i * i * 7 + i * 3 + 5) % 128)
        .collect()
}

fn session(model: &Arc<Model>, case: &Case) -> Session {
    let options = SessionOptions {
        cache_format: case.format,
        ..SessionOptions::default()
    };
    Session::new(model.clone(), options).unwrap()
}

fn device(info: &DeviceInfo, ops: &BTreeSet<&'static str>) -> Device {
    let by_reference = ops.iter().copied().collect();
    Device::open_with(&info.id, Kernels::Ours { by_reference }).unwrap()
}

fn open(folder: &Path, device: &Device) -> Arc<Model> {
    Arc::new(Model::open(folder, device).unwrap())
}

/// A prompt for the tiled kernels, single tokens for the others, and two draws on the device.
fn short(model: &Arc<Model>, case: &Case) -> Run {
    assert!(model.start_profile(true));
    let mut session = session(model, case);
    session.watch(Watch::everything(WatchedRows::All));
    let ids = ids(22);
    session.advance(&ids[..20]).unwrap();
    let mut picked = Vec::new();
    for (at, temperature) in [(20, 0.0), (21, 0.8)] {
        let draw = DeviceDraw {
            temperature,
            top_p: 0.9,
            uniform: 0.4,
        };
        match session.advance_pick(&ids[at..=at], &draw).unwrap() {
            Next::Picked(token) => picked.push(token),
            Next::Logits(_) => panic!("a GPU draws by itself"),
        }
    }
    let launches = model.take_profile().unwrap().launches;
    let on_host = launches.iter().filter(|launch| launch.duration.is_none());
    Run {
        frames: session.take_frames(),
        picked,
        on_host: on_host.map(|launch| launch.op).collect(),
        launched: launches.iter().map(|launch| launch.op).collect(),
    }
}

/// The logits behind a cache that has grown, of several tokens and of one.
fn long(model: &Arc<Model>) -> [Vec<f32>; 2] {
    let mut session = Session::new(model.clone(), SessionOptions::default()).unwrap();
    let ids = ids(LONG + 1);
    [
        session.advance(&ids[..LONG]).unwrap(),
        session.advance(&ids[LONG..]).unwrap(),
    ]
}

fn assert_close(what: &str, got: &[f32], want: &[f32], tolerance: Tolerance) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        assert!(
            tolerance.close(got, want),
            "{what}: number {i} is {got}, expected {want}"
        );
    }
}

/// Integers equal, floats close; layer by layer, what comes after all layers last.
fn assert_same(what: &str, got: &Run, want: &Run, tolerance: Tolerance) {
    assert_eq!(got.frames.len(), want.frames.len(), "{what}");
    for (chunk, (got, want)) in got.frames.iter().zip(&want.frames).enumerate() {
        let mut sites: Vec<Site> = want.values.keys().copied().collect();
        assert!(got.values.keys().eq(&sites), "{what}");
        sites.sort_by_key(|site| (site.layer.unwrap_or(usize::MAX), *site));
        for site in sites {
            let (got, want) = (&got.values[&site], &want.values[&site]);
            let place = format!("{what}, chunk {chunk}, {site:?}");
            assert_eq!(got.shape(), want.shape(), "{place}");
            match (got, want) {
                (Value::F32 { data: got, .. }, Value::F32 { data: want, .. }) => {
                    assert_close(&place, got, want, tolerance);
                }
                _ => assert_eq!(got, want, "{place}"),
            }
        }
    }
    for (got, want) in got.picked.iter().zip(&want.picked) {
        assert_eq!(got.id, want.id, "{what}");
        let logprobs = |picked: &Picked| [picked.logprob, picked.draw_logprob];
        assert_close(what, &logprobs(got), &logprobs(want), tolerance);
    }
}

#[test]
fn a_model_does_not_notice_kernels_that_run_on_the_host() {
    let all: BTreeSet<_> = shaders::KERNELS.iter().map(|kernel| kernel.name).collect();
    for info in adapters() {
        let mut met = BTreeSet::new();
        // Of one device, what is compiled for one case is there for the next.
        let [kernels, references] = [&BTreeSet::new(), &all].map(|ops| device(&info, ops));
        for (case, alternate) in CASES.iter().zip([true, false, false]) {
            let folder = fixture(case.fixture);
            let plain = short(&open(&folder, &kernels), case);
            assert!(plain.on_host.is_empty(), "{:?}", plain.on_host);
            let check = |what: &str, device: &Device, ops: &BTreeSet<_>| {
                let what = format!("{what} of {} on {}", case.fixture, info.name);
                let run = short(&open(&folder, device), case);
                assert_same(&what, &run, &plain, case.tolerance);
                assert_eq!(run.launched, plain.launched, "{what}");
                let expected: BTreeSet<_> = plain.launched.intersection(ops).copied().collect();
                assert_eq!(run.on_host, expected, "{what}");
            };
            check("every reference", &references, &all);
            for &name in plain.launched.iter().filter(|_| alternate) {
                // Each kernel must find what references leave, and they what it does. A kernel alone
                // among them is compiled alone: the other way round takes four times as long.
                let mut others = all.clone();
                others.remove(name);
                let what = format!("every reference but that of {name}");
                check(&what, &device(&info, &others), &others);
            }
            met.extend(plain.launched);
        }
        let unmet: Vec<_> = all.difference(&met).copied().collect();
        // Where lanes run on a CPU, what would be for matmul is for matvec.
        let known = [&[][..], &["matmul"]];
        assert!(known.contains(&&unmet[..]), "{unmet:?} on {}", info.name);
    }
}

#[test]
fn nor_where_a_cache_has_grown_and_attention_is_split() {
    let config = std::fs::read_to_string(fixture("v2-grouped").join("config.json")).unwrap();
    let mut config: Json = serde_json::from_str(&config).unwrap();
    // Attention to this many takes most of the time: one layer is enough.
    config["num_hidden_layers"] = 1.into();
    let folder = tempfile::tempdir().unwrap();
    random_model::write(folder.path(), &config.to_string(), Store::F32);
    for info in adapters() {
        let [kernels, references] =
            [&[], LATE].map(|ops| device(&info, &BTreeSet::from_iter(ops.iter().copied())));
        let plain = long(&open(folder.path(), &kernels));
        let model = open(folder.path(), &references);
        assert!(model.start_profile(true));
        let on_host = long(&model);
        let launches = model.take_profile().unwrap().launches;
        let untimed = launches.iter().filter(|launch| launch.duration.is_none());
        let ran: BTreeSet<_> = untimed.map(|launch| launch.op).collect();
        assert!(
            ran.iter().eq(&BTreeSet::from_iter(LATE.iter().copied())),
            "{ran:?}"
        );
        for (got, want) in on_host.iter().zip(&plain) {
            assert_close(&info.name, got, want, Tolerance::GPU);
        }
    }
}

#[test]
fn names_that_no_kernel_has_are_refused() {
    let parse = Kernels::parse;
    let ours = |by_reference| Kernels::Ours { by_reference };
    let all = shaders::KERNELS.iter().map(|kernel| kernel.name);
    assert_eq!(parse("all").unwrap(), ours(all.collect()));
    assert_eq!(parse(" burn ").unwrap(), Kernels::Burn);
    assert_eq!(parse("").unwrap(), ours(vec![]));
    assert_eq!(
        parse("attend, top_k").unwrap(),
        ours(vec!["attend", "top_k"])
    );
    for text in ["attention", "attend,all", "burn,attend", "top_k;attend"] {
        assert!(matches!(parse(text), Err(Error::Setting { .. })), "{text}");
    }
    let message = parse("topk").unwrap_err().to_string();
    assert!(
        message.contains("topk") && message.contains("top_k"),
        "{message}"
    );
}
