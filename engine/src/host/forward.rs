//! The forward pass on the CPU, top-down, in the order of the official code and under its names.
//!
//! Activations are rows of `f32`, one a token, those of all timelines of a pass one below the other.
//! Whatever treats rows one by one takes them all at once, so that a weight is read once a pass; what
//! looks back goes timeline by timeline. A row's bits depend on its own timeline only.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Instant;

use super::index::{Queries, index_scores, select};
use super::keys::KeyCache;
use super::model::{
    Block, FeedForward, HostModel, Indexer, LayerCache, Mla, Mlp, Moe, QueryProjection, new_caches,
};
use super::weight::Weight;
use super::{AttentionWeights, Call, attend, attend_mha, hadamard, rows};
use crate::cache::{CacheFormat, KeyFormat, Layers};
use crate::config::{Config, LATENT_EPS};
use crate::model::{Body, HostRows, Output, OutputRows, Span};
use crate::pass::{LogitRows, Pass, Scan, Scanned};
use crate::rope::{Angles, Layout};
use crate::trace::Stage;
use crate::{Error, Result};

/// The rows of one timeline among those of a pass.
struct Timeline<'a> {
    rows: Range<usize>,
    caches: &'a mut Vec<LayerCache>,
    pass: Pass<'a>,
}

/// What all layers of a pass share.
struct Step<'a> {
    config: &'a Config,
    timelines: Vec<Timeline<'a>>,
    /// Of every row.
    angles: Angles,
    /// Rows of all timelines.
    n: usize,
}

impl Body for HostModel {
    fn new_cache(
        &self,
        config: &Config,
        layers: Range<usize>,
        format: CacheFormat,
    ) -> Result<Box<dyn Layers>> {
        Ok(Box::new(new_caches(config, layers, format)?))
    }

    fn forward(&self, config: &Config, spans: &mut [Span]) -> Result<Vec<Output>> {
        let ids: Vec<u32> = spans.iter().flat_map(|span| span.ids).copied().collect();
        let logit_rows: Vec<_> = spans.iter().map(|span| span.logit_rows).collect();
        let mut step = Step::new(self, config, spans)?;
        super::run(|| {
            let x = step.timed("embed", None, self.embedded_bytes(ids.len()), || {
                self.embed(&ids)
            });
            let hidden = self.forward_layers(x, &mut step)?;
            let mut from = Vec::new();
            for (timeline, logit_rows) in step.timelines.iter_mut().zip(&logit_rows) {
                let rows = timeline.rows_of(&hidden, config.hidden_size);
                timeline.record_end(Stage::FinalHidden, rows)?;
                from.push(timeline.pass.logits_from(*logit_rows));
            }
            let all = self.head(&hidden, &from, &mut step);
            let outputs = step.timelines.iter_mut().zip(&logit_rows).zip(all);
            outputs
                .map(|((timeline, rows), logits)| timeline.end(&hidden, logits, *rows))
                .collect()
        })
    }

    fn forward_mtp(
        &self,
        config: &Config,
        hidden: &OutputRows,
        span: &mut Span,
    ) -> Result<Option<OutputRows>> {
        let mtp = self
            .mtp
            .as_ref()
            .expect("the model has found its MTP layer");
        let (ids, logit_rows) = (span.ids, span.logit_rows);
        let hidden = {
            let (rows, first) = hidden.of::<HostRows>()?;
            let width = rows.width;
            rows.data[first * width..][..ids.len() * width].to_vec()
        };
        let spans = std::slice::from_mut(span);
        let mut step = Step::new(self, config, spans)?;
        super::run(|| {
            let (eps, width) = (config.rms_norm_eps, config.hidden_size);
            let layer = mtp.block.index;
            let embedded = step.timed("embed", layer, self.embedded_bytes(ids.len()), || {
                self.embed(ids)
            });
            let norm_bytes = 4 * (mtp.enorm.len() + mtp.hnorm.len());
            let joined = step.timed("norm", layer, norm_bytes, || {
                let embedded = rms_norm(&embedded, &mtp.enorm, eps);
                join(&embedded, &rms_norm(&hidden, &mtp.hnorm, eps), width)
            });
            let [x] = step.timed("project", layer, mtp.eh_proj.bytes(), || {
                linear(&joined, [&mtp.eh_proj])
            });
            let x = mtp.block.forward(x, 0, &mut step)?;
            let norm = &mtp.shared_head_norm;
            let normed = step.timed("norm", None, 4 * norm.len(), || rms_norm(&x, norm, eps));
            let from = [step.timelines[0].pass.logits_from(logit_rows)];
            let logits = self.head(&normed, &from, &mut step).remove(0);
            Ok(step.timelines[0].end(&normed, logits, logit_rows)?.logits)
        })
    }

    fn has_mtp(&self) -> bool {
        self.mtp.is_some()
    }

    fn resident_bytes(&self) -> usize {
        self.bytes()
    }
}

impl HostModel {
    fn embed(&self, ids: &[u32]) -> Vec<f32> {
        let rows = ids.iter().map(|&id| id as usize);
        self.embed_tokens.rows_to_f32(rows)
    }

    fn embedded_bytes(&self, n: usize) -> usize {
        n * (self.embed_tokens.bytes() / self.embed_tokens.rows)
    }

    fn forward_layers(&self, mut x: Vec<f32>, step: &mut Step) -> Result<Vec<f32>> {
        for (at, block) in self.layers.iter().enumerate() {
            x = block.forward(x, at, step)?;
        }
        let eps = step.config.rms_norm_eps;
        Ok(step.timed("norm", None, 4 * self.norm.len(), || {
            rms_norm(&x, &self.norm, eps)
        }))
    }

    /// Logits of each timeline's rows from the one that `from` says.
    fn head(
        &self,
        hidden: &[f32],
        from: &[Option<usize>],
        step: &mut Step,
    ) -> Vec<Option<Vec<f32>>> {
        let width = step.config.hidden_size;
        let wanted: Vec<Range<usize>> = (step.timelines.iter().zip(from))
            .map(|(timeline, from)| match from {
                Some(from) => timeline.rows.start + from..timeline.rows.end,
                None => 0..0,
            })
            .collect();
        let rows: Vec<f32> = wanted
            .iter()
            .flat_map(|rows| &hidden[rows.start * width..rows.end * width])
            .copied()
            .collect();
        if rows.is_empty() {
            return vec![None; from.len()];
        }
        let [mut logits] = step.timed("head", None, self.lm_head.bytes(), || {
            linear(&rows, [&self.lm_head])
        });
        let mut each = Vec::new();
        for (rows, from) in wanted.iter().zip(from) {
            let rest = logits.split_off(rows.len() * self.lm_head.rows);
            let mine = std::mem::replace(&mut logits, rest);
            each.push(from.map(|_| mine));
        }
        each
    }
}

impl Block {
    /// `x` `[rows, hidden_size]` to the same; `at` is this layer's place among the caches.
    fn forward(&self, mut x: Vec<f32>, at: usize, step: &mut Step) -> Result<Vec<f32>> {
        let (eps, layer) = (step.config.rms_norm_eps, self.index);
        let norm = &self.input_layernorm;
        let normed = step.timed("norm", layer, 4 * norm.len(), || rms_norm(&x, norm, eps));
        let attended = self.self_attn.forward(&normed, layer, at, step)?;
        let norm = &self.post_attention_layernorm;
        let normed = step.timed("norm", layer, 4 * norm.len(), || {
            add(&mut x, &attended);
            rms_norm(&x, norm, eps)
        });
        let fed = match &self.mlp {
            FeedForward::Dense(mlp) => {
                step.timed("mlp", layer, mlp.bytes(), || mlp.forward(&normed))
            }
            FeedForward::Moe(moe) => moe.forward(&normed, layer, step)?,
        };
        add(&mut x, &fed);
        let width = step.config.hidden_size;
        for timeline in &mut step.timelines {
            let rows = timeline.rows_of(&x, width);
            let read = |first: usize, n: usize| Ok(rows[first * width..][..n * width].to_vec());
            timeline.pass.record_residual(layer, read)?;
        }
        Ok(x)
    }
}

impl Mla {
    /// `x` `[rows, hidden_size]`, normed, to the same.
    fn forward(&self, x: &[f32], layer: usize, at: usize, step: &mut Step) -> Result<Vec<f32>> {
        let config = step.config;
        let heads = config.heads();
        let (n, width) = (step.n, heads.n_heads * heads.dv);
        let Projected {
            mut q,
            kv,
            mut index,
        } = self.project(x, layer, step);

        let clock = step.clock();
        let (dq, dkv) = (heads.dn + heads.dr, heads.rank + heads.dr);
        let (latent, mut k_pe) = columns(&kv, dkv, heads.rank);
        let latent = rms_norm(&latent, &self.kv_a_layernorm, LATENT_EPS);
        step.rope(&mut q, dq, layout(heads.n_heads, heads.dn, true));
        step.rope(&mut k_pe, heads.dr, layout(1, 0, true));
        for timeline in &mut step.timelines {
            let latent = timeline.rows_of(&latent, heads.rank);
            let k_pe = timeline.rows_of(&k_pe, heads.dr);
            timeline.caches[at].latent.push(latent, k_pe);
        }
        let latent_bytes = |cache: &LayerCache| config.latent_bytes(cache.latent.format());
        step.timed_each(clock, "latents", layer, |timeline| {
            let each = latent_bytes(&timeline.caches[at]);
            4 * self.kv_a_layernorm.len() + timeline.pass.n * each
        });
        if let (Some(index), Some(indexer)) = (&mut index, &self.indexer) {
            indexer.prepare(index, layer, at, step);
        }

        let mut out = vec![0.0; n * width];
        for timeline in &mut step.timelines {
            let Timeline { rows, caches, pass } = timeline;
            let (cache, position) = (&caches[at], pass.position);
            let n_keys = seen(position, pass.n);
            let clock = pass.trace.clock();
            let mut read_bytes = 0;
            let indexer = index.as_ref().zip(cache.keys.as_ref());
            let scan = indexer.map(|(index, keys)| {
                let (rows, read_bytes) = (rows.clone(), &mut read_bytes);
                move |scan: Scan| {
                    // What is scanned for a trace alone is no work of the op.
                    if scan.k.is_some() {
                        *read_bytes = n_keys * config.key_bytes(keys.format());
                    }
                    index.scan(rows.clone(), position, keys, &scan)
                }
            });
            pass.select(layer, scan)?;
            if config.selection_layer(layer) == layer {
                pass.trace.timed(clock, "select", layer, || read_bytes);
            }

            let clock = pass.trace.clock();
            let selection = pass.selection.as_ref();
            let weights_from = pass.weights_from(layer);
            let mut weights = weights_from.map(AttentionWeights::new);
            let call = Call {
                heads,
                q: &q[rows.start * heads.n_heads * dq..rows.end * heads.n_heads * dq],
                w_kvb: self.kv_b_proj.matrix(),
                cache: &cache.latent,
                position,
                selection,
            };
            let out = &mut out[rows.start * width..rows.end * width];
            match pass.options.mha_prefill && pass.n > 1 {
                true => attend_mha(call, out, weights.as_mut()),
                false => attend(call, out, weights.as_mut()),
            }
            let read_bytes = || {
                let n_read = match selection {
                    None => n_keys,
                    Some(selection) => (0..pass.n).map(|row| selection.row(row).len()).sum(),
                };
                self.kv_b_proj.bytes() + n_read * latent_bytes(cache)
            };
            pass.trace.timed(clock, "attention", layer, read_bytes);
            if let Some(weights) = weights {
                pass.record_weights(layer, weights.data);
            }
        }
        let [out] = step.timed("o_proj", layer, self.o_proj.bytes(), || {
            linear(&out, [&self.o_proj])
        });
        Ok(out)
    }

    /// All projections of `x`, those that share an input in one go.
    fn project(&self, x: &[f32], layer: usize, step: &mut Step) -> Projected {
        let kv_a = &self.kv_a_proj_with_mqa;
        let (q_a_proj, q_a_layernorm, q_b_proj) = match &self.q {
            QueryProjection::Direct(q_proj) => {
                let shared = [q_proj, kv_a];
                let [q, kv] = step.timed("project", layer, bytes(shared), || linear(x, shared));
                return Projected { q, kv, index: None };
            }
            QueryProjection::Latent {
                q_a_proj,
                q_a_layernorm,
                q_b_proj,
            } => (q_a_proj, q_a_layernorm, q_b_proj),
        };
        let norm_bytes = 4 * q_a_layernorm.len();
        let Some(indexer) = &self.indexer else {
            let shared = [q_a_proj, kv_a];
            let [qr, kv] = step.timed("project", layer, bytes(shared), || linear(x, shared));
            let [q] = step.timed("queries", layer, norm_bytes + q_b_proj.bytes(), || {
                linear(&rms_norm(&qr, q_a_layernorm, LATENT_EPS), [q_b_proj])
            });
            return Projected { q, kv, index: None };
        };
        let shared = [q_a_proj, kv_a, &indexer.wk, &indexer.weights_proj];
        let [qr, kv, k, w] = step.timed("project", layer, bytes(shared), || linear(x, shared));
        let from_latent = [q_b_proj, &indexer.wq_b];
        let [q, index_q] = step.timed("queries", layer, norm_bytes + bytes(from_latent), || {
            linear(&rms_norm(&qr, q_a_layernorm, LATENT_EPS), from_latent)
        });
        let n_heads = indexer.weights_proj.rows;
        let index = Index {
            q: index_q,
            k,
            w,
            n_heads,
            dim: indexer.wk.rows,
        };
        Projected {
            q,
            kv,
            index: Some(index),
        }
    }
}

struct Projected {
    /// `[rows, heads × (dn + dr)]`, not yet rotated.
    q: Vec<f32>,
    /// `[rows, kv_lora_rank + dr]`.
    kv: Vec<f32>,
    index: Option<Index>,
}

/// What the indexer is asked by all rows.
struct Index {
    /// `[rows, index_n_heads × index_head_dim]`.
    q: Vec<f32>,
    /// `[rows, index_head_dim]`.
    k: Vec<f32>,
    /// `[rows, index_n_heads]`.
    w: Vec<f32>,
    n_heads: usize,
    dim: usize,
}

impl Indexer {
    /// Norms, rotates and caches the keys; rotates the queries and scales the head weights.
    fn prepare(&self, index: &mut Index, layer: usize, at: usize, step: &mut Step) {
        let sizes = step.config.indexer.as_ref();
        let interleaved = sizes.is_some_and(|sizes| sizes.indexer_rope_interleave);
        let (n_heads, dim) = (index.n_heads, index.dim);
        let clock = step.clock();
        // Rotated channels come first here, last in MLA.
        let [weight, bias] = &self.k_norm;
        let mut k = vec![0.0; index.k.len()];
        rows::layer_norm(&index.k, weight, bias, LATENT_EPS, &mut k);
        step.rope(&mut k, dim, layout(1, 0, interleaved));
        step.rope(&mut index.q, dim, layout(n_heads, 0, interleaved));
        let scale = ((n_heads * dim) as f32).sqrt().recip();
        index.w.iter_mut().for_each(|w| *w *= scale);
        for timeline in &mut step.timelines {
            let keys = timeline.caches[at].keys.as_mut();
            let keys = keys.expect("a layer with an indexer caches its keys");
            let rows = timeline.rows.clone();
            let k = &mut k[rows.start * dim..rows.end * dim];
            if keys.format() == KeyFormat::Fp8 {
                let q = &mut index.q[rows.start * n_heads * dim..rows.end * n_heads * dim];
                hadamard(k, dim);
                hadamard(q, dim);
                super::round_fp8(q, dim);
            }
            keys.push(k);
        }
        step.timed_each(clock, "index_query", layer, |timeline| {
            let keys = timeline.caches[at].keys.as_ref().map(KeyCache::format);
            let each = keys.map_or(0, |format| timeline.pass.config.key_bytes(format));
            8 * self.k_norm[0].len() + timeline.pass.n * each
        });
    }
}

impl Index {
    fn scan(
        &self,
        rows: Range<usize>,
        position: usize,
        keys: &KeyCache,
        scan: &Scan,
    ) -> Result<Scanned> {
        let width = self.n_heads * self.dim;
        let queries = Queries {
            q: &self.q[rows.start * width..rows.end * width],
            w: &self.w[rows.start * self.n_heads..rows.end * self.n_heads],
            n_heads: self.n_heads,
            position,
        };
        match scan.k {
            Some(k) => {
                let (selection, scores) = select(queries, keys, k, scan.forced, scan.keep)
                    .map_err(|position| Error::NanScores { position })?;
                Ok(Scanned {
                    selection: Some(selection),
                    scores,
                })
            }
            None => {
                let first = scan.keep.unwrap_or(rows.len());
                let watched = queries.rows(first, rows.len() - first);
                Ok(Scanned {
                    selection: None,
                    scores: index_scores(watched, keys),
                })
            }
        }
    }
}

impl Moe {
    fn forward(&self, x: &[f32], layer: usize, step: &mut Step) -> Result<Vec<f32>> {
        let moe = step.config.moe.as_ref();
        let moe = moe.expect("a config with MoE layers has MoE sizes");
        let clock = step.clock();
        let [logits] = linear(x, [&self.gate]);
        let bias = self.e_score_correction_bias.as_deref();
        let (mut chosen, mut weights) = (Vec::new(), Vec::new());
        for timeline in &mut step.timelines {
            let logits = timeline.rows_of(&logits, moe.n_routed_experts).to_vec();
            let routes = timeline.pass.route(layer, logits, bias, moe)?;
            chosen.extend(routes.experts);
            weights.extend(routes.weights);
        }
        step.timed_each(clock, "gate", layer, |_| self.gate.bytes());
        let shared = self.shared_experts.as_ref();
        let read_bytes = if step.times() {
            let taken: BTreeSet<u16> = chosen.iter().copied().collect();
            let taken = taken
                .iter()
                .map(|&expert| &self.experts[usize::from(expert)]);
            taken.chain(shared).map(Mlp::bytes).sum()
        } else {
            0
        };
        let n = step.n;
        Ok(step.timed("experts", layer, read_bytes, || {
            let mut out = vec![0.0; x.len()];
            super::experts(
                x,
                &chosen,
                &weights,
                n,
                &|expert| self.experts[expert].matrices(),
                shared.map(Mlp::matrices),
                &mut out,
            );
            out
        }))
    }
}

impl Mlp {
    fn forward(&self, x: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; x.len()];
        super::mlp(x, self.matrices(), &mut out);
        out
    }
}

impl<'a> Step<'a> {
    fn new(model: &HostModel, config: &'a Config, spans: &'a mut [Span]) -> Result<Self> {
        let mut n = 0;
        let mut timelines = Vec::new();
        for span in spans {
            let (pass, caches) = span.begin(config)?;
            let rows = n..n + pass.n;
            n = rows.end;
            timelines.push(Timeline { rows, caches, pass });
        }
        let positions = timelines
            .iter()
            .flat_map(|timeline| timeline.pass.position..timeline.pass.context());
        Ok(Self {
            config,
            angles: model.rope.angles(positions),
            timelines,
            n,
        })
    }

    /// Whether somebody asks how long ops take.
    fn times(&self) -> bool {
        let mut passes = self.timelines.iter().map(|timeline| &timeline.pass);
        passes.any(|pass| pass.trace.times())
    }

    fn clock(&self) -> Option<Instant> {
        self.times().then(Instant::now)
    }

    /// Does `work` for all rows, and tells every timeline that asks how long it took.
    fn timed<R>(
        &mut self,
        op: &'static str,
        layer: impl Into<Option<usize>>,
        bytes: usize,
        work: impl FnOnce() -> R,
    ) -> R {
        let clock = self.clock();
        let result = work();
        self.timed_each(clock, op, layer, |_| bytes);
        result
    }

    fn timed_each(
        &mut self,
        clock: Option<Instant>,
        op: &'static str,
        layer: impl Into<Option<usize>>,
        bytes: impl Fn(&Timeline) -> usize,
    ) {
        if clock.is_none() {
            return;
        }
        let layer = layer.into();
        for timeline in &mut self.timelines {
            let bytes = bytes(timeline);
            timeline.pass.trace.timed(clock, op, layer, || bytes);
        }
    }

    /// Rotates `x` `[rows, heads × stride]`, each row by the angles of its position.
    fn rope(&self, x: &mut [f32], stride: usize, layout: Layout) {
        rows::rope(x, stride, layout, &self.angles.cos, &self.angles.sin);
    }
}

impl Timeline<'_> {
    /// The rows of this timeline among all, `width` numbers each.
    fn rows_of<'x>(&self, all: &'x [f32], width: usize) -> &'x [f32] {
        &all[self.rows.start * width..self.rows.end * width]
    }

    fn record_end(&mut self, stage: Stage, rows: &[f32]) -> Result<()> {
        let width = rows.len() / self.pass.n;
        self.pass.record_end(stage, |first, n| {
            Ok(rows[first * width..][..n * width].to_vec())
        })
    }

    /// Records the logits of the last rows, and gives those that were asked for.
    fn end(
        &mut self,
        hidden: &[f32],
        logits: Option<Vec<f32>>,
        logit_rows: LogitRows,
    ) -> Result<Output> {
        let n = self.pass.n;
        let hidden = HostRows {
            data: self.rows_of(hidden, self.pass.config.hidden_size).to_vec(),
            width: self.pass.config.hidden_size,
        };
        let width = self.pass.config.vocab_size;
        if let Some(logits) = &logits {
            let skipped = n - logits.len() / width;
            self.pass.record_end(Stage::Logits, |first, n| {
                Ok(logits[(first - skipped) * width..][..n * width].to_vec())
            })?;
        }
        self.pass.trace.end();
        let logits = logits.map(|data| OutputRows::new(HostRows { data, width }));
        Ok(Output {
            hidden: OutputRows::new(hidden),
            logits: match logit_rows {
                LogitRows::None => None,
                LogitRows::Last => logits.map(|rows| rows.slice(rows.n_rows() - 1, 1)),
                LogitRows::All => logits,
            },
        })
    }
}

fn layout(n_heads: usize, offset: usize, interleaved: bool) -> Layout {
    Layout {
        n_heads,
        offset,
        interleaved,
    }
}

/// Positions that `n` tokens from `position` on see, all together.
fn seen(position: usize, n: usize) -> usize {
    n * position + n * (n + 1) / 2
}

/// Applies several matrices that share their input: `[rows, cols]` to `[rows, weight.rows]` each.
fn linear<const N: usize>(x: &[f32], weights: [&Weight; N]) -> [Vec<f32>; N] {
    let n = x.len() / weights[0].cols;
    let mut out = weights.map(|weight| vec![0.0; n * weight.rows]);
    let mut into: Vec<&mut [f32]> = out.iter_mut().map(Vec::as_mut_slice).collect();
    super::linear(x, &weights.map(Weight::matrix), &mut into);
    out
}

fn bytes<const N: usize>(weights: [&Weight; N]) -> usize {
    weights.map(Weight::bytes).iter().sum()
}

fn rms_norm(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    rows::rms_norm(x, weight, eps, &mut out);
    out
}

fn add(x: &mut [f32], more: &[f32]) {
    for (x, more) in x.iter_mut().zip(more) {
        *x += more;
    }
}

/// Columns before and from `at`.
fn columns(x: &[f32], width: usize, at: usize) -> (Vec<f32>, Vec<f32>) {
    let rows = || x.chunks_exact(width);
    let left = rows().flat_map(|row| &row[..at]).copied().collect();
    (left, rows().flat_map(|row| &row[at..]).copied().collect())
}

/// `[a ; b]` row by row.
fn join(a: &[f32], b: &[f32], width: usize) -> Vec<f32> {
    let rows = a.chunks_exact(width).zip(b.chunks_exact(width));
    rows.flat_map(|(a, b)| a.iter().chain(b).copied()).collect()
}
