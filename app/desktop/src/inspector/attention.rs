//! How each head of a layer weighed the tokens that the layer read.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use eframe::egui::{self, Ui};

use super::parts::{self, TableColumn};
use super::{InspectorAction, Shown, State, export};
use crate::heatmap::{Cell, HeatMap, Rows, heatmap_ui, raster};
use crate::palette::Palette;
use crate::picture::{Caption, Column, Matrix, Picture, Table};
use crate::recording::Recording;

/// What heads weighed: positions, and `[heads, positions]` weights.
#[derive(Clone, Copy)]
struct Heads<'a> {
    positions: &'a [u32],
    weights: &'a [f32],
}

impl<'a> Heads<'a> {
    fn of(recording: &'a Recording, query: usize, layer: usize) -> Option<Self> {
        let (positions, weights) = recording.heads(query, layer)?;
        (!positions.is_empty()).then_some(Self { positions, weights })
    }

    fn n_heads(self) -> usize {
        self.weights.len() / self.positions.len()
    }

    fn head(self, head: usize) -> &'a [f32] {
        let n = self.positions.len();
        &self.weights[head * n..(head + 1) * n]
    }

    fn greatest(self) -> f32 {
        let numbers = self.weights.iter().copied().filter(|w| w.is_finite());
        numbers.fold(0.0, f32::max)
    }

    /// Slot of the greatest weight of a head; the earlier of two equals.
    fn strongest(self, head: usize) -> Option<usize> {
        let weights = self.head(head).iter().enumerate();
        weights
            .filter(|(_, weight)| !weight.is_nan())
            .max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)))
            .map(|(slot, _)| slot)
    }

    /// How many positions share the attention of a head: e to the power of its entropy. NaN if a weight is.
    fn spread(self, head: usize) -> f32 {
        let entropy: f64 = self
            .head(head)
            .iter()
            .filter(|&&weight| weight != 0.0)
            .map(|&weight| f64::from(weight))
            .map(|weight| -weight * weight.ln())
            .sum();
        entropy.exp() as f32
    }
}

/// Colours grow with the root of the weight, as in the selection map.
fn color(palette: Palette, greatest: f32, weight: f32) -> egui::Color32 {
    palette.sequential((weight / greatest.max(f32::MIN_POSITIVE)).sqrt())
}

/// Draws the view.
pub fn attention_ui(
    ui: &mut Ui,
    shown: &Shown<'_>,
    state: &mut State,
    actions: &mut Vec<InspectorAction>,
) {
    let Some((recording, query)) = parts::pass_or_missing(ui, shown, state, actions) else {
        return;
    };
    parts::layer_ui(ui, recording, state);
    let layer = state.layer;
    let Some(heads) = Heads::of(recording, query, layer) else {
        let sentence = if recording.heads_dropped(query, layer) {
            format!(
                "The heads of layer {layer} were recorded for this pass and dropped to save space."
            )
        } else {
            format!("The heads of layer {layer} were not recorded for the pass of token {query}.")
        };
        let action = InspectorAction::RecordHeads {
            position: query,
            layer,
        };
        let offer = Some(("Record the heads of this layer", shown.can_run, action));
        parts::missing_ui(ui, &sentence, offer, actions);
        return;
    };
    let palette = Palette::of(ui.visuals());
    let (n_heads, n_positions) = (heads.n_heads(), heads.positions.len());
    state.head = state.head.min(n_heads.saturating_sub(1));
    ui.label(format!(
        "{n_heads} heads of layer {layer} over the {n_positions} positions that it read, side by side without the gaps between them."
    ));
    let mut hasher = DefaultHasher::new();
    (parts::version(shown), query, layer).hash(&mut hasher);
    let greatest = heads.greatest();
    let slot_of = |position: usize| heads.positions.binary_search(&(position as u32)).ok();
    let name = |slot: usize| parts::column_text(recording, heads.positions[slot] as usize);
    let summary = format!("{n_heads} heads, {n_positions} positions");
    let map = HeatMap {
        label: "Heads map",
        summary: &summary,
        rows: Rows::Dense(heads.weights),
        n_rows: n_heads,
        n_columns: n_positions,
        key: hasher.finish(),
        color: &|cell: Cell| color(palette, greatest, cell.value),
        row_name: &|head| head.to_string(),
        column_name: &name,
        row_axis: "head",
        column_axis: "number of the selected position",
        marked_row: Some(state.head),
        marked_column: None,
        hovered_column: state.hovered.and_then(slot_of),
        max_height: 420.0,
    };
    let mut view = std::mem::take(&mut state.heads_map);
    let output = heatmap_ui(ui, &map, &mut view);
    state.heads_map = view;
    if let Some((head, slot)) = output.hovered {
        let position = heads.positions[slot] as usize;
        state.point_at(position);
        let words = format!(
            "head {head}, position {position}: {}, weight {}",
            parts::quoted(recording, position),
            parts::percent(heads.head(head)[slot])
        );
        if output.response.hovered() {
            output.response.on_hover_text_at_pointer(words);
        } else {
            ui.label(words);
        }
    }
    if let Some((head, _)) = output.clicked {
        state.head = head;
    }
    let most = parts::percent(greatest);
    ui.horizontal_wrapped(|ui| {
        if ui
            .button("Fit")
            .on_hover_text("Show all positions")
            .clicked()
        {
            state.heads_map.fit();
        }
        parts::scale_ui(ui, |t| palette.sequential(t), "weight 0", &most);
        parts::legend_ui(ui, &[(palette.no_number(), "not a number")]);
    });
    heads_ui(ui, shown, state, recording, heads, actions);
}

fn heads_ui(
    ui: &mut Ui,
    shown: &Shown<'_>,
    state: &mut State,
    recording: &Recording,
    heads: Heads<'_>,
    actions: &mut Vec<InspectorAction>,
) {
    let columns = [
        TableColumn {
            name: "head",
            width: 50.0,
        },
        TableColumn {
            name: "spread over",
            width: 110.0,
        },
        TableColumn {
            name: "greatest weight",
            width: 110.0,
        },
        TableColumn {
            name: "on",
            width: 0.0,
        },
    ];
    let marked = state.head;
    let output = parts::table_ui(
        ui,
        "heads rows",
        &columns,
        heads.n_heads(),
        |row| row == marked,
        |head, column| match (column, heads.strongest(head)) {
            (0, _) => head.to_string(),
            (1, _) => format!("{:.1} positions", heads.spread(head)),
            (_, None) => "–".to_owned(),
            (2, Some(slot)) => parts::percent(heads.head(head)[slot]),
            (_, Some(slot)) => parts::context_line(recording, heads.positions[slot] as usize),
        },
    );
    let position_of = |head: usize| Some(heads.positions[heads.strongest(head)?] as usize);
    if let Some(position) = output.hovered.and_then(position_of) {
        state.point_at(position);
    }
    if let Some(head) = output.clicked {
        state.head = head;
        // A form that waits for a token takes the one of this row.
        if let Some(position) = position_of(head).filter(|_| state.form.waits_for().is_some()) {
            state.click(shown, position, actions);
        }
    }
}

/// Every weight.
pub fn table(shown: &Shown<'_>, state: &State) -> Table {
    let columns = vec![
        Column::new("layer", ""),
        Column::new("head", ""),
        Column::new("position", ""),
        Column::new("text", ""),
        Column::new("weight", "share of attention"),
    ];
    let mut table = export::table(shown, state, columns);
    let Some((recording, query)) = state.shown_pass(shown) else {
        return table;
    };
    if let Some(heads) = Heads::of(recording, query, state.layer) {
        for head in 0..heads.n_heads() {
            for (&position, &weight) in heads.positions.iter().zip(heads.head(head)) {
                let token = recording.token(position as usize);
                table.rows.push(vec![
                    state.layer.into(),
                    head.into(),
                    position.into(),
                    token.map(|token| token.text.as_str()).into(),
                    weight.into(),
                ]);
            }
        }
    }
    table
}

/// Heads and positions.
pub fn picture(shown: &Shown<'_>, state: &State, caption: &Caption) -> Picture {
    let palette = Palette::PAPER;
    let mut caption = caption.clone();
    caption.lines.push(format!("layer {}", state.layer));
    let (mut picture, y) = Picture::new(&caption);
    let pass = state.shown_pass(shown);
    let heads = pass.and_then(|(recording, query)| Heads::of(recording, query, state.layer));
    let (Some((recording, _)), Some(heads)) = (pass, heads) else {
        return export::nothing(picture, y);
    };
    let n_columns = heads.positions.len();
    let seen = state.heads_map.visible(n_columns);
    let seen = seen.start as usize..(seen.end.ceil() as usize).min(n_columns);
    let n_heads = heads.n_heads();
    let reduced = raster::reduce(
        Rows::Dense(heads.weights),
        n_heads,
        n_columns,
        seen.clone(),
        820,
        n_heads,
    );
    let greatest = heads.greatest();
    let colors: Vec<_> = reduced
        .cells
        .iter()
        .map(|cell| color(palette, greatest, cell.value))
        .collect();
    let ticks = export::ticks(&seen, |slot| {
        let position = heads.positions[slot] as usize;
        if seen.len() <= 20 {
            format!("{} {position}", parts::column_text(recording, position))
        } else {
            position.to_string()
        }
    });
    let matrix = Matrix {
        width: reduced.width,
        height: reduced.height,
        colors: &colors,
        row_name: &|head| format!("head {head}"),
        row_axis: "head",
        column_axis: "selected positions, without the gaps between them",
        ticks: &ticks,
    };
    let y = picture.matrix(y, &matrix);
    let mut legend: Vec<_> = [0.0f32, 0.25, 1.0]
        .iter()
        .map(|share| {
            let weight = parts::percent(share * greatest);
            (palette.sequential(share.sqrt()), format!("weight {weight}"))
        })
        .collect();
    legend.push((palette.no_number(), "not a number".to_owned()));
    picture.legend(y, &legend);
    picture
}
