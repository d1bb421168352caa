//! What is known of how an answer came about.

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
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub prompt_ids: Vec<u32>,
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

/// Token ids as bytes, four each, little-endian.
pub(super) fn bytes_from_ids(ids: &[u32]) -> Vec<u8> {
    ids.iter().flat_map(|id| id.to_le_bytes()).collect()
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
            assert_eq!(ids_from_bytes(&bytes_from_ids(&ids)), Some(ids));
        }
        assert_eq!(ids_from_bytes(&[1, 2, 3]), None);
        assert_eq!(bytes_from_ids(&[1]), [1, 0, 0, 0]);
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
