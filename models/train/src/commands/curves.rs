//! `curves`: draws the log of a run.

use std::path::PathBuf;

use anyhow::Context;
use engine::file::{self, Output};
use train::curves::{CURVES, draw};
use train::log::{LOG, read};

/// Draw the log of a run as SVG: losses, what the indexer has learnt, learning rate.
#[derive(clap::Args)]
pub struct Arguments {
    /// Folder of the run.
    #[arg(long, default_value = "target/train")]
    run: PathBuf,
    /// The file to write; `curves.svg` in the folder of the run if not given.
    #[arg(long)]
    to: Option<PathBuf>,
    /// Overwrite a picture that is there.
    #[arg(long)]
    force: bool,
}

pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { run, to, force } = arguments;
    let log = run.join(LOG);
    let records = read(&log)?;
    // The run's own picture is drawn anew.
    let force = force || to.is_none();
    let to = to.unwrap_or_else(|| run.join(CURVES));
    let (path, kind) = (to.as_path(), file::SVG);
    file::check_outputs(&[Output { path, kind }], &[&log], force)?;
    draw(&records, &to).with_context(|| log.display().to_string())?;
    println!("{} steps drawn to {}", records.len(), to.display());
    Ok(())
}
