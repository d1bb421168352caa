//! Packs the weights: the program carries them, and numbers of 8 bits pack to four fifths.

use std::io::Write as _;
use std::path::Path;

use flate2::Compression;
use flate2::write::DeflateEncoder;

const WEIGHTS: &str = "model.safetensors";

fn main() -> std::io::Result<()> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={WEIGHTS}");
    let weights = std::fs::read(WEIGHTS)?;
    let mut packer = DeflateEncoder::new(Vec::new(), Compression::new(6));
    packer.write_all(&weights)?;
    let folder = std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR for build scripts");
    let folder = Path::new(&folder);
    std::fs::write(folder.join("weights.deflate"), packer.finish()?)
}
