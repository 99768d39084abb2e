//! The page around the data. What servers and users wrote reaches it as JSON in a data block only, with every `<` escaped,
//! so that no text ends the block; and the page's policy lets its own two scripts run and nothing be fetched.

use std::io::{self, Write};

use serde_json::Value;

const TEMPLATE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!(concat!(env!("OUT_DIR"), "/page.js"));
/// The plotting library, gzip in base64.
const LIBRARY: &str = include_str!(concat!(env!("OUT_DIR"), "/plotly.b64"));
/// Hashes of both scripts.
const HASHES: &str = include_str!(concat!(env!("OUT_DIR"), "/scripts.csp"));

pub(super) fn write(out: &mut impl Write, title: &str, data: &Value) -> io::Result<()> {
    for (at, part) in TEMPLATE.split("@@").enumerate() {
        match part {
            "TITLE" if at % 2 == 1 => out.write_all(text(title).as_bytes())?,
            "HASHES" if at % 2 == 1 => out.write_all(HASHES.as_bytes())?,
            "STYLE" if at % 2 == 1 => out.write_all(STYLE.as_bytes())?,
            "LIBRARY" if at % 2 == 1 => out.write_all(LIBRARY.as_bytes())?,
            "SCRIPT" if at % 2 == 1 => out.write_all(SCRIPT.as_bytes())?,
            "DATA" if at % 2 == 1 => serde_json::to_writer(NoTags(&mut *out), data)?,
            literal => out.write_all(literal.as_bytes())?,
        }
    }
    Ok(())
}

/// Text for HTML.
fn text(raw: &str) -> String {
    raw.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// In JSON a `<` stands in strings only, where it may be written as an escape.
struct NoTags<'a, W>(&'a mut W);

impl<W: Write> Write for NoTags<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for (at, part) in bytes.split(|byte| *byte == b'<').enumerate() {
            if at > 0 {
                self.0.write_all(b"\\u003c")?;
            }
            self.0.write_all(part)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
