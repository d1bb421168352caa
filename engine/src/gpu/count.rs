//! Counts what a model would launch, with no weights and no device: launches, bytes and operations
//! by the kernels' own formulas, and the least that any implementation has to read.

use shaders::{Tuning, key_cache, latent_cache};

use super::caches::{key_format, latent_format, new_caches};
use super::forward::GpuModel;
use super::launch::Gpu;
use super::profile::Profile;
use super::step::GpuPass;
use super::weights::{Shapes, WeightSource};
use crate::Result;
use crate::cache::CacheFormat;
use crate::config::{Config, Part};
use crate::pass::{ForwardOptions, LogitRows, Records};
use crate::rope::Rope;
use crate::trace::{Trace, Watch};

/// What is counted.
#[derive(Clone, Debug)]
pub struct CountCall {
    /// Tokens in the context before the pass.
    pub position: usize,
    /// Tokens of the pass.
    pub tokens: usize,
    /// How caches store numbers.
    pub format: CacheFormat,
    /// As for a real pass.
    pub options: ForwardOptions,
    /// Bytes that a binding reaches: 4 GiB on most desktop GPUs, 128 MiB on every adapter.
    pub max_binding_bytes: usize,
}

/// Launches of one pass of a model with this config, its logits included. Matrices count as the config
/// says: in FP8 the projections are FP8 and the rest BF16, as in the official checkpoint.
///
/// # Errors
/// A cache that no binding of this size can hold.
pub fn count(config: &Config, call: &CountCall) -> Result<Profile> {
    count_watched(config, call, Watch::default())
}

/// [`count`] of a pass of which all that `watch` asks for is recorded.
///
/// # Errors
/// As [`count`].
pub fn count_watched(config: &Config, call: &CountCall, watch: Watch) -> Result<Profile> {
    let tuning = Tuning {
        subgroups: true,
        fat_threads: false,
    };
    count_with(config, call, tuning, watch)
}

/// The same for a device that gets this variant of the kernels.
pub(super) fn count_with(
    config: &Config,
    call: &CountCall,
    tuning: Tuning,
    watch: Watch,
) -> Result<Profile> {
    let gpu = Gpu::counting(tuning, call.max_binding_bytes);
    let source = WeightSource::Shapes(Shapes::new(config));
    let model = GpuModel::load(gpu.clone(), &source, config, false, &mut |_| true)?
        .expect("nobody breaks off");
    let layers = 0..config.num_hidden_layers;
    let mut caches = new_caches(&gpu, config, layers, call.format)?;
    for cache in &mut caches {
        let most = config.max_position_embeddings;
        cache.latent.grow(call.position + call.tokens, most)?;
        cache.latent.truncate(call.position);
        if let Some(keys) = &mut cache.keys {
            keys.grow(call.position + call.tokens, most)?;
            keys.truncate(call.position);
        }
    }
    let angles = Rope::new(config).angles(call.position..call.position + call.tokens);
    let mut trace = Trace::new(watch);
    let mut pass = GpuPass {
        config,
        options: &call.options,
        position: call.position,
        angles: &angles,
        records: Records::default(),
        trace: &mut trace,
    };
    gpu.profiler().start(false);
    let ids = vec![0; call.tokens];
    GpuModel::forward(&model, &ids, &mut caches, LogitRows::Last, &mut pass)?;
    Ok(gpu.profiler().take().expect("started above"))
}

/// The least bytes that decoding one token has to read in `layer` after `position` others: every
/// active weight, every selected latent and every indexer key once. `bits_of` tells how a matrix is
/// stored, [`counted_bits`] or a checkpoint's own.
pub fn least_layer_bytes(
    config: &Config,
    call: &CountCall,
    layer: usize,
    bits_of: &dyn Fn(&str) -> usize,
) -> u64 {
    let context = call.position + 1;
    let topk = config.indexer.as_ref().map(|sizes| sizes.index_topk);
    let k = match (call.options.dense, call.options.index_topk.or(topk)) {
        (false, Some(k)) => k.min(context),
        _ => context,
    };
    let prefix = format!("model.layers.{layer}.");
    let mut weights = 0;
    for spec in config.tensors(false) {
        // Nobody asks the indexer where everything is read; its key is cached all the same.
        let asks = ["indexer.wq_b", "indexer.weights_proj"];
        let is_idle = k == context && asks.iter().any(|name| spec.name.contains(name));
        if !spec.name.starts_with(&prefix) || is_idle {
            continue;
        }
        let bytes = spec.shape.iter().product::<usize>() as u64
            * if spec.shape.len() < 2 {
                32
            } else {
                bits_of(&spec.name) as u64
            }
            / 8;
        // Experts are alike: each is as likely to be active.
        weights += match (&config.moe, spec.part) {
            (Some(moe), Part::Experts) => {
                bytes * moe.num_experts_per_tok as u64 / moe.n_routed_experts as u64
            }
            _ => bytes,
        };
    }
    let format = latent_format(call.format.latent);
    let latent = latent_cache::token_words(format, config.kv_lora_rank, config.qk_rope_head_dim);
    let mut cached = k * latent * 4;
    if let Some(sizes) = &config.indexer
        && config.owns_indexer(layer)
        && k < context
    {
        let format = key_format(call.format.keys);
        cached += context * key_cache::token_words(format, sizes.index_head_dim) * 4;
    }
    weights + cached as u64
}

/// Bits of a number of each matrix, as [`count`] counts them.
pub fn counted_bits(config: &Config) -> impl Fn(&str) -> usize {
    let shapes = Shapes::new(config);
    move |name| shapes.bits(name)
}
