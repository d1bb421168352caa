//! What can be said of one pass, computed once and shown by several views.

use crate::heatmap::{Cell, SparseRow};
use crate::palette::Role;
use crate::recording::compare::{self, Recall};
use crate::recording::{N_RECENT, N_SINK, Recording, Selection, Split};

/// What can be said of one pass.
#[derive(Debug)]
pub struct Facts {
    /// The position that was read.
    pub query: usize,
    /// By layer.
    pub layers: Vec<LayerFacts>,
    /// Rows of the selection map, by layer. Values are attention weights.
    pub rows: Vec<SparseRow>,
    /// For each position up to the query: how many layers selected it.
    pub n_selecting: Vec<u16>,
    /// For each position up to the query: mean attention weight.
    pub mass: Vec<f32>,
    /// Greatest attention weight of all layers; 0 if none was recorded.
    pub greatest_weight: f32,
    /// Greatest of [`Facts::mass`].
    pub greatest_mass: f32,
}

/// What can be said of one layer in it.
#[derive(Debug)]
pub struct LayerFacts {
    /// Whether it has no indexer, or none that is in force.
    pub reads_everything: bool,
    /// What it read, if recorded.
    pub selection: Option<Selection>,
    /// Where that lies.
    pub split: Option<Split>,
    /// Selected with a score of exactly 0, to fill up.
    pub n_zero_scores: Option<usize>,
    /// Share of it that the step before read, too.
    pub overlap_with_previous: Option<f32>,
    /// Share of it that the layer before read, too.
    pub overlap_with_layer_before: Option<f32>,
    /// Share of dense attention that lies on it.
    pub recall: Option<Recall>,
}

impl Facts {
    /// Computes them for the pass that read `query`.
    pub fn new(recording: &Recording, dense: Option<&Recording>, query: usize) -> Self {
        let header = recording.header();
        let is_recorded = recording.is_recorded(query);
        let layers: Vec<LayerFacts> = (0..header.n_layers)
            .map(|layer| {
                let selection = recording.selection(query, layer);
                LayerFacts {
                    reads_everything: header.index_topk.is_none()
                        || !header.sparse_layers.contains(&layer),
                    split: recording.split(query, layer),
                    n_zero_scores: recording.n_zero_scores(query, layer),
                    overlap_with_previous: recording.overlap_with_previous(query, layer),
                    overlap_with_layer_before: recording.overlap_with_layer_before(query, layer),
                    recall: dense.and_then(|dense| compare::recall(recording, dense, query, layer)),
                    selection,
                }
            })
            .collect();
        let rows = layers
            .iter()
            .map(|facts| facts.row(query, is_recorded))
            .collect();
        let greatest = |values: &[f32]| {
            let numbers = values.iter().copied().filter(|value| value.is_finite());
            numbers.fold(0.0, f32::max)
        };
        let greatest_weight = layers
            .iter()
            .filter_map(|facts| facts.selection.as_ref())
            .map(|selection| greatest(&selection.weights))
            .fold(0.0, f32::max);
        let mass = recording.attention_mass(query);
        Self {
            query,
            layers,
            rows,
            n_selecting: recording.n_layers_selecting(query),
            greatest_weight,
            greatest_mass: greatest(&mass),
            mass,
        }
    }

    /// Positions that could be read.
    pub fn n_visible(&self) -> usize {
        self.query + 1
    }

    /// Whether anything was recorded of what layers read.
    pub fn has_selections(&self) -> bool {
        self.layers.iter().any(|facts| facts.selection.is_some())
    }

    /// The layer with most attention on what it retrieved, neither sink nor recent; the first of equals.
    /// `None` if no layer has any.
    pub fn most_retrieving(&self) -> Option<usize> {
        let retrieved = |facts: &LayerFacts| -> f32 {
            let Some(selection) = &facts.selection else {
                return 0.0;
            };
            let cells = selection.positions.iter().zip(&selection.weights);
            cells
                .filter(|(_, weight)| !weight.is_nan())
                .filter(|(position, _)| {
                    facts.role(**position as usize, self.query) == Role::Retrieved
                })
                .map(|(_, weight)| weight)
                .sum()
        };
        let shares = self.layers.iter().map(retrieved).enumerate();
        shares
            .filter(|(_, share)| *share > 0.0)
            .max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0)))
            .map(|(layer, _)| layer)
    }

    /// Strength of a colour for an attention weight. The root makes the many small weights visible.
    pub fn strength(&self, weight: f32) -> f32 {
        if self.greatest_weight > 0.0 {
            (weight / self.greatest_weight).sqrt()
        } else {
            f32::NAN
        }
    }
}

impl LayerFacts {
    fn row(&self, query: usize, is_recorded: bool) -> SparseRow {
        let extent = query + 1;
        let Some(selection) = &self.selection else {
            let rest = if self.reads_everything && is_recorded {
                Role::Everything
            } else {
                Role::NotRecorded
            };
            return SparseRow {
                extent,
                rest: rest as u8,
                ..SparseRow::default()
            };
        };
        let cells =
            selection
                .positions
                .iter()
                .zip(&selection.weights)
                .map(|(&position, &value)| Cell {
                    value,
                    class: self.role(position as usize, query) as u8,
                });
        SparseRow {
            columns: selection.positions.clone(),
            cells: cells.collect(),
            extent,
            rest: Role::NotSelected as u8,
        }
    }

    /// What a position that this layer read stands for.
    pub fn role(&self, position: usize, query: usize) -> Role {
        if self.reads_everything {
            Role::Everything
        } else if position < N_SINK {
            Role::Sink
        } else if position + N_RECENT > query {
            Role::Recent
        } else {
            Role::Retrieved
        }
    }

    /// What is known of one position: score, rank by score among the selected (1 is best), weight.
    pub fn at(&self, position: usize) -> Option<At> {
        let selection = self.selection.as_ref()?;
        let slot = selection.positions.binary_search(&(position as u32)).ok()?;
        let score = selection.scores.get(slot).copied().unwrap_or(f32::NAN);
        let better = selection.scores.iter().filter(|&&other| other > score);
        Some(At {
            score: (!score.is_nan()).then_some(score),
            rank: (!score.is_nan()).then(|| better.count() + 1),
            weight: selection
                .weights
                .get(slot)
                .copied()
                .filter(|weight| !weight.is_nan()),
        })
    }

    /// The `n` positions with the greatest weight, or the greatest score where no weights were recorded; strongest
    /// first, the earlier of two equals first.
    pub fn strongest(&self, n: usize) -> Vec<usize> {
        let Some(selection) = &self.selection else {
            return Vec::new();
        };
        let has_weights = selection.weights.iter().any(|weight| !weight.is_nan());
        let values = if has_weights {
            &selection.weights
        } else {
            &selection.scores
        };
        let mut order: Vec<usize> = (0..values.len().min(selection.positions.len()))
            .filter(|&slot| !values[slot].is_nan())
            .collect();
        let stronger = |&a: &usize, &b: &usize| values[b].total_cmp(&values[a]).then(a.cmp(&b));
        // Of a hundred thousand positions only a few are wanted, in every frame.
        if order.len() > n {
            order.select_nth_unstable_by(n, stronger);
            order.truncate(n);
        }
        order.sort_by(stronger);
        order
            .into_iter()
            .map(|slot| selection.positions[slot] as usize)
            .collect()
    }
}

/// What is known of one position in one layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct At {
    /// Score of the indexer.
    pub score: Option<f32>,
    /// Rank by score among the selected, 1 for the best; equals share the better rank.
    pub rank: Option<usize>,
    /// Attention weight, mean over heads.
    pub weight: Option<f32>,
}
