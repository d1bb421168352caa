//! The model: a checked checkpoint on a device, and the one seam behind which it is computed.
//!
//! Three bodies compute the same thing, each with weights, caches and a forward pass of its own:
//! [`crate::definition`] on Burn tensors, [`crate::host`] on the CPU, [`crate::gpu`] through the
//! kernels. A model is immutable. What a timeline leaves behind is in [`crate::cache::Cache`]; the loop
//! that feeds it is [`crate::session`].

mod intervention;
mod load;
mod output;
pub(crate) mod selector;

use std::ops::Range;
use std::sync::Arc;

pub use intervention::Intervention;
pub use load::{LoadOptions, LoadProgress};
pub(crate) use output::{HostRows, OutputBody};
pub use output::{Output, OutputRows};
pub use selector::Selector;

use crate::cache::{Cache, CacheFormat, Layers};
use crate::config::Config;
use crate::device::Device;
use crate::gpu::{Gpu, MAX_TOP_K, Profile, max_pass_tokens};
pub use crate::pass::{ForwardOptions, LogitRows};
use crate::pass::{Pass, Records};
use crate::trace::Trace;
use crate::{Error, Result};

/// A loaded checkpoint on a device.
#[derive(Debug)]
pub struct Model {
    config: Config,
    device: Device,
    body: Box<dyn Body>,
    eos_token_ids: Vec<u32>,
    notes: Vec<String>,
}

/// Who computes: the seam. A trait and not an enum, since every method would match it; what one body
/// made for itself (caches, rows) comes back to it behind [`Layers`] and [`OutputBody`].
pub(crate) trait Body: std::fmt::Debug + Send + Sync {
    /// Empty caches for layers `layers`; the MTP layer is `num_hidden_layers`.
    ///
    /// # Errors
    /// The format does not go with the model or the device.
    fn new_cache(
        &self,
        config: &Config,
        layers: Range<usize>,
        format: CacheFormat,
    ) -> Result<Box<dyn Layers>>;

    /// Runs every span at the end of its timeline through the main layers; an output each.
    fn forward(&self, config: &Config, spans: &mut [Span]) -> Result<Vec<Output>>;

    /// Runs the MTP layer on `hidden` `[tokens, hidden_size]`; the span's ids are the tokens after.
    fn forward_mtp(
        &self,
        config: &Config,
        hidden: &OutputRows,
        span: &mut Span,
    ) -> Result<Option<OutputRows>>;

    /// Whether the checkpoint brought its MTP layer.
    fn has_mtp(&self) -> bool;

    /// Bytes of weights kept resident (mapped, on the CPU).
    fn resident_bytes(&self) -> usize;

    /// Where the kernels run, for the body that has them.
    fn gpu(&self) -> Option<&Gpu> {
        None
    }
}

/// Some tokens of one timeline, to be fed in a pass that may feed others too.
pub(crate) struct Span<'a> {
    pub ids: &'a [u32],
    pub cache: &'a mut Cache,
    pub options: &'a ForwardOptions,
    pub logit_rows: LogitRows,
    pub records: Records<'a>,
    pub trace: &'a mut Trace,
}

impl Span<'_> {
    /// Begins the frame of this span, and hands out its pass and its caches.
    pub fn begin<'s, T: Layers>(&'s mut self, config: &'s Config) -> Result<(Pass<'s>, &'s mut T)> {
        let position = self.cache.n_tokens();
        self.trace.begin(position, self.ids);
        let pass = Pass {
            config,
            options: self.options,
            position,
            n: self.ids.len(),
            selection: None,
            records: Records {
                routes: self.records.routes.as_deref_mut(),
                selections: self.records.selections.as_deref_mut(),
            },
            trace: self.trace,
        };
        Ok((pass, self.cache.of()?))
    }
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

    /// What its checkpoint holds and this model does not use, a sentence each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Whether the checkpoint brought its MTP layer.
    pub fn has_mtp(&self) -> bool {
        self.body.has_mtp()
    }

    /// Bytes of weights kept resident on the device (mapped, on the CPU).
    pub fn resident_bytes(&self) -> usize {
        self.body.resident_bytes()
    }

    /// Whether the kernels compute.
    pub(crate) fn is_on_gpu(&self) -> bool {
        self.body.gpu().is_some()
    }

    /// Most tokens that one pass takes, so that its workspace stays bounded.
    pub fn max_pass_tokens(&self) -> usize {
        match self.body.gpu() {
            Some(_) => max_pass_tokens(&self.config),
            None => usize::MAX,
        }
    }

    /// Records every launch from now on, each waited for and timed if `timed`. `false` where this
    /// model launches no kernels.
    pub fn start_profile(&self, timed: bool) -> bool {
        if let Some(gpu) = self.body.gpu() {
            gpu.profiler().start(timed);
        }
        self.is_on_gpu()
    }

    /// What was launched since [`Model::start_profile`]; recording ends.
    pub fn take_profile(&self) -> Option<Profile> {
        self.body.gpu().and_then(|gpu| gpu.profiler().take())
    }

    /// Empty caches for the main layers.
    ///
    /// # Errors
    /// The format does not go with the model or the device.
    pub fn new_cache(&self, format: CacheFormat) -> Result<Cache> {
        let layers = 0..self.config.num_hidden_layers;
        let layers = self.body.new_cache(&self.config, layers, format)?;
        Ok(Cache::new(layers))
    }

    /// Empty caches for the MTP layer.
    ///
    /// # Errors
    /// The checkpoint has no MTP layer, or the format does not go with the device.
    pub fn new_mtp_cache(&self, format: CacheFormat) -> Result<Cache> {
        self.check_mtp()?;
        let layer = self.config.num_hidden_layers;
        let layers = self
            .body
            .new_cache(&self.config, layer..layer + 1, format)?;
        Ok(Cache::new(layers))
    }

    /// Runs the ids of every span at positions `cache.n_tokens()..` of its timeline through the main
    /// layers: all spans, or none. On the CPU the bits of a row depend on its own timeline only.
    ///
    /// # Errors
    /// Ids outside the vocabulary, a full context, or a device that failed. All caches are as long as
    /// before then.
    pub(crate) fn forward(&self, spans: &mut [Span]) -> Result<Vec<Output>> {
        for span in spans.iter() {
            self.check_ids(span.ids, span.cache.n_tokens())?;
            span.cache.check(span.cache.n_tokens() + span.ids.len())?;
        }
        let result = self.body.forward(&self.config, spans);
        for span in spans {
            keep_or_forget(span, result.is_ok());
        }
        result
    }

    /// Runs the MTP layer at positions `cache.n_tokens()..`: `hidden` `[tokens, hidden_size]` is
    /// the main model's [`Output::hidden`], `next_ids` the token after each. Row `i` rates the token
    /// after `next_ids[i]`; the rows asked for come back, `[rows, vocab_size]`, `None` for none.
    ///
    /// # Errors
    /// No MTP layer, other than one id a hidden row, ids outside the vocabulary, a full context, an
    /// option that the model does not have, or a device that failed. The cache is as long as before
    /// then.
    pub fn forward_mtp(
        &self,
        hidden: &OutputRows,
        next_ids: &[u32],
        cache: &mut Cache,
        options: &ForwardOptions,
        logit_rows: LogitRows,
        trace: &mut Trace,
    ) -> Result<Option<OutputRows>> {
        self.check_mtp()?;
        self.check_options(options)?;
        self.check_ids(next_ids, cache.n_tokens())?;
        cache.check(cache.n_tokens() + next_ids.len())?;
        if hidden.width() != self.config.hidden_size {
            return Err(Error::Setting {
                name: "MTP input".into(),
                found: format!("rows of {} numbers", hidden.width()),
                expected: format!("hidden rows of {}", self.config.hidden_size),
            });
        }
        if hidden.n_rows() != next_ids.len() {
            return Err(Error::Setting {
                name: "MTP input".into(),
                found: format!("{} next tokens", next_ids.len()),
                expected: format!("{}, one a hidden row", hidden.n_rows()),
            });
        }
        let mut span = Span {
            ids: next_ids,
            cache,
            options,
            logit_rows,
            records: Records::default(),
            trace,
        };
        let result = self.body.forward_mtp(&self.config, hidden, &mut span);
        keep_or_forget(&mut span, result.is_ok());
        result
    }

    fn check_mtp(&self) -> Result<()> {
        if self.has_mtp() {
            return Ok(());
        }
        Err(Error::Setting {
            name: "MTP".into(),
            found: "a checkpoint without an MTP layer".into(),
            expected: "one with num_nextn_predict_layers 1 and its tensors".into(),
        })
    }

    /// Refuses knobs that this model does not have.
    pub(crate) fn check_options(&self, options: &ForwardOptions) -> Result<()> {
        let on_gpu = self.is_on_gpu();
        let needs_indexer = "a model with an indexer: this one attends to everything";
        let refused = |name: &str, found: String, expected: &str| {
            Err(Error::Setting {
                name: name.into(),
                found,
                expected: expected.into(),
            })
        };
        if on_gpu && options.mha_prefill {
            let expected = "the absorbed form: GPUs have no other";
            return refused("attention form", "the expanded (MHA) form".into(), expected);
        }
        if options.selector != Selector::Indexer {
            let found = options.selector.name().to_owned();
            if self.config.indexer.is_none() {
                return refused("selector", found, needs_indexer);
            }
            if on_gpu {
                return refused("selector", found, "indexer: GPUs have no other");
            }
        }
        if let Some(k) = options.index_topk {
            let expected = match &self.config.indexer {
                None => Some(needs_indexer),
                Some(_) if k == 0 => Some("at least 1"),
                Some(_) if on_gpu && k > MAX_TOP_K => Some("at most 2048 on a GPU"),
                Some(_) => None,
            };
            if let Some(expected) = expected {
                return refused("index_topk", k.to_string(), expected);
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

/// After a pass: every layer has the tokens of the span, or none has.
fn keep_or_forget(span: &mut Span, kept: bool) {
    match kept {
        true => span.cache.advanced(span.ids.len()),
        false => span.cache.truncate(span.cache.n_tokens()),
    }
}

/// A model that several owners share.
pub type SharedModel = Arc<Model>;
