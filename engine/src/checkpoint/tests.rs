//! Files that hold together and files that do not, made byte by byte.

#![allow(clippy::unwrap_used, reason = "a test may fail by panic")]

#[cfg(unix)]
mod shrinking;

use proptest::prelude::*;
use proptest::test_runner::{Config as Runs, RngSeed};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::header::{Entry, read};
use super::*;

/// A file with this JSON as its header.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(data);
    bytes
}

/// Name, type, shape, bytes.
type Tensor<'a> = (&'a str, &'a str, Vec<usize>, Vec<u8>);

fn file_of(tensors: &[Tensor]) -> Vec<u8> {
    let mut header = json!({"__metadata__": {"format": "pt"}});
    let mut data = Vec::new();
    for (name, dtype, shape, bytes) in tensors {
        let start = data.len();
        data.extend_from_slice(bytes);
        header[*name] =
            json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]});
    }
    file(&header.to_string(), &data)
}

fn folder_of(files: &[(&str, Vec<u8>)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

fn checkpoint_of(tensors: &[Tensor]) -> Checkpoint {
    let folder = folder_of(&[(SINGLE, file_of(tensors))]);
    // The map outlives its file's name.
    Checkpoint::open(folder.path()).unwrap()
}

fn f32s(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

fn check_all(checkpoint: &Checkpoint) -> Result<bool> {
    checkpoint.check_finite(&mut |_| ControlFlow::Continue(()))
}

#[test]
fn tensors_are_found_where_the_header_says() {
    let checkpoint = checkpoint_of(&[
        ("b", "BF16", vec![3], vec![1, 2, 3, 4, 5, 6]),
        ("odd", "F8_E4M3", vec![1, 1], vec![7]),
        // Starts at an odd address.
        ("a", "F32", vec![2, 1], f32s(&[1.5, -2.5])),
        ("empty", "I64", vec![0, 9], vec![]),
        ("scalar", "F16", vec![], vec![8, 9]),
    ]);
    let names: Vec<_> = checkpoint.tensors().map(|(name, _)| name).collect();
    assert_eq!(names, ["a", "b", "empty", "odd", "scalar"]);
    assert_eq!(checkpoint.n_bytes(), 6 + 1 + 8 + 2);
    let a = checkpoint.get("a").unwrap();
    assert_eq!(
        (a.dtype, a.shape.as_slice()),
        (StoredType::F32, &[2, 1][..])
    );
    assert_eq!(a.bytes(), f32s(&[1.5, -2.5]));
    assert_eq!(checkpoint.get("b").unwrap().bytes(), [1, 2, 3, 4, 5, 6]);
    assert_eq!(
        checkpoint.get("empty").unwrap().dtype,
        StoredType::Other(Dtype::I64)
    );
    assert!(checkpoint.get("c").is_none());
    assert!(check_all(&checkpoint).unwrap());
}

#[test]
fn headers_that_do_not_hold_together_are_refused() {
    let one = |dtype: &str, shape: Value, offsets: [u64; 2]| {
        let tensor = json!({"dtype": dtype, "shape": shape, "data_offsets": offsets});
        file(&json!({"t": tensor}).to_string(), &[0; 16])
    };
    let two = |a: [u64; 2], b: [u64; 2]| {
        let tensor = |[start, end]: [u64; 2]| json!({"dtype": "U8", "shape": [end - start], "data_offsets": [start, end]});
        file(
            &json!({"first": tensor(a), "second": tensor(b)}).to_string(),
            &[0; 16],
        )
    };
    let vast = u64::MAX;
    for (bytes, text) in [
        (vec![], "has 0 bytes"),
        (vec![1; 7], "has 7 bytes"),
        (vec![0; 8], "broken header"),
        (
            100_u64.to_le_bytes().to_vec(),
            "header of 100 bytes, but only 0 follow",
        ),
        (
            file("{}", &[])[..9].to_vec(),
            "header of 2 bytes, but only 1",
        ),
        (
            [100_000_001_u64.to_le_bytes(), [0; 8]].concat(),
            "at most 100000000",
        ),
        (vec![0xff; 64], "header of 18446744073709551615 bytes"),
        (file("{", &[]), "broken header"),
        (file("[]", &[]), "object of tensors"),
        (file("\u{0}", &[]), "broken header"),
        (file(&"[".repeat(100_000), &[]), "broken header"),
        (
            file(&format!("{{\"t\": {}", "[".repeat(100_000)), &[]),
            "\"t\"",
        ),
        (file("{}", &[0]), "1 bytes after its last tensor"),
        (file("{\"t\": 5}", &[]), "tensor \"t\""),
        (
            file("{\"t\": {\"dtype\": \"F32\", \"shape\": []}}", &[]),
            "data_offsets",
        ),
        (
            file(
                "{\"t\": {\"dtype\": \"F32\", \"shape\": [-1], \"data_offsets\": [0, 4]}}",
                &[],
            ),
            "\"t\"",
        ),
        (
            one("F7", json!([4]), [0, 16]),
            "tensor \"t\": unknown variant `F7`",
        ),
        (
            one("F32", json!([5]), [0, 16]),
            "holds 16 bytes, but F32 [5] takes 20 bytes",
        ),
        (one("F32", json!([]), [0, 16]), "takes 4 bytes"),
        (one("F4", json!([3]), [0, 16]), "takes 12 bits"),
        (
            one("F32", json!([vast, vast]), [0, 16]),
            "more than 2^64 bits",
        ),
        (
            one("F32", json!([1_u64 << 32, 1_u64 << 32]), [0, 0]),
            "more than 2^64",
        ),
        (one("F64", json!([1_u64 << 58]), [0, 0]), "more than 2^64"),
        (
            one("U8", json!([17]), [0, 17]),
            "ends at offset 17, but the file has 16",
        ),
        (
            one("U8", json!([1]), [vast - 1, vast]),
            "ends at offset 18446744073709551615",
        ),
        (
            one("U8", json!([1]), [9, 8]),
            "starts at offset 9, after its end 8",
        ),
        (
            one("U8", json!([8]), [8, 16]),
            "leaves a hole: the first tensor starts at 0",
        ),
        (
            one("U8", json!([8]), [0, 8]),
            "8 bytes after its last tensor",
        ),
        (
            two([0, 9], [8, 16]),
            "\"second\" at offset 8 overlaps tensor \"first\", which ends at 9",
        ),
        (two([0, 16], [0, 16]), "overlaps"),
        (
            two([0, 7], [8, 16]),
            "\"second\" at offset 8 leaves a hole after tensor \"first\"",
        ),
        (
            file(
                "{\"t\": {\"dtype\": \"U8\", \"shape\": [1], \"data_offsets\": [0, 1]}, \
                 \"t\": {\"dtype\": \"U8\", \"shape\": [1], \"data_offsets\": [1, 2]}}",
                &[0; 2],
            ),
            "tensor \"t\" stands there twice",
        ),
    ] {
        let problem = read(&bytes).unwrap_err();
        assert!(
            problem.contains(text),
            "{problem:?} ought to contain {text:?}"
        );
        let folder = folder_of(&[(SINGLE, bytes)]);
        let error = Checkpoint::open(folder.path()).unwrap_err();
        assert!(error.to_string().contains(SINGLE), "{error}");
    }
}

#[test]
fn metadata_and_padding_are_allowed() {
    let header = "{\"__metadata__\": {\"a\": \"b\"}, \"t\": {\"dtype\": \"U8\", \"shape\": [1], \
                  \"data_offsets\": [0, 1], \"more\": [{}]}}   ";
    let entries = read(&file(header, &[5])).unwrap();
    let start = 8 + header.len();
    let dtype = StoredType::Other(Dtype::U8);
    let expected = Entry {
        name: "t".into(),
        dtype,
        shape: vec![1],
        range: start..start + 1,
    };
    assert_eq!(entries, [expected]);
    assert_eq!(read(&file("{}", &[])).unwrap(), []);
}

fn index(map: Value) -> (&'static str, Vec<u8>) {
    (
        INDEX,
        json!({"metadata": {}, "weight_map": map})
            .to_string()
            .into_bytes(),
    )
}

#[test]
fn shards_are_read_as_one() {
    let folder = folder_of(&[
        ("one.safetensors", file_of(&[("a", "U8", vec![1], vec![1])])),
        (
            "two.safetensors",
            file_of(&[
                ("b", "U8", vec![1], vec![2]),
                ("unlisted", "U8", vec![1], vec![3]),
            ]),
        ),
        index(json!({"a": "one.safetensors", "b": "two.safetensors"})),
    ]);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let all: Vec<_> = checkpoint
        .tensors()
        .map(|(name, t)| (name, t.bytes()[0]))
        .collect();
    assert_eq!(all, [("a", 1), ("b", 2), ("unlisted", 3)]);
    // A single file goes before an index, as in transformers.
    std::fs::write(folder.path().join(SINGLE), file_of(&[])).unwrap();
    assert_eq!(
        Checkpoint::open(folder.path()).unwrap().tensors().count(),
        0
    );
}

#[test]
fn indexes_that_do_not_hold_together_are_refused() {
    let shard = |name: &'static str| (name, file_of(&[("a", "U8", vec![1], vec![1])]));
    for (files, texts) in [
        (vec![], vec![SINGLE, INDEX]),
        (vec![(INDEX, b"{}".to_vec())], vec!["weight_map"]),
        (
            vec![(INDEX, vec![b'['; 1 << 20])],
            vec!["no index of shards"],
        ),
        (
            vec![(INDEX, b"{\"weight_map\": {\"a\": 1}}".to_vec())],
            vec!["no index of shards"],
        ),
        (vec![index(json!({}))], vec!["names no shards"]),
        (
            vec![
                shard("x"),
                index(json!({"a": "x", "b": "z", "c": "y", "d": "z"})),
            ],
            vec!["names 3 shards, of which 2 are not there: \"y\", \"z\""],
        ),
        (
            vec![shard("x"), index(json!({"a": "x", "b": "x"}))],
            vec!["tensor \"b\" is in \"x\""],
        ),
        (
            vec![shard("x"), shard("y"), index(json!({"a": "x", "b": "y"}))],
            vec!["both hold tensor \"a\"", "\"x\" and \"y\""],
        ),
        (
            vec![index(json!({"a": "../x"}))],
            vec!["\"../x\"", "below its own folder"],
        ),
        (
            vec![index(json!({"a": "x/../../y"}))],
            vec!["below its own folder"],
        ),
        (
            vec![index(json!({"a": "/etc/hostname"}))],
            vec!["/etc/hostname", "below"],
        ),
        (vec![index(json!({"a": ""}))], vec!["below its own folder"]),
        (vec![index(json!({"a": "."}))], vec!["below its own folder"]),
        (
            vec![index(json!({"a": "..\\x"}))],
            vec!["below its own folder"],
        ),
        (
            vec![index(json!({"a": "x\u{0}"}))],
            vec!["below its own folder"],
        ),
        (
            vec![("x", vec![0; 4]), index(json!({"a": "x"}))],
            vec!["x: has 4 bytes"],
        ),
    ] {
        let folder = folder_of(&files);
        let error = Checkpoint::open(folder.path()).unwrap_err().to_string();
        for text in texts {
            assert!(error.contains(text), "{error:?} ought to contain {text:?}");
        }
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join(SINGLE)).unwrap();
    let error = Checkpoint::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("not a regular file"), "{error}");
}

/// `n` finite elements of a type, with `bad` at `at`.
fn with_bad(dtype: &str, n: usize, at: usize, bad: &[u8]) -> Vec<u8> {
    let size = bad.len();
    // The largest finite value, so that nothing near it is taken for infinite.
    let most: &[u8] = match dtype {
        "F32" => &[0xff, 0xff, 0x7f, 0xff],
        "F16" => &[0xff, 0x7b],
        "BF16" => &[0x7f, 0x7f],
        _ => &[0xfe],
    };
    let mut bytes = most.repeat(n);
    bytes[at * size..(at + 1) * size].copy_from_slice(bad);
    bytes
}

#[test]
fn the_first_bad_element_is_found_in_every_type() {
    for (dtype, bad) in [
        ("F32", f32::NAN.to_le_bytes().to_vec()),
        ("F32", f32::INFINITY.to_le_bytes().to_vec()),
        ("F32", f32::NEG_INFINITY.to_le_bytes().to_vec()),
        // A signalling NaN with one bit of payload.
        ("F32", 0xff80_0001_u32.to_le_bytes().to_vec()),
        ("F16", vec![0x00, 0x7c]),
        ("F16", vec![0x01, 0xfc]),
        ("BF16", vec![0x80, 0x7f]),
        ("BF16", vec![0x81, 0xff]),
        ("F8_E4M3", vec![0x7f]),
        ("F8_E4M3", vec![0xff]),
    ] {
        // Pieces, runs and rounds end within.
        let n = 40_000_000 / bad.len() / 8 + 3;
        for at in [0, 1, 2047, 2048, n / 2, n - 1] {
            let bytes = with_bad(dtype, n, at, &bad);
            let checkpoint = checkpoint_of(&[
                ("fine", "F8_E4M3", vec![3], vec![0, 0x7e, 0xfe]),
                ("looked for", dtype, vec![n], bytes),
            ]);
            match check_all(&checkpoint) {
                Err(Error::NotFinite { name, index, value }) => {
                    assert_eq!((name.as_str(), index), ("looked for", at), "{dtype}");
                    assert!(!value.is_finite());
                }
                other => panic!("{dtype} at {at}: {other:?}"),
            }
        }
    }
}

#[test]
fn the_first_of_several_is_reported() {
    let mut values = vec![0.0; 3_000_000];
    for at in [600_000, 600_001, 2_999_999] {
        values[at] = f32::INFINITY;
    }
    let checkpoint = checkpoint_of(&[
        ("z first in the file", "F32", vec![3_000_000], f32s(&values)),
        ("a first by name", "F32", vec![1], f32s(&[f32::NAN])),
    ]);
    for _ in 0..5 {
        let error = check_all(&checkpoint).unwrap_err().to_string();
        let expected = "tensor \"z first in the file\" holds inf at element 600000";
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn progress_is_told_and_may_break_off() {
    let n = 100 << 20;
    let checkpoint = checkpoint_of(&[
        ("big", "F8_E4M3", vec![n], vec![0; n]),
        ("empty", "F32", vec![0], vec![]),
        ("small", "F32", vec![1], f32s(&[1.0])),
    ]);
    let mut told = Vec::new();
    let all = checkpoint.check_finite(&mut |at| {
        told.push(at);
        ControlFlow::Continue(())
    });
    assert!(all.unwrap());
    assert_eq!((told[0].bytes_done, told[0].tensors_done), (0, 0));
    assert!(told.len() > 3 && told.is_sorted_by_key(|at| at.bytes_done));
    let last = told.last().unwrap();
    assert_eq!((last.bytes_done, last.tensors_done), (n as u64 + 4, 3));
    assert_eq!((last.bytes_total, last.tensors_total), (n as u64 + 4, 3));

    let mut calls = 0;
    let broken_off = checkpoint.check_finite(&mut |_| {
        calls += 1;
        if calls == 2 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    assert!(!broken_off.unwrap());
    assert_eq!(calls, 2);
    let empty = checkpoint_of(&[]);
    assert!(check_all(&empty).unwrap());
}

const TINY: &str = r#"{
    "model_type": "deepseek_v32", "vocab_size": 6, "hidden_size": 130, "intermediate_size": 4,
    "moe_intermediate_size": 2, "num_hidden_layers": 2, "num_nextn_predict_layers": 1,
    "num_attention_heads": 1, "q_lora_rank": 4, "kv_lora_rank": 4, "qk_nope_head_dim": 2,
    "qk_rope_head_dim": 2, "v_head_dim": 2, "max_position_embeddings": 64, "n_routed_experts": 4,
    "n_shared_experts": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1, "n_group": 1,
    "topk_group": 1, "index_n_heads": 2, "index_head_dim": 4, "index_topk": 2, "eos_token_id": [3, 1]
}"#;

fn tiny() -> Config {
    Config::from_json(TINY).unwrap()
}

/// What `config` asks for, matrices in BF16 and vectors in F32, and with `changes` made.
fn fitting(config: &Config, change: impl FnOnce(&mut Vec<Tensor<'static>>)) -> Checkpoint {
    let mut tensors: Vec<Tensor> = config
        .tensors(true)
        .into_iter()
        .map(|spec| {
            let n = spec.n_elements() as usize;
            let (dtype, size) = match spec.kind {
                crate::config::TensorKind::Matrix => ("BF16", 2),
                crate::config::TensorKind::Vector => ("F32", 4),
            };
            // Names live as long as the test program; the checkpoint copies them anyway.
            let name: &'static str = Box::leak(spec.name.into_boxed_str());
            (name, dtype, spec.shape, vec![0; n * size])
        })
        .collect();
    change(&mut tensors);
    checkpoint_of(&tensors)
}

fn problems(checkpoint: &Checkpoint, config: &Config) -> Vec<String> {
    match checkpoint.clone().fit(config) {
        Ok(_) => Vec::new(),
        Err(Error::Misfit { problems, .. }) => problems,
        Err(other) => vec![other.to_string()],
    }
}

fn position(tensors: &[Tensor], name: &str) -> usize {
    tensors.iter().position(|tensor| tensor.0 == name).unwrap()
}

fn stored_as_fp8(tensors: &mut [Tensor<'static>], name: &str) {
    let at = position(tensors, name);
    let tensor = &mut tensors[at];
    tensor.1 = "F8_E4M3";
    tensor.3.truncate(tensor.3.len() / 2);
}

#[test]
fn a_checkpoint_that_fits_may_lack_the_copies_or_the_whole_mtp_layer() {
    let config = tiny();
    let whole = fitting(&config, |_| {});
    assert_eq!(problems(&whole, &config), [""; 0]);
    assert!(whole.has_mtp(&config));
    let no_copies = fitting(&config, |tensors| {
        tensors.retain(|tensor| !tensor.0.contains("2.embed") && !tensor.0.contains("head.head"));
    });
    assert_eq!(problems(&no_copies, &config), [""; 0]);
    assert!(no_copies.has_mtp(&config));
    let no_mtp = fitting(&config, |tensors| {
        tensors.retain(|tensor| !tensor.0.starts_with("model.layers.2."));
        let buffer = |layer: &'static str| (layer, "F64", vec![1], vec![0; 8]);
        tensors.push(buffer("model.layers.0.self_attn.rotary_emb.inv_freq"));
        tensors.push(buffer("model.layers.2.self_attn.rotary_emb.inv_freq"));
    });
    assert_eq!(problems(&no_mtp, &config), [""; 0]);
    assert!(!no_mtp.has_mtp(&config));

    let part = fitting(&config, |tensors| {
        tensors.retain(|tensor| {
            !tensor.0.starts_with("model.layers.2.") || tensor.0.ends_with("hnorm.weight")
        });
    });
    let missing = problems(&part, &config);
    let (rest, told) = missing.split_last().unwrap();
    assert!(rest.contains("more kinds"), "{rest}");
    assert!(
        told.iter()
            .all(|line| line.contains("missing tensor \"model.layers.2."))
    );
    assert!(told.iter().any(|line| line.contains("enorm")));

    let without = TINY.replace(
        "\"num_nextn_predict_layers\": 1",
        "\"num_nextn_predict_layers\": 0",
    );
    let without = Config::from_json(&without).unwrap();
    assert!(!whole.has_mtp(&without));
    let notes = whole.clone().fit(&without).unwrap();
    let note = "MTP in layer 2 is passed over: by the config, 0 such layers are used";
    assert_eq!(notes, [note]);
    // What is no MTP layer is none, whatever its number.
    let no_joint = fitting(&config, |tensors| {
        tensors.retain(|tensor| !tensor.0.ends_with("2.eh_proj.weight"));
    });
    let surplus = problems(&no_joint, &without);
    assert!(
        surplus[0].contains("surplus tensor \"model.layers.2."),
        "{surplus:?}"
    );
}

#[test]
fn every_misfit_is_told_at_once_and_by_name() {
    let config = tiny();
    let checkpoint = fitting(&config, |tensors| {
        tensors.remove(position(tensors, "model.norm.weight"));
        tensors.remove(position(
            tensors,
            "model.layers.1.mlp.gate.e_score_correction_bias",
        ));
        let at = position(tensors, "model.layers.0.input_layernorm.weight");
        tensors[at] = (tensors[at].0, "F8_E4M3", vec![130], vec![0; 130]);
        let at = position(tensors, "lm_head.weight");
        tensors[at] = (tensors[at].0, "I16", vec![6, 130], vec![0; 6 * 130 * 2]);
        let at = position(tensors, "model.embed_tokens.weight");
        tensors[at] = (tensors[at].0, "F32", vec![130, 6], vec![0; 6 * 130 * 4]);
        tensors.push((
            "model.layers.0.mlp.down_proj.bias",
            "F32",
            vec![1],
            vec![0; 4],
        ));
        tensors.push((
            "model.layers.0.mlp.down_proj.weight_scale_inv",
            "F32",
            vec![2, 1],
            vec![0; 8],
        ));
        stored_as_fp8(tensors, "model.layers.0.mlp.gate_proj.weight");
        stored_as_fp8(tensors, "model.layers.0.mlp.up_proj.weight");
        tensors.push((
            "model.layers.0.mlp.up_proj.weight_scale_inv",
            "BF16",
            vec![1, 3],
            vec![0; 6],
        ));
        stored_as_fp8(tensors, "model.layers.0.self_attn.o_proj.weight");
        tensors.push((
            "model.layers.0.self_attn.o_proj.weight_scale_inv",
            "I32",
            vec![2, 1],
            vec![0; 8],
        ));
    });
    assert_eq!(
        problems(&checkpoint, &config),
        [
            "tensor \"lm_head.weight\" is stored as I16, expected F32, F16, BF16 or F8_E4M3",
            "tensor \"model.embed_tokens.weight\" has shape [130, 6], expected [6, 130]",
            "tensor \"model.layers.0.input_layernorm.weight\" is stored as F8_E4M3, expected F32, F16 or BF16",
            "surplus tensor \"model.layers.0.mlp.down_proj.bias\", F32 [1]",
            "surplus tensor \"model.layers.0.mlp.down_proj.weight_scale_inv\", F32 [2, 1]: its matrix is stored as BF16, not as F8_E4M3",
            "missing tensor \"model.layers.0.mlp.gate_proj.weight_scale_inv\", expected with shape [1, 2]: \"model.layers.0.mlp.gate_proj.weight\" is FP8",
            "tensor \"model.layers.0.mlp.up_proj.weight_scale_inv\" is BF16 [1, 3], expected F32, BF16 or F8_E8M0 [1, 2]: one factor for a block of 128 × 128, and 1 more like it",
            "missing tensor \"model.layers.1.mlp.gate.e_score_correction_bias\", expected with shape [4]",
            "missing tensor \"model.norm.weight\", expected with shape [130]",
        ]
    );
}

#[test]
fn hundreds_of_misfits_are_a_line_a_kind() {
    let config = tiny();
    let n = config.tensors(false).len();
    let mut nothing = checkpoint_of(&[]);
    let found = problems(&nothing, &config);
    assert_eq!(found.len(), 11);
    assert!(found[10].starts_with("and ") && found[10].ends_with(&format!("{n} tensors in all")));
    let told = nothing.fit(&config).unwrap_err().to_string();
    assert!(
        told.contains(&format!("{SINGLE} does not fit its config, {n} problem(s)")),
        "{told}"
    );

    let no_experts = fitting(&config, |tensors| {
        tensors.retain(|tensor| !tensor.0.contains("experts"))
    });
    let found = problems(&no_experts, &config);
    // Three matrices of an expert, and three of the shared ones, in two layers.
    assert_eq!(found.len(), 6, "{found:#?}");
    let experts = found
        .iter()
        .filter(|line| line.ends_with(", and 7 more like it"));
    assert_eq!(experts.count(), 3, "{found:#?}");
}

#[test]
fn tied_tables_need_no_head() {
    let tied = TINY.replace(
        "\"vocab_size\"",
        "\"tie_word_embeddings\": true, \"vocab_size\"",
    );
    let tied = Config::from_json(&tied).unwrap();
    assert_eq!(problems(&fitting(&tied, |_| {}), &tied), [""; 0]);
    let notes = fitting(&tiny(), |_| {}).fit(&tied).unwrap();
    assert_eq!(
        notes,
        ["lm_head.weight repeats the embedding table and is not used"]
    );
    for change in [
        |head: &mut Tensor| head.3[1] = 1,
        |head: &mut Tensor| head.1 = "F16",
    ] {
        let own = fitting(&tiny(), |tensors| {
            let at = position(tensors, "lm_head.weight");
            change(&mut tensors[at]);
        });
        let found = problems(&own, &tied);
        assert!(
            found[0].contains("tie_word_embeddings") && found[0].contains("lm_head"),
            "{found:?}"
        );
    }
}

#[test]
fn scales_are_read_in_every_type() {
    let scales = [
        ("F32", f32s(&[0.25, 2.0]), [0.25, 2.0]),
        ("BF16", vec![0x80, 0x3e, 0x00, 0x40], [0.25, 2.0]),
        ("F16", vec![0x00, 0x34, 0x00, 0x40], [0.25, 2.0]),
        ("F8_E8M0", vec![125, 128], [0.25, 2.0]),
        ("F8_E8M0", vec![0, 254], [2_f32.powi(-127), 2_f32.powi(127)]),
    ];
    for (dtype, bytes, expected) in scales {
        for ending in ["_scale_inv", "_scale"] {
            let name = format!("w.weight{ending}");
            let checkpoint = checkpoint_of(&[
                ("w.weight", "F8_E4M3", vec![1, 130], vec![0; 130]),
                (&name, dtype, vec![1, 2], bytes.clone()),
            ]);
            let matrix = checkpoint.get("w.weight").unwrap();
            let found = crate::host::scales(&checkpoint, "w.weight", matrix)
                .unwrap()
                .unwrap();
            assert_eq!(found, expected, "{dtype}");
            assert!(check_all(&checkpoint).unwrap());
        }
    }
    let nan = checkpoint_of(&[("s", "F8_E8M0", vec![2], vec![254, 255])]);
    let error = check_all(&nan).unwrap_err().to_string();
    assert!(error.contains("\"s\" holds NaN at element 1"), "{error}");
}

/// What may be split is split where it ought to be; what may not stays and is told of.
#[test]
fn fused_experts_are_split_without_a_copy() {
    let bytes: Vec<u8> = (0..24).collect();
    let fused = |dtype, shape: [usize; 3]| {
        let n = shape.iter().product();
        (
            "l.mlp.experts.gate_up_proj",
            dtype,
            shape.to_vec(),
            bytes[..n].to_vec(),
        )
    };
    let checkpoint = checkpoint_of(&[fused("F8_E4M3", [2, 4, 3])]);
    let found: Vec<_> = checkpoint
        .tensors()
        .map(|(name, t)| (name, t.shape.clone(), t.bytes().to_vec()))
        .collect();
    let part = |i: u8| (6 * i..6 * i + 6).collect::<Vec<u8>>();
    assert_eq!(
        found,
        [
            ("l.mlp.experts.0.gate_proj.weight", vec![2, 3], part(0)),
            ("l.mlp.experts.0.up_proj.weight", vec![2, 3], part(1)),
            ("l.mlp.experts.1.gate_proj.weight", vec![2, 3], part(2)),
            ("l.mlp.experts.1.up_proj.weight", vec![2, 3], part(3)),
        ]
    );
    let scales = (
        "l.mlp.experts.gate_up_proj_scale_inv",
        "F32",
        vec![2, 2, 1],
        f32s(&[1.0; 4]),
    );
    for (tensors, n) in [
        // An odd number of rows, no expert, no rows, two dimensions.
        (vec![fused("F8_E4M3", [2, 3, 4])], 1),
        (vec![fused("F8_E4M3", [0, 4, 3])], 1),
        (vec![fused("F8_E4M3", [2, 0, 3])], 1),
        (
            vec![("l.mlp.experts.down_proj", "U8", vec![6, 4], bytes.clone())],
            1,
        ),
        // A block of 128 rows holds rows of both matrices.
        (vec![fused("F8_E4M3", [2, 4, 3]), scales], 2),
    ] {
        assert_eq!(checkpoint_of(&tensors).tensors().count(), n, "{tensors:?}");
    }
}

proptest! {
    #![proptest_config(Runs {
        rng_seed: RngSeed::Fixed(32),
        failure_persistence: None,
        ..Runs::with_cases(2000)
    })]

    #[test]
    fn random_bytes_are_answered(mut bytes in prop::collection::vec(any::<u8>(), 0..200), short: bool) {
        // With a plausible length, so that the JSON is reached.
        if short && bytes.len() >= 8 {
            let n = (bytes.len() - 8) as u64 / 2;
            bytes[..8].copy_from_slice(&n.to_le_bytes());
        }
        if let Ok(entries) = read(&bytes) {
            prop_assert!(entries.iter().all(|entry| entry.range.end <= bytes.len()));
        }
    }

    /// A good file with some bytes changed or cut off: every tensor that is accepted lies within the
    /// file and is as long as its shape says.
    #[test]
    fn damaged_files_are_answered(
        changes in prop::collection::vec((0_usize..300, any::<u8>()), 0..4),
        digits in prop::collection::vec((0_usize..300, b'0'..=b'9'), 0..4),
        cut in prop::option::of(0_usize..300),
    ) {
        let mut bytes = file_of(&[
            ("a", "F32", vec![3, 2], f32s(&[1.0; 6])),
            ("b", "F8_E4M3", vec![5], vec![1; 5]),
            ("c", "BF16", vec![2, 1], vec![2; 4]),
        ]);
        for (at, byte) in changes.into_iter().chain(digits) {
            let n = bytes.len();
            bytes[at % n] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut);
        }
        for entry in read(&bytes).unwrap_or_default() {
            prop_assert!(entry.range.end <= bytes.len());
            let bits = entry.shape.iter().product::<usize>() * entry.dtype.bits();
            prop_assert_eq!(entry.range.len() * 8, bits);
        }
    }
}
