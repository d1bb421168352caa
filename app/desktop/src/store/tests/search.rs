//! What a search finds.

use super::*;

fn store_with(texts: &[&str]) -> Store {
    let mut store = Store::in_memory().unwrap();
    let id = store.create_conversation("Some title", None).unwrap();
    for text in texts {
        store
            .append(id, None, &user(text), NodeState::Complete)
            .unwrap();
    }
    store
}

fn found(store: &mut Store, query: &str) -> usize {
    store.search(query, 100).unwrap().len()
}

#[test]
fn words_are_found_however_they_are_written() {
    let mut store = store_with(&[
        "Die Größe des Cafés, naïve Ångström; state-of-the-art (foo.bar) C++ İstanbul",
    ]);
    for query in [
        "größe",
        "GRÖẞE",
        "Cafe",
        "cafes",
        "CAFÉS",
        "cafe\u{301}s",
        "naive",
        "angstrom",
        "ca",
        "c",
        "state",
        "state-of-the-art",
        "of the art",
        "foo.bar",
        "foo.ba",
        "foo bar",
        "art foo",
        "C++",
        "istanbul",
        "  cafés  ",
        "die gro",
        "die \0 cafe",
        "die … cafe",
    ] {
        assert_eq!(found(&mut store, query), 1, "{query:?}");
    }
    // Within a word, beyond it, in another order within one word; a prefix that is not the last word or
    // has ended; and ß is a letter of its own.
    for query in [
        "afes",
        "cafesx",
        "stateoftheart",
        "of-state",
        "gro die",
        "cafe.",
        "grosse",
    ] {
        assert_eq!(found(&mut store, query), 0, "{query:?}");
    }
}

#[test]
fn what_the_user_types_is_no_syntax() {
    let mut store = store_with(&["near a b and or not title rowid a b \"quoted\" x"]);
    for query in [
        "\"",
        "\"\"",
        "*",
        "()",
        "^",
        "-",
        "+",
        ":",
        "{}",
        "'",
        "%",
        "_",
        "\\",
        ";--",
        "…",
        "—",
        " ",
        "",
        "\0",
        "\u{1}\u{2}",
        "\u{2063}",
        "🙂",
        "\u{301}",
        "\u{E31}",
    ] {
        assert_eq!(found(&mut store, query), 0, "{query:?}");
    }
    for query in [
        "AND",
        "OR",
        "NOT",
        "NEAR",
        "NEAR(a b)",
        "a AND b",
        "a OR b",
        "\"quoted",
        "quoted\"",
        "title",
        "title:",
        "-a",
        "^a",
        "+a",
        "a*",
        "{a b}",
        "(a",
        "a)",
        "'a",
        "a'",
        "a \" b",
        "a \0 b",
        "* a",
        "rowid",
    ] {
        assert!(found(&mut store, query) > 0, "{query:?}");
    }
    // Longer than any syntax tree.
    let long = "a ".repeat(100_000);
    assert_eq!(found(&mut store, &long), 1);
    assert_eq!(found(&mut store, &"q".repeat(1_000_000)), 0);
    assert_eq!(found(&mut store, &"\"".repeat(100_000)), 0);
}

#[test]
fn scripts_without_spaces_are_found_within() {
    let mut store = store_with(&[
        "私は東京都に住んでいます。GPTは速い",
        "机器学习模型很有趣",
        "한국어를 배웁니다",
        "ภาษาไทยง่าย",
        "カタカナ ﾊﾝｶｸ 𠮷野家",
    ]);
    for query in [
        "東京",
        "京都",
        "東",
        "住んで",
        "東京都に",
        "gptは",
        "GPT",
        "は速",
        "器学",
        "模型",
        "有趣",
        "趣",
        "한국",
        "국어",
        "국어를",
        "배웁",
        "ไทย",
        "ภาษา",
        "タカ",
        "ﾝｶ",
        "𠮷",
        "野家",
        "私は 速い",
    ] {
        assert_eq!(found(&mut store, query), 1, "{query}");
    }
    for query in ["京東", "都東", "学机", "速いGPT", "어국", "東大阪"] {
        assert_eq!(found(&mut store, query), 0, "{query}");
    }
}

#[test]
fn snippets_are_the_text_with_the_matches_marked() {
    let mut store = Store::in_memory().unwrap();
    let id = store.create_conversation("東京 trip", None).unwrap();
    let long = format!(
        "{} Zürich\u{1} and\n東\u{2063}京都, zurich. {}",
        "before ".repeat(100),
        "after ".repeat(100)
    );
    let node = store
        .append(id, None, &user(&long), NodeState::Complete)
        .unwrap();
    let hits = store.search("zurich", 9).unwrap();
    assert_eq!(hits.len(), 1);
    let hit = &hits[0];
    assert_eq!(
        (hit.conversation, hit.node, hit.title.as_str()),
        (id, Some(node), "東京 trip")
    );
    let matched = |hit: &Hit| -> Vec<String> {
        hit.matches
            .iter()
            .map(|range| hit.snippet[range.clone()].to_owned())
            .collect()
    };
    assert_eq!(matched(hit), ["Zürich", "zurich"]);
    assert!(
        hit.snippet.starts_with('…') && hit.snippet.ends_with('…'),
        "{}",
        hit.snippet
    );
    assert!(
        hit.snippet.contains("Zürich  and 東京都, zurich."),
        "{:?}",
        hit.snippet
    );
    assert!(hit.snippet.len() < 300, "{}", hit.snippet.len());

    let hits = store.search("東京", 9).unwrap();
    assert_eq!(
        hits.iter().map(|hit| hit.node).collect::<Vec<_>>(),
        [None, Some(node)]
    );
    assert_eq!(hits[0].snippet, "東京 trip");
    assert_eq!(matched(&hits[0]), ["東京"]);
    assert_eq!(matched(&hits[1]), ["東京"]);
    assert_eq!(store.search("東京", 1).unwrap().len(), 1);
    assert_eq!(store.search("東京", 0).unwrap().len(), 0);
    assert_eq!(store.search("東京", usize::MAX).unwrap().len(), 2);
}

#[test]
fn everything_that_was_said_is_found_on_all_branches() {
    let mut store = Store::in_memory().unwrap();
    let id = rich(&mut store);
    for (query, n) in [
        ("größe", 1),
        ("question", 2),
        ("second", 1),
        ("weather", 1),
        ("é", 2),
        ("other branch", 1),
        ("20", 1),
        ("let a", 1),
        ("brief", 0),
        ("tiny", 0),
    ] {
        assert_eq!(found(&mut store, query), n, "{query}");
    }
    store.rename_conversation(id, "Renamed").unwrap();
    assert_eq!(found(&mut store, "größe"), 0);
    assert_eq!(found(&mut store, "renamed"), 1);
    store.delete_conversation(id).unwrap();
    assert_eq!(found(&mut store, "question"), 0);
    assert_eq!(found(&mut store, "renamed"), 0);
    store.restore_conversation(id).unwrap();
    assert_eq!(found(&mut store, "question"), 2);
}

#[test]
fn a_message_is_found_once_it_is_done() {
    let mut store = Store::in_memory().unwrap();
    let id = store.create_conversation("x", None).unwrap();
    let node = store
        .append(id, None, &assistant("apple"), NodeState::Streaming)
        .unwrap();
    store
        .update(node, &assistant("apple pear"), NodeState::Streaming, None)
        .unwrap();
    assert_eq!(found(&mut store, "pear"), 0);
    store
        .update(node, &assistant("apple pear"), NodeState::Stopped, None)
        .unwrap();
    assert_eq!(found(&mut store, "pear"), 1);
    // It goes on, and becomes something else.
    store
        .update(node, &assistant("apple plum"), NodeState::Streaming, None)
        .unwrap();
    store
        .update(node, &assistant("apple plum"), NodeState::Complete, None)
        .unwrap();
    assert_eq!(
        (
            found(&mut store, "pear"),
            found(&mut store, "plum"),
            found(&mut store, "apple")
        ),
        (0, 1, 1)
    );
}
