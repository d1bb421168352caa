//! From a recording to a file. Rows are written from where they lie: nothing large is copied first.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Map, json};

use super::super::row::{Row, SECTIONS};
use super::super::{Origin, Recording};
use super::{COLUMNS, Description, Timing, VERSION, row_flags, token_flags};

/// Numbers of one column, in pieces.
enum Column<'a> {
    Bytes(Vec<u8>),
    Words(Vec<u32>),
    Floats(Vec<f32>),
    Doubles(Vec<f64>),
    BytePieces(Vec<&'a [u8]>),
    WordPieces(Vec<&'a [u32]>),
    FloatPieces(Vec<&'a [f32]>),
}

impl Column<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Bytes(values) => values.len(),
            Self::Words(values) => values.len(),
            Self::Floats(values) => values.len(),
            Self::Doubles(values) => values.len(),
            Self::BytePieces(pieces) => pieces.iter().map(|piece| piece.len()).sum(),
            Self::WordPieces(pieces) => pieces.iter().map(|piece| piece.len()).sum(),
            Self::FloatPieces(pieces) => pieces.iter().map(|piece| piece.len()).sum(),
        }
    }

    fn write(&self, out: &mut impl Write) -> std::io::Result<()> {
        match self {
            Self::Bytes(values) => out.write_all(values),
            Self::Words(values) => values
                .iter()
                .try_for_each(|v| out.write_all(&v.to_le_bytes())),
            Self::Floats(values) => values
                .iter()
                .try_for_each(|v| out.write_all(&v.to_le_bytes())),
            Self::Doubles(values) => values
                .iter()
                .try_for_each(|v| out.write_all(&v.to_le_bytes())),
            Self::BytePieces(pieces) => pieces.iter().try_for_each(|piece| out.write_all(piece)),
            Self::WordPieces(pieces) => {
                let mut values = pieces.iter().copied().flatten();
                values.try_for_each(|v| out.write_all(&v.to_le_bytes()))
            }
            Self::FloatPieces(pieces) => {
                let mut values = pieces.iter().copied().flatten();
                values.try_for_each(|v| out.write_all(&v.to_le_bytes()))
            }
        }
    }
}

pub(super) fn save(recording: &Recording, path: &Path) -> anyhow::Result<()> {
    let mut columns = columns(recording)?;
    let description = Description {
        kind: "recording".into(),
        version: VERSION,
        header: recording.header.clone(),
    };
    let mut header = Map::new();
    let description = serde_json::to_string(&description)?;
    header.insert("__metadata__".into(), json!({ "sparsight": description }));
    let mut first = 0;
    let mut ordered = Vec::with_capacity(COLUMNS.len());
    for &(name, dtype) in COLUMNS {
        let column = columns
            .remove(name)
            .expect("every column is filled, see the test");
        let end = first + column.len() * dtype.bitsize() / 8;
        let info = json!({
            "dtype": dtype,
            "shape": [column.len()],
            "data_offsets": [first, end],
        });
        header.insert(name.into(), info);
        first = end;
        ordered.push(column);
    }
    let mut header = serde_json::to_vec(&header)?;
    // As the library does, so that the data is aligned.
    header.resize(header.len().next_multiple_of(8), b' ');
    write_whole(path, |out| {
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        ordered.iter().try_for_each(|column| column.write(out))
    })
}

/// Writes under a temporary name beside `path`, then renames, so that a full disk or a kill leaves the old
/// file or none, never half of one. A link is followed.
fn write_whole(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>,
) -> anyhow::Result<()> {
    static N_SAVED: AtomicU64 = AtomicU64::new(0);
    let path = &std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if std::fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        anyhow::bail!("is a device, pipe or folder, expected a file or nothing");
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    // Two saves at once must not share a part.
    let number = N_SAVED.fetch_add(1, Ordering::Relaxed);
    name.push(format!(".{}.{number}.part", std::process::id()));
    let part = path.with_file_name(name);
    let written = File::create(&part).and_then(|file| {
        let mut out = BufWriter::with_capacity(1 << 20, file);
        write(&mut out)?;
        let file = out.into_inner().map_err(|error| error.into_error())?;
        file.sync_all()?;
        std::fs::rename(&part, path)
    });
    written.inspect_err(|_| {
        // The part may not exist; the first error is the one that matters.
        let _ = std::fs::remove_file(&part);
    })?;
    Ok(())
}

/// All columns by name.
fn columns(recording: &Recording) -> anyhow::Result<HashMap<&'static str, Column<'_>>> {
    let mut columns = HashMap::new();
    put_tokens(recording, &mut columns);
    let rows: Vec<(u32, &Row)> = recording
        .rows
        .iter()
        .enumerate()
        .filter_map(|(position, row)| Some((position as u32, row.as_deref()?)))
        .collect();
    put_rows(
        &rows,
        recording.header.n_layers * SECTIONS.len(),
        &mut columns,
    );
    put_heads(&rows, &mut columns);
    let logits = rows
        .iter()
        .filter_map(|(position, row)| Some((*position, row.logits.as_deref()?)));
    let logits: Vec<(u32, &[f32])> = logits.collect();
    let lengths = logits.iter().map(|(_, logits)| logits.len() as u32);
    columns.insert("logits.n", Column::Words(lengths.collect()));
    let (positions, logits) = logits.into_iter().unzip();
    columns.insert("logits.position", Column::Words(positions));
    columns.insert("logits.values", Column::FloatPieces(logits));
    let timings = rows.iter().filter_map(|(position, row)| {
        let timing = row.timing.as_deref()?;
        Some(Timing {
            position: *position as usize,
            total_ms: Some(timing.total_ms),
            n_tokens: timing.n_tokens,
            ops: timing.ops.clone(),
        })
    });
    let timings: Vec<Timing> = timings.collect();
    columns.insert("timings", Column::Bytes(serde_json::to_vec(&timings)?));
    Ok(columns)
}

fn put_tokens<'a>(recording: &'a Recording, columns: &mut HashMap<&'static str, Column<'a>>) {
    let tokens = || recording.tokens.iter().map(|token| token.as_deref());
    let flags = tokens().map(|token| {
        let Some(token) = token else { return 0 };
        let bit = |is_set: bool, bit: u8| if is_set { bit } else { 0 };
        token_flags::KNOWN
            | bit(token.origin == Origin::Generated, token_flags::GENERATED)
            | bit(token.logprob.is_some(), token_flags::LOGPROB)
            | bit(token.entropy.is_some(), token_flags::ENTROPY)
    });
    columns.insert("tokens.flags", Column::Bytes(flags.collect()));
    let ids = tokens().map(|token| token.map_or(0, |token| token.id));
    columns.insert("tokens.id", Column::Words(ids.collect()));
    let logprobs = tokens().map(|token| token.and_then(|token| token.logprob).unwrap_or(0.0));
    columns.insert("tokens.logprob", Column::Floats(logprobs.collect()));
    let entropies = tokens().map(|token| token.and_then(|token| token.entropy).unwrap_or(0.0));
    columns.insert("tokens.entropy", Column::Floats(entropies.collect()));
    let lengths = tokens().map(|token| token.map_or(0, |token| token.text.len() as u32));
    columns.insert("tokens.text_bytes", Column::Words(lengths.collect()));
    let counts = tokens().map(|token| token.map_or(0, |token| token.candidates.len() as u32));
    columns.insert("tokens.n_candidates", Column::Words(counts.collect()));

    let candidates = || tokens().flatten().flat_map(|token| &token.candidates);
    let ids = candidates().map(|candidate| candidate.id);
    columns.insert("candidates.id", Column::Words(ids.collect()));
    let probabilities = candidates().map(|candidate| candidate.probability);
    columns.insert(
        "candidates.probability",
        Column::Floats(probabilities.collect()),
    );
    let draws = candidates().map(|candidate| candidate.draw_probability.unwrap_or(0.0));
    columns.insert("candidates.draw", Column::Floats(draws.collect()));
    let has_draw = candidates().map(|candidate| u8::from(candidate.draw_probability.is_some()));
    columns.insert("candidates.has_draw", Column::Bytes(has_draw.collect()));
    let lengths = candidates().map(|candidate| candidate.text.len() as u32);
    columns.insert("candidates.text_bytes", Column::Words(lengths.collect()));
    let mut texts = Vec::new();
    for token in tokens().flatten() {
        texts.push(token.text.as_bytes());
        texts.extend(
            token
                .candidates
                .iter()
                .map(|candidate| candidate.text.as_bytes()),
        );
    }
    columns.insert("texts", Column::BytePieces(texts));
}

fn put_rows<'a>(
    rows: &[(u32, &'a Row)],
    n_sections: usize,
    columns: &mut HashMap<&'static str, Column<'a>>,
) {
    let positions = rows.iter().map(|(position, _)| *position);
    columns.insert("rows.position", Column::Words(positions.collect()));
    let flags = rows.iter().map(|(_, row)| {
        let bit = |is_set: bool, bit: u8| if is_set { bit } else { 0 };
        bit(row.is_recorded, row_flags::RECORDED)
            | bit(row.expected.is_some(), row_flags::EXPECTED)
            | bit(row.dropped.layers, row_flags::LAYERS_DROPPED)
            | bit(row.dropped.logits, row_flags::LOGITS_DROPPED)
            | bit(row.dropped.ops, row_flags::OPS_DROPPED)
    });
    columns.insert("rows.flags", Column::Bytes(flags.collect()));
    let mut ends = Vec::with_capacity(rows.len() * n_sections);
    for (_, row) in rows {
        match row.layers.ends() {
            // Rows without layers have no ends at all in memory.
            [] => ends.resize(ends.len() + n_sections, 0),
            of_row => ends.extend_from_slice(of_row),
        }
    }
    columns.insert("rows.ends", Column::Words(ends));
    let bytes = rows.iter().map(|(_, row)| row.layers.bytes());
    columns.insert("rows.bytes", Column::BytePieces(bytes.collect()));

    let expected = || rows.iter().filter_map(|(_, row)| row.expected.as_ref());
    let log_sums = expected().map(|expected| expected.log_sum);
    columns.insert("expected.log_sum", Column::Doubles(log_sums.collect()));
    let entropies = expected().map(|expected| expected.entropy);
    columns.insert("expected.entropy", Column::Floats(entropies.collect()));
    let counts = expected().map(|expected| expected.best.len() as u32);
    columns.insert("expected.n_best", Column::Words(counts.collect()));
    let ids = expected().flat_map(|expected| expected.best.iter().map(|(id, _)| *id));
    columns.insert("expected.id", Column::Words(ids.collect()));
    let probabilities = expected().flat_map(|expected| expected.best.iter().map(|(_, p)| *p));
    columns.insert(
        "expected.probability",
        Column::Floats(probabilities.collect()),
    );
}

fn put_heads<'a>(rows: &[(u32, &'a Row)], columns: &mut HashMap<&'static str, Column<'a>>) {
    let heads = || {
        rows.iter()
            .flat_map(|&(position, row)| row.heads.iter().map(move |heads| (position, heads)))
    };
    let positions = heads().map(|(position, _)| position);
    columns.insert("heads.position", Column::Words(positions.collect()));
    let layers = heads().map(|(_, heads)| heads.layer);
    columns.insert("heads.layer", Column::Words(layers.collect()));
    let counts = heads().map(|(_, heads)| heads.positions.len() as u32);
    columns.insert("heads.n_positions", Column::Words(counts.collect()));
    let counts = heads().map(|(_, heads)| heads.weights.len() as u32);
    columns.insert("heads.n_weights", Column::Words(counts.collect()));
    let selected = heads().map(|(_, heads)| &*heads.positions);
    columns.insert("heads.positions", Column::WordPieces(selected.collect()));
    let weights = heads().map(|(_, heads)| &*heads.weights);
    columns.insert("heads.weights", Column::FloatPieces(weights.collect()));
    let dropped = || {
        let layers = |row: &'a Row| row.dropped.heads.iter().copied();
        rows.iter()
            .flat_map(move |&(position, row)| layers(row).map(move |layer| (position, layer)))
    };
    let positions = dropped().map(|(position, _)| position);
    columns.insert("dropped_heads.position", Column::Words(positions.collect()));
    let layers = dropped().map(|(_, layer)| layer);
    columns.insert("dropped_heads.layer", Column::Words(layers.collect()));
}
