//! The curves of a run as one SVG: loss, what the indexer has learnt, learning rate, over tokens.

use std::ops::Range;
use std::path::Path;

use engine::file::write_whole;
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::log::{Record, SelectionRecord};
use crate::{Error, Result};

/// The file's name in the folder of a run.
pub const CURVES: &str = "curves.svg";

/// Width and height of one panel, in pixels.
const PANEL: (u32, u32) = (1000, 300);

/// Okabe and Ito's colours, which people with any kind of colour vision can tell apart, but for
/// yellow, which is too pale for a line.
const COLOURS: &[RGBColor] = &[
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(0, 0, 0),
];

/// One line of a panel.
struct Curve {
    name: String,
    colour: RGBColor,
    /// Millions of tokens, and the value.
    points: Vec<(f64, f64)>,
    /// Few points are marked, so that one alone is seen.
    is_marked: bool,
}

/// One diagram.
struct Panel {
    title: &'static str,
    unit: &'static str,
    curves: Vec<Curve>,
}

type Root<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws the log of a run to `path`.
///
/// # Errors
/// There are no steps to draw, or the file cannot be written.
pub fn draw(records: &[Record], path: &Path) -> Result<()> {
    let svg = to_svg(records)?;
    Ok(write_whole(path, svg.as_bytes())?)
}

fn to_svg(records: &[Record]) -> Result<String> {
    let Some(last) = records.last() else {
        return Err(Error::Setting {
            name: "the log of the run".into(),
            found: "empty".into(),
            expected: "at least one step".into(),
        });
    };
    let mut panels = panels(records);
    for panel in &mut panels {
        panel.curves.retain(|curve| !curve.points.is_empty());
    }
    panels.retain(|panel| !panel.curves.is_empty());
    let mut svg = String::new();
    let height = PANEL.1 * panels.len() as u32;
    let drawn = SVGBackend::with_string(&mut svg, (PANEL.0, height));
    let root = drawn.into_drawing_area();
    let tokens = 0.0..last.n_tokens as f64 / 1e6;
    let borders = borders(records);
    let parts = root.split_evenly((panels.len(), 1));
    let result = root.fill(&WHITE).and_then(|()| {
        panels
            .iter()
            .zip(&parts)
            .try_for_each(|(panel, part)| panel.draw(part, tokens.clone(), &borders))
    });
    result.and_then(|()| root.present()).map_err(|error| {
        let problem = std::io::Error::other(error.to_string());
        Error::io(CURVES, problem)
    })?;
    drop((parts, root));
    Ok(svg)
}

fn millions(record: &Record) -> f64 {
    record.n_tokens as f64 / 1e6
}

/// Where stages begin, and their names.
fn borders(records: &[Record]) -> Vec<(f64, &str)> {
    let mut borders: Vec<(f64, &str)> = Vec::new();
    let mut end = 0.0;
    let mut stage = None;
    for record in records {
        if stage != Some(record.stage) {
            stage = Some(record.stage);
            borders.push((end, &record.stage_name));
        }
        end = millions(record);
    }
    borders
}

fn panels(records: &[Record]) -> Vec<Panel> {
    let curve = |name: &str, colour: usize, is_marked, value: &dyn Fn(&Record) -> Option<f64>| {
        let points = records.iter().filter_map(|record| {
            let value = value(record).filter(|value| value.is_finite())?;
            Some((millions(record), value))
        });
        Curve {
            name: name.into(),
            colour: COLOURS[colour % COLOURS.len()],
            points: points.collect(),
            is_marked,
        }
    };
    let loss = Panel {
        title: "Loss",
        unit: "nats a token",
        curves: vec![
            curve("MTP layer", 2, false, &|record| record.mtp_loss),
            curve("training", 0, false, &|record| record.loss),
            curve("held-out text", 1, true, &|record| record.validation_loss),
        ],
    };
    let by_layer = |title, unit, value: &dyn Fn(&SelectionRecord) -> f64| {
        let mut layers: Vec<usize> = records
            .iter()
            .flat_map(|record| record.validation_selection.iter().map(|found| found.layer))
            .collect();
        layers.sort_unstable();
        layers.dedup();
        let of_layer = |layer: &usize| {
            curve(
                &format!("layer {layer}"),
                *layer,
                true,
                &|record: &Record| {
                    let mut found = record.validation_selection.iter();
                    found.find(|found| found.layer == *layer).map(value)
                },
            )
        };
        Panel {
            title,
            unit,
            curves: layers.iter().map(of_layer).collect(),
        }
    };
    vec![
        loss,
        by_layer(
            "Divergence of the index scores from attention, held-out text",
            "nats",
            &|found| found.kl,
        ),
        by_layer(
            "Attention that falls on the selection, held-out text",
            "share",
            &|found| found.recall,
        ),
        Panel {
            title: "Learning rate",
            unit: "rate",
            curves: vec![curve("learning rate", 0, false, &|record| {
                Some(record.learning_rate)
            })],
        },
    ]
}

impl Panel {
    fn values(&self) -> Range<f64> {
        let values = || self.curves.iter().flat_map(|curve| &curve.points);
        let least = values().fold(0.0_f64, |least, point| least.min(point.1));
        let most = values().fold(f64::MIN_POSITIVE, |most, point| most.max(point.1));
        least..most * 1.05
    }

    fn draw(
        &self,
        area: &Root<'_>,
        tokens: Range<f64>,
        borders: &[(f64, &str)],
    ) -> std::result::Result<(), DrawingAreaErrorKind<std::io::Error>> {
        let values = self.values();
        let top = values.end;
        let decimals = (2.0 - top.log10().floor()).clamp(0.0, 8.0) as usize;
        let mut chart = ChartBuilder::on(area)
            .caption(self.title, ("sans-serif", 18))
            .margin(10)
            .x_label_area_size(38)
            .y_label_area_size(75)
            .build_cartesian_2d(tokens, values.clone())?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(BLACK.mix(0.12))
            .x_desc("tokens seen, millions")
            .y_desc(self.unit)
            .y_label_formatter(&|value| format!("{value:.decimals$}"))
            .x_label_formatter(&|value| format!("{value:.2}"))
            .axis_desc_style(("sans-serif", 14))
            .label_style(("sans-serif", 12))
            .draw()?;
        for (turn, &(at, name)) in borders.iter().enumerate() {
            let line = [(at, values.start), (at, top)];
            chart.draw_series([PathElement::new(line, BLACK.mix(0.5))])?;
            // Short stages stand close together: every other name is a line lower.
            let height = top - (top - values.start) * 0.07 * (turn % 2) as f64;
            chart.draw_series([Text::new(
                format!(" {name}"),
                (at, height),
                ("sans-serif", 12).into_font().color(&BLACK.mix(0.7)),
            )])?;
        }
        for curve in &self.curves {
            let colour = curve.colour;
            let points = curve.points.iter().copied();
            let width = if curve.is_marked { 2 } else { 1 };
            let style = colour.stroke_width(width);
            chart
                .draw_series(LineSeries::new(points, style))?
                .label(&curve.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
            if curve.is_marked {
                let marks = curve.points.iter();
                chart.draw_series(marks.map(|&point| Circle::new(point, 2, colour.filled())))?;
            }
        }
        if self.curves.len() == 1 {
            return Ok(());
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .margin(14)
            .background_style(WHITE.mix(0.85))
            .border_style(BLACK.mix(0.3))
            .label_font(("sans-serif", 12))
            .draw()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panic")]
mod tests {
    use super::*;

    fn record(stage: usize, step: usize) -> Record {
        let n = (stage * 3 + step) as u64;
        let selection: Vec<SelectionRecord> = (0..7)
            .map(|layer| SelectionRecord {
                layer,
                kl: 1.0 / n as f64,
                recall: 0.9,
                overlap: 0.5,
            })
            .collect();
        Record {
            stage,
            stage_name: format!("stage<{stage}>"),
            step,
            n_tokens: n * 1000,
            seconds: n as f64,
            tokens_per_second: 1000.0,
            learning_rate: 1e-5,
            gradient_norm: 1.0,
            loss: Some(8.0 / n as f64),
            mtp_loss: None,
            validation_loss: (step == 3).then_some(2.0),
            load_ratio: None,
            selection: Vec::new(),
            validation_selection: if stage > 0 { selection } else { Vec::new() },
        }
    }

    #[test]
    fn curves_name_stages_axes_and_layers() {
        let records: Vec<Record> = (0..2)
            .flat_map(|stage| (1..=3).map(move |step| record(stage, step)))
            .collect();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(CURVES);
        draw(&records, &path).unwrap();
        let svg = std::fs::read_to_string(path).unwrap();
        for part in [
            "stage&lt;0&gt;",
            "stage&lt;1&gt;",
            "held-out text",
            "layer 6",
            "tokens seen, millions",
            "nats a token",
            "Learning rate",
        ] {
            assert!(svg.contains(part), "expected {part:?}");
        }
        assert!(svg.trim_end().ends_with("</svg>"));
    }

    #[test]
    fn nasty_logs_are_drawn_or_refused() {
        let error = to_svg(&[]).unwrap_err().to_string();
        assert!(error.contains("log of the run is empty"), "{error}");
        to_svg(&[record(0, 1)]).unwrap();
        // A dense warm-up has no loss of its own; a rate of 0 has no range.
        let mut bare = record(1, 1);
        (bare.loss, bare.learning_rate) = (None, 0.0);
        to_svg(&[bare.clone()]).unwrap();
        bare.loss = Some(f64::NAN);
        bare.validation_selection.clear();
        to_svg(&[bare]).unwrap();
    }
}
