//! Writes the data of a view as CSV and JSON.

use serde_json::{Map, Value, json};

/// A column and what it is measured in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Name.
    pub name: &'static str,
    /// Unit; empty for names, ids and counts.
    pub unit: &'static str,
}

impl Column {
    /// A column.
    pub const fn new(name: &'static str, unit: &'static str) -> Self {
        Self { name, unit }
    }
}

/// What stands in a table.
#[derive(Clone, Debug, PartialEq)]
pub enum Field {
    /// Text.
    Text(String),
    /// A whole number.
    Integer(i64),
    /// A number, perhaps not finite.
    Number(f64),
    /// Nothing: not recorded.
    Missing,
}

impl From<&str> for Field {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Field {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<usize> for Field {
    fn from(number: usize) -> Self {
        Self::Integer(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<u32> for Field {
    fn from(number: u32) -> Self {
        Self::Integer(number.into())
    }
}

impl From<f32> for Field {
    fn from(number: f32) -> Self {
        Self::Number(number.into())
    }
}

impl From<f64> for Field {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

impl<T: Into<Self>> From<Option<T>> for Field {
    fn from(field: Option<T>) -> Self {
        field.map_or(Self::Missing, Into::into)
    }
}

/// The data of a view.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// Title.
    pub title: String,
    /// What holds for all rows: model, query token, date.
    pub about: Vec<(String, String)>,
    /// Columns.
    pub columns: Vec<Column>,
    /// Rows, each as long as there are columns.
    pub rows: Vec<Vec<Field>>,
}

impl Table {
    /// As RFC 4180 has it: a line of names with their units, then the rows. Numbers that are not finite read `NaN`,
    /// `inf` and `-inf`; what was not recorded is empty.
    pub fn to_csv(&self) -> String {
        let header = self.columns.iter().map(|column| {
            let Column { name, unit } = column;
            Field::Text(if unit.is_empty() {
                (*name).to_owned()
            } else {
                format!("{name} ({unit})")
            })
        });
        let header: Vec<Field> = header.collect();
        let mut out = String::new();
        for row in std::iter::once(&header).chain(&self.rows) {
            for (at, field) in row.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                out.push_str(&csv(field));
            }
            out.push_str("\r\n");
        }
        out
    }

    /// As one object: `title`, `about`, `columns` with units, and `rows` as objects by column. Numbers that are not
    /// finite become the strings `NaN`, `inf` and `-inf`; what was not recorded becomes null.
    pub fn to_json(&self) -> String {
        let about: Map<String, Value> = self
            .about
            .iter()
            .map(|(name, value)| (name.clone(), value.clone().into()))
            .collect();
        let columns: Vec<Value> = self
            .columns
            .iter()
            .map(|column| json!({"name": column.name, "unit": column.unit}))
            .collect();
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                let fields = self.columns.iter().zip(row);
                Value::Object(
                    fields
                        .map(|(column, field)| (column.name.to_owned(), json_of(field)))
                        .collect(),
                )
            })
            .collect();
        let whole = json!({"title": self.title, "about": about, "columns": columns, "rows": rows});
        format!("{whole:#}\n")
    }
}

fn csv(field: &Field) -> String {
    match field {
        Field::Missing => String::new(),
        Field::Integer(number) => number.to_string(),
        Field::Number(number) => number.to_string(),
        Field::Text(text) => {
            if text.contains(['"', ',', '\n', '\r']) || text.trim() != text {
                format!("\"{}\"", text.replace('"', "\"\""))
            } else {
                text.clone()
            }
        }
    }
}

fn json_of(field: &Field) -> Value {
    match field {
        Field::Missing => Value::Null,
        Field::Integer(number) => json!(number),
        Field::Number(number) if number.is_finite() => json!(number),
        Field::Number(number) => Value::String(number.to_string()),
        Field::Text(text) => json!(text),
    }
}
