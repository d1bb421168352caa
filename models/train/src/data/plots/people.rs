//! Plots about people, and what they do together.

use super::{Plot, fact};

/// Plots about people, and what they do together.
pub(super) const PLOTS: &[Plot] = &[
    Plot {
        about: "a big storm",
        objects: &[
            "lamp", "candle", "lantern", "blanket", "pillow", "book", "doll", "flute", "guitar",
        ],
        is_owned: true,
        is_friend_known: true,
        steps: &[
            "One night, there was a big storm. [The rain fell hard.|The wind shook the trees.|The thunder was very loud.]",
            "{A} was [afraid|scared] and could not sleep.",
            "[Then there was a knock at the door.|Somebody knocked at the window.|Knock, knock!] It was {B}, all wet.",
            "[\"May I come in?\" asked {B}.|\"My roof is broken. Can I stay here?\" asked {B}.|\"I am so cold,\" said {B}.]",
            "{A} gave {bhim} some hot {hot} and [sat next to {bhim}|put the {o} next to {bhim}].",
            "They told stories [until the storm was over|until morning].",
            "{A} was {m} and not afraid any more.",
        ],
        facts: &[
            fact(
                "Who came to {A} in the storm?",
                "{B} came to {A}.",
                "It was {B}",
            ),
            fact(
                "What did {A} give {B}?",
                "{A} gave {B} some hot {hot}.",
                "hot {hot}",
            ),
        ],
    },
    Plot {
        about: "a visit",
        objects: &[
            "basket", "book", "scarf", "hat", "bag", "blanket", "coat", "cap",
        ],
        is_owned: true,
        is_friend_known: true,
        steps: &[
            "[One day|One morning|On Saturday], {A} went to see {his} {kin} near {p}.",
            "[The way was long.|{He} walked a long way.|{He} sang all the way.] [On the way, {he} met {B}.|At the bridge, {he} met {B}.]",
            "\"Where are you going?\" asked {B}. \"To my {kin},\" said {A}. \"[Come with me!|You can come too.]\"",
            "{His} {kin} was [very happy|glad] to see them and [made|gave them] some {f}.",
            "[They talked and ate.|They sat by the fire.|They sat in the garden.] Then {A} showed them the {o}.",
            "When it was dark, they walked home. {A} was {m}.",
        ],
        facts: &[
            fact(
                "Who did {A} visit?",
                "{A} visited {his} {kin}.",
                "to see {his} {kin}",
            ),
            fact(
                "Who did {A} meet on the way?",
                "{A} met {B} on the way.",
                "met {B}",
            ),
            fact("What did they eat?", "They ate some {f}.", "some {f}"),
        ],
    },
    Plot {
        about: "a race",
        objects: &[
            "hat", "cap", "scarf", "shoe", "coat", "ribbon", "flag", "whistle", "bell", "sock",
        ],
        is_owned: true,
        is_friend_known: true,
        steps: &[
            "One day, there was a race from {p} to {p2}.",
            "\"I am [the fastest|faster than you],\" said {B}. {A} said nothing.",
            "[One, two, three, go!|The race began.] {B} ran [very fast|like the wind].",
            "[But soon {bhe} was tired and sat down.|But {bhe} stopped to eat some {f}.|But {bhe} stopped to look at a {k}.]",
            "{A} [went on, step by step|ran slowly but did not stop].",
            "In the end, {A} won the race. {B} [laughed and said, \"Well done!\"|said, \"You were better than me.\"]",
            "{A} was {m}.",
        ],
        facts: &[
            fact("Who won the race?", "{A} won the race.", "{A} won the race"),
            fact(
                "Where did the race begin?",
                "The race began at {p}.",
                "race from {p}",
            ),
        ],
    },
    Plot {
        about: "baking",
        objects: &["bowl", "spoon", "cup", "plate", "jar", "hat", "cap"],
        is_owned: true,
        is_friend_known: true,
        steps: &[
            "[One {w} day|One day], {A} wanted to bake a cake for {his} {r}.",
            "{He} took {x} eggs, some milk and some sugar[, and put it all together|].",
            "{B} came to help. [They made a big mess.|Soon there was flour on everything.|{bHe} had flour on {bhis} nose.]",
            "[The cake smelled very good.|The cake was in the oven for an hour.|The cake came out a bit brown.]",
            "\"[This is the best cake of all|What a lovely cake|I like it very much]!\" said {his} {r}.",
            "{A} was {m}.",
        ],
        facts: &[
            fact(
                "Who was the cake for?",
                "The cake was for {A}'s {r}.",
                "cake for {his} {r}",
            ),
            fact(
                "How many eggs did {A} take?",
                "{A} took {x} eggs.",
                "took {x} eggs",
            ),
            fact("Who helped {A}?", "{B} helped {A}.", "{B} came to help"),
        ],
    },
    Plot {
        about: "hide and seek",
        objects: &[],
        is_owned: true,
        is_friend_known: true,
        steps: &[
            "[One afternoon|One day], {A} and {B} played hide and seek {inp}.",
            "{B} closed {bhis} eyes and counted to ten. {A} hid {hide}.",
            "[{B} looked for a long time.|{B} walked past {him} twice.|{B} could not find {him}.]",
            "But {A} had [dropped|left] the {o} on the path, and {B} saw it.",
            "\"[Found you!|There you are!]\" called {B}. [They both laughed.|{A} laughed and came out.]",
            "Then {B} hid, and {A} counted. {A} was {m}.",
        ],
        facts: &[
            fact("Where did {A} hide?", "{A} hid {hide}.", "{A} hid {hide}"),
            fact(
                "Where did they play hide and seek?",
                "They played hide and seek {inp}.",
                "hide and seek {inp}",
            ),
            fact(
                "What did {B} see on the path?",
                "{B} saw the {o} on the path.",
                "the {o} on the path",
            ),
        ],
    },
    Plot {
        about: "a new neighbour",
        objects: &[],
        is_owned: true,
        is_friend_known: false,
        steps: &[
            "One day, a new family came to live next door. [A {bkind} looked out of the window.|There was a {bkind} in the garden.]",
            "[{A} was shy at first.|{A} did not know what to say.] Then {he} took the {o} and went over.",
            "\"Hello, I am {A}. What is your name?\" \"My name is {B},\" said the {bkind}.",
            "\"Do you want to [see my {o}|play with me]?\" asked {A}. \"[Yes, please!|I would love to!]\" said {B}.",
            "They played {inp} [all afternoon|until it was dark].",
            "{A} felt {m}. Now {he} had a new friend.",
        ],
        facts: &[
            fact(
                "What was the name of the new {bkind}?",
                "The new {bkind} was {B}.",
                "My name is {B}",
            ),
            fact(
                "Where did they play?",
                "They played {inp}.",
                "They played {inp}",
            ),
        ],
    },
    Plot {
        about: "learning to swim",
        objects: &[
            "ball", "hat", "boat", "bucket", "whistle", "bag", "shell", "cap",
        ],
        is_owned: true,
        is_friend_known: true,
        steps: &[
            "{A} could not swim. [All the others could.|{B} could swim like a fish.]",
            "\"[I am afraid of the water|The water is too deep],\" {he} said.",
            "{His} {r} took {him} to the lake. \"[First, put your feet in|I will hold you],\" {rhe} said.",
            "[Day after day, they tried.|Each day, {A} went a little farther.] On day {x}, {he} could swim alone.",
            "[Then the {o} fell into the water, and {A} swam out and got it.|That day the {o} was floating away. {A} swam after it.]",
            "Everybody [clapped|was surprised]. {A} was {m}.",
        ],
        facts: &[
            fact(
                "Who taught {A} to swim?",
                "{His} {r} taught {A} to swim.",
                "{His} {r} took {him}",
            ),
            fact(
                "What fell into the water?",
                "The {o} fell into the water.",
                "{o} fell into the water",
            ),
        ],
    },
    Plot {
        about: "a song",
        objects: &["drum", "flute", "whistle", "bell", "trumpet", "guitar"],
        is_owned: true,
        is_friend_known: true,
        steps: &[
            "{A} played the {o} every day. [It was very loud.|It did not sound good yet.|At first it sounded strange.]",
            "\"[Please stop|Not so loud|My ears hurt],\" said {his} {r}.",
            "So {A} went to {p} and played there, all alone. {He} was {u}.",
            "[Then a {k} came and listened.|A {k} sat down in front of {him}.] [It began to dance.|It liked the music.]",
            "Soon {B} came too, and [sang a song|clapped {bhis} hands]. [It was a real band now.|More and more people came.]",
            "{A} was {m}.",
        ],
        facts: &[
            fact(
                "What did {A} play?",
                "{A} played the {o}.",
                "played the {o}",
            ),
            fact(
                "Where did {A} play?",
                "{A} played {inp}.",
                "went to {p} and played",
            ),
            fact(
                "What animal listened to the music?",
                "A {k} listened to the music.",
                "a {k} came|A {k} sat",
            ),
        ],
    },
    Plot {
        about: "being ill",
        objects: &[
            "doll", "book", "puppet", "robot", "pillow", "blanket", "bell", "cup", "marble",
        ],
        is_owned: true,
        is_friend_known: true,
        steps: &[
            "One morning, {A} felt ill. {His} [head was hot|nose was red|throat hurt].",
            "\"[You must stay in bed|No going out today],\" said {his} {r}, and brought {him} some hot {hot}.",
            "{A} was {u}. {He} held {his} {o} and looked at the wall.",
            "Then {B} came with {x} {fruits}. \"[These are for you|Get well soon],\" {bhe} said, and read {him} a story about a {k_big}.",
            "[{A} laughed, and then {he} slept.|It was a funny story.] [The next day|After two days], {he} was well again.",
            "{A} was {m}.",
        ],
        facts: &[
            fact(
                "How many {fruits} did {B} bring?",
                "{B} brought {x} {fruits}.",
                "{B} came with {x}",
            ),
            fact(
                "What was the story about?",
                "The story was about a {k_big}.",
                "about a {k_big}",
            ),
            fact(
                "What did {A} drink?",
                "{A} had some hot {hot}.",
                "hot {hot}",
            ),
        ],
    },
    Plot {
        about: "telling the truth",
        objects: &[],
        is_owned: true,
        is_friend_known: true,
        steps: &[
            "One day, {A} played inside with the {o}. Crash! {His} {r}'s {d} vase fell down.",
            "\"[Nobody saw it,|What shall I do now?]\" thought {A}. {He} was {u}.",
            "{B} said, \"[Tell the truth|You should say what happened].\"",
            "So {A} went to {his} {r}. \"It was me. I broke the vase. I am sorry.\"",
            "\"[Thank you for telling me|I am glad that you told me],\" said {his} {r}. \"[Let us clean up together.|It was only a vase.]\"",
            "{A} felt {m}.",
        ],
        facts: &[
            fact(
                "What did {A} break?",
                "{A} broke a vase.",
                "I broke the vase",
            ),
            fact("What colour was the vase?", "The vase was {d}.", "{d} vase"),
            fact(
                "Who told {A} to tell the truth?",
                "{B} told {A} to tell the truth.",
                "{B} said",
            ),
        ],
    },
    Plot {
        about: "a school play",
        objects: &["hat", "mask", "crown", "coat", "scarf", "cap", "ribbon"],
        is_owned: true,
        is_friend_known: true,
        steps: &[
            "There was to be a play at school. {A} was to be a {k_big}, and {B} was to be a king.",
            "{A} [learned the words every night|was afraid to speak in front of people].",
            "On the day of the play, {A} put on the {o}. [The room was full.|Everybody was there.]",
            "Then {he} forgot the words! [It was very quiet.|Nobody spoke.] {A} was {u}.",
            "{B} [whispered the first word|smiled at {him}], and {A} [remembered everything|could go on].",
            "In the end, everybody clapped. {A} was {m}.",
        ],
        facts: &[
            fact(
                "What was {A} in the play?",
                "{A} was a {k_big} in the play.",
                "to be a {k_big}",
            ),
            fact(
                "What was {B} in the play?",
                "{B} was a king in the play.",
                "to be a king",
            ),
            fact(
                "What did {A} put on?",
                "{A} put on the {o}.",
                "put on the {o}",
            ),
        ],
    },
];
