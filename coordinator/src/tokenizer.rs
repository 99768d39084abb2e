//! The tokenizer that a user gives: a file of this host, read before anything starts.

use std::path::{Path, PathBuf};

use tailcliff_proto::MAX_CORPUS_BYTES;
use tailcliff_proto::tokens::{MAX_TOKENIZER_BYTES, TokenCounter};

use crate::config::{ConfigError, bad};
use crate::plan::TokenizerFacts;
use crate::workload::checksum;

/// A tokenizer with the bytes that agents are told.
pub(crate) struct Tokenizer {
    pub(crate) counter: TokenCounter,
    pub(crate) json: Vec<u8>,
    path: PathBuf,
}

impl Tokenizer {
    /// From a `tokenizer.json`, or a directory that holds one. Nothing is downloaded.
    pub(crate) fn load(given: &Path) -> Result<Self, ConfigError> {
        let fail = |reason: String| bad("--tokenizer", reason);
        let path = if given.is_dir() { given.join("tokenizer.json") } else { given.to_owned() };
        if !path.exists() {
            return Err(fail(missing(given, &path)));
        }
        let size = std::fs::metadata(&path).map_or(0, |meta| meta.len());
        if size > MAX_TOKENIZER_BYTES.min(MAX_CORPUS_BYTES) as u64 {
            return Err(fail(format!("{} has {} MiB: is it a tokenizer.json?", path.display(), size >> 20)));
        }
        let json =
            std::fs::read(&path).map_err(|e| fail(format!("failed to read {}: {e}", path.display())))?;
        let counter = TokenCounter::from_json(&json);
        let counter = counter.map_err(|e| fail(format!("{}: {e}", path.display())))?;
        Ok(Self { counter, json, path })
    }

    /// What is stored of it; `words` of its vocabulary make synthetic prompts.
    pub(crate) fn facts(&self, words: usize) -> TokenizerFacts {
        let name =
            |path: Option<&Path>| path.and_then(Path::file_name).map(|n| n.to_string_lossy().into_owned());
        let parts = [name(self.path.parent()), name(Some(&self.path))];
        let file = parts.into_iter().flatten().collect::<Vec<_>>().join("/");
        TokenizerFacts { file, checksum: checksum(crc32c::crc32c(&self.json)), one_token_words: words as u64 }
    }
}

fn missing(given: &Path, path: &Path) -> String {
    let shown = given.display();
    if given.is_dir() {
        return format!("{shown} holds no tokenizer.json");
    }
    // What has one slash and no file may well be a model of the hub.
    match given.components().count() {
        2 if given.is_relative() => format!(
            "{shown} is no file here, and nothing is downloaded: try `hf download {shown} tokenizer.json --local-dir DIR` \
             and --tokenizer DIR"
        ),
        _ => format!("{} is not there: give a tokenizer.json, or a directory that holds one", path.display()),
    }
}
