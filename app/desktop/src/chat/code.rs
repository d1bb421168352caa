//! Code blocks: highlighted a little each frame and kept, with a copy button.
//!
//! A highlighter is slow beside a frame (a long line takes a millisecond), so a block is highlighted
//! line by line within a budget and shown plain until its turn comes. A block that grows while an
//! answer streams goes on from its last whole line.

use std::ops::Range;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use egui::text::{LayoutJob, TextFormat};
use egui::{Color32, FontId, Ui};
use egui_commonmark::syntect::highlighting::{
    HighlightIterator, HighlightState, Highlighter, Theme, ThemeSet,
};
use egui_commonmark::syntect::parsing::{ParseState, ScopeStack, SyntaxSet};

/// Longer lines stay plain: a highlighter may take seconds over them.
const MAX_LINE_BYTES: usize = 1000;

/// Longer blocks stay plain.
const MAX_CODE_BYTES: usize = 128 << 10;

/// Time that highlighting may take of a frame.
pub const BUDGET: Duration = Duration::from_micros(1500);

struct Grammars {
    syntaxes: SyntaxSet,
    light: Option<Theme>,
    dark: Option<Theme>,
}

static GRAMMARS: LazyLock<Grammars> = LazyLock::new(|| {
    let mut themes = ThemeSet::load_defaults().themes;
    Grammars {
        syntaxes: SyntaxSet::load_defaults_newlines(),
        light: themes.remove("InspiredGitHub"),
        dark: themes.remove("base16-ocean.dark"),
    }
});

/// Reads the grammars, which takes some 20 ms, so that the first code block need not wait.
pub fn preload() {
    LazyLock::force(&GRAMMARS);
}

/// The text of a code block and the colours of its lines.
#[derive(Debug)]
pub struct Code {
    /// What stands behind the fence: a language, mostly.
    pub language: String,
    text: Arc<str>,
    /// Byte range of each line, line ends included.
    lines: Vec<Range<usize>>,
    /// Colours of the first lines: byte ranges within the text.
    spans: Vec<Vec<(Range<usize>, Color32)>>,
    state: Option<(ParseState, HighlightState)>,
    is_dark: bool,
}

impl Code {
    /// A block that nothing is known of yet.
    pub fn new(language: &str, text: &str) -> Self {
        let mut code = Self {
            language: language.to_owned(),
            text: "".into(),
            lines: Vec::new(),
            spans: Vec::new(),
            state: None,
            is_dark: true,
        };
        code.set_text(text);
        code
    }

    /// The code.
    pub fn text(&self) -> &Arc<str> {
        &self.text
    }

    /// Lines, a last one without a line end included.
    pub fn n_lines(&self) -> usize {
        self.lines.len()
    }

    /// Replaces the text; colours of lines that stay are kept.
    pub fn set_text(&mut self, text: &str) {
        let n_same = if text.starts_with(&*self.text) {
            // The last line may have gone on.
            let is_whole = self.text.ends_with('\n');
            self.lines.len() - usize::from(!is_whole && !self.lines.is_empty())
        } else {
            0
        };
        if self.spans.len() > n_same {
            // The state is that behind the last coloured line, which has changed.
            self.spans.clear();
            self.state = None;
        }
        let mut start = if n_same == 0 {
            0
        } else {
            self.lines[n_same - 1].end
        };
        self.lines.truncate(n_same);
        for line in text[start..].split_inclusive('\n') {
            // A line of a megabyte would be laid out in one go.
            let mut rest = line;
            while rest.len() > 4 * MAX_LINE_BYTES {
                let len = super::words::floor_boundary(rest, 4 * MAX_LINE_BYTES);
                self.lines.push(start..start + len);
                start += len;
                rest = &rest[len..];
            }
            self.lines.push(start..start + rest.len());
            start += rest.len();
        }
        self.text = text.into();
    }

    /// Colours more lines until `deadline`; whether lines are left. A last line without an end is
    /// coloured only if `is_closed`.
    pub fn highlight(&mut self, is_dark: bool, is_closed: bool, deadline: Instant) -> bool {
        if self.language.is_empty() || self.text.len() > MAX_CODE_BYTES {
            return false;
        }
        let n_whole = self.lines.len()
            - usize::from(!is_closed && !self.text.ends_with('\n') && !self.lines.is_empty());
        if self.is_dark == is_dark && self.spans.len() >= n_whole {
            return false;
        }
        let grammars = &*GRAMMARS;
        let theme = if is_dark {
            &grammars.dark
        } else {
            &grammars.light
        };
        let (Some(theme), Some(syntax)) = (
            theme,
            grammars.syntaxes.find_syntax_by_token(&self.language),
        ) else {
            return false;
        };
        if self.is_dark != is_dark {
            self.is_dark = is_dark;
            self.spans.clear();
            self.state = None;
        }
        let highlighter = Highlighter::new(theme);
        let (mut parse, mut highlight) = self.state.take().unwrap_or_else(|| {
            let state = HighlightState::new(&highlighter, ScopeStack::new());
            (ParseState::new(syntax), state)
        });
        let mut is_left = false;
        while self.spans.len() < n_whole {
            if Instant::now() >= deadline {
                is_left = true;
                break;
            }
            let range = self.lines[self.spans.len()].clone();
            let line = &self.text[range.clone()];
            let mut spans = Vec::new();
            if line.len() <= MAX_LINE_BYTES
                && let Ok(ops) = parse.parse_line(line, &grammars.syntaxes)
            {
                let mut start = range.start;
                for (style, piece) in
                    HighlightIterator::new(&mut highlight, &ops, line, &highlighter)
                {
                    let color = style.foreground;
                    let color = Color32::from_rgb(color.r, color.g, color.b);
                    spans.push((start..start + piece.len(), color));
                    start += piece.len();
                }
            }
            self.spans.push(spans);
        }
        self.state = Some((parse, highlight));
        is_left
    }

    /// These lines, laid out later; plain where they are not coloured yet.
    pub fn job(&self, lines: Range<usize>, font: &FontId, plain: Color32, width: f32) -> LayoutJob {
        let mut job = LayoutJob::default();
        job.wrap.max_width = width;
        let mut append = |range: Range<usize>, color| {
            let text = super::words::visible(&self.text[range]);
            job.append(&text, 0.0, TextFormat::simple(font.clone(), color));
        };
        let last = lines.end.saturating_sub(1);
        for line in lines {
            let mut range = self.lines[line].clone();
            if line == last {
                // A line end would show as an empty line.
                let text = &self.text[range.clone()];
                range.end = range.start + text.trim_end_matches(['\n', '\r']).len();
            }
            match self.spans.get(line) {
                Some(spans) if !spans.is_empty() => {
                    for (span, color) in spans {
                        append(span.start..span.end.min(range.end).max(span.start), *color);
                    }
                }
                _ => append(range, plain),
            }
        }
        job
    }
}

/// Lines of a part: a long block is laid out part by part, as it is scrolled to.
pub const PART_LINES: usize = 60;

/// One part of a code block, `lines` of it, in a frame that goes on to the parts beside it.
pub fn code_ui(
    ui: &mut Ui,
    code: &mut Code,
    lines: Range<usize>,
    is_closed: bool,
    deadline: Instant,
) {
    let is_first = lines.start == 0;
    let is_last = lines.end == code.n_lines();
    if code.highlight(ui.visuals().dark_mode, is_closed, deadline) {
        ui.ctx().request_repaint();
    }
    let radius = ui.visuals().widgets.noninteractive.corner_radius;
    let mut corners = egui::CornerRadius::ZERO;
    if is_first {
        (corners.nw, corners.ne) = (radius.nw, radius.ne);
    }
    if is_last {
        (corners.sw, corners.se) = (radius.sw, radius.se);
    }
    let margin = egui::Margin {
        left: 8,
        right: 8,
        top: if is_first { 4 } else { 0 },
        bottom: if is_last { 8 } else { 0 },
    };
    let frame = egui::Frame::NONE
        .fill(ui.visuals().extreme_bg_color)
        .corner_radius(corners)
        .inner_margin(margin);
    frame.show(ui, |ui| {
        ui.set_width(ui.available_width());
        if is_first {
            ui.horizontal(|ui| {
                let name = if code.language.is_empty() {
                    "code"
                } else {
                    &code.language
                };
                ui.weak(super::words::shortened(name, 40));
                ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
                    let button = ui.small_button("Copy").on_hover_text("Copy this code");
                    if button.accessible_name("Copy code").clicked() {
                        ui.copy_text(code.text().trim_end_matches('\n').to_owned());
                    }
                });
            });
        }
        let font = egui::TextStyle::Monospace.resolve(ui.style());
        let plain = ui.visuals().text_color();
        let job = code.job(lines, &font, plain, ui.available_width());
        ui.add(egui::Label::new(job).wrap());
    });
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panic")]
mod tests {
    use super::*;

    fn never() -> Instant {
        Instant::now() + Duration::from_secs(600)
    }

    fn colours(code: &Code) -> Vec<Color32> {
        let job = code.job(
            0..code.n_lines(),
            &FontId::monospace(12.0),
            Color32::RED,
            500.0,
        );
        job.sections
            .iter()
            .map(|section| section.format.color)
            .collect()
    }

    #[test]
    fn code_that_grows_gets_the_colours_of_code_that_is_whole() {
        let text = "fn main() {\n    let s = \"a\n    b\"; // c\n}\n/* open\nstill */ let x = 1;";
        let mut whole = Code::new("rust", text);
        assert!(!whole.highlight(true, true, never()));
        let mut grown = Code::new("rust", "");
        for end in 0..=text.len() {
            grown.set_text(&text[..end]);
            grown.highlight(true, false, never());
        }
        grown.highlight(true, true, never());
        assert_eq!(colours(&grown), colours(&whole));
        assert!(
            colours(&whole)
                .iter()
                .collect::<std::collections::HashSet<_>>()
                .len()
                > 3
        );
        assert!(!colours(&whole).contains(&Color32::RED));

        // Another text leaves nothing of the first.
        grown.set_text("let y = 2;\n");
        grown.highlight(true, true, never());
        let mut fresh = Code::new("rust", "let y = 2;\n");
        fresh.highlight(true, true, never());
        assert_eq!(colours(&grown), colours(&fresh));
    }

    #[test]
    fn light_and_dark_differ() {
        let mut code = Code::new("rust", "let x = \"s\";\n");
        code.highlight(true, true, never());
        let dark = colours(&code);
        code.highlight(false, true, never());
        assert_ne!(dark, colours(&code));
    }

    #[test]
    fn what_cannot_be_coloured_in_time_is_plain() {
        for (language, text) in [
            ("", "plain"),
            ("no-such-language", "plain"),
            ("rust", &"x".repeat(3 * MAX_LINE_BYTES)),
            ("rust", &"let x = 1;\n".repeat(MAX_CODE_BYTES / 5)),
        ] {
            let mut code = Code::new(language, text);
            assert!(!code.highlight(true, true, never()));
            assert!(colours(&code).iter().all(|color| *color == Color32::RED));
        }
        let mut code = Code::new("rust", &"let x = 1;\n".repeat(100));
        assert!(
            code.highlight(true, true, Instant::now()),
            "no time, so lines are left"
        );
    }

    #[test]
    fn a_long_line_is_cut_and_nothing_is_lost() {
        let text = format!("{}é\nb", "é".repeat(30_000));
        let code = Code::new("", &text);
        assert!(code.n_lines() > 10);
        let job = code.job(
            0..code.n_lines(),
            &FontId::monospace(12.0),
            Color32::RED,
            500.0,
        );
        assert_eq!(job.text, text);
        assert_eq!(Code::new("", "").n_lines(), 0);
    }
}
