//! Facts and, far behind them, questions about them: what sparse attention is for.
//!
//! A document is made to a length in tokens. Facts have keys that are unique in it, but share a
//! colour, an object or a name with others, so that the whole key has to be matched. An answer
//! repeats the words of its fact, so that copying what followed them before is enough.

use std::ops::{Range, RangeInclusive};

use super::cast::Cast;
use super::dice::Dice;
use super::facts::{Fact, Form, World};
use super::filler::FILLERS;
use super::probe::Probe;
use crate::{Error, Result};

/// Makes tokens of text; of text that begins with a space or follows BOS, so that pieces can be
/// encoded one by one.
pub(super) type Encode<'a> = &'a dyn Fn(&str) -> Result<Vec<u32>>;

/// Fewest tokens between a question and the value it asks for.
const NEAREST: usize = 16;

/// A fact within the document.
struct Told {
    /// The question, and what its answer says before the value.
    question: String,
    value: String,
    /// Where its value begins.
    position: usize,
    is_asked: bool,
}

/// A document while it grows.
struct Page<'a> {
    dice: &'a mut Dice,
    encode: Encode<'a>,
    world: World,
    ids: Vec<u32>,
    told: Vec<Told>,
    /// Where the values of answers are, with the full stop: what ends a value is a part of copying it.
    answered: Vec<Range<usize>>,
}

impl<'a> Page<'a> {
    fn new(dice: &'a mut Dice, encode: Encode<'a>, length: usize) -> Self {
        Self {
            world: World::new(dice, length),
            dice,
            encode,
            ids: Vec::new(),
            told: Vec::new(),
            answered: Vec::new(),
        }
    }

    fn push(&mut self, text: &str) -> Result<()> {
        let ids = (self.encode)(if self.ids.is_empty() {
            text.trim_start()
        } else {
            text
        })?;
        self.ids.extend(ids);
        Ok(())
    }

    fn tell(&mut self, fact: &Fact) -> Result<()> {
        self.push(&fact.before_value)?;
        let position = self.ids.len();
        self.push(&fact.value)?;
        self.push(&fact.after_value)?;
        self.told.push(Told {
            question: format!("{}{}", fact.question, fact.prefix),
            value: fact.value.clone(),
            position,
            is_asked: false,
        });
        Ok(())
    }

    /// A fact, in so many percent of cases and if there is one, else a filler. Some ten tokens.
    fn go_on(&mut self, percent_facts: usize, forms: &[Form]) -> Result<()> {
        if self.dice.percent(percent_facts) && !self.ids.is_empty() {
            let form = self.dice.pick(forms);
            if let Some(fact) = self.world.fact(self.dice, form) {
                return self.tell(&fact);
            }
        }
        let filler = filler(self.dice);
        self.push(&filler)
    }

    /// The fact whose distance is nearest to a distance drawn, in turn of a coin, uniformly or
    /// log-uniformly: the one alone would ask little for near facts, the other for far ones. Facts that
    /// were not asked yet go first: the answer to an earlier question would be a nearer source.
    /// Without `repeats` there are no others. `None` if all facts are too near.
    fn choose(&mut self, repeats: bool) -> Option<usize> {
        let here = self.ids.len();
        let farthest = here - self.told.first()?.position;
        if farthest < NEAREST {
            return None;
        }
        let wanted = if self.dice.percent(50) {
            self.dice.between(NEAREST, farthest)
        } else {
            self.dice.log_between(NEAREST, farthest)
        };
        let ratio = |told: &Told| {
            let distance = here - told.position;
            1000 * distance.max(wanted) / distance.min(wanted).max(1)
        };
        let nearest = |told: &[Told], is_new: bool| {
            let indices = (0..told.len()).filter(|&i| !is_new || !told[i].is_asked);
            indices.min_by_key(|&i| ratio(&told[i]))
        };
        let new = nearest(&self.told, true);
        if !repeats {
            return new.filter(|&i| here - self.told[i].position >= NEAREST);
        }
        match new.filter(|&i| ratio(&self.told[i]) < 1700) {
            Some(index) if self.dice.percent(85) => Some(index),
            _ => nearest(&self.told, false),
        }
    }

    fn ask(&mut self, index: usize) -> Result<()> {
        let told = &mut self.told[index];
        told.is_asked = true;
        let (question, value) = (told.question.clone(), told.value.clone());
        self.push(&question)?;
        let value_at = self.ids.len();
        self.push(&value)?;
        self.push(".")?;
        self.answered.push(value_at..self.ids.len());
        Ok(())
    }

    /// Asks for each fact from number `first` on, in any order.
    fn ask_from(&mut self, first: usize) -> Result<()> {
        let new: Vec<usize> = (first..self.told.len()).collect();
        for index in self.dice.sample(&new, new.len()) {
            self.ask(index)?;
        }
        Ok(())
    }

    /// What comes next: a question if it is time, else a fact or a filler.
    fn step(&mut self, next_question: &mut usize) -> Result<()> {
        if self.ids.len() >= *next_question
            && let Some(index) = self.choose(true)
        {
            self.ask(index)?;
            *next_question = self.ids.len() + self.dice.between(10, 36);
            return Ok(());
        }
        // More facts in the beginning: otherwise few questions could reach far back.
        let percent_facts = if self.told.len() < 6 { 70 } else { 45 };
        self.go_on(percent_facts, &Form::ALL)
    }

    /// The tokens, and which of them are values that were asked for, full stops included.
    fn with_values(self) -> (Vec<u32>, Vec<bool>) {
        let mut is_value = vec![false; self.ids.len()];
        for value in self.answered {
            is_value[value].fill(true);
        }
        (self.ids, is_value)
    }

    /// Grows to a length of exactly `end` if fillers can be found that do, else by a few tokens less.
    fn fill(&mut self, end: usize) -> Result<()> {
        let mut next_question = 40;
        while self.ids.len() + 40 < end {
            self.step(&mut next_question)?;
        }
        loop {
            let room = end.saturating_sub(self.ids.len());
            let mut best: Option<(usize, String)> = None;
            for _ in 0..60 {
                let text = filler(self.dice);
                let n = (self.encode)(if self.ids.is_empty() {
                    text.trim_start()
                } else {
                    &text
                })?
                .len();
                // What is left has to be nothing, or enough for another filler.
                let left = room
                    .checked_sub(n)
                    .map(|left| if left >= 7 { 0 } else { left });
                if let Some(left) = left
                    && best.as_ref().is_none_or(|(least, _)| left < *least)
                {
                    best = Some((left, text));
                }
            }
            let Some((_, text)) = best else {
                return Ok(());
            };
            self.push(&text)?;
        }
    }
}

fn filler(dice: &mut Dice) -> String {
    let template = dice.pick(FILLERS);
    // A cast costs more than a sentence: only what fillers need is drawn with it.
    format!(" {}", Cast::new(dice, &[]).fill(template, dice))
}

/// A document of at least `length` tokens, questions about the facts among them.
pub(super) fn document(dice: &mut Dice, encode: Encode<'_>, length: usize) -> Result<Vec<u32>> {
    let mut page = Page::new(dice, encode, length);
    let mut next_question = page.dice.between(24, 48);
    while page.ids.len() < length {
        page.step(&mut next_question)?;
    }
    Ok(page.ids)
}

/// Owners take longest to learn: "Mia had a red kite" tells the value before the key.
const HARDEST_OFTEN: [Form; 8] = [
    Form::Number,
    Form::Word,
    Form::Owner,
    Form::Owner,
    Form::Owner,
    Form::Owner,
    Form::Owner,
    Form::Owner,
];

/// A document of at least `length` tokens, and which of them are values that were asked for: facts,
/// then mostly questions, each about another fact. Where only values are targets, finding them is all
/// there is to learn, and each sequence asks several times as often as [`document`].
pub(super) fn drill(
    dice: &mut Dice,
    encode: Encode<'_>,
    length: usize,
) -> Result<(Vec<u32>, Vec<bool>)> {
    let mut page = Page::new(dice, encode, length);
    page.world.percent_having = 75;
    let first_question = page.dice.between(length / 4, length * 3 / 5);
    while page.ids.len() < length {
        if page.ids.len() >= first_question
            && page.dice.percent(80)
            && let Some(index) = page.choose(false)
        {
            page.ask(index)?;
        } else {
            page.go_on(75, &HARDEST_OFTEN)?;
        }
    }
    Ok(page.with_values())
}

/// The same with few facts at a time, all about owners, and the questions right behind them: what
/// [`drill`] asks from afar is learnt here first.
pub(super) fn near_drill(
    dice: &mut Dice,
    encode: Encode<'_>,
    length: usize,
) -> Result<(Vec<u32>, Vec<bool>)> {
    let mut page = Page::new(dice, encode, length);
    while page.ids.len() < length {
        let first = page.told.len();
        for _ in 0..page.dice.between(2, 7) {
            page.go_on(85, &[Form::Owner])?;
        }
        page.ask_from(first)?;
    }
    Ok(page.with_values())
}

/// The same where one owner at a time has a few things: only what it is tells which it is. Without
/// this a model stops at "Mia had a", behind which the value stands before the object is named.
pub(super) fn object_drill(
    dice: &mut Dice,
    encode: Encode<'_>,
    length: usize,
) -> Result<(Vec<u32>, Vec<bool>)> {
    grids(dice, encode, length, 1..=1, 3..=4)
}

/// The same where a few owners have a few things each, the same ones in other colours: neither whose
/// it is nor what it is tells which it is. Without this a model that looks for the object takes the
/// kite that was named last.
pub(super) fn owner_drill(
    dice: &mut Dice,
    encode: Encode<'_>,
    length: usize,
) -> Result<(Vec<u32>, Vec<bool>)> {
    grids(dice, encode, length, 2..=3, 2..=3)
}

fn grids(
    dice: &mut Dice,
    encode: Encode<'_>,
    length: usize,
    n_owners: RangeInclusive<usize>,
    n_objects: RangeInclusive<usize>,
) -> Result<(Vec<u32>, Vec<bool>)> {
    let mut page = Page::new(dice, encode, length);
    page.world.percent_having = 80;
    while page.ids.len() < length {
        let opening = filler(page.dice);
        page.push(&opening)?;
        let first = page.told.len();
        let [n_owners, n_objects] =
            [&n_owners, &n_objects].map(|range| page.dice.between(*range.start(), *range.end()));
        for fact in page.world.grid(page.dice, n_owners, n_objects) {
            if page.dice.percent(15) {
                let between = filler(page.dice);
                page.push(&between)?;
            }
            page.tell(&fact)?;
        }
        page.ask_from(first)?;
    }
    Ok(page.with_values())
}

/// A few facts and a question about each, nothing between: what copying is learnt from, before
/// distance makes it hard.
pub(super) fn quiz(dice: &mut Dice) -> String {
    let mut world = World::new(dice, 150);
    let n_facts = dice.between(2, 6);
    let facts: Vec<Fact> = (0..n_facts)
        .filter_map(|_| {
            let form = dice.pick(&Form::ALL);
            world.fact(dice, form)
        })
        .collect();
    let mut text: String = facts.iter().map(Fact::sentence).collect();
    for index in dice.sample(&(0..facts.len()).collect::<Vec<_>>(), facts.len()) {
        let Fact {
            question,
            prefix,
            value,
            ..
        } = &facts[index];
        text += &format!("{question}{prefix}{value}.");
    }
    text.trim_start().to_owned()
}

/// A held-out question, whose prompt lacks BOS.
pub(super) fn probe(
    dice: &mut Dice,
    encode: Encode<'_>,
    form: Form,
    distance: usize,
    context: usize,
) -> Result<Probe> {
    let mut page = Page::new(dice, encode, context);
    let fact = page
        .world
        .fact(page.dice, form)
        .expect("a new world has free keys");
    let tail = encode(&format!("{}{}", fact.question, fact.prefix))?;
    let answer = encode(&fact.value)?;
    let head = encode(&fact.before_value)?.len();
    let after = encode(&fact.after_value)?.len();

    let least = tail.len() + answer.len() + after;
    if distance < least {
        return Err(Error::Setting {
            name: "distance".into(),
            found: distance.to_string(),
            expected: format!("at least {least}, the tokens of value and question"),
        });
    }
    // A sentence goes first: a document never begins with a fact, and a distractor may need room.
    let least_context = distance + head + 24;
    if context < least_context {
        return Err(Error::Setting {
            name: "context".into(),
            found: context.to_string(),
            expected: format!("at least {least_context} for a distance of {distance}"),
        });
    }
    let fact_at = context - distance - head;
    // The key's halves each occur in another fact, before it or after it.
    let distractors = [true, false].map(|first| page.world.distractor(page.dice, &fact, first));
    let fits_before = fact_at >= 70;
    let fits_after = distance >= least + 40;
    let opening = filler(page.dice);
    page.push(&opening)?;
    let mut later = Vec::new();
    for distractor in distractors.into_iter().flatten() {
        match (fits_before, fits_after) {
            (true, true) if page.dice.percent(50) => later.push(distractor),
            (false, true) => later.push(distractor),
            (true, _) => page.tell(&distractor)?,
            (false, false) => {}
        }
    }
    page.fill(fact_at)?;
    page.tell(&fact)?;
    // It is asked at the end only.
    page.told.pop();
    let value_at = page.ids.len() - after - answer.len();
    for distractor in later {
        page.tell(&distractor)?;
    }
    page.fill(value_at + distance - tail.len())?;
    page.ids.extend(tail);
    Ok(Probe {
        distance: page.ids.len() - value_at,
        prompt: page.ids,
        answer,
        asks_for: fact.asks_for(),
    })
}
