//! Truth against diagnosis.

use std::collections::BTreeMap;
use std::fmt;

use super::{Played, Scene, is_right};

/// One scene, judged.
#[derive(Clone, Debug)]
pub struct Row {
    /// Kind, signals and seed.
    pub name: String,
    /// What limits it.
    pub truth: &'static str,
    /// What was said; with the candidates where it is unknown.
    pub said: String,
    /// It is what can be told.
    pub right: bool,
    /// What can be told is the cause itself.
    pub tellable: bool,
    /// The diagnosis in words, after the knee's.
    pub words: String,
}

impl Row {
    /// Of a scene that was played.
    pub fn of(scene: &Scene, played: &Played) -> Self {
        let said = match &played.diagnosed.diagnosis {
            None => "none".to_owned(),
            Some(found) if found.candidates.is_empty() => found.cause.to_string(),
            Some(found) => {
                let names: Vec<&str> = found.candidates.iter().map(|cause| cause.as_str()).collect();
                format!("unknown: {}", names.join(" or "))
            }
        };
        Self {
            name: format!("{:?}, {}, seed {}", scene.kind, scene.signals, scene.seed),
            truth: scene.kind.cause().as_str(),
            said,
            right: is_right(scene, &played.diagnosed),
            tellable: scene.tellable().is_ok(),
            words: format!("{}; {}", played.merged.knee.words, played.diagnosed.words),
        }
    }
}

/// All rows.
#[derive(Clone, Debug, Default)]
pub struct Confusion {
    /// In the order played.
    pub rows: Vec<Row>,
}

impl Confusion {
    /// Share that is right, of those whose cause can be told or of the others; `None` when there is none.
    pub fn share(&self, tellable: bool) -> Option<f64> {
        let all = || self.rows.iter().filter(|row| row.tellable == tellable);
        let right = all().filter(|row| row.right).count();
        (all().count() > 0).then(|| right as f64 / all().count() as f64)
    }

    /// Those that are wrong.
    pub fn wrong(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| !row.right)
    }
}

impl fmt::Display for Confusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cells = BTreeMap::<(bool, &str, &str), (u32, u32)>::new();
        for row in &self.rows {
            let cell = cells.entry((!row.tellable, row.truth, &row.said)).or_default();
            cell.0 += 1;
            cell.1 += u32::from(row.right);
        }
        writeln!(f, "SIMULATED: {} worlds in virtual time", self.rows.len())?;
        writeln!(f, "{:<22} {:<62} {:>5} {:>5}", "truth", "said", "n", "right")?;
        let mut last = None;
        for ((untellable, truth, said), (n, right)) in cells {
            if last != Some(untellable) {
                let title = if untellable { "signals that cannot tell" } else { "signals that can tell" };
                writeln!(f, "-- {title}")?;
                last = Some(untellable);
            }
            writeln!(f, "{truth:<22} {said:<62} {n:>5} {right:>5}")?;
        }
        for (tellable, title) in [
            (true, "cause right where it can be told"),
            (false, "all that are left named, and no other, where it cannot"),
        ] {
            if let Some(share) = self.share(tellable) {
                let n = self.rows.iter().filter(|row| row.tellable == tellable).count();
                writeln!(f, "{title}: {:.1} % of {n}", 100.0 * share)?;
            }
        }
        Ok(())
    }
}
