//! What earlier tokens left behind: per layer the latents and, where there is an indexer, its keys.
//!
//! Never expanded heads. How numbers lie in memory is each body's own; here is what is the same for
//! all of them: how many tokens there are, and that going back is exact.

use std::any::Any;

use crate::config::{Config, IndexerConfig};
use crate::{Error, Result};

/// How latents are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LatentFormat {
    /// As computed.
    F32,
    /// Rounded to bf16, the roped key too.
    Bf16,
    /// e4m3 with a power-of-two scale per 128 channels; the roped key stays `f32`.
    Fp8,
    /// The same with the roped key in bf16, 656 bytes a token of V3.2: FlashMLA's form. On GPUs only.
    FlashMla,
}

/// How indexer keys are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyFormat {
    /// As computed.
    F32,
    /// e4m3 with a power-of-two scale per key (per 128 channels), after a Hadamard transform.
    Fp8,
}

/// How cached numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheFormat {
    /// Latents of the attention.
    pub latent: LatentFormat,
    /// Keys of the lightning indexer.
    pub keys: KeyFormat,
}

impl Default for CacheFormat {
    /// Exact: `f32` everywhere.
    fn default() -> Self {
        Self {
            latent: LatentFormat::F32,
            keys: KeyFormat::F32,
        }
    }
}

/// Bytes that caches take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheBytes {
    /// Latents and rotary keys of attention.
    pub latents: usize,
    /// Keys of the lightning indexer.
    pub keys: usize,
}

impl CacheBytes {
    /// Both together.
    pub fn total(self) -> usize {
        self.latents + self.keys
    }
}

impl std::iter::Sum for CacheBytes {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, more| Self {
            latents: sum.latents + more.latents,
            keys: sum.keys + more.keys,
        })
    }
}

/// The caches of some layers, in the form of one body.
pub(crate) trait Layers: Any + std::fmt::Debug + Send + Sync {
    /// Forgets everything from token `n_tokens` on.
    fn truncate(&mut self, n_tokens: usize);
    /// Bytes taken now, whole pages counted.
    fn bytes(&self) -> CacheBytes;
    /// Most tokens that the device can hold, where that is not a matter of memory.
    fn most_tokens(&self) -> usize {
        usize::MAX
    }
    /// Refuses `n_tokens` in all, if that is more.
    fn check(&self, _n_tokens: usize) -> Result<()> {
        Ok(())
    }
    /// The same once more, for a timeline of its own.
    ///
    /// # Errors
    /// The device has no room, or failed.
    fn fork(&self) -> Result<Box<dyn Layers>>;
}

/// The caches of all main layers, or of the MTP layer.
#[derive(Debug)]
pub struct Cache {
    layers: Box<dyn Layers>,
    n_tokens: usize,
}

impl Cache {
    pub(crate) fn new(layers: Box<dyn Layers>) -> Self {
        Self {
            layers,
            n_tokens: 0,
        }
    }

    /// The layers in the form of the body that made them.
    ///
    /// # Errors
    /// Another one did.
    pub(crate) fn of<T: Layers>(&mut self) -> Result<&mut T> {
        let any: &mut dyn Any = &mut *self.layers;
        any.downcast_mut().ok_or_else(|| Error::Setting {
            name: "cache".into(),
            found: "one of a model on another device".into(),
            expected: "one that this model made".into(),
        })
    }

    /// Tokens in the cache.
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// Bytes taken now, whole pages counted.
    pub fn bytes(&self) -> CacheBytes {
        self.layers.bytes()
    }

    /// A second timeline with the same past up to `n_tokens`. On the CPU they share whole pages.
    ///
    /// # Errors
    /// The device has no room, or failed.
    pub fn fork(&self, n_tokens: usize) -> Result<Self> {
        let mut fork = Self {
            layers: self.layers.fork()?,
            n_tokens: self.n_tokens,
        };
        fork.truncate(n_tokens);
        Ok(fork)
    }

    /// Most tokens that can be held.
    pub(crate) fn most_tokens(&self) -> usize {
        self.layers.most_tokens()
    }

    /// Refuses `n_tokens` in all, if they cannot be held, and says how many could.
    pub(crate) fn check(&self, n_tokens: usize) -> Result<()> {
        self.layers.check(n_tokens)
    }

    /// Says that every layer has taken `n` more tokens.
    pub(crate) fn advanced(&mut self, n: usize) {
        self.n_tokens += n;
    }

    /// Forgets everything from position `n_tokens` on; also mends layers that a failed forward
    /// pass left longer than others.
    pub fn truncate(&mut self, n_tokens: usize) {
        self.n_tokens = self.n_tokens.min(n_tokens);
        self.layers.truncate(self.n_tokens);
    }
}

/// The sizes of a layer's indexer, if the layer owns one, and keys of `format` go with it.
///
/// # Errors
/// FP8 keys need a Hadamard transform, so a power of two.
pub(crate) fn indexer_of(
    config: &Config,
    layer: usize,
    format: KeyFormat,
) -> Result<Option<&IndexerConfig>> {
    let indexer = config.indexer.as_ref();
    let Some(sizes) = indexer.filter(|_| config.owns_indexer(layer)) else {
        return Ok(None);
    };
    let dim = sizes.index_head_dim;
    if format == KeyFormat::Fp8 && !dim.is_power_of_two() {
        return Err(Error::Setting {
            name: "indexer key format".into(),
            found: format!("fp8 with index_head_dim {dim}"),
            expected: "f32, or a power of two as index_head_dim".into(),
        });
    }
    Ok(Some(sizes))
}

/// Refuses a latent format that a device does not have.
pub(crate) fn refused(format: LatentFormat, expected: &str) -> Error {
    let found = match format {
        LatentFormat::F32 => "f32",
        LatentFormat::Bf16 => "bf16",
        LatentFormat::Fp8 => "fp8",
        LatentFormat::FlashMla => "flashmla",
    };
    Error::Setting {
        name: "latent cache format".into(),
        found: found.into(),
        expected: expected.into(),
    }
}
