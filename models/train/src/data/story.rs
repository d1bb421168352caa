//! Children's stories from templates, with questions that have one answer.

use super::cast::{Cast, sentences};
use super::dice::Dice;
use super::plots::{self, CLOSINGS, COMMON, FRIENDS, INTRODUCTIONS, OPENINGS, OWNED, OWNING, Plot};

/// A story, what it is about, and what can be asked about it.
pub(super) struct Story {
    /// Sentences in one paragraph or two.
    pub(super) text: String,
    /// What it is about, to follow "Tell me a story about".
    pub(super) about: Vec<String>,
    /// In any order.
    pub(super) facts: Vec<StoryFact>,
}

/// A question about a story.
pub(super) struct StoryFact {
    pub(super) question: String,
    /// A sentence.
    pub(super) answer: String,
    /// The sentence of the story that tells it.
    pub(super) evidence: String,
}

/// A story by chance.
pub(super) fn story(dice: &mut Dice) -> Story {
    let plots: Vec<&Plot> = plots::all().collect();
    let plot = dice.pick(&plots);
    let cast = Cast::new(dice, plot.objects);

    // Where the first step names the hero alone, the story may begin with it.
    let starts_at_once = plot.steps[0].contains("{A} ") && !plot.steps[0].contains("{B}");
    let is_short = starts_at_once && dice.percent(35);
    let mut parts = Vec::new();
    let mut steps = plot.steps.iter().copied();
    let mut tells_friend = plot.is_friend_known;
    let mut tells_thing = plot.is_owned;
    if is_short {
        parts.push(first_step(plot, &cast, dice));
        steps.next();
    } else {
        let fitting: Vec<&str> = (OPENINGS.iter().copied())
            .filter(|opening| plot.is_friend_known || !opening.contains("{B}"))
            .filter(|opening| plot.is_owned || !opening.contains("{o}"))
            .collect();
        let opening = dice.pick(&fitting);
        tells_friend &= !opening.contains("{B}");
        tells_thing &= !opening.contains("{o}");
        parts.push(opening.to_owned());
    }
    // The friend is introduced before anything happens, or the plot would name a stranger.
    let friend = tells_friend.then(|| dice.pick(FRIENDS));
    let owning = tells_thing.then(|| dice.pick(OWNING));
    let (first, second) = if dice.percent(50) {
        (owning, friend)
    } else {
        (friend, owning)
    };
    parts.extend(first.into_iter().chain(second).map(str::to_owned));
    // Some stories have a paragraph where something begins to happen.
    let paragraph_at = (!is_short && dice.percent(40)).then_some(parts.len());
    parts.extend(steps.map(str::to_owned));
    parts.push(dice.pick(CLOSINGS).to_owned());

    let mut text = String::new();
    for (index, part) in parts.iter().enumerate() {
        let filled = cast.fill(part, dice);
        if filled.is_empty() {
            continue;
        }
        if !text.is_empty() {
            text.push(if paragraph_at == Some(index) {
                '\n'
            } else {
                ' '
            });
        }
        text.push_str(&filled);
    }
    let text = capitalised(text);
    let facts = facts(plot, &cast, dice, &text);
    Story {
        about: about(plot, &cast, dice),
        text,
        facts,
    }
}

/// The first step as the beginning of a story: with its time, with the weather, or with neither.
fn first_step(plot: &Plot, cast: &Cast, dice: &mut Dice) -> String {
    let step = plot.steps[0];
    // What kind of animal it is has to be said somewhere.
    let hero = if !cast.is_animal && dice.percent(40) {
        "{A}"
    } else {
        dice.pick(INTRODUCTIONS)
    };
    let told = match without_time(step) {
        Some(rest) if dice.percent(30) => format!("It was a {{w}} day[ and| when|, and] {rest}"),
        Some(rest) if dice.percent(40) => rest.to_owned(),
        _ => step.to_owned(),
    };
    told.replacen("{A}", hero, 1)
}

/// What the hero does, without "One day," or a choice of times before it.
fn without_time(step: &'static str) -> Option<&'static str> {
    let rest = match step.strip_prefix('[') {
        Some(choices) => choices.split_once("], ")?.1,
        None => step.strip_prefix("One day, ")?,
    };
    rest.starts_with("{A} ").then_some(rest)
}

fn about(plot: &Plot, cast: &Cast, dice: &mut Dice) -> Vec<String> {
    let mut about = vec![
        cast.fill("a {kind} named {A}", dice),
        cast.fill("{A} and {B}", dice),
        cast.fill(plot.about, dice),
        cast.fill("a {c} {o}", dice),
        cast.fill("a {kind} and a {c} {o}", dice),
        cast.fill("{A} and a {c} {o}", dice),
    ];
    if cast.is_animal {
        about.push(cast.fill("a {kind}", dice));
        about.push(cast.fill("a {kind} and a {bkind}", dice));
    }
    about
}

fn facts(plot: &Plot, cast: &Cast, dice: &mut Dice, text: &str) -> Vec<StoryFact> {
    let sentences = sentences(text);
    let owned = if plot.is_owned { OWNED } else { &[] };
    let mut facts = Vec::new();
    for fact in owned.iter().chain(plot.facts).chain(COMMON) {
        let evidence = fact.evidence.split('|').find_map(|words| {
            let words = cast.fill(words, dice);
            sentences
                .iter()
                .find(|sentence| contains_words(sentence, &words))
        });
        if let Some(evidence) = evidence {
            facts.push(StoryFact {
                question: cast.fill(fact.question, dice),
                answer: capitalised(cast.fill(fact.answer, dice)),
                evidence: (*evidence).to_owned(),
            });
        }
    }
    facts
}

/// Whether whole words stand in a sentence: "a cat" does not stand in "a cattle".
fn contains_words(sentence: &str, words: &str) -> bool {
    sentence.match_indices(words).any(|(at, _)| {
        let before = sentence[..at].chars().next_back();
        let after = sentence[at + words.len()..].chars().next();
        !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
    })
}

fn capitalised(mut text: String) -> String {
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    text
}

/// A story as a document by itself, often with questions after it.
pub(super) fn document(dice: &mut Dice) -> String {
    let Story { text, facts, .. } = story(dice);
    let mut document = text;
    if dice.percent(65) {
        let n = dice.between(1, 3);
        let chosen = dice.sample(&facts.iter().collect::<Vec<_>>(), n);
        for fact in chosen {
            document += &format!("\nQuestion: {}\nAnswer: {}", fact.question, fact.answer);
        }
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stories_are_whole_and_their_facts_stand_in_them() {
        for n in 0..3000u32 {
            let story = story(&mut Dice::new(&[b"story", &n.to_le_bytes()]));
            let text = &story.text;
            for mark in [
                "{", "}", "[", "]", "  ", " .", "..", " a a", " a e", " a i", " a o",
            ] {
                assert!(!text.contains(mark), "{mark:?} in {text}");
            }
            assert!(text.ends_with(['.', '!', '?', '"']), "{text}");
            assert!(text.starts_with(char::is_uppercase), "{text}");
            assert!(text.matches('"').count().is_multiple_of(2), "{text}");
            assert!(!story.facts.is_empty(), "{text}");
            for fact in &story.facts {
                assert!(text.contains(&fact.evidence), "{text}");
                assert!(fact.question.ends_with('?') && fact.answer.ends_with('.'));
            }
        }
    }

    #[test]
    fn a_story_begins_with_any_of_what_it_is_about_and_introduces_it_once() {
        let beginnings = [
            ("weather", " day "),
            ("friend", " friend "),
            ("thing", " had a"),
            ("home", " lived "),
            ("deed", " wanted to bake "),
        ];
        let mut n_stories = beginnings.map(|_| 0);
        for n in 0..3000u32 {
            let story = story(&mut Dice::new(&[b"beginning", &n.to_le_bytes()]));
            let said = sentences(&story.text);
            for ((what, words), n_stories) in beginnings.iter().zip(&mut n_stories) {
                if !said[0].contains(words) || said[0].starts_with('"') {
                    continue;
                }
                *n_stories += 1;
                // Between its beginning and what happens nobody is a friend for the second time.
                if *what == "friend" {
                    let again = ["had a friend named ", "friend was ", "played with "];
                    let tells_again = |sentence: &&str| {
                        again.iter().any(|words| sentence.contains(words))
                            && sentence.contains("friend")
                    };
                    assert!(!said[1..].iter().any(tells_again), "{}", story.text);
                }
            }
        }
        for ((what, _), n_stories) in beginnings.iter().zip(n_stories) {
            assert!(n_stories > 10, "{n_stories} stories begin with {what}");
        }
    }

    #[test]
    fn every_plot_gives_every_fact_sometimes() {
        for plot in plots::all() {
            for fact in plot.facts {
                let is_found = (0..400u32).any(|n| {
                    let mut dice = Dice::new(&[b"facts", &n.to_le_bytes()]);
                    let cast = Cast::new(&mut dice, plot.objects);
                    let steps: Vec<String> = plot
                        .steps
                        .iter()
                        .map(|step| cast.fill(step, &mut dice))
                        .collect();
                    let question = cast.fill(fact.question, &mut dice);
                    facts(plot, &cast, &mut dice, &steps.join(" "))
                        .iter()
                        .any(|found| found.question == question)
                });
                assert!(
                    is_found,
                    "{} is never answered: {}",
                    fact.question, plot.about
                );
            }
        }
    }
}
