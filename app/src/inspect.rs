//! `sparsight inspect`: what a checkpoint folder holds and what it takes to run it.
//!
//! Files of traces, routes and masks are the business of [`crate::record_file`].

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use engine::config::{Part, SCALES, TensorSpec};
use engine::gpu::max_pass_tokens;
use engine::pass::WORKSPACE_BYTES;
use engine::{Checkpoint, Config, Error, Source};
use serde_json::{Value, json};

use crate::options::{KEY_FORMATS, LATENT_FORMATS, embedded};
use crate::{Outcome, record_file, terminal};

/// Context lengths whose cost is shown, as far as the model holds them; its own limit comes last.
const CONTEXT_LENGTHS: &[usize] = &[4096, 16_384, 65_536, 131_072];

#[derive(Args, Debug)]
pub struct Arguments {
    /// A checkpoint's folder, or a .safetensors file that Sparsight wrote: a trace, routes or masks
    /// [default: the small model inside the program]
    #[arg(value_name = "PATH")]
    path: Option<PathBuf>,

    /// List every tensor, too
    #[arg(long)]
    tensors: bool,

    /// Print a JSON document
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    if let Some(path) = arguments.path.as_deref().filter(|path| path.is_file()) {
        let facts = record_file::read(path)?;
        if arguments.json {
            terminal::print_line(format_args!("{:#}", facts.document(arguments.tensors)))?;
        } else {
            terminal::print(&facts.text(arguments.tensors))?;
        }
        return Ok(Outcome::Success);
    }
    let source = match &arguments.path {
        Some(folder) => folder.as_path().into(),
        None => embedded("PATH")?,
    };
    let facts = Facts::read(source)?;
    let text = if arguments.json {
        format!("{:#}\n", facts.document(arguments.tensors))
    } else {
        facts.text(arguments.tensors)
    };
    terminal::unless_gone(terminal::print(&text))?;
    match facts.misfit {
        Some(misfit) => bail!(misfit),
        None => Ok(Outcome::Success),
    }
}

/// A checkpoint's config and, if they are there, its weights.
struct Facts {
    source: Source,
    config: Config,
    eos_token_ids: Vec<u32>,
    has_tokenizer: bool,
    /// `None`: the folder holds no weights, which is enough to plan with.
    weights: Option<Checkpoint>,
    has_mtp: bool,
    /// What is stored and not used.
    notes: Vec<String>,
    misfit: Option<Error>,
}

/// What a part of the model holds.
#[derive(Clone, Copy, Default)]
struct PartSize {
    parameters: u64,
    active: u64,
    stored_bytes: u64,
}

impl Facts {
    fn read(source: Source) -> engine::Result<Self> {
        let config = source.config()?;
        let eos_token_ids = source.eos_token_ids(&config)?;
        let mut weights = if source.has_weights() {
            Some(source.checkpoint()?)
        } else {
            None
        };
        let fit = weights.as_mut().map(|weights| weights.fit(&config));
        let (notes, misfit) = match fit {
            Some(Err(misfit)) => (Vec::new(), Some(misfit)),
            fit => (fit.and_then(Result::ok).unwrap_or_default(), None),
        };
        Ok(Self {
            has_mtp: weights
                .as_ref()
                .map_or(config.num_nextn_predict_layers > 0, |weights| {
                    weights.has_mtp(&config)
                }),
            has_tokenizer: source.has_tokenizer(),
            source,
            config,
            eos_token_ids,
            weights,
            notes,
            misfit,
        })
    }

    /// Name and value of everything the config decides, under the config's names.
    fn architecture(&self) -> Vec<(&'static str, Value)> {
        let config = &self.config;
        let mut rows = vec![
            ("architecture", json!(config.architecture.name())),
            ("model_type", json!(config.architecture.model_type())),
            ("num_hidden_layers", json!(config.num_hidden_layers)),
            (
                "num_nextn_predict_layers",
                json!(config.num_nextn_predict_layers),
            ),
            ("hidden_size", json!(config.hidden_size)),
            ("intermediate_size", json!(config.intermediate_size)),
            ("vocab_size", json!(config.vocab_size)),
            (
                "max_position_embeddings",
                json!(config.max_position_embeddings),
            ),
            ("num_attention_heads", json!(config.num_attention_heads)),
            ("q_lora_rank", json!(config.q_lora_rank)),
            ("kv_lora_rank", json!(config.kv_lora_rank)),
            ("qk_nope_head_dim", json!(config.qk_nope_head_dim)),
            ("qk_rope_head_dim", json!(config.qk_rope_head_dim)),
            ("v_head_dim", json!(config.v_head_dim)),
            ("rope_theta", json!(config.rope_theta)),
        ];
        if let Some(yarn) = &config.yarn {
            rows.push(("yarn factor", json!(yarn.factor)));
            rows.push((
                "yarn original context",
                json!(yarn.original_max_position_embeddings),
            ));
        }
        match &config.indexer {
            None => rows.push(("indexer", json!("none: attention is dense"))),
            Some(indexer) => {
                let owners = 0..config.num_hidden_layers;
                let n_owners = owners.filter(|&layer| config.owns_indexer(layer)).count();
                rows.push(("index_n_heads", json!(indexer.index_n_heads)));
                rows.push(("index_head_dim", json!(indexer.index_head_dim)));
                rows.push(("index_topk", json!(indexer.index_topk)));
                rows.push(("layers with an indexer", json!(n_owners)));
            }
        }
        match &config.moe {
            None => rows.push(("experts", json!("none: every layer is dense"))),
            Some(moe) => {
                let layers = 0..config.num_hidden_layers;
                let n_moe = layers.filter(|&layer| config.is_moe(layer)).count();
                rows.push(("n_routed_experts", json!(moe.n_routed_experts)));
                rows.push(("num_experts_per_tok", json!(moe.num_experts_per_tok)));
                rows.push(("n_shared_experts", json!(moe.n_shared_experts)));
                rows.push(("moe_intermediate_size", json!(moe.moe_intermediate_size)));
                rows.push(("layers with experts", json!(n_moe)));
            }
        }
        rows.push(("bos_token_id", json!(config.bos_token_id)));
        rows.push(("eos_token_ids", json!(self.eos_token_ids)));
        rows
    }

    /// The size of every part that is there, in the order of the forward pass.
    fn parts(&self) -> Vec<(Part, PartSize)> {
        let specs = self.config.tensors(self.has_mtp);
        let mut sizes: BTreeMap<Part, PartSize> = BTreeMap::new();
        for spec in &specs {
            let size = sizes.entry(spec.part).or_default();
            if !spec.optional {
                size.parameters += spec.n_elements() as u64;
            }
            size.stored_bytes += self.stored_bytes(spec);
        }
        for (part, _, active) in self.config.parameters().parts {
            sizes.entry(part).or_default().active = active;
        }
        let in_order = Part::ALL
            .iter()
            .filter_map(|part| Some((*part, *sizes.get(part)?)));
        in_order.collect()
    }

    /// Bytes of a tensor and of its scales, if it is stored with scales.
    fn stored_bytes(&self, spec: &TensorSpec) -> u64 {
        let Some(weights) = &self.weights else {
            return 0;
        };
        let scales = format!("{}{SCALES}", spec.name);
        [spec.name.as_str(), &scales]
            .into_iter()
            .filter_map(|name| weights.get(name))
            .map(|tensor| tensor.bytes().len() as u64)
            .sum()
    }

    /// Tokens, format of latents, format of keys, bytes.
    fn context_costs(&self) -> Vec<(usize, &'static str, &'static str, u64)> {
        let config = &self.config;
        let limit = config.max_position_embeddings;
        let lengths = CONTEXT_LENGTHS
            .iter()
            .copied()
            .filter(|&length| length < limit);
        // Without an indexer there are no keys to choose a format for.
        let key_formats = match &config.indexer {
            Some(_) => KEY_FORMATS,
            None => &KEY_FORMATS[..1],
        };
        let mut costs = Vec::new();
        for length in lengths.chain([limit]) {
            for &(latent_name, latent) in LATENT_FORMATS {
                for &(key_name, keys) in key_formats {
                    let bytes = config.cache_bytes_per_token(latent, keys) as u64;
                    costs.push((length, latent_name, key_name, bytes * length as u64));
                }
            }
        }
        costs
    }

    fn document(&self, with_tensors: bool) -> Value {
        let parts = self.parts();
        let parameters = self.config.parameters();
        let architecture: serde_json::Map<_, _> = self
            .architecture()
            .into_iter()
            .map(|(name, value)| (name.replace(' ', "_"), value))
            .collect();
        let mut document = json!({
            "kind": "checkpoint",
            "folder": self.source.to_string(),
            "has_tokenizer": self.has_tokenizer,
            "has_mtp_weights": self.weights.is_some() && self.has_mtp,
            "architecture": architecture,
            "parameters": {
                "total": parameters.total,
                "active": parameters.active,
            },
            "parts": parts.iter().map(|(part, size)| json!({
                "part": part.name(),
                "parameters": size.parameters,
                "active": size.active,
                "gpu_workspace_bytes": WORKSPACE_BYTES,
            "gpu_pass_tokens": max_pass_tokens(&self.config),
            "stored_bytes": self.weights.is_some().then_some(size.stored_bytes),
                "f32_bytes": size.parameters * 4,
            })).collect::<Vec<_>>(),
            "stored_bytes": self.weights.as_ref().map(Checkpoint::n_bytes),
            "context": self.context_costs().iter().map(|(tokens, latent, keys, bytes)| json!({
                "tokens": tokens, "latent_cache": latent, "key_cache": keys, "bytes": bytes,
            })).collect::<Vec<_>>(),
            "notes": self.notes,
            "problem": self.misfit.as_ref().map(ToString::to_string),
        });
        if with_tensors && let Some(weights) = &self.weights {
            document["tensors"] = weights
                .tensors()
                .map(|(name, tensor)| {
                    json!({
                        "name": name,
                        "dtype": format!("{:?}", tensor.dtype),
                        "shape": tensor.shape,
                        "bytes": tensor.bytes().len(),
                    })
                })
                .collect();
        }
        document
    }

    fn text(&self, with_tensors: bool) -> String {
        let mut text = format!("{}\n\n", self.source);
        let rows: Vec<Vec<String>> = self
            .architecture()
            .into_iter()
            .map(|(name, value)| vec![name.into(), shown(&value)])
            .collect();
        text.push_str(&terminal::table(&rows));
        let tokenizer = if self.has_tokenizer {
            "tokenizer.json is there"
        } else {
            "no tokenizer.json: ids in, ids out"
        };
        text.push_str(&format!("\n{tokenizer}\n"));
        for note in &self.notes {
            text.push_str(&format!("{note}\n"));
        }
        text.push('\n');
        text.push_str(&self.parts_text());
        text.push_str(&self.context_text());
        text.push_str(&format!(
            "\nOn a GPU a pass takes at most {} tokens, so that each of its workspaces stays within {}.\n",
            max_pass_tokens(&self.config),
            terminal::bytes(WORKSPACE_BYTES as u64)
        ));
        if with_tensors {
            text.push_str(&self.tensors_text());
        }
        text
    }

    fn parts_text(&self) -> String {
        let parameters = self.config.parameters();
        let mut text = format!(
            "{} parameters, {} active for a token\n\n",
            terminal::count(parameters.total),
            terminal::count(parameters.active)
        );
        let head = ["part", "parameters", "active", "as stored", "as f32"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        let stored = |bytes: u64| match &self.weights {
            Some(_) => terminal::bytes(bytes),
            None => "-".into(),
        };
        let mut total = PartSize::default();
        for (part, size) in self.parts() {
            rows.push(vec![
                part.name().into(),
                terminal::count(size.parameters),
                terminal::count(size.active),
                stored(size.stored_bytes),
                terminal::bytes(size.parameters * 4),
            ]);
            total.parameters += size.parameters;
            total.active += size.active;
            total.stored_bytes += size.stored_bytes;
        }
        rows.push(vec![
            "all".into(),
            terminal::count(total.parameters),
            terminal::count(total.active),
            stored(total.stored_bytes),
            terminal::bytes(total.parameters * 4),
        ]);
        text.push_str(&terminal::table(&rows));
        if self.weights.is_none() {
            text.push_str("\nno weights in this folder\n");
        }
        text
    }

    /// One line a context length, one column a pair of formats.
    fn context_text(&self) -> String {
        let costs = self.context_costs();
        let mut rows: Vec<Vec<String>> = Vec::new();
        let first = costs.first().map(|cost| cost.0);
        let columns = costs.iter().filter(|cost| Some(cost.0) == first);
        let names = columns.map(|(_, latent, keys, _)| match self.config.indexer {
            Some(_) => format!("{latent} + {keys} keys"),
            None => (*latent).to_owned(),
        });
        rows.push(["context".to_owned()].into_iter().chain(names).collect());
        for of_length in costs.chunk_by(|a, b| a.0 == b.0) {
            let cells = of_length.iter().map(|cost| terminal::bytes(cost.3));
            rows.push(
                [of_length[0].0.to_string()]
                    .into_iter()
                    .chain(cells)
                    .collect(),
            );
        }
        format!("\nmemory of the context\n\n{}", terminal::table(&rows))
    }

    fn tensors_text(&self) -> String {
        let Some(weights) = &self.weights else {
            return "\nno tensors: the folder holds no weights\n".into();
        };
        let rows = weights.tensors().map(|(name, tensor)| {
            vec![
                name.to_owned(),
                format!("{:?}", tensor.dtype),
                format!("{:?}", tensor.shape),
                terminal::bytes(tensor.bytes().len() as u64),
            ]
        });
        format!("\n{}", terminal::table(&rows.collect::<Vec<_>>()))
    }
}

/// A JSON value without the quotes of a string.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "none".into(),
        other => other.to_string(),
    }
}
