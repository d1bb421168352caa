//! Facts with unique keys, for [`super::recall`] and for conversations about a pasted text.

use std::collections::BTreeSet;

use super::cast::article;
use super::dice::Dice;
use super::names::{BOYS, GIRLS};
use super::words::{COLOURS, OBJECTS, VALUES};

/// What a fact says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// The blue key is 4821.
    Number,
    /// The blue key is tiger.
    Word,
    /// Mia's kite was red.
    Owner,
}

impl Form {
    pub(super) const ALL: [Self; 3] = [Self::Number, Self::Word, Self::Owner];
}

/// One fact, in pieces that begin with a space.
pub(super) struct Fact {
    pub(super) form: Form,
    /// Colour and object, or name and object.
    key: (&'static str, &'static str),
    /// The value stands before the object: Mia had a red kite.
    tells_by_having: bool,
    pub(super) before_value: String,
    pub(super) value: String,
    pub(super) after_value: String,
    pub(super) question: String,
    /// What the answer says before the value.
    pub(super) prefix: String,
}

impl Fact {
    /// What is asked for; of a colour also how it was told, since "Mia had a red kite" has to be
    /// found by words on both sides of it.
    pub(super) fn asks_for(&self) -> &'static str {
        match (self.form, self.tells_by_having) {
            (Form::Number, _) => "number",
            (Form::Word, _) => "word",
            (Form::Owner, false) => "colour, told as \"Mia's kite was red\"",
            (Form::Owner, true) => "colour, told as \"Mia had a red kite\"",
        }
    }

    /// The fact as a sentence, a space before it.
    pub(super) fn sentence(&self) -> String {
        format!("{}{}{}", self.before_value, self.value, self.after_value)
    }
}

/// The facts of one document, and the words they are made of.
pub(super) struct World {
    colours: Vec<&'static str>,
    objects: Vec<&'static str>,
    names: Vec<&'static str>,
    words: Vec<&'static str>,
    taken: BTreeSet<(&'static str, &'static str)>,
    /// How many of a hundred facts about owners tell the value before its key, "Mia had a red kite".
    pub(super) percent_having: usize,
    numbers: BTreeSet<usize>,
}

impl World {
    /// A world for so many tokens: a longer document has more of everything, so that a part of a
    /// key is about as ambiguous in any.
    pub(super) fn new(dice: &mut Dice, length: usize) -> Self {
        let names: Vec<&str> = GIRLS.iter().chain(BOYS).copied().collect();
        Self {
            colours: dice.sample(COLOURS, 3 + (length / 150).min(9)),
            objects: dice.sample(OBJECTS, 3 + (length / 150).min(11)),
            names: dice.sample(&names, 3 + (length / 250).min(7)),
            words: dice.sample(VALUES, VALUES.len()),
            taken: BTreeSet::new(),
            percent_having: 50,
            numbers: BTreeSet::new(),
        }
    }

    /// A fact whose key is not taken yet; `None` if all are.
    pub(super) fn fact(&mut self, dice: &mut Dice, form: Form) -> Option<Fact> {
        let firsts = if form == Form::Owner {
            &self.names
        } else {
            &self.colours
        };
        let free: Vec<_> = firsts
            .iter()
            .flat_map(|&first| self.objects.iter().map(move |&object| (first, object)))
            .filter(|key| !self.taken.contains(key))
            .collect();
        if free.is_empty() {
            return None;
        }
        let key = dice.pick(&free);
        self.make(dice, form, key)
    }

    /// A fact that shares the first or the second half of its key with another.
    pub(super) fn distractor(
        &mut self,
        dice: &mut Dice,
        of: &Fact,
        shares_first: bool,
    ) -> Option<Fact> {
        let (first, object) = of.key;
        let firsts = if of.form == Form::Owner {
            &self.names
        } else {
            &self.colours
        };
        let keys: Vec<_> = if shares_first {
            self.objects.iter().map(|&other| (first, other)).collect()
        } else {
            firsts.iter().map(|&other| (other, object)).collect()
        };
        let free: Vec<_> = keys
            .into_iter()
            .filter(|key| !self.taken.contains(key))
            .collect();
        if free.is_empty() {
            return None;
        }
        let key = dice.pick(&free);
        self.make(dice, of.form, key)
    }

    /// Facts about so many owners and so many objects, each owner having most of them, in any order.
    /// Keys that are taken are left out.
    pub(super) fn grid(&mut self, dice: &mut Dice, n_owners: usize, n_objects: usize) -> Vec<Fact> {
        let owners = dice.sample(&self.names, n_owners);
        let objects = dice.sample(&self.objects, n_objects);
        let keys: Vec<_> = owners
            .iter()
            .flat_map(|&owner| objects.iter().map(move |&object| (owner, object)))
            .collect();
        let keys = dice.sample(&keys, keys.len());
        let mut facts = Vec::new();
        for key in keys {
            if !self.taken.contains(&key) && dice.percent(90) {
                facts.extend(self.make(dice, Form::Owner, key));
            }
        }
        facts
    }

    fn make(
        &mut self,
        dice: &mut Dice,
        form: Form,
        key: (&'static str, &'static str),
    ) -> Option<Fact> {
        let (first, object) = key;
        let value = match form {
            Form::Number => {
                let mut number = dice.between(1000, 9999);
                while !self.numbers.insert(number) {
                    number = dice.between(1000, 9999);
                }
                number.to_string()
            }
            Form::Word => self.words.pop()?.to_owned(),
            Form::Owner => (dice.pick(COLOURS)).to_owned(),
        };
        self.taken.insert(key);
        let prefix = match form {
            Form::Owner => format!(" {first}'s {object} was"),
            Form::Number | Form::Word => format!(" The {first} {object} is"),
        };
        let question = match form {
            Form::Owner => format!(" What colour was {first}'s {object}?"),
            Form::Number | Form::Word => format!(" What is the {first} {object}?"),
        };
        let tells_by_having = form == Form::Owner && dice.percent(self.percent_having);
        let (before_value, after_value) = if tells_by_having {
            (
                format!(" {first} had {}", article(&value)),
                format!(" {object}."),
            )
        } else {
            (prefix.clone(), ".".to_owned())
        };
        Some(Fact {
            form,
            key,
            tells_by_having,
            before_value,
            value: format!(" {value}"),
            after_value,
            question,
            prefix,
        })
    }
}
