//! The WGSL kernels of Sparsight, and a table of them. No GPU and no Burn in here.
//!
//! A kernel is two files with one name: `NAME.wgsl`, which opens with its formula, geometry and cost,
//! and `NAME.rs`: its row of the table, the launch it plans for given sizes, and its [`reference`], the
//! same in plain `f64`. Texts that several kernels share are [`pieces`], [`weights`] and [`index_row`];
//! [`latent_cache`] and [`key_cache`] say how caches lie in memory.

pub mod kernel;
pub mod pieces;
pub mod reference;

pub mod index_row;
pub mod key_cache;
pub mod latent_cache;
pub mod weights;

pub mod absorb;
pub mod add_norm;
pub mod attend;
pub mod attend_merge;
pub mod attend_weights;
pub mod combine;
pub mod copy_words;
pub mod embed;
pub mod expert_plan;
pub mod index_query;
pub mod index_scores;
pub mod latents;
pub mod matmul;
pub mod matvec;
pub mod mlp_down;
pub mod mlp_down_tiled;
pub mod mlp_up;
pub mod mlp_up_tiled;
pub mod route;
pub mod sample;
pub mod top_k;

pub use kernel::{Cost, Dispatch, Kernel, Tuning};

/// Every kernel, in the order the forward pass meets them.
pub const KERNELS: &[&Kernel] = &[
    &embed::KERNEL,
    &add_norm::KERNEL,
    &matvec::KERNEL,
    &matmul::KERNEL,
    &latents::KERNEL,
    &copy_words::KERNEL,
    &index_query::KERNEL,
    &index_scores::KERNEL,
    &top_k::KERNEL,
    &absorb::KERNEL,
    &attend::KERNEL,
    &attend_merge::KERNEL,
    &attend_weights::KERNEL,
    &route::KERNEL,
    &mlp_up::KERNEL,
    &mlp_down::KERNEL,
    &expert_plan::KERNEL,
    &mlp_up_tiled::KERNEL,
    &mlp_down_tiled::KERNEL,
    &combine::KERNEL,
    &sample::KERNEL,
];
