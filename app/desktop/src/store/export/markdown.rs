//! The chosen branch as Markdown. What was said is Markdown already and stays as it is.

use super::fences::{Block, blocks, fence_around};
use super::{facts_line, one_line, speaker, thinking_title};
use crate::store::nodes::PathEntry;
use engine::chat::Role;

/// The page.
pub(super) fn page(title: &str, began: &str, path: &[PathEntry]) -> String {
    let mut page = format!("# {}\n\n*{began}*\n", one_line(title));
    for entry in path {
        message(&mut page, entry);
    }
    page
}

fn message(page: &mut String, entry: &PathEntry) {
    let node = &entry.node;
    let message = &node.message;
    *page += &format!("\n## {}\n", speaker(message.role));
    if let Some(reasoning) = &message.reasoning_content
        && !reasoning.trim().is_empty()
    {
        *page += &format!("\n> **{}**\n>\n", thinking_title(node.facts.as_ref()));
        for line in reasoning.trim().lines() {
            *page += format!("> {line}").trim_end();
            page.push('\n');
        }
    }
    let content = message.content.trim_end();
    if content.is_empty() {
    } else if message.role == Role::Tool {
        code(page, "", content);
    } else {
        *page += &format!("\n{content}\n");
        // Otherwise an answer that ends within code takes all after it along.
        if let Some(Block::Code {
            fence,
            is_closed: false,
            ..
        }) = blocks(content).last()
        {
            *page += &format!("{fence}\n");
        }
    }
    for call in &message.tool_calls {
        *page += &format!("\nCall of `{}`:\n", one_line(&call.name));
        match call.arguments.as_str() {
            Some(text) => code(page, "", text),
            None => code(page, "json", &format!("{:#}", call.arguments)),
        }
    }
    let facts = facts_line(node.facts.as_ref(), node.state);
    if !facts.is_empty() {
        *page += &format!("\n*{facts}*\n");
    }
}

fn code(page: &mut String, language: &str, code: &str) {
    let fence = fence_around(code);
    *page += &format!("\n{fence}{language}\n{}\n{fence}\n", code.trim_end());
}
