//! The limits of one request: its own time, and the server's longest silence. Told by the runtime's timers, which are looked
//! at only when something else than a read woke the stream: at a thousand streams that is one look a second each, not one
//! for every token.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tailcliff_proto::clock::{HostClock, RawNs};
use tokio::time::{Instant, Sleep, sleep};

use crate::failure::{ErrorKind, Failure};
use crate::socket::Stamps;
use crate::target::Target;

/// How much nearer than the timer's end a read may come and be passed over: timers and stamps have different clocks, which
/// part by less than this much and a thousandth.
const MARGIN_NS: i64 = 1_000_000_000;

/// Ready, with the failure, when a limit is passed.
#[derive(Debug)]
pub(crate) struct Limits {
    stamps: Arc<Stamps>,
    begun: RawNs,
    request: Duration,
    read: Option<Duration>,
    timer: Pin<Box<Sleep>>,
    /// Before this a read needs no look at the timer, ns RAW.
    carefree_until: RawNs,
    latest_read: Option<RawNs>,
    waker: Option<Waker>,
}

impl Limits {
    pub(crate) fn new(target: &Target, stamps: Arc<Stamps>) -> Limits {
        let (request, read) = (target.request_timeout(), target.read_timeout());
        let begun = HostClock.now();
        let first = read.map_or(request, |read| read.min(request));
        Limits {
            stamps,
            begun,
            request,
            read,
            timer: Box::pin(sleep(first)),
            carefree_until: carefree(begun, first),
            latest_read: None,
            waker: None,
        }
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Failure> {
        let read_at = self.stamps.read_at();
        let has_read = read_at != std::mem::replace(&mut self.latest_read, read_at);
        let is_registered = self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if has_read && is_registered && read_at < Some(self.carefree_until) {
            return Poll::Pending;
        }
        if !is_registered {
            self.waker = Some(cx.waker().clone());
        }
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let now = HostClock.now();
            match self.left(now) {
                Err(failure) => return Poll::Ready(failure),
                Ok(left) => {
                    // Whole milliseconds is all that timers know.
                    let left = left.max(Duration::from_millis(1));
                    self.carefree_until = carefree(now, left);
                    self.timer.as_mut().reset(Instant::now() + left);
                }
            }
        }
    }

    /// Time until the next limit.
    fn left(&self, now: RawNs) -> Result<Duration, Failure> {
        let since = |from: RawNs| Duration::from_nanos((now - from).max(0).unsigned_abs());
        let of_request = self.request.checked_sub(since(self.begun)).filter(|left| !left.is_zero());
        let Some(mut left) = of_request else {
            let detail = format!("the reply was not complete after {:?}", self.request);
            return Err(Failure::new(ErrorKind::Timeout, detail));
        };
        if let Some(read) = self.read {
            // Before the request is sent it is not the server that is silent.
            let heard = self.stamps.read_at().or(self.stamps.sent_at()).unwrap_or(now);
            let Some(of_read) = read.checked_sub(since(heard)).filter(|left| !left.is_zero()) else {
                let detail = format!("the server was silent for {read:?}");
                return Err(Failure::new(ErrorKind::ReadTimeout, detail));
            };
            left = left.min(of_read);
        }
        Ok(left)
    }
}

fn carefree(now: RawNs, left: Duration) -> RawNs {
    let left = i64::try_from(left.as_nanos()).unwrap_or(i64::MAX);
    now.saturating_add(left - left / 1000 - MARGIN_NS)
}
