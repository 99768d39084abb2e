//! A calibration for people: at most 80 columns, one line a client.

use tailcliff_proto::histogram::LatencyHistogram;

use super::{Client, Report};

/// The whole report, ending in a line break.
pub fn render(report: &Report) -> String {
    let host = &report.host;
    let mut out = format!(
        "{}: {}, {} cores, {} GiB, Linux {}\n{} load-making thread{}, limit of open files {}\n\n",
        host.hostname,
        host.cpu_model,
        host.cores,
        host.memory_bytes >> 30,
        host.kernel,
        host.shards,
        if host.shards == 1 { "" } else { "s" },
        host.fd_limit,
    );
    out.push_str(&format!(
        "Stub: first token after {} ms, then one each {} ms, {} tokens a reply.\n\
         TTFT added in ms: the client's, less the stub's own from read to first write;\n\
         CPU a token in µs, of the threads that make load.\n\n",
        report.ttft_ms, report.itl_ms, report.tokens
    ));
    out.push_str("                       after the send   from intended    streams held  CPU a\n");
    out.push_str("streams  client            p50     p99     p50     p99    gauge    stub  token\n");
    for level in &report.levels {
        out.push_str(&line(&level.streams.to_string(), "tailcliff", &level.ours));
        out.push_str(&line("", "plain reqwest", &level.reqwest));
    }
    for level in &report.levels {
        if !level.reasons.is_empty() {
            out.push_str(&format!("at {}: {}: {}\n", level.streams, level.verdict, level.reasons.join("; ")));
        }
    }
    let (tokens, ours, reqwest) = &report.burst;
    out.push_str(&format!("\nBursts of {tokens} tokens, events/s for each core and CPU per event:\n"));
    for (name, client) in [("tailcliff", ours), ("plain reqwest", reqwest)] {
        let per_core = client.events_per_s_per_core().map(|n| n / 1e3);
        let (per_core, ns) = (number_or_dash(per_core, 0), number_or_dash(client.cpu_ns_per_event, 0));
        out.push_str(&format!("         {name:13} {per_core:>6} thousand/s  {ns:>6} ns\n"));
    }
    out
}

fn number_or_dash(value: Option<f64>, digits: usize) -> String {
    value.map_or("–".to_owned(), |value| format!("{value:.digits$}"))
}

fn line(streams: &str, name: &str, client: &Client) -> String {
    let pair = |h: &LatencyHistogram| {
        let ms = |q| number_or_dash(h.quantile_ns(q).map(|ns| ns as f64 / 1e6), 3);
        format!("{:>7} {:>7}", ms(0.5), ms(0.99))
    };
    let (gauge, stub) = (number_or_dash(client.held_gauge, 1), number_or_dash(client.held_stub, 1));
    let cpu = number_or_dash(client.cpu_ns_per_event.map(|ns| ns / 1e3), 2);
    format!(
        "{streams:>7}  {name:13} {} {}  {gauge:>7} {stub:>7} {cpu:>6}\n",
        pair(&client.added.after_send),
        pair(&client.added.from_intended)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibrate::Level;

    #[test]
    fn it_fits_eighty_columns_and_says_what_is_not_known() {
        let mut ours = Client { held_gauge: Some(65_535.9), held_stub: Some(65_000.1), ..Client::default() };
        ours.added.after_send.record(123_456_789);
        ours.cpu_ns_per_event = Some(812.4);
        let level = Level { streams: 65_536, ours: ours.clone(), ..Level::default() };
        let report =
            Report { levels: vec![level], burst: (128, ours, Client::default()), ..Report::default() };
        let text = render(&report);
        assert!(text.lines().all(|l| l.chars().count() <= 80), "{text}");
        assert!(text.contains("65536  tailcliff") && text.contains("1231 thousand/s"), "{text}");
        assert!(text.contains("123.4") && text.contains('–'), "{text}");
    }
}
