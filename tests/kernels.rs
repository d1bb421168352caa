//! Each WGSL kernel by itself against plain `f64` code, on every adapter found, at every tuning.
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
mod gpu;
mod index_query;
mod index_scores;
mod latents;
mod matmul;
mod matvec;
mod mlp_down;
mod mlp_down_tiled;
mod mlp_up;
mod mlp_up_tiled;
mod route;
mod sample;
mod top_k;
