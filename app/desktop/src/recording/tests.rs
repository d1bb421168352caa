//! Recordings from frame to figure, held against plain computations on the frames themselves.

mod comparison;
mod end_to_end;
mod figures;
mod frames;
mod memory;
mod tokens;
