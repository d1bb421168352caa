//! What DeepSeek-V3.2 launches: every kernel at its sizes, in every format, for one token and for more.

use shaders::kernel::{Dispatch, Tuning};
use shaders::{
    absorb, add_norm, attend, attend_merge, attend_weights, combine, copy_words, embed,
    expert_plan, index_query, index_scores, key_cache, latent_cache, latents, matmul, matvec,
    mlp_down, mlp_down_tiled, mlp_up, mlp_up_tiled, route, sample, top_k, weights,
};

const HIDDEN: usize = 7168;
const VOCAB: usize = 129_280;
const HEADS: usize = 128;
const Q_LORA: usize = 1536;
const RANK: usize = 512;
const NOPE: usize = 128;
const ROPE: usize = 64;
const VALUE: usize = 128;
const INDEX_HEADS: usize = 64;
const INDEX_DIM: usize = 128;
const TOP_K: usize = 2048;
const N_EXPERTS: usize = 256;
const N_SHARED: usize = 1;
const K_EXPERTS: usize = 8;
const EXPERT_WIDTH: usize = 2048;
const EPS: f32 = 1e-6;

/// One, and each number that a kernel of few tokens rounds up to.
const FEW_TOKENS: [usize; 4] = [1, 2, 4, 8];
/// A chunk of a prompt.
const CHUNK: usize = 512;
/// Tokens before it.
const POSITION: usize = 32_768;

/// Every launch, some of them of the same text.
pub fn launches(tuning: &Tuning) -> Vec<Dispatch> {
    let mut all = rows(tuning);
    for tokens in FEW_TOKENS.into_iter().chain([CHUNK]) {
        for &dtype in weights::DTYPES {
            all.extend(linear(dtype, tokens, tuning));
            all.extend(experts(dtype, tokens, tuning));
        }
        for &keys in key_cache::FORMATS {
            all.extend(indexer(keys, tokens, tuning));
        }
        for &latent in latent_cache::FORMATS {
            all.extend(attention(latent, tokens, tuning));
        }
    }
    all
}

/// What has few formats or none.
fn rows(tuning: &Tuning) -> Vec<Dispatch> {
    let embed = |dtype| embed::Call {
        dtype,
        tokens: 1,
        width: HIDDEN,
        first_row: 0,
        n_rows: VOCAB,
    };
    let add_norm = |add| add_norm::Call {
        add,
        tokens: 1,
        width: HIDDEN,
        y_stride: HIDDEN,
        y_offset: 0,
        eps: EPS,
    };
    let copy = copy_words::Call {
        from_offset: 0,
        to_offset: 0,
        n: HIDDEN,
    };
    let top_k = top_k::Call {
        tokens: 1,
        first_row: 0,
        position: POSITION,
        k: TOP_K,
        scores_stride: POSITION + 4,
        keep: false,
    };
    let route = |(scoring, method)| route::Call {
        scoring,
        method,
        tokens: 1,
        n_experts: N_EXPERTS,
        k: K_EXPERTS,
        n_shared: N_SHARED,
        n_groups: 8,
        n_kept: 4,
        has_bias: true,
        has_forced: false,
        normalise: true,
        scaling: 2.5,
        position: POSITION,
    };
    let sample = |temperature| sample::Call {
        vocab: VOCAB,
        logits_offset: 0,
        temperature,
        top_p: 0.95,
        uniform: 0.5,
    };
    let mut all = vec![
        copy_words::dispatch(&copy, tuning),
        top_k::dispatch(&top_k, tuning),
    ];
    all.extend([0, 1, 2, 3].map(|dtype| embed::dispatch(&embed(dtype), tuning)));
    all.extend([0.0, 1.0].map(|temperature| sample::dispatch(&sample(temperature), tuning)));
    all.extend([false, true].map(|add| add_norm::dispatch(&add_norm(add), tuning)));
    all.extend([(0, 2), (1, 0), (1, 1)].map(|how| route::dispatch(&route(how), tuning)));
    all
}

fn linear(dtype: u32, tokens: usize, tuning: &Tuning) -> [Dispatch; 2] {
    let call = matvec::Call {
        dtype,
        tokens,
        rows: HIDDEN,
        cols: HIDDEN,
        x_stride: HIDDEN,
        x_offset: 0,
        y_stride: HIDDEN,
        y_offset: 0,
    };
    let absorb = absorb::Call {
        dtype,
        tokens,
        heads: HEADS,
        dn: NOPE,
        dr: ROPE,
        dv: VALUE,
        rank: RANK,
        q_stride: HEADS * (NOPE + ROPE),
    };
    let linear = match tokens {
        CHUNK => matmul::dispatch(&call, tuning),
        _ => matvec::dispatch(&call, tuning),
    };
    [linear, absorb::dispatch(&absorb, tuning)]
}

fn experts(dtype: u32, tokens: usize, tuning: &Tuning) -> Vec<Dispatch> {
    let slots = K_EXPERTS + N_SHARED;
    let (width, hidden, first_expert) = (EXPERT_WIDTH, HIDDEN, 0);
    let n_experts = N_EXPERTS + N_SHARED;
    let x_stride = HIDDEN;
    if tokens == CHUNK {
        let plan = expert_plan::Call {
            tokens,
            slots,
            n_experts,
        };
        let up = mlp_up_tiled::Call {
            dtype,
            plan,
            width,
            hidden,
            first_expert,
            n_experts,
            x_stride,
        };
        let down = mlp_down_tiled::Call {
            dtype,
            plan,
            width,
            hidden,
            first_expert,
            n_experts,
        };
        let combine = combine::Call {
            tokens,
            slots,
            hidden,
        };
        return vec![
            expert_plan::dispatch(&plan, tuning),
            mlp_up_tiled::dispatch(&up, tuning),
            mlp_down_tiled::dispatch(&down, tuning),
            combine::dispatch(&combine, tuning),
        ];
    }
    let up = mlp_up::Call {
        dtype,
        tokens,
        slots,
        width,
        hidden,
        first_expert,
        n_experts,
        x_stride,
    };
    let down = |accumulate| mlp_down::Call {
        dtype,
        tokens,
        slots,
        width,
        hidden,
        first_expert,
        n_experts,
        accumulate,
    };
    vec![
        mlp_up::dispatch(&up, tuning),
        mlp_down::dispatch(&down(false), tuning),
        mlp_down::dispatch(&down(true), tuning),
    ]
}

fn indexer(keys: u32, tokens: usize, tuning: &Tuning) -> [Dispatch; 3] {
    let query = index_query::Call {
        keys,
        interleaved: false,
        tokens,
        heads: INDEX_HEADS,
        di: INDEX_DIM,
        dr: ROPE,
        q_stride: INDEX_HEADS * INDEX_DIM,
        q_offset: 0,
        stride: INDEX_HEADS,
        w_offset: 0,
    };
    let scores = index_scores::Call {
        keys,
        tokens,
        first_row: 0,
        heads: INDEX_HEADS,
        di: INDEX_DIM,
        position: POSITION,
        scores_stride: POSITION + CHUNK,
    };
    let latents = latents::Call {
        latent: keys,
        keys,
        interleaved: false,
        tokens,
        position: POSITION,
        stride: Q_LORA + RANK + ROPE + INDEX_DIM,
        q_offset: 0,
        q_lora: Q_LORA,
        kv_offset: Q_LORA,
        rank: RANK,
        dr: ROPE,
        key_offset: Q_LORA + RANK + ROPE,
        di: INDEX_DIM,
        q_norm: 0,
        kv_norm: Q_LORA,
        k_weight: Q_LORA + RANK,
        k_bias: Q_LORA + RANK + INDEX_DIM,
        eps: EPS,
    };
    [
        index_query::dispatch(&query, tuning),
        index_scores::dispatch(&scores, tuning),
        latents::dispatch(&latents, tuning),
    ]
}

fn attention(latent: u32, tokens: usize, tuning: &Tuning) -> Vec<Dispatch> {
    let attend = |dense| attend::Call {
        latent,
        dense,
        tokens,
        first_row: 0,
        heads: HEADS,
        rank: RANK,
        dr: ROPE,
        position: POSITION,
        k: TOP_K,
        scale: 0.1,
    };
    let splits = attend::splits(&attend(false), tuning);
    let weights = attend_weights::Call {
        attend: attend(false),
        stats_row: 0,
        splits,
        slots: TOP_K,
        mean: false,
    };
    let merge = |dtype| attend_merge::Call {
        dtype,
        tokens,
        first_row: 0,
        heads: HEADS,
        dn: NOPE,
        dv: VALUE,
        rank: RANK,
        splits,
        y_stride: HEADS * VALUE,
    };
    let mut all = vec![
        attend::dispatch(&attend(false), tuning),
        attend::dispatch(&attend(true), tuning),
        attend_weights::dispatch(&weights, tuning),
    ];
    let merges = weights::DTYPES.iter().map(|&dtype| merge(dtype));
    all.extend(merges.map(|call| attend_merge::dispatch(&call, tuning)));
    all
}
