//! One line of stamps.

use serde::Deserialize;
use serde_json::Number;
use tailcliff_proto::v1;

use crate::inside::otlp::cut;

/// A number above it is of nanoseconds, from 1973 on; today's microseconds lie far below.
const LEAST_NS: u64 = 100_000_000_000_000_000;
/// Seconds beyond the year 2286 are no seconds, but milli- or microseconds.
const MOST_S: f64 = 1e10;

#[derive(Deserialize)]
struct Line {
    request_id: String,
    enqueue: Option<Number>,
    dequeue: Option<Number>,
    infer_start: Option<Number>,
    first_token: Option<Number>,
    last_token: Option<Number>,
}

/// `None` for a line that is none: a stamp that makes no sense leaves nothing of its line to be believed.
pub(super) fn read(text: &[u8], read_raw_ns: i64) -> Option<v1::ServerStamps> {
    let line: Line = serde_json::from_slice(text).ok().filter(|line: &Line| !line.request_id.is_empty())?;
    let stamp = |of: Option<Number>| of.map_or(Some(None), |of| unix_ns(&of).map(Some));
    Some(v1::ServerStamps {
        request_id: cut(&line.request_id).to_owned(),
        enqueue_unix_ns: stamp(line.enqueue)?,
        dequeue_unix_ns: stamp(line.dequeue)?,
        infer_start_unix_ns: stamp(line.infer_start)?,
        first_token_unix_ns: stamp(line.first_token)?,
        last_token_unix_ns: stamp(line.last_token)?,
        read_raw_ns,
    })
}

fn unix_ns(number: &Number) -> Option<u64> {
    if let Some(ns) = number.as_u64().filter(|&ns| ns > LEAST_NS) {
        return Some(ns);
    }
    let seconds = number.as_f64()?;
    if seconds > LEAST_NS as f64 {
        // Nanoseconds, written as 1.7e18.
        return (seconds < u64::MAX as f64).then_some(seconds as u64);
    }
    if !(0.0..MOST_S).contains(&seconds) {
        return None;
    }
    // The fraction by itself, which loses nothing that the double holds.
    Some(seconds.trunc() as u64 * 1_000_000_000 + (seconds.fract() * 1e9).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enqueued(text: &str) -> Option<u64> {
        let line = format!("{{\"request_id\":\"a\",\"enqueue\":{text}}}");
        read(line.as_bytes(), 5).and_then(|stamps| stamps.enqueue_unix_ns)
    }

    #[test]
    fn a_whole_line_is_read_and_what_it_lacks_is_absent() {
        let text = br#"{"request_id":"8c-0-1-2","enqueue":1795336038.25,"infer_start":null,"more":[{}],"last_token":1795336039889845248}"#;
        let stamps = read(text, 5).unwrap();
        assert_eq!(stamps.request_id, "8c-0-1-2");
        assert_eq!(stamps.enqueue_unix_ns, Some(1_795_336_038_250_000_000));
        assert_eq!(stamps.last_token_unix_ns, Some(1_795_336_039_889_845_248));
        assert_eq!((stamps.dequeue_unix_ns, stamps.infer_start_unix_ns, stamps.read_raw_ns), (None, None, 5));
    }

    #[test]
    fn seconds_are_as_exact_as_a_double_and_nanoseconds_are_exact() {
        // What Python's time.time() gives, as it prints it: within half of the double's step, 0.12 µs.
        let ns = enqueued("1795336038.8898452").unwrap();
        assert!(ns.abs_diff(1_795_336_038_889_845_200) < 120, "{ns}");
        assert_eq!(enqueued("1795336038"), Some(1_795_336_038_000_000_000));
        assert_eq!(enqueued("1795336038889845249"), Some(1_795_336_038_889_845_249));
        assert_eq!(enqueued("1.795336038e18"), Some(1_795_336_038_000_000_000));
        assert_eq!(enqueued("1795336038.9999999999"), Some(1_795_336_039_000_000_000));
        assert_eq!(enqueued("0"), Some(0));
    }

    #[test]
    fn what_is_no_line_is_none() {
        let other_units = ["1795336038889", "1795336038889845", "1.795336038889845e15"];
        for bad in other_units.into_iter().chain(["-1", "1e300", "\"soon\"", "true", "1e11"]) {
            assert_eq!(enqueued(bad), None, "{bad}");
        }
        let lines =
            ["", "{}", "7", "{\"request_id\":7}", "{\"request_id\":\"\"}", "{\"request_id\":\"a\"", "\u{0}"];
        for bad in lines {
            assert!(read(bad.as_bytes(), 0).is_none(), "{bad:?}");
        }
        assert!(read(b"{\"request_id\":\"a\",\"enqueue\":1,\"dequeue\":-1}", 0).is_none());
        assert!(read(&[0xff; 9], 0).is_none());
    }
}
