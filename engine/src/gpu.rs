//! The forward pass on a wgpu device, through the WGSL kernels of the crate `shaders`.
//!
//! Everything stays on the device: weights as stored, activations, caches, selections and routes.
//! Read back are what was asked for (logits, watched stages, recorded routes) and a few words that
//! say whether all went well.
//!
//! Launches and buffers are in `launch`, weights in `weights`, `experts` and `layer`, what earlier
//! tokens left behind in `caches`; the order of kernels is in `forward`, `attention` and `feed_forward`,
//! what inspectors see in `watch`.

mod attention;
mod body;
mod caches;
mod count;
mod experts;
mod feed_forward;
mod forward;
mod launch;
mod layer;
mod profile;
mod rows;
mod sizes;
mod tuning;
mod watch;
mod weights;

#[cfg(test)]
pub(crate) use count::count_with;
pub use count::{CountCall, count, counted_bits, least_layer_bytes};
pub(crate) use forward::GpuModel;
pub(crate) use launch::Gpu;
pub use profile::{Launched, OpSum, Profile};
pub(crate) use sizes::MAX_TOP_K;
pub use sizes::max_pass_tokens;
pub(crate) use tuning::tuning;
pub(crate) use weights::{Shapes, WeightSource};
