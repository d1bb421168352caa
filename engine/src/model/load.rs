//! From the files of a checkpoint to a [`Model`].

use std::ops::ControlFlow;
use std::path::Path;

use super::block::{Block, FeedForward, Moe};
use super::mla::{Indexer, Mla, QueryProjection};
use super::mtp::Mtp;
use super::{Body, Model, OpsModel};
use crate::Result;
use crate::checkpoint::{Checkpoint, Progress};
use crate::config::Config;
use crate::device::{Device, Place};
use crate::gpu::{GpuModel, WeightSource};
use crate::ops::experts::Mlp;
use crate::ops::rope::Rope;
use crate::source::{Embedded, Source};
use crate::weight::{Embedding, Vector, Weight};

/// How to load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadOptions {
    /// Read every weight once and refuse NaN and infinity. Also warms the page cache.
    pub check_values: bool,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { check_values: true }
    }
}

/// How far loading has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadProgress {
    /// Weights are being read and checked.
    Checking(Progress),
    /// Layers are being placed on the device.
    Placing {
        /// Layers done.
        layers_done: usize,
        /// Layers in all.
        layers_total: usize,
    },
}

struct Loader<'a> {
    checkpoint: &'a Checkpoint,
    config: &'a Config,
    device: &'a Device,
}

impl Model {
    /// Opens the checkpoint folder and loads it onto `device`. `progress` may break off; then the
    /// result is `None`.
    ///
    /// # Errors
    /// A config, file, tensor or weight that is not as it should be; all tensor misfits at once.
    pub fn load(
        folder: &Path,
        device: &Device,
        options: LoadOptions,
        progress: &mut dyn FnMut(LoadProgress) -> ControlFlow<()>,
    ) -> Result<Option<Self>> {
        Self::load_from(&folder.into(), device, options, progress)
    }

    /// As [`Model::load`], of a model in the program: no file is read.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn load_embedded(
        files: &'static Embedded,
        device: &Device,
        options: LoadOptions,
        progress: &mut dyn FnMut(LoadProgress) -> ControlFlow<()>,
    ) -> Result<Option<Self>> {
        Self::load_from(&Source::Embedded(files), device, options, progress)
    }

    /// As [`Model::load`], from wherever the files are.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn load_from(
        source: &Source,
        device: &Device,
        options: LoadOptions,
        progress: &mut dyn FnMut(LoadProgress) -> ControlFlow<()>,
    ) -> Result<Option<Self>> {
        let config = source.config()?;
        let checkpoint = source.checkpoint()?;
        let eos_token_ids = source.eos_token_ids(&config)?;
        Self::from_checkpoint(
            config,
            &checkpoint,
            eos_token_ids,
            device,
            options,
            progress,
        )
    }

    /// Loads without looking at progress.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn open(folder: &Path, device: &Device) -> Result<Self> {
        let loaded = Self::load(folder, device, LoadOptions::default(), &mut |_| {
            ControlFlow::Continue(())
        })?;
        Ok(loaded.expect("nobody broke off"))
    }

    fn from_checkpoint(
        config: Config,
        checkpoint: &Checkpoint,
        eos_token_ids: Vec<u32>,
        device: &Device,
        options: LoadOptions,
        progress: &mut dyn FnMut(LoadProgress) -> ControlFlow<()>,
    ) -> Result<Option<Self>> {
        checkpoint.fit(&config)?;
        if options.check_values {
            let done = checkpoint.check_finite(&mut |at| progress(LoadProgress::Checking(at)))?;
            if !done {
                return Ok(None);
            }
        }
        let n = config.num_hidden_layers;
        let with_mtp = checkpoint.has_mtp(&config);
        let layers_total = n + usize::from(with_mtp);
        let mut place = |layers_done: usize| {
            let at = LoadProgress::Placing {
                layers_done,
                layers_total,
            };
            progress(at).is_continue()
        };
        let body = match &device.place {
            Place::Gpu { gpu } => {
                let source = WeightSource::Checkpoint(checkpoint);
                GpuModel::load(gpu.clone(), &source, &config, with_mtp, &mut place)?.map(Body::Gpu)
            }
            Place::Host | Place::Burn { .. } => {
                let loader = Loader {
                    checkpoint,
                    config: &config,
                    device,
                };
                loader.model(with_mtp, &mut place)?.map(Body::Ops)
            }
        };
        let Some(body) = body else {
            return Ok(None);
        };
        let model = Self {
            body,
            rope: Rope::new(&config),
            device: device.clone(),
            eos_token_ids,
            config,
        };
        if progress(LoadProgress::Placing {
            layers_done: layers_total,
            layers_total,
        })
        .is_break()
        {
            return Ok(None);
        }
        Ok(Some(model))
    }
}

impl Loader<'_> {
    /// `progress(layer)` is called before each layer and may break off with `false`.
    fn model(
        &self,
        with_mtp: bool,
        progress: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Option<OpsModel>> {
        let n = self.config.num_hidden_layers;
        let mut layers = Vec::with_capacity(n);
        for layer in 0..n {
            if !progress(layer) {
                return Ok(None);
            }
            layers.push(self.block(layer)?);
        }
        let head = if self.config.tie_word_embeddings {
            "model.embed_tokens.weight"
        } else {
            "lm_head.weight"
        };
        Ok(Some(OpsModel {
            embed_tokens: Embedding::load(self.checkpoint, "model.embed_tokens.weight")?,
            layers,
            norm: self.vector("model.norm.weight")?,
            lm_head: self.weight(head)?,
            mtp: if with_mtp { Some(self.mtp(n)?) } else { None },
        }))
    }

    fn weight(&self, name: &str) -> Result<Weight> {
        Weight::load(self.checkpoint, name, self.device)
    }

    fn vector(&self, name: &str) -> Result<Vector> {
        Vector::load(self.checkpoint, name, self.device)
    }

    fn block(&self, layer: usize) -> Result<Block> {
        let prefix = format!("model.layers.{layer}");
        Ok(Block {
            layer,
            input_layernorm: self.vector(&format!("{prefix}.input_layernorm.weight"))?,
            self_attn: self.mla(layer, &format!("{prefix}.self_attn"))?,
            post_attention_layernorm: self
                .vector(&format!("{prefix}.post_attention_layernorm.weight"))?,
            mlp: self.feed_forward(layer, &format!("{prefix}.mlp"))?,
        })
    }

    fn mla(&self, layer: usize, prefix: &str) -> Result<Mla> {
        let weight = |name: &str| self.weight(&format!("{prefix}.{name}.weight"));
        let vector = |name: &str| self.vector(&format!("{prefix}.{name}"));
        let q = match self.config.q_lora_rank {
            None => QueryProjection::Direct(weight("q_proj")?),
            Some(_) => QueryProjection::Latent {
                q_a_proj: weight("q_a_proj")?,
                q_a_layernorm: vector("q_a_layernorm.weight")?,
                q_b_proj: weight("q_b_proj")?,
            },
        };
        let indexer = if self.config.owns_indexer(layer) {
            Some(Indexer {
                wq_b: weight("indexer.wq_b")?,
                wk: weight("indexer.wk")?,
                k_norm: (
                    vector("indexer.k_norm.weight")?,
                    vector("indexer.k_norm.bias")?,
                ),
                weights_proj: weight("indexer.weights_proj")?,
            })
        } else {
            None
        };
        Ok(Mla {
            q,
            kv_a_proj_with_mqa: weight("kv_a_proj_with_mqa")?,
            kv_a_layernorm: vector("kv_a_layernorm.weight")?,
            kv_b_proj: weight("kv_b_proj")?,
            o_proj: weight("o_proj")?,
            indexer,
        })
    }

    fn mlp(&self, prefix: &str) -> Result<Mlp> {
        let weight = |name: &str| self.weight(&format!("{prefix}.{name}.weight"));
        Ok(Mlp {
            gate_proj: weight("gate_proj")?,
            up_proj: weight("up_proj")?,
            down_proj: weight("down_proj")?,
        })
    }

    fn feed_forward(&self, layer: usize, prefix: &str) -> Result<FeedForward> {
        let Some(moe) = self
            .config
            .moe
            .as_ref()
            .filter(|_| self.config.is_moe(layer))
        else {
            return Ok(FeedForward::Dense(self.mlp(prefix)?));
        };
        let bias = format!("{prefix}.gate.e_score_correction_bias");
        let shared =
            (moe.n_shared_experts > 0).then(|| self.mlp(&format!("{prefix}.shared_experts")));
        Ok(FeedForward::Moe(Moe {
            gate: self.weight(&format!("{prefix}.gate.weight"))?,
            e_score_correction_bias: match self.checkpoint.get(&bias) {
                Some(_) => Some(self.vector(&bias)?),
                None => None,
            },
            experts: (0..moe.n_routed_experts)
                .map(|expert| self.mlp(&format!("{prefix}.experts.{expert}")))
                .collect::<Result<_>>()?,
            shared_experts: shared.transpose()?,
        }))
    }

    fn mtp(&self, layer: usize) -> Result<Mtp> {
        let prefix = format!("model.layers.{layer}");
        Ok(Mtp {
            enorm: self.vector(&format!("{prefix}.enorm.weight"))?,
            hnorm: self.vector(&format!("{prefix}.hnorm.weight"))?,
            eh_proj: self.weight(&format!("{prefix}.eh_proj.weight"))?,
            block: self.block(layer)?,
            shared_head_norm: self.vector(&format!("{prefix}.shared_head.norm.weight"))?,
        })
    }
}
