//! How long things take. Nothing here fails for being slow: what is measured is printed, by a test that is
//! run alone.

use std::time::{Duration, Instant};

use super::*;

/// The shortest of several runs: the one that was disturbed least.
fn best<T>(mut body: impl FnMut() -> T) -> Duration {
    (0..7)
        .map(|_| {
            let started = Instant::now();
            std::hint::black_box(body());
            started.elapsed()
        })
        .min()
        .unwrap()
}

/// Some `n_tokens` tokens of text, no line like another.
fn text(n_tokens: usize, seed: usize) -> String {
    let words = (0..n_tokens).map(|i| {
        let word = (i * 7919 + seed * 104_729) % 20_011;
        format!("w{word}{}", if i % 12 == 11 { ".\n" } else { " " })
    });
    words.collect()
}

/// Many conversations with a question and an answer each.
fn fill(store: &mut Store, n_conversations: usize, n_tokens: usize) {
    for i in 0..n_conversations {
        let list = json!({"title": format!("Conversation about w{i}"), "messages": [
            {"role": "user", "content": text(20, i)},
            {"role": "assistant", "content": text(n_tokens, i + 1)},
        ]});
        store.import(list.to_string().as_bytes()).unwrap();
    }
}

/// Twenty turns of 500 tokens: 10,000 in all, with their ids.
fn long_conversation(store: &mut Store) -> ConversationId {
    let id = store.create_conversation("long", None).unwrap();
    let mut parent = None;
    for turn in 0..20 {
        let question = store
            .append(id, parent, &user(&text(50, turn)), NodeState::Complete)
            .unwrap();
        let answer = assistant(&text(450, turn));
        let node = store
            .append(id, Some(question), &answer, NodeState::Streaming)
            .unwrap();
        let facts = AnswerFacts {
            prompt_ids: vec![9; 500 * turn].into(),
            ids: vec![7; 450],
            ..facts()
        };
        store
            .update(node, &answer, NodeState::Complete, Some(&facts))
            .unwrap();
        parent = Some(node);
    }
    id
}

#[test]
#[ignore = "a measurement: run it alone, with --nocapture"]
fn times_of_a_large_database() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let (mut store, _) = Store::open(&path).unwrap();
    let print =
        |what: &str, time: Duration| println!("{what:<44} {:>9.2} ms", time.as_secs_f64() * 1e3);
    let started = Instant::now();
    fill(&mut store, 5000, 1000);
    print(
        "importing one of 5,000 conversations",
        started.elapsed() / 5000,
    );
    let id = long_conversation(&mut store);
    print(
        "list of 5,001 conversations",
        best(|| store.conversations().unwrap()),
    );
    print("path of 10,000 tokens", best(|| store.path(id).unwrap()));
    print("path, first time", {
        drop(store);
        let started = Instant::now();
        store = Store::open(&path).unwrap().0;
        print("opening the database", started.elapsed());
        let started = Instant::now();
        store.path(id).unwrap();
        started.elapsed()
    });
    for query in ["w7", "w", "w12345", "w12 w13", "about", "nothing"] {
        print(
            &format!("search for {query:?}, 50 hits"),
            best(|| store.search(query, 50).unwrap()),
        );
    }
    let node = store
        .append(id, None, &assistant(""), NodeState::Streaming)
        .unwrap();
    let answer = assistant(&text(10_000, 1));
    let mut facts = facts();
    facts.prompt_ids = vec![5; 100_000].into();
    print(
        "update of a streaming answer of 10,000 tokens",
        best(|| {
            facts.ids.push(1);
            store
                .update(node, &answer, NodeState::Streaming, Some(&facts))
                .unwrap();
        }),
    );
    print(
        "the last update, which indexes it",
        best(|| {
            store
                .update(node, &answer, NodeState::Complete, Some(&facts))
                .unwrap();
        }),
    );
    let leaf = store.select(node).unwrap();
    print("choosing a branch", best(|| store.select(leaf).unwrap()));
    print("setting a value", {
        let mut n = 0;
        best(|| {
            n += 1;
            store.set("window", &n).unwrap();
        })
    });
    drop(store);
    print(
        "checking every page of it",
        best(|| assert!(matches!(open::check(&path), Ok(open::Found::Ours { .. })))),
    );
    let n_bytes = std::fs::metadata(&path).unwrap().len();
    println!(
        "{:<44} {:>9.1} MB",
        "size of the database",
        n_bytes as f64 / 1e6
    );
}
