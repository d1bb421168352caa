//! What is known of how an answer came about.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What is known of how an answer came about. Kept with its message.
///
/// Numbers that were not measured are `None`; so is, once stored, one that is no finite number.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AnswerFacts {
    /// Name of the model.
    pub model: String,
    /// Device it ran on.
    pub device: String,
    /// Whether the model was asked to think first.
    pub thinking: bool,
    /// Tokens of the prompt that had to be fed.
    pub n_prompt: usize,
    /// Tokens generated, a final stop id included.
    pub n_generated: usize,
    /// From the start to the first token.
    pub first_token_ms: Option<f64>,
    /// Time to feed the prompt.
    pub prefill_ms: Option<f64>,
    /// Time spent on tokens after the first.
    pub decode_ms: Option<f64>,
    /// From the first token to the end of thinking.
    pub thinking_ms: Option<f64>,
    /// Why the answer ended, in words; empty while it has not.
    pub stop: String,
    /// The settings it was generated with, as the caller writes them.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub settings: Value,
    /// The whole prompt as the model got it.
    #[serde(skip_serializing_if = "PromptIds::is_empty")]
    pub prompt_ids: PromptIds,
    /// The answer exactly as it was generated.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<u32>,
}

impl AnswerFacts {
    /// Tokens a second after the first; `None` without at least two tokens and a time.
    pub fn tokens_per_second(&self) -> Option<f64> {
        let n_decoded = self.n_generated.checked_sub(1).filter(|&n| n > 0)?;
        let decode_ms = self.decode_ms.filter(|&ms| ms > 0.0)?;
        Some(n_decoded as f64 * 1000.0 / decode_ms)
    }
}

/// The ids of a prompt. Each prompt of a conversation holds the one before, so what they begin with is kept
/// once: clones share all of it, [`PromptIds::share`] shares what two lists have in common.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(from = "Vec<u32>", into = "Vec<u32>")]
pub struct PromptIds {
    /// A list of which this one begins with the first `n_shared` ids.
    shared: Arc<[u32]>,
    n_shared: usize,
    rest: Arc<[u32]>,
}

impl PromptIds {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.n_shared + self.rest.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.shared[..self.n_shared]
            .iter()
            .chain(&*self.rest)
            .copied()
    }

    /// All of them.
    pub fn to_vec(&self) -> Vec<u32> {
        self.iter().collect()
    }

    /// Keeps `ids`; what they begin with as `other` does is shared with it, if that is most of them.
    pub fn share(ids: Vec<u32>, other: &Self) -> Self {
        let shared = &other.shared;
        let n_shared = shared.iter().zip(&ids).take_while(|(a, b)| a == b).count();
        if 2 * n_shared < ids.len() {
            return ids.into();
        }
        Self {
            shared: shared.clone(),
            n_shared,
            rest: ids[n_shared..].into(),
        }
    }

    /// Bytes of ids that it keeps alone, and the list that it shares.
    #[cfg(test)]
    pub(crate) fn kept(&self) -> (usize, &Arc<[u32]>) {
        (4 * self.rest.len(), &self.shared)
    }
}

impl From<Vec<u32>> for PromptIds {
    fn from(ids: Vec<u32>) -> Self {
        Self {
            n_shared: ids.len(),
            shared: ids.into(),
            rest: Arc::default(),
        }
    }
}

impl From<PromptIds> for Vec<u32> {
    fn from(ids: PromptIds) -> Self {
        ids.to_vec()
    }
}

impl PartialEq for PromptIds {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

/// Looks which prompts a timeline begins with. What several share is compared once.
#[derive(Debug)]
pub struct Beginnings<'a> {
    timeline: &'a [u32],
    /// The list that was compared last, and how much of it the timeline begins with.
    last: Option<(Arc<[u32]>, usize)>,
    /// Ids that were compared so far.
    pub n_compared: usize,
}

impl<'a> Beginnings<'a> {
    /// Of this timeline.
    pub fn of(timeline: &'a [u32]) -> Self {
        Self {
            timeline,
            last: None,
            n_compared: 0,
        }
    }

    /// Whether the timeline begins with `prompt` and goes on with `answer`.
    pub fn hold(&mut self, prompt: &PromptIds, answer: &[u32]) -> bool {
        let last = self.last.take();
        let last = last.filter(|(list, _)| Arc::ptr_eq(list, &prompt.shared));
        let (list, n) = last.unwrap_or_else(|| {
            let pairs = prompt.shared.iter().zip(self.timeline);
            let n = pairs.take_while(|(a, b)| a == b).count();
            self.n_compared += n;
            (prompt.shared.clone(), n)
        });
        self.last = Some((list, n));
        self.n_compared += prompt.rest.len() + answer.len();
        prompt.n_shared <= n
            && self.timeline[prompt.n_shared..].starts_with(&prompt.rest)
            && self
                .timeline
                .get(prompt.len()..)
                .is_some_and(|after| after.starts_with(answer))
    }
}

/// Token ids as bytes, four each, little-endian.
pub(super) fn bytes_from_ids(ids: impl Iterator<Item = u32>) -> Vec<u8> {
    ids.flat_map(u32::to_le_bytes).collect()
}

/// Inverse of [`bytes_from_ids`]; `None` where the length is no multiple of four.
pub(super) fn ids_from_bytes(bytes: &[u8]) -> Option<Vec<u32>> {
    let (ids, rest) = bytes.as_chunks::<4>();
    rest.is_empty()
        .then(|| ids.iter().map(|id| u32::from_le_bytes(*id)).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panic")]
mod tests {
    use super::*;

    #[test]
    fn ids_survive_as_bytes() {
        for ids in [vec![], vec![0], vec![u32::MAX, 0, 129_279]] {
            let bytes = bytes_from_ids(ids.iter().copied());
            assert_eq!(ids_from_bytes(&bytes), Some(ids));
        }
        assert_eq!(ids_from_bytes(&[1, 2, 3]), None);
        assert_eq!(bytes_from_ids([1].into_iter()), [1, 0, 0, 0]);
    }

    #[test]
    fn prompts_share_what_they_begin_with_and_stay_what_they_are() {
        let whole: Vec<u32> = (0..100).collect();
        let mut other = whole[..40].to_vec();
        other.extend([7, 7]);
        let lists = [
            whole.clone(),
            whole[..50].to_vec(),
            other,
            Vec::new(),
            vec![9; 30],
            vec![0],
        ];
        let kept = PromptIds::from(whole.clone());
        for list in lists {
            let shared = PromptIds::share(list.clone(), &kept);
            assert_eq!((shared.len(), shared.to_vec()), (list.len(), list.clone()));
            assert_eq!(shared, PromptIds::from(list.clone()));
            for (answer, timeline, is_there) in [
                (vec![], list.clone(), true),
                (vec![3, 4], [&list[..], &[3, 4, 5]].concat(), true),
                (vec![3, 4], [&list[..], &[3]].concat(), false),
                (vec![3, 4], [&list[..], &[3, 5]].concat(), false),
            ] {
                let mut beginnings = Beginnings::of(&timeline);
                // The second time what was compared is known.
                for _ in 0..2 {
                    assert_eq!(beginnings.hold(&shared, &answer), is_there, "{list:?}");
                }
            }
            if !list.is_empty() {
                let shorter = &list[..list.len() - 1];
                assert!(!Beginnings::of(shorter).hold(&shared, &[]));
            }
        }
    }

    #[test]
    fn a_rate_needs_two_tokens_and_a_time() {
        let facts = |n_generated, decode_ms| AnswerFacts {
            n_generated,
            decode_ms,
            ..AnswerFacts::default()
        };
        assert_eq!(facts(11, Some(2000.0)).tokens_per_second(), Some(5.0));
        for (n_generated, decode_ms) in [
            (0, Some(1.0)),
            (1, Some(1.0)),
            (2, None),
            (2, Some(0.0)),
            (2, Some(f64::NAN)),
        ] {
            assert_eq!(facts(n_generated, decode_ms).tokens_per_second(), None);
        }
    }

    #[test]
    fn what_is_no_number_is_read_back_as_not_measured() {
        let facts = AnswerFacts {
            decode_ms: Some(f64::NAN),
            prefill_ms: Some(f64::INFINITY),
            first_token_ms: Some(0.1),
            ..AnswerFacts::default()
        };
        let text = serde_json::to_string(&facts).unwrap();
        let read: AnswerFacts = serde_json::from_str(&text).unwrap();
        let expected = AnswerFacts {
            first_token_ms: Some(0.1),
            ..AnswerFacts::default()
        };
        assert_eq!(read, expected);
    }

    #[test]
    fn facts_of_another_version_are_understood() {
        let read: AnswerFacts = serde_json::from_str(r#"{"model":"m","mood":7}"#).unwrap();
        assert_eq!(read.model, "m");
        assert_eq!(read.n_generated, 0);
    }
}
