//! What went on inside a model while it read and wrote one timeline, kept compactly.
//!
//! A recording is filled from the engine's frames and read by the views of the inspector. It keeps
//! selections exactly, and says where it kept less than it was given. Clones are cheap, since they share
//! their rows: a variant of a timeline is a clone, cut back and filled anew. Comparing two recordings is
//! the business of [`compare`], files that of `file`; nothing here draws.

mod arrays;
mod compact;
pub mod compare;
mod experts;
mod file;
mod limits;
mod logits;
mod packed;
mod push;
mod row;
mod selection;
mod statistics;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panic")]
mod testing;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panic")]
mod tests;
mod types;

use std::fmt;
use std::sync::Arc;

pub use experts::{Balance, balance};
pub use limits::Limits;
pub use logits::N_CANDIDATES;
pub use selection::{N_EXACT, Totals};
pub use types::{
    Candidate, Header, N_RECENT, N_SINK, OpTiming, Origin, Selection, Split, StepTiming, TokenInfo,
};

use compact::Reader;
use limits::Sizes;
use row::{Row, SECTIONS, Section};
use selection::Decoded;

/// Gives the text of an id.
pub type Texts = Arc<dyn Fn(u32) -> String + Send + Sync>;

/// Positions that a recording can have, whatever its model's context: nothing that a damaged frame or
/// file claims makes it allocate for more.
pub const MAX_POSITIONS: usize = 1 << 22;

/// Values that fit this many bytes are all kept, see [`Recording::n_kept`].
const KEPT_BYTES: usize = 256 << 20;

/// One recorded timeline. Clones share their rows.
#[derive(Clone, Default)]
pub struct Recording {
    header: Header,
    texts: Option<Texts>,
    tokens: Vec<Option<Arc<TokenInfo>>>,
    /// As many as there are tokens.
    rows: Vec<Option<Arc<Row>>>,
    pending: Option<Pending>,
    /// Draw probabilities of a token that is not known yet.
    pending_draw: Option<(usize, Vec<(u32, f32)>)>,
    limits: Limits,
    sizes: Sizes,
    /// Rows filled so far.
    n_arrived: u64,
}

/// The last logits that came, until the token that follows them is known.
#[derive(Clone, Debug)]
struct Pending {
    /// Of the row that they belong to.
    position: usize,
    logits: Arc<[f32]>,
}

impl fmt::Debug for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recording")
            .field("header", &self.header)
            .field("n_tokens", &self.n_tokens())
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}

impl Recording {
    /// An empty recording.
    pub fn new(header: Header) -> Self {
        Self {
            header,
            ..Self::default()
        }
    }

    /// What the model looks like.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Positions that are known, recorded or not.
    pub fn n_tokens(&self) -> usize {
        self.tokens.len()
    }

    /// What is known of the token at `position`.
    pub fn token(&self, position: usize) -> Option<&TokenInfo> {
        self.tokens.get(position)?.as_deref()
    }

    /// Whether a frame came for `position`.
    pub fn is_recorded(&self, position: usize) -> bool {
        self.row(position).is_some_and(|row| row.is_recorded)
    }

    /// Gives texts to ids. Before the first frame: texts that are there already stay. Without this a text
    /// is `#id`.
    pub fn set_texts(&mut self, texts: Texts) {
        self.texts = Some(texts);
    }

    /// Sets the tokens from `from` on and drops what lies behind them. What was recorded stays up to the
    /// first token that is another than before. Log-probability, entropy and candidates that `tokens`
    /// leave out are filled in from recorded logits.
    pub fn set_tokens(&mut self, from: usize, tokens: Vec<TokenInfo>) {
        let end = from.saturating_add(tokens.len());
        if end > MAX_POSITIONS {
            log::error!("{end} tokens in a recording, expected at most {MAX_POSITIONS}");
            return;
        }
        for (position, new) in (from..).zip(tokens) {
            let mut new = new;
            match self.token(position) {
                Some(old) if old.id == new.id => {
                    new.logprob = new.logprob.or(old.logprob);
                    new.entropy = new.entropy.or(old.entropy);
                    if new.candidates.is_empty() {
                        new.candidates.clone_from(&old.candidates);
                    }
                }
                Some(_) => self.truncate(position),
                None => {}
            }
            self.change_token(position, |token| *token = Some(new));
            self.describe(position, None, false);
            if self
                .pending_draw
                .as_ref()
                .is_some_and(|(of, _)| *of == position)
                && let Some((_, draw)) = self.pending_draw.take()
            {
                self.set_draw(position, &draw);
            }
        }
        self.truncate(end);
    }

    /// Becomes the first `end` positions of another recording, which share their memory.
    pub fn take_over(&mut self, other: &Self, end: usize) {
        self.truncate(0);
        for position in 0..end.min(other.n_tokens()) {
            if let Some(token) = &other.tokens[position] {
                self.sizes.token_bytes += limits::token_bytes(Some(token));
            }
            if let Some(row) = &other.rows[position] {
                self.sizes.add(row);
            }
            self.tokens.push(other.tokens[position].clone());
            self.rows.push(other.rows[position].clone());
        }
        self.n_arrived = other.n_arrived;
    }

    /// Forgets `position` and what lies behind it.
    pub fn truncate(&mut self, position: usize) {
        for at in (position..self.n_tokens()).rev() {
            self.sizes.token_bytes -= limits::token_bytes(self.tokens[at].as_deref());
            if let Some(row) = &self.rows[at] {
                self.sizes.take(row);
            }
            self.tokens.pop();
            self.rows.pop();
        }
        if self
            .pending
            .as_ref()
            .is_some_and(|pending| pending.position >= position)
        {
            self.pending = None;
        }
        if self
            .pending_draw
            .as_ref()
            .is_some_and(|(of, _)| *of >= position)
        {
            self.pending_draw = None;
        }
    }

    /// Sets the draw probabilities of the candidates of the token at `position`, known already or next to
    /// come. `draw` holds all ids that could have been drawn: the others get 0.
    pub fn set_draw(&mut self, position: usize, draw: &[(u32, f32)]) {
        if self.token(position).is_none() {
            self.pending_draw = Some((position, draw.to_vec()));
            return;
        }
        self.change_token(position, |token| {
            for candidate in token.iter_mut().flat_map(|token| &mut token.candidates) {
                let drawn = draw.iter().find(|(id, _)| *id == candidate.id);
                let probability = drawn.map_or(0.0, |(_, probability)| *probability);
                candidate.draw_probability = Some(probability);
            }
        });
    }

    /// The most likely tokens after `position`, also where none came yet; empty if its logits were not
    /// recorded.
    pub fn candidates_after(&self, position: usize) -> Vec<Candidate> {
        let expected = self.row(position).and_then(|row| row.expected.as_ref());
        let best = expected.map_or(&[][..], |expected| &expected.best);
        let candidate = |&(id, probability): &(u32, f32)| Candidate {
            id,
            text: self.text(id),
            probability,
            draw_probability: None,
        };
        best.iter().map(candidate).collect()
    }

    /// Entropy in nats of the distribution after `position`, NaN if its logits were broken.
    pub fn entropy_after(&self, position: usize) -> Option<f32> {
        Some(self.row(position)?.expected.as_ref()?.entropy)
    }

    /// The logits after `position`, where they are kept (see [`Limits::logits_bytes`]).
    pub fn logits(&self, position: usize) -> Option<&[f32]> {
        self.row(position)?.logits.as_deref()
    }

    /// What `position` read in `layer`; `None` if it was not recorded.
    pub fn selection(&self, position: usize, layer: usize) -> Option<Selection> {
        let decoded = self.decoded(position, layer)?;
        Some(Selection {
            scores: decoded.spread(decoded.scores.as_deref()),
            weights: decoded.spread(decoded.weights.as_deref()),
            positions: decoded.positions,
        })
    }

    /// The positions that `position` read in `layer`, ascending: faster than [`Recording::selection`].
    pub fn selected_positions(&self, position: usize, layer: usize) -> Option<Vec<u32>> {
        let record = self.section(position, layer, Section::Selection)?;
        selection::selected(record, position as u32 + 1)
    }

    /// How many positions `position` read in `layer`.
    pub fn n_selected(&self, position: usize, layer: usize) -> Option<usize> {
        Some(self.totals(position, layer)?.n_selected)
    }

    /// What is exact of that selection even where values were not kept.
    pub fn totals(&self, position: usize, layer: usize) -> Option<Totals> {
        selection::totals(self.section(position, layer, Section::Selection)?)
    }

    /// Positions of `position`'s selection in `layer` and their weights per head, `[heads, positions]`;
    /// `None` if heads were not recorded or were dropped for space.
    pub fn heads(&self, position: usize, layer: usize) -> Option<(&[u32], &[f32])> {
        let heads = &self.row(position)?.heads;
        let at = heads
            .binary_search_by_key(&layer, |heads| heads.layer as usize)
            .ok()?;
        Some((&heads[at].positions, &heads[at].weights))
    }

    /// Whether heads were recorded here and then dropped for space.
    pub fn heads_dropped(&self, position: usize, layer: usize) -> bool {
        let dropped = self.row(position).map(|row| &row.dropped.heads);
        dropped.is_some_and(|dropped| dropped.contains(&(layer as u32)))
    }

    /// Whether selections and experts of `position` were recorded and then dropped for space.
    pub fn layers_dropped(&self, position: usize) -> bool {
        self.row(position).is_some_and(|row| row.dropped.layers)
    }

    /// Whether the logits after `position` were kept and then dropped for space.
    pub fn logits_dropped(&self, position: usize) -> bool {
        self.row(position).is_some_and(|row| row.dropped.logits)
    }

    /// Whether the ops of the step of `position` were timed and then dropped for space.
    pub fn ops_dropped(&self, position: usize) -> bool {
        self.row(position).is_some_and(|row| row.dropped.ops)
    }

    /// Norm of the residual stream after `layer`.
    pub fn residual_norm(&self, position: usize, layer: usize) -> Option<f32> {
        Reader(self.section(position, layer, Section::ResidualNorm)?).f32()
    }

    /// Sets the times of the step whose last token was at `position`.
    pub fn set_timing(&mut self, position: usize, timing: StepTiming) {
        if position >= self.max_positions() {
            log::error!("times of position {position}, beyond the context");
            return;
        }
        self.change_row(position, |row| {
            row.dropped.ops = false;
            row.timing = Some(Box::new(timing));
        });
        self.drop_oldest();
    }

    /// Times of the step whose last token was at `position`.
    pub fn step_timing(&self, position: usize) -> Option<&StepTiming> {
        self.row(position)?.timing.as_deref()
    }

    /// Selections of more than [`N_EXACT`] positions keep this many values: 256 for large models, and for
    /// small ones what a full context of such selections fits into 256 MiB. Positions and totals are
    /// always those of all.
    pub fn n_kept(&self) -> usize {
        // Of a long context, only so many tokens are expected to be recorded.
        let n_rows = match self.header.context {
            0 => 4096,
            context => context.min(4096),
        };
        let each = KEPT_BYTES / (4 * n_rows * self.header.n_layers.max(1));
        // The largest power of two.
        1 << each.max(N_EXACT).ilog2()
    }

    fn max_positions(&self) -> usize {
        match self.header.context {
            0 => MAX_POSITIONS,
            context => context.min(MAX_POSITIONS),
        }
    }

    fn text(&self, id: u32) -> String {
        self.texts
            .as_ref()
            .map_or_else(|| format!("#{id}"), |texts| texts(id))
    }

    fn row(&self, position: usize) -> Option<&Row> {
        self.rows.get(position)?.as_deref()
    }

    /// The record of a layer.
    fn section(&self, position: usize, layer: usize, section: Section) -> Option<&[u8]> {
        if layer >= self.header.n_layers {
            return None;
        }
        let at = layer * SECTIONS.len() + section as usize;
        self.row(position)?.layers.get(at)
    }

    fn decoded(&self, position: usize, layer: usize) -> Option<Decoded> {
        let record = self.section(position, layer, Section::Selection)?;
        selection::decode(record, position as u32 + 1)
    }

    /// Fills in what the logits before `position` say of the token there: what is missing, or all of it if
    /// `replace`. `logits` are those of the row before, if at hand.
    fn describe(&mut self, position: usize, logits: Option<&[f32]>, replace: bool) {
        let Some(before) = position.checked_sub(1) else {
            return;
        };
        let Some(row) = self.rows.get(before).cloned().flatten() else {
            return;
        };
        let (Some(expected), Some(token)) = (&row.expected, self.token(position)) else {
            return;
        };
        let pending = self
            .pending
            .as_ref()
            .filter(|pending| pending.position == before);
        let logits = logits
            .or(row.logits.as_deref())
            .or(pending.map(|pending| &*pending.logits));
        let logprob = expected.logprob(token.id, logits);
        let mut candidates = self.candidates_after(before);
        if candidates.iter().all(|candidate| candidate.id != token.id) {
            candidates.push(Candidate {
                id: token.id,
                text: token.text.clone(),
                probability: logprob.map_or(f32::NAN, f32::exp),
                draw_probability: None,
            });
        }
        // One more than there was room for would double it, for every token.
        candidates.shrink_to_fit();
        for candidate in &mut candidates {
            let old = token.candidates.iter().find(|old| old.id == candidate.id);
            candidate.draw_probability = old.and_then(|old| old.draw_probability);
        }
        let entropy = Some(expected.entropy);
        self.change_token(position, |token| {
            let Some(token) = token else { return };
            if replace || token.logprob.is_none() {
                token.logprob = logprob;
            }
            if replace || token.entropy.is_none() {
                token.entropy = entropy;
            }
            if replace || token.candidates.is_empty() {
                token.candidates = candidates;
            }
        });
    }
}
