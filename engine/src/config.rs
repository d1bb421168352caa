//! What `config.json` says of a model, checked once.
//!
//! A [`Config`] cannot be held invalid: its sizes are read-only, in range, and small enough that no
//! product of them overflows. From them follow the scales of attention and the table of every
//! tensor of a checkpoint. Whether a checkpoint has those is the business of [`crate::checkpoint`].

mod defaults;
mod indexer;
mod keys;
mod moe;
mod read;
mod rope;
mod tensors;
#[cfg(test)]
mod tests;

use std::ops::Deref;
use std::path::Path;

use serde_json::{Map, Value};

pub(crate) use keys::Keys;
pub use tensors::{FP8_BLOCK, Parameters, Part, SCALES, TensorKind, TensorSpec};

use crate::cache::{KeyFormat, LatentFormat};
use crate::folder;
use crate::source::Embedded;
use crate::{Error, Result, text_file};

/// A published config has some 2 kB; a larger file is something else.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// eps of `q_a_layernorm`, `kv_a_layernorm` and `k_norm`: fixed in the reference, whatever
/// `rms_norm_eps` says.
pub const LATENT_EPS: f32 = 1e-6;

/// Sizes of one attention layer.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// `num_attention_heads`.
    pub n_heads: usize,
    /// `qk_nope_head_dim`.
    pub dn: usize,
    /// `qk_rope_head_dim`.
    pub dr: usize,
    /// `v_head_dim`.
    pub dv: usize,
    /// `kv_lora_rank`.
    pub rank: usize,
    /// Softmax scale, YaRN's factor included.
    pub scale: f32,
}

/// A checked configuration. Its [`Sizes`] are there to read, not to change.
#[derive(Clone, Debug, PartialEq)]
pub struct Config(Sizes);

impl Deref for Config {
    type Target = Sizes;

    fn deref(&self) -> &Sizes {
        &self.0
    }
}

/// The family member, which decides what an absent key means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// DeepSeek-V2 and V2-Lite: softmax gate.
    DeepseekV2,
    /// DeepSeek-V3, R1 and V3.1, Moonlight, Kimi K2: sigmoid gate.
    DeepseekV3,
    /// DeepSeek-V3.2: V3 with a lightning indexer.
    DeepseekV32,
    /// GLM-5: V3.2 with an interleaved indexer that layers may share.
    GlmMoeDsa,
}

impl Architecture {
    /// `model_type` of `config.json`; that of Kimi K2 is `kimi_k2` and means the same as V3's.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::DeepseekV2 => "deepseek_v2",
            Self::DeepseekV3 => "deepseek_v3",
            Self::DeepseekV32 => "deepseek_v32",
            Self::GlmMoeDsa => "glm_moe_dsa",
        }
    }

    /// How people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::DeepseekV2 => "DeepSeek-V2",
            Self::DeepseekV3 => "DeepSeek-V3",
            Self::DeepseekV32 => "DeepSeek-V3.2",
            Self::GlmMoeDsa => "GLM-5",
        }
    }
}

/// The checked sizes and constants of a model, under the names of `config.json`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Sizes {
    /// The family member.
    pub architecture: Architecture,
    /// Rows of the embedding and of the head; ids below this exist.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the dense feed-forward layers.
    pub intermediate_size: usize,
    /// Main layers, the MTP layer not counted.
    pub num_hidden_layers: usize,
    /// MTP layers after the main ones that are used: 0, or 1 of however many there are. The first one
    /// drafts the token after the next by itself.
    pub num_nextn_predict_layers: usize,
    /// Attention heads.
    pub num_attention_heads: usize,
    /// Width of the query latent; `None`: queries are projected directly.
    pub q_lora_rank: Option<usize>,
    /// Width of the cached latent.
    pub kv_lora_rank: usize,
    /// Channels of a query or key head without position.
    pub qk_nope_head_dim: usize,
    /// Channels of a query or key head that are rotated by position; even.
    pub qk_rope_head_dim: usize,
    /// Channels of a value head.
    pub v_head_dim: usize,
    /// Positions of the context.
    pub max_position_embeddings: usize,
    /// eps of the norms of the residual stream.
    pub rms_norm_eps: f32,
    /// Base of the rotary frequencies; above 1.
    pub rope_theta: f64,
    /// How the rotary frequencies are stretched, if they are.
    pub yarn: Option<Yarn>,
    /// Experts; `None` if every layer is dense.
    pub moe: Option<MoeConfig>,
    /// The lightning indexer, if the model has one.
    pub indexer: Option<IndexerConfig>,
    /// The head is the embedding table.
    pub tie_word_embeddings: bool,
    /// The id that starts a text.
    pub bos_token_id: Option<u32>,
    /// The ids that end a text, as far as `config.json` knows them.
    pub eos_token_ids: Vec<u32>,
    /// The FP8 storage that the config declares; what is stored is told by the tensors themselves.
    pub quantized: Option<Quantized>,
    /// Another storage that the config declares. It matters only where tensors are stored so.
    pub foreign_quantization: Option<ForeignQuantization>,
}

/// YaRN's stretching of rotary frequencies. Source: spec 3.3.
#[derive(Clone, Debug, PartialEq)]
pub struct Yarn {
    /// How much longer the context became; at least 1.
    pub factor: f64,
    /// The context before.
    pub original_max_position_embeddings: usize,
    /// Frequencies that turn more often than this within the original context stay as they are.
    pub beta_fast: f64,
    /// Frequencies that turn less often than this are divided by `factor`.
    pub beta_slow: f64,
    /// Enters the factor of cos and sin.
    pub mscale: f64,
    /// Enters the factor of cos and sin, and the softmax scale.
    pub mscale_all_dim: f64,
    /// The factor of cos and sin itself, where a config sets it.
    pub attention_factor: Option<f64>,
}

/// How the gate turns logits into scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scoring {
    /// Each expert by itself (V3).
    Sigmoid,
    /// Over all experts (V2).
    Softmax,
}

/// How experts are chosen. Source: spec 1.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopkMethod {
    /// The best of all.
    Greedy,
    /// The best of the groups with the best expert.
    GroupLimitedGreedy,
    /// By score plus bias, the best of the groups with the best pair of experts.
    NoauxTc,
}

/// Sizes and rules of the expert layers.
#[derive(Clone, Debug, PartialEq)]
pub struct MoeConfig {
    /// Experts to choose from.
    pub n_routed_experts: usize,
    /// Experts that every token goes to, fused into one of this many times the width; may be 0.
    pub n_shared_experts: usize,
    /// Experts chosen for a token.
    pub num_experts_per_tok: usize,
    /// Width of one expert.
    pub moe_intermediate_size: usize,
    /// Layers below this are dense.
    pub first_k_dense_replace: usize,
    /// From there on, layers divisible by this have experts.
    pub moe_layer_freq: usize,
    /// Groups that the experts fall into; divides their number.
    pub n_group: usize,
    /// Groups that stay in the choice.
    pub topk_group: usize,
    /// Scores from logits.
    pub scoring_func: Scoring,
    /// Experts from scores.
    pub topk_method: TopkMethod,
    /// The weights of the chosen are divided by their sum.
    pub norm_topk_prob: bool,
    /// What the weights are multiplied with after that. 1 for a V2 model that normalises: there
    /// the factor counts only if not.
    pub routed_scaling_factor: f32,
}

/// Sizes of the lightning indexer.
#[derive(Clone, Debug, PartialEq)]
pub struct IndexerConfig {
    /// Query heads of the indexer.
    pub index_n_heads: usize,
    /// Channels of an index head; the first `qk_rope_head_dim` are rotated.
    pub index_head_dim: usize,
    /// Positions that a token may read.
    pub index_topk: usize,
    /// Pairs (2i, 2i+1) are rotated rather than (i, i + dr/2).
    pub indexer_rope_interleave: bool,
    /// For every main layer, whether it has an indexer of its own. The others use the selection of
    /// the last one that has.
    pub owners: Vec<bool>,
}

/// FP8 weights (e4m3) in blocks of 128 × 128 with one factor each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantized {
    /// `scale_fmt` is `ue8m0`: the factors are powers of two.
    pub power_of_two_scales: bool,
}

/// A `quantization_config` of a kind that this engine does not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignQuantization {
    /// Key, found and expected, in words.
    pub says: String,
    /// It is FP8 with other blocks, which the shapes of a small model's factors do not show.
    pub has_other_blocks: bool,
}

impl Config {
    /// Reads `config.json` of a checkpoint folder.
    ///
    /// # Errors
    /// The file cannot be read or is not JSON, a key is missing or of the wrong type, a size is out
    /// of range, or the model is not one that this engine runs.
    pub fn open(folder: &Path) -> Result<Self> {
        let object = read_object(&folder.join("config.json"));
        let object = object.map_err(|error| folder::explain(folder, error))?;
        Ok(Self(read::sizes(&object)?))
    }

    /// Reads `config.json` of a model in the program.
    ///
    /// # Errors
    /// As [`Config::open`].
    pub fn embedded(files: &Embedded) -> Result<Self> {
        let object = object_in(files.config, &Embedded::name("config.json"))?;
        Ok(Self(read::sizes(&object)?))
    }

    /// Reads the text of a `config.json`.
    ///
    /// # Errors
    /// As [`Config::open`].
    pub fn from_json(text: &str) -> Result<Self> {
        let object = text_file::decode(text.as_bytes())
            .and_then(parse_object)
            .map_err(|problem| Error::Config {
                key: "config.json".into(),
                problem,
            })?;
        Ok(Self(read::sizes(&object)?))
    }

    /// What attention scores are multiplied with: `(dn + dr)^-0.5 · m²`, where
    /// `m = 0.1 · mscale_all_dim · ln(factor) + 1` with YaRN and 1 without. Source: spec 3.4.
    pub fn softmax_scale(&self) -> f32 {
        let head_dim = (self.qk_nope_head_dim + self.qk_rope_head_dim) as f64;
        let m = self
            .yarn
            .as_ref()
            .map_or(1.0, |yarn| yarn.magnitude(yarn.mscale_all_dim));
        (m * m / head_dim.sqrt()) as f32
    }

    /// Sizes of attention.
    pub fn heads(&self) -> Heads {
        Heads {
            n_heads: self.num_attention_heads,
            dn: self.qk_nope_head_dim,
            dr: self.qk_rope_head_dim,
            dv: self.v_head_dim,
            rank: self.kv_lora_rank,
            scale: self.softmax_scale(),
        }
    }

    /// What cos and sin are multiplied with; 1 for every released model. Source: spec 1.2.
    pub fn rope_factor(&self) -> f32 {
        let factor = |yarn: &Yarn| {
            let by_mscale = yarn.magnitude(yarn.mscale) / yarn.magnitude(yarn.mscale_all_dim);
            yarn.attention_factor.unwrap_or(by_mscale)
        };
        self.yarn.as_ref().map_or(1.0, factor) as f32
    }

    /// Whether `layer` has experts. The MTP layer is `num_hidden_layers`.
    pub fn is_moe(&self, layer: usize) -> bool {
        self.moe.as_ref().is_some_and(|moe| moe.is_moe(layer))
    }

    /// Whether `layer` has an indexer of its own. The MTP layer, `num_hidden_layers`, has one if
    /// any layer has.
    pub fn owns_indexer(&self, layer: usize) -> bool {
        let owns = |indexer: &IndexerConfig| indexer.owners.get(layer).copied();
        self.indexer
            .as_ref()
            .is_some_and(|indexer| owns(indexer).unwrap_or(true))
    }

    /// The layer whose selection `layer` reads by: itself, unless it has no indexer and an earlier layer
    /// has. In a model without indexers every layer decides for itself, which is to read everything.
    pub fn selection_layer(&self, layer: usize) -> usize {
        if self.indexer.is_none() {
            return layer;
        }
        (0..=layer)
            .rev()
            .find(|&owner| self.owns_indexer(owner))
            .unwrap_or(layer)
    }

    /// The main layers that have experts, ascending.
    pub fn moe_layers(&self) -> Vec<usize> {
        (0..self.num_hidden_layers)
            .filter(|&layer| self.is_moe(layer))
            .collect()
    }

    /// Bytes that one token takes in the caches of the main layers: latents in each, keys in those
    /// that have an indexer of their own.
    pub fn cache_bytes_per_token(&self, latent: LatentFormat, keys: KeyFormat) -> usize {
        let owners = (0..self.num_hidden_layers).filter(|&layer| self.owns_indexer(layer));
        self.num_hidden_layers * self.latent_bytes(latent) + owners.count() * self.key_bytes(keys)
    }

    /// Bytes of one token's latent and rotary key in one layer. FP8 has one `f32` factor for 128
    /// values; the rotary part stays `f32`, or bf16 in FlashMLA's form.
    pub fn latent_bytes(&self, format: LatentFormat) -> usize {
        let (rank, dr) = (self.kv_lora_rank, self.qk_rope_head_dim);
        match format {
            LatentFormat::F32 => 4 * (rank + dr),
            LatentFormat::Bf16 => 2 * (rank + dr),
            LatentFormat::Fp8 => fp8_bytes(rank) + 4 * dr,
            LatentFormat::FlashMla => fp8_bytes(rank) + 2 * dr,
        }
    }

    /// Bytes of one token's indexer key in one layer that has an indexer; 0 in a model without.
    pub fn key_bytes(&self, format: KeyFormat) -> usize {
        self.indexer.as_ref().map_or(0, |indexer| match format {
            KeyFormat::F32 => 4 * indexer.index_head_dim,
            KeyFormat::Fp8 => fp8_bytes(indexer.index_head_dim),
        })
    }
}

/// Bytes of `width` values in FP8, with one `f32` factor for 128 of them.
fn fp8_bytes(width: usize) -> usize {
    width + 4 * width.div_ceil(FP8_BLOCK)
}

impl Yarn {
    /// `0.1 · mscale · ln(factor) + 1`.
    fn magnitude(&self, mscale: f64) -> f64 {
        0.1 * mscale * self.factor.ln() + 1.0
    }
}

impl MoeConfig {
    fn is_moe(&self, layer: usize) -> bool {
        layer >= self.first_k_dense_replace && layer.is_multiple_of(self.moe_layer_freq)
    }
}

/// The object in a small JSON file.
///
/// # Errors
/// The file cannot be read, is too large, or holds no JSON object.
pub(crate) fn read_object(path: &Path) -> Result<Map<String, Value>> {
    let text = text_file::read_short(path, MAX_FILE_BYTES)?;
    parse_object(&text).map_err(|problem| Error::BadFile {
        path: path.into(),
        problem,
    })
}

/// The object in the bytes of a small JSON file of that name.
///
/// # Errors
/// Too many bytes, no text, or no JSON object in it.
pub(crate) fn object_in(bytes: &[u8], name: &Path) -> Result<Map<String, Value>> {
    let object = text_file::check_length(bytes.len() as u64, MAX_FILE_BYTES)
        .and_then(|()| text_file::decode(bytes))
        .and_then(parse_object);
    object.map_err(|problem| Error::BadFile {
        path: name.into(),
        problem,
    })
}

fn parse_object(text: &str) -> std::result::Result<Map<String, Value>, String> {
    // Nesting beyond 128 levels is an error of serde_json, so no depth can use up the stack.
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(other) => Err(format!(
            "holds {}, expected a JSON object",
            keys::shown(&other)
        )),
        Err(error) => {
            // Python writes NaN and Infinity, which are no JSON: the line shows whose value it is.
            let line = text.lines().nth(error.line().saturating_sub(1));
            let line = line.unwrap_or_default();
            let line: String = line.trim().chars().take(80).collect();
            Err(format!("is not JSON: {error}, in {line:?}"))
        }
    }
}
