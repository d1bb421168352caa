//! The same numbers under other names, brought to those of the table ([`crate::config`]) without a
//! copy: experts fused in one tensor, and FP8 scales under the name that other packers give them.

use std::collections::BTreeMap;

use super::{StoredTensor, StoredType};
use crate::config::{FP8_BLOCK, SCALES};

/// Endings of names of fused experts, `[experts, rows, columns]`, as transformers 5 writes them, and
/// the matrices that lie one below the other in the rows of each expert.
const FUSED: &[(&str, &[&str])] = &[
    (".mlp.experts.gate_up_proj", &["gate_proj", "up_proj"]),
    (".mlp.experts.down_proj", &["down_proj"]),
];

type Tensors = BTreeMap<String, StoredTensor>;

/// Renames what is known under another name. Fused experts that cannot be split stay as they are.
///
/// # Errors
/// A tensor that is stored both ways, in words that follow the name of the file.
pub(super) fn canonical(tensors: &mut Tensors) -> Result<(), String> {
    let is_scale = |name: &&String| {
        let matrix = name
            .strip_suffix("_scale")
            .and_then(|matrix| tensors.get(matrix));
        matrix.is_some_and(|matrix| matrix.dtype == StoredType::F8E4M3)
    };
    for name in tensors.keys().filter(is_scale).cloned().collect::<Vec<_>>() {
        let tensor = tensors.remove(&name).into_iter();
        add(
            tensors,
            tensor.map(|tensor| (format!("{name}_inv"), tensor)),
        )?;
    }
    for &(ending, matrices) in FUSED {
        let layer_of = |name: &String| Some(name.strip_suffix(ending)?.to_owned());
        for layer in tensors.keys().filter_map(layer_of).collect::<Vec<_>>() {
            let name = format!("{layer}{ending}");
            let scales = format!("{name}{SCALES}");
            let Some(weights) = split(&tensors[&name], matrices.len()) else {
                continue;
            };
            let factors = match tensors.get(&scales) {
                None => Vec::new(),
                // A block that reaches over two matrices has one factor for both.
                Some(_) if matrices.len() > 1 && !weights[0].shape[0].is_multiple_of(FP8_BLOCK) => {
                    continue;
                }
                Some(scales) => match split(scales, matrices.len()) {
                    Some(factors) if factors.len() == weights.len() => factors,
                    _ => continue,
                },
            };
            tensors.remove(&name);
            tensors.remove(&scales);
            for (suffix, parts) in [("", weights), (SCALES, factors)] {
                let named = parts.into_iter().enumerate().map(|(i, part)| {
                    let (expert, matrix) = (i / matrices.len(), matrices[i % matrices.len()]);
                    let name = format!("{layer}.mlp.experts.{expert}.{matrix}.weight{suffix}");
                    (name, part)
                });
                add(tensors, named)?;
            }
        }
    }
    Ok(())
}

fn add(
    tensors: &mut Tensors,
    named: impl Iterator<Item = (String, StoredTensor)>,
) -> Result<(), String> {
    for (name, tensor) in named {
        if tensors.contains_key(&name) {
            return Err(format!(
                "holds {name:?} twice: under this name and under that of another format"
            ));
        }
        tensors.insert(name, tensor);
    }
    Ok(())
}

/// The matrices in a tensor of fused experts, `n` to an expert.
fn split(fused: &StoredTensor, n: usize) -> Option<Vec<StoredTensor>> {
    let &[experts, rows, cols] = fused.shape.as_slice() else {
        return None;
    };
    if experts * rows * cols == 0 || rows % n != 0 {
        return None;
    }
    let n_bytes = fused.bytes().len() / (experts * n);
    let part = |i: usize| fused.part(i * n_bytes..(i + 1) * n_bytes, [rows / n, cols]);
    Some((0..experts * n).map(part).collect())
}
