//! Reads Prometheus' text exposition format 0.0.4 and OpenMetrics, as far as a scraper needs them: names, labels, values.
//! Times and exemplars are passed over. Nothing is copied but labels with escapes in them; what is no sample is counted.

use std::borrow::Cow;

/// Lines that are looked at; an endpoint with more tells of more than one server.
const MOST_LINES: usize = 200_000;
/// A longer line is none of those that matter, bytes.
const LONGEST: usize = 16 << 10;
/// Labels of one series that are looked at.
const MOST_LABELS: usize = 256;

/// One sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Line<'a> {
    /// Name and labels as written.
    pub(crate) series: &'a str,
    pub(crate) name: &'a str,
    /// Between the braces.
    labels: &'a str,
    /// May be no number, or infinite.
    pub(crate) value: f64,
}

/// Samples of a text, and `None` for each line that is neither one nor a comment.
pub(crate) fn lines(text: &str) -> impl Iterator<Item = Option<Line<'_>>> {
    let lines = text.split('\n').take(MOST_LINES).map(|line| line.trim_matches([' ', '\t', '\r']));
    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(line)
}

fn line(text: &str) -> Option<Line<'_>> {
    if text.len() > LONGEST {
        return None;
    }
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let (name, rest) = text.split_at(text.find(|c| !is_part(c)).unwrap_or(text.len()));
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let rest = rest.trim_start();
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => {
            let end = closing(rest)?;
            (&rest[..end], &rest[end + 1..])
        }
        None => ("", rest),
    };
    let series = text[..text.len() - rest.len()].trim_end();
    let mut words = rest.split_ascii_whitespace();
    let value = words.next()?.parse().ok()?;
    // What follows is a time, an exemplar, or nothing.
    let is_whole = words.next().is_none_or(|word| word.starts_with('#') || word.parse::<f64>().is_ok());
    is_whole.then_some(Line { series, name, labels, value })
}

/// Where the brace is that ends the labels: one within quotes does not.
fn closing(text: &str) -> Option<usize> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_quoted => is_escaped = true,
            b'"' => is_quoted = !is_quoted,
            b'}' if !is_quoted => return Some(at),
            _ => {}
        }
    }
    None
}

impl<'a> Line<'a> {
    /// The value of a label.
    pub(crate) fn label(&self, name: &str) -> Option<Cow<'a, str>> {
        self.labels().find(|(of, _)| *of == name).map(|(_, value)| value)
    }

    /// Labels in the order in which they are written; they end at the first that is none.
    pub(crate) fn labels(&self) -> impl Iterator<Item = (&'a str, Cow<'a, str>)> + use<'a> {
        let mut rest = self.labels;
        std::iter::from_fn(move || {
            let (name, value, after) = label(rest)?;
            rest = after;
            Some((name, value))
        })
        .take(MOST_LABELS)
    }
}

fn label(text: &str) -> Option<(&str, Cow<'_, str>, &str)> {
    let (name, rest) = text.split_once('=')?;
    let name = name.trim_matches([' ', '\t', ',']);
    let rest = rest.trim_start().strip_prefix('"')?;
    let mut is_escaped = false;
    for (at, byte) in rest.bytes().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => return Some((name, unescaped(&rest[..at]), &rest[at + 1..])),
            _ => {}
        }
    }
    None
}

fn unescaped(text: &str) -> Cow<'_, str> {
    if !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    let (mut out, mut chars) = (String::with_capacity(text.len()), text.chars());
    while let Some(c) = chars.next() {
        match (c, if c == '\\' { chars.next() } else { None }) {
            (_, Some('n')) => out.push('\n'),
            (_, Some(escaped @ ('"' | '\\'))) => out.push(escaped),
            // Not one of the three escapes: as it stands.
            (c, other) => out.extend([Some(c), other].into_iter().flatten()),
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(text: &str) -> Option<Line<'_>> {
        lines(text).next().flatten()
    }

    #[test]
    fn samples_are_read_with_and_without_labels_times_and_exemplars() {
        let of = |text| one(text).map(|line: Line<'_>| (line.name.to_owned(), line.value));
        let is = |name: &str, value| Some((name.to_owned(), value));
        assert_eq!(of("a 1"), is("a", 1.0));
        assert_eq!(of("  a:b_total{}\t2.5e3 1395066363000\r"), is("a:b_total", 2500.0));
        assert_eq!(of("a {x=\"1\"} 3"), is("a", 3.0));
        assert_eq!(
            of("a_bucket{le=\"+Inf\"} 4 # {trace_id=\"KOO5S4\"} 0.67 1520879607.789"),
            is("a_bucket", 4.0)
        );
        assert_eq!(of("a{x=\"}# \\\" \"} +Inf"), is("a", f64::INFINITY));
        assert!(of("a NaN").is_some_and(|(_, value)| value.is_nan()));
        assert_eq!(one("a{x=\"1\", y=\"2\"}  3 4").map(|line| line.series), Some("a{x=\"1\", y=\"2\"}"));
    }

    #[test]
    fn comments_and_blank_lines_are_none_and_others_are_bad_lines() {
        assert_eq!(lines("# HELP a b\n\n#c\n  # EOF\n").count(), 0);
        for bad in
            ["a", "a{", "a{x=\"1} 2", "1a 2", "{x=\"1\"} 2", "a b", "a 1 b", "<html>", "a{}", "\u{e9} 1"]
        {
            assert_eq!(lines(bad).collect::<Vec<_>>(), [None], "{bad}");
        }
        assert_eq!(lines(&format!("a{{x=\"{}\"}} 1", "y".repeat(LONGEST))).collect::<Vec<_>>(), [None]);
    }

    #[test]
    fn labels_are_read_with_their_escapes() {
        let line = one(r#"a{b="x\ny\\z\"\q", c = "" ,le="0.1",} 1"#).unwrap();
        let labels: Vec<_> = line.labels().map(|(name, value)| (name, value.into_owned())).collect();
        let is = |name, value: &str| (name, value.to_owned());
        assert_eq!(labels, [is("b", "x\ny\\z\"\\q"), is("c", ""), is("le", "0.1")]);
        assert!(line.label("le").is_some_and(|le| le == "0.1") && line.label("d").is_none());
    }

    proptest! {
        #[test]
        fn whatever_is_said_is_read_without_a_panic(text in "(?s).{0,400}") {
            for line in lines(&text).flatten() {
                prop_assert!(line.labels().count() <= MOST_LABELS && text.contains(line.series));
            }
        }

        #[test]
        fn so_is_what_looks_almost_right(text in r#"(a_bucket|b|#|\{|\}|,|=|"|\\|le| |1e3|-|NaN|\n|é){0,60}"#) {
            for line in lines(&text).flatten() {
                prop_assert!(line.labels().count() <= MOST_LABELS);
            }
        }

        #[test]
        fn what_is_written_is_read_again(value in "[^\u{0}\r]{0,20}", number in -1e12f64..1e12) {
            let escaped = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let text = format!("a{{x=\"{escaped}\",y=\"1\"}} {number}");
            let line = one(&text).unwrap();
            prop_assert_eq!(line.label("x").map(Cow::into_owned), Some(value));
            prop_assert_eq!((line.label("y").map(Cow::into_owned), line.value), (Some("1".to_owned()), number));
        }
    }
}
