//! The model on Burn tensors: the one readable definition, in `f32` or `f64`, and differentiable.
//!
//! `forward` is the pass, top-down, in the order of the official code and under its names; `ops` are its
//! operations, each under its formula. What rows look back at, and who chooses their experts, is left
//! to a [`Context`]: here it is a timeline with caches (`timeline`, for the devices `portable` and
//! `portable-f64`, which check the other bodies), in the trainer some sequences at once.

mod caches;
mod forward;
pub mod ops;
mod quantise;
mod softmax;
mod timeline;
mod weights;

pub use forward::{Context, Definition, IndexParts, Projected};
pub use ops::Angles;
pub use quantise::quantise;
pub use softmax::softmax;
pub(crate) use timeline::PortableModel;
pub use weights::Weights;
