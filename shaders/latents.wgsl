// Three parts of a projected row of token t, each where its offset says:
//   q    projected[t, q] = rms_norm(projected[t, q]) * q_norm                              in place
//   kv   latent_cache[position + t] = rms_norm(latent) * kv_norm | rope_interleaved(k_pe)  as LATENT stores
//   key  key_cache[position + t] = hadamard(rope(layer_norm(key) * k_weight + k_bias))     as KEYS stores
// The rope of a key turns its first dr channels; the Hadamard transform (orthonormal, Sylvester's order) is
// for FP8 keys only.
//
// One workgroup per token and part: kv, key, q. A lane walks its part in steps of WG quads (4 channels), so
// neighbouring lanes read neighbouring quads. The 32 quads of an FP8 block are those of 32 neighbouring lanes.
//
// Reads a projected row, its angles and the norms once, writes the q part and the cache entries; the second
// look at a row hits the cache, and so do the norms for all tokens but the first. About ten flops an element.

override WG: u32 = 256u;
// 0 f32, 1 bf16, 2 e4m3 with an f32 rope part, 3 e4m3 with a bf16 rope part.
override LATENT: u32 = 0u;
// 0 f32, 1 bf16, 2 e4m3 after a Hadamard transform.
override KEYS: u32 = 0u;
// Pairs of a key: 1 (2i, 2i + 1), 0 (i, i + dr/2).
override INTERLEAVED: u32 = 0u;

const CHANNELS: u32 = 1024u; // most of a key
const PAGE_TOKENS: u32 = 64u;

struct Params {
    tokens: u32,
    position: u32, // of the first token
    stride: u32,   // of a projected row, in quads, as all offsets and sizes up to k_bias
    q_offset: u32,
    q_lora: u32,   // 0: no q part
    kv_offset: u32,
    rank: u32,
    dr: u32,
    key_offset: u32,
    di: u32,       // 0: no key
    q_norm: u32,
    kv_norm: u32,
    k_weight: u32,
    k_bias: u32,
    token_words: u32, // of the latent cache
    n_scales: u32,    // of a latent in FP8
    key_scales: u32,  // of a key in FP8
    hadamard: f32,    // di^-0.5
    eps: f32,
    unused: u32,
}

@group(0) @binding(0) var<storage, read_write> projected: array<vec4<f32>>; // [tokens, stride]
@group(0) @binding(1) var<storage, read_write> norms: array<vec4<f32>>;     // q_norm, kv_norm, k_weight, k_bias
@group(0) @binding(2) var<storage, read_write> angles: array<vec2<f32>>;    // [tokens, 2 * dr]: cosines, sines
@group(0) @binding(3) var<storage, read_write> latent_cache: array<u32>;    // [positions, token_words]
@group(0) @binding(4) var<storage, read_write> key_cache: array<u32>;       // [positions, di] as KEYS says
@group(0) @binding(5) var<uniform> params: Params;

@compute @workgroup_size(WG)
fn latents(@builtin(workgroup_id) group: vec3<u32>, lane: Lane) {
    let token = group.x + group.y * 65535u;
    if token >= params.tokens {
        return;
    }
    if group.z == 0u {
        store_latent(lane, token);
    } else if group.z == 1u {
        if params.di > 0u {
            store_key(lane, token);
        }
    } else {
        norm_query(lane, token);
    }
}

// 1 / sqrt(mean of squares + eps) of quads start..start + n.
fn rms_scale(lane: Lane, start: u32, n: u32) -> f32 {
    var squares = vec4<f32>();
    for (var quad = lane.index; quad < n; quad += WG) {
        let value = projected[start + quad];
        squares += value * value;
    }
    let mean = across(workgroup_sum4(lane, squares)) / f32(4u * n);
    return inverseSqrt(mean + params.eps);
}

fn across(x: vec4<f32>) -> f32 {
    return (x.x + x.y) + (x.z + x.w);
}

fn norm_query(lane: Lane, token: u32) {
    let row = token * params.stride + params.q_offset;
    let scale = rms_scale(lane, row, params.q_lora);
    for (var quad = lane.index; quad < params.q_lora; quad += WG) {
        projected[row + quad] = projected[row + quad] * scale * norms[params.q_norm + quad];
    }
}

fn store_latent(lane: Lane, token: u32) {
    let row = token * params.stride + params.kv_offset;
    let entry = (params.position + token) * params.token_words;
    let rank = params.rank;
    let scale = rms_scale(lane, row, rank);

    // A uniform count, for there are barriers within; lanes beyond the end hold zeros.
    for (var first = 0u; first < rank; first += WG) {
        let quad = first + lane.index;
        var value = vec4<f32>();
        if quad < rank {
            value = projected[row + quad] * scale * norms[params.kv_norm + quad];
        }
        if LATENT >= 2u {
            let block = block_scale(lane.index, value);
            if quad < rank {
                latent_cache[entry + quad] = quad_to_e4m3(value, block.y);
                if quad % BLOCK_QUADS == 0u {
                    latent_cache[entry + rank + quad / BLOCK_QUADS] = bitcast<u32>(block.x);
                }
            }
        } else if quad < rank {
            store_plain(entry, quad, value, LATENT == 1u);
        }
    }

    let pe = row + rank;
    let pe_entry = entry + select(0u, rank + params.n_scales, LATENT >= 2u);
    // f32 and bf16 entries go on where the latent ends.
    let pe_first = select(rank, 0u, LATENT >= 2u);
    for (var quad = lane.index; quad < params.dr; quad += WG) {
        let value = projected[pe + quad];
        let cosines = angles[token * 2u * params.dr + quad];
        let sines = angles[token * 2u * params.dr + params.dr + quad];
        let first = rotated(value.x, value.y, cosines.x, sines.x);
        let second = rotated(value.z, value.w, cosines.y, sines.y);
        store_plain(pe_entry, pe_first + quad, vec4<f32>(first, second), LATENT == 1u || LATENT == 3u);
    }
}

fn store_plain(entry: u32, quad: u32, value: vec4<f32>, as_bf16: bool) {
    if as_bf16 {
        latent_cache[entry + 2u * quad] = to_bf16(value.x) | (to_bf16(value.y) << 16u);
        latent_cache[entry + 2u * quad + 1u] = to_bf16(value.z) | (to_bf16(value.w) << 16u);
    } else {
        let bits = bitcast<vec4<u32>>(value);
        latent_cache[entry + 4u * quad] = bits.x;
        latent_cache[entry + 4u * quad + 1u] = bits.y;
        latent_cache[entry + 4u * quad + 2u] = bits.z;
        latent_cache[entry + 4u * quad + 3u] = bits.w;
    }
}

fn store_key(lane: Lane, token: u32) {
    let row = token * params.stride + params.key_offset;
    let di = params.di;
    let position = params.position + token;

    var total = vec4<f32>();
    for (var quad = lane.index; quad < di; quad += WG) {
        total += projected[row + quad];
    }
    let mean = across(workgroup_sum4(lane, total)) / f32(4u * di);
    // Not the mean of squares less the mean squared: that cancels.
    var squares = vec4<f32>();
    for (var quad = lane.index; quad < di; quad += WG) {
        let centred = projected[row + quad] - mean;
        squares += centred * centred;
    }
    let variance = across(workgroup_sum4(lane, squares)) / f32(4u * di);
    let scale = inverseSqrt(variance + params.eps);
    for (var quad = lane.index; quad < di; quad += WG) {
        let weight = norms[params.k_weight + quad];
        let bias = norms[params.k_bias + quad];
        let value = (projected[row + quad] - mean) * scale * weight + bias;
        index_row[4u * quad] = value.x;
        index_row[4u * quad + 1u] = value.y;
        index_row[4u * quad + 2u] = value.z;
        index_row[4u * quad + 3u] = value.w;
    }
    workgroupBarrier();

    // Each lane turns pairs of its own. angles holds two numbers an element.
    for (var i = lane.index; i < 2u * params.dr; i += WG) {
        let at = pair_channels(i, 4u * params.dr, INTERLEAVED == 1u);
        let cosine = angles[token * 2u * params.dr + i / 2u][i % 2u];
        let sine = angles[token * 2u * params.dr + params.dr + i / 2u][i % 2u];
        let pair = rotated(index_row[at.x], index_row[at.y], cosine, sine);
        index_row[at.x] = pair.x;
        index_row[at.y] = pair.y;
    }

    if KEYS == 2u {
        hadamard(lane.index, 4u * di);
        let page = position / PAGE_TOKENS * (PAGE_TOKENS * (di + params.key_scales));
        let in_page = position % PAGE_TOKENS;
        for (var first = 0u; first < di; first += WG) {
            let quad = first + lane.index;
            var value = vec4<f32>();
            if quad < di {
                value = row_quad(quad) * params.hadamard;
            }
            let block = block_scale(lane.index, value);
            if quad < di {
                key_cache[page + in_page * di + quad] = quad_to_e4m3(value, block.y);
                if quad % BLOCK_QUADS == 0u {
                    let at = in_page * params.key_scales + quad / BLOCK_QUADS;
                    key_cache[page + PAGE_TOKENS * di + at] = bitcast<u32>(block.x);
                }
            }
        }
    } else {
        workgroupBarrier();
        if KEYS == 1u {
            for (var i = lane.index; i < 2u * di; i += WG) {
                let low = to_bf16(index_row[2u * i]);
                let high = to_bf16(index_row[2u * i + 1u]);
                key_cache[position * 2u * di + i] = low | (high << 16u);
            }
        } else {
            for (var i = lane.index; i < 4u * di; i += WG) {
                key_cache[position * 4u * di + i] = bitcast<u32>(index_row[i]);
            }
        }
    }
}
