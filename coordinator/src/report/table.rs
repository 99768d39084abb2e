//! Tables that are written more than once: a column is defined once, with its name and its unit, and a row is made of
//! cells, whatever file they go to. So a CSV and its Parquet twin cannot drift apart.

use std::borrow::Cow;
use std::io::{self, Write};

use super::text::{micros, millis, quoted, seconds};

/// What a column holds, and how a CSV writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Time in ns, in a CSV as seconds with nine decimals; the name ends in `_s`.
    Seconds,
    /// Time in ns, in a CSV as ms with six decimals; the name ends in `_ms`.
    Millis,
    /// Time in ns, in a CSV as µs with three decimals; the name ends in `_us`.
    Micros,
    /// A number of things, or the number of one.
    Count,
    /// Any other number.
    Float,
    /// True or false.
    Flag,
    /// UTF-8; empty and absent are one.
    Text,
}

/// A column of a table.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// As in the CSV's header.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
}

/// A time in seconds.
pub(super) const fn s(name: &'static str) -> Column {
    Column { name, kind: Kind::Seconds }
}

/// A time in ms.
pub(super) const fn ms(name: &'static str) -> Column {
    Column { name, kind: Kind::Millis }
}

/// A time in µs.
pub(super) const fn us(name: &'static str) -> Column {
    Column { name, kind: Kind::Micros }
}

/// A number of things.
pub(super) const fn count(name: &'static str) -> Column {
    Column { name, kind: Kind::Count }
}

/// Any other number.
pub(super) const fn float(name: &'static str) -> Column {
    Column { name, kind: Kind::Float }
}

/// True or false.
pub(super) const fn flag(name: &'static str) -> Column {
    Column { name, kind: Kind::Flag }
}

/// Words.
pub(super) const fn text(name: &'static str) -> Column {
    Column { name, kind: Kind::Text }
}

/// One value of a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell<'a> {
    /// Not known, or there is none.
    Absent,
    /// ns.
    Ns(i64),
    /// A number of things.
    Count(u64),
    /// Any other number.
    Float(f64),
    /// True or false.
    Flag(bool),
    /// UTF-8.
    Text(Cow<'a, str>),
}

impl<'a> Cell<'a> {
    /// A time that may be absent, ns.
    pub fn ns(value: Option<i64>) -> Self {
        value.map_or(Self::Absent, Self::Ns)
    }

    /// A number that may be absent.
    pub fn count(value: Option<impl Into<u64>>) -> Self {
        value.map_or(Self::Absent, |n| Self::Count(n.into()))
    }

    /// Words, of which none are absent.
    pub fn text(value: &'a str) -> Self {
        if value.is_empty() { Self::Absent } else { Self::Text(Cow::Borrowed(value)) }
    }
}

/// Writes the header of a CSV.
///
/// # Errors
/// What `out` says.
pub fn csv_header(out: &mut impl Write, columns: &[Column]) -> io::Result<()> {
    let names: Vec<&str> = columns.iter().map(|column| column.name).collect();
    writeln!(out, "{}", names.join(","))
}

/// Writes a row of a CSV: what is absent is an empty cell.
///
/// # Errors
/// What `out` says.
pub fn csv_row(out: &mut impl Write, columns: &[Column], row: &[Cell<'_>]) -> io::Result<()> {
    for (i, (column, cell)) in columns.iter().zip(row).enumerate() {
        if i > 0 {
            out.write_all(b",")?;
        }
        match cell {
            Cell::Absent => {}
            Cell::Ns(ns) => out.write_all(time(column.kind, *ns).as_bytes())?,
            Cell::Count(n) => write!(out, "{n}")?,
            Cell::Float(x) => write!(out, "{x}")?,
            Cell::Flag(is) => write!(out, "{is}")?,
            Cell::Text(words) => out.write_all(quoted(words).as_bytes())?,
        }
    }
    out.write_all(b"\n")
}

fn time(kind: Kind, ns: i64) -> String {
    match kind {
        Kind::Millis => millis(ns),
        Kind::Micros => micros(ns),
        _ => seconds(ns),
    }
}
