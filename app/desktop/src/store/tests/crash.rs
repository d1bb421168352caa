//! A process that is killed while it writes.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use super::*;

/// Tells the child where to write.
const DATABASE: &str = "SPARSIGHT_TEST_DATABASE";

/// Not a test but the child of the ones below: writes an answer, word by word, and never ends it.
#[test]
#[ignore = "runs as the child process of the other tests of this module"]
fn writes_until_it_is_killed() {
    let path = PathBuf::from(std::env::var_os(DATABASE).expect("the parent says where to write"));
    let (mut store, _) = Store::open(&path).unwrap();
    let id = store.create_conversation("killed", None).unwrap();
    let question = store
        .append(id, None, &user("q"), NodeState::Complete)
        .unwrap();
    let node = store
        .append(id, Some(question), &assistant(""), NodeState::Streaming)
        .unwrap();
    println!("node {}", node.0);
    let mut answer = assistant("");
    let mut facts = AnswerFacts {
        prompt_ids: vec![5; 4000].into(),
        ..AnswerFacts::default()
    };
    for n in 0_u32.. {
        answer.content += &format!("word{n} ");
        facts.ids.push(n);
        store
            .update(node, &answer, NodeState::Streaming, Some(&facts))
            .unwrap();
        println!("written {n}");
    }
}

fn spawn(path: &Path) -> std::process::Child {
    let name = "store::tests::crash::writes_until_it_is_killed";
    Command::new(std::env::current_exe().unwrap())
        .args([
            name,
            "--exact",
            "--ignored",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(DATABASE, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn number_behind(line: &str, word: &str) -> Option<u32> {
    line.trim().rsplit_once(word)?.1.trim().parse().ok()
}

#[test]
fn a_kill_in_the_middle_of_an_answer_loses_at_most_the_last_update() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let mut expected_conversations = 0;
    for n_updates in [1, 40, 300] {
        let mut child = spawn(&path);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut node = None;
        let mut last = None;
        while last < Some(n_updates) {
            let line = lines.next().expect("the child writes on").unwrap();
            node = node.or_else(|| number_behind(&line, "node "));
            last = number_behind(&line, "written ").or(last);
        }
        let node = NodeId(node.unwrap().into());

        // While it lives, its message is its own.
        let (store, notices) = Store::open(&path).unwrap();
        assert_eq!(notices, []);
        assert_eq!(store.node(node).unwrap().state, NodeState::Streaming);
        drop(store);

        child.kill().unwrap();
        child.wait().unwrap();
        for line in lines {
            last = number_behind(&line.unwrap(), "written ").or(last);
        }
        let last = last.unwrap();

        let (mut store, notices) = Store::open(&path).unwrap();
        assert_eq!(notices, [Notice::Stopped { n_messages: 1 }]);
        let found = store.node(node).unwrap();
        assert_eq!(found.state, NodeState::Stopped);
        let words: Vec<&str> = found.message.content.split_whitespace().collect();
        // An update may have been written and not yet been told of.
        let n_written = last as usize + 1;
        assert!(
            (n_written..=n_written + 1).contains(&words.len()),
            "{} of {n_written}",
            words.len()
        );
        assert!(
            words
                .iter()
                .enumerate()
                .all(|(n, word)| *word == format!("word{n}"))
        );
        let facts = found.facts.unwrap();
        assert_eq!(
            facts.ids.len(),
            words.len(),
            "one update is there whole or not at all"
        );
        assert_eq!(facts.prompt_ids.len(), 4000);
        let hits = store.search(&format!("word{last}"), 9).unwrap();
        assert!(
            hits.iter().any(|hit| hit.node == Some(node)),
            "indexed when it was stopped"
        );
        expected_conversations += 1;
        assert_eq!(store.conversations().unwrap().len(), expected_conversations);
        drop(store);
        assert_eq!(Store::open(&path).unwrap().1, [], "it is told once");
    }
}

#[test]
fn a_crash_beside_a_live_instance_is_told_from_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let (mut live, _) = Store::open(&path).unwrap();
    let id = live.create_conversation("live", None).unwrap();
    let mine = live
        .append(id, None, &assistant("mine"), NodeState::Streaming)
        .unwrap();
    let mut child = spawn(&path);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let node = loop {
        let line = lines.next().expect("the child writes on").unwrap();
        if let Some(node) = number_behind(&line, "node ") {
            break NodeId(node.into());
        }
    };
    child.kill().unwrap();
    child.wait().unwrap();
    let (store, notices) = Store::open(&path).unwrap();
    assert_eq!(notices, [Notice::Stopped { n_messages: 1 }]);
    assert_eq!(store.node(node).unwrap().state, NodeState::Stopped);
    assert_eq!(store.node(mine).unwrap().state, NodeState::Streaming);
    live.update(mine, &assistant("mine, done"), NodeState::Complete, None)
        .unwrap();
    assert_eq!(store.node(mine).unwrap().state, NodeState::Complete);
}
