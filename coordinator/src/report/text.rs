//! Figures as text: fixed digits, exact times, CSV cells that no name can break out of.

use std::borrow::Cow;
use std::fmt::Display;

use serde_json::Value;

/// ns as seconds, exact to the ns: integer arithmetic, since an f64 loses the ns after a few weeks of uptime.
pub fn seconds(ns: i64) -> String {
    let sign = if ns < 0 { "-" } else { "" };
    let ns = ns.unsigned_abs();
    format!("{sign}{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000)
}

/// ns as µs with three decimals; exact.
pub fn micros(ns: i64) -> String {
    let sign = if ns < 0 { "-" } else { "" };
    format!("{sign}{}.{:03}", ns.unsigned_abs() / 1_000, ns.unsigned_abs() % 1_000)
}

/// ns as ms with six decimals; exact.
pub fn millis(ns: i64) -> String {
    let sign = if ns < 0 { "-" } else { "" };
    format!("{sign}{}.{:06}", ns.unsigned_abs() / 1_000_000, ns.unsigned_abs() % 1_000_000)
}

/// A cell of what may be absent: empty then.
pub fn cell(value: Option<impl Display>) -> String {
    value.map(|v| v.to_string()).unwrap_or_default()
}

/// A CSV cell (RFC 4180): quoted when it holds a comma, a quote or a line break.
pub fn quoted(text: &str) -> Cow<'_, str> {
    if text.contains([',', '"', '\n', '\r']) {
        Cow::Owned(format!("\"{}\"", text.replace('"', "\"\"")))
    } else {
        Cow::Borrowed(text)
    }
}

/// Text that does not steer a terminal: what a server or a node wrote is words, and nothing else.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Text that stays text within HTML and SVG, in attributes too.
pub fn markup(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// A JSON number rounded to `digits` decimals; null for what is absent or no number.
pub fn number(value: Option<f64>, digits: i32) -> Value {
    let scale = 10f64.powi(digits);
    let rounded = value.map(|v| (v * scale).round() / scale);
    // 0 and −0 are one figure.
    rounded
        .map(|v| if v == 0.0 { 0.0 } else { v })
        .and_then(serde_json::Number::from_f64)
        .map_or(Value::Null, Value::Number)
}

/// ns as a JSON number of ms, to the ns.
pub fn json_ms(ns: Option<f64>) -> Value {
    number(ns.map(|ns| ns / 1e6), 6)
}

/// ns as a JSON number of µs, to the ns.
pub fn json_us(ns: Option<i64>) -> Value {
    number(ns.map(|ns| ns as f64 / 1e3), 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_exact() {
        assert_eq!(seconds(-1), "-0.000000001");
        assert_eq!(seconds(9_007_199_254_740_993), "9007199.254740993");
        assert_eq!(seconds(i64::MIN), "-9223372036.854775808");
        assert_eq!((micros(-1_001).as_str(), millis(1_000_001).as_str()), ("-1.001", "1.000001"));
    }

    #[test]
    fn cells_stay_cells() {
        assert_eq!(quoted("a b"), "a b");
        assert_eq!(quoted("a,\"b\"\nc"), "\"a,\"\"b\"\"\nc\"");
        for alone in ["a,b", "a\"b", "a\nb", "a\rb"] {
            assert!(quoted(alone).starts_with('"'), "{alone:?}");
        }
        assert_eq!(cell(None::<u32>), "");
    }

    #[test]
    fn what_is_no_number_is_null() {
        assert_eq!(number(Some(f64::NAN), 3), Value::Null);
        assert_eq!(number(None, 3), Value::Null);
        assert_eq!(number(Some(1.23456), 3).to_string(), "1.235");
        assert_eq!(number(Some(-0.0001), 3).to_string(), "0.0");
    }
}
