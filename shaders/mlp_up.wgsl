// h[s, r] = silu(sum_c gate[e, r, c] x[t, c]) * (sum_c up[e, r, c] x[t, c])     silu(v) = v / (1 + exp(-v))
//
// for every slot s = t * slots + i whose expert e = experts[s] is within first_expert .. first_expert + n_experts;
// other rows of h are left alone. At most 8 tokens.
//
// group.y is a slot. Tokens that go to one expert share its weights: the first of their slots does the work of all,
// the workgroups of the others do nothing. group.x is a block of rows. SPLIT 1: all lanes share the block's ROWS
// rows, neighbouring lanes read neighbouring 16-byte units. SPLIT 0: a lane has ROWS rows of its own, for devices
// whose lanes are a CPU's.
//
// Bytes: the weights of every expert that is chosen at all, once; x once an expert, the re-reads by its row blocks hit
// the cache. Flops: 4 * hidden * width a slot.

override DTYPE: u32 = 0u;
// At least the tokens.
override TOKENS: u32 = 1u;
// Of a lane, or of all lanes together.
override ROWS: u32 = 4u;
override SPLIT: u32 = 1u;
override WG: u32 = 64u;
// Whether a row's last unit is not full.
override RAGGED: u32 = 0u;

// Lanes that share rows.
const LANES: u32 = select(1u, WG, SPLIT == 1u);
const GROUP_ROWS: u32 = WG / LANES * ROWS;
const SUMS: u32 = TOKENS * ROWS;
const CHUNK: u32 = min(2u, UNIT_QUADS);
const NONE: u32 = 0xffffffffu;

struct Params {
    tokens: u32,
    slots: u32,
    width: u32,
    hidden: u32,
    first_expert: u32,
    n_experts: u32,
    row_units: u32, // of gate and up
    x_stride: u32,
}

@group(0) @binding(0) var<storage, read_write> x: array<vec4<f32>>; // [tokens, x_stride]
@group(0) @binding(1) var<storage, read_write> experts: array<u32>; // [tokens, slots]
@group(0) @binding(2) var<storage, read_write> gate: array<vec4<u32>>; // [n_experts, width, row_units]
@group(0) @binding(3) var<storage, read_write> gate_scales: array<f32>; // [n_experts, matrix_scales]
@group(0) @binding(4) var<storage, read_write> up: array<vec4<u32>>; // [n_experts, width, row_units]
@group(0) @binding(5) var<storage, read_write> up_scales: array<f32>; // [n_experts, matrix_scales]
@group(0) @binding(6) var<storage, read_write> h: array<f32>; // [tokens * slots, width]
@group(0) @binding(7) var<uniform> params: Params;

// Of each token, the slot that goes to this workgroup's expert.
var<workgroup> members: array<u32, TOKENS>;

@compute @workgroup_size(WG)
fn mlp_up(@builtin(workgroup_id) group: vec3<u32>, lane: Lane) {
    let slot = group.y;
    let slots = params.slots;
    let expert = experts[slot];
    let local = expert - params.first_expert;
    let mine = local < params.n_experts;

    var own: array<u32, TOKENS>; // the members
    if TOKENS > 1u {
        // A replayed token may have an expert twice: the second time is a case of its own.
        var earlier = 0u;
        for (var other = slot / slots * slots; other < slot; other++) {
            earlier += select(0u, 1u, experts[other] == expert);
        }
        if lane.index < TOKENS {
            var found = NONE;
            var to_skip = earlier;
            for (var i = 0u; i < select(0u, slots, mine && lane.index < params.tokens); i++) {
                if experts[lane.index * slots + i] == expert {
                    if to_skip == 0u {
                        found = min(found, lane.index * slots + i);
                    } else {
                        to_skip -= 1u;
                    }
                }
            }
            members[lane.index] = found;
        }
        // As good as constants, so that the barriers below may depend on them.
        own = workgroupUniformLoad(&members);
        var first = NONE;
        for (var token = 0u; token < TOKENS; token++) {
            first = min(first, own[token]);
        }
        if first != slot {
            return;
        }
    }

    let row_units = params.row_units;
    let quads = params.hidden / 4u;
    // For a CPU's compiler the loop over a unit stays a loop: it takes seconds otherwise.
    let unit_quads = select(UNIT_QUADS * min(quads, 1u), UNIT_QUADS, SPLIT == 1u);
    let first_row = group.x * GROUP_ROWS + lane.index / LANES * ROWS;
    // A row beyond the last is the last again.
    var base: array<u32, ROWS>;
    var scale_base: array<u32, ROWS>;
    for (var i = 0u; i < ROWS; i++) {
        let row = min(first_row + i, params.width - 1u);
        base[i] = (local * params.width + row) * row_units;
        scale_base[i] = local * matrix_scales(params.width, row_units) + scale_index(row, 0u, row_units);
    }

    var sums: array<vec2<f32>, SUMS>; // of gate and up; [TOKENS, ROWS]
    for (var i = 0u; i < SUMS; i++) {
        sums[i] = vec2<f32>(0.0);
    }
    for (var unit = lane.index % LANES; unit < select(0u, row_units, mine); unit += LANES) {
        let scale_step = scale_index(0u, unit, row_units);
        var gate_units: array<vec4<u32>, ROWS>;
        var up_units: array<vec4<u32>, ROWS>;
        var scale: array<vec2<f32>, ROWS>;
        for (var i = 0u; i < ROWS; i++) {
            gate_units[i] = gate[base[i] + unit];
            up_units[i] = up[base[i] + unit];
            scale[i] = scales_of(scale_base[i] + scale_step);
        }
        if TOKENS == 1u {
            let x_first = slot / slots * (params.x_stride / 4u);
            var parts: array<vec2<f32>, ROWS>;
            for (var i = 0u; i < ROWS; i++) {
                parts[i] = vec2<f32>(0.0);
            }
            for (var quad = 0u; quad < unit_quads; quad++) {
                let value = x_quad(x_first, unit * UNIT_QUADS + quad, quads);
                for (var i = 0u; i < ROWS; i++) {
                    parts[i].x += dot(unit_quad(gate_units[i], quad), value);
                    parts[i].y += dot(unit_quad(up_units[i], quad), value);
                }
            }
            for (var i = 0u; i < ROWS; i++) {
                sums[i] += parts[i] * scale[i];
            }
        } else {
            // A few quads at a time: decoded weights of whole units do not fit the registers.
            for (var part = 0u; part < unit_quads; part += CHUNK) {
                var gate_quads: array<vec4<f32>, ROWS * CHUNK>;
                var up_quads: array<vec4<f32>, ROWS * CHUNK>;
                for (var i = 0u; i < ROWS; i++) {
                    for (var k = 0u; k < CHUNK; k++) {
                        gate_quads[i * CHUNK + k] = unit_quad(gate_units[i], part + k) * scale[i].x;
                        up_quads[i * CHUNK + k] = unit_quad(up_units[i], part + k) * scale[i].y;
                    }
                }
                for (var token = 0u; token < TOKENS; token++) {
                    // The same in the whole workgroup, so that tokens of other experts cost nothing.
                    if own[token] != NONE {
                        let x_first = token * (params.x_stride / 4u);
                        for (var k = 0u; k < CHUNK; k++) {
                            let value = x_quad(x_first, unit * UNIT_QUADS + part + k, quads);
                            for (var i = 0u; i < ROWS; i++) {
                                let at = i * CHUNK + k;
                                sums[token * ROWS + i] += vec2<f32>(dot(gate_quads[at], value), dot(up_quads[at], value));
                            }
                        }
                    }
                }
            }
        }
    }

    if LANES > 1u {
        for (var i = 0u; i < SUMS; i += 2u) {
            let next = min(i + 1u, SUMS - 1u);
            let total = workgroup_sum4(lane, vec4<f32>(sums[i], sums[next]));
            sums[next] = total.zw;
            sums[i] = total.xy;
        }
    }
    if mine && lane.index % LANES == 0u {
        for (var token = 0u; token < TOKENS; token++) {
            var to = slot;
            if TOKENS > 1u {
                to = own[token];
            }
            for (var i = 0u; i < ROWS; i++) {
                if to != NONE && first_row + i < params.width {
                    let pair = sums[token * ROWS + i];
                    h[to * params.width + first_row + i] = silu(pair.x) * pair.y;
                }
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
