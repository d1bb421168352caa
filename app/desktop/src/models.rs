//! Choosing a model: what a checkpoint needs before it is loaded, where to compute, how loading goes.
//!
//! What a checkpoint needs is read by [`card`]; loading it is the business of the caller.

pub mod card;
#[cfg(test)]
mod tests;

use egui::{Button, Grid, Label, ProgressBar, RichText, Ui};
use engine::device::{DeviceInfo, DeviceKind};
use engine::model::LoadProgress;

pub use card::{AvailableMemory, ModelCard};

use crate::chat::words::{bytes, count, counted, grouped, shortened, visible};

/// What the page of models shows.
#[derive(Clone, Copy)]
pub struct ModelsView<'a> {
    /// The checkpoint that is looked at, before it is loaded.
    pub card: Option<&'a ModelCard>,
    /// Why a folder could not be read.
    pub problem: Option<&'a str>,
    /// What the model can run on.
    pub devices: &'a [DeviceInfo],
    /// Folders that were opened before, the last one first.
    pub recent: &'a [String],
    /// Whether there is a model inside the program.
    pub has_embedded: bool,
    /// What is loaded now.
    pub loaded: Option<&'a str>,
    /// How far loading is.
    pub loading: Option<LoadProgress>,
    /// Whether files are held over the window.
    pub is_dropping: bool,
}

/// What the user wants.
#[derive(Clone, Debug, PartialEq)]
pub enum ModelAction {
    /// Ask for a folder.
    OpenFolder,
    /// Look at this folder of the recent list.
    OpenRecent(String),
    /// Take a folder from the recent list.
    ForgetRecent(String),
    /// Look at the model inside the program.
    OpenEmbedded,
    /// Load the checkpoint of the card.
    Load {
        /// The device's id; `None` for the best.
        device: Option<String>,
    },
    /// Break off loading.
    Cancel,
    /// Forget the loaded model.
    Unload,
    /// Put the card away.
    CloseCard,
}

/// What the page's widgets remember.
#[derive(Default)]
pub struct ModelsState {
    /// The chosen device; `None` for the best.
    pub device: Option<String>,
}

/// The page of models.
pub fn models_ui(
    ui: &mut Ui,
    state: &mut ModelsState,
    view: &ModelsView<'_>,
    actions: &mut Vec<ModelAction>,
) {
    if view.is_dropping {
        ui.strong("Drop a checkpoint folder to look at it");
    }
    ui.horizontal_wrapped(|ui| {
        if ui.button("Open a checkpoint folder…").clicked() {
            actions.push(ModelAction::OpenFolder);
        }
        if view.has_embedded && ui.button("The model inside the program").clicked() {
            actions.push(ModelAction::OpenEmbedded);
        }
    });
    ui.weak("or drop a folder with config.json and safetensors files on this window");
    if let Some(loaded) = view.loaded {
        ui.horizontal_wrapped(|ui| {
            ui.label(format!("Loaded: {}", visible(&shortened(loaded, 120))));
            if ui
                .button("Unload")
                .accessible_name("Unload the model")
                .clicked()
            {
                actions.push(ModelAction::Unload);
            }
        });
    }
    if let Some(problem) = view.problem {
        let text = RichText::new(visible(problem)).color(ui.visuals().error_fg_color);
        ui.add(Label::new(text).wrap());
    }
    if let Some(progress) = view.loading {
        loading_ui(ui, progress, actions);
    }
    if let Some(card) = view.card {
        ui.add_space(8.0);
        egui::Frame::group(ui.style()).show(ui, |ui| {
            ui.set_width(ui.available_width());
            model_card_ui(ui, card);
            ui.add_space(6.0);
            device_ui(ui, &mut state.device, view.devices);
            ui.add_space(6.0);
            ui.horizontal(|ui| {
                let can_load =
                    card.misfit.is_none() && card.stored_bytes.is_some() && view.loading.is_none();
                let load = ui.add_enabled(can_load, Button::new(RichText::new("Load").strong()));
                if load.accessible_name("Load this model").clicked() {
                    actions.push(ModelAction::Load {
                        device: state.device.clone(),
                    });
                }
                if ui
                    .button("Close")
                    .accessible_name("Close the card")
                    .clicked()
                {
                    actions.push(ModelAction::CloseCard);
                }
            });
        });
    }
    recent_ui(ui, view.recent, actions);
}

fn recent_ui(ui: &mut Ui, recent: &[String], actions: &mut Vec<ModelAction>) {
    if recent.is_empty() {
        return;
    }
    ui.add_space(8.0);
    ui.strong("Recent");
    for folder in recent {
        ui.horizontal(|ui| {
            let forget = ui.small_button("×").on_hover_text("Take from the list");
            if forget.accessible_name(format!("Forget {folder}")).clicked() {
                actions.push(ModelAction::ForgetRecent(folder.clone()));
            }
            let button = Button::new(visible(folder).into_owned())
                .frame(false)
                .truncate();
            if ui
                .add(button)
                .accessible_name(format!("Open {folder}"))
                .clicked()
            {
                actions.push(ModelAction::OpenRecent(folder.clone()));
            }
        });
    }
}

/// How loading goes, with a button that breaks it off.
pub fn loading_ui(ui: &mut Ui, progress: LoadProgress, actions: &mut Vec<ModelAction>) {
    let (share, words) = loading_words(progress);
    ui.horizontal(|ui| {
        ui.add(ProgressBar::new(share).desired_width(180.0))
            .accessible_name(words.clone());
        ui.label(words);
        if ui
            .button("Cancel")
            .accessible_name("Cancel loading")
            .clicked()
        {
            actions.push(ModelAction::Cancel);
        }
    });
}

fn loading_words(progress: LoadProgress) -> (f32, String) {
    let share = |done: u64, total: u64| (done as f64 / total.max(1) as f64).clamp(0.0, 1.0) as f32;
    match progress {
        LoadProgress::Checking(progress) => (
            share(progress.bytes_done, progress.bytes_total),
            format!(
                "Checking {} of {}",
                bytes(progress.bytes_done),
                bytes(progress.bytes_total)
            ),
        ),
        LoadProgress::Placing {
            layers_done,
            layers_total,
        } => (
            share(layers_done as u64, layers_total as u64),
            format!("Placing layer {layers_done} of {layers_total}"),
        ),
    }
}

/// The list of devices, the best one first.
pub fn device_ui(ui: &mut Ui, device: &mut Option<String>, devices: &[DeviceInfo]) {
    let name = |info: &DeviceInfo| {
        format!(
            "{} · {} · {}",
            visible(&shortened(&info.name, 60)),
            info.kind.word(),
            info.backend
        )
    };
    let best = "The best there is";
    let chosen = match device {
        None => best.to_owned(),
        Some(id) => devices
            .iter()
            .find(|info| info.id == *id)
            .map_or_else(|| format!("{id} (not there now)"), name),
    };
    let label = ui.label("Device");
    egui::ComboBox::from_id_salt("device")
        .selected_text(chosen)
        .width(320.0)
        .show_ui(ui, |ui| {
            ui.selectable_value(device, None, best);
            for info in devices {
                let response = ui.selectable_value(device, Some(info.id.clone()), name(info));
                let hint = match info.kind {
                    DeviceKind::SoftwareGpu => {
                        "A driver that runs shaders on the CPU: exact and slow"
                    }
                    DeviceKind::Reference => "For checking the others: slow",
                    _ => info.driver.as_str(),
                };
                if !hint.is_empty() {
                    response.on_hover_text(hint);
                }
            }
        })
        .response
        .labelled_by(label.id);
}

/// What a checkpoint is and needs.
pub fn model_card_ui(ui: &mut Ui, card: &ModelCard) {
    ui.heading(visible(&shortened(&card.name, 80)));
    let row = |ui: &mut Ui, name: &str, value: String| {
        ui.weak(name);
        ui.add(Label::new(value).wrap());
        ui.end_row();
    };
    Grid::new("model card")
        .num_columns(2)
        .spacing([16.0, 4.0])
        .show(ui, |ui| {
            row(ui, "Architecture", card.architecture.clone());
            let mtp = if card.has_mtp {
                ", and one that predicts the next token but one"
            } else {
                ""
            };
            row(ui, "Layers", format!("{}{mtp}", card.n_layers));
            row(
                ui,
                "Parameters",
                format!(
                    "{} in all, {} active for a token",
                    count(card.n_parameters),
                    count(card.n_active)
                ),
            );
            row(
                ui,
                "Attention",
                match card.index_topk {
                    Some(k) => format!("reads {} selected positions", grouped(k as u64)),
                    None => "dense: reads every position".into(),
                },
            );
            row(
                ui,
                "Experts",
                match card.experts {
                    Some((n, used)) => format!("{n} a layer, {used} used for a token"),
                    None => "none: every layer is dense".into(),
                },
            );
            row(
                ui,
                "Weights",
                match card.stored_bytes {
                    Some(n) => bytes(n),
                    None => "none in this folder: it can be looked at and not loaded".into(),
                },
            );
            row(ui, "Context", counted(card.max_context, "token"));
            row(
                ui,
                "Tokenizer",
                if card.has_tokenizer {
                    "there".into()
                } else {
                    "no tokenizer.json: a chat needs one".into()
                },
            );
            memory_rows(ui, card);
        });
    if card.contexts.len() > 1 {
        context_table(ui, card);
    }
    if let Some(misfit) = &card.misfit {
        let text = format!("It cannot be loaded: {}", visible(&shortened(misfit, 2000)));
        ui.add(Label::new(RichText::new(text).color(ui.visuals().error_fg_color)).wrap());
    }
}

fn memory_rows(ui: &mut Ui, card: &ModelCard) {
    ui.weak("Memory");
    let there = match card.available {
        AvailableMemory::Known(n) => {
            format!(
                "{} free now; what a graphics card has is not known",
                bytes(n)
            )
        }
        AvailableMemory::Unknown => "free memory is not known on this system".into(),
    };
    let text = match card.needed_bytes() {
        Some(needed) => format!("{} with a full context; {there}", bytes(needed)),
        None => there,
    };
    let is_short = matches!(
        (card.needed_bytes(), card.available),
        (Some(needed), AvailableMemory::Known(free)) if needed > free
    );
    if is_short {
        let text = RichText::new(format!("{text}: it may be slow or fail"));
        ui.add(Label::new(text.color(ui.visuals().warn_fg_color)).wrap());
    } else {
        ui.add(Label::new(text).wrap());
    }
    ui.end_row();
}

fn context_table(ui: &mut Ui, card: &ModelCard) {
    egui::CollapsingHeader::new("Memory of the context").show(ui, |ui| {
        Grid::new("context costs")
            .striped(true)
            .num_columns(3)
            .show(ui, |ui| {
                for head in ["Tokens", "Exact", "Smallest"] {
                    ui.strong(head);
                }
                ui.end_row();
                for cost in &card.contexts {
                    ui.label(grouped(cost.n_tokens as u64));
                    ui.label(bytes(cost.exact_bytes));
                    ui.label(bytes(cost.smallest_bytes));
                    ui.end_row();
                }
            });
    });
}
