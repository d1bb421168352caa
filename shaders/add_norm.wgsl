// x[t, i] += delta[t, i]                                            if ADD
// y[t, y_offset + i] = x[t, i] / sqrt(mean(x[t]²) + eps) * weight[i]
//
// One workgroup per token t. A lane walks its row in steps of WG quads, so neighbouring lanes read
// neighbouring quads, and reads back only what it wrote itself.
//
// Reads x, delta and weight once and writes x and y; the second look at x (28 KiB at 7168 channels) and, of
// many tokens, all but the first look at weight hit the cache. Five flops an element, six with ADD.

override WG: u32 = 256u;
// Whether delta is added.
override ADD: u32 = 1u;

struct Params {
    tokens: u32,
    quads: u32,    // of a row of x
    y_stride: u32, // in quads
    y_offset: u32, // in quads
    width: f32,    // elements of a row of x
    eps: f32,
}

@group(0) @binding(0) var<storage, read_write> x: array<vec4<f32>>;      // [tokens, quads]
@group(0) @binding(1) var<storage, read_write> delta: array<vec4<f32>>;  // [tokens, quads]
@group(0) @binding(2) var<storage, read_write> weight: array<vec4<f32>>; // [quads]
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>;      // [tokens, y_stride]
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(WG)
fn add_norm(@builtin(workgroup_id) group: vec3<u32>, lane: Lane) {
    let token = group.x + group.y * 65535u;
    if token >= params.tokens {
        return;
    }
    let row = token * params.quads;

    var squares = vec4<f32>();
    for (var quad = lane.index; quad < params.quads; quad += WG) {
        var value = x[row + quad];
        if ADD == 1u {
            value += delta[row + quad];
            x[row + quad] = value;
        }
        squares += value * value;
    }
    let sums = workgroup_sum4(lane, squares);
    let mean = ((sums.x + sums.y) + (sums.z + sums.w)) / params.width;

    let scale = inverseSqrt(mean + params.eps);
    let to = token * params.y_stride + params.y_offset;
    for (var quad = lane.index; quad < params.quads; quad += WG) {
        y[to + quad] = x[row + quad] * scale * weight[quad];
    }
}
