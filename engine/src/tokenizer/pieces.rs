//! Texts of which only parts may hold marks: a template around what people, tools and files say.
//!
//! Between two marks, the words of the template and what was said are one text to the pre-tokenizer, so
//! that a conversation without marks in what was said has the ids of its text as a whole.

use tokenizers::tokenizer::{AddedVocabulary, OffsetReferential, OffsetType};
use tokenizers::{Model as _, PreTokenizer as _};

use super::{Tokenizer, check_space};
use crate::{Error, Result};

/// A part of a text, by whether marks count in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Of a template: added tokens that stand in it, whole, are recognised.
    Template(String),
    /// What somebody said: text, whatever it looks like.
    Content(String),
}

impl Piece {
    /// The text.
    pub fn text(&self) -> &str {
        match self {
            Self::Template(text) | Self::Content(text) => text,
        }
    }
}

/// The text of all pieces.
pub fn text_of(pieces: &[Piece]) -> String {
    pieces.iter().map(Piece::text).collect()
}

impl Tokenizer {
    /// The ids of a text in pieces. Added tokens are recognised in those of the template alone: no id of
    /// one comes out of what was said.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_pieces(&self, pieces: &[Piece]) -> Result<Vec<u32>> {
        let vocabulary = self.inner.get_added_vocabulary();
        let mut ids = Vec::new();
        let mut words = String::new();
        for piece in pieces {
            let Piece::Template(form) = piece else {
                words += piece.text();
                continue;
            };
            let split = vocabulary.extract_and_normalize(self.inner.get_normalizer(), form);
            for (_, (start, end), mark) in
                split.get_splits(OffsetReferential::Original, OffsetType::Byte)
            {
                match mark {
                    None => words += &form[start..end],
                    Some(mark) => {
                        self.encode_words(&std::mem::take(&mut words), &mut ids)?;
                        ids.extend(mark.iter().map(|token| token.id));
                    }
                }
            }
        }
        self.encode_words(&words, &mut ids)?;
        Ok(ids)
    }

    /// Adds the ids of a text in which no added token counts.
    fn encode_words(&self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        let failed = |error: tokenizers::Error| Error::Tokenizer(error.to_string());
        check_space(text)?;
        if text.is_empty() {
            return Ok(());
        }
        let marks = self.inner.get_added_vocabulary().get_added_tokens_decoder();
        let model = self.inner.get_model();
        let mut words =
            AddedVocabulary::new().extract_and_normalize(self.inner.get_normalizer(), text);
        if let Some(pre_tokenizer) = self.inner.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut words).map_err(failed)?;
        }
        let tokenized = words.tokenize(|word| {
            let tokens = model.tokenize(word.get())?;
            if !tokens.iter().any(|token| marks.contains_key(&token.id)) {
                return Ok(tokens);
            }
            // The vocabulary can build the word for a mark: letter by letter it stays text.
            let letters = word.get().chars();
            let letters = letters.map(|letter| model.tokenize(&letter.to_string()));
            Ok(letters.collect::<tokenizers::Result<Vec<_>>>()?.concat())
        });
        tokenized.map_err(failed)?;
        let encoding = words.into_encoding(None, 0, OffsetType::None);
        ids.extend(encoding.map_err(failed)?.get_ids());
        Ok(())
    }
}
