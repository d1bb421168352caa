//! Colours and sizes of the window's frame. Palettes of data are in [`crate::palette`].

use eframe::egui::{self, Color32, FontId, TextStyle, Theme, Visuals};

/// Width of the list of conversations when the app is first opened, in points.
pub const SIDEBAR_WIDTH: f32 = 230.0;
/// Width of the inspector when it is first opened, in points.
pub const INSPECTOR_WIDTH: f32 = 560.0;
/// Width of a question, in points.
pub const DIALOG_WIDTH: f32 = 520.0;
/// Size of a window of settings when it is first opened, in points.
pub const DIALOG_SIZE: egui::Vec2 = egui::vec2(DIALOG_WIDTH, 620.0);
/// Where it opens, in points.
pub const DIALOG_POSITION: egui::Pos2 = egui::pos2(260.0, 60.0);
/// Smallest and largest scale of everything.
pub const SCALES: std::ops::RangeInclusive<f32> = 0.6..=3.0;
/// How much one step of the scale is.
pub const SCALE_STEP: f32 = 0.1;

/// What is said to be wrong.
pub fn error_color(ui: &egui::Ui) -> Color32 {
    ui.visuals().error_fg_color
}

/// Sets fonts, and styles for light and dark; which of them holds is the system's choice or the user's.
pub fn install(ctx: &egui::Context) {
    let mut fonts = egui::FontDefinitions::default();
    crate::chat::math::add_glyphs(&mut fonts);
    ctx.set_fonts(fonts);
    // A model writes what it likes: a box is drawn for what no font has.
    ctx.set_missing_glyph_policy(egui::MissingGlyphPolicy::Tofu);
    for theme in [Theme::Light, Theme::Dark] {
        ctx.style_mut_of(theme, |style| {
            style.visuals = match theme {
                Theme::Light => Visuals::light(),
                Theme::Dark => Visuals::dark(),
            };
            style
                .text_styles
                .insert(TextStyle::Body, FontId::proportional(14.0));
            style
                .text_styles
                .insert(TextStyle::Button, FontId::proportional(14.0));
            style
                .text_styles
                .insert(TextStyle::Small, FontId::proportional(11.0));
            style
                .text_styles
                .insert(TextStyle::Heading, FontId::proportional(19.0));
            style
                .text_styles
                .insert(TextStyle::Monospace, FontId::monospace(13.0));
            style.spacing.item_spacing = egui::vec2(8.0, 6.0);
            style.spacing.button_padding = egui::vec2(8.0, 4.0);
            // Software rendering and screen readers gain nothing from fades.
            style.animation_time = 0.0;
        });
    }
}
