//! The definition on a timeline: caches, selections, and attention over exactly what was selected.
//!
//! Scores are computed on the device and chosen by on the host, in chunks of rows that keep them within
//! [`WORKSPACE_BYTES`]; the choice is one piece of code for the CPU and every Burn device, so equal
//! scores give equal selections.

use std::ops::Range;

use burn::Tensor;
use burn::tensor::{DType, Device, TensorData};

use super::caches::{LayerCache, Pages, new_caches};
use super::forward::{Context, Definition, IndexParts, Projected};
use super::ops::{Angles, attend_absorbed, attend_expanded, hadamard, index_scores, linear};
use super::quantise::quantise;
use super::weights::Weights;
use crate::cache::{CacheFormat, KeyFormat, Layers};
use crate::checkpoint::Checkpoint;
use crate::config::{Config, FP8_BLOCK, MoeConfig};
use crate::model::{Body, Output, OutputBody, OutputRows, Span};
use crate::pass::{LogitRows, Pass, Scan, Scanned, WORKSPACE_BYTES};
use crate::rope::Rope;
use crate::selection::{Selection, top_k_with};
use crate::trace::Stage;
use crate::{Error, Result};

/// A model on a Burn device.
#[derive(Debug)]
pub(crate) struct PortableModel {
    weights: Weights,
    /// Of the gate of each layer, for choosing.
    biases: Vec<Option<Vec<f32>>>,
    rope: Rope,
    device: Device,
    dtype: DType,
    has_mtp: bool,
}

/// One timeline of a pass.
struct Timeline<'a> {
    model: &'a PortableModel,
    pass: Pass<'a>,
    caches: &'a mut [LayerCache],
    /// The layer of the first cache.
    first_layer: usize,
}

impl PortableModel {
    /// Expands a checkpoint that fits `config` onto `device`.
    pub fn load(
        checkpoint: &Checkpoint,
        config: &Config,
        has_mtp: bool,
        (device, dtype): (&Device, DType),
        max_bytes: usize,
        progress: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Option<Self>> {
        let kind = (device, dtype);
        let weights = Weights::load(checkpoint, config, has_mtp, kind, max_bytes, progress)?;
        let bias = |layer| {
            let name = format!("model.layers.{layer}.mlp.gate.e_score_correction_bias");
            let found = checkpoint.get(&name);
            found.map(crate::host::floats)
        };
        Ok(weights.map(|weights| Self {
            weights,
            biases: (0..=config.num_hidden_layers).map(bias).collect(),
            rope: Rope::new(config),
            device: device.clone(),
            dtype,
            has_mtp,
        }))
    }

    fn kind(&self) -> (&Device, DType) {
        (&self.device, self.dtype)
    }

    /// Logits of the rows that are asked for or watched, and the end of the pass.
    fn end(
        &self,
        definition: &Definition,
        hidden: &Tensor<2>,
        logit_rows: LogitRows,
        pass: &mut Pass,
    ) -> Result<Option<OutputRows>> {
        let n = pass.n;
        let logits = pass.logits_from(logit_rows).map(|from| {
            let rows = hidden.clone().narrow(0, from, n - from);
            (from, linear(rows, definition.lm_head()))
        });
        if let Some((from, logits)) = &logits {
            let read = |first, n| read_tensor(logits.clone().narrow(0, first - from, n));
            pass.record_end(Stage::Logits, read)?;
        }
        pass.trace.end();
        let logits = logits.map(|(_, logits)| OutputRows::new(TensorRows(logits)));
        Ok(match logit_rows {
            LogitRows::None => None,
            LogitRows::Last => logits.map(|rows| rows.slice(rows.n_rows() - 1, 1)),
            LogitRows::All => logits,
        })
    }
}

impl Body for PortableModel {
    fn new_cache(
        &self,
        config: &Config,
        layers: Range<usize>,
        format: CacheFormat,
    ) -> Result<Box<dyn Layers>> {
        Ok(Box::new(new_caches(config, layers, format)?))
    }

    fn forward(&self, config: &Config, spans: &mut [Span]) -> Result<Vec<Output>> {
        // One after the other: this is the definition, not the fast path.
        let one = |span: &mut Span| {
            let (ids, logit_rows) = (span.ids, span.logit_rows);
            let (pass, caches) = span.begin::<Vec<LayerCache>>(config)?;
            let angles = self.rope.angles(pass.position..pass.context());
            let angles = Angles::new(angles, pass.n, self.kind());
            let definition = Definition {
                config,
                weights: &self.weights,
                angles: &angles,
            };
            let mut timeline = Timeline {
                model: self,
                pass,
                caches,
                first_layer: 0,
            };
            let hidden = definition.forward(ids, &mut timeline)?;
            let mut pass = timeline.pass;
            pass.record_end(Stage::FinalHidden, |first, n| {
                read_tensor(hidden.clone().narrow(0, first, n))
            })?;
            Ok(Output {
                logits: self.end(&definition, &hidden, logit_rows, &mut pass)?,
                hidden: OutputRows::new(TensorRows(hidden)),
            })
        };
        spans.iter_mut().map(one).collect()
    }

    fn forward_mtp(
        &self,
        config: &Config,
        hidden: &OutputRows,
        span: &mut Span,
    ) -> Result<Option<OutputRows>> {
        let (ids, logit_rows) = (span.ids, span.logit_rows);
        let (TensorRows(rows), first) = hidden.of()?;
        let hidden = rows.clone().narrow(0, first, ids.len());
        let (pass, caches) = span.begin::<Vec<LayerCache>>(config)?;
        let angles = self.rope.angles(pass.position..pass.context());
        let angles = Angles::new(angles, pass.n, self.kind());
        let definition = Definition {
            config,
            weights: &self.weights,
            angles: &angles,
        };
        let mut timeline = Timeline {
            model: self,
            pass,
            caches,
            first_layer: config.num_hidden_layers,
        };
        let normed = definition.mtp(hidden, ids, &mut timeline)?;
        self.end(&definition, &normed, logit_rows, &mut timeline.pass)
    }

    fn has_mtp(&self) -> bool {
        self.has_mtp
    }

    fn resident_bytes(&self) -> usize {
        let elements = |(_, tensor): (&str, &Tensor<2>)| tensor.dims().iter().product::<usize>();
        self.weights.iter().map(elements).sum::<usize>() * 4
    }
}

impl Context for Timeline<'_> {
    type Error = Error;

    fn attend(&mut self, layer: usize, projected: Projected) -> Result<Tensor<2>> {
        let cache = &mut self.caches[layer - self.first_layer];
        cache.latent.push(projected.latent);
        cache.k_pe.push(projected.k_pe);
        let mut index = projected.index;
        if let (Some(index), Some((keys, format))) = (&mut index, &mut cache.keys) {
            index.prepare(*format);
            keys.push(index.k.clone());
        }
        let position = self.pass.position;
        let indexer = index.as_ref().zip(cache.keys.as_ref());
        let scan = indexer
            .map(|(index, (keys, _))| move |asked: Scan| scan(index, keys, position, &asked));
        self.pass.select(layer, scan)?;
        let reading = Reading::new(&self.pass, cache, self.model.kind());
        let (out, weights) = reading.attend(projected.q, projected.w_kvb, &self.pass, layer)?;
        if let Some(weights) = weights {
            self.pass.record_weights(layer, weights);
        }
        Ok(out)
    }

    fn route(
        &mut self,
        layer: usize,
        logits: Tensor<2>,
        moe: &MoeConfig,
    ) -> Result<(Vec<u16>, Tensor<2>)> {
        let n = self.pass.n;
        let bias = self.model.biases[layer].as_deref();
        // The weights of the choice, not those of its own formula: a replayed route is in them.
        let routes = self.pass.route(layer, read_tensor(logits)?, bias, moe)?;
        let data = TensorData::new(routes.weights, [n, moe.num_experts_per_tok]);
        let weights = Tensor::from_data(data, self.model.kind());
        Ok((routes.experts, weights))
    }

    fn after(&mut self, layer: usize, x: &Tensor<2>) -> Result<()> {
        let read = |first, n| read_tensor(x.clone().narrow(0, first, n));
        self.pass.record_residual(layer, read)
    }
}

impl IndexParts {
    /// Prepares queries and keys for a key cache of this format.
    fn prepare(&mut self, format: KeyFormat) {
        if format == KeyFormat::Fp8 {
            let [n, dim] = self.k.dims();
            let n_heads = self.w.dims()[1];
            self.k = hadamard(self.k.clone(), dim);
            let q = hadamard(self.q.clone(), dim).reshape([n * n_heads, dim]);
            self.q = quantise(q, FP8_BLOCK).reshape([n, n_heads * dim]);
        }
    }
}

/// Asks the indexer, in chunks of rows.
fn scan(index: &IndexParts, keys: &Pages, position: usize, asked: &Scan) -> Result<Scanned> {
    let [n, n_heads] = index.w.dims();
    let context = position + n;
    // The product before the sum over heads is the largest intermediate.
    let chunk = (WORKSPACE_BYTES / 4 / (context * n_heads)).clamp(1, n);
    let begin = match asked.k {
        Some(_) => 0,
        None => asked.keep.unwrap_or(n),
    };
    let (mut indices, mut kept) = (Vec::new(), Vec::new());
    for first in (begin..n).step_by(chunk) {
        let n = chunk.min(n - first);
        let q = index.q.clone().narrow(0, first, n);
        let w = index.w.clone().narrow(0, first, n);
        let parts = keys.parts();
        let parts = parts.map(|part| index_scores(q.clone(), w.clone(), part));
        let mut scores = read_tensor(Tensor::cat(parts.collect(), 1))?;
        for (row, scores) in scores.chunks_exact_mut(context).enumerate() {
            let token = position + first + row;
            scores[token + 1..].fill(f32::NEG_INFINITY);
            if let Some(k) = asked.k {
                let visible = &scores[..=token];
                if visible.iter().any(|score| score.is_nan()) {
                    return Err(Error::NanScores { position: token });
                }
                indices.extend(top_k_with(visible, k, asked.forced));
            }
            if asked.keep.is_some_and(|keep| first + row >= keep) {
                kept.extend_from_slice(scores);
            }
        }
    }
    Ok(Scanned {
        selection: asked.k.map(|k| Selection { k, indices }),
        scores: kept,
    })
}

/// What the rows of a pass read: the union of it, ascending; each row masks what is not its own.
struct Reading<'a> {
    union: Vec<i32>,
    latents: Tensor<2>,
    k_pe: Tensor<2>,
    kind: (&'a Device, DType),
}

impl<'a> Reading<'a> {
    fn new(pass: &Pass, cache: &LayerCache, kind: (&'a Device, DType)) -> Self {
        let union: Vec<i32> = match &pass.selection {
            None => (0..pass.context() as i32).collect(),
            Some(selection) => {
                let held = selection.indices.iter().copied().filter(|&s| s >= 0);
                let mut all: Vec<i32> = held.collect();
                all.sort_unstable();
                all.dedup();
                all
            }
        };
        Self {
            latents: cache.latent.gather(&union),
            k_pe: cache.k_pe.gather(&union),
            union,
            kind,
        }
    }

    /// Attention of all rows, in chunks; and the weights of the watched ones, `[rows, heads, slots]`.
    fn attend(
        &self,
        q: Tensor<2>,
        w_kvb: Tensor<2>,
        pass: &Pass,
        layer: usize,
    ) -> Result<(Tensor<2>, Option<Vec<f32>>)> {
        let heads = pass.config.heads();
        let n_keys = self.union.len();
        let kv = (pass.options.mha_prefill && pass.n > 1)
            .then(|| linear(self.latents.clone(), w_kvb.clone()));
        let chunk = (WORKSPACE_BYTES / 4 / (heads.n_heads * n_keys)).clamp(1, pass.n);
        let mut out = Vec::new();
        let mut kept = pass.weights_from(layer).map(|from| (from, Vec::new()));
        for first in (0..pass.n).step_by(chunk) {
            let n = chunk.min(pass.n - first);
            let q = q.clone().narrow(0, first, n);
            let (mask, k_pe) = (self.mask(pass, first, n), self.k_pe.clone());
            let (part, weights) = match &kv {
                None => {
                    let latents = self.latents.clone();
                    attend_absorbed(heads, q, w_kvb.clone(), latents, k_pe, mask)
                }
                Some(kv) => {
                    let mask = mask.reshape([1, 1, n, n_keys]);
                    let (part, weights) = attend_expanded(heads, 1, q, kv.clone(), k_pe, mask);
                    (part, weights.reshape([heads.n_heads, n, n_keys]))
                }
            };
            out.push(part);
            if let Some((from, kept)) = &mut kept {
                let weights = read_tensor(weights)?;
                for row in (*from).max(first)..first + n {
                    for head in 0..heads.n_heads {
                        let at = (head * n + row - first) * n_keys;
                        self.to_slots(pass, row, &weights[at..at + n_keys], kept);
                    }
                }
            }
        }
        Ok((Tensor::cat(out, 0), kept.map(|(_, kept)| kept)))
    }

    fn at(&self, position: i32) -> usize {
        let at = self.union.binary_search(&position);
        at.expect("the union holds every selected position")
    }

    /// 0 where a row may read an entry of the union, −∞ elsewhere: `[1, rows, union]`.
    fn mask(&self, pass: &Pass, first: usize, n: usize) -> Tensor<3> {
        let n_keys = self.union.len();
        let mut mask = vec![f32::NEG_INFINITY; n * n_keys];
        for (row, mask) in mask.chunks_exact_mut(n_keys).enumerate() {
            match &pass.selection {
                None => mask[..=pass.position + first + row].fill(0.0),
                Some(selection) => {
                    for &position in selection.row(first + row) {
                        mask[self.at(position)] = 0.0;
                    }
                }
            }
        }
        Tensor::from_data(TensorData::new(mask, [1, n, n_keys]), self.kind)
    }

    /// Appends the weights of one row and head, from union order `[union]` to the row's slots.
    fn to_slots(&self, pass: &Pass, row: usize, weights: &[f32], into: &mut Vec<f32>) {
        let Some(selection) = &pass.selection else {
            into.extend_from_slice(weights);
            return;
        };
        let held = selection.row(row);
        into.extend(held.iter().map(|&position| weights[self.at(position)]));
        into.extend(std::iter::repeat_n(0.0, selection.k - held.len()));
    }
}

/// Rows in a tensor.
#[derive(Debug)]
struct TensorRows(Tensor<2>);

impl OutputBody for TensorRows {
    fn shape(&self) -> [usize; 2] {
        self.0.dims()
    }

    fn read(&self, first: usize, n: usize) -> Result<Vec<f32>> {
        read_tensor(self.0.clone().narrow(0, first, n))
    }
}

/// Reads a tensor back as `f32`, row-major.
fn read_tensor<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>> {
    let failed = |problem: String| Error::Device {
        name: "in use".into(),
        problem,
    };
    let data: TensorData = tensor
        .try_into_data()
        .map_err(|error| failed(format!("lost or failed: {error:?}")))?;
    data.try_into_vec_as::<f32>()
        .map_err(|error| failed(format!("gave back unexpected data: {error:?}")))
}
