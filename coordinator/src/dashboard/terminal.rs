//! The terminal while the dashboard has it: its modes, its alternate screen, and a backend that writes cells.
//!
//! Signals stay on, so that Ctrl-C is the same SIGINT as ever; only lines and echo are off, and the keys that would stop
//! the process (Ctrl-Z) or the output (Ctrl-S). Whoever ends the process calls [`restore`] first, which also a panic
//! does. Keys are read from the terminal itself: standard input may be anything.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{
    InputFlags, LocalFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr, tcsetattr,
};
use nix::unistd::{getpgrp, tcgetpgrp};
use ratatui_core::backend::{Backend, ClearType, WindowSize};
use ratatui_core::buffer::Cell;
use ratatui_core::layout::{Position, Size};
use ratatui_core::style::{Color, Modifier};

/// Alternate screen, no cursor, cleared.
const ENTER: &[u8] = b"\x1b[?1049h\x1b[?25l\x1b[2J";
const LEAVE: &[u8] = b"\x1b[0m\x1b[?25h\x1b[?1049l";
/// How long a terminal that takes nothing is waited for when it is left, ms.
const LAST_WORD_MS: u16 = 200;
/// A character that stands for none.
const DISABLED: u8 = 0;

/// What was there before; `None` while nobody has the terminal.
static BEFORE: Mutex<Option<(File, Termios)>> = Mutex::new(None);

/// Takes the terminal.
///
/// # Errors
/// When there is none, or this process is not in its foreground: touching its modes would stop us.
pub fn enter() -> io::Result<Screen> {
    let tty = OpenOptions::new().read(true).write(true).open("/dev/tty")?;
    if tcgetpgrp(&tty)? != getpgrp() {
        return Err(io::Error::other("not in the foreground of the terminal"));
    }
    let before = tcgetattr(&tty)?;
    let mut modes = before.clone();
    modes.local_flags.remove(LocalFlags::ICANON | LocalFlags::ECHO);
    modes.input_flags.remove(InputFlags::IXON);
    for (key, value) in [
        (SpecialCharacterIndices::VSUSP, DISABLED),
        (SpecialCharacterIndices::VQUIT, DISABLED),
        (SpecialCharacterIndices::VMIN, 1),
        (SpecialCharacterIndices::VTIME, 0),
    ] {
        modes.control_chars[key as usize] = value;
    }
    restore_on_panic();
    *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some((tty.try_clone()?, before));
    tcsetattr(&tty, SetArg::TCSANOW, &modes)?;
    let mut screen = Screen { tty, out: ENTER.to_vec(), pen: Pen::default(), at: None };
    Backend::flush(&mut screen)?;
    Ok(screen)
}

/// Gives the terminal back as it was; does nothing when nobody has it. A terminal that takes nothing more is not waited
/// for.
pub fn restore() {
    let Some((mut tty, before)) = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take() else {
        return;
    };
    if is_ready(tty.as_fd(), PollFlags::POLLOUT, LAST_WORD_MS) {
        let _closed = tty.write_all(LEAVE);
    }
    let _closed = tcsetattr(&tty, SetArg::TCSANOW, &before);
}

/// Somebody has the terminal.
pub fn is_entered() -> bool {
    BEFORE.lock().unwrap_or_else(PoisonError::into_inner).is_some()
}

fn restore_on_panic() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            usual(panic);
        }));
    });
}

fn is_ready(fd: BorrowedFd<'_>, flags: PollFlags, ms: u16) -> bool {
    let mut fds = [PollFd::new(fd, flags)];
    let ready = poll(&mut fds, PollTimeout::from(ms)).is_ok_and(|n| n > 0);
    ready && fds[0].revents().is_some_and(|got| got.intersects(flags))
}

/// A key that means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// A character.
    Char(u8),
    /// Scroll by one line.
    Up,
    /// Scroll by one line.
    Down,
}

/// The terminal, taken.
#[derive(Debug)]
pub struct Screen {
    tty: File,
    out: Vec<u8>,
    pen: Pen,
    at: Option<(u16, u16)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Pen {
    fg: Color,
    modifier: Modifier,
}

impl Screen {
    /// Keys that come within `ms`.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn keys(&mut self, ms: u16) -> io::Result<Vec<Key>> {
        if !is_ready(self.tty.as_fd(), PollFlags::POLLIN | PollFlags::POLLHUP, ms) {
            return Ok(Vec::new());
        }
        let mut bytes = [0; 64];
        match self.tty.read(&mut bytes) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => Ok(parse(&bytes[..n])),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(Vec::new()),
            Err(e) => Err(e),
        }
    }
}

fn parse(mut bytes: &[u8]) -> Vec<Key> {
    let mut keys = Vec::new();
    loop {
        bytes = match bytes {
            [] => return keys,
            [0x1b, b'[' | b'O', b'A', rest @ ..] => {
                keys.push(Key::Up);
                rest
            }
            [0x1b, b'[' | b'O', b'B', rest @ ..] => {
                keys.push(Key::Down);
                rest
            }
            // Another sequence: all of what came with it.
            [0x1b, b'[' | b'O', ..] => return keys,
            [byte, rest @ ..] => {
                keys.push(Key::Char(*byte));
                rest
            }
        }
    }
}

impl Backend for Screen {
    type Error = io::Error;

    fn draw<'a, I>(&mut self, content: I) -> io::Result<()>
    where
        I: Iterator<Item = (u16, u16, &'a Cell)>,
    {
        for (x, y, cell) in content {
            if self.at != Some((x, y)) {
                write!(self.out, "\x1b[{};{}H", y + 1, x + 1)?;
            }
            let pen = Pen { fg: cell.fg, modifier: cell.modifier };
            if pen != self.pen {
                write!(self.out, "\x1b[{}m", sgr(pen))?;
                self.pen = pen;
            }
            self.out.extend_from_slice(cell.symbol().as_bytes());
            // Of characters of one column, which is all that is drawn here.
            self.at = cell.symbol().is_ascii().then_some((x + 1, y));
        }
        self.at = None;
        Ok(())
    }

    fn hide_cursor(&mut self) -> io::Result<()> {
        self.out.extend_from_slice(b"\x1b[?25l");
        Ok(())
    }

    fn show_cursor(&mut self) -> io::Result<()> {
        self.out.extend_from_slice(b"\x1b[?25h");
        Ok(())
    }

    fn get_cursor_position(&mut self) -> io::Result<Position> {
        Ok(Position::ORIGIN)
    }

    fn set_cursor_position<P: Into<Position>>(&mut self, position: P) -> io::Result<()> {
        let Position { x, y } = position.into();
        write!(self.out, "\x1b[{};{}H", y + 1, x + 1)
    }

    fn clear(&mut self) -> io::Result<()> {
        self.pen = Pen::default();
        self.out.extend_from_slice(b"\x1b[0m\x1b[2J");
        Ok(())
    }

    fn clear_region(&mut self, _: ClearType) -> io::Result<()> {
        self.clear()
    }

    fn size(&self) -> io::Result<Size> {
        // A terminal that does not tell is the smallest that all fits.
        let told = terminal_size::terminal_size_of(&self.tty);
        Ok(told.map_or(Size::new(80, 24), |(width, height)| Size::new(width.0, height.0)))
    }

    fn window_size(&mut self) -> io::Result<WindowSize> {
        Ok(WindowSize { columns_rows: self.size()?, pixels: Size::new(0, 0) })
    }

    fn flush(&mut self) -> io::Result<()> {
        let out = std::mem::take(&mut self.out);
        self.tty.write_all(&out)
    }
}

/// Of 16 colours, the eight that every terminal has and their bright ones.
fn sgr(pen: Pen) -> String {
    let mut codes = String::from("0");
    for (modifier, code) in [(Modifier::BOLD, ";1"), (Modifier::REVERSED, ";7")] {
        if pen.modifier.contains(modifier) {
            codes.push_str(code);
        }
    }
    let colours =
        [Color::Black, Color::Red, Color::Green, Color::Yellow, Color::Blue, Color::Magenta, Color::Cyan];
    if let Some(i) = colours.iter().position(|&colour| colour == pen.fg) {
        codes.push_str(&format!(";3{i}"));
    } else if pen.fg == Color::DarkGray {
        codes.push_str(";90");
    }
    codes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrows_are_keys_and_other_sequences_are_none() {
        assert_eq!(
            parse(b"q1\x1b[A\x1bOBj"),
            [Key::Char(b'q'), Key::Char(b'1'), Key::Up, Key::Down, Key::Char(b'j')]
        );
        assert_eq!(parse(b"\x1b[200~q"), []);
        assert_eq!(parse(b""), []);
    }

    #[test]
    fn pens_use_sixteen_colours() {
        assert_eq!(sgr(Pen::default()), "0");
        assert_eq!(sgr(Pen { fg: Color::Red, modifier: Modifier::BOLD }), "0;1;31");
        assert_eq!(sgr(Pen { fg: Color::DarkGray, modifier: Modifier::REVERSED }), "0;7;90");
    }

    #[test]
    fn without_a_terminal_taken_there_is_nothing_to_restore() {
        restore();
        assert!(!is_entered());
    }
}
