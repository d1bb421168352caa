//! JSON as Python's `json.dumps(value, ensure_ascii=False)` writes it: that is what the model was
//! trained on.

use std::io;

use serde::Serialize as _;
use serde_json::Value;
use serde_json::ser::{Formatter, Serializer};

/// The value with `", "` and `": "`, characters beyond ASCII kept, keys in their order.
pub(super) fn to_json(value: &Value) -> String {
    let mut bytes = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut bytes, Python);
    value
        .serialize(&mut serializer)
        .expect("a JSON value is written to memory");
    String::from_utf8(bytes).expect("JSON is UTF-8")
}

/// Whether Python takes a value for none.
pub(super) fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(is_true) => !is_true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

struct Python;

impl Formatter for Python {
    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first {
            Ok(())
        } else {
            writer.write_all(b", ")
        }
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.begin_array_value(writer, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }

    fn write_f64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        writer.write_all(float(value).as_bytes())
    }
}

/// Python's `repr` of a finite float: the fewest digits that give the same float, of several such
/// the nearest, of two equally near the even one; with a point while the exponent is from -4 to 15,
/// otherwise with an exponent of at least two digits.
fn float(value: f64) -> String {
    let mut scientific = format!("{value:e}");
    let (digits, _) = parts(&scientific);
    // Rust finds the number of digits, and rounds ties to even when it is told that number.
    let n_digits = digits.bytes().filter(u8::is_ascii_digit).count();
    let rounded = format!("{value:.0$e}", n_digits - 1);
    if rounded.parse() == Ok(value) {
        scientific = rounded;
    }
    let (digits, exponent) = parts(&scientific);
    if !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let n_decimals = (n_digits as i32 - 1 - exponent).max(1);
    format!("{value:.0$}", n_decimals as usize)
}

fn parts(scientific: &str) -> (&str, i32) {
    let (digits, exponent) = scientific.split_once('e').expect("Rust writes an e");
    (
        digits,
        exponent
            .parse()
            .expect("Rust writes the exponent as a number"),
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panic")]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_as_python_writes_them() {
        // From CPython 3.11: repr(x).
        for (value, python) in [
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (0.1, "0.1"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (123456789012345680.0, "1.2345678901234568e+17"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (-1.5e-7, "-1.5e-07"),
            (1.7976931348623157e308, "1.7976931348623157e+308"),
            (5e-324, "5e-324"),
            (3.0e100, "3e+100"),
            (2.675, "2.675"),
            (884724580165157.0 + 0.25, "884724580165157.2"),
            (884724580165157.0 + 0.75, "884724580165157.8"),
            (5.684341886080802e-14, "5.684341886080802e-14"),
            (9007199254740993.0, "9007199254740992.0"),
            (-123.456, "-123.456"),
        ] {
            assert_eq!(float(value), python);
        }
    }

    #[test]
    fn values_are_written_as_python_writes_them() {
        // From CPython 3.11: json.dumps(json.loads(x), ensure_ascii=False).
        for (text, python) in [
            (r#"{"b":[1,2.50],"a":{}}"#, r#"{"b": [1, 2.5], "a": {}}"#),
            ("[]", "[]"),
            ("[[],[1]]", "[[], [1]]"),
            (
                r#"["é\u4e2d\/\"\\\n\t\r\b\f\u0001\u007f"]"#,
                "[\"é中/\\\"\\\\\\n\\t\\r\\b\\f\\u0001\u{7f}\"]",
            ),
            (
                "[18446744073709551615,-9223372036854775808]",
                "[18446744073709551615, -9223372036854775808]",
            ),
            // These need the feature `float_roundtrip`: without it the last digit is another.
            (
                "[0.9367092125840313,7.491578150054326e-10]",
                "[0.9367092125840313, 7.491578150054326e-10]",
            ),
            ("[true,false,null]", "[true, false, null]"),
            (r#"{"a":1,"b":2,"a":3}"#, r#"{"a": 3, "b": 2}"#),
        ] {
            let value: Value = serde_json::from_str(text).unwrap();
            assert_eq!(to_json(&value), python);
        }
    }
}
