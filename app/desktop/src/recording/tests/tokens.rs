//! Tokens, what logits say of them, and times.

use engine::trace::{Frame, Stage};

use super::super::testing::{Random, Sketch, floats, put, token};
use super::super::{N_CANDIDATES, OpTiming, Origin, Recording, StepTiming, TokenInfo};

/// Logits of three tokens with probabilities 1/2, 1/4, 1/4, whichever is the best.
fn logits(best: usize) -> Vec<f32> {
    let mut logits = vec![0.0; 3];
    logits[best] = 2f32.ln();
    logits
}

fn frame(position: usize, ids: &[u32], best: &[usize]) -> Frame {
    let mut frame = Frame {
        position,
        ids: ids.to_vec(),
        ..Frame::default()
    };
    let data = best.iter().flat_map(|&best| logits(best)).collect();
    put(
        &mut frame,
        None,
        Stage::Logits,
        floats(&[ids.len(), 3], data),
    );
    frame
}

fn recording() -> Recording {
    let mut sketch = Sketch::new(1, 4, 4);
    sketch.vocab_size = 3;
    sketch.recording()
}

#[track_caller]
fn assert_probability(token: Option<&TokenInfo>, probability: f32) {
    let token = token.unwrap();
    // One rounding of the log, one of the exponential.
    assert!((token.logprob.unwrap().exp() - probability).abs() < 1e-6);
    // H(1/2, 1/4, 1/4) = 1.5 bits.
    assert!((token.entropy.unwrap() - 1.5 * 2f32.ln()).abs() < 1e-6);
    assert_eq!(token.candidates.len(), 3);
    let own = token
        .candidates
        .iter()
        .find(|candidate| candidate.id == token.id)
        .unwrap();
    assert!((own.probability - probability).abs() < 1e-6);
    assert_eq!(own.text, format!("<{}>", token.id));
}

#[test]
fn logits_describe_the_next_token_in_a_chunk_and_across() {
    let mut recording = recording();
    recording.push_frame(&frame(0, &[0, 1, 2], &[1, 0, 2]));
    assert_eq!(recording.token(0).unwrap().logprob, None);
    assert_probability(recording.token(1), 0.5);
    assert_probability(recording.token(2), 0.25);
    assert!(recording.token(3).is_none());
    assert_eq!(recording.candidates_after(2)[0].id, 2);
    assert!((recording.entropy_after(2).unwrap() - 1.5 * 2f32.ln()).abs() < 1e-6);
    recording.push_frame(&frame(3, &[2], &[0]));
    assert_probability(recording.token(3), 0.5);
    // The same rows again, with other logits: the later ones hold.
    recording.push_frame(&frame(2, &[2], &[1]));
    assert_probability(recording.token(3), 0.25);
    assert_eq!(recording.n_tokens(), 4);
}

#[test]
fn tokens_that_are_set_later_are_filled_in() {
    let mut recording = recording();
    recording.push_frame(&frame(0, &[0], &[1]));
    let mut given = token(1);
    given.text = "<1>".into();
    recording.set_tokens(1, vec![given.clone()]);
    assert_probability(recording.token(1), 0.5);
    assert_eq!(recording.token(1).unwrap().origin, Origin::Generated);
    // The other order gives the same, and leaves the origin as it was set.
    let mut other = self::recording();
    other.set_tokens(0, vec![token(0), given]);
    assert_eq!(other.token(1).unwrap().logprob, None);
    other.push_frame(&frame(0, &[0], &[1]));
    assert_eq!(other.token(1), recording.token(1));
    // What the caller knows stays.
    let mut known = token(2);
    known.logprob = Some(-9.0);
    recording.set_tokens(1, vec![known]);
    assert_eq!(recording.token(1).unwrap().logprob, Some(-9.0));
    assert_eq!(recording.token(1).unwrap().candidates.len(), 3);
}

#[test]
fn a_token_outside_the_candidates_is_known_as_long_as_its_logits_are() {
    let sketch = Sketch::new(1, 4, 4);
    let mut row = Frame {
        ids: vec![7],
        ..Frame::default()
    };
    let logits: Vec<f32> = (0..50).map(|id| -(id as f32)).collect();
    put(
        &mut row,
        None,
        Stage::Logits,
        floats(&[1, 50], logits.clone()),
    );
    let mut recording = sketch.recording();
    recording.push_frame(&row);
    // Only the row that came last keeps its logits.
    recording.set_tokens(1, vec![token(49)]);
    let found = recording.token(1).unwrap();
    assert_eq!(found.candidates.len(), N_CANDIDATES + 1);
    assert_eq!(found.candidates[N_CANDIDATES].id, 49);
    assert!((found.logprob.unwrap() + 49.0).abs() < 0.5);
    // Another token in its place is found there too.
    recording.set_tokens(1, vec![token(48)]);
    assert!((recording.token(1).unwrap().logprob.unwrap() + 48.0).abs() < 0.5);
    let mut next = row.clone();
    next.position = 1;
    next.ids = vec![48];
    recording.push_frame(&next);
    recording.set_tokens(1, vec![token(47)]);
    let found = recording.token(1).unwrap();
    assert_eq!(found.logprob, None);
    assert!(found.candidates[N_CANDIDATES].probability.is_nan());
    // A candidate is known in any case.
    recording.set_tokens(1, vec![token(3)]);
    assert!((recording.token(1).unwrap().logprob.unwrap() + 3.0).abs() < 0.5);
}

#[test]
fn nan_logits_show_as_nan() {
    let mut recording = recording();
    let mut broken = frame(0, &[0, 1], &[1, 1]);
    let data = vec![0.0, f32::NAN, 1.0, f32::NAN, f32::NAN, f32::NAN];
    put(&mut broken, None, Stage::Logits, floats(&[2, 3], data));
    recording.push_frame(&broken);
    let token = recording.token(1).unwrap();
    assert!(token.entropy.unwrap().is_nan() && token.logprob.unwrap().is_nan());
    let ids: Vec<u32> = token
        .candidates
        .iter()
        .map(|candidate| candidate.id)
        .collect();
    // The token itself is listed last, since NaN is no candidate.
    assert_eq!(ids, [2, 0, 1]);
    assert!(token.candidates[2].probability.is_nan());
    assert!(recording.candidates_after(1).is_empty());
    assert!(recording.entropy_after(1).unwrap().is_nan());
}

#[test]
fn draws_are_kept_whenever_they_come() {
    let draw = [(1, 0.75), (0, 0.25)];
    let check = |recording: &Recording| {
        for candidate in &recording.token(1).unwrap().candidates {
            let expected = [0.25, 0.75, 0.0][candidate.id as usize];
            assert_eq!(candidate.draw_probability, Some(expected));
        }
    };
    let mut before = recording();
    before.push_frame(&frame(0, &[0], &[1]));
    before.set_draw(1, &draw);
    before.set_tokens(1, vec![token(1)]);
    check(&before);
    let mut after = recording();
    after.push_frame(&frame(0, &[0], &[1]));
    after.set_tokens(1, vec![token(1)]);
    assert_eq!(after.token(1).unwrap().candidates[0].draw_probability, None);
    after.set_draw(1, &draw);
    check(&after);
    // They outlive a second look at the same row.
    after.push_frame(&frame(0, &[0], &[2]));
    check(&after);
    // A draw of a token that was taken back says nothing of its successor.
    let mut back = recording();
    back.push_frame(&frame(0, &[0], &[1]));
    back.set_draw(1, &draw);
    back.truncate(1);
    back.set_tokens(1, vec![token(1)]);
    assert_eq!(back.token(1).unwrap().candidates[0].draw_probability, None);
}

#[test]
fn setting_tokens_keeps_what_is_the_same_and_cuts_what_is_not() {
    let sketch = Sketch::new(1, 4, 4);
    let mut recording = sketch.recording();
    recording.push_frame(&sketch.frame(&mut Random::new(1), 0, &[1, 2, 3, 4, 5, 6]));
    recording.set_tokens(1, vec![token(2), token(3), token(4)]);
    assert_eq!(recording.n_tokens(), 4);
    assert!((0..4).all(|position| recording.is_recorded(position)));
    assert_eq!(recording.token(2).unwrap().text, "t3");
    assert!(recording.token(2).unwrap().logprob.is_some());
    recording.set_tokens(1, vec![token(2), token(9), token(4)]);
    assert_eq!(recording.n_tokens(), 4);
    let recorded: Vec<bool> = (0..4)
        .map(|position| recording.is_recorded(position))
        .collect();
    assert_eq!(recorded, [true, true, false, false]);
    // What the row before expected is still known, the token's place in it too.
    assert!(recording.token(2).unwrap().entropy.is_some());
    recording.set_tokens(6, vec![token(1)]);
    assert_eq!(recording.n_tokens(), 7);
    assert!(recording.token(5).is_none());
    recording.set_tokens(usize::MAX, vec![token(1)]);
    assert_eq!(recording.n_tokens(), 7);
    recording.set_tokens(0, vec![]);
    assert_eq!(recording.n_tokens(), 0);
    assert_eq!(recording.candidates_after(0), []);
}

#[test]
fn clones_share_rows_and_go_their_own_way() {
    let sketch = Sketch::new(2, 4, 4);
    let mut random = Random::new(1);
    let mut base = sketch.recording();
    base.push_frame(&sketch.frame(&mut random, 0, &[1, 2, 3, 4]));
    let kept = base.selection(3, 1);
    let mut variant = base.clone();
    variant.truncate(3);
    variant.push_frame(&sketch.frame(&mut random, 3, &[9, 9]));
    assert_eq!(base.selection(3, 1), kept);
    assert_eq!((base.n_tokens(), variant.n_tokens()), (4, 5));
    assert_eq!(base.selection(2, 0), variant.selection(2, 0));
}

#[test]
fn times_are_kept_with_their_step() {
    let mut recording = recording();
    let timing = StepTiming {
        total_ms: 2.5,
        ops: vec![OpTiming {
            op: "attend".into(),
            layer: Some(0),
            ms: None,
            bytes: 7,
            launches: 2,
        }],
        n_tokens: 3,
    };
    // Before the tokens are known.
    recording.set_timing(2, timing.clone());
    assert_eq!(recording.step_timing(2), Some(&timing));
    assert!(!recording.is_recorded(2));
    recording.push_frame(&frame(0, &[0, 1, 2], &[0, 0, 0]));
    assert_eq!(recording.step_timing(2), Some(&timing));
    assert!(recording.is_recorded(2) && recording.step_timing(1).is_none());
    recording.set_timing(usize::MAX, timing);
    assert_eq!(recording.n_tokens(), 3);
}
