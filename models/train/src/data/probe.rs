//! Held-out questions to measure with: facts far back, and sums.

use engine::chat::{EncodeOptions, Message, Role};

use super::dice::Dice;
use super::facts::Form;
use super::{Corpus, recall, sums};
use crate::Result;

/// A held-out question about a fact far back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// From BOS to the word before the value.
    pub prompt: Vec<u32>,
    /// The value.
    pub answer: Vec<u32>,
    /// How many tokens before the end of the prompt the fact's value begins.
    pub distance: usize,
    /// Whether a number, a word or a colour is asked for, and how a colour was told.
    pub asks_for: &'static str,
}

/// A held-out sum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SumProbe {
    /// From BOS to where the model goes on.
    pub prompt: Vec<u32>,
    /// What is to stand in the last `\boxed{…}` of the completion.
    pub answer: i64,
}

impl Corpus {
    /// Held-out question `n`: a context of about `context` tokens in the form of `recall`, at whose
    /// end a fact is asked for that was told about `distance` tokens earlier and never asked before.
    /// Numbers, words and colours take turns. The tokens of `prompt` are `context` at most.
    ///
    /// # Errors
    /// [`Error::Setting`] if the distance is too short for a question or does not fit the context.
    pub fn recall_probe(
        &self,
        seed: u64,
        n: u64,
        distance: usize,
        context: usize,
    ) -> Result<Probe> {
        let mut dice = Dice::new(&[
            b"recall probe",
            &seed.to_le_bytes(),
            &n.to_le_bytes(),
            &(distance as u64).to_le_bytes(),
            &(context as u64).to_le_bytes(),
        ]);
        let encode = |text: &str| Ok(self.tokenizer.encode(text)?);
        let form = Form::ALL[(n % 3) as usize];
        let room = context.saturating_sub(1);
        let mut probe = recall::probe(&mut dice, &encode, form, distance, room)?;
        probe.prompt.insert(0, self.bos);
        Ok(probe)
    }

    /// Held-out sum `n`, of two numbers that training never shows together.
    ///
    /// # Errors
    /// [`Error::Engine`] if the text cannot be encoded.
    pub fn sum_probe(&self, seed: u64, n: u64, thinking: bool) -> Result<SumProbe> {
        let mut dice = Dice::new(&[b"sum probe", &seed.to_le_bytes(), &n.to_le_bytes()]);
        let sum = sums::sum(&mut dice, true);
        let message = Message::new(Role::User, sum.question);
        let options = EncodeOptions {
            thinking,
            ..EncodeOptions::default()
        };
        Ok(SumProbe {
            prompt: self
                .tokenizer
                .encode_pieces(&engine::chat::encode(&[message], &options)?)?,
            answer: sum.answer,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panic")]
mod tests {
    use engine::chat::BOS;

    use super::super::tests::corpus;

    #[test]
    fn probes_ask_once_for_a_fact_at_the_wanted_distance() {
        let corpus = corpus();
        for (distance, context) in [
            (48, 128),
            (64, 256),
            (200, 256),
            (250, 1000),
            (900, 1024),
            (1800, 2048),
        ] {
            for n in 0..12 {
                let probe = corpus.recall_probe(7, n, distance, context).unwrap();
                let off = probe.distance.abs_diff(distance);
                assert!(
                    off * 100 <= distance * 8,
                    "{} for {distance}",
                    probe.distance
                );
                assert!(probe.prompt.len() <= context);
                assert!(
                    probe.prompt.len() + context / 10 + 8 >= context,
                    "{} of {context}",
                    probe.prompt.len()
                );
                assert_eq!(probe.prompt[0], corpus.bos);

                let value_at = probe.prompt.len() - probe.distance;
                assert_eq!(probe.prompt[value_at..][..probe.answer.len()], probe.answer);
                let text = corpus.tokenizer.decode(&probe.prompt).unwrap();
                let question_at = text.rfind("? ").unwrap();
                let question = &text[text[..question_at].rfind(". ").unwrap() + 2..=question_at];
                assert_eq!(text.matches(question).count(), 1, "{question}");
                let prefix = &text[question_at + 2..];
                let key = question
                    .strip_prefix("What colour was ")
                    .map(|key| key.trim_end_matches('?'));
                let n_told = text.matches(prefix).count() - 1;
                let n_had = key.map_or(0, |key| {
                    let (name, object) = key.split_once("'s ").unwrap();
                    let had = text.split(". ").filter(|sentence| {
                        sentence.starts_with(&format!("{name} had a"))
                            && sentence
                                .trim_end_matches('.')
                                .ends_with(&format!(" {object}"))
                    });
                    had.count()
                });
                assert_eq!(n_told + n_had, 1, "{question} in {text}");
                let told = match (key, n_had) {
                    (None, _) => ["number", "word"][(n % 3) as usize],
                    (Some(_), 0) => "colour, told as \"Mia's kite was red\"",
                    (Some(_), _) => "colour, told as \"Mia had a red kite\"",
                };
                assert_eq!(probe.asks_for, told, "{text}");
                assert_eq!(probe, corpus.recall_probe(7, n, distance, context).unwrap());
            }
        }
    }

    #[test]
    fn probes_that_cannot_be_are_refused() {
        let corpus = corpus();
        for (distance, context, setting) in [
            (0, 100, "distance"),
            (9, 100, "distance"),
            (100, 100, "context"),
            (50, 0, "context"),
        ] {
            let error = corpus
                .recall_probe(1, 0, distance, context)
                .unwrap_err()
                .to_string();
            assert!(error.starts_with(&format!("{setting} is ")), "{error}");
        }
    }

    #[test]
    fn sum_probes_are_questions_with_their_answer() {
        let corpus = corpus();
        for thinking in [false, true] {
            let probe = corpus.sum_probe(1, 5, thinking).unwrap();
            assert_eq!(probe, corpus.sum_probe(1, 5, thinking).unwrap());
            let last = *probe.prompt.last().unwrap();
            let expected = if thinking { "<think>" } else { "</think>" };
            assert_eq!(corpus.tokenizer.token_text(last).unwrap(), expected);
            assert_eq!(corpus.tokenizer.token_text(probe.prompt[0]).unwrap(), BOS);
            assert!((0..300).contains(&probe.answer));
        }
    }
}
