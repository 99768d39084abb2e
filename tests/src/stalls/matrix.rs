//! Verdict × truth.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use crate::stalls::plan::Kind;
use crate::stalls::rows::{Row, Verdict};
use crate::stalls::truth::Known;

/// From this confidence on a verdict that is wrong is a lie.
const CONFIDENT: f64 = 0.8;

/// How often each cause got which verdict; over many runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Matrix {
    counts: BTreeMap<(Kind, Verdict), u32>,
    /// Stalls that nobody made: the machine was busy. They are judged too, but their truth is unknown.
    pub unmade: u32,
    /// Stalls of a known cause that the busy machine added to; not judged here either.
    pub disturbed: u32,
    /// Injections of which no row tells, not even one that the busy machine added to.
    pub missed: Vec<String>,
    /// Rows that are wrong, each in words.
    pub wrong: Vec<String>,
    /// How many of these were confident.
    pub confident_wrong: u32,
    /// Injections that were told, and of how many of them most rows are right: rows of one are not independent.
    pub told: (u32, u32),
}

impl Matrix {
    /// Adds a run's rows.
    pub fn add(&mut self, label: &str, rows: &[Row], known: &Known) {
        // Rows of each injection, and how many of them are right.
        let mut told = vec![(0, 0); known.injected().len()];
        let mut has_row = vec![false; known.injected().len()];
        for row in rows {
            let truth = known.of(row);
            let Some((injection, kind)) = truth.and_then(|t| Some((t.injection?, t.kind?))) else {
                self.unmade += 1;
                continue;
            };
            has_row[injection] = true;
            if truth.is_some_and(|truth| truth.disturbed) {
                self.disturbed += 1;
                continue;
            }
            told[injection].0 += 1;
            told[injection].1 += u32::from(is_right(kind, row));
            *self.counts.entry((kind, row.verdict)).or_default() += 1;
            if !is_right(kind, row) && row.verdict != Verdict::CantTell {
                self.wrong.push(format!("{label}: {} is {}", kind.name(), row.cells.join(",")));
                self.confident_wrong += u32::from(row.confidence >= CONFIDENT);
            }
        }
        let heard = || told.iter().filter(|(rows, _)| *rows > 0);
        self.told.0 += heard().count() as u32;
        self.told.1 += heard().filter(|(rows, right)| 2 * right > *rows).count() as u32;
        let unheard = known.injected().iter().zip(has_row).filter(|(_, has_row)| !has_row);
        for (one, _) in unheard.filter(|(one, _)| known.was_felt(one)) {
            let ms = (one.to_ns - one.from_ns) / 1_000_000;
            self.missed.push(format!("{label}: {} of {ms} ms", one.kind.name()));
        }
    }

    /// Rows with a known cause.
    pub fn rows(&self) -> u32 {
        self.counts.values().sum()
    }

    /// Share of those that are not told wrong or left untold.
    pub fn right(&self) -> f64 {
        let wrong = self.wrong.len() as u32 + self.cant_tell_rows();
        f64::from(self.rows() - wrong) / f64::from(self.rows().max(1))
    }

    /// Share of those of which it says that it can't tell.
    pub fn cant_tell(&self) -> f64 {
        f64::from(self.cant_tell_rows()) / f64::from(self.rows().max(1))
    }

    fn cant_tell_rows(&self) -> u32 {
        let untold = self.counts.iter().filter(|((_, verdict), _)| *verdict == Verdict::CantTell);
        untold.map(|(_, count)| count).sum()
    }
}

/// A request that waits for its first token while all are held up waits, whatever holds them up.
fn is_right(kind: Kind, row: &Row) -> bool {
    let waits = row.kind == "ttft" && kind.is_servers() && row.verdict == Verdict::Waiting;
    row.verdict == kind.verdict() || waits
}

impl Display for Matrix {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        write!(out, "{:<14}", "truth")?;
        Verdict::ALL.iter().try_for_each(|verdict| write!(out, "{:>14}", verdict.as_str()))?;
        writeln!(out, "   expected")?;
        for kind in Kind::ALL {
            write!(out, "{:<14}", kind.name())?;
            for verdict in Verdict::ALL {
                write!(out, "{:>14}", self.counts.get(&(kind, verdict)).copied().unwrap_or(0))?;
            }
            writeln!(out, "   {}", kind.verdict().as_str())?;
        }
        writeln!(
            out,
            "{} rows of a known cause: {:.1} % right, {:.1} % can't tell, {} confident and wrong; {} rows that nobody made, {} disturbed; \
             of {} injections {} have most of their rows right",
            self.rows(),
            100.0 * self.right(),
            100.0 * self.cant_tell(),
            self.confident_wrong,
            self.unmade,
            self.disturbed,
            self.told.0,
            self.told.1
        )?;
        self.wrong.iter().try_for_each(|line| writeln!(out, "wrong: {line}"))?;
        self.missed.iter().try_for_each(|line| writeln!(out, "missed: {line}"))
    }
}
