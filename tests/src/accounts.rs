//! A run's own accounts beside the server's: how many requests the summary says were released, what became of each in
//! `requests.csv`, and what the server's truth log knows of them. Two counts that share no code can disagree.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use model_sim::{Outcome, TruthRecord};
use serde_json::Value;

use crate::csv::Table;
use crate::truth_check::{self, Truth};

/// Sums over all levels and phases of `summary.json`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// All that agents sent.
    pub released: u64,
    /// With a whole reply.
    pub completed: u64,
    /// With an error.
    pub failed: u64,
    /// Cut short by the client.
    pub incomplete: u64,
    /// Released, and nothing more is known.
    pub unreported: u64,
}

/// A row of `requests.csv`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its `x-request-id`.
    pub request_id: String,
    /// `completed`, `failed` or `incomplete`.
    pub outcome: String,
    /// Why it failed.
    pub error_kind: String,
}

/// Both sides' accounts.
#[derive(Debug)]
pub struct Accounts {
    /// What the summary says.
    pub totals: Totals,
    /// What `requests.csv` says, by request id.
    pub rows: BTreeMap<String, Row>,
    /// Rows beyond the first of their id.
    pub repeated_rows: u64,
    /// What the server says.
    pub truth: Truth,
}

impl Accounts {
    /// Reads a run's outputs and a truth log.
    ///
    /// # Errors
    /// When a file cannot be read or lacks what is asked of it.
    pub fn read(run_dir: &Path, truth_log: &Path) -> io::Result<Self> {
        let summary = serde_json::from_slice(&std::fs::read(run_dir.join("summary.json"))?)?;
        let all = read_rows(&run_dir.join("requests.csv"))?;
        let number = all.len();
        let rows: BTreeMap<_, _> = all.into_iter().map(|row| (row.request_id.clone(), row)).collect();
        let repeated_rows = (number - rows.len()) as u64;
        let truth = truth_check::read_truth(truth_log)?;
        Ok(Self { totals: Totals::read(&summary)?, rows, repeated_rows, truth })
    }

    /// Requests that the server got and no row tells of: a killed node took them with it.
    pub fn unrecorded(&self) -> impl Iterator<Item = (&str, &TruthRecord)> {
        let truth = self.truth.by_id.iter().map(|(id, record)| (id.as_str(), record));
        truth.filter(|(id, _)| !self.rows.contains_key(*id))
    }

    /// Rows of requests that the server never read.
    pub fn unseen(&self) -> impl Iterator<Item = &Row> {
        self.rows.values().filter(|row| !self.truth.by_id.contains_key(&row.request_id))
    }

    /// What cannot be true, a sentence each, whichever nodes were killed. The truth log must be whole.
    pub fn contradictions(&self) -> Vec<String> {
        let mut all = Vec::new();
        let mut equal = |what: &str, ours: u64, theirs: u64| {
            if ours != theirs {
                all.push(format!("{what}: {ours} ≠ {theirs}"));
            }
        };
        equal("requests that the server got twice", self.truth.duplicates, 0);
        equal("rows that repeat an id", self.repeated_rows, 0);
        let (totals, rows) = (self.totals, self.rows.len() as u64);
        equal("summary's completed, and rows", totals.completed, self.rows_of("completed"));
        equal("summary's failed, and rows", totals.failed, self.rows_of("failed"));
        equal("summary's incomplete, and rows", totals.incomplete, self.rows_of("incomplete"));
        equal("summary's released, and rows with unreported", totals.released, rows + totals.unreported);
        all.extend(self.rows.values().filter_map(|row| self.dispute(row)));
        all
    }

    /// What differs where no node was killed: besides the contradictions, any request that only one side counts.
    pub fn differences(&self) -> Vec<String> {
        let mut all = self.contradictions();
        all.extend(self.unrecorded().map(|(id, _)| format!("{id} reached the server and is in no row")));
        let counted = self.truth.by_id.len() as u64 + self.unseen().count() as u64;
        let released = self.totals.released;
        if released != counted {
            all.push(format!("{released} released, but {counted} reached the server or failed before it"));
        }
        all
    }

    fn rows_of(&self, outcome: &str) -> u64 {
        self.rows.values().filter(|row| row.outcome == outcome).count() as u64
    }

    /// Where client and server disagree on whether a reply was whole. One that was whole for the server may have been
    /// given up by the client at its end, which is `incomplete`, but it has not failed.
    fn dispute(&self, row: &Row) -> Option<String> {
        let truth = self.truth.by_id.get(&row.request_id).map(|record| record.outcome);
        let whole = matches!(truth, Some(Outcome::Completed | Outcome::NoDone));
        let disputed = match row.outcome.as_str() {
            "completed" => !whole,
            "failed" => whole,
            _ => false,
        };
        disputed.then(|| {
            format!("{} is {} to the client and {truth:?} to the server", row.request_id, row.outcome)
        })
    }
}

impl Totals {
    fn read(summary: &Value) -> io::Result<Self> {
        let levels =
            summary["levels"].as_array().ok_or_else(|| io::Error::other("the summary has no levels"))?;
        let sum = |key: &str| -> io::Result<u64> {
            let missing = || io::Error::other(format!("a level's all_phases has no {key}"));
            levels.iter().map(|level| level["all_phases"][key].as_u64().ok_or_else(missing)).sum()
        };
        Ok(Self {
            released: sum("released")?,
            completed: sum("completed")?,
            failed: sum("failed")?,
            incomplete: sum("incomplete")?,
            unreported: sum("unreported")?,
        })
    }
}

fn read_rows(path: &Path) -> io::Result<Vec<Row>> {
    let table = Table::read(path)?;
    let (id, outcome) = (table.column("request_id")?, table.column("outcome")?);
    let kind = table.column("error_kind")?;
    let row = |cells: &Vec<String>| Row {
        request_id: cells[id].clone(),
        outcome: cells[outcome].clone(),
        error_kind: cells[kind].clone(),
    };
    Ok(table.rows.iter().map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testdata::truth_line;

    const ROWS: &str = "request_id,outcome,error_kind\na,completed,\nb,failed,early_end\nc,incomplete,\nd,failed,connect_refused\n";
    const SUMMARY: &str = r#"{"levels":[
        {"all_phases":{"released":3,"completed":1,"failed":1,"incomplete":1,"unreported":0}},
        {"all_phases":{"released":1,"completed":0,"failed":1,"incomplete":0,"unreported":0}}]}"#;

    fn truth() -> String {
        truth_line("a", "completed", &[])
            + &truth_line("b", "dropped", &[])
            + &truth_line("c", "client_gone", &[])
    }

    fn accounts(summary: &str, rows: &str, truth: &str) -> Accounts {
        let dir = tempfile::tempdir().unwrap();
        let files = [("summary.json", summary), ("requests.csv", rows), ("truth", truth)];
        files.iter().for_each(|(name, text)| std::fs::write(dir.path().join(name), text).unwrap());
        Accounts::read(dir.path(), &dir.path().join("truth")).unwrap()
    }

    #[test]
    fn accounts_that_agree() {
        let both = accounts(SUMMARY, ROWS, &truth());
        assert_eq!(both.differences(), [""; 0]);
        assert_eq!(both.unseen().map(|row| row.request_id.as_str()).collect::<Vec<_>>(), ["d"]);
        assert_eq!(both.unrecorded().count(), 0);
    }

    /// Each way in which one side can be wrong must show.
    #[test]
    fn whatever_one_side_gets_wrong_shows() {
        let lines = truth();
        let lines: Vec<&str> = lines.split_inclusive('\n').collect();
        let without_a_row = ROWS.replace("c,incomplete,\n", "");
        let without_first = lines[1..].concat();
        let twice = lines.concat() + lines[0];
        let more = lines.concat() + &truth_line("e", "completed", &[]);
        for (what, summary, rows, truth) in [
            ("a row is missing", SUMMARY, without_a_row.as_str(), lines.concat()),
            ("a row is there twice", SUMMARY, &(ROWS.to_owned() + "a,completed,\n"), lines.concat()),
            (
                "one released too many",
                &SUMMARY.replace(r#""released":3"#, r#""released":4"#),
                ROWS,
                lines.concat(),
            ),
            (
                "one failed too many",
                &SUMMARY.replace(r#""failed":1,"inc"#, r#""failed":2,"inc"#),
                ROWS,
                lines.concat(),
            ),
            ("a completed request never came", SUMMARY, ROWS, without_first),
            ("a request came twice", SUMMARY, ROWS, twice),
            ("a request came that no row knows", SUMMARY, ROWS, more),
            (
                "a dropped reply counts as completed",
                SUMMARY,
                ROWS,
                lines.concat().replace("completed", "dropped"),
            ),
            ("a whole reply counts as failed", SUMMARY, ROWS, lines.concat().replace("dropped", "completed")),
        ] {
            assert_ne!(accounts(summary, rows, &truth).differences(), [""; 0], "{what}");
        }
    }
}
