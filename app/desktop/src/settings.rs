//! Settings of a conversation and of the app, and the panels that change them.
//!
//! What a setting means is the engine's business, and so is whether it may be: the panel shows the
//! engine's own words beside the field. Keeping settings is the business of the caller.

pub mod app;
pub mod presets;
#[cfg(test)]
mod tests;

use egui::{Button, DragValue, Grid, Label, RichText, TextEdit, Ui};
use engine::model::ForwardOptions;
use engine::sampler::SamplerOptions;
use serde::{Deserialize, Serialize};

pub use app::{AppSettings, ThemeChoice, UI_SCALE, app_settings_ui};
pub use presets::{OwnPreset, PRESETS, Preset};

use crate::chat::words::{grouped, shortened, visible};

/// How tokens are chosen: [`SamplerOptions`] without what is not for people.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sampling {
    /// See [`SamplerOptions::temperature`].
    pub temperature: f64,
    /// See [`SamplerOptions::top_p`].
    pub top_p: f64,
    /// See [`SamplerOptions::top_k`].
    pub top_k: usize,
    /// See [`SamplerOptions::min_p`].
    pub min_p: f64,
    /// See [`SamplerOptions::repetition_penalty`].
    pub repetition_penalty: f64,
    /// See [`SamplerOptions::presence_penalty`].
    pub presence_penalty: f64,
    /// See [`SamplerOptions::frequency_penalty`].
    pub frequency_penalty: f64,
}

impl Default for Sampling {
    fn default() -> Self {
        presets::RECOMMENDED
    }
}

impl From<SamplerOptions> for Sampling {
    fn from(options: SamplerOptions) -> Self {
        Self {
            temperature: options.temperature,
            top_p: options.top_p,
            top_k: options.top_k,
            min_p: options.min_p,
            repetition_penalty: options.repetition_penalty,
            presence_penalty: options.presence_penalty,
            frequency_penalty: options.frequency_penalty,
        }
    }
}

/// Everything that the answers of a conversation are made with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConversationSettings {
    /// Sets the scene; empty for none.
    pub system_prompt: String,
    /// Whether the model thinks before it answers.
    pub thinking: bool,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Chooses the random stream. Another answer to the same message takes the next one.
    pub seed: u64,
    /// Tokens of an answer at most; `None`: until it ends or the context is full.
    pub max_tokens: Option<usize>,
    /// Positions that a token may read; `None`: as many as the model was made for.
    pub index_topk: Option<usize>,
    /// Read every position, as if there were no selection.
    pub dense: bool,
}

impl ConversationSettings {
    /// The engine's options, unchecked; see [`Self::problem`].
    pub fn sampler(&self) -> SamplerOptions {
        SamplerOptions {
            temperature: self.sampling.temperature,
            top_p: self.sampling.top_p,
            top_k: self.sampling.top_k,
            min_p: self.sampling.min_p,
            repetition_penalty: self.sampling.repetition_penalty,
            presence_penalty: self.sampling.presence_penalty,
            frequency_penalty: self.sampling.frequency_penalty,
            seed: self.seed,
            ..SamplerOptions::default()
        }
    }

    /// The engine's options.
    pub fn forward(&self) -> ForwardOptions {
        ForwardOptions {
            index_topk: self.index_topk.filter(|_| !self.dense),
            dense: self.dense,
            ..ForwardOptions::default()
        }
    }

    /// The first setting that cannot be, in the engine's words.
    pub fn problem(&self, has_indexer: bool) -> Option<Problem> {
        if let Err(error) = self.sampler().check() {
            let field = match &error {
                engine::Error::Setting { name, .. } => name.clone(),
                _ => String::new(),
            };
            return Some(Problem {
                field,
                words: error.to_string(),
            });
        }
        let of = |name: &str, found: &str, expected: &str| {
            let error = engine::Error::Setting {
                name: name.into(),
                found: found.into(),
                expected: expected.into(),
            };
            Some(Problem {
                field: name.into(),
                words: error.to_string(),
            })
        };
        match (self.index_topk, self.max_tokens) {
            (Some(0), _) => of("index_topk", "0", "at least 1"),
            (Some(k), _) if !has_indexer && !self.dense => of(
                "index_topk",
                &k.to_string(),
                "nothing: the model has no indexer",
            ),
            (_, Some(0)) => of("max_tokens", "0", "at least 1"),
            _ => None,
        }
    }
}

/// A setting that cannot be.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// Its field.
    pub field: String,
    /// What is wrong.
    pub words: String,
}

/// The name of the preset that is the model's.
const MODELS_OWN: &str = "Model's own";

/// What the panel has to know of the model.
#[derive(Clone, Copy, Default)]
pub struct SettingsView<'a> {
    /// Whether the model selects positions; `true` without a model.
    pub has_indexer: bool,
    /// How many positions the model was made to read.
    pub model_index_topk: Option<usize>,
    /// How the model's makers advise to choose tokens.
    pub model_sampling: Option<Sampling>,
    /// Presets that the user saved.
    pub own_presets: &'a [OwnPreset],
}

/// What the user wants.
#[derive(Clone, Debug, PartialEq)]
pub enum SettingsAction {
    /// The conversation's settings have changed; they may have a problem.
    Changed,
    /// Use these settings for new conversations.
    MakeDefault,
    /// Keep the sampling of this conversation under this name.
    SavePreset(OwnPreset),
    /// Forget a preset of the user.
    DeletePreset(String),
    /// The app's settings have changed.
    AppChanged,
}

/// What the panel's widgets remember.
#[derive(Default)]
pub struct SettingsState {
    preset_name: String,
}

/// The settings of a conversation.
pub fn conversation_settings_ui(
    ui: &mut Ui,
    state: &mut SettingsState,
    settings: &mut ConversationSettings,
    view: &SettingsView<'_>,
    actions: &mut Vec<SettingsAction>,
) {
    let before = settings.clone();
    let problem = settings.problem(view.has_indexer);
    let label = ui.strong("System prompt");
    let edit = TextEdit::multiline(&mut settings.system_prompt)
        .hint_text("Sets the scene; empty for none")
        .desired_rows(3)
        .char_limit(100_000)
        .desired_width(f32::INFINITY);
    egui::ScrollArea::vertical()
        .id_salt("system prompt")
        .max_height(160.0)
        .show(ui, |ui| {
            ui.add(edit).labelled_by(label.id);
        });
    ui.checkbox(&mut settings.thinking, "Think before answering");
    ui.add_space(6.0);
    presets_ui(ui, state, settings, view, actions);
    ui.add_space(6.0);
    ui.strong("Sampling");
    sampling_ui(ui, settings, problem.as_ref());
    ui.add_space(6.0);
    ui.strong("Attention");
    attention_ui(ui, settings, view, problem.as_ref());
    ui.add_space(6.0);
    if ui.button("Use for new conversations").clicked() {
        actions.push(SettingsAction::MakeDefault);
    }
    if *settings != before {
        actions.push(SettingsAction::Changed);
    }
}

fn presets_ui(
    ui: &mut Ui,
    state: &mut SettingsState,
    settings: &mut ConversationSettings,
    view: &SettingsView<'_>,
    actions: &mut Vec<SettingsAction>,
) {
    ui.strong("Presets");
    ui.horizontal_wrapped(|ui| {
        for preset in PRESETS {
            let is_on = preset.is_on(settings);
            let button = ui
                .add(Button::selectable(is_on, preset.name))
                .on_hover_text(preset.why);
            if button
                .accessible_name(format!("Preset {}", preset.name))
                .clicked()
            {
                preset.apply(settings);
            }
        }
        if let Some(sampling) = view.model_sampling {
            let button = ui
                .add(Button::selectable(
                    settings.sampling == sampling,
                    MODELS_OWN,
                ))
                .on_hover_text("As the model's generation_config.json says, or as recommended");
            let button = button.accessible_name(format!("Preset {MODELS_OWN}"));
            if button.clicked() {
                settings.sampling = sampling;
            }
        }
        for preset in view.own_presets {
            let is_on =
                preset.sampling == settings.sampling && preset.thinking == settings.thinking;
            let name = visible(&shortened(&preset.name, 40)).into_owned();
            let button = ui.add(Button::selectable(is_on, name.as_str()));
            let button = button.accessible_name(format!("Preset {name}"));
            if button.clicked() {
                settings.sampling = preset.sampling;
                settings.thinking = preset.thinking;
            }
            let delete = ui.small_button("×").on_hover_text("Delete this preset");
            if delete
                .accessible_name(format!("Delete preset {name}"))
                .clicked()
            {
                actions.push(SettingsAction::DeletePreset(preset.name.clone()));
            }
        }
    });
    ui.horizontal(|ui| {
        let edit = TextEdit::singleline(&mut state.preset_name)
            .hint_text("Name of a preset")
            .char_limit(60)
            .desired_width(140.0);
        ui.add(edit).accessible_name("Name of a preset");
        let name = state.preset_name.trim();
        let is_ours = name == MODELS_OWN || PRESETS.iter().any(|preset| preset.name == name);
        let can_save = !name.is_empty() && !is_ours && settings.problem(view.has_indexer).is_none();
        let save = ui.add_enabled(can_save, Button::new("Save preset"));
        let save = if is_ours {
            save.on_disabled_hover_text("This name is taken")
        } else {
            save
        };
        if save.clicked() {
            actions.push(SettingsAction::SavePreset(OwnPreset {
                name: name.to_owned(),
                sampling: settings.sampling,
                thinking: settings.thinking,
            }));
            state.preset_name.clear();
        }
    });
}

/// A row of the table of fields, with what is wrong with it below.
fn field_ui(
    ui: &mut Ui,
    (name, label, hint): (&str, &str, &str),
    problem: Option<&Problem>,
    widget: impl FnOnce(&mut Ui) -> egui::Response,
) {
    let label = ui.label(label).on_hover_text(hint);
    widget(ui).labelled_by(label.id).on_hover_text(hint);
    ui.end_row();
    if let Some(problem) = problem.filter(|problem| problem.field == name) {
        ui.label("");
        let words = RichText::new(problem.words.as_str()).color(ui.visuals().error_fg_color);
        ui.add(Label::new(words).wrap());
        ui.end_row();
    }
}

fn sampling_ui(ui: &mut Ui, settings: &mut ConversationSettings, problem: Option<&Problem>) {
    let ConversationSettings {
        sampling,
        seed,
        max_tokens,
        ..
    } = settings;
    // No ranges: what is typed stays, and what is wrong with it is said.
    let real = |value, speed| {
        move |ui: &mut Ui| ui.add(DragValue::new::<f64>(value).speed(speed).max_decimals(3))
    };
    Grid::new("sampling").num_columns(2).spacing([12.0, 4.0]).show(ui, |ui| {
        let field = ("temperature", "Temperature", "Divides the scores: less is more sober, 0 takes the best token each time");
        field_ui(ui, field, problem, real(&mut sampling.temperature, 0.01));
        let field = ("top_p", "Top-p", "Draw among the fewest best tokens that have this probability together; 1 for all");
        field_ui(ui, field, problem, real(&mut sampling.top_p, 0.005));
        let field = ("top_k", "Top-k", "Draw among this many best tokens; 0 for all");
        field_ui(ui, field, problem, |ui| ui.add(DragValue::new(&mut sampling.top_k)));
        let field = ("min_p", "Min-p", "Draw among tokens with at least this share of the best one's probability; 0 for all");
        field_ui(ui, field, problem, real(&mut sampling.min_p, 0.002));
        let field = ("repetition_penalty", "Repetition penalty", "Divides the scores of tokens seen before, prompt included; 1 is neutral");
        field_ui(ui, field, problem, real(&mut sampling.repetition_penalty, 0.01));
        let field = ("presence_penalty", "Presence penalty", "Taken off the score of a generated token; 0 is neutral");
        field_ui(ui, field, problem, real(&mut sampling.presence_penalty, 0.01));
        let field = ("frequency_penalty", "Frequency penalty", "Taken off the score of a generated token once for each time it came; 0 is neutral");
        field_ui(ui, field, problem, real(&mut sampling.frequency_penalty, 0.01));
        let field = ("seed", "Seed", "Chooses the random stream: the same seed gives the same answer");
        field_ui(ui, field, problem, |ui| ui.add(DragValue::new(seed)));
        let field = ("max_tokens", "Most tokens of an answer", "Off: until it ends or the context is full");
        field_ui(ui, field, problem, |ui| optional_ui(ui, max_tokens, 512, "Limit the tokens of an answer"));
    });
}

fn attention_ui(
    ui: &mut Ui,
    settings: &mut ConversationSettings,
    view: &SettingsView<'_>,
    problem: Option<&Problem>,
) {
    if !view.has_indexer {
        ui.weak("This model has no indexer: it reads every position");
    }
    let own = match view.model_index_topk {
        Some(k) => format!("Off: {}, as the model was made for", grouped(k as u64)),
        None => "Off: as many as the model was made for".into(),
    };
    ui.add_enabled_ui(
        view.has_indexer || settings.index_topk.is_some() || settings.dense,
        |ui| {
            ui.checkbox(&mut settings.dense, "Dense: read every position")
                .on_hover_text("As if there were no selection; slower in a long context");
            Grid::new("attention")
                .num_columns(2)
                .spacing([12.0, 4.0])
                .show(ui, |ui| {
                    let field = ("index_topk", "Positions a token may read", own.as_str());
                    let (dense, index_topk) = (settings.dense, &mut settings.index_topk);
                    field_ui(ui, field, problem, |ui| {
                        ui.add_enabled_ui(!dense, |ui| {
                            let default = view.model_index_topk.unwrap_or(2048);
                            optional_ui(ui, index_topk, default, "Choose how many positions")
                        })
                        .inner
                    });
                });
            ui.weak(own);
        },
    );
}

/// A number that may be off.
fn optional_ui(
    ui: &mut Ui,
    value: &mut Option<usize>,
    default: usize,
    name: &str,
) -> egui::Response {
    ui.horizontal(|ui| {
        let mut is_on = value.is_some();
        if ui.checkbox(&mut is_on, "").accessible_name(name).changed() {
            *value = is_on.then_some(default);
        }
        match value {
            Some(n) => ui.add(DragValue::new(n)),
            None => ui.weak("off"),
        }
    })
    .inner
}
