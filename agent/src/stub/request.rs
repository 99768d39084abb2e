//! As much of an HTTP/1.1 request as a stub needs to know: where it ends, its id, how many tokens it wants.

use memchr::{memchr, memmem};

/// Bytes of a head at most.
const MAX_HEAD: usize = 16 << 10;
/// Bytes of a body at most.
const MAX_BODY: usize = 16 << 20;
/// Bytes of an id that are kept.
const MAX_ID: usize = 128;

/// A request at the beginning of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request<'a> {
    /// Its bytes, head and body.
    pub(super) length: usize,
    /// A POST: anything else asks for the list of models.
    pub(super) is_post: bool,
    /// `x-request-id`, empty without one.
    pub(super) id: &'a [u8],
    /// `max_tokens` of the body.
    pub(super) max_tokens: Option<u32>,
    /// It asks for the connection to end with the reply.
    pub(super) close: bool,
}

/// What some bytes hold.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<'a> {
    /// A whole request, perhaps with the next one behind it.
    Whole(Request<'a>),
    /// The beginning of one.
    Part,
    /// Too large, or not HTTP as a client of ours writes it.
    Bad,
}

/// Looks at the beginning of what a client has sent.
pub(super) fn find(bytes: &[u8]) -> Found<'_> {
    let Some(end) = memmem::find(bytes, b"\r\n\r\n") else {
        return if bytes.len() > MAX_HEAD { Found::Bad } else { Found::Part };
    };
    if end > MAX_HEAD {
        return Found::Bad;
    }
    let (head, body) = (&bytes[..end], &bytes[end + 4..]);
    let (mut id, mut body_length, mut close) = (&b""[..], 0, false);
    for (name, value) in headers(head) {
        if name.eq_ignore_ascii_case(b"content-length") {
            match number(value) {
                Some(length) if length <= MAX_BODY => body_length = length,
                _ => return Found::Bad,
            }
        } else if name.eq_ignore_ascii_case(b"x-request-id") {
            id = &value[..value.len().min(MAX_ID)];
        } else if name.eq_ignore_ascii_case(b"connection") {
            close = value.eq_ignore_ascii_case(b"close");
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            return Found::Bad;
        }
    }
    let Some(body) = body.get(..body_length) else { return Found::Part };
    let is_post = head.starts_with(b"POST ");
    let max_tokens = max_tokens(body);
    Found::Whole(Request { length: end + 4 + body_length, is_post, id, max_tokens, close })
}

fn headers(head: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let lines = head.split(|&b| b == b'\n').skip(1);
    lines.filter_map(|line| {
        let colon = memchr(b':', line)?;
        Some((&line[..colon], line[colon + 1..].trim_ascii()))
    })
}

fn number(digits: &[u8]) -> Option<usize> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// The number after the last such key: ours stands behind no text of a prompt.
fn max_tokens(body: &[u8]) -> Option<u32> {
    const KEY: &[u8] = b"\"max_tokens\":";
    let digits = body[memmem::find(body, KEY)? + KEY.len()..].trim_ascii_start();
    let end = digits.iter().position(|b| !b.is_ascii_digit()).unwrap_or(digits.len());
    u32::try_from(number(&digits[..end])?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const POST: &[u8] = b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nX-Request-Id: a-1\r\nContent-Length: 19\r\n\r\n{\"max_tokens\": 64 }next";

    #[test]
    fn a_request_is_found_however_much_of_it_is_there() {
        for cut in 0..POST.len() - 4 {
            assert_eq!(find(&POST[..cut]), Found::Part, "cut at {cut}");
        }
        let Found::Whole(request) = find(POST) else { panic!("not found") };
        assert_eq!((request.id, request.max_tokens), (&b"a-1"[..], Some(64)));
        assert_eq!(&POST[request.length..], b"next");
        assert!(request.is_post && !request.close);
    }

    #[test]
    fn what_is_no_request_of_ours_is_refused_and_never_kept_without_bound() {
        let endless = vec![b'a'; MAX_HEAD + 1];
        let head = |line: &str| format!("POST / HTTP/1.1\r\n{line}\r\n\r\n").into_bytes();
        for bad in [
            endless,
            head(&format!("content-length: {}", MAX_BODY + 1)),
            head("content-length: -1"),
            head("content-length: 99999999999999999999"),
            head("transfer-encoding: chunked"),
        ] {
            assert_eq!(find(&bad), Found::Bad);
        }
        let Found::Whole(get) = find(b"GET /v1/models HTTP/1.1\r\nconnection: close\r\n\r\n") else {
            panic!()
        };
        assert!(!get.is_post && get.close && get.id.is_empty() && get.max_tokens.is_none());
    }
}
