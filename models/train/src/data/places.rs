//! Where things happen in the generated world.

/// Places one goes to, and how one is there.
pub(super) const PLACES: &[(&str, &str)] = &[
    ("the park", "in the park"),
    ("the forest", "in the forest"),
    ("the beach", "on the beach"),
    ("the lake", "by the lake"),
    ("the river", "by the river"),
    ("the garden", "in the garden"),
    ("the market", "at the market"),
    ("the farm", "on the farm"),
    ("the hill", "on the hill"),
    ("the village", "in the village"),
    ("the meadow", "in the meadow"),
    ("the school", "at the school"),
    ("the pond", "by the pond"),
    ("the bridge", "on the bridge"),
    ("the field", "in the field"),
    ("the valley", "in the valley"),
    ("the library", "in the library"),
    ("the square", "in the square"),
    ("the mill", "at the mill"),
    ("the harbour", "at the harbour"),
];

/// Where somebody lives.
pub(super) const HOMES: &[&str] = &[
    "in a small village",
    "in a big town",
    "on a farm",
    "near the sea",
    "near a dark forest",
    "in a little house",
    "by a wide river",
    "on a high hill",
    "in a quiet valley",
    "at the end of a long road",
    "next to an old mill",
    "in a tall house",
];

/// Where a lost thing may lie.
pub(super) const SPOTS: &[&str] = &[
    "under a big tree",
    "behind a rock",
    "next to a bush",
    "in the tall grass",
    "on a bench",
    "near the gate",
    "beside the path",
    "behind the wall",
    "under a pile of leaves",
    "on top of a fence",
    "in a hole",
    "between two stones",
];
