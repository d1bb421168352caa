//! `texts`: brings real texts into the layout that training reads, and checks them.

use std::path::PathBuf;

use anyhow::{Context, bail};
use engine::file::{self, Kind, Output};
use sha2::{Digest, Sha256};
use train::data::{FILES, SourceFile};

/// Check real texts and copy them to the layout that training reads.
#[derive(clap::Args)]
pub struct Arguments {
    /// Folder that holds the texts, in that layout or all side by side.
    #[arg(long, env = "SPARSIGHT_DATA")]
    from: PathBuf,
    /// The folder to write to.
    #[arg(long)]
    to: PathBuf,
}

pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { from, to } = arguments;
    file::check_folder(&to)?;
    let mut missing = Vec::new();
    for file in FILES {
        let target = to.join(file.path);
        if std::fs::read(&target).is_ok_and(|bytes| is_right(file, &bytes)) {
            println!("{} is there", target.display());
            continue;
        }
        let flat = file.path.rsplit('/').next().map(|name| from.join(name));
        let places = [Some(from.join(file.path)), flat];
        let Some(source) = places.into_iter().flatten().find(|path| path.exists()) else {
            missing.push(file);
            continue;
        };
        let bytes = std::fs::read(&source).with_context(|| source.display().to_string())?;
        if !is_right(file, &bytes) {
            bail!(
                "{}: has {} bytes of SHA-256 {}, expected {} of {}",
                source.display(),
                bytes.len(),
                checksum(&bytes),
                file.bytes,
                file.sha256
            );
        }
        if let Some(folder) = target.parent() {
            std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        // The text that belongs there was told from others above.
        let kind = Kind {
            name: "this text",
            is: |_| false,
        };
        let output = Output {
            path: &target,
            kind,
        };
        file::check_outputs(&[output], &[&source], false)?;
        file::write_whole(&target, &bytes)?;
        println!("{} is right ({})", target.display(), file.licence);
    }
    if missing.is_empty() {
        return Ok(());
    }
    let mut text = format!("{}: found not all texts, expected also", from.display());
    for file in missing {
        text += &format!(
            "\n  {} ({} bytes, {}): {}",
            file.path, file.bytes, file.licence, file.origin
        );
    }
    bail!(
        "{text}\nmodels/train/fetch.sh downloads those that have an address; without the rest, train \
         with `sparsight-train run --without-texts`"
    )
}

fn is_right(file: &SourceFile, bytes: &[u8]) -> bool {
    bytes.len() as u64 == file.bytes && checksum(bytes) == file.sha256
}

fn checksum(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
