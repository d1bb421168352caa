//! Multi-head latent attention and its lightning indexer.
//!
//! The indexer's keys are cached on every path, short or dense too: a later token may need them.
//! Source: spec 3.4 and 3.5.

use super::block::Pass;
use super::selector::{self, Selector};
use crate::Result;
use crate::cache::{KeyStore, LayerCache};
use crate::config::IndexerConfig;
use crate::cpu::Selection;
use crate::ops::attention::{Attention, Heads, Weights, attend};
use crate::ops::index::{self, IndexQuery};
use crate::ops::linear::linear;
use crate::ops::norm::{layer_norm, rms_norm};
use crate::ops::rope::{Layout, rope};
use crate::rows::Rows;
use crate::trace::{Stage, Trace, Value};
use crate::weight::{Vector, Weight};

/// eps of `q_a_layernorm`, `kv_a_layernorm` and `k_norm`: fixed in the reference, whatever
/// `rms_norm_eps` says.
const LATENT_EPS: f32 = 1e-6;

#[derive(Debug)]
pub(super) struct Mla {
    pub q: QueryProjection,
    /// `[kv_lora_rank + qk_rope_head_dim, hidden_size]`.
    pub kv_a_proj_with_mqa: Weight,
    pub kv_a_layernorm: Vector,
    /// `[heads × (qk_nope_head_dim + v_head_dim), kv_lora_rank]`.
    pub kv_b_proj: Weight,
    /// `[hidden_size, heads × v_head_dim]`.
    pub o_proj: Weight,
    /// `None` where the model has none, or the layer shares the previous selection.
    pub indexer: Option<Indexer>,
}

#[derive(Debug)]
pub(super) enum QueryProjection {
    /// `q_proj` `[heads × (dn + dr), hidden_size]`.
    Direct(Weight),
    /// Through the latent `q_lora_rank`, which the indexer reads too.
    Latent {
        q_a_proj: Weight,
        q_a_layernorm: Vector,
        q_b_proj: Weight,
    },
}

#[derive(Debug)]
pub(super) struct Indexer {
    /// `[index_n_heads × index_head_dim, q_lora_rank]`.
    pub wq_b: Weight,
    /// `[index_head_dim, hidden_size]`.
    pub wk: Weight,
    pub k_norm: (Vector, Vector),
    /// `[index_n_heads, hidden_size]`.
    pub weights_proj: Weight,
}

impl Mla {
    /// `x` `[tokens, hidden_size]`, normed, to the same.
    pub fn forward(
        &self,
        layer: usize,
        x: &Rows,
        cache: &mut LayerCache,
        pass: &mut Pass,
    ) -> Result<Rows> {
        let config = pass.config;
        let heads = Heads {
            n_heads: config.num_attention_heads,
            dn: config.qk_nope_head_dim,
            dr: config.qk_rope_head_dim,
            dv: config.v_head_dim,
            rank: config.kv_lora_rank,
            scale: config.softmax_scale(),
        };
        let Projected { q, kv, index } = self.project(layer, x, pass.trace);
        let clock = pass.trace.clock();
        let query_layout = Layout {
            n_heads: heads.n_heads,
            offset: heads.dn,
            interleaved: true,
        };
        let q = rope(q, pass.angles, query_layout);
        let (latent, k_pe) = split(&kv, heads.rank);
        let latent = rms_norm(&latent, &self.kv_a_layernorm, LATENT_EPS);
        let k_pe = rope(
            k_pe,
            pass.angles,
            Layout {
                n_heads: 1,
                offset: 0,
                interleaved: true,
            },
        );
        cache.latent.push(&latent, &k_pe);
        let latent_bytes = config.latent_bytes(cache.latent.format());
        pass.trace.timed(clock, "latents", layer, || {
            self.kv_a_layernorm.bytes() + x.n_rows() * latent_bytes
        });

        let clock = pass.trace.clock();
        let mut query = None;
        if let (Some(index), Some(indexer), Some(sizes), Some(keys)) =
            (index, &self.indexer, &config.indexer, &mut cache.keys)
        {
            query = Some(indexer.query(index, sizes, keys, pass));
            let key_bytes = config.key_bytes(keys.format());
            pass.trace.timed(clock, "index_query", layer, || {
                indexer.k_norm.0.bytes() + indexer.k_norm.1.bytes() + x.n_rows() * key_bytes
            });
        }
        let context = pass.position + x.n_rows();
        let k = pass
            .options
            .index_topk
            .or(config.indexer.as_ref().map(|sizes| sizes.index_topk));
        let sparse = !pass.options.dense && k.is_some_and(|k| context > k);
        if config.selection_layer(layer) == layer {
            let clock = pass.trace.clock();
            let (position, n) = (pass.position, x.n_rows());
            let intervention = &pass.options.intervention;
            let forced = intervention.forced(layer);
            let mut read_bytes = 0;
            let own = || {
                let (true, Some(query), Some(keys), Some(k)) = (sparse, &query, &cache.keys, k)
                else {
                    return Ok(None);
                };
                Ok(Some(match pass.options.selector {
                    Selector::Indexer => {
                        let n_keys = n * position + n * (n + 1) / 2;
                        read_bytes = n_keys * config.key_bytes(keys.format());
                        index::select(query, keys, k, &forced)?
                    }
                    Selector::Recent => selector::recent(position, n, k),
                    Selector::Random { seed } => selector::random(seed, layer, position, n, k),
                }))
            };
            pass.selection = intervention.selection(layer, position, n, &forced, own)?;
            if let Some(record) = pass.records.selections.as_deref_mut() {
                record.record_pass(layer, position, n, pass.selection.as_ref())?;
            }
            pass.trace.timed(clock, "select", layer, || read_bytes);
        }
        let selection = pass.selection.as_ref();

        let first = pass.trace.first_row(x.n_rows());
        let wants_weights = pass.trace.wants(layer, Stage::AttentionMean)
            || pass.trace.wants(layer, Stage::AttentionHeads);
        let clock = pass.trace.clock();
        let (out, weights) = attend(&Attention {
            heads,
            q: &q,
            w_kvb: &self.kv_b_proj,
            cache: &cache.latent,
            position: pass.position,
            selection,
            mha: pass.options.mha_prefill && x.n_rows() > 1,
            weights_from: wants_weights.then_some(first),
        })?;
        pass.trace.timed(clock, "attention", layer, || {
            let n = x.n_rows();
            let n_read = match selection {
                None => n * pass.position + n * (n + 1) / 2,
                Some(selection) => (0..n).map(|row| selection.row(row).len()).sum(),
            };
            self.kv_b_proj.resident_bytes() + n_read * latent_bytes
        });
        let watched = Watched {
            layer,
            position: pass.position,
            first,
            n: x.n_rows() - first,
        };
        watched.record_selection(selection, query.as_ref(), cache.keys.as_ref(), pass.trace)?;
        if let Some(weights) = weights {
            watched.record_weights(weights, heads.n_heads, pass.trace);
        }
        let clock = pass.trace.clock();
        let [out] = linear(&out, [&self.o_proj]);
        pass.trace
            .timed(clock, "o_proj", layer, || self.o_proj.resident_bytes());
        Ok(out)
    }

    /// All projections of `x`, those that share an input in one go.
    fn project(&self, layer: usize, x: &Rows, trace: &mut Trace) -> Projected {
        let clock = trace.clock();
        match (&self.q, &self.indexer) {
            (QueryProjection::Direct(q_proj), _) => {
                let shared = [q_proj, &self.kv_a_proj_with_mqa];
                let [q, kv] = linear(x, shared);
                trace.timed(clock, "project", layer, || bytes(shared));
                Projected { q, kv, index: None }
            }
            (
                QueryProjection::Latent {
                    q_a_proj,
                    q_a_layernorm,
                    q_b_proj,
                },
                None,
            ) => {
                let shared = [q_a_proj, &self.kv_a_proj_with_mqa];
                let [qr, kv] = linear(x, shared);
                trace.timed(clock, "project", layer, || bytes(shared));
                let clock = trace.clock();
                let [q] = linear(&rms_norm(&qr, q_a_layernorm, LATENT_EPS), [q_b_proj]);
                trace.timed(clock, "queries", layer, || {
                    q_a_layernorm.bytes() + bytes([q_b_proj])
                });
                Projected { q, kv, index: None }
            }
            (
                QueryProjection::Latent {
                    q_a_proj,
                    q_a_layernorm,
                    q_b_proj,
                },
                Some(indexer),
            ) => {
                let shared = [
                    q_a_proj,
                    &self.kv_a_proj_with_mqa,
                    &indexer.wk,
                    &indexer.weights_proj,
                ];
                let [qr, kv, key, w] = linear(x, shared);
                trace.timed(clock, "project", layer, || bytes(shared));
                let clock = trace.clock();
                let qr = rms_norm(&qr, q_a_layernorm, LATENT_EPS);
                let from_latent = [q_b_proj, &indexer.wq_b];
                let [q, query] = linear(&qr, from_latent);
                trace.timed(clock, "queries", layer, || {
                    q_a_layernorm.bytes() + bytes(from_latent)
                });
                Projected {
                    q,
                    kv,
                    index: Some(IndexProjected { query, key, w }),
                }
            }
        }
    }

    pub fn resident_bytes(&self) -> usize {
        let q = match &self.q {
            QueryProjection::Direct(q_proj) => q_proj.resident_bytes(),
            QueryProjection::Latent {
                q_a_proj, q_b_proj, ..
            } => q_a_proj.resident_bytes() + q_b_proj.resident_bytes(),
        };
        let rest = [&self.kv_a_proj_with_mqa, &self.kv_b_proj, &self.o_proj];
        let indexer = self.indexer.as_ref().map_or(0, |indexer| {
            [&indexer.wq_b, &indexer.wk, &indexer.weights_proj]
                .map(Weight::resident_bytes)
                .iter()
                .sum()
        });
        q + rest.map(Weight::resident_bytes).iter().sum::<usize>() + indexer
    }
}

fn bytes<const N: usize>(weights: [&Weight; N]) -> usize {
    weights.map(Weight::resident_bytes).iter().sum()
}

struct Projected {
    /// `[tokens, heads × (dn + dr)]`, not yet rotated.
    q: Rows,
    /// `[tokens, kv_lora_rank + dr]`.
    kv: Rows,
    index: Option<IndexProjected>,
}

struct IndexProjected {
    query: Rows,
    key: Rows,
    w: Rows,
}

impl Indexer {
    /// Caches the keys of these tokens and returns their queries.
    fn query(
        &self,
        projected: IndexProjected,
        sizes: &IndexerConfig,
        keys: &mut KeyStore,
        pass: &Pass,
    ) -> IndexQuery {
        let (n_heads, dim) = (sizes.index_n_heads, sizes.index_head_dim);
        let interleaved = sizes.indexer_rope_interleave;
        let format = keys.format();
        // Rotated channels come first here, last in MLA.
        let key = layer_norm(&projected.key, &self.k_norm.0, &self.k_norm.1, LATENT_EPS);
        let key = rope(
            key,
            pass.angles,
            Layout {
                n_heads: 1,
                offset: 0,
                interleaved,
            },
        );
        keys.push(&index::prepare(key, dim, format));

        let q = rope(
            projected.query,
            pass.angles,
            Layout {
                n_heads,
                offset: 0,
                interleaved,
            },
        );
        let q = match format {
            crate::cpu::KeyFormat::F32 => q,
            crate::cpu::KeyFormat::Fp8 => index::round_fp8(index::prepare(q, dim, format), dim),
        };
        let w = scale(projected.w, ((n_heads * dim) as f32).sqrt().recip());
        IndexQuery {
            q,
            w,
            position: pass.position,
        }
    }
}

/// Columns before and from `at`.
fn split(x: &Rows, at: usize) -> (Rows, Rows) {
    match x {
        Rows::Host { data, width } => {
            let columns = |range: std::ops::Range<usize>| Rows::Host {
                data: data
                    .chunks_exact(*width)
                    .flat_map(|row| row[range.clone()].iter().copied())
                    .collect(),
                width: range.len(),
            };
            (columns(0..at), columns(at..*width))
        }
        Rows::Tensor(x) => {
            let [n, width] = x.dims();
            let left = x.clone().slice([0..n, 0..at]);
            (
                Rows::Tensor(left),
                Rows::Tensor(x.clone().slice([0..n, at..width])),
            )
        }
    }
}

fn scale(x: Rows, by: f32) -> Rows {
    match x {
        Rows::Host { mut data, width } => {
            data.iter_mut().for_each(|value| *value *= by);
            Rows::Host { data, width }
        }
        Rows::Tensor(x) => Rows::Tensor(x * by),
    }
}

/// The watched rows of a layer.
struct Watched {
    layer: usize,
    /// Position of the first token of the pass.
    position: usize,
    /// First watched row of the pass.
    first: usize,
    /// Watched rows.
    n: usize,
}

impl Watched {
    /// Records index scores, selected positions and their scores.
    fn record_selection(
        &self,
        selection: Option<&Selection>,
        query: Option<&IndexQuery>,
        keys: Option<&KeyStore>,
        trace: &mut Trace,
    ) -> Result<()> {
        let wants = |stage| trace.wants(self.layer, stage);
        let (wants_all, wants_positions, wants_chosen) = (
            wants(Stage::IndexScores),
            wants(Stage::SelectedPositions),
            wants(Stage::SelectedScores),
        );
        if !wants_all && !wants_positions && !wants_chosen {
            return Ok(());
        }
        let context = self.position + self.first + self.n;
        let row_position = |row: usize| self.position + self.first + row;
        let n_slots = selection.map_or(context, |selection| selection.k);
        let positions: Vec<i32> = match selection {
            Some(selection) => selection.indices[self.first * n_slots..].to_vec(),
            None => (0..self.n)
                .flat_map(|row| {
                    (0..n_slots)
                        .map(move |slot| (row, slot))
                        .map(|(row, slot)| {
                            if slot <= row_position(row) {
                                slot as i32
                            } else {
                                -1
                            }
                        })
                })
                .collect(),
        };
        if let (true, Some(query), Some(keys)) = (wants_all || wants_chosen, query, keys) {
            let scores = index::scores(query, keys, self.first)?;
            if wants_chosen {
                let chosen = positions
                    .iter()
                    .enumerate()
                    .map(|(at, &s)| {
                        if s < 0 {
                            0.0
                        } else {
                            scores[at / n_slots * context + s as usize]
                        }
                    })
                    .collect();
                trace.record(
                    self.layer,
                    Stage::SelectedScores,
                    Value::f32([self.n, n_slots], chosen),
                );
            }
            if wants_all {
                trace.record(
                    self.layer,
                    Stage::IndexScores,
                    Value::f32([self.n, context], scores),
                );
            }
        }
        if wants_positions {
            trace.record(
                self.layer,
                Stage::SelectedPositions,
                Value::i32([self.n, n_slots], positions),
            );
        }
        Ok(())
    }

    /// Records attention weights per head and their mean.
    fn record_weights(&self, weights: Weights, n_heads: usize, trace: &mut Trace) {
        let slots = weights.n_slots;
        if trace.wants(self.layer, Stage::AttentionMean) {
            let mut mean = vec![0.0; self.n * slots];
            for (row, heads) in mean
                .chunks_exact_mut(slots)
                .zip(weights.data.chunks_exact(n_heads * slots))
            {
                for head in heads.chunks_exact(slots) {
                    for (mean, weight) in row.iter_mut().zip(head) {
                        *mean += weight / n_heads as f32;
                    }
                }
            }
            trace.record(
                self.layer,
                Stage::AttentionMean,
                Value::f32([self.n, slots], mean),
            );
        }
        if trace.wants(self.layer, Stage::AttentionHeads) {
            let shape = [self.n, n_heads, slots];
            trace.record(
                self.layer,
                Stage::AttentionHeads,
                Value::f32(shape, weights.data),
            );
        }
    }
}
