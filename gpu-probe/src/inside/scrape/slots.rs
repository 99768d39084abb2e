//! llama.cpp's `/slots`: how many work, and how much of their context is taken, which its metrics do not tell any more.
//! It may be off. What users wrote may stand in it; only numbers are read.

use serde::Deserialize;

use crate::inside::endpoint::{Endpoint, Failure};

/// Slots of a server; more are not believed.
const MOST: usize = 4096;

/// What was read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Slots {
    pub(super) busy: f64,
    /// Share of all slots' contexts that those which work have filled; `None` where nothing tells. Slots that share one cache
    /// each call all of it theirs: then it is too low.
    pub(super) kv_usage: Option<f64>,
}

#[derive(Debug, Deserialize)]
struct Slot {
    #[serde(default)]
    n_ctx: Option<f64>,
    /// Of today's builds, …
    #[serde(default)]
    is_processing: Option<bool>,
    /// … and of older ones: 0 is idle.
    #[serde(default)]
    state: Option<i64>,
    /// Tokens in it, of the prompt and made since: so it is called today, …
    #[serde(default)]
    n_prompt_tokens: Option<f64>,
    /// … and so in older builds.
    #[serde(default)]
    n_past: Option<f64>,
}

impl Slot {
    fn is_busy(&self) -> bool {
        self.is_processing.unwrap_or(self.state.is_some_and(|state| state != 0))
    }

    /// What an idle one still holds is free to be taken.
    fn taken(&self) -> Option<f64> {
        let held = self.n_past.or(self.n_prompt_tokens);
        if self.is_busy() { held } else { Some(0.0) }
    }
}

/// Asks for it.
pub(super) async fn ask(endpoint: &Endpoint) -> Result<Option<Slots>, Failure> {
    Ok(read(&endpoint.get("slots").await?.body))
}

fn read(body: &[u8]) -> Option<Slots> {
    let slots: Vec<Slot> = serde_json::from_slice(body).ok()?;
    if slots.len() > MOST {
        return None;
    }
    let busy = slots.iter().filter(|slot| slot.is_busy()).count() as f64;
    let taken = slots.iter().map(Slot::taken).sum::<Option<f64>>();
    let room = slots.iter().map(|slot| slot.n_ctx).sum::<Option<f64>>();
    let share = taken.zip(room).map(|(taken, room)| taken / room);
    Some(Slots { busy, kv_usage: share.filter(|share| (0.0..=1.0).contains(share)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Recorded (llama.cpp of 2026, two of four slots busy), but for the parameters.
    const RECORDED: &[u8] = br#"[{"id":0,"n_ctx":1024,"speculative":false,"is_processing":false},
        {"id":1,"n_ctx":1024,"speculative":false,"is_processing":false,"id_task":9,"n_prompt_tokens":312,
         "n_prompt_tokens_processed":0,"next_token":[{"n_remain":-1,"n_decoded":0}]},
        {"id":2,"n_ctx":1024,"speculative":false,"is_processing":true,"id_task":3,"n_prompt_tokens":21,
         "n_prompt_tokens_processed":13,"n_prompt_tokens_cache":0,"next_token":[{"n_remain":292,"n_decoded":8}]},
        {"id":3,"n_ctx":1024,"speculative":false,"is_processing":true,"id_task":1,"n_prompt_tokens":22,
         "n_prompt_tokens_processed":13,"n_prompt_tokens_cache":0,"next_token":[{"n_remain":291,"n_decoded":9}]}]"#;

    #[test]
    fn busy_slots_are_counted_and_what_they_hold() {
        assert_eq!(read(RECORDED), Some(Slots { busy: 2.0, kv_usage: Some(43.0 / 4096.0) }));
    }

    #[test]
    fn older_builds_are_read_and_what_is_not_told_is_absent() {
        let older = br#"[{"n_ctx":100,"state":1,"n_past":25,"prompt":"secret"},{"n_ctx":100,"state":0}]"#;
        assert_eq!(read(older), Some(Slots { busy: 1.0, kv_usage: Some(0.125) }));
        let silent = br#"[{"is_processing":true}]"#;
        assert_eq!(read(silent), Some(Slots { busy: 1.0, kv_usage: None }));
        let absurd = br#"[{"is_processing":true,"n_ctx":10,"n_prompt_tokens":1e9}]"#;
        assert_eq!(read(absurd), Some(Slots { busy: 1.0, kv_usage: None }));
        assert_eq!(read(b"[]"), Some(Slots { busy: 0.0, kv_usage: None }));
        for bad in [&b"{}"[..], b"", b"[{\"n_ctx\":\"x\"}]", b"\xff", b"[1]"] {
            assert_eq!(read(bad), None);
        }
    }
}
