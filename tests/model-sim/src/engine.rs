//! The model of a batching inference engine, pure and in virtual time: no clock, no I/O, no randomness.
//!
//! Requests wait in one FIFO queue. A step begins as soon as there is work: it first admits requests from the head of
//! the queue while a sequence slot and their whole KV need (prompt + max tokens) fit, never letting one overtake. The
//! step lasts `base + per_seq · batch`, plus the prompts that it admitted divided by the prefill rate (prefill without
//! chunking: it delays everyone in the step). At its end every sequence of the batch emits one token; the first token
//! of a request thus comes at the end of the step that admitted it. Finished sequences leave and the next step begins
//! at that same instant; a request that arrives exactly then still joins it.
//!
//! By its [`Nature`] it may admit requests by their prompts alone and put the last one out when the KV cache overflows,
//! and its GPU may have a limit on its power.
//!
//! Causes of stalls ([`Cause`]) take hold where a step would begin: the engine stands still, computes without emitting,
//! puts one sequence out of its batch, or runs slower for a while.

use std::collections::VecDeque;

pub use cause::{Activity, Cause, Hit};
use cause::{Armed, Causes};
pub use nature::{Admission, Nature, PowerCap};

mod cause;
mod nature;

/// What the engine can do; its capacity and its knee follow from these.
#[derive(Clone, Debug, PartialEq)]
pub struct Params {
    /// Prompt tokens processed per second; finite and ≥ 1.
    pub prefill_tokens_per_s: f64,
    /// Cost of a step whatever its batch, ns; from 1 ns to an hour.
    pub step_base_ns: i64,
    /// Further cost of a step for each sequence in its batch, ns; from 0 to an hour.
    pub step_per_seq_ns: i64,
    /// Most sequences in a batch; 1 ..= 65,536.
    pub max_num_seqs: usize,
    /// Tokens that the KV cache holds; a request reserves prompt + max tokens from admission to its last
    /// token. 1 ..= 10⁹.
    pub kv_tokens: u64,
    /// Most requests waiting beyond those that the sequence slots hold: one that finds `max_num_seqs + max_queue`
    /// others in the engine is refused (503). `None`: no limit.
    pub max_queue: Option<usize>,
}

impl Default for Params {
    /// A mid-size model on one GPU: ~8 ms steps, 32 sequences, 20,000 prompt tokens per second.
    fn default() -> Self {
        Self {
            prefill_tokens_per_s: 20_000.0,
            step_base_ns: 8_000_000,
            step_per_seq_ns: 100_000,
            max_num_seqs: 32,
            kv_tokens: 200_000,
            max_queue: Some(4096),
        }
    }
}

impl Params {
    /// Time to prefill `tokens` prompt tokens, ns.
    pub fn prefill_ns(&self, tokens: u64) -> i64 {
        (tokens as f64 / self.prefill_tokens_per_s * 1e9).round() as i64
    }

    /// One sentence saying which parameter makes no sense, if one does.
    ///
    /// # Errors
    /// A parameter outside the range that its field states.
    pub fn check(&self) -> Result<(), BadParams> {
        let rate_ok = self.prefill_tokens_per_s.is_finite() && self.prefill_tokens_per_s >= 1.0;
        // Bounds chosen so that no sum of step times can overflow the nanoseconds of an i64.
        let hour = 3_600_000_000_000;
        let problem = match () {
            () if !rate_ok => "the prefill rate must be at least 1 token/s",
            () if !(1..=hour).contains(&self.step_base_ns) => "a step must cost between 1 ns and an hour",
            () if !(0..=hour).contains(&self.step_per_seq_ns) => {
                "a sequence must cost between 0 ns and an hour"
            }
            () if !(1..=65_536).contains(&self.max_num_seqs) => "a batch must hold 1 to 65,536 sequences",
            () if !(1..=1_000_000_000).contains(&self.kv_tokens) => "the KV budget must be 1 to 10⁹ tokens",
            () => return Ok(()),
        };
        Err(BadParams(problem))
    }
}

/// A parameter outside its range, in words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to accept the engine's parameters: {0}")]
pub struct BadParams(&'static str);

/// A request as the engine sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Unique among the requests in the engine.
    pub id: u64,
    /// Tokens to prefill.
    pub prompt_tokens: u64,
    /// Tokens it may generate: what KV is reserved for.
    pub max_tokens: u64,
    /// Tokens it will generate, 1 ..= `max_tokens` (fewer when an end-of-sequence token comes).
    pub output_tokens: u64,
}

impl Request {
    /// A request that generates all the tokens it asks for.
    pub fn new(id: u64, prompt_tokens: u64, max_tokens: u64) -> Self {
        Self { id, prompt_tokens, max_tokens, output_tokens: max_tokens }
    }

    fn kv(&self) -> u64 {
        self.prompt_tokens.saturating_add(self.max_tokens)
    }
}

/// One token leaving the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Emission {
    /// When, ns on the caller's clock.
    pub at: i64,
    /// Whose.
    pub id: u64,
    /// 0 for the first token.
    pub token_index: u64,
    /// No more will come.
    pub last: bool,
    /// When the request left the queue, ns.
    pub admitted_at: i64,
}

/// Why a request was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It would never fit, or asks for no tokens.
    #[error("failed to take the request: {needed} KV tokens needed, {budget} exist")]
    TooLong {
        /// Prompt + max tokens.
        needed: u64,
        /// The whole budget.
        budget: u64,
    },
    /// The slots are taken and `max_queue` requests wait already; carries how many wait.
    #[error("failed to take the request: {0} requests wait already")]
    QueueFull(usize),
}

/// A request in the queue or in the batch; one that was put out of the batch keeps what it has emitted.
#[derive(Clone, Copy, Debug)]
struct Sequence {
    request: Request,
    emitted: u64,
    /// When it first left the queue.
    admitted_at: Option<i64>,
}

/// What happens next, and when.
#[derive(Clone, Copy, Debug)]
enum Next {
    Idle,
    Begin(i64),
    End(i64),
}

/// The engine. Feed it arrivals in time order, and ask it what it emits.
#[derive(Debug)]
pub struct Engine {
    params: Params,
    queue: VecDeque<Sequence>,
    running: Vec<Sequence>,
    /// Put out of the batch, and when each may queue again; it then goes before all others.
    parked: Vec<(i64, Sequence)>,
    kv_used: u64,
    next: Next,
    causes: Causes,
    activity: Activity,
    nature: Nature,
    preemptions: u64,
    put_out: u64,
}

/// How much an engine has to do at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Requests that wait, also those put out of the batch.
    pub queued: usize,
    /// Sequences in the batch.
    pub running: usize,
    /// KV tokens reserved …
    pub kv_used: u64,
    /// … of so many.
    pub kv_tokens: u64,
    /// Sequences put out of the batch since the start, for whatever reason.
    pub preemptions: u64,
}

impl Engine {
    /// An idle engine.
    ///
    /// # Errors
    /// Parameters outside their ranges.
    pub fn new(params: Params) -> Result<Self, BadParams> {
        params.check()?;
        Ok(Self {
            params,
            queue: VecDeque::new(),
            running: Vec::new(),
            parked: Vec::new(),
            kv_used: 0,
            next: Next::Idle,
            causes: Causes::default(),
            activity: Activity::Idle,
            nature: Nature::default(),
            preemptions: 0,
            put_out: 0,
        })
    }

    /// The same with other limits.
    #[must_use]
    pub fn with(mut self, nature: Nature) -> Self {
        self.nature = nature;
        self
    }

    /// Sequences that were put out because the KV cache overflowed.
    pub fn preemptions(&self) -> u64 {
        self.preemptions
    }

    /// KV tokens that a sequence holds while it is in the batch.
    fn kv_of(&self, sequence: &Sequence) -> u64 {
        match self.nature.admission {
            Admission::Whole => sequence.request.kv(),
            Admission::Optimistic => sequence.request.prompt_tokens.saturating_add(sequence.emitted),
        }
    }

    /// Puts a request at the tail of the queue at `now`. Call [`Engine::advance`] up to `now` first.
    ///
    /// # Errors
    /// The request can never fit, or the queue is full.
    pub fn arrive(&mut self, now: i64, request: Request) -> Result<(), Refused> {
        let needed = request.kv();
        if needed > self.params.kv_tokens || !(1..=request.max_tokens).contains(&request.output_tokens) {
            return Err(Refused::TooLong { needed, budget: self.params.kv_tokens });
        }
        let inside = self.running.len() + self.queue.len() + self.parked.len();
        if self.params.max_queue.is_some_and(|most| inside >= self.params.max_num_seqs.saturating_add(most)) {
            return Err(Refused::QueueFull(self.queue.len()));
        }
        self.queue.push_back(Sequence { request, emitted: 0, admitted_at: None });
        // With all others put out of the batch the next step may be far off.
        if matches!(self.next, Next::Idle) || matches!(self.activity, Activity::Idle) {
            self.next = Next::Begin(now);
        }
        Ok(())
    }

    /// Forgets a request whose client has gone: its slot and KV are free for the next step.
    pub fn cancel(&mut self, id: u64) {
        self.queue.retain(|r| r.request.id != id);
        self.parked.retain(|(_, r)| r.request.id != id);
        self.causes.forget(id);
        let kv: u64 = self.running.iter().filter(|r| r.request.id == id).map(|r| self.kv_of(r)).sum();
        self.running.retain(|r| r.request.id != id);
        self.kv_used -= kv;
    }

    /// When the next thing happens, if anything does.
    pub fn next_event(&self) -> Option<i64> {
        match self.next {
            Next::Idle => None,
            Next::Begin(at) | Next::End(at) => Some(at),
        }
    }

    /// Does the one next thing (a step begins, or ends) and gives what it emitted, in batch order.
    pub fn step(&mut self) -> Vec<Emission> {
        match self.next {
            Next::Idle => Vec::new(),
            Next::Begin(at) => {
                self.begin(at);
                Vec::new()
            }
            Next::End(at) => self.end(at),
        }
    }

    /// Does everything due up to and including `now`; emissions are in time order.
    pub fn advance(&mut self, now: i64) -> Vec<Emission> {
        let mut out = Vec::new();
        while self.next_event().is_some_and(|at| at <= now) {
            out.append(&mut self.step());
        }
        out
    }

    /// Requests waiting, also those put out of the batch.
    pub fn queued(&self) -> usize {
        self.queue.len() + self.parked.len()
    }

    /// Sequences in the batch.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// KV tokens reserved.
    pub fn kv_used(&self) -> u64 {
        self.kv_used
    }

    /// All of it together.
    pub fn load(&self) -> Load {
        Load {
            queued: self.queued(),
            running: self.running(),
            kv_used: self.kv_used,
            kv_tokens: self.params.kv_tokens,
            preemptions: self.preemptions + self.put_out,
        }
    }

    /// What the GPU does, from the last thing done on.
    pub fn activity(&self) -> Activity {
        self.activity
    }

    /// Has a cause take hold before token `token` of request `id` (from 0: before its prefill).
    pub fn arm(&mut self, id: u64, token: u64, cause: Cause) {
        self.causes.armed.push(Armed { id, token, cause });
    }

    /// Has a cause take hold at the first step that begins at `at` or later; what concerns one request concerns the
    /// `nth` of the batch, counted round.
    pub fn schedule(&mut self, at: i64, nth: usize, cause: Cause) {
        self.causes.scheduled.push((at, nth, cause));
    }

    /// What took hold since the last call.
    pub fn take_hits(&mut self) -> Vec<Hit> {
        std::mem::take(&mut self.causes.hits)
    }

    fn fits(&self, head: &Sequence) -> bool {
        // Whoever is admitted by its prompt needs room for the tokens of the next step, and so do the others.
        let next = match self.nature.admission {
            Admission::Whole => 0,
            Admission::Optimistic => self.running.len() as u64 + 1,
        };
        self.running.len() < self.params.max_num_seqs
            && self.kv_used.saturating_add(self.kv_of(head)).saturating_add(next) <= self.params.kv_tokens
    }

    /// Puts out the last ones until every sequence has room for its next token; true when any was.
    fn make_room(&mut self) -> bool {
        let mut any = false;
        while self.nature.admission == Admission::Optimistic
            && self.running.len() > 1
            && self.kv_used.saturating_add(self.running.len() as u64) > self.params.kv_tokens
        {
            let Some(last) = self.running.pop() else { break };
            self.kv_used -= self.kv_of(&last);
            self.queue.push_front(last);
            self.preemptions += 1;
            any = true;
        }
        any
    }

    fn begin(&mut self, at: i64) {
        self.unpark(at);
        // Whoever was just put out is not admitted again at once.
        if !self.make_room() {
            self.causes.prefill_ns += self.admit(at);
        }
        if let Some(until) = self.strike(at) {
            self.next = Next::Begin(until);
            return;
        }
        let batch = self.running.len();
        if batch == 0 {
            self.activity = Activity::Idle;
            self.next = self.parked.iter().map(|(due, _)| *due).min().map_or(Next::Idle, Next::Begin);
            return;
        }
        let prefill = std::mem::take(&mut self.causes.prefill_ns);
        let work = self.params.step_base_ns + self.params.step_per_seq_ns * batch as i64 + prefill;
        let work = (work as f64 * self.nature.slowdown(batch)).round() as i64;
        self.activity = self.nature.activity(self.causes.activity(at, batch));
        self.next = Next::End(at + self.causes.lasts(at, work));
    }

    /// Those whose time has come go to the head of the queue, the first put out first.
    fn unpark(&mut self, at: i64) {
        let due: Vec<Sequence> =
            self.parked.iter().filter(|(due, _)| *due <= at).map(|(_, sequence)| *sequence).collect();
        self.parked.retain(|(due, _)| *due > at);
        due.into_iter().rev().for_each(|sequence| self.queue.push_front(sequence));
    }

    /// Fills the batch from the queue; gives the time that the prefills take. Whoever was put out of the batch has all
    /// its tokens computed again.
    fn admit(&mut self, at: i64) -> i64 {
        let mut prefill = 0;
        while let Some(head) = self.queue.front().copied().filter(|head| self.fits(head)) {
            self.queue.pop_front();
            prefill += self.params.prefill_ns(head.request.prompt_tokens.saturating_add(head.emitted));
            self.kv_used += self.kv_of(&head);
            self.running.push(Sequence { admitted_at: head.admitted_at.or(Some(at)), ..head });
        }
        prefill
    }

    /// Lets what is due take hold; the time until which no step begins, if it is so.
    fn strike(&mut self, at: i64) -> Option<i64> {
        for (trigger, cause) in self.causes.due(at, &self.running) {
            let all = self.running.iter().chain(&self.queue).map(|sequence| sequence.request.id);
            let touched = match cause {
                Cause::Preempt { .. } => vec![trigger],
                _ => all.collect(),
            };
            self.causes.hits.push(Hit { cause, from: at, to: at + cause.ns(), trigger, touched });
            if let Cause::Preempt { ns } = cause {
                self.put_out(trigger, at + ns);
            } else {
                self.causes.begin(at, cause);
            }
        }
        let (until, activity) = self.causes.halted(at)?;
        self.activity = activity;
        Some(until)
    }

    fn put_out(&mut self, id: u64, until: i64) {
        if let Some(place) = self.running.iter().position(|sequence| sequence.request.id == id) {
            let sequence = self.running.remove(place);
            self.kv_used -= self.kv_of(&sequence);
            self.parked.push((until, sequence));
            self.put_out += 1;
        }
    }

    fn end(&mut self, at: i64) -> Vec<Emission> {
        let mut out = Vec::with_capacity(self.running.len());
        let (mut freed, mut grown) = (0, 0);
        let admission = self.nature.admission;
        self.running.retain_mut(|seq| {
            let last = seq.emitted + 1 == seq.request.output_tokens;
            let (id, token_index, admitted_at) = (seq.request.id, seq.emitted, seq.admitted_at.unwrap_or(at));
            out.push(Emission { at, id, token_index, last, admitted_at });
            seq.emitted += 1;
            if admission == Admission::Optimistic {
                grown += 1;
            }
            if last {
                freed += match admission {
                    Admission::Whole => seq.request.kv(),
                    Admission::Optimistic => seq.request.prompt_tokens.saturating_add(seq.emitted),
                };
                self.causes.forget(id);
            }
            !last
        });
        self.kv_used = (self.kv_used + grown) - freed;
        let idle = self.running.is_empty() && self.queue.is_empty() && self.parked.is_empty();
        if idle {
            self.activity = Activity::Idle;
        }
        self.next = if idle { Next::Idle } else { Next::Begin(at) };
        out
    }
}

#[cfg(test)]
mod cause_tests;
#[cfg(test)]
mod nature_tests;
#[cfg(test)]
mod tests;
