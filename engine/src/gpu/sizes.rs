//! Which sizes the kernels take, and how many tokens a pass may have.

use shaders::index_row::MOST_CHANNELS;
use shaders::route;

use crate::config::Config;
use crate::pass::WORKSPACE_BYTES;
use crate::{Error, Result};

/// Largest `index_topk` of the top-k kernel.
pub(crate) const MAX_TOP_K: usize = 2048;

/// Largest latent that `attend_merge` holds in workgroup memory.
const MAX_RANK: usize = 2048;

/// Refuses sizes that the kernels do not take: they read four numbers at a time.
pub(super) fn check_sizes(config: &Config) -> Result<()> {
    let mut sizes = vec![
        ("hidden_size", config.hidden_size),
        ("intermediate_size", config.intermediate_size),
        ("kv_lora_rank", config.kv_lora_rank),
        ("qk_nope_head_dim", config.qk_nope_head_dim),
        ("qk_rope_head_dim", config.qk_rope_head_dim),
        ("v_head_dim", config.v_head_dim),
        ("q_lora_rank", config.q_lora_rank.unwrap_or(0)),
    ];
    if let Some(moe) = &config.moe {
        sizes.push(("moe_intermediate_size", moe.moe_intermediate_size));
    }
    if let Some(indexer) = &config.indexer {
        sizes.push(("index_head_dim", indexer.index_head_dim));
    }
    let refused = |name: &str, size: usize, expected: String| {
        Err(Error::Setting {
            name: name.into(),
            found: size.to_string(),
            expected,
        })
    };
    if let Some((name, size)) = sizes.into_iter().find(|(_, size)| size % 4 != 0) {
        return refused(name, size, "a multiple of 4 on a GPU".into());
    }
    let n_experts = config.moe.as_ref().map_or(0, |moe| moe.n_routed_experts);
    let dim = config
        .indexer
        .as_ref()
        .map_or(0, |sizes| sizes.index_head_dim);
    for (name, size, most) in [
        ("n_routed_experts", n_experts, route::MOST_EXPERTS),
        ("index_head_dim", dim, MOST_CHANNELS),
        ("kv_lora_rank", config.kv_lora_rank, MAX_RANK),
    ] {
        if size > most {
            return refused(name, size, format!("at most {most} on a GPU"));
        }
    }
    Ok(())
}

/// Most tokens of one pass, so that no workspace of it is above [`WORKSPACE_BYTES`].
pub fn max_pass_tokens(config: &Config) -> usize {
    let queries = config.num_attention_heads * (config.kv_lora_rank + config.qk_rope_head_dim);
    let slots = config
        .moe
        .as_ref()
        .map_or(1, |moe| moe.num_experts_per_tok + moe.n_shared_experts);
    let widest = queries
        .max(slots * config.hidden_size)
        .max(config.intermediate_size);
    (WORKSPACE_BYTES / 4 / widest).max(1)
}
