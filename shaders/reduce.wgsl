// Sums and maxima over a workgroup, in one fixed order: a tree over the lanes.
//
// WG, a power of two, is the kernel's. Every lane calls, in uniform control flow, and every lane gets
// the result. Workgroup memory may be used again at once.

struct Lane {
    @builtin(local_invocation_index) index: u32,
}

var<workgroup> reduce_scratch: array<vec4<f32>, WG>;

fn workgroup_sum4(lane: Lane, value: vec4<f32>) -> vec4<f32> {
    reduce_scratch[lane.index] = value;
    for (var half = WG / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if lane.index < half {
            reduce_scratch[lane.index] += reduce_scratch[lane.index + half];
        }
    }
    workgroupBarrier();
    let total = reduce_scratch[0];
    // The next call writes what slower lanes are still to read.
    workgroupBarrier();
    return total;
}

fn workgroup_sum(lane: Lane, value: f32) -> f32 {
    return workgroup_sum4(lane, vec4<f32>(value, 0.0, 0.0, 0.0)).x;
}

fn workgroup_max(lane: Lane, value: f32) -> f32 {
    reduce_scratch[lane.index].x = value;
    for (var half = WG / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if lane.index < half {
            reduce_scratch[lane.index].x = max(reduce_scratch[lane.index].x, reduce_scratch[lane.index + half].x);
        }
    }
    workgroupBarrier();
    let most = reduce_scratch[0].x;
    workgroupBarrier();
    return most;
}
