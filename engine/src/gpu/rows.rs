//! Rows that a pass left on a wgpu device.

use shaders::sample;

use super::launch::{Buffer, Gpu};
use crate::sampler::{DeviceDraw, Picked};
use crate::{Error, Result};

/// Rows in a buffer of a wgpu device, and the words in which the pass that made them says what went
/// wrong: read together, so that one wait tells both.
#[derive(Clone, Debug)]
pub struct GpuRows {
    gpu: Gpu,
    buffer: Buffer,
    n_rows: usize,
    width: usize,
    stride: usize,
    status: Buffer,
}

/// What kernels write as status for `position`, so that the lowest position wins by maximum.
const STATUS_TOP: u32 = 0x8000_0000;

impl GpuRows {
    pub(crate) fn new(
        gpu: Gpu,
        buffer: Buffer,
        n_rows: usize,
        width: usize,
        status: Buffer,
    ) -> Self {
        Self {
            gpu,
            buffer,
            n_rows,
            width,
            stride: width,
            status,
        }
    }

    pub(crate) fn with_stride(self, stride: usize) -> Self {
        Self { stride, ..self }
    }

    pub(crate) fn buffer(&self) -> &Buffer {
        &self.buffer
    }

    pub(crate) fn n_rows(&self) -> usize {
        self.n_rows
    }

    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// Other rows that the same pass made.
    pub(crate) fn with_buffer(&self, buffer: Buffer, n_rows: usize) -> Self {
        Self {
            buffer,
            n_rows,
            ..self.clone()
        }
    }

    /// Lets the device choose among the logits of `row`, which follow token `position`.
    pub(crate) fn pick(&self, row: usize, draw: &DeviceDraw, position: usize) -> Result<Picked> {
        let picked = self.gpu.empty(8);
        let call = sample::Call {
            vocab: self.width,
            logits_offset: row * self.stride,
            temperature: draw.temperature,
            top_p: draw.top_p,
            uniform: draw.uniform,
        };
        let dispatch = sample::dispatch(&call, self.gpu.tuning());
        self.gpu.launch(dispatch, &[&self.buffer, &picked])?;
        let read = self.gpu.read_all(&[&self.status, &picked])?;
        check_status(&read[0])?;
        let [id, flags, logit, log_sum, draw_logprob, ..] = read[1][..] else {
            unreachable!("the kernel writes eight words");
        };
        let logit = f32::from_bits(logit);
        if flags != 0 {
            return Err(Error::BadLogits {
                position,
                id: id as usize,
                value: logit,
            });
        }
        Ok(Picked {
            id,
            logprob: logit - f32::from_bits(log_sum),
            draw_logprob: if draw.temperature == 0.0 {
                0.0
            } else {
                f32::from_bits(draw_logprob)
            },
            top: Vec::new(),
            draws: Vec::new(),
            n_kept: None,
            kept: None,
        })
    }

    /// Rows `first..first + n`, row-major.
    pub(crate) fn read(&self, first: usize, n: usize) -> Result<Vec<f32>> {
        let read = self.gpu.read_all(&[&self.status, &self.buffer])?;
        check_status(&read[0])?;
        Ok(read[1]
            .chunks_exact(self.stride)
            .skip(first)
            .take(n)
            .flat_map(|row| row[..self.width].iter().map(|&word| f32::from_bits(word)))
            .collect())
    }
}

/// What went wrong in a pass, by the words that its kernels left.
pub(super) fn check_status(status: &[u32]) -> Result<()> {
    let position = |word: u32| (STATUS_TOP - word) as usize;
    match status {
        [0, 0, ..] => Ok(()),
        [0, gate, ..] => Err(Error::NanGate {
            position: position(*gate),
        }),
        [scores, ..] => Err(Error::NanScores {
            position: position(*scores),
        }),
        [] => unreachable!("a status has four words"),
    }
}
