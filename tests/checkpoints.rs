//! Checkpoints as they lie about. What other programs write is loaded and gives the logits of the plain
//! fixture, bit by bit, or is refused in one sentence that names the cause; so is a folder that holds
//! no checkpoint at all.

use std::path::Path;
use std::sync::Arc;

use engine::device::list;
use engine::{Checkpoint, Config, Device, Error, Model, Session, SessionOptions, Source};
use serde_json::{Value, json};

use crate::rewrite::{File, INDEX, WEIGHTS, configure, copy_of, logits, rewrite, write};
use crate::{fixture, fixtures};

/// Experts in one tensor a layer, as transformers 5 saves them: `gate_up_proj` and `down_proj`.
fn fuse(file: &mut File) {
    let ending = ".mlp.experts.0.gate_proj.weight";
    let names = file.names();
    for layer in names.iter().filter_map(|name| name.strip_suffix(ending)) {
        let experts = (0..).take_while(|expert| {
            names.contains(&format!("{layer}.mlp.experts.{expert}.gate_proj.weight"))
        });
        let experts: Vec<usize> = experts.collect();
        for (fused, parts) in [
            ("gate_up_proj", &["gate_proj", "up_proj"][..]),
            ("down_proj", &["down_proj"]),
        ] {
            for suffix in ["", "_scale_inv"] {
                let (mut dtype, mut shape, mut all) = (String::new(), Vec::new(), Vec::new());
                for expert in &experts {
                    for part in parts {
                        let name = format!("{layer}.mlp.experts.{expert}.{part}.weight{suffix}");
                        if names.contains(&name) {
                            let (of, [rows, cols], bytes) = {
                                let (dtype, shape, bytes) = file.take(&name);
                                (dtype, [shape[0], shape[1]], bytes)
                            };
                            dtype = of;
                            shape = vec![experts.len(), parts.len() * rows, cols];
                            all.extend(bytes);
                        }
                    }
                }
                if !all.is_empty() {
                    file.add(
                        &format!("{layer}.mlp.experts.{fused}{suffix}"),
                        &dtype,
                        &shape,
                        &all,
                    );
                }
            }
        }
    }
}

/// Every scale in another type, a byte or two of the power of two that it is in `f32`, and under
/// another ending.
fn restore_scales(file: &mut File, dtype: &str, ending: &str, convert: fn(u32) -> Vec<u8>) {
    let names = file.names();
    for matrix in names
        .iter()
        .filter_map(|name| name.strip_suffix("_scale_inv"))
    {
        let (_, shape, bytes) = file.take(&format!("{matrix}_scale_inv"));
        let bits = bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|word| u32::from_le_bytes(*word));
        let bytes: Vec<u8> = bits.flat_map(convert).collect();
        file.add(&format!("{matrix}{ending}"), dtype, &shape, &bytes);
    }
}

/// MTP layer 3 of the fixture once more, as layer 4.
fn second_mtp(file: &mut File) {
    for name in file.names() {
        if let Some(rest) = name.strip_prefix("model.layers.3.") {
            let (dtype, shape, bytes) = file.take(&name);
            for name in [name.clone(), format!("model.layers.4.{rest}")] {
                file.add(&name, &dtype, &shape, &bytes);
            }
        }
    }
}

fn take_key(folder: &Path, key: &str) {
    let text = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    config.as_object_mut().unwrap().shift_remove(key).unwrap();
    write(folder, "config.json", config.to_string());
}

fn quantization(folder: &Path, says: Value) {
    configure(folder, json!({"quantization_config": says}));
}

/// What lies there, as which fixture, how it is made, and what is noted of it.
type Load = (
    &'static str,
    &'static str,
    fn(&Path),
    &'static [&'static str],
);

const LAYER_3: &str = "MTP in layer 3 is passed over: by the config, 0 such layers are used";

const LOADS: &[Load] = &[
    (
        "MTP, counted 0",
        "v32-bf16",
        |folder| configure(folder, json!({"num_nextn_predict_layers": 0})),
        &[LAYER_3],
    ),
    (
        "MTP, counted null",
        "v3-mtp",
        |folder| configure(folder, json!({"num_nextn_predict_layers": null})),
        &[LAYER_3],
    ),
    (
        "MTP, not counted",
        "glm-dsa",
        |folder| take_key(folder, "num_nextn_predict_layers"),
        &[LAYER_3],
    ),
    (
        "MTP, more than are stored",
        "v3-mtp",
        |folder| configure(folder, json!({"num_nextn_predict_layers": 3})),
        &[],
    ),
    (
        "two MTP layers",
        "v32-bf16",
        |folder| {
            configure(folder, json!({"num_nextn_predict_layers": 2}));
            rewrite(folder, second_mtp);
        },
        &["MTP in layer 4 is passed over: by the config, 1 such layers are used"],
    ),
    (
        "two MTP layers, none counted",
        "v32-f32",
        |folder| {
            configure(folder, json!({"num_nextn_predict_layers": 0}));
            rewrite(folder, second_mtp);
        },
        &["MTP in layer 3, 4 is passed over: by the config, 0 such layers are used"],
    ),
    (
        "NaN in an MTP layer that is not used",
        "v32-bf16",
        |folder| {
            configure(folder, json!({"num_nextn_predict_layers": 0}));
            rewrite(folder, |file| {
                file.poke("model.layers.3.eh_proj.weight", 0, &[0xc0, 0x7f])
            });
        },
        &[LAYER_3],
    ),
    (
        "scales in BF16",
        "v32-fp8",
        |folder| {
            rewrite(folder, |file| {
                restore_scales(file, "BF16", "_scale_inv", |bits| {
                    bits.to_le_bytes()[2..].to_vec()
                })
            });
        },
        &[],
    ),
    (
        "scales in E8M0",
        "v32-fp8",
        |folder| {
            rewrite(folder, |file| {
                restore_scales(file, "F8_E8M0", "_scale_inv", |bits| {
                    vec![(bits >> 23) as u8]
                })
            });
        },
        &[],
    ),
    (
        "scales under the name of compressed-tensors",
        "v32-fp8",
        |folder| {
            quantization(
                folder,
                json!({"quant_method": "compressed-tensors", "format": "float-quantized"}),
            );
            rewrite(folder, |file| {
                restore_scales(file, "F32", "_scale", |bits| bits.to_le_bytes().to_vec())
            });
        },
        &[],
    ),
    (
        "FP8 that the config is silent of",
        "v32-fp8",
        |folder| take_key(folder, "quantization_config"),
        &[],
    ),
    (
        "no FP8, but in the config",
        "v32-bf16",
        |folder| {
            quantization(
                folder,
                json!({"quant_method": "fp8", "weight_block_size": [64, 64]}),
            )
        },
        &[],
    ),
    (
        "an empty quantization_config",
        "v32-bf16",
        |folder| quantization(folder, json!({})),
        &[],
    ),
    (
        "a left-over of bitsandbytes",
        "v32-bf16",
        |folder| {
            quantization(
                folder,
                json!({"quant_method": "bitsandbytes", "load_in_4bit": true}),
            )
        },
        &[],
    ),
    (
        "a left-over of compressed-tensors",
        "v2-lite",
        |folder| quantization(folder, json!({"quant_method": "compressed-tensors"})),
        &[],
    ),
    (
        "a left-over without a method",
        "moonlight",
        |folder| quantization(folder, json!({"bits": 4, "group_size": 64})),
        &[],
    ),
];

#[test]
fn what_other_programs_write_gives_the_logits_of_the_plain_checkpoint() {
    for (what, name, change, notes) in LOADS {
        let folder = copy_of(name);
        let plain = logits(folder.path());
        change(folder.path());
        assert_eq!(logits(folder.path()), plain, "{what}");
        let model = Model::open(folder.path(), &Device::cpu()).unwrap();
        assert_eq!(model.notes(), *notes, "{what}");
        let has_mtp = Model::open(&fixture(name), &Device::cpu())
            .unwrap()
            .has_mtp();
        assert_eq!(
            model.has_mtp(),
            has_mtp && model.config().num_nextn_predict_layers > 0,
            "{what}"
        );
    }
}

#[test]
fn fused_experts_of_every_kind_give_the_logits_of_the_plain_checkpoint() {
    for plain in fixtures() {
        let name = plain.file_name().unwrap().to_str().unwrap();
        let folder = copy_of(name);
        rewrite(folder.path(), fuse);
        assert!(
            !File::read(folder.path())
                .names()
                .iter()
                .any(|name| name.contains("experts.0."))
        );
        assert_eq!(logits(folder.path()), logits(&plain), "{name}");
    }
}

#[test]
fn a_tied_head_may_be_stored_if_it_is_the_table() {
    let folder = copy_of("v32-bf16");
    configure(folder.path(), json!({"tie_word_embeddings": true}));
    let table = "model.embed_tokens.weight";
    let mut file = File::read(folder.path());
    file.remove("lm_head.weight");
    file.write(&folder.path().join(WEIGHTS));
    let tied = logits(folder.path());
    let bytes = file.data[file.range(table)].to_vec();
    file.add("lm_head.weight", "BF16", &[128, 64], &bytes);
    file.write(&folder.path().join(WEIGHTS));
    assert_eq!(logits(folder.path()), tied);
    let model = Model::open(folder.path(), &Device::cpu()).unwrap();
    assert_eq!(
        model.notes(),
        ["lm_head.weight repeats the embedding table and is not used"]
    );
}

/// On every device, since each loads its weights in a way of its own.
#[test]
fn every_device_loads_them() {
    let folder = copy_of("v32-fp8");
    rewrite(folder.path(), |file| {
        restore_scales(file, "F8_E8M0", "_scale_inv", |bits| {
            vec![(bits >> 23) as u8]
        });
        fuse(file);
    });
    let plain = copy_of("v32-fp8");
    for info in list() {
        let device = Device::open(Some(&info.id)).unwrap();
        let logits = |folder: &Path| {
            let model = Arc::new(Model::open(folder, &device).unwrap());
            let mut session = Session::new(model, SessionOptions::default()).unwrap();
            session.advance(&[5, 99, 3, 127, 0, 41]).unwrap()
        };
        assert_eq!(logits(folder.path()), logits(plain.path()), "{}", info.id);
    }
}

fn rename(file: &mut File, new: impl Fn(&str) -> String) {
    for name in file.names() {
        let (dtype, shape, bytes) = file.take(&name);
        file.add(&new(&name), &dtype, &shape, &bytes);
    }
}

/// Every matrix of the layers in words, with companions under these endings.
fn pack(file: &mut File, ending: &str, companions: &[&str]) {
    for name in file.names() {
        if let Some(module) = name.strip_suffix("_proj.weight") {
            file.remove(&name);
            file.add(&format!("{module}_proj{ending}"), "I32", &[2, 2], &[0; 16]);
            for companion in companions {
                file.add(&format!("{module}_proj{companion}"), "F16", &[1], &[0; 2]);
            }
        }
    }
}

/// What lies there, as which fixture, how it is made, what the sentence has to say.
type Refusal = (
    &'static str,
    &'static str,
    fn(&Path),
    &'static [&'static str],
);

const REFUSALS: &[Refusal] = &[
    (
        "AWQ",
        "v32-bf16",
        |folder| {
            quantization(folder, json!({"quant_method": "awq", "bits": 4}));
            rewrite(folder, |file| {
                pack(file, ".qweight", &[".qzeros", ".scales"])
            });
        },
        &["AWQ or GPTQ", ".qzeros", "quant_method is \"awq\""],
    ),
    (
        "GPTQ",
        "v3-mtp",
        |folder| {
            rewrite(folder, |file| {
                pack(file, ".qweight", &[".g_idx", ".scales"])
            })
        },
        &["AWQ or GPTQ"],
    ),
    (
        "bitsandbytes",
        "v2-lite",
        |folder| {
            rewrite(folder, |file| {
                pack(file, ".weight", &[".weight.absmax", ".weight.quant_map"])
            })
        },
        &["bitsandbytes"],
    ),
    (
        "bitsandbytes in 8 bits",
        "v2-lite",
        |folder| rewrite(folder, |file| pack(file, ".weight", &[".SCB"])),
        &["8 bits (bitsandbytes)"],
    ),
    (
        "compressed-tensors",
        "v32-bf16",
        |folder| {
            rewrite(folder, |file| {
                pack(file, ".weight_packed", &[".weight_scale", ".weight_shape"])
            })
        },
        &["compressed-tensors"],
    ),
    (
        "NVFP4",
        "v32-bf16",
        |folder| {
            write(folder, "hf_quant_config.json", "{}");
            rewrite(folder, |file| {
                pack(
                    file,
                    ".weight",
                    &[".weight_scale", ".weight_scale_2", ".input_scale"],
                )
            });
        },
        &["NVFP4", "take the checkpoint it was made from"],
    ),
    (
        "MLX",
        "v32-bf16",
        |folder| {
            quantization(folder, json!({"group_size": 64, "bits": 4}));
            rewrite(folder, |file| {
                pack(file, ".weight", &[".scales", ".biases"])
            });
        },
        &["MLX", "quant_method is missing"],
    ),
    (
        "FP8 with one scale a tensor",
        "v32-fp8",
        |folder| {
            rewrite(folder, |file| {
                for name in file.names() {
                    if let Some(matrix) = name.strip_suffix("_scale_inv") {
                        file.remove(&name);
                        file.add(&format!("{matrix}_scale"), "F32", &[], &[0; 4]);
                        file.add(
                            &matrix.replace(".weight", ".input_scale"),
                            "F32",
                            &[],
                            &[0; 4],
                        );
                    }
                }
            })
        },
        &["one factor a tensor", "input_scale"],
    ),
    (
        "FP8 with one scale a row",
        "v32-fp8",
        |folder| {
            rewrite(folder, |file| {
                for name in file.names() {
                    if let Some(matrix) = name.strip_suffix("_scale_inv") {
                        file.remove(&name);
                        let rows = file.header[matrix]["shape"][0].as_u64().unwrap() as usize;
                        file.add(&name, "BF16", &[rows, 1], &vec![0; 2 * rows]);
                    }
                }
            })
        },
        &[
            "1]",
            "expected F32, BF16 or F8_E8M0",
            "one factor for a block of 128 × 128",
            "more like it",
        ],
    ),
    (
        "FP8 in blocks of 64, as the config says",
        "v32-fp8",
        |folder| {
            quantization(
                folder,
                json!({"quant_method": "fp8", "weight_block_size": [64, 64]}),
            );
        },
        &[
            "FP8 weights that cannot be used",
            "weight_block_size is [64,64], expected [128, 128]",
        ],
    ),
    (
        "a tied head of its own",
        "v32-bf16",
        |folder| configure(folder, json!({"tie_word_embeddings": true})),
        &[
            "tie_word_embeddings",
            "lm_head.weight",
            "with false the stored head is used",
        ],
    ),
    (
        "names of DeepSeek's inference code",
        "v32-bf16",
        |folder| {
            rewrite(folder, |file| {
                rename(file, |name| {
                    name.replace("model.", "")
                        .replace("embed_tokens", "embed")
                        .replace("lm_head", "head")
                        .replace("self_attn", "attn")
                        .replace("mlp", "ffn")
                })
            })
        },
        &[
            "DeepSeek's inference code",
            "\"embed.weight\"",
            "Hugging Face",
        ],
    ),
    (
        "names of Mistral's code",
        "v2-lite",
        |folder| {
            rewrite(folder, |file| {
                rename(file, |name| {
                    name.replace("model.embed_tokens", "tok_embeddings")
                })
            })
        },
        &["Mistral's", "tok_embeddings.weight"],
    ),
    (
        "a part of a larger model",
        "v32-bf16",
        |folder| {
            rewrite(folder, |file| {
                rename(file, |name| format!("language_model.{name}"))
            })
        },
        &["begin with \"language_model.\"", "the language model alone"],
    ),
    (
        "a decoder without its head",
        "v32-bf16",
        |folder| {
            rewrite(folder, |file| {
                rename(file, |name| name.replace("model.", ""))
            })
        },
        &["without its head", "\"embed_tokens.weight\""],
    ),
    (
        "fused experts the other way round",
        "v32-bf16",
        |folder| {
            rewrite(folder, |file| {
                fuse(file);
                for name in file
                    .names()
                    .iter()
                    .filter(|name| name.ends_with("gate_up_proj"))
                {
                    let (dtype, shape, bytes) = file.take(name);
                    // Rows that are no pairs of matrices.
                    file.add(name, &dtype, &[shape[0], 1, shape[1] * shape[2]], &bytes);
                }
            })
        },
        &[
            "experts fused in",
            "gate_up_proj\" [8, 1, 4096]",
            "2 × moe_intermediate_size",
        ],
    ),
    (
        "experts fused and alone",
        "v32-bf16",
        |folder| {
            let alone = File::read(folder);
            rewrite(folder, |file| {
                fuse(file);
                let name = "model.layers.1.mlp.experts.0.down_proj.weight";
                file.add(name, "BF16", &[64, 32], &alone.data[alone.range(name)]);
            });
        },
        &["twice", "model.layers.1.mlp.experts.0.down_proj.weight"],
    ),
    (
        "an old file beside a new index",
        "v32-bf16",
        |folder| {
            std::fs::rename(folder.join(WEIGHTS), folder.join("new.safetensors")).unwrap();
            let file = File::read(&copy_of("v2-lite").path().join("."));
            file.write(&folder.join(WEIGHTS));
            let map = json!({"weight_map": {"lm_head.weight": "new.safetensors"}});
            write(folder, INDEX, map.to_string());
        },
        &[WEIGHTS, INDEX, "is older, move it away"],
    ),
];

fn error(what: &str, folder: &Path) -> Error {
    match Model::open(folder, &Device::cpu()) {
        Err(error) => error,
        Ok(_) => panic!("{what}: was accepted"),
    }
}

fn check_sentence(what: &str, told: &str, texts: &[&str]) {
    for text in texts {
        assert!(
            told.contains(text),
            "{what}: {told:?} ought to contain {text:?}"
        );
    }
    assert!(told.len() < 900, "{what}: {told}");
}

#[test]
fn what_cannot_be_loaded_is_told_in_one_sentence() {
    for (what, name, change, texts) in REFUSALS {
        let folder = copy_of(name);
        change(folder.path());
        let told = error(what, folder.path()).to_string();
        check_sentence(what, &told, texts);
        // Not a list of tensors; one of the table is a kind of misfit with a line of its own.
        assert!(told.lines().count() <= 2, "{what}: {told}");
    }
}

#[test]
fn a_config_of_another_model_makes_a_short_list() {
    let list = "does not fit its config";
    for (name, changes, text) in [
        (
            "v32-bf16",
            json!({"hidden_size": 128}),
            "is [128, 128]: config.json is another model's",
        ),
        (
            "v32-bf16",
            json!({"num_hidden_layers": 60}),
            "nothing of layer 4",
        ),
        (
            "v32-bf16",
            json!({"n_routed_experts": 256, "n_group": 8}),
            list,
        ),
        ("v3-mtp", json!({"q_lora_rank": null}), list),
        (
            "v32-fp8",
            json!({"kv_lora_rank": 512, "vocab_size": 99}),
            list,
        ),
        ("v32-bf16", json!({"vocab_size": 99}), list),
        ("glm-dsa", json!({"moe_intermediate_size": 48}), list),
    ] {
        let folder = copy_of(name);
        configure(folder.path(), changes.clone());
        let told = error(name, folder.path()).to_string();
        assert!(told.lines().count() <= 12, "{changes}: {told}");
        assert!(
            told.starts_with(&folder.path().join(WEIGHTS).display().to_string()),
            "{told}"
        );
        assert!(told.contains(text), "{changes}: {told}");
    }
}

#[test]
fn an_index_that_is_not_read_is_named() {
    let folder = copy_of("v32-bf16");
    let map = json!({"weight_map": {"a": "a.safetensors"}}).to_string();
    write(folder.path(), INDEX, map);
    // Both lie there, and the one that is read fits.
    assert_eq!(logits(folder.path()), logits(&fixture("v32-bf16")));
    configure(folder.path(), json!({"vocab_size": 99}));
    let told = error("two", folder.path()).to_string();
    let index = folder.path().join(INDEX);
    assert!(told.contains(WEIGHTS), "{told}");
    let unread = format!("{}, which lies beside it, is not read", index.display());
    assert!(told.contains(&unread), "{told}");
}

/// The pointer that Git leaves where LFS is not installed.
const POINTER: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 4302348960\n";

fn without_weights(folder: &Path, file: &str) {
    let path = folder.join(file);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::rename(folder.join(WEIGHTS), path).unwrap();
}

/// What lies there, how it is made of a copy of a fixture, the path below it that is opened, and what the
/// sentence has to say.
type Wrong = (
    &'static str,
    fn(&Path),
    &'static str,
    &'static [&'static str],
);

const WRONG: &[Wrong] = &[
    (
        "a pointer as weights",
        |folder| write(folder, WEIGHTS, POINTER),
        "",
        &[WEIGHTS, "Git LFS pointer", "git lfs pull"],
    ),
    (
        "a pointer as the config",
        |folder| write(folder, "config.json", POINTER),
        "",
        &["config.json", "Git LFS pointer"],
    ),
    (
        "a pointer as the index",
        |folder| {
            without_weights(folder, "a.safetensors");
            write(folder, INDEX, POINTER);
        },
        "",
        &[INDEX, "Git LFS pointer"],
    ),
    (
        "a pointer as a shard",
        |folder| {
            std::fs::remove_file(folder.join(WEIGHTS)).unwrap();
            write(folder, "a.safetensors", POINTER);
            write(
                folder,
                INDEX,
                json!({"weight_map": {"a": "a.safetensors"}}).to_string(),
            );
        },
        "",
        &["a.safetensors", "Git LFS pointer"],
    ),
    (
        "a pointer as generation_config.json",
        |folder| write(folder, "generation_config.json", POINTER),
        "",
        &["generation_config.json", "Git LFS pointer"],
    ),
    (
        "a web page as weights",
        |folder| write(folder, WEIGHTS, "<!DOCTYPE html><html>not found</html>"),
        "",
        &[WEIGHTS, "is a web page"],
    ),
    (
        "a GGUF under another name",
        |folder| write(folder, WEIGHTS, b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0"),
        "",
        &[WEIGHTS, "GGUF"],
    ),
    (
        "PyTorch's file under another name",
        |folder| write(folder, WEIGHTS, b"PK\x03\x04aaaaaaaaaaaaaaaa"),
        "",
        &[WEIGHTS, "PyTorch"],
    ),
    ("nothing", |_| {}, "nowhere", &["nowhere: is not there"]),
    (
        "the weights in place of their folder",
        |_| {},
        WEIGHTS,
        &["is a file, expected the folder", ": give "],
    ),
    (
        "the config in place of its folder",
        |_| {},
        "config.json",
        &["is a file, expected the folder", ": give "],
    ),
    (
        "a GGUF in place of a folder",
        |folder| write(folder, "q4.gguf", b"GGUF\x03\0\0\0"),
        "q4.gguf",
        &["is a GGUF file"],
    ),
    (
        "the root of a repository in the cache",
        |folder| {
            for snapshot in ["aaa", "bbb"] {
                std::fs::create_dir_all(folder.join("hub/snapshots").join(snapshot)).unwrap();
                write(
                    folder,
                    &format!("hub/snapshots/{snapshot}/config.json"),
                    "{}",
                );
            }
            std::fs::create_dir_all(folder.join("hub/refs")).unwrap();
            write(folder, "hub/refs/main", "bbb");
        },
        "hub",
        &["root of a repository", "snapshots/bbb does: give that"],
    ),
    (
        "a folder above",
        |folder| {
            std::fs::create_dir_all(folder.join("all/model")).unwrap();
            write(folder, "all/model/config.json", "{}");
        },
        "all",
        &["holds no config.json, but", "model does: give that"],
    ),
    (
        "no config",
        |folder| std::fs::remove_file(folder.join("config.json")).unwrap(),
        "",
        &["holds no config.json, expected the folder of a checkpoint"],
    ),
    (
        "no config, a GGUF",
        |folder| {
            std::fs::create_dir(folder.join("g")).unwrap();
            write(folder, "g/model-q4.gguf", b"GGUF");
        },
        "g",
        &[
            "holds no config.json",
            "it holds model-q4.gguf: GGUF is not read",
        ],
    ),
    (
        "no config, an adapter",
        |folder| {
            std::fs::create_dir(folder.join("g")).unwrap();
            write(folder, "g/adapter_config.json", "{}");
            write(folder, "g/adapter_model.safetensors", "");
        },
        "g",
        &["it holds adapter_model.safetensors: an adapter (LoRA)"],
    ),
    (
        "the config of DeepSeek's inference code",
        |folder| {
            write(
                folder,
                "config.json",
                "{\"vocab_size\": 129280, \"dim\": 7168, \"n_layers\": 61}",
            )
        },
        "",
        &[
            "model_type",
            "is missing",
            "a config of DeepSeek's inference code",
        ],
    ),
    (
        "shards without their index",
        |folder| {
            without_weights(folder, "model-00001-of-00002.safetensors");
            write(folder, "model-00002-of-00002.safetensors", "");
        },
        "",
        &[
            "model-00001-of-00002.safetensors and 1 more: shards without their index",
            INDEX,
        ],
    ),
    (
        "the output of convert.py",
        |folder| without_weights(folder, "model0-mp8.safetensors"),
        "",
        &["model0-mp8.safetensors", "convert.py"],
    ),
    (
        "consolidated.safetensors",
        |folder| without_weights(folder, "consolidated.safetensors"),
        "",
        &["consolidated.safetensors", "Mistral's"],
    ),
    (
        "weights under another name",
        |folder| without_weights(folder, "weights.safetensors"),
        "",
        &["weights.safetensors: expected it under the name model.safetensors"],
    ),
    (
        "PyTorch's shards",
        |folder| {
            without_weights(folder, "pytorch_model-00001-of-00002.bin");
            write(folder, "pytorch_model.bin.index.json", "{}");
        },
        "",
        &[
            "pytorch_model-00001-of-00002.bin: files of PyTorch",
            "save_pretrained",
        ],
    ),
    (
        "a .pth",
        |folder| without_weights(folder, "consolidated.00.pth"),
        "",
        &["consolidated.00.pth"],
    ),
    (
        "a GGUF beside the config",
        |folder| without_weights(folder, "model-q4.gguf"),
        "",
        &["model-q4.gguf: GGUF is not read"],
    ),
    (
        "an unfinished download",
        |folder| without_weights(folder, ".cache/huggingface/download/x.abc.incomplete"),
        "",
        &[
            "holds neither",
            "x.abc.incomplete: the download is unfinished",
        ],
    ),
    (
        "an unfinished download of a browser",
        |folder| without_weights(folder, "model.safetensors.crdownload"),
        "",
        &["model.safetensors.crdownload: the download is unfinished"],
    ),
    (
        "an unfinished download of shards",
        |folder| {
            without_weights(folder, "a.safetensors");
            write(folder, "b.incomplete", "");
            let map: serde_json::Map<_, _> = (0..200)
                .map(|i| (i.to_string(), json!(format!("{i}.safetensors"))))
                .collect();
            write(folder, INDEX, json!({"weight_map": map}).to_string());
        },
        "",
        &[
            "names 200 shards, of which 200 are not there: \"0.safetensors\", \"1.safetensors\", \"10.safetensors\", …; it holds b.incomplete",
        ],
    ),
];

#[test]
fn a_wrong_folder_is_diagnosed() {
    for (what, change, below, texts) in WRONG {
        let folder = copy_of("v32-bf16");
        change(folder.path());
        let path = if below.is_empty() {
            folder.path().to_owned()
        } else {
            folder.path().join(below)
        };
        let told = error(what, &path).to_string();
        check_sentence(what, &told, texts);
        assert_eq!(told.lines().count(), 1, "{what}: {told}");
        assert!(!told.contains("os error"), "{what}: {told}");
    }
}

#[cfg(unix)]
#[test]
fn links_that_lead_nowhere_are_named() {
    use std::os::unix::fs::symlink;
    for name in [
        "config.json",
        WEIGHTS,
        INDEX,
        "a.safetensors",
        "tokenizer.json",
        "itself",
    ] {
        let folder = copy_of("v32-bf16");
        let mut path = folder.path().to_owned();
        if [INDEX, "a.safetensors"].contains(&name) {
            std::fs::remove_file(folder.path().join(WEIGHTS)).unwrap();
            write(
                folder.path(),
                INDEX,
                json!({"weight_map": {"a": "a.safetensors"}}).to_string(),
            );
        }
        let _ = std::fs::remove_file(folder.path().join(name));
        symlink("../../blobs/4d7a2146", folder.path().join(name)).unwrap();
        let told = match name {
            "tokenizer.json" => Source::from(path.as_path()).tokenizer().unwrap_err(),
            _ => {
                if name == "itself" {
                    path = path.join(name);
                }
                error(name, &path)
            }
        };
        let told = told.to_string();
        check_sentence(
            name,
            &told,
            &[
                name,
                "is a link to ../../blobs/4d7a2146, which is not there",
            ],
        );
        assert_eq!(told.lines().count(), 1, "{told}");
    }
}

#[test]
fn a_tokenizer_of_another_kind_is_named() {
    let folder = copy_of("v32-bf16");
    let source = Source::from(folder.path());
    assert!(source.tokenizer().unwrap().is_none());
    assert!(source.no_tokenizer().ends_with("holds no tokenizer.json"));
    write(folder.path(), "tiktoken.model", "");
    assert!(
        source
            .no_tokenizer()
            .contains("no tokenizer.json, but tiktoken.model, which is of another kind")
    );
    for (start, text) in [(POINTER, "Git LFS pointer"), ("<html>", "web page")] {
        write(folder.path(), "tokenizer.json", start);
        let told = source.tokenizer().err().unwrap().to_string();
        check_sentence(start, &told, &["tokenizer.json", text]);
    }
}

/// What a user types who takes the path for a repository, in a folder that has no such.
#[test]
fn the_name_of_a_repository_is_known() {
    for (given, is_known) in [
        ("deepseek-ai/DeepSeek-V2-Lite", true),
        ("https://huggingface.co/deepseek-ai/DeepSeek-V2-Lite", true),
        ("./deepseek-ai/DeepSeek-V2-Lite", false),
        ("deepseek-ai/DeepSeek-V2-Lite/main", false),
        ("../nowhere", false),
        ("nowhere", false),
    ] {
        for told in [
            Config::open(given.as_ref()).unwrap_err().to_string(),
            Checkpoint::open(given.as_ref()).unwrap_err().to_string(),
        ] {
            let download = "hf download deepseek-ai/DeepSeek-V2-Lite --local-dir";
            assert_eq!(told.contains(download), is_known, "{told}");
            assert!(told.starts_with(given), "{told}");
            assert_eq!(told.contains("is not there"), !is_known, "{told}");
        }
    }
}
