//! Branches.

use super::*;

#[test]
fn a_conversation_is_a_path_through_its_tree() {
    let mut store = Store::in_memory().unwrap();
    let id = store.create_conversation("x", None).unwrap();
    assert!(store.path(id).unwrap().is_empty());
    let question = store
        .append(id, None, &user("q"), NodeState::Complete)
        .unwrap();
    let first = store
        .append(id, Some(question), &assistant("a1"), NodeState::Complete)
        .unwrap();
    let after_first = store
        .append(id, Some(first), &user("q2"), NodeState::Complete)
        .unwrap();
    let deep = store
        .append(id, Some(after_first), &assistant("a2"), NodeState::Complete)
        .unwrap();
    let second = store
        .append(id, Some(question), &assistant("b1"), NodeState::Complete)
        .unwrap();
    let third = store
        .append(id, Some(question), &assistant("c1"), NodeState::Complete)
        .unwrap();
    assert_eq!(contents(&store, id), ["q", "c1"]);

    assert_eq!(store.select(second).unwrap(), second);
    let path = store.path(id).unwrap();
    assert_eq!(path[0].siblings, [question]);
    assert_eq!(path[1].siblings, [first, second, third]);
    assert_eq!((path[1].index_among_siblings, path[1].n_siblings()), (1, 3));
    assert_eq!(path[1].node.parent, Some(question));
    assert_eq!(path[1].node, store.node(second).unwrap());

    assert_eq!(store.select(first).unwrap(), deep, "down to the leaf");
    assert_eq!(contents(&store, id), ["q", "a1", "q2", "a2"]);
    assert_eq!(store.conversation(id).unwrap().leaf, Some(deep));

    let edited = store
        .append(id, None, &user("other q"), NodeState::Complete)
        .unwrap();
    assert_eq!(contents(&store, id), ["other q"]);
    assert_eq!(store.path(id).unwrap()[0].siblings, [question, edited]);
    assert_eq!(store.select(question).unwrap(), deep, "where one was");
}

#[test]
fn choosing_a_branch_leads_to_the_leaf_that_was_chosen_last_in_it() {
    let mut store = Store::in_memory().unwrap();
    let id = store.create_conversation("x", None).unwrap();
    let root = store
        .append(id, None, &user("root"), NodeState::Complete)
        .unwrap();
    let mut leaves = Vec::new();
    let mut branches = Vec::new();
    for branch in 0..2 {
        let inner = store
            .append(
                id,
                Some(root),
                &assistant(&format!("branch {branch}")),
                NodeState::Complete,
            )
            .unwrap();
        branches.push(inner);
        for leaf in 0..3 {
            let text = format!("leaf {branch}{leaf}");
            leaves.push(
                store
                    .append(id, Some(inner), &user(&text), NodeState::Complete)
                    .unwrap(),
            );
        }
    }
    assert_eq!(
        store.select(branches[0]).unwrap(),
        leaves[2],
        "the last one added"
    );
    store.select(leaves[1]).unwrap();
    store.select(leaves[3]).unwrap();
    assert_eq!(store.select(branches[1]).unwrap(), leaves[3]);
    assert_eq!(store.select(branches[0]).unwrap(), leaves[1]);
    assert_eq!(store.select(root).unwrap(), leaves[1]);
}

#[test]
fn a_parent_belongs_to_the_same_conversation() {
    let mut store = Store::in_memory().unwrap();
    let one = store.create_conversation("one", None).unwrap();
    let other = store.create_conversation("other", None).unwrap();
    let node = store
        .append(one, None, &user("a"), NodeState::Complete)
        .unwrap();
    let no = NodeId(99);
    for (result, expected) in [
        (
            store
                .append(other, Some(node), &user("b"), NodeState::Complete)
                .map(drop),
            format!("there is no message {}", node.0),
        ),
        (
            store
                .append(one, Some(no), &user("b"), NodeState::Complete)
                .map(drop),
            "there is no message 99".into(),
        ),
        (
            store
                .append(ConversationId(99), None, &user("b"), NodeState::Complete)
                .map(drop),
            "there is no conversation 99".into(),
        ),
        (
            store.update(no, &user("b"), NodeState::Complete, None),
            "there is no message 99".into(),
        ),
        (store.select(no).map(drop), "there is no message 99".into()),
        (store.node(no).map(drop), "there is no message 99".into()),
        (
            store.path(ConversationId(99)).map(drop),
            "there is no conversation 99".into(),
        ),
        (
            store
                .export(ConversationId(99), ExportFormat::Json)
                .map(drop),
            "there is no conversation 99".into(),
        ),
    ] {
        assert_eq!(result.unwrap_err().to_string(), expected);
    }
    assert!(store.path(other).unwrap().is_empty());
    assert_eq!(contents(&store, one), ["a"]);
}

#[test]
fn an_answer_keeps_its_facts() {
    let mut store = Store::in_memory().unwrap();
    let id = store.create_conversation("x", None).unwrap();
    let node = store
        .append(id, None, &assistant(""), NodeState::Streaming)
        .unwrap();
    assert_eq!(store.node(node).unwrap().facts, None);
    let early = AnswerFacts {
        prompt_ids: vec![1, 2].into(),
        ids: vec![3],
        ..AnswerFacts::default()
    };
    store
        .update(node, &assistant("a"), NodeState::Streaming, Some(&early))
        .unwrap();
    assert_eq!(store.node(node).unwrap().facts, Some(early));
    store
        .update(node, &assistant("ab"), NodeState::Complete, Some(&facts()))
        .unwrap();
    assert_eq!(store.node(node).unwrap().facts, Some(facts()));
    store
        .update(node, &assistant("abc"), NodeState::Stopped, None)
        .unwrap();
    let found = store.node(node).unwrap();
    assert_eq!(found.facts, Some(facts()), "what is not given stays");
    assert_eq!(
        (found.message, found.state),
        (assistant("abc"), NodeState::Stopped)
    );
    let none = AnswerFacts::default();
    store
        .update(node, &assistant("abc"), NodeState::Stopped, Some(&none))
        .unwrap();
    assert_eq!(store.node(node).unwrap().facts, Some(none));
}

#[test]
fn a_message_comes_back_as_it_was() {
    let mut store = Store::in_memory().unwrap();
    let id = store.create_conversation("x", None).unwrap();
    let mut message = assistant("nul \0, \u{2063}, \u{1}\u{2}, \u{10FFFF}, \r\n");
    message.reasoning_content = Some(String::new());
    message.tools = vec![json!({"type": "function", "function": {"name": "f"}})];
    message.response_format = Some(json!({"z": 1, "a": 0.1}));
    let mut no_json = assistant("");
    no_json.tool_calls = vec![ToolCall {
        id: None,
        name: String::new(),
        arguments: json!("{torn"),
    }];
    for message in [message, no_json] {
        let node = store
            .append(id, None, &message, NodeState::Complete)
            .unwrap();
        assert_eq!(store.node(node).unwrap().message, message);
    }
}

#[test]
fn an_update_makes_a_conversation_the_newest_when_the_answer_is_done() {
    let mut store = Store::in_memory().unwrap();
    let id = store.create_conversation("x", None).unwrap();
    let node = store
        .append(id, None, &assistant(""), NodeState::Streaming)
        .unwrap();
    let updated_ms = |store: &Store| store.conversation(id).unwrap().updated_ms;
    store
        .connection
        .execute("UPDATE conversation SET updated_ms = 5", [])
        .unwrap();
    store
        .update(node, &assistant("a"), NodeState::Streaming, None)
        .unwrap();
    store.rename_conversation(id, "y").unwrap();
    store.select(node).unwrap();
    assert_eq!(updated_ms(&store), 5);
    store
        .update(node, &assistant("ab"), NodeState::Complete, None)
        .unwrap();
    assert!(updated_ms(&store) > 5);
}

#[test]
fn a_long_chain_is_shown_chosen_and_purged() {
    let mut store = Store::in_memory().unwrap();
    let nodes: Vec<_> = (1..=5000)
        .map(|id| {
            json!({
                "id": id, "parent": (id > 1).then_some(id - 1), "state": "complete",
                "created_ms": 1, "message": {"role": "user", "content": "long chain"},
            })
        })
        .collect();
    let document = json!({
        "format": "sparsight-conversation", "version": 1, "title": "t",
        "created_ms": 1, "updated_ms": 1, "leaf": 2, "nodes": nodes,
    });
    let id = store.import(document.to_string().as_bytes()).unwrap();
    let path = store.path(id).unwrap();
    assert_eq!(path.len(), 5000);
    store.select(path[0].node.id).unwrap();
    store.delete_conversation(id).unwrap();
    assert_eq!(store.search("chain", 9).unwrap().len(), 0);
    assert_eq!(store.purge_deleted(now_ms()).unwrap(), 1);
    for table in [
        "node",
        "conversation",
        "token_ids",
        "node_search",
        "title_search",
    ] {
        let sql = format!("SELECT count(*) FROM {table}");
        let n: i64 = store
            .connection
            .query_row(&sql, [], |row| row.get(0))
            .unwrap();
        assert_eq!(n, 0, "{table}");
    }
}

#[test]
fn a_value_that_cannot_be_read_is_named() {
    let mut store = Store::in_memory().unwrap();
    let id = store.create_conversation("x", None).unwrap();
    let node = store
        .append(id, None, &assistant("a"), NodeState::Complete)
        .unwrap();
    store
        .update(node, &assistant("a"), NodeState::Complete, Some(&facts()))
        .unwrap();
    for (sql, expected) in [
        (
            "UPDATE token_ids SET ids = x'010203' WHERE part = 'answer'",
            "message 1 cannot be read: its answer ids are no multiple of 4 bytes",
        ),
        (
            "UPDATE node SET facts = '{}}'",
            "message 1 cannot be read: its facts: trailing characters",
        ),
        (
            "UPDATE node SET facts = NULL, state = 'asleep'",
            "message 1 cannot be read: its state is \"asleep\", expected one of",
        ),
        (
            "UPDATE node SET state = 'failed', message = '{'",
            "message 1 cannot be read: EOF while parsing",
        ),
    ] {
        store.connection.execute(sql, []).unwrap();
        let error = store.path(id).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}
