//! The W3C `traceparent` that a request came with (<https://www.w3.org/TR/trace-context/>).

/// Whose child a request's span is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parent {
    pub(crate) trace_id: u128,
    pub(crate) span_id: u64,
    pub(crate) sampled: bool,
}

impl Parent {
    /// `None` where the header is not valid; the request then begins a trace of its own.
    pub(crate) fn parse(header: &str) -> Option<Self> {
        let mut parts = header.trim().split('-');
        let [version, trace, span, flags] = [parts.next()?, parts.next()?, parts.next()?, parts.next()?];
        let version = hex(version, 2)?;
        if version == 0xff || (version == 0 && parts.next().is_some()) {
            return None;
        }
        let trace_id = hex(trace, 32).filter(|id| *id != 0)?;
        let span_id = hex(span, 16).and_then(|id| u64::try_from(id).ok()).filter(|id| *id != 0)?;
        Some(Self { trace_id, span_id, sampled: hex(flags, 2)? & 1 == 1 })
    }
}

/// So many digits, and none of them a capital.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let right = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    (text.len() == digits && text.bytes().all(right)).then(|| u128::from_str_radix(text, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    #[test]
    fn reads_what_the_recommendation_allows() {
        let parent = Parent::parse(&format!("00-{TRACE}-{SPAN}-01")).unwrap();
        assert_eq!(
            (parent.trace_id, parent.span_id),
            (0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c, 0xb7ad_6b71_6920_3331)
        );
        assert!(parent.sampled && !Parent::parse(&format!("00-{TRACE}-{SPAN}-00")).unwrap().sampled);
        assert!(Parent::parse(&format!("cc-{TRACE}-{SPAN}-01-more")).is_some(), "a version to come");
    }

    #[test]
    fn refuses_the_rest() {
        let zero = format!("00-{}-{SPAN}-01", "0".repeat(32));
        let capital = format!("00-{}-{SPAN}-01", TRACE.to_uppercase());
        let [ff, long] = [format!("ff-{TRACE}-{SPAN}-01"), format!("00-{TRACE}-{SPAN}-01-more")];
        for bad in [
            "",
            "00",
            &zero,
            &capital,
            &ff,
            &long,
            &format!("00-{TRACE}-+7ad6b7169203331-01"),
            &format!("00-{TRACE}é-{SPAN}-01"),
        ] {
            assert_eq!(Parent::parse(bad), None, "{bad}");
        }
    }
}
