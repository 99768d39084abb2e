//! One stall as SVG: the stream's own tokens and a control's pause over them, what other streams brought meanwhile, and what
//! the GPU's power looked like, each signal as it was read. Drawn by hand: three panels need no library.

use std::fmt::Write;

use tailcliff_proto::arrivals;
use tailcliff_proto::v1::{self, NodeKind, Signal};

use crate::knee::duration;
use crate::merge::tally::{agents, of_kind};
use crate::merge::timeline::Timeline;
use crate::stall::{Gap, Stall, Stalls};
use crate::stored::RunData;

use super::text::markup;

const WIDTH: f64 = 960.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
/// (top, height) of each panel.
const TEXT: (f64, f64) = (92.0, 175.0);
const OTHERS: (f64, f64) = (298.0, 70.0);
const POWER: (f64, f64) = (400.0, 210.0);
const HEIGHT: f64 = 690.0;
/// Width of a bin of others' arrivals, ns, and how many there are at most: of a long stall they are wider.
const BIN_NS: i64 = 20_000_000;
const MOST_BINS: i64 = 1_500;

/// The longest stall, or that of one request.
pub fn longest<'a>(stalls: &'a Stalls, request_id: Option<&str>) -> Option<&'a Stall> {
    let wanted = |stall: &&Stall| request_id.is_none_or(|id| stall.gap.request_id == id);
    stalls.all.iter().filter(wanted).max_by_key(|stall| stall.gap.length_ns())
}

/// The stall that began nearest to a time on the coordinator's clock, ns.
pub fn nearest(stalls: &Stalls, ref_ns: i64) -> Option<&Stall> {
    stalls.all.iter().min_by_key(|stall| stall.gap.from_ns.abs_diff(ref_ns))
}

/// A point: ns from the stall's beginning, and a value.
type Point = (i64, f64);

/// Draws it.
pub fn draw(data: &RunData, timeline: &Timeline, stalls: &Stalls, stall: &Stall) -> String {
    let gap = &stall.gap;
    let length = gap.to_ns.saturating_sub(gap.from_ns).max(1);
    let around = length.max(500_000_000);
    let mut svg = Svg { text: String::new(), from: -around, to: length + around };
    svg.head(data, stall);
    svg.shade(length);
    let seen = Seen::of(data, timeline, gap, (svg.from, svg.to));
    svg.tokens(&seen);
    svg.others(&seen);
    svg.power(data, timeline, stalls, gap);
    svg.times();
    svg.text.push_str("</svg>\n");
    svg.text
}

/// Arrivals near the stall.
#[derive(Default)]
struct Seen {
    /// Characters so far of the stalled request.
    own: Vec<Point>,
    /// Of a request that the client paused on purpose, its pause laid over the stall.
    control: Vec<Point>,
    /// How many arrivals of others each bin has.
    others: Vec<u32>,
    bin_ns: i64,
}

impl Seen {
    fn of(data: &RunData, timeline: &Timeline, gap: &Gap, (from, to): (i64, i64)) -> Self {
        let bin_ns = BIN_NS.max((to - from) / MOST_BINS);
        let bins = usize::try_from((to - from) / bin_ns).unwrap_or(0) + 1;
        let mut seen = Self { others: vec![0; bins], bin_ns, ..Self::default() };
        for (of, node) in agents(data) {
            for batch in node.each_batch() {
                for record in &batch.records {
                    // All tries of a request have its numbers; each has an id of its own.
                    let is_own = (gap.of, &gap.request_id) == (of, &record.request_id);
                    let place = |raw| timeline.place(of, raw).map(|at| at.ns.saturating_sub(gap.from_ns));
                    if is_own {
                        seen.own = points(record, place);
                    } else {
                        seen.count(record, place, from);
                    }
                    if let Some(paused) = record.control_pause_raw_ns.filter(|_| seen.control.is_empty()) {
                        seen.control = points(record, |raw| Some(raw.saturating_sub(paused)));
                    }
                }
            }
        }
        seen
    }

    fn count(&mut self, record: &v1::RequestRecord, place: impl Fn(i64) -> Option<i64>, from: i64) {
        let bin_ns = self.bin_ns;
        let bin = |at: i64| usize::try_from(at.saturating_sub(from).div_euclid(bin_ns)).ok();
        for (at, _) in points(record, place).into_iter().skip(1) {
            if let Some(n) = bin(at).and_then(|bin| self.others.get_mut(bin)) {
                *n += 1;
            }
        }
    }
}

/// From its send on.
fn points(record: &v1::RequestRecord, place: impl Fn(i64) -> Option<i64>) -> Vec<Point> {
    let sent = record.sent_raw_ns.unwrap_or(record.intended_raw_ns);
    let mut points: Vec<Point> = place(sent).map(|at| (at, 0.0)).into_iter().collect();
    let (mut at, mut chars) = (record.intended_raw_ns, 0u64);
    for arrival in arrivals::decode(&record.arrivals).map_while(Result::ok) {
        at = at.saturating_add_unsigned(arrival.gap_ns);
        chars = chars.saturating_add(arrival.chars);
        points.extend(place(at).map(|at| (at, chars as f64)));
    }
    points
}

struct Svg {
    text: String,
    /// ns from the stall's beginning.
    from: i64,
    to: i64,
}

impl Svg {
    fn x(&self, ns: i64) -> f64 {
        let share = ns.saturating_sub(self.from) as f64 / (self.to - self.from) as f64;
        LEFT + share.clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT)
    }

    fn put(&mut self, text: &str) {
        self.text.push_str(text);
        self.text.push('\n');
    }

    fn label(&mut self, x: f64, y: f64, class: &str, text: &str) {
        let text = markup(text);
        let _written = writeln!(self.text, r#"<text x="{x:.1}" y="{y:.1}" class="{class}">{text}</text>"#);
    }

    fn head(&mut self, data: &RunData, stall: &Stall) {
        let _written = writeln!(
            self.text,
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif">"#
        );
        self.put(
            "<style>text{font-size:12px;fill:#333}.t{font-size:16px;font-weight:600}.s{fill:#666}.e{text-anchor:end}\
             .m{text-anchor:middle}path{fill:none;stroke-width:1.5}</style><rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>",
        );
        let length = duration(stall.gap.length_ns().max(0).unsigned_abs());
        let judged = &stall.judgement;
        let sure = format!("{} ({:.0} %)", judged.verdict.words(), 100.0 * judged.confidence);
        self.label(LEFT, 24.0, "t", &format!("{length} in {}: {sure}", stall.gap.request_id));
        self.label(LEFT, 42.0, "s", &cards(data));
        let mut why = judged.why.clone();
        if why.chars().count() > 140 {
            why = why.chars().take(139).chain(['…']).collect();
        }
        self.label(LEFT, 58.0, "s", &why);
    }

    fn shade(&mut self, length: i64) {
        let (x, width) = (self.x(0), self.x(length) - self.x(0));
        let (y, height) = (TEXT.0, POWER.0 + POWER.1 - TEXT.0);
        let _written = writeln!(
            self.text,
            r##"<rect x="{x:.1}" y="{y}" width="{width:.1}" height="{height}" fill="#fde9c9"/>"##
        );
    }

    /// One line of points inside the time shown, steps or straight.
    fn line(&mut self, points: &[Point], panel: (f64, f64), top: f64, style: &str, steps: bool) {
        let y = |value: f64| panel.0 + panel.1 * (1.0 - (value / top.max(1e-9)).clamp(0.0, 1.0));
        let inside = points.iter().filter(|(at, _)| (self.from..=self.to).contains(at));
        let mut path = String::new();
        for &(at, value) in inside {
            let (x, y) = (self.x(at), y(value));
            let _written = match (path.is_empty(), steps) {
                (true, _) => write!(path, "M{x:.1} {y:.1}"),
                (false, true) => write!(path, "H{x:.1}V{y:.1}"),
                (false, false) => write!(path, "L{x:.1} {y:.1}"),
            };
        }
        if !path.is_empty() {
            let _written = writeln!(self.text, r#"<path d="{path}" {style}/>"#);
        }
    }

    fn axis(&mut self, panel: (f64, f64), top: f64, title: &str) {
        let (y, bottom) = (panel.0, panel.0 + panel.1);
        let right = WIDTH - RIGHT;
        let _written = writeln!(
            self.text,
            r##"<path d="M{LEFT} {y}V{bottom}H{right}" stroke="#999" stroke-width="1"/>"##
        );
        self.label(LEFT - 6.0, y + 10.0, "e", &format!("{top:.0}"));
        self.label(LEFT - 6.0, bottom, "e", "0");
        self.label(LEFT, y - 6.0, "s", title);
    }

    fn tokens(&mut self, seen: &Seen) {
        let highest = |points: &[Point]| {
            points.iter().filter(|(at, _)| *at <= self.to).map(|(_, chars)| *chars).fold(1.0, f64::max)
        };
        let top = highest(&seen.own).max(highest(&seen.control));
        if !seen.control.is_empty() {
            self.line(&seen.control, TEXT, top, r##"stroke="#e07b00" stroke-dasharray="5 3""##, true);
        }
        self.line(&seen.own, TEXT, top, r##"stroke="#1f4e9c""##, true);
        let title = if seen.control.is_empty() {
            "characters received (no control in this run: --control-pause draws its shape here)"
        } else {
            "characters received; dashed: a control, whose client paused on purpose"
        };
        self.axis(TEXT, top, title);
    }

    fn others(&mut self, seen: &Seen) {
        let top = f64::from(seen.others.iter().copied().max().unwrap_or(0).max(1));
        for (i, &n) in seen.others.iter().enumerate().filter(|(_, n)| **n > 0) {
            let at = self.from + i as i64 * seen.bin_ns;
            let (x, width) = (self.x(at), (self.x(at + seen.bin_ns) - self.x(at)).max(0.5));
            let height = OTHERS.1 * f64::from(n) / top;
            let y = OTHERS.0 + OTHERS.1 - height;
            let _written = writeln!(
                self.text,
                r##"<rect x="{x:.1}" y="{y:.1}" width="{width:.2}" height="{height:.1}" fill="#7aa06a"/>"##
            );
        }
        self.axis(OTHERS, top, &format!("chunks of all other streams, each {} ms", seen.bin_ns / 1_000_000));
    }

    fn power(&mut self, data: &RunData, timeline: &Timeline, stalls: &Stalls, gap: &Gap) {
        let mover = stalls.gpus.iter().find(|gpu| !gpu.bands.is_empty()).or(stalls.gpus.first());
        let Some(mover) = mover else {
            self.axis(POWER, 1.0, "no GPU was read");
            return;
        };
        let power = Power::of(data, timeline, (&mover.probe, mover.gpu), gap.from_ns);
        let all = power.buffer.iter().chain(&power.instant).chain(&power.average);
        let top =
            all.filter(|(at, _)| (self.from..=self.to).contains(at)).map(|p| p.1).fold(1.0, f64::max) * 1.1;
        for (name, bands) in &mover.bands {
            if *name == "instant power" {
                for (value, what) in [(bands.idle.0, "idle"), (bands.busy.1, "busy")] {
                    let y = POWER.0 + POWER.1 * (1.0 - value / top);
                    let right = WIDTH - RIGHT;
                    let _written = writeln!(
                        self.text,
                        r##"<path d="M{LEFT} {y:.1}H{right}" stroke="#aaa" stroke-dasharray="2 3"/>"##
                    );
                    self.label(right - 2.0, y - 3.0, "e s", what);
                }
            }
        }
        self.line(&power.average, POWER, top, r##"stroke="#c0392b""##, true);
        self.line(&power.instant, POWER, top, r##"stroke="#2980b9""##, true);
        self.line(&power.buffer, POWER, top, r##"stroke="#222""##, false);
        self.axis(
            POWER,
            top,
            "power, W: red the average reading, blue the instant one, black the driver's own samples",
        );
    }

    fn times(&mut self) {
        let step = [100, 200, 500, 1_000, 2_000, 5_000, 10_000, 60_000, 600_000]
            .into_iter()
            .map(|ms| ms * 1_000_000)
            .find(|step| (self.to - self.from) / step <= 14)
            .unwrap_or(3_600_000_000_000);
        let y = POWER.0 + POWER.1 + 16.0;
        let mut at = self.from.div_euclid(step) * step + step;
        while at < self.to {
            let x = self.x(at);
            self.label(x, y, "m", &format!("{:.1}", at as f64 / 1e9));
            at += step;
        }
        self.label(WIDTH / 2.0, y + 20.0, "m s", "seconds from the beginning of the stall (shaded)");
        self.label(
            LEFT,
            HEIGHT - 12.0,
            "s",
            "each reading is drawn when it was read, not for when it speaks",
        );
    }
}

/// Power as it was read, W.
#[derive(Default)]
struct Power {
    instant: Vec<Point>,
    average: Vec<Point>,
    buffer: Vec<Point>,
}

impl Power {
    fn of(data: &RunData, timeline: &Timeline, (probe, gpu): (&str, u32), from_ns: i64) -> Self {
        let mut power = Self::default();
        for (of, node) in of_kind(data, NodeKind::GpuProbe).into_iter().filter(|(_, n)| n.hello.name == probe)
        {
            let place = |raw| timeline.place(of, raw).map(|at| at.ns.saturating_sub(from_ns));
            for batch in node.each_batch_with_evidence() {
                for sample in batch.gpu_samples.iter().filter(|s| s.gpu == gpu) {
                    let Some(at) = place(sample.raw_ns) else { continue };
                    let watts = |mw: Option<u32>| mw.map(|mw| (at, f64::from(mw) / 1e3));
                    power.instant.extend(watts(sample.power_instant_mw));
                    power.average.extend(watts(sample.power_average_mw));
                }
                let buffers = batch.driver_samples.iter().filter(|s| s.gpu == gpu);
                for told in buffers.filter(|s| s.signal == Signal::PowerSamples as i32) {
                    let stamped = told.raw_ns.iter().zip(&told.values);
                    power.buffer.extend(stamped.filter_map(|(&raw, &watts)| Some((place(raw)?, watts))));
                }
            }
        }
        for points in [&mut power.instant, &mut power.average, &mut power.buffer] {
            points.sort_by_key(|(at, _)| *at);
        }
        power
    }
}

/// Which GPUs the run saw.
fn cards(data: &RunData) -> String {
    let gpus = || of_kind(data, NodeKind::GpuProbe).into_iter().flat_map(|(_, node)| &node.hello.gpus);
    let names: Vec<String> = gpus()
        .map(|gpu| {
            let simulated = if gpu.simulated { " (SIMULATED)" } else { "" };
            format!("{}{simulated}, driver {}", gpu.name, gpu.driver)
        })
        .collect();
    format!(
        "run {}; {}",
        data.header.name,
        if names.is_empty() { "no GPU".to_owned() } else { names.join("; ") }
    )
}
