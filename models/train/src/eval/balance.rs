//! How evenly tokens are spread over the experts of each layer.

use std::collections::BTreeMap;

use engine::replay::RouteTrace;
use serde::Serialize;

/// Tokens that each expert of each layer took.
#[derive(Debug, Default)]
pub(super) struct Loads(BTreeMap<usize, Vec<u64>>);

impl Loads {
    /// Adds the routes of a run.
    pub(super) fn count(&mut self, routes: &RouteTrace) {
        for layer in routes.layers() {
            let loads = self.0.entry(layer).or_default();
            loads.resize(routes.n_routed_experts(), 0);
            for position in routes.first_position()..routes.first_position() + routes.len() {
                let (experts, _) = routes
                    .get(layer, position)
                    .expect("every recorded position has a route in every layer");
                for &expert in experts {
                    loads[usize::from(expert)] += 1;
                }
            }
        }
    }
}

/// How evenly the experts of a layer are used.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerBalance {
    /// Layer, from 0.
    pub layer: usize,
    /// Load of the busiest expert over the mean: 1 is even.
    pub busiest: f64,
    /// Load of the least busy expert over the mean: 1 is even, 0 never used.
    pub least: f64,
    /// Entropy of the loads over that of even ones: 1 is even, 0 is one expert alone.
    pub entropy: f64,
    /// Tokens that each expert took.
    pub loads: Vec<u64>,
}

/// By ascending layer; layers that saw no token are left out.
pub(super) fn of(loads: &Loads) -> Vec<LayerBalance> {
    let layers = loads.0.iter();
    layers
        .filter_map(|(&layer, loads)| layer_balance(layer, loads))
        .collect()
}

pub(super) fn layer_balance(layer: usize, loads: &[u64]) -> Option<LayerBalance> {
    let total: u64 = loads.iter().sum();
    let (most, least) = (*loads.iter().max()?, *loads.iter().min()?);
    if total == 0 {
        return None;
    }
    let mean = total as f64 / loads.len() as f64;
    let nats: f64 = loads
        .iter()
        .filter(|&&load| load > 0)
        .map(|&load| {
            let share = load as f64 / total as f64;
            -share * share.ln()
        })
        .sum();
    // A single expert is as even as it can be.
    let entropy = if loads.len() == 1 {
        1.0
    } else {
        nats / (loads.len() as f64).ln()
    };
    Some(LayerBalance {
        layer,
        busiest: most as f64 / mean,
        least: least as f64 / mean,
        entropy,
        loads: loads.to_vec(),
    })
}
