//! `waterfall.csv`: where the time of each request went whose server side is known; a header alone when no server told any.
//! The parts follow one another and together are `e2el_ms`, which completed requests have, as far as all are known. One below
//! 0 is given as it is: what lies between two clocks is known to within `bound_us`, and `impossible` names the parts that no
//! bound explains.

use std::borrow::Cow;
use std::io::{self, Write};

use tailcliff_proto::v1::Outcome;

use crate::clock::Aligned;
use crate::inside::{Joined, Part, each_joined};
use crate::merge::timeline::Timeline;
use crate::merge::{Merged, record};
use crate::stored::RunData;

use super::requests::phase;
use super::table::{Cell, Column, count, csv_header, csv_row, ms, s, text, us};

/// What comes before the parts: the intended send, who, and how well it is known.
const BEFORE: [Column; 10] = [
    s("t_s"),
    text("request_id"),
    text("agent"),
    count("level"),
    count("concurrency"),
    text("phase"),
    text("source"),
    text("server"),
    us("bound_us"),
    text("impossible"),
];

/// What comes after: the client's whole time, and the server's own stamps on the run's timeline.
const AFTER: [Column; 4] =
    [ms("e2el_ms"), s("server_arrival_s"), s("server_first_token_s"), s("server_end_s")];

const PARTS: usize = Part::ALL.len();
const WIDTH: usize = BEFORE.len() + PARTS + AFTER.len();

/// Columns; a part's name with `_ms` is its own.
pub const COLUMNS: [Column; WIDTH] = {
    let mut all = [ms(""); WIDTH];
    let mut i = 0;
    while i < BEFORE.len() {
        all[i] = BEFORE[i];
        i += 1;
    }
    let parts = parts();
    while i < BEFORE.len() + PARTS {
        all[i] = parts[i - BEFORE.len()];
        i += 1;
    }
    while i < WIDTH {
        all[i] = AFTER[i - BEFORE.len() - PARTS];
        i += 1;
    }
    all
};

/// The columns of the parts, in order.
pub(crate) const fn parts() -> [Column; PARTS] {
    [
        ms("send_lag_ms"),
        ms("connect_ms"),
        ms("write_ms"),
        ms("network_up_ms"),
        ms("front_in_ms"),
        ms("queue_ms"),
        ms("prefill_ms"),
        ms("decode_ms"),
        ms("front_out_ms"),
        ms("network_down_ms"),
        ms("socket_wait_ms"),
        ms("read_ms"),
    ]
}

/// A row.
pub type Row<'a> = [Cell<'a>; WIDTH];

/// Writes header and rows.
///
/// # Errors
/// What `out` says.
pub fn write(out: &mut impl Write, data: &RunData, merged: &Merged) -> io::Result<()> {
    csv_header(out, &COLUMNS)?;
    each(data, merged, |row| csv_row(out, &COLUMNS, row))
}

/// Every row.
///
/// # Errors
/// The first of `write`.
pub fn each(
    data: &RunData,
    merged: &Merged,
    mut write: impl FnMut(&Row<'_>) -> io::Result<()>,
) -> io::Result<()> {
    each_joined(data, merged, |joined| write(&row(data, &merged.timeline, joined)))
}

/// The row of one request.
pub(super) fn row<'a>(data: &RunData, timeline: &Timeline, joined: &'a Joined<'_>) -> Row<'a> {
    let record = joined.record;
    let since = |at: Option<Aligned>| Cell::ns(at.map(|at| at.ns.saturating_sub(data.header.started_ref_ns)));
    let load = data.levels.iter().find(|log| log.drive.level == record.level).map(|log| log.load);
    let mut row = [const { Cell::Absent }; WIDTH];
    let before = [
        since(timeline.place(joined.of, record.intended_raw_ns)),
        Cell::text(&record.request_id),
        Cell::text(joined.agent),
        Cell::Count(record.level.into()),
        Cell::count(load.and_then(|load| load.concurrency())),
        Cell::text(phase(record)),
        Cell::text(joined.source.as_str()),
        Cell::text(&joined.server),
        Cell::ns(joined.bound_ns),
        impossible(joined.impossible),
    ];
    let parts = joined.parts.iter().map(|ns| Cell::ns(*ns));
    let e2e_ns = record::e2e_ns(record).filter(|_| record::outcome(record) == Outcome::Completed);
    let after = [Cell::ns(e2e_ns), since(joined.arrival), since(joined.first_token), since(joined.end)];
    let cells = before.into_iter().chain(parts).chain(after);
    row.iter_mut().zip(cells).for_each(|(place, cell)| *place = cell);
    row
}

/// The names of the parts whose bits are set.
pub(crate) fn impossible_parts(bits: u32) -> Vec<&'static str> {
    let is_set = |(i, _): &(usize, &Part)| bits >> i & 1 == 1;
    Part::ALL.iter().enumerate().filter(is_set).map(|(_, part)| part.as_str()).collect()
}

fn impossible(bits: u32) -> Cell<'static> {
    match impossible_parts(bits).join("+") {
        names if names.is_empty() => Cell::Absent,
        names => Cell::Text(Cow::Owned(names)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merge::merge;
    use crate::report::inside_sample;

    #[test]
    fn the_parts_have_their_columns_in_order() {
        let names = COLUMNS[BEFORE.len()..].iter().map(|column| column.name);
        assert!(names.take(PARTS).eq(Part::ALL.iter().map(|part| format!("{}_ms", part.as_str()))));
    }

    #[test]
    fn a_row_adds_up_to_its_request_and_names_what_cannot_be() {
        let data = inside_sample::run();
        let timeline = merge(&data).timeline;
        let (mut rows, mut placed, mut odd) = (0, 0, 0);
        inside_sample::each(&data, &timeline, |joined| {
            let mut out = Vec::new();
            csv_row(&mut out, &COLUMNS, &row(&data, &timeline, joined))?;
            let line = String::from_utf8(out).unwrap();
            let cells: Vec<&str> = line.trim_end().split(',').collect();
            assert_eq!(cells.len(), WIDTH);
            let cell = |name: &str| cells[COLUMNS.iter().position(|c| c.name == name).unwrap()];
            let ms = |text: &str| text.parse::<f64>().unwrap_or(0.0);
            let sum: f64 = cells[BEFORE.len()..BEFORE.len() + PARTS].iter().map(|text| ms(text)).sum();
            assert!((sum - ms(cell("e2el_ms"))).abs() < 1e-5, "{line}");
            // A reply has durations and no stamps.
            if !cell("server_arrival_s").is_empty() {
                let way = ms(cell("send_lag_ms")) + ms(cell("write_ms")) + ms(cell("network_up_ms"));
                let arrival = ms(cell("t_s")) + way / 1e3;
                assert!((arrival - ms(cell("server_arrival_s"))).abs() < 1e-4, "{line}");
                placed += 1;
            }
            rows += 1;
            if !cell("impossible").is_empty() {
                odd += 1;
                assert_eq!(cell("impossible"), "network_up+front_out");
                assert!(cell("network_up_ms").starts_with('-') && cell("front_out_ms").starts_with('-'));
            }
            Ok(())
        })
        .unwrap();
        assert!(placed > 100 && rows > placed && odd > 5, "{rows} {placed} {odd}");
    }
}
