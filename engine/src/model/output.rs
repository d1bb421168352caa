//! What a forward pass gives.

use crate::Result;
use crate::gpu::GpuRows;
use crate::rows::Rows;
use crate::sampler::{DeviceDraw, Picked};

/// What a forward pass gives.
#[derive(Debug)]
pub struct Output {
    /// Residual stream after the final norm, `[tokens, hidden_size]`: what the MTP layer reads.
    pub hidden: OutputRows,
    /// `[rows, vocab_size]` for the rows asked for.
    pub logits: Option<OutputRows>,
}

/// One row of numbers a token, wherever the pass left them.
#[derive(Clone, Debug)]
pub struct OutputRows(pub(crate) Place);

#[derive(Clone, Debug)]
pub(crate) enum Place {
    Rows(Rows),
    Gpu(GpuRows),
}

impl OutputRows {
    /// How many rows.
    pub fn n_rows(&self) -> usize {
        match &self.0 {
            Place::Rows(rows) => rows.n_rows(),
            Place::Gpu(rows) => rows.n_rows(),
        }
    }

    /// Numbers in one row.
    pub fn width(&self) -> usize {
        match &self.0 {
            Place::Rows(rows) => rows.width(),
            Place::Gpu(rows) => rows.width(),
        }
    }

    /// The numbers on the host, row-major. On a GPU this waits for all work before it.
    ///
    /// # Errors
    /// The device failed, now or in work that was launched before, or a kernel met NaN where it had
    /// to choose.
    pub fn read(&self) -> Result<Vec<f32>> {
        match &self.0 {
            Place::Rows(rows) => rows.read(),
            Place::Gpu(rows) => rows.read(),
        }
    }

    /// Lets the device choose a token by its only row of logits, which follow token `position`; `None`
    /// where logits are on the host or in tensors.
    pub(crate) fn pick(&self, draw: &DeviceDraw, position: usize) -> Option<Result<Picked>> {
        match &self.0 {
            Place::Rows(_) => None,
            Place::Gpu(rows) => Some(rows.pick(draw, position)),
        }
    }

    /// Rows `first..first + n`.
    pub fn slice(&self, first: usize, n: usize) -> Self {
        Self(match &self.0 {
            Place::Rows(rows) => Place::Rows(rows.slice(first, n)),
            Place::Gpu(rows) => Place::Gpu(rows.slice(first, n)),
        })
    }
}

impl From<Rows> for OutputRows {
    fn from(rows: Rows) -> Self {
        Self(Place::Rows(rows))
    }
}

impl From<GpuRows> for OutputRows {
    fn from(rows: GpuRows) -> Self {
        Self(Place::Gpu(rows))
    }
}
