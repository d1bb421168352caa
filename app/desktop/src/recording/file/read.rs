//! From the columns of a file to a recording. Nothing is believed: counts must add up to the lengths of
//! the columns that they count, and every record must decode.

use anyhow::{Context as _, bail, ensure};
use safetensors::Dtype;

use super::super::experts;
use super::super::logits::Expected;
use super::super::packed::Packed;
use super::super::row::{Heads, Row, SECTIONS, Section};
use super::super::selection;
use super::super::{
    Candidate, Header, MAX_POSITIONS, N_CANDIDATES, Origin, Recording, StepTiming, TokenInfo,
};
use super::columns::Columns;
use super::{Description, Timing, row_flags, token_flags};

/// No model has more layers, experts or heads; without a bound a damaged file would fill the memory.
const MAX_LAYERS: usize = 1000;
const MAX_EXPERTS: usize = 1 << 16;

pub(super) fn recording(columns: &mut Columns) -> anyhow::Result<Recording> {
    let Description { header, .. } =
        serde_json::from_str(columns.description()).context("has a damaged \"sparsight\" entry")?;
    check_header(&header)?;
    let mut recording = Recording::new(header);
    let tokens = tokens(columns)?;
    for (position, token) in tokens.into_iter().enumerate() {
        recording.change_token(position, |slot| *slot = token);
    }
    let n_tokens = recording.n_tokens();
    let rows = rows(columns, &recording.header, n_tokens)?;
    check_records(&rows, &recording.header)?;
    for (position, row) in rows {
        recording.change_row(position, |slot| {
            let arrived = slot.arrived;
            *slot = Row { arrived, ..row };
        });
    }
    Ok(recording)
}

pub(super) fn check_header(header: &Header) -> anyhow::Result<()> {
    let bounds = [
        ("layers", header.n_layers, MAX_LAYERS),
        ("experts", header.n_routed_experts, MAX_EXPERTS),
        ("experts a token", header.num_experts_per_tok, MAX_EXPERTS),
        ("heads", header.n_heads, MAX_EXPERTS),
    ];
    for (what, found, max) in bounds {
        ensure!(
            found <= max,
            "claims {found} {what}, expected at most {max}"
        );
    }
    for layer in header.sparse_layers.iter().chain(&header.moe_layers) {
        let n_layers = header.n_layers;
        ensure!(*layer < n_layers, "names layer {layer} of {n_layers}");
    }
    Ok(())
}

/// Whether two columns that describe the same things are of one length.
fn same_length(what: &str, found: usize, expected: usize) -> anyhow::Result<()> {
    ensure!(
        found == expected,
        "column {what:?} holds {found} entries, expected {expected}"
    );
    Ok(())
}

/// Whether counts add up to the length of what they count.
fn adds_up(what: &str, counts: &[u32], n: usize) -> anyhow::Result<()> {
    let sum: u64 = counts.iter().copied().map(u64::from).sum();
    ensure!(
        sum == n as u64,
        "column {what:?} holds {n} entries, expected {sum} by their counts"
    );
    Ok(())
}

fn tokens(columns: &mut Columns) -> anyhow::Result<Vec<Option<TokenInfo>>> {
    let flags = columns.bytes("tokens.flags")?;
    let n = flags.len();
    ensure!(
        n <= MAX_POSITIONS,
        "holds {n} tokens, expected at most {MAX_POSITIONS}"
    );
    let ids = columns.words("tokens.id")?;
    let logprobs = columns.floats("tokens.logprob")?;
    let entropies = columns.floats("tokens.entropy")?;
    let text_bytes = columns.words("tokens.text_bytes")?;
    let n_candidates = columns.words("tokens.n_candidates")?;
    same_length("tokens.id", ids.len(), n)?;
    same_length("tokens.logprob", logprobs.len(), n)?;
    same_length("tokens.entropy", entropies.len(), n)?;
    same_length("tokens.text_bytes", text_bytes.len(), n)?;
    same_length("tokens.n_candidates", n_candidates.len(), n)?;

    let candidate_ids = columns.words("candidates.id")?;
    let m = candidate_ids.len();
    adds_up("candidates.id", &n_candidates, m)?;
    let probabilities = columns.floats("candidates.probability")?;
    let draws = columns.floats("candidates.draw")?;
    let has_draw = columns.bytes("candidates.has_draw")?;
    let candidate_text_bytes = columns.words("candidates.text_bytes")?;
    same_length("candidates.probability", probabilities.len(), m)?;
    same_length("candidates.draw", draws.len(), m)?;
    same_length("candidates.has_draw", has_draw.len(), m)?;
    same_length("candidates.text_bytes", candidate_text_bytes.len(), m)?;

    let texts = columns.bytes("texts")?;
    let mut rest = &texts[..];
    let mut next_text = |n_bytes: u32| -> anyhow::Result<String> {
        let text = rest.split_at_checked(n_bytes as usize);
        let (text, after) = text.context("texts are longer than their column")?;
        rest = after;
        Ok(std::str::from_utf8(text)
            .context("a text is not UTF-8")?
            .to_owned())
    };
    let mut tokens = Vec::with_capacity(n);
    let mut at = 0;
    for position in 0..n {
        let has = |flag: u8| flags[position] & flag != 0;
        if !has(token_flags::KNOWN) {
            ensure!(
                text_bytes[position] == 0 && n_candidates[position] == 0,
                "position {position} has no token but a text or candidates"
            );
            tokens.push(None);
            continue;
        }
        let text = next_text(text_bytes[position])?;
        let end = at + n_candidates[position] as usize;
        // As many as their column holds, so no count can claim more.
        let mut candidates = Vec::with_capacity(end - at);
        for at in at..end {
            candidates.push(Candidate {
                id: candidate_ids[at],
                text: next_text(candidate_text_bytes[at])?,
                probability: probabilities[at],
                draw_probability: (has_draw[at] != 0).then_some(draws[at]),
            });
        }
        at = end;
        tokens.push(Some(TokenInfo {
            id: ids[position],
            text,
            origin: if has(token_flags::GENERATED) {
                Origin::Generated
            } else {
                Origin::Prompt
            },
            logprob: has(token_flags::LOGPROB).then_some(logprobs[position]),
            entropy: has(token_flags::ENTROPY).then_some(entropies[position]),
            candidates,
        }));
    }
    ensure!(rest.is_empty(), "texts are shorter than their column");
    Ok(tokens)
}

/// Rows by position, ascending.
fn rows(
    columns: &mut Columns,
    header: &Header,
    n_tokens: usize,
) -> anyhow::Result<Vec<(usize, Row)>> {
    let positions = columns.words("rows.position")?;
    let n = positions.len();
    let flags = columns.bytes("rows.flags")?;
    same_length("rows.flags", flags.len(), n)?;
    let in_order = positions.is_sorted_by(|a, b| a < b);
    let last = positions.last().copied().unwrap_or(0) as usize;
    ensure!(
        in_order && (n == 0 || last < n_tokens),
        "rows are not in the order of their positions below {n_tokens}"
    );
    let mut rows: Vec<(usize, Row)> = Vec::with_capacity(n);
    for (&position, flags) in positions.iter().zip(flags) {
        let has = |flag: u8| flags & flag != 0;
        let mut row = Row {
            is_recorded: has(row_flags::RECORDED),
            ..Row::default()
        };
        row.dropped.layers = has(row_flags::LAYERS_DROPPED);
        row.dropped.logits = has(row_flags::LOGITS_DROPPED);
        row.dropped.ops = has(row_flags::OPS_DROPPED);
        if has(row_flags::EXPECTED) {
            // Filled below.
            row.expected = Some(Expected {
                log_sum: f64::NAN,
                entropy: f32::NAN,
                best: Box::default(),
            });
        }
        rows.push((position as usize, row));
    }
    put_expected(columns, &mut rows)?;
    put_layers(columns, &mut rows, header.n_layers * SECTIONS.len())?;
    put_heads(columns, &mut rows, header.n_layers)?;
    put_logits(columns, &mut rows)?;
    let timings: Vec<Timing> =
        serde_json::from_slice(&columns.bytes("timings")?).context("has damaged timings")?;
    for timing in timings {
        let row = find(&mut rows, timing.position)?;
        row.timing = Some(Box::new(StepTiming {
            total_ms: timing.total_ms.unwrap_or(f32::NAN),
            ops: timing.ops,
            n_tokens: timing.n_tokens,
        }));
    }
    Ok(rows)
}

fn find(rows: &mut [(usize, Row)], position: usize) -> anyhow::Result<&mut Row> {
    match rows.binary_search_by_key(&position, |(position, _)| *position) {
        Ok(at) => Ok(&mut rows[at].1),
        Err(_) => bail!("names a row at position {position} that it does not hold"),
    }
}

fn put_expected(columns: &mut Columns, rows: &mut [(usize, Row)]) -> anyhow::Result<()> {
    let log_sums = columns.doubles("expected.log_sum")?;
    let entropies = columns.floats("expected.entropy")?;
    let counts = columns.words("expected.n_best")?;
    let ids = columns.words("expected.id")?;
    let probabilities = columns.floats("expected.probability")?;
    let n = rows
        .iter()
        .filter(|(_, row)| row.expected.is_some())
        .count();
    same_length("expected.log_sum", log_sums.len(), n)?;
    same_length("expected.entropy", entropies.len(), n)?;
    same_length("expected.n_best", counts.len(), n)?;
    same_length("expected.probability", probabilities.len(), ids.len())?;
    adds_up("expected.id", &counts, ids.len())?;
    let mut first = 0;
    let expected = rows.iter_mut().filter_map(|(_, row)| row.expected.as_mut());
    for (at, expected) in expected.enumerate() {
        let n_best = counts[at] as usize;
        ensure!(
            n_best <= N_CANDIDATES,
            "holds {n_best} candidates of a row, expected at most {N_CANDIDATES}"
        );
        let range = first..first + n_best;
        first = range.end;
        *expected = Expected {
            log_sum: log_sums[at],
            entropy: entropies[at],
            best: range.map(|at| (ids[at], probabilities[at])).collect(),
        };
    }
    Ok(())
}

fn put_layers(
    columns: &mut Columns,
    rows: &mut [(usize, Row)],
    n_sections: usize,
) -> anyhow::Result<()> {
    let ends = columns.words("rows.ends")?;
    same_length(
        "rows.ends",
        ends.len(),
        rows.len().saturating_mul(n_sections),
    )?;
    let mut left = columns.find("rows.bytes", Dtype::U8)?;
    for (at, (position, row)) in rows.iter_mut().enumerate() {
        let ends = &ends[at * n_sections..(at + 1) * n_sections];
        let n_bytes = ends.last().copied().unwrap_or(0) as usize;
        ensure!(
            ends.is_sorted() && n_bytes <= left,
            "sections of position {position} do not fit their column"
        );
        left -= n_bytes;
        if n_bytes > 0 {
            let bytes = columns.next(n_bytes)?;
            row.layers = Packed::from_parts(ends.to_vec(), bytes)
                .with_context(|| format!("sections of position {position} are out of order"))?;
        }
    }
    ensure!(
        left == 0,
        "column \"rows.bytes\" holds {left} bytes too many"
    );
    Ok(())
}

fn put_heads(
    columns: &mut Columns,
    rows: &mut [(usize, Row)],
    n_layers: usize,
) -> anyhow::Result<()> {
    let positions = columns.words("heads.position")?;
    let layers = columns.words("heads.layer")?;
    let n_positions = columns.words("heads.n_positions")?;
    let n_weights = columns.words("heads.n_weights")?;
    let n = positions.len();
    same_length("heads.layer", layers.len(), n)?;
    same_length("heads.n_positions", n_positions.len(), n)?;
    same_length("heads.n_weights", n_weights.len(), n)?;
    let selected_bytes = columns.find("heads.positions", Dtype::U32)?;
    adds_up("heads.positions", &n_positions, selected_bytes / 4)?;
    for at in 0..n {
        let (position, layer) = (positions[at] as usize, layers[at]);
        let selected = columns.next_words(n_positions[at] as usize)?;
        let ascending = selected.is_sorted_by(|a, b| a < b);
        let in_range = selected
            .last()
            .is_none_or(|&last| last as usize <= position);
        let fits = match n_positions[at] {
            0 => n_weights[at] == 0,
            n => n_weights[at].is_multiple_of(n),
        };
        ensure!(
            ascending && in_range && fits && (layer as usize) < n_layers,
            "heads of position {position} in layer {layer} do not hold together"
        );
        let heads = &mut find(rows, position)?.heads;
        ensure!(
            heads.last().is_none_or(|last| last.layer < layer),
            "heads of position {position} are out of order"
        );
        heads.push(Heads {
            layer,
            positions: selected.into(),
            weights: Box::default(),
        });
    }
    let weight_bytes = columns.find("heads.weights", Dtype::F32)?;
    adds_up("heads.weights", &n_weights, weight_bytes / 4)?;
    for at in 0..n {
        let weights = columns.next_floats(n_weights[at] as usize)?;
        let heads = &mut find(rows, positions[at] as usize)?.heads;
        let found = heads.iter_mut().find(|heads| heads.layer == layers[at]);
        found.context("heads went missing")?.weights = weights.into();
    }
    let positions = columns.words("dropped_heads.position")?;
    let layers = columns.words("dropped_heads.layer")?;
    same_length("dropped_heads.layer", layers.len(), positions.len())?;
    for (&position, &layer) in positions.iter().zip(&layers) {
        find(rows, position as usize)?.dropped.heads.push(layer);
    }
    Ok(())
}

fn put_logits(columns: &mut Columns, rows: &mut [(usize, Row)]) -> anyhow::Result<()> {
    let positions = columns.words("logits.position")?;
    let counts = columns.words("logits.n")?;
    same_length("logits.n", counts.len(), positions.len())?;
    let n_bytes = columns.find("logits.values", Dtype::F32)?;
    adds_up("logits.values", &counts, n_bytes / 4)?;
    for (&position, &n) in positions.iter().zip(&counts) {
        let logits = columns.next_floats(n as usize)?;
        find(rows, position as usize)?.logits = Some(logits.into());
    }
    Ok(())
}

/// Decodes every record once, on all cores: a large recording has hundreds of thousands.
fn check_records(rows: &[(usize, Row)], header: &Header) -> anyhow::Result<()> {
    let n_threads = std::thread::available_parallelism().map_or(1, usize::from);
    let n_each = rows.len().div_ceil(n_threads).max(1);
    let bad = std::thread::scope(|scope| {
        let parts: Vec<_> = rows
            .chunks(n_each)
            .map(|rows| {
                scope.spawn(|| {
                    rows.iter()
                        .find_map(|(position, row)| bad(*position, row, header))
                })
            })
            .collect();
        let found = parts
            .into_iter()
            .filter_map(|part| part.join().expect("decoding does not panic"));
        found.min()
    });
    match bad {
        None => Ok(()),
        Some((position, layer)) => {
            bail!("the record of position {position} in layer {layer} is damaged")
        }
    }
}

/// The first layer of a row whose record does not decode.
fn bad(position: usize, row: &Row, header: &Header) -> Option<(usize, usize)> {
    let is_bad = |layer: usize| {
        SECTIONS.iter().any(|&section| {
            let Some(record) = row.layers.get(layer * SECTIONS.len() + section as usize) else {
                return false;
            };
            !match section {
                Section::Selection => selection::decode(record, position as u32 + 1).is_some(),
                Section::Experts => experts::decode(record, header.n_routed_experts).is_some(),
                Section::GateScores => record.len() == 2 + 2 * header.n_routed_experts,
                Section::ResidualNorm => record.len() == 4,
            }
        })
    };
    (0..header.n_layers)
        .find(|&layer| is_bad(layer))
        .map(|layer| (position, layer))
}
