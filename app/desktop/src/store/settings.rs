//! Settings and state of the app: JSON under a key.

use rusqlite::{OptionalExtension as _, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Store;
use super::error::{Result, StoreError};

/// The value in `text`, or the default where it cannot be read, which is logged. `null` is the default.
pub(super) fn read<T: DeserializeOwned + Default>(text: &str, what: impl Fn() -> String) -> T {
    match serde_json::from_str::<Option<T>>(text) {
        Ok(value) => value.unwrap_or_default(),
        Err(error) => {
            log::warn!("{} cannot be read, the default is used: {error}", what());
            T::default()
        }
    }
}

/// The value as JSON.
pub(super) fn write<T: Serialize>(value: &T, what: impl Fn() -> String) -> Result<String> {
    serde_json::to_string(value).map_err(|error| StoreError::Json {
        what: what(),
        problem: error.to_string(),
    })
}

impl Store {
    /// The value under `key`; the default where there is none, or none that can be read as `T`, which is
    /// logged.
    ///
    /// # Errors
    /// Only of the database.
    pub fn get<T: DeserializeOwned + Default>(&self, key: &str) -> Result<T> {
        let text: Option<String> = self
            .connection
            .prepare_cached("SELECT value FROM setting WHERE key = ?1")?
            .query_row([key], |row| row.get(0))
            .optional()?;
        Ok(match text {
            Some(text) => read(&text, || format!("setting {key:?}")),
            None => T::default(),
        })
    }

    /// Sets the value under `key`. The same value again costs no write.
    ///
    /// # Errors
    /// [`StoreError::Json`], and those of the database.
    pub fn set<T: Serialize>(&mut self, key: &str, value: &T) -> Result<()> {
        let text = write(value, || format!("setting {key:?}"))?;
        let is_same = self
            .connection
            .prepare_cached("SELECT 1 FROM setting WHERE key = ?1 AND value = ?2")?
            .exists([key, &text])?;
        if is_same {
            return Ok(());
        }
        self.write(|transaction| {
            transaction
                .prepare_cached(
                    "INSERT INTO setting (key, value) VALUES (?1, ?2)
                     ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                )?
                .execute(params![key, text])?;
            Ok(())
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panic")]
mod tests {
    use std::collections::HashMap;

    use serde::Deserialize;
    use serde_json::Value;

    use super::*;
    use crate::store::ConversationId;

    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default)]
    struct Window {
        width: f32,
        recent: Vec<String>,
        last: Option<ConversationId>,
    }

    #[test]
    fn values_come_back_and_others_give_the_default() {
        let mut store = Store::in_memory().unwrap();
        assert_eq!(store.get::<Window>("window").unwrap(), Window::default());
        let window = Window {
            width: 0.1,
            recent: vec!["/a b/é".into()],
            last: Some(ConversationId(3)),
        };
        store.set("window", &window).unwrap();
        store.set("", &7_u8).unwrap();
        assert_eq!(store.get::<Window>("window").unwrap(), window);
        assert_eq!(store.get::<u8>("").unwrap(), 7);

        // Of an earlier or later version, damaged, or something else altogether.
        for (text, expected) in [
            (r#"{"width": 2.0, "colour": "red"}"#, 2.0),
            (r#"{"width": "wide"}"#, 0.0),
            (r#"{"width": 2.0"#, 0.0),
            ("", 0.0),
            ("null", 0.0),
            ("[[[[", 0.0),
        ] {
            let sql = "UPDATE setting SET value = ?1 WHERE key = 'window'";
            store.connection.execute(sql, [text]).unwrap();
            let read: Window = store.get("window").unwrap();
            assert_eq!(read.width, expected, "{text}");
        }
        let deep = "[".repeat(100_000);
        let sql = "UPDATE setting SET value = ?1 WHERE key = 'window'";
        store.connection.execute(sql, [deep]).unwrap();
        assert_eq!(store.get::<Value>("window").unwrap(), Value::Null);
    }

    #[test]
    fn the_same_value_is_not_written_again() {
        let mut store = Store::in_memory().unwrap();
        store.set("a", &1).unwrap();
        let n_before = store.connection.total_changes();
        store.set("a", &1).unwrap();
        assert_eq!(store.connection.total_changes(), n_before);
        store.set("a", &2).unwrap();
        assert_eq!(store.connection.total_changes(), n_before + 1);
    }

    #[test]
    fn what_json_cannot_say_is_refused() {
        let mut store = Store::in_memory().unwrap();
        let map = HashMap::from([((1, 2), 3)]);
        let error = store.set("map", &map).unwrap_err().to_string();
        assert!(
            error.starts_with("setting \"map\" cannot be written as JSON"),
            "{error}"
        );
    }
}
