//! Reads the CSV files that tailcliff writes (RFC 4180), by column name.

use std::io;
use std::path::Path;

/// A file's rows.
#[derive(Debug)]
pub struct Table {
    name: String,
    columns: Vec<String>,
    /// Cells of each row after the header.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, or a row has more or fewer cells than the header.
    pub fn read(path: &Path) -> io::Result<Self> {
        let name = path.display().to_string();
        let mut rows = split(&std::fs::read_to_string(path)?);
        if rows.is_empty() {
            return Err(io::Error::other(format!("{name} is empty")));
        }
        let columns = rows.remove(0);
        if let Some(at) = rows.iter().position(|row| row.len() != columns.len()) {
            let (has, wanted) = (rows[at].len(), columns.len());
            return Err(io::Error::other(format!("row {} of {name} has {has} cells, not {wanted}", at + 1)));
        }
        Ok(Self { name, columns, rows })
    }

    /// Index of a column.
    ///
    /// # Errors
    /// When there is no such column.
    pub fn column(&self, name: &str) -> io::Result<usize> {
        let missing = || io::Error::other(format!("{} has no column {name}", self.name));
        self.columns.iter().position(|column| column == name).ok_or_else(missing)
    }
}

fn split(text: &str) -> Vec<Vec<String>> {
    let (mut rows, mut row, mut cell, mut quoted) = (Vec::new(), Vec::new(), String::new(), false);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            // Within a quoted cell two quotes stand for one.
            '"' if quoted && chars.next_if_eq(&'"').is_some() => cell.push('"'),
            '"' => quoted = !quoted,
            ',' if !quoted => row.push(std::mem::take(&mut cell)),
            '\n' if !quoted => {
                row.push(std::mem::take(&mut cell));
                rows.push(std::mem::take(&mut row));
            }
            c => cell.push(c),
        }
    }
    // A last line that was cut off shows as a row with too few cells.
    if !cell.is_empty() || !row.is_empty() {
        row.push(cell);
        rows.push(row);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_may_hold_commas_quotes_and_lines() {
        let rows = split("a,\"b,\"\"c\"\"\nd\",\"\"\"\"\n,,\n1,2");
        assert_eq!(rows, [vec!["a", "b,\"c\"\nd", "\""], vec!["", "", ""], vec!["1", "2"]]);
    }

    #[test]
    fn a_torn_file_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let read = |text: &str| {
            std::fs::write(file.path(), text).unwrap();
            Table::read(file.path())
        };
        let table = read("a,b\n1,2\n").unwrap();
        assert_eq!((table.column("b").unwrap(), &table.rows[0][1]), (1, &"2".to_owned()));
        assert!(table.column("c").is_err());
        assert!(read("a,b\n1,2\n3").unwrap_err().to_string().contains("row 2"));
        assert!(read("").is_err());
    }
}
