//! An answer as tokens that can be clicked, wrapped like any text.

use std::ops::Range;

use egui::text::{LayoutJob, TextFormat};
use egui::{Color32, Pos2, Rect, Role, Sense, Stroke, StrokeKind, Ui, WidgetInfo, vec2};

use super::words::visible;
use super::{ChatAction, TokenSpan};

/// What a token is shown as: no token is invisible, since each can be clicked.
fn shown(text: &str) -> String {
    if text.is_empty() {
        // A part of a character.
        return "·".into();
    }
    let text = visible(text);
    if text.chars().all(|c| c == '\n') {
        return text.replace('\n', "¶\n");
    }
    text.into_owned()
}

/// Black or white, whichever reads better on `tint` over `ground`.
fn text_color(tint: Color32, ground: Color32) -> Color32 {
    let ground = ground.blend(tint);
    let [r, g, b] = [ground.r(), ground.g(), ground.b()].map(f32::from);
    if 0.299 * r + 0.587 * g + 0.114 * b > 140.0 {
        Color32::BLACK
    } else {
        Color32::WHITE
    }
}

/// Draws tokens and says what was clicked and hovered. `hovered` is what the pointer was over.
pub fn tokens_ui(
    ui: &mut Ui,
    tokens: &[TokenSpan<'_>],
    hovered: &mut Option<usize>,
    actions: &mut Vec<ChatAction>,
) {
    let font = egui::TextStyle::Body.resolve(ui.style());
    let plain = ui.visuals().text_color();
    let ground = ui.visuals().panel_fill;
    let mut job = LayoutJob::default();
    job.wrap.max_width = ui.available_width();
    let mut n_chars = Vec::with_capacity(tokens.len());
    for token in tokens {
        let text = shown(token.text);
        let mut format = TextFormat::simple(font.clone(), plain);
        if let Some(tint) = token.tint {
            format.background = tint;
            format.color = text_color(tint, ground);
        }
        n_chars.push(text.chars().count());
        job.append(&text, 0.0, format);
    }
    // A line end at the end would show as an empty line.
    if job.text.ends_with('\n') {
        job.text.pop();
        if let Some(section) = job.sections.last_mut() {
            section.byte_range.end = job.text.len().into();
        }
        if let Some(n) = n_chars.last_mut() {
            *n -= 1;
        }
    }
    let galley = ui.fonts_mut(|fonts| fonts.layout_job(job));
    let (rect, _) = ui.allocate_exact_size(galley.size(), Sense::hover());
    let rects = token_rects(&galley, rect.min, &n_chars);
    ui.painter().galley(rect.min, galley, plain);
    let clip = ui.clip_rect();
    let mut now = None;
    for (token, rects) in tokens.iter().zip(rects) {
        // A token that goes on in the next line is one widget where most of it is.
        let Some(main) = rects.clone().max_by(|a, b| a.width().total_cmp(&b.width())) else {
            continue;
        };
        let frame = if token.is_selected {
            Some(Stroke::new(2.0, ui.visuals().selection.stroke.color))
        } else if token.is_hovered {
            Some(ui.visuals().widgets.hovered.fg_stroke)
        } else {
            None
        };
        if let Some(stroke) = frame {
            for rect in rects.clone() {
                ui.painter()
                    .rect_stroke(rect, 2.0, stroke, StrokeKind::Inside);
            }
        }
        if !clip.intersects(main) {
            continue;
        }
        let id = ui.scope_id().with(("token", token.position));
        // Not a stop of the tab key: there are thousands, and keys step through them otherwise.
        let response = ui.interact(main, id, Sense::CLICK);
        response.widget_info(|| {
            let label = format!("Token {}: {}", token.position, token.text);
            WidgetInfo::selected(Role::Button, true, token.is_selected, label)
        });
        if response.clicked() {
            actions.push(ChatAction::InspectToken(token.position));
        }
        if response.hovered() {
            now = Some(token.position);
            ui.set_cursor_icon(egui::CursorIcon::PointingHand);
        }
    }
    let is_mine =
        hovered.is_some_and(|position| tokens.iter().any(|token| token.position == position));
    if now != *hovered && (now.is_some() || is_mine) {
        *hovered = now;
        actions.push(ChatAction::HoverToken(now));
    }
}

/// Where each token is: one rectangle a line.
fn token_rects(
    galley: &egui::Galley,
    origin: Pos2,
    n_chars: &[usize],
) -> Vec<impl Iterator<Item = Rect> + Clone + use<>> {
    let mut rects: Vec<Rect> = Vec::with_capacity(n_chars.len());
    let mut ranges: Vec<Range<usize>> = Vec::with_capacity(n_chars.len());
    let mut rows = galley.rows.iter();
    let mut row = rows.next();
    let mut glyph = 0;
    for &n in n_chars {
        let start = rects.len();
        let mut left = n;
        while left > 0 {
            let Some(placed) = row else { break };
            let glyphs = &placed.row.glyphs;
            let take = left.min(glyphs.len().saturating_sub(glyph));
            if take > 0 {
                let (first, last) = (&glyphs[glyph], &glyphs[glyph + take - 1]);
                let min = origin + placed.pos.to_vec2() + vec2(first.pos.x, 0.0);
                let width = (last.max_x() - first.pos.x).max(1.0);
                rects.push(Rect::from_min_size(min, vec2(width, placed.row.size.y)));
                glyph += take;
                left -= take;
            }
            if glyph == glyphs.len() && left > 0 {
                left -= usize::from(placed.ends_with_newline);
                row = rows.next();
                glyph = 0;
            }
        }
        ranges.push(start..rects.len());
    }
    let rects: std::sync::Arc<[Rect]> = rects.into();
    ranges
        .into_iter()
        .map(|range| {
            let rects = rects.clone();
            range.map(move |i| rects[i])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_token_is_invisible() {
        assert_eq!(shown(""), "·");
        assert_eq!(shown("\n"), "¶\n");
        assert_eq!(shown("\n\n"), "¶\n¶\n");
        assert_eq!(shown("\u{7}"), "¤");
        assert_eq!(shown(" kite"), " kite");
    }

    #[test]
    fn text_reads_on_every_tint() {
        assert_eq!(text_color(Color32::YELLOW, Color32::BLACK), Color32::BLACK);
        assert_eq!(text_color(Color32::BLUE, Color32::WHITE), Color32::WHITE);
        assert_eq!(
            text_color(Color32::TRANSPARENT, Color32::WHITE),
            Color32::BLACK
        );
        assert_eq!(
            text_color(Color32::TRANSPARENT, Color32::BLACK),
            Color32::WHITE
        );
    }
}
