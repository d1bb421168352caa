//! The small model inside the program: the files of its checkpoint, as `sparsight-train` wrote them.
//!
//! They are a folder like any other too: `sparsight generate --model models/tiny`.

use std::io::Read as _;
use std::sync::LazyLock;

use engine::Embedded;
use flate2::read::DeflateDecoder;

/// The files of this folder. The weights are unpacked at the first use.
pub static TINY: LazyLock<Embedded> = LazyLock::new(|| Embedded {
    config: include_bytes!("../config.json"),
    generation_config: include_bytes!("../generation_config.json"),
    tokenizer: include_bytes!("../tokenizer.json"),
    weights: weights().leak(),
});

fn weights() -> Vec<u8> {
    let packed = include_bytes!(concat!(env!("OUT_DIR"), "/weights.deflate"));
    let mut weights = Vec::new();
    DeflateDecoder::new(&packed[..])
        .read_to_end(&mut weights)
        .expect("build.rs packed them");
    weights
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weights_inside_are_those_of_the_folder() {
        assert!(TINY.weights == include_bytes!("../model.safetensors"));
    }
}
