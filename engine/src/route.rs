//! Which experts a token goes to, and with what weight.
//!
//! ```text
//! s = sigmoid(W_g x)  or  softmax(W_g x)          [n_routed_experts], f32
//! b = s + e_score_correction_bias                 for choosing only
//! groups: keep topk_group of n_group by the sum of the two best b (noaux_tc) or the best (grouped)
//! E = the num_experts_per_tok best b, ties to the lower id
//! w_e = s_e [/ (Σ_E s + 1e-20)] · routed_scaling_factor
//! ```
//! Source: spec section 4. The CPU and the definition choose by this code: a token's experts decide
//! which weights are read at all, and one comparison rule makes routes equal.

use crate::config::{MoeConfig, Scoring, TopkMethod};

/// Experts of a run of tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Routes {
    /// `[tokens, num_experts_per_tok]`, best first.
    pub experts: Vec<u16>,
    /// `[tokens, num_experts_per_tok]`.
    pub weights: Vec<f32>,
    /// `[tokens, n_routed_experts]`: scores before bias.
    pub scores: Vec<f32>,
}

/// Scores every expert, `logits` `[tokens, n_routed_experts]` in place.
fn score(logits: &mut [f32], config: &MoeConfig) {
    for row in logits.chunks_exact_mut(config.n_routed_experts) {
        match config.scoring_func {
            Scoring::Sigmoid => {
                for score in row {
                    *score = 1.0 / (1.0 + (-*score).exp());
                }
            }
            Scoring::Softmax => {
                let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let mut sum = 0.0;
                for score in row.iter_mut() {
                    *score = (*score - most).exp();
                    sum += *score;
                }
                for score in row {
                    *score /= sum;
                }
            }
        }
    }
}

/// Routes tokens by the gate's `logits` `[tokens, n_routed_experts]`. A token for which `replayed`
/// knows experts takes those instead of the gate's choice; its weights are this pass's scores.
///
/// Experts in `off` are never taken: groups are ranked by those that remain, and where the kept groups
/// have too few, the best of the other groups follow. A replayed token keeps its other experts, and the
/// gate fills up. At least `num_experts_per_tok` must remain.
pub fn route<'a>(
    mut logits: Vec<f32>,
    bias: Option<&[f32]>,
    config: &MoeConfig,
    off: &[usize],
    replayed: impl Fn(usize) -> Option<&'a [u16]>,
) -> Routes {
    score(&mut logits, config);
    let scores = logits;
    let n = scores.len() / config.n_routed_experts;
    let mut experts = Vec::with_capacity(n * config.num_experts_per_tok);
    let mut weights = Vec::with_capacity(n * config.num_experts_per_tok);
    let mut choice = Vec::with_capacity(config.n_routed_experts);
    for (token, row) in scores.chunks_exact(config.n_routed_experts).enumerate() {
        let known = replayed(token);
        let is_off = |&expert: &u16| off.contains(&usize::from(expert));
        match known {
            Some(known) if !known.iter().any(is_off) => experts.extend_from_slice(known),
            _ => {
                choice.clear();
                match bias {
                    Some(bias) => choice.extend(row.iter().zip(bias).map(|(s, b)| s + b)),
                    None => choice.extend_from_slice(row),
                }
                if off.is_empty() {
                    keep_best_groups(&mut choice, config);
                    experts.extend(best(&choice, config.num_experts_per_tok).map(|e| e as u16));
                } else {
                    let known = known.unwrap_or(&[]);
                    let mut taken: Vec<u16> =
                        known.iter().copied().filter(|e| !is_off(e)).collect();
                    let more = order_without(&choice, off, config)
                        .filter(|expert| !known.contains(expert));
                    let missing = config.num_experts_per_tok - taken.len();
                    taken.extend(more.take(missing));
                    experts.extend(taken);
                }
            }
        }
        let chosen = &experts[token * config.num_experts_per_tok..];
        let picked = chosen.iter().map(|&expert| row[expert as usize]);
        let sum = if config.norm_topk_prob {
            picked.clone().sum::<f32>() + 1e-20
        } else {
            1.0
        };
        weights.extend(picked.map(|score| score / sum * config.routed_scaling_factor));
    }
    Routes {
        experts,
        weights,
        scores,
    }
}

/// All experts but those `off`, in the order in which the gate would take them.
fn order_without(
    choice: &[f32],
    off: &[usize],
    config: &MoeConfig,
) -> impl Iterator<Item = u16> + use<> {
    let remain = |expert: &usize| !off.contains(expert);
    let n_best = match config.topk_method {
        TopkMethod::Greedy => None,
        TopkMethod::GroupLimitedGreedy => Some(1),
        TopkMethod::NoauxTc => Some(2),
    };
    let size = config.n_routed_experts / config.n_group.max(1);
    let mut is_kept = vec![true; config.n_group.max(1)];
    if let (Some(n_best), true) = (n_best, config.n_group > 1) {
        let group_scores: Vec<f32> = (0..config.n_group)
            .map(|group| {
                let scores: Vec<f32> = (group * size..(group + 1) * size)
                    .filter(remain)
                    .map(|expert| choice[expert])
                    .collect();
                if scores.is_empty() {
                    return f32::NEG_INFINITY;
                }
                best(&scores, n_best.min(scores.len()))
                    .map(|at| scores[at])
                    .sum()
            })
            .collect();
        is_kept.fill(false);
        for group in best(&group_scores, config.topk_group) {
            is_kept[group] = true;
        }
    }
    let mut order: Vec<usize> = (0..config.n_routed_experts).filter(remain).collect();
    order.sort_by(|&a, &b| {
        is_kept[b / size]
            .cmp(&is_kept[a / size])
            .then(choice[b].total_cmp(&choice[a]))
            .then(a.cmp(&b))
    });
    order.into_iter().map(|expert| expert as u16)
}

/// Strikes out the experts of the groups that lose.
fn keep_best_groups(choice: &mut [f32], config: &MoeConfig) {
    let (n_best, struck) = match config.topk_method {
        TopkMethod::Greedy => return,
        TopkMethod::GroupLimitedGreedy => (1, 0.0),
        // Biased scores can be negative, so 0 would not strike them out.
        TopkMethod::NoauxTc => (2, f32::NEG_INFINITY),
    };
    if config.n_group <= 1 {
        return;
    }
    let size = config.n_routed_experts / config.n_group;
    let group_scores: Vec<f32> = choice
        .chunks_exact(size)
        .map(|group| {
            best(group, n_best.min(size))
                .map(|expert| group[expert])
                .sum()
        })
        .collect();
    let kept: Vec<usize> = best(&group_scores, config.topk_group).collect();
    for (group, scores) in choice.chunks_exact_mut(size).enumerate() {
        if !kept.contains(&group) {
            scores.fill(struck);
        }
    }
}

/// Indices of the `k` largest, best first. Ties go to the lower index: without that, two devices
/// could route one token to different experts and disagree from there on.
fn best(scores: &[f32], k: usize) -> impl Iterator<Item = usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    let by_score = |a: &usize, b: &usize| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b));
    if k < order.len() {
        order.select_nth_unstable_by(k, by_score);
        order.truncate(k);
    }
    order.sort_unstable_by(by_score);
    order.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(method: TopkMethod) -> MoeConfig {
        MoeConfig {
            n_routed_experts: 8,
            n_shared_experts: 1,
            num_experts_per_tok: 2,
            moe_intermediate_size: 32,
            first_k_dense_replace: 0,
            moe_layer_freq: 1,
            n_group: 4,
            topk_group: 1,
            scoring_func: Scoring::Sigmoid,
            topk_method: method,
            norm_topk_prob: true,
            routed_scaling_factor: 2.0,
        }
    }

    #[test]
    fn ties_go_to_the_lower_expert() {
        let routes = route(vec![0.0; 8], None, &config(TopkMethod::Greedy), &[], |_| {
            None
        });
        assert_eq!(routes.experts, [0, 1]);
        assert_eq!(routes.weights, [1.0, 1.0]);
    }

    #[test]
    fn the_bias_chooses_and_does_not_weigh() {
        let bias = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 9.0, 8.0];
        let routes = route(
            vec![0.0; 8],
            Some(&bias),
            &config(TopkMethod::NoauxTc),
            &[],
            |_| None,
        );
        assert_eq!(routes.experts, [6, 7]);
        assert_eq!(routes.weights, [1.0, 1.0]);
    }

    #[test]
    fn groups_are_ranked_by_two_best_or_by_the_best() {
        // Group 0 holds the best expert, group 1 the best pair.
        let logits = vec![3.0, -9.0, 2.0, 2.0, -1.0, -1.0, -1.0, -1.0];
        let pair = route(
            logits.clone(),
            None,
            &config(TopkMethod::NoauxTc),
            &[],
            |_| None,
        );
        assert_eq!(pair.experts, [2, 3]);
        let single = route(
            logits,
            None,
            &config(TopkMethod::GroupLimitedGreedy),
            &[],
            |_| None,
        );
        assert_eq!(single.experts, [0, 1]);
    }

    #[test]
    fn a_replayed_token_takes_the_recorded_experts() {
        let recorded: &[u16] = &[5, 1];
        let routes = route(
            vec![0.0; 16],
            None,
            &config(TopkMethod::Greedy),
            &[],
            |token| (token == 1).then_some(recorded),
        );
        assert_eq!(routes.experts, [0, 1, 5, 1]);
    }

    #[test]
    fn experts_that_are_off_are_never_taken() {
        // Group 1 wins with all experts; without its better half group 0 does.
        let logits = vec![2.0, 1.9, 3.0, 2.0, -1.0, -1.0, -1.0, -1.0];
        for method in [TopkMethod::Greedy, TopkMethod::NoauxTc] {
            let routes = route(logits.clone(), None, &config(method), &[2], |_| None);
            let want = if method == TopkMethod::Greedy {
                [0, 3]
            } else {
                [0, 1]
            };
            assert_eq!(routes.experts, want);
            assert!(routes.weights.iter().all(|weight| weight.is_finite()));
        }
        // The kept group has one left: the best of the others follows, negative or not.
        let bias = [-9.0; 8];
        let off = [0, 2, 4, 6];
        let grouped = config(TopkMethod::GroupLimitedGreedy);
        let routes = route(logits.clone(), Some(&bias), &grouped, &off, |_| None);
        assert_eq!(routes.experts, [3, 1]);
        // Nothing else is left.
        let off = [0, 1, 2, 3, 4, 5];
        let routes = route(logits, None, &config(TopkMethod::NoauxTc), &off, |_| None);
        assert_eq!(routes.experts, [6, 7]);
    }

    #[test]
    fn with_nothing_off_the_two_ways_to_choose_agree() {
        for method in [
            TopkMethod::Greedy,
            TopkMethod::GroupLimitedGreedy,
            TopkMethod::NoauxTc,
        ] {
            let config = MoeConfig {
                topk_group: 2,
                ..config(method)
            };
            for token in 0..32 {
                let mut choice: Vec<f32> = (0..8)
                    .map(|expert| ((token * 8 + expert) as f32 * 1.7).sin().abs())
                    .collect();
                let order: Vec<u16> = order_without(&choice, &[], &config).take(2).collect();
                keep_best_groups(&mut choice, &config);
                let free: Vec<u16> = best(&choice, 2).map(|expert| expert as u16).collect();
                assert_eq!(order, free, "{method:?}, token {token}");
            }
        }
    }

    #[test]
    fn a_replayed_token_keeps_the_experts_that_are_on() {
        let recorded: &[u16] = &[5, 1];
        let logits = vec![0.0; 8];
        let config = config(TopkMethod::Greedy);
        let routes = route(logits.clone(), None, &config, &[5], |_| Some(recorded));
        assert_eq!(routes.experts, [1, 0]);
        let routes = route(logits, None, &config, &[0], |_| Some(recorded));
        assert_eq!(routes.experts, [5, 1]);
    }

    #[test]
    fn negative_biased_scores_stay_out_of_losing_groups() {
        let bias = [-5.0, -5.0, -9.0, -9.0, -9.0, -9.0, -9.0, -9.0];
        let routes = route(
            vec![0.0; 8],
            Some(&bias),
            &config(TopkMethod::NoauxTc),
            &[],
            |_| None,
        );
        assert_eq!(routes.experts, [0, 1]);
    }
}
