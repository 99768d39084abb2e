//! How many requests took how long, over time: a grid of counts, time by the logarithm of latency.

use serde_json::{Value, json};
use tailcliff_proto::v1::{Outcome, RequestRecord};

use crate::merge::record;
use crate::report::text::number;

use super::life::Life;
use super::series::Axis;

/// Columns at most.
const COLUMNS: usize = 200;
/// Rows of each factor of ten.
const PER_DECADE: f64 = 24.0;
/// The lowest row begins here, ns; what is faster is in it.
const LOWEST_NS: f64 = 10_000.0;
/// Up to 10 µs × 10⁹, beyond an hour.
const ROWS: usize = 216;

/// Counts of completed requests, by when they were to be sent and by latency.
#[derive(Debug)]
pub(super) struct Heat {
    axis: Axis,
    columns: usize,
    e2e: Vec<u32>,
    ttft: Vec<u32>,
}

impl Heat {
    pub(super) fn new(axis: Axis) -> Self {
        let columns = axis.bins.clamp(1, COLUMNS);
        Self { axis, columns, e2e: vec![0; columns * ROWS], ttft: vec![0; columns * ROWS] }
    }

    pub(super) fn add(&mut self, life: &Life, record: &RequestRecord) {
        if record::outcome(record) != Outcome::Completed || record.is_control() {
            return;
        }
        let Some(bin) = self.axis.bin(life.intended_ns) else { return };
        let column = bin * self.columns / self.axis.bins;
        let mut put = |grid: fn(&mut Self) -> &mut Vec<u32>, ns: i64| {
            let at = row(ns) * self.columns + column;
            grid(self)[at] += 1;
        };
        record::e2e_ns(record).into_iter().for_each(|ns| put(|heat| &mut heat.e2e, ns));
        record::ttft_ns(record).into_iter().for_each(|ns| put(|heat| &mut heat.ttft, ns));
    }

    pub(super) fn json(&self, axis: Axis) -> Value {
        let seconds = axis.width_s() * axis.bins as f64 / self.columns as f64;
        json!({
            "start_s": number(Some(axis.start_s()), 6),
            "column_s": number(Some(seconds), 6),
            "columns": self.columns,
            "e2el": self.grid(&self.e2e),
            "ttft": self.grid(&self.ttft),
        })
    }

    /// The rows between the lowest and the highest that hold something; null when none does.
    fn grid(&self, counts: &[u32]) -> Value {
        let rows: Vec<&[u32]> = counts.chunks(self.columns).collect();
        let is_used = |row: &&[u32]| row.iter().any(|n| *n > 0);
        let (Some(first), Some(last)) = (rows.iter().position(is_used), rows.iter().rposition(is_used))
        else {
            return Value::Null;
        };
        let edges = (first..=last + 1).map(|row| number(Some(edge_ms(row)), 4)).collect::<Vec<_>>();
        json!({ "edges_ms": edges, "rows": rows[first..=last] })
    }
}

fn row(ns: i64) -> usize {
    let decades = (ns.max(1) as f64 / LOWEST_NS).log10().max(0.0);
    ((decades * PER_DECADE) as usize).min(ROWS - 1)
}

fn edge_ms(row: usize) -> f64 {
    LOWEST_NS / 1e6 * 10f64.powf(row as f64 / PER_DECADE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_lies_between_the_edges_of_its_row() {
        for ns in [10_001i64, 99_999, 1_000_001, 123_456_789, 3_599_999_999_999] {
            let at = row(ns);
            let ms = ns as f64 / 1e6;
            assert!(edge_ms(at) <= ms && ms < edge_ms(at + 1), "{ns} in row {at}");
        }
        assert_eq!((row(0), row(-5), row(i64::MAX)), (0, 0, ROWS - 1));
    }
}
