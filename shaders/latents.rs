//! Norms and rope of a projected row, and what goes into the caches.

use crate::index_row::{INDEX_ROW, hadamard, hadamard_factor, hadamard_flops, rope};
use crate::kernel::{Cost, Dispatch, Kernel, Knob, Tuning, params, spread};
use crate::pieces::{NUMBERS, REDUCE, plain};
use crate::reference::{bound, dot, floats, rms_norm, set_all};
use crate::{key_cache, latent_cache};

/// The query latent is normed in place, the latent and the indexer's key go into their caches.
pub const KERNEL: Kernel = Kernel {
    name: "latents",
    pieces: &[
        REDUCE,
        NUMBERS,
        INDEX_ROW,
        plain(include_str!("latents.wgsl")),
    ],
    bindings: &["projected", "norms", "angles", "latent_cache", "key_cache"],
    knobs: &[
        Knob::new("WG", 256, &[32, 256]),
        Knob::new("LATENT", latent_cache::F32, latent_cache::FORMATS),
        Knob::new("KEYS", key_cache::F32, key_cache::FORMATS),
        Knob::new("INTERLEAVED", 0, &[0, 1]),
    ],
    params: Params::LAYOUT,
    reference,
};

params! {
    tokens: u32,
    position: u32,
    stride: u32,
    q_offset: u32,
    q_lora: u32,
    kv_offset: u32,
    rank: u32,
    dr: u32,
    key_offset: u32,
    di: u32,
    q_norm: u32,
    kv_norm: u32,
    k_weight: u32,
    k_bias: u32,
    token_words: u32,
    n_scales: u32,
    key_scales: u32,
    hadamard: f32,
    eps: f32,
    unused: u32,
}

/// The sizes of one call, in elements. All but `tokens` and `position` are multiples of 4.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Format of the latent cache, see [`latent_cache`].
    pub latent: u32,
    /// Format of the key cache, see [`key_cache`]. With FP8, `di` must be a power of two.
    pub keys: u32,
    /// Whether the channels of a key are paired (2i, 2i + 1) rather than (i, i + dr/2).
    pub interleaved: bool,
    /// Rows of `projected` and `angles`.
    pub tokens: usize,
    /// Index in both caches of the first token.
    pub position: usize,
    /// Elements between the starts of two projected rows.
    pub stride: usize,
    /// Where in a row the query latent starts.
    pub q_offset: usize,
    /// Its width; 0 for none.
    pub q_lora: usize,
    /// Where in a row the latent starts; its rope channels follow.
    pub kv_offset: usize,
    /// Width of the latent.
    pub rank: usize,
    /// Rope channels, of the latent and of a key.
    pub dr: usize,
    /// Where in a row the indexer's key starts.
    pub key_offset: usize,
    /// Its width, at least `dr` and at most [`crate::index_row::MOST_CHANNELS`]; 0 for none.
    pub di: usize,
    /// Where in `norms` the weight for the query latent starts.
    pub q_norm: usize,
    /// The same for the latent.
    pub kv_norm: usize,
    /// The same for the key.
    pub k_weight: usize,
    /// Where in `norms` the bias for the key starts.
    pub k_bias: usize,
    /// Added to means of squares.
    pub eps: f32,
}

/// Plans the launch.
///
/// # Panics
/// A key that the kernel cannot hold or transform, see [`Call::keys`] and [`Call::di`].
pub fn dispatch(call: &Call, tuning: &Tuning) -> Dispatch {
    let token_words = latent_cache::token_words(call.latent, call.rank, call.dr);
    let quads = |n: usize| (n / 4) as u32;
    let params = Params {
        tokens: call.tokens as u32,
        position: call.position as u32,
        stride: quads(call.stride),
        q_offset: quads(call.q_offset),
        q_lora: quads(call.q_lora),
        kv_offset: quads(call.kv_offset),
        rank: quads(call.rank),
        dr: quads(call.dr),
        key_offset: quads(call.key_offset),
        di: quads(call.di),
        q_norm: quads(call.q_norm),
        kv_norm: quads(call.kv_norm),
        k_weight: quads(call.k_weight),
        k_bias: quads(call.k_bias),
        token_words: token_words as u32,
        n_scales: latent_cache::n_scales(call.rank) as u32,
        key_scales: key_cache::n_scales(call.di) as u32,
        hadamard: hadamard_factor(call.keys, call.di),
        eps: call.eps,
        unused: 0,
    };
    let [x, y] = spread(call.tokens as u32);
    let parts = match (call.q_lora, call.di) {
        (0, 0) => 1,
        (0, _) => 2,
        _ => 3,
    };
    let key_words = key_cache::token_words(call.keys, call.di);
    let n_norms = call.q_lora + call.rank + 2 * call.di;
    let n_projected = call.q_lora + call.rank + call.dr + call.di;
    let n_angles = if call.di > 0 { 2 } else { 1 } * call.dr;
    let key_flops = match call.di {
        0 => 0,
        di => 9 * di as u64 + 3 * call.dr as u64 + hadamard_flops(call.keys, di),
    };
    let flops = (4 * (call.q_lora + call.rank) + 3 * call.dr) as u64 + key_flops;
    let tokens = call.tokens as u64;
    Dispatch {
        kernel: &KERNEL,
        knobs: vec![
            ("WG", if tuning.fat_threads { 32 } else { 256 }),
            ("LATENT", call.latent),
            ("KEYS", call.keys),
            ("INTERLEAVED", u32::from(call.interleaved)),
        ],
        subgroups: tuning.subgroups,
        params: bytemuck::bytes_of(&params).to_vec(),
        groups: [x, y, parts],
        cost: Cost {
            read_bytes: 4 * (tokens * (n_projected + n_angles) as u64 + n_norms as u64),
            write_bytes: 4 * tokens * (call.q_lora + token_words + key_words) as u64,
            flops: tokens * flops,
        },
    }
}

fn reference(dispatch: &Dispatch, buffers: &mut [Vec<u32>]) {
    let [projected, norms, angles, latent_cache, key_cache] = bound(buffers);
    let [stride, q_offset, q_lora, q_norm] =
        dispatch.quads(["stride", "q_offset", "q_lora", "q_norm"]);
    let [kv_offset, rank, dr, kv_norm] = dispatch.quads(["kv_offset", "rank", "dr", "kv_norm"]);
    let [key_offset, di, k_weight, k_bias] =
        dispatch.quads(["key_offset", "di", "k_weight", "k_bias"]);
    let eps = dispatch.float("eps");
    for token in 0..dispatch.size("tokens") {
        let row = token * stride;
        let normed =
            |from, at, n| rms_norm(&floats(projected, from, n), &floats(norms, at, n), eps);
        let query = normed(row + q_offset, q_norm, q_lora);
        let latent = normed(row + kv_offset, kv_norm, rank);

        let position = dispatch.size("position") + token;
        let angles = floats(angles, token * dr, dr);
        let mut pe = floats(projected, row + kv_offset + rank, dr);
        rope(&mut pe, &angles, true);
        latent_cache::set_row(
            dispatch.knob("LATENT"),
            latent_cache,
            position,
            &latent,
            &pe,
        );
        if di > 0 {
            let mut key = layer_norm(
                &floats(projected, row + key_offset, di),
                &floats(norms, k_weight, di),
                &floats(norms, k_bias, di),
                eps,
            );
            rope(&mut key, &angles, dispatch.knob("INTERLEAVED") == 1);
            let keys = dispatch.knob("KEYS");
            if keys == key_cache::FP8 {
                key = hadamard(&key, dispatch.float("hadamard"));
            }
            key_cache::set_row(keys, key_cache, position, &key);
        }
        set_all(projected, row + q_offset, &query);
    }
}

fn layer_norm(x: &[f64], weight: &[f64], bias: &[f64], eps: f64) -> Vec<f64> {
    let mean = x.iter().sum::<f64>() / x.len() as f64;
    let centred: Vec<_> = x.iter().map(|x| x - mean).collect();
    let root = (dot(&centred, &centred) / x.len() as f64 + eps).sqrt();
    let scaled = centred.iter().zip(weight).map(|(x, w)| x / root * w);
    scaled.zip(bias).map(|(x, b)| x + b).collect()
}
