//! Counts tokens as a model's own tokenizer does, from the bytes of its `tokenizer.json`. A cargo feature, since the
//! tokenizers of the field bring some forty crates; without it, nothing loads and everything else works.

/// Bytes of a `tokenizer.json` at most; the largest known have about 35 MB.
pub const MAX_TOKENIZER_BYTES: usize = 64 << 20;

/// Why a tokenizer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// Built without it.
    #[error("this build counts no tokens: build it with the cargo feature `tokenizer`")]
    NotBuilt,
    /// The bytes are no tokenizer.
    #[error("failed to read the tokenizer: {0}")]
    Unreadable(String),
}

/// A loaded tokenizer.
#[derive(Debug)]
pub struct TokenCounter(inner::Inner);

impl TokenCounter {
    /// Loads the bytes of a `tokenizer.json`. Seconds for a large one in a debug build: no work for a task that must
    /// answer.
    ///
    /// # Errors
    /// When the bytes are no tokenizer, or this build has none.
    pub fn from_json(bytes: &[u8]) -> Result<Self, TokenizerError> {
        inner::load(bytes).map(Self)
    }

    /// Tokens of a text alone, with nothing put before or behind it; `None` when the tokenizer cannot take the text
    /// apart, such as a word that it does not know and has no token for.
    pub fn count(&self, text: &str) -> Option<u64> {
        inner::count(&self.0, text)
    }
}

#[cfg(feature = "tokenizer")]
mod inner {
    use tokenizers::Tokenizer;

    use super::TokenizerError;

    pub(super) type Inner = Box<Tokenizer>;

    pub(super) fn load(bytes: &[u8]) -> Result<Inner, TokenizerError> {
        let unreadable = |e: tokenizers::Error| TokenizerError::Unreadable(e.to_string());
        let mut tokenizer = Tokenizer::from_bytes(bytes).map_err(unreadable)?;
        // Files carry the truncation and padding of their model's training, which would cut or fill what is counted.
        tokenizer.with_truncation(None).map_err(unreadable)?;
        tokenizer.with_padding(None);
        Ok(Box::new(tokenizer))
    }

    pub(super) fn count(tokenizer: &Inner, text: &str) -> Option<u64> {
        tokenizer.encode_fast(text, false).ok().map(|encoding| encoding.len() as u64)
    }
}

#[cfg(not(feature = "tokenizer"))]
mod inner {
    use super::TokenizerError;

    #[derive(Debug)]
    pub(super) enum Inner {}

    pub(super) fn load(_bytes: &[u8]) -> Result<Inner, TokenizerError> {
        Err(TokenizerError::NotBuilt)
    }

    pub(super) fn count(tokenizer: &Inner, _text: &str) -> Option<u64> {
        match *tokenizer {}
    }
}

#[cfg(test)]
#[cfg(feature = "tokenizer")]
mod tests {
    use super::*;

    const WORD_LEVEL: &str = r#"{"version":"1.0","truncation":{"direction":"Right","max_length":3,
        "strategy":"LongestFirst","stride":0},"padding":null,"added_tokens":[],"normalizer":null,
        "pre_tokenizer":{"type":"Whitespace"},"post_processor":null,"decoder":null,
        "model":{"type":"WordLevel","vocab":{"able":0,"about":1,"[UNK]":2},"unk_token":"[UNK]"}}"#;

    #[test]
    fn tokens_are_counted_whole_whatever_the_file_would_cut() {
        let counter = TokenCounter::from_json(WORD_LEVEL.as_bytes()).unwrap();
        let counted = ["", "able", "able about able about what", "able, about"].map(|t| counter.count(t));
        assert_eq!(counted, [Some(0), Some(1), Some(5), Some(3)]);
    }

    #[test]
    fn a_text_that_cannot_be_taken_apart_has_no_count() {
        let strict = WORD_LEVEL.replace(r#""[UNK]":2"#, r#""zoo":2"#);
        let counter = TokenCounter::from_json(strict.as_bytes()).unwrap();
        assert_eq!((counter.count("able"), counter.count("unheard")), (Some(1), None));
    }

    #[test]
    fn what_is_no_tokenizer_is_refused_in_words() {
        for bytes in [&b""[..], b"{", b"{}", b"[1]", b"\xff\xfe", br#"{"model":{"type":"BPE"}}"#] {
            let error = TokenCounter::from_json(bytes).unwrap_err().to_string();
            assert!(error.starts_with("failed to read the tokenizer: ") && error.len() > 34, "{error}");
        }
    }
}
