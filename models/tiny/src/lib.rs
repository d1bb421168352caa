//! The small model inside the program: the files of its checkpoint, as `sparsight-train` wrote them.
//!
//! They are a folder like any other too: `sparsight generate --model models/tiny`.

use engine::Embedded;

/// The files of this folder.
pub static TINY: Embedded = Embedded {
    config: include_bytes!("../config.json"),
    generation_config: include_bytes!("../generation_config.json"),
    tokenizer: include_bytes!("../tokenizer.json"),
    weights: include_bytes!("../model.safetensors"),
};
