//! From the keys of `config.json` to checked [`Sizes`].

use serde_json::{Map, Value, json};

use super::defaults::Defaults;
use super::keys::{self, Keys, MAX_SIZE};
use super::{
    Architecture, Config, FP8_BLOCK, ForeignQuantization, Quantized, Sizes, indexer, moe, rope,
};
use crate::Result;

/// Every `model_type` that is known.
const MODEL_TYPES: &[(&str, Architecture)] = &[
    ("deepseek_v2", Architecture::DeepseekV2),
    ("deepseek_v3", Architecture::DeepseekV3),
    ("deepseek_v32", Architecture::DeepseekV32),
    ("glm_moe_dsa", Architecture::GlmMoeDsa),
    ("kimi_k2", Architecture::DeepseekV3),
];

/// Most tensors of a checkpoint, some ten times those of Kimi K2: the table of tensors has to fit
/// into memory whatever a config says.
const MAX_TENSORS: usize = 1_000_000;

/// Reads and checks everything.
pub(super) fn sizes(object: &Map<String, Value>) -> Result<Sizes> {
    let keys = &Keys::new(object);
    let architecture = architecture(keys)?;
    let defaults = &Defaults::of(architecture);
    refuse_what_is_not_done(keys)?;

    let vocab_size = keys.required_size("vocab_size")?;
    let num_hidden_layers = keys.required_size("num_hidden_layers")?;
    if num_hidden_layers > MAX_TENSORS {
        return Err(keys.unexpected("num_hidden_layers", &format!("at most {MAX_TENSORS}")));
    }
    let n_mtp = keys.count("num_nextn_predict_layers")?.unwrap_or(0);
    let num_nextn_predict_layers = n_mtp.min(1);
    let qk_rope_head_dim = keys.required_size("qk_rope_head_dim")?;
    if !qk_rope_head_dim.is_multiple_of(2) {
        let expected = "an even number: channels are rotated in pairs";
        return Err(keys.unexpected("qk_rope_head_dim", expected));
    }
    let rms_norm_eps = keys
        .number("rms_norm_eps")?
        .unwrap_or(defaults.rms_norm_eps) as f32;
    if !(rms_norm_eps > 0.0 && rms_norm_eps.is_finite()) {
        return Err(keys.unexpected("rms_norm_eps", "a number above 0 in the range of f32"));
    }
    let (rope_theta, yarn) = rope::read(keys)?;
    let n_layers = num_hidden_layers + num_nextn_predict_layers;
    let q_lora_rank = keys.size_or_null("q_lora_rank")?;
    let mut bos_token_ids = keys.token_ids("bos_token_id", vocab_size)?;
    if bos_token_ids.len() > 1 {
        return Err(keys.unexpected("bos_token_id", "one token id"));
    }
    let (quantized, foreign_quantization) = quantization(keys)?;
    let sizes = Sizes {
        architecture,
        vocab_size,
        hidden_size: keys.required_size("hidden_size")?,
        intermediate_size: keys.required_size("intermediate_size")?,
        num_hidden_layers,
        num_nextn_predict_layers,
        num_attention_heads: keys.required_size("num_attention_heads")?,
        q_lora_rank,
        kv_lora_rank: keys.required_size("kv_lora_rank")?,
        qk_nope_head_dim: keys.required_size("qk_nope_head_dim")?,
        qk_rope_head_dim,
        v_head_dim: keys.required_size("v_head_dim")?,
        max_position_embeddings: keys.required_size("max_position_embeddings")?,
        rms_norm_eps,
        rope_theta,
        yarn,
        moe: moe::read(keys, architecture, defaults, num_hidden_layers)?
            .filter(|moe| (0..n_layers).any(|layer| moe.is_moe(layer))),
        indexer: indexer::read(keys, architecture, defaults, num_hidden_layers)?,
        tie_word_embeddings: keys.flag("tie_word_embeddings")?.unwrap_or(false),
        bos_token_id: bos_token_ids.pop(),
        eos_token_ids: keys.token_ids("eos_token_id", vocab_size)?,
        quantized,
        foreign_quantization,
    };
    indexer::check(keys, &sizes)?;
    check_products(keys, &sizes)?;
    Ok(sizes)
}

fn architecture(keys: &Keys) -> Result<Architecture> {
    let found = keys.text("model_type")?;
    let known = MODEL_TYPES.iter().find(|(name, _)| Some(*name) == found);
    known.map(|(_, architecture)| *architecture).ok_or_else(|| {
        let names: Vec<_> = MODEL_TYPES.iter().map(|(name, _)| *name).collect();
        let mut expected = format!("one of {}", names.join(", "));
        if keys.mentions("n_layers") && keys.mentions("dim") {
            expected +=
                ": this is a config of DeepSeek's inference code, take the one on Hugging Face";
        }
        keys.unexpected("model_type", &expected)
    })
}

/// Keys that change the forward pass in a way that this engine does not do.
fn refuse_what_is_not_done(keys: &Keys) -> Result<()> {
    keys.refuse("attention_bias", "attention is computed without biases")?;
    keys.refuse(
        "mlp_bias",
        "feed-forward layers are computed without biases",
    )?;
    match keys.text("hidden_act")? {
        None | Some("silu") => Ok(()),
        Some(_) => Err(keys.unexpected("hidden_act", "\"silu\"")),
    }
}

/// What the config says of storage: FP8 in blocks of 128, something else, or nothing.
fn quantization(keys: &Keys) -> Result<(Option<Quantized>, Option<ForeignQuantization>)> {
    let Some(keys) = keys
        .object("quantization_config")?
        .filter(|keys| !keys.is_empty())
    else {
        return Ok((None, None));
    };
    let says = |key: &str| keys.get(key).and_then(Value::as_str);
    let block = keys.get("weight_block_size");
    let has_other_blocks = block.is_some_and(|sides| *sides != json!([FP8_BLOCK, FP8_BLOCK]));
    let foreign = [
        (
            "quant_method",
            says("quant_method") != Some("fp8"),
            "\"fp8\"",
        ),
        (
            "fmt",
            !matches!(says("fmt"), None | Some("e4m3")),
            "\"e4m3\"",
        ),
        (
            "weight_block_size",
            block.is_none() || has_other_blocks,
            "[128, 128]",
        ),
    ];
    if let Some((key, _, expected)) = foreign.into_iter().find(|(_, is_foreign, _)| *is_foreign) {
        let found = keys.get(key).map_or("missing".into(), keys::shown);
        let foreign = ForeignQuantization {
            says: format!("{key} is {found}, expected {expected}"),
            has_other_blocks,
        };
        return Ok((None, Some(foreign)));
    }
    let power_of_two_scales = says("scale_fmt") == Some("ue8m0");
    Ok((
        Some(Quantized {
            power_of_two_scales,
        }),
        None,
    ))
}

/// Makes sure that neither the table of tensors nor anything sized by it can overflow.
fn check_products(keys: &Keys, sizes: &Sizes) -> Result<()> {
    let heads = sizes.num_attention_heads as u64;
    let (dn, dr) = (sizes.qk_nope_head_dim as u64, sizes.qk_rope_head_dim as u64);
    let mut widths = vec![
        (
            "hidden_size",
            "2 × hidden_size",
            2 * sizes.hidden_size as u64,
        ),
        (
            "kv_lora_rank",
            "kv_lora_rank + qk_rope_head_dim",
            sizes.kv_lora_rank as u64 + dr,
        ),
        (
            "num_attention_heads",
            "num_attention_heads × (qk_nope_head_dim + qk_rope_head_dim)",
            heads * (dn + dr),
        ),
        (
            "num_attention_heads",
            "num_attention_heads × (qk_nope_head_dim + v_head_dim)",
            heads * (dn + sizes.v_head_dim as u64),
        ),
    ];
    if let Some(indexer) = &sizes.indexer {
        let width = indexer.index_n_heads as u64 * indexer.index_head_dim as u64;
        widths.push(("index_n_heads", "index_n_heads × index_head_dim", width));
    }
    let mut n_per_layer = 32;
    if let Some(moe) = &sizes.moe {
        let width = moe.n_shared_experts as u64 * moe.moe_intermediate_size as u64;
        widths.push((
            "n_shared_experts",
            "n_shared_experts × moe_intermediate_size",
            width,
        ));
        n_per_layer += 3 * moe.n_routed_experts;
    }
    for (key, product, width) in widths {
        if width > MAX_SIZE as u64 {
            let problem = format!("makes {product} {width}, expected at most {MAX_SIZE}");
            return Err(keys.error(key, problem));
        }
    }
    let n_layers = (sizes.num_hidden_layers + sizes.num_nextn_predict_layers) as u64;
    let n_tensors = n_layers * n_per_layer as u64;
    if n_tensors > MAX_TENSORS as u64 {
        let problem = format!("makes up to {n_tensors} tensors, expected at most {MAX_TENSORS}");
        return Err(keys.error("num_hidden_layers", problem));
    }
    let elements: u128 = Config(sizes.clone())
        .tensors(true)
        .iter()
        .map(|spec| spec.n_elements())
        .sum();
    // In f32 all weights together have to be addressable, here and in 32 bits less one.
    if elements > isize::MAX as u128 / 4 {
        let problem = format!(
            "{} and the other sizes make {elements} parameters, expected at most {}",
            sizes.hidden_size,
            isize::MAX / 4
        );
        return Err(keys.error("hidden_size", problem));
    }
    Ok(())
}
