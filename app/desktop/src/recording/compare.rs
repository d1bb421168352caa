//! Two recordings side by side: how far they are apart, and what one read that the other did not.

use super::Recording;
use super::statistics::difference;

/// How far two runs are apart after a token that both were fed, with the same tokens before it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Divergence {
    /// Position of the token that both were fed: selections are its, and the distributions are those of
    /// the token after it.
    pub position: usize,
    /// KL(base‖variant) in nats; NaN where logits were broken or not kept (see
    /// [`Limits::logits_bytes`](super::Limits::logits_bytes)).
    pub kl: f32,
    /// Whether another token is the most likely; `false` if either's logits were not recorded.
    pub top1_differs: bool,
    /// For each layer: positions that only the base selected; 0 where either was not recorded.
    pub n_selected_only_base: Vec<usize>,
    /// For each layer: positions that only the variant selected.
    pub n_selected_only_variant: Vec<usize>,
}

/// Bounds of a recall. They are equal where all weights were kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recall {
    /// As if all weights that were not kept had been missed.
    pub at_least: f32,
    /// As if all of them had been found.
    pub at_most: f32,
}

/// Share of dense attention's weight that lies on the sparse selection; where not all of `dense`'s weights
/// were kept, the least that it can be. See [`recall`].
pub fn dense_recall(
    sparse: &Recording,
    dense: &Recording,
    position: usize,
    layer: usize,
) -> Option<f32> {
    recall(sparse, dense, position, layer).map(|recall| recall.at_least)
}

/// Share of dense attention's weight (mean over heads) that lies on the sparse selection. `None` if one of
/// the two was not recorded, or there is no weight to share out; NaN if a weight is.
pub fn recall(
    sparse: &Recording,
    dense: &Recording,
    position: usize,
    layer: usize,
) -> Option<Recall> {
    let selected = sparse.selected_positions(position, layer)?;
    let totals = dense.totals(position, layer)?;
    let (total, kept) = (totals.weight_total?, totals.weight_kept?);
    if total == 0.0 {
        return None;
    }
    let decoded = dense.decoded(position, layer)?;
    let mut found = 0.0;
    let mut n_found = 0;
    for (position, weight) in decoded.kept_weights() {
        if selected.binary_search(&position).is_ok() {
            found += f64::from(weight);
            n_found += 1;
        }
    }
    // Selected positions without a kept weight may have any part of what was not kept.
    let n_read = selected.len() - difference(&selected, &decoded.positions).len();
    let missing = if n_found < n_read { total - kept } else { 0.0 };
    Some(Recall {
        at_least: (found / total) as f32,
        at_most: ((found + missing) / total) as f32,
    })
}

/// Positions that only `a` and that only `b` selected for `position` in `layer`; `None` if one of the two
/// was not recorded.
pub fn selection_difference(
    a: &Recording,
    b: &Recording,
    position: usize,
    layer: usize,
) -> Option<(Vec<u32>, Vec<u32>)> {
    let a = a.selected_positions(position, layer)?;
    let b = b.selected_positions(position, layer)?;
    Some((difference(&a, &b), difference(&b, &a)))
}

/// First position at which the two hold different tokens, or where one ends; `None` if they are the same.
/// A position whose token one of them does not know is no difference.
pub fn continuations(a: &Recording, b: &Recording) -> Option<usize> {
    let n = a.n_tokens().min(b.n_tokens());
    let differs = |&position: &usize| match (a.token(position), b.token(position)) {
        (Some(a), Some(b)) => a.id != b.id,
        _ => false,
    };
    let is_longer = a.n_tokens() != b.n_tokens();
    (0..n).find(differs).or(is_longer.then_some(n))
}

/// How far the two are apart after every token that both recorded with the same tokens before it.
pub fn divergences(base: &Recording, variant: &Recording) -> Vec<Divergence> {
    let positions = shared_passes(base, variant);
    positions
        .map(|position| divergence(base, variant, position))
        .collect()
}

/// Every position that both recorded with the same tokens before it.
pub fn shared_passes<'a>(
    base: &'a Recording,
    variant: &'a Recording,
) -> impl Iterator<Item = usize> + 'a {
    let end = continuations(base, variant).unwrap_or(base.n_tokens());
    (0..end).filter(|&position| base.is_recorded(position) && variant.is_recorded(position))
}

/// How far the two are apart at `position`. That the same tokens lie before it is the caller's to know.
pub fn divergence(base: &Recording, variant: &Recording, position: usize) -> Divergence {
    let kl = match (base.logits(position), variant.logits(position)) {
        (Some(base), Some(variant)) => kl(base, variant),
        _ => f32::NAN,
    };
    let top1 = |recording: &Recording| {
        let expected = recording.row(position)?.expected.as_ref()?;
        expected.best.first().map(|(id, _)| *id)
    };
    let n_layers = base.header().n_layers.max(variant.header().n_layers);
    let (n_selected_only_base, n_selected_only_variant) = (0..n_layers)
        .map(|layer| {
            let found = selection_difference(base, variant, position, layer);
            found.map_or((0, 0), |(base, variant)| (base.len(), variant.len()))
        })
        .unzip();
    Divergence {
        position,
        kl,
        top1_differs: matches!((top1(base), top1(variant)), (Some(a), Some(b)) if a != b),
        n_selected_only_base,
        n_selected_only_variant,
    }
}

/// KL(base‖variant) = Σ p · (ln p - ln q) in nats of two rows of logits. +∞ if the variant excludes (−∞)
/// what the base does not. NaN if a logit is NaN or +∞, a row is empty or all −∞, or their lengths differ.
pub fn kl(base_logits: &[f32], variant_logits: &[f32]) -> f32 {
    if base_logits.len() != variant_logits.len() {
        return f32::NAN;
    }
    let (Some(base), Some(variant)) = (log_sum(base_logits), log_sum(variant_logits)) else {
        return f32::NAN;
    };
    let rows = base_logits.iter().zip(variant_logits);
    let terms = rows.map(|(&p, &q)| {
        let (log_p, log_q) = (f64::from(p) - base, f64::from(q) - variant);
        let p = log_p.exp();
        // 0 · ln 0 is 0, also where both are 0 and where p is lost in rounding.
        if p == 0.0 { 0.0 } else { p * (log_p - log_q) }
    });
    // Never below 0, but for rounding.
    terms.sum::<f64>().max(0.0) as f32
}

/// Log of the sum of exponentials; `None` unless there is a finite one.
fn log_sum(logits: &[f32]) -> Option<f64> {
    let mut max = f32::NEG_INFINITY;
    for &logit in logits {
        if logit.is_nan() {
            return None;
        }
        max = max.max(logit);
    }
    if !max.is_finite() {
        return None;
    }
    let max = f64::from(max);
    let sum: f64 = logits
        .iter()
        .map(|&logit| (f64::from(logit) - max).exp())
        .sum();
    Some(max + sum.ln())
}
