#![allow(clippy::unwrap_used, reason = "a test may fail by panic")]

use egui_kittest::Harness;
use egui_kittest::kittest::Queryable as _;
use engine::Source;

use super::*;
use crate::models::card::ContextCost;

struct Fixture {
    state: ModelsState,
    card: Option<ModelCard>,
    problem: Option<String>,
    devices: Vec<DeviceInfo>,
    recent: Vec<String>,
    loading: Option<LoadProgress>,
    is_dropping: bool,
    actions: Vec<ModelAction>,
}

fn card() -> ModelCard {
    ModelCard {
        name: "DeepSeek-V3.2".into(),
        source: Source::Folder("models/DeepSeek-V3.2".into()),
        architecture: "DeepSeek-V3.2".into(),
        n_layers: 61,
        has_mtp: true,
        n_parameters: 671_026_419_200,
        n_active: 37_000_000_000,
        experts: Some((256, 8)),
        index_topk: Some(2048),
        stored_bytes: Some(700 << 30),
        max_context: 131_072,
        contexts: vec![
            ContextCost {
                n_tokens: 4096,
                exact_bytes: 1 << 30,
                smallest_bytes: 1 << 28,
            },
            ContextCost {
                n_tokens: 131_072,
                exact_bytes: 32 << 30,
                smallest_bytes: 8 << 30,
            },
        ],
        has_tokenizer: true,
        misfit: None,
        available: AvailableMemory::Known(16 << 30),
    }
}

fn device(id: &str, kind: DeviceKind) -> DeviceInfo {
    DeviceInfo {
        id: id.into(),
        name: format!("Device {id}"),
        backend: "vulkan".into(),
        kind,
        driver: String::new(),
        max_binding_bytes: None,
    }
}

fn harness(card: Option<ModelCard>) -> Harness<'static, Fixture> {
    let fixture = Fixture {
        state: ModelsState::default(),
        card,
        problem: None,
        devices: vec![
            device("cpu", DeviceKind::Cpu),
            device("vulkan:0", DeviceKind::SoftwareGpu),
        ],
        recent: vec!["models/a".into(), "models/b".into()],
        loading: None,
        is_dropping: false,
        actions: Vec::new(),
    };
    let mut harness = Harness::builder()
        .with_size(egui::vec2(700.0, 900.0))
        .with_max_steps(60)
        .build_ui_state(
            |ui, fixture: &mut Fixture| {
                let view = ModelsView {
                    card: fixture.card.as_ref(),
                    problem: fixture.problem.as_deref(),
                    devices: &fixture.devices,
                    recent: &fixture.recent,
                    has_embedded: true,
                    loaded: Some("tiny on cpu"),
                    loading: fixture.loading,
                    is_dropping: fixture.is_dropping,
                };
                models_ui(ui, &mut fixture.state, &view, &mut fixture.actions);
            },
            fixture,
        );
    harness.run();
    harness
}

fn click(harness: &mut Harness<'_, Fixture>, label: &str) {
    harness.get_by_label(label).click();
    harness.run();
}

fn taken(harness: &mut Harness<'_, Fixture>) -> Vec<ModelAction> {
    std::mem::take(&mut harness.state_mut().actions)
}

#[test]
fn models_are_opened_and_forgotten() {
    let mut harness = harness(None);
    click(&mut harness, "Open a checkpoint folder…");
    click(&mut harness, "The model inside the program");
    click(&mut harness, "Open models/b");
    click(&mut harness, "Forget models/a");
    click(&mut harness, "Unload the model");
    assert_eq!(
        taken(&mut harness),
        [
            ModelAction::OpenFolder,
            ModelAction::OpenEmbedded,
            ModelAction::OpenRecent("models/b".into()),
            ModelAction::ForgetRecent("models/a".into()),
            ModelAction::Unload,
        ]
    );
    harness.state_mut().is_dropping = true;
    harness.state_mut().problem = Some("config.json: found nothing".into());
    harness.run();
    harness.get_by_label("Drop a checkpoint folder to look at it");
    harness.get_by_label("config.json: found nothing");
}

#[test]
fn the_card_says_what_a_model_needs() {
    let mut harness = harness(Some(card()));
    for text in [
        "671 B in all, 37.0 B active for a token",
        "256 a layer, 8 used for a token",
        "reads 2,048 selected positions",
        "131,072 tokens",
        "732 GiB with a full context; 16.0 GiB free now; what a graphics card has is not known: it may be slow or fail",
    ] {
        harness.get_by_label(text);
    }
    click(&mut harness, "Memory of the context");
    harness.run();
    harness.get_by_label("4,096");
    harness.get_by_label("256 MiB");
    click(&mut harness, "Load this model");
    click(&mut harness, "Close the card");
    assert_eq!(
        taken(&mut harness),
        [ModelAction::Load { device: None }, ModelAction::CloseCard]
    );
}

#[test]
fn a_device_is_chosen() {
    let mut harness = harness(Some(card()));
    click(&mut harness, "Device");
    click(&mut harness, "Device vulkan:0 · software GPU · vulkan");
    click(&mut harness, "Load this model");
    assert_eq!(
        taken(&mut harness),
        [ModelAction::Load {
            device: Some("vulkan:0".into())
        }]
    );
    // A device that is gone is shown as such.
    harness.state_mut().devices.clear();
    harness.run();
    assert_eq!(
        harness.get_by_label("Device").value().as_deref(),
        Some("vulkan:0 (not there now)")
    );
}

#[test]
fn what_cannot_be_loaded_says_why() {
    let mut broken = card();
    broken.misfit = Some("tensor model.norm.weight has shape [3], expected [4]".into());
    broken.stored_bytes = None;
    broken.has_tokenizer = false;
    broken.available = AvailableMemory::Unknown;
    broken.contexts.clear();
    broken.name = String::new();
    let mut harness = harness(Some(broken));
    harness.get_by_label_contains("It cannot be loaded: tensor model.norm.weight");
    harness.get_by_label("free memory is not known on this system");
    harness.get_by_label("no tokenizer.json: a chat needs one");
    click(&mut harness, "Load this model");
    assert_eq!(taken(&mut harness), []);
}

#[test]
fn loading_shows_how_far_it_is_and_can_be_cancelled() {
    let mut harness = harness(Some(card()));
    harness.state_mut().loading = Some(LoadProgress::Placing {
        layers_done: 3,
        layers_total: 61,
    });
    harness.run();
    assert!(harness.query_all_by_label("Placing layer 3 of 61").count() > 0);
    click(&mut harness, "Cancel loading");
    click(&mut harness, "Load this model");
    assert_eq!(taken(&mut harness), [ModelAction::Cancel]);
    let (share, _) = loading_words(LoadProgress::Placing {
        layers_done: 0,
        layers_total: 0,
    });
    assert_eq!(share, 0.0);
}

#[cfg(feature = "embedded-model")]
#[test]
fn the_embedded_model_fits_its_card() {
    let card = ModelCard::read(&Source::Embedded(&tiny::TINY)).unwrap();
    for theme in [egui::Theme::Light, egui::Theme::Dark] {
        let mut harness = harness(Some(card.clone()));
        harness.ctx.set_theme(theme);
        harness.run();
        harness.get_by_label("Sparsight tiny");
    }
}
