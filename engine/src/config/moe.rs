//! The keys of the expert layers.

use super::defaults::Defaults;
use super::keys::Keys;
use super::{Architecture, MoeConfig, Scoring, TopkMethod};
use crate::Result;

/// Routes name experts by 16 bits.
const MAX_EXPERTS: usize = 1 << 16;

/// Sizes and rules of the expert layers; `None` if there are no experts.
pub(super) fn read(
    keys: &Keys,
    architecture: Architecture,
    defaults: &Defaults,
    n_layers: usize,
) -> Result<Option<MoeConfig>> {
    let n_routed_experts = keys.size_or_null("n_routed_experts")?;
    let num_experts_per_tok = match n_routed_experts {
        Some(_) => keys.size_or_null("num_experts_per_tok")?,
        None => None,
    };
    let (Some(n_routed_experts), Some(num_experts_per_tok)) =
        (n_routed_experts, num_experts_per_tok)
    else {
        return Ok(None);
    };
    if n_routed_experts > MAX_EXPERTS {
        return Err(keys.unexpected("n_routed_experts", &format!("at most {MAX_EXPERTS}")));
    }
    let scoring = [("sigmoid", Scoring::Sigmoid), ("softmax", Scoring::Softmax)];
    let methods = [
        ("greedy", TopkMethod::Greedy),
        ("group_limited_greedy", TopkMethod::GroupLimitedGreedy),
        ("noaux_tc", TopkMethod::NoauxTc),
    ];
    // An absent key means the default, `null` that there are none.
    let n_shared_experts = match keys.mentions("n_shared_experts") {
        true => keys.count("n_shared_experts")?.unwrap_or(0),
        false => defaults.n_shared_experts,
    };
    let layer_types = mlp_layer_types(keys, n_layers)?;
    let dense = layer_types
        .as_ref()
        .map(|types| types.iter().take_while(|moe| !**moe).count());
    let first_k_dense_replace = keys
        .count("first_k_dense_replace")?
        .or(dense)
        .unwrap_or(defaults.first_k_dense_replace);
    let factor = keys
        .number("routed_scaling_factor")?
        .unwrap_or(defaults.routed_scaling_factor);
    let mut moe = MoeConfig {
        n_routed_experts,
        n_shared_experts,
        num_experts_per_tok,
        moe_intermediate_size: keys.required_size("moe_intermediate_size")?,
        first_k_dense_replace,
        moe_layer_freq: keys.size("moe_layer_freq")?.unwrap_or(1),
        n_group: keys.size("n_group")?.unwrap_or(defaults.n_group),
        topk_group: keys.size("topk_group")?.unwrap_or(defaults.topk_group),
        scoring_func: keys.choice("scoring_func", &scoring, defaults.scoring_func)?,
        topk_method: keys.choice("topk_method", &methods, defaults.topk_method)?,
        norm_topk_prob: keys
            .flag("norm_topk_prob")?
            .unwrap_or(defaults.norm_topk_prob),
        routed_scaling_factor: factor as f32,
    };
    if !(moe.routed_scaling_factor > 0.0 && moe.routed_scaling_factor.is_finite()) {
        let expected = "a number above 0 in the range of f32";
        return Err(keys.unexpected("routed_scaling_factor", expected));
    }
    if architecture == Architecture::DeepseekV2 {
        // V2's own code: a single expert is never normalised, and what is normalised not scaled.
        moe.norm_topk_prob &= moe.num_experts_per_tok > 1;
        if moe.norm_topk_prob {
            moe.routed_scaling_factor = 1.0;
        }
    }
    check_groups(keys, &moe)?;
    if let Some(types) = layer_types
        && let Some(layer) = (0..n_layers).find(|&layer| types[layer] != moe.is_moe(layer))
    {
        let (found, expected) = if types[layer] {
            ("sparse", "dense")
        } else {
            ("dense", "sparse")
        };
        let problem = format!(
            "makes layer {layer} {found}, expected {expected} by first_k_dense_replace \
             {first_k_dense_replace} and moe_layer_freq {}",
            moe.moe_layer_freq
        );
        return Err(keys.error("mlp_layer_types", problem));
    }
    Ok(Some(moe))
}

/// transformers' list of which layers have experts.
fn mlp_layer_types(keys: &Keys, n_layers: usize) -> Result<Option<Vec<bool>>> {
    let Some(types) = keys.texts("mlp_layer_types")? else {
        return Ok(None);
    };
    let known = types.iter().all(|kind| ["dense", "sparse"].contains(kind));
    if !known || types.len() != n_layers {
        let expected = format!("{n_layers} times \"dense\" or \"sparse\", one a layer");
        return Err(keys.unexpected("mlp_layer_types", &expected));
    }
    Ok(Some(types.iter().map(|kind| *kind == "sparse").collect()))
}

fn check_groups(keys: &Keys, moe: &MoeConfig) -> Result<()> {
    let MoeConfig {
        n_routed_experts,
        num_experts_per_tok,
        n_group,
        topk_group,
        ..
    } = *moe;
    if !n_routed_experts.is_multiple_of(n_group) {
        let expected = format!("a divisor of n_routed_experts {n_routed_experts}");
        return Err(keys.error("n_group", format!("is {n_group}, expected {expected}")));
    }
    if topk_group > n_group {
        let expected = format!("at most n_group, {n_group}");
        return Err(keys.error(
            "topk_group",
            format!("is {topk_group}, expected {expected}"),
        ));
    }
    let choice = match moe.topk_method {
        TopkMethod::Greedy => n_routed_experts,
        TopkMethod::GroupLimitedGreedy | TopkMethod::NoauxTc => {
            n_routed_experts / n_group * topk_group
        }
    };
    if num_experts_per_tok > choice {
        let expected = format!("at most {choice}, the experts of {topk_group} of {n_group} groups");
        return Err(keys.unexpected("num_experts_per_tok", &expected));
    }
    Ok(())
}
