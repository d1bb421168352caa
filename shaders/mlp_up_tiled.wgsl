// h[s, r] = silu(sum_c gate[e, r, c] x[t, c]) * (sum_c up[e, r, c] x[t, c])     silu(v) = v / (1 + exp(-v))
//
// for every slot s = t * slots + i, expert by expert after a plan of `expert_plan`; tiles whose expert e is not
// within first_expert .. first_expert + n_experts are left alone.
//
// group.x is a block of rows, group.y a tile of the plan: up to TILE slots of one expert.
// TILE 64: 64 slots by 64 rows of gate and of up. Steps of 16 columns go through workgroup memory, decoded; a lane
// has 4 slots by 4 rows of each in registers. Quarters of the tile without slots are left out.
// TILE 8, for devices whose lanes are a CPU's: a lane has 4 rows of gate and of up, and sums for all slots.
//
// Bytes: the weights once a tile; x of the tile once: its row blocks are neighbours and meet in the cache.
// Flops: 4 * hidden * width a slot.

override DTYPE: u32 = 0u;
override TILE: u32 = 64u;
override WG: u32 = 256u;
// Whether a row's last unit, or step, is not full.
override RAGGED: u32 = 0u;

const STAGED: bool = TILE == 64u;
// Of a lane, with TILE 8.
const ROWS: u32 = 4u;
const GROUP_ROWS: u32 = select(WG * ROWS, 64u, STAGED);
// Quads in a step, and from a row to the next in workgroup memory: with one more, neighbouring lanes meet
// different banks.
const STEP: u32 = 4u;
const STRIDE: u32 = 5u;

struct Params {
    slots: u32,
    width: u32,
    hidden: u32,
    first_expert: u32,
    n_experts: u32,
    row_units: u32, // of gate and up
    x_stride: u32,
    tiles: u32,
}

@group(0) @binding(0) var<storage, read_write> x: array<vec4<f32>>; // [tokens, x_stride]
@group(0) @binding(1) var<storage, read_write> plan: array<u32>; // [tiles, 4], [tokens * slots]
@group(0) @binding(2) var<storage, read_write> gate: array<vec4<u32>>; // [n_experts, width, row_units]
@group(0) @binding(3) var<storage, read_write> gate_scales: array<f32>; // [n_experts, matrix_scales]
@group(0) @binding(4) var<storage, read_write> up: array<vec4<u32>>; // [n_experts, width, row_units]
@group(0) @binding(5) var<storage, read_write> up_scales: array<f32>; // [n_experts, matrix_scales]
@group(0) @binding(6) var<storage, read_write> h: array<f32>; // [tokens * slots, width]
@group(0) @binding(7) var<uniform> params: Params;

var<workgroup> x_step: array<vec4<f32>, select(1u, TILE * STRIDE, STAGED)>; // [slots of the tile, STRIDE]
var<workgroup> gate_step: array<vec4<f32>, select(1u, 64u * STRIDE, STAGED)>; // [rows, STRIDE]
var<workgroup> up_step: array<vec4<f32>, select(1u, 64u * STRIDE, STAGED)>;
var<workgroup> tile: vec3<u32>; // expert of the stack, first in the plan's order, count

@compute @workgroup_size(WG)
fn mlp_up_tiled(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
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
    let quads = params.hidden / 4u;
    // What the lane fetches: a quad of each step, of a slot and of a row of gate and of up. Slots beyond the count
    // are the first again, rows beyond the last are the last.
    let fetched = lane / STEP;
    let column = lane % STEP;
    let origin = plan[own.y + select(0u, fetched, fetched < own.z)];
    let x_first = origin / params.slots * (params.x_stride / 4u);
    let row = min(first_row + fetched, params.width - 1u);
    let base = (own.x * params.width + row) * row_units;
    let scale_base = own.x * matrix_scales(params.width, row_units) + scale_index(row, 0u, row_units);
    // What it computes: slots and rows in steps of 16.
    let slot = lane / 16u;
    let across = lane % 16u;

    var gates: array<vec4<f32>, 4>; // by slot
    var ups: array<vec4<f32>, 4>;
    for (var i = 0u; i < 4u; i++) {
        gates[i] = vec4<f32>(0.0);
        ups[i] = vec4<f32>(0.0);
    }
    for (var first = 0u; first < quads; first += STEP) {
        let quad = first + column;
        let unit = quad / UNIT_QUADS;
        let at = min(unit, row_units - 1u);
        let scale = scales_of(scale_base + scale_index(0u, at, row_units));
        let value = x_quad(x_first, quad, quads);
        let gate_quad = unit_quad(gate[base + at], quad % UNIT_QUADS) * scale.x;
        let up_quad = unit_quad(up[base + at], quad % UNIT_QUADS) * scale.y;
        // The last step is still being read.
        workgroupBarrier();
        x_step[fetched * STRIDE + column] = value;
        gate_step[fetched * STRIDE + column] = gate_quad;
        up_step[fetched * STRIDE + column] = up_quad;
        workgroupBarrier();
        for (var k = 0u; k < STEP; k++) {
            var g: array<vec4<f32>, 4>;
            var u: array<vec4<f32>, 4>;
            for (var i = 0u; i < 4u; i++) {
                g[i] = gate_step[(across + 16u * i) * STRIDE + k];
                u[i] = up_step[(across + 16u * i) * STRIDE + k];
            }
            for (var i = 0u; i < 4u; i++) {
                if 16u * i < own.z {
                    let v = x_step[(slot + 16u * i) * STRIDE + k];
                    gates[i] += vec4<f32>(dot(g[0], v), dot(g[1], v), dot(g[2], v), dot(g[3], v));
                    ups[i] += vec4<f32>(dot(u[0], v), dot(u[1], v), dot(u[2], v), dot(u[3], v));
                }
            }
        }
    }
    for (var i = 0u; i < 4u; i++) {
        if slot + 16u * i < own.z {
            let to = plan[own.y + slot + 16u * i] * params.width;
            for (var j = 0u; j < 4u; j++) {
                let r = first_row + across + 16u * j;
                if r < params.width {
                    h[to + r] = silu(gates[i][j]) * ups[i][j];
                }
            }
        }
    }
}

fn by_row(first_row: u32, own: vec3<u32>) {
    let row_units = params.row_units;
    let quads = params.hidden / 4u;
    // Never constant, so that a loop stays a loop: a CPU's compiler takes seconds otherwise.
    let unit_quads = UNIT_QUADS * min(quads, 1u);
    // A row beyond the last is the last again, a slot beyond the count the first.
    var base: array<u32, ROWS>;
    var scale_base: array<u32, ROWS>;
    for (var i = 0u; i < ROWS; i++) {
        let row = min(first_row + i, params.width - 1u);
        base[i] = (own.x * params.width + row) * row_units;
        scale_base[i] = own.x * matrix_scales(params.width, row_units) + scale_index(row, 0u, row_units);
    }
    var x_first: array<u32, 8>;
    var sums: array<vec2<f32>, 8u * ROWS>; // of gate and up; [slots, ROWS]
    for (var slot = 0u; slot < 8u; slot++) {
        let origin = plan[own.y + select(0u, slot, slot < own.z)];
        x_first[slot] = origin / params.slots * (params.x_stride / 4u);
        for (var i = 0u; i < ROWS; i++) {
            sums[slot * ROWS + i] = vec2<f32>(0.0);
        }
    }
    for (var unit = 0u; unit < row_units; unit++) {
        var gate_units: array<vec4<u32>, ROWS>;
        var up_units: array<vec4<u32>, ROWS>;
        var scale: array<vec2<f32>, ROWS>;
        for (var i = 0u; i < ROWS; i++) {
            gate_units[i] = gate[base[i] + unit];
            up_units[i] = up[base[i] + unit];
            scale[i] = scales_of(scale_base[i] + scale_index(0u, unit, row_units));
        }
        for (var k = 0u; k < unit_quads; k++) {
            var gate_quads: array<vec4<f32>, ROWS>;
            var up_quads: array<vec4<f32>, ROWS>;
            for (var i = 0u; i < ROWS; i++) {
                gate_quads[i] = unit_quad(gate_units[i], k) * scale[i].x;
                up_quads[i] = unit_quad(up_units[i], k) * scale[i].y;
            }
            for (var slot = 0u; slot < 8u; slot++) {
                if slot < own.z {
                    let value = x_quad(x_first[slot], unit * UNIT_QUADS + k, quads);
                    for (var i = 0u; i < ROWS; i++) {
                        sums[slot * ROWS + i] += vec2<f32>(dot(gate_quads[i], value), dot(up_quads[i], value));
                    }
                }
            }
        }
    }
    for (var slot = 0u; slot < 8u; slot++) {
        for (var i = 0u; i < ROWS; i++) {
            if slot < own.z && first_row + i < params.width {
                let pair = sums[slot * ROWS + i];
                h[plan[own.y + slot] * params.width + first_row + i] = silu(pair.x) * pair.y;
            }
        }
    }
}

fn x_quad(first: u32, quad: u32, quads: u32) -> vec4<f32> {
    if RAGGED == 0u {
        return x[first + quad];
    }
    return select(vec4<f32>(0.0), x[first + min(quad, quads - 1u)], quad < quads);
}

fn scales_of(index: u32) -> vec2<f32> {
    if DTYPE < SCALED {
        return vec2<f32>(1.0);
    }
    return vec2<f32>(unit_scale(gate_scales[index]), unit_scale(up_scales[index]));
}

fn silu(value: f32) -> f32 {
    // exp must not overflow.
    return value / (1.0 + exp(min(-value, 88.0)));
}
