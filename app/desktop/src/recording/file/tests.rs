//! Files: what goes out comes back, and what is damaged does not come in.

use std::path::{Path, PathBuf};

use engine::trace_file;

use super::super::compare::{dense_recall, divergences};
use super::super::testing::{Random, Sketch, plain_selection, token};
use super::super::{Limits, OpTiming, Origin, Recording, StepTiming};
use super::COLUMNS;

fn full(has_heads: bool) -> Recording {
    let mut sketch = Sketch::new(3, 6, 5);
    sketch.header.model = "a \"model\" 深".into();
    sketch.header.context = 500;
    sketch.has_heads = has_heads;
    let mut random = Random::new(1);
    let mut recording = sketch.recording();
    recording.set_limits(Limits {
        logits_bytes: 2000,
        ops_bytes: 400,
        heads_bytes: 9000,
        ..Limits::default()
    });
    // A gap at the start, a row without layers, tokens without rows.
    let ids: Vec<u32> = (0..30).collect();
    recording.push_frame(&sketch.frame(&mut random, 3, &ids));
    let mut bare = sketch.frame(&mut random, 33, &[7]);
    bare.values.clear();
    recording.push_frame(&bare);
    let mut last = token(9);
    last.text = "\n\u{1F600}\0".into();
    last.logprob = Some(f32::NEG_INFINITY);
    last.entropy = Some(f32::NAN);
    recording.set_tokens(34, vec![token(8), last]);
    recording.set_draw(5, &[(1, 0.5)]);
    for position in 3..20 {
        let timing = StepTiming {
            total_ms: 0.1 * position as f32,
            ops: vec![
                OpTiming {
                    op: "attend".into(),
                    layer: Some(2),
                    ms: Some(0.3),
                    bytes: u64::MAX,
                    launches: 3,
                };
                position % 3
            ],
            n_tokens: 1,
        };
        recording.set_timing(position, timing);
    }
    assert!(recording.ops_dropped(4) && recording.logits_dropped(3));
    assert_eq!(recording.heads_dropped(3, 0), has_heads);
    recording
}

/// As it shows: NaN is equal to NaN.
#[track_caller]
fn assert_same(a: &Recording, b: &Recording) {
    assert_eq!(a.header(), b.header());
    assert_eq!(a.n_tokens(), b.n_tokens());
    for position in 0..a.n_tokens() {
        assert_eq!(
            format!("{:?}", a.token(position)),
            format!("{:?}", b.token(position))
        );
        let row = |recording: &Recording| {
            let mut row = recording.row(position).cloned();
            if let Some(row) = &mut row {
                row.arrived = 0;
            }
            format!("{row:?}")
        };
        assert_eq!(row(a), row(b), "{position}");
    }
}

fn saved(recording: &Recording) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chat.safetensors");
    recording.save(&path).unwrap();
    (folder, path)
}

#[test]
fn a_recording_comes_back_as_it_was() {
    for recording in [
        Recording::default(),
        Sketch::new(3, 4, 4).recording(),
        full(false),
        full(true),
    ] {
        let (folder, path) = saved(&recording);
        let back = Recording::open(&path).unwrap();
        assert_same(&recording, &back);
        let (a, b) = (recording.bytes() as f64, back.bytes() as f64);
        assert!((a - b).abs() <= 0.05 * a + 2000.0, "{a} {b}");
        // It goes on like the first: more frames, and a second file over the first.
        let mut back = back;
        back.truncate(2);
        back.save(&path).unwrap();
        assert_same(&Recording::open(&path).unwrap(), &back);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}

#[test]
fn nan_times_survive_json() {
    let mut recording = full(false);
    let mut timing = recording.step_timing(19).unwrap().clone();
    timing.total_ms = f32::NAN;
    recording.set_timing(19, timing);
    let (_folder, path) = saved(&recording);
    let back = Recording::open(&path).unwrap();
    assert!(back.step_timing(19).unwrap().total_ms.is_nan());
    assert_same(&recording, &back);
}

#[test]
fn the_library_reads_every_column() {
    let (_folder, path) = saved(&full(true));
    let bytes = std::fs::read(&path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut names = file.names();
    names.sort_unstable();
    let mut expected: Vec<&str> = COLUMNS.iter().map(|(name, _)| *name).collect();
    expected.sort_unstable();
    assert_eq!(names, expected);
    assert_eq!(file.tensor("tokens.id").unwrap().shape(), [36]);
}

#[test]
fn two_recordings_are_compared_after_reopening() {
    let sparse = Sketch::new(2, 4, 4);
    let mut dense = sparse.clone();
    dense.header.index_topk = None;
    let ids: Vec<u32> = (0..20).collect();
    let mut random = Random::new(3);
    let recordings = [sparse, dense].map(|sketch| {
        let mut recording = sketch.recording();
        recording.set_limits(Limits {
            logits_bytes: 1 << 20,
            ..Limits::default()
        });
        recording.push_frame(&sketch.frame(&mut random, 0, &ids));
        recording
    });
    let reopened = recordings.each_ref().map(|recording| {
        let (_folder, path) = saved(recording);
        Recording::open(&path).unwrap()
    });
    assert_eq!(
        divergences(&recordings[0], &recordings[1]),
        divergences(&reopened[0], &reopened[1])
    );
    for position in 0..20 {
        let recall = dense_recall(&reopened[0], &reopened[1], position, 1);
        assert!(recall.is_some());
        assert_eq!(
            recall,
            dense_recall(&recordings[0], &recordings[1], position, 1)
        );
    }
}

#[test]
fn a_trace_opens_as_a_recording() {
    let sketch = Sketch::new(3, 6, 5);
    let mut random = Random::new(1);
    let prompt: Vec<u32> = (10..30).collect();
    let frames = vec![
        sketch.frame(&mut random, 0, &prompt),
        sketch.frame(&mut random, 20, &[5]),
        sketch.frame(&mut random, 21, &[6]),
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("long run.safetensors");
    trace_file::save(&path, &frames).unwrap();
    let recording = Recording::open(&path).unwrap();
    let header = recording.header();
    assert_eq!(header.model, "long run");
    assert_eq!((header.n_layers, header.n_routed_experts), (3, 5));
    assert_eq!(
        (header.index_topk, header.num_experts_per_tok),
        (Some(6), 3)
    );
    assert_eq!(header.sparse_layers, [0, 1, 2]);
    assert_eq!(header.moe_layers, [1, 2]);
    assert_eq!(recording.n_tokens(), 22);
    let token = recording.token(20).unwrap();
    assert_eq!(
        (token.text.as_str(), token.origin),
        ("#5", Origin::Generated)
    );
    assert_eq!(recording.token(19).unwrap().origin, Origin::Prompt);
    assert!(token.logprob.is_some());
    for (frame, row, position) in [(0, 7, 7), (1, 0, 20), (2, 0, 21)] {
        for layer in 0..3 {
            let plain = plain_selection(&frames[frame], row, layer);
            assert_eq!(recording.selection(position, layer), plain);
        }
    }
    // Saved again, it is a recording.
    recording.save(&path).unwrap();
    assert_same(&Recording::open(&path).unwrap(), &recording);
    let empty = folder.path().join("empty.safetensors");
    trace_file::save(&empty, &[]).unwrap();
    assert_eq!(Recording::open(&empty).unwrap().n_tokens(), 0);
}

#[test]
fn a_malformed_trace_is_an_error() {
    let sketch = Sketch::new(2, 6, 5);
    let good = sketch.frame(&mut Random::new(1), 0, &[1, 2, 3]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace.safetensors");
    let mut far = good.clone();
    far.position = usize::MAX - 1;
    let mut wide = good.clone();
    wide.ids.push(4);
    let mut deep = good.clone();
    let (mut site, value) = deep.values.pop_first().unwrap();
    site.layer = Some(usize::MAX);
    deep.values.insert(site, value);
    for (frame, told) in [(far, "within"), (wide, "of 4 rows"), (deep, "layers")] {
        trace_file::save(&path, &[frame]).unwrap();
        let error = format!("{:#}", Recording::open(&path).unwrap_err());
        assert!(
            error.contains(told) && error.contains("trace.safetensors"),
            "{error}"
        );
    }
}

/// Opens damaged bytes; whatever comes out can be shown.
fn open_bytes(path: &Path, bytes: &[u8]) -> Option<String> {
    std::fs::write(path, bytes).unwrap();
    match Recording::open(path) {
        Err(error) => {
            let error = format!("{error:#}");
            assert!(error.contains("chat.safetensors"), "{error}");
            Some(error)
        }
        Ok(recording) => {
            for position in 0..recording.n_tokens() {
                for layer in 0..recording.header().n_layers {
                    let _ = recording.selection(position, layer);
                    let _ = recording.experts(position, layer);
                    let _ = recording.heads(position, layer);
                }
                let _ = (recording.attention_mass(position), recording.bytes());
            }
            None
        }
    }
}

#[test]
fn truncated_files_are_refused() {
    let (_folder, path) = saved(&full(true));
    let whole = std::fs::read(&path).unwrap();
    for length in (0..whole.len())
        .step_by(97)
        .chain([0, 1, 7, 8, 9, whole.len() - 1])
    {
        assert!(open_bytes(&path, &whole[..length]).is_some(), "{length}");
    }
    let mut longer = whole.clone();
    longer.push(0);
    assert!(open_bytes(&path, &longer).is_some());
    assert!(open_bytes(&path, &whole).is_none());
}

#[test]
fn damaged_bytes_never_panic() {
    let (_folder, path) = saved(&full(true));
    let whole = std::fs::read(&path).unwrap();
    let mut random = Random::new(6);
    let mut n_refused = 0;
    for _ in 0..3000 {
        let mut bytes = whole.clone();
        for _ in 0..1 + random.below(3) {
            let at = random.below(bytes.len());
            bytes[at] = [0, 1, 0x7f, 0xff, b'9'][random.below(5)];
        }
        n_refused += usize::from(open_bytes(&path, &bytes).is_some());
    }
    // Most of the bytes are floats, which may be anything.
    assert!(n_refused > 300, "{n_refused}");
}

/// The file with its header changed.
fn with_header(whole: &[u8], change: impl FnOnce(String) -> String) -> Vec<u8> {
    let length = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let header = String::from_utf8(whole[8..8 + length].to_vec()).unwrap();
    let changed = change(header.clone());
    assert_ne!(changed, header);
    let mut bytes = (changed.len() as u64).to_le_bytes().to_vec();
    bytes.extend(changed.into_bytes());
    bytes.extend(&whole[8 + length..]);
    bytes
}

#[test]
fn foreign_and_forged_headers_are_refused_by_name() {
    let (_folder, path) = saved(&full(false));
    let whole = std::fs::read(&path).unwrap();
    let replaced =
        |from: &str, to: &str| with_header(&whole, |header| header.replacen(from, to, 1));
    let cases = [
        (
            replaced(r#"version\":1"#, r#"version\":2"#),
            "a recording of version 2, expected",
        ),
        (
            replaced(r#"kind\":\"recording"#, r#"kind\":\"routes"#),
            "a routes of version 1",
        ),
        (replaced("sparsight", "sparkling"), "no metadata entry"),
        (replaced(r#"n_layers\":3"#, r#"n_layers\":4"#), "rows.ends"),
        (
            replaced(r#"n_layers\":3"#, r#"n_layers\":99999999999"#),
            "layers, expected at most",
        ),
        (replaced(r#"n_layers\":3"#, r#"n_layers\":-3"#), "damaged"),
        (
            replaced(r#"n_routed_experts\":5"#, r#"n_routed_experts\":2"#),
            "damaged",
        ),
        (
            replaced(
                r#"n_routed_experts\":5"#,
                r#"n_routed_experts\":9876543210"#,
            ),
            "at most",
        ),
        (
            replaced(r#"sparse_layers\":[0"#, r#"sparse_layers\":[8"#),
            "layer 8",
        ),
        (replaced("tokens.id", "tokens.ix"), "tokens.id"),
        (replaced("U32", "I32"), "type I32"),
        (replaced("[36]", "[37]"), "damaged header"),
        (replaced("[36]", "[4611686018427387904]"), "damaged header"),
        (
            replaced("[36]", "[36,36,36,36,36,36,36,36,36,36,36,36,36,36]"),
            "damaged header",
        ),
        (replaced("{", "["), "damaged header"),
        (vec![0xff; 64], "claims"),
        (b"\x02\0\0\0\0\0\0\0{}".to_vec(), "no metadata entry"),
    ];
    for (bytes, told) in cases {
        let error = open_bytes(&path, &bytes).unwrap_or_else(|| panic!("opened, not {told:?}"));
        assert!(error.contains(told), "{error}, not {told:?}");
    }
    // A column that lies on another, each of the right length.
    let forged = with_header(&whole, |header| {
        let mut header: serde_json::Value = serde_json::from_str(&header).unwrap();
        header["tokens.logprob"]["data_offsets"] = header["tokens.entropy"]["data_offsets"].clone();
        header.to_string()
    });
    let error = open_bytes(&path, &forged).unwrap();
    assert!(error.contains("damaged header"), "{error}");
}

#[test]
fn what_cannot_be_written_leaves_what_was_there() {
    let recording = full(false);
    let (folder, path) = saved(&recording);
    let old = std::fs::read(&path).unwrap();
    let error = format!("{:#}", recording.save(folder.path()).unwrap_err());
    assert!(error.contains("expected a file"), "{error}");
    let missing = folder.path().join("none/chat.safetensors");
    let error = format!("{:#}", recording.save(&missing).unwrap_err());
    assert!(error.contains("none/chat.safetensors"), "{error}");
    let error = format!("{:#}", Recording::open(&missing).unwrap_err());
    assert!(error.contains("none/chat.safetensors"), "{error}");
    assert!(Recording::open(folder.path()).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), old);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[cfg(unix)]
#[test]
fn links_are_followed_when_saving() {
    let (folder, path) = saved(&Recording::default());
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    full(false).save(&link).unwrap();
    assert!(link.is_symlink());
    assert_eq!(Recording::open(&path).unwrap().n_tokens(), 36);
}
