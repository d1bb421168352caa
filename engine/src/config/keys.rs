//! Typed reading of JSON keys. Every error names the key, what was found and what was expected.

use serde_json::{Map, Value};

use crate::{Error, Result};

/// Largest size: positions are `i32` in selections, and products of two sizes fit `u64`.
pub(super) const MAX_SIZE: usize = i32::MAX as usize;

/// The keys of a JSON object.
#[derive(Clone, Copy)]
pub(crate) struct Keys<'a> {
    object: &'a Map<String, Value>,
    parent: Option<&'a str>,
}

/// A value as an error shows it.
pub(super) fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 60 {
        return text;
    }
    let start: String = text.chars().take(60).collect();
    format!("{start}…")
}

impl<'a> Keys<'a> {
    pub(crate) fn new(object: &'a Map<String, Value>) -> Self {
        Self {
            object,
            parent: None,
        }
    }

    /// The value of `key`; `null` counts as absent.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    /// Whether `key` is there, as `null` too.
    pub(super) fn mentions(&self, key: &str) -> bool {
        self.object.contains_key(key)
    }

    /// An error about `key`.
    pub(super) fn error(&self, key: &str, problem: impl Into<String>) -> Error {
        let key = match self.parent {
            Some(parent) => format!("{parent}.{key}"),
            None => key.into(),
        };
        Error::Config {
            key,
            problem: problem.into(),
        }
    }

    /// "found …, expected …" about `key`.
    pub(super) fn unexpected(&self, key: &str, expected: &str) -> Error {
        match self.get(key) {
            None => self.error(key, format!("is missing, expected {expected}")),
            Some(value) => self.error(key, format!("is {}, expected {expected}", shown(value))),
        }
    }

    /// A count, which may be 0.
    pub(crate) fn count(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.as_u64().and_then(|count| usize::try_from(count).ok()) {
            Some(count) if count <= MAX_SIZE => Ok(Some(count)),
            _ => Err(self.unexpected(key, &format!("a whole number of 0 to {MAX_SIZE}"))),
        }
    }

    /// A count of at least 1.
    pub(super) fn size(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.as_u64().and_then(|size| usize::try_from(size).ok()) {
            Some(size) if (1..=MAX_SIZE).contains(&size) => Ok(Some(size)),
            _ => Err(self.unexpected(key, &format!("a whole number of 1 to {MAX_SIZE}"))),
        }
    }

    /// A size that has to be there.
    pub(super) fn required_size(&self, key: &str) -> Result<usize> {
        self.size(key)?
            .ok_or_else(|| self.unexpected(key, "a whole number above 0"))
    }

    /// A size that has to be mentioned but may be `null`. A guess for an absent key could be wrong
    /// either way.
    pub(super) fn size_or_null(&self, key: &str) -> Result<Option<usize>> {
        if !self.mentions(key) {
            return Err(self.unexpected(key, "a whole number above 0, or null"));
        }
        self.size(key)
    }

    /// A finite number.
    pub(crate) fn number(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.as_f64() {
            Some(number) if number.is_finite() => Ok(Some(number)),
            _ => Err(self.unexpected(key, "a finite number")),
        }
    }

    /// `true` or `false`.
    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        value
            .as_bool()
            .map(Some)
            .ok_or_else(|| self.unexpected(key, "true or false"))
    }

    /// A string.
    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        value
            .as_str()
            .map(Some)
            .ok_or_else(|| self.unexpected(key, "a string"))
    }

    /// The value that `known` gives a string, or `default` where the key is absent.
    pub(super) fn choice<T: Copy>(&self, key: &str, known: &[(&str, T)], default: T) -> Result<T> {
        let Some(found) = self.text(key)? else {
            return Ok(default);
        };
        let choice = known.iter().find(|(name, _)| *name == found);
        choice.map(|(_, value)| *value).ok_or_else(|| {
            let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
            self.unexpected(key, &format!("one of {}", names.join(", ")))
        })
    }

    /// A list of strings.
    pub(super) fn texts(&self, key: &str) -> Result<Option<Vec<&'a str>>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let texts = value
            .as_array()
            .and_then(|list| list.iter().map(Value::as_str).collect());
        texts
            .map(Some)
            .ok_or_else(|| self.unexpected(key, "a list of strings"))
    }

    /// An object.
    pub(super) fn object(&self, key: &'a str) -> Result<Option<Keys<'a>>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.as_object() {
            Some(object) => Ok(Some(Keys {
                object,
                parent: Some(key),
            })),
            None => Err(self.unexpected(key, "an object")),
        }
    }

    /// Whether the object has no keys.
    pub(super) fn is_empty(&self) -> bool {
        self.object.is_empty()
    }

    /// The first key that holds an object or a list.
    pub(super) fn nested(&self) -> Option<&'a str> {
        let nested = |value: &Value| value.is_object() || value.is_array();
        self.object
            .iter()
            .find(|(_, value)| nested(value))
            .map(|(key, _)| key.as_str())
    }

    /// Refuses `key` unless it is absent or `false`.
    pub(super) fn refuse(&self, key: &str, why: &str) -> Result<()> {
        match self.flag(key)? {
            Some(true) => Err(self.error(key, format!("is true, expected false: {why}"))),
            _ => Ok(()),
        }
    }

    /// Token ids below `vocab_size`: none, one or a list. One that stands there twice comes once.
    pub(crate) fn token_ids(&self, key: &str, vocab_size: usize) -> Result<Vec<u32>> {
        let ids = match self.get(key) {
            None => return Ok(Vec::new()),
            Some(Value::Array(ids)) => ids.as_slice(),
            Some(id) => std::slice::from_ref(id),
        };
        let mut known = Vec::new();
        for id in ids {
            match id.as_u64().and_then(|id| u32::try_from(id).ok()) {
                Some(id) if (id as usize) < vocab_size => {
                    if !known.contains(&id) {
                        known.push(id);
                    }
                }
                _ => {
                    let expected = format!("expected token ids below vocab_size {vocab_size}");
                    return Err(self.error(key, format!("holds {}, {expected}", shown(id))));
                }
            }
        }
        Ok(known)
    }
}
