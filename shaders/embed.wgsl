// y[t, :] = table[ids[t] - first_row, :] for ids within the slice; rows of other ids are left alone
//
// group.y is the token t. A lane decodes one 16-byte unit of the table's row, so neighbouring lanes read
// neighbouring units and write neighbouring quads.
//
// Reads one row of the table a token, and the id in every lane of it (a broadcast); writes a row of y.

override WG: u32 = 64u;
// f32, bf16, f16 or e4m3.
override DTYPE: u32 = 0u;

struct Params {
    width: u32,     // columns
    row_units: u32, // 16-byte units of a row of the table
    first_row: u32, // id of the slice's first row
    n_rows: u32,    // rows of the slice
    tokens: u32,
    unused: u32,
}

@group(0) @binding(0) var<storage, read_write> ids: array<u32>;         // [tokens]
@group(0) @binding(1) var<storage, read_write> table: array<vec4<u32>>; // [n_rows, row_units]
@group(0) @binding(2) var<storage, read_write> scales: array<f32>;      // [n_rows / 128, width / 128], or 4 unused
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>;     // [tokens, width / 4]
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(WG)
fn embed(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let unit = group.x * WG + lane;
    let token = group.y;
    if token >= params.tokens || unit >= params.row_units {
        return;
    }
    // An id before the slice wraps around and is beyond it, too.
    let row = ids[token] - params.first_row;
    if row >= params.n_rows {
        return;
    }
    let packed = table[row * params.row_units + unit];
    let scale = unit_scale(scales[scale_index(row, unit, params.row_units)]);
    let quads = params.width / 4u;
    for (var i = 0u; i < UNIT_QUADS; i++) {
        let quad = unit * UNIT_QUADS + i;
        if quad < quads {
            y[token * quads + quad] = unit_quad(packed, i) * scale;
        }
    }
}
