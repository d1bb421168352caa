//! Conversations and the folders they lie in.

use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::{Result, StoreError};
use super::{ConversationId, FolderId, NodeId, Store, now_ms, search, settings};

/// A conversation as a list shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Conversation {
    /// Names it.
    pub id: ConversationId,
    /// Its title.
    pub title: String,
    /// The folder it lies in.
    pub folder: Option<FolderId>,
    /// When it began.
    pub created_ms: i64,
    /// When a message was last added or completed.
    pub updated_ms: i64,
    /// Last message of the chosen branch; `None` without messages.
    pub leaf: Option<NodeId>,
    /// When it was deleted; it can be restored until it is purged.
    pub deleted_ms: Option<i64>,
}

/// A folder.
#[derive(Clone, Debug, PartialEq)]
pub struct Folder {
    /// Names it.
    pub id: FolderId,
    /// What it is called; two may be called the same.
    pub name: String,
}

const COLUMNS: &str = "id, title, folder, created_ms, updated_ms, leaf, deleted_ms";

fn conversation_from_row(row: &Row) -> rusqlite::Result<Conversation> {
    Ok(Conversation {
        id: row.get(0)?,
        title: row.get(1)?,
        folder: row.get(2)?,
        created_ms: row.get(3)?,
        updated_ms: row.get(4)?,
        leaf: row.get(5)?,
        deleted_ms: row.get(6)?,
    })
}

fn no_conversation(id: ConversationId) -> StoreError {
    StoreError::NotFound {
        what: "conversation",
        id: id.0,
    }
}

fn no_folder(id: FolderId) -> StoreError {
    StoreError::NotFound {
        what: "folder",
        id: id.0,
    }
}

/// A deleted one, too, which an answer may still be written to.
pub(super) fn conversation(connection: &Connection, id: ConversationId) -> Result<Conversation> {
    let sql = format!("SELECT {COLUMNS} FROM conversation WHERE id = ?1");
    let found = connection
        .prepare_cached(&sql)?
        .query_row([id], conversation_from_row)
        .optional()?;
    found.ok_or_else(|| no_conversation(id))
}

pub(super) fn settings_text(connection: &Connection, id: ConversationId) -> Result<String> {
    let found = connection
        .prepare_cached("SELECT settings FROM conversation WHERE id = ?1")?
        .query_row([id], |row| row.get(0))
        .optional()?;
    found.ok_or_else(|| no_conversation(id))
}

/// What a new conversation is made of.
pub(super) struct NewConversation<'a> {
    pub title: &'a str,
    pub folder: Option<FolderId>,
    pub created_ms: i64,
    pub updated_ms: i64,
    /// JSON.
    pub settings: &'a str,
    pub deleted_ms: Option<i64>,
}

pub(super) fn insert(transaction: &Transaction, new: &NewConversation) -> Result<ConversationId> {
    if let Some(folder) = new.folder {
        check_folder(transaction, folder)?;
    }
    transaction
        .prepare_cached(
            "INSERT INTO conversation (title, folder, created_ms, updated_ms, settings, deleted_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![
            new.title,
            new.folder,
            new.created_ms,
            new.updated_ms,
            new.settings,
            new.deleted_ms
        ])?;
    let id = transaction.last_insert_rowid();
    search::index_title(transaction, id, new.title)?;
    Ok(ConversationId(id))
}

pub(super) fn insert_folder(transaction: &Transaction, name: &str) -> Result<FolderId> {
    transaction.execute(
        "INSERT INTO folder (name, position)
         SELECT ?1, coalesce(max(position), 0) + 1 FROM folder",
        [name],
    )?;
    Ok(FolderId(transaction.last_insert_rowid()))
}

fn check_folder(connection: &Connection, id: FolderId) -> Result<()> {
    let is_there = connection
        .prepare_cached("SELECT 1 FROM folder WHERE id = ?1")?
        .exists([id])?;
    is_there.then_some(()).ok_or_else(|| no_folder(id))
}

/// What one conversation is called until it gets a name: the first line of `text` that says something,
/// at most 60 characters of it.
pub fn title_from(text: &str) -> String {
    const N_CHARS: usize = 60;
    let lines = text.lines().map(|line| {
        let line = line.trim_matches(|c: char| c.is_whitespace() || "#*>`".contains(c));
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    });
    let line = lines.into_iter().find(|line| !line.is_empty());
    let line = line.unwrap_or_else(|| "New conversation".into());
    match line.char_indices().nth(N_CHARS) {
        None => line,
        Some(_) => {
            let mut title: String = line.chars().take(N_CHARS - 1).collect();
            title.truncate(title.trim_end().len());
            title + "…"
        }
    }
}

impl Store {
    /// All conversations that are not deleted, newest first, whatever folder they lie in.
    pub fn conversations(&self) -> Result<Vec<Conversation>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM conversation WHERE deleted_ms IS NULL
             ORDER BY updated_ms DESC, id DESC"
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        let rows = statement.query_map([], conversation_from_row)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// One conversation, deleted or not.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]
    pub fn conversation(&self, id: ConversationId) -> Result<Conversation> {
        conversation(&self.connection, id)
    }

    /// A new conversation without messages; its settings are the default.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] where there is no such folder.
    pub fn create_conversation(
        &mut self,
        title: &str,
        folder: Option<FolderId>,
    ) -> Result<ConversationId> {
        let now_ms = now_ms();
        self.write(|transaction| {
            let new = NewConversation {
                title,
                folder,
                created_ms: now_ms,
                updated_ms: now_ms,
                settings: "null",
                deleted_ms: None,
            };
            insert(transaction, &new)
        })
    }

    /// Gives a conversation another title.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]
    pub fn rename_conversation(&mut self, id: ConversationId, title: &str) -> Result<()> {
        self.write(|transaction| {
            let n_changed = transaction.execute(
                "UPDATE conversation SET title = ?2 WHERE id = ?1",
                params![id, title],
            )?;
            if n_changed == 0 {
                return Err(no_conversation(id));
            }
            search::index_title(transaction, id.0, title)
        })
    }

    /// Puts a conversation into a folder, or into none.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]
    pub fn move_conversation(
        &mut self,
        id: ConversationId,
        folder: Option<FolderId>,
    ) -> Result<()> {
        self.write(|transaction| {
            if let Some(folder) = folder {
                check_folder(transaction, folder)?;
            }
            let n_changed = transaction.execute(
                "UPDATE conversation SET folder = ?2 WHERE id = ?1",
                params![id, folder],
            )?;
            (n_changed > 0)
                .then_some(())
                .ok_or_else(|| no_conversation(id))
        })
    }

    /// Takes a conversation off the list. It can be restored until it is purged.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]
    pub fn delete_conversation(&mut self, id: ConversationId) -> Result<()> {
        self.set_deleted(id, Some(now_ms()))
    }

    /// Takes back [`Self::delete_conversation`].
    ///
    /// # Errors
    /// [`StoreError::NotFound`], also where it was purged.
    pub fn restore_conversation(&mut self, id: ConversationId) -> Result<()> {
        self.set_deleted(id, None)
    }

    fn set_deleted(&mut self, id: ConversationId, deleted_ms: Option<i64>) -> Result<()> {
        self.write(|transaction| {
            let n_changed = transaction.execute(
                "UPDATE conversation SET deleted_ms = ?2 WHERE id = ?1",
                params![id, deleted_ms],
            )?;
            (n_changed > 0)
                .then_some(())
                .ok_or_else(|| no_conversation(id))
        })
    }

    /// Removes for good what was deleted at `until_ms` or before; returns how many conversations.
    pub fn purge_deleted(&mut self, until_ms: i64) -> Result<usize> {
        self.write(|transaction| {
            let doomed = "SELECT id FROM conversation WHERE deleted_ms <= ?1";
            for sql in [
                format!(
                    "DELETE FROM node_search WHERE rowid IN
                     (SELECT id FROM node WHERE conversation IN ({doomed}))"
                ),
                format!("DELETE FROM title_search WHERE rowid IN ({doomed})"),
                format!("DELETE FROM node WHERE conversation IN ({doomed})"),
            ] {
                transaction.execute(&sql, [until_ms])?;
            }
            Ok(transaction.execute(
                "DELETE FROM conversation WHERE deleted_ms <= ?1",
                [until_ms],
            )?)
        })
    }

    /// Settings of a conversation; the default where there are none, or none that can be read as `T`,
    /// which is logged.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]
    pub fn conversation_settings<T: DeserializeOwned + Default>(
        &self,
        id: ConversationId,
    ) -> Result<T> {
        let text = settings_text(&self.connection, id)?;
        let what = || format!("settings of conversation {}", id.0);
        Ok(settings::read(&text, what))
    }

    /// Sets the settings of a conversation.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Json`]
    pub fn set_conversation_settings<T: Serialize>(
        &mut self,
        id: ConversationId,
        settings: &T,
    ) -> Result<()> {
        let text = settings::write(settings, || format!("settings of conversation {}", id.0))?;
        self.write(|transaction| {
            let n_changed = transaction.execute(
                "UPDATE conversation SET settings = ?2 WHERE id = ?1",
                params![id, text],
            )?;
            (n_changed > 0)
                .then_some(())
                .ok_or_else(|| no_conversation(id))
        })
    }

    /// All folders, in their order.
    pub fn folders(&self) -> Result<Vec<Folder>> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT id, name FROM folder ORDER BY position, id")?;
        let rows = statement.query_map([], |row| {
            Ok(Folder {
                id: row.get(0)?,
                name: row.get(1)?,
            })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// A new folder, behind the others.
    pub fn create_folder(&mut self, name: &str) -> Result<FolderId> {
        self.write(|transaction| insert_folder(transaction, name))
    }

    /// Gives a folder another name.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]
    pub fn rename_folder(&mut self, id: FolderId, name: &str) -> Result<()> {
        self.write(|transaction| {
            let n_changed = transaction.execute(
                "UPDATE folder SET name = ?2 WHERE id = ?1",
                params![id, name],
            )?;
            (n_changed > 0).then_some(()).ok_or_else(|| no_folder(id))
        })
    }

    /// Puts folders into this order; those that are not named follow in the order they had.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]
    pub fn order_folders(&mut self, order: &[FolderId]) -> Result<()> {
        self.write(|transaction| {
            let mut rest: Vec<FolderId> = transaction
                .prepare("SELECT id FROM folder ORDER BY position, id")?
                .query_map([], |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()?;
            if let Some(&unknown) = order.iter().find(|id| !rest.contains(id)) {
                return Err(no_folder(unknown));
            }
            rest.retain(|id| !order.contains(id));
            for (position, id) in (0_i64..).zip(order.iter().chain(&rest)) {
                transaction.execute(
                    "UPDATE folder SET position = ?2 WHERE id = ?1",
                    params![id, position],
                )?;
            }
            Ok(())
        })
    }

    /// Removes a folder; its conversations lie in none then.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]
    pub fn delete_folder(&mut self, id: FolderId) -> Result<()> {
        self.write(|transaction| {
            let n_changed = transaction.execute("DELETE FROM folder WHERE id = ?1", [id])?;
            (n_changed > 0).then_some(()).ok_or_else(|| no_folder(id))
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panic")]
mod tests {
    use serde::Deserialize;
    use serde_json::{Value, json};

    use super::*;

    fn titles(store: &Store) -> Vec<String> {
        let list = store.conversations().unwrap();
        list.into_iter().map(|found| found.title).collect()
    }

    fn folder_names(store: &Store) -> Vec<String> {
        let list = store.folders().unwrap();
        list.into_iter().map(|found| found.name).collect()
    }

    #[test]
    fn the_newest_comes_first_and_ties_go_to_the_later_one() {
        let mut store = Store::in_memory().unwrap();
        let ids: Vec<_> = ["a", "b", "c", "d"]
            .iter()
            .map(|title| store.create_conversation(title, None).unwrap())
            .collect();
        for (&id, updated_ms) in ids.iter().zip([5, 9, 5, -1]) {
            let sql = "UPDATE conversation SET updated_ms = ?2 WHERE id = ?1";
            let n = store.connection.execute(sql, params![id, updated_ms]);
            assert_eq!(n, Ok(1));
        }
        assert_eq!(titles(&store), ["b", "c", "a", "d"]);
    }

    #[test]
    fn a_title_may_be_any_text() {
        let mut store = Store::in_memory().unwrap();
        for title in [
            "",
            "it's \"quoted\"; DROP TABLE node",
            "nul \0 in it",
            "日本\n語",
        ] {
            let id = store.create_conversation("x", None).unwrap();
            store.rename_conversation(id, title).unwrap();
            assert_eq!(store.conversation(id).unwrap().title, title);
        }
    }

    #[test]
    fn what_was_deleted_comes_back_until_it_is_purged() {
        let mut store = Store::in_memory().unwrap();
        let id = store.create_conversation("kept", None).unwrap();
        let doomed = store.create_conversation("doomed", None).unwrap();
        store.delete_conversation(doomed).unwrap();
        assert_eq!(titles(&store), ["kept"]);
        assert!(store.conversation(doomed).unwrap().deleted_ms.is_some());
        store.restore_conversation(doomed).unwrap();
        assert_eq!(titles(&store), ["doomed", "kept"]);

        store.delete_conversation(doomed).unwrap();
        let deleted_ms = store.conversation(doomed).unwrap().deleted_ms.unwrap();
        assert_eq!(store.purge_deleted(deleted_ms - 1).unwrap(), 0);
        assert_eq!(store.purge_deleted(deleted_ms).unwrap(), 1);
        assert!(matches!(
            store.restore_conversation(doomed),
            Err(StoreError::NotFound { what: "conversation", id }) if id == doomed.0
        ));
        assert_eq!(titles(&store), ["kept"]);
        let next = store.create_conversation("next", None).unwrap();
        assert!(next > doomed && doomed > id, "ids are not used again");
    }

    #[test]
    fn folders_keep_their_order_and_leave_their_conversations_behind() {
        let mut store = Store::in_memory().unwrap();
        let ids: Vec<_> = ["a", "b", "c", "a"]
            .iter()
            .map(|name| store.create_folder(name).unwrap())
            .collect();
        assert_eq!(folder_names(&store), ["a", "b", "c", "a"]);
        store.order_folders(&[ids[2], ids[3]]).unwrap();
        assert_eq!(folder_names(&store), ["c", "a", "a", "b"]);
        store.rename_folder(ids[0], "z").unwrap();
        assert_eq!(folder_names(&store), ["c", "a", "z", "b"]);

        let id = store.create_conversation("x", Some(ids[1])).unwrap();
        assert_eq!(store.conversation(id).unwrap().folder, Some(ids[1]));
        store.move_conversation(id, Some(ids[0])).unwrap();
        store.delete_folder(ids[0]).unwrap();
        assert_eq!(store.conversation(id).unwrap().folder, None);
        assert_eq!(folder_names(&store), ["c", "a", "b"]);
        let new = store.create_folder("new").unwrap();
        assert!(!ids.contains(&new));
        assert_eq!(folder_names(&store), ["c", "a", "b", "new"]);
    }

    #[test]
    fn what_is_not_there_is_named() {
        let mut store = Store::in_memory().unwrap();
        let id = store.create_conversation("x", None).unwrap();
        let (no, none) = (FolderId(77), ConversationId(88));
        for (result, expected) in [
            (
                store.move_conversation(id, Some(no)),
                "there is no folder 77",
            ),
            (
                store.create_conversation("y", Some(no)).map(drop),
                "there is no folder 77",
            ),
            (store.rename_folder(no, "a"), "there is no folder 77"),
            (store.delete_folder(no), "there is no folder 77"),
            (store.order_folders(&[no]), "there is no folder 77"),
            (
                store.rename_conversation(none, "a"),
                "there is no conversation 88",
            ),
            (
                store.move_conversation(none, None),
                "there is no conversation 88",
            ),
            (
                store.delete_conversation(none),
                "there is no conversation 88",
            ),
            (
                store.conversation(none).map(drop),
                "there is no conversation 88",
            ),
            (
                store.set_conversation_settings(none, &1),
                "there is no conversation 88",
            ),
            (
                store.conversation_settings::<u8>(none).map(drop),
                "there is no conversation 88",
            ),
        ] {
            assert_eq!(result.unwrap_err().to_string(), expected);
        }
        assert_eq!(titles(&store), ["x"]);
    }

    #[test]
    fn settings_of_a_conversation_are_the_default_where_they_cannot_be_read() {
        #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
        struct Settings {
            seed: u64,
        }
        let mut store = Store::in_memory().unwrap();
        let id = store.create_conversation("x", None).unwrap();
        let read = |store: &Store| store.conversation_settings::<Settings>(id).unwrap();
        assert_eq!(read(&store), Settings::default());
        let settings = Settings { seed: u64::MAX };
        store.set_conversation_settings(id, &settings).unwrap();
        assert_eq!(read(&store), settings);
        store
            .set_conversation_settings(id, &json!({"seed": "no number"}))
            .unwrap();
        assert_eq!(read(&store), Settings::default());
        let sql = "UPDATE conversation SET settings = '{torn'";
        store.connection.execute(sql, []).unwrap();
        assert_eq!(read(&store), Settings::default());
        assert_eq!(
            store.conversation_settings::<Value>(id).unwrap(),
            Value::Null
        );
    }

    #[test]
    fn a_title_is_the_first_line_that_says_something() {
        let long = "é".repeat(61);
        for (text, expected) in [
            ("", "New conversation".to_owned()),
            (" \n\t\n", "New conversation".to_owned()),
            (
                "\n## **What  is**\tthis?\nmore",
                "What is** this?".to_owned(),
            ),
            (&long[..120], "é".repeat(60)),
            (&long, "é".repeat(59) + "…"),
        ] {
            assert_eq!(title_from(text), expected);
        }
    }
}
