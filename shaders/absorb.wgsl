// q_lat[t, j, c]        = sum over d of W[j (dn + dv) + d, c] * q[t, j (dn + dr) + d]   for c < rank
// q_lat[t, j, rank + i] = the rotated q[t, j (dn + dr) + dn + i]                        for i < dr
//
// where pair (a, b) of channels 2i and 2i + 1 turns to (a cos - b sin, a sin + b cos), and W is kv_b_proj.
//
// group.y is the head j, group.x a tile of TOKENS tokens, group.z a tile of 128 columns. A lane has four columns
// for all tokens of the tile; 32 lanes together read a row of the tile, neighbours reading neighbouring words,
// and every PARTS-th four rows d. The parts meet in workgroup memory, added in order. The first tile of columns
// also rotates.
//
// The rows of W that are keys are read once, by decode steps in one tile of tokens; the tiles of tokens of a
// larger step run next to each other and share them through L2. So do the tiles of columns q and all heads the
// angles. 2 * tokens * heads * dn * rank operations, and 3 * tokens * heads * dr to rotate.

override DTYPE: u32 = 0u;
// Tokens of a tile: beyond params.tokens, the last is computed again and dropped.
override TOKENS: u32 = 1u;
override PARTS: u32 = 8u;

struct Params {
    tokens: u32,
    heads: u32,
    dn: u32,
    dr: u32,
    dv: u32,
    rank: u32,
    row_units: u32, // 16-byte units of a row of W
    q_stride: u32,
}

@group(0) @binding(0) var<storage, read_write> q: array<vec4<f32>>;     // [tokens, q_stride / 4]: [heads, dn + dr]
@group(0) @binding(1) var<storage, read_write> w_kvb: array<vec4<u32>>; // [heads * (dn + dv), row_units]
@group(0) @binding(2) var<storage, read_write> scales: array<f32>;      // see weights.wgsl
@group(0) @binding(3) var<storage, read_write> angles: array<f32>;      // [tokens, dr]: cosines, then sines
@group(0) @binding(4) var<storage, read_write> q_lat: array<vec4<f32>>; // [tokens, heads, (rank + dr) / 4]
@group(0) @binding(5) var<uniform> params: Params;

const COLUMN_LANES: u32 = 32u;
const WG: u32 = COLUMN_LANES * PARTS;

var<workgroup> sums_of_parts: array<vec4<f32>, WG>;

@compute @workgroup_size(WG)
fn absorb(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let head = group.y;
    let first_token = group.x * TOKENS;
    let part = lane / COLUMN_LANES;
    let n_quads = params.rank / 4u;
    let own_quad = group.z * COLUMN_LANES + lane % COLUMN_LANES;
    // Lanes beyond the columns compute the last four again.
    let quad = min(own_quad, n_quads - 1u);

    var sums: array<vec4<f32>, TOKENS>;
    for (var t = 0u; t < TOKENS; t++) {
        sums[t] = vec4<f32>(0.0);
    }
    let first_row = head * (params.dn + params.dv);
    for (var d = part * 4u; d < params.dn; d += 4u * PARTS) {
        var weights: array<vec4<f32>, 4>;
        for (var k = 0u; k < 4u; k++) {
            weights[k] = weights_at(first_row + d + k, quad);
        }
        for (var t = 0u; t < TOKENS; t++) {
            let inputs = q[q_row(first_token + t, head) + d / 4u];
            sums[t] += inputs.x * weights[0];
            sums[t] += inputs.y * weights[1];
            sums[t] += inputs.z * weights[2];
            sums[t] += inputs.w * weights[3];
        }
    }

    for (var t = 0u; t < TOKENS; t++) {
        var total = sums[t];
        if PARTS > 1u {
            sums_of_parts[lane] = total;
            workgroupBarrier();
            total = sums_of_parts[lane % COLUMN_LANES];
            for (var i = 1u; i < PARTS; i++) {
                total += sums_of_parts[i * COLUMN_LANES + lane % COLUMN_LANES];
            }
            // The next token's sums overwrite what slower lanes are still to read.
            workgroupBarrier();
        }
        let token = first_token + t;
        if part == 0u && own_quad < n_quads && token < params.tokens {
            q_lat[latent_row(token, head) + quad] = total;
        }
    }

    if group.z > 0u {
        return;
    }
    // Two pairs at a time.
    let half = params.dr / 2u;
    let rope_quads = params.dr / 4u;
    for (var i = lane; i < TOKENS * rope_quads; i += WG) {
        let token = first_token + i / rope_quads;
        let at = i % rope_quads;
        if token < params.tokens {
            let x = q[q_row(token, head) + params.dn / 4u + at];
            let angle = token * params.dr + 2u * at;
            let cosines = vec2<f32>(angles[angle], angles[angle + 1u]);
            let sines = vec2<f32>(angles[angle + half], angles[angle + half + 1u]);
            let a = x.xz * cosines - x.yw * sines;
            let b = x.xz * sines + x.yw * cosines;
            q_lat[latent_row(token, head) + n_quads + at] = vec4<f32>(a.x, b.x, a.y, b.y);
        }
    }
}

// First quad of a head of a token; of the last token for those beyond.
fn q_row(token: u32, head: u32) -> u32 {
    return (min(token, params.tokens - 1u) * params.q_stride + head * (params.dn + params.dr)) / 4u;
}

fn latent_row(token: u32, head: u32) -> u32 {
    return (token * params.heads + head) * ((params.rank + params.dr) / 4u);
}

// Four columns of a row. Reads their own words only, so that 32 lanes read one stretch of memory once.
fn weights_at(row: u32, quad: u32) -> vec4<f32> {
    let unit = quad / UNIT_QUADS;
    let within = quad % UNIT_QUADS;
    let at = row * params.row_units + unit;
    var words = vec4<u32>(0u);
    if DTYPE == 0u {
        words = w_kvb[at];
    } else if DTYPE <= 2u {
        words.x = w_kvb[at][2u * within];
        words.y = w_kvb[at][2u * within + 1u];
    } else if DTYPE == 3u {
        words.x = w_kvb[at][within];
    } else {
        words.x = w_kvb[at][within / 2u] >> (16u * (within % 2u));
    }
    return unit_quad(words, 0u) * unit_scale(scales[scale_index(row, unit, params.row_units)]);
}
