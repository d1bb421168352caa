//! What a run decided, kept so that training can repeat it: expert routes and sampling masks.
//!
//! Keep Routing and Keep Sampling Mask of DeepSeek-V3.2: a training step takes the experts that
//! inference took, and renormalises over the tokens that truncation kept. Both traces are
//! safetensors files, whose metadata holds one entry, "sparsight", with kind, version and shapes as
//! JSON. A trace in memory is always valid; a file is checked in full before it becomes one.
//! Taking the decisions is the business of the model and of [`crate::sampler`].

mod file;
mod masks;
mod routes;
#[cfg(test)]
mod tests;

pub use masks::MaskTrace;
pub use routes::RouteTrace;

use crate::{Error, Result};

fn misfit<T>(
    what: impl Into<String>,
    found: impl Into<String>,
    expected: impl Into<String>,
) -> Result<T> {
    Err(Error::Replay {
        what: what.into(),
        found: found.into(),
        expected: expected.into(),
    })
}
