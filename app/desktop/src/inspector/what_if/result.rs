//! Two runs side by side.

use eframe::egui::{self, Color32, FontId, Rect, Sense, Stroke, Ui, WidgetInfo, pos2, vec2};

use crate::inspector::parts::{self, TableColumn};
use crate::inspector::{InspectorAction, Shown, State, export};
use crate::palette::Palette;
use crate::picture::{Anchor, Bar, Caption, Column, LEFT, Picture, RIGHT, Table, WIDTH};
use crate::recording::compare::{self, Divergence};
use crate::recording::{Recording, TokenInfo};

/// Tokens before the first difference that are shown of two traces.
const N_BEFORE: usize = 8;
/// Tokens of each side that are shown as running text.
const N_SHOWN: usize = 512;

/// Two runs, and how far they are apart. Made where nobody is drawing: the numbers are of whole rows of
/// logits.
#[derive(Clone, Debug)]
pub struct Sides {
    /// What differs between them, in words.
    pub words: String,
    /// Position of the first token of each side.
    pub from: usize,
    /// What was written before, from there on.
    pub base_tokens: Vec<TokenInfo>,
    /// What was written with the change.
    pub variant_tokens: Vec<TokenInfo>,
    /// How far the two are apart, for passes that read the same tokens.
    pub divergences: Vec<Divergence>,
    /// Recording of the run without the change.
    pub base: Recording,
    /// Recording of the run with it.
    pub variant: Recording,
}

impl Sides {
    /// Of two traces; `None` if `goes_on` says no in between.
    pub fn of_traces(
        base: Recording,
        variant: Recording,
        goes_on: impl Fn() -> bool,
    ) -> Option<Self> {
        let differs = compare::continuations(&base, &variant);
        let from = differs.unwrap_or(0).saturating_sub(N_BEFORE);
        let tokens = |recording: &Recording| -> Vec<TokenInfo> {
            let tokens = (from..recording.n_tokens()).map_while(|p| recording.token(p).cloned());
            tokens.collect()
        };
        let words = match differs {
            Some(position) => format!("another trace, the same up to token {position}"),
            None => "another trace with the same tokens".to_owned(),
        };
        let mut divergences = Vec::new();
        for position in compare::shared_passes(&base, &variant) {
            if !goes_on() {
                return None;
            }
            divergences.push(compare::divergence(&base, &variant, position));
        }
        Some(Self {
            words,
            from,
            base_tokens: tokens(&base),
            variant_tokens: tokens(&variant),
            divergences,
            base,
            variant,
        })
    }

    fn n_tokens(&self) -> usize {
        self.base_tokens.len().max(self.variant_tokens.len())
    }

    /// Whether the sides hold different tokens at this index, or only one holds any.
    fn differs(&self, index: usize) -> bool {
        let id = |tokens: &[TokenInfo]| tokens.get(index).map(|token| token.id);
        id(&self.base_tokens) != id(&self.variant_tokens)
    }

    fn summary(&self) -> String {
        let first = (0..self.n_tokens()).find(|&index| self.differs(index));
        let tokens = match first {
            None => format!("Both wrote the same {} tokens", self.n_tokens()),
            Some(index) => format!("They part at token {}", self.from + index),
        };
        let kls = self.divergences.iter().map(|divergence| divergence.kl);
        let numbers: Vec<f32> = kls.filter(|kl| !kl.is_nan()).collect();
        let kl = if numbers.is_empty() {
            "KL was not recorded".to_owned()
        } else {
            let mean = numbers.iter().sum::<f32>() / numbers.len() as f32;
            let most = numbers.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let n = numbers.len();
            format!("KL over {n} passes {mean:.4} nats in the mean, {most:.4} at most")
        };
        format!("{tokens}; {kl}.")
    }

    /// Positions that only one side selected, by layer: sums over all passes.
    fn by_layer(&self) -> Vec<(usize, usize)> {
        let n_layers = self.base.header().n_layers;
        let mut sums = vec![(0, 0); n_layers];
        for divergence in &self.divergences {
            let base = divergence.n_selected_only_base.iter();
            let variant = divergence.n_selected_only_variant.iter();
            for (sum, (&base, &variant)) in sums.iter_mut().zip(base.zip(variant)) {
                sum.0 += base;
                sum.1 += variant;
            }
        }
        sums
    }
}

/// Draws what came of the last run.
pub fn result_ui(
    ui: &mut Ui,
    shown: &Shown<'_>,
    state: &mut State,
    actions: &mut Vec<InspectorAction>,
) {
    let Some(sides) = shown.sides else {
        ui.label("Nothing has been run again yet; what is written then stands beside what was written first.");
        return;
    };
    ui.strong(&sides.words);
    ui.label(sides.summary());
    texts_ui(ui, sides, state);
    ui.add_space(4.0);
    ui.label("KL of what was expected after each token, in nats");
    kl_ui(ui, shown, state, sides, actions);
    layers_ui(ui, shown, state, sides);
    tokens_ui(ui, shown, state, sides, actions);
}

fn texts_ui(ui: &mut Ui, sides: &Sides, state: &mut State) {
    let palette = Palette::of(ui.visuals());
    ui.columns(2, |columns| {
        let texts = [
            ("As written", &sides.base_tokens, palette.accent()),
            ("With the change", &sides.variant_tokens, palette.other()),
        ];
        for (ui, (name, tokens, color)) in columns.iter_mut().zip(texts) {
            ui.strong(name);
            ui.horizontal_wrapped(|ui| {
                ui.spacing_mut().item_spacing = vec2(0.0, 3.0);
                for (index, token) in tokens.iter().enumerate().take(N_SHOWN) {
                    let position = sides.from + index;
                    let differs = sides.differs(index);
                    chip_ui(ui, state, (name, position), token, differs.then_some(color));
                }
                if tokens.len() > N_SHOWN {
                    ui.weak(format!(" … {} more below", tokens.len() - N_SHOWN));
                }
            });
        }
    });
}

fn chip_ui(
    ui: &mut Ui,
    state: &mut State,
    (side, position): (&str, usize),
    token: &TokenInfo,
    differs: Option<Color32>,
) {
    let text = parts::visible_text(&token.text);
    let color = ui.visuals().text_color();
    let galley = ui
        .painter()
        .layout_no_wrap(text.clone(), FontId::monospace(13.0), color);
    let size = vec2(galley.size().x.max(2.0), galley.size().y);
    let (rect, response) = ui.allocate_exact_size(size, Sense::hover());
    response.widget_info(|| {
        let mark = if differs.is_some() { ", differs" } else { "" };
        let label = format!("{side} {position}: {text}{mark}");
        WidgetInfo::labeled(egui::Role::Label, true, label)
    });
    if state.hovered == Some(position) {
        ui.painter()
            .rect_filled(rect, 2.0, ui.visuals().widgets.hovered.weak_bg_fill);
    }
    ui.painter().galley(rect.min, galley, color);
    if let Some(color) = differs {
        let line = [rect.left_bottom(), rect.right_bottom()];
        ui.painter().line_segment(line, Stroke::new(2.5, color));
    }
    if response.hovered() {
        state.point_at(position);
        let words = format!("position {position}, {:?}", token.text);
        response.on_hover_text(words);
    }
}

/// Bars over positions, as many as there is room for; where there are more passes than pixels, the greatest stands.
fn kl_ui(
    ui: &mut Ui,
    shown: &Shown<'_>,
    state: &mut State,
    sides: &Sides,
    actions: &mut Vec<InspectorAction>,
) {
    let palette = Palette::of(ui.visuals());
    let divergences = &sides.divergences;
    let width = ui.available_width().max(80.0);
    let (outer, response) = ui.allocate_exact_size(vec2(width, 90.0), Sense::CLICK);
    let told = format!("KL by position: {}", sides.summary());
    response.widget_info(|| WidgetInfo::labeled(egui::Role::Image, true, &told));
    let rect = Rect::from_min_max(outer.min + vec2(56.0, 4.0), outer.max - vec2(2.0, 16.0));
    let painter = ui.painter_at(outer);
    painter.rect_filled(rect, 0.0, palette.ground());
    let most = greatest_kl(divergences);
    let font = FontId::proportional(11.0);
    let color = ui.visuals().text_color();
    painter.text(
        rect.left_top() - vec2(4.0, 0.0),
        egui::Align2::RIGHT_TOP,
        format!("{most:.3}"),
        font.clone(),
        color,
    );
    painter.text(
        rect.left_bottom() - vec2(4.0, 0.0),
        egui::Align2::RIGHT_BOTTOM,
        "0",
        font.clone(),
        color,
    );
    if divergences.is_empty() {
        painter.text(
            rect.center(),
            egui::Align2::CENTER_CENTER,
            "No pass was recorded in both with the same tokens before",
            font,
            color,
        );
        return;
    }
    let n = divergences.len();
    let n_bins = n.min(rect.width().max(1.0) as usize);
    for bin in 0..n_bins {
        let range = crate::heatmap::raster::bin(bin, n_bins, n);
        let Some(divergence) = greatest_of(&divergences[range]) else {
            continue;
        };
        let x = rect.left() + bin as f32 / n_bins as f32 * rect.width();
        let right = x + (rect.width() / n_bins as f32 - 1.0).max(1.0);
        let (height, color) = kl_bar(palette, divergence, most);
        let bar = Rect::from_min_max(
            pos2(x, rect.bottom() - height * rect.height()),
            pos2(right, rect.bottom()),
        );
        painter.rect_filled(bar, 0.0, color);
        if state.hovered == Some(divergence.position) {
            let stroke = Stroke::new(1.5, palette.mark());
            let whole = Rect::from_x_y_ranges(x..=right, rect.y_range());
            painter.rect_stroke(whole, 0.0, stroke, egui::StrokeKind::Outside);
        }
    }
    let (first, last) = (divergences[0].position, divergences[n - 1].position);
    for (x, anchor, position) in [
        (rect.left(), egui::Align2::LEFT_BOTTOM, first),
        (rect.right(), egui::Align2::RIGHT_BOTTOM, last),
    ] {
        let words = format!("position {position}");
        painter.text(pos2(x, outer.bottom()), anchor, words, font.clone(), color);
    }
    let at = response.hover_pos().filter(|pos| rect.contains(*pos));
    if let Some(pos) = at {
        let bin = ((pos.x - rect.left()) / rect.width() * n_bins as f32) as usize;
        let range = crate::heatmap::raster::bin(bin.min(n_bins - 1), n_bins, n);
        if let Some(divergence) = greatest_of(&divergences[range]) {
            state.point_at(divergence.position);
            if response.clicked() {
                state.click(shown, divergence.position, actions);
            }
            let words = kl_words(&sides.base, divergence);
            response.on_hover_text_at_pointer(words);
        }
    }
    parts::legend_ui(
        ui,
        &[
            (palette.accent(), "the same token is the most likely"),
            (palette.mark(), "another token is the most likely"),
            (palette.no_number(), "not recorded"),
        ],
    );
}

fn kl_words(base: &Recording, divergence: &Divergence) -> String {
    let top = if divergence.top1_differs {
        "another token is the most likely"
    } else {
        "the same token is the most likely"
    };
    let kl = if divergence.kl.is_nan() {
        "not recorded".to_owned()
    } else {
        format!("{:.5} nats", divergence.kl)
    };
    format!(
        "after position {} ({}): KL {kl}, {top}",
        divergence.position,
        parts::quoted(base, divergence.position)
    )
}

/// Height as a share, and colour.
fn kl_bar(palette: Palette, divergence: &Divergence, most: f32) -> (f32, Color32) {
    if divergence.kl.is_nan() {
        (0.1, palette.no_number())
    } else {
        let color = if divergence.top1_differs {
            palette.mark()
        } else {
            palette.accent()
        };
        let share = divergence.kl / most.max(f32::MIN_POSITIVE);
        (share.clamp(0.01, 1.0), color)
    }
}

fn greatest_kl(divergences: &[Divergence]) -> f32 {
    let finite = divergences.iter().map(|d| d.kl).filter(|kl| kl.is_finite());
    finite.fold(0.0, f32::max)
}

fn greatest_of(divergences: &[Divergence]) -> Option<&Divergence> {
    let kl = |divergence: &&Divergence| divergence.kl;
    let numbers = divergences
        .iter()
        .filter(|divergence| !divergence.kl.is_nan());
    numbers
        .max_by(|a, b| kl(a).total_cmp(&kl(b)))
        .or(divergences.first())
}

fn layers_ui(ui: &mut Ui, shown: &Shown<'_>, state: &mut State, sides: &Sides) {
    let sums = sides.by_layer();
    let palette = Palette::of(ui.visuals());
    let most = sums.iter().map(|(a, b)| a + b).max().unwrap_or(0).max(1) as f32;
    egui::CollapsingHeader::new("Selections that differ, by layer")
        .default_open(true)
        .show(ui, |ui| {
            parts::legend_ui(
                ui,
                &[
                    (palette.accent(), "only as written"),
                    (palette.other(), "only with the change"),
                ],
            );
            for (layer, &(base, variant)) in sums.iter().enumerate() {
                let bars = [
                    (base as f32 / most, palette.accent()),
                    (variant as f32 / most, palette.other()),
                ];
                let words = format!("{base} only as written, {variant} only with the change");
                parts::bar_ui(ui, &format!("layer {layer}"), &bars, &words);
            }
            parts::layer_ui(ui, &sides.base, state);
            let Some(query) = state.query_in(shown) else {
                return;
            };
            let layer = state.layer;
            match compare::selection_difference(&sides.base, &sides.variant, query, layer) {
                Some((only_base, only_variant)) => {
                    for (words, positions) in [
                        ("only as written", &only_base),
                        ("only with the change", &only_variant),
                    ] {
                        let listed = listed(&sides.base, positions);
                        ui.label(format!(
                            "Pass of token {query}, layer {layer}, {words}: {listed}"
                        ));
                    }
                }
                None => {
                    ui.label(format!(
                        "What layer {layer} read in the pass of token {query} was not recorded in both runs."
                    ));
                }
            }
        });
}

fn listed(recording: &Recording, positions: &[u32]) -> String {
    let few: Vec<String> = positions
        .iter()
        .take(12)
        .map(|&position| {
            let position = position as usize;
            format!("{position} {}", parts::quoted(recording, position))
        })
        .collect();
    match positions.len() {
        0 => "none".to_owned(),
        n if n > few.len() => format!("{}, and {} more", few.join(", "), n - few.len()),
        _ => few.join(", "),
    }
}

fn tokens_ui(
    ui: &mut Ui,
    shown: &Shown<'_>,
    state: &mut State,
    sides: &Sides,
    actions: &mut Vec<InspectorAction>,
) {
    egui::CollapsingHeader::new("Token by token")
        .default_open(true)
        .show(ui, |ui| {
            let columns = [
                TableColumn {
                    name: "position",
                    width: 70.0,
                },
                TableColumn {
                    name: "as written",
                    width: 150.0,
                },
                TableColumn {
                    name: "with the change",
                    width: 150.0,
                },
                TableColumn {
                    name: "differs",
                    width: 0.0,
                },
            ];
            let text = |tokens: &[TokenInfo], row: usize| {
                let token = tokens.get(row);
                token.map_or_else(|| "–".to_owned(), |token| parts::visible_text(&token.text))
            };
            let hovered = state.hovered;
            let output = parts::table_ui(
                ui,
                "sides rows",
                &columns,
                sides.n_tokens(),
                |row| hovered == Some(sides.from + row),
                |row, column| match column {
                    0 => (sides.from + row).to_string(),
                    1 => text(&sides.base_tokens, row),
                    2 => text(&sides.variant_tokens, row),
                    _ if sides.differs(row) => "≠".to_owned(),
                    _ => String::new(),
                },
            );
            if let Some(row) = output.hovered {
                state.point_at(sides.from + row);
            }
            if let Some(row) = output.clicked {
                state.click(shown, sides.from + row, actions);
            }
        });
}

/// Tokens of both sides and how far they are apart.
pub fn table(shown: &Shown<'_>, state: &State) -> Table {
    let columns = vec![
        Column::new("position", ""),
        Column::new("base_id", ""),
        Column::new("base_text", ""),
        Column::new("variant_id", ""),
        Column::new("variant_text", ""),
        Column::new("kl_after", "nats"),
        Column::new("top1_differs", ""),
        Column::new("n_selected_only_base", "positions, all layers"),
        Column::new("n_selected_only_variant", "positions, all layers"),
    ];
    let mut table = export::table(shown, state, columns);
    let Some(sides) = shown.sides else {
        return table;
    };
    table.about.push(("change".to_owned(), sides.words.clone()));
    for (layer, (base, variant)) in sides.by_layer().into_iter().enumerate() {
        let words = format!("{base} only in the base, {variant} only in the variant");
        table
            .about
            .push((format!("selections of layer {layer}"), words));
    }
    let passes = sides
        .divergences
        .iter()
        .map(|divergence| divergence.position);
    let tokens = sides.from..sides.from + sides.n_tokens();
    let positions: std::collections::BTreeSet<usize> = passes.chain(tokens).collect();
    for position in positions {
        let index = position.checked_sub(sides.from);
        let token = |tokens: &[TokenInfo], recording: &Recording| {
            let own = index.and_then(|index| tokens.get(index).cloned());
            own.or_else(|| {
                recording
                    .token(position)
                    .filter(|_| index.is_none())
                    .cloned()
            })
        };
        let base = token(&sides.base_tokens, &sides.base);
        let variant = token(&sides.variant_tokens, &sides.variant);
        let by_position = |divergence: &Divergence| divergence.position.cmp(&position);
        let divergence = sides
            .divergences
            .binary_search_by(by_position)
            .ok()
            .map(|at| &sides.divergences[at]);
        let sum = |values: fn(&Divergence) -> &Vec<usize>| {
            divergence.map(|divergence| values(divergence).iter().sum::<usize>())
        };
        table.rows.push(vec![
            position.into(),
            base.as_ref().map(|token| token.id).into(),
            base.as_ref().map(|token| token.text.as_str()).into(),
            variant.as_ref().map(|token| token.id).into(),
            variant.as_ref().map(|token| token.text.as_str()).into(),
            divergence.map(|divergence| divergence.kl).into(),
            divergence
                .map(|divergence| usize::from(divergence.top1_differs))
                .into(),
            sum(|divergence| &divergence.n_selected_only_base).into(),
            sum(|divergence| &divergence.n_selected_only_variant).into(),
        ]);
    }
    table
}

/// Both texts, KL by position, and differences by layer.
pub fn picture(shown: &Shown<'_>, _state: &State, caption: &Caption) -> Picture {
    let palette = Palette::PAPER;
    let Some(sides) = shown.sides else {
        let (picture, y) = Picture::new(caption);
        return export::nothing(picture, y);
    };
    let mut caption = caption.clone();
    caption.lines.push(sides.words.clone());
    caption.lines.push(sides.summary());
    let (mut picture, mut y) = Picture::new(&caption);
    let ink = palette.ink();
    for (name, tokens, color) in [
        ("as written", &sides.base_tokens, palette.accent()),
        ("with the change", &sides.variant_tokens, palette.other()),
    ] {
        picture.text([20.0, y + 12.0], Anchor::Start, 12.0, ink, name);
        let mut x = LEFT;
        for (index, token) in tokens.iter().enumerate().take(N_SHOWN) {
            let text = parts::visible_text(&token.text);
            let width = 7.4 * text.chars().count() as f32 + 2.0;
            if x + width > WIDTH - RIGHT && x > LEFT {
                (x, y) = (LEFT, y + 20.0);
            }
            if sides.differs(index) {
                picture.rect([x, y + 15.0, width - 2.0, 2.5], color);
            }
            picture.text([x, y + 12.0], Anchor::Start, 12.0, ink, &text);
            x += width;
        }
        y += 28.0;
    }
    let n = sides.divergences.len();
    if n > 0 {
        let (most, height, room) = (greatest_kl(&sides.divergences), 120.0, WIDTH - LEFT - RIGHT);
        let words = format!("KL in nats after each position, longest bar {most:.4}");
        picture.text([LEFT, y + 12.0], Anchor::Start, 12.0, ink, &words);
        y += 22.0;
        let n_bins = n.min(room as usize);
        for bin in 0..n_bins {
            let range = crate::heatmap::raster::bin(bin, n_bins, n);
            if let Some(divergence) = greatest_of(&sides.divergences[range]) {
                let (share, color) = kl_bar(palette, divergence, most);
                let wide = room / n_bins as f32;
                let left = LEFT + bin as f32 * wide;
                let top = y + height * (1.0 - share);
                picture.rect([left, top, (wide - 1.0).max(0.5), height * share], color);
            }
        }
        picture.line([LEFT, y + height], [LEFT + room, y + height], 1.0, ink);
        for (x, anchor, divergence) in [
            (LEFT, Anchor::Start, &sides.divergences[0]),
            (LEFT + room, Anchor::End, &sides.divergences[n - 1]),
        ] {
            let words = format!("position {}", divergence.position);
            picture.text([x, y + height + 15.0], anchor, 11.0, ink, &words);
        }
        y += height + 24.0;
        y = picture.legend(
            y,
            &[
                (
                    palette.accent(),
                    "the same token is the most likely".to_owned(),
                ),
                (
                    palette.mark(),
                    "another token is the most likely".to_owned(),
                ),
                (palette.no_number(), "not recorded".to_owned()),
            ],
        );
    }
    let sums = sides.by_layer();
    let most = sums.iter().map(|(a, b)| a + b).max().unwrap_or(0) as f64;
    let bars: Vec<Bar> = sums
        .iter()
        .enumerate()
        .map(|(layer, &(base, variant))| Bar {
            name: format!("layer {layer}"),
            parts: vec![
                (base as f64, palette.accent()),
                (variant as f64, palette.other()),
            ],
            words: format!("{base} only as written, {variant} only with the change"),
        })
        .collect();
    picture.bars(
        y,
        "positions that only one run selected, by layer",
        most,
        &bars,
    );
    picture
}
