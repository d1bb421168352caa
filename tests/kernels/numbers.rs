//! `numbers.wgsl` by itself: a lane converts a word in every way, exactly as a reference of its own says.

use shaders::kernel::{Cost, Dispatch, Kernel, Layout};
use shaders::pieces::{NUMBERS, plain};
use shaders::reference::{from_e4m3, power_of_two_scale, to_bf16, to_e4m3};

use super::gpu;

const KERNEL: Kernel = Kernel {
    name: "convert",
    pieces: &[NUMBERS, plain(TEXT)],
    bindings: &["words", "packed", "unpacked"],
    knobs: &[],
    params: Layout {
        fields: &[("n", 0), ("unused", 4)],
        size_bytes: 8,
    },
    reference,
};

const TEXT: &str = "
struct Params { n: u32, unused: u32 }
@group(0) @binding(0) var<storage, read_write> words: array<u32>;
@group(0) @binding(1) var<storage, read_write> packed: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> unpacked: array<vec4<u32>>;
@group(0) @binding(3) var<uniform> params: Params;
@compute @workgroup_size(64)
fn convert(@builtin(global_invocation_id) at: vec3<u32>) {
    if at.x >= params.n {
        return;
    }
    let word = words[at.x];
    let value = bitcast<f32>(word);
    let e4m3 = to_e4m3(value);
    // Of finite numbers only.
    let scale = select(bitcast<u32>(power_of_two_scale(abs(value))), 0u, (word & 0x7f800000u) == 0x7f800000u);
    packed[at.x] = vec4<u32>(e4m3, to_bf16(value), scale, pack4(vec4<u32>(e4m3, 1u, 2u, 3u)));
    var codes = bitcast<vec4<u32>>(from_e4m3(word));
    for (var i = 0u; i < 4u; i++) {
        // NaN is documented not to be read.
        codes[i] = select(codes[i], 0u, (word >> (8u * i) & 0x7fu) == 0x7fu);
    }
    unpacked[2u * at.x] = codes;
    unpacked[2u * at.x + 1u] = vec4<u32>(bitcast<vec2<u32>>(from_bf16(word)), 0u, 0u);
}
";

fn reference(_: &Dispatch, buffers: &mut [Vec<u32>]) {
    for at in 0..buffers[0].len() {
        let word = buffers[0][at];
        let value = f32::from_bits(word);
        let e4m3 = to_e4m3(value.into());
        let scale = match value.is_finite() {
            true => power_of_two_scale(&[value.into()]) as f32,
            false => 0.0,
        };
        let packed = [e4m3, to_bf16(value), scale.to_bits(), e4m3 | 0x0302_0100];
        buffers[1][4 * at..][..4].copy_from_slice(&packed);
        for (i, code) in word.to_le_bytes().into_iter().enumerate() {
            let value = from_e4m3(code.into());
            let bits = if value.is_nan() {
                0
            } else {
                (value as f32).to_bits()
            };
            buffers[2][8 * at + i] = bits;
        }
        // A bf16 is the upper half of an f32, NaN or not.
        let halves = [word << 16, word & 0xffff_0000, 0, 0];
        buffers[2][8 * at + 4..][..4].copy_from_slice(&halves);
    }
}

fn check(words: &[u32]) {
    let n = words.len();
    let dispatch = Dispatch {
        kernel: &KERNEL,
        knobs: Vec::new(),
        subgroups: false,
        params: bytemuck::cast_slice(&[n as u32, 0]).to_vec(),
        groups: [(n as u32).div_ceil(64), 1, 1],
        cost: Cost::default(),
    };
    let buffers = [words.to_vec(), gpu::garbage(4 * n), gpu::garbage(8 * n)];
    for gpu in gpu::all() {
        gpu.check(&dispatch, &buffers, &[]);
    }
}

/// A number, its neighbours, and all of them negative.
fn around(value: f32) -> [u32; 6] {
    let [below, above] = [value.next_down(), value.next_up()];
    [value, below, above, -value, -below, -above].map(f32::to_bits)
}

#[test]
fn every_e4m3_code_reads_as_it_is_defined() {
    let mut words: Vec<u32> = (0..256).map(|code| code * 0x0101_0101).collect();
    // Each place by itself.
    words.push(0x7e08_b801);
    check(&words);
}

#[test]
fn every_halfway_case_rounds_to_even_and_what_is_beyond_saturates() {
    let mut words = Vec::new();
    for code in 0..0x7e {
        let (low, high) = (from_e4m3(code), from_e4m3(code + 1));
        for share in [0.0, 0.5, 0.3] {
            words.extend(around((low + (high - low) * share) as f32));
        }
    }
    for beyond in [
        448.0,
        449.0,
        463.9,
        464.0,
        480.0,
        1e9,
        f32::MAX,
        1e-30,
        1e-45,
    ] {
        words.extend(around(beyond));
    }
    words.extend((0..20_000_u32).map(|i| i.wrapping_mul(0x9e37_79b9)));
    words.extend([f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -f32::NAN].map(f32::to_bits));
    check(&words);
}

#[test]
fn bf16_rounds_to_nearest_even_and_reads_back() {
    // Every upper half, with what decides how it rounds.
    let words = (0..=0xffff_u32)
        .flat_map(|high| [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff].map(|low| high << 16 | low));
    let words: Vec<u32> = words.collect();
    check(&words);
    // Nor has the reference another mind than everybody else.
    for word in words {
        let value = f32::from_bits(word);
        let theirs = half::bf16::from_f32(value).to_bits();
        assert_eq!(to_bf16(value), u32::from(theirs));
    }
}

#[test]
fn scales_are_the_smallest_power_of_two_that_fits() {
    let mut words = [0.0, f32::MIN_POSITIVE, 1.0, f32::MAX]
        .map(f32::to_bits)
        .to_vec();
    words.extend(around(1e-4));
    for exponent in -20..=127 {
        words.extend(around(1.75 * 2f32.powi(exponent)));
        words.extend(around(2f32.powi(exponent)));
    }
    check(&words);
}
