//! What runs beside the window: files, searches, comparisons; and what it costs to draw.

use std::path::Path;

use super::*;
use crate::app::actions::Action;
use crate::app::files::{Reply, Wanted};
use crate::app::helpers::{Done, TASKS};
use crate::inspector::{InspectorAction, WhatIf};

/// Every kind of helper, as it ends by a panic: whatever waited for it waits no longer, and is told.
#[test]
fn a_helper_that_panics_ends_the_waiting() {
    let mut harness = app();
    short(&mut harness);
    ask(&mut harness, "Once upon a time");
    let source = Source::Folder("nowhere".into());
    for &(task, ..) in TASKS {
        let app = state(&mut harness);
        app.notices.clear();
        match task {
            // An answer whose prompt is never encoded.
            Task::Encode => app.begin_answer(),
            Task::ModelFiles => app.model = Model::loading(source.clone()),
            Task::ModelCard => app.card_problem = None,
            Task::Dialog | Task::Save | Task::Trace => {
                app.question = Some(Question::new(Wanted::SaveTrace, "a"));
            }
            Task::Search => app.hits = None,
            _ => {}
        }
        app.helpers
            .start(task, |_| -> Result<Done, String> { panic!("as written") });
        until(&mut harness, "the end of the waiting", |app| {
            !app.helpers.is_running(task) && app.answer.is_none()
        });
        let app = state(&mut harness);
        let question = app.question.take().and_then(|question| question.problem);
        let mut told: Vec<String> = app
            .notices
            .iter()
            .map(|notice| notice.text.clone())
            .collect();
        told.extend(question);
        told.extend(app.card_problem.take());
        if let Model::Failed(problem) = &app.model {
            told.push(problem.clone());
        }
        let last = app.path.last().map(|entry| &entry.node);
        if task == Task::Encode {
            assert_eq!(last.unwrap().state, NodeState::Failed);
            told.push(last.unwrap().facts.as_ref().unwrap().stop.clone());
        }
        // Without its grammars code is only read later.
        assert!(
            task == Task::Grammars || told.iter().any(|told| told.contains("as written")),
            "{task:?}: {told:?}"
        );
        if task == Task::ModelFiles {
            state(&mut harness).load_model(embedded().unwrap());
            until(&mut harness, "the model", |app| app.model.ready().is_some());
        }
    }
    ask(&mut harness, "Go on");
    assert_eq!(
        state(&mut harness).path.last().unwrap().node.state,
        NodeState::Complete
    );
}

/// Entries that the database takes, among some that it refuses, in every place.
#[test]
fn what_the_database_refuses_is_kept_and_keeps_nothing_else() {
    for refused in [
        vec![0],
        vec![1],
        vec![2],
        vec![0, 1],
        vec![0, 2],
        vec![0, 1, 2],
    ] {
        let mut harness = app();
        let app = state(&mut harness);
        let conversation = app.store.create_conversation("a", None).unwrap();
        let empty = engine::chat::Message::new(Role::Assistant, "");
        let nodes: Vec<NodeId> = (0..3)
            .map(|index| match refused.contains(&index) {
                true => NodeId(9000 + index),
                false => {
                    let streaming = NodeState::Streaming;
                    app.store
                        .append(conversation, None, &empty, streaming)
                        .unwrap()
                }
            })
            .collect();
        for &node in &nodes {
            let message = engine::chat::Message::new(Role::Assistant, "whole");
            app.save(node, message, NodeState::Complete, AnswerFacts::default());
        }
        let left: Vec<i64> = app
            .unsaved
            .iter()
            .map(|unsaved| unsaved.node.0 - 9000)
            .collect();
        assert_eq!(left, refused);
        for (index, &node) in (0..).zip(&nodes) {
            if !refused.contains(&index) {
                assert_eq!(app.store.node(node).unwrap().message.content, "whole");
            }
        }
        let told = app
            .notices
            .iter()
            .filter(|notice| notice.text.contains("not saved yet"));
        assert_eq!(told.count(), refused.len());
        // What comes later of the same answer takes the place of what is kept.
        let node = NodeId(9000 + refused[0]);
        let message = engine::chat::Message::new(Role::Assistant, "later");
        app.save(node, message, NodeState::Complete, AnswerFacts::default());
        let kept: Vec<_> = app
            .unsaved
            .iter()
            .filter(|unsaved| unsaved.node == node)
            .collect();
        assert_eq!(kept.len(), 1);
        assert_eq!(kept[0].message.content, "later");
    }
}

fn says(harness: &Harness<'static, Option<App>>, text: &str) -> bool {
    harness.query_all_by_label_contains(text).next().is_some()
}

/// Asks for a file and answers with `path`, by the buttons.
fn answer(harness: &mut Harness<'static, Option<App>>, wanted: Wanted, path: &Path, button: &str) {
    let mut question = Question::new(wanted, "x");
    question.set_path(path);
    state(harness).question = Some(question);
    harness.step();
    harness.step();
    harness.get_by_label(button).click();
    harness.step();
    until(harness, "the file", is_idle);
}

#[test]
fn a_trace_is_saved_over_nothing_without_asking() {
    let mut harness = app();
    short(&mut harness);
    ask(&mut harness, "Once upon a time");
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let save = Wanted::SaveTrace;
    answer(&mut harness, save, &at("trace.safetensors"), "Save");
    assert!(state(&mut harness).question.is_none());
    let first = std::fs::read(at("trace.safetensors")).unwrap();

    // One of its kind: asked, and left as it is if that is not wanted.
    ask(&mut harness, "And then?");
    answer(&mut harness, save, &at("trace.safetensors"), "Save");
    assert!(says(&harness, "is there already"));
    assert_eq!(std::fs::read(at("trace.safetensors")).unwrap(), first);
    harness.get_by_label("Replace it").click();
    harness.step();
    until(&mut harness, "the file", is_idle);
    assert!(state(&mut harness).question.is_none());
    assert_ne!(std::fs::read(at("trace.safetensors")).unwrap(), first);

    // Of another kind, or of a model: refused, whatever is pressed.
    std::fs::write(at("notes.txt"), "mine").unwrap();
    answer(&mut harness, save, &at("notes.txt"), "Save");
    assert!(says(&harness, "that is not a trace"));
    assert_eq!(std::fs::read(at("notes.txt")).unwrap(), b"mine");
    std::fs::create_dir(at("model")).unwrap();
    std::fs::write(at("model/config.json"), "{}").unwrap();
    std::fs::write(at("model/model.safetensors"), b"\x02\0\0\0\0\0\0\0{}").unwrap();
    answer(&mut harness, save, &at("model/trace.safetensors"), "Save");
    assert!(says(&harness, "is left alone"));
    assert!(!at("model/trace.safetensors").exists());

    // Not over what is shown from a file.
    state(&mut harness).question = None;
    answer(
        &mut harness,
        Wanted::OpenTrace,
        &at("trace.safetensors"),
        "Open",
    );
    assert!(state(&mut harness).inspecting.is_from_file);
    answer(&mut harness, save, &at("trace.safetensors"), "Save");
    assert!(!says(&harness, "Replace it"));
    assert!(
        state(&mut harness)
            .question
            .as_ref()
            .unwrap()
            .problem
            .is_some()
    );
}

fn what_if(harness: &mut Harness<'static, Option<App>>) {
    let from = state(harness).inspecting.ids.len() - 4;
    let request = WhatIf {
        from,
        n_tokens: 4,
        dense: true,
        ..WhatIf::default()
    };
    state(harness).run_what_if(request);
}

#[test]
fn a_trace_is_compared_after_a_what_if_with_its_kl() {
    let mut harness = app();
    short(&mut harness);
    let text = "Mia had a red kite. Tom had a blue ball. ".repeat(8);
    ask(&mut harness, &text);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trace.safetensors");
    answer(&mut harness, Wanted::SaveTrace, &file, "Save");
    what_if(&mut harness);
    until(&mut harness, "the what-if", |app| {
        app.inspecting.sides.is_some() && is_idle(app)
    });
    harness.get_by_label("What if").click();
    harness.step();
    harness.step();
    assert!(says(&harness, "dense attention; from token"));

    harness.get_by_label("Transcript").click();
    harness.step();
    answer(&mut harness, Wanted::CompareTrace, &file, "Compare");
    until(&mut harness, "the comparison", |app| {
        app.inspecting.sides.is_some() && is_idle(app)
    });
    // The view of it is opened, and what the what-if had to show is gone.
    assert!(says(&harness, "another trace with the same tokens"));
    assert!(!says(&harness, "dense attention; from token"));
    let inspecting = &state(&mut harness).inspecting;
    let divergences = &inspecting.sides.as_ref().unwrap().divergences;
    assert!(divergences.iter().all(|row| row.kl == 0.0));
    // All but the last token, which may never have been fed.
    let n = divergences.len();
    assert!(n + 1 >= inspecting.ids.len());
    assert!(says(&harness, &format!("KL over {n} passes 0.0000 nats")));

    // The later of the two stands, the other way round, too.
    what_if(&mut harness);
    until(&mut harness, "the what-if", |app| {
        app.inspecting.sides.is_some() && is_idle(app)
    });
    assert!(says(&harness, "dense attention; from token"));
}

#[test]
fn a_what_if_is_called_off_and_leaves_nothing() {
    let mut harness = app();
    short(&mut harness);
    ask(&mut harness, "Once upon a time");
    for by_window in [false, true] {
        what_if(&mut harness);
        harness.step();
        if by_window {
            harness.get_by_label("Stop it").click();
        } else {
            state(&mut harness).obey(Action::CallOff(Task::WhatIf));
        }
        until(&mut harness, "the end", is_idle);
        let app = state(&mut harness);
        assert!(app.inspecting.sides.is_none() && app.notices.is_empty());
    }
    what_if(&mut harness);
    until(&mut harness, "the what-if", |app| {
        app.inspecting.sides.is_some() && is_idle(app)
    });
}

#[test]
fn the_search_for_what_was_typed_last_stands() {
    let mut harness = app();
    let app = state(&mut harness);
    for title in ["the zeppelin", "a red kite"] {
        app.store.create_conversation(title, None).unwrap();
    }
    for query in ["zepp", "zeppelin", "kite"] {
        app.sidebar_action(SidebarAction::Search(query.into()));
        assert!(app.hits.is_none(), "not on this thread");
    }
    until(&mut harness, "the hits", |app| app.hits.is_some());
    let hits = state(&mut harness).hits.clone().unwrap();
    assert_eq!(hits.len(), 1);
    assert_eq!(hits[0].title, "a red kite");
    // An end of the search is not overtaken by what it had found.
    let app = state(&mut harness);
    app.sidebar_action(SidebarAction::Search("kite".into()));
    app.sidebar_action(SidebarAction::Search(String::new()));
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(5));
        harness.step();
    }
    assert!(state(&mut harness).hits.is_none());
}

#[test]
fn several_files_are_imported_one_after_the_other() {
    let mut harness = app();
    let folder = tempfile::tempdir().unwrap();
    for index in 0..4 {
        let text = match index {
            2 => "no JSON".to_owned(),
            _ => format!(r#"[{{"role": "user", "content": "story {index}"}}]"#),
        };
        let path = folder.path().join(format!("{index}.json"));
        std::fs::write(&path, text).unwrap();
        state(&mut harness).import(path);
    }
    until(&mut harness, "all of them", |app| {
        app.imports.is_empty() && is_idle(app)
    });
    let app = state(&mut harness);
    assert_eq!(app.conversations.len(), 3);
    assert_eq!(app.notices.len(), 1);
    assert!(
        app.notices[0].text.contains("no JSON"),
        "{}",
        app.notices[0].text
    );
}

#[test]
fn a_question_that_is_called_off_writes_nothing() {
    let mut harness = app();
    short(&mut harness);
    ask(&mut harness, "Once upon a time");
    let folder = tempfile::tempdir().unwrap();
    let app = state(&mut harness);
    let wanted = Wanted::ExportConversation(app.open.unwrap(), crate::store::ExportFormat::Html);
    app.question = Some(Question::new(wanted, "a.html"));
    // Held up until it is called off.
    let (go_on, wait) = std::sync::mpsc::channel::<()>();
    let path = folder.path().join("a.html");
    app.write(wanted, path.clone(), false, move |path, interest| {
        wait.recv()?;
        actions::whole(path, b"text", interest)
    });
    harness.step();
    let app = state(&mut harness);
    assert!(app.helpers.is_running(Task::Save));
    app.obey(Action::Reply(Reply::Cancel));
    go_on.send(()).unwrap();
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(5));
        harness.step();
    }
    let app = state(&mut harness);
    assert!(app.question.is_none() && app.notices.is_empty());
    assert!(!path.exists());
}

#[test]
fn what_is_wanted_is_done_once_all_is_drawn() {
    let mut harness = app();
    harness.get_by_label("Inspector").click();
    // The frame that takes the click draws all panels as they were.
    harness.step();
    let is_open = |harness: &mut Harness<'static, Option<App>>| state(harness).inspecting.is_open;
    assert!(!is_open(&mut harness));
    harness.step();
    assert!(harness.query_by_label("Transcript").is_none());
    state(&mut harness).obey(Action::Inspector(InspectorAction::StartRecording));
    assert!(state(&mut harness).inspecting.is_recording);
}

/// 10,000 tokens of a conversation whose every answer has its whole prompt: what is kept of the prompts
/// and what is compared is counted, not timed.
#[test]
fn prompts_of_a_long_conversation_are_kept_and_compared_once() {
    const N_TOKENS: usize = 10_000;
    let mut harness = app();
    let app = state(&mut harness);
    let name = app.model.ready().unwrap().name.clone();
    let conversation = app.store.create_conversation("long", None).unwrap();
    let (mut parent, mut timeline, mut n_answers) = (None, Vec::new(), 0);
    while timeline.len() < N_TOKENS {
        timeline.extend((0..30).map(|id| 100 + id + n_answers));
        let question = engine::chat::Message::new(Role::User, "And then?");
        let added = app
            .store
            .append(conversation, parent, &question, NodeState::Complete);
        let answer = engine::chat::Message::new(Role::Assistant, "So it went.");
        let added = app
            .store
            .append(conversation, added.ok(), &answer, NodeState::Complete);
        let ids: Vec<u32> = (0..70).map(|id| 200 + id).collect();
        // A prompt ends with a mark that is another once its answer stands in the next one.
        let mut prompt_ids = timeline.clone();
        prompt_ids.push(3);
        timeline.push(4);
        let facts = AnswerFacts {
            model: name.clone(),
            prompt_ids: prompt_ids.into(),
            ids: ids.clone(),
            ..AnswerFacts::default()
        };
        timeline.extend(ids);
        parent = added.ok();
        let complete = NodeState::Complete;
        app.store
            .update(parent.unwrap(), &answer, complete, Some(&facts))
            .unwrap();
        n_answers += 1;
    }
    app.open_conversation(conversation);
    assert!(app.inspecting.is_open && app.inspecting.ids.len() >= N_TOKENS);
    let facts = app
        .path
        .iter()
        .filter_map(|entry| entry.node.facts.as_ref());
    let kept: Vec<_> = facts.map(|facts| facts.prompt_ids.kept()).collect();
    assert_eq!(kept.len(), n_answers as usize);
    let mut lists: Vec<_> = kept
        .iter()
        .map(|(_, list)| std::sync::Arc::as_ptr(list))
        .collect();
    lists.dedup();
    let alone: usize = kept.iter().map(|(alone, _)| alone).sum();
    assert!(
        lists.len() == 1 && alone <= 4 * kept.len(),
        "{} lists, {alone} bytes",
        lists.len()
    );

    let frames = |harness: &mut Harness<'static, Option<App>>, n: usize| {
        for _ in 0..n {
            harness.step();
        }
        state(harness).starts.n_compared
    };
    let once = frames(&mut harness, 1);
    assert!(
        once > 0 && once <= 2 * (N_TOKENS + 200),
        "{once} ids compared"
    );
    assert_eq!(frames(&mut harness, 100), once, "a frame compares nothing");
    // The branch was read again: once more, and not once a frame.
    state(&mut harness).reload_path();
    assert_eq!(frames(&mut harness, 100), 2 * once);
}

/// What waits to be taken into a recording is bounded by the bytes, whatever comes.
#[test]
fn frames_that_wait_are_bounded() {
    let mut harness = app();
    let app = state(&mut harness);
    let forward = engine::model::ForwardOptions::default();
    let ids: Vec<u32> = (0..1000).collect();
    app.inspecting
        .begin(app.model.ready().unwrap(), &ids, &forward);
    let frame = engine::trace::Frame {
        ids: ids.clone(),
        ..Default::default()
    };
    let mut bytes = 0;
    while app.inspecting.has_room() {
        bytes += frame.bytes();
        app.inspecting.push(link::Purpose::Answer, frame.clone());
    }
    assert!(bytes <= (16 << 20) + frame.bytes(), "{bytes}");
    // Room is made as they are taken, to the last.
    while app.inspecting.take_rows(Duration::from_millis(50)) {}
    assert!(app.inspecting.has_room() && app.inspecting.is_up_to_date());
}
