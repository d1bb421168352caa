//! All integration tests in one binary: linking the engine takes longer than most of them.
//!
//! Three groups by need. *Null* tests need nothing, *unit* tests the CPU, *backend* tests every wgpu
//! adapter found; where there is none they say so.

#![allow(clippy::unwrap_used, reason = "a test may fail by panic")]

mod bodies;
mod chat;
mod counts;
mod docs;
mod embedded;
mod golden;
mod gpu;
mod hostile_checkpoint;
mod kernels;
mod past;
mod portable_ops;
mod runner;
mod selector;
mod shaders;
mod spans;
mod timeline;
mod timings;
mod whatif;

#[path = "../benches/random_model.rs"]
mod random_model;

use std::path::PathBuf;

/// A folder of `tests/fixtures`.
fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

/// Every fixture, sorted.
fn fixtures() -> Vec<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut all: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    all.sort();
    assert!(all.len() >= 8, "eight fixtures are there, found {all:?}");
    all
}
