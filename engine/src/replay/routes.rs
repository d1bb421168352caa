//! The expert routes of a run: recorded by position, looked up, cut, written and read.

use std::path::Path;

use safetensors::Dtype;
use serde::{Deserialize, Serialize};

use super::file::{Column, TraceFile, VERSION, write};
use super::misfit;
use crate::{Error, Result};

/// The experts that each token took in each mixture-of-experts layer, and their weights.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteTrace {
    n_routed_experts: usize,
    num_experts_per_tok: usize,
    first_position: usize,
    routes: Vec<LayerRoutes>, // by ascending layer
}

#[derive(Clone, Debug, PartialEq)]
struct LayerRoutes {
    layer: usize,
    experts: Vec<u16>, // [tokens, num_experts_per_tok]
    weights: Vec<f32>, // [tokens, num_experts_per_tok]
}

#[derive(Debug, Deserialize, Serialize)]
struct RouteHeader {
    kind: String,
    version: u32,
    n_routed_experts: usize,
    num_experts_per_tok: usize,
    first_position: usize,
    n_tokens: usize,
    layers: Vec<usize>,
}

// Weights are finite, so nothing is unequal to itself.
impl Eq for RouteTrace {}

impl RouteTrace {
    const KIND: &str = "routes";

    /// An empty trace for these mixture-of-experts layers (ascending), of tokens from
    /// `first_position` on.
    ///
    /// # Errors
    /// [`Error::Replay`] for layers that do not ascend, more experts than 65,536, or a token that
    /// takes none or more than there are.
    pub fn new(
        n_routed_experts: usize,
        num_experts_per_tok: usize,
        layers: &[usize],
        first_position: usize,
    ) -> Result<Self> {
        if n_routed_experts > 1 << 16 {
            return misfit(
                "route trace",
                format!("{n_routed_experts} experts"),
                "at most 65536",
            );
        }
        if !(1..=n_routed_experts).contains(&num_experts_per_tok) {
            return misfit(
                "route trace",
                format!("{num_experts_per_tok} experts a token"),
                format!("1 to {n_routed_experts}"),
            );
        }
        if let Some(pair) = layers.windows(2).find(|pair| pair[0] >= pair[1]) {
            let found = format!("layer {} after {}", pair[1], pair[0]);
            return misfit("route trace", found, "ascending layers");
        }
        let empty = |&layer| LayerRoutes {
            layer,
            experts: Vec::new(),
            weights: Vec::new(),
        };
        let routes = layers.iter().map(empty).collect();
        Ok(Self {
            n_routed_experts,
            num_experts_per_tok,
            first_position,
            routes,
        })
    }

    /// Adds what one or more tokens from `position` on took in `layer`: experts and weights of
    /// `[tokens, num_experts_per_tok]`. Positions of a layer follow each other without a gap.
    ///
    /// # Errors
    /// [`Error::Replay`] for a layer that is not in the trace, a position that is not the next one,
    /// rows of another length, an expert that does not exist or comes twice in a row, or a weight
    /// that is not finite.
    pub fn record(
        &mut self,
        layer: usize,
        position: usize,
        experts: &[u16],
        weights: &[f32],
    ) -> Result<()> {
        let what = || format!("routes of layer {layer} from position {position} on");
        let width = self.num_experts_per_tok;
        let Some(routes) = self.routes.iter_mut().find(|routes| routes.layer == layer) else {
            return misfit(
                what(),
                "no such layer in the trace",
                "a mixture-of-experts layer",
            );
        };
        let next = self.first_position + routes.experts.len() / width;
        if position != next {
            return misfit(
                what(),
                format!("position {position}"),
                format!("position {next}"),
            );
        }
        if experts.len() != weights.len() || !experts.len().is_multiple_of(width) {
            return misfit(
                what(),
                format!("{} experts and {} weights", experts.len(), weights.len()),
                format!("as many of each, {width} a token"),
            );
        }
        check_routes(experts, weights, width, self.n_routed_experts)
            .or_else(|(found, expected)| misfit(what(), found, expected))?;
        routes.experts.extend_from_slice(experts);
        routes.weights.extend_from_slice(weights);
        Ok(())
    }

    /// Experts and weights that the token at `position` took in `layer`, `num_experts_per_tok` of
    /// each; none if that was not recorded.
    pub fn get(&self, layer: usize, position: usize) -> Option<(&[u16], &[f32])> {
        let routes = self.routes.iter().find(|routes| routes.layer == layer)?;
        let width = self.num_experts_per_tok;
        let start = position
            .checked_sub(self.first_position)?
            .checked_mul(width)?;
        let row = start..start.checked_add(width)?;
        Some((routes.experts.get(row.clone())?, routes.weights.get(row)?))
    }

    /// Forgets the tokens from `position` on, for going back. If that is all of them, the trace
    /// goes on from `position`.
    pub fn truncate(&mut self, position: usize) {
        let n_tokens = position.saturating_sub(self.first_position);
        self.first_position = self.first_position.min(position);
        for routes in &mut self.routes {
            let keep = n_tokens.saturating_mul(self.num_experts_per_tok);
            routes.experts.truncate(keep);
            routes.weights.truncate(keep);
        }
    }

    /// Tokens that are recorded in every layer.
    pub fn len(&self) -> usize {
        let shortest = self.routes.iter().map(|routes| routes.experts.len()).min();
        shortest.unwrap_or(0) / self.num_experts_per_tok
    }

    /// Whether no token is recorded in every layer.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Position of the first token.
    pub fn first_position(&self) -> usize {
        self.first_position
    }

    /// Experts a token can be routed to, in each layer.
    pub fn n_routed_experts(&self) -> usize {
        self.n_routed_experts
    }

    /// Experts each token takes, in each layer.
    pub fn num_experts_per_tok(&self) -> usize {
        self.num_experts_per_tok
    }

    /// The layers of the trace, ascending.
    pub fn layers(&self) -> Vec<usize> {
        self.routes.iter().map(|routes| routes.layer).collect()
    }

    /// Refuses a trace of another model with [`Error::Replay`].
    pub fn check(
        &self,
        n_routed_experts: usize,
        num_experts_per_tok: usize,
        moe_layers: &[usize],
    ) -> Result<()> {
        let what = |name| format!("route trace, {name}");
        for (name, found, expected) in [
            ("n_routed_experts", self.n_routed_experts, n_routed_experts),
            (
                "num_experts_per_tok",
                self.num_experts_per_tok,
                num_experts_per_tok,
            ),
        ] {
            if found != expected {
                return misfit(what(name), found.to_string(), expected.to_string());
            }
        }
        if self.layers() != moe_layers {
            let found = format!("{:?}", self.layers());
            return misfit(
                what("mixture-of-experts layers"),
                found,
                format!("{moe_layers:?}"),
            );
        }
        Ok(())
    }

    /// Writes the trace: per layer `layer{L}.experts` (I32) and `layer{L}.weights` (F32), both
    /// `[tokens, num_experts_per_tok]`. An old file stays until the new one is complete.
    ///
    /// # Errors
    /// [`Error::Replay`] if a layer has more tokens than another, as after a step that broke off:
    /// truncate first. [`Error::Io`] if writing fails.
    pub fn save(&self, path: &Path) -> Result<()> {
        let n_tokens = self.len();
        let width = self.num_experts_per_tok;
        let mut columns = Vec::new();
        for LayerRoutes {
            layer,
            experts,
            weights,
        } in &self.routes
        {
            let found = experts.len() / width;
            if found != n_tokens {
                let what = format!("route trace, layer {layer}");
                return misfit(
                    what,
                    format!("{found} tokens"),
                    format!("{n_tokens}, as others"),
                );
            }
            let shape = vec![n_tokens, width];
            columns.push((
                experts_name(*layer),
                Column::new(Dtype::I32, shape.clone(), || {
                    experts
                        .iter()
                        .flat_map(|&expert| i32::from(expert).to_le_bytes())
                        .collect()
                }),
            ));
            columns.push((
                weights_name(*layer),
                Column::new(Dtype::F32, shape, || {
                    weights
                        .iter()
                        .flat_map(|weight| weight.to_le_bytes())
                        .collect()
                }),
            ));
        }
        let header = RouteHeader {
            kind: Self::KIND.into(),
            version: VERSION,
            n_routed_experts: self.n_routed_experts,
            num_experts_per_tok: width,
            first_position: self.first_position,
            n_tokens,
            layers: self.layers(),
        };
        write(path, &header, columns)
    }

    /// Reads a trace that [`RouteTrace::save`] wrote.
    ///
    /// # Errors
    /// [`Error::Io`] if reading fails, [`Error::BadFile`] for anything that [`RouteTrace::record`]
    /// would not have taken.
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|source| Error::io(path, source))?;
        let file = TraceFile::parse(path, &bytes, Self::KIND)?;
        let header: RouteHeader = file.header()?;
        let RouteHeader {
            n_routed_experts,
            num_experts_per_tok,
            n_tokens,
            ..
        } = header;
        let mut trace = Self::new(
            n_routed_experts,
            num_experts_per_tok,
            &header.layers,
            header.first_position,
        )
        .map_err(|error| file.bad(error.to_string()))?;
        if header.first_position.checked_add(n_tokens).is_none() {
            return Err(file.bad("positions beyond what can be counted"));
        }
        let names = header
            .layers
            .iter()
            .flat_map(|&l| [experts_name(l), weights_name(l)]);
        file.check_names(names.collect())?;
        for routes in &mut trace.routes {
            let shape = [n_tokens, num_experts_per_tok];
            let name = experts_name(routes.layer);
            for bytes in file.column(&name, Dtype::I32, &shape)?.as_chunks().0 {
                let expert = i32::from_le_bytes(*bytes);
                let expert = u16::try_from(expert).map_err(|_| {
                    let expected = format!("0 to {}", n_routed_experts - 1);
                    file.bad(format!(
                        "tensor {name:?} has expert {expert}, expected {expected}"
                    ))
                })?;
                routes.experts.push(expert);
            }
            let name = weights_name(routes.layer);
            let bytes = file.column(&name, Dtype::F32, &shape)?.as_chunks().0;
            routes
                .weights
                .extend(bytes.iter().map(|bytes| f32::from_le_bytes(*bytes)));
            let LayerRoutes {
                layer,
                experts,
                weights,
            } = routes;
            check_routes(experts, weights, num_experts_per_tok, n_routed_experts).map_err(
                |(found, expected)| {
                    file.bad(format!("layer {layer}: {found}, expected {expected}"))
                },
            )?;
        }
        if trace.len() != n_tokens {
            return Err(file.bad(format!("{n_tokens} tokens without a layer, expected 0")));
        }
        Ok(trace)
    }
}

/// Found and expected, for the first row that no gate gives.
fn check_routes(
    experts: &[u16],
    weights: &[f32],
    width: usize,
    n_routed_experts: usize,
) -> std::result::Result<(), (String, String)> {
    for (token, row) in experts.chunks_exact(width).enumerate() {
        for (place, &expert) in row.iter().enumerate() {
            if usize::from(expert) >= n_routed_experts {
                let found = format!("expert {expert} for token {token}");
                return Err((found, format!("0 to {}", n_routed_experts - 1)));
            }
            if row[..place].contains(&expert) {
                return Err((
                    format!("expert {expert} twice for token {token}"),
                    "once".into(),
                ));
            }
        }
    }
    match weights.iter().position(|weight| !weight.is_finite()) {
        Some(bad) => {
            let found = format!("weight {} for token {}", weights[bad], bad / width);
            Err((found, "finite weights".into()))
        }
        None => Ok(()),
    }
}

fn experts_name(layer: usize) -> String {
    format!("layer{layer}.experts")
}

fn weights_name(layer: usize) -> String {
    format!("layer{layer}.weights")
}
