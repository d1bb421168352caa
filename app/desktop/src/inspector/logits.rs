//! Which tokens could have stood where the selected one stands, before and after truncation.

use eframe::egui::{self, Ui};

use super::{InspectorAction, Shown, State, export, parts};
use crate::palette::Palette;
use crate::picture::{Bar, Caption, Column, Picture, Table};
use crate::recording::{Candidate, TokenInfo};

fn selected<'a>(shown: &Shown<'a>, state: &State) -> Option<(usize, Option<&'a TokenInfo>)> {
    let position = state.selected_in(shown)?;
    Some((position, shown.recording?.token(position)))
}

/// What became of a candidate, in words.
fn fate(token: &TokenInfo, candidate: &Candidate) -> &'static str {
    if candidate.id == token.id {
        "taken"
    } else if candidate.draw_probability == Some(0.0) {
        "cut off"
    } else {
        ""
    }
}

fn words(token: &TokenInfo, candidate: &Candidate) -> String {
    let model = parts::percent(candidate.probability);
    let draw = match candidate.draw_probability {
        Some(draw) if draw.is_nan() => ", not a number after truncation",
        _ => "",
    };
    let fate = fate(token, candidate);
    let comma = if fate.is_empty() { "" } else { ", " };
    format!("{model}{draw}{comma}{fate}")
}

/// Draws the view.
pub fn logits_ui(
    ui: &mut Ui,
    shown: &Shown<'_>,
    state: &mut State,
    actions: &mut Vec<InspectorAction>,
) {
    let Some((position, token)) = selected(shown, state) else {
        parts::nothing_ui(ui, shown, actions);
        return;
    };
    let Some(token) = token.filter(|token| !token.candidates.is_empty()) else {
        let sentence = if position == 0 {
            "Nothing comes before the first token, so nothing was expected here.".to_owned()
        } else {
            format!("What else could have stood at position {position} was not recorded.")
        };
        let offer = (position > 0).then_some((
            "Record the whole conversation",
            shown.can_run,
            InspectorAction::RecordWhole,
        ));
        parts::missing_ui(ui, &sentence, offer, actions);
        return;
    };
    let palette = Palette::of(ui.visuals());
    ui.label(summary(position, token));
    parts::legend_ui(
        ui,
        &[
            (palette.accent(), "by the model"),
            (
                palette.other(),
                "after penalties, temperature and truncation",
            ),
            (palette.faint(), "cut off"),
        ],
    );
    egui::ScrollArea::vertical()
        .id_salt("logits")
        .auto_shrink([false, false])
        .show(ui, |ui| {
            for candidate in &token.candidates {
                let name = parts::visible_text(&candidate.text);
                let color = if fate(token, candidate) == "cut off" {
                    palette.faint()
                } else {
                    palette.accent()
                };
                let told = words(token, candidate);
                let name = if candidate.id == token.id {
                    format!("› {name}")
                } else {
                    name
                };
                let row = parts::bar_ui(ui, &name, &[(candidate.probability, color)], &told);
                row.on_hover_text(format!("id {}, {:?}", candidate.id, candidate.text));
                if let Some(draw) = candidate.draw_probability.filter(|draw| *draw > 0.0) {
                    let told = parts::percent(draw);
                    parts::bar_ui(ui, "after truncation", &[(draw, palette.other())], &told);
                }
            }
        });
}

fn summary(position: usize, token: &TokenInfo) -> String {
    let total: f32 = token.candidates.iter().map(|c| c.probability).sum();
    let n = token.candidates.len();
    let was_drawn = token
        .candidates
        .iter()
        .any(|c| c.draw_probability.is_some());
    let n_cut = token
        .candidates
        .iter()
        .filter(|candidate| candidate.draw_probability == Some(0.0))
        .count();
    let entropy = token.entropy.map_or_else(String::new, |entropy| {
        format!(" Entropy {entropy:.2} nats.")
    });
    let drawn = if was_drawn {
        format!("truncation cut off {n_cut} of them")
    } else {
        "this token was given, not drawn".to_owned()
    };
    format!(
        "The {n} most likely tokens for position {position} hold {} of the probability; {drawn}.{entropy}",
        parts::percent(total)
    )
}

/// Every candidate.
pub fn table(shown: &Shown<'_>, state: &State) -> Table {
    let columns = vec![
        Column::new("rank", ""),
        Column::new("id", ""),
        Column::new("text", ""),
        Column::new("probability", ""),
        Column::new("draw_probability", ""),
        Column::new("fate", ""),
    ];
    let mut table = export::table(shown, state, columns);
    if let Some((_, Some(token))) = selected(shown, state) {
        for (index, candidate) in token.candidates.iter().enumerate() {
            table.rows.push(vec![
                (index + 1).into(),
                candidate.id.into(),
                candidate.text.as_str().into(),
                candidate.probability.into(),
                candidate.draw_probability.into(),
                fate(token, candidate).into(),
            ]);
        }
    }
    table
}

/// Candidates as bars.
pub fn picture(shown: &Shown<'_>, state: &State, caption: &Caption) -> Picture {
    let palette = Palette::PAPER;
    let found = selected(shown, state)
        .and_then(|(position, token)| Some((position, token?)))
        .filter(|(_, token)| !token.candidates.is_empty());
    let Some((position, token)) = found else {
        let (picture, y) = Picture::new(caption);
        return export::nothing(picture, y);
    };
    let mut caption = caption.clone();
    caption.lines.push(summary(position, token));
    let (mut picture, y) = Picture::new(&caption);
    let y = picture.legend(
        y,
        &[
            (palette.accent(), "by the model".to_owned()),
            (
                palette.other(),
                "after penalties, temperature and truncation".to_owned(),
            ),
            (palette.faint(), "cut off".to_owned()),
        ],
    );
    let mut bars = Vec::new();
    for candidate in &token.candidates {
        let color = if fate(token, candidate) == "cut off" {
            palette.faint()
        } else {
            palette.accent()
        };
        bars.push(Bar {
            name: parts::visible_text(&candidate.text),
            parts: vec![(f64::from(candidate.probability), color)],
            words: words(token, candidate),
        });
        if let Some(draw) = candidate.draw_probability.filter(|draw| *draw > 0.0) {
            bars.push(Bar {
                name: "after truncation".to_owned(),
                parts: vec![(f64::from(draw), palette.other())],
                words: parts::percent(draw),
            });
        }
    }
    picture.bars(y, "probability, 0 to 1", 1.0, &bars);
    picture
}
