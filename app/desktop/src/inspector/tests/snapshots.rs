//! Pictures of the two maps, where the picture is the point. Drawn by a software Vulkan driver.

use super::*;

fn snapshot(name: &str, world: World) {
    let mut harness = Harness::builder()
        .with_size([640.0, 330.0])
        .with_theme(egui::Theme::Dark)
        .allow_missing_glyphs()
        .wgpu()
        .build_ui_state(draw, world);
    harness.run();
    let options = egui_kittest::SnapshotOptions::new().output_path(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/src/inspector/tests/snapshots"
    ));
    harness.snapshot_options(name, &options);
}

#[test]
fn selection_map() {
    snapshot("selection_map", World::full().view("Selection"));
}

#[test]
fn experts_map() {
    let mut world = World::full().view("Experts");
    world.state.scope = Scope::Token;
    world.state.expert = Some((2, 7));
    snapshot("experts_map", world);
}
