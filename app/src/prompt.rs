//! From the command line's prompt options to token ids, before anything is loaded.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail, ensure};
use clap::Args;
use engine::chat::{self, EncodeOptions, Message, Role};
use engine::tokenizer::Tokenizer;
use engine::{Config, Error, text_file};
use serde_json::Value;

use crate::terminal;

/// What to feed.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Prompt")]
pub struct PromptArgs {
    /// Text to continue, or - for stdin, where one final newline is taken off
    #[arg(display_order = 0)]
    prompt: Option<String>,

    /// Token ids such as 5,9,3, or - for stdin, instead of text; ids come out too
    #[arg(long, value_name = "IDS", conflicts_with_all = ["prompt", "chat", "think", "system", "messages", "reasoning"])]
    ids: Option<String>,

    /// Take the prompt as a user's message, in the model's message format
    #[arg(long)]
    chat: bool,

    /// Let the model think before it answers; implies --chat
    #[arg(long)]
    think: bool,

    /// A system message before the prompt; implies --chat
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,

    /// A conversation instead of a prompt: a JSON list of OpenAI-style messages, or an object with
    /// "messages" and "tools"; - for stdin; implies --chat
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "system", "reasoning"])]
    messages: Option<PathBuf>,

    /// Ask for steps and a boxed answer, which is shown at the end; implies --chat and --think
    #[arg(long)]
    reasoning: bool,

    /// Do not put the begin-of-text token before a text; messages have their own
    #[arg(long)]
    no_bos: bool,
}

/// What the prompt was given as, which decides how the output reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PromptKind {
    /// Ids in, ids out.
    Ids,
    /// Text in, text out.
    Text,
    /// Messages in; text with reasoning, if thinking, and tool calls out.
    Chat {
        /// Whether the model thinks first.
        thinking: bool,
        /// Whether a boxed answer was asked for.
        boxed: bool,
    },
}

/// A prompt that fits the model.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// What to feed.
    pub ids: Vec<u32>,
    /// What it was given as.
    pub kind: PromptKind,
}

impl PromptArgs {
    /// The file that the conversation is in.
    pub fn file(&self) -> Option<&Path> {
        self.messages.as_deref()
    }

    /// Reads, encodes and checks the prompt.
    ///
    /// # Errors
    /// No prompt, an empty one, one that does not fit the model, text or messages without a
    /// tokenizer, or a file that cannot be read.
    pub fn read(&self, config: &Config, tokenizer: Option<&Tokenizer>) -> anyhow::Result<Prompt> {
        let kind = self.kind();
        let ids = match &self.ids {
            Some(ids) if ids == "-" => parse_ids(&read_text(Path::new("-"))?)?,
            Some(ids) => parse_ids(ids)?,
            None => {
                let tokenizer = tokenizer.context(
                    "text needs a tokenizer, and the model's folder has no tokenizer.json: \
                     give token ids with --ids",
                )?;
                match kind {
                    PromptKind::Chat { thinking, .. } => self.chat_ids(tokenizer, thinking)?,
                    _ => self.text_ids(config, tokenizer)?,
                }
            }
        };
        // The engine would say the same, but only after it has loaded the model.
        let vocab_size = config.vocab_size;
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= vocab_size) {
            bail!(Error::UnknownToken { id, vocab_size });
        }
        let context = config.max_position_embeddings;
        if ids.len() > context {
            bail!(Error::ContextFull {
                tokens: ids.len(),
                position: 0,
                context,
            });
        }
        Ok(Prompt { ids, kind })
    }

    fn kind(&self) -> PromptKind {
        let chat = self.chat || self.system.is_some() || self.messages.is_some();
        if chat || self.think || self.reasoning {
            PromptKind::Chat {
                thinking: self.think || self.reasoning,
                boxed: self.reasoning,
            }
        } else if self.ids.is_some() {
            PromptKind::Ids
        } else {
            PromptKind::Text
        }
    }

    fn text(&self) -> anyhow::Result<String> {
        let Some(prompt) = &self.prompt else {
            bail!("no prompt: give a text, - for stdin, --ids or --messages");
        };
        let text = if prompt == "-" {
            let mut text = read_text(Path::new("-"))?;
            text_file::trim_final_newline(&mut text);
            text
        } else {
            prompt.clone()
        };
        ensure!(
            !text.is_empty(),
            "the prompt is empty, expected at least one character"
        );
        Ok(text)
    }

    fn text_ids(&self, config: &Config, tokenizer: &Tokenizer) -> anyhow::Result<Vec<u32>> {
        let text = self.text()?;
        // Who gives a raw text may write marks into it.
        let mut ids = with_bar(|| tokenizer.encode(&text))?;
        if let Some(bos) = config.bos_token_id
            && !self.no_bos
            && ids.first() != Some(&bos)
        {
            ids.insert(0, bos);
        }
        Ok(ids)
    }

    fn chat_ids(&self, tokenizer: &Tokenizer, thinking: bool) -> anyhow::Result<Vec<u32>> {
        let messages = match &self.messages {
            Some(path) => {
                let messages = read_messages(path)?;
                let last = messages.last().map(|message| message.role);
                ensure!(
                    !matches!(last, Some(Role::System | Role::Assistant)),
                    "{}: there is nothing to answer, expected a user's message or a tool's result \
                     at the end",
                    name(path)
                );
                messages
            }
            None => {
                let text = self.text()?;
                let text = if self.reasoning {
                    chat::reasoning_prompt(&text)
                } else {
                    text
                };
                let system = self.system.iter();
                system
                    .map(|text| Message::new(Role::System, text))
                    .chain([Message::new(Role::User, text)])
                    .collect()
            }
        };
        encode(&messages, thinking, tokenizer)
    }
}

/// The ids of a conversation, up to where the model's answer begins.
///
/// # Errors
/// A conversation that the format does not allow, or a tokenizer that does not know the format.
pub fn encode(
    messages: &[Message],
    thinking: bool,
    tokenizer: &Tokenizer,
) -> anyhow::Result<Vec<u32>> {
    check_format(tokenizer)?;
    let options = EncodeOptions {
        thinking,
        ..EncodeOptions::default()
    };
    let pieces = chat::encode(messages, &options)?;
    with_bar(|| tokenizer.encode_pieces(&pieces))
}

fn with_bar(encode: impl FnOnce() -> engine::Result<Vec<u32>>) -> anyhow::Result<Vec<u32>> {
    // Megabytes take seconds.
    let bar = terminal::bar(0, "encoding the prompt, {elapsed}");
    let ids = encode();
    bar.finish_and_clear();
    Ok(ids?)
}

/// Refuses a tokenizer to which the marks of the message format are mere text, as those of other
/// families are: its model would not understand the conversation.
///
/// # Errors
/// A mark is missing.
pub fn check_format(tokenizer: &Tokenizer) -> anyhow::Result<()> {
    for mark in [chat::BOS, "<｜User｜>", "<｜Assistant｜>"] {
        ensure!(
            tokenizer.token_id(mark).is_some(),
            "the tokenizer has no token {mark}: messages are encoded as DeepSeek's models expect \
             them, and this model expects another format; give text or ids in its own"
        );
    }
    Ok(())
}

/// A conversation from a file, `-` for stdin.
///
/// # Errors
/// The file cannot be read or holds something else.
pub fn read_messages(path: &Path) -> anyhow::Result<Vec<Message>> {
    let name = name(path);
    let text = read_text(path)?;
    let parsed: Value =
        serde_json::from_str(&text).with_context(|| format!("{name} is not JSON"))?;
    let (messages, tools) = match parsed {
        Value::Array(messages) => (messages, Value::Null),
        Value::Object(mut fields) => {
            let messages = fields.remove("messages");
            let tools = fields.remove("tools").unwrap_or_default();
            fields.retain(|_, value| !value.is_null());
            if let Some(key) = fields.keys().next() {
                bail!("{name}: found the key {key:?}, expected only \"messages\" and \"tools\"");
            }
            let Some(Value::Array(messages)) = messages else {
                bail!("{name} has no list under the key \"messages\"");
            };
            (messages, tools)
        }
        _ => bail!("{name} is neither a list of messages nor an object with \"messages\""),
    };
    ensure!(!messages.is_empty(), "{name} holds no messages");
    chat::from_request(messages, tools).map_err(|problem| anyhow!("{name}: {problem}"))
}

fn name(path: &Path) -> String {
    if path == Path::new("-") {
        "stdin".into()
    } else {
        path.display().to_string()
    }
}

fn read_text(path: &Path) -> engine::Result<String> {
    if path == Path::new("-") {
        text_file::read_from(std::io::stdin().lock(), Path::new("stdin"))
    } else {
        text_file::read(path)
    }
}

/// Ids separated by commas or white space.
fn parse_ids(text: &str) -> anyhow::Result<Vec<u32>> {
    let words = text.split(|c: char| c == ',' || c.is_whitespace());
    let ids: Vec<u32> = words
        .filter(|word| !word.is_empty())
        .map(|word| {
            word.parse()
                .ok()
                .with_context(|| format!("--ids: found {word:?}, expected token ids such as 5,9,3"))
        })
        .collect::<anyhow::Result<_>>()?;
    ensure!(
        !ids.is_empty(),
        "--ids: found no ids, expected at least one"
    );
    Ok(ids)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panic")]
mod tests {
    use super::*;

    #[test]
    fn ids_come_with_commas_and_white_space() {
        assert_eq!(parse_ids("5,9,3").unwrap(), [5, 9, 3]);
        assert_eq!(parse_ids(" 5, 9\n3\n").unwrap(), [5, 9, 3]);
        assert_eq!(parse_ids("4294967295").unwrap(), [u32::MAX]);
        for (text, word) in [
            ("", "no ids"),
            (" , ", "no ids"),
            ("-1", "-1"),
            ("1,x", "\"x\""),
            ("4294967296", "4294967296"),
            ("1.5", "1.5"),
        ] {
            let error = parse_ids(text).unwrap_err().to_string();
            assert!(error.contains(word), "{text:?}: {error}");
        }
    }

    fn messages(text: &str) -> anyhow::Result<Vec<Message>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("messages.json");
        std::fs::write(&path, text).unwrap();
        read_messages(&path)
    }

    #[test]
    fn messages_come_as_a_list_or_with_tools() {
        let list = messages(r#"[{"role": "user", "content": "hi"}]"#).unwrap();
        assert_eq!(list.len(), 1);
        let tool = r#"{"type": "function", "function": {"name": "f"}}"#;
        let text =
            format!(r#"{{"messages": [{{"role": "user", "content": "hi"}}], "tools": [{tool}]}}"#);
        let with_tools = messages(&text).unwrap();
        assert_eq!(with_tools.len(), 2);
        assert_eq!(with_tools[0].tools.len(), 1);
        let of_another_system = "\u{FEFF}{\"messages\": [\r\n{\"role\": \"user\",\r\n\"content\": \"hi\"}],\r\n\
                                 \"tools\": null, \"model\": null}\r\n";
        assert_eq!(messages(of_another_system).unwrap(), list);
    }

    #[test]
    fn what_is_no_conversation_is_named() {
        for (text, word) in [
            ("[", "JSON"),
            ("[]", "no messages"),
            ("3", "neither"),
            (r#"{"tools": []}"#, "messages"),
            (r#"{"messages": [], "model": "x"}"#, "model"),
            (r#"{"messages": {}}"#, "messages"),
            (r#"{"messages": [{"role": "user"}], "tools": 3}"#, "tools"),
            (
                r#"[{"role": "user"}, {"role": "user", "images": ["x"]}]"#,
                "message 1: a message has the key \"images\"",
            ),
            (r#"[{"role": "nobody", "content": "hi"}]"#, "nobody"),
        ] {
            let error = messages(text).unwrap_err();
            let said = terminal::message(&error);
            assert!(said.contains(word), "{text}: {said}");
            assert!(said.contains("messages.json"), "{said}");
        }
    }
}
