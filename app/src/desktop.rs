//! `sparsight app`: the desktop app. Its window and everything in it are the crate `desktop`.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use desktop::window::{Drawing, Options, run as open_window};

use crate::Outcome;

#[derive(Parser, Debug)]
pub struct Arguments {
    /// Open a trace or a recording: needs no model
    #[arg(long, value_name = "FILE")]
    open: Option<PathBuf>,

    /// The folder of a checkpoint [default: the one that was loaded last, or the small model inside
    /// the program]
    #[arg(long, value_name = "FOLDER")]
    model: Option<PathBuf>,

    /// Where to compute: a name that `sparsight devices` lists
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,

    /// Where conversations are kept [default: the user's data folder]
    #[arg(long, value_name = "FOLDER", env = "SPARSIGHT_HOME")]
    data: Option<PathBuf>,

    /// What draws the window [default: wgpu where an adapter is found, else opengl]
    #[arg(long, value_enum, value_name = "RENDERER")]
    drawing: Option<Renderer>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Renderer {
    /// Vulkan, Metal or DX12
    Wgpu,
    /// OpenGL
    Opengl,
}

pub fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    open_window(Options {
        trace: arguments.open.clone(),
        model: arguments.model.as_deref().map(Into::into),
        device: arguments.device.clone(),
        data: arguments.data.clone(),
        drawing: arguments.drawing.map(|renderer| match renderer {
            Renderer::Wgpu => Drawing::Wgpu,
            Renderer::Opengl => Drawing::Glow,
        }),
    })?;
    Ok(Outcome::Success)
}
