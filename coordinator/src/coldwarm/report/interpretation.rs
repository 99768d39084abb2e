//! The section that says what it means.

use super::tables::{line, stable};
use super::{Report, plain};
use crate::coldwarm::cycle::Cycle;
use crate::coldwarm::diagnose::{Diagnosis, Seen, Verdict, bytes};

pub(super) fn write(out: &mut String, report: &Report) {
    line!(out, "## Interpretation\n");
    line!(out, "- **What dominated restart → ready:** {}", verdict(&report.startup));
    line!(out, "- **What dominated cold_1 (to its first token):** {}", verdict(&report.first));
    line!(out, "- **Does it come back?** {}", reproduced(report));
    let stable_words = report.cycles.last().map_or("can't tell".to_owned(), stable);
    line!(out, "- **Is warm stable?** {stable_words}");
    let anchor = report.anchor.as_ref();
    let words = anchor
        .map_or("none: no warm run ended well".to_owned(), |a| format!("{:.3} s ({})", a.seconds, a.words));
    line!(out, "- **SLO anchor:** {words}");
    line!(out, "- **Next knob:** {}. Why: {}\n", report.knob.knob, report.knob.why);
    for cycle in &report.cycles {
        of_cycle(out, cycle);
    }
    line!(
        out,
        "A term's seconds are those in which its signals moved; signals that were not read speak for nothing. Confidence: high where independent signals agree, medium where one says so and none contradicts, low by exclusion."
    );
}

fn verdict(verdict: &Verdict) -> String {
    match verdict.term {
        Some(term) => {
            format!(
                "{} (confidence {}): {}",
                term.words(),
                verdict.confidence.words(),
                plain(&verdict.because)
            )
        }
        None => plain(&verdict.because),
    }
}

fn reproduced(report: &Report) -> String {
    let cold: Vec<f64> =
        report.cycles.iter().filter(|c| c.streamed).filter_map(Cycle::ttft_penalty).collect();
    match cold.as_slice() {
        [] | [_] => "can't tell from one restart: give --restarts 3".to_owned(),
        all => {
            let each: Vec<String> = all.iter().map(|p| format!("{p:.2} ×")).collect();
            format!("TTFT penalty of each restart: {}", each.join(", "))
        }
    }
}

fn of_cycle(out: &mut String, cycle: &Cycle) {
    let both = [("restart → ready", &cycle.startup), ("cold_1", &cycle.first)];
    for (name, diagnosis) in both {
        let Some(diagnosis) = diagnosis else { continue };
        line!(out, "### Restart {}: {name}, {:.3} s\n", cycle.restart, diagnosis.span_ns as f64 / 1e9);
        terms(out, diagnosis);
    }
    if let Some(command) = cycle.command_s {
        line!(out, "The restart command of restart {} ended after {command:.2} s.\n", cycle.restart);
    } else if cycle.command_stays {
        line!(out, "The restart command of restart {} went on: it is the server.\n", cycle.restart);
    }
}

fn terms(out: &mut String, diagnosis: &Diagnosis) {
    line!(out, "| term | s | % | confidence | because |\n|---|---|---|---|---|");
    for share in &diagnosis.terms {
        let pct = share.ns as f64 / diagnosis.span_ns.max(1) as f64 * 100.0;
        let (s, sure) = (share.ns as f64 / 1e9, share.confidence.words());
        line!(out, "| {} | {s:.3} | {pct:.0} | {sure} | {} |", share.term.words(), plain(&share.because));
    }
    line!(out, "\nVerdict: {}\n", verdict(&diagnosis.verdict));
    line!(out, "Read meanwhile: {}.", readings(&diagnosis.seen));
    if !diagnosis.absent.is_empty() {
        line!(out, "Not read: {}.", diagnosis.absent.join(", "));
    }
    line!(out, "");
}

fn readings(seen: &Seen) -> String {
    let size = |name: &str, value: Option<f64>| value.map(|v| format!("{name} {}", bytes(Some(v))));
    let time = |name: &str, ns: Option<f64>| ns.map(|ns| format!("{name} {:.2} s", ns / 1e9));
    let all = [
        size("disk", seen.disk_read_bytes),
        size("of it for the server", seen.server_read_bytes),
        size("page cache grew by", seen.page_cache_growth_bytes),
        seen.major_faults.map(|n| format!("major faults {n:.0}")),
        time("some task waited for I/O", seen.io_stalled_ns),
        time("server's CPU", seen.server_cpu_ns),
        size("GPU memory grew by", seen.gpu_memory_growth_bytes),
        size("PCIe received", seen.pcie_rx_bytes),
        seen.gpu_busy_share.map(|share| format!("GPU busy {:.0} %", share * 100.0)),
    ];
    let read: Vec<String> = all.into_iter().flatten().collect();
    if read.is_empty() { "nothing".to_owned() } else { read.join(", ") }
}
