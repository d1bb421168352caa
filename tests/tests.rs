//! All integration tests in one binary: linking the engine takes longer than most of them.
//!
//! Three groups by need. *Null* tests need nothing, *unit* tests the CPU, *backend* tests every wgpu
//! adapter found; where there is none they fail.

#![allow(clippy::unwrap_used, reason = "a test may fail by panic")]

mod bodies;
mod chat;
mod checkpoints;
mod completions;
mod counts;
mod devices;
mod docs;
mod embedded;
mod file;
mod generation_config;
mod golden;
mod gpu;
mod hostile_checkpoint;
mod kernels;
mod messages;
mod past;
mod reference_kernels;
mod rewrite;
mod runner;
mod selector;
mod shaders;
mod spans;
mod text_files;
mod timeline;
mod timings;
mod whatif;

#[path = "../benches/random_model.rs"]
mod random_model;

use std::path::PathBuf;

/// Adapters, of which `make test` installs a software one: no test passes by finding none.
#[track_caller]
fn found<T>(adapters: Vec<T>) -> Vec<T> {
    assert!(
        !adapters.is_empty(),
        "no wgpu adapter found: install a Vulkan driver, such as Mesa's software one \
         (Debian: libvulkan1 mesa-vulkan-drivers)"
    );
    adapters
}

#[test]
#[should_panic = "no wgpu adapter found: install"]
fn a_test_that_finds_no_adapter_fails() {
    found::<kernels::gpu::Gpu>(Vec::new());
}

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
