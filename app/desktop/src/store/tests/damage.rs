//! Damaged databases are set aside, and what can be read of them is taken over.

use std::fs;

use super::*;

/// A database of many pages; returns its conversations.
fn filled(path: &Path, n_conversations: usize) -> Vec<ConversationId> {
    let (mut store, _) = Store::open(path).unwrap();
    let folder = store.create_folder("folder").unwrap();
    store.set("theme", &"dark").unwrap();
    (0..n_conversations)
        .map(|i| {
            let id = rich(&mut store);
            store
                .rename_conversation(id, &format!("title {i}"))
                .unwrap();
            store.move_conversation(id, Some(folder)).unwrap();
            id
        })
        .collect()
}

/// What was set aside: file, conversations, messages.
fn set_aside(notices: &[Notice]) -> (PathBuf, usize, usize) {
    match notices {
        [
            Notice::SetAside {
                file,
                n_conversations,
                n_messages,
                ..
            },
        ] => (file.clone(), *n_conversations, *n_messages),
        other => panic!("{other:?}"),
    }
}

fn damage_page(path: &Path, page: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[page * 4096..(page + 1) * 4096].fill(0xA5);
    fs::write(path, bytes).unwrap();
}

#[test]
fn garbage_is_set_aside_and_never_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chats.sqlite");
    let mut files = Vec::new();
    let mut half = b"SQLite format 3\0".to_vec();
    half.extend([0x10, 0x00, 7, 7, 7]);
    let garbage: [&[u8]; 5] = [b"x", b"no database", &[0; 10_000], &half, &[0xFF; 4096]];
    // Several in one second: each gets a name of its own.
    for garbage in garbage {
        fs::write(&path, garbage).unwrap();
        fs::write(folder.path().join("chats.sqlite-wal"), b"log").unwrap();
        let (store, notices) = Store::open(&path).unwrap();
        let (file, n_conversations, _) = set_aside(&notices);
        assert_eq!(n_conversations, 0);
        assert!(notices[0].to_string().contains(&file.display().to_string()));
        assert!(store.conversations().unwrap().is_empty());
        drop(store);
        files.push((file, garbage));
    }
    for (file, garbage) in files {
        assert_eq!(fs::read(&file).unwrap(), garbage);
        assert_eq!(fs::read(with_suffix(&file, "-wal")).unwrap(), b"log");
        let name = file.file_name().unwrap().to_str().unwrap();
        let stamp = name.strip_prefix("chats.sqlite.damaged-").unwrap();
        let shape: String = stamp
            .chars()
            .map(|c| if c.is_ascii_digit() { '0' } else { c })
            .collect();
        assert!(shape.starts_with("00000000-000000"), "{name}");
    }
    assert_eq!(Store::open(&path).unwrap().1, [], "the new one is in order");
}

#[test]
fn a_log_without_its_database_is_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    for is_there in [false, true] {
        fs::write(with_suffix(&path, "-wal"), b"log").unwrap();
        if is_there {
            fs::write(&path, b"").unwrap();
        }
        let (store, notices) = Store::open(&path).unwrap();
        let (file, ..) = set_aside(&notices);
        assert_eq!(fs::read(with_suffix(&file, "-wal")).unwrap(), b"log");
        drop(store);
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_database_cut_in_the_middle_is_set_aside_and_read_as_far_as_it_goes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let n = 60;
    filled(&path, n);
    let whole = fs::read(&path).unwrap();
    for cut in [whole.len() * 3 / 4 / 4096 * 4096, whole.len() / 2 + 100] {
        fs::write(&path, &whole[..cut]).unwrap();
        let (mut store, notices) = Store::open(&path).unwrap();
        let (file, n_conversations, n_messages) = set_aside(&notices);
        assert_eq!(fs::read(&file).unwrap(), whole[..cut]);
        // Half the file is there; a tenth of the messages is a bound that random loss would not miss.
        assert!((n / 10..=n).contains(&n_conversations), "{n_conversations}");
        assert!(
            (6 * n / 10..6 * n).contains(&n_messages),
            "{n_messages} of {}",
            6 * n
        );
        let list = store.conversations().unwrap();
        assert_eq!(list.len(), n_conversations);
        let n_shown: usize = list
            .iter()
            .map(|found| store.path(found.id).unwrap().len())
            .sum();
        assert!(n_shown > 0);
        assert!(!store.search("question", 1000).unwrap().is_empty());
        drop(store);
        assert_eq!(Store::open(&path).unwrap().1, [], "the new one is in order");
    }
}

#[test]
fn every_single_page_may_be_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let n = 12;
    filled(&path, n);
    let whole = fs::read(&path).unwrap();
    let mut n_found = 0;
    for page in 0..whole.len() / 4096 {
        fs::write(&path, &whole).unwrap();
        damage_page(&path, page);
        let damaged = fs::read(&path).unwrap();
        let (mut store, notices) = Store::open(&path).unwrap();
        if notices.is_empty() {
            // A page of token ids alone: nothing tells it from other ids.
            assert_eq!(store.conversations().unwrap().len(), n, "page {page}");
        } else {
            n_found += 1;
            let (file, ..) = set_aside(&notices);
            assert_eq!(fs::read(&file).unwrap(), damaged, "page {page}");
        }
        for conversation in store.conversations().unwrap() {
            store.path(conversation.id).unwrap();
        }
        let id = rich(&mut store);
        let hits = store.search("edited question", 1000).unwrap();
        assert!(
            hits.iter().any(|hit| hit.conversation == id),
            "page {page}: what is written now is found"
        );
        drop(store);
        assert_eq!(Store::open(&path).unwrap().1, [], "page {page}");
        for entry in fs::read_dir(folder.path()).unwrap() {
            let _ = fs::remove_file(entry.unwrap().path());
        }
    }
    let n_pages = whole.len() / 4096;
    assert!(n_found * 10 > n_pages * 5, "{n_found} of {n_pages} pages");
}

#[test]
fn a_damaged_search_index_keeps_nothing_from_being_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    filled(&path, 5);
    let (mut store, _) = Store::open(&path).unwrap();
    let id = store.create_conversation("x", None).unwrap();
    let open_end = store
        .append(id, None, &assistant("cut off"), NodeState::Streaming)
        .unwrap();
    let damage = |connection: &Connection| {
        // Ids 1 and 10 are averages and structure; all others are parts of the index.
        for table in ["title_search_data", "node_search_data"] {
            let sql = format!("UPDATE {table} SET block = x'A5A5A5A5A5A5A5A5' WHERE id <> 1");
            assert!(connection.execute(&sql, []).unwrap() > 1);
        }
    };
    damage(&store.connection);
    drop(store);
    // Recovery meets it,
    let (mut store, notices) = Store::open(&path).unwrap();
    assert_eq!(notices, [Notice::Stopped { n_messages: 1 }]);
    assert_eq!(store.search("cut off", 9).unwrap()[0].node, Some(open_end));
    // and a search,
    damage(&store.connection);
    drop(store);
    let (mut store, notices) = Store::open(&path).unwrap();
    assert_eq!(notices, []);
    assert_eq!(store.search("edited question", 9).unwrap().len(), 5);
    // and an answer that is done.
    damage(&store.connection);
    drop(store);
    let (mut store, _) = Store::open(&path).unwrap();
    store
        .update(open_end, &assistant("went on"), NodeState::Complete, None)
        .unwrap();
    assert_eq!(store.search("went on", 9).unwrap()[0].node, Some(open_end));
    assert_eq!(store.search("title", 9).unwrap().len(), 5);
    assert_eq!(store.search("edited question", 9).unwrap().len(), 5);
}

#[test]
fn salvage_takes_everything_of_a_database_that_can_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let ids = filled(&path, 3);
    let (mut store, _) = Store::open(&path).unwrap();
    store.delete_conversation(ids[1]).unwrap();
    let exports: Vec<_> = ids
        .iter()
        .map(|&id| store.export(id, ExportFormat::Json).unwrap())
        .collect();
    drop(store);
    // The one damage: a version that there never was.
    let connection = Connection::open(&path).unwrap();
    connection.pragma_update(None, "user_version", 0).unwrap();
    drop(connection);

    let (mut store, notices) = Store::open(&path).unwrap();
    let (_, n_conversations, n_messages) = set_aside(&notices);
    assert_eq!((n_conversations, n_messages), (3, 18));
    assert!(
        notices[0].to_string().contains("schema version is 0"),
        "{}",
        notices[0]
    );
    let list = store.conversations().unwrap();
    assert_eq!(list.len(), 2);
    let folders = store.folders().unwrap();
    assert_eq!(folders[0].name, "folder");
    assert!(list.iter().all(|found| found.folder == Some(folders[0].id)));
    assert_eq!(store.get::<String>("theme").unwrap(), "dark");
    let mut found: Vec<_> = list
        .iter()
        .map(|found| store.export(found.id, ExportFormat::Json).unwrap())
        .collect();
    found.sort_by_key(|text| exports.iter().position(|export| export == text));
    assert_eq!(found, [exports[0].clone(), exports[2].clone()]);
    store.restore_conversation(ConversationId(2)).unwrap();
    assert_eq!(
        store.export(ConversationId(2), ExportFormat::Json).unwrap(),
        exports[1]
    );
}

#[test]
fn messages_whose_conversation_or_parent_is_lost_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    filled(&path, 2);
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch(
            "PRAGMA foreign_keys = OFF;
             DELETE FROM conversation WHERE id = 1;
             DELETE FROM node WHERE id = 7;
             UPDATE node SET message = '7' WHERE id = 8;
             UPDATE node SET state = 'asleep', facts = '[' WHERE id = 9;
             PRAGMA user_version = 0;",
        )
        .unwrap();
    drop(connection);
    let (mut store, notices) = Store::open(&path).unwrap();
    let (_, n_conversations, n_messages) = set_aside(&notices);
    assert_eq!((n_conversations, n_messages), (2, 10));
    let list = store.conversations().unwrap();
    let titles: Vec<_> = list.iter().map(|found| found.title.as_str()).collect();
    assert!(
        titles.contains(&"Recovered") && titles.contains(&"title 1"),
        "{titles:?}"
    );
    let recovered = list
        .iter()
        .find(|found| found.title == "Recovered")
        .unwrap();
    assert_eq!(
        contents(&store, recovered.id)[..],
        ["question", "text\n```rust\nlet a = \"<&>\";", "```\n20 °C"],
        "the branch that was chosen last"
    );
    assert_eq!(store.search("other branch", 9).unwrap().len(), 2);
}

#[test]
fn a_damaged_database_that_is_in_use_stays_where_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    filled(&path, 20);
    let (other, _) = Store::open(&path).unwrap();
    let n_pages = fs::metadata(&path).unwrap().len() as usize / 4096;
    for page in n_pages / 2..n_pages {
        damage_page(&path, page);
    }
    let before = fs::read(&path).unwrap();
    let error = Store::open(&path).map(drop).unwrap_err();
    assert!(
        matches!(error, StoreError::DamagedInUse { .. }),
        "{error:?}"
    );
    assert_eq!(fs::read(&path).unwrap(), before);
    drop(other);
    let (_, notices) = Store::open(&path).unwrap();
    set_aside(&notices);
}
