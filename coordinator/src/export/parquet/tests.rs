//! Both forms of one table, cell by cell.

use std::collections::BTreeSet;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};

use super::*;
use crate::merge::merge;
use crate::report::text::{micros, millis, quoted, seconds};
use crate::report::{inside_sample, requests, table};

/// As the CSV has it.
fn cell(column: &Column, field: &Field) -> String {
    match (column.kind, field) {
        (_, Field::Null) => String::new(),
        (Kind::Seconds, Field::Long(ns)) => seconds(*ns),
        (Kind::Millis, Field::Long(ns)) => millis(*ns),
        (Kind::Micros, Field::Long(ns)) => micros(*ns),
        (Kind::Count, Field::Long(n)) => n.to_string(),
        (Kind::Float, Field::Double(x)) => x.to_string(),
        (Kind::Flag, Field::Bool(is)) => is.to_string(),
        (Kind::Text, Field::Str(words)) => quoted(words).into_owned(),
        (kind, field) => panic!("{}: {field:?} is no {kind:?}", column.name),
    }
}

fn csv_of(reader: &SerializedFileReader<File>, columns: &[Column]) -> String {
    let fields = reader.metadata().file_metadata().schema_descr().columns();
    let names: Vec<String> = fields.iter().map(|field| field.name().to_owned()).collect();
    assert_eq!(names, columns.iter().map(name).collect::<Vec<_>>());
    let line = |row: Row| {
        let cells = row.get_column_iter().zip(columns).map(|((_, field), column)| cell(column, field));
        cells.collect::<Vec<_>>().join(",") + "\n"
    };
    let header = columns.iter().map(|column| column.name).collect::<Vec<_>>().join(",") + "\n";
    header + &reader.get_row_iter(None).unwrap().map(|row| line(row.unwrap())).collect::<String>()
}

fn read(dir: &Path, name: &str) -> SerializedFileReader<File> {
    SerializedFileReader::new(File::open(dir.join(name)).unwrap()).unwrap()
}

#[test]
fn every_cell_is_the_csv_s() {
    let mut data = inside_sample::run();
    data.levels[2].load = crate::axis::Load::Rate(crate::axis::Rate(f64::INFINITY));
    let merged = merge(&data);
    let timeline = &merged.timeline;
    let dir = tempfile::tempdir().unwrap();
    write_all(dir.path(), &data, &merged).unwrap();
    let (mut asked, mut events, mut scraped) = (Vec::new(), Vec::new(), Vec::new());
    requests::write_requests(&mut asked, &data, timeline).unwrap();
    requests::write_trace(&mut events, &data, timeline).unwrap();
    server_trace::write(&mut scraped, &data, timeline).unwrap();
    for (name, columns, csv) in [
        (PARQUET_FILES[0], &REQUESTS[..], asked),
        (PARQUET_FILES[1], &TRACE[..], events),
        (PARQUET_FILES[2], &server_trace::COLUMNS[..], scraped),
    ] {
        let csv = String::from_utf8(csv).unwrap();
        assert_eq!(csv_of(&read(dir.path(), name), columns), csv, "{name}");
        assert!(csv.lines().count() > 40);
    }
    let mut joined = Vec::new();
    waterfall::write(&mut joined, &data, &merged).unwrap();
    let csv = String::from_utf8(joined).unwrap();
    assert_eq!(csv_of(&read(dir.path(), PARQUET_FILES[3]), &waterfall::COLUMNS), csv);
}

#[test]
fn names_are_told_apart_and_times_say_their_unit() {
    for columns in [&REQUESTS[..], &TRACE[..], &server_trace::COLUMNS[..], &waterfall::COLUMNS[..]] {
        let names: BTreeSet<String> = columns.iter().map(name).collect();
        assert_eq!(names.len(), columns.len());
        let times = columns.iter().filter(|c| matches!(c.kind, Kind::Seconds | Kind::Millis | Kind::Micros));
        assert!(times.map(name).all(|name| name.ends_with("_ns")));
    }
    assert_eq!(name(&table::Column { name: "asked_tokens", kind: Kind::Count }), "asked_tokens");
}

#[test]
fn rows_are_written_in_groups_and_a_count_that_no_one_can_have_is_null() {
    let columns = [Column { name: "n", kind: Kind::Count }, Column { name: "who", kind: Kind::Text }];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.parquet");
    let mut table = Table::new(File::create(&path).unwrap(), &columns).unwrap();
    let many = GROUP_ROWS as u64 * 2 + 5;
    for n in 0..many {
        table.push(&[Cell::Count(n), Cell::text(if n % 2 == 0 { "a" } else { "" })]).unwrap();
    }
    table.push(&[Cell::Count(u64::MAX), Cell::Absent]).unwrap();
    assert_eq!(table.rows, 6, "what waits to be written is bounded");
    table.close().unwrap();
    let reader = SerializedFileReader::new(File::open(&path).unwrap()).unwrap();
    assert_eq!(reader.metadata().num_row_groups(), 3);
    let text = csv_of(&reader, &columns);
    let lines: Vec<&str> = text.lines().skip(1).collect();
    let expected = |n: usize| format!("{n},{}", if n.is_multiple_of(2) { "a" } else { "" });
    assert!(lines[..many as usize].iter().enumerate().all(|(n, line)| *line == expected(n)));
    assert_eq!(lines[many as usize..], [","]);
}

#[test]
fn a_run_without_requests_is_a_table_without_rows() {
    let dir = tempfile::tempdir().unwrap();
    let data = RunData::default();
    write_all(dir.path(), &data, &merge(&data)).unwrap();
    let reader = read(dir.path(), PARQUET_FILES[0]);
    assert_eq!(reader.metadata().file_metadata().num_rows(), 0);
    assert_eq!(reader.metadata().file_metadata().schema_descr().num_columns(), REQUESTS.len());
}
