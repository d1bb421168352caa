//! A what-if under way: the same tokens under other knobs, then what the model writes with them.
//!
//! Three feedings: the whole timeline as it is, the same tokens under the other knobs, and a
//! continuation from the chosen token under them. KL compares the first two row by row, so that both sides had
//! read the same text; the third shows where it leads.

use engine::trace::{Frame, Stage};

use super::link::Purpose;
use crate::inspector::{WhatIf, WhatIfResult};
use crate::recording::compare::{self, Divergence};
use crate::recording::{Origin, Recording, TokenInfo};

/// Bytes of logits kept for a comparison; rows beyond are not compared.
const MAX_LOGIT_BYTES: usize = 256 << 20;

/// A what-if under way.
pub(super) struct WhatIfRun {
    /// What was asked for.
    pub request: WhatIf,
    /// The token before the first that is written anew: what is compared begins with what was expected
    /// after it.
    from: usize,
    /// The whole timeline.
    pub ids: Vec<u32>,
    /// The tokens as they are.
    pub base: Recording,
    /// The same tokens under the other knobs.
    pub forced: Recording,
    /// What was written under them.
    pub written: Vec<u32>,
    /// Logits after `from`, `from + 1`, …
    base_logits: Vec<Vec<f32>>,
    forced_logits: Vec<Vec<f32>>,
}

impl WhatIfRun {
    /// A run over the timeline `ids`; the recordings are empty ones of the two.
    pub(super) fn new(request: WhatIf, ids: Vec<u32>, base: Recording, forced: Recording) -> Self {
        Self {
            from: request.from.saturating_sub(1),
            request,
            ids,
            base,
            forced,
            written: Vec::new(),
            base_logits: Vec::new(),
            forced_logits: Vec::new(),
        }
    }

    /// Takes what a feeding recorded.
    pub(super) fn push(&mut self, purpose: &Purpose, frame: &Frame) {
        let (recording, rows) = match purpose {
            Purpose::WhatIfBase => (&mut self.base, &mut self.base_logits),
            Purpose::WhatIfForced => (&mut self.forced, &mut self.forced_logits),
            _ => return,
        };
        for problem in recording.push_frame(frame) {
            log::warn!("{problem}");
        }
        let Some(value) = frame.get(None, Stage::Logits) else {
            return;
        };
        let (Some(data), [.., n_vocab]) = (value.floats(), value.shape()) else {
            return;
        };
        for (row, logits) in data.chunks_exact((*n_vocab).max(1)).enumerate() {
            let position = frame.position + row;
            let is_next = position == self.from + rows.len();
            if is_next && (rows.len() + 1) * size_of_val(logits) <= MAX_LOGIT_BYTES {
                rows.push(logits.to_vec());
            }
        }
    }

    /// What came out, once the feedings are done.
    pub(super) fn result(self, text: impl Fn(u32) -> String) -> WhatIfResult {
        let after = self.request.from.min(self.ids.len());
        WhatIfResult {
            base_tokens: plain_tokens(&self.ids[after..], 0, &text),
            variant_tokens: plain_tokens(&self.written, 0, &text),
            divergences: self.divergences(),
            request: self.request,
            base: self.base,
            variant: self.forced,
        }
    }

    fn divergences(&self) -> Vec<Divergence> {
        let n_layers = self.base.header().n_layers;
        let pairs = self.base_logits.iter().zip(&self.forced_logits);
        pairs
            .enumerate()
            .map(|(row, (base, forced))| {
                let position = self.from + row;
                let difference = |layer| {
                    compare::selection_difference(&self.base, &self.forced, position, layer)
                        .unwrap_or_default()
                };
                let (only_base, only_variant) = (0..n_layers)
                    .map(difference)
                    .map(|(base, variant)| (base.len(), variant.len()))
                    .unzip();
                Divergence {
                    position,
                    kl: compare::kl(base, forced),
                    top1_differs: best(base) != best(forced),
                    n_selected_only_base: only_base,
                    n_selected_only_variant: only_variant,
                }
            })
            .collect()
    }
}

/// The most likely token; the lower id among equals, NaN never.
fn best(logits: &[f32]) -> Option<usize> {
    let mut best: Option<usize> = None;
    for (id, &logit) in logits.iter().enumerate() {
        if !logit.is_nan() && best.is_none_or(|best| logit > logits[best]) {
            best = Some(id);
        }
    }
    best
}

/// Tokens of which nothing is known but who wrote them.
pub(super) fn plain_tokens(
    ids: &[u32],
    n_prompt: usize,
    text: impl Fn(u32) -> String,
) -> Vec<TokenInfo> {
    ids.iter()
        .enumerate()
        .map(|(position, &id)| TokenInfo {
            id,
            text: text(id),
            origin: if position < n_prompt {
                Origin::Prompt
            } else {
                Origin::Generated
            },
            logprob: None,
            entropy: None,
            candidates: Vec::new(),
        })
        .collect()
}
