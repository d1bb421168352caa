//! The commands of the program, one file each.

pub mod curves;
pub mod export;
pub mod run;
pub mod stages;
pub mod texts;
pub mod tokenizer;
