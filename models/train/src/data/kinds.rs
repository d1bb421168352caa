//! The kinds of text, in one table.

use super::dice::Dice;
use super::recall::Encode;
use super::talk::Turn;
use super::{chat, copy, recall, story, sums};
use crate::Result;

/// Tokens, and whether each is a target.
type Targeted = (Vec<u32>, Vec<bool>);

/// One kind of text.
pub struct Kind {
    /// Its name in a mixture.
    pub name: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    /// How it is made.
    pub(super) maker: Maker,
    /// Tokens of a document on average, as measured with a vocabulary of 4,096. It turns a share of
    /// the tokens into a share of the documents; those that fill a sequence are all as long.
    mean_tokens: f64,
}

impl Kind {
    /// Whether it is read from [`super::FILES`], rather than made by a program.
    pub fn is_real(&self) -> bool {
        matches!(self.maker, Maker::Real)
    }
}

/// How a kind of text is made.
#[derive(Clone, Copy)]
pub(super) enum Maker {
    /// By a program, as one text.
    Text(fn(&mut Thrower) -> String),
    /// By a program, as a conversation.
    Talk(fn(&mut Thrower) -> Vec<Turn>),
    /// By a program, as one document that fills the sequence.
    Whole(fn(&mut Dice, Encode<'_>, usize) -> Result<Targeted>),
    /// Read from the files of the same kind.
    Real,
}

/// Chance and the split it is for; what a maker works with.
pub(super) struct Thrower {
    pub(super) dice: Dice,
    pub(super) is_held_out: bool,
}

/// All kinds of text. Licences of the real ones are in [`super::FILES`].
pub const KINDS: &[Kind] = &[
    Kind {
        name: "story",
        about: "children's stories from templates, often with questions and answers",
        maker: Maker::Text(|thrower| story::document(&mut thrower.dice)),
        mean_tokens: 134.0,
    },
    Kind {
        name: "recall",
        about: "facts with unique keys and questions about them, near and far, over the whole sequence",
        maker: Maker::Whole(|dice, encode, length| {
            let ids = recall::document(dice, encode, length)?;
            let loss = vec![true; ids.len()];
            Ok((ids, loss))
        }),
        mean_tokens: 1.0,
    },
    Kind {
        name: "drill",
        about: "many facts, then a question about each over the whole sequence; only their values are targets",
        maker: Maker::Whole(recall::drill),
        mean_tokens: 1.0,
    },
    Kind {
        name: "near-drill",
        about: "a few owners, then a question about each, again and again; only their values are targets",
        maker: Maker::Whole(recall::near_drill),
        mean_tokens: 1.0,
    },
    Kind {
        name: "object-drill",
        about: "a few things of one owner, then a question about each, again and again; only their values are targets",
        maker: Maker::Whole(recall::object_drill),
        mean_tokens: 1.0,
    },
    Kind {
        name: "owner-drill",
        about: "the same things of a few owners, then a question about each, again and again; only their values are targets",
        maker: Maker::Whole(recall::owner_drill),
        mean_tokens: 1.0,
    },
    Kind {
        name: "quiz",
        about: "a few facts and a question about each, nothing between",
        maker: Maker::Text(|thrower| recall::quiz(&mut thrower.dice)),
        mean_tokens: 110.0,
    },
    Kind {
        name: "copy",
        about: "lists of words and numbers, each given twice",
        maker: Maker::Text(|thrower| copy::document(&mut thrower.dice)),
        mean_tokens: 110.0,
    },
    Kind {
        name: "sums",
        about: "conversations about sums below 100, half of them with thinking",
        maker: Maker::Talk(|thrower| {
            let is_thinking = thrower.dice.percent(50);
            let turn = sums::turn(&mut thrower.dice, thrower.is_held_out, is_thinking);
            vec![turn]
        }),
        mean_tokens: 48.0,
    },
    Kind {
        name: "chat",
        about: "conversations: stories on request, questions about a text, small talk, sums",
        maker: Maker::Talk(|thrower| chat::conversation(&mut thrower.dice, thrower.is_held_out)),
        mean_tokens: 107.0,
    },
    Kind {
        name: "children",
        about: "real graded stories for children",
        maker: Maker::Real,
        mean_tokens: 275.0,
    },
    Kind {
        name: "tales",
        about: "real fables, fairy tales and children's novels",
        maker: Maker::Real,
        mean_tokens: 305.0,
    },
    Kind {
        name: "gsm8k",
        about: "real problems of grade-school mathematics, with the worked answer as thinking",
        maker: Maker::Real,
        mean_tokens: 192.0,
    },
    Kind {
        name: "chitchat",
        about: "real informal conversations",
        maker: Maker::Real,
        mean_tokens: 97.0,
    },
    Kind {
        name: "pairs",
        about: "real greetings and small talk, a question and a reply each",
        maker: Maker::Real,
        mean_tokens: 19.0,
    },
];

/// A kind by weight; longer documents are drawn less often, so that a weight is a share of tokens.
pub(super) fn chosen(dice: &mut Dice, kinds: &[(&'static Kind, f64)]) -> &'static Kind {
    let share = |(kind, weight): &(&Kind, f64)| weight / kind.mean_tokens;
    let mut left = dice.unit() * kinds.iter().map(share).sum::<f64>();
    for candidate in kinds {
        left -= share(candidate);
        if left < 0.0 {
            return candidate.0;
        }
    }
    // Rounding may leave a rest.
    kinds[kinds.len() - 1].0
}
