//! The forward pass on a wgpu device, through the WGSL kernels of the crate `shaders`.
//!
//! Everything stays on the device: weights as stored, activations, caches, selections and routes.
//! Read back are what was asked for (logits, watched stages, recorded routes) and a few words that
//! say whether all went well.
//!
//! Launches and buffers are in `launch`, weights in `weights`, what earlier tokens left behind in
//! `caches`, the order of kernels in `forward`, what inspectors see in `watch`.

mod caches;
mod count;
mod forward;
mod launch;
mod layer;
mod profile;
mod rows;
mod tuning;
mod watch;
mod weights;

pub(crate) use caches::{KeyBuffer, LatentBuffer};
pub use count::{CountCall, count, counted_bits, least_layer_bytes};
pub use forward::max_pass_tokens;
pub(crate) use forward::{GpuModel, GpuPass, MAX_TOP_K};
pub(crate) use launch::Gpu;
pub use profile::{Launched, OpSum, Profile};
pub(crate) use rows::GpuRows;
pub(crate) use tuning::tuning;
pub(crate) use weights::{Shapes, WeightSource};
