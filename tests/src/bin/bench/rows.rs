//! The rows of the table, each with what the project promises.

use serde_json::Value;
use tailcliff_proto::histogram::LatencyHistogram;

use crate::clients::{Figures, Job, Ours};
use crate::{Bench, median, say, verdict};

/// One pass: floor, ours, plain reqwest.
struct Pass {
    floor: Figures,
    ours: Ours,
    reqwest: Figures,
}

impl Bench {
    /// The order turns from pass to pass: what changes steadily on the machine then favours nobody.
    fn passes_of(&self, job: &Job, usual: u32) -> anyhow::Result<Vec<Pass>> {
        let pass = |i: u32| {
            let first = i.is_multiple_of(2).then(|| self.ours(job, &[])).transpose()?;
            let (floor, reqwest) = (self.floor(job)?, self.reqwest(job)?);
            let ours = first.map_or_else(|| self.ours(job, &[]), Ok)?;
            Ok(Pass { floor, ours, reqwest })
        };
        (0..self.passes(usual)).map(pass).collect()
    }
}

pub(crate) fn plain(bench: &Bench) -> anyhow::Result<()> {
    let job = Job {
        stub: "--mode plain",
        streams: 16,
        tokens: 16,
        streaming: false,
        warmup_s: 1,
        seconds: bench.seconds,
    };
    cpu(bench, &job, "plain request", "µs", 1e3, Figures::cpu_per_request_ns, 2.0)
}

pub(crate) fn burst(bench: &Bench) -> anyhow::Result<()> {
    let job = Job {
        stub: "--mode burst",
        streams: 16,
        tokens: 128,
        streaming: true,
        warmup_s: 1,
        seconds: bench.seconds,
    };
    cpu(bench, &job, "128-chunk burst, per event", "ns", 1.0, Figures::cpu_per_token_ns, 4.0)
}

pub(crate) fn paced(bench: &Bench) -> anyhow::Result<()> {
    let job = paced_job(bench, 512);
    cpu(bench, &job, "512 streams at 10 ms, per event", "µs", 1e3, Figures::cpu_per_token_ns, 1.3)
}

/// 512 streams with a token each 10 ms, or 1,024 each 20 ms: as many tokens a second.
fn paced_job(bench: &Bench, streams: usize) -> Job {
    let stub = match streams {
        512 => "--mode paced --ttft-ms 50 --itl-ms 10 --spread",
        _ => "--mode paced --ttft-ms 50 --itl-ms 20 --spread",
    };
    Job { stub, streams, tokens: 60, streaming: true, warmup_s: 2, seconds: bench.seconds }
}

fn cpu(
    bench: &Bench,
    job: &Job,
    name: &str,
    unit: &str,
    unit_ns: f64,
    of: fn(&Figures) -> f64,
    reach: f64,
) -> anyhow::Result<()> {
    let passes = bench.passes_of(job, 3)?;
    let middle = |part: &dyn Fn(&Pass) -> f64| median(passes.iter().map(part).collect());
    let floor = middle(&|p| of(&p.floor) / unit_ns);
    let ours = middle(&|p| of(&p.ours.figures) / unit_ns);
    let reqwest = middle(&|p| of(&p.reqwest) / unit_ns);
    // Each ratio is taken within a pass: two passes may see a different machine.
    let ours_times = middle(&|p| of(&p.ours.figures) / of(&p.floor));
    let reqwest_times = middle(&|p| of(&p.reqwest) / of(&p.floor));
    let verdicts: Vec<String> = passes.iter().map(|p| certified(&p.ours.level)).collect();
    say(&format!(
        "{name}: floor {floor:.2} {unit}; tailcliff {ours:.2} {unit}, {ours_times:.2} × (reach {reach} ×: {}); plain reqwest \
         {reqwest:.2} {unit}, {reqwest_times:.2} ×; median of {} passes; certified {}",
        verdict(ours_times <= reach),
        passes.len(),
        verdicts.join(", ")
    ));
    Ok(())
}

/// What is counted from where.
type Kind = (&'static str, fn(&Figures) -> &LatencyHistogram);

/// Ours may add this to the median, ms …
const ADDED_P50_MS: f64 = 0.3;
/// … and this to the floor's p99 in the same pass.
const ABOVE_FLOOR_P99_MS: f64 = 1.0;

pub(crate) fn ttft(bench: &Bench) -> anyhow::Result<()> {
    for streams in [512, 1024] {
        let job = paced_job(bench, streams);
        let passes = bench.passes_of(&job, 5)?;
        say(&format!("TTFT added, {streams} streams, p50 / p99 in ms, median of {} passes:", passes.len()));
        let kinds: [Kind; 2] = [
            ("after the send", |f| &f.added.after_send),
            ("from the intended send", |f| &f.added.from_intended),
        ];
        for (kind, of) in kinds {
            let pair = |client: &dyn Fn(&Pass) -> &Figures| {
                let [p50, p99] =
                    [0.5, 0.99].map(|q| median(passes.iter().map(|p| ms(of(client(p)), q)).collect()));
                format!("{p50:.3} / {p99:.3}")
            };
            let p50 = median(passes.iter().map(|p| ms(of(&p.ours.figures), 0.5)).collect());
            let apart = |p: &Pass| ms(of(&p.ours.figures), 0.99) - ms(of(&p.floor), 0.99);
            let above = median(passes.iter().map(apart).collect());
            say(&format!(
                "  {kind}: floor {}; tailcliff {} (p50 ≤ {ADDED_P50_MS}: {}; p99 {above:+.3} of the floor's, ≤ \
                 {ABOVE_FLOOR_P99_MS}: {}); plain reqwest {}",
                pair(&|p| &p.floor),
                pair(&|p| &p.ours.figures),
                verdict(p50 <= ADDED_P50_MS),
                verdict(above <= ABOVE_FLOOR_P99_MS),
                pair(&|p| &p.reqwest),
            ));
        }
    }
    Ok(())
}

/// Streams that the stub must have had under way, of 1,024.
const HELD: f64 = 1_010.0;

pub(crate) fn held(bench: &Bench) -> anyhow::Result<()> {
    let passes = bench.passes_of(&paced_job(bench, 1024), 3)?;
    let middle = |part: &dyn Fn(&Pass) -> f64| median(passes.iter().map(part).collect());
    let ours = middle(&|p| p.ours.figures.held);
    let honest =
        passes.iter().all(|p| p.ours.figures.held >= HELD || p.ours.level["certificate"]["verdict"] != "ok");
    say(&format!(
        "1,024 streams asked for, under way at the stub on average: floor {:.1}, tailcliff {ours:.1} (≥ {HELD} or certified \
         otherwise: {}), plain reqwest {:.1}; tailcliff's own gauge {:.1}",
        middle(&|p| p.floor.held),
        verdict(honest),
        middle(&|p| p.reqwest.held),
        middle(&|p| in_flight(&p.ours.level)),
    ));
    Ok(())
}

pub(crate) fn ten_thousand(bench: &Bench) -> anyhow::Result<()> {
    let job = Job {
        stub: "--mode paced --ttft-ms 500 --itl-ms 500 --spread",
        streams: 10_000,
        tokens: 20,
        streaming: true,
        warmup_s: 12,
        seconds: 20,
    };
    let Ours { figures, level } = bench.ours(&job, &["--drain", "15s"])?;
    let floor = bench.floor(&job)?;
    let failed = level["all_phases"]["failed"].as_u64().unwrap_or(u64::MAX);
    let fine = figures.held >= 9_900.0 && failed == 0 && level["certificate"]["verdict"] == "ok";
    say(&format!(
        "10,000 streams, a token each 500 ms: {:.0} under way at the stub, gauge {:.0}, {} requests, {failed} failed, certified \
         {}; TTFT added after the send {:.3} / {:.3} ms (floor {:.3} / {:.3}); {:.2} µs a token, {:.2} × the floor's: {}",
        figures.held,
        in_flight(&level),
        figures.requests,
        certified(&level),
        ms(&figures.added.after_send, 0.5),
        ms(&figures.added.after_send, 0.99),
        ms(&floor.added.after_send, 0.5),
        ms(&floor.added.after_send, 0.99),
        figures.cpu_per_token_ns() / 1e3,
        figures.cpu_per_token_ns() / floor.cpu_per_token_ns(),
        verdict(fine)
    ));
    Ok(())
}

/// What trace mode may take of a shard's time, ns an event.
const TRACE_NS: f64 = 60.0;

/// Off and on in turns. Bursts show the nanoseconds, as an event takes few of them there; the paced streams the share.
pub(crate) fn trace(bench: &Bench) -> anyhow::Result<()> {
    let bursts = Job {
        stub: "--mode burst",
        streams: 64,
        tokens: 128,
        streaming: true,
        warmup_s: 1,
        seconds: bench.seconds,
    };
    let stub = "--mode paced --ttft-ms 100 --itl-ms 100 --spread";
    let paced = Job { stub, streams: 4_000, tokens: 40, warmup_s: 6, ..bursts };
    for (name, job) in [("bursts of 128, 64 streams", bursts), ("4,000 streams at 100 ms", paced)] {
        let mut pairs = Vec::new();
        for i in 0..bench.passes(3) {
            // In turns, for the same reason as in the other rows.
            let first = i.is_multiple_of(2).then(|| bench.ours(&job, &["-vvv"])).transpose()?;
            let off = bench.ours(&job, &[])?;
            let on = first.map_or_else(|| bench.ours(&job, &["-vvv"]), Ok)?;
            pairs.push((off.figures, on.figures));
        }
        let middle = |part: &dyn Fn(&(Figures, Figures)) -> f64| median(pairs.iter().map(part).collect());
        let (off, on) = (middle(&|p| p.0.cpu_per_token_ns()), middle(&|p| p.1.cpu_per_token_ns()));
        let more = middle(&|p| p.1.cpu_per_token_ns() - p.0.cpu_per_token_ns());
        let rate = middle(&|p| (p.1.tokens as f64 / p.0.tokens as f64 - 1.0) * 100.0);
        say(&format!(
            "-vvv, {name}: CPU per event off {off:.0} ns, on {on:.0} ns, {more:+.0} ns ({:+.1} %; reach {TRACE_NS} ns: {}); \
             throughput {rate:+.1} %; median of {} pairs",
            more / off * 100.0,
            verdict(more <= TRACE_NS),
            pairs.len()
        ));
    }
    Ok(())
}

/// Of the window, from the certificate.
fn in_flight(level: &Value) -> f64 {
    let checks = level["certificate"]["checks"].as_array();
    let held = checks.and_then(|all| all.iter().find(|c| c["name"] == "in_flight_held"));
    let share = held.and_then(|c| c["value"].as_f64()).unwrap_or(f64::NAN);
    share * level["concurrency"].as_f64().unwrap_or(f64::NAN)
}

fn certified(level: &Value) -> String {
    let certificate = &level["certificate"];
    let verdict = certificate["verdict"].as_str().unwrap_or("?");
    match certificate["reasons"].as_array().and_then(|all| all.first()?.as_str()) {
        Some(reason) => format!("{verdict} ({reason})"),
        None => verdict.to_owned(),
    }
}

fn ms(of: &LatencyHistogram, quantile: f64) -> f64 {
    of.quantile_ns(quantile).map_or(f64::NAN, |ns| ns as f64 / 1e6)
}
