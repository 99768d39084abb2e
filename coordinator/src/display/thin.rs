//! A thousand nodes say a thousand lines that differ in a name and a number: the first of a kind are shown, the others
//! counted. Lines are of a kind when they are equal but for the words that have a digit, and for what is quoted.

use std::collections::HashMap;

/// Lines of a kind that are shown.
const SHOWN: u64 = 20;
/// Kinds that are told apart; lines of others are shown.
const MOST_KINDS: usize = 256;
/// Between two looks at what was counted, ns.
const EVERY_NS: i64 = 2_000_000_000;

/// Counts lines by kind.
#[derive(Debug, Default)]
pub(crate) struct Thin {
    kinds: HashMap<String, Kind>,
    looked_ns: i64,
}

#[derive(Debug, Default)]
struct Kind {
    seen: u64,
    untold: bool,
}

impl Thin {
    /// True when a line is to be shown.
    pub(crate) fn shows(&mut self, line: &str) -> bool {
        let kind = kind(line);
        if self.kinds.len() >= MOST_KINDS && !self.kinds.contains_key(&kind) {
            return true;
        }
        let kind = self.kinds.entry(kind).or_default();
        kind.seen += 1;
        kind.untold |= kind.seen > SHOWN;
        kind.seen <= SHOWN
    }

    /// What was counted since the last look, every two seconds.
    pub(crate) fn due(&mut self, now_ns: i64) -> Vec<String> {
        if now_ns - self.looked_ns < EVERY_NS {
            return Vec::new();
        }
        self.looked_ns = now_ns;
        self.rest()
    }

    /// What was counted since the last look.
    pub(crate) fn rest(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        for (words, kind) in &mut self.kinds {
            if std::mem::take(&mut kind.untold) {
                lines.push(format!("{words} ({} times)", kind.seen));
            }
        }
        lines.sort_unstable();
        lines
    }

    /// Begins anew: what was said of one level is news of the next.
    pub(crate) fn restart(&mut self) -> Vec<String> {
        let rest = self.rest();
        self.kinds.clear();
        rest
    }
}

fn kind(line: &str) -> String {
    let unquoted: String = line.split('"').step_by(2).collect::<Vec<_>>().join("…");
    let word = |word: &str| if word.contains(|c: char| c.is_ascii_digit()) { "…" } else { word }.to_owned();
    unquoted.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000_000;

    #[test]
    fn the_first_lines_of_a_kind_are_shown_and_the_others_counted() {
        let mut thin = Thin::default();
        let join = |thin: &mut Thin, i: u32| thin.shows(&format!("agent agent-{i} (host-{i}) joined"));
        assert_eq!((0..100).filter(|&i| join(&mut thin, i)).count(), 20);
        assert!(thin.shows("writing to runs"));
        assert_eq!(thin.due(10 * S), ["agent … … joined (100 times)"]);
        assert!(!(100..1_000).any(|i| join(&mut thin, i)));
        assert_eq!(thin.due(11 * S), [""; 0], "not at once");
        assert_eq!(thin.due(12 * S), ["agent … … joined (1000 times)"]);
        assert_eq!(thin.due(20 * S), [""; 0], "once");
        assert_eq!(thin.restart(), [""; 0]);
        assert!(join(&mut thin, 0));
    }

    #[test]
    fn answers_that_differ_are_one_kind_and_kinds_are_bounded() {
        let mut thin = Thin::default();
        let preflight = |i: u32| format!("preflight: answered \"hello number {i} times {i}\" in {i} ms");
        assert_eq!((0..50).filter(|&i| thin.shows(&preflight(i))).count(), 20);
        let odd = |i: u32| "x".repeat(i as usize);
        assert!((0..1_000).all(|i| thin.shows(&odd(i))));
        assert!(thin.kinds.len() <= MOST_KINDS);
        assert!((0..100).all(|_| thin.shows(&odd(999))), "beyond what is told apart all are shown");
    }
}
