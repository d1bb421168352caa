//! What goes out and comes back.

use super::*;

#[test]
fn json_comes_back_as_it_went_out() {
    let mut store = Store::in_memory().unwrap();
    let id = rich(&mut store);
    let text = store.export(id, ExportFormat::Json).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["format"], "sparsight-conversation");
    assert_eq!(json["version"], 1);
    assert_eq!(json["nodes"].as_array().unwrap().len(), 6);
    assert_eq!(
        json["nodes"][1]["facts"]["prompt_ids"],
        json!([0, 129_279, u32::MAX])
    );
    assert_eq!(json["settings"]["seed"], json!(u64::MAX));

    let again = store.import(text.as_bytes()).unwrap();
    assert_ne!(again, id);
    assert_eq!(store.export(again, ExportFormat::Json).unwrap(), text);
    let paths = [id, again].map(|id| store.path(id).unwrap());
    assert_eq!(paths[0].len(), 3);
    for (one, other) in paths[0].iter().zip(&paths[1]) {
        assert_ne!(one.node.id, other.node.id);
        assert_eq!(one.index_among_siblings, other.index_among_siblings);
        assert_eq!(one.n_siblings(), other.n_siblings());
        let as_other = Node {
            id: other.node.id,
            conversation: again,
            parent: other.node.parent,
            ..one.node.clone()
        };
        assert_eq!(as_other, other.node);
    }
    // Other branches remember where one was, too.
    let branch = |store: &mut Store, path: &[PathEntry]| {
        store.select(path[1].siblings[1]).unwrap();
        contents(store, path[0].node.conversation)
    };
    let branches = paths.map(|path| branch(&mut store, &path));
    assert_eq!(branches[0], ["question", "other branch", "thanks"]);
    assert_eq!(branches[0], branches[1]);

    let mut other = Store::in_memory().unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &text).unwrap();
    let id = other.import_file(file.path()).unwrap();
    assert_eq!(other.export(id, ExportFormat::Json).unwrap(), text);
    assert_eq!(other.search("größe", 9).unwrap().len(), 1);
}

#[test]
fn a_message_that_is_being_written_comes_back_as_stopped() {
    let mut store = Store::in_memory().unwrap();
    let id = store.create_conversation("x", None).unwrap();
    store
        .append(id, None, &assistant("so far"), NodeState::Streaming)
        .unwrap();
    let text = store.export(id, ExportFormat::Json).unwrap();
    let again = store.import(text.as_bytes()).unwrap();
    assert_eq!(store.path(again).unwrap()[0].node.state, NodeState::Stopped);
    assert_eq!(store.search("far", 9).unwrap().len(), 1);
}

#[test]
fn markdown_holds_the_chosen_branch() {
    let mut store = Store::in_memory().unwrap();
    let id = rich(&mut store);
    store
        .connection
        .execute("UPDATE conversation SET created_ms = 1795537800000", [])
        .unwrap();
    let expected = "\
# Größe & <b> zwei

*2026-11-24 16:30 UTC*

## User

question

## Assistant

> **Thought for 1.2 s**
>
> first
>
> second

text
```rust
let a = \"<&>\";
```

Call of `weather`:

```json
{
  \"z\": 1.0,
  \"a\": [
    \"é\",
    18446744073709551615
  ]
}
```

*tiny · cpu · 12 prompt tokens · 101 generated · 50.0 tokens/s · first token after 0 ms · end of text · stopped*

## Tool result

````
```
20 °C
````
";
    assert_eq!(store.export(id, ExportFormat::Markdown).unwrap(), expected);
}

#[test]
fn a_page_takes_nothing_for_html() {
    let mut store = Store::in_memory().unwrap();
    let evil =
        "</div></pre></code></details><script>alert(1)</script><img src=x onerror=\"a\">'&amp;\0";
    let id = store.create_conversation(evil, None).unwrap();
    let mut message = assistant(&format!("{evil}\n```{evil}\n{evil}\n```\n{evil}"));
    message.reasoning_content = Some(evil.into());
    message.tool_calls = vec![ToolCall {
        id: None,
        name: evil.into(),
        arguments: json!({evil: evil}),
    }];
    let node = store
        .append(id, None, &message, NodeState::Complete)
        .unwrap();
    let facts = AnswerFacts {
        model: evil.into(),
        device: evil.into(),
        stop: evil.into(),
        ..facts()
    };
    store
        .update(node, &message, NodeState::Failed, Some(&facts))
        .unwrap();
    let page = store.export(id, ExportFormat::Html).unwrap();
    // Every tag and attribute of the page is one of ours.
    let mut tags: Vec<&str> = page
        .split('<')
        .skip(1)
        .map(|rest| rest.split('>').next().unwrap())
        .collect();
    tags.sort_unstable();
    tags.dedup();
    for tag in &tags {
        assert!(
            !tag.contains("script") && !tag.contains("img") && !tag.contains("onerror"),
            "{tag}"
        );
    }
    let opened = |name: &str| {
        page.matches(&format!("<{name}>")).count() + page.matches(&format!("<{name} ")).count()
    };
    for name in [
        "html", "head", "body", "article", "div", "pre", "code", "details", "summary", "p", "h1",
        "h2", "title", "style",
    ] {
        assert_eq!(
            opened(name),
            page.matches(&format!("</{name}>")).count(),
            "{name}"
        );
    }
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
    assert!(page.contains("&#39;&amp;amp;\u{FFFD}"));
    assert!(
        !page.contains('\0') && !page.contains("http:") && !page.contains("https:"),
        "nothing from elsewhere"
    );
    for part in [
        "<details>",
        "prefers-color-scheme: dark",
        "Content-Security-Policy",
    ] {
        assert!(page.contains(part), "{part}");
    }
}

#[test]
fn an_empty_conversation_has_a_file_of_every_kind() {
    let mut store = Store::in_memory().unwrap();
    let id = store.create_conversation("", None).unwrap();
    for format in ExportFormat::ALL {
        let text = store.export(id, format).unwrap();
        assert!(!text.is_empty(), "{}", format.name());
    }
}
