//! From the state of a run to a checkpoint folder that the engine and transformers read.
//!
//! FP8 is stored as DeepSeek-V3.2 does: e4m3 in blocks of 128 × 128 with power-of-two scales, vectors
//! in F32, and BF16 where the rounding would show: the two vocabulary tables, gates, head weights of
//! the indexer, the joint of the MTP layer. Source: spec section 2.

use std::path::Path;

use engine::config::{FP8_BLOCK as BLOCK, SCALES, TensorKind};
use engine::file::{self, Kind, Output, write_whole};
use engine::host::fp8;
use half::bf16;
use safetensors::tensor::{Dtype, TensorView};

use crate::net::Net;
use crate::pass::read;
use crate::{Error, Result};

/// How matrices are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// As trained.
    F32,
    /// The upper half.
    Bf16,
    /// As DeepSeek-V3.2 is stored.
    Fp8,
}

/// Every way to store matrices, by name.
pub const STORES: &[(&str, Store)] = &[
    ("f32", Store::F32),
    ("bf16", Store::Bf16),
    ("fp8", Store::Fp8),
];

/// Matrices that stay BF16 in an FP8 checkpoint, by the end of their names.
const KEPT_BF16: &[&str] = &[
    "embed_tokens.weight",
    "lm_head.weight",
    "mlp.gate.weight",
    "indexer.weights_proj.weight",
    "eh_proj.weight",
];

/// One stored tensor.
struct Stored {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// The files of a checkpoint, and how each is known again.
const FILES: [(&str, Kind); 2] = [
    (
        "model.safetensors",
        Kind {
            name: "a file of weights",
            is: |path| engine::Checkpoint::open(path.parent().unwrap_or(path)).is_ok(),
        },
    ),
    (
        "config.json",
        Kind {
            name: "the config of a model",
            is: |path| engine::Config::open(path.parent().unwrap_or(path)).is_ok(),
        },
    ),
];

/// Refuses, before any work, a folder where an export would come into a larger model's folder, or over
/// anything but, with `force`, a model in one file.
///
/// # Errors
/// What is there, in one sentence.
pub fn check_folder(folder: &Path, inputs: &[&Path], force: bool) -> Result<()> {
    let itself = std::fs::canonicalize(folder).ok();
    if itself.is_none() || file::model_folder(folder) != itself {
        file::check_folder(folder)?;
    }
    if folder.join("model.safetensors.index.json").exists() {
        return Err(engine::Error::Output {
            path: folder.into(),
            problem: "it holds a model in shards, expected one in a single file or none".into(),
        }
        .into());
    }
    for (name, kind) in FILES {
        let path = &folder.join(name);
        file::check_replaced(&Output { path, kind }, inputs, force)?;
    }
    Ok(())
}

/// Writes `model.safetensors` and `config.json` into `folder`. Returns the bytes of the first.
///
/// # Errors
/// The device failed, or the folder cannot be written to.
pub fn write(net: &Net, config_text: &str, store: Store, folder: &Path) -> Result<u64> {
    std::fs::create_dir_all(folder).map_err(|error| Error::io(folder, error))?;
    let mut all = Vec::new();
    for (name, parameter) in &net.parameters {
        let values = read(parameter.tensor.clone())?;
        let [rows, cols] = parameter.tensor.dims();
        match parameter.kind {
            TensorKind::Vector => all.push(Stored {
                name: name.clone(),
                dtype: Dtype::F32,
                shape: vec![cols],
                bytes: f32_bytes(&values),
            }),
            TensorKind::Matrix => all.extend(matrix(name, &values, [rows, cols], store)),
        }
    }
    let views = all.iter().map(|stored| {
        let view = TensorView::new(stored.dtype, stored.shape.clone(), &stored.bytes);
        (
            &stored.name,
            view.expect("the bytes are those of the shape"),
        )
    });
    let bytes =
        safetensors::serialize(views, None).expect("names are distinct and shapes fit their bytes");
    let config = config(config_text, store)?;
    for ((name, _), bytes) in FILES.iter().zip([&bytes[..], config.as_bytes()]) {
        write_whole(&folder.join(name), bytes)?;
    }
    Ok(bytes.len() as u64)
}

fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

fn matrix(name: &str, values: &[f32], shape: [usize; 2], store: Store) -> Vec<Stored> {
    let stored = |name: String, dtype, shape: [usize; 2], bytes| Stored {
        name,
        dtype,
        shape: shape.to_vec(),
        bytes,
    };
    let is_kept = KEPT_BF16.iter().any(|end| name.ends_with(end));
    match store {
        Store::F32 => vec![stored(name.into(), Dtype::F32, shape, f32_bytes(values))],
        Store::Fp8 if !is_kept => {
            let (codes, scales, blocks) = to_fp8(values, shape);
            vec![
                stored(name.into(), Dtype::F8_E4M3, shape, codes),
                stored(
                    format!("{name}{SCALES}"),
                    Dtype::F32,
                    blocks,
                    f32_bytes(&scales),
                ),
            ]
        }
        Store::Bf16 | Store::Fp8 => {
            let bytes = values
                .iter()
                .flat_map(|&value| bf16::from_f32(value).to_le_bytes());
            vec![stored(name.into(), Dtype::BF16, shape, bytes.collect())]
        }
    }
}

/// Codes `[rows, cols]`, and scales by block with their shape.
fn to_fp8(values: &[f32], [rows, cols]: [usize; 2]) -> (Vec<u8>, Vec<f32>, [usize; 2]) {
    let blocks = [rows.div_ceil(BLOCK), cols.div_ceil(BLOCK)];
    let mut codes = vec![0; values.len()];
    let mut scales = Vec::new();
    for block_row in 0..blocks[0] {
        for block_col in 0..blocks[1] {
            let of_rows = block_row * BLOCK..((block_row + 1) * BLOCK).min(rows);
            let of_cols = block_col * BLOCK..((block_col + 1) * BLOCK).min(cols);
            let at = |row: usize| row * cols + of_cols.start..row * cols + of_cols.end;
            let block: Vec<f32> = of_rows
                .clone()
                .flat_map(|row| values[at(row)].iter().copied())
                .collect();
            let scale = fp8::scale(&block);
            for row in of_rows {
                for (code, value) in codes[at(row)].iter_mut().zip(&values[at(row)]) {
                    *code = fp8::encode(value / scale);
                }
            }
            scales.push(scale);
        }
    }
    (codes, scales, blocks)
}

/// The config, with what it has to say about how matrices are stored.
fn config(text: &str, store: Store) -> Result<String> {
    let bad = |problem: String| Error::Setting {
        name: "config.json".into(),
        found: problem,
        expected: "a JSON object".into(),
    };
    let mut config: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(text).map_err(|error| bad(error.to_string()))?;
    let dtype = if store == Store::F32 {
        "float32"
    } else {
        "bfloat16"
    };
    config.insert("torch_dtype".into(), dtype.into());
    config.remove("quantization_config");
    if store == Store::Fp8 {
        let quantised = serde_json::json!({
            "quant_method": "fp8",
            "fmt": "e4m3",
            "activation_scheme": "dynamic",
            "weight_block_size": [BLOCK, BLOCK],
            "scale_fmt": "ue8m0",
        });
        config.insert("quantization_config".into(), quantised);
    }
    let mut text = serde_json::to_string_pretty(&config).expect("JSON values are JSON");
    text.push('\n');
    Ok(text)
}
