//! What the runner keeps of a timeline whose tokens were computed under changing knobs: any sequence of
//! commands gives what a fresh session gives that does it straight, and nothing is done twice.

use std::sync::Arc;
use std::time::Duration;

use engine::generate::GenerateOptions;
use engine::model::{ForwardOptions, Intervention, LoadOptions, Selector};
use engine::replay::SelectionTrace;
use engine::runner::{Command, Event, Events, Prompt, Record, Runner};
use engine::sampler::SamplerOptions;
use engine::trace::{Stage, Watch};
use engine::{Device, Model, Session, SessionOptions, Source};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed};

use crate::fixture;

const FIXTURE: &str = "v32-bf16";

/// Far above what a tiny model needs, so that only a hang fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// Knobs that all give other numbers on the fixture's 16 of up to 70 positions.
fn knobs() -> Vec<ForwardOptions> {
    let mut replayed = SelectionTrace::new();
    for token in 3..70 {
        replayed.record(1, token, &[0, token - 1]).unwrap();
    }
    let what_if = |intervention| ForwardOptions {
        intervention,
        ..ForwardOptions::default()
    };
    vec![
        ForwardOptions::default(),
        ForwardOptions {
            dense: true,
            ..ForwardOptions::default()
        },
        ForwardOptions {
            index_topk: Some(5),
            selector: Selector::Recent,
            ..ForwardOptions::default()
        },
        what_if(Intervention {
            banned: [1, 6].into(),
            pinned: [2].into(),
            ..Intervention::default()
        }),
        what_if(Intervention {
            experts_off: [(1, 0), (2, 5)].into(),
            ..Intervention::default()
        }),
        what_if(Intervention {
            selections: Some(Arc::new(replayed)),
            ..Intervention::default()
        }),
    ]
}

#[derive(Clone, Debug)]
enum Do {
    /// Feeds the first so many tokens of a text as the whole timeline.
    Whole {
        text: u32,
        n: usize,
        knobs: usize,
    },
    Append {
        ids: Vec<u32>,
        knobs: usize,
    },
    /// Generates, too.
    Write {
        ids: Vec<u32>,
        knobs: usize,
    },
    /// To this share of the timeline, in eighths.
    Rewind(usize),
}

/// Two texts that share their first ten tokens.
fn text(which: u32, n: usize) -> Vec<u32> {
    (0..n as u32)
        .map(|i| (i * 37 + 11 + if i < 10 { 0 } else { which }) % 128)
        .collect()
}

fn some_commands() -> impl Strategy<Value = Vec<Do>> {
    let ids = || prop::collection::vec(0_u32..128, 1..12);
    let knobs = || 0_usize..6;
    let command = prop_oneof![
        4 => (0_u32..2, 1_usize..40, knobs())
            .prop_map(|(text, n, knobs)| Do::Whole { text, n, knobs }),
        3 => (ids(), knobs()).prop_map(|(ids, knobs)| Do::Append { ids, knobs }),
        1 => (ids(), knobs()).prop_map(|(ids, knobs)| Do::Write { ids, knobs }),
        3 => (0_usize..9).prop_map(Do::Rewind),
    ];
    prop::collection::vec(command, 1..9)
}

/// The runner, and what its timeline ought to be.
struct Both {
    runner: Runner,
    events: Events,
    model: Arc<Model>,
    knobs: Vec<ForwardOptions>,
    /// Each token, and which knobs it was computed under.
    tokens: Vec<(u32, usize)>,
}

impl Both {
    fn new(model: &Arc<Model>) -> Self {
        let (runner, events) = Runner::start(|| {}).unwrap();
        runner.send(Command::Load {
            source: Source::Folder(fixture(FIXTURE)),
            device: Some("cpu".into()),
            options: LoadOptions::default(),
            session: SessionOptions {
                chunk_tokens: 7,
                ..SessionOptions::default()
            },
        });
        let both = Self {
            runner,
            events,
            model: model.clone(),
            knobs: knobs(),
            tokens: Vec::new(),
        };
        while !matches!(both.next(), Event::Loaded(_)) {}
        both.runner.send(Command::Watch(Watch {
            stages: [Stage::Logits].into(),
            ..Watch::default()
        }));
        both
    }

    fn next(&self) -> Event {
        let (_, event) = self.events.recv_timeout(PATIENCE).expect("an event comes");
        assert!(!matches!(event, Event::Error { .. }), "{event:?}");
        event
    }

    fn obey(&mut self, command: &Do) {
        match command {
            Do::Rewind(eighths) => {
                let position = self.tokens.len() * eighths / 8;
                self.tokens.truncate(position);
                self.runner.send(Command::Rewind(position));
                assert_eq!(self.next(), Event::Rewound(position));
            }
            Do::Whole {
                text: which,
                n,
                knobs,
            } => {
                let ids = text(*which, *n);
                let shared = self.tokens.iter().zip(&ids);
                let kept = shared
                    .take_while(|((id, under), wanted)| id == *wanted && under == knobs)
                    .count()
                    .min(n - 1);
                self.tokens.truncate(kept);
                self.tokens
                    .extend(ids[kept..].iter().map(|&id| (id, *knobs)));
                self.send(Prompt::Whole(ids), *knobs, 0, n - kept);
            }
            Do::Append { ids, knobs } => {
                self.tokens.extend(ids.iter().map(|&id| (id, *knobs)));
                self.send(Prompt::Append(ids.clone()), *knobs, 0, ids.len());
            }
            Do::Write { ids, knobs } => {
                self.tokens.extend(ids.iter().map(|&id| (id, *knobs)));
                self.send(Prompt::Append(ids.clone()), *knobs, 3, ids.len());
            }
        }
    }

    fn send(&mut self, prompt: Prompt, knobs: usize, max_tokens: usize, n_fed: usize) {
        self.runner.send(Command::Send {
            prompt,
            sampler: SamplerOptions::default(),
            options: GenerateOptions {
                max_tokens: Some(max_tokens),
                ..GenerateOptions::default()
            },
            forward: self.knobs[knobs].clone(),
            record: Record::default(),
        });
        let mut logits = Vec::new();
        loop {
            match self.next() {
                Event::Prefill { total, .. } => assert_eq!(total, n_fed, "only what must be"),
                Event::Token(token) => self.tokens.push((token.picked.id, knobs)),
                Event::Frame(frame) => {
                    let value = frame.get(None, Stage::Logits).unwrap();
                    logits = value.floats().unwrap().to_vec();
                }
                Event::Finished(_) => break,
                _ => {}
            }
        }
        // Straight through, by a session that has never gone back.
        let mut fresh = Session::new(self.model.clone(), SessionOptions::default()).unwrap();
        let mut want = Vec::new();
        for run in self.tokens.chunk_by(|a, b| a.1 == b.1) {
            fresh.set_forward(self.knobs[run[0].1].clone()).unwrap();
            let ids: Vec<u32> = run.iter().map(|(id, _)| *id).collect();
            want = fresh.advance(&ids).unwrap();
        }
        let bits = |logits: &[f32]| logits.iter().map(|l| l.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&logits), bits(&want));
    }
}

proptest! {
    #![proptest_config(Config {
        rng_seed: RngSeed::Fixed(5),
        failure_persistence: None,
        ..Config::with_cases(48)
    })]

    #[test]
    fn any_sequence_of_commands_is_as_if_done_straight(commands in some_commands()) {
        let model = Arc::new(Model::open(&fixture(FIXTURE), &Device::cpu()).unwrap());
        let mut both = Both::new(&model);
        for command in &commands {
            both.obey(command);
        }
    }
}

#[test]
fn the_knobs_of_this_test_all_differ() {
    let model = Arc::new(Model::open(&fixture(FIXTURE), &Device::cpu()).unwrap());
    let logits: Vec<Vec<f32>> = knobs()
        .into_iter()
        .map(|knobs| {
            let mut session = Session::new(model.clone(), SessionOptions::default()).unwrap();
            session.set_forward(knobs).unwrap();
            session.advance(&text(0, 30)).unwrap()
        })
        .collect();
    for (at, a) in logits.iter().enumerate() {
        for b in &logits[..at] {
            assert_ne!(a, b);
        }
    }
}
