// slots_out[s, r] = sum_c down[e, r, c] h[s, c]
//
// for every slot s, expert by expert after a plan of `expert_plan`; tiles whose expert e is not within
// first_expert .. first_expert + n_experts are left alone. `combine` adds up the slots of a token.
//
// group.x is a block of rows, group.y a tile of the plan: up to TILE slots of one expert.
// TILE 64: 64 slots by 128 rows. Steps of 16 columns go through workgroup memory, decoded; a lane has 4 slots by
// 8 rows in registers. Quarters of the tile without slots are left out.
// TILE 8, for devices whose lanes are a CPU's: a lane has 4 rows, and sums for all slots.
//
// Bytes: the weights once a tile; h of the tile once: its row blocks are neighbours and meet in the cache.
// Flops: 2 * hidden * width a slot.

override DTYPE: u32 = 0u;
override TILE: u32 = 64u;
override WG: u32 = 256u;
// Whether a row's last unit, or step, is not full.
override RAGGED: u32 = 0u;

const STAGED: bool = TILE == 64u;
// Of a lane, with TILE 8.
const ROWS: u32 = 4u;
const GROUP_ROWS: u32 = select(WG * ROWS, 128u, STAGED);
// Quads in a step, and from a row to the next in workgroup memory: with one more, neighbouring lanes meet
// different banks.
const STEP: u32 = 4u;
const STRIDE: u32 = 5u;

struct Params {
    width: u32,
    hidden: u32,
    first_expert: u32,
    n_experts: u32,
    row_units: u32, // of down
    tiles: u32,
}

@group(0) @binding(0) var<storage, read_write> h: array<vec4<f32>>; // [tokens * slots, width]
@group(0) @binding(1) var<storage, read_write> plan: array<u32>; // [tiles, 4], [tokens * slots]
@group(0) @binding(2) var<storage, read_write> down: array<vec4<u32>>; // [n_experts, hidden, row_units]
@group(0) @binding(3) var<storage, read_write> down_scales: array<f32>; // [n_experts, matrix_scales]
@group(0) @binding(4) var<storage, read_write> slots_out: array<f32>; // [tokens * slots, hidden]
@group(0) @binding(5) var<uniform> params: Params;

var<workgroup> h_step: array<vec4<f32>, select(1u, TILE * STRIDE, STAGED)>; // [slots of the tile, STRIDE]
var<workgroup> down_step: array<vec4<f32>, select(1u, 128u * STRIDE, STAGED)>; // [rows, STRIDE]
var<workgroup> tile: vec3<u32>; // expert of the stack, first in the plan's order, count

@compute @workgroup_size(WG)
fn mlp_down_tiled(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    if lane == 0u {
        let expert = plan[4u * group.y] - params.first_expert;
        let count = select(0u, plan[4u * group.y + 2u], expert < params.n_experts);
        tile = vec3<u32>(expert, 4u * params.tiles + plan[4u * group.y + 1u], count);
    }
    // As good as a constant, so that barriers may depend on it.
    let own = workgroupUniformLoad(&tile);
    if own.z == 0u {
        return;
    }
    if STAGED {
        staged(group.x * GROUP_ROWS, own, lane);
    } else {
        by_row(group.x * GROUP_ROWS + lane * ROWS, own);
    }
}

fn staged(first_row: u32, own: vec3<u32>, lane: u32) {
    let row_units = params.row_units;
    let quads = params.width / 4u;
    // What the lane fetches: a quad of each step, of a slot and of two rows. Slots beyond the count are the first
    // again, rows beyond the last are the last.
    let fetched = lane / STEP;
    let column = lane % STEP;
    let h_first = plan[own.y + select(0u, fetched, fetched < own.z)] * quads;
    let row = min(vec2<u32>(first_row + fetched, first_row + fetched + 64u), vec2<u32>(params.hidden - 1u));
    let base = (own.x * params.hidden + row) * row_units;
    let scale_base = own.x * matrix_scales(params.hidden, row_units)
        + vec2<u32>(scale_index(row.x, 0u, row_units), scale_index(row.y, 0u, row_units));
    // What it computes: slots and rows in steps of 16.
    let slot = lane / 16u;
    let across = lane % 16u;

    var low: array<vec4<f32>, 4>; // by slot: rows 0, 16, 32, 48
    var high: array<vec4<f32>, 4>; // rows 64, 80, 96, 112
    for (var i = 0u; i < 4u; i++) {
        low[i] = vec4<f32>(0.0);
        high[i] = vec4<f32>(0.0);
    }
    for (var first = 0u; first < quads; first += STEP) {
        let quad = first + column;
        let unit = quad / UNIT_QUADS;
        let at = min(unit, row_units - 1u);
        let scale_step = scale_index(0u, at, row_units);
        let value = h_quad(h_first, quad, quads);
        let one = unit_quad(down[base.x + at], quad % UNIT_QUADS) * scale_of(scale_base.x + scale_step);
        let other = unit_quad(down[base.y + at], quad % UNIT_QUADS) * scale_of(scale_base.y + scale_step);
        // The last step is still being read.
        workgroupBarrier();
        h_step[fetched * STRIDE + column] = value;
        down_step[fetched * STRIDE + column] = one;
        down_step[(fetched + 64u) * STRIDE + column] = other;
        workgroupBarrier();
        for (var k = 0u; k < STEP; k++) {
            var a: array<vec4<f32>, 4>;
            var b: array<vec4<f32>, 4>;
            for (var i = 0u; i < 4u; i++) {
                a[i] = down_step[(across + 16u * i) * STRIDE + k];
                b[i] = down_step[(across + 16u * i + 64u) * STRIDE + k];
            }
            for (var i = 0u; i < 4u; i++) {
                if 16u * i < own.z {
                    let v = h_step[(slot + 16u * i) * STRIDE + k];
                    low[i] += vec4<f32>(dot(a[0], v), dot(a[1], v), dot(a[2], v), dot(a[3], v));
                    high[i] += vec4<f32>(dot(b[0], v), dot(b[1], v), dot(b[2], v), dot(b[3], v));
                }
            }
        }
    }
    for (var i = 0u; i < 4u; i++) {
        if slot + 16u * i < own.z {
            let to = plan[own.y + slot + 16u * i] * params.hidden;
            for (var j = 0u; j < 4u; j++) {
                let r = first_row + across + 16u * j;
                if r < params.hidden {
                    slots_out[to + r] = low[i][j];
                }
                if r + 64u < params.hidden {
                    slots_out[to + r + 64u] = high[i][j];
                }
            }
        }
    }
}

fn by_row(first_row: u32, own: vec3<u32>) {
    let row_units = params.row_units;
    let quads = params.width / 4u;
    // Never constant, so that a loop stays a loop: a CPU's compiler takes seconds otherwise.
    let unit_quads = UNIT_QUADS * min(quads, 1u);
    // A row beyond the last is the last again, a slot beyond the count the first.
    var base: array<u32, ROWS>;
    var scale_base: array<u32, ROWS>;
    for (var i = 0u; i < ROWS; i++) {
        let row = min(first_row + i, params.hidden - 1u);
        base[i] = (own.x * params.hidden + row) * row_units;
        scale_base[i] = own.x * matrix_scales(params.hidden, row_units) + scale_index(row, 0u, row_units);
    }
    var h_first: array<u32, 8>;
    var sums: array<f32, 8u * ROWS>; // [slots, ROWS]
    for (var slot = 0u; slot < 8u; slot++) {
        h_first[slot] = plan[own.y + select(0u, slot, slot < own.z)] * quads;
        for (var i = 0u; i < ROWS; i++) {
            sums[slot * ROWS + i] = 0.0;
        }
    }
    for (var unit = 0u; unit < row_units; unit++) {
        var units: array<vec4<u32>, ROWS>;
        var scale: array<f32, ROWS>;
        for (var i = 0u; i < ROWS; i++) {
            units[i] = down[base[i] + unit];
            scale[i] = scale_of(scale_base[i] + scale_index(0u, unit, row_units));
        }
        for (var k = 0u; k < unit_quads; k++) {
            var down_quads: array<vec4<f32>, ROWS>;
            for (var i = 0u; i < ROWS; i++) {
                down_quads[i] = unit_quad(units[i], k) * scale[i];
            }
            for (var slot = 0u; slot < 8u; slot++) {
                if slot < own.z {
                    let value = h_quad(h_first[slot], unit * UNIT_QUADS + k, quads);
                    for (var i = 0u; i < ROWS; i++) {
                        sums[slot * ROWS + i] += dot(down_quads[i], value);
                    }
                }
            }
        }
    }
    for (var slot = 0u; slot < 8u; slot++) {
        for (var i = 0u; i < ROWS; i++) {
            if slot < own.z && first_row + i < params.hidden {
                slots_out[plan[own.y + slot] * params.hidden + first_row + i] = sums[slot * ROWS + i];
            }
        }
    }
}

fn h_quad(first: u32, quad: u32, quads: u32) -> vec4<f32> {
    if RAGGED == 0u {
        return h[first + quad];
    }
    return select(vec4<f32>(0.0), h[first + min(quad, quads - 1u)], quad < quads);
}

fn scale_of(index: u32) -> f32 {
    if DTYPE < SCALED {
        return 1.0;
    }
    return unit_scale(down_scales[index]);
}
