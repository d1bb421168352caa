//! What a recording is made of, as views see it.

use serde::{Deserialize, Serialize};

/// What the recorded model looks like; every view sizes itself by it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// Name of the model, for titles and files.
    pub model: String,
    /// Device it ran on.
    pub device: String,
    /// Layers, the MTP layer not among them.
    pub n_layers: usize,
    /// Layers that select tokens (with an indexer of their own or a shared one); the others read everything.
    pub sparse_layers: Vec<usize>,
    /// Layers with routed experts.
    pub moe_layers: Vec<usize>,
    /// Experts in each of them.
    pub n_routed_experts: usize,
    /// Experts that a token is sent to.
    pub num_experts_per_tok: usize,
    /// Attention heads.
    pub n_heads: usize,
    /// Positions that a token may read, as in force when recording began; `None` for dense.
    pub index_topk: Option<usize>,
    /// Positions that the context holds.
    pub context: usize,
}

/// Who wrote a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It was given.
    Prompt,
    /// The model chose it.
    Generated,
}

/// A token that could have come.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Id.
    pub id: u32,
    /// Text, special tokens under their name.
    pub text: String,
    /// Probability by the model's own logits.
    pub probability: f32,
    /// Probability that the draw gave it, after penalties, temperature and truncation; 0 where truncation
    /// took it away; `None` for tokens that were not drawn (prompt tokens).
    pub draw_probability: Option<f32>,
}

/// What is known of one token.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenInfo {
    /// Id.
    pub id: u32,
    /// Text as the tokenizer gives it for this token alone, special tokens under their name.
    pub text: String,
    /// Who wrote it.
    pub origin: Origin,
    /// Natural log of the model's probability of this token, given those before it.
    pub logprob: Option<f32>,
    /// Entropy in nats of the model's distribution that this token was chosen from.
    pub entropy: Option<f32>,
    /// The most likely candidates for this position, best first, the token itself among them.
    pub candidates: Vec<Candidate>,
}

/// What one token read in one layer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selection {
    /// Positions, ascending.
    pub positions: Vec<u32>,
    /// The indexer's score of each; NaN where it was not kept or not recorded.
    pub scores: Vec<f32>,
    /// Attention weight on each, mean over heads; NaN where it was not kept or not recorded.
    pub weights: Vec<f32>,
}

/// Where selected positions lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// Among the first [`N_SINK`] positions.
    pub n_sink: usize,
    /// Among the last [`N_RECENT`] positions, the token itself included.
    pub n_recent: usize,
    /// All others: what only an indexer finds.
    pub n_retrieved: usize,
}

/// First positions that count as sink.
pub const N_SINK: usize = 4;
/// Last positions that count as recent.
pub const N_RECENT: usize = 64;

/// Time of one op of a step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OpTiming {
    /// Name of the op.
    pub op: String,
    /// Layer; `None` for ops outside the layers.
    pub layer: Option<usize>,
    /// Milliseconds; `None` where only launches were counted.
    pub ms: Option<f32>,
    /// Bytes read and written.
    pub bytes: u64,
    /// Kernel launches.
    pub launches: u32,
}

/// Times of one step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepTiming {
    /// Wall time of the step.
    pub total_ms: f32,
    /// Its ops in the order they ran. Empty where only the whole was timed, or where they were dropped
    /// for space (see [`Recording::ops_dropped`](super::Recording::ops_dropped)).
    pub ops: Vec<OpTiming>,
    /// Tokens that the step fed.
    pub n_tokens: usize,
}
