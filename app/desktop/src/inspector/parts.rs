//! Small things that several views draw or say.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use eframe::egui::{
    self, Align2, Color32, FontId, Rect, Response, Sense, Stroke, TextStyle, Ui, WidgetInfo, pos2,
    vec2,
};

use super::{InspectorAction, Shown, State};
use crate::palette::Palette;
use crate::picture::shortened;
use crate::recording::{Origin, Recording};

/// Says what is missing, and offers what gets it.
pub fn missing_ui(
    ui: &mut Ui,
    sentence: &str,
    offer: Option<(&str, bool, InspectorAction)>,
    actions: &mut Vec<InspectorAction>,
) {
    ui.add_space(8.0);
    ui.label(sentence);
    if let Some((name, enabled, action)) = offer {
        let button = ui.add_enabled(enabled, egui::Button::new(name));
        let button = button.on_disabled_hover_text("Needs a model that is loaded and idle");
        if button.clicked() {
            actions.push(action);
        }
    }
    ui.add_space(8.0);
}

/// The recording and the pass that a view is about; says what is missing if there is none.
pub fn pass_or_missing<'a>(
    ui: &mut Ui,
    shown: &Shown<'a>,
    state: &State,
    actions: &mut Vec<InspectorAction>,
) -> Option<(&'a Recording, usize)> {
    let Some((recording, query)) = state.shown_pass(shown) else {
        nothing_ui(ui, shown, actions);
        return None;
    };
    if !recording.is_recorded(query) {
        let sentence = format!("The pass that read token {query} was not recorded.");
        let offer = ("Record the whole conversation", shown.can_run);
        let offer = Some((offer.0, offer.1, InspectorAction::RecordWhole));
        missing_ui(ui, &sentence, offer, actions);
        return None;
    }
    Some((recording, query))
}

/// Says that there is no recording.
pub fn nothing_ui(ui: &mut Ui, shown: &Shown<'_>, actions: &mut Vec<InspectorAction>) {
    // Without a model there is neither: nothing is to come then.
    if shown.is_recording && (shown.can_run || shown.recording.is_some()) {
        ui.label("Recording: the first token is still to come.");
    } else if shown.can_run {
        let offer = ("Record the whole conversation", true);
        let offer = Some((offer.0, offer.1, InspectorAction::RecordWhole));
        missing_ui(ui, "Nothing has been recorded yet.", offer, actions);
    } else {
        let offer = Some(("Open a trace…", true, InspectorAction::OpenTrace));
        missing_ui(ui, "Nothing has been recorded yet.", offer, actions);
    }
}

/// A number that changes when what is shown does.
pub fn version(shown: &Shown<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    shown.revision.hash(&mut hasher);
    for recording in [shown.recording, shown.dense] {
        recording.map(Recording::n_tokens).hash(&mut hasher);
    }
    hasher.finish()
}

/// A token's text as it is drawn: white space that would not be seen is made visible, and signs of tokenizers that the
/// fonts at hand do not have are replaced by those that look like them.
pub fn visible_text(text: &str) -> String {
    let mut visible = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => visible.push(NEWLINE),
            '\t' => visible.push_str("\\t"),
            '\r' => visible.push_str("\\r"),
            '｜' => visible.push('|'),
            '▁' => visible.push('_'),
            c if c.is_control() => visible.push('·'),
            c => visible.push(c),
        }
    }
    visible
}

/// What stands for the end of a line.
pub const NEWLINE: char = '¶';

/// A token's text in quotation marks, short.
pub fn quoted(recording: &Recording, position: usize) -> String {
    match recording.token(position) {
        Some(token) => format!("‘{}’", shortened(&visible_text(&token.text), 24)),
        None => "unknown".to_owned(),
    }
}

/// A token's text, short, for the column of a map.
pub fn column_text(recording: &Recording, position: usize) -> String {
    recording.token(position).map_or_else(
        || "?".to_owned(),
        |token| shortened(&visible_text(&token.text), 12),
    )
}

/// A token in words: where it is, what it reads, who wrote it.
pub fn token_words(recording: &Recording, position: usize) -> String {
    let origin = match recording.token(position).map(|token| token.origin) {
        Some(Origin::Prompt) => ", given",
        Some(Origin::Generated) => ", written by the model",
        None => "",
    };
    format!(
        "Token {position} of {}: {}{origin}",
        recording.n_tokens(),
        quoted(recording, position)
    )
}

/// A token with the text around it: before, itself, after.
pub fn in_context(recording: &Recording, position: usize, n: usize) -> (String, String, String) {
    let text = |positions: std::ops::Range<usize>| -> String {
        positions
            .map(|position| {
                let token = recording.token(position);
                token.map_or_else(|| "?".to_owned(), |token| visible_text(&token.text))
            })
            .collect()
    };
    let before = text(position.saturating_sub(n)..position);
    let after = text(position + 1..(position + 1 + n).min(recording.n_tokens()));
    (before, text(position..position + 1), after)
}

/// A token with the text around it in one line, itself in brackets.
pub fn context_line(recording: &Recording, position: usize) -> String {
    let (before, token, after) = in_context(recording, position, 6);
    format!("…{before}«{token}»{after}…")
}

/// Whether a token is part of the template: its text is a name in angle brackets, as tokenizers have it.
pub fn is_special(text: &str) -> bool {
    let bars = ['|', '｜'];
    let marked = text
        .strip_prefix('<')
        .and_then(|text| text.strip_suffix('>'))
        .is_some_and(|name| name.starts_with(bars) && name.ends_with(bars) && name.len() > 2);
    marked || ["<think>", "</think>", "<s>", "</s>", "<pad>", "<unk>"].contains(&text)
}

/// A share in per cent.
pub fn percent(share: f32) -> String {
    if share.is_nan() {
        "not a number".to_owned()
    } else if share > 0.0 && share < 0.001 {
        "< 0.1 %".to_owned()
    } else {
        format!("{:.1} %", 100.0 * share)
    }
}

/// A number of bytes with a binary unit.
pub fn bytes(n: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut n = n;
    let mut unit = 0;
    while n >= 1024.0 && unit + 1 < units.len() {
        n /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(unit > 0);
    format!("{n:.digits$} {}", units[unit])
}

/// Words for a number that may not have been recorded.
pub fn or_not_recorded<T>(value: Option<T>, words: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| "not recorded".to_owned(), words)
}

/// Coloured squares and what they mean.
pub fn legend_ui(ui: &mut Ui, entries: &[(Color32, &str)]) {
    ui.horizontal_wrapped(|ui| {
        for (color, words) in entries {
            let (rect, _) = ui.allocate_exact_size(vec2(12.0, 12.0), Sense::hover());
            ui.painter().rect_filled(rect, 2.0, *color);
            ui.small(*words);
        }
    });
}

/// A band of colour from `from` to `to`.
pub fn scale_ui(ui: &mut Ui, color: impl Fn(f32) -> Color32, from: &str, to: &str) {
    ui.horizontal(|ui| {
        ui.small(from);
        let (rect, _) = ui.allocate_exact_size(vec2(120.0, 12.0), Sense::hover());
        let n = 60;
        for step in 0..n {
            let left = rect.left() + rect.width() * step as f32 / n as f32;
            let band = Rect::from_min_max(
                pos2(left, rect.top()),
                pos2(left + rect.width() / n as f32 + 0.5, rect.bottom()),
            );
            let t = step as f32 / (n - 1) as f32;
            ui.painter().rect_filled(band, 0.0, color(t));
        }
        ui.small(to);
    });
}

/// A row of [`table_ui`] that the pointer is on or that was clicked.
#[derive(Default)]
pub struct TableOutput {
    /// Under the pointer.
    pub hovered: Option<usize>,
    /// Clicked.
    pub clicked: Option<usize>,
}

/// A column of [`table_ui`].
pub struct TableColumn<'a> {
    /// Heading.
    pub name: &'a str,
    /// Width in points; the last column takes what is left.
    pub width: f32,
}

/// A table of texts of which only the visible rows are made. A row is one thing to click.
pub fn table_ui(
    ui: &mut Ui,
    name: &str,
    columns: &[TableColumn<'_>],
    n_rows: usize,
    marked: impl Fn(usize) -> bool,
    cell: impl Fn(usize, usize) -> String,
) -> TableOutput {
    let mut output = TableOutput::default();
    let height = ui.text_style_height(&TextStyle::Body) + 4.0;
    let width = ui.available_width();
    let font = FontId::proportional(12.5);
    let draw_row = |ui: &Ui, rect: Rect, texts: &[String], color: Color32| {
        let mut x = rect.left() + 4.0;
        for (index, (column, text)) in columns.iter().zip(texts).enumerate() {
            let right = if index + 1 == columns.len() {
                rect.right()
            } else {
                x + column.width
            };
            let place = Rect::from_min_max(pos2(x, rect.top()), pos2(right - 6.0, rect.bottom()));
            ui.painter_at(place.intersect(ui.clip_rect())).text(
                place.left_center(),
                Align2::LEFT_CENTER,
                text,
                font.clone(),
                color,
            );
            x = right;
        }
    };
    let (heading, response) = ui.allocate_exact_size(vec2(width, height), Sense::hover());
    let names: Vec<String> = columns
        .iter()
        .map(|column| column.name.to_owned())
        .collect();
    response.widget_info(|| WidgetInfo::labeled(egui::Role::Label, true, names.join(", ")));
    draw_row(ui, heading, &names, ui.visuals().weak_text_color());
    egui::ScrollArea::vertical()
        .id_salt(name)
        .max_height(240.0)
        .auto_shrink([false, true])
        .show_rows(ui, height, n_rows, |ui, rows| {
            for row in rows {
                let (rect, response) = ui.allocate_exact_size(vec2(width, height), Sense::click());
                let texts: Vec<String> =
                    (0..columns.len()).map(|column| cell(row, column)).collect();
                response.widget_info(|| {
                    let told: Vec<String> = names
                        .iter()
                        .zip(&texts)
                        .filter(|(_, text)| !text.is_empty())
                        .map(|(name, text)| format!("{name} {text}"))
                        .collect();
                    WidgetInfo::labeled(egui::Role::Button, true, told.join(", "))
                });
                row_ground_ui(ui, rect, &response, marked(row));
                draw_row(ui, rect, &texts, ui.visuals().text_color());
                if response.hovered() {
                    output.hovered = Some(row);
                }
                if response.clicked() {
                    output.clicked = Some(row);
                }
            }
        });
    output
}

/// The ground of a row that can be clicked.
pub fn row_ground_ui(ui: &Ui, rect: Rect, response: &Response, marked: bool) {
    if marked {
        ui.painter()
            .rect_filled(rect, 3.0, ui.visuals().faint_bg_color);
        let color = Palette::of(ui.visuals()).mark();
        let edge = [rect.left_top(), rect.left_bottom()];
        ui.painter().line_segment(edge, Stroke::new(2.0, color));
    } else if response.hovered() || response.has_focus() {
        ui.painter()
            .rect_filled(rect, 3.0, ui.visuals().widgets.hovered.weak_bg_fill);
    }
}

/// A bar with a name before it and words behind it. `parts` are shares of the whole length.
pub fn bar_ui(ui: &mut Ui, name: &str, parts: &[(f32, Color32)], words: &str) -> Response {
    let height = ui.text_style_height(&TextStyle::Body) + 2.0;
    let (rect, response) =
        ui.allocate_exact_size(vec2(ui.available_width(), height), Sense::hover());
    let told = format!("{name}: {words}");
    response.widget_info(|| WidgetInfo::labeled(egui::Role::Label, true, &told));
    let font = FontId::proportional(12.5);
    let name_width = (rect.width() * 0.25).clamp(60.0, 180.0);
    let words_width = (rect.width() * 0.35).clamp(80.0, 260.0);
    let left = rect.left() + name_width;
    let place = Rect::from_min_max(rect.left_top(), pos2(left - 6.0, rect.bottom()));
    ui.painter_at(place).text(
        place.right_center(),
        Align2::RIGHT_CENTER,
        name,
        font.clone(),
        ui.visuals().text_color(),
    );
    let room = (rect.right() - words_width - left).max(20.0);
    let mut x = left;
    for &(share, color) in parts {
        if share.is_finite() && share > 0.0 {
            let width = (share.min(1.0) * room).max(1.0);
            let bar = Rect::from_min_max(
                pos2(x, rect.top() + 2.0),
                pos2(x + width, rect.bottom() - 2.0),
            );
            ui.painter().rect_filled(bar, 1.0, color);
            x += width;
        }
    }
    ui.painter_at(rect).text(
        pos2(x + 6.0, rect.center().y),
        Align2::LEFT_CENTER,
        words,
        font,
        ui.visuals().text_color(),
    );
    response
}

/// A slider for the layer, if there are layers.
pub fn layer_ui(ui: &mut Ui, recording: &Recording, state: &mut State) {
    let n_layers = recording.header().n_layers;
    if n_layers > 0 {
        ui.add(egui::Slider::new(&mut state.layer, 0..=n_layers - 1).text("Layer"));
    }
}
