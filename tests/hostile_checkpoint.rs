//! Checkpoints, configs and prompts that are not as they should be: an error that names the thing,
//! never a panic.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use engine::{Checkpoint, Device, Error, Model, Session, SessionOptions};
use proptest::prelude::*;
use proptest::test_runner::{Config as Runs, RngSeed};
use serde_json::{Map, json};

use crate::embedded::{leaked, load};
use crate::fixture;
use crate::rewrite::{File, INDEX, WEIGHTS, configure, copy_of, logits, rewrite, write};

/// What is told when the folder is opened as a model.
fn told(what: &str, folder: &Path) -> String {
    let opened = catch_unwind(AssertUnwindSafe(|| Model::open(folder, &Device::cpu())));
    match opened {
        Ok(Err(error)) => error.to_string(),
        Ok(Ok(_)) => panic!("{what}: was accepted"),
        Err(_) => panic!("{what}: panicked"),
    }
}

/// Checks that the same files in the program are refused in the same words, where there are such.
fn check_embedded(what: &str, folder: &Path, told_of_folder: &str) {
    let Some(files) = leaked(folder) else {
        return;
    };
    let loaded = catch_unwind(AssertUnwindSafe(|| load(files, &Device::cpu())));
    let told = match loaded {
        Ok(Err(error)) => error.to_string(),
        Ok(Ok(_)) => panic!("{what}, embedded: was accepted"),
        Err(_) => panic!("{what}, embedded: panicked"),
    };
    let expected = told_of_folder.replace(&format!("{}/", folder.display()), "embedded ");
    assert_eq!(told, expected, "{what}");
}

/// What is wrong, with which fixture, how it is made, what the error has to contain.
type Case = (
    &'static str,
    &'static str,
    fn(&Path),
    &'static [&'static str],
);

const GATE_PROJ: &str = "model.layers.0.mlp.gate_proj.weight";
const O_PROJ: &str = "model.layers.1.self_attn.o_proj.weight";

const CASES: &[Case] = &[
    (
        "no weights",
        "v32-bf16",
        |folder| std::fs::remove_file(folder.join(WEIGHTS)).unwrap(),
        &[WEIGHTS, INDEX],
    ),
    (
        "no config",
        "v32-bf16",
        |folder| std::fs::remove_file(folder.join("config.json")).unwrap(),
        &["config.json"],
    ),
    (
        "a cut file",
        "v32-bf16",
        |folder| {
            let bytes = std::fs::read(folder.join(WEIGHTS)).unwrap();
            write(folder, WEIGHTS, &bytes[..bytes.len() - 1]);
        },
        &[WEIGHTS, "ends at offset", "cut off"],
    ),
    (
        "a file cut within its header",
        "v32-bf16",
        |folder| {
            let bytes = std::fs::read(folder.join(WEIGHTS)).unwrap();
            write(folder, WEIGHTS, &bytes[..1000]);
        },
        &[WEIGHTS, "but only 992 follow", "cut off"],
    ),
    (
        "a header beyond the file",
        "v32-bf16",
        |folder| {
            let mut bytes = std::fs::read(folder.join(WEIGHTS)).unwrap();
            bytes[..8].copy_from_slice(&90_000_000_u64.to_le_bytes());
            write(folder, WEIGHTS, bytes);
        },
        &[WEIGHTS, "claims a header of 90000000 bytes"],
    ),
    (
        "a header of absurd length",
        "v32-bf16",
        |folder| {
            let mut bytes = std::fs::read(folder.join(WEIGHTS)).unwrap();
            bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
            write(folder, WEIGHTS, bytes);
        },
        &[WEIGHTS, "18446744073709551615", "at most 100000000"],
    ),
    (
        "overlapping tensors",
        "v32-bf16",
        |folder| {
            rewrite(folder, |file| {
                let offsets = file.header["lm_head.weight"]["data_offsets"].clone();
                file.header["model.embed_tokens.weight"]["data_offsets"] = offsets;
            });
        },
        &[
            WEIGHTS,
            "model.embed_tokens.weight",
            "overlaps tensor \"lm_head.weight\"",
        ],
    ),
    (
        "a tensor beyond the data",
        "v32-bf16",
        |folder| {
            rewrite(folder, |file| {
                file.header[GATE_PROJ]["data_offsets"] =
                    json!([1_u64 << 40, (1_u64 << 40) + 10240]);
            });
        },
        &[
            WEIGHTS,
            GATE_PROJ,
            "ends at offset 1099511638016",
            "is it cut off",
        ],
    ),
    (
        "a tensor that is shorter than its shape",
        "v32-bf16",
        |folder| {
            rewrite(folder, |file| {
                file.header[GATE_PROJ]["shape"] = json!([80, 65])
            })
        },
        &[
            WEIGHTS,
            GATE_PROJ,
            "holds 10240 bytes",
            "BF16 [80, 65] takes 10400",
        ],
    ),
    (
        "a shape that overflows",
        "v32-bf16",
        |folder| {
            let vast = json!([u64::MAX, u64::MAX, 2]);
            rewrite(folder, |file| file.header[GATE_PROJ]["shape"] = vast);
        },
        &[WEIGHTS, GATE_PROJ, "more than 2^64 bits"],
    ),
    (
        "an unknown type",
        "v32-bf16",
        |folder| {
            rewrite(folder, |file| {
                file.header[GATE_PROJ]["dtype"] = json!("BF17")
            })
        },
        &[WEIGHTS, GATE_PROJ, "BF17"],
    ),
    (
        "a type that weights cannot have",
        "v32-bf16",
        |folder| {
            rewrite(folder, |file| {
                file.header[GATE_PROJ]["dtype"] = json!("I16")
            })
        },
        &[
            GATE_PROJ,
            "is stored as I16, expected F32, F16, BF16 or F8_E4M3",
        ],
    ),
    (
        "a transposed matrix",
        "v32-bf16",
        |folder| {
            rewrite(folder, |file| {
                file.header[GATE_PROJ]["shape"] = json!([64, 80])
            })
        },
        &[GATE_PROJ, "has shape [64, 80], expected [80, 64]"],
    ),
    (
        "missing, surplus and misshapen tensors at once",
        "v32-bf16",
        |folder| {
            rewrite(folder, |file| {
                file.remove("model.norm.weight");
                file.remove("model.layers.2.mlp.experts.7.up_proj.weight");
                file.header[GATE_PROJ]["shape"] = json!([64, 80]);
                file.add("model.layers.0.mlp.gate_proj.bias", "F32", &[2], &[0; 8]);
                file.add(
                    "model.layers.1.mlp.experts.8.up_proj.weight",
                    "F32",
                    &[1],
                    &[0; 4],
                );
            });
        },
        &[
            "5 problem(s)",
            "missing tensor \"model.norm.weight\", expected with shape [64]",
            "missing tensor \"model.layers.2.mlp.experts.7.up_proj.weight\"",
            "has shape [64, 80]",
            "surplus tensor \"model.layers.0.mlp.gate_proj.bias\", F32 [2]",
            "surplus tensor \"model.layers.1.mlp.experts.8.up_proj.weight\"",
        ],
    ),
    (
        "half an MTP layer",
        "v32-bf16",
        |folder| rewrite(folder, |file| file.remove("model.layers.3.eh_proj.weight")),
        &[
            "1 problem(s)",
            "missing tensor \"model.layers.3.eh_proj.weight\"",
        ],
    ),
    (
        "the weights of a wider model",
        "v32-bf16",
        |folder| configure(folder, json!({"hidden_size": 128})),
        &[
            "\"model.embed_tokens.weight\" with shape [128, 64]",
            "[vocab_size, hidden_size] is [128, 128]",
        ],
    ),
    (
        "the weights of a deeper model",
        "v32-bf16",
        |folder| configure(folder, json!({"num_hidden_layers": 5})),
        &["holds nothing of layer 4, but num_hidden_layers is 5"],
    ),
    (
        "NaN in BF16",
        "v32-bf16",
        |folder| rewrite(folder, |file| file.poke(O_PROJ, 777, &[0xc0, 0x7f])),
        &[O_PROJ, "holds NaN at element 777"],
    ),
    (
        "infinity in a norm",
        "v32-bf16",
        |folder| {
            rewrite(folder, |file| {
                file.poke("model.norm.weight", 63, &f32::NEG_INFINITY.to_le_bytes());
            });
        },
        &["model.norm.weight", "holds -inf at element 63"],
    ),
    (
        "NaN in FP8",
        "v32-fp8",
        |folder| rewrite(folder, |file| file.poke(O_PROJ, 24_575, &[0x7f])),
        &[O_PROJ, "holds NaN at element 24575"],
    ),
    (
        "the other NaN in FP8",
        "v32-fp8",
        |folder| rewrite(folder, |file| file.poke(O_PROJ, 0, &[0xff])),
        &[O_PROJ, "holds NaN at element 0"],
    ),
    (
        "NaN in a scale",
        "v32-fp8",
        |folder| {
            rewrite(folder, |file| {
                file.poke(&format!("{O_PROJ}_scale_inv"), 1, &f32::NAN.to_le_bytes());
            });
        },
        &[O_PROJ, "_scale_inv", "holds NaN at element 1"],
    ),
    (
        "FP8 without scales",
        "v32-fp8",
        |folder| rewrite(folder, |file| file.remove(&format!("{O_PROJ}_scale_inv"))),
        &["missing tensor", O_PROJ, "_scale_inv", "[1, 2]", "is FP8"],
    ),
    (
        "scales of another block size",
        "v32-fp8",
        |folder| {
            rewrite(folder, |file| {
                let name = format!("{O_PROJ}_scale_inv");
                file.remove(&name);
                file.add(&name, "F32", &[2, 3], &[0; 24]);
            });
        },
        &[
            O_PROJ,
            "_scale_inv",
            "is F32 [2, 3], expected F32, BF16 or F8_E8M0 [1, 2]",
        ],
    ),
    (
        "scales for a matrix that is not FP8",
        "v32-bf16",
        |folder| {
            rewrite(folder, |file| {
                file.add(&format!("{O_PROJ}_scale_inv"), "F32", &[1, 1], &[0; 4]);
            });
        },
        &["surplus tensor", O_PROJ, "_scale_inv", "stored as BF16"],
    ),
    (
        "an index without its shards",
        "v32-bf16",
        |folder| {
            std::fs::rename(folder.join(WEIGHTS), folder.join("b.safetensors")).unwrap();
            let map = json!({"lm_head.weight": "c.safetensors", "a": "a.safetensors", "b": "b.safetensors"});
            write(folder, INDEX, json!({"weight_map": map}).to_string());
        },
        &[
            INDEX,
            "2 are not there: \"a.safetensors\", \"c.safetensors\"",
        ],
    ),
    (
        "an index that names what a shard lacks",
        "v32-bf16",
        |folder| {
            std::fs::rename(folder.join(WEIGHTS), folder.join("b.safetensors")).unwrap();
            let map = json!({"lm_head.weight": "b.safetensors", "nowhere": "b.safetensors"});
            write(folder, INDEX, json!({"weight_map": map}).to_string());
        },
        &[INDEX, "\"nowhere\"", "b.safetensors"],
    ),
    (
        "an index that leads out of its folder",
        "v32-bf16",
        |folder| {
            std::fs::remove_file(folder.join(WEIGHTS)).unwrap();
            let map = json!({"lm_head.weight": "../../model.safetensors"});
            write(folder, INDEX, json!({"weight_map": map}).to_string());
        },
        &[INDEX, "../../model.safetensors"],
    ),
    (
        "an unknown model",
        "v32-bf16",
        |folder| configure(folder, json!({"model_type": "deepseek_v9"})),
        &["model_type", "deepseek_v9", "deepseek_v32", "kimi_k2"],
    ),
    (
        "groups that do not divide the experts",
        "v32-bf16",
        |folder| configure(folder, json!({"n_group": 3})),
        &["n_group", "is 3", "n_routed_experts 8"],
    ),
    (
        "a size that is no number",
        "v32-bf16",
        |folder| configure(folder, json!({"kv_lora_rank": "thirty-two"})),
        &["kv_lora_rank", "thirty-two"],
    ),
    (
        "sizes beyond memory",
        "v32-bf16",
        |folder| {
            configure(
                folder,
                json!({"vocab_size": i32::MAX, "hidden_size": 1 << 30}),
            )
        },
        &["hidden_size", "2147483648"],
    ),
    (
        "NaN in the config",
        "v32-bf16",
        |folder| {
            let text = std::fs::read_to_string(folder.join("config.json")).unwrap();
            write(folder, "config.json", text.replace("1e-06", "NaN"));
        },
        &["config.json", "rms_norm_eps", "NaN"],
    ),
    (
        "ten megabytes of garbage for a config",
        "v32-bf16",
        |folder| {
            let mut state = 1_u32;
            let mut byte = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            };
            let garbage: Vec<u8> = (0..10 << 20).map(|_| byte()).collect();
            write(folder, "config.json", garbage);
        },
        &["config.json", "10485760 bytes"],
    ),
    (
        "a config of brackets",
        "v32-bf16",
        |folder| write(folder, "config.json", "[".repeat(1 << 20)),
        &["config.json", "recursion limit"],
    ),
    (
        "a broken generation_config.json",
        "v32-bf16",
        |folder| {
            write(
                folder,
                "generation_config.json",
                "{\"eos_token_id\": [1, 128]}",
            )
        },
        &["generation_config.json", "eos_token_id", "128"],
    ),
];

#[test]
fn every_hostile_checkpoint_gets_an_answer_that_names_the_thing() {
    for (what, name, change, texts) in CASES {
        let folder = copy_of(name);
        change(folder.path());
        let told = told(what, folder.path());
        for text in *texts {
            assert!(
                told.contains(text),
                "{what}: {told:?} ought to contain {text:?}"
            );
        }
        check_embedded(what, folder.path(), &told);
    }
}

#[test]
fn an_empty_folder_and_no_folder_are_answered() {
    let folder = tempfile::tempdir().unwrap();
    assert!(told("an empty folder", folder.path()).contains("config.json"));
    let error = Checkpoint::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains(WEIGHTS) && error.contains(INDEX), "{error}");
    assert!(told("no folder", &folder.path().join("nowhere")).contains("nowhere"));
}

#[test]
fn a_file_cut_anywhere_is_answered() {
    let folder = copy_of("v32-bf16");
    let bytes = std::fs::read(folder.path().join(WEIGHTS)).unwrap();
    for n in (0..16).chain((16..bytes.len()).step_by(20_011)) {
        write(folder.path(), WEIGHTS, &bytes[..n]);
        let told = told("a cut file", folder.path());
        assert!(told.contains(WEIGHTS), "{n}: {told}");
        check_embedded("a cut file", folder.path(), &told);
    }
}

#[test]
fn shards_give_the_logits_of_the_single_file() {
    for name in ["v32-bf16", "v32-fp8"] {
        let folder = copy_of(name);
        let whole = logits(folder.path());
        let file = File::read(folder.path());
        std::fs::remove_file(folder.path().join(WEIGHTS)).unwrap();
        let mut map = Map::new();
        for shard in 0..3 {
            // Scales and matrices, gates and experts land apart.
            let in_shard = |name: &str| name.bytes().map(usize::from).sum::<usize>() % 3 == shard;
            let part = file.part(in_shard);
            let shard = format!("model-{shard}-of-3.safetensors");
            part.write(&folder.path().join(&shard));
            map.extend(part.header.keys().map(|name| (name.clone(), json!(shard))));
        }
        write(folder.path(), INDEX, json!({"weight_map": map}).to_string());
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        assert_eq!(checkpoint.n_bytes(), file.data.len() as u64);
        assert_eq!(logits(folder.path()), whole, "{name}");

        // The order of tensors in a file does not matter either.
        let mut turned = File {
            header: Map::new(),
            data: Vec::new(),
        };
        let names: Vec<_> = file
            .header
            .keys()
            .filter(|name| *name != "__metadata__")
            .collect();
        for name in names.into_iter().rev() {
            let part = file.part(|other| other == name);
            let shape: Vec<usize> =
                serde_json::from_value(part.header[name]["shape"].clone()).unwrap();
            turned.add(
                name,
                part.header[name]["dtype"].as_str().unwrap(),
                &shape,
                &part.data,
            );
        }
        turned.write(&folder.path().join(WEIGHTS));
        assert_eq!(logits(folder.path()), whole, "{name}");
    }
}

#[test]
fn a_checkpoint_without_its_mtp_layer_or_its_copies_gives_the_same_logits() {
    let folder = copy_of("v32-bf16");
    let whole = logits(folder.path());
    let file = File::read(folder.path());
    let copies = [
        "model.layers.3.embed_tokens.weight",
        "model.layers.3.shared_head.head.weight",
    ];
    file.part(|name| !copies.contains(&name))
        .write(&folder.path().join(WEIGHTS));
    assert_eq!(logits(folder.path()), whole);
    assert!(
        Model::open(folder.path(), &Device::cpu())
            .unwrap()
            .has_mtp()
    );
    let no_mtp = |name: &str| !name.starts_with("model.layers.3.");
    file.part(no_mtp).write(&folder.path().join(WEIGHTS));
    assert_eq!(logits(folder.path()), whole);
    assert!(
        !Model::open(folder.path(), &Device::cpu())
            .unwrap()
            .has_mtp()
    );
}

#[test]
fn prompts_that_cannot_be_fed_are_answered_before_anything_is_computed() {
    let model = Arc::new(Model::open(&fixture("v32-bf16"), &Device::cpu()).unwrap());
    let context = model.config().max_position_embeddings;
    let mut session = Session::new(model, SessionOptions::default()).unwrap();
    assert!(matches!(session.advance(&[]), Err(Error::EmptyPrompt)));
    for id in [128, u32::MAX] {
        let error = session.advance(&[1, 2, id]).unwrap_err();
        assert!(matches!(error, Error::UnknownToken { id: found, vocab_size: 128 } if found == id));
        assert!(error.to_string().contains(&id.to_string()));
    }
    // Computing these would take minutes.
    let error = session.advance(&vec![1; context + 1]).unwrap_err();
    assert!(matches!(error, Error::ContextFull { position: 0, .. }));
    assert!(
        error.to_string().contains("163841 tokens do not fit"),
        "{error}"
    );
    assert_eq!(session.position(), 0);
    session.advance(&[1, 2]).unwrap();
    let error = session.advance(&vec![1; context - 1]).unwrap_err();
    assert!(
        matches!(error, Error::ContextFull { position: 2, .. }),
        "{error}"
    );
    assert_eq!(session.tokens(), [1, 2]);
}

proptest! {
    #![proptest_config(Runs {
        rng_seed: RngSeed::Fixed(32),
        failure_persistence: None,
        ..Runs::with_cases(128)
    })]

    /// Some bytes of the header changed at random: opened or refused, never a panic.
    #[test]
    fn damaged_headers_are_answered(
        changes in prop::collection::vec((0_usize..16_000, prop_oneof![any::<u8>(), b'0'..=b'9']), 1..4),
    ) {
        let folder = copy_of("v32-bf16");
        let mut bytes = std::fs::read(folder.path().join(WEIGHTS)).unwrap();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        write(folder.path(), WEIGHTS, bytes);
        if let Err(error) = Model::open(folder.path(), &Device::cpu()) {
            prop_assert!(!error.to_string().is_empty());
        }
    }
}
