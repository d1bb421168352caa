//! The weights of a model on the CPU, as stored, and its caches: what [`super::forward`] computes with.

use std::ops::Range;

use super::keys::KeyCache;
use super::latents::LatentCache;
use super::matrix::Matrix;
use super::weight::{Weight, vector};
use crate::Result;
use crate::cache::{CacheBytes, CacheFormat, LatentFormat, Layers, indexer_of, refused};
use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::rope::Rope;

/// A model on the CPU.
#[derive(Debug)]
pub(crate) struct HostModel {
    pub rope: Rope,
    pub embed_tokens: Weight,
    pub layers: Vec<Block>,
    pub norm: Vec<f32>,
    pub lm_head: Weight,
    pub mtp: Option<Mtp>,
}

/// One layer.
#[derive(Debug)]
pub(crate) struct Block {
    pub index: usize,
    pub input_layernorm: Vec<f32>,
    pub self_attn: Mla,
    pub post_attention_layernorm: Vec<f32>,
    pub mlp: FeedForward,
}

/// Multi-head latent attention and its lightning indexer.
#[derive(Debug)]
pub(crate) struct Mla {
    pub q: QueryProjection,
    /// `[kv_lora_rank + qk_rope_head_dim, hidden_size]`.
    pub kv_a_proj_with_mqa: Weight,
    pub kv_a_layernorm: Vec<f32>,
    /// `[heads × (qk_nope_head_dim + v_head_dim), kv_lora_rank]`.
    pub kv_b_proj: Weight,
    /// `[hidden_size, heads × v_head_dim]`.
    pub o_proj: Weight,
    /// `None` where the model has none, or the layer shares the previous selection.
    pub indexer: Option<Indexer>,
}

#[derive(Debug)]
pub(crate) enum QueryProjection {
    /// `q_proj` `[heads × (dn + dr), hidden_size]`.
    Direct(Weight),
    /// Through the latent `q_lora_rank`, which the indexer reads too.
    Latent {
        q_a_proj: Weight,
        q_a_layernorm: Vec<f32>,
        q_b_proj: Weight,
    },
}

#[derive(Debug)]
pub(crate) struct Indexer {
    /// `[index_n_heads × index_head_dim, q_lora_rank]`.
    pub wq_b: Weight,
    /// `[index_head_dim, hidden_size]`.
    pub wk: Weight,
    /// Weight and bias.
    pub k_norm: [Vec<f32>; 2],
    /// `[index_n_heads, hidden_size]`.
    pub weights_proj: Weight,
}

#[derive(Debug)]
pub(crate) enum FeedForward {
    Dense(Mlp),
    Moe(Moe),
}

#[derive(Debug)]
pub(crate) struct Moe {
    pub gate: Weight,
    pub e_score_correction_bias: Option<Vec<f32>>,
    pub experts: Vec<Mlp>,
    pub shared_experts: Option<Mlp>,
}

/// One SwiGLU feed-forward.
#[derive(Debug)]
pub(crate) struct Mlp {
    /// `[width, hidden_size]`.
    pub gate_proj: Weight,
    /// `[width, hidden_size]`.
    pub up_proj: Weight,
    /// `[hidden_size, width]`.
    pub down_proj: Weight,
}

#[derive(Debug)]
pub(crate) struct Mtp {
    pub enorm: Vec<f32>,
    pub hnorm: Vec<f32>,
    /// `[hidden_size, 2 × hidden_size]`.
    pub eh_proj: Weight,
    pub block: Block,
    pub shared_head_norm: Vec<f32>,
}

impl HostModel {
    /// Takes a model from a checkpoint that fits `config`. `progress(layer)` is called before each layer
    /// and may break off with `false`.
    pub fn load(
        checkpoint: &Checkpoint,
        config: &Config,
        with_mtp: bool,
        progress: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Option<Self>> {
        let n = config.num_hidden_layers;
        let loader = Loader { checkpoint, config };
        let mut layers = Vec::with_capacity(n);
        for layer in 0..n {
            if !progress(layer) {
                return Ok(None);
            }
            layers.push(loader.block(layer)?);
        }
        let head = match config.tie_word_embeddings {
            true => "model.embed_tokens",
            false => "lm_head",
        };
        Ok(Some(Self {
            rope: Rope::new(config),
            embed_tokens: loader.weight("model", "embed_tokens")?,
            layers,
            norm: loader.vector("model", "norm.weight")?,
            lm_head: Weight::load(checkpoint, &format!("{head}.weight"))?,
            mtp: with_mtp.then(|| loader.mtp(n)).transpose()?,
        }))
    }

    pub fn bytes(&self) -> usize {
        let mtp = |mtp: &Mtp| mtp.eh_proj.bytes() + mtp.block.bytes();
        self.embed_tokens.bytes()
            + self.layers.iter().map(Block::bytes).sum::<usize>()
            + self.lm_head.bytes()
            + self.mtp.as_ref().map_or(0, mtp)
    }
}

struct Loader<'a> {
    checkpoint: &'a Checkpoint,
    config: &'a Config,
}

impl Loader<'_> {
    fn weight(&self, prefix: &str, name: &str) -> Result<Weight> {
        Weight::load(self.checkpoint, &format!("{prefix}.{name}.weight"))
    }

    fn vector(&self, prefix: &str, name: &str) -> Result<Vec<f32>> {
        vector(self.checkpoint, &format!("{prefix}.{name}"))
    }

    fn block(&self, index: usize) -> Result<Block> {
        let prefix = format!("model.layers.{index}");
        Ok(Block {
            index,
            input_layernorm: self.vector(&prefix, "input_layernorm.weight")?,
            self_attn: self.mla(index, &format!("{prefix}.self_attn"))?,
            post_attention_layernorm: self.vector(&prefix, "post_attention_layernorm.weight")?,
            mlp: self.feed_forward(index, &format!("{prefix}.mlp"))?,
        })
    }

    fn mla(&self, layer: usize, prefix: &str) -> Result<Mla> {
        let weight = |name: &str| self.weight(prefix, name);
        let vector = |name: &str| self.vector(prefix, name);
        let indexer = || -> Result<Indexer> {
            Ok(Indexer {
                wq_b: weight("indexer.wq_b")?,
                wk: weight("indexer.wk")?,
                k_norm: [
                    vector("indexer.k_norm.weight")?,
                    vector("indexer.k_norm.bias")?,
                ],
                weights_proj: weight("indexer.weights_proj")?,
            })
        };
        Ok(Mla {
            q: match self.config.q_lora_rank {
                None => QueryProjection::Direct(weight("q_proj")?),
                Some(_) => QueryProjection::Latent {
                    q_a_proj: weight("q_a_proj")?,
                    q_a_layernorm: vector("q_a_layernorm.weight")?,
                    q_b_proj: weight("q_b_proj")?,
                },
            },
            kv_a_proj_with_mqa: weight("kv_a_proj_with_mqa")?,
            kv_a_layernorm: vector("kv_a_layernorm.weight")?,
            kv_b_proj: weight("kv_b_proj")?,
            o_proj: weight("o_proj")?,
            indexer: self.config.owns_indexer(layer).then(indexer).transpose()?,
        })
    }

    fn mlp(&self, prefix: &str) -> Result<Mlp> {
        Ok(Mlp {
            gate_proj: self.weight(prefix, "gate_proj")?,
            up_proj: self.weight(prefix, "up_proj")?,
            down_proj: self.weight(prefix, "down_proj")?,
        })
    }

    fn feed_forward(&self, layer: usize, prefix: &str) -> Result<FeedForward> {
        let moe = self.config.moe.as_ref();
        let Some(moe) = moe.filter(|_| self.config.is_moe(layer)) else {
            return Ok(FeedForward::Dense(self.mlp(prefix)?));
        };
        let bias = "gate.e_score_correction_bias";
        let has_bias = self.checkpoint.get(&format!("{prefix}.{bias}")).is_some();
        let shared = || self.mlp(&format!("{prefix}.shared_experts"));
        Ok(FeedForward::Moe(Moe {
            gate: self.weight(prefix, "gate")?,
            e_score_correction_bias: has_bias.then(|| self.vector(prefix, bias)).transpose()?,
            experts: (0..moe.n_routed_experts)
                .map(|expert| self.mlp(&format!("{prefix}.experts.{expert}")))
                .collect::<Result<_>>()?,
            shared_experts: (moe.n_shared_experts > 0).then(shared).transpose()?,
        }))
    }

    fn mtp(&self, layer: usize) -> Result<Mtp> {
        let prefix = format!("model.layers.{layer}");
        Ok(Mtp {
            enorm: self.vector(&prefix, "enorm.weight")?,
            hnorm: self.vector(&prefix, "hnorm.weight")?,
            eh_proj: self.weight(&prefix, "eh_proj")?,
            block: self.block(layer)?,
            shared_head_norm: self.vector(&prefix, "shared_head.norm.weight")?,
        })
    }
}

impl Block {
    fn bytes(&self) -> usize {
        let feed_forward = match &self.mlp {
            FeedForward::Dense(mlp) => mlp.bytes(),
            FeedForward::Moe(moe) => {
                let experts = moe.experts.iter().chain(&moe.shared_experts);
                moe.gate.bytes() + experts.map(Mlp::bytes).sum::<usize>()
            }
        };
        self.self_attn.bytes() + feed_forward
    }
}

impl Mla {
    fn bytes(&self) -> usize {
        let mut all = vec![&self.kv_a_proj_with_mqa, &self.kv_b_proj, &self.o_proj];
        match &self.q {
            QueryProjection::Direct(q_proj) => all.push(q_proj),
            QueryProjection::Latent {
                q_a_proj, q_b_proj, ..
            } => all.extend([q_a_proj, q_b_proj]),
        }
        if let Some(indexer) = &self.indexer {
            all.extend([&indexer.wq_b, &indexer.wk, &indexer.weights_proj]);
        }
        all.into_iter().map(Weight::bytes).sum()
    }
}

impl Mlp {
    pub fn bytes(&self) -> usize {
        self.gate_proj.bytes() + self.up_proj.bytes() + self.down_proj.bytes()
    }

    pub fn matrices(&self) -> [Matrix<'_>; 3] {
        [&self.gate_proj, &self.up_proj, &self.down_proj].map(Weight::matrix)
    }
}

/// The caches of one layer.
#[derive(Clone, Debug)]
pub(crate) struct LayerCache {
    pub latent: LatentCache,
    /// `None` where the layer owns no indexer.
    pub keys: Option<KeyCache>,
}

/// Empty caches for layers `layers`.
pub(crate) fn new_caches(
    config: &Config,
    layers: Range<usize>,
    format: CacheFormat,
) -> Result<Vec<LayerCache>> {
    if format.latent == LatentFormat::FlashMla {
        return Err(refused(format.latent, "f32, bf16 or fp8 on the CPU"));
    }
    let (rank, dr) = (config.kv_lora_rank, config.qk_rope_head_dim);
    let cache = |layer| {
        let indexer = indexer_of(config, layer, format.keys)?;
        Ok(LayerCache {
            latent: LatentCache::new(rank, dr, format.latent),
            keys: indexer.map(|sizes| KeyCache::new(sizes.index_head_dim, format.keys)),
        })
    };
    layers.map(cache).collect()
}

impl Layers for Vec<LayerCache> {
    fn truncate(&mut self, n_tokens: usize) {
        for layer in self {
            layer.latent.truncate(n_tokens);
            if let Some(keys) = &mut layer.keys {
                keys.truncate(n_tokens);
            }
        }
    }

    fn bytes(&self) -> CacheBytes {
        let bytes = |layer: &LayerCache| CacheBytes {
            latents: layer.latent.bytes(),
            keys: layer.keys.as_ref().map_or(0, KeyCache::bytes),
        };
        self.iter().map(bytes).sum()
    }

    fn fork(&self) -> Result<Box<dyn Layers>> {
        Ok(Box::new(self.clone()))
    }
}
