//! Examples of talking with the model, for supervised fine-tuning.

use super::cast::sentences;
use super::dice::Dice;
use super::facts::{Form, World};
use super::small_talk::TOPICS;
use super::story::{Story, story};
use super::sums;
use super::talk::{Reply, Turn};

/// A conversation of one to three turns.
pub(super) fn conversation(dice: &mut Dice, held_out: bool) -> Vec<Turn> {
    match dice.below(100) {
        0..24 => vec![tale(dice)],
        24..34 => vec![continuation(dice)],
        34..56 => about_a_text(dice),
        56..68 => vec![small_talk(dice)],
        68..80 => keys(dice),
        80..90 => {
            let is_thinking = dice.percent(50);
            vec![sums::turn(dice, held_out, is_thinking)]
        }
        _ => mixed(dice, held_out),
    }
}

/// A request for a story.
fn tale(dice: &mut Dice) -> Turn {
    let Story { text, about, .. } = story(dice);
    let about = &about[dice.below(about.len())];
    let question = match dice.below(8) {
        0..3 => format!("Tell me a story about {about}."),
        3 => format!("Write a short story about {about}."),
        4 => format!("Can you tell me a story about {about}?"),
        5 => format!("Please tell me a story about {about}."),
        6 => format!("I want a story about {about}."),
        _ => dice
            .pick(&[
                "Tell me a story.",
                "Tell me a story",
                "Can you tell me a story?",
                "Please tell me a short story.",
                "Write a story for me.",
            ])
            .to_owned(),
    };
    let thought = if question.contains(about.as_str()) {
        format!("The user wants a story about {about}.")
    } else {
        "The user wants a story.".to_owned()
    };
    sometimes_thinking(dice, Turn::plain(question, text), thought)
}

/// The same with a thought before the reply, in one of four cases: in thinking mode, the model has to
/// think before anything it says.
fn sometimes_thinking(dice: &mut Dice, mut turn: Turn, thought: impl Into<String>) -> Turn {
    if dice.percent(25) {
        turn.reply.reasoning = Some(thought.into());
    }
    turn
}

/// The beginning of a story, to be continued.
fn continuation(dice: &mut Dice) -> Turn {
    let Story { text, .. } = story(dice);
    let all = sentences(&text);
    let n = dice.between(1, 3).min(all.len() - 1);
    // A slice of the story itself, so that its paragraphs stay.
    let begin = all[n].as_ptr() as usize - text.as_ptr() as usize;
    let (start, rest) = text.split_at(begin);
    let ask = dice.pick(&[
        "Continue: ",
        "Continue this story: ",
        "How does this story go on? ",
        "Go on: ",
    ]);
    let turn = Turn::plain(format!("{ask}{}", start.trim_end()), rest);
    sometimes_thinking(dice, turn, "The user wants the rest of the story.")
}

/// A story and one or two questions about it.
fn about_a_text(dice: &mut Dice) -> Vec<Turn> {
    let Story { text, facts, .. } = story(dice);
    let n = dice.between(1, 2);
    let is_thinking = dice.percent(50);
    let chosen = dice.sample(&facts.iter().collect::<Vec<_>>(), n);
    let ask = dice.pick(&[
        "Here is a story. ",
        "Read this story. ",
        "",
        "Here is a text. ",
    ]);
    let mut turns = Vec::new();
    for (index, fact) in chosen.into_iter().enumerate() {
        let question = match (index, dice.percent(70)) {
            (0, true) => format!("{ask}{text}\n{}", fact.question),
            (0, false) => format!("{}\n{text}", fact.question),
            _ => fact.question.clone(),
        };
        turns.push(Turn {
            question,
            reply: Reply {
                reasoning: is_thinking.then(|| format!("The story says: {}", fact.evidence)),
                text: fact.answer.clone(),
            },
        });
    }
    turns
}

/// Keys in a pasted text, and one or two questions about them.
fn keys(dice: &mut Dice) -> Vec<Turn> {
    let n = dice.between(3, 14);
    let mut world = World::new(dice, 60 * n);
    let mut told = Vec::new();
    let mut text = String::new();
    while told.len() < n {
        let form = dice.pick(&Form::ALL);
        let Some(fact) = world.fact(dice, form) else {
            break;
        };
        text += &fact.sentence();
        told.push(fact);
    }
    let ask = dice.pick(&[
        "Remember this.",
        "Here is a list.",
        "Read this.",
        "Note this.",
    ]);
    let is_thinking = dice.percent(40);
    let n_questions = dice.between(1, 3);
    let chosen = dice.sample(&told.iter().collect::<Vec<_>>(), n_questions);
    let mut turns = Vec::new();
    for (index, fact) in chosen.into_iter().enumerate() {
        let question = if index == 0 {
            format!("{ask}{text}\n{}", fact.question.trim_start())
        } else {
            fact.question.trim_start().to_owned()
        };
        turns.push(Turn {
            question,
            reply: Reply {
                reasoning: is_thinking.then(|| format!("The text says:{}", fact.sentence())),
                text: format!("{}{}.", fact.prefix.trim_start(), fact.value),
            },
        });
    }
    turns
}

fn small_talk(dice: &mut Dice) -> Turn {
    let topic = &TOPICS[dice.below(TOPICS.len())];
    let turn = Turn::plain(dice.pick(topic.questions), dice.pick(topic.replies));
    sometimes_thinking(dice, turn, topic.thought)
}

/// Several things one after the other.
fn mixed(dice: &mut Dice, held_out: bool) -> Vec<Turn> {
    let greeting = &TOPICS[0];
    let mut turns = vec![if dice.percent(50) {
        Turn::plain(dice.pick(greeting.questions), dice.pick(greeting.replies))
    } else {
        small_talk(dice)
    }];
    for _ in 0..dice.between(1, 2) {
        let is_thinking = dice.percent(40);
        turns.push(match dice.below(3) {
            0 => tale(dice),
            1 => sums::turn(dice, held_out, is_thinking),
            _ => small_talk(dice),
        });
    }
    turns
}
