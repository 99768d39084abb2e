//! From evidence to a verdict, in the order of exclusion of MISSION A4: the client, the network, the server.

use std::fmt::Write;

use tailcliff_proto::throttle;

use crate::knee::duration;

use super::Evidence;
use super::gaps::{Gap, Kind};
use super::gpu::{GpuView, State};

/// A verdict with at least this confidence is meant to be relied on.
pub const CONFIDENT: f64 = 0.8;

/// Of a network by the server's stamps alone: between them and the wire lies its own HTTP, which took up to 92 ms on a busy
/// vLLM.
const WAY_CONFIDENCE: f64 = 0.6;

/// What a stall was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// The server did not work for this request: queueing, batching, its scheduler.
    Waiting,
    /// The GPU worked, and for no other stream.
    ExtraCompute,
    /// The GPU's clocks were held down.
    Throttled,
    /// The client read late.
    Client,
    /// Held back between the server's engine and our socket.
    Network,
    /// The evidence is too thin.
    CantTell,
}

impl Verdict {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Waiting, Self::ExtraCompute, Self::Throttled, Self::Client, Self::Network, Self::CantTell];

    /// The name in files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::ExtraCompute => "extra_compute",
            Self::Throttled => "throttled",
            Self::Client => "client",
            Self::Network => "network",
            Self::CantTell => "cant_tell",
        }
    }

    /// The name for people.
    pub fn words(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::ExtraCompute => "extra compute",
            Self::Throttled => "throttled",
            Self::Client => "client buffering",
            Self::Network => "network buffering",
            Self::CantTell => "can't tell",
        }
    }
}

/// A verdict, how sure it is, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// What it was.
    pub verdict: Verdict,
    /// 0 to 1; 0 for what cannot be told.
    pub confidence: f64,
    /// The numbers that led to it.
    pub why: String,
}

/// Judges one stall.
pub(crate) fn judge(gap: &Gap, evidence: &Evidence) -> Judgement {
    let client = client(gap, evidence);
    let is_clients = matches!(client, Some((Verdict::Client, ..)));
    // The server's own stamps say what no stream beside it can.
    let own = own(gap, evidence).filter(|_| !is_clients);
    let by_own = own.is_some();
    let (verdict, confidence, why) =
        own.or(client).or_else(|| network(gap, evidence)).unwrap_or_else(|| server(gap, evidence));
    let why = with_record(gap, evidence, verdict, why);
    // The wider the clocks' bars against the gap, the less do different nodes' stamps say of it.
    let other = evidence.gpu.as_ref().map_or(0, |view| view.bound_ns).max(evidence.others.bound_ns);
    let bound = (gap.bound_ns.saturating_add(other)) as f64;
    let clock = 1.0 - (4.0 * bound / gap.length_ns().max(1) as f64).min(1.0);
    // What its own record says has its bounds taken off already.
    let has_bounds = by_own || (verdict == Verdict::Network && evidence.server_emitted == Some(true));
    let needs_clocks = !matches!(verdict, Verdict::Client | Verdict::CantTell) && !has_bounds;
    let confidence = confidence * if needs_clocks { clock } else { 1.0 };
    if confidence < 0.3 && verdict != Verdict::CantTell {
        let why = format!("{why}; too thin to call it {}", verdict.words());
        return Judgement { verdict: Verdict::CantTell, confidence: 0.0, why };
    }
    Judgement { verdict, confidence, why }
}

type Told = (Verdict, f64, String);

/// Our own loop stood still, or read what had been there for long, or sent late.
fn client(gap: &Gap, e: &Evidence) -> Option<Told> {
    let length = gap.length_ns();
    let waited = e.socket_wait_ns.filter(|&ns| 2 * ns >= length);
    if let Some(ns) = waited {
        let why = format!("its bytes had lain in the client's socket for {}", time(ns));
        return Some((Verdict::Client, 0.95, why));
    }
    if e.unsent_share >= 0.5 {
        let why = format!("{:.0} % of it lies before the send", 100.0 * e.unsent_share);
        return Some((Verdict::Client, 0.9, why));
    }
    if e.unread_share < 0.5 {
        return None;
    }
    let unread = format!("the client did not read for {:.0} % of it", 100.0 * e.unread_share);
    match e.burst {
        // What was there when it looked again says that it is our doing.
        Some(burst) if burst.share >= 0.4 => {
            let confidence = 0.8 + 0.15 * e.unread_share;
            Some((Verdict::Client, confidence, format!("{unread}, and {}", at_once(&burst))))
        }
        // Nothing had come meanwhile: the server was late as well, and nothing says since when.
        Some(burst) => Some((
            Verdict::CantTell,
            0.0,
            format!("{unread}, but {}: the server was late too", at_once(&burst)),
        )),
        None => Some((
            Verdict::Client,
            0.5 + 0.2 * e.unread_share,
            format!("{unread}; too few chunks to see a burst"),
        )),
    }
}

/// A late first token, by the server's own stamps: the part that is most of it.
fn own(gap: &Gap, e: &Evidence) -> Option<Told> {
    let own = e.own.as_ref().filter(|_| gap.kind == Kind::Ttft)?;
    let length = gap.length_ns();
    let is_most = |ns: i64| ns.saturating_mul(2) >= length;
    let of_it = |what: &str, ns: i64| format!("{what} took {} of it", time(ns));
    if let Some(ns) = own.queue_ns.filter(|ns| is_most(*ns)) {
        return Some((Verdict::Waiting, 0.95, of_it("waiting for a place in the server's batch", ns)));
    }
    // What the client did not read had come already.
    let unread = if e.unread_to_the_end { (e.unread_share * length as f64) as i64 } else { 0 };
    let unread = unread.max(e.socket_wait_ns.unwrap_or(0));
    let ways = [
        ("the way to the server's first stamp", "before it stamps", own.up, 0),
        ("the way back from its stamp of the first token", "after it", own.down, unread),
    ];
    for (what, side, way, less) in ways {
        if let Some((ns, bound)) =
            way.filter(|(ns, bound)| is_most(ns.saturating_sub(*bound).saturating_sub(less)))
        {
            let why = format!("{}, give or take {}", of_it(what, ns), time(bound));
            // A busy server reads a request late and writes its answer late, and stamps neither.
            return Some(if own.one_host {
                let why =
                    format!("{why}: on one host that is hardly a network, but the server's HTTP {side}");
                (Verdict::CantTell, 0.0, why)
            } else {
                let why = format!("{why}: the network, a proxy, or the server's HTTP {side}");
                (Verdict::Network, WAY_CONFIDENCE, why)
            });
        }
    }
    if let Some(ns) = own.prefill_ns.filter(|ns| is_most(*ns)) {
        let why = of_it("prefill", ns);
        return Some(match e.gpu.as_ref().map(|view| (view.state, numbers(view))) {
            Some((State::Idle, numbers)) => {
                (Verdict::Waiting, 0.85, format!("{why}, and the GPU was idle ({numbers})"))
            }
            Some((State::Throttled, numbers)) => {
                (Verdict::Throttled, 0.9, format!("{why}, and the GPU was held down ({numbers})"))
            }
            _ => (Verdict::ExtraCompute, 0.9, why),
        });
    }
    let front = own.front_ns.filter(|ns| is_most(*ns))?;
    // Tokenising, or a loop that did not get to it: nothing says which.
    Some((Verdict::Waiting, 0.7, of_it("the server's front end", front)))
}

/// What the server's own figures say of it, whatever the verdict came from.
fn with_record(gap: &Gap, e: &Evidence, verdict: Verdict, mut why: String) -> String {
    let words =
        e.own.as_ref().map(|own| (own.words(gap), &own.server)).filter(|(words, _)| !words.is_empty());
    if let Some((words, server)) = words {
        let by = if server.is_empty() { String::new() } else { format!(" ({server})") };
        let _written = write!(why, "; by the server's own record{by}: {words}");
    }
    if let Some(put_out) = e.preempted.filter(|_| verdict == Verdict::Waiting) {
        let _written = write!(
            why,
            "; between scrapes {} apart around it the server put {:.0} answers out of its batch",
            time(put_out.over_ns),
            put_out.count
        );
    }
    why
}

/// Its words were made in the gap and came at once.
fn network(gap: &Gap, e: &Evidence) -> Option<Told> {
    if e.server_emitted == Some(true) {
        return Some((Verdict::Network, 0.95, "the server's own record has tokens sent in it".to_owned()));
    }
    let burst = e.burst.filter(|burst| burst.share >= 0.5 && e.server_emitted.is_none())?;
    if e.unread_to_the_end && e.unread_share >= 0.15 {
        // A loop that comes back finds what came meanwhile, whoever was late.
        let why = format!(
            "{}, but the client did not read for the last {:.0} % of it",
            at_once(&burst),
            100.0 * e.unread_share
        );
        return Some((Verdict::CantTell, 0.0, why));
    }
    let enough = match burst.chunks {
        n if n >= 8.0 => 1.0,
        n if n >= 5.0 => 0.93,
        n if n >= 4.0 => 0.85,
        _ => 0.6,
    };
    let read = 1.0 - e.unread_share;
    let what = if gap.kind == Kind::Ttft { "after the first, " } else { "" };
    let why = format!(
        "{what}{}: made meanwhile and held back between the server's engine and our socket (network, proxy, the server's front end)",
        at_once(&burst)
    );
    Some((Verdict::Network, 0.95 * enough * read, why))
}

/// It was not sent: by what its other streams and its GPU did.
fn server(gap: &Gap, e: &Evidence) -> Told {
    let all = e.others.all();
    // Whether its words were held back could not be seen when too few were to come.
    let seen = if e.burst.is_some() || e.server_emitted == Some(false) { 1.0 } else { 0.8 };
    let what = what_others_did(e);
    let read = 1.0 - e.unread_share;
    let (ours, elsewhere) = (e.others.same_loop.and(e.others.same_agent), e.others.elsewhere);
    if ours.streams >= 2 && ours.went_on == 0 && elsewhere.went_on > 0 {
        // No scheduler tells agents apart: the way to this one, or its host, but nothing shows which.
        let why = format!("{what}, all of them of other agents, and none of {} of this one", ours.streams);
        return (Verdict::CantTell, 0.0, why);
    }
    if all.went_on > 0 {
        let share = all.share().unwrap_or(0.0);
        let sure = match all.went_on {
            1 => 0.85,
            _ => 0.92,
        };
        // If most stood still as well, this is no queue of its own.
        let clear = (share / 0.5).min(1.0);
        let why = format!("{what}: this one waited behind their work");
        return (Verdict::Waiting, sure * clear * seen * read, why);
    }
    let Some(view) = &e.gpu else {
        return (Verdict::CantTell, 0.0, format!("{what}; {}", e.gpu_absent));
    };
    let sharp = sharpness(gap, view);
    let numbers = numbers(view);
    match view.state {
        State::Idle => {
            let why = format!("{what}, and the GPU was idle ({numbers}){}", host(e));
            (Verdict::Waiting, 0.92 * sharp * seen.max(0.95) * read, why)
        }
        State::Busy if all.streams > 0 => {
            let why = format!("{what} while the GPU was busy ({numbers})");
            (Verdict::ExtraCompute, 0.9 * sharp * seen * read, why)
        }
        State::Busy => {
            let why =
                format!("the GPU was busy ({numbers}), for this request or for others that were not seen");
            (Verdict::ExtraCompute, 0.6 * sharp * seen * read, why)
        }
        State::Throttled => {
            let clock = 100.0 * view.clock_share.unwrap_or(1.0);
            let why = format!("the GPU was held down to {clock:.0} % of its usual clock ({numbers}); {what}");
            (Verdict::Throttled, 0.92 * sharp * read, why)
        }
        State::Between => {
            (Verdict::CantTell, 0.0, format!("{what}; the GPU was neither idle nor busy ({numbers})"))
        }
    }
}

/// The longer a gap is beyond what its readings reach over, and the more of them there are, the surer.
fn sharpness(gap: &Gap, view: &GpuView) -> f64 {
    let (from, to) = gap.core();
    let reach = (view.reach_ns as f64 / (to - from).max(1) as f64).min(1.0);
    let few = if view.readings >= 3 { 1.0 } else { 0.9 };
    let assumed = if view.measured { 1.0 } else { 0.95 };
    (1.0 - 0.1 * reach) * few * assumed
}

/// What its host did meanwhile: a server that waits for its own CPU or disk shows there.
fn host(e: &Evidence) -> String {
    let cores = e.host.server_cores.map(|n| format!("; the server's processes used {n:.1} cores"));
    let io = e.host.io_share.filter(|share| *share >= 0.1);
    let io = io.map(|share| format!("; something waited for disks {:.0} % of the time", 100.0 * share));
    cores.into_iter().chain(io).collect()
}

fn what_others_did(e: &Evidence) -> String {
    let all = e.others.all();
    match (all.streams, all.went_on) {
        (0, _) => "no other stream was under way".to_owned(),
        (n, 0) => format!("none of {n} other streams went on"),
        (n, on) => {
            let share = 100.0 * all.share().unwrap_or(0.0);
            format!("{on} of {n} other streams went on, at {share:.0} % of this one's pace")
        }
    }
}

fn numbers(view: &GpuView) -> String {
    let mut text = format!(
        "{} {:.0}, idle {:.0}, busy {:.0}, {} readings",
        view.signal, view.value, view.idle, view.busy, view.readings
    );
    if view.throttle != 0 {
        let clock = 100.0 * view.clock_share.unwrap_or(1.0);
        let reasons = throttle::names(view.throttle).join(", ");
        let _written = write!(text, "; {reasons}, SM clock at {clock:.0} % of its usual");
    }
    if !view.measured {
        let _written = write!(text, ", their reach of {} assumed", time(view.reach_ns));
    }
    text
}

fn at_once(burst: &super::Burst) -> String {
    let share = 100.0 * (1.0 - burst.share);
    format!("the next {:.0} chunks came in {share:.0} % of the time that they usually take", burst.chunks)
}

fn time(ns: i64) -> String {
    duration(ns.max(0).unsigned_abs())
}
