//! Which earlier tokens each layer read for one pass: a map of layers and positions, and what it comes to.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use eframe::egui::{self, Color32, Rect, Sense, Stroke, StrokeKind, Ui, WidgetInfo, pos2, vec2};

use super::facts::{Facts, LayerFacts};
use super::parts::{self, TableColumn};
use super::{InspectorAction, Shown, State, export, transcript};
use crate::heatmap::{Cell, HeatMap, Rows, heatmap_ui, raster};
use crate::palette::{Palette, Role};
use crate::picture::{Anchor, Caption, Column, Matrix, Picture, Table};
use crate::recording::Recording;

/// Tokens in the list of those read most.
const N_STRONGEST: usize = 20;

/// Draws the view.
pub fn selection_ui(
    ui: &mut Ui,
    shown: &Shown<'_>,
    state: &mut State,
    actions: &mut Vec<InspectorAction>,
) {
    let Some((recording, query)) = parts::pass_or_missing(ui, shown, state, actions) else {
        return;
    };
    if !state.facts(shown).is_some_and(Facts::has_selections) {
        let dropped = if recording.layers_dropped(query) {
            "was dropped to save space"
        } else {
            "was not recorded"
        };
        let sentence = format!("What the layers read in the pass of token {query} {dropped}.");
        let offer = (
            "Record the whole conversation",
            shown.can_run,
            InspectorAction::RecordWhole,
        );
        parts::missing_ui(ui, &sentence, Some(offer), actions);
        return;
    }
    egui::ScrollArea::vertical()
        .id_salt("selection")
        .auto_shrink([false, false])
        .show(ui, |ui| {
            state.settle_layer(shown);
            let layer = state.layer;
            if let Some(facts) = state.facts(shown) {
                ui.label(caption(recording, facts, layer));
            }
            map_ui(ui, shown, state, recording, actions);
            density_ui(ui, state, recording, query);
            tools_ui(ui, state, recording, query);
            strongest_ui(ui, shown, state, recording, actions);
            facts_ui(ui, shown, state, actions);
        });
}

/// What a layer read, in words.
pub fn caption(recording: &Recording, facts: &Facts, layer: usize) -> String {
    let Some(of_layer) = facts.layers.get(layer) else {
        return format!("The model has {} layers.", facts.layers.len());
    };
    let n_visible = facts.n_visible();
    let Some(selection) = &of_layer.selection else {
        return if of_layer.reads_everything {
            format!("Layer {layer} has no indexer: it reads all {n_visible} tokens so far.")
        } else {
            format!("What layer {layer} read was not recorded.")
        };
    };
    let n = selection.positions.len();
    let read = if of_layer.reads_everything {
        format!("Layer {layer} has no indexer: it read all {n} tokens so far")
    } else if n >= n_visible {
        let topk = recording
            .header()
            .index_topk
            .map_or_else(String::new, |topk| format!(" (index_topk is {topk})"));
        format!(
            "Layer {layer} read all {n} tokens so far: there are not more than it may read{topk}"
        )
    } else {
        let split = of_layer.split.unwrap_or_default();
        format!(
            "Layer {layer} read {n} of the {n_visible} tokens so far: {} sink, {} recent, {} retrieved",
            split.n_sink, split.n_recent, split.n_retrieved
        )
    };
    match heaviest(of_layer) {
        Some((positions, share)) => {
            let text: String = positions
                .clone()
                .map(|position| {
                    let token = recording.token(position);
                    token.map_or_else(|| "?".to_owned(), |token| parts::visible_text(&token.text))
                })
                .collect();
            let place = if positions.len() == 1 {
                format!("position {}", positions.start)
            } else {
                format!("positions {} to {}", positions.start, positions.end - 1)
            };
            format!(
                "{read}; {} of its attention lies on ‘{}’ ({place}).",
                parts::percent(share),
                crate::picture::shortened(&text, 60)
            )
        }
        None => format!("{read}; attention weights were not recorded."),
    }
}

/// The heaviest position and its neighbours that have a quarter of its weight at least, and what lies on them.
fn heaviest(facts: &LayerFacts) -> Option<(std::ops::Range<usize>, f32)> {
    let selection = facts.selection.as_ref()?;
    let weight = |position: usize| facts.at(position)?.weight;
    let (slot, &most) = selection
        .weights
        .iter()
        .enumerate()
        .filter(|(_, weight)| !weight.is_nan())
        .max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)))?;
    let at = selection.positions[slot] as usize;
    let (mut from, mut to) = (at, at + 1);
    let belongs = |position: usize| weight(position).is_some_and(|weight| weight >= most / 4.0);
    while from > 0 && to - from < 12 && belongs(from - 1) {
        from -= 1;
    }
    while to - from < 12 && belongs(to) {
        to += 1;
    }
    let share = (from..to).filter_map(weight).sum();
    Some((from..to, share))
}

fn map_ui(
    ui: &mut Ui,
    shown: &Shown<'_>,
    state: &mut State,
    recording: &Recording,
    actions: &mut Vec<InspectorAction>,
) {
    let palette = Palette::of(ui.visuals());
    let mut view = std::mem::take(&mut state.selection_map);
    let (layer, hovered) = (state.layer, state.hovered);
    let Some(facts) = state.facts(shown) else {
        return;
    };
    let mut hasher = DefaultHasher::new();
    (parts::version(shown), facts.query).hash(&mut hasher);
    let n_read: usize = facts.rows.iter().map(|row| row.columns.len()).sum();
    let summary = format!(
        "{} layers, {} positions, {n_read} of them read all layers together",
        facts.rows.len(),
        facts.n_visible()
    );
    let map = HeatMap {
        label: "Selection map",
        summary: &summary,
        rows: Rows::Sparse(&facts.rows),
        n_rows: facts.rows.len(),
        n_columns: facts.n_visible(),
        key: hasher.finish(),
        color: &|cell: Cell| color(palette, facts, cell),
        row_name: &|layer| row_name(facts, layer),
        column_name: &|position| parts::column_text(recording, position),
        row_axis: "layer",
        column_axis: "position",
        marked_row: Some(layer),
        marked_column: None,
        hovered_column: hovered,
        max_height: 320.0,
    };
    let output = heatmap_ui(ui, &map, &mut view);
    if let Some((row, position)) = output.hovered {
        let told = cell_words(recording, facts, row, position);
        if output.response.hovered() {
            output.response.clone().on_hover_ui_at_pointer(|ui| {
                for line in &told {
                    ui.label(line);
                }
            });
        } else {
            // The keyboard has no pointer that a tip could hang on.
            ui.label(told.join(", "));
        }
    }
    let (hovered, clicked) = (output.hovered, output.clicked);
    state.selection_map = view;
    if let Some((_, position)) = hovered {
        state.point_at(position);
        transcript::token_menu(&output.response, recording, position, state, actions);
    }
    if let Some((row, position)) = clicked {
        state.layer = row;
        state.form.take(position);
    }
}

fn row_name(facts: &Facts, layer: usize) -> String {
    match facts.layers.get(layer) {
        Some(of_layer) if of_layer.reads_everything => format!("{layer} all"),
        _ => layer.to_string(),
    }
}

fn color(palette: Palette, facts: &Facts, cell: Cell) -> Color32 {
    let role = Role::from_class(cell.class);
    palette.role_at(role, facts.strength(cell.value))
}

fn cell_words(recording: &Recording, facts: &Facts, layer: usize, position: usize) -> Vec<String> {
    let mut lines = vec![format!(
        "Layer {layer}, position {position}: {}",
        parts::quoted(recording, position)
    )];
    let Some(of_layer) = facts.layers.get(layer) else {
        return lines;
    };
    match of_layer.at(position) {
        Some(at) => {
            let role = of_layer.role(position, facts.query);
            lines.push(format!("read: {}", role.name()));
            let selection = of_layer.selection.as_ref();
            // Of a large selection only the strongest keep their numbers.
            let why_none = |values: Option<&[f32]>| {
                let some_kept = values.is_some_and(|values| values.iter().any(|v| !v.is_nan()));
                if some_kept {
                    "not kept"
                } else {
                    "not recorded"
                }
                .to_owned()
            };
            let score = at.score.map_or_else(
                || why_none(selection.map(|s| s.scores.as_slice())),
                |score| format!("{score:.4}"),
            );
            let rank = at.rank.map_or_else(String::new, |rank| {
                let n = of_layer.selection.as_ref().map_or(0, |s| s.positions.len());
                format!(", rank {rank} of {n}")
            });
            if !of_layer.reads_everything {
                lines.push(format!("score {score}{rank}"));
            }
            let weight = at.weight.map_or_else(
                || why_none(selection.map(|s| s.weights.as_slice())),
                parts::percent,
            );
            lines.push(format!("attention weight {weight}"));
        }
        None if of_layer.selection.is_some() => lines.push("not selected".to_owned()),
        None if of_layer.reads_everything => {
            lines.push("this layer reads everything; its weights were not recorded".to_owned());
        }
        None => lines.push("not recorded".to_owned()),
    }
    lines
}

/// Where in the whole context the chosen layer read, and which part of it the map shows. A click goes there.
fn density_ui(ui: &mut Ui, state: &mut State, recording: &Recording, query: usize) {
    let palette = Palette::of(ui.visuals());
    let left = 56.0;
    let width = (ui.available_width() - left - 1.0).max(40.0);
    let (outer, _) = ui.allocate_exact_size(vec2(width + left, 26.0), Sense::hover());
    let rect = Rect::from_min_max(pos2(outer.left() + left, outer.top()), outer.max);
    let id = ui.scope_id().with("density");
    let response = ui.interact(rect, id, Sense::CLICK | Sense::DRAG);
    let n_visible = query + 1;
    let n_bins = (rect.width() as usize).clamp(1, n_visible);
    let density = recording.density(query, state.layer, n_bins);
    let n_lit = density.iter().filter(|&&share| share > 0.0).count();
    let told = format!(
        "Density of layer {}: {n_lit} of {} parts of the context are read",
        state.layer,
        density.len()
    );
    response.widget_info(|| WidgetInfo::labeled(egui::Role::Image, true, &told));
    let painter = ui.painter_at(rect);
    painter.rect_filled(rect, 0.0, palette.role(Role::NotSelected));
    let bin_width = rect.width() / density.len().max(1) as f32;
    for (index, &share) in density.iter().enumerate() {
        if share > 0.0 {
            let x = rect.left() + index as f32 * bin_width;
            // A single position among thousands shall be seen.
            let height = (share.min(1.0) * rect.height()).max(3.0);
            let bar = Rect::from_min_max(
                pos2(x, rect.bottom() - height),
                pos2(x + bin_width.max(1.0), rect.bottom()),
            );
            painter.rect_filled(bar, 0.0, palette.role(Role::Retrieved));
        }
    }
    let x_of = |position: f64| rect.left() + (position / n_visible as f64) as f32 * rect.width();
    let seen = state.selection_map.visible(n_visible);
    let frame = Rect::from_min_max(
        pos2(x_of(seen.start), rect.top()),
        pos2(x_of(seen.end), rect.bottom()),
    );
    let stroke = Stroke::new(1.0, palette.ink());
    painter.rect_stroke(frame, 0.0, stroke, StrokeKind::Inside);
    if let Some(hovered) = state.hovered.filter(|&position| position < n_visible) {
        let stroke = Stroke::new(1.0, palette.mark());
        painter.vline(x_of(hovered as f64 + 0.5), rect.y_range(), stroke);
    }
    ui.painter().text(
        outer.left_center(),
        egui::Align2::LEFT_CENTER,
        "all",
        egui::FontId::proportional(11.0),
        ui.visuals().weak_text_color(),
    );
    let goes = response.clicked() || response.dragged();
    if let Some(pos) = response.interact_pointer_pos().filter(|_| goes) {
        let share = f64::from((pos.x - rect.left()) / rect.width()).clamp(0.0, 1.0);
        let (at, width) = (share * n_visible as f64, seen.end - seen.start);
        if width < n_visible as f64 {
            state.selection_map.show(at - width / 2.0..at + width / 2.0);
        }
    }
    response.on_hover_text("The whole context; how much of each part the chosen layer read");
}

fn tools_ui(ui: &mut Ui, state: &mut State, recording: &Recording, query: usize) {
    let palette = Palette::of(ui.visuals());
    let n_visible = query + 1;
    ui.horizontal_wrapped(|ui| {
        parts::layer_ui(ui, recording, state);
        let middle = {
            let seen = state.selection_map.visible(n_visible);
            let inside = state.hovered.map(|position| position as f64 + 0.5);
            inside
                .filter(|at| seen.contains(at))
                .unwrap_or((seen.start + seen.end) / 2.0)
        };
        for (sign, name, factor) in [("+", "Zoom in", 2.0), ("−", "Zoom out", 0.5)] {
            let button = ui.button(sign).on_hover_text(name);
            if button.accessible_name(name).clicked() {
                state.selection_map.zoom(factor, middle, n_visible);
            }
        }
        if ui
            .button("Fit")
            .on_hover_text("Show all positions")
            .clicked()
        {
            state.selection_map.fit();
        }
        if ui
            .button("Newest tokens")
            .on_hover_text("Zoom to single tokens at the end")
            .clicked()
        {
            state
                .selection_map
                .show(n_visible as f64 - 16.0..n_visible as f64);
        }
    });
    let entries = Role::LEGEND.map(|(role, words)| (palette.role(role), words));
    parts::legend_ui(ui, &entries);
    parts::scale_ui(
        ui,
        |t| palette.role_at(Role::Retrieved, t),
        "attention weight 0",
        "greatest in this map",
    );
}

fn strongest_ui(
    ui: &mut Ui,
    shown: &Shown<'_>,
    state: &mut State,
    recording: &Recording,
    actions: &mut Vec<InspectorAction>,
) {
    let (layer, hovered) = (state.layer, state.hovered);
    let Some(of_layer) = state.facts(shown).and_then(|facts| facts.layers.get(layer)) else {
        return;
    };
    let strongest = of_layer.strongest(N_STRONGEST);
    let known: Vec<_> = strongest
        .iter()
        .map(|&position| of_layer.at(position))
        .collect();
    egui::CollapsingHeader::new(format!("Read most by layer {layer}"))
        .id_salt("strongest")
        .default_open(true)
        .show(ui, |ui| {
            if strongest.is_empty() {
                ui.label("Neither weights nor scores of this layer were recorded.");
                return;
            }
            let columns = [
                TableColumn {
                    name: "weight",
                    width: 70.0,
                },
                TableColumn {
                    name: "score",
                    width: 70.0,
                },
                TableColumn {
                    name: "position",
                    width: 70.0,
                },
                TableColumn {
                    name: "in context",
                    width: 0.0,
                },
            ];
            let output = parts::table_ui(
                ui,
                "strongest rows",
                &columns,
                strongest.len(),
                |row| hovered == Some(strongest[row]),
                |row, column| {
                    let at = known[row];
                    match column {
                        0 => at
                            .and_then(|at| at.weight)
                            .map_or_else(|| "–".to_owned(), parts::percent),
                        1 => at
                            .and_then(|at| at.score)
                            .map_or_else(|| "–".to_owned(), |score| format!("{score:.3}")),
                        2 => strongest[row].to_string(),
                        _ => parts::context_line(recording, strongest[row]),
                    }
                },
            );
            if let Some(row) = output.hovered {
                state.point_at(strongest[row]);
            }
            if let Some(row) = output.clicked {
                let n_visible = state.query_in(shown).map_or(0, |query| query + 1);
                state.selection_map.reveal(strongest[row], n_visible);
                state.click(shown, strongest[row], actions);
            }
        });
}

fn facts_ui(ui: &mut Ui, shown: &Shown<'_>, state: &mut State, actions: &mut Vec<InspectorAction>) {
    let layer = state.layer;
    let is_open = egui::CollapsingHeader::new("By layer")
        .default_open(true)
        .show(ui, |ui| {
            if shown.dense.is_none() {
                ui.horizontal_wrapped(|ui| {
                    ui.label("Recall of dense attention: not recorded.");
                    let button = egui::Button::new("Record dense attention");
                    let button = ui.add_enabled(shown.can_run, button);
                    if button
                        .on_hover_text("Run the same tokens with dense attention, to see how much of it the selections catch")
                        .on_disabled_hover_text("Needs a model that is loaded and idle")
                        .clicked()
                    {
                        actions.push(InspectorAction::RecordDense);
                    }
                });
            }
            let facts = state.facts(shown)?;
            let names = ["layer", "read", "sink", "recent", "retrieved", "score 0", "as step before", "as layer before", "recall of dense"];
            let widths = [50.0, 60.0, 50.0, 60.0, 75.0, 60.0, 110.0, 110.0, 110.0];
            let columns: Vec<TableColumn<'_>> = names
                .iter()
                .zip(widths)
                .map(|(name, width)| TableColumn { name, width })
                .collect();
            let output = parts::table_ui(
                ui,
                "layer rows",
                &columns,
                facts.layers.len(),
                |row| row == layer,
                |row, column| fact(facts, row, column),
            );
            output.clicked
        });
    if let Some(clicked) = is_open.body_returned.flatten() {
        state.layer = clicked;
    }
}

fn fact(facts: &Facts, layer: usize, column: usize) -> String {
    let of_layer = &facts.layers[layer];
    let count = |n: Option<usize>| n.map_or_else(|| "–".to_owned(), |n| n.to_string());
    let share = |share: Option<f32>| share.map_or_else(|| "–".to_owned(), parts::percent);
    let split = of_layer.split.filter(|_| !of_layer.reads_everything);
    match column {
        0 => layer.to_string(),
        1 if of_layer.reads_everything => "all".to_owned(),
        1 => count(of_layer.selection.as_ref().map(|s| s.positions.len())),
        2 => count(split.map(|split| split.n_sink)),
        3 => count(split.map(|split| split.n_recent)),
        4 => count(split.map(|split| split.n_retrieved)),
        5 if of_layer.reads_everything => "–".to_owned(),
        5 => count(of_layer.n_zero_scores),
        6 => share(of_layer.overlap_with_previous),
        7 => share(of_layer.overlap_with_layer_before),
        _ => match of_layer.recall {
            Some(recall) if recall.at_most - recall.at_least > 0.001 => format!(
                "{} to {}",
                parts::percent(recall.at_least),
                parts::percent(recall.at_most)
            ),
            Some(recall) => parts::percent(recall.at_least),
            None => "not recorded".to_owned(),
        },
    }
}

/// Every selected position of every layer.
pub fn table(shown: &Shown<'_>, state: &State) -> Table {
    let columns = vec![
        Column::new("layer", ""),
        Column::new("position", ""),
        Column::new("text", ""),
        Column::new("part", ""),
        Column::new("score", ""),
        Column::new("rank", ""),
        Column::new("weight", "share of attention"),
    ];
    let mut table = export::table(shown, state, columns);
    let Some((recording, query)) = state.shown_pass(shown) else {
        return table;
    };
    let facts = Facts::new(recording, shown.dense, query);
    for (layer, of_layer) in facts.layers.iter().enumerate() {
        for (name, value) in whole_layer(of_layer) {
            if let Some(value) = value {
                table.about.push((format!("layer {layer}: {name}"), value));
            }
        }
        let Some(selection) = &of_layer.selection else {
            continue;
        };
        let ranks = ranks(&selection.scores);
        for (slot, &position) in selection.positions.iter().enumerate() {
            let token = recording.token(position as usize);
            table.rows.push(vec![
                layer.into(),
                position.into(),
                token.map(|token| token.text.as_str()).into(),
                of_layer.role(position as usize, query).name().into(),
                selection.scores.get(slot).copied().into(),
                ranks.get(slot).copied().flatten().into(),
                selection.weights.get(slot).copied().into(),
            ]);
        }
    }
    table
}

/// What a table says of a layer as a whole.
fn whole_layer(facts: &LayerFacts) -> [(&'static str, Option<String>); 4] {
    let share = |share: Option<f32>| share.map(|share| share.to_string());
    [
        ("scores of 0", facts.n_zero_scores.map(|n| n.to_string())),
        (
            "overlap with the step before",
            share(facts.overlap_with_previous),
        ),
        (
            "overlap with the layer before",
            share(facts.overlap_with_layer_before),
        ),
        (
            "recall of dense attention, at least",
            share(facts.recall.map(|recall| recall.at_least)),
        ),
    ]
}

/// Rank of each score, 1 for the best, equals alike; none for a NaN.
fn ranks(scores: &[f32]) -> Vec<Option<usize>> {
    let mut sorted: Vec<f32> = scores.iter().copied().filter(|s| !s.is_nan()).collect();
    sorted.sort_by(f32::total_cmp);
    scores
        .iter()
        .map(|&score| {
            let not_better = sorted.partition_point(|&other| other <= score);
            (!score.is_nan()).then(|| sorted.len() - not_better + 1)
        })
        .collect()
}

/// The map as it is seen.
pub fn picture(shown: &Shown<'_>, state: &State, caption: &Caption) -> Picture {
    let palette = Palette::PAPER;
    let Some((recording, query)) = state.shown_pass(shown) else {
        let (picture, y) = Picture::new(caption);
        return export::nothing(picture, y);
    };
    let facts = Facts::new(recording, shown.dense, query);
    let mut said = caption.clone();
    said.lines
        .push(self::caption(recording, &facts, state.layer));
    let (mut picture, y) = Picture::new(&said);
    if !facts.has_selections() {
        return export::nothing(picture, y);
    }
    let n_columns = facts.n_visible();
    let seen = state.selection_map.visible(n_columns);
    let seen = seen.start as usize..(seen.end.ceil() as usize).min(n_columns);
    let n_rows = facts.rows.len();
    let reduced = raster::reduce(
        Rows::Sparse(&facts.rows),
        n_rows,
        n_columns,
        seen.clone(),
        820,
        n_rows,
    );
    let colors: Vec<Color32> = reduced
        .cells
        .iter()
        .map(|&cell| color(palette, &facts, cell))
        .collect();
    let ticks = export::ticks(&seen, |position| {
        if seen.len() <= 20 {
            parts::column_text(recording, position)
        } else {
            position.to_string()
        }
    });
    let matrix = Matrix {
        width: reduced.width,
        height: reduced.height,
        colors: &colors,
        row_name: &|layer| format!("layer {}", row_name(&facts, layer)),
        row_axis: "layer",
        column_axis: "position",
        ticks: &ticks,
    };
    let y = picture.matrix(y, &matrix);
    let legend = Role::LEGEND.map(|(role, words)| (palette.role(role), words.to_owned()));
    let y = picture.legend(y, &legend);
    let strength = [0.0, 0.25, 1.0].map(|share: f32| {
        let words = format!("weight {}", parts::percent(share * facts.greatest_weight));
        (palette.role_at(Role::Retrieved, share.sqrt()), words)
    });
    let mut y = picture.legend(y, &strength) + 10.0;
    let ink = palette.ink();
    let heading = format!("Read most by layer {}", state.layer);
    picture.text([20.0, y + 10.0], Anchor::Start, 13.0, ink, &heading);
    y += 20.0;
    if let Some(of_layer) = facts.layers.get(state.layer) {
        for position in of_layer.strongest(8) {
            let weight = of_layer.at(position).and_then(|at| at.weight);
            let weight = parts::or_not_recorded(weight, parts::percent);
            let line = format!(
                "{weight}  position {position}  {}",
                parts::context_line(recording, position)
            );
            picture.text([36.0, y + 10.0], Anchor::Start, 12.0, ink, &line);
            y += 16.0;
        }
    }
    picture
}
