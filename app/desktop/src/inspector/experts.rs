//! Which experts did the work: over one pass, a message, or everything; and whom an expert served.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::ops::Range;

use eframe::egui::{
    self, Align2, Color32, FontId, Rect, Sense, Stroke, StrokeKind, Ui, WidgetInfo, pos2, vec2,
};

use super::parts::{self, TableColumn};
use super::{InspectorAction, Scope, Shown, State, export};
use crate::heatmap::{Cell, HeatMap, Rows, heatmap_ui, raster};
use crate::palette::{CATEGORIES, Palette, readable_on};
use crate::picture::{Anchor, Caption, Column, Matrix, Picture, Table};
use crate::recording::{self, Recording};

/// Tokens in the list of those that an expert served.
const N_SERVED: usize = 50;
/// Tokens with lanes: those up to the pass shown.
const N_LANES: usize = 24;

/// What the map of experts shows.
#[derive(Debug)]
pub struct Loads {
    /// Layers with experts.
    layers: Vec<usize>,
    /// Experts in each.
    n_experts: usize,
    /// `[layers, experts]`: gate weights of one pass, or how many tokens were served.
    values: Vec<f32>,
    /// How many tokens were served, by layer; empty for one pass.
    loads: Vec<Vec<u32>>,
    /// The greatest number among the values.
    greatest: f32,
}

impl Loads {
    fn new(recording: &Recording, scope: Scope, positions: Range<usize>) -> Self {
        let header = recording.header();
        let n_experts = header.n_routed_experts;
        let layers = header.moe_layers.clone();
        let mut values = vec![0.0; layers.len() * n_experts];
        let mut loads = Vec::new();
        for (row, &layer) in layers.iter().enumerate() {
            let into = &mut values[row * n_experts..(row + 1) * n_experts];
            if scope == Scope::Token {
                for (expert, weight) in recording
                    .experts(positions.start, layer)
                    .unwrap_or_default()
                {
                    if let Some(value) = into.get_mut(usize::from(expert)) {
                        *value = weight;
                    }
                }
            } else {
                let load = recording.expert_load(positions.clone(), layer);
                for (value, &n) in into.iter_mut().zip(&load) {
                    *value = n as f32;
                }
                loads.push(load);
            }
        }
        let numbers = values.iter().copied().filter(|value| value.is_finite());
        Self {
            greatest: numbers.fold(0.0, f32::max),
            layers,
            n_experts,
            values,
            loads,
        }
    }

    fn value(&self, row: usize, expert: usize) -> f32 {
        let value = self.values.get(row * self.n_experts + expert);
        value.copied().unwrap_or(f32::NAN)
    }

    fn words(&self, row: usize, expert: usize) -> String {
        let value = self.value(row, expert);
        if self.loads.is_empty() {
            if value == 0.0 {
                "not chosen".to_owned()
            } else if value.is_nan() {
                "chosen, gate weight not recorded".to_owned()
            } else {
                format!("gate weight {value:.3}")
            }
        } else {
            format!("served {value} tokens")
        }
    }

    fn color(&self, palette: Palette, value: f32) -> Color32 {
        if value == 0.0 {
            palette.role(crate::palette::Role::NotSelected)
        } else {
            palette.sequential(value / self.greatest.max(f32::MIN_POSITIVE))
        }
    }
}

/// Positions of the message that `position` belongs to: as the app knows them, or else the run of tokens by the same
/// writer.
pub fn message_of(shown: &Shown<'_>, recording: &Recording, position: usize) -> Range<usize> {
    let known = shown
        .messages
        .iter()
        .find(|range| range.contains(&position));
    if let Some(range) = known {
        return range.start..range.end.min(recording.n_tokens());
    }
    let origin = |position: usize| recording.token(position).map(|token| token.origin);
    let own = origin(position);
    let same = |p: &usize| origin(*p) == own;
    let from = (0..position).rev().take_while(same).last();
    let n_after = (position + 1..recording.n_tokens())
        .take_while(same)
        .count();
    from.unwrap_or(position)..position + 1 + n_after
}

fn positions(
    shown: &Shown<'_>,
    state: &State,
    recording: &Recording,
    query: usize,
) -> Range<usize> {
    match state.scope {
        Scope::Token => query..query + 1,
        Scope::Message => {
            let selected = state.selected_in(shown).unwrap_or(query);
            message_of(shown, recording, selected)
        }
        Scope::Everything => 0..recording.n_tokens(),
    }
}

/// Draws the view.
pub fn experts_ui(
    ui: &mut Ui,
    shown: &Shown<'_>,
    state: &mut State,
    actions: &mut Vec<InspectorAction>,
) {
    let Some((recording, query)) = state.shown_pass(shown) else {
        parts::nothing_ui(ui, shown, actions);
        return;
    };
    if recording.header().moe_layers.is_empty() {
        ui.label("This model has no routed experts.");
        return;
    }
    ui.horizontal_wrapped(|ui| {
        ui.label("Over");
        ui.selectable_value(&mut state.scope, Scope::Token, "This token")
            .on_hover_text("Gate weights in the pass shown");
        ui.selectable_value(&mut state.scope, Scope::Message, "This message")
            .on_hover_text("How many tokens of the message each expert served");
        ui.selectable_value(&mut state.scope, Scope::Everything, "Everything")
            .on_hover_text("How many of all recorded tokens each expert served");
    });
    if state.scope == Scope::Token && parts::pass_or_missing(ui, shown, state, actions).is_none() {
        return;
    }
    let over = positions(shown, state, recording, query);
    let mut memo = std::mem::take(&mut state.loads);
    let key = (
        parts::version(shown) ^ state.scope as u64,
        over.start,
        over.end,
    );
    let loads = memo.get(key, || Loads::new(recording, state.scope, over.clone()));
    if loads.values.iter().all(|&value| value == 0.0) {
        let sentence = "Which experts were chosen was not recorded here.";
        let offer = (
            "Record the whole conversation",
            shown.can_run,
            InspectorAction::RecordWhole,
        );
        parts::missing_ui(ui, sentence, Some(offer), actions);
        state.loads = memo;
        return;
    }
    egui::ScrollArea::vertical()
        .id_salt("experts")
        .auto_shrink([false, false])
        .show(ui, |ui| {
            map_ui(ui, shown, state, loads, query, &over);
            balance_ui(ui, state, loads);
            served_ui(ui, shown, state, recording, actions);
            lanes_ui(ui, shown, state, recording, query, actions);
        });
    state.loads = memo;
}

fn map_ui(
    ui: &mut Ui,
    shown: &Shown<'_>,
    state: &mut State,
    loads: &Loads,
    query: usize,
    over: &Range<usize>,
) {
    let palette = Palette::of(ui.visuals());
    let mut hasher = DefaultHasher::new();
    (parts::version(shown), state.scope, over, query).hash(&mut hasher);
    let summary = format!(
        "{} layers, {} experts, tokens {} to {}",
        loads.layers.len(),
        loads.n_experts,
        over.start,
        over.end.saturating_sub(1)
    );
    let row_of = |layer: usize| loads.layers.iter().position(|&other| other == layer);
    let map = HeatMap {
        label: "Experts map",
        summary: &summary,
        rows: Rows::Dense(&loads.values),
        n_rows: loads.layers.len(),
        n_columns: loads.n_experts,
        key: hasher.finish(),
        color: &|cell: Cell| loads.color(palette, cell.value),
        row_name: &|row| loads.layers[row].to_string(),
        column_name: &|expert| expert.to_string(),
        row_axis: "layer",
        column_axis: "expert",
        marked_row: row_of(state.layer),
        marked_column: state.expert.map(|(_, expert)| expert),
        hovered_column: None,
        max_height: 320.0,
    };
    let mut view = std::mem::take(&mut state.experts_map);
    let output = heatmap_ui(ui, &map, &mut view);
    state.experts_map = view;
    if let Some((row, expert)) = output.hovered {
        let layer = loads.layers[row];
        let words = format!(
            "layer {layer}, expert {expert}: {}",
            loads.words(row, expert)
        );
        if output.response.hovered() {
            output.response.on_hover_text_at_pointer(words);
        } else {
            ui.label(words);
        }
    }
    if let Some((row, expert)) = output.clicked {
        state.layer = loads.layers[row];
        state.expert = Some((state.layer, expert));
    }
    ui.horizontal_wrapped(|ui| {
        if ui.button("Fit").on_hover_text("Show all experts").clicked() {
            state.experts_map.fit();
        }
        let (from, to) = if loads.loads.is_empty() {
            ("gate weight 0", format!("{:.3}", loads.greatest))
        } else {
            ("1 token", format!("{} tokens", loads.greatest))
        };
        parts::scale_ui(ui, |t| palette.sequential(t), from, &to);
        let none = palette.role(crate::palette::Role::NotSelected);
        parts::legend_ui(
            ui,
            &[(none, "not chosen"), (palette.no_number(), "not a number")],
        );
    });
}

fn balance_words(load: &[u32]) -> String {
    match recording::balance(load) {
        Some(balance) => format!(
            "busiest expert {:.2} times the mean, evenness {}, {} idle of {}",
            balance.max_over_mean,
            parts::percent(balance.evenness),
            balance.n_idle,
            load.len()
        ),
        None => "no token recorded".to_owned(),
    }
}

fn balance_ui(ui: &mut Ui, state: &mut State, loads: &Loads) {
    if loads.loads.is_empty() {
        return;
    }
    let marked = state.layer;
    egui::CollapsingHeader::new("Balance against an even load")
        .default_open(true)
        .show(ui, |ui| {
            let columns = [
                TableColumn {
                    name: "layer",
                    width: 50.0,
                },
                TableColumn {
                    name: "load",
                    width: 0.0,
                },
            ];
            let output = parts::table_ui(
                ui,
                "balance rows",
                &columns,
                loads.layers.len(),
                |row| loads.layers[row] == marked,
                |row, column| {
                    if column == 0 {
                        loads.layers[row].to_string()
                    } else {
                        balance_words(&loads.loads[row])
                    }
                },
            );
            if let Some(row) = output.clicked {
                state.layer = loads.layers[row];
            }
        });
}

fn served_ui(
    ui: &mut Ui,
    shown: &Shown<'_>,
    state: &mut State,
    recording: &Recording,
    actions: &mut Vec<InspectorAction>,
) {
    let Some((layer, expert)) = state.expert else {
        ui.weak("Click an expert to see the tokens that it served most strongly.");
        return;
    };
    let mut memo = std::mem::take(&mut state.served);
    let served = memo.get((parts::version(shown), layer, expert), || {
        recording.tokens_of_expert(layer, expert, N_SERVED)
    });
    egui::CollapsingHeader::new(format!(
        "Served most strongly by expert {expert} of layer {layer}"
    ))
    .id_salt("served")
    .default_open(true)
    .show(ui, |ui| {
        if ui
            .button("Switch this expert off in What if")
            .on_hover_text("Puts it into the what-if form")
            .clicked()
        {
            state.form.switch_off(layer, expert);
        }
        if served.is_empty() {
            ui.label("It served no recorded token.");
            return;
        }
        let columns = [
            TableColumn {
                name: "gate weight",
                width: 90.0,
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
        let hovered = state.hovered;
        let output = parts::table_ui(
            ui,
            "served rows",
            &columns,
            served.len(),
            |row| hovered == Some(served[row].0),
            |row, column| match column {
                0 => format!("{:.3}", served[row].1),
                1 => served[row].0.to_string(),
                _ => parts::context_line(recording, served[row].0),
            },
        );
        if let Some(row) = output.hovered {
            state.point_at(served[row].0);
        }
        if let Some(row) = output.clicked {
            state.click(shown, served[row].0, actions);
        }
    });
    state.served = memo;
}

/// Chosen experts of the last tokens, side by side, as long as their gate weights.
fn lanes_ui(
    ui: &mut Ui,
    shown: &Shown<'_>,
    state: &mut State,
    recording: &Recording,
    query: usize,
    actions: &mut Vec<InspectorAction>,
) {
    let header = recording.header();
    let layer = if header.moe_layers.contains(&state.layer) {
        state.layer
    } else {
        header.moe_layers[0]
    };
    let from = (query + 1).saturating_sub(N_LANES);
    egui::CollapsingHeader::new(format!("Experts of layer {layer}, token by token"))
        .id_salt("lanes")
        .default_open(true)
        .show(ui, |ui| {
            for position in from..=query {
                lane_ui(ui, shown, state, recording, (position, layer), actions);
            }
        });
}

fn lane_ui(
    ui: &mut Ui,
    shown: &Shown<'_>,
    state: &mut State,
    recording: &Recording,
    (position, layer): (usize, usize),
    actions: &mut Vec<InspectorAction>,
) {
    let experts = recording.experts(position, layer);
    let (rect, response) = ui.allocate_exact_size(vec2(ui.available_width(), 19.0), Sense::CLICK);
    let chosen = experts.as_deref().unwrap_or_default();
    response.widget_info(|| {
        let told = match &experts {
            None => "not recorded".to_owned(),
            Some(experts) => experts
                .iter()
                .map(|(expert, weight)| format!("expert {expert} {weight:.3}"))
                .collect::<Vec<_>>()
                .join(", "),
        };
        let label = format!("Lane of token {position}: {told}");
        WidgetInfo::labeled(egui::Role::Button, true, label)
    });
    parts::row_ground_ui(ui, rect, &response, state.hovered == Some(position));
    let painter = ui.painter_at(rect);
    let color = ui.visuals().text_color();
    let name = format!("{position} {}", parts::column_text(recording, position));
    let left = rect.left() + 130.0;
    painter.text(
        pos2(left - 8.0, rect.center().y),
        Align2::RIGHT_CENTER,
        name,
        FontId::monospace(11.5),
        color,
    );
    let total: f32 = chosen.iter().map(|(_, weight)| weight.max(0.0)).sum();
    let room = rect.right() - left - 4.0;
    let mut x = left;
    for &(expert, weight) in chosen {
        let share = if total > 0.0 && weight.is_finite() {
            weight.max(0.0) / total
        } else {
            1.0 / chosen.len() as f32
        };
        let place = Rect::from_min_max(
            pos2(x, rect.top() + 1.0),
            pos2(x + share * room - 1.0, rect.bottom() - 1.0),
        );
        let ground = CATEGORIES[usize::from(expert) % CATEGORIES.len()];
        painter.rect_filled(place, 2.0, ground);
        if state.expert == Some((layer, usize::from(expert))) {
            let stroke = Stroke::new(2.0, ui.visuals().strong_text_color());
            painter.rect_stroke(place, 2.0, stroke, StrokeKind::Inside);
        }
        let words = if weight.is_nan() {
            format!("{expert}")
        } else {
            format!("{expert}  {weight:.2}")
        };
        ui.painter_at(place.intersect(ui.clip_rect())).text(
            place.center(),
            Align2::CENTER_CENTER,
            words,
            FontId::proportional(11.0),
            readable_on(ground),
        );
        let pressed_here = response
            .interact_pointer_pos()
            .is_some_and(|pos| place.contains(pos));
        if response.clicked() && pressed_here {
            state.expert = Some((layer, usize::from(expert)));
        }
        x += share * room;
    }
    if experts.is_none() {
        painter.text(
            pos2(left, rect.center().y),
            Align2::LEFT_CENTER,
            "not recorded",
            FontId::proportional(11.0),
            ui.visuals().weak_text_color(),
        );
    }
    if response.hovered() {
        state.point_at(position);
    }
    let on_name = response
        .interact_pointer_pos()
        .is_some_and(|pos| pos.x < left);
    if response.clicked() && on_name {
        state.click(shown, position, actions);
    }
}

/// Load or gate weight of every expert.
pub fn table(shown: &Shown<'_>, state: &State) -> Table {
    let unit = if state.scope == Scope::Token {
        "gate weight"
    } else {
        "tokens"
    };
    let columns = vec![
        Column::new("layer", ""),
        Column::new("expert", ""),
        Column::new("load", unit),
    ];
    let mut table = export::table(shown, state, columns);
    let Some((recording, query)) = state.shown_pass(shown) else {
        return table;
    };
    let over = positions(shown, state, recording, query);
    let about = format!("{} to {}", over.start, over.end.saturating_sub(1));
    table.about.push(("tokens".to_owned(), about));
    let loads = Loads::new(recording, state.scope, over);
    for (row, &layer) in loads.layers.iter().enumerate() {
        if let Some(load) = loads.loads.get(row) {
            let balance = balance_words(load);
            table
                .about
                .push((format!("balance of layer {layer}"), balance));
        }
        for expert in 0..loads.n_experts {
            table.rows.push(vec![
                layer.into(),
                expert.into(),
                loads.value(row, expert).into(),
            ]);
        }
    }
    table
}

/// The map, and whom the selected expert served.
pub fn picture(shown: &Shown<'_>, state: &State, caption: &Caption) -> Picture {
    let palette = Palette::PAPER;
    let Some((recording, query)) = state.shown_pass(shown) else {
        let (picture, y) = Picture::new(caption);
        return export::nothing(picture, y);
    };
    let over = positions(shown, state, recording, query);
    let mut caption = caption.clone();
    caption.lines.push(match state.scope {
        Scope::Token => format!("gate weights in the pass of token {query}"),
        _ => format!(
            "how many of the tokens {} to {} each expert served",
            over.start,
            over.end.saturating_sub(1)
        ),
    });
    let (mut picture, y) = Picture::new(&caption);
    let loads = Loads::new(recording, state.scope, over);
    if loads.layers.is_empty() || loads.n_experts == 0 {
        return export::nothing(picture, y);
    }
    let all = 0..loads.n_experts;
    let n_rows = loads.layers.len();
    let reduced = raster::reduce(
        Rows::Dense(&loads.values),
        n_rows,
        loads.n_experts,
        all.clone(),
        820,
        n_rows,
    );
    let colors: Vec<_> = reduced
        .cells
        .iter()
        .map(|cell| loads.color(palette, cell.value))
        .collect();
    let matrix = Matrix {
        width: reduced.width,
        height: reduced.height,
        colors: &colors,
        row_name: &|row| format!("layer {}", loads.layers[row]),
        row_axis: "layer",
        column_axis: "expert",
        ticks: &export::ticks(&all, |expert| expert.to_string()),
    };
    let y = picture.matrix(y, &matrix);
    let unit = if loads.loads.is_empty() {
        "gate weight"
    } else {
        "tokens"
    };
    let mut legend: Vec<_> = [0.25, 0.5, 1.0]
        .map(|share| {
            let words = format!("{unit} {:.3}", share * loads.greatest);
            (palette.sequential(share), words)
        })
        .into();
    let none = palette.role(crate::palette::Role::NotSelected);
    legend.push((none, "not chosen".to_owned()));
    let mut y = picture.legend(y, &legend) + 10.0;
    if let Some((layer, expert)) = state.expert {
        let heading = format!("Served most strongly by expert {expert} of layer {layer}");
        let ink = palette.ink();
        picture.text([20.0, y + 10.0], Anchor::Start, 13.0, ink, &heading);
        y += 20.0;
        for (position, weight) in recording.tokens_of_expert(layer, expert, 8) {
            let context = parts::context_line(recording, position);
            let line = format!("{weight:.3}  position {position}  {context}");
            picture.text([36.0, y + 10.0], Anchor::Start, 12.0, ink, &line);
            y += 16.0;
        }
    }
    picture
}
