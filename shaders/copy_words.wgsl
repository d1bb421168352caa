// to[to_offset + i] = from[from_offset + i], i < n
//
// A workgroup copies a run of WG * EACH words. A lane walks it in steps of WG, so neighbouring lanes copy
// neighbouring words; offsets need no alignment. The two ranges must not overlap.
//
// Reads and writes n words once; no arithmetic.

override WG: u32 = 256u;
// Words a lane copies.
override EACH: u32 = 4u;

struct Params {
    from_offset: u32,
    to_offset: u32,
    n: u32,
    unused: u32,
}

@group(0) @binding(0) var<storage, read_write> from_words: array<u32>; // [from_offset + n]
@group(0) @binding(1) var<storage, read_write> to_words: array<u32>;   // [to_offset + n]
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(WG)
fn copy_words(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let first = (group.x + group.y * 65535u) * (WG * EACH) + lane;
    for (var step = 0u; step < EACH; step++) {
        let i = first + step * WG;
        if i < params.n {
            to_words[params.to_offset + i] = from_words[params.from_offset + i];
        }
    }
}
