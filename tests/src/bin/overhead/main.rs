//! What tailcliff's own client adds, measured against a paced server's truth log and in the same pass beside a bare epoll
//! client and plain reqwest: 64 streams, first token after 50 ms, then one each 10 ms. Replies differ in length, so that
//! the streams do not stay in step as they start. Five passes. A measurement, not a test: run it in release, on a quiet
//! machine.

mod pass;
mod stall;

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use e2e::roles::{self, Role};
use hdrhistogram::Histogram;

use pass::{Figures, Pass};

const STREAMS: usize = 64;
const REQUESTS_EACH: usize = 10;
const TOKENS: usize = 60;
const PASSES: usize = 5;
/// What the project promises of its own client, ms: the median added after the send, and how far its p99 may lie above the
/// bare client's in the same pass.
const BOUND_P50_MS: f64 = 0.2;
const BOUND_P99_MS: f64 = 1.0;

fn main() -> anyhow::Result<()> {
    if let Some(code) = roles::dispatch() {
        std::process::exit(code);
    }
    ensure!(!cfg!(debug_assertions), "a debug build measures the compiler: run with --release");
    let binary = std::env::current_exe()?;
    let dir = tempfile::tempdir()?;
    say(&format!(
        "SIMULATED paced server on loopback: TTFT 50 ms, then a token each 10 ms; {STREAMS} streams, {} requests of each \
         client in a pass, each client with a server of its own.\nTTFT added, p50 / p99 in ms, after the send, from the intended \
         send, and the same of streams under way (without each stream's first request):",
        STREAMS * REQUESTS_EACH
    ));
    let mut passes = Vec::new();
    for i in 0..PASSES {
        let pass = pass::run(&binary, &dir.path().join(i.to_string()), i % 2 == 0)?;
        say(&format!("pass {}, {}", i + 1, line(&pass)));
        passes.push(pass);
    }
    sum_up(&passes);
    stall::check(&binary, &dir.path().join("stall"))
}

/// A client: its name, its figures in a pass, and what is to be said of its CPU time.
type Client = (&'static str, fn(&Pass) -> &Figures, &'static str);

const CLIENTS: [Client; 3] = [
    ("ours", |pass| &pass.ours, "in its shards' threads (the request path)"),
    ("bare epoll client", |pass| &pass.bare, "in its one thread"),
    ("plain reqwest", |pass| &pass.reqwest, "in its one thread; its send is the call of `send`"),
];

/// What is counted from where, and of which requests.
type Kind = (&'static str, fn(&Figures) -> &Histogram<u64>);

const KINDS: [Kind; 3] = [
    ("after the send", |figures| &figures.after_send),
    ("from the intended send", |figures| &figures.from_intended),
    ("the same, under way", |figures| &figures.under_way),
];

fn line(pass: &Pass) -> String {
    let of = |(name, figures, _): &Client| {
        let pair = |(_, of): &Kind| {
            let of = of(figures(pass));
            format!("{:.3} / {:.3}", ms(of, 0.5), ms(of, 0.99))
        };
        format!("{name} {}", KINDS.each_ref().map(pair).join(", "))
    };
    format!(
        "{} first: {}",
        if pass.ours_first { "ours" } else { "bare" },
        CLIENTS.each_ref().map(of).join("; ")
    )
}

fn sum_up(passes: &[Pass]) {
    let names = KINDS.map(|(name, _)| format!("{name:25}")).concat();
    say(&format!("median of {PASSES} passes:\n{:20}{names}CPU per token", ""));
    for (name, figures, where_) in CLIENTS {
        let pair = |(_, of): Kind| {
            let [p50, p99] = [0.5, 0.99].map(|q| median(passes, |p| ms(of(figures(p)), q)));
            format!("{:25}", format!("{p50:.3} / {p99:.3} ms"))
        };
        let cpu_us = median(passes, |p| figures(p).cpu_ns / 1e3);
        let times = median(passes, |p| figures(p).cpu_ns / p.bare.cpu_ns);
        let added = KINDS.map(pair).concat();
        say(&format!("  {name:<18}{added}{cpu_us:.1} µs, {times:.1} × the bare client's, {where_}"));
    }
    bounds(passes);
}

/// Whether the project's bounds hold. Ours and the bare client are compared within each pass: two passes may see a
/// different machine.
fn bounds(passes: &[Pass]) {
    let verdict = |holds: bool| if holds { "holds" } else { "does not hold" };
    for (kind, of) in KINDS {
        let p50 = median(passes, |p| ms(of(&p.ours), 0.5));
        let holds = verdict(p50 < BOUND_P50_MS);
        say(&format!("p50 added, {kind}, below {BOUND_P50_MS} ms: {holds} ({p50:.3} ms)"));
    }
    for (kind, of) in KINDS {
        let apart = |p: &Pass| ms(of(&p.ours), 0.99) - ms(of(&p.bare), 0.99);
        let each = passes.iter().map(|p| format!("{:+.3}", apart(p))).collect::<Vec<_>>().join(", ");
        let middle = median(passes, apart);
        let holds = verdict(middle <= BOUND_P99_MS);
        say(&format!(
            "p99 added, {kind}, within {BOUND_P99_MS} ms of the bare client's in the same pass: {holds} ({middle:+.3} ms, the \
             median of {each})"
        ));
    }
}

fn ms(of: &Histogram<u64>, quantile: f64) -> f64 {
    of.value_at_quantile(quantile) as f64 / 1e6
}

fn median(passes: &[Pass], of: impl Fn(&Pass) -> f64) -> f64 {
    let mut values: Vec<f64> = passes.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A paced server with a truth log, and its address.
fn server(binary: &Path, truth: &Path, more: &[&str]) -> anyhow::Result<(Role, String)> {
    let truth = truth.to_str().context("odd path")?;
    let mut args = vec!["--listen", "127.0.0.1:0", "--truth-log", truth, "--timing", "paced"];
    args.extend(["--paced-ttft-ms", "50", "--paced-itl-ms", "10"]);
    args.extend(more);
    let server = Role::start(binary, "model-sim", &args)?;
    let address = server.line("listening on ")?;
    Ok((server, address))
}

/// One level of `tailcliff run` into `dir/run`; what it says goes to a file there.
fn sweep(binary: &Path, address: &str, dir: &Path, streams: usize, requests: usize) -> anyhow::Result<()> {
    let (streams, requests, tokens) = (streams.to_string(), requests.to_string(), TOKENS.to_string());
    let out = dir.join("run");
    let mut args =
        vec!["run", "--url", address, "--model", "sim", "--input-len", "16", "--output-len", &tokens];
    args.extend(["--concurrency", &streams, "--num-prompts", &requests]);
    args.extend(["--output-dir", out.to_str().context("odd path")?]);
    let said = dir.join("said");
    let mut command = Command::new(binary);
    command.stderr(File::create(&said)?);
    let status = Role::start_with(command, "tailcliff", &args)?.wait()?;
    ensure!(status.success(), "the run ended with {status}:\n{}", std::fs::read_to_string(&said)?);
    Ok(())
}

fn say(line: &str) {
    // A reader that left early is no error.
    let _left = writeln!(std::io::stdout(), "{line}");
}
