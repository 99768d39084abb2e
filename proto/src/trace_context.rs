//! What names a request to a server's tracing: a trace id that follows from the request's own id, so that agent and
//! coordinator agree on it without a word, and the header that carries it.

/// Trace and span id, never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// 16 bytes, the most significant first.
    pub trace_id: u128,
    /// 8 bytes: of the client's span, the parent of the server's.
    pub span_id: u64,
}

/// Length of a `traceparent`.
pub const TRACEPARENT_LEN: usize = 55;

impl TraceContext {
    /// Of a request, by its `x-request-id`: FNV-1a of 128 bits
    /// (<https://datatracker.ietf.org/doc/html/draft-eastlake-fnv>), which is quick and, unlike a random number, told twice.
    pub fn of(request_id: &str) -> Self {
        const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
        const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
        let hash = request_id.bytes().fold(BASIS, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME));
        let span_id = (hash as u64 ^ (hash >> 64) as u64).max(1);
        Self { trace_id: hash.max(1), span_id }
    }

    /// The value of a W3C `traceparent` header (<https://www.w3.org/TR/trace-context/>), sampled: a server whose sampler goes
    /// by its parent keeps the span.
    pub fn traceparent(self) -> [u8; TRACEPARENT_LEN] {
        let mut header = *b"00-00000000000000000000000000000000-0000000000000000-01";
        hex(&self.trace_id.to_be_bytes(), &mut header[3..35]);
        hex(&self.span_id.to_be_bytes(), &mut header[36..52]);
        header
    }
}

fn hex(bytes: &[u8], to: &mut [u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (byte, pair) in bytes.iter().zip(to.chunks_exact_mut(2)) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_published_one() {
        // Test vectors of the draft for FNV-1a, 128 bits.
        assert_eq!(TraceContext::of("").trace_id, 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d);
        assert_eq!(TraceContext::of("a").trace_id, 0xd228_cb69_6f1a_8caf_7891_2b70_4e4a_8964);
        assert_eq!(TraceContext::of("foobar").trace_id, 0x343e_1662_793c_64bf_6f0d_3597_ba44_6f18);
    }

    #[test]
    fn the_header_is_as_w3c_has_it() {
        let context = TraceContext {
            trace_id: 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c,
            span_id: 0xb7ad_6b71_6920_3331,
        };
        let header = context.traceparent();
        // The example of the recommendation.
        assert_eq!(&header, b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        let small = TraceContext { trace_id: 1, span_id: 2 }.traceparent();
        assert_eq!(&small, b"00-00000000000000000000000000000001-0000000000000002-01");
    }

    #[test]
    fn requests_have_ids_of_their_own() {
        let mut seen = std::collections::HashSet::new();
        for request in 0..20_000 {
            let context = TraceContext::of(&format!("8c3f2a1b99e0d771-0-{}-{request}", request % 64));
            assert!(context.span_id != 0 && seen.insert(context.trace_id));
        }
    }
}
