//! The accessibility tree as a file, for whoever drives the app from outside.
//!
//! Screen readers get the tree from the system. A test under a bare X server has no such service:
//! where [`VARIABLE`] names a file, each frame's tree is written there, one JSON line a node.

use std::io::Write as _;
use std::path::PathBuf;

use eframe::egui::{Context, FullOutput, Plugin};

/// The environment variable that names the file.
pub const VARIABLE: &str = "SPARSIGHT_ACCESSIBILITY_TREE";

/// Writes the tree of every frame.
pub struct TreeFile {
    path: PathBuf,
}

impl TreeFile {
    /// The plugin, if [`VARIABLE`] asks for it.
    pub fn from_environment() -> Option<Self> {
        let path = std::env::var_os(VARIABLE)?;
        Some(Self { path: path.into() })
    }
}

impl Plugin for TreeFile {
    fn debug_name(&self) -> &'static str {
        "accessibility tree file"
    }

    fn setup(&mut self, ctx: &Context) {
        ctx.enable_accesskit();
    }

    fn output_hook(&mut self, _ctx: &Context, output: &mut FullOutput) {
        let Some(update) = &output.platform_output.accesskit_update else {
            return;
        };
        let mut text = Vec::new();
        for (id, node) in &update.nodes {
            let bounds = node
                .bounds()
                .map(|bounds| [bounds.x0, bounds.y0, bounds.x1, bounds.y1]);
            let line = serde_json::json!({
                "id": id.0.to_string(),
                "role": format!("{:?}", node.role()),
                "label": node.label(),
                "value": node.value(),
                "bounds": bounds,
                "is_disabled": node.is_disabled(),
                "is_focused": update.focus == *id,
            });
            text.extend_from_slice(line.to_string().as_bytes());
            text.push(b'\n');
        }
        // Written aside and renamed: a reader never sees half a tree.
        let aside = self.path.with_extension("part");
        let written = std::fs::File::create(&aside)
            .and_then(|mut file| file.write_all(&text))
            .and_then(|()| std::fs::rename(&aside, &self.path));
        if let Err(error) = written {
            log::warn!("{}: {error}", self.path.display());
        }
    }
}
