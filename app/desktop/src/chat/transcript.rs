//! Scrolls over the messages and lays out those in sight.
//!
//! Heights of pieces that were never in sight are guessed. When a guess above the visible part turns
//! out wrong, the scroll offset moves with it, so that what is being read stays where it is.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use egui::{Id, Rect, ScrollArea, TextStyle, Ui, UiBuilder, pos2, vec2};
use egui_commonmark::CommonMarkCache;

use super::code::BUDGET;
use super::layout::{Choices, Layout, Metrics};
use super::message::{self, Editor};
use super::{COLUMN_WIDTH, ChatAction, ChatView, MessageView};

/// This much above and below the visible part is laid out as well.
const MARGIN: f32 = 60.0;

/// Space between two messages.
const GAP: f32 = 14.0;

/// What the transcript remembers between frames.
#[derive(Default)]
pub struct Transcript {
    conversation: Option<u64>,
    layouts: HashMap<u64, Layout>,
    raw: HashSet<u64>,
    /// Whether the thinking of a message is open, where the user chose.
    thinking: HashMap<u64, bool>,
    editor: Option<Editor>,
    hovered: Option<usize>,
    /// Made when the first Markdown is shown, since it reads all grammars.
    markdown: Option<CommonMarkCache>,
    scroll_to: Option<ScrollTo>,
    /// The offset that keeps what is read in place.
    offset: Option<f32>,
    viewport_height: f32,
    /// Where the visible part began in the last frame.
    top: f32,
    /// How many pieces the last frame drew, for tests.
    n_drawn: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum ScrollTo {
    End,
    Message(u64),
}

impl Transcript {
    pub fn edit(&mut self, id: u64, text: &str) {
        self.editor = Some(Editor::new(id, text));
    }

    pub fn scroll_to_end(&mut self) {
        self.scroll_to = Some(ScrollTo::End);
    }

    pub fn scroll_to_message(&mut self, id: u64) {
        self.scroll_to = Some(ScrollTo::Message(id));
    }

    pub fn is_raw(&self, id: u64) -> bool {
        self.raw.contains(&id)
    }

    #[cfg(test)]
    pub fn n_drawn(&self) -> usize {
        self.n_drawn
    }

    pub fn ui(&mut self, ui: &mut Ui, view: &ChatView<'_>, actions: &mut Vec<ChatAction>) {
        if self.conversation.replace(view.conversation) != Some(view.conversation) {
            self.layouts.clear();
            self.raw.clear();
            self.thinking.clear();
            self.editor = None;
            self.scroll_to.get_or_insert(ScrollTo::End);
        }
        let column_width = (ui.available_width()
            - 2.0 * ui.spacing().item_spacing.x
            - ui.spacing().scroll.bar_width)
            .clamp(80.0, COLUMN_WIDTH);
        let metrics = Metrics {
            width: column_width,
            row_height: ui.text_style_height(&TextStyle::Body),
            pixels_per_point: ui.pixels_per_point(),
            spacing: 4.0,
        };
        let mut total = GAP;
        for message in view.messages {
            let choices = self.choices(message);
            let layout = self.layouts.entry(message.id).or_default();
            layout.update(message, choices, metrics);
            layout.is_used = true;
            total += layout.height + GAP;
        }
        // Of messages that are gone, as after a branch was switched, nothing is kept.
        self.layouts
            .retain(|_, layout| std::mem::take(&mut layout.is_used));

        self.keys(ui, total);
        let end = (total - ui.available_height()).max(0.0);
        let offset = self.scroll_offset(view, end);
        let mut area = ScrollArea::vertical()
            .id_salt(("transcript", view.conversation))
            .auto_shrink(false)
            // An area that sticks to its end goes nowhere else.
            .stick_to_bottom(offset.is_none_or(|offset| offset >= end));
        if let Some(offset) = offset {
            area = area.vertical_scroll_offset(offset);
        }
        let output = area.show_viewport(ui, |ui, viewport| {
            self.messages_ui(ui, view, viewport, column_width, metrics, actions)
        });
        let shift = output.inner;
        self.viewport_height = output.inner_rect.height();
        let offset = output.state.clamped_offset().y;
        let below = output.content_size.y - offset - self.viewport_height;
        if shift.abs() > 0.5 {
            // At the end the area sticks to it by itself.
            if below > 1.0 {
                self.offset = Some((offset + shift).max(0.0));
            }
            ui.ctx().request_discard("a guessed height was wrong");
        }
        if below > 2.0 * metrics.row_height {
            self.jump_ui(ui, output.inner_rect);
        }
        refuse_links(ui, actions);
    }

    fn choices(&self, message: &MessageView<'_>) -> Choices {
        let is_running = message.thinking.is_some_and(|thinking| thinking.is_running);
        Choices {
            is_raw: self.raw.contains(&message.id),
            is_thinking_open: self
                .thinking
                .get(&message.id)
                .copied()
                .unwrap_or(is_running),
            is_editing: self
                .editor
                .as_ref()
                .is_some_and(|editor| editor.id == message.id),
        }
    }

    /// Where the scroll area has to go before this frame, if it has to.
    fn scroll_offset(&mut self, view: &ChatView<'_>, end: f32) -> Option<f32> {
        let shifted = self.offset.take();
        match self.scroll_to.take() {
            None => shifted,
            Some(ScrollTo::End) => Some(end),
            Some(ScrollTo::Message(id)) => {
                let mut top = GAP;
                for message in view.messages {
                    if message.id == id {
                        return Some((top - GAP).min(end));
                    }
                    top += self
                        .layouts
                        .get(&message.id)
                        .map_or(0.0, |layout| layout.height)
                        + GAP;
                }
                shifted
            }
        }
    }

    /// Page keys scroll, also while the box has the focus: they mean nothing there.
    fn keys(&mut self, ui: &Ui, total: f32) {
        let page = (self.viewport_height - 40.0).max(40.0);
        let pages = ui.input_mut(|input| {
            let mut pages = 0.0;
            if input.consume_key(egui::Modifiers::NONE, egui::Key::PageUp) {
                pages -= 1.0;
            }
            if input.consume_key(egui::Modifiers::NONE, egui::Key::PageDown) {
                pages += 1.0;
            }
            pages
        });
        if pages != 0.0 {
            let current = self.top.min(total);
            self.offset = Some((current + pages * page).max(0.0));
        }
    }

    /// Draws what is in sight; how far what is being read has moved.
    fn messages_ui(
        &mut self,
        ui: &mut Ui,
        view: &ChatView<'_>,
        viewport: Rect,
        column_width: f32,
        metrics: Metrics,
        actions: &mut Vec<ChatAction>,
    ) -> f32 {
        self.top = viewport.min.y;
        self.n_drawn = 0;
        let deadline = Instant::now() + BUDGET;
        let origin = ui.max_rect().min;
        let left = origin.x + ((ui.available_width() - column_width) / 2.0).max(0.0);
        let mut y = GAP;
        let mut shift = 0.0;
        for (index, message) in view.messages.iter().enumerate() {
            let Some(mut layout) = self.layouts.remove(&message.id) else {
                continue;
            };
            let is_visible =
                y + layout.height > viewport.min.y - MARGIN && y < viewport.max.y + MARGIN;
            if is_visible {
                let mut has_changed = false;
                let mut top = y;
                for item in 0..layout.items.len() {
                    let height = layout.items[item].height;
                    if top + height > viewport.min.y - MARGIN && top < viewport.max.y + MARGIN {
                        let rect = Rect::from_min_size(
                            pos2(left, origin.y + top),
                            vec2(column_width, height),
                        );
                        let id = Id::unique(("transcript", view.conversation, message.id, item));
                        let drawn = self.item_ui(
                            ui,
                            id,
                            rect,
                            view,
                            index,
                            &mut layout,
                            item,
                            deadline,
                            actions,
                        );
                        let item = &mut layout.items[item];
                        if !item.is_measured && top < viewport.min.y {
                            shift += drawn - item.height;
                        }
                        has_changed |= (drawn - item.height).abs() > 0.1;
                        item.height = drawn;
                        item.is_measured = true;
                        self.n_drawn += 1;
                    }
                    top += layout.items[item].height + metrics.spacing;
                }
                if has_changed {
                    layout.sum();
                }
            }
            y += layout.height + GAP;
            self.layouts.insert(message.id, layout);
        }
        let size = vec2(ui.available_width(), y);
        ui.expand_to_include_rect(Rect::from_min_size(origin, size));
        shift
    }

    #[allow(
        clippy::too_many_arguments,
        reason = "a piece is drawn from all of the frame's state"
    )]
    fn item_ui(
        &mut self,
        ui: &mut Ui,
        id: Id,
        rect: Rect,
        view: &ChatView<'_>,
        index: usize,
        layout: &mut Layout,
        item: usize,
        deadline: Instant,
        actions: &mut Vec<ChatAction>,
    ) -> f32 {
        let mut builder = UiBuilder::new().max_rect(rect);
        builder = builder.scope_id(id);
        let mut ui = ui.new_child(builder);
        let message = &view.messages[index];
        let mut thinking_open = self.choices(message).is_thinking_open;
        let was_open = thinking_open;
        let mut is_raw = self.raw.contains(&message.id);
        message::piece_ui(
            &mut ui,
            message::Parts {
                message,
                number: index + 1,
                is_last: index + 1 == view.messages.len(),
                is_running: view.composer.is_running,
                editor: &mut self.editor,
                is_raw: &mut is_raw,
                is_thinking_open: &mut thinking_open,
                codes: &mut layout.codes,
                hovered: &mut self.hovered,
                markdown: self.markdown.get_or_insert_with(CommonMarkCache::default),
                deadline,
            },
            &layout.items[item].piece,
            actions,
        );
        if thinking_open != was_open {
            self.thinking.insert(message.id, thinking_open);
        }
        if is_raw {
            self.raw.insert(message.id);
        } else {
            self.raw.remove(&message.id);
        }
        ui.min_rect().height()
    }

    fn jump_ui(&mut self, ui: &mut Ui, area: Rect) {
        let size = vec2(150.0, ui.spacing().interact_size.y);
        let rect = Rect::from_center_size(pos2(area.center().x, area.bottom() - size.y), size);
        let button = egui::Button::new("To the newest").corner_radius(size.y / 2.0);
        if ui
            .put(rect, button)
            .accessible_name("To the newest message")
            .clicked()
        {
            self.scroll_to_end();
        }
    }
}

/// Schemes that a link of an answer may have.
const SCHEMES: &[&str] = &["https://", "http://", "mailto:"];

/// Takes back links to anything but web pages: what a model writes must not start a program.
fn refuse_links(ui: &Ui, actions: &mut Vec<ChatAction>) {
    ui.output_mut(|output| {
        output.commands.retain(|command| {
            let egui::OutputCommand::OpenUrl(link) = command else {
                return true;
            };
            let lower = link.url.to_lowercase();
            let is_web = SCHEMES.iter().any(|scheme| lower.starts_with(scheme));
            if !is_web {
                actions.push(ChatAction::RefusedLink(link.url.clone()));
            }
            is_web
        });
    });
}
