//! One sentence where all misfits of a checkpoint have one cause that its names give away: another
//! packer, or another program's names. It follows the name of the file.

use std::path::Path;

use super::{Checkpoint, SINGLE, fit, shards};
use crate::config::{Config, FP8_BLOCK};

/// Endings of names that only one kind of packed checkpoint has, the telling ones first.
const PACKED: &[(&str, &str)] = &[
    (".weight_scale_2", "NVFP4 (NVIDIA ModelOpt)"),
    (".weight_packed", "packed integers (compressed-tensors)"),
    (".qzeros", "packed integers (AWQ or GPTQ)"),
    (".qweight", "packed integers (AWQ or GPTQ)"),
    (".quant_map", "4 bits (bitsandbytes)"),
    (".absmax", "4 bits (bitsandbytes)"),
    (".SCB", "8 bits (bitsandbytes)"),
    (".W_q", "HQQ"),
    (".trellis", "EXL3"),
    (".q_weight", "EXL2"),
    (".codebooks", "AQLM"),
    ("_proj_blocks", "MXFP4"),
    (".biases", "packed integers (MLX)"),
    (".input_scale", "FP8 with one factor a tensor"),
];

/// The embedding table under the names of other programs.
const OTHER_NAMES: &[(&str, &str)] = &[
    (
        "embed.weight",
        "DeepSeek's inference code (the output of its convert.py)",
    ),
    ("tok_embeddings.weight", "Mistral's and Meta's code"),
    ("token_embd.weight", "llama.cpp"),
    ("embed_tokens.weight", "a decoder saved without its head"),
];

/// More misfits than a checkpoint has that is right but for some tensors.
const MANY: usize = 20;

/// The cause of all `n_problems`, if it is one that is known.
pub(super) fn of(checkpoint: &Checkpoint, config: &Config, n_problems: usize) -> Option<String> {
    let says = config.foreign_quantization.as_ref();
    let says = says.map_or(String::new(), |foreign| {
        format!("; quantization_config.{}", foreign.says)
    });
    let names = || checkpoint.tensors.keys();
    let usable = format!(
        "expected F32, F16, BF16, or FP8 (e4m3) with a factor for each block of {FP8_BLOCK} × {FP8_BLOCK}"
    );
    let packed = |(ending, packer): &(&str, &str)| {
        let name = names().find(|name| name.ends_with(ending))?;
        Some(format!(
            "is packed as {packer}, as {name:?} shows, {usable}: take the checkpoint it was made from{says}"
        ))
    };
    if let Some(cause) = PACKED.iter().find_map(packed) {
        return Some(cause);
    }
    let other = OTHER_NAMES
        .iter()
        .find(|(name, _)| checkpoint.get(name).is_some());
    if let Some((name, whose)) = other {
        return Some(format!(
            "has the tensor names of {whose}, {name:?} for one, expected those of Hugging Face: \
             take the folder as it is published there"
        ));
    }
    let table = "model.embed_tokens.weight";
    if let Some(name) = names().find(|name| name.len() > table.len() && name.ends_with(table)) {
        let prefix = name.trim_end_matches(table);
        return Some(format!(
            "has names that begin with {prefix:?}, as in a checkpoint that holds more than a language \
             model, expected {table:?}: take or save the language model alone"
        ));
    }
    if let Some(name) =
        names().find(|name| name.contains(".mlp.experts.") && !name.contains(".weight"))
    {
        let shape = &checkpoint.tensors[name].shape;
        return Some(format!(
            "has experts fused in {name:?} {shape:?} in a way that is not known, expected gate_up_proj \
             [experts, 2 × moe_intermediate_size, hidden_size] and down_proj [experts, hidden_size, \
             moe_intermediate_size], in FP8 with whole blocks of {FP8_BLOCK} rows"
        ));
    }
    if !says.is_empty() && checkpoint.has_fp8() {
        return Some(format!(
            "holds FP8 weights that cannot be used, {usable}{says}"
        ));
    }
    if let Some(index) = checkpoint.other_index().filter(|index| fits(index, config)) {
        return Some(format!(
            "does not fit config.json, but what {} beside it names does: {SINGLE} is older, move it away",
            index.display()
        ));
    }
    let lacks_layer = |layer: &usize| {
        let prefix = format!("model.layers.{layer}.");
        !names().any(|name| name.starts_with(&prefix))
    };
    let n = config.num_hidden_layers;
    if let Some(layer) = (0..n).find(lacks_layer).filter(|&layer| layer > 0) {
        return Some(format!(
            "holds nothing of layer {layer}, but num_hidden_layers is {n}: config.json is another model's, \
             or files are missing"
        ));
    }
    let (found, expected) = (
        &checkpoint.get(table)?.shape,
        [config.vocab_size, config.hidden_size],
    );
    (n_problems > MANY && *found != expected).then(|| {
        format!(
            "has {table:?} with shape {found:?}, but [vocab_size, hidden_size] is {expected:?}: config.json \
             is another model's"
        )
    })
}

/// Whether what the index names fits. transformers, too, reads the single file where there are both.
fn fits(index: &Path, config: &Config) -> bool {
    let folder = index.parent().unwrap_or(index);
    shards::open(folder, index).is_ok_and(|mut newer| {
        fit::pass_over(&mut newer, config).is_ok() && fit::problems(&newer, config).len() == 0
    })
}
