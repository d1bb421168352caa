//! What a message consists of, piece by piece, and how tall each piece is.
//!
//! A piece keeps its height as long as it stays the same, so a message off the screen costs nothing
//! and one that streams is measured at its end only. Whether a message has changed is told by samples
//! of its text: within one id, texts only grow, since edits make new branches.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;

use super::blocks::{self, Block, BlockKind};
use super::code::{Code, PART_LINES};
use super::words::floor_boundary;
use super::{MessageState, MessageView};
use engine::chat::Role;

/// A piece of a message that is drawn by itself.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    /// Who speaks, and the branch arrows.
    Header,
    /// The button that opens the thinking.
    ThinkingHead,
    /// Markdown.
    Prose { text: Arc<str>, is_thinking: bool },
    /// Lines of a code block.
    Code {
        index: usize,
        lines: Range<usize>,
        n_bytes: usize,
        is_closed: bool,
        is_thinking: bool,
    },
    /// Bytes of the content as it was written.
    Plain(Range<usize>),
    /// Tokens, by index.
    Tokens(Range<usize>),
    /// A tool call, by index.
    Tool(usize),
    /// That it is waited for, was stopped or failed.
    Notice,
    /// The editor.
    Editor,
    /// Facts and buttons.
    Footer,
}

/// A piece and its height.
#[derive(Clone, Debug)]
pub struct Item {
    pub piece: Piece,
    pub height: f32,
    /// Whether the height was measured and not guessed.
    pub is_measured: bool,
}

/// What the user chose for a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Choices {
    pub is_raw: bool,
    pub is_thinking_open: bool,
    pub is_editing: bool,
}

/// What heights are guessed with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Metrics {
    pub width: f32,
    pub row_height: f32,
    pub pixels_per_point: f32,
    pub spacing: f32,
}

impl Metrics {
    fn height_of(&self, text: &str) -> f32 {
        // Half a row's height is a character's width, roughly; what matters is the order of magnitude.
        let per_row = (self.width / (self.row_height * 0.45)).max(8.0) as usize;
        let rows: usize = text
            .lines()
            .map(|line| line.len().div_ceil(per_row).max(1))
            .sum();
        rows.max(1) as f32 * self.row_height
    }
}

/// A text cut into blocks, kept while it grows.
#[derive(Default)]
struct Cut {
    blocks: Vec<Block>,
    len: usize,
    hash: u64,
    is_streaming: bool,
}

impl Cut {
    fn update(&mut self, text: &str, is_streaming: bool) {
        let hash = sampled(text);
        if (self.len, self.hash, self.is_streaming) == (text.len(), hash, is_streaming) {
            return;
        }
        let tail = floor_boundary(text, self.len.saturating_sub(200));
        let has_grown = text.len() >= self.len
            && text.is_char_boundary(self.len)
            && sampled(&text[..self.len]) == self.hash
            // A later definition may change what any earlier block means.
            && !text[tail..].contains("]:");
        if has_grown {
            self.blocks.pop();
            while self.blocks.pop().is_some_and(|block| !block.starts_fresh) {}
        } else {
            self.blocks.clear();
        }
        let start = self.blocks.last().map_or(0, |block| block.source.end);
        self.blocks.extend(blocks::cut(text, start, is_streaming));
        (self.len, self.hash, self.is_streaming) = (text.len(), hash, is_streaming);
    }
}

/// The pieces of one message.
#[derive(Default)]
pub struct Layout {
    pub items: Vec<Item>,
    pub codes: Vec<Code>,
    /// Sum of the heights and of the space between.
    pub height: f32,
    /// Whether some frame has used it since it was last asked.
    pub is_used: bool,
    content: Cut,
    thinking: Cut,
    key: Option<u64>,
    metrics: Option<Metrics>,
}

/// Bytes of plain text of a piece.
const PLAIN_BYTES: usize = 4 << 10;

/// Tokens of a piece at most; it ends earlier behind a line end.
const TOKENS: usize = 400;
const TOKENS_BEFORE_LINE_END: usize = 60;

impl Layout {
    /// Brings the pieces up to date.
    pub fn update(&mut self, message: &MessageView<'_>, choices: Choices, metrics: Metrics) {
        let key = key(message, choices);
        let is_same = self.key == Some(key);
        if is_same && self.metrics == Some(metrics) {
            return;
        }
        if self.metrics.replace(metrics) != Some(metrics) {
            for item in &mut self.items {
                item.is_measured = false;
            }
        }
        if self.key.replace(key) != Some(key) {
            self.rebuild(message, choices, metrics);
        }
        self.sum();
    }

    /// Adds the heights up.
    pub fn sum(&mut self) {
        let spacing = self.metrics.map_or(0.0, |metrics| metrics.spacing);
        self.height = self.items.iter().map(|item| item.height + spacing).sum();
    }

    fn rebuild(&mut self, message: &MessageView<'_>, choices: Choices, metrics: Metrics) {
        let mut pieces = vec![Piece::Header];
        let mut n_codes = 0;
        let is_streaming = message.state == MessageState::Streaming;
        let is_markdown = message.role == Role::Assistant && !choices.is_raw;
        if choices.is_editing {
            pieces.push(Piece::Editor);
        } else if let Some(tokens) = message.tokens.filter(|_| !choices.is_raw) {
            push_tokens(&mut pieces, tokens);
        } else {
            if let Some(thinking) = &message.thinking {
                pieces.push(Piece::ThinkingHead);
                if choices.is_thinking_open {
                    self.thinking.update(thinking.text, thinking.is_running);
                    push_blocks(
                        &mut pieces,
                        &self.thinking.blocks,
                        &mut self.codes,
                        &mut n_codes,
                        true,
                    );
                }
            }
            if is_markdown {
                self.content.update(message.content, is_streaming);
                push_blocks(
                    &mut pieces,
                    &self.content.blocks,
                    &mut self.codes,
                    &mut n_codes,
                    false,
                );
            } else {
                push_plain(&mut pieces, message.content);
            }
            pieces.extend((0..message.tool_calls.len()).map(Piece::Tool));
        }
        self.codes.truncate(n_codes);
        if message.state != MessageState::Done {
            pieces.push(Piece::Notice);
        }
        pieces.push(Piece::Footer);
        let mut old = std::mem::take(&mut self.items).into_iter();
        for piece in pieces {
            let item = match old.next() {
                Some(item) if item.piece == piece => item,
                // The piece that grows keeps its height as a guess.
                Some(item)
                    if std::mem::discriminant(&item.piece) == std::mem::discriminant(&piece) =>
                {
                    Item {
                        piece,
                        is_measured: false,
                        ..item
                    }
                }
                _ => Item {
                    height: guess(&piece, message, metrics),
                    piece,
                    is_measured: false,
                },
            };
            self.items.push(item);
        }
    }
}

fn guess(piece: &Piece, message: &MessageView<'_>, metrics: Metrics) -> f32 {
    match piece {
        Piece::Prose { text, .. } => metrics.height_of(text),
        Piece::Code { lines, .. } => (lines.len() + 2) as f32 * metrics.row_height,
        Piece::Plain(range) => {
            metrics.height_of(message.content.get(range.clone()).unwrap_or_default())
        }
        Piece::Tokens(range) => {
            let tokens = message.tokens.unwrap_or_default().get(range.clone());
            let text: String = tokens
                .unwrap_or_default()
                .iter()
                .map(|token| token.text)
                .collect();
            metrics.height_of(&text)
        }
        Piece::Tool(_) | Piece::Editor => 5.0 * metrics.row_height,
        Piece::Header | Piece::ThinkingHead | Piece::Notice | Piece::Footer => metrics.row_height,
    }
}

fn push_blocks(
    pieces: &mut Vec<Piece>,
    blocks: &[Block],
    codes: &mut Vec<Code>,
    n_codes: &mut usize,
    is_thinking: bool,
) {
    for block in blocks {
        match &block.kind {
            BlockKind::Prose(text) => {
                if !text.trim().is_empty() {
                    let text = text.clone();
                    pieces.push(Piece::Prose { text, is_thinking });
                }
            }
            BlockKind::Code {
                language,
                text,
                is_closed,
            } => {
                let index = *n_codes;
                *n_codes += 1;
                match codes.get_mut(index) {
                    Some(code) if code.language == *language => {
                        if **code.text() != **text {
                            code.set_text(text);
                        }
                    }
                    Some(code) => *code = Code::new(language, text),
                    None => codes.push(Code::new(language, text)),
                }
                let n_lines = codes[index].n_lines();
                let n_parts = n_lines.div_ceil(PART_LINES).max(1);
                for part in 0..n_parts {
                    let lines = part * PART_LINES..((part + 1) * PART_LINES).min(n_lines);
                    let is_last = part + 1 == n_parts;
                    pieces.push(Piece::Code {
                        index,
                        lines,
                        // Whole parts stay as they are while the last one grows.
                        n_bytes: if is_last { text.len() } else { 0 },
                        is_closed: *is_closed || !is_last,
                        is_thinking,
                    });
                }
            }
        }
    }
}

fn push_plain(pieces: &mut Vec<Piece>, text: &str) {
    let mut start = 0;
    let end_of_text = text.trim_end_matches(['\n', '\r', ' ']).len();
    while start < end_of_text {
        let mut end = floor_boundary(text, start + PLAIN_BYTES).min(end_of_text);
        let mut next = end;
        if end < end_of_text
            && let Some(found) = text[start..end]
                .rfind('\n')
                .or_else(|| text[start..end].rfind(' '))
            && found > PLAIN_BYTES / 4
        {
            end = start + found;
            // The cut stands for the line end or the space.
            next = end + 1;
        }
        pieces.push(Piece::Plain(start..end));
        start = next;
    }
}

fn push_tokens(pieces: &mut Vec<Piece>, tokens: &[super::TokenSpan<'_>]) {
    let mut start = 0;
    for (i, token) in tokens.iter().enumerate() {
        let n = i + 1 - start;
        if n >= TOKENS || (n >= TOKENS_BEFORE_LINE_END && token.text.ends_with('\n')) {
            pieces.push(Piece::Tokens(start..i + 1));
            start = i + 1;
        }
    }
    if start < tokens.len() {
        pieces.push(Piece::Tokens(start..tokens.len()));
    }
}

/// What tells whether a message has to be laid out anew.
fn key(message: &MessageView<'_>, choices: Choices) -> u64 {
    let mut hasher = DefaultHasher::new();
    choices.hash(&mut hasher);
    (
        message.role,
        message.content.len(),
        sampled(message.content),
    )
        .hash(&mut hasher);
    if let Some(thinking) = &message.thinking {
        (
            thinking.text.len(),
            sampled(thinking.text),
            thinking.is_running,
        )
            .hash(&mut hasher);
    }
    message.tool_calls.len().hash(&mut hasher);
    let tokens = message.tokens.map(|tokens| {
        let last = tokens
            .last()
            .map(|token| (token.position, token.text.len()));
        (tokens.len(), last)
    });
    tokens.hash(&mut hasher);
    message
        .branch
        .map(|branch| (branch.index, branch.count))
        .hash(&mut hasher);
    message.facts.is_some().hash(&mut hasher);
    match message.state {
        MessageState::Done => 0,
        MessageState::Waiting => 1,
        MessageState::Streaming => 2,
        MessageState::Stopped => 3,
        MessageState::Failed(reason) => 4 + reason.len(),
    }
    .hash(&mut hasher);
    hasher.finish()
}

/// A hash of some of the bytes, so that its cost does not grow with the text.
fn sampled(text: &str) -> u64 {
    const N_SAMPLES: usize = 16;
    const SAMPLE_BYTES: usize = 64;
    let bytes = text.as_bytes();
    let mut hasher = DefaultHasher::new();
    if bytes.len() <= N_SAMPLES * SAMPLE_BYTES {
        bytes.hash(&mut hasher);
    } else {
        let last = bytes.len() - SAMPLE_BYTES;
        for sample in 0..N_SAMPLES {
            let start = last * sample / (N_SAMPLES - 1);
            bytes[start..start + SAMPLE_BYTES].hash(&mut hasher);
        }
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: Metrics = Metrics {
        width: 600.0,
        row_height: 18.0,
        pixels_per_point: 1.0,
        spacing: 4.0,
    };

    fn measured(layout: &mut Layout) {
        for item in &mut layout.items {
            item.is_measured = true;
        }
    }

    #[test]
    fn only_the_end_of_an_answer_that_streams_is_measured_again() {
        let text = "First.\n\nSecond.\n\n```rust\nlet x = 1;\n```\n\nThird goes on";
        let mut layout = Layout::default();
        let mut view = MessageView::new(1, Role::Assistant, text);
        view.state = MessageState::Streaming;
        layout.update(&view, Choices::default(), METRICS);
        measured(&mut layout);
        layout.update(&view, Choices::default(), METRICS);
        assert!(layout.items.iter().all(|item| item.is_measured));
        let longer = format!("{text} and on");
        view.content = &longer;
        layout.update(&view, Choices::default(), METRICS);
        let anew: Vec<_> = layout
            .items
            .iter()
            .filter(|item| !item.is_measured)
            .collect();
        assert_eq!(anew.len(), 1);
        assert!(matches!(&anew[0].piece, Piece::Prose { text, .. } if text.contains("and on")));
        // Another width is another height for all.
        let narrow = Metrics {
            width: 300.0,
            ..METRICS
        };
        layout.update(&view, Choices::default(), narrow);
        assert!(layout.items.iter().all(|item| !item.is_measured));
    }

    #[test]
    fn a_definition_that_comes_late_reaches_what_stands_before_it() {
        let mut layout = Layout::default();
        let mut view = MessageView::new(1, Role::Assistant, "see [a]\n\nmore\n\nmore\n\nmore");
        view.state = MessageState::Streaming;
        layout.update(&view, Choices::default(), METRICS);
        let longer = format!("{}\n\n[a]: http://x.org", view.content);
        view.content = &longer;
        layout.update(&view, Choices::default(), METRICS);
        assert!(
            matches!(&layout.items[1].piece, Piece::Prose { text, .. } if text.contains("x.org"))
        );
    }

    #[test]
    fn plain_text_is_cut_and_none_is_lost() {
        for text in [
            "",
            "x",
            &"word ".repeat(5000),
            &"é\n".repeat(20_000),
            &"x".repeat(20_000),
        ] {
            let mut pieces = Vec::new();
            push_plain(&mut pieces, text);
            let mut all = String::new();
            for piece in &pieces {
                let Piece::Plain(range) = piece else { panic!() };
                assert!(range.len() <= PLAIN_BYTES);
                all.push_str(&text[range.clone()]);
            }
            let solid = |text: &str| text.replace([' ', '\n'], "");
            assert_eq!(solid(&all), solid(text));
        }
    }

    #[test]
    fn samples_tell_texts_apart_that_grow_or_end_otherwise() {
        let text = "abcdefghij".repeat(1000);
        assert_eq!(sampled(&text), sampled(&text.clone()));
        assert_ne!(sampled(&text), sampled(&format!("{text}x")));
        assert_ne!(sampled(&text), sampled(&format!("x{}", &text[1..])));
        assert_ne!(sampled(""), sampled("a"));
    }
}
