//! Plots about animals, weather and places.

use super::{Plot, fact};

/// Plots about animals, weather and places.
pub(super) const PLOTS: &[Plot] = &[
    Plot {
        about: "a hungry {k}",
        objects: &["basket", "bag", "box", "hat", "scarf", "coat", "blanket"],
        is_owned: true,
        is_friend_known: true,
        steps: &[
            "[One {w} day|On a {w} day], {A} went to {p}.",
            "{^s}, {he} heard a small [sound|cry|voice].",
            "It was a little {k}. [The {k} was hungry and cold.|It was thin and wet.|It looked very hungry.]",
            "{A} gave it some {f} and [kept it warm|put it on {his} {o}|let it sleep on {his} {o}].",
            "[\"What is your name?\" asked {A}. \"I will call you {n}.\"|{A} named the {k} {n}.]",
            "[{n} followed {A} home.|The {k} never wanted to leave again.|From then on, {n} lived with {A}.]",
            "{A} felt {m} [because {he} had a new friend|to have a new friend].",
        ],
        facts: &[
            fact(
                "What animal did {A} find?",
                "{A} found a little {k}.",
                "a little {k}",
            ),
            fact(
                "What was the {k}'s name?",
                "The {k}'s name was {n}.",
                "call you {n}|the {k} {n}",
            ),
            fact("What did the {k} eat?", "The {k} ate some {f}.", "some {f}"),
            fact("Where was the {k}?", "The {k} was {s}.", "{^s}"),
        ],
    },
    Plot {
        about: "a picnic",
        objects: &["basket", "blanket", "ball", "kite", "bag", "book", "hat"],
        is_owned: true,
        is_friend_known: true,
        steps: &[
            "[One day|One {w} morning|On Sunday], {A} and {B} wanted to have a picnic.",
            "{A} [packed|brought] some {f}, and {B} [packed|brought] some {g}.",
            "They [walked to {p}|went to {p} together] and sat down [in the shade|in the sun|on the ground].",
            "[Then it began to rain. \"Quick, under the tree!\" said {B}.|Suddenly a big dog came running. It wanted to eat the {f}, too.|Soon a line of ants came to the food. {B} jumped up, and {A} laughed.]",
            "[In the end, they ate everything at home.|Later they shared all the food.|They ate all they had left.]",
            "{A} was {m}.",
        ],
        facts: &[
            fact("What did {A} bring?", "{A} brought some {f}.", "some {f}"),
            fact("What did {B} bring?", "{B} brought some {g}.", "some {g}"),
            fact(
                "Where did they have the picnic?",
                "They had the picnic {inp}.",
                "to {p}",
            ),
        ],
    },
    Plot {
        about: "a seed",
        objects: &["bucket", "bottle", "cup", "jar", "bowl", "hat", "spoon"],
        is_owned: true,
        is_friend_known: true,
        steps: &[
            "One day, {A} found a [small|tiny|round] seed {s}.",
            "\"[What will it be?|I will plant it,]\" said {A}. {He} put it into the ground {inp}.",
            "Every morning, {he} brought it water in the {o}.",
            "[Days went by.|The sun shone and the rain fell.|{A} waited and waited.] [Nothing happened.|Then there was a green leaf.]",
            "After {x} weeks, there was a [tall|big|beautiful] {d} flower.",
            "{A} felt {m}. [\"It only needed time,\" said {his} {r}.|{He} showed it to {B}.]",
        ],
        facts: &[
            fact(
                "Where did {A} find the seed?",
                "{A} found the seed {s}.",
                "seed {s}",
            ),
            fact(
                "What colour was the flower?",
                "The flower was {d}.",
                "{d} flower",
            ),
            fact(
                "Where did {A} plant the seed?",
                "{A} planted the seed {inp}.",
                "into the ground {inp}",
            ),
        ],
    },
    Plot {
        about: "snow",
        objects: &[
            "hat", "scarf", "coat", "glove", "cap", "jacket", "bucket", "button", "bell",
        ],
        is_owned: true,
        is_friend_known: true,
        steps: &[
            "One morning, everything was white. [It had snowed all night.|Snow lay on every roof.]",
            "{A} and {B} ran to {p} and made a big snowman.",
            "[\"He has no nose,\" said {B}, and took a carrot.|They gave him a carrot for a nose.|Two stones were his eyes.]",
            "\"He looks cold,\" said {A}, and gave him the {o}.",
            "[The next day, the sun came out.|After {x} days, it was warm again.] The snowman was gone, but the {o} lay on the grass.",
            "\"[He gave it back|He says thank you],\" said {A}. {He} was {m}.",
        ],
        facts: &[
            fact(
                "What did {A} give the snowman?",
                "{A} gave the snowman the {o}.",
                "gave him the {o}",
            ),
            fact(
                "Where did they make the snowman?",
                "They made the snowman {inp}.",
                "ran to {p}",
            ),
        ],
    },
    Plot {
        about: "a bird with a broken wing",
        objects: &[
            "box", "basket", "hat", "scarf", "bag", "bowl", "blanket", "sock",
        ],
        is_owned: true,
        is_friend_known: true,
        steps: &[
            "On the way to {p}, {A} saw a little bird {s}. Its wing was [broken|hurt].",
            "{He} put the bird into the {o} [very gently|with great care] and took it home.",
            "{His} {r} [gave it water|knew what to do|helped {him}].",
            "They called the bird {n}. [Every day, it ate seeds.|It grew stronger every day.|It sang for them in the morning.]",
            "After {x} weeks, {n} could fly again. {A} opened the window.",
            "[{A} was a little sad, but also {m}.|\"Goodbye, {n}!\" said {A}. {He} was {m}.]",
        ],
        facts: &[
            fact(
                "What was the bird's name?",
                "The bird's name was {n}.",
                "called the bird {n}",
            ),
            fact(
                "Where was the bird?",
                "The bird was {s}.",
                "little bird {s}",
            ),
            fact(
                "When could the bird fly again?",
                "The bird could fly again after {x} weeks.",
                "After {x} weeks",
            ),
        ],
    },
    Plot {
        about: "the moon",
        objects: &[
            "lamp", "lantern", "candle", "mirror", "book", "rope", "blanket", "kite", "pillow",
        ],
        is_owned: true,
        is_friend_known: true,
        steps: &[
            "One night, {A} looked at the moon. \"[Is it far away?|How big is the moon?|Who lives there?]\" {he} asked.",
            "\"[Very far|Farther than {p2}],\" said {his} {r}. \"[Nobody can walk there.|You need a rocket.]\"",
            "{A} wanted to see it better. {He} took the {o} and climbed up a hill with {B}.",
            "[From there, the moon looked big and round.|The moon was bright, and the stars were many.]",
            "\"[Good night, moon|Hello, moon],\" said {B}. They sat there for a long time.",
            "{A} felt {m}, and [very small|a little tired].",
        ],
        facts: &[
            fact(
                "Who did {A} climb the hill with?",
                "{A} climbed the hill with {B}.",
                "a hill with {B}",
            ),
            fact(
                "What did {A} take up the hill?",
                "{A} took the {o} up the hill.",
                "took the {o}",
            ),
        ],
    },
    Plot {
        about: "a boat trip",
        objects: &[
            "boat", "hat", "flag", "rope", "whistle", "bucket", "lantern", "umbrella", "cap",
            "bell",
        ],
        is_owned: true,
        is_friend_known: true,
        steps: &[
            "[One {w} day|One day], {A} and {B} went out on the lake in a little boat.",
            "[The water was quiet and blue.|They saw fish in the water.] {A} had {his} {o} with {him}.",
            "[Suddenly the boat began to rock.|Then a strong wind came.|Soon a fog came up.] \"[Hold on!|We cannot see the land!]\" cried {B}.",
            "{A} held up the {o}. A {k_big} on the shore saw it and came to help.",
            "[Slowly it pulled them to the shore.|It swam out and brought them back.]",
            "\"Thank you!\" they said. {A} was {m} to be home again.",
        ],
        facts: &[
            fact(
                "Who helped them?",
                "A {k_big} helped them.",
                "A {k_big} on the shore",
            ),
            fact(
                "What did {A} hold up?",
                "{A} held up the {o}.",
                "held up the {o}",
            ),
        ],
    },
    Plot {
        about: "a dark cave",
        objects: &[
            "lamp", "lantern", "candle", "rope", "whistle", "bell", "hat",
        ],
        is_owned: true,
        is_friend_known: true,
        steps: &[
            "Near {p} there was a dark cave. [Nobody ever went in.|People said that a dragon lived there.]",
            "\"[Let us look inside|I want to see it],\" said {B}. {A} took {his} {o}.",
            "[It was cold and wet inside.|They walked very slowly.] Then they heard a sound. \"Hoo!\"",
            "[They wanted to run away.|{B} held {A}'s hand.] But it was only an old owl.",
            "\"Hello,\" said the owl. \"[Nobody ever visits me.|Have you come for tea?]\" They stayed and gave it some {f}.",
            "{A} was {m}. [The owl was not scary at all.|They had a new friend.]",
        ],
        facts: &[
            fact(
                "Who lived in the cave?",
                "An old owl lived in the cave.",
                "an old owl",
            ),
            fact(
                "What did they give the owl?",
                "They gave the owl some {f}.",
                "gave it some {f}",
            ),
            fact("Where was the cave?", "The cave was near {p}.", "Near {p}"),
        ],
    },
    Plot {
        about: "picking {fruits}",
        objects: &["basket", "bucket", "bag", "hat", "box", "bowl", "wagon"],
        is_owned: true,
        is_friend_known: true,
        steps: &[
            "In autumn, {A} and {B} went to {p} to pick {fruits}.",
            "They put them into the {o}. [It was hard work.|Soon it was full.]",
            "\"Let us count them,\" said {B}. {A} had {x} {fruits}.",
            "On the way home they met an old woman. [She was tired and hungry.|\"I have nothing to eat,\" she said.]",
            "{A} gave her [all the {fruits}|half of the {fruits}]. \"[You are kind|Thank you, my dear],\" she said, and gave {him} a {d} stone.",
            "{A} was {m}.",
        ],
        facts: &[
            fact(
                "How many {fruits} did {A} have?",
                "{A} had {x} {fruits}.",
                "{A} had {x} {fruits}",
            ),
            fact(
                "Who did they meet on the way home?",
                "They met an old woman.",
                "met an old woman",
            ),
            fact(
                "What did the old woman give {A}?",
                "The old woman gave {A} a {d} stone.",
                "{d} stone",
            ),
        ],
    },
];
