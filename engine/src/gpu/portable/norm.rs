//! Norms, and what goes into the caches behind them.

use shaders::{key_cache, latent_cache};

use super::index::{hadamard, rope};
use super::numbers::{float, floats, set, set_all, set_bf16, set_fp8};
use super::packed::fp8_key;
use super::{Asked, bound};

/// `x += delta` if ADD, then `y = x / sqrt(mean(x²) + eps) * weight`.
pub(super) fn add_norm(asked: &Asked, buffers: &mut [Vec<u32>]) {
    let [x, delta, weight, y] = bound(buffers);
    let width = asked.quads("quads");
    let weight = floats(weight, 0, width);
    for token in 0..asked.size("tokens") {
        let row = token * width;
        if asked.knob("ADD") == 1 {
            for at in row..row + width {
                let sum = float(x, at) + float(delta, at);
                set(x, at, sum);
            }
        }
        let normed = rms_norm(&floats(x, row, width), &weight, asked.float("eps"));
        let to = token * asked.quads("y_stride") + asked.quads("y_offset");
        set_all(y, to, &normed);
    }
}

/// The query latent is normed in place, the latent and the indexer's key go into their caches.
pub(super) fn latents(asked: &Asked, buffers: &mut [Vec<u32>]) {
    let [projected, norms, angles, latent_cache, key_cache] = bound(buffers);
    for token in 0..asked.size("tokens") {
        let row = token * asked.quads("stride");
        let dr = asked.quads("dr");
        let angles = floats(angles, token * dr, dr);
        let position = asked.size("position") + token;
        norm_query(asked, row, projected, norms);
        store_latent(
            asked,
            position,
            row,
            [projected, norms],
            &angles,
            latent_cache,
        );
        if asked.size("di") > 0 {
            store_key(asked, position, row, [projected, norms], &angles, key_cache);
        }
    }
}

fn norm_query(asked: &Asked, row: usize, projected: &mut [u32], norms: &[u32]) {
    let (from, width) = (row + asked.quads("q_offset"), asked.quads("q_lora"));
    let weight = floats(norms, asked.quads("q_norm"), width);
    let normed = rms_norm(&floats(projected, from, width), &weight, asked.float("eps"));
    set_all(projected, from, &normed);
}

fn store_latent(
    asked: &Asked,
    position: usize,
    row: usize,
    [projected, norms]: [&[u32]; 2],
    angles: &[f64],
    cache: &mut [u32],
) {
    let (rank, dr) = (asked.quads("rank"), asked.quads("dr"));
    let from = row + asked.quads("kv_offset");
    let weight = floats(norms, asked.quads("kv_norm"), rank);
    let mut latent = rms_norm(&floats(projected, from, rank), &weight, asked.float("eps"));
    let mut roped = floats(projected, from + rank, dr);
    rope(&mut roped, angles, true);

    let first = position * asked.size("token_words");
    let scales = first + rank / 4;
    let rope_first = scales + asked.size("n_scales");
    match asked.knob("LATENT") {
        latent_cache::F32 => {
            latent.extend(roped);
            set_all(cache, first, &latent);
        }
        latent_cache::BF16 => {
            latent.extend(roped);
            set_bf16(cache, first, &latent);
        }
        latent_cache::FP8 => {
            set_fp8(cache, first, scales, &latent);
            set_all(cache, rope_first, &roped);
        }
        _ => {
            set_fp8(cache, first, scales, &latent);
            set_bf16(cache, rope_first, &roped);
        }
    }
}

fn store_key(
    asked: &Asked,
    position: usize,
    row: usize,
    [projected, norms]: [&[u32]; 2],
    angles: &[f64],
    cache: &mut [u32],
) {
    let di = asked.quads("di");
    let mut key = layer_norm(
        &floats(projected, row + asked.quads("key_offset"), di),
        &floats(norms, asked.quads("k_weight"), di),
        &floats(norms, asked.quads("k_bias"), di),
        asked.float("eps"),
    );
    rope(&mut key, angles, asked.knob("INTERLEAVED") == 1);
    match asked.knob("KEYS") {
        key_cache::F32 => set_all(cache, position * di, &key),
        key_cache::BF16 => set_bf16(cache, position * di / 2, &key),
        _ => {
            let [codes, scales] = fp8_key(position, di);
            let turned = hadamard(&key, asked.float("hadamard"));
            set_fp8(cache, codes, scales, &turned);
        }
    }
}

fn rms_norm(x: &[f64], weight: &[f64], eps: f64) -> Vec<f64> {
    let squares: f64 = x.iter().map(|x| x * x).sum();
    let root = (squares / x.len() as f64 + eps).sqrt();
    x.iter().zip(weight).map(|(x, w)| x / root * w).collect()
}

fn layer_norm(x: &[f64], weight: &[f64], bias: &[f64], eps: f64) -> Vec<f64> {
    let n = x.len() as f64;
    let mean = x.iter().sum::<f64>() / n;
    let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
    let root = (variance + eps).sqrt();
    (x.iter().zip(weight).zip(bias))
        .map(|((x, w), b)| (x - mean) / root * w + b)
        .collect()
}

#[cfg(test)]
mod tests {
    use shaders::latents::{Call, dispatch};
    use shaders::{Tuning, attend};

    use super::*;
    use crate::gpu::portable::packed::{Latents, key};

    const TUNING: Tuning = Tuning {
        subgroups: false,
        fat_threads: false,
    };

    /// A latent of two blocks, a key of two; both caches hold it as their second page begins.
    const CALL: Call = Call {
        latent: 0,
        keys: 0,
        interleaved: false,
        tokens: 2,
        position: 63,
        stride: 148 + 8 + 256,
        q_offset: 0,
        q_lora: 0,
        kv_offset: 0,
        rank: 148,
        dr: 8,
        key_offset: 148 + 8,
        di: 256,
        q_norm: 0,
        kv_norm: 0,
        k_weight: 0,
        k_bias: 256,
        eps: 1e-6,
    };

    /// Both caches after the tokens are stored in them.
    fn stored(call: &Call) -> [Vec<u32>; 2] {
        let bits = |values: Vec<f32>| -> Vec<u32> { values.iter().map(|x| x.to_bits()).collect() };
        let wave = |n: usize| (0..n).map(|i| (i as f32 * 0.7).sin() * 3.0).collect();
        let norms = (0..512).map(|i| if i < 256 { 1.0 } else { 0.25 }).collect();
        let angles = [[0.6_f32; 4], [0.8; 4]].concat().repeat(2);
        let mut buffers = [
            bits(wave(2 * call.stride)),
            bits(norms),
            bits(angles),
            vec![0; latent_cache::words(call.latent, call.rank, call.dr, 65)],
            vec![0; key_cache::words(call.keys, call.di, 65)],
        ];
        latents(&Asked(&dispatch(call, &TUNING)), &mut buffers);
        let [_, _, _, latent_cache, key_cache] = buffers;
        [latent_cache, key_cache]
    }

    fn latent_rows(format: u32) -> Vec<f64> {
        let call = Call {
            latent: format,
            ..CALL
        };
        let reading = attend::Call {
            latent: format,
            dense: true,
            tokens: 2,
            first_row: 0,
            heads: 1,
            rank: call.rank,
            dr: call.dr,
            position: call.position,
            k: 0,
            scale: 1.0,
        };
        let [cache, _] = stored(&call);
        let dispatch = attend::dispatch(&reading, &TUNING);
        let asked = Asked(&dispatch);
        let cached = Latents::new(&asked, &cache);
        [cached.row(63), cached.row(64)].concat()
    }

    fn assert_close(got: &[f64], want: &[f64], rel: f64) {
        for (i, (got, want)) in got.iter().zip(want).enumerate() {
            let off = (got - want).abs();
            assert!(
                off <= rel * want.abs() + 0.01,
                "{i}: {got}, expected {want}"
            );
        }
    }

    #[test]
    fn what_is_stored_is_what_attention_reads_in_every_format() {
        let exact = latent_rows(latent_cache::F32);
        let squares: f64 = exact[..148].iter().map(|x| x * x).sum();
        assert!((squares / 148.0 - 1.0).abs() < 1e-3, "an RMS norm");
        for &format in latent_cache::FORMATS {
            // e4m3 has three bits of mantissa.
            assert_close(&latent_rows(format), &exact, 1.0 / 16.0);
        }
    }

    #[test]
    fn what_is_stored_is_what_the_indexer_reads_in_every_format() {
        let rows = |keys: u32| -> Vec<Vec<f64>> {
            let [_, cache] = stored(&Call { keys, ..CALL });
            [63, 64].map(|at| key(keys, &cache, at, CALL.di)).to_vec()
        };
        let exact = rows(key_cache::F32);
        let mean: f64 = exact[0][8..].iter().sum::<f64>() / 248.0;
        assert!(
            (mean - 0.25).abs() < 0.1,
            "a layer norm has its bias: {mean}"
        );
        for &keys in key_cache::FORMATS {
            for (got, want) in rows(keys).iter().zip(&exact) {
                let turned = match keys {
                    key_cache::FP8 => hadamard(want, 1.0 / 16.0),
                    _ => want.clone(),
                };
                assert_close(got, &turned, 1.0 / 16.0);
            }
        }
    }
}
