//! Weights on the device, packed as the checkpoint stores them.
//!
//! Rows are padded to whole 16-byte units. Matrices that share an input are joined, one below the
//! other, so that one launch reads them all; a matrix too large for one binding is cut into slices
//! of rows, a stack of experts into slices of experts.

use std::collections::HashMap;
use std::ops::Range;

use super::launch::{Buffer, Gpu};
use super::sizes::MOST_ROWS;
use crate::checkpoint::{Checkpoint, StoredTensor, StoredType};
use crate::config::Config;
use crate::{Error, Result};

pub(super) use crate::config::FP8_BLOCK as BLOCK;

/// Bytes of a matrix that are copied and sent at a time.
const PIECE_BYTES: usize = 4 << 20;

/// Where weights come from.
pub(crate) enum WeightSource<'a> {
    /// A checkpoint that was found to fit its config.
    Checkpoint(&'a Checkpoint),
    /// Shapes only, for counting.
    Shapes(Shapes),
}

/// The tensors of a config by name. Where the config says FP8, the projections of the layers are FP8
/// and other matrices BF16, as in the official checkpoint; elsewhere all are BF16.
pub(crate) struct Shapes {
    shapes: HashMap<String, Vec<usize>>,
    fp8: bool,
}

impl Shapes {
    pub(crate) fn new(config: &Config) -> Self {
        let tensors = config.tensors(true).into_iter();
        Self {
            shapes: tensors.map(|spec| (spec.name, spec.shape)).collect(),
            fp8: config.quantized.is_some(),
        }
    }

    fn get(&self, name: &str) -> Result<&[usize]> {
        let shape = self.shapes.get(name).ok_or_else(|| Error::missing(name))?;
        Ok(shape)
    }

    /// Bits of one number of a matrix, scales left out.
    pub(crate) fn bits(&self, name: &str) -> usize {
        dtype(self.dtype(name)).1
    }

    fn dtype(&self, name: &str) -> StoredType {
        // The official quantiser leaves these in BF16.
        let kept = [
            "weights_proj",
            "eh_proj",
            "embed_tokens",
            "lm_head",
            "mlp.gate.weight",
        ];
        if !self.fp8 || kept.iter().any(|part| name.contains(part)) {
            StoredType::BF16
        } else {
            StoredType::F8E4M3
        }
    }
}

/// A matrix of the source.
#[derive(Clone)]
pub(crate) struct Part {
    pub(super) dtype: StoredType,
    pub(super) rows: usize,
    cols: usize,
    stored: Option<(StoredTensor, Option<Vec<f32>>)>,
}

impl WeightSource<'_> {
    /// The matrix `name`.
    pub(crate) fn matrix(&self, name: &str) -> Result<Part> {
        match self {
            Self::Checkpoint(checkpoint) => {
                let tensor = checkpoint.need(name)?.clone();
                let (rows, cols) = (tensor.shape[0], tensor.shape[1]);
                if cols % 4 != 0 {
                    return Err(Error::Setting {
                        name: format!("columns of {name:?}"),
                        found: cols.to_string(),
                        expected: "a multiple of 4 on a GPU".into(),
                    });
                }
                let scales = crate::host::scales(checkpoint, name, &tensor)?;
                Ok(Part {
                    dtype: tensor.dtype,
                    rows,
                    cols,
                    stored: Some((tensor, scales)),
                })
            }
            Self::Shapes(shapes) => {
                let shape = shapes.get(name)?;
                Ok(Part {
                    dtype: shapes.dtype(name),
                    rows: shape[0],
                    cols: shape[1],
                    stored: None,
                })
            }
        }
    }

    /// The vector `name` as `f32`; zeros when counting.
    pub(crate) fn vector(&self, name: &str) -> Result<Vec<f32>> {
        match self {
            Self::Checkpoint(checkpoint) => Ok(crate::host::floats(checkpoint.need(name)?)),
            Self::Shapes(shapes) => Ok(vec![0.0; shapes.get(name)?[0]]),
        }
    }

    /// Whether the source has a tensor of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        match self {
            Self::Checkpoint(checkpoint) => checkpoint.get(name).is_some(),
            Self::Shapes(shapes) => shapes.shapes.contains_key(name),
        }
    }
}

/// The kernels' DTYPE knob and bits a number.
pub(super) fn dtype(stored: StoredType) -> (u32, usize) {
    match stored {
        StoredType::F32 => (0, 32),
        StoredType::BF16 => (1, 16),
        StoredType::F16 => (2, 16),
        StoredType::F8E4M3 => (3, 8),
        other => unreachable!("the fit check refuses matrices of type {other:?}"),
    }
}

impl Part {
    /// Columns `first..first + n` as a matrix of their own.
    pub(crate) fn columns(&self, first: usize, n: usize) -> ColumnsOf<'_> {
        ColumnsOf {
            part: self,
            first,
            n,
        }
    }

    /// All columns.
    pub(crate) fn whole(&self) -> ColumnsOf<'_> {
        self.columns(0, self.cols)
    }

    fn row_bytes(&self, row: usize) -> &[u8] {
        let (tensor, _) = self.stored.as_ref().expect("asked for when placed only");
        let (_, bits) = dtype(self.dtype);
        let n_bytes = self.cols * bits / 8;
        &tensor.bytes()[row * n_bytes..][..n_bytes]
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn same_type(&self, other: &Self) -> bool {
        self.dtype == other.dtype
    }
}

/// Some columns of a matrix.
#[derive(Clone, Copy)]
pub(crate) struct ColumnsOf<'a> {
    pub(super) part: &'a Part,
    first: usize,
    pub(super) n: usize,
}

impl ColumnsOf<'_> {
    fn bits(&self) -> usize {
        dtype(self.part.dtype).1
    }

    pub(super) fn unit_bytes(&self) -> usize {
        (self.n * self.bits()).div_ceil(128) * 16
    }

    /// The bytes of rows `rows`, zeros where the matrix has none, in pieces to send.
    pub(super) fn pieces(self, rows: Range<usize>) -> impl Iterator<Item = Vec<u8>> {
        let step = (PIECE_BYTES / self.unit_bytes()).max(1);
        rows.clone().step_by(step).map(move |first| {
            let rows = first..rows.end.min(first + step);
            let mut into = Vec::with_capacity(rows.len() * self.unit_bytes());
            for row in rows {
                let start = into.len();
                if row < self.part.rows {
                    let all = self.part.row_bytes(row);
                    let bits = self.bits();
                    into.extend_from_slice(
                        &all[self.first * bits / 8..(self.first + self.n) * bits / 8],
                    );
                }
                into.resize(start + self.unit_bytes(), 0);
            }
            into
        })
    }

    /// Appends the scales of row blocks `blocks`.
    pub(super) fn append_scales(&self, blocks: Range<usize>, into: &mut Vec<f32>) {
        let Some((_, Some(scales))) = &self.part.stored else {
            return;
        };
        let across = self.part.cols.div_ceil(BLOCK);
        let first = self.first / BLOCK;
        for block in blocks {
            into.extend_from_slice(&scales[block * across + first..][..self.n.div_ceil(BLOCK)]);
        }
    }
}

/// Rows of a [`Packed`] in one buffer.
#[derive(Debug)]
pub(crate) struct Slice {
    pub first_row: usize,
    pub rows: usize,
    pub w: Buffer,
    /// A buffer of its own where there are no scales.
    pub scales: Buffer,
}

/// One matrix, or several joined, on the device.
#[derive(Debug)]
pub(crate) struct Packed {
    pub dtype: u32,
    pub cols: usize,
    pub rows: usize,
    /// First row of each joined matrix.
    pub starts: Vec<usize>,
    pub slices: Vec<Slice>,
}

impl Packed {
    /// Places one matrix.
    pub(crate) fn new(gpu: &Gpu, part: &Part) -> Result<Self> {
        Self::join(gpu, &[part])
    }

    /// Places matrices of one type and width, one below the other. In FP8 each begins at a whole
    /// block of rows.
    pub(crate) fn join(gpu: &Gpu, parts: &[&Part]) -> Result<Self> {
        let (dtype, bits) = dtype(parts[0].dtype);
        let cols = parts[0].cols;
        let fp8 = dtype == 3;
        let mut starts = Vec::new();
        let mut rows = 0;
        for part in parts {
            assert!(
                part.same_type(parts[0]) && part.cols == cols,
                "joined matrices are alike"
            );
            if fp8 {
                rows = rows_of_blocks(rows);
            }
            starts.push(rows);
            rows += part.rows;
        }
        let row_bytes = (cols * bits).div_ceil(128) * 16;
        let most = (gpu.max_binding_bytes() / row_bytes).min(MOST_ROWS);
        // Whole blocks, so that scales need no offset.
        let most = (most / BLOCK * BLOCK).max(1);
        let slices = (0..rows).step_by(most).map(|first_row| {
            let n = most.min(rows - first_row);
            // Each part with the rows of it that are in the slice, what fills up its last block included.
            let within: Vec<(ColumnsOf, Range<usize>)> = parts
                .iter()
                .zip(&starts)
                .enumerate()
                .filter_map(|(at, (part, &start))| {
                    let end = starts.get(at + 1).copied().unwrap_or(rows);
                    let (from, to) = (start.max(first_row), end.min(first_row + n));
                    (from < to).then(|| (part.whole(), from - start..to - start))
                })
                .collect();
            let mut scales = Vec::new();
            for (part, rows) in within.iter().filter(|_| fp8) {
                let end = rows.end.min(part.part.rows);
                part.append_scales(rows.start / BLOCK..end.div_ceil(BLOCK), &mut scales);
            }
            let bytes = within
                .into_iter()
                .flat_map(|(part, rows)| part.pieces(rows));
            Ok(Slice {
                first_row,
                rows: n,
                w: gpu.upload_pieces(n * row_bytes, bytes)?,
                scales: upload_floats(gpu, &scales),
            })
        });
        let slices = slices.collect::<Result<_>>()?;
        Ok(Self {
            dtype,
            cols,
            rows,
            slices,
            starts,
        })
    }

    pub(crate) fn resident_bytes(&self) -> usize {
        self.slices
            .iter()
            .map(|slice| (slice.w.n_words() + slice.scales.n_words()) * 4)
            .sum()
    }
}

pub(super) fn upload_floats(gpu: &Gpu, values: &[f32]) -> Buffer {
    gpu.upload(bytemuck::cast_slice(values))
}

fn rows_of_blocks(rows: usize) -> usize {
    rows.next_multiple_of(BLOCK)
}

impl Part {
    /// Rows `first..first + n` as a matrix of their own.
    pub(super) fn some_rows(&self, first: usize, n: usize) -> Result<Self> {
        if first == 0 && n == self.rows {
            return Ok(self.clone());
        }
        let fp8 = self.dtype == StoredType::F8E4M3;
        if fp8 && !(first.is_multiple_of(BLOCK) && n.is_multiple_of(BLOCK)) {
            return Err(Error::Setting {
                name: "moe_intermediate_size".into(),
                found: n.to_string(),
                expected: "a multiple of 128 for several shared experts in FP8".into(),
            });
        }
        let (_, bits) = dtype(self.dtype);
        let row_bytes = self.cols * bits / 8;
        let across = self.cols.div_ceil(BLOCK);
        Ok(Self {
            dtype: self.dtype,
            rows: n,
            cols: self.cols,
            stored: self.stored.as_ref().map(|(tensor, scales)| {
                (
                    tensor.part(first * row_bytes..(first + n) * row_bytes, [n, self.cols]),
                    scales.as_ref().map(|scales| {
                        scales[first / BLOCK * across..(first + n).div_ceil(BLOCK) * across]
                            .to_vec()
                    }),
                )
            }),
        })
    }
}
