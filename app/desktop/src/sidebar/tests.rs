#![allow(clippy::unwrap_used, reason = "a test may fail by panic")]

use std::time::Instant;

use egui_kittest::Harness;
use egui_kittest::kittest::Queryable as _;

use super::hits::snippet_job;
use super::*;

struct Fixture {
    state: SidebarState,
    folders: Vec<FolderRow>,
    conversations: Vec<ConversationRow>,
    open: Option<i64>,
    hits: Option<Vec<SearchHit>>,
    deleted: Option<String>,
    actions: Vec<SidebarAction>,
}

fn row(id: i64, title: &str, folder: Option<i64>) -> ConversationRow {
    ConversationRow {
        id,
        title: title.into(),
        folder,
        when: "2 h".into(),
    }
}

fn fixture() -> Fixture {
    Fixture {
        state: SidebarState::default(),
        folders: vec![
            FolderRow {
                id: 7,
                name: "Work".into(),
            },
            FolderRow {
                id: 8,
                name: String::new(),
            },
        ],
        conversations: vec![
            row(1, "Kites", Some(7)),
            row(2, "Sums", None),
            row(3, "", Some(99)),
        ],
        open: Some(2),
        hits: None,
        deleted: None,
        actions: Vec::new(),
    }
}

fn harness(fixture: Fixture) -> Harness<'static, Fixture> {
    let mut harness = Harness::builder()
        .with_size(egui::vec2(300.0, 600.0))
        .with_max_steps(60)
        .allow_missing_glyphs()
        .build_ui_state(
            |ui, fixture: &mut Fixture| {
                let view = SidebarView {
                    folders: &fixture.folders,
                    conversations: &fixture.conversations,
                    open: fixture.open,
                    hits: fixture.hits.as_deref(),
                    deleted: fixture.deleted.as_deref(),
                };
                sidebar_ui(ui, &mut fixture.state, &view, &mut fixture.actions);
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

fn taken(harness: &mut Harness<'_, Fixture>) -> Vec<SidebarAction> {
    std::mem::take(&mut harness.state_mut().actions)
}

#[test]
fn conversations_are_opened_and_begun() {
    let mut harness = harness(fixture());
    click(&mut harness, "Conversation Kites");
    click(&mut harness, "New conversation");
    click(&mut harness, "Import…");
    // One whose folder is gone is shown outside of all.
    click(&mut harness, "Conversation Untitled");
    assert_eq!(
        taken(&mut harness),
        [
            SidebarAction::Open(1),
            SidebarAction::New,
            SidebarAction::Import,
            SidebarAction::Open(3)
        ]
    );
}

#[test]
fn folders_close_and_open() {
    let mut harness = harness(fixture());
    click(&mut harness, "Close folder Work, 1 conversation");
    assert!(harness.query_by_label("Conversation Kites").is_none());
    assert_eq!(
        harness.state().state.closed_folders().collect::<Vec<_>>(),
        [7]
    );
    click(&mut harness, "Open folder Work, 1 conversation");
    harness.get_by_label("Conversation Kites");
    harness.get_by_label("Close folder Untitled, 0 conversations");
    assert_eq!(taken(&mut harness), []);
}

#[test]
fn names_change_in_place() {
    let mut harness = harness(fixture());
    click(&mut harness, "Menu of Sums");
    click(&mut harness, "Rename");
    let field = harness.get_by_label("Title of the conversation");
    assert!(field.is_focused());
    field.type_text("!");
    harness.run();
    harness.key_press(Key::Enter);
    harness.run();
    let [SidebarAction::Rename { id: 2, title }] = &taken(&mut harness)[..] else {
        panic!()
    };
    assert!(title.contains('!') && title.contains("Sums"));

    // Escape, nothing and the same name change nothing.
    click(&mut harness, "Menu of Sums");
    click(&mut harness, "Rename");
    harness
        .get_by_label("Title of the conversation")
        .type_text("x");
    harness.run();
    harness.key_press(Key::Escape);
    harness.run();
    harness.get_by_label("Conversation Sums");
    click(&mut harness, "Menu of Sums");
    click(&mut harness, "Rename");
    harness.key_press(Key::Enter);
    harness.run();
    assert_eq!(taken(&mut harness), []);

    click(&mut harness, "Menu of folder Work");
    click(&mut harness, "Rename folder");
    harness.get_by_label("Name of the folder").type_text("2");
    harness.run();
    harness.key_press(Key::Enter);
    harness.run();
    assert!(
        matches!(&taken(&mut harness)[..], [SidebarAction::RenameFolder { id: 7, name }] if name.contains('2'))
    );

    click(&mut harness, "New folder");
    harness
        .get_by_label("Name of the new folder")
        .type_text("Home");
    harness.run();
    harness.key_press(Key::Enter);
    harness.run();
    assert_eq!(
        taken(&mut harness),
        [SidebarAction::NewFolder("Home".into())]
    );
}

#[test]
fn conversations_are_deleted_moved_and_exported_by_their_menu() {
    let mut harness = harness(fixture());
    click(&mut harness, "Menu of Kites");
    click(&mut harness, "Delete");
    assert_eq!(taken(&mut harness), [SidebarAction::Delete(1)]);
    click(&mut harness, "Menu of Sums");
    click(&mut harness, "Move to");
    click(&mut harness, "Move to Work");
    assert_eq!(
        taken(&mut harness),
        [SidebarAction::Move {
            id: 2,
            folder: Some(7)
        }]
    );
    click(&mut harness, "Menu of Kites");
    click(&mut harness, "Move to");
    click(&mut harness, "No folder");
    assert_eq!(
        taken(&mut harness),
        [SidebarAction::Move {
            id: 1,
            folder: None
        }]
    );
    for &(format, name) in ExportFormat::ALL {
        click(&mut harness, "Menu of Sums");
        click(&mut harness, "Export");
        click(&mut harness, &format!("Export as {name}"));
        assert_eq!(
            taken(&mut harness),
            [SidebarAction::Export { id: 2, format }]
        );
    }
    click(&mut harness, "Menu of folder Work");
    click(&mut harness, "Delete folder");
    assert_eq!(taken(&mut harness), [SidebarAction::DeleteFolder(7)]);
}

#[test]
fn keys_on_a_row_rename_and_delete_it() {
    let mut harness = harness(fixture());
    harness.get_by_label("Conversation Sums").focus();
    harness.run();
    harness.key_press(Key::Delete);
    harness.run();
    assert_eq!(taken(&mut harness), [SidebarAction::Delete(2)]);
    harness.key_press(Key::Enter);
    harness.run();
    assert_eq!(taken(&mut harness), [SidebarAction::Open(2)]);
    harness.key_press(Key::F2);
    harness.run();
    harness.get_by_label("Title of the conversation");
}

#[test]
fn a_deletion_can_be_undone() {
    let mut fixture = fixture();
    fixture.deleted = Some("Kites".into());
    let mut harness = harness(fixture);
    harness.get_by_label("Deleted “Kites”");
    click(&mut harness, "Undo the deletion");
    click(&mut harness, "Dismiss the undo");
    assert_eq!(
        taken(&mut harness),
        [SidebarAction::Undo, SidebarAction::DismissUndo]
    );
}

#[test]
fn a_search_shows_its_hits() {
    let mut harness = harness(fixture());
    harness.state_mut().state.focus_search();
    harness.run();
    harness
        .get_by_label("Search conversations")
        .type_text("kite");
    harness.run();
    assert_eq!(taken(&mut harness), [SidebarAction::Search("kite".into())]);
    harness.get_by_label("Searching…");
    harness.state_mut().hits = Some(vec![]);
    harness.run();
    harness.get_by_label("Nothing found for “kite”");
    harness.state_mut().hits = Some(vec![SearchHit {
        conversation: 1,
        message: Some(12),
        title: "Kites".into(),
        snippet: "a red kite flew".into(),
        marks: std::iter::once(6..10).collect(),
    }]);
    harness.run();
    click(&mut harness, "Found 1 in Kites: a red kite flew");
    assert_eq!(
        taken(&mut harness),
        [SidebarAction::OpenHit {
            conversation: 1,
            message: Some(12)
        }]
    );
    harness.state_mut().state.focus_search();
    harness.run();
    harness.key_press(Key::Escape);
    harness.run();
    assert_eq!(taken(&mut harness), [SidebarAction::Search(String::new())]);
    harness.get_by_label("Conversation Kites");
}

#[test]
fn marks_that_do_not_fit_the_snippet_are_left_out() {
    let hit = SearchHit {
        conversation: 1,
        message: None,
        title: String::new(),
        snippet: "é kite".into(),
        #[allow(clippy::reversed_empty_ranges, reason = "a store may be wrong")]
        marks: vec![0..1, 3..7, 5..2, 0..2, 3..99, usize::MAX..usize::MAX],
    };
    let ctx = egui::Context::default();
    let mut texts = Vec::new();
    let _ = ctx.run_ui(egui::RawInput::default(), |ui| {
        let job = snippet_job(ui, &hit);
        texts = job
            .sections
            .iter()
            .map(|section| {
                job.text[section.byte_range.start.0..section.byte_range.end.0].to_owned()
            })
            .collect();
    });
    assert_eq!(texts, ["é ", "kite"]);
}

#[test]
fn of_thousands_of_conversations_those_in_sight_are_drawn() {
    let mut fixture = fixture();
    fixture.folders = (0..200)
        .map(|id| FolderRow {
            id,
            name: format!("Folder {id}"),
        })
        .collect();
    fixture.conversations = (0..5000)
        .map(|id| {
            row(
                id,
                &format!("Conversation {id} 漢字 שלום \u{202e}"),
                (id % 2 == 0).then_some(id % 200),
            )
        })
        .collect();
    fixture.open = Some(4999);
    let mut harness = harness(fixture);
    assert!(harness.state().state.n_drawn < 60);
    let start = Instant::now();
    harness.run_steps(20);
    let time = start.elapsed() / 20;
    println!("a frame of 5,000 conversations: {time:?}");
    // The one that is open is in sight.
    let is_there = |label: &str| {
        harness
            .query_by(|node| node.label().is_some_and(|found| found.starts_with(label)))
            .is_some()
    };
    assert!(is_there("Conversation Conversation 4999"));
}
