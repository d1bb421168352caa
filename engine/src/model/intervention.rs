//! What a "what if" changes in a forward pass: positions pinned into the selection or banned from it,
//! experts switched off, routes and selections replayed.
//!
//! Attention is told what to read by one [`Selection`] a layer, whoever made it: the rules below are
//! applied where it is made, so layers that share a selection share what was done to it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{ForwardOptions, Selector};
use crate::config::Config;
use crate::replay::{RouteTrace, SelectionTrace};
use crate::selection::{Forced, Selection};
use crate::{Error, Result};

/// What a "what if" changes for the tokens that are fed under it. An empty one changes nothing, bit for
/// bit. The CPU and the portable devices have all of it, GPUs the replayed routes only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Intervention {
    /// Positions that every token at or after them reads, in layers that select: each takes the slot of
    /// the lowest-scoring position, so a selection keeps its size. Nothing changes where everything is
    /// read anyway.
    pub pinned: BTreeSet<usize>,
    /// Positions that no token after them reads, whether attention is sparse or dense; in a selection
    /// the next best score takes their slot. The token that stands there may still read itself, so
    /// there is always something to read.
    pub banned: BTreeSet<usize>,
    /// Layers in which `pinned` and `banned` hold, `None` for all. They must select for themselves: a
    /// layer that shares the selection of another ([`Config::selection_layer`]) shares its rules.
    pub layers: Option<BTreeSet<usize>>,
    /// Experts, as (layer, expert), that the gate does not choose, and that a replayed route does not
    /// bring back: see [`crate::route::route`].
    pub experts_off: BTreeSet<(usize, usize)>,
    /// Routes to take where they know a token, instead of the gate's choice. Weights are this pass's.
    pub routes: Option<Arc<RouteTrace>>,
    /// Selections to read by where they know a token, instead of its own, whatever `dense` and
    /// `index_topk` say. Banned positions are taken out of them and pinned ones added, without anything
    /// in exchange; a token that is left with nothing reads itself.
    pub selections: Option<Arc<SelectionTrace>>,
}

impl Intervention {
    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.pinned.is_empty()
            && self.banned.is_empty()
            && self.experts_off.is_empty()
            && self.routes.is_none()
            && self.selections.is_none()
    }

    /// What is forced in `layer`, which selects for itself.
    pub(crate) fn forced(&self, layer: usize) -> Forced {
        let holds = self
            .layers
            .as_ref()
            .is_none_or(|layers| layers.contains(&layer));
        if !holds {
            return Forced::default();
        }
        Forced {
            pinned: self.pinned.iter().copied().collect(),
            banned: self.banned.iter().copied().collect(),
        }
    }

    /// The experts of `layer` that are switched off, ascending.
    pub(crate) fn off(&self, layer: usize) -> Vec<usize> {
        self.experts_off
            .range((layer, 0)..=(layer, usize::MAX))
            .map(|&(_, expert)| expert)
            .collect()
    }

    /// What `n` tokens from `position` on read in `layer`, which selects for itself; `None` for
    /// everything up to each. `own` makes the model's own selection under `forced`, `None` where it
    /// reads everything; it is not called if all tokens are replayed.
    pub(crate) fn selection(
        &self,
        layer: usize,
        position: usize,
        n: usize,
        forced: &Forced,
        own: impl FnOnce() -> Result<Option<Selection>>,
    ) -> Result<Option<Selection>> {
        let known: Vec<Option<Vec<usize>>> = match &self.selections {
            None => vec![None; n],
            Some(trace) => (position..position + n)
                .map(|token| trace.get(layer, token))
                .collect(),
        };
        let any_known = known.iter().any(Option::is_some);
        let own = if known.iter().all(Option::is_some) {
            None
        } else {
            own()?
        };
        // A ban counts for tokens behind it.
        let any_banned = forced
            .banned
            .first()
            .is_some_and(|&banned| banned + 1 < position + n);
        match own {
            Some(own) if !any_known => return Ok(Some(own)),
            None if !any_known && !any_banned => return Ok(None),
            _ => {}
        }
        let rows: Vec<Vec<i32>> = known
            .iter()
            .enumerate()
            .map(|(row, known)| {
                let token = position + row;
                let own = own.as_ref().map(|own| own.row(row));
                read_by(token, known.as_deref(), own, forced)
            })
            .collect();
        let reads_all = |(row, read): (usize, &Vec<i32>)| read.len() == position + row + 1;
        if rows.iter().enumerate().all(reads_all) {
            return Ok(None);
        }
        let longest = rows.iter().map(Vec::len).max().unwrap_or(0);
        let k = own.map_or(0, |own| own.k).max(longest);
        let mut indices = Vec::with_capacity(n * k);
        for (row, read) in rows.iter().enumerate() {
            indices.extend_from_slice(read);
            indices.resize((row + 1) * k, -1);
        }
        Ok(Some(Selection { k, indices }))
    }

    /// Refuses what this model or device does not have, and what contradicts itself.
    pub(super) fn check(
        &self,
        config: &Config,
        options: &ForwardOptions,
        has_mtp: bool,
        on_gpu: bool,
    ) -> Result<()> {
        self.check_device(on_gpu)?;
        self.check_positions(config, options)?;
        let n_layers = config.num_hidden_layers + usize::from(has_mtp);
        for &layer in self.layers.iter().flatten() {
            if layer >= n_layers || config.selection_layer(layer) != layer {
                return Err(setting(
                    "layer to pin or ban in",
                    layer.to_string(),
                    if layer >= n_layers {
                        format!("below {n_layers}")
                    } else {
                        let owner = config.selection_layer(layer);
                        format!("{owner}: the layer whose selection it shares")
                    },
                ));
            }
        }
        self.check_experts(config, n_layers)?;
        if let Some(routes) = &self.routes {
            let Some(moe) = &config.moe else {
                return Err(setting(
                    "routes",
                    "a model without MoE layers".into(),
                    "one with experts to route to".into(),
                ));
            };
            routes.check(
                moe.n_routed_experts,
                moe.num_experts_per_tok,
                &config.moe_layers(),
            )?;
        }
        match &self.selections {
            Some(selections) => selections.check(config),
            None => Ok(()),
        }
    }

    fn check_device(&self, on_gpu: bool) -> Result<()> {
        let asked = [
            ("pinned positions", !self.pinned.is_empty()),
            ("banned positions", !self.banned.is_empty()),
            ("experts switched off", !self.experts_off.is_empty()),
            ("replayed selections", self.selections.is_some()),
        ];
        match asked.iter().find(|(_, asked)| *asked) {
            Some((name, _)) if on_gpu => Err(setting(
                name,
                "some".into(),
                "none: GPUs have no other than the model's own choice".into(),
            )),
            _ => Ok(()),
        }
    }

    fn check_positions(&self, config: &Config, options: &ForwardOptions) -> Result<()> {
        if let Some(both) = self.pinned.intersection(&self.banned).next() {
            return Err(setting(
                &format!("position {both}"),
                "pinned and banned".into(),
                "one of the two".into(),
            ));
        }
        let context = config.max_position_embeddings;
        for (name, positions) in [("pinned", &self.pinned), ("banned", &self.banned)] {
            if let Some(&last) = positions.last()
                && last >= context
            {
                return Err(setting(
                    &format!("{name} position"),
                    last.to_string(),
                    format!("below {context}, the length of the context"),
                ));
            }
        }
        if options.selector != Selector::Indexer
            && !options.dense
            && !(self.pinned.is_empty() && self.banned.is_empty())
        {
            return Err(setting(
                "selector",
                format!(
                    "{} with pinned or banned positions",
                    options.selector.name()
                ),
                "indexer: only it ranks what takes their place".into(),
            ));
        }
        if self.pinned.is_empty() {
            return Ok(());
        }
        let Some(indexer) = &config.indexer else {
            return Err(setting(
                "pinned positions",
                self.pinned.len().to_string(),
                "a model with an indexer: this one attends to everything".into(),
            ));
        };
        let k = options.index_topk.unwrap_or(indexer.index_topk);
        if !options.dense && self.pinned.len() > k {
            return Err(setting(
                "pinned positions",
                self.pinned.len().to_string(),
                format!("at most {k}: index_topk"),
            ));
        }
        Ok(())
    }

    fn check_experts(&self, config: &Config, n_layers: usize) -> Result<()> {
        for &(layer, expert) in &self.experts_off {
            let found = format!("{expert} of layer {layer}");
            let moe = match &config.moe {
                Some(moe) if layer < n_layers && config.is_moe(layer) => moe,
                _ => {
                    return Err(setting(
                        "expert to switch off",
                        found,
                        "one of a layer with experts".into(),
                    ));
                }
            };
            let n_experts = moe.n_routed_experts;
            if expert >= n_experts {
                let expected = format!("below {n_experts}, the experts of a layer");
                return Err(setting("expert to switch off", found, expected));
            }
            let (n_off, k) = (self.off(layer).len(), moe.num_experts_per_tok);
            if n_experts - n_off < k {
                return Err(setting(
                    "experts switched off",
                    format!("{n_off} of {n_experts} in layer {layer}"),
                    format!("at most {}: a token takes {k}", n_experts - k),
                ));
            }
        }
        Ok(())
    }
}

/// The positions that the token at `token` reads, ascending: of a replayed row, of the model's own under
/// the same rules already, or of everything.
fn read_by(
    token: usize,
    known: Option<&[usize]>,
    own: Option<&[i32]>,
    forced: &Forced,
) -> Vec<i32> {
    let allowed = |position: &usize| !forced.bans(token, *position);
    match (known, own) {
        (None, Some(own)) => own.to_vec(),
        (None, None) => (0..=token)
            .filter(allowed)
            .map(|position| position as i32)
            .collect(),
        (Some(known), _) => {
            let pinned = forced.pinned_for(token).iter();
            let mut read: BTreeSet<usize> = known.iter().chain(pinned).copied().collect();
            read.retain(allowed);
            if read.is_empty() {
                read.insert(token);
            }
            read.into_iter().map(|position| position as i32).collect()
        }
    }
}

fn setting(name: &str, found: String, expected: String) -> Error {
    Error::Setting {
        name: name.into(),
        found,
        expected,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panic")]
mod tests {
    use super::*;

    fn replayed(rows: &[(usize, &[usize])]) -> Intervention {
        let mut trace = SelectionTrace::new();
        for (token, positions) in rows {
            trace.record(0, *token, positions).unwrap();
        }
        Intervention {
            selections: Some(Arc::new(trace)),
            ..Intervention::default()
        }
    }

    fn forced(pinned: &[usize], banned: &[usize]) -> Forced {
        Forced {
            pinned: pinned.to_vec(),
            banned: banned.to_vec(),
        }
    }

    fn own(k: usize, indices: &[i32]) -> Result<Option<Selection>> {
        let indices = indices.to_vec();
        Ok(Some(Selection { k, indices }))
    }

    #[test]
    fn with_nothing_forced_the_own_selection_stays() {
        let none = Intervention::default();
        let all = none.selection(0, 3, 2, &Forced::default(), || Ok(None));
        assert_eq!(all.unwrap(), None);
        let own = || own(2, &[0, 1, 2, 4]);
        let some = none.selection(0, 3, 2, &Forced::default(), own).unwrap();
        assert_eq!(some.unwrap().indices, [0, 1, 2, 4]);
    }

    #[test]
    fn a_ban_in_dense_attention_leaves_everything_else_and_the_token_itself() {
        let none = Intervention::default();
        let rows = |position, n, banned: &[usize]| {
            let forced = forced(&[], banned);
            none.selection(0, position, n, &forced, || Ok(None))
                .unwrap()
        };
        let selection = rows(1, 3, &[0, 2]).unwrap();
        assert_eq!(selection.k, 2);
        assert_eq!(selection.indices, [1, -1, 1, 2, 1, 3]);
        // Nobody is behind them yet.
        assert_eq!(rows(1, 2, &[2, 9]), None);
        assert_eq!(rows(0, 1, &[0]), None);
    }

    #[test]
    fn a_replayed_row_takes_pins_loses_bans_and_is_never_empty() {
        let replayed = replayed(&[(2, &[0, 2]), (3, &[1]), (5, &[0, 1, 2, 3, 4, 5])]);
        let selection = replayed
            .selection(0, 2, 4, &forced(&[0], &[1]), || own(2, &[-7; 8]))
            .unwrap()
            .unwrap();
        // Token 4 is not known: its own row, which obeys the rules already, is taken as it is.
        assert_eq!(selection.row(0), [0, 2]);
        assert_eq!(selection.row(1), [0]);
        assert_eq!(selection.row(3), [0, 2, 3, 4, 5]);
        let alone = replayed
            .selection(0, 3, 1, &forced(&[], &[1]), || panic!("it is known"))
            .unwrap();
        assert_eq!(alone.unwrap().indices, [3]);
        let all = replayed.selection(0, 5, 1, &Forced::default(), || panic!("it is known"));
        assert_eq!(all.unwrap(), None);
    }
}
