//! Messages as the world writes them, and what of them the encoding takes or refuses.

use engine::chat::{
    BOS, EncodeOptions, Message, Role, ToolCall, encode, encode_after, from_request,
};
use engine::tokenizer::text_of;
use serde_json::{Value, json};

#[test]
fn requests_are_read_and_written() {
    let request = json!({
        "role": "assistant",
        "content": null,
        "reasoning_content": "r",
        "tool_calls": [{
            "id": "call_0",
            "type": "function",
            "function": {"name": "f", "arguments": "{\"z\":1.0,\"a\":[\"é\",18446744073709551615]}"},
        }],
    });
    let message: Message = serde_json::from_value(request).unwrap();
    let expected = Message {
        reasoning_content: Some("r".into()),
        tool_calls: vec![ToolCall {
            id: Some("call_0".into()),
            name: "f".into(),
            arguments: json!({"z": 1.0, "a": ["é", u64::MAX]}),
        }],
        ..Message::new(Role::Assistant, "")
    };
    assert_eq!(message, expected);
    assert_eq!(
        serde_json::to_string(&message).unwrap(),
        r#"{"role":"assistant","content":"","reasoning_content":"r","tool_calls":[{"id":"call_0","type":"function","function":{"name":"f","arguments":"{\"z\": 1.0, \"a\": [\"é\", 18446744073709551615]}"}}]}"#
    );
    let again = serde_json::from_value(serde_json::to_value(&message).unwrap()).unwrap();
    assert_eq!(message, again);
}

fn calling(id: Option<&str>, arguments: Value) -> Message {
    Message {
        tool_calls: vec![ToolCall {
            id: id.map(Into::into),
            name: "f".into(),
            arguments,
        }],
        ..Message::new(Role::Assistant, "")
    }
}

#[test]
fn loose_forms_are_understood() {
    let thinking = |reasoning: &str| Message {
        reasoning_content: Some(reasoning.into()),
        ..Message::new(Role::Assistant, "a")
    };
    let result = |id: Option<&str>, name: Option<&str>| Message {
        tool_call_id: id.map(Into::into),
        name: name.map(Into::into),
        ..Message::new(Role::Tool, "12")
    };
    for (request, expected) in [
        (json!({"role": "user"}), Message::new(Role::User, "")),
        (
            json!({
                "role": "user",
                "content": [
                    {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}},
                    {"type": "text", "text": "b", "annotations": null},
                ],
                "reasoning_content": null,
                "reasoning": null,
                "tool_calls": null,
                "function_call": null,
                "tool_call_id": null,
                "tools": null,
                "response_format": null,
                "refusal": null,
                "audio": null,
                "attachments": [],
                "prefix": false,
                "metadata": {"a": 1},
                "id": "msg_1",
            }),
            Message::new(Role::User, "ab"),
        ),
        (
            json!({"role": "user", "content": "a", "name": "somebody"}),
            Message {
                name: Some("somebody".into()),
                ..Message::new(Role::User, "a")
            },
        ),
        (
            json!({"role": "assistant", "content": "a", "reasoning": "r"}),
            thinking("r"),
        ),
        (
            json!({"role": "assistant", "content": "a", "reasoning": "", "reasoning_content": "r"}),
            thinking("r"),
        ),
        (
            json!({"role": "assistant", "content": "a", "reasoning": "r", "reasoning_content": ""}),
            thinking("r"),
        ),
        (
            json!({"role": "assistant", "content": "a", "reasoning": "r", "reasoning_content": "r"}),
            thinking("r"),
        ),
        (
            json!({"role": "tool", "content": "12", "tool_call_id": "a", "name": "f"}),
            result(Some("a"), Some("f")),
        ),
        (
            json!({"role": "tool", "content": "12", "tool_call_id": "", "name": ""}),
            result(None, None),
        ),
        (
            json!({"role": "function", "content": "12", "name": "f"}),
            result(None, Some("f")),
        ),
        (
            json!({"role": "assistant", "content": null, "function_call": {"name": "f", "arguments": "{\"a\":1}"}}),
            calling(None, json!({"a": 1})),
        ),
        (
            json!({"role": "assistant", "tool_calls": [], "function_call": {"name": "f"}}),
            calling(None, json!({})),
        ),
    ] {
        let message: Message = serde_json::from_value(request).unwrap();
        assert_eq!(message, expected);
        let again = serde_json::from_value(serde_json::to_value(&message).unwrap()).unwrap();
        assert_eq!(message, again);
    }
}

#[test]
fn arguments_come_in_many_forms_and_none_are_an_empty_object() {
    for (arguments, expected) in [
        (json!({"arguments": {"a": 1}}), json!({"a": 1})),
        (json!({"arguments": "{\"a\": 1}"}), json!({"a": 1})),
        (json!({"arguments": ""}), json!({})),
        (json!({"arguments": " \r\n\t"}), json!({})),
        (json!({"arguments": null}), json!({})),
        (json!({"arguments": "null"}), json!({})),
        (json!({"arguments": {}}), json!({})),
        (json!({}), json!({})),
        // Kept, and refused when it is encoded.
        (json!({"arguments": "{no"}), json!("{no")),
        (json!({"arguments": [1]}), json!([1])),
    ] {
        let mut function = arguments;
        function["name"] = "f".into();
        let call = json!({"role": "assistant", "tool_calls": [{"id": "a", "index": 0, "function": function}]});
        let message: Message = serde_json::from_value(call).unwrap();
        assert_eq!(message, calling(Some("a"), expected), "{function}");
    }
}

#[test]
fn tools_beside_the_messages_are_those_of_the_system() {
    let user = json!({"role": "user", "content": "hi"});
    let system = json!({"role": "system", "content": "S.", "tools": [1]});
    for tools in [json!(null), json!([])] {
        let messages = from_request(vec![user.clone()], tools).unwrap();
        assert_eq!(messages, [Message::new(Role::User, "hi")]);
    }
    let messages = from_request(vec![user.clone()], json!([2])).unwrap();
    assert_eq!((messages.len(), &messages[0].tools), (2, &vec![json!(2)]));
    let messages = from_request(vec![system, user.clone()], json!([2])).unwrap();
    assert_eq!(
        (messages.len(), &messages[0].tools),
        (2, &vec![json!(1), json!(2)])
    );
    let error = from_request(vec![user.clone()], json!({})).unwrap_err();
    assert_eq!(error, "\"tools\" is not a list");
    let error = from_request(vec![user, json!({"role": "robot"})], json!(null)).unwrap_err();
    assert!(
        error.starts_with("message 1: unknown variant `robot`"),
        "{error}"
    );
}

#[test]
fn what_is_no_message_or_would_be_lost_is_refused() {
    let call = json!({"function": {"name": "f"}});
    for (request, refusal) in [
        (
            json!({"role": "robot"}),
            "unknown variant `robot`, expected one of",
        ),
        (json!({"content": "a"}), "missing field `role`"),
        (
            json!({"role": "user", "content": 5}),
            "content is neither a string nor a list",
        ),
        (
            json!({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}),
            "content has a part of type \"image_url\", expected",
        ),
        (
            json!({"role": "user", "content": [{"type": "text"}]}),
            "content has a part that is no text, expected",
        ),
        (
            json!({"role": "user", "content": ["a"]}),
            "content has a part that is no text, expected",
        ),
        (
            json!({"role": "user", "content": [{"type": "text", "text": "a", "image": "x"}]}),
            "a part of the content has the key \"image\"",
        ),
        (
            json!({"role": "assistant", "tool_calls": [{"type": "custom", "function": {"name": "f", "arguments": ""}}]}),
            "tool call has type \"custom\", expected \"function\"",
        ),
        (
            json!({"role": "assistant", "tool_calls": [{}]}),
            "missing field `function`",
        ),
        (
            json!({"role": "assistant", "tool_calls": [{"function": {"name": "f", "parameters": {"a": 1}}}]}),
            "a call's function has the key \"parameters\"",
        ),
        (
            json!({"role": "assistant", "tool_calls": [{"function": {"name": "f"}, "result": "x"}]}),
            "a tool call has the key \"result\"",
        ),
        (
            json!({"role": "assistant", "tool_calls": [call], "function_call": {"name": "f"}}),
            "a message has tool_calls and function_call",
        ),
        (
            json!({"role": "assistant", "reasoning": "a", "reasoning_content": "b"}),
            "reasoning_content and reasoning differ",
        ),
        (
            json!({"role": "assistant", "refusal": "No."}),
            "a message has the key \"refusal\"",
        ),
        (
            json!({"role": "user", "images": ["x"]}),
            "a message has the key \"images\"",
        ),
    ] {
        let error = serde_json::from_value::<Message>(request)
            .unwrap_err()
            .to_string();
        assert!(error.starts_with(refusal), "{error}");
    }
}

#[test]
fn a_role_is_called_the_same_in_json() {
    for role in [
        Role::System,
        Role::Developer,
        Role::User,
        Role::Assistant,
        Role::Tool,
    ] {
        assert_eq!(serde_json::to_value(role).unwrap(), role.name());
    }
}

const THINKING: EncodeOptions = EncodeOptions {
    thinking: true,
    drop_thinking: true,
    add_bos: true,
};

fn messages(json: Value) -> Vec<Message> {
    serde_json::from_value(json).unwrap()
}

fn encoded(json: Value, options: EncodeOptions) -> String {
    text_of(&encode(&messages(json), &options).unwrap())
}

#[test]
fn every_refusal_names_the_message_and_what_was_expected() {
    let call = json!({"function": {"name": "f", "arguments": "{}"}});
    for (conversation, refusal) in [
        (
            json!([{"role": "developer"}]),
            "message 0: a developer message has no content, expected some",
        ),
        (
            json!([{"role": "tool", "content": "x"}]),
            "message 0: this is tool result 1, expected at most 0: as many as the reply before has tool calls",
        ),
        (
            json!([{"role": "user", "content": "?"}, {"role": "tool", "content": "x"}]),
            "message 1: this is tool result 1, expected at most 0: as many as the reply before has tool calls",
        ),
        (
            json!([
                {"role": "user", "content": "?"},
                {"role": "assistant", "tool_calls": [call]},
                {"role": "tool", "content": "x"},
                {"role": "tool", "content": "y"},
            ]),
            "message 3: this is tool result 2, expected at most 1: as many as the reply before has tool calls",
        ),
        (
            json!([
                {"role": "assistant", "tool_calls": [call, call], "reasoning_content": "r"},
                {"role": "tool", "content": "x"},
                {"role": "user", "content": "?"},
            ]),
            "message 2: a user message after 1 of 2 tool results, expected the other results first",
        ),
        (
            json!([{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]),
            "message 1: the reply has neither reasoning nor tool calls, expected one of them after the last question in thinking mode",
        ),
        (
            json!([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]}]),
            "message 0: arguments of the call of \"f\" are [1], expected a JSON object",
        ),
        (
            json!([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]),
            "message 0: arguments of the call of \"f\" are \"{\", expected a JSON object",
        ),
        (
            json!([{"role": "user", "tools": [{"type": "function", "function": {}}]}]),
            "message 0: a user message has tools or a response format, expected them on a system or developer message",
        ),
        (
            json!([{"role": "user", "content": "?", "tool_calls": [call]}]),
            "message 0: a user message has tool calls, expected them on assistant messages",
        ),
        (
            json!([{"role": "system", "tools": [{"name": "f"}]}]),
            "message 0: a tool is {\"name\":\"f\"}, expected {\"type\": \"function\", \"function\": {\"name\": …}}",
        ),
        (
            json!([{"role": "system", "tools": [{"type": "function", "function": null}]}]),
            "message 0: a tool is {\"type\":\"function\",\"function\":null}, expected",
        ),
        (
            json!([{"role": "system", "tools": [{"function": {"name": ""}}]}]),
            "message 0: a tool is {\"function\":{\"name\":\"\"}}, expected",
        ),
        (
            json!([{"role": "system", "tools": [{"type": "custom", "function": {"name": "f"}}]}]),
            "message 0: a tool is {\"type\":\"custom\",",
        ),
        (
            json!([{"role": "system", "tools": [{"function": {"name": "f"}, "strict": true}]}]),
            "message 0: tool \"f\" has the key \"strict\", which has no place in the encoding",
        ),
    ] {
        let error = encode(&messages(conversation), &THINKING).unwrap_err();
        assert!(error.to_string().starts_with(refusal), "{error}");
    }
}

fn call(id: Value, name: &str) -> Value {
    json!({"id": id, "type": "function", "function": {"name": name, "arguments": ""}})
}

fn result(id: Value, content: &str) -> Value {
    json!({"role": "tool", "tool_call_id": id, "content": content})
}

/// A reply with calls of `f` and `g`, and results, once and then again.
fn twice(ids: [Value; 2], results: &[Value]) -> Value {
    let [first, second] = ids;
    let reply = json!({"role": "assistant", "tool_calls": [call(first, "f"), call(second, "g")]});
    let mut all = vec![json!({"role": "user", "content": "?"})];
    for _ in 0..2 {
        all.push(reply.clone());
        all.extend_from_slice(results);
    }
    all.into()
}

#[test]
fn results_stand_in_the_order_of_the_calls() {
    let null = || json!(null);
    let ids = || [json!("a"), json!("b")];
    let options = EncodeOptions::default();
    let expected = encoded(
        twice(
            [null(), null()],
            &[result(null(), "x"), result(null(), "y")],
        ),
        options,
    );
    assert_eq!(
        expected
            .matches("<result>x</result>\n<result>y</result>")
            .count(),
        2,
        "{expected}"
    );
    for conversation in [
        twice(ids(), &[result(json!("a"), "x"), result(json!("b"), "y")]),
        twice(ids(), &[result(json!("b"), "y"), result(json!("a"), "x")]),
        // Without ids they come in order.
        twice(ids(), &[result(null(), "x"), result(json!(""), "y")]),
        twice(
            ids(),
            &[
                json!({"role": "tool", "tool_call_id": "b", "name": "g", "content": "y"}),
                json!({"role": "tool", "tool_call_id": "a", "name": "f", "content": "x"}),
            ],
        ),
    ] {
        assert_eq!(encoded(conversation.clone(), options), expected);
        // In two parts, wherever the order allows.
        let all = messages(conversation);
        for cut in [2, 4, 5, 7] {
            let (context, rest) = all.split_at(cut);
            let parts = [
                encode(context, &options).unwrap(),
                encode_after(context, rest, &options).unwrap(),
            ];
            assert_eq!(text_of(&parts.concat()), expected);
        }
    }
    let older = json!([
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": null, "function_call": {"name": "f", "arguments": "{\"a\": 1}"}},
        {"role": "function", "name": "f", "content": "x"},
    ]);
    let newer = json!([
        {"role": "user", "content": "?"},
        {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": {"a": 1}}}]},
        {"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "x"}]},
    ]);
    assert_eq!(encoded(older, THINKING), encoded(newer, THINKING));
}

#[test]
fn results_of_no_call_are_refused_by_name() {
    let ids = || [json!("a"), json!("b")];
    let same = || [json!("a"), json!("a")];
    let none = || [json!(null), json!(null)];
    let x = |id: Value| result(id, "x");
    let named = json!({"role": "tool", "tool_call_id": "a", "name": "g", "content": "x"});
    for (conversation, refusal) in [
        (
            twice(ids(), &[x(json!("zzz")), x(json!("b"))]),
            "message 2: tool_call_id is \"zzz\", and the calls before have \"a\", \"b\"",
        ),
        (
            twice(ids(), &[x(json!("b")), x(json!("b"))]),
            "message 3: a second result of the tool call \"b\", expected one",
        ),
        (
            twice(ids(), &[x(json!("b")), x(json!("a")), x(json!("c"))]),
            "message 4: tool_call_id is \"c\", and the calls before have \"a\", \"b\"",
        ),
        (
            twice(none(), &[x(json!("a")), x(json!("b"))]),
            "message 2: tool_call_id is \"a\", and the calls before have no ids",
        ),
        (
            twice(ids(), &[x(json!("b")), x(json!(null))]),
            "message 3: the result has no tool_call_id, expected one, as other results have",
        ),
        (
            twice(same(), &[x(json!("a")), x(json!("a"))]),
            "message 1: two tool calls have the id \"a\", expected one",
        ),
        (
            twice(ids(), &[x(json!("b")), named]),
            "message 3: the result is of \"g\", expected one of \"f\"",
        ),
        (
            twice(ids(), &[x(json!("b"))]),
            "message 3: an assistant message after 1 of 2 tool results, expected the other results first",
        ),
        (
            json!([{"role": "assistant", "tool_calls": [call(json!("a"), "f"), call(json!("b"), "g")]}, x(json!("b"))]),
            "message 2: the conversation ends after 1 of 2 tool results, expected the other results first",
        ),
        (
            json!([{"role": "user", "content": "?"}, x(json!("a"))]),
            "message 1: tool_call_id is \"a\", and the calls before have no ids",
        ),
        (
            json!([{"role": "user", "content": "?", "tool_call_id": "a"}]),
            "message 0: a user message has a tool_call_id, expected it on tool results",
        ),
        (
            json!([{"role": "user", "content": "?", "reasoning": "r"}]),
            "message 0: a user message has reasoning, expected it on assistant messages",
        ),
    ] {
        let error = encode(&messages(conversation), &EncodeOptions::default()).unwrap_err();
        assert_eq!(error.to_string(), refusal);
    }
    let crossed = messages(twice(ids(), &[x(json!("b")), x(json!("a"))]));
    let (context, rest) = crossed.split_at(3);
    let error = encode_after(context, rest, &EncodeOptions::default())
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("message 2: tool results of one reply stand in context and messages"),
        "{error}"
    );
}

#[test]
fn a_developer_speaks_as_a_user() {
    let conversation = json!([
        {"role": "developer", "content": "old", "response_format": {"type": "object"}},
        {"role": "assistant", "content": "a", "reasoning_content": "r"},
        {"role": "developer", "content": "new"},
    ]);
    let old = "<｜User｜>\n\n## Response Format:\n\nYou MUST strictly adhere to the following \
               schema to reply:\n{\"type\": \"object\"}\n\n# The user's message is: old\
               <｜Assistant｜></think>";
    let rest = "a<｜end▁of▁sentence｜><｜User｜>\n\n# The user's message is: new<｜Assistant｜>";
    let no_bos = EncodeOptions {
        add_bos: false,
        ..EncodeOptions::default()
    };
    assert_eq!(
        encoded(conversation.clone(), no_bos),
        format!("{old}{rest}</think>")
    );
    // Thinking leaves out an old developer message, and nothing else with it.
    assert_eq!(
        encoded(conversation.clone(), THINKING),
        format!("{BOS}{rest}<think>")
    );
    let kept = EncodeOptions {
        drop_thinking: false,
        ..THINKING
    };
    assert_eq!(
        encoded(conversation, kept),
        format!("{BOS}{old}{rest}<think>")
    );
}

#[test]
fn what_python_takes_for_nothing_is_no_response_format() {
    for nothing in [
        json!(null),
        json!({}),
        json!(""),
        json!(0.0),
        json!(false),
        json!([]),
    ] {
        let system = json!([{"role": "system", "response_format": nothing}]);
        assert_eq!(encoded(system, THINKING), BOS);
    }
    assert_eq!(encoded(json!([]), THINKING), BOS);
}

#[test]
fn a_call_without_results_may_be_left_behind() {
    let conversation = json!([
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{\"a\":1.0}"}}]},
        {"role": "user", "content": "?"},
    ]);
    let text = encoded(conversation, EncodeOptions::default());
    assert!(
        text.contains("string=\"false\">1.0</｜DSML｜parameter>"),
        "{text}"
    );
    assert!(
        text.ends_with("<｜end▁of▁sentence｜><｜User｜>?<｜Assistant｜></think>"),
        "{text}"
    );
}
