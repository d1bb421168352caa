//! The model on the CPU: weights as stored, activations and caches in plain slices.
//!
//! The pass is in `forward`, what it reads in `model`; the other files are its operations. Each
//! operation works in the order that makes a token's bits depend on that token alone: a sum runs in
//! [`simd::LANES`] interleaved lanes, folded by one tree, whatever the register width, the batch,
//! the chunk or the number of threads. So any split of a prompt, and any machine with fused
//! multiply-add, gives the same bits. What the operations mean is in [`crate::definition`].

mod attention;
mod experts;
mod forward;
pub mod fp8;
mod index;
mod jobs;
mod keys;
mod latents;
mod matrix;
mod mha;
mod model;
mod rows;
mod simd;
#[cfg(test)]
mod tests;
mod weight;

pub use attention::{AttentionWeights, Call, attend};
pub use experts::{experts, mlp};
pub use fp8::round_fp8;
pub use index::{Queries, index_scores, select};
pub use jobs::linear;
pub use keys::KeyCache;
pub use latents::LatentCache;
pub use matrix::{Dtype, Matrix};
pub use mha::attend_mha;
pub(crate) use model::HostModel;
pub use rows::{hadamard, layer_norm, rms_norm, rope};
pub use weight::{Weight, vector};
pub(crate) use weight::{floats, scales};

use crate::pass::WORKSPACE_BYTES;

/// Runs a forward pass among the workers, so that its many short parallel parts start without
/// waking a thread from outside.
pub fn run<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    rayon::join(work, || ()).0
}

/// Numbers of `f32` scratch that one worker may take, so that all together stay within
/// [`WORKSPACE_BYTES`].
fn workspace_per_worker() -> usize {
    WORKSPACE_BYTES / 4 / rayon::current_num_threads().max(1)
}
