//! From a frame of the engine to rows.
//!
//! What does not hold together is left out and told; everything else of the frame is kept.

use engine::trace::{Frame, Site, Stage};

use super::arrays::{Layer, Problems, floats, layers};
use super::compact::{put_floats, put_halves};
use super::logits::Expected;
use super::packed::Packed;
use super::row::{Heads, SECTIONS, Section};
use super::selection::{self, Recorded};
use super::{Origin, Pending, Recording, TokenInfo, experts};

impl Recording {
    /// Adds the rows of a frame, any number of them at any position. What a layer recorded of a position
    /// replaces what it recorded before, as long as the token there is the same; another token replaces
    /// everything from its position on. The layer after the last, which is the MTP layer's, is left out.
    ///
    /// A row's logits become log-probability, entropy and candidates of the token after it, as soon as
    /// that is known.
    ///
    /// What is malformed is left out: the answer says what and why, a sentence each.
    pub fn push_frame(&mut self, frame: &Frame) -> Vec<String> {
        let n = frame.ids.len();
        let max = self.max_positions();
        let fits = frame.position.checked_add(n).is_some_and(|end| end <= max);
        if n == 0 || !fits {
            return vec![format!(
                "a frame of {n} tokens at position {}, expected 1 or more within {max} positions",
                frame.position
            )];
        }
        let mut problems = Problems::default();
        let layers = layers(frame, &self.header, &mut problems);
        let site = Site {
            layer: None,
            stage: Stage::Logits,
        };
        let logits = frame.values.get(&site);
        let logits = logits.and_then(|value| floats(site, value, n, None, &mut problems));
        self.meet(frame);
        for row in 0..n {
            let position = frame.position + row;
            let n_kept = self.n_kept();
            let old = self
                .rows
                .get(position)
                .cloned()
                .flatten()
                .unwrap_or_default();
            let mut heads = old.heads.clone();
            let packed = {
                let context = Context {
                    position,
                    row,
                    n_kept,
                    n_routed_experts: self.header.n_routed_experts,
                };
                Packed::build(layers.len() * SECTIONS.len(), |at, out| {
                    let (layer, section) = (at / SECTIONS.len(), SECTIONS[at % SECTIONS.len()]);
                    let start = out.len();
                    let parts = &layers[layer];
                    match section {
                        Section::Selection => {
                            context.put_selection(layer, parts, out, &mut heads, &mut problems);
                        }
                        Section::Experts => context.put_experts(layer, parts, out, &mut problems),
                        Section::GateScores => {
                            if let Some(scores) = &parts.gate_scores {
                                put_halves(out, scores.row(row).iter().copied());
                            }
                        }
                        Section::ResidualNorm => {
                            if let Some(norm) = &parts.norm {
                                put_floats(out, norm.row(row).iter().copied());
                            }
                        }
                    }
                    if out.len() == start {
                        out.extend(old.layers.get(at).unwrap_or_default());
                    }
                })
            };
            drop(old);
            let logits = logits.as_ref().map(|logits| logits.row(row));
            let expected = logits.and_then(Expected::of);
            let keeps_logits = self.limits.logits_bytes > 0;
            self.change_row(position, |kept| {
                kept.is_recorded = true;
                if !packed.is_empty() {
                    kept.dropped.layers = false;
                    kept.layers = packed;
                }
                let has = |layer: &u32| heads.iter().any(|heads| heads.layer == *layer);
                kept.dropped.heads.retain(|layer| !has(layer));
                kept.heads = heads;
                if let (Some(expected), Some(logits)) = (expected, logits) {
                    kept.expected = Some(expected);
                    if keeps_logits {
                        kept.dropped.logits = false;
                        kept.logits = Some(logits.into());
                    }
                }
            });
            if let Some(logits) = logits {
                self.describe(position + 1, Some(logits), true);
            }
        }
        if let Some(logits) = logits {
            self.pending = Some(Pending {
                position: frame.position + n - 1,
                logits: logits.row(n - 1).into(),
            });
        }
        self.drop_oldest();
        problems.sentences
    }

    /// Makes the tokens of a frame known. One that differs from what was known ends what was there.
    fn meet(&mut self, frame: &Frame) {
        for (row, &id) in frame.ids.iter().enumerate() {
            let position = frame.position + row;
            match self.token(position) {
                Some(token) if token.id == id => continue,
                Some(_) => self.truncate(position),
                None => {}
            }
            let text = self.text(id);
            self.change_token(position, |token| {
                *token = Some(TokenInfo {
                    id,
                    text,
                    origin: Origin::Prompt,
                    logprob: None,
                    entropy: None,
                    candidates: Vec::new(),
                });
            });
            self.describe(position, None, true);
        }
    }
}

/// Where the sections of a row are written.
struct Context {
    position: usize,
    /// Row of the frame.
    row: usize,
    n_kept: usize,
    n_routed_experts: usize,
}

impl Context {
    fn put_selection(
        &self,
        layer: usize,
        parts: &Layer,
        out: &mut Vec<u8>,
        heads: &mut Vec<Heads>,
        problems: &mut Problems,
    ) {
        let Some(slots) = parts.positions.map(|positions| positions.row(self.row)) else {
            return;
        };
        let (used, positions) = match used_slots(slots, self.position) {
            Ok(used) => used,
            Err(problem) => {
                let site = Site {
                    layer: Some(layer),
                    stage: Stage::SelectedPositions,
                };
                problems.tell(site, || problem);
                return;
            }
        };
        let pick = |values: &[f32]| -> Vec<f32> { used.iter().map(|&slot| values[slot]).collect() };
        let scores = parts.scores.map(|scores| pick(scores.row(self.row)));
        let per_head: Option<Vec<f32>> = parts.heads.map(|heads| {
            let row = heads.row(self.row);
            let of_head = |head: usize| &row[head * heads.width..(head + 1) * heads.width];
            (0..heads.n_heads)
                .flat_map(|head| pick(of_head(head)))
                .collect()
        });
        let weights = match (&parts.mean, &per_head, parts.heads) {
            (Some(mean), _, _) => Some(pick(mean.row(self.row))),
            (None, Some(per_head), Some(heads)) => Some(mean(per_head, used.len(), heads.n_heads)),
            _ => None,
        };
        let recorded = Recorded {
            positions: &positions,
            scores: scores.as_deref(),
            weights: weights.as_deref(),
        };
        selection::put(out, recorded, self.n_kept);
        let layer = layer as u32;
        let at = heads.binary_search_by_key(&layer, |heads| heads.layer);
        match (per_head, at) {
            (Some(weights), at) => {
                let new = Heads {
                    layer,
                    positions: positions.into(),
                    weights: weights.into(),
                };
                match at {
                    Ok(at) => heads[at] = new,
                    Err(at) => heads.insert(at, new),
                }
            }
            // Weights of another selection than the one that is shown would mislead.
            (None, Ok(at)) if *heads[at].positions != *positions => {
                heads.remove(at);
            }
            (None, _) => {}
        }
    }

    fn put_experts(&self, layer: usize, parts: &Layer, out: &mut Vec<u8>, problems: &mut Problems) {
        let Some(slots) = parts.experts.map(|experts| experts.row(self.row)) else {
            return;
        };
        let weights = parts.expert_weights.map(|weights| weights.row(self.row));
        if let Err(problem) = experts::put(out, slots, weights, self.n_routed_experts) {
            let site = Site {
                layer: Some(layer),
                stage: Stage::Experts,
            };
            problems.tell(site, || problem);
        }
    }
}

/// Mean over heads of `[heads, n]`, in the engine's order of summing.
fn mean(per_head: &[f32], n: usize, n_heads: usize) -> Vec<f32> {
    let mut mean = vec![0.0; n];
    for head in 0..n_heads {
        for (mean, weight) in mean.iter_mut().zip(&per_head[head * n..]) {
            *mean += weight / n_heads as f32;
        }
    }
    mean
}

/// Slots that hold a position, and these, ascending. −1 is padding.
fn used_slots(slots: &[i32], position: usize) -> Result<(Vec<usize>, Vec<u32>), String> {
    let mut used: Vec<usize> = (0..slots.len()).filter(|&slot| slots[slot] != -1).collect();
    if !used.is_sorted_by_key(|&slot| slots[slot]) {
        used.sort_by_key(|&slot| slots[slot]);
    }
    let mut positions: Vec<u32> = Vec::with_capacity(used.len());
    for &slot in &used {
        let found = slots[slot];
        let selected = usize::try_from(found)
            .ok()
            .filter(|&selected| selected <= position);
        let Some(selected) = selected.map(|selected| selected as u32) else {
            return Err(format!(
                "position {position} reads {found}, expected 0 to {position}"
            ));
        };
        if positions.last() == Some(&selected) {
            return Err(format!(
                "position {position} reads {found} twice, expected once"
            ));
        }
        positions.push(selected);
    }
    Ok((used, positions))
}
