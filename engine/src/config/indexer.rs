//! The keys of the lightning indexer.

use serde_json::Value;

use super::defaults::Defaults;
use super::keys::Keys;
use super::{Architecture, IndexerConfig, Sizes};
use crate::Result;

/// Sizes of the indexer; `None` if the model has none.
pub(super) fn read(
    keys: &Keys,
    architecture: Architecture,
    defaults: &Defaults,
    n_layers: usize,
) -> Result<Option<IndexerConfig>> {
    let always = match architecture {
        Architecture::DeepseekV32 | Architecture::GlmMoeDsa => true,
        Architecture::DeepseekV2 | Architecture::DeepseekV3 => false,
    };
    // A V3 config with this key is V3.2 under V3's name, as other engines read it too.
    if !always && keys.get("index_topk").is_none() {
        return Ok(None);
    }
    Ok(Some(IndexerConfig {
        index_n_heads: keys
            .size("index_n_heads")?
            .unwrap_or(defaults.index_n_heads),
        index_head_dim: keys.size("index_head_dim")?.unwrap_or(128),
        index_topk: keys.size("index_topk")?.unwrap_or(2048),
        indexer_rope_interleave: keys
            .flag("indexer_rope_interleave")?
            .unwrap_or(defaults.indexer_rope_interleave),
        owners: owners(keys, n_layers)?,
    }))
}

/// Which layers have an indexer of their own: a list, a pattern, or a rule. Source: spec 1.2.
fn owners(keys: &Keys, n_layers: usize) -> Result<Vec<bool>> {
    let per_layer = |key: &str, full: Vec<Option<bool>>, words: &str| {
        if full.len() == n_layers
            && let Some(owners) = full.into_iter().collect::<Option<Vec<bool>>>()
        {
            return Ok(owners);
        }
        Err(keys.unexpected(key, &format!("{n_layers} times {words}, one a layer")))
    };
    let by_word = |word: &str| match word {
        "full" => Some(true),
        "shared" => Some(false),
        _ => None,
    };
    let by_letter = |letter: char| match letter {
        'F' => Some(true),
        'S' => Some(false),
        _ => None,
    };
    let words = "\"full\" or \"shared\"";
    let (key, owners) = if let Some(types) = keys.texts("indexer_types")? {
        let full = types.into_iter().map(by_word).collect();
        ("indexer_types", per_layer("indexer_types", full, words)?)
    } else if let Some(Value::String(pattern)) = keys.get("index_topk_pattern") {
        let full = pattern.chars().map(by_letter).collect();
        (
            "index_topk_pattern",
            per_layer("index_topk_pattern", full, "F or S")?,
        )
    } else if let Some(types) = keys.texts("index_topk_pattern")? {
        let full = types.into_iter().map(by_word).collect();
        (
            "index_topk_pattern",
            per_layer("index_topk_pattern", full, words)?,
        )
    } else {
        let freq = keys.count("index_topk_freq")?.unwrap_or(1).max(1);
        let offset = keys.count("index_skip_topk_offset")?.unwrap_or(2);
        let full = |layer: usize| (layer + 1).saturating_sub(offset).is_multiple_of(freq);
        ("index_skip_topk_offset", (0..n_layers).map(full).collect())
    };
    if owners.first() == Some(&false) {
        let problem = "gives layer 0 no indexer, expected one: there is no selection to share yet";
        return Err(keys.error(key, problem));
    }
    Ok(owners)
}

/// Checks the indexer against the rest of the model.
pub(super) fn check(keys: &Keys, sizes: &Sizes) -> Result<()> {
    let Some(indexer) = &sizes.indexer else {
        return Ok(());
    };
    if sizes.q_lora_rank.is_none() {
        let expected = "a whole number above 0: the indexer reads the query latent";
        return Err(keys.error("q_lora_rank", format!("is null, expected {expected}")));
    }
    let (dim, dr) = (indexer.index_head_dim, sizes.qk_rope_head_dim);
    if dim < dr {
        let expected = format!("at least qk_rope_head_dim, {dr}");
        return Err(keys.error("index_head_dim", format!("is {dim}, expected {expected}")));
    }
    Ok(())
}
