//! Ways to choose tokens that have a name.

use serde::{Deserialize, Serialize};

use super::{ConversationSettings, Sampling};

/// Everything neutral, whatever comes out.
const NEUTRAL: Sampling = Sampling {
    temperature: 1.0,
    top_p: 1.0,
    top_k: 0,
    min_p: 0.0,
    repetition_penalty: 1.0,
    presence_penalty: 0.0,
    frequency_penalty: 0.0,
};

/// As the makers of DeepSeek-V3.2 advise for local use.
pub const RECOMMENDED: Sampling = Sampling {
    top_p: 0.95,
    ..NEUTRAL
};

/// A named way to choose tokens.
#[derive(Debug)]
pub struct Preset {
    /// On its button.
    pub name: &'static str,
    /// When to use it.
    pub why: &'static str,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Whether the model thinks; `None` leaves that as it is.
    pub thinking: Option<bool>,
}

/// Every preset of ours.
pub const PRESETS: &[Preset] = &[
    Preset {
        name: "Recommended",
        why: "Temperature 1 and top-p 0.95, as the makers of DeepSeek-V3.2 advise",
        sampling: RECOMMENDED,
        thinking: None,
    },
    Preset {
        name: "Reasoning",
        why: "The same with thinking before the answer, as the family's reasoning models are run",
        sampling: RECOMMENDED,
        thinking: Some(true),
    },
    Preset {
        name: "Greedy",
        why: "The best token each time: the same answer on every machine",
        sampling: Sampling {
            temperature: 0.0,
            ..NEUTRAL
        },
        thinking: None,
    },
];

impl Preset {
    /// Puts it into force.
    pub fn apply(&self, settings: &mut ConversationSettings) {
        settings.sampling = self.sampling;
        if let Some(thinking) = self.thinking {
            settings.thinking = thinking;
        }
    }

    /// Whether it is in force.
    pub fn is_on(&self, settings: &ConversationSettings) -> bool {
        self.sampling == settings.sampling
            && self
                .thinking
                .is_none_or(|thinking| thinking == settings.thinking)
    }
}

/// A preset that the user saved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OwnPreset {
    /// On its button.
    pub name: String,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Whether the model thinks.
    pub thinking: bool,
}
