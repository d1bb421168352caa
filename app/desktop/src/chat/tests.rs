#![allow(clippy::unwrap_used, reason = "a test may fail by panic")]

use std::time::{Duration, Instant};

use egui::{Key, Modifiers, OutputCommand, Theme, vec2};
use egui_kittest::Harness;
use egui_kittest::kittest::Queryable as _;
use serde_json::json;

use super::*;

/// A message with everything owned.
#[derive(Clone, Default)]
struct Owned {
    id: u64,
    role: Option<Role>,
    content: String,
    thinking: Option<(String, Option<f64>, bool)>,
    tool_calls: Vec<ToolCall>,
    tokens: Option<Vec<(usize, String)>>,
    branch: Option<(usize, usize)>,
    facts: Option<FactsView<'static>>,
    state: Option<MessageState<'static>>,
}

fn user(id: u64, content: &str) -> Owned {
    Owned {
        id,
        content: content.into(),
        role: Some(Role::User),
        ..Owned::default()
    }
}

fn answer(id: u64, content: &str) -> Owned {
    Owned {
        role: Some(Role::Assistant),
        ..user(id, content)
    }
}

struct Fixture {
    state: ChatState,
    conversation: u64,
    messages: Vec<Owned>,
    composer: ComposerView<'static>,
    model: Option<&'static str>,
    selected: Option<usize>,
    actions: Vec<ChatAction>,
    /// CPU time of `chat_ui` in each pass.
    times: Vec<Duration>,
}

impl Fixture {
    fn new(messages: Vec<Owned>) -> Self {
        Self {
            state: ChatState::default(),
            conversation: 1,
            messages,
            composer: ComposerView::default(),
            model: Some("Tiny"),
            selected: None,
            actions: Vec::new(),
            times: Vec::new(),
        }
    }

    fn ui(&mut self, ui: &mut Ui) {
        let tokens: Vec<Option<Vec<TokenSpan<'_>>>> = self
            .messages
            .iter()
            .map(|message| {
                let tokens = message
                    .tokens
                    .as_ref()?
                    .iter()
                    .map(|(position, text)| TokenSpan {
                        position: *position,
                        text,
                        tint: (position % 3 == 0).then_some(Color32::from_rgb(200, 120, 0)),
                        is_selected: self.selected == Some(*position),
                        is_hovered: position % 7 == 0,
                    });
                Some(tokens.collect())
            })
            .collect();
        let views: Vec<MessageView<'_>> = self
            .messages
            .iter()
            .zip(&tokens)
            .map(|(message, tokens)| MessageView {
                id: message.id,
                role: message.role.unwrap_or(Role::User),
                content: &message.content,
                thinking: message
                    .thinking
                    .as_ref()
                    .map(|(text, seconds, is_running)| ThinkingView {
                        text,
                        seconds: *seconds,
                        is_running: *is_running,
                    }),
                tool_calls: &message.tool_calls,
                tokens: tokens.as_deref(),
                branch: message.branch.map(|(index, count)| BranchView {
                    index,
                    count,
                    label: Some("edited"),
                }),
                facts: message.facts,
                state: message.state.unwrap_or(MessageState::Done),
                can_inspect: message.role == Some(Role::Assistant),
            })
            .collect();
        let view = ChatView {
            conversation: self.conversation,
            messages: &views,
            composer: self.composer,
            model: self.model,
        };
        let start = Instant::now();
        chat_ui(ui, &mut self.state, &view, &mut self.actions);
        self.times.push(start.elapsed());
    }
}

fn harness_in(theme: Theme, mut fixture: Fixture) -> Harness<'static, Fixture> {
    fixture.state.composer.focus();
    let mut harness = Harness::builder()
        .with_size(vec2(900.0, 800.0))
        .with_theme(theme)
        .with_max_steps(60)
        .with_context_setup(|ctx| {
            let mut fonts = egui::FontDefinitions::default();
            math::add_glyphs(&mut fonts);
            ctx.set_fonts(fonts);
        })
        .allow_missing_glyphs()
        .build_ui_state(|ui, fixture: &mut Fixture| fixture.ui(ui), fixture);
    harness.run();
    harness
}

fn harness(fixture: Fixture) -> Harness<'static, Fixture> {
    harness_in(Theme::Dark, fixture)
}

fn click(harness: &mut Harness<'_, Fixture>, label: &str) {
    harness.get_by_label(label).click();
    harness.run();
}

fn taken(harness: &mut Harness<'_, Fixture>) -> Vec<ChatAction> {
    let mut actions = std::mem::take(&mut harness.state_mut().actions);
    actions.retain(|action| !matches!(action, ChatAction::HoverToken(_)));
    actions
}

/// Clicks and says what went to the clipboard.
fn copied(harness: &mut Harness<'_, Fixture>, label: &str) -> Option<String> {
    harness.get_by_label(label).click();
    harness.step();
    let commands = &harness.output().platform_output.commands;
    let text = commands.iter().find_map(|command| match command {
        OutputCommand::CopyText(text) => Some(text.clone()),
        _ => None,
    });
    harness.run();
    text
}

#[test]
fn a_message_is_sent_by_button_and_by_enter() {
    let mut harness = harness(Fixture::new(vec![]));
    harness.get_by_label("Message").type_text("hello");
    harness.run();
    click(&mut harness, "Send");
    assert_eq!(taken(&mut harness), [ChatAction::Send("hello".into())]);
    assert!(harness.state().state.composer.is_empty());
    // The box has the keyboard again.
    harness.get_by_label("Message").type_text("more");
    harness.run();
    harness.key_press_modifiers(Modifiers::SHIFT, Key::Enter);
    harness.run();
    harness.get_by_label("Message").type_text("lines");
    harness.run();
    harness.key_press(Key::Enter);
    harness.run();
    assert_eq!(
        taken(&mut harness),
        [ChatAction::Send("more\nlines".into())]
    );
    // Nothing but spaces is nothing.
    harness.get_by_label("Message").type_text("  ");
    harness.run();
    harness.key_press(Key::Enter);
    harness.run();
    assert_eq!(taken(&mut harness), []);
}

#[test]
fn stop_is_there_while_something_runs() {
    let mut fixture = Fixture::new(vec![user(1, "q"), answer(2, "a")]);
    fixture.composer.is_running = true;
    fixture.composer.prefill = Some((1200, 3400));
    fixture.messages[1].state = Some(MessageState::Waiting);
    let mut harness = harness(fixture);
    assert!(harness.query_by_label("Send").is_none());
    assert_eq!(
        harness
            .query_all_by_label("Reading 1,200 of 3,400 tokens")
            .count(),
        2
    );
    click(&mut harness, "Stop");
    harness.state_mut().state.composer.focus();
    harness.run();
    harness.key_press(Key::Escape);
    harness.run();
    assert_eq!(taken(&mut harness), [ChatAction::Stop, ChatAction::Stop]);
    // What is written while an answer runs is kept and not sent.
    harness.state_mut().state.composer.focus();
    harness.run();
    harness.get_by_label("Message").type_text("later");
    harness.run();
    harness.key_press(Key::Enter);
    harness.run();
    assert_eq!(taken(&mut harness), []);
    assert_eq!(harness.state().state.composer.text(), "later");
}

#[test]
fn answers_are_regenerated_continued_inspected_and_copied() {
    let mut harness = harness(Fixture::new(vec![user(5, "q"), answer(6, "**a**")]));
    click(&mut harness, "Regenerate message 2");
    click(&mut harness, "Continue message 2");
    click(&mut harness, "Inspect message 2");
    assert_eq!(
        taken(&mut harness),
        [
            ChatAction::Regenerate { id: 6 },
            ChatAction::Continue { id: 6 },
            ChatAction::InspectMessage { id: 6 },
        ]
    );
    assert!(harness.query_by_label("Regenerate message 1").is_none());
    assert_eq!(
        copied(&mut harness, "Copy message 2").as_deref(),
        Some("**a**")
    );
    harness.get_by_label("a");
    click(&mut harness, "Raw text of message 2");
    harness.get_by_label("**a**");
    click(&mut harness, "Formatted of message 2");
    harness.get_by_label("a");
}

#[test]
fn messages_are_edited_into_branches() {
    let mut harness = harness(Fixture::new(vec![user(5, "q"), answer(6, "a")]));
    click(&mut harness, "Edit message 1");
    harness.run();
    harness.get_by_label("Text of message 1").type_text("!");
    harness.run();
    click(&mut harness, "Ask message 1 again");
    click(&mut harness, "Edit message 2");
    harness.run();
    harness.get_by_label("Text of message 2").type_text("b");
    harness.run();
    assert!(harness.query_by_label("Ask message 2 again").is_none());
    click(&mut harness, "Keep message 2 as a branch");
    let actions = taken(&mut harness);
    let [
        ChatAction::EditAndAsk { id: 5, text: asked },
        ChatAction::EditAndKeep { id: 6, text: kept },
    ] = &actions[..]
    else {
        panic!("{actions:?}");
    };
    assert!(asked.contains('!') && asked.contains('q'), "{asked}");
    assert!(kept.contains('b') && kept.contains('a'), "{kept}");
    click(&mut harness, "Edit message 1");
    harness.key_press(Key::Escape);
    harness.run();
    assert!(harness.query_by_label("Text of message 1").is_none());
    click(&mut harness, "Edit message 1");
    click(&mut harness, "Cancel the edit of message 1");
    assert!(harness.query_by_label("Text of message 1").is_none());
    assert_eq!(taken(&mut harness), []);
}

#[test]
fn branches_are_chosen_by_arrows() {
    let mut fixture = Fixture::new(vec![user(1, "q"), answer(2, "a")]);
    fixture.messages[1].branch = Some((1, 3));
    fixture.messages[0].branch = Some((0, 1));
    let mut harness = harness(fixture);
    harness.get_by_label("2/3");
    harness.get_by_label("edited");
    assert!(harness.query_by_label("1/1").is_none());
    click(&mut harness, "Previous version of message 2");
    click(&mut harness, "Next version of message 2");
    assert_eq!(
        taken(&mut harness),
        [
            ChatAction::SelectBranch { id: 2, index: 0 },
            ChatAction::SelectBranch { id: 2, index: 2 }
        ]
    );
    harness.state_mut().messages[1].branch = Some((2, 3));
    harness.run();
    click(&mut harness, "Next version of message 2");
    assert_eq!(taken(&mut harness), []);
}

#[test]
fn thinking_closes_when_the_answer_begins_and_opens_on_demand() {
    let mut fixture = Fixture::new(vec![user(1, "q"), answer(2, "")]);
    fixture.messages[1].thinking = Some(("I wonder".into(), None, true));
    fixture.messages[1].state = Some(MessageState::Streaming);
    let mut harness = harness(fixture);
    harness.get_by_label("I wonder");
    harness.get_by_label("Thinking…. Hide the thinking of message 2");
    harness.state_mut().messages[1].thinking = Some(("I wonder".into(), Some(3.24), false));
    harness.state_mut().messages[1].content = "It is so".into();
    harness.run();
    assert!(harness.query_by_label("I wonder").is_none());
    harness.get_by_label("It is so");
    click(
        &mut harness,
        "Thought for 3.2 s. Show the thinking of message 2",
    );
    harness.get_by_label("I wonder");
    click(
        &mut harness,
        "Thought for 3.2 s. Hide the thinking of message 2",
    );
    assert!(harness.query_by_label("I wonder").is_none());
}

#[test]
fn tool_calls_code_and_facts_are_shown() {
    let mut fixture = Fixture::new(vec![
        user(1, "q"),
        answer(2, "See:\n\n```rust\nlet x = 1;\n```\n"),
    ]);
    fixture.messages[1].tool_calls = vec![ToolCall {
        id: None,
        name: "weather".into(),
        arguments: json!({"city": "Rome"}),
    }];
    fixture.messages[1].facts = Some(FactsView {
        tokens_per_second: Some(12.34),
        first_token_seconds: Some(0.4),
        n_prompt: Some(1200),
        n_generated: Some(30),
        stop: stop_words(&Stop::Length),
        model: Some("tiny"),
    });
    let mut harness = harness(fixture);
    harness.get_by_label("weather");
    harness.get_by_label_contains("\"city\": \"Rome\"");
    harness.get_by_label(
        "12.3 tokens/s · first token after 400 ms · 1,200 tokens read, 30 written · \
         reached the most tokens an answer may have · tiny",
    );
    assert_eq!(
        copied(&mut harness, "Copy code").as_deref(),
        Some("let x = 1;")
    );
    let call = copied(&mut harness, "Copy the call of weather").unwrap();
    assert!(call.starts_with("weather {") && call.contains("Rome"));
}

#[test]
fn times_that_were_not_measured_are_left_out() {
    for nothing in [f64::NAN, f64::INFINITY, -1.0] {
        let facts = FactsView {
            tokens_per_second: Some(nothing),
            first_token_seconds: Some(nothing),
            n_generated: Some(0),
            ..FactsView::default()
        };
        assert_eq!(message::facts_line(&facts), "0 tokens written");
    }
    assert_eq!(message::facts_line(&FactsView::default()), "");
}

#[test]
fn stopped_and_failed_answers_say_so() {
    let mut fixture = Fixture::new(vec![answer(1, "half"), answer(2, "")]);
    fixture.messages[0].state = Some(MessageState::Stopped);
    fixture.messages[1].state = Some(MessageState::Failed("the device was lost"));
    let harness = harness(fixture);
    harness.get_by_label("half");
    harness.get_by_label("Stopped");
    harness.get_by_label("Failed: the device was lost");
    harness.get_by_label("Regenerate message 2");
}

#[test]
fn tokens_are_clicked_and_hovered() {
    let words = [
        "Once", " upon", "\n", "", " a", "\n\n", "time", "\u{7}", "é",
    ];
    let mut fixture = Fixture::new(vec![user(1, "q"), answer(2, "Once upon")]);
    let tokens = words
        .iter()
        .enumerate()
        .map(|(i, word)| (10 + i, (*word).to_owned()));
    fixture.messages[1].tokens = Some(tokens.collect());
    fixture.selected = Some(14);
    let mut harness = harness(fixture);
    for (i, word) in words.iter().enumerate() {
        let label = format!("Token {}: {word}", 10 + i);
        let node = harness.get_by_label(&label);
        assert!(
            node.rect().width() > 0.5 && node.rect().height() > 5.0,
            "{label}"
        );
        node.click();
        harness.run();
        assert_eq!(
            taken(&mut harness),
            [ChatAction::InspectToken(10 + i)],
            "{label}"
        );
    }
    // In lines as in the text.
    let y =
        |harness: &Harness<'_, Fixture>, label: &str| harness.get_by_label(label).rect().center().y;
    assert_eq!(
        y(&harness, "Token 10: Once"),
        y(&harness, "Token 11:  upon")
    );
    assert!(y(&harness, "Token 14:  a") > y(&harness, "Token 11:  upon") + 5.0);
    harness.get_by_label("Token 16: time").hover();
    harness.run();
    assert_eq!(
        harness.state_mut().actions.pop(),
        Some(ChatAction::HoverToken(Some(16)))
    );
    harness.hover_at(egui::pos2(1.0, 1.0));
    harness.run();
    assert_eq!(
        harness.state_mut().actions.pop(),
        Some(ChatAction::HoverToken(None))
    );
}

#[test]
fn the_empty_conversation_says_what_to_do() {
    let mut harness = harness(Fixture::new(vec![]));
    harness.get_by_label_contains("Click any word of an answer");
    for example in EXAMPLES {
        click(&mut harness, &format!("Try: {}", example.title));
        assert_eq!(taken(&mut harness), [ChatAction::TryExample(example)]);
    }
    harness.state_mut().model = None;
    harness.run();
    harness.get_by_label_contains("No model is loaded");
    click(&mut harness, &format!("Try: {}", EXAMPLES[0].title));
    assert_eq!(taken(&mut harness), []);
}

#[test]
fn a_long_paste_stands_beside_the_box() {
    let mut fixture = Fixture::new(vec![user(1, "q")]);
    fixture.composer.context = Some(ContextView {
        n_used: 100,
        n_limit: 2048,
        n_draft: None,
    });
    let mut harness = harness(fixture);
    harness.event(egui::Event::Paste("line\n".repeat(2 << 20)));
    harness.run();
    harness.get_by_label("Attached text: 10.0 MiB, 2,097,152 lines");
    harness.get_by_label_contains("so it cannot be sent");
    harness.key_press(Key::Enter);
    harness.run();
    assert_eq!(taken(&mut harness), []);
    harness.state_mut().times.clear();
    harness.run_steps(20);
    let slowest = harness.state().times.iter().max().unwrap();
    println!("with 10 MiB attached, a frame takes {slowest:?} at most");
    click(&mut harness, "Remove attached text 1");
    assert!(harness.state().state.composer.is_empty());
    // A paste that fits is sent whole.
    harness.state_mut().composer.context = Some(ContextView {
        n_used: 0,
        n_limit: 1 << 20,
        n_draft: None,
    });
    harness.state_mut().state.composer.focus();
    harness.run();
    harness.event(egui::Event::Paste("x".repeat(100_000)));
    harness.run();
    harness.key_press(Key::Enter);
    harness.run();
    let [ChatAction::Send(text)] = &taken(&mut harness)[..] else {
        panic!()
    };
    assert_eq!(text.trim_end().len(), 100_000);
}

#[test]
fn the_meter_warns() {
    let mut fixture = Fixture::new(vec![user(1, "q")]);
    fixture.composer.context = Some(ContextView {
        n_used: 1900,
        n_limit: 2048,
        n_draft: None,
    });
    let harness = harness(fixture);
    harness.get_by_label_contains("The answer will stop when the context is full: 2,048 tokens");
}

#[test]
fn nothing_is_sent_while_it_is_blocked_and_why_is_said() {
    let mut fixture = Fixture::new(vec![]);
    fixture.composer.blocked = Some("No model is loaded");
    let mut harness = harness(fixture);
    harness.get_by_label("Message").type_text("hello");
    harness.run();
    harness.get_by_label("No model is loaded");
    harness.key_press(Key::Enter);
    click(&mut harness, "Send");
    assert_eq!(taken(&mut harness), []);
}

/// Texts that a model may write and that a viewer may stumble over.
fn nasty() -> Vec<String> {
    let unfinished = [
        "```rust\nfn main() {",
        "```",
        "| a | b",
        "| a | b |\n|--",
        "**bold",
        "[link](http://",
        "![x](",
        "- ",
        "1. ",
        "> ",
        "$x",
        "\\(",
        "<div>",
        "&amp",
        "[^1]",
        "[^1]: note",
        "~~",
        "`",
        "***",
        "# ",
        "- [ ] ",
        "a\n===",
        "[x]: y",
        "| a |\n|---|\n| b",
        "term\n: def",
        "> [!NOTE]\n> x",
        "[![a](b)](c)",
        "![pic](file:///etc/passwd)",
    ];
    let mut texts: Vec<String> = unfinished.map(String::from).to_vec();
    texts.extend([
        String::new(),
        " \n\t\n ".into(),
        "\0\u{1}\u{1b}[31m\u{202e}evil\u{200b}\u{feff}\r\n\r".into(),
        "שלום עולם مرحبا بالعالم 漢字 🎈👩‍👩‍👧‍👦 e\u{301}\u{302}\u{303}".into(),
        "x".repeat(1 << 20),
        "word ".repeat(1 << 18),
        "line\n".repeat(1 << 17),
        format!("```\n{}\n```", "code line\n".repeat(20_000)),
        format!("|a|b|c|\n|-|-|-|\n{}", "| 1 | 2 | 3 |\n".repeat(5000)),
        format!("{}deep", "> ".repeat(500)),
        format!(
            "{}deep",
            (0..200)
                .map(|i| format!("{}- x\n", "  ".repeat(i)))
                .collect::<String>()
        ),
        "[".repeat(5000),
        "*".repeat(5000),
        "![".repeat(2000),
        "$".repeat(5000),
        "`".repeat(5001),
        "<".repeat(5000),
        "~~~".repeat(1000),
        r"$$\frac{".repeat(400),
    ]);
    texts
}

#[test]
fn nasty_texts_are_shown_without_a_panic() {
    for theme in [Theme::Light, Theme::Dark] {
        let mut harness = harness_in(theme, Fixture::new(vec![answer(1, "")]));
        for (i, text) in nasty().into_iter().enumerate() {
            for state in [MessageState::Streaming, MessageState::Done] {
                let id = 10 + i as u64;
                let fixture = harness.state_mut();
                fixture.conversation = id;
                fixture.messages = vec![answer(id, &text), user(id + 10_000, &text)];
                fixture.messages[0].state = Some(state);
                fixture.messages[0].thinking =
                    Some((text.clone(), Some(f64::NAN), state != MessageState::Done));
                // Highlighting goes on for frames, which is what run() would wait for.
                harness.run_steps(3);
                assert!(harness.state().state.transcript.n_drawn() < 120, "text {i}");
            }
        }
    }
}

#[test]
fn a_text_that_streams_is_shown_at_every_length() {
    let text = "# Title\n\nSome **bold *and italic*** text with `code` and $x^2$.\n\n1. one\n   ```py\n   \
                x = 1\n   ```\n2. two\n\n| a | b |\n|---|:-:|\n| 1 | **2** |\n\n> quote\n\n[link](http://x.org) \
                end\n\n```rust\nfn main() {}\n```\n";
    let mut fixture = Fixture::new(vec![user(1, "q"), answer(2, "")]);
    fixture.messages[1].state = Some(MessageState::Streaming);
    let mut harness = harness(fixture);
    for end in (0..=text.len()).filter(|&end| text.is_char_boundary(end)) {
        harness.state_mut().messages[1].content = text[..end].to_owned();
        harness.run_steps(1);
    }
    harness.state_mut().messages[1].state = Some(MessageState::Done);
    harness.run_steps(3);
    for label in ["Title", "bold ", "two", "link"] {
        assert!(
            harness.query_by_label(label).is_some(),
            "{label:?} is not there"
        );
    }
    assert_eq!(harness.query_all_by_label("Copy code").count(), 2);
}

#[test]
fn links_lead_to_web_pages_only() {
    let text = "[good](https://example.org/) [bad](file:///bin/sh) [worse](javascript:alert)";
    let mut harness = harness(Fixture::new(vec![answer(1, text)]));
    let mut opened = |label: &str| {
        harness.get_by_label(label).click();
        harness.step();
        let commands = &harness.output().platform_output.commands;
        let n = commands
            .iter()
            .filter(|command| matches!(command, OutputCommand::OpenUrl(_)))
            .count();
        (n, taken(&mut harness))
    };
    assert_eq!(opened("good"), (1, vec![]));
    assert_eq!(
        opened("bad"),
        (0, vec![ChatAction::RefusedLink("file:///bin/sh".into())])
    );
    assert_eq!(opened("worse").0, 0);
}

/// A conversation of about 10,000 tokens: 40 messages of what models write.
fn long_conversation() -> Vec<Owned> {
    let mut messages = Vec::new();
    for i in 0..20 {
        messages.push(user(
            2 * i,
            &format!("Question {i}: how does part {i} of it work, and why is it so?"),
        ));
        let answer_text = format!(
            "## Part {i}\n\nThe **first** thing is that `part_{i}` reads its input, and *then* writes what it \
             found, so that $x_{{{i}}}^2 + y^2 = z^2$ holds for all of them. {}\n\n- one thing to know\n- another, \
             which is **more** important\n  - and a detail of it\n\n| column | value |\n|---|---|\n| a | {i} |\n| b \
             | 2 |\n\n```rust\nfn part_{i}(input: &str) -> usize {{\n    // Counts what is there.\n    let n = \
             input.chars().filter(|c| c.is_alphabetic()).count();\n    n * {i}\n}}\n```\n\n{}\n\nSo that is that.",
            "It goes over the words one after the other and keeps those that it needs. ".repeat(14),
            "In the end the results are put together, and the caller gets all of them at once. "
                .repeat(12),
        );
        messages.push(answer(2 * i + 1, &answer_text));
    }
    for message in &mut messages {
        message.facts = Some(FactsView {
            tokens_per_second: Some(10.0),
            n_generated: Some(250),
            ..FactsView::default()
        });
    }
    messages
}

#[test]
fn a_frame_of_a_long_conversation_draws_what_is_in_sight() {
    let messages = long_conversation();
    let n_bytes: usize = messages.iter().map(|message| message.content.len()).sum();
    assert!(n_bytes > 40_000, "10,000 tokens of four bytes");
    let mut fixture = Fixture::new(messages);
    let last = fixture.messages.len() - 1;
    let full = fixture.messages[last].content.repeat(2);
    fixture.messages[last].state = Some(MessageState::Streaming);
    fixture.composer.is_running = true;
    fixture.composer.context = Some(ContextView {
        n_used: 10_000,
        n_limit: 131_072,
        n_draft: None,
    });
    let mut harness = harness(fixture);
    harness.state_mut().times.clear();
    let mut shown = 0;
    for end in (0..full.len())
        .step_by(12)
        .filter(|&end| full.is_char_boundary(end))
    {
        harness.state_mut().messages[last].content = full[..end].to_owned();
        harness.run_steps(1);
        shown = shown.max(harness.state().state.transcript.n_drawn());
    }
    let mut times = std::mem::take(&mut harness.state_mut().times);
    times.sort();
    let median = times[times.len() / 2];
    let p99 = times[times.len() * 99 / 100];
    println!(
        "chat_ui while the last of 40 messages streams: median {median:?}, 99 % {p99:?}, slowest {:?}, {} frames, at most {shown} pieces",
        times[times.len() - 1],
        times.len()
    );
    assert!(shown < 60, "what is off the screen was drawn");
}

#[test]
fn scrolling_up_over_guessed_heights_keeps_what_is_read_in_place() {
    let mut harness = harness(Fixture::new(long_conversation()));
    harness.hover_at(egui::pos2(450.0, 300.0));
    harness.run();
    // The end is in sight at first.
    harness.get_by_label("Copy message 40");
    let wheel = |harness: &mut Harness<'_, Fixture>, y: f32| {
        harness.event(egui::Event::MouseWheel {
            unit: egui::MouseWheelUnit::Point,
            delta: vec2(0.0, y),
            phase: egui::TouchPhase::Move,
            modifiers: Modifiers::NONE,
            source: egui::MouseWheelSource::Wheel,
        });
        harness.run_steps(1);
    };
    let place = |harness: &Harness<'_, Fixture>| {
        (1..=40).find_map(|i| {
            let node = harness
                .query_by_label(&format!("Copy message {i}"))?
                .rect()
                .center()
                .y;
            (50.0..600.0).contains(&node).then_some((i, node))
        })
    };
    let mut jumps = 0;
    for _ in 0..200 {
        let before = place(&harness);
        wheel(&mut harness, 30.0);
        if let (Some((i, y)), Some(after)) = (
            before,
            harness.query_by_label(&format!("Copy message {}", before.map_or(0, |b| b.0))),
        ) {
            let moved = after.rect().center().y - y;
            // Up to 3 points for what comes into sight only when the offset was mended, which the
            // next frame mends.
            if !(-3.0..=120.0).contains(&moved) {
                println!("message {i} at {y} moved by {moved}");
                jumps += 1;
            }
        }
    }
    assert_eq!(jumps, 0, "the text jumped while it was scrolled");
    for _ in 0..200 {
        wheel(&mut harness, 500.0);
    }
    harness.run_steps(30);
    assert!(
        harness.query_by_label("Copy message 1").is_some(),
        "the beginning was not reached"
    );
    click(&mut harness, "To the newest message");
    harness.run_steps(5);
    harness.get_by_label("Copy message 40");
    harness.key_press(Key::PageUp);
    harness.run_steps(5);
    assert!(harness.query_by_label("To the newest message").is_some());
    harness.state_mut().state.scroll_to_message(0);
    harness.run_steps(5);
    harness.get_by_label("Copy message 1");
}

#[test]
fn another_conversation_begins_at_its_end() {
    let mut harness = harness(Fixture::new(long_conversation()));
    let fixture = harness.state_mut();
    fixture.conversation = 2;
    fixture.messages.truncate(30);
    harness.run_steps(4);
    harness.get_by_label("Copy message 30");
    harness.state_mut().messages.clear();
    harness.run();
    harness.get_by_label_contains("Click any word");
}

#[test]
fn a_frame_of_thousands_of_tokens_has_those_in_sight_alone() {
    let mut fixture = Fixture::new(vec![user(1, "q"), answer(2, "a")]);
    let words = [
        "One", " day", ",", " Mia", " play", "ed", " in", " the", " garden", ".\n",
    ];
    let tokens = (0..10_000).map(|i| (i, words[i % words.len()].to_owned()));
    fixture.messages[1].tokens = Some(tokens.collect());
    let mut harness = harness(fixture);
    harness.state_mut().times.clear();
    for selected in 0..100 {
        harness.state_mut().selected = Some(9_900 + selected);
        harness.run_steps(1);
    }
    let n_in_sight = harness.query_all_by_label_contains("Token ").count();
    assert!(
        (50..2_000).contains(&n_in_sight),
        "{n_in_sight} tokens can be clicked"
    );
    let mut times = std::mem::take(&mut harness.state_mut().times);
    times.sort();
    let median = times[times.len() / 2];
    println!(
        "chat_ui with an answer of 10,000 tokens to click: median {median:?}, slowest {:?}",
        times[times.len() - 1]
    );
}
