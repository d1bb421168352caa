//! New, old, newer and foreign databases; folders and disks that take nothing.

use std::fs;

use super::*;
use crate::store::schema;

fn bytes(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap()
}

#[test]
fn what_was_written_is_there_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a b/ü?#%/chats.sqlite");
    let (mut store, notices) = Store::open(&path).unwrap();
    assert_eq!(notices, []);
    let id = rich(&mut store);
    let before = store.path(id).unwrap();
    let export = store.export(id, ExportFormat::Json).unwrap();
    assert_eq!(
        store.file().map(fs::canonicalize).unwrap().unwrap(),
        fs::canonicalize(&path).unwrap()
    );
    drop(store);
    let (store, notices) = Store::open(&path).unwrap();
    assert_eq!(notices, []);
    assert_eq!(store.path(id).unwrap(), before);
    assert_eq!(store.export(id, ExportFormat::Json).unwrap(), export);
    drop(store);
    let names: Vec<_> = fs::read_dir(path.parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(
        names.iter().all(|name| !name.contains(".instance-")),
        "{names:?}"
    );
}

#[test]
fn the_connection_is_set_up() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(&folder.path().join("db")).unwrap();
    let number = |pragma: &str| -> i64 {
        let sql = format!("PRAGMA {pragma}");
        store
            .connection
            .query_row(&sql, [], |row| row.get(0))
            .unwrap()
    };
    assert_eq!(number("foreign_keys"), 1);
    assert_eq!(number("synchronous"), 1);
    assert_eq!(number("busy_timeout"), BUSY_TIMEOUT.as_millis() as i64);
    assert_eq!(number("user_version"), i64::from(VERSION));
    assert_eq!(number("application_id"), i64::from(schema::APPLICATION_ID));
    let mode: String = store
        .connection
        .query_row("PRAGMA journal_mode", [], |row| row.get(0))
        .unwrap();
    assert_eq!(mode, "wal");
}

#[test]
fn empty_files_are_new_databases() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    fs::write(&path, b"").unwrap();
    let (mut store, notices) = Store::open(&path).unwrap();
    assert_eq!(notices, []);
    store.create_conversation("x", None).unwrap();

    // An empty database with a header.
    let path = folder.path().join("header");
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch("VACUUM").unwrap();
    drop(connection);
    assert!(!bytes(&path).is_empty());
    assert_eq!(Store::open(&path).unwrap().1, []);
}

/// A database of version 1 with a conversation.
fn version_1(path: &Path) {
    let mut connection = Connection::open(path).unwrap();
    assert_eq!(schema::migrate_to(&mut connection, 1).unwrap(), 0);
    connection
        .execute_batch(
            r#"INSERT INTO conversation VALUES (7, 'Old title', 1000, 2000, '{"seed":5}', NULL, NULL);
               INSERT INTO node VALUES (3, 7, NULL, 'complete', NULL, 1000, 1,
                   '{"role":"user","content":"an elephant"}', NULL);
               INSERT INTO node VALUES (4, 7, 3, 'complete', NULL, 1001, 2,
                   '{"role":"assistant","content":"a mouse","reasoning_content":"tüftel"}', '{"model":"m"}');
               INSERT INTO node VALUES (5, 7, 3, 'streaming', 'gone', 1002, 3,
                   '{"role":"assistant","content":"a whale"}', NULL);
               INSERT INTO node VALUES (6, 7, 3, 'complete', NULL, 1003, 0, 'torn', NULL);
               INSERT INTO token_ids VALUES (4, 'answer', x'01000000');
               UPDATE conversation SET leaf = 4;
               INSERT INTO setting VALUES ('theme', '"dark"');"#,
        )
        .unwrap();
}

#[test]
fn version_1_becomes_the_current_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    version_1(&path);
    let (mut store, notices) = Store::open(&path).unwrap();
    assert_eq!(notices, [Notice::Stopped { n_messages: 1 }]);
    let list = store.conversations().unwrap();
    let expected = Conversation {
        id: ConversationId(7),
        title: "Old title".into(),
        folder: None,
        created_ms: 1000,
        updated_ms: 2000,
        leaf: Some(NodeId(4)),
        deleted_ms: None,
    };
    assert_eq!(list, [expected]);
    assert_eq!(
        contents(&store, ConversationId(7)),
        ["an elephant", "a mouse"]
    );
    let facts = store.node(NodeId(4)).unwrap().facts.unwrap();
    assert_eq!((facts.model.as_str(), facts.ids), ("m", vec![1]));
    assert_eq!(store.node(NodeId(5)).unwrap().state, NodeState::Stopped);
    assert_eq!(store.get::<String>("theme").unwrap(), "dark");
    for (query, node) in [
        ("old", None),
        ("elephant", Some(NodeId(3))),
        ("tuftel", Some(NodeId(4))),
        ("whale", Some(NodeId(5))),
    ] {
        let hits = store.search(query, 9).unwrap();
        assert_eq!(
            hits.iter().map(|hit| hit.node).collect::<Vec<_>>(),
            [node],
            "{query}"
        );
    }
    let folder = store.create_folder("new").unwrap();
    store
        .move_conversation(ConversationId(7), Some(folder))
        .unwrap();
    drop(store);
    let (store, notices) = Store::open(&path).unwrap();
    assert_eq!(notices, []);
    assert_eq!(store.conversations().unwrap()[0].folder, Some(folder));
}

#[test]
fn a_migration_that_fails_leaves_the_old_version() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    version_1(&path);
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch("CREATE TABLE node_search (x)")
        .unwrap();
    let error = Store::open(&path).map(drop).unwrap_err();
    assert!(error.to_string().contains("node_search"), "{error}");
    let number = |sql: &str| -> i64 { connection.query_row(sql, [], |row| row.get(0)).unwrap() };
    assert_eq!(number("PRAGMA user_version"), 1);
    assert_eq!(number("SELECT count(*) FROM node"), 4);
    assert_eq!(
        number("SELECT count(*) FROM sqlite_schema WHERE name = 'folder'"),
        0
    );
    connection.execute_batch("DROP TABLE node_search").unwrap();
    drop(connection);
    let (store, _) = Store::open(&path).unwrap();
    assert_eq!(store.conversations().unwrap().len(), 1);
}

#[test]
fn a_newer_database_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let (mut store, _) = Store::open(&path).unwrap();
    rich(&mut store);
    drop(store);
    let newer = VERSION + 1;
    let connection = Connection::open(&path).unwrap();
    connection
        .pragma_update(None, "user_version", newer)
        .unwrap();
    drop(connection);
    let before = bytes(&path);
    let error = Store::open(&path).map(drop).unwrap_err();
    assert!(matches!(error, StoreError::Newer { found, supported: VERSION, .. } if found == newer));
    assert!(
        error
            .to_string()
            .contains("has version 3 of the schema, expected at most 2"),
        "{error}"
    );
    assert_eq!(bytes(&path), before);

    // The version may stand in the log only, and a crash may have left one behind.
    let log = folder.path().join("db-wal");
    let connection = Connection::open(&path).unwrap();
    connection
        .pragma_update(None, "user_version", VERSION)
        .unwrap();
    connection
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        .unwrap();
    connection
        .pragma_update(None, "user_version", newer)
        .unwrap();
    let copy = folder.path().join("copy");
    fs::copy(&path, &copy).unwrap();
    fs::copy(&log, folder.path().join("copy-wal")).unwrap();
    drop(connection);
    let before = (bytes(&copy), bytes(&folder.path().join("copy-wal")));
    assert!(!before.1.is_empty());
    let error = Store::open(&copy).map(drop).unwrap_err();
    assert!(matches!(error, StoreError::Newer { .. }), "{error}");
    assert_eq!(
        (bytes(&copy), bytes(&folder.path().join("copy-wal"))),
        before
    );
}

#[test]
fn a_database_of_another_program_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    for (name, sql) in [
        ("other id", "PRAGMA application_id = 77; CREATE TABLE a (b)"),
        ("no id", "CREATE TABLE a (b); INSERT INTO a VALUES (1)"),
        (
            "no tables",
            "PRAGMA application_id = 77; PRAGMA user_version = 1",
        ),
        (
            "a newer one",
            "PRAGMA application_id = 77; PRAGMA user_version = 1000",
        ),
    ] {
        let path = folder.path().join(name);
        Connection::open(&path).unwrap().execute_batch(sql).unwrap();
        let before = bytes(&path);
        let error = Store::open(&path).map(drop).unwrap_err();
        assert!(
            matches!(error, StoreError::Foreign { .. }),
            "{name}: {error}"
        );
        assert!(
            error
                .to_string()
                .contains("is a database of another program"),
            "{error}"
        );
        assert_eq!(bytes(&path), before, "{name}");
    }
}

#[test]
fn a_folder_that_takes_no_files_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, b"x").unwrap();
    let error = Store::open(&file.join("chats.sqlite"))
        .map(drop)
        .unwrap_err();
    assert!(matches!(error, StoreError::NotWritable { .. }), "{error:?}");
    assert!(
        error
            .to_string()
            .contains(&format!("{} cannot be written", file.display())),
        "{error}"
    );
    assert_eq!(bytes(&file), b"x");

    let error = Store::open(folder.path()).map(drop).unwrap_err();
    assert!(
        error.to_string().contains("is a folder, expected a file"),
        "{error}"
    );

    // No user, whatever their rights, makes files there.
    #[cfg(target_os = "linux")]
    {
        let error = Store::open("/proc/chats.sqlite".as_ref())
            .map(drop)
            .unwrap_err();
        assert!(
            error.to_string().starts_with("/proc cannot be written"),
            "{error}"
        );
    }
}

#[cfg(unix)]
#[test]
fn a_database_that_may_only_be_read_is_named() {
    use std::os::unix::fs::PermissionsExt as _;

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let (mut store, _) = Store::open(&path).unwrap();
    store.create_conversation("x", None).unwrap();
    drop(store);
    let set_mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    // The superuser could write all the same; the wish is plain, though.
    set_mode(&path, 0o444);
    let error = Store::open(&path).map(drop).unwrap_err();
    assert!(matches!(error, StoreError::NotWritable { .. }), "{error:?}");
    assert!(
        error.to_string().ends_with("the file may only be read"),
        "{error}"
    );
    set_mode(&path, 0o644);
    Store::open(&path).unwrap();
    set_mode(folder.path(), 0o555);
    // Folders hold nobody back who is the superuser.
    let is_root = fs::write(folder.path().join("probe"), b"").is_ok();
    let opened = Store::open(&path).map(drop);
    set_mode(folder.path(), 0o755);
    assert_eq!(opened.is_ok(), is_root, "{opened:?}");
    let (store, _) = Store::open(&path).unwrap();
    assert_eq!(store.conversations().unwrap().len(), 1);
}

#[cfg(unix)]
#[test]
fn a_link_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let (link, target) = (folder.path().join("link"), other.path().join("db"));
    Store::open(&target)
        .unwrap()
        .0
        .create_conversation("x", None)
        .unwrap();
    std::os::unix::fs::symlink(&target, &link).unwrap();
    let (store, _) = Store::open(&link).unwrap();
    assert_eq!(store.conversations().unwrap().len(), 1);
    assert_eq!(
        fs::read_dir(folder.path()).unwrap().count(),
        1,
        "nothing beside the link"
    );
}

#[test]
fn a_full_disk_loses_nothing_that_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let (mut store, _) = Store::open(&path).unwrap();
    let id = store.create_conversation("kept", None).unwrap();
    let node = store
        .append(id, None, &assistant("kept answer"), NodeState::Streaming)
        .unwrap();
    let n_pages: i64 = store
        .connection
        .query_row("PRAGMA page_count", [], |row| row.get(0))
        .unwrap();
    let limit = format!("PRAGMA max_page_count = {}", n_pages + 2);
    store.connection.query_row(&limit, [], |_| Ok(())).unwrap();
    let long = assistant(&"long ".repeat(100_000));
    for _ in 0..2 {
        let error = store
            .update(node, &long, NodeState::Complete, Some(&facts()))
            .unwrap_err();
        assert!(matches!(error, StoreError::Full), "{error:?}");
        assert!(error.to_string().starts_with("no space is left"), "{error}");
        let error = store
            .append(id, Some(node), &long, NodeState::Complete)
            .unwrap_err();
        assert!(matches!(error, StoreError::Full), "{error:?}");
        let found = store.node(node).unwrap();
        assert_eq!(
            (found.message, found.state),
            (assistant("kept answer"), NodeState::Streaming)
        );
        assert_eq!(contents(&store, id), ["kept answer"]);
    }
    // Once there is room again, all goes on.
    store
        .connection
        .query_row("PRAGMA max_page_count = 1000000", [], |_| Ok(()))
        .unwrap();
    store
        .update(node, &long, NodeState::Complete, Some(&facts()))
        .unwrap();
    drop(store);
    let (store, notices) = Store::open(&path).unwrap();
    assert_eq!(notices, []);
    assert_eq!(store.node(node).unwrap().message, long);
}
