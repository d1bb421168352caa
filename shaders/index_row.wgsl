// One row of the indexer, a query head or a key, in workgroup memory: rope, Hadamard, FP8 blocks.
//
// Needs WG, a multiple of 32, CHANNELS, the most that a row has, and NUMBERS. Every lane calls, in uniform
// control flow.

const BLOCK_QUADS: u32 = 32u; // 128 channels share a scale

var<workgroup> index_row: array<f32, CHANNELS>;
var<workgroup> magnitudes: array<u32, WG>;

// A pair (a, b) becomes (a cos - b sin, a sin + b cos).
fn rotated(a: f32, b: f32, cosine: f32, sine: f32) -> vec2<f32> {
    return vec2<f32>(a * cosine - b * sine, a * sine + b * cosine);
}

// The two channels of pair i among the first dr.
fn pair_channels(i: u32, dr: u32, interleaved: bool) -> vec2<u32> {
    return select(vec2<u32>(i, i + dr / 2u), vec2<u32>(2u * i, 2u * i + 1u), interleaved);
}

// Sylvester's matrix, H[i][j] = (-1)^popcount(i & j), without its factor n^-0.5: sums and differences at
// distance 1, 2, 4, ... Begins and ends with a barrier. n is a power of two.
fn hadamard(lane: u32, n: u32) {
    workgroupBarrier();
    for (var distance = 1u; distance < n; distance *= 2u) {
        for (var i = lane; i < n / 2u; i += WG) {
            let low = (i / distance) * 2u * distance + i % distance;
            let a = index_row[low];
            let b = index_row[low + distance];
            index_row[low] = a + b;
            index_row[low + distance] = a - b;
        }
        workgroupBarrier();
    }
}

fn row_quad(quad: u32) -> vec4<f32> {
    let i = 4u * quad;
    return vec4<f32>(index_row[i], index_row[i + 1u], index_row[i + 2u], index_row[i + 3u]);
}

// Scale and its inverse, both powers of two, of the 128 channels that this lane's quad and its neighbours'
// hold; lanes without a quad give zeros. If one of them is NaN, so is the scale: e4m3 as it is read back
// has no NaN, and a broken row must not turn into a sound one.
fn block_scale(lane: u32, quad: vec4<f32>) -> vec2<f32> {
    // As bits, magnitudes compare like the numbers, and NaN is above all.
    let bits = bitcast<vec4<u32>>(quad) & vec4<u32>(0x7fffffffu);
    magnitudes[lane] = max(max(bits.x, bits.y), max(bits.z, bits.w));
    workgroupBarrier();
    var most = 0u;
    let first = lane & ~(BLOCK_QUADS - 1u);
    for (var i = 0u; i < BLOCK_QUADS; i++) {
        most = max(most, magnitudes[first + i]);
    }
    workgroupBarrier();
    if most > 0x7f800000u {
        // Made from the NaN that was found: a constant would be refused.
        return bitcast<vec2<f32>>(vec2<u32>(most | 0x400000u));
    }
    let scale = power_of_two_scale(bitcast<f32>(most));
    // Exponents add up to 0 with their bias twice; a division might round.
    return vec2<f32>(scale, bitcast<f32>(0x7f000000u - bitcast<u32>(scale)));
}

fn quad_to_e4m3(quad: vec4<f32>, inverse: f32) -> u32 {
    let q = quad * inverse;
    return pack4(vec4<u32>(to_e4m3(q.x), to_e4m3(q.y), to_e4m3(q.z), to_e4m3(q.w)));
}
