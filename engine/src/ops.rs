//! The operations of the forward pass, one file each.
//!
//! An op opens with its formula; its public function picks a body by where its weights or cache
//! live, which the device decided once: [`crate::cpu`] on the host, `portable` on Burn tensors
//! everywhere else. The portable body is the definition: in `f64` it checks the others.

pub mod attention;
pub mod experts;
pub mod gate;
pub mod index;
pub mod linear;
pub mod norm;
pub mod quantise;
pub mod rope;
pub mod softmax;

/// Upper bound for the scratch space of one op, in bytes, whatever the context.
pub const WORKSPACE_BYTES: usize = 64 << 20;
