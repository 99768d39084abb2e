//! Facts as they are found: the first source of each counts, and is named.

use tailcliff_proto::secret::redacted_words;
use tailcliff_proto::v1;

/// Characters of one value, …
const LONGEST: usize = 300;
/// … values of a kind that has many, …
const MOST: usize = 48;
/// … words of a command line, and bytes of all of them.
const MOST_WORDS: usize = 256;
const MOST_COMMAND: usize = 24 << 10;

#[derive(Debug, Default)]
pub(super) struct Facts(v1::ServerFacts);

impl Facts {
    pub(super) fn endpoint(&mut self, shown: &str) {
        shown.clone_into(&mut self.0.endpoint);
    }

    /// Empty while it is unknown.
    pub(super) fn stack(&self) -> &str {
        &self.0.stack
    }

    pub(super) fn told_stack(&mut self, stack: &str, source: &str) {
        if self.0.stack.is_empty() && !stack.is_empty() {
            stack.clone_into(&mut self.0.stack);
            self.source("stack", source);
        }
    }

    pub(super) fn told_version(&mut self, version: Option<&str>, source: &str) {
        if let Some(version) = version.filter(|_| self.0.version.is_empty()) {
            self.0.version = clean(version);
            self.source("version", source);
        }
    }

    pub(super) fn told_models<'a>(&mut self, models: impl Iterator<Item = &'a str>, source: &str) {
        if self.0.models.is_empty() {
            self.0.models = models.take(MOST).map(clean).collect();
            self.source("models", source);
        }
    }

    pub(super) fn told_spec_decoding(&mut self, method: Option<&str>, source: &str) {
        if let Some(method) = method.filter(|_| self.0.spec_decoding.is_empty()) {
            self.0.spec_decoding = clean(method);
            self.source("spec_decoding", source);
        }
    }

    pub(super) fn told_max_model_len(&mut self, value: Option<u64>, source: &str) {
        if set(&mut self.0.max_model_len, value) {
            self.source("max_model_len", source);
        }
    }

    pub(super) fn told_max_batch(&mut self, value: Option<u64>, source: &str) {
        if set(&mut self.0.max_batch, value) {
            self.source("max_batch", source);
        }
    }

    pub(super) fn told_kv_tokens(&mut self, value: Option<u64>, source: &str) {
        if set(&mut self.0.kv_tokens, value) {
            self.source("kv_tokens", source);
        }
    }

    pub(super) fn told_prefix_caching(&mut self, value: Option<bool>, source: &str) {
        if set(&mut self.0.prefix_caching, value) {
            self.source("prefix_caching", source);
        }
    }

    /// Whatever has no place of its own.
    pub(super) fn other(&mut self, name: &str, value: &str, source: &str) {
        let is_new = self.0.others.iter().all(|known| known.name != name);
        if is_new && self.0.others.len() < MOST && !["", "None", "null"].contains(&value) {
            let (name, value, source) = (name.to_owned(), clean(value), source.to_owned());
            self.0.others.push(v1::ServerFact { name, value, source });
        }
    }

    /// The `server` header tells little: most servers name what they are written with.
    pub(super) fn server_header(&mut self, value: &str) {
        if !value.is_empty() {
            self.other("server", value, "header");
            let known = ["llama.cpp", "model-sim"].into_iter().find(|stack| value.starts_with(stack));
            self.told_stack(known.unwrap_or_default(), "server header");
        }
    }

    /// With the command line as it was given: nothing of it is kept that may be secret.
    pub(super) fn process(&mut self, pid: u32, command: &[String]) {
        self.0.pid = Some(pid);
        let mut room = MOST_COMMAND;
        let fits = |word: &String| {
            room = room.saturating_sub(word.len());
            room > 0
        };
        let words = redacted_words(command).into_iter().take(MOST_WORDS).map(|word| short(&word));
        self.0.command = words.take_while(fits).collect();
        if self.0.command.len() < command.len() {
            self.source("command", "of this host's processes; only its beginning is kept");
        } else {
            self.source("command", "of this host's processes");
        }
    }

    /// Why something is not known.
    pub(super) fn unknown(&mut self, what: &str, why: &str) {
        self.source(what, &format!("unknown: {why}"));
    }

    fn source(&mut self, what: &str, source: &str) {
        if self.0.sources.len() < MOST {
            self.0.sources.push(short(&format!("{what}: {source}")));
        }
    }

    /// With words on what nobody told.
    pub(super) fn done(mut self) -> v1::ServerFacts {
        let facts = &self.0;
        let missing = [
            ("version", facts.version.is_empty()),
            ("max_batch", facts.max_batch.is_none()),
            ("kv_tokens", facts.kv_tokens.is_none()),
            ("prefix_caching", facts.prefix_caching.is_none()),
            ("spec_decoding", facts.spec_decoding.is_empty()),
        ];
        for (what, _) in missing.into_iter().filter(|(_, is_missing)| *is_missing) {
            self.unknown(what, "neither its endpoints nor its command line tell");
        }
        self.0
    }
}

fn set<T>(slot: &mut Option<T>, value: Option<T>) -> bool {
    let is_news = slot.is_none() && value.is_some();
    if is_news {
        *slot = value;
    }
    is_news
}

/// What others wrote, without what looks like a secret.
fn clean(text: &str) -> String {
    let words = redacted_words(&[short(text)]);
    words.into_iter().next().unwrap_or_default()
}

fn short(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect()
}
