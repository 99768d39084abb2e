//! A view on a screen of any size: the header stays on top; a page is followed by the next ones as far as they fit.

use ratatui_core::layout::Rect;
use ratatui_core::style::{Color, Modifier, Style};
use ratatui_core::terminal::Frame;
use ratatui_core::text::{Line, Span, Text};

use super::lines;
use super::model::View;

/// Names of the pages, in order.
pub const PAGES: [&str; 4] = ["stages", "load", "lag", "messages"];

/// What a person chose to see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// Index into [`PAGES`].
    pub page: usize,
    /// Lines scrolled down.
    pub scroll: usize,
}

/// Draws a frame; without `colour` only bold remains.
pub fn draw(view: &View, choice: Choice, colour: bool, frame: &mut Frame<'_>) {
    let area = frame.area();
    let (width, height) = (usize::from(area.width), usize::from(area.height));
    let mut all = lines::header(view, width);
    let room = height.saturating_sub(all.len() + 1);
    all.push(keys(choice, width));
    let body = body(pages(view, width), choice.page, room);
    let scroll = choice.scroll.min(body.len().saturating_sub(room));
    all.extend(body.into_iter().skip(scroll).take(room));
    let mut text = Text::from(all);
    if !colour {
        text.lines.iter_mut().for_each(without_colour);
    }
    frame.render_widget(text, Rect { x: area.x, y: area.y, width: area.width, height: area.height });
}

/// The chosen page, and the ones after it as far as they fit whole; messages may be cut short.
fn body(pages: [Vec<Line<'static>>; 4], chosen: usize, room: usize) -> Vec<Line<'static>> {
    let last = pages.len() - 1;
    let mut pages = pages.into_iter().enumerate().skip(chosen.min(last));
    let mut body = pages.next().map(|(_, page)| page).unwrap_or_default();
    for (i, page) in pages {
        let least = if i == last { page.len().min(3) } else { page.len() };
        if body.len() + 1 + least > room {
            break;
        }
        body = joined(body, page);
    }
    body
}

fn pages(view: &View, width: usize) -> [Vec<Line<'static>>; 4] {
    let stages = joined(lines::stages(view, width), lines::verdict(view, width));
    let mut load = lines::load(view, width);
    load.extend(lines::honesty(view));
    let lag = lines::lag(view, width, usize::MAX);
    let title = Line::styled("MESSAGES, newest first", Style::new().add_modifier(Modifier::BOLD));
    let lines = view.lines.iter().rev().map(|line| Line::raw(line.clone()));
    [stages, load, lag, std::iter::once(title).chain(lines).collect()]
}

fn joined(mut above: Vec<Line<'static>>, below: Vec<Line<'static>>) -> Vec<Line<'static>> {
    above.push(Line::raw(""));
    above.extend(below);
    above
}

fn keys(choice: Choice, width: usize) -> Line<'static> {
    let mut spans = Vec::new();
    for (i, name) in PAGES.iter().enumerate() {
        let style = match i == choice.page {
            true => Style::new().add_modifier(Modifier::REVERSED),
            false => Style::new(),
        };
        spans.push(Span::styled(format!(" {} {name} ", i + 1), style));
    }
    let used: usize = spans.iter().map(Span::width).sum();
    let hints = ["  q: compact view, the run goes on", "  q: leave", ""];
    let hint = hints.iter().find(|hint| used + hint.len() <= width).copied().unwrap_or("");
    spans.push(Span::styled(hint, Style::new().fg(Color::DarkGray)));
    Line::from(spans)
}

fn without_colour(line: &mut Line<'_>) {
    line.style = plain(line.style);
    line.spans.iter_mut().for_each(|span| span.style = plain(span.style));
}

fn plain(style: Style) -> Style {
    Style { fg: None, bg: None, ..style }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dashboard::model::tests::{message, model, tell, view};
    use crate::trace::tests::lag;
    use ratatui_core::backend::TestBackend;
    use ratatui_core::terminal::Terminal;
    use tailcliff_proto::v1;

    fn seen() -> View {
        let mut model = model();
        let workers = (0..20).map(|i| lag(Some(i), u64::from(i))).chain([lag(None, 3)]).collect();
        let told = v1::Telemetry { workers, tcp_established: Some(64), ..message(1, 10, false) };
        tell(&mut model, 105_000_000_000, 1, told);
        model.take(105_000_000_000, crate::dashboard::model::Event::Line("agent a joined".to_owned()));
        view(&model, 105_000_000_000)
    }

    fn screen(width: u16, height: u16, choice: Choice) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(&seen(), choice, true, frame)).unwrap();
        let buffer = terminal.backend().buffer();
        let row = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
        (0..height).map(row).collect()
    }

    fn has(screen: &[String], what: &str) -> bool {
        screen.iter().any(|line| line.contains(what))
    }

    #[test]
    fn every_part_is_whole_on_a_page_of_80_by_24() {
        let page = |page| screen(80, 24, Choice { page, scroll: 0 });
        let stages = page(0);
        assert!(
            stages[0]
                .starts_with("level 2/5 · 64 streams · measuring · up 0:00:05 · degraded: 15 hot workers")
        );
        for part in
            ["tok/s", "issued 10", "dropped 0", "last chunk", "E2E", "% E2E", "VERDICT", "[", "final decode"]
        {
            assert!(has(&stages, part), "{part} in {stages:#?}");
        }
        for part in ["issued/s", "completed 10", "TTFT", "TPOT", "events dropped", "warm-up and drain"] {
            assert!(has(&page(1), part), "{part} in {:#?}", page(1));
        }
        for part in
            ["fleet p99", "hot workers 15 of 20", "TCP connections 64", "control", "shard 19", "shard 4 "]
        {
            assert!(has(&page(2), part), "{part} in {:#?}", page(2));
        }
        assert!(!has(&page(2), "shard 3 "), "the 16 worst");
        assert!(has(&page(3), "agent a joined"));
    }

    #[test]
    fn a_large_screen_shows_all_at_once() {
        let all = screen(120, 64, Choice::default());
        for part in ["VERDICT", "LOAD", "SCHEDULER LAG", "MESSAGES", "shard 19"] {
            assert!(has(&all, part), "{part} in {all:#?}");
        }
        let some = screen(120, 40, Choice::default());
        assert!(has(&some, "VERDICT") && has(&some, "LOAD") && !has(&some, "SCHEDULER LAG"), "{some:#?}");
    }

    #[test]
    fn a_small_screen_keeps_the_header_and_can_be_scrolled() {
        let top = screen(40, 10, Choice::default());
        assert!(
            top[0].starts_with("level 2/5 · 64 streams") && has(&top, "REQUEST") && !has(&top, "VERDICT")
        );
        let down = screen(40, 10, Choice { page: 0, scroll: 999 });
        assert!(down[0].starts_with("level 2/5") && has(&down, "final decode"), "{down:#?}");
        for (width, height) in [(1, 1), (3, 2), (20, 3), (0, 0)] {
            screen(width, height, Choice { page: 2, scroll: 5 });
        }
    }

    #[test]
    fn without_colour_nothing_is_lost_but_colour() {
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        terminal.draw(|frame| draw(&seen(), Choice::default(), false, frame)).unwrap();
        let cells = &terminal.backend().buffer().content;
        assert!(cells.iter().all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset));
        assert!(cells.iter().any(|cell| cell.modifier.contains(Modifier::BOLD)));
        assert!(cells.iter().any(|cell| cell.symbol() == "@"), "heat has letters");
    }
}
