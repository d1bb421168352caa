//! Two instances on one file.

use std::time::Instant;

use super::*;

#[test]
fn both_read_and_write() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let (mut one, _) = Store::open(&path).unwrap();
    let (mut other, notices) = Store::open(&path).unwrap();
    assert_eq!(notices, []);
    let id = one.create_conversation("of one", None).unwrap();
    let question = other
        .append(id, None, &user("q"), NodeState::Complete)
        .unwrap();
    let a = one
        .append(id, Some(question), &assistant("a"), NodeState::Streaming)
        .unwrap();
    let b = other
        .append(id, Some(question), &assistant("b"), NodeState::Streaming)
        .unwrap();
    for round in 0..20 {
        one.update(
            a,
            &assistant(&format!("a{round}")),
            NodeState::Streaming,
            None,
        )
        .unwrap();
        other
            .update(
                b,
                &assistant(&format!("b{round}")),
                NodeState::Streaming,
                None,
            )
            .unwrap();
        assert_eq!(one.node(b).unwrap().message.content, format!("b{round}"));
    }
    one.update(a, &assistant("apple"), NodeState::Complete, None)
        .unwrap();
    assert_eq!(other.search("apple", 9).unwrap().len(), 1);
    assert_eq!(contents(&one, id), contents(&other, id));
    assert_eq!(one.path(id).unwrap()[1].siblings, [a, b]);
    one.set("theme", &"dark").unwrap();
    assert_eq!(other.get::<String>("theme").unwrap(), "dark");
    drop(one);
    other
        .update(b, &assistant("berry"), NodeState::Complete, None)
        .unwrap();
    drop(other);
    let (store, notices) = Store::open(&path).unwrap();
    assert_eq!(notices, []);
    assert_eq!(contents(&store, id), ["q", "berry"]);
}

#[test]
fn a_write_that_cannot_wait_longer_is_busy_and_can_be_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let (mut store, _) = Store::open(&path).unwrap();
    let id = store.create_conversation("x", None).unwrap();
    let node = store
        .append(id, None, &assistant(""), NodeState::Streaming)
        .unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();

    let started = Instant::now();
    let error = store
        .update(node, &assistant("a"), NodeState::Streaming, None)
        .unwrap_err();
    assert!(
        matches!(error, StoreError::Busy { timeout_ms: 250 }),
        "{error:?}"
    );
    assert!(started.elapsed() >= BUSY_TIMEOUT);
    println!("waited for {:?}", started.elapsed());
    assert!(
        error
            .to_string()
            .contains("being written by another instance"),
        "{error}"
    );
    // Reading never waits.
    assert_eq!(contents(&store, id), [""]);
    assert_eq!(store.conversations().unwrap().len(), 1);

    other.execute_batch("COMMIT").unwrap();
    store
        .update(node, &assistant("a"), NodeState::Streaming, None)
        .unwrap();
    assert_eq!(contents(&store, id), ["a"]);
}

#[test]
fn what_another_instance_is_writing_is_left_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let (mut one, _) = Store::open(&path).unwrap();
    let id = one.create_conversation("x", None).unwrap();
    let node = one
        .append(id, None, &assistant("so far"), NodeState::Streaming)
        .unwrap();

    let (other, notices) = Store::open(&path).unwrap();
    assert_eq!(notices, []);
    assert_eq!(other.node(node).unwrap().state, NodeState::Streaming);
    drop(other);
    one.update(
        node,
        &assistant("so far, and on"),
        NodeState::Streaming,
        None,
    )
    .unwrap();

    // It ended without finishing: now the message is nobody's.
    drop(one);
    let (mut other, notices) = Store::open(&path).unwrap();
    assert_eq!(notices, [Notice::Stopped { n_messages: 1 }]);
    assert_eq!(other.node(node).unwrap().state, NodeState::Stopped);
    assert_eq!(
        other.search("on", 9).unwrap().len(),
        1,
        "indexed when it was stopped"
    );
}

#[test]
fn many_open_a_new_database_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let n = 8;
    std::thread::scope(|scope| {
        for i in 0..n {
            let path = &path;
            scope.spawn(move || {
                let (mut store, notices) = Store::open(path).unwrap();
                assert_eq!(notices, []);
                let mut create = || store.create_conversation(&format!("{i}"), None);
                while let Err(error) = create() {
                    assert!(matches!(error, StoreError::Busy { .. }), "{error:?}");
                }
            });
        }
    });
    let (store, notices) = Store::open(&path).unwrap();
    assert_eq!(notices, []);
    assert_eq!(store.conversations().unwrap().len(), n);
}

#[test]
fn many_find_a_damaged_database_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    std::fs::write(&path, b"garbage").unwrap();
    let barrier = std::sync::Barrier::new(4);
    let n_notices: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    barrier.wait();
                    let (_store, notices) = Store::open(&path).unwrap();
                    notices.len()
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    assert_eq!(n_notices, 1, "one of them sets it aside");
}
