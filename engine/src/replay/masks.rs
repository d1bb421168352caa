//! The sampling masks of a run: recorded by position, looked up, cut, written and read.

use std::path::Path;

use safetensors::Dtype;
use serde::{Deserialize, Serialize};

use super::file::{Column, TraceFile, VERSION, write};
use super::misfit;
use crate::{Error, Result};

/// The tokens that truncation kept at each position whose token was drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct MaskTrace {
    vocab_size: usize,
    positions: Vec<usize>, // [masks], ascending; positions of a prompt are left out
    offsets: Vec<usize>,   // [masks + 1], where in `ids` each mask begins, and where the last ends
    ids: Vec<u32>,         // ascending within each mask
}

#[derive(Debug, Deserialize, Serialize)]
struct MaskHeader {
    kind: String,
    version: u32,
    vocab_size: usize,
    n_masks: usize,
    n_ids: usize,
}

impl MaskTrace {
    const KIND: &str = "masks";

    /// An empty trace for a vocabulary of this size.
    ///
    /// # Errors
    /// [`Error::Replay`] for a vocabulary whose ids do not fit the file's I32.
    pub fn new(vocab_size: usize) -> Result<Self> {
        if vocab_size > 1 << 31 {
            return misfit(
                "mask trace",
                format!("{vocab_size} ids"),
                "at most 2147483648",
            );
        }
        Ok(Self {
            vocab_size,
            positions: Vec::new(),
            offsets: vec![0],
            ids: Vec::new(),
        })
    }

    /// Adds the ascending `ids` that truncation kept for the token at `position`, which comes after
    /// all positions so far. Positions whose token was given, not drawn, are left out.
    ///
    /// # Errors
    /// [`Error::Replay`] for a position that is not after the last, or a mask that is empty, not
    /// ascending, or leaves the vocabulary.
    pub fn record(&mut self, position: usize, ids: &[u32]) -> Result<()> {
        let what = || format!("sampling mask of position {position}");
        if let Some(&last) = self.positions.last()
            && position <= last
        {
            return misfit(
                what(),
                format!("position {last} before it"),
                "ascending positions",
            );
        }
        check_mask(ids, self.vocab_size)
            .or_else(|(found, expected)| misfit(what(), found, expected))?;
        self.positions.push(position);
        self.ids.extend_from_slice(ids);
        self.offsets.push(self.ids.len());
        Ok(())
    }

    /// Ascending ids kept for the token at `position`; none if that token was not drawn.
    pub fn get(&self, position: usize) -> Option<&[u32]> {
        let mask = self.positions.binary_search(&position).ok()?;
        Some(&self.ids[self.offsets[mask]..self.offsets[mask + 1]])
    }

    /// Forgets the masks from `position` on, for going back.
    pub fn truncate(&mut self, position: usize) {
        let n_masks = self
            .positions
            .partition_point(|&recorded| recorded < position);
        self.positions.truncate(n_masks);
        self.offsets.truncate(n_masks + 1);
        self.ids.truncate(self.offsets[n_masks]);
    }

    /// How many positions have a mask.
    pub fn len(&self) -> usize {
        self.positions.len()
    }

    /// Whether no position has a mask.
    pub fn is_empty(&self) -> bool {
        self.positions.is_empty()
    }

    /// The positions that have a mask, ascending.
    pub fn positions(&self) -> &[usize] {
        &self.positions
    }

    /// Ids of masks are below this.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Refuses a trace of another vocabulary with [`Error::Replay`].
    pub fn check(&self, vocab_size: usize) -> Result<()> {
        if self.vocab_size == vocab_size {
            return Ok(());
        }
        let found = self.vocab_size.to_string();
        misfit("mask trace, vocab_size", found, vocab_size.to_string())
    }

    /// Writes the trace: `positions` (I64, `[masks]`), `offsets` (I64, `[masks + 1]`) and `ids`
    /// (I32). Mask `m` is `ids[offsets[m]..offsets[m + 1]]`. An old file stays until the new one is
    /// complete.
    ///
    /// # Errors
    /// [`Error::Io`] if writing fails.
    pub fn save(&self, path: &Path) -> Result<()> {
        let indices = |values: &[usize]| {
            values
                .iter()
                .flat_map(|&value| (value as i64).to_le_bytes())
                .collect()
        };
        let n_masks = self.positions.len();
        let n_ids = self.ids.len();
        let columns = vec![
            (
                "positions".into(),
                Column::new(Dtype::I64, vec![n_masks], || indices(&self.positions)),
            ),
            (
                "offsets".into(),
                Column::new(Dtype::I64, vec![n_masks + 1], || indices(&self.offsets)),
            ),
            (
                "ids".into(),
                Column::new(Dtype::I32, vec![n_ids], || {
                    self.ids.iter().flat_map(|id| id.to_le_bytes()).collect()
                }),
            ),
        ];
        let header = MaskHeader {
            kind: Self::KIND.into(),
            version: VERSION,
            vocab_size: self.vocab_size,
            n_masks,
            n_ids,
        };
        write(path, &header, columns)
    }

    /// Reads a trace that [`MaskTrace::save`] wrote.
    ///
    /// # Errors
    /// [`Error::Io`] if reading fails, [`Error::BadFile`] for anything that [`MaskTrace::record`]
    /// would not have taken.
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|source| Error::io(path, source))?;
        let file = TraceFile::parse(path, &bytes, Self::KIND)?;
        let MaskHeader {
            vocab_size,
            n_masks,
            n_ids,
            ..
        } = file.header()?;
        let mut trace = Self::new(vocab_size).map_err(|error| file.bad(error.to_string()))?;
        file.check_names(["positions", "offsets", "ids"].map(String::from).into())?;
        let positions = file.indices("positions", n_masks)?;
        let offsets = file.indices("offsets", n_masks.saturating_add(1))?;
        let ids: Vec<u32> = file
            .column("ids", Dtype::I32, &[n_ids])?
            .as_chunks()
            .0
            .iter()
            .map(|bytes| u32::from_le_bytes(*bytes))
            .collect();
        if let Some(pair) = offsets.windows(2).find(|pair| pair[0] > pair[1]) {
            let problem = format!("{} after {}", pair[1], pair[0]);
            return Err(file.bad(format!(
                "offsets hold {problem}, expected none to be smaller"
            )));
        }
        if (offsets[0], offsets[n_masks]) != (0, n_ids) {
            let found = format!("from {} to {}", offsets[0], offsets[n_masks]);
            return Err(file.bad(format!("offsets run {found}, expected 0 to {n_ids}")));
        }
        for (&position, bounds) in positions.iter().zip(offsets.windows(2)) {
            let mask = &ids[bounds[0]..bounds[1]];
            trace
                .record(position, mask)
                .map_err(|error| file.bad(error.to_string()))?;
        }
        Ok(trace)
    }
}

/// Found and expected, if these are not ids that truncation can keep.
fn check_mask(ids: &[u32], vocab_size: usize) -> std::result::Result<(), (String, String)> {
    let Some(&last) = ids.last() else {
        return Err(("0 ids".into(), "at least 1".into()));
    };
    if let Some(pair) = ids.windows(2).find(|pair| pair[0] >= pair[1]) {
        return Err((
            format!("id {} after {}", pair[1], pair[0]),
            "ascending ids".into(),
        ));
    }
    if last as usize >= vocab_size {
        return Err((format!("id {last}"), format!("ids below {vocab_size}")));
    }
    Ok(())
}
