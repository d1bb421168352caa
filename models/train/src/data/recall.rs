//! Facts and, far behind them, questions about them: what sparse attention is for.
//!
//! A document is made to a length in tokens. Facts have keys that are unique in it, but share a
//! colour, an object or a name with others, so that the whole key has to be matched. An answer
//! repeats the words of its fact, so that copying what followed them before is enough.

use super::cast::Cast;
use super::dice::Dice;
use super::facts::{Fact, Form, World};
use super::filler::FILLERS;
use crate::{Error, Result};

/// Makes tokens of text; of text that begins with a space or follows BOS, so that pieces can be
/// encoded one by one.
pub(super) type Encode<'a> = &'a dyn Fn(&str) -> Result<Vec<u32>>;

/// Fewest tokens between a question and the value it asks for.
const NEAREST: usize = 16;

/// A fact within the document.
struct Told {
    question: String,
    answer: String,
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
    next_question: usize,
}

impl Page<'_> {
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
            question: fact.question.clone(),
            answer: format!("{}{}.", fact.prefix, fact.value),
            position,
            is_asked: false,
        });
        Ok(())
    }

    /// What comes next: a question if it is time, else a fact or a filler. Text of some ten tokens.
    fn step(&mut self) -> Result<()> {
        if self.ids.len() >= self.next_question && self.can_ask() {
            self.ask()?;
            self.next_question = self.ids.len() + self.dice.between(10, 36);
            return Ok(());
        }
        // More facts in the beginning: otherwise few questions could reach far back.
        let percent = if self.told.len() < 6 { 70 } else { 45 };
        if self.dice.percent(percent) && !self.ids.is_empty() {
            let form = self.dice.pick(&Form::ALL);
            if let Some(fact) = self.world.fact(self.dice, form) {
                return self.tell(&fact);
            }
        }
        let filler = filler(self.dice);
        self.push(&filler)
    }

    fn can_ask(&self) -> bool {
        self.told
            .first()
            .is_some_and(|told| self.ids.len() - told.position >= NEAREST)
    }

    /// Asks for the fact whose distance is nearest to a distance drawn log-uniformly. Facts that were
    /// not asked yet go first: the answer to an earlier question would be a nearer source.
    fn ask(&mut self) -> Result<()> {
        let here = self.ids.len();
        let farthest = here - self.told[0].position;
        let wanted = self.dice.log_between(NEAREST, farthest);
        let ratio = |told: &Told| {
            let distance = here - told.position;
            1000 * distance.max(wanted) / distance.min(wanted).max(1)
        };
        let nearest = |told: &[Told], is_new: bool| {
            let indices = (0..told.len()).filter(|&i| !is_new || !told[i].is_asked);
            indices.min_by_key(|&i| ratio(&told[i]))
        };
        let new = nearest(&self.told, true).filter(|&i| ratio(&self.told[i]) < 1700);
        let index = match new {
            Some(index) if self.dice.percent(85) => index,
            _ => nearest(&self.told, false).expect("a question needs a fact"),
        };
        let told = &mut self.told[index];
        told.is_asked = true;
        let text = format!("{}{}", told.question, told.answer);
        self.push(&text)
    }

    /// Grows to a length of exactly `end` if fillers can be found that do, else by a few tokens less.
    fn fill(&mut self, end: usize) -> Result<()> {
        while self.ids.len() + 40 < end {
            self.step()?;
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
    let world = World::new(dice, length);
    let next_question = dice.between(24, 48);
    let mut page = Page {
        dice,
        encode,
        world,
        ids: Vec::new(),
        told: Vec::new(),
        next_question,
    };
    while page.ids.len() < length {
        page.step()?;
    }
    Ok(page.ids)
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

/// The ids of a held-out question, without BOS: prompt, answer, and the distance between the value
/// and the end of the prompt.
pub(super) fn probe(
    dice: &mut Dice,
    encode: Encode<'_>,
    form: Form,
    distance: usize,
    context: usize,
) -> Result<(Vec<u32>, Vec<u32>, usize)> {
    let world = World::new(dice, context);
    let mut page = Page {
        dice,
        encode,
        world,
        ids: Vec::new(),
        told: Vec::new(),
        next_question: 40,
    };
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
    let distance = page.ids.len() - value_at;
    Ok((page.ids, answer, distance))
}
