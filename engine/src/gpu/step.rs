//! What a pass is asked for, what its layers share on the device, and the two operations that all of
//! them need.

use shaders::{add_norm, matmul, matvec};

use super::launch::{Buffer, Gpu};
use super::rows::GpuRows;
use super::watch::Kept;
use super::weights::{Packed, upload_floats};
use crate::Result;
use crate::config::Config;
use crate::pass::{ForwardOptions, Records};
use crate::rope::Angles;
use crate::trace::Trace;

/// Most tokens that go through the matrix-vector kernels; more take the tiled ones.
pub(super) const FEW_TOKENS: usize = 8;

/// What one forward pass is asked for.
pub(super) struct GpuPass<'a> {
    pub config: &'a Config,
    pub options: &'a ForwardOptions,
    /// Position of the first token.
    pub position: usize,
    pub angles: &'a Angles,
    pub records: Records<'a>,
    pub trace: &'a mut Trace,
}

/// What the layers of a pass share on the device.
pub(super) struct Step {
    pub gpu: Gpu,
    pub n: usize,
    pub angles: Buffer,
    /// Where kernels say what went wrong: see [`GpuRows`].
    pub status: Buffer,
    /// The last selection that an indexer made, `[tokens, k]`.
    pub selection: Option<Buffer>,
    pub k: Option<usize>,
    /// The route of a dense layer: everything to expert 0 with weight 1.
    pub zeros: Buffer,
    pub ones: Buffer,
    /// What somebody watches.
    pub kept: Kept,
}

/// Columns of rows in a buffer.
#[derive(Clone, Copy)]
pub(super) struct Columns<'a> {
    pub buffer: &'a Buffer,
    pub stride: usize,
    pub offset: usize,
}

impl Step {
    pub(super) fn new(gpu: &Gpu, n: usize, pass: &GpuPass) -> Self {
        let own = pass.config.indexer.as_ref().map(|sizes| sizes.index_topk);
        let status = gpu.upload(&[0; 16]);
        Self {
            gpu: gpu.clone(),
            n,
            angles: upload_floats(gpu, &pass.angles.cos_then_sin(n)),
            selection: None,
            k: pass.options.index_topk.or(own),
            zeros: gpu.upload(&vec![0; n * 4]),
            ones: upload_floats(gpu, &vec![1.0; n]),
            kept: Kept::new(gpu.clone(), status.clone(), pass.position, n, pass.trace),
            status,
        }
    }

    /// Rows that the pass leaves.
    pub(super) fn rows(&self, buffer: Buffer, n: usize, width: usize) -> GpuRows {
        GpuRows::new(self.gpu.clone(), buffer, n, width, self.status.clone())
    }

    /// `x += delta`, then its RMS norm into `to`; rows are as wide as the residual stream.
    pub(super) fn add_norm(
        &self,
        x: &Buffer,
        delta: Option<&Buffer>,
        weight: &Buffer,
        config: &Config,
        to: Columns,
    ) -> Result<()> {
        let call = add_norm::Call {
            add: delta.is_some(),
            tokens: self.n,
            width: config.hidden_size,
            y_stride: to.stride,
            y_offset: to.offset,
            eps: config.rms_norm_eps,
        };
        let dispatch = add_norm::dispatch(&call, self.gpu.tuning());
        let delta = delta.unwrap_or(self.gpu.unused(0));
        self.gpu.launch(dispatch, &[x, delta, weight, to.buffer])
    }

    /// `y = x · Wᵀ` of `n` rows for the first `rows` rows of `w`.
    pub(super) fn linear(
        &self,
        x: Columns,
        n: usize,
        w: &Packed,
        rows: usize,
        y: Columns,
    ) -> Result<()> {
        for slice in &w.slices {
            let rows = rows.saturating_sub(slice.first_row).min(slice.rows);
            if rows == 0 {
                continue;
            }
            let call = matvec::Call {
                dtype: w.dtype,
                tokens: n,
                rows,
                cols: w.cols,
                x_stride: x.stride,
                x_offset: x.offset,
                y_stride: y.stride,
                y_offset: y.offset + slice.first_row,
            };
            let dispatch = if n <= FEW_TOKENS {
                matvec::dispatch(&call, self.gpu.tuning())
            } else {
                matmul::dispatch(&call, self.gpu.tuning())
            };
            self.gpu
                .launch(dispatch, &[x.buffer, &slice.w, &slice.scales, y.buffer])?;
        }
        Ok(())
    }
}
