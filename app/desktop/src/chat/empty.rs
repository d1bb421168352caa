//! What a new conversation shows: what this is, examples that the small model can do, and the one
//! thing to know.

use egui::{Button, Label, RichText, Ui};

use super::{ChatAction, ChatView};

/// A prompt to begin with.
#[derive(Debug, PartialEq, Eq)]
pub struct Example {
    /// What the button says.
    pub title: &'static str,
    /// Why to try it.
    pub why: &'static str,
    /// What is asked.
    pub prompt: &'static str,
    /// Whether the model should think first.
    pub thinking: bool,
}

/// Prompts that suit the model inside the program: it tells stories, finds facts among them and
/// writes sums as if it could add.
pub const EXAMPLES: &[Example] = &[
    Example {
        title: "A fact in a story",
        why: "See which words it looks back at to find the colour",
        prompt: "Mia had a red kite. Tom had a blue ball. One day they went to the park with a small \
                 dog. The dog ran after a bird, and the children laughed. Then the wind came and took a \
                 hat away. They looked for it near the pond, in the tall grass and under the old bench. \
                 In the evening they went home, ate soup and bread, and told their mother about the \
                 day. She smiled and read them a story about a brave mouse. What colour was Mia's kite?",
        thinking: false,
    },
    Example {
        title: "A story",
        why: "Let it write and watch the tokens come",
        prompt: "Once upon a time",
        thinking: false,
    },
    Example {
        title: "A small sum, with thinking",
        why: "See the thinking apart from the answer",
        prompt: "What is 12 + 7?",
        thinking: true,
    },
];

pub fn empty_ui(ui: &mut Ui, view: &ChatView<'_>, actions: &mut Vec<ChatAction>) {
    ui.add_space(ui.available_height() * 0.12);
    ui.heading("Ask something, then look inside");
    let text = match view.model {
        Some(model) => format!(
            "{model} runs on this machine, inside this program. Nothing you write leaves it."
        ),
        None => "No model is loaded. Open one with Models, above.".to_owned(),
    };
    ui.add(Label::new(text).wrap());
    ui.add_space(8.0);
    ui.add(
        Label::new("Click any word of an answer to see which earlier words each layer of the model looked at.")
            .wrap(),
    );
    ui.add_space(12.0);
    let can_try =
        view.model.is_some() && !view.composer.is_running && view.composer.blocked.is_none();
    for example in EXAMPLES {
        let size = egui::vec2(ui.available_width().min(420.0), 0.0);
        let button = Button::new(RichText::new(example.title).strong())
            .min_size(size)
            .right_text("")
            .wrap();
        let response = ui
            .add_enabled(can_try, button)
            .on_hover_text(example.prompt);
        if response
            .accessible_name(format!("Try: {}", example.title))
            .clicked()
        {
            actions.push(ChatAction::TryExample(example));
        }
        ui.weak(example.why);
        ui.add_space(6.0);
    }
}
