//! Configs of the family and broken ones. Expected numbers are those of the published configs and
//! checkpoints, from spec section 1.2.

#![allow(clippy::unwrap_used, reason = "a test may fail by panic")]

use proptest::prelude::*;
use proptest::test_runner::{Config as Runs, RngSeed};
use serde_json::{Value, json};

use super::*;

/// A column of the family table as its `config.json`.
struct Column {
    config: Value,
    softmax_scale: f64,
    /// Parameters, with the MTP layer if `with_mtp`; copies and scales not counted.
    parameters: u128,
    with_mtp: bool,
}

/// Sizes in the order of the table's rows.
struct Rows {
    model_type: &'static str,
    vocab: usize,
    hidden: usize,
    dense: usize,
    expert: usize,
    layers: usize,
    heads: usize,
    q_lora_rank: Value,
    dims: [usize; 3],
    routed_top_shared: [usize; 3],
    first_k_dense: usize,
    groups: [usize; 2],
    routed_scaling: f64,
    eps: f64,
    rope_theta: f64,
    yarn: Value,
    positions: usize,
    mtp: usize,
}

impl Rows {
    fn json(self) -> Value {
        let [dn, dr, dv] = self.dims;
        let [routed, top, shared] = self.routed_top_shared;
        json!({
            "model_type": self.model_type,
            "vocab_size": self.vocab,
            "hidden_size": self.hidden,
            "intermediate_size": self.dense,
            "moe_intermediate_size": self.expert,
            "num_hidden_layers": self.layers,
            "num_nextn_predict_layers": self.mtp,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "q_lora_rank": self.q_lora_rank,
            "kv_lora_rank": 512,
            "qk_nope_head_dim": dn,
            "qk_rope_head_dim": dr,
            "v_head_dim": dv,
            "n_routed_experts": routed,
            "num_experts_per_tok": top,
            "n_shared_experts": shared,
            "first_k_dense_replace": self.first_k_dense,
            "moe_layer_freq": 1,
            "n_group": self.groups[0],
            "topk_group": self.groups[1],
            "scoring_func": "sigmoid",
            "topk_method": "noaux_tc",
            "norm_topk_prob": true,
            "routed_scaling_factor": self.routed_scaling,
            "hidden_act": "silu",
            "attention_bias": false,
            "rms_norm_eps": self.eps,
            "rope_theta": self.rope_theta,
            "rope_scaling": self.yarn,
            "max_position_embeddings": self.positions,
            "tie_word_embeddings": false,
            "bos_token_id": 0,
            "eos_token_id": 1,
        })
    }
}

fn yarn(factor: f64, beta_fast: f64, mscale: f64) -> Value {
    json!({
        "type": "yarn", "factor": factor, "original_max_position_embeddings": 4096,
        "beta_fast": beta_fast, "beta_slow": 1, "mscale": mscale, "mscale_all_dim": mscale,
    })
}

fn with(mut config: Value, changes: Value) -> Value {
    let Value::Object(changes) = changes else {
        panic!("changes are an object")
    };
    config.as_object_mut().unwrap().extend(changes);
    config
}

fn v3_json() -> Value {
    Rows {
        model_type: "deepseek_v3",
        vocab: 129280,
        hidden: 7168,
        dense: 18432,
        expert: 2048,
        layers: 61,
        heads: 128,
        q_lora_rank: json!(1536),
        dims: [128, 64, 128],
        routed_top_shared: [256, 8, 1],
        first_k_dense: 3,
        groups: [8, 4],
        routed_scaling: 2.5,
        eps: 1e-6,
        rope_theta: 1e4,
        yarn: yarn(40.0, 32.0, 1.0),
        positions: 163_840,
        mtp: 1,
    }
    .json()
}

fn v32_json() -> Value {
    let indexer = json!({
        "model_type": "deepseek_v32",
        "index_n_heads": 64, "index_head_dim": 128, "index_topk": 2048,
        "quantization_config": {
            "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
            "weight_block_size": [128, 128], "scale_fmt": "ue8m0",
        },
    });
    with(v3_json(), indexer)
}

fn v2_lite_json() -> Value {
    let config = Rows {
        model_type: "deepseek_v2",
        vocab: 102_400,
        hidden: 2048,
        dense: 10944,
        expert: 1408,
        layers: 27,
        heads: 16,
        q_lora_rank: Value::Null,
        dims: [128, 64, 128],
        routed_top_shared: [64, 6, 2],
        first_k_dense: 1,
        groups: [1, 1],
        routed_scaling: 1.0,
        eps: 1e-6,
        rope_theta: 1e4,
        yarn: yarn(40.0, 32.0, 0.707),
        positions: 163_840,
        mtp: 0,
    };
    let gate = json!({
        "scoring_func": "softmax", "topk_method": "greedy", "norm_topk_prob": false,
        "bos_token_id": 100_000, "eos_token_id": 100_001,
    });
    with(config.json(), gate)
}

fn v2_json() -> Value {
    let config = Rows {
        model_type: "deepseek_v2",
        vocab: 102_400,
        hidden: 5120,
        dense: 12288,
        expert: 1536,
        layers: 60,
        heads: 128,
        q_lora_rank: json!(1536),
        dims: [128, 64, 128],
        routed_top_shared: [160, 6, 2],
        first_k_dense: 1,
        groups: [8, 3],
        routed_scaling: 16.0,
        eps: 1e-6,
        rope_theta: 1e4,
        yarn: yarn(40.0, 32.0, 1.0),
        positions: 163_840,
        mtp: 0,
    };
    let gate = json!({
        "scoring_func": "softmax", "topk_method": "group_limited_greedy", "norm_topk_prob": false,
    });
    with(config.json(), gate)
}

fn moonlight_json() -> Value {
    Rows {
        model_type: "deepseek_v3",
        vocab: 163_840,
        hidden: 2048,
        dense: 11264,
        expert: 1408,
        layers: 27,
        heads: 16,
        q_lora_rank: Value::Null,
        dims: [128, 64, 128],
        routed_top_shared: [64, 6, 2],
        first_k_dense: 1,
        groups: [1, 1],
        routed_scaling: 2.446,
        eps: 1e-5,
        rope_theta: 5e4,
        yarn: Value::Null,
        positions: 8192,
        mtp: 0,
    }
    .json()
}

fn kimi_json(factor: f64, positions: usize) -> Value {
    Rows {
        model_type: "kimi_k2",
        vocab: 163_840,
        hidden: 7168,
        dense: 18432,
        expert: 2048,
        layers: 61,
        heads: 64,
        q_lora_rank: json!(1536),
        dims: [128, 64, 128],
        routed_top_shared: [384, 8, 1],
        first_k_dense: 1,
        groups: [1, 1],
        routed_scaling: 2.827,
        eps: 1e-6,
        rope_theta: 5e4,
        yarn: yarn(factor, 1.0, 1.0),
        positions,
        mtp: 0,
    }
    .json()
}

/// GLM-4.7-Flash has a `model_type` of its own; its sizes are V3's kind.
fn glm_flash_json() -> Value {
    Rows {
        model_type: "deepseek_v3",
        vocab: 154_880,
        hidden: 2048,
        dense: 10240,
        expert: 1536,
        layers: 47,
        heads: 20,
        q_lora_rank: json!(768),
        dims: [192, 64, 256],
        routed_top_shared: [64, 4, 1],
        first_k_dense: 1,
        groups: [1, 1],
        routed_scaling: 1.8,
        eps: 1e-5,
        rope_theta: 1e6,
        yarn: Value::Null,
        positions: 202_752,
        mtp: 1,
    }
    .json()
}

fn glm5_json() -> Value {
    let config = Rows {
        model_type: "glm_moe_dsa",
        vocab: 154_880,
        hidden: 6144,
        dense: 12288,
        expert: 2048,
        layers: 78,
        heads: 64,
        q_lora_rank: json!(2048),
        dims: [192, 64, 256],
        routed_top_shared: [256, 8, 1],
        first_k_dense: 3,
        groups: [1, 1],
        routed_scaling: 2.5,
        eps: 1e-5,
        rope_theta: 1e6,
        yarn: Value::Null,
        positions: 202_752,
        mtp: 1,
    };
    let more = json!({
        "index_n_heads": 32, "index_head_dim": 128, "index_topk": 2048,
        "indexer_rope_interleave": true, "eos_token_id": [154_820, 154_827, 154_829],
    });
    with(config.json(), more)
}

/// Every column of the table.
fn columns() -> Vec<Column> {
    let column = |config, softmax_scale, parameters, with_mtp| Column {
        config,
        softmax_scale,
        parameters,
        with_mtp,
    };
    vec![
        column(v32_json(), 0.135_233_778_860_880_1, 671_877_944_064, false),
        column(v3_json(), 0.135_233_778_860_880_1, 671_026_419_200, false),
        column(v2_lite_json(), 0.114_721_4, 15_706_484_224, false),
        column(v2_json(), 0.135_233_8, 235_741_434_880, false),
        column(moonlight_json(), 0.072_168_8, 15_960_110_208, false),
        column(
            kimi_json(32.0, 131_072),
            0.130_860_8,
            1_026_408_232_448,
            false,
        ),
        column(
            kimi_json(64.0, 262_144),
            0.144_679_6,
            1_026_408_232_448,
            false,
        ),
        column(glm_flash_json(), 0.0625, 30_587_100_096, true),
        column(glm5_json(), 0.0625, 753_864_139_008, true),
    ]
}

fn read(config: &Value) -> Result<Config> {
    Config::from_json(&config.to_string())
}

/// Tensors of a checkpoint, and elements, with FP8 scales if the published one has them.
fn stored(config: &Config, copies: bool, fp8: bool) -> (usize, u128) {
    let whole = [
        "embed_tokens",
        "head.weight",
        "lm_head",
        "gate.weight",
        "weights_proj",
        "eh_proj",
    ];
    let (mut n, mut elements) = (0, 0);
    for spec in config.tensors(true) {
        if spec.optional && !copies {
            continue;
        }
        n += 1;
        elements += spec.n_elements();
        if fp8
            && spec.kind == TensorKind::Matrix
            && !whole.iter().any(|name| spec.name.contains(name))
        {
            n += 1;
            elements += spec
                .shape
                .iter()
                .map(|side| side.div_ceil(128) as u128)
                .product::<u128>();
        }
    }
    (n, elements)
}

#[test]
fn every_model_of_the_family_has_its_published_scale_and_size() {
    for column in columns() {
        let config = read(&column.config).unwrap();
        let found = f64::from(config.softmax_scale());
        let name = config.architecture.name();
        assert!(
            (found - column.softmax_scale).abs() < 6e-8,
            "{name}: {found}"
        );
        assert_eq!(config.rope_factor(), 1.0, "{name}");
        let specs = config.tensors(column.with_mtp);
        let own = specs.iter().filter(|spec| !spec.optional);
        let parameters: u128 = own.map(|spec| spec.n_elements()).sum();
        assert_eq!(parameters, column.parameters, "{name}");
    }
}

#[test]
fn tensors_are_as_many_as_the_published_checkpoints_hold() {
    for (json, copies, fp8, n, elements) in [
        (v32_json(), true, true, 92_425, Some(685_396_921_376)),
        (v3_json(), true, true, 91_991, Some(684_531_386_000)),
        (v2_lite_json(), false, false, 5_291, Some(15_706_484_224)),
        (glm5_json(), false, false, 59_870, Some(753_864_139_008)),
    ] {
        let found = stored(&read(&json).unwrap(), copies, fp8);
        assert_eq!(found.0, n);
        assert!(
            elements.is_none_or(|elements| elements == found.1),
            "{found:?}"
        );
    }
}

#[test]
fn tensor_names_are_unique_and_the_parts_add_up() {
    for column in columns() {
        let config = read(&column.config).unwrap();
        let specs = config.tensors(true);
        let names: std::collections::BTreeSet<_> = specs.iter().map(|spec| &spec.name).collect();
        assert_eq!(names.len(), specs.len());
        let parameters = config.parameters();
        let main: u128 = config
            .tensors(false)
            .iter()
            .map(TensorSpec::n_elements)
            .sum();
        assert_eq!(u128::from(parameters.total), main);
        assert!(parameters.active < parameters.total);
        assert!(parameters.parts.iter().all(|(part, ..)| *part != Part::Mtp));
    }
    let v32 = read(&v32_json()).unwrap().parameters();
    let indexers = v32
        .parts
        .iter()
        .find(|(part, ..)| *part == Part::Indexer)
        .unwrap();
    assert_eq!(indexers.1, 61 * 13_959_424);
    // Published as 37 B.
    assert_eq!(v32.active / 1_000_000_000, 37);
}

#[test]
fn a_token_takes_the_cache_that_the_formats_say() {
    let v32 = read(&v32_json()).unwrap();
    assert_eq!(
        v32.cache_bytes_per_token(LatentFormat::Bf16, KeyFormat::Fp8),
        61 * (1152 + 132)
    );
    assert_eq!(
        v32.cache_bytes_per_token(LatentFormat::Fp8, KeyFormat::Fp8),
        61 * (784 + 132)
    );
    assert_eq!(
        v32.cache_bytes_per_token(LatentFormat::FlashMla, KeyFormat::Fp8),
        61 * (656 + 132)
    );
    assert_eq!(
        v32.cache_bytes_per_token(LatentFormat::F32, KeyFormat::F32),
        61 * (2304 + 512)
    );
    let shared = with(
        glm5_json(),
        json!({"index_topk_freq": 4, "index_skip_topk_offset": 3}),
    );
    let shared = read(&shared).unwrap();
    let bytes = shared.cache_bytes_per_token(LatentFormat::Bf16, KeyFormat::Fp8);
    assert_eq!(bytes, 78 * 1152 + 21 * 132);
    let v3 = read(&v3_json()).unwrap();
    assert_eq!(
        v3.cache_bytes_per_token(LatentFormat::F32, KeyFormat::F32),
        61 * 2304
    );
}

#[test]
fn indexers_are_shared_by_list_by_pattern_or_by_rule() {
    let owners = |changes: Value| {
        let config = read(&with(glm5_json(), changes)).unwrap();
        (0..79)
            .filter(|&layer| config.owns_indexer(layer))
            .collect::<Vec<_>>()
    };
    // GLM-5.2: full on 0, 1, 2, 6, 10, …, 74, and on the MTP layer.
    let mut glm52 = vec![0, 1];
    glm52.extend((2..78).step_by(4));
    glm52.push(78);
    let rule = json!({"index_topk_freq": 4, "index_skip_topk_offset": 3});
    assert_eq!(owners(rule.clone()), glm52);
    let word = |layer| {
        if glm52.contains(&layer) {
            "full"
        } else {
            "shared"
        }
    };
    let words: Vec<_> = (0..78).map(word).collect();
    assert_eq!(
        owners(json!({"indexer_types": words, "index_topk_freq": 9})),
        glm52
    );
    let letters: String = words
        .iter()
        .map(|word| if *word == "full" { 'F' } else { 'S' })
        .collect();
    assert_eq!(owners(json!({"index_topk_pattern": letters})), glm52);
    assert_eq!(owners(json!({})), (0..79).collect::<Vec<_>>());
    // Without an offset it is 2, as the fixture has it.
    assert_eq!(owners(json!({"index_topk_freq": 40})), [0, 1, 41, 78]);

    let config = read(&with(glm5_json(), rule)).unwrap();
    let indexers = config.tensors(true);
    let indexers = indexers
        .iter()
        .filter(|spec| spec.name.contains("indexer.wk"));
    assert_eq!(indexers.count(), 22);
}

#[test]
fn absent_keys_mean_what_transformers_takes_them_for() {
    let without = |mut config: Value, keys: &[&str]| {
        for key in keys {
            config.as_object_mut().unwrap().shift_remove(*key);
        }
        read(&config).unwrap()
    };
    let gate = [
        "scoring_func",
        "topk_method",
        "norm_topk_prob",
        "n_group",
        "topk_group",
    ];
    assert_eq!(without(v3_json(), &gate), read(&v3_json()).unwrap());
    assert_eq!(
        without(v2_lite_json(), &gate),
        read(&v2_lite_json()).unwrap()
    );
    let more = [
        "routed_scaling_factor",
        "rms_norm_eps",
        "rope_theta",
        "moe_layer_freq",
    ];
    assert_eq!(without(v32_json(), &more), read(&v32_json()).unwrap());
    let index = [
        "index_n_heads",
        "index_head_dim",
        "index_topk",
        "indexer_rope_interleave",
    ];
    assert_eq!(without(v32_json(), &index), read(&v32_json()).unwrap());
    assert_eq!(without(glm5_json(), &index), read(&glm5_json()).unwrap());
    assert_eq!(
        without(glm5_json(), &["rms_norm_eps"]),
        read(&glm5_json()).unwrap()
    );
    let tokens = without(v3_json(), &["bos_token_id", "eos_token_id"]);
    assert_eq!((tokens.bos_token_id, tokens.eos_token_ids.len()), (None, 0));
    assert_eq!(
        without(v3_json(), &["num_nextn_predict_layers"]).num_nextn_predict_layers,
        0
    );
}

#[test]
fn the_new_rope_keys_say_the_same_as_the_old() {
    let old = read(&v3_json()).unwrap();
    let mut parameters = yarn(40.0, 32.0, 1.0);
    parameters = with(
        parameters,
        json!({"rope_type": "yarn", "rope_theta": 10000.0}),
    );
    parameters.as_object_mut().unwrap().shift_remove("type");
    let both = with(v3_json(), json!({"rope_parameters": parameters}));
    assert_eq!(read(&both).unwrap(), old);
    let mut new = both;
    new.as_object_mut().unwrap().shift_remove("rope_scaling");
    new.as_object_mut().unwrap().shift_remove("rope_theta");
    assert_eq!(read(&new).unwrap(), old);

    let plain = json!({"rope_scaling": null, "rope_theta": null,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e4}});
    assert_eq!(
        read(&with(moonlight_json(), plain)).unwrap(),
        read(&moonlight_json()).unwrap()
    );

    let factor = |changes| {
        read(&with(v3_json(), json!({"rope_scaling": changes})))
            .unwrap()
            .rope_factor()
    };
    let ln = 0.1 * 40_f64.ln();
    let bare = json!({"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096});
    assert_eq!(factor(bare.clone()), (ln + 1.0) as f32);
    assert_eq!(
        read(&with(v3_json(), json!({"rope_scaling": bare})))
            .unwrap()
            .softmax_scale(),
        192_f32.sqrt().recip()
    );
    let apart = with(yarn(40.0, 32.0, 1.0), json!({"mscale": 0.5}));
    assert_eq!(factor(apart), ((0.5 * ln + 1.0) / (ln + 1.0)) as f32);
    assert_eq!(
        factor(with(
            yarn(40.0, 32.0, 1.0),
            json!({"attention_factor": 1.25})
        )),
        1.25
    );
}

#[test]
fn dense_models_and_v2_scaling() {
    for changes in [
        json!({"n_routed_experts": null}),
        json!({"num_experts_per_tok": null}),
    ] {
        let dense = read(&with(v2_lite_json(), changes)).unwrap();
        assert!(dense.moe.is_none() && !dense.is_moe(26));
    }
    let dense = read(&with(v3_json(), json!({"first_k_dense_replace": 100}))).unwrap();
    assert!(dense.moe.is_none());

    let scaling = |config: Value, changes| {
        let moe = read(&with(config, changes)).unwrap().moe.clone().unwrap();
        (moe.norm_topk_prob, moe.routed_scaling_factor)
    };
    assert_eq!(scaling(v2_json(), json!({})), (false, 16.0));
    assert_eq!(
        scaling(v2_json(), json!({"norm_topk_prob": true})),
        (true, 1.0)
    );
    let single = json!({"norm_topk_prob": true, "num_experts_per_tok": 1});
    assert_eq!(scaling(v2_json(), single.clone()), (false, 16.0));
    assert_eq!(scaling(v3_json(), single), (true, 2.5));

    let sparse = with(
        v2_lite_json(),
        json!({"moe_layer_freq": 3, "first_k_dense_replace": 4}),
    );
    let sparse = read(&sparse).unwrap();
    assert_eq!(
        (0..14).filter(|&l| sparse.is_moe(l)).collect::<Vec<_>>(),
        [6, 9, 12]
    );
    assert!(
        read(&v32_json()).unwrap().is_moe(61),
        "the MTP layer has experts"
    );

    let mut types = vec!["dense"; 3];
    types.resize(61, "sparse");
    let mut listed = with(v3_json(), json!({"mlp_layer_types": types}));
    listed
        .as_object_mut()
        .unwrap()
        .shift_remove("first_k_dense_replace");
    assert_eq!(read(&listed).unwrap(), read(&v3_json()).unwrap());
}

#[test]
fn what_cannot_be_run_is_refused_by_name() {
    let cases: Vec<(Value, &str, &str)> = vec![
        (
            json!({"model_type": "llama"}),
            "model_type",
            "\"llama\", expected one of deepseek_v2, deepseek_v3, deepseek_v32, glm_moe_dsa, kimi_k2",
        ),
        (json!({"model_type": null}), "model_type", "is missing"),
        (json!({"model_type": 3}), "model_type", "is 3"),
        (json!({"vocab_size": 0}), "vocab_size", "is 0"),
        (json!({"hidden_size": -1}), "hidden_size", "is -1"),
        (json!({"hidden_size": "7168"}), "hidden_size", "\"7168\""),
        (json!({"hidden_size": 7168.5}), "hidden_size", "7168.5"),
        (json!({"hidden_size": null}), "hidden_size", "is missing"),
        (json!({"hidden_size": 1e30}), "hidden_size", "1e+30"),
        (
            json!({"hidden_size": 2_147_483_648_u64}),
            "hidden_size",
            "2147483648",
        ),
        (
            json!({"hidden_size": u64::MAX}),
            "hidden_size",
            "18446744073709551615",
        ),
        (
            json!({"hidden_size": 2_000_000_000}),
            "hidden_size",
            "4000000000",
        ),
        (json!({"intermediate_size": 0}), "intermediate_size", "is 0"),
        (
            json!({"num_hidden_layers": 2_000_000_000}),
            "num_hidden_layers",
            "2000000000",
        ),
        (
            json!({"num_hidden_layers": 3_000}),
            "num_hidden_layers",
            "tensors",
        ),
        (
            json!({"num_attention_heads": 0}),
            "num_attention_heads",
            "is 0",
        ),
        (
            json!({"num_attention_heads": 2_000_000_000}),
            "num_attention_heads",
            "× (qk",
        ),
        (
            json!({"kv_lora_rank": 2_147_483_647}),
            "kv_lora_rank",
            "qk_rope_head_dim",
        ),
        (
            json!({"v_head_dim": 100_000_000}),
            "num_attention_heads",
            "v_head_dim",
        ),
        (
            json!({"max_position_embeddings": 0}),
            "max_position_embeddings",
            "is 0",
        ),
        (
            json!({"max_position_embeddings": u64::MAX}),
            "max_position_embeddings",
            "1844674",
        ),
        (
            json!({"num_nextn_predict_layers": [1]}),
            "num_nextn_predict_layers",
            "[1]",
        ),
        (json!({"qk_rope_head_dim": 63}), "qk_rope_head_dim", "even"),
        (json!({"rms_norm_eps": -1e-6}), "rms_norm_eps", "-1e-6"),
        (json!({"rms_norm_eps": 0}), "rms_norm_eps", "is 0"),
        (json!({"rms_norm_eps": 1e-60}), "rms_norm_eps", "1e-60"),
        (json!({"rms_norm_eps": 1e60}), "rms_norm_eps", "1e+60"),
        (json!({"rms_norm_eps": "NaN"}), "rms_norm_eps", "\"NaN\""),
        (json!({"rope_theta": 1.0}), "rope_theta", "above 1"),
        (json!({"rope_theta": [1e4]}), "rope_theta", "[10000.0]"),
        (
            json!({"rope_interleave": false}),
            "rope_interleave",
            "is false",
        ),
        (
            json!({"partial_rotary_factor": 0.5}),
            "partial_rotary_factor",
            "0.5",
        ),
        (json!({"attention_bias": true}), "attention_bias", "is true"),
        (json!({"attention_bias": "no"}), "attention_bias", "\"no\""),
        (json!({"mlp_bias": true}), "mlp_bias", "is true"),
        (json!({"hidden_act": "gelu"}), "hidden_act", "\"gelu\""),
        (
            json!({"topk_method": "best"}),
            "topk_method",
            "greedy, group_limited_greedy, noaux_tc",
        ),
        (
            json!({"scoring_func": "relu"}),
            "scoring_func",
            "sigmoid, softmax",
        ),
        (
            json!({"n_group": 7}),
            "n_group",
            "divisor of n_routed_experts 256",
        ),
        (json!({"n_group": 0}), "n_group", "is 0"),
        (json!({"topk_group": 9}), "topk_group", "at most n_group, 8"),
        (
            json!({"num_experts_per_tok": 129}),
            "num_experts_per_tok",
            "at most 128",
        ),
        (
            json!({"num_experts_per_tok": 257, "topk_method": "greedy"}),
            "num_experts_per_tok",
            "at most 256",
        ),
        (json!({"n_routed_experts": 0}), "n_routed_experts", "is 0"),
        (
            json!({"n_routed_experts": 131_072}),
            "n_routed_experts",
            "at most 65536",
        ),
        (
            json!({"n_routed_experts": true}),
            "n_routed_experts",
            "true",
        ),
        (
            json!({"n_shared_experts": 2_000_000}),
            "n_shared_experts",
            "× moe_intermediate_size",
        ),
        (
            json!({"moe_intermediate_size": null}),
            "moe_intermediate_size",
            "is missing",
        ),
        (json!({"moe_layer_freq": [0, 1]}), "moe_layer_freq", "[0,1]"),
        (json!({"moe_layer_freq": 0}), "moe_layer_freq", "is 0"),
        (
            json!({"mlp_layer_types": ["dense"]}),
            "mlp_layer_types",
            "61 times",
        ),
        (
            json!({"mlp_layer_types": vec!["sparse"; 61]}),
            "mlp_layer_types",
            "layer 0 sparse",
        ),
        (
            json!({"routed_scaling_factor": 0}),
            "routed_scaling_factor",
            "is 0",
        ),
        (
            json!({"routed_scaling_factor": 1e39}),
            "routed_scaling_factor",
            "f32",
        ),
        (json!({"q_lora_rank": null}), "q_lora_rank", "query latent"),
        (
            json!({"index_head_dim": 32}),
            "index_head_dim",
            "at least qk_rope_head_dim, 64",
        ),
        (json!({"index_topk": 0}), "index_topk", "is 0"),
        (
            json!({"index_n_heads": 2_000_000_000}),
            "index_n_heads",
            "× index_head_dim",
        ),
        (
            json!({"indexer_rope_interleave": 1}),
            "indexer_rope_interleave",
            "is 1",
        ),
        (
            json!({"indexer_types": ["full"]}),
            "indexer_types",
            "61 times",
        ),
        (
            json!({"indexer_types": vec!["half"; 61]}),
            "indexer_types",
            "\"full\" or \"shared\"",
        ),
        (
            json!({"indexer_types": vec!["shared"; 61]}),
            "indexer_types",
            "layer 0",
        ),
        (
            json!({"index_topk_pattern": "FS"}),
            "index_topk_pattern",
            "61 times",
        ),
        (
            json!({"index_topk_freq": 2, "index_skip_topk_offset": 0}),
            "index_skip_topk_offset",
            "layer 0",
        ),
        (
            json!({"tie_word_embeddings": 0}),
            "tie_word_embeddings",
            "true or false",
        ),
        (
            json!({"bos_token_id": [0, 1]}),
            "bos_token_id",
            "one token id",
        ),
        (json!({"bos_token_id": 129_280}), "bos_token_id", "129280"),
        (json!({"eos_token_id": -1}), "eos_token_id", "-1"),
        (json!({"eos_token_id": [1, "x"]}), "eos_token_id", "\"x\""),
        (json!({"eos_token_id": {"id": 1}}), "eos_token_id", "id"),
        (
            json!({"quantization_config": "fp8"}),
            "quantization_config",
            "an object",
        ),
    ];
    for (changes, key, text) in cases {
        let config = with(v32_json(), changes.clone());
        match read(&config) {
            Err(Error::Config {
                key: found,
                problem,
            }) => {
                assert_eq!(found, key, "{changes}: {problem}");
                assert!(problem.contains(text), "{changes}: {problem}");
            }
            other => panic!("{changes}: {:?}", other.map(|_| "accepted")),
        }
    }
}

/// Stored tensors decide whether it matters.
#[test]
fn another_quantization_is_noted() {
    let block = [128, 128];
    for (quantization, says, has_other_blocks) in [
        (json!({}), None, false),
        (json!(null), None, false),
        (
            json!({"quant_method": "awq"}),
            Some("quant_method is \"awq\", expected \"fp8\""),
            false,
        ),
        (
            json!({"bits": 4}),
            Some("quant_method is missing, expected \"fp8\""),
            false,
        ),
        (
            json!({"quant_method": 8}),
            Some("quant_method is 8, expected \"fp8\""),
            false,
        ),
        (
            json!({"quant_method": "fp8"}),
            Some("weight_block_size is missing, expected [128, 128]"),
            false,
        ),
        (
            json!({"quant_method": "fp8", "weight_block_size": [128, 64]}),
            Some("weight_block_size is [128,64], expected [128, 128]"),
            true,
        ),
        (
            json!({"quant_method": "x", "weight_block_size": 128}),
            Some("quant_method is \"x\", expected \"fp8\""),
            true,
        ),
        (
            json!({"quant_method": "fp8", "fmt": "e5m2", "weight_block_size": block}),
            Some("fmt is \"e5m2\", expected \"e4m3\""),
            false,
        ),
    ] {
        let config = with(v32_json(), json!({"quantization_config": quantization}));
        let config = read(&config).unwrap();
        let foreign = config.foreign_quantization.as_ref();
        assert_eq!(foreign.map(|foreign| foreign.says.as_str()), says);
        assert_eq!(
            foreign.is_some_and(|foreign| foreign.has_other_blocks),
            has_other_blocks
        );
        assert_eq!(config.quantized, None);
    }
    let static_activations =
        json!({"quant_method": "fp8", "activation_scheme": "static", "weight_block_size": block});
    let config = with(
        v32_json(),
        json!({"quantization_config": static_activations}),
    );
    let config = read(&config).unwrap();
    assert_eq!(
        (config.quantized.is_some(), &config.foreign_quantization),
        (true, &None)
    );
}

#[test]
fn of_several_mtp_layers_the_first_is_used() {
    for (n, used) in [(0, 0), (1, 1), (2, 1), (3, 1)] {
        let config = read(&with(v3_json(), json!({"num_nextn_predict_layers": n}))).unwrap();
        assert_eq!(config.num_nextn_predict_layers, used);
    }
}

#[test]
fn rope_scaling_that_is_not_done_is_refused_by_name() {
    let scaling = |changes| with(yarn(40.0, 32.0, 1.0), changes);
    for (scaling, key, text) in [
        (
            json!({"type": "linear", "factor": 2}),
            "rope_scaling.type",
            "\"linear\"",
        ),
        (
            json!({"rope_type": "dynamic", "factor": 2}),
            "rope_scaling.rope_type",
            "\"dynamic\"",
        ),
        (
            json!({"rope_type": "llama3", "factor": 2}),
            "rope_scaling.rope_type",
            "\"llama3\"",
        ),
        (json!({"factor": 2}), "rope_scaling.type", "is missing"),
        (json!([1]), "rope_scaling", "an object"),
        (
            scaling(json!({"rope_type": "default"})),
            "rope_scaling.rope_type",
            "agree",
        ),
        (
            scaling(json!({"factor": 0.5})),
            "rope_scaling.factor",
            "at least 1",
        ),
        (
            scaling(json!({"factor": "40"})),
            "rope_scaling.factor",
            "\"40\"",
        ),
        (
            scaling(json!({"factor": null})),
            "rope_scaling.factor",
            "is missing",
        ),
        (
            scaling(json!({"original_max_position_embeddings": 0})),
            "rope_scaling.original_max_position_embeddings",
            "is 0",
        ),
        (
            scaling(json!({"beta_fast": 0.5})),
            "rope_scaling.beta_fast",
            "beta_slow, 1",
        ),
        (
            scaling(json!({"beta_slow": 0})),
            "rope_scaling.beta_slow",
            "is 0",
        ),
        (
            scaling(json!({"mscale": -1})),
            "rope_scaling.mscale",
            "is -1",
        ),
        (
            scaling(json!({"attention_factor": 0})),
            "rope_scaling.attention_factor",
            "above 0",
        ),
        (
            scaling(json!({"truncate": false})),
            "rope_scaling.truncate",
            "is false",
        ),
        (
            scaling(json!({"rope_theta": 5e4})),
            "rope_scaling.rope_theta",
            "expected 10000",
        ),
        (
            json!({"full_attention": {"rope_type": "yarn"}}),
            "rope_scaling.full_attention",
            "plain value",
        ),
    ] {
        match read(&with(v32_json(), json!({"rope_scaling": scaling}))) {
            Err(Error::Config {
                key: found,
                problem,
            }) => {
                assert_eq!(found, key, "{scaling}: {problem}");
                assert!(problem.contains(text), "{scaling}: {problem}");
            }
            other => panic!("{scaling}: {:?}", other.map(|_| "accepted")),
        }
    }
    for parameters in [
        json!({"rope_type": "default"}),
        scaling(json!({"factor": 32})),
    ] {
        let both = with(v32_json(), json!({"rope_parameters": parameters}));
        let error = read(&both).unwrap_err().to_string();
        assert!(
            error.contains("rope_parameters") && error.contains("agree"),
            "{error}"
        );
    }
    let theta = json!({"rope_parameters": {"rope_theta": 2e4}, "rope_scaling": null});
    let error = read(&with(v32_json(), theta)).unwrap_err().to_string();
    assert!(
        error.contains("rope_parameters.rope_theta") && error.contains("20000"),
        "{error}"
    );
}

#[test]
fn text_that_is_no_config_is_refused() {
    let nested = "[".repeat(1_000_000);
    let wide = format!("{{\"a\": {}}}", "[0],".repeat(500_000));
    for (text, part) in [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[]", "holds [], expected a JSON object"),
        ("null", "holds null"),
        ("{}", "model_type"),
        (nested.as_str(), "recursion limit"),
        (wide.as_str(), "is not JSON"),
        (
            "{\n  \"rms_norm_eps\": NaN,\n}",
            "\"\\\"rms_norm_eps\\\": NaN,\"",
        ),
    ] {
        let error = Config::from_json(text).unwrap_err().to_string();
        assert!(
            error.contains(part) && error.contains("config key"),
            "{error}"
        );
        assert!(error.len() < 400, "{error}");
    }
}

#[test]
fn a_config_of_another_system_is_read() {
    let text = serde_json::to_string_pretty(&glm5_json()).unwrap();
    let expected = Config::from_json(&text).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let lines = text.replace('\n', "\r\n");
    std::fs::write(
        folder.path().join("config.json"),
        format!("\u{FEFF}{lines}\r\n"),
    )
    .unwrap();
    assert_eq!(Config::open(folder.path()).unwrap(), expected);
    assert_eq!(
        Config::from_json(&format!("\u{FEFF}{text}")).unwrap(),
        expected
    );
}

#[test]
fn files_that_are_no_config_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    let error = Config::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("holds no config.json"), "{error}");
    for (bytes, part) in [
        (vec![b'['; 10 << 20], "10485760 bytes"),
        (vec![0xff; 1 << 20], "is not UTF-8 at byte 0"),
        (b"{\0\"\0".to_vec(), "is UTF-16 text"),
        (b"{\"hidden_size\": ".to_vec(), "is not JSON"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let error = Config::open(folder.path()).unwrap_err();
        assert!(matches!(&error, Error::BadFile { path: found, .. } if *found == path));
        assert!(error.to_string().contains(part), "{error}");
    }
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(
        Config::open(folder.path())
            .unwrap_err()
            .to_string()
            .contains("regular file")
    );
}

proptest! {
    #![proptest_config(Runs {
        rng_seed: RngSeed::Fixed(32),
        failure_persistence: None,
        ..Runs::with_cases(128)
    })]

    /// Whatever single key is broken in whatever way: an answer, never a panic or an overflow, and
    /// what is accepted has a table.
    #[test]
    fn any_value_of_any_key_is_answered(
        key in prop::sample::select(keys()),
        value in values(),
    ) {
        let config = with(glm5_json(), json!({key: value}));
        if let Ok(config) = read(&config) {
            prop_assert!(!config.tensors(true).is_empty());
            prop_assert!(config.softmax_scale() > 0.0);
            prop_assert!(config.parameters().total > 0);
            prop_assert!(config.cache_bytes_per_token(LatentFormat::F32, KeyFormat::F32) > 0);
        }
    }

    #[test]
    fn any_text_is_answered(text in "\\PC{0,200}") {
        prop_assert!(Config::from_json(&text).is_err());
    }
}

fn keys() -> Vec<String> {
    let more = [
        "rope_parameters",
        "quantization_config",
        "index_topk_freq",
        "indexer_types",
    ];
    let mut keys: Vec<String> = glm5_json().as_object().unwrap().keys().cloned().collect();
    keys.extend(more.map(String::from));
    keys
}

fn values() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (0_u32..64).prop_map(|bits| json!(1_u64 << bits)),
        (0_u32..64).prop_map(|bits| json!((1_u64 << bits) - 1)),
        any::<f64>().prop_map(|number| json!(number)),
        (0_u64..300).prop_map(Value::from),
        "[a-z_]{0,8}".prop_map(Value::from),
        prop::collection::vec(0_u64..9, 0..4).prop_map(|list| json!(list)),
        Just(json!({"rope_type": "yarn"})),
    ]
}
