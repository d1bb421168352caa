//! What the tiny model is trained on: kinds of text, mixed by weight into sequences of one length.
//!
//! Most kinds are made by a program, so that every question has an exact answer; some are real texts
//! that are read from a folder. A sequence is a pure function of mixture, split, seed, number and
//! length: training can go on at any step, on any number of threads. Making the tokenizer is the
//! business of [`crate::bpe`], which [`tokenizer_texts`] feeds; the loss that of the trainer.

mod cast;
mod chat;
mod copy;
mod dice;
mod facts;
mod filler;
mod kinds;
mod names;
mod parse;
mod places;
mod plots;
mod probe;
mod recall;
mod small_talk;
mod sources;
mod story;
mod sums;
mod talk;
mod tokenizer_texts;
mod words;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine::chat::{BOS, EOS};
use engine::tokenizer::Tokenizer;
use rayon::prelude::*;

use crate::{Error, Result};
use dice::Dice;
use kinds::{Maker, Thrower, chosen};
use sources::Real;
use talk::Part;

pub use kinds::{KINDS, Kind};
pub use probe::{Probe, SumProbe};
pub use sources::{FILES, SourceFile};
pub use tokenizer_texts::tokenizer_texts;

/// Kind of text -> its share of the tokens. Shares need not add up to 1.
pub type Mixture = BTreeMap<String, f64>;

/// What a sequence is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// To learn from.
    Train,
    /// To measure with: other throws of the generator, other documents of the real texts.
    Validation,
}

/// Tokens, and which of them are to be predicted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// The tokens.
    pub ids: Vec<u32>,
    /// `loss[i]` says whether `ids[i]` is a target. BOS never is; in conversations only the model's
    /// part is.
    pub loss: Vec<bool>,
}

/// A real text is cut into documents of at most about so many tokens, at the ends of its lines:
/// otherwise one tale would fill a sequence, and only beginnings would be seen.
const LONGEST: usize = 400;

/// Every so many-th document of a real text is for validation.
const VALIDATION_EVERY: usize = 20;

/// Every kind of text, as tokens.
pub struct Corpus {
    tokenizer: Arc<Tokenizer>,
    folder: Option<PathBuf>,
    bos: u32,
    eos: u32,
    real: BTreeMap<&'static str, RealDocuments>,
}

#[derive(Default)]
struct RealDocuments {
    train: Vec<Sequence>,
    validation: Vec<Sequence>,
}

impl std::fmt::Debug for Corpus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let real: Vec<_> = self.real.keys().collect();
        write!(
            f,
            "Corpus with {:?} and real texts {real:?}",
            self.tokenizer
        )
    }
}

impl Corpus {
    /// A corpus that speaks the tokens of `tokenizer`. Real texts are those of [`FILES`] that are in
    /// `folder`; without a folder there are none.
    ///
    /// # Errors
    /// [`Error::Checksum`] if a file is another one, [`Error::NoSource`] if only some files of a kind
    /// are there, [`Error::Io`] if the folder or a file cannot be read, [`Error::Tokenizer`] if the
    /// tokenizer lacks a token of the family.
    pub fn open(tokenizer: Arc<Tokenizer>, folder: Option<&Path>) -> Result<Self> {
        let id = |token: &str| {
            let id = tokenizer.token_id(token);
            id.ok_or_else(|| Error::Tokenizer(format!("has no token {token:?}, expected it")))
        };
        let mut corpus = Self {
            bos: id(BOS)?,
            eos: id(EOS)?,
            tokenizer,
            folder: folder.map(Path::to_owned),
            real: BTreeMap::new(),
        };
        if let Some(folder) = folder {
            std::fs::read_dir(folder).map_err(|error| Error::io(folder, error))?;
            for kind in KINDS.iter().filter(|kind| kind.is_real()) {
                if let Some(texts) = sources::read(kind.name, folder)? {
                    let documents = corpus.tokenised(&texts)?;
                    corpus.real.insert(kind.name, documents);
                }
            }
        }
        Ok(corpus)
    }

    fn tokenised(&self, texts: &[Real]) -> Result<RealDocuments> {
        let encoded: Vec<Vec<Sequence>> = texts
            .par_iter()
            .map(|text| match text {
                Real::Text(text) => self.cut(text),
                Real::Talk(turns) => Ok(vec![self.talk(&talk::parts(turns)?)?]),
            })
            .collect::<Result<_>>()?;
        let mut documents = RealDocuments::default();
        for (index, parts) in encoded.into_iter().enumerate() {
            if index % VALIDATION_EVERY == VALIDATION_EVERY - 1 {
                documents.validation.extend(parts);
            } else {
                documents.train.extend(parts);
            }
        }
        Ok(documents)
    }

    /// A long text in parts, the last of which ends the document.
    fn cut(&self, text: &str) -> Result<Vec<Sequence>> {
        let mut parts = Vec::new();
        let mut ids = vec![self.bos];
        for line in text.split_inclusive('\n') {
            let line = self.tokenizer.encode(line)?;
            if ids.len() > 1 && ids.len() + line.len() > LONGEST {
                parts.push(self.all_but_bos(std::mem::replace(&mut ids, vec![self.bos])));
            }
            ids.extend(line);
        }
        ids.push(self.eos);
        parts.push(self.all_but_bos(ids));
        Ok(parts)
    }

    fn all_but_bos(&self, ids: Vec<u32>) -> Sequence {
        let loss = ids.iter().map(|&id| id != self.bos).collect();
        Sequence { ids, loss }
    }

    fn talk(&self, parts: &[Part]) -> Result<Sequence> {
        let mut sequence = Sequence {
            ids: Vec::new(),
            loss: Vec::new(),
        };
        for (pieces, is_target) in parts {
            sequence.ids.extend(self.tokenizer.encode_pieces(pieces)?);
            sequence.loss.resize(sequence.ids.len(), *is_target);
        }
        Ok(sequence)
    }

    /// Number `n` of the sequences: exactly `length` tokens, always the same for the same arguments.
    /// Short documents follow one another, each between BOS and EOS; the last is cut.
    ///
    /// # Errors
    /// [`Error::UnknownKind`] or [`Error::NoSource`] if the mixture asks for what there is not,
    /// [`Error::Setting`] if its weights are negative, not finite or all zero.
    pub fn sequence(
        &self,
        mixture: &Mixture,
        split: Split,
        seed: u64,
        n: u64,
        length: usize,
    ) -> Result<Sequence> {
        let kinds = self.checked(mixture)?;
        let mut key = Vec::new();
        for (kind, weight) in &kinds {
            key.extend(kind.name.bytes());
            key.extend(weight.to_bits().to_le_bytes());
        }
        let mut thrower = Thrower {
            dice: Dice::new(&[
                b"sequence",
                &key,
                &[split as u8],
                &seed.to_le_bytes(),
                &n.to_le_bytes(),
                &(length as u64).to_le_bytes(),
            ]),
            is_held_out: split == Split::Validation,
        };
        let total: f64 = kinds.iter().map(|(_, weight)| weight).sum();
        let (whole, short): (Vec<_>, Vec<_>) = kinds
            .into_iter()
            .partition(|(kind, _)| matches!(kind.maker, Maker::Whole(_)));
        let whole_weight: f64 = whole.iter().map(|(_, weight)| weight).sum();

        let mut sequence = Sequence {
            ids: Vec::new(),
            loss: Vec::new(),
        };
        if short.is_empty() || thrower.dice.unit() * total < whole_weight {
            let kind = chosen(&mut thrower.dice, &whole);
            sequence = self.whole(kind, &mut thrower, length)?;
        } else {
            while sequence.ids.len() < length {
                let kind = chosen(&mut thrower.dice, &short);
                let document = self.document(kind, &mut thrower, split)?;
                sequence.ids.extend(document.ids);
                sequence.loss.extend(document.loss);
            }
        }
        sequence.ids.truncate(length);
        sequence.loss.truncate(length);
        Ok(sequence)
    }

    fn checked(&self, mixture: &Mixture) -> Result<Vec<(&'static Kind, f64)>> {
        let mut kinds = Vec::new();
        for (name, &weight) in mixture {
            let Some(kind) = KINDS.iter().find(|kind| kind.name == name) else {
                let known: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
                return Err(Error::UnknownKind {
                    found: name.clone(),
                    known: known.join(", "),
                });
            };
            if !(weight.is_finite() && weight >= 0.0) {
                return Err(Error::Setting {
                    name: format!("weight of {name:?}"),
                    found: weight.to_string(),
                    expected: "a finite number, at least 0".into(),
                });
            }
            if weight == 0.0 {
                continue;
            }
            if kind.is_real() && !self.real.contains_key(kind.name) {
                return Err(sources::no_source(kind.name, self.folder.as_deref()));
            }
            kinds.push((kind, weight));
        }
        if kinds.is_empty() {
            return Err(Error::Setting {
                name: "mixture".into(),
                found: "without any weight".into(),
                expected: "at least one kind with a weight above 0".into(),
            });
        }
        Ok(kinds)
    }

    fn whole(&self, kind: &Kind, thrower: &mut Thrower, length: usize) -> Result<Sequence> {
        let Maker::Whole(make) = kind.maker else {
            unreachable!("only kinds that fill a sequence are drawn here");
        };
        let encode = |text: &str| Ok(self.tokenizer.encode(text)?);
        let (ids, loss) = make(&mut thrower.dice, &encode, length)?;
        Ok(Sequence {
            ids: [&[self.bos], &ids[..]].concat(),
            loss: [&[false], &loss[..]].concat(),
        })
    }

    fn document(&self, kind: &Kind, thrower: &mut Thrower, split: Split) -> Result<Sequence> {
        match kind.maker {
            Maker::Text(make) => {
                let mut ids = vec![self.bos];
                ids.extend(self.tokenizer.encode(&make(thrower))?);
                ids.push(self.eos);
                Ok(self.all_but_bos(ids))
            }
            Maker::Talk(make) => self.talk(&talk::parts(&make(thrower))?),
            Maker::Whole(_) => unreachable!("whole sequences are made before documents are drawn"),
            Maker::Real => {
                let real = &self.real[kind.name];
                let documents = match split {
                    Split::Train => &real.train,
                    Split::Validation => &real.validation,
                };
                Ok(documents[thrower.dice.below(documents.len())].clone())
            }
        }
    }
}
