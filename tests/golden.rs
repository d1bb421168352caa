//! Every fixture against its oracle, on every device.
//!
//! On the CPU logits must be within 1e-4 and sets equal wherever the recorded gap exceeds 1e-5; wgpu
//! adapters get the wider number tolerance of `Tolerance::GPU` and the same rule for sets.

use std::collections::BTreeMap;

use engine::device::{DeviceKind, list};
use engine::model::ForwardOptions;
use engine::verify::{Report, verify};
use engine::{Device, Error};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::{fixtures, found};

/// Chunks that do not divide the prompts (64 and 40 tokens), and one-shot.
const CHUNKS: &[usize] = &[4096, 7];

fn check(device: &Device, chunk: usize, forward: &ForwardOptions) {
    for folder in fixtures() {
        let report = verify(&folder, device, chunk, forward).unwrap();
        assert_ok(&report);
    }
}

fn assert_ok(report: &Report) {
    assert!(
        !report.stages.is_empty(),
        "{}: nothing was compared",
        report.folder
    );
    if let Some(stage) = report.first_off() {
        panic!(
            "{} on {}: first stage off is {stage:#?}",
            report.folder, report.device
        );
    }
}

#[test]
fn the_cpu_gives_what_the_oracle_gives() {
    for &chunk in CHUNKS {
        check(&Device::cpu(), chunk, &ForwardOptions::default());
    }
}

#[test]
fn the_cpu_gives_it_in_the_expanded_form_too() {
    check(
        &Device::cpu(),
        4096,
        &ForwardOptions {
            mha_prefill: true,
            ..ForwardOptions::default()
        },
    );
}

#[test]
fn the_portable_bodies_give_what_the_oracle_gives() {
    for name in ["portable", "portable-f64"] {
        check(
            &Device::open(Some(name)).unwrap(),
            4096,
            &ForwardOptions::default(),
        );
    }
    let portable = Device::open(Some("portable")).unwrap();
    check(
        &portable,
        7,
        &ForwardOptions {
            mha_prefill: true,
            ..ForwardOptions::default()
        },
    );
}

#[test]
fn every_wgpu_adapter_gives_what_the_oracle_gives() {
    let adapters = list()
        .into_iter()
        .filter(|info| !matches!(info.kind, DeviceKind::Cpu | DeviceKind::Reference));
    for info in found(adapters.collect()) {
        check(
            &Device::open(Some(&info.id)).unwrap(),
            4096,
            &ForwardOptions::default(),
        );
    }
}

#[test]
fn a_wrong_answer_is_found_and_its_first_stage_named() {
    // Dense attention where the oracle was sparse: the selections are the first thing off.
    let folder = crate::fixture("v32-f32");
    let dense = ForwardOptions {
        dense: true,
        ..ForwardOptions::default()
    };
    let report = verify(&folder, &Device::cpu(), 4096, &dense).unwrap();
    let stage = report.first_off().unwrap();
    assert_eq!(stage.name, "prefill.layer0.topk");
    assert!(
        stage
            .differing
            .iter()
            .any(|difference| difference.counts && !difference.surplus.is_empty())
    );
}

#[test]
fn a_folder_without_an_oracle_is_an_error_that_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let error = verify(
        folder.path(),
        &Device::cpu(),
        4096,
        &ForwardOptions::default(),
    )
    .unwrap_err();
    assert!(matches!(error, Error::Io { .. }));
    assert!(error.to_string().contains("oracle.json"), "{error}");
}

#[test]
fn an_oracle_of_wrong_shapes_is_an_error_that_names_the_tensor() {
    let folder = tempfile::tempdir().unwrap();
    let good = crate::fixture("v3-mtp");
    for name in ["config.json", "model.safetensors", "oracle.json"] {
        std::fs::copy(good.join(name), folder.path().join(name)).unwrap();
    }
    let bytes = std::fs::read(good.join("oracle.safetensors")).unwrap();
    let oracle = SafeTensors::deserialize(&bytes).unwrap();
    let i32s = |n: usize| (Dtype::I32, vec![0; 4 * n]);
    let f32s = |n: usize| (Dtype::F32, vec![0; 4 * n]);
    for (broken, shape, (dtype, data)) in [
        ("layer0.index_scores", vec![6], f32s(6)),
        ("layer0.index_scores", vec![3, 2], f32s(6)),
        ("layer0.topk", vec![2, 0], i32s(0)),
        ("layer1.expert_idx", vec![6], i32s(6)),
        ("decode.logits", vec![6], f32s(6)),
        ("decode.ids", vec![1], i32s(1)),
        ("mtp.next_ids", vec![2], i32s(2)),
    ] {
        let mut tensors: BTreeMap<String, TensorView> = oracle
            .iter()
            .map(|(name, view)| (name.to_owned(), view))
            .collect();
        let view = TensorView::new(dtype, shape, &data).unwrap();
        tensors.insert(broken.to_owned(), view);
        let path = folder.path().join("oracle.safetensors");
        safetensors::serialize_to_file(tensors, None, &path).unwrap();
        let options = ForwardOptions::default();
        let error = verify(folder.path(), &Device::cpu(), 4096, &options).unwrap_err();
        assert!(matches!(error, Error::BadFile { .. }), "{error}");
        assert!(error.to_string().contains(broken), "{error}");
    }
}
