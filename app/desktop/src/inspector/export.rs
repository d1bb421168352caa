//! Files of a view: its data as JSON or CSV, its picture as PNG or SVG.

use std::ops::Range;

use super::{LiveStats, Pass, RecordingCost, Shown, Sides, State, VIEWS, parts};
use crate::heatmap;
use crate::picture::{Anchor, Caption, Column, Picture, Table};
use crate::recording::Recording;

/// What a view is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportKind {
    /// Picture in pixels.
    Png,
    /// Picture in lines.
    Svg,
    /// Data as comma-separated values.
    Csv,
    /// Data as JSON.
    Json,
}

impl ExportKind {
    /// Every kind, in the order of the menu.
    pub const ALL: [Self; 4] = [Self::Png, Self::Svg, Self::Csv, Self::Json];

    /// What the menu says.
    pub fn title(self) -> &'static str {
        match self {
            Self::Png => "Picture as PNG…",
            Self::Svg => "Picture as SVG…",
            Self::Csv => "Data as CSV…",
            Self::Json => "Data as JSON…",
        }
    }

    /// Ending of file names.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Svg => "svg",
            Self::Csv => "csv",
            Self::Json => "json",
        }
    }
}

/// Pixels of a PNG per unit of the picture.
const SCALE: f32 = 2.0;

/// The bytes of the file that holds view number `view`. `date` is written into it as it is.
///
/// # Errors
/// If there is no such view, or the picture is too large.
pub fn export(
    view: usize,
    kind: ExportKind,
    shown: &Shown<'_>,
    state: &State,
    date: &str,
) -> anyhow::Result<Vec<u8>> {
    let Some(view) = VIEWS.get(view) else {
        anyhow::bail!("no view {view}, expected 0 to {}", VIEWS.len() - 1);
    };
    let picture = || (view.picture)(shown, state, &caption(view.title, shown, state, date));
    let table = || {
        let mut table = (view.table)(shown, state);
        table.title = view.title.to_owned();
        table.about.push(("date".to_owned(), date.to_owned()));
        table
    };
    Ok(match kind {
        ExportKind::Png => picture().to_png(SCALE)?,
        ExportKind::Svg => picture().to_svg().into_bytes(),
        ExportKind::Csv => table().to_csv().into_bytes(),
        ExportKind::Json => table().to_json().into_bytes(),
    })
}

/// What [`export`] looks at, by itself: for another thread. Recordings share their rows with those shown.
pub struct Snapshot {
    recording: Option<Recording>,
    dense: Option<Recording>,
    sides: Option<Sides>,
    messages: Vec<Range<usize>>,
    live: LiveStats,
    recording_cost: Option<RecordingCost>,
    state: State,
}

impl Snapshot {
    /// As it is shown now.
    pub fn of(shown: &Shown<'_>, state: &State) -> Self {
        Self {
            recording: shown.recording.cloned(),
            dense: shown.dense.cloned(),
            sides: shown.sides.cloned(),
            messages: shown.messages.to_vec(),
            live: shown.live.clone(),
            recording_cost: shown.recording_cost,
            state: state.for_export(),
        }
    }

    /// See [`export`].
    ///
    /// # Errors
    /// See [`export`].
    pub fn export(&self, view: usize, kind: ExportKind, date: &str) -> anyhow::Result<Vec<u8>> {
        let shown = Shown {
            recording: self.recording.as_ref(),
            dense: self.dense.as_ref(),
            sides: self.sides.as_ref(),
            messages: &self.messages,
            live: self.live.clone(),
            recording_cost: self.recording_cost,
            ..Shown::default()
        };
        export(view, kind, &shown, &self.state, date)
    }
}

/// A name for that file.
pub fn export_name(view: usize, kind: ExportKind, shown: &Shown<'_>, state: &State) -> String {
    let title = VIEWS.get(view).map_or("view", |view| view.title);
    let title = title.to_lowercase().replace(' ', "-");
    let token = state
        .selected_in(shown)
        .map_or_else(String::new, |position| format!("-token-{position}"));
    format!("{title}{token}.{}", kind.extension())
}

/// What holds for all of a file.
fn about(shown: &Shown<'_>, state: &State) -> Vec<(String, String)> {
    let mut about = Vec::new();
    let mut say = |name: &str, value: String| about.push((name.to_owned(), value));
    if let Some(recording) = shown.recording {
        let header = recording.header();
        say("model", header.model.clone());
        say("device", header.device.clone());
        say(
            "index_topk",
            header
                .index_topk
                .map_or_else(|| "dense".to_owned(), |topk| topk.to_string()),
        );
        if let Some(selected) = state.selected_in(shown) {
            say("token", parts::token_words(recording, selected));
        }
        if let Some(query) = state.query_in(shown) {
            let name = match state.pass {
                Pass::Wrote => "the pass that wrote it read token",
                Pass::Read => "the pass that read it, token",
            };
            say(
                name,
                format!("{query} ({})", parts::quoted(recording, query)),
            );
        }
    }
    about
}

/// A table without rows yet.
pub fn table(shown: &Shown<'_>, state: &State, columns: Vec<Column>) -> Table {
    Table {
        title: String::new(),
        about: about(shown, state),
        columns,
        rows: Vec::new(),
    }
}

fn caption(title: &str, shown: &Shown<'_>, state: &State, date: &str) -> Caption {
    let about = about(shown, state);
    let words = |pairs: &[(String, String)]| {
        let words = pairs.iter().map(|(name, value)| format!("{name}: {value}"));
        words.collect::<Vec<_>>().join(" · ")
    };
    let (model, token) = about.split_at(about.len().min(3));
    let mut first = model.to_vec();
    first.push(("date".to_owned(), date.to_owned()));
    let mut lines = vec![words(&first)];
    if !token.is_empty() {
        lines.push(words(token));
    }
    Caption {
        title: title.to_owned(),
        lines,
    }
}

/// Says in a picture that there is nothing in it.
pub fn nothing(mut picture: Picture, y: f32) -> Picture {
    let ink = crate::palette::Palette::PAPER.ink();
    let words = "Nothing was recorded of this.";
    picture.text([20.0, y + 14.0], Anchor::Start, 13.0, ink, words);
    picture.height += 10.0;
    picture
}

/// Ticks for [`Picture::matrix`] over `columns`.
pub fn ticks(columns: &Range<usize>, name: impl Fn(usize) -> String) -> Vec<(f32, String)> {
    let n = if columns.len() <= 20 { 20.0 } else { 12.0 };
    let visible = columns.start as f64..columns.end as f64;
    heatmap::ticks(&visible, n)
        .into_iter()
        .filter(|column| columns.contains(column))
        .map(|column| {
            let at = (column - columns.start) as f32 + 0.5;
            (at / columns.len() as f32, name(column))
        })
        .collect()
}
