//! `embed` against the rows it is to copy.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use shaders::embed::{Call, dispatch};
use shaders::weights::row_units;

use super::gpu;

/// The scale of a column: all rows of these tables lie in one block.
fn scale(col: usize) -> f32 {
    (1 + col / 128) as f32
}

/// A table of finite values of some type, packed, and its values.
fn table(dtype: u32, rows: usize, width: usize) -> (Vec<u32>, Vec<f32>) {
    let mut random = ChaCha8Rng::seed_from_u64(u64::from(dtype) + 10 * width as u64);
    let words = row_units(dtype, width) * 4;
    let mut packed = vec![0; rows * words];
    let mut values = Vec::new();
    for row in 0..rows {
        for col in 0..width {
            let value = (random.next_u32() >> 16) as f32 / 4096.0 - 8.0;
            let (at, bits, value) = match dtype {
                0 => (col, value.to_bits(), value),
                1 => {
                    let rounded = half::bf16::from_f32(value);
                    let bits = u32::from(rounded.to_bits()) << (16 * (col % 2));
                    (col / 2, bits, rounded.to_f32())
                }
                2 => {
                    let rounded = half::f16::from_f32(value);
                    let bits = u32::from(rounded.to_bits()) << (16 * (col % 2));
                    (col / 2, bits, rounded.to_f32())
                }
                _ => {
                    // e4m3 of small whole numbers, under the scale of its block of columns.
                    let code = random.next_u32() % 4;
                    let value = [1.0, 1.5, -2.0, 0.0][code as usize] * scale(col);
                    let code = [0x38, 0x3c, 0xc0, 0x00][code as usize];
                    (col / 4, code << (8 * (col % 4)), value)
                }
            };
            packed[row * words + at] |= bits;
            values.push(value);
        }
    }
    (packed, values)
}

#[test]
fn rows_are_copied_exactly_and_ids_outside_the_slice_are_left_alone() {
    const N_ROWS: usize = 7;
    // The slice holds ids 100..107; both neighbours, 0 and the largest number are outside.
    let ids = [103, 100, 106, 99, 107, 0, u32::MAX, 103];
    for gpu in gpu::all() {
        for tuning in gpu.tunings() {
            for dtype in 0..4 {
                for width in [4, 36, 260, 1028] {
                    let (packed, values) = table(dtype, N_ROWS, width);
                    let call = Call {
                        dtype,
                        tokens: ids.len(),
                        width,
                        first_row: 100,
                        n_rows: N_ROWS,
                    };
                    let y = gpu::garbage(ids.len() * width);
                    let blocks = width.div_ceil(128).max(4);
                    let scales: Vec<f32> = (0..blocks).map(|block| scale(128 * block)).collect();
                    let mut buffers = [ids.to_vec(), packed, gpu::words(&scales), y];
                    gpu.run(&dispatch(&call, &tuning), &mut buffers);
                    for (id, found) in ids.iter().zip(buffers[3].chunks(width)) {
                        let row = id.wrapping_sub(100) as usize;
                        let expected = match row < N_ROWS {
                            true => gpu::words(&values[row * width..][..width]),
                            false => gpu::garbage(width),
                        };
                        assert_eq!(found, expected, "{}: {dtype} {width} {id}", gpu.name);
                    }
                }
            }
        }
    }
}

#[test]
fn a_single_id_of_a_table_of_one_row() {
    for gpu in gpu::all() {
        for tuning in gpu.tunings() {
            let call = Call {
                dtype: 0,
                tokens: 1,
                width: 4,
                first_row: 0,
                n_rows: 1,
            };
            let row = gpu::words(&[1.5, -0.0, f32::MAX, 1e-38]);
            let mut buffers = [vec![0], row.clone(), vec![0; 4], gpu::garbage(4)];
            gpu.run(&dispatch(&call, &tuning), &mut buffers);
            assert_eq!(buffers[3], row, "{}", gpu.name);
        }
    }
}
