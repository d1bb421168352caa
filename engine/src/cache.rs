//! What earlier tokens left behind: per layer the latents and, where there is an indexer, its keys.
//!
//! Never expanded heads. Caches grow by pages, so nothing that is there is copied, and shrink by
//! forgetting, so that going back is exact.

use burn::Tensor;

use crate::config::Config;
use crate::cpu::{KeyCache, KeyFormat, LatentCache, LatentFormat};
use crate::device::{Device, Place};
use crate::gpu::{KeyBuffer, LatentBuffer};
use crate::ops::quantise;
use crate::rows::Rows;
use crate::{Error, Result};

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

/// Tokens in one page of a tensor cache.
const PAGE_TOKENS: usize = 1024;

/// Rows of one width in tensors of [`PAGE_TOKENS`] rows.
#[derive(Clone, Debug)]
pub(crate) struct Pages {
    place: Place,
    width: usize,
    n_rows: usize,
    pages: Vec<Tensor<2>>,
}

impl Pages {
    fn new(place: Place, width: usize) -> Self {
        Self {
            place,
            width,
            n_rows: 0,
            pages: Vec::new(),
        }
    }

    fn push(&mut self, rows: Tensor<2>) {
        let n = rows.dims()[0];
        let mut done = 0;
        while done < n {
            let (page, at) = (self.n_rows / PAGE_TOKENS, self.n_rows % PAGE_TOKENS);
            if page == self.pages.len() {
                let zeros = vec![0.0; PAGE_TOKENS * self.width];
                self.pages
                    .push(self.place.tensor(zeros, [PAGE_TOKENS, self.width]));
            }
            let take = (PAGE_TOKENS - at).min(n - done);
            let part = rows.clone().slice([done..done + take, 0..self.width]);
            // Taken out first: assigning into a tensor that is shared would copy the page.
            let whole = self.pages.remove(page);
            self.pages.insert(
                page,
                whole.slice_assign([at..at + take, 0..self.width], part),
            );
            self.n_rows += take;
            done += take;
        }
    }

    fn truncate(&mut self, n_rows: usize) {
        self.n_rows = self.n_rows.min(n_rows);
        self.pages.truncate(self.n_rows.div_ceil(PAGE_TOKENS));
    }

    fn bytes(&self) -> usize {
        self.pages.len() * PAGE_TOKENS * self.width * 4
    }

    /// The used part of each page, in order.
    pub(crate) fn parts(&self) -> impl Iterator<Item = Tensor<2>> + '_ {
        self.pages.iter().enumerate().map(|(page, tensor)| {
            let used = (self.n_rows - page * PAGE_TOKENS).min(PAGE_TOKENS);
            tensor.clone().slice([0..used, 0..self.width])
        })
    }

    /// The rows at `positions`, which ascend, as `[positions, width]`. Reads these rows only.
    pub(crate) fn gather(&self, positions: &[i32]) -> Tensor<2> {
        if positions.len() == self.n_rows {
            return Tensor::cat(self.parts().collect(), 0);
        }
        let Place::Burn { device, .. } = &self.place else {
            unreachable!("tensor caches live on Burn devices");
        };
        let mut parts = Vec::new();
        for group in
            positions.chunk_by(|a, b| *a as usize / PAGE_TOKENS == *b as usize / PAGE_TOKENS)
        {
            let page = group[0] as usize / PAGE_TOKENS;
            let within: Vec<i32> = group.iter().map(|p| p % PAGE_TOKENS as i32).collect();
            let index = Tensor::<1, burn::tensor::Int>::from_ints(within.as_slice(), device);
            parts.push(self.pages[page].clone().select(0, index));
        }
        Tensor::cat(parts, 0)
    }
}

/// Latents and rotary keys of one layer.
#[derive(Debug)]
pub(crate) enum LatentStore {
    Host(LatentCache),
    Pages {
        latent: Pages,
        k_pe: Pages,
        format: LatentFormat,
    },
    Gpu(LatentBuffer),
}

/// Indexer keys of one layer.
#[derive(Debug)]
pub(crate) enum KeyStore {
    Host(KeyCache),
    Pages { keys: Pages, format: KeyFormat },
    Gpu(KeyBuffer),
}

impl LatentStore {
    fn new(config: &Config, device: &Device, format: LatentFormat) -> Result<Self> {
        let (rank, dr) = (config.kv_lora_rank, config.qk_rope_head_dim);
        let refused = |found: &str, expected: &str| {
            Err(Error::Setting {
                name: "latent cache format".into(),
                found: found.into(),
                expected: format!("{expected} on device {:?}", device.info.id),
            })
        };
        match (&device.place, format) {
            (Place::Gpu { gpu }, _) => {
                Ok(Self::Gpu(LatentBuffer::new(gpu.clone(), rank, dr, format)))
            }
            (Place::Host, LatentFormat::FlashMla) => refused("flashmla", "f32, bf16 or fp8"),
            (Place::Host, _) => Ok(Self::Host(LatentCache::new(rank, dr, format))),
            (Place::Burn { .. }, LatentFormat::FlashMla) => refused("flashmla", "f32 or fp8"),
            (Place::Burn { .. }, LatentFormat::Bf16) => refused("bf16", "f32 or fp8"),
            (place, _) => Ok(Self::Pages {
                latent: Pages::new(place.clone(), rank),
                k_pe: Pages::new(place.clone(), dr),
                format,
            }),
        }
    }

    pub(crate) fn format(&self) -> LatentFormat {
        match self {
            Self::Host(cache) => cache.format(),
            Self::Gpu(_) => unreachable!("kernels know their caches' format themselves"),
            Self::Pages { format, .. } => *format,
        }
    }

    /// Appends latents `[tokens, kv_lora_rank]` and roped keys `[tokens, qk_rope_head_dim]`.
    pub(crate) fn push(&mut self, new_latent: &Rows, new_k_pe: &Rows) {
        match self {
            Self::Host(cache) => cache.push(new_latent.host(), new_k_pe.host()),
            Self::Gpu(_) => unreachable!("kernels write their caches themselves"),
            Self::Pages {
                latent,
                k_pe,
                format,
            } => {
                let rows = new_latent.tensor();
                latent.push(match format {
                    LatentFormat::Fp8 => quantise::portable(rows, quantise::BLOCK),
                    LatentFormat::F32 | LatentFormat::Bf16 | LatentFormat::FlashMla => rows,
                });
                k_pe.push(new_k_pe.tensor());
            }
        }
    }

    fn truncate(&mut self, n: usize) {
        match self {
            Self::Host(cache) => cache.truncate(n),
            Self::Gpu(cache) => cache.truncate(n),
            Self::Pages { latent, k_pe, .. } => {
                latent.truncate(n);
                k_pe.truncate(n);
            }
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Host(cache) => cache.bytes(),
            Self::Gpu(cache) => cache.bytes(),
            Self::Pages { latent, k_pe, .. } => latent.bytes() + k_pe.bytes(),
        }
    }
}

impl KeyStore {
    fn new(dim: usize, device: &Device, format: KeyFormat) -> Self {
        match &device.place {
            Place::Host => Self::Host(KeyCache::new(dim, format)),
            Place::Gpu { gpu, .. } => Self::Gpu(KeyBuffer::new(gpu.clone(), dim, format)),
            place => Self::Pages {
                keys: Pages::new(place.clone(), dim),
                format,
            },
        }
    }

    pub(crate) fn format(&self) -> KeyFormat {
        match self {
            Self::Host(cache) => cache.format(),
            Self::Gpu(_) => unreachable!("kernels know their caches' format themselves"),
            Self::Pages { format, .. } => *format,
        }
    }

    /// Appends keys `[tokens, index_head_dim]`, Hadamard-transformed already if they are FP8.
    pub(crate) fn push(&mut self, new: &Rows) {
        match self {
            Self::Host(cache) => cache.push(new.host()),
            Self::Gpu(_) => unreachable!("kernels write their caches themselves"),
            Self::Pages { keys, format } => {
                let rows = new.tensor();
                keys.push(match format {
                    KeyFormat::Fp8 => quantise::portable(rows, quantise::BLOCK),
                    KeyFormat::F32 => rows,
                });
            }
        }
    }

    fn truncate(&mut self, n: usize) {
        match self {
            Self::Host(cache) => cache.truncate(n),
            Self::Gpu(cache) => cache.truncate(n),
            Self::Pages { keys, .. } => keys.truncate(n),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Host(cache) => cache.bytes(),
            Self::Gpu(cache) => cache.bytes(),
            Self::Pages { keys, .. } => keys.bytes(),
        }
    }
}

/// The caches of one layer.
#[derive(Debug)]
pub(crate) struct LayerCache {
    pub(crate) latent: LatentStore,
    /// `None` where the layer owns no indexer.
    pub(crate) keys: Option<KeyStore>,
}

/// The caches of all main layers, or of the MTP layer.
#[derive(Debug)]
pub struct Cache {
    pub(crate) layers: Vec<LayerCache>,
    n_tokens: usize,
}

impl Cache {
    /// Empty caches for layers `layers` of the model.
    ///
    /// # Errors
    /// The format does not go with the model (FP8 keys need a Hadamard transform, so a power of
    /// two) or the device.
    pub(crate) fn new(
        config: &Config,
        layers: std::ops::Range<usize>,
        device: &Device,
        format: CacheFormat,
    ) -> Result<Self> {
        let layers = layers
            .map(|layer| {
                let keys = match &config.indexer {
                    Some(indexer) if config.owns_indexer(layer) => {
                        let dim = indexer.index_head_dim;
                        if format.keys == KeyFormat::Fp8 && !dim.is_power_of_two() {
                            return Err(Error::Setting {
                                name: "indexer key format".into(),
                                found: format!("fp8 with index_head_dim {dim}"),
                                expected: "f32, or a power of two as index_head_dim".into(),
                            });
                        }
                        Some(KeyStore::new(dim, device, format.keys))
                    }
                    _ => None,
                };
                Ok(LayerCache {
                    latent: LatentStore::new(config, device, format.latent)?,
                    keys,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            layers,
            n_tokens: 0,
        })
    }

    /// Tokens in the cache.
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// Bytes taken now, whole pages counted.
    pub fn bytes(&self) -> CacheBytes {
        let keys = |layer: &LayerCache| layer.keys.as_ref().map_or(0, KeyStore::bytes);
        CacheBytes {
            latents: self.layers.iter().map(|layer| layer.latent.bytes()).sum(),
            keys: self.layers.iter().map(keys).sum(),
        }
    }

    /// Says that every layer has taken `n` more tokens.
    pub(crate) fn advanced(&mut self, n: usize) {
        self.n_tokens += n;
    }

    /// Forgets everything from position `n_tokens` on; also mends layers that a failed forward
    /// pass left longer than others.
    pub fn truncate(&mut self, n_tokens: usize) {
        self.n_tokens = self.n_tokens.min(n_tokens);
        for layer in &mut self.layers {
            layer.latent.truncate(self.n_tokens);
            if let Some(keys) = &mut layer.keys {
                keys.truncate(self.n_tokens);
            }
        }
    }
}
