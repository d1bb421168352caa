// y[t] = sum over the slots i of t of weights[t, i] * slots_out[t, i]      in the order of the slots
//
// A lane has four neighbouring columns of a token: group.x is a block of columns, group.y a token.
//
// Bytes: slots_out once, y once. Flops: 2 an element of slots_out.

override WG: u32 = 64u;

struct Params {
    tokens: u32,
    slots: u32,
    hidden: u32,
    padding: u32,
}

@group(0) @binding(0) var<storage, read_write> slots_out: array<vec4<f32>>; // [tokens, slots, hidden]
@group(0) @binding(1) var<storage, read_write> weights: array<f32>; // [tokens, slots]
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>; // [tokens, hidden]
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(WG)
fn combine(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let quads = params.hidden / 4u;
    let quad = group.x * WG + lane;
    let token = group.y;
    if quad >= quads {
        return;
    }
    var sum = vec4<f32>(0.0);
    for (var slot = token * params.slots; slot < (token + 1u) * params.slots; slot++) {
        sum += weights[slot] * slots_out[slot * quads + quad];
    }
    y[token * quads + quad] = sum;
}
