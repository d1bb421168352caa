//! Every view as every kind of file.

use super::*;

const DATE: &str = "2026-11-24";

fn worlds() -> Vec<(&'static str, World)> {
    let mut everything = World::full();
    everything.state.scope = Scope::Everything;
    everything.state.expert = Some((2, 7));
    vec![
        ("none", World::default()),
        ("empty", World::of(testing::empty())),
        ("bare", World::of(testing::bare())),
        ("nan", World::of(testing::nan())),
        ("full", World::full()),
        ("everything", everything),
    ]
}

fn file(view: usize, kind: ExportKind, world: &World) -> Vec<u8> {
    export(view, kind, &world.shown(), &world.state, DATE).unwrap()
}

#[test]
fn every_view_of_every_recording_is_written_as_every_kind() {
    for (name, world) in worlds() {
        for (index, view) in VIEWS.iter().enumerate() {
            let at = format!("{name}, {}", view.title);
            let svg = String::from_utf8(file(index, ExportKind::Svg, &world)).unwrap();
            assert!(svg.starts_with("<svg") && svg.contains(view.title), "{at}");
            assert!(svg.contains(DATE), "{at}");
            assert_eq!(svg.matches('<').count(), svg.matches('>').count(), "{at}");
            for coordinate in ["=\"NaN", "=\"inf", "=\"-inf"] {
                assert!(!svg.contains(coordinate), "{at}: {coordinate}");
            }
            let json = file(index, ExportKind::Json, &world);
            let value: serde_json::Value = serde_json::from_slice(&json).unwrap();
            assert_eq!(value["title"], view.title, "{at}");
            assert_eq!(value["about"]["date"], DATE, "{at}");
            let columns = value["columns"].as_array().unwrap().len();
            let rows = value["rows"].as_array().unwrap();
            assert!(
                rows.iter()
                    .all(|row| row.as_object().unwrap().len() == columns)
            );
            let csv = String::from_utf8(file(index, ExportKind::Csv, &world)).unwrap();
            assert!(csv.split("\r\n").next().unwrap().split(',').count() >= columns);
            if name == "full" {
                assert!(!rows.is_empty(), "{at}: no data");
                assert_eq!(value["about"]["model"], "made up");
                assert!(
                    svg.contains("made up") && svg.contains("Token 30 of 40"),
                    "{at}"
                );
                assert!(!svg.contains("Nothing was recorded"), "{at}");
            }
            if name == "none" {
                assert!(svg.contains("Nothing was recorded of this."), "{at}");
            }
        }
    }
}

#[test]
fn pictures_have_pixels() {
    for (name, world) in worlds() {
        for (index, view) in VIEWS.iter().enumerate() {
            if name != "full" && name != "nan" && name != "none" {
                continue;
            }
            let png = file(index, ExportKind::Png, &world);
            let image = image::load_from_memory(&png).unwrap().to_rgb8();
            assert_eq!(image.width(), 2000);
            let inked = image.pixels().filter(|pixel| pixel.0 != [255; 3]).count();
            assert!(inked > 500, "{name}, {}: {inked}", view.title);
        }
    }
}

#[test]
fn the_huge_selection_is_a_picture_of_bounded_size() {
    let world = World::of(testing::huge());
    let svg = file(view_of("Selection"), ExportKind::Svg, &world);
    let png = file(view_of("Selection"), ExportKind::Png, &world);
    println!(
        "61 x 131072: {} bytes of SVG, {} of PNG",
        svg.len(),
        png.len()
    );
    assert!(svg.len() < 12 << 20 && png.len() < 4 << 20);
}

#[test]
fn the_table_of_the_selection_holds_what_was_recorded() {
    let world = World::full();
    let json = file(view_of("Selection"), ExportKind::Json, &world);
    let value: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let rows = value["rows"].as_array().unwrap();
    // Layer 0 reads all 30, five layers read 8.
    assert_eq!(rows.len(), 30 + 5 * 8);
    let of_layer: Vec<_> = rows.iter().filter(|row| row["layer"] == 2).collect();
    let positions: Vec<u64> = of_layer
        .iter()
        .map(|row| row["position"].as_u64().unwrap())
        .collect();
    let expected: Vec<u64> = testing::selected(29, 2).iter().map(|&p| p as u64).collect();
    assert_eq!(positions, expected);
    assert_eq!(of_layer[0]["part"], "sink");
    assert_eq!(of_layer[4]["rank"], 1);
    assert_eq!(of_layer[0]["rank"], 7);
}

#[test]
fn names_of_files_tell_view_and_token() {
    let world = World::full();
    let name = |view, kind| export_name(view, kind, &world.shown(), &world.state);
    assert_eq!(
        name(view_of("What if"), ExportKind::Svg),
        "what-if-token-30.svg"
    );
    let nothing = export_name(0, ExportKind::Csv, &Shown::default(), &State::default());
    assert_eq!(nothing, "transcript.csv");
    let shown = world.shown();
    assert!(export(99, ExportKind::Csv, &shown, &world.state, DATE).is_err());
}
