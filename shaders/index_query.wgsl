// index_q[t, j] = hadamard(rope(q[t, q_offset + j * di ..]))      for FP8 keys rounded as they are, else only roped
// index_w[t, j] = projected[t, w_offset + j] * factor             factor = heads^-0.5 * di^-0.5
//
// The rope turns the first dr channels of a head. Rounding gives back round_e4m3(q / s) * s, s a power of two per
// 128 channels: the scale is folded in.
//
// One workgroup per token and head, spread over x and y. A lane walks the head in steps of WG, so neighbouring
// lanes read neighbouring elements.
//
// Reads a head and writes it once, and a weight; angles hit the cache for all heads of a token but the first.
// About (3 dr + di log2(di)) flops a head.

override WG: u32 = 64u;
// 0 f32, 1 bf16, 2 e4m3 after a Hadamard transform: the format of the key cache.
override KEYS: u32 = 0u;
// Pairs of a head: 1 (2i, 2i + 1), 0 (i, i + dr/2).
override INTERLEAVED: u32 = 0u;
// Most channels of a head: workgroup memory that is not taken lets more workgroups run at once.
override CHANNELS: u32 = 1024u;

struct Params {
    tokens: u32,
    heads: u32,
    di: u32,       // quads, as are q_stride and q_offset
    q_stride: u32,
    q_offset: u32,
    dr: u32,       // elements, as are stride and w_offset
    stride: u32,
    w_offset: u32,
    hadamard: f32, // di^-0.5
    factor: f32,
}

@group(0) @binding(0) var<storage, read_write> q: array<vec4<f32>>;       // [tokens, q_stride]
@group(0) @binding(1) var<storage, read_write> projected: array<f32>;     // [tokens, stride]
@group(0) @binding(2) var<storage, read_write> angles: array<f32>;        // [tokens, dr]: cosines, sines
@group(0) @binding(3) var<storage, read_write> index_q: array<vec4<f32>>; // [tokens, heads, di]
@group(0) @binding(4) var<storage, read_write> index_w: array<f32>;       // [tokens, heads]
@group(0) @binding(5) var<uniform> params: Params;

@compute @workgroup_size(WG)
fn index_query(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let at = group.x + group.y * 65535u;
    if at >= params.tokens * params.heads {
        return;
    }
    let token = at / params.heads;
    let head = at % params.heads;
    let di = params.di;
    if lane == 0u {
        index_w[at] = projected[token * params.stride + params.w_offset + head] * params.factor;
    }

    let row = token * params.q_stride + params.q_offset + head * di;
    for (var quad = lane; quad < di; quad += WG) {
        let value = q[row + quad];
        index_row[4u * quad] = value.x;
        index_row[4u * quad + 1u] = value.y;
        index_row[4u * quad + 2u] = value.z;
        index_row[4u * quad + 3u] = value.w;
    }
    workgroupBarrier();

    // Each lane turns pairs of its own.
    let half = params.dr / 2u;
    for (var i = lane; i < half; i += WG) {
        let channels = pair_channels(i, params.dr, INTERLEAVED == 1u);
        let cosine = angles[token * params.dr + i];
        let sine = angles[token * params.dr + half + i];
        let pair = rotated(index_row[channels.x], index_row[channels.y], cosine, sine);
        index_row[channels.x] = pair.x;
        index_row[channels.y] = pair.y;
    }

    if KEYS == 2u {
        hadamard(lane, 4u * di);
        for (var first = 0u; first < di; first += WG) {
            let quad = first + lane;
            var value = vec4<f32>();
            if quad < di {
                value = row_quad(quad) * params.hadamard;
            }
            let block = block_scale(lane, value);
            if quad < di {
                index_q[at * di + quad] = from_e4m3(quad_to_e4m3(value, block.y)) * block.x;
            }
        }
    } else {
        workgroupBarrier();
        for (var quad = lane; quad < di; quad += WG) {
            index_q[at * di + quad] = row_quad(quad);
        }
    }
}
