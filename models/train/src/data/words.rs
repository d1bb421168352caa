//! The words of the generated world. Common English words, partly chosen from the CC0 word lists of
//! dariusk/corpora. Few of them: each is to be one token, seen often.

use super::names::{BOYS, GIRLS, PETS};

/// Colours.
pub(super) const COLOURS: &[&str] = &[
    "red", "blue", "green", "yellow", "orange", "purple", "pink", "black", "white", "brown",
    "grey", "golden", "silver", "violet", "cream", "scarlet", "copper", "crimson", "ivory", "navy",
    "peach", "olive", "amber", "bronze",
];

/// Objects that a child may own, carry, lose and give away.
pub(super) const OBJECTS: &[&str] = &[
    "kite", "ball", "doll", "drum", "boat", "book", "hat", "scarf", "bag", "cup", "box", "balloon",
    "train", "car", "bike", "bell", "ring", "lamp", "key", "spoon", "blanket", "basket", "bucket",
    "puppet", "flute", "whistle", "coat", "sock", "glove", "shoe", "ribbon", "pencil", "brush",
    "button", "marble", "stone", "shell", "flag", "mask", "crown", "robot", "truck", "plane",
    "wagon", "top", "rope", "umbrella", "jar", "bottle", "plate", "clock", "mirror", "pillow",
    "candle", "trumpet", "guitar", "lantern", "jacket", "cap", "bowl",
];

/// Animals that may be a hero, a friend or in trouble.
pub(super) const ANIMALS: &[&str] = &[
    "fox", "bear", "rabbit", "mouse", "cat", "dog", "duck", "frog", "owl", "pig", "goat", "sheep",
    "horse", "cow", "hen", "goose", "squirrel", "hedgehog", "monkey", "elephant", "lion", "tiger",
    "turtle", "wolf", "deer", "crow", "beaver", "badger", "donkey", "camel", "zebra", "panda",
];

/// Small animals that a child can carry home.
pub(super) const SMALL_ANIMALS: &[&str] = &[
    "puppy", "kitten", "bird", "rabbit", "mouse", "duck", "frog", "hedgehog", "squirrel", "turtle",
    "lamb", "chick",
];

/// Food, each word with its article or as it is eaten.
pub(super) const FOODS: &[&str] = &[
    "bread", "soup", "cake", "rice", "jam", "honey", "cheese", "pie", "porridge", "salad", "pasta",
    "toast",
];

/// Fruit and the like, to be counted: one and many.
pub(super) const COUNTED: &[(&str, &str)] = &[
    ("apple", "apples"),
    ("pear", "pears"),
    ("plum", "plums"),
    ("cookie", "cookies"),
    ("nut", "nuts"),
    ("egg", "eggs"),
    ("orange", "oranges"),
    ("banana", "bananas"),
    ("carrot", "carrots"),
    ("cherry", "cherries"),
    ("peach", "peaches"),
    ("lemon", "lemons"),
    ("flower", "flowers"),
    ("shell", "shells"),
    ("stone", "stones"),
    ("book", "books"),
    ("coin", "coins"),
    ("marble", "marbles"),
    ("card", "cards"),
    ("pencil", "pencils"),
];

/// Grown-ups a child knows.
pub(super) const RELATIVES: &[(&str, &str)] = &[
    ("mother", "she"),
    ("father", "he"),
    ("grandmother", "she"),
    ("grandfather", "he"),
    ("aunt", "she"),
    ("uncle", "he"),
    ("sister", "she"),
    ("brother", "he"),
    ("teacher", "she"),
    ("neighbour", "he"),
];

/// How one feels when all is well.
pub(super) const GLAD: &[&str] = &[
    "happy",
    "glad",
    "proud",
    "cheerful",
    "merry",
    "pleased",
    "thankful",
    "excited",
    "joyful",
    "delighted",
];

/// How one feels when it is not.
pub(super) const SAD: &[&str] = &["sad", "worried", "upset", "unhappy", "cross", "gloomy"];

/// The sky, as in "It was a ... day".
pub(super) const DAYS: &[&str] = &[
    "sunny", "warm", "cold", "windy", "rainy", "cloudy", "bright", "quiet", "snowy", "foggy",
    "hot", "fine",
];

/// Words that a key can stand for, and that lists are made of.
pub(super) const VALUES: &[&str] = &[
    "tiger",
    "apple",
    "moon",
    "river",
    "window",
    "garden",
    "summer",
    "winter",
    "silver",
    "mountain",
    "paper",
    "table",
    "letter",
    "music",
    "cloud",
    "bread",
    "horse",
    "island",
    "castle",
    "dragon",
    "forest",
    "honey",
    "lemon",
    "mirror",
    "ocean",
    "pepper",
    "rabbit",
    "shadow",
    "thunder",
    "valley",
    "water",
    "yellow",
    "anchor",
    "bridge",
    "candle",
    "desert",
    "engine",
    "feather",
    "hammer",
    "insect",
    "jungle",
    "kitchen",
    "ladder",
    "magnet",
    "needle",
    "orange",
    "pocket",
    "queen",
    "ribbon",
    "sugar",
    "tower",
    "uncle",
    "violin",
    "wagon",
    "king",
    "snow",
    "fire",
    "leaf",
    "star",
    "grass",
    "stone",
    "wolf",
    "fish",
    "bird",
    "door",
    "chair",
    "ship",
    "train",
    "drum",
    "flower",
    "nose",
    "hand",
    "milk",
    "salt",
    "sand",
    "rain",
    "wind",
    "sun",
    "night",
    "morning",
    "evening",
    "road",
    "wall",
    "roof",
    "field",
    "lake",
    "hill",
    "tree",
    "root",
    "seed",
    "corn",
    "wheat",
    "rice",
    "tea",
    "cake",
    "plum",
    "pear",
    "peach",
    "cherry",
    "melon",
    "onion",
    "potato",
    "carrot",
    "spider",
    "butterfly",
    "bee",
    "ant",
    "snail",
    "frog",
    "turtle",
    "duck",
    "goose",
    "eagle",
    "owl",
    "crow",
    "swan",
    "bear",
    "fox",
    "deer",
    "lion",
    "camel",
    "zebra",
    "monkey",
    "elephant",
    "mouse",
    "cat",
    "dog",
    "sheep",
    "goat",
    "cow",
    "pig",
    "hen",
    "iron",
    "gold",
    "glass",
    "wood",
    "wool",
    "silk",
    "cotton",
    "leather",
    "rope",
    "wheel",
    "basket",
    "bottle",
    "bucket",
    "brush",
    "button",
    "coat",
    "crown",
    "dress",
    "glove",
    "shoe",
    "sock",
    "ring",
    "clock",
    "lamp",
    "knife",
    "spoon",
    "plate",
    "bowl",
    "cup",
    "box",
    "bag",
    "book",
    "song",
    "story",
    "dance",
    "game",
    "dream",
    "farmer",
    "doctor",
    "baker",
    "sailor",
    "teacher",
    "painter",
    "singer",
    "village",
    "market",
    "school",
    "house",
    "barn",
    "mill",
    "tent",
    "boat",
    "planet",
    "rocket",
    "comet",
];

/// Every single word of the lists.
pub(super) fn all() -> impl Iterator<Item = &'static str> {
    let lists = [
        GIRLS,
        BOYS,
        PETS,
        COLOURS,
        OBJECTS,
        ANIMALS,
        SMALL_ANIMALS,
        FOODS,
        GLAD,
        SAD,
        DAYS,
        VALUES,
    ];
    let counted = COUNTED.iter().flat_map(|&(one, many)| [one, many]);
    lists.into_iter().flatten().copied().chain(counted)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_list_repeats_a_word() {
        for list in [
            GIRLS,
            BOYS,
            PETS,
            COLOURS,
            OBJECTS,
            ANIMALS,
            SMALL_ANIMALS,
            FOODS,
            GLAD,
            SAD,
            DAYS,
            VALUES,
        ] {
            assert_eq!(
                list.iter().collect::<BTreeSet<_>>().len(),
                list.len(),
                "{list:?}"
            );
        }
    }
}
