//! The one table of every tensor of a checkpoint, and the count of parameters that follows from it.
//!
//! The fit check, the parameter count and the inspector walk it. FP8 scales are not in it: they
//! belong to whichever matrix is stored as FP8, which is for the fit check to say. Names that other
//! programs give the same tensors are brought to these when a checkpoint is opened.

use super::{Config, Sizes};

pub use shaders::weights::FP8_BLOCK;

/// Ending of the name of a matrix's FP8 factors.
pub const SCALES: &str = "_scale_inv";

/// Which part of the model a tensor belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The embedding table.
    Embedding,
    /// Projections of the attention and the norms of its latents.
    Attention,
    /// The lightning indexer.
    Indexer,
    /// Feed-forward layers without experts.
    Dense,
    /// Gates of the expert layers and their biases.
    Gate,
    /// Routed experts.
    Experts,
    /// Shared experts.
    SharedExperts,
    /// Norms of the residual stream.
    Norms,
    /// The head.
    Head,
    /// Everything of the MTP layer.
    Mtp,
}

impl Part {
    /// All parts, in the order of the forward pass.
    pub const ALL: &[Self] = &[
        Self::Embedding,
        Self::Attention,
        Self::Indexer,
        Self::Dense,
        Self::Gate,
        Self::Experts,
        Self::SharedExperts,
        Self::Norms,
        Self::Head,
        Self::Mtp,
    ];

    /// A short name to show.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embedding => "embedding",
            Self::Attention => "attention",
            Self::Indexer => "indexer",
            Self::Dense => "dense",
            Self::Gate => "gate",
            Self::Experts => "experts",
            Self::SharedExperts => "shared experts",
            Self::Norms => "norms",
            Self::Head => "head",
            Self::Mtp => "mtp",
        }
    }
}

/// How a tensor is used, which decides the types it may be stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorKind {
    /// `[out, in]`, used as `y = W x`.
    Matrix,
    /// A norm weight or a bias.
    Vector,
}

/// What a checkpoint has to hold under one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// The name in the safetensors header.
    pub name: String,
    /// The shape, as in the safetensors header.
    pub shape: Vec<usize>,
    /// The part of the model.
    pub part: Part,
    /// Matrix or vector.
    pub kind: TensorKind,
    /// A checkpoint may leave it out: it repeats another tensor and is not loaded.
    pub optional: bool,
}

impl TensorSpec {
    /// Elements of the tensor.
    pub fn n_elements(&self) -> u128 {
        self.shape.iter().map(|&side| side as u128).product()
    }
}

/// How many parameters a model has, without MTP and without FP8 scales.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// All.
    pub total: u64,
    /// Those that are read for one decoded token: one row of the embedding, the chosen experts,
    /// everything else.
    pub active: u64,
    /// `(part, total, active)` for every part that the model has.
    pub parts: Vec<(Part, u64, u64)>,
}

impl Config {
    /// Every tensor of a checkpoint, the MTP layer's too if asked for and there is one.
    /// Source: spec section 2.
    pub fn tensors(&self, with_mtp: bool) -> Vec<TensorSpec> {
        let mut table = Table {
            config: self,
            specs: Vec::new(),
        };
        let Sizes {
            vocab_size,
            hidden_size,
            num_hidden_layers,
            ..
        } = **self;
        table.matrix(
            "model.embed_tokens.weight",
            Part::Embedding,
            [vocab_size, hidden_size],
        );
        for layer in 0..num_hidden_layers {
            table.layer(layer, None);
        }
        table.vector("model.norm.weight", Part::Norms, hidden_size);
        if !self.tie_word_embeddings {
            table.matrix("lm_head.weight", Part::Head, [vocab_size, hidden_size]);
        }
        if with_mtp && self.num_nextn_predict_layers > 0 {
            table.mtp(num_hidden_layers);
        }
        table.specs
    }

    /// Counts the parameters.
    pub fn parameters(&self) -> Parameters {
        let specs = self.tensors(false);
        let part_total = |part: Part| {
            let of_part = specs.iter().filter(|spec| spec.part == part);
            of_part.map(|spec| spec.n_elements() as u64).sum::<u64>()
        };
        let parts: Vec<_> = Part::ALL
            .iter()
            .map(|&part| {
                let total = part_total(part);
                let active = match (part, &self.moe) {
                    // As the head, a tied table is read whole.
                    (Part::Embedding, _) if !self.tie_word_embeddings => self.hidden_size as u64,
                    (Part::Experts, Some(moe)) => {
                        total / moe.n_routed_experts as u64 * moe.num_experts_per_tok as u64
                    }
                    _ => total,
                };
                (part, total, active)
            })
            .filter(|(_, total, _)| *total > 0)
            .collect();
        Parameters {
            total: parts.iter().map(|(_, total, _)| total).sum(),
            active: parts.iter().map(|(_, _, active)| active).sum(),
            parts,
        }
    }
}

struct Table<'a> {
    config: &'a Config,
    specs: Vec<TensorSpec>,
}

impl Table<'_> {
    fn push(&mut self, name: &str, part: Part, kind: TensorKind, shape: Vec<usize>) {
        self.specs.push(TensorSpec {
            name: name.into(),
            shape,
            part,
            kind,
            optional: false,
        });
    }

    fn matrix(&mut self, name: &str, part: Part, shape: [usize; 2]) {
        self.push(name, part, TensorKind::Matrix, shape.to_vec());
    }

    fn vector(&mut self, name: &str, part: Part, width: usize) {
        self.push(name, part, TensorKind::Vector, vec![width]);
    }

    /// A decoder block. `all`: one part for everything in it.
    fn layer(&mut self, layer: usize, all: Option<Part>) {
        let hidden = self.config.hidden_size;
        let prefix = format!("model.layers.{layer}");
        let norms = all.unwrap_or(Part::Norms);
        self.vector(&format!("{prefix}.input_layernorm.weight"), norms, hidden);
        self.attention(
            &format!("{prefix}.self_attn"),
            all.unwrap_or(Part::Attention),
        );
        if self.config.owns_indexer(layer) {
            self.indexer(
                &format!("{prefix}.self_attn.indexer"),
                all.unwrap_or(Part::Indexer),
            );
        }
        self.vector(
            &format!("{prefix}.post_attention_layernorm.weight"),
            norms,
            hidden,
        );
        self.feed_forward(layer, &format!("{prefix}.mlp"), all);
    }

    fn attention(&mut self, prefix: &str, part: Part) {
        let Sizes {
            hidden_size,
            num_attention_heads: heads,
            kv_lora_rank,
            ..
        } = **self.config;
        let Sizes {
            qk_nope_head_dim: dn,
            qk_rope_head_dim: dr,
            v_head_dim: dv,
            ..
        } = **self.config;
        let name = |name: &str| format!("{prefix}.{name}.weight");
        match self.config.q_lora_rank {
            None => self.matrix(&name("q_proj"), part, [heads * (dn + dr), hidden_size]),
            Some(rank) => {
                self.matrix(&name("q_a_proj"), part, [rank, hidden_size]);
                self.vector(&name("q_a_layernorm"), part, rank);
                self.matrix(&name("q_b_proj"), part, [heads * (dn + dr), rank]);
            }
        }
        self.matrix(
            &name("kv_a_proj_with_mqa"),
            part,
            [kv_lora_rank + dr, hidden_size],
        );
        self.vector(&name("kv_a_layernorm"), part, kv_lora_rank);
        self.matrix(&name("kv_b_proj"), part, [heads * (dn + dv), kv_lora_rank]);
        self.matrix(&name("o_proj"), part, [hidden_size, heads * dv]);
    }

    fn indexer(&mut self, prefix: &str, part: Part) {
        let (Some(indexer), Some(rank)) = (&self.config.indexer, self.config.q_lora_rank) else {
            unreachable!("a checked config with an indexer has its sizes and a query latent");
        };
        let (heads, dim) = (indexer.index_n_heads, indexer.index_head_dim);
        let hidden = self.config.hidden_size;
        self.matrix(&format!("{prefix}.wq_b.weight"), part, [heads * dim, rank]);
        self.matrix(&format!("{prefix}.wk.weight"), part, [dim, hidden]);
        self.vector(&format!("{prefix}.k_norm.weight"), part, dim);
        self.vector(&format!("{prefix}.k_norm.bias"), part, dim);
        self.matrix(
            &format!("{prefix}.weights_proj.weight"),
            part,
            [heads, hidden],
        );
    }

    fn feed_forward(&mut self, layer: usize, prefix: &str, all: Option<Part>) {
        let config = self.config;
        let Some(moe) = config.moe.as_ref().filter(|moe| moe.is_moe(layer)) else {
            return self.mlp(prefix, all.unwrap_or(Part::Dense), config.intermediate_size);
        };
        let gate = all.unwrap_or(Part::Gate);
        let shape = [moe.n_routed_experts, config.hidden_size];
        self.matrix(&format!("{prefix}.gate.weight"), gate, shape);
        if moe.topk_method == super::TopkMethod::NoauxTc {
            let name = format!("{prefix}.gate.e_score_correction_bias");
            self.vector(&name, gate, moe.n_routed_experts);
        }
        for expert in 0..moe.n_routed_experts {
            let prefix = format!("{prefix}.experts.{expert}");
            self.mlp(
                &prefix,
                all.unwrap_or(Part::Experts),
                moe.moe_intermediate_size,
            );
        }
        if moe.n_shared_experts > 0 {
            let width = moe.n_shared_experts * moe.moe_intermediate_size;
            let prefix = format!("{prefix}.shared_experts");
            self.mlp(&prefix, all.unwrap_or(Part::SharedExperts), width);
        }
    }

    fn mlp(&mut self, prefix: &str, part: Part, width: usize) {
        let hidden = self.config.hidden_size;
        self.matrix(&format!("{prefix}.gate_proj.weight"), part, [width, hidden]);
        self.matrix(&format!("{prefix}.up_proj.weight"), part, [width, hidden]);
        self.matrix(&format!("{prefix}.down_proj.weight"), part, [hidden, width]);
    }

    fn mtp(&mut self, layer: usize) {
        let Sizes {
            vocab_size,
            hidden_size,
            ..
        } = **self.config;
        let prefix = format!("model.layers.{layer}");
        let copies = ["embed_tokens", "shared_head.head"];
        for copy in copies {
            let name = format!("{prefix}.{copy}.weight");
            self.matrix(&name, Part::Mtp, [vocab_size, hidden_size]);
            // GLM-5 leaves the two out, and in V3 they equal the main ones.
            if let Some(spec) = self.specs.last_mut() {
                spec.optional = true;
            }
        }
        self.vector(&format!("{prefix}.enorm.weight"), Part::Mtp, hidden_size);
        self.vector(&format!("{prefix}.hnorm.weight"), Part::Mtp, hidden_size);
        let joined = [hidden_size, 2 * hidden_size];
        self.matrix(&format!("{prefix}.eh_proj.weight"), Part::Mtp, joined);
        self.layer(layer, Some(Part::Mtp));
        self.vector(
            &format!("{prefix}.shared_head.norm.weight"),
            Part::Mtp,
            hidden_size,
        );
    }
}
