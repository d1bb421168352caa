//! When text ends: stop tokens, and stop strings in text that arrives in pieces.
//!
//! A stop string may lie across pieces. So a piece is given out only as far as no stop string can
//! have begun in it, and a stop string itself never is. However the text is cut into pieces, the
//! same text comes out. Turning ids into pieces is the business of [`crate::tokenizer`].

use crate::error::{Error, Result};

/// The rules, and the text held back since the last piece.
#[derive(Clone, Debug, Default)]
pub struct StopRules {
    ids: Vec<u32>,
    strings: Vec<String>,
    held: String,
    stopped: Option<String>,
}

/// What one piece of text brings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Emit {
    /// Text that is now safe to show: no stop string begins in it.
    pub text_ready: String,
    /// The stop string that was met, if one was. The text before it has been given out by now.
    pub stopped: Option<String>,
}

impl StopRules {
    /// Rules for these tokens and strings; without any, text passes through untouched.
    ///
    /// # Errors
    /// [`Error::Setting`] for an empty stop string, which would stop at once.
    pub fn new(ids: Vec<u32>, strings: Vec<String>) -> Result<Self> {
        if strings.iter().any(String::is_empty) {
            return Err(Error::Setting {
                name: "stop".into(),
                found: "an empty string".into(),
                expected: "at least one character".into(),
            });
        }
        Ok(Self {
            ids,
            strings,
            ..Self::default()
        })
    }

    /// Whether this token ends the text. Its own text, if it has any, is not part of the output.
    pub fn is_stop(&self, id: u32) -> bool {
        self.ids.contains(&id)
    }

    /// Takes the next piece. The stop string that is complete first ends the text; of several that
    /// are complete with the same character, the longest. After that, pieces are ignored.
    pub fn push(&mut self, piece: &str) -> Emit {
        if self.stopped.is_some() {
            return Emit {
                text_ready: String::new(),
                stopped: self.stopped.clone(),
            };
        }
        let old = self.held.len();
        self.held.push_str(piece);
        for (start, character) in piece.char_indices() {
            let end = old + start + character.len_utf8();
            if let Some(stop) = self.complete_at(end) {
                self.held.truncate(end - stop.len());
                self.stopped = Some(stop);
                let text_ready = std::mem::take(&mut self.held);
                return Emit {
                    text_ready,
                    stopped: self.stopped.clone(),
                };
            }
        }
        let kept = self
            .held
            .split_off(self.held.len() - self.possible_beginning());
        Emit {
            text_ready: std::mem::replace(&mut self.held, kept),
            stopped: None,
        }
    }

    /// Gives out what was held back, since no more text comes, and makes ready for a new text.
    pub fn finish(&mut self) -> String {
        self.stopped = None;
        std::mem::take(&mut self.held)
    }

    fn complete_at(&self, end: usize) -> Option<String> {
        let text = &self.held[..end];
        let stops = self.strings.iter().filter(|stop| text.ends_with(*stop));
        stops.max_by_key(|stop| stop.len()).cloned()
    }

    /// Bytes at the end of the held text with which a stop string could begin: the most possible.
    fn possible_beginning(&self) -> usize {
        let beginning = |stop: &String| {
            let ends = stop.char_indices().map(|(end, _)| end);
            ends.rev()
                .find(|&end| self.held.ends_with(&stop[..end]))
                .unwrap_or(0)
        };
        self.strings.iter().map(beginning).max().unwrap_or(0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::{Config, RngSeed};

    use super::*;

    fn rules(strings: &[&str]) -> StopRules {
        StopRules::new(vec![1, 7], strings.iter().map(|s| s.to_string()).collect()).unwrap()
    }

    /// All text that comes out, and what stopped it.
    fn run<'a>(
        rules: &mut StopRules,
        pieces: impl IntoIterator<Item = &'a str>,
    ) -> (String, Option<String>) {
        let mut text = String::new();
        let mut stopped = None;
        for piece in pieces {
            let emit = rules.push(piece);
            text += &emit.text_ready;
            stopped = emit.stopped;
        }
        text += &rules.finish();
        (text, stopped)
    }

    #[test]
    fn text_is_held_only_while_a_stop_string_may_begin() {
        let mut rules = rules(&["\nUser:", "<end>"]);
        assert_eq!(rules.push("Hello").text_ready, "Hello");
        assert_eq!(rules.push(" a<").text_ready, " a");
        assert_eq!(rules.push("en").text_ready, "");
        assert_eq!(rules.push("c\n").text_ready, "<enc");
        assert_eq!(rules.push("\nUse").text_ready, "\n");
        assert_eq!(
            rules.push("r: hi"),
            Emit {
                text_ready: String::new(),
                stopped: Some("\nUser:".into())
            }
        );
        let after = rules.push("more");
        assert_eq!(
            (after.text_ready.as_str(), after.stopped.as_deref()),
            ("", Some("\nUser:"))
        );
        assert_eq!(rules.finish(), "");
        // And a second text after the first.
        assert_eq!(run(&mut rules, ["x<en"]), ("x<en".into(), None));
    }

    #[test]
    fn without_rules_text_passes_through() {
        let mut rules = StopRules::default();
        assert_eq!(rules.push("a<").text_ready, "a<");
        assert_eq!(rules.push(""), Emit::default());
        assert_eq!(rules.finish(), "");
        assert!(!rules.is_stop(0));
    }

    #[test]
    fn a_beginning_inside_a_beginning_is_found() {
        // After "aab" fails against "aaab", its tail may still begin another.
        assert_eq!(
            run(&mut rules(&["aaab"]), ["aa", "aa", "abx"]),
            ("aa".into(), Some("aaab".into()))
        );
        assert_eq!(
            run(&mut rules(&["abac"]), ["aba", "bac"]),
            ("ab".into(), Some("abac".into()))
        );
        assert_eq!(run(&mut rules(&["abac"]), ["aba"]), ("aba".into(), None));
    }

    #[test]
    fn the_first_complete_then_the_longest_wins() {
        let mut rules = rules(&["b", "abc", "xb"]);
        assert_eq!(run(&mut rules, ["zabc"]), ("za".into(), Some("b".into())));
        assert_eq!(
            run(&mut rules, ["zx", "b"]),
            ("z".into(), Some("xb".into()))
        );
    }

    #[test]
    fn characters_of_several_bytes_stay_whole() {
        // é and è share their first byte; ｜ and ▁ are those of the special tokens.
        let mut rules = rules(&["né", "<｜end▁of"]);
        assert_eq!(
            run(&mut rules, ["n", "è<｜", "end"]),
            ("nè<｜end".into(), None)
        );
        assert_eq!(
            run(&mut rules, ["日<", "｜end▁", "of▁x"]),
            ("日".into(), Some("<｜end▁of".into()))
        );
    }

    #[test]
    fn stop_ids_are_those_given() {
        let rules = rules(&[]);
        assert!(rules.is_stop(1) && rules.is_stop(7) && !rules.is_stop(2));
    }

    #[test]
    fn an_empty_stop_string_is_refused() {
        let error = StopRules::new(vec![], vec!["a".into(), String::new()]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "stop is an empty string, expected at least one character"
        );
    }

    /// The definition: cut before the stop string that is complete first, the longest of several.
    fn whole(strings: &[String], text: &str) -> (String, Option<String>) {
        let ends = text.char_indices().map(|(start, c)| start + c.len_utf8());
        for end in ends {
            let mut longest: Option<&String> = None;
            for stop in strings {
                if text[..end].ends_with(stop.as_str())
                    && longest.is_none_or(|longest| longest.len() < stop.len())
                {
                    longest = Some(stop);
                }
            }
            if let Some(stop) = longest {
                return (text[..end - stop.len()].into(), Some(stop.clone()));
            }
        }
        (text.into(), None)
    }

    proptest! {
        #![proptest_config(Config {
            rng_seed: RngSeed::Fixed(32),
            failure_persistence: None,
            ..Config::with_cases(2000)
        })]

        #[test]
        fn any_split_gives_the_same_text(
            strings in prop::collection::vec("[abé]{1,4}", 0..4),
            text in "[abéc]{0,24}",
            lengths in prop::collection::vec(0_usize..4, 0..24),
        ) {
            let mut characters = text.chars();
            let mut pieces: Vec<String> =
                lengths.iter().map(|&n| characters.by_ref().take(n).collect()).collect();
            pieces.push(characters.collect());
            let mut rules = StopRules::new(vec![], strings.clone()).unwrap();
            let got = run(&mut rules, pieces.iter().map(String::as_str));
            prop_assert_eq!(got, whole(&strings, &text));
        }
    }
}
