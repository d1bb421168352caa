// y[t, r] = (ACCUMULATE ? y[t, r] : 0) + sum over the slots s of t of weights[s] * sum_c down[e, r, c] h[s, c]
//
// for experts e = experts[s] within first_expert .. first_expert + n_experts, added by ascending expert, so that a
// token's result does not depend on its company and each expert is read once for all its tokens. At most 8 tokens.
//
// A workgroup has a block of rows of all experts and all tokens: it sorts the slots by expert, and walks through the
// experts. SPLIT 1: all lanes share the block's ROWS rows, neighbouring lanes read neighbouring 16-byte units.
// SPLIT 0: a lane has ROWS rows of its own, for devices whose lanes are a CPU's.
//
// Bytes: the weights of every expert that is chosen at all, once; h once, the re-reads by other row blocks hit the
// cache. Flops: 2 * hidden * width a slot.

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
const MOST_SLOTS: u32 = 256u;
const NOBODY: u32 = 0xffffffffu;

struct Params {
    tokens: u32,
    slots: u32,
    width: u32,
    hidden: u32,
    first_expert: u32,
    n_experts: u32,
    row_units: u32, // of down
    accumulate: u32,
}

@group(0) @binding(0) var<storage, read_write> h: array<vec4<f32>>; // [tokens * slots, width]
@group(0) @binding(1) var<storage, read_write> experts: array<u32>; // [tokens, slots]
@group(0) @binding(2) var<storage, read_write> weights: array<f32>; // [tokens, slots]
@group(0) @binding(3) var<storage, read_write> down: array<vec4<u32>>; // [n_experts, hidden, row_units]
@group(0) @binding(4) var<storage, read_write> down_scales: array<f32>; // [n_experts, matrix_scales]
@group(0) @binding(5) var<storage, read_write> y: array<f32>; // [tokens, hidden]
@group(0) @binding(6) var<uniform> params: Params;

// expert of the stack * MOST_SLOTS + slot, ascending; NOBODY at the end for those of no expert of this stack.
var<workgroup> sorted: array<u32, MOST_SLOTS>;

@compute @workgroup_size(WG)
fn mlp_down(@builtin(workgroup_id) group: vec3<u32>, lane: Lane) {
    let slots = params.slots;
    let n = params.tokens * slots;
    for (var slot = lane.index; slot < n; slot += WG) {
        let own = key(slot);
        var rank = 0u;
        for (var other = 0u; other < n; other++) {
            let its = key(other);
            rank += select(0u, 1u, its < own || (its == own && other < slot));
        }
        sorted[rank] = own;
    }
    workgroupBarrier();

    let row_units = params.row_units;
    let quads = params.width / 4u;
    // For a CPU's compiler the loop over a unit stays a loop: it takes seconds otherwise.
    let unit_quads = select(UNIT_QUADS * min(quads, 1u), UNIT_QUADS, SPLIT == 1u);
    let first_row = group.x * GROUP_ROWS + lane.index / LANES * ROWS;

    var sums: array<f32, SUMS>; // [TOKENS, ROWS]
    for (var i = 0u; i < SUMS; i++) {
        sums[i] = 0.0;
    }
    var at = 0u;
    while at < n {
        if sorted[at] == NOBODY {
            break;
        }
        let expert = sorted[at] / MOST_SLOTS;
        // Of each token one slot of this expert. A replayed token may have an expert twice: its second slot is
        // still next after this round.
        var members: array<u32, TOKENS>;
        var factors: array<f32, TOKENS>;
        for (var token = 0u; token < TOKENS; token++) {
            members[token] = NOBODY;
            factors[token] = 0.0;
            if at < n {
                let slot = sorted[at] % MOST_SLOTS;
                if sorted[at] / MOST_SLOTS == expert && slot / slots == token {
                    members[token] = slot;
                    factors[token] = weights[slot];
                    at += 1u;
                }
            }
        }
        // A row beyond the last is the last again.
        var base: array<u32, ROWS>;
        var scale_base: array<u32, ROWS>;
        for (var i = 0u; i < ROWS; i++) {
            let row = min(first_row + i, params.hidden - 1u);
            base[i] = (expert * params.hidden + row) * row_units;
            scale_base[i] = expert * matrix_scales(params.hidden, row_units) + scale_index(row, 0u, row_units);
        }
        for (var unit = lane.index % LANES; unit < row_units; unit += LANES) {
            let scale_step = scale_index(0u, unit, row_units);
            var units: array<vec4<u32>, ROWS>;
            var scale: array<f32, ROWS>;
            for (var i = 0u; i < ROWS; i++) {
                units[i] = down[base[i] + unit];
                scale[i] = scale_of(scale_base[i] + scale_step);
            }
            if TOKENS == 1u {
                let h_first = members[0] * quads;
                var parts: array<f32, ROWS>;
                for (var i = 0u; i < ROWS; i++) {
                    parts[i] = 0.0;
                }
                for (var quad = 0u; quad < unit_quads; quad++) {
                    let value = h_quad(h_first, unit * UNIT_QUADS + quad, quads) * factors[0];
                    for (var i = 0u; i < ROWS; i++) {
                        parts[i] += dot(unit_quad(units[i], quad), value);
                    }
                }
                for (var i = 0u; i < ROWS; i++) {
                    sums[i] += parts[i] * scale[i];
                }
            } else {
                // A few quads at a time: decoded weights of whole units do not fit the registers.
                for (var part = 0u; part < unit_quads; part += CHUNK) {
                    var down_quads: array<vec4<f32>, ROWS * CHUNK>;
                    for (var i = 0u; i < ROWS; i++) {
                        for (var k = 0u; k < CHUNK; k++) {
                            down_quads[i * CHUNK + k] = unit_quad(units[i], part + k) * scale[i];
                        }
                    }
                    for (var token = 0u; token < TOKENS; token++) {
                        // The same in the whole workgroup, so that tokens of other experts cost nothing.
                        if members[token] != NOBODY {
                            let h_first = members[token] * quads;
                            for (var k = 0u; k < CHUNK; k++) {
                                let value = h_quad(h_first, unit * UNIT_QUADS + part + k, quads) * factors[token];
                                for (var i = 0u; i < ROWS; i++) {
                                    sums[token * ROWS + i] += dot(down_quads[i * CHUNK + k], value);
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    if LANES > 1u {
        for (var i = 0u; i < SUMS; i += 4u) {
            let next = vec3<u32>(min(i + 1u, SUMS - 1u), min(i + 2u, SUMS - 1u), min(i + 3u, SUMS - 1u));
            let total = workgroup_sum4(lane, vec4<f32>(sums[i], sums[next.x], sums[next.y], sums[next.z]));
            // Backwards: where there is no next, it is this one.
            sums[next.z] = total.w;
            sums[next.y] = total.z;
            sums[next.x] = total.y;
            sums[i] = total.x;
        }
    }
    if lane.index % LANES == 0u {
        for (var token = 0u; token < TOKENS; token++) {
            for (var i = 0u; i < ROWS; i++) {
                if token < params.tokens && first_row + i < params.hidden {
                    let to = token * params.hidden + first_row + i;
                    var before = 0.0;
                    if params.accumulate != 0u {
                        before = y[to];
                    }
                    y[to] = before + sums[token * ROWS + i];
                }
            }
        }
    }
}

fn key(slot: u32) -> u32 {
    let local = experts[slot] - params.first_expert;
    return select(NOBODY, local * MOST_SLOTS + slot, local < params.n_experts);
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
