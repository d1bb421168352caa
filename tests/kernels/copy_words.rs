//! `copy_words` against a slice copy.

use shaders::copy_words::{Call, dispatch};

use super::gpu;

#[test]
fn exactly_the_words_of_the_range_are_copied() {
    for gpu in gpu::all() {
        for tuning in gpu.tunings() {
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
                let from: Vec<u32> = (0..from_offset + n + 2)
                    .map(|i| (i as u32).wrapping_mul(0x9e37_79b9))
                    .collect();
                let mut expected = gpu::garbage(to_offset + n + 9);
                let mut buffers = [from.clone(), expected.clone()];
                gpu.run(&dispatch(&call, &tuning), &mut buffers);
                expected[to_offset..to_offset + n]
                    .copy_from_slice(&from[from_offset..from_offset + n]);
                assert_eq!(buffers[1], expected, "{} {tuning:?} {call:?}", gpu.name);
                assert_eq!(buffers[0], from, "{} {tuning:?} {call:?}", gpu.name);
            }
        }
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
    for gpu in gpu::all() {
        for tuning in gpu.tunings() {
            let call = Call {
                from_offset: 0,
                to_offset: 0,
                n: from.len(),
            };
            let mut buffers = [from.clone(), gpu::garbage(from.len())];
            gpu.run(&dispatch(&call, &tuning), &mut buffers);
            assert_eq!(buffers[1], from, "{}", gpu.name);
        }
    }
}

#[test]
fn more_words_than_fit_one_dimension_of_workgroups() {
    // 65,535 workgroups of 1024 words and 70 more.
    let n = 65_535 * 1024 + 70;
    let tuning = shaders::kernel::Tuning {
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
    let call = Call { n: 70, ..call };
    for gpu in gpu::all() {
        let mut two_rows = dispatch(&call, &tuning);
        two_rows.groups = [3, 2, 1];
        let from: Vec<u32> = (0..70).collect();
        let mut buffers = [from.clone(), gpu::garbage(70)];
        gpu.run(&two_rows, &mut buffers);
        assert_eq!(buffers[1], from, "{}", gpu.name);
    }
}
