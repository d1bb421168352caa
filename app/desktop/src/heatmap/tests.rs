use std::cell::RefCell;

use egui_kittest::Harness;
use egui_kittest::kittest::Queryable as _;

use super::*;

#[derive(Default)]
struct Seen {
    view: View,
    key: u64,
    hovered: Option<(usize, usize)>,
    clicked: Option<(usize, usize)>,
    rect: Option<Rect>,
}

fn harness(n_rows: usize, n_columns: usize, data: Vec<f32>) -> Harness<'static, Seen> {
    let named = RefCell::new(0);
    Harness::builder()
        .with_size(vec2(640.0, 240.0))
        .build_ui_state(
            move |ui, seen: &mut Seen| {
                let map = HeatMap {
                    label: "Test map",
                    summary: "numbers",
                    rows: Rows::Dense(&data),
                    n_rows,
                    n_columns,
                    key: seen.key,
                    color: &|cell| Palette::PAPER.sequential(cell.value),
                    row_name: &|row| format!("L{row}"),
                    column_name: &|column| {
                        *named.borrow_mut() += 1;
                        format!("c{column}")
                    },
                    row_axis: "layer",
                    column_axis: "position",
                    marked_row: Some(0),
                    marked_column: None,
                    hovered_column: None,
                    max_height: 150.0,
                };
                let output = heatmap_ui(ui, &map, &mut seen.view);
                seen.hovered = output.hovered;
                seen.rect = Some(output.rect);
                if output.clicked.is_some() {
                    seen.clicked = output.clicked;
                }
            },
            Seen::default(),
        )
}

#[test]
fn it_rasterises_once_and_again_only_when_something_changed() {
    let mut harness = harness(3, 1000, vec![0.5; 3000]);
    for _ in 0..5 {
        harness.step();
    }
    assert_eq!(harness.state().view.n_rasterised(), 1);
    harness.state_mut().key = 1;
    harness.run();
    assert_eq!(harness.state().view.n_rasterised(), 2);
    harness.state_mut().view.show(10.0..200.0);
    harness.run();
    assert_eq!(harness.state().view.n_rasterised(), 3);
    harness.set_size(vec2(500.0, 240.0));
    harness.run();
    assert_eq!(harness.state().view.n_rasterised(), 4);
}

#[test]
fn pointer_and_click_find_the_cell() {
    let mut harness = harness(3, 12, vec![0.5; 36]);
    harness.run();
    let rect = harness.state().rect.unwrap();
    let at = pos2(
        rect.left() + rect.width() * 7.5 / 12.0,
        rect.top() + rect.height() * 0.9,
    );
    harness.hover_at(at);
    harness.run();
    assert_eq!(harness.state().hovered, Some((2, 7)));
    harness.drag_at(at);
    harness.step();
    harness.drop_at(at);
    harness.run();
    assert_eq!(harness.state().clicked, Some((2, 7)));
}

#[test]
fn keys_move_zoom_choose_and_fit() {
    let mut harness = harness(3, 64, vec![0.5; 192]);
    harness.run();
    harness.get_by_label_contains("Test map").focus();
    harness.run();
    for key in [Key::ArrowRight, Key::ArrowRight, Key::ArrowDown, Key::Enter] {
        harness.key_press(key);
        harness.run();
    }
    assert_eq!(harness.state().clicked, Some((1, 2)));
    harness.key_press(Key::Plus);
    harness.run();
    let visible = harness.state().view.visible(64);
    assert_eq!(visible.end - visible.start, 32.0);
    harness.key_press(Key::Num0);
    harness.run();
    assert_eq!(harness.state().view.visible(64), 0.0..64.0);
    // At the edge it stays.
    for _ in 0..9 {
        harness.key_press(Key::ArrowUp);
    }
    harness.run();
    harness.key_press(Key::Enter);
    harness.run();
    assert_eq!(harness.state().clicked, Some((0, 2)));
}

#[test]
fn the_wheel_zooms_around_the_pointer_and_a_drag_pans() {
    let mut harness = harness(2, 1000, vec![0.5; 2000]);
    harness.run();
    let rect = harness.state().rect.unwrap();
    harness.hover_at(rect.center());
    harness.run();
    let wheel = |y: f32| egui::Event::MouseWheel {
        unit: egui::MouseWheelUnit::Point,
        delta: vec2(0.0, y),
        phase: egui::TouchPhase::Move,
        modifiers: egui::Modifiers::NONE,
        source: egui::MouseWheelSource::Wheel,
    };
    harness.event(wheel(200.0));
    harness.run();
    let visible = harness.state().view.visible(1000);
    let middle = (visible.start + visible.end) / 2.0;
    assert!(visible.end - visible.start < 500.0, "{visible:?}");
    assert!((middle - 500.0).abs() < 5.0, "{visible:?}");
    harness.drag_at(rect.center());
    harness.run();
    harness.hover_at(rect.center() + vec2(100.0, 0.0));
    harness.run();
    harness.drop_at(rect.center() + vec2(100.0, 0.0));
    harness.run();
    let panned = harness.state().view.visible(1000);
    assert!(panned.start < visible.start, "{panned:?} from {visible:?}");
    assert_eq!(harness.state().clicked, None, "a drag is no click");
}

#[test]
fn zoom_stays_within_the_matrix() {
    let mut view = View::default();
    for step in 0..100 {
        view.zoom(1.7, f64::from(step % 7) * 100.0, 1000);
        let visible = view.visible(1000);
        assert!(visible.start >= 0.0 && visible.end <= 1000.0);
        assert!(visible.end - visible.start >= CLOSEST);
        view.pan(if step % 2 == 0 { 1e9 } else { -1e9 }, 1000);
        let visible = view.visible(1000);
        assert!(visible.start >= 0.0 && visible.end <= 1000.0);
    }
    for _ in 0..100 {
        view.zoom(0.5, 3.0, 1000);
    }
    assert_eq!(view.visible(1000), 0.0..1000.0);
    view.zoom(f64::NAN, 3.0, 1000);
    view.zoom(0.0, 3.0, 1000);
    assert_eq!(view.visible(1000), 0.0..1000.0);
    // A matrix that shrank under the sight.
    view.show(900.0..950.0);
    assert_eq!(view.visible(3), 0.0..3.0);
    assert_eq!(view.visible(0), 0.0..0.0);
}

#[test]
fn an_empty_matrix_and_one_of_nan_are_drawn() {
    for (n_rows, n_columns, data) in [
        (0, 0, vec![]),
        (0, 9, vec![]),
        (9, 0, vec![]),
        (1, 1, vec![f32::NAN]),
        (5, 3, vec![f32::NAN; 15]),
        // Fewer numbers than promised.
        (5, 3, vec![1.0; 4]),
    ] {
        let mut harness = harness(n_rows, n_columns, data);
        harness.run();
        harness.get_by_label_contains("Test map").focus();
        harness.run();
        harness.key_press(Key::ArrowRight);
        harness.key_press(Key::Enter);
        harness.run();
    }
}

#[test]
fn ticks_are_round_and_in_sight() {
    assert_eq!(ticks(&(0.0..10.0), 5.0), [0, 2, 4, 6, 8]);
    assert_eq!(ticks(&(0.0..131_072.0), 4.0), [0, 50_000, 100_000]);
    assert_eq!(ticks(&(7.5..9.5), 10.0), [8, 9]);
    assert!(ticks(&(0.0..0.0), 10.0).is_empty());
}
