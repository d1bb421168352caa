//! The /commands of a chat. One table; parsing, help and completion walk it.

use std::path::Path;
use std::str::FromStr;

use anyhow::{Context as _, bail, ensure};
use engine::chat::{Message, Role};
use engine::file::{self, Output};

use super::Chat;
use crate::prompt::read_messages;
use crate::run::{stop_words, summary};
use crate::terminal;

/// What comes after a line.
#[derive(Debug, PartialEq)]
pub enum Next {
    /// The next line.
    Prompt,
    /// The answer was stopped.
    Interrupted,
    /// The end.
    Quit,
}

/// One row of the table of commands.
pub struct CommandInfo {
    /// With its slash.
    pub name: &'static str,
    takes: &'static str,
    about: &'static str,
    run: fn(&mut Chat, &str) -> anyhow::Result<Next>,
}

/// Every command, in the order of the help.
pub const COMMANDS: &[CommandInfo] = &[
    command("/help", "", "show this", help),
    command(
        "/clear",
        "",
        "forget the conversation, not the system message",
        clear,
    ),
    command(
        "/system",
        "[TEXT|off]",
        "show, set or remove the system message",
        system,
    ),
    command(
        "/think",
        "on|off",
        "let the model think before it answers",
        think,
    ),
    command("/regen", "", "answer the last message again", regenerate),
    command(
        "/undo",
        "",
        "take back the last message and its answer",
        undo,
    ),
    command(
        "/set",
        "[NAME VALUE]",
        "show or change how tokens are chosen",
        set,
    ),
    command(
        "/topk",
        "N|off",
        "positions that a token may read; off: the model's own number",
        top_k,
    ),
    command("/dense", "on|off", "read every position", dense),
    command("/stats", "", "show times, context and memory", stats),
    command(
        "/save",
        "[--force] FILE",
        "write the conversation, as --messages and /load read it; --force: over another one",
        save,
    ),
    command(
        "/load",
        "FILE",
        "go on with a conversation that was written",
        load,
    ),
    command("/quit", "", "leave", quit),
];

const fn command(
    name: &'static str,
    takes: &'static str,
    about: &'static str,
    run: fn(&mut Chat, &str) -> anyhow::Result<Next>,
) -> CommandInfo {
    CommandInfo {
        name,
        takes,
        about,
        run,
    }
}

/// Runs a line that begins with a slash.
pub fn run(chat: &mut Chat, line: &str) -> anyhow::Result<Next> {
    let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let found = COMMANDS.iter().find(|command| command.name == name);
    let command = found.with_context(|| {
        format!("no command {name}: /help lists them; a space before the slash makes it a message")
    })?;
    let rest = rest.trim();
    ensure!(
        !command.takes.is_empty() || rest.is_empty(),
        "{name} takes nothing, found {rest:?}"
    );
    (command.run)(chat, rest)
}

fn help(_: &mut Chat, _: &str) -> anyhow::Result<Next> {
    let rows = COMMANDS.iter().map(|command| {
        vec![
            format!("{} {}", command.name, command.takes),
            command.about.to_owned(),
        ]
    });
    let table = terminal::table(&rows.collect::<Vec<_>>());
    terminal::note(table.trim_end());
    terminal::note("A backslash at the end of a line has it go on in the next.");
    Ok(Next::Prompt)
}

fn clear(chat: &mut Chat, _: &str) -> anyhow::Result<Next> {
    let is_system = |message: &&Message| matches!(message.role, Role::System);
    let n_kept = chat.messages.iter().take_while(is_system).count();
    let n_forgotten = chat.messages.len() - n_kept;
    chat.messages.truncate(n_kept);
    terminal::note(format_args!("forgot {n_forgotten} messages"));
    Ok(Next::Prompt)
}

fn system(chat: &mut Chat, text: &str) -> anyhow::Result<Next> {
    let first = chat.messages.first_mut();
    let first = first.filter(|message| matches!(message.role, Role::System));
    match (first, text) {
        (None, "" | "off") => terminal::note("no system message"),
        (Some(message), "") => terminal::note(&message.content),
        (Some(_), "off") => {
            chat.messages.remove(0);
            terminal::note("no system message from now on");
        }
        (Some(message), text) => message.content = text.into(),
        (None, text) => chat.messages.insert(0, Message::new(Role::System, text)),
    }
    Ok(Next::Prompt)
}

fn think(chat: &mut Chat, text: &str) -> anyhow::Result<Next> {
    chat.thinking = switch(text)?;
    Ok(Next::Prompt)
}

fn dense(chat: &mut Chat, text: &str) -> anyhow::Result<Next> {
    chat.forward.dense = switch(text)?;
    Ok(Next::Prompt)
}

fn switch(text: &str) -> anyhow::Result<bool> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => bail!("found {text:?}, expected on or off"),
    }
}

fn top_k(chat: &mut Chat, text: &str) -> anyhow::Result<Next> {
    chat.forward.index_topk = match text {
        "off" => None,
        _ => {
            let k: usize = number(text)?;
            ensure!(k > 0, "found 0, expected at least 1 position or off");
            ensure!(
                chat.has_indexer,
                "the model has no indexer: it reads every position"
            );
            Some(k)
        }
    };
    Ok(Next::Prompt)
}

fn number<T: FromStr>(text: &str) -> anyhow::Result<T> {
    let number = text.parse().ok();
    number.with_context(|| format!("found {text:?}, expected a number in range"))
}

/// The place of the last message of the user.
fn last_user(chat: &Chat) -> anyhow::Result<usize> {
    let asked = |message: &Message| matches!(message.role, Role::User | Role::Developer);
    let last = chat.messages.iter().rposition(asked);
    last.context("there is no message yet")
}

fn regenerate(chat: &mut Chat, _: &str) -> anyhow::Result<Next> {
    let last = last_user(chat)?;
    chat.messages.truncate(last + 1);
    chat.n_attempts += 1;
    if chat.sampler.is_greedy() {
        terminal::note("greedy: the answer will be the same");
    }
    chat.answer()
}

fn undo(chat: &mut Chat, _: &str) -> anyhow::Result<Next> {
    let last = last_user(chat)?;
    terminal::note(format_args!("took back: {}", &chat.messages[last].content));
    chat.messages.truncate(last);
    Ok(Next::Prompt)
}

/// One row of the table of settings.
struct Setting {
    name: &'static str,
    get: fn(&Chat) -> String,
    set: fn(&mut Chat, &str) -> anyhow::Result<()>,
}

/// Every setting of /set, under the names of the command line.
const SETTINGS: &[Setting] = &[
    Setting {
        name: "temperature",
        get: |chat| chat.sampler.temperature.to_string(),
        set: |chat, text| number(text).map(|value| chat.sampler.temperature = value),
    },
    Setting {
        name: "top-p",
        get: |chat| chat.sampler.top_p.to_string(),
        set: |chat, text| number(text).map(|value| chat.sampler.top_p = value),
    },
    Setting {
        name: "top-k",
        get: |chat| chat.sampler.top_k.to_string(),
        set: |chat, text| number(text).map(|value| chat.sampler.top_k = value),
    },
    Setting {
        name: "min-p",
        get: |chat| chat.sampler.min_p.to_string(),
        set: |chat, text| number(text).map(|value| chat.sampler.min_p = value),
    },
    Setting {
        name: "repetition-penalty",
        get: |chat| chat.sampler.repetition_penalty.to_string(),
        set: |chat, text| number(text).map(|value| chat.sampler.repetition_penalty = value),
    },
    Setting {
        name: "presence-penalty",
        get: |chat| chat.sampler.presence_penalty.to_string(),
        set: |chat, text| number(text).map(|value| chat.sampler.presence_penalty = value),
    },
    Setting {
        name: "frequency-penalty",
        get: |chat| chat.sampler.frequency_penalty.to_string(),
        set: |chat, text| number(text).map(|value| chat.sampler.frequency_penalty = value),
    },
    Setting {
        name: "seed",
        get: |chat| chat.sampler.seed.to_string(),
        set: |chat, text| number(text).map(|value| chat.sampler.seed = value),
    },
    Setting {
        name: "max-tokens",
        get: |chat| {
            chat.max_tokens
                .map_or_else(|| "none".into(), |n| n.to_string())
        },
        set: |chat, text| {
            chat.max_tokens = match text {
                "none" => None,
                _ => Some(number(text)?),
            };
            Ok(())
        },
    },
];

fn set(chat: &mut Chat, text: &str) -> anyhow::Result<Next> {
    if text.is_empty() {
        let rows = SETTINGS
            .iter()
            .map(|setting| vec![setting.name.to_owned(), (setting.get)(chat)]);
        let table = terminal::table(&rows.collect::<Vec<_>>());
        terminal::note(table.trim_end());
        return Ok(Next::Prompt);
    }
    let (name, value) = text
        .split_once(|c: char| c.is_whitespace() || c == '=')
        .context("found no value, expected for example: /set temperature 0.7")?;
    let name = name.replace('_', "-");
    let found = SETTINGS.iter().find(|setting| setting.name == name);
    let setting = found.with_context(|| {
        let names: Vec<_> = SETTINGS.iter().map(|setting| setting.name).collect();
        format!("no setting {name:?}, expected one of {}", names.join(", "))
    })?;
    let before = chat.sampler.clone();
    (setting.set)(chat, value.trim())?;
    if let Err(error) = chat.sampler.check() {
        chat.sampler = before;
        bail!(error);
    }
    Ok(Next::Prompt)
}

fn stats(chat: &mut Chat, _: &str) -> anyhow::Result<Next> {
    let n = chat.messages.len();
    terminal::note(format_args!("{n} messages"));
    match &chat.last {
        None => terminal::note("no answer yet"),
        Some(last) => {
            terminal::note(format_args!(
                "{}; stopped: {}",
                summary(&last.stats),
                stop_words(&last.stop)
            ));
            terminal::note(format_args!(
                "{} of {} tokens of the prompt were known from before",
                last.n_prompt - last.stats.n_prompt,
                last.n_prompt
            ));
            terminal::note(format_args!(
                "context {} of {} tokens, {} of caches",
                last.n_prompt + last.stats.n_generated,
                chat.context,
                terminal::bytes(last.cache_bytes as u64)
            ));
        }
    }
    Ok(Next::Prompt)
}

fn save(chat: &mut Chat, text: &str) -> anyhow::Result<Next> {
    let (force, text) = match text.strip_prefix("--force") {
        Some(rest) if rest.is_empty() || rest.starts_with(char::is_whitespace) => {
            (true, rest.trim_start())
        }
        _ => (false, text),
    };
    ensure!(!text.is_empty(), "found no file, expected /save FILE");
    ensure!(text != "-", "found -, expected a file");
    let path = Path::new(text);
    // What this conversation was read from or written to, it may go to again.
    let is_own = chat.files.iter().any(|own| file::is_same_file(own, path));
    let kind = file::MESSAGES;
    let inputs: Vec<&Path> = chat.folder.as_deref().into_iter().collect();
    file::check_outputs(&[Output { path, kind }], &inputs, force || is_own)?;
    let json = serde_json::to_string_pretty(&chat.messages).context("the conversation")?;
    file::write_whole(path, format!("{json}\n").as_bytes())?;
    chat.files.push(path.into());
    let n = chat.messages.len();
    terminal::note(format_args!("{n} messages: {text}"));
    Ok(Next::Prompt)
}

fn load(chat: &mut Chat, text: &str) -> anyhow::Result<Next> {
    ensure!(!text.is_empty(), "found no file, expected /load FILE");
    // Stdin is where the commands come from.
    ensure!(text != "-", "found -, expected a file");
    chat.messages = read_messages(Path::new(text))?;
    chat.files.push(text.into());
    let n = chat.messages.len();
    terminal::note(format_args!("{n} messages from {text}"));
    Ok(Next::Prompt)
}

fn quit(_: &mut Chat, _: &str) -> anyhow::Result<Next> {
    Ok(Next::Quit)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_command_and_setting_has_one_name() {
        let names: BTreeSet<_> = COMMANDS.iter().map(|command| command.name).collect();
        assert_eq!(names.len(), COMMANDS.len());
        assert!(names.iter().all(|name| name.starts_with('/')));
        let names: BTreeSet<_> = SETTINGS.iter().map(|setting| setting.name).collect();
        assert_eq!(names.len(), SETTINGS.len());
    }
}
