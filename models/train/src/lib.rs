//! The recipe of DeepSeek-V3.2 in miniature: text, tokenizer, four kinds of training stage, export.
//!
//! The model is the engine's: its table of tensors ([`net`]) and its definition of the forward pass
//! ([`pass`]), run on Burn's autodiff. [`data`] makes the text, [`recipe`] says what is trained on what,
//! [`run`] is the loop, [`checkpoint`] what a killed run goes on from.

pub mod adamw;
pub mod bpe;
pub mod checkpoint;
pub mod curves;
pub mod data;
pub mod error;
pub mod eval;
pub mod export;
pub mod log;
pub mod net;
pub mod pass;
pub mod random;
pub mod recipe;
pub mod run;

#[cfg(test)]
mod tests;

pub use error::{Error, Result};
