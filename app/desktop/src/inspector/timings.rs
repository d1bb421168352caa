//! Where the time of a step went, how fast tokens came, and what takes memory.

use std::collections::BTreeMap;

use eframe::egui::{self, Align2, FontId, Rect, Sense, Stroke, Ui, WidgetInfo, pos2, vec2};

use super::{InspectorAction, Shown, State, export, parts};
use crate::palette::Palette;
use crate::picture::{Anchor, Bar, Caption, Column, LEFT, Picture, RIGHT, Table, WIDTH};
use crate::recording::StepTiming;

/// An op over all layers of a step.
#[derive(Clone, Debug, PartialEq)]
struct Op {
    name: String,
    /// Sum over those that were timed; `None` if none was.
    ms: Option<f64>,
    bytes: u64,
    launches: u64,
}

/// Ops with the same name together, those that took longest first, then those that moved most.
fn by_op(timing: &StepTiming) -> Vec<Op> {
    let mut ops: BTreeMap<&str, Op> = BTreeMap::new();
    for timed in &timing.ops {
        let op = ops.entry(&timed.op).or_insert_with(|| Op {
            name: timed.op.clone(),
            ms: None,
            bytes: 0,
            launches: 0,
        });
        if let Some(ms) = timed.ms {
            op.ms = Some(op.ms.unwrap_or(0.0) + f64::from(ms));
        }
        op.bytes = op.bytes.saturating_add(timed.bytes);
        op.launches += u64::from(timed.launches);
    }
    let mut ops: Vec<Op> = ops.into_values().collect();
    ops.sort_by(|a, b| {
        let ms = |op: &Op| op.ms.unwrap_or(-1.0);
        ms(b).total_cmp(&ms(a)).then(b.bytes.cmp(&a.bytes))
    });
    ops
}

fn words(op: &Op) -> String {
    let ms = op
        .ms
        .map_or_else(|| "not timed".to_owned(), |ms| format!("{ms:.3} ms"));
    let plural = if op.launches == 1 { "" } else { "es" };
    format!(
        "{ms}, {}, {} launch{plural}",
        parts::bytes(op.bytes as f64),
        op.launches
    )
}

/// What bars are long by: time if any op was timed, or else bytes.
fn length(op: &Op, is_timed: bool) -> f64 {
    if is_timed {
        op.ms.unwrap_or(0.0)
    } else {
        op.bytes as f64
    }
}

fn longest(ops: &[Op], is_timed: bool) -> f64 {
    let lengths = ops.iter().map(|op| length(op, is_timed));
    lengths
        .filter(|length| length.is_finite())
        .fold(0.0, f64::max)
}

fn summary(timing: &StepTiming) -> String {
    let launches: u64 = timing.ops.iter().map(|op| u64::from(op.launches)).sum();
    let plural = if timing.n_tokens == 1 { "" } else { "s" };
    let mut words = format!(
        "This step fed {} token{plural} and took {:.2} ms.",
        timing.n_tokens, timing.total_ms
    );
    if timing.ops.is_empty() {
        words.push_str(" Its ops were not timed one by one.");
    } else {
        words.push_str(&format!(" {launches} launches."));
        if timing.ops.iter().all(|op| op.ms.is_none()) {
            words.push_str(" Ops were counted, not timed; bars show bytes.");
        }
    }
    words
}

/// Draws the view.
pub fn timings_ui(
    ui: &mut Ui,
    shown: &Shown<'_>,
    state: &mut State,
    actions: &mut Vec<InspectorAction>,
) {
    let palette = Palette::of(ui.visuals());
    egui::ScrollArea::vertical()
        .id_salt("timings")
        .auto_shrink([false, false])
        .show(ui, |ui| {
            ui.strong("This step");
            let pass = state.shown_pass(shown);
            match pass.and_then(|(recording, query)| recording.step_timing(query)) {
                Some(timing) => step_ui(ui, timing, palette),
                None if pass.is_none() => parts::nothing_ui(ui, shown, actions),
                None => {
                    let offer = (
                        "Record the whole conversation",
                        shown.can_run,
                        InspectorAction::RecordWhole,
                    );
                    let sentence = "The time of this step was not recorded.";
                    parts::missing_ui(ui, sentence, Some(offer), actions);
                }
            }
            ui.add_space(6.0);
            ui.strong("Speed");
            speed_ui(ui, shown, palette);
            ui.add_space(6.0);
            ui.strong("Memory");
            let memory = &shown.live.memory;
            let total: u64 = memory
                .iter()
                .fold(0, |sum, part| sum.saturating_add(part.1));
            if memory.is_empty() {
                ui.label("No model is loaded, so there is no memory to measure.");
            } else {
                ui.label(format!("{} together", parts::bytes(total as f64)));
            }
            for (name, n_bytes) in memory {
                let share = *n_bytes as f32 / total.max(1) as f32;
                let told = format!(
                    "{}, {}",
                    parts::bytes(*n_bytes as f64),
                    parts::percent(share)
                );
                parts::bar_ui(ui, name, &[(share, palette.accent())], &told);
            }
        });
}

fn step_ui(ui: &mut Ui, timing: &StepTiming, palette: Palette) {
    ui.label(summary(timing));
    let ops = by_op(timing);
    let is_timed = ops.iter().any(|op| op.ms.is_some());
    let most = longest(&ops, is_timed);
    for op in &ops {
        let share = (length(op, is_timed) / most) as f32;
        parts::bar_ui(ui, &op.name, &[(share, palette.accent())], &words(op));
    }
}

/// The points that can be drawn, and the greatest time and speed.
fn drawable(points: &[(f32, f32)]) -> (Vec<(f32, f32)>, f32, f32) {
    let finite = |&&(at, speed): &&(f32, f32)| at.is_finite() && speed.is_finite();
    let points: Vec<(f32, f32)> = points.iter().filter(finite).copied().collect();
    let most = |value: fn(&(f32, f32)) -> f32| points.iter().map(value).fold(0.0, f32::max);
    let (end, fastest) = (most(|point| point.0), most(|point| point.1));
    (points, end, fastest)
}

fn speed_ui(ui: &mut Ui, shown: &Shown<'_>, palette: Palette) {
    let (points, end, fastest) = drawable(&shown.live.tokens_per_second);
    let Some(&(_, last)) = points.last() else {
        ui.label("No token has been generated since the model was loaded.");
        return;
    };
    let width = ui.available_width().max(80.0);
    let (outer, response) = ui.allocate_exact_size(vec2(width, 110.0), Sense::hover());
    let told = format!("Tokens per second over {end:.1} s: {last:.1} now, {fastest:.1} at most");
    response.widget_info(|| WidgetInfo::labeled(egui::Role::Image, true, &told));
    let rect = Rect::from_min_max(outer.min + vec2(56.0, 4.0), outer.max - vec2(8.0, 20.0));
    let painter = ui.painter_at(outer);
    let font = FontId::proportional(11.0);
    let color = ui.visuals().text_color();
    for share in [0.0, 0.5, 1.0] {
        let y = rect.bottom() - share * rect.height();
        painter.hline(rect.x_range(), y, Stroke::new(1.0, palette.faint()));
        painter.text(
            pos2(rect.left() - 4.0, y),
            Align2::RIGHT_CENTER,
            format!("{:.1}", share * fastest),
            font.clone(),
            color,
        );
    }
    let place = |(at, speed): (f32, f32)| {
        pos2(
            rect.left() + at / end.max(f32::MIN_POSITIVE) * rect.width(),
            rect.bottom() - speed / fastest.max(f32::MIN_POSITIVE) * rect.height(),
        )
    };
    let line: Vec<_> = points.iter().copied().map(place).collect();
    painter.line(line, Stroke::new(1.5, palette.accent()));
    painter.text(
        outer.left_bottom() + vec2(56.0, 0.0),
        Align2::LEFT_BOTTOM,
        format!("tokens/s over {end:.1} s"),
        font.clone(),
        color,
    );
    if let Some(pos) = response.hover_pos().filter(|pos| rect.contains(*pos)) {
        let at = (pos.x - rect.left()) / rect.width() * end;
        let nearest = points
            .iter()
            .min_by(|a, b| (a.0 - at).abs().total_cmp(&(b.0 - at).abs()));
        if let Some(&(at, speed)) = nearest {
            painter.circle_filled(place((at, speed)), 3.0, palette.mark());
            response.on_hover_text_at_pointer(format!("{at:.2} s: {speed:.1} tokens/s"));
        }
    }
}

/// Ops one by one, speed and memory.
pub fn table(shown: &Shown<'_>, state: &State) -> Table {
    let columns = vec![
        Column::new("kind", ""),
        Column::new("name", ""),
        Column::new("layer", ""),
        Column::new("time", "ms"),
        Column::new("bytes", "B"),
        Column::new("launches", ""),
        Column::new("seconds", "s"),
        Column::new("speed", "tokens/s"),
    ];
    let mut table = export::table(shown, state, columns);
    use crate::picture::Field::Missing;
    let pass = state.shown_pass(shown);
    if let Some(timing) = pass.and_then(|(recording, query)| recording.step_timing(query)) {
        table.about.push(("step".to_owned(), summary(timing)));
        for op in &timing.ops {
            table.rows.push(vec![
                "op".into(),
                op.op.as_str().into(),
                op.layer.into(),
                op.ms.into(),
                usize::try_from(op.bytes).unwrap_or(usize::MAX).into(),
                op.launches.into(),
                Missing,
                Missing,
            ]);
        }
    }
    for &(at, speed) in &shown.live.tokens_per_second {
        let mut row = vec![Missing; 8];
        (row[0], row[6], row[7]) = ("speed".into(), at.into(), speed.into());
        table.rows.push(row);
    }
    for (name, n_bytes) in &shown.live.memory {
        let mut row = vec![Missing; 8];
        let n_bytes = usize::try_from(*n_bytes).unwrap_or(usize::MAX);
        (row[0], row[1], row[4]) = ("memory".into(), name.as_str().into(), n_bytes.into());
        table.rows.push(row);
    }
    table
}

/// Ops, speed and memory.
pub fn picture(shown: &Shown<'_>, state: &State, caption: &Caption) -> Picture {
    let palette = Palette::PAPER;
    let pass = state.shown_pass(shown);
    let timing = pass.and_then(|(recording, query)| recording.step_timing(query));
    let mut caption = caption.clone();
    caption.lines.extend(timing.map(summary));
    let (mut picture, mut y) = Picture::new(&caption);
    let (points, end, fastest) = drawable(&shown.live.tokens_per_second);
    if timing.is_none() && points.is_empty() && shown.live.memory.is_empty() {
        return export::nothing(picture, y);
    }
    if let Some(timing) = timing {
        let ops = by_op(timing);
        let is_timed = ops.iter().any(|op| op.ms.is_some());
        let most = longest(&ops, is_timed);
        let bars: Vec<Bar> = ops
            .iter()
            .map(|op| Bar {
                name: op.name.clone(),
                parts: vec![(length(op, is_timed), palette.accent())],
                words: words(op),
            })
            .collect();
        let axis = if is_timed {
            format!("time by op, longest bar {most:.3} ms")
        } else {
            format!("bytes by op, longest bar {}", parts::bytes(most))
        };
        y = picture.bars(y, &axis, most, &bars);
    }
    if !points.is_empty() {
        let (room, height) = (WIDTH - LEFT - RIGHT, 120.0);
        let grey = palette.faint();
        let ink = palette.ink();
        picture.text(
            [LEFT, y + 10.0],
            Anchor::Start,
            12.0,
            ink,
            "tokens/s over seconds",
        );
        y += 20.0;
        for share in [0.0, 0.5, 1.0] {
            let level = y + height * (1.0 - share);
            picture.line([LEFT, level], [LEFT + room, level], 1.0, grey);
            let words = format!("{:.1}", share * fastest);
            picture.text([LEFT - 6.0, level + 4.0], Anchor::End, 11.0, ink, &words);
            let words = format!("{:.1} s", share * end);
            let below = [LEFT + room * share, y + height + 16.0];
            picture.text(below, Anchor::Middle, 11.0, ink, &words);
        }
        let place = |(at, speed): (f32, f32)| {
            [
                LEFT + at / end.max(f32::MIN_POSITIVE) * room,
                y + height * (1.0 - speed / fastest.max(f32::MIN_POSITIVE)),
            ]
        };
        for pair in points.windows(2) {
            picture.line(place(pair[0]), place(pair[1]), 1.5, palette.accent());
        }
        y += height + 30.0;
    }
    let memory = &shown.live.memory;
    if !memory.is_empty() {
        let most = memory.iter().map(|part| part.1).max().unwrap_or(0) as f64;
        let bars: Vec<Bar> = memory
            .iter()
            .map(|(name, n_bytes)| Bar {
                name: name.clone(),
                parts: vec![(*n_bytes as f64, palette.accent())],
                words: parts::bytes(*n_bytes as f64),
            })
            .collect();
        let axis = format!("memory by part, longest bar {}", parts::bytes(most));
        picture.bars(y, &axis, most, &bars);
    }
    picture
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::OpTiming;

    fn op(name: &str, ms: Option<f32>, bytes: u64) -> OpTiming {
        OpTiming {
            op: name.to_owned(),
            layer: Some(0),
            ms,
            bytes,
            launches: 2,
        }
    }

    #[test]
    fn ops_are_summed_over_layers_and_those_without_a_time_come_last() {
        let timing = StepTiming {
            total_ms: 4.0,
            ops: vec![
                op("a", Some(1.0), 10),
                op("b", None, 99),
                op("c", None, u64::MAX),
                op("a", Some(2.0), 5),
                op("c", None, 1),
                op("d", Some(f32::NAN), 0),
            ],
            n_tokens: 1,
        };
        let ops = by_op(&timing);
        let names: Vec<&str> = ops.iter().map(|op| op.name.as_str()).collect();
        assert_eq!(
            names[1..],
            ["a", "c", "b"],
            "a NaN is on top, where it is seen"
        );
        assert_eq!(
            (ops[1].ms, ops[1].bytes, ops[1].launches),
            (Some(3.0), 15, 4)
        );
        assert_eq!(longest(&ops, true), 3.0);
        assert!(summary(&timing).contains("12 launches"));
    }

    #[test]
    fn points_that_are_no_numbers_are_not_drawn() {
        let (points, end, fastest) = drawable(&[
            (0.0, 1.0),
            (f32::NAN, 2.0),
            (1.0, f32::INFINITY),
            (2.0, 3.0),
        ]);
        assert_eq!(points, [(0.0, 1.0), (2.0, 3.0)]);
        assert_eq!((end, fastest), (2.0, 3.0));
    }
}
