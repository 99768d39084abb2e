//! A dataset and a tokenizer as the coordinator tells them: taken in part by part, held for the whole run.

use std::sync::{Arc, OnceLock};

use prost::Message;
use tailcliff_proto::tokens::TokenCounter;
use tailcliff_proto::{MAX_CORPUS_BYTES, MAX_ENTRIES, v1};

/// Everything there is to send, and to count tokens by.
#[derive(Debug)]
pub struct Corpus {
    id: u64,
    entries: Vec<v1::Entry>,
    counter: Option<TokenCounter>,
}

impl Corpus {
    /// Its name on the wire.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Requests and sessions, in the dataset's order; none when only a tokenizer was told.
    pub fn entries(&self) -> &[v1::Entry] {
        &self.entries
    }

    /// The tokenizer, when there is one.
    pub fn counter(&self) -> Option<&TokenCounter> {
        self.counter.as_ref()
    }

    /// When each entry is sent, ns from the first, in the order of the entries; `None` unless the dataset has times.
    pub fn arrivals_ns(&self) -> Option<Vec<i64>> {
        if self.entries.is_empty() {
            return None;
        }
        self.entries.iter().map(|entry| entry.at_ns).collect()
    }
}

/// Takes in a corpus; parts that come again or out of order change nothing.
#[derive(Debug, Default)]
pub(crate) struct Intake {
    id: u64,
    held: u32,
    count: u32,
    bytes: usize,
    entries: Vec<v1::Entry>,
    tokenizer_json: Vec<u8>,
    whole: Arc<OnceLock<Result<Arc<Corpus>, String>>>,
}

/// What to do with a part.
pub(crate) enum Taken {
    /// Say this.
    Held(v1::CorpusHeld),
    /// The last part came: this makes the corpus of it, which takes long when there is a tokenizer.
    Complete(Box<dyn FnOnce() -> v1::CorpusHeld + Send>),
}

impl Intake {
    /// Takes a part; one of another corpus begins anew.
    pub(crate) fn take(&mut self, part: v1::CorpusPart) -> Taken {
        if self.id != part.corpus_id {
            *self = Self { id: part.corpus_id, count: part.count, ..Self::default() };
        }
        let is_next = part.number == self.held && self.held < self.count && self.whole.get().is_none();
        if !is_next {
            return Taken::Held(self.said());
        }
        if let Some(error) = self.refusal(&part) {
            // Nothing of it is of use any more.
            (self.entries, self.tokenizer_json) = (Vec::new(), Vec::new());
            let _first = self.whole.set(Err(error));
            return Taken::Held(self.said());
        }
        self.bytes += part.encoded_len();
        self.entries.extend(part.entries);
        self.tokenizer_json.extend(part.tokenizer_json);
        self.held += 1;
        if self.held < self.count {
            return Taken::Held(self.said());
        }
        let (id, held, whole) = (self.id, self.held, self.whole.clone());
        let (entries, json) = (std::mem::take(&mut self.entries), std::mem::take(&mut self.tokenizer_json));
        Taken::Complete(Box::new(move || {
            let made = whole.get_or_init(|| make(id, entries, &json));
            let error = made.as_ref().err().cloned().unwrap_or_default();
            v1::CorpusHeld { corpus_id: id, held, error }
        }))
    }

    fn refusal(&self, part: &v1::CorpusPart) -> Option<String> {
        let (entries, bytes) = (self.entries.len() + part.entries.len(), self.bytes + part.encoded_len());
        if entries > MAX_ENTRIES || bytes > MAX_CORPUS_BYTES + MAX_CORPUS_BYTES / 8 {
            return Some(format!("a dataset of {entries} entries and {bytes} bytes is too large"));
        }
        let object = |json: &str| json.starts_with('{') && json.ends_with('}') && json.len() > 2;
        let list = |json: &str| json.starts_with('[') && json.ends_with(']') && json.len() > 2;
        let sound = |turn: &v1::Turn| match &turn.content {
            Some(v1::turn::Content::BodyJson(json)) => object(json),
            Some(v1::turn::Content::MessagesJson(json)) => list(json),
            Some(v1::turn::Content::User(_) | v1::turn::Content::Blocks(_)) => true,
            None => false,
        };
        let broken = |entry: &v1::Entry| entry.turns.is_empty() || !entry.turns.iter().all(sound);
        let at = self.entries.len() + part.entries.iter().position(broken)?;
        Some(format!("entry {at} of the dataset holds nothing that can be sent"))
    }

    /// How much is here. The last part counts once the corpus is made.
    fn said(&self) -> v1::CorpusHeld {
        let made = self.whole.get();
        let error = made.and_then(|made| made.as_ref().err().cloned()).unwrap_or_default();
        let is_being_made = made.is_none() && self.held == self.count && self.held > 0;
        v1::CorpusHeld { corpus_id: self.id, held: self.held - u32::from(is_being_made), error }
    }

    /// The corpus that a workload draws from; `None` for one that needs none.
    ///
    /// # Errors
    /// When it is not here.
    pub(crate) fn of(&self, workload: &v1::Workload) -> Result<Option<Arc<Corpus>>, String> {
        let Some(id) = workload.pick.as_ref().map(|pick| pick.corpus_id) else { return Ok(None) };
        match self.whole.get().filter(|_| id == self.id) {
            Some(Ok(corpus)) => Ok(Some(corpus.clone())),
            Some(Err(error)) => Err(error.clone()),
            None => Err("the dataset has not arrived at this agent".to_owned()),
        }
    }
}

fn make(id: u64, entries: Vec<v1::Entry>, tokenizer_json: &[u8]) -> Result<Arc<Corpus>, String> {
    let counter = (!tokenizer_json.is_empty()).then(|| TokenCounter::from_json(tokenizer_json));
    let counter = counter.transpose().map_err(|e| e.to_string())?;
    Ok(Arc::new(Corpus { id, entries, counter }))
}

#[cfg(test)]
impl Corpus {
    /// A corpus as if it had arrived.
    pub(crate) fn of_entries(entries: Vec<v1::Entry>) -> Arc<Corpus> {
        Arc::new(Corpus { id: 1, entries, counter: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(text: &str) -> v1::Entry {
        let content = Some(v1::turn::Content::User(text.to_owned()));
        v1::Entry { turns: vec![v1::Turn { content, ..Default::default() }], ..Default::default() }
    }

    fn part(number: u32, count: u32, texts: &[&str]) -> v1::CorpusPart {
        let entries = texts.iter().map(|t| entry(t)).collect();
        v1::CorpusPart { corpus_id: 5, number, count, entries, ..Default::default() }
    }

    fn held(taken: Taken) -> v1::CorpusHeld {
        match taken {
            Taken::Held(held) => held,
            Taken::Complete(make) => make(),
        }
    }

    fn wanting(corpus_id: u64) -> v1::Workload {
        v1::Workload { pick: Some(v1::Pick { corpus_id, ..Default::default() }), ..Default::default() }
    }

    #[test]
    fn parts_make_a_corpus_in_order_and_repeats_change_nothing() {
        let mut intake = Intake::default();
        assert!(intake.of(&v1::Workload::default()).unwrap().is_none());
        assert_eq!(held(intake.take(part(1, 3, &["late"]))).held, 0, "the first has not come");
        assert_eq!(held(intake.take(part(0, 3, &["a", "b"]))).held, 1);
        assert_eq!(held(intake.take(part(0, 3, &["a", "b"]))).held, 1, "again");
        assert_eq!(held(intake.take(part(1, 3, &["c"]))).held, 2);
        assert!(intake.of(&wanting(5)).unwrap_err().contains("has not arrived"));
        let last = intake.take(part(2, 3, &["d"]));
        assert_eq!(held(intake.take(part(2, 3, &["d"]))).held, 2, "it is being made");
        assert_eq!(held(last).held, 3);
        assert_eq!(held(intake.take(part(2, 3, &["d"]))).held, 3);
        let corpus = intake.of(&wanting(5)).unwrap().unwrap();
        assert_eq!(corpus.entries(), ["a", "b", "c", "d"].map(entry));
        assert!(corpus.arrivals_ns().is_none());
        assert!(intake.of(&wanting(6)).is_err());
        let other = v1::CorpusPart { corpus_id: 6, ..part(0, 2, &["x"]) };
        assert_eq!(held(intake.take(other)), v1::CorpusHeld { corpus_id: 6, held: 1, ..Default::default() });
        assert!(intake.of(&wanting(5)).is_err(), "another corpus took its place");
    }

    #[test]
    fn times_are_told_when_every_entry_has_one() {
        let mut corpus = Corpus { id: 1, entries: vec![entry("a"), entry("b")], counter: None };
        corpus.entries[0].at_ns = Some(0);
        assert!(corpus.arrivals_ns().is_none());
        corpus.entries[1].at_ns = Some(7);
        assert_eq!(corpus.arrivals_ns(), Some(vec![0, 7]));
    }

    #[test]
    fn what_cannot_be_used_is_an_error_that_stays() {
        let empty = v1::Entry::default();
        let body = |json: &str| {
            let content = Some(v1::turn::Content::BodyJson(json.to_owned()));
            v1::Entry { turns: vec![v1::Turn { content, ..Default::default() }], ..Default::default() }
        };
        for bad in [empty, body("[1]"), body("{}"), body("")] {
            let mut intake = Intake::default();
            let broken = v1::CorpusPart { entries: vec![entry("a"), bad], ..part(0, 2, &[]) };
            assert!(held(intake.take(broken)).error.contains("entry 1 "));
            assert!(!held(intake.take(part(0, 2, &["a"]))).error.is_empty(), "it is final");
            assert!(intake.of(&wanting(5)).is_err());
        }
        let mut intake = Intake::default();
        let no_tokenizer = v1::CorpusPart { tokenizer_json: b"{}".to_vec(), ..part(0, 1, &[]) };
        assert!(held(intake.take(no_tokenizer)).error.contains("tokenizer"));
    }
}
