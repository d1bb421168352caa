#![allow(clippy::unwrap_used, reason = "a test may fail by panic")]

use egui_kittest::Harness;
use egui_kittest::kittest::Queryable as _;

use super::*;

struct Fixture {
    state: SettingsState,
    settings: ConversationSettings,
    app: AppSettings,
    has_indexer: bool,
    model_sampling: Option<Sampling>,
    own: Vec<OwnPreset>,
    actions: Vec<SettingsAction>,
}

fn harness(settings: ConversationSettings) -> Harness<'static, Fixture> {
    let fixture = Fixture {
        state: SettingsState::default(),
        settings,
        app: AppSettings::default(),
        has_indexer: true,
        model_sampling: None,
        own: vec![OwnPreset {
            name: "Mine".into(),
            sampling: Sampling {
                top_k: 5,
                ..Sampling::default()
            },
            thinking: true,
        }],
        actions: Vec::new(),
    };
    let mut harness = Harness::builder()
        .with_size(egui::vec2(420.0, 1000.0))
        .with_max_steps(60)
        .build_ui_state(
            |ui, fixture: &mut Fixture| {
                let view = SettingsView {
                    has_indexer: fixture.has_indexer,
                    model_index_topk: Some(64),
                    model_sampling: fixture.model_sampling,
                    own_presets: &fixture.own,
                };
                conversation_settings_ui(
                    ui,
                    &mut fixture.state,
                    &mut fixture.settings,
                    &view,
                    &mut fixture.actions,
                );
                app_settings_ui(ui, &mut fixture.app, &mut fixture.actions);
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

fn taken(harness: &mut Harness<'_, Fixture>) -> Vec<SettingsAction> {
    std::mem::take(&mut harness.state_mut().actions)
}

/// Types a number into a field.
fn enter(harness: &mut Harness<'_, Fixture>, label: &str, text: &str) {
    harness.get_by_label(label).click();
    harness.run();
    harness.event(egui::Event::Key {
        key: egui::Key::A,
        physical_key: None,
        pressed: true,
        repeat: false,
        modifiers: egui::Modifiers::COMMAND,
    });
    harness.event(egui::Event::Text(text.into()));
    harness.run();
    harness.key_press(egui::Key::Enter);
    harness.run();
}

#[test]
fn settings_become_the_engines_options() {
    let settings = ConversationSettings {
        sampling: Sampling {
            temperature: 0.5,
            top_p: 0.8,
            top_k: 7,
            min_p: 0.1,
            repetition_penalty: 1.1,
            presence_penalty: 0.2,
            frequency_penalty: 0.3,
        },
        seed: 9,
        index_topk: Some(32),
        ..ConversationSettings::default()
    };
    let sampler = settings.sampler();
    assert_eq!(
        (
            sampler.temperature,
            sampler.top_p,
            sampler.top_k,
            sampler.min_p
        ),
        (0.5, 0.8, 7, 0.1)
    );
    assert_eq!(
        (
            sampler.repetition_penalty,
            sampler.presence_penalty,
            sampler.frequency_penalty
        ),
        (1.1, 0.2, 0.3)
    );
    assert_eq!(sampler.seed, 9);
    assert_eq!(settings.forward().index_topk, Some(32));
    let dense = ConversationSettings {
        dense: true,
        ..settings
    };
    assert!(dense.forward().dense);
    // The engine refuses both at once.
    assert_eq!(dense.forward().index_topk, None);
    // What a new conversation has is what the engine has.
    assert_eq!(
        ConversationSettings::default().sampler(),
        SamplerOptions::default()
    );
    assert_eq!(
        ConversationSettings::default().forward(),
        ForwardOptions::default()
    );
}

#[test]
fn settings_survive_a_file_of_an_older_or_newer_version() {
    let settings = ConversationSettings {
        thinking: true,
        max_tokens: Some(5),
        ..ConversationSettings::default()
    };
    let json = serde_json::to_string(&settings).unwrap();
    assert_eq!(
        serde_json::from_str::<ConversationSettings>(&json).unwrap(),
        settings
    );
    let odd = r#"{"thinking": true, "sampling": {"top_k": 3}, "of a later version": []}"#;
    let read: ConversationSettings = serde_json::from_str(odd).unwrap();
    assert_eq!(
        read.sampling,
        Sampling {
            top_k: 3,
            ..Sampling::default()
        }
    );
    assert_eq!(
        serde_json::from_str::<AppSettings>("{}").unwrap(),
        AppSettings::default()
    );
}

#[test]
fn problems_are_told_in_the_engines_words() {
    let with = |sampling| ConversationSettings {
        sampling,
        ..ConversationSettings::default()
    };
    let sampling = Sampling::default();
    for (settings, field) in [
        (
            with(Sampling {
                temperature: -1.0,
                ..sampling
            }),
            "temperature",
        ),
        (
            with(Sampling {
                temperature: f64::NAN,
                ..sampling
            }),
            "temperature",
        ),
        (
            with(Sampling {
                top_p: 0.0,
                ..sampling
            }),
            "top_p",
        ),
        (
            with(Sampling {
                min_p: 1.5,
                ..sampling
            }),
            "min_p",
        ),
        (
            with(Sampling {
                repetition_penalty: 0.0,
                ..sampling
            }),
            "repetition_penalty",
        ),
        (
            with(Sampling {
                presence_penalty: 3.0,
                ..sampling
            }),
            "presence_penalty",
        ),
        (
            with(Sampling {
                frequency_penalty: f64::INFINITY,
                ..sampling
            }),
            "frequency_penalty",
        ),
        (
            ConversationSettings {
                index_topk: Some(0),
                ..Default::default()
            },
            "index_topk",
        ),
        (
            ConversationSettings {
                max_tokens: Some(0),
                ..Default::default()
            },
            "max_tokens",
        ),
    ] {
        let problem = settings.problem(true).unwrap();
        assert_eq!(problem.field, field);
        assert!(problem.words.contains("expected"), "{problem:?}");
    }
    let selecting = ConversationSettings {
        index_topk: Some(8),
        ..Default::default()
    };
    assert_eq!(selecting.problem(true), None);
    assert!(
        selecting
            .problem(false)
            .unwrap()
            .words
            .contains("no indexer")
    );
    for preset in PRESETS {
        let mut settings = ConversationSettings::default();
        preset.apply(&mut settings);
        assert_eq!(settings.problem(true), None, "{}", preset.name);
        assert!(preset.is_on(&settings));
    }
}

#[test]
fn a_wrong_number_is_told_beside_its_field() {
    let mut harness = harness(ConversationSettings::default());
    enter(&mut harness, "Temperature", "-2");
    assert_eq!(harness.state().settings.sampling.temperature, -2.0);
    harness.get_by_label_contains("expected a number from 0");
    assert!(taken(&mut harness).contains(&SettingsAction::Changed));
    enter(&mut harness, "Temperature", "0.25");
    assert_eq!(harness.state().settings.sampling.temperature, 0.25);
    assert!(
        harness
            .query_by_label_contains("expected a number from 0")
            .is_none()
    );
    enter(&mut harness, "Top-p", "0");
    harness.get_by_label_contains("top_p");
    enter(&mut harness, "Seed", "42");
    assert_eq!(harness.state().settings.seed, 42);
}

#[test]
fn presets_are_applied_saved_and_deleted() {
    let mut harness = harness(ConversationSettings::default());
    click(&mut harness, "Preset Greedy");
    assert!(harness.state().settings.sampler().is_greedy());
    click(&mut harness, "Preset Reasoning");
    assert!(harness.state().settings.thinking);
    assert_eq!(
        taken(&mut harness),
        [SettingsAction::Changed, SettingsAction::Changed]
    );
    click(&mut harness, "Preset Mine");
    assert_eq!(harness.state().settings.sampling.top_k, 5);
    click(&mut harness, "Delete preset Mine");
    click(&mut harness, "Use for new conversations");
    assert_eq!(
        taken(&mut harness),
        [
            SettingsAction::Changed,
            SettingsAction::DeletePreset("Mine".into()),
            SettingsAction::MakeDefault
        ]
    );
    click(&mut harness, "Save preset");
    assert_eq!(taken(&mut harness), []);
    harness.get_by_label("Name of a preset").click();
    harness.run();
    harness.event(egui::Event::Text("Sober".into()));
    harness.run();
    click(&mut harness, "Save preset");
    let saved = taken(&mut harness);
    assert!(
        matches!(&saved[..], [SettingsAction::SavePreset(preset)] if preset.name == "Sober" && preset.sampling.top_k == 5)
    );
}

#[test]
fn the_models_own_sampling_is_a_preset_while_there_is_a_model() {
    let mut harness = harness(ConversationSettings::default());
    assert!(harness.query_by_label("Preset Model's own").is_none());
    let own = Sampling {
        temperature: 0.7,
        top_p: 0.9,
        ..Sampling::default()
    };
    harness.state_mut().model_sampling = Some(own);
    harness.run();
    click(&mut harness, "Preset Model's own");
    assert_eq!(harness.state().settings.sampling, own);
    assert_eq!(Sampling::from(harness.state().settings.sampler()), own);
    assert_eq!(taken(&mut harness), [SettingsAction::Changed]);
}

#[test]
fn attention_and_length_are_set() {
    let mut harness = harness(ConversationSettings::default());
    click(&mut harness, "Choose how many positions");
    assert_eq!(harness.state().settings.index_topk, Some(64));
    click(&mut harness, "Dense: read every position");
    assert!(harness.state().settings.dense);
    click(&mut harness, "Limit the tokens of an answer");
    assert_eq!(harness.state().settings.max_tokens, Some(512));
    click(&mut harness, "Limit the tokens of an answer");
    assert_eq!(harness.state().settings.max_tokens, None);
    click(&mut harness, "Think before answering");
    assert!(harness.state().settings.thinking);
    harness.state_mut().settings = ConversationSettings::default();
    harness.state_mut().has_indexer = false;
    harness.run();
    harness.get_by_label("This model has no indexer: it reads every position");
    click(&mut harness, "Dense: read every position");
    assert!(!harness.state().settings.dense);
}

#[test]
fn the_app_has_a_theme_and_a_size() {
    let mut harness = harness(ConversationSettings::default());
    click(&mut harness, "Dark theme");
    assert_eq!(harness.state().app.theme, ThemeChoice::Dark);
    click(&mut harness, "Larger");
    click(&mut harness, "Larger");
    assert_eq!(harness.state().app.ui_scale, 1.2);
    click(&mut harness, "Smaller");
    assert_eq!(harness.state().app.ui_scale, 1.1);
    click(&mut harness, "Normal size");
    assert_eq!(harness.state().app.ui_scale, 1.0);
    assert_eq!(taken(&mut harness), vec![SettingsAction::AppChanged; 5]);
    let mut settings = AppSettings {
        ui_scale: f32::NAN,
        ..AppSettings::default()
    };
    settings.apply(&harness.ctx);
    assert_eq!(harness.ctx.zoom_factor(), 1.0);
    for _ in 0..100 {
        settings.zoom(1);
    }
    assert_eq!(settings.ui_scale, *UI_SCALE.end());
    for _ in 0..100 {
        settings.zoom(-1);
    }
    assert_eq!(settings.ui_scale, *UI_SCALE.start());
}
