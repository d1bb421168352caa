//! Figures over selections: where they lie, how they agree, what weighs in them.

use std::ops::Range;

use super::{N_RECENT, N_SINK, Recording, Split};

impl Recording {
    /// For each position up to `query`: how many layers selected it. All 0 where nothing was recorded, and
    /// empty where there is no such token.
    pub fn n_layers_selecting(&self, query: usize) -> Vec<u16> {
        let mut counts = vec![0; self.n_visible(query)];
        for layer in 0..self.header.n_layers {
            for position in self.selected_positions(query, layer).unwrap_or_default() {
                counts[position as usize] += 1;
            }
        }
        counts
    }

    /// For each position up to `query`: the attention weight on it, mean over those layers whose weights
    /// were recorded. Weights that were not kept count as 0; [`Recording::mass_not_kept`] says how much
    /// that is.
    pub fn attention_mass(&self, query: usize) -> Vec<f32> {
        let mut mass = vec![0.0f64; self.n_visible(query)];
        let mut n_layers = 0;
        for layer in 0..self.header.n_layers {
            let Some(decoded) = self.decoded(query, layer) else {
                continue;
            };
            n_layers += usize::from(decoded.weights.is_some());
            for (position, weight) in decoded.kept_weights() {
                mass[position as usize] += f64::from(weight);
            }
        }
        let n_layers = n_layers.max(1) as f64;
        mass.into_iter()
            .map(|mass| (mass / n_layers) as f32)
            .collect()
    }

    /// Attention weight of `query` that is missing from [`Recording::attention_mass`], mean over the same
    /// layers; `None` if no layer has weights.
    pub fn mass_not_kept(&self, query: usize) -> Option<f32> {
        let layers = (0..self.header.n_layers).filter_map(|layer| self.totals(query, layer));
        let missing: Vec<f64> = layers
            .filter_map(|totals| Some(totals.weight_total? - totals.weight_kept?))
            .collect();
        let mean = missing.iter().sum::<f64>() / missing.len() as f64;
        (!missing.is_empty()).then_some(mean as f32)
    }

    /// Share of the positions of each of `n_bins` equal bins of `0..=query` that `layer` selected; empty
    /// if that was not recorded.
    pub fn density(&self, query: usize, layer: usize, n_bins: usize) -> Vec<f32> {
        self.density_over(query, layer, 0..query.saturating_add(1), n_bins)
    }

    /// The same over `range` of positions, for a view that is zoomed. A bin narrower than a position shows
    /// the position that it begins in.
    pub fn density_over(
        &self,
        query: usize,
        layer: usize,
        range: Range<usize>,
        n_bins: usize,
    ) -> Vec<f32> {
        let Some(selected) = self.selected_positions(query, layer) else {
            return Vec::new();
        };
        // In 128 bits: a view may be zoomed out to anything.
        let n = range.len() as u128;
        let edge = |bin: usize| range.start + (bin as u128 * n / n_bins as u128) as usize;
        let n_below = |end: usize| selected.partition_point(|&position| (position as usize) < end);
        let bins = (0..if n == 0 { 0 } else { n_bins }).map(|bin| {
            let first = edge(bin);
            let end = edge(bin + 1).max(first + 1);
            (n_below(end) - n_below(first)) as f32 / (end - first) as f32
        });
        bins.collect()
    }

    /// Where the positions lie that `position` selected in `layer`. In a context that is shorter than
    /// sink and recent together, the sink comes first.
    pub fn split(&self, position: usize, layer: usize) -> Option<Split> {
        let selected = self.selected_positions(position, layer)?;
        let first_recent = (position + 1).saturating_sub(N_RECENT).max(N_SINK);
        let n_sink = selected.partition_point(|&selected| (selected as usize) < N_SINK);
        let n_old = selected.partition_point(|&selected| (selected as usize) < first_recent);
        Some(Split {
            n_sink,
            n_recent: selected.len() - n_old,
            n_retrieved: n_old - n_sink,
        })
    }

    /// Scores of exactly 0 among the selected: positions that only fill the selection up. `None` if
    /// scores were not recorded.
    pub fn n_zero_scores(&self, position: usize, layer: usize) -> Option<usize> {
        self.totals(position, layer)?.n_zero_scores
    }

    /// Share of `position`'s selection in `layer` that the step before selected too; `None` if one of the
    /// two was not recorded or nothing was selected.
    pub fn overlap_with_previous(&self, position: usize, layer: usize) -> Option<f32> {
        self.overlap((position, layer), (position.checked_sub(1)?, layer))
    }

    /// Share of `position`'s selection in `layer` that the layer before selected too; `None` as above.
    pub fn overlap_with_layer_before(&self, position: usize, layer: usize) -> Option<f32> {
        self.overlap((position, layer), (position, layer.checked_sub(1)?))
    }

    fn overlap(&self, of: (usize, usize), with: (usize, usize)) -> Option<f32> {
        let with = self.selected_positions(with.0, with.1)?;
        let of = self.selected_positions(of.0, of.1)?;
        let n_common = of.len() - difference(&of, &with).len();
        (!of.is_empty()).then(|| n_common as f32 / of.len() as f32)
    }

    /// Positions that a token at `query` can read.
    fn n_visible(&self, query: usize) -> usize {
        if query < self.n_tokens() {
            query + 1
        } else {
            0
        }
    }
}

/// What of `a` is not in `b`, both ascending.
pub(super) fn difference(a: &[u32], b: &[u32]) -> Vec<u32> {
    let mut b = b.iter().peekable();
    let only = a.iter().filter(|&&position| {
        while b.next_if(|&&other| other < position).is_some() {}
        b.peek() != Some(&&position)
    });
    only.copied().collect()
}
