//! `server_trace.csv`: every scrape of a server's metrics on the timeline of `token_trace.csv`; a header alone when nothing was
//! scraped. `t_s` is when it was asked for, its values are of a moment within `took_ms` of that. Totals are since the server
//! began. What the endpoint did not tell is an empty cell.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};

use tailcliff_proto::v1::{self, ServerLatency};

use crate::merge::tally;
use crate::merge::timeline::Timeline;
use crate::stored::RunData;

use super::table::{Cell, Column, csv_header, csv_row, float, ms, s, text, us};

/// Columns. Sums and counts are of the server's own histograms; what was asked for by name is `name=value`, with `;` between.
pub const COLUMNS: [Column; 29] = [
    s("t_s"),
    us("unc_us"),
    ms("took_ms"),
    text("probe"),
    text("endpoint"),
    text("failed"),
    float("running"),
    float("waiting"),
    float("kv_usage"),
    float("preemptions"),
    float("cache_queries"),
    float("cache_hits"),
    float("drafted"),
    float("accepted"),
    float("prompt_tokens"),
    float("output_tokens"),
    float("ttft_sum_s"),
    float("ttft_count"),
    float("itl_sum_s"),
    float("itl_count"),
    float("e2e_sum_s"),
    float("e2e_count"),
    float("queue_sum_s"),
    float("queue_count"),
    float("prefill_sum_s"),
    float("prefill_count"),
    float("decode_sum_s"),
    float("decode_count"),
    text("named"),
];

/// A row.
pub type Row<'a> = [Cell<'a>; COLUMNS.len()];

/// Writes header and rows, by probe, as scraped; scrapes without a place on the timeline are left out.
///
/// # Errors
/// What `out` says.
pub fn write(out: &mut impl Write, data: &RunData, timeline: &Timeline) -> io::Result<()> {
    csv_header(out, &COLUMNS)?;
    each(data, timeline, |row| csv_row(out, &COLUMNS, row))
}

/// Every row.
///
/// # Errors
/// The first of `write`.
pub fn each(
    data: &RunData,
    timeline: &Timeline,
    mut write: impl FnMut(&Row<'_>) -> io::Result<()>,
) -> io::Result<()> {
    for (of, node) in tally::of_kind(data, v1::NodeKind::GpuProbe) {
        for batch in node.each_batch_with_server() {
            for sample in &batch.server_samples {
                let Some(at) = timeline.place(of, sample.raw_ns) else { continue };
                let t_ns = at.ns.saturating_sub(data.header.started_ref_ns);
                write(&row(t_ns, at.bound_ns, &node.hello.name, sample))?;
            }
        }
    }
    Ok(())
}

fn row<'a>(t_ns: i64, bound_ns: i64, probe: &'a str, sample: &'a v1::ServerSample) -> Row<'a> {
    let sum = |of| histogram(sample, of).map_or(Cell::Absent, |all| Cell::Float(all.sum_s));
    let count = |of| histogram(sample, of).map_or(Cell::Absent, |all| Cell::Float(all.count));
    [
        Cell::Ns(t_ns),
        Cell::Ns(bound_ns),
        Cell::Ns(sample.took_ns),
        Cell::text(probe),
        Cell::text(&sample.endpoint),
        Cell::text(&sample.failed),
        number(sample.running),
        number(sample.waiting),
        number(sample.kv_usage),
        number(sample.preemptions),
        number(sample.cache_queries),
        number(sample.cache_hits),
        number(sample.drafted),
        number(sample.accepted),
        number(sample.prompt_tokens),
        number(sample.output_tokens),
        sum(ServerLatency::Ttft),
        count(ServerLatency::Ttft),
        sum(ServerLatency::Itl),
        count(ServerLatency::Itl),
        sum(ServerLatency::E2e),
        count(ServerLatency::E2e),
        sum(ServerLatency::Queue),
        count(ServerLatency::Queue),
        sum(ServerLatency::Prefill),
        count(ServerLatency::Prefill),
        sum(ServerLatency::Decode),
        count(ServerLatency::Decode),
        named(&sample.named),
    ]
}

/// What is no number is not known: a reader of the table would stumble over it.
fn number(value: Option<f64>) -> Cell<'static> {
    value.filter(|value| value.is_finite()).map_or(Cell::Absent, Cell::Float)
}

fn histogram(sample: &v1::ServerSample, of: ServerLatency) -> Option<&v1::ServerHistogram> {
    sample
        .histograms
        .iter()
        .find(|all| all.of == of as i32)
        .filter(|all| all.sum_s.is_finite() && all.count.is_finite())
}

fn named(values: &[v1::NamedValue]) -> Cell<'static> {
    let mut all = String::new();
    for v1::NamedValue { name, value } in values {
        let between = if all.is_empty() { "" } else { ";" };
        let _fits = write!(all, "{between}{name}={value}");
    }
    if all.is_empty() { Cell::Absent } else { Cell::Text(Cow::Owned(all)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merge::{merge, testrun};
    use crate::report::inside_sample;

    fn of(data: &RunData) -> Vec<Vec<String>> {
        let mut out = Vec::new();
        write(&mut out, data, &merge(data).timeline).unwrap();
        let text = String::from_utf8(out).unwrap();
        text.lines().map(|line| line.split(',').map(str::to_owned).collect()).collect()
    }

    #[test]
    fn a_scrape_is_a_row_and_what_it_lacks_an_empty_cell() {
        let rows = of(&inside_sample::run());
        let at = |name: &str| rows[0].iter().position(|cell| cell == name).unwrap();
        assert_eq!(rows.len(), 1 + inside_sample::SCRAPES);
        // The first, 2 s into the run.
        assert!((rows[1][at("t_s")].parse::<f64>().unwrap() - 2.0).abs() < 1e-4, "{:?}", rows[1]);
        assert_eq!(rows[1][at("took_ms")], "3.000000");
        assert_eq!((rows[1][at("running")].as_str(), rows[1][at("kv_usage")].as_str()), ("0", "0.25"));
        assert_eq!((rows[3][at("ttft_sum_s")].as_str(), rows[3][at("ttft_count")].as_str()), ("1.5", "30"));
        assert_eq!(rows[1][at("drafted")], "", "never told");
        assert_eq!(
            rows[1][at("named")],
            "my_gauge{a=\"b\"}=7".replace('"', "\"\"").replace("my", "\"my") + "\""
        );
        // A scrape that failed says why, and nothing else.
        let failed = rows.iter().find(|row| !row[at("failed")].is_empty() && row[0] != "t_s").unwrap();
        assert_eq!(failed[at("failed")], "connection refused");
        assert!(failed[at("running")..].iter().all(String::is_empty), "{failed:?}");
    }

    #[test]
    fn without_a_scrape_there_is_a_header_alone() {
        assert_eq!(of(&testrun::run(1, 1, &[1])).len(), 1);
    }
}
