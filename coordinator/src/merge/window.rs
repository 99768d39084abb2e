//! Over which time throughput is counted, and what it comes to. In closed loop a completed request counts by the share of
//! its life that lies in the window, and so do its tokens. Counting ends instead would be wrong by up to one request a
//! stream: streams that start together and are cut together have all their unfinished work thrown away at one edge, and
//! none brought in at the other.
//!
//! In open loop a request counts where it ends. A server that does not keep up lets a queue grow, so that much of a life is
//! waiting, and of those that end after the window a share would count as done within it: at twice a server's capacity
//! that gives 1.4 times of what it can do. And it is counted from the first end on: without a warm-up, a server that keeps
//! up would lose the requests in flight at the end, the more of them the higher the rate, and that would pass for a knee.

use super::tally::Point;
use crate::axis::Load;

/// Parts that a window is cut into for the error bar of its rates.
const PARTS: usize = 10;
/// 97.5 % point of Student's t with `PARTS` − 1 degrees of freedom.
const T_975: f64 = 2.262;
/// Fewer completions than two a part say nothing of the spread between parts.
const MIN_FOR_BAR: u64 = 20;

/// How a throughput window was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The plan's duration.
    Duration,
    /// From the measured start until the first slot of any agent ran dry: every stream was busy.
    Steady,
    /// Open loop: from the measured start, or the first end, to the last arrival, after which the load only falls.
    Arrivals,
    /// From the first intended send to the last completion, both of the measured phase: includes the tail.
    Makespan,
}

impl Rule {
    /// The name in outputs.
    pub fn as_str(self) -> &'static str {
        match self {
            Rule::Duration => "duration",
            Rule::Steady => "steady",
            Rule::Arrivals => "arrivals",
            Rule::Makespan => "makespan",
        }
    }
}

/// [start, end) on the coordinator's clock, ns; never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// How it was chosen.
    pub rule: Rule,
    /// First ns inside.
    pub start_ns: i64,
    /// First ns after.
    pub end_ns: i64,
}

impl Window {
    fn new(rule: Rule, start_ns: i64, end_ns: i64) -> Option<Self> {
        (end_ns.checked_sub(start_ns)? > 0).then_some(Self { rule, start_ns, end_ns })
    }

    /// Length in seconds.
    pub fn seconds(&self) -> f64 {
        (self.end_ns - self.start_ns) as f64 / 1e9
    }

    /// Length of each of the parts that its rates' error bars come from, ns.
    pub fn part_ns(&self) -> i64 {
        (self.end_ns - self.start_ns) / PARTS as i64
    }

    /// How much of [`from_ns`, `to_ns`) lies inside, ns.
    pub(crate) fn overlap_ns(&self, from_ns: i64, to_ns: i64) -> i64 {
        to_ns.min(self.end_ns).saturating_sub(from_ns.max(self.start_ns)).max(0)
    }

    /// Its parts, equal to the ns.
    pub(crate) fn parts<const N: usize>(self) -> [Self; N] {
        let length = i128::from(self.end_ns - self.start_ns);
        let edge = |i: usize| self.start_ns + (length * i as i128 / N as i128) as i64;
        std::array::from_fn(|i| Self { start_ns: edge(i), end_ns: edge(i + 1), ..self })
    }

    /// True when a moment lies inside.
    pub fn holds(&self, ref_ns: i64) -> bool {
        (self.start_ns..self.end_ns).contains(&ref_ns)
    }
}

/// The window of a level with this warm-up and length that began at `start_ns` and whose first slot ran dry at `dry_ns`; one that was cut short ends
/// with its last request.
pub(crate) fn choose(
    (warmup_ns, duration_ns): (i64, Option<i64>),
    load: Load,
    start_ns: i64,
    dry_ns: Option<i64>,
    cut_short: bool,
    points: &[Point],
) -> Option<Window> {
    let mut from = start_ns.checked_add(warmup_ns)?;
    if load.is_open() && !load.is_at_once() {
        // That first one marks the start, and does not count.
        let first_end = points.iter().filter(|p| p.completed()).map(|p| p.done_ns).min();
        from = from.max(first_end.map_or(from, |end| end.saturating_add(1)));
    }
    if let Some(duration) = duration_ns {
        let planned = start_ns.checked_add(warmup_ns)?.checked_add(duration)?;
        // In a closed loop every stream has a request under way until it is stopped; in an open one requests are sent until
        // then, whenever they had been meant to.
        let last = || points.iter().map(|p| if load.is_open() { p.issued_ns } else { p.done_ns }).max();
        let end = if cut_short { last().map_or(planned, |last| planned.min(last)) } else { planned };
        return Window::new(Rule::Duration, from, end);
    }
    let measured = || points.iter().filter(|p| p.measured && p.completed());
    let last_arrival = || points.iter().filter(|p| p.measured && p.first).map(|p| p.intended_ns).max();
    let steady = match load {
        Load::Streams(_) => dry_ns.and_then(|dry| Window::new(Rule::Steady, from, dry)),
        Load::Rate(_) => last_arrival().and_then(|last| Window::new(Rule::Arrivals, from, last)),
    };
    if let Some(window) = steady {
        let inside = measured().filter(|p| window.holds(p.done_ns)).count();
        // A window with the lesser part of the requests would speak for the few, unless they are many: the tail of an open
        // loop is under another load.
        let many = load.is_open() && inside as u64 >= MIN_FOR_BAR;
        if many || inside > 0 && inside * 2 >= measured().count() {
            return Some(window);
        }
    }
    let first = points.iter().filter(|p| p.measured).map(|p| p.intended_ns).min()?;
    let last = measured().map(|p| p.done_ns).max()?;
    Window::new(Rule::Makespan, first, last.checked_add(1)?)
}

/// A rate with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Per second.
    pub per_s: f64,
    /// From the spread between the ten parts of the window (batch means, Student's t); `None` when fewer than 20 ended.
    pub interval: Option<(f64, f64)>,
}

/// What a level got done per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Throughput {
    /// Where it was counted.
    pub window: Window,
    /// Requests that ended inside and completed.
    pub completed: u64,
    /// Completed requests: in closed loop each by its share in the window, in open loop those that ended in it.
    pub requests: Rate,
    /// Output tokens of them.
    pub output_tokens: Rate,
    /// Prompt and output tokens of them.
    pub total_tokens: Rate,
    /// Those that kept every limit of the plan's SLO; 0 without one.
    pub good_requests: Rate,
}

/// What was done inside a window.
pub(crate) fn throughput(window: Window, load: Load, points: &[Point]) -> Throughput {
    let completed: Vec<&Point> = points.iter().filter(|p| p.completed()).collect();
    let share = if load.is_open() { by_end } else { by_life };
    let rate = |weight: &dyn Fn(&Point) -> u64| rate(window, &completed, share, weight);
    Throughput {
        window,
        completed: completed.iter().filter(|p| window.holds(p.done_ns)).count() as u64,
        requests: rate(&|_| 1),
        output_tokens: rate(&|p| p.output_tokens),
        total_tokens: rate(&|p| p.output_tokens.saturating_add(p.input_tokens)),
        good_requests: rate(&|p| u64::from(p.good)),
    }
}

/// Requests, output tokens and good requests done in each of some parts of a window.
pub(crate) fn credits(parts: &[Window], load: Load, points: &[Point]) -> Vec<[f64; 3]> {
    let share = if load.is_open() { by_end } else { by_life };
    let mut sums = vec![[0.0; 3]; parts.len()];
    for point in points.iter().filter(|point| point.completed()) {
        // The parts that its life touches; a thousand requests each touch few.
        let first = parts.partition_point(|part| part.end_ns <= point.intended_ns);
        let touched = parts.iter().zip(&mut sums).skip(first);
        for (part, sum) in touched.take_while(|(part, _)| part.start_ns <= point.done_ns) {
            let part = share(*part, point);
            sum[0] += part;
            sum[1] += part * point.output_tokens as f64;
            sum[2] += if point.good { part } else { 0.0 };
        }
    }
    sums
}

/// How much of a request counts as done within a window.
type Share = fn(Window, &Point) -> f64;

fn rate(window: Window, completed: &[&Point], share: Share, weight: &dyn Fn(&Point) -> u64) -> Rate {
    // Folded from 0: the sum of no floats is −0.
    let credit = completed.iter().map(|p| weight(p) as f64 * share(window, p)).fold(0.0, |a, b| a + b);
    let per_s = credit / window.seconds();
    let ended: Vec<&Point> = completed.iter().copied().filter(|p| window.holds(p.done_ns)).collect();
    let enough = ended.len() as u64 >= MIN_FOR_BAR;
    let bar = || {
        let parts = if is_short(window, &ended) {
            window
                .parts::<PARTS>()
                .map(|part| completed.iter().map(|p| weight(p) as f64 * share(part, p)).sum())
        } else {
            // What is under way spans several parts and would make them alike: ends are lumpier than the work, so this bar
            // is rather too wide than too narrow.
            window
                .parts::<PARTS>()
                .map(|part| ended.iter().filter(|p| part.holds(p.done_ns)).map(|p| weight(p) as f64).sum())
        };
        bar(window, &parts, per_s)
    };
    Rate { per_s, interval: enough.then(bar) }
}

/// A part holds two lives and more, so that parts tell of different requests.
fn is_short(window: Window, ended: &[&Point]) -> bool {
    let lives: i128 = ended.iter().map(|p| i128::from(life(p))).sum();
    let part = i128::from(window.end_ns - window.start_ns) / PARTS as i128;
    2 * lives <= part * ended.len() as i128
}

fn life(point: &Point) -> i64 {
    point.done_ns.saturating_sub(point.intended_ns)
}

/// All of it where it ends.
fn by_end(window: Window, point: &Point) -> f64 {
    if window.holds(point.done_ns) { 1.0 } else { 0.0 }
}

/// Share of a request's life, from its intended send to its end, that lies inside.
fn by_life(window: Window, point: &Point) -> f64 {
    let life = life(point);
    if life <= 0 {
        return by_end(window, point);
    }
    window.overlap_ns(point.intended_ns, point.done_ns) as f64 / life as f64
}

fn bar(window: Window, parts: &[f64; PARTS], per_s: f64) -> (f64, f64) {
    let part_s = window.seconds() / PARTS as f64;
    let mean = parts.iter().sum::<f64>() / window.seconds();
    let squares: f64 = parts.iter().map(|n| (n / part_s - mean).powi(2)).sum();
    let deviation = (squares / (PARTS - 1) as f64).sqrt();
    let half = T_975 * deviation / (PARTS as f64).sqrt();
    ((per_s - half).max(0.0), per_s + half)
}
