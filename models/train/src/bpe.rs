//! The tiny model's tokenizer: byte-level BPE with the family's pre-tokenizer and special tokens.
//!
//! One thing differs: numbers are split into single digits, not into groups of up to three. A small
//! model sees too few sums to learn a thousand three-digit tokens; ten digits it sees all the time.

use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{
    AddedToken, DecoderWrapper, ModelWrapper, PostProcessorWrapper, PreTokenizerWrapper,
    SplitDelimiterBehavior, Tokenizer,
};

use crate::{Error, Result};

/// The special tokens at the bottom, ids 0, 1 and 2 as in the family.
pub const BOTTOM: &[&str] = &[
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
    "<｜▁pad▁｜>",
];

/// The added tokens at the top of the vocabulary, in the family's order. The flag is `special`: such
/// tokens are left out of decoded text. The family has it on one of these only.
pub const TOP: &[(&str, bool)] = &[
    ("<think>", false),
    ("</think>", false),
    ("<｜fim▁hole｜>", false),
    ("<｜fim▁begin｜>", false),
    ("<｜fim▁end｜>", false),
    ("<｜User｜>", false),
    ("<｜Assistant｜>", false),
    ("<|EOT|>", true),
    ("<｜tool▁calls▁begin｜>", false),
    ("<｜tool▁calls▁end｜>", false),
    ("<｜tool▁call▁begin｜>", false),
    ("<｜tool▁call▁end｜>", false),
    ("<｜tool▁outputs▁begin｜>", false),
    ("<｜tool▁outputs▁end｜>", false),
    ("<｜tool▁output▁begin｜>", false),
    ("<｜tool▁output▁end｜>", false),
    ("<｜tool▁sep｜>", false),
];

/// The regular expressions a text is split by, one after the other, as in the family but for the
/// first, which is `\p{N}{1,3}` there.
const SPLITS: [&str; 3] = [
    r"\p{N}",
    "[一-龥\u{3040}-ゟ゠-ヿ]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
];

/// Trains a tokenizer of exactly `vocab_size` tokens, the added ones included. The same texts in the
/// same order give the same tokenizer.
///
/// # Errors
/// [`Error::Setting`] if the vocabulary cannot hold all bytes and added tokens,
/// [`Error::Tokenizer`] if the texts have too few different words to fill it.
pub fn train(texts: impl Iterator<Item = String> + Send, vocab_size: usize) -> Result<Tokenizer> {
    let least = 256 + BOTTOM.len() + TOP.len();
    if vocab_size < least {
        return Err(Error::Setting {
            name: "vocab_size".into(),
            found: vocab_size.to_string(),
            expected: format!("at least {least}: all bytes and the added tokens"),
        });
    }
    let failed = |error: tokenizers::Error| Error::Tokenizer(error.to_string());
    let mut splits = Vec::new();
    for regex in SPLITS {
        let pattern = SplitPattern::Regex(regex.into());
        let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false);
        splits.push(PreTokenizerWrapper::Split(split.map_err(failed)?));
    }
    splits.push(PreTokenizerWrapper::ByteLevel(ByteLevel::new(
        false, true, false,
    )));

    let mut tokenizer = Tokenizer::new(ModelWrapper::BPE(BPE::default()));
    tokenizer.with_pre_tokenizer(Some(PreTokenizerWrapper::Sequence(Sequence::new(splits))));
    tokenizer.with_decoder(Some(DecoderWrapper::ByteLevel(ByteLevel::new(
        true, true, true,
    ))));
    tokenizer.with_post_processor(Some(PostProcessorWrapper::ByteLevel(ByteLevel::new(
        true, false, true,
    ))));

    let bottom = BOTTOM
        .iter()
        .map(|&token| AddedToken::from(token, true).normalized(false));
    let trainer = BpeTrainer::builder()
        .vocab_size(vocab_size - TOP.len())
        .min_frequency(2)
        .show_progress(false)
        .special_tokens(bottom.collect())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let mut trainer = TrainerWrapper::BpeTrainer(trainer);
    tokenizer.train(&mut trainer, texts).map_err(failed)?;
    let top: Vec<AddedToken> = TOP
        .iter()
        .map(|&(token, special)| AddedToken::from(token, special).normalized(true))
        .collect();
    tokenizer.add_tokens(top).map_err(failed)?;

    let found = tokenizer.get_vocab_size(true);
    if found != vocab_size {
        return Err(Error::Tokenizer(format!(
            "the texts make {found} tokens, expected {vocab_size}: they are too short or too uniform"
        )));
    }
    Ok(tokenizer)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panic")]
mod tests {
    use super::*;

    fn texts() -> impl Iterator<Item = String> + Send {
        (0..200).map(|n| format!("The fox number {n} went to the park. <think> {}", n * 7919))
    }

    #[test]
    fn ids_are_where_the_family_has_them() {
        let tokenizer = train(texts(), 300).unwrap();
        assert_eq!(tokenizer.get_vocab_size(true), 300);
        for (id, token) in (0..).zip(BOTTOM) {
            assert_eq!(tokenizer.token_to_id(token), Some(id));
        }
        for (id, (token, _)) in (300 - TOP.len() as u32..).zip(TOP) {
            assert_eq!(tokenizer.token_to_id(token), Some(id));
        }
        let special = tokenizer.get_added_tokens_decoder();
        let special = special.values().filter(|token| token.special).count();
        assert_eq!(special, 4, "BOS, EOS, pad and EOT");
    }

    #[test]
    fn the_engine_opens_it_and_nasty_text_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        train(texts(), 300).unwrap().save(&path, true).unwrap();
        let tokenizer = engine::tokenizer::Tokenizer::open(&path).unwrap();
        for text in [
            "",
            " ",
            "\n\n \t\r\n",
            "a",
            "123456",
            "٣٤",
            "½²",
            "中文abcひらがなカタカナ",
            "e\u{301}\u{200d}",
            "👩‍👩‍👧 🏳️‍🌈",
            "\0\u{7f}\u{feff}",
            "<think>x</think><｜User｜><｜tool▁sep｜>",
            "<|EOT",
            "<think",
            "'s I'm  two  spaces ",
            "｜DSML｜",
            "\\boxed{42}.",
            "Zalgo\u{336}\u{337}\u{338}",
        ] {
            let ids = tokenizer.encode(text).unwrap();
            assert_eq!(tokenizer.decode(&ids).unwrap(), text);
        }
        // One id a digit, and the space before them by itself.
        assert_eq!(tokenizer.encode(" 4821").unwrap().len(), 5);
        assert_eq!(
            tokenizer.encode("<think>").unwrap(),
            [300 - TOP.len() as u32]
        );
        // Special tokens are left out of decoded text.
        let ids = tokenizer.encode("<｜begin▁of▁sentence｜>a<|EOT|>").unwrap();
        assert_eq!(ids.len(), 3);
        assert_eq!(tokenizer.decode(&ids).unwrap(), "a");
    }

    #[test]
    fn the_same_texts_make_the_same_tokenizer() {
        let made = || train(texts(), 300).unwrap().to_string(false).unwrap();
        assert_eq!(made(), made());
    }

    #[test]
    fn vocabularies_that_cannot_be_are_refused() {
        let error = train(texts(), 275).unwrap_err().to_string();
        assert!(
            error.starts_with("vocab_size is 275, expected at least 276"),
            "{error}"
        );
        train(std::iter::empty(), 276).unwrap();
        let error = train(std::iter::once("a a".into()), 4096)
            .unwrap_err()
            .to_string();
        assert!(error.contains("make 276 tokens, expected 4096"), "{error}");
    }
}
