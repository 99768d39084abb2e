//! Where a reply's tokens come from: the engine, or a schedule of the request's own.

use std::sync::Arc;

use crate::clock;
use crate::config::{Config, Timing};
use crate::engine::{Emission, Engine, Load, Refused};
use crate::live::{Entry, Live, Tokens};
use crate::record::Recorder;
use crate::serve::ServeError;

/// A server's source of tokens.
pub(crate) enum Mill {
    Engine(Arc<Live>),
    Paced { ttft_ns: i64, itl_ns: i64 },
}

/// One request's tokens.
pub(crate) enum Source {
    Engine(Tokens),
    Paced { arrived_ns: i64, ttft_ns: i64, itl_ns: i64, next: u64, count: u64 },
}

impl Mill {
    pub(crate) fn new(config: &Config) -> Result<Self, ServeError> {
        Ok(match &config.timing {
            Timing::Engine(params) => {
                let engine = Engine::new(params.clone())?.with(config.nature);
                let recorder = Recorder::start(config, params.max_num_seqs, clock::raw_ns());
                Self::Engine(Live::new(engine, recorder.map_err(ServeError::Truth)?))
            }
            Timing::Paced { ttft_ns, itl_ns } => Self::Paced { ttft_ns: *ttft_ns, itl_ns: *itl_ns },
        })
    }

    /// What the engine has to do at `now`, if there is one.
    pub(crate) fn load(&self, now: i64) -> Option<Load> {
        match self {
            Self::Engine(live) => Some(live.load(now)),
            Self::Paced { .. } => None,
        }
    }

    /// Takes a request that arrived at `now`.
    pub(crate) fn enter(&self, now: i64, entry: Entry) -> Result<Source, Refused> {
        Ok(match self {
            Self::Engine(live) => Source::Engine(live.enter(now, entry)?),
            Self::Paced { ttft_ns, itl_ns } => Source::Paced {
                arrived_ns: now,
                ttft_ns: *ttft_ns,
                itl_ns: *itl_ns,
                next: 0,
                count: entry.request.output_tokens,
            },
        })
    }
}

impl Source {
    /// The next token: from the engine once it exists, from a schedule ahead of its time (`at`). `None` after the last.
    pub(crate) async fn next(&mut self) -> Option<Emission> {
        match self {
            Self::Engine(tokens) => tokens.next().await,
            Self::Paced { arrived_ns, ttft_ns, itl_ns, next, count } => {
                let token_index = *next;
                *next += 1;
                let at = *arrived_ns + *ttft_ns + *itl_ns * token_index as i64;
                let last = token_index + 1 == *count;
                let token = Emission { at, id: 0, token_index, last, admitted_at: *arrived_ns };
                (token_index < *count).then_some(token)
            }
        }
    }
}
