//! `levels.csv`: the summary's levels, one row each, flattened: pairs become `_lo` and `_hi`, objects a prefix.

use std::io::{self, Write};

use serde_json::Value;

use crate::levels::Level;
use crate::merge::Merged;

use super::summary;
use super::text::quoted;

/// Writes header and rows.
///
/// # Errors
/// What `out` says.
pub fn write(out: &mut impl Write, merged: &Merged) -> io::Result<()> {
    let names = row(&Level::default(), 0).into_iter().map(|(name, _)| name);
    writeln!(out, "{}", names.collect::<Vec<_>>().join(","))?;
    for level in &merged.levels {
        let cells = row(level, merged.header.started_ref_ns).into_iter();
        let cells: Vec<String> = cells.map(|(_, cell)| quoted(&cell).into_owned()).collect();
        writeln!(out, "{}", cells.join(","))?;
    }
    Ok(())
}

fn row(level: &Level, started_ref_ns: i64) -> Vec<(String, String)> {
    let mut cells = Vec::new();
    for (key, value) in summary::level(level, started_ref_ns) {
        flatten(key, &value, &mut cells);
    }
    cells
}

fn flatten(key: String, value: &Value, cells: &mut Vec<(String, String)>) {
    match value {
        // Its keys differ from level to level, so it stays in one cell.
        Value::Object(kinds) if key == "error_kinds" => {
            let all: Vec<String> = kinds.iter().map(|(kind, n)| format!("{kind}={n}")).collect();
            cells.push((key, all.join(";")));
        }
        Value::Object(parts) => {
            for (part, value) in parts {
                flatten(format!("{key}_{part}"), value, cells);
            }
        }
        value if key.ends_with("_ci") => {
            let end = |i: usize| value.get(i).map(text).unwrap_or_default();
            cells.push((format!("{key}_lo"), end(0)));
            cells.push((format!("{key}_hi"), end(1)));
        }
        Value::Array(all) => cells.push((key, all.iter().map(text).collect::<Vec<_>>().join(";"))),
        value => cells.push((key, text(value))),
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}
