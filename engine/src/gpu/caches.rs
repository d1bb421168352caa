//! What earlier tokens left behind, in the layouts that the kernels read.
//!
//! A cache is one buffer a layer, so that a kernel needs one binding: it doubles when it is full, up to
//! the largest binding, which copies it on the device, and shrinks by forgetting.

use std::ops::Range;

use shaders::{copy_words, key_cache, latent_cache};

use super::launch::{Buffer, Gpu};
use super::sizes::MOST_POSITIONS;
use crate::cache::{CacheFormat, KeyFormat, LatentFormat, indexer_of};
use crate::config::Config;
use crate::{Error, Result};

/// Tokens of a new cache. A multiple of every page.
const FIRST_TOKENS: usize = 1024;

/// A buffer that grows by whole steps.
#[derive(Debug)]
struct Growing {
    gpu: Gpu,
    buffer: Option<Buffer>,
    capacity: usize,
    n_tokens: usize,
    /// Words for this many tokens.
    words: Layout,
}

/// How many words a number of tokens takes.
#[derive(Clone, Copy, Debug)]
enum Layout {
    Latent { format: u32, rank: usize, dr: usize },
    Keys { format: u32, dim: usize },
}

impl Layout {
    fn words(self, n_tokens: usize) -> usize {
        match self {
            Self::Latent { format, rank, dr } => {
                n_tokens * latent_cache::token_words(format, rank, dr)
            }
            Self::Keys { format, dim } => key_cache::words(format, dim, n_tokens),
        }
    }

    /// Most tokens that one binding of `gpu` holds, and that kernels can count.
    fn most_tokens(self, gpu: &Gpu) -> usize {
        // Whole 16-byte units, as buffers are.
        let words = gpu.max_binding_bytes() / 16 * 4;
        let most = match self {
            Self::Keys { format, dim } if format == key_cache::FP8 => {
                words / key_cache::page_words(dim) * key_cache::PAGE_TOKENS
            }
            _ => words / self.words(1),
        };
        most.min(MOST_POSITIONS)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Latent { .. } => "latent cache",
            Self::Keys { .. } => "indexer key cache",
        }
    }
}

impl Growing {
    fn new(gpu: Gpu, words: Layout) -> Self {
        Self {
            gpu,
            buffer: None,
            capacity: 0,
            n_tokens: 0,
            words,
        }
    }

    /// Refuses `needed` tokens in all, if no binding holds them.
    fn check(&self, needed: usize) -> Result<()> {
        let most = self.words.most_tokens(&self.gpu);
        if needed <= most {
            return Ok(());
        }
        Err(Error::Setting {
            name: format!("{} of a layer", self.words.name()),
            found: format!("{needed} tokens"),
            expected: format!(
                "at most {most}, what this device's largest binding of {} bytes holds: a smaller cache format takes more",
                self.gpu.max_binding_bytes()
            ),
        })
    }

    /// Room for `n` more tokens, which count as there.
    fn grow(&mut self, n: usize, most: usize) -> Result<&Buffer> {
        let needed = self.n_tokens + n;
        self.check(needed)?;
        if needed > self.capacity {
            let mut capacity = self.capacity.max(FIRST_TOKENS);
            while capacity < needed {
                capacity *= 2;
            }
            // Not beyond what the context and a binding can hold, but for whole pages of the context.
            let capacity = capacity
                .min(most.next_multiple_of(FIRST_TOKENS))
                .min(self.words.most_tokens(&self.gpu))
                .max(needed);
            let larger = self.gpu.empty(self.words.words(capacity));
            if let Some(old) = &self.buffer
                && self.n_tokens > 0
            {
                let call = copy_words::Call {
                    n: self.words.words(self.n_tokens),
                    from_offset: 0,
                    to_offset: 0,
                };
                let dispatch = copy_words::dispatch(&call, self.gpu.tuning());
                self.gpu.launch(dispatch, &[old, &larger])?;
            }
            self.buffer = Some(larger);
            self.capacity = capacity;
        }
        self.n_tokens = needed;
        Ok(self.buffer.as_ref().expect("made above or before"))
    }

    fn buffer(&self) -> &Buffer {
        self.buffer
            .as_ref()
            .expect("a cache is written before it is read")
    }

    fn truncate(&mut self, n_tokens: usize) {
        self.n_tokens = self.n_tokens.min(n_tokens);
    }

    /// A copy on the device.
    fn fork(&self) -> Result<Self> {
        let mut fork = Self::new(self.gpu.clone(), self.words);
        if let Some(from) = &self.buffer {
            let to = self.gpu.empty(from.n_words());
            let call = copy_words::Call {
                n: from.n_words(),
                from_offset: 0,
                to_offset: 0,
            };
            let dispatch = copy_words::dispatch(&call, self.gpu.tuning());
            self.gpu.launch(dispatch, &[from, &to])?;
            (fork.buffer, fork.capacity, fork.n_tokens) = (Some(to), self.capacity, self.n_tokens);
        }
        Ok(fork)
    }

    fn bytes(&self) -> usize {
        self.buffer
            .as_ref()
            .map_or(0, |buffer| buffer.n_words() * 4)
    }
}

/// The kernels' LATENT knob.
pub(super) fn latent_format(format: LatentFormat) -> u32 {
    match format {
        LatentFormat::F32 => latent_cache::F32,
        LatentFormat::Bf16 => latent_cache::BF16,
        LatentFormat::Fp8 => latent_cache::FP8,
        LatentFormat::FlashMla => latent_cache::FLASH_MLA,
    }
}

/// The kernels' KEYS knob.
pub(super) fn key_format(format: KeyFormat) -> u32 {
    match format {
        KeyFormat::F32 => key_cache::F32,
        KeyFormat::Fp8 => key_cache::FP8,
    }
}

/// Latents and roped keys of one layer.
#[derive(Debug)]
pub(crate) struct LatentBuffer {
    cache: Growing,
    format: u32,
}

/// Keys of the lightning indexer of one layer.
#[derive(Debug)]
pub(crate) struct KeyBuffer {
    cache: Growing,
    format: u32,
}

impl LatentBuffer {
    pub(crate) fn new(gpu: Gpu, rank: usize, dr: usize, format: LatentFormat) -> Self {
        let format = latent_format(format);
        Self {
            cache: Growing::new(gpu, Layout::Latent { format, rank, dr }),
            format,
        }
    }

    /// The kernels' LATENT knob.
    pub(crate) fn format(&self) -> u32 {
        self.format
    }

    /// Most tokens that one binding holds.
    pub(crate) fn most_tokens(&self) -> usize {
        self.cache.words.most_tokens(&self.cache.gpu)
    }

    /// Refuses `n_tokens` in all, if no binding holds them.
    pub(crate) fn check(&self, n_tokens: usize) -> Result<()> {
        self.cache.check(n_tokens)
    }

    /// Room for `n` more of at most `most` tokens.
    pub(crate) fn grow(&mut self, n: usize, most: usize) -> Result<&Buffer> {
        self.cache.grow(n, most)
    }

    pub(crate) fn buffer(&self) -> &Buffer {
        self.cache.buffer()
    }

    pub(crate) fn fork(&self) -> Result<Self> {
        Ok(Self {
            cache: self.cache.fork()?,
            format: self.format,
        })
    }

    pub(crate) fn truncate(&mut self, n_tokens: usize) {
        self.cache.truncate(n_tokens);
    }

    pub(crate) fn bytes(&self) -> usize {
        self.cache.bytes()
    }
}

impl KeyBuffer {
    pub(crate) fn new(gpu: Gpu, dim: usize, format: KeyFormat) -> Self {
        let format = key_format(format);
        Self {
            cache: Growing::new(gpu, Layout::Keys { format, dim }),
            format,
        }
    }

    /// The kernels' KEYS knob.
    pub(crate) fn format(&self) -> u32 {
        self.format
    }

    /// Most tokens that one binding holds.
    pub(crate) fn most_tokens(&self) -> usize {
        self.cache.words.most_tokens(&self.cache.gpu)
    }

    /// Refuses `n_tokens` in all, if no binding holds them.
    pub(crate) fn check(&self, n_tokens: usize) -> Result<()> {
        self.cache.check(n_tokens)
    }

    /// Room for `n` more of at most `most` tokens.
    pub(crate) fn grow(&mut self, n: usize, most: usize) -> Result<&Buffer> {
        self.cache.grow(n, most)
    }

    pub(crate) fn buffer(&self) -> &Buffer {
        self.cache.buffer()
    }

    pub(crate) fn fork(&self) -> Result<Self> {
        Ok(Self {
            cache: self.cache.fork()?,
            format: self.format,
        })
    }

    pub(crate) fn truncate(&mut self, n_tokens: usize) {
        self.cache.truncate(n_tokens);
    }

    pub(crate) fn bytes(&self) -> usize {
        self.cache.bytes()
    }
}

/// The caches of one layer.
#[derive(Debug)]
pub(crate) struct LayerCache {
    pub latent: LatentBuffer,
    /// `None` where the layer owns no indexer.
    pub keys: Option<KeyBuffer>,
}

/// Empty caches for layers `layers`.
pub(super) fn new_caches(
    gpu: &Gpu,
    config: &Config,
    layers: Range<usize>,
    format: CacheFormat,
) -> Result<Vec<LayerCache>> {
    let (rank, dr) = (config.kv_lora_rank, config.qk_rope_head_dim);
    let cache = |layer| {
        let indexer = indexer_of(config, layer, format.keys)?;
        Ok(LayerCache {
            latent: LatentBuffer::new(gpu.clone(), rank, dr, format.latent),
            keys: indexer
                .map(|sizes| KeyBuffer::new(gpu.clone(), sizes.index_head_dim, format.keys)),
        })
    };
    layers.map(cache).collect()
}
