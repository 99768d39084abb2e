//! Adds slices up into terms, says how sure each is and why, and which one dominated.

use std::collections::BTreeMap;

use super::slices::{Slice, Work, own_reads, reads};
use super::{Confidence, Diagnosis, Seen, Share, Term, Verdict};
use crate::coldwarm::evidence::Curves;

/// A term with this share of the time dominates.
const HALF: f64 = 0.5;
/// Or with this one, when no other has half as much.
const MOST: f64 = 0.4;
/// Fewer bytes are no model.
const LEAST_READ: f64 = 64e6;
/// Of what is read from storage, in the page cache afterwards: then it went through it.
const CACHED: f64 = 0.5;
/// Of what this host read, read by the server's own processes: less of it was another's.
const OWN: f64 = 0.5;
/// Steady growth that a link can carry, bytes/s, for so long, ns.
const LINK_RATE: f64 = 25e9;
const STEADY_NS: i64 = 500_000_000;

/// Memory that grows by less holds no KV cache.
const LEAST_JUMP: f64 = 256e6;
/// Time before a jump in which the allocation was under way, ns.
const BEFORE_JUMP_NS: i64 = 300_000_000;

/// Slices by term.
pub(super) struct Ledger<'a> {
    curves: &'a Curves,
    seen: Seen,
    from: i64,
    to: i64,
    sums: BTreeMap<Term, Sum>,
    /// What the server's processes read since they began, where only that is known.
    pub(super) own_read_bytes: Option<f64>,
    /// What the prompt costs a warm server that has not seen it: `None` where that was not measured, or is no question.
    pub(super) fresh: Option<i64>,
    /// The request after the first was slow too.
    pub(super) unsettled: bool,
}

/// What a term is made of.
#[derive(Clone, Copy, Default)]
struct Sum {
    ns: i64,
    told_ns: i64,
    gpu_ns: i64,
    growth_ns: i64,
    read_bytes: f64,
    cache_bytes: Option<f64>,
    memory_bytes: f64,
    link_bytes: f64,
}

impl<'a> Ledger<'a> {
    pub(super) fn new(curves: &'a Curves, seen: Seen, from: i64, to: i64) -> Self {
        Self {
            curves,
            seen,
            from,
            to,
            sums: BTreeMap::new(),
            own_read_bytes: None,
            fresh: None,
            unsettled: false,
        }
    }

    /// `told`: by the server itself.
    pub(super) fn add(&mut self, slice: &Slice, term: Term, told: bool) {
        let rise = |curve: Option<&crate::coldwarm::evidence::Curve>| {
            curve.and_then(|c| c.rise(slice.from, slice.to)).unwrap_or(0.0)
        };
        let sum = self.sums.entry(term).or_default();
        sum.ns += slice.ns();
        sum.told_ns += if told { slice.ns() } else { 0 };
        sum.gpu_ns += if slice.work == Work::Gpu { slice.ns() } else { 0 };
        sum.growth_ns += if slice.work == Work::Growth { slice.ns() } else { 0 };
        sum.read_bytes += rise(reads(self.curves, self.from, self.to));
        let cached = self.curves.cache.rise(slice.from, slice.to);
        sum.cache_bytes = cached.map(|bytes| bytes + sum.cache_bytes.unwrap_or(0.0)).or(sum.cache_bytes);
        sum.memory_bytes += rise(self.curves.gpu_memory.as_ref());
        sum.link_bytes += rise(self.curves.pcie.as_ref());
    }

    /// The terms, the longest first.
    pub(super) fn shares(&self) -> Vec<Share> {
        let share = |(&term, sum): (&Term, &Sum)| {
            let (confidence, because) = self.judge(term, sum);
            Share { term, ns: sum.ns, confidence, because }
        };
        let mut shares: Vec<Share> = self.sums.iter().map(share).collect();
        shares.sort_by_key(|share| -share.ns);
        shares
    }

    fn judge(&self, term: Term, sum: &Sum) -> (Confidence, String) {
        if sum.told_ns * 2 > sum.ns {
            return (Confidence::High, "the server's own spans say so".to_owned());
        }
        match term {
            Term::Stopping => (Confidence::High, "the server before still answered".to_owned()),
            Term::StorageToRam => self.storage(sum),
            Term::RamToGpu => self.transfer(sum),
            Term::RuntimeWarmup => self.runtime(sum),
            Term::Allocation => self.allocation(sum),
            Term::Prefill => match self.fresh {
                Some(_) => {
                    (Confidence::Medium, "what a prompt of this length cost the warm server".to_owned())
                }
                None => (Confidence::Low, "what the warm requests took".to_owned()),
            },
            Term::Queueing => {
                (Confidence::Low, "the GPU was busy before the request was sent, and on".to_owned())
            }
            Term::Unexplained => (Confidence::Low, "nothing that was read moved meanwhile".to_owned()),
        }
    }

    fn storage(&self, sum: &Sum) -> (Confidence, String) {
        let whole = own_reads(self.curves, self.from, self.to).is_some();
        let (own, whose) = match (whole, self.own_read_bytes) {
            (true, _) => (Some(true), "for the server".to_owned()),
            (false, Some(own)) => (
                Some(own >= OWN * sum.read_bytes),
                format!("on this host, and {} by the server's processes since they began", bytes(Some(own))),
            ),
            (false, None) => (None, "on this host, whoever asked".to_owned()),
        };
        // Meanwhile alone: what a file was dropped by before does not count against it.
        let cached = sum.cache_bytes;
        let words =
            format!("{} read {whose}; page cache {}", bytes(Some(sum.read_bytes)), grew(cached, "not read"));
        let filled = cached.is_some_and(|cached| cached >= CACHED * sum.read_bytes);
        let confidence = match (own, filled) {
            _ if sum.read_bytes < LEAST_READ => Confidence::Low,
            (Some(false), _) | (None, false) => Confidence::Low,
            (Some(true), true) => Confidence::High,
            (Some(true), false) | (None, true) => Confidence::Medium,
        };
        (confidence, words)
    }

    fn transfer(&self, sum: &Sum) -> (Confidence, String) {
        let quiet = self.knows_disk();
        let grew = format!("GPU memory {}", grew(Some(sum.memory_bytes), ""));
        if self.curves.pcie.is_some() {
            let words =
                format!("{} came over PCIe, {grew}, disk {}", bytes(Some(sum.link_bytes)), self.disk_words());
            // Storage that nobody looked at may be what the link waited for.
            return (if quiet { Confidence::High } else { Confidence::Low }, words);
        }
        let rate = sum.memory_bytes / (sum.ns.max(1) as f64 / 1e9);
        let steady = sum.growth_ns >= STEADY_NS && rate <= LINK_RATE;
        let confidence = if quiet && steady { Confidence::Medium } else { Confidence::Low };
        (confidence, format!("{grew} at {}/s, disk {}; PCIe not read", bytes(Some(rate)), self.disk_words()))
    }

    fn runtime(&self, sum: &Sum) -> (Confidence, String) {
        let on_gpu = sum.gpu_ns * 2 > sum.ns;
        let busy = if on_gpu { "the GPU was busy" } else { "a core was busy and the GPU was not seen to be" };
        let settles =
            if self.unsettled { "; the next request was slow too, the later ones were not" } else { "" };
        let memory = grew(self.curves.gpu_memory.as_ref().map(|_| sum.memory_bytes), "not read");
        let words = format!("{busy}, disk {}, GPU memory {memory}{settles}", self.disk_words());
        // Without PCIe an upload into memory set aside before looks the same from a core's side.
        let excluded =
            self.knows_disk() && self.curves.gpu_memory.is_some() && (on_gpu || self.curves.pcie.is_some());
        let confidence = match (excluded, on_gpu, self.unsettled) {
            (true, true, true) => Confidence::High,
            (true, ..) => Confidence::Medium,
            _ => Confidence::Low,
        };
        (confidence, words)
    }

    fn allocation(&self, sum: &Sum) -> (Confidence, String) {
        let words = format!(
            "GPU memory jumped by {}, {} over PCIe, disk {}",
            bytes(Some(sum.memory_bytes)),
            bytes(self.curves.pcie.as_ref().map(|_| sum.link_bytes)),
            self.disk_words()
        );
        let confidence = match (self.knows_disk(), self.curves.pcie.is_some(), self.unsettled) {
            (_, _, true) | (false, ..) => Confidence::Low,
            (true, true, false) => Confidence::High,
            (true, false, false) => Confidence::Medium,
        };
        (confidence, words)
    }

    fn knows_disk(&self) -> bool {
        self.seen.disk_read_bytes.is_some() || self.seen.server_read_bytes.is_some()
    }

    fn disk_words(&self) -> &'static str {
        if self.knows_disk() { "quiet" } else { "not read" }
    }
}

/// Until the memory is there, the driver maps it: the GPU is idle, and perhaps a core is busy.
pub(super) fn widen_jumps(slices: &[Slice], terms: &mut [Term], growth: Option<f64>) {
    if growth.is_none_or(|bytes| bytes < LEAST_JUMP) {
        return;
    }
    let mut jump: Option<i64> = None;
    for (slice, term) in slices.iter().zip(terms).rev() {
        match (&*term, slice.work) {
            (Term::Allocation, _) => jump = Some(slice.from),
            (_, Work::Quiet | Work::Cpu { .. }) => {
                if jump.is_some_and(|at| at - slice.from <= BEFORE_JUMP_NS) {
                    *term = Term::Allocation;
                }
            }
            _ => jump = None,
        }
    }
}

/// `grew by …`, `fell by …`, or what stands for no reading.
fn grew(n: Option<f64>, absent: &str) -> String {
    match n {
        None => absent.to_owned(),
        Some(n) if n < 0.0 => format!("fell by {}", bytes(Some(-n))),
        Some(n) => format!("grew by {}", bytes(Some(n))),
    }
}

/// Bytes as people read them; what was not read says so.
pub fn bytes(n: Option<f64>) -> String {
    let Some(n) = n else { return "an unread amount".to_owned() };
    match n.abs() {
        b if b >= 1e9 => format!("{:.2} GB", n / 1e9),
        b if b >= 1e6 => format!("{:.1} MB", n / 1e6),
        b if b >= 1e3 => format!("{:.1} kB", n / 1e3),
        _ => format!("{n:.0} B"),
    }
}

/// Which term dominated.
pub(super) fn conclude(span_ns: i64, terms: &[Share]) -> Verdict {
    let told: Vec<&Share> = terms.iter().filter(|share| share.term != Term::Unexplained).collect();
    let part = |share: &Share| share.ns as f64 / span_ns.max(1) as f64;
    let Some(best) = told.first() else {
        return cannot("nothing that was read moved");
    };
    let next = terms.iter().find(|share| share.term != best.term).map_or(0, |share| share.ns);
    let words = format!("{:.0} % of {:.2} s: {}", part(best) * 100.0, span_ns as f64 / 1e9, best.because);
    if part(best) >= HALF {
        return Verdict { term: Some(best.term), confidence: best.confidence, because: words };
    }
    if part(best) >= MOST && best.ns >= 2 * next {
        let confidence = best.confidence.min(Confidence::Medium);
        return Verdict { term: Some(best.term), confidence, because: words };
    }
    let list: Vec<String> =
        terms.iter().map(|s| format!("{} {:.0} %", s.term.words(), part(s) * 100.0)).collect();
    cannot(&format!("no term has half of it ({})", list.join(", ")))
}

fn cannot(why: &str) -> Verdict {
    Verdict { because: format!("can't tell: {why}"), ..Verdict::default() }
}

/// What several restarts say together: the verdict that most of them share, and whether it came back each time.
pub fn overall(all: &[&Diagnosis]) -> Verdict {
    let Some(latest) = all.last() else { return cannot("nothing was measured") };
    if all.len() == 1 {
        return latest.verdict.clone();
    }
    let count = |term: Option<Term>| all.iter().filter(|d| d.verdict.term == term).count();
    let Some(most) = all.iter().max_by_key(|d| count(d.verdict.term)) else { return latest.verdict.clone() };
    let (times, of) = (count(most.verdict.term), all.len());
    let same: Vec<&&Diagnosis> = all.iter().filter(|d| d.verdict.term == most.verdict.term).collect();
    let weakest = same.iter().map(|d| d.verdict.confidence).min().unwrap_or_default();
    let confidence = if times == of { weakest } else { Confidence::Low };
    let last = same.last().map_or("", |d| &d.verdict.because);
    let because = format!("in {times} of {of} restarts; the last of them: {last}");
    Verdict { term: most.verdict.term.filter(|_| times * 2 > of), confidence, because }
}
