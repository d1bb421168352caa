//! What the tokenizer is trained on.

use std::path::Path;

use super::dice::Dice;
use super::kinds::{KINDS, Maker, Thrower};
use super::recall::Encode;
use super::sources::{self, Real};
use super::words;
use crate::Result;

/// Texts to train a tokenizer on: `n` documents of every generated kind, the words of the generator
/// several times each, so that they become single tokens, and `children` if `folder` has it.
///
/// # Errors
/// Those of reading a real text.
pub fn tokenizer_texts(folder: Option<&Path>, seed: u64, n: u64) -> Result<Vec<String>> {
    // A character is a token here: there are no others yet. About four make a true one.
    let characters = |text: &str| Ok(text.chars().map(u32::from).collect());
    let encode: Encode<'_> = &characters;
    let mut texts = Vec::new();
    for kind in KINDS {
        for n in 0..n {
            let dice = Dice::new(&[
                b"tokenizer",
                kind.name.as_bytes(),
                &seed.to_le_bytes(),
                &n.to_le_bytes(),
            ]);
            let mut thrower = Thrower {
                dice,
                is_held_out: false,
            };
            match kind.maker {
                Maker::Text(make) => texts.push(make(&mut thrower)),
                Maker::Talk(make) => {
                    for turn in make(&mut thrower) {
                        texts.extend(
                            [
                                Some(turn.question),
                                turn.reply.reasoning,
                                Some(turn.reply.text),
                            ]
                            .into_iter()
                            .flatten(),
                        );
                    }
                }
                Maker::Whole(make) => {
                    let (ids, _) = make(&mut thrower.dice, encode, 1000)?;
                    texts.push(ids.into_iter().filter_map(char::from_u32).collect());
                }
                Maker::Real => break,
            }
        }
    }
    if let Some(folder) = folder {
        for real in sources::read("children", folder)?.into_iter().flatten() {
            if let Real::Text(text) = real {
                texts.push(text);
            }
        }
    }
    texts.extend(words::all().map(|word| format!(" {word}").repeat(200)));
    Ok(texts)
}
