//! HTTP/1.1 as a server of a test reads it.

use std::io::Read;
use std::net::TcpStream;

/// The body of the next request, empty when it has none; `None` when the peer is gone. `bytes` holds what was read beyond.
pub(crate) fn next_body(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<Vec<u8>> {
    let mut chunk = [0; 65_536];
    loop {
        let text = String::from_utf8_lossy(bytes).to_ascii_lowercase();
        if let Some(end) = text.find("\r\n\r\n").map(|at| at + 4) {
            let length =
                text[..end].lines().find_map(|l| l.strip_prefix("content-length:")?.trim().parse().ok());
            let whole = end + length.unwrap_or(0);
            if bytes.len() >= whole {
                let request: Vec<u8> = bytes.drain(..whole).collect();
                return Some(request[end..].to_vec());
            }
        }
        match stream.read(&mut chunk) {
            Ok(n @ 1..) => bytes.extend_from_slice(&chunk[..n]),
            _ => return None,
        }
    }
}
