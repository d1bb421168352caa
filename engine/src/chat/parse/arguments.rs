//! Values of parameters, and where they end.

use serde_json::Value;

use crate::chat::tags::Form;

/// Where a parameter ends that has no closing tag of its own form, and how long the tag is that
/// closes it: at one of the other form, else before the tag that closes the call or the calls.
pub(super) fn end_of_unclosed(text: &str) -> (usize, usize) {
    let find = |name: &str, before: &str| {
        let found = |form: Form| {
            let tag = form.closing_tag(name);
            let start = text.find(&format!("{before}{tag}"))?;
            Some((start, tag.len()))
        };
        Form::ALL.into_iter().filter_map(found).min()
    };
    if let Some(end) = find("parameter", "") {
        return end;
    }
    let outer = ["invoke", "function_calls"]
        .into_iter()
        .filter_map(|name| find(name, "\n"))
        .min();
    (outer.map_or(text.len(), |(start, _)| start), 0)
}

/// The value of a parameter, and what was wrong with it.
pub(super) fn argument(text: &str, is_string: Option<bool>) -> (Value, Option<&'static str>) {
    if is_string == Some(true) {
        return (text.into(), None);
    }
    let unmarked = is_string
        .is_none()
        .then_some("does not say whether it is a string");
    match serde_json::from_str(text) {
        // Beyond 64 bits, digits would be lost.
        Ok(Value::Number(number)) if number.is_f64() && !text.contains(['.', 'e', 'E']) => (
            text.into(),
            Some("is an integer beyond 64 bits: it was read as a string"),
        ),
        Ok(value) => (value, unmarked),
        Err(_) => (
            text.into(),
            unmarked.or(Some("is no JSON: it was read as a string")),
        ),
    }
}

/// Looks for the end of a JSON object in a text that grows.
#[derive(Clone, Debug, Default)]
pub(super) struct ObjectEnd {
    searched: usize,
    depth: usize,
    is_in_string: bool,
    is_escaped: bool,
}

impl ObjectEnd {
    /// How long the object is with which the text begins, once it is whole.
    pub(super) fn find(&mut self, text: &str) -> Option<usize> {
        for &byte in &text.as_bytes()[self.searched..] {
            self.searched += 1;
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' if self.is_in_string => self.is_escaped = true,
                b'"' => self.is_in_string = !self.is_in_string,
                b'{' if !self.is_in_string => self.depth += 1,
                b'}' if !self.is_in_string => self.depth -= 1,
                _ => {}
            }
            if self.depth == 0 {
                return Some(self.searched);
            }
        }
        None
    }
}
