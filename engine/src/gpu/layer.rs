//! The weights of one layer on the device.

use super::experts::{MlpParts, Mlps};
use super::launch::{Buffer, Gpu};
use super::weights::{Packed, Part, WeightSource, upload_floats};
use crate::config::Config;
use crate::{Error, Result};

/// One layer.
#[derive(Debug)]
pub(super) struct Layer {
    pub index: usize,
    pub input_layernorm: Buffer,
    pub post_attention_layernorm: Buffer,
    pub attention: Attention,
    pub feed_forward: FeedForward,
}

/// MLA and its indexer.
#[derive(Debug)]
pub(super) struct Attention {
    /// What reads the layer's input: each matrix writes its columns of `projected`.
    pub projections: Vec<(Packed, usize)>,
    pub columns: ProjectedColumns,
    /// What makes the queries: each matrix writes its columns of `q`.
    pub queries: Vec<(Packed, usize)>,
    pub query_columns: QueryColumns,
    /// `q_a_layernorm`, `kv_a_layernorm`, then weight and bias of the indexer's `k_norm`.
    pub norms: Buffer,
    pub norm_offsets: NormOffsets,
    pub kv_b_proj: Packed,
    pub o_proj: Packed,
    pub has_indexer: bool,
}

/// Where the projections of the layer's input lie in a row of `projected`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ProjectedColumns {
    pub q: usize,
    pub kv: usize,
    pub key: usize,
    pub w: usize,
    pub stride: usize,
}

/// Where the queries lie in a row of `q`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct QueryColumns {
    /// The indexer's; those of attention begin at 0.
    pub index: usize,
    pub stride: usize,
    /// Rows of the first matrix that attention needs.
    pub n_attention: usize,
}

/// Where each vector begins in `norms`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct NormOffsets {
    pub q: usize,
    pub kv: usize,
    pub k_weight: usize,
    pub k_bias: usize,
}

#[derive(Debug)]
pub(super) enum FeedForward {
    Dense(Mlps),
    Moe {
        gate: Packed,
        /// Zeros where the model has none.
        bias: Buffer,
        has_bias: bool,
        experts: Mlps,
    },
}

impl Layer {
    pub(super) fn load(
        gpu: &Gpu,
        source: &WeightSource,
        config: &Config,
        index: usize,
    ) -> Result<Self> {
        let prefix = format!("model.layers.{index}");
        let vector = |name: &str| -> Result<Buffer> {
            Ok(upload_floats(
                gpu,
                &source.vector(&format!("{prefix}.{name}"))?,
            ))
        };
        Ok(Self {
            index,
            input_layernorm: vector("input_layernorm.weight")?,
            post_attention_layernorm: vector("post_attention_layernorm.weight")?,
            attention: Attention::load(gpu, source, config, index, &format!("{prefix}.self_attn"))?,
            feed_forward: FeedForward::load(gpu, source, config, index, &format!("{prefix}.mlp"))?,
        })
    }

    pub(super) fn resident_bytes(&self) -> usize {
        let attention = &self.attention;
        let packed: usize = attention
            .projections
            .iter()
            .chain(&attention.queries)
            .map(|(packed, _)| packed.resident_bytes())
            .sum();
        let feed_forward = match &self.feed_forward {
            FeedForward::Dense(mlps) => mlps.resident_bytes(),
            FeedForward::Moe { gate, experts, .. } => {
                gate.resident_bytes() + experts.resident_bytes()
            }
        };
        packed
            + attention.kv_b_proj.resident_bytes()
            + attention.o_proj.resident_bytes()
            + feed_forward
    }
}

/// Matrices with their first columns; the first column of each part; columns in all.
type Joined = (Vec<(Packed, usize)>, Vec<usize>, usize);

/// Joins what is of one type; gives each matrix its first column, in the order of `parts`.
fn join(gpu: &Gpu, parts: &[&Part]) -> Result<Joined> {
    let mut columns = vec![0; parts.len()];
    let mut done = vec![false; parts.len()];
    let mut joined = Vec::new();
    let mut stride: usize = 0;
    for first in 0..parts.len() {
        if done[first] {
            continue;
        }
        let alike: Vec<usize> = (first..parts.len())
            .filter(|&at| parts[at].same_type(parts[first]))
            .collect();
        let packed = Packed::join(gpu, &alike.iter().map(|&at| parts[at]).collect::<Vec<_>>())?;
        for (&at, &start) in alike.iter().zip(&packed.starts) {
            columns[at] = stride + start;
            done[at] = true;
        }
        let base = stride;
        stride = (stride + packed.rows).next_multiple_of(4);
        joined.push((packed, base));
    }
    Ok((joined, columns, stride))
}

impl Attention {
    fn load(
        gpu: &Gpu,
        source: &WeightSource,
        config: &Config,
        layer: usize,
        prefix: &str,
    ) -> Result<Self> {
        let matrix = |name: &str| source.matrix(&format!("{prefix}.{name}.weight"));
        let vector = |name: &str| source.vector(&format!("{prefix}.{name}"));
        let kv = matrix("kv_a_proj_with_mqa")?;
        let has_indexer = config.owns_indexer(layer);
        let mut norms = Vec::new();
        let mut norm_offsets = NormOffsets::default();
        let mut add = |values: Vec<f32>| {
            let at = norms.len();
            norms.extend(values);
            norms.resize(norms.len().next_multiple_of(4), 0.0);
            at
        };
        norm_offsets.kv = add(vector("kv_a_layernorm.weight")?);

        let mut columns = ProjectedColumns::default();
        let mut query_columns = QueryColumns::default();
        let (projections, queries);
        if config.q_lora_rank.is_some() {
            norm_offsets.q = add(vector("q_a_layernorm.weight")?);
            let q_a = matrix("q_a_proj")?;
            let q_b = matrix("q_b_proj")?;
            query_columns.n_attention = q_b.rows();
            if has_indexer {
                norm_offsets.k_weight = add(vector("indexer.k_norm.weight")?);
                norm_offsets.k_bias = add(vector("indexer.k_norm.bias")?);
                let key = matrix("indexer.wk")?;
                let w = matrix("indexer.weights_proj")?;
                let index = matrix("indexer.wq_b")?;
                // What may be no whole FP8 block comes last.
                let (joined, at, stride) = join(gpu, &[&q_a, &key, &kv, &w])?;
                projections = joined;
                columns = ProjectedColumns {
                    q: at[0],
                    key: at[1],
                    kv: at[2],
                    w: at[3],
                    stride,
                };
                let (joined, at, stride) = join(gpu, &[&q_b, &index])?;
                queries = joined;
                query_columns.index = at[1];
                query_columns.stride = stride;
            } else {
                let (joined, at, stride) = join(gpu, &[&q_a, &kv])?;
                projections = joined;
                columns.q = at[0];
                columns.kv = at[1];
                columns.stride = stride;
                let (joined, _, stride) = join(gpu, &[&q_b])?;
                queries = joined;
                query_columns.stride = stride;
            }
        } else {
            let (joined, at, stride) = join(gpu, &[&kv])?;
            projections = joined;
            columns.kv = at[0];
            columns.stride = stride;
            let q = matrix("q_proj")?;
            query_columns.n_attention = q.rows();
            let (joined, _, stride) = join(gpu, &[&q])?;
            queries = joined;
            query_columns.stride = stride;
        }
        let kv_b_proj = Packed::new(gpu, &matrix("kv_b_proj")?)?;
        if kv_b_proj.slices.len() > 1 {
            return Err(Error::Device {
                name: "in use".into(),
                problem: format!(
                    "{prefix}.kv_b_proj is larger than the largest binding of {} bytes, expected it to fit one",
                    gpu.max_binding_bytes()
                ),
            });
        }
        Ok(Self {
            projections,
            columns,
            queries,
            query_columns,
            norms: upload_floats(gpu, &norms),
            norm_offsets,
            kv_b_proj,
            o_proj: Packed::new(gpu, &matrix("o_proj")?)?,
            has_indexer,
        })
    }
}

impl FeedForward {
    fn load(
        gpu: &Gpu,
        source: &WeightSource,
        config: &Config,
        layer: usize,
        prefix: &str,
    ) -> Result<Self> {
        let Some(moe) = config.moe.as_ref().filter(|_| config.is_moe(layer)) else {
            let parts = [MlpParts::new(source, prefix)?];
            return Ok(Self::Dense(Mlps::new(gpu, &parts, 1)?));
        };
        let mut parts = (0..moe.n_routed_experts)
            .map(|expert| MlpParts::new(source, &format!("{prefix}.experts.{expert}")))
            .collect::<Result<Vec<_>>>()?;
        if moe.n_shared_experts > 0 {
            parts.push(MlpParts::new(source, &format!("{prefix}.shared_experts"))?);
        }
        let bias_name = format!("{prefix}.gate.e_score_correction_bias");
        let has_bias = source.has(&bias_name);
        let bias = if has_bias {
            source.vector(&bias_name)?
        } else {
            vec![0.0; moe.n_routed_experts]
        };
        Ok(Self::Moe {
            gate: Packed::new(gpu, &source.matrix(&format!("{prefix}.gate.weight"))?)?,
            bias: upload_floats(gpu, &bias),
            has_bias,
            experts: Mlps::new(gpu, &parts, moe.n_shared_experts)?,
        })
    }
}
