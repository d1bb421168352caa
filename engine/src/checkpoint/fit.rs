//! Whether the tensors of a checkpoint are those that its config asks for.

use std::collections::HashMap;

use super::{Checkpoint, StoredTensor, StoredType};
use crate::config::{Config, FP8_BLOCK, TensorKind, TensorSpec};

/// So many problems are spelled out. The rest is counted: a wrong config misfits every tensor.
const MAX_LISTED: usize = 50;

/// Ending of the name of a matrix's FP8 scales.
const SCALES: &str = "_scale_inv";

/// Whether a tensor may be there although nothing asks for it: buffers that old versions of
/// transformers stored and that follow from the config.
pub(super) fn is_tolerated(name: &str) -> bool {
    name.ends_with(".rotary_emb.inv_freq")
}

/// One line a misfitting tensor, sorted by name.
pub(super) fn problems(checkpoint: &Checkpoint, config: &Config) -> Vec<String> {
    let specs = config.tensors(checkpoint.has_mtp(config));
    // (tensor, problem), to be sorted.
    let mut problems: Vec<(String, String)> = Vec::new();
    for spec in &specs {
        match checkpoint.get(&spec.name) {
            None if spec.optional => {}
            None => problems.push((spec.name.clone(), missing(&spec.name, &spec.shape))),
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
        problems.push((
            name.into(),
            format!("surplus tensor {name:?}, {found}{why}"),
        ));
    }
    problems.sort();
    let mut lines: Vec<String> = problems.into_iter().map(|(_, problem)| problem).collect();
    let n = lines.len();
    if n > MAX_LISTED {
        lines.truncate(MAX_LISTED);
        lines.push(format!("and {} more, {n} in all", n - MAX_LISTED));
    }
    lines
}

fn missing(name: &str, shape: &[usize]) -> String {
    format!("missing tensor {name:?}, expected with shape {shape:?}")
}

/// Checks shape, type and scales of a tensor that is there.
fn check(
    checkpoint: &Checkpoint,
    spec: &TensorSpec,
    tensor: &StoredTensor,
    problems: &mut Vec<(String, String)>,
) {
    use StoredType::{BF16, F8E4M3, F16, F32};
    let TensorSpec {
        name, shape, kind, ..
    } = spec;
    let mut problem = |name: &str, text: String| problems.push((name.into(), text));
    if tensor.shape != *shape {
        let found = &tensor.shape;
        problem(
            name,
            format!("tensor {name:?} has shape {found:?}, expected {shape:?}"),
        );
    }
    let expected = match (kind, tensor.dtype) {
        (_, F32 | F16 | BF16) | (TensorKind::Matrix, F8E4M3) => None,
        (TensorKind::Matrix, StoredType::Other(_)) => Some("F32, F16, BF16 or F8_E4M3"),
        (TensorKind::Vector, _) => Some("F32, F16 or BF16"),
    };
    if let Some(expected) = expected {
        let found = tensor.dtype;
        problem(
            name,
            format!("tensor {name:?} is stored as {found}, expected {expected}"),
        );
    }
    if (*kind, tensor.dtype) != (TensorKind::Matrix, F8E4M3) {
        return;
    }
    let scales = format!("{name}{SCALES}");
    let blocks: Vec<usize> = shape.iter().map(|side| side.div_ceil(FP8_BLOCK)).collect();
    match checkpoint.get(&scales) {
        None => problem(
            &scales,
            format!("{}: {name:?} is FP8", missing(&scales, &blocks)),
        ),
        Some(found) if found.dtype != F32 || found.shape != blocks => {
            let found = format!("{} {:?}", found.dtype, found.shape);
            problem(
                &scales,
                format!("tensor {scales:?} is {found}, expected F32 {blocks:?}"),
            );
        }
        Some(_) => {}
    }
}
