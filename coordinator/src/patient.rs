//! A writer that waits for nobody: bytes go to a thread of their own, and what finds no room there is lost and counted.
//! A terminal that is stopped or gone must not hold up the run.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// Writes that wait.
const WAITING: usize = 256;
/// At the end, how long the thread gets for what waits.
const PATIENCE: Duration = Duration::from_secs(2);

/// The writer; each `flush` hands on what was written since the last one.
#[derive(Debug)]
pub(crate) struct Patient {
    out: SyncSender<Job>,
    line: Vec<u8>,
    lost: u64,
}

#[derive(Debug)]
enum Job {
    Write(Vec<u8>),
    /// Answered once all before it is written.
    Mark(SyncSender<()>),
}

impl Patient {
    /// Over a writer that may block.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(crate) fn over(to: impl Write + Send + 'static) -> io::Result<Self> {
        let (out, jobs) = sync_channel(WAITING);
        std::thread::Builder::new().name("display".to_owned()).spawn(move || write(to, &jobs))?;
        Ok(Self { out, line: Vec::new(), lost: 0 })
    }

    fn told_lost(&mut self) -> Vec<u8> {
        match std::mem::take(&mut self.lost) {
            0 => Vec::new(),
            n => format!("\n({n} lines found no room here)\n").into_bytes(),
        }
    }
}

fn write(mut to: impl Write, jobs: &Receiver<Job>) {
    for job in jobs {
        // A closed terminal is no error of the run.
        match job {
            Job::Write(bytes) => drop(to.write_all(&bytes).and_then(|()| to.flush())),
            Job::Mark(done) => drop(done.try_send(())),
        }
    }
}

impl Write for Patient {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let lost = self.lost;
        let mut bytes = self.told_lost();
        bytes.append(&mut self.line);
        if self.out.try_send(Job::Write(bytes)).is_err() {
            self.lost = lost + 1;
        }
        Ok(())
    }
}

impl Drop for Patient {
    fn drop(&mut self) {
        let _full = self.flush();
        let (done, written) = sync_channel(1);
        if self.out.try_send(Job::Mark(done)).is_ok() {
            let _stuck = written.recv_timeout(PATIENCE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Slow(Arc<Mutex<Vec<u8>>>);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stopped_terminal_holds_up_nobody_and_tells_what_it_missed() {
        let to = Slow::default();
        let stopped = to.0.clone();
        let mut out = Patient::over(to.clone()).unwrap();
        let held = stopped.lock().unwrap();
        // The thread is stuck in its first write: as many fit, and all of this returns.
        for n in 0..2 * WAITING {
            writeln!(out, "{n}").and_then(|()| out.flush()).unwrap();
        }
        assert!(out.lost >= (WAITING - 2) as u64, "{}", out.lost);
        drop(held);
        while out.lost > 0 {
            std::thread::sleep(Duration::from_millis(5));
            writeln!(out, "end").and_then(|()| out.flush()).unwrap();
        }
        drop(out);
        let text = String::from_utf8(to.0.lock().unwrap().clone()).unwrap();
        assert!(text.starts_with("0\n1\n") && text.contains("lines found no room here)\n"), "{text}");
        assert!(text.ends_with("end\n"));
    }
}
