//! Settings of the app: theme and size.

use egui::Ui;
use serde::{Deserialize, Serialize};

use super::SettingsAction;

/// Light or dark.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ThemeChoice {
    /// As the system is.
    #[default]
    System,
    /// Light.
    Light,
    /// Dark.
    Dark,
}

impl ThemeChoice {
    /// Every choice, and its name.
    pub const ALL: &[(Self, &str)] = &[
        (Self::System, "System"),
        (Self::Light, "Light"),
        (Self::Dark, "Dark"),
    ];

    /// For egui.
    pub fn preference(self) -> egui::ThemePreference {
        match self {
            Self::System => egui::ThemePreference::System,
            Self::Light => egui::ThemePreference::Light,
            Self::Dark => egui::ThemePreference::Dark,
        }
    }
}

/// The scale of the UI, smallest and largest.
pub const UI_SCALE: std::ops::RangeInclusive<f32> = 0.5..=3.0;

/// Settings of the app.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AppSettings {
    /// Light or dark.
    pub theme: ThemeChoice,
    /// 1 is the system's own size.
    pub ui_scale: f32,
}

impl Default for AppSettings {
    fn default() -> Self {
        Self {
            theme: ThemeChoice::System,
            ui_scale: 1.0,
        }
    }
}

impl AppSettings {
    /// Puts them into force. A scale that makes no sense counts as 1.
    pub fn apply(&self, ctx: &egui::Context) {
        // The shortcuts do it, so that the scale is remembered.
        ctx.options_mut(|options| options.zoom_with_keyboard = false);
        ctx.set_theme(self.theme.preference());
        let scale = if self.ui_scale.is_finite() {
            self.ui_scale
        } else {
            1.0
        };
        ctx.set_zoom_factor(scale.clamp(*UI_SCALE.start(), *UI_SCALE.end()));
    }

    /// A step larger (1) or smaller (-1), or back to 1 (0).
    pub fn zoom(&mut self, step: i32) {
        let scale = if self.ui_scale.is_finite() {
            self.ui_scale
        } else {
            1.0
        };
        let next = if step == 0 {
            1.0
        } else {
            scale + 0.1 * step.signum() as f32
        };
        self.ui_scale = ((next * 10.0).round() / 10.0).clamp(*UI_SCALE.start(), *UI_SCALE.end());
    }
}

/// The settings of the app.
pub fn app_settings_ui(ui: &mut Ui, settings: &mut AppSettings, actions: &mut Vec<SettingsAction>) {
    let before = *settings;
    ui.horizontal_wrapped(|ui| {
        ui.label("Theme");
        for &(choice, name) in ThemeChoice::ALL {
            let button = ui.selectable_value(&mut settings.theme, choice, name);
            button.accessible_name(format!("{name} theme"));
        }
    });
    ui.horizontal_wrapped(|ui| {
        ui.label("Size");
        for (step, text, name) in [
            (-1, "−", "Smaller"),
            (0, "100 %", "Normal size"),
            (1, "+", "Larger"),
        ] {
            if ui
                .button(text)
                .on_hover_text(name)
                .accessible_name(name)
                .clicked()
            {
                settings.zoom(step);
            }
        }
        ui.weak(format!("{:.0} %", settings.ui_scale * 100.0));
    });
    if *settings != before {
        actions.push(SettingsAction::AppChanged);
    }
}
