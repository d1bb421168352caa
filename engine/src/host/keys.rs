//! The indexer's key cache of one layer on the host.
//!
//! Keys lie in blocks of sixteen, channel by channel: a lane is a key.

use std::sync::Arc;

use super::fp8;
use super::simd::LANES;
use crate::cache::KeyFormat;
use crate::config::FP8_BLOCK as BLOCK;

/// Blocks of a page. Caches grow by pages, so nothing that is there is copied.
const PAGE_BLOCKS: usize = 64;

/// Keys of one layer. A clone shares its pages until one of the two writes to one.
#[derive(Clone, Debug)]
pub struct KeyCache {
    pub(super) dim: usize,
    n_tokens: usize,
    pages: Pages,
}

#[derive(Clone, Debug)]
enum Pages {
    /// `[PAGE_BLOCKS, dim, 16]` each.
    F32(Vec<Arc<[f32]>>),
    Fp8(Vec<Arc<Fp8Page>>),
}

#[derive(Clone, Debug)]
struct Fp8Page {
    codes: Vec<u8>,   // [PAGE_BLOCKS, dim, 16]
    scales: Vec<f32>, // [PAGE_BLOCKS, ceil(dim / 128), 16]
}

impl KeyCache {
    /// An empty cache of keys `[dim]`.
    pub fn new(dim: usize, format: KeyFormat) -> Self {
        let pages = match format {
            KeyFormat::F32 => Pages::F32(Vec::new()),
            KeyFormat::Fp8 => Pages::Fp8(Vec::new()),
        };
        Self {
            dim,
            n_tokens: 0,
            pages,
        }
    }

    /// How keys are stored.
    pub fn format(&self) -> KeyFormat {
        match self.pages {
            Pages::F32(_) => KeyFormat::F32,
            Pages::Fp8(_) => KeyFormat::Fp8,
        }
    }

    fn n_scales(&self) -> usize {
        self.dim.div_ceil(BLOCK)
    }

    /// Appends keys `[tokens, dim]`.
    pub fn push(&mut self, keys: &[f32]) {
        let (dim, n_scales) = (self.dim, self.n_scales());
        for key in keys.chunks_exact(dim) {
            let (block, lane) = (self.n_tokens / LANES, self.n_tokens % LANES);
            let (page, at) = (block / PAGE_BLOCKS, block % PAGE_BLOCKS);
            match &mut self.pages {
                Pages::F32(pages) => {
                    if page == pages.len() {
                        pages.push(vec![0.0; PAGE_BLOCKS * dim * LANES].into());
                    }
                    let block =
                        &mut Arc::make_mut(&mut pages[page])[at * dim * LANES..][..dim * LANES];
                    for (channel, value) in block.chunks_exact_mut(LANES).zip(key) {
                        channel[lane] = *value;
                    }
                }
                Pages::Fp8(pages) => {
                    if page == pages.len() {
                        pages.push(Arc::new(Fp8Page {
                            codes: vec![0; PAGE_BLOCKS * dim * LANES],
                            scales: vec![0.0; PAGE_BLOCKS * n_scales * LANES],
                        }));
                    }
                    let page = Arc::make_mut(&mut pages[page]);
                    let codes = &mut page.codes[at * dim * LANES..][..dim * LANES];
                    let scales = &mut page.scales[at * n_scales * LANES..][..n_scales * LANES];
                    let blocks = codes.chunks_mut(BLOCK * LANES).zip(key.chunks(BLOCK));
                    for ((codes, key), scales) in blocks.zip(scales.chunks_exact_mut(LANES)) {
                        scales[lane] = fp8::scale(key);
                        for (channel, value) in codes.chunks_exact_mut(LANES).zip(key) {
                            channel[lane] = fp8::encode(value / scales[lane]);
                        }
                    }
                }
            }
            self.n_tokens += 1;
        }
    }

    /// Forgets everything from token `n_tokens` on.
    pub fn truncate(&mut self, n_tokens: usize) {
        self.n_tokens = self.n_tokens.min(n_tokens);
        let pages = self.n_tokens.div_ceil(LANES * PAGE_BLOCKS);
        match &mut self.pages {
            Pages::F32(all) => all.truncate(pages),
            Pages::Fp8(all) => all.truncate(pages),
        }
    }

    /// Bytes taken, whole pages counted.
    pub fn bytes(&self) -> usize {
        let keys = PAGE_BLOCKS * LANES;
        match &self.pages {
            Pages::F32(pages) => pages.len() * keys * self.dim * 4,
            Pages::Fp8(pages) => pages.len() * keys * (self.dim + 4 * self.n_scales()),
        }
    }

    /// Keys of a block, `[dim, 16]`: in place, or expanded into `scratch`.
    #[inline(always)]
    pub(super) fn block<'a>(&'a self, block: usize, scratch: &'a mut [f32]) -> &'a [f32] {
        let (page, at) = (block / PAGE_BLOCKS, block % PAGE_BLOCKS);
        let (dim, n_scales) = (self.dim, self.n_scales());
        match &self.pages {
            Pages::F32(pages) => &pages[page][at * dim * LANES..][..dim * LANES],
            Pages::Fp8(pages) => {
                let page = &pages[page];
                let codes = page.codes[at * dim * LANES..][..dim * LANES].chunks(BLOCK * LANES);
                let scales = page.scales[at * n_scales * LANES..].chunks_exact(LANES);
                let scratch = &mut scratch[..dim * LANES];
                for ((into, codes), scales) in
                    scratch.chunks_mut(BLOCK * LANES).zip(codes).zip(scales)
                {
                    let channels = into.as_chunks_mut::<LANES>().0.iter_mut();
                    for (values, codes) in channels.zip(codes.as_chunks::<LANES>().0) {
                        for lane in 0..LANES {
                            values[lane] = fp8::decode(codes[lane]) * scales[lane];
                        }
                    }
                }
                scratch
            }
        }
    }
}
