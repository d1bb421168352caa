//! Who and what a text is about, and templates that are filled with it.
//!
//! A template is text with slots, `{A} had a {c} {o}.`, and choices, `[once|one day]`, which may
//! nest. `{^s}` begins with a capital. "a" becomes "an" where the next word wants it.

use super::dice::Dice;
use super::names::{BOYS, GIRLS, PETS};
use super::places::{HOMES, PLACES, SPOTS};
use super::words::{
    ANIMALS, COLOURS, COUNTED, DAYS, FOODS, GLAD, OBJECTS, RELATIVES, SAD, SMALL_ANIMALS,
};

/// A child, or an animal with a name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Person {
    pub(super) name: &'static str,
    /// "girl", "boy", or the animal.
    pub(super) kind: &'static str,
    is_she: bool,
}

impl Person {
    fn pronouns(self) -> [&'static str; 5] {
        if self.is_she {
            ["she", "her", "her", "She", "Her"]
        } else {
            ["he", "him", "his", "He", "His"]
        }
    }
}

/// What the slots of a template stand for.
#[derive(Clone, Debug)]
pub(super) struct Cast {
    pub(super) hero: Person,
    pub(super) friend: Person,
    pub(super) is_animal: bool,
    pub(super) object: &'static str,
    pub(super) colour: &'static str,
    pub(super) other_object: &'static str,
    pub(super) other_colour: &'static str,
    pet: &'static str,
    pet_name: &'static str,
    food: &'static str,
    other_food: &'static str,
    fruit: (&'static str, &'static str),
    place: (&'static str, &'static str),
    other_place: (&'static str, &'static str),
    home: &'static str,
    spot: &'static str,
    relative: (&'static str, &'static str),
    glad: &'static str,
    sad: &'static str,
    day: &'static str,
    number: &'static str,
    hot: &'static str,
    kin: &'static str,
    big: &'static str,
    job: &'static str,
    climber: &'static str,
    hiding_place: &'static str,
}

const JOBS: &[&str] = &[
    "farmer", "baker", "doctor", "teacher", "sailor", "painter", "singer", "cook", "driver",
];
const BIG: &[&str] = &[
    "bear", "lion", "tiger", "wolf", "elephant", "horse", "dragon", "dog", "cow",
];
const CLIMBERS: &[&str] = &["monkey", "squirrel", "cat", "bear", "mouse"];
const HIDING_PLACES: &[&str] = &[
    "behind a rock",
    "behind the wall",
    "in the tall grass",
    "under a pile of leaves",
    "in a hole",
    "behind a big tree",
    "under a table",
];
const HOT: &[&str] = &["soup", "milk", "tea", "porridge"];
const KIN: &[&str] = &["grandmother", "grandfather", "aunt", "uncle"];
const NUMBERS: &[&str] = &[
    "two", "three", "four", "five", "six", "seven", "eight", "ten",
];

impl Cast {
    /// A cast by chance. The object is one of `objects`, or any if there are none.
    pub(super) fn new(dice: &mut Dice, objects: &[&'static str]) -> Self {
        let is_animal = dice.percent(25);
        let person = |dice: &mut Dice, kind: Option<&'static str>| {
            let is_she = dice.percent(50);
            let (names, child) = if is_she {
                (GIRLS, "girl")
            } else {
                (BOYS, "boy")
            };
            Person {
                name: dice.pick(names),
                kind: kind.unwrap_or(child),
                is_she,
            }
        };
        let kinds = dice.sample(ANIMALS, 2);
        let hero = person(dice, is_animal.then_some(kinds[0]));
        let mut friend = person(dice, is_animal.then_some(kinds[1]));
        while friend.name == hero.name {
            friend = person(dice, is_animal.then_some(kinds[1]));
        }
        let object = dice.pick(if objects.is_empty() { OBJECTS } else { objects });
        let colours = dice.sample(COLOURS, 2);
        let other_object = different(dice, OBJECTS, object, object);
        let foods = dice.sample(FOODS, 2);
        let places = dice.sample(PLACES, 2);
        let pet = different(dice, SMALL_ANIMALS, hero.kind, friend.kind);
        let pet_name = different(dice, PETS, hero.name, friend.name);
        Self {
            hero,
            friend,
            is_animal,
            object,
            colour: colours[0],
            other_object,
            other_colour: colours[1],
            pet,
            pet_name,
            food: foods[0],
            other_food: foods[1],
            fruit: dice.pick(&COUNTED[..12]),
            place: places[0],
            other_place: places[1],
            home: dice.pick(HOMES),
            spot: dice.pick(SPOTS),
            relative: dice.pick(RELATIVES),
            glad: dice.pick(GLAD),
            sad: dice.pick(SAD),
            day: dice.pick(DAYS),
            number: dice.pick(NUMBERS),
            hot: dice.pick(HOT),
            kin: dice.pick(KIN),
            job: dice.pick(JOBS),
            big: different(dice, BIG, hero.kind, friend.kind),
            hiding_place: dice.pick(HIDING_PLACES),
            climber: different(dice, CLIMBERS, hero.kind, friend.kind),
        }
    }

    /// The meaning of every slot. A template that names another one is our own mistake.
    fn slot(&self, name: &str) -> &'static str {
        let [he, him, his, he_capital, his_capital] = self.hero.pronouns();
        let [bhe, bhim, bhis, bhe_capital, bhis_capital] = self.friend.pronouns();
        match name {
            "A" => self.hero.name,
            "he" => he,
            "him" => him,
            "his" => his,
            "He" => he_capital,
            "His" => his_capital,
            "kind" => self.hero.kind,
            "B" => self.friend.name,
            "bhe" => bhe,
            "bhim" => bhim,
            "bhis" => bhis,
            "bHe" => bhe_capital,
            "bHis" => bhis_capital,
            "bkind" => self.friend.kind,
            "o" => self.object,
            "c" => self.colour,
            "q" => self.other_object,
            "d" => self.other_colour,
            "k" => self.pet,
            "n" => self.pet_name,
            "f" => self.food,
            "g" => self.other_food,
            "fruit" => self.fruit.0,
            "fruits" => self.fruit.1,
            "p" => self.place.0,
            "inp" => self.place.1,
            "p2" => self.other_place.0,
            "inp2" => self.other_place.1,
            "home" => self.home,
            "s" => self.spot,
            "r" => self.relative.0,
            "rhe" => self.relative.1,
            "m" => self.glad,
            "u" => self.sad,
            "w" => self.day,
            "x" => self.number,
            "hot" => self.hot,
            "kin" => self.kin,
            "job" => self.job,
            "k_big" => self.big,
            "hide" => self.hiding_place,
            "k_climb" => self.climber,
            _ => panic!("template has the unknown slot {name:?}"),
        }
    }

    /// The template with its slots filled and its choices made.
    pub(super) fn fill(&self, template: &str, dice: &mut Dice) -> String {
        let mut text = String::new();
        self.expand(template, dice, &mut text);
        text
    }

    fn expand(&self, template: &str, dice: &mut Dice, text: &mut String) {
        let mut rest = template;
        while let Some(at) = rest.find(['{', '[']) {
            text.push_str(&rest[..at]);
            if rest.as_bytes()[at] == b'{' {
                let end = at + rest[at..].find('}').expect("every slot is closed");
                match rest[at + 1..end].strip_prefix('^') {
                    Some(name) => push_capital(text, self.slot(name)),
                    None => push_word(text, self.slot(&rest[at + 1..end])),
                }
                rest = &rest[end + 1..];
            } else {
                let (choices, length) = choices(&rest[at..]);
                let chosen = choices[dice.below(choices.len())];
                self.expand(chosen, dice, text);
                rest = &rest[at + length..];
            }
        }
        text.push_str(rest);
    }
}

/// One of these that is neither of two.
fn different(dice: &mut Dice, of: &[&'static str], one: &str, two: &str) -> &'static str {
    loop {
        let word = dice.pick(of);
        if word != one && word != two {
            return word;
        }
    }
}

/// The choices of a bracket at the beginning of a text, and the length of it all.
fn choices(text: &str) -> (Vec<&str>, usize) {
    let mut depth = 0;
    let mut start = 1;
    let mut found = Vec::new();
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'[' => depth += 1,
            b'|' if depth == 1 => {
                found.push(&text[start..at]);
                start = at + 1;
            }
            b']' => {
                depth -= 1;
                if depth == 0 {
                    found.push(&text[start..at]);
                    return (found, at + 1);
                }
            }
            _ => {}
        }
    }
    panic!("template has an open bracket: {text:?}")
}

/// Adds a word after "a" or "an", whichever it needs.
fn push_word(text: &mut String, word: &str) {
    let before = text.strip_suffix("a ").or_else(|| text.strip_suffix("A "));
    let follows_article = before.is_some_and(|before| !before.ends_with(char::is_alphanumeric));
    if follows_article && article(word) == "an" {
        text.pop();
        text.push_str("n ");
    }
    text.push_str(word);
}

/// Adds a word that begins a sentence.
fn push_capital(text: &mut String, word: &str) {
    let (first, rest) = word.split_at(1);
    text.push_str(&first.to_ascii_uppercase());
    text.push_str(rest);
}

/// "a" or "an", as the word wants it. None of our words begins with a silent letter.
pub(super) fn article(word: &str) -> &'static str {
    if word.starts_with(['a', 'e', 'i', 'o', 'u']) {
        "an"
    } else {
        "a"
    }
}

/// The sentences of a text, each with its quotation marks.
pub(super) fn sentences(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut start = 0;
    let bytes = text.as_bytes();
    let mut is_quoted = false;
    for at in 0..bytes.len() {
        if bytes[at] == b'"' {
            is_quoted = !is_quoted;
        }
        let ends = matches!(bytes[at], b'.' | b'!' | b'?')
            || bytes[at] == b'"' && at > 0 && matches!(bytes[at - 1], b'.' | b'!' | b'?');
        let next = bytes.get(at + 1);
        if ends && !is_quoted && (next.is_none() || matches!(next, Some(b' ' | b'\n'))) {
            found.push(text[start..=at].trim());
            start = at + 1;
        }
    }
    if !text[start..].trim().is_empty() {
        found.push(text[start..].trim());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_and_nested_choices_are_filled() {
        let mut dice = Dice::new(&[b"slots"]);
        let mut cast = Cast::new(&mut dice, &[]);
        cast.colour = "orange";
        cast.object = "kite";
        for _ in 0..20 {
            let text = cast.fill("[A|It was a] {c} [{o}|[{o}|{o}]]{o}[|.]", &mut dice);
            let text = text.trim_end_matches('.');
            assert!(
                text == "An orange kitekite" || text == "It was an orange kitekite",
                "{text}"
            );
        }
        assert_eq!(cast.fill("", &mut dice), "");
    }

    #[test]
    fn nobody_meets_a_namesake() {
        for n in 0..500u32 {
            let cast = Cast::new(&mut Dice::new(&[&n.to_le_bytes()]), &["kite"]);
            assert_ne!(cast.hero.name, cast.friend.name);
            assert_ne!(cast.hero.name, cast.pet_name);
            assert_ne!(cast.object, cast.other_object);
            assert_ne!(cast.colour, cast.other_colour);
            assert_eq!(cast.object, "kite");
        }
    }

    #[test]
    fn sentences_keep_what_is_said() {
        assert_eq!(
            sentences("It rained. \"Come in! Sit down,\" said Tom. \"No.\" Why?\nYes"),
            [
                "It rained.",
                "\"Come in! Sit down,\" said Tom.",
                "\"No.\"",
                "Why?",
                "Yes"
            ]
        );
        assert!(sentences(" ").is_empty());
    }
}
