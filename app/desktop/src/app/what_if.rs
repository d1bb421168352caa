//! A what-if under way: the same tokens under other knobs, then what the model writes with them.
//!
//! Three feedings: the whole timeline as it is, the same tokens under the other knobs, and a
//! continuation from the chosen token under them. KL compares the first two row by row, so that both sides had
//! read the same text; the third shows where it leads. A helper takes the frames and compares; one that is
//! slow holds the feedings up.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use eframe::egui;
use engine::trace::{Frame, Stage};

use super::helpers::{Done, Interest};
use super::link::Purpose;
use crate::inspector::{Sides, WhatIf};
use crate::recording::compare::{self, Divergence};
use crate::recording::{Origin, Recording, Texts, TokenInfo};

/// Bytes of logits kept for a comparison; rows beyond are not compared.
const MAX_LOGIT_BYTES: usize = 256 << 20;
/// Frames on the way to the helper at most.
const N_FRAMES: usize = 2;

/// What the helper is told.
enum Step {
    /// What a feeding recorded: the first, or the second.
    Frame(Frame, bool),
    /// The first feeding is done; the second begins at this position.
    Variant(usize),
    /// All are done, and this was written.
    End(Vec<u32>),
}

/// A what-if under way: what it is about, and the way to the helper that takes its frames.
pub(super) struct WhatIfRun {
    /// What was asked for.
    pub request: WhatIf,
    /// What was written under the other knobs.
    pub written: Vec<u32>,
    steps: SyncSender<Step>,
    /// What the helper had no room for yet.
    held: VecDeque<Step>,
}

impl WhatIfRun {
    /// A run, and what its helper is to do.
    pub(super) fn new(
        comparison: Comparison,
        ctx: &egui::Context,
    ) -> (
        Self,
        impl FnOnce(&Interest) -> Result<Done, String> + Send + 'static,
    ) {
        let (steps, come) = sync_channel(N_FRAMES);
        let run = Self {
            request: comparison.request.clone(),
            written: Vec::new(),
            steps,
            held: VecDeque::new(),
        };
        let wake = ctx.clone();
        let body = move |interest: &Interest| comparison.take(&come, interest, &wake);
        (run, body)
    }

    /// Takes what a feeding recorded.
    pub(super) fn push(&mut self, purpose: &Purpose, frame: Frame) {
        match purpose {
            Purpose::WhatIfBase => self.tell(Step::Frame(frame, false)),
            Purpose::WhatIfForced => self.tell(Step::Frame(frame, true)),
            _ => {}
        }
    }

    /// The second feeding begins at this position.
    pub(super) fn begin_variant(&mut self, position: usize) {
        self.tell(Step::Variant(position));
    }

    /// All feedings are done: the helper brings what came out.
    pub(super) fn end(&mut self) {
        let written = std::mem::take(&mut self.written);
        self.tell(Step::End(written));
    }

    fn tell(&mut self, step: Step) {
        self.held.push_back(step);
        self.go_on();
    }

    /// Hands on what is held, as far as there is room; whether all of it went.
    pub(super) fn go_on(&mut self) -> bool {
        while let Some(step) = self.held.pop_front() {
            match self.steps.try_send(step) {
                Ok(()) => {}
                Err(TrySendError::Full(step)) => {
                    self.held.push_front(step);
                    return false;
                }
                // A helper that has ended tells why.
                Err(TrySendError::Disconnected(_)) => self.held.clear(),
            }
        }
        true
    }
}

/// Both sides of a what-if, as far as they have come: the helper's.
pub(super) struct Comparison {
    request: WhatIf,
    /// The token before the first that is written anew: what is compared begins with what was expected
    /// after it.
    from: usize,
    /// The whole timeline.
    ids: Vec<u32>,
    /// The tokens as they are.
    base: Recording,
    /// The same tokens under the other knobs.
    forced: Recording,
    texts: Texts,
    /// Logits after `from`, `from + 1`, …
    base_logits: Vec<Vec<f32>>,
    forced_logits: Vec<Vec<f32>>,
}

impl Comparison {
    /// A run over the timeline `ids`; the recordings are empty ones of the two.
    pub(super) fn new(
        request: WhatIf,
        ids: Vec<u32>,
        base: Recording,
        forced: Recording,
        texts: Texts,
    ) -> Self {
        Self {
            from: request.from.saturating_sub(1),
            request,
            ids,
            base,
            forced,
            texts,
            base_logits: Vec::new(),
            forced_logits: Vec::new(),
        }
    }

    fn take(
        mut self,
        steps: &Receiver<Step>,
        interest: &Interest,
        wake: &egui::Context,
    ) -> Result<Done, String> {
        for step in steps {
            // There is room for another.
            wake.request_repaint();
            match step {
                Step::Frame(frame, is_forced) => self.push(&frame, is_forced),
                Step::Variant(position) => self.forced.take_over(&self.base, position),
                Step::End(written) => {
                    let sides = self.sides(&written, interest);
                    return sides
                        .map(|sides| Done::Sides(Box::new(sides)))
                        .ok_or_else(|| "it was called off".into());
                }
            }
        }
        Err("it was called off".into())
    }

    fn push(&mut self, frame: &Frame, is_forced: bool) {
        let (recording, rows) = if is_forced {
            (&mut self.forced, &mut self.forced_logits)
        } else {
            (&mut self.base, &mut self.base_logits)
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

    /// What came out, once the feedings are done; `None` if nobody wants it.
    fn sides(self, written: &[u32], interest: &Interest) -> Option<Sides> {
        let after = self.request.from.min(self.ids.len());
        let mut divergences = Vec::new();
        let pairs = self.base_logits.iter().zip(&self.forced_logits);
        for (row, (base, forced)) in pairs.enumerate() {
            if !interest.lasts() {
                return None;
            }
            divergences.push(self.divergence(self.from + row, base, forced));
        }
        let text = |id| (self.texts)(id);
        Some(Sides {
            words: self.request.words(),
            from: self.request.from,
            base_tokens: plain_tokens(&self.ids[after..], 0, text),
            variant_tokens: plain_tokens(written, 0, text),
            divergences,
            base: self.base,
            variant: self.forced,
        })
    }

    fn divergence(&self, position: usize, base: &[f32], forced: &[f32]) -> Divergence {
        let difference = |layer| {
            compare::selection_difference(&self.base, &self.forced, position, layer)
                .unwrap_or_default()
        };
        let (only_base, only_variant) = (0..self.base.header().n_layers)
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
