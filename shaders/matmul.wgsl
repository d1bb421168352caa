// y[t, r] = sum over c of x[t, c] * W[r, c], for many tokens t
//
// A workgroup computes TILE_TOKENS x TILE_ROWS results, a lane BLOCK_TOKENS x 8 of them in registers: rows row_lane,
// row_lane + ROW_LANES, ... and likewise tokens, so that neighbouring lanes write neighbouring results. It walks
// the columns in steps of 16: while a step's x and W are multiplied out of workgroup memory, those of the next are
// on their way from memory to registers. W is decoded and scaled once a workgroup, on its way into workgroup memory.
//
// W and its scales are read once a tile of tokens, x once a tile of rows. group.x is the tile of tokens, so the
// workgroups that read the same rows of W run at the same time and from the second on find them in L2.
// 2 * tokens * rows * cols operations.

override DTYPE: u32 = 0u;
// 32 or 64.
override TILE_TOKENS: u32 = 64u;

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

const TILE_ROWS: u32 = 2u * TILE_TOKENS;
const WG: u32 = TILE_ROWS;
const TOKEN_LANES: u32 = 8u;
const ROW_LANES: u32 = WG / TOKEN_LANES;
const BLOCK_TOKENS: u32 = TILE_TOKENS / TOKEN_LANES;
const BLOCK_ROWS: u32 = 8u; // TILE_ROWS / ROW_LANES
const SUMS: u32 = BLOCK_TOKENS * BLOCK_ROWS;

// Quads of columns in a step, and how far rows are apart in workgroup memory: an odd number, so that eight
// neighbouring rows are in different banks.
const STEP: u32 = 4u;
const APART: u32 = 5u;

// A load of W is a unit, of int4 half a unit: as much as a step takes.
const LOAD_QUADS: u32 = min(UNIT_QUADS, STEP);
const ROW_LOADS: u32 = STEP / LOAD_QUADS;
// Loads of a lane: TILE_ROWS is WG, and half as many tokens.
const W_LOADS: u32 = ROW_LOADS;
const X_LOADS: u32 = STEP * TILE_TOKENS / WG;

var<workgroup> x_tile: array<vec4<f32>, TILE_TOKENS * APART>;
var<workgroup> w_tile: array<vec4<f32>, TILE_ROWS * APART>;

@compute @workgroup_size(WG)
fn matmul(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let first_token = group.x * TILE_TOKENS;
    let first_row = group.y * TILE_ROWS;
    let token_lane = lane / ROW_LANES;
    let row_lane = lane % ROW_LANES;
    let n_quads = params.cols / 4u;

    var sums: array<f32, SUMS>; // [BLOCK_TOKENS, BLOCK_ROWS]
    for (var i = 0u; i < SUMS; i++) {
        sums[i] = 0.0;
    }
    var x_next: array<vec4<f32>, X_LOADS>;
    var w_next: array<vec4<u32>, W_LOADS>;
    var scale_next: array<f32, W_LOADS>;
    for (var i = 0u; i < X_LOADS; i++) {
        x_next[i] = load_x(first_token, lane + i * WG, 0u, n_quads);
    }
    for (var i = 0u; i < W_LOADS; i++) {
        w_next[i] = load_w(first_row, lane + i * WG, 0u);
        scale_next[i] = load_scale(first_row, lane + i * WG, 0u);
    }

    for (var quad = 0u; quad < n_quads; quad += STEP) {
        for (var i = 0u; i < X_LOADS; i++) {
            let load = lane + i * WG;
            x_tile[load / STEP * APART + load % STEP] = x_next[i];
        }
        for (var i = 0u; i < W_LOADS; i++) {
            let load = lane + i * WG;
            let at = load / ROW_LOADS * APART + load % ROW_LOADS * LOAD_QUADS;
            // Which half of a unit of int4.
            let half = quad % UNIT_QUADS / STEP * STEP;
            for (var k = 0u; k < LOAD_QUADS; k++) {
                w_tile[at + k] = unit_quad(w_next[i], half + k) * scale_next[i];
            }
        }
        workgroupBarrier();

        // Beyond the last step nothing is read from where nothing is: the loads stay within their row.
        let next = quad + STEP;
        for (var i = 0u; i < X_LOADS; i++) {
            x_next[i] = load_x(first_token, lane + i * WG, next, n_quads);
        }
        for (var i = 0u; i < W_LOADS; i++) {
            w_next[i] = load_w(first_row, lane + i * WG, next);
            scale_next[i] = load_scale(first_row, lane + i * WG, next);
        }

        // Two columns at a time, to hold fewer of them in registers.
        for (var k = 0u; k < 2u * STEP; k++) {
            var weights: array<vec2<f32>, BLOCK_ROWS>;
            for (var r = 0u; r < BLOCK_ROWS; r++) {
                weights[r] = pair_of(w_tile[(r * ROW_LANES + row_lane) * APART + k / 2u], k);
            }
            for (var t = 0u; t < BLOCK_TOKENS; t++) {
                let inputs = pair_of(x_tile[(t * TOKEN_LANES + token_lane) * APART + k / 2u], k);
                for (var r = 0u; r < BLOCK_ROWS; r++) {
                    let i = t * BLOCK_ROWS + r;
                    sums[i] = fma(inputs.x, weights[r].x, sums[i]);
                    sums[i] = fma(inputs.y, weights[r].y, sums[i]);
                }
            }
        }
        // The next step overwrites what slower lanes are still to read.
        workgroupBarrier();
    }

    for (var t = 0u; t < BLOCK_TOKENS; t++) {
        let token = first_token + t * TOKEN_LANES + token_lane;
        for (var r = 0u; r < BLOCK_ROWS; r++) {
            let row = first_row + r * ROW_LANES + row_lane;
            if token < params.tokens && row < params.rows {
                y[token * params.y_stride + params.y_offset + row] = sums[t * BLOCK_ROWS + r];
            }
        }
    }
}

// The k-th two of the columns of a quad.
fn pair_of(quad: vec4<f32>, k: u32) -> vec2<f32> {
    return select(quad.zw, quad.xy, k % 2u == 0u);
}

// Zero beyond the columns: whatever the weights are there, they count for nothing. Tokens beyond the last are
// the last again, and are not written.
fn load_x(first_token: u32, load: u32, first_quad: u32, n_quads: u32) -> vec4<f32> {
    let token = min(first_token + load / STEP, params.tokens - 1u);
    let quad = first_quad + load % STEP;
    let value = x[(token * params.x_stride + params.x_offset) / 4u + min(quad, n_quads - 1u)];
    return select(vec4<f32>(0.0), value, quad < n_quads);
}

fn load_w(first_row: u32, load: u32, first_quad: u32) -> vec4<u32> {
    return w[row_of(first_row, load) * params.row_units + unit_of(load, first_quad)];
}

fn load_scale(first_row: u32, load: u32, first_quad: u32) -> f32 {
    let at = scale_index(row_of(first_row, load), unit_of(load, first_quad), params.row_units);
    return unit_scale(scales[at]);
}

fn row_of(first_row: u32, load: u32) -> u32 {
    return min(first_row + load / ROW_LOADS, params.rows - 1u);
}

fn unit_of(load: u32, first_quad: u32) -> u32 {
    return min(first_quad / UNIT_QUADS + load % ROW_LOADS, params.row_units - 1u);
}
