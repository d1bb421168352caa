// plan: the slots, ordered by expert, and tiles of up to `tile` slots of one expert each; stable
//
//   before(e) = number of slots of experts below e,  n(e) = number of slots of e
//   the slots of e are order[before(e) ..][.. n(e)], ascending
//   its tiles begin at tile before(e) / tile + e: there is always room, and no expert needs the others' n.
//   Up to the first tile of the next expert, tiles that are not needed have count 0.
//
// A workgroup has an expert. Each lane counts in a part of the slots, then walks through it again and writes behind
// what earlier lanes have counted. No atomics: the order depends on nothing else.
//
// Bytes: the experts of all slots twice a workgroup, out of the cache but for the first; the plan once. No flops.

override WG: u32 = 256u;

struct Params {
    n: u32, // slots
    n_experts: u32,
    tile: u32, // slots
    tiles: u32,
}

@group(0) @binding(0) var<storage, read_write> experts: array<u32>; // [n]
@group(0) @binding(1) var<storage, read_write> plan: array<u32>; // [tiles, 4]: expert, first in order, count, 0; order [n]
@group(0) @binding(2) var<uniform> params: Params;

var<workgroup> counts: array<vec2<u32>, WG>; // slots below the expert and of it, in a lane's part

@compute @workgroup_size(WG)
fn expert_plan(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let expert = group.x;
    let part = (params.n + WG - 1u) / WG;
    let first = min(lane * part, params.n);
    let end = min(first + part, params.n);

    var count = vec2<u32>(0u);
    for (var slot = first; slot < end; slot++) {
        let its = experts[slot];
        count += vec2<u32>(select(0u, 1u, its < expert), select(0u, 1u, its == expert));
    }
    counts[lane] = count;
    workgroupBarrier();
    var total = vec2<u32>(0u);
    var earlier = 0u;
    for (var other = 0u; other < WG; other++) {
        let its = counts[other];
        total += its;
        earlier += select(0u, its.y, other < lane);
    }

    let before = total.x;
    if count.y > 0u {
        var at = 4u * params.tiles + before + earlier;
        for (var slot = first; slot < end; slot++) {
            if experts[slot] == expert {
                plan[at] = slot;
                at += 1u;
            }
        }
    }

    let first_tile = before / params.tile + expert;
    // The last expert's also end the list.
    let next_tile = select((before + total.y) / params.tile + expert + 1u, params.tiles, expert + 1u == params.n_experts);
    for (var tile = first_tile + lane; tile < next_tile; tile += WG) {
        let done = min((tile - first_tile) * params.tile, total.y);
        plan[4u * tile] = expert;
        plan[4u * tile + 1u] = before + done;
        plan[4u * tile + 2u] = min(total.y - done, params.tile);
        plan[4u * tile + 3u] = 0u;
    }
}
