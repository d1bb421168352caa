// most     = max_s stats[t, s, j].most,   factor[s] = exp(stats[t, s, j].most - most)
// o_lat[c] = sum_s factor[s] * partials[t, s, j, c] / sum_s factor[s] * stats[t, s, j].total
// y[t, j * dv + r] = sum_c W[j * (dn + dv) + dn + r, c] * o_lat[c]          0 where no split has seen anything
//
// over the splits s, one after the other. group.x is a head j, group.y a tile of TOKENS tokens, group.z a part of the
// head's rows r. A workgroup merges its tokens' latents into workgroup memory, then PARTS lanes share ROWS rows of W:
// neighbouring lanes read neighbouring 16-byte units, and a unit serves all tokens of the tile. FAT 1, for devices
// whose lanes are a CPU's: a lane has rows of its own.
//
// Bytes: partials and stats once a part of the rows, W once a token tile, y written once. Flops: 2 * heads * rank * dv
// a token, and 2 * heads * rank a split.

override DTYPE: u32 = 0u;
// 1, 2 or 4.
override TOKENS: u32 = 1u;
override FAT: u32 = 0u;

const WG: u32 = select(256u, 32u, FAT == 1u);
const PARTS: u32 = select(16u, 1u, FAT == 1u);
// Sums of a lane fill a vec4, [token, row].
const ROWS: u32 = 4u / TOKENS;
const ROWS_AT_ONCE: u32 = WG / PARTS * ROWS;
const MAX_SPLITS: u32 = 32u;
// TOKENS latents, with room to fill each one's last unit.
const MERGED_QUADS: u32 = 544u;

struct Params {
    tokens: u32,
    first_row: u32, // of y
    heads: u32,
    dn: u32,
    dv: u32,
    rank: u32,
    splits: u32,
    y_stride: u32,
    row_units: u32, // of w_kvb
    part_rows: u32, // rows of a head for one group.z
}

@group(0) @binding(0) var<storage, read_write> partials: array<vec4<f32>>; // [tokens, splits, heads, rank / 4]
@group(0) @binding(1) var<storage, read_write> stats: array<vec2<f32>>;    // [tokens, splits, heads]
@group(0) @binding(2) var<storage, read_write> w_kvb: array<vec4<u32>>;    // [heads, dn + dv, row_units]
@group(0) @binding(3) var<storage, read_write> scales: array<f32>;         // of w_kvb
@group(0) @binding(4) var<storage, read_write> y: array<f32>;              // [rows, y_stride]
@group(0) @binding(5) var<uniform> params: Params;

// [token, quad of a unit, unit]: neighbouring lanes read neighbouring quads.
var<workgroup> merged: array<vec4<f32>, MERGED_QUADS>;
var<workgroup> factors: array<f32, TOKENS * MAX_SPLITS>;
var<workgroup> lane_sums: array<vec4<f32>, select(WG, 1u, FAT == 1u)>;

@compute @workgroup_size(WG)
fn attend_merge(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let head = group.x;
    let first_token = group.y * TOKENS;
    let rank_quads = params.rank / 4u;
    let row_units = params.row_units;

    for (var i = lane; i < TOKENS * params.splits; i += WG) {
        let token = min(first_token + i / params.splits, params.tokens - 1u);
        let first = token * params.splits * params.heads + head;
        var most = stats[first].x;
        for (var split = 1u; split < params.splits; split++) {
            most = max(most, stats[first + split * params.heads].x);
        }
        var total = 0.0;
        for (var split = 0u; split < params.splits; split++) {
            let of_split = stats[first + split * params.heads];
            total += exp(of_split.x - most) * of_split.y;
        }
        let factor = exp(stats[first + i % params.splits * params.heads].x - most);
        factors[i] = select(0.0, factor / total, total > 0.0);
    }
    workgroupBarrier();

    let token_quads = row_units * UNIT_QUADS;
    for (var i = lane; i < TOKENS * token_quads; i += WG) {
        let quad = i % token_quads;
        let token = i / token_quads;
        var sum = vec4<f32>(0.0);
        if quad < rank_quads {
            let row = min(first_token + token, params.tokens - 1u) * params.splits;
            for (var split = 0u; split < params.splits; split++) {
                let partial = partials[((row + split) * params.heads + head) * rank_quads + quad];
                sum += factors[token * params.splits + split] * partial;
            }
        }
        merged[token * token_quads + quad % UNIT_QUADS * row_units + quad / UNIT_QUADS] = sum;
    }
    workgroupBarrier();

    let end = min((group.z + 1u) * params.part_rows, params.dv);
    for (var first = group.z * params.part_rows; first < end; first += ROWS_AT_ONCE) {
        let first_row = first + lane / PARTS * ROWS;
        var rows: array<u32, ROWS>;
        for (var i = 0u; i < ROWS; i++) {
            // A row beyond the last is the last again.
            rows[i] = head * (params.dn + params.dv) + params.dn + min(first_row + i, end - 1u);
        }
        var sums = vec4<f32>(0.0);
        for (var unit = lane % PARTS; unit < row_units; unit += PARTS) {
            var units: array<vec4<u32>, ROWS>;
            for (var i = 0u; i < ROWS; i++) {
                units[i] = w_kvb[rows[i] * row_units + unit];
            }
            var parts = vec4<f32>(0.0);
            for (var quad = 0u; quad < UNIT_QUADS; quad++) {
                var values: array<vec4<f32>, TOKENS>;
                for (var token = 0u; token < TOKENS; token++) {
                    values[token] = merged[token * token_quads + quad * row_units + unit];
                }
                for (var i = 0u; i < ROWS; i++) {
                    let weights = unit_quad(units[i], quad);
                    for (var token = 0u; token < TOKENS; token++) {
                        parts[token * ROWS + i] += dot(weights, values[token]);
                    }
                }
            }
            if DTYPE >= SCALED {
                for (var i = 0u; i < ROWS; i++) {
                    let scale = unit_scale(scales[scale_index(rows[i], unit, row_units)]);
                    for (var token = 0u; token < TOKENS; token++) {
                        parts[token * ROWS + i] *= scale;
                    }
                }
            }
            sums += parts;
        }

        if PARTS == 1u {
            for (var i = 0u; i < 4u; i++) {
                write(head, first_token + i / ROWS, first_row + i % ROWS, end, sums[i]);
            }
        } else {
            lane_sums[lane] = sums;
            workgroupBarrier();
            if lane < WG / PARTS * 4u {
                let i = lane % 4u;
                let block = lane / 4u;
                var sum = lane_sums[block * PARTS][i];
                for (var part = 1u; part < PARTS; part++) {
                    sum += lane_sums[block * PARTS + part][i];
                }
                write(head, first_token + i / ROWS, first + block * ROWS + i % ROWS, end, sum);
            }
            // The next rows overwrite what slower lanes are still to read.
            workgroupBarrier();
        }
    }
}

fn write(head: u32, token: u32, row: u32, end: u32, value: f32) {
    if token < params.tokens && row < end {
        y[(params.first_row + token) * params.y_stride + head * params.dv + row] = value;
    }
}
