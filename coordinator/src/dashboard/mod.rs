//! The live view of trace mode. The owner of the run only puts events into the [`Model`]; a thread of its own looks at it,
//! draws, and reads keys, so that a terminal that is slow, stopped or gone holds up nothing but itself.

pub mod draw;
pub mod lines;
pub mod model;
pub mod plain;
pub mod terminal;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ratatui_core::terminal::Terminal;
use tailcliff_proto::clock::HostClock;

use crate::trace::Trace;
use draw::{Choice, PAGES};
use model::{Model, View};
use terminal::{Key, Screen};

/// How long keys are waited for between two looks at the model, ms.
const LOOK_MS: u16 = 100;
/// Between two frames when nothing was told and no key pressed, ns.
const FRAME_NS: i64 = 500_000_000;
/// From one wiping of the screen to the next, ns.
const CLEAR_NS: i64 = 5_000_000_000;
/// A drawing thread that does not end in this time is left behind: its terminal takes nothing.
const PATIENCE: Duration = Duration::from_secs(2);

/// The model, as the run and the drawing thread share it.
#[derive(Clone, Debug)]
pub struct Shared(Arc<Mutex<Model>>);

/// The drawing thread.
#[derive(Debug)]
pub struct Dashboard {
    stop: Arc<AtomicBool>,
    ended: Receiver<()>,
}

impl Shared {
    /// A model of a run that begins now.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Model::new(HostClock.now()))))
    }

    fn lock(&self) -> MutexGuard<'_, Model> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts an event in.
    pub fn take(&self, event: model::Event) {
        self.lock().take(HostClock.now(), event);
    }

    /// The view as it is now.
    pub fn view(&self) -> View {
        let snapshot = self.lock().snapshot();
        snapshot.view(HostClock.now(), &snapshot.trace())
    }
}

impl Default for Shared {
    fn default() -> Self {
        Self::new()
    }
}

impl Dashboard {
    /// Takes the terminal and starts the thread.
    ///
    /// # Errors
    /// When the terminal or the thread cannot be had.
    pub fn open(model: Shared) -> io::Result<Self> {
        // As https://no-color.org has it: set and not empty.
        let colour = std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty());
        let screen = terminal::enter()?;
        let stop = Arc::new(AtomicBool::new(false));
        let (alive, ended) = sync_channel(0);
        let told = stop.clone();
        let thread = std::thread::Builder::new().name("dashboard".to_owned()).spawn(move || {
            // Any error is a terminal that is gone: the run goes on.
            let _gone =
                Painter::new(model, screen, colour).and_then(|mut painter| painter.paint_until(&told));
            terminal::restore();
            drop(alive);
        });
        thread.inspect_err(|_| terminal::restore())?;
        Ok(Self { stop, ended })
    }

    /// A person closed it, or its terminal is gone.
    pub fn is_closed(&self) -> bool {
        matches!(self.ended.recv_timeout(Duration::ZERO), Err(RecvTimeoutError::Disconnected))
    }
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if self.ended.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            terminal::restore();
        }
    }
}

struct Painter {
    model: Shared,
    terminal: Terminal<Screen>,
    colour: bool,
    choice: Choice,
    trace: (u64, Trace),
    painted_ns: i64,
    cleared_ns: i64,
    size: ratatui_core::layout::Size,
}

impl Painter {
    fn new(model: Shared, screen: Screen, colour: bool) -> io::Result<Self> {
        let terminal = Terminal::new(screen)?;
        let size = terminal.size()?;
        let trace = (u64::MAX, Trace::default());
        Ok(Self {
            model,
            terminal,
            colour,
            choice: Choice::default(),
            trace,
            painted_ns: 0,
            cleared_ns: 0,
            size,
        })
    }

    /// Until told to stop, or a person leaves. Somebody else may have given the terminal back: then it is not ours.
    fn paint_until(&mut self, stop: &AtomicBool) -> io::Result<()> {
        while !stop.load(Ordering::Relaxed) && terminal::is_entered() {
            let pressed = self.terminal.backend_mut().keys(LOOK_MS)?;
            for key in &pressed {
                if *key == Key::Char(b'q') {
                    return Ok(());
                }
                self.choice = chosen(self.choice, *key);
            }
            self.paint(!pressed.is_empty())?;
        }
        Ok(())
    }

    fn paint(&mut self, pressed: bool) -> io::Result<()> {
        let snapshot = self.model.lock().snapshot();
        let now = HostClock.now();
        let is_new = snapshot.version != self.trace.0;
        let size = self.terminal.size()?;
        let resized = std::mem::replace(&mut self.size, size) != size;
        if !is_new && !pressed && !resized && now - self.painted_ns < FRAME_NS {
            return Ok(());
        }
        if is_new {
            self.trace = (snapshot.version, snapshot.trace());
        }
        // Whatever else wrote here meanwhile, such as a line that was late, must not stay.
        if !pressed && now - self.cleared_ns >= CLEAR_NS {
            self.cleared_ns = now;
            self.terminal.clear()?;
        }
        self.painted_ns = now;
        let view = snapshot.view(now, &self.trace.1);
        let (choice, colour) = (self.choice, self.colour);
        self.terminal.draw(|frame| draw::draw(&view, choice, colour, frame))?;
        Ok(())
    }
}

fn chosen(choice: Choice, key: Key) -> Choice {
    let page = |page| Choice { page, scroll: 0 };
    match key {
        Key::Char(digit @ b'1'..=b'9') if usize::from(digit - b'1') < PAGES.len() => {
            page(usize::from(digit - b'1'))
        }
        Key::Char(b'\t') => page((choice.page + 1) % PAGES.len()),
        Key::Down | Key::Char(b'j') => Choice { scroll: choice.scroll.saturating_add(1), ..choice },
        Key::Up | Key::Char(b'k') => Choice { scroll: choice.scroll.saturating_sub(1), ..choice },
        Key::Char(_) => choice,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_choose_a_page_and_scroll_it() {
        let press = |keys: &[u8]| keys.iter().fold(Choice::default(), |c, &key| chosen(c, Key::Char(key)));
        assert_eq!(press(b"3"), Choice { page: 2, scroll: 0 });
        assert_eq!(press(b"9x"), Choice::default());
        assert_eq!(press(b"\t\t\t\t"), Choice::default());
        assert_eq!(press(b"jjk"), Choice { page: 0, scroll: 1 });
        assert_eq!(press(b"kjj2"), Choice { page: 1, scroll: 0 });
    }
}
