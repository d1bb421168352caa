//! What happens in a story. One row a plot: a plot is a list of steps, each a template whose choices
//! are alternative ways to tell it. Grammar of templates: [`super::cast`].

mod outside;
mod people;
mod things;

/// A story in templates.
pub(super) struct Plot {
    /// What it is about, as in "Tell me a story about ...".
    pub(super) about: &'static str,
    /// Objects that it makes sense with; none for any.
    pub(super) objects: &'static [&'static str],
    /// Whether the hero owns the object from the beginning.
    pub(super) is_owned: bool,
    /// Whether the friend is one already before anything happens.
    pub(super) is_friend_known: bool,
    /// What happens.
    pub(super) steps: &'static [&'static str],
    /// What can be asked afterwards.
    pub(super) facts: &'static [Fact],
}

/// A question about a story, and its answer.
pub(super) struct Fact {
    pub(super) question: &'static str,
    pub(super) answer: &'static str,
    /// Words of the sentence that tells it, alternatives divided by `|`. A story without any of them
    /// is not asked.
    pub(super) evidence: &'static str,
}

const fn fact(question: &'static str, answer: &'static str, evidence: &'static str) -> Fact {
    Fact {
        question,
        answer,
        evidence,
    }
}

/// What can be asked after any story.
pub(super) const COMMON: &[Fact] = &[
    fact(
        "How did {A} feel at the end?",
        "{A} felt {m}.",
        "{A} felt {m}|{A} was {m}|{He} felt {m}|{He} was {m}",
    ),
    fact(
        "Who was {A}'s friend?",
        "{A}'s friend was {B}.",
        "friend {B}|friend was {B}",
    ),
    fact("Where did {A} live?", "{A} lived {home}.", "lived {home}"),
    fact("What kind of day was it?", "It was a {w} day.", "a {w} day"),
    fact(
        "Where did {A} go?",
        "{A} went to {p}.",
        "{A} went to {p}|{A} walked to {p}|went to {p} with",
    ),
    fact(
        "Why was {A} {u}?",
        "{A} was {u} because the {o} was gone.",
        "{A} was {u} because the {o} was gone",
    ),
];

/// What can be asked if the hero has had the object from the beginning.
pub(super) const OWNED: &[Fact] = &[
    fact(
        "What colour was {A}'s {o}?",
        "{A}'s {o} was {c}.",
        "{c} {o}",
    ),
    fact("What did {A} have?", "{A} had a {c} {o}.", "{c} {o}"),
];

/// How a story begins, unless it begins with what happens. One that names the friend or the object
/// introduces them, too.
pub(super) const OPENINGS: &[&str] = &[
    "Once upon a time[,|] there was a [little|young|kind|small|clever|brave|shy] {kind} named {A}.",
    "Once upon a time[,|] there was a {kind} [named|called] {A} who lived {home}.",
    "{A} was a [little|kind|happy|clever|brave|quiet|friendly] {kind} who lived {home}.",
    "There was once a [little|kind|happy|clever|curious] {kind} [named|called] {A}.",
    "A [little|young|small|cheerful] {kind} named {A} lived {home}.",
    "{A} was a {kind}. {He} lived {home}.",
    "Long ago, there was a [little|young|kind] {kind} named {A}.",
    "{^home}, there lived a [little|young|kind|cheerful] {kind} [named|called] {A}.",
    "This is a story about {A}, a [little|clever|brave|kind] {kind}.",
    "Once there lived a [little|friendly|shy] {kind} {home}. {His} name was {A}.",
    "A [|little |young |small |brave ]{kind} lived {home}. {His} name was {A}.",
    "There was a [little|young|kind|clever] {kind} who lived {home}. {His} name was {A}.",
    "{A} and {his} [|best |good ]friend {B} lived {home}. {A} was a [little|clever|brave|kind] {kind}.",
    "Once upon a time, a {kind} named {A} [had a friend called {B}|lived {home} with {his} friend {B}].",
    "{A} had a {c} {o}. {He} was a [little|happy|quiet|brave] {kind} who lived {home}.",
    "A [little|small|young] {kind} named {A} had a {c} {o}.",
];

/// The hero, where a story begins with what happens.
pub(super) const INTRODUCTIONS: &[&str] = &[
    "a [little|young|kind|small] {kind} named {A}",
    "a {kind} [named|called] {A}",
    "a [clever|brave|cheerful] {kind} called {A}",
];

/// Who the hero's friend is.
pub(super) const FRIENDS: &[&str] = &[
    "{His} [best|good] friend was {B}.",
    "{A} liked to play with {his} friend {B}.",
    "{A} had a friend named {B}.",
    "{His} friend {B} lived next door.",
    "Every day, {he} played with {his} friend {B}.",
];

/// That the hero owns the object.
pub(super) const OWNING: &[&str] = &[
    "{A} had a {c} {o}.",
    "{He} had a [|new |small |lovely ]{c} {o}.",
    "{A} had a {c} {o}, and {he} [loved it very much|took it everywhere|was very proud of it].",
    "{His} [favourite thing|dearest thing] was a {c} {o}.",
    "For {his} birthday, {he} had got a {c} {o}.",
    "{A}'s {o} was {c}.",
];

/// How a story ends, or not.
pub(super) const CLOSINGS: &[&str] = &[
    "",
    "",
    "That night, {A} slept very well.",
    "It was a good day.",
    "{A} never forgot that day.",
    "From that day on, {A} and {B} were the best of friends.",
    "In the evening, {A} told everybody at home all about it.",
    "The end.",
    "{A} smiled and smiled.",
    "And {A} went to bed with a smile.",
];

/// All plots.
const PLOTS: &[&[Plot]] = &[things::PLOTS, outside::PLOTS, people::PLOTS];

/// All plots, one by one.
pub(super) fn all() -> impl Iterator<Item = &'static Plot> {
    PLOTS.iter().copied().flatten()
}
