//! Which sizes the kernels take, and how many tokens a pass may have.

use shaders::index_row::MOST_CHANNELS;
use shaders::kernel::MAX_GROUPS;
use shaders::{route, sample};

use crate::config::{Config, IndexerConfig, MoeConfig, TopkMethod};
use crate::pass::WORKSPACE_BYTES;
use crate::{Error, Result};

/// Largest `index_topk`: what the kernels are tested with.
pub(crate) const MAX_TOP_K: usize = 2048;

/// Most positions: `index_scores` and `attend_weights` have a workgroup for each 64 of them.
pub(super) const MOST_POSITIONS: usize = 64 * GROUPS;

/// Most rows of a slice of a matrix: `matmul` has a workgroup for each 64 of them.
pub(super) const MOST_ROWS: usize = 64 * GROUPS;

/// Largest latent that `attend_merge` holds in workgroup memory.
const MAX_RANK: usize = 2048;

const GROUPS: usize = MAX_GROUPS as usize;

/// A size of a model that the kernels bound.
pub(crate) struct Limit {
    /// Its key in `config.json`.
    pub name: &'static str,
    /// The largest they take.
    pub most: usize,
    /// What it has to be a multiple of: kernels read four numbers at a time.
    pub multiple: usize,
    of: fn(&Config) -> Option<usize>,
}

/// Every size that the kernels bound. Others only enter buffers, which may be as large as a binding.
pub(crate) const LIMITS: &[Limit] = &[
    // Ids are exact as f32.
    limit("vocab_size", sample::MOST_TOKENS, 1, |c| Some(c.vocab_size)),
    // A workgroup for each two rows of `mlp_down`, for each row of `mlp_up`.
    limit("hidden_size", 2 * GROUPS, 4, |c| Some(c.hidden_size)),
    limit("intermediate_size", GROUPS, 4, |c| {
        Some(c.intermediate_size)
    }),
    limit("moe_intermediate_size", GROUPS, 4, |c| {
        moe(c, |moe| moe.moe_intermediate_size)
    }),
    // A workgroup a head.
    limit("num_attention_heads", GROUPS, 1, |c| {
        Some(c.num_attention_heads)
    }),
    limit("q_lora_rank", usize::MAX, 4, |c| c.q_lora_rank),
    limit("kv_lora_rank", MAX_RANK, 4, |c| Some(c.kv_lora_rank)),
    limit("qk_nope_head_dim", usize::MAX, 4, |c| {
        Some(c.qk_nope_head_dim)
    }),
    limit("qk_rope_head_dim", usize::MAX, 4, |c| {
        Some(c.qk_rope_head_dim)
    }),
    limit("v_head_dim", usize::MAX, 4, |c| Some(c.v_head_dim)),
    limit("index_head_dim", MOST_CHANNELS, 4, |c| {
        indexer(c, |i| i.index_head_dim)
    }),
    limit("index_topk", MAX_TOP_K, 1, |c| indexer(c, |i| i.index_topk)),
    limit("n_routed_experts", route::MOST_EXPERTS, 1, |c| {
        moe(c, |moe| moe.n_routed_experts)
    }),
    // Tiles of a plan and slots of a token are workgroups.
    limit("n_shared_experts", MOST_SHARED, 1, |c| {
        moe(c, |moe| moe.n_shared_experts)
    }),
    limit("n_group", route::MOST_GROUPS, 1, |c| {
        let grouped = |moe: &&MoeConfig| moe.topk_method != TopkMethod::Greedy;
        c.moe.as_ref().filter(grouped).map(|moe| moe.n_group)
    }),
];

/// More than any model has; with the most routed experts, eight slots a tile are still within a grid.
const MOST_SHARED: usize = 512;

const fn limit(
    name: &'static str,
    most: usize,
    multiple: usize,
    of: fn(&Config) -> Option<usize>,
) -> Limit {
    Limit {
        name,
        most: most / multiple * multiple,
        multiple,
        of,
    }
}

fn moe(config: &Config, of: fn(&MoeConfig) -> usize) -> Option<usize> {
    config.moe.as_ref().map(of)
}

fn indexer(config: &Config, of: fn(&IndexerConfig) -> usize) -> Option<usize> {
    config.indexer.as_ref().map(of)
}

/// Refuses sizes that the kernels do not take.
///
/// # Errors
/// The first of [`LIMITS`] that `config` is beyond.
pub(super) fn check_sizes(config: &Config) -> Result<()> {
    for limit in LIMITS {
        let Some(size) = (limit.of)(config) else {
            continue;
        };
        let expected = if !size.is_multiple_of(limit.multiple) {
            format!("a multiple of {} on a GPU", limit.multiple)
        } else if size > limit.most {
            format!("at most {} on a GPU", limit.most)
        } else {
            continue;
        };
        return Err(Error::Setting {
            name: limit.name.into(),
            found: size.to_string(),
            expected,
        });
    }
    Ok(())
}

/// Most tokens of one pass, so that no workspace of it is above [`WORKSPACE_BYTES`] and no launch of it
/// beyond a grid.
pub fn max_pass_tokens(config: &Config) -> usize {
    let heads = config.num_attention_heads;
    let (dn, dr) = (config.qk_nope_head_dim, config.qk_rope_head_dim);
    let (slots, experts, expert_width) = config.moe.as_ref().map_or((1, 1, 0), |moe| {
        let slots = moe.num_experts_per_tok + moe.n_shared_experts;
        let experts = moe.n_routed_experts + moe.n_shared_experts;
        (slots, experts, moe.moe_intermediate_size)
    });
    let (index_queries, index_key, k) = config.indexer.as_ref().map_or((0, 0, 0), |sizes| {
        let queries = sizes.index_n_heads * sizes.index_head_dim;
        (
            queries,
            sizes.index_head_dim + sizes.index_n_heads,
            MAX_TOP_K,
        )
    });
    // FP8 matrices that are joined begin at whole blocks of 128 rows.
    let projected =
        config.q_lora_rank.unwrap_or(0) + config.kv_lora_rank + dr + index_key + 3 * 128;
    let widest = [
        // Queries, absorbed and not, and what attention gives.
        heads * (config.kv_lora_rank + dr),
        heads * (dn + dr) + index_queries + 128,
        heads * config.v_head_dim,
        projected,
        k,
        // Two inputs of the MTP layer side by side.
        2 * config.hidden_size,
        slots * config.hidden_size,
        slots * expert_width,
        config.intermediate_size,
    ];
    let widest = widest.into_iter().max().expect("there are some");
    // `embed` and others have a workgroup a token, the tiled experts one for each eight slots at worst.
    let tiles = GROUPS.saturating_sub(experts) * FEWEST_IN_TILE / slots;
    (WORKSPACE_BYTES / 4 / widest).min(tiles).clamp(1, GROUPS)
}

/// Slots of the smallest tile of an expert.
const FEWEST_IN_TILE: usize = 8;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panic")]
mod tests {
    use serde_json::{Value, json};
    use shaders::{Tuning, expert_plan};

    use super::*;
    use crate::CacheFormat;
    use crate::gpu::CountCall;
    use crate::gpu::count::count_with;
    use crate::model::ForwardOptions;
    use crate::trace::Watch;

    fn small() -> Value {
        json!({
            "model_type": "deepseek_v32", "vocab_size": 64, "hidden_size": 16,
            "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
            "q_lora_rank": 8, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4,
            "v_head_dim": 8, "max_position_embeddings": 8_388_608, "index_n_heads": 2,
            "index_head_dim": 64, "index_topk": 4, "n_routed_experts": 4, "num_experts_per_tok": 2,
            "n_shared_experts": 1, "moe_intermediate_size": 8, "n_group": 1, "topk_group": 1,
            "first_k_dense_replace": 1,
        })
    }

    /// The small config with one size changed, and what it depends on.
    fn with(name: &str, size: usize) -> Config {
        let mut json = small();
        json[name] = size.into();
        if name == "n_group" {
            json["n_routed_experts"] = size.into();
            json["topk_group"] = size.into();
        }
        Config::from_json(&json.to_string()).unwrap()
    }

    /// Plans every launch of short and long passes, deep in a context, on both kinds of device. The
    /// launches' own assertions say whether the sizes suit them.
    fn plan(config: &Config) {
        for fat_threads in [false, true] {
            let tuning = Tuning {
                subgroups: false,
                fat_threads,
            };
            let most = max_pass_tokens(config);
            for tokens in [1, 2, 8, 9, 255, most] {
                for dense in [false, true] {
                    let call = CountCall {
                        position: 4_000,
                        tokens: tokens.min(most),
                        format: CacheFormat::default(),
                        options: ForwardOptions {
                            dense,
                            ..ForwardOptions::default()
                        },
                        max_binding_bytes: u32::MAX as usize,
                    };
                    count_with(config, &call, tuning, Watch::default()).unwrap();
                }
            }
        }
    }

    #[test]
    fn every_limit_is_what_the_kernels_take_and_no_more_is_let_through() {
        for limit in LIMITS {
            if limit.most < usize::MAX / 4 * 4 {
                let config = with(limit.name, limit.most);
                check_sizes(&config).unwrap();
                plan(&config);
            }
            let beyond = limit.most.saturating_add(limit.multiple);
            // What the config itself refuses is not ours to test.
            let wrong = [beyond, 4 * limit.multiple + 2].into_iter().filter(|size| {
                *size <= i32::MAX as usize
                    && (*size > limit.most || !size.is_multiple_of(limit.multiple))
            });
            for size in wrong {
                let error = check_sizes(&with(limit.name, size))
                    .unwrap_err()
                    .to_string();
                let expected = format!("{} is {size}, expected", limit.name);
                assert!(error.starts_with(&expected), "{error}");
            }
        }
    }

    #[test]
    fn groups_that_nobody_ranks_are_not_limited() {
        let mut json = small();
        for key in ["n_routed_experts", "n_group", "topk_group"] {
            json[key] = 256.into();
        }
        json["topk_method"] = "greedy".into();
        let config = Config::from_json(&json.to_string()).unwrap();
        check_sizes(&config).unwrap();
        plan(&config);
    }

    #[test]
    fn the_smallest_tile_is_as_the_kernels_say() {
        let tile = |fat_threads| {
            expert_plan::tile(&Tuning {
                subgroups: false,
                fat_threads,
            })
        };
        assert_eq!(tile(false).min(tile(true)) as usize, FEWEST_IN_TILE);
    }
}
