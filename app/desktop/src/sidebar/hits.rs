//! What a search found: the conversation and the words around, with the match marked.

use std::ops::Range;

use egui::text::{LayoutJob, TextFormat};
use egui::{Label, RichText, ScrollArea, Ui};

use super::{SearchHit, SidebarAction, SidebarState, SidebarView, named};
use crate::chat::words::{counted, visible};

pub(super) fn hits_ui(
    ui: &mut Ui,
    state: &mut SidebarState,
    view: &SidebarView<'_>,
    actions: &mut Vec<SidebarAction>,
) {
    let Some(hits) = view.hits else {
        ui.weak("Searching…");
        return;
    };
    if hits.is_empty() {
        ui.weak(format!("Nothing found for “{}”", named(&state.query, 40)));
        return;
    }
    ui.weak(format!("{} found", counted(hits.len(), "place")));
    let row = ui.text_style_height(&egui::TextStyle::Body);
    let small = ui.text_style_height(&egui::TextStyle::Small);
    let height = row + 2.0 * small + 2.0 * ui.spacing().button_padding.y;
    state.n_drawn = 0;
    ScrollArea::vertical()
        .id_salt("hits")
        .auto_shrink(false)
        .show_rows(ui, height, hits.len(), |ui, range| {
            for (index, hit) in range.clone().zip(&hits[range]) {
                state.n_drawn += 1;
                ui.push_id(("hit", index), |ui| hit_ui(ui, hit, index, height, actions));
            }
        });
}

fn hit_ui(
    ui: &mut Ui,
    hit: &SearchHit,
    index: usize,
    height: f32,
    actions: &mut Vec<SidebarAction>,
) {
    let width = ui.available_width();
    let (rect, response) = ui.allocate_exact_size(egui::vec2(width, height), egui::Sense::click());
    let title = named(&hit.title, 60);
    response.widget_info(|| {
        let label = format!("Found {} in {title}: {}", index + 1, hit.snippet);
        egui::WidgetInfo::labeled(egui::Role::Button, true, label)
    });
    let fill = ui.style().interact(&response);
    if response.hovered() || response.has_focus() {
        ui.painter()
            .rect_filled(rect, fill.corner_radius, fill.weak_bg_fill);
    }
    let builder = egui::UiBuilder::new().max_rect(rect.shrink2(ui.spacing().button_padding));
    ui.scope_builder(builder, |ui| {
        ui.set_clip_rect(rect.intersect(ui.clip_rect()));
        ui.add(
            Label::new(RichText::new(title.as_str()).strong())
                .truncate()
                .selectable(false),
        );
        let mut job = snippet_job(ui, hit);
        job.wrap.max_width = ui.available_width();
        job.wrap.max_rows = 2;
        ui.add(Label::new(job).selectable(false));
    });
    if response.clicked() {
        actions.push(SidebarAction::OpenHit {
            conversation: hit.conversation,
            message: hit.message,
        });
    }
}

/// The snippet in one line, its marks standing out.
pub(super) fn snippet_job(ui: &Ui, hit: &SearchHit) -> LayoutJob {
    let font = egui::TextStyle::Small.resolve(ui.style());
    let plain = TextFormat::simple(font.clone(), ui.visuals().weak_text_color());
    let mut marked = TextFormat::simple(font, ui.visuals().strong_text_color());
    marked.background = ui.visuals().selection.bg_fill;
    let mut job = LayoutJob::default();
    let mut at = 0;
    let append = |job: &mut LayoutJob, range: Range<usize>, format: &TextFormat| {
        // A range that does not fit the text marks nothing.
        let text = hit.snippet.get(range).unwrap_or_default();
        let text = visible(text).replace('\n', " ");
        job.append(&text, 0.0, format.clone());
    };
    for mark in &hit.marks {
        if mark.start < at || mark.end < mark.start || hit.snippet.get(mark.clone()).is_none() {
            continue;
        }
        append(&mut job, at..mark.start, &plain);
        append(&mut job, mark.clone(), &marked);
        at = mark.end;
    }
    if at < hit.snippet.len() {
        append(&mut job, at..hit.snippet.len(), &plain);
    }
    job
}
