// Packed numbers: bf16, f16 and e4m3 in 32-bit words, low part first, and e4m3 scales that are powers of
// two. All of it is plain integer and f32 code: no device feature is needed.

fn from_bf16(word: u32) -> vec2<f32> {
    return vec2<f32>(bitcast<f32>(word << 16u), bitcast<f32>(word & 0xffff0000u));
}

// Round to nearest, ties to even; NaN stays NaN.
fn to_bf16(value: f32) -> u32 {
    let bits = bitcast<u32>(value);
    if (bits & 0x7fffffffu) > 0x7f800000u {
        return (bits >> 16u) | 0x40u;
    }
    return (bits + 0x7fffu + ((bits >> 16u) & 1u)) >> 16u;
}

// Four e4m3: the exponent and mantissa land in an f16 with a bias that is 8 too high. S.1111.111 is NaN and
// must not be stored: checkpoints are checked, and to_e4m3 makes none of finite numbers.
fn from_e4m3(word: u32) -> vec4<f32> {
    let even = word & 0x00ff00ffu;
    let odd = (word >> 8u) & 0x00ff00ffu;
    let e = ((even & 0x00800080u) << 8u) | ((even & 0x007f007fu) << 7u);
    let o = ((odd & 0x00800080u) << 8u) | ((odd & 0x007f007fu) << 7u);
    let x = unpack2x16float(e);
    let y = unpack2x16float(o);
    return vec4<f32>(x.x, y.x, x.y, y.y) * 256.0;
}

// Round to nearest, ties to even, of a value within +-448; beyond it saturates. NaN becomes NaN.
fn to_e4m3(value: f32) -> u32 {
    let bits = bitcast<u32>(value);
    let sign = (bits >> 24u) & 0x80u;
    let magnitude = bits & 0x7fffffffu;
    if magnitude > 0x7f800000u {
        return sign | 0x7fu;
    }
    if magnitude >= 0x43e00000u { // 448
        return sign | 0x7eu;
    }
    if magnitude < 0x3c800000u { // 2^-6: subnormal, steps of 2^-9
        return sign | u32(round_even(bitcast<f32>(magnitude) * 512.0));
    }
    let rounded = magnitude + 0x7ffffu + ((magnitude >> 20u) & 1u);
    return sign | ((rounded >> 20u) - 960u); // (127 - 7) << 3
}

// For 0 <= x <= 8. WGSL's round() is exact too, but has had driver bugs at halves.
fn round_even(x: f32) -> f32 {
    let down = floor(x);
    let rest = x - down;
    let odd = (u32(down) & 1u) == 1u;
    return down + select(0.0, 1.0, rest > 0.5 || (rest == 0.5 && odd));
}

fn pack4(x: vec4<u32>) -> u32 {
    return x.x | (x.y << 8u) | (x.z << 16u) | (x.w << 24u);
}

// Smallest power of two s with max(amax, 1e-4) / 448 <= s: the "ue8m0" scale of the official quantiser.
// By exponent bits, so it is the same number on every device: log2 is not.
fn power_of_two_scale(amax: f32) -> f32 {
    // 448 = 1.75 * 2^8: amax / 448 <= 2^e  <=>  amax <= 1.75 * 2^(e + 8).
    let bits = bitcast<u32>(max(amax, 1e-4));
    let exponent = bits >> 23u;
    let above = select(0u, 1u, (bits & 0x7fffffu) > 0x600000u);
    return bitcast<f32>((exponent - 8u + above) << 23u);
}
