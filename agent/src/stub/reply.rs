//! The bytes of replies, made once: a chat completion whole, or as server-sent events each in an HTTP chunk of its own,
//! with the role in the first and `usage` in the last, as vLLM writes them.

/// Text of each token.
const TOKEN: &str = " token";
const STREAM_HEAD: &str = "HTTP/1.1 200 OK\r\nserver: tailcliff-stub\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
const META: &str = r#""id":"chatcmpl-stub","object":"chat.completion.chunk","created":0,"model":"stub""#;

/// An answer to a question that is no completion.
pub(super) const MODELS: &[u8] = b"HTTP/1.1 200 OK\r\nserver: tailcliff-stub\r\ncontent-type: application/json\r\ncontent-length: 47\r\n\r\n{\"object\":\"list\",\"data\":[{\"id\":\"stub\"}]       }";
/// To a request that is refused; the connection ends with it.
pub(super) const REFUSED: &[u8] =
    b"HTTP/1.1 413 Content Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// The pieces of a reply of some number of tokens.
#[derive(Clone, Debug)]
pub(super) struct Pieces {
    /// Tokens that the reply has.
    pub(super) tokens: u32,
    /// Head, role and first token: the head comes no sooner, so that a reply is one write a token.
    first: Vec<u8>,
    token: Vec<u8>,
    /// The last token, finish reason, usage, `[DONE]` and the body's end.
    last: Vec<u8>,
    /// Head to end of a reply of one token.
    only: Vec<u8>,
}

impl Pieces {
    pub(super) fn new(tokens: u32) -> Pieces {
        let event = |json: &str| chunk(&format!("data: {json}\n\n"));
        let choice = |delta: &str, finish: &str| {
            event(&format!(
                r#"{{{META},"choices":[{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":{finish}}}]}}"#
            ))
        };
        let usage = usage(tokens);
        let end = choice("{}", "\"length\"")
            + &event(&format!(r#"{{{META},"choices":[],"usage":{usage}}}"#))
            + &chunk("data: [DONE]\n\n")
            + "0\r\n\r\n";
        let begin = STREAM_HEAD.to_owned() + &choice(r#"{"role":"assistant","content":""}"#, "null");
        let token = choice(&format!(r#"{{"content":"{TOKEN}"}}"#), "null");
        Pieces {
            tokens,
            first: (begin.clone() + &token).into_bytes(),
            last: (token.clone() + &end).into_bytes(),
            only: (begin + &token + &end).into_bytes(),
            token: token.into_bytes(),
        }
    }

    /// A token with what comes before or after it.
    pub(super) fn of(&self, is_first: bool, is_last: bool) -> &[u8] {
        match (is_first, is_last) {
            (false, false) => &self.token,
            (true, false) => &self.first,
            (false, true) => &self.last,
            (true, true) => &self.only,
        }
    }

    /// All of it.
    pub(super) fn whole(&self) -> Vec<u8> {
        let token = |i| self.of(i == 0, i + 1 == self.tokens);
        (0..self.tokens).flat_map(token).copied().collect()
    }
}

/// A reply that is not streamed.
pub(super) fn plain(tokens: u32) -> Vec<u8> {
    let (text, usage) = (TOKEN.repeat(tokens as usize), usage(tokens));
    let body = format!(
        r#"{{"id":"chatcmpl-stub","object":"chat.completion","created":0,"model":"stub","choices":[{{"index":0,"message":{{"role":"assistant","content":"{text}"}},"finish_reason":"length"}}],"usage":{usage}}}"#
    );
    let head =
        "HTTP/1.1 200 OK\r\nserver: tailcliff-stub\r\ncontent-type: application/json\r\ncontent-length: ";
    format!("{head}{}\r\n\r\n{body}", body.len()).into_bytes()
}

fn usage(tokens: u32) -> String {
    format!(
        r#"{{"prompt_tokens":16,"completion_tokens":{tokens},"total_tokens":{}}}"#,
        16 + u64::from(tokens)
    )
}

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}
