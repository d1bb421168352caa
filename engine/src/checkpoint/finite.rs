//! Looks for NaN and infinity in every weight, at the speed of memory.
//!
//! An exponent of all ones is NaN or infinity, so the test is one of integers, which compilers turn
//! into vector code. Only a piece that failed is searched for its first bad element.

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};

use rayon::prelude::*;

use super::{Progress, StoredTensor, StoredType};
use crate::{Error, Result};

/// Bytes that one thread reads at a time; a multiple of every element size.
const PIECE_BYTES: usize = 2 << 20;

/// Bytes between two reports of progress: milliseconds in memory, under a second on a slow disk.
const ROUND_BYTES: usize = 16 * PIECE_BYTES;

/// Elements that are tested before looking at the result. One branch an element would be slow, and
/// none at all would read on in vain.
const RUN_ELEMENTS: usize = 2048;

/// A part of a tensor.
struct Piece<'a> {
    name: &'a str,
    tensor: &'a StoredTensor,
    /// Bytes of the tensor.
    range: Range<usize>,
}

/// See [`super::Checkpoint::check_finite`].
pub(super) fn check(
    tensors: &BTreeMap<String, StoredTensor>,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<bool> {
    let mut order: Vec<(&str, &StoredTensor)> = tensors
        .iter()
        .map(|(name, tensor)| (name.as_str(), tensor))
        .collect();
    // As the bytes lie in their files, so that a disk reads forwards.
    order.sort_by_key(|(_, tensor)| (tensor.file.as_ptr() as usize, tensor.range.start));
    let mut at = Progress {
        bytes_done: 0,
        bytes_total: order
            .iter()
            .map(|(_, tensor)| tensor.range.len() as u64)
            .sum(),
        tensors_done: 0,
        tensors_total: order.len(),
    };
    let mut pieces = order
        .iter()
        .flat_map(|&(name, tensor)| cut(name, tensor))
        .peekable();
    loop {
        if progress(at).is_break() {
            return Ok(false);
        }
        let mut round = Vec::new();
        let mut bytes = 0;
        while let Some(piece) = pieces.next_if(|_| bytes < ROUND_BYTES) {
            bytes += piece.range.len();
            round.push(piece);
        }
        if round.is_empty() {
            return Ok(true);
        }
        if let Some(error) = round.par_iter().find_map_first(Piece::not_finite) {
            return Err(error);
        }
        at.bytes_done += bytes as u64;
        let ends = |piece: &&Piece| piece.range.end == piece.tensor.range.len();
        at.tensors_done += round.iter().filter(ends).count();
    }
}

/// The pieces of a tensor: at least one, so that an empty tensor counts too.
fn cut<'a>(name: &'a str, tensor: &'a StoredTensor) -> impl Iterator<Item = Piece<'a>> {
    let n = tensor.range.len();
    let starts = (0..n.max(1)).step_by(PIECE_BYTES);
    starts.map(move |start| {
        let range = start..n.min(start + PIECE_BYTES);
        Piece {
            name,
            tensor,
            range,
        }
    })
}

impl Piece<'_> {
    fn not_finite(&self) -> Option<Error> {
        let bytes = &self.tensor.bytes()[self.range.clone()];
        let (at, value) = first_bad(bytes, self.tensor.dtype)?;
        let index = self.range.start * 8 / self.tensor.dtype.bits() + at;
        Some(Error::NotFinite {
            name: self.name.into(),
            index,
            value,
        })
    }
}

/// The first element that is NaN or infinite, and its value. Other types than those of weights are
/// not looked at: the fit check refuses them.
fn first_bad(bytes: &[u8], dtype: StoredType) -> Option<(usize, f32)> {
    match dtype {
        StoredType::F32 => {
            let is_bad = |word| u32::from_le_bytes(word) & 0x7f80_0000 == 0x7f80_0000;
            find(bytes, is_bad, f32::from_le_bytes)
        }
        StoredType::BF16 => {
            let is_bad = |word| u16::from_le_bytes(word) & 0x7f80 == 0x7f80;
            find(bytes, is_bad, |word| {
                half::bf16::from_le_bytes(word).to_f32()
            })
        }
        StoredType::F16 => {
            let is_bad = |word| u16::from_le_bytes(word) & 0x7c00 == 0x7c00;
            find(bytes, is_bad, |word| {
                half::f16::from_le_bytes(word).to_f32()
            })
        }
        // No infinities in this type, and two codes for NaN.
        StoredType::F8E4M3 => find(bytes, |[code]| code & 0x7f == 0x7f, |_| f32::NAN),
        StoredType::F8E8M0 => find(bytes, |[code]| code == 0xff, |_| f32::NAN),
        StoredType::Other(_) => None,
    }
}

fn find<const N: usize>(
    bytes: &[u8],
    is_bad: impl Fn([u8; N]) -> bool,
    value: impl Fn([u8; N]) -> f32,
) -> Option<(usize, f32)> {
    let (words, _) = bytes.as_chunks::<N>();
    let runs = words.chunks(RUN_ELEMENTS).enumerate();
    for (run, words) in runs {
        if words.iter().fold(false, |bad, &word| bad | is_bad(word)) {
            let at = words.iter().position(|&word| is_bad(word))?;
            return Some((run * RUN_ELEMENTS + at, value(words[at])));
        }
    }
    None
}
