//! Devices that are opened more than once: an adapter is opened the first time and handed out again.

use std::sync::Arc;

use engine::device::{DeviceKind, list};
use engine::{Device, Model, Session, SessionOptions};

use crate::fixture;

fn adapters() -> Vec<String> {
    let all = list().into_iter();
    let gpus = all.filter(|info| !matches!(info.kind, DeviceKind::Cpu | DeviceKind::Reference));
    let ids: Vec<_> = gpus.map(|info| info.id).collect();
    assert!(
        !ids.is_empty(),
        "no wgpu adapter found, expected at least software Vulkan"
    );
    ids
}

/// A device opened anew, a model loaded onto it, and what it answers.
fn load(id: &str) -> (Session, Vec<u32>) {
    let device = Device::open(Some(id)).unwrap();
    let model = Arc::new(Model::open(&fixture("v32-fp8"), &device).unwrap());
    let mut session = Session::new(model, SessionOptions::default()).unwrap();
    let logits = session.advance(&[5, 99, 3, 127, 0, 41]).unwrap();
    (
        session,
        logits.iter().map(|logit| logit.to_bits()).collect(),
    )
}

/// Every device has threads of its own, of the driver and of the runtime.
#[cfg(target_os = "linux")]
#[test]
fn loading_again_opens_no_further_device() {
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    for id in adapters() {
        // What starts with the first launches has started after two.
        let expected = load(&id).1;
        assert_eq!(load(&id).1, expected);
        let before = threads();
        for _ in 0..5 {
            assert_eq!(load(&id).1, expected, "{id}");
        }
        assert_eq!(threads(), before, "{id}");
    }
}

#[test]
fn two_models_share_a_device() {
    for id in adapters() {
        let (mut one, expected) = load(&id);
        let (two, logits) = load(&id);
        assert_eq!(logits, expected, "{id}");
        // Opening gave back what no model holds, and only that.
        one.rewind(0).unwrap();
        drop(two);
        Device::open(Some(&id)).unwrap();
        let logits = one.advance(&[5, 99, 3, 127, 0, 41]).unwrap();
        let bits: Vec<u32> = logits.iter().map(|logit| logit.to_bits()).collect();
        assert_eq!(bits, expected, "{id}");
    }
}
