// weight[j] = exp(scale * q_lat[t, j, :] . latent[s, :] - most) / total             0 where slot s holds nothing
// weights[t, j, s] = weight[j], or with MEAN weights[t, s] = sum_j weight[j] / heads
//
// most and total merged from the stats of attend, split by split. One lane a slot s, group.y is a head (with MEAN, a
// lane walks over all of them in order), group.z a token. For looking at what attend did, not for speed: lanes read
// whole latents of their own.
//
// Bytes: latents once a head, q and stats once a head and workgroup. Flops: 2 * (rank + dr) a head and slot.

// How latents are stored, see latent_words.wgsl.
override LATENT: u32 = 0u;
// Whether slots are all positions instead of entries of a selection.
override DENSE: u32 = 0u;
// Whether the mean over heads is wanted.
override MEAN: u32 = 0u;
override WG: u32 = 64u;

struct Params {
    tokens: u32,
    first_row: u32, // of q_lat and selection
    heads: u32,
    rank: u32,
    dr: u32,
    position: u32, // of the first token
    k: u32,
    splits: u32,
    token_words: u32,
    slots: u32, // of a row of weights
    scale: f32,
    stats_row: u32, // first row of stats
}

@group(0) @binding(0) var<storage, read_write> q_lat: array<vec4<f32>>; // [rows, heads, (rank + dr) / 4]
@group(0) @binding(1) var<storage, read_write> latents: array<vec4<u32>>; // [positions, token_words]
@group(0) @binding(2) var<storage, read_write> selection: array<i32>; // [rows, k]
@group(0) @binding(3) var<storage, read_write> stats: array<vec2<f32>>; // [.., splits, heads]
@group(0) @binding(4) var<storage, read_write> weights: array<f32>; // [tokens, heads or 1, slots]
@group(0) @binding(5) var<uniform> params: Params;

@compute @workgroup_size(WG)
fn attend_weights(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let slot = group.x * WG + lane;
    let token = group.z;
    if slot >= params.slots {
        return;
    }

    let visible = params.position + token + 1u;
    var position = -1;
    if slot < visible {
        if DENSE == 1u {
            position = i32(slot);
        } else if slot < params.k {
            position = selection[(params.first_row + token) * params.k + slot];
        }
    }
    let rows = select(params.heads, 1u, MEAN == 1u);
    let n_heads = select(1u, params.heads, MEAN == 1u);
    var sum = 0.0;
    for (var i = 0u; i < select(0u, n_heads, position >= 0); i++) {
        sum += weight(token, group.y + i, u32(max(position, 0))) / f32(n_heads);
    }
    weights[(token * rows + group.y) * params.slots + slot] = sum;
}

// How much of a head's attention goes to a position.
fn weight(token: u32, head: u32, position: u32) -> f32 {
    let first = (params.stats_row + token) * params.splits * params.heads + head;
    var most = stats[first].x;
    for (var split = 1u; split < params.splits; split++) {
        most = max(most, stats[first + split * params.heads].x);
    }
    var total = 0.0;
    for (var split = 0u; split < params.splits; split++) {
        let of_split = stats[first + split * params.heads];
        total += exp(of_split.x - most) * of_split.y;
    }
    if total <= 0.0 {
        return 0.0;
    }
    let quads = (params.rank + params.dr) / 4u;
    let q_first = ((params.first_row + token) * params.heads + head) * quads;
    var score = 0.0;
    for (var quad = 0u; quad < quads; quad++) {
        score += dot(q_lat[q_first + quad], latent_quad(position, quad));
    }
    // A sum in another order than attend's may be a little larger than its largest.
    return min(exp(min(score * params.scale - most, 0.0)) / total, 1.0);
}
