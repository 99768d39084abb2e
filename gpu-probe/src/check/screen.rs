//! Where the check is shown: a terminal whose last lines are drawn anew, or anything else, which is appended to.

use std::io::{self, Write};

use super::text::{cut, wrapped};

/// Columns and rows where nobody tells.
const USUAL_COLUMNS: usize = 80;
const USUAL_ROWS: usize = 24;

/// An output that a reader may close early, as `head` does: that is no error.
pub(crate) struct Screen<'w> {
    out: &'w mut dyn Write,
    is_terminal: bool,
    /// Nothing is shown at all: standard output is for JSON alone.
    is_silent: bool,
    is_closed: bool,
    /// Lines at the end that are drawn anew.
    live: usize,
}

impl<'w> Screen<'w> {
    /// Over an output that is a terminal, or is not.
    pub(crate) fn new(out: &'w mut dyn Write, is_terminal: bool) -> Self {
        Self { out, is_terminal, is_silent: false, is_closed: false, live: 0 }
    }

    pub(super) fn silence(&mut self) {
        self.is_silent = true;
    }

    pub(super) fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// Nobody reads any more.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Lines that stay.
    ///
    /// # Errors
    /// When they cannot be written though somebody would read them.
    pub(super) fn say(&mut self, lines: &[String]) -> io::Result<()> {
        let columns = if self.is_terminal { columns() } else { usize::MAX };
        let text: String = lines.iter().map(|line| wrapped(line, columns)).collect();
        self.live = 0;
        self.put(&text)
    }

    /// Lines in place of those shown so last. Cut to the terminal's width: one that wraps would count as two.
    ///
    /// # Errors
    /// As [`Self::say`].
    pub(super) fn show(&mut self, lines: &[String]) -> io::Result<()> {
        let (columns, rows) = (columns(), rows());
        // What has scrolled away cannot be drawn over.
        let lines = &lines[..lines.len().min(rows - 1)];
        let up = if self.live > 0 { format!("\x1b[{}A", self.live) } else { String::new() };
        let text: String = lines.iter().map(|line| format!("\r{}\x1b[K\n", cut(line, columns))).collect();
        self.put(&format!("{up}{text}"))?;
        self.live = lines.len();
        Ok(())
    }

    /// What a script reads, even where nothing else is shown.
    ///
    /// # Errors
    /// As [`Self::say`].
    pub(super) fn answer(&mut self, text: &str) -> io::Result<()> {
        self.is_silent = false;
        self.put(text)
    }

    fn put(&mut self, text: &str) -> io::Result<()> {
        if self.is_silent || self.is_closed {
            return Ok(());
        }
        match self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.is_closed = true;
                Ok(())
            }
            done => done,
        }
    }
}

fn columns() -> usize {
    terminal_size::terminal_size().map_or(USUAL_COLUMNS, |(width, _)| usize::from(width.0)).max(1)
}

fn rows() -> usize {
    terminal_size::terminal_size().map_or(USUAL_ROWS, |(_, height)| usize::from(height.0)).max(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_left_is_no_error() {
        let mut out = Closed;
        let mut screen = Screen::new(&mut out, false);
        screen.say(&["one".to_owned()]).unwrap();
        assert!(screen.is_closed());
        screen.say(&["two".to_owned()]).unwrap();
    }

    #[test]
    fn live_lines_are_drawn_over_and_others_stay() {
        let mut out = Vec::new();
        let mut screen = Screen::new(&mut out, true);
        screen.say(&["head".to_owned()]).unwrap();
        screen.show(&["a".to_owned(), "b".to_owned()]).unwrap();
        screen.show(&["c".to_owned(), "d".to_owned()]).unwrap();
        screen.say(&["end".to_owned()]).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "head\n\ra\x1b[K\n\rb\x1b[K\n\x1b[2A\rc\x1b[K\n\rd\x1b[K\nend\n");
    }

    #[test]
    fn what_is_silenced_still_answers() {
        let mut out = Vec::new();
        let mut screen = Screen::new(&mut out, false);
        screen.silence();
        screen.say(&["one".to_owned()]).unwrap();
        screen.answer("{}\n").unwrap();
        assert_eq!(out, b"{}\n");
    }
}
