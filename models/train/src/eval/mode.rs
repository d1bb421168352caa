//! The ways of attention that are compared.

use engine::model::{ForwardOptions, Selector};
use serde::Serialize;

/// A way of attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Every position.
    Dense,
    /// Those that the indexer chooses.
    Indexer,
    /// As many, drawn by lot.
    Random,
    /// As many, the last ones.
    Recent,
}

impl Mode {
    /// All of them, the two that a model is made for first.
    pub const ALL: [Self; 4] = [Self::Dense, Self::Indexer, Self::Random, Self::Recent];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dense => "dense",
            Self::Indexer => "indexer",
            Self::Random => "random",
            Self::Recent => "recent",
        }
    }

    /// The engine's options for it.
    pub fn forward(self, index_topk: Option<usize>, seed: u64) -> ForwardOptions {
        let selector = match self {
            Self::Dense | Self::Indexer => Selector::Indexer,
            Self::Random => Selector::Random { seed },
            Self::Recent => Selector::Recent,
        };
        ForwardOptions {
            index_topk: index_topk.filter(|_| self != Self::Dense),
            selector,
            dense: self == Self::Dense,
            ..ForwardOptions::default()
        }
    }
}
