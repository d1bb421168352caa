//! The selections of a run: what each token read, recorded by layer and position, and looked up.

use std::collections::BTreeMap;

use super::misfit;
use crate::Result;
use crate::config::Config;
use crate::selection::Selection;

/// What each token read in each layer that selects for itself. Layers that share a selection have no
/// rows: theirs are those of [`Config::selection_layer`].
///
/// Positions are kept as differences, a byte each in most cases, and a token that read everything up to
/// itself takes no more than its entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SelectionTrace {
    rows: BTreeMap<(usize, usize), Row>, // by layer and position
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Row {
    /// Everything up to the token itself.
    Everything,
    /// First position, then differences, each in groups of seven bits, low first (LEB128).
    Chosen(Box<[u8]>),
}

impl SelectionTrace {
    /// An empty trace.
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps that the token at `position` read exactly `positions` in `layer`; what was known of it
    /// before is replaced.
    ///
    /// # Errors
    /// [`crate::Error::Replay`] for no positions, positions that do not ascend, or one after the token.
    pub fn record(&mut self, layer: usize, position: usize, positions: &[usize]) -> Result<()> {
        let what = || format!("selection of layer {layer} at position {position}");
        if let Some(pair) = positions.windows(2).find(|pair| pair[0] >= pair[1]) {
            let found = format!("position {} after {}", pair[1], pair[0]);
            return misfit(what(), found, "ascending positions");
        }
        let row = match positions.last() {
            None => return misfit(what(), "no positions", "at least one"),
            Some(&last) if last > position => {
                let found = format!("position {last}");
                return misfit(what(), found, "none after the token itself");
            }
            Some(_) if positions.len() == position + 1 => Row::Everything,
            Some(_) => Row::Chosen(encode(positions)),
        };
        self.rows.insert((layer, position), row);
        Ok(())
    }

    /// Keeps what the tokens from `position` on read in `layer`; without a selection that was everything.
    pub(crate) fn record_pass(
        &mut self,
        layer: usize,
        position: usize,
        n: usize,
        selection: Option<&Selection>,
    ) -> Result<()> {
        for row in 0..n {
            let token = position + row;
            match selection {
                None => {
                    self.rows.insert((layer, token), Row::Everything);
                }
                Some(selection) => {
                    let chosen: Vec<usize> =
                        selection.row(row).iter().map(|&s| s as usize).collect();
                    self.record(layer, token, &chosen)?;
                }
            }
        }
        Ok(())
    }

    /// What the token at `position` read in `layer`, ascending; `None` if that was not recorded.
    pub fn get(&self, layer: usize, position: usize) -> Option<Vec<usize>> {
        Some(match self.rows.get(&(layer, position))? {
            Row::Everything => (0..=position).collect(),
            Row::Chosen(bytes) => decode(bytes),
        })
    }

    /// Forgets the tokens from `position` on, for going back.
    pub fn truncate(&mut self, position: usize) {
        self.rows.retain(|&(_, token), _| token < position);
    }

    /// Rows known: one a layer and token.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Bytes that the rows take, the map around them left out.
    pub fn bytes(&self) -> usize {
        let bytes = |row: &Row| match row {
            Row::Everything => 0,
            Row::Chosen(bytes) => bytes.len(),
        };
        let entry = size_of::<((usize, usize), Row)>();
        self.rows.values().map(|row| entry + bytes(row)).sum()
    }

    /// Refuses a trace of another model with [`crate::Error::Replay`]: one that knows a layer that does not
    /// select for itself, or positions beyond the context.
    pub fn check(&self, config: &Config) -> Result<()> {
        let mut last = None;
        for &(layer, position) in self.rows.keys() {
            if position >= config.max_position_embeddings {
                return misfit(
                    "selection trace, position",
                    position.to_string(),
                    format!("below {}", config.max_position_embeddings),
                );
            }
            if last == Some(layer) {
                continue;
            }
            last = Some(layer);
            let n_layers = config.num_hidden_layers;
            if layer >= n_layers || config.selection_layer(layer) != layer {
                return misfit(
                    "selection trace, layer",
                    layer.to_string(),
                    format!("a layer below {n_layers} that selects for itself"),
                );
            }
        }
        Ok(())
    }
}

fn encode(positions: &[usize]) -> Box<[u8]> {
    let mut bytes = Vec::with_capacity(positions.len());
    let mut before = 0;
    for &position in positions {
        let mut rest = position - before;
        before = position;
        while rest >= 0x80 {
            bytes.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        bytes.push(rest as u8);
    }
    bytes.into()
}

fn decode(bytes: &[u8]) -> Vec<usize> {
    let mut positions = Vec::with_capacity(bytes.len());
    let (mut position, mut delta, mut shift) = (0, 0, 0);
    for &byte in bytes {
        delta |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte < 0x80 {
            position += delta;
            positions.push(position);
            (delta, shift) = (0, 0);
        }
    }
    positions
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panic")]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_as_they_were() {
        let mut trace = SelectionTrace::new();
        let rows: [(usize, usize, &[usize]); 6] = [
            (0, 0, &[0]),
            (0, 3, &[0, 1, 2, 3]),
            (0, 4, &[4]),
            (2, 4, &[0, 4]),
            (1, 163_839, &[0, 127, 128, 255, 16_512, 163_839]),
            (1, 9_000_000, &[8_999_999]),
        ];
        for (layer, position, positions) in rows {
            trace.record(layer, position, positions).unwrap();
        }
        for (layer, position, positions) in rows {
            assert_eq!(trace.get(layer, position).unwrap(), positions);
        }
        assert_eq!((trace.len(), trace.get(0, 1)), (6, None));
        // The last word counts.
        trace.record(0, 4, &[1, 2]).unwrap();
        assert_eq!((trace.len(), trace.get(0, 4)), (6, Some(vec![1, 2])));
        trace.truncate(4);
        assert_eq!((trace.len(), trace.get(2, 4)), (2, None));
        assert!(trace.get(0, 3).is_some());
    }

    #[test]
    fn rows_that_no_token_reads_are_refused() {
        let mut trace = SelectionTrace::new();
        let rows: [(&[usize], &str); 4] = [
            (&[], "no positions"),
            (&[3, 3], "position 3 after 3"),
            (&[2, 1], "position 1 after 2"),
            (&[0, 6], "position 6"),
        ];
        for (positions, found) in rows {
            let error = trace.record(0, 5, positions).unwrap_err().to_string();
            assert!(error.contains(found), "{error}");
            assert!(error.contains("layer 0 at position 5"), "{error}");
        }
        assert!(trace.is_empty());
    }
}
