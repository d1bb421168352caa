//! The runner's thread: whatever happens ends in an event.

use std::sync::Arc;
use std::time::Duration;

use engine::generate::{GenerateOptions, Stop};
use engine::model::{ForwardOptions, Intervention, LoadOptions};
use engine::runner::{Command, Event, Events, Job, Prompt, Record, Runner, UNREAD_BYTES};
use engine::sampler::SamplerOptions;
use engine::trace::{Stage, Watch, WatchedRows};
use engine::{Config, SessionOptions, Source};

use crate::fixture;
use crate::gpu::fill_row;
use crate::random_model::{self, Store};

/// Far above what a tiny model needs, so that only a hang fails.
const PATIENCE: Duration = Duration::from_secs(60);

fn next(events: &Events) -> Event {
    next_of_job(events).1
}

fn next_of_job(events: &Events) -> (Job, Event) {
    events
        .recv_timeout(PATIENCE)
        .expect("an event comes within a minute")
}

/// Events up to and including the first that `last` accepts.
fn until(events: &Events, last: impl Fn(&Event) -> bool) -> Vec<Event> {
    let mut seen = Vec::new();
    loop {
        let event = next(events);
        let is_last = last(&event);
        seen.push(event);
        if is_last {
            return seen;
        }
    }
}

fn load(name: &str) -> Command {
    Command::Load {
        source: Source::Folder(fixture(name)),
        device: Some("cpu".into()),
        options: LoadOptions::default(),
        session: SessionOptions {
            chunk_tokens: 8,
            ..SessionOptions::default()
        },
    }
}

fn send(prompt: Prompt, max_tokens: Option<usize>) -> Command {
    Command::Send {
        prompt,
        sampler: SamplerOptions::default(),
        options: GenerateOptions {
            max_tokens,
            ..GenerateOptions::default()
        },
        forward: ForwardOptions::default(),
        record: Record::default(),
    }
}

fn is_error(event: &Event) -> bool {
    matches!(event, Event::Error { .. })
}

fn is_finished(event: &Event) -> bool {
    matches!(event, Event::Finished(_))
}

#[test]
fn load_send_watch_rewind() {
    let (runner, events) = Runner::start(|| {}).unwrap();
    runner.send(load("v32-bf16"));
    let seen = until(&events, |event| matches!(event, Event::Loaded(_)));
    assert!(seen.iter().any(|event| matches!(event, Event::Loading(_))));
    runner.send(Command::Watch(Watch {
        stages: [Stage::SelectedPositions].into(),
        layers: Some([1].into()),
        ..Watch::default()
    }));
    runner.send(send(Prompt::Append((2..32).collect()), Some(3)));
    let seen = until(&events, is_finished);
    let tokens = seen
        .iter()
        .filter(|event| matches!(event, Event::Token(_)))
        .count();
    let chunks = seen
        .iter()
        .filter(|event| matches!(event, Event::Prefill { .. }))
        .count();
    let frames: Vec<_> = seen
        .iter()
        .filter_map(|event| match event {
            Event::Frame(frame) => Some(frame),
            _ => None,
        })
        .collect();
    assert_eq!((tokens, chunks), (3, 4));
    assert!(frames.len() >= 3);
    assert!(frames.iter().all(|frame| frame.values.len() == 1));
    runner.send(Command::Rewind(5));
    assert_eq!(next(&events), Event::Rewound(5));
    runner.send(Command::Rewind(500));
    assert!(is_error(&next(&events)));
}

#[test]
fn a_whole_prompt_redoes_only_what_differs() {
    let (runner, events) = Runner::start(|| {}).unwrap();
    runner.send(load("v32-bf16"));
    until(&events, |event| matches!(event, Event::Loaded(_)));
    let prompt: Vec<u32> = (2..42).collect();
    runner.send(send(Prompt::Whole(prompt.clone()), Some(1)));
    until(&events, is_finished);
    let longer: Vec<u32> = prompt.iter().copied().chain([9, 9]).collect();
    runner.send(send(Prompt::Whole(longer), Some(1)));
    let seen = until(&events, is_finished);
    assert_eq!(total_fed(&seen), Some(2));
}

/// Prompt tokens that had to be fed.
fn total_fed(events: &[Event]) -> Option<usize> {
    events.iter().find_map(|event| match event {
        Event::Prefill { total, .. } => Some(*total),
        _ => None,
    })
}

#[test]
fn a_refused_prompt_leaves_the_timeline_and_its_knobs_alone() {
    let (runner, events) = Runner::start(|| {}).unwrap();
    runner.send(load("v32-bf16"));
    until(&events, |event| matches!(event, Event::Loaded(_)));
    let prompt: Vec<u32> = (2..42).collect();
    runner.send(send(Prompt::Whole(prompt.clone()), Some(1)));
    until(&events, is_finished);
    for bad in [vec![], vec![2, 100_000]] {
        runner.send(send(Prompt::Whole(bad), Some(1)));
        assert!(is_error(&next(&events)));
    }
    runner.send(send(Prompt::Whole(prompt), Some(1)));
    assert_eq!(total_fed(&until(&events, is_finished)), Some(1));
}

#[test]
fn tokens_of_other_knobs_are_not_kept_however_they_came_there() {
    let dense = |prompt| {
        let mut command = send(prompt, Some(1));
        if let Command::Send { forward, .. } = &mut command {
            forward.dense = true;
        }
        command
    };
    let (runner, events) = Runner::start(|| {}).unwrap();
    runner.send(load("v32-bf16"));
    until(&events, |event| matches!(event, Event::Loaded(_)));
    let prompt: Vec<u32> = (2..42).collect();
    runner.send(send(Prompt::Whole(prompt.clone()), Some(0)));
    until(&events, is_finished);
    // Dense after sparse: the timeline is of both kinds now, so neither may take it up again.
    runner.send(dense(Prompt::Append(vec![5])));
    until(&events, is_finished);
    let longer: Vec<u32> = prompt.iter().copied().chain([5, 6]).collect();
    runner.send(dense(Prompt::Whole(longer.clone())));
    assert_eq!(total_fed(&until(&events, is_finished)), Some(42));
    // All of one kind again.
    runner.send(dense(Prompt::Whole(longer)));
    assert_eq!(total_fed(&until(&events, is_finished)), Some(1));
}

#[test]
fn stop_takes_one_chunk_at_most() {
    let (runner, events) = Runner::start(|| {}).unwrap();
    runner.send(load("v32-bf16"));
    until(&events, |event| matches!(event, Event::Loaded(_)));
    runner.send(send(Prompt::Append(vec![7; 20_000]), None));
    until(&events, |event| matches!(event, Event::Prefill { .. }));
    runner.send(Command::Stop);
    let seen = until(&events, is_finished);
    let Some(Event::Finished(finish)) = seen.last() else {
        unreachable!("the last one is it")
    };
    assert_eq!(finish.stop, Stop::Cancelled);
    let done = seen.iter().rev().find_map(|event| match event {
        Event::Prefill { done, .. } => Some(*done),
        _ => None,
    });
    assert!(done.unwrap_or(8) < 20_000);
    // Still there.
    runner.send(send(Prompt::Append(vec![3]), Some(1)));
    until(&events, is_finished);
}

#[test]
fn failures_are_events_and_the_thread_lives_on() {
    let (runner, events) = Runner::start(|| {}).unwrap();
    runner.send(send(Prompt::Append(vec![1]), Some(1)));
    assert!(is_error(&next(&events)));
    runner.send(Command::Load {
        source: Source::Folder("/nonexistent".into()),
        device: None,
        options: LoadOptions::default(),
        session: SessionOptions::default(),
    });
    let Event::Error { during, message } = next(&events) else {
        panic!("expected an error")
    };
    assert_eq!(during, "load");
    assert!(message.contains("nonexistent"), "{message}");
    let mut bad_device = load("v32-bf16");
    if let Command::Load { device, .. } = &mut bad_device {
        *device = Some("no such adapter".into());
    }
    runner.send(bad_device);
    assert!(is_error(&next(&events)));
    runner.send(load("v32-bf16"));
    until(&events, |event| matches!(event, Event::Loaded(_)));
    runner.send(send(Prompt::Append(vec![100_000]), Some(1)));
    assert!(is_error(&next(&events)));
    runner.send(send(Prompt::Append(vec![]), Some(1)));
    assert!(is_error(&next(&events)));
    runner.send(send(Prompt::Append(vec![5]), Some(1)));
    until(&events, is_finished);
}

#[test]
fn a_load_can_be_broken_off() {
    let (runner, events) = Runner::start(|| {}).unwrap();
    runner.send(load("v32-f32"));
    runner.send(Command::Stop);
    let seen = until(&events, |event| {
        matches!(event, Event::Loaded(_) | Event::Unloaded)
    });
    // The stop is seen at the first progress report, which comes before anything is loaded.
    assert_eq!(seen.last(), Some(&Event::Unloaded));
}

#[test]
fn dropping_the_handle_ends_the_thread_in_mid_generation() {
    let (runner, events) = Runner::start(|| {}).unwrap();
    runner.send(load("v32-bf16"));
    until(&events, |event| matches!(event, Event::Loaded(_)));
    runner.send(send(Prompt::Append(vec![7; 5000]), None));
    until(&events, |event| matches!(event, Event::Prefill { .. }));
    drop(runner);
    // The thread has ended, so its sender is gone once what it sent is read.
    while events.recv_timeout(PATIENCE).is_ok() {}
    assert!(events.try_recv().is_err());
}

/// Rows of logits with the position of their token, as frames told them.
fn logit_rows(events: &[Event]) -> Vec<(usize, Vec<f32>)> {
    let mut rows = Vec::new();
    for event in events {
        let Event::Frame(frame) = event else { continue };
        let value = frame.get(None, Stage::Logits).unwrap();
        let width = value.shape()[1];
        for (row, logits) in value.floats().unwrap().chunks_exact(width).enumerate() {
            rows.push((frame.position + row, logits.to_vec()));
        }
    }
    rows
}

#[test]
fn given_tokens_are_fed_without_sampling_and_every_row_is_told() {
    let (runner, events) = Runner::start(|| {}).unwrap();
    runner.send(load("v32-bf16"));
    until(&events, |event| matches!(event, Event::Loaded(_)));
    runner.send(Command::Watch(Watch {
        stages: [Stage::Logits].into(),
        rows: WatchedRows::All,
        ..Watch::default()
    }));
    let ids: Vec<u32> = (2..42).collect();
    runner.send(send(Prompt::Whole(ids.clone()), Some(0)));
    let base = until(&events, is_finished);
    let mut variant = send(Prompt::Append(ids[20..].to_vec()), Some(0));
    if let Command::Send { forward, .. } = &mut variant {
        forward.intervention.banned.insert(3);
    }
    runner.send(Command::Rewind(20));
    assert_eq!(next(&events), Event::Rewound(20));
    runner.send(variant);
    let seen = until(&events, is_finished);
    let Some(Event::Finished(finish)) = seen.last() else {
        unreachable!("the last one is it")
    };
    assert_eq!((&finish.stop, finish.stats.n_generated), (&Stop::Length, 0));
    assert!(!seen.iter().any(|event| matches!(event, Event::Token(_))));
    // Chunks of 8: 8, 8, 4, a frame each.
    let frames = seen.iter().filter(|event| matches!(event, Event::Frame(_)));
    assert_eq!(frames.count(), 3);
    let (base, changed) = (logit_rows(&base), logit_rows(&seen));
    let positions: Vec<usize> = changed.iter().map(|(position, _)| *position).collect();
    assert_eq!(positions, (20..40).collect::<Vec<_>>());
    assert_ne!(changed.last(), base.last(), "position 3 was read before");
    // Back to what was: the same rows again.
    runner.send(send(Prompt::Whole(ids), Some(0)));
    let seen = until(&events, is_finished);
    assert_eq!(total_fed(&seen), Some(20));
    assert_eq!(logit_rows(&seen), base[20..]);
}

#[test]
fn what_was_recorded_is_told_once_and_replays() {
    let (runner, events) = Runner::start(|| {}).unwrap();
    runner.send(load("v32-bf16"));
    until(&events, |event| matches!(event, Event::Loaded(_)));
    let ids: Vec<u32> = (2..42).collect();
    let recording = |prompt, intervention: Intervention| {
        let mut command = send(prompt, Some(2));
        if let Command::Send {
            record,
            sampler,
            forward,
            ..
        } = &mut command
        {
            *record = Record {
                routes: true,
                selections: true,
            };
            sampler.temperature = 0.0;
            forward.intervention = intervention;
        }
        command
    };
    let told = |seen: &[Event]| {
        let mut found = seen.iter().filter_map(|event| match event {
            Event::Recorded { routes, selections } => {
                Some((routes.clone().unwrap(), selections.clone().unwrap()))
            }
            _ => None,
        });
        let first = found.next();
        assert!(found.next().is_none(), "told once");
        first
    };
    runner.send(recording(
        Prompt::Whole(ids.clone()),
        Intervention::default(),
    ));
    let first = until(&events, is_finished);
    // Before it is over.
    assert!(matches!(first[first.len() - 2], Event::Recorded { .. }));
    let (routes, selections) = told(&first).unwrap();
    assert_eq!((routes.first_position(), routes.len()), (0, 42));
    assert_eq!(selections.len(), 3 * 42);
    assert_eq!(selections.get(0, 41).unwrap().len(), 16);

    let replay = Intervention {
        routes: Some(Arc::new(routes.clone())),
        selections: Some(Arc::new(selections.clone())),
        ..Intervention::default()
    };
    runner.send(recording(Prompt::Whole(ids.clone()), replay.clone()));
    let second = until(&events, is_finished);
    assert_eq!(told(&second).unwrap(), (routes, selections));
    let tokens = |seen: &[Event]| {
        let tokens = seen.iter().filter_map(|event| match event {
            Event::Token(token) => Some(token.picked.clone()),
            _ => None,
        });
        tokens.collect::<Vec<_>>()
    };
    assert_eq!(tokens(&second), tokens(&first));

    // What a kept beginning did is not recorded again; only what is fed is.
    runner.send(recording(Prompt::Whole(ids.clone()), replay));
    let (routes, selections) = told(&until(&events, is_finished)).unwrap();
    assert_eq!((routes.first_position(), routes.len()), (39, 3));
    assert_eq!(selections.len(), 3 * 3);
    // Nor is anything told to those who do not ask.
    runner.send(send(Prompt::Whole(ids), Some(1)));
    assert!(told(&until(&events, is_finished)).is_none());
}

#[test]
fn a_model_is_told_with_what_a_front_end_needs() {
    let (runner, events) = Runner::start(|| {}).unwrap();
    for (name, keys_of) in [("v32-bf16", 3), ("glm-dsa", 2), ("v2-lite", 0)] {
        runner.send(load(name));
        let seen = until(&events, |event| matches!(event, Event::Loaded(_)));
        let Some(Event::Loaded(loaded)) = seen.last() else {
            unreachable!("the last one is it")
        };
        assert_eq!(loaded.config, Config::open(&fixture(name)).unwrap());
        let parameters = loaded.config.parameters();
        assert_eq!(loaded.n_parameters, parameters.total);
        assert_eq!(loaded.n_active_parameters, parameters.active);
        assert!(parameters.active < parameters.total);
        // f32 latents of 32 + 16 in three layers, f32 keys of 32 where there is an indexer.
        assert_eq!(loaded.cache_bytes_per_token, 3 * 48 * 4 + keys_of * 32 * 4);
        assert_eq!(loaded.eos_token_ids, [1]);
        runner.send(send(Prompt::Append(vec![5, 6]), Some(0)));
        let seen = until(&events, is_finished);
        let parts = seen.iter().find_map(|event| match event {
            Event::Stats { cache_bytes, .. } => Some(*cache_bytes),
            _ => None,
        });
        let parts = parts.expect("a chunk tells its stats");
        assert_eq!(parts.keys > 0, keys_of > 0);
        assert!(parts.latents > 0);
    }
}

#[test]
fn a_refused_intervention_leaves_the_timeline_alone() {
    let (runner, events) = Runner::start(|| {}).unwrap();
    runner.send(load("v32-bf16"));
    until(&events, |event| matches!(event, Event::Loaded(_)));
    let ids: Vec<u32> = (2..42).collect();
    runner.send(send(Prompt::Whole(ids.clone()), Some(0)));
    until(&events, is_finished);
    let mut bad = send(Prompt::Whole(ids.clone()), Some(0));
    if let Command::Send { forward, .. } = &mut bad {
        forward.intervention.experts_off.insert((0, 0));
    }
    runner.send(bad);
    let Event::Error { during, message } = next(&events) else {
        panic!("expected an error")
    };
    assert_eq!(during, "generate");
    assert!(message.contains("a layer with experts"), "{message}");
    runner.send(send(Prompt::Whole(ids), Some(0)));
    assert_eq!(total_fed(&until(&events, is_finished)), Some(1));
}

/// Whatever is told names the command that it is about, also where several were sent at once.
#[test]
fn events_name_their_command() {
    let (runner, events) = Runner::start(|| {}).unwrap();
    let is_loaded = |event: &Event| matches!(event, Event::Loaded(_));
    let is_rewound = |event: &Event| matches!(event, Event::Rewound(_));
    let is_unloaded = |event: &Event| matches!(event, Event::Unloaded);
    type Last = fn(&Event) -> bool;
    let sent: Vec<(Job, Last)> = vec![
        (runner.send(Command::Rewind(0)), is_error),
        (runner.send(load("v32-bf16")), is_loaded),
        (
            runner.send(send(Prompt::Append(vec![5; 20]), Some(2))),
            is_finished,
        ),
        (runner.send(Command::Rewind(500)), is_error),
        (runner.send(send(Prompt::Append(vec![]), Some(1))), is_error),
        (runner.send(Command::Rewind(3)), is_rewound),
        (
            runner.send(send(Prompt::Append(vec![5; 3]), Some(1))),
            is_finished,
        ),
        (runner.send(Command::Unload), is_unloaded),
        (
            runner.send(send(Prompt::Append(vec![5]), Some(1))),
            is_error,
        ),
    ];
    for (job, is_last) in sent {
        loop {
            let (of, event) = next_of_job(&events);
            assert_eq!(of, job, "{event:?}");
            if is_last(&event) {
                break;
            }
        }
    }
}

/// A runner that records everything of a prompt of 100,000 tokens, and a reader that sleeps until no
/// more can come. A frame here takes far less than 1 MiB.
fn full() -> (Runner, Events) {
    let (runner, events) = Runner::start(|| {}).unwrap();
    runner.send(load("v32-bf16"));
    until(&events, |event| matches!(event, Event::Loaded(_)));
    runner.send(Command::Watch(Watch::everything(WatchedRows::All)));
    runner.send(send(Prompt::Append(vec![7; 100_000]), None));
    sleep_until_full(&events);
    (runner, events)
}

fn sleep_until_full(events: &Events) {
    while events.unread_bytes() < UNREAD_BYTES - (1 << 20) {
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_reader_that_sleeps_holds_the_writing_up_and_loses_nothing() {
    let (runner, events) = full();
    let (mut position, mut read_bytes) = (0, 0);
    // Several times what may lie unread.
    while read_bytes < 3 * UNREAD_BYTES {
        let unread = events.unread_bytes();
        assert!(unread <= UNREAD_BYTES, "{unread} bytes lie unread");
        if let Event::Frame(frame) = next(&events) {
            assert_eq!(frame.position, position, "no frame is lost");
            position += frame.ids.len();
            read_bytes += frame.bytes();
            assert!(frame.bytes() < 1 << 20);
        }
        if position % 512 == 0 {
            sleep_until_full(&events);
        }
    }
    assert!(position < 100_000);
    drop(runner);
}

/// What must work while the runner waits for room, which nobody makes.
#[test]
fn a_runner_that_waits_for_room_can_be_stopped_dropped_and_left_unheard() {
    let (runner, events) = full();
    let before = events.unread_bytes();
    runner.send(Command::Stop);
    // Only now is read: the stop needed no room.
    let seen = until(&events, is_finished);
    let Some(Event::Finished(finish)) = seen.last() else {
        unreachable!("the last one is it")
    };
    assert_eq!(finish.stop, Stop::Cancelled);
    let frames = seen.iter().filter_map(|event| match event {
        Event::Frame(frame) => Some(frame.bytes()),
        _ => None,
    });
    let told: usize = frames.sum();
    assert!(told < before + (1 << 20), "a step at most came on top");
    // It lives on.
    runner.send(Command::Watch(Watch::default()));
    runner.send(send(Prompt::Append(vec![3]), Some(1)));
    until(&events, is_finished);

    let (runner, events) = full();
    drop(runner);
    while events.recv_timeout(PATIENCE).is_ok() {}
    assert!(events.try_recv().is_err());

    let (runner, events) = full();
    drop(events);
    drop(runner);
}

/// A front end that panics when it is woken ends the thread, and is told so in place of waiting.
#[test]
fn an_end_that_nobody_wanted_is_told() {
    let (runner, events) = Runner::start(|| panic!("as written")).unwrap();
    let job = runner.send(Command::Rewind(1));
    let (of, event) = next_of_job(&events);
    assert!(of == job && is_error(&event), "{event:?}");
    let (of, event) = next_of_job(&events);
    assert_eq!(of, job);
    assert!(matches!(&event, Event::Error { message, .. } if message == "as written"));
    assert!(events.recv_timeout(PATIENCE).is_err());
    drop(runner);
}

#[test]
fn frames_of_a_job_that_fails_do_not_reach_the_next() {
    // Without experts and indexer, so that NaN is met where a token is chosen, with its pass recorded.
    let config = r#"{"model_type": "deepseek_v3", "vocab_size": 40, "hidden_size": 16,
        "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "q_lora_rank": null,
        "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8,
        "max_position_embeddings": 64, "n_routed_experts": null}"#;
    let folder = tempfile::tempdir().unwrap();
    random_model::write(folder.path(), config, Store::F32);
    let greedy = |prompt: Vec<u32>, max_tokens| {
        let mut command = send(Prompt::Whole(prompt), Some(max_tokens));
        if let Command::Send { sampler, .. } = &mut command {
            sampler.temperature = 0.0;
        }
        command
    };
    let start = || {
        let (runner, events) = Runner::start(|| {}).unwrap();
        let mut command = load("v32-bf16");
        if let Command::Load {
            source, options, ..
        } = &mut command
        {
            *source = Source::Folder(folder.path().into());
            options.check_values = false;
        }
        runner.send(command);
        until(&events, |event| matches!(event, Event::Loaded(_)));
        runner.send(Command::Watch(Watch {
            stages: [Stage::FinalHidden].into(),
            ..Watch::default()
        }));
        (runner, events)
    };
    let positions = |events: &[Event]| -> Vec<usize> {
        let frames = events.iter().filter_map(|event| match event {
            Event::Frame(frame) => Some(frame.position),
            _ => None,
        });
        frames.collect()
    };
    let (runner, events) = start();
    runner.send(greedy(vec![1, 2, 3], 1));
    let first = until(&events, is_finished)
        .into_iter()
        .find_map(|event| match event {
            Event::Token(token) => Some(token.picked.id),
            _ => None,
        });
    fill_row(
        folder.path(),
        "model.embed_tokens.weight",
        first.map(|id| id as usize),
        f32::NAN,
    );
    drop(runner);

    let (runner, events) = start();
    runner.send(greedy(vec![1, 2, 3], 5));
    assert_eq!(positions(&until(&events, is_error)), [2, 3]);
    let other: Vec<u32> = (0..40).filter(|id| Some(*id) != first).take(2).collect();
    runner.send(greedy(other, 0));
    assert_eq!(positions(&until(&events, is_finished)), [1]);
}
