//! What the server's own record says of the one request that stalled: spans, stamps or its reply. It cuts a pause before the
//! first token into its parts, and of one in mid-stream it tells at times that the tokens had been made.

use crate::clock::Aligned;
use crate::inside::Told;
use crate::knee::duration;

use super::gaps::{Gap, Kind};
use super::is_sane;

/// A gap of the stream that is so many times its median is another pause.
const PAUSE: i64 = 3;

/// One request by its server's own record, ns.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Own {
    /// Which server.
    pub server: String,
    /// It waited for a place in the batch.
    pub queue_ns: Option<i64>,
    /// Its prompt was processed.
    pub prefill_ns: Option<i64>,
    /// From its first to its last token in the engine; of a pause in mid-stream to the end of its span where that is later:
    /// a token leaves only when the front end hands it out.
    pub decode_ns: Option<i64>,
    /// When the server was done with it, on the coordinator's clock.
    pub end: Option<Aligned>,
    /// Of a late first token: from our hands to the server's stamp of its arrival, and how far that may be off. The server's
    /// HTTP before that stamp is in it.
    pub up: Option<(i64, i64)>,
    /// From there to the first token, beyond queue and prefill: one clock's.
    pub front_ns: Option<i64>,
    /// From the server's first token to its arrival here, and how far that may be off. Its HTTP after the stamp is in it.
    pub down: Option<(i64, i64)>,
    /// Its record shows that it had made what came after the gap before half of the gap was over. Never `Some(false)`: totals
    /// and a span's end do not say when each token was sent, and tokens that were held back and then caught up leave both as
    /// they are.
    pub emitted: Option<bool>,
    /// A probe shares a clock, and so a host, with this agent: what lies between them is hardly a network.
    pub one_host: bool,
}

/// How the stalled stream came otherwise, by its agent's own clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace<'a> {
    /// From its first to its last chunk, ns.
    pub(super) span_ns: i64,
    pub(super) median_ns: Option<i64>,
    /// All gaps between its reads, ns.
    pub(super) gaps: &'a [i64],
    /// It ended as it should.
    pub(super) completed: bool,
}

impl Own {
    /// `handed` is when our own part ended, on the coordinator's clock.
    pub(super) fn of(told: Told, gap: &Gap, handed: Option<Aligned>, pace: Pace<'_>, one_host: bool) -> Self {
        let sane = |ns: Option<i64>| ns.filter(|ns| is_sane(*ns));
        let placed =
            |at: Option<Aligned>| at.filter(|at| is_sane(at.ns) && (0..=1 << 59).contains(&at.bound_ns));
        let (arrival, first) = (placed(told.arrival), placed(told.first_token));
        let mut own = Self {
            server: told.server,
            queue_ns: sane(told.queue_ns),
            prefill_ns: sane(told.prefill_ns),
            decode_ns: sane(told.decode_ns),
            end: placed(told.end),
            one_host,
            ..Self::default()
        };
        if gap.kind == Kind::Gap {
            let out = first.zip(own.end).map(|(first, end)| end.ns - first.ns);
            own.decode_ns = own.decode_ns.map(|ns| ns.max(out.unwrap_or(ns)));
            own.emitted = own.had_emitted(gap, pace).then_some(true);
            return own;
        }
        let between = |a: Aligned, b: Aligned| (b.ns - a.ns, a.bound_ns.saturating_add(b.bound_ns));
        let here = Aligned { ns: gap.to_ns, bound_ns: gap.bound_ns };
        own.up = handed.zip(arrival).map(|(sent, at)| between(sent, at));
        own.down = first.filter(|_| !gap.unended).map(|first| between(first, here));
        own.front_ns = arrival.zip(first).zip(own.queue_ns.zip(own.prefill_ns)).map(
            |((arrival, first), (queue, prefill))| {
                (first.ns - arrival.ns).saturating_sub(queue).saturating_sub(prefill)
            },
        );
        own
    }

    /// What came after the gap had been made before half of it was over. Where nothing came after it, nothing was held back
    /// that anybody saw.
    fn had_emitted(&self, gap: &Gap, pace: Pace<'_>) -> bool {
        if gap.unended {
            return false;
        }
        let length = gap.length_ns();
        let middle = gap.from_ns.saturating_add(length / 2);
        let latest = |end: Aligned| end.ns.saturating_add(end.bound_ns).saturating_add(gap.bound_ns);
        self.end.is_some_and(|end| latest(end) <= middle)
            || self
                .decode_ns
                .filter(|ns| pace.completed && *ns > 0)
                .is_some_and(|ns| pace.is_longer(ns, length))
    }

    /// Its numbers.
    pub(super) fn words(&self, gap: &Gap) -> String {
        let named = |name: &str, ns: Option<i64>| ns.map(|ns| format!("{name} {}", signed(ns)));
        let way = |name: &str, way: Option<(i64, i64)>| {
            way.map(|(ns, bound)| format!("{name} {} (± {})", signed(ns), signed(bound)))
        };
        let parts = match gap.kind {
            Kind::Ttft => [
                way("way up", self.up),
                named("front end", self.front_ns),
                named("queue", self.queue_ns),
                named("prefill", self.prefill_ns),
                way("way down", self.down),
            ],
            Kind::Gap => {
                let done = self.end.map(|end| gap.to_ns.saturating_sub(end.ns));
                let done = done
                    .filter(|ns| *ns > 0)
                    .map(|ns| format!("done {} before the end of the gap", signed(ns)));
                [done, named("first to last token", self.decode_ns), None, None, None]
            }
        };
        parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

impl Pace<'_> {
    /// The stream took longer here than in the engine, by half of the gap or more, and nothing else of it explains that:
    /// other pauses are taken off, and a stream that came slower all along (a full link) shows in its median.
    fn is_longer(self, decode_ns: i64, length: i64) -> bool {
        // All of the answer was made in less than half of the gap: no need to look at the rest.
        if decode_ns.saturating_mul(2) <= length {
            return true;
        }
        let Some(median) = self.median_ns.filter(|ns| *ns > 0) else { return false };
        let pauses: i64 = self.gaps.iter().filter(|ns| **ns > PAUSE * median).map(|ns| ns - median).sum();
        let others = pauses.saturating_sub(length - median).max(0);
        let steps = i64::try_from(self.gaps.len().saturating_sub(1)).unwrap_or(i64::MAX);
        let in_step = median.saturating_mul(steps) <= decode_ns.saturating_add(decode_ns / 20);
        let beyond = self.span_ns.saturating_sub(decode_ns).saturating_sub(others);
        in_step && beyond.saturating_mul(2) >= length
    }
}

/// A part may come out below 0, and is shown so.
fn signed(ns: i64) -> String {
    let sign = if ns < 0 { "-" } else { "" };
    format!("{sign}{}", duration(ns.unsigned_abs()))
}
