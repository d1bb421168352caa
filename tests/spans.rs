//! Several timelines in one pass: whatever is cut, forked, rewound or dropped, every row is what it is
//! alone, to the bit, and so are records and frames.

use std::sync::Arc;

use engine::cache::{KeyFormat, LatentFormat};
use engine::model::{ForwardOptions, LoadOptions, LogitRows};
use engine::replay::{RouteTrace, SelectionTrace};
use engine::session::{Feed, advance_together};
use engine::trace::{Frame, Watch, WatchedRows};
use engine::{CacheFormat, Device, Error, Model, Session, SessionOptions};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

use crate::fixture;

const SCHEDULES: u64 = 200;

/// Most tokens of a timeline: enough to be sparse (16 of them) and to pass a fixture's context never.
const LONGEST: usize = 56;

fn below(random: &mut ChaCha8Rng, n: usize) -> usize {
    (random.next_u64() % n as u64) as usize
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// What was fed at once under one set of knobs, and what came of it.
#[derive(Clone)]
struct Piece {
    ids: Vec<u32>,
    forward: ForwardOptions,
    /// `[ids, vocab_size]`.
    logits: Vec<u32>,
    /// `None` once a part of it was rewound.
    frames: Option<Vec<Frame>>,
}

/// A timeline and all that it has seen.
struct Twin {
    session: Session,
    pieces: Vec<Piece>,
    /// Where its own records begin.
    recorded_from: usize,
}

impl Twin {
    fn new(session: Session, pieces: Vec<Piece>) -> Self {
        let mut twin = Self {
            recorded_from: session.position(),
            session,
            pieces,
        };
        twin.session.watch(Watch::everything(WatchedRows::All));
        twin.session.record_selections().unwrap();
        if twin.session.model().config().moe.is_some() {
            twin.session.record_routes().unwrap();
        }
        twin
    }

    /// Cuts what it remembers to `position`.
    fn cut(pieces: &[Piece], position: usize) -> Vec<Piece> {
        let mut left = position;
        let mut kept = Vec::new();
        for piece in pieces {
            let n = left.min(piece.ids.len());
            if n == 0 {
                break;
            }
            let mut piece = piece.clone();
            let vocab = piece.logits.len() / piece.ids.len();
            if n < piece.ids.len() {
                piece.frames = None;
            }
            piece.ids.truncate(n);
            piece.logits.truncate(n * vocab);
            left -= n;
            kept.push(piece);
        }
        kept
    }

    /// Runs the same alone, from the start, and compares everything.
    fn check(mut self, options: SessionOptions, what: &str) {
        let alone = Session::new(self.session.model().clone(), options).unwrap();
        let mut alone = Twin::new(alone, Vec::new());
        for (at, piece) in self.pieces.iter().enumerate() {
            alone.session.set_forward(piece.forward.clone()).unwrap();
            let output = alone.session.advance_all(&piece.ids).unwrap();
            let logits = bits(&output.logits.unwrap().read().unwrap());
            assert!(logits == piece.logits, "{what}: logits of piece {at}");
            let frames = alone.session.take_frames();
            if let Some(found) = &piece.frames {
                assert!(*found == frames, "{what}: frames of piece {at}");
            }
        }
        let config = alone.session.model().config().clone();
        let end = alone.session.position();
        assert_eq!(self.session.position(), end, "{what}");
        let [found, want] = [&mut self, &mut alone].map(|twin| {
            let routes = twin.session.take_routes();
            (routes, twin.session.take_selections().unwrap())
        });
        for token in 0..end {
            for layer in 0..config.num_hidden_layers {
                let route = |routes: &Option<RouteTrace>| {
                    let routes = routes.as_ref()?.get(layer, token)?;
                    Some((routes.0.to_vec(), bits(routes.1)))
                };
                let selection = |all: &SelectionTrace| all.get(layer, token);
                let (is_there, what) = (
                    token >= self.recorded_from,
                    format!("{what}: token {token}"),
                );
                let expected = |is_there: bool| is_there.then(|| route(&want.0)).flatten();
                assert_eq!(route(&found.0), expected(is_there), "{what}, layer {layer}");
                let expected = is_there.then(|| selection(&want.1)).flatten();
                assert_eq!(selection(&found.1), expected, "{what}, layer {layer}");
            }
        }
    }
}

/// Feeds some of `twins` in one pass; says how many.
fn feed(random: &mut ChaCha8Rng, twins: &mut [Twin]) -> usize {
    let sparse = twins
        .first()
        .unwrap()
        .session
        .model()
        .config()
        .indexer
        .is_some();
    let mut fed = Vec::new();
    for (at, twin) in twins.iter_mut().enumerate() {
        let room = LONGEST - twin.session.position();
        if room == 0 || below(random, 3) == 0 {
            continue;
        }
        let most = [1, 3, 24][below(random, 3)].min(room);
        let n = 1 + below(random, most);
        let ids: Vec<u32> = (0..n).map(|_| below(random, 128) as u32).collect();
        if below(random, 4) == 0 {
            let forward = ForwardOptions {
                dense: below(random, 3) == 0,
                index_topk: (sparse && below(random, 2) == 0).then(|| 1 + below(random, 20)),
                ..ForwardOptions::default()
            };
            twin.session.set_forward(forward).unwrap();
        }
        fed.push((at, ids));
    }
    let mut feeds: Vec<Feed> = Vec::new();
    let mut rest = fed.iter().peekable();
    for (at, twin) in twins.iter_mut().enumerate() {
        if let Some((_, ids)) = rest.next_if(|(fed, _)| *fed == at) {
            feeds.push(Feed {
                session: &mut twin.session,
                ids,
                logit_rows: LogitRows::All,
                is_last: true,
            });
        }
    }
    let outputs = advance_together(&mut feeds).unwrap();
    let n_fed = fed.len();
    assert_eq!(outputs.len(), n_fed);
    for ((at, ids), output) in fed.into_iter().zip(outputs) {
        let twin = &mut twins[at];
        twin.pieces.push(Piece {
            ids,
            forward: twin.session.forward_options().clone(),
            logits: bits(&output.logits.unwrap().read().unwrap()),
            frames: Some(twin.session.take_frames()),
        });
    }
    n_fed
}

#[test]
fn any_schedule_gives_every_timeline_what_it_gets_alone() {
    let names = [
        "v32-f32", "v32-bf16", "v32-fp8", "glm-dsa", "v2-lite", "v3-mtp",
    ];
    let models = names.map(|name| Arc::new(Model::open(&fixture(name), &Device::cpu()).unwrap()));
    let mut n_shared = 0;
    for seed in 0..SCHEDULES {
        let random = &mut ChaCha8Rng::seed_from_u64(seed);
        let at = below(random, models.len());
        let formats = [LatentFormat::F32, LatentFormat::Bf16, LatentFormat::Fp8];
        let keys = [KeyFormat::F32, KeyFormat::Fp8];
        let options = SessionOptions {
            cache_format: CacheFormat {
                latent: formats[below(random, 3)],
                keys: keys[below(random, 2)],
            },
            ..SessionOptions::default()
        };
        let new = || Session::new(models[at].clone(), options).unwrap();
        let what = format!("seed {seed}, {}, {options:?}", names[at]);
        let mut twins = vec![Twin::new(new(), Vec::new())];
        for _ in 0..4 + below(random, 6) {
            let one = below(random, twins.len());
            let position = twins[one].session.position();
            match below(random, 6) {
                0 if twins.len() < 5 => twins.push(Twin::new(new(), Vec::new())),
                1 if twins.len() < 5 => {
                    let at = below(random, position + 1);
                    let fork = twins[one].session.fork(at).unwrap();
                    let pieces = Twin::cut(&twins[one].pieces, at);
                    twins.push(Twin::new(fork, pieces));
                }
                2 => {
                    let at = below(random, position + 1);
                    let twin = &mut twins[one];
                    twin.session.rewind(at).unwrap();
                    twin.pieces = Twin::cut(&twin.pieces, at);
                    if at < twin.recorded_from {
                        // Records do not begin before they were begun: begin them again.
                        *twin = Twin::new(twin.session.fork(at).unwrap(), twin.pieces.clone());
                    }
                }
                // A timeline that nobody wants any more goes at once, whoever shares its pages.
                3 if twins.len() > 1 => drop(twins.swap_remove(one)),
                _ => {}
            }
            n_shared += usize::from(feed(random, &mut twins) > 1);
        }
        for (at, twin) in twins.into_iter().enumerate() {
            twin.check(options, &format!("{what}, timeline {at}"));
        }
    }
    assert!(
        n_shared > 400,
        "only {n_shared} passes had several timelines"
    );
}

#[test]
fn a_pass_feeds_all_or_none() {
    // NaN in the indexer of one layer: it shows where something is selected, so in the long one only.
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(fixture("v32-f32").join(name), folder.path().join(name)).unwrap();
    }
    let path = folder.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let name = "model.layers.1.self_attn.indexer.wk.weight";
    let at = {
        let all = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let data = all.tensor(name).unwrap().data().as_ptr() as usize;
        data - bytes.as_ptr() as usize
    };
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    let unchecked = LoadOptions {
        check_values: false,
    };
    let model = Model::load(folder.path(), &Device::cpu(), unchecked, &mut |_| {
        std::ops::ControlFlow::Continue(())
    });
    let model = Arc::new(model.unwrap().unwrap());
    let new = || Session::new(model.clone(), SessionOptions::default()).unwrap();
    let (mut short, mut long) = (new(), new());
    for session in [&mut short, &mut long] {
        session.advance(&[1, 2, 3]).unwrap();
        session.record_routes().unwrap();
        session.watch(Watch::everything(WatchedRows::All));
    }
    let ids: Vec<u32> = (0..30).collect();
    let both = |short: &mut Session, long: &mut Session, ids: &[u32]| {
        let feeds = [(short, &[7][..]), (long, ids)];
        let mut feeds = feeds.map(|(session, ids)| Feed {
            session,
            ids,
            logit_rows: LogitRows::Last,
            is_last: true,
        });
        advance_together(&mut feeds).map(|outputs| outputs.len())
    };
    let failed = both(&mut short, &mut long, &ids).unwrap_err();
    assert!(matches!(failed, Error::NanScores { .. }), "{failed}");
    let unknown = both(&mut short, &mut long, &[999]).unwrap_err();
    assert!(matches!(unknown, Error::UnknownToken { .. }), "{unknown}");
    for session in [&mut short, &mut long] {
        assert_eq!(session.tokens(), [1, 2, 3]);
        assert!(session.take_frames().is_empty());
        assert!(session.take_routes().unwrap().is_empty());
    }
    // Both go on as if nothing had been.
    assert_eq!(both(&mut short, &mut long, &ids[..2]).unwrap(), 2);
    assert_eq!((short.position(), long.position()), (4, 5));

    let another = Arc::new(Model::open(&fixture("v32-f32"), &Device::cpu()).unwrap());
    let mut other = Session::new(another, SessionOptions::default()).unwrap();
    let refused = both(&mut short, &mut other, &[1]).unwrap_err().to_string();
    assert!(refused.contains("another model"), "{refused}");
    assert!(short.fork(5).unwrap_err().to_string().contains("at most 4"));
}

#[test]
fn forks_go_their_own_way_on_every_device() {
    for device in ["cpu", "portable", "vulkan"] {
        let Ok(device) = Device::open(Some(device)) else {
            // Kernel tests say what is missing where there is no adapter.
            assert_eq!(device, "vulkan");
            continue;
        };
        let model = Arc::new(Model::open(&fixture("v32-f32"), &device).unwrap());
        let mut one = Session::new(model, SessionOptions::default()).unwrap();
        let ids: Vec<u32> = (0..40).map(|i| (i * 37 + 11) % 128).collect();
        one.advance(&ids).unwrap();
        let mut two = one.fork(33).unwrap();
        assert_eq!(two.tokens(), &ids[..33]);
        let straight = two.advance(&ids[33..]).unwrap();
        two.rewind(33).unwrap();
        // What the other does is nothing to this one.
        one.rewind(20).unwrap();
        one.advance(&[9; 20]).unwrap();
        let again = two.advance(&ids[33..]).unwrap();
        assert_eq!(bits(&again), bits(&straight));
        let mut three = one.fork(40).unwrap();
        let [a, b] = [&mut one, &mut three].map(|session| session.advance(&[5]).unwrap());
        assert_eq!(bits(&a), bits(&b));
    }
}
