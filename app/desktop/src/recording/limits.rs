//! How much a recording may take, and what it takes.
//!
//! All changes of rows and tokens go through here, so that the sum is always at hand.

use std::sync::Arc;

use super::row::{KINDS, Kind, Row, allocated, allocated_of};
use super::{Candidate, Recording, TokenInfo};

/// Bytes that parts of a recording may take. Above, the part is dropped of the rows that were filled
/// first, down to seven eighths, and the recording says so where it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Selections, experts and norms of all layers.
    pub layers_bytes: usize,
    /// Attention weights per head.
    pub heads_bytes: usize,
    /// Whole rows of logits, which only KL needs; 0: none are kept.
    pub logits_bytes: usize,
    /// Times of single ops.
    pub ops_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            layers_bytes: 1 << 30,
            heads_bytes: 256 << 20,
            logits_bytes: 0,
            ops_bytes: 64 << 20,
        }
    }
}

impl Limits {
    /// As by default, with as many whole rows of logits as fit 256 MiB, to be compared with others.
    pub fn with_logits() -> Self {
        Self {
            logits_bytes: 256 << 20,
            ..Self::default()
        }
    }

    fn of(&self, kind: Kind) -> usize {
        match kind {
            Kind::Layers => self.layers_bytes,
            Kind::Heads => self.heads_bytes,
            Kind::Logits => self.logits_bytes,
            Kind::Ops => self.ops_bytes,
        }
    }
}

/// What rows and tokens take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sizes {
    kinds: [usize; KINDS.len()],
    rest: usize,
    pub(super) token_bytes: usize,
}

impl Sizes {
    pub(super) fn add(&mut self, row: &Row) {
        for kind in KINDS {
            self.kinds[kind as usize] += row.bytes_of(kind);
        }
        self.rest += row.rest_bytes();
    }

    /// The row goes.
    pub(super) fn take(&mut self, row: &Row) {
        for kind in KINDS {
            self.kinds[kind as usize] -= row.bytes_of(kind);
        }
        self.rest -= row.rest_bytes();
    }
}

/// Heap that a token takes.
pub(super) fn token_bytes(token: Option<&TokenInfo>) -> usize {
    let Some(token) = token else { return 0 };
    let candidates = &token.candidates;
    let texts = candidates
        .iter()
        .map(|candidate| allocated(candidate.text.capacity()));
    // Behind an `Arc` with its two counts.
    allocated(size_of::<TokenInfo>() + 16)
        + allocated(token.text.capacity())
        + allocated(candidates.capacity() * size_of::<Candidate>())
        + texts.sum::<usize>()
}

impl Recording {
    /// Bytes of heap that the recording takes. Rows that a clone shares count in both.
    pub fn bytes(&self) -> usize {
        let Sizes {
            kinds,
            rest,
            token_bytes,
        } = &self.sizes;
        let lists = allocated(self.tokens.capacity() * size_of::<Option<Arc<TokenInfo>>>())
            + allocated(self.rows.capacity() * size_of::<Option<Arc<Row>>>());
        let pending = self
            .pending
            .as_ref()
            .map_or(0, |pending| allocated_of(&pending.logits));
        let draw = self
            .pending_draw
            .as_ref()
            .map_or(0, |(_, draw)| allocated_of(draw));
        kinds.iter().sum::<usize>() + rest + token_bytes + lists + pending + draw
    }

    /// What parts of the recording may take.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Sets what parts of the recording may take; what is over is dropped at once.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
        self.drop_oldest();
    }

    /// Changes the token at `position`; a timeline that ends before grows.
    pub(super) fn change_token(
        &mut self,
        position: usize,
        change: impl FnOnce(&mut Option<TokenInfo>),
    ) {
        self.grow(position + 1);
        let slot = &mut self.tokens[position];
        self.sizes.token_bytes -= token_bytes(slot.as_deref());
        let mut token = slot.take().map(Arc::unwrap_or_clone);
        change(&mut token);
        self.sizes.token_bytes += token_bytes(token.as_ref());
        *slot = token.map(Arc::new);
    }

    /// Changes the row at `position`; a timeline that ends before grows.
    pub(super) fn change_row(&mut self, position: usize, change: impl FnOnce(&mut Row)) {
        self.grow(position + 1);
        self.n_arrived += 1;
        let slot = &mut self.rows[position];
        if let Some(row) = slot {
            self.sizes.take(row);
        }
        let row = Arc::make_mut(slot.get_or_insert_default());
        row.arrived = self.n_arrived;
        change(row);
        self.sizes.add(row);
    }

    fn grow(&mut self, n: usize) {
        if n > self.tokens.len() {
            self.tokens.resize(n, None);
            self.rows.resize(n, None);
        }
    }

    /// Drops parts of the rows that were filled first, until every part is within its limit.
    pub(super) fn drop_oldest(&mut self) {
        for kind in KINDS {
            let limit = self.limits.of(kind);
            if self.sizes.kinds[kind as usize] <= limit {
                continue;
            }
            let mut rows: Vec<&mut Arc<Row>> = self.rows.iter_mut().flatten().collect();
            rows.retain(|row| row.bytes_of(kind) > 0);
            rows.sort_by_key(|row| row.arrived);
            for row in rows {
                // Some room, so that the next row does not begin the search again.
                if self.sizes.kinds[kind as usize] <= limit - limit / 8 {
                    break;
                }
                self.sizes.take(row);
                let row = Arc::make_mut(row);
                row.drop_part(kind);
                self.sizes.add(row);
            }
        }
    }
}
