// Packed weights: 16-byte units of a row, decoded four columns (a quad) at a time.
//
// Needs DTYPE: 0 f32, 1 bf16, 2 f16, 3 e4m3 with a scale per 128 x 128 block, 4 int4 with a scale per row and
// 32 columns. A unit never crosses a block of scales, so
//
//   W[row, unit * UNIT_COLS + quad * 4 ..][..4] =
//       unit_quad(w[row * row_units + unit], quad) * unit_scale(scales[scale_index(row, unit, row_units)])
//
// where the factor is 1 for DTYPE < SCALED. The zero bytes that fill up a row's last unit are -8 in int4, and
// what x holds there is anything: quads at and beyond cols must be left out.

const QUADS_OF_DTYPE = array<u32, 5>(1u, 2u, 2u, 4u, 8u);
// Quads in a unit, and columns.
const UNIT_QUADS: u32 = QUADS_OF_DTYPE[DTYPE];
const UNIT_COLS: u32 = 4u * UNIT_QUADS;
// From this DTYPE on there are scales.
const SCALED: u32 = 3u;

// Quad 0..UNIT_QUADS of a unit, without its scale.
fn unit_quad(unit: vec4<u32>, quad: u32) -> vec4<f32> {
    if DTYPE == 0u {
        return bitcast<vec4<f32>>(unit);
    }
    if DTYPE == 1u {
        let a = unit[2u * quad];
        let b = unit[2u * quad + 1u];
        return bitcast<vec4<f32>>(vec4<u32>(a << 16u, a & 0xffff0000u, b << 16u, b & 0xffff0000u));
    }
    if DTYPE == 2u {
        return vec4<f32>(unpack2x16float(unit[2u * quad]), unpack2x16float(unit[2u * quad + 1u]));
    }
    if DTYPE == 3u {
        // Exponent and mantissa land in an f16 whose bias is 8 higher; unit_scale makes up for it, once a unit.
        // Subnormals become subnormals.
        let odd = unit[quad];
        let even = odd << 8u;
        let x = unpack2x16float((even & 0x80008000u) | ((even >> 1u) & 0x3f803f80u));
        let y = unpack2x16float((odd & 0x80008000u) | ((odd >> 1u) & 0x3f803f80u));
        return vec4<f32>(x.x, y.x, x.y, y.y);
    }
    // Two nibbles at a time behind the mantissa of 1024 in f16: what a conversion from integers costs, halved.
    let word = unit[quad / 2u];
    let a = unpack2x16float((word & 0x000f000fu) | 0x64006400u);
    let b = unpack2x16float(((word >> 4u) & 0x000f000fu) | 0x64006400u);
    let c = unpack2x16float(((word >> 8u) & 0x000f000fu) | 0x64006400u);
    let d = unpack2x16float(((word >> 12u) & 0x000f000fu) | 0x64006400u);
    let low = vec4<f32>(a.x, b.x, c.x, d.x);
    let high = vec4<f32>(a.y, b.y, c.y, d.y);
    return select(low, high, (quad & 1u) == 1u) - 1032.0;
}

// What unit_quad is to be multiplied with, of the stored scale.
fn unit_scale(stored: f32) -> f32 {
    if DTYPE == 3u {
        return stored * 256.0;
    }
    if DTYPE == 4u {
        return stored;
    }
    return 1.0;
}

// Where the scale of a unit is; 0 where there are none, a word that is always bound.
fn scale_index(row: u32, unit: u32, row_units: u32) -> u32 {
    if DTYPE == 3u {
        return row / 128u * ((row_units + 7u) / 8u) + unit / 8u;
    }
    if DTYPE == 4u {
        return row * row_units + unit;
    }
    return 0u;
}

// Scales of one matrix of a stack.
fn matrix_scales(rows: u32, row_units: u32) -> u32 {
    if DTYPE == 3u {
        return (rows + 127u) / 128u * ((row_units + 7u) / 8u);
    }
    if DTYPE == 4u {
        return rows * row_units;
    }
    return 0u;
}
