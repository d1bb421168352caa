//! Plots about things: lost, found, given, broken.

use super::{Plot, fact};

/// Plots about things: lost, found, given, broken.
pub(super) const PLOTS: &[Plot] = &[
    Plot {
        about: "a lost {o}",
        objects: &[],
        is_owned: true,
        is_friend_known: true,
        steps: &[
            "One day, {A} went to {p} with {his} {o}.",
            "[When {he} came home, the {o} was not there.|On the way back, {he} saw that the {o} was gone.|But when {he} looked into {his} bag, the {o} was gone.]",
            "{A} was {u} because the {o} was gone.",
            "[\"Do not worry,\" said {B}. \"We will find it.\"|\"Let us look for it together,\" said {B}.|{B} said, \"I will help you look for it.\"]",
            "[They looked everywhere.|They looked here and there.|They looked and looked.] At last they found the {o} {s}.",
            "{A} [was {m}|felt {m}] [again|and thanked {B}|and gave {B} a big hug].",
        ],
        facts: &[
            fact(
                "Where did they find the {o}?",
                "They found the {o} {s}.",
                "found the {o} {s}",
            ),
            fact("Who helped {A}?", "{B} helped {A}.", "said {B}|{B} said"),
        ],
    },
    Plot {
        about: "a gift",
        objects: &[],
        is_owned: false,
        is_friend_known: true,
        steps: &[
            "[Today was {A}'s birthday.|It was {A}'s birthday.]",
            "{His} {r} came with a [big|small|round] box.",
            "\"[This is for you|Open it|Happy birthday],\" said {his} {r}.",
            "[In the box was a {c} {o}.|{A} opened the box and saw a {c} {o}.|Inside, {he} found a {c} {o}.]",
            "\"Thank you! [It is just what I wanted|It is so beautiful|I love it],\" said {A}.",
            "{He} [showed it to {B}|played with it all day|ran to show it to {B}].",
            "{A} was {m}.",
        ],
        facts: &[
            fact("What did {A} get?", "{A} got a {c} {o}.", "{c} {o}"),
            fact(
                "What colour was {A}'s {o}?",
                "{A}'s {o} was {c}.",
                "{c} {o}",
            ),
            fact(
                "Who gave {A} the {o}?",
                "{His} {r} gave {A} the {o}.",
                "{His} {r} came",
            ),
        ],
    },
    Plot {
        about: "the wind",
        objects: &[
            "kite", "hat", "scarf", "balloon", "cap", "umbrella", "flag", "ribbon", "mask",
        ],
        is_owned: true,
        is_friend_known: true,
        steps: &[
            "One windy day, {A} took the {o} to {p}.",
            "The wind was [strong|wild|loud]. [Whoosh! |]It blew the {o} [high into the air|out of {his} hand|away].",
            "[\"Oh no! My {o}!\" cried {A}.|\"Stop! Come back!\" called {A}.]",
            "{A} ran after it, but the wind was [too fast|faster].",
            "The {o} [landed|came down] {s}.",
            "{B} [picked it up|got there first] and [brought it back|gave it back to {A}].",
            "\"Thank you, {B},\" said {A}. {He} was {m}.",
        ],
        facts: &[
            fact(
                "Where did the {o} land?",
                "The {o} landed {s}.",
                "landed {s}|came down {s}",
            ),
            fact(
                "What did the wind blow away?",
                "The wind blew the {o} away.",
                "blew the {o}",
            ),
            fact(
                "Who brought the {o} back?",
                "{B} brought the {o} back.",
                "{B} picked it up|{B} got there first",
            ),
        ],
    },
    Plot {
        about: "sharing",
        objects: &[],
        is_owned: true,
        is_friend_known: true,
        steps: &[
            "One day, {B} came to play. \"[May I play with your {o}?|Can I have a turn with the {o}?]\" {bhe} asked.",
            "[\"No, it is mine,\" said {A}.|{A} held the {o} tight and said no.|At first, {A} did not want to share.]",
            "{B} was {u} and [sat down alone|went to the door|said nothing].",
            "{A} thought about it. [It was no fun to play alone.|{He} did not want {his} friend to be {u}.]",
            "\"[Here, you can have it first|Come, let us play together|I am sorry. You can use it],\" said {A}.",
            "They played [until the sun went down|all day|and laughed].",
            "{A} felt {m}.",
        ],
        facts: &[
            fact(
                "Who wanted to play with the {o}?",
                "{B} wanted to play with the {o}.",
                "{B} came to play",
            ),
            fact(
                "How did {B} feel when {A} did not share?",
                "{B} was {u}.",
                "{B} was {u}",
            ),
        ],
    },
    Plot {
        about: "a broken {o}",
        objects: &[
            "kite", "doll", "drum", "boat", "train", "car", "bike", "lamp", "robot", "truck",
            "plane", "wagon", "clock", "guitar", "puppet", "umbrella", "lantern",
        ],
        is_owned: true,
        is_friend_known: true,
        steps: &[
            "One day, {A} [dropped the {o}|fell over the {o}|left the {o} in the rain].",
            "[Now it was broken.|Crack! It broke.|After that, it did not work any more.]",
            "{A} was {u}. [\"What shall I do?\" {he} asked.|{He} began to cry.]",
            "{He} took it to {his} {r}. \"Can you [help me|mend it]?\"",
            "\"[Let me see|We can do that together|That is not hard],\" said {his} {r}. [They used glue and string.|They worked for an hour.|It took all afternoon.]",
            "[Soon|At last|In the end] the {o} was [as good as new|whole again|fine again].",
            "{A} was {m}.",
        ],
        facts: &[
            fact("What broke?", "{A}'s {o} broke.", "the {o}"),
            fact(
                "Who helped {A} to mend the {o}?",
                "{His} {r} helped {A}.",
                "to {his} {r}",
            ),
        ],
    },
    Plot {
        about: "a trade",
        objects: &[],
        is_owned: true,
        is_friend_known: true,
        steps: &[
            "{B} had a {d} {q}.",
            "One day, they met {inp}.",
            "\"[I like your {q}|What a nice {q}],\" said {A}.",
            "\"[And I like your {o}|Your {o} is nice too],\" said {B}. \"[Shall we trade?|Do you want to trade?]\"",
            "So {A} gave {B} the {o}, and {B} gave {A} the {q}.",
            "[Both of them laughed.|They played side by side.|It was a fair trade.] {A} was {m}.",
        ],
        facts: &[
            fact(
                "What colour was {B}'s {q}?",
                "{B}'s {q} was {d}.",
                "{d} {q}",
            ),
            fact("Where did they meet?", "They met {inp}.", "met {inp}"),
            fact(
                "What did {A} give {B}?",
                "{A} gave {B} the {o}.",
                "{A} gave {B} the {o}",
            ),
        ],
    },
    Plot {
        about: "something found {inp}",
        objects: &[],
        is_owned: false,
        is_friend_known: true,
        steps: &[
            "One day, {A} walked to {p}. [It was very quiet there.|The sun was high.|The birds sang.]",
            "{^s}, {he} [saw|found] a {c} {o}.",
            "\"[Whose is this?|Who has lost this?]\" {he} asked. But nobody was there.",
            "{A} [asked everybody in the village|went from door to door|asked all the people {he} met].",
            "At last {B} said, \"[That is mine!|Oh, my {o}! I have looked for it all day.]\"",
            "{A} gave the {o} back, and {B} gave {him} [some {f}|a {fruit}|a big hug].",
            "{A} felt {m}.",
        ],
        facts: &[
            fact("What did {A} find?", "{A} found a {c} {o}.", "{c} {o}"),
            fact("What colour was the {o}?", "The {o} was {c}.", "{c} {o}"),
            fact("Where was the {o}?", "The {o} was {s}.", "{^s}"),
            fact("Whose {o} was it?", "It was {B}'s {o}.", "{B} said"),
        ],
    },
    Plot {
        about: "the market",
        objects: &[
            "hat", "scarf", "bag", "basket", "cup", "bowl", "bell", "lamp", "coat", "flute",
            "drum", "doll", "mask", "umbrella", "mirror",
        ],
        is_owned: false,
        is_friend_known: true,
        steps: &[
            "{A} had {x} coins. [One day|One {w} day], {he} went to the market with {his} {r}.",
            "[There was so much to see.|The market was full of people.] One man sold {fruits}, another sold {f}.",
            "Then {A} saw a {c} {o}. \"[How much is it?|What does it cost?]\" {he} asked.",
            "\"{^x} coins,\" said the man. [That was all {A} had.|{A} thought for a while.]",
            "{He} [gave him the coins and took|bought] the {o}. \"It is for my friend {B},\" {he} said.",
            "[When {B} saw it, {bhe} jumped for joy.|{B} could not believe it.] {A} was {m}.",
        ],
        facts: &[
            fact(
                "How many coins did {A} have?",
                "{A} had {x} coins.",
                "{A} had {x} coins",
            ),
            fact("What did {A} buy?", "{A} bought a {c} {o}.", "{c} {o}"),
            fact("What colour was the {o}?", "The {o} was {c}.", "{c} {o}"),
            fact(
                "Who was the {o} for?",
                "The {o} was for {B}.",
                "for my friend {B}",
            ),
        ],
    },
    Plot {
        about: "a map",
        objects: &[
            "box", "bag", "rope", "lamp", "hat", "bucket", "spoon", "lantern", "coat",
        ],
        is_owned: true,
        is_friend_known: true,
        steps: &[
            "{A} found an old map in {his} {r}'s room. It [showed the way to {p}|had a big cross on it].",
            "\"[Maybe there is gold!|Let us look for it!]\" said {B}. {A} took {his} {o}, and they went to {p}.",
            "They [walked and walked|counted {x} steps from the gate]. [Then they began to dig.|\"Here it is,\" said {A}.]",
            "{^s}, there was an old [box|chest]. [They opened it slowly.|Their hearts beat fast.]",
            "There was no gold. There was a {d} {q} and a letter: \"[For the one who finds it.|You are clever!]\"",
            "{A} was {m}. [\"It is better than gold,\" {he} said.|They shared it.]",
        ],
        facts: &[
            fact(
                "What was in the old box?",
                "There was a {d} {q}.",
                "{d} {q}",
            ),
            fact("What colour was the {q}?", "The {q} was {d}.", "{d} {q}"),
            fact(
                "Where did {A} find the map?",
                "{A} found the map in {his} {r}'s room.",
                "old map in {his} {r}'s room",
            ),
        ],
    },
    Plot {
        about: "a stuck {o}",
        objects: &[
            "kite", "ball", "balloon", "plane", "hat", "cap", "scarf", "shoe", "flag",
        ],
        is_owned: true,
        is_friend_known: true,
        steps: &[
            "One day, {A} played with the {o} {inp}. [Up it went, and|{He} threw it too high, and] it got stuck in a tall tree.",
            "{A} jumped, but [the tree was too high|{he} was too small]. {He} was {u}.",
            "First {B} tried with a long stick. [It did not work.|The stick broke.]",
            "Then a {k_climb} came by. \"I can climb,\" it said, and [went up the tree|up it went].",
            "[Soon the {o} fell down.|It pushed the {o}, and the {o} fell down.]",
            "\"Thank you, {k_climb}!\" said {A}. {He} was {m}.",
        ],
        facts: &[
            fact(
                "Where did the {o} get stuck?",
                "The {o} got stuck in a tall tree.",
                "stuck in a tall tree",
            ),
            fact(
                "Who got the {o} down?",
                "A {k_climb} got the {o} down.",
                "a {k_climb} came by",
            ),
        ],
    },
];
