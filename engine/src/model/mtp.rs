//! The multi-token-prediction layer: guesses the token after next.
//!
//! ```text
//! u = eh_proj · [rms_norm(embed(t_{i+1}), enorm) ; rms_norm(h_i, hnorm)]
//! logits(t_{i+2}) = lm_head · rms_norm(block(u), shared_head.norm)
//! ```
//! `h_i` is the main model's state after its final norm; the embedding half comes first. The layer
//! has its own caches. Source: spec section 5.

use burn::Tensor;

use super::block::{Block, Pass};
use super::output::Place;
use super::{Body, ForwardOptions, Model, OutputRows, Records};
use crate::cache::{Cache, CacheFormat};
use crate::gpu::GpuPass;
use crate::ops::linear::linear;
use crate::ops::norm::rms_norm;
use crate::rows::Rows;
use crate::trace::{Stage, Trace, Value};
use crate::weight::{Vector, Weight};
use crate::{Error, Result};

#[derive(Debug)]
pub(super) struct Mtp {
    pub enorm: Vector,
    pub hnorm: Vector,
    /// `[hidden_size, 2 × hidden_size]`.
    pub eh_proj: Weight,
    pub block: Block,
    pub shared_head_norm: Vector,
}

impl Mtp {
    pub fn resident_bytes(&self) -> usize {
        self.eh_proj.resident_bytes() + self.block.resident_bytes()
    }
}

impl Model {
    /// Empty caches for the MTP layer.
    ///
    /// # Errors
    /// The checkpoint has no MTP layer, or the format does not go with the device.
    pub fn new_mtp_cache(&self, format: CacheFormat) -> Result<Cache> {
        self.check_mtp()?;
        let layer = self.config.num_hidden_layers;
        Cache::new(&self.config, layer..layer + 1, &self.device, format)
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

    /// Runs the MTP layer at positions `cache.n_tokens()..`: `hidden` `[tokens, hidden_size]` is
    /// the main model's [`super::Output::hidden`], `next_ids` the token after each. Row `i` of the
    /// result `[tokens, vocab_size]` rates the token after `next_ids[i]`.
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
        trace: &mut Trace,
    ) -> Result<OutputRows> {
        self.check_mtp()?;
        self.check_options(options)?;
        self.check_ids(next_ids, cache.n_tokens())?;
        if hidden.n_rows() != next_ids.len() {
            return Err(Error::Setting {
                name: "MTP input".into(),
                found: format!("{} next tokens", next_ids.len()),
                expected: format!("{}, one a hidden row", hidden.n_rows()),
            });
        }
        self.keep_or_forget(next_ids.len(), cache, |cache| {
            self.mtp_checked(hidden, next_ids, cache, options, trace)
        })
    }

    fn mtp_checked(
        &self,
        hidden: &OutputRows,
        next_ids: &[u32],
        cache: &mut Cache,
        options: &ForwardOptions,
        trace: &mut Trace,
    ) -> Result<OutputRows> {
        let position = cache.n_tokens();
        let eps = self.config.rms_norm_eps;
        trace.begin(position, next_ids);
        let angles = self
            .rope
            .angles(position, next_ids.len(), &self.device.place);
        let mut records = Records::default();
        let (model, mtp, hidden) = match (&self.body, &hidden.0) {
            (Body::Ops(model), Place::Rows(hidden)) => {
                (model, model.mtp.as_ref().expect("found above"), hidden)
            }
            (Body::Gpu(model), Place::Gpu(hidden)) => {
                let mut pass = GpuPass {
                    config: &self.config,
                    options,
                    position,
                    angles: &angles,
                    records: &mut records,
                    trace,
                };
                let layer = &mut cache.layers[0];
                let logits = model.gpu().counted(&mut pass, |pass| {
                    model.forward_mtp(hidden, next_ids, layer, pass)
                })?;
                return Ok(logits.into());
            }
            _ => {
                return Err(Error::Setting {
                    name: "MTP input".into(),
                    found: "hidden rows of a model on another device".into(),
                    expected: format!("rows that this model made on {}", self.device.info.id),
                });
            }
        };
        let layer = self.config.num_hidden_layers;
        let clock = trace.clock();
        let embedded = model.embed_tokens.rows(next_ids, &self.device);
        trace.timed(clock, "embed", layer, || {
            model.embed_tokens.row_bytes(next_ids.len())
        });
        let clock = trace.clock();
        let embedded = rms_norm(&embedded, &mtp.enorm, eps);
        let joined = join(&embedded, &rms_norm(hidden, &mtp.hnorm, eps));
        trace.timed(clock, "norm", layer, || {
            mtp.enorm.bytes() + mtp.hnorm.bytes()
        });
        let clock = trace.clock();
        let [x] = linear(&joined, [&mtp.eh_proj]);
        trace.timed(clock, "project", layer, || mtp.eh_proj.resident_bytes());
        let mut pass = Pass {
            config: &self.config,
            options,
            position,
            angles: &angles,
            selection: None,
            records: &mut records,
            trace,
        };
        let x = mtp.block.forward(x, &mut cache.layers[0], &mut pass)?;
        let clock = trace.clock();
        let normed = rms_norm(&x, &mtp.shared_head_norm, eps);
        trace.timed(clock, "norm", None, || mtp.shared_head_norm.bytes());
        let logits = model.head(&normed, trace);
        if trace.wants(None, Stage::Logits) {
            let first = trace.first_row(logits.n_rows());
            let rows = logits.slice(first, logits.n_rows() - first);
            trace.record(
                None,
                Stage::Logits,
                Value::f32([rows.n_rows(), rows.width()], rows.read()?),
            );
        }
        trace.end();
        Ok(logits.into())
    }
}

/// `[a ; b]` row by row.
fn join(a: &Rows, b: &Rows) -> Rows {
    match (a, b) {
        (Rows::Host { data: a, width }, Rows::Host { data: b, .. }) => {
            let rows = a.chunks_exact(*width).zip(b.chunks_exact(*width));
            let data = rows.flat_map(|(a, b)| a.iter().chain(b).copied()).collect();
            Rows::Host {
                data,
                width: 2 * width,
            }
        }
        _ => Rows::Tensor(Tensor::cat(vec![a.tensor(), b.tensor()], 1)),
    }
}
