//! A node's clock over a whole run: the band at every second, cut where no line passes (a step, a suspend), applied to
//! stamps in both directions.

use tailcliff_proto::v1;

use super::{Aligned, Exchange, REACH_NS, WANDER, WINDOW_NS, band};

/// How a track was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrackKind {
    /// It is the coordinator's own clock: no offset, no error.
    SameClock,
    /// Fitted to exchanges.
    Fitted,
    /// Nothing is known: stamps cannot be aligned.
    Unaligned,
}

/// The offset of one node over a run.
#[derive(Clone, Debug)]
pub struct Track {
    kind: TrackKind,
    origin: i64,
    segments: Vec<Segment>,
    exchanges: usize,
    rejected: usize,
    repeatability_ns: Option<i64>,
}

/// A stretch that one clock law explains.
#[derive(Clone, Debug)]
struct Segment {
    /// The clock broke before it, as far as exchanges or snapshots tell; else there was only a gap between exchanges.
    broke: bool,
    /// Outermost exchanges, on the coordinator's clock.
    first: i64,
    last: i64,
    /// Moment of the first knot; the others follow each second, reaching beyond both ends.
    start: i64,
    knots: Vec<Knot>,
}

#[derive(Clone, Copy, Debug)]
struct Knot {
    theta: f64,
    lo: f64,
    hi: f64,
}

const STEP_NS: i64 = 1_000_000_000;
/// More breaks than this are no clock.
const MAX_SEGMENTS: usize = 256;

impl Track {
    /// Fits a track to the exchanges of one node, breaking it where `snapshots` show a suspend.
    pub fn fit(exchanges: &[Exchange], snapshots: &[v1::ClockSnapshot]) -> Self {
        let mut track = Self::fit_once(exchanges, snapshots);
        if track.kind == TrackKind::Fitted {
            let half = |parity| exchanges.iter().skip(parity).step_by(2).copied().collect::<Vec<_>>();
            let halves = [0, 1].map(|parity| Self::fit_once(&half(parity), snapshots));
            track.repeatability_ns = track.difference(&halves[0], &halves[1]);
        }
        track
    }

    /// The coordinator's own clock.
    pub fn same_clock(exchanges: usize) -> Self {
        Self { kind: TrackKind::SameClock, exchanges, ..Self::unaligned(0, 0) }
    }

    fn unaligned(exchanges: usize, rejected: usize) -> Self {
        let segments = Vec::new();
        Self { kind: TrackKind::Unaligned, origin: 0, segments, exchanges, rejected, repeatability_ns: None }
    }

    fn fit_once(exchanges: &[Exchange], snapshots: &[v1::ClockSnapshot]) -> Self {
        let mut good: Vec<Exchange> = exchanges.iter().filter(|e| e.is_possible()).copied().collect();
        good.sort_by_key(|e| (e.middle(), e.t0, e.t1));
        let rejected = exchanges.len() - good.len();
        let Some(origin) = good.first().map(Exchange::middle_offset) else {
            return Self::unaligned(0, rejected);
        };
        let stretches = split(&good, &suspends(snapshots), origin);
        if stretches.len() > MAX_SEGMENTS {
            return Self::unaligned(good.len(), rejected);
        }
        let segments = stretches.iter().map(|stretch| segment(&good, stretch, origin)).collect();
        Self {
            kind: TrackKind::Fitted,
            origin,
            segments,
            exchanges: good.len(),
            rejected,
            repeatability_ns: None,
        }
    }

    /// Median distance of two tracks over this one's knots.
    fn difference(&self, a: &Self, b: &Self) -> Option<i64> {
        let knots = self.segments.iter().flat_map(|s| (s.first..=s.last).step_by(STEP_NS as usize));
        // Each track counts from an origin of its own.
        let of =
            |track: &Self, at| track.offset_at(at).map(|k| k.theta + (track.origin - self.origin) as f64);
        let mut gaps: Vec<i64> =
            knots.filter_map(|at| Some((of(a, at)? - of(b, at)?).abs() as i64)).collect();
        gaps.sort_unstable();
        gaps.get(gaps.len() / 2).copied()
    }

    /// How it was made.
    pub fn kind(&self) -> TrackKind {
        self.kind
    }

    /// Where a stamp of the node lies on the coordinator's clock; `None` when that cannot be told.
    pub fn to_ref(&self, node_ns: i64) -> Option<Aligned> {
        match self.kind {
            TrackKind::SameClock => Some(Aligned { ns: node_ns, bound_ns: 0 }),
            TrackKind::Unaligned => None,
            TrackKind::Fitted => {
                let knot = self.offset_for(node_ns)?;
                Some(aligned(node_ns - self.origin, -1.0, knot))
            }
        }
    }

    /// Where a moment of the coordinator's clock lies on the node's; `None` when that cannot be told.
    pub fn to_node(&self, ref_ns: i64) -> Option<Aligned> {
        match self.kind {
            TrackKind::SameClock => Some(Aligned { ns: ref_ns, bound_ns: 0 }),
            TrackKind::Unaligned => None,
            TrackKind::Fitted => {
                let knot = self.offset_at(ref_ns)?;
                Some(aligned(ref_ns.checked_add(self.origin)?, 1.0, knot))
            }
        }
    }

    /// The band at a moment of the coordinator's clock: inside a segment its own, in a gap what both neighbours allow.
    fn offset_at(&self, at: i64) -> Option<Knot> {
        let after = self.segments.partition_point(|s| s.last < at);
        let next = self.segments.get(after);
        if let Some(inside) = next.filter(|s| s.first <= at) {
            return inside.at(at);
        }
        let before = after.checked_sub(1).and_then(|i| self.segments.get(i));
        let sides = [before, next].map(|side| side.and_then(|s| s.at(at)));
        match sides {
            [Some(a), Some(b)] => Some(union(a, b)),
            // An end of the run, or a gap too long to reach across from one side: nothing bounds it.
            [Some(only), None] if next.is_none() => Some(only),
            [None, Some(only)] if before.is_none() => Some(only),
            _ => None,
        }
    }

    /// The band at the moment when the node's clock showed `node_ns`. A step back lets a stamp occur twice, within two
    /// segments or in one and in the gap after another: then what all of them allow.
    fn offset_for(&self, node_ns: i64) -> Option<Knot> {
        let local = node_ns.checked_sub(self.origin)?;
        let either = |found: Option<Knot>, new: Option<Knot>| match (found, new) {
            (Some(a), Some(b)) => Some(union(a, b)),
            (a, b) => a.or(b),
        };
        let moments: Vec<i64> = self.segments.iter().map(|segment| segment.moment_of(local)).collect();
        let inside = self.segments.iter().zip(&moments).filter(|(segment, at)| segment.holds(**at));
        let found = inside.fold(None, |found, (segment, &at)| either(found, segment.at(at)));
        let (from, to) = (self.segments.first()?.first, self.segments.last()?.last);
        let is_gap = |at: i64| !self.segments.iter().any(|segment| segment.holds(at));
        // Before the first exchange and after the last there is one law only; a stamp placed by it is no second meaning.
        let is_candidate = |at: i64| is_gap(at) && (found.is_none() || (from..=to).contains(&at));
        let between = moments.iter().filter(|&&at| is_candidate(at));
        between.fold(found, |found, &at| either(found, self.offset_at(at)))
    }

    /// Moments (coordinator's clock, ns) where the clock broke: between the exchanges before and after.
    pub fn breaks(&self) -> Vec<(i64, i64)> {
        let pairs = self.segments.windows(2).filter(|pair| pair[1].broke);
        pairs.map(|pair| (pair[0].last, pair[1].first)).collect()
    }

    /// Exchanges used.
    pub fn exchanges(&self) -> usize {
        self.exchanges
    }

    /// Exchanges that no two clocks could have made.
    pub fn rejected(&self) -> usize {
        self.rejected
    }

    /// Median error bar within the segments, ns.
    pub fn median_bound_ns(&self) -> Option<i64> {
        let mut bounds = self.bounds()?;
        bounds.sort_unstable();
        bounds.get(bounds.len() / 2).copied()
    }

    /// Widest error bar within the segments and the gaps between them, ns.
    pub fn worst_bound_ns(&self) -> Option<i64> {
        let gaps =
            self.segments.windows(2).filter_map(|pair| self.offset_at((pair[0].last + pair[1].first) / 2));
        self.bounds()?.into_iter().chain(gaps.map(half_width)).max()
    }

    /// Median difference of the fits to two disjoint halves of the exchanges, ns. Blind to asymmetry: both halves share it.
    pub fn repeatability_ns(&self) -> Option<i64> {
        if self.kind == TrackKind::SameClock { Some(0) } else { self.repeatability_ns }
    }

    fn bounds(&self) -> Option<Vec<i64>> {
        match self.kind {
            TrackKind::SameClock => Some(vec![0]),
            TrackKind::Unaligned => None,
            TrackKind::Fitted => {
                let within = |s: &Segment| {
                    (s.first..=s.last).step_by(STEP_NS as usize).filter_map(|at| s.at(at)).collect()
                };
                Some(
                    self.segments
                        .iter()
                        .flat_map(within as fn(&Segment) -> Vec<Knot>)
                        .map(half_width)
                        .collect(),
                )
            }
        }
    }
}

fn half_width(knot: Knot) -> i64 {
    (knot.hi - knot.theta).max(knot.theta - knot.lo).ceil() as i64
}

/// `from + sign · θ`, and the half-width of what θ may be.
fn aligned(from: i64, sign: f64, knot: Knot) -> Aligned {
    // Whole nanoseconds: rounding is one more.
    Aligned { ns: from + (sign * knot.theta).round() as i64, bound_ns: half_width(knot) + 1 }
}

fn union(a: Knot, b: Knot) -> Knot {
    let (lo, hi) = (a.lo.min(b.lo), a.hi.max(b.hi));
    Knot { theta: (a.theta + b.theta) / 2.0, lo, hi }
}

impl Segment {
    fn holds(&self, at: i64) -> bool {
        (self.first..=self.last).contains(&at)
    }

    /// The band at a moment, between the two knots around it.
    fn at(&self, at: i64) -> Option<Knot> {
        let since = at.checked_sub(self.start).filter(|&since| since >= 0)?;
        let i = (since / STEP_NS) as usize;
        let (a, b) = (self.knots.get(i)?, self.knots.get(i + 1).or(self.knots.get(i))?);
        let share = (since % STEP_NS) as f64 / STEP_NS as f64;
        if i + 1 == self.knots.len() && share > 0.0 {
            return None;
        }
        let between = |a: f64, b: f64| a + (b - a) * share;
        // Off its knots the clock may have left the chord by its wander to both: 2ρ·ab/(a+b).
        let bow = 2.0 * WANDER * share * (1.0 - share) * STEP_NS as f64;
        Some(Knot {
            theta: between(a.theta, b.theta),
            lo: between(a.lo, b.lo) - bow,
            hi: between(a.hi, b.hi) + bow,
        })
    }

    /// When the node's clock (less the track's origin) showed `local`, by this segment: a fixed point, reached in a few
    /// steps since the skew is small.
    fn moment_of(&self, local: i64) -> i64 {
        let end = self.start + (self.knots.len() as i64 - 1) * STEP_NS;
        let mut at = local;
        for _ in 0..4 {
            let theta = self.at(at.clamp(self.start, end)).map_or(0.0, |knot| knot.theta);
            at = local.saturating_sub(theta as i64);
        }
        at
    }
}

/// Node times after which a suspend was seen: its boot clock gained on its monotonic one, or it is another boot.
fn suspends(snapshots: &[v1::ClockSnapshot]) -> Vec<i64> {
    const JUMP_NS: i64 = 1_000_000;
    let gained = |s: &v1::ClockSnapshot| s.boottime_ns.wrapping_sub(s.mono_ns);
    let is_other = |a: &v1::ClockSnapshot, b: &v1::ClockSnapshot| {
        let jump = gained(b).wrapping_sub(gained(a)).saturating_abs();
        jump > JUMP_NS.saturating_add(a.read_width_ns).saturating_add(b.read_width_ns)
            || a.boot_id != b.boot_id
            || a.timens_inode != b.timens_inode
    };
    snapshots.windows(2).filter(|pair| is_other(&pair[0], &pair[1])).map(|pair| pair[0].raw_ns).collect()
}

/// Consecutive exchanges that one line explains at every window, and whether the clock broke before them.
struct Stretch {
    indices: std::ops::Range<usize>,
    broke: bool,
}

/// Cuts exchanges (in order) into stretches: where no line passes, where a suspend was seen, and where so long a time
/// lies between two that neither bears on the other and a step would go unseen.
fn split(exchanges: &[Exchange], suspends: &[i64], origin: i64) -> Vec<Stretch> {
    let mut stretches = Vec::new();
    let (mut start, mut broke) = (0, false);
    for (i, exchange) in exchanges.iter().enumerate().skip(1) {
        let previous = &exchanges[i - 1];
        let suspended = suspends.iter().any(|&at| previous.t1 <= at && at < exchange.t1);
        let silent = exchange.middle() - previous.middle() > WINDOW_NS;
        let breaks = suspended
            || match silent {
                true => !is_feasible(&exchanges[start..i], exchange, origin),
                false => !is_explained(&exchanges[start..i], exchange, origin),
            };
        if breaks || silent {
            stretches.push(Stretch { indices: start..i, broke });
            (start, broke) = (i, breaks);
            if stretches.len() > MAX_SEGMENTS {
                break;
            }
        }
    }
    stretches.push(Stretch { indices: start..exchanges.len(), broke });
    stretches
}

/// True when one line passes through the last window of a stretch and an exchange long after it.
fn is_feasible(stretch: &[Exchange], exchange: &Exchange, origin: i64) -> bool {
    let Some(last) = stretch.last() else { return true };
    let from = stretch.partition_point(|e| e.middle() < last.middle() - WINDOW_NS);
    let window = stretch[from..].iter().chain(std::iter::once(exchange));
    band::fit(window, last.middle(), origin).is_some()
}

/// True when a line passes through the newest window of a stretch and one more exchange.
pub(super) fn is_explained(stretch: &[Exchange], exchange: &Exchange, origin: i64) -> bool {
    let at = exchange.middle();
    let from = stretch.partition_point(|e| e.middle() < at - WINDOW_NS);
    let window = stretch[from..].iter().chain(std::iter::once(exchange));
    band::fit(window, at, origin).is_some()
}

fn segment(all: &[Exchange], stretch: &Stretch, origin: i64) -> Segment {
    let own = &all[stretch.indices.clone()];
    let (first, last) = (own[0].middle(), own[own.len() - 1].middle());
    let start = first - REACH_NS;
    let count = (last + REACH_NS - start) / STEP_NS + 2;
    let knots = (0..count).map(|k| knot(own, start + k * STEP_NS, origin)).collect();
    Segment { broke: stretch.broke, first, last, start, knots }
}

/// The band at a moment from the exchanges around it; beyond the ends from the nearest ones.
fn knot(own: &[Exchange], at: i64, origin: i64) -> Knot {
    let centre = at.clamp(own[0].middle(), own[own.len() - 1].middle());
    let mut from = own.partition_point(|e| e.middle() < centre - WINDOW_NS);
    let mut to = own.partition_point(|e| e.middle() <= centre + WINDOW_NS);
    loop {
        // Adjacent windows were each explained, this one may span both: narrow it rather than fail.
        if let Some(band) = band::fit(&own[from..to], at, origin) {
            return Knot { theta: band.theta, lo: band.lo, hi: band.hi };
        }
        if to - from <= 1 {
            // A single possible exchange always has a line; a knot that knew nothing would say so.
            return Knot { theta: 0.0, lo: f64::NEG_INFINITY, hi: f64::INFINITY };
        }
        let (left, right) = (centre - own[from].middle(), own[to - 1].middle() - centre);
        if left >= right { from += 1 } else { to -= 1 }
    }
}
