//! The latent cache of one layer on the host: `[latent ; roped key]` a token, in pages.

use std::sync::Arc;

use super::fp8;
use crate::cache::LatentFormat;
use crate::config::FP8_BLOCK as BLOCK;

/// Tokens of a page. Caches grow by pages, so nothing that is there is copied.
const PAGE_TOKENS: usize = 256;

/// Latents and roped keys of one layer. A clone shares its pages until one of the two writes to one.
#[derive(Clone, Debug)]
pub struct LatentCache {
    rank: usize,
    dr: usize,
    n_tokens: usize,
    pages: Pages,
}

#[derive(Clone, Debug)]
enum Pages {
    /// `[PAGE_TOKENS, rank + dr]` each.
    F32(Vec<Arc<[f32]>>),
    /// `[PAGE_TOKENS, rank + dr]` each.
    Bf16(Vec<Arc<[u16]>>),
    Fp8(Vec<Arc<Fp8Page>>),
}

#[derive(Clone, Debug)]
struct Fp8Page {
    codes: Vec<u8>,   // [PAGE_TOKENS, rank]
    scales: Vec<f32>, // [PAGE_TOKENS, ceil(rank / 128)]
    k_pe: Vec<f32>,   // [PAGE_TOKENS, dr]
}

impl LatentCache {
    /// An empty cache of latents `[rank]` and roped keys `[dr]`.
    pub fn new(rank: usize, dr: usize, format: LatentFormat) -> Self {
        let pages = match format {
            LatentFormat::F32 => Pages::F32(Vec::new()),
            LatentFormat::Bf16 => Pages::Bf16(Vec::new()),
            LatentFormat::Fp8 => Pages::Fp8(Vec::new()),
            LatentFormat::FlashMla => unreachable!("refused when caches are made"),
        };
        Self {
            rank,
            dr,
            n_tokens: 0,
            pages,
        }
    }

    /// How latents are stored.
    pub fn format(&self) -> LatentFormat {
        match self.pages {
            Pages::F32(_) => LatentFormat::F32,
            Pages::Bf16(_) => LatentFormat::Bf16,
            Pages::Fp8(_) => LatentFormat::Fp8,
        }
    }

    fn n_scales(&self) -> usize {
        self.rank.div_ceil(BLOCK)
    }

    /// Appends latents `[tokens, rank]` and roped keys `[tokens, dr]`.
    pub fn push(&mut self, latents: &[f32], k_pe: &[f32]) {
        for (latent, k_pe) in latents
            .chunks_exact(self.rank)
            .zip(k_pe.chunks_exact(self.dr))
        {
            self.push_one(latent, k_pe);
        }
    }

    fn push_one(&mut self, latent: &[f32], k_pe: &[f32]) {
        let (page, at) = (self.n_tokens / PAGE_TOKENS, self.n_tokens % PAGE_TOKENS);
        let (rank, dr, n_scales) = (self.rank, self.dr, self.n_scales());
        let width = rank + dr;
        match &mut self.pages {
            Pages::F32(pages) => {
                if page == pages.len() {
                    pages.push(vec![0.0; PAGE_TOKENS * width].into());
                }
                let row = &mut Arc::make_mut(&mut pages[page])[at * width..][..width];
                row[..rank].copy_from_slice(latent);
                row[rank..].copy_from_slice(k_pe);
            }
            Pages::Bf16(pages) => {
                if page == pages.len() {
                    pages.push(vec![0; PAGE_TOKENS * width].into());
                }
                let row = &mut Arc::make_mut(&mut pages[page])[at * width..][..width];
                for (bits, value) in row.iter_mut().zip(latent.iter().chain(k_pe)) {
                    *bits = half::bf16::from_f32(*value).to_bits();
                }
            }
            Pages::Fp8(pages) => {
                if page == pages.len() {
                    pages.push(Arc::new(Fp8Page {
                        codes: vec![0; PAGE_TOKENS * rank],
                        scales: vec![0.0; PAGE_TOKENS * n_scales],
                        k_pe: vec![0.0; PAGE_TOKENS * dr],
                    }));
                }
                let page = Arc::make_mut(&mut pages[page]);
                let codes = page.codes[at * rank..][..rank].chunks_mut(BLOCK);
                let scales = &mut page.scales[at * n_scales..][..n_scales];
                for ((codes, block), scale) in codes.zip(latent.chunks(BLOCK)).zip(scales) {
                    *scale = fp8::scale(block);
                    for (code, value) in codes.iter_mut().zip(block) {
                        *code = fp8::encode(value / *scale);
                    }
                }
                page.k_pe[at * dr..][..dr].copy_from_slice(k_pe);
            }
        }
        self.n_tokens += 1;
    }

    /// Forgets everything from token `n_tokens` on.
    pub fn truncate(&mut self, n_tokens: usize) {
        self.n_tokens = self.n_tokens.min(n_tokens);
        let pages = self.n_tokens.div_ceil(PAGE_TOKENS);
        match &mut self.pages {
            Pages::F32(all) => all.truncate(pages),
            Pages::Bf16(all) => all.truncate(pages),
            Pages::Fp8(all) => all.truncate(pages),
        }
    }

    /// Tokens in the cache.
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// Pages, and those of them that another cache holds too.
    #[cfg(test)]
    pub(super) fn shared_pages(&self) -> [usize; 2] {
        fn shared<T: ?Sized>(pages: &[Arc<T>]) -> [usize; 2] {
            let held = pages.iter().filter(|page| Arc::strong_count(page) > 1);
            [pages.len(), held.count()]
        }
        match &self.pages {
            Pages::F32(pages) => shared(pages),
            Pages::Bf16(pages) => shared(pages),
            Pages::Fp8(pages) => shared(pages),
        }
    }

    /// Bytes taken, whole pages counted.
    pub fn bytes(&self) -> usize {
        let width = self.rank + self.dr;
        match &self.pages {
            Pages::F32(pages) => pages.len() * PAGE_TOKENS * width * 4,
            Pages::Bf16(pages) => pages.len() * PAGE_TOKENS * width * 2,
            Pages::Fp8(pages) => {
                pages.len() * PAGE_TOKENS * (self.rank + 4 * (self.n_scales() + self.dr))
            }
        }
    }

    /// The row `[latent ; roped key]` of a token, where it is stored as `f32`.
    #[inline(always)]
    pub(super) fn in_place(&self, token: usize) -> Option<&[f32]> {
        let Pages::F32(pages) = &self.pages else {
            return None;
        };
        let width = self.rank + self.dr;
        Some(&pages[token / PAGE_TOKENS][token % PAGE_TOKENS * width..][..width])
    }

    /// The row of a token into `into`; inlined, so that it is compiled for the caller's registers.
    #[inline(always)]
    pub(super) fn expand(&self, token: usize, into: &mut [f32]) {
        let (page, at) = (token / PAGE_TOKENS, token % PAGE_TOKENS);
        let (rank, dr, width) = (self.rank, self.dr, self.rank + self.dr);
        match &self.pages {
            Pages::F32(pages) => into.copy_from_slice(&pages[page][at * width..][..width]),
            Pages::Bf16(pages) => {
                for (value, bits) in into.iter_mut().zip(&pages[page][at * width..][..width]) {
                    *value = f32::from_bits(u32::from(*bits) << 16);
                }
            }
            Pages::Fp8(pages) => {
                let page = &pages[page];
                let (latent, k_pe) = into.split_at_mut(rank);
                let codes = page.codes[at * rank..][..rank].chunks(BLOCK);
                let scales = &page.scales[at * self.n_scales()..];
                for ((latent, codes), scale) in latent.chunks_mut(BLOCK).zip(codes).zip(scales) {
                    for (value, code) in latent.iter_mut().zip(codes) {
                        *value = fp8::decode(*code) * scale;
                    }
                }
                k_pe.copy_from_slice(&page.k_pe[at * dr..][..dr]);
            }
        }
    }
}

/// Rows at a time that attention reads: they stay in the first-level cache for all heads.
pub(super) const KEYS: usize = 32;

/// Some rows of a [`LatentCache`], in place or expanded.
pub(super) struct Gathered<'a> {
    rows: [&'a [f32]; KEYS],
    n: usize,
}

impl<'a> Gathered<'a> {
    /// The rows of up to [`KEYS`] tokens, expanded into `scratch` where they are not `f32`.
    #[inline(always)]
    pub(super) fn new(
        cache: &'a LatentCache,
        tokens: impl ExactSizeIterator<Item = usize> + Clone,
        scratch: &'a mut Vec<f32>,
    ) -> Self {
        let n = tokens.len();
        let width = cache.rank + cache.dr;
        let mut rows: [&[f32]; KEYS] = [&[]; KEYS];
        if matches!(cache.pages, Pages::F32(_)) {
            for (row, token) in rows.iter_mut().zip(tokens) {
                *row = cache
                    .in_place(token)
                    .expect("pages of f32 are read in place");
            }
        } else {
            scratch.resize(KEYS * width, 0.0);
            for (row, token) in scratch.chunks_exact_mut(width).zip(tokens) {
                cache.expand(token, row);
            }
            for (row, from) in rows.iter_mut().zip(scratch.chunks_exact(width)).take(n) {
                *row = from;
            }
        }
        Self { rows, n }
    }

    /// The rows.
    #[inline(always)]
    pub(super) fn rows(&self) -> &[&'a [f32]] {
        &self.rows[..self.n]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_rounded_as_their_format_says() {
        let (rank, dr) = (130, 2);
        for format in [LatentFormat::F32, LatentFormat::Bf16, LatentFormat::Fp8] {
            let mut cache = LatentCache::new(rank, dr, format);
            let latents: Vec<f32> = (0..600 * rank).map(|i| (i as f32).sin()).collect();
            let k_pe: Vec<f32> = (0..600 * dr).map(|i| (i as f32).cos()).collect();
            cache.push(&latents[..300 * rank], &k_pe[..300 * dr]);
            let full = cache.bytes();
            cache.push(&latents[300 * rank..], &k_pe[300 * dr..]);
            cache.truncate(300);
            assert_eq!(cache.bytes(), full);
            cache.push(&latents[300 * rank..], &k_pe[300 * dr..]);
            for token in [0, 255, 256, 299, 300, 599] {
                let mut got = vec![0.0; rank + dr];
                cache.expand(token, &mut got);
                let latent = &latents[token * rank..][..rank];
                let k_pe = &k_pe[token * dr..][..dr];
                let bf16 = |value: &f32| half::bf16::from_f32(*value).to_f32();
                let want: Vec<f32> = match format {
                    LatentFormat::F32 => latent.iter().chain(k_pe).copied().collect(),
                    LatentFormat::Bf16 => latent.iter().chain(k_pe).map(bf16).collect(),
                    LatentFormat::FlashMla => unreachable!("not in the list above"),
                    LatentFormat::Fp8 => {
                        let mut latent = latent.to_vec();
                        fp8::round_fp8(&mut latent[..128], 128);
                        fp8::round_fp8(&mut latent[128..], 2);
                        latent.iter().chain(k_pe).copied().collect()
                    }
                };
                assert_eq!(got, want, "{format:?}, token {token}");
            }
        }
    }

    #[test]
    fn a_clone_shares_pages_and_copies_the_one_it_writes_to() {
        for format in [LatentFormat::F32, LatentFormat::Bf16, LatentFormat::Fp8] {
            let mut cache = LatentCache::new(4, 2, format);
            cache.push(&[1.0; 4 * 700], &[2.0; 2 * 700]);
            let mut fork = cache.clone();
            fork.truncate(600);
            assert_eq!(cache.shared_pages(), [3, 3]);
            fork.push(&[5.0; 4], &[6.0; 2]);
            assert_eq!(cache.shared_pages(), [3, 2]);
            let mut row = [0.0; 6];
            cache.expand(600, &mut row);
            assert_eq!(row, [1.0, 1.0, 1.0, 1.0, 2.0, 2.0]);
            fork.expand(600, &mut row);
            assert_eq!(row, [5.0, 5.0, 5.0, 5.0, 6.0, 6.0]);
        }
    }
}
