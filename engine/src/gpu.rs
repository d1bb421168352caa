//! The forward pass on a wgpu device, through the WGSL kernels of the crate `shaders`.
//!
//! Everything stays on the device: weights as stored, activations, caches, selections and routes.
//! Read back are what was asked for (logits, watched stages, recorded routes) and a few words that
//! say whether all went well.
//!
//! Each file uses only those before it:
//!
//! ```text
//! sizes, tuning         what the kernels take, and which variant an adapter gets
//! profile               what was launched
//! launch                buffers and launches: CubeCL, and nothing of a model
//! rows, watch           what a pass leaves; what somebody watches of it
//! caches                what earlier tokens left behind
//! weights, experts, layer
//! step                  what the layers of a pass share
//! attention, feed_forward, forward        the order of kernels
//! body, count           the seam; a pass that only counts
//! ```

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
mod step;
mod tuning;
mod watch;
mod weights;

pub use count::{CountCall, count, count_watched, counted_bits, least_layer_bytes};
pub(crate) use forward::GpuModel;
pub(crate) use launch::Gpu;
pub use profile::{Launched, OpSum, Profile};
pub(crate) use sizes::MAX_TOP_K;
pub use sizes::max_pass_tokens;
pub(crate) use tuning::tuning;
pub(crate) use weights::WeightSource;
