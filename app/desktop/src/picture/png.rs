//! Draws a picture into pixels. Text is laid out by egui's fonts and copied from their atlas.

use anyhow::Context as _;
use eframe::egui::epaint::text::{FontDefinitions, Fonts, TextOptions};
use eframe::egui::{Color32, ColorImage, FontId};

use super::{Anchor, Picture, Shape};

/// No side of a picture is longer, in pixels.
const LONGEST: f32 = 16_384.0;

/// The picture as a PNG file with `scale` pixels per unit.
pub fn png(picture: &Picture, scale: f32) -> anyhow::Result<Vec<u8>> {
    let (width, height) = (
        (picture.width * scale).ceil(),
        (picture.height * scale).ceil(),
    );
    anyhow::ensure!(
        (1.0..=LONGEST).contains(&width) && (1.0..=LONGEST).contains(&height),
        "picture of {width} x {height} pixels, expected 1 to {LONGEST} on a side"
    );
    let mut canvas = Canvas {
        width: width as usize,
        height: height as usize,
        scale,
        pixels: vec![[255; 3]; width as usize * height as usize],
    };
    let mut fonts = Fonts::new(TextOptions::default(), FontDefinitions::default());
    // Glyphs enter the atlas when text is laid out, so it is read after all of it is.
    let mut galleys = Vec::new();
    for shape in &picture.shapes {
        if let Shape::Text { text, size, .. } = shape {
            let font = FontId::proportional(*size);
            let line = text.replace(['\n', '\r'], " ");
            let mut view = fonts.with_pixels_per_point(scale);
            galleys.push(view.layout_no_wrap(line, font, Color32::WHITE));
        }
    }
    let atlas = fonts.image();
    let mut galleys = galleys.iter();
    for shape in &picture.shapes {
        match shape {
            Shape::Rect { rect, fill } => canvas.rect(*rect, *fill),
            Shape::Line {
                from,
                to,
                width,
                color,
            } => canvas.line(*from, *to, *width, *color),
            Shape::Text {
                at, anchor, color, ..
            } => {
                if let Some(galley) = galleys.next() {
                    canvas.text(galley, &atlas, *at, *anchor, *color);
                }
            }
        }
    }
    let bytes: Vec<u8> = canvas.pixels.concat();
    let image = image::RgbImage::from_raw(canvas.width as u32, canvas.height as u32, bytes)
        .context("pixels do not fill the picture")?;
    let mut out = std::io::Cursor::new(Vec::new());
    image.write_to(&mut out, image::ImageFormat::Png)?;
    Ok(out.into_inner())
}

struct Canvas {
    width: usize,
    height: usize,
    scale: f32,
    pixels: Vec<[u8; 3]>,
}

impl Canvas {
    /// `share` of `color` over what is there.
    fn blend(&mut self, x: i64, y: i64, color: Color32, share: f32) {
        if x < 0 || y < 0 || x as usize >= self.width || y as usize >= self.height {
            return;
        }
        let pixel = &mut self.pixels[y as usize * self.width + x as usize];
        for (channel, new) in pixel.iter_mut().zip([color.r(), color.g(), color.b()]) {
            let old = f32::from(*channel);
            *channel = (old + (f32::from(new) - old) * share.clamp(0.0, 1.0)).round() as u8;
        }
    }

    fn rect(&mut self, [x, y, width, height]: [f32; 4], fill: Color32) {
        let edge = |at: f32, most: usize| ((at * self.scale).round().max(0.0) as usize).min(most);
        let (left, top) = (edge(x, self.width), edge(y, self.height));
        // Nothing that has a size vanishes.
        let right = edge(x + width, self.width).max((left + 1).min(self.width));
        let bottom = edge(y + height, self.height).max((top + 1).min(self.height));
        for row in top..bottom {
            let line = row * self.width;
            self.pixels[line + left..line + right].fill([fill.r(), fill.g(), fill.b()]);
        }
    }

    fn line(&mut self, from: [f32; 2], to: [f32; 2], width: f32, color: Color32) {
        let [from, to] = [from, to].map(|at| at.map(|c| c * self.scale));
        let half = (width * self.scale / 2.0).max(0.5);
        let along = [to[0] - from[0], to[1] - from[1]];
        let length = along[0].mul_add(along[0], along[1] * along[1]);
        let bounds = |axis: usize, most: usize| {
            let low = (from[axis].min(to[axis]) - half - 1.0).floor().max(0.0) as i64;
            let high = (from[axis].max(to[axis]) + half + 1.0).ceil().max(0.0) as i64;
            low..high.min(most as i64)
        };
        for y in bounds(1, self.height) {
            for x in bounds(0, self.width) {
                let at = [x as f32 + 0.5 - from[0], y as f32 + 0.5 - from[1]];
                let t = if length > 0.0 {
                    ((at[0] * along[0] + at[1] * along[1]) / length).clamp(0.0, 1.0)
                } else {
                    0.0
                };
                let distance = (at[0] - t * along[0]).hypot(at[1] - t * along[1]);
                self.blend(x, y, color, half + 0.5 - distance);
            }
        }
    }

    fn text(
        &mut self,
        galley: &eframe::egui::Galley,
        atlas: &ColorImage,
        at: [f32; 2],
        anchor: Anchor,
        color: Color32,
    ) {
        let left = match anchor {
            Anchor::Start => at[0],
            Anchor::Middle => at[0] - galley.size().x / 2.0,
            Anchor::End => at[0] - galley.size().x,
        };
        for row in &galley.rows {
            let ascent = row
                .row
                .glyphs
                .first()
                .map_or(0.0, |glyph| glyph.font_ascent);
            let top = at[1] - ascent;
            let mesh = &row.row.visuals.mesh;
            let glyphs = &mesh.vertices[row.row.visuals.glyph_vertex_range.clone()];
            // Left top, right top, left bottom, right bottom.
            for corners in glyphs.chunks_exact(4) {
                let (first, last) = (&corners[0], &corners[3]);
                let to_pixel = |at: f32| (at * self.scale).round() as i64;
                let x = to_pixel(left + row.pos.x + first.pos.x);
                let y = to_pixel(top + row.pos.y + first.pos.y);
                let (u, v) = (first.uv.x as usize, first.uv.y as usize);
                let (width, height) = (
                    (last.uv.x as usize).saturating_sub(u),
                    (last.uv.y as usize).saturating_sub(v),
                );
                for dy in 0..height {
                    for dx in 0..width {
                        let (column, line) = (u + dx, v + dy);
                        if column < atlas.width() && line < atlas.height() {
                            let cover = atlas.pixels[line * atlas.width() + column].a();
                            let share = f32::from(cover) / 255.0;
                            self.blend(x + dx as i64, y + dy as i64, color, share);
                        }
                    }
                }
            }
        }
    }
}
