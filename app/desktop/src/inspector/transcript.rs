//! The text as the model got it, every token to be clicked and tinted by what was measured.

use eframe::egui::{
    self, Align, Align2, Color32, FontId, Rect, ScrollArea, Sense, Stroke, StrokeKind, Ui,
    WidgetInfo, pos2, vec2,
};

use super::{InspectorAction, Shown, State, Tint, export, parts};
use crate::palette::{Palette, mix, readable_on};
use crate::picture::{Anchor, Caption, Column, Field, Picture, Table};
use crate::recording::{Origin, Recording};

/// Log-probabilities at this and below have the full colour of a surprise.
const MOST_SURPRISING: f32 = -10.0;
/// Log-probability of the neutral colour: one in ten.
const NEUTRAL: f32 = -std::f32::consts::LN_10;
/// Entropy of the full colour, in nats.
const MOST_ENTROPY: f32 = 6.0;

/// Draws the view.
pub fn transcript_ui(
    ui: &mut Ui,
    shown: &Shown<'_>,
    state: &mut State,
    actions: &mut Vec<InspectorAction>,
) {
    let (Some(recording), Some(selected)) = (shown.recording, state.selected_in(shown)) else {
        parts::nothing_ui(ui, shown, actions);
        return;
    };
    tint_ui(ui, shown, state, actions);
    pick_ui(ui, state);
    let tints = Tints::new(shown, state, recording, Palette::of(ui.visuals()));

    let font = FontId::monospace(13.0);
    let line_height = ui.fonts_mut(|fonts| fonts.row_height(&font)).ceil() + 5.0;
    let width = ui.available_width() - 14.0;
    let show_special = state.show_special;
    let mut lines = std::mem::take(&mut state.lines);
    ui.fonts_mut(|fonts| {
        let glyph_key = fonts.glyph_width(&font, 'm');
        lines.update(recording, width, glyph_key, show_special, |text| {
            text.chars().map(|c| fonts.glyph_width(&font, c)).sum()
        });
    });
    // As it is chosen on the time line or in another view, it comes into sight here.
    let scrolls = state.scrolled_to != Some(selected);
    state.scrolled_to = Some(selected);
    ScrollArea::vertical()
        .id_salt("transcript")
        .auto_shrink([false, false])
        .show_viewport(ui, |ui, viewport| {
            ui.set_height(line_height * lines.n_lines() as f32);
            let origin = ui.max_rect().min;
            let token_rect = |position: usize| {
                let place = lines.place(position)?;
                let top = origin.y + place.line as f32 * line_height;
                Some(Rect::from_min_size(
                    pos2(origin.x + place.x, top),
                    vec2(place.width, line_height - 2.0),
                ))
            };
            if scrolls && let Some(rect) = token_rect(selected) {
                let from_top = rect.top() - origin.y;
                if !(viewport.min.y..viewport.max.y - line_height).contains(&from_top) {
                    ui.scroll_to_rect(rect, Some(Align::Center));
                }
            }
            let first = (viewport.min.y / line_height).max(0.0) as usize;
            let last = ((viewport.max.y / line_height).ceil() as usize).min(lines.n_lines());
            for line in first..last {
                for position in lines.tokens(line) {
                    if let Some(rect) = token_rect(position).filter(|rect| rect.width() > 0.0) {
                        let tint = tints.of(position);
                        let token = Token {
                            recording,
                            position,
                            rect,
                            is_selected: position == selected,
                            tint,
                        };
                        token_ui(ui, &token, &font, shown, state, actions);
                    }
                }
            }
        });
    state.lines = lines;
}

struct Token<'a> {
    recording: &'a Recording,
    position: usize,
    rect: Rect,
    is_selected: bool,
    tint: Option<Color32>,
}

fn token_ui(
    ui: &Ui,
    token: &Token<'_>,
    font: &FontId,
    shown: &Shown<'_>,
    state: &mut State,
    actions: &mut Vec<InspectorAction>,
) {
    let Token {
        recording,
        position,
        rect,
        is_selected,
        tint,
    } = *token;
    let id = ui.scope_id().with(("token", position));
    // Without a place in the order of Tab: there are hundreds. The keyboard has the time line.
    let response = ui.interact(rect, id, Sense::CLICK);
    let info = recording.token(position);
    let text = info.map_or_else(|| "?".to_owned(), |info| parts::visible_text(&info.text));
    response.widget_info(|| {
        let label = format!("{position}: {text}");
        WidgetInfo::selected(egui::Role::Button, true, is_selected, label)
    });
    let palette = Palette::of(ui.visuals());
    let painter = ui.painter_at(rect.expand(2.0));
    if let Some(tint) = tint {
        painter.rect_filled(rect, 2.0, tint);
    }
    let mut color = tint.map_or(ui.visuals().text_color(), readable_on);
    if info.is_some_and(|info| parts::is_special(&info.text)) && tint.is_none() {
        color = ui.visuals().weak_text_color();
    }
    painter.text(
        rect.left_center(),
        Align2::LEFT_CENTER,
        text,
        font.clone(),
        color,
    );
    let changed = [
        (state.form.banned.contains(&position), palette.mark()),
        (state.form.pinned.contains(&position), palette.accent()),
    ];
    for (is_changed, color) in changed {
        if is_changed {
            let line = [rect.left_bottom(), rect.right_bottom()];
            painter.line_segment(line, Stroke::new(3.0, color));
        }
    }
    let stroke = if is_selected {
        Some(Stroke::new(2.0, ui.visuals().strong_text_color()))
    } else {
        (state.hovered == Some(position)).then(|| Stroke::new(1.5, palette.mark()))
    };
    if let Some(stroke) = stroke {
        painter.rect_stroke(rect, 2.0, stroke, StrokeKind::Inside);
    }
    if response.hovered() {
        state.point_at(position);
    }
    if response.clicked() {
        // Where the user looks already, nothing scrolls.
        state.scrolled_to = Some(position);
        state.click(shown, position, actions);
    }
    if response.hovered() || response.context_menu_opened() {
        token_menu(&response, recording, position, state, actions);
        response.on_hover_ui(|ui| token_tip_ui(ui, recording, position));
    }
}

/// What can be done with a token.
pub fn token_menu(
    response: &egui::Response,
    recording: &Recording,
    position: usize,
    state: &mut State,
    actions: &mut Vec<InspectorAction>,
) {
    response.context_menu(|ui| {
        if ui.button("Ban from the selection").clicked() {
            state.form.toggle_banned(position);
        }
        if ui.button("Pin into the selection").clicked() {
            state.form.toggle_pinned(position);
        }
        if ui.button("Copy the text").clicked()
            && let Some(token) = recording.token(position)
        {
            actions.push(InspectorAction::CopyText(token.text.clone()));
        }
    });
}

/// What is known of a token.
pub fn token_tip_ui(ui: &mut Ui, recording: &Recording, position: usize) {
    ui.strong(format!("Position {position}"));
    let Some(token) = recording.token(position) else {
        ui.label("Unknown: only later positions were recorded");
        return;
    };
    ui.label(format!("id {}, {:?}", token.id, token.text));
    ui.label(parts::or_not_recorded(token.logprob, |logprob| {
        format!(
            "log-probability {logprob:.3} ({})",
            parts::percent(logprob.exp())
        )
    }));
    ui.label(match token.entropy {
        Some(entropy) => format!("entropy {entropy:.3} nats"),
        None => "entropy not recorded".to_owned(),
    });
}

fn tint_ui(ui: &mut Ui, shown: &Shown<'_>, state: &mut State, actions: &mut Vec<InspectorAction>) {
    ui.horizontal_wrapped(|ui| {
        let name = |tint: Tint| {
            let entry = Tint::ALL.iter().find(|(other, _)| *other == tint);
            entry.map_or("", |(_, name)| *name)
        };
        let combo = egui::ComboBox::from_label("Tint by").selected_text(name(state.tint));
        combo.show_ui(ui, |ui| {
            for (tint, name) in Tint::ALL {
                ui.selectable_value(&mut state.tint, tint, name);
            }
        });
        ui.checkbox(&mut state.show_special, "Template and special tokens");
    });
    let palette = Palette::of(ui.visuals());
    let tint = state.tint;
    let query = state.query_in(shown);
    let is_recorded = |query| {
        shown
            .recording
            .is_some_and(|recording| recording.is_recorded(query))
    };
    if matches!(tint, Tint::Layers | Tint::Mass) && !query.is_some_and(is_recorded) {
        let offer = (
            "Record the whole conversation",
            shown.can_run,
            InspectorAction::RecordWhole,
        );
        let sentence = "What was read for this token was not recorded, so there is no tint.";
        parts::missing_ui(ui, sentence, Some(offer), actions);
        return;
    }
    let n_layers = shown
        .recording
        .map_or(0, |recording| recording.header().n_layers);
    match tint {
        Tint::None => {}
        Tint::Layers => parts::scale_ui(
            ui,
            |t| palette.sequential(t),
            "read by no layer",
            &format!("by all {n_layers}"),
        ),
        Tint::Mass => {
            let most = state.facts(shown).map_or(0.0, |facts| facts.greatest_mass);
            let most = parts::percent(most);
            parts::scale_ui(
                ui,
                |t| palette.sequential(t),
                "0 %",
                &format!("{most} of the attention"),
            );
        }
        Tint::LogProbability => parts::scale_ui(
            ui,
            |t| palette.diverging(2.0 * t - 1.0),
            "surprising (below 0.005 %)",
            "expected (100 %), neutral at 10 %",
        ),
        Tint::Entropy => parts::scale_ui(
            ui,
            |t| palette.sequential(t),
            "0 nats: certain",
            &format!("{MOST_ENTROPY} nats: open"),
        ),
    }
}

fn pick_ui(ui: &mut Ui, state: &mut State) {
    if let Some(words) = state.form.waits_for() {
        ui.horizontal(|ui| {
            ui.strong(words);
            if ui.button("Done").clicked() {
                state.form.stop_picking();
            }
        });
    }
}

/// Tints of tokens under the chosen quantity.
struct Tints<'a> {
    recording: &'a Recording,
    tint: Tint,
    palette: Palette,
    n_layers: usize,
    n_selecting: Vec<u16>,
    mass: Vec<f32>,
    greatest_mass: f32,
}

impl<'a> Tints<'a> {
    fn new(
        shown: &Shown<'_>,
        state: &mut State,
        recording: &'a Recording,
        palette: Palette,
    ) -> Self {
        let tint = state.tint;
        let mut tints = Self {
            recording,
            tint,
            palette,
            n_layers: recording.header().n_layers,
            n_selecting: Vec::new(),
            mass: Vec::new(),
            greatest_mass: 0.0,
        };
        let needs_pass = matches!(tint, Tint::Layers | Tint::Mass);
        if needs_pass
            && let Some(facts) = state.facts(shown)
            && facts.has_selections()
        {
            tints.n_selecting.clone_from(&facts.n_selecting);
            tints.mass.clone_from(&facts.mass);
            tints.greatest_mass = facts.greatest_mass;
        }
        tints
    }

    fn of(&self, position: usize) -> Option<Color32> {
        let token = self.recording.token(position);
        match self.tint {
            Tint::None => None,
            Tint::Layers => {
                let n = *self.n_selecting.get(position)?;
                (n > 0).then(|| {
                    self.palette
                        .sequential(f32::from(n) / self.n_layers.max(1) as f32)
                })
            }
            Tint::Mass => {
                let mass = *self.mass.get(position)?;
                let share = (mass / self.greatest_mass).sqrt();
                (mass != 0.0).then(|| self.palette.sequential(share))
            }
            Tint::LogProbability => {
                let logprob = token?.logprob?;
                let share = if logprob < NEUTRAL {
                    -(logprob - NEUTRAL) / (MOST_SURPRISING - NEUTRAL)
                } else {
                    1.0 - logprob / NEUTRAL
                };
                Some(self.palette.diverging(share))
            }
            Tint::Entropy => Some(self.palette.sequential(token?.entropy? / MOST_ENTROPY)),
        }
    }
}

/// Every token with what is known of it.
pub fn table(shown: &Shown<'_>, state: &State) -> Table {
    let columns = vec![
        Column::new("position", ""),
        Column::new("id", ""),
        Column::new("text", ""),
        Column::new("origin", ""),
        Column::new("logprob", "nats"),
        Column::new("entropy", "nats"),
        Column::new("n_layers_selecting", ""),
        Column::new("attention_mass", "share"),
    ];
    let mut table = export::table(shown, state, columns);
    let Some(recording) = shown.recording else {
        return table;
    };
    let query = state.query_in(shown).filter(|&q| recording.is_recorded(q));
    let n_selecting = query.map_or_else(Vec::new, |q| recording.n_layers_selecting(q));
    let mass = query.map_or_else(Vec::new, |q| recording.attention_mass(q));
    for position in 0..recording.n_tokens() {
        let token = recording.token(position);
        let origin = token.map(|token| match token.origin {
            Origin::Prompt => "prompt",
            Origin::Generated => "generated",
        });
        table.rows.push(vec![
            position.into(),
            token.map(|token| token.id).into(),
            token.map(|token| token.text.as_str()).into(),
            origin.into(),
            token.and_then(|token| token.logprob).into(),
            token.and_then(|token| token.entropy).into(),
            n_selecting.get(position).map(|&n| usize::from(n)).into(),
            mass.get(position)
                .copied()
                .map_or(Field::Missing, Field::from),
        ]);
    }
    table
}

/// Most tokens that are drawn; the picture says so where there are more.
const MOST_DRAWN: usize = 1500;

/// The text around the selected token, tinted.
pub fn picture(shown: &Shown<'_>, state: &State, caption: &Caption) -> Picture {
    let (mut picture, y) = Picture::new(caption);
    let (Some(recording), Some(selected)) = (shown.recording, state.selected_in(shown)) else {
        return export::nothing(picture, y);
    };
    let palette = Palette::PAPER;
    let mut own = State {
        selected: state.selected,
        pass: state.pass,
        tint: state.tint,
        ..State::default()
    };
    let tints = Tints::new(shown, &mut own, recording, palette);
    let from = selected.saturating_sub(MOST_DRAWN * 3 / 4);
    let to = (from + MOST_DRAWN).min(recording.n_tokens());
    let name = Tint::ALL.iter().find(|(tint, _)| *tint == state.tint);
    let name = name.map_or("nothing", |(_, name)| *name);
    let words = format!(
        "tinted by {name}; tokens {from} to {} of {}",
        to.saturating_sub(1),
        recording.n_tokens()
    );
    picture.text([20.0, y + 12.0], Anchor::Start, 12.0, palette.ink(), &words);
    let mut entries = vec![(
        mix(palette.ground(), palette.ink(), 0.5),
        "selected token".to_owned(),
    )];
    for t in [0.0, 0.25, 0.5, 0.75, 1.0] {
        let (color, words) = match state.tint {
            Tint::LogProbability => (
                palette.diverging(2.0 * t - 1.0),
                match t {
                    0.0 => "below 0.005 %",
                    0.5 => "10 %",
                    1.0 => "100 %",
                    _ => continue,
                },
            ),
            Tint::None => continue,
            _ => (
                palette.sequential(t),
                match t {
                    0.0 => "least",
                    0.5 => "half of the scale",
                    1.0 => "most",
                    _ => continue,
                },
            ),
        };
        entries.push((color, words.to_owned()));
    }
    let mut y = picture.legend(y + 18.0, &entries) + 4.0;
    let mut x = 20.0;
    for position in from..to {
        let text = recording
            .token(position)
            .map_or_else(|| "?".to_owned(), |token| parts::visible_text(&token.text));
        let width = 7.4 * text.chars().count() as f32 + 4.0;
        if x + width > crate::picture::WIDTH - 20.0 && x > 20.0 {
            (x, y) = (20.0, y + 20.0);
        }
        if position == selected {
            let edge = mix(palette.ground(), palette.ink(), 0.5);
            picture.rect([x - 2.0, y - 2.0, width + 3.0, 20.0], edge);
        }
        let tint = tints.of(position);
        picture.rect([x, y, width - 1.0, 16.0], tint.unwrap_or(palette.ground()));
        let color = tint.map_or(palette.ink(), readable_on);
        picture.text([x + 1.5, y + 12.0], Anchor::Start, 12.0, color, &text);
        x += width;
        if text.ends_with(parts::NEWLINE) {
            (x, y) = (20.0, y + 20.0);
        }
    }
    picture
}
