//! What is taken from the real texts, file format by file format.

use serde_json::Value;

use super::sources::Real;
use super::talk::Turn;

/// Typographic marks as a keyboard has them: a small vocabulary knows each mark in one form.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '“' | '”' | '„' => plain.push('"'),
            '‘' | '’' => plain.push('\''),
            '–' => plain.push('-'),
            '—' => plain.push_str(" - "),
            '…' => plain.push_str("..."),
            '\u{a0}' => plain.push(' '),
            '\u{feff}' | '\u{200b}' | '\u{2060}' | '\r' => {}
            _ => plain.push(character),
        }
    }
    plain
}

/// Documents between lines of `<|doc|>`, one line a paragraph.
pub(super) fn paragraphs(text: &str) -> Vec<Real> {
    let documents = text.split("<|doc|>").map(|document| {
        let plain = plain(document);
        // An empty line ends a paragraph; any other end of a line is where a page was too narrow.
        let paragraphs = plain.split("\n\n").map(|paragraph| {
            let lines = paragraph
                .lines()
                .map(str::trim)
                .filter(|line| !line.is_empty());
            lines.collect::<Vec<_>>().join(" ")
        });
        let paragraphs: Vec<String> = paragraphs.filter(|text| !text.is_empty()).collect();
        paragraphs.join("\n")
    });
    documents
        .filter(|document| !document.is_empty())
        .map(Real::Text)
        .collect()
}

/// Questions with their worked answers as reasoning. `<<48/2=24>>`, notes for a calculator, go.
pub(super) fn gsm8k(text: &str) -> std::result::Result<Vec<Real>, String> {
    let mut documents = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let value: Value = serde_json::from_str(line)
            .map_err(|error| format!("line {} is no JSON: {error}", index + 1))?;
        let (question, answer) = (value["question"].as_str(), value["answer"].as_str());
        let worked = answer.and_then(|answer| answer.rsplit_once("#### "));
        let (Some(question), Some((steps, result))) = (question, worked) else {
            return Err(format!(
                "line {} lacks question, answer or result",
                index + 1
            ));
        };
        let mut reasoning = String::new();
        for (n, part) in plain(steps).split("<<").enumerate() {
            let kept = if n == 0 {
                part
            } else {
                part.split_once(">>").map_or(part, |(_, kept)| kept)
            };
            reasoning.push_str(kept);
        }
        let mut turn = Turn::plain(
            plain(question.trim()),
            format!("The answer is \\boxed{{{}}}.", result.trim()),
        );
        turn.reply.reasoning = Some(reasoning.trim().to_owned());
        documents.push(Real::Talk(vec![turn]));
    }
    Ok(documents)
}

/// Conversations of two people that begin with a greeting; the others begin in the middle of
/// something. Messages in a row by one of them are one turn. Turns that are long, or hold links or
/// other signs, end the conversation.
pub(super) fn chitchat(text: &str) -> std::result::Result<Vec<Real>, String> {
    let all: Value = serde_json::from_str(text).map_err(|error| format!("is no JSON: {error}"))?;
    let all = all
        .as_object()
        .ok_or("is no object, expected conversations by their ids")?;
    let mut documents = Vec::new();
    for conversation in all.values() {
        let turns = conversation["messages"].as_array().into_iter().flatten();
        let said = turns.map(|messages| {
            let texts = messages.as_array().into_iter().flatten();
            let texts = texts.filter_map(|message| message["text"].as_str());
            plain(texts.map(str::trim).collect::<Vec<_>>().join(" ").trim())
        });
        let clean: Vec<String> = said
            .take(8)
            .take_while(|said| is_small_talk(said))
            .collect();
        let talk = exchanges(&clean);
        if clean.first().is_some_and(|said| is_greeting(said)) && !talk.is_empty() {
            documents.push(Real::Talk(talk));
        }
    }
    Ok(documents)
}

fn is_greeting(said: &str) -> bool {
    let said = said.to_ascii_lowercase();
    let first = said.split(|c: char| !c.is_ascii_alphabetic()).next();
    matches!(first, Some("hello" | "hi" | "hey" | "good" | "how"))
}

fn is_small_talk(said: &str) -> bool {
    let is_usual = |c: char| c.is_ascii_alphanumeric() || " .,!?'\"-:;()$%&\n".contains(c);
    !said.is_empty() && said.len() <= 200 && said.chars().all(is_usual) && !said.contains("http")
}

fn exchanges(said: &[String]) -> Vec<Turn> {
    let pairs = said.chunks_exact(2);
    pairs.map(|pair| Turn::plain(&pair[0], &pair[1])).collect()
}

/// The few lines of YAML these files use: `- - ` begins a conversation, `  - ` goes on. A deeper line
/// goes on with the sentence.
pub(super) fn pairs(text: &str) -> std::result::Result<Vec<Real>, String> {
    let mut conversations: Vec<Vec<String>> = Vec::new();
    let (_, body) = text
        .split_once("conversations:")
        .ok_or("has no key \"conversations\"")?;
    for line in body.lines() {
        if let Some(first) = line.strip_prefix("- - ") {
            conversations.push(vec![first.to_owned()]);
        } else if let Some(next) = line.strip_prefix("  - ")
            && let Some(last) = conversations.last_mut()
        {
            last.push(next.to_owned());
        } else if line.starts_with("   ")
            && let Some(said) = conversations.last_mut().and_then(|last| last.last_mut())
        {
            said.push(' ');
            said.push_str(line.trim());
        }
    }
    let mut documents = Vec::new();
    for conversation in conversations {
        let unquoted = |said: &String| {
            let said = said.trim();
            let inside = said
                .strip_prefix('\'')
                .and_then(|said| said.strip_suffix('\''));
            plain(&inside.map_or_else(|| said.to_owned(), |inside| inside.replace("''", "'")))
        };
        let said: Vec<String> = conversation.iter().map(unquoted).collect();
        // What follows is often another reply to the same question, so only the first is taken.
        let said = &said[..said.len().min(2)];
        let talk = exchanges(said);
        if !talk.is_empty() && said.iter().all(|said| is_small_talk(said)) {
            documents.push(Real::Talk(talk));
        }
    }
    Ok(documents)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panic")]
mod tests {
    use super::*;

    fn talk(documents: &[Real]) -> Vec<Vec<(String, Option<String>, String)>> {
        let turns = documents.iter().map(|document| match document {
            Real::Text(_) => panic!("expected a conversation"),
            Real::Talk(turns) => turns
                .iter()
                .cloned()
                .map(|turn| (turn.question, turn.reply.reasoning, turn.reply.text))
                .collect(),
        });
        turns.collect()
    }

    #[test]
    fn paragraphs_are_lines_and_quotes_are_plain() {
        let text = "\u{feff}\r\n Title\r\n\r\nHe said,\r\n“It’s…”\n\n\n\n<|doc|>\n\n<|doc|>\nOne\n";
        let texts: Vec<String> = paragraphs(text)
            .into_iter()
            .map(|real| match real {
                Real::Text(text) => text,
                Real::Talk(_) => panic!("expected a text"),
            })
            .collect();
        assert_eq!(texts, ["Title\nHe said, \"It's...\"", "One"]);
    }

    #[test]
    fn calculators_notes_go() {
        let line = r#"{"question": " Q? ", "answer": "A 48/2 = <<48/2=24>>24.\nB <<1+1=2>>2.\n#### 1,026"}"#;
        let documents = gsm8k(line).unwrap();
        let expected = (
            "Q?".into(),
            Some("A 48/2 = 24.\nB 2.".into()),
            "The answer is \\boxed{1,026}.".into(),
        );
        assert_eq!(talk(&documents), [[expected]]);
        for (text, refusal) in [
            ("{}", "line 1 lacks question"),
            ("x", "line 1 is no JSON"),
            (
                r#"{"question": "Q", "answer": "A"}"#,
                "line 1 lacks question, answer or result",
            ),
        ] {
            let error = gsm8k(text).err().unwrap();
            assert!(error.starts_with(refusal), "{error}");
        }
    }

    #[test]
    fn conversations_begin_with_a_greeting_and_end_before_a_link() {
        let text = r#"{
            "a": {"messages": [[{"text": "Hi"}, {"text": "you"}], [{"text": "Hello"}], [{"text": "see http://x"}], [{"text": "ok"}]]},
            "b": {"messages": [[{"text": "And then"}], [{"text": "what?"}]]},
            "c": {"messages": [[{"text": "Hey"}]]},
            "d": {}
        }"#;
        let documents = chitchat(text).unwrap();
        assert_eq!(
            talk(&documents),
            [[("Hi you".into(), None, "Hello".into())]]
        );
        assert!(chitchat("[]").is_err());
        assert!(chitchat("").is_err());
    }

    #[test]
    fn yaml_is_read_as_far_as_it_is_used() {
        let text = "categories:\n- food\nconversations:\n- - Hello\n  - 'It''s\n    me'\n  - third\n- - alone\n- - \"a\n- - x\n  - y";
        let documents = pairs(text).unwrap();
        assert_eq!(
            talk(&documents),
            [
                [("Hello".into(), None, "It's me".into())],
                [("x".into(), None, "y".into())]
            ]
        );
        assert!(pairs("nothing").is_err());
        assert!(pairs("conversations:\n").unwrap().is_empty());
    }
}
