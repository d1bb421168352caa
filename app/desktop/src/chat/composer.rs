//! The box to write in: text, long pastes as attachments, Send and Stop, how full the context is.

use egui::{Button, Event, Id, Key, Modifiers, ProgressBar, RichText, TextEdit, Ui};

use super::words::{bytes, counted, grouped, shortened, visible};
use super::{ChatAction, ComposerView, ContextView};

/// A longer text is kept beside the box and not in it: the box lays all of it out for each letter.
const ATTACH_BYTES: usize = 64 << 10;

/// More than this is not taken at all.
pub const PASTE_LIMIT_BYTES: usize = 64 << 20;

/// No tokenizer makes one token of more bytes than this, counted over a long text: a text of more
/// bytes than this for each token of the context cannot fit.
const BYTES_PER_TOKEN_AT_MOST: usize = 64;

/// Bytes of a token in prose, for an estimate until the tokens are counted.
const BYTES_PER_TOKEN: usize = 4;

/// The meter warns when less than this share of the context is left.
const WARN_AT: f32 = 0.8;

/// What the box holds.
#[derive(Default)]
pub struct Composer {
    draft: String,
    attachments: Vec<Attachment>,
    wants_focus: bool,
    /// Why something that was pasted is not there.
    refusal: Option<String>,
    /// Counts changes, so that callers know when to count tokens.
    revision: u64,
}

/// A long text that was pasted.
struct Attachment {
    text: String,
    n_lines: usize,
}

impl Composer {
    /// What would be sent: the attachments, then the text of the box.
    pub fn text(&self) -> String {
        let mut text = String::with_capacity(self.n_bytes() + 2 * self.attachments.len());
        for attachment in &self.attachments {
            text.push_str(&attachment.text);
            text.push_str("\n\n");
        }
        text.push_str(&self.draft);
        text
    }

    /// Bytes of what would be sent.
    pub fn n_bytes(&self) -> usize {
        let attached: usize = self
            .attachments
            .iter()
            .map(|attachment| attachment.text.len())
            .sum();
        attached + self.draft.len()
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.attachments.is_empty() && self.draft.trim().is_empty()
    }

    /// Changes with each change of the text.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Puts a text into the box, as after an example was chosen or a message was taken back.
    pub fn set(&mut self, text: &str) {
        self.clear();
        self.add(text.to_owned());
    }

    /// Empties the box.
    pub fn clear(&mut self) {
        self.draft.clear();
        self.attachments.clear();
        self.refusal = None;
        self.revision += 1;
    }

    /// Gives the box the keyboard.
    pub fn focus(&mut self) {
        self.wants_focus = true;
    }

    /// Adds a text that was pasted or dropped: into the box if it is short, beside it if not.
    pub fn add(&mut self, text: String) {
        self.revision += 1;
        if self.n_bytes() + text.len() > PASTE_LIMIT_BYTES {
            self.refusal = Some(format!(
                "What was pasted is {}; a message holds {} at most, so it was left out",
                bytes(text.len() as u64),
                bytes(PASTE_LIMIT_BYTES as u64)
            ));
        } else if self.draft.len() + text.len() > ATTACH_BYTES {
            let n_lines = text.lines().count();
            self.attachments.push(Attachment { text, n_lines });
        } else {
            self.draft.push_str(&text);
        }
    }

    fn take(&mut self) -> String {
        let text = if self.attachments.is_empty() {
            std::mem::take(&mut self.draft)
        } else {
            self.text()
        };
        self.clear();
        text
    }
}

/// Why the text does not fit the context, in a sentence; `None` if it may.
pub fn misfit(n_bytes: usize, context: &ContextView) -> Option<String> {
    let n_free = context.n_limit.saturating_sub(context.n_used);
    let holds = format!(
        "the context holds {}, of which {} are taken",
        counted(context.n_limit, "token"),
        grouped(context.n_used as u64)
    );
    match context.n_draft {
        Some(n_draft) if n_draft >= n_free.max(1) => Some(format!(
            "This message has {}: {holds}, so it cannot be sent",
            counted(n_draft, "token")
        )),
        Some(_) => None,
        None if n_bytes > context.n_limit.saturating_mul(BYTES_PER_TOKEN_AT_MOST) => Some(format!(
            "This message has {}, about {}: {holds}, so it cannot be sent",
            bytes(n_bytes as u64),
            counted(n_bytes / BYTES_PER_TOKEN, "token")
        )),
        None => None,
    }
}

/// What the meter says, and whether it warns.
pub fn meter(context: &ContextView, n_bytes: usize) -> (f32, String, Option<String>) {
    let n_draft = context.n_draft.unwrap_or(n_bytes.div_ceil(BYTES_PER_TOKEN));
    let n_after = context.n_used.saturating_add(n_draft);
    let share = n_after as f32 / context.n_limit.max(1) as f32;
    let mut text = format!(
        "Context: {} of {} tokens",
        grouped(context.n_used as u64),
        grouped(context.n_limit as u64)
    );
    if n_bytes > 0 {
        let about = if context.n_draft.is_none() {
            "about "
        } else {
            ""
        };
        text.push_str(&format!(
            ", this message adds {about}{}",
            grouped(n_draft as u64)
        ));
    }
    let n_left = context.n_limit.saturating_sub(n_after);
    let warning = if context.n_used >= context.n_limit {
        Some(format!(
            "The context is full: {}. Begin a new conversation, or edit an earlier message",
            counted(context.n_limit, "token")
        ))
    } else if share >= WARN_AT {
        Some(format!(
            "The answer will stop when the context is full: {}, {} left for it",
            counted(context.n_limit, "token"),
            grouped(n_left as u64)
        ))
    } else {
        None
    };
    (share.min(1.0), text, warning)
}

pub fn composer_ui(
    ui: &mut Ui,
    composer: &mut Composer,
    view: &ComposerView<'_>,
    actions: &mut Vec<ChatAction>,
) {
    let id = box_id();
    let has_focus = ui.memory(|memory| memory.has_focus(id));
    let mut send = false;
    if has_focus {
        take_long_pastes(ui, composer);
        send = ui.input_mut(|input| take_exact(input, Modifiers::NONE, Key::Enter));
    }
    ui.add_space(4.0);
    prefill_ui(ui, view);
    attachments_ui(ui, composer);
    let n_bytes = composer.n_bytes();
    let misfit = view
        .context
        .as_ref()
        .and_then(|context| misfit(n_bytes, context));
    let problem = misfit
        .clone()
        .or_else(|| view.blocked.map(str::to_owned))
        .or_else(|| composer.refusal.clone());
    let can_send =
        !composer.is_empty() && !view.is_running && misfit.is_none() && view.blocked.is_none();

    let button_width = 64.0;
    ui.horizontal_top(|ui| {
        let width = (ui.available_width() - button_width - ui.spacing().item_spacing.x).max(40.0);
        let height = 8.0 * ui.text_style_height(&egui::TextStyle::Body);
        let scroll = egui::ScrollArea::vertical()
            .id_salt("message box")
            .max_height(height)
            .max_width(width)
            .show(ui, |ui| {
                let edit = TextEdit::multiline(&mut composer.draft)
                    .id(id)
                    .hint_text("Write a message")
                    .desired_width(width)
                    .desired_rows(2)
                    .return_key(egui::KeyboardShortcut::new(Modifiers::SHIFT, Key::Enter));
                ui.add(edit).accessible_name("Message")
            });
        let response = scroll.inner;
        // Escape has taken the focus away already.
        if view.is_running
            && response.lost_focus()
            && ui.input(|input| input.key_pressed(Key::Escape))
        {
            actions.push(ChatAction::Stop);
            response.request_focus();
        }
        if response.changed() {
            composer.revision += 1;
            composer.refusal = None;
            // As another program may set it, through the tree of the screen reader.
            if composer.draft.len() > ATTACH_BYTES {
                let text = std::mem::take(&mut composer.draft);
                composer.add(text);
            }
        }
        if std::mem::take(&mut composer.wants_focus) {
            response.request_focus();
        }
        ui.vertical(|ui| {
            let size = egui::vec2(button_width, ui.spacing().interact_size.y);
            if view.is_running {
                let stop = ui
                    .add(Button::new("Stop").min_size(size))
                    .on_hover_text("Stop the answer (Esc)");
                if stop.accessible_name("Stop").clicked() {
                    actions.push(ChatAction::Stop);
                }
            } else {
                let button = ui.add_enabled(can_send, Button::new("Send").min_size(size));
                let button = button.on_hover_text("Send (Enter); Shift+Enter begins a new line");
                let button = match problem.as_deref() {
                    Some(problem) => button.on_disabled_hover_text(problem),
                    None => button,
                };
                send |= button.accessible_name("Send").clicked();
            }
        });
    });
    if let Some(problem) = problem {
        ui.add(egui::Label::new(RichText::new(problem).color(ui.visuals().warn_fg_color)).wrap());
    }
    if let Some(context) = &view.context {
        context_ui(ui, context, n_bytes);
    }
    ui.add_space(4.0);
    // The text may have come in the same frame as Enter, where frames are slow and fingers fast.
    let fits = || match &view.context {
        Some(context) => super::composer::misfit(composer.n_bytes(), context).is_none(),
        None => true,
    };
    if send && !composer.is_empty() && !view.is_running && view.blocked.is_none() && fits() {
        actions.push(ChatAction::Send(composer.take()));
        composer.focus();
    }
}

/// The text box's: Escape there stops the answer, see [`crate::shortcuts::pressed`].
pub fn box_id() -> Id {
    Id::unique("message box")
}

/// Takes a key press with exactly these modifiers: others mean something else to the text box.
fn take_exact(input: &mut egui::InputState, modifiers: Modifiers, key: Key) -> bool {
    let mut found = false;
    input.events.retain(|event| {
        let is_it = matches!(event, Event::Key { key: pressed, pressed: true, modifiers: held, .. }
            if *pressed == key && held.matches_exact(modifiers));
        found |= is_it;
        !is_it
    });
    found
}

/// Takes pastes away from the text box that would stall it.
fn take_long_pastes(ui: &Ui, composer: &mut Composer) {
    let n_draft = composer.draft.len();
    let mut long = Vec::new();
    ui.input_mut(|input| {
        input.events.retain_mut(|event| match event {
            Event::Paste(text) if n_draft + text.len() > ATTACH_BYTES => {
                long.push(std::mem::take(text));
                false
            }
            _ => true,
        });
    });
    for text in long {
        composer.add(text);
    }
}

fn prefill_ui(ui: &mut Ui, view: &ComposerView<'_>) {
    let Some((done, total)) = view.prefill else {
        return;
    };
    let share = done as f32 / total.max(1) as f32;
    let words = format!(
        "Reading {} of {}",
        grouped(done as u64),
        counted(total, "token")
    );
    ui.horizontal(|ui| {
        let bar = ProgressBar::new(share.clamp(0.0, 1.0)).desired_width(160.0);
        ui.add(bar).accessible_name(words.clone());
        ui.weak(words);
    });
}

fn attachments_ui(ui: &mut Ui, composer: &mut Composer) {
    let mut removed = None;
    for (index, attachment) in composer.attachments.iter().enumerate() {
        egui::Frame::group(ui.style()).show(ui, |ui| {
            ui.horizontal(|ui| {
                ui.label(format!(
                    "Attached text: {}, {}",
                    bytes(attachment.text.len() as u64),
                    counted(attachment.n_lines, "line")
                ));
                let start = attachment.text.lines().find(|line| !line.trim().is_empty());
                let start = start.unwrap_or_default();
                ui.weak(visible(&shortened(start, 40)));
                let name = format!("Remove attached text {}", index + 1);
                if ui
                    .small_button("×")
                    .on_hover_text("Remove")
                    .accessible_name(name)
                    .clicked()
                {
                    removed = Some(index);
                }
            });
        });
    }
    if let Some(index) = removed {
        composer.attachments.remove(index);
        composer.revision += 1;
    }
}

fn context_ui(ui: &mut Ui, context: &ContextView, n_bytes: usize) {
    let (share, text, warning) = meter(context, n_bytes);
    ui.horizontal_wrapped(|ui| {
        let mut bar = ProgressBar::new(share)
            .desired_width(90.0)
            .desired_height(6.0);
        if warning.is_some() {
            bar = bar.fill(ui.visuals().warn_fg_color);
        }
        ui.add(bar).accessible_name(text.clone());
        ui.label(RichText::new(text).small().weak());
    });
    if let Some(warning) = warning {
        let warning = RichText::new(warning)
            .small()
            .color(ui.visuals().warn_fg_color);
        ui.add(egui::Label::new(warning).wrap());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(n_used: usize, n_limit: usize, n_draft: Option<usize>) -> ContextView {
        ContextView {
            n_used,
            n_limit,
            n_draft,
        }
    }

    #[test]
    fn the_meter_says_what_will_happen_before_it_does() {
        let (share, text, warning) = meter(&context(1000, 2048, Some(40)), 100);
        assert!((share - 1040.0 / 2048.0).abs() < 1e-6);
        assert_eq!(text, "Context: 1,000 of 2,048 tokens, this message adds 40");
        assert_eq!(warning, None);
        let (_, text, warning) = meter(&context(1700, 2048, None), 100);
        assert_eq!(
            text,
            "Context: 1,700 of 2,048 tokens, this message adds about 25"
        );
        assert_eq!(
            warning.as_deref(),
            Some("The answer will stop when the context is full: 2,048 tokens, 323 left for it")
        );
        let (share, _, warning) = meter(&context(2048, 2048, None), 0);
        assert_eq!(share, 1.0);
        assert!(warning.is_some_and(|warning| warning.starts_with("The context is full")));
        for odd in [
            context(0, 0, None),
            context(usize::MAX, usize::MAX, Some(usize::MAX)),
            context(5, 0, Some(0)),
        ] {
            let (share, ..) = meter(&odd, usize::MAX / 2);
            assert!((0.0..=1.0).contains(&share));
        }
    }

    #[test]
    fn what_cannot_fit_is_refused_in_words() {
        assert_eq!(misfit(100, &context(10, 2048, Some(20))), None);
        assert_eq!(
            misfit(100, &context(48, 2048, Some(3000))).as_deref(),
            Some(
                "This message has 3,000 tokens: the context holds 2,048 tokens, of which 48 are taken, so it cannot be sent"
            )
        );
        // Not counted yet, and hopeless.
        assert_eq!(
            misfit(10 << 20, &context(0, 2048, None)).as_deref(),
            Some(
                "This message has 10.0 MiB, about 2,621,440 tokens: the context holds 2,048 tokens, of which 0 are taken, so it cannot be sent"
            )
        );
        assert_eq!(misfit(10 << 20, &context(0, 1 << 20, None)), None);
        assert!(misfit(4, &context(2048, 2048, Some(1))).is_some());
    }

    #[test]
    fn long_texts_stand_beside_the_box_and_are_sent_with_it() {
        let mut composer = Composer::default();
        composer.add("short".into());
        let before = composer.revision();
        composer.add("x".repeat(10 << 20));
        assert_ne!(composer.revision(), before);
        assert_eq!(composer.draft, "short");
        assert_eq!(composer.attachments.len(), 1);
        assert_eq!(composer.n_bytes(), (10 << 20) + 5);
        let text = composer.text();
        assert!(text.starts_with("xxx") && text.ends_with("x\n\nshort"));
        composer.add("y".repeat(PASTE_LIMIT_BYTES));
        assert_eq!(composer.attachments.len(), 1);
        assert!(
            composer
                .refusal
                .as_deref()
                .is_some_and(|refusal| refusal.contains("64.0 MiB"))
        );
        assert_eq!(composer.take(), text);
        assert!(composer.is_empty());
    }
}
