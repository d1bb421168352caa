//! Waiting for a future in code that is not async. Here alone, since a browser's page waits otherwise.

pub use pollster::block_on;
