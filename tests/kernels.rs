//! Each WGSL kernel by itself against its `f64` reference, on every adapter found, at every tuning.
//!
//! They run through plain wgpu here, not through the engine: whole models are in `gpu` and `golden`.

mod absorb;
mod add_norm;
mod attend;
mod attend_merge;
mod attend_weights;
mod combine;
mod copy_words;
mod embed;
mod expert_plan;
pub mod gpu;
mod index_query;
mod index_scores;
mod inputs;
mod latents;
mod matmul;
mod matvec;
mod mlp;
mod mlp_tiled;
mod numbers;
mod route;
mod sample;
mod top_k;
