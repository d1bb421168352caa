//! A heat map that zooms, pans, and rasterises only what is visible.
//!
//! The visible part of the matrix is reduced to the resolution of the screen (see [`raster`]), coloured, and kept
//! as a texture until data, place, size or ground change. What the numbers mean is the caller's business.

pub mod raster;

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::ops::Range;

use eframe::egui::{
    self, Align2, Color32, EventFilter, FontId, Key, Pos2, Rect, Response, Sense, Stroke,
    TextureHandle, TextureOptions, Ui, Vec2, WidgetInfo, pos2, vec2,
};

use crate::palette::Palette;
pub use raster::{Cell, Rows, SparseRow};

/// What a heat map shows.
pub struct HeatMap<'a> {
    /// Name for screen readers and tests.
    pub label: &'a str,
    /// What is to be seen in one sentence, for those who cannot see it.
    pub summary: &'a str,
    /// Numbers.
    pub rows: Rows<'a>,
    /// Rows.
    pub n_rows: usize,
    /// Columns.
    pub n_columns: usize,
    /// Changes whenever numbers or colours do.
    pub key: u64,
    /// Colour of a cell.
    pub color: &'a dyn Fn(Cell) -> Color32,
    /// Name of a row.
    pub row_name: &'a dyn Fn(usize) -> String,
    /// Name of a column, short.
    pub column_name: &'a dyn Fn(usize) -> String,
    /// What a row is, for the axis.
    pub row_axis: &'a str,
    /// What a column is, for the axis.
    pub column_axis: &'a str,
    /// A row to mark.
    pub marked_row: Option<usize>,
    /// A column to mark strongly.
    pub marked_column: Option<usize>,
    /// A column to mark because the pointer is on it somewhere.
    pub hovered_column: Option<usize>,
    /// Greatest height of the cells together, in points.
    pub max_height: f32,
}

/// Where somebody has gone in a heat map.
#[derive(Default)]
pub struct View {
    /// Visible columns; `None` for all of them.
    columns: Option<Range<f64>>,
    /// Cell of the keyboard.
    cursor: Option<(usize, usize)>,
    cached: Option<Cached>,
    /// How often it was rasterised.
    n_rasterised: usize,
}

struct Cached {
    key: u64,
    texture: TextureHandle,
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View")
            .field("columns", &self.columns)
            .field("cursor", &self.cursor)
            .finish_non_exhaustive()
    }
}

impl View {
    /// The same place, without what was drawn of it.
    pub fn place(&self) -> Self {
        Self {
            columns: self.columns.clone(),
            ..Self::default()
        }
    }

    /// The visible columns among `n_columns`.
    pub fn visible(&self, n_columns: usize) -> Range<f64> {
        match &self.columns {
            Some(columns) => clamped(columns.clone(), n_columns as f64),
            None => 0.0..n_columns as f64,
        }
    }

    /// Shows everything.
    pub fn fit(&mut self) {
        self.columns = None;
    }

    /// Shows these columns.
    pub fn show(&mut self, columns: Range<f64>) {
        self.columns = Some(columns);
    }

    /// Brings `column` into sight without a change of scale.
    pub fn reveal(&mut self, column: usize, n_columns: usize) {
        let visible = self.visible(n_columns);
        let (at, width) = (column as f64 + 0.5, visible.end - visible.start);
        if !visible.contains(&at) {
            self.show(at - width / 2.0..at + width / 2.0);
        }
    }

    /// Multiplies the scale by `factor`, so that `at` (in columns) stays where it is.
    pub fn zoom(&mut self, factor: f64, at: f64, n_columns: usize) {
        let visible = self.visible(n_columns);
        if !factor.is_finite() || factor <= 0.0 {
            return;
        }
        let columns = at - (at - visible.start) / factor..at + (visible.end - at) / factor;
        self.columns = (columns.end - columns.start < n_columns as f64).then_some(columns.clone());
        if self.columns.is_some() {
            self.columns = Some(clamped(columns, n_columns as f64));
        }
    }

    /// Moves the sight by `by` columns.
    pub fn pan(&mut self, by: f64, n_columns: usize) {
        if self.columns.is_some() {
            let visible = self.visible(n_columns);
            self.columns = Some(clamped(
                visible.start + by..visible.end + by,
                n_columns as f64,
            ));
        }
    }

    /// How often it was rasterised, for tests of the cache.
    pub fn n_rasterised(&self) -> usize {
        self.n_rasterised
    }
}

/// Fewest columns that fill the map.
const CLOSEST: f64 = 4.0;

fn clamped(columns: Range<f64>, n: f64) -> Range<f64> {
    let width = (columns.end - columns.start).max(CLOSEST).min(n.max(0.0));
    let start = columns.start.clamp(0.0, (n - width).max(0.0));
    start..start + width
}

/// What happened in a heat map.
pub struct Output {
    /// The response of the cells.
    pub response: Response,
    /// Row and column under the pointer, or of the keyboard.
    pub hovered: Option<(usize, usize)>,
    /// Row and column that were chosen by a click or the Enter key.
    pub clicked: Option<(usize, usize)>,
    /// Where the cells are.
    pub rect: Rect,
}

const LEFT: f32 = 56.0;
const BOTTOM: f32 = 34.0;
const LEAST_ROW: f32 = 7.0;
const MOST_ROW: f32 = 26.0;
/// Width of a column from which on its name fits under it.
const NAMED_COLUMN: f32 = 34.0;

/// Draws the map and lets the user move in it: wheel to zoom, drag to pan, and with the keyboard arrows to move,
/// `+` and `-` to zoom, `0` to fit, Enter to choose.
pub fn heatmap_ui(ui: &mut Ui, map: &HeatMap<'_>, view: &mut View) -> Output {
    let palette = Palette::of(ui.visuals());
    let wanted = map.n_rows as f32 * MOST_ROW;
    let least = (map.n_rows as f32 * LEAST_ROW).min(map.max_height);
    let height = wanted.min(map.max_height).max(least).max(LEAST_ROW);
    let width = ui.available_width().max(LEFT + 40.0);
    let (outer, _) = ui.allocate_exact_size(vec2(width, height + BOTTOM), Sense::hover());
    let rect = Rect::from_min_max(
        pos2(outer.left() + LEFT, outer.top()),
        pos2(outer.right() - 1.0, outer.top() + height),
    );
    let id = ui.scope_id().with(map.label);
    let response = ui.interact(rect, id, Sense::click_and_drag());
    response.widget_info(|| {
        let text = format!("{}: {}", map.label, map.summary);
        WidgetInfo::labeled(egui::Role::Image, ui.is_enabled(), text)
    });

    let by_key = move_in(ui, map, view, &response, rect);
    paint_cells(ui, map, view, rect, palette);
    paint_axes(ui, map, view, outer, rect, palette);

    let columns = view.visible(map.n_columns);
    let at = |pos: Pos2| {
        if map.n_rows == 0 || map.n_columns == 0 || !rect.contains(pos) {
            return None;
        }
        let row = ((pos.y - rect.top()) / rect.height() * map.n_rows as f32) as usize;
        let share = f64::from((pos.x - rect.left()) / rect.width());
        let column = (columns.start + share * (columns.end - columns.start)) as usize;
        Some((row.min(map.n_rows - 1), column.min(map.n_columns - 1)))
    };
    let pointed = response.hover_pos().and_then(at);
    let clicked = if response.clicked() {
        // A click by a screen reader has no place; it means the cell of the keyboard.
        response.interact_pointer_pos().and_then(at).or(view.cursor)
    } else {
        by_key
    };
    let hovered = pointed.or(response.has_focus().then_some(view.cursor).flatten());
    Output {
        response,
        hovered,
        clicked,
        rect,
    }
}

/// Applies wheel, drag and keys; gives the cell that Enter chose.
fn move_in(
    ui: &Ui,
    map: &HeatMap<'_>,
    view: &mut View,
    response: &Response,
    rect: Rect,
) -> Option<(usize, usize)> {
    let n_columns = map.n_columns;
    if n_columns == 0 || map.n_rows == 0 {
        return None;
    }
    let visible = view.visible(n_columns);
    let columns_per_point = (visible.end - visible.start) / f64::from(rect.width());
    if let Some(pos) = response.hover_pos() {
        let (scroll, pinch) = ui.input(|input| (input.smooth_scroll_delta, input.zoom_delta()));
        let factor = f64::from(pinch) * f64::from(scroll.y / 200.0).exp();
        let zooms_out_of_all = view.columns.is_none() && factor <= 1.0;
        if factor != 1.0 && !zooms_out_of_all {
            let share = f64::from((pos.x - rect.left()) / rect.width());
            let at = visible.start + share * (visible.end - visible.start);
            view.zoom(factor, at, n_columns);
            ui.input_mut(|input| input.smooth_scroll_delta.y = 0.0);
        }
        if scroll.x != 0.0 && view.columns.is_some() {
            view.pan(-f64::from(scroll.x) * columns_per_point, n_columns);
            ui.input_mut(|input| input.smooth_scroll_delta.x = 0.0);
        }
    }
    if response.dragged() {
        view.pan(
            -f64::from(response.drag_delta().x) * columns_per_point,
            n_columns,
        );
    }
    if response.double_clicked() {
        view.fit();
    }
    if response.clicked() {
        response.request_focus();
    }
    if !response.has_focus() {
        return None;
    }
    ui.memory_mut(|memory| {
        memory.set_focus_lock_filter(
            response.id,
            EventFilter {
                horizontal_arrows: true,
                vertical_arrows: true,
                ..EventFilter::default()
            },
        );
    });
    let (row, column) = view
        .cursor
        .unwrap_or((map.marked_row.unwrap_or(0), visible.start as usize));
    let (mut row, mut column) = (row.min(map.n_rows - 1), column.min(n_columns - 1));
    let presses = |key: Key| ui.input_mut(|i| i.count_and_consume_key(egui::Modifiers::NONE, key));
    let before = (row, column);
    row = (row + presses(Key::ArrowDown))
        .min(map.n_rows - 1)
        .saturating_sub(presses(Key::ArrowUp));
    // A step is what is seen as one: a pixel's worth of columns where they are many.
    let step = (columns_per_point as usize).max(1);
    column = (column + step * presses(Key::ArrowRight))
        .min(n_columns - 1)
        .saturating_sub(step * presses(Key::ArrowLeft));
    if before != (row, column) || view.cursor.is_some() {
        view.cursor = Some((row, column));
    }
    if before != (row, column) {
        view.reveal(column, n_columns);
    }
    let typed = |wanted: [&str; 2]| {
        ui.input(|input| {
            input.events.iter().any(
                |event| matches!(event, egui::Event::Text(text) if wanted.contains(&text.as_str())),
            )
        })
    };
    if typed(["+", "="]) || presses(Key::Plus) + presses(Key::Equals) > 0 {
        view.zoom(2.0, column as f64 + 0.5, n_columns);
    } else if typed(["-", "_"]) || presses(Key::Minus) > 0 {
        view.zoom(0.5, column as f64 + 0.5, n_columns);
    } else if typed(["0", "f"]) || presses(Key::Num0) > 0 {
        view.fit();
    }
    (presses(Key::Enter) > 0).then_some((row, column))
}

fn paint_cells(ui: &Ui, map: &HeatMap<'_>, view: &mut View, rect: Rect, palette: Palette) {
    let painter = ui.painter_at(rect);
    painter.rect_filled(rect, 0.0, palette.ground());
    if map.n_rows == 0 || map.n_columns == 0 {
        return;
    }
    let visible = view.visible(map.n_columns);
    let whole = visible.start.floor() as usize..(visible.end.ceil() as usize).min(map.n_columns);
    let scale = ui.pixels_per_point();
    let pixels = (
        ((rect.width() * scale).round() as usize).clamp(1, 4096),
        ((rect.height() * scale).round() as usize).clamp(1, 4096),
    );
    let mut hasher = DefaultHasher::new();
    let matrix = (map.key, map.n_rows, map.n_columns);
    (matrix, &whole, pixels, palette).hash(&mut hasher);
    let key = hasher.finish();
    if view.cached.as_ref().is_none_or(|cached| cached.key != key) {
        let raster = raster::reduce(
            map.rows,
            map.n_rows,
            map.n_columns,
            whole.clone(),
            pixels.0,
            pixels.1,
        );
        let image = egui::ColorImage::new(
            [raster.width, raster.height],
            raster.cells.iter().map(|&cell| (map.color)(cell)).collect(),
        );
        match &mut view.cached {
            Some(cached) => {
                cached.texture.set(image, TextureOptions::NEAREST);
                cached.key = key;
            }
            None => {
                let texture = ui
                    .ctx()
                    .load_texture(map.label, image, TextureOptions::NEAREST);
                view.cached = Some(Cached { key, texture });
            }
        }
        view.n_rasterised += 1;
    }
    if let Some(cached) = &view.cached {
        let x = |column: usize| x_of(column as f64, &visible, rect);
        let place = Rect::from_min_max(
            pos2(x(whole.start), rect.top()),
            pos2(x(whole.end), rect.bottom()),
        );
        let uv = Rect::from_min_max(Pos2::ZERO, pos2(1.0, 1.0));
        painter.image(cached.texture.id(), place, uv, Color32::WHITE);
    }
    paint_marks(map, view, rect, &visible, &painter, palette);
}

fn paint_marks(
    map: &HeatMap<'_>,
    view: &View,
    rect: Rect,
    visible: &Range<f64>,
    painter: &egui::Painter,
    palette: Palette,
) {
    let row_height = rect.height() / map.n_rows as f32;
    let column_rect = |column: usize| {
        let (left, right) = (
            x_of(column as f64, visible, rect),
            x_of(column as f64 + 1.0, visible, rect),
        );
        Rect::from_x_y_ranges(left..=right.max(left + 1.5), rect.y_range())
    };
    let row_rect = |row: usize| {
        let top = rect.top() + row as f32 * row_height;
        Rect::from_x_y_ranges(rect.x_range(), top..=top + row_height)
    };
    let inside = egui::StrokeKind::Inside;
    if let Some(row) = map.marked_row.filter(|&row| row < map.n_rows) {
        let stroke = Stroke::new(1.5, palette.ink());
        painter.rect_stroke(row_rect(row), 0.0, stroke, inside);
    }
    for (column, color) in [
        (map.marked_column, palette.ink()),
        (map.hovered_column, palette.mark()),
    ] {
        if let Some(column) = column.filter(|&column| column < map.n_columns) {
            let stroke = Stroke::new(1.0, color);
            painter.rect_stroke(column_rect(column), 0.0, stroke, egui::StrokeKind::Outside);
        }
    }
    if let Some((row, column)) = view.cursor
        && row < map.n_rows
        && column < map.n_columns
    {
        let cell = row_rect(row).intersect(column_rect(column)).expand(1.0);
        painter.rect_stroke(cell, 0.0, Stroke::new(2.0, palette.mark()), inside);
    }
}

fn x_of(column: f64, visible: &Range<f64>, rect: Rect) -> f32 {
    let width = (visible.end - visible.start).max(f64::MIN_POSITIVE);
    rect.left() + ((column - visible.start) / width * f64::from(rect.width())) as f32
}

fn paint_axes(ui: &Ui, map: &HeatMap<'_>, view: &View, outer: Rect, rect: Rect, palette: Palette) {
    let painter = ui.painter_at(outer);
    let (font, color) = (FontId::proportional(11.0), ui.visuals().text_color());
    let weak = ui.visuals().weak_text_color();
    painter.text(
        outer.left_bottom(),
        Align2::LEFT_BOTTOM,
        map.row_axis,
        font.clone(),
        weak,
    );
    painter.text(
        pos2(rect.center().x, outer.bottom()),
        Align2::CENTER_BOTTOM,
        map.column_axis,
        font.clone(),
        weak,
    );
    if map.n_rows == 0 || map.n_columns == 0 {
        return;
    }
    let row_height = rect.height() / map.n_rows as f32;
    let every = ((13.0 / row_height).ceil() as usize).max(1);
    for row in (0..map.n_rows).step_by(every) {
        let y = rect.top() + (row as f32 + 0.5) * row_height;
        painter.text(
            pos2(rect.left() - 5.0, y),
            Align2::RIGHT_CENTER,
            (map.row_name)(row),
            font.clone(),
            color,
        );
    }
    let visible = view.visible(map.n_columns);
    let column_width = f64::from(rect.width()) / (visible.end - visible.start).max(1e-9);
    let y = rect.bottom() + 3.0;
    let clip = ui.painter_at(Rect::from_min_max(
        pos2(rect.left() - 20.0, rect.bottom()),
        outer.max,
    ));
    if column_width >= f64::from(NAMED_COLUMN) {
        for column in visible.start as usize..(visible.end.ceil() as usize).min(map.n_columns) {
            let left = x_of(column as f64, &visible, rect);
            let place = Rect::from_min_size(
                pos2(left, rect.bottom()),
                Vec2::new(column_width as f32 - 2.0, BOTTOM),
            );
            ui.painter_at(place.intersect(outer)).text(
                pos2(left + 2.0, y),
                Align2::LEFT_TOP,
                (map.column_name)(column),
                FontId::monospace(11.0),
                color,
            );
        }
    } else {
        for column in ticks(&visible, f64::from(rect.width()) / 70.0) {
            let x = x_of(column as f64 + 0.5, &visible, rect);
            let (tick, stroke) = ([pos2(x, rect.bottom()), pos2(x, y)], palette.faint());
            clip.line_segment(tick, Stroke::new(1.0, stroke));
            clip.text(
                pos2(x, y),
                Align2::CENTER_TOP,
                column.to_string(),
                font.clone(),
                color,
            );
        }
    }
}

/// Round columns in sight, about `n` of them.
pub fn ticks(visible: &Range<f64>, n: f64) -> Vec<usize> {
    let width = visible.end - visible.start;
    if width <= 0.0 || !width.is_finite() {
        return Vec::new();
    }
    let raw = (width / n.max(1.0)).max(1.0);
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .map(|factor| factor * power)
        .into_iter()
        .find(|&step| step >= raw)
        .unwrap_or(10.0 * power) as usize;
    let first = (visible.start / step as f64).ceil() as usize * step;
    (first..visible.end.ceil() as usize)
        .step_by(step.max(1))
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panic")]
mod tests;
