//! `tokenizer`: trains the tokenizer.

use std::path::PathBuf;

use anyhow::Context;
use engine::file::{self, Kind, Output};
use serde_json::Value;
use train::{bpe, data};

/// Seed of the texts that the tokenizer is trained on.
const SEED: u64 = 1;

/// Documents of every generated kind among them.
const DOCUMENTS: u64 = 4000;

/// How a tokenizer's file is known again.
const KIND: Kind = Kind {
    name: "a tokenizer",
    is: |path| {
        let text = file::begin_of(path, file::MAX_TEXT_BYTES);
        let parsed: Value = serde_json::from_slice(&text).unwrap_or_default();
        parsed.get("model").is_some() && parsed.get("added_tokens").is_some()
    },
};

/// Train the tokenizer. With the texts of `make data` this gives the one of the tiny model.
#[derive(clap::Args)]
pub struct Arguments {
    /// The file to write.
    #[arg(long)]
    to: PathBuf,
    /// Overwrite a tokenizer that is there.
    #[arg(long)]
    force: bool,
    /// Folder of real texts.
    #[arg(long, env = "SPARSIGHT_DATA")]
    texts: Option<PathBuf>,
    /// Tokens of the vocabulary, the added ones included.
    #[arg(long, default_value_t = 4096)]
    vocab_size: usize,
}

pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments {
        to,
        force,
        texts,
        vocab_size,
    } = arguments;
    let (path, kind) = (to.as_path(), KIND);
    file::check_outputs(&[Output { path, kind }], &[], force)?;
    let drawn = data::tokenizer_texts(texts.as_deref(), SEED, DOCUMENTS)?;
    let n = drawn.len();
    let trained = bpe::train(drawn.into_iter(), vocab_size)?;
    let pretty = true;
    let json = trained.to_string(pretty).map_err(anyhow::Error::from_boxed);
    file::write_whole(&to, json.context("the tokenizer has no JSON")?.as_bytes())?;
    println!("{vocab_size} tokens from {n} texts in {}", to.display());
    Ok(())
}
