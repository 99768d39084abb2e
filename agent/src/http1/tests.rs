//! Every split of a reply gives the same parts, and no bytes make the decoder panic or hold more than its limits.

use proptest::prelude::*;

use super::*;

/// What a reply came to: heads, the body in one piece, how often it ended, bytes left over.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    heads: Vec<(u16, String, bool)>,
    body: Vec<u8>,
    ends: usize,
    left: usize,
    error: Option<HttpError>,
    keeps_alive: bool,
}

fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Seen {
    let (mut decoder, mut seen) = (Decoder::new(), Seen::default());
    for piece in pieces {
        let fed = decoder.feed(piece, |part| {
            match part {
                Part::Head(h) => seen.heads.push((h.status, h.content_type.to_owned(), h.says_close)),
                Part::Body(bytes) => {
                    assert!(!bytes.is_empty() && seen.ends == 0);
                    seen.body.extend_from_slice(bytes);
                }
                Part::End => seen.ends += 1,
            }
            Ok(())
        });
        match fed {
            Ok(left) => seen.left += left,
            Err(error) => {
                seen.error = Some(error);
                break;
            }
        }
        assert!(decoder.held.len() <= MAX_HEAD + piece.len());
    }
    seen.keeps_alive = decoder.keeps_alive();
    seen
}

fn chunked(chunks: &[Vec<u8>], extension: &str, trailer: &str, capital: bool) -> Vec<u8> {
    let mut bytes =
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: Chunked\r\n\r\n".to_vec();
    for chunk in chunks {
        let size = format!("{:x}{extension}\r\n", chunk.len());
        bytes.extend_from_slice(if capital { size.to_uppercase() } else { size }.as_bytes());
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(format!("0{extension}\r\n{trailer}\r\n").as_bytes());
    bytes
}

proptest! {
    #[test]
    fn whatever_the_split_the_parts_are_the_same(
        chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..8),
        extension in prop_oneof![Just(""), Just(";a=b"), Just(" ;q=\"x\"")],
        trailer in prop_oneof![Just(""), Just("x: y\r\n")],
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
        junk in 0usize..3,
        capital: bool,
    ) {
        let mut bytes = chunked(&chunks, extension, trailer, capital);
        bytes.extend(std::iter::repeat_n(b'?', junk));
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
        at.sort_unstable();
        let bounds: Vec<usize> = std::iter::once(0).chain(at).chain([bytes.len()]).collect();
        let seen = read(bounds.windows(2).map(|w| &bytes[w[0]..w[1]]));
        let expected = Seen {
            heads: vec![(200, "text/event-stream".to_owned(), false)],
            body: chunks.concat(),
            ends: 1,
            left: junk,
            error: None,
            keeps_alive: true,
        };
        prop_assert_eq!(seen, expected);
    }

    #[test]
    fn no_bytes_make_it_panic_and_any_split_agrees(
        bytes in proptest::collection::vec(prop_oneof![
            Just(b"HTTP/1.1 200 OK\r\n".to_vec()), Just(b"transfer-encoding: chunked\r\n\r\n".to_vec()),
            Just(b"content-length: 5\r\n".to_vec()), Just(b"\r\n".to_vec()), Just(b"5\r\nhello\r\n".to_vec()),
            Just(b"0\r\n".to_vec()), Just(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec()),
            proptest::collection::vec(any::<u8>(), 0..6),
        ], 0..12),
        size in 1usize..9,
    ) {
        let bytes = bytes.concat();
        let (whole, parts) = (read([&bytes[..]]), read(bytes.chunks(size)));
        // Fed in pieces, an error may be seen only when its line is whole; what came before it is the same.
        prop_assert_eq!((&whole.heads, &whole.body, whole.ends), (&parts.heads, &parts.body, parts.ends));
    }
}

#[test]
fn framings_and_keep_alive() {
    let of = |head: &str, body: &str| read([format!("{head}\r\n\r\n{body}").as_bytes()]);
    let seen = of("HTTP/1.1 200 OK\r\ncontent-length: 2", "hi");
    assert_eq!((seen.body.as_slice(), seen.ends, seen.keeps_alive), (&b"hi"[..], 1, true));
    let seen = of("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: foo, Close", "hi");
    assert_eq!((seen.ends, seen.keeps_alive), (1, false));
    assert!(!of("HTTP/1.0 200 OK\r\ncontent-length: 2", "hi").keeps_alive);
    let seen = of("HTTP/1.1 204 No Content", "");
    assert_eq!((seen.ends, seen.keeps_alive), (1, true));
    let seen = of("HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0", "");
    assert_eq!((seen.heads[0].0, seen.heads.len(), seen.ends), (200, 1, 1));
    let mut decoder = Decoder::new();
    let mut body = Vec::new();
    let until_end = b"HTTP/1.1 200 OK\r\n\r\nsome";
    let fed = decoder.feed::<HttpError>(until_end, |part| {
        if let Part::Body(bytes) = part {
            body.extend_from_slice(bytes);
        }
        Ok(())
    });
    assert_eq!((fed, body.as_slice()), (Ok(0), &b"some"[..]));
    assert!(decoder.ends_here() && !decoder.keeps_alive());
    assert!(!Decoder::new().ends_here(), "no reply at all");
}

#[test]
fn what_breaks_the_framing_is_refused() {
    let of = |text: &str| read([text.as_bytes()]).error;
    let body = |body: &str| of(&format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{body}"));
    for bad in [
        "\r\n",
        ";\r\n",
        " 5\r\nhello",
        "g\r\n",
        "-1\r\n",
        "5\nhello",
        "2\r\nhello",
        "11112222333344445\r\n",
        "5 \nhello",
    ] {
        assert_eq!(body(bad), Some(HttpError::Chunk), "{bad:?}");
    }
    assert_eq!(body(&format!("0\r\n{}", "x: y\r\n".repeat(5_000))), Some(HttpError::Trailers));
    assert_eq!(body(&format!("1;{}", "x".repeat(5_000))), Some(HttpError::Chunk));
    let length = |header: &str| of(&format!("HTTP/1.1 200 OK\r\n{header}\r\n\r\n"));
    assert_eq!(length("content-length: -1"), Some(HttpError::Length));
    assert_eq!(length("content-length: 5\r\ncontent-length: 6"), Some(HttpError::Length));
    assert_eq!(length("content-length: 5\r\ncontent-length: 5"), None);
    assert_eq!(length("transfer-encoding: gzip"), Some(HttpError::Encoding));
    let endless = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(2 * MAX_HEAD));
    assert_eq!(read(endless.as_bytes().chunks(1000)).error, Some(HttpError::HeadTooLarge));
    assert!(matches!(of("SSH-2.0-OpenSSH_9.6\r\n\r\n"), Some(HttpError::Head(_))));
}
