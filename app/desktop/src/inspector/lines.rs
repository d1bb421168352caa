//! Breaks the tokens of a transcript into lines, so that only the visible ones are drawn.
//!
//! Tokens are kept whole. What is laid out stays laid out: a token that comes costs one token, and a change costs
//! what lies behind it.

use super::parts;
use crate::recording::Recording;

/// Where a token is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Place {
    /// Line.
    pub line: u32,
    /// Left end, in points.
    pub x: f32,
    /// Width; 0 if it is not shown.
    pub width: f32,
}

/// Tokens broken into lines.
#[derive(Debug, Default)]
pub struct Lines {
    width: f32,
    glyph_key: f32,
    show_special: bool,
    ids: Vec<Option<u32>>,
    places: Vec<Place>,
    /// First token of each line.
    firsts: Vec<usize>,
    /// Where the next token goes.
    x: f32,
    breaks: bool,
}

impl Lines {
    /// Lays out what has changed. `measure` gives the width of a text in points, `glyph_key` tells fonts apart.
    pub fn update(
        &mut self,
        recording: &Recording,
        width: f32,
        glyph_key: f32,
        show_special: bool,
        mut measure: impl FnMut(&str) -> f32,
    ) {
        let same =
            self.width == width && self.glyph_key == glyph_key && self.show_special == show_special;
        if !same {
            *self = Self {
                width,
                glyph_key,
                show_special,
                ..Self::default()
            };
        }
        let n_tokens = recording.n_tokens();
        let id = |position: usize| recording.token(position).map(|token| token.id);
        let unchanged = (0..self.ids.len().min(n_tokens))
            .take_while(|&position| self.ids[position] == id(position))
            .count();
        if unchanged < self.ids.len() {
            self.cut(unchanged);
        }
        for position in self.ids.len()..n_tokens {
            let token = recording.token(position);
            let text = token.map_or("?", |token| token.text.as_str());
            let is_hidden = !show_special && parts::is_special(text);
            let token_width = if is_hidden {
                0.0
            } else {
                measure(&parts::visible_text(text)).clamp(4.0, width.max(4.0))
            };
            let full = self.x > 0.0 && self.x + token_width > width;
            if self.firsts.is_empty() || self.breaks || full {
                self.firsts.push(position);
                self.x = 0.0;
            }
            self.places.push(Place {
                line: self.firsts.len() as u32 - 1,
                x: self.x,
                width: token_width,
            });
            self.ids.push(token.map(|token| token.id));
            self.x += token_width;
            // A hidden token parts messages.
            self.breaks = text.ends_with('\n') || (is_hidden && self.x > 0.0);
        }
    }

    /// Forgets everything from the line of `position` on.
    fn cut(&mut self, position: usize) {
        let line = self.places.get(position).map_or(0, |place| place.line) as usize;
        let first = self.firsts.get(line).copied().unwrap_or(0);
        self.firsts.truncate(line);
        self.places.truncate(first);
        self.ids.truncate(first);
        // The next token starts a line, as it did before.
        self.breaks = true;
        self.x = 0.0;
    }

    /// Lines.
    pub fn n_lines(&self) -> usize {
        self.firsts.len()
    }

    /// Tokens of a line.
    pub fn tokens(&self, line: usize) -> std::ops::Range<usize> {
        let first = self.firsts.get(line).copied().unwrap_or(0);
        let end = self.firsts.get(line + 1).copied();
        first..end.unwrap_or(self.places.len())
    }

    /// Where a token is.
    pub fn place(&self, position: usize) -> Option<Place> {
        self.places.get(position).copied()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panic")]
mod tests {
    use super::*;
    use crate::inspector::testing;

    fn laid_out(lines: &mut Lines, recording: &Recording, width: f32, special: bool) -> usize {
        let mut n_measured = 0;
        lines.update(recording, width, 1.0, special, |text| {
            n_measured += 1;
            text.chars().count() as f32 * 10.0
        });
        n_measured
    }

    fn texts(recording: &Recording, lines: &Lines) -> Vec<String> {
        (0..lines.n_lines())
            .map(|line| {
                let tokens = lines.tokens(line);
                tokens
                    .map(|p| recording.token(p).unwrap().text.clone())
                    .collect()
            })
            .collect()
    }

    #[test]
    fn lines_break_at_newlines_and_where_they_are_full() {
        let recording = testing::with_texts(&["one", " two", " three", "\n", "four"]);
        let mut lines = Lines::default();
        laid_out(&mut lines, &recording, 80.0, true);
        assert_eq!(texts(&recording, &lines), ["one two", " three\n", "four"]);
        assert_eq!(
            lines.place(1).unwrap(),
            Place {
                line: 0,
                x: 30.0,
                width: 40.0
            }
        );
    }

    #[test]
    fn a_token_wider_than_the_line_gets_a_line() {
        let recording = testing::with_texts(&["a", "extraordinarily", "b"]);
        let mut lines = Lines::default();
        laid_out(&mut lines, &recording, 50.0, true);
        assert_eq!(texts(&recording, &lines), ["a", "extraordinarily", "b"]);
        assert_eq!(lines.place(1).unwrap().width, 50.0);
    }

    #[test]
    fn hidden_template_tokens_part_messages() {
        let recording = testing::with_texts(&["<｜User｜>", "hi", "<｜Assistant｜>", "hello"]);
        let mut lines = Lines::default();
        laid_out(&mut lines, &recording, 1000.0, false);
        assert_eq!(lines.n_lines(), 2);
        assert_eq!(lines.place(0).unwrap().width, 0.0);
        laid_out(&mut lines, &recording, 1000.0, true);
        assert_eq!(lines.n_lines(), 1);
        assert!(lines.place(0).unwrap().width > 0.0);
    }

    #[test]
    fn what_is_laid_out_is_not_measured_again() {
        let mut all: Vec<String> = (0..1000).map(|i| format!(" w{i}")).collect();
        let of = |texts: &[String]| {
            testing::with_texts(&texts.iter().map(String::as_str).collect::<Vec<_>>())
        };
        let mut lines = Lines::default();
        assert_eq!(laid_out(&mut lines, &of(&all), 300.0, true), 1000);
        assert_eq!(laid_out(&mut lines, &of(&all), 300.0, true), 0);
        all.push(" more".to_owned());
        assert_eq!(laid_out(&mut lines, &of(&all), 300.0, true), 1);
        // Another width: all of it.
        assert_eq!(laid_out(&mut lines, &of(&all), 200.0, true), 1001);
    }

    #[test]
    fn after_a_change_it_is_as_if_laid_out_anew() {
        let before: Vec<String> = (0..100).map(|i| format!(" w{i}")).collect();
        let of = |texts: &[String]| {
            testing::with_texts(&texts.iter().map(String::as_str).collect::<Vec<_>>())
        };
        for keep in [0, 1, 37, 99, 100] {
            let mut after = before[..keep].to_vec();
            after.extend(["x\n".to_owned(), "y".to_owned()]);
            let (mut changed, mut anew) = (Lines::default(), Lines::default());
            laid_out(&mut changed, &of(&before), 160.0, true);
            laid_out(&mut changed, &of(&after), 160.0, true);
            laid_out(&mut anew, &of(&after), 160.0, true);
            assert_eq!(changed.places, anew.places, "kept {keep}");
            assert_eq!(changed.firsts, anew.firsts, "kept {keep}");
        }
    }
}
