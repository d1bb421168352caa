//! What a run decided, kept so that another can repeat it: expert routes, sampling masks, selections.
//!
//! Keep Routing and Keep Sampling Mask of DeepSeek-V3.2: a training step takes the experts that
//! inference took, and renormalises over the tokens that truncation kept. Both of these traces are
//! safetensors files, whose metadata holds one entry, "sparsight", with kind, version and shapes as
//! JSON. A trace in memory is always valid; a file is checked in full before it becomes one.
//! Taking the decisions is the business of the model and of [`crate::sampler`].

mod file;
mod masks;
mod routes;
mod selections;
#[cfg(test)]
mod tests;

pub use masks::MaskTrace;
pub use routes::RouteTrace;
pub use selections::SelectionTrace;

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
