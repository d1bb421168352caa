//! Well-formed completions come back as they were; mangled ones are read as described, and the same
//! way however they are cut.

use engine::chat::{
    Completion, CompletionParser, Delta, EOS, EncodeOptions, Message, Role, ToolCall, encode_after,
    parse,
};
use engine::tokenizer::text_of;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed};
use serde_json::{Value, json};

/// Marks the tags of tool calls.
const DSML: &str = "｜DSML｜";

/// `⏎` stands for a newline, `D:` for the mark.
fn text(short: &str) -> String {
    short.replace('⏎', "\n").replace("D:", DSML)
}

fn call(name: &str, arguments: Value) -> ToolCall {
    ToolCall {
        id: None,
        name: name.into(),
        arguments,
    }
}

/// Reads piece by piece; checks that the pieces are what the completion says.
fn streamed<'a>(pieces: impl IntoIterator<Item = &'a str>, thinking: bool) -> Completion {
    let mut parser = CompletionParser::new(thinking);
    let mut deltas: Vec<Delta> = pieces
        .into_iter()
        .flat_map(|piece| parser.push(piece))
        .collect();
    let (last, completion) = parser.finish();
    deltas.extend(last);
    let (mut reasoning, mut content, mut calls) = (String::new(), String::new(), Vec::new());
    for delta in deltas {
        match delta {
            Delta::Reasoning(text) => reasoning += &text,
            Delta::Content(text) => content += &text,
            Delta::ToolCall(call) => calls.push(call),
        }
    }
    assert_eq!(completion.reasoning.clone().unwrap_or_default(), reasoning);
    assert_eq!(
        (&completion.content, &completion.tool_calls),
        (&content, &calls)
    );
    completion
}

#[test]
fn plain_replies() {
    for (completion, thinking, reasoning, content) in [
        ("Hi.<｜end▁of▁sentence｜>", false, None, "Hi."),
        ("Hi.", false, None, "Hi."),
        ("", false, None, ""),
        (
            "r\n</think>Hi.\n<｜end▁of▁sentence｜>",
            true,
            Some("r\n"),
            "Hi.\n",
        ),
        ("</think>", true, Some(""), ""),
        ("<｜end▁of▁sentence", false, None, "<｜end▁of▁sentence"),
    ] {
        let read = parse(completion, thinking);
        assert_eq!(read.reasoning.as_deref(), reasoning, "{completion:?}");
        assert_eq!(read.content, content, "{completion:?}");
        assert_eq!(read.tool_calls, [], "{completion:?}");
        assert_eq!(read.problems, [""; 0], "{completion:?}");
    }
}

/// Completions with one call of `f`, how they are written, the arguments, the content and problems.
#[test]
fn mangled_tool_calls() {
    let lacks = "tags of the tool calls lack ｜DSML｜";
    for (short, arguments, content, problems) in [
        // Without the mark, as decoders give it that skip special tokens.
        (
            "A⏎⏎<function_calls>⏎<invoke name=\"f\">⏎<parameter name=\"a\" string=\"true\">x</parameter>⏎</invoke>⏎</function_calls>",
            json!({"a": "x"}),
            "A",
            vec![lacks],
        ),
        // Half with, half without.
        (
            "⏎⏎<D:function_calls>⏎<invoke name=\"f\">⏎<parameter name=\"a\" string=\"true\">x</parameter>⏎</D:invoke>⏎</function_calls>",
            json!({"a": "x"}),
            "",
            vec![lacks],
        ),
        // Raw JSON, with tags and braces in its strings.
        (
            "⏎⏎<D:function_calls>⏎<D:invoke name=\"f\">⏎{\"a\": \"}\\\"</D:invoke>\", \"b\": {\"c\": 1.0}}⏎</D:invoke>⏎</D:function_calls>",
            json!({"a": "}\"</｜DSML｜invoke>", "b": {"c": 1.0}}),
            "",
            vec!["the call of \"f\" has raw JSON arguments"],
        ),
        // Wrong flags.
        (
            "⏎⏎<D:function_calls>⏎<D:invoke name=\"f\">⏎<D:parameter name=\"a\" string=\"false\">Oslo</D:parameter>⏎<D:parameter name=\"b\">[1]</D:parameter>⏎</D:invoke>⏎</D:function_calls>",
            json!({"a": "Oslo", "b": [1]}),
            "",
            vec![
                "parameter \"a\" of \"f\" is no JSON: it was read as a string",
                "parameter \"b\" of \"f\" does not say whether it is a string",
            ],
        ),
        (
            "⏎⏎<D:function_calls>⏎<D:invoke name=\"f\">⏎<D:parameter name=\"a\" string=\"True\">1</D:parameter>⏎<D:parameter name=\"b\" string=\"false\">123456789012345678901</D:parameter></D:invoke></D:function_calls>",
            json!({"a": "1", "b": "123456789012345678901"}),
            "",
            vec!["parameter \"b\" of \"f\" is an integer beyond 64 bits: it was read as a string"],
        ),
        // Closing tags missing at the end.
        (
            "⏎⏎<D:function_calls>⏎<D:invoke name=\"f\">⏎<D:parameter name=\"a\" string=\"true\">x<｜end▁of▁sentence｜>",
            json!({"a": "x"}),
            "",
            vec![
                "parameter \"a\" of \"f\" ends without </｜DSML｜parameter>",
                "the call of \"f\" ends without </｜DSML｜invoke>",
                "the tool calls end without </｜DSML｜function_calls>",
            ],
        ),
        (
            "⏎⏎<D:function_calls>⏎<D:invoke name=\"f\">⏎<D:parameter name=\"a\" string=\"true\">x⏎</D:invoke>⏎</D:function_calls>",
            json!({"a": "x"}),
            "",
            vec!["parameter \"a\" of \"f\" ends without </｜DSML｜parameter>"],
        ),
        (
            "⏎⏎<D:function_calls>⏎<D:invoke name=\"f\">⏎<D:parameter name=\"a\" string=\"true\">x</parameter>⏎</D:invoke>⏎</D:function_calls>",
            json!({"a": "x"}),
            "",
            vec!["parameter \"a\" of \"f\" ends without </｜DSML｜parameter>"],
        ),
        (
            "⏎⏎<D:function_calls>⏎<D:invoke name=\"f\">⏎<D:parameter name=\"a\" string=\"true\">x</D:parameter>⏎</D:function_calls>⏎",
            json!({"a": "x"}),
            "",
            vec!["the call of \"f\" ends without </｜DSML｜invoke>"],
        ),
        (
            "⏎⏎<D:function_calls>⏎<D:invoke name=\"f\">⏎⏎</D:invoke>⏎</D:function_cal",
            json!({}),
            "",
            vec!["the tool calls end without </｜DSML｜function_calls>"],
        ),
        // Twice the same name.
        (
            "⏎⏎<D:function_calls>⏎<D:invoke name=\"f\">⏎<D:parameter name=\"a\" string=\"true\">x</D:parameter>⏎<D:parameter name=\"a\" string=\"false\">2</D:parameter>⏎</D:invoke>⏎</D:function_calls>",
            json!({"a": 2}),
            "",
            vec!["parameter \"a\" of \"f\" is there twice: the last was taken"],
        ),
        // Text around and between.
        (
            "A⏎<D:function_calls><D:invoke name=\"f\"></D:invoke></D:function_calls>⏎⏎B ",
            json!({}),
            "A\n\nB ",
            vec![
                "no empty line stands before the tool calls",
                "text after the tool calls was read as content",
            ],
        ),
        (
            "⏎⏎<D:function_calls>⏎<D:invoke name=\"f\">⏎so:⏎<D:parameter name=\"a\" string=\"true\">x</D:parameter>,⏎</D:invoke>⏎</D:function_calls>",
            json!({"a": "x"}),
            "",
            vec!["the call of \"f\" has text that is no parameter"],
        ),
        // The block's own tag is missing.
        (
            "A⏎⏎<D:invoke name=\"f\">⏎⏎</D:invoke>⏎</D:function_calls>",
            json!({}),
            "A",
            vec!["the tool calls begin without <｜DSML｜function_calls>"],
        ),
    ] {
        let completion = text(short);
        let read = parse(&completion, false);
        assert_eq!(read.tool_calls, [call("f", arguments)], "{completion}");
        assert_eq!(read.content, content, "{completion}");
        assert_eq!(read.problems, problems, "{completion}");
        assert_eq!(read.reasoning, None);
    }
}

#[test]
fn what_is_no_call_is_content() {
    let left = "marks were left in the content: ｜DSML｜";
    for (short, content, problems) in [
        (
            "A⏎⏎<D:function_calls>⏎<D:invoke name=\"f\">⏎{\"a\": nonsense}</D:invoke>⏎</D:function_calls>",
            "A<D:invoke name=\"f\">⏎{\"a\": nonsense}</D:invoke>⏎</D:function_calls>",
            vec![
                "the call of \"f\" has no readable arguments: it was left in",
                left,
            ],
        ),
        (
            "⏎⏎<D:function_calls>⏎<D:invoke name=\"f\">⏎{\"a\": \"cut",
            "<D:invoke name=\"f\">⏎{\"a\": \"cut",
            vec![
                "the call of \"f\" has no readable arguments: it was left in",
                left,
            ],
        ),
        (
            "⏎⏎<D:function_calls>⏎<D:invoke name=\"f\">⏎city: Oslo⏎</D:invoke>⏎</D:function_calls>",
            "<D:invoke name=\"f\">⏎city: Oslo⏎</D:invoke>⏎</D:function_calls>",
            vec![
                "the call of \"f\" has text that is no parameter",
                "the call of \"f\" has no readable arguments: it was left in",
                left,
            ],
        ),
        (
            "A⏎⏎<D:function_calls>⏎<D:invoke>⏎</D:invoke>",
            "A⏎⏎<D:function_calls>⏎<D:invoke>⏎</D:invoke>",
            vec![left],
        ),
        (
            "A⏎⏎<D:function_calls>⏎<D:invoke name=\"f",
            "A⏎⏎<D:function_calls>⏎<D:invoke name=\"f",
            vec![
                "the text ends within the tags of a tool call: they were left in",
                left,
            ],
        ),
        ("a b < c <D: d⏎⏎", "a b < c <D: d⏎⏎", vec![left]),
        (
            "say <function_calls> or <D:function_calls>.",
            "say <function_calls> or <D:function_calls>.",
            vec!["marks were left in the content: ｜DSML｜, <function_calls>"],
        ),
        (
            "a⏎<invoke name=\"f\">",
            "a⏎<invoke name=\"f\">",
            vec!["marks were left in the content: <invoke name="],
        ),
        // As V3.1 and V3 call.
        (
            "ok<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>w<｜tool▁sep｜>{\"city\":\"Oslo\"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            "ok<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>w<｜tool▁sep｜>{\"city\":\"Oslo\"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            vec!["marks were left in the content: <｜tool"],
        ),
        (
            "ok<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>w⏎```json⏎{\"city\":\"Oslo\"}⏎```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            "ok<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>w⏎```json⏎{\"city\":\"Oslo\"}⏎```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            vec!["marks were left in the content: <｜tool"],
        ),
        // As other families call.
        (
            "<tool_call>{\"name\": \"f\"}</tool_call>",
            "<tool_call>{\"name\": \"f\"}</tool_call>",
            vec!["marks were left in the content: <tool_call, </tool_call"],
        ),
        // Shown, and not made.
        (
            "So:⏎```⏎<D:function_calls>⏎<D:invoke name=\"f\">⏎</D:invoke>⏎</D:function_calls>⏎```⏎Clear?",
            "So:⏎```⏎<D:function_calls>⏎<D:invoke name=\"f\">⏎</D:invoke>⏎</D:function_calls>⏎```⏎Clear?",
            vec![],
        ),
        (
            "~~~~xml⏎~~~⏎<function_calls>⏎<invoke name=\"f\">⏎</invoke>⏎</function_calls>⏎~~~~⏎",
            "~~~~xml⏎~~~⏎<function_calls>⏎<invoke name=\"f\">⏎</invoke>⏎</function_calls>⏎~~~~⏎",
            vec![],
        ),
        // Shown, as it seems, but who knows.
        (
            "```⏎<D:function_calls>⏎<D:invoke name=\"f\">⏎</D:invoke>⏎</D:function_calls>",
            "```⏎<D:function_calls>⏎<D:invoke name=\"f\">⏎</D:invoke>⏎</D:function_calls>",
            vec![left],
        ),
    ] {
        let read = parse(&text(short), false);
        assert_eq!(read.content, text(content), "{short}");
        assert_eq!(read.tool_calls, [], "{short}");
        assert_eq!(read.problems, problems, "{short}");
    }
}

#[test]
fn a_call_behind_shown_code_is_a_call() {
    let read = parse(
        &text(
            "```⏎a < b⏎```⏎⏎<D:function_calls>⏎<D:invoke name=\"f\">⏎<D:parameter name=\"a\" string=\"true\">```⏎x</D:parameter>⏎</D:invoke>⏎</D:function_calls>",
        ),
        false,
    );
    assert_eq!(read.content, "```\na < b\n```");
    assert_eq!(read.tool_calls, [call("f", json!({"a": "```\nx"}))]);
    assert_eq!(read.problems, [""; 0]);
}

#[test]
fn tags_that_the_model_wrote_itself_come_out_as_meant() {
    let twice = "</think> came twice: the second was left out";
    let missing = "</think> is missing: all text was read as reasoning";
    let left = |marks: &str| format!("marks were left in the content: {marks}");
    for (completion, thinking, reasoning, content, problems) in [
        // Asked to think, it opens what is open.
        ("<think>r</think>Hi", true, Some("r"), "Hi", vec![]),
        (
            "⏎ <think>⏎r⏎</think>⏎⏎Hi",
            true,
            Some("⏎r⏎"),
            "⏎⏎Hi",
            vec![],
        ),
        ("<think><think>r</think>Hi", true, Some("r"), "Hi", vec![]),
        ("<think></think>Hi", true, Some(""), "Hi", vec![]),
        (
            "r <think> s</think>Hi",
            true,
            Some("r <think> s"),
            "Hi",
            vec![],
        ),
        (
            "r</think>⏎</think>Hi",
            true,
            Some("r"),
            "Hi",
            vec![twice.into()],
        ),
        (
            "r</think>⏎<think>s</think>Hi",
            true,
            Some("rs"),
            "Hi",
            vec![],
        ),
        ("<think>r", true, Some("r"), "", vec![missing.into()]),
        // Not asked, it thinks all the same.
        ("<think>r</think>Hi", false, Some("r"), "Hi", vec![]),
        ("⏎⏎<think>r</think>⏎⏎Hi", false, Some("r"), "⏎⏎Hi", vec![]),
        ("<think></think>Hi", false, None, "Hi", vec![]),
        ("</think>Hi", false, None, "Hi", vec![twice.into()]),
        ("<think>r", false, Some("r"), "", vec![missing.into()]),
        ("<thin", false, None, "<thin", vec![]),
        ("⏎ ", false, None, "⏎ ", vec![]),
        (
            "<think>r</think>Hi</think>",
            false,
            Some("r"),
            "Hi</think>",
            vec![left("</think>")],
        ),
        // In the middle it is text: who could tell it from text about it.
        (
            "a </think> b",
            false,
            None,
            "a </think> b",
            vec![left("</think>")],
        ),
        (
            "a <think>b</think>",
            false,
            None,
            "a <think>b</think>",
            vec![left("<think>, </think>")],
        ),
        (
            "```⏎<think>b</think>⏎```",
            false,
            None,
            "```⏎<think>b</think>⏎```",
            vec![],
        ),
    ] {
        let completion = text(completion);
        let read = parse(&completion, thinking);
        assert_eq!(read.reasoning, reasoning.map(text), "{completion:?}");
        assert_eq!(read.content, text(content), "{completion:?}");
        assert_eq!(read.problems, problems, "{completion:?}");
        let letters = cut(&completion, &vec![1; completion.len()]);
        assert_eq!(streamed(letters.iter().map(String::as_str), thinking), read);
    }
    // A call behind an own thought is a call.
    let calls = "<think>r</think>⏎⏎<D:function_calls>⏎<D:invoke name=\"f\">⏎⏎</D:invoke>⏎</D:function_calls>";
    let read = parse(&text(calls), false);
    assert_eq!(read.tool_calls, [call("f", json!({}))]);
    assert_eq!((read.content.as_str(), read.problems.len()), ("", 0));
}

#[test]
fn reasoning_without_an_end_is_all_there_is() {
    let read = parse(
        "hm\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"f\">",
        true,
    );
    assert!(
        read.reasoning
            .unwrap()
            .starts_with("hm\n\n<｜DSML｜function_calls>")
    );
    assert_eq!(
        read.problems,
        [
            "</think> is missing: all text was read as reasoning",
            "marks were left in the reasoning: ｜DSML｜"
        ]
    );
    assert_eq!((read.content.as_str(), read.tool_calls.len()), ("", 0));
}

#[test]
fn text_after_the_end_is_dropped() {
    let read = parse("a<｜end▁of▁sentence｜>b", false);
    assert_eq!(read.content, "a");
    assert_eq!(
        read.problems,
        ["text after <｜end▁of▁sentence｜> was dropped"]
    );
    assert_eq!(
        streamed(["a<｜end▁of", "▁sentence｜>", "\n", "b"], false),
        read
    );
}

#[test]
fn text_is_held_only_while_it_is_not_certain() {
    let mut parser = CompletionParser::new(true);
    let reasoning = |text: &str| vec![Delta::Reasoning(text.into())];
    let content = |text: &str| vec![Delta::Content(text.into())];
    assert_eq!(parser.push("Let me see"), reasoning("Let me see"));
    assert_eq!(parser.push(" a<b </"), reasoning(" a<b "));
    assert_eq!(parser.push("think"), []);
    assert_eq!(parser.push(">Yes."), content("Yes."));
    assert_eq!(parser.push("\n"), []);
    assert_eq!(parser.push("1 < 2\n\n"), content("\n1 < 2"));
    assert_eq!(parser.push("<｜DSML｜"), []);
    assert_eq!(
        parser.push("function_calls>\n<｜DSML｜invoke name=\"f\">\n"),
        []
    );
    assert_eq!(
        parser.push("<｜DSML｜parameter name=\"a\" string=\"true\">x</｜DSML｜para"),
        []
    );
    assert_eq!(parser.push("meter>\n</｜DSML｜invoke"), []);
    assert_eq!(
        parser.push(">"),
        [Delta::ToolCall(call("f", json!({"a": "x"})))]
    );
    assert_eq!(parser.push("\n</｜DSML｜function_calls>"), []);
    let (last, completion) = parser.finish();
    assert_eq!(last, []);
    assert_eq!(completion.problems, [""; 0]);
    assert_eq!(completion.content, "Yes.\n1 < 2");
}

#[test]
fn a_long_parameter_is_not_read_again_and_again() {
    let mut parser = CompletionParser::new(false);
    parser.push(&text(
        "⏎⏎<D:function_calls>⏎<D:invoke name=\"f\">⏎<D:parameter name=\"a\" string=\"true\">",
    ));
    for _ in 0..500_000 {
        assert_eq!(parser.push("lo<n"), []);
    }
    let calls = parser.push(&text("</D:parameter>⏎</D:invoke>"));
    assert_eq!(
        calls,
        [Delta::ToolCall(call(
            "f",
            json!({"a": "lo<n".repeat(500_000)})
        ))]
    );
}

#[test]
fn endless_beginnings_do_not_hold_the_text() {
    let mut parser = CompletionParser::new(false);
    let start = text("<D:function_calls>⏎<D:invoke name=\"");
    assert_eq!(parser.push(&start), []);
    let given: Vec<Delta> = (0..2000).flat_map(|_| parser.push("x")).collect();
    assert!(!given.is_empty());
    assert_eq!(parser.finish().1.content, start + &"x".repeat(2000));
}

/// A piece of JSON as a model may write it.
fn some_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1000_i32..1000).prop_map(|eighths| Value::from(f64::from(eighths) / 8.0)),
        "[a-c<>\"{}\\\\\n é｜]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec(("[a-z<é ]{0,4}", inner), 0..4)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

fn some_reply() -> impl Strategy<Value = Message> {
    let arguments = prop::collection::vec(("[a-zé<>.$ ]{1,6}", some_value()), 0..4)
        .prop_map(|entries| Value::Object(entries.into_iter().collect()));
    let calls = prop::collection::vec(("[a-z_.]{1,8}", arguments), 0..4);
    let content = "[a-c<>\n é｜]{0,20}|\\PC{0,10}";
    (content, "[a-c</think\n é｜]{1,20}", calls).prop_map(|(content, reasoning, calls)| Message {
        reasoning_content: Some(reasoning),
        tool_calls: calls
            .into_iter()
            .map(|(name, value)| call(&name, value))
            .collect(),
        ..Message::new(Role::Assistant, content)
    })
}

/// Parts of well-formed and mangled completions, in any order.
fn some_mess() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec![
        "⏎⏎<D:function_calls>⏎<D:invoke name=\"f\">⏎",
        "<D:parameter name=\"a\" string=\"true\">x</D:parameter>",
        "</D:invoke>⏎</D:function_calls>",
        "<D:function_calls>",
        "<function_calls>",
        "</D:function_calls>",
        "</function_calls>",
        "<D:invoke name=\"f\">",
        "<invoke name=\"g\">",
        "<D:invoke",
        " name=\"",
        "</D:invoke>",
        "</invoke>",
        "<D:parameter name=\"a\" string=\"true\">",
        "<parameter name=\"b\">",
        "<D:parameter name=\"c\" string=\"false\">",
        "</D:parameter>",
        "</parameter>",
        "{\"k\": [1, \"}\"]}",
        "{",
        "}",
        "\"",
        "\\",
        "12",
        "é",
        "text",
        " ",
        "⏎",
        "⏎⏎",
        "<",
        "</",
        ">",
        "D:",
        "</think>",
        "<think>",
        "⏎```⏎",
        "```",
        "~~~",
        "<｜tool▁calls▁begin｜>",
        EOS,
        "<｜end",
    ]);
    prop::collection::vec(part, 0..16).prop_map(|parts| text(&parts.concat()))
}

fn cut(text: &str, lengths: &[usize]) -> Vec<String> {
    let mut characters = text.chars();
    let mut pieces: Vec<String> = lengths
        .iter()
        .map(|&n| characters.by_ref().take(n).collect())
        .collect();
    pieces.push(characters.collect());
    pieces
}

proptest! {
    #![proptest_config(Config {
        rng_seed: RngSeed::Fixed(32),
        failure_persistence: None,
        ..Config::with_cases(4000)
    })]

    #[test]
    fn what_was_encoded_comes_back(
        reply in some_reply(),
        thinking in any::<bool>(),
        lengths in prop::collection::vec(0_usize..9, 0..60),
    ) {
        let options = EncodeOptions { thinking, ..EncodeOptions::default() };
        let question = Message::new(Role::User, "?");
        let encoded = encode_after(&[question], std::slice::from_ref(&reply), &options).unwrap();
        let encoded = text_of(&encoded);
        let read = parse(&encoded, thinking);
        prop_assert_eq!(&read.problems, &[""; 0]);
        prop_assert_eq!(&read.content, &reply.content);
        prop_assert_eq!(&read.reasoning, &reply.reasoning_content.filter(|_| thinking));
        prop_assert_eq!(&read.tool_calls, &reply.tool_calls);
        let pieces = cut(&encoded, &lengths);
        prop_assert_eq!(streamed(pieces.iter().map(String::as_str), thinking), read);
    }

    #[test]
    fn any_cut_gives_the_same(
        mess in some_mess(),
        thinking in prop::bool::weighted(0.2),
        lengths in prop::collection::vec(0_usize..9, 0..60),
    ) {
        let read = parse(&mess, thinking);
        let pieces = cut(&mess, &lengths);
        prop_assert_eq!(&streamed(pieces.iter().map(String::as_str), thinking), &read);
        let characters = cut(&mess, &vec![1; mess.len()]);
        prop_assert_eq!(&streamed(characters.iter().map(String::as_str), thinking), &read);
    }
}
