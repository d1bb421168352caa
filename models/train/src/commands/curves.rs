//! `curves`: draws the log of a run.

use std::path::PathBuf;

use anyhow::Context;
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
}

pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { run, to } = arguments;
    let log = run.join(LOG);
    let records = read(&log)?;
    let to = to.unwrap_or_else(|| run.join(CURVES));
    draw(&records, &to).with_context(|| log.display().to_string())?;
    println!("{} steps drawn to {}", records.len(), to.display());
    Ok(())
}
