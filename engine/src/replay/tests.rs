//! Traces recorded, cut, written and read back, and files that are no traces.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::collections::HashMap;
use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed};
use safetensors::Dtype;
use tempfile::TempDir;

use super::file::{Column, METADATA_KEY};
use super::*;

/// Layers 1 and 3, two of five experts, tokens at positions 4, 5 and 6.
fn routes() -> RouteTrace {
    let mut trace = RouteTrace::new(5, 2, &[1, 3], 4).unwrap();
    // A chunk in one go, then token by token.
    trace
        .record(1, 4, &[0, 4, 1, 2], &[0.5, 2.0, -0.25, 0.0])
        .unwrap();
    trace.record(3, 4, &[3, 0], &[1e-30, f32::MAX]).unwrap();
    trace.record(3, 5, &[4, 3], &[1.0, 1.5]).unwrap();
    trace.record(1, 6, &[2, 0], &[2.25, 0.25]).unwrap();
    trace.record(3, 6, &[1, 0], &[1.25, 1.0]).unwrap();
    trace
}

/// Positions 7, 8 and 11 of a vocabulary of 10.
fn masks() -> MaskTrace {
    let mut trace = MaskTrace::new(10).unwrap();
    trace.record(7, &[0, 3, 9]).unwrap();
    trace.record(8, &[5]).unwrap();
    trace.record(11, &[1, 2]).unwrap();
    trace
}

fn replay_error<T: std::fmt::Debug>(result: Result<T>) -> String {
    let error = result.unwrap_err();
    assert!(matches!(error, Error::Replay { .. }), "{error}");
    error.to_string()
}

#[test]
fn routes_come_back_by_layer_and_position() {
    let trace = routes();
    assert_eq!(
        (trace.len(), trace.first_position(), trace.layers()),
        (3, 4, vec![1, 3])
    );
    assert_eq!(trace.get(1, 5), Some((&[1, 2][..], &[-0.25, 0.0][..])));
    assert_eq!(trace.get(3, 6), Some((&[1, 0][..], &[1.25, 1.0][..])));
    for (layer, position) in [(1, 3), (1, 7), (0, 4), (2, 4), (1, usize::MAX), (1, 0)] {
        assert_eq!(trace.get(layer, position), None, "{layer} {position}");
    }
}

#[test]
fn the_length_counts_whole_tokens() {
    let mut trace = routes();
    trace.record(1, 7, &[0, 1], &[1.0, 1.0]).unwrap();
    assert_eq!(trace.len(), 3);
    assert!(trace.get(1, 7).is_some() && trace.get(3, 7).is_none());
    let dense = RouteTrace::new(5, 2, &[], 0).unwrap();
    assert!(dense.is_empty());
}

#[test]
fn routes_go_back_and_on() {
    let mut trace = routes();
    trace.truncate(99);
    assert_eq!(trace, routes());
    trace.truncate(5);
    assert_eq!((trace.len(), trace.first_position()), (1, 4));
    trace.record(1, 5, &[1, 2], &[-0.25, 0.0]).unwrap();
    trace.record(3, 5, &[4, 3], &[1.0, 1.5]).unwrap();
    trace.record(1, 6, &[2, 0], &[2.25, 0.25]).unwrap();
    trace.record(3, 6, &[1, 0], &[1.25, 1.0]).unwrap();
    assert_eq!(trace, routes());
    trace.truncate(2);
    assert_eq!((trace.len(), trace.first_position()), (0, 2));
    trace.record(1, 2, &[0, 1], &[1.0, 1.0]).unwrap();
}

#[test]
fn routes_no_gate_gives_are_refused() {
    let mut trace = routes();
    let good = [1.0, 1.0];
    for (result, expected) in [
        (trace.record(2, 7, &[0, 1], &good), "no such layer"),
        (
            trace.record(1, 8, &[0, 1], &good),
            "found position 8, expected position 7",
        ),
        (
            trace.record(1, 6, &[0, 1], &good),
            "found position 6, expected position 7",
        ),
        (trace.record(1, 7, &[0], &[1.0]), "1 experts and 1 weights"),
        (
            trace.record(1, 7, &[0, 1], &[1.0]),
            "2 experts and 1 weights",
        ),
        (
            trace.record(1, 7, &[0, 5], &good),
            "expert 5 for token 0, expected 0 to 4",
        ),
        (
            trace.record(1, 7, &[0, 1, 2, 2], &[1.0; 4]),
            "expert 2 twice for token 1",
        ),
        (trace.record(1, 7, &[0, 1], &[1.0, f32::NAN]), "weight NaN"),
        (
            trace.record(1, 7, &[0, 1], &[f32::INFINITY, 1.0]),
            "weight inf",
        ),
    ] {
        let message = replay_error(result);
        assert!(message.contains(expected), "{message}");
    }
    assert_eq!(trace, routes(), "a refused record leaves nothing behind");
    for (experts, taken, layers) in [
        (5, 0, &[1][..]),
        (5, 6, &[1]),
        (65_537, 2, &[1]),
        (5, 2, &[1, 1]),
        (5, 2, &[2, 1]),
    ] {
        replay_error(RouteTrace::new(experts, taken, layers, 0));
    }
    RouteTrace::new(65_536, 65_536, &[0], 0).unwrap();
}

#[test]
fn traces_of_other_models_are_refused() {
    let trace = routes();
    trace.check(5, 2, &[1, 3]).unwrap();
    let message = replay_error(trace.check(6, 2, &[1, 3]));
    assert_eq!(
        message,
        "route trace, n_routed_experts: found 5, expected 6"
    );
    replay_error(trace.check(5, 3, &[1, 3]));
    replay_error(trace.check(5, 2, &[1, 2, 3]));
    masks().check(10).unwrap();
    replay_error(masks().check(11));
}

#[test]
fn masks_come_back_by_position() {
    let trace = masks();
    assert_eq!((trace.len(), trace.positions()), (3, &[7, 8, 11][..]));
    assert_eq!(trace.get(7), Some(&[0, 3, 9][..]));
    assert_eq!(trace.get(11), Some(&[1, 2][..]));
    for position in [0, 6, 9, 10, 12, usize::MAX] {
        assert_eq!(trace.get(position), None, "{position}");
    }
}

#[test]
fn masks_go_back_and_on() {
    let mut trace = masks();
    trace.truncate(12);
    assert_eq!(trace, masks());
    trace.truncate(9);
    assert_eq!(trace.len(), 2);
    trace.record(11, &[1, 2]).unwrap();
    assert_eq!(trace, masks());
    trace.truncate(0);
    assert_eq!(trace, MaskTrace::new(10).unwrap());
}

#[test]
fn masks_no_truncation_gives_are_refused() {
    let mut trace = masks();
    for (result, expected) in [
        (trace.record(11, &[1]), "found position 11 before it"),
        (trace.record(12, &[]), "found 0 ids, expected at least 1"),
        (trace.record(12, &[1, 1]), "id 1 after 1"),
        (trace.record(12, &[2, 1]), "id 1 after 2"),
        (trace.record(12, &[9, 10]), "id 10, expected ids below 10"),
    ] {
        let message = replay_error(result);
        assert!(message.contains(expected), "{message}");
    }
    assert_eq!(trace, masks());
}

#[test]
fn files_give_back_what_was_saved() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("trace.safetensors");
    for trace in [
        routes(),
        RouteTrace::new(5, 2, &[1], 9).unwrap(),
        RouteTrace::new(1, 1, &[], 0).unwrap(),
    ] {
        trace.save(&path).unwrap();
        assert_eq!(RouteTrace::load(&path).unwrap(), trace);
    }
    // Over the file that is there.
    for trace in [masks(), MaskTrace::new(0).unwrap()] {
        trace.save(&path).unwrap();
        assert_eq!(MaskTrace::load(&path).unwrap(), trace);
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_ragged_trace_is_not_saved() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("trace.safetensors");
    let mut trace = routes();
    trace.record(1, 7, &[0, 1], &[1.0, 1.0]).unwrap();
    let message = replay_error(trace.save(&path));
    assert_eq!(
        message,
        "route trace, layer 1: found 4 tokens, expected 3, as others"
    );
    assert!(!path.exists());
    trace.truncate(trace.first_position() + trace.len());
    trace.save(&path).unwrap();
}

#[test]
fn a_failed_save_leaves_the_folder_as_it_was() {
    let folder = TempDir::new().unwrap();
    // A folder stands where the file should go, so the last step fails.
    let taken = folder.path().join("taken");
    std::fs::create_dir_all(taken.join("inside")).unwrap();
    for path in [taken.clone(), folder.path().join("missing").join("trace")] {
        let error = masks().save(&path).unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error}");
        let error = MaskTrace::load(&path).unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    assert!(taken.join("inside").exists());
}

fn i32s(values: &[i32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

fn i64s(values: &[i64]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

fn f32s(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

type Tensor = (&'static str, Dtype, Vec<usize>, Vec<u8>);

fn file(header: &str, tensors: Vec<Tensor>) -> Vec<u8> {
    let columns = tensors.into_iter().map(|(name, dtype, shape, bytes)| {
        (name, Column::new(dtype, shape, move || bytes.clone()))
    });
    let metadata = HashMap::from([(METADATA_KEY.to_string(), header.to_string())]);
    safetensors::serialize(columns, Some(metadata)).unwrap()
}

const ROUTES: &str = r#"{"kind": "routes", "version": 1, "n_routed_experts": 3,
    "num_experts_per_tok": 1, "first_position": 5, "n_tokens": 2, "layers": [4]}"#;
const MASKS: &str = r#"{"kind": "masks", "version": 1, "vocab_size": 9, "n_masks": 2, "n_ids": 3}"#;

fn route_file(header: &str, experts: &[i32], weights: &[f32]) -> Vec<u8> {
    file(
        header,
        vec![
            (
                "layer4.experts",
                Dtype::I32,
                vec![experts.len(), 1],
                i32s(experts),
            ),
            (
                "layer4.weights",
                Dtype::F32,
                vec![weights.len(), 1],
                f32s(weights),
            ),
        ],
    )
}

fn mask_file(header: &str, positions: &[i64], offsets: &[i64], ids: &[i32]) -> Vec<u8> {
    file(
        header,
        vec![
            (
                "positions",
                Dtype::I64,
                vec![positions.len()],
                i64s(positions),
            ),
            ("offsets", Dtype::I64, vec![offsets.len()], i64s(offsets)),
            ("ids", Dtype::I32, vec![ids.len()], i32s(ids)),
        ],
    )
}

fn load<T>(bytes: &[u8], load: impl Fn(&Path) -> Result<T>) -> Result<T> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("trace.safetensors");
    std::fs::write(&path, bytes).unwrap();
    load(&path)
}

fn bad_file<T: std::fmt::Debug>(result: Result<T>, expected: &str) {
    let error = result.unwrap_err();
    assert!(matches!(error, Error::BadFile { .. }), "{error}");
    assert!(
        error.to_string().contains(expected),
        "{error}, expected {expected:?}"
    );
}

#[test]
fn bad_route_files_are_refused() {
    let good = route_file(ROUTES, &[2, 0], &[0.5, 1.5]);
    let trace = load(&good, RouteTrace::load).unwrap();
    assert_eq!(trace.get(4, 6), Some((&[0][..], &[1.5][..])));

    let other = |from: &str, to: &str| {
        assert!(ROUTES.contains(from));
        route_file(&ROUTES.replace(from, to), &[2, 0], &[0.5, 1.5])
    };
    let mut surplus = vec![("layer5.experts", Dtype::I32, vec![0, 1], vec![])];
    surplus.push(("layer4.experts", Dtype::I32, vec![2, 1], i32s(&[2, 0])));
    let missing = surplus[1..].to_vec();
    surplus.push(("layer4.weights", Dtype::F32, vec![2, 1], f32s(&[0.5, 1.5])));
    let u16 = vec![
        ("layer4.experts", Dtype::U16, vec![2, 1], vec![2, 0, 0, 0]),
        ("layer4.weights", Dtype::F32, vec![2, 1], f32s(&[0.5, 1.5])),
    ];
    for (bytes, expected) in [
        (
            other("routes", "masks"),
            "kind is \"masks\", expected \"routes\"",
        ),
        (
            other("\"version\": 1", "\"version\": 2"),
            "version is 2, expected 1",
        ),
        (other("\"version\": 1,", ""), "version is null, expected 1"),
        (other("\"n_tokens\": 2,", ""), "missing field `n_tokens`"),
        (
            other("\"n_tokens\": 2", "\"n_tokens\": -2"),
            "metadata entry",
        ),
        (
            other("\"n_tokens\": 2", "\"n_tokens\": 3"),
            "is I32 [2, 1], expected I32 [3, 1]",
        ),
        (
            other("\"layers\": [4]", "\"layers\": [4, 4]"),
            "layer 4 after 4",
        ),
        (
            other("\"layers\": [4]", "\"layers\": []"),
            "\"layer4.experts\" is not expected",
        ),
        (
            other("_position\": 5", "_position\": 18446744073709551615"),
            "positions beyond",
        ),
        (
            other("\"num_experts_per_tok\": 1", "\"num_experts_per_tok\": 0"),
            "0 experts a token",
        ),
        (route_file("{", &[2, 0], &[0.5, 1.5]), "metadata entry"),
        (route_file("7", &[2, 0], &[0.5, 1.5]), "kind is null"),
        (file(ROUTES, surplus), "\"layer5.experts\" is not expected"),
        (file(ROUTES, missing), "\"layer4.weights\" is missing"),
        (file(ROUTES, u16), "is U16 [2, 1], expected I32 [2, 1]"),
        (
            route_file(ROUTES, &[2, 3], &[0.5, 1.5]),
            "expert 3 for token 1, expected 0 to 2",
        ),
        (
            route_file(ROUTES, &[-1, 0], &[0.5, 1.5]),
            "expert -1, expected 0 to 2",
        ),
        (
            route_file(ROUTES, &[65_536, 0], &[0.5, 1.5]),
            "expert 65536, expected 0 to 2",
        ),
        (
            route_file(ROUTES, &[2, 0], &[0.5, f32::NAN]),
            "weight NaN for token 1",
        ),
        (
            route_file(ROUTES, &[2, 0], &[f32::NEG_INFINITY, 1.0]),
            "weight -inf for token 0",
        ),
        (Vec::new(), "0 bytes that are no whole safetensors file"),
        (
            b"not a trace at all".to_vec(),
            "18 bytes that are no whole safetensors file",
        ),
    ] {
        bad_file(load(&bytes, RouteTrace::load), expected);
    }
    let empty = ROUTES.replace("\"layers\": [4]", "\"layers\": []");
    bad_file(
        load(&file(&empty, vec![]), RouteTrace::load),
        "2 tokens without a layer",
    );
    let plain = safetensors::serialize(Vec::<(String, Column)>::new(), None).unwrap();
    bad_file(
        load(&plain, RouteTrace::load),
        "no metadata entry \"sparsight\"",
    );
}

#[test]
fn bad_mask_files_are_refused() {
    let good = mask_file(MASKS, &[3, 5], &[0, 1, 3], &[8, 0, 1]);
    let trace = load(&good, MaskTrace::load).unwrap();
    assert_eq!(trace.get(5), Some(&[0, 1][..]));

    let vast = MASKS.replace("\"n_masks\": 2", "\"n_masks\": 18446744073709551615");
    for (bytes, expected) in [
        (
            mask_file(ROUTES, &[3, 5], &[0, 1, 3], &[8, 0, 1]),
            "kind is \"routes\"",
        ),
        (
            mask_file(&vast, &[3, 5], &[0, 1, 3], &[8, 0, 1]),
            "is I64 [2], expected",
        ),
        (
            mask_file(MASKS, &[3, 5], &[0, 3], &[8, 0, 1]),
            "is I64 [2], expected I64 [3]",
        ),
        (
            mask_file(MASKS, &[3, 5], &[0, 1, 3], &[8, 0]),
            "is I32 [2], expected I32 [3]",
        ),
        (
            mask_file(MASKS, &[3, 5], &[0, 4, 3], &[8, 0, 1]),
            "offsets hold 3 after 4",
        ),
        (
            mask_file(MASKS, &[3, 5], &[0, 1, 4], &[8, 0, 1]),
            "offsets run from 0 to 4",
        ),
        (
            mask_file(MASKS, &[3, 5], &[1, 2, 3], &[8, 0, 1]),
            "offsets run from 1 to 3",
        ),
        (
            mask_file(MASKS, &[3, 5], &[0, -1, 3], &[8, 0, 1]),
            "offsets hold -1",
        ),
        (
            mask_file(MASKS, &[3, 5], &[0, 0, 3], &[0, 1, 8]),
            "position 3: found 0 ids",
        ),
        (
            mask_file(MASKS, &[3, 3], &[0, 1, 3], &[8, 0, 1]),
            "found position 3 before it",
        ),
        (
            mask_file(MASKS, &[3, -5], &[0, 1, 3], &[8, 0, 1]),
            "positions hold -5",
        ),
        (
            mask_file(MASKS, &[3, 5], &[0, 1, 3], &[8, 1, 1]),
            "id 1 after 1",
        ),
        (
            mask_file(MASKS, &[3, 5], &[0, 1, 3], &[9, 0, 1]),
            "id 9, expected ids below 9",
        ),
        (
            mask_file(MASKS, &[3, 5], &[0, 1, 3], &[-1, 0, 1]),
            "expected ids below 9",
        ),
    ] {
        bad_file(load(&bytes, MaskTrace::load), expected);
    }
}

#[test]
fn no_beginning_of_a_file_is_a_file() {
    let routes = route_file(ROUTES, &[2, 0], &[0.5, 1.5]);
    let masks = mask_file(MASKS, &[3, 5], &[0, 1, 3], &[8, 0, 1]);
    for length in 0..routes.len() {
        bad_file(
            load(&routes[..length], RouteTrace::load),
            "no whole safetensors file",
        );
    }
    for length in 0..masks.len() {
        bad_file(
            load(&masks[..length], MaskTrace::load),
            "no whole safetensors file",
        );
    }
}

proptest! {
    #![proptest_config(Config {
        rng_seed: RngSeed::Fixed(32),
        failure_persistence: None,
        ..Config::with_cases(200)
    })]

    #[test]
    fn damaged_files_never_panic(
        flips in prop::collection::vec((0_usize..1000, any::<u8>()), 1..4),
    ) {
        for mut bytes in [
            route_file(ROUTES, &[2, 0], &[0.5, 1.5]),
            mask_file(MASKS, &[3, 5], &[0, 1, 3], &[8, 0, 1]),
        ] {
            for &(at, with) in &flips {
                let at = at % bytes.len();
                bytes[at] ^= with;
            }
            // Some flips still make a valid trace; whatever loads must save again.
            let folder = TempDir::new().unwrap();
            let path = folder.path().join("again");
            if let Ok(trace) = load(&bytes, RouteTrace::load) {
                trace.save(&path).unwrap();
                prop_assert_eq!(RouteTrace::load(&path).unwrap(), trace);
            }
            if let Ok(trace) = load(&bytes, MaskTrace::load) {
                trace.save(&path).unwrap();
                prop_assert_eq!(MaskTrace::load(&path).unwrap(), trace);
            }
        }
    }

    #[test]
    fn masks_survive_the_file_and_going_back(
        rows in prop::collection::btree_map(
            0_usize..500,
            prop::collection::btree_set(0_u32..129_280, 1..20),
            0..20,
        ),
        back_to in 0_usize..500,
    ) {
        let mut trace = MaskTrace::new(129_280).unwrap();
        for (&position, ids) in &rows {
            let ids: Vec<u32> = ids.iter().copied().collect();
            trace.record(position, &ids).unwrap();
        }
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("masks");
        trace.save(&path).unwrap();
        prop_assert_eq!(&MaskTrace::load(&path).unwrap(), &trace);
        trace.truncate(back_to);
        for (position, ids) in &rows {
            let ids: Vec<u32> = ids.iter().copied().collect();
            let want = (*position < back_to).then_some(&ids[..]);
            prop_assert_eq!(trace.get(*position), want);
        }
    }
}
