//! `levels.csv`: the summary's levels, one row each, flattened: pairs become `_lo` and `_hi`, objects a prefix. Of what servers
//! told of themselves it has some figures, at its end; the summary has all.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde_json::Value;

use crate::diagnose::{LevelGpu, Parts};
use crate::levels::Level;
use crate::merge::Merged;
use crate::merge::starts::Starts;

use super::text::quoted;
use super::{inside, summary};

/// Writes header and rows.
///
/// # Errors
/// What `out` says.
pub fn write(out: &mut impl Write, merged: &Merged) -> io::Result<()> {
    let names: Vec<String> = row(&whole(), 0).into_iter().map(|(name, _)| name).collect();
    writeln!(out, "{}", names.join(","))?;
    for level in &merged.levels {
        let cells: BTreeMap<String, String> = row(level, merged.header.started_ref_ns).into_iter().collect();
        let cell = |name: &String| quoted(cells.get(name).map_or("", String::as_str)).into_owned();
        writeln!(out, "{}", names.iter().map(cell).collect::<Vec<_>>().join(","))?;
    }
    Ok(())
}

/// A level that has everything which a level may lack, so that every run has the same columns. What trace mode tells has
/// as many parts as it has stages, and none here.
fn whole() -> Level {
    Level {
        gpu: Some(LevelGpu::default()),
        parts: Some(Parts::default()),
        starts: Some(Starts::default()),
        ..Level::default()
    }
}

fn row(level: &Level, started_ref_ns: i64) -> Vec<(String, String)> {
    let mut cells = Vec::new();
    let told = summary::level(level, started_ref_ns);
    for (key, value) in told.into_iter().filter(|(key, _)| key != "inside" && key != "server") {
        flatten(key, &value, &mut cells);
    }
    let columns = inside::columns(level.inside.as_ref(), level.server.as_ref());
    cells.extend(columns.into_iter().map(|(name, value)| (name.to_owned(), text(&value))));
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
