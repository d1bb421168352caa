//! Caches of the definition: rows in tensors, page by page, so that nothing that is there is copied.

use std::ops::Range;

use burn::Tensor;
use burn::tensor::Int;

use super::quantise::quantise;
use crate::Result;
use crate::cache::{CacheBytes, CacheFormat, KeyFormat, LatentFormat, Layers, indexer_of, refused};
use crate::config::{Config, FP8_BLOCK};

/// Tokens in one page.
const PAGE_TOKENS: usize = 1024;

/// Rows of one width in tensors of [`PAGE_TOKENS`] rows.
#[derive(Clone, Debug)]
pub(super) struct Pages {
    width: usize,
    /// Round as FP8 storage would.
    fp8: bool,
    n_rows: usize,
    pages: Vec<Tensor<2>>,
}

impl Pages {
    fn new(width: usize, fp8: bool) -> Self {
        Self {
            width,
            fp8,
            n_rows: 0,
            pages: Vec::new(),
        }
    }

    pub fn push(&mut self, rows: Tensor<2>) {
        let rows = match self.fp8 {
            true => quantise(rows, FP8_BLOCK),
            false => rows,
        };
        let [n, width] = rows.dims();
        let mut done = 0;
        while done < n {
            let (page, at) = (self.n_rows / PAGE_TOKENS, self.n_rows % PAGE_TOKENS);
            if page == self.pages.len() {
                assert_eq!(
                    at, 0,
                    "a page was lost when a device failed in the midst of a write"
                );
                let kind = (&rows.device(), rows.dtype());
                self.pages.push(Tensor::zeros([PAGE_TOKENS, width], kind));
            }
            let take = (PAGE_TOKENS - at).min(n - done);
            let part = rows.clone().narrow(0, done, take);
            // Taken out first: assigning into a tensor that is shared would copy the page.
            let whole = self.pages.remove(page);
            let whole = whole.slice_assign([at..at + take, 0..width], part);
            self.pages.insert(page, whole);
            self.n_rows += take;
            done += take;
        }
    }

    fn truncate(&mut self, n_rows: usize) {
        self.n_rows = self.n_rows.min(n_rows);
        self.pages.truncate(self.n_rows.div_ceil(PAGE_TOKENS));
    }

    /// Of every page that was begun, as `f32`.
    fn bytes(&self) -> usize {
        self.pages.len() * PAGE_TOKENS * self.width * 4
    }

    /// The used part of each page, in order.
    pub fn parts(&self) -> impl Iterator<Item = Tensor<2>> + '_ {
        self.pages.iter().enumerate().map(|(page, tensor)| {
            let used = (self.n_rows - page * PAGE_TOKENS).min(PAGE_TOKENS);
            tensor.clone().narrow(0, 0, used)
        })
    }

    /// The rows at `positions`, which ascend, as `[positions, width]`. Reads these rows only.
    pub fn gather(&self, positions: &[i32]) -> Tensor<2> {
        if positions.len() == self.n_rows {
            return Tensor::cat(self.parts().collect(), 0);
        }
        let page_of = |position: &i32| *position as usize / PAGE_TOKENS;
        let mut parts = Vec::new();
        for group in positions.chunk_by(|a, b| page_of(a) == page_of(b)) {
            let page = &self.pages[page_of(&group[0])];
            let within: Vec<i32> = group.iter().map(|p| p % PAGE_TOKENS as i32).collect();
            let index = Tensor::<1, Int>::from_ints(within.as_slice(), &page.device());
            parts.push(page.clone().select(0, index));
        }
        Tensor::cat(parts, 0)
    }
}

/// The caches of one layer.
#[derive(Clone, Debug)]
pub(super) struct LayerCache {
    pub latent: Pages,
    pub k_pe: Pages,
    /// `None` where the layer owns no indexer.
    pub keys: Option<(Pages, KeyFormat)>,
}

/// Empty caches for layers `layers`.
pub(super) fn new_caches(
    config: &Config,
    layers: Range<usize>,
    format: CacheFormat,
) -> Result<Vec<LayerCache>> {
    let fp8 = match format.latent {
        LatentFormat::F32 => false,
        LatentFormat::Fp8 => true,
        other => return Err(refused(other, "f32 or fp8 on a portable device")),
    };
    let cache = |layer| {
        let indexer = indexer_of(config, layer, format.keys)?;
        let keys = indexer.map(|sizes| {
            let fp8 = format.keys == KeyFormat::Fp8;
            (Pages::new(sizes.index_head_dim, fp8), format.keys)
        });
        Ok(LayerCache {
            latent: Pages::new(config.kv_lora_rank, fp8),
            k_pe: Pages::new(config.qk_rope_head_dim, false),
            keys,
        })
    };
    layers.map(cache).collect()
}

impl Layers for Vec<LayerCache> {
    fn truncate(&mut self, n_tokens: usize) {
        for layer in self {
            layer.latent.truncate(n_tokens);
            layer.k_pe.truncate(n_tokens);
            if let Some((keys, _)) = &mut layer.keys {
                keys.truncate(n_tokens);
            }
        }
    }

    fn bytes(&self) -> CacheBytes {
        let bytes = |layer: &LayerCache| CacheBytes {
            latents: layer.latent.bytes() + layer.k_pe.bytes(),
            keys: layer.keys.as_ref().map_or(0, |(keys, _)| keys.bytes()),
        };
        self.iter().map(bytes).sum()
    }

    fn fork(&self) -> Result<Box<dyn Layers>> {
        Ok(Box::new(self.clone()))
    }
}
