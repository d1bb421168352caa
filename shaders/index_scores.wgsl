// scores[t, s] = sum over heads h of w[t, h] * relu(sum over channels c of q[t, h, c] * k[s, c]),  s <= position + t
//
// The lightning indexer. What lies beyond a token's own position is left alone. ReLU keeps NaN.
//
// SHAPE 0 and 1: a workgroup has KEY_TILE keys and TOKENS tokens, and walks over the heads HEADS at a time and over the
// channels 16 at a time. Of both it lays the step's channels into workgroup memory, each key decoded once for all heads
// and tokens of the tile. A lane multiplies 8 heads of one token by LANE_KEYS keys in registers: 3 or 4 reads of
// workgroup memory for 32 or 64 multiply-adds. It then weighs its heads, and the sums of the token's lanes are added in
// order. SHAPE 0 has one token (decoding), SHAPE 1 as many as make 128 rows. Both add in the same order.
// SHAPE 2: a lane scores FAT_KEYS keys by itself, FAT_HEADS heads at a time, all in registers: for drivers that run
// shaders on a CPU, where a load is a loop over the lanes that costs as much as many multiply-adds.
//
// Bytes: each key once (132 at 128 channels in FP8), queries and weights once, a score for each visible key. A lane
// reads a key's channels 16 bytes at a time out of one line, which stays in the first cache meanwhile; workgroups that
// follow one another have the same keys and other tokens, and all workgroups share the queries: those re-reads hit the
// second cache. Flops: (2 * di + 2) * heads a visible pair. At 64 heads of 128 it is arithmetic that takes the time.

// 0 f32, 1 bf16, 2 e4m3 in pages of 64 with a scale per 128 channels.
override KEYS: u32 = 2u;
// Whether di is no multiple of 16.
override RAGGED: u32 = 0u;
// Heads of a tile.
override HEADS: u32 = 64u;
// 0 one token, 1 many tokens, 2 each lane by itself.
override SHAPE: u32 = 0u;

const TOKENS: u32 = select(1u, 128u / HEADS, SHAPE == 1u);
// Heads a lane has, and lanes that share a token's heads.
const LANE_HEADS: u32 = 8u;
const HEAD_LANES: u32 = HEADS / LANE_HEADS;
const ROWS: u32 = select(TOKENS * HEADS, 8u, SHAPE == 2u);
const KEY_TILE: u32 = select(64u, 4u, SHAPE == 2u);
const LANE_KEYS: u32 = select(4u, 8u, SHAPE == 1u);
const LANE_QUADS: u32 = LANE_KEYS / 4u;
const KEY_LANES: u32 = KEY_TILE / LANE_KEYS;
const FAT_WG: u32 = 8u;
const FAT_KEYS: u32 = 16u;
const FAT_HEADS: u32 = 8u;
const WG: u32 = select(ROWS / LANE_HEADS * (64u / LANE_KEYS), FAT_WG, SHAPE == 2u);
// Words of four channels, and quads of channels that share a scale.
const QUAD_WORDS: u32 = select(4u >> KEYS, 1u, KEYS == 2u);
const BLOCK_QUADS: u32 = select(0x10000u, 32u, KEYS == 2u);
// Two apart, so that neighbouring quads of two rows are written into different banks.
const ROW_STEP: u32 = ROWS + 2u;

struct Params {
    tokens: u32,
    first_row: u32, // of index_q and index_w; that of scores is 0
    heads: u32,
    di: u32,
    position: u32, // of the first token
    scores_stride: u32,
}

@group(0) @binding(0) var<storage, read_write> index_q: array<vec4<f32>>; // [.., heads, di / 4]
@group(0) @binding(1) var<storage, read_write> index_w: array<f32>; // [.., heads]
@group(0) @binding(2) var<storage, read_write> keys: array<vec4<u32>>; // the cache
@group(0) @binding(3) var<storage, read_write> scores: array<f32>; // [tokens, scores_stride]
@group(0) @binding(4) var<uniform> params: Params;

var<workgroup> q_tile: array<vec4<f32>, 4u * ROW_STEP>; // [4 quads of channels, ROW_STEP]
// [4 quads of channels, KEY_TILE]; at the end the sums [ROWS / LANE_HEADS, LANE_QUADS, KEY_LANES]
var<workgroup> k_tile: array<vec4<f32>, 4u * KEY_TILE>;

@compute @workgroup_size(WG)
fn index_scores(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    if SHAPE == 2u {
        score_alone(group.x, group.y * (FAT_WG * FAT_KEYS) + lane);
        return;
    }
    let first_token = group.x * TOKENS;
    let first_key = group.y * KEY_TILE;
    let n_keys = params.position + min(first_token + TOKENS, params.tokens);
    if first_key >= n_keys {
        return;
    }
    let quads = params.di / 4u;
    let key_lane = lane % KEY_LANES;
    let row_lane = lane / KEY_LANES;
    // Neighbouring lanes have neighbouring heads: they read workgroup memory without conflict.
    let own_token = row_lane / HEAD_LANES;
    let own_head = row_lane % HEAD_LANES;
    let own_row = own_token * HEADS + own_head;

    var sums: array<vec4<f32>, LANE_QUADS>;
    for (var j = 0u; j < LANE_QUADS; j++) {
        sums[j] = vec4<f32>();
    }
    for (var head_base = 0u; head_base < params.heads; head_base += HEADS) {
        var dots: array<vec4<f32>, LANE_HEADS * LANE_QUADS>;
        for (var i = 0u; i < LANE_HEADS * LANE_QUADS; i++) {
            dots[i] = vec4<f32>();
        }
        for (var quad_base = 0u; quad_base < quads; quad_base += 4u) {
            workgroupBarrier();
            for (var at = lane; at < 4u * ROWS; at += WG) {
                let quad = quad_base + at % 4u;
                let row = at / 4u;
                let token = first_token + row / HEADS;
                let head = head_base + row % HEADS;
                var value = vec4<f32>();
                if token < params.tokens && head < params.heads && (RAGGED == 0u || quad < quads) {
                    value = index_q[((params.first_row + token) * params.heads + head) * quads + quad];
                }
                q_tile[at % 4u * ROW_STEP + row] = value;
            }
            for (var at = lane; at < KEY_TILE; at += WG) {
                // Keys beyond the last are the last again: memory behind it may not be the cache's.
                let unit = key_unit(min(first_key + at, n_keys - 1u), quad_base);
                for (var quad = 0u; quad < 4u; quad++) {
                    k_tile[quad * KEY_TILE + at] = unit[quad];
                }
            }
            workgroupBarrier();
            for (var quad = 0u; quad < 4u; quad++) {
                // By channel, four keys each.
                var k: array<mat4x4<f32>, LANE_QUADS>;
                for (var j = 0u; j < LANE_QUADS; j++) {
                    let at = quad * KEY_TILE + key_lane + 4u * j * KEY_LANES;
                    k[j] = transpose(mat4x4<f32>(
                        k_tile[at],
                        k_tile[at + KEY_LANES],
                        k_tile[at + 2u * KEY_LANES],
                        k_tile[at + 3u * KEY_LANES],
                    ));
                }
                for (var i = 0u; i < LANE_HEADS; i++) {
                    let q = q_tile[quad * ROW_STEP + own_row + i * HEAD_LANES];
                    for (var j = 0u; j < LANE_QUADS; j++) {
                        dots[i * LANE_QUADS + j] = add_four(dots[i * LANE_QUADS + j], q, k[j]);
                    }
                }
            }
        }
        let token = first_token + own_token;
        if token < params.tokens {
            for (var i = 0u; i < LANE_HEADS; i++) {
                let head = head_base + own_head + i * HEAD_LANES;
                // A head that is not there has a product of 0, but 0 * inf is none.
                if head < params.heads {
                    let w = vec4<f32>(index_w[(params.first_row + token) * params.heads + head]);
                    for (var j = 0u; j < LANE_QUADS; j++) {
                        sums[j] = fma(w, relu(dots[i * LANE_QUADS + j]), sums[j]);
                    }
                }
            }
        }
    }

    // The tile's memory again, for the sums of each lane.
    workgroupBarrier();
    for (var j = 0u; j < LANE_QUADS; j++) {
        k_tile[(row_lane * LANE_QUADS + j) * KEY_LANES + key_lane] = sums[j];
    }
    workgroupBarrier();
    for (var at = lane; at < TOKENS * LANE_QUADS * KEY_LANES; at += WG) {
        let token = at / (LANE_QUADS * KEY_LANES);
        let rest = at % (LANE_QUADS * KEY_LANES);
        var sum = vec4<f32>();
        for (var i = 0u; i < HEAD_LANES; i++) {
            sum += k_tile[(token * HEAD_LANES + i) * LANE_QUADS * KEY_LANES + rest];
        }
        if first_token + token < params.tokens {
            let n_visible = params.position + first_token + token + 1u;
            let key = first_key + rest % KEY_LANES + rest / KEY_LANES * 4u * KEY_LANES;
            let row = (first_token + token) * params.scores_stride;
            for (var i = 0u; i < 4u; i++) {
                if key + i * KEY_LANES < n_visible {
                    scores[row + key + i * KEY_LANES] = sum[i];
                }
            }
        }
    }
}

// The scores of FAT_KEYS keys, FAT_WG apart, by one lane. What would be arrays and loops is written out: at this size
// compilers keep loops, and a loop makes the arrays memory.
fn score_alone(token: u32, first_key: u32) {
    let row = params.first_row + token;
    let n_visible = params.position + token + 1u;
    let quads = params.di / 4u;
    var sums = mat4x4<f32>(); // of keys 0..4, 4..8, ..
    for (var head_base = 0u; head_base < params.heads; head_base += FAT_HEADS) {
        var d0 = mat4x4<f32>();
        var d1 = mat4x4<f32>();
        var d2 = mat4x4<f32>();
        var d3 = mat4x4<f32>();
        var d4 = mat4x4<f32>();
        var d5 = mat4x4<f32>();
        var d6 = mat4x4<f32>();
        var d7 = mat4x4<f32>();
        for (var first = 0u; first < quads; first += BLOCK_QUADS) {
            let last = n_visible - 1u;
            let s0 = four_scales(first_key, last, first);
            let s1 = four_scales(first_key + 4u * FAT_WG, last, first);
            let s2 = four_scales(first_key + 8u * FAT_WG, last, first);
            let s3 = four_scales(first_key + 12u * FAT_WG, last, first);
            for (var quad = first; quad < min(first + BLOCK_QUADS, quads); quad++) {
                let k0 = four_keys(first_key, last, quad, s0);
                let k1 = four_keys(first_key + 4u * FAT_WG, last, quad, s1);
                let k2 = four_keys(first_key + 8u * FAT_WG, last, quad, s2);
                let k3 = four_keys(first_key + 12u * FAT_WG, last, quad, s3);
                d0 = add(d0, query(row, head_base + 0u, quad), k0, k1, k2, k3);
                d1 = add(d1, query(row, head_base + 1u, quad), k0, k1, k2, k3);
                d2 = add(d2, query(row, head_base + 2u, quad), k0, k1, k2, k3);
                d3 = add(d3, query(row, head_base + 3u, quad), k0, k1, k2, k3);
                d4 = add(d4, query(row, head_base + 4u, quad), k0, k1, k2, k3);
                d5 = add(d5, query(row, head_base + 5u, quad), k0, k1, k2, k3);
                d6 = add(d6, query(row, head_base + 6u, quad), k0, k1, k2, k3);
                d7 = add(d7, query(row, head_base + 7u, quad), k0, k1, k2, k3);
            }
        }
        sums = weigh(sums, d0, row, head_base + 0u);
        sums = weigh(sums, d1, row, head_base + 1u);
        sums = weigh(sums, d2, row, head_base + 2u);
        sums = weigh(sums, d3, row, head_base + 3u);
        sums = weigh(sums, d4, row, head_base + 4u);
        sums = weigh(sums, d5, row, head_base + 5u);
        sums = weigh(sums, d6, row, head_base + 6u);
        sums = weigh(sums, d7, row, head_base + 7u);
    }
    for (var i = 0u; i < FAT_KEYS; i++) {
        let key = first_key + i * FAT_WG;
        if key < n_visible {
            scores[token * params.scores_stride + key] = sums[i / 4u][i % 4u];
        }
    }
}

// Four channels of a head's query; of the last head, if it is beyond that.
fn query(row: u32, head: u32, quad: u32) -> vec4<f32> {
    return index_q[(row * params.heads + min(head, params.heads - 1u)) * (params.di / 4u) + quad];
}

// dots + what four channels of a query give with those of sixteen keys.
fn add(
    dots: mat4x4<f32>,
    q: vec4<f32>,
    k0: mat4x4<f32>,
    k1: mat4x4<f32>,
    k2: mat4x4<f32>,
    k3: mat4x4<f32>,
) -> mat4x4<f32> {
    return mat4x4<f32>(
        add_four(dots[0], q, k0),
        add_four(dots[1], q, k1),
        add_four(dots[2], q, k2),
        add_four(dots[3], q, k3),
    );
}

// The same with four keys, by channel.
fn add_four(dots: vec4<f32>, q: vec4<f32>, k: mat4x4<f32>) -> vec4<f32> {
    let two = fma(vec4<f32>(q.y), k[1], fma(vec4<f32>(q.x), k[0], dots));
    return fma(vec4<f32>(q.w), k[3], fma(vec4<f32>(q.z), k[2], two));
}

// sums + w * relu(dots), if there is such a head.
fn weigh(sums: mat4x4<f32>, dots: mat4x4<f32>, row: u32, head: u32) -> mat4x4<f32> {
    if head >= params.heads {
        return sums;
    }
    let w = index_w[row * params.heads + head];
    return sums + w * mat4x4<f32>(relu(dots[0]), relu(dots[1]), relu(dots[2]), relu(dots[3]));
}

// Four channels of four keys, by channel. Keys beyond the last are the last again.
fn four_keys(key: u32, last: u32, quad: u32, scales: vec4<f32>) -> mat4x4<f32> {
    let k = transpose(mat4x4<f32>(
        key_quad(min(key, last), quad),
        key_quad(min(key + FAT_WG, last), quad),
        key_quad(min(key + 2u * FAT_WG, last), quad),
        key_quad(min(key + 3u * FAT_WG, last), quad),
    ));
    if KEYS != 2u {
        return k;
    }
    return mat4x4<f32>(k[0] * scales, k[1] * scales, k[2] * scales, k[3] * scales);
}

// Their scales in the block that begins at a quad.
fn four_scales(key: u32, last: u32, quad: u32) -> vec4<f32> {
    return vec4<f32>(
        key_scale(min(key, last), quad),
        key_scale(min(key + FAT_WG, last), quad),
        key_scale(min(key + 2u * FAT_WG, last), quad),
        key_scale(min(key + 3u * FAT_WG, last), quad),
    );
}

// max(x, 0), but NaN stays: max() may drop it, and compilers may take a comparison for max().
fn relu(x: vec4<f32>) -> vec4<f32> {
    let bits = bitcast<vec4<u32>>(x);
    let negative = (bits - 0x80000000u) <= vec4<u32>(0x7f800000u);
    return bitcast<vec4<f32>>(select(bits, vec4<u32>(), negative));
}

// 16 channels of a key from quad_base on, by quads; 0 beyond the last. As few loads as there can be.
fn key_unit(key: u32, quad_base: u32) -> array<vec4<f32>, 4> {
    // 16 channels never cross a block of scales.
    let scale = key_scale(key, quad_base);
    if RAGGED == 1u {
        var unit: array<vec4<f32>, 4>;
        for (var quad = 0u; quad < 4u; quad++) {
            unit[quad] = vec4<f32>();
            if quad_base + quad < params.di / 4u {
                unit[quad] = key_quad(key, quad_base + quad) * scale;
            }
        }
        return unit;
    }
    let word = key_start(key) + quad_base * QUAD_WORDS;
    let a = keys[word / 4u];
    if KEYS == 2u {
        return array<vec4<f32>, 4>(
            from_e4m3(a.x) * scale,
            from_e4m3(a.y) * scale,
            from_e4m3(a.z) * scale,
            from_e4m3(a.w) * scale,
        );
    }
    let b = keys[word / 4u + 1u];
    if KEYS == 1u {
        return array<vec4<f32>, 4>(bf16_quad(a.xy), bf16_quad(a.zw), bf16_quad(b.xy), bf16_quad(b.zw));
    }
    return array<vec4<f32>, 4>(
        bitcast<vec4<f32>>(a),
        bitcast<vec4<f32>>(b),
        bitcast<vec4<f32>>(keys[word / 4u + 2u]),
        bitcast<vec4<f32>>(keys[word / 4u + 3u]),
    );
}

// Four channels of a key without its scale.
fn key_quad(key: u32, quad: u32) -> vec4<f32> {
    let word = key_start(key) + quad * QUAD_WORDS;
    if KEYS == 0u {
        return bitcast<vec4<f32>>(keys[word / 4u]);
    }
    if KEYS == 1u {
        return bf16_quad(vec2<u32>(key_word(word), key_word(word + 1u)));
    }
    return from_e4m3(key_word(word));
}

// The scale of a key's block that has a quad. A power of two: it may be applied before the sum as well as behind.
fn key_scale(key: u32, quad: u32) -> f32 {
    if KEYS != 2u {
        return 1.0;
    }
    let quads = params.di / 4u;
    let blocks = (params.di + 127u) / 128u;
    let page = key / 64u * 64u * (quads + blocks);
    return bitcast<f32>(key_word(page + 64u * quads + key % 64u * blocks + quad / BLOCK_QUADS));
}

// The word where a key begins.
fn key_start(key: u32) -> u32 {
    let quads = params.di / 4u;
    if KEYS != 2u {
        return key * quads * QUAD_WORDS;
    }
    let blocks = (params.di + 127u) / 128u;
    return key / 64u * 64u * (quads + blocks) + key % 64u * quads;
}

fn bf16_quad(words: vec2<u32>) -> vec4<f32> {
    return vec4<f32>(from_bf16(words.x), from_bf16(words.y));
}

fn key_word(at: u32) -> u32 {
    return keys[at / 4u][at % 4u];
}
