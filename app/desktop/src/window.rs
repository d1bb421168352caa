//! The window: which display, which renderer, what is remembered of it.
//!
//! The app draws with wgpu. Where no adapter is found it draws with OpenGL and says so; where there is
//! no display, it says what works without one.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use eframe::{NativeOptions, Renderer, egui};
use engine::Source;
use engine::device::DeviceKind;

use crate::accessibility::TreeFile;
use crate::app::{App, Start};

/// What draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drawing {
    /// Vulkan, Metal or DX12.
    Wgpu,
    /// OpenGL.
    Glow,
}

/// How the app is to be opened.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// A trace to open in place of a conversation.
    pub trace: Option<PathBuf>,
    /// The checkpoint to load; `None` for the last one, or the embedded one.
    pub model: Option<Source>,
    /// A device for [`engine::Device::open`].
    pub device: Option<String>,
    /// The folder of the database; `None` for the user's.
    pub data: Option<PathBuf>,
    /// What draws; `None` for wgpu if it can.
    pub drawing: Option<Drawing>,
}

/// Names of the Debian packages that a desktop without them would miss.
const PACKAGES: &str = "libxkbcommon0 libxkbcommon-x11-0 libx11-6 libx11-xcb1 libxcb1 libxcursor1 \
     libxi6 libxrandr2 libwayland-client0 libwayland-egl1 libwayland-cursor0 libegl1 libgl1 \
     libgl1-mesa-dri mesa-vulkan-drivers libvulkan1";

/// Smallest window that shows all panels.
const MIN_SIZE: egui::Vec2 = egui::vec2(720.0, 480.0);

/// Opens the app and returns when its window is closed.
///
/// # Errors
/// No display, a data folder that cannot be written, a database of a newer version, or a system
/// without the libraries of a window.
pub fn run(options: Options) -> anyhow::Result<()> {
    check_display()?;
    let can_wgpu = options.drawing != Some(Drawing::Glow) && has_adapter();
    if options.drawing == Some(Drawing::Wgpu) && !can_wgpu {
        bail!("no wgpu adapter draws here, expected one: `--drawing opengl` needs none");
    }
    let drawing = if can_wgpu {
        Drawing::Wgpu
    } else {
        Drawing::Glow
    };
    let notice = (drawing == Drawing::Glow && options.drawing.is_none()).then(|| {
        "No Vulkan, Metal or DX12 adapter was found: the window is drawn with OpenGL".to_owned()
    });
    // Before the window: what is wrong with the data belongs on the terminal.
    let start = Start::open(options, notice)?;
    let remembered = start.window();
    let mut viewport = egui::ViewportBuilder::default()
        .with_title("Sparsight")
        .with_app_id("sparsight")
        .with_min_inner_size(MIN_SIZE)
        .with_inner_size(remembered.size)
        .with_drag_and_drop(true);
    if remembered.is_maximized {
        viewport = viewport.with_maximized(true);
    }
    let native = NativeOptions {
        viewport,
        renderer: match drawing {
            Drawing::Wgpu => Renderer::Wgpu,
            Drawing::Glow => Renderer::Glow,
        },
        ..NativeOptions::default()
    };
    let created = eframe::run_native(
        "sparsight",
        native,
        Box::new(move |creation| {
            if let Some(tree) = TreeFile::from_environment() {
                creation.egui_ctx.add_plugin(tree);
            }
            Ok(Box::new(App::new(start, &creation.egui_ctx)?))
        }),
    );
    created.map_err(|error| anyhow::anyhow!("{error}")).with_context(|| {
        format!(
            "the window could not be opened; it needs the system's window and graphics libraries, on \
             Debian and Ubuntu: {PACKAGES}"
        )
    })
}

fn check_display() -> anyhow::Result<()> {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if cfg!(target_os = "linux") && !is_set("DISPLAY") && !is_set("WAYLAND_DISPLAY") {
        bail!(
            "neither DISPLAY nor WAYLAND_DISPLAY is set, expected a desktop to open a window on: \
             `sparsight chat` needs none"
        );
    }
    Ok(())
}

/// Whether some adapter can draw, a software one included.
fn has_adapter() -> bool {
    let draws = |kind| !matches!(kind, DeviceKind::Cpu | DeviceKind::Reference);
    engine::device::list().iter().any(|info| draws(info.kind))
}
