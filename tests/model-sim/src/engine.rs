//! The model of a batching inference engine, pure and in virtual time: no clock, no I/O, no randomness.
//!
//! Requests wait in one FIFO queue. A step begins as soon as there is work: it first admits requests from the head of
//! the queue while a sequence slot and their whole KV need (prompt + max tokens) fit, never letting one overtake. The
//! step lasts `base + per_seq · batch`, plus the prompts that it admitted divided by the prefill rate (prefill without
//! chunking: it delays everyone in the step). At its end every sequence of the batch emits one token; the first token
//! of a request thus comes at the end of the step that admitted it. Finished sequences leave and the next step begins
//! at that same instant; a request that arrives exactly then still joins it.

use std::collections::VecDeque;

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

#[derive(Clone, Copy, Debug)]
struct Running {
    request: Request,
    emitted: u64,
    admitted_at: i64,
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
    queue: VecDeque<Request>,
    running: Vec<Running>,
    kv_used: u64,
    next: Next,
}

impl Engine {
    /// An idle engine.
    ///
    /// # Errors
    /// Parameters outside their ranges.
    pub fn new(params: Params) -> Result<Self, BadParams> {
        params.check()?;
        Ok(Self { params, queue: VecDeque::new(), running: Vec::new(), kv_used: 0, next: Next::Idle })
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
        let inside = self.running.len() + self.queue.len();
        if self.params.max_queue.is_some_and(|most| inside >= self.params.max_num_seqs.saturating_add(most)) {
            return Err(Refused::QueueFull(self.queue.len()));
        }
        self.queue.push_back(request);
        if matches!(self.next, Next::Idle) {
            self.next = Next::Begin(now);
        }
        Ok(())
    }

    /// Forgets a request whose client has gone: its slot and KV are free for the next step.
    pub fn cancel(&mut self, id: u64) {
        self.queue.retain(|r| r.id != id);
        let kv: u64 = self.running.iter().filter(|r| r.request.id == id).map(|r| r.request.kv()).sum();
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

    /// Requests waiting.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Sequences in the batch.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// KV tokens reserved.
    pub fn kv_used(&self) -> u64 {
        self.kv_used
    }

    fn fits(&self, request: &Request) -> bool {
        self.running.len() < self.params.max_num_seqs
            && self.kv_used.saturating_add(request.kv()) <= self.params.kv_tokens
    }

    fn begin(&mut self, at: i64) {
        let mut prefill = 0;
        while let Some(request) = self.queue.front().copied().filter(|head| self.fits(head)) {
            self.queue.pop_front();
            prefill += self.params.prefill_ns(request.prompt_tokens);
            self.kv_used += request.kv();
            self.running.push(Running { request, emitted: 0, admitted_at: at });
        }
        let batch = self.running.len() as i64;
        self.next = match batch {
            0 => Next::Idle,
            _ => Next::End(at + self.params.step_base_ns + self.params.step_per_seq_ns * batch + prefill),
        };
    }

    fn end(&mut self, at: i64) -> Vec<Emission> {
        let mut out = Vec::with_capacity(self.running.len());
        let mut freed = 0;
        self.running.retain_mut(|seq| {
            let last = seq.emitted + 1 == seq.request.output_tokens;
            let (id, token_index, admitted_at) = (seq.request.id, seq.emitted, seq.admitted_at);
            out.push(Emission { at, id, token_index, last, admitted_at });
            seq.emitted += 1;
            freed += if last { seq.request.kv() } else { 0 };
            !last
        });
        self.kv_used -= freed;
        let idle = self.running.is_empty() && self.queue.is_empty();
        self.next = if idle { Next::Idle } else { Next::Begin(at) };
        out
    }
}

#[cfg(test)]
mod tests;
