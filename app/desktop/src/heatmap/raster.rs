//! Reduces a matrix to as many cells as the screen has room for. Knows neither colours nor egui.

use std::ops::Range;

/// One number of a matrix and the class it belongs to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cell {
    /// The number; NaN where there is none.
    pub value: f32,
    /// What it is a number of, chosen by the caller; [`Cell::NOTHING`] where nothing is.
    pub class: u8,
}

impl Cell {
    /// Class of cells that do not exist.
    pub const OUTSIDE: u8 = 0;
    /// A cell that does not exist.
    pub const NOTHING: Self = Self {
        value: f32::NAN,
        class: Self::OUTSIDE,
    };
}

/// A row of which only some cells are named.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SparseRow {
    /// Named columns, ascending.
    pub columns: Vec<u32>,
    /// Their cells, as many as `columns`.
    pub cells: Vec<Cell>,
    /// Columns that exist: `0..extent`.
    pub extent: usize,
    /// Class of the columns that exist and are not named; their value is 0.
    pub rest: u8,
}

/// The numbers of a matrix.
#[derive(Clone, Copy)]
pub enum Rows<'a> {
    /// All of them, row-major, class 1. A NaN hides the numbers it is reduced with: it shall not get lost.
    Dense(&'a [f32]),
    /// Few of them. A NaN (strength not recorded) yields to numbers.
    Sparse(&'a [SparseRow]),
}

/// The reduced matrix, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Raster {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `width × height` cells.
    pub cells: Vec<Cell>,
}

/// Reduces the `columns` of a matrix of `n_rows × n_columns` by maximum: to `width` columns if there are more,
/// and to `height` rows if there are more.
pub fn reduce(
    rows: Rows<'_>,
    n_rows: usize,
    n_columns: usize,
    columns: Range<usize>,
    width: usize,
    height: usize,
) -> Raster {
    let columns = columns.start.min(n_columns)..columns.end.min(n_columns);
    let width = width.min(columns.len());
    let height = height.min(n_rows);
    let mut cells = vec![Cell::NOTHING; width * height];
    if width > 0 && height > 0 {
        for row in 0..n_rows {
            let y = row * height / n_rows;
            let into = &mut cells[y * width..(y + 1) * width];
            match rows {
                Rows::Dense(values) => {
                    let values = values.get(row * n_columns..(row + 1) * n_columns);
                    dense_row(values.map_or(&[], |values| &values[columns.clone()]), into);
                }
                Rows::Sparse(rows) => {
                    if let Some(row) = rows.get(row) {
                        sparse_row(row, columns.clone(), into);
                    }
                }
            }
        }
    }
    Raster {
        width,
        height,
        cells,
    }
}

/// Columns of bin `x` among `width` over `n` columns. Every bin has one at least, as `width <= n`.
pub fn bin(x: usize, width: usize, n: usize) -> Range<usize> {
    x * n / width..(x + 1) * n / width
}

fn dense_row(values: &[f32], into: &mut [Cell]) {
    if values.is_empty() {
        return;
    }
    let width = into.len();
    for (x, cell) in into.iter_mut().enumerate() {
        let value = maximum(&values[bin(x, width, values.len())]);
        let hides = cell.class == Cell::OUTSIDE || value.is_nan() || value > cell.value;
        if hides && !(cell.class != Cell::OUTSIDE && cell.value.is_nan()) {
            *cell = Cell { value, class: 1 };
        }
    }
}

/// The largest number; NaN if one of them is.
fn maximum(values: &[f32]) -> f32 {
    // Lanes of their own, so that the compiler may use vector instructions.
    let mut lanes = [f32::NEG_INFINITY; 8];
    let mut has_nan = [false; 8];
    let chunks = values.chunks_exact(8);
    let rest = chunks.remainder();
    for chunk in chunks {
        for lane in 0..8 {
            let value = chunk[lane];
            lanes[lane] = if value > lanes[lane] {
                value
            } else {
                lanes[lane]
            };
            has_nan[lane] |= value.is_nan();
        }
    }
    let mut largest = f32::NEG_INFINITY;
    let mut nan = has_nan.contains(&true);
    for &value in lanes.iter().chain(rest) {
        nan |= value.is_nan();
        largest = if value > largest { value } else { largest };
    }
    if nan { f32::NAN } else { largest }
}

fn sparse_row(row: &SparseRow, columns: Range<usize>, into: &mut [Cell]) {
    let (width, n) = (into.len(), columns.len());
    let existing = row.extent.saturating_sub(columns.start).min(n);
    // The bins that hold an existing column: those up to that of the last one.
    let n_bins = if existing == 0 {
        0
    } else {
        (existing - 1) * width / n + 1
    };
    for cell in &mut into[..n_bins.min(width)] {
        merge(
            cell,
            Cell {
                value: 0.0,
                class: row.rest,
            },
        );
    }
    let from = row
        .columns
        .partition_point(|&c| (c as usize) < columns.start);
    let to = row.columns.partition_point(|&c| (c as usize) < columns.end);
    for (&column, &new) in row.columns[from..to].iter().zip(&row.cells[from..to]) {
        let x = (column as usize - columns.start) * width / n;
        merge(&mut into[x], new);
    }
}

/// Higher classes hide the background (classes below 3); among others the greater value stays.
fn merge(cell: &mut Cell, new: Cell) {
    let is_named = |cell: &Cell| cell.class >= 3;
    let wins = match (is_named(cell), is_named(&new)) {
        (false, false) => new.class > cell.class,
        (false, true) => true,
        (true, false) => false,
        (true, true) => new.value > cell.value || cell.value.is_nan(),
    };
    if wins {
        *cell = new;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panic")]
mod tests {
    use super::*;

    fn values(raster: &Raster) -> Vec<f32> {
        raster.cells.iter().map(|cell| cell.value).collect()
    }

    #[test]
    fn a_matrix_that_fits_is_kept_as_it_is() {
        let data = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let raster = reduce(Rows::Dense(&data), 2, 3, 0..3, 100, 100);
        assert_eq!((raster.width, raster.height), (3, 2));
        assert_eq!(values(&raster), data);
    }

    #[test]
    fn reduction_keeps_the_maximum_of_every_bin_at_odd_sizes() {
        let n = 1009;
        let data: Vec<f32> = (0..n).map(|i| ((i * 7919) % n) as f32).collect();
        for width in [1, 2, 3, 64, 1000, 1009] {
            let raster = reduce(Rows::Dense(&data), 1, n, 0..n, width, 9);
            for (x, cell) in raster.cells.iter().enumerate() {
                let expected = data[bin(x, width, n)]
                    .iter()
                    .copied()
                    .fold(f32::MIN, f32::max);
                assert_eq!(cell.value, expected, "bin {x} of {width}");
            }
        }
    }

    #[test]
    fn one_nan_among_many_numbers_stays_visible() {
        let mut data = vec![1.0; 5000];
        data[4321] = f32::NAN;
        let raster = reduce(Rows::Dense(&data), 1, 5000, 0..5000, 10, 1);
        let nan: Vec<usize> = (0..10)
            .filter(|&x| raster.cells[x].value.is_nan())
            .collect();
        assert_eq!(nan, [8]);
        // Also where rows are reduced, whichever comes first.
        for at in [0, 7] {
            let mut column = vec![2.0; 8];
            column[at] = f32::NAN;
            let raster = reduce(Rows::Dense(&column), 8, 1, 0..1, 1, 1);
            assert!(raster.cells[0].value.is_nan());
        }
    }

    #[test]
    fn a_single_selected_position_among_131072_never_vanishes() {
        for column in [0, 1, 65_537, 131_070, 131_071] {
            let row = SparseRow {
                columns: vec![column],
                cells: vec![Cell {
                    value: 1e-9,
                    class: 6,
                }],
                extent: 131_072,
                rest: 1,
            };
            let rows = [row];
            let raster = reduce(Rows::Sparse(&rows), 1, 131_072, 0..131_072, 777, 1);
            let lit: Vec<usize> = (0..777).filter(|&x| raster.cells[x].class == 6).collect();
            assert_eq!(lit, [column as usize * 777 / 131_072]);
            assert!(raster.cells.iter().all(|cell| cell.class != Cell::OUTSIDE));
        }
    }

    #[test]
    fn columns_after_the_extent_do_not_exist() {
        let rows = [SparseRow {
            extent: 5,
            rest: 1,
            ..SparseRow::default()
        }];
        let raster = reduce(Rows::Sparse(&rows), 1, 10, 0..10, 10, 1);
        let classes: Vec<u8> = raster.cells.iter().map(|cell| cell.class).collect();
        assert_eq!(classes, [1, 1, 1, 1, 1, 0, 0, 0, 0, 0]);
        let raster = reduce(Rows::Sparse(&rows), 1, 10, 6..10, 10, 1);
        assert!(raster.cells.iter().all(|cell| cell.class == 0));
    }

    #[test]
    fn in_a_sparse_bin_the_greater_weight_wins_and_nan_yields() {
        let cell = |value, class| Cell { value, class };
        let rows = [SparseRow {
            columns: vec![0, 1, 2, 3],
            cells: vec![cell(0.1, 4), cell(f32::NAN, 5), cell(0.7, 6), cell(0.2, 5)],
            extent: 4,
            rest: 1,
        }];
        let raster = reduce(Rows::Sparse(&rows), 1, 4, 0..4, 1, 1);
        assert_eq!(raster.cells, [cell(0.7, 6)]);
    }

    #[test]
    fn nothing_at_all_is_no_panic() {
        for (n_rows, n_columns) in [(0, 0), (0, 5), (5, 0)] {
            let raster = reduce(Rows::Dense(&[]), n_rows, n_columns, 0..n_columns, 10, 10);
            assert!(raster.cells.is_empty() || raster.cells.iter().all(|c| c.class == 0));
        }
        // A range behind the matrix, and fewer rows than promised.
        let raster = reduce(Rows::Dense(&[1.0]), 2, 1, 5..9, 10, 10);
        assert!(raster.cells.is_empty());
        let raster = reduce(Rows::Sparse(&[]), 3, 4, 0..4, 2, 2);
        assert!(raster.cells.iter().all(|cell| cell.class == 0));
    }

    #[test]
    fn sixty_one_layers_of_131072_positions_reduce_to_what_is_drawn() {
        let (n_rows, n_columns) = (61, 131_072);
        let data: Vec<f32> = (0..n_rows * n_columns).map(|i| (i % 977) as f32).collect();
        let rows: Vec<SparseRow> = (0..n_rows)
            .map(|_| SparseRow {
                columns: (0..2048).map(|i| i * 64).collect(),
                cells: vec![
                    Cell {
                        value: 0.5,
                        class: 6
                    };
                    2048
                ],
                extent: n_columns,
                rest: 1,
            })
            .collect();
        let time = |rows: Rows<'_>| {
            (0..5)
                .map(|_| {
                    let start = std::time::Instant::now();
                    let raster = reduce(rows, n_rows, n_columns, 0..n_columns, 1200, 488);
                    assert_eq!(raster.cells.len(), 1200 * 61);
                    start.elapsed().as_secs_f64() * 1e3
                })
                .fold(f64::INFINITY, f64::min)
        };
        let (dense_ms, sparse_ms) = (time(Rows::Dense(&data)), time(Rows::Sparse(&rows)));
        println!(
            "61 x 131072 to 1200 x 61: dense {dense_ms:.2} ms, 2048 selected {sparse_ms:.2} ms"
        );
    }
}
