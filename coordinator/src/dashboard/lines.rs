//! A view as lines of text with styles: what the screen and the plain blocks both show. Heat is told by a letter as well
//! as by colour, so that nothing is lost without colours.

use ratatui_core::style::{Color, Style};
use ratatui_core::text::{Line, Span};

use tailcliff_proto::histogram::LOWEST_NS;

use crate::trace::{Figures, HOT_NS, Verdict, Worker};

use super::model::{Phase, Rate, Status, View};

/// What the letters of heat mean.
const LEGEND: &str = "heat of % E2E: . <1  - <5  + <20  # <50  @ more";

const DIM: Style = Style::new().fg(Color::DarkGray);
const BOLD: Style = Style::new().add_modifier(ratatui_core::style::Modifier::BOLD);

/// The header: what is always shown.
pub fn header(view: &View, width: usize) -> Vec<Line<'static>> {
    let phase = match view.phase {
        Phase::Waiting => "waiting",
        Phase::Warmup => "warm-up",
        Phase::Measuring => "measuring",
        Phase::Final => "final",
        Phase::Cut => "final, incomplete",
    };
    let (word, style) = match &view.status {
        Status::Waiting => ("waiting".to_owned(), DIM),
        Status::Ok => ("ok".to_owned(), Style::new().fg(Color::Green)),
        Status::Backpressure(share) => {
            (format!("backpressure {}", percent(Some(*share)).trim()), Style::new().fg(Color::Yellow))
        }
        Status::Degraded(why) => (format!("degraded: {why}"), Style::new().fg(Color::Red)),
    };
    let up = clock(view.uptime_ns);
    let first = Line::from(vec![
        Span::styled(view.title.clone(), BOLD),
        Span::raw(format!(" · {phase} · up {up} · ")),
        Span::styled(word, style.patch(BOLD)),
    ]);
    let rate = |rate: Rate| rate.now.or(rate.mean).map_or("-".to_owned(), |r| format!("{r:.1}"));
    let parts = [
        format!("{} req/s", rate(view.completed)),
        format!("{} tok/s", rate(view.tokens)),
        format!("issued {}", view.counts.issued),
        format!("dropped {}", view.dropped_events),
        format!("{} in flight", view.in_flight),
        format!("errors {}", view.counts.failed),
    ];
    vec![first, Line::raw(fitted(&parts, width))]
}

/// B1: a request's life.
pub fn stages(view: &View, width: usize) -> Vec<Line<'static>> {
    let columns = Columns::fitting(width, true);
    let mut lines = vec![columns.head("REQUEST LIFECYCLE")];
    for stage in &view.stages {
        let mut line = columns.row(stage.words, stage.figures.as_ref());
        let (letter, style) = stage.share.map_or((' ', Style::new()), heat);
        let share = percent(stage.share);
        line.push_span(Span::styled(format!("{share:>8} {letter} "), style));
        line.push_span(Span::raw(stage.side.as_str()));
        lines.push(line);
    }
    lines
}

/// B2: whose time it was.
pub fn verdict(view: &View, width: usize) -> Vec<Line<'static>> {
    let Some(verdict) = &view.verdict else {
        return vec![Line::styled("VERDICT  no request has completed in the measured phase", BOLD)];
    };
    let share = |whose: &str, share: f64| format!("{whose} {}", percent(Some(share)));
    let shares = [
        share("VERDICT: client", verdict.client),
        share("server", verdict.server),
        share("network", verdict.network),
    ];
    let shares = fitted(&shares, width);
    let mut lines = vec![Line::styled(shares, BOLD), bar(verdict, width.saturating_sub(1).min(100))];
    let of_client = ["client's part:".to_owned(), share("backpressure", verdict.backpressure)];
    lines.push(Line::raw(of_client.join(" ")));
    let last = verdict.parts.len().saturating_sub(1);
    for (i, (_, words, share)) in verdict.parts.iter().enumerate() {
        let branch = if i == last { "└" } else { "├" };
        let (letter, style) = share.map_or((' ', DIM), heat);
        let text = format!(" {branch} {:>8} {letter} ", percent(*share));
        lines.push(Line::from(vec![Span::styled(text, style), Span::raw(*words)]));
    }
    lines
}

/// The one bar: B and C are the client's (B waiting), N the network's, S the server's.
fn bar(verdict: &Verdict, width: usize) -> Line<'static> {
    let shares = [
        ('B', verdict.backpressure, Color::Red),
        ('C', (verdict.client - verdict.backpressure).max(0.0), Color::Yellow),
        ('N', verdict.network, Color::Cyan),
        ('S', verdict.server, Color::Green),
    ];
    let cells = width.saturating_sub(2);
    let mut counts: Vec<usize> = shares.iter().map(|(_, share, _)| (share * cells as f64) as usize).collect();
    // Largest remainder, so that the bar is full.
    while counts.iter().sum::<usize>() < cells {
        let rest = |i: usize| shares[i].1 * cells as f64 - counts[i] as f64;
        let most = (0..shares.len()).max_by(|&a, &b| rest(a).total_cmp(&rest(b)));
        most.into_iter().for_each(|i| counts[i] += 1);
    }
    let mut spans = vec![Span::raw("[")];
    for ((letter, _, colour), count) in shares.iter().zip(counts) {
        spans.push(Span::styled(letter.to_string().repeat(count), Style::new().fg(*colour)));
    }
    spans.push(Span::raw("]"));
    Line::from(spans)
}

/// B3: the load.
pub fn load(view: &View, width: usize) -> Vec<Line<'static>> {
    let c = &view.counts;
    let counts = [
        format!("issued {}", c.issued),
        format!("completed {}", c.completed),
        format!("errors {}", c.failed),
        format!("incomplete {}", c.incomplete),
    ];
    let both = |what: &str, rate: Rate| {
        let part = |r: Option<f64>, word| r.map(|r| format!("{r:.1}{word}"));
        let known: Vec<String> =
            [part(rate.now, " now"), part(rate.mean, " mean")].into_iter().flatten().collect();
        format!("{what} {}", if known.is_empty() { "-".to_owned() } else { known.join(", ") })
    };
    let columns = Columns::fitting(width, false);
    let mut lines = vec![Line::styled("LOAD: all requests, measured phase", BOLD)];
    lines.push(Line::raw(fitted(&counts, width)));
    for (what, rate) in [("issued/s", view.issued), ("completed/s", view.completed), ("tok/s", view.tokens)] {
        lines.push(Line::raw(both(what, rate)));
    }
    lines.push(columns.head("LATENCY of completed"));
    lines.extend(view.latencies.iter().map(|(name, figures)| columns.row(name, figures.as_ref())));
    lines
}

/// B4: how late threads were; as many rows as asked.
pub fn lag(view: &View, width: usize, rows: usize) -> Vec<Line<'static>> {
    let none = || "-".to_owned();
    let parts = [
        format!("fleet p99 {}", view.fleet_p99_ns.map_or_else(none, span)),
        format!("hot workers {} of {} (p99 >= 5 ms)", view.hot, view.worker_count),
        format!("TCP connections {}", view.connections.map_or_else(none, |n| n.to_string())),
    ];
    let columns = Columns::fitting(width, false);
    let head = Line::styled("SCHEDULER LAG, worst first", BOLD);
    let mut lines = vec![head, Line::raw(fitted(&parts, width)), columns.head("thread")];
    let of = |worker: &Worker| {
        let what = worker.shard.map_or("control".to_owned(), |n| format!("shard {n}"));
        let mut line = columns.row(&format!("{} {what}", worker.agent), Some(&worker.figures));
        let (letter, style) = match worker.figures.p99_ns {
            HOT_NS.. => ('@', Style::new().fg(Color::Red)),
            1_000_000.. => ('+', Style::new().fg(Color::Yellow)),
            _ => ('.', Style::new().fg(Color::Green)),
        };
        line.push_span(Span::styled(format!(" {letter}"), style));
        line
    };
    // The worst control threads, at most a few: the workers are what carries the load.
    let shown = view.control.iter().take(3).chain(&view.workers);
    lines.extend(shown.take(rows).map(of));
    lines
}

/// B5: what the view is worth.
pub fn honesty(view: &View) -> Vec<Line<'static>> {
    let agents = format!(
        "{} agents told of this level, {} silent, {} with their last word",
        view.agents, view.silent, view.finals
    );
    let mut lines = vec![Line::styled("WHAT THIS VIEW IS WORTH", BOLD)];
    for text in [
        agents,
        "warm-up and drain are in no figure; counts are of all requests".to_owned(),
        format!("{} events dropped: in the counts, but in no stage", view.dropped_events),
        format!("{} stages out of order shown as 0, {} unreadable", view.impossible, view.unreadable),
        LEGEND.to_owned(),
    ] {
        lines.push(Line::raw(text));
    }
    lines
}

/// Grades a share of E2E.
fn heat(share: f64) -> (char, Style) {
    let colour = |colour| Style::new().fg(colour);
    match share {
        s if s < 0.01 => ('.', DIM),
        s if s < 0.05 => ('-', colour(Color::Green)),
        s if s < 0.2 => ('+', colour(Color::Cyan)),
        s if s < 0.5 => ('#', colour(Color::Yellow)),
        _ => ('@', colour(Color::Red)),
    }
}

/// The figures' columns that a width holds: percentiles stay longest.
struct Columns {
    name: usize,
    shown: Vec<(&'static str, Cell)>,
    /// Whether share, heat and side follow.
    more: bool,
}

/// What a column shows of a distribution.
type Cell = fn(&Figures) -> String;

const COLUMN: usize = 7;
/// Share, letter and side.
const MORE: usize = 18;

impl Columns {
    fn fitting(width: usize, more: bool) -> Self {
        // Name, rank of staying, cell.
        let all: [(&'static str, u8, Cell); 6] = [
            ("N", 3, |f| count(f.n)),
            ("avg", 2, |f| span(f.mean_ns as u64)),
            ("min", 0, |f| span(f.min_ns)),
            ("p50", 5, |f| stepped(f.p50_ns)),
            ("p99", 4, |f| stepped(f.p99_ns)),
            ("max", 1, |f| span(f.max_ns)),
        ];
        let tail = if more { MORE } else { 2 };
        let name = if width >= 76 { 20 } else { 12 };
        let room = width.saturating_sub(tail + name) / COLUMN;
        let mut shown = all.to_vec();
        while shown.len() > room.max(1) {
            let least = (0..shown.len()).min_by_key(|&i| shown[i].1).unwrap_or(0);
            shown.remove(least);
        }
        let shown: Vec<_> = shown.into_iter().map(|(title, _, cell)| (title, cell)).collect();
        let spare = width.saturating_sub(tail + name + shown.len() * COLUMN);
        Columns { name: name + spare.min(12), shown, more }
    }

    fn head(&self, title: &str) -> Line<'static> {
        let mut text = self.named(title);
        for (title, _) in &self.shown {
            text.push_str(&format!("{title:>COLUMN$}"));
        }
        if self.more {
            text.push_str("   % E2E");
        }
        Line::styled(text, BOLD)
    }

    fn row(&self, name: &str, figures: Option<&Figures>) -> Line<'static> {
        let mut text = self.named(name);
        for (_, cell) in &self.shown {
            let cell = figures.map_or("-".to_owned(), cell);
            text.push_str(&format!("{cell:>COLUMN$}"));
        }
        Line::raw(text)
    }

    fn named(&self, name: &str) -> String {
        let width = self.name;
        let cut: String = name.chars().take(width).collect();
        format!("{cut:<width$}")
    }
}

/// As many parts as a width holds.
fn fitted(parts: &[String], width: usize) -> String {
    let mut line = String::new();
    for part in parts {
        let gap = if line.is_empty() { "" } else { " · " };
        if line.chars().count() + gap.chars().count() + part.chars().count() > width {
            break;
        }
        line.push_str(gap);
        line.push_str(part);
    }
    line
}

/// A share in percent, three digits; `-` where it is not known.
pub fn percent(share: Option<f64>) -> String {
    match share.map(|share| share * 100.0) {
        None => "-".to_owned(),
        Some(p) if p > 0.0 && p < 0.01 => "<0.01 %".to_owned(),
        Some(p) if p < 9.995 => format!("{p:.2} %"),
        Some(p) => format!("{p:.1} %"),
    }
}

/// A duration in at most six columns.
pub fn span(ns: u64) -> String {
    let (value, unit) = match ns {
        0..1_000 => return format!("{ns}ns"),
        1_000..1_000_000 => (ns as f64 / 1e3, "µs"),
        1_000_000..1_000_000_000 => (ns as f64 / 1e6, "ms"),
        _ => (ns as f64 / 1e9, "s"),
    };
    match value {
        v if v < 9.995 => format!("{v:.2}{unit}"),
        v if v < 99.95 => format!("{v:.1}{unit}"),
        v => format!("{v:.0}{unit}"),
    }
}

/// A percentile comes from a histogram, which tells nothing apart below 1 µs.
fn stepped(ns: u64) -> String {
    if ns < LOWEST_NS { "<1µs".to_owned() } else { span(ns) }
}

fn count(n: u64) -> String {
    match n {
        0..1_000_000 => n.to_string(),
        1_000_000..1_000_000_000 => format!("{:.2}M", n as f64 / 1e6),
        _ => format!("{:.1}G", n as f64 / 1e9),
    }
}

fn clock(ns: i64) -> String {
    let s = ns.max(0) / 1_000_000_000;
    format!("{}:{:02}:{:02}", s / 3_600, s / 60 % 60, s % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dashboard::model::tests::{message, model, tell, view};

    fn text(lines: &[Line<'_>]) -> Vec<String> {
        lines.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn durations_and_shares_keep_three_digits_in_six_columns() {
        let spans = [0, 999, 1_234, 999_600, 12_345_678, 724_000_000, 3_600_000_000_000].map(span);
        assert_eq!(spans, ["0ns", "999ns", "1.23µs", "1000µs", "12.3ms", "724ms", "3600s"]);
        let shares = [Some(0.0), Some(0.00001), Some(0.0123), Some(0.99), Some(1.0), None].map(percent);
        assert_eq!(shares, ["0.00 %", "<0.01 %", "1.23 %", "99.0 %", "100.0 %", "-"]);
    }

    #[test]
    fn every_stage_says_whose_it_is_and_no_line_is_wider_than_the_terminal() {
        let mut model = model();
        tell(&mut model, 105_000_000_000, 1, message(1, 10, false));
        let view = view(&model, 105_000_000_000);
        for width in [40, 80, 120] {
            let lines =
                [stages(&view, width), verdict(&view, width), load(&view, width), lag(&view, width, 16)];
            let wide = lines.iter().flatten().map(Line::width).max();
            assert!(wide <= Some(width), "{width}: {wide:?}");
        }
        let lines = text(&stages(&view, 80));
        assert!(lines.iter().any(|l| l.starts_with("headers received") && l.ends_with("30.0 % # server")));
        assert!(lines.iter().any(|l| l.starts_with("payload written") && l.ends_with("client")));
        assert!(lines.iter().any(|l| l.starts_with("connection new") && l.contains("  - ")), "{lines:?}");
        let verdict = text(&verdict(&view, 80));
        assert!(verdict[0].contains("client 5.00 % · server 95.0 % · network 0.00 %"), "{verdict:?}");
        let cells = |letter| verdict[1].matches(letter).count();
        assert_eq!((cells('B') + cells('C'), cells('N'), cells('S')), (4, 0, 73), "{verdict:?}");
        assert!(verdict.iter().any(|l| l.contains(" - ") && l.ends_with("SSE decode")), "{verdict:?}");
    }
}
