//! `stalls.csv`, read.

use std::io;
use std::path::Path;

use crate::csv::Table;

pub use tailcliff::stall::Verdict;

/// The verdict that the file names so.
fn verdict(text: &str) -> io::Result<Verdict> {
    let unknown = || io::Error::other(format!("{text:?} is no verdict"));
    Verdict::ALL.into_iter().find(|verdict| verdict.as_str() == text).ok_or_else(unknown)
}

/// A row.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Since the start of the run, s.
    pub t_s: f64,
    /// `gap` or `ttft`.
    pub kind: String,
    /// Its length, ms.
    pub gap_ms: f64,
    /// What it is said to be.
    pub verdict: Verdict,
    /// How sure, 0 to 1.
    pub confidence: f64,
    /// Lowest and highest energy, J, where there is any.
    pub energy_j: Option<(f64, f64)>,
    /// Whose.
    pub request_id: String,
    /// As written, for a person.
    pub cells: Vec<String>,
}

impl Row {
    /// All rows of a run.
    ///
    /// # Errors
    /// When the file cannot be read or lacks a column.
    pub fn read(run_dir: &Path) -> io::Result<Vec<Self>> {
        let table = Table::read(&run_dir.join("stalls.csv"))?;
        let names =
            ["t_s", "kind", "gap_ms", "verdict", "confidence", "energy_low_j", "energy_high_j", "request_id"];
        let mut columns = [0; 8];
        for (column, name) in columns.iter_mut().zip(names) {
            *column = table.column(name)?;
        }
        let [t_s, kind, gap_ms, said, confidence, low, high, id] = columns;
        let row = |cells: &Vec<String>| {
            let energy = match (cells[low].as_str(), cells[high].as_str()) {
                ("", _) | (_, "") => None,
                (low, high) => Some((number(low)?, number(high)?)),
            };
            Ok(Self {
                t_s: number(&cells[t_s])?,
                kind: cells[kind].clone(),
                gap_ms: number(&cells[gap_ms])?,
                verdict: verdict(&cells[said])?,
                confidence: number(&cells[confidence])?,
                energy_j: energy,
                request_id: cells[id].clone(),
                cells: cells.clone(),
            })
        };
        table.rows.iter().map(row).collect()
    }
}

fn number(cell: &str) -> io::Result<f64> {
    cell.parse().map_err(|_| io::Error::other(format!("{cell:?} in stalls.csv is no number")))
}
