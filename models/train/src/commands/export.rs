//! `export`: writes the model of a run as a checkpoint folder.

use std::path::PathBuf;

use anyhow::Context;
use burn::tensor::{DType, Device};
use train::checkpoint::Identity;
use train::export::{STORES, Store};
use train::recipe::Recipe;
use train::{checkpoint, export};

/// Write the model of a run as a checkpoint folder.
#[derive(clap::Args)]
pub struct Arguments {
    /// The recipe of the run.
    recipe: PathBuf,
    /// Folder of the run.
    #[arg(long, default_value = "target/train")]
    run: PathBuf,
    /// The folder to write to.
    #[arg(long)]
    to: PathBuf,
    /// Overwrite a model that is there.
    #[arg(long)]
    force: bool,
    /// How matrices are stored: f32, bf16 or fp8.
    #[arg(long, default_value = "fp8", value_parser = store)]
    store: Store,
}

fn store(name: &str) -> Result<Store, String> {
    let found = STORES.iter().find(|(known, _)| *known == name);
    let names: Vec<_> = STORES.iter().map(|(name, _)| *name).collect();
    found
        .map(|(_, store)| *store)
        .ok_or_else(|| format!("expected {}", names.join(", ")))
}

pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments {
        recipe,
        run,
        to,
        force,
        store,
    } = arguments;
    let recipe = Recipe::open(&recipe)?;
    let inputs = [recipe.config.as_path(), &recipe.tokenizer, &run];
    export::check_folder(&to, &inputs, force)?;
    let identity = Identity::of(&recipe)?;
    let config = engine::Config::from_json(&identity.config)?;
    let (device, dtype) = (Device::flex(), DType::F32);
    let found = checkpoint::open(&run, &config, &identity, &device, dtype)?;
    let (net, _, progress) =
        found.with_context(|| format!("{}: found no run, expected one", run.display()))?;
    let n_bytes = export::write(&net, &identity.config, store, &to)?;
    println!(
        "{} tokens seen, {n_bytes} bytes in {}",
        progress.n_tokens,
        to.display()
    );
    if progress.stage < recipe.stages.len() {
        println!(
            "the run is not at its end: stage {} of {}",
            progress.stage + 1,
            recipe.stages.len()
        );
    }
    Ok(())
}
