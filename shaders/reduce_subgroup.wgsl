// Sums and maxima over a workgroup with subgroup operations: within each subgroup by the hardware, in
// its own fixed order, then over the subgroups one after the other. No subgroup size is assumed.
//
// Every lane calls, in uniform control flow, and every lane gets the result.

struct Lane {
    @builtin(local_invocation_index) index: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_invocation_id) place: u32,
    @builtin(num_subgroups) n_subgroups: u32,
}

// One entry a subgroup; there are at most as many as lanes.
var<workgroup> reduce_scratch: array<vec4<f32>, WG>;

fn workgroup_sum4(lane: Lane, value: vec4<f32>) -> vec4<f32> {
    let part = subgroupAdd(value);
    if lane.place == 0u {
        reduce_scratch[lane.subgroup] = part;
    }
    workgroupBarrier();
    var total = reduce_scratch[0];
    for (var i = 1u; i < lane.n_subgroups; i++) {
        total += reduce_scratch[i];
    }
    // The next call writes what slower lanes are still to read.
    workgroupBarrier();
    return total;
}

fn workgroup_sum(lane: Lane, value: f32) -> f32 {
    let part = subgroupAdd(value);
    if lane.place == 0u {
        reduce_scratch[lane.subgroup].x = part;
    }
    workgroupBarrier();
    var total = reduce_scratch[0].x;
    for (var i = 1u; i < lane.n_subgroups; i++) {
        total += reduce_scratch[i].x;
    }
    workgroupBarrier();
    return total;
}

fn workgroup_max(lane: Lane, value: f32) -> f32 {
    let part = subgroupMax(value);
    if lane.place == 0u {
        reduce_scratch[lane.subgroup].x = part;
    }
    workgroupBarrier();
    var most = reduce_scratch[0].x;
    for (var i = 1u; i < lane.n_subgroups; i++) {
        most = max(most, reduce_scratch[i].x);
    }
    workgroupBarrier();
    return most;
}
