//! What is exported is what was trained, within half a step of its format, and the engine reads it.

use std::path::Path;
use std::sync::Arc;

use burn::tensor::{DType, Device};
use engine::host::fp8;
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use serde_json::{Value, json};

use super::{config, config_json, net};
use crate::checkpoint;
use crate::export::{self, STORES, Store};
use crate::net::Net;

/// Sizes that leave ragged blocks: 80 × 256, 32 × 256, 300 × 130 and the like.
fn wide() -> Value {
    let mut json = config_json();
    for (key, value) in [
        ("hidden_size", 256),
        ("intermediate_size", 300),
        ("q_lora_rank", 130),
        ("kv_lora_rank", 64),
        ("qk_rope_head_dim", 16),
        ("index_head_dim", 32),
        ("moe_intermediate_size", 129),
    ] {
        json[key] = json!(value);
    }
    json
}

fn exported(json: &Value, store: Store, folder: &Path) -> Net {
    let net = net(&config(json), 4, DType::F32);
    let n_bytes = export::write(&net, &json.to_string(), store, folder).unwrap();
    let length = std::fs::metadata(folder.join("model.safetensors"))
        .unwrap()
        .len();
    assert_eq!(n_bytes, length);
    net
}

#[test]
fn the_engine_opens_every_export() {
    for json in [config_json(), wide()] {
        for &(name, store) in STORES {
            let folder = tempfile::tempdir().unwrap();
            exported(&json, store, folder.path());
            let device = engine::Device::cpu();
            let model = Arc::new(engine::Model::open(folder.path(), &device).unwrap());
            assert!(model.has_mtp(), "{name}");
            let options = engine::SessionOptions::default();
            let mut session = engine::Session::new(model, options).unwrap();
            let logits = session.advance(&[5, 9, 3, 36, 0]).unwrap();
            assert!(logits.iter().all(|x| x.is_finite()), "{name}");
        }
    }
}

#[test]
fn fp8_codes_are_within_half_a_step() {
    let folder = tempfile::tempdir().unwrap();
    let net = exported(&wide(), Store::Fp8, folder.path());
    let bytes = std::fs::read(folder.path().join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let (mut n_fp8, mut ragged) = (0, Vec::new());
    for (name, parameter) in &net.parameters {
        let view = tensors.tensor(name).unwrap();
        let values = crate::pass::read(parameter.tensor.clone()).unwrap();
        if view.dtype() != Dtype::F8_E4M3 {
            continue;
        }
        n_fp8 += 1;
        let [rows, cols] = parameter.tensor.dims();
        assert_eq!(view.shape(), [rows, cols]);
        if rows % 128 != 0 {
            ragged.push((rows, cols));
        }
        let scales = tensors.tensor(&format!("{name}_scale_inv")).unwrap();
        let blocks = [rows.div_ceil(128), cols.div_ceil(128)];
        assert_eq!((scales.dtype(), scales.shape()), (Dtype::F32, &blocks[..]));
        for row in 0..rows {
            for col in 0..cols {
                let block = (row / 128 * blocks[1] + col / 128) * 4;
                let scale = f32::from_le_bytes(scales.data()[block..block + 4].try_into().unwrap());
                assert_eq!(
                    scale.log2().fract(),
                    0.0,
                    "{name}: scales are powers of two"
                );
                let (code, want) = (view.data()[row * cols + col], values[row * cols + col]);
                let got = fp8::decode(code) * scale;
                // Half of 1/8 of the power of two below, or of the smallest step.
                let half = (want.abs() / 16.0).max(scale / 1024.0);
                assert!(
                    (got - want).abs() <= half,
                    "{name} [{row}, {col}]: {got} and {want}"
                );
                assert!(fp8::decode(code).abs() <= 448.0);
            }
        }
    }
    assert!(n_fp8 > 30, "{n_fp8}");
    for shape in [(80, 256), (32, 256)] {
        assert!(ragged.contains(&shape), "{shape:?} in {ragged:?}");
    }
}

/// An outlier makes the scale of its own block large and no other.
#[test]
fn blocks_have_scales_of_their_own() {
    let json = wide();
    let config = config(&json);
    let name = "model.layers.0.self_attn.kv_a_proj_with_mqa.weight";
    let net = Net::from_values(&config, &Device::flex(), DType::F32, |given, _, n| {
        let mut values = vec![0.01; n];
        if given == name {
            // [80, 256]: the last number of the first row is in the second block.
            values[255] = 1000.0;
            values[256 + 100] = 0.0;
        }
        Ok::<_, ()>(values)
    })
    .unwrap();
    let folder = tempfile::tempdir().unwrap();
    export::write(&net, &json.to_string(), Store::Fp8, folder.path()).unwrap();
    let bytes = std::fs::read(folder.path().join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let scales = tensors.tensor(&format!("{name}_scale_inv")).unwrap();
    let scales: Vec<f32> = scales
        .data()
        .chunks(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
        .collect();
    assert_eq!(scales.len(), 2);
    assert!(scales[0] < 1e-4 && scales[1] > 2.0, "{scales:?}");
    let codes = tensors.tensor(name).unwrap().data().to_vec();
    assert_eq!(codes[256 + 100], 0);
    assert!((fp8::decode(codes[255]) * scales[1] - 1000.0).abs() <= 1000.0 / 16.0);
}

#[test]
fn the_config_says_how_matrices_are_stored() {
    let folder = tempfile::tempdir().unwrap();
    for (store, dtype, is_quantised) in [
        (Store::F32, "float32", false),
        (Store::Fp8, "bfloat16", true),
        (Store::Bf16, "bfloat16", false),
    ] {
        exported(&config_json(), store, folder.path());
        let text = std::fs::read_to_string(folder.path().join("config.json")).unwrap();
        let found: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(found["torch_dtype"], dtype);
        assert_eq!(found.get("quantization_config").is_some(), is_quantised);
        assert_eq!(found["hidden_size"], 20);
    }
    let net = net(&config(&config_json()), 4, DType::F32);
    let error = export::write(&net, "[]", Store::F32, folder.path()).unwrap_err();
    assert!(error.to_string().contains("config.json is"), "{error}");
}

/// Stored as trained, to the bit; a state and an export hold the same numbers.
#[test]
fn f32_is_exact() {
    let folder = tempfile::tempdir().unwrap();
    let net = exported(&config_json(), Store::F32, folder.path());
    let bytes = std::fs::read(folder.path().join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.len(), net.parameters.len());
    for (name, parameter) in &net.parameters {
        let values = crate::pass::read(parameter.tensor.clone()).unwrap();
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        assert!(tensors.tensor(name).unwrap().data() == bytes, "{name}");
    }
}

/// Training goes on from what an export holds; exported again, it is the same.
#[test]
fn a_run_begins_with_the_weights_of_a_checkpoint() {
    let numbers = |net: &Net, name: &str| {
        let tensor = net.parameters[name].tensor.clone();
        crate::pass::read(tensor).unwrap()
    };
    for json in [config_json(), wide()] {
        for &(of_store, store) in STORES {
            let [first, second] = [(); 2].map(|()| tempfile::tempdir().unwrap());
            let (config, device) = (config(&json), Device::flex());
            let trained = exported(&json, store, first.path());
            let loaded = checkpoint::weights(first.path(), &config, &device, DType::F32).unwrap();
            export::write(&loaded, &json.to_string(), store, second.path()).unwrap();
            let again = checkpoint::weights(second.path(), &config, &device, DType::F32).unwrap();
            for name in trained.parameters.keys() {
                let loaded = numbers(&loaded, name);
                assert!(loaded == numbers(&again, name), "{of_store}: {name}");
                for (loaded, trained) in loaded.iter().zip(numbers(&trained, name)) {
                    // Half a step of FP8, and what is below its smallest.
                    let bound = trained.abs() / 16.0 + 1e-3;
                    assert!((loaded - trained).abs() <= bound, "{of_store}: {name}");
                    assert!(store != Store::F32 || *loaded == trained, "{name}");
                }
            }
        }
    }
}

#[test]
fn weights_that_do_not_fit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    exported(&config_json(), Store::F32, folder.path());
    let other = config(&wide());
    let error = checkpoint::weights(folder.path(), &other, &Device::flex(), DType::F32);
    let error = error.map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("model.embed_tokens.weight"), "{error}");
    let mut net = net(&config(&config_json()), 4, DType::F32);
    let bad = net.parameters.get_mut("model.norm.weight").unwrap();
    bad.tensor = bad.tensor.clone() * f32::NAN;
    export::write(&net, &config_json().to_string(), Store::F32, folder.path()).unwrap();
    let config = config(&config_json());
    let error = checkpoint::weights(folder.path(), &config, &Device::flex(), DType::F32);
    let error = error.map(|_| ()).unwrap_err().to_string();
    assert!(
        error.contains("model.norm.weight") && error.contains("NaN"),
        "{error}"
    );
}
