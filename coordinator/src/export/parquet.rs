//! `requests.parquet`, `token_trace.parquet`, `server_trace.parquet` and `waterfall.parquet`: the rows of the CSVs of the same
//! names, with types. A time is an int64 in ns, and its column's name says so: `t_s` there is `t_ns` here. What is an empty
//! cell there is null here, and so is a count over 2^63 − 1, which only a broken agent can claim. Rows are written in groups,
//! so that memory does not grow with them.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;

use super::PARQUET_FILES;
use crate::merge::Merged;
use crate::outputs::{OutputError, write};
use crate::report::requests::{REQUESTS, TRACE, each_event, each_request};
use crate::report::table::{Cell, Column, Kind};
use crate::report::{server_trace, waterfall};
use crate::stored::RunData;

/// Rows of a group: what is held in memory until they are written, about 400 bytes each of the wider table.
const GROUP_ROWS: usize = 1 << 15;

/// Writes all of them into `dir`.
///
/// # Errors
/// When a file cannot be written, or the journal not be read again.
pub(super) fn write_all(dir: &Path, data: &RunData, merged: &Merged) -> Result<(), OutputError> {
    let timeline = &merged.timeline;
    let [requests, trace, server, joined] = PARQUET_FILES;
    write(dir, requests, |out| {
        rows(out, data, &REQUESTS, |table| each_request(data, timeline, |row| table.push(row)))
    })?;
    write(dir, trace, |out| {
        rows(out, data, &TRACE, |table| each_event(data, timeline, |row| table.push(row)))
    })?;
    write(dir, server, |out| {
        rows(out, data, &server_trace::COLUMNS, |table| {
            server_trace::each(data, timeline, |row| table.push(row))
        })
    })?;
    write(dir, joined, |out| {
        rows(out, data, &waterfall::COLUMNS, |table| waterfall::each(data, merged, |row| table.push(row)))
    })
}

fn rows(
    out: &mut BufWriter<File>,
    data: &RunData,
    columns: &[Column],
    fill: impl FnOnce(&mut Table<&mut BufWriter<File>>) -> io::Result<()>,
) -> io::Result<()> {
    let mut table = Table::new(out, columns)?;
    fill(&mut table)?;
    // Of a journal that could not be read to its end again, no file is whole.
    data.trouble().map_or(Ok(()), Err)?;
    table.close()
}

/// A file being written.
struct Table<W: Write + Send> {
    writer: SerializedFileWriter<W>,
    columns: Vec<Buffer>,
    rows: usize,
}

impl<W: Write + Send> Table<W> {
    fn new(out: W, columns: &[Column]) -> io::Result<Self> {
        let fields: String = columns.iter().map(field).collect();
        let schema = parse_message_type(&format!("message row {{ {fields} }}")).map_err(other)?;
        let how = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_created_by(format!("tailcliff {}", env!("CARGO_PKG_VERSION")));
        let writer =
            SerializedFileWriter::new(out, Arc::new(schema), Arc::new(how.build())).map_err(other)?;
        Ok(Self { writer, columns: columns.iter().map(|column| Buffer::of(column.kind)).collect(), rows: 0 })
    }

    fn push(&mut self, row: &[Cell<'_>]) -> io::Result<()> {
        self.columns.iter_mut().zip(row).for_each(|(column, cell)| column.push(cell));
        self.rows += 1;
        if self.rows == GROUP_ROWS { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.rows) == 0 {
            return Ok(());
        }
        let mut group = self.writer.next_row_group().map_err(other)?;
        self.columns.iter_mut().try_for_each(|column| column.write(&mut group)).map_err(other)?;
        group.close().map_err(other)?;
        Ok(())
    }

    fn close(mut self) -> io::Result<()> {
        self.flush()?;
        self.writer.close().map_err(other)?;
        Ok(())
    }
}

/// The schema's line of a column: all may be null.
fn field(column: &Column) -> String {
    let kind = match column.kind {
        Kind::Seconds | Kind::Millis | Kind::Micros | Kind::Count => "INT64",
        Kind::Float => "DOUBLE",
        Kind::Flag => "BOOLEAN",
        Kind::Text => return format!("OPTIONAL BYTE_ARRAY {} (UTF8); ", column.name),
    };
    format!("OPTIONAL {kind} {}; ", name(column))
}

/// A column's name in Parquet: that of a time ends in `_ns`.
fn name(column: &Column) -> String {
    let stem = match column.kind {
        Kind::Seconds => column.name.strip_suffix("_s"),
        Kind::Millis => column.name.strip_suffix("_ms"),
        Kind::Micros => column.name.strip_suffix("_us"),
        _ => None,
    };
    stem.map_or_else(|| column.name.to_owned(), |stem| format!("{stem}_ns"))
}

/// Values of a column that are not written yet, and for each row 1, or 0 where it has none.
struct Buffer {
    values: Values,
    present: Vec<i16>,
}

enum Values {
    Ints(Vec<i64>),
    Floats(Vec<f64>),
    Flags(Vec<bool>),
    Texts(Vec<ByteArray>),
}

impl Buffer {
    fn of(kind: Kind) -> Self {
        let values = match kind {
            Kind::Seconds | Kind::Millis | Kind::Micros | Kind::Count => Values::Ints(Vec::new()),
            Kind::Float => Values::Floats(Vec::new()),
            Kind::Flag => Values::Flags(Vec::new()),
            Kind::Text => Values::Texts(Vec::new()),
        };
        Self { values, present: Vec::new() }
    }

    fn push(&mut self, cell: &Cell<'_>) {
        match (&mut self.values, cell) {
            (Values::Ints(all), Cell::Ns(ns)) => all.push(*ns),
            (Values::Ints(all), Cell::Count(n)) if *n <= i64::MAX.unsigned_abs() => all.push(n.cast_signed()),
            (Values::Floats(all), Cell::Float(x)) => all.push(*x),
            (Values::Flags(all), Cell::Flag(is)) => all.push(*is),
            (Values::Texts(all), Cell::Text(words)) => all.push(shared(all.last(), words)),
            _ => return self.present.push(0),
        }
        self.present.push(1);
    }

    fn write(
        &mut self,
        group: &mut SerializedRowGroupWriter<'_, impl Write + Send>,
    ) -> Result<(), ParquetError> {
        let present = std::mem::take(&mut self.present);
        match &mut self.values {
            Values::Ints(all) => column::<Int64Type>(group, std::mem::take(all), &present),
            Values::Floats(all) => column::<DoubleType>(group, std::mem::take(all), &present),
            Values::Flags(all) => column::<BoolType>(group, std::mem::take(all), &present),
            Values::Texts(all) => column::<ByteArrayType>(group, std::mem::take(all), &present),
        }
    }
}

/// Rows of one request follow one another, and its names with them: those share their memory.
fn shared(last: Option<&ByteArray>, words: &str) -> ByteArray {
    match last.filter(|last| last.data() == words.as_bytes()) {
        Some(last) => last.clone(),
        None => ByteArray::from(words.as_bytes().to_vec()),
    }
}

fn column<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, impl Write + Send>,
    values: Vec<T::T>,
    present: &[i16],
) -> Result<(), ParquetError> {
    let mut column =
        group.next_column()?.ok_or_else(|| ParquetError::General("a column too many".to_owned()))?;
    column.typed::<T>().write_batch(&values, Some(present), None)?;
    column.close()
}

fn other(error: ParquetError) -> io::Error {
    io::Error::other(error)
}

#[cfg(test)]
mod tests;
