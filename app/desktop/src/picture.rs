//! What a view exports: its data as a table, and a picture of it with labels.
//!
//! A [`Picture`] is a list of rectangles, lines and texts that is written as SVG or PNG; a [`Table`] becomes CSV or
//! JSON. Which of them a view has to offer is told by the inspector; writing files is the app's business.

mod png;
mod svg;
mod table;

use eframe::egui::Color32;

use crate::palette::Palette;
pub use table::{Column, Field, Table};

/// Something drawn.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    /// A filled rectangle.
    Rect {
        /// Left, top, width, height.
        rect: [f32; 4],
        /// Fill.
        fill: Color32,
    },
    /// A line.
    Line {
        /// Start.
        from: [f32; 2],
        /// End.
        to: [f32; 2],
        /// Width.
        width: f32,
        /// Colour.
        color: Color32,
    },
    /// One line of text.
    Text {
        /// Where: on the base line, left, in the middle or right as the anchor says.
        at: [f32; 2],
        /// Which part of the text is there.
        anchor: Anchor,
        /// Size in pixels.
        size: f32,
        /// Colour.
        color: Color32,
        /// Text.
        text: String,
    },
}

/// Which part of a text lies where the text is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// Its left end.
    Start,
    /// Its middle.
    Middle,
    /// Its right end.
    End,
}

/// A picture, in pixels from the upper left corner.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    /// Width.
    pub width: f32,
    /// Height.
    pub height: f32,
    /// Title, also told to screen readers.
    pub title: String,
    /// What is drawn, in this order.
    pub shapes: Vec<Shape>,
}

/// What a picture says above itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Caption {
    /// Title.
    pub title: String,
    /// Lines below: model, query token, date, what is seen.
    pub lines: Vec<String>,
}

/// Width of every picture.
pub const WIDTH: f32 = 1000.0;
/// Room left of a plot, for the names of its rows.
pub const LEFT: f32 = 150.0;
/// Room right of a plot.
pub const RIGHT: f32 = 30.0;

const INK: Color32 = Color32::BLACK;
const GREY: Color32 = Color32::from_gray(90);

impl Picture {
    /// A picture with a caption. Gives the height at which its content starts.
    pub fn new(caption: &Caption) -> (Self, f32) {
        let mut picture = Self {
            width: WIDTH,
            height: 0.0,
            title: caption.title.clone(),
            shapes: Vec::new(),
        };
        picture.text([20.0, 36.0], Anchor::Start, 20.0, INK, &caption.title);
        let mut y = 58.0;
        for line in &caption.lines {
            picture.text([20.0, y], Anchor::Start, 13.0, GREY, &shortened(line, 140));
            y += 18.0;
        }
        picture.height = y + 10.0;
        (picture, y + 10.0)
    }

    /// Adds a rectangle.
    pub fn rect(&mut self, rect: [f32; 4], fill: Color32) {
        if rect.iter().all(|number| number.is_finite()) {
            self.height = self.height.max(rect[1] + rect[3] + 10.0);
            self.shapes.push(Shape::Rect { rect, fill });
        }
    }

    /// Adds a line.
    pub fn line(&mut self, from: [f32; 2], to: [f32; 2], width: f32, color: Color32) {
        if from.iter().chain(&to).all(|number| number.is_finite()) {
            self.height = self.height.max(from[1].max(to[1]) + 10.0);
            self.shapes.push(Shape::Line {
                from,
                to,
                width,
                color,
            });
        }
    }

    /// Adds a text.
    pub fn text(&mut self, at: [f32; 2], anchor: Anchor, size: f32, color: Color32, text: &str) {
        self.height = self.height.max(at[1] + 12.0);
        self.shapes.push(Shape::Text {
            at,
            anchor,
            size,
            color,
            text: text.to_owned(),
        });
    }

    /// Adds a legend at height `y`. Gives the height below it.
    pub fn legend(&mut self, y: f32, entries: &[(Color32, String)]) -> f32 {
        let (mut x, mut y) = (LEFT, y + 6.0);
        for (color, words) in entries {
            let width = 28.0 + 7.5 * words.chars().count() as f32;
            if x + width > WIDTH - RIGHT && x > LEFT {
                (x, y) = (LEFT, y + 20.0);
            }
            self.rect([x, y, 12.0, 12.0], *color);
            self.text([x + 17.0, y + 11.0], Anchor::Start, 12.0, INK, words);
            x += width;
        }
        y + 24.0
    }

    /// Adds horizontal bars, longest `most`: name, value or none, words behind the bar, colour. Gives the height
    /// below them.
    pub fn bars(&mut self, y: f32, axis: &str, most: f64, bars: &[Bar]) -> f32 {
        // The words behind the longest bar find room, too.
        let room = WIDTH - LEFT - RIGHT - 290.0;
        let mut y = y;
        self.text([LEFT, y + 10.0], Anchor::Start, 12.0, GREY, axis);
        y += 18.0;
        for bar in bars {
            self.text(
                [LEFT - 8.0, y + 12.0],
                Anchor::End,
                12.0,
                INK,
                &shortened(&bar.name, 19),
            );
            let mut x = LEFT;
            for &(value, color) in &bar.parts {
                if value.is_finite() && value > 0.0 && most > 0.0 {
                    let width = (value / most).min(1.0) as f32 * room;
                    self.rect([x, y + 1.0, width.max(1.0), 14.0], color);
                    x += width;
                }
            }
            self.text(
                [x + 6.0, y + 12.0],
                Anchor::Start,
                12.0,
                INK,
                &shortened(&bar.words, 60),
            );
            y += 18.0;
        }
        self.height = self.height.max(y + 10.0);
        y + 10.0
    }

    /// Adds a matrix of colours with names at its rows and numbers under its columns. `ticks` gives the share of the
    /// width and the words. Gives the height below it.
    pub fn matrix(&mut self, y: f32, matrix: &Matrix<'_>) -> f32 {
        let Matrix { width, height, .. } = *matrix;
        let mut y = y;
        self.text([20.0, y + 10.0], Anchor::Start, 12.0, GREY, matrix.row_axis);
        y += 18.0;
        let row_height = (420.0 / height.max(1) as f32).clamp(4.0, 22.0);
        let room = WIDTH - LEFT - RIGHT;
        self.rect(
            [LEFT, y, room, row_height * height as f32],
            Palette::PAPER.ground(),
        );
        let every = ((13.0 / row_height).ceil() as usize).max(1);
        for row in 0..height {
            let top = y + row as f32 * row_height;
            if row % every == 0 {
                let name = shortened(&(matrix.row_name)(row), 19);
                let at = [LEFT - 8.0, top + row_height / 2.0 + 4.0];
                self.text(at, Anchor::End, 11.0, INK, &name);
            }
            // One rectangle per run of one colour.
            let colors = &matrix.colors[row * width..(row + 1) * width];
            let x = |column: usize| LEFT + room * column as f32 / width.max(1) as f32;
            let mut from = 0;
            for column in 1..=width {
                if column == width || colors[column] != colors[from] {
                    if colors[from] != Palette::PAPER.ground() {
                        let wide = x(column) - x(from);
                        self.rect([x(from), top, wide, row_height], colors[from]);
                    }
                    from = column;
                }
            }
        }
        y += row_height * height as f32;
        self.line([LEFT, y], [LEFT + room, y], 1.0, GREY);
        for (share, words) in matrix.ticks {
            let x = LEFT + room * share;
            self.line([x, y], [x, y + 4.0], 1.0, GREY);
            self.text([x, y + 16.0], Anchor::Middle, 11.0, INK, words);
        }
        let middle = [LEFT + room / 2.0, y + 32.0];
        self.text(middle, Anchor::Middle, 12.0, GREY, matrix.column_axis);
        y + 44.0
    }

    /// As SVG, complete in itself.
    pub fn to_svg(&self) -> String {
        svg::svg(self)
    }

    /// As PNG with `scale` pixels per unit.
    ///
    /// # Errors
    /// If the picture is too large to be held.
    pub fn to_png(&self, scale: f32) -> anyhow::Result<Vec<u8>> {
        png::png(self, scale)
    }
}

/// A bar of [`Picture::bars`].
#[derive(Clone, Debug, PartialEq)]
pub struct Bar {
    /// Name, left of it.
    pub name: String,
    /// Lengths that lie one behind the other, and their colours.
    pub parts: Vec<(f64, Color32)>,
    /// Words behind it.
    pub words: String,
}

/// Colours for [`Picture::matrix`].
pub struct Matrix<'a> {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `height × width` colours, row-major.
    pub colors: &'a [Color32],
    /// Name of a row.
    pub row_name: &'a dyn Fn(usize) -> String,
    /// What a row is.
    pub row_axis: &'a str,
    /// What a column is.
    pub column_axis: &'a str,
    /// Share of the width, and what is written there.
    pub ticks: &'a [(f32, String)],
}

/// `text` in at most `n` characters, with an ellipsis where some are missing.
pub fn shortened(text: &str, n: usize) -> String {
    if text.chars().count() <= n {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(n.saturating_sub(1)).collect();
    short.push('…');
    short
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panic")]
mod tests;
