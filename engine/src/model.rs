//! The model: embedding, blocks, final norm, head, in the order of the official code and under its
//! names. One file for the whole MLA family; what differs is in [`Config`].
//!
//! A model is immutable. What a timeline leaves behind is in [`crate::cache::Cache`]; the loop that
//! feeds it is [`crate::session`].

mod block;
mod intervention;
mod load;
mod mla;
mod mtp;
mod output;
mod selector;

use std::sync::Arc;

pub use intervention::Intervention;
pub use load::{LoadOptions, LoadProgress};
pub use output::{Output, OutputRows};
pub use selector::Selector;

use crate::cache::{Cache, CacheFormat};
use crate::config::Config;
use crate::cpu;
use crate::device::Device;
use crate::gpu::{GpuModel, GpuPass, MAX_TOP_K, Profile, max_pass_tokens};
use crate::ops::linear::linear;
use crate::ops::norm::rms_norm;
use crate::ops::rope::Rope;
use crate::replay::{RouteTrace, SelectionTrace};
use crate::rows::Rows;
use crate::trace::{Stage, Trace, Value};
use crate::weight::{Embedding, Vector, Weight};
use crate::{Error, Result};

use block::{Block, Pass};
use mtp::Mtp;

/// A loaded checkpoint on a device.
#[derive(Debug)]
pub struct Model {
    config: Config,
    device: Device,
    body: Body,
    rope: Rope,
    eos_token_ids: Vec<u32>,
}

/// The weights, and with them the choice of who computes.
#[derive(Debug)]
enum Body {
    /// Ops, one after the other: native bodies on the CPU, portable ones on Burn tensors.
    Ops(OpsModel),
    /// The WGSL kernels.
    Gpu(GpuModel),
}

/// Weights for the ops.
#[derive(Debug)]
struct OpsModel {
    embed_tokens: Embedding,
    layers: Vec<Block>,
    norm: Vector,
    lm_head: Weight,
    mtp: Option<Mtp>,
}

/// Knobs of a forward pass that can change between two calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForwardOptions {
    /// Positions that a token may read, instead of the checkpoint's `index_topk`.
    pub index_topk: Option<usize>,
    /// Who chooses those positions, unless `dense`. Anything but the indexer is for evaluation, and
    /// GPUs do not have it.
    pub selector: Selector,
    /// Attend to everything, as if there were no selection. The indexer's keys are kept all the
    /// same, so that the next call may be sparse again.
    pub dense: bool,
    /// Use the expanded (MHA) form of attention for more than one token at a time. The absorbed
    /// form is the default, since it makes any split of a prompt give the same bits.
    pub mha_prefill: bool,
    /// What a "what if" changes.
    pub intervention: Intervention,
}

/// Which rows of a forward pass give logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogitRows {
    /// None: the tokens only fill the cache.
    None,
    /// The last.
    Last,
    /// All.
    All,
}

/// What a pass records of its decisions.
#[derive(Default)]
pub(crate) struct Records<'a> {
    pub(crate) routes: Option<&'a mut RouteTrace>,
    pub(crate) selections: Option<&'a mut SelectionTrace>,
}

impl Model {
    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The device that holds the weights.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Token ids that end a text, from `config.json` and `generation_config.json`.
    pub fn eos_token_ids(&self) -> &[u32] {
        &self.eos_token_ids
    }

    /// Whether the checkpoint brought its MTP layer.
    pub fn has_mtp(&self) -> bool {
        match &self.body {
            Body::Ops(ops) => ops.mtp.is_some(),
            Body::Gpu(gpu) => gpu.has_mtp(),
        }
    }

    /// Bytes of weights kept resident on the device (mapped, on the CPU).
    pub fn resident_bytes(&self) -> usize {
        match &self.body {
            Body::Ops(ops) => {
                ops.embed_tokens.resident_bytes()
                    + ops.layers.iter().map(Block::resident_bytes).sum::<usize>()
                    + ops.lm_head.resident_bytes()
                    + ops.mtp.as_ref().map_or(0, Mtp::resident_bytes)
            }
            Body::Gpu(gpu) => gpu.resident_bytes(),
        }
    }

    /// Whether the kernels compute.
    pub(crate) fn is_on_gpu(&self) -> bool {
        matches!(self.body, Body::Gpu(_))
    }

    /// Most tokens that one pass takes, so that its workspace stays bounded.
    pub fn max_pass_tokens(&self) -> usize {
        match &self.body {
            Body::Ops(_) => usize::MAX,
            Body::Gpu(_) => max_pass_tokens(&self.config),
        }
    }

    /// Records every launch from now on, each waited for and timed if `timed`. `false` where this
    /// model launches no kernels.
    pub fn start_profile(&self, timed: bool) -> bool {
        match &self.body {
            Body::Ops(_) => false,
            Body::Gpu(gpu) => {
                gpu.gpu().start_profile(timed);
                true
            }
        }
    }

    /// What was launched since [`Model::start_profile`]; recording ends.
    pub fn take_profile(&self) -> Option<Profile> {
        match &self.body {
            Body::Ops(_) => None,
            Body::Gpu(gpu) => gpu.gpu().take_profile(),
        }
    }

    /// Empty caches for the main layers.
    ///
    /// # Errors
    /// The format does not go with the model or the device.
    pub fn new_cache(&self, format: CacheFormat) -> Result<Cache> {
        Cache::new(
            &self.config,
            0..self.config.num_hidden_layers,
            &self.device,
            format,
        )
    }

    /// Runs `ids` at positions `cache.n_tokens()..` through the main layers.
    ///
    /// # Errors
    /// Ids outside the vocabulary, a full context, or a device that failed. The cache is as long as
    /// before then.
    pub(crate) fn forward(
        &self,
        ids: &[u32],
        cache: &mut Cache,
        options: &ForwardOptions,
        logit_rows: LogitRows,
        records: &mut Records,
        trace: &mut Trace,
    ) -> Result<Output> {
        self.check_ids(ids, cache.n_tokens())?;
        self.keep_or_forget(ids.len(), cache, |cache| {
            self.forward_checked(ids, cache, options, logit_rows, records, trace)
        })
    }

    /// Does `work`, which feeds `n` tokens to every layer of `cache`: all of it, or nothing.
    fn keep_or_forget<R: Send>(
        &self,
        n: usize,
        cache: &mut Cache,
        work: impl FnOnce(&mut Cache) -> Result<R> + Send,
    ) -> Result<R> {
        let before = cache.n_tokens();
        let result = if self.device.is_cpu() {
            cpu::run(|| work(cache))
        } else {
            work(cache)
        };
        match &result {
            Ok(_) => cache.advanced(n),
            Err(_) => cache.truncate(before),
        }
        result
    }

    fn forward_checked(
        &self,
        ids: &[u32],
        cache: &mut Cache,
        options: &ForwardOptions,
        logit_rows: LogitRows,
        records: &mut Records,
        trace: &mut Trace,
    ) -> Result<Output> {
        let position = cache.n_tokens();
        trace.begin(position, ids);
        let angles = self.rope.angles(position, ids.len(), &self.device.place);
        let model = match &self.body {
            Body::Ops(model) => model,
            Body::Gpu(model) => {
                let mut pass = GpuPass {
                    config: &self.config,
                    options,
                    position,
                    angles: &angles,
                    records,
                    trace,
                };
                return model.gpu().counted(&mut pass, |pass| {
                    model.forward(ids, &mut cache.layers, logit_rows, pass)
                });
            }
        };
        let clock = trace.clock();
        let mut x = model.embed_tokens.rows(ids, &self.device);
        trace.timed(clock, "embed", None, || {
            model.embed_tokens.row_bytes(ids.len())
        });
        let mut pass = Pass {
            config: &self.config,
            options,
            position,
            angles: &angles,
            selection: None,
            records,
            trace,
        };
        for (block, layer_cache) in model.layers.iter().zip(&mut cache.layers) {
            x = block.forward(x, layer_cache, &mut pass)?;
        }
        let clock = trace.clock();
        let hidden = rms_norm(&x, &model.norm, self.config.rms_norm_eps);
        trace.timed(clock, "norm", None, || model.norm.bytes());
        let n = ids.len();
        let first = trace.first_row(n);
        if trace.wants(None, Stage::FinalHidden) {
            let rows = hidden.slice(first, n - first);
            trace.record(
                None,
                Stage::FinalHidden,
                Value::f32([n - first, rows.width()], rows.read()?),
            );
        }
        let logits = match logit_rows {
            LogitRows::None => None,
            LogitRows::Last => Some(model.head(&hidden.slice(n - 1, 1), trace)),
            LogitRows::All => Some(model.head(&hidden, trace)),
        };
        if trace.wants(None, Stage::Logits) {
            let rows = match &logits {
                Some(logits) if logits.n_rows() >= n - first => {
                    logits.slice(logits.n_rows() - (n - first), n - first)
                }
                _ => model.head(&hidden.slice(first, n - first), trace),
            };
            trace.record(
                None,
                Stage::Logits,
                Value::f32([n - first, rows.width()], rows.read()?),
            );
        }
        trace.end();
        Ok(Output {
            hidden: hidden.into(),
            logits: logits.map(Into::into),
        })
    }

    /// Refuses knobs that this model does not have.
    pub(crate) fn check_options(&self, options: &ForwardOptions) -> Result<()> {
        let on_gpu = self.is_on_gpu();
        if on_gpu && options.mha_prefill {
            return Err(Error::Setting {
                name: "attention form".into(),
                found: "the expanded (MHA) form".into(),
                expected: "the absorbed form: GPUs have no other".into(),
            });
        }
        if options.selector != Selector::Indexer {
            let expected = match &self.config.indexer {
                None => Some("a model with an indexer: this one attends to everything"),
                Some(_) if on_gpu => Some("indexer: GPUs have no other"),
                Some(_) => None,
            };
            if let Some(expected) = expected {
                return Err(Error::Setting {
                    name: "selector".into(),
                    found: options.selector.name().into(),
                    expected: expected.into(),
                });
            }
        }
        if let Some(k) = options.index_topk {
            let expected = match &self.config.indexer {
                None => Some("a model with an indexer: this one attends to everything"),
                Some(_) if k == 0 => Some("at least 1"),
                Some(_) if on_gpu && k > MAX_TOP_K => Some("at most 2048 on a GPU"),
                Some(_) => None,
            };
            if let Some(expected) = expected {
                return Err(Error::Setting {
                    name: "index_topk".into(),
                    found: k.to_string(),
                    expected: expected.into(),
                });
            }
        }
        options
            .intervention
            .check(&self.config, options, self.has_mtp(), on_gpu)
    }

    /// Refuses what cannot be fed at `position`.
    pub(crate) fn check_ids(&self, ids: &[u32], position: usize) -> Result<()> {
        if ids.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        let vocab_size = self.config.vocab_size;
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= vocab_size) {
            return Err(Error::UnknownToken { id, vocab_size });
        }
        let context = self.config.max_position_embeddings;
        if position + ids.len() > context {
            return Err(Error::ContextFull {
                tokens: ids.len(),
                position,
                context,
            });
        }
        Ok(())
    }
}

impl OpsModel {
    fn head(&self, hidden: &Rows, trace: &mut Trace) -> Rows {
        let clock = trace.clock();
        let [logits] = linear(hidden, [&self.lm_head]);
        trace.timed(clock, "head", None, || self.lm_head.resident_bytes());
        logits
    }
}

/// A model that several owners share.
pub type SharedModel = Arc<Model>;
