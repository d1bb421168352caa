//! How much a recording takes, at the sizes that matter.

use std::time::Instant;

use engine::trace::{Frame, Stage, Value};

use super::super::testing::{Random, Sketch, ints, put};
use super::super::{Limits, OpTiming, Recording, StepTiming};

/// What a message of 4,096 tokens may take.
const LIMIT_BYTES: f64 = (1u64 << 30) as f64;

/// DeepSeek-V3.2.
fn large() -> Sketch {
    let mut sketch = Sketch::new(61, 2048, 256);
    sketch.header.moe_layers = (3..61).collect();
    sketch.header.num_experts_per_tok = 8;
    sketch.header.n_heads = 1;
    sketch.vocab_size = 1000;
    sketch
}

/// Bytes a token of `recording`, without what is there once.
fn bytes_per_token(recording: &Recording, n: usize) -> f64 {
    let once = recording.rows.capacity() * 16 + recording.vocab_bytes();
    (recording.bytes() - once) as f64 / n as f64
}

impl Recording {
    fn vocab_bytes(&self) -> usize {
        self.pending
            .as_ref()
            .map_or(0, |pending| 4 * pending.logits.len())
    }
}

#[test]
fn a_long_message_of_a_large_model_fits_into_a_gibibyte() {
    let sketch = large();
    let n = 64;
    let mut random = Random::new(1);
    let mut recording = sketch.recording();
    let mut push_ms = 0.0;
    for token in 0..n {
        let frame = sketch.frame(&mut random, 131_000 + token, &[token as u32]);
        let start = Instant::now();
        assert!(recording.push_frame(&frame).is_empty());
        push_ms += start.elapsed().as_secs_f64() * 1000.0 / n as f64;
    }
    println!("{push_ms:.1} ms to add a token");
    let each = bytes_per_token(&recording, n);
    println!(
        "{each:.0} bytes a token, {:.0} MiB for 4096",
        each * 4096.0 / (1 << 20) as f64
    );
    assert!(each * 4096.0 < LIMIT_BYTES);
    let (n_bytes, _) = counted(&recording);
    let share = recording.bytes() as f64 / n_bytes as f64;
    assert!((1.0..1.01).contains(&share), "{share}");
    // Nothing was dropped on the way.
    assert_eq!(recording.n_selected(131_000, 60), Some(2048));
    // What one look at a token costs.
    let start = Instant::now();
    let mut n_decoded = 0;
    for position in 131_000..131_000 + n {
        for layer in 0..61 {
            n_decoded += recording
                .selection(position, layer)
                .unwrap()
                .positions
                .len();
        }
    }
    let each_ms = start.elapsed().as_secs_f64() * 1000.0 / (61 * n) as f64;
    println!("{each_ms:.4} ms a selection");
    assert_eq!(n_decoded, 2048 * 61 * n);
    let start = Instant::now();
    let counts = recording.n_layers_selecting(131_000);
    println!("{:?} for the layers of a query", start.elapsed());
    assert_eq!(
        counts.iter().map(|&n| usize::from(n)).sum::<usize>(),
        61 * 2048
    );
}

#[test]
fn no_selection_is_so_awkward_that_it_does_not_fit() {
    let sketch = large();
    let mut random = Random::new(2);
    let position = 131_071;
    let good = sketch.frame(&mut random, position, &[1]);
    let n = 2048;
    // Gaps that no one parameter fits: half of them 0 and half as large as can be, in any order; and
    // those that the mean gap's parameter codes worst.
    let alternating: Vec<i32> = (0..n).map(|at| at / 2 * 128 + at % 2).collect();
    let clustered: Vec<i32> = (0..n / 2)
        .chain((1..=n / 2).map(|at| n / 2 - 1 + at * 127))
        .collect();
    let even: Vec<i32> = (0..n).map(|at| at * 64).collect();
    for chosen in [alternating, clustered, even] {
        assert!(chosen.is_sorted_by(|a, b| a < b) && *chosen.last().unwrap() <= position as i32);
        let mut frame = good.clone();
        for layer in 0..61 {
            put(
                &mut frame,
                layer,
                Stage::SelectedPositions,
                ints(&[1, 2048], chosen.clone()),
            );
        }
        let mut recording = sketch.recording();
        assert!(recording.push_frame(&frame).is_empty());
        let each = bytes_per_token(&recording, 1);
        println!("{each:.0} bytes a token");
        assert!(each * 4096.0 < LIMIT_BYTES);
        let back = recording.selected_positions(position, 60).unwrap();
        assert!(back.iter().map(|&position| position as i32).eq(chosen));
    }
    // Dense, the positions cost next to nothing.
    let mut dense = sketch.clone();
    dense.header.index_topk = None;
    dense.header.n_layers = 4;
    dense.header.moe_layers.clear();
    let mut recording = dense.recording();
    recording.push_frame(&dense.frame(&mut random, position, &[1]));
    assert_eq!(recording.n_selected(position, 3), Some(131_072));
    let per_layer = recording.row(position).unwrap().layers.bytes().len() / 4;
    println!("{per_layer} bytes a dense layer");
    assert!(per_layer < 8 * recording.n_kept() + 100, "{per_layer}");
}

#[test]
fn a_small_model_takes_little() {
    // As large as a selection gets without leaving anything out.
    let mut sketch = Sketch::new(4, 64, 16);
    sketch.header.context = 2048;
    let mut random = Random::new(3);
    let mut recording = sketch.recording();
    let ids: Vec<u32> = (0..256).map(|at| at % 50).collect();
    recording.push_frame(&sketch.frame(&mut random, 1024, &ids));
    let each = bytes_per_token(&recording, 256);
    println!("{each:.0} bytes a token of a small model");
    // Of a layer: 64 scores and weights of 4 bytes, at most a byte a position, 28 of totals, 16 halves, 3
    // experts of 6 bytes, a norm, 4 ends. Of a token: 21 candidates of some 80 bytes with their text,
    // once more without, and the row itself.
    let bound = 4 * (64 * 9 + 40 + 36 + 20 + 4 + 16) + 21 * (48 + 32) + 20 * 8 + 600;
    assert!(each < bound as f64, "{each} of {bound}");
}

/// All heap of a recording, counted from its parts: bytes, and blocks that hold them.
fn counted(recording: &Recording) -> (usize, usize) {
    let mut blocks = vec![
        8 * recording.rows.capacity(),
        8 * recording.tokens.capacity(),
        recording.vocab_bytes(),
    ];
    for position in 0..recording.n_tokens() {
        if let Some(token) = recording.token(position) {
            blocks.extend([size_of_val(token) + 16, token.text.len()]);
            blocks.push(size_of_val(&token.candidates[..]));
            blocks.extend(
                token
                    .candidates
                    .iter()
                    .map(|candidate| candidate.text.len()),
            );
        }
        let Some(row) = recording.row(position) else {
            continue;
        };
        blocks.extend([size_of_val(row) + 16, row.layers.bytes().len()]);
        blocks.push(4 * row.layers.ends().len());
        blocks.extend(row.expected.iter().map(|expected| 8 * expected.best.len()));
        blocks.extend(row.logits.iter().map(|logits| 4 * logits.len()));
        blocks.push(size_of_val(&row.heads[..]));
        for heads in &row.heads {
            blocks.extend([4 * heads.positions.len(), 4 * heads.weights.len()]);
        }
        if let Some(timing) = &row.timing {
            blocks.extend([size_of_val(&**timing), size_of_val(&timing.ops[..])]);
            blocks.extend(timing.ops.iter().map(|op| op.op.len()));
        }
    }
    let n_blocks = blocks.iter().filter(|&&n_bytes| n_bytes > 0).count();
    (blocks.iter().sum(), n_blocks)
}

fn timing(n_ops: usize) -> StepTiming {
    let op = OpTiming {
        op: "index_scores of something".into(),
        ..OpTiming::default()
    };
    StepTiming {
        ops: vec![op; n_ops],
        ..StepTiming::default()
    }
}

#[test]
fn bytes_are_what_the_parts_add_up_to() {
    let mut sketch = Sketch::new(8, 32, 16);
    sketch.has_heads = true;
    let mut random = Random::new(4);
    let mut recording = sketch.recording();
    recording.set_limits(Limits {
        logits_bytes: 1 << 20,
        ..Limits::default()
    });
    assert_eq!(recording.bytes(), 0);
    let ids: Vec<u32> = (0..200).map(|at| at % 50).collect();
    let check = |recording: &Recording, what: &str| {
        let found = recording.bytes();
        let (n_bytes, n_blocks) = counted(recording);
        println!("{what}: {found} for {n_bytes} in {n_blocks} blocks");
        // A block takes a word of bookkeeping and is rounded up, to 32 bytes at least.
        let overhead = 8 * n_blocks..28 * n_blocks;
        assert!(overhead.contains(&(found - n_bytes)), "{what}");
    };
    recording.push_frame(&sketch.frame(&mut random, 0, &ids));
    check(&recording, "one frame");
    // The same rows again, a few of them others, times, draws, tokens set anew, a cut.
    recording.push_frame(&sketch.frame(&mut random, 100, &ids[100..150]));
    check(&recording, "repeated");
    recording.push_frame(&sketch.frame(&mut random, 180, &[49, 49, 49]));
    for position in 0..100 {
        recording.set_timing(position, timing(position % 9));
        recording.set_draw(position, &[(1, 0.5)]);
    }
    check(&recording, "changed");
    let tokens = recording.token(50).cloned().into_iter().collect();
    recording.set_tokens(50, tokens);
    check(&recording, "cut");
    recording.truncate(0);
    assert_eq!(recording.sizes, Recording::default().sizes);
}

#[test]
fn parts_over_their_limit_go_oldest_first_and_say_so() {
    let mut sketch = Sketch::new(3, 16, 4);
    sketch.has_heads = true;
    let mut random = Random::new(5);
    let mut recording = sketch.recording();
    let ids: Vec<u32> = (0..60).map(|at| at % 50).collect();
    recording.set_limits(Limits {
        heads_bytes: 20_000,
        logits_bytes: 4000,
        ops_bytes: 3000,
        ..Limits::default()
    });
    for (position, &id) in ids.iter().enumerate() {
        recording.push_frame(&sketch.frame(&mut random, position, &[id]));
        recording.set_timing(position, timing(5));
    }
    let has_heads = |recording: &Recording, position| recording.heads(position, 1).is_some();
    let n_kept = (0..60)
        .filter(|&position| has_heads(&recording, position))
        .count();
    assert!(n_kept > 10 && n_kept < 50, "{n_kept}");
    for position in 0..60 {
        assert_eq!(has_heads(&recording, position), position >= 60 - n_kept);
        assert_eq!(recording.heads_dropped(position, 1), position < 60 - n_kept);
        assert!(!recording.heads_dropped(position, 3));
        // One of the two, and never both.
        assert_ne!(
            recording.logits(position).is_some(),
            recording.logits_dropped(position)
        );
        let ops = &recording.step_timing(position).unwrap().ops;
        assert_ne!(!ops.is_empty(), recording.ops_dropped(position));
        assert!(recording.selection(position, 2).is_some());
    }
    assert!(recording.logits_dropped(0) && recording.logits(59).is_some());
    assert!(recording.ops_dropped(0) && !recording.ops_dropped(59));
    // An old row that is looked at again is the newest, and no longer says that it was dropped.
    recording.push_frame(&sketch.frame(&mut random, 0, &[0]));
    assert!(has_heads(&recording, 0) && !recording.heads_dropped(0, 1));
    recording.push_frame(&sketch.frame(&mut random, 60, &[0]));
    assert!(has_heads(&recording, 0));
    // Layers too, where even they are too much; the tokens stay.
    recording.set_limits(Limits {
        layers_bytes: 0,
        ..Limits::default()
    });
    assert!(recording.layers_dropped(5) && recording.is_recorded(5));
    assert_eq!(recording.selection(5, 0), None);
    assert!(recording.token(5).unwrap().entropy.is_some());
    assert_eq!(recording.logits(59), None);
    // A frame that is larger than its limit leaves nothing, and does no harm.
    recording.push_frame(&sketch.frame(&mut random, 61, &[1, 2, 3]));
    assert!(recording.layers_dropped(63));
}

#[test]
fn rows_without_layers_take_no_layers() {
    let sketch = large();
    let mut recording = sketch.recording();
    let frame = Frame {
        position: 0,
        ids: vec![1],
        values: [].into(),
        ..Frame::default()
    };
    recording.push_frame(&frame);
    assert!(recording.is_recorded(0) && recording.row(0).unwrap().layers.ends().is_empty());
    let mut frame = frame;
    put(
        &mut frame,
        0,
        Stage::Hidden,
        Value::F32 {
            shape: vec![1, 2],
            data: vec![0.0; 2],
        },
    );
    recording.push_frame(&frame);
    assert!(recording.bytes() < 2000);
}
