//! Text to token ids and back: a `tokenizer.json` with a byte-level decoder, as this family has.
//!
//! Encoding is the work of the `tokenizers` crate. Decoding is done here, from a table of the bytes
//! of every token, so that one token costs the same wherever it stands: [`Utf8Stream`] gives out
//! text while it is generated, never half a character. Which parts of a text may hold marks is for the
//! caller to say, in [`Piece`]s; what the text means is for [`crate::chat`].

mod pieces;

use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use tokenizers::DecoderWrapper;

pub use self::pieces::{Piece, text_of};
use crate::{Error, Result, text_file};

/// Ids from here on are refused: the table of tokens is as long as the highest id.
const ID_LIMIT: u32 = 1 << 24;

/// The marker inside the tags of tool calls. The file of V3.2 lists it as a special token, but it
/// is part of what the model says: without it, a tool call could not be told from text about one.
const MARKUP: &str = "｜DSML｜";

/// White-space characters in a row. The pre-tokenizer's regular expression backtracks over them, and
/// its engine gives up, by a panic, after ten million steps.
const LONGEST_SPACE: usize = 1_000_000;

/// A checked `tokenizer.json`.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// Indexed by id; the vocabulary may have gaps.
    tokens: Vec<Option<Token>>,
}

struct Token {
    bytes: Box<[u8]>,
    is_skipped: bool,
}

/// The part of the file that is checked against what the crate makes of it.
#[derive(Deserialize)]
struct AddedTokens {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokenizer of {} tokens", self.n_tokens())
    }
}

impl Tokenizer {
    /// Reads a `tokenizer.json`. Truncation and padding that it may ask for are switched off.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, [`Error::Tokenizer`] with the file's name if it is
    /// no such file, has no tokens, or has another decoder than the byte-level one.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|error| Error::io(path, error))?;
        Self::from_bytes(&bytes)
            .map_err(|problem| Error::Tokenizer(format!("{}: {problem}", path.display())))
    }

    /// Reads `tokenizer.json` of a checkpoint's folder; `None` if there is no such file.
    ///
    /// # Errors
    /// Those of [`Self::open`].
    pub fn open_in(folder: &Path) -> Result<Option<Self>> {
        match Self::open(&folder.join("tokenizer.json")) {
            Ok(tokenizer) => Ok(Some(tokenizer)),
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Reads the bytes of a `tokenizer.json`.
    ///
    /// # Errors
    /// What is wrong with it, in words that follow the name of the file.
    pub(crate) fn from_bytes(bytes: &[u8]) -> std::result::Result<Self, String> {
        let text = text_file::decode(bytes)?;
        let mut inner: tokenizers::Tokenizer = text
            .parse()
            .map_err(|error: tokenizers::Error| error.to_string())?;
        match inner.get_decoder() {
            Some(DecoderWrapper::ByteLevel(_)) => {}
            Some(_) => return Err("has another kind of decoder, expected ByteLevel".into()),
            None => return Err("has no decoder, expected ByteLevel".into()),
        }
        inner.with_padding(None);
        inner
            .with_truncation(None)
            .map_err(|error| error.to_string())?;
        inner.set_encode_special_tokens(false);

        let file: AddedTokens = serde_json::from_str(text).map_err(|error| error.to_string())?;
        for AddedToken { id, content } in &file.added_tokens {
            // The crate renumbers added tokens that do not follow on the vocabulary.
            if let Some(given) = inner.token_to_id(content).filter(|given| given != id) {
                return Err(format!(
                    "has added token {content:?} with id {id}, expected {given}: \
                     the place in the vocabulary, or the next one after it"
                ));
            }
        }

        let ids: Vec<u32> = inner.get_vocab(true).into_values().collect();
        let highest = *ids
            .iter()
            .max()
            .ok_or("has no tokens, expected at least 1")?;
        if highest >= ID_LIMIT {
            return Err(format!(
                "has token id {highest}, expected ids below {ID_LIMIT}"
            ));
        }
        let mut tokens: Vec<Option<Token>> = (0..=highest).map(|_| None).collect();
        let added = inner.get_added_tokens_decoder();
        for id in ids {
            tokens[id as usize] = match added.get(&id) {
                Some(token) => Some(Token {
                    bytes: token.content.as_bytes().into(),
                    is_skipped: token.special && token.content != MARKUP,
                }),
                None => inner.id_to_token(id).map(|text| Token {
                    bytes: bytes_of(&text),
                    is_skipped: false,
                }),
            };
        }
        Ok(Self { inner, tokens })
    }

    /// The ids of a text that is all of one hand. Added tokens that stand in it are recognised, special
    /// ones too; nothing is added, so a text that should begin with BOS has to say so.
    ///
    /// The time grows with the length: a 10 MB prompt takes some seconds.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the tokenizer cannot do this text: a million spaces in a row, for one.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        check_space(text)?;
        let encoding = self.inner.encode_fast(text, false);
        let encoding = encoding.map_err(|error| Error::Tokenizer(error.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of these ids. Special tokens are left out, other added tokens (`<think>`) and the
    /// `｜DSML｜` of tool calls are kept; bytes that are no UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// [`Error::UnknownToken`] for an id outside the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let mut bytes = Vec::new();
        for &id in ids {
            bytes.extend_from_slice(self.bytes(id)?);
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The id of a token as it is written in `tokenizer.json`, `<｜User｜>` or `Ġthe`.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// How one token reads by itself, special ones included; bytes that are no whole character by
    /// themselves as `<0xE4>`. `None` for an id outside the vocabulary.
    pub fn token_text(&self, id: u32) -> Option<String> {
        let token = self.tokens.get(id as usize)?.as_ref()?;
        let mut text = String::new();
        for chunk in token.bytes.utf8_chunks() {
            text += chunk.valid();
            for byte in chunk.invalid() {
                text += &format!("<0x{byte:02X}>");
            }
        }
        Some(text)
    }

    /// How many ids there are: the highest and one. The model may have more rows than that.
    pub fn n_tokens(&self) -> usize {
        self.tokens.len()
    }

    /// What a token adds to a decoded text.
    fn bytes(&self, id: u32) -> Result<&[u8]> {
        match self.tokens.get(id as usize) {
            Some(Some(token)) if token.is_skipped => Ok(&[]),
            Some(Some(token)) => Ok(&token.bytes),
            _ => Err(Error::UnknownToken {
                id,
                vocab_size: self.n_tokens(),
            }),
        }
    }
}

/// Text while it is generated: only characters that are certain, as [`Tokenizer::decode`] of all ids
/// would give them.
#[derive(Clone, Debug)]
pub struct Utf8Stream {
    tokenizer: Arc<Tokenizer>,
    /// The beginning of a character, at most three bytes between two pushes.
    held: Vec<u8>,
}

impl Utf8Stream {
    /// A stream at the beginning of a text.
    pub fn new(tokenizer: Arc<Tokenizer>) -> Self {
        Self {
            tokenizer,
            held: Vec::new(),
        }
    }

    /// The text that is certain with this token: often a word, empty while a character is unfinished.
    ///
    /// # Errors
    /// [`Error::UnknownToken`] for an id outside the vocabulary; the stream can go on without it.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.held.extend_from_slice(self.tokenizer.bytes(id)?);
        let unfinished = unfinished(&self.held);
        let kept = self.held.split_off(self.held.len() - unfinished);
        let certain = std::mem::replace(&mut self.held, kept);
        Ok(String::from_utf8_lossy(&certain).into_owned())
    }

    /// Ends the text: an unfinished character comes out as U+FFFD. The stream can begin another.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.held)).into_owned()
    }
}

/// Refuses what the pre-tokenizer cannot do.
fn check_space(text: &str) -> Result<()> {
    let mut longest = 0;
    let mut run = 0;
    for character in text.chars() {
        run = if character.is_whitespace() {
            run + 1
        } else {
            0
        };
        longest = longest.max(run);
    }
    if longest > LONGEST_SPACE {
        return Err(Error::Tokenizer(format!(
            "text has {longest} white-space characters in a row, expected at most {LONGEST_SPACE}"
        )));
    }
    Ok(())
}

/// Bytes at the end that begin a character which more bytes could complete.
fn unfinished(bytes: &[u8]) -> usize {
    let tail = bytes
        .utf8_chunks()
        .last()
        .map_or(&[][..], |chunk| chunk.invalid());
    match std::str::from_utf8(tail) {
        Err(error) if error.error_len().is_none() => tail.len(),
        _ => 0,
    }
}

/// The bytes that a token of the vocabulary stands for: it is written with one character a byte. One
/// with another character stands for itself.
fn bytes_of(token: &str) -> Box<[u8]> {
    let bytes: Option<Vec<u8>> = token.chars().map(byte_of).collect();
    bytes.unwrap_or_else(|| token.as_bytes().to_vec()).into()
}

/// The byte behind a character of the byte-level alphabet of GPT-2: printable Latin-1 characters
/// stand for themselves, and the other bytes, in order, are U+0100 and the following.
fn byte_of(character: char) -> Option<u8> {
    let code = u32::from(character);
    match code {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => u8::try_from(code).ok(),
        0x100..=0x120 => u8::try_from(code - 0x100).ok(),
        0x121..=0x142 => u8::try_from(code - 0x121 + 0x7F).ok(),
        0x143 => Some(0xAD),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panic")]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::{Config, RngSeed};
    use serde_json::{Value, json};

    use super::*;

    /// Byte-level: all bytes (ids 0 to 255), three merges, the last with an id far behind, and added
    /// tokens, which the crate numbers by the count of the vocabulary.
    fn small() -> Value {
        let characters = (0..=0x143).filter_map(char::from_u32);
        let mut vocab: serde_json::Map<String, Value> = characters
            .filter_map(|character| Some((character.to_string(), byte_of(character)?.into())))
            .collect();
        vocab.insert("ä¸".into(), 256.into());
        vocab.insert("ab".into(), 257.into());
        vocab.insert("Ġab".into(), 299.into());
        let added = |id: u32, content: &str, special: bool| {
            json!({"id": id, "content": content, "special": special, "single_word": false,
                   "lstrip": false, "rstrip": false, "normalized": false})
        };
        json!({
            "version": "1.0",
            "added_tokens": [
                added(259, "<｜end｜>", true), added(260, "<think>", false), added(261, "«é", false),
                added(262, MARKUP, true),
            ],
            "normalizer": null,
            "pre_tokenizer": {
                "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true,
            },
            "post_processor": null,
            "decoder": {
                "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true,
            },
            "model": {"type": "BPE", "vocab": vocab, "merges": ["a b", "Ġ ab", "ä ¸"]},
        })
    }

    fn open(json: &Value) -> Tokenizer {
        Tokenizer::from_bytes(json.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn tokens_read_by_themselves() {
        let tokenizer = open(&small());
        assert_eq!(tokenizer.n_tokens(), 300);
        for (id, text) in [
            (0x41, Some("A")),
            (0x0A, Some("\n")),
            (0xE4, Some("<0xE4>")),
            (299, Some(" ab")),
            (256, Some("<0xE4><0xB8>")),
            (259, Some("<｜end｜>")),
            (261, Some("«é")),
            (262, Some(MARKUP)),
            (258, None),
            (263, None),
            (300, None),
        ] {
            assert_eq!(tokenizer.token_text(id).as_deref(), text);
        }
        assert_eq!(tokenizer.token_id("Ġab"), Some(299));
        assert_eq!(tokenizer.token_id("nowhere"), None);
        assert_eq!(
            tokenizer.encode("ab ab<｜end｜>中«é").unwrap(),
            [257, 299, 259, 256, 0xAD, 261]
        );
        assert_eq!(tokenizer.encode("").unwrap(), [0; 0]);
    }

    #[test]
    fn ids_in_gaps_and_beyond_are_errors() {
        let tokenizer = Arc::new(open(&small()));
        for id in [258, 263, 300, u32::MAX] {
            let error = tokenizer.decode(&[65, id]).unwrap_err();
            let expected = format!("token id {id} is outside the vocabulary of 300");
            assert_eq!(error.to_string(), expected);
            let mut stream = Utf8Stream::new(tokenizer.clone());
            assert_eq!(stream.push(256).unwrap(), "");
            assert_eq!(stream.push(id).unwrap_err().to_string(), expected);
            assert_eq!(stream.push(0xAD).unwrap(), "中");
        }
    }

    #[test]
    fn half_characters_are_held() {
        let mut stream = Utf8Stream::new(Arc::new(open(&small())));
        for (id, text) in [
            (256, ""),
            (259, ""),
            (0xAD, "中"),
            (0xF0, ""),
            (0x9F, ""),
            (0x41, "\u{FFFD}A"),
            (0xFF, "\u{FFFD}"),
            (0x80, "\u{FFFD}"),
            (256, ""),
            (260, "\u{FFFD}<think>"),
            (0xC3, ""),
        ] {
            assert_eq!(stream.push(id).unwrap(), text);
        }
        assert_eq!(stream.finish(), "\u{FFFD}");
        assert_eq!(stream.finish(), "");
        assert_eq!(stream.push(0x41).unwrap(), "A");
    }

    #[test]
    fn marks_count_in_the_template_alone() {
        let mut json = small();
        // A token of the vocabulary, too.
        let mut mark = json["added_tokens"][0].clone();
        mark["content"] = "ab".into();
        mark["id"] = 257.into();
        json["added_tokens"].as_array_mut().unwrap().push(mark);
        for (json, ab) in [(small(), &[257_u32][..]), (json, &[0x61, 0x62])] {
            let tokenizer = open(&json);
            let (form, said) = (
                |text: &str| Piece::Template(text.into()),
                |text: &str| Piece::Content(text.into()),
            );
            for (pieces, ids) in [
                (
                    vec![form("a<｜end｜>b"), said("b")],
                    vec![&[0x61, 259, 0x62, 0x62][..]],
                ),
                // What is joined, in pieces as in one.
                (
                    vec![form("<think>a"), said(""), said("b ab"), form("<｜end｜>")],
                    vec![&[260][..], ab, &[299, 259]],
                ),
                (
                    vec![said("<think>")],
                    vec![b"<think>".map(u32::from).as_slice()],
                ),
                // A mark that only a border makes is none.
                (
                    vec![form("<thi"), said("nk>")],
                    vec![b"<think>".map(u32::from).as_slice()],
                ),
                (
                    vec![said("<thi"), form("nk>")],
                    vec![b"<think>".map(u32::from).as_slice()],
                ),
                (vec![form(""), said("")], vec![]),
                (vec![], vec![]),
            ] {
                assert_eq!(
                    tokenizer.encode_pieces(&pieces).unwrap(),
                    ids.concat(),
                    "{pieces:?}"
                );
            }
            let ids = tokenizer
                .encode_pieces(&[said("«é｜DSML｜<｜end｜>ab")])
                .unwrap();
            assert!(!ids.iter().any(|id| (259..=262).contains(id)), "{ids:?}");
            assert_eq!(tokenizer.decode(&ids).unwrap(), "«é｜DSML｜<｜end｜>ab");
            let spaces = [
                form("a"),
                said(&" ".repeat(600_000)),
                said(&" ".repeat(600_000)),
            ];
            let error = tokenizer.encode_pieces(&spaces).unwrap_err().to_string();
            assert!(
                error.contains("1200000 white-space characters in a row"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_file_of_another_system_is_read() {
        let text = format!("\u{FEFF}{:#}\r\n", small()).replace('\n', "\r\n");
        let tokenizer = Tokenizer::from_bytes(text.as_bytes()).unwrap();
        assert_eq!(tokenizer.encode("ab ab").unwrap(), [257, 299]);
        let utf16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let problem = Tokenizer::from_bytes(&utf16).unwrap_err();
        assert_eq!(problem, "is UTF-16 text, expected UTF-8: save it as UTF-8");
    }

    #[test]
    fn truncation_and_padding_of_the_file_are_off() {
        let mut json = small();
        json["truncation"] = json!({
            "direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0,
        });
        json["padding"] = json!({
            "strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 259, "pad_type_id": 0, "pad_token": "<｜end｜>",
        });
        assert_eq!(open(&json).encode("xyz").unwrap(), [0x78, 0x79, 0x7A]);
    }

    #[test]
    fn a_post_processor_adds_nothing() {
        let mut json = small();
        json["post_processor"] = json!({
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<｜end｜>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [],
            "special_tokens": {
                "<｜end｜>": {"id": "<｜end｜>", "ids": [259], "tokens": ["<｜end｜>"]},
            },
        });
        assert_eq!(open(&json).encode("x").unwrap(), [0x78]);
    }

    #[test]
    fn files_that_will_not_do_are_named() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Tokenizer::open_in(folder.path()).unwrap().is_none());
        let path = folder.path().join("tokenizer.json");
        let error = Tokenizer::open(&path).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("{}: ", path.display())),
            "{error}"
        );

        let changed = |key: &str, value: Value| {
            let mut json = small();
            json[key] = value;
            json.to_string()
        };
        let far = json!([{"id": 4294967295_u32, "content": "x", "special": false, "single_word": false,
                          "lstrip": false, "rstrip": false, "normalized": false}]);
        let empty = json!({"type": "BPE", "vocab": {}, "merges": []});
        let bad_regex = json!({"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated",
                               "invert": false});
        for (text, problem) in [
            (
                String::new(),
                "EOF while parsing a value at line 1 column 0",
            ),
            ("{}".into(), "Model missing."),
            ("\u{0}".into(), "expected value at line 1 column 1"),
            (
                changed("decoder", Value::Null),
                "has no decoder, expected ByteLevel",
            ),
            (
                changed("decoder", json!({"type": "Fuse"})),
                "has another kind of decoder, expected ByteLevel",
            ),
            (
                changed("model", empty),
                "has added token \"<｜end｜>\" with id 259, expected 0: ",
            ),
            (
                changed("added_tokens", far),
                "has added token \"x\" with id 4294967295, expected 120: ",
            ),
            (
                small().to_string().replace("299", "4294967295"),
                "has token id 4294967295, expected ids below 16777216",
            ),
            (changed("pre_tokenizer", bad_regex), ""),
            (small().to_string().replace("\"a b\"", "\"a nowhere\""), ""),
        ] {
            std::fs::write(&path, &text).unwrap();
            let error = match Tokenizer::open_in(folder.path()) {
                Err(error) => error.to_string(),
                Ok(_) => panic!("accepted, expected {problem:?}"),
            };
            let expected = format!("tokenizer: {}: {problem}", path.display());
            assert!(error.starts_with(&expected), "{error}\n{expected}");
        }
        std::fs::write(&path, [0xFF, 0xFE]).unwrap();
        assert!(matches!(Tokenizer::open(&path), Err(Error::Tokenizer(_))));
        std::fs::write(&path, small().to_string()).unwrap();
        assert!(Tokenizer::open_in(folder.path()).unwrap().is_some());
    }

    proptest! {
        #![proptest_config(Config {
            rng_seed: RngSeed::Fixed(32),
            failure_persistence: None,
            ..Config::with_cases(2000)
        })]

        #[test]
        fn decoding_is_that_of_the_crate(
            ids in prop::collection::vec(prop_oneof![0_u32..258, 0xC0_u32..0xFF, 259_u32..261], 0..20),
        ) {
            let tokenizer = Arc::new(open(&small()));
            let text = tokenizer.decode(&ids).unwrap();
            prop_assert_eq!(&text, &tokenizer.inner.decode(&ids, true).unwrap());
            let mut stream = Utf8Stream::new(tokenizer);
            let pieces: String = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
            prop_assert_eq!(pieces + &stream.finish(), text);
        }
    }
}
