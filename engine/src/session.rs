//! One mutable timeline: a model, its caches, and the tokens it has seen.
//!
//! A session turns tokens into logits and can go back. Choosing tokens is the business of
//! [`crate::sampler`], looping that of [`crate::generate`], threads that of [`crate::runner`].

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::cache::{Cache, CacheFormat};
use crate::config::MoeConfig;
use crate::model::{ForwardOptions, LogitRows, Model, Output, Routing};
use crate::replay::RouteTrace;
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
    record: Option<RouteTrace>,
    replay: Option<RouteTrace>,
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
            record: None,
            replay: None,
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

    /// Positions that the context holds.
    pub fn context(&self) -> usize {
        self.model.config().max_position_embeddings
    }

    /// Bytes that the caches take.
    pub fn cache_bytes(&self) -> usize {
        self.cache.bytes()
    }

    /// Sets the knobs for the tokens to come.
    ///
    /// # Errors
    /// `index_topk` is 0, the model has no indexer to take it, or the device has no such form of
    /// attention or selector.
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
        self.record = Some(trace);
        Ok(())
    }

    /// MoE sizes and layers of the model.
    fn moe(&self) -> Result<(&MoeConfig, Vec<usize>)> {
        let config = self.model.config();
        let moe = config.moe.as_ref().ok_or_else(|| Error::Setting {
            name: "routes".into(),
            found: "a model without MoE layers".into(),
            expected: "one with experts to route to".into(),
        })?;
        Ok((
            moe,
            (0..config.num_hidden_layers)
                .filter(|&layer| config.is_moe(layer))
                .collect(),
        ))
    }

    /// The recorded routes, and no more recording.
    pub fn take_routes(&mut self) -> Option<RouteTrace> {
        self.record.take()
    }

    /// Replays these routes where they know a token, instead of the gate's own choice.
    ///
    /// # Errors
    /// The model has no MoE layers, or the routes are from a model of other sizes.
    pub fn replay_routes(&mut self, routes: Option<RouteTrace>) -> Result<()> {
        if let Some(routes) = &routes {
            let (moe, layers) = self.moe()?;
            routes.check(moe.n_routed_experts, moe.num_experts_per_tok, &layers)?;
        }
        self.replay = routes;
        Ok(())
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
        self.model.check_ids(ids, self.position())?;
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

    fn step(&mut self, ids: &[u32], rows: LogitRows, is_last: bool) -> Result<Output> {
        // The last row of a chunk that is not the last chooses no token.
        let wanted = is_last || self.watch.rows == WatchedRows::All;
        let watching = wanted && !self.watch.stages.is_empty();
        let mut trace = if watching {
            Trace::new(self.watch.clone())
        } else {
            Trace::off()
        };
        let mut routing = Routing {
            replay: self.replay.as_ref(),
            record: self.record.as_mut(),
        };
        let result = self.model.forward(
            ids,
            &mut self.cache,
            &self.forward,
            rows,
            &mut routing,
            &mut trace,
        );
        let output = match result {
            Ok(output) => output,
            Err(error) => {
                if let Some(record) = &mut self.record {
                    record.truncate(self.tokens.len());
                }
                return Err(error);
            }
        };
        self.tokens.extend_from_slice(ids);
        if watching {
            self.frames.push(trace.take());
        }
        Ok(output)
    }

    /// How many tokens from the start this timeline shares with `ids`.
    pub fn common_prefix(&self, ids: &[u32]) -> usize {
        self.tokens
            .iter()
            .zip(ids)
            .take_while(|(a, b)| a == b)
            .count()
    }

    /// Goes back to `position`: what comes after is as if it had never been.
    ///
    /// # Errors
    /// `position` lies ahead.
    pub fn rewind(&mut self, position: usize) -> Result<()> {
        if position > self.position() {
            return Err(Error::Setting {
                name: "rewind position".into(),
                found: position.to_string(),
                expected: format!("at most {}, the end of the timeline", self.position()),
            });
        }
        self.cache.truncate(position);
        self.tokens.truncate(position);
        if let Some(record) = &mut self.record {
            record.truncate(position);
        }
        Ok(())
    }
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
