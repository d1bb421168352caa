//! Texts that several kernels share.

use crate::kernel::Piece;

/// Sums and maxima over a workgroup. Needs `WG`; gives `Lane`, `workgroup_sum`, `workgroup_sum4`,
/// `workgroup_max`.
pub const REDUCE: Piece = Piece {
    plain: include_str!("reduce.wgsl"),
    subgroup: Some(include_str!("reduce_subgroup.wgsl")),
};

/// bf16 and e4m3 in words, power-of-two scales.
pub const NUMBERS: Piece = Piece {
    plain: include_str!("numbers.wgsl"),
    subgroup: None,
};

/// A text that is the same everywhere.
pub const fn plain(text: &'static str) -> Piece {
    Piece {
        plain: text,
        subgroup: None,
    }
}
