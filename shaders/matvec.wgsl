// y[t, r] = sum over c of x[t, c] * W[r, c], for few tokens t
//
// A workgroup computes ROWS neighbouring rows r for TOKENS tokens; group.z counts tiles of tokens. Its lanes walk
// the 16-byte units of these rows in steps of WG, so neighbouring lanes read neighbouring units and every lane has
// ROWS loads on the way at once; a unit is decoded once and meets every token. The lanes' partial sums meet in
// workgroup_sum4. With FAT (drivers that run lanes on a CPU) a lane does its ROWS rows alone and there is
// nothing to sum.
//
// W and its scales are read once a tile of tokens; up to 8 tokens are one. x is read once a workgroup, through the
// cache: all of them walk it at the same pace, and it is small, so from memory it comes once.
// 2 * tokens * rows * cols operations.

override WG: u32 = 64u;
override DTYPE: u32 = 0u;
// Tokens of a tile. Beyond params.tokens, the last token's sums are computed again and dropped.
override TOKENS: u32 = 1u;
// 1 or 4; 8 with FAT only.
override ROWS: u32 = 4u;
override FAT: u32 = 0u;

struct Params {
    tokens: u32,
    rows: u32,
    cols: u32,
    row_units: u32, // 16-byte units of a row of W
    x_stride: u32,
    x_offset: u32,
    y_stride: u32,
    y_offset: u32,
}

@group(0) @binding(0) var<storage, read_write> x: array<vec4<f32>>;  // [tokens, x_stride / 4], from x_offset / 4
@group(0) @binding(1) var<storage, read_write> w: array<vec4<u32>>;  // [rows, row_units]
@group(0) @binding(2) var<storage, read_write> scales: array<f32>;   // see weights.wgsl
@group(0) @binding(3) var<storage, read_write> y: array<f32>;        // [tokens, y_stride], from y_offset
@group(0) @binding(4) var<uniform> params: Params;

const SUMS: u32 = ROWS * TOKENS;

@compute @workgroup_size(WG)
fn matvec(@builtin(workgroup_id) group: vec3<u32>, lane: Lane) {
    let team = group.x + group.y * 65535u;
    let first_row = select(team, team * WG + lane.index, FAT == 1u) * ROWS;
    let first_token = group.z * TOKENS;
    let first = select(lane.index, 0u, FAT == 1u);
    let step = select(WG, 1u, FAT == 1u);

    var sums: array<f32, SUMS>; // [TOKENS, ROWS]
    for (var i = 0u; i < SUMS; i++) {
        sums[i] = 0.0;
    }
    for (var unit = first; unit < params.row_units; unit += step) {
        add_unit(&sums, first_row, first_token, unit);
    }

    if FAT == 1u {
        for (var i = 0u; i < SUMS; i++) {
            write(first_row, first_token, i, sums[i]);
        }
    } else {
        // Written out: a loop around that of workgroup_sum4 is not unrolled by drivers, which then search for
        // sums[i] at every turn.
        sum_four(lane, &sums, first_row, first_token, 0u);
        if SUMS > 4u {
            sum_four(lane, &sums, first_row, first_token, 4u);
        }
        if SUMS > 8u {
            sum_four(lane, &sums, first_row, first_token, 8u);
            sum_four(lane, &sums, first_row, first_token, 12u);
        }
        if SUMS > 16u {
            sum_four(lane, &sums, first_row, first_token, 16u);
            sum_four(lane, &sums, first_row, first_token, 20u);
            sum_four(lane, &sums, first_row, first_token, 24u);
            sum_four(lane, &sums, first_row, first_token, 28u);
        }
    }
}

// Sums over the workgroup and writes four of the sums, or fewer where there are no more.
fn sum_four(
    lane: Lane,
    sums: ptr<function, array<f32, SUMS>>,
    first_row: u32,
    first_token: u32,
    first: u32,
) {
    var part = vec4<f32>(0.0);
    for (var k = 0u; k < min(SUMS, 4u); k++) {
        part[k] = (*sums)[first + k];
    }
    let total = workgroup_sum4(lane, part);
    if lane.index < min(SUMS, 4u) {
        write(first_row, first_token, first + lane.index, total[lane.index]);
    }
}

// sums += x * W of one unit of every row.
fn add_unit(
    sums: ptr<function, array<f32, SUMS>>,
    first_row: u32,
    first_token: u32,
    unit: u32,
) {
    // Rows beyond the last are the last again.
    let last = params.rows - 1u;
    var packed: array<vec4<u32>, ROWS>;
    for (var r = 0u; r < ROWS; r++) {
        packed[r] = w[min(first_row + r, last) * params.row_units + unit];
    }
    var parts: array<f32, SUMS>;
    for (var i = 0u; i < SUMS; i++) {
        parts[i] = 0.0;
    }
    let n_quads = params.cols / 4u;
    for (var k = 0u; k < UNIT_QUADS; k++) {
        var weights: array<vec4<f32>, ROWS>;
        for (var r = 0u; r < ROWS; r++) {
            weights[r] = unit_quad(packed[r], k);
        }
        // The bytes that fill up a row's last unit are weights of zero, but for int4: any input will do.
        let quad = unit * UNIT_QUADS + k;
        let at = params.x_offset / 4u + min(quad, n_quads - 1u);
        for (var t = 0u; t < TOKENS; t++) {
            var inputs = x[min(first_token + t, params.tokens - 1u) * (params.x_stride / 4u) + at];
            if DTYPE == 4u {
                inputs = select(vec4<f32>(0.0), inputs, quad < n_quads);
            }
            for (var r = 0u; r < ROWS; r++) {
                parts[t * ROWS + r] += dot(inputs, weights[r]);
            }
        }
    }
    for (var r = 0u; r < ROWS; r++) {
        let scale = unit_scale(scales[scale_index(min(first_row + r, last), unit, params.row_units)]);
        for (var t = 0u; t < TOKENS; t++) {
            (*sums)[t * ROWS + r] += parts[t * ROWS + r] * scale;
        }
    }
}

fn write(first_row: u32, first_token: u32, sum: u32, value: f32) {
    let row = first_row + sum % ROWS;
    let token = first_token + sum / ROWS;
    if row < params.rows && token < params.tokens {
        y[token * params.y_stride + params.y_offset + row] = value;
    }
}
