//! The chosen branch as one HTML page without scripts, pictures or links to elsewhere.
//!
//! Text is shown as it was written, code blocks apart; nothing of it is taken for HTML.

use super::fences::{Block, blocks};
use super::{facts_line, one_line, speaker, thinking_title};
use crate::store::nodes::PathEntry;

const STYLE: &str = "
:root { color-scheme: light dark; --line: #d0d0d4; --soft: #f3f3f5; --faint: #63636b; }
@media (prefers-color-scheme: dark) { :root { --line: #3c3c42; --soft: #242428; --faint: #a0a0a8; } }
body { max-width: 46rem; margin: 2rem auto; padding: 0 1rem; font: 16px/1.55 system-ui, sans-serif; }
article { margin: 1.5rem 0; padding-top: 0.5rem; border-top: 1px solid var(--line); }
h2 { font-size: 0.9rem; margin: 0 0 0.5rem; color: var(--faint); }
.text { white-space: pre-wrap; overflow-wrap: anywhere; }
pre { background: var(--soft); padding: 0.75rem; border-radius: 6px; overflow-x: auto; font-size: 0.875rem; }
details { margin: 0.5rem 0; padding-left: 0.75rem; border-left: 3px solid var(--line); color: var(--faint); }
summary { cursor: pointer; }
.facts { font-size: 0.8125rem; color: var(--faint); }
";

/// The page.
pub(super) fn page(title: &str, began: &str, path: &[PathEntry]) -> String {
    let title = escaped(&one_line(title));
    let began = escaped(began);
    // A second wall: a browser that found something to load or run would not do so.
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n\
         <h1>{title}</h1>\n<p class=\"facts\">{began}</p>\n"
    );
    for entry in path {
        message(&mut page, entry);
    }
    page += "</body>\n</html>\n";
    page
}

fn message(page: &mut String, entry: &PathEntry) {
    let node = &entry.node;
    let message = &node.message;
    *page += &format!("<article>\n<h2>{}</h2>\n", speaker(message.role));
    if let Some(reasoning) = &message.reasoning_content
        && !reasoning.trim().is_empty()
    {
        let title = thinking_title(node.facts.as_ref());
        *page += &format!("<details>\n<summary>{title}</summary>\n");
        text(page, reasoning);
        *page += "</details>\n";
    }
    text(page, &message.content);
    for call in &message.tool_calls {
        let name = escaped(&call.name);
        let arguments = match call.arguments.as_str() {
            Some(text) => escaped(text),
            None => escaped(&format!("{:#}", call.arguments)),
        };
        *page +=
            &format!("<p>Call of <code>{name}</code>:</p>\n<pre><code>{arguments}</code></pre>\n");
    }
    let facts = escaped(&facts_line(node.facts.as_ref(), node.state));
    if !facts.is_empty() {
        *page += &format!("<p class=\"facts\">{facts}</p>\n");
    }
    *page += "</article>\n";
}

fn text(page: &mut String, text: &str) {
    for block in blocks(text) {
        match block {
            Block::Text(text) if text.trim().is_empty() => {}
            Block::Text(text) => {
                let text = escaped(text.trim_matches(['\r', '\n']));
                *page += &format!("<div class=\"text\" dir=\"auto\">{text}</div>\n");
            }
            Block::Code { code, .. } => {
                *page += &format!("<pre><code>{}</code></pre>\n", escaped(code))
            }
        }
    }
}

/// Text that means itself, between tags and within quotes.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            '\0' => escaped.push(char::REPLACEMENT_CHARACTER),
            c => escaped.push(c),
        }
    }
    escaped
}
