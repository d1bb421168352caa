//! What a run decided, kept so that training can repeat it: expert routes and sampling masks.
//!
//! Keep Routing and Keep Sampling Mask of DeepSeek-V3.2: a training step takes the experts that
//! inference took, and renormalises over the tokens that truncation kept. Both traces are
//! safetensors files, whose metadata holds one entry, "sparsight", with kind, version and shapes as
//! JSON. A trace in memory is always valid; a file is checked in full before it becomes one.
//! Taking the decisions is the business of the model and of [`crate::sampler`].

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use safetensors::{Dtype, SafeTensorError, SafeTensors, View, serialize_to_file};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Version of both file layouts.
const VERSION: u32 = 1;

/// The only entry of the metadata.
const METADATA_KEY: &str = "sparsight";

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

/// The tokens that truncation kept at each position whose token was drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct MaskTrace {
    vocab_size: usize,
    positions: Vec<usize>, // [masks], ascending; positions of a prompt are left out
    offsets: Vec<usize>,   // [masks + 1], where in `ids` each mask begins, and where the last ends
    ids: Vec<u32>,         // ascending within each mask
}

#[derive(Debug, Deserialize, Serialize)]
struct MaskHeader {
    kind: String,
    version: u32,
    vocab_size: usize,
    n_masks: usize,
    n_ids: usize,
}

impl MaskTrace {
    const KIND: &str = "masks";

    /// An empty trace for a vocabulary of this size.
    ///
    /// # Errors
    /// [`Error::Replay`] for a vocabulary whose ids do not fit the file's I32.
    pub fn new(vocab_size: usize) -> Result<Self> {
        if vocab_size > 1 << 31 {
            return misfit(
                "mask trace",
                format!("{vocab_size} ids"),
                "at most 2147483648",
            );
        }
        Ok(Self {
            vocab_size,
            positions: Vec::new(),
            offsets: vec![0],
            ids: Vec::new(),
        })
    }

    /// Adds the ascending `ids` that truncation kept for the token at `position`, which comes after
    /// all positions so far. Positions whose token was given, not drawn, are left out.
    ///
    /// # Errors
    /// [`Error::Replay`] for a position that is not after the last, or a mask that is empty, not
    /// ascending, or leaves the vocabulary.
    pub fn record(&mut self, position: usize, ids: &[u32]) -> Result<()> {
        let what = || format!("sampling mask of position {position}");
        if let Some(&last) = self.positions.last()
            && position <= last
        {
            return misfit(
                what(),
                format!("position {last} before it"),
                "ascending positions",
            );
        }
        check_mask(ids, self.vocab_size)
            .or_else(|(found, expected)| misfit(what(), found, expected))?;
        self.positions.push(position);
        self.ids.extend_from_slice(ids);
        self.offsets.push(self.ids.len());
        Ok(())
    }

    /// Ascending ids kept for the token at `position`; none if that token was not drawn.
    pub fn get(&self, position: usize) -> Option<&[u32]> {
        let mask = self.positions.binary_search(&position).ok()?;
        Some(&self.ids[self.offsets[mask]..self.offsets[mask + 1]])
    }

    /// Forgets the masks from `position` on, for going back.
    pub fn truncate(&mut self, position: usize) {
        let n_masks = self
            .positions
            .partition_point(|&recorded| recorded < position);
        self.positions.truncate(n_masks);
        self.offsets.truncate(n_masks + 1);
        self.ids.truncate(self.offsets[n_masks]);
    }

    /// How many positions have a mask.
    pub fn len(&self) -> usize {
        self.positions.len()
    }

    /// Whether no position has a mask.
    pub fn is_empty(&self) -> bool {
        self.positions.is_empty()
    }

    /// The positions that have a mask, ascending.
    pub fn positions(&self) -> &[usize] {
        &self.positions
    }

    /// Ids of masks are below this.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Refuses a trace of another vocabulary with [`Error::Replay`].
    pub fn check(&self, vocab_size: usize) -> Result<()> {
        if self.vocab_size == vocab_size {
            return Ok(());
        }
        let found = self.vocab_size.to_string();
        misfit("mask trace, vocab_size", found, vocab_size.to_string())
    }

    /// Writes the trace: `positions` (I64, `[masks]`), `offsets` (I64, `[masks + 1]`) and `ids`
    /// (I32). Mask `m` is `ids[offsets[m]..offsets[m + 1]]`. An old file stays until the new one is
    /// complete.
    ///
    /// # Errors
    /// [`Error::Io`] if writing fails.
    pub fn save(&self, path: &Path) -> Result<()> {
        let indices = |values: &[usize]| {
            values
                .iter()
                .flat_map(|&value| (value as i64).to_le_bytes())
                .collect()
        };
        let n_masks = self.positions.len();
        let n_ids = self.ids.len();
        let columns = vec![
            (
                "positions".into(),
                Column::new(Dtype::I64, vec![n_masks], || indices(&self.positions)),
            ),
            (
                "offsets".into(),
                Column::new(Dtype::I64, vec![n_masks + 1], || indices(&self.offsets)),
            ),
            (
                "ids".into(),
                Column::new(Dtype::I32, vec![n_ids], || {
                    self.ids.iter().flat_map(|id| id.to_le_bytes()).collect()
                }),
            ),
        ];
        let header = MaskHeader {
            kind: Self::KIND.into(),
            version: VERSION,
            vocab_size: self.vocab_size,
            n_masks,
            n_ids,
        };
        write(path, &header, columns)
    }

    /// Reads a trace that [`MaskTrace::save`] wrote.
    ///
    /// # Errors
    /// [`Error::Io`] if reading fails, [`Error::BadFile`] for anything that [`MaskTrace::record`]
    /// would not have taken.
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|source| Error::io(path, source))?;
        let file = TraceFile::parse(path, &bytes, Self::KIND)?;
        let MaskHeader {
            vocab_size,
            n_masks,
            n_ids,
            ..
        } = file.header()?;
        let mut trace = Self::new(vocab_size).map_err(|error| file.bad(error.to_string()))?;
        file.check_names(["positions", "offsets", "ids"].map(String::from).into())?;
        let positions = file.indices("positions", n_masks)?;
        let offsets = file.indices("offsets", n_masks.saturating_add(1))?;
        let ids: Vec<u32> = file
            .column("ids", Dtype::I32, &[n_ids])?
            .as_chunks()
            .0
            .iter()
            .map(|bytes| u32::from_le_bytes(*bytes))
            .collect();
        if let Some(pair) = offsets.windows(2).find(|pair| pair[0] > pair[1]) {
            let problem = format!("{} after {}", pair[1], pair[0]);
            return Err(file.bad(format!(
                "offsets hold {problem}, expected none to be smaller"
            )));
        }
        if (offsets[0], offsets[n_masks]) != (0, n_ids) {
            let found = format!("from {} to {}", offsets[0], offsets[n_masks]);
            return Err(file.bad(format!("offsets run {found}, expected 0 to {n_ids}")));
        }
        for (&position, bounds) in positions.iter().zip(offsets.windows(2)) {
            let mask = &ids[bounds[0]..bounds[1]];
            trace
                .record(position, mask)
                .map_err(|error| file.bad(error.to_string()))?;
        }
        Ok(trace)
    }
}

/// Found and expected, if these are not ids that truncation can keep.
fn check_mask(ids: &[u32], vocab_size: usize) -> std::result::Result<(), (String, String)> {
    let Some(&last) = ids.last() else {
        return Err(("0 ids".into(), "at least 1".into()));
    };
    if let Some(pair) = ids.windows(2).find(|pair| pair[0] >= pair[1]) {
        return Err((
            format!("id {} after {}", pair[1], pair[0]),
            "ascending ids".into(),
        ));
    }
    if last as usize >= vocab_size {
        return Err((format!("id {last}"), format!("ids below {vocab_size}")));
    }
    Ok(())
}

fn misfit<T>(
    what: impl Into<String>,
    found: impl Into<String>,
    expected: impl Into<String>,
) -> Result<T> {
    Err(Error::Replay {
        what: what.into(),
        found: found.into(),
        expected: expected.into(),
    })
}

fn experts_name(layer: usize) -> String {
    format!("layer{layer}.experts")
}

fn weights_name(layer: usize) -> String {
    format!("layer{layer}.weights")
}

/// A tensor whose bytes are made when they are written, so that a long trace is not held twice.
struct Column<'a> {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Box<dyn Fn() -> Vec<u8> + 'a>,
}

impl<'a> Column<'a> {
    fn new(dtype: Dtype, shape: Vec<usize>, bytes: impl Fn() -> Vec<u8> + 'a) -> Self {
        Self {
            dtype,
            shape,
            bytes: Box::new(bytes),
        }
    }
}

impl View for Column<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        (self.bytes)().into()
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.bitsize() / 8
    }
}

fn write(path: &Path, header: &impl Serialize, columns: Vec<(String, Column)>) -> Result<()> {
    let header = serde_json::to_string(header).expect("numbers and lists of them are always JSON");
    let metadata = HashMap::from([(METADATA_KEY.to_string(), header)]);
    // This writes to a temporary file in the same folder and renames that, so a full disk leaves
    // either the old file or the new one.
    serialize_to_file(columns, Some(metadata), path).map_err(|error| match error {
        SafeTensorError::IoError(source) => Error::io(path, source),
        other => Error::BadFile {
            path: path.into(),
            problem: other.to_string(),
        },
    })
}

/// A safetensors file whose kind and version are right.
struct TraceFile<'a> {
    path: &'a Path,
    header: serde_json::Value,
    tensors: SafeTensors<'a>,
}

impl<'a> TraceFile<'a> {
    fn parse(path: &'a Path, bytes: &'a [u8], kind: &str) -> Result<Self> {
        let bad = |problem: String| Error::BadFile {
            path: path.into(),
            problem,
        };
        let broken = |error: SafeTensorError| {
            bad(format!(
                "{} bytes that are no whole safetensors file: {error}",
                bytes.len()
            ))
        };
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(broken)?;
        let entry = metadata
            .metadata()
            .as_ref()
            .and_then(|entries| entries.get(METADATA_KEY));
        let Some(entry) = entry else {
            return Err(bad(format!(
                "no metadata entry {METADATA_KEY:?}, expected one"
            )));
        };
        let header: serde_json::Value = serde_json::from_str(entry)
            .map_err(|error| bad(format!("metadata entry {METADATA_KEY:?}: {error}")))?;
        for (key, expected) in [("kind", kind.into()), ("version", VERSION.into())] {
            let expected: serde_json::Value = expected;
            if header[key] != expected {
                return Err(bad(format!(
                    "{key} is {}, expected {expected}",
                    header[key]
                )));
            }
        }
        let tensors = SafeTensors::deserialize(bytes).map_err(broken)?;
        Ok(Self {
            path,
            header,
            tensors,
        })
    }

    fn bad(&self, problem: impl Into<String>) -> Error {
        Error::BadFile {
            path: self.path.into(),
            problem: problem.into(),
        }
    }

    fn header<T: DeserializeOwned>(&self) -> Result<T> {
        T::deserialize(&self.header)
            .map_err(|error| self.bad(format!("metadata entry {METADATA_KEY:?}: {error}")))
    }

    fn check_names(&self, expected: BTreeSet<String>) -> Result<()> {
        let found: BTreeSet<String> = self.tensors.names().into_iter().map(String::from).collect();
        if let Some(name) = found.symmetric_difference(&expected).next() {
            let problem = if expected.contains(name) {
                "is missing"
            } else {
                "is not expected"
            };
            return Err(self.bad(format!("tensor {name:?} {problem}")));
        }
        Ok(())
    }

    /// Bytes of a tensor that must have this type and shape.
    fn column(&self, name: &str, dtype: Dtype, shape: &[usize]) -> Result<&'a [u8]> {
        let tensor = self
            .tensors
            .tensor(name)
            .map_err(|error| self.bad(error.to_string()))?;
        if (tensor.dtype(), tensor.shape()) != (dtype, shape) {
            let found = format!("{:?} {:?}", tensor.dtype(), tensor.shape());
            return Err(self.bad(format!(
                "tensor {name:?} is {found}, expected {dtype:?} {shape:?}"
            )));
        }
        Ok(tensor.data())
    }

    /// A tensor of `n` counts or positions.
    fn indices(&self, name: &str, n: usize) -> Result<Vec<usize>> {
        let bytes = self.column(name, Dtype::I64, &[n])?.as_chunks().0;
        let index = |bytes: &[u8; 8]| {
            let value = i64::from_le_bytes(*bytes);
            usize::try_from(value)
                .map_err(|_| self.bad(format!("{name} hold {value}, expected 0 or more")))
        };
        bytes.iter().map(index).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::{Config, RngSeed};
    use tempfile::TempDir;

    use super::*;

    /// Layers 1 and 3, two of five experts, tokens at positions 4, 5 and 6.
    fn routes() -> RouteTrace {
        let mut trace = RouteTrace::new(5, 2, &[1, 3], 4).unwrap();
        // A chunk in one go, then token by token.
        trace
            .record(1, 4, &[0, 4, 1, 2], &[0.5, 2.0, -0.25, 0.0])
            .unwrap();
        trace.record(3, 4, &[3, 0], &[1e-30, f32::MAX]).unwrap();
        trace.record(3, 5, &[4, 3], &[1.0, 1.5]).unwrap();
        trace.record(1, 6, &[2, 0], &[2.25, 0.25]).unwrap();
        trace.record(3, 6, &[1, 0], &[1.25, 1.0]).unwrap();
        trace
    }

    /// Positions 7, 8 and 11 of a vocabulary of 10.
    fn masks() -> MaskTrace {
        let mut trace = MaskTrace::new(10).unwrap();
        trace.record(7, &[0, 3, 9]).unwrap();
        trace.record(8, &[5]).unwrap();
        trace.record(11, &[1, 2]).unwrap();
        trace
    }

    fn replay_error<T: std::fmt::Debug>(result: Result<T>) -> String {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Replay { .. }), "{error}");
        error.to_string()
    }

    #[test]
    fn routes_come_back_by_layer_and_position() {
        let trace = routes();
        assert_eq!(
            (trace.len(), trace.first_position(), trace.layers()),
            (3, 4, vec![1, 3])
        );
        assert_eq!(trace.get(1, 5), Some((&[1, 2][..], &[-0.25, 0.0][..])));
        assert_eq!(trace.get(3, 6), Some((&[1, 0][..], &[1.25, 1.0][..])));
        for (layer, position) in [(1, 3), (1, 7), (0, 4), (2, 4), (1, usize::MAX), (1, 0)] {
            assert_eq!(trace.get(layer, position), None, "{layer} {position}");
        }
    }

    #[test]
    fn the_length_counts_whole_tokens() {
        let mut trace = routes();
        trace.record(1, 7, &[0, 1], &[1.0, 1.0]).unwrap();
        assert_eq!(trace.len(), 3);
        assert!(trace.get(1, 7).is_some() && trace.get(3, 7).is_none());
        let dense = RouteTrace::new(5, 2, &[], 0).unwrap();
        assert!(dense.is_empty());
    }

    #[test]
    fn routes_go_back_and_on() {
        let mut trace = routes();
        trace.truncate(99);
        assert_eq!(trace, routes());
        trace.truncate(5);
        assert_eq!((trace.len(), trace.first_position()), (1, 4));
        trace.record(1, 5, &[1, 2], &[-0.25, 0.0]).unwrap();
        trace.record(3, 5, &[4, 3], &[1.0, 1.5]).unwrap();
        trace.record(1, 6, &[2, 0], &[2.25, 0.25]).unwrap();
        trace.record(3, 6, &[1, 0], &[1.25, 1.0]).unwrap();
        assert_eq!(trace, routes());
        trace.truncate(2);
        assert_eq!((trace.len(), trace.first_position()), (0, 2));
        trace.record(1, 2, &[0, 1], &[1.0, 1.0]).unwrap();
    }

    #[test]
    fn routes_no_gate_gives_are_refused() {
        let mut trace = routes();
        let good = [1.0, 1.0];
        for (result, expected) in [
            (trace.record(2, 7, &[0, 1], &good), "no such layer"),
            (
                trace.record(1, 8, &[0, 1], &good),
                "found position 8, expected position 7",
            ),
            (
                trace.record(1, 6, &[0, 1], &good),
                "found position 6, expected position 7",
            ),
            (trace.record(1, 7, &[0], &[1.0]), "1 experts and 1 weights"),
            (
                trace.record(1, 7, &[0, 1], &[1.0]),
                "2 experts and 1 weights",
            ),
            (
                trace.record(1, 7, &[0, 5], &good),
                "expert 5 for token 0, expected 0 to 4",
            ),
            (
                trace.record(1, 7, &[0, 1, 2, 2], &[1.0; 4]),
                "expert 2 twice for token 1",
            ),
            (trace.record(1, 7, &[0, 1], &[1.0, f32::NAN]), "weight NaN"),
            (
                trace.record(1, 7, &[0, 1], &[f32::INFINITY, 1.0]),
                "weight inf",
            ),
        ] {
            let message = replay_error(result);
            assert!(message.contains(expected), "{message}");
        }
        assert_eq!(trace, routes(), "a refused record leaves nothing behind");
        for (experts, taken, layers) in [
            (5, 0, &[1][..]),
            (5, 6, &[1]),
            (65_537, 2, &[1]),
            (5, 2, &[1, 1]),
            (5, 2, &[2, 1]),
        ] {
            replay_error(RouteTrace::new(experts, taken, layers, 0));
        }
        RouteTrace::new(65_536, 65_536, &[0], 0).unwrap();
    }

    #[test]
    fn traces_of_other_models_are_refused() {
        let trace = routes();
        trace.check(5, 2, &[1, 3]).unwrap();
        let message = replay_error(trace.check(6, 2, &[1, 3]));
        assert_eq!(
            message,
            "route trace, n_routed_experts: found 5, expected 6"
        );
        replay_error(trace.check(5, 3, &[1, 3]));
        replay_error(trace.check(5, 2, &[1, 2, 3]));
        masks().check(10).unwrap();
        replay_error(masks().check(11));
    }

    #[test]
    fn masks_come_back_by_position() {
        let trace = masks();
        assert_eq!((trace.len(), trace.positions()), (3, &[7, 8, 11][..]));
        assert_eq!(trace.get(7), Some(&[0, 3, 9][..]));
        assert_eq!(trace.get(11), Some(&[1, 2][..]));
        for position in [0, 6, 9, 10, 12, usize::MAX] {
            assert_eq!(trace.get(position), None, "{position}");
        }
    }

    #[test]
    fn masks_go_back_and_on() {
        let mut trace = masks();
        trace.truncate(12);
        assert_eq!(trace, masks());
        trace.truncate(9);
        assert_eq!(trace.len(), 2);
        trace.record(11, &[1, 2]).unwrap();
        assert_eq!(trace, masks());
        trace.truncate(0);
        assert_eq!(trace, MaskTrace::new(10).unwrap());
    }

    #[test]
    fn masks_no_truncation_gives_are_refused() {
        let mut trace = masks();
        for (result, expected) in [
            (trace.record(11, &[1]), "found position 11 before it"),
            (trace.record(12, &[]), "found 0 ids, expected at least 1"),
            (trace.record(12, &[1, 1]), "id 1 after 1"),
            (trace.record(12, &[2, 1]), "id 1 after 2"),
            (trace.record(12, &[9, 10]), "id 10, expected ids below 10"),
        ] {
            let message = replay_error(result);
            assert!(message.contains(expected), "{message}");
        }
        assert_eq!(trace, masks());
    }

    #[test]
    fn files_give_back_what_was_saved() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("trace.safetensors");
        for trace in [
            routes(),
            RouteTrace::new(5, 2, &[1], 9).unwrap(),
            RouteTrace::new(1, 1, &[], 0).unwrap(),
        ] {
            trace.save(&path).unwrap();
            assert_eq!(RouteTrace::load(&path).unwrap(), trace);
        }
        // Over the file that is there.
        for trace in [masks(), MaskTrace::new(0).unwrap()] {
            trace.save(&path).unwrap();
            assert_eq!(MaskTrace::load(&path).unwrap(), trace);
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_ragged_trace_is_not_saved() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("trace.safetensors");
        let mut trace = routes();
        trace.record(1, 7, &[0, 1], &[1.0, 1.0]).unwrap();
        let message = replay_error(trace.save(&path));
        assert_eq!(
            message,
            "route trace, layer 1: found 4 tokens, expected 3, as others"
        );
        assert!(!path.exists());
        trace.truncate(trace.first_position() + trace.len());
        trace.save(&path).unwrap();
    }

    #[test]
    fn a_failed_save_leaves_the_folder_as_it_was() {
        let folder = TempDir::new().unwrap();
        // A folder stands where the file should go, so the last step fails.
        let taken = folder.path().join("taken");
        std::fs::create_dir_all(taken.join("inside")).unwrap();
        for path in [taken.clone(), folder.path().join("missing").join("trace")] {
            let error = masks().save(&path).unwrap_err();
            assert!(matches!(error, Error::Io { .. }), "{error}");
            let error = MaskTrace::load(&path).unwrap_err();
            assert!(matches!(error, Error::Io { .. }), "{error}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(taken.join("inside").exists());
    }

    fn i32s(values: &[i32]) -> Vec<u8> {
        values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect()
    }

    fn i64s(values: &[i64]) -> Vec<u8> {
        values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect()
    }

    fn f32s(values: &[f32]) -> Vec<u8> {
        values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect()
    }

    type Tensor = (&'static str, Dtype, Vec<usize>, Vec<u8>);

    fn file(header: &str, tensors: Vec<Tensor>) -> Vec<u8> {
        let columns = tensors.into_iter().map(|(name, dtype, shape, bytes)| {
            (name, Column::new(dtype, shape, move || bytes.clone()))
        });
        let metadata = HashMap::from([(METADATA_KEY.to_string(), header.to_string())]);
        safetensors::serialize(columns, Some(metadata)).unwrap()
    }

    const ROUTES: &str = r#"{"kind": "routes", "version": 1, "n_routed_experts": 3,
        "num_experts_per_tok": 1, "first_position": 5, "n_tokens": 2, "layers": [4]}"#;
    const MASKS: &str =
        r#"{"kind": "masks", "version": 1, "vocab_size": 9, "n_masks": 2, "n_ids": 3}"#;

    fn route_file(header: &str, experts: &[i32], weights: &[f32]) -> Vec<u8> {
        file(
            header,
            vec![
                (
                    "layer4.experts",
                    Dtype::I32,
                    vec![experts.len(), 1],
                    i32s(experts),
                ),
                (
                    "layer4.weights",
                    Dtype::F32,
                    vec![weights.len(), 1],
                    f32s(weights),
                ),
            ],
        )
    }

    fn mask_file(header: &str, positions: &[i64], offsets: &[i64], ids: &[i32]) -> Vec<u8> {
        file(
            header,
            vec![
                (
                    "positions",
                    Dtype::I64,
                    vec![positions.len()],
                    i64s(positions),
                ),
                ("offsets", Dtype::I64, vec![offsets.len()], i64s(offsets)),
                ("ids", Dtype::I32, vec![ids.len()], i32s(ids)),
            ],
        )
    }

    fn load<T>(bytes: &[u8], load: impl Fn(&Path) -> Result<T>) -> Result<T> {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("trace.safetensors");
        std::fs::write(&path, bytes).unwrap();
        load(&path)
    }

    fn bad_file<T: std::fmt::Debug>(result: Result<T>, expected: &str) {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::BadFile { .. }), "{error}");
        assert!(
            error.to_string().contains(expected),
            "{error}, expected {expected:?}"
        );
    }

    #[test]
    fn bad_route_files_are_refused() {
        let good = route_file(ROUTES, &[2, 0], &[0.5, 1.5]);
        let trace = load(&good, RouteTrace::load).unwrap();
        assert_eq!(trace.get(4, 6), Some((&[0][..], &[1.5][..])));

        let other = |from: &str, to: &str| {
            assert!(ROUTES.contains(from));
            route_file(&ROUTES.replace(from, to), &[2, 0], &[0.5, 1.5])
        };
        let mut surplus = vec![("layer5.experts", Dtype::I32, vec![0, 1], vec![])];
        surplus.push(("layer4.experts", Dtype::I32, vec![2, 1], i32s(&[2, 0])));
        let missing = surplus[1..].to_vec();
        surplus.push(("layer4.weights", Dtype::F32, vec![2, 1], f32s(&[0.5, 1.5])));
        let u16 = vec![
            ("layer4.experts", Dtype::U16, vec![2, 1], vec![2, 0, 0, 0]),
            ("layer4.weights", Dtype::F32, vec![2, 1], f32s(&[0.5, 1.5])),
        ];
        for (bytes, expected) in [
            (
                other("routes", "masks"),
                "kind is \"masks\", expected \"routes\"",
            ),
            (
                other("\"version\": 1", "\"version\": 2"),
                "version is 2, expected 1",
            ),
            (other("\"version\": 1,", ""), "version is null, expected 1"),
            (other("\"n_tokens\": 2,", ""), "missing field `n_tokens`"),
            (
                other("\"n_tokens\": 2", "\"n_tokens\": -2"),
                "metadata entry",
            ),
            (
                other("\"n_tokens\": 2", "\"n_tokens\": 3"),
                "is I32 [2, 1], expected I32 [3, 1]",
            ),
            (
                other("\"layers\": [4]", "\"layers\": [4, 4]"),
                "layer 4 after 4",
            ),
            (
                other("\"layers\": [4]", "\"layers\": []"),
                "\"layer4.experts\" is not expected",
            ),
            (
                other("_position\": 5", "_position\": 18446744073709551615"),
                "positions beyond",
            ),
            (
                other("\"num_experts_per_tok\": 1", "\"num_experts_per_tok\": 0"),
                "0 experts a token",
            ),
            (route_file("{", &[2, 0], &[0.5, 1.5]), "metadata entry"),
            (route_file("7", &[2, 0], &[0.5, 1.5]), "kind is null"),
            (file(ROUTES, surplus), "\"layer5.experts\" is not expected"),
            (file(ROUTES, missing), "\"layer4.weights\" is missing"),
            (file(ROUTES, u16), "is U16 [2, 1], expected I32 [2, 1]"),
            (
                route_file(ROUTES, &[2, 3], &[0.5, 1.5]),
                "expert 3 for token 1, expected 0 to 2",
            ),
            (
                route_file(ROUTES, &[-1, 0], &[0.5, 1.5]),
                "expert -1, expected 0 to 2",
            ),
            (
                route_file(ROUTES, &[65_536, 0], &[0.5, 1.5]),
                "expert 65536, expected 0 to 2",
            ),
            (
                route_file(ROUTES, &[2, 0], &[0.5, f32::NAN]),
                "weight NaN for token 1",
            ),
            (
                route_file(ROUTES, &[2, 0], &[f32::NEG_INFINITY, 1.0]),
                "weight -inf for token 0",
            ),
            (Vec::new(), "0 bytes that are no whole safetensors file"),
            (
                b"not a trace at all".to_vec(),
                "18 bytes that are no whole safetensors file",
            ),
        ] {
            bad_file(load(&bytes, RouteTrace::load), expected);
        }
        let empty = ROUTES.replace("\"layers\": [4]", "\"layers\": []");
        bad_file(
            load(&file(&empty, vec![]), RouteTrace::load),
            "2 tokens without a layer",
        );
        let plain = safetensors::serialize(Vec::<(String, Column)>::new(), None).unwrap();
        bad_file(
            load(&plain, RouteTrace::load),
            "no metadata entry \"sparsight\"",
        );
    }

    #[test]
    fn bad_mask_files_are_refused() {
        let good = mask_file(MASKS, &[3, 5], &[0, 1, 3], &[8, 0, 1]);
        let trace = load(&good, MaskTrace::load).unwrap();
        assert_eq!(trace.get(5), Some(&[0, 1][..]));

        let vast = MASKS.replace("\"n_masks\": 2", "\"n_masks\": 18446744073709551615");
        for (bytes, expected) in [
            (
                mask_file(ROUTES, &[3, 5], &[0, 1, 3], &[8, 0, 1]),
                "kind is \"routes\"",
            ),
            (
                mask_file(&vast, &[3, 5], &[0, 1, 3], &[8, 0, 1]),
                "is I64 [2], expected",
            ),
            (
                mask_file(MASKS, &[3, 5], &[0, 3], &[8, 0, 1]),
                "is I64 [2], expected I64 [3]",
            ),
            (
                mask_file(MASKS, &[3, 5], &[0, 1, 3], &[8, 0]),
                "is I32 [2], expected I32 [3]",
            ),
            (
                mask_file(MASKS, &[3, 5], &[0, 4, 3], &[8, 0, 1]),
                "offsets hold 3 after 4",
            ),
            (
                mask_file(MASKS, &[3, 5], &[0, 1, 4], &[8, 0, 1]),
                "offsets run from 0 to 4",
            ),
            (
                mask_file(MASKS, &[3, 5], &[1, 2, 3], &[8, 0, 1]),
                "offsets run from 1 to 3",
            ),
            (
                mask_file(MASKS, &[3, 5], &[0, -1, 3], &[8, 0, 1]),
                "offsets hold -1",
            ),
            (
                mask_file(MASKS, &[3, 5], &[0, 0, 3], &[0, 1, 8]),
                "position 3: found 0 ids",
            ),
            (
                mask_file(MASKS, &[3, 3], &[0, 1, 3], &[8, 0, 1]),
                "found position 3 before it",
            ),
            (
                mask_file(MASKS, &[3, -5], &[0, 1, 3], &[8, 0, 1]),
                "positions hold -5",
            ),
            (
                mask_file(MASKS, &[3, 5], &[0, 1, 3], &[8, 1, 1]),
                "id 1 after 1",
            ),
            (
                mask_file(MASKS, &[3, 5], &[0, 1, 3], &[9, 0, 1]),
                "id 9, expected ids below 9",
            ),
            (
                mask_file(MASKS, &[3, 5], &[0, 1, 3], &[-1, 0, 1]),
                "expected ids below 9",
            ),
        ] {
            bad_file(load(&bytes, MaskTrace::load), expected);
        }
    }

    #[test]
    fn no_beginning_of_a_file_is_a_file() {
        let routes = route_file(ROUTES, &[2, 0], &[0.5, 1.5]);
        let masks = mask_file(MASKS, &[3, 5], &[0, 1, 3], &[8, 0, 1]);
        for length in 0..routes.len() {
            bad_file(
                load(&routes[..length], RouteTrace::load),
                "no whole safetensors file",
            );
        }
        for length in 0..masks.len() {
            bad_file(
                load(&masks[..length], MaskTrace::load),
                "no whole safetensors file",
            );
        }
    }

    proptest! {
        #![proptest_config(Config {
            rng_seed: RngSeed::Fixed(32),
            failure_persistence: None,
            ..Config::with_cases(200)
        })]

        #[test]
        fn damaged_files_never_panic(
            flips in prop::collection::vec((0_usize..1000, any::<u8>()), 1..4),
        ) {
            for mut bytes in [
                route_file(ROUTES, &[2, 0], &[0.5, 1.5]),
                mask_file(MASKS, &[3, 5], &[0, 1, 3], &[8, 0, 1]),
            ] {
                for &(at, with) in &flips {
                    let at = at % bytes.len();
                    bytes[at] ^= with;
                }
                // Some flips still make a valid trace; whatever loads must save again.
                let folder = TempDir::new().unwrap();
                let path = folder.path().join("again");
                if let Ok(trace) = load(&bytes, RouteTrace::load) {
                    trace.save(&path).unwrap();
                    prop_assert_eq!(RouteTrace::load(&path).unwrap(), trace);
                }
                if let Ok(trace) = load(&bytes, MaskTrace::load) {
                    trace.save(&path).unwrap();
                    prop_assert_eq!(MaskTrace::load(&path).unwrap(), trace);
                }
            }
        }

        #[test]
        fn masks_survive_the_file_and_going_back(
            rows in prop::collection::btree_map(
                0_usize..500,
                prop::collection::btree_set(0_u32..129_280, 1..20),
                0..20,
            ),
            back_to in 0_usize..500,
        ) {
            let mut trace = MaskTrace::new(129_280).unwrap();
            for (&position, ids) in &rows {
                let ids: Vec<u32> = ids.iter().copied().collect();
                trace.record(position, &ids).unwrap();
            }
            let folder = TempDir::new().unwrap();
            let path = folder.path().join("masks");
            trace.save(&path).unwrap();
            prop_assert_eq!(&MaskTrace::load(&path).unwrap(), &trace);
            trace.truncate(back_to);
            for (position, ids) in &rows {
                let ids: Vec<u32> = ids.iter().copied().collect();
                let want = (*position < back_to).then_some(&ids[..]);
                prop_assert_eq!(trace.get(*position), want);
            }
        }
    }
}
