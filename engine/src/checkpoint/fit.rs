//! Whether the tensors of a checkpoint are those that its config asks for.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Checkpoint, StoredTensor, StoredType};
use crate::config::{Config, FP8_BLOCK, SCALES, TensorKind, TensorSpec};
use crate::{Error, Result};

/// So many kinds of problems are spelled out. The rest is counted: a wrong config misfits every tensor.
const MAX_LISTED: usize = 10;

/// Whether a tensor may be there although nothing asks for it: buffers that old versions of
/// transformers stored and that follow from the config.
pub(super) fn is_tolerated(name: &str) -> bool {
    name.ends_with(".rotary_emb.inv_freq")
}

/// Takes out what is stored and not used, and says so: a head that is the embedding table again, and
/// MTP layers that the config does not count, as transformers passes them over.
///
/// # Errors
/// A head of its own where the config says that there is none.
pub(super) fn pass_over(checkpoint: &mut Checkpoint, config: &Config) -> Result<Vec<String>> {
    let tensors = &mut checkpoint.tensors;
    let mut notes = Vec::new();
    if config.tie_word_embeddings
        && let (Some(head), Some(table)) = (
            tensors.get("lm_head.weight"),
            tensors.get("model.embed_tokens.weight"),
        )
    {
        let same = (head.dtype, &head.shape) == (table.dtype, &table.shape);
        if !same || head.bytes() != table.bytes() {
            return Err(Error::Config {
                key: "tie_word_embeddings".into(),
                problem:
                    "is true, but \"lm_head.weight\" is stored and is not the embedding table: \
                          with false the stored head is used"
                        .into(),
            });
        }
        tensors.remove("lm_head.weight");
        notes.push("lm_head.weight repeats the embedding table and is not used".into());
    }
    let known = config.num_hidden_layers + config.num_nextn_predict_layers;
    let layer_of = |name: &str| -> Option<usize> {
        name.strip_prefix("model.layers.")?
            .split_once('.')?
            .0
            .parse()
            .ok()
    };
    let mtp: BTreeSet<usize> = tensors
        .keys()
        .filter(|name| name.ends_with(".eh_proj.weight"))
        .filter_map(|name| layer_of(name).filter(|&layer| layer >= known))
        .collect();
    if !mtp.is_empty() {
        tensors.retain(|name, _| layer_of(name).is_none_or(|layer| !mtp.contains(&layer)));
        let layers: Vec<_> = mtp.iter().map(usize::to_string).collect();
        let used = config.num_nextn_predict_layers;
        notes.push(format!(
            "MTP in layer {} is passed over: by the config, {used} such layers are used",
            layers.join(", ")
        ));
    }
    Ok(notes)
}

/// What does not fit: how much, and a line for each kind of it.
#[derive(Default)]
pub(super) struct Problems {
    /// Sorted by the tensor's name.
    all: BTreeMap<String, String>,
}

impl Problems {
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// What differs in nothing but numbers is told once. All faults of scales are one kind.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut kinds: Vec<(String, &String, usize)> = Vec::new();
        for (name, problem) in &self.all {
            let kind = match problem.starts_with("tensor") && name.ends_with(SCALES) {
                true => SCALES.into(),
                false => without_numbers(problem),
            };
            match kinds.iter_mut().find(|(known, ..)| *known == kind) {
                Some((_, _, more)) => *more += 1,
                None => kinds.push((kind, problem, 0)),
            }
        }
        let listed = kinds.iter().take(MAX_LISTED);
        let mut lines: Vec<String> = listed
            .map(|(_, problem, more)| match more {
                0 => (*problem).clone(),
                _ => format!("{problem}, and {more} more like it"),
            })
            .collect();
        if kinds.len() > MAX_LISTED {
            let more = kinds.len() - MAX_LISTED;
            lines.push(format!(
                "and {more} more kinds, {} tensors in all",
                self.len()
            ));
        }
        lines
    }
}

fn without_numbers(text: &str) -> String {
    text.replace(|c: char| c.is_ascii_digit(), "")
}

/// A problem for every tensor that does not fit.
pub(super) fn problems(checkpoint: &Checkpoint, config: &Config) -> Problems {
    let specs = config.tensors(checkpoint.has_mtp(config));
    let mut problems = Problems::default();
    for spec in &specs {
        match checkpoint.get(&spec.name) {
            None if spec.optional => {}
            None => {
                let problem = missing(&spec.name, &spec.shape);
                problems.all.insert(spec.name.clone(), problem);
            }
            Some(tensor) => check(checkpoint, spec, tensor, &mut problems),
        }
    }
    let known: HashMap<&str, &TensorSpec> = specs
        .iter()
        .map(|spec| (spec.name.as_str(), spec))
        .collect();
    for (name, tensor) in checkpoint.tensors() {
        if known.contains_key(name) || is_tolerated(name) {
            continue;
        }
        let matrix = name
            .strip_suffix(SCALES)
            .and_then(|matrix| known.get(matrix));
        let stored = matrix.and_then(|matrix| checkpoint.get(&matrix.name));
        let why = match stored {
            Some(stored) if stored.dtype == StoredType::F8E4M3 => continue,
            Some(stored) => format!(": its matrix is stored as {}, not as F8_E4M3", stored.dtype),
            None => String::new(),
        };
        let found = format!("{} {:?}", tensor.dtype, tensor.shape);
        let problem = format!("surplus tensor {name:?}, {found}{why}");
        problems.all.insert(name.into(), problem);
    }
    problems
}

fn missing(name: &str, shape: &[usize]) -> String {
    format!("missing tensor {name:?}, expected with shape {shape:?}")
}

/// Checks shape, type and scales of a tensor that is there.
fn check(
    checkpoint: &Checkpoint,
    spec: &TensorSpec,
    tensor: &StoredTensor,
    problems: &mut Problems,
) {
    use StoredType::{BF16, F8E4M3, F8E8M0, F16, F32};
    let TensorSpec {
        name, shape, kind, ..
    } = spec;
    let mut problem = |name: &str, text: String| problems.all.insert(name.into(), text);
    let found = tensor.dtype;
    let expected = match (kind, found) {
        (_, F32 | F16 | BF16) | (TensorKind::Matrix, F8E4M3) => None,
        (TensorKind::Matrix, _) => Some("F32, F16, BF16 or F8_E4M3"),
        (TensorKind::Vector, _) => Some("F32, F16 or BF16"),
    };
    if tensor.shape != *shape {
        let found = &tensor.shape;
        problem(
            name,
            format!("tensor {name:?} has shape {found:?}, expected {shape:?}"),
        );
    } else if let Some(expected) = expected {
        problem(
            name,
            format!("tensor {name:?} is stored as {found}, expected {expected}"),
        );
    }
    if (*kind, found) != (TensorKind::Matrix, F8E4M3) {
        return;
    }
    let scales = format!("{name}{SCALES}");
    let blocks: Vec<usize> = shape.iter().map(|side| side.div_ceil(FP8_BLOCK)).collect();
    match checkpoint.get(&scales) {
        None => {
            let text = format!("{}: {name:?} is FP8", missing(&scales, &blocks));
            problem(&scales, text);
        }
        Some(found)
            if matches!(found.dtype, F32 | BF16 | F16 | F8E8M0) && found.shape == blocks => {}
        Some(found) => {
            let found = format!("{} {:?}", found.dtype, found.shape);
            let side = FP8_BLOCK;
            let text = format!(
                "tensor {scales:?} is {found}, expected F32, BF16 or F8_E8M0 {blocks:?}: \
                 one factor for a block of {side} × {side}"
            );
            problem(&scales, text);
        }
    }
}
