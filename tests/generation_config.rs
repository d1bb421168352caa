//! `generation_config.json`, of a folder and of a model in the program.

use std::fmt;

use engine::generation_config::SamplingDefaults;
use engine::sampler::SamplerOptions;
use engine::{Config, Embedded, Error, Result, Source};
use serde_json::json;

const FILE: &str = "generation_config.json";

/// What is made of a folder with this file, and the same of a model in the program with it.
fn both<T: PartialEq + fmt::Debug>(
    text: Option<&str>,
    read: impl Fn(&Source) -> Result<T>,
) -> std::result::Result<T, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE);
    if let Some(text) = text {
        std::fs::write(&path, text).unwrap();
    }
    let files = Embedded {
        config: b"",
        generation_config: text.unwrap_or("{}").to_owned().leak().as_bytes(),
        tokenizer: b"",
        weights: b"",
    };
    let read = |source: Source, name: &str| {
        let told = |error: Error| error.to_string().replace(name, "FILE");
        read(&source).map_err(told)
    };
    let of_folder = read(folder.path().into(), &path.display().to_string());
    let inside = Source::Embedded(Box::leak(Box::new(files)));
    let inside = read(inside, "embedded generation_config.json");
    assert_eq!(of_folder, inside, "{text:?}");
    inside
}

#[test]
fn ids_that_end_a_text_come_from_both_files() {
    let tiny = concat!(env!("CARGO_MANIFEST_DIR"), "/models/tiny");
    let config = Config::open(tiny.as_ref()).unwrap();
    let ids = |text| both(text, |source| source.eos_token_ids(&config));
    assert_eq!(ids(None).unwrap(), [1]);
    assert_eq!(ids(Some("{}")).unwrap(), [1]);
    assert_eq!(
        ids(Some("\u{FEFF}{\"eos_token_id\": 5}\r\n")).unwrap(),
        [1, 5]
    );
    assert_eq!(
        ids(Some("{\"eos_token_id\": [5, 1, 0, 5]}")).unwrap(),
        [1, 5, 0]
    );
    for (text, part) in [
        (
            "{\"eos_token_id\": 4096}",
            "key \"eos_token_id\" holds 4096, expected token ids below vocab_size 4096",
        ),
        ("{\"eos_token_id\": \"</s>\"}", "</s>"),
        ("[", "is not JSON"),
        ("[]", "expected a JSON object"),
        ("", "is not JSON"),
    ] {
        let error = ids(Some(text)).unwrap_err();
        assert!(
            error.starts_with("FILE: ") && error.contains(part),
            "{error}"
        );
    }
}

#[test]
fn the_makers_advice_is_taken_as_far_as_it_goes() {
    let read = |text| both(text, Source::sampling_defaults);
    let none = SamplingDefaults::default();
    let with = |temperature, top_p| SamplingDefaults {
        temperature,
        top_p,
        ..none.clone()
    };
    let all = SamplingDefaults {
        temperature: Some(0.6),
        top_p: Some(0.95),
        top_k: Some(20),
        min_p: Some(0.05),
        repetition_penalty: Some(1.1),
    };
    for (text, expected, shown) in [
        (None, none.clone(), ""),
        (Some("{}"), none.clone(), ""),
        (
            Some("\u{FEFF}{\"temperature\": 1,\r\n\"top_p\": null}"),
            with(Some(1.0), None),
            "temperature 1",
        ),
        (
            Some(r#"{"do_sample": true, "top_p": 0.9}"#),
            with(None, Some(0.9)),
            "top-p 0.9",
        ),
        (
            Some(r#"{"do_sample": false, "temperature": 0.6}"#),
            with(Some(0.0), None),
            "temperature 0",
        ),
        (
            Some(r#"{"temperature": 0.0}"#),
            with(Some(0.0), None),
            "temperature 0",
        ),
        (
            Some(
                r#"{"temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": 0.05, "repetition_penalty": 1.1,
                     "max_new_tokens": 5, "transformers_version": "5.0"}"#,
            ),
            all,
            "temperature 0.6, top-p 0.95, top-k 20, min-p 0.05, repetition-penalty 1.1",
        ),
    ] {
        let found = read(text).unwrap();
        assert_eq!((found.to_string().as_str(), &found), (shown, &expected));
    }
    let options = with(Some(0.0), None).options();
    assert!(options.is_greedy() && options.top_p == SamplerOptions::default().top_p);
}

#[test]
fn advice_that_cannot_be_taken_is_one_error() {
    for (key, value, problem) in [
        (
            "temperature",
            json!("0.6"),
            "is \"0.6\", expected a finite number",
        ),
        ("temperature", json!(-1), "is -1, expected a number from 0"),
        ("top_p", json!(0), "is 0, expected a number above 0 to 1"),
        (
            "top_p",
            json!(1.5),
            "is 1.5, expected a number above 0 to 1",
        ),
        ("top_p", json!([0.9]), "is [0.9], expected a finite number"),
        (
            "top_k",
            json!(-1),
            "is -1, expected a whole number of 0 to 2147483647",
        ),
        (
            "top_k",
            json!(2.5),
            "is 2.5, expected a whole number of 0 to 2147483647",
        ),
        ("min_p", json!(2), "is 2, expected a number from 0 to 1"),
        (
            "repetition_penalty",
            json!(0),
            "is 0, expected a number above 0",
        ),
        (
            "do_sample",
            json!("no"),
            "is \"no\", expected true or false",
        ),
    ] {
        let text = json!({ key: value }).to_string();
        let error = both(Some(&text), Source::sampling_defaults).unwrap_err();
        assert_eq!(error, format!("FILE: key {key:?} {problem}"));
    }
}
