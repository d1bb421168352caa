//! `copy_words` against its reference, a slice copy.

use shaders::Tuning;
use shaders::copy_words::{Call, dispatch};

use super::gpu;

fn check(call: &Call, from: Vec<u32>) {
    let to = gpu::garbage(call.to_offset + call.n + 9);
    gpu::check(|tuning| dispatch(call, tuning), &[from, to], &[]);
}

#[test]
fn exactly_the_words_of_the_range_are_copied() {
    for (from_offset, to_offset, n) in [
        (0, 0, 1),
        (3, 5, 0),
        (1, 0, 255),
        (0, 7, 1025),
        (11, 2, 4096),
        (5, 5, 4099),
    ] {
        let call = Call {
            from_offset,
            to_offset,
            n,
        };
        let from = (0..from_offset + n + 2).map(|i| (i as u32).wrapping_mul(0x9e37_79b9));
        check(&call, from.collect());
    }
}

#[test]
fn any_bits_survive() {
    // Quiet and signalling NaNs, denormals and both zeros: nothing may pass through a float.
    let from = vec![
        0x7fc0_0001,
        0x7f80_0001,
        0xffff_ffff,
        1,
        0x8000_0000,
        0,
        0x007f_ffff,
    ];
    let call = Call {
        from_offset: 0,
        to_offset: 0,
        n: from.len(),
    };
    check(&call, from);
}

#[test]
fn more_words_than_fit_one_dimension_of_workgroups() {
    // 65,535 workgroups of 1024 words and 70 more.
    let n = 65_535 * 1024 + 70;
    let tuning = Tuning {
        subgroups: false,
        fat_threads: false,
    };
    let call = Call {
        from_offset: 0,
        to_offset: 0,
        n,
    };
    assert_eq!(dispatch(&call, &tuning).groups, [65_535, 2, 1]);
    // What the second row of workgroups does, at a size that a test can afford: a first row that
    // finds its words and a second that finds none.
    let mut two_rows = dispatch(&Call { n: 70, ..call }, &tuning);
    two_rows.groups = [3, 2, 1];
    for gpu in gpu::all() {
        let from: Vec<u32> = (0..70).collect();
        gpu.check(&two_rows, &[from, gpu::garbage(70)], &[]);
    }
}
