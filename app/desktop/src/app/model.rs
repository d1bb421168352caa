//! The model there is, or how far its loading has come.

use std::path::PathBuf;
use std::sync::Arc;

use engine::chat::BOS;
use engine::model::LoadProgress;
use engine::tokenizer::Tokenizer;
use engine::{Config, Source};

use crate::models::card;
use crate::recording::Header;
use crate::settings::Sampling;

/// A model that can be asked.
pub(super) struct Ready {
    /// Its name for people.
    pub name: String,
    /// The device's id and name.
    pub device: String,
    pub config: Config,
    /// `None`: the folder has none, or one of another family; why is in `no_chat`.
    pub tokenizer: Option<Arc<Tokenizer>>,
    /// Why it cannot be talked with.
    pub no_chat: Option<String>,
    pub eos: Vec<u32>,
    /// How its makers advise to choose tokens.
    pub sampling: Sampling,
    /// `None` for the one inside the program.
    pub folder: Option<PathBuf>,
    pub resident_bytes: usize,
}

/// What is known of the model.
pub(super) enum Model {
    None,
    /// Being loaded.
    Loading {
        source: Source,
        progress: Option<LoadProgress>,
        /// The runner's half is done: the device and the bytes of the weights.
        loaded: Option<(String, usize)>,
        read: Option<Files>,
    },
    Ready(Box<Ready>),
    /// Why there is none.
    Failed(String),
}

/// What the app itself reads of a checkpoint.
pub(super) struct Files {
    config: Config,
    eos: Vec<u32>,
    sampling: Sampling,
    tokenizer: Option<Arc<Tokenizer>>,
}

impl Model {
    /// A model of which nothing is there yet: the runner is to load its weights, and a helper to read
    /// its [`Files`].
    pub(super) fn loading(source: Source) -> Self {
        Self::Loading {
            source,
            progress: None,
            loaded: None,
            read: None,
        }
    }

    /// The model, if there is one.
    pub(super) fn ready(&self) -> Option<&Ready> {
        match self {
            Self::Ready(ready) => Some(ready),
            _ => None,
        }
    }

    /// The files have come.
    pub(super) fn files_are_there(&mut self, files: Files) {
        if let Self::Loading { read, .. } = self {
            *read = Some(files);
        }
        self.finish();
    }

    /// The runner has loaded the weights.
    pub(super) fn weights_are_there(&mut self, told_device: String, resident_bytes: usize) {
        if let Self::Loading { loaded, .. } = self {
            *loaded = Some((told_device, resident_bytes));
        }
        self.finish();
    }

    fn finish(&mut self) {
        if let Self::Loading {
            source,
            loaded: Some((device, resident_bytes)),
            read: read @ Some(_),
            ..
        } = self
            && let Some(files) = read.take()
        {
            let no_chat = files.no_chat();
            *self = Self::Ready(Box::new(Ready {
                name: card::name(source),
                device: device.clone(),
                config: files.config,
                tokenizer: files.tokenizer,
                no_chat,
                eos: files.eos,
                sampling: files.sampling,
                folder: match source {
                    Source::Folder(folder) => Some(folder.clone()),
                    Source::Embedded(_) => None,
                },
                resident_bytes: *resident_bytes,
            }));
        }
    }
}

impl Files {
    pub(super) fn read(source: &Source) -> engine::Result<Self> {
        let config = source.config()?;
        Ok(Self {
            eos: source.eos_token_ids(&config)?,
            sampling: source.sampling_defaults()?.options().into(),
            tokenizer: source.tokenizer()?.map(Arc::new),
            config,
        })
    }

    /// Why this model cannot be talked with: messages are encoded as DeepSeek's models expect them.
    fn no_chat(&self) -> Option<String> {
        let Some(tokenizer) = &self.tokenizer else {
            return Some("the model's folder has no tokenizer.json: ids can be fed with `sparsight generate --ids`".into());
        };
        let marks = [BOS, "<｜User｜>", "<｜Assistant｜>"];
        let missing = marks
            .iter()
            .find(|mark| tokenizer.token_id(mark).is_none())?;
        Some(format!(
            "the tokenizer has no token {missing}: messages are encoded as DeepSeek's models expect them, \
             and this model expects another format"
        ))
    }
}

impl Ready {
    /// What a recording of this model looks like.
    pub(super) fn header(&self, index_topk: Option<usize>, is_dense: bool) -> Header {
        let config = &self.config;
        let layers = || 0..config.num_hidden_layers;
        let own = config.indexer.as_ref();
        Header {
            model: self.name.clone(),
            device: self.device.clone(),
            n_layers: config.num_hidden_layers,
            sparse_layers: match own {
                Some(_) => layers().collect(),
                None => Vec::new(),
            },
            moe_layers: layers().filter(|&layer| config.is_moe(layer)).collect(),
            n_routed_experts: config.moe.as_ref().map_or(0, |moe| moe.n_routed_experts),
            num_experts_per_tok: config.moe.as_ref().map_or(0, |moe| moe.num_experts_per_tok),
            n_heads: config.num_attention_heads,
            index_topk: own
                .filter(|_| !is_dense)
                .map(|indexer| index_topk.unwrap_or(indexer.index_topk)),
            context: config.max_position_embeddings,
        }
    }

    /// The text of one token, special ones under their name.
    pub(super) fn token_text(&self, id: u32) -> String {
        self.tokenizer
            .as_ref()
            .and_then(|tokenizer| tokenizer.token_text(id))
            .unwrap_or_else(|| format!("#{id}"))
    }
}
