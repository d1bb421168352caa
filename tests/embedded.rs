//! A model in the program: the files of a folder as static bytes, through the same checks. What is
//! told of damaged ones is compared in [`crate::hostile_checkpoint`].

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use engine::device::list;
use engine::model::{LoadOptions, Model};
use engine::{Checkpoint, Device, Embedded, Session, SessionOptions, Source};
use serde_json::json;

use crate::{fixture, fixtures};

/// The folder's files as those of a model in the program; `None` where the config or the one file of
/// weights is not there as a plain file.
pub fn leaked(folder: &Path) -> Option<&'static Embedded> {
    let read = |file: &str| -> Option<&'static [u8]> {
        let path = folder.join(file);
        path.is_file()
            .then(|| &*std::fs::read(path).unwrap().leak())
    };
    Some(Box::leak(Box::new(Embedded {
        config: read("config.json")?,
        generation_config: read("generation_config.json").unwrap_or(b"{}"),
        tokenizer: b"",
        weights: read("model.safetensors")?,
    })))
}

pub fn load(files: &'static Embedded, device: &Device) -> engine::Result<Model> {
    let go_on = &mut |_| ControlFlow::Continue(());
    let loaded = Model::load_embedded(files, device, LoadOptions::default(), go_on)?;
    Ok(loaded.expect("nobody broke off"))
}

fn logits(model: Model) -> Vec<u32> {
    let mut session = Session::new(Arc::new(model), SessionOptions::default()).unwrap();
    let prompt: Vec<u32> = (0..40).map(|i| (i * 37 + 11) % 128).collect();
    let logits = session.advance(&prompt).unwrap();
    logits.iter().map(|logit| logit.to_bits()).collect()
}

#[test]
fn a_model_in_the_program_gives_the_logits_of_its_folder() {
    for folder in fixtures() {
        let of_folder = Model::open(&folder, &Device::cpu()).unwrap();
        let inside = load(leaked(&folder).unwrap(), &Device::cpu()).unwrap();
        assert_eq!(inside.eos_token_ids(), of_folder.eos_token_ids());
        assert_eq!(inside.has_mtp(), of_folder.has_mtp());
        assert_eq!(inside.resident_bytes(), of_folder.resident_bytes());
        assert_eq!(logits(inside), logits(of_folder), "{}", folder.display());
    }
}

#[test]
fn it_does_so_on_every_device() {
    let folder = fixture("v32-fp8");
    let files = leaked(&folder).unwrap();
    for info in list() {
        let device = Device::open(Some(&info.id)).unwrap();
        let inside = logits(load(files, &device).unwrap());
        let of_folder = logits(Model::open(&folder, &device).unwrap());
        assert_eq!(inside, of_folder, "{}", info.id);
    }
}

// A linker may put bytes anywhere, a map begins at a page.
#[test]
fn the_bytes_may_start_at_any_address() {
    let folder = fixture("v32-f32");
    let files = leaked(&folder).unwrap();
    let expected = logits(Model::open(&folder, &Device::cpu()).unwrap());
    for shift in 1..4 {
        let shifted = [&vec![0; shift][..], files.weights].concat().leak();
        let shifted = Box::leak(Box::new(Embedded {
            weights: &shifted[shift..],
            ..*files
        }));
        assert_eq!(logits(load(shifted, &Device::cpu()).unwrap()), expected);
    }
}

#[test]
fn ids_that_end_a_text_come_from_both_files() {
    let files = leaked(&fixture("v32-f32")).unwrap();
    let with = |text: &'static str| {
        let files = Box::leak(Box::new(Embedded {
            generation_config: text.as_bytes(),
            ..*files
        }));
        let source = Source::Embedded(files);
        source.eos_token_ids(&source.config().unwrap())
    };
    assert_eq!(with("{}").unwrap(), [1]);
    assert_eq!(with("{\"eos_token_id\": [7, 1]}").unwrap(), [1, 7]);
    for text in ["", "[]", "{\"eos_token_id\": 128}"] {
        let error = with(text).unwrap_err().to_string();
        assert!(
            error.starts_with("embedded generation_config.json: "),
            "{error}"
        );
    }
}

#[test]
fn its_tokenizer_is_read_and_refused_as_that_of_a_folder() {
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let good = json!({
        "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": byte_level,
        "post_processor": null, "decoder": byte_level,
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]},
    });
    let good = good.to_string();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    let read = |text: &str| {
        std::fs::write(&path, text).unwrap();
        let of_folder = Source::from(folder.path()).tokenizer();
        let inside = Source::Embedded(Box::leak(Box::new(Embedded {
            tokenizer: text.to_owned().leak().as_bytes(),
            ..*leaked(&fixture("v32-f32")).unwrap()
        })));
        (inside.tokenizer(), of_folder)
    };
    let (inside, of_folder) = read(&good);
    let (inside, of_folder) = (inside.unwrap().unwrap(), of_folder.unwrap().unwrap());
    assert_eq!(inside.encode("abba").unwrap(), [2, 1, 0]);
    assert_eq!(of_folder.encode("abba").unwrap(), [2, 1, 0]);
    for text in ["", "{", &good.replace("\"b\":1", "\"b\":4294967295")] {
        let (inside, of_folder) = read(text);
        let expected = of_folder.unwrap_err().to_string();
        let expected = expected.replace(&path.display().to_string(), "embedded tokenizer.json");
        assert_eq!(inside.unwrap_err().to_string(), expected);
    }
}

#[test]
fn what_is_printed_for_debugging_leaves_the_bytes_out() {
    let files = leaked(&fixture("v32-f32")).unwrap();
    assert!(format!("{:?}", Source::Embedded(files)).len() < 100);
    let checkpoint = Checkpoint::from_static(files).unwrap();
    let norm = checkpoint.get("model.norm.weight").unwrap();
    assert!(format!("{norm:?}").len() < 200, "{norm:?}");
}
