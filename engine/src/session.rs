//! One mutable timeline: a model, its caches, and the tokens it has seen.
//!
//! A session turns tokens into logits and can go back. Choosing tokens is the business of
//! [`crate::sampler`], looping that of [`crate::generate`], threads that of [`crate::runner`].

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::cache::{Cache, CacheBytes, CacheFormat};
use crate::config::MoeConfig;
use crate::model::{ForwardOptions, LogitRows, Model, Output, Span};
use crate::pass::Records;
use crate::replay::{RouteTrace, SelectionTrace};
use crate::sampler::{DeviceDraw, Picked};
use crate::trace::{Frame, Trace, Watch, WatchedRows};
use crate::{Error, Result};

/// Tokens fed to the model at a time during prefill: stop and progress work between chunks.
pub const DEFAULT_CHUNK_TOKENS: usize = 256;

/// Settings of a session that stay as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionOptions {
    /// How caches store numbers.
    pub cache_format: CacheFormat,
    /// Tokens of a prefill chunk.
    pub chunk_tokens: usize,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            cache_format: CacheFormat::default(),
            chunk_tokens: DEFAULT_CHUNK_TOKENS,
        }
    }
}

/// What the last token of a pass leaves to go on with.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// Logits, to choose by.
    Logits(Vec<f32>),
    /// The device has chosen.
    Picked(Picked),
}

/// One mutable timeline.
#[derive(Debug)]
pub struct Session {
    model: Arc<Model>,
    cache: Cache,
    tokens: Vec<u32>,
    options: SessionOptions,
    forward: ForwardOptions,
    watch: Watch,
    frames: Vec<Frame>,
    past: Option<Past>,
    routes: Option<RouteTrace>,
    selections: Option<SelectionTrace>,
}

/// The longest beginning of a timeline that was computed under one set of knobs. What comes after it has
/// a past of several kinds, so no set of knobs alone gives it again.
#[derive(Debug)]
struct Past {
    forward: ForwardOptions,
    n_tokens: usize,
}

impl Session {
    /// An empty timeline.
    ///
    /// # Errors
    /// The cache format does not go with the model or device, or a chunk of 0 tokens.
    pub fn new(model: Arc<Model>, options: SessionOptions) -> Result<Self> {
        if options.chunk_tokens == 0 {
            return Err(Error::Setting {
                name: "prefill chunk".into(),
                found: "0 tokens".into(),
                expected: "at least 1".into(),
            });
        }
        Ok(Self {
            cache: model.new_cache(options.cache_format)?,
            model,
            tokens: Vec::new(),
            options,
            forward: ForwardOptions::default(),
            watch: Watch::default(),
            frames: Vec::new(),
            past: None,
            routes: None,
            selections: None,
        })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Tokens seen so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Position of the next token.
    pub fn position(&self) -> usize {
        self.tokens.len()
    }

    /// Positions that the context holds: the model's, or as many as the device's caches can.
    pub fn context(&self) -> usize {
        let context = self.model.config().max_position_embeddings;
        context.min(self.cache.most_tokens())
    }

    /// Refuses what cannot be fed at `position`, before anything is computed.
    pub(crate) fn check(&self, ids: &[u32], position: usize) -> Result<()> {
        self.model.check_ids(ids, position)?;
        self.cache.check(position + ids.len())
    }

    /// Bytes that the caches take.
    pub fn cache_bytes(&self) -> CacheBytes {
        self.cache.bytes()
    }

    /// Sets the knobs for the tokens to come. Those that are there stay as they were computed:
    /// [`Session::common_past`] tells how far they fit.
    ///
    /// # Errors
    /// `index_topk` is 0, the model has no indexer to take it, the device has no such form of
    /// attention, selector or intervention, or an intervention that the model cannot follow.
    pub fn set_forward(&mut self, forward: ForwardOptions) -> Result<()> {
        self.model.check_options(&forward)?;
        self.forward = forward;
        Ok(())
    }

    /// Tokens of a prefill chunk.
    pub fn chunk_tokens(&self) -> usize {
        self.options.chunk_tokens.min(self.model.max_pass_tokens())
    }

    /// The knobs in force.
    pub fn forward_options(&self) -> &ForwardOptions {
        &self.forward
    }

    /// Records these stages from now on; what was recorded before stays until taken.
    pub fn watch(&mut self, watch: Watch) {
        self.watch = watch;
    }

    /// Takes what was recorded since the last call.
    pub fn take_frames(&mut self) -> Vec<Frame> {
        std::mem::take(&mut self.frames)
    }

    /// Records every route from the next token on (Keep Routing).
    ///
    /// # Errors
    /// The model has no MoE layers.
    pub fn record_routes(&mut self) -> Result<()> {
        let (moe, layers) = self.moe()?;
        let trace = RouteTrace::new(
            moe.n_routed_experts,
            moe.num_experts_per_tok,
            &layers,
            self.position(),
        )?;
        self.routes = Some(trace);
        Ok(())
    }

    /// Records every selection from the next token on: what each token reads, in each layer that
    /// selects for itself.
    ///
    /// # Errors
    /// On a GPU, whose selections stay there.
    pub fn record_selections(&mut self) -> Result<()> {
        if self.model.is_on_gpu() {
            return Err(Error::Setting {
                name: "recorded selections".into(),
                found: self.model.device().info.id.clone(),
                expected: "the CPU or a portable device".into(),
            });
        }
        self.selections = Some(SelectionTrace::new());
        Ok(())
    }

    /// The recorded selections, and no more recording.
    pub fn take_selections(&mut self) -> Option<SelectionTrace> {
        self.selections.take()
    }

    /// MoE sizes and layers of the model.
    fn moe(&self) -> Result<(&MoeConfig, Vec<usize>)> {
        let config = self.model.config();
        let moe = config.moe.as_ref().ok_or_else(|| Error::Setting {
            name: "routes".into(),
            found: "a model without MoE layers".into(),
            expected: "one with experts to route to".into(),
        })?;
        Ok((moe, config.moe_layers()))
    }

    /// The recorded routes, and no more recording.
    pub fn take_routes(&mut self) -> Option<RouteTrace> {
        self.routes.take()
    }

    /// Replays these routes where they know a token, instead of the gate's own choice: sets
    /// [`crate::model::Intervention::routes`] of the knobs in force.
    ///
    /// # Errors
    /// The model has no MoE layers, or the routes are from a model of other sizes.
    pub fn replay_routes(&mut self, routes: Option<RouteTrace>) -> Result<()> {
        let mut forward = self.forward.clone();
        forward.intervention.routes = routes.map(Arc::new);
        self.set_forward(forward)
    }

    /// Feeds `ids` and returns the logits after the last of them.
    ///
    /// # Errors
    /// See [`Session::advance_with`].
    pub fn advance(&mut self, ids: &[u32]) -> Result<Vec<f32>> {
        let logits = self.advance_with(ids, |_, _| ControlFlow::Continue(()))?;
        Ok(logits.expect("nobody broke off"))
    }

    /// Feeds `ids` chunk by chunk. After each chunk `progress(done, total)` may break off: then the
    /// result is `None` and the chunks done so far stay in the timeline.
    ///
    /// # Errors
    /// Nothing to feed, an id outside the vocabulary, more tokens than the context holds (found
    /// before anything is computed), or a device that failed; the timeline then ends where the last
    /// whole chunk ended.
    pub fn advance_with(
        &mut self,
        ids: &[u32],
        mut progress: impl FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Option<Vec<f32>>> {
        self.check(ids, self.position())?;
        let mut done = 0;
        for chunk in ids.chunks(self.chunk_tokens()) {
            let is_last = done + chunk.len() == ids.len();
            let rows = if is_last {
                LogitRows::Last
            } else {
                LogitRows::None
            };
            let before = self.position();
            let output = self.step(chunk, rows, is_last)?;
            done += chunk.len();
            let broken = progress(done, ids.len()).is_break();
            if let Some(logits) = output.logits {
                // On a GPU what went wrong in the pass is known only now.
                return match logits.read() {
                    Ok(logits) => Ok(Some(logits)),
                    Err(error) => {
                        self.rewind(before)?;
                        Err(error)
                    }
                };
            }
            if broken {
                return Ok(None);
            }
        }
        unreachable!("the last chunk returns, and there is at least one token")
    }

    /// Feeds `ids` at once and lets the device choose the next token: one id comes back and no logits.
    /// Where the device cannot, its logits come back.
    ///
    /// # Errors
    /// See [`Session::advance_with`]; [`Error::BadLogits`] if the logits are broken.
    pub fn advance_pick(&mut self, ids: &[u32], draw: &DeviceDraw) -> Result<Next> {
        let before = self.position();
        let output = self.step(ids, LogitRows::Last, true)?;
        let logits = output.logits.expect("logits were asked for");
        let next = match logits.pick(draw, self.position() - 1) {
            Some(picked) => picked.map(Next::Picked),
            None => logits.read().map(Next::Logits),
        };
        if next.is_err() {
            self.rewind(before)?;
        }
        next
    }

    /// Feeds `ids` at once and gives nothing: for the chunks of a prompt before the last.
    ///
    /// # Errors
    /// See [`Session::advance_with`].
    pub fn advance_silent(&mut self, ids: &[u32]) -> Result<()> {
        self.step(ids, LogitRows::None, false).map(|_| ())
    }

    /// Feeds `ids` at once and returns the state after the final norm and all logits, for checks and
    /// for the MTP layer.
    ///
    /// # Errors
    /// See [`Session::advance_with`].
    pub fn advance_all(&mut self, ids: &[u32]) -> Result<Output> {
        self.step(ids, LogitRows::All, true)
    }

    fn step(&mut self, ids: &[u32], logit_rows: LogitRows, is_last: bool) -> Result<Output> {
        let feed = Feed {
            session: self,
            ids,
            logit_rows,
            is_last,
        };
        Ok(advance_together(&mut [feed])?.remove(0))
    }

    /// A second timeline with the same past up to `position`, the same options and knobs, and nothing
    /// recorded or watched. On the CPU the two share whole pages of their caches.
    ///
    /// # Errors
    /// `position` lies ahead, or the device has no room for a copy.
    pub fn fork(&self, position: usize) -> Result<Self> {
        self.check_past("fork position", position)?;
        Ok(Self {
            model: self.model.clone(),
            cache: self.cache.fork(position)?,
            tokens: self.tokens[..position].to_vec(),
            options: self.options,
            forward: self.forward.clone(),
            watch: Watch::default(),
            frames: Vec::new(),
            past: self.past.as_ref().map(|past| Past {
                forward: past.forward.clone(),
                n_tokens: past.n_tokens.min(position),
            }),
            routes: None,
            selections: None,
        })
    }

    /// Takes over what a pass has done with `ids`.
    fn took(&mut self, ids: &[u32], frame: Option<Frame>) {
        let before = self.tokens.len();
        self.tokens.extend_from_slice(ids);
        match &mut self.past {
            Some(past) if before > 0 => {
                if past.n_tokens == before && past.forward == self.forward {
                    past.n_tokens = self.tokens.len();
                }
            }
            past => {
                *past = Some(Past {
                    forward: self.forward.clone(),
                    n_tokens: self.tokens.len(),
                });
            }
        }
        self.frames.extend(frame);
    }

    /// How many tokens from the start this timeline shares with `ids`.
    pub fn common_prefix(&self, ids: &[u32]) -> usize {
        self.tokens
            .iter()
            .zip(ids)
            .take_while(|(a, b)| a == b)
            .count()
    }

    /// How many of them would be the same if `ids` were fed from the start under `forward`: they, and
    /// with them all that they read, were computed under the same knobs.
    pub fn common_past(&self, ids: &[u32], forward: &ForwardOptions) -> usize {
        match &self.past {
            Some(past) if past.forward == *forward => self.common_prefix(ids).min(past.n_tokens),
            _ => 0,
        }
    }

    /// Goes back to `position`: what comes after is as if it had never been.
    ///
    /// # Errors
    /// `position` lies ahead.
    pub fn rewind(&mut self, position: usize) -> Result<()> {
        self.check_past("rewind position", position)?;
        self.cache.truncate(position);
        self.tokens.truncate(position);
        if let Some(past) = &mut self.past {
            past.n_tokens = past.n_tokens.min(position);
        }
        self.forget_records();
        Ok(())
    }

    fn check_past(&self, name: &str, position: usize) -> Result<()> {
        if position <= self.position() {
            return Ok(());
        }
        Err(Error::Setting {
            name: name.into(),
            found: position.to_string(),
            expected: format!("at most {}, the end of the timeline", self.position()),
        })
    }

    /// Cuts what is recorded back to the timeline.
    fn forget_records(&mut self) {
        let position = self.tokens.len();
        let is_there = |frame: &Frame| frame.position + frame.ids.len() <= position;
        self.frames.retain(is_there);
        if let Some(routes) = &mut self.routes {
            routes.truncate(position);
        }
        if let Some(selections) = &mut self.selections {
            selections.truncate(position);
        }
    }
}

/// Tokens for one timeline of a pass.
#[derive(Debug)]
pub struct Feed<'a> {
    /// The timeline.
    pub session: &'a mut Session,
    /// What comes next in it.
    pub ids: &'a [u32],
    /// Which of these rows give logits.
    pub logit_rows: LogitRows,
    /// Whether its last row chooses a token: where only that is watched, other passes leave no frame.
    pub is_last: bool,
}

/// Feeds several timelines of one model in one pass: all feeds, or none. On the CPU a weight is read once
/// for all of them, and every row has the bits that it has alone. A GPU takes one after the other, and
/// tells NaN and its own loss only when logits are read: whoever reads them rewinds then.
///
/// # Errors
/// See [`Session::advance_with`]; timelines of several models.
pub fn advance_together(feeds: &mut [Feed]) -> Result<Vec<Output>> {
    let Some(first) = feeds.first() else {
        return Ok(Vec::new());
    };
    let model = first.session.model.clone();
    if feeds
        .iter()
        .any(|feed| !Arc::ptr_eq(&model, &feed.session.model))
    {
        return Err(Error::Setting {
            name: "timelines of a pass".into(),
            found: "some of another model".into(),
            expected: "all of one loaded model".into(),
        });
    }
    let mut traces: Vec<Trace> = feeds
        .iter()
        .map(
            |Feed {
                 session, is_last, ..
             }| {
                // The last row of a chunk that is not the last chooses no token.
                let wanted = *is_last || session.watch.rows == WatchedRows::All;
                match wanted && session.watch.is_on() {
                    true => Trace::new(session.watch.clone()),
                    false => Trace::off(),
                }
            },
        )
        .collect();
    let mut spans: Vec<Span> = feeds
        .iter_mut()
        .zip(&mut traces)
        .map(|(feed, trace)| Span {
            ids: feed.ids,
            cache: &mut feed.session.cache,
            options: &feed.session.forward,
            logit_rows: feed.logit_rows,
            records: Records {
                routes: feed.session.routes.as_mut(),
                selections: feed.session.selections.as_mut(),
            },
            trace,
        })
        .collect();
    let result = model.forward(&mut spans);
    for (feed, mut trace) in feeds.iter_mut().zip(traces) {
        match &result {
            Ok(_) => {
                let frame = trace.is_on().then(|| trace.take());
                feed.session.took(feed.ids, frame);
            }
            Err(_) => feed.session.forget_records(),
        }
    }
    result
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panic")]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::device::Device;

    /// Here and not with the other tests of timelines, since they have no thread pools.
    #[test]
    fn any_number_of_threads_gives_the_same_bits() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
        for name in ["v32-fp8", "glm-dsa", "v2-lite"] {
            let model = Arc::new(Model::open(&fixtures.join(name), &Device::cpu()).unwrap());
            let run = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
                pool.build().unwrap().install(|| {
                    let options = SessionOptions {
                        chunk_tokens: 23,
                        ..SessionOptions::default()
                    };
                    let mut session = Session::new(model.clone(), options).unwrap();
                    session.watch(Watch::everything(WatchedRows::All));
                    let ids: Vec<u32> = (0..47).map(|i| (i * 37 + 11) % 128).collect();
                    session.advance(&ids).unwrap();
                    session.advance(&[3]).unwrap();
                    session.take_frames()
                })
            };
            let alone = run(1);
            for threads in [2, 3, 7] {
                assert!(run(threads) == alone, "{name}, {threads} threads");
            }
        }
    }
}
