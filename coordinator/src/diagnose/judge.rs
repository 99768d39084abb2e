//! The judgement itself: what each cause must show, what rules it out, and where the evidence ends.

use std::net::IpAddr;

use crate::args::server::host_and_port;
use crate::axis::Load;
use crate::plan::Plan;

use super::evidence::{self, percent, times};
use super::seen::Seen;
use super::{Cause, Diagnosis, Evidence};

/// Answers must have become longer by this share for anything to be said of why.
const GROWTH_MIN: f64 = 0.10;
/// Share of the added time before the first token from which it is waiting, and up to which it is slower tokens.
const WAITING_FROM: f64 = 0.65;
const SLOWER_TO: f64 = 0.40;
/// With slots that are seen to be taken, most of it is enough.
const WAITING_PINNED: f64 = 0.50;
/// Answers at once over requests in flight, at most, of a server whose slots are taken …
const PINNED_BELOW: f64 = 0.93;
/// … and of the most at once the share that there are on average, or at least so much of that share below the bend, …
const PINNED_MEAN: f64 = 0.75;
const PINNED_LIKE: f64 = 0.85;
/// … and what more load may add to it.
const PINNED_GROWTH: f64 = 1.15;
/// The same number at so many times the load is a ceiling.
const CEILING_APART: f64 = 1.5;
/// Growth of the share of chunks that come in one read with the one before: they wait on their way.
const TOGETHER_MORE: f64 = 0.20;
/// Share of answers that pause while others go on, and how many times that of the lowest level.
const PAUSED_FROM: f64 = 0.05;
const PAUSED_TIMES: f64 = 3.0;
/// Clocks fall by this factor or more, for this share of the time or more, …
const CLOCK_FALL: f64 = 1.05;
const THROTTLED_FROM: f64 = 0.25;
/// … and that explains this share of what tokens became slower by (of its logarithm).
const EXPLAINED_FROM: f64 = 0.40;
/// A GPU below this utilisation, %, is not what is waited for; from here on it is pegged.
const IDLE_BELOW: f64 = 60.0;
const PEGGED_FROM: f64 = 80.0;
/// Points of utilisation by which a GPU that waits falls as load grows.
const UTIL_FALL: f64 = 5.0;
/// A link from this share of its speed on is full, and below this one it is not.
const FULL_FROM: f64 = 0.85;
const ROOM_BELOW: f64 = 0.60;
/// Share of the added time that late delivery must explain, by the server's own record.
const DELIVERY_SHARE: f64 = 0.30;
/// A KV cache from this share on is full.
const KV_FULL: f64 = 0.95;

/// What the plan tells of the way to the server.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Link {
    /// It goes through no wire.
    loopback: bool,
    /// A chunk may fill a packet, so that chunks on a full link still come one by one.
    wide_chunks: bool,
    /// Its speed, as told by `--metadata link_mbit_s=…`.
    bytes_per_s: Option<f64>,
}

impl Link {
    pub(super) fn of(plan: &Plan) -> Self {
        let told = plan.metadata.iter().find(|(key, _)| key == "link_mbit_s");
        let mbit = told.and_then(|(_, value)| value.trim().parse::<f64>().ok()).filter(|mbit| *mbit > 0.0);
        let host = host_and_port(&plan.base_url).map_or("", |(host, _)| host);
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let loopback = bare == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        let more = plan.extra_body.as_ref().map_or_else(String::new, ToString::to_string);
        Self {
            loopback,
            wide_chunks: more.contains("logprobs"),
            bytes_per_s: mbit.map(|mbit| mbit * 1e6 / 8.0),
        }
    }
}

/// A bend: the last level before it and the first after it; the lowest level of all, the one after the bend's second, and
/// the highest that tells, each of which may be one of the others.
pub(super) struct Bend<'a> {
    pub(super) lowest: &'a Seen,
    pub(super) below: &'a Seen,
    pub(super) above: &'a Seen,
    pub(super) beyond: &'a Seen,
    pub(super) top: &'a Seen,
    pub(super) link: Link,
}

/// What an answer became longer by.
struct Growth {
    /// All of it, ns.
    whole_ns: f64,
    /// Share of it before the first token.
    waiting: f64,
    /// Time after the first token, above over below.
    tokens: f64,
}

type Found = Option<(Cause, f64, String)>;
type Excluded = Vec<(Cause, String)>;

pub(super) fn judge(bend: &Bend) -> Diagnosis {
    let mut excluded = vec![(
        Cause::ClientBound,
        format!("by their certificates the client drove {} and {}", bend.below.load, bend.above.load),
    )];
    let growth = bend.growth();
    let found = match &growth {
        Some(growth) => bend
            .network(growth, &mut excluded)
            .or_else(|| bend.cap(growth, &mut excluded))
            .or_else(|| bend.kv(&mut excluded))
            .or_else(|| bend.rest(growth, &mut excluded)),
        None => None,
    };
    let evidence = evidence::of(bend, growth.as_ref().map(|growth| growth.waiting));
    match (found, growth) {
        (Some((cause, confidence, why)), _) => bend.told(cause, confidence, &why, evidence, excluded),
        (None, Some(growth)) => bend.unknown(&growth, evidence, excluded),
        (None, None) => bend.no_growth(evidence, excluded),
    }
}

impl Bend<'_> {
    /// `None` when answers took no longer, or nothing tells their first tokens.
    fn growth(&self) -> Option<Growth> {
        let (below, above) = (self.below, self.above);
        let (e, f) = ((below.e2e_ns?, above.e2e_ns?), (below.ttft_ns?, above.ttft_ns?));
        let whole_ns = e.1 - e.0;
        let after = (e.0 - f.0, e.1 - f.1);
        (whole_ns >= GROWTH_MIN * e.0 && whole_ns > 0.0).then(|| Growth {
            whole_ns,
            waiting: (f.1 - f.0) / whole_ns,
            tokens: if after.0 > 0.0 { after.1 / after.0 } else { 1.0 },
        })
    }

    /// Tokens that were made in time and came late.
    fn network(&self, growth: &Growth, excluded: &mut Excluded) -> Found {
        if self.link.loopback {
            excluded.push((
                Cause::Network,
                "the server is reached through loopback (of a tunnel that begins there this says nothing)"
                    .to_owned(),
            ));
            return None;
        }
        match self.late_by_record(growth) {
            Some((true, why)) => return Some((Cause::Network, 0.95, why)),
            Some((false, why)) => {
                excluded.push((Cause::Network, why));
                return None;
            }
            None => {}
        }
        let nic = self.above.nic_bytes_per_s.zip(self.link.bytes_per_s).map(|(sent, speed)| sent / speed);
        if let Some(share) = nic.filter(|share| *share >= FULL_FROM) {
            return Some((Cause::Network, 0.9, format!("the link is {:.0} % full", percent(share))));
        }
        if let Some((level, before, after)) = self.held_back() {
            let why = format!(
                "chunks that were made one by one came several in a read (at {level} {:.0} % of them, below {:.0} %): they \
                 waited on their way (network, proxy, or the server's own front end)",
                percent(after),
                percent(before)
            );
            return Some((Cause::Network, 0.85, why));
        }
        let util = |level: &Seen| level.gpu.as_ref()?.util_pct;
        if let Some((before, after)) =
            util(self.below).zip(util(self.above)).filter(|(a, b)| a - b >= UTIL_FALL)
            && growth.waiting < WAITING_FROM
        {
            let why = format!(
                "the GPU had less to do as load grew ({before:.0} % busy, then {after:.0} %) while tokens came slower: they \
                 waited on their way (network, proxy, or the server's own front end)"
            );
            return Some((Cause::Network, 0.75, why));
        }
        self.network_excluded(growth, nic, excluded);
        None
    }

    /// Whether tokens came late after they had been sent, by the server's own record; `None` where that is not told, or the
    /// clocks' bounds leave it open.
    fn late_by_record(&self, growth: &Growth) -> Option<(bool, String)> {
        let told = |level: &Seen| {
            let server = level.server.as_ref()?;
            Some((server.delivery_ns?, server.delivery_bound_ns?))
        };
        let ((before, one), (after, other)) = told(self.below).zip(told(self.above))?;
        let (share, bound) = ((after - before) / growth.whole_ns, (one + other) / growth.whole_ns);
        let why = format!(
            "by the server's own record tokens came {:.0} % (± {:.0} %) of the added time after they were sent",
            percent(share),
            percent(bound)
        );
        if share - bound >= DELIVERY_SHARE {
            return Some((true, why));
        }
        (share + bound < DELIVERY_SHARE).then_some((false, why))
    }

    /// (level, share below, share there) of chunks that came in one read with the one before, when there are many. What
    /// finds room in a link's own buffer still comes one by one, so that the level after the bend may not show it yet.
    fn held_back(&self) -> Option<(Load, f64, f64)> {
        let before = self.below.together.filter(|_| !self.link.wide_chunks)?;
        let of = |level: &Seen| Some((level.load, before, level.together?));
        [self.above, self.beyond]
            .into_iter()
            .filter_map(of)
            .find(|(_, _, after)| after - before >= TOGETHER_MORE)
    }

    fn network_excluded(&self, growth: &Growth, nic: Option<f64>, excluded: &mut Excluded) {
        if let Some(share) = nic.filter(|share| *share < ROOM_BELOW) {
            let why = format!("its link is {:.0} % full", percent(share));
            excluded.push((Cause::Network, why));
        } else if growth.waiting <= SLOWER_TO
            && !self.link.wide_chunks
            && self
                .top
                .together
                .zip(self.below.together)
                .is_some_and(|(top, below)| top - below < TOGETHER_MORE)
        {
            let why =
                "chunks came one by one; on a full link they wait for one another and come several in a read";
            excluded.push((Cause::Network, why.to_owned()));
        }
    }

    /// Clocks that fall as the load grows, by as much as tokens become slower.
    fn cap(&self, growth: &Growth, excluded: &mut Excluded) -> Found {
        let (below, above) = (self.below.gpu.as_ref()?, self.above.gpu.as_ref()?);
        let fall = below.sm_clock_mhz? / above.sm_clock_mhz.filter(|mhz| *mhz > 0.0)?;
        let share = above.throttled_share.unwrap_or(0.0);
        let explained = if growth.tokens > 1.0 { fall.max(1.0).ln() / growth.tokens.ln() } else { 0.0 };
        let held = share >= THROTTLED_FROM || above.throttled_share.is_none();
        if held && fall >= CLOCK_FALL && explained >= EXPLAINED_FROM && growth.waiting < WAITING_FROM {
            let reasons = above.throttle_reasons.join(", ");
            let why = format!(
                "the GPU's clock was held down to 1/{fall:.2} of what it was below, {:.0} % of the time ({reasons}), which \
                 explains {:.0} % of what tokens became slower by",
                percent(share),
                percent(explained.min(1.0))
            );
            return Some((
                Cause::PowerOrThermalCap,
                if above.throttled_share.is_some() { 0.93 } else { 0.7 },
                why,
            ));
        }
        let why = if fall < CLOCK_FALL {
            "the GPU's clock did not fall".to_owned()
        } else {
            format!("its clock fell by {:.0} %, too little for what became longer", percent(1.0 - 1.0 / fall))
        };
        excluded.push((Cause::PowerOrThermalCap, why));
        None
    }

    /// Answers that are put out in mid-stream while others go on.
    fn kv(&self, excluded: &mut Excluded) -> Found {
        let of = |level: &Seen, part: fn(&super::ServerSeen) -> Option<f64>| part(level.server.as_ref()?);
        let put_out = |level: &Seen| Some(of(level, |s| s.preemptions)? / level.completed.max(1) as f64);
        if let Some((before, after)) = put_out(self.lowest).zip(put_out(self.above))
            && after >= PAUSED_FROM
            && after > PAUSED_TIMES * before
        {
            let why = format!(
                "by its own count the server put answers out of its batch {after:.1} times per answer ({before:.1} times at {})",
                self.lowest.load
            );
            return Some((Cause::KvFull, 0.97, why));
        }
        if let Some((used, waiting)) = of(self.above, |s| s.kv_used).zip(of(self.above, |s| s.waiting))
            && used >= KV_FULL
            && waiting >= 1.0
        {
            let why = format!("its KV cache is {:.0} % full, and {waiting:.1} requests wait", percent(used));
            return Some((Cause::KvFull, 0.9, why));
        }
        let (before, after) = (self.lowest.paused.unwrap_or(0.0), self.above.paused?);
        let why = format!(
            "{:.0} % of the answers paused in mid-stream while others went on ({:.0} % at {})",
            percent(after),
            percent(before),
            self.lowest.load
        );
        if after >= PAUSED_FROM && after > PAUSED_TIMES * before {
            return Some((Cause::KvFull, 0.88, format!("{why}: put out of the batch, and computed again")));
        }
        excluded.push((Cause::KvFull, why));
        None
    }

    /// What is left: waiting for a place, or slower tokens for all.
    fn rest(&self, growth: &Growth, excluded: &mut Excluded) -> Found {
        let waits = self.queued(growth);
        let share = percent(growth.waiting);
        if let Some(n) = waits.filter(|_| growth.waiting >= WAITING_PINNED) {
            return Some((Cause::ServerQueue, 0.96, format!("{n:.1} requests waited in it by its own word")));
        }
        if let Some((most, asked)) = self.pinned().filter(|_| growth.waiting >= WAITING_PINNED) {
            let why = format!(
                "it answered {most:.0} at once, never more, of {asked:.0} in flight, and {share:.0} % of the added time lies before \
                 the first token"
            );
            let slower = format!("tokens, once they came, came {} slower", times(growth.tokens));
            excluded.push((Cause::ComputeBound, slower));
            let confidence = if growth.waiting >= WAITING_FROM { 0.92 } else { 0.75 };
            return Some((Cause::ServerQueue, confidence, why));
        }
        if growth.waiting > SLOWER_TO {
            return None;
        }
        excluded.push((
            Cause::ServerQueue,
            format!("{share:.0} % of the added time lies before the first token"),
        ));
        let is_out = |cause| excluded.iter().any(|(other, _)| *other == cause);
        if !is_out(Cause::PowerOrThermalCap) || !is_out(Cause::Network) || self.is_idle() {
            return None;
        }
        let util = self.above.gpu.as_ref().and_then(|gpu| gpu.util_pct);
        let pegged = util.is_some_and(|util| util >= PEGGED_FROM);
        let busy = if pegged { " while the GPU was busy" } else { "" };
        let why = format!(
            "tokens came {} slower for all{busy}, and {share:.0} % of the added time lies before the first",
            times(growth.tokens)
        );
        Some((Cause::ComputeBound, if pegged { 0.9 } else { 0.7 }, why))
    }

    /// Requests that waited above the bend by the server's own word, where they explain what came before the first token: by
    /// Little's law each waited that number over the throughput. A few that wait for their turn to be prefilled do not.
    fn queued(&self, growth: &Growth) -> Option<f64> {
        let waited = |level: &Seen| {
            Some(level.server.as_ref()?.waiting? / level.throughput.filter(|x| *x > 0.0)? * 1e9)
        };
        let n = self.above.server.as_ref()?.waiting.filter(|n| *n >= 1.0)?;
        let added = waited(self.above)? - waited(self.below).unwrap_or(0.0);
        (added >= WAITING_PINNED * growth.waiting * growth.whole_ns).then_some(n)
    }

    fn is_idle(&self) -> bool {
        self.above.gpu.as_ref().and_then(|gpu| gpu.util_pct).is_some_and(|util| util < IDLE_BELOW)
    }

    /// (answers at once, requests in flight) when the first has a ceiling below the second: slots that are taken. A full
    /// link, or prefills that last, would let their number vary with their lengths.
    fn pinned(&self) -> Option<(f64, f64)> {
        let (mean, most) = (self.above.at_once?, self.above.most_at_once?);
        let asked = self.above.load.concurrency().map(f64::from);
        // In open loop the number in flight follows from Little's law.
        let asked = asked.or_else(|| Some(self.above.throughput? * self.above.e2e_ns? / 1e9))?;
        // A slot that prefills answers nobody yet. How much of its time that is shows below the bend, where nobody waits.
        let filled = self.below.at_once.zip(self.below.most_at_once).map_or(1.0, |(mean, most)| mean / most);
        // The same number to the one under much more load is a ceiling, however long its slots prefill.
        let (top, load) = (self.top, self.above.load);
        let is_ceiling = top.load.x() >= CEILING_APART * load.x() && top.most_at_once == Some(most);
        let is_full = is_ceiling || mean >= PINNED_MEAN.min(PINNED_LIKE * filled) * most;
        let steady = most <= PINNED_BELOW * asked && is_full;
        let still = self.top.most_at_once.is_none_or(|top| top <= (PINNED_GROWTH * most).max(most + 1.0));
        (steady && still).then_some((most, asked))
    }

    fn told(
        &self,
        cause: Cause,
        confidence: f64,
        why: &str,
        evidence: Vec<Evidence>,
        excluded: Excluded,
    ) -> Diagnosis {
        let words = format!("cause: {cause} ({:.0} % sure): {why}; {}", percent(confidence), self.span());
        let excluded = excluded.into_iter().filter(|(other, _)| *other != cause).collect();
        Diagnosis { cause, confidence, candidates: Vec::new(), words, evidence, excluded }
    }

    /// Names who is left, and what would tell them apart.
    fn unknown(&self, growth: &Growth, evidence: Vec<Evidence>, excluded: Excluded) -> Diagnosis {
        let share = percent(growth.waiting);
        let all: &[Cause] = match growth.waiting {
            w if w >= WAITING_FROM => &[Cause::ServerQueue, Cause::ComputeBound, Cause::Network],
            w if w > SLOWER_TO => {
                &[Cause::ServerQueue, Cause::ComputeBound, Cause::PowerOrThermalCap, Cause::Network]
            }
            _ => &[Cause::ComputeBound, Cause::PowerOrThermalCap, Cause::Network],
        };
        let is_out = |cause: &&Cause| !excluded.iter().any(|(other, _)| other == *cause);
        let candidates: Vec<Cause> = all.iter().filter(is_out).copied().collect();
        let names: Vec<&str> = candidates.iter().map(|cause| cause.as_str()).collect();
        let words = format!(
            "cause: unknown: {} ({share:.0} % of the added time lies before the first token): {}; {}",
            names.join(" or "),
            self.missing(&candidates),
            self.span()
        );
        Diagnosis { cause: Cause::Unknown, confidence: 0.0, candidates, words, evidence, excluded }
    }

    fn missing(&self, candidates: &[Cause]) -> String {
        let mut all = Vec::new();
        if candidates.contains(&Cause::PowerOrThermalCap) || self.above.gpu.is_none() {
            all.push("a gpu-probe beside the server");
        }
        if candidates.contains(&Cause::Network) && self.link.bytes_per_s.is_none() {
            all.push("the link's speed (--metadata link_mbit_s=…) with that probe's count of bytes");
        }
        if self.above.server.as_ref().is_none_or(|server| server.waiting.is_none()) {
            all.push("the server's own count of waiting requests");
        }
        if all.is_empty() {
            "the signals at hand do not separate them".to_owned()
        } else {
            format!("would tell: {}", all.join(", "))
        }
    }

    fn no_growth(&self, evidence: Vec<Evidence>, excluded: Excluded) -> Diagnosis {
        let why = match (self.below.ttft_ns, self.above.ttft_ns) {
            (Some(_), Some(_)) => {
                "answers took hardly longer there: throughput is lost to something else, such as failed requests"
            }
            _ => "nothing tells when first tokens came: measure with streaming",
        };
        let words = format!("cause: unknown: {why}; {}", self.span());
        Diagnosis {
            cause: Cause::Unknown,
            confidence: 0.0,
            candidates: Vec::new(),
            words,
            evidence,
            excluded,
        }
    }

    fn span(&self) -> String {
        format!("from {} to {}", self.below.load.words(), self.above.load)
    }
}
