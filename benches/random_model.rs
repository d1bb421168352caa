//! A checkpoint of random weights in any shape: speed depends on the shape alone.

use std::collections::BTreeMap;
use std::path::Path;

use engine::Config;
use engine::config::TensorKind;
use half::bf16;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use safetensors::tensor::{Dtype, TensorView};

/// How matrices are stored. Vectors are `f32`, as in V3.2.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Store {
    /// 4 bytes a weight.
    F32,
    /// 2 bytes a weight.
    Bf16,
    /// 1 byte a weight, with a scale per 128 × 128.
    Fp8,
}

impl Store {
    /// Every way, under the name that commands take.
    pub const ALL: &[(&str, Self)] =
        &[("f32", Self::F32), ("bf16", Self::Bf16), ("fp8", Self::Fp8)];
}

/// Writes `config.json` and `model.safetensors` to `folder`. The seed is fixed.
pub fn write(folder: &Path, config_json: &str, store: Store) {
    let config =
        Config::from_json(config_json).expect("the configurations of the benches are valid");
    let mut random = ChaCha20Rng::from_seed([7; 32]);
    let mut data: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)> = BTreeMap::new();
    for spec in config
        .tensors(true)
        .into_iter()
        .filter(|spec| !spec.optional)
    {
        let n: usize = spec.shape.iter().product();
        // Between -1 and 1 by 2 / 65,536, scaled so that a product keeps the size of its input.
        let size = match spec.kind {
            TensorKind::Matrix => {
                1.7 / (*spec.shape.last().expect("a matrix has columns") as f32).sqrt()
            }
            TensorKind::Vector => 1.0,
        };
        let mut number = || (random.next_u32() >> 16) as f32 / 32_768.0 - 1.0;
        let (dtype, bytes) = match (spec.kind, store) {
            (TensorKind::Vector, _) if spec.name.ends_with("norm.weight") => (
                Dtype::F32,
                (0..n)
                    .flat_map(|_| (1.0 + 0.1 * number()).to_le_bytes())
                    .collect(),
            ),
            (TensorKind::Vector, _) => (
                Dtype::F32,
                (0..n)
                    .flat_map(|_| (0.01 * number()).to_le_bytes())
                    .collect(),
            ),
            (TensorKind::Matrix, Store::F32) => (
                Dtype::F32,
                (0..n)
                    .flat_map(|_| (size * number()).to_le_bytes())
                    .collect(),
            ),
            (TensorKind::Matrix, Store::Bf16) => (
                Dtype::BF16,
                (0..n)
                    .flat_map(|_| bf16::from_f32(size * number()).to_le_bytes())
                    .collect(),
            ),
            (TensorKind::Matrix, Store::Fp8) => {
                // Codes of 2^-4 to 2^0 under a scale that makes them as large as the others.
                let blocks = [spec.shape[0].div_ceil(128), spec.shape[1].div_ceil(128)];
                let scales = vec![size; blocks[0] * blocks[1]];
                let scales = scales
                    .iter()
                    .flat_map(|scale| scale.to_le_bytes())
                    .collect();
                let name = format!("{}_scale_inv", spec.name);
                data.insert(name, (Dtype::F32, blocks.to_vec(), scales));
                let code = |r: u32| ((r >> 8) as u8 & 0x80) | (0x18 + (r as u8 & 0x1f));
                (
                    Dtype::F8_E4M3,
                    (0..n).map(|_| code(random.next_u32())).collect(),
                )
            }
        };
        data.insert(spec.name, (dtype, spec.shape, bytes));
    }
    let views: BTreeMap<&String, TensorView> = data
        .iter()
        .map(|(name, (dtype, shape, bytes))| {
            let view = TensorView::new(*dtype, shape.clone(), bytes);
            (name, view.expect("as many bytes as the shape says"))
        })
        .collect();
    safetensors::serialize_to_file(views, None, &folder.join("model.safetensors"))
        .expect("the temporary folder can be written to");
    std::fs::write(folder.join("config.json"), config_json)
        .expect("the temporary folder can be written to");
}
