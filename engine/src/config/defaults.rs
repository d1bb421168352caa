//! What an absent key means, for each member of the family.

use super::{Architecture, Scoring, TopkMethod};

/// What an absent key means, as in transformers' class of the same name.
pub(super) struct Defaults {
    pub(super) rms_norm_eps: f64,
    pub(super) first_k_dense_replace: usize,
    pub(super) n_shared_experts: usize,
    pub(super) scoring_func: Scoring,
    pub(super) topk_method: TopkMethod,
    pub(super) n_group: usize,
    pub(super) topk_group: usize,
    pub(super) norm_topk_prob: bool,
    pub(super) routed_scaling_factor: f64,
    pub(super) index_n_heads: usize,
    /// transformers' GLM class knows no key for this and always interleaves.
    pub(super) indexer_rope_interleave: bool,
}

impl Defaults {
    pub(super) fn of(architecture: Architecture) -> Self {
        // transformers writes neither scoring_func nor topk_method for the V3 classes.
        let v3 = Self {
            rms_norm_eps: 1e-6,
            first_k_dense_replace: 3,
            n_shared_experts: 1,
            scoring_func: Scoring::Sigmoid,
            topk_method: TopkMethod::NoauxTc,
            n_group: 8,
            topk_group: 4,
            norm_topk_prob: true,
            routed_scaling_factor: 2.5,
            index_n_heads: 64,
            indexer_rope_interleave: false,
        };
        match architecture {
            Architecture::DeepseekV2 => Self {
                first_k_dense_replace: 0,
                n_shared_experts: 2,
                scoring_func: Scoring::Softmax,
                topk_method: TopkMethod::Greedy,
                n_group: 1,
                topk_group: 1,
                norm_topk_prob: false,
                routed_scaling_factor: 1.0,
                ..v3
            },
            Architecture::DeepseekV3 | Architecture::DeepseekV32 => v3,
            Architecture::GlmMoeDsa => Self {
                rms_norm_eps: 1e-5,
                n_group: 1,
                topk_group: 1,
                index_n_heads: 32,
                indexer_rope_interleave: true,
                ..v3
            },
        }
    }
}
