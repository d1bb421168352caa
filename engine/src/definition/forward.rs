//! The forward pass, top-down: embedding, blocks, final norm, head.

use burn::Tensor;
use burn::tensor::Int;

use super::ops::{self, Angles, Mlp, layer_norm, linear, rms_norm, rope};
use super::weights::Weights;
use crate::config::{Config, LATENT_EPS, MoeConfig};
use crate::rope::Layout;

/// A model, and the angles of the rows that go through it.
#[derive(Clone, Copy, Debug)]
pub struct Definition<'a> {
    /// Sizes.
    pub config: &'a Config,
    /// Parameters.
    pub weights: &'a Weights,
    /// Of every row.
    pub angles: &'a Angles,
}

/// What the definition leaves open: what rows look back at, who chooses experts, and who watches.
pub trait Context {
    /// What can go wrong.
    type Error;

    /// Whether the indexer of `layer` computes, where the layer has one.
    fn indexes(&self, _layer: usize) -> bool {
        true
    }

    /// What rows read in `layer`: attention's output `[rows, heads × dv]`.
    ///
    /// # Errors
    /// As the context says.
    fn attend(&mut self, layer: usize, projected: Projected) -> Result<Tensor<2>, Self::Error>;

    /// Chooses experts by the gate's `logits` `[rows, n_routed_experts]`: which, and their weights, both
    /// `[rows, num_experts_per_tok]`.
    ///
    /// # Errors
    /// As the context says.
    fn route(
        &mut self,
        layer: usize,
        logits: Tensor<2>,
        moe: &MoeConfig,
    ) -> Result<(Vec<u16>, Tensor<2>), Self::Error>;

    /// Sees the residual stream `[rows, hidden_size]` after `layer`.
    ///
    /// # Errors
    /// As the context says.
    fn after(&mut self, _layer: usize, _x: &Tensor<2>) -> Result<(), Self::Error> {
        Ok(())
    }
}

/// What attention is made of.
pub struct Projected {
    /// Queries `[rows, heads × (dn + dr)]`, rotated.
    pub q: Tensor<2>,
    /// `[rows, kv_lora_rank]`, normed.
    pub latent: Tensor<2>,
    /// `[rows, qk_rope_head_dim]`, rotated.
    pub k_pe: Tensor<2>,
    /// `kv_b_proj`, `[heads × (dn + dv), kv_lora_rank]`.
    pub w_kvb: Tensor<2>,
    /// What the layer's own indexer says.
    pub index: Option<IndexParts>,
}

/// What an indexer computes from a layer's input.
pub struct IndexParts {
    /// `[rows, index_n_heads × index_head_dim]`, rotated.
    pub q: Tensor<2>,
    /// `[rows, index_head_dim]`, normed and rotated.
    pub k: Tensor<2>,
    /// `[rows, index_n_heads]`, scaled by `index_n_heads^-0.5 · index_head_dim^-0.5`.
    pub w: Tensor<2>,
}

impl Definition<'_> {
    /// Rows of the embedding, `[ids, hidden_size]`.
    pub fn embed(&self, ids: &[u32]) -> Tensor<2> {
        let table = self.weights.matrix("model.embed_tokens.weight");
        let ids: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
        let ids = Tensor::<1, Int>::from_ints(ids.as_slice(), &table.device());
        table.select(0, ids)
    }

    /// The main layers: `[ids, hidden_size]` after the final norm.
    ///
    /// # Errors
    /// As the context says.
    pub fn forward<C: Context>(&self, ids: &[u32], context: &mut C) -> Result<Tensor<2>, C::Error> {
        let mut x = self.embed(ids);
        for layer in 0..self.config.num_hidden_layers {
            x = self.block(layer, x, context)?;
        }
        let norm = self.weights.vector("model.norm.weight");
        Ok(rms_norm(x, norm, self.config.rms_norm_eps))
    }

    /// The MTP layer, which predicts the token after the next: from `hidden` `[rows, hidden_size]` and
    /// the token after each to what the head takes. It has caches of its own. Source: spec section 5.
    ///
    /// ```text
    /// u = eh_proj · [rms_norm(embed(t_{i+1}), enorm) ; rms_norm(h_i, hnorm)]
    /// logits(t_{i+2}) = lm_head · rms_norm(block(u), shared_head.norm)
    /// ```
    ///
    /// # Errors
    /// As the context says.
    pub fn mtp<C: Context>(
        &self,
        hidden: Tensor<2>,
        next_ids: &[u32],
        context: &mut C,
    ) -> Result<Tensor<2>, C::Error> {
        let (layer, eps) = (self.config.num_hidden_layers, self.config.rms_norm_eps);
        let weights = self.weights.scope(format!("model.layers.{layer}"));
        let embedded = rms_norm(self.embed(next_ids), weights.norm("enorm"), eps);
        let hidden = rms_norm(hidden, weights.norm("hnorm"), eps);
        let joined = Tensor::cat(vec![embedded, hidden], 1);
        let x = linear(joined, weights.matrix("eh_proj"));
        let x = self.block(layer, x, context)?;
        Ok(rms_norm(x, weights.norm("shared_head.norm"), eps))
    }

    /// The head, `[vocab_size, hidden_size]`.
    pub fn lm_head(&self) -> Tensor<2> {
        self.weights.matrix(match self.config.tie_word_embeddings {
            true => "model.embed_tokens.weight",
            false => "lm_head.weight",
        })
    }

    /// One layer: norm, attention, norm, feed-forward, with residuals.
    fn block<C: Context>(
        &self,
        layer: usize,
        x: Tensor<2>,
        context: &mut C,
    ) -> Result<Tensor<2>, C::Error> {
        let weights = self.weights.scope(format!("model.layers.{layer}"));
        let eps = self.config.rms_norm_eps;
        let normed = rms_norm(x.clone(), weights.norm("input_layernorm"), eps);
        let x = x + self.mla(layer, normed, context)?;
        let normed = rms_norm(x.clone(), weights.norm("post_attention_layernorm"), eps);
        let moe = self.config.moe.as_ref();
        let fed = match moe.filter(|_| self.config.is_moe(layer)) {
            None => ops::mlp(normed, &self.mlp(format!("model.layers.{layer}.mlp"))),
            Some(moe) => self.moe(layer, normed, moe, context)?,
        };
        let x = x + fed;
        context.after(layer, &x)?;
        Ok(x)
    }

    /// Multi-head latent attention and its lightning indexer. Source: spec 3.4 and 3.5.
    fn mla<C: Context>(
        &self,
        layer: usize,
        x: Tensor<2>,
        context: &mut C,
    ) -> Result<Tensor<2>, C::Error> {
        let (config, heads) = (self.config, self.config.heads());
        let weights = self
            .weights
            .scope(format!("model.layers.{layer}.self_attn"));
        let (q, qr) = match config.q_lora_rank {
            None => (linear(x.clone(), weights.matrix("q_proj")), None),
            Some(_) => {
                let qr = linear(x.clone(), weights.matrix("q_a_proj"));
                let qr = rms_norm(qr, weights.norm("q_a_layernorm"), LATENT_EPS);
                (linear(qr.clone(), weights.matrix("q_b_proj")), Some(qr))
            }
        };
        let q = self.rope(q, heads.n_heads, heads.dn, true);
        let kv = linear(x.clone(), weights.matrix("kv_a_proj_with_mqa"));
        let latent = kv.clone().narrow(1, 0, heads.rank);
        let latent = rms_norm(latent, weights.norm("kv_a_layernorm"), LATENT_EPS);
        let k_pe = self.rope(kv.narrow(1, heads.rank, heads.dr), 1, 0, true);
        let indexes = config.owns_indexer(layer) && context.indexes(layer);
        let projected = Projected {
            q,
            latent,
            k_pe,
            w_kvb: weights.matrix("kv_b_proj"),
            index: qr.filter(|_| indexes).map(|qr| self.index(layer, x, qr)),
        };
        let out = context.attend(layer, projected)?;
        Ok(linear(out, weights.matrix("o_proj")))
    }

    /// Queries, keys and head weights of the indexer, cut off from what they are computed from: in
    /// training the main model learns from the language alone. Source: spec 3.5 and 7.2.
    fn index(&self, layer: usize, x: Tensor<2>, qr: Tensor<2>) -> IndexParts {
        let sizes = self.config.indexer.as_ref();
        let sizes = sizes.expect("a layer that owns an indexer has its sizes");
        let (n_heads, dim) = (sizes.index_n_heads, sizes.index_head_dim);
        let interleaved = sizes.indexer_rope_interleave;
        let prefix = format!("model.layers.{layer}.self_attn.indexer");
        let weights = self.weights.scope(prefix);
        let (x, qr) = (x.detach(), qr.detach());
        let q = linear(qr, weights.matrix("wq_b"));
        let k = linear(x.clone(), weights.matrix("wk"));
        let (norm, bias) = (weights.norm("k_norm"), weights.vector("k_norm.bias"));
        let k = layer_norm(k, norm, bias, LATENT_EPS);
        let w = linear(x, weights.matrix("weights_proj"));
        IndexParts {
            // Rotated channels come first here, last in MLA.
            q: self.rope(q, n_heads, 0, interleaved),
            k: self.rope(k, 1, 0, interleaved),
            w: w * ((n_heads * dim) as f64).sqrt().recip(),
        }
    }

    fn moe<C: Context>(
        &self,
        layer: usize,
        x: Tensor<2>,
        moe: &MoeConfig,
        context: &mut C,
    ) -> Result<Tensor<2>, C::Error> {
        let prefix = format!("model.layers.{layer}.mlp");
        let gate = self.weights.matrix(&format!("{prefix}.gate.weight"));
        let logits = linear(x.clone(), gate);
        let (chosen, weights) = context.route(layer, logits, moe)?;
        let experts = 0..moe.n_routed_experts;
        let experts = experts.map(|expert| self.mlp(format!("{prefix}.experts.{expert}")));
        let shared =
            (moe.n_shared_experts > 0).then(|| self.mlp(format!("{prefix}.shared_experts")));
        Ok(ops::experts(x, &chosen, weights, experts, shared))
    }

    fn mlp(&self, prefix: String) -> Mlp {
        let weights = self.weights.scope(prefix);
        Mlp {
            gate_proj: weights.matrix("gate_proj"),
            up_proj: weights.matrix("up_proj"),
            down_proj: weights.matrix("down_proj"),
        }
    }

    fn rope(&self, x: Tensor<2>, n_heads: usize, offset: usize, interleaved: bool) -> Tensor<2> {
        let layout = Layout {
            n_heads,
            offset,
            interleaved,
        };
        rope(x, self.angles, layout)
    }
}
