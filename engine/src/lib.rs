//! Exact inference for the DeepSeek-V3.2 family: MLA attention, DeepSeek Sparse Attention, MoE.
//!
//! ```no_run
//! use std::sync::Arc;
//! use engine::{Device, Model, Session, SessionOptions};
//!
//! let device = Device::open(None)?;
//! let model = Arc::new(Model::open("checkpoint".as_ref(), &device)?);
//! let mut session = Session::new(model, SessionOptions::default())?;
//! let logits = session.advance(&[5, 9, 3])?;
//! # Ok::<(), engine::Error>(())
//! ```
//!
//! Bottom up: [`source`] says where files are, [`config`] and [`checkpoint`] read them, [`device`] says
//! where to compute. Three bodies compute the same: [`definition`] on Burn tensors, [`host`] on the CPU,
//! [`gpu`] through WGSL kernels; [`model`] is the seam between them, [`pass`] what they share.
//! [`session`] is one timeline, [`generate`] the loop, [`runner`] its thread. [`trace`] shows what went on
//! inside; [`verify`] checks it against a reference. Threads start in [`task`], futures are waited for in
//! [`mod@wait`].

pub mod cache;
pub mod chat;
pub mod checkpoint;
pub mod config;
pub mod definition;
pub mod device;
pub mod error;
pub mod file;
mod folder;
pub mod generate;
pub mod generation_config;
pub mod gpu;
pub mod host;
pub mod model;
pub mod pass;
pub mod replay;
pub mod rope;
pub mod route;
pub mod runner;
pub mod sampler;
pub mod selection;
pub mod session;
pub mod source;
pub mod stop;
pub mod task;
pub mod text_file;
pub mod tokenizer;
pub mod trace;
pub mod trace_file;
pub mod verify;
pub mod wait;

pub use cache::{CacheBytes, CacheFormat};
pub use checkpoint::Checkpoint;
pub use config::Config;
pub use device::Device;
pub use error::{Error, Result};
pub use model::Model;
pub use session::{Session, SessionOptions};
pub use source::{Embedded, Source};
