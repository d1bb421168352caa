//! What a forward pass gives.

use std::any::Any;
use std::sync::Arc;

use crate::sampler::{DeviceDraw, Picked};
use crate::{Error, Result};

/// What a forward pass gives.
#[derive(Clone, Debug)]
pub struct Output {
    /// Residual stream after the final norm, `[tokens, hidden_size]`: what the MTP layer reads.
    pub hidden: OutputRows,
    /// `[rows, vocab_size]` for the rows asked for.
    pub logits: Option<OutputRows>,
}

/// One row of numbers a token, wherever the pass left them.
#[derive(Clone, Debug)]
pub struct OutputRows {
    body: Arc<dyn OutputBody>,
    first: usize,
    n_rows: usize,
}

/// Rows in the form of one body.
pub(crate) trait OutputBody: Any + std::fmt::Debug + Send + Sync {
    /// `[rows, width]`.
    fn shape(&self) -> [usize; 2];

    /// Rows `first..first + n` on the host, row-major.
    fn read(&self, first: usize, n: usize) -> Result<Vec<f32>>;

    /// Lets the device choose a token by logits in `row`, which follow token `position`; `None` where
    /// it has no way to.
    fn pick(&self, _row: usize, _draw: &DeviceDraw, _position: usize) -> Option<Result<Picked>> {
        None
    }
}

impl OutputRows {
    pub(crate) fn new(body: impl OutputBody) -> Self {
        let [n_rows, _] = body.shape();
        Self {
            body: Arc::new(body),
            first: 0,
            n_rows,
        }
    }

    /// How many rows.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Numbers in one row.
    pub fn width(&self) -> usize {
        self.body.shape()[1]
    }

    /// The numbers on the host, row-major. On a GPU this waits for all work before it.
    ///
    /// # Errors
    /// The device failed, now or in work that was launched before, or a kernel met NaN where it had
    /// to choose.
    pub fn read(&self) -> Result<Vec<f32>> {
        self.body.read(self.first, self.n_rows)
    }

    /// Lets the device choose a token by its only row of logits, which follow token `position`; `None`
    /// where logits are on the host or in tensors.
    pub(crate) fn pick(&self, draw: &DeviceDraw, position: usize) -> Option<Result<Picked>> {
        assert_eq!(self.n_rows, 1, "one row of logits gives one token");
        self.body.pick(self.first, draw, position)
    }

    /// Rows `first..first + n`.
    pub fn slice(&self, first: usize, n: usize) -> Self {
        assert!(first + n <= self.n_rows, "a slice lies within its rows");
        Self {
            body: self.body.clone(),
            first: self.first + first,
            n_rows: n,
        }
    }

    /// The whole in the form of the body that made it, and the first row of this slice.
    ///
    /// # Errors
    /// Another body did.
    pub(crate) fn of<T: OutputBody>(&self) -> Result<(&T, usize)> {
        let any: &dyn Any = &*self.body;
        let found = any.downcast_ref().map(|body| (body, self.first));
        found.ok_or_else(|| Error::Setting {
            name: "MTP input".into(),
            found: "hidden rows of a model on another device".into(),
            expected: "rows that this model made".into(),
        })
    }
}

/// Rows on the host.
#[derive(Debug)]
pub(crate) struct HostRows {
    pub data: Vec<f32>,
    pub width: usize,
}

impl OutputBody for HostRows {
    fn shape(&self) -> [usize; 2] {
        [self.data.len() / self.width, self.width]
    }

    fn read(&self, first: usize, n: usize) -> Result<Vec<f32>> {
        Ok(self.data[first * self.width..][..n * self.width].to_vec())
    }
}
